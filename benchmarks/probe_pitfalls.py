"""
What each quirk of the reference's probing protocol is worth: F1 from ``paper`` to ``fixed``, one change at a time.

Every line keeps the changes of the lines above, so that the first is ``pearl probe --protocol paper`` and the last is
``--protocol fixed``. Lines that change the split (alignment, shuffle) also change what is tested, and a variable at the edge of
the entropy filter may come or go: their differences hold a little of that too. Two asides stand under their line and are not
kept: test frames that are also training frames, which both protocols drop, left in; and the reference's other learning rate.

A row holds the game's F1 and accuracy as published (mean over categories) with 95 % intervals over test episodes, and the
seconds of fitting the probe on stored embeddings; lines that differ only in the test share a probe. Rows are stored as they
come, and the same command passes over those it finds stored.

Example: ``python benchmarks/probe_pitfalls.py --games Pong --encoders random-cnn --steps 5000``
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rows
import tables
import torch as th

from pearl_sb3.atari.games import resolve_game
from pearl_sb3.atari.labels import state_variables
from pearl_sb3.probing.data import STEPS, LabelledFrames, collect, data_folder
from pearl_sb3.probing.embeddings import embeddings
from pearl_sb3.probing.linear import ClassProbe, fit_fixed
from pearl_sb3.probing.paper import LEARNING_RATE, PaperProbe, fit_paper, sample_paper
from pearl_sb3.probing.result import score
from pearl_sb3.probing.splits import Split, split_episodes
from pearl_sb3.probing.subjects import make_subject

# Arguments of split_episodes, then of fit_paper; "resampled" draws the test frames as the reference does, "fixed" fits the default
# probe instead of the paper's.
SPLIT = {"shifted": True, "shuffled": False, "duplicates": False}
FIT = {"learning_rate": LEARNING_RATE, "last_weights": True, "episode_sampling": True, "standardise": False}
PAPER: dict[str, Any] = {**SPLIT, **FIT, "resampled": True, "fixed": False}
# These decide what is tested, not what is fitted.
TEST_ONLY = ("resampled", "duplicates")
# What makes a stored row the one asked for.
KEY = ("game", "encoder", "line", "switches", "steps", "annotations", "seed", "embedding")


@dataclass(frozen=True)
class Line:
    """
    One line of the ladder.

    :param number: Place in the ladder
    :param name: Short name
    :param title: What is changed, for tables
    :param against: The line it is compared with
    :param switches: All switches, those of ``PAPER``
    """

    number: int
    name: str
    title: str
    against: str | None
    switches: dict[str, Any]


def ladder() -> list[Line]:
    """
    :return: The lines in order, each with the changes of those before it, asides excepted
    """
    changes: list[tuple[str, str, dict[str, Any]]] = [
        ("paper", "the reference's protocol (`paper`)", {}),
        ("scored-once", "each test frame scored once, not a resample of them", {"resampled": False}),
        ("duplicates", "aside: test frames that are also training frames left in", {"duplicates": True}),
        (
            "faster",
            "aside: learning rate 5e-4 (the default of the reference's class) instead of 3e-4 (of its script)",
            {"learning_rate": 5e-4},
        ),
        ("aligned", "labels aligned with their frames, terminal screens kept", {"shifted": False}),
        ("shuffled", "episodes shuffled before the split", {"shuffled": True}),
        ("best-weights", "best validation weights restored", {"last_weights": False}),
        ("every-frame", "every frame once per epoch, not a sample of episodes", {"episode_sampling": False}),
        ("standardised", "features standardised", {"standardise": True}),
        ("fixed", "decorrelated, regularisation chosen on validation (`fixed`)", {"fixed": True}),
    ]
    lines: list[Line] = []
    switches, against = PAPER, None
    for number, (name, title, change) in enumerate(changes):
        lines.append(Line(number, name, title, against, {**switches, **change}))
        if not title.startswith("aside"):
            switches, against = lines[-1].switches, name
    return lines


def fit(features: np.ndarray, parts: Split, switches: dict[str, Any], seed: int, device: str) -> PaperProbe | ClassProbe:
    """
    Fit the probe of a line.

    :param features: (n_frames, dim)
    :param parts: The line's split
    :param switches: The line's switches
    :param seed: Seed of weights and batches
    :param device: Where to train
    :return: The probe
    """
    if switches["fixed"]:
        train, val = np.concatenate(parts.train), np.concatenate(parts.val)
        return fit_fixed(features, parts.labels, train, val, seed=seed, device=device)
    quirks = {name: switches[name] for name in FIT}
    return fit_paper(features, parts.labels, parts.train, parts.val, seed=seed, device=device, **quirks)


def evaluate(features: np.ndarray, parts: Split, probe: PaperProbe | ClassProbe, resampled: bool, seed: int) -> rows.Row:
    """
    Score a probe on the test frames of a split.

    :param features: (n_frames, dim)
    :param parts: The split
    :param probe: Its probe
    :param resampled: Score a random sample of episodes and frames, as the reference does; False: each frame once
    :param seed: Seed of the sample, and of the intervals
    :return: F1 and accuracy of the game with intervals, and how many frames and variables they are of
    """
    if resampled:
        frames = sample_paper(parts.test, np.random.default_rng(seed)).ravel()
    else:
        frames = np.concatenate(parts.test)
    episode = np.zeros(len(features), np.int64)
    for number, own in enumerate(parts.test):
        episode[own] = number
    found = score(parts.labels[frames], probe.predict(features, frames), episode[frames], parts.variables, seed)[0]
    kept = ("f1", "f1_interval", "accuracy", "accuracy_interval")
    counts = {part: sum(map(len, getattr(parts, part))) for part in ("train", "val")}
    return {**{name: found[name] for name in kept}, "frames": {**counts, "test": len(frames)}, "variables": parts.variables}


def climb(
    lines: list[Line], data: LabelledFrames, features: np.ndarray, variables: dict[str, int], seed: int, device: str = "cpu"
) -> Iterator[tuple[Line, rows.Row]]:
    """
    Fit and score line after line.

    :param lines: The lines, in the order of the ladder
    :param data: Frames of a game
    :param features: An embedding of each, (n_frames, dim)
    :param variables: Name → memory byte
    :param seed: Seed of split, weights and batches
    :param device: Where to train
    :return: Each line with its figures, as soon as they are there
    """
    fitted: tuple[dict[str, Any], PaperProbe | ClassProbe, float] | None = None
    for line in lines:
        parts = split_episodes(data, variables, seed, **{name: line.switches[name] for name in SPLIT})
        asked = {name: on for name, on in line.switches.items() if name not in TEST_ONLY}
        if fitted is None or fitted[0] != asked:
            start = time.perf_counter()
            probe = fit(features, parts, line.switches, seed, device)
            fitted = asked, probe, time.perf_counter() - start
        _, probe, seconds = fitted
        yield line, {**evaluate(features, parts, probe, line.switches["resampled"], seed), "seconds": round(seconds, 2)}


def key(row: rows.Row) -> tuple[str, ...]:
    """
    :param row: A row, or what it will hold
    :return: What tells it from others
    """
    return tuple(str(row[name]) for name in KEY)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """
    :param argv: command line, None for this process's
    :return: the options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", type=resolve_game, default=["pong", "boxing", "breakout"], metavar="GAME")
    parser.add_argument("--encoders", nargs="+", default=["random-cnn"], metavar="NAME", help="as for pearl probe")
    names = [line.name for line in ladder()]
    parser.add_argument("--lines", nargs="+", choices=names, default=names, metavar="LINE", help=f"of {', '.join(names)}")
    parser.add_argument("--steps", type=int, default=STEPS, help="env steps of random play per game (default: %(default)s)")
    parser.add_argument("--annotations", choices=["current", "2019"], default="current")
    parser.add_argument("--seed", type=int, default=42, help="seed of play, split and probes (default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, help="folder of frames and embeddings (default: $PEARL_DATA, or the user's cache)"
    )
    parser.add_argument("--device", default="cpu", help="where probes are trained (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=th.get_num_threads(), help="PyTorch's threads")
    parser.add_argument("--out", type=Path, default=rows.RESULTS / "probe_pitfalls.jsonl", help="file the rows are added to")
    return parser.parse_args(argv)


def main() -> None:
    """Climb the ladder for every game and encoder, store each line as it is there, print the table."""
    options = parse()
    th.set_num_threads(options.threads)
    stored = {key(row) for row in rows.read(options.out)}
    common: dict[str, Any] = {"steps": options.steps, "annotations": options.annotations, "seed": options.seed}
    for game in options.games:
        for encoder in options.encoders:
            subject = make_subject(encoder, game=game, folder=options.data, seed=options.seed)
            about = {"game": game, "encoder": encoder, "embedding": subject.identity, **common}
            asked = [line for line in ladder() if line.name in options.lines]
            missing = [line for line in asked if key({**about, "line": line.name, "switches": line.switches}) not in stored]
            if not missing:
                print(f"{game} {encoder}: all lines are stored", flush=True)
                continue
            data = collect(game, options.steps, options.seed, folder=options.data)
            features = embeddings(data, subject, data_folder(options.data))
            variables = state_variables(game, options.annotations)
            for line, figures in climb(missing, data, features, variables, options.seed, options.device):
                facts = {"number": line.number, "line": line.name, "title": line.title, "against": line.against}
                made = {"dim": features.shape[1], "data": data.id, "device": options.device}
                rows.append(
                    options.out,
                    {**about, **facts, "switches": line.switches, **figures, **made, **rows.provenance(options.seed)},
                )
                scores = f"F1 {figures['f1']:.3f}, accuracy {figures['accuracy']:.3f}, {figures['seconds']:.1f} s"
                print(f"{game} {encoder} {line.name}: {scores}", flush=True)
    print("\n" + tables.pitfalls(rows.read(options.out)))


if __name__ == "__main__":
    main()
