"""Atari preprocessing that can keep the colours."""

import warnings
from collections.abc import Sequence

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.atari_wrappers import (
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
    StickyActionEnv,
)


class WarpScreen(gym.ObservationWrapper):
    """
    Resize the screen, in colour or in gray.

    :param env: Environment whose observations are RGB screens (height, width, 3), uint8
    :param size: (height, width) of the new frames in pixels, ``None`` for the screen's own size
    :param color: Keep the three colour channels instead of converting to gray
    """

    def __init__(self, env: gym.Env, size: tuple[int, int] | None, color: bool) -> None:
        super().__init__(env)
        screen = env.observation_space
        assert screen.shape is not None
        self.size = size
        self.color = color
        height, width = size or screen.shape[:2]
        self.observation_space = spaces.Box(0, 255, (height, width, 3 if color else 1), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """
        :param observation: Screen (height, width, 3), uint8
        :return: Frame (height, width, 3 or 1), uint8
        """
        frame = observation if self.color else cv2.cvtColor(observation, cv2.COLOR_RGB2GRAY)
        if self.size is not None:
            # OpenCV counts (width, height); the area filter is SB3's, so that gray frames are the same bytes as there
            frame = cv2.resize(frame, self.size[::-1], interpolation=cv2.INTER_AREA)
        return frame if self.color else frame[:, :, None]


class PearlAtariWrapper(gym.Wrapper):
    """
    Atari 2600 preprocessing like SB3's ``AtariWrapper``, in gray or in colour, at any size.

    Specifically, from the game outwards:

    * Sticky actions: disabled by default
    * Noop reset: obtain initial state by taking random number of no-ops on reset.
    * Frame skipping: 4 by default
    * Max-pooling: most recent two observations
    * Termination signal when a life is lost.
    * Fire on reset, in games that wait for it
    * Gray or RGB observation: gray by default, then the same bytes as SB3's wrapper
    * Resize: 84x84 by default
    * Clip reward to {-1, 0, 1}

    Stack frames with SB3's ``VecFrameStack``: the newest frame is last, so that a stack of 4 RGB frames is
    (height, width, 12). In a file for rl_zoo3, that is ``frame_stack: 4``.

    Example::

        import ale_py
        import gymnasium as gym
        from pearl_sb3.atari import PearlAtariWrapper

        gym.register_envs(ale_py)
        env = PearlAtariWrapper(gym.make("PongNoFrameskip-v4"), color=True, screen_size=96)
        observation, info = env.reset(seed=0)
        assert observation.shape == (96, 96, 3)

    :param env: ALE environment with RGB observations and without a frame skip of its own: ``"*NoFrameskip-v4"``
    :param noop_max: Max number of no-ops on reset, 0 for none
    :param frame_skip: Number of screens each action is repeated for
    :param screen_size: Side of the square frame, or its (height, width), in pixels; ``None`` for the console's own
        screen, usually 210x160
    :param terminal_on_life_loss: If True, ``step()`` returns terminated=True whenever a life is lost
    :param clip_reward: If True, the reward is clipped to {-1, 0, 1} by its sign
    :param action_repeat_probability: Probability of repeating the last action (sticky actions)
    :param color: If True, observations are RGB instead of gray
    :raises ValueError: if the environment is no ALE game with RGB observations, or a number is out of range
    """

    def __init__(
        self,
        env: gym.Env,
        noop_max: int = 30,
        frame_skip: int = 4,
        screen_size: int | Sequence[int] | None = 84,
        terminal_on_life_loss: bool = True,
        clip_reward: bool = True,
        action_repeat_probability: float = 0.0,
        color: bool = False,
    ) -> None:
        size = _height_width(screen_size)
        if frame_skip < 1:
            raise ValueError(f"Expect `frame_skip` to be at least 1, actual: {frame_skip}.")
        if not 0.0 <= action_repeat_probability < 1.0:
            raise ValueError(f"Expect `action_repeat_probability` in [0, 1), actual: {action_repeat_probability}.")
        _check_game(env, frame_skip)

        if action_repeat_probability > 0.0:
            env = StickyActionEnv(env, action_repeat_probability)
        if noop_max > 0:
            env = NoopResetEnv(env, noop_max=noop_max)
        if frame_skip > 1:
            env = MaxAndSkipEnv(env, skip=frame_skip)
        if terminal_on_life_loss:
            env = EpisodicLifeEnv(env)
        if "FIRE" in env.unwrapped.get_action_meanings():  # type: ignore[attr-defined]
            env = FireResetEnv(env)
        env = WarpScreen(env, size, color)
        if clip_reward:
            env = ClipRewardEnv(env)
        super().__init__(env)


def _height_width(screen_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """
    :param screen_size: As the user gave it
    :return: (height, width), or ``None`` for the screen's own
    :raises ValueError: if it is neither
    """
    if screen_size is None:
        return None
    sides = (screen_size, screen_size) if isinstance(screen_size, int) else tuple(screen_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(
            f"Expect `screen_size` to be a positive int, a pair (height, width) of them or None, actual: {screen_size!r}."
        )
    return sides[0], sides[1]


def _check_game(env: gym.Env, frame_skip: int) -> None:
    """
    Refuse what is no Atari game and warn of a doubled frame skip.

    :param env: Environment before any preprocessing
    :param frame_skip: Number of screens each action will be repeated for
    :raises ValueError: if it is no ALE game, or its observations are not RGB screens
    """
    if not hasattr(env.unwrapped, "ale"):
        raise ValueError(
            f"PearlAtariWrapper needs a game of the Arcade Learning Environment, such as 'PongNoFrameskip-v4', actual: {env}."
        )
    shape = env.observation_space.shape
    if shape is None or len(shape) != 3 or shape[-1] != 3:
        raise ValueError(
            "PearlAtariWrapper needs RGB screens (height, width, 3), and makes them gray itself: use obs_type='rgb' and no "
            f"wrapper that changes observations before it, actual: {env.observation_space}."
        )
    # ALE keeps it nowhere else: the spec is absent when the env was made by its class
    built_in = getattr(env.unwrapped, "_frameskip", 1)
    if frame_skip > 1 and built_in != 1:
        warnings.warn(
            f"{env} already skips frames (frameskip={built_in}), and frame_skip={frame_skip} comes on top of it: "
            "make it with frameskip=1, or use its '…NoFrameskip-v4' version."
        )
