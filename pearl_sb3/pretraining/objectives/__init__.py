"""Pretraining objectives: each a module that owns its head and gives a loss for the tokens of a batch of one game."""

import torch as th
from torch import nn

from pearl_sb3.pretraining.batches import Batch
from pearl_sb3.pretraining.objectives.reconstruction import rarity, reconstruction_loss
from pearl_sb3.pretraining.objectives.state_transfer import ridge_transfer_loss


class StateTransfer(nn.Module):
    """
    A linear probe of the tokens, fitted on some plays, must read the console's memory in others.

    :param channels: Channels of a token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_strength = nn.Parameter(th.tensor(-2.3))

    def forward(self, tokens: th.Tensor, batch: Batch) -> th.Tensor:
        """
        :param tokens: Map of tokens, (2n, channels, rows, columns).
        :param batch: The images they were made from, and the targets.
        :return: Loss.
        """
        features, n = tokens.flatten(1), batch.half
        return ridge_transfer_loss(features[:n], batch.columns[:n], features[n:], batch.columns[n:], self.log_strength)


class Reconstruction(nn.Module):
    """
    A small decoder must give the picture back from the tokens, unusual pixels above all.

    :param channels: Channels of a token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            # Each of 7x7 cells paints the 36 pixels it saw, 8 pixels from the next: 84 in all.
            nn.ConvTranspose2d(64, 1, kernel_size=36, stride=8),
        )

    def forward(self, tokens: th.Tensor, batch: Batch) -> th.Tensor:
        """
        :param tokens: Map of tokens, (2n, channels, 7, 7).
        :param batch: The images they were made from.
        :return: Loss.
        """
        return reconstruction_loss(self.decoder(tokens), batch.images, rarity(batch.images))


class StateAndReconstruction(nn.Module):
    """
    Both, the picture as a reminder of what memory bytes under random play do not ask for.

    :param channels: Channels of a token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.state, self.picture = StateTransfer(channels), Reconstruction(channels)

    def forward(self, tokens: th.Tensor, batch: Batch) -> th.Tensor:
        """
        :param tokens: Map of tokens, (2n, channels, 7, 7).
        :param batch: The images they were made from, and the targets.
        :return: Loss.
        """
        return self.state(tokens, batch) + self.picture(tokens, batch)


OBJECTIVES: dict[str, type[nn.Module]] = {
    "state": StateTransfer,
    "reconstruction": Reconstruction,
    "state-reconstruction": StateAndReconstruction,
}
