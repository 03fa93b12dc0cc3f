"""
How fast a game's probes train on stored embeddings, against the reference way of training the same probes.

Three ways to the same weights, on the same frames of one game, epochs, batches, initial weights and threads, one after the other
in this process:

1. *reference*: for each batch and each variable the encoder runs, then the variable's linear layer and its own Adam (AtariARI,
   ``probe.py``);
2. *shared*: the same, but the encoder runs once per batch, for all variables;
3. *stored*: all variables train as one matrix on embeddings that were computed before (``fit_paper``).

Frames of the first two are read into memory beforehand, in gray, so that the disk is not held against them. The third's
embeddings take time too, once for all probes to come: all frames of the data, test frames included, read from disk, embedded
by the network (the untrained reference CNN) and stored are timed apart. Epochs are few, so that no variable stops and no learning
rate falls; each epoch has its pass over the validation frames in all three ways. Seconds are of the clock, on an otherwise idle
machine; rows hold the processor's too.

The run fails unless the predictions of the three agree on more than 99 % of the validation frames.

Example: ``python benchmarks/probe_speed.py --game Breakout --frames 6000 --epochs 2``
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rows
import tables
import torch as th
from torch import nn
from torch.nn import functional as F

from pearl_sb3.atari.games import resolve_game
from pearl_sb3.atari.labels import state_variables
from pearl_sb3.probing.data import LabelledFrames, collect
from pearl_sb3.probing.embeddings import embeddings
from pearl_sb3.probing.paper import LEARNING_RATE, RATE_PATIENCE, PaperProbe, fit_paper, initial_weights, sample_paper
from pearl_sb3.probing.screens import gray
from pearl_sb3.probing.splits import split
from pearl_sb3.probing.subjects import RandomCNN

AGREEMENT = 0.99


def gray_screens(data: LabelledFrames) -> np.ndarray:
    """
    :param data: The frames
    :return: All of them in memory, (n, 210, 160), uint8
    """
    return np.concatenate([gray(screens) for _, screens, _ in data.chunks()])


def reference_way(
    network: nn.Module,
    screens: np.ndarray,
    labels: np.ndarray,
    train: Sequence[np.ndarray],
    val: Sequence[np.ndarray],
    *,
    epochs: int,
    seed: int,
    shared: bool,
) -> PaperProbe:
    """
    Train one layer per variable, each with its own Adam, with the encoder inside the loop.

    :param network: (B, 1, 210, 160) in [0, 1] → (B, dim), frozen
    :param screens: (n, 210, 160), uint8
    :param labels: (n, variables), uint8
    :param train: Frames of each training episode
    :param val: Frames of each validation episode
    :param epochs: Passes
    :param seed: Seed of initial weights and batches
    :param shared: Run the encoder once per batch; False: once per batch and variable
    :return: The probe, with the last validation accuracy of each variable
    """
    rng = np.random.default_rng(seed)
    with th.no_grad():
        dim = network(th.zeros(1, 1, *screens.shape[1:])).shape[1]
    weights, biases = initial_weights(labels.shape[1], dim, seed)
    heads = [nn.Linear(dim, len(bias)) for bias in biases]
    for head, weight, bias in zip(heads, weights, biases, strict=True):
        head.load_state_dict({"weight": weight, "bias": bias})
    adams = [th.optim.Adam(head.parameters(), LEARNING_RATE, eps=1e-5) for head in heads]
    for _ in range(epochs):
        for batch in sample_paper(train, rng):
            targets = th.from_numpy(labels[batch]).long()
            for column, logits in enumerate(_logits(network, screens[batch], heads, shared)):
                adams[column].zero_grad()
                F.cross_entropy(logits, targets[:, column]).backward()
                adams[column].step()
        hits, seen = np.zeros(len(heads)), 0
        for batch in sample_paper(val, rng):
            targets, seen = th.from_numpy(labels[batch]).long(), seen + len(batch)
            for column, logits in enumerate(_logits(network, screens[batch], heads, shared)):
                hits[column] += (logits.argmax(1) == targets[:, column]).sum().item()
    facts = [{"val_accuracy": accuracy} for accuracy in hits / seen]
    weight, bias = (th.stack([getattr(head, name).detach() for head in heads]) for name in ("weight", "bias"))
    return PaperProbe(weight, bias, None, facts)


def _logits(network: nn.Module, screens: np.ndarray, heads: Sequence[nn.Module], shared: bool) -> Iterator[th.Tensor]:
    images = th.from_numpy(screens)[:, None] / 255
    features = None
    for head in heads:
        if features is None or not shared:
            with th.no_grad():
                features = network(images)
        yield head(features)


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """
    :param call: What to do
    :return: What it gives, its wall-clock seconds, and the seconds of all processor cores together
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    given = call()
    return given, time.perf_counter() - start, time.process_time() - cpu_start


def measure(game: str, frames: int, epochs: int, seed: int, folder: Path | None) -> rows.Row:
    """
    Train the probes of a game in all three ways.

    :param game: Game's key
    :param frames: Env steps of random play
    :param epochs: Passes over the training part
    :param seed: Seed of play, initial weights and batches
    :param folder: Folder of frames, see :func:`pearl_sb3.probing.data.data_folder`
    :return: Figures and settings
    :raises RuntimeError: if the ways do not predict the same
    """
    data, subject = collect(game, frames, seed, folder=folder), RandomCNN()
    parts = split(data, state_variables(game), "paper", seed)
    sets = (parts.labels, parts.train, parts.val)
    screens = gray_screens(data)
    slow = partial(reference_way, subject.network, screens, *sets, epochs=epochs, seed=seed)
    # A folder of its own, so that the embeddings are made, and not found.
    with tempfile.TemporaryDirectory() as place:
        features, *taken = timed(partial(embeddings, data, subject, Path(place), progress=False))
        seconds, cpu_seconds = {"embedding": taken[0]}, {"embedding": taken[1]}
        ways: dict[str, Callable[[], PaperProbe]] = {
            "reference": partial(slow, shared=False),
            "shared": partial(slow, shared=True),
            "stored": partial(fit_paper, features, *sets, epochs=epochs, seed=seed),
        }
        guesses, val = {}, np.concatenate(parts.val)
        for name, way in ways.items():
            probe, seconds[name], cpu_seconds[name] = timed(way)
            guesses[name] = probe.predict(features, val)
            print(f"{game} {name}: {seconds[name]:.2f} s, {cpu_seconds[name]:.2f} s of the processor", flush=True)
    same = {name: float((guesses[name] == guesses["stored"]).mean()) for name in ("reference", "shared")}
    if min(same.values()) <= AGREEMENT:
        raise RuntimeError(
            f"The ways do not lead to the same probes: share of equal predictions {same}, expected > {AGREEMENT}."
        )
    # The largest resident set: kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        **{"game": game, "encoder": subject.name, "frames": frames, "epochs": epochs},
        "variables": parts.variables,
        **{f"{name}_frames": sum(map(len, episodes)) for name, episodes in (("train", parts.train), ("val", parts.val))},
        "embedded_frames": len(data),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "cpu_seconds": {name: round(value, 3) for name, value in cpu_seconds.items()},
        "ratio": round(seconds["reference"] / seconds["stored"], 1),
        "ratio_with_embedding": round(seconds["reference"] / (seconds["stored"] + seconds["embedding"]), 1),
        "ratio_of_shared": round(seconds["shared"] / seconds["stored"], 1),
        "same_predictions": same,
        "peak_mb": round(peak / 1e6, 1),
        "data": data.id,
    }


def epochs_argument(text: str) -> int:
    """
    :param text: What the user gave
    :return: The number of epochs
    :raises argparse.ArgumentTypeError: if learning rates might fall, which the reference way here leaves out
    """
    if not text.isdecimal() or not 1 <= int(text) <= RATE_PATIENCE:
        raise argparse.ArgumentTypeError(f"{text!r}: give 1 to {RATE_PATIENCE}, after which learning rates may fall")
    return int(text)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """
    :param argv: command line, None for this process's
    :return: the options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", type=resolve_game, default="pong")
    parser.add_argument("--frames", type=int, default=6000, help="env steps of random play (default: %(default)s)")
    parser.add_argument("--epochs", type=epochs_argument, default=2, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--data", type=Path, help="folder of frames (default: $PEARL_DATA, or the user's cache)")
    parser.add_argument("--threads", type=int, default=th.get_num_threads(), help="PyTorch's threads")
    parser.add_argument("--out", type=Path, default=rows.RESULTS / "probe_speed.jsonl", help="file the row is added to")
    return parser.parse_args(argv)


def main() -> None:
    """Measure one game, store the row, print the table."""
    options = parse()
    th.set_num_threads(options.threads)
    row = measure(options.game, options.frames, options.epochs, options.seed, options.data)
    row.update(rows.provenance(options.seed))
    rows.append(options.out, row)
    print("\n" + tables.probe_speed([row]))


if __name__ == "__main__":
    main()
