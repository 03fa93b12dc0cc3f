"""
Ask in a minute how much of a game's hidden state a linear probe reads from an encoder's tokens.

A quick comparison for choosing what to pretrain, not the package's probing protocol: five games, random play, positions of
players, balls and enemies only, plays (not frames) held out. One ridge regression per number of labels predicts each byte and
each of its values; from it come F1 (weighted over the byte's values, mean over variables) and R² (of the byte, mean over variables;
`r2_small` only for balls and missiles). The penalty's strength is chosen on the last fifth of the labels.

Example: ``python benchmarks/quick_probe.py --subjects pixels random:0 pearl-tiny DIR/encoder.safetensors``
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import timm
import torch as th
from safetensors.torch import load_file

from pearl_sb3.encoders import networks
from pearl_sb3.pretraining.frames import play

RESULTS = Path(__file__).parent / "results" / "quick_probe.json"

# RAM bytes of the variables, as AtariARI annotates them.
VARIABLES = {
    "pong": {"player_y": 51, "enemy_y": 50, "ball_x": 49, "ball_y": 54},
    "boxing": {"player_x": 32, "player_y": 34, "enemy_x": 33, "enemy_y": 35},
    "breakout": {"ball_x": 99, "ball_y": 101, "player_x": 72, "blocks_hit_count": 77},
    "ms_pacman": {
        "player_x": 10,
        "player_y": 16,
        "enemy_sue_x": 6,
        "enemy_sue_y": 12,
        "enemy_blinky_x": 9,
        "enemy_blinky_y": 15,
        "dots_eaten_count": 119,
    },
    "space_invaders": {"player_x": 28, "enemies_x": 26, "enemies_y": 24, "missiles_y": 9, "invaders_left_count": 17},
}
SMALL = ("ball_x", "ball_y", "missiles_y")
STRENGTHS = (10.0, 100.0, 1000.0, 10000.0)


def labelled_frames(game: str, seed: int) -> dict[str, np.ndarray]:
    """
    Play a game at random and hold out the last plays.

    :param game: ROM name.
    :param seed: Seed of the play.
    :return: Frames, uint8 (n, 84, 84), and bytes, (n, variables), of ``train`` (9,000) and ``test`` (3,000).
    """
    record = play(game, 12_000, seed, n_plays=8)
    labels = record.ram[:, :, list(VARIABLES[game].values())]
    return {
        "train": record.frames[:6].reshape(-1, 84, 84),
        "test": record.frames[6:].reshape(-1, 84, 84),
        "train_labels": labels[:6].reshape(-1, labels.shape[-1]),
        "test_labels": labels[6:].reshape(-1, labels.shape[-1]),
    }


def pixels(frames: np.ndarray) -> th.Tensor:
    """
    The control without an encoder.

    :param frames: uint8, (n, 84, 84).
    :return: The same at 42 × 42, flat, (n, 1764).
    """
    small = np.stack([cv2.resize(frame, (42, 42), interpolation=cv2.INTER_AREA) for frame in frames])
    return th.from_numpy(small).flatten(1).float()


@th.inference_mode()
def tokens(model: networks.PearlConv, frames: np.ndarray) -> th.Tensor:
    """
    Encode frames.

    :param model: The network.
    :param frames: uint8, (n, 84, 84).
    :return: All tokens of each frame, flat, (n, tokens * channels).
    """
    config = timm.data.resolve_model_data_config(model)
    mean, std = config["mean"][0], config["std"][0]
    chunks = th.from_numpy(frames).unsqueeze(1).split(256)
    return th.cat([model.forward_features((chunk / 255 - mean) / std).flatten(1) for chunk in chunks])


def standardise(train: th.Tensor, test: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Give each feature mean 0 and deviation 1 on the training frames; a constant feature becomes 0.

    :param train: (n, d).
    :param test: (m, d).
    :return: Both, standardised.
    """
    mean, std = train.mean(0), train.std(0)
    scale = th.where(std > 1e-4, 1 / std.clamp_min(1e-4), th.zeros_like(std))
    # Rare features reach large values on unseen plays; a bound keeps one cell from deciding a frame.
    return ((train - mean) * scale).clamp(-10, 10), ((test - mean) * scale).clamp(-10, 10)


def ridge_path(features: th.Tensor, targets: th.Tensor) -> list[th.Tensor]:
    """
    Solve ridge regressions of every strength, in whichever of the two forms is smaller.

    :param features: (n, d).
    :param targets: (n, t).
    :return: Weights, (d, t), for each strength.
    """
    n, d = features.shape
    if n < d:
        gram = features @ features.T
        return [features.T @ th.linalg.solve(gram + s * th.eye(n), targets) for s in STRENGTHS]
    gram, moment = features.T @ features, features.T @ targets
    return [th.linalg.solve(gram + s * th.eye(d), moment) for s in STRENGTHS]


def weighted_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    """
    F1 of each value, weighted by how often the value occurs.

    :param truth: (n,).
    :param guess: (n,).
    :return: Between 0 and 1.
    """
    total = 0.0
    for value in np.unique(truth):
        real, said = truth == value, guess == value
        total += real.mean() * 2 * (real & said).sum() / (real.sum() + said.sum())
    return float(total)


def scores(outputs: th.Tensor, labels: np.ndarray, known: list[np.ndarray]) -> np.ndarray:
    """
    Score predictions.

    :param outputs: One column for each value of each byte, then one for each byte, (n, t).
    :param labels: Bytes, (n, v).
    :param known: Values of each byte that the labels held.
    :return: F1 and R² (not below -1) of each variable, (2, v).
    """
    *choices, values = outputs.split([len(k) for k in known] + [len(known)], dim=1)
    f1 = [weighted_f1(truth, k[c.argmax(1).numpy()]) for truth, k, c in zip(labels.T, known, choices, strict=True)]
    residual = ((values.numpy() - labels) ** 2).mean(0)
    return np.array([f1, np.maximum(1 - residual / labels.var(0).clip(1e-6), -1)])


def probe_variables(train: th.Tensor, labels: np.ndarray, test: th.Tensor, test_labels: np.ndarray) -> np.ndarray:
    """
    Probe all variables of a game.

    :param train: Standardised features, (n, d).
    :param labels: Bytes, (n, v).
    :param test: (m, d).
    :param test_labels: (m, v).
    :return: F1 and R² of each variable on the test frames, (2, v).
    """
    known = [np.unique(column) for column in labels.T]
    values = [(column[:, None] == k).astype(np.float32) for column, k in zip(labels.T, known, strict=True)]
    targets = th.from_numpy(np.concatenate([*values, labels.astype(np.float32)], axis=1))
    offset, fit = targets.mean(0), len(train) * 4 // 5
    trial = [train[fit:] @ weights + offset for weights in ridge_path(train[:fit], targets[:fit] - offset)]
    best = np.stack([scores(outputs, labels[fit:], known) for outputs in trial]).argmax(0)
    final = [test @ weights + offset for weights in ridge_path(train, targets - offset)]
    reached = np.stack([scores(outputs, test_labels, known) for outputs in final])
    return np.take_along_axis(reached, best[None], axis=0)[0]


def probe(embed: Callable[[np.ndarray], th.Tensor], games: dict[str, dict[str, np.ndarray]], seed: int) -> list[dict]:
    """
    Probe one subject on every game.

    :param embed: Frames → features.
    :param games: What ``labelled_frames`` gave, by game.
    :param seed: Seed of the choice of labels.
    :return: Rows with game, n_labels, metric and value.
    """
    rows = []
    for game, data in games.items():
        features, test = standardise(embed(data["train"]), embed(data["test"]))
        small = [name in SMALL for name in VARIABLES[game]]
        for n_labels in (8000, 500):
            chosen = np.random.default_rng(seed).permutation(len(features))[:n_labels]
            f1, r2 = probe_variables(features[chosen], data["train_labels"][chosen], test, data["test_labels"])
            values = {"f1": f1.mean(), "r2": r2.mean()} | ({"r2_small": r2[small].mean()} if any(small) else {})
            rows += [{"game": game, "n_labels": n_labels, "metric": m, "value": round(float(v), 4)} for m, v in values.items()]
    return rows


def summary(rows: list[dict]) -> str:
    """
    Lay a subject's rows out as one line.

    :param rows: What ``probe`` gave.
    :return: Mean over games of each metric at both numbers of labels, then F1 by game.
    """

    def values(metric: str, n_labels: int) -> list[float]:
        return [row["value"] for row in rows if row["metric"] == metric and row["n_labels"] == n_labels]

    means = [f"{np.mean(values(metric, 8000)):.3f}/{np.mean(values(metric, 500)):.3f}" for metric in ("f1", "r2", "r2_small")]
    games = [f"{a:.2f}/{b:.2f}" for a, b in zip(values("f1", 8000), values("f1", 500), strict=True)]
    return " ".join(f"{cell:>13}" for cell in means + games)


def embedding(subject: str) -> Callable[[np.ndarray], th.Tensor]:
    """
    Turn a subject's name into a function of frames.

    :param subject: ``pixels``, ``random:SEED``, a bundled name or a weight file.
    :return: Frames → features.
    """
    if subject == "pixels":
        return pixels
    with th.random.fork_rng(devices=[]):
        th.manual_seed(int(subject.removeprefix("random:")) if subject.startswith("random:") else 0)
        network = networks.pearl_conv_tiny().eval()
    if not subject.startswith("random:"):
        bundled = Path(networks.__file__).parent / "bundled" / f"{subject}.safetensors"
        network.load_state_dict(load_file(bundled if bundled.is_file() else subject))
    return lambda frames: tokens(network, frames)


def main() -> None:
    """Probe the subjects named on the command line, print a table, add rows to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", nargs="+", default=["pixels", "random:0", "random:1", "random:2", "pearl-tiny"])
    parser.add_argument("--seed", type=int, default=1, help="seed of the play and of the choice of labels")
    args = parser.parse_args()
    games = {game: labelled_frames(game, args.seed) for game in VARIABLES}
    command = shlex.join(["python", "benchmarks/quick_probe.py", *sys.argv[1:]])
    versions = {package: version(package) for package in ("torch", "timm", "ale-py", "numpy")}
    print("mean over games, 8,000/500 labels".ljust(34) + " ".join(f"{name:>13}" for name in ("f1", "r2", "r2_small", *games)))
    rows = []
    for subject in args.subjects:
        found = probe(embedding(subject), games, args.seed)
        name = Path(subject).parent.name if subject.endswith(".safetensors") else subject
        print(name.ljust(34) + summary(found), flush=True)
        rows += [{"subject": name, **row, "seed": args.seed, "command": command, "versions": versions} for row in found]
    earlier = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    fresh = {(row["subject"], row["seed"]) for row in rows}
    kept = [row for row in earlier if (row["subject"], row["seed"]) not in fresh]
    unfinished = RESULTS.with_suffix(".tmp")
    unfinished.write_text("[\n" + ",\n".join(json.dumps(row) for row in kept + rows) + "\n]\n")
    os.replace(unfinished, RESULTS)


if __name__ == "__main__":
    main()
