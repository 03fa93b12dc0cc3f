"""Encoder and attention joined to what SB3 calls a features extractor."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from pearl_sb3.attention import make_attention, make_prior
from pearl_sb3.encoders import FrozenEncoder, TrainableEncoder, load_encoder
from pearl_sb3.encoders.cache import DEFAULT_CACHE_BYTES
from pearl_sb3.encoders.parts import EncoderRequest
from pearl_sb3.observations import StackLayout
from pearl_sb3.optimizers import PearlAdam


class PearlExtractor(BaseFeaturesExtractor):
    """
    Pretrained encoder and attention in place of SB3's ``NatureCNN`` (PEARL, arXiv 2106.05139).

    pixels (B, k*C, H, W) → k frames → tokens (B, k, N, D), each distinct frame encoded once → attention → features.

    A frozen encoder is shared by all agents of the process and is no part of the policy: a saved agent holds its name and
    the hash of its weights, and loading with other weights is an error.

    :param observation_space: Image stack, uint8 or float in [0, 1]: (k*C, H, W) or (H, W, k*C) with C 1 (gray) or 3 (RGB)
    :param encoder: Encoder's name, see :func:`pearl_sb3.load_encoder`
    :param weights: ``"pretrained"``, ``"random"`` (the control; seeded) or a weight file
    :param image_size: Side of the encoder's input in pixels, None for our choice
    :param tuning: ``"frozen"``, ``"full"``, ``"last-n"`` or ``"lora"``, see :class:`~pearl_sb3.encoders.TrainableEncoder`
    :param attention: ``"spatiotemporal"``, ``"mean"`` or ``"concat"``
    :param prior: None, or ``"difference"`` to bias the attention towards patches that changed
    :param n_frames: Frames in a stack (k)
    :param features_dim: Size of the features
    :param encoder_lr_factor: Learning rate of a trained encoder as a fraction of the policy's
    :param precision: Precision of a frozen encoder: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``
    :param grid: Side of the token grid, None for our choice
    :param token_dim: Channels per token, None for our choice
    :param cache_bytes: Bound on a frozen encoder's token cache
    :param cache_dir: Folder in which timm looks for downloaded weights
    :raises ValueError: for observations that are not such a stack, unknown names, values out of range
    :raises FileNotFoundError: if the weights cannot be had
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        encoder: str = "pearl-tiny",
        weights: str = "pretrained",
        image_size: int | None = None,
        tuning: str = "frozen",
        attention: str = "spatiotemporal",
        prior: str | None = None,
        n_frames: int = 4,
        features_dim: int = 512,
        encoder_lr_factor: float | None = None,
        precision: str = "auto",
        grid: int | None = None,
        token_dim: int | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(observation_space, features_dim)
        self.layout = StackLayout(observation_space, n_frames)
        self.encoder: FrozenEncoder | TrainableEncoder
        if tuning == "frozen":
            self.encoder = load_encoder(
                encoder, weights, image_size, "cpu", precision, grid, token_dim, cache_bytes, cache_dir
            )
        else:
            request = EncoderRequest(encoder, weights, image_size, grid, token_dim, cache_dir)
            self.encoder = TrainableEncoder(request, tuning, encoder_lr_factor)
        self.prior_name = prior
        self.prior = make_prior(prior, n_frames, attention)
        self.attention = make_attention(attention, self.encoder.token_shape, self.encoder.grid, n_frames, features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: (B, *observation_space.shape), as SB3 preprocesses them
        :return: (B, features_dim)
        """
        return self.attention(*self.tokens_and_bias(observations))

    def tokens_and_bias(self, observations: th.Tensor, remember: bool = True) -> tuple[th.Tensor, th.Tensor | None]:
        """
        Give what the attention receives.

        :param observations: (B, *observation_space.shape)
        :param remember: As for :meth:`tokens`
        :return: Tokens (B, k, N, D), and the prior per token (B, k, N) or None
        """
        frames = self.layout.frames(observations)
        bias = None if self.prior is None else self.prior(frames, self.encoder.grid)
        return self.tokens(frames, remember), bias

    def tokens(self, frames: th.Tensor, remember: bool = True) -> th.Tensor:
        """
        :param frames: (B, k, C, H, W), uint8
        :param remember: Whether a frozen encoder looks frames up and keeps their tokens; False for frames seen only once
        :return: (B, k, N, D)
        """
        flat = frames.flatten(0, 1)
        if isinstance(self.encoder, TrainableEncoder):
            return self.encoder(flat).unflatten(0, frames.shape[:2])
        if self.encoder.device != frames.device:
            # SB3 builds a policy on the CPU and moves it afterwards.
            self.encoder = self.encoder.to(frames.device)
        return self.encoder.encode(flat, remember).unflatten(0, frames.shape[:2])

    def attention_maps(self, observations: th.Tensor) -> th.Tensor:
        """
        Where the attention looks.

        :param observations: (B, *observation_space.shape)
        :return: (B, queries, N), the weights each query gives to the summary and the cells, averaged over heads, summing to one
        :raises ValueError: if this attention has no maps
        """
        return self.attention.maps(*self.tokens_and_bias(observations))

    def get_extra_state(self) -> dict[str, Any]:
        """What the agent's tokens depend on, stored with the agent in place of the encoder's weights."""
        facts = {key: self.encoder.facts[key] for key in ("name", "weights", "weights_hash", "image_size")}
        return {
            **facts,
            "grid": list(self.encoder.grid),
            "token_shape": list(self.encoder.token_shape),
            "prior": self.prior_name,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """
        Check that the agent's encoder is the one at hand.

        :param state: What :meth:`get_extra_state` gave when the agent was saved
        :raises ValueError: if the weights differ, or are read in another way
        """
        here = self.get_extra_state()
        if state["weights_hash"] != here["weights_hash"]:
            raise ValueError(
                f"This agent was trained on encoder {state['name']!r} ({state['weights']}) with weights sha256 "
                f"{state['weights_hash'][:12]}, but {here['name']!r} here has {here['weights_hash'][:12]}. Use the weights it was "
                "trained on (the same release of the package, or the same weight file), or train it again."
            )
        changed = [key for key in ("image_size", "grid", "token_shape", "prior") if state[key] != here[key]]
        if changed:
            raise ValueError(
                "This agent was trained with "
                + ", ".join(f"{key}={state[key]} (here {here[key]})" for key in changed)
                + ". Give the extractor the values it was trained with."
            )


class PearlCombinedExtractor(BaseFeaturesExtractor):
    """
    PEARL features for every image of a Dict observation, beside its other entries as they are.

    All images share one frozen encoder and its cache; each has its own attention. The other entries are flattened, as SB3's
    ``CombinedExtractor`` does.

    :param observation_space: Dict of images and other spaces
    :param features_dim: Size of the features of each image
    :param kwargs: As for :class:`PearlExtractor`; ``n_frames`` may be a dict from image key to its number of frames
    :raises ValueError: if no entry is an image
    """

    def __init__(self, observation_space: spaces.Dict, features_dim: int = 512, **kwargs: Any) -> None:
        n_frames = kwargs.pop("n_frames", 4)
        images = {key: space for key, space in observation_space.spaces.items() if _is_image(space)}
        if not images:
            raise ValueError(
                f"PearlCombinedExtractor found no image (3 dimensions, uint8, [0, 255]) in {list(observation_space.spaces)}. "
                'Use "MultiInputPolicy" without it.'
            )
        vectors = {key: space for key, space in observation_space.spaces.items() if key not in images}
        vector_dim = sum(get_flattened_obs_dim(space) for space in vectors.values())
        super().__init__(observation_space, features_dim * len(images) + vector_dim)
        self.vector_keys = list(vectors)
        self.images = nn.ModuleDict(
            {
                key: PearlExtractor(
                    space,  # type: ignore[arg-type]
                    features_dim=features_dim,
                    n_frames=n_frames[key] if isinstance(n_frames, dict) else n_frames,
                    **kwargs,
                )
                for key, space in images.items()
            }
        )

    def forward(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """
        :param observations: One batch per key
        :return: (B, features_dim of all images and vectors together)
        """
        features = [extractor(observations[key]) for key, extractor in self.images.items()]
        return th.cat([*features, *(observations[key].flatten(1) for key in self.vector_keys)], dim=1)


def _is_image(space: spaces.Space) -> bool:
    return is_image_space(space, check_channels=False) or is_image_space(space, check_channels=False, normalized_image=True)


def pearl_policy_kwargs(
    encoder: str = "pearl-tiny",
    weights: str = "pretrained",
    image_size: int | None = None,
    tuning: str = "frozen",
    attention: str = "spatiotemporal",
    prior: str | None = None,
    n_frames: int | dict[str, int] = 4,
    features_dim: int = 512,
    net_arch: Any = None,
    combined: bool = False,
    **kwargs: Any,
) -> dict[str, Any]:
    """
    Make the ``policy_kwargs`` that put PEARL under any SB3 policy for pixels.

    ``PPO("CnnPolicy", env, policy_kwargs=pearl_policy_kwargs())`` differs from ``PPO("CnnPolicy", env)`` in the features
    only: ``net_arch`` is the empty one SB3 gives ``NatureCNN`` (any other extractor would get two layers of 64), and pixels
    arrive undivided, as the encoder's own normalisation wants them.

    :param encoder: As for :class:`PearlExtractor`, like all the following
    :param weights: ``"pretrained"``, ``"random"`` or a weight file
    :param image_size: Side of the encoder's input in pixels
    :param tuning: ``"frozen"``, ``"full"``, ``"last-n"`` or ``"lora"``
    :param attention: ``"spatiotemporal"``, ``"mean"`` or ``"concat"``
    :param prior: None or ``"difference"``
    :param n_frames: Frames in a stack; with ``combined``, perhaps a dict by image key
    :param features_dim: Size of the features (of each image)
    :param net_arch: Layers between features and heads, as SB3's ``net_arch``; none by default
    :param combined: True for Dict observations with ``"MultiInputPolicy"``
    :param kwargs: Other arguments of :class:`PearlExtractor`; ``optimizer_class`` and other arguments of SB3's policies are
        passed on to the policy
    :return: ``policy_kwargs``
    """
    extractor_only = ("encoder_lr_factor", "precision", "grid", "token_dim", "cache_bytes", "cache_dir")
    extractor_kwargs = dict(
        encoder=encoder,
        weights=weights,
        image_size=image_size,
        tuning=tuning,
        attention=attention,
        prior=prior,
        n_frames=n_frames,
        features_dim=features_dim,
        **{key: kwargs.pop(key) for key in extractor_only if key in kwargs},
    )
    if tuning != "frozen":
        kwargs.setdefault("optimizer_class", PearlAdam)
    return dict(
        features_extractor_class=PearlCombinedExtractor if combined else PearlExtractor,
        features_extractor_kwargs=extractor_kwargs,
        net_arch=[] if net_arch is None else net_arch,
        normalize_images=False,
        **kwargs,
    )
