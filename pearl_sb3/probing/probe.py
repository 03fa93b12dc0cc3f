"""Probe anything on any of the 22 games: data, embeddings, split, probe and scores, joined."""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pearl_sb3.atari.labels import categories, state_variables
from pearl_sb3.probing.data import STEPS, LabelledFrames, collect, data_folder
from pearl_sb3.probing.embeddings import embeddings
from pearl_sb3.probing.linear import ClassProbe, fit_fixed
from pearl_sb3.probing.majority import fit_majority
from pearl_sb3.probing.metrics import mean_absolute_error
from pearl_sb3.probing.paper import fit_paper, sample_paper
from pearl_sb3.probing.regression import fit_ridge
from pearl_sb3.probing.result import ProbeResult, Scores, score
from pearl_sb3.probing.screens import gray_frames
from pearl_sb3.probing.splits import Split, split
from pearl_sb3.probing.subjects import Function, Subject, make_subject
from pearl_sb3.probing.supervised import UPDATES, fit_supervised
from pearl_sb3.provenance import commit, machine, versions

# What reads the data itself instead of embeddings.
WITHOUT_EMBEDDINGS = ("majority", "supervised")
LOCALIZATION = ("small_object_localization", "agent_localization", "other_localization")
FEW_SHOT = (100, 500, 2000, 10_000)


def probe(
    subject: str | Subject | Callable[[np.ndarray], Any] = "pearl-tiny",
    game: str = "Pong",
    protocol: str = "fixed",
    steps: int = STEPS,
    *,
    annotations: str = "current",
    hidden: int | None = None,
    few_shot: Sequence[int] = (),
    seed: int = 42,
    player: str | None = None,
    updates: int | None = None,
    data: str | Path | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> ProbeResult:
    """
    Measure how much of a game's hidden state a probe reads from embeddings.

    The protocol is AtariARI's (Anand et al. 2019, arXiv 1906.08226): frames of random play, labels from the console's memory, a
    linear classifier per variable, F1 on held-out episodes. ``"fixed"`` does it carefully: labels aligned with frames, episodes
    shuffled before the split, features standardised, regularisation chosen on validation, each test frame scored once.
    ``"paper"`` reproduces the reference, quirks included, to be laid beside published figures.

    Example::

        from pearl_sb3 import probe

        def my_model(screens):  # (n, 210, 160, 3), uint8
            return screens[:, ::10, ::10].mean(-1).reshape(len(screens), -1)  # (n, dim)

        print(probe(my_model, "Pong", steps=5000))

    :param subject: An encoder's name as for :func:`pearl_sb3.load_encoder`; ``"majority"``, ``"pixels"``, ``"pca"``,
        ``"random-cnn"``, ``"st-dim"``, ``"cpc"``, or ``"supervised"``; anything :mod:`pearl_sb3.probing.subjects` makes; or a
        function of screens (n, 210, 160, 3) uint8 that gives (n, dim)
    :param game: One of the 22 games, in any spelling
    :param protocol: ``"fixed"`` or ``"paper"``
    :param steps: Env steps of play
    :param annotations: ``"current"`` (336 variables, the PEARL paper's) or ``"2019"`` (308, those of ST-DIM's tables)
    :param hidden: Units of a hidden layer, None for the linear probe; ``"majority"`` and ``"supervised"`` have no such layer
    :param few_shot: Numbers of labelled frames to repeat the ``"fixed"`` probe with
    :param seed: Seed of play, split and probe
    :param player: Saved agent that plays with 20 % random actions; None plays at random
    :param updates: Gradient steps at most of what is trained on the game, None for 5,000
    :param data: Folder of frames and embeddings, see :func:`pearl_sb3.probing.data.data_folder`
    :param device: Where probes, and what is learnt on the game, are trained
    :param progress: Whether to show progress bars
    :return: The scores
    :raises ValueError: for an unknown game or name, too few episodes, embeddings of a wrong shape
    :raises FileNotFoundError: if weights cannot be had
    """
    if protocol == "paper" and (hidden is not None or few_shot):
        raise ValueError('protocol="paper" has a linear probe on all labels: leave out hidden and few_shot, or use "fixed".')
    code = commit()  # before the checkout can change under a long run
    # Before any playing, so that a wrong name costs no minutes.
    variables = state_variables(game, annotations)
    made = _subject(subject, game=game, folder=data, seed=seed, updates=updates, device=device, progress=progress)
    clock = [perf_counter()]
    frames = collect(game, steps, seed, player, folder=data, progress=progress)
    clock.append(perf_counter())
    parts = split(frames, variables, protocol, seed)
    train, val, test = (np.concatenate(part) for part in (parts.train, parts.val, parts.test))
    if max(few_shot, default=0) > len(train):
        raise ValueError(
            f"few_shot={max(few_shot)}: the training episodes have {len(train):,} frames. Collect more steps, or ask for fewer."
        )
    if protocol == "paper" and made != "majority":
        test = sample_paper(parts.test, np.random.default_rng(seed)).ravel()
    features = _features(made, frames, data_folder(data), progress)
    clock.append(perf_counter())
    options: dict[str, Any] = dict(seed=seed, device=device, progress=progress)
    if made == "supervised":
        options |= dict(updates=updates or UPDATES, folder=data_folder(data))
    elif protocol == "fixed":
        options |= dict(hidden=hidden)

    def fit(train: np.ndarray, val: np.ndarray) -> Any:
        return _fit(made, protocol, features, parts, train, val, frames, options)

    fitted = fit(train, val)
    errors = _position_errors(fitted, features, parts, train, val, test, device)
    few = {n: _score(fit(*_few(n, train, seed)), features, parts, test, seed)[0] for n in few_shot}
    clock.append(perf_counter())
    game_scores, overall, per_category, per_variable = _score(fitted, features, parts, test, seed)
    for name, error in errors.items():
        per_variable[name]["mae"] = error
    return ProbeResult(
        game=frames.manifest["game"],
        subject=made if isinstance(made, str) else made.name,
        protocol=protocol,
        game_scores=game_scores,
        overall=overall,
        categories=per_category,
        variables=per_variable,
        frames={"train": len(train), "val": len(val), "test": len(test)},
        episodes={"train": len(parts.train), "val": len(parts.val), "test": len(parts.test)},
        few_shot=few,
        provenance={
            "annotations": annotations,
            "constant_variables": parts.dropped,
            "data": {key: value for key, value in frames.manifest.items() if key != "segments"},
            "embedding": getattr(made, "identity", None),
            "dim": None if isinstance(made, str) else features.shape[1],
            "hidden": hidden,
            "seed": seed,
            "updates": updates,
            "training": getattr(fitted if made == "supervised" else made, "facts", None) or None,
            # What was on disk already took no time.
            "seconds": dict(zip(("frames", "embeddings", "probes"), np.diff(clock).round(1).tolist(), strict=True)),
            "versions": versions(),
            "machine": machine(),
            **code,
        },
    )


def _subject(subject: Any, **learns: Any) -> str | Subject:
    """Make what is to be probed, with what those need to know that learn on the game."""
    if isinstance(subject, str):
        return subject if subject in WITHOUT_EMBEDDINGS else make_subject(subject, **learns)
    is_subject: bool = hasattr(subject, "embed")
    return subject if is_subject else Function(subject)


def _features(made: str | Subject, frames: LabelledFrames, folder: Path, progress: bool) -> np.ndarray:
    """Give what a probe reads: embeddings, or for the supervised network the screens themselves."""
    if made == "supervised":
        return gray_frames(frames, progress)
    return np.zeros((len(frames), 1), np.float32) if isinstance(made, str) else embeddings(frames, made, folder, progress)


def _fit(
    made: str | Subject,
    protocol: str,
    features: np.ndarray,
    parts: Split,
    train: np.ndarray,
    val: np.ndarray,
    frames: LabelledFrames,
    options: dict[str, Any],
) -> Any:
    """Fit what belongs to the subject and the protocol."""
    if made == "majority":
        return fit_majority(parts.labels, train)
    if made == "supervised":
        return fit_supervised(features, parts.labels, train, val, data=frames, variables=parts.variables, **options)
    if protocol == "paper":
        # All of each part: how it samples is a matter of episodes, and there are no few labels under this protocol.
        return fit_paper(features, parts.labels, parts.train, parts.val, **options)
    return fit_fixed(features, parts.labels, train, val, **options)


def _position_errors(
    fitted: Any, features: np.ndarray, parts: Split, train: np.ndarray, val: np.ndarray, test: np.ndarray, device: str
) -> dict[str, float]:
    """Give the mean absolute error of each position by a regression beside the ``"fixed"`` probe; nothing beside others."""
    if not isinstance(fitted, ClassProbe):
        return {}
    ridge = fit_ridge(features, parts.labels, train, val, inputs=fitted.inputs, device=device)
    errors = mean_absolute_error(parts.labels[test], ridge.predict(features, test)).tolist()
    named = zip(parts.variables, errors, strict=True)
    return {name: error for name, error in named if set(categories(name)) & set(LOCALIZATION)}


def _few(n: int, train: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``n`` labelled frames in all: the fifth of them that chooses the regularisation is no gift."""
    chosen = np.random.default_rng([seed, n]).choice(train, n, replace=False)
    n_val = max(1, n // 5)
    return np.sort(chosen[n_val:]), np.sort(chosen[:n_val])


def _score(
    fitted: Any, features: np.ndarray, parts: Split, test: np.ndarray, seed: int
) -> tuple[Scores, Scores, dict[str, Scores], dict[str, Scores]]:
    guess = fitted.predict(features, test)
    return score(parts.labels[test], guess, _episode_of(parts.test, test), parts.variables, seed)


def _episode_of(episodes: list[np.ndarray], frames: np.ndarray) -> np.ndarray:
    """Give the number of each frame's episode; episodes and their frames ascend only within themselves."""
    owner = {int(frame): number for number, episode in enumerate(episodes) for frame in episode}
    return np.array([owner[int(frame)] for frame in frames])
