"""The layers of all variables' probes side by side, at several strengths of regularisation at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch as th
from torch import nn

from pearl_sb3.probing.metrics import VALUES


def blocks(lengths: Sequence[int]) -> list[slice]:
    """
    Say where consecutive blocks lie.

    :param lengths: Length of each block
    :return: Their places
    """
    return [slice(end - length, end) for length, end in zip(lengths, accumulate(lengths), strict=True)]


@dataclass(frozen=True)
class Classes:
    """
    The values that each variable takes in training: what a probe can say. Their columns are numbered through all variables.

    :param values: Of each variable, ascending, uint8
    """

    values: list[np.ndarray]

    @classmethod
    def seen(cls, labels: np.ndarray) -> "Classes":
        """
        Collect values.

        :param labels: (n, variables), uint8
        :return: The classes
        """
        return cls([np.unique(column) for column in labels.T])

    @property
    def sizes(self) -> list[int]:
        """Number of values of each variable."""
        return [len(values) for values in self.values]

    def columns(self, labels: np.ndarray) -> th.Tensor:
        """
        Find the columns of values seen in training.

        :param labels: (n, variables), uint8
        :return: (n, variables), int64
        """
        table = np.zeros((len(self.values), VALUES), np.int64)
        for row, values, place in zip(table, self.values, blocks(self.sizes), strict=True):
            row[values] = range(place.start, place.stop)
        return th.from_numpy(table[np.arange(len(table)), labels])

    def choose(self, logits: th.Tensor) -> np.ndarray:
        """
        Give each variable's most likely value.

        :param logits: (..., columns)
        :return: (..., variables), uint8
        """
        best = [part.argmax(-1).cpu().numpy() for part in logits.split(self.sizes, dim=-1)]
        return np.stack([values[choice] for values, choice in zip(self.values, best, strict=True)], axis=-1)

    @th.no_grad()
    def errors(self, logits: th.Tensor, columns: th.Tensor) -> th.Tensor:
        """
        Differentiate the cross-entropy, mean over frames and summed over variables, by the logits.

        That is probabilities less 1 for the true value. A loop over variables, whose numbers of classes differ: with 30 of them it
        takes a fortieth of the time of the matrix products.

        :param logits: (n, strengths, columns)
        :param columns: True columns, (n, variables), int64
        :return: (n, strengths, columns)
        """
        errors = th.cat([part.softmax(2) for part in logits.split(self.sizes, dim=2)], dim=2)
        places = columns[:, None].expand(-1, logits.shape[1], -1)
        return errors.scatter_add_(2, places, errors.new_full((1, 1, 1), -1.0).expand(places.shape)) / len(logits)


class LinearHeads(nn.Module):
    """
    One linear layer per strength and variable.

    :param sizes: Number of classes of each variable
    :param rank: Number of inputs
    :param n_strengths: Copies of everything
    """

    def __init__(self, sizes: list[int], rank: int, n_strengths: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.weight = nn.Parameter(th.zeros(n_strengths, sum(sizes), rank))
        self.bias = nn.Parameter(th.zeros(n_strengths, sum(sizes)))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        Give logits.

        :param inputs: (n, rank)
        :return: (n, strengths, columns)
        """
        logits = th.addmm(self.bias.flatten(), inputs, self.weight.flatten(0, 1).T)
        return logits.view(len(inputs), *self.bias.shape)

    def lengths(self) -> list[list[int]]:
        """
        Say which part of each parameter belongs to which variable.

        :return: For each of ``parameters()``, the length along axis 1 of each variable's block
        """
        return [self.sizes, self.sizes]

    @th.no_grad()
    def penalise(self, strengths: th.Tensor, spread: th.Tensor) -> None:
        """
        Add to the gradients that of half the squared weights of the standardised features, times each strength.

        :param strengths: (strengths,)
        :param spread: What each input was divided by, (rank,)
        """
        assert self.weight.grad is not None
        self.weight.grad.addcmul_(self.weight, strengths[:, None, None] / spread.square())

    @th.no_grad()
    def take(self, variable: int, source: "LinearHeads | MLPHeads", strength: int) -> None:
        """
        Copy one variable's layers from other heads to the first strength of these.

        :param variable: The variable
        :param source: Heads of the same kind
        :param strength: Which of their strengths
        """
        for mine, theirs, lengths in zip(self.parameters(), source.parameters(), self.lengths(), strict=True):
            place = blocks(lengths)[variable]
            mine[0, place] = theirs[strength, place]


class MLPHeads(LinearHeads):
    """
    One multi-layer perceptron (a hidden layer, ReLU) per strength and variable; variables share nothing.

    :param sizes: Number of classes of each variable
    :param rank: Number of inputs
    :param n_strengths: Copies of everything
    :param hidden: Width of the hidden layer
    :param seed: Seed of the initial weights, which are the same at every strength
    """

    def __init__(self, sizes: list[int], rank: int, n_strengths: int, hidden: int, seed: int) -> None:
        super().__init__(sizes, hidden, n_strengths)
        generator = th.Generator().manual_seed(seed)
        width = hidden * len(sizes)
        # Orthogonal inputs of about variance 1: outputs of variance 2 keep that of the layer after the ReLU at 1.
        first = th.randn(width, rank, generator=generator) * (2 / rank) ** 0.5
        self.hidden_weight = nn.Parameter(first.repeat(n_strengths, 1, 1))
        self.hidden_bias = nn.Parameter(th.zeros(n_strengths, width))
        # The second layer begins at 0: the first step then only fits the values' frequencies and what the hidden layer offers.

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        Give logits.

        :param inputs: (n, rank)
        :return: (n, strengths, columns)
        """
        hidden = th.addmm(self.hidden_bias.flatten(), inputs, self.hidden_weight.flatten(0, 1).T).relu_()
        # (strengths, variables, n, hidden)
        hidden = hidden.view(len(inputs), len(self.bias), len(self.sizes), -1).permute(1, 2, 0, 3)
        outputs = [
            part @ weight.transpose(1, 2)
            for part, weight in zip(hidden.unbind(1), self.weight.split(self.sizes, dim=1), strict=True)
        ]
        return (th.cat(outputs, dim=2) + self.bias[:, None]).transpose(0, 1)

    def lengths(self) -> list[list[int]]:
        """
        Say which part of each parameter belongs to which variable.

        :return: For each of ``parameters()``, the length along axis 1 of each variable's block
        """
        width = self.weight.shape[2]
        return [*super().lengths(), *[[width] * len(self.sizes)] * 2]

    @th.no_grad()
    def penalise(self, strengths: th.Tensor, spread: th.Tensor) -> None:
        """
        Add to the gradients that of half the squared weights of both layers, times each strength.

        :param strengths: (strengths,)
        :param spread: What each input was divided by, (rank,)
        """
        assert self.weight.grad is not None and self.hidden_weight.grad is not None
        self.weight.grad.addcmul_(self.weight, strengths[:, None, None])
        self.hidden_weight.grad.addcmul_(self.hidden_weight, strengths[:, None, None] / spread.square())
