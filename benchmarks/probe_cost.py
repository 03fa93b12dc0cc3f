"""
What a probe costs from nothing: hours for the 22 games, and memory as play gets longer.

Each measurement is ``pearl probe`` as a user runs it, in a process of its own with an empty folder for frames and embeddings,
and with at most 4 GB of memory per process (``RLIMIT_DATA``): if it needed more it would fail. Memory is the largest sum over
its processes of what only they hold (``RssAnon``, looked at ten times a second); pages of files that it reads can be given up at
any time.

Example: ``python benchmarks/probe_cost.py --games Pong,Qbert,Asteroids --steps 50000``
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rows

from pearl_sb3.atari.games import GAMES, resolve_game

LIMIT = 4 * 10**9
STORE = rows.RESULTS / "probe_cost.jsonl"


def own_memory(pid: int) -> int:
    """
    :param pid: A process
    :return: Bytes that it and its descendants hold for themselves
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    held = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")]
    return sum(held) + sum(own_memory(int(child)) for child in children)


def measure(game: str, encoder: str, steps: int, protocol: str) -> rows.Row:
    """
    Probe one game from nothing.

    :param game: Game's key
    :param encoder: As for ``pearl probe``
    :param steps: Env steps of play
    :param protocol: ``"fixed"`` or ``"paper"``
    :return: Seconds in all and of each part, bytes of the files, peak memory, and the game's F1
    :raises RuntimeError: if the probe failed
    """
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out.json"
        options = dict(game=game, encoder=encoder, steps=steps, protocol=protocol, data=place, json=out)
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        start, peak = time.perf_counter(), 0
        process = subprocess.Popen(
            [sys.executable, "-m", "pearl_sb3.cli", "probe", *arguments],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT)),
        )
        while process.poll() is None:
            peak = max(peak, own_memory(process.pid))
            time.sleep(0.1)
        if process.returncode:
            raise RuntimeError(f"pearl probe {' '.join(arguments)} ended with status {process.returncode}.")
        seconds = time.perf_counter() - start
        found = json.loads(out.read_text())
        files = {kind: sum(p.stat().st_size for p in (Path(place) / kind).rglob("*.*")) for kind in ("frames", "embeddings")}
    return dict(
        game=game,
        encoder=encoder,
        steps=steps,
        protocol=protocol,
        seconds=seconds,
        parts=found["provenance"]["seconds"],
        bytes=files,
        peak_mb=peak / 1e6,
        f1=found["f1"],
    )


def main() -> None:
    """Measure what the command line asks for, and store a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", default="Pong,Qbert,Asteroids", help="separated by commas (default: %(default)s)")
    parser.add_argument("--encoder", default="pearl-tiny", help="default: %(default)s")
    parser.add_argument("--steps", default="50000", help="env steps, separated by commas (default: %(default)s)")
    parser.add_argument("--protocol", default="fixed", help="default: %(default)s")
    parser.add_argument("--store", type=Path, default=STORE, help="file of rows")
    args = parser.parse_args()
    games = [resolve_game(game) for game in args.games.split(",")]
    for steps in map(int, args.steps.split(",")):
        measured = []
        for game in games:
            measured.append(measure(game, args.encoder, steps, args.protocol))
            rows.append(args.store, {**measured[-1], **rows.provenance(42)})
            print(json.dumps(measured[-1]), flush=True)
        hours = len(GAMES) * sum(row["seconds"] for row in measured) / len(measured) / 3600
        print(f"{steps:,} steps: {hours:.1f} hours for {len(GAMES)} games, if all are as these")


if __name__ == "__main__":
    main()
