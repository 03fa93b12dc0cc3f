"""Which frames train, choose and test a probe, and which variables are worth probing."""

from dataclasses import dataclass

import numpy as np

from pearl_sb3.probing.data import LabelledFrames

PROTOCOLS = ("fixed", "paper")
# Episodes must be longer than this many frames (AtariARI, episodes.py: the scripts pass the batch size).
MIN_EPISODE = 64
# A variable whose values have less entropy, in nats, is all but constant (AtariARI, episodes.py).
MIN_ENTROPY = 0.6
MIN_EPISODES = 4


@dataclass(frozen=True)
class Split:
    """
    Labels of all frames, and the frames of each part, episode by episode.

    :param labels: (n, variables), uint8, memory byte of each kept variable at each frame of the data
    :param variables: Names of the kept variables
    :param dropped: Names of those that hardly change
    :param train: Frames of each episode
    :param val: Frames of each episode
    :param test: Frames of each episode, less those whose screen is in ``train`` or ``val`` too (unless they were asked for)
    """

    labels: np.ndarray
    variables: list[str]
    dropped: list[str]
    train: list[np.ndarray]
    val: list[np.ndarray]
    test: list[np.ndarray]


def entropy(values: np.ndarray) -> float:
    """
    :param values: (n,), uint8
    :return: Shannon entropy of their distribution in nats
    """
    share = np.bincount(values, minlength=1) / len(values)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def paper_episodes(data: LabelledFrames, labels: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """
    Give episodes and labels as the reference's vector env makes them.

    At the end of an episode it returns the next episode's first screen with the last state's labels. So the terminal screen is
    never stored, and the first frame of every episode but a segment's first carries labels of the episode before. The very
    first screen of a segment is not stored at all.

    :param data: The frames
    :param labels: (n, variables)
    :return: Frames of each episode, and the labels with the reference's shift
    """
    labels = labels.copy()
    openings = set(data.starts[:-1].tolist())
    episodes = []
    for frames in data.episodes():
        begins_segment = int(frames[0]) in openings
        ends_segment = int(frames[-1]) + 1 in data.starts
        if not begins_segment:
            labels[frames[0]] = labels[frames[0] - 1]
        episodes.append(frames[int(begins_segment) : len(frames) if ends_segment else len(frames) - 1])
    return episodes, labels


def split(data: LabelledFrames, variables: dict[str, int], protocol: str = "fixed", seed: int = 42) -> Split:
    """
    Split episodes into about 70 % to train, 10 % to validate and 20 % to test.

    ``"fixed"`` shuffles the episodes; ``"paper"`` takes them in the order of collection, as the reference does (it shuffles a
    list that it never uses), and as the reference's vector env makes them. The rest is :func:`split_episodes`.

    :param data: The frames
    :param variables: Name → memory byte
    :param protocol: ``"fixed"`` or ``"paper"``
    :param seed: Seed of the shuffle
    :return: The split
    :raises ValueError: for another protocol, too few episodes, or if no variable changes enough
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r}: choose one of {', '.join(map(repr, PROTOCOLS))}.")
    return split_episodes(data, variables, seed, shifted=protocol == "paper", shuffled=protocol == "fixed")


def split_episodes(
    data: LabelledFrames,
    variables: dict[str, int],
    seed: int = 42,
    *,
    shifted: bool = False,
    shuffled: bool = True,
    duplicates: bool = False,
) -> Split:
    """
    Split with each difference between the protocols as a switch of its own.

    However they are set: episodes of 64 frames or fewer are left out, and variables with an entropy under 0.6 nats (AtariARI, Anand
    et al. 2019, arXiv 1906.08226).

    :param data: The frames
    :param variables: Name → memory byte
    :param seed: Seed of the shuffle
    :param shifted: Take episodes and labels as :func:`paper_episodes` gives them
    :param shuffled: Shuffle the episodes; False: train on those that were collected first
    :param duplicates: Keep test frames that are the same picture as a frame of the other parts; both protocols drop them
    :return: The split
    :raises ValueError: for too few episodes, or if no variable changes enough
    """
    labels, episodes = data.ram[:, list(variables.values())], data.episodes()
    if shifted:
        episodes, labels = paper_episodes(data, labels)
    episodes = [frames for frames in episodes if len(frames) > MIN_EPISODE]
    n = len(episodes)
    if n < MIN_EPISODES:
        raise ValueError(
            f"{n} episodes of {data.manifest['game']} are longer than {MIN_EPISODE} frames, a split needs {MIN_EPISODES}: collect "
            f"more than {data.manifest['steps']:,} steps (--steps)."
        )
    kept = np.concatenate(episodes)
    changing = [entropy(labels[kept, column]) >= MIN_ENTROPY for column in range(labels.shape[1])]
    if not any(changing):
        raise ValueError(
            f"No variable of {data.manifest['game']} has an entropy of {MIN_ENTROPY} nats over {len(kept):,} frames: collect more "
            "steps (--steps), or let an agent play (--player)."
        )
    if shuffled:
        episodes = [episodes[index] for index in np.random.default_rng(seed).permutation(n)]
    train, val, test = episodes[: int(0.7 * n)], episodes[int(0.7 * n) : int(0.8 * n)], episodes[int(0.8 * n) :]
    if not duplicates:
        seen = np.unique(data.digests[np.concatenate(train + val)])
        test = [frames[~np.isin(data.digests[frames], seen)] for frames in test]
    test = [frames for frames in test if len(frames) > 1]
    if not test:
        raise ValueError(
            f"Every test frame of {data.manifest['game']} is also a frame of the training episodes: collect more than "
            f"{data.manifest['steps']:,} steps (--steps)."
        )
    names = list(variables)
    return Split(
        labels=labels[:, changing],
        variables=[name for name, keep in zip(names, changing, strict=True) if keep],
        dropped=[name for name, keep in zip(names, changing, strict=True) if not keep],
        train=train,
        val=val,
        test=test,
    )
