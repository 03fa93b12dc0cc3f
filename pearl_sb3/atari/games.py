"""The 22 games of the AtariARI benchmark, and how people write the name of a game."""

import re
from collections.abc import Collection
from difflib import get_close_matches

from ale_py import roms

# AtariARI's name of each game (letters only) and the emulator's, from which the names of its environments are made.
ROMS = {
    rom.replace("_", ""): rom
    for rom in """asteroids berzerk bowling boxing breakout demon_attack freeway frostbite hero montezuma_revenge ms_pacman
    pitfall pong private_eye qbert riverraid seaquest space_invaders tennis venture video_pinball yars_revenge""".split()
}
GAMES = tuple(ROMS)


def game_key(name: str) -> str:
    """
    Reduce any spelling of a game ("ALE/MsPacman-v5", "MsPacmanNoFrameskip-v4", "ms_pacman") to letters and digits.

    :param name: The game as written by a user; it need not exist.
    :return: Lower-case letters and digits of the game's own name: "mspacman".
    """
    name = re.sub(r"^ale/|-v\d+$", "", name.strip().lower())
    name = re.sub(r"(-ram)?(noframeskip|deterministic)?$", "", name)
    return re.sub(r"[^a-z0-9]", "", name)


def resolve_game(name: str, known: Collection[str] = GAMES) -> str:
    """
    Find the game that a user means.

    :param name: The game in any spelling.
    :param known: Keys of the games to choose from.
    :return: Its key, one of ``known``.
    :raises ValueError: If it is none of them; the closest ones are offered.
    """
    key = game_key(name)
    if key in known:
        return key
    if key not in GAMES and key in {game_key(rom) for rom in roms.get_all_rom_ids()}:
        raise ValueError(
            f"There are no annotations for {name!r}: the emulator has the game, but it is not among AtariARI's. "
            f"Choose one of {', '.join(sorted(known))}."
        )
    close = get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    raise ValueError(f"Unknown game {name!r}. {hint}Choose one of {', '.join(sorted(known))}.")


def env_id(game: str) -> str:
    """
    Name the environment the benchmark is defined on: no sticky actions, and no frame skip of its own.

    :param game: One of the 22 games, in any spelling.
    :return: E.g. "MsPacmanNoFrameskip-v4"; it exists after ``gymnasium.register_envs(ale_py)``.
    :raises ValueError: If it is none of them.
    """
    return ROMS[resolve_game(game)].title().replace("_", "") + "NoFrameskip-v4"
