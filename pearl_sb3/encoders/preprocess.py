"""Frames of any size and colour to the normalised input an encoder was trained on."""

import torch as th
from torch import nn
from torch.nn import functional as F

# ITU-R 601 luma, what OpenCV's RGB2GRAY and so SB3's Atari wrapper use.
LUMA = (0.299, 0.587, 0.114)


class Preprocess(nn.Module):
    """
    Resize and normalise uint8 frames as the encoder's own data config says.

    The whole frame is resized, without a centre crop: scores and lives sit at the edges. Gray frames are repeated to three
    channels for an RGB encoder, RGB frames become luma for a gray one.

    :param image_size: Side of the square output in pixels
    :param mean: Mean per channel that the encoder was trained with, pixels in [0, 1]
    :param std: Standard deviation per channel, likewise
    :param interpolation: ``"bilinear"``, ``"bicubic"`` or another of timm's names
    """

    mean: th.Tensor
    scale: th.Tensor

    def __init__(self, image_size: int, mean: tuple[float, ...], std: tuple[float, ...], interpolation: str) -> None:
        super().__init__()
        self.image_size = image_size
        self.channels = len(mean)
        self.mode = interpolation if interpolation in ("bilinear", "bicubic") else "bicubic"
        self.register_buffer("mean", 255 * th.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * th.tensor(std).view(1, -1, 1, 1)), persistent=False)

    def forward(self, frames: th.Tensor) -> th.Tensor:
        """
        :param frames: (B, C, H, W), C 1 or 3, values in [0, 255], any real dtype
        :return: (B, channels, image_size, image_size), fp32
        """
        images = frames.float()
        if self.channels == 1 and images.shape[1] == 3:
            images = (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            # Antialiased as Pillow does it, which is how the encoders' training images were made.
            images = F.interpolate(images, size, mode=self.mode, antialias=True, align_corners=False).clamp(0, 255)
        # Broadcasting the mean repeats a gray image to the encoder's three channels.
        return (images - self.mean) * self.scale


def as_frames(frames: th.Tensor) -> th.Tensor:
    """
    Bring a batch of images to channels-first.

    :param frames: uint8, (B, H, W, C) or (B, C, H, W) or (B, H, W), C 1 or 3
    :return: (B, C, H, W), uint8
    :raises ValueError: if it is anything else
    """
    if frames.dtype != th.uint8:
        raise ValueError(f"Expected uint8 frames with values in [0, 255], got {frames.dtype}. Convert them before encoding.")
    if frames.ndim == 3:
        return frames[:, None]
    if frames.ndim == 4 and frames.shape[-1] in (1, 3):
        return frames.permute(0, 3, 1, 2)
    if frames.ndim == 4 and frames.shape[1] in (1, 3):
        return frames
    raise ValueError(
        f"Expected frames of shape (B, H, W, C) or (B, C, H, W) with 1 or 3 channels, got {tuple(frames.shape)}. "
        "Stacked frames are encoded one by one: reshape (B, k*C, H, W) to (B*k, C, H, W)."
    )
