"""What is trained on the game itself: self-supervised, principal components, supervised."""

import numpy as np
import pytest
import torch as th

from pearl_sb3 import cli, probe
from pearl_sb3.probing import supervised, trained, training
from pearl_sb3.probing.screens import gray_frames
from pearl_sb3.probing.subjects import PixelPCA, SelfSupervisedCNN, make_subject
from pearl_sb3.probing.supervised import fit_supervised
from pearl_sb3.probing.trained import CPC, STDIM, sample_sequences
from pearl_sb3.probing.training import train

STEPS = 1200


def learner(name, folder, updates=4):
    return SelfSupervisedCNN(name, "Pong", folder, seed=41, steps=STEPS, updates=updates, progress=False)


def run(subject, folder, **kwargs):
    return probe(subject, "Pong", steps=STEPS, data=folder, progress=False, **kwargs)


def test_sequences_stay_within_their_episode():
    episodes = [np.arange(0, 3), np.arange(3, 4), np.arange(4, 12)]
    drawn = sample_sequences(episodes, 3, 500, np.random.default_rng(0))
    assert drawn.shape == (500, 3) and (np.diff(drawn) == 1).all()
    # the short episode is drawn as often as the long one, every place of the long one sometimes, and none of what is too short
    assert set(drawn[:, 0]) == {0, *range(4, 10)}
    assert 200 < (drawn[:, 0] == 0).sum() < 300
    with pytest.raises(ValueError, match="collect more steps"):
        sample_sequences(episodes, 9, 1, np.random.default_rng(0))


def test_gray_frames_are_those_of_the_data(data):
    import cv2

    screens = gray_frames(data, progress=False)
    assert screens.shape == (len(data), 210, 160) and not list(data.folder.glob("tmp*"))
    for at, chunk, _ in data.chunks(100, 350):
        assert (screens[at] == cv2.cvtColor(chunk[0], cv2.COLOR_RGB2GRAY)).all()


@pytest.mark.parametrize("objective", [STDIM, CPC])
def test_an_objective_is_learnt(objective, monkeypatch):
    monkeypatch.setattr(CPC, "horizons", (1, 5))
    th.manual_seed(0)
    network = objective()
    # Sequences that each keep their own coarse picture: easier to tell apart than moments of a game.
    pictures = th.randint(0, 256, (4, 1, 7, 8), dtype=th.uint8).repeat_interleave(30, 2).repeat_interleave(20, 3)
    batch = pictures.expand(-1, min(network.length, 10), -1, -1)
    adam = th.optim.Adam(network.parameters(), 3e-4)
    losses = []
    for _ in range(25):
        loss = network(batch)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.grad is not None for parameter in network.encoder.parameters())


@pytest.mark.parametrize("name", ["st-dim", "cpc"])
def test_a_self_supervised_encoder_is_trained_once_and_probed(data, folder, name, monkeypatch):
    monkeypatch.setattr(training, "LOOK", 2)
    monkeypatch.setattr(trained, "VAL_BATCHES", 2)
    monkeypatch.setattr(STDIM, "batch", 16)
    monkeypatch.setattr(CPC, "batch", 1)
    first = run(learner(name, folder), folder)
    assert first.subject == name and first.f1 > run("majority", folder).f1
    said = first.provenance["training"]
    assert said["updates_trained"] == 4 and np.isfinite(said["score"])
    monkeypatch.setattr(training, "_Run", None)  # would fail if asked to train
    assert run(learner(name, folder), folder).f1 == first.f1


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOOK", 5)

    def start(name, fail_at=None):
        th.manual_seed(0)
        network = th.nn.Linear(3, 1)
        calls = iter(range(10**6))

        def loss(rng):
            if next(calls) == fail_at:
                raise KeyboardInterrupt
            inputs = th.from_numpy(rng.normal(size=(8, 3))).float()
            return (network(inputs) - inputs[:, :1]).square().mean()

        def validate():
            return -(network.weight.detach() - th.tensor([[1.0, 0, 0]])).square().sum().item()

        return network, train(network, loss, validate, tmp_path / name, 30, 0, progress=False)

    whole, facts = start("whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        start("killed.safetensors", fail_at=17)
    assert (tmp_path / "killed.part.pt").exists() and not (tmp_path / "killed.safetensors").exists()
    resumed, again = start("killed.safetensors")
    assert again == facts and facts["updates"] == facts["updates_trained"] == 30
    assert th.equal(resumed.weight, whole.weight)
    assert sorted(path.name for path in tmp_path.iterdir() if "killed" in path.name) == ["killed.json", "killed.safetensors"]


def test_training_keeps_the_best_and_stops_when_nothing_gets_better(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOOK", 1)
    network = th.nn.Linear(1, 1)
    scores = iter([0.1, 0.9, *[0.5] * 100])
    seen = []

    def validate():
        seen.append(network.weight.item())
        return next(scores)

    facts = train(network, lambda rng: network.weight.sum(), validate, tmp_path / "w.safetensors", 90, 0, progress=False)
    assert facts == {"score": 0.9, "updates": 2, "updates_trained": 2 + training.PATIENCE}
    assert network.weight.item() == seen[1]


def test_training_that_diverges_says_so(tmp_path):
    network = th.nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="diverged after 0 updates"):
        train(network, lambda rng: network.weight.sum() * float("nan"), lambda: 0.0, tmp_path / "w.safetensors", 9, 0, False)


def test_the_supervised_network_learns_its_labels(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOOK", 40)
    monkeypatch.setattr(training, "LEARNING_RATE", 1e-3)
    monkeypatch.setattr(supervised, "BATCH", 16)
    screens = gray_frames(data, progress=False)
    labels = data.ram[:, [13, 14]]  # both scores
    index = np.arange(len(data))
    fitted = fit_supervised(screens, labels, index, index[::9], data=data, variables=["a", "b"], folder=tmp_path, updates=120)
    majority = np.mean([np.bincount(column).max() / len(column) for column in labels.T])
    assert (fitted.predict(screens) == labels).mean() > majority + 0.1


@pytest.mark.parametrize("protocol", ["fixed", "paper"])
def test_supervised_by_name(data, folder, protocol, monkeypatch):
    monkeypatch.setattr(training, "LOOK", 2)
    result = run("supervised", folder, protocol=protocol, updates=4)
    assert result.subject == "supervised" and result.provenance["training"]["updates_trained"] == 4
    assert "mae" not in result.variables["ball_x"]


def test_principal_components_come_from_other_play(data, folder):
    subject = PixelPCA("Pong", folder, seed=41, steps=STEPS, components=40, progress=False)
    assert subject.play.frames.manifest["seed"] == 42
    directions = subject.basis[1]
    assert directions.shape == (84 * 84, 40)
    assert th.allclose(directions.T @ directions, th.eye(40), atol=1e-4)
    result = run(subject, folder)
    assert result.provenance["dim"] == 40 and result.f1 > run("majority", folder).f1


def test_the_names_are_known(folder):
    for name in ("pca", "st-dim", "cpc"):
        assert make_subject(name, game="Pong", folder=folder).name == name


def test_the_command_trains_on_the_game(folder, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "LOOK", 2)
    out = tmp_path / "out"
    arguments = ["probe", "--game", "Pong", "--encoders", "supervised", "--steps", str(STEPS), "--updates", "4"]
    assert cli.main([*arguments, "--data", str(folder), "--out", str(out)]) == 0
    assert [path.name for path in out.glob("*.json")] == [f"pong-supervised-fixed-current-{STEPS}-seed42-updates=4.json"]
    assert "supervised on pong" in capsys.readouterr().out
