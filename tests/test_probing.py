import csv
import io
import json

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from pearl_sb3 import ProbeResult, cli, pearl_policy_kwargs, probe
from pearl_sb3.probing import tables
from pearl_sb3.probing.data import collect
from pearl_sb3.probing.result import score
from pearl_sb3.probing.subjects import Encoder

STEPS = 1200


def knows(data):
    """:return: a model that gives the labels away, found by the screen's hash"""
    import hashlib

    memory = dict(zip(data.digests.tolist(), data.ram[:, [49, 54]].tolist(), strict=True))

    def one(screen):
        digest = hashlib.blake2b(screen.tobytes(), digest_size=8).digest()
        return np.eye(256)[memory[int(np.frombuffer(digest, np.uint64)[0])]].ravel()

    return lambda screens: np.stack([one(screen) for screen in screens]).astype(np.float32)


def run(subject, folder, **kwargs):
    return probe(subject, "Pong", steps=STEPS, data=folder, progress=False, **kwargs)


def test_a_model_that_knows_is_told_from_one_that_does_not(data, folder):
    majority, knowing = run("majority", folder), run(knows(data), folder)
    blind = run(lambda screens: np.random.default_rng(0).normal(size=(len(screens), 8)), folder)
    assert knowing.variables["ball_x"]["accuracy"] > 0.8 > 0.5 > blind.variables["ball_x"]["accuracy"]
    # values that training never showed have no feature here, so that a few errors remain
    assert knowing.variables["ball_y"]["mae"] < blind.variables["ball_y"]["mae"] / 2
    assert majority.f1 < knowing.f1 and "mae" not in majority.variables["ball_x"]


@pytest.mark.parametrize("protocol", ["fixed", "paper"])
def test_an_encoder_beats_the_majority(data, folder, protocol):
    result, majority = run("pearl-tiny", folder, protocol=protocol), run("majority", folder, protocol=protocol)
    assert result.f1 > majority.f1 + 0.1
    low, high = result.game_scores["f1_interval"]
    assert low <= result.f1 <= high
    assert result.frames["test"] > 0 and result.episodes == {"train": 5, "val": 1, "test": 2}
    again = run("pearl-tiny", folder, protocol=protocol)
    assert again.provenance.pop("seconds").keys() == result.provenance.pop("seconds").keys()
    assert again.to_dict() == result.to_dict()


def test_the_embedding_is_made_once(data, folder):
    subject = Encoder("pearl-tiny", view="agent")
    run(subject, folder)
    encoded = subject.encoder.frames_encoded
    run(subject, folder)
    assert subject.encoder.frames_encoded == encoded


def test_few_labels_are_harder(data, folder):
    result = run("pearl-tiny", folder, few_shot=(100, 400))
    assert list(result.few_shot) == [100, 400]
    assert result.few_shot[100]["f1"] < result.few_shot[400]["f1"] < result.f1 + 0.05
    with pytest.raises(ValueError, match="few_shot=100000: the training episodes have"):
        run("pearl-tiny", folder, few_shot=(100_000,))


def test_results_survive_the_disk(data, folder, tmp_path):
    result = run("pixels", folder, few_shot=(100,))
    result.save(tmp_path / "deep" / "result.json")
    assert ProbeResult.load(tmp_path / "deep" / "result.json") == result
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["result.json"]
    assert "ball_x" in str(result) and "with 100 labelled frames" in str(result)


def test_scores_are_averaged_as_published():
    truth = np.array([[1, 1, 7], [1, 2, 7], [2, 1, 8], [2, 2, 8]], np.uint8)
    guess = np.array([[1, 1, 7], [1, 1, 7], [2, 1, 7], [1, 1, 7]], np.uint8)
    game, overall, category, variable = score(truth, guess, np.array([0, 0, 1, 1]), ["ball_x", "ball_y", "player_score"])
    accuracy = {name: values["accuracy"] for name, values in variable.items()}
    assert accuracy == {"ball_x": 0.75, "ball_y": 0.5, "player_score": 0.5}
    assert category["small_object_localization"]["accuracy"] == 0.625
    assert game["accuracy"] == (0.625 + 0.5) / 2 and overall["accuracy"] == pytest.approx(1.75 / 3)
    assert game["accuracy_interval"][0] <= game["accuracy"] <= game["accuracy_interval"][1]


def test_an_agents_features_can_be_probed(data, folder, tmp_path):
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=1), 4)
    PPO("CnnPolicy", env, n_steps=8, batch_size=8, policy_kwargs=pearl_policy_kwargs(features_dim=64)).save(tmp_path / "a.zip")
    out = tmp_path / "agent.json"
    arguments = ["probe", "--game", "Pong", "--agent", str(tmp_path / "a.zip"), "--steps", str(STEPS), "--data", str(folder)]
    assert cli.main([*arguments, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["provenance"]["dim"] == 64 and 0 < found["f1"] < 1


def test_an_agent_can_play(tmp_path):
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=1), 4)
    PPO("CnnPolicy", env, n_steps=8, batch_size=8, policy_kwargs=pearl_policy_kwargs()).save(tmp_path / "a.zip")
    played = collect("pong", 80, agent=str(tmp_path / "a.zip"), folder=tmp_path, jobs=1, progress=False)
    assert len(played) == 80 + len(played.episodes()) and played.manifest["agent"] == "a.zip"
    env = VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", n_envs=1), 4)
    PPO("CnnPolicy", env, n_steps=8, batch_size=8).save(tmp_path / "b.zip")
    with pytest.raises(ValueError, match="it was trained on another game"):
        collect("pong", 80, agent=str(tmp_path / "b.zip"), folder=tmp_path, jobs=1, progress=False)


def test_command_answers_for_one_game(data, folder, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["probe", "--game", "Pong", "--encoder", "pearl-tiny", "--steps", str(STEPS), "--protocol", "fixed"]
    assert cli.main([*arguments, "--data", str(folder), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {"f1", "accuracy"} <= found["variables"]["ball_x"].keys()
    assert {"f1", "accuracy"} <= found["categories"]["small_object_localization"].keys()
    assert found["provenance"]["embedding"] and found["provenance"]["command"].startswith("pearl ")
    assert f"{found['f1']:.3f}" in capsys.readouterr().out


def test_matrix_resumes_and_makes_tables(data, folder, tmp_path, capsys):
    arguments = [
        "probe",
        "--games",
        "pong",
        "--encoders",
        "majority,pixels,pearl-tiny,pearl-tiny:random",
        "--steps",
        str(STEPS),
    ]
    arguments += ["--data", str(folder), "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    results = sorted(tmp_path.glob("pong-*.json"))
    assert len(results) == 4
    stamps = [path.stat().st_mtime_ns for path in results]
    capsys.readouterr()
    arguments[arguments.index("--encoders") + 1] = "pixels"
    assert cli.main(arguments) == 0
    assert [path.stat().st_mtime_ns for path in results] == stamps
    head, *lines = csv.reader(io.StringIO((tmp_path / "games.csv").read_text()))
    assert head[:5] == ["game", "majority", "pixels", "pearl-tiny", "pearl-tiny (random)"]
    assert head[5:] == [f"{name} (published)" for name in tables.PUBLISHED]
    loaded = {result.subject: result.f1 for result in map(ProbeResult.load, results)}
    assert [float(cell) for cell in lines[0][1:5]] == pytest.approx([loaded[name] for name in head[1:5]], abs=5e-4)
    assert lines[0][head.index("ST-DIM (published)")] == "0.810"
    assert (tmp_path / "games.tex").read_text().startswith(r"\begin{tabular}{lrrrrrrrrr}")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("categories.png", "games.png"))
    assert "| pong |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--game", "Pnog"], "Did you mean pong"),
        (["--game", "Alien"], "no annotations for 'Alien'"),
        (["--encoder", "pearl-tinny"], "pearl-tiny"),
        (["--encoders", "majority,pixels", "--json", "x.json"], "use --out FOLDER"),
        (["--published", "ST-DIMM"], "Did you mean ST-DIM"),
        (["--agent", "nowhere.zip"], "No agent at nowhere.zip"),
        (["--protocol", "paper", "--hidden", "32"], "has a linear probe"),
        (["--steps", "5"], "at least 8"),
    ],
)
def test_bad_requests_name_the_fix(arguments, message, tmp_path, capsys):
    assert cli.main(["probe", "--data", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_settings_that_differ_are_named_in_the_table(data, folder):
    results = [run("random-cnn", folder), run("random-cnn", folder, hidden=8), run("random-cnn:3", folder)]
    names = ["random-cnn", "random-cnn, 8 hidden", "random-cnn:3"]
    assert tables.methods(results) == names
    head, lines = tables.games_by_methods(results, others=())
    assert head == ["game", *names]
    assert lines[0][1:] == [f"{result.f1:.3f}" for result in results]
    assert len({result.provenance["embedding"] for result in results}) == 2
    head, lines = tables.categories_by_methods(results)
    assert head[1:] == names and all(len(line) == 4 for line in lines)


def test_methods_are_compared_on_the_games_of_both():
    def made(subject, game, f1):
        scores = dict(game_scores={"f1": f1}, overall={}, categories={}, variables={}, frames={}, episodes={})
        return ProbeResult(game=game, subject=subject, protocol="fixed", **scores)

    ours = [made("x", game, f1) for game, f1 in (("pong", 0.5), ("boxing", 0.4), ("hero", 0.9))]
    twins = [made("x (random)", game, f1) for game, f1 in (("pong", 0.3), ("boxing", 0.4), ("qbert", 0.9))]
    n, mean, low, high = tables.difference(ours + twins, "x", "x (random)")
    assert n == 2 and mean == pytest.approx(0.1)
    assert low == pytest.approx(0) and high == pytest.approx(0.2)
    with pytest.raises(ValueError, match="No game has results of both"):
        tables.difference(ours, "x", "x (random)")
    with pytest.raises(ValueError, match="No position has errors of both"):
        tables.error_ratio(ours + twins, "x", "x (random)")
    ours[0].variables.update(ball_x={"mae": 2.0}, ball_y={"mae": 1.0}, score={})
    twins[0].variables.update(ball_x={"mae": 4.0}, ball_y={"mae": 8.0}, score={})
    count, ratio = tables.error_ratio(ours + twins, "x", "x (random)")
    assert count == 2 and ratio == pytest.approx(0.25)
