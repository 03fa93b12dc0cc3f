"""Train an encoder on many games and leave it where `load_encoder` finds it."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch as th
from torch import nn
from tqdm import tqdm

from pearl_sb3.encoders.networks import PearlConv
from pearl_sb3.pretraining.batches import Batch, Game, draw, normalise, prepare
from pearl_sb3.pretraining.export import export, standardised_state, token_statistics
from pearl_sb3.pretraining.frames import collect, resolve_games
from pearl_sb3.pretraining.objectives import OBJECTIVES

FRAMES_PER_GAME = 2400
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 30
SAVE_EVERY_S = 120.0


class Pretraining:
    """
    A network, an objective and their optimizer.

    :param architecture: Name that timm knows, one of ours.
    :param objective: Name of the objective.
    :param games: What to learn from.
    :param seed: Seed of the weights and of the batches.
    :param games_per_step: Games whose losses are averaged in a step.
    :param half_batch: Frames in each half of a game's batch.
    :raises ValueError: If the objective is unknown.
    """

    def __init__(
        self, architecture: str, objective: str, games: dict[str, Game], seed: int, games_per_step: int, half_batch: int
    ) -> None:
        if objective not in OBJECTIVES:
            raise ValueError(f"Unknown objective {objective!r}. Choose one of: {', '.join(OBJECTIVES)}.")
        self.games, self.games_per_step, self.half_batch = games, games_per_step, half_batch
        self.rng = np.random.default_rng(seed)
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            network = cast(PearlConv, timm.create_model(architecture))
            self.network = network.to(memory_format=th.channels_last)  # type: ignore[call-overload]
            self.objective = OBJECTIVES[objective](self.network.num_features)
        # Tokens are standardised while training, so that the exported ones, which are, are what was trained.
        self.norm = nn.BatchNorm2d(self.network.num_features, affine=False)
        self.parameters = [*self.network.parameters(), *self.objective.parameters()]
        self.optimizer = th.optim.AdamW(self.parameters, lr=LEARNING_RATE, weight_decay=1e-3)
        config = timm.data.resolve_model_data_config(self.network)
        self.mean, self.std = float(config["mean"][0]), float(config["std"][0])
        self.steps = 0
        self._order: list[str] = []

    def _next_batch(self) -> Batch:
        """
        Draw a batch of the next game; every game comes once before one comes again.

        :return: The batch.
        """
        if not self._order:
            self._order = [str(name) for name in self.rng.permutation(list(self.games))]
        return draw(self.games[self._order.pop()], self.half_batch, self.rng, self.mean, self.std)

    def step(self, fraction: float) -> float:
        """
        Take one gradient step.

        :param fraction: Part of the training that is over, in [0, 1]; the learning rate follows half a cosine.
        :return: The loss.
        :raises FloatingPointError: If tokens, loss or gradient are not finite; the weights are left as they were.
        """
        rate = LEARNING_RATE * min(1.0, (self.steps + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * fraction))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batches = [self._next_batch() for _ in range(self.games_per_step)]
        images = th.cat([batch.images for batch in batches]).contiguous(memory_format=th.channels_last)
        with th.autocast("cpu", th.bfloat16):
            tokens = self.norm(self.network.forward_features(images))
        if not th.isfinite(tokens).all():
            raise FloatingPointError(f"Training diverged after {self.steps} steps: tokens are not finite.")
        parts = tokens.float().split([len(batch.images) for batch in batches])
        loss = th.stack([self.objective(part, batch) for part, batch in zip(parts, batches, strict=True)]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        length = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not th.isfinite(loss + length):
            raise FloatingPointError(
                f"Training diverged after {self.steps} steps: the loss is {loss.item()}, its gradient's length {length.item()}."
            )
        self.optimizer.step()
        self.steps += 1
        return loss.item()

    def save(self, out: Path, facts: dict[str, Any]) -> Path:
        """
        Export the network as it is now.

        :param out: Folder.
        :param facts: What the manifest is to say.
        :return: Path of the weights.
        """
        self.network.eval()
        samples = (game.frames.flatten(0, 1)[::37] for game in self.games.values())
        mean, deviation = token_statistics(self.network, (normalise(frames, self.mean, self.std) for frames in samples))
        self.network.train()
        return export(standardised_state(self.network, mean, deviation), facts, out)


def _fractions(minutes: float, steps: int | None) -> Iterator[float]:
    """
    Count a training's way from 0 to 1.

    :param minutes: Length by the clock.
    :param steps: Length in steps; if given, the clock is not looked at, and the same seed gives the same weights.
    :return: Part that is over, once per step to take.
    """
    if steps is not None:
        yield from (step / steps for step in range(steps))
        return
    start = time.monotonic()
    while (fraction := (time.monotonic() - start) / (60 * minutes)) < 1:
        yield fraction


def pretrain(
    games: Sequence[str],
    objective: str,
    minutes: float,
    out: str | Path,
    seed: int = 0,
    steps: int | None = None,
    n_frames: int | None = None,
    data: str | Path | None = None,
    architecture: str = "pearl_conv_tiny",
    games_per_step: int = 3,
    half_batch: int = 96,
    command: str = "",
    progress: bool = True,
) -> Path:
    """
    Pretrain an encoder on random play of games and export it.

    The export is repeated every two minutes, and once more when the training is interrupted, so that there is always a whole one.

    :param games: Games of any spelling, none of the benchmark's.
    :param objective: Name of the objective.
    :param minutes: Length by the clock, without the collection of frames.
    :param out: Folder for ``encoder.safetensors`` and ``manifest.json``.
    :param seed: Seed of play, weights and batches.
    :param steps: Length in steps instead of minutes; then the result depends on the seed alone.
    :param n_frames: Frames over all games; None means 2,400 of each.
    :param data: Folder where frames are kept and looked for; None means ``frames`` in ``out``.
    :param architecture: One of our networks, by its timm name.
    :param games_per_step: Games whose losses are averaged in a step.
    :param half_batch: Frames in each half of a game's batch.
    :param command: What the user typed, for the manifest.
    :param progress: Whether to show progress bars.
    :return: Path of the weights.
    :raises ValueError: If a game or the objective cannot be had.
    :raises FloatingPointError: If the training diverges; the last export stays.
    """
    names, out = resolve_games(games), Path(out)
    plays = collect(names, n_frames or FRAMES_PER_GAME * len(names), seed, data or out / "frames", progress)
    prepared = {name: prepare(play) for name, play in tqdm(plays.items(), desc="targets", unit="game", disable=not progress)}
    training = Pretraining(architecture, objective, prepared, seed, games_per_step, half_batch)
    start = saved = time.monotonic()

    def save(finished: bool) -> Path:
        facts = {
            "architecture": architecture,
            "command": command,
            "objective": objective,
            "games": names,
            "frames": sum(play.frames[..., 0, 0].size for play in plays.values()),
            "frames_seen": training.steps * games_per_step * half_batch * 2,
            "steps": training.steps,
            "minutes": round((time.monotonic() - start) / 60, 2),
            "seed": seed,
            "finished": finished,
            "token_shape": _token_shape(training.network),
            "source": "random play of the games named, by this package's pretraining",
        }
        return training.save(out, facts)

    loss = math.nan
    with tqdm(
        total=1.0, desc=objective, disable=not progress, bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
    ) as bar:
        try:
            for fraction in _fractions(minutes, steps):
                now = training.step(fraction)
                loss = now if math.isnan(loss) else 0.98 * loss + 0.02 * now
                bar.update(fraction - bar.n)
                bar.set_postfix(step=training.steps, loss=f"{loss:.4f}", refresh=False)
                if time.monotonic() - saved > SAVE_EVERY_S:
                    save(finished=False)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            save(finished=False)
            raise
        bar.update(1.0 - bar.n)
    return save(finished=True)


def _token_shape(network: PearlConv) -> list[int]:
    """
    Count the tokens of an image of the size the network was trained at.

    :param network: The network.
    :return: Rows, columns and channels of its map.
    """
    with th.no_grad():
        tokens = network.forward_features(th.zeros(1, *timm.data.resolve_model_data_config(network)["input_size"]))
    return [tokens.shape[2], tokens.shape[3], tokens.shape[1]]
