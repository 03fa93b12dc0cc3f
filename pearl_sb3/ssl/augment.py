"""Another view of the same pixels: a shift and a change of light, drawn for each sample."""

import numpy as np
import torch as th
from gymnasium import spaces

# 4 pixels of 84, as in DrQ (Kostrikov et al. 2020, arXiv 2004.13649).
SHIFT = 4 / 84
CONTRAST = (0.7, 1.3)
# In levels of 255.
BRIGHTNESS = 40


def spatial_axes(space: spaces.Space) -> tuple[int, int]:
    """
    Find the height and the width of an image observation.

    :param space: Observation space: (k*C, H, W) or (H, W, k*C), or (k, H, W, C), uint8
    :return: Their axes, counted in one observation
    :raises ValueError: if observations are not uint8 images
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (3, 4):
        raise ValueError(
            f"objective 'contrast' shifts and relights pixels: it needs uint8 images, got the observation space {space}. "
            "Choose 't-dim', 'st-dim' or 'cpc', which need only the order of time."
        )
    channels_last = len(space.shape) == 3 and space.shape[2] < space.shape[0]
    return (0, 1) if channels_last else (1, 2)


def augment(observations: th.Tensor, axes: tuple[int, int], rng: np.random.Generator) -> th.Tensor:
    """
    Shift each observation by up to a twentieth of its side, edges repeated, and change its contrast and brightness.

    All frames of one stack get the same draw: what moves between them stays what moved.

    :param observations: (B, *shape), uint8
    :param axes: Of height and width in ``shape``
    :param rng: Draws for each sample
    :return: The same shape, uint8
    """
    height, width = axes
    pixels = observations.movedim((1 + height, 1 + width), (1, 2))  # (B, H, W, ...)
    batch, device = len(pixels), pixels.device
    rows, columns = (_shifted(side, batch, rng).to(device) for side in pixels.shape[1:3])
    pixels = pixels[th.arange(batch, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]].float()
    one_per_sample = (batch,) + (1,) * (pixels.ndim - 1)
    contrast = th.as_tensor(rng.uniform(*CONTRAST, batch), dtype=th.float32, device=device).view(one_per_sample)
    brightness = th.as_tensor(rng.uniform(-BRIGHTNESS, BRIGHTNESS, batch), dtype=th.float32, device=device)
    middle = pixels.flatten(1).mean(1).view(one_per_sample)
    pixels = (pixels - middle) * contrast + middle + brightness.view(one_per_sample)
    return pixels.round().clamp(0, 255).to(th.uint8).movedim((1, 2), (1 + height, 1 + width))


def _shifted(side: int, batch: int, rng: np.random.Generator) -> th.Tensor:
    """Give the source index of each pixel along one axis, (B, side)."""
    reach = max(1, round(SHIFT * side))
    offsets = th.as_tensor(rng.integers(-reach, reach + 1, batch))
    return (th.arange(side) + offsets[:, None]).clamp(0, side - 1)
