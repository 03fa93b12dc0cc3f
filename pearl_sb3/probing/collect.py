"""Play a game and keep every screen with the console's memory: what probes are trained and tested on."""

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import ale_py
import gymnasium as gym
import h5py
import hdf5plugin
import numpy as np

from pearl_sb3.atari import PearlAtariWrapper
from pearl_sb3.atari.games import env_id
from pearl_sb3.probing.disk import replacing
from pearl_sb3.probing.views import AgentView

SCREEN = (210, 160)
RAM_BYTES = 128
# Frames compressed together: neighbours in time are nearly the same, which zstd finds only within a chunk.
CHUNK = 32


@dataclass(frozen=True)
class Segment:
    """
    One process of the reference's collection: a game played on its own from a fresh console.

    :param game: Game's key, see :mod:`pearl_sb3.atari.games`
    :param steps: Env steps to play
    :param seed: Seed of console and actions
    :param agent: Saved agent that plays; None for the random policy
    :param epsilon: Probability of a random action instead of the agent's
    """

    game: str
    steps: int
    seed: int
    agent: str | None = None
    epsilon: float = 0.2


def random_policy(env: gym.Env, rng: np.random.Generator) -> Callable[[np.ndarray, bool], int]:
    """
    The protocol's random agent: uniform over all actions but the first, which does nothing.

    :param env: The game
    :param rng: Source of chance
    :return: Screen and whether an episode begins with it → action
    """
    n_actions = int(env.action_space.n)  # type: ignore[attr-defined]
    return lambda screen, first: int(rng.integers(1, n_actions))


def agent_policy(path: str, epsilon: float, env: gym.Env, rng: np.random.Generator) -> Callable[[np.ndarray, bool], int]:
    """
    A trained agent that takes the action it likes best, and sometimes one at random, so that plays differ.

    :param path: Saved agent
    :param epsilon: Probability of a random action
    :param env: The game
    :param rng: Source of chance
    :return: Screen and whether an episode begins with it → action
    :raises ValueError: if the agent's actions are not the game's
    """
    view = AgentView.load(path)
    chance = random_policy(env, rng)
    if view.agent.action_space != env.action_space:
        raise ValueError(
            f"{path} acts in {view.agent.action_space}, the game in {env.action_space}: it was trained on another game."
        )

    def act(screen: np.ndarray, first: bool) -> int:
        observation = view.observe(screen, first)
        if rng.random() < epsilon:
            return chance(screen, first)
        return int(view.agent.predict(observation, deterministic=True)[0])

    return act


def play(segment: Segment, path: Path) -> str:
    """
    Play one segment and store it, whole or not at all.

    Every screen of an episode is kept, from the one after the reset to the terminal one, each with the memory as it was when
    the screen was shown. An episode is one life.

    :param segment: What to play
    :param path: File to write
    :return: SHA-256 of the file
    """
    gym.register_envs(ale_py)
    env = PearlAtariWrapper(gym.make(env_id(segment.game)), screen_size=SCREEN, color=True, clip_reward=False)
    console = env.unwrapped.ale  # type: ignore[attr-defined]
    rng = np.random.default_rng(segment.seed)
    env.action_space.seed(segment.seed)
    policy = agent_policy(segment.agent, segment.epsilon, env, rng) if segment.agent else random_policy(env, rng)

    with closing(env), replacing(path) as unfinished:
        with h5py.File(unfinished, "w") as file:
            writer = _Writer(file)
            screen, _ = env.reset(seed=segment.seed)
            writer.add(screen, console.getRAM(), first=True)
            first = True
            for _ in range(segment.steps):
                screen, _, terminated, truncated, _ = env.step(policy(screen, first))
                writer.add(screen, console.getRAM(), first=False)
                first = terminated or truncated
                if first:
                    screen, _ = env.reset()
                    writer.add(screen, console.getRAM(), first=True)
            writer.close()
        return file_checksum(unfinished)


class _Writer:
    """
    Append frames to a file, a chunk at a time.

    :param file: Open HDF5 file
    """

    def __init__(self, file: h5py.File) -> None:
        self.frames = file.create_dataset(
            "frames", (0, *SCREEN, 3), np.uint8, maxshape=(None, *SCREEN, 3), chunks=(CHUNK, *SCREEN, 3), **hdf5plugin.Zstd(3)
        )
        self.file = file
        self.waiting: list[np.ndarray] = []
        self.ram: list[np.ndarray] = []
        self.first: list[bool] = []
        self.digests: list[bytes] = []

    def add(self, screen: np.ndarray, ram: np.ndarray, first: bool) -> None:
        """
        :param screen: (210, 160, 3), uint8
        :param ram: (128,), uint8
        :param first: Whether an episode begins with it
        """
        self.waiting.append(screen)
        self.ram.append(ram.copy())
        self.first.append(first)
        self.digests.append(hashlib.blake2b(screen.tobytes(), digest_size=8).digest())
        if len(self.waiting) == CHUNK:
            self._flush()

    def _flush(self) -> None:
        if self.waiting:
            start = len(self.frames)
            self.frames.resize(start + len(self.waiting), axis=0)
            self.frames[start:] = np.stack(self.waiting)
            self.waiting.clear()

    def close(self) -> None:
        """Write what is left, and what belongs to the frames."""
        self._flush()
        self.file["ram"] = np.stack(self.ram)
        self.file["first"] = np.asarray(self.first)
        self.file["digests"] = np.frombuffer(b"".join(self.digests), dtype=np.uint64)


def file_checksum(path: Path) -> str:
    """
    :param path: A file
    :return: SHA-256 of its bytes, in hexadecimal
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
