"""Where the time goes: seconds spent inside chosen methods of a running agent, without what they call of each other."""

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn


class Clock:
    """Adds up the seconds of wrapped methods; time in a wrapped method called by another counts for the inner one only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def watch(self, owner: Any, method: str, section: str) -> None:
        """
        Count a method's time from now on.

        :param owner: the object whose method it is; only this object is changed
        :param method: the method's name
        :param section: what to count it as
        """
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.seconds[section] += elapsed - self._inner.pop()
                if self._inner:
                    self._inner[-1] += elapsed

        setattr(owner, method, timed)

    def shares(self, total: float) -> dict[str, float]:
        """
        :param total: wall-clock seconds of the whole
        :return: percent of it per section, and ``other`` for the rest
        """
        shares = {section: 100 * seconds / total for section, seconds in self.seconds.items()}
        return {**shares, "other": 100 - sum(shares.values())}


def encoders(model: BaseAlgorithm) -> list[Any]:
    """
    The encoders behind an agent's extractors, each once however many networks share it.

    :param model: an agent of any arm
    :return: objects that count ``frames_encoded``; none for NatureCNN
    """

    def candidates() -> Iterator[Any]:
        for module in model.policy.modules():
            yield module
            # A frozen encoder is no child module of its extractor.
            yield getattr(module, "encoder", None)

    return list({id(found): found for found in candidates() if hasattr(found, "frames_encoded")}.values())


def watch_agent(clock: Clock, model: BaseAlgorithm) -> None:
    """
    Count an agent's time as ``env`` (stepping the games), ``encode`` (the frozen network), ``hash, gather`` (the token
    cache), ``attention`` (its forward passes, when acting and when learning), ``update`` (the rest of the gradient steps,
    all backward passes included) and ``act`` (the rest of the policy's forward passes when acting).

    :param clock: the clock
    :param model: an agent on the CPU, where a call has done its work when it returns
    """
    clock.watch(model.env, "step", "env")
    clock.watch(model, "train", "update")
    clock.watch(model.policy, "forward" if isinstance(model, OnPolicyAlgorithm) else "_predict", "act")
    for encoder in encoders(model):
        clock.watch(encoder, "_run", "encode")
        clock.watch(encoder, "encode", "hash, gather")
    for module in model.policy.modules():
        attention = getattr(module, "attention", None)
        if isinstance(attention, nn.Module):
            clock.watch(attention, "forward", "attention")
