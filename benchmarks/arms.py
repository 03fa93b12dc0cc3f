"""What the benchmarks compare: environments and agents with the zoo's Atari settings, and the arms' policy kwargs."""

from collections.abc import Callable
from typing import Any

import ale_py
import gymnasium as gym
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

Kwargs = dict[str, Any]

gym.register_envs(ale_py)

N_ENVS = {"ppo": 8, "dqn": 1}


def ppo_settings() -> Kwargs:
    """
    :return: PPO's arguments under ``atari`` in rl_zoo3's hyperparams/ppo.yml
    """
    return {
        "n_steps": 128,
        "n_epochs": 4,
        "batch_size": 256,
        "learning_rate": LinearSchedule(2.5e-4, 0.0, 1.0),
        "clip_range": LinearSchedule(0.1, 0.0, 1.0),
        "vf_coef": 0.5,
        "ent_coef": 0.01,
    }


def dqn_settings() -> Kwargs:
    """
    :return: DQN's arguments under ``atari`` in rl_zoo3's hyperparams/dqn.yml
    """
    return {
        "buffer_size": 100_000,
        "learning_rate": 1e-4,
        "batch_size": 32,
        "learning_starts": 100_000,
        "target_update_interval": 1000,
        "train_freq": 4,
        "gradient_steps": 1,
        "exploration_fraction": 0.1,
        "exploration_final_eps": 0.01,
        "optimize_memory_usage": False,
    }


def atari(game: str, n_envs: int, seed: int) -> VecEnv:
    """
    The zoo's Atari environments: AtariWrapper, DummyVecEnv, four stacked frames.

    :param game: a game's name as in ``PongNoFrameskip-v4``, without the suffix
    :param n_envs: environments stepped together
    :param seed: seed of the first; the others follow
    :return: observations uint8, shape (n_envs, 84, 84, 4)
    """
    return VecFrameStack(make_atari_env(f"{game}NoFrameskip-v4", n_envs, seed=seed), 4)


def agent(algo: str, env: VecEnv, policy_kwargs: Kwargs, seed: int, **changes: Any) -> BaseAlgorithm:
    """
    An agent with the zoo's Atari settings, on the CPU or the accelerator as SB3 chooses.

    :param algo: ``"ppo"`` or ``"dqn"``
    :param env: environments from :func:`atari`
    :param policy_kwargs: those of the arm
    :param seed: seed of the weights, the actions and the environments
    :param changes: arguments of the algorithm that depart from the zoo's
    :return: the agent, not yet trained
    """
    cls, settings = {"ppo": (PPO, ppo_settings()), "dqn": (DQN, dqn_settings())}[algo]
    return cls("CnnPolicy", env, policy_kwargs=policy_kwargs, seed=seed, **{**settings, **changes})


def nature() -> Kwargs:
    """
    :return: policy kwargs of SB3's own network, NatureCNN
    """
    return {"net_arch": []}


def obvious() -> Kwargs:
    """
    :return: policy kwargs of a ViT-Tiny/16 at 96 px as a child of the policy, run in fp32 on every frame it is shown
    """
    from obvious import TimmExtractor

    arguments = {"name": "vit_tiny_patch16_224", "image_size": 96}
    return {"features_extractor_class": TimmExtractor, "features_extractor_kwargs": arguments, "net_arch": []}


def pearl(encoder: str, image_size: int | None = None, weights: str = "pretrained", **kwargs: Any) -> Callable[[], Kwargs]:
    """
    :param encoder: name of a bundled or timm encoder
    :param image_size: side in pixels, None for the encoder's own choice
    :param weights: ``"random"`` where only time and memory are measured, so that the arm needs no download
    :param kwargs: any other argument of ``pearl_policy_kwargs``
    :return: a function that gives the arm's policy kwargs, with ``net_arch=[]`` as NatureCNN has it
    """

    def make() -> Kwargs:
        from pearl_sb3 import pearl_policy_kwargs

        settings: Kwargs = {"encoder": encoder, "image_size": image_size, "weights": weights, "net_arch": [], **kwargs}
        return pearl_policy_kwargs(**settings)

    return make


THROUGHPUT: dict[str, Callable[[], Kwargs]] = {
    "nature": nature,
    "obvious": obvious,
    "pearl-tiny": pearl("pearl-tiny"),
    "vit-tiny-96": pearl("vit_tiny_patch16_224", 96, "random"),
    "dinov2-s-84": pearl("vit_small_patch14_dinov2", 84, "random"),
}
