"""Pretrained image encoders: as a frozen service with a token cache, or as a trainable module."""

from pearl_sb3.encoders.frozen import FrozenEncoder, load_encoder
from pearl_sb3.encoders.trainable import TrainableEncoder

__all__ = ["FrozenEncoder", "TrainableEncoder", "load_encoder"]
