"""What to look at: priors, and the attention that turns the tokens of k frames into one vector."""

from collections.abc import Callable

import torch as th

from pearl_sb3.attention.pooling import ConcatTokens, MeanTokens
from pearl_sb3.attention.priors import PRIORS
from pearl_sb3.attention.spatiotemporal import SpatioTemporalAttention

ATTENTIONS = {"spatiotemporal": SpatioTemporalAttention, "mean": MeanTokens, "concat": ConcatTokens}

__all__ = ["ATTENTIONS", "PRIORS", "ConcatTokens", "MeanTokens", "SpatioTemporalAttention", "make_attention", "make_prior"]


def make_attention(
    name: str, token_shape: tuple[int, int], grid: tuple[int, int], n_frames: int, features_dim: int
) -> SpatioTemporalAttention | MeanTokens | ConcatTokens:
    """
    Make an attention by name.

    :param name: ``"spatiotemporal"``, ``"mean"`` or ``"concat"``
    :param token_shape: (N, D) of a frame's tokens
    :param grid: Rows and columns of the token grid
    :param n_frames: Frames in a stack (k)
    :param features_dim: Size of the features
    :return: A module from tokens (B, k, N, D) and an optional bias (B, k, N) to features (B, features_dim)
    :raises ValueError: for another name
    """
    if name not in ATTENTIONS:
        raise ValueError(f"attention={name!r}: choose one of {', '.join(map(repr, ATTENTIONS))}.")
    return ATTENTIONS[name](token_shape, grid, n_frames, features_dim)


def make_prior(name: str | None, n_frames: int, attention: str) -> Callable[[th.Tensor, tuple[int, int]], th.Tensor] | None:
    """
    Make a prior by name.

    :param name: None or ``"difference"``
    :param n_frames: Frames in a stack (k)
    :param attention: Name of the attention that is to be biased
    :return: A function from frames (B, k, C, H, W) and the token grid to a bias (B, k, N), or None
    :raises ValueError: for another name, a single frame, or an attention without logits
    """
    if name is None:
        return None
    if name not in PRIORS:
        raise ValueError(f"prior={name!r}: choose None or one of {', '.join(map(repr, PRIORS))}.")
    if n_frames < 2:
        raise ValueError(f"prior={name!r} compares frames and needs n_frames of at least 2, got {n_frames}.")
    if attention != "spatiotemporal":
        raise ValueError(f"prior={name!r} biases attention logits, and attention={attention!r} has none. Use prior=None.")
    return PRIORS[name]
