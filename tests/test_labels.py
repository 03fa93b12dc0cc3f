"""Names of games, the state variables of their memory, the wrapper that reads it, and the published scores."""

from collections import Counter

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from ale_py.env import AtariEnv
from stable_baselines3.common.atari_wrappers import AtariWrapper, MaxAndSkipEnv
from stable_baselines3.common.env_util import make_vec_env

from pearl_sb3.atari import AtariRAMLabels, PearlAtariWrapper
from pearl_sb3.atari.games import GAMES, env_id, game_key, resolve_game
from pearl_sb3.atari.labels import ANNOTATIONS, CATEGORIES, categories, label_table, state_variables
from pearl_sb3.probing.published import published

gym.register_envs(ale_py)

# Variables per game: small objects, agent, other positions, score/clock/lives/display, miscellaneous, and all of them. First as
# AtariARI has them now, then as in Table 1 of arXiv 1906.08226.
COUNTS = {
    "asteroids": ((4, 2, 30, 3, 3, 41), (4, 2, 30, 3, 3, 41)),
    "berzerk": ((4, 2, 19, 4, 5, 34), (4, 2, 19, 4, 5, 34)),
    "bowling": ((2, 2, 0, 2, 10, 16), (2, 2, 0, 2, 10, 16)),
    "boxing": ((0, 2, 2, 3, 0, 7), (0, 2, 2, 3, 0, 7)),
    "breakout": ((2, 1, 0, 1, 31, 35), (2, 1, 0, 1, 31, 35)),
    "demonattack": ((1, 1, 6, 1, 1, 10), (1, 1, 6, 1, 1, 10)),
    "freeway": ((0, 1, 10, 1, 0, 12), (0, 1, 10, 1, 0, 12)),
    "frostbite": ((0, 2, 9, 4, 2, 17), (0, 2, 9, 4, 2, 17)),
    "hero": ((0, 2, 0, 3, 3, 8), (0, 2, 0, 3, 3, 8)),
    "montezumarevenge": ((0, 2, 4, 4, 5, 15), (0, 2, 4, 4, 5, 15)),
    "mspacman": ((0, 2, 10, 2, 3, 17), (0, 2, 10, 2, 3, 17)),
    "pitfall": ((0, 2, 3, 2, 0, 7), (0, 2, 3, 0, 0, 5)),
    "pong": ((2, 2, 2, 2, 0, 8), (2, 1, 1, 2, 0, 6)),
    "privateeye": ((0, 2, 2, 4, 2, 10), (0, 2, 2, 4, 2, 10)),
    "qbert": ((0, 3, 2, 3, 0, 29), (0, 3, 2, 0, 0, 5)),
    "riverraid": ((2, 1, 0, 2, 0, 5), (2, 1, 0, 2, 0, 5)),
    "seaquest": ((5, 2, 4, 4, 3, 18), (1, 2, 8, 4, 3, 18)),
    "spaceinvaders": ((1, 1, 2, 2, 1, 7), (1, 1, 2, 2, 1, 7)),
    "tennis": ((2, 2, 2, 2, 0, 8), (2, 2, 2, 2, 0, 8)),
    "venture": ((0, 2, 12, 3, 1, 18), (0, 2, 12, 3, 1, 18)),
    "videopinball": ((2, 2, 0, 2, 0, 6), (2, 2, 0, 2, 0, 6)),
    "yarsrevenge": ((4, 2, 2, 0, 0, 8), (4, 2, 2, 0, 0, 8)),
}


@pytest.mark.parametrize(
    "spelling",
    [
        "ALE/MsPacman-v5",
        "MsPacmanNoFrameskip-v4",
        "MsPacmanDeterministic-v0",
        "MsPacman-ram-v4",
        "ms_pacman",
        " Ms Pacman",
        "mspacman",
    ],
)
def test_a_game_may_be_spelled_in_any_way(spelling):
    assert game_key(spelling) == resolve_game(spelling) == "mspacman"
    assert env_id(spelling) == "MsPacmanNoFrameskip-v4"


@pytest.mark.parametrize(
    "name, message",
    [
        ("Puhng", "Unknown game 'Puhng'. Did you mean pong?"),
        ("montezuma", "Did you mean montezumarevenge?"),
        ("zzz", "Unknown game 'zzz'. Choose one of asteroids, berzerk"),
        ("", "Unknown game ''. Choose one of"),
        ("ALE/Alien-v5", "There are no annotations for 'ALE/Alien-v5'.*Choose one of asteroids"),
        ("pacman", "There are no annotations for 'pacman'"),
    ],
)
def test_games_that_cannot_be_had_are_explained(name, message):
    with pytest.raises(ValueError, match=message):
        resolve_game(name)


def test_a_choice_of_games():
    assert resolve_game("Pong", known=["pong", "alien"]) == "pong"
    assert resolve_game("Alien-v4", known=["pong", "alien"]) == "alien"
    with pytest.raises(ValueError, match="Unknown game 'boxing'.*Choose one of alien, pong"):
        resolve_game("boxing", known=["pong", "alien"])


@pytest.mark.parametrize("column, annotations", enumerate(ANNOTATIONS))
@pytest.mark.parametrize("game", GAMES)
def test_counts_are_those_of_the_benchmark(game, column, annotations):
    variables = state_variables(game, annotations)
    count = Counter(category for variable in variables for category in categories(variable))
    assert (*(count[category] for category in CATEGORIES), len(variables)) == COUNTS[game][column]
    assert all(0 <= byte < 128 for byte in variables.values())
    assert len(set(variables.values())) == len(variables), "two variables in one byte"


@pytest.mark.parametrize(
    "annotations, total, per_category", [("current", 336, (31, 40, 121, 54, 70)), ("2019", 308, (27, 39, 124, 49, 70))]
)
def test_the_table_has_all_variables(annotations, total, per_category):
    table = label_table(annotations)
    assert len(table) == len({(row.game, row.variable) for row in table}) == total
    assert tuple(sum(category in row.categories for row in table) for category in CATEGORIES) == per_category
    assert {row.game: None for row in table} == dict.fromkeys(GAMES)
    assert len(GAMES) == len(COUNTS) == 22


@pytest.mark.parametrize(
    "variable, expected",
    [
        ("player_x", ["agent_localization"]),
        ("player_missile_x1", ["small_object_localization"]),
        ("ball_y", ["small_object_localization"]),
        ("red_enemy_column", ["other_localization"]),
        ("frame_number_display", ["score_clock_lives_display"]),
        ("block_bit_map_12", ["misc_keys"]),
        ("player_missile1_direction", ["misc_keys"]),
        ("num_lives_direction", ["score_clock_lives_display", "misc_keys"]),
        ("tile_color_0", []),
    ],
)
def test_categories_follow_from_the_name(variable, expected):
    assert categories(variable) == tuple(expected)


def test_what_changed_since_2019():
    old, new = (state_variables("SpaceInvaders", annotations) for annotations in ("2019", "current"))
    assert {name for name in new if new[name] != old[name]} == {"num_lives"}
    assert (old["num_lives"], new["num_lives"]) == (125, 73)
    assert state_variables("pong").keys() - state_variables("pong", "2019").keys() == {"player_x", "enemy_x"}
    assert state_variables("breakout") == state_variables("breakout", "2019")
    assert state_variables("berzerk")["enemy_robots_y_8"] == 64, "the last of a list"


def test_a_caller_cannot_change_the_table():
    state_variables("pong").clear()
    published("ST-DIM")["ST-DIM"].clear()
    assert state_variables("pong")["ball_x"] == 49 and published("ST-DIM")["ST-DIM"]["pong"] == 0.81


@pytest.mark.parametrize("read", [lambda name: state_variables("pong", name), label_table])
def test_unknown_annotations(read):
    with pytest.raises(ValueError, match="`annotations` to be one of current, 2019, actual: '2020'"):
        read("2020")


@pytest.mark.parametrize("game", GAMES)
def test_every_game_has_an_environment_and_labels(game):
    env = AtariRAMLabels(gym.make(env_id(game)))
    assert env.game == game
    _, info = env.reset(seed=0)
    ram = env.unwrapped.ale.getRAM()
    assert info["labels"] == {variable: ram[byte] for variable, byte in state_variables(game).items()}
    assert all(type(value) is int for value in info["labels"].values())


@pytest.mark.parametrize("annotations", ANNOTATIONS)
@pytest.mark.parametrize("game", ["Pong", "MsPacman"])
def test_labels_are_of_the_last_skipped_frame(game, annotations):
    """An emulator beside it goes the same way one frame at a time."""
    env = AtariRAMLabels(MaxAndSkipEnv(gym.make(env_id(game)), skip=4), annotations=annotations)
    beside = gym.make(env_id(game)).unwrapped
    env.reset(seed=3)
    beside.reset(seed=3)
    rng = np.random.default_rng(0)
    moved = 0
    for _ in range(120):
        action = int(rng.integers(env.action_space.n))
        _, _, terminated, truncated, info = env.step(action)
        rams = []
        for _ in range(4):
            beside.step(action)
            rams.append(beside.ale.getRAM())
        third, last = ({name: ram[byte] for name, byte in state_variables(game, annotations).items()} for ram in rams[2:])
        assert info["labels"] == last
        assert info["lives"] == beside.ale.lives(), "the rest of the info is kept"
        assert not (terminated or truncated)
        moved += last != third
    assert moved > 30, "the frames before the last would have done as well"


@pytest.mark.parametrize(
    "preprocess",
    [AtariWrapper, lambda env: PearlAtariWrapper(env, color=True, screen_size=None)],
    ids=["84x84 gray", "210x160 RGB"],
)
def test_labels_belong_to_the_observation(preprocess):
    """Pong's ball is seen where its label says; it moves four pixels a step, so that a label of another step would tell."""
    env = AtariRAMLabels(preprocess(gym.make("PongNoFrameskip-v4")))
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    seen, labels = [], []
    for _ in range(200):
        observation, _, _, _, info = env.step(int(rng.integers(6)))
        height, width = observation.shape[:2]
        left = int(0.15 * width)  # between the walls and between the paddles, only the ball is bright
        field = observation[int(36 / 210 * height) : int(192 / 210 * height), left : width - left, 0]
        columns = np.flatnonzero((field > 160).any(axis=0))
        seen.append((columns.mean() + left + 0.5) * 160 / width if len(columns) else np.nan)
        labels.append(info["labels"]["ball_x"])
    offset = np.array(seen) - labels
    assert np.isfinite(offset).sum() > 100
    assert np.nanstd(offset) < 1
    assert np.nanstd(np.array(seen)[1:] - labels[:-1]) > 3 and np.nanstd(np.array(seen)[:-1] - labels[1:]) > 3


def test_the_place_among_wrappers_does_not_matter_for_a_step():
    inside = AtariWrapper(gym.make("BreakoutNoFrameskip-v4"))
    outside = AtariRAMLabels(AtariWrapper(gym.make("BreakoutNoFrameskip-v4")))
    # put it directly around the frame skip, the innermost place there is
    skip = inside.env
    while not isinstance(skip.env, MaxAndSkipEnv):
        skip = skip.env
    skip.env = AtariRAMLabels(skip.env)
    rng = np.random.default_rng(0)
    inside.reset(seed=1)
    assert outside.reset(seed=1)[1]["labels"] == outside.labels()
    lost = 0
    for _ in range(150):
        action = int(rng.integers(4))
        one, other = inside.step(action), outside.step(action)
        assert one[4]["labels"] == other[4]["labels"]
        if one[2]:
            lost += 1
            inside.reset()
            assert outside.reset()[1]["labels"] == outside.labels()
    assert lost


def test_labels_under_a_vectorised_environment():
    """The labels of a step that ends an episode are of the old episode, those of the new one are the reset's."""

    def label(env):
        return AtariRAMLabels(AtariWrapper(env))

    vec_env = make_vec_env("BreakoutNoFrameskip-v4", n_envs=1, seed=0, wrapper_class=label)
    single = label(gym.make("BreakoutNoFrameskip-v4"))
    vec_env.reset()
    assert vec_env.reset_infos[0]["labels"] == single.reset(seed=0)[1]["labels"]
    rng = np.random.default_rng(0)
    for _ in range(150):
        action = int(rng.integers(4))
        _, _, dones, infos = vec_env.step(np.array([action]))
        observation, _, terminated, truncated, info = single.step(action)
        assert infos[0]["labels"] == info["labels"]
        assert dones[0] == (terminated or truncated)
        if dones[0]:
            break
    np.testing.assert_array_equal(infos[0]["terminal_observation"], observation)
    assert vec_env.reset_infos[0]["labels"] == single.reset()[1]["labels"] != infos[0]["labels"]


def test_an_environment_made_by_its_class_says_its_game():
    assert AtariRAMLabels(AtariEnv("ms_pacman")).game == "mspacman"
    assert AtariRAMLabels(AtariEnv("ms_pacman"), game="MsPacman").game == "mspacman"


def test_an_environment_that_does_not_say_its_game():
    class Custom(gym.Env):
        ale = AtariEnv("pong").ale

    with pytest.raises(ValueError, match=r"does not say which game it is.*game='pong'"):
        AtariRAMLabels(Custom())
    assert AtariRAMLabels(Custom(), game="Pong").labels().keys() == state_variables("pong").keys()


@pytest.mark.parametrize(
    "name, kwargs, message",
    [
        ("CartPole-v1", {}, "needs a game of the Arcade Learning Environment.*CartPole"),
        ("CartPole-v1", dict(game="pong"), "needs a game of the Arcade Learning Environment.*CartPole"),
        ("AlienNoFrameskip-v4", {}, "There are no annotations for 'alien'"),
        ("PongNoFrameskip-v4", dict(game="boxing"), "game is 'pong', so labels of 'boxing' would be wrong"),
        ("PongNoFrameskip-v4", dict(annotations="new"), "`annotations` to be one of current, 2019, actual: 'new'"),
    ],
)
def test_environments_that_cannot_be_labelled(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        AtariRAMLabels(gym.make(name), **kwargs)


@pytest.mark.parametrize(
    "method, mean, tolerance",
    [
        # the means printed in the paper are of unrounded scores
        ("MAJ-CLF", 0.14, 0.01),
        ("RANDOM-CNN", 0.44, 0.01),
        ("VAE", 0.40, 0.01),
        ("PIXEL-PRED", 0.58, 0.01),
        ("CPC", 0.61, 0.01),
        ("ST-DIM", 0.68, 0.01),
        ("SUPERVISED", 0.82, 0.01),
        ("PEARL FI", 0.551, 0.001),
        ("PEARL 2x2", 0.654, 0.001),
        ("PEARL FI+2x", 0.683, 0.001),
        ("PEARL 4x4", 0.705, 0.001),
        ("PEARL FI+4x", 0.719, 0.001),
        ("PEARL 1,2,4x", 0.735, 0.001),
    ],
)
def test_published_scores_have_the_published_mean(method, mean, tolerance):
    ((name, scores),) = published(method).items()
    assert name == method and scores == published()[method]
    assert tuple(scores) == GAMES
    assert np.mean(list(scores.values())) == pytest.approx(mean, abs=tolerance)


def test_every_published_method_has_every_game():
    table = published()
    assert len(table) == 7 + 21
    assert all(tuple(scores) == GAMES and all(0 <= f1 <= 1 for f1 in scores.values()) for scores in table.values())


def test_unknown_published_method():
    with pytest.raises(
        ValueError, match=r"No published scores of 'st-dimm'\. Did you mean ST-DIM.*There are: MAJ-CLF; RANDOM-CNN"
    ):
        published("st-dimm")
