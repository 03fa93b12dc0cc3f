"""What a frozen and a trainable encoder have in common: preprocessing, network, token reader, identity."""

import hashlib
from dataclasses import dataclass
from typing import Any

import timm
import torch as th
from torch import nn

from pearl_sb3.encoders.preprocess import Preprocess
from pearl_sb3.encoders.source import create_network, default_image_size, find_source
from pearl_sb3.encoders.tokens import TokenReader

# Parameters that timm resamples to the chosen image size; the rest is the same at every size.
RESIZED_BY_TIMM = ("pos_embed", "relative_position", "rel_pos", "attn_mask")


@dataclass(frozen=True)
class EncoderRequest:
    """
    What the user asked for: everything that decides which tokens come out.

    :param name: As in :func:`pearl_sb3.load_encoder`
    :param weights: ``"pretrained"``, ``"random"`` or a weight file
    :param image_size: Side of the network's input in pixels, or None for our choice
    :param grid: Side of the token grid, or None for our choice
    :param token_dim: Channels per token, or None for our choice
    :param cache_dir: Folder in which timm looks for downloaded files
    """

    name: str
    weights: str = "pretrained"
    image_size: int | None = None
    grid: int | None = None
    token_dim: int | None = None
    cache_dir: str | None = None


@dataclass(frozen=True)
class EncoderParts:
    """
    A loaded encoder in its parts.

    :param network: The timm model, fp32, evaluation mode
    :param preprocess: uint8 frames to its input
    :param reader: Its features to tokens
    :param facts: name, weights, image_size, weights_hash, parameters, licence and source, for people and for saved agents
    """

    network: Any  # a timm model: an nn.Module with more methods than the type knows
    preprocess: Preprocess
    reader: TokenReader
    facts: dict[str, Any]


def load_parts(request: EncoderRequest) -> EncoderParts:
    """
    Load an encoder.

    :param request: Which one
    :return: Its parts
    :raises ValueError: as :func:`~pearl_sb3.encoders.source.find_source` and
        :func:`~pearl_sb3.encoders.source.create_network` do
    :raises FileNotFoundError: likewise
    """
    source = find_source(request.name, request.weights)
    image_size = request.image_size or default_image_size(source, request.cache_dir)
    network = create_network(source, request.weights, image_size, request.cache_dir)
    config = timm.data.resolve_model_data_config(network)
    preprocess = Preprocess(image_size, config["mean"], config["std"], config["interpolation"])
    reader = TokenReader(network, image_size, request.grid, request.token_dim)
    pretrained_cfg = network.pretrained_cfg
    origin = source.file.name if source.file else pretrained_cfg.get("hf_hub_id") or source.architecture
    facts = dict(
        name=request.name,
        weights=request.weights,
        image_size=image_size,
        weights_hash=weights_hash(network),
        parameters=sum(p.numel() for p in network.parameters()),
        licence=source.manifest.get("licence") or pretrained_cfg.get("license") or "unknown",
        source="seeded random weights" if request.weights == "random" else origin,
    )
    return EncoderParts(network, preprocess, reader, facts)


def weights_hash(network: nn.Module) -> str:
    """
    Name a network's weights.

    Parameters that timm resamples to the image size are left out, so that one set of weights has one hash at every size.

    :param network: Any module
    :return: SHA-256 over its parameters and buffers in the order of their names, as 64 hexadecimal digits
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not any(part in name for part in RESIZED_BY_TIMM):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(th.uint8).numpy().tobytes())
    return digest.hexdigest()
