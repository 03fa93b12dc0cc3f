"""Representations made from play of the very game they are judged on: what a pretrained encoder is up against."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from torch import nn

from pearl_sb3.probing.data import LabelledFrames, collect, data_folder
from pearl_sb3.probing.reference import FEATURES, LOCAL_CHANNELS, local_and_global, reference_cnn
from pearl_sb3.probing.screens import gray, gray_frames, gray_small
from pearl_sb3.probing.training import BATCH, fast, train, trained_path
from pearl_sb3.ssl.cpc import cpc
from pearl_sb3.ssl.st_dim import st_dim

# Env steps of play to learn from, as in the reference's scripts (--pretraining-steps).
STEPS = 100_000
# Updates by default, for a game to take minutes and not days on two cores; the reference has up to 100 epochs of 1,250.
UPDATES = 5000
VAL_BATCHES = 10


class STDIM(nn.Module):
    """The reference's encoder with ST-DIM's two heads (methods/stdim.py)."""

    name = "st-dim"
    #: Frames in a row, and samples in a batch
    length, batch = 2, BATCH

    def __init__(self) -> None:
        super().__init__()
        self.encoder = reference_cnn()
        self.global_head = nn.Linear(FEATURES, LOCAL_CHANNELS)
        self.local_head = nn.Linear(LOCAL_CHANNELS, LOCAL_CHANNELS)

    def forward(self, screens: th.Tensor) -> th.Tensor:
        """
        :param screens: Pairs of frames t - 1 and t, (B, 2, 210, 160), uint8
        :return: Loss
        """
        with fast(screens.device.type):
            local, embedding = local_and_global(self.encoder, screens.flatten(0, 1))
        before, now = local.unflatten(0, (-1, 2)).unbind(1)
        return st_dim(embedding[1::2], now, before, self.global_head, self.local_head)


class CPC(nn.Module):
    """
    The reference's encoder with CPC's recurrent context and heads (methods/cpc.py).

    A batch is 8 sequences of 100 frames; the reference's 64 would be 6,400 frames at a time.
    """

    name = "cpc"
    #: Frames in a row, and samples in a batch
    length, batch = 100, 8
    horizons = tuple(range(1, 100, 4))

    def __init__(self) -> None:
        super().__init__()
        self.encoder = reference_cnn()
        self.context = nn.GRU(FEATURES, FEATURES, num_layers=2, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(FEATURES, FEATURES) for _ in self.horizons)

    def forward(self, screens: th.Tensor) -> th.Tensor:
        """
        :param screens: Sequences, (B, T, 210, 160), uint8
        :return: Loss
        """
        with fast(screens.device.type):
            embeddings = local_and_global(self.encoder, screens.flatten(0, 1))[1].unflatten(0, screens.shape[:2])
        return cpc(self.context(embeddings)[0], embeddings, list(self.heads), self.horizons)


OBJECTIVES: dict[str, type[STDIM] | type[CPC]] = {objective.name: objective for objective in (STDIM, CPC)}


def sample_sequences(episodes: Sequence[np.ndarray], length: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """
    Draw frames in a row that never leave their episode: an episode, then a place in it, both evenly.

    The reference takes an episode's last frame for the one before its first; here pairs begin with the first.

    :param episodes: Frames of each episode
    :param length: Frames in a row
    :param n: Samples
    :param rng: Source of the draws
    :return: Frames, (n, length)
    :raises ValueError: if no episode is long enough
    """
    long = [episode for episode in episodes if len(episode) >= length]
    if not long:
        raise ValueError(f"No episode has {length} frames in a row: collect more steps.")
    chosen = [long[index] for index in rng.integers(len(long), size=n)]
    starts = [rng.integers(len(episode) - length + 1) for episode in chosen]
    return np.stack([episode[start : start + length] for episode, start in zip(chosen, starts, strict=True)])


class OwnPlay:
    """
    Play of the game that no probe is tested on: another seed's.

    :param game: Game of any spelling
    :param steps: Env steps
    :param seed: Seed of the probe's own data; the play has the next one
    :param folder: See :func:`pearl_sb3.probing.data.data_folder`
    :param progress: Whether to show progress bars
    """

    def __init__(self, game: str, steps: int, seed: int, folder: str | Path | None, progress: bool) -> None:
        self.game, self.steps, self.seed, self.folder, self.progress = game, steps, seed + 1, folder, progress

    @cached_property
    def frames(self) -> LabelledFrames:
        """Collected when first asked for."""
        return collect(self.game, self.steps, self.seed, folder=self.folder, progress=self.progress)


class SelfSupervisedCNN:
    """
    The reference's encoder, trained on the game by a self-supervised objective; it sees no labels.

    :param objective: ``"st-dim"`` or ``"cpc"``
    :param game: Game of any spelling
    :param folder: See :func:`pearl_sb3.probing.data.data_folder`; weights are kept there too
    :param seed: Seed of weights, batches and play
    :param steps: Env steps of play to learn from
    :param updates: Gradient steps at most
    :param device: Where to train and to embed
    :param progress: Whether to show progress bars
    """

    def __init__(
        self,
        objective: str,
        game: str,
        folder: str | Path | None = None,
        seed: int = 42,
        steps: int = STEPS,
        updates: int = UPDATES,
        device: str = "cpu",
        progress: bool = True,
    ) -> None:
        self.name, self.objective = objective, OBJECTIVES[objective]
        self.play = OwnPlay(game, steps, seed, folder, progress)
        self.seed, self.updates, self.device = seed, updates, device
        self.facts: dict[str, Any] = {}

    @property
    def identity(self) -> str:
        """Everything the weights depend on."""
        return f"{self.name}-210x160-gray-{self.play.frames.id}-seed{self.seed}-{self.updates}updates"

    @cached_property
    def encoder(self) -> nn.Sequential:
        """Trained when first asked for."""
        with th.random.fork_rng(devices=[]):
            th.manual_seed(self.seed)
            network = self.objective().to(self.device)
        data = self.play.frames
        path = trained_path(data_folder(self.play.folder), data.manifest["game"], self.name, self.identity)
        # Unpacking gigabytes is left out where there is nothing to train.
        screens = np.empty(0) if path.exists() else gray_frames(data, self.play.progress)
        episodes = data.episodes()
        cut = int(0.8 * len(episodes))
        train_part, val_part = episodes[:cut], episodes[cut:]

        def loss_on(part: Sequence[np.ndarray], rng: np.random.Generator) -> th.Tensor:
            index = sample_sequences(part, network.length, network.batch, rng)
            loss: th.Tensor = network(th.from_numpy(screens[index]).to(self.device))
            return loss

        @th.no_grad()
        def validate() -> float:
            # The same samples at every look.
            rng = np.random.default_rng(self.seed)
            return -float(np.mean([loss_on(val_part, rng).item() for _ in range(VAL_BATCHES)]))

        self.facts = train(
            network, lambda rng: loss_on(train_part, rng), validate, path, self.updates, self.seed, self.play.progress
        )
        return network.encoder.eval()

    def embed(self, screens: np.ndarray, first: np.ndarray) -> np.ndarray:
        """
        :param screens: (n, 210, 160, 3), uint8
        :param first: (n,)
        :return: (n, 256), fp32
        """
        # Before inference begins: this may train it.
        encoder = self.encoder
        with th.inference_mode():
            return local_and_global(encoder, th.from_numpy(gray(screens)).to(self.device))[1].cpu().numpy()


class PixelPCA:
    """
    Principal components of the gray screen at 84x84, of other play of the same game.

    :param game: Game of any spelling
    :param folder: See :func:`pearl_sb3.probing.data.data_folder`
    :param seed: Seed of the play
    :param steps: Env steps of play
    :param components: How many
    :param progress: Whether to show progress bars
    """

    name = "pca"

    def __init__(
        self,
        game: str,
        folder: str | Path | None = None,
        seed: int = 42,
        steps: int = 10_000,
        components: int = 512,
        progress: bool = True,
    ) -> None:
        self.play = OwnPlay(game, steps, seed, folder, progress)
        self.components = components

    @property
    def identity(self) -> str:
        """Everything the components depend on."""
        return f"pca-84x84-gray-{self.components}-{self.play.frames.id}"

    @cached_property
    def basis(self) -> tuple[th.Tensor, th.Tensor]:
        """Mean (7056,) and directions (7056, components)."""
        # One frame in four: neighbours in time hardly differ.
        parts = [gray_small(screens[::4], 84).reshape(-1, 84 * 84) for _, screens, _ in self.play.frames.chunks()]
        seen = th.from_numpy(np.concatenate(parts)).float() / 255
        mean = seen.mean(0)
        with th.random.fork_rng(devices=[]):
            th.manual_seed(0)
            directions = th.pca_lowrank(seen - mean, min(self.components, len(seen)), center=False)[2]
        return mean, directions

    def embed(self, screens: np.ndarray, first: np.ndarray) -> np.ndarray:
        """
        :param screens: (n, 210, 160, 3), uint8
        :param first: (n,)
        :return: (n, components), fp32
        """
        mean, directions = self.basis
        flat = th.from_numpy(gray_small(screens, 84).reshape(len(screens), -1)).float() / 255
        return ((flat - mean) @ directions).numpy()
