"""Probes of stored features, and the scores of what they predict."""

from pathlib import Path

import numpy as np
import pytest
import torch as th
from torch import nn

from pearl_sb3.probing import inputs as inputs_module
from pearl_sb3.probing import linear, paper
from pearl_sb3.probing.inputs import Decorrelator, Standardiser
from pearl_sb3.probing.linear import fit_fixed
from pearl_sb3.probing.majority import fit_majority
from pearl_sb3.probing.metrics import (
    averages,
    bootstrap_over_episodes,
    classification_scores,
    interval,
    mean_absolute_error,
)
from pearl_sb3.probing.paper import fit_paper, sample_paper
from pearl_sb3.probing.regression import fit_ridge

SIZES = (5, 40, 2)
PARTS = dict(train=np.arange(0, 1400), val=np.arange(1400, 1700))
TEST = np.arange(1700, 2000)


def planted(n: int = 2000, dim: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """
    Features of which some directions, among larger noise, tell three variables with 5, 40 and 2 values.

    :return: (n, dim), fp32, and (n, 3), uint8
    """
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, size, n) * 3 + 7 for size in SIZES], axis=1).astype(np.uint8)
    codes = [rng.normal(size=(256, dim)) for _ in SIZES]
    signal = sum(code[column] for code, column in zip(codes, labels.T, strict=True))
    return (signal + 0.1 * rng.normal(size=(n, dim)) + 3).astype(np.float32), labels


def episodes_of(frames: np.ndarray, n: int) -> list[np.ndarray]:
    return np.array_split(frames, n)


def slow_scores(truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    """:return: the scores of one variable by their definitions"""
    f1, recalls = 0.0, []
    for value in sorted(set(truth.tolist()) | set(guess.tolist())):
        hits = sum(1 for t, g in zip(truth, guess, strict=True) if t == g == value)
        true, said = (truth == value).sum(), (guess == value).sum()
        precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
        f1 += true / len(truth) * (2 * precision * recall / (precision + recall) if hits else 0.0)
        recalls += [recall] if true else []
    return dict(accuracy=float((truth == guess).mean()), f1=f1, balanced_accuracy=float(np.mean(recalls)))


def test_scores_by_hand() -> None:
    truth = np.array([[0], [0], [0], [9]], np.uint8)
    guess = np.array([[0], [0], [9], [9]], np.uint8)
    found = classification_scores(truth, guess)
    assert found["accuracy"] == pytest.approx([3 / 4])
    # Value 0: precision 1, recall 2/3. Value 9: precision 1/2, recall 1.
    assert found["f1"] == pytest.approx([(3 * 4 / 5 + 1 * 2 / 3) / 4])
    assert found["balanced_accuracy"] == pytest.approx([(2 / 3 + 1) / 2])
    assert mean_absolute_error(truth, guess) == pytest.approx([9 / 4])
    assert mean_absolute_error(truth, np.full((4, 1), -0.5)) == pytest.approx([0.5 + 9 / 4])


def test_scores_equal_their_definitions() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, [2, 7, 256, 1], (300, 4)).astype(np.uint8)
    guess = np.where(rng.random((300, 4)) < 0.5, truth, rng.integers(0, [3, 5, 256, 2], (300, 4))).astype(np.uint8)
    found = classification_scores(truth, guess)
    for variable in range(4):
        for name, value in slow_scores(truth[:, variable], guess[:, variable]).items():
            assert found[name][variable] == pytest.approx(value), (name, variable)


@pytest.mark.parametrize(
    ("truth", "guess", "message"),
    [
        (np.zeros(3, np.uint8), np.zeros(3, np.uint8), r"values\[:, None\]"),
        (np.zeros((3, 1), np.uint8), np.zeros((4, 1), np.uint8), r"\(3, 1\) and \(4, 1\)"),
        (np.zeros((0, 1), np.uint8), np.zeros((0, 1), np.uint8), "at least one"),
        (np.zeros((3, 1), int), np.zeros((3, 1), np.uint8), "astype"),
    ],
)
def test_what_cannot_be_scored_is_explained(truth: np.ndarray, guess: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_scores(truth, guess)


def test_bootstrap_draws_whole_episodes() -> None:
    truth = np.repeat([[1], [2], [3]], 4, axis=0).astype(np.uint8)
    guess = np.where(truth == 1, truth, 0).astype(np.uint8)
    episodes = np.repeat([10, 20, 30], 4)
    draws = bootstrap_over_episodes(truth, guess, episodes, n=2000, seed=0)
    # The first of three episodes is right, so a draw's accuracy is the share of it among three: a binomial.
    values, times = np.unique(draws["accuracy"].round(6), return_counts=True)
    assert values == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-5)
    assert times / 2000 == pytest.approx([8 / 27, 12 / 27, 6 / 27, 1 / 27], abs=0.04)
    low, high = interval(draws["accuracy"])
    assert (low, high) == (pytest.approx([0]), pytest.approx([1]))
    again = bootstrap_over_episodes(truth, guess, episodes, n=2000, seed=0)
    assert np.array_equal(draws["f1"], again["f1"])
    assert not np.array_equal(draws["f1"], bootstrap_over_episodes(truth, guess, episodes, n=2000, seed=1)["f1"])


def test_bootstrap_scores_what_it_draws() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 9, (90, 2)).astype(np.uint8)
    guess = np.where(rng.random((90, 2)) < 0.5, truth, 0).astype(np.uint8)
    episodes = rng.integers(0, 6, 90)
    draws = bootstrap_over_episodes(truth, guess, episodes, n=60, seed=3)
    times = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), 60)
    for draw in (0, 59):
        frames = np.concatenate([np.tile(np.flatnonzero(episodes == e), times[draw, e]) for e in range(6)])
        for name, value in classification_scores(truth[frames], guess[frames]).items():
            assert draws[name][draw] == pytest.approx(value)


def test_averages_are_those_of_the_publication() -> None:
    categories = {"ball_x": ("small",), "ball_y": ("small",), "player_x": ("agent",), "odd": ()}
    found = averages(np.array([0.2, 0.4, 0.9, 0.0]), ["ball_x", "ball_y", "player_x", "odd"], categories)
    assert found["categories"] == {"small": pytest.approx(0.3), "agent": pytest.approx(0.9)}
    assert found["across_categories"] == pytest.approx(0.6)
    assert found["overall"] == pytest.approx(0.375)
    draws = averages(np.ones((7, 2)), ["ball_x", "player_x"], categories)
    assert draws["across_categories"].shape == draws["categories"]["agent"].shape == (7,)
    assert np.isnan(averages(np.ones(1), ["odd"], categories)["across_categories"])
    with pytest.raises(ValueError, match="each of 2 variables"):
        averages(np.ones(3), ["a", "b"], categories)


def test_majority_predicts_the_most_frequent_training_value() -> None:
    labels = np.array([[1, 5], [1, 6], [2, 6], [3, 3], [3, 3], [3, 3]], np.uint8)
    probe = fit_majority(labels, np.array([0, 1, 2]))
    assert probe.predict(np.zeros((6, 2)), np.array([3, 4])).tolist() == [[1, 6], [1, 6]]
    assert probe.predict(labels).shape == (6, 2)
    with pytest.raises(ValueError, match="No frames in 'train'"):
        fit_majority(labels, np.array([], int))


# --- the reference's protocol ---------------------------------------------------------------------------------------------------


def test_paper_samples_episodes_and_then_frames() -> None:
    episodes = [np.arange(5), np.arange(100, 2000)]
    drawn = sample_paper(episodes, np.random.default_rng(0))
    assert drawn.shape == (1905 // 64, 64)
    assert (drawn < 5).mean() == pytest.approx(0.5, abs=0.05)
    assert set(drawn[drawn < 5].tolist()) == set(range(5))
    assert set(drawn[drawn >= 100]) <= set(episodes[1].tolist())
    assert sample_paper([np.arange(10)], np.random.default_rng(0)).shape == (1, 64)
    with pytest.raises(ValueError, match="lengths"):
        sample_paper([np.arange(3), np.arange(0)], np.random.default_rng(0))


def slow_paper(
    features: np.ndarray, labels: np.ndarray, train: list[np.ndarray], val: list[np.ndarray], seed: int, epochs: int
) -> tuple[list[nn.Linear], list[int], list[float]]:
    """:return: the layers as one loop per variable leaves them, the epochs that each trained, and its last learning rate"""
    n = labels.shape[1]
    layers = [nn.Linear(features.shape[1], 256) for _ in range(n)]
    weight, bias = paper.initial_weights(n, features.shape[1], seed)
    for layer, w, b in zip(layers, weight, bias, strict=True):
        layer.weight.data.copy_(w)
        layer.bias.data.copy_(b)
    adams = [th.optim.Adam(layer.parameters(), 3e-4, eps=1e-5) for layer in layers]
    plateaus = [
        th.optim.lr_scheduler.ReduceLROnPlateau(adam, mode="max", factor=0.2, patience=5, min_lr=1e-5) for adam in adams
    ]
    best, since, trained = [None] * n, [0] * n, [0] * n
    stopped = [False] * n
    rng = np.random.default_rng(seed)
    x, y = th.from_numpy(features), th.from_numpy(labels).long()
    for _ in range(epochs):
        for batch in sample_paper(train, rng):
            for v in range(n):
                if not stopped[v]:
                    adams[v].zero_grad()
                    nn.functional.cross_entropy(layers[v](x[batch]), y[batch, v]).backward()
                    adams[v].step()
        index = sample_paper(val, rng).ravel()
        for v in range(n):
            if not stopped[v]:
                trained[v] += 1
                accuracy = (layers[v](x[index]).argmax(1) == y[index, v]).double().mean().item()
                if best[v] is None or accuracy > best[v]:
                    best[v], since[v] = accuracy, 0
                else:
                    since[v] += 1
                    stopped[v] = since[v] >= 15
                if not stopped[v]:
                    plateaus[v].step(accuracy)
        if all(stopped):
            break
    return layers, trained, [adam.param_groups[0]["lr"] for adam in adams]


def test_paper_equals_one_loop_per_variable() -> None:
    features, labels = planted(n=900, dim=12)
    # Two variables that cannot be learned stop at different epochs.
    rng = np.random.default_rng(5)
    labels[:, 0] = rng.integers(0, 2, 900)
    labels = np.concatenate([labels, rng.integers(0, 4, (900, 1)).astype(np.uint8)], axis=1)
    train, val = episodes_of(np.arange(700), 4), episodes_of(np.arange(700, 900), 3)
    layers, trained, rates = slow_paper(features, labels, train, val, seed=3, epochs=36)
    probe = fit_paper(features, labels, train, val, seed=3, epochs=36)
    assert [fact["epochs"] for fact in probe.facts] == trained
    assert len(set(trained)) > 1 and min(trained) < 36
    assert [fact["learning_rate"] for fact in probe.facts] == pytest.approx(rates)
    assert min(rates) < 3e-4
    for v, layer in enumerate(layers):
        th.testing.assert_close(probe.weight[v], layer.weight.data, rtol=1e-4, atol=1e-5)
        th.testing.assert_close(probe.bias[v], layer.bias.data, rtol=1e-4, atol=1e-5)
    expected = th.stack([layer(th.from_numpy(features)).argmax(1) for layer in layers], dim=1)
    assert (probe.predict(features) == expected.numpy()).mean() > 0.999


def test_paper_depends_on_the_scale_of_features() -> None:
    features, labels = planted()
    train, val = episodes_of(PARTS["train"], 7), episodes_of(PARTS["val"], 3)
    accuracy = {}
    for standardise in (False, True):
        for scale in (1e-2, 1):
            probe = fit_paper(features * scale, labels, train, val, epochs=12, standardise=standardise)
            accuracy[standardise, scale] = (probe.predict(features * scale, TEST) == labels[TEST]).mean()
    assert accuracy[False, 1] > accuracy[False, 1e-2] + 0.1
    assert accuracy[True, 1] == pytest.approx(accuracy[True, 1e-2], abs=0.01)


def test_paper_can_keep_the_best_weights_and_visit_every_frame() -> None:
    features, labels = planted(n=700)
    labels[:, 0] = np.random.default_rng(5).integers(0, 2, 700)
    train, val = episodes_of(np.arange(500), 4), episodes_of(np.arange(500, 700), 3)
    keywords = dict(seed=1, epochs=30, episode_sampling=False)
    last = fit_paper(features, labels, train, val, **keywords)
    best = fit_paper(features, labels, train, val, last_weights=False, **keywords)
    assert best.facts[0]["val_accuracy"] > last.facts[0]["val_accuracy"]
    guess = best.predict(features, np.arange(500, 700))
    # All validation frames that fill batches of 64 are visited once: 192 of 200.
    assert abs((guess == labels[500:]).sum(0)[0] - 192 * best.facts[0]["val_accuracy"]) <= 8
    batches = paper.shuffle(train, np.random.default_rng(0))
    assert batches.shape == (7, 64) and len(np.unique(batches)) == 448


def test_paper_follows_the_seed() -> None:
    features, labels = planted(n=400)
    train, val = episodes_of(np.arange(300), 3), [np.arange(300, 400)]
    first, again, other = (fit_paper(features, labels, train, val, seed=seed, epochs=2).weight for seed in (0, 0, 1))
    assert th.equal(first, again)
    assert not th.equal(first, other)


# --- the default protocol -------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less training; what is planted needs little."""
    monkeypatch.setattr(linear, "STEPS", 160)
    monkeypatch.setattr(linear, "ROUNDS", 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("hidden", [None, 32])
def test_planted_values_are_found(short: None, dtype: type, hidden: int | None) -> None:
    features, labels = planted()
    probe = fit_fixed(features.astype(dtype), labels, **PARTS, hidden=hidden)
    guess = probe.predict(features.astype(dtype), TEST)
    assert guess.dtype == np.uint8
    assert (guess == labels[TEST]).mean(0) == pytest.approx([1, 1, 1], abs=0.05)
    assert [fact["classes"] for fact in probe.facts] == list(SIZES)
    assert all(fact["strength"] > 0 and fact["epoch"] >= 0 and fact["val_accuracy"] > 0.9 for fact in probe.facts)


def test_weights_that_validation_prefers_are_kept(short: None) -> None:
    features, labels = planted(dim=6)
    probe = fit_fixed(features, labels, **PARTS)
    accuracy = (probe.predict(features, PARTS["val"]) == labels[PARTS["val"]]).mean(0)
    assert accuracy == pytest.approx([fact["val_accuracy"] for fact in probe.facts])
    # In six dimensions least squares cannot tell 40 values apart: one hides another.
    assert probe.facts[1]["loss"] == "cross-entropy"


def test_only_values_seen_in_training_are_predicted(short: None) -> None:
    features, labels = planted()
    labels[PARTS["val"], 0] = 250
    probe = fit_fixed(features, labels, **PARTS)
    assert set(probe.predict(features)[:, 0].tolist()) <= set(labels[PARTS["train"], 0].tolist())
    assert probe.facts[0]["val_accuracy"] == 0


def test_an_mlp_finds_what_is_not_linear(short: None) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, 4)).astype(np.float32)
    labels = np.stack([features[:, 0] * features[:, 1] > 0, features[:, 2] > 0], axis=1).astype(np.uint8)
    accuracy = [
        (fit_fixed(features, labels, **PARTS, hidden=hidden).predict(features, TEST) == labels[TEST]).mean(0)
        for hidden in (None, 32)
    ]
    assert accuracy[0][0] < 0.65
    assert accuracy[1][0] > 0.85
    assert min(accuracy[0][1], accuracy[1][1]) > 0.95


def test_scale_and_offset_of_features_change_nothing(short: None) -> None:
    features, labels = planted()
    # A feature that never changes, and others in other units.
    features[:, 3] = 1.7
    guess = fit_fixed(features, labels, **PARTS).predict(features, TEST)
    for scaled in (features * 1000, features * np.geomspace(0.01, 100, features.shape[1], dtype=np.float32) + 5):
        again = fit_fixed(scaled, labels, **PARTS).predict(scaled, TEST)
        assert (again == guess).mean() > 0.995


def test_fixed_follows_the_seed(short: None) -> None:
    features, labels = planted()
    labels[:, 0] = np.random.default_rng(5).integers(0, 2, len(labels))
    first, again, other = (fit_fixed(features, labels, **PARTS, hidden=4, seed=seed).heads.weight for seed in (0, 0, 1))
    assert th.equal(first, again)
    assert not th.equal(first, other)


@pytest.mark.parametrize("n_labels", [100, 500])
def test_few_labels_and_many_features(short: None, n_labels: int) -> None:
    rng = np.random.default_rng(0)
    place = rng.integers(0, 8, 2000)
    bumps = np.eye(8)[place] @ rng.normal(size=(8, 700))
    features = (bumps + rng.normal(size=(2000, 700))).astype(np.float16)
    labels = (place * 4).astype(np.uint8)[:, None]
    probe = fit_fixed(features, labels, np.arange(n_labels), np.arange(500, 600))
    assert (probe.predict(features, TEST) == labels[TEST]).mean() > 0.9


def test_features_may_lie_on_disk(short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = planted()
    stored = np.lib.format.open_memmap(tmp_path / "features.npy", "w+", np.float16, features.shape)
    stored[:] = features
    expected = fit_fixed(features.astype(np.float16), labels, **PARTS).predict(stored, TEST)
    stored = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert np.array_equal(fit_fixed(stored, labels, **PARTS).predict(stored, TEST), expected)
    # Too large to keep decorrelated: batches are read as they are needed.
    monkeypatch.setattr(inputs_module, "MEMORY", 0)
    assert np.array_equal(fit_fixed(stored, labels, **PARTS).predict(stored, TEST), expected)


def test_standardising_by_parts_equals_doing_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs_module, "CHUNK", 64)
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(300, 5)) * [1, 10, 0.1, 0, 3] + [0, 1000, 5, 0.3, 1]).astype(np.float32)
    index = rng.permutation(300)[:200]
    part = features[index].astype(np.float64)
    found = Standardiser.fit(features, index)
    assert found.mean.numpy() == pytest.approx(part.mean(0), rel=1e-5, abs=1e-6)
    assert found.scale.numpy()[[0, 1, 2, 4]] == pytest.approx(1 / part.std(0)[[0, 1, 2, 4]], rel=1e-4)
    assert found.scale[3] == 0
    features[5, 0] = 1e6
    assert found(features, np.array([5]))[0, 0] == 10


@pytest.mark.parametrize("n", [15, 400])
def test_decorrelated_features_are_uncorrelated_and_keep_everything(n: int) -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(400, 30)) @ rng.normal(size=(30, 30))).astype(np.float32)
    inputs = Decorrelator.fit(features, np.arange(n))
    values = inputs(features, np.arange(n))
    covariance = values.T @ values / n
    th.testing.assert_close(covariance, th.diag(inputs.variance / inputs.spread.square()), atol=1e-4, rtol=0)
    back = values * inputs.spread @ inputs.directions.T
    th.testing.assert_close(back, inputs.standardise(features, np.arange(n)), atol=1e-3, rtol=0)


# --- positions ------------------------------------------------------------------------------------------------------------------


def test_ridge_equals_its_normal_equations_and_finds_positions() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 160, (2000, 2)).astype(np.uint8)
    features = (labels @ rng.normal(size=(2, 12)) + rng.normal(size=(2000, 12))).astype(np.float32)
    probe = fit_ridge(features, labels, **PARTS)
    guess = probe.predict(features, TEST)
    error = mean_absolute_error(labels[TEST], guess)
    assert (error < 2).all()
    for variable, fact in enumerate(probe.facts):
        x = probe.inputs.standardise(features, PARTS["train"]).double().numpy()
        y = labels[PARTS["train"], variable] - labels[PARTS["train"], variable].mean()
        weight = np.linalg.solve(x.T @ x / len(x) + fact["strength"] * np.eye(12), x.T @ y / len(x))
        test = probe.inputs.standardise(features, TEST).double().numpy()
        expected = np.clip(test @ weight + labels[PARTS["train"], variable].mean(), 0, 255)
        assert guess[:, variable] == pytest.approx(expected, abs=0.05)


def test_ridge_chooses_a_strong_penalty_where_there_is_nothing_to_find() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, 300)).astype(np.float32)
    labels = np.stack([rng.integers(0, 200, 2000), 100 + 20 * np.tanh(features[:, 0])], axis=1).astype(np.uint8)
    probe = fit_ridge(features, labels, np.arange(400), PARTS["val"])
    assert probe.facts[0]["strength"] > 10 * probe.facts[1]["strength"]
    error = mean_absolute_error(labels[TEST], probe.predict(features, TEST))
    # Guessing the middle of 0 to 199 is off by 50.
    assert error == pytest.approx([50, 5], abs=3.5)


# --- bad input ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [fit_fixed, fit_ridge, fit_paper])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(features=np.zeros((10, 2, 2), np.float32)), "flatten"),
        (dict(labels=np.zeros((9, 1), np.uint8)), r"labels of shape \(10, variables\)"),
        (dict(labels=np.zeros(10, np.uint8)), r"labels\[:, None\]"),
        (dict(labels=np.zeros((10, 1), int)), "astype"),
        (dict(train=np.array([], int)), "collect more episodes"),
        (dict(val=np.array([], int)), "collect more episodes"),
        (dict(train=np.array([0, 10])), "frames 0 to 9"),
        (dict(train=np.ones(10, bool)), "flatnonzero"),
        (dict(features=np.full((10, 3), np.nan, np.float32)), "frame 0 hold NaN"),
    ],
)
def test_input_that_no_probe_can_learn_from_is_explained(fit, change: dict, message: str) -> None:
    rng = np.random.default_rng(0)
    given = dict(
        features=rng.normal(size=(10, 3)).astype(np.float32),
        labels=rng.integers(0, 2, (10, 1)).astype(np.uint8),
        train=np.arange(6),
        val=np.arange(6, 10),
    )
    features, labels, train, val = (given | change).values()
    with pytest.raises(ValueError, match=message):
        fit(features, labels, *([train], [val]) if fit is fit_paper else (train, val))


def test_features_that_never_change_are_refused() -> None:
    labels = np.array([[0], [1]] * 5, np.uint8)
    with pytest.raises(ValueError, match="No feature changes"):
        fit_fixed(np.ones((10, 3), np.float32), labels, np.arange(6), np.arange(6, 10))


def test_a_hidden_layer_has_a_width() -> None:
    features, labels = planted(n=20)
    with pytest.raises(ValueError, match="hidden=None"):
        fit_fixed(features, labels, np.arange(10), np.arange(10, 20), hidden=0)
