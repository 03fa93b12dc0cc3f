"""The ceiling: a network trained end to end on the labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from torch import nn
from torch.nn import functional as F

from pearl_sb3.probing.data import LabelledFrames
from pearl_sb3.probing.inputs import chunks
from pearl_sb3.probing.metrics import VALUES
from pearl_sb3.probing.reference import FEATURES, local_and_global, reference_cnn
from pearl_sb3.probing.training import BATCH, fast, train, trained_path

# Gradient steps at most by default: some ten epochs of 35,000 frames.
UPDATES = 5000


class _Network(nn.Module):
    """
    The reference's encoder and a linear layer of 256 classes per variable.

    :param n_variables: Variables
    """

    def __init__(self, n_variables: int) -> None:
        super().__init__()
        self.encoder = reference_cnn()
        self.head = nn.Linear(FEATURES, n_variables * VALUES)

    def forward(self, screens: th.Tensor) -> th.Tensor:
        """
        :param screens: (n, 210, 160), uint8
        :return: Logits, (n, variables, 256)
        """
        with fast(screens.device.type):
            embedding = local_and_global(self.encoder, screens)[1]
        return self.head(embedding).unflatten(1, (-1, VALUES))


@dataclass(frozen=True)
class SupervisedCNN:
    """
    Predict every variable by one network.

    :param network: It
    :param facts: What :func:`pearl_sb3.probing.training.train` said
    """

    network: _Network
    facts: dict[str, Any]

    @th.inference_mode()
    def predict(self, features: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
        """
        Predict frames.

        :param features: Gray screens, (n, 210, 160), uint8, possibly on disk
        :param index: Frames to predict, None for all
        :return: (len(index), variables), uint8
        """
        index = np.arange(len(features)) if index is None else np.asarray(index)
        device = self.network.head.weight.device
        guesses = [self.network(th.from_numpy(features[part]).to(device)).argmax(2) for part in chunks(index, 256)]
        return th.cat(guesses).to("cpu", th.uint8).numpy()


def fit_supervised(
    screens: np.ndarray,
    labels: np.ndarray,
    train_frames: np.ndarray,
    val_frames: np.ndarray,
    *,
    data: LabelledFrames,
    variables: list[str],
    folder: Path,
    updates: int = UPDATES,
    seed: int = 42,
    device: str = "cpu",
    progress: bool = True,
) -> SupervisedCNN:
    """
    Train the reference's encoder end to end, one for all variables.

    The reference has a network of its own for each variable (Anand et al. 2019, arXiv 1906.08226), which costs that many times
    more. The weights with the best mean validation accuracy are kept.

    :param screens: Gray screens, (n_frames, 210, 160), uint8, possibly on disk
    :param labels: (n_frames, variables), uint8
    :param train_frames: Frames to learn from
    :param val_frames: Frames that say when to stop; at most 2,000 of them, evenly spaced
    :param data: The frames that the screens are of
    :param variables: Names of the variables
    :param folder: Where the weights are kept
    :param updates: Gradient steps at most
    :param seed: Seed of weights and batches
    :param device: Where to train
    :param progress: Whether to show a progress bar
    :return: The network
    """
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        network = _Network(labels.shape[1]).to(device)
    looked_at = val_frames[:: -(-len(val_frames) // 2000)]

    def loss(rng: np.random.Generator) -> th.Tensor:
        index = rng.choice(train_frames, BATCH)
        logits = network(th.from_numpy(screens[index]).to(device))
        return F.cross_entropy(logits.flatten(0, 1), th.from_numpy(labels[index]).long().flatten().to(device))

    def validate() -> float:
        return float((SupervisedCNN(network, {}).predict(screens, looked_at) == labels[looked_at]).mean())

    identity = f"{data.id} {variables} {updates} {seed} {train_frames.tolist()} {val_frames.tolist()}"
    path = trained_path(folder, data.manifest["game"], "supervised", identity)
    facts = train(network, loss, validate, path, updates, seed, progress)
    return SupervisedCNN(network.eval(), facts)
