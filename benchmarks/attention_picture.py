"""
Draw where priors, encoder and a trained agent's attention look.

One row per game: the screen, the change since the frame before (``prior="difference"``), the energy of the encoder's tokens
(length of each cell's token after the attention's standardisation), and, for the game the agent was trained on, how much
attention each cell receives from all queries together, relative to the start of training.

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
STEPS = 130


def stack_of(game: str, model: PPO | None, seed: int) -> th.Tensor:
    """
    Play for a while and give the last observation.

    :param game: Name as in ``PongNoFrameskip-v4``
    :param model: Who plays; None plays at random
    :param seed: Seed of game and play
    :return: (1, 4, 84, 84) uint8
    """
    env = VecFrameStack(make_atari_env(f"{game}NoFrameskip-v4", n_envs=1, seed=seed), 4)
    env.action_space.seed(seed)
    observation = env.reset()
    for _ in range(STEPS):
        action = np.array([env.action_space.sample()]) if model is None else model.predict(observation)[0]
        observation, _, _, _ = env.step(action)
    env.close()
    return th.as_tensor(observation.transpose(0, 3, 1, 2).copy())


@th.no_grad()
def panels(extractor: PearlExtractor, stack: th.Tensor, trained: bool) -> dict[str, np.ndarray]:
    """
    :param extractor: Of the agent, or a fresh one
    :param stack: (1, 4, 84, 84) uint8
    :param trained: Whether its attention was trained on this game
    :return: Images by title
    """
    frames = extractor.layout.frames(stack)
    grid = extractor.encoder.grid
    tokens = extractor.tokens(frames)
    found = {
        "screen": stack[0, -1].numpy(),
        "difference": frame_difference(frames, grid)[0, -1, 1:].view(grid).numpy(),
        "encoder energy": standardise(tokens.float().clone())[0, -1, 1:].norm(dim=1).view(grid).numpy(),
    }
    if trained:
        fresh = SpatioTemporalAttention(extractor.encoder.token_shape, grid, 4)
        received = extractor.attention.maps(tokens)[0].sum(0)[1:] / fresh.maps(tokens)[0].sum(0)[1:]
        found["learned attention"] = received.view(grid).numpy()
    return found


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=Path, required=True, help="zip of a PPO agent with a PEARL extractor")
    parser.add_argument("--trained-on", default="Pong", help="its game")
    parser.add_argument("--games", default="Pong,Breakout,Seaquest", help="games to draw, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    gym.register_envs(ale_py)
    agent = PPO.load(args.agent, device="cpu")
    extractor = agent.policy.features_extractor
    games = args.games.split(",")
    figure, axes = plt.subplots(len(games), 4, figsize=(9, 2.4 * len(games)), squeeze=False)
    for row, game in zip(axes, games, strict=True):
        trained = game == args.trained_on
        images = panels(extractor, stack_of(game, agent if trained else None, args.seed), trained)
        for axis in row:
            axis.axis("off")
        for axis, (title, image) in zip(row, images.items(), strict=False):
            axis.imshow(images["screen"], cmap="gray")
            if title != "screen":
                axis.imshow(image, cmap="inferno", alpha=0.6, extent=(0, 84, 84, 0), interpolation="bicubic")
            axis.set_title(f"{game}: {title}", fontsize=9)
    figure.tight_layout()
    figure.savefig(args.out, dpi=110)
    print(args.out)


if __name__ == "__main__":
    main()
