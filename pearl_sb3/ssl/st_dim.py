"""ST-DIM: what two frames in a row share, place by place."""

import torch as th
from torch import nn

from pearl_sb3.ssl.infonce import infonce


def st_dim(
    global_now: th.Tensor, local_now: th.Tensor, local_before: th.Tensor, global_head: nn.Module, local_head: nn.Module
) -> th.Tensor:
    """
    Contrast a frame, whole and place by place, with every place of the frame before it.

    The sum of the global-local and the local-local objective of ST-DIM (Anand et al. 2019, arXiv 1906.08226, section 3);
    negatives are the other samples' same place.

    :param global_now: Embeddings of frames t, (B, D)
    :param local_now: Their local features, (B, P, C)
    :param local_before: Local features of frames t - 1, (B, P, C)
    :param global_head: (..., D) → (..., C)
    :param local_head: (..., C) → (..., C)
    :return: Loss, in nats; each term is the mean over samples and places
    """
    keys = local_before.transpose(0, 1)
    queries = global_head(global_now).expand(len(keys), -1, -1)
    return infonce(queries, keys) + infonce(local_head(local_now).transpose(0, 1), keys)
