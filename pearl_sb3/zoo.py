"""
The zoo's door: PEARL policies by name, and rl_zoo3's ``train`` and ``enjoy`` with PEARL as their default.

rl_zoo3's hyperparameter files name a policy by its dotted path; ours name the classes here. Their defaults are
``pearl_policy_kwargs()``, so that whatever replaces ``policy_kwargs`` — ``-params policy_kwargs:…``, the sampler of
``-optimize`` — changes a PEARL agent instead of making another one.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch as th
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticCnnPolicy
from sb3_contrib.qrdqn.policies import CnnPolicy as QRDQNCnnPolicy
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.dqn.policies import CnnPolicy as DQNCnnPolicy

from pearl_sb3.extractor import PearlExtractor, pearl_policy_kwargs
from pearl_sb3.optimizers import PearlAdam, PearlRMSprop
from pearl_sb3.zoo_hook import FOLDER, config_path, read_options

GAME = "PongNoFrameskip-v4"
WITH_LR_FACTORS: dict[type, type] = {th.optim.Adam: PearlAdam, RMSpropTFLike: PearlRMSprop}


def with_pearl_defaults(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    Lay a user's policy arguments over PEARL's.

    :param policy_kwargs: What SB3 gives a policy beside the spaces and the schedule
    :return: The same with PEARL's defaults where it is silent, ``features_extractor_kwargs`` key by key; unchanged if the user
        brings another features extractor
    """
    if not issubclass(policy_kwargs.get("features_extractor_class", PearlExtractor), PearlExtractor):
        return policy_kwargs
    extractor_kwargs = policy_kwargs.get("features_extractor_kwargs") or {}
    defaults = pearl_policy_kwargs(**extractor_kwargs)
    merged = {**defaults, **policy_kwargs, "features_extractor_kwargs": defaults["features_extractor_kwargs"]}
    if merged["features_extractor_kwargs"]["tuning"] != "frozen" and "optimizer_class" in policy_kwargs:
        # rl_zoo3's files can name only optimizers it imports, and those know no learning rate per parameter
        merged["optimizer_class"] = WITH_LR_FACTORS.get(merged["optimizer_class"], merged["optimizer_class"])
    return merged


class _PearlDefaults:
    """
    What makes an SB3 policy for images a PEARL policy.

    :param spaces_and_schedule: Observation space, action space and learning-rate schedule
    :param policy_kwargs: Anything SB3's policy takes, laid over ``pearl_policy_kwargs()``
    """

    def __init__(self, *spaces_and_schedule: Any, **policy_kwargs: Any) -> None:
        super().__init__(*spaces_and_schedule, **with_pearl_defaults(policy_kwargs))


class PearlCnnPolicy(_PearlDefaults, ActorCriticCnnPolicy):
    """PEARL policy of PPO, A2C and TRPO: ``PPO(PearlCnnPolicy, env)``."""


class PearlCnnLstmPolicy(_PearlDefaults, RecurrentActorCriticCnnPolicy):
    """PEARL policy of RecurrentPPO (rl_zoo3's ``ppo_lstm``)."""


class PearlDQNPolicy(_PearlDefaults, DQNCnnPolicy):
    """PEARL policy of DQN."""


class PearlQRDQNPolicy(_PearlDefaults, QRDQNCnnPolicy):
    """PEARL policy of QR-DQN."""


def train(arguments: Sequence[str]) -> None:
    """
    Run rl_zoo3's ``train`` with PEARL's hyperparameters unless ``-conf`` names others, whatever the log folder.

    :param arguments: rl_zoo3's own; ``--env`` is Pong and ``-f`` is ``pearl`` where they are not given
    :raises NoPearlConfig: if PEARL has no hyperparameters for that algorithm
    """
    from rl_zoo3.train import train as zoo_train

    options = read_options(arguments)
    extra: list[str] = []
    if options is not None and options["conf_file"] is None:
        extra = ["--conf-file", config_path(options["algo"])]
    # argparse lets the last of two win: what the user gives stands behind our defaults
    sys.argv = ["pearl train", "--env", GAME, "-f", FOLDER, *arguments, *extra]
    zoo_train()


def enjoy(arguments: Sequence[str]) -> None:
    """
    Run rl_zoo3's ``enjoy`` on the agents that ``train`` saved.

    :param arguments: rl_zoo3's own; ``--env`` is Pong and ``-f`` is ``pearl`` where they are not given
    """
    from rl_zoo3.enjoy import enjoy as zoo_enjoy

    sys.argv = ["pearl enjoy", "--env", GAME, "-f", FOLDER, *arguments]
    zoo_enjoy()
