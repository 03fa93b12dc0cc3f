"""What is probed: anything that turns screens into embeddings."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch as th

from pearl_sb3.encoders import load_encoder
from pearl_sb3.probing.collect import file_checksum
from pearl_sb3.probing.reference import reference_cnn
from pearl_sb3.probing.screens import gray, gray_small
from pearl_sb3.probing.trained import OBJECTIVES, UPDATES, PixelPCA, SelfSupervisedCNN
from pearl_sb3.probing.views import AgentView

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
        return (gray_small(screens, 42).reshape(len(screens), -1) / 255).astype(np.float16)


class RandomCNN:
    """
    The reference's encoder, untrained: four convolutions on the gray screen, orthogonal (AtariARI, ``NatureCNN`` for 210x160).

    :param seed: Seed of the weights
    """

    def __init__(self, seed: int = 0) -> None:
        self.name = f"random-cnn:{seed}" if seed else "random-cnn"
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
        return self.network(th.from_numpy(gray(screens))[:, None] / 255).numpy()


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
            screens = gray_small(screens, 84)[..., None]
        # Each screen comes once: remembering would cost a gigabyte and hashing, and save little.
        tokens = self.encoder.encode(screens, remember=False)
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


def make_subject(
    name: str,
    weights: str = "pretrained",
    *,
    game: str = "Pong",
    folder: str | Path | None = None,
    seed: int = 42,
    updates: int | None = None,
    device: str = "cpu",
    progress: bool = True,
    **kwargs: Any,
) -> Subject:
    """
    Find what a name stands for.

    :param name: ``"pixels"``, ``"pca"``, ``"random-cnn"`` (``"random-cnn:1"`` is another draw of its weights), ``"st-dim"``,
        ``"cpc"``, or an encoder's name; ``"NAME:random"`` is the encoder's random-weights twin
    :param weights: Weights of an encoder
    :param game: Game that ``"pca"``, ``"st-dim"`` and ``"cpc"`` learn from
    :param folder: Where its frames and the weights learnt are kept, see :func:`pearl_sb3.probing.data.data_folder`
    :param seed: Seed of weights and play
    :param updates: Gradient steps of ``"st-dim"`` and ``"cpc"`` at most
    :param device: Where ``"st-dim"`` and ``"cpc"`` are trained
    :param progress: Whether to show progress bars
    :param kwargs: Further arguments of :class:`Encoder`
    :return: The subject
    :raises ValueError: for unknown names
    :raises FileNotFoundError: if weights cannot be had
    """
    if name == "pixels":
        return Pixels()
    if re.fullmatch(r"random-cnn(:\d+)?", name):
        return RandomCNN(int(name.partition(":")[2] or 0))
    if name == "pca":
        return PixelPCA(game, folder, seed, progress=progress)
    if name in OBJECTIVES:
        return SelfSupervisedCNN(name, game, folder, seed, updates=updates or UPDATES, device=device, progress=progress)
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
