"""Networks trained on a game's own frames: look at the validation, keep the best, stop in time, go on after a kill."""

import hashlib
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from safetensors.torch import load_file, save
from torch import nn
from tqdm import tqdm

from pearl_sb3.encoders.frozen import choose_precision
from pearl_sb3.probing.disk import replacing

# AtariARI's (Anand et al. 2019, arXiv 1906.08226, table 4).
LEARNING_RATE = 3e-4
EPSILON = 1e-5
BATCH = 64
PATIENCE = 15
# Updates between two looks at the validation. The reference looks once an epoch of over a thousand.
LOOK = 250


def trained_path(folder: Path, game: str, name: str, identity: str) -> Path:
    """
    Say where weights are kept.

    :param folder: See :func:`pearl_sb3.probing.data.data_folder`
    :param game: Game's key
    :param name: What is trained
    :param identity: Everything its weights depend on
    :return: A ``.safetensors``
    """
    return folder / "trained" / f"{game}-{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.safetensors"


def train(
    network: nn.Module,
    loss: Callable[[np.random.Generator], th.Tensor],
    validate: Callable[[], float],
    path: Path,
    updates: int,
    seed: int,
    progress: bool = True,
) -> dict[str, Any]:
    """
    Train a network by Adam, or load it if that was done before.

    :param network: Gets the weights of the best look
    :param loss: Draws a batch with the generator given and takes its loss
    :param validate: Scores the network on the validation frames; more is better
    :param path: Where its weights are kept, a ``.safetensors``; beside it a checkpoint from which a killed training goes on
    :param updates: Gradient steps at most; training ends earlier after 15 looks at the validation without a better one
    :param seed: Seed of the batches
    :param progress: Whether to show a progress bar
    :return: ``updates`` until the best look, ``updates_trained`` in all, and its ``score``
    :raises FloatingPointError: if the loss is NaN or infinite
    """
    notes, unfinished = path.with_suffix(".json"), path.with_suffix(".part.pt")
    if path.exists() and notes.exists():
        network.load_state_dict(load_file(path))
        return dict(json.loads(notes.read_text()))
    run = _Run(network, seed)
    if unfinished.exists():
        run.load_state_dict(th.load(unfinished, map_location="cpu", weights_only=True))
    with tqdm(total=updates, initial=run.updates, desc=f"training {path.stem}", unit="update", disable=not progress) as bar:
        while run.updates < updates and run.looks_since_best < PATIENCE:
            for _ in range(min(LOOK, updates - run.updates)):
                run.step(loss)
                bar.update()
            run.look(validate())
            bar.set_postfix(best=f"{run.best['score']:.3f}", at=run.best["updates"])
            with replacing(unfinished) as place:
                # Through memory: its own writer does not say that a disk is full.
                whole = BytesIO()
                th.save(run.state_dict(), whole)
                place.write_bytes(whole.getbuffer())
    network.load_state_dict(run.best_weights)
    facts = {**run.best, "updates_trained": run.updates}
    with replacing(path) as place, replacing(notes) as noted:
        place.write_bytes(save(run.best_weights))
        noted.write_text(json.dumps(facts, indent=1) + "\n")
    unfinished.unlink(missing_ok=True)
    return facts


class _Run:
    """
    What a checkpoint holds.

    :param network: What is trained
    :param seed: Seed of the batches
    """

    def __init__(self, network: nn.Module, seed: int) -> None:
        self.network = network
        self.adam = th.optim.Adam(network.parameters(), LEARNING_RATE, eps=EPSILON)
        self.rng = np.random.default_rng(seed)
        self.updates = 0
        self.looks_since_best = 0
        self.best: dict[str, Any] = dict(score=-float("inf"), updates=0)
        self.best_weights = self._weights()

    def step(self, loss: Callable[[np.random.Generator], th.Tensor]) -> None:
        """
        :param loss: Draws a batch and takes its loss
        :raises FloatingPointError: if it is NaN or infinite
        """
        value = loss(self.rng)
        if not th.isfinite(value):
            raise FloatingPointError(f"Training diverged after {self.updates} updates: the loss is {value.item()}.")
        self.adam.zero_grad()
        value.backward()
        self.adam.step()
        self.updates += 1

    def look(self, score: float) -> None:
        """
        :param score: What the validation gave
        """
        self.looks_since_best += 1
        if score > self.best["score"]:
            self.best, self.looks_since_best = dict(score=score, updates=self.updates), 0
            self.best_weights = self._weights()

    def state_dict(self) -> dict[str, Any]:
        """
        :return: Everything, for ``th.save``
        """
        simple = {name: getattr(self, name) for name in ("updates", "looks_since_best", "best", "best_weights")}
        # As text: the generator's numbers are longer than 64 bits.
        chance = json.dumps(self.rng.bit_generator.state)
        return {**simple, "network": self.network.state_dict(), "adam": self.adam.state_dict(), "rng": chance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        :param state: What :meth:`state_dict` gave
        """
        self.network.load_state_dict(state["network"])
        self.adam.load_state_dict(state["adam"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        for name in ("updates", "looks_since_best", "best", "best_weights"):
            setattr(self, name, state[name])

    def _weights(self) -> dict[str, th.Tensor]:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}


def fast(device: str = "cpu") -> th.autocast:
    """
    Compute in bf16 where the device does so natively; losses are left to fp32.

    :param device: Where
    :return: A context
    """
    dtype = choose_precision("auto", th.device(device))
    return th.autocast(device, th.bfloat16, enabled=dtype == th.bfloat16)
