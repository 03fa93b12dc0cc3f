"""
Learning curves: PPO with the zoo's Atari settings, same seeds and steps for every method, over steps and over seconds.

Each run is a process of its own, appends a row to ``benchmarks/results/learning/<label>-<game>-<seed>.jsonl`` about every
10,000 env steps, and goes on from its last checkpoint after a kill. A finished run is not run again.

Examples:
    ``python benchmarks/learning.py --methods nature pearl-tiny pearl-tiny-random --steps 1000000 --seeds 0 1``
    ``python benchmarks/learning.py --methods pearl-tiny --label difference --policy-kwargs '{"prior": "difference"}'``
    ``python benchmarks/learning.py plot``
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import arms
import curves
import numpy as np
import rows
import tables
import torch as th
from clock import encoders
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

METHODS = ("nature", "pearl-tiny", "pearl-tiny-random")
# Training seconds and frames encoded.
Totals = tuple[float, int]

RUNS = rows.ROOT / "runs" / "learning"


class Curve(BaseCallback):
    """
    Store a point of the curve and a checkpoint after the first rollout past every ``every`` env steps.

    :param path: file of the run's rows
    :param checkpoint: file of the run's checkpoint, ending in ``.zip``
    :param facts: what each row of the run carries: label, game, seed, settings, command
    :param every: env steps between points
    :param before: training seconds and frames encoded before this process, if the run was interrupted
    """

    def __init__(self, path: Path, checkpoint: Path, facts: rows.Row, every: int, before: Totals) -> None:
        super().__init__()
        self.path = path
        self.checkpoint = checkpoint
        self.facts = facts
        self.every = every
        self.before = before

    def _on_training_start(self) -> None:
        self._start = time.perf_counter()
        self._last = self.num_timesteps // self.every

    def _on_rollout_start(self) -> None:
        # Here, not at the end of a rollout: the update that follows a rollout belongs to the checkpoint.
        if self.num_timesteps // self.every > self._last:
            self._last = self.num_timesteps // self.every
            self.store(finished=False)

    def _on_step(self) -> bool:
        return True

    def store(self, finished: bool, evaluate: Callable[[], list[float]] | None = None) -> None:
        """
        Append the row, then replace the checkpoint; a kill between the two costs the row, see :func:`resume`.

        :param finished: whether this is the run's last row
        :param evaluate: gives further returns for the row; its time is not the training's
        """
        seconds, frames = self.before
        seconds += time.perf_counter() - self._start
        frames += sum(encoder.frames_encoded for encoder in encoders(self.model))
        episodes = [episode["r"] for episode in self.model.ep_info_buffer or []]
        row = {
            # The facts after it: they name the command that a reader would type, not the one that started this process.
            **rows.provenance(self.facts["seed"]),
            **self.facts,
            "env_steps": self.num_timesteps,
            "seconds": round(seconds, 2),
            "mean_return": round(mean(episodes), 3) if episodes else None,
            "frames_encoded": frames,
            "finished": finished,
            **({"eval_returns": evaluate()} if evaluate else {}),
        }
        rows.append(self.path, row)
        save(self.model, self.checkpoint, (seconds, frames))
        print(f"{self.path.stem}: {row['env_steps']:,} steps, {seconds:,.0f} s, mean return {row['mean_return']}", flush=True)


def save(model: BaseAlgorithm, checkpoint: Path, totals: Totals) -> None:
    """
    Save the agent, the random generators' states and the totals so far as one file that replaces the last one.

    :param model: the agent; SB3 saves every attribute of it, so what belongs to the run is kept there
    :param checkpoint: the file
    :param totals: training seconds and frames encoded so far
    """
    model.run_state = {  # type: ignore[attr-defined]
        "totals": totals,
        "torch": th.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoint.with_name(f"{checkpoint.stem}.new.zip")
    model.save(temporary)
    os.replace(temporary, checkpoint)


def resume(path: Path, checkpoint: Path, env: VecEnv, seed: int) -> tuple[BaseAlgorithm, Totals]:
    """
    Load a run's checkpoint. Games cannot be saved, so new episodes begin, with a seed that no part of the run had before.

    :param path: file of the run's rows; rows after the checkpoint are dropped, as those steps are taken again
    :param checkpoint: the file that :func:`save` made
    :param env: environments like those of the run
    :param seed: the run's seed
    :return: the agent, and the training seconds and frames encoded so far
    """
    model: BaseAlgorithm = PPO.load(checkpoint, env=env)
    state = model.run_state  # type: ignore[attr-defined]
    rows.keep(path, [row for row in rows.read(path) if row["env_steps"] <= model.num_timesteps])
    env.seed(seed + model.num_timesteps)
    th.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    return model, state["totals"]


def run(spec: dict[str, Any], folder: Path = rows.RESULTS / "learning", runs: Path = RUNS) -> bool:
    """
    Do one run, or the rest of it, in this process.

    :param spec: label, method, game, seed, steps, threads, every, eval, command, and the changes policy_kwargs and algo_kwargs
    :param folder: folder of the rows
    :param runs: folder of the checkpoints
    :return: False if the run was finished before
    :raises ValueError: if rows with this label were made with other settings
    """
    name = f"{spec['label']}-{spec['game']}-{spec['seed']}"
    path, checkpoint = folder / f"{name}.jsonl", runs / f"{name}.zip"
    settings = ("label", "method", "game", "steps", "policy_kwargs", "algo_kwargs")
    facts = {key: spec[key] for key in (*settings, "seed", "command")}
    done = rows.read(path)
    for key in settings:
        if done and done[-1][key] != spec[key]:
            raise ValueError(f"{path.name} was made with {key}={done[-1][key]!r}, now {spec[key]!r}: choose another --label.")
    if done and done[-1]["finished"]:
        return False
    th.set_num_threads(spec["threads"])
    env = arms.atari(spec["game"], arms.N_ENVS["ppo"], spec["seed"])
    if checkpoint.exists():
        model, before = resume(path, checkpoint, env, spec["seed"])
    else:
        rows.keep(path, [])
        model = arms.agent("ppo", env, policy_kwargs(spec), spec["seed"], **spec["algo_kwargs"])
        before = (0.0, 0)
    curve = Curve(path, checkpoint, facts, spec["every"], before)
    model.learn(spec["steps"] - model.num_timesteps, callback=curve, reset_num_timesteps=False)
    curve.store(finished=True, evaluate=(lambda: final_returns(model, spec["game"])) if spec["eval"] == "final" else None)
    return True


def final_returns(model: BaseAlgorithm, game: str) -> list[float]:
    """
    :param model: a trained agent
    :param game: the game's name
    :return: returns of ten episodes, each action the most probable one, on games seeded unlike those of training
    """
    returns, _ = evaluate_policy(model, arms.atari(game, 8, 10_000), 10, return_episode_rewards=True)
    return returns  # type: ignore[return-value]


def policy_kwargs(spec: dict[str, Any]) -> dict[str, Any]:
    """
    :param spec: as in :func:`run`
    :return: the method's policy kwargs, with the run's changes
    """
    if spec["method"] == "nature":
        return {**arms.nature(), **spec["policy_kwargs"]}
    weights = "random" if spec["method"].endswith("-random") else "pretrained"
    arguments = {"encoder": "pearl-tiny", "weights": weights, **spec["policy_kwargs"]}
    return arms.pearl(**arguments)()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """
    :param argv: command line, None for this process's
    :return: the options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=["train", "plot"], default="train")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--game", default="Pong", help="as in PongNoFrameskip-v4, without the suffix")
    parser.add_argument("--steps", type=int, default=1_000_000, help="env steps of each run")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--eval", choices=["none", "final"], default="none", help="final: 10 deterministic episodes at the end"
    )
    parser.add_argument("--threads", type=int, default=th.get_num_threads(), help="PyTorch's threads per run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--every", type=int, default=10_000, help="env steps between points of the curve")
    parser.add_argument("--label", help="name of the curve (default: the method's), needed where settings are changed")
    parser.add_argument("--policy-kwargs", type=json.loads, default={}, help="JSON: changes to pearl_policy_kwargs' arguments")
    parser.add_argument("--algo-kwargs", type=json.loads, default={}, help="JSON: changes to PPO's arguments")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder that holds learning/ and the plot")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the checkpoints")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.label and len(options.methods) > 1:
        parser.error("--label names one curve: give one of --methods with it.")
    if (options.policy_kwargs or options.algo_kwargs) and not options.label:
        parser.error("--policy-kwargs and --algo-kwargs change the method: give the curve its own name with --label.")
    return options


def in_process(spec: dict[str, Any], options: argparse.Namespace) -> int:
    """
    :param spec: as in :func:`run`
    :param options: this process's options
    :return: exit status of the process that did the run
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(spec["threads"])}
    places = ["--results", str(options.results), "--runs", str(options.runs)]
    return subprocess.run([sys.executable, __file__, *places, "--worker", json.dumps(spec)], env=environment).returncode


def main() -> None:
    """Do the runs that are not finished, or draw those that there are."""
    options = parse()
    if options.worker:
        spec = json.loads(options.worker)
        if not run(spec, options.results / "learning", options.runs):
            print(f"{spec['label']}-{spec['game']}-{spec['seed']}: finished before")
        return
    if options.action == "plot":
        curves.draw(curves.load(options.results), options.results / "learning.png")
        print(tables.learning(curves.load(options.results)))
        return
    shared = ("game", "steps", "threads", "every", "eval", "policy_kwargs", "algo_kwargs")
    common = {**{name: getattr(options, name) for name in shared}, "command": rows.command()}
    specs = [
        {**common, "method": method, "label": options.label or method, "seed": seed}
        for seed in options.seeds
        for method in options.methods
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = sum(status != 0 for status in pool.map(lambda spec: in_process(spec, options), specs))
    if failed:
        raise SystemExit(f"{failed} of {len(specs)} runs failed, see above. The same command goes on with them.")


if __name__ == "__main__":
    main()
