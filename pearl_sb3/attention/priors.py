"""Where to look before anything is learned: one value per token, added to the attention's logits."""

import torch as th
from torch.nn import functional as F


def frame_difference(frames: th.Tensor, grid: tuple[int, int]) -> th.Tensor:
    """
    How much each patch changed since the frame before (PEARL, section "Image difference", looking back in time only).

    The mean absolute difference of a patch's pixels, divided by the largest of its frame, so that a ball that moves alone
    stands out as much as a whole scene that scrolls. The oldest frame has nothing before it and the summary token no place:
    both get 0.

    :param frames: (B, k, C, H, W) uint8, oldest first
    :param grid: Rows and columns of the token grid
    :return: (B, k, 1 + rows * columns), fp32, in [0, 1]
    """
    newer, older = frames[:, 1:], frames[:, :-1]
    # uint8 differences wrap around, their two one-sided halves do not.
    change = (th.maximum(newer, older) - th.minimum(newer, older)).float().mean(2)
    pooled = F.adaptive_avg_pool2d(change, grid).flatten(2)
    # Less than one gray level in a patch of 144 pixels is nothing: keeps a still screen at 0 instead of dividing by it.
    pooled = pooled / pooled.amax(2, keepdim=True).clamp(min=1e-2)
    return F.pad(pooled, (1, 0, 1, 0))


PRIORS = {"difference": frame_difference}
