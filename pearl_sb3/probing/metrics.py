"""
Scores of predicted memory bytes, and how sure they are.

Every score of a variable follows from three counts per byte value: how often it is the truth, the guess, and both. So scores of
many variables, and of thousands of resamples of the episodes, are sums over counts; frames are visited once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

VALUES = 256
SCORES = ("accuracy", "f1", "balanced_accuracy")


def counts(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """
    Count truths, guesses and hits of every value.

    :param truth: (n, variables), uint8
    :param guess: (n, variables), uint8
    :return: (3, variables, 256), how often each value is the truth, the guess, and both
    :raises ValueError: if shapes or types do not fit, or there are no frames
    """
    return _counts_by_group(truth, guess, np.zeros(len(truth), np.int64), 1)[0]


def _counts_by_group(truth: np.ndarray, guess: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """
    Count within each group of frames.

    :param truth: (n, variables), uint8
    :param guess: (n, variables), uint8
    :param group: (n,), from 0 to ``n_groups`` - 1
    :param n_groups: Number of groups
    :return: (groups, 3, variables, 256)
    """
    truth, guess = np.asarray(truth), np.asarray(guess)
    if truth.ndim != 2 or truth.shape != guess.shape or not truth.size:
        raise ValueError(
            f"Expected truth and guess of one shape (frames, variables) with at least one of each, got {truth.shape} and "
            f"{guess.shape}; a single variable needs a second axis: values[:, None]."
        )
    if truth.dtype != np.uint8 or guess.dtype != np.uint8:
        raise ValueError(f"Expected memory bytes (uint8), got {truth.dtype} and {guess.dtype}; use .astype(np.uint8).")
    if len(group) != len(truth):
        raise ValueError(f"Expected one episode number for each of {len(truth):,} frames, got {len(group):,}.")
    variables = truth.shape[1]
    # A number for each (group, variable, value), so that one bincount serves all of them.
    cell = (group[:, None] * variables + np.arange(variables)) * VALUES
    size = n_groups * variables * VALUES
    parts = (cell + truth, cell + guess, (cell + truth)[truth == guess])
    found = [np.bincount(part.ravel(), minlength=size).reshape(n_groups, variables, VALUES) for part in parts]
    return np.stack(found, axis=1)


def scores(counted: np.ndarray) -> dict[str, np.ndarray]:
    """
    Turn counts into scores.

    F1 is weighted by how often each value is the truth, as ``sklearn.metrics.f1_score(average="weighted")`` does; balanced accuracy
    is the mean over the values that occur of the share of them that was found.

    :param counted: (..., 3, variables, 256) as :func:`counts` gives them, or sums of such
    :return: ``accuracy``, ``f1`` and ``balanced_accuracy``, (..., variables) each, from 0 to 1
    """
    true, said, hits = (counted[..., part, :, :] for part in range(3))
    n = true.sum(-1)
    # Where the denominator is 0 the numerator is too.
    f1 = 2 * hits / np.maximum(true + said, 1)
    recall = hits / np.maximum(true, 1)
    return {
        "accuracy": hits.sum(-1) / n,
        "f1": (true * f1).sum(-1) / n,
        "balanced_accuracy": recall.sum(-1) / (true > 0).sum(-1),
    }


def classification_scores(truth: np.ndarray, guess: np.ndarray) -> dict[str, np.ndarray]:
    """
    Score guessed bytes.

    :param truth: (n, variables), uint8
    :param guess: (n, variables), uint8
    :return: ``accuracy``, ``f1`` and ``balanced_accuracy``, (variables,) each
    """
    return scores(counts(truth, guess))


def mean_absolute_error(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """
    Average how far guesses are off, in units of memory, which for positions are pixels or near them.

    :param truth: (n, variables)
    :param guess: (n, variables), numbers of any kind
    :return: (variables,)
    :raises ValueError: if shapes do not fit or there are no frames
    """
    if truth.shape != guess.shape or not len(truth):
        raise ValueError(
            f"Expected truth and guess of one shape with at least one frame, got {truth.shape} and {guess.shape}."
        )
    return np.abs(guess.astype(np.float64) - truth).mean(0)


def bootstrap_over_episodes(
    truth: np.ndarray, guess: np.ndarray, episodes: np.ndarray, *, n: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """
    Score resamples of the test episodes.

    Frames of one episode resemble each other, so whole episodes are drawn, with replacement, as many as there are. Feed the draws,
    or averages of them over variables, to :func:`interval`.

    :param truth: (frames, variables), uint8
    :param guess: (frames, variables), uint8
    :param episodes: (frames,), episode of each frame, any whole numbers
    :param n: Resamples
    :param seed: Seed of the draws
    :return: ``accuracy``, ``f1`` and ``balanced_accuracy``, (n, variables) each
    """
    names, group = np.unique(episodes, return_inverse=True)
    by_episode = _counts_by_group(truth, guess, group, len(names)).reshape(len(names), -1)
    # Most of the 256 values of a variable never occur: leave their columns out of the products.
    used = np.flatnonzero(by_episode.any(0))
    times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), n)
    columns = by_episode[:, used].astype(np.float64)
    draws = []
    for part in np.array_split(times, -(-n // 50)):
        full = np.zeros((len(part), by_episode.shape[1]))
        full[:, used] = part @ columns
        draws.append(scores(full.reshape(len(part), 3, -1, VALUES)))
    return {name: np.concatenate([draw[name] for draw in draws]) for name in SCORES}


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """
    Take the middle part of bootstrap draws.

    :param draws: (n, ...)
    :param level: Share of the draws inside
    :return: Low and high ends, (...) each
    """
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def averages(values: np.ndarray, variables: Sequence[str], categories: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """
    Average a score as published: over a category's variables, then over the categories that have any (Anand et al. 2019).

    :param values: (..., variables), for example a score, or draws of it
    :param variables: Names of the variables, in the order of ``values``
    :param categories: Variable → categories it belongs to, possibly none
    :return: ``categories`` (category → mean over its variables), ``across_categories`` (unweighted mean of these; NaN if no
        variable has a category) and ``overall`` (mean over all variables), (...) each
    :raises ValueError: if the number of names differs from the number of values
    """
    values = np.asarray(values)
    if values.shape[-1] != len(variables):
        raise ValueError(
            f"Expected a value for each of {len(variables)} variables on the last axis, got shape {values.shape}."
        )
    members: dict[str, list[int]] = {}
    for column, variable in enumerate(variables):
        for category in categories.get(variable, ()):
            members.setdefault(category, []).append(column)
    means = {category: values[..., columns].mean(-1) for category, columns in members.items()}
    across = np.mean(list(means.values()), axis=0) if means else np.full(values.shape[:-1], np.nan)
    return {"categories": means, "across_categories": across, "overall": values.mean(-1)}
