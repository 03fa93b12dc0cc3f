"""The obvious way to use a pretrained encoder in Stable-Baselines3, as the baseline that PEARL has to beat."""

from typing import Any

import timm
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class TimmExtractor(BaseFeaturesExtractor):
    """
    A timm model as a child of the policy, run on every gray frame of every stack that it is shown.

    :param observation_space: stacked gray frames, uint8, shape (k, H, W)
    :param name: timm's name of the model
    :param image_size: side in pixels to which frames are resized
    :param features_dim: features given to the policy
    """

    def __init__(self, observation_space: spaces.Box, name: str, image_size: int, features_dim: int = 512) -> None:
        super().__init__(observation_space, features_dim)
        self.image_size = image_size
        # Random weights: the time does not depend on them.
        encoder: Any = timm.create_model(name, pretrained=False, num_classes=0, img_size=image_size)
        self.encoder = encoder.requires_grad_(False)
        frames = observation_space.shape[0]
        self.linear = nn.Sequential(nn.Linear(frames * int(encoder.num_features), features_dim), nn.ReLU())
        self.frames_encoded = 0

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        Encode each frame, concatenate the embeddings.

        :param observations: what SB3 makes of the stacks: float in [0, 1], shape (B, k, H, W)
        :return: features, shape (B, features_dim)
        """
        batch, frames, height, width = observations.shape
        images = observations.reshape(batch * frames, 1, height, width).expand(-1, 3, -1, -1)
        images = nn.functional.interpolate(images, self.image_size, mode="bilinear", antialias=True)
        self.frames_encoded += len(images)
        with th.no_grad():
            embeddings = self.encoder((images - 0.5) / 0.5)  # (B·k, D)
        return self.linear(embeddings.reshape(batch, -1))
