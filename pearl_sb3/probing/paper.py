"""
The probe of the published figures, quirks included.

As in AtariARI (mila-iqia/atari-representation-learning, ``probe.py``; Anand et al. 2019, arXiv 1906.08226) and in PEARL
(arXiv 2106.05139):

1. ``Linear(dim, 256)`` per variable with torch's initial weights; features are not scaled.
2. Adam per variable, ``eps`` 1e-5, learning rate 3e-4; times 0.2 after more than 5 epochs without a better validation accuracy,
   not below 1e-5 (``ReduceLROnPlateau``).
3. Batches of 64, each sample a frame of an episode, both drawn evenly and with replacement, so that a frame of a short episode
   counts for more; an epoch is as many batches as fit into the frames. Training, validation and test are sampled alike.
4. A variable stops after 15 epochs without a strictly better validation accuracy, or at 100. Its last weights are tested, not its
   best.

Here all variables train together on stored features; the weights are those of one loop per variable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from torch import nn
from tqdm import tqdm

from pearl_sb3.probing.inputs import Standardiser, check_inputs, chunks, frames_to_predict, rows
from pearl_sb3.probing.metrics import VALUES

BATCH = 64
LEARNING_RATE = 3e-4
LOWEST_RATE = 1e-5
RATE_FACTOR = 0.2
RATE_PATIENCE = 5
# What ReduceLROnPlateau calls better: by more than this share of the best.
RATE_THRESHOLD = 1e-4
STOP_PATIENCE = 15


@dataclass(frozen=True)
class PaperProbe:
    """
    Predict every variable with a linear layer of 256 classes.

    :param weight: (variables, 256, dim)
    :param bias: (variables, 256)
    :param standardise: What features go through first, if anything
    :param facts: For each variable the ``epochs`` trained, the last ``learning_rate``, and the ``val_accuracy`` of the kept weights
    """

    weight: th.Tensor
    bias: th.Tensor
    standardise: Standardiser | None
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
        read = self.standardise or (lambda values, part: rows(values, part, self.weight.device))
        guesses = [_logits(read(features, part), self.weight, self.bias).argmax(2) for part in chunks(index, 1024)]
        return th.cat(guesses).to("cpu", th.uint8).numpy()


def sample_paper(episodes: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """
    Draw an epoch as the reference does: an episode, then one of its frames, both evenly and with replacement.

    :param episodes: Frames of each episode
    :param rng: Source of the draws
    :return: Frames, (batches, 64); as many batches as fit into the frames, at least one
    :raises ValueError: if there are no episodes, or one is empty
    """
    lengths = np.array([len(episode) for episode in episodes])
    if not len(lengths) or not lengths.all():
        raise ValueError(
            f"Expected episodes with frames, got lengths {lengths.tolist()}: collect more, or leave empty ones out."
        )
    size = (max(1, lengths.sum() // BATCH), BATCH)
    chosen = rng.integers(len(lengths), size=size)
    starts = np.concatenate([[0], lengths.cumsum()[:-1]])
    return np.concatenate(list(episodes))[starts[chosen] + rng.integers(lengths[chosen])]


def shuffle(episodes: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """
    Visit frames once, in a random order, instead of :func:`sample_paper`.

    :param episodes: Frames of each episode
    :param rng: Source of the order
    :return: Frames, (batches, 64); those that do not fill a batch are left out, unless there are fewer than 64: then (1, frames)
    """
    order = rng.permutation(np.concatenate(list(episodes)))
    n = len(order) // BATCH
    return order[: n * BATCH].reshape(n, BATCH) if n else order[None]


def initial_weights(n_variables: int, dim: int, seed: int) -> tuple[th.Tensor, th.Tensor]:
    """
    Draw what ``nn.Linear(dim, 256)`` begins with, one layer per variable.

    :param n_variables: Layers
    :param dim: Features
    :param seed: Seed of the draws
    :return: Weights, (variables, 256, dim), and biases, (variables, 256)
    """
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        layers = [nn.Linear(dim, VALUES) for _ in range(n_variables)]
    return th.stack([layer.weight.detach() for layer in layers]), th.stack([layer.bias.detach() for layer in layers])


def _logits(inputs: th.Tensor, weight: th.Tensor, bias: th.Tensor) -> th.Tensor:
    """
    :param inputs: (n, dim)
    :param weight: (variables, 256, dim)
    :param bias: (variables, 256)
    :return: (n, variables, 256)
    """
    return th.addmm(bias.flatten(), inputs, weight.flatten(0, 1).T).view(len(inputs), *bias.shape)


class _Plateaus:
    """
    Each variable's learning rate and end of training.

    :param n_variables: Variables
    :param rate: Learning rate to begin with
    """

    def __init__(self, n_variables: int, rate: float = LEARNING_RATE) -> None:
        self.rate = np.full(n_variables, rate)
        self.training = np.ones(n_variables, bool)
        self.epochs = np.zeros(n_variables, int)
        self.best = np.full(n_variables, -np.inf)
        self._since_best = np.zeros(n_variables, int)
        self._rate_best = np.full(n_variables, -np.inf)
        self._since_rate_best = np.zeros(n_variables, int)

    def update(self, accuracy: np.ndarray) -> np.ndarray:
        """
        Take in an epoch's validation accuracy.

        :param accuracy: (variables,)
        :return: Which variables are better than ever before, (variables,)
        """
        improved = self.training & (accuracy > self.best)
        self.best[improved] = accuracy[improved]
        self.epochs += self.training
        self._since_best = np.where(improved, 0, self._since_best + 1)
        self.training &= self._since_best < STOP_PATIENCE
        clearly = accuracy > self._rate_best * (1 + RATE_THRESHOLD)
        self._rate_best[clearly] = accuracy[clearly]
        self._since_rate_best = np.where(clearly, 0, self._since_rate_best + 1)
        slower = self.training & (self._since_rate_best > RATE_PATIENCE)
        self.rate[slower] = np.maximum(self.rate[slower] * RATE_FACTOR, LOWEST_RATE)
        self._since_rate_best[slower] = 0
        return improved


class _Trainer:
    """
    Linear layers of all variables, and one Adam that has a learning rate for each.

    :param weight: (variables, 256, dim), changed in place
    :param bias: (variables, 256), changed in place
    :param rate: Learning rate to begin with
    """

    def __init__(self, weight: th.Tensor, bias: th.Tensor, rate: float = LEARNING_RATE) -> None:
        self.weight, self.bias = weight, bias
        # Views: Adam sees a parameter group per variable, the forward pass one matrix.
        groups = [{"params": list(pair)} for pair in zip(weight.unbind(), bias.unbind(), strict=True)]
        self.adam = th.optim.Adam(groups, rate, eps=1e-5, fused=weight.device.type in ("cpu", "cuda"))

    def step(self, inputs: th.Tensor, targets: th.Tensor, training: np.ndarray) -> None:
        """
        Descend the mean cross-entropy of each variable that still trains.

        :param inputs: (batch, dim)
        :param targets: (batch, variables), int64
        :param training: (variables,), which ones to change
        """
        weight, bias = self.weight, self.bias
        if not training.all():
            weight, bias, targets = weight[training], bias[training], targets[:, training]
        # The gradient with respect to the logits: probabilities, less 1 for the true class.
        errors = _logits(inputs, weight, bias).softmax(2)
        errors.scatter_add_(2, targets[:, :, None], th.full_like(errors[:, :, :1], -1))
        errors = errors.flatten(1) / len(inputs)
        gradients = zip((errors.T @ inputs).view_as(weight), errors.sum(0).view_as(bias), strict=True)
        for group, trains in zip(self.adam.param_groups, training, strict=True):
            # Adam leaves alone what has no gradient.
            for parameter, gradient in zip(group["params"], next(gradients) if trains else (None, None), strict=True):
                parameter.grad = gradient
        self.adam.step()

    def set_rates(self, rates: np.ndarray) -> None:
        """
        Set learning rates.

        :param rates: (variables,)
        """
        for group, rate in zip(self.adam.param_groups, rates, strict=True):
            group["lr"] = float(rate)


@th.no_grad()
def fit_paper(
    features: np.ndarray,
    labels: np.ndarray,
    train_episodes: Sequence[np.ndarray],
    val_episodes: Sequence[np.ndarray],
    *,
    seed: int = 42,
    epochs: int = 100,
    learning_rate: float = LEARNING_RATE,
    last_weights: bool = True,
    episode_sampling: bool = True,
    standardise: bool = False,
    device: str | th.device = "cpu",
    progress: bool = False,
) -> PaperProbe:
    """
    Train linear probes as the reference does; the switches take its quirks away one by one.

    :param features: (n_frames, dim), fp16 or fp32, possibly on disk; scaled as they are
    :param labels: (n_frames, variables), uint8
    :param train_episodes: Frames of each training episode
    :param val_episodes: Frames of each validation episode
    :param seed: Seed of the initial weights and of the sampling
    :param epochs: At most so many (PEARL's loop counts from 1: 99)
    :param learning_rate: To begin with; the reference's script has 3e-4, its class would have 5e-4
    :param last_weights: Keep the last weights; False: those of each variable's best validation accuracy
    :param episode_sampling: Sample episodes, then frames; False: visit every frame once in each epoch
    :param standardise: Give each feature mean 0 and deviation 1 on the training frames
    :param device: Where to train
    :param progress: Whether to show a progress bar
    :return: The probe
    :raises ValueError: for wrong shapes, an empty split, or features that are not finite
    """
    rng = np.random.default_rng(seed)
    draw = sample_paper if episode_sampling else shuffle
    for name, episodes in (("train_episodes", train_episodes), ("val_episodes", val_episodes)):
        frames = np.concatenate(list(episodes)) if len(episodes) else np.empty(0, np.int64)
        check_inputs(features, labels, **{name: frames})
    scaler = Standardiser.fit(features, np.concatenate(list(train_episodes)), device) if standardise else None
    read = scaler or (lambda values, index: rows(values, index, device))
    weight, bias = (part.to(device) for part in initial_weights(labels.shape[1], features.shape[1], seed))
    trainer, plateaus = _Trainer(weight, bias, learning_rate), _Plateaus(labels.shape[1], learning_rate)
    best_weight, best_bias = weight.clone(), bias.clone()
    kept_accuracy = np.zeros(labels.shape[1])
    for _ in tqdm(range(epochs), desc="training probes", unit="epoch", disable=not progress):
        for batch in draw(train_episodes, rng):
            trainer.step(read(features, batch), th.from_numpy(labels[batch]).to(device, th.int64), plateaus.training)
        trained = plateaus.training.copy()
        index = draw(val_episodes, rng).ravel()
        guess = PaperProbe(weight, bias, scaler, []).predict(features, index)
        accuracy = (guess == labels[index]).mean(0)
        improved = plateaus.update(accuracy)
        trainer.set_rates(plateaus.rate)
        kept = trained if last_weights else improved
        kept_accuracy[kept] = accuracy[kept]
        best_weight[improved], best_bias[improved] = weight[improved], bias[improved]
        if not plateaus.training.any():
            break
    if not last_weights:
        weight, bias = best_weight, best_bias
    facts = [
        dict(epochs=int(n), learning_rate=float(rate), val_accuracy=float(accuracy))
        for n, rate, accuracy in zip(plateaus.epochs, plateaus.rate, kept_accuracy, strict=True)
    ]
    return PaperProbe(weight, bias, scaler, facts)
