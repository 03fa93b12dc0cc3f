"""The probe that sees nothing: what any other has to beat."""

from dataclasses import dataclass

import numpy as np

from pearl_sb3.probing.metrics import VALUES


@dataclass(frozen=True)
class MajorityProbe:
    """
    Predict for every frame each variable's most frequent training value.

    :param values: (variables,), uint8
    """

    values: np.ndarray

    def predict(self, features: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
        """
        Predict frames.

        :param features: (n_frames, ...), of which only the length matters
        :param index: Frames to predict, None for all
        :return: (len(index), variables), uint8
        """
        return np.tile(self.values, (len(features) if index is None else len(index), 1))


def fit_majority(labels: np.ndarray, train: np.ndarray) -> MajorityProbe:
    """
    Count training values; of several as frequent as one another the smallest wins.

    :param labels: (n_frames, variables), uint8
    :param train: Frames to count
    :return: The probe
    :raises ValueError: if there are no training frames
    """
    if not len(train):
        raise ValueError("No frames in 'train': collect more episodes, or give this part of the split more of them.")
    values = [np.bincount(column, minlength=VALUES).argmax() for column in labels[train].T]
    return MajorityProbe(np.array(values, np.uint8))
