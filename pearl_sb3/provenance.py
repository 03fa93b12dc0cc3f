"""What a figure depends on besides its settings: the code, the packages and the machine that made it."""

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pearl_sb3", "torch", "timm", "stable_baselines3", "sb3_contrib", "ale-py", "gymnasium", "numpy")


@cache
def commit() -> dict[str, Any]:
    """
    The commit that is checked out; asked once, as the code of a running process does not change with the checkout.

    :return: ``{"commit": sha or None outside this project's checkout, "dirty": whether files other than results differ from it}``
    """

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed package may lie within somebody else's repository.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return {"commit": None, "dirty": True}
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


def machine() -> dict[str, Any]:
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
