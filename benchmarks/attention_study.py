"""
How fast do attentions learn to read positions and velocities from the tokens of 4 frames?

A stand-in for reinforcement learning that takes a minute: each reader is trained for a few hundred updates with PPO's optimizer
settings to regress the positions of players and balls, and their changes since the frame before, from stacks of random
play. R² on later plays, mean over the targets, says how fast a policy could get at them; milliseconds per update (batch 256)
say at what price. The designs that lost are kept here, so that the choice can be checked.

Example: ``python benchmarks/attention_study.py --games pong breakout --updates 200``
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import rows
import torch as th
from gymnasium import spaces
from quick_probe import VARIABLES
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn
from torch.nn import functional as F

from pearl_sb3 import load_encoder
from pearl_sb3.attention import ConcatTokens, MeanTokens, SpatioTemporalAttention
from pearl_sb3.attention import spatiotemporal as module
from pearl_sb3.encoders import FrozenEncoder
from pearl_sb3.pretraining.frames import play

RESULTS = rows.RESULTS / "attention_study.jsonl"
TARGETS = {
    "pong": ("ball_x", "ball_y", "player_y", "enemy_y"),
    "breakout": ("ball_x", "ball_y", "player_x"),
}
K = 4
MAX_CHANGE = 12  # pixels a frame; larger ones are new balls


class PerToken(SpatioTemporalAttention):
    """The default, but each token normalised over its channels, as layer norm in a transformer does."""

    def _values_keys_mask(self, tokens: th.Tensor, bias: th.Tensor | None) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        kept, module.standardise = module.standardise, lambda x: F.layer_norm(x, x.shape[-1:])
        try:
            return super()._values_keys_mask(tokens, bias)
        finally:
            module.standardise = kept


class Perceiver(nn.Module):
    """16 latent queries over all k*N tokens at once, with additive space and time embeddings (Jaegle et al., 2021)."""

    def __init__(self, shape: tuple[int, int], grid: tuple[int, int], k: int, features_dim: int, n_queries: int = 16) -> None:
        super().__init__()
        width, self.heads, self.n_queries = 128, 8, n_queries
        self.inputs = nn.Linear(shape[1], width)
        self.space = nn.Parameter(0.7 * th.randn(shape[0], width))
        self.time = nn.Parameter(0.7 * th.randn(k, 1, width))
        self.keys_values = nn.Linear(width, 2 * width)
        self.queries = nn.Parameter(th.randn(n_queries, width))
        self.norm = nn.LayerNorm(n_queries * width)
        self.readout = nn.Linear(n_queries * width, features_dim)

    def forward(self, tokens: th.Tensor) -> th.Tensor:
        """
        :param tokens: (B, k, N, D)
        :return: (B, features_dim)
        """
        places = (self.inputs(module.standardise(tokens.float())) + self.space + self.time).flatten(1, 2)
        keys, values = self.keys_values(places).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries = self.queries.view(1, self.n_queries, self.heads, -1).transpose(1, 2).expand(len(tokens), -1, -1, -1)
        read = F.scaled_dot_product_attention(queries, keys, values)
        return F.relu(self.readout(self.norm(read.transpose(1, 2).flatten(1))))


class Joint(nn.Module):
    """The default's queries and position table, but over all k*N tokens: one head per frame, starting on that frame."""

    def __init__(self, shape: tuple[int, int], grid: tuple[int, int], k: int, features_dim: int) -> None:
        super().__init__()
        self.n_queries, width = shape[0] - 1, 8 * k
        self.keys, self.values = nn.Linear(shape[1], width), nn.Linear(shape[1], width)
        self.space = nn.Parameter(0.1 * th.randn(shape[0], width))
        self.queries = nn.Parameter(th.zeros(k, self.n_queries, width // k))
        position = th.full((k, self.n_queries, k, shape[0]), module.FAR_LOGIT)
        for frame in range(k):
            position[frame, :, frame] = module._own_cell(grid)
        self.position = nn.Parameter(position.flatten(2)[None])
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(self.n_queries * width)
        self.readout = nn.Linear(self.n_queries * width, features_dim)

    def forward(self, tokens: th.Tensor) -> th.Tensor:
        """
        :param tokens: (B, k, N, D)
        :return: (B, features_dim)
        """
        k = tokens.shape[1]
        tokens = module.standardise(tokens.float())
        keys, values = (
            x.flatten(1, 2).unflatten(2, (k, -1)).transpose(1, 2)
            for x in (self.keys(tokens), self.values(tokens) + self.space)
        )
        read = F.scaled_dot_product_attention(
            self.queries.expand(len(tokens), -1, -1, -1), keys, values, attn_mask=self.position
        )
        mixed = F.relu(self.mix(read.transpose(1, 2).flatten(2)))
        return F.relu(self.readout(self.norm(mixed.flatten(1))))


READERS: dict[str, Callable[..., nn.Module]] = {
    "spatiotemporal": SpatioTemporalAttention,
    "token-norm": PerToken,
    "joint": Joint,
    "perceiver": Perceiver,
    "mean": MeanTokens,
    "concat": ConcatTokens,
}


def stacks(game: str, n_frames: int, seed: int) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    Play at random.

    :param game: ROM name, a key of ``TARGETS``
    :param n_frames: How many frames
    :param seed: Seed of the play
    :return: frames (n, 84, 84) uint8; positions in it where a stack ends, in order of play; targets at these, standardised
    """
    record = play(game, n_frames, seed, n_plays=8)
    n_plays, steps = record.frames.shape[:2]
    labels = record.ram[..., [VARIABLES[game][name] for name in TARGETS[game]]].astype(np.float32)
    change = np.diff(labels, axis=1, prepend=labels[:, :1]).clip(-MAX_CHANGE, MAX_CHANGE)
    targets = np.concatenate([labels, change], 2)[:, K - 1 :].reshape(-1, 2 * labels.shape[-1])
    ends = (np.arange(n_plays)[:, None] * steps + np.arange(K - 1, steps)).reshape(-1)
    targets = (targets - targets.mean(0)) / targets.std(0).clip(1e-6)
    return th.from_numpy(record.frames.reshape(-1, 84, 84)), th.from_numpy(ends), th.from_numpy(targets)


def study(reader: nn.Module, inputs: th.Tensor, ends: th.Tensor, targets: th.Tensor, updates: int, seed: int) -> rows.Row:
    """
    Train one reader.

    :param reader: From stacks to (B, 512)
    :param inputs: Frames, or tokens of frames, (n, …)
    :param ends: Where stacks end
    :param targets: (len(ends), t)
    :param updates: Gradient steps
    :param seed: Seed of initial weights and batches
    :return: r2, r2_third (after a third of the updates), ms_per_update and trained parameters
    """
    head = nn.Linear(512, targets.shape[1])
    for layer in [*reader.modules(), head]:
        if isinstance(layer, nn.Linear | nn.Conv2d):  # as SB3's ortho_init does
            nn.init.orthogonal_(layer.weight, 1.0 if layer is head else math.sqrt(2))
            nn.init.zeros_(layer.bias)
    parameters = [*reader.parameters(), *head.parameters()]
    optimizer = th.optim.Adam(parameters, 2.5e-4, eps=1e-5)
    generator = th.Generator().manual_seed(seed)
    split = int(0.75 * len(ends))

    def read(where: th.Tensor) -> th.Tensor:
        window = inputs[where[:, None] + th.arange(1 - K, 1)]
        return head(reader(window.float() / 255 if window.dtype == th.uint8 else window))

    def r2() -> float:
        with th.no_grad():
            guess = th.cat([read(part) for part in ends[split:].split(512)])
        truth = targets[split:]
        return float((1 - (guess - truth).square().mean(0) / (truth - truth.mean(0)).square().mean(0)).mean())

    times, third = [], math.nan
    for update in range(updates):
        batch = th.randint(split, (256,), generator=generator)
        start = time.perf_counter()
        loss = F.mse_loss(read(ends[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        times.append(time.perf_counter() - start)
        if update + 1 == updates // 3:
            third = r2()
    return dict(
        r2=r2(), r2_third=third, ms_per_update=1e3 * float(np.median(times)), parameters=sum(p.numel() for p in parameters)
    )


def token_table(encoder: FrozenEncoder, frames: th.Tensor) -> th.Tensor:
    """
    :param encoder: Any
    :param frames: (n, 84, 84) uint8
    :return: (n, N, D)
    """
    return th.cat([encoder.encode(part[:, None]) for part in frames.split(512)])


def main() -> None:
    """Run the study, print a table, store its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--updates", type=int, default=200, help="gradient steps per reader (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=14_000, help="frames of random play (default: %(default)s)")
    parser.add_argument("--encoder", default="pearl-tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default: %(default)s)")
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    print(f"{'game':10s} {'weights':10s} {'reader':15s} {'R2/3':>7s} {'R2':>7s} {'ms':>7s} {'trained':>10s}")
    for game in args.games:
        frames, ends, targets = stacks(game, args.frames, args.seed)
        subjects: list[tuple[str, str]] = [("-", "nature"), *(("pretrained", name) for name in READERS)]
        subjects += [("random", "spatiotemporal"), ("random", "token-norm")]
        for weights, name in subjects:
            th.manual_seed(args.seed)
            if name == "nature":
                reader, inputs = NatureCNN(spaces.Box(0, 255, (K, 84, 84), np.uint8)), frames
            else:
                encoder = load_encoder(args.encoder, weights=weights, cache_bytes=0)
                inputs = token_table(encoder, frames)
                reader = READERS[name](encoder.token_shape, encoder.grid, K, 512)
            found = study(reader, inputs, ends, targets, args.updates, args.seed)
            row = dict(game=game, weights=weights, reader=name, updates=args.updates, **found, **rows.provenance(args.seed))
            rows.append(RESULTS, row)
            print(
                f"{game:10s} {weights:10s} {name:15s} {found['r2_third']:7.3f} {found['r2']:7.3f} {found['ms_per_update']:7.1f} "
                f"{found['parameters']:10,d}",
                flush=True,
            )


if __name__ == "__main__":
    main()
