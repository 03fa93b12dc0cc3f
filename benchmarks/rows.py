"""The store of measured rows: one JSON object per line, each with what is needed to measure it again."""

import fcntl
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pearl_sb3.provenance import commit, machine, versions

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def command() -> str:
    """
    The command line of this process as a reader of the repository would type it, from its root.

    :return: ``python benchmarks/….py --flag …``, without the path of this checkout
    """
    script = Path(sys.argv[0]).resolve()
    name = str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name
    return shlex.join(["python", name, *sys.argv[1:]])


def provenance(seed: int | None) -> Row:
    """
    What every row carries beside its figures.

    :param seed: seed of the run, None if nothing random was in it
    :return: command, commit, versions, machine, seed and time (UTC, ISO 8601)
    """
    return {
        "command": command(),
        **commit(),
        "versions": versions(),
        "machine": machine(),
        "seed": seed,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def read(path: Path) -> list[Row]:
    """
    :param path: a file of rows; it need not exist
    :return: its rows, oldest first
    """
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def append(path: Path, *rows: Row) -> None:
    """
    Add rows so that a reader, or a kill, at any moment finds either all of them or none.

    :param path: a file of rows; it and its folder are made if missing
    :param rows: the rows to add
    """
    with _locked(path.parent):
        _replace(path, [*read(path), *rows])


def keep(path: Path, rows: list[Row]) -> None:
    """
    Replace all rows of a file at once.

    :param path: a file of rows
    :param rows: what it shall hold
    """
    with _locked(path.parent):
        _replace(path, rows)


def _replace(path: Path, rows: list[Row]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The folder itself is locked, so that no lock file is left among the results.
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
