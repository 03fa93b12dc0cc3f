"""The SB3 callback that optimises self-supervised objectives beside the policy."""

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from pearl_sb3.ssl.checks import check_agent, check_length
from pearl_sb3.ssl.learner import Learner
from pearl_sb3.ssl.objectives import Options, parse_mix
from pearl_sb3.ssl.representation import copy_to_targets
from pearl_sb3.ssl.sampling import Trajectories, from_array, from_replay_buffer, from_rollout, from_rollout_buffer
from pearl_sb3.ssl.state import SavedLearner, saved_state


class SSLCallback(BaseCallback):
    """
    Shape the features by a self-supervised objective while the policy learns on them.

    ``model.learn(1_000_000, callback=SSLCallback("st-dim"))``

    1. Observations come from the rollout buffer (PPO, A2C, TRPO, RecurrentPPO), in order of time and never across the beginning
       of an episode, or from the replay buffer (DQN, QR-DQN, SAC, …).
    2. Gradient steps happen after the algorithm's own update, at the beginning of the next rollout: the policy that PPO updates
       is the one that acted.
    3. They train the trainable parameters of the online features extractors and heads of their own by an Adam of their own;
       never a frozen encoder, never the heads of policy and value, never target networks.
    4. Heads, optimizer, counters and random generator are saved with the agent, and a new callback on a loaded agent goes on
       with them. Nothing is drawn from the global generators.

    Logged: ``ssl/loss`` (nats), ``ssl/accuracy`` (share of queries that find their own key), ``ssl/rank`` (effective rank of the
    features; falls when they collapse), ``ssl/time_share`` (of the time since training began), ``ssl/gradient_steps``,
    ``ssl/frames_encoded`` (images a frozen encoder ran on for this: augmented views, and frames no longer in its cache).

    :param objective: ``"st-dim"``, ``"t-dim"``, ``"s-dim"``, ``"cpc"``, ``"contrast"``; several joined by ``+``; or a dict from
        name to weight in the loss
    :param gradient_steps: Gradient steps for every ``every`` env steps
    :param every: See there; a step is taken at the first beginning of a rollout at which it is due
    :param batch_size: Observations that go through the extractor per objective and gradient step: half as many pairs (or pairs
        of views), a sixteenth as many sequences of 16
    :param learning_rate: Adam's, for the heads
    :param weight: Learning rate of the features as a fraction of that of the heads (Adam takes no notice of the scale of a loss);
        0 measures the features and leaves them as they are
    :param warm_up: Env steps before the first gradient step
    :param stop_after: Env steps after which there are no more, None for no end
    :param sequence_length: Observations in a sequence of ``cpc``
    :param horizons: Observations ahead that ``cpc`` predicts
    :param temperature: Of ``contrast``
    :param keep_heads: Whether heads, optimizer, counters and generator stay with the agent and travel in its file
    :param verbose: As in SB3
    :raises ValueError: for unknown objectives and values out of range
    """

    def __init__(
        self,
        objective: str | Mapping[str, float] = "st-dim",
        gradient_steps: int = 1,
        every: int = 256,
        batch_size: int = 128,
        learning_rate: float = 1e-4,
        weight: float = 1.0,
        warm_up: int = 0,
        stop_after: int | None = None,
        sequence_length: int = 16,
        horizons: Sequence[int] = (1, 2, 4, 8),
        temperature: float = 0.1,
        keep_heads: bool = True,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.mix = parse_mix(objective)
        least = dict(gradient_steps=1, every=1, batch_size=4, learning_rate=0, weight=0, warm_up=0, sequence_length=2)
        given = dict(
            zip(least, (gradient_steps, every, batch_size, learning_rate, weight, warm_up, sequence_length), strict=True)
        )
        for name, bound in least.items():
            if not given[name] >= bound:
                raise ValueError(f"Expected {name} of at least {bound}, got {given[name]}.")
        if stop_after is not None and stop_after <= warm_up:
            raise ValueError(
                f"Expected stop_after above warm_up={warm_up}, got {stop_after}: there would be no gradient step."
            )
        self.gradient_steps, self.every, self.batch_size = gradient_steps, every, batch_size
        self.learning_rate, self.weight = learning_rate, weight
        self.warm_up, self.stop_after = warm_up, stop_after
        self.options = Options(sequence_length, tuple(horizons), temperature)
        self.keep_heads = keep_heads
        self.learner: Learner
        self.warned = False

    def _init_callback(self) -> None:
        model = self.model
        check_agent(model)
        previous = saved_state(model) if self.keep_heads else self._own_state(model)
        self.learner = Learner(model, self.mix, self.options, self.batch_size, self.learning_rate, self.weight)
        check_length(model, self.learner.length, "+".join(self.mix))
        if previous is not None:
            self.learner.load_state(previous)
        if self.keep_heads:
            model.ssl_state = SavedLearner(self.learner)  # type: ignore[attr-defined]
        self.rollout: Trajectories | None = None
        self.seconds, self.began = 0.0, time.perf_counter()

    def _own_state(self, model: BaseAlgorithm) -> dict[str, Any] | None:
        """Heads that are not kept with the agent stay with the callback, from one call of ``learn`` to the next."""
        learner = getattr(self, "learner", None)
        return learner.state() if learner is not None and learner.model is model else None

    def _on_training_start(self) -> None:
        if self.keep_heads and self.model.ssl_state.learner is not self.learner:  # type: ignore[attr-defined]
            raise ValueError("Two SSLCallbacks on one agent. Give one a mix: SSLCallback({'st-dim': 1.0, 'contrast': 0.5}).")
        self.began = time.perf_counter()

    def _on_step(self) -> bool:
        self.learner.env_steps += self.training_env.num_envs
        return True

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OnPolicyAlgorithm):
            # Before the update, which lays the buffer out anew; it makes new arrays for that, and `reset` does too.
            buffer = self.model.rollout_buffer
            self.rollout = from_rollout(buffer.observations, buffer.episode_starts)

    def _on_rollout_start(self) -> None:
        self._work()

    def _on_training_end(self) -> None:
        self._work()

    def _work(self) -> None:
        """Take the gradient steps that are due by now."""
        start = time.perf_counter()
        n = self._due() if self.rollout is not None or isinstance(self.model, OffPolicyAlgorithm) else 0
        if not n:
            self.rollout = None
            return
        figures = self._steps(self._data(), n)
        self.rollout = None
        self.seconds += time.perf_counter() - start
        for name, value in figures.items():
            self.logger.record(f"ssl/{name}", value)
        self.logger.record("ssl/gradient_steps", self.learner.gradient_steps)
        self.logger.record("ssl/frames_encoded", self.learner.frames_encoded)
        self.logger.record("ssl/time_share", self.seconds / (time.perf_counter() - self.began))

    def _due(self) -> int:
        learner = self.learner
        since = max(learner.counted, self.warm_up)
        until = learner.env_steps if self.stop_after is None else min(learner.env_steps, self.stop_after)
        rounds = max(0, until - since) // self.every
        if rounds:
            learner.counted = since + rounds * self.every
        return rounds * self.gradient_steps

    def _data(self) -> Trajectories:
        if self.rollout is not None:
            return self.rollout
        assert isinstance(self.model, OffPolicyAlgorithm) and self.model.replay_buffer is not None
        return self._from_replay(self.model.replay_buffer)

    def _from_replay(self, buffer: ReplayBuffer) -> Trajectories:
        env = self.model.get_vec_normalize_env()
        return from_replay_buffer(buffer, None if env is None else env.normalize_obs)  # type: ignore[arg-type]

    def _steps(self, data: Trajectories, n: int) -> dict[str, float]:
        """Take gradient steps. :return: figures, means over these; none if there was not enough to contrast"""
        lengths = {objective.length for objective in self.learner.heads[0].values()}  # type: ignore[operator]
        ends = {length: data.ends(length) for length in lengths}
        taken = [figures for _ in range(n) if (figures := self.learner.step(data, ends)) is not None]
        if not taken:
            if not self.warned:
                warnings.warn(
                    f"SSLCallback found no two sequences of {max(lengths)} observations within one episode; no gradient step was "
                    "taken. Collect more between updates, or lower sequence_length and horizons."
                )
            self.warned = True
            return {}
        return dict(
            loss=float(np.mean([figures.loss for figures in taken])),
            accuracy=float(np.mean([figures.accuracy for figures in taken])),
            rank=taken[-1].rank,
        )

    def pretrain_on(
        self,
        model: BaseAlgorithm,
        data: RolloutBuffer | ReplayBuffer | np.ndarray,
        steps: int,
        episode_starts: np.ndarray | None = None,
    ) -> dict[str, float]:
        """
        Optimise the same objectives before any step of the policy, as on frames of random play.

        ``callback.pretrain_on(model, frames, 1000)`` and then ``model.learn(n, callback=callback)`` goes on with the same heads.
        Target networks get the features so learned.

        :param model: The agent
        :param data: A filled buffer, or observations of one environment, (T, *model.observation_space.shape)
        :param steps: Gradient steps
        :param episode_starts: With observations: (T,), whether an episode begins with each; None for a single episode
        :return: Loss, accuracy and rank over the last tenth of the steps
        :raises ValueError: for observations of another shape or type, or too few
        """
        if steps < 1:
            raise ValueError(f"Expected steps of at least 1, got {steps}.")
        self.init_callback(model)
        trajectories = self._trajectories(data, episode_starts)
        last = max(1, steps // 10)
        if steps > last:
            self._steps(trajectories, steps - last)
        figures = self._steps(trajectories, last)
        if not figures:
            raise ValueError(
                f"pretrain_on needs two sequences of {self.learner.length} observations, each within one episode."
            )
        copy_to_targets(model)
        return figures

    def _trajectories(self, data: Any, episode_starts: np.ndarray | None) -> Trajectories:
        space = self.model.observation_space
        if isinstance(data, np.ndarray):
            if data.shape[1:] != space.shape or data.dtype != space.dtype:
                raise ValueError(
                    f"Expected observations of shape (T, {', '.join(map(str, space.shape or ()))}) and type {space.dtype}, as "
                    f"the agent sees them (images channels first), got {data.shape} of {data.dtype}."
                )
            return from_array(data, episode_starts)
        if isinstance(data, RolloutBuffer):
            return from_rollout_buffer(data)
        if isinstance(data, ReplayBuffer):
            return self._from_replay(data)
        raise ValueError(f"pretrain_on takes a rollout buffer, a replay buffer or an array, got {type(data).__name__}.")
