"""Atari games as observations, and the hidden state behind them."""

from pearl_sb3.atari.labels import AtariRAMLabels
from pearl_sb3.atari.wrappers import PearlAtariWrapper

__all__ = ["AtariRAMLabels", "PearlAtariWrapper"]
