"""The convolutional network of the reference's experiments."""

import torch as th
from torch import nn

# What the third convolution gives, "f5" in the reference: channels, and places on the screen.
LOCAL_CHANNELS = 128
FEATURES = 256


def reference_cnn(features_dim: int = FEATURES) -> nn.Sequential:
    """
    Make the encoder of AtariARI's experiments (Anand et al. 2019, arXiv 1906.08226, appendix; methods/encoders.py).

    :param features_dim: Size of the embedding
    :return: (B, 1, 210, 160) in [0, 1] → (B, features_dim)
    """
    layers = [
        *(nn.Conv2d(1, 32, 8, 4), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
        *(nn.Conv2d(64, LOCAL_CHANNELS, 4, 2), nn.ReLU()),
        *(nn.Conv2d(LOCAL_CHANNELS, 64, 3, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(9 * 6 * 64, features_dim)),
    ]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("relu"))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def local_and_global(network: nn.Sequential, screens: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Run the network and keep what it sees at each place.

    :param network: What :func:`reference_cnn` made
    :param screens: (B, 210, 160), uint8
    :return: Local features (B, 88, 128), and the embedding (B, features_dim), both fp32
    """
    local = network[:6](screens[:, None] / 255)
    return local.flatten(2).transpose(1, 2).float(), network[6:](local).float()
