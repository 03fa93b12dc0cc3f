"""Contrast within a batch: each query must find its own key among everybody's."""

from collections.abc import Iterable

import torch as th
from torch.nn import functional as F

# Queries and keys of the same shape (..., B, D).
Pairs = list[tuple[th.Tensor, th.Tensor]]


def infonce(queries: th.Tensor, keys: th.Tensor) -> th.Tensor:
    """
    Take the cross-entropy of finding each query's key by dot product (van den Oord et al. 2018, arXiv 1807.03748, eq. 4).

    :param queries: (..., B, D); the one with index i belongs to the key with index i
    :param keys: (..., B, D); those of the other indices are its negatives
    :return: Mean over queries and leading dimensions, in nats
    :raises ValueError: if there is no negative: a batch of one
    """
    logits, own = _logits_and_own(queries, keys)
    return F.cross_entropy(logits, own)


@th.no_grad()
def contrastive_accuracy(queries: th.Tensor, keys: th.Tensor) -> th.Tensor:
    """
    Take the share of queries whose own key scores highest.

    :param queries: (..., B, D)
    :param keys: (..., B, D)
    :return: Between 0 and 1; chance is 1 / B
    :raises ValueError: if there is no negative: a batch of one
    """
    logits, own = _logits_and_own(queries, keys)
    return (logits.argmax(1) == own).float().mean()


def infonce_sum(pairs: Iterable[tuple[th.Tensor, th.Tensor]]) -> th.Tensor:
    """
    :param pairs: Queries and keys of each term
    :return: InfoNCE summed over the terms, in nats
    """
    return th.stack([infonce(*pair) for pair in pairs]).sum()


def _logits_and_own(queries: th.Tensor, keys: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    if queries.shape[-2] < 2:
        raise ValueError("InfoNCE needs negatives: give a batch of at least 2.")
    logits = queries @ keys.transpose(-1, -2)
    own = th.arange(logits.shape[-1], device=logits.device).expand(logits.shape[:-1])
    return logits.flatten(0, -2), own.flatten()
