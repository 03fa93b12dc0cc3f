"""`pearl pretrain`: the command line of pretraining."""

import argparse
import shlex
import sys
from pathlib import Path

from pearl_sb3.pretraining.frames import PRETRAINING_GAMES
from pearl_sb3.pretraining.objectives import OBJECTIVES
from pearl_sb3.pretraining.train import pretrain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the command's options to a parser.

    :param parser: The parser.
    """
    parser.add_argument(
        "--games",
        default=",".join(PRETRAINING_GAMES),
        help="games to play at random, separated by commas, e.g. Alien,Amidar; the 22 AtariARI games are refused. "
        f"Default: {len(PRETRAINING_GAMES)} others",
    )
    parser.add_argument("--objective", choices=list(OBJECTIVES), default="state", help="what to learn (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=20.0, help="length by the clock (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="length in gradient steps instead; same seed, same weights")
    parser.add_argument("--out", type=Path, required=True, help="folder for encoder.safetensors and manifest.json")
    parser.add_argument("--seed", type=int, default=0, help="seed of play, weights and batches (default: %(default)s)")
    parser.add_argument("--frames", type=int, help="frames over all games (default: 2,400 of each)")
    parser.add_argument("--data", type=Path, help="folder where frames are kept between runs (default: OUT/frames)")


def main(args: argparse.Namespace) -> int:
    """
    Run the command.

    :param args: What `add_arguments` asked for.
    :return: Exit status: 0, 1 after an error that was explained, 130 when interrupted.
    """
    command = shlex.join(["pearl", "pretrain", *sys.argv[sys.argv.index("pretrain") + 1 :]]) if "pretrain" in sys.argv else ""
    try:
        path = pretrain(
            args.games.split(","),
            args.objective,
            args.minutes,
            args.out,
            seed=args.seed,
            steps=args.steps,
            n_frames=args.frames,
            data=args.data,
            command=command or shlex.join(["python", "-m", "pearl_sb3.pretraining", *sys.argv[1:]]),
        )
    except (ValueError, FloatingPointError) as error:
        print(f"pearl pretrain: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"pearl pretrain: interrupted; the encoder as it was then is in {args.out}", file=sys.stderr)
        return 130
    print(f'{path}\nload_encoder("{args.out}") reads it.')
    return 0
