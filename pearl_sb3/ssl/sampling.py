"""Observations in order of time, from SB3's buffers, and sequences of them that never cross the beginning of an episode."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer


@dataclass
class Trajectories:
    """
    Observations of some environments, step by step, in memory that may be a ring.

    :param observations: (T, E, *shape), as they lie in memory
    :param starts: (size, E), in order of time, whether an episode begins with the observation
    :param oldest: Row of the first observation
    :param following: (T, E, *shape), what came after each observation, where that was stored too: tells apart rows that are
        neighbours only because the environment was reset, or replaced, between two calls of ``learn``
    :param normalise: Applied to what is sampled, None to leave it as it is
    """

    observations: np.ndarray
    starts: np.ndarray
    oldest: int = 0
    following: np.ndarray | None = None
    normalise: Callable[[np.ndarray], np.ndarray] | None = None

    def ends(self, length: int) -> np.ndarray:
        """
        Find the sequences within one episode.

        :param length: Observations in a sequence
        :return: Where they end, as numbers time * E + environment
        """
        steps, n_envs = self.starts.shape
        if steps < length:
            return np.zeros(0, np.int64)
        begun = np.cumsum(self.starts, axis=0, dtype=np.int32)
        within = begun[length - 1 :] == begun[: steps - length + 1]
        return np.flatnonzero(within) + (length - 1) * n_envs

    def sample(self, ends: np.ndarray, n: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """
        Draw sequences without repetition.

        :param ends: What :meth:`ends` gave for this length
        :param n: Sequences wanted
        :param length: Observations in a sequence
        :param rng: Decides
        :return: (n or what there is, length, *shape)
        """
        # A few more than needed, in case some turn out not to be continuous.
        drawn = rng.choice(ends, min(len(ends), n + n // 8 + 1), replace=False)
        times, envs = np.divmod(drawn, self.starts.shape[1])
        times = times[:, None] - np.arange(length)[::-1]
        rows = (self.oldest + times) % len(self.observations)
        if self.following is not None and length > 1:
            told, came = self.following[rows[:, :-1], envs[:, None]], self.observations[rows[:, 1:], envs[:, None]]
            continuous = (told == came).reshape(len(rows), -1).all(1)
            rows, envs = rows[continuous], envs[continuous]
        sequences = self.observations[rows[:n], envs[:n, None]]
        return sequences if self.normalise is None else self.normalise(sequences)


def from_rollout(observations: np.ndarray, episode_starts: np.ndarray) -> Trajectories:
    """
    Read what a rollout buffer held before it was shuffled.

    :param observations: (T, E, *shape)
    :param episode_starts: (T, E)
    :return: The same, in order of time
    """
    return Trajectories(observations, episode_starts.astype(bool))


def from_rollout_buffer(buffer: RolloutBuffer) -> Trajectories:
    """
    Read a rollout buffer, even after it gave its minibatches.

    :param buffer: Filled, perhaps in part
    :return: Its observations in order of time
    """
    steps, n_envs = buffer.buffer_size, buffer.n_envs
    observations, starts = buffer.observations, buffer.episode_starts
    if buffer.generator_ready:
        # `get` laid it out environment by environment; the recurrent buffer treats the starts likewise.
        observations = observations.reshape(n_envs, steps, *observations.shape[1:]).swapaxes(0, 1)
    if starts.shape != (steps, n_envs):
        starts = starts.reshape(n_envs, steps).T
    return from_rollout(observations[: buffer.size()], starts[: buffer.size()])


def from_replay_buffer(buffer: ReplayBuffer, normalise: Callable[[np.ndarray], np.ndarray] | None = None) -> Trajectories:
    """
    Read a replay buffer: a ring once it is full.

    :param buffer: Filled, perhaps in part
    :param normalise: For agents whose environment normalises observations; the buffer holds the raw ones
    :return: Its observations in order of time
    """
    size, oldest = buffer.size(), buffer.pos if buffer.full else 0
    if buffer.optimize_memory_usage and buffer.full:
        # The row about to be written already holds what came last, and not what came first.
        size, oldest = size - 1, (oldest + 1) % buffer.buffer_size
    rows = (oldest + np.arange(size)) % buffer.buffer_size
    # Terminated or truncated: the next row begins another episode.
    ended = buffer.dones[rows].astype(bool)
    starts = np.concatenate([np.ones((min(1, size), buffer.n_envs), bool), ended[:-1]])
    following = None if buffer.optimize_memory_usage else buffer.next_observations
    return Trajectories(buffer.observations, starts, oldest, following, normalise)


def from_array(observations: np.ndarray, episode_starts: np.ndarray | None = None) -> Trajectories:
    """
    Read observations of one environment.

    :param observations: (T, *shape), in order of time
    :param episode_starts: (T,), whether an episode begins with each; None for a single episode
    :return: The same
    :raises ValueError: if the lengths differ
    """
    starts = np.zeros(len(observations), bool) if episode_starts is None else np.asarray(episode_starts, bool)
    if starts.shape != (len(observations),):
        raise ValueError(
            f"{len(observations)} observations need as many episode_starts, got an array of shape {starts.shape}."
        )
    return Trajectories(observations[:, None], starts[:, None])
