"""Objectives by name: how many observations in a row each needs, its heads, and what it contrasts with what."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from pearl_sb3.ssl.augment import augment, spatial_axes
from pearl_sb3.ssl.cpc import check_horizons, cpc_pairs
from pearl_sb3.ssl.infonce import Pairs
from pearl_sb3.ssl.representation import Representation
from pearl_sb3.ssl.st_dim import global_global_pairs, global_local_pairs, st_dim_pairs
from pearl_sb3.ssl.views import view_pairs

CONTEXT_DIM = 256
PROJECTION_DIM = 128


class Sizes(NamedTuple):
    """
    :param dim: Of the features as a whole (D)
    :param channels: Of local features (C), None if the extractor keeps no places
    """

    dim: int
    channels: int | None


@dataclass(frozen=True)
class Options:
    """
    :param sequence_length: Observations in a sequence of ``cpc``
    :param horizons: Observations ahead that ``cpc`` predicts
    :param temperature: Of ``contrast``
    """

    sequence_length: int = 16
    horizons: tuple[int, ...] = (1, 2, 4, 8)
    temperature: float = 0.1


class Objective(nn.Module, ABC):
    """
    An objective with its heads.

    :param sizes: Of the features
    :param space: Observation space
    :param options: What objectives can be told
    """

    #: Observations in a row that it takes
    length = 2
    #: Observations of each sequence that go through the extractor
    width = 2
    #: Whether it contrasts places
    places = False
    #: Whether its frames are new each time, so that their tokens are not worth keeping
    fresh = False

    def __init__(self, sizes: Sizes, space: spaces.Space, options: Options) -> None:
        super().__init__()

    def prepare(self, observations: th.Tensor, rng: np.random.Generator) -> th.Tensor:
        """
        :param observations: (B, length, *shape)
        :param rng: For what is random
        :return: What goes through the extractor, (B, width, *shape)
        """
        return observations

    @abstractmethod
    def pairs(self, seen: Representation) -> Pairs:
        """
        :param seen: Features of what was prepared, (B, width, D) and (B, width, P, C)
        :return: Queries and keys of each term
        """


class TDIM(Objective):
    """A frame as a whole with the one before it."""

    def __init__(self, sizes: Sizes, space: spaces.Space, options: Options) -> None:
        super().__init__(sizes, space, options)
        self.head = nn.Linear(sizes.dim, sizes.dim)

    def pairs(self, seen: Representation) -> Pairs:
        """As for every objective."""
        return global_global_pairs(seen.whole[:, 1], seen.whole[:, 0], self.head)


class SDIM(Objective):
    """A frame as a whole with its own places."""

    length = width = 1
    places = True

    def __init__(self, sizes: Sizes, space: spaces.Space, options: Options) -> None:
        super().__init__(sizes, space, options)
        self.head = nn.Linear(sizes.dim, sizes.channels or 0)

    def pairs(self, seen: Representation) -> Pairs:
        """As for every objective."""
        assert seen.local is not None
        return global_local_pairs(seen.whole[:, 0], seen.local[:, 0], self.head)


class STDIM(Objective):
    """A frame, whole and place by place, with the places of the one before it."""

    places = True

    def __init__(self, sizes: Sizes, space: spaces.Space, options: Options) -> None:
        super().__init__(sizes, space, options)
        channels = sizes.channels or 0
        self.global_head, self.local_head = nn.Linear(sizes.dim, channels), nn.Linear(channels, channels)

    def pairs(self, seen: Representation) -> Pairs:
        """As for every objective."""
        assert seen.local is not None
        return st_dim_pairs(seen.whole[:, 1], seen.local[:, 1], seen.local[:, 0], self.global_head, self.local_head)


class CPC(Objective):
    """What is to come, from a recurrent summary of what has been."""

    def __init__(self, sizes: Sizes, space: spaces.Space, options: Options) -> None:
        super().__init__(sizes, space, options)
        check_horizons(options.horizons, options.sequence_length)
        self.length = self.width = options.sequence_length
        self.horizons = options.horizons
        self.context = nn.GRU(sizes.dim, CONTEXT_DIM, batch_first=True)
        self.heads = nn.ModuleList([nn.Linear(CONTEXT_DIM, sizes.dim) for _ in self.horizons])

    def pairs(self, seen: Representation) -> Pairs:
        """As for every objective."""
        contexts, _ = self.context(seen.whole)
        return cpc_pairs(contexts, seen.whole, list(self.heads), self.horizons)


class Contrast(Objective):
    """Two augmented views of one observation."""

    length = 1
    fresh = True

    def __init__(self, sizes: Sizes, space: spaces.Space, options: Options) -> None:
        super().__init__(sizes, space, options)
        if not options.temperature > 0:
            raise ValueError(f"Expected a temperature above 0, got {options.temperature}.")
        self.axes = spatial_axes(space)
        self.temperature = options.temperature
        self.projection = nn.Sequential(
            nn.Linear(sizes.dim, sizes.dim), nn.ReLU(), nn.Linear(sizes.dim, PROJECTION_DIM, bias=False)
        )

    def prepare(self, observations: th.Tensor, rng: np.random.Generator) -> th.Tensor:
        """As for every objective."""
        return th.stack([augment(observations[:, 0], self.axes, rng) for _ in range(2)], dim=1)

    def pairs(self, seen: Representation) -> Pairs:
        """As for every objective."""
        one, other = self.projection(seen.whole).unbind(1)
        return view_pairs(one, other, self.temperature)


OBJECTIVES: dict[str, type[Objective]] = {"t-dim": TDIM, "s-dim": SDIM, "st-dim": STDIM, "cpc": CPC, "contrast": Contrast}


def parse_mix(objective: str | Mapping[str, float]) -> dict[str, float]:
    """
    Read what is to be optimised.

    :param objective: A name, names joined by ``+``, or the weight of each name
    :return: Weight by name
    :raises ValueError: for unknown or repeated names, none at all, or weights that are not above 0
    """
    names = objective.replace(" ", "").split("+") if isinstance(objective, str) else list(objective)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"objective={objective!r}: name each objective once, for example 'st-dim' or 'st-dim+contrast'.")
    for name in names:
        if name not in OBJECTIVES:
            close = difflib.get_close_matches(str(name), OBJECTIVES, n=1, cutoff=0.4)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"objective {name!r} is unknown.{hint} Choose of {', '.join(map(repr, OBJECTIVES))}.")
    mix = {name: 1.0 for name in names} if isinstance(objective, str) else {name: float(w) for name, w in objective.items()}
    if not all(0 < weight < float("inf") for weight in mix.values()):
        raise ValueError(f"Expected weights above 0 in the mix of objectives, got {mix}. Leave out what should not count.")
    return mix


def make_objectives(mix: Mapping[str, float], sizes: Sizes, space: spaces.Space, options: Options) -> nn.ModuleDict:
    """
    Make the objectives of a mix for one features extractor.

    :param mix: Weight by name
    :param sizes: Of the extractor's features
    :param space: Observation space
    :param options: What objectives can be told
    :return: Objectives by name
    :raises ValueError: if one contrasts places and the extractor keeps none, or pixels and there are none
    """
    for name in mix:
        if OBJECTIVES[name].places and sizes.channels is None:
            raise ValueError(
                f"objective {name!r} contrasts places, and this features extractor keeps none. Use "
                "attention=\"spatiotemporal\" or SB3's NatureCNN, or choose 't-dim', 'cpc' or 'contrast'."
            )
    return nn.ModuleDict({name: OBJECTIVES[name](sizes, space, options) for name in mix})
