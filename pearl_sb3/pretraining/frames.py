"""Frames to pretrain on: random play of ALE games, none of them a game the package is tested on."""

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from ale_py import ALEInterface, LoggerMode, roms
from tqdm import tqdm

from pearl_sb3.atari.games import ROMS, game_key

# ROM files that ale_py lists but this emulator cannot run by itself (two players only, or unknown to it).
UNPLAYABLE = ("combat", "joust", "maze_craze", "warlords")

# The AtariARI games: probes and agents are tested on them, so an encoder that saw them would not be "pretrained elsewhere".
BENCHMARK_GAMES = tuple(ROMS.values())

# Action games with a moving picture under random play. The near twins of benchmark games (pacman, pitfall2) are left out too.
PRETRAINING_GAMES = tuple(
    """air_raid alien amidar assault asterix atlantis bank_heist battle_zone beam_rider carnival centipede chopper_command
    crazy_climber defender donkey_kong double_dunk elevator_action enduro entombed fishing_derby frogger galaxian gopher gravitar
    ice_hockey jamesbond journey_escape kaboom kangaroo keystone_kapers king_kong krull kung_fu_master laser_gates
    mario_bros mr_do name_this_game phoenix pooyan road_runner robotank sir_lancelot skiing solaris star_gunner surround
    time_pilot trondead turmoil tutankham up_n_down wizard_of_wor zaxxon""".split()
)


@dataclass(frozen=True)
class Play:
    """Frames of one game in order of time, and the console's memory that belongs to each."""

    frames: np.ndarray  # gray, uint8, (plays, steps, 84, 84)
    ram: np.ndarray  # uint8, (plays, steps, 128)

    def checksum(self) -> str:
        """
        Hash the contents.

        :return: SHA-256 of frames and memory, in hexadecimal.
        """
        return hashlib.sha256(self.frames.tobytes() + self.ram.tobytes()).hexdigest()


def resolve_games(names: Sequence[str]) -> list[str]:
    """
    Turn game names of any spelling into ROM names, and refuse the benchmark's games.

    :param names: Games, e.g. ``Alien`` or ``alien`` or ``AlienNoFrameskip-v4``.
    :return: ROM names in the given order, without repetition.
    :raises ValueError: If no game is named, a game is unknown, or one is among the benchmark's.
    """
    known = {game_key(rom): rom for rom in roms.get_all_rom_ids() if rom not in UNPLAYABLE}
    games = []
    for name in names:
        if game_key(name) not in known:
            raise ValueError(f"Unknown game {name!r}. Known: {', '.join(sorted(known.values()))}.")
        games.append(known[game_key(name)])
    if not games:
        raise ValueError("No game to pretrain on: name at least one, e.g. --games Alien,Amidar.")
    refused = [game for game in games if game in BENCHMARK_GAMES]
    if refused:
        raise ValueError(
            f"Refusing to pretrain on {', '.join(refused)}: the encoder is tested on these 22 AtariARI games, so it must never see "
            f"them. Choose others, e.g. {', '.join(PRETRAINING_GAMES[:4])}."
        )
    return list(dict.fromkeys(games))


def _gray(screen: np.ndarray) -> np.ndarray:
    """
    Make a screen what stable-baselines3's Atari wrapper makes of it.

    :param screen: RGB, uint8, (210, 160, 3).
    :return: Gray, uint8, (84, 84).
    """
    return cv2.resize(cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY), (84, 84), interpolation=cv2.INTER_AREA)


def play(game: str, n_frames: int, seed: int, n_plays: int = 4) -> Play:
    """
    Play one game at random, four screens to a step as agents do, and keep every step.

    Every second play repeats the last action half of the time, which carries the player further from where it starts.

    :param game: ROM name.
    :param n_frames: Frames to keep over all plays; rounded up to a multiple of ``n_plays``.
    :param seed: Seed of the emulator and of the actions.
    :param n_plays: Independent plays, each starting from a fresh console.
    :return: The plays.
    :raises ValueError: If there is no such ROM.
    """
    ALEInterface.setLoggerMode(LoggerMode.Error)
    rom = roms.get_rom_path(game)
    if rom is None:
        raise ValueError(f"ale_py has no ROM named {game!r}.")
    steps = -(-n_frames // n_plays)
    frames = np.empty((n_plays, steps, 84, 84), dtype=np.uint8)
    ram = np.empty((n_plays, steps, 128), dtype=np.uint8)
    for index in range(n_plays):
        rng = np.random.default_rng([seed, index, *game.encode()])
        console = ALEInterface()
        console.setInt("random_seed", int(rng.integers(2**30)))
        console.setFloat("repeat_action_probability", 0.0)
        console.loadROM(rom)
        actions = console.getMinimalActionSet()
        action, repeat = actions[0], 0.5 * (index % 2)
        waiting = int(rng.integers(1, 31))  # no-ops, so that plays differ from their first frame on
        for step in range(steps):
            if console.game_over():
                console.reset_game()
                waiting = int(rng.integers(1, 31))
            for _ in range(waiting):
                console.act(0)
            waiting = 0
            if rng.random() >= repeat:
                action = actions[rng.integers(len(actions))]
            for _ in range(3):
                console.act(action)
            before_last = console.getScreenRGB()
            console.act(action)
            # The maximum of two screens, because many games draw a sprite in every second one only.
            frames[index, step] = _gray(np.maximum(before_last, console.getScreenRGB()))
            ram[index, step] = console.getRAM()
    return Play(frames, ram)


def _read(path: Path) -> Play | None:
    """
    Read one game's file if it is there and whole.

    :param path: The ``.npz`` file.
    :return: Its play, or None where the file is missing, cut short or altered.
    """
    try:
        with np.load(path) as archive:
            stored, checksum = Play(archive["frames"], archive["ram"]), str(archive["sha256"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return stored if stored.checksum() == checksum else None


def game_frames(game: str, n_frames: int, seed: int, folder: Path) -> Play:
    """
    Give one game's frames, from its file where one is whole, else by playing.

    :param game: ROM name.
    :param n_frames: Frames wanted.
    :param seed: Seed of the play.
    :param folder: Where files are kept; a file is named after game, number and seed, so another request never reads it.
    :return: The plays.
    """
    path = folder / f"{game}-{n_frames}-seed{seed}.npz"
    stored = _read(path)
    if stored is None:
        stored = play(game, n_frames, seed)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with unfinished.open("wb") as file:
            np.savez_compressed(file, frames=stored.frames, ram=stored.ram, sha256=stored.checksum())
        os.replace(unfinished, path)
    return stored


def collect(games: Sequence[str], n_frames: int, seed: int, folder: str | Path, progress: bool = True) -> dict[str, Play]:
    """
    Collect frames of many games, equally many of each; a second call reads what the first one left.

    :param games: Games of any spelling.
    :param n_frames: Frames over all games.
    :param seed: Seed of the play.
    :param folder: Where the files are kept, one per game.
    :param progress: Whether to show a progress bar.
    :return: ROM name → plays.
    """
    names = resolve_games(games)
    share = -(-n_frames // len(names))
    bar = tqdm(names, desc="frames", unit="game", disable=not progress)
    return {game: game_frames(game, share, seed, Path(folder)) for game in bar}
