import copy
import random
import sys
import warnings

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from conftest import DictEnv, PixelEnv
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TRPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage
from torch import nn

from pearl_sb3 import PearlExtractor, SSLCallback, cli, pearl_policy_kwargs
from pearl_sb3.ssl.objectives import OBJECTIVES
from pearl_sb3.ssl.representation import online_extractors, represent
from pearl_sb3.ssl.sampling import from_array, from_replay_buffer, from_rollout_buffer

ON_POLICY = {
    PPO: dict(n_steps=16, batch_size=16, n_epochs=2),
    A2C: dict(n_steps=8),
    TRPO: dict(n_steps=16, batch_size=16),
    RecurrentPPO: dict(n_steps=16, batch_size=16, n_epochs=1),
}
REPLAY = dict(buffer_size=100, learning_starts=16, batch_size=8, train_freq=4)
OFF_POLICY = {DQN: REPLAY, QRDQN: REPLAY, SAC: REPLAY}
ALGORITHMS = {**ON_POLICY, **OFF_POLICY}
SMALL = dict(encoder="test_vit", weights="random", image_size=32, precision="fp32", features_dim=16)
# A gradient step for every 8 env steps; `cpc` fits into episodes of 12 and rollouts of 8.
OFTEN = dict(every=8, batch_size=16, sequence_length=4, horizons=(1, 2))


def make_model(algorithm, env=None, kwargs=None, policy_kwargs=None, seed=0):
    env = env or PixelEnv(continuous=algorithm is SAC)
    policy = "CnnLstmPolicy" if algorithm is RecurrentPPO else "CnnPolicy"
    policy_kwargs = pearl_policy_kwargs(**SMALL) if policy_kwargs is None else policy_kwargs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return algorithm(
            policy,
            env,
            policy_kwargs=policy_kwargs,
            seed=seed,
            **{**ALGORITHMS.get(algorithm, ALGORITHMS[PPO]), **(kwargs or {})},
        )


def parameters(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items() if isinstance(value, th.Tensor)}


def differing(before, after):
    return {name for name in before if not th.equal(before[name], after[name])}


# --- what follows what -----------------------------------------------------------------------------------------------------


NEXT = np.array([0, 0, 1])


class Numbered:
    """Observations that say to which environment, episode and step they belong."""

    def __init__(self, n_envs, seed):
        self.rng = np.random.default_rng(seed)
        self.now = np.stack([np.arange(n_envs), np.zeros(n_envs), np.zeros(n_envs)], axis=1).astype(np.int64)

    def step(self):
        """:return: observations, what came next within the episode, whether it ended, and infos"""
        observations = self.now.copy()
        following = observations + NEXT
        done = self.rng.random(len(self.now)) < 0.2
        self.now = np.where(done[:, None], observations * (1 - NEXT) + np.array([0, 1, 0]), following)
        return observations, following, done, [{"TimeLimit.truncated": bool(i % 2)} for i in range(len(done))]


def check_sequences(data, kept, length):
    """Every sequence of ``length`` within one episode is found, and no other. ``kept``: (T, E, 3), in order of time"""
    windows = [kept[t : t + length, env] for env in range(kept.shape[1]) for t in range(len(kept) - length + 1)]
    expected = {tuple(map(tuple, window)) for window in windows if len(set(window[:, 1])) == 1}
    ends = data.ends(length)
    assert len(ends) == len(expected)
    found = data.sample(ends, 10_000, length, np.random.default_rng(0)) if len(ends) else []
    assert {tuple(map(tuple, sequence)) for sequence in found} == expected


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("steps", [1, 5, 20, 21, 33])
def test_replay_buffer_in_order_of_time(steps, n_envs, optimize_memory_usage):
    space = spaces.Box(0, 1000, (3,), np.int64)
    options = dict(optimize_memory_usage=optimize_memory_usage, handle_timeout_termination=not optimize_memory_usage)
    buffer = ReplayBuffer(20 * n_envs, space, spaces.Discrete(2), "cpu", n_envs, **options)
    world, kept = Numbered(n_envs, seed=steps), []
    for _ in range(steps):
        observations, following, done, infos = world.step()
        kept.append(observations)
        buffer.add(observations, following, np.zeros(n_envs), np.zeros(n_envs), done, infos)
    # Where one array holds both, the row to be written next is what came last.
    room = 19 if optimize_memory_usage and steps >= 20 else 20
    for length in (1, 2, 4):
        check_sequences(from_replay_buffer(buffer), np.stack(kept[-room:]), length)


def test_replay_buffer_of_an_environment_that_was_reset():
    """Between two calls of `learn` nothing in the buffer is marked as done."""
    buffer = ReplayBuffer(20, spaces.Box(0, 1000, (3,), np.int64), spaces.Discrete(2), "cpu")
    for episode in range(2):
        for step in range(5):
            now = np.array([[0, episode, step]])
            buffer.add(now, now + NEXT, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    data = from_replay_buffer(buffer)
    sequences = data.sample(data.ends(3), 100, 3, np.random.default_rng(0))
    assert len(sequences) == 6
    assert (sequences[:, 0, 1] == sequences[:, 2, 1]).all()


@pytest.mark.parametrize("algorithm", [PPO, A2C, RecurrentPPO])
def test_rollout_buffer_before_and_after_its_minibatches(algorithm):
    env = DummyVecEnv([PixelEnv, PixelEnv, PixelEnv])
    model = make_model(algorithm, env, policy_kwargs={})
    seen = {}

    class Look(BaseCallback):
        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            seen["before"] = buffer.observations.copy(), buffer.episode_starts.copy()

        def _on_step(self):
            return True

    model.learn(3 * model.n_steps, callback=Look())
    after = from_rollout_buffer(model.rollout_buffer)
    assert after.observations.shape[:2] == (model.n_steps, 3)
    assert np.array_equal(after.observations, seen["before"][0])
    assert np.array_equal(after.starts, seen["before"][1].astype(bool))


def test_rollout_sequences_stay_within_episodes():
    world, kept = Numbered(2, seed=0), []
    for _ in range(30):
        kept.append(world.step()[0])
    kept = np.stack(kept)
    starts = np.concatenate([np.ones((1, 2)), kept[1:, :, 1] != kept[:-1, :, 1]])
    model = make_model(PPO, DummyVecEnv([PixelEnv, PixelEnv]), dict(n_steps=30), policy_kwargs={})
    buffer = model.rollout_buffer
    buffer.observations, buffer.episode_starts, buffer.pos, buffer.full = kept, starts, 30, True
    for length in (1, 2, 5):
        check_sequences(from_rollout_buffer(buffer), kept, length)
    check_sequences(from_array(kept[:, 0], starts[:, 0]), kept[:, :1], 3)


# --- what is trained, and when ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy_kwargs", [pearl_policy_kwargs(**SMALL), pearl_policy_kwargs(**SMALL, prior="difference"), {}])
def test_a_representation_is_what_the_policy_receives(policy_kwargs):
    model = make_model(PPO, policy_kwargs=policy_kwargs)
    (extractor,) = online_extractors(model)
    observations = th.as_tensor(np.stack([model.observation_space.sample() for _ in range(3)]))
    seen = represent(model, extractor, observations)
    assert th.equal(seen.whole, model.policy.extract_features(observations))
    assert seen.local.shape[:1] == (3,) and seen.local.ndim == 3
    seen.whole.sum().backward()
    assert all(p.grad is not None for n, p in extractor.named_parameters() if "prior_scale" not in n)


def test_local_features_of_a_convolutional_net_are_its_last_map():
    model = make_model(PPO, PixelEnv((84, 84, 4)), policy_kwargs={})
    (extractor,) = online_extractors(model)
    observations = th.as_tensor(model.observation_space.sample()[None])
    local = represent(model, extractor, observations).local
    assert local.shape == (1, 49, 64)
    assert th.equal(extractor.linear(local.transpose(1, 2).flatten(1)), represent(model, extractor, observations).whole)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_online_extractors_are_trained(algorithm, objective):
    model = make_model(algorithm, policy_kwargs={} if algorithm is A2C else None)
    model.learn(24)
    callback = SSLCallback(objective, **OFTEN)
    callback.init_callback(model)
    buffer = model.rollout_buffer if algorithm in ON_POLICY else model.replay_buffer
    data = from_rollout_buffer(buffer) if algorithm in ON_POLICY else from_replay_buffer(buffer)
    before, optimizer = parameters(model), copy.deepcopy(model.get_parameters().get("policy.optimizer"))
    length = callback.learner.length
    figures = callback.learner.step(data, {length: data.ends(length)})
    assert figures.loss > 0 and 0 <= figures.accuracy <= 1 and figures.rank > 1
    changed = differing(before, parameters(model))
    assert changed and all("features_extractor" in name and "_target" not in name for name in changed)
    owners = {name.split("features_extractor")[0] for name in changed}
    assert owners >= ({"actor.", "critic."} if algorithm is SAC else set())
    assert all(p.grad is None for extractor in online_extractors(model) for p in extractor.parameters())
    after = model.get_parameters().get("policy.optimizer")
    assert str(optimizer) == str(after)


class Watched(PPO):
    """PPO that asks, before each update, whether the policy is still the one that acted."""

    def train(self):
        buffer = self.rollout_buffer
        ratios = []
        for observations, actions, old in zip(buffer.observations, buffer.actions, buffer.log_probs, strict=True):
            with th.no_grad():
                actions = th.as_tensor(actions).long().flatten()
                _, log_prob, _ = self.policy.evaluate_actions(th.as_tensor(observations), actions)
            ratios.append(th.exp(log_prob - th.as_tensor(old)))
        self.ratios = [*getattr(self, "ratios", []), th.stack(ratios)]
        super().train()


class Features(BaseCallback):
    """Features of one observation at each beginning of a rollout."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_rollout_start(self):
        with th.no_grad():
            self.seen.append(self.model.policy.extract_features(th.full((1, 4, 36, 36), 10, dtype=th.uint8)))

    def _on_step(self):
        return True


def test_ppos_first_ratio_is_one():
    model = make_model(Watched, DummyVecEnv([PixelEnv, PixelEnv]))
    before, after = Features(), Features()
    model.learn(96, callback=[before, SSLCallback(**{**OFTEN, "learning_rate": 1e-2}), after])
    assert len(model.ratios) == 3
    assert all((ratio == 1).all() for ratio in model.ratios)
    assert [th.equal(*pair) for pair in zip(before.seen, after.seen, strict=True)] == [True, False, False]


def test_steps_are_counted_by_env_steps():
    model = make_model(PPO, DummyVecEnv([PixelEnv, PixelEnv]))
    callback = SSLCallback("t-dim", every=20, gradient_steps=3, batch_size=8, warm_up=40, stop_after=110)
    taken = []

    class Count(BaseCallback):
        def _on_rollout_start(self):
            taken.append(callback.learner.gradient_steps)

        def _on_step(self):
            return True

    model.learn(160, callback=[callback, Count()])
    # After 32, 64, 96, 128 and 160 env steps: none, 1, 1, 1 (until 110), 0 times 20 beyond the first 40
    assert [*taken, callback.learner.gradient_steps] == [0, 0, 3, 6, 9, 9]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_beside_every_algorithm(algorithm, tmp_path):
    model = make_model(algorithm)
    encoder = online_extractors(model)[0].encoder
    encoded, weights = encoder.frames_encoded, encoder.weights_hash
    callback = SSLCallback({"st-dim": 1.0, "cpc": 0.5}, **OFTEN)
    model.learn(48, callback=callback, log_interval=1000)
    logged = {name: value for name, value in model.logger.name_to_value.items() if name.startswith("ssl/")}
    names = {"loss", "accuracy", "rank", "time_share", "gradient_steps", "frames_encoded"}
    assert set(logged) == {f"ssl/{name}" for name in names}
    assert logged["ssl/gradient_steps"] == callback.learner.gradient_steps == 6
    assert logged["ssl/frames_encoded"] == 0, "tokens of frames seen in the rollout are in the cache"
    assert 0 < logged["ssl/time_share"] < 1
    assert encoder.frames_encoded > encoded and encoder.weights_hash == weights
    model.save(tmp_path / "agent")
    assert algorithm.load(tmp_path / "agent").ssl_state["counters"]["gradient_steps"] == 6


def test_views_are_encoded_counted_and_forgotten():
    model = make_model(PPO)
    encoder = model.policy.features_extractor.encoder
    model.learn(16)
    kept = len(encoder.cache)
    callback = SSLCallback("contrast", **OFTEN)
    callback.pretrain_on(model, model.rollout_buffer, 3)
    assert callback.learner.frames_encoded == 3 * 16 * 4
    assert len(encoder.cache) == kept


def test_trained_encoders_keep_their_learning_rate():
    model = make_model(PPO, policy_kwargs=pearl_policy_kwargs(**{**SMALL, "tuning": "last-1", "precision": "auto"}))
    callback = SSLCallback("st-dim", learning_rate=1e-3, weight=0.5)
    callback.init_callback(model)
    factors = {getattr(p, "lr_factor", 1.0) for p in model.policy.features_extractor.parameters() if p.requires_grad}
    rates = [group["lr"] for group in callback.learner.optimizer.param_groups]
    assert rates[0] == 1e-3 and len(factors) > 1
    assert sorted(rates[1:]) == pytest.approx(sorted(0.5e-3 * factor for factor in factors))


# --- the same again --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [PPO, DQN, SAC])
def test_weight_zero_changes_nothing(algorithm):
    """Neither the weights nor any random number of the run without a callback."""
    plain = make_model(algorithm)
    plain.learn(48)
    watched = make_model(algorithm)
    callback = SSLCallback("st-dim+contrast+cpc", **OFTEN, weight=0)
    watched.learn(48, callback=callback)
    assert callback.learner.gradient_steps == 6
    assert not differing(parameters(plain), parameters(watched))
    shaped = make_model(algorithm)
    shaped.learn(48, callback=SSLCallback("st-dim", **OFTEN))
    assert differing(parameters(plain), parameters(shaped))


@pytest.mark.parametrize("algorithm", [PPO, RecurrentPPO, DQN])
def test_the_same_seed_gives_the_same_run(algorithm):
    runs = []
    for seed in (0, 0, 1):
        model = make_model(algorithm, seed=seed)
        model.learn(48, callback=SSLCallback("st-dim+contrast+cpc", **OFTEN))
        runs.append((parameters(model), model.ssl_state.learner.heads.state_dict()))
    assert not differing(runs[0][0], runs[1][0]) and not differing(runs[0][1], runs[1][1])
    assert differing(runs[0][1], runs[2][1])


def global_rng():
    return random.getstate(), np.random.get_state(), th.get_rng_state()


def set_global_rng(state):
    random.setstate(state[0])
    np.random.set_state(state[1])
    th.set_rng_state(state[2])


@pytest.mark.parametrize("keep_heads", [True, False])
def test_a_run_in_two_parts_is_the_run_in_one(keep_heads):
    whole = make_model(PPO)
    whole.learn(96, callback=SSLCallback("st-dim+cpc", **OFTEN, keep_heads=keep_heads))
    parts, callback = make_model(PPO), SSLCallback("st-dim+cpc", **OFTEN, keep_heads=keep_heads)
    parts.learn(48, callback=callback)
    parts.learn(48, callback=callback, reset_num_timesteps=False)
    assert not differing(parameters(whole), parameters(parts))
    assert hasattr(parts, "ssl_state") == keep_heads


def test_a_loaded_run_goes_on_exactly(tmp_path):
    """SB3 saves neither the environment nor the global generators: these are handed on here."""
    whole = make_model(PPO)
    whole.learn(96, callback=SSLCallback("st-dim+contrast", **OFTEN))
    half = make_model(PPO)
    half.learn(48, callback=SSLCallback("st-dim+contrast", **OFTEN))
    half.save(tmp_path / "agent")
    rng = global_rng()
    loaded = PPO.load(tmp_path / "agent", env=half.env, force_reset=False)
    set_global_rng(rng)
    loaded.learn(48, callback=SSLCallback("st-dim+contrast", **OFTEN), reset_num_timesteps=False)
    assert not differing(parameters(whole), parameters(loaded))
    learners = [each.ssl_state.learner for each in (whole, loaded)]
    assert learners[0].gradient_steps == learners[1].gradient_steps == 12
    assert not differing(*(learner.heads.state_dict() for learner in learners))
    assert learners[0].rng.bit_generator.state == learners[1].rng.bit_generator.state


@pytest.mark.parametrize("algorithm", [DQN, SAC])
def test_all_of_the_learner_is_saved(algorithm, tmp_path):
    model = make_model(algorithm)
    model.learn(32, callback=SSLCallback("st-dim", **OFTEN))
    model.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent")
    state = loaded.ssl_state
    assert type(state) is dict and {type(value) for value in state.values()} <= {list, dict, str, bytes}
    loaded.save(tmp_path / "again")  # on its way through a process that does not use it
    loaded = algorithm.load(tmp_path / "again", env=model.env)
    callback = SSLCallback("st-dim", **OFTEN)
    callback.init_callback(loaded)
    old, new = model.ssl_state.learner, callback.learner
    assert not differing(old.heads.state_dict(), new.heads.state_dict())
    assert old.rng.bit_generator.state == new.rng.bit_generator.state
    assert (old.env_steps, old.counted, old.gradient_steps) == (new.env_steps, new.counted, new.gradient_steps) == (32, 32, 4)
    moments = [learner.optimizer.state_dict()["state"] for learner in (old, new)]
    assert moments[0].keys() == moments[1].keys() and len(moments[0]) > 0
    for number, each in moments[0].items():
        assert not differing(each, moments[1][number])


def test_another_objective_on_a_saved_agent(tmp_path):
    model = make_model(PPO)
    model.learn(16, callback=SSLCallback("st-dim", **OFTEN))
    model.save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent", env=PixelEnv())
    with pytest.raises(ValueError, match="trained with SSLCallback on st-dim.*here it is t-dim.*ssl_state = None"):
        loaded.learn(16, callback=SSLCallback("t-dim", **OFTEN))
    loaded.ssl_state = None
    loaded.learn(16, callback=SSLCallback("t-dim", **OFTEN))


# --- before the policy -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pong():
    gym.register_envs(ale_py)
    env = VecFrameStack(make_vec_env("PongNoFrameskip-v4", wrapper_class=AtariWrapper, seed=0), 4)
    yield env
    env.close()


@pytest.fixture(scope="module")
def random_play(pong):
    """:return: 400 observations of random play, channels first, and where episodes begin"""
    rng, observations, starts = np.random.default_rng(0), [pong.reset()], [True]
    while len(observations) < 400:
        observation, _, done, _ = pong.step(rng.integers(0, 6, 1))
        observations.append(observation)
        starts.append(done[0])
    return np.concatenate(observations).transpose(0, 3, 1, 2).copy(), np.array(starts)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pretraining_learns_the_game(objective, pong, random_play):
    model = make_model(PPO, pong, policy_kwargs=pearl_policy_kwargs())
    callback = SSLCallback(objective, batch_size=32, learning_rate=1e-3, sequence_length=8, horizons=(1, 4))
    observations, starts = random_play
    first = callback.pretrain_on(model, observations, 1, starts)
    last = callback.pretrain_on(model, observations, 30, starts)
    assert last["loss"] < 0.9 * first["loss"]
    assert callback.learner.gradient_steps == 31


def test_pretraining_goes_on_in_training_and_reaches_the_targets():
    model = make_model(DQN)
    model.learn(24)
    callback = SSLCallback("st-dim", **OFTEN)
    callback.pretrain_on(model, model.replay_buffer, 4)
    online, target = (net.features_extractor.state_dict() for net in (model.q_net, model.q_net_target))
    assert not differing(*({k: v for k, v in s.items() if isinstance(v, th.Tensor)} for s in (online, target)))
    model.learn(16, callback=callback)
    assert callback.learner.gradient_steps == 6 and callback.learner.env_steps == 16


def test_pretraining_on_what_cannot_be():
    model, callback = make_model(PPO), SSLCallback("st-dim", **OFTEN)
    shape = model.observation_space.shape
    for data, starts, message in [
        (np.zeros((9, 36, 36, 4), np.uint8), None, r"\(T, 4, 36, 36\).*channels first.*\(9, 36, 36, 4\)"),
        (np.zeros((9, *shape), np.float32), None, "type uint8.*float32"),
        (np.zeros((9, *shape), np.uint8), np.zeros(8), "as many episode_starts"),
        (np.zeros((9, *shape), np.uint8), np.ones(9), "two sequences of 2"),
        ([1, 2], None, "got list"),
    ]:
        with pytest.raises(ValueError, match=message), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            callback.pretrain_on(model, data, 2, starts)
    with pytest.raises(ValueError, match="steps of at least 1"):
        callback.pretrain_on(model, np.zeros((9, *shape), np.uint8), 0)


# --- in company ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy_kwargs", [{}, pearl_policy_kwargs()], ids=["NatureCNN", "pearl-tiny"])
def test_atari_beside_other_callbacks(policy_kwargs, pong, tmp_path):
    model = make_model(PPO, pong, policy_kwargs=policy_kwargs)
    screens = VecTransposeImage(DummyVecEnv([lambda: Monitor(PixelEnv((84, 84, 4)))]))
    evaluation = EvalCallback(screens, n_eval_episodes=1, eval_freq=16, best_model_save_path=tmp_path, verbose=0)
    callbacks = [evaluation, SSLCallback("st-dim+contrast", every=8, batch_size=8), CheckpointCallback(24, str(tmp_path))]
    model.learn(48, callback=callbacks)
    halfway = PPO.load(tmp_path / "rl_model_24_steps", env=pong)
    counters = halfway.ssl_state["counters"]
    assert counters["env_steps"] == 24 and counters["gradient_steps"] == 2
    assert PPO.load(tmp_path / "best_model").ssl_state["signature"] == ["contrast", "st-dim", "1 extractors"]
    halfway.learn(16, callback=SSLCallback("contrast+st-dim", every=8, batch_size=8), reset_num_timesteps=False)
    assert halfway.ssl_state.learner.gradient_steps == 5


def test_from_the_zoos_yaml(tmp_path, monkeypatch):
    from importlib.resources import files

    config = yaml.safe_load((files("pearl_sb3.hyperparams") / "ppo.yml").read_text())
    config["atari"]["callback"] = [
        config["atari"]["callback"],
        {"pearl_sb3.SSLCallback": dict(objective={"st-dim": 1.0, "cpc": 0.5}, every=4, batch_size=8)},
    ]
    config["atari"]["callback"][1]["pearl_sb3.SSLCallback"].update(sequence_length=4, horizons=[1, 2])
    (tmp_path / "ssl.yml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pearl"])
    tiny = ["-n", "8", "--eval-freq", "-1", "--seed", "1", "-params", "n_envs:1", "n_steps:8", "batch_size:8", "n_epochs:1"]
    assert cli.main(["train", "-f", "logs", "-conf", "ssl.yml", *tiny]) == 0
    (path,) = tmp_path.glob("logs/ppo/*/PongNoFrameskip-v4.zip")
    assert PPO.load(path).ssl_state["counters"]["gradient_steps"] == 2


# --- what cannot be --------------------------------------------------------------------------------------------------------


class Vectors(gym.Env):
    """An environment without pixels."""

    observation_space, action_space = spaces.Box(-1, 1, (5,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


class Nothing(BaseFeaturesExtractor):
    """Features without anything to learn."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 3)
        self.flatten = nn.Flatten()

    def forward(self, observations):
        return self.flatten(observations)[:, :3]


@pytest.mark.parametrize(
    "objective, make, message",
    [
        (
            "t-dim",
            lambda: make_model(PPO, policy_kwargs=dict(features_extractor_class=Nothing)),
            r"\(Nothing\) has no trainable",
        ),
        ("t-dim", lambda: PPO("MlpPolicy", Vectors(), n_steps=8, batch_size=8), "FlattenExtractor.*no trainable"),
        ("cpc", lambda: make_model(A2C), "needs 16 observations.*A2C has room for 8.*Raise n_steps"),
        ("cpc", lambda: make_model(DQN, kwargs=dict(buffer_size=9)), "needs 16 observations.*room for 9.*Raise buffer_size"),
        (
            "st-dim",
            lambda: make_model(PPO, policy_kwargs=pearl_policy_kwargs(**SMALL, attention="mean")),
            "keeps none.*'t-dim'",
        ),
        ("s-dim", lambda: make_model(PPO, policy_kwargs=pearl_policy_kwargs(**SMALL, attention="concat")), "keeps none"),
        ("st-dim", lambda: ARS("MlpPolicy", Vectors()), "ARS has none.*Use PPO"),
        ("st-dim", lambda: PPO("MultiInputPolicy", DictEnv(), n_steps=8, batch_size=8), "Dict observations"),
    ],
)
def test_agents_that_cannot_be(objective, make, message):
    with pytest.raises(ValueError, match=message):
        make().learn(16, callback=SSLCallback(objective))


def test_views_of_what_is_not_pixels():
    class Learned(Nothing):
        def __init__(self, observation_space):
            super().__init__(observation_space)
            self.linear = nn.Linear(5, 3)

        def forward(self, observations):
            return self.linear(observations)

    def make():
        return PPO("MlpPolicy", Vectors(), n_steps=8, batch_size=8, policy_kwargs=dict(features_extractor_class=Learned))

    with pytest.raises(ValueError, match="needs uint8 images.*Choose 't-dim'"):
        make().learn(8, callback=SSLCallback("contrast"))
    callback = SSLCallback("t-dim", every=4, batch_size=8)
    make().learn(16, callback=callback)
    assert callback.learner.gradient_steps == 4


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(gradient_steps=0), "gradient_steps of at least 1, got 0"),
        (dict(every=0), "every of at least 1"),
        (dict(batch_size=2), "batch_size of at least 4"),
        (dict(learning_rate=-1), "learning_rate of at least 0"),
        (dict(weight=float("nan")), "weight of at least 0"),
        (dict(warm_up=10, stop_after=10), "stop_after above warm_up=10"),
    ],
)
def test_arguments_that_cannot_be(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SSLCallback(**kwargs)


@pytest.mark.parametrize("kwargs, message", [(dict(horizons=(16,)), "allow 1 to 15"), (dict(horizons=()), "allow 1 to 15")])
def test_horizons_that_do_not_fit(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_model(PPO).learn(16, callback=SSLCallback("cpc", **kwargs))


def test_two_on_one_agent():
    with pytest.raises(ValueError, match="Give one a mix"):
        make_model(PPO).learn(16, callback=[SSLCallback("st-dim"), SSLCallback("st-dim")])


def test_episodes_too_short_for_a_sequence_are_said_once():
    callback = SSLCallback("cpc", every=8, batch_size=32)
    with pytest.warns(UserWarning, match="no two sequences of 16") as said:
        make_model(PPO).learn(48, callback=callback)
    assert len([w for w in said if "no two sequences" in str(w.message)]) == 1
    assert callback.learner.gradient_steps == 0


def test_a_loss_that_is_no_number():
    model = make_model(PPO)
    with th.no_grad():
        model.policy.features_extractor.attention.readout.bias.fill_(float("inf"))
    assert isinstance(model.policy.features_extractor, PearlExtractor)
    callback = SSLCallback("st-dim", **OFTEN)
    with pytest.raises(FloatingPointError, match="Lower SSLCallback's learning_rate"):
        callback.pretrain_on(model, np.zeros((9, *model.observation_space.shape), np.uint8), 1)
