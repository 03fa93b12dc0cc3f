import pytest
import torch as th

from pearl_sb3.attention import SpatioTemporalAttention, make_attention, make_prior
from pearl_sb3.attention.priors import frame_difference

SHAPE, GRID, K = (10, 8), (3, 3), 4


@pytest.fixture
def tokens() -> th.Tensor:
    return th.randn(5, K, *SHAPE, generator=th.Generator().manual_seed(0)).half()


@pytest.mark.parametrize("name", ["spatiotemporal", "mean", "concat"])
def test_features_depend_on_every_frame(name, tokens):
    attention = make_attention(name, SHAPE, GRID, K, 32)
    features = attention(tokens)
    assert features.shape == (5, 32) and features.dtype == th.float32
    for frame in range(K):
        changed = tokens.clone()
        changed[:, frame, 4] += 3 * th.randn(8)
        assert not th.allclose(attention(changed), features)
    features.sum().backward()
    assert all(
        parameter.grad is not None
        for parameter in attention.parameters()
        if parameter is not getattr(attention, "prior_scale", None)
    )


@pytest.mark.parametrize("n_frames", [1, K])
def test_tokens_are_left_as_they_are(n_frames):
    tokens = th.randn(2, n_frames, *SHAPE)
    kept = tokens.clone()
    make_attention("spatiotemporal", SHAPE, GRID, n_frames, 16)(tokens)
    assert th.equal(tokens, kept)


def test_order_of_frames_matters(tokens):
    attention = make_attention("spatiotemporal", SHAPE, GRID, K, 32)
    assert not th.allclose(attention(tokens), attention(tokens.flip(1)))


def slow_attention(module: SpatioTemporalAttention, tokens: th.Tensor, bias: th.Tensor | None) -> th.Tensor:
    """The docstring's formula, one query, head and place at a time."""
    heads, n_queries, width = module.queries.shape
    features = []
    for b in range(len(tokens)):
        flat = tokens[b].float().flatten(0, 1)
        variance = ((flat - flat.mean(0)) ** 2).mean(0)
        normed = ((flat - flat.mean(0)) / (variance + 1e-3 * variance.mean()).sqrt()).view(tokens.shape[1:])
        places = [th.relu(module.time(normed[:, n].flatten()) + module.space[n]) for n in range(tokens.shape[2])]
        read = []
        for i in range(n_queries):
            for h in range(heads):
                part = slice(h * width, (h + 1) * width)
                logits = []
                for n, place in enumerate(places):
                    logit = module.queries[h, i] @ module.keys(place)[part] / width**0.5 + module.position[h, i, n]
                    if bias is not None:
                        logit = logit + module.prior_scale * bias[b, :, n].max()
                    logits.append(logit)
                weights = th.stack(logits).softmax(0)
                read.append(sum(w * place[part] for w, place in zip(weights, places, strict=True)))
        features.append(th.relu(module.readout(module.read_norm(th.cat(read)))))
    return th.stack(features)


@pytest.mark.parametrize("with_bias", [False, True])
def test_fused_attention_is_the_formula(tokens, with_bias):
    module = SpatioTemporalAttention(SHAPE, GRID, K, 16)
    th.nn.init.normal_(module.queries)
    bias = th.rand(5, K, 10) if with_bias else None
    assert th.allclose(module(tokens, bias), slow_attention(module, tokens, bias), atol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_features_do_not_depend_on_scale_and_background(tokens, scale):
    module = SpatioTemporalAttention(SHAPE, GRID, K, 16)
    background = th.randn(8)
    tokens = tokens.float()
    assert th.allclose(module(scale * (tokens + background)), module(tokens), atol=1e-3)


def test_blank_screens_give_finite_features():
    module = SpatioTemporalAttention(SHAPE, GRID, K, 16)
    features = module(th.zeros(2, K, *SHAPE))
    features.sum().backward()
    assert th.isfinite(features).all() and th.isfinite(module.time.weight.grad).all()


def test_maps_are_distributions_that_start_on_each_querys_own_cell(tokens):
    module = SpatioTemporalAttention(SHAPE, GRID, K, 16)
    maps = module.maps(tokens)
    assert maps.shape == (5, 9, 10)
    assert th.allclose(maps.sum(2), th.ones(5, 9), atol=1e-5)
    assert (maps[:, :, 1:].argmax(2) == th.arange(9)).all()


def test_prior_draws_attention(tokens):
    module = SpatioTemporalAttention(SHAPE, GRID, K, 16)
    bias = th.zeros(5, K, 10)
    bias[:, 2, 7] = 5.0
    gain = module.maps(tokens, bias) - module.maps(tokens)
    assert (gain[..., 7] > 0).all() and (gain[..., :7] < 0).all()


def test_queries_learn(tokens):
    module = SpatioTemporalAttention(SHAPE, GRID, K, 16)
    optimizer = th.optim.Adam(module.parameters(), 1e-2)
    for _ in range(3):
        loss = (module(tokens) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert module.queries.abs().max() > 0


@pytest.mark.parametrize("grid", [(6, 6), (7, 7), (10, 10)])
def test_size_does_not_grow_with_the_grid(grid):
    module = SpatioTemporalAttention((1 + grid[0] * grid[1], 32), grid, 4, 512)
    assert sum(p.numel() for p in module.parameters()) < 1_150_000


def test_frame_difference_against_a_loop():
    frames = th.randint(0, 256, (2, 3, 1, 6, 6), dtype=th.uint8, generator=th.Generator().manual_seed(0))
    frames[1] = frames[1, :1]
    prior = frame_difference(frames, (2, 3))
    assert prior.shape == (2, 3, 7)
    assert (prior[:, 0] == 0).all() and (prior[:, :, 0] == 0).all() and (prior[1] == 0).all()
    for t in (1, 2):
        change = (frames[0, t, 0].int() - frames[0, t - 1, 0].int()).abs().float()
        patches = th.tensor([[change[3 * r : 3 * r + 3, 2 * c : 2 * c + 2].mean() for c in range(3)] for r in range(2)])
        assert th.allclose(prior[0, t, 1:], (patches / patches.max()).flatten())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: make_attention("transformer", SHAPE, GRID, K, 8), "choose one of 'spatiotemporal'"),
        (lambda: make_prior("flaw", 4, "spatiotemporal"), "choose None or one of 'difference'"),
        (lambda: make_prior("difference", 1, "spatiotemporal"), "n_frames of at least 2"),
        (lambda: make_prior("difference", 4, "mean"), "has none"),
        (lambda: make_attention("mean", SHAPE, GRID, K, 8).maps(None), "has no attention maps"),
    ],
)
def test_what_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()
