"""Learned attention over space and time: the tokens of k frames in, one vector out."""

import math

import torch as th
from torch import nn
from torch.nn import functional as F

# Values that all queries together hand to the read-out: keeps it at 800,000 weights, half of NatureCNN's, and a saved DQN
# (online and target network, two Adam moments) under 15 MB, whatever the grid.
READ_VALUES = 1600
MAX_VALUE_DIM = 64
N_HEADS = 1
# Logit by which a query's own cell is ahead of its neighbours at the start, and of everything far away.
NEIGHBOUR_LOGIT = -4.0
FAR_LOGIT = -7.0


class SpatioTemporalAttention(nn.Module):
    """
    Latent queries read the tokens of k frames, joined over time and attended over space.

    1. Time: the k tokens at one place become one, each frame through a projection of its own, which is what tells the frames
       apart and lets differences between them be features (a time embedding in matrix form). A space embedding is added.
    2. Space: one latent query per cell of the grid attends over all cells and the summary,
       softmax(q·k / sqrt(d) + b + prior), where b is a learned table over (head, query, cell). b starts with each query on its
       own cell, q at zero: the read-out begins as a map of what is where, as a convolutional net's is, and learns to look
       elsewhere where that pays.
    3. What the queries read is projected to the features.

    Attending jointly over all k*N tokens, and queries without the table (Perceiver, Jaegle et al., 2021), are compared with this
    in ``benchmarks/attention_study.py``. The factorisation follows TimeSformer's divided attention (Bertasius et al., 2021).

    :param token_shape: (N, D) of a frame's tokens, the summary first
    :param grid: Rows and columns of the token grid
    :param n_frames: Frames in a stack (k)
    :param features_dim: Size of the features
    """

    def __init__(self, token_shape: tuple[int, int], grid: tuple[int, int], n_frames: int, features_dim: int = 512) -> None:
        super().__init__()
        n_tokens, token_dim = token_shape
        self.n_queries = n_tokens - 1
        width = max(8, min(READ_VALUES // self.n_queries, MAX_VALUE_DIM)) // N_HEADS * N_HEADS
        self.time = nn.Linear(n_frames * token_dim, width)
        self.space = nn.Parameter(0.1 * th.randn(n_tokens, width))
        self.keys = nn.Linear(width, width)
        self.queries = nn.Parameter(th.zeros(N_HEADS, self.n_queries, width // N_HEADS))
        self.position = nn.Parameter(_own_cell(grid).expand(N_HEADS, -1, -1).clone())
        self.prior_scale = nn.Parameter(th.ones(()))
        self.read_norm = nn.LayerNorm(self.n_queries * width)
        self.readout = nn.Linear(self.n_queries * width, features_dim)

    def forward(self, tokens: th.Tensor, bias: th.Tensor | None = None) -> th.Tensor:
        """
        :param tokens: (B, k, N, D)
        :param bias: Prior per token, (B, k, N), or None
        :return: (B, features_dim)
        """
        return self.features(self.read(tokens, bias))

    def read(self, tokens: th.Tensor, bias: th.Tensor | None = None) -> th.Tensor:
        """
        Steps 1 and 2: what each query reads, place by place.

        :param tokens: (B, k, N, D)
        :param bias: Prior per token, (B, k, N), or None
        :return: (B, queries, width)
        """
        values, keys, mask = self._values_keys_mask(tokens, bias)
        queries = self.queries.expand(len(tokens), -1, -1, -1)
        read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)  # (B, heads, queries, width / heads)
        return read.transpose(1, 2).flatten(2)

    def features(self, read: th.Tensor) -> th.Tensor:
        """
        Step 3.

        :param read: What :meth:`read` gives, (B, queries, width)
        :return: (B, features_dim)
        """
        return F.relu(self.readout(self.read_norm(read.flatten(1))))

    def maps(self, tokens: th.Tensor, bias: th.Tensor | None = None) -> th.Tensor:
        """
        :param tokens: (B, k, N, D)
        :param bias: Prior per token, (B, k, N), or None
        :return: (B, queries, N), the weights each query gives to each place, averaged over heads
        """
        _, keys, mask = self._values_keys_mask(tokens, bias)
        logits = self.queries @ keys.transpose(2, 3) / math.sqrt(self.queries.shape[2]) + mask
        return logits.softmax(3).mean(1)

    def _values_keys_mask(self, tokens: th.Tensor, bias: th.Tensor | None) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        # Laid out by place while still in half precision: these tensors are what most of the time goes to.
        joined = standardise(tokens.transpose(1, 2).contiguous().to(th.float32, copy=True)).flatten(2)  # (B, N, k * D)
        places = F.relu(self.time(joined) + self.space)  # (B, N, width)
        values, keys = (x.unflatten(2, (N_HEADS, -1)).transpose(1, 2) for x in (places, self.keys(places)))
        mask = self.position[None]
        if bias is not None:
            # A place is worth a look if anything changed there within the stack.
            mask = mask + self.prior_scale * bias.amax(1)[:, None, None]
        return values, keys, mask


def standardise(tokens: th.Tensor) -> th.Tensor:
    """
    Give each channel mean 0 and deviation 1 over the frames and places of one observation.

    What all places share, the background, goes; what differs between them stays and is brought to one scale. Nothing is
    learned or remembered, so that PPO's update and the rollout before it see the same. Normalising each token over its
    channels instead leaves the background in (``token-norm`` in ``benchmarks/attention_study.py``).

    :param tokens: (B, k, N, D) or (B, N, k, D); overwritten unless gradients flow through it
    :return: The same shape
    """
    shape, flat = tokens.shape, tokens.flatten(1, 2)
    mean = flat.mean(1, keepdim=True)
    centred = flat - mean if tokens.requires_grad else flat.sub_(mean)
    # Two means, because the CPU kernel of `th.var_mean` is slow on a middle dimension.
    variance = centred.square().mean(1, keepdim=True)
    # Channels that are nearly constant are not blown up; relative, because encoders differ in scale by a factor of a thousand.
    scale = th.rsqrt(variance + 1e-3 * variance.mean(2, keepdim=True) + 1e-12)
    return (centred * scale if tokens.requires_grad else centred.mul_(scale)).view(shape)


def _own_cell(grid: tuple[int, int]) -> th.Tensor:
    """Logits (queries, N) that put each query on its own cell, the summary and far cells last."""
    rows, columns = th.meshgrid(th.arange(grid[0]), th.arange(grid[1]), indexing="ij")
    places = th.stack([rows.flatten(), columns.flatten()], dim=1).float()
    cells = (NEIGHBOUR_LOGIT * th.cdist(places, places).square()).clamp(min=FAR_LOGIT)
    return F.pad(cells, (1, 0), value=FAR_LOGIT)
