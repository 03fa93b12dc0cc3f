"""What a probe found: scores per variable, category and game, and how to find them again."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pearl_sb3.atari.labels import categories
from pearl_sb3.probing.disk import replacing
from pearl_sb3.probing.metrics import averages, bootstrap_over_episodes, classification_scores, interval

Scores = dict[str, Any]


@dataclass(frozen=True)
class ProbeResult:
    """
    Scores of one subject on one game.

    Scores are ``f1`` (weighted by how often each value occurs), ``accuracy`` and ``balanced_accuracy``, with 95 % intervals over
    resampled test episodes for the first two (``f1_interval``, ``accuracy_interval``).

    :param game: Game's key
    :param subject: Name of what was probed
    :param protocol: ``"fixed"`` or ``"paper"``
    :param game_scores: The game's scores as published: mean over categories of the mean over their variables
    :param overall: Mean over all variables
    :param categories: Category → mean over its variables; categories without variables are left out
    :param variables: Variable → its scores and ``categories``; for positions also ``mae``, the mean absolute error of a ridge
        regression in units of the memory (pixels or near them)
    :param frames: Frames in each part of the split
    :param episodes: Episodes in each part of the split
    :param few_shot: Labelled frames → the game's scores, where asked for
    :param provenance: Everything the scores depend on
    """

    game: str
    subject: str
    protocol: str
    game_scores: Scores
    overall: Scores
    categories: dict[str, Scores]
    variables: dict[str, Scores]
    frames: dict[str, int]
    episodes: dict[str, int]
    few_shot: dict[int, Scores] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def f1(self) -> float:
        """The game's F1, the figure of the published tables."""
        return self.game_scores["f1"]

    @property
    def accuracy(self) -> float:
        """The game's accuracy."""
        return self.game_scores["accuracy"]

    def to_dict(self) -> dict[str, Any]:
        """
        :return: All of it, ready for JSON
        """
        return {**asdict(self), "f1": self.f1, "accuracy": self.accuracy}

    def save(self, path: str | Path) -> None:
        """
        Write it as JSON, whole or not at all.

        :param path: The file
        """
        with replacing(Path(path)) as unfinished:
            unfinished.write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "ProbeResult":
        """
        :param path: A file that :meth:`save` wrote
        :return: The result
        """
        stored = json.loads(Path(path).read_text())
        stored["few_shot"] = {int(n): scores for n, scores in stored["few_shot"].items()}
        return cls(**{name: stored[name] for name in cls.__dataclass_fields__})

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {n:,}" for part, n in self.frames.items())
        lines = [f"{self.subject} on {self.game}, protocol {self.protocol}; frames: {parts}", ""]
        lines.append(f"{'':32}{'F1':>6}  {'95 % interval':15}{'accuracy':>9}{'error':>8}")
        lines += [_line(name, scores) for name, scores in self.variables.items()]
        lines += ["", *(_line(name, scores) for name, scores in self.categories.items())]
        lines += ["", _line("mean over categories", self.game_scores)]
        lines += [_line(f"  with {n:,} labelled frames", scores) for n, scores in self.few_shot.items()]
        return "\n".join(lines)


def _line(name: str, scores: Scores) -> str:
    low, high = scores["f1_interval"]
    error = f"{scores['mae']:8.2f}" if "mae" in scores else ""
    return f"{name:32}{scores['f1']:6.3f}  {low:.3f} to {high:.3f} {scores['accuracy']:9.3f}{error}"


def score(
    truth: np.ndarray, guess: np.ndarray, episodes: np.ndarray, variables: list[str], seed: int = 0
) -> tuple[Scores, Scores, dict[str, Scores], dict[str, Scores]]:
    """
    Score predictions at every level.

    :param truth: (frames, variables), uint8
    :param guess: (frames, variables), uint8
    :param episodes: (frames,), episode of each frame
    :param variables: Names of the variables
    :param seed: Seed of the resampling
    :return: Scores of the game, of all variables together, of each category, and of each variable
    """
    member = {name: categories(name) for name in variables}
    draws = bootstrap_over_episodes(truth, guess, episodes, seed=seed)
    per_variable: dict[str, Scores] = {name: {"categories": list(member[name])} for name in variables}
    per_category: dict[str, Scores] = {}
    game: Scores = {}
    overall: Scores = {}
    for name, values in classification_scores(truth, guess).items():
        point, spread = averages(values, variables, member), averages(draws[name], variables, member)
        # Without any category (Qbert's tiles alone, say) the mean over variables is all there is.
        whole = "across_categories" if point["categories"] else "overall"
        places = [(game, point[whole], spread[whole]), (overall, point["overall"], spread["overall"])]
        for category in point["categories"]:
            place = per_category.setdefault(category, {})
            places.append((place, point["categories"][category], spread["categories"][category]))
        places += [(per_variable[key], values[column], draws[name][:, column]) for column, key in enumerate(variables)]
        for place, value, drawn in places:
            place[name] = float(value)
            if name != "balanced_accuracy":
                place[f"{name}_interval"] = [float(end) for end in interval(drawn)]
    return game, overall, per_category, per_variable
