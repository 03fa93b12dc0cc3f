"""SB3's image observations to uint8 frames, with a clear error for everything that is not a stack of images."""

import numpy as np
import torch as th
from gymnasium import spaces

# A float image in [0, 1] that came from uint8 pixels is a multiple of 1/255 up to rounding.
PIXEL_TOLERANCE = 0.01
# Observations of a batch that are checked to be pixels.
CHECKED = 8


class StackLayout:
    """
    How a stack of frames lies in an observation.

    :param space: Observation space: (k*C, H, W) or (H, W, k*C), or (k, H, W, C) as from an unstacked image env
    :param n_frames: Frames in a stack (k)
    :raises ValueError: if the space is not a stack of that many gray or RGB images
    """

    def __init__(self, space: spaces.Space, n_frames: int) -> None:
        if not isinstance(space, spaces.Box) or len(space.shape) not in (3, 4):
            raise ValueError(
                f"PearlExtractor needs images of shape (k*C, H, W) or (H, W, k*C), got the observation space {space}. For a Dict "
                "with images use PearlCombinedExtractor; for vectors this package has nothing to offer."
            )
        low, high = float(np.min(space.low)), float(np.max(space.high))
        if low < 0 or high not in (1.0, 255.0):
            raise ValueError(
                f"PearlExtractor needs pixels in [0, 255] or [0, 1], got bounds [{low}, {high}]. Do not normalise images "
                "(VecNormalize(norm_obs=False)): the encoder does it as it was trained."
            )
        if n_frames < 1:
            raise ValueError(f"n_frames={n_frames}: a stack has at least one frame.")
        self.n_frames = n_frames
        self.shape = space.shape
        # Factor that makes pixels of what arrives; found with the first observations that tell.
        self._scale: int | None = None
        self.stacked_first = len(space.shape) == 4
        if self.stacked_first:
            if space.shape[0] != n_frames or space.shape[-1] not in (1, 3):
                raise ValueError(f"Expected a stack of shape ({n_frames}, H, W, 1 or 3), got {space.shape}.")
            return
        allowed = (n_frames, 3 * n_frames)
        self.channels_first = space.shape[0] in allowed and not (
            space.shape[-1] in allowed and space.shape[0] > space.shape[-1]
        )
        channels = space.shape[0] if self.channels_first else space.shape[-1]
        if channels not in allowed:
            channels = min(space.shape)
            divisors = [k for k in range(1, channels + 1) if channels in (k, 3 * k)]
            raise ValueError(
                f"{channels} channels are not a stack of n_frames={n_frames} gray ({n_frames} channels) or RGB ({3 * n_frames} "
                f"channels) images in {space.shape}. Set n_frames to {' or '.join(map(str, divisors))}, or stack the frames: "
                f"VecFrameStack(env, {n_frames})."
            )

    def frames(self, observations: th.Tensor) -> th.Tensor:
        """
        Take stacks apart.

        :param observations: (B, *space.shape), uint8, or what SB3 makes of it: float in [0, 255] or [0, 1]
        :return: (B, k, C, H, W), uint8, oldest frame first
        :raises ValueError: for another shape, or floats that are not pixels
        """
        if observations.shape[1:] != self.shape:
            raise ValueError(
                f"Expected observations of shape (B, {', '.join(map(str, self.shape))}), got {tuple(observations.shape)}."
            )
        pixels = self._to_pixels(observations)
        if self.stacked_first:
            return pixels.permute(0, 1, 4, 2, 3)
        if not self.channels_first:
            pixels = pixels.permute(0, 3, 1, 2)
        return pixels.unflatten(1, (self.n_frames, -1))

    def _to_pixels(self, observations: th.Tensor) -> th.Tensor:
        if observations.dtype == th.uint8:
            return observations
        if self._scale is None:
            self._scale = _find_scale(observations)
        # What is wrong with one observation is wrong with all of them, and a full check would cost as much as the attention.
        _check_pixels(observations[:CHECKED] * (self._scale or 1))
        if self._scale == 255:
            return (observations * 255).round().to(th.uint8)
        return observations.to(th.uint8)


def _find_scale(observations: th.Tensor) -> int | None:
    """Tell floats in [0, 1] (255) from floats in [0, 255] (1); None while a batch holds only zeros and ones."""
    if observations.max() > 1:
        return 1
    return 255 if (observations != observations.round()).any() else None


def _check_pixels(values: th.Tensor) -> None:
    low, high = (bound.item() for bound in th.aminmax(values))
    if not (low >= 0 and high <= 255) or (values - values.round()).abs().max() > PIXEL_TOLERANCE:
        raise ValueError(
            "Expected pixels: uint8, floats in [0, 255], or floats in [0, 1] that were uint8 pixels before; got values between "
            f"{low:.4g} and {high:.4g} on the scale of 255. Pass normalize_images=False (pearl_policy_kwargs does), and do not "
            "normalise images before (VecNormalize(norm_obs=False)): the encoder does it as it was trained."
        )
