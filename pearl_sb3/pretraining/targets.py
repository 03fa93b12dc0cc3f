"""What to predict of a game: its memory, as columns that a linear map could give."""

import numpy as np
import torch as th

N_BINS = 8
# Columns that one half of the plays cannot predict for the other half, even a little, only add noise to a gradient.
MIN_R2 = 0.08
RIDGE_STRENGTH = 0.1


def memory_columns(ram: np.ndarray) -> th.Tensor:
    """
    Turn memory bytes into regression targets: each byte's value, and how near it is to each of 8 places in its range.

    The value alone would ask for positions on a straight line only; the places ask for each position to be told from the others.

    :param ram: uint8, (n, 128).
    :return: Columns with mean 0 and deviation 1, (n, columns); bytes that hardly ever change give none.
    """
    places = np.linspace(0, 1, N_BINS)
    columns = []
    for byte in ram.T.astype(np.float32):
        low, high = np.quantile(byte, [0.005, 0.995])
        if high > low:
            value = np.clip((byte - low) / (high - low), 0, 1)
            near = np.clip(1 - np.abs(value[:, None] - places) * (N_BINS - 1), 0, None)
            columns += [value, *near[:, near.std(0) > 0.05].T]
    if not columns:
        return th.zeros(len(ram), 0)
    table = np.stack(columns, 1).astype(np.float32)
    return th.from_numpy((table - table.mean(0)) / table.std(0).clip(1e-3))


def predictable(features: th.Tensor, columns: th.Tensor) -> th.Tensor:
    """
    Find the columns that some features explain on plays they were not fitted on.

    :param features: Features of frames in order of play, (n, d).
    :param columns: Targets of the same frames, (n, columns).
    :return: Indices of columns whose R² on the second half, fitted on the first, exceeds 0.08.
    """
    half = len(features) // 2
    centred = features - features[:half].mean(0)
    centred = (centred / centred.square().mean().sqrt().clamp_min(1e-6)).clamp(-8, 8) / features.shape[1] ** 0.5
    gram = centred[:half] @ centred[:half].T + RIDGE_STRENGTH * th.eye(half)
    guess = centred[half:] @ centred[:half].T @ th.linalg.solve(gram, columns[:half])
    truth = columns[half:]
    r2 = 1 - (guess - truth).square().sum(0) / (truth - truth.mean(0)).square().sum(0).clamp_min(1e-3)
    return (r2 > MIN_R2).nonzero()[:, 0]
