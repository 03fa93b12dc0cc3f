"""What a trained agent sees of a screen: its own frames, stacked as during its training."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from pearl_sb3.extractor import PearlExtractor

# Tried in this order: a zip does not say which algorithm made it, and each loads its own kind of policy only.
ALGORITHMS = ("PPO", "DQN", "A2C", "QRDQN", "RecurrentPPO", "TRPO")


class AgentView:
    """
    Turn screens (210, 160, 3) of one game, given in order of time, into the observations that an agent was trained on.

    The steps are those of SB3's ``AtariWrapper`` and ``VecFrameStack``: gray (or RGB, as the agent's channels say), area
    resize, and at the beginning of an episode a stack of zeros with the first frame as its newest.

    :param agent: A loaded agent whose observations are stacks of gray or RGB frames
    :raises ValueError: if its observations are something else
    """

    def __init__(self, agent: BaseAlgorithm) -> None:
        self.agent = agent
        space = agent.observation_space
        shape = space.shape if isinstance(space, spaces.Box) else None
        if shape is None or len(shape) != 3 or space.dtype != np.uint8:
            raise ValueError(
                f"The agent's observations are {space}; probing needs an agent that sees Atari screens: uint8 (k*C, H, W) or "
                "(H, W, k*C)."
            )
        extractor = _extractor(agent)
        # PEARL's extractor knows its stack; SB3's own agents see gray frames.
        n_frames = extractor.layout.n_frames if isinstance(extractor, PearlExtractor) else min(shape)
        self.channels_first = shape[0] < shape[2]
        self.size = shape[1:] if self.channels_first else shape[:2]
        depth = shape[0] if self.channels_first else shape[2]
        self.channels = depth // n_frames
        self.stack = np.zeros((depth, *self.size), np.uint8)

    @classmethod
    def load(cls, path: str | Path) -> "AgentView":
        """
        :param path: Agent saved by ``model.save``
        :return: Its view
        :raises ValueError: if no known algorithm can load it
        """
        return cls(load_agent(path))

    def observe(self, screen: np.ndarray, first: bool) -> np.ndarray:
        """
        :param screen: (210, 160, 3), uint8, RGB
        :param first: Whether an episode begins with it
        :return: The agent's observation, (k*C, H, W) or (H, W, k*C), uint8
        """
        frame = screen if self.channels == 3 else cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)
        frame = cv2.resize(frame, self.size[::-1], interpolation=cv2.INTER_AREA).reshape(*self.size, self.channels)
        if first:
            self.stack[:] = 0
        self.stack = np.concatenate([self.stack[self.channels :], frame.transpose(2, 0, 1)])
        return self.stack if self.channels_first else self.stack.transpose(1, 2, 0)

    @th.no_grad()
    def features(self, screens: np.ndarray, first: np.ndarray) -> th.Tensor:
        """
        :param screens: (n, 210, 160, 3), uint8, in order of time, going on from the call before
        :param first: (n,), whether an episode begins with each
        :return: (n, features_dim), what the policy's heads receive
        """
        policy: Any = self.agent.policy
        policy.set_training_mode(False)
        observations = np.stack([self.observe(*pair) for pair in zip(screens, first, strict=True)])
        tensor, _ = policy.obs_to_tensor(observations)
        return policy.extract_features(tensor, _extractor(self.agent)).float().cpu()


def _extractor(agent: BaseAlgorithm) -> BaseFeaturesExtractor:
    """Give the features extractor of the network that acts."""
    policy: Any = agent.policy
    networks = [policy, *(getattr(policy, name, None) for name in ("q_net", "quantile_net"))]
    found = [getattr(network, "features_extractor", None) for network in networks]
    return next(extractor for extractor in found if isinstance(extractor, BaseFeaturesExtractor))


def load_agent(path: str | Path) -> BaseAlgorithm:
    """
    Load a saved agent whatever algorithm made it.

    :param path: Its zip
    :return: The agent
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if none of the algorithms for discrete actions can load it
    """
    import sb3_contrib
    import stable_baselines3

    if not Path(path).is_file():
        raise FileNotFoundError(f"No agent at {path}: give the .zip that model.save or `pearl train` wrote.")
    reasons = []
    for name in ALGORITHMS:
        algorithm = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
        try:
            return algorithm.load(path, device="auto", custom_objects={"replay_buffer_class": None, "buffer_size": 1})
        except (TypeError, KeyError, RuntimeError, AttributeError, AssertionError, ValueError) as error:
            if "encoder" in str(error):
                raise
            reasons.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise ValueError(f"{path} is no agent of {', '.join(ALGORITHMS)}. " + "; ".join(reasons))
