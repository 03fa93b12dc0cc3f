"""Two views of one observation must find each other."""

import torch as th
from torch.nn import functional as F

from pearl_sb3.ssl.infonce import Pairs


def view_pairs(one: th.Tensor, other: th.Tensor, temperature: float) -> Pairs:
    """
    Contrast by cosine, each view with the others' other view (SimCLR's loss, Chen et al. 2020, arXiv 2002.05709, without the
    negatives of a query's own view).

    :param one: Projected views, (B, D)
    :param other: Projected other views of the same observations, (B, D)
    :param temperature: Divides the cosines
    :return: Two terms, (B, D): from one to the other, and back
    """
    one, other = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
    return [(one / temperature, other), (other / temperature, one)]
