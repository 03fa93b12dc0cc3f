"""Pretraining: the games it may see, what it leaves behind, and the encoder that comes with the package."""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch as th
from safetensors.torch import load_file

from pearl_sb3.encoders import bundled, networks
from pearl_sb3.pretraining import train
from pearl_sb3.pretraining.batches import change_look
from pearl_sb3.pretraining.command import add_arguments, main
from pearl_sb3.pretraining.export import standardised_state, token_statistics
from pearl_sb3.pretraining.frames import BENCHMARK_GAMES, PRETRAINING_GAMES, collect, play, resolve_games
from pearl_sb3.pretraining.objectives import OBJECTIVES
from pearl_sb3.pretraining.objectives.reconstruction import rarity
from pearl_sb3.pretraining.objectives.state_transfer import ridge_transfer_loss
from pearl_sb3.pretraining.targets import memory_columns
from pearl_sb3.pretraining.train import Pretraining, pretrain

BUNDLED = Path(bundled.__file__).parent


@pytest.fixture(scope="module")
def frames_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    collect(["Alien", "Amidar"], 400, 0, folder, progress=False)
    return folder


def tiny(out: Path, data: Path, objective: str = "state", seed: int = 0) -> Path:
    return pretrain(
        ["Alien", "Amidar"],
        objective,
        1,
        out,
        seed=seed,
        steps=3,
        n_frames=400,
        data=data,
        games_per_step=2,
        half_batch=8,
        progress=False,
    )


@pytest.mark.parametrize("name", ["alien", "Alien", "ALE/Alien-v5", "AlienNoFrameskip-v4"])
def test_a_game_may_be_spelled_in_any_way(name: str) -> None:
    assert resolve_games([name]) == ["alien"]


@pytest.mark.parametrize("game", BENCHMARK_GAMES)
def test_benchmark_games_are_refused(game: str) -> None:
    with pytest.raises(ValueError, match="must never see"):
        resolve_games(["alien", game])


@pytest.mark.parametrize("name", ["MsPacmanNoFrameskip-v4", "ALE/Pong-v5", "Space Invaders"])
def test_benchmark_games_are_refused_in_any_spelling(name: str) -> None:
    with pytest.raises(ValueError, match="AtariARI"):
        resolve_games([name])


@pytest.mark.parametrize(("names", "message"), [(["Aleen"], "Unknown game 'Aleen'"), ([], "at least one")])
def test_games_that_cannot_be_had_are_explained(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_games(names)


def test_default_games_are_many_and_none_of_the_benchmark() -> None:
    assert len(set(PRETRAINING_GAMES)) >= 30
    assert resolve_games(PRETRAINING_GAMES) == list(PRETRAINING_GAMES)


def test_play_follows_the_seed() -> None:
    first, again, other = (play("alien", 80, seed) for seed in (0, 0, 1))
    assert first.frames.shape == (4, 20, 84, 84)
    assert first.checksum() == again.checksum() != other.checksum()


def test_frames_are_reused_and_a_damaged_file_is_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = collect(["alien"], 40, 0, tmp_path, progress=False)["alien"]
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    collect(["alien"], 40, 0, tmp_path, progress=False)
    assert file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:-200])
    assert collect(["alien"], 40, 0, tmp_path, progress=False)["alien"].checksum() == before.checksum()
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_ridge_transfer_finds_a_linear_relation() -> None:
    generator = th.Generator().manual_seed(0)
    features = th.randn(200, 10, generator=generator)
    targets = features @ th.randn(10, 3, generator=generator)
    targets = (targets - targets.mean(0)) / targets.std(0)
    noise = th.randn(200, 10, generator=generator)
    weak = th.tensor(-7.0)
    assert ridge_transfer_loss(features[:100], targets[:100], features[100:], targets[100:], weak) < 0.01
    assert ridge_transfer_loss(noise[:100], targets[:100], noise[100:], targets[100:], weak) > 0.8


def test_ridge_transfer_equals_the_primal_solution() -> None:
    generator = th.Generator().manual_seed(1)
    support, query = th.randn(12, 5, generator=generator), th.randn(7, 5, generator=generator)
    known, asked = 0.3 * th.randn(12, 2, generator=generator), 0.3 * th.randn(7, 2, generator=generator)
    centred, scale = support - support.mean(0), (support - support.mean(0)).square().mean().sqrt() * 5**0.5
    s, q = centred / scale, (query - support.mean(0)) / scale
    weights = th.linalg.inv(s.T @ s + 0.3 * th.eye(5)) @ s.T @ (known - known.mean(0))
    expected = (q @ weights + known.mean(0) - asked).square().mean()
    loss = ridge_transfer_loss(support, known, query, asked, th.tensor(0.3).log())
    assert th.allclose(loss, expected, atol=1e-5)


def test_rare_pixels_weigh_more() -> None:
    images = th.zeros(8, 1, 10, 10)
    images[3, 0, 4, 4] = 1.0
    weights = rarity(images)
    assert weights.mean().item() == pytest.approx(1.0)
    assert weights[3, 0, 4, 4] > 10 * weights[3, 0, 0, 0]


def test_constant_bytes_give_no_columns() -> None:
    ram = np.zeros((100, 128), dtype=np.uint8)
    assert memory_columns(ram).shape == (100, 0)
    ram[:, 5] = np.arange(100)
    columns = memory_columns(ram)
    assert columns.shape[1] > 1
    assert th.allclose(columns.mean(0), th.zeros(columns.shape[1]), atol=1e-4)


def test_one_batch_gets_one_look() -> None:
    images = th.randn(1, 1, 84, 84).expand(6, 1, 84, 84)
    for seed in range(8):
        changed = change_look(images, np.random.default_rng(seed))
        assert changed.shape == images.shape
        assert th.equal(changed, changed[:1].expand_as(changed))


def test_standardisation_is_folded_into_the_weights() -> None:
    network = networks.pearl_conv_tiny()
    images = th.rand(8, 1, 84, 84)
    state = standardised_state(network, *token_statistics(network, [images]))
    network.load_state_dict(state)
    mean, deviation = token_statistics(network, [images])
    assert th.allclose(mean, th.zeros_like(mean), atol=1e-2)
    assert th.allclose(deviation, th.ones_like(deviation), atol=1e-2)


def test_equal_frames_do_not_break_the_gradient() -> None:
    features = th.ones(4, 6, requires_grad=True)
    ridge_transfer_loss(features, th.randn(4, 2), th.ones(3, 6), th.randn(3, 2), th.tensor(-2.0)).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pretraining_leaves_weights_and_a_manifest_that_match(objective: str, tmp_path: Path, frames_folder: Path) -> None:
    path = tiny(tmp_path, frames_folder, objective)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert path == tmp_path / "encoder.safetensors"
    assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest["games"] == ["alien", "amidar"]
    assert (manifest["objective"], manifest["steps"], manifest["frames"], manifest["finished"]) == (objective, 3, 400, True)
    network = networks.pearl_conv_tiny()
    network.load_state_dict(load_file(path))
    assert manifest["parameters"] == sum(p.numel() for p in network.parameters())
    assert not list(tmp_path.glob(".*.tmp"))


def test_same_seed_same_weights(tmp_path: Path, frames_folder: Path) -> None:
    first = load_file(tiny(tmp_path / "a", frames_folder))
    again = load_file(tiny(tmp_path / "b", frames_folder))
    assert all(th.equal(first[name], again[name]) for name in first)


def test_interrupted_training_leaves_a_whole_encoder(
    tmp_path: Path, frames_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_step = Pretraining.step

    def interrupted(self: Pretraining, fraction: float) -> float:
        if self.steps == 2:
            raise KeyboardInterrupt
        return whole_step(self, fraction)

    monkeypatch.setattr(train.Pretraining, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny(tmp_path, frames_folder)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["steps"], manifest["finished"]) == (2, False)
    assert manifest["sha256"] == hashlib.sha256((tmp_path / "encoder.safetensors").read_bytes()).hexdigest()


def test_divergence_stops_and_writes_nothing(tmp_path: Path, frames_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "LEARNING_RATE", 1e30)
    with pytest.raises(FloatingPointError, match="diverged"):
        tiny(tmp_path, frames_folder)
    assert not (tmp_path / "encoder.safetensors").exists()


def test_unknown_objective_names_the_known(tmp_path: Path, frames_folder: Path) -> None:
    with pytest.raises(ValueError, match="state-reconstruction"):
        tiny(tmp_path, frames_folder, objective="jigsaw")


def test_command_explains_a_refused_game(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert main(parser.parse_args(["--games", "Alien,Pong", "--minutes", "1", "--out", str(tmp_path)])) == 1
    assert "pong" in capsys.readouterr().err


def test_bundled_encoder_is_what_its_manifest_says() -> None:
    manifest = json.loads((BUNDLED / "pearl-tiny.json").read_text())
    weights = BUNDLED / "pearl-tiny.safetensors"
    assert manifest["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert len(set(manifest["games"])) >= 30
    assert not set(manifest["games"]) & set(BENCHMARK_GAMES)
    assert manifest["minutes"] >= 20
    assert manifest["finished"]
    network = networks.pearl_conv_tiny()
    network.load_state_dict(load_file(weights))
    assert manifest["parameters"] == sum(p.numel() for p in network.parameters())
