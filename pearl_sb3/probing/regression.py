"""A regression probe: where things are, in units of the memory bytes that say so."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from pearl_sb3.probing.inputs import Decorrelator, check_inputs, chunks, frames_to_predict
from pearl_sb3.probing.metrics import mean_absolute_error

# Penalties per frame, on weights of standardised features.
STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-8, 5))


@dataclass(frozen=True)
class RidgeProbe:
    """
    Predict each variable as a number.

    :param inputs: What features go through first
    :param weight: (rank, variables)
    :param bias: (variables,)
    :param facts: For each variable the ``strength`` chosen, and its ``val_mae``, the mean absolute error on the validation frames
    """

    inputs: Decorrelator
    weight: th.Tensor
    bias: th.Tensor
    facts: list[dict[str, Any]]

    def predict(self, features: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
        """
        Predict frames.

        :param features: (n_frames, dim), of the kind the probe was fitted on
        :param index: Frames to predict, None for all
        :return: (len(index), variables), fp32, from 0 to 255
        """
        index = frames_to_predict(features, index)
        parts = [self.inputs(features, part) @ self.weight + self.bias for part in chunks(index)]
        return th.cat(parts).clamp_(0, 255).cpu().numpy()


@th.no_grad()
def fit_ridge(
    features: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    *,
    inputs: Decorrelator | None = None,
    device: str | th.device = "cpu",
) -> RidgeProbe:
    """
    Solve ridge regressions of all strengths in closed form, and keep for each variable the one with the least error on ``val``.

    :param features: (n_frames, dim), fp16 or fp32, possibly on disk
    :param labels: (n_frames, variables), uint8
    :param train: Frames to fit
    :param val: Frames that choose the penalty's strength
    :param inputs: Decorrelator of the same training frames, if one is at hand; it is most of the cost
    :param device: Where to compute
    :return: The probe
    :raises ValueError: for wrong shapes, an empty split, or features that are not finite
    """
    check_inputs(features, labels, train=train, val=val)
    inputs = inputs or Decorrelator.fit(features, train, device)
    device = inputs.variance.device
    bias = th.from_numpy(labels[train]).to(device, th.float32).mean(0)
    moments = inputs.moments(features, train, lambda frames: th.from_numpy(labels[frames]).to(device) - bias)
    val_inputs = inputs(features, val)
    weights = [inputs.solve(moments, strength) for strength in STRENGTHS]
    guesses = [(val_inputs @ weight + bias).clamp_(0, 255).cpu().numpy() for weight in weights]
    errors = np.stack([mean_absolute_error(labels[val], guess) for guess in guesses])
    best = errors.argmin(0)
    weight = th.stack([weights[choice][:, variable] for variable, choice in enumerate(best)], dim=1)
    facts = [dict(strength=STRENGTHS[choice], val_mae=float(errors[choice, v])) for v, choice in enumerate(best)]
    return RidgeProbe(inputs, weight, bias, facts)
