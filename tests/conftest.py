import os

# Before huggingface_hub is imported: a test that asked the network would take a minute to fail.
os.environ["HF_HUB_OFFLINE"] = "1"

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

th.set_num_threads(1)


class PixelEnv(gym.Env):
    """
    A bright square on a dark screen that the action moves.

    :param shape: Shape of the observation, channels first or last
    :param continuous: Whether actions are a box
    """

    def __init__(self, shape: tuple[int, ...] = (36, 36, 4), continuous: bool = False) -> None:
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32) if continuous else spaces.Discrete(3)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._screen(), {}

    def step(self, action):
        self.steps += 1
        reward = float(np.sum(action)) / 10
        return self._screen(), reward, self.steps >= 12, False, {}

    def _screen(self) -> np.ndarray:
        screen = np.full(self.observation_space.shape, 10, np.uint8)
        place = self.np_random.integers(0, 24, 2)
        screen[tuple(slice(p, p + 6) for p in place)] = self.np_random.integers(100, 255)
        return screen


class DictEnv(PixelEnv):
    """Two cameras and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.camera = self.observation_space
        self.observation_space = spaces.Dict(
            front=self.camera,
            back=spaces.Box(0, 255, (36, 36, 12), np.uint8),
            speed=spaces.Box(-1, 1, (3,), np.float32),
        )

    def _screen(self):
        return self.observation_space.sample()


@pytest.fixture
def frames() -> np.ndarray:
    """Eight distinct gray frames of 36x36, (B, H, W, C)."""
    return np.random.default_rng(0).integers(0, 256, (8, 36, 36, 1), dtype=np.uint8)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where the suite keeps labelled frames and embeddings."""
    return tmp_path_factory.mktemp("probing")


@pytest.fixture(scope="session")
def data(folder):
    """1,200 steps of Pong in 8 episodes."""
    from pearl_sb3.probing.data import collect

    return collect("Pong", 1200, folder=folder, jobs=1, progress=False)
