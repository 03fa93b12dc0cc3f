"""Probe scores that others published, to lay beside our own."""

import csv
from difflib import get_close_matches
from functools import cache
from importlib.resources import files


@cache
def _read() -> dict[str, dict[str, float]]:
    """:return: Method → game → F1, in the order of the file."""
    table: dict[str, dict[str, float]] = {}
    text = files("pearl_sb3.probing").joinpath("published.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        table.setdefault(row["method"], {})[row["game"]] = float(row["f1"])
    return table


def published(method: str | None = None) -> dict[str, dict[str, float]]:
    """
    Give published scores of linear probes on frames of random play, for 22 games.

    A score is the mean over a game's categories of the mean over their variables of the weighted F1.

    * ``MAJ-CLF``, ``RANDOM-CNN``, ``VAE``, ``PIXEL-PRED``, ``CPC``, ``ST-DIM``, ``SUPERVISED``: Table 2 of arXiv 1906.08226,
      with the 2019 annotations.
    * ``PEARL …``: the series of arXiv 2106.05139 under the names in its figure, read off that figure, with the current
      annotations (so that Pitfall, Pong, Qbert, Seaquest and Space Invaders compare loosely with the rows above). All are
      features of CLIP ViT-B/32: of the full image (``FI``), of its quarters and sixteenths (``2x2``, ``4x4``, ``FI+2x``,
      ``FI+4x``, ``1,2,4x``), of the image masked by flow or difference (``FM``, ``DM``; with ``+`` beside FI; ``FI+`` is FI
      twice), of FI and the patches that move most (``OP5``, ``DP5``), and after contrastive training on FI (``Blur``,
      ``Jit``, ``Crop``, ``CPC``, ``T1x``) or on 2x2 (``T2x``, ``S2x``, ``ST1,2x``).

    :param method: One method, ``None`` for all.
    :return: Method → game → F1; where each figure comes from is in ``published.csv``.
    :raises ValueError: If nothing is published here under that name.
    """
    table = _read()
    if method is not None and method not in table:
        close = get_close_matches(method.upper(), table, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(f"No published scores of {method!r}. {hint}There are: {'; '.join(table)}.")
    return {name: dict(scores) for name, scores in table.items() if method in (None, name)}
