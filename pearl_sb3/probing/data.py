"""Labelled frames of a game on disk: collected once, checked at every use, read by every probe."""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  # h5py reads zstd with it
import numpy as np
from platformdirs import user_cache_path
from tqdm import tqdm

from pearl_sb3.atari.games import resolve_game
from pearl_sb3.probing.collect import Segment, file_checksum, play
from pearl_sb3.probing.disk import replacing

# The reference's scripts play with 8 processes; here each is a file, so that a killed collection goes on with the next.
N_SEGMENTS = 8
STEPS = 50_000


@dataclass(frozen=True)
class DataSpec:
    """
    Which frames.

    :param game: Game's key, see :mod:`pearl_sb3.atari.games`
    :param steps: Env steps over all segments
    :param seed: Seed of consoles and actions
    :param agent: Saved agent that plays, with ``epsilon`` random actions; None for the random policy
    :param epsilon: Probability of a random action instead of the agent's
    """

    game: str
    steps: int = STEPS
    seed: int = 42
    agent: str | None = None
    epsilon: float = 0.2

    @property
    def name(self) -> str:
        """A file name: data of another request never has it."""
        player = "random" if self.agent is None else f"agent-{file_checksum(Path(self.agent))[:12]}-{self.epsilon}"
        return f"{self.game}-{player}-{self.steps}-seed{self.seed}"

    def segments(self) -> list[Segment]:
        """
        :return: What the processes play, together ``steps`` env steps
        """
        shares = [len(part) for part in np.array_split(np.arange(self.steps), N_SEGMENTS)]
        return [
            Segment(self.game, share, self.seed * 1000 + index, self.agent, self.epsilon) for index, share in enumerate(shares)
        ]


class LabelledFrames:
    """
    Screens of a game in order of time with the console's memory at each.

    Read-only and on disk: only what is small (memory, episodes) is loaded.

    :param folder: Where :func:`collect` put the segments
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.paths = [folder / name for name in self.manifest["segments"]]
        ram, first, digests = [], [], []
        for path in self.paths:
            with h5py.File(path) as file:
                ram.append(file["ram"][:])
                first.append(file["first"][:])
                digests.append(file["digests"][:])
        #: Memory at each frame, (n, 128), uint8
        self.ram = np.concatenate(ram)
        #: Whether an episode begins with the frame, (n,)
        self.first = np.concatenate(first)
        #: A hash of the screen, (n,), uint64: equal screens have equal ones
        self.digests = np.concatenate(digests)
        #: Frame at which each segment begins
        self.starts = np.cumsum([0, *(len(part) for part in first)])

    def __len__(self) -> int:
        return len(self.first)

    @property
    def id(self) -> str:
        """Hash of the contents, in hexadecimal: embeddings of the frames are kept under it."""
        return self.manifest["sha256"]

    def episodes(self) -> list[np.ndarray]:
        """
        :return: Frames of each episode, in order of time: reset frame first, terminal frame last unless steps ran out
        """
        return np.split(np.arange(len(self)), np.flatnonzero(self.first)[1:])

    def chunks(self, size: int = 256, start: int = 0) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """
        Read the frames in order; no more than a chunk is in memory.

        :param size: Frames in a chunk at most; a chunk never joins two segments
        :param start: Frame to begin with
        :return: Pairs of the first frame's number, screens (m, 210, 160, 3) uint8, and whether episodes begin (m,)
        """
        for index in range(bisect_right(self.starts.tolist(), start) - 1, len(self.paths)):
            begin, end = self.starts[index], self.starts[index + 1]
            with h5py.File(self.paths[index]) as file:
                for at in range(max(begin, start), end, size):
                    stop = min(at + size, end)
                    yield at, file["frames"][at - begin : stop - begin], self.first[at:stop]


def data_folder(folder: str | Path | None) -> Path:
    """
    :param folder: The user's choice, or None
    :return: Where frames and embeddings are kept: the choice, ``$PEARL_DATA``, or the user's cache folder
    """
    return Path(folder or os.environ.get("PEARL_DATA") or user_cache_path("pearl_sb3") / "probing").expanduser()


def collect(
    game: str,
    steps: int = STEPS,
    seed: int = 42,
    agent: str | None = None,
    epsilon: float = 0.2,
    folder: str | Path | None = None,
    jobs: int | None = None,
    progress: bool = True,
) -> LabelledFrames:
    """
    Give a game's labelled frames, from disk where they are there and whole, else by playing.

    Collection is the protocol's of AtariARI (Anand et al. 2019, arXiv 1906.08226): up to 30 no-ops, 4 screens to a step, an
    episode per life, screens of 210x160 in RGB.

    :param game: Game of any spelling
    :param steps: Env steps over all segments
    :param seed: Seed of consoles and actions
    :param agent: Saved agent that plays; None for the random policy
    :param epsilon: Probability of a random action instead of the agent's
    :param folder: See :func:`data_folder`
    :param jobs: Processes, None for one per core
    :param progress: Whether to show a progress bar
    :return: The frames
    :raises ValueError: for a game without annotations, or too few steps
    """
    if steps < N_SEGMENTS:
        raise ValueError(f"steps={steps}: give at least {N_SEGMENTS}, one for each independently played segment.")
    spec = DataSpec(resolve_game(game), steps, seed, agent, epsilon)
    place = data_folder(folder) / "frames" / spec.name
    known = _read_manifest(place)
    segments = {f"segment-{index}.h5": segment for index, segment in enumerate(spec.segments())}
    checksums = {name: value for name, value in known.items() if name in segments and _is_whole(place / name, value)}
    missing = {name: segment for name, segment in segments.items() if name not in checksums}
    if missing:
        with tqdm(total=steps, desc=f"playing {spec.game}", unit="step", disable=not progress) as bar:
            bar.update(sum(segments[name].steps for name in checksums))
            for name, checksum in _play_all(missing, place, jobs or os.cpu_count() or 1):
                checksums[name] = checksum
                _write_manifest(place, spec, {name: checksums[name] for name in segments if name in checksums})
                bar.update(segments[name].steps)
    return LabelledFrames(place)


def _play_all(segments: dict[str, Segment], place: Path, jobs: int) -> Iterator[tuple[str, str]]:
    """Play segments, several at a time, and give name and checksum of each as it is done; one job plays in this process."""
    if jobs == 1:
        yield from ((name, play(segment, place / name)) for name, segment in segments.items())
        return
    # Spawned, not forked: PyTorch's threads in the parent do not survive a fork.
    with ProcessPoolExecutor(min(jobs, len(segments)), mp_context=get_context("spawn")) as pool:
        names = {pool.submit(play, segment, place / name): name for name, segment in segments.items()}
        try:
            yield from ((names[future], future.result()) for future in as_completed(names))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _read_manifest(place: Path) -> dict[str, str]:
    """Give name → checksum of the segments that were finished; nothing where the manifest itself is broken."""
    try:
        return dict(json.loads((place / "manifest.json").read_text())["segments"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_manifest(place: Path, spec: DataSpec, checksums: dict[str, str]) -> None:
    joined = hashlib.sha256("".join(checksums.values()).encode()).hexdigest()
    facts = {**asdict(spec), "agent": spec.agent and Path(spec.agent).name, "sha256": joined, "segments": checksums}
    with replacing(place / "manifest.json") as unfinished:
        unfinished.write_text(json.dumps(facts, indent=1))


def _is_whole(path: Path, checksum: str) -> bool:
    return path.is_file() and file_checksum(path) == checksum
