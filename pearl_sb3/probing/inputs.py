"""Features as probes want them: checked, standardised on the training frames, and decorrelated."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch as th

CHUNK = 2048
# A feature whose deviation is below this share of the typical one is constant but for rounding.
CONSTANT = 1e-4
# Rare features reach large values on unseen episodes; a bound keeps one of them from deciding a frame.
BOUND = 10.0
# Directions with less than this share of the largest variance are lost in fp32 rounding.
ROUNDING = 1e-6
# Added to each direction's variance before it is scaled to 1, in units of a standardised feature's: keeps noise small.
DAMPING = 0.1
# Bytes of decorrelated features to keep for one split; more are computed again in every epoch.
MEMORY = 3 << 29


def check_inputs(features: np.ndarray, labels: np.ndarray | None = None, **splits: np.ndarray) -> None:
    """
    Refuse what no probe can learn from.

    :param features: (n_frames, dim)
    :param labels: (n_frames, n_variables), uint8
    :param splits: Name → frames
    :raises ValueError: if a shape, type, or index is wrong, or a split is empty
    """
    if features.ndim != 2:
        raise ValueError(f"Expected features of shape (frames, dim), got {features.shape}; flatten all axes but the first.")
    n = len(features)
    if labels is not None:
        if labels.ndim != 2 or len(labels) != n:
            raise ValueError(
                f"Expected labels of shape ({n}, variables) for {n} frames of features, got {labels.shape}; give one row per "
                "frame, and for a single variable a second axis: labels[:, None]."
            )
        if labels.dtype != np.uint8:
            raise ValueError(f"Expected labels to be memory bytes (uint8), got {labels.dtype}; use labels.astype(np.uint8).")
    for name, index in splits.items():
        index = np.asarray(index)
        if not index.size:
            raise ValueError(f"No frames in {name!r}: collect more episodes, or give this part of the split more of them.")
        if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
            raise ValueError(
                f"Expected {name!r} to be a list of frame numbers, got {index.dtype} of shape {index.shape}; of a mask take "
                "np.flatnonzero."
            )
        if index.min() < 0 or index.max() >= n:
            raise ValueError(f"{name!r} names frames {index.min()} to {index.max()}, the features have frames 0 to {n - 1}.")


def frames_to_predict(features: np.ndarray, index: np.ndarray | None) -> np.ndarray:
    """
    Say which frames a prediction is for.

    :param features: (n_frames, dim)
    :param index: Frames, None for all
    :return: Frames
    :raises ValueError: if the features have another shape
    """
    check_inputs(features)
    return np.arange(len(features)) if index is None else np.asarray(index)


def rows(features: np.ndarray, index: np.ndarray, device: str | th.device = "cpu") -> th.Tensor:
    """
    Read the features of some frames.

    :param features: (n_frames, dim), possibly on disk
    :param index: Frames
    :param device: Where they go
    :return: (len(index), dim), fp32
    :raises ValueError: if a feature is NaN or infinite
    """
    # A file is read faster from its beginning to its end.
    order = np.argsort(index, kind="stable")
    part = np.empty((len(index), features.shape[1]), features.dtype)
    part[order] = features[np.asarray(index)[order]]
    values = th.from_numpy(part).to(device, th.float32)
    if not th.isfinite(values).all():
        bad = int(np.asarray(index)[int((~th.isfinite(values)).any(1).nonzero()[0])])
        raise ValueError(
            f"The features of frame {bad} hold NaN or infinite values: look at what the encoder gives for it, and store fp32 if "
            "values exceed 65,504."
        )
    return values


def chunks(index: np.ndarray, size: int | None = None) -> list[np.ndarray]:
    """
    Cut a list of frames into parts.

    :param index: Frames
    :param size: Frames per part, None for 2,048
    :return: The parts
    """
    size = size or CHUNK
    return [index[at : at + size] for at in range(0, len(index), size)]


@dataclass(frozen=True)
class Standardiser:
    """
    Give each feature mean 0 and deviation 1 on the training frames; a constant feature becomes 0.

    :param mean: (dim,), fp32
    :param scale: (dim,), fp32, what to multiply by
    """

    mean: th.Tensor
    scale: th.Tensor

    @classmethod
    def fit(cls, features: np.ndarray, index: np.ndarray, device: str | th.device = "cpu") -> "Standardiser":
        """
        Measure features in one pass, in double precision.

        :param features: (n_frames, dim)
        :param index: Training frames
        :param device: Where to compute
        :return: The standardiser
        """
        # Sums of differences to one frame: exact zeros for constants, and no cancellation for means far from 0.
        origin = rows(features, index[:1], device).double()
        total, squares = th.zeros_like(origin[0]), th.zeros_like(origin[0])
        for part in chunks(index):
            difference = rows(features, part, device).double() - origin
            total += difference.sum(0)
            squares += difference.square().sum(0)
        shift = total / len(index)
        deviation = (squares / len(index) - shift.square()).clamp_min(0).sqrt()
        typical = deviation.square().mean().sqrt()
        scale = th.where(deviation > CONSTANT * typical, 1 / deviation, 0)
        return cls((origin[0] + shift).float(), scale.float())

    def __call__(self, features: np.ndarray, index: np.ndarray) -> th.Tensor:
        """
        Standardise some frames.

        :param features: (n_frames, dim)
        :param index: Frames
        :return: (len(index), dim)
        """
        return ((rows(features, index, self.mean.device) - self.mean) * self.scale).clamp_(-BOUND, BOUND)


@dataclass(frozen=True)
class Decorrelator:
    """
    Standardise features, then turn them to their principal directions and give each of these about the same spread.

    A linear probe can express the same on the result as on the features, but learns it many times faster: what tells the place of a
    ball is a small part of the variance of an encoder's features.

    :param standardise: Applied first
    :param directions: (dim, rank), orthonormal
    :param variance: (rank,), of the standardised training features along the directions
    """

    standardise: Standardiser
    directions: th.Tensor
    variance: th.Tensor

    @classmethod
    def fit(cls, features: np.ndarray, index: np.ndarray, device: str | th.device = "cpu") -> "Decorrelator":
        """
        Find the principal directions, in whichever of the two forms is smaller.

        :param features: (n_frames, dim)
        :param index: Training frames
        :param device: Where to compute
        :return: The decorrelator
        :raises ValueError: for wrong shapes, no frames, features that are not finite, or if none changes
        """
        check_inputs(features, train=index)
        index = np.asarray(index)
        standardise = Standardiser.fit(features, index, device)
        if not standardise.scale.any():
            raise ValueError(
                f"No feature changes over the {len(index):,} training frames: look at what the encoder is given and what it gives."
            )
        n, dim = len(index), features.shape[1]
        if n < dim:
            part = standardise(features, index)
            variance, vectors = th.linalg.eigh(part @ part.T / n)
        else:
            gram = th.zeros(dim, dim, device=device)
            for chunk in chunks(index):
                part = standardise(features, chunk)
                gram.addmm_(part.T, part, alpha=1 / n)
            variance, vectors = th.linalg.eigh(gram)
        kept = variance > ROUNDING * variance[-1]
        variance, vectors = variance[kept], vectors[:, kept]
        directions = part.T @ vectors / (variance * n).sqrt() if n < dim else vectors
        return cls(standardise, directions, variance)

    @property
    def spread(self) -> th.Tensor:
        """What each direction is divided by, (rank,)."""
        return (self.variance + DAMPING).sqrt()

    def __call__(self, features: np.ndarray, index: np.ndarray) -> th.Tensor:
        """
        Standardise and decorrelate some frames.

        :param features: (n_frames, dim)
        :param index: Frames
        :return: (len(index), rank)
        """
        parts = [self.standardise(features, part) @ self.directions / self.spread for part in chunks(np.asarray(index))]
        return th.cat(parts)

    def moments(self, features: np.ndarray, index: np.ndarray, targets: Callable[[np.ndarray], th.Tensor]) -> th.Tensor:
        """
        Correlate decorrelated features with targets.

        :param features: (n_frames, dim)
        :param index: Training frames
        :param targets: Given some of these frames, returns their targets, (len(frames), t), with mean 0 over all of them
        :return: Mean products, (rank, t)
        """
        # Summed before the rotation, which then turns a few columns and not every frame.
        parts = chunks(np.asarray(index))
        total = self.standardise(features, parts[0]).T @ targets(parts[0])
        for part in parts[1:]:
            total += self.standardise(features, part).T @ targets(part)
        return self.directions.T @ total / len(index) / self.spread[:, None]

    def solve(self, moments: th.Tensor, strength: float) -> th.Tensor:
        """
        Ridge regression: least mean squared error plus ``strength`` times the squared weights of the standardised features.

        Directions are uncorrelated, so each is solved by itself.

        :param moments: What :meth:`moments` gave for the training frames, (rank, t)
        :param strength: The penalty
        :return: Weights for decorrelated features, (rank, t)
        """
        return moments * (self.spread.square() / (self.variance + strength))[:, None]


class Decorrelated:
    """
    Decorrelated features of some frames: in memory if they fit, else made anew from the file when asked for.

    :param inputs: What makes them
    :param features: (n_frames, dim)
    :param index: The frames
    """

    def __init__(self, inputs: Decorrelator, features: np.ndarray, index: np.ndarray) -> None:
        self.inputs, self.features, self.index = inputs, features, np.asarray(index)
        fit = len(index) * len(inputs.variance) * 4 <= MEMORY
        self._values = inputs(features, self.index) if fit else None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, places: np.ndarray) -> th.Tensor:
        """
        Give some of them.

        :param places: Places in the list of frames
        :return: (len(places), rank)
        """
        return self.inputs(self.features, self.index[places]) if self._values is None else self._values[places]
