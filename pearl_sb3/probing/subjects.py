"""What is probed: anything that turns screens into embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch as th
from torch import nn

from pearl_sb3.encoders import load_encoder
from pearl_sb3.probing.collect import file_checksum
from pearl_sb3.probing.views import AgentView

# Subjects without an encoder's name.
CONTROLS = ("majority", "pixels", "random-cnn")
TWIN = ":random"
READS = ("tokens", "summary")
VIEWS = ("screen", "agent")


class Subject(Protocol):
    """Turns screens into embeddings."""

    @property
    def name(self) -> str:
        """Shown in tables."""
        ...

    @property
    def identity(self) -> str | None:
        """Decides, with the data, which embeddings come out; None if nothing can be said, then they are not kept."""
        ...

    def embed(self, screens: np.ndarray, first: np.ndarray) -> np.ndarray:
        """
        :param screens: (n, 210, 160, 3), uint8, in order of time, going on from the call before
        :param first: (n,), whether an episode begins with each
        :return: (n, dim), fp16 or fp32
        """
        ...


class Pixels:
    """The control that shames: the screen itself, gray, at 42x42 pixels."""

    name = "pixels"
    identity = "pixels-42x42-gray-area"

    def embed(self, screens: np.ndarray, first: np.ndarray) -> np.ndarray:
        """
        :param screens: (n, 210, 160, 3), uint8
        :param first: (n,)
        :return: (n, 1764), fp16, in [0, 1]
        """
        small = [cv2.resize(gray, (42, 42), interpolation=cv2.INTER_AREA) for gray in _gray(screens)]
        return (np.stack(small).reshape(len(screens), -1) / 255).astype(np.float16)


class RandomCNN:
    """
    The reference's encoder, untrained: four convolutions on the gray screen, orthogonal (AtariARI, ``NatureCNN`` for 210x160).

    :param seed: Seed of the weights
    """

    def __init__(self, seed: int = 0) -> None:
        self.name = "random-cnn"
        self.identity = f"random-cnn-210x160-gray-seed{seed}"
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            self.network = reference_cnn()

    @th.inference_mode()
    def embed(self, screens: np.ndarray, first: np.ndarray) -> np.ndarray:
        """
        :param screens: (n, 210, 160, 3), uint8
        :param first: (n,)
        :return: (n, 256), fp32
        """
        return self.network(th.from_numpy(_gray(screens))[:, None] / 255).numpy()


def reference_cnn(features_dim: int = 256) -> nn.Sequential:
    """
    Make the encoder of AtariARI's experiments (Anand et al. 2019, arXiv 1906.08226, appendix; methods/encoders.py).

    :param features_dim: Size of the embedding
    :return: (B, 1, 210, 160) in [0, 1] → (B, features_dim)
    """
    layers = [
        *(nn.Conv2d(1, 32, 8, 4), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
        *(nn.Conv2d(64, 128, 4, 2), nn.ReLU()),
        *(nn.Conv2d(128, 64, 3, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(9 * 6 * 64, features_dim)),
    ]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("relu"))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class Encoder:
    """
    A frozen encoder's tokens.

    :param name: As for :func:`pearl_sb3.load_encoder`, like ``weights`` and all further arguments
    :param weights: ``"pretrained"``, ``"random"`` or a weight file
    :param read: ``"tokens"``: all tokens of a frame side by side; ``"summary"``: its summary token alone, as the paper's FI
    :param view: ``"screen"``: the whole screen in RGB, resized by the encoder's own preprocessing; ``"agent"``: 84x84 gray, as an
        agent sees it
    :param kwargs: Further arguments of :func:`pearl_sb3.load_encoder`
    :raises ValueError: for unknown names
    :raises FileNotFoundError: if the weights cannot be had
    """

    def __init__(
        self, name: str = "pearl-tiny", weights: str = "pretrained", read: str = "tokens", view: str = "screen", **kwargs: Any
    ) -> None:
        for option, value, choices in (("read", read, READS), ("view", view, VIEWS)):
            if value not in choices:
                raise ValueError(f"{option}={value!r}: choose one of {', '.join(map(repr, choices))}.")
        self.encoder = load_encoder(name, weights, **kwargs)
        self.read = read
        self.view = view
        suffixes = [weights] if weights != "pretrained" else []
        suffixes += [value for value, default in ((read, "tokens"), (view, "screen")) if value != default]
        self.name = f"{name} ({', '.join(suffixes)})" if suffixes else name
        facts = self.encoder.facts
        decided_by = (facts["weights_hash"], facts["image_size"], self.encoder.token_shape, self.encoder.dtype, read, view)
        self.identity = "-".join(["encoder", *map(str, decided_by)])

    def embed(self, screens: np.ndarray, first: np.ndarray) -> np.ndarray:
        """
        :param screens: (n, 210, 160, 3), uint8
        :param first: (n,)
        :return: (n, N * D) or, for the summary, (n, D), fp16
        """
        if self.view == "agent":
            seen = [cv2.resize(gray, (84, 84), interpolation=cv2.INTER_AREA) for gray in _gray(screens)]
            screens = np.stack(seen)[..., None]
        tokens = self.encoder.encode(screens)
        return (tokens[:, 0] if self.read == "summary" else tokens.flatten(1)).cpu().numpy()


class Agent:
    """
    The features that a trained agent's policy receives.

    :param path: Its zip
    """

    def __init__(self, path: str) -> None:
        self.view = AgentView.load(path)
        self.name = f"agent {path}"
        self.identity = f"agent-{file_checksum(Path(path))}"

    def embed(self, screens: np.ndarray, first: np.ndarray) -> np.ndarray:
        """
        :param screens: (n, 210, 160, 3), uint8, in order of time, going on from the call before
        :param first: (n,), whether an episode begins with each
        :return: (n, features_dim), fp32
        """
        return self.view.features(screens, first).numpy()


def make_subject(name: str, weights: str = "pretrained", **kwargs: Any) -> Subject:
    """
    Find what a name stands for.

    :param name: ``"pixels"``, ``"random-cnn"``, or an encoder's name; ``"NAME:random"`` is the encoder's random-weights twin
    :param weights: Weights of an encoder
    :param kwargs: Further arguments of :class:`Encoder`
    :return: The subject
    :raises ValueError: for unknown names
    :raises FileNotFoundError: if weights cannot be had
    """
    if name == "pixels":
        return Pixels()
    if name == "random-cnn":
        return RandomCNN()
    if name.endswith(TWIN):
        name, weights = name.removesuffix(TWIN), "random"
    return Encoder(name, weights, **kwargs)


class Function:
    """
    A user's own model.

    :param function: Screens (n, 210, 160, 3) uint8 → embeddings (n, dim), array or tensor
    """

    def __init__(self, function: Callable[[np.ndarray], Any]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self.identity = None

    def embed(self, screens: np.ndarray, first: np.ndarray) -> np.ndarray:
        """
        :param screens: (n, 210, 160, 3), uint8
        :param first: (n,)
        :return: (n, dim)
        :raises ValueError: if the function gives something else
        """
        with th.no_grad():
            given = self.function(screens)
        embeddings = given.detach().float().cpu().numpy() if isinstance(given, th.Tensor) else np.asarray(given)
        if embeddings.ndim != 2 or len(embeddings) != len(screens) or embeddings.dtype.kind not in "fiu":
            raise ValueError(
                f"{self.name} has to turn screens {screens.shape} into numbers of shape ({len(screens)}, dim), it gave "
                f"{embeddings.dtype} of shape {embeddings.shape}. Flatten what is behind the first dimension."
            )
        return embeddings


def _gray(screens: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) → (n, H, W), as the reference and SB3 do it."""
    return np.stack([cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY) for screen in screens])
