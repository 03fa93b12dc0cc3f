"""
Env steps per second, frames encoded per env step, memory and file size of agents with the zoo's Atari settings.

Every measurement is a process of its own; the arms take turns, so that a slow minute of the machine hits all of them. Run it
on an otherwise idle machine: two programs that both use all cores slow each other far more than by half.

Example: ``python benchmarks/throughput.py --algo both --repeats 3``
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import arms
import rows
import tables
import torch as th
from clock import Clock, encoders, watch_agent
from stable_baselines3.common.base_class import BaseAlgorithm

# Env steps before and in the timed part. In PPO a rollout is 8 envs times 128 steps; the first rollout and update warm up.
PPO_ROLLOUTS = 4
DQN_STEPS = 2000
# The obvious arm runs at a fortieth of the others' speed; it gets this many rollouts, or steps, instead.
SLOW = {"obvious": (1, 200)}


def measure(spec: dict[str, Any]) -> rows.Row:
    """
    Train one agent in this process and measure it.

    :param spec: arm, algo, n_epochs, seed, threads, quick, and ``breakdown`` for shares of time instead of the other figures
    :return: the row
    """
    th.set_num_threads(spec["threads"])
    algo = spec["algo"]
    changes, steps = _settings(spec)
    env = arms.atari("Pong", arms.N_ENVS[algo], spec["seed"])
    model = arms.agent(algo, env, arms.THROUGHPUT[spec["arm"]](), spec["seed"], **changes)
    model.learn(steps["warm-up"])
    if not spec["quick"]:
        _fill(model)
    clock = Clock()
    if spec["breakdown"]:
        watch_agent(clock, model)
    before, encoded, start = model.num_timesteps, _encoded(model), time.perf_counter()
    model.learn(steps["timed"], reset_num_timesteps=False)
    seconds, env_steps = time.perf_counter() - start, model.num_timesteps - before
    in_all = _encoded(model)
    frames = {"frames_per_step": (in_all - encoded) / env_steps, "frames_per_step_in_all": in_all / model.num_timesteps}
    row = {**spec, "env_steps": env_steps, "seconds": round(seconds, 3), "env_steps_per_s": round(env_steps / seconds, 2)}
    if spec["breakdown"]:
        shares = {section: round(share, 1) for section, share in clock.shares(seconds).items()}
        return {**row, "breakdown": shares, **rows.provenance(spec["seed"])}
    # NatureCNN has no encoder whose frames could be counted.
    counted = {name: round(value, 4) if encoders(model) else None for name, value in frames.items()}
    return {**row, **counted, **_footprint(model), **rows.provenance(spec["seed"])}


def _settings(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """
    :param spec: as in :func:`measure`
    :return: the algorithm's departures from the zoo, and the env steps of the warm-up and the timed part
    """
    rollouts, dqn_steps = SLOW.get(spec["arm"], (PPO_ROLLOUTS, DQN_STEPS))
    if spec["quick"]:
        rollouts, dqn_steps = 1, 100
    if spec["algo"] == "ppo":
        n_steps = 32 if spec["quick"] else arms.ppo_settings()["n_steps"]
        rollout = n_steps * arms.N_ENVS["ppo"]
        return {"n_steps": n_steps, "n_epochs": spec["n_epochs"]}, {"warm-up": rollout, "timed": rollouts * rollout}
    # Learning starts early, so that it is learning that is timed; the replay keeps its size, and all of it is made resident.
    changes = {"learning_starts": dqn_steps // 2, **({"buffer_size": 1000} if spec["quick"] else {})}
    return changes, {"warm-up": dqn_steps, "timed": dqn_steps}


def _fill(model: BaseAlgorithm) -> None:
    """
    Make resident what a long run makes resident: the whole replay buffer and a full token cache.

    :param model: an agent after its warm-up
    """
    replay = getattr(model, "replay_buffer", None)
    if replay is not None:
        for array in (replay.observations, replay.next_observations):
            array[replay.pos :] = 0
    for cache in [encoder.cache for encoder in encoders(model) if hasattr(encoder, "cache")]:
        # Room is left for the frames of the timed part, so that none of those seen in the warm-up is forgotten.
        new = range(max(0, cache.capacity - len(cache) - 8192))
        for keys in [new[i : i + 1024] for i in range(0, len(new), 1024)]:
            cache.insert(list(keys), th.ones(len(keys), *cache.token_shape))


def _encoded(model: BaseAlgorithm) -> int:
    return sum(encoder.frames_encoded for encoder in encoders(model))


def _footprint(model: BaseAlgorithm) -> rows.Row:
    """
    :param model: an agent after the timed part
    :return: peak memory, saved size, trainable parameters, and what the frozen encoders say of themselves
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "agent.zip")
        model.save(path)
        saved = path.stat().st_size
    # The largest resident set so far: kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "peak_mb": round(peak / 1e6, 1),
        "saved_mb": round(saved / 1e6, 2),
        "trainable_parameters": sum(p.numel() for p in model.policy.parameters() if p.requires_grad),
        "encoders": [repr(encoder) for encoder in encoders(model) if not isinstance(encoder, th.nn.Module)],
    }


def in_process(spec: dict[str, Any]) -> rows.Row:
    """
    Measure in a fresh process, whose peak memory is its own.

    :param spec: as in :func:`measure`
    :return: the row, with this process's command
    :raises SystemExit: if the measurement failed; its error output has been shown
    """
    command = [sys.executable, __file__, "--worker", json.dumps(spec)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{spec['arm']} with {spec['algo']} failed, see above; rows measured before it are stored.")
    return {**json.loads(done.stdout.splitlines()[-1]), "command": rows.command()}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """
    :param argv: command line, None for this process's
    :return: the options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=["ppo", "dqn", "both"], default="both")
    parser.add_argument("--arms", nargs="+", choices=list(arms.THROUGHPUT), default=list(arms.THROUGHPUT))
    parser.add_argument("--breakdown", nargs="*", choices=list(arms.THROUGHPUT), default=["pearl-tiny"], metavar="ARM")
    parser.add_argument("--repeats", type=int, default=3, help="measurements per arm; tables show medians")
    parser.add_argument("--n-epochs", type=int, default=4, help="PPO's passes over a rollout; the zoo has 4")
    parser.add_argument("--threads", type=int, default=th.get_num_threads(), help="PyTorch's threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs; tables leave such rows out")
    parser.add_argument("--out", type=Path, default=rows.RESULTS / "throughput.jsonl", help="file the rows are added to")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    """Measure all arms, store a row as soon as it is there, print the table and the targets."""
    options = parse()
    if options.worker:
        print(json.dumps(measure(json.loads(options.worker))))
        return
    run = datetime.now(timezone.utc).isoformat(timespec="seconds")
    algos = ["ppo", "dqn"] if options.algo == "both" else [options.algo]
    common = {"run": run, "quick": options.quick, "n_epochs": options.n_epochs, "threads": options.threads}
    turns = [(algo, arm, i, False) for i in range(options.repeats) for algo in algos for arm in options.arms]
    turns += [(algo, arm, 0, True) for algo in algos for arm in options.breakdown if arm in options.arms]
    for algo, arm, repeat, breakdown in turns:
        spec = {**common, "algo": algo, "arm": arm, "repeat": repeat, "seed": options.seed + repeat, "breakdown": breakdown}
        row = in_process(spec)
        rows.append(options.out, row)
        figures = row["breakdown"] or {name: row.get(name) for name in ("frames_per_step", "peak_mb", "saved_mb")}
        print(f"{algo} {arm} #{repeat}: {row['env_steps_per_s']} env steps/s {figures}", flush=True)
    measured = [row for row in rows.read(options.out) if row["run"] == run]
    print("\n".join(["", tables.throughput(measured), "", tables.breakdown(measured), "", *tables.targets(measured)]))


if __name__ == "__main__":
    main()
