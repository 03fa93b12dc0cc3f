import math

import pytest
import torch as th
from torch import nn

from pearl_sb3.ssl.cpc import cpc
from pearl_sb3.ssl.infonce import infonce
from pearl_sb3.ssl.st_dim import st_dim


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
