"""Tokens to features without attention: the two plain baselines."""

import torch as th
from torch import nn


class _PlainReadout(nn.Module):
    """
    One layer on tokens laid out as a vector.

    :param n_inputs: Length of that vector
    :param features_dim: Size of the features
    """

    def __init__(self, n_inputs: int, features_dim: int) -> None:
        super().__init__()
        self.linear = nn.Sequential(nn.Linear(n_inputs, features_dim), nn.ReLU())

    def maps(self, tokens: th.Tensor, bias: th.Tensor | None = None) -> th.Tensor:
        """
        :raises ValueError: always; a plain read-out attends to nothing in particular
        """
        raise ValueError(f'{type(self).__name__} has no attention maps. Use attention="spatiotemporal".')


class MeanTokens(_PlainReadout):
    """
    Mean over the tokens of each frame, frames side by side: knows what is there, not where.

    :param token_shape: (N, D) of a frame's tokens
    :param grid: Rows and columns of the token grid (unused)
    :param n_frames: Frames in a stack (k)
    :param features_dim: Size of the features
    """

    def __init__(self, token_shape: tuple[int, int], grid: tuple[int, int], n_frames: int, features_dim: int) -> None:
        super().__init__(n_frames * token_shape[1], features_dim)

    def forward(self, tokens: th.Tensor, bias: th.Tensor | None = None) -> th.Tensor:
        """
        :param tokens: (B, k, N, D)
        :param bias: Not used
        :return: (B, features_dim)
        """
        return self.linear(tokens.float().mean(2).flatten(1))


class ConcatTokens(_PlainReadout):
    """
    All tokens of all frames side by side: one weight per feature and token value, 6 million for the default encoder.

    :param token_shape: (N, D) of a frame's tokens
    :param grid: Rows and columns of the token grid (unused)
    :param n_frames: Frames in a stack (k)
    :param features_dim: Size of the features
    """

    def __init__(self, token_shape: tuple[int, int], grid: tuple[int, int], n_frames: int, features_dim: int) -> None:
        super().__init__(n_frames * token_shape[0] * token_shape[1], features_dim)

    def forward(self, tokens: th.Tensor, bias: th.Tensor | None = None) -> th.Tensor:
        """
        :param tokens: (B, k, N, D)
        :param bias: Not used
        :return: (B, features_dim)
        """
        return self.linear(tokens.float().flatten(1))
