"""CPC: what is to come, from what has been."""

from collections.abc import Sequence

import torch as th
from torch import nn

from pearl_sb3.ssl.infonce import Pairs, infonce_sum


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
    return infonce_sum(cpc_pairs(contexts, embeddings, heads, horizons))


def cpc_pairs(contexts: th.Tensor, embeddings: th.Tensor, heads: Sequence[nn.Module], horizons: Sequence[int]) -> Pairs:
    """
    Give the queries and keys that :func:`cpc` contrasts.

    :param contexts: (B, T, H)
    :param embeddings: (B, T, D)
    :param heads: For each horizon (..., H) → (..., D)
    :param horizons: Frames ahead, from 1 to T - 1
    :return: A term per horizon h, (B * (T - h), D)
    :raises ValueError: if a horizon does not fit into the sequences
    """
    check_horizons(horizons, embeddings.shape[1])
    return [
        (head(contexts[:, :-ahead]).flatten(0, 1), embeddings[:, ahead:].flatten(0, 1))
        for head, ahead in zip(heads, horizons, strict=True)
    ]


def check_horizons(horizons: Sequence[int], length: int) -> None:
    """
    :param horizons: Frames ahead
    :param length: Frames in a sequence (T)
    :raises ValueError: if there is none, or one does not fit into the sequence
    """
    if not horizons or not all(0 < ahead < length for ahead in horizons):
        raise ValueError(f"horizons={list(horizons)}: sequences of {length} frames allow 1 to {length - 1}.")
