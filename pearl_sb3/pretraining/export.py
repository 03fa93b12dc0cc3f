"""From a trained network to the two files that `load_encoder` reads."""

import hashlib
import json
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch as th
from safetensors.torch import save

from pearl_sb3.encoders.networks import PearlConv

PACKAGES = ("torch", "timm", "numpy", "ale-py", "safetensors", "pearl_sb3")


@th.no_grad()
def token_statistics(network: PearlConv, batches: Iterable[th.Tensor]) -> tuple[th.Tensor, th.Tensor]:
    """
    Measure the tokens' channels, every batch counting the same.

    :param network: The network.
    :param batches: Normalised images, (n, 1, H, W) each, one batch per game.
    :return: Mean and deviation of each channel, (channels,).
    """
    moments = []
    for images in batches:
        tokens = network.forward_features(images).float()
        moments.append(th.stack([tokens.mean((0, 2, 3)), tokens.square().mean((0, 2, 3))]))
    mean, square = th.stack(moments).mean(0)
    return mean, (square - mean.square()).clamp_min(1e-8).sqrt()


def standardised_state(network: PearlConv, mean: th.Tensor, deviation: th.Tensor) -> dict[str, th.Tensor]:
    """
    Fold a standardisation of the tokens into the layer that makes them.

    :param network: The network; it is left as it is.
    :param mean: Mean of each channel of its tokens.
    :param deviation: Deviation of each channel.
    :return: Weights of a network whose tokens have mean 0 and deviation 1 per channel.
    """
    state = {name: value.detach().float().clone().contiguous() for name, value in network.state_dict().items()}
    state["readout.weight"] /= deviation.view(-1, 1, 1, 1)
    state["readout.bias"] = (state["readout.bias"] - mean) / deviation
    return state


def _replace(path: Path, content: bytes) -> None:
    """
    Write a file whole or not at all.

    :param path: Where to.
    :param content: What.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def export(state: dict[str, th.Tensor], facts: dict[str, Any], out: Path, name: str = "encoder") -> Path:
    """
    Write an encoder and its manifest.

    :param state: Weights.
    :param facts: What the manifest is to say besides what follows from the weights; ``architecture`` must be among it.
    :param out: Folder; made if missing.
    :param name: The weights go to ``<name>.safetensors``; the manifest to ``manifest.json``.
    :return: The weights' path.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = save(state, metadata={"architecture": facts["architecture"], "format": "pt"})
    manifest = facts | {
        "licence": "MIT",
        "parameters": sum(value.numel() for value in state.values()),
        "sha256": hashlib.sha256(content).hexdigest(),
        "made": datetime.now(timezone.utc).date().isoformat(),
        "versions": {package: version(package) for package in PACKAGES},
    }
    path = out / f"{name}.safetensors"
    _replace(path, content)
    _replace(out / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return path
