"""The store of measured rows: one JSON object per line, each with what is needed to measure it again."""

import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("pearl_sb3", "torch", "timm", "stable_baselines3", "sb3_contrib", "ale-py", "gymnasium", "numpy")


def command() -> str:
    """
    The command line of this process as a reader of the repository would type it, from its root.

    :return: ``python benchmarks/….py --flag …``, without the path of this checkout
    """
    script = Path(sys.argv[0]).resolve()
    name = str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name
    return shlex.join(["python", name, *sys.argv[1:]])


@cache
def commit() -> Row:
    """
    The commit that is checked out; asked once, as the code of a running process does not change with the checkout.

    :return: ``{"commit": sha or None outside git, "dirty": whether files other than results differ from it}``
    """

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Results are left out, as every row would otherwise make the next one dirty.
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return {"commit": git("rev-parse", "--verify", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": True}


@cache
def versions() -> dict[str, str]:
    """
    :return: version of each package that the figures depend on, and of Python
    """
    installed = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    normal = {name.lower().replace("-", "_"): version for name, version in installed.items()}
    found = {name: normal[name.replace("-", "_")] for name in PACKAGES if name.replace("-", "_") in normal}
    return {"python": platform.python_version(), **found}


def machine() -> Row:
    """
    The kind of machine, as far as it decides the figures.

    :return: CPU model, cores this process may use, PyTorch's threads and the accelerator's name (None without one)
    """
    # Imported here: a driver that only starts other processes and stores their rows stays small.
    import torch as th

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    accelerator = th.cuda.get_device_name() if th.cuda.is_available() else None
    return {"cpu": cpu_model(), "cores": cores, "torch_threads": th.get_num_threads(), "accelerator": accelerator}


def cpu_model() -> str:
    """
    :return: the processor's model as the system calls it, with the instruction sets that decide how fast bfloat16 is
    """
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    fields = [[part.strip() for part in line.split(":", 1)] for line in info.read_text().splitlines() if ":" in line]
    facts = dict(reversed(fields))  # the first of several processors
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return " ".join([facts.get("model name", platform.machine()), *flags])


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
