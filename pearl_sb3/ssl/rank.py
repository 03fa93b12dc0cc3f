"""How many directions features use: shows collapse."""

import torch as th


@th.no_grad()
def effective_rank(features: th.Tensor) -> float:
    """
    Take the exponential of the entropy of the singular values of centred features, scaled to sum to one (Roy and Vetterli 2007).

    :param features: (B, D)
    :return: From 1 (all on a line) to min(B - 1, D); 0 if all features are the same
    """
    values = th.linalg.svdvals(features.float() - features.float().mean(0))
    total = values.sum()
    # Rounding leaves equal features a spread of this order.
    if total <= 1e-6 * features.float().norm():
        return 0.0
    shares = values / total
    return float(th.special.entr(shares).sum().exp())
