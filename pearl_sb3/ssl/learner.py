"""Gradient steps on an agent's features extractors, with heads and an optimizer of their own."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from pearl_sb3.encoders import FrozenEncoder
from pearl_sb3.ssl.infonce import contrastive_accuracy, infonce
from pearl_sb3.ssl.objectives import Objective, Options, Sizes, make_objectives
from pearl_sb3.ssl.rank import effective_rank
from pearl_sb3.ssl.representation import online_extractors, represent
from pearl_sb3.ssl.sampling import Trajectories

# Keeps our draws apart from those of others who were given the same seed.
SEED_SALT = 210605139


class Figures(NamedTuple):
    """
    :param loss: Weighted sum over objectives, mean over extractors, in nats
    :param accuracy: Share of queries that found their own key, mean over terms
    :param features: Of the acting extractor, (B, D)
    """

    loss: float
    accuracy: float
    features: th.Tensor

    @property
    def rank(self) -> float:
        """Effective rank of these features."""
        return effective_rank(self.features)


class Learner:
    """
    Objectives on the trainable part of every online features extractor of one agent.

    Where actor and critic have extractors of their own (SAC, or ``share_features_extractor=False``) each is trained, on the
    same batch, with heads of its own: the one decides, the other gets nearly all of the reward's signal.

    :param model: The agent
    :param mix: Weight by objective
    :param options: What objectives can be told
    :param batch_size: Observations that go through the extractor, per objective and step
    :param learning_rate: Of the heads
    :param weight: Learning rate of the extractors as a fraction of that
    :raises ValueError: if there is nothing to train, or an objective does not fit
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        mix: Mapping[str, float],
        options: Options,
        batch_size: int,
        learning_rate: float,
        weight: float,
    ) -> None:
        self.model, self.batch_size = model, batch_size
        # Sorted, so that the order in which a mix is written changes nothing.
        self.mix = {name: mix[name] for name in sorted(mix)}
        self.extractors = online_extractors(model)
        trainable = [p for extractor in self.extractors for p in extractor.parameters() if p.requires_grad]
        if not trainable:
            raise ValueError(
                f"The features extractor ({', '.join(sorted({type(e).__name__ for e in self.extractors}))}) has no trainable "
                "parameters, so that no objective can shape its features. Use PearlExtractor or NatureCNN."
            )
        seeds = np.random.SeedSequence() if model.seed is None else np.random.SeedSequence([model.seed, SEED_SALT])
        self.rng = np.random.default_rng(seeds)
        with _own_torch_rng(int(self.rng.integers(2**31))):
            self.heads = nn.ModuleList(
                [
                    make_objectives(self.mix, self._sizes(extractor), model.observation_space, options)
                    for extractor in self.extractors
                ]
            ).to(model.device)
        # Adam takes no notice of the loss's scale: what decides how far the features move is their learning rate.
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in trainable:
            by_factor.setdefault(getattr(parameter, "lr_factor", 1.0), []).append(parameter)
        groups = [dict(params=params, lr=learning_rate * weight * factor) for factor, params in by_factor.items()]
        self.optimizer = th.optim.Adam([dict(params=list(self.heads.parameters()), lr=learning_rate), *groups])
        #: Env steps seen, and of these the ones that gradient steps were counted for
        self.env_steps = self.counted = 0
        self.gradient_steps = self.frames_encoded = 0
        self.signature = [*self.mix, f"{len(self.extractors)} extractors"]
        if "cpc" in mix:
            self.signature += [f"sequence_length={options.sequence_length}", f"horizons={list(options.horizons)}"]

    @property
    def length(self) -> int:
        """Observations in the longest sequence."""
        return max(objective.length for objective in self._objectives(0).values())

    def _objectives(self, number: int) -> dict[str, Objective]:
        return dict(self.heads[number].items())  # type: ignore[operator]

    @th.no_grad()
    def _sizes(self, extractor: Any) -> Sizes:
        space = self.model.observation_space
        blank = th.as_tensor(np.zeros((1, *space.shape), space.dtype), device=self.model.device)  # type: ignore[misc]
        seen = represent(self.model, extractor, blank, remember=False)
        return Sizes(seen.whole.shape[1], None if seen.local is None else seen.local.shape[2])

    def step(self, data: Trajectories, ends: dict[int, np.ndarray]) -> Figures | None:
        """
        Take one gradient step on every objective.

        :param data: Observations in order of time
        :param ends: For each length of sequence, where sequences end
        :return: Figures, or None if there are not two sequences for some objective
        :raises FloatingPointError: if the loss is no number
        """
        losses, accuracies, features = [], [], None
        with self._evaluating():
            encoded = self._encoded()
            for name, weight in self.mix.items():
                first = self._objectives(0)[name]
                sequences = data.sample(ends[first.length], max(2, self.batch_size // first.width), first.length, self.rng)
                if len(sequences) < 2:
                    return None
                batch = first.prepare(th.as_tensor(sequences, device=self.model.device), self.rng)
                for number, extractor in enumerate(self.extractors):
                    seen = represent(self.model, extractor, batch.flatten(0, 1), not first.fresh)
                    features = seen.whole if features is None else features
                    pairs = self._objectives(number)[name].pairs(seen.unflatten(batch.shape[:2]))
                    losses += [weight * infonce(*pair) for pair in pairs]
                    accuracies += [contrastive_accuracy(*pair) for pair in pairs]
            loss = th.stack(losses).sum()
            if not th.isfinite(loss):
                raise FloatingPointError(f"The self-supervised loss became {loss.item()}. Lower SSLCallback's learning_rate.")
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            # Nothing of ours is left to those who add up gradients.
            self.optimizer.zero_grad()
            self.frames_encoded += self._encoded() - encoded
        self.gradient_steps += 1
        assert features is not None
        return Figures(loss.item() / len(self.extractors), th.stack(accuracies).mean().item(), features.detach())

    def _encoded(self) -> int:
        encoders = [getattr(extractor, "encoder", None) for extractor in self.extractors]
        return sum(encoder.frames_encoded for encoder in {e for e in encoders if isinstance(e, FrozenEncoder)})

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Features as in a rollout: no dropout, and no statistics that would move under the policy."""
        before = [extractor.training for extractor in self.extractors]
        for extractor in self.extractors:
            extractor.train(False)
        try:
            yield
        finally:
            for extractor, training in zip(self.extractors, before, strict=True):
                extractor.train(training)

    def state(self) -> dict[str, Any]:
        """What goes on where it stopped, in types that load without this package."""
        tensors = io.BytesIO()
        th.save(dict(heads=self.heads.state_dict(), optimizer=self.optimizer.state_dict()["state"]), tensors)
        return dict(
            signature=self.signature,
            counters=dict(
                env_steps=self.env_steps,
                counted=self.counted,
                gradient_steps=self.gradient_steps,
                frames_encoded=self.frames_encoded,
            ),
            rng=json.dumps(self.rng.bit_generator.state),
            tensors=tensors.getvalue(),
        )

    def load_state(self, state: dict[str, Any]) -> None:
        """
        Go on where another learner stopped; learning rates and weights stay as they are here.

        :param state: What its :meth:`state` gave
        :raises ValueError: if it had other objectives
        """
        if state["signature"] != self.signature:
            raise ValueError(
                f"This agent was trained with SSLCallback on {', '.join(state['signature'])}, here it is "
                f"{', '.join(self.signature)}. Give the same objective, or begin anew: model.ssl_state = None."
            )
        tensors = th.load(io.BytesIO(state["tensors"]), map_location=self.model.device, weights_only=True)
        self.heads.load_state_dict(tensors["heads"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict(dict(state=tensors["optimizer"], param_groups=groups))
        self.rng.bit_generator.state = json.loads(state["rng"])
        for name, value in state["counters"].items():
            setattr(self, name, value)


@contextmanager
def _own_torch_rng(seed: int) -> Iterator[None]:
    """Draw from PyTorch's generator without anyone else noticing. Modules are made on the CPU."""
    with th.random.fork_rng(devices=[]):
        th.random.default_generator.manual_seed(seed)
        yield
