"""`pearl probe`: the command line of probing."""

import argparse
import re
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pearl_sb3.atari.games import GAMES, resolve_game
from pearl_sb3.atari.labels import ANNOTATIONS
from pearl_sb3.probing import tables
from pearl_sb3.probing.data import STEPS
from pearl_sb3.probing.probe import FEW_SHOT, WITHOUT_EMBEDDINGS, probe
from pearl_sb3.probing.published import published
from pearl_sb3.probing.result import ProbeResult
from pearl_sb3.probing.splits import PROTOCOLS
from pearl_sb3.probing.subjects import READS, TWIN, VIEWS, Agent, make_subject

EPILOG = f"""\
what can be probed:
  NAME               an encoder as in `pearl encoders`; NAME{TWIN} is its random-weights twin, the control
  majority           the most frequent value of each variable
  pixels, pca        the gray screen at 42x42; 512 principal components of it at 84x84
  random-cnn         AtariARI's encoder, untrained; random-cnn:1 has other weights
  st-dim, cpc        the same, trained on other play of the game without labels (long; --updates)
  supervised         the same, trained on the labels of the training episodes: the ceiling
  --agent run.zip    the features of a trained SB3 agent

examples:
  pearl probe --game Pong --encoder pearl-tiny
  pearl probe --game Boxing --encoder pearl-tiny --weights random --json twin.json
  pearl probe --games all --encoders majority,random-cnn --protocol paper --annotations 2019 --out probes/paper
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the command's options to a parser.

    :param parser: The parser
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("--game", "--games", dest="games", default="Pong", help="games, separated by commas, or all (22)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--encoder", "--encoders", dest="encoders", default="pearl-tiny", help="names, separated by commas")
    what.add_argument("--agent", help="zip of a trained agent, to probe its features")
    parser.add_argument("--weights", default="pretrained", help="pretrained, random, or a weight file")
    parser.add_argument("--image-size", type=int, help="side of the encoder's input in pixels")
    parser.add_argument("--read", choices=READS, default="tokens", help="all tokens, or the summary token only")
    parser.add_argument(
        "--view", choices=VIEWS, default="screen", help="the whole screen in RGB, or 84x84 gray as an agent sees it"
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, default="fixed", help="default: %(default)s")
    parser.add_argument(
        "--annotations", choices=ANNOTATIONS, default="current", help="set of variables (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="env steps of play (default: %(default)s)")
    parser.add_argument("--player", help="zip of an agent that plays with 20 %% random actions (default: random play)")
    parser.add_argument("--hidden", type=int, help="units of a hidden layer (default: none, a linear probe)")
    parser.add_argument(
        "--few-shot",
        nargs="?",
        const=",".join(map(str, FEW_SHOT)),
        help="also with so few labelled frames, separated by commas (the bare flag: %(const)s, those that half the steps allow)",
    )
    parser.add_argument("--updates", type=int, help="gradient steps at most of what is trained on the game (default: 5000)")
    parser.add_argument("--seed", type=int, default=42, help="of play, split and probe (default: %(default)s)")
    parser.add_argument(
        "--device", default="cpu", help="where probes and what learns on the game are trained (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, help="folder of frames and embeddings (default: $PEARL_DATA or the user's cache)")
    parser.add_argument("--json", type=Path, help="file for the result of one game and encoder")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for many results, with tables of all in it; what is there is not probed again",
    )
    parser.add_argument(
        "--published",
        default=",".join(tables.PUBLISHED),
        help="published methods beside ours in the table (default: %(default)s)",
    )


def main(args: argparse.Namespace) -> int:
    """
    Run the command.

    :param args: What :func:`add_arguments` asked for
    :return: Exit status
    :raises ValueError: for unknown names, or --json with more than one result
    """
    games = list(GAMES) if args.games == "all" else [resolve_game(game) for game in args.games.split(",")]
    subjects = [f"agent {args.agent}"] if args.agent else args.encoders.split(",")
    others = [name for name in args.published.split(",") if name]
    for name in others:
        published(name)
    if args.json and len(games) * len(subjects) > 1:
        raise ValueError(
            f"--json holds one result, asked for {len(games)} games x {len(subjects)} encoders: use --out FOLDER."
        )
    results = []
    for game in games:
        for subject in subjects:
            path = args.out / _file_name(game, subject, args) if args.out else None
            if path is not None and path.exists():
                results.append(ProbeResult.load(path))
                continue
            result = _probe(game, subject, args)
            result.provenance["command"] = shlex.join(["pearl", *sys.argv[1:]])
            result.provenance["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
            for place in filter(None, (path, args.json)):
                result.save(place)
            results.append(result)
            print(f"{result}\n", flush=True)
    if args.out:
        results = _stored(args)
    if len(results) > 1:
        print(tables.markdown(tables.games_by_methods(results, others)))
    if args.out:
        print(*tables.write(results, args.out, others), sep="\n")
    return 0


def _stored(args: argparse.Namespace) -> list[ProbeResult]:
    """Give all results of the folder that can be laid side by side, those of earlier commands too, oldest first."""
    loaded = [ProbeResult.load(path) for path in sorted(args.out.glob("*.json"))]
    like = [r for r in loaded if (r.protocol, r.provenance["annotations"]) == (args.protocol, args.annotations)]
    return sorted(like, key=lambda result: result.provenance["time"])


def _probe(game: str, subject: str, args: argparse.Namespace) -> ProbeResult:
    options: dict[str, Any] = dict(read=args.read, view=args.view)
    if args.image_size is not None:
        options["image_size"] = args.image_size
    made: Any = subject
    if args.agent:
        made = Agent(args.agent)
    elif subject not in WITHOUT_EMBEDDINGS:
        learns = dict(game=game, folder=args.data, seed=args.seed, updates=args.updates, device=args.device)
        made = make_subject(subject, args.weights, **learns, **options)
    return probe(
        made,
        game,
        args.protocol,
        args.steps,
        annotations=args.annotations,
        hidden=args.hidden,
        few_shot=_few_shot(args),
        seed=args.seed,
        player=args.player,
        updates=args.updates,
        data=args.data,
        device=args.device,
    )


def _few_shot(args: argparse.Namespace) -> list[int]:
    asked = [int(n) for n in args.few_shot.split(",")] if args.few_shot else []
    # What was asked for by number has to be possible; of our own choice, what is.
    return [n for n in asked if n <= args.steps // 2] if asked == list(FEW_SHOT) else asked


def _file_name(game: str, subject: str, args: argparse.Namespace) -> str:
    """Name a result after everything that decides it, so that other settings in the same folder are other files."""
    parts = [game, subject, args.protocol, args.annotations, args.steps, f"seed{args.seed}"]
    defaults = {
        "weights": "pretrained",
        "image_size": None,
        "read": "tokens",
        "view": "screen",
        "hidden": None,
        "player": None,
        "updates": None,
    }
    parts += [f"{key}={getattr(args, key)}" for key, default in defaults.items() if getattr(args, key) != default]
    parts += [f"few={args.few_shot}"] if args.few_shot else []
    return re.sub(r"[^\w.=,-]+", "_", "-".join(map(str, parts))) + ".json"
