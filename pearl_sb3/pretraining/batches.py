"""Batches of one game at a time, split into plays to learn from and plays to be asked about."""

from dataclasses import dataclass

import numpy as np
import torch as th

from pearl_sb3.pretraining.frames import Play
from pearl_sb3.pretraining.targets import memory_columns, predictable


@dataclass(frozen=True)
class Game:
    """One game's frames with what is to be predicted of each."""

    frames: th.Tensor  # uint8, (plays, steps, 84, 84)
    columns: th.Tensor  # fp32, (plays, steps, t), standardised


@dataclass(frozen=True)
class Batch:
    """Frames of one game; the first half from some of its plays, the second from the others."""

    images: th.Tensor  # normalised as the encoder wants them, (2n, 1, 84, 84)
    columns: th.Tensor  # (2n, t)

    @property
    def half(self) -> int:
        """
        :return: n, the number of frames in each half.
        """
        return len(self.images) // 2


def normalise(frames: th.Tensor, mean: float, std: float) -> th.Tensor:
    """
    Make frames an encoder's input.

    :param frames: uint8, (n, 84, 84).
    :param mean: Mean gray level the encoder expects, of pixels in [0, 1].
    :param std: Deviation, likewise.
    :return: fp32, (n, 1, 84, 84).
    """
    return (frames.unsqueeze(1).float() / 255 - mean) / std


def prepare(play: Play) -> Game:
    """
    Choose what is worth predicting of a game: what its own pixels explain on other plays.

    :param play: Frames and memory.
    :return: The game, its memory turned into columns.
    """
    n_plays, steps = play.frames.shape[:2]
    every = 2  # half of the frames tell well enough, at an eighth of the cost
    columns = memory_columns(play.ram.reshape(-1, 128))
    frames = th.from_numpy(play.frames)
    small = th.nn.functional.avg_pool2d(frames.flatten(0, 1)[::every].unsqueeze(1).float(), 3).flatten(1)
    deviation = small.std(0)
    small = (small - small.mean(0)) / deviation.clamp_min(1.0)
    chosen = predictable(small, columns[::every])
    # A few hundred frames are too few to tell; then everything that changes is asked for.
    kept = columns[:, chosen] if len(chosen) else columns
    return Game(frames, kept.view(n_plays, steps, -1))


def draw(game: Game, n: int, rng: np.random.Generator, mean: float, std: float) -> Batch:
    """
    Draw a batch of one game, all of it seen through the same mirror and the same contrast.

    :param game: The game.
    :param n: Frames in each half.
    :param rng: Source of chance.
    :param mean: Mean gray level the encoder expects.
    :param std: Deviation, likewise.
    :return: The batch.
    """
    n_plays, steps = game.frames.shape[:2]
    order = rng.permutation(n_plays)
    # One play alone is split by chance: then both halves come from it.
    sides = (order[: n_plays // 2], order[n_plays // 2 :]) if n_plays > 1 else (order, order)
    plays = np.concatenate([rng.choice(side, n) for side in sides])
    times = rng.integers(steps, size=2 * n)
    pixels = change_look(game.frames[plays, times].unsqueeze(1).float() / 255, rng)
    return Batch((pixels - mean) / std, game.columns[plays, times])


def change_look(images: th.Tensor, rng: np.random.Generator) -> th.Tensor:
    """
    Make another game of a game: mirror, turn over, transpose, invert, change contrast and brightness, the same for all images.

    What a linear probe can read of the game's state stays readable, and a few dozen games become many.

    :param images: Gray levels in [0, 1], (n, 1, 84, 84).
    :param rng: Source of chance.
    :return: Images of the same shape, roughly in [0, 1].
    """
    mirrored, turned, transposed, inverted = rng.random(4) < 0.5
    if mirrored:
        images = images.flip(-1)
    if turned:
        images = images.flip(-2)
    if transposed:
        images = images.transpose(-1, -2)
    contrast = float(rng.uniform(0.7, 1.3)) * (-1 if inverted else 1)
    return (images - 0.5) * contrast + 0.5 + float(rng.uniform(-0.05, 0.05))
