"""What would fail hours later, said at the start."""

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm


def check_agent(model: BaseAlgorithm) -> None:
    """
    Check that observations in order of time can be had from an agent.

    :param model: The agent
    :raises ValueError: if its algorithm, its buffer or its observations are not supported
    """
    name = type(model).__name__
    if not isinstance(model, OnPolicyAlgorithm | OffPolicyAlgorithm):
        raise ValueError(
            f"SSLCallback needs a rollout or replay buffer, {name} has none. Use PPO, A2C, DQN, SAC or their kin."
        )
    if isinstance(model.observation_space, spaces.Dict):
        raise ValueError(
            f"SSLCallback does not support Dict observations yet, got {model.observation_space}. Give the agent the image alone."
        )
    buffer = model.rollout_buffer if isinstance(model, OnPolicyAlgorithm) else model.replay_buffer
    if not isinstance(buffer, RolloutBuffer | ReplayBuffer):
        raise ValueError(f"SSLCallback reads SB3's RolloutBuffer and ReplayBuffer, {name} has a {type(buffer).__name__}.")


def check_length(model: BaseAlgorithm, length: int, objective: str) -> None:
    """
    Check that a sequence fits into the agent's buffer.

    :param model: The agent
    :param length: Observations in a sequence
    :param objective: What needs it
    :raises ValueError: if it does not fit
    """
    if isinstance(model, OnPolicyAlgorithm):
        room, fix = model.n_steps, "n_steps"
    else:
        assert isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None
        room, fix = model.replay_buffer.buffer_size, "buffer_size (it is shared by the environments)"
    if room < length:
        raise ValueError(
            f"objective {objective!r} needs {length} observations in a row, and the buffer of {type(model).__name__} has room for "
            f"{room} of each environment. Raise {fix}, or lower sequence_length and horizons."
        )
