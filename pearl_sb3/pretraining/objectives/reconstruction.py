"""Tokens must give the picture back, above all its small and moving parts."""

import torch as th


def rarity(images: th.Tensor) -> th.Tensor:
    """
    Weigh pixels by how far they are from what the same place shows on average in a batch of one game.

    A ball is a handful of pixels in 7,056: without weights it can be left out of the picture at hardly any cost.

    :param images: Images of one game, (n, 1, H, W).
    :return: Weights with mean 1, (n, 1, H, W).
    """
    unusual = (images - images.mean(0)).abs().clamp_max(1)
    weights = 0.05 + unusual / unusual.mean((1, 2, 3), keepdim=True).clamp_min(0.01)
    return weights / weights.mean()


def reconstruction_loss(decoded: th.Tensor, images: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """
    Take the weighted squared error.

    :param decoded: What the decoder made of the tokens, (n, 1, H, W).
    :param images: What they were made from, (n, 1, H, W).
    :param weights: Weight of each pixel, (n, 1, H, W).
    :return: Mean over pixels.
    """
    return (weights * (decoded - images).square()).mean()
