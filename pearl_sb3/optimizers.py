"""Optimizers that let parts of a policy learn at their own fraction of its learning rate."""

from collections.abc import Iterable
from typing import Any

import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike


def grouped_by_factor(parameters: Iterable[Any]) -> list[dict[str, Any]]:
    """
    Sort parameters into groups by their ``lr_factor`` attribute (1 where there is none).

    :param parameters: Parameters, not yet in groups
    :return: One group per factor, those of factor 1 first; frozen parameters are left out
    """
    groups: dict[float, list[th.nn.Parameter]] = {1.0: []}
    for parameter in parameters:
        if parameter.requires_grad:
            groups.setdefault(getattr(parameter, "lr_factor", 1.0), []).append(parameter)
    return [dict(params=params, lr_factor=factor) for factor, params in groups.items() if params]


class _LearningRateFactor:
    """
    Multiply each group's learning rate by the group's factor during a step.

    SB3 writes the schedule's learning rate into every group before each update, so a factor cannot live in ``lr`` itself.
    """

    param_groups: list[dict[str, Any]]

    def __init__(self, params: Iterable[Any], **kwargs: Any) -> None:
        super().__init__(grouped_by_factor(params), **kwargs)  # type: ignore[call-arg]

    def step(self, closure: Any = None) -> Any:
        """Take one step, each group at its own rate."""
        rates = [group["lr"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                group["lr"] *= group["lr_factor"]
            return super().step(closure)  # type: ignore[misc]
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate


class PearlAdam(_LearningRateFactor, th.optim.Adam):
    """
    Adam with a learning-rate factor per parameter.

    :param params: Parameters, with or without ``lr_factor``
    :param eps: 1e-5 as SB3 sets it for its own Adam in actor-critic policies, which it would not do for this class
    :param kwargs: As for ``torch.optim.Adam``
    """

    def __init__(self, params: Iterable[Any], eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(params, eps=eps, **kwargs)


class PearlRMSprop(_LearningRateFactor, RMSpropTFLike):
    """SB3's TensorFlow-like RMSprop, which A2C is tuned for, with a learning-rate factor per parameter."""
