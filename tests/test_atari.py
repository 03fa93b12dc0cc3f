import ale_py
import cv2
import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.atari_wrappers import AtariWrapper, MaxAndSkipEnv
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage

from pearl_sb3.atari import PearlAtariWrapper

gym.register_envs(ale_py)


def play(env, n_steps, seed=0):
    """:return: observations, rewards and ends of random play, across episodes"""
    rng = np.random.default_rng(seed)
    observations, rewards, ends = [env.reset(seed=seed)[0]], [], []
    for _ in range(n_steps):
        observation, reward, terminated, truncated, _ = env.step(int(rng.integers(env.action_space.n)))
        rewards.append(reward)
        ends.append((terminated, truncated))
        if terminated or truncated:
            observation, _ = env.reset()
        observations.append(observation)
    return np.stack(observations), rewards, ends


@pytest.mark.parametrize(
    "game, kwargs",
    [
        ("PongNoFrameskip-v4", {}),
        ("BreakoutNoFrameskip-v4", {}),
        ("BreakoutNoFrameskip-v4", dict(screen_size=64, terminal_on_life_loss=False, clip_reward=False)),
        ("SpaceInvadersNoFrameskip-v4", dict(noop_max=0, frame_skip=3)),
    ],
)
def test_gray_is_the_same_as_sb3(game, kwargs):
    # with this seed, random Breakout has rewards, lost lives and ends of games in these few steps
    ours, rewards, ends = play(PearlAtariWrapper(gym.make(game), **kwargs), 300, seed=4)
    theirs, their_rewards, their_ends = play(AtariWrapper(gym.make(game), **kwargs), 300, seed=4)
    assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes()
    assert rewards == their_rewards and ends == their_ends
    if game.startswith("Breakout"):
        assert any(rewards), "the comparison saw no reward"
        assert any(terminated for terminated, _ in ends), "the comparison saw no end"


@pytest.mark.parametrize(
    "kwargs, shape",
    [
        (dict(), (84, 84, 1)),
        (dict(color=True), (84, 84, 3)),
        (dict(color=True, screen_size=(105, 80)), (105, 80, 3)),
        (dict(screen_size=[105, 80]), (105, 80, 1)),
        (dict(color=True, screen_size=None), (210, 160, 3)),
        (dict(screen_size=None), (210, 160, 1)),
    ],
)
def test_shapes(kwargs, shape):
    env = PearlAtariWrapper(gym.make("PongNoFrameskip-v4"), **kwargs)
    assert env.observation_space.shape == shape
    observations, _, _ = play(env, 3)
    assert observations.dtype == np.uint8
    assert all(env.observation_space.contains(observation) for observation in observations)


def test_env_checker():
    check_env(PearlAtariWrapper(gym.make("PongNoFrameskip-v4"), color=True))


def test_color_is_the_screen():
    kwargs = dict(noop_max=0, terminal_on_life_loss=False, color=True)
    # Pong waits for no fire button, but it has one: step twice as FireResetEnv does
    env = MaxAndSkipEnv(gym.make("PongNoFrameskip-v4"))
    env.reset(seed=0)
    env.step(1)
    expected = env.step(2)[0]
    native, _ = PearlAtariWrapper(gym.make("PongNoFrameskip-v4"), screen_size=None, **kwargs).reset(seed=0)
    resized, _ = PearlAtariWrapper(gym.make("PongNoFrameskip-v4"), screen_size=(60, 40), **kwargs).reset(seed=0)
    np.testing.assert_array_equal(native, expected)
    np.testing.assert_array_equal(resized, cv2.resize(expected, (40, 60), interpolation=cv2.INTER_AREA))
    assert (native[..., 0] != native[..., 2]).any(), "Pong's screen is not gray"


def test_sticky_actions_repeat():
    """With sticky actions the same play gives other frames; without, the same ones."""
    plain, sticky, again = (
        play(PearlAtariWrapper(gym.make("PongNoFrameskip-v4"), action_repeat_probability=p), 200)[0] for p in (0.0, 0.5, 0.0)
    )
    np.testing.assert_array_equal(plain, again)
    assert not np.array_equal(plain, sticky)


def test_stack_of_rgb_frames():
    """SB3 stacks on the channel axis, oldest first, and transposes: frame k is channels 3k to 3k + 3."""
    env = make_vec_env(
        "PongNoFrameskip-v4",
        n_envs=2,
        seed=0,
        wrapper_class=PearlAtariWrapper,
        wrapper_kwargs=dict(color=True, screen_size=48),
    )
    env = VecTransposeImage(VecFrameStack(env, 4))
    assert env.observation_space.shape == (12, 48, 48)
    before = env.reset()
    assert not before[:, :9].any() and before[:, 9:].any()
    after = env.step(np.array([2, 3]))[0]
    np.testing.assert_array_equal(after[:, :9], before[:, 3:])
    env.close()


def test_a_built_in_frame_skip_warns():
    with pytest.warns(UserWarning, match=r"already skips frames \(frameskip=4\).*frame_skip=4"):
        PearlAtariWrapper(gym.make("ALE/Pong-v5"))


@pytest.mark.filterwarnings("error:.*already skips frames")
def test_no_warning_when_only_one_skips():
    PearlAtariWrapper(gym.make("ALE/Pong-v5"), frame_skip=1)
    PearlAtariWrapper(gym.make("ALE/Pong-v5", frameskip=1))


def test_not_a_game():
    with pytest.raises(ValueError, match=r"needs a game of the Arcade Learning Environment.*CartPole"):
        PearlAtariWrapper(gym.make("CartPole-v1"))


@pytest.mark.parametrize("obs_type", ["ram", "grayscale"])
def test_not_rgb_screens(obs_type):
    with pytest.raises(ValueError, match="obs_type='rgb'"):
        PearlAtariWrapper(gym.make("PongNoFrameskip-v4", obs_type=obs_type))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(screen_size=0), "`screen_size` .* actual: 0"),
        (dict(screen_size=(84,)), r"`screen_size` .* actual: \(84,\)"),
        (dict(screen_size=(84, -1)), r"`screen_size` .* actual: \(84, -1\)"),
        (dict(frame_skip=0), "`frame_skip` to be at least 1, actual: 0"),
        (dict(action_repeat_probability=1.0), r"`action_repeat_probability` in \[0, 1\), actual: 1.0"),
    ],
)
def test_bad_parameters(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PearlAtariWrapper(gym.make("PongNoFrameskip-v4"), **kwargs)
