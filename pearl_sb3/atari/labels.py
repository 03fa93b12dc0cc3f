"""The hidden state of Atari games: which byte of the console's memory holds what, and a wrapper that reads it."""

import json
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from pearl_sb3.atari.games import GAMES, game_key, resolve_game

# AtariARI's later set of 336 variables, and the 308 of the tables in its paper.
ANNOTATIONS = ("current", "2019")

CATEGORIES = (
    "small_object_localization",
    "agent_localization",
    "other_localization",
    "score_clock_lives_display",
    "misc_keys",
)


class LabelRow(NamedTuple):
    """One state variable of one game."""

    game: str
    variable: str
    ram_byte: int  # 0 to 127
    categories: tuple[str, ...]


@cache
def _annotations(annotations: str) -> dict[str, dict[str, int]]:
    """
    Read one set of annotations from the package's data.

    :param annotations: One of ``ANNOTATIONS``.
    :return: Game → variable → byte, where ``"clock": [67, 69]`` has become ``clock_0`` and ``clock_1``.
    :raises ValueError: If there is no such set.
    """
    if annotations not in ANNOTATIONS:
        raise ValueError(f"Expect `annotations` to be one of {', '.join(ANNOTATIONS)}, actual: {annotations!r}.")
    sets = json.loads(files("pearl_sb3.atari").joinpath("ram_labels.json").read_text(encoding="utf-8"))
    # the file has a game under "2019" only where it differs
    written = sets["current"] | sets[annotations]
    return {
        game: {
            variable if number is None else f"{variable}_{number}": byte
            for variable, place in written[game].items()
            for number, byte in (enumerate(place) if isinstance(place, list) else [(None, place)])
        }
        for game in GAMES
    }


def state_variables(game: str, annotations: str = "current") -> dict[str, int]:
    """
    List the state variables of a game.

    :param game: One of the 22 games, in any spelling.
    :param annotations: ``"current"`` or ``"2019"``.
    :return: Variable → byte of the memory, 0 to 127.
    :raises ValueError: If there are no annotations for the game, or no such set of them.
    """
    return dict(_annotations(annotations)[resolve_game(game)])


def categories(variable: str) -> tuple[str, ...]:
    """
    Sort a variable into categories by its name, as AtariARI does.

    Scores are reported as means over categories, so that a variable in none (Qbert's tile colours) counts in none of them, and
    one in two (the lives and direction of Asteroids, in one byte) in both.

    :param variable: Name of the variable, e.g. "player_x".
    :return: None, one or two of ``CATEGORIES``.
    """

    def has(*parts: str) -> bool:
        return any(part in variable for part in parts)

    position = has("_x", "_y", "_z", "_column")
    # a player's missile is a small object, not the player
    small = position and has("ball", "missile")
    agent = position and not small and has("agent", "player")
    display = has("score", "clock", "lives", "lifes", "meter", "display")
    misc = has("count", "bit_map", "existence", "level", "room", "game_state", "direction")
    member = (small, agent, position and not small and not agent, display, misc)
    return tuple(category for category, inside in zip(CATEGORIES, member, strict=True) if inside)


def label_table(annotations: str = "current") -> list[LabelRow]:
    """
    List all state variables of all games.

    :param annotations: ``"current"`` (336 variables) or ``"2019"`` (308).
    :return: One row per variable, games in the order of ``GAMES``.
    :raises ValueError: If there is no such set.
    """
    return [
        LabelRow(game, variable, byte, categories(variable))
        for game, variables in _annotations(annotations).items()
        for variable, byte in variables.items()
    ]


class AtariRAMLabels(gym.Wrapper):
    """
    Say with every observation what state the game is in: ``info["labels"]``, variable → value of its byte (0 to 255).

    The memory is read after the last skipped frame, and values are as the console holds them: no offset, no decoding of
    decimal digits. Wrap it around the frame skip or anything above it; SB3's ``FireResetEnv`` and wrappers of its
    kind throw away the info of a reset, so that around all others is the safest place.

    Under SB3's vectorised environments, the step that ends an episode returns the first observation of the next one while
    its info is still that of the old: the labels belong to ``info["terminal_observation"]``, and those of the
    returned observation are in ``vec_env.reset_infos``.

    Example::

        import ale_py
        import gymnasium as gym
        from pearl_sb3.atari import AtariRAMLabels, PearlAtariWrapper

        gym.register_envs(ale_py)
        env = AtariRAMLabels(PearlAtariWrapper(gym.make("PongNoFrameskip-v4"), color=True, screen_size=None))
        observation, info = env.reset(seed=0)
        print(info["labels"]["ball_x"])

    :param env: Environment around a game of the Arcade Learning Environment
    :param game: The game in any spelling, ``None`` to ask the environment
    :param annotations: ``"current"`` or ``"2019"``
    :raises ValueError: if the environment is no ALE game or another one than ``game``, or there are no annotations for it
    """

    def __init__(self, env: gym.Env, game: str | None = None, annotations: str = "current") -> None:
        super().__init__(env)
        self.game = _game(env, game)
        variables = state_variables(self.game, annotations)
        self._names = tuple(variables)
        self._bytes = np.array(list(variables.values()))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        :param seed: Seed of the game
        :param options: Options of the game
        :return: First observation, and info with ``labels``
        """
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, info | {"labels": self.labels()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """
        :param action: Action of the game
        :return: Observation, reward, terminated, truncated, and info with ``labels``
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | {"labels": self.labels()}

    def labels(self) -> dict[str, int]:
        """
        Read the memory.

        :return: Variable → value, 0 to 255, at this moment.
        """
        ram = self.unwrapped.ale.getRAM()  # type: ignore[attr-defined]
        return dict(zip(self._names, ram[self._bytes].tolist(), strict=True))


def _game(env: gym.Env, game: str | None) -> str:
    """
    :param env: Environment of any kind
    :param game: What the user says it is
    :return: Key of its game
    :raises ValueError: if it is no ALE game, another one, or has no annotations
    """
    if not hasattr(env.unwrapped, "ale"):
        raise ValueError(
            f"AtariRAMLabels needs a game of the Arcade Learning Environment, such as 'PongNoFrameskip-v4', actual: {env}."
        )
    spec = env.unwrapped.spec
    rom = spec.kwargs.get("game") if spec is not None else None
    if rom is None:
        # an environment made by its class has no spec, and says it nowhere else
        rom = getattr(env.unwrapped, "_game", None)
    if not (rom or game):
        raise ValueError(f"{env} does not say which game it is: name it, e.g. AtariRAMLabels(env, game='pong').")
    if rom and game and game_key(rom) != game_key(game):
        raise ValueError(f"The environment's game is {rom!r}, so labels of {game!r} would be wrong: leave `game` out.")
    return resolve_game(str(rom or game))
