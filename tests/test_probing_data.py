import json

import h5py
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from pearl_sb3 import pearl_policy_kwargs
from pearl_sb3.atari.labels import state_variables
from pearl_sb3.probing import collect as collecting
from pearl_sb3.probing.collect import Segment, play
from pearl_sb3.probing.data import LabelledFrames, collect
from pearl_sb3.probing.disk import replacing
from pearl_sb3.probing.embeddings import embeddings
from pearl_sb3.probing.splits import entropy, paper_episodes, split
from pearl_sb3.probing.subjects import Agent, Encoder, Function, Pixels, RandomCNN
from pearl_sb3.probing.views import AgentView


def read_all(data):
    return np.concatenate([screens for _, screens, _ in data.chunks()])


def test_every_step_and_every_reset_is_kept(data):
    assert len(data) == data.manifest["steps"] + len(data.episodes())
    assert data.ram.shape == (len(data), 128)
    assert len(data.starts) == 9 and data.starts[-1] == len(data)
    assert all(data.first[start] for start in data.starts[:-1])


def test_labels_belong_to_their_frames(data):
    """Pong's ball is the only thing of its colour between the paddles, so that its row on screen tells its byte."""
    screens, variables = read_all(data), state_variables("pong")
    court = screens[:, 34:194, 24:136]
    ball = (court == (236, 236, 236)).all(-1)
    seen = np.flatnonzero((ball.sum((1, 2)) > 0) & (ball.sum((1, 2)) <= 16))
    rows = np.array([np.flatnonzero(ball[index].any(1)).mean() for index in seen])
    shifts = {lag: np.std(rows[1:-1] - data.ram[seen[1:-1] + lag, variables["ball_y"]]) for lag in (-1, 0, 1)}
    assert shifts[0] < 2 < min(shifts[-1], shifts[1])


def test_the_same_request_plays_the_same(data, tmp_path):
    again = collect("ALE/Pong-v5", data.manifest["steps"], folder=tmp_path, jobs=1, progress=False)
    assert (again.ram == data.ram).all() and (again.digests == data.digests).all()
    assert again.id != "" and (read_all(again) == read_all(data)).all()


def test_collected_data_is_reused_and_broken_files_are_played_again(data, folder, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in data.paths}
    collect("pong", data.manifest["steps"], folder=folder, progress=False)
    assert {path: path.stat().st_mtime_ns for path in data.paths} == before

    cut, gone = data.paths[2], data.paths[5]
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    gone.unlink()
    again = collect("pong", data.manifest["steps"], folder=folder, jobs=2, progress=False)
    changed = {path for path in again.paths if path.stat().st_mtime_ns != before[path]}
    assert changed == {cut, gone}
    assert (again.ram == data.ram).all() and (read_all(again)[::50] == read_all(data)[::50]).all()


def test_a_segment_is_whole_or_absent(tmp_path, monkeypatch):
    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(collecting._Writer, "_flush", full_disk)
    with pytest.raises(OSError, match="Free some space, or name another folder with --data"):
        play(Segment("pong", 40, 0), tmp_path / "segment-0.h5")
    assert not list(tmp_path.iterdir())


def test_frames_are_stored_small(data):
    stored = sum(path.stat().st_size for path in data.paths)
    assert len(data) * 210 * 160 * 3 / stored > 50


def test_the_random_player_never_waits(monkeypatch):
    class Env:
        class action_space:
            n = 4

    act = collecting.random_policy(Env(), np.random.default_rng(0))
    assert {act(None, False) for _ in range(100)} == {1, 2, 3}


def test_split_by_episode(data):
    parts = split(data, state_variables("pong"))
    assert {"player_y", "enemy_y", "ball_x", "ball_y"} <= set(parts.variables)
    assert set(parts.variables) | set(parts.dropped) == set(state_variables("pong"))
    assert (len(parts.train), len(parts.val), len(parts.test)) == (5, 1, 2)
    trained = np.concatenate(parts.train + parts.val)
    tested = np.concatenate(parts.test)
    assert not set(trained) & set(tested)
    assert not set(data.digests[trained]) & set(data.digests[tested])
    others = split(data, state_variables("pong"), seed=7)
    assert [part[0] for part in others.train] != [part[0] for part in parts.train]


def test_paper_protocol_keeps_collection_order(data):
    parts = split(data, state_variables("pong"), "paper")
    assert (np.diff([part[0] for part in parts.train + parts.val + parts.test]) > 0).all()


def fake(tmp_path, first, ram):
    """:return: data of one segment with the given episodes and memory"""
    with h5py.File(tmp_path / "segment-0.h5", "w") as file:
        file["ram"], file["first"] = np.asarray(ram, np.uint8), np.asarray(first)
        file["digests"] = np.arange(len(first), dtype=np.uint64)
    manifest = {"game": "pong", "steps": len(first), "sha256": "x", "segments": {"segment-0.h5": ""}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return LabelledFrames(tmp_path)


def test_paper_protocol_gives_reset_frames_the_terminal_label(tmp_path):
    ram = np.repeat(np.arange(10)[:, None], 128, 1)
    data = fake(tmp_path, [1, 0, 0, 0, 1, 0, 0, 1, 0, 0], ram)
    episodes, labels = paper_episodes(data, data.ram[:, :1])
    # the segment's first screen is not stored, nor are terminal screens; the last episode is unfinished and keeps its last
    assert [part.tolist() for part in episodes] == [[1, 2], [4, 5], [7, 8, 9]]
    assert labels[:, 0].tolist() == [0, 1, 2, 3, 3, 5, 6, 6, 8, 9]


def test_too_few_episodes_say_so(tmp_path):
    first = np.zeros(300, bool)
    first[[0, 100, 200]] = True
    data = fake(tmp_path, first, np.random.default_rng(0).integers(0, 9, (300, 128)))
    with pytest.raises(ValueError, match="3 episodes .* longer than 64 frames, a split needs 4: collect more than 300 steps"):
        split(data, {"ball_x": 3})
    with pytest.raises(ValueError, match="protocol='other'"):
        split(data, {"ball_x": 3}, "other")


def test_constant_variables_are_no_test(tmp_path):
    first = np.zeros(700, bool)
    first[::100] = True
    data = fake(tmp_path, first, np.zeros((700, 128)))
    with pytest.raises(ValueError, match="No variable of pong"):
        split(data, {"ball_x": 3})


def test_entropy_is_in_nats():
    assert entropy(np.array([0, 1], np.uint8)) == pytest.approx(np.log(2))
    assert entropy(np.array([5, 5], np.uint8)) == 0


def test_unknown_games_and_no_steps():
    with pytest.raises(ValueError, match="Did you mean pong"):
        collect("Pongg", 100)
    with pytest.raises(ValueError, match="at least 8"):
        collect("pong", 3)


@pytest.mark.parametrize("subject, dim", [(Pixels, 1764), (RandomCNN, 256), (Encoder, 3200)])
def test_embeddings_are_kept(data, folder, subject, dim):
    made = subject()
    kept = embeddings(data, made, folder, progress=False)
    assert kept.shape == (len(data), dim) and isinstance(kept, np.memmap)
    screens = next(data.chunks(16))[1]
    assert np.allclose(kept[: len(screens)], made.embed(screens, data.first[: len(screens)]), atol=2e-2)
    encoder = getattr(made, "encoder", None)
    before = encoder.frames_encoded if encoder else None
    again = embeddings(data, made, folder, progress=False)
    assert (again[:] == kept[:]).all()
    assert (encoder.frames_encoded if encoder else None) == before


def test_an_interrupted_embedding_goes_on(data, tmp_path):
    class Stops:
        name, identity, calls = "stops", "stops", 0

        def embed(self, screens, first):
            self.calls += len(screens)
            if self.calls > 400 and not self.go_on:
                raise KeyboardInterrupt
            return screens[:, ::70, ::80, 0].reshape(len(screens), -1).astype(np.float32)

        go_on = False

    subject = Stops()
    with pytest.raises(KeyboardInterrupt):
        embeddings(data, subject, tmp_path, progress=False)
    subject.go_on, subject.calls = True, 0
    whole = embeddings(data, subject, tmp_path, progress=False)
    assert 0 < subject.calls < len(data)
    assert (whole == read_all(data)[:, ::70, ::80, 0].reshape(len(data), -1)).all()
    assert [path.suffix for path in (tmp_path / "embeddings").iterdir()] == [".npy"]


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda screens: screens, r"numbers of shape \(\d+, dim\), it gave uint8 of shape"),
        (lambda screens: th.zeros(3, 4), "float32 of shape"),
        (lambda screens: np.full((len(screens), 2), "a"), "numbers of shape"),
    ],
)
def test_a_callable_of_the_wrong_shape(data, tmp_path, function, message):
    with pytest.raises(ValueError, match=message):
        embeddings(data, Function(function), tmp_path, progress=False)


def test_nan_embeddings_are_refused(data, tmp_path):
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        embeddings(data, Function(lambda screens: np.full((len(screens), 2), np.nan)), tmp_path, progress=False)


def test_a_callable_leaves_nothing_behind(data, tmp_path):
    given = embeddings(data, Function(lambda screens: th.ones(len(screens), 2)), tmp_path, progress=False)
    assert given.shape == (len(data), 2) and not list(tmp_path.iterdir())
    assert (given[:] == 1).all()


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize("kwargs", [{}, pearl_policy_kwargs()], ids=["nature", "pearl"])
def test_an_agent_sees_what_it_saw_in_training(tmp_path, algorithm, kwargs):
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=1, seed=0), 4)
    model = algorithm("CnnPolicy", env, policy_kwargs=kwargs, n_steps=8, seed=0)
    model.save(tmp_path / "agent.zip")
    # an env that gives the screens themselves beside what the agent gets, both from the same game
    observation = env.reset()
    view = AgentView.load(tmp_path / "agent.zip")
    wrapped = env.venv.envs[0]
    first = True
    for _ in range(5):
        screen = screen_of(wrapped)
        seen = view.observe(screen, first)
        given = observation[0] if seen.shape == observation[0].shape else observation[0].transpose(2, 0, 1)
        # the wrapper's frame is the maximum of two screens: compare where the game is still
        assert np.abs(seen[-1].astype(int) - given[-1]).mean() < 2
        assert (seen[:3] == 0).all() if first else True
        observation, *_ = env.step([0])
        first = False
    features = view.features(np.stack([screen] * 3), np.array([True, False, False]))
    assert features.shape == (3, 512) and not th.equal(features[0], features[2])


def screen_of(env):
    """:return: the screen as the console has it now"""
    return env.unwrapped.ale.getScreenRGB()


def test_agents_of_other_observations_are_refused(tmp_path):
    PPO("MlpPolicy", "CartPole-v1", n_steps=8).save(tmp_path / "agent.zip")
    with pytest.raises(ValueError, match="needs an agent that sees Atari screens"):
        Agent(str(tmp_path / "agent.zip"))
    with pytest.raises(FileNotFoundError, match="No agent at"):
        Agent(str(tmp_path / "none.zip"))


def test_a_full_disk_is_told_before_embedding_begins(data, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device. Free some space, or name another folder with --data"):
        embeddings(data, Pixels(), tmp_path, progress=False)
    assert not list((tmp_path / "embeddings").iterdir())


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    with replacing(path) as unfinished:
        unfinished.write_text("good")
    with pytest.raises(OSError, match=r"Could not write .*file.txt: .*Free some space"), replacing(path) as unfinished:
        unfinished.write_text("ba")
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:
        unfinished.write_text("b")
        raise KeyboardInterrupt
    assert path.read_text() == "good" and list(path.parent.iterdir()) == [path]


def test_two_at_once_embed_once(data, tmp_path):
    import threading

    calls = []

    class Counting(Pixels):
        def embed(self, screens, first):
            calls.append(len(screens))
            return super().embed(screens, first)

    given = []
    threads = [
        threading.Thread(target=lambda: given.append(embeddings(data, Counting(), tmp_path, progress=False))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(calls) == len(data) and (given[0] == given[1]).all()
