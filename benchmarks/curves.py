"""Curves of learning.py's runs: read, summarised, drawn."""

import os
from collections import defaultdict
from pathlib import Path
from statistics import mean

import numpy as np
import rows
from rows import Row

# Returns of Pong, from -21 to 21; the table says after how many steps a curve first reached them.
THRESHOLDS = (-10, 0, 10, 18)

Runs = dict[tuple[str, str], dict[int, list[Row]]]


def load(results: Path = rows.RESULTS) -> Runs:
    """
    :param results: folder that holds ``learning/``
    :return: per (game, label), per seed: the points of one run that have a mean return, oldest first
    """
    found: Runs = defaultdict(lambda: defaultdict(list))
    for path in sorted((results / "learning").glob("*.jsonl")):
        for row in rows.read(path):
            if row["mean_return"] is not None:
                found[row["game"], row["label"]][row["seed"]].append(row)
    return found


def summarise(runs: Runs) -> list[Row]:
    """
    Means over the seeds, all cut at the fewest steps that any seed has made.

    :param runs: from :func:`load`
    :return: per game and label: steps, seconds, final return, area under the curve divided by its steps, and the steps at
        which each of ``THRESHOLDS`` was first reached (None if not by every seed)
    """
    table = []
    for (game, label), seeds in runs.items():
        steps = min(points[-1]["env_steps"] for points in seeds.values())
        cut = [[row for row in points if row["env_steps"] <= steps] for points in seeds.values()]
        table.append(
            {
                "game": game,
                "label": label,
                "seeds": len(cut),
                "steps": steps,
                "seconds": mean(points[-1]["seconds"] for points in cut),
                "final": mean(points[-1]["mean_return"] for points in cut),
                "area": mean(area(points) for points in cut),
                "reached": [first([reached(points, level) for points in cut]) for level in THRESHOLDS],
            }
        )
    return table


def area(points: list[Row]) -> float:
    """
    :param points: points of one run
    :return: its mean return over the steps, by the trapezoid rule
    """
    steps, returns = (np.array([row[name] for row in points], float) for name in ("env_steps", "mean_return"))
    if len(points) == 1:
        return float(returns[0])
    return float(np.sum(np.diff(steps) * (returns[1:] + returns[:-1]) / 2) / (steps[-1] - steps[0]))


def reached(points: list[Row], level: float) -> int | None:
    """
    :param points: points of one run
    :param level: a mean return
    :return: env steps of the first point at or above it, None if there is none
    """
    return next((row["env_steps"] for row in points if row["mean_return"] >= level), None)


def first(steps: list[int | None]) -> float | None:
    """
    :param steps: per seed, from :func:`reached`
    :return: their mean, None if one seed did not get there
    """
    found = [step for step in steps if step is not None]
    return mean(found) if len(found) == len(steps) else None


def at(points: list[Row], steps: list[int]) -> np.ndarray:
    """
    :param points: points of one run
    :param steps: env steps
    :return: its mean return there, linear between points
    """
    return np.interp(steps, [row["env_steps"] for row in points], [row["mean_return"] for row in points])


def draw(runs: Runs, path: Path) -> None:
    """
    Draw mean returns over env steps and over seconds: thin lines for seeds, a thick one for their mean over steps.

    :param runs: from :func:`load`
    :param path: the picture to write, replaced only when it is complete
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    games = sorted({game for game, _ in runs})
    figure, axes = plt.subplots(len(games), 2, figsize=(11, 4 * len(games)), squeeze=False, sharey="row", layout="constrained")
    for row_axes, game in zip(axes, games, strict=True):
        labels = sorted(label for of_game, label in runs if of_game == game)
        for color, label in zip(plt.rcParams["axes.prop_cycle"].by_key()["color"] * 3, labels, strict=False):
            seeds = runs[game, label]
            for points in seeds.values():
                returns = [row["mean_return"] for row in points]
                row_axes[0].plot([row["env_steps"] for row in points], returns, color=color, lw=0.7, alpha=0.6)
                row_axes[1].plot([row["seconds"] / 60 for row in points], returns, color=color, lw=1.2)
            steps = [row["env_steps"] for row in min(seeds.values(), key=len)]
            returns = np.mean([at(points, steps) for points in seeds.values()], 0)
            row_axes[0].plot(steps, returns, color=color, lw=2.2, label=f"{label} ({len(seeds)} seed{'s' * (len(seeds) > 1)})")
        row_axes[0].set(xlabel="env steps", ylabel=f"{game}: mean return of the last 100 episodes")
        row_axes[1].set(xlabel="minutes of training")
        row_axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.new.png")
    figure.savefig(temporary, dpi=120)
    os.replace(temporary, path)
