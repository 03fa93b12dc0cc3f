"""What an agent's features extractor says of observations: as a whole, and place by place."""

from typing import NamedTuple

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN

from pearl_sb3.attention import SpatioTemporalAttention
from pearl_sb3.extractor import PearlExtractor


class Representation(NamedTuple):
    """
    :param whole: What the policy receives, (..., D)
    :param local: What the extractor makes it of, place by place, (..., P, C); None if it keeps no places
    """

    whole: th.Tensor
    local: th.Tensor | None

    def unflatten(self, sizes: tuple[int, ...]) -> "Representation":
        """
        :param sizes: What the first dimension is made of
        :return: The same with that dimension taken apart
        """
        return Representation(self.whole.unflatten(0, sizes), None if self.local is None else self.local.unflatten(0, sizes))


def represent(
    model: BaseAlgorithm, extractor: BaseFeaturesExtractor, observations: th.Tensor, remember: bool = True
) -> Representation:
    """
    Run a features extractor on observations as they lie in a buffer.

    Local features are what each query of the spatiotemporal attention reads, or the last map of a ``NatureCNN``.

    :param model: The agent
    :param extractor: One of its features extractors
    :param observations: (B, *observation_space.shape)
    :param remember: Whether a frozen encoder keeps the tokens of these frames
    :return: Features (B, D) and local features (B, P, C)
    """
    if not isinstance(extractor, PearlExtractor):
        inputs = preprocess_obs(observations, model.observation_space, model.policy.normalize_images)
        if type(extractor).forward is NatureCNN.forward:
            cells = extractor.cnn[:-1](inputs)  # type: ignore[operator,index]  # (B, C, H, W); the last layer flattens it
            return Representation(extractor.linear(extractor.cnn[-1](cells)), cells.flatten(2).transpose(1, 2))  # type: ignore
        return Representation(extractor(inputs), None)
    tokens, bias = extractor.tokens_and_bias(observations, remember)
    if not isinstance(extractor.attention, SpatioTemporalAttention):
        return Representation(extractor.attention(tokens, bias), None)
    read = extractor.attention.read(tokens, bias)
    return Representation(extractor.attention.features(read), read)


def online_extractors(model: BaseAlgorithm) -> list[BaseFeaturesExtractor]:
    """
    Find the features extractors that gradients train: not those of target networks.

    :param model: An agent
    :return: Each once, the one that acts first: policy, then value; actor, then critic
    """
    named = model.policy.named_modules()
    return [module for name, module in named if isinstance(module, BaseFeaturesExtractor) and "_target" not in name]


def copy_to_targets(model: BaseAlgorithm) -> None:
    """
    Give target networks the features extractors of the online ones.

    :param model: An agent before its first update
    """
    modules = dict(model.policy.named_modules())
    for name, module in modules.items():
        if isinstance(module, BaseFeaturesExtractor) and "_target" in name:
            module.load_state_dict(modules[name.replace("_target", "")].state_dict())
