import argparse
import os
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import rl_zoo3
import torch as th
import yaml
from optuna.trial import FixedTrial
from rl_zoo3.exp_manager import ExperimentManager
from sb3_contrib import QRDQN, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecFrameStack
from torch import nn

from pearl_sb3 import cli, zoo, zoo_hook
from pearl_sb3.extractor import PearlExtractor, pearl_policy_kwargs
from pearl_sb3.optimizers import PearlAdam, PearlRMSprop

ALGOS = ["a2c", "dqn", "ppo", "ppo_lstm", "qrdqn"]
HYPERPARAMS = files("pearl_sb3.hyperparams")
ZOO_HYPERPARAMS = Path(rl_zoo3.__file__).parent / "hyperparams"


def command_line(text):
    """:return: ``sys.argv`` and ``sys.orig_argv`` as Python makes them for ``text`` while it looks for the module or script"""
    orig_argv = shlex.split(text)
    if orig_argv[0] != "python":
        return orig_argv, ["python", *orig_argv]
    for position, word in enumerate(orig_argv):
        if word == "-m":
            return ["-m", *orig_argv[position + 2 :]], orig_argv
        if word.startswith("-m"):
            return ["-m", *orig_argv[position + 1 :]], orig_argv
        if word == "-c":
            return ["-c", *orig_argv[position + 2 :]], orig_argv
    return orig_argv[1:], orig_argv


# --- which command lines get PEARL's hyperparameters -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, algo",
    [
        # the program
        ("rl_zoo3 train --algo ppo --env PongNoFrameskip-v4 -f pearl", "ppo"),
        ("/usr/bin/rl_zoo3 train --algo ppo --env PongNoFrameskip-v4 -f pearl", "ppo"),
        (r"'C:/Scripts/rl_zoo3.exe' train -f pearl", "ppo"),
        ("rl_zoo3-script.py train -f pearl", "ppo"),
        ("python -m rl_zoo3.train --algo dqn -f pearl", "dqn"),
        ("python -mrl_zoo3.train --algo dqn -f pearl", "dqn"),
        ("python -O -W ignore -X dev -m rl_zoo3.train -f pearl", "ppo"),
        ("python -m rl_zoo3.cli train --algo a2c -f pearl", "a2c"),
        ("python /site-packages/rl_zoo3/train.py -f pearl", "ppo"),
        # the log folder
        ("rl_zoo3 train -f pearl/", "ppo"),
        ("rl_zoo3 train -f runs/monday/pearl", "ppo"),
        ("rl_zoo3 train -f /tmp/pearl/", "ppo"),
        ("rl_zoo3 train -f ./pearl/.", "ppo"),
        ("rl_zoo3 train -fpearl", "ppo"),
        ("rl_zoo3 train -f=pearl", "ppo"),
        ("rl_zoo3 train --log-folder pearl", "ppo"),
        ("rl_zoo3 train --log-folder=pearl", "ppo"),
        ("rl_zoo3 train --log-f pearl", "ppo"),
        ("rl_zoo3 train --log-fo=runs/pearl", "ppo"),
        ("rl_zoo3 train -f logs -f pearl", "ppo"),
        # the algorithm
        ("rl_zoo3 train -f pearl --algo=qrdqn", "qrdqn"),
        ("rl_zoo3 train -f pearl --al ppo_lstm", "ppo_lstm"),
        # everything else on the line
        ("rl_zoo3 train -optimize --n-trials 2 --eval-freq -1 -n 100 -f pearl -P -uuid", "ppo"),
        ('rl_zoo3 train -params n_envs:2 "policy_kwargs:dict(net_arch=[64])" -f pearl -tags a b', "ppo"),
        ("rl_zoo3 train -f pearl -i logs/ppo/Pong_1/best_model.zip -tb board --vec-env subproc", "ppo"),
    ],
)
def test_pearl_is_chosen(text, algo):
    assert zoo_hook.config_for(*command_line(text), {}) == str(HYPERPARAMS / f"{algo}.yml")


@pytest.mark.parametrize(
    "text",
    [
        # another program
        "python",
        "python script.py train -f pearl",
        "python train.py -f pearl",
        "python -c pass train -f pearl",
        "python -m train -f pearl",
        "python -m rl_zoo3.enjoy -f pearl",
        "python -m rl_zoo3.cli enjoy -f pearl",
        "python -m rl_zoo3_train.train -f pearl",
        "python -m pytest rl_zoo3 train -f pearl",
        "pearl train -f pearl",
        "rl_zoo3",
        "rl_zoo3 enjoy --algo ppo --env PongNoFrameskip-v4 -f pearl",
        "rl_zoo3 plot_train -a ppo -e Pong -f pearl",
        # another folder
        "rl_zoo3 train --algo ppo --env PongNoFrameskip-v4",
        "rl_zoo3 train -f logs",
        "rl_zoo3 train -f pearl/logs",
        "rl_zoo3 train -f pearls",
        "rl_zoo3 train -f my-pearl",
        "rl_zoo3 train -f Pearl",
        "rl_zoo3 train -f pearl -f logs",
        "rl_zoo3 train -i pearl -tb pearl -tags pearl",
        "rl_zoo3 train --optimization-log-path pearl",
        "rl_zoo3 train --log-interval 5",
        # the user's own hyperparameters
        "rl_zoo3 train -f pearl -conf my.yml",
        "rl_zoo3 train -f pearl -conf=my.yml",
        "rl_zoo3 train -f pearl --conf-file my.py",
        "rl_zoo3 train --conf-file=my.module -f pearl",
        "rl_zoo3 train -f pearl --conf my.yml",
        "rl_zoo3 train -f pearl -c my.yml",
        # refused by argparse: its message, not ours
        "rl_zoo3 train -f",
        "rl_zoo3 train -f pearl --algo",
    ],
)
def test_left_alone(text):
    assert zoo_hook.config_for(*command_line(text), {}) is None


def test_no_arguments_at_all():
    assert zoo_hook.config_for([], [], {}) is None


def test_a_checkout_of_the_zoo(tmp_path):
    """Its README says ``python train.py``, where the package lies beside the script."""
    (tmp_path / "rl_zoo3").mkdir()
    (tmp_path / "rl_zoo3" / "exp_manager.py").touch()
    argv = [str(tmp_path / "train.py"), "-f", "pearl"]
    assert zoo_hook.config_for(argv, ["python", *argv], {}) == str(HYPERPARAMS / "ppo.yml")


def test_a_worker_of_subprocvecenv_is_left_alone():
    """It inherits its parent's ``sys.argv``, which names the file already, and imports torch for itself."""
    argv, _ = command_line("rl_zoo3 train -f pearl")
    spawned = ["python", "-c", "from multiprocessing.spawn import spawn_main", "--multiprocessing-fork"]
    path = zoo_hook.config_for(argv, spawned, {})
    assert zoo_hook.config_for([*argv, "--conf-file", path], spawned, {}) is None
    assert zoo_hook.config_for(["-c"], ["python", "-c", "from multiprocessing.forkserver import main"], {}) is None


@pytest.mark.parametrize(
    "value, chosen", [("0", False), ("off", False), ("OFF", False), ("1", True), ("on", True), ("", True)]
)
def test_switch(value, chosen):
    argv = command_line("rl_zoo3 train -f pearl")
    assert (zoo_hook.config_for(*argv, {"PEARL_ZOO": value}) is not None) == chosen


def test_unknown_algorithm_names_ours(monkeypatch):
    argv, orig_argv = command_line("rl_zoo3 train --algo sac -f pearl")
    with pytest.raises(zoo_hook.NoPearlConfig, match="--algo sac, only for a2c, dqn, ppo, ppo_lstm, qrdqn"):
        zoo_hook.config_for(argv, orig_argv, {})
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    with pytest.raises(SystemExit, match=r"-conf FILE.*PEARL_ZOO=off"):
        zoo_hook.choose_config()
    assert sys.argv == argv


def test_one_line_is_printed(monkeypatch, capsys):
    argv, orig_argv = command_line("rl_zoo3 train -f pearl")
    monkeypatch.setattr(sys, "argv", list(argv))
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    zoo_hook.choose_config()
    path = str(HYPERPARAMS / "ppo.yml")
    assert sys.argv == [*argv, "--conf-file", path]
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and not err
    assert path in out and "log folder is called 'pearl'" in out and "-conf FILE" in out and "PEARL_ZOO=off" in out


def test_importing_torch_imports_nothing_of_ours_but_the_hook():
    code = "import sys, torch; print(*sorted(m for m in sys.modules if m.startswith(('pearl_sb3', 'timm', 'rl_zoo3'))))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["pearl_sb3", "pearl_sb3.zoo_hook"]


def test_our_reading_agrees_with_rl_zoo3s_parser(monkeypatch):
    """Every option of rl_zoo3's train is read as rl_zoo3 reads it: ours must not be swallowed by, or swallow, another."""
    from rl_zoo3 import train

    parsers = []

    class Stop(Exception):
        pass

    def parse_args(parser):
        parsers.append(parser)
        raise Stop

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(Stop):
        train.train()
    monkeypatch.undo()
    (parser,) = parsers

    spellings = {spelling for action in parser._actions for spelling in action.option_strings} - {"-h", "--help"}
    assert {"-f", "--log-folder", "--algo", "-conf", "--conf-file"} <= spellings
    for spelling in sorted(spellings):
        action = parser._option_string_actions[spelling]
        value = [] if action.nargs == 0 else ["a:1"] if "StoreDict" in repr(type(action)) else ["3"]
        if action.choices:
            value = [next(iter(action.choices))]
        arguments = ["-f", "pearl", "--algo", "dqn", spelling, *value]
        theirs = vars(parser.parse_args(arguments))
        assert zoo_hook.read_options(arguments) == {key: theirs[key] for key in ("log_folder", "algo", "conf_file")}, spelling


# --- the hyperparameter files ----------------------------------------------------------------------------------------------


def test_the_files_are_those_five():
    assert sorted(entry.name for entry in HYPERPARAMS.iterdir() if entry.name.endswith(".yml")) == [f"{a}.yml" for a in ALGOS]


@pytest.mark.parametrize("algo", ALGOS)
def test_every_departure_from_the_zoo_is_explained(algo):
    text = (HYPERPARAMS / f"{algo}.yml").read_text()
    ours = yaml.safe_load(text)
    theirs = yaml.safe_load((ZOO_HYPERPARAMS / f"{algo}.yml").read_text())["atari"]
    assert list(ours) == ["atari"]
    ours = ours["atari"]
    departures = [key for key in ours if key not in theirs or ours[key] != theirs[key]]
    assert "policy" in departures and ours["policy"].startswith("pearl_sb3.zoo.")
    lines = text.splitlines()
    for key in departures:
        (number,) = [n for n, line in enumerate(lines) if re.match(rf"  {key}:", line)]
        assert "#" in lines[number] or lines[number - 1].lstrip().startswith("#"), f"{key} differs without a comment"
    for key in set(theirs) - set(ours):
        assert re.search(rf"#.*\b{key}\b", text), f"{key} was dropped without a comment"


# --- the policies ----------------------------------------------------------------------------------------------------------


POLICIES = {
    "a2c": (A2C, zoo.PearlCnnPolicy, dict(n_steps=4)),
    "ppo": (PPO, zoo.PearlCnnPolicy, dict(n_steps=8, batch_size=8, n_epochs=1)),
    "dqn": (DQN, zoo.PearlDQNPolicy, dict(learning_starts=4, buffer_size=50, batch_size=4)),
    "qrdqn": (QRDQN, zoo.PearlQRDQNPolicy, dict(learning_starts=4, buffer_size=50, batch_size=4)),
    "ppo_lstm": (RecurrentPPO, zoo.PearlCnnLstmPolicy, dict(n_steps=8, batch_size=8, n_epochs=1)),
}


@pytest.fixture(scope="module")
def env():
    gym.register_envs(ale_py)
    env = VecFrameStack(make_vec_env("PongNoFrameskip-v4", wrapper_class=AtariWrapper, seed=0), 4)
    yield env
    env.close()


def extractors(model):
    return [module for module in model.policy.modules() if isinstance(module, BaseFeaturesExtractor)]


@pytest.mark.parametrize("algo", ALGOS)
def test_a_policy_by_name_is_a_pearl_agent_and_loads_plainly(algo, env, tmp_path):
    algorithm, policy, kwargs = POLICIES[algo]
    named = yaml.safe_load((HYPERPARAMS / f"{algo}.yml").read_text())["atari"]["policy"]
    assert named == f"{policy.__module__}.{policy.__name__}"
    model = algorithm(policy, env, seed=0, **kwargs)
    assert extractors(model) and all(isinstance(extractor, PearlExtractor) for extractor in extractors(model))
    model.learn(16)
    observations = np.concatenate([env.reset(), env.step([2])[0]])
    before, _ = model.predict(observations, deterministic=True)
    model.save(tmp_path / "agent")
    del model
    loaded = algorithm.load(tmp_path / "agent")
    assert isinstance(loaded.policy, policy)
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], before)


def test_the_defaults_are_those_of_pearl_policy_kwargs(env):
    """The class and the plain policy with our arguments make the same network."""
    kwargs = dict(n_steps=8, batch_size=8, seed=0)
    named = PPO(zoo.PearlCnnPolicy, env, **kwargs).policy.state_dict()
    plain = PPO("CnnPolicy", env, policy_kwargs=pearl_policy_kwargs(), **kwargs).policy.state_dict()
    assert {name: tensor.shape for name, tensor in tensors(named)} == {name: tensor.shape for name, tensor in tensors(plain)}


def tensors(state):
    return [(name, value) for name, value in state.items() if isinstance(value, th.Tensor)]


def test_policy_kwargs_are_laid_over_the_defaults(env):
    given = dict(net_arch=[32], activation_fn=nn.ReLU, features_extractor_kwargs=dict(features_dim=96, attention="mean"))
    model = PPO(zoo.PearlCnnPolicy, env, n_steps=8, batch_size=8, policy_kwargs=given)
    assert isinstance(model.policy.features_extractor, PearlExtractor)
    assert model.policy.features_dim == 96
    assert model.policy.net_arch == [32] and model.policy.activation_fn is nn.ReLU
    assert model.policy.features_extractor_kwargs == {
        **pearl_policy_kwargs()["features_extractor_kwargs"],
        **given["features_extractor_kwargs"],
    }
    assert given["features_extractor_kwargs"] == dict(features_dim=96, attention="mean"), "the user's dict was changed"


def test_another_features_extractor_gets_none_of_our_arguments(env):
    policy_kwargs = dict(features_extractor_class=NatureCNN)
    model = PPO(zoo.PearlCnnPolicy, env, n_steps=8, batch_size=8, policy_kwargs=policy_kwargs)
    assert isinstance(model.policy.features_extractor, NatureCNN) and model.policy.normalize_images


@pytest.mark.parametrize("theirs, ours", [(th.optim.Adam, PearlAdam), (RMSpropTFLike, PearlRMSprop)])
def test_a_trained_encoder_keeps_its_own_learning_rate(theirs, ours):
    """rl_zoo3's files can only name optimizers that know no learning rate per parameter."""
    policy_kwargs = dict(optimizer_class=theirs, optimizer_kwargs=dict(eps=1e-5))
    frozen = zoo.with_pearl_defaults(policy_kwargs)
    trained = zoo.with_pearl_defaults({**policy_kwargs, "features_extractor_kwargs": dict(tuning="full")})
    assert frozen["optimizer_class"] is theirs and trained["optimizer_class"] is ours
    assert trained["optimizer_kwargs"] == dict(eps=1e-5)
    assert zoo.with_pearl_defaults(dict(features_extractor_kwargs=dict(tuning="full")))["optimizer_class"] is PearlAdam


# --- rl_zoo3 itself --------------------------------------------------------------------------------------------------------

PONG = "PongNoFrameskip-v4"
TINY = ["-n", "8", "--eval-freq", "-1", "-params", "n_envs:1", "n_steps:8", "batch_size:8", "n_epochs:1"]


def run(folder, *command, **environ):
    """Run an installed program in ``folder``. :return: what it printed"""
    program = (
        [str(Path(sys.executable).parent / command[0]), *command[1:]]
        if command[0] != "python"
        else [sys.executable, *command[1:]]
    )
    environ = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
    done = subprocess.run(program, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def ours(output):
    return [line for line in output.splitlines() if line.startswith("pearl_sb3: ")]


def extractor_of(folder):
    (path,) = Path(folder).glob(f"*/{PONG}_1/{PONG}.zip")
    return type(PPO.load(path).policy.features_extractor)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """:return: folder in which the README's command ran, cut short, and what it printed"""
    folder = tmp_path_factory.mktemp("zoo")
    command = ["rl_zoo3", "train", "--algo", "ppo", "--env", PONG, "-f", "pearl"]
    return folder, run(folder, *command, "-n", "1", "--eval-freq", "-1", "--seed", "1")


def test_the_readmes_command_trains_pearl(trained):
    folder, output = trained
    (line,) = ours(output)
    assert f"{HYPERPARAMS / 'ppo.yml'}" in line
    assert f"Loading hyperparameters from: {HYPERPARAMS / 'ppo.yml'}" in output
    assert re.search(r"total_timesteps +\| 1024 ", output)
    assert extractor_of(folder / "pearl") is PearlExtractor


def test_enjoy_plays_that_agent(trained):
    folder, _ = trained
    output = run(folder, "rl_zoo3", "enjoy", "--algo", "ppo", "--env", PONG, "-f", "pearl", "--no-render", "-n", "20")
    assert f"Loading pearl/ppo/{PONG}_1/{PONG}.zip" in output and not ours(output)


def test_another_folder_is_rl_zoo3s_own(tmp_path):
    output = run(tmp_path, "rl_zoo3", "train", "--algo", "ppo", "--env", PONG, "-f", "logs", *TINY)
    assert not ours(output)
    assert extractor_of(tmp_path / "logs") is NatureCNN


def test_the_users_own_file_wins(tmp_path):
    (tmp_path / "mine.yml").write_text((ZOO_HYPERPARAMS / "ppo.yml").read_text())
    output = run(tmp_path, "python", "-m", "rl_zoo3.train", "--env", PONG, "-f", "pearl", "-conf", "mine.yml", *TINY)
    assert not ours(output) and "Loading hyperparameters from: mine.yml" in output
    assert extractor_of(tmp_path / "pearl") is NatureCNN


def test_the_switch_turns_it_off(tmp_path):
    output = run(tmp_path, "rl_zoo3", "train", "--env", PONG, "-f", "pearl", *TINY, PEARL_ZOO="off")
    assert not ours(output)
    assert extractor_of(tmp_path / "pearl") is NatureCNN


def test_as_a_module_with_subprocesses(tmp_path):
    """Workers of SubprocVecEnv import torch too, and find the hook."""
    arguments = ["--env", PONG, "-f", "runs/pearl/", "--vec-env", "subproc", *TINY]
    output = run(tmp_path, "python", "-m", "rl_zoo3.train", *arguments)
    assert len(ours(output)) == 1
    assert extractor_of(tmp_path / "runs" / "pearl") is PearlExtractor


def test_pearl_train_and_enjoy_need_no_folder_of_that_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pearl"])
    assert cli.main(["train", "-f", "logs", *TINY]) == 0
    assert f"Loading hyperparameters from: {HYPERPARAMS / 'ppo.yml'}" in capsys.readouterr().out
    assert extractor_of(tmp_path / "logs") is PearlExtractor
    assert cli.main(["enjoy", "-f", "logs", "--no-render", "-n", "5"]) == 0
    assert f"Loading logs/ppo/{PONG}_1/{PONG}.zip" in capsys.readouterr().out


def test_pearl_train_takes_the_users_file(tmp_path, monkeypatch):
    (tmp_path / "mine.yml").write_text((ZOO_HYPERPARAMS / "ppo.yml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pearl"])
    assert cli.main(["train", "-conf", "mine.yml", *TINY]) == 0
    assert extractor_of(tmp_path / "pearl") is NatureCNN


TRIALS = {
    "ppo": dict(n_steps_pow=5, batch_size_pow=5, one_minus_gae_lambda=0.05, ent_coef=0.01, clip_range=0.1, n_epochs=1)
    | dict(max_grad_norm=0.5, net_arch="tiny", activation_fn="relu"),
    "dqn": dict(batch_size_pow=2, train_freq=4, subsample_steps=4, exploration_fraction=0.1, exploration_final_eps=0.1)
    | dict(target_update_interval=100, net_arch="small"),
}


@pytest.mark.parametrize("algo", TRIALS)
def test_optimize_searches_pearl_agents(algo, tmp_path):
    """The sampler's ``policy_kwargs`` replace the file's; the agent it trains is a PEARL agent all the same."""
    manager = ExperimentManager(
        argparse.Namespace(),
        algo,
        "BreakoutNoFrameskip-v4",
        log_folder=str(tmp_path),
        config=str(HYPERPARAMS / f"{algo}.yml"),
        hyperparams=dict(learning_starts=16, buffer_size=100) if algo == "dqn" else dict(n_envs=1),
        n_timesteps=32,
        n_eval_episodes=1,
        env_kwargs=dict(max_num_frames_per_episode=200),
        optimize_hyperparameters=True,
        optimization_log_path=str(tmp_path),
    )
    manager.setup_experiment()
    manager.objective(FixedTrial({"one_minus_gamma": 0.01, "learning_rate": 1e-3, **TRIALS[algo]}))
    agent = POLICIES[algo][0].load(tmp_path / "trial_0" / "best_model")
    assert agent.num_timesteps > 0
    assert {type(extractor) for extractor in extractors(agent)} == {PearlExtractor}
    sampled = dict(pi=[64], vf=[64]) if algo == "ppo" else [64, 64]
    assert agent.policy.net_arch == sampled
