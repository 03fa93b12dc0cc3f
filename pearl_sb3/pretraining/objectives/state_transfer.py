"""A linear probe fitted on some plays of a game must read its hidden state in others."""

import torch as th


def ridge_transfer_loss(
    support: th.Tensor, support_targets: th.Tensor, query: th.Tensor, query_targets: th.Tensor, log_strength: th.Tensor
) -> th.Tensor:
    """
    Fit a ridge regression on the support in closed form, and take its error on the query.

    With S and Q the features, centred and scaled as the support asks, Y the targets and d the features' number, the prediction is
    Q Sᵀ (S Sᵀ / d + λ I)⁻¹ Y / d. It is differentiable in the features, so that no head has to be learned for a game
    (Bertinetto et al., 2019), and what is learned is to be readable from few labels, which is how the encoder will be used.

    :param support: Features of n frames, (n, d).
    :param support_targets: Their targets, standardised, (n, t).
    :param query: Features of m frames of other plays, (m, d).
    :param query_targets: Their targets, (m, t).
    :param log_strength: Logarithm of λ.
    :return: Mean squared error; a single error counts 16 at most.
    """
    mean = support.mean(0)
    centred, asked = support - mean, query - mean
    # The small number keeps the root's slope finite where all frames of the support are the same.
    scale = ((centred.square().mean() + 1e-6) * support.shape[1]).rsqrt()
    centred, asked = centred * scale, asked * scale
    offset = support_targets.mean(0)
    gram = centred @ centred.T + log_strength.exp() * th.eye(len(centred))
    weights = th.cholesky_solve(support_targets - offset, th.linalg.cholesky(gram))
    guess = asked @ centred.T @ weights + offset
    return (guess - query_targets).square().clamp_max(16).mean()
