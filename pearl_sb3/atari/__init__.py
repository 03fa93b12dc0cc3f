"""Atari games as observations."""

from pearl_sb3.atari.wrappers import PearlAtariWrapper

__all__ = ["PearlAtariWrapper"]
