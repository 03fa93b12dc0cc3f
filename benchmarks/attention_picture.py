"""
Draw where priors, encoder and a trained agent's attention look.

One column per moment of a game that the agent plays. Rows: the change since the frame before (``prior="difference"``), the energy
of the encoder's tokens (length of each cell's token after the attention's standardisation), and how much attention each cell
receives from all queries together, relative to the start of training. Each row has one colour scale,
black up to its median.

Example: ``python benchmarks/attention_picture.py --agent pearl/ppo/PongNoFrameskip-v4_1/PongNoFrameskip-v4.zip``
"""

import argparse
from pathlib import Path

import ale_py
import gymnasium as gym
import matplotlib
import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from pearl_sb3 import PearlExtractor
from pearl_sb3.attention.priors import frame_difference
from pearl_sb3.attention.spatiotemporal import SpatioTemporalAttention, standardise

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OUT = Path(__file__).parent / "results" / "attention.png"


def stacks_of(game: str, model: PPO, seed: int, moments: list[int]) -> list[th.Tensor]:
    """
    Play, and keep some observations.

    :param game: Name as in ``PongNoFrameskip-v4``
    :param model: Who plays
    :param seed: Seed of game and play
    :param moments: Env steps whose observations to keep, ascending
    :return: (1, 4, 84, 84) uint8 of each moment
    """
    env = VecFrameStack(make_atari_env(f"{game}NoFrameskip-v4", n_envs=1, seed=seed), 4)
    observation = env.reset()
    kept = []
    for step in range(moments[-1] + 1):
        if step in moments:
            kept.append(th.as_tensor(observation.transpose(0, 3, 1, 2).copy()))
        observation, _, _, _ = env.step(model.predict(observation, deterministic=True)[0])
    env.close()
    return kept


@th.no_grad()
def panels(extractor: PearlExtractor, stack: th.Tensor) -> dict[str, np.ndarray]:
    """
    :param extractor: Of the agent
    :param stack: (1, 4, 84, 84) uint8
    :return: What the cells of the newest frame have, (rows, columns) by title
    """
    frames = extractor.layout.frames(stack)
    grid = extractor.encoder.grid
    tokens = extractor.tokens(frames)
    fresh = SpatioTemporalAttention(extractor.encoder.token_shape, grid, frames.shape[1])
    received = extractor.attention.maps(tokens)[0].sum(0)[1:] / fresh.maps(tokens)[0].sum(0)[1:]
    found = {
        "change between frames": frame_difference(frames, grid)[0, -1, 1:],
        "energy of the encoder's tokens": standardise(tokens.float().clone())[0, -1, 1:].norm(dim=1),
        "learned attention": received,
    }
    return {title: values.view(grid).numpy() for title, values in found.items()}


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=Path, required=True, help="zip of a PPO agent with a PEARL extractor")
    parser.add_argument("--game", default="Pong", help="its game, as in PongNoFrameskip-v4, without the suffix")
    parser.add_argument("--moments", default="75,88,102,116,130", help="env steps to draw, ascending, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    gym.register_envs(ale_py)
    agent = PPO.load(args.agent, device="cpu")
    stacks = stacks_of(args.game, agent, args.seed, [int(moment) for moment in args.moments.split(",")])
    moments = [panels(agent.policy.features_extractor, stack) for stack in stacks]
    titles = list(moments[0])
    figure, axes = plt.subplots(len(titles), len(stacks), figsize=(1.9 * len(stacks), 2.0 * len(titles)), squeeze=False)
    for row, title in zip(axes, titles, strict=True):
        shown = [images[title] for images in moments]
        low, high = np.median(shown), np.max(shown)
        for axis, stack, images in zip(row, stacks, moments, strict=True):
            height, width = stack.shape[-2:]
            axis.imshow(stack[0, -1], cmap="gray")
            axis.imshow(
                images[title], "inferno", alpha=0.6, extent=(0, width, height, 0), interpolation="bicubic", vmin=low, vmax=high
            )
            axis.axis("off")
        row[0].set_title(title, fontsize=10, loc="left")
    figure.tight_layout()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    print(args.out)


if __name__ == "__main__":
    main()
