"""Probe anything on any of the 22 games: data, embeddings, split, probe and scores, joined."""

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pearl_sb3 import __version__
from pearl_sb3.atari.labels import categories, state_variables
from pearl_sb3.probing.data import STEPS, collect, data_folder
from pearl_sb3.probing.embeddings import embeddings
from pearl_sb3.probing.inputs import Decorrelator
from pearl_sb3.probing.linear import fit_fixed
from pearl_sb3.probing.majority import fit_majority
from pearl_sb3.probing.metrics import mean_absolute_error
from pearl_sb3.probing.paper import fit_paper, sample_paper
from pearl_sb3.probing.regression import fit_ridge
from pearl_sb3.probing.result import ProbeResult, Scores, score
from pearl_sb3.probing.splits import Split, split
from pearl_sb3.probing.subjects import Function, Subject, make_subject

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

    :param subject: An encoder's name as for :func:`pearl_sb3.load_encoder`; ``"majority"``, ``"pixels"`` or ``"random-cnn"``;
        anything :mod:`pearl_sb3.probing.subjects` makes; or a function of screens (n, 210, 160, 3) uint8 that gives (n, dim)
    :param game: One of the 22 games, in any spelling
    :param protocol: ``"fixed"`` or ``"paper"``
    :param steps: Env steps of play
    :param annotations: ``"current"`` (336 variables, the PEARL paper's) or ``"2019"`` (308, those of ST-DIM's tables)
    :param hidden: Units of a hidden layer, None for the linear probe
    :param few_shot: Numbers of labelled frames to repeat the ``"fixed"`` probe with
    :param seed: Seed of play, split and probe
    :param player: Saved agent that plays with 20 % random actions; None plays at random
    :param data: Folder of frames and embeddings, see :func:`pearl_sb3.probing.data.data_folder`
    :param device: Where probes are trained
    :param progress: Whether to show progress bars
    :return: The scores
    :raises ValueError: for an unknown game or name, too few episodes, embeddings of a wrong shape
    :raises FileNotFoundError: if weights cannot be had
    """
    if protocol == "paper" and (hidden is not None or few_shot):
        raise ValueError('protocol="paper" has a linear probe on all labels: leave out hidden and few_shot, or use "fixed".')
    # Before any playing, so that a wrong name costs no minutes.
    variables = state_variables(game, annotations)
    made = None if subject == "majority" else make_subject(subject) if isinstance(subject, str) else _subject(subject)
    frames = collect(game, steps, seed, player, folder=data, progress=progress)
    parts = split(frames, variables, protocol, seed)
    train, val, test = (np.concatenate(part) for part in (parts.train, parts.val, parts.test))
    if max(few_shot, default=0) > len(train):
        raise ValueError(
            f"few_shot={max(few_shot)}: the training episodes have {len(train):,} frames. Collect more steps, or ask for fewer."
        )
    features = np.zeros((len(frames), 1), np.float32)
    if made is not None:
        features = embeddings(frames, made, data_folder(data), progress)
    few: dict[int, Scores] = {}
    errors = None
    if made is None:
        fitted: Any = fit_majority(parts.labels, train)
    elif protocol == "paper":
        fitted = fit_paper(features, parts.labels, parts.train, parts.val, seed=seed, device=device, progress=progress)
        test = sample_paper(parts.test, np.random.default_rng(seed)).ravel()
    else:
        inputs = Decorrelator.fit(features, train, device)
        shared: dict[str, Any] = dict(hidden=hidden, seed=seed, device=device)
        fitted = fit_fixed(features, parts.labels, train, val, inputs=inputs, progress=progress, **shared)
        ridge = fit_ridge(features, parts.labels, train, val, inputs=inputs, device=device)
        errors = mean_absolute_error(parts.labels[test], ridge.predict(features, test))
        few = {n: _few_shot(n, features, parts, test, shared) for n in few_shot}
    scores = score(parts.labels[test], fitted.predict(features, test), _episode_of(parts.test, test), parts.variables, seed)
    game_scores, overall, per_category, per_variable = scores
    if errors is not None:
        for name, error in zip(parts.variables, errors, strict=True):
            if set(categories(name)) & set(LOCALIZATION):
                per_variable[name]["mae"] = float(error)
    return ProbeResult(
        game=frames.manifest["game"],
        subject="majority" if made is None else made.name,
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
            "embedding": None if made is None else made.identity,
            "dim": None if made is None else features.shape[1],
            "hidden": hidden,
            "seed": seed,
            "versions": _versions(),
        },
    )


def _subject(subject: Any) -> Subject:
    is_subject: bool = hasattr(subject, "embed")
    return subject if is_subject else Function(subject)


def _few_shot(n: int, features: np.ndarray, parts: Split, test: np.ndarray, shared: dict[str, Any]) -> Scores:
    """Fit with ``n`` labelled frames in all: the fifth of them that chooses the regularisation is no gift."""
    train = np.concatenate(parts.train)
    chosen = np.random.default_rng([shared["seed"], n]).choice(train, n, replace=False)
    n_val = max(1, n // 5)
    fitted = fit_fixed(features, parts.labels, np.sort(chosen[n_val:]), np.sort(chosen[:n_val]), progress=False, **shared)
    guess = fitted.predict(features, test)
    return score(parts.labels[test], guess, _episode_of(parts.test, test), parts.variables, shared["seed"])[0]


def _episode_of(episodes: list[np.ndarray], frames: np.ndarray) -> np.ndarray:
    """Give the number of each frame's episode; episodes and their frames ascend only within themselves."""
    owner = {int(frame): number for number, episode in enumerate(episodes) for frame in episode}
    return np.array([owner[int(frame)] for frame in frames])


def _versions() -> dict[str, str]:
    names = ("torch", "timm", "stable_baselines3", "ale_py", "gymnasium", "numpy")
    return {"python": platform.python_version(), "pearl_sb3": __version__, **{name: version(name) for name in names}}
