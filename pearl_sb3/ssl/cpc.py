"""CPC: what is to come, from what has been."""

from collections.abc import Sequence

import torch as th
from torch import nn

from pearl_sb3.ssl.infonce import infonce


def cpc(contexts: th.Tensor, embeddings: th.Tensor, heads: Sequence[nn.Module], horizons: Sequence[int]) -> th.Tensor:
    """
    Predict embeddings some frames ahead among those of all frames of the batch, other moments of the same sequence included.

    Contrastive Predictive Coding (van den Oord et al. 2018, arXiv 1807.03748), with a head per horizon, summed over horizons as
    in AtariARI (Anand et al. 2019, arXiv 1906.08226).

    :param contexts: Summaries of each sequence up to frame t, (B, T, H)
    :param embeddings: (B, T, D)
    :param heads: For each horizon (..., H) → (..., D)
    :param horizons: Frames ahead, from 1 to T - 1
    :return: Loss, in nats, summed over horizons
    :raises ValueError: if a horizon does not fit into the sequences
    """
    length = embeddings.shape[1]
    if not all(0 < ahead < length for ahead in horizons):
        raise ValueError(f"horizons={list(horizons)}: sequences of {length} frames allow 1 to {length - 1}.")
    losses = [
        infonce(head(contexts[:, : length - ahead]).flatten(0, 1), embeddings[:, ahead:].flatten(0, 1))
        for head, ahead in zip(heads, horizons, strict=True)
    ]
    return th.stack(losses).sum()
