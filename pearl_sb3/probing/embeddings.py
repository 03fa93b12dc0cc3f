"""Embeddings of labelled frames, made once and kept on disk."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pearl_sb3.probing.data import LabelledFrames
from pearl_sb3.probing.disk import alone, no_room, replacing
from pearl_sb3.probing.subjects import Subject

CHUNK = 256


def embeddings(data: LabelledFrames, subject: Subject, folder: Path, progress: bool = True) -> np.ndarray:
    """
    Give a subject's embedding of every frame, from disk where they are there.

    :param data: The frames
    :param subject: What turns them into embeddings
    :param folder: Where embeddings are kept, named after the data's and the subject's identities; what a subject without
        identity gives lasts as long as the array
    :param progress: Whether to show a progress bar
    :return: (n, dim), fp16 or fp32, read from disk as it is used
    :raises FloatingPointError: if an embedding is NaN or infinite
    """
    if subject.identity is None:
        # Unlinked at once: the open file lives until the array goes.
        with tempfile.TemporaryDirectory(prefix="pearl-probe-") as place:
            return _embed(data, subject, Path(place) / "embeddings", progress)
    name = hashlib.sha256(f"{data.id} {subject.identity}".encode()).hexdigest()[:24]
    path = folder / "embeddings" / f"{data.manifest['game']}-{name}.npy"
    # Two processes that write one unfinished file would take it from each other.
    with alone(folder / "locks" / path.stem):
        if not path.exists():
            _embed(data, subject, path.with_suffix(""), progress)
    return np.load(path, mmap_mode="r")


def _embed(data: LabelledFrames, subject: Subject, stem: Path, progress: bool) -> np.ndarray:
    """
    Embed segment after segment; a killed run goes on with the segment it was at.

    :param data: The frames
    :param subject: What turns them into embeddings
    :param stem: File to write, without its suffix
    :param progress: Whether to show a progress bar
    :return: The embeddings
    """
    path, unfinished, notes = (stem.with_name(f"{stem.name}{end}") for end in (".npy", ".part.npy", ".part.json"))
    path.parent.mkdir(parents=True, exist_ok=True)
    done = json.loads(notes.read_text())["frames"] if unfinished.exists() and notes.exists() else 0
    array: np.memmap | None = np.load(unfinished, mmap_mode="r+") if done else None
    bar = tqdm(total=len(data), initial=done, desc=f"embedding by {subject.name}", unit="frame", disable=not progress)
    with bar:
        for at, screens, first in data.chunks(CHUNK, done):
            part = subject.embed(screens, first)
            if not np.isfinite(part).all():
                raise FloatingPointError(
                    f"{subject.name} gave NaN or infinite embeddings for frames {at} to {at + len(part)} of "
                    f"{data.manifest['game']}: probes cannot learn from them."
                )
            if array is None:
                dtype = np.float16 if part.dtype == np.float16 else np.float32
                array = _new_file(unfinished, dtype, (len(data), part.shape[1]))
            if part.shape[1] != array.shape[1]:
                raise ValueError(f"{subject.name} gave embeddings of {array.shape[1]} values, then of {part.shape[1]}.")
            array[at : at + len(part)] = part
            bar.update(len(part))
            if at + len(part) in data.starts:
                array.flush()
                _note(notes, at + len(part))
    assert array is not None
    os.replace(unfinished, path)
    notes.unlink(missing_ok=True)
    return array


def _new_file(path: Path, dtype: Any, shape: tuple[int, int]) -> np.memmap:
    with no_room(path):
        try:
            array = np.lib.format.open_memmap(path, "w+", dtype, shape)
            if hasattr(os, "posix_fallocate"):
                # Else the file is a promise, and a full disk kills the process when a page of it is due.
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return array


def _note(path: Path, frames: int) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps({"frames": frames}))
