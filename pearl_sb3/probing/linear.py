"""
The default probe: what a careful person would run.

1. Features are standardised on the training frames and decorrelated, which changes how fast a probe learns and not what it can say.
2. Least squares on the values seen in training, in closed form at several strengths of regularisation.
3. From the best of these, cross-entropy (Adam, cosine decay) at several strengths at once, all variables as one matrix. Products
   are in bf16 where the device computes it natively, for speed; weights stay fp32.
4. Each variable keeps the weights, of all those, with the best accuracy on the validation frames.

Step 2 serves many features and few labels, step 3 few features, whose values a straight line cannot tell apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import numpy as np
import torch as th
from tqdm import tqdm

from pearl_sb3.probing.heads import Classes, LinearHeads, MLPHeads
from pearl_sb3.probing.inputs import Decorrelated, Decorrelator, check_inputs, chunks, frames_to_predict
from pearl_sb3.probing.training import fast

# From strong to weak: of equals the stronger one wins. On weights of standardised features, per frame.
LEAST_SQUARES_STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)
STRENGTHS = (1e-3, 1e-4, 1e-5)
# What an output of 1 of the least squares is worth as a logit.
LOGIT = 10.0
BATCH = 256
LEARNING_RATE = 1e-2
MLP_LEARNING_RATE = 2e-3
# Training is this many steps, more if they are not as many epochs, in rounds that end with a look at the validation frames.
STEPS = 800
EPOCHS = 6
ROUNDS = 16
# Rounds without a better accuracy of any variable before training ends. The first, with large steps, often do not improve on the
# least squares; later ones do.
PATIENCE = 8


@dataclass(frozen=True)
class ClassProbe:
    """
    Predict each variable as one of the values it took in training.

    :param inputs: What features go through first
    :param heads: The layers, of one strength
    :param classes: The values
    :param facts: For each variable the ``loss`` and ``strength`` chosen, the ``epoch`` (0 for least squares), the ``val_accuracy``,
        and the number of ``classes``
    """

    inputs: Decorrelator
    heads: LinearHeads
    classes: Classes
    facts: list[dict[str, Any]]

    @th.inference_mode()
    def predict(self, features: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
        """
        Predict frames.

        :param features: (n_frames, dim), of the kind the probe was fitted on
        :param index: Frames to predict, None for all
        :return: (len(index), variables), uint8
        """
        index = frames_to_predict(features, index)
        guesses = [self.classes.choose(self.heads(self.inputs(features, part))[:, 0]) for part in chunks(index)]
        return np.concatenate(guesses)


class _Search:
    """
    Each variable's best layers so far.

    :param heads: Heads of one strength, to be filled
    :param classes: Values of the variables
    :param val: Validation frames
    :param labels: Their bytes, (n, variables)
    """

    def __init__(self, heads: LinearHeads, classes: Classes, val: Decorrelated, labels: np.ndarray) -> None:
        self.heads, self.classes, self.val, self.labels = heads, classes, val, labels
        self.facts: list[dict[str, Any]] = [dict(val_accuracy=-1.0) for _ in classes.values]

    @th.no_grad()
    def offer(self, heads: LinearHeads, strengths: tuple[float, ...], **facts: Any) -> bool:
        """
        Take over what is strictly better.

        :param heads: Heads of several strengths
        :param strengths: The strengths
        :param facts: How they came about
        :return: Whether any variable got better
        """
        hits = np.zeros((len(strengths), len(self.facts)))
        for part in chunks(np.arange(len(self.val)), 1024):
            hits += (self.classes.choose(heads(self.val[part])) == self.labels[part][:, None]).sum(0)
        accuracy = hits / len(self.val)
        improved = False
        for variable, strength in enumerate(accuracy.argmax(0)):
            reached = float(accuracy[strength, variable])
            if reached > self.facts[variable]["val_accuracy"]:
                improved = True
                self.heads.take(variable, heads, strength)
                self.facts[variable] = dict(facts, strength=strengths[strength], val_accuracy=reached)
        return improved


def _batches(n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """
    Shuffle and deal for ever.

    :param n: Frames
    :param rng: Source of the order
    :return: Places, at most 256 at a time
    """
    while True:
        order = rng.permutation(n)
        # A last short batch would be as noisy as it is short.
        for at in range(0, max(n - BATCH, 0) + 1, BATCH):
            yield order[at : at + BATCH]


def _least_squares(search: _Search, inputs: Decorrelator, features: np.ndarray, labels: np.ndarray, train: np.ndarray) -> None:
    """
    Offer ridge regressions onto the values.

    :param search: Where to offer them
    :param inputs: Decorrelator of the training frames
    :param features: (n_frames, dim)
    :param labels: (n_frames, variables), uint8
    :param train: Training frames
    """
    classes, device = search.classes, inputs.variance.device
    heads = LinearHeads(classes.sizes, len(inputs.variance), 1).to(device)
    columns = sum(classes.sizes)
    share = classes.columns(labels[train]).flatten().bincount(minlength=columns) / len(train)

    def targets(frames: np.ndarray) -> th.Tensor:
        return th.zeros(len(frames), columns).scatter_(1, classes.columns(labels[frames]), 1.0).sub_(share).to(device)

    moments = inputs.moments(features, train, targets)
    with th.no_grad():
        heads.bias[0] = share.to(device)
        for strength in LEAST_SQUARES_STRENGTHS:
            heads.weight[0] = inputs.solve(moments, strength).T
            search.offer(heads, (strength,), loss="least squares", epoch=0)


def _descend(heads: LinearHeads, search: _Search, train: Decorrelated, columns: th.Tensor, seed: int, bar: tqdm) -> None:
    """
    Train heads by cross-entropy and offer them after every round.

    :param heads: The layers, trained in place
    :param search: Where to offer them
    :param train: Training frames
    :param columns: Their true columns, (n, variables)
    :param seed: Seed of the batches
    :param bar: Progress, in rounds
    """
    n, device = len(train), columns.device
    strengths, spread = th.tensor(STRENGTHS, device=device), train.inputs.spread
    rate = MLP_LEARNING_RATE if isinstance(heads, MLPHeads) else LEARNING_RATE
    adam = th.optim.Adam(heads.parameters(), rate, fused=device.type in ("cpu", "cuda"))
    batches = _batches(n, np.random.default_rng(seed))
    steps = -(-max(STEPS, EPOCHS * n // BATCH) // ROUNDS)
    since_better = 0
    for turn in range(ROUNDS):
        for step in range(steps):
            adam.param_groups[0]["lr"] = rate * (1 + cos(pi * (turn + step / steps) / ROUNDS)) / 2
            batch = next(batches)
            with fast(device.type):
                logits = heads(train[batch]).float()
            adam.zero_grad()
            logits.backward(search.classes.errors(logits, columns[batch]))
            heads.penalise(strengths, spread)
            adam.step()
        bar.update()
        epoch = round((turn + 1) * steps * min(BATCH, n) / n, 2)
        since_better = 0 if search.offer(heads, STRENGTHS, loss="cross-entropy", epoch=epoch) else since_better + 1
        if since_better == PATIENCE:
            break


def fit_fixed(
    features: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    *,
    hidden: int | None = None,
    seed: int = 0,
    inputs: Decorrelator | None = None,
    device: str | th.device = "cpu",
    progress: bool = False,
) -> ClassProbe:
    """
    Fit a linear or MLP probe of every variable.

    :param features: (n_frames, dim), fp16 or fp32, possibly on disk
    :param labels: (n_frames, variables), uint8
    :param train: Frames to fit
    :param val: Frames that choose among regularisations and epochs
    :param hidden: Width of an MLP probe's hidden layer, one per variable; None for a linear probe
    :param seed: Seed of the batches, and of an MLP's initial weights
    :param inputs: Decorrelator of the same training frames, if one is at hand
    :param device: Where to train
    :param progress: Whether to show a progress bar
    :return: The probe
    :raises ValueError: for wrong shapes, an empty split, features that are not finite, or a hidden layer of no width
    """
    check_inputs(features, labels, train=train, val=val)
    if hidden is not None and hidden < 1:
        raise ValueError(f"Expected hidden to be at least 1, got {hidden}; hidden=None is the linear probe.")
    train, val = np.asarray(train), np.asarray(val)
    with tqdm(total=ROUNDS, desc="fitting probes", unit="round", disable=not progress) as bar:
        inputs = inputs or Decorrelator.fit(features, train, device)
        device = inputs.variance.device
        classes, rank = Classes.seen(labels[train]), len(inputs.variance)
        if hidden is None:
            best, heads = (LinearHeads(classes.sizes, rank, n) for n in (1, len(STRENGTHS)))
        else:
            best, heads = (MLPHeads(classes.sizes, rank, n, hidden, seed) for n in (1, len(STRENGTHS)))
        best, heads = best.to(device), heads.to(device)
        search = _Search(best, classes, Decorrelated(inputs, features, val), labels[val])
        if hidden is None:
            _least_squares(search, inputs, features, labels, train)
            with th.no_grad():
                heads.weight.copy_(LOGIT * best.weight)
                heads.bias.copy_(LOGIT * best.bias)
        columns = classes.columns(labels[train]).to(device)
        _descend(heads, search, Decorrelated(inputs, features, train), columns, seed, bar)
    facts = [dict(fact, classes=size) for fact, size in zip(search.facts, classes.sizes, strict=True)]
    return ClassProbe(inputs, best.requires_grad_(False), classes, facts)
