"""ST-DIM and its parts: what two frames in a row share, whole and place by place."""

import torch as th
from torch import nn

from pearl_sb3.ssl.infonce import Pairs, infonce_sum


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
    return infonce_sum(st_dim_pairs(global_now, local_now, local_before, global_head, local_head))


def st_dim_pairs(
    global_now: th.Tensor, local_now: th.Tensor, local_before: th.Tensor, global_head: nn.Module, local_head: nn.Module
) -> Pairs:
    """
    Give the queries and keys that :func:`st_dim` contrasts.

    :param global_now: (B, D)
    :param local_now: (B, P, C)
    :param local_before: (B, P, C)
    :param global_head: (..., D) → (..., C)
    :param local_head: (..., C) → (..., C)
    :return: Two terms, (P, B, C)
    """
    (whole,) = global_local_pairs(global_now, local_before, global_head)
    return [whole, (local_head(local_now).transpose(0, 1), whole[1])]


def global_local_pairs(whole: th.Tensor, local: th.Tensor, head: nn.Module) -> Pairs:
    """
    Contrast a frame as a whole with every place of a frame: of its own, this is DIM in space alone.

    :param whole: Embeddings, (B, D)
    :param local: Local features, (B, P, C)
    :param head: (..., D) → (..., C)
    :return: One term, (P, B, C)
    """
    keys = local.transpose(0, 1)
    return [(head(whole).expand(len(keys), -1, -1), keys)]


def global_global_pairs(now: th.Tensor, before: th.Tensor, head: nn.Module) -> Pairs:
    """
    Contrast a frame as a whole with the frame before it: DIM in time alone (the ablation Global-T-DIM of ST-DIM's paper).

    :param now: Embeddings of frames t, (B, D)
    :param before: Embeddings of frames t - 1, (B, D)
    :param head: (..., D) → (..., D)
    :return: One term, (B, D)
    """
    return [(head(now), before)]
