import gc
import os
import warnings
import zipfile

import numpy as np
import pytest
import torch as th
from conftest import DictEnv, PixelEnv
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from pearl_sb3 import PearlCombinedExtractor, PearlExtractor, load_encoder, pearl_policy_kwargs
from pearl_sb3.callbacks import EncoderLogCallback
from pearl_sb3.encoders import TrainableEncoder
from pearl_sb3.encoders.parts import EncoderRequest, weights_hash
from pearl_sb3.optimizers import PearlAdam, PearlRMSprop

ON_POLICY = {
    PPO: dict(n_steps=16, batch_size=16, n_epochs=2),
    A2C: dict(n_steps=16),
    TRPO: dict(n_steps=16, batch_size=16),
    RecurrentPPO: dict(n_steps=16, batch_size=16, n_epochs=1),
}
REPLAY = dict(buffer_size=200, learning_starts=16, batch_size=8, train_freq=4)
OFF_POLICY = {DQN: REPLAY, QRDQN: REPLAY, SAC: REPLAY, TD3: REPLAY, TQC: REPLAY}
ALGORITHMS = {**ON_POLICY, **OFF_POLICY}
CONTINUOUS = (SAC, TD3, TQC)
SMALL = dict(encoder="test_vit", weights="random", image_size=32, precision="fp32", features_dim=16)


def make_model(algorithm, env=None, seed=0, **policy_kwargs):
    env = env or PixelEnv(continuous=algorithm in CONTINUOUS)
    policy = "CnnLstmPolicy" if algorithm is RecurrentPPO else "CnnPolicy"
    if isinstance(env.observation_space, spaces.Dict):
        policy = "MultiInputPolicy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return algorithm(
            policy, env, policy_kwargs=pearl_policy_kwargs(**{**SMALL, **policy_kwargs}), seed=seed, **ALGORITHMS[algorithm]
        )


def observations(env, n=4):
    return np.stack([env.observation_space.sample() for _ in range(n)])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learn_save_delete_load_same_actions(algorithm, tmp_path):
    model = make_model(algorithm)
    model.learn(48)
    obs = observations(PixelEnv())
    obs = obs.transpose(0, 3, 1, 2)
    expected, _ = model.predict(obs, deterministic=True)
    model.save(tmp_path / "agent")
    del model
    loaded = algorithm.load(tmp_path / "agent")
    actions, _ = loaded.predict(obs, deterministic=True)
    assert np.array_equal(actions, expected)
    loaded.set_env(DummyVecEnv([lambda: PixelEnv(continuous=algorithm in CONTINUOUS)]))
    loaded.learn(16)


@pytest.mark.parametrize("algorithm", [PPO, DQN, SAC])
@pytest.mark.parametrize("tuning", ["full", "last-1", "lora"])
def test_trained_encoders_learn_and_load(algorithm, tuning, tmp_path):
    model = make_model(algorithm, tuning=tuning)
    extractors = [m for m in model.policy.modules() if isinstance(m, PearlExtractor)]
    pristine = TrainableEncoder(EncoderRequest("test_vit", "random", 32), tuning)
    for extractor in extractors:
        # SB3's ortho_init has run by now.
        for name, parameter in pristine.network.state_dict().items():
            if "lora" not in name:
                assert th.equal(parameter, extractor.encoder.network.state_dict()[name]), name
    before = {n: p.clone() for n, p in extractors[0].encoder.named_parameters()}
    model.learn(48)
    changed = {n for n, p in extractors[0].encoder.named_parameters() if not th.equal(p, before[n])}
    trained = {n for n, p in extractors[0].encoder.named_parameters() if p.requires_grad}
    assert changed and changed <= trained
    obs = observations(PixelEnv()).transpose(0, 3, 1, 2)
    expected, _ = model.predict(obs, deterministic=True)
    model.save(tmp_path / "agent")
    actions, _ = algorithm.load(tmp_path / "agent").predict(obs, deterministic=True)
    assert np.array_equal(actions, expected)


def test_frozen_encoder_is_no_part_of_the_policy(tmp_path):
    model = make_model(PPO)
    encoder = model.policy.features_extractor.encoder
    before = encoder.weights_hash
    model.learn(32)
    names = [name for name, _ in model.policy.named_parameters()]
    assert not any("encoder" in name or "blocks" in name for name in names)
    optimised = sum(p.numel() for group in model.policy.optimizer.param_groups for p in group["params"])
    assert optimised == sum(p.numel() for p in model.policy.parameters())
    assert weights_hash(encoder._network) == before
    model.save(tmp_path / "agent.zip")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        state = th.load(archive.open("policy.pth"), weights_only=True)
    assert state["features_extractor._extra_state"]["weights_hash"] == before
    assert not any("blocks" in name or "patch_embed" in name for name in state)


def test_default_agent_is_small(tmp_path):
    env = VecFrameStack(DummyVecEnv([lambda: PixelEnv((84, 84, 1))]), 4)
    model = PPO("CnnPolicy", env, policy_kwargs=pearl_policy_kwargs(), n_steps=8, batch_size=8, n_epochs=1)
    model.learn(8)
    model.save(tmp_path / "agent.zip")
    assert os.path.getsize(tmp_path / "agent.zip") < 15e6
    assert sum(p.numel() for p in model.policy.parameters()) < 1_200_000


def test_loading_with_other_weights_is_an_error(tmp_path, monkeypatch):
    model = make_model(PPO)
    model.save(tmp_path / "agent")
    del model
    monkeypatch.setattr("pearl_sb3.encoders.source.th.manual_seed", lambda seed: th.random.default_generator.manual_seed(1))
    gc.collect()
    with pytest.raises(ValueError, match="trained on encoder 'test_vit'.*sha256"):
        PPO.load(tmp_path / "agent")


@pytest.mark.parametrize("changed", [dict(grid=1), dict(prior="difference")])
def test_loading_with_tokens_read_in_another_way_is_an_error(changed):
    space = spaces.Box(0, 255, (4, 36, 36), np.uint8)
    saved = PearlExtractor(space, **{**SMALL, "grid": 2}).state_dict()
    with pytest.raises(ValueError, match=f"trained with {next(iter(changed))}="):
        PearlExtractor(space, **{**SMALL, "grid": 2, **changed}).load_state_dict(saved)


def test_online_and_target_network_share_encoder_and_cache():
    model = make_model(DQN)
    online, target = (net.features_extractor for net in (model.policy.q_net, model.policy.q_net_target))
    assert online is not target and online.encoder is target.encoder
    assert online.encoder.cache is target.encoder.cache


@pytest.mark.parametrize("n_epochs", [1, 4])
def test_ppo_encodes_each_frame_once_whatever_the_epochs(n_epochs):
    env = VecFrameStack(DummyVecEnv([lambda: PixelEnv((36, 36, 1))] * 4), 4)
    kwargs = pearl_policy_kwargs(**SMALL)
    model = PPO("CnnPolicy", env, n_steps=32, n_epochs=n_epochs, batch_size=32, policy_kwargs=kwargs, seed=n_epochs)
    encoder = model.policy.features_extractor.encoder
    before = encoder.frames_encoded
    model.learn(256)
    # One screen per step, one for the blank padding of VecFrameStack, and the last screen of each of the episodes.
    assert encoder.frames_encoded - before <= 256 + 4 + 1 + 256 // 12


def test_dqn_encodes_each_frame_once():
    env = VecFrameStack(DummyVecEnv([lambda: PixelEnv((36, 36, 1))]), 4)
    model = DQN("CnnPolicy", env, **REPLAY, gradient_steps=4, policy_kwargs=pearl_policy_kwargs(**SMALL), seed=7)
    encoder = model.policy.q_net.features_extractor.encoder
    before = encoder.frames_encoded
    model.learn(200)
    assert encoder.frames_encoded - before <= 200 + 1 + 1 + 200 // 12


@pytest.mark.parametrize(
    "shape, n_frames",
    [((4, 36, 36), 4), ((36, 36, 4), 4), ((36, 36, 12), 4), ((6, 40, 36), 2), ((36, 36, 3), 1), ((4, 36, 36, 3), 4)],
)
def test_layouts(shape, n_frames):
    space = spaces.Box(0, 255, shape, np.uint8)
    extractor = PearlExtractor(space, n_frames=n_frames, **SMALL)
    obs = th.as_tensor(np.stack([space.sample() for _ in range(3)]))
    features = extractor(obs)
    assert features.shape == (3, 16)
    assert th.allclose(extractor(obs.float()), features)
    fresh = PearlExtractor(space, n_frames=n_frames, **SMALL)
    fresh.load_state_dict(extractor.state_dict())
    assert th.allclose(fresh(obs.float() / 255), features)


def test_channels_of_rgb_stacks_stay_together():
    space = spaces.Box(0, 255, (36, 36, 12), np.uint8)
    extractor = PearlExtractor(space, **SMALL)
    screens = np.random.default_rng(0).integers(0, 256, (4, 36, 36, 3), dtype=np.uint8)
    stacked = np.concatenate(list(screens), axis=2)
    frames = extractor.layout.frames(th.as_tensor(stacked)[None])
    assert np.array_equal(frames[0].permute(0, 2, 3, 1).numpy(), screens)
    transposed = PearlExtractor(spaces.Box(0, 255, (12, 36, 36), np.uint8), **SMALL)
    assert th.equal(transposed.layout.frames(th.as_tensor(stacked.transpose(2, 0, 1).copy())[None]), frames)


def test_black_screens_do_not_decide_the_scale():
    extractor = PearlExtractor(spaces.Box(0, 255, (4, 36, 36), np.uint8), **SMALL)
    assert extractor.layout.frames(th.zeros(2, 4, 36, 36)).max() == 0
    bright = extractor.layout.frames(th.full((2, 4, 36, 36), 51 / 255))
    assert (bright == 51).all()


@pytest.mark.parametrize(
    "space, kwargs, message",
    [
        (spaces.Box(-1, 1, (5,)), {}, "needs images"),
        (spaces.Dict(a=spaces.Box(0, 255, (4, 36, 36), np.uint8)), {}, "PearlCombinedExtractor"),
        (spaces.Box(-10, 10, (4, 36, 36)), {}, "pixels in"),
        (spaces.Box(0, 255, (3, 36, 36), np.uint8), {}, "3 channels are not a stack of n_frames=4.*n_frames to 1 or 3"),
        (spaces.Box(0, 255, (36, 36, 4), np.uint8), dict(n_frames=3), "n_frames to 4"),
        (spaces.Box(0, 255, (4, 36, 36), np.uint8), dict(n_frames=0), "at least one"),
        (spaces.Box(0, 255, (4, 36, 36), np.uint8), dict(image_size=8), "too small"),
        (spaces.Box(0, 255, (4, 36, 36), np.uint8), dict(attention="x"), "choose one of"),
        (spaces.Box(0, 255, (4, 36, 36), np.uint8), dict(prior="x"), "choose None"),
        (spaces.Box(0, 255, (4, 36, 36), np.uint8), dict(tuning="x"), "choose"),
    ],
)
def test_what_cannot_be(space, kwargs, message):
    with pytest.raises(ValueError, match=message):
        PearlExtractor(space, **{**SMALL, **kwargs})


@pytest.mark.parametrize(
    "values", [th.full((1, 4, 36, 36), -1.0), th.full((1, 4, 36, 36), 300.0), th.full((1, 4, 36, 36), 7.5)]
)
def test_floats_that_are_no_pixels(values):
    extractor = PearlExtractor(spaces.Box(0, 255, (4, 36, 36), np.uint8), **SMALL)
    with pytest.raises(ValueError, match="Expected pixels"):
        extractor(values)


def test_normalised_observations_are_refused():
    env = VecNormalize(DummyVecEnv([lambda: PixelEnv((4, 36, 36))]), norm_obs=True)
    with pytest.raises(ValueError, match=r"norm_obs=False"):
        PPO("CnnPolicy", env, policy_kwargs=pearl_policy_kwargs(**SMALL), n_steps=8, batch_size=8).learn(8)


def test_cache_smaller_than_a_batch_is_an_error_with_the_fix():
    model = make_model(PPO, token_dim=24, cache_bytes=1000)
    with pytest.raises(ValueError, match="Set cache_bytes to at least"):
        model.learn(16)


@pytest.mark.parametrize("prior", [None, "difference"])
def test_attention_maps_of_an_agent(prior):
    extractor = PearlExtractor(spaces.Box(0, 255, (4, 36, 36), np.uint8), prior=prior, **SMALL)
    maps = extractor.attention_maps(th.randint(0, 256, (2, 4, 36, 36)).float())
    n_tokens = extractor.encoder.token_shape[0]
    assert maps.shape == (2, n_tokens - 1, n_tokens)


@pytest.mark.parametrize("attention", ["mean", "concat"])
def test_other_attentions_learn(attention):
    make_model(PPO, attention=attention).learn(16)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_dict_observations(algorithm, tmp_path):
    model = make_model(algorithm, DictEnv(), combined=True)
    extractor = next(m for m in model.policy.modules() if isinstance(m, PearlCombinedExtractor))
    assert extractor.features_dim == 2 * 16 + 3
    assert extractor.images["front"].encoder is extractor.images["back"].encoder
    model.learn(24)
    obs = model.get_env().reset()
    expected, _ = model.predict(obs, deterministic=True)
    model.save(tmp_path / "agent")
    del model
    actions, _ = algorithm.load(tmp_path / "agent").predict(obs, deterministic=True)
    assert np.array_equal(actions, expected)


def test_dict_without_images_is_an_error():
    with pytest.raises(ValueError, match="found no image"):
        PearlCombinedExtractor(spaces.Dict(a=spaces.Box(-1, 1, (3,))))


def test_policy_kwargs_equal_naturecnns_but_for_the_features():
    kwargs = pearl_policy_kwargs(optimizer_kwargs=dict(eps=1e-5))
    assert kwargs["net_arch"] == [] and kwargs["normalize_images"] is False
    assert kwargs["optimizer_kwargs"] == dict(eps=1e-5) and "optimizer_class" not in kwargs
    assert pearl_policy_kwargs(tuning="full")["optimizer_class"] is PearlAdam


@pytest.mark.parametrize("optimizer_class", [PearlAdam, PearlRMSprop])
def test_learning_rate_factor_scales_steps(optimizer_class):
    slow, fast = (th.nn.Parameter(th.ones(3)) for _ in range(2))
    slow.lr_factor = 0.1
    optimizer = optimizer_class([slow, fast], lr=0.5)
    for group in optimizer.param_groups:
        group["lr"] = 0.01  # what SB3's schedule does
    (slow.sum() + fast.sum()).backward()
    optimizer.step()
    assert th.allclose(1 - slow, 0.1 * (1 - fast), atol=1e-6) and (fast < 1).all()
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)
    restored = optimizer_class([slow, fast], lr=0.5)
    restored.load_state_dict(optimizer.state_dict())
    assert [group["lr_factor"] for group in restored.param_groups] == [1.0, 0.1]


def test_encoder_figures_are_logged():
    model = make_model(PPO)
    # Without a dump the last figures stay in the logger.
    model.learn(64, callback=EncoderLogCallback(), log_interval=100)
    logged = model.logger.name_to_value
    assert logged["pearl/frames_encoded"] > 0 and 0 <= logged["pearl/cache_hit_rate"] <= 1
    assert logged["pearl/cache_mb"] == pytest.approx(
        len(load_encoder(**ENCODER).cache) * load_encoder(**ENCODER).cache.bytes_per_frame / 2**20
    )


ENCODER = dict(name="test_vit", weights="random", image_size=32, precision="fp32")
