"""Contrast within a batch: each query must find its own key among everybody's."""

import torch as th
from torch.nn import functional as F


def infonce(queries: th.Tensor, keys: th.Tensor) -> th.Tensor:
    """
    Take the cross-entropy of finding each query's key by dot product (van den Oord et al. 2018, arXiv 1807.03748, eq. 4).

    :param queries: (..., B, D); the one with index i belongs to the key with index i
    :param keys: (..., B, D); those of the other indices are its negatives
    :return: Mean over queries and leading dimensions, in nats
    :raises ValueError: if there is no negative: a batch of one
    """
    if queries.shape[-2] < 2:
        raise ValueError("InfoNCE needs negatives: give a batch of at least 2.")
    logits = queries @ keys.transpose(-1, -2)
    own = th.arange(logits.shape[-1], device=logits.device).expand(logits.shape[:-1])
    return F.cross_entropy(logits.flatten(0, -2), own.flatten())
