import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from pearl_sb3.ssl.augment import augment, spatial_axes
from pearl_sb3.ssl.cpc import cpc
from pearl_sb3.ssl.infonce import contrastive_accuracy, infonce, infonce_sum
from pearl_sb3.ssl.objectives import parse_mix
from pearl_sb3.ssl.rank import effective_rank
from pearl_sb3.ssl.st_dim import st_dim
from pearl_sb3.ssl.views import view_pairs


def randn(*shape, seed=0):
    return th.randn(*shape, generator=th.Generator().manual_seed(seed), dtype=th.float64)


def slow_infonce(queries, keys):
    losses = []
    for index, query in enumerate(queries):
        scores = [float(query @ key) for key in keys]
        losses.append(math.log(sum(math.exp(score) for score in scores)) - scores[index])
    return sum(losses) / len(losses)


def test_infonce_is_the_loop_over_queries():
    queries, keys = randn(3, 5, 7), randn(3, 5, 7, seed=1)
    expected = sum(slow_infonce(*pair) for pair in zip(queries, keys, strict=True)) / 3
    assert infonce(queries, keys).item() == pytest.approx(expected)


@pytest.mark.parametrize("n", [2, 8])
def test_infonce_of_keys_that_tell_nothing_is_the_logarithm_of_the_batch(n):
    assert infonce(randn(n, 4), th.zeros(n, 4, dtype=th.float64)).item() == pytest.approx(math.log(n))
    sure = 100 * th.eye(n)
    assert infonce(sure, sure).item() == pytest.approx(0, abs=1e-6)


def test_infonce_of_one_has_no_negatives():
    with pytest.raises(ValueError, match="at least 2"):
        infonce(randn(1, 4), randn(1, 4))


def test_st_dim_contrasts_place_by_place():
    batch, places, channels, dim = 4, 6, 3, 5
    whole, now, before = randn(batch, dim), randn(batch, places, channels, seed=1), randn(batch, places, channels, seed=2)
    global_head, local_head = nn.Linear(dim, channels).double(), nn.Linear(channels, channels).double()
    expected = 0.0
    for place in range(places):
        expected += slow_infonce(global_head(whole).detach(), before[:, place]) / places
        expected += slow_infonce(local_head(now[:, place]).detach(), before[:, place]) / places
    assert st_dim(whole, now, before, global_head, local_head).item() == pytest.approx(expected)


def test_cpc_predicts_among_all_frames_of_all_sequences():
    batch, length, dim = 2, 6, 4
    contexts, embeddings = randn(batch, length, 3), randn(batch, length, dim, seed=1)
    horizons = (1, 3, 5)
    heads = [nn.Linear(3, dim).double() for _ in horizons]
    expected = 0.0
    for head, ahead in zip(heads, horizons, strict=True):
        pairs = [(b, t) for b in range(batch) for t in range(length - ahead)]
        queries = th.stack([head(contexts[b, t]) for b, t in pairs]).detach()
        expected += slow_infonce(queries, th.stack([embeddings[b, t + ahead] for b, t in pairs]))
    assert cpc(contexts, embeddings, heads, horizons).item() == pytest.approx(expected)


@pytest.mark.parametrize("ahead", [0, 6])
def test_cpc_names_the_horizons_that_fit(ahead):
    with pytest.raises(ValueError, match="1 to 5"):
        cpc(randn(2, 6, 3), randn(2, 6, 3), [nn.Identity()], [ahead])


def test_accuracy_is_the_share_of_queries_that_find_their_key():
    assert contrastive_accuracy(th.eye(4), th.eye(4)).item() == 1
    assert contrastive_accuracy(th.eye(4), th.eye(4)[[0, 1, 3, 2]]).item() == 0.5


def test_views_are_contrasted_by_cosine_both_ways():
    one, other = randn(5, 3), randn(5, 3, seed=1)
    unit = [x / x.square().sum(1, keepdim=True).sqrt() for x in (one, other)]
    expected = slow_infonce(unit[0] / 0.2, unit[1]) + slow_infonce(unit[1] / 0.2, unit[0])
    assert infonce_sum(view_pairs(one, 7 * other, 0.2)).item() == pytest.approx(expected)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_effective_rank_counts_equal_directions(rank):
    # n points at the corners of a simplex centre to n - 1 equal directions
    assert effective_rank(th.eye(rank + 1)) == pytest.approx(rank, abs=1e-4)
    assert effective_rank(7 + th.eye(rank + 1)) == pytest.approx(rank, abs=1e-4)


def test_effective_rank_of_collapsed_features_is_none():
    assert effective_rank(th.full((8, 3), 0.7)) == 0
    line = th.arange(8.0)[:, None] * th.tensor([[1.0, 2.0, 3.0]])
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("shape, axes", [((4, 30, 24), (1, 2)), ((30, 24, 4), (0, 1)), ((4, 30, 24, 3), (1, 2))])
def test_each_sample_has_its_own_view_and_each_stack_one(shape, axes):
    space = spaces.Box(0, 255, shape, np.uint8)
    assert spatial_axes(space) == axes
    frame = np.random.default_rng(0).integers(60, 160, (30, 24), dtype=np.uint8)
    others = [axis for axis in range(len(shape)) if axis not in axes]
    stack = np.broadcast_to(np.expand_dims(frame, others), shape)
    batch = th.as_tensor(np.stack([stack] * 6))
    views = augment(batch, axes, np.random.default_rng(1))
    assert views.shape == batch.shape and views.dtype == th.uint8
    flat = views.movedim((1 + axes[0], 1 + axes[1]), (-2, -1)).flatten(1, -3)  # (B, frames, H, W)
    assert (flat == flat[:, :1]).all(), "frames of one stack differ"
    assert len(th.unique(flat[:, 0].flatten(1), dim=0)) == 6, "two samples share a draw"
    assert th.equal(augment(batch, axes, np.random.default_rng(1)), views)


def test_a_view_is_the_frame_shifted_and_relit():
    frame = np.random.default_rng(0).integers(100, 140, (1, 42, 42), dtype=np.uint8)
    reach = 2
    padded = np.pad(frame[0], reach, mode="edge").astype(float)
    for seed in range(5):
        view = augment(th.as_tensor(frame[None]), (1, 2), np.random.default_rng(seed))[0, 0].double().numpy()
        # Contrast and brightness are a straight line from pixels to pixels: only the right shift leaves no more than rounding.
        errors = []
        for dy in range(2 * reach + 1):
            for dx in range(2 * reach + 1):
                source = padded[dy : dy + 42, dx : dx + 42]
                slope, offset = np.polyfit(source.ravel(), view.ravel(), 1)
                errors.append(np.abs(slope * source + offset - view).max())
        assert min(errors) < 1 < sorted(errors)[1]


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (7,)), spaces.Box(0, 1, (4, 36, 36)), spaces.Discrete(3)])
def test_views_need_pixels(space):
    with pytest.raises(ValueError, match="needs uint8 images"):
        spatial_axes(space)


@pytest.mark.parametrize(
    "given, mix",
    [
        ("st-dim", {"st-dim": 1}),
        ("st-dim + cpc", {"st-dim": 1, "cpc": 1}),
        ({"t-dim": 2, "contrast": 0.5}, {"t-dim": 2, "contrast": 0.5}),
    ],
)
def test_mixes(given, mix):
    assert parse_mix(given) == mix


@pytest.mark.parametrize(
    "given, message",
    [
        ("stdim", "Did you mean 'st-dim'"),
        ("contrastive", "Did you mean 'contrast'"),
        ("st-dim+", "unknown.*Choose of 't-dim'"),
        ("cpc+cpc", "each objective once"),
        ({}, "each objective once"),
        ({"cpc": 0}, "above 0"),
        ({"cpc": float("nan")}, "above 0"),
    ],
)
def test_mixes_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        parse_mix(given)
