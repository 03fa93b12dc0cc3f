"""Screens in gray, one by one or all of a game's."""

import tempfile

import cv2
import numpy as np
from tqdm import tqdm

from pearl_sb3.probing.data import LabelledFrames
from pearl_sb3.probing.disk import no_room


def gray(screens: np.ndarray) -> np.ndarray:
    """
    Convert as the reference and SB3 do.

    :param screens: (n, H, W, 3), uint8, RGB
    :return: (n, H, W), uint8
    """
    return np.stack([cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY) for screen in screens])


def gray_small(screens: np.ndarray, side: int) -> np.ndarray:
    """
    Convert and shrink.

    :param screens: (n, H, W, 3), uint8, RGB
    :param side: Pixels
    :return: (n, side, side), uint8
    """
    return np.stack([cv2.resize(screen, (side, side), interpolation=cv2.INTER_AREA) for screen in gray(screens)])


def gray_frames(data: LabelledFrames, progress: bool = True) -> np.ndarray:
    """
    Give all screens in gray for access in any order, which the compressed files are too slow for.

    They lie in a file without a name beside the data, not in memory: it goes with the array, or with the process.

    :param data: The frames
    :param progress: Whether to show a progress bar
    :return: (n, 210, 160), uint8
    :raises OSError: if the disk is full
    """
    shape = (len(data), 210, 160)
    with no_room(f"{len(data):,} unpacked frames ({np.prod(shape) / 1e9:.1f} GB) in {data.folder}"):
        with tempfile.TemporaryFile(dir=data.folder) as file:
            with tqdm(total=len(data), desc="unpacking frames", unit="frame", disable=not progress) as bar:
                for _, screens, _ in data.chunks():
                    file.write(gray(screens).tobytes())
                    bar.update(len(screens))
            file.flush()
            return np.memmap(file, np.uint8, "r", shape=shape)
