import subprocess
import sys

import numpy as np
import pytest

import pearl_sb3
from pearl_sb3 import cli


def test_help_names_every_command_and_imports_little():
    code = "import sys; from pearl_sb3 import cli\ntry: cli.main(['--help'])\nfinally: print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "False"
    for name in ("train", "enjoy", "encoders", "pretrain"):
        assert f"\n  {name} " in output


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"pearl_sb3 {pearl_sb3.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["tarin"], ["encoders", "--nonsense"], ["pretrain", "--nonsense"]])
def test_wrong_usage_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "command, flags",
    [("train", ["--log-folder", "-f pearl"]), ("enjoy", ["--no-render", "-f pearl"]), ("encoders", []), ("pretrain", [])],
)
def test_every_command_has_help(command, flags, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    assert f"usage: pearl {command}" in output
    assert all(flag in output for flag in flags)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--algo", "sac"], "no hyperparameters for --algo sac, only for a2c, dqn, ppo, ppo_lstm, qrdqn"),
        (
            ["train", "--env", "PogNoFrameskip-v4"],
            "PogNoFrameskip-v4 not found in gym registry, you maybe meant PongNoFrameskip",
        ),
        (["enjoy"], "pearl/ppo folder was not found"),
    ],
)
def test_a_users_error_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pearl", *arguments])
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pearl {arguments[0]}: ") and message in line


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "encoders", (lambda arguments: np.zeros(2).reshape(3), ""))
    with pytest.raises(ValueError, match="cannot reshape"):
        cli.main(["encoders"])


def test_encoders_are_listed(capsys):
    assert cli.main(["encoders"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["encoder", "source", "parameters", "licence"]
    (row,) = [line for line in lines if line.startswith("pearl-tiny ")]
    assert "bundled" in row and " M " in row
    assert any("pretrained=True" in line for line in lines), "how to get others"
