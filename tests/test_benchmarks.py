import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch as th

from pearl_sb3 import probe
from pearl_sb3.atari.labels import state_variables
from pearl_sb3.probing.embeddings import embeddings
from pearl_sb3.probing.paper import fit_paper
from pearl_sb3.probing.subjects import RandomCNN
from pearl_sb3.provenance import PACKAGES

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import curves  # noqa: E402
import learning  # noqa: E402
import probe_pitfalls  # noqa: E402
import probe_speed  # noqa: E402
import rows  # noqa: E402
import tables  # noqa: E402
from clock import Clock  # noqa: E402


def test_rows_of_many_writers_are_all_kept(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: rows.append(path, {"number": number}), range(40)))
    assert sorted(row["number"] for row in rows.read(path)) == list(range(40))
    assert [file.name for file in path.parent.iterdir()] == ["rows.jsonl"]


def test_failed_append_changes_nothing(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows.append(path, {"good": 1})
    with pytest.raises(TypeError):
        rows.append(path, {"good": 2}, {"bad": object()})
    assert rows.read(path) == [{"good": 1}]


def test_provenance_says_how_to_measure_again():
    row = json.loads(json.dumps(rows.provenance(seed=3)))
    assert row["seed"] == 3
    assert set(row["versions"]) == {"python", *PACKAGES}
    assert row["machine"]["torch_threads"] > 0 and row["machine"]["cores"] > 0
    assert str(rows.ROOT) not in json.dumps(row)


def test_throughput_prints_and_stores_a_row(tmp_path):
    out = tmp_path / "throughput.jsonl"
    flags = [
        "--quick",
        "--algo",
        "ppo",
        "--arms",
        "nature",
        "--breakdown",
        "--repeats",
        "1",
        "--threads",
        "1",
        "--out",
        str(out),
    ]
    command = [sys.executable, str(BENCHMARKS / "throughput.py"), *flags]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (row,) = rows.read(out)
    assert (row["arm"], row["algo"], row["quick"]) == ("nature", "ppo", True)
    assert row["env_steps_per_s"] == pytest.approx(row["env_steps"] / row["seconds"], rel=0.01)
    # NatureCNN's 1.69 million parameters and Adam's two moments in fp32
    assert row["saved_mb"] == pytest.approx(3 * 4 * row["trainable_parameters"] / 1e6, rel=0.05)
    assert row["command"].startswith("python benchmarks/throughput.py --quick")
    assert "| PPO | NatureCNN (SB3) |" in printed


def throughput_row(arm, speed, run="1", algo="ppo", frames=None, **more):
    figures = {"env_steps_per_s": speed, "frames_per_step": frames, "peak_mb": 1000.0, "saved_mb": 10.0, "breakdown": False}
    machine = {"cpu": "CPU", "cores": 2, "torch_threads": 2, "accelerator": None}
    versions = {"torch": "2", "stable_baselines3": "2"}
    about = {"command": "python x", "commit": "abc", "machine": machine, "versions": versions}
    return {"run": run, "arm": arm, "algo": algo, "n_epochs": 4, "quick": False, **figures, **about, **more}


MEASURED = [
    throughput_row("nature", 1.0, run="0"),
    *(throughput_row("nature", speed) for speed in (100.0, 300.0, 200.0)),
    *(throughput_row("pearl-tiny", speed, frames=1.01) for speed in (250.0, 10.0, 300.0)),
    throughput_row("nature", 5.0, run="2", quick=True),
]


def test_table_shows_medians_of_the_last_full_run():
    arms = tables.summary(MEASURED)["ppo", 4]
    assert arms["nature"]["env_steps_per_s"] == 200 and arms["nature"]["ratio"] == 1
    assert arms["pearl-tiny"]["env_steps_per_s"] == 250 and arms["pearl-tiny"]["ratio"] == 1.25
    assert "| PPO | PEARL, `pearl-tiny` (default) | 250 | 1.25 | 1.01 | 1,000 | 10.0 |" in tables.throughput(MEASURED)


def test_targets_are_judged():
    lines = tables.targets(MEASURED)
    assert "met    ppo, 4 epochs pearl-tiny: frames encoded per env step: 1.010 (target <= 1.02)" in lines
    assert "MISSED ppo, 4 epochs pearl-tiny: speed / NatureCNN's: 1.250 (target >= 1.3)" in lines


def test_tables_go_between_their_markers(tmp_path):
    rows.append(tmp_path / "throughput.jsonl", *MEASURED)
    after = "<!-- throughput:end -->\nafter <!-- learning:begin -->kept<!-- learning:end -->\n"
    text = f"before\n<!-- throughput:begin -->\nold\n{after}"
    filled = tables.fill(text, tmp_path)
    assert filled.startswith("before\n<!-- throughput:begin -->\n| |") and "old" not in filled
    assert filled.endswith(f"\n{after}")
    assert tables.fill(filled, tmp_path) == filled


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_pages_show_the_stored_rows(page):
    text = page.read_text()
    assert tables.fill(text) == text, "run python benchmarks/tables.py"


def test_what_a_probe_costs_is_said_in_hours():
    parts, size = dict(frames=60.0, embeddings=30.0, probes=90.0), dict(frames=5 * 10**7, embeddings=3 * 10**8)
    common = dict(game="pong", encoder="x", protocol="fixed", parts=parts, bytes=size, f1=0.5, **rows.provenance(42))
    found = [dict(common, steps=50_000, seconds=seconds, peak_mb=1500.0) for seconds in (400.0, 180.0)]
    found.append(dict(common, steps=200_000, seconds=900.0, peak_mb=1800.0))
    lines = tables.probe_cost(found).splitlines()
    assert lines[2] == "| pong | `x` | 50,000 | 60 | 30 | 90 | 180 | 1,500 | 50 | 300 |"
    assert lines[3].startswith("| pong | `x` | 200,000 |") and lines[4] == ""
    assert lines[5].startswith("1.1 hours for 22 games of 50,000 steps")


def points(*pairs):
    return [{"env_steps": steps, "mean_return": value, "seconds": steps / 100} for steps, value in pairs]


def test_curves_are_summarised():
    one = points((0, -20.0), (100, -10.0), (300, 20.0))
    assert curves.area(one) == pytest.approx((100 * -15 + 200 * 5) / 300)
    assert [curves.reached(one, level) for level in (-10, 0, 21)] == [100, 300, None]
    # Two seeds are compared over the steps that both have made.
    (row,) = curves.summarise({("Pong", "x"): {0: one, 1: points((0, -20.0), (100, -20.0))}})
    assert (row["steps"], row["seeds"], row["final"], row["reached"]) == (100, 2, -15, [None] * 4)
    assert row["area"] == pytest.approx((-15 - 20) / 2)


def test_curves_are_drawn(tmp_path):
    runs = {
        ("Pong", "a"): {0: points((0, -20.0), (100, -10.0)), 1: points((50, -20.0))},
        ("Boxing", "a"): {0: points((9, 1.0))},
    }
    curves.draw(runs, tmp_path / "learning.png")
    assert (tmp_path / "learning.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


class Worker:
    def outer(self):
        return sum(self.inner() for _ in range(3))

    def inner(self):
        return len([number for number in range(20_000)])


def test_clock_counts_no_time_twice():
    worker, clock = Worker(), Clock()
    clock.watch(worker, "outer", "outer")
    whole = Clock()
    clock.watch(worker, "inner", "inner")
    whole.watch(worker, "outer", "all")
    assert worker.outer() == 60_000
    assert 0 < clock.seconds["inner"] and 0 < clock.seconds["outer"]
    assert clock.seconds["inner"] + clock.seconds["outer"] <= whole.seconds["all"]
    assert sum(clock.shares(total=10.0).values()) == pytest.approx(100)


def learning_spec(**changes):
    small = {"n_steps": 16, "n_epochs": 1, "batch_size": 64}
    spec = {"label": "nature", "method": "nature", "game": "Pong", "seed": 1, "steps": 640, "threads": 1, "every": 128}
    return {**spec, "eval": "none", "command": "python x", "policy_kwargs": {}, "algo_kwargs": small, **changes}


def test_learning_goes_on_after_a_kill(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    saved = []

    def killed_while_saving(model, checkpoint, totals, save=learning.save):
        saved.append(totals)
        if len(saved) == 3:
            raise Killed
        save(model, checkpoint, totals)

    path = tmp_path / "nature-Pong-1.jsonl"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(learning, "save", killed_while_saving)
        learning.run(learning_spec(), tmp_path, tmp_path)
    assert [row["env_steps"] for row in rows.read(path)] == [128, 256, 384]
    assert learning.run(learning_spec(), tmp_path, tmp_path)
    curve = rows.read(path)
    assert [row["env_steps"] for row in curve] == [128, 256, 384, 512, 640]
    assert [row["finished"] for row in curve] == [False] * 4 + [True]
    seconds = [row["seconds"] for row in curve]
    assert seconds == sorted(seconds) and seconds[1] == pytest.approx(saved[1][0], abs=0.01)
    assert not learning.run(learning_spec(), tmp_path, tmp_path)
    with pytest.raises(ValueError, match="choose another --label"):
        learning.run(learning_spec(steps=1280), tmp_path, tmp_path)


def test_each_line_of_the_ladder_changes_one_thing():
    lines = {line.name: line for line in probe_pitfalls.ladder()}
    for line in list(lines.values())[1:]:
        before = lines[line.against].switches
        assert sum(line.switches[name] != before[name] for name in before) == 1, line.name
    assert not any(line.against in ("duplicates", "faster") for line in lines.values())
    on = {name for name, on in lines["fixed"].switches.items() if on is True}
    assert on == {"shuffled", "standardise", "fixed"}


@pytest.mark.parametrize("name", ["paper", pytest.param("fixed", marks=pytest.mark.slow)])
def test_ladder_begins_and_ends_with_the_protocols(name, data, folder):
    lines = [line for line in probe_pitfalls.ladder() if line.name == name]
    features = embeddings(data, RandomCNN(), folder, progress=False)
    ((_, figures),) = probe_pitfalls.climb(lines, data, features, state_variables("pong"), seed=42)
    expected = probe("random-cnn", "Pong", name, data.manifest["steps"], data=folder, progress=False)
    assert (figures["f1"], figures["accuracy"]) == (expected.f1, expected.accuracy)
    assert figures["frames"]["train"] == expected.frames["train"]


def test_pitfalls_go_on_where_they_stopped(data, folder, tmp_path, monkeypatch, capsys):
    def run(*lines):
        flags = ["--games", "Pong", "--encoders", "random-cnn", "--steps", str(data.manifest["steps"]), "--threads", "1"]
        files = ["--data", str(folder), "--out", str(tmp_path / "rows.jsonl")]
        monkeypatch.setattr(sys, "argv", ["probe_pitfalls.py", *flags, *files, "--lines", *lines])
        probe_pitfalls.main()
        return rows.read(tmp_path / "rows.jsonl")

    first = run("paper", "scored-once")
    assert [row["line"] for row in first] == ["paper", "scored-once"]
    # One probe, tested twice.
    assert first[0]["seconds"] == first[1]["seconds"] and first[0]["frames"]["test"] % 64 == 0
    both = run("paper", "scored-once", "duplicates")
    assert both[:2] == first and [row["line"] for row in both[2:]] == ["duplicates"]
    assert both[2]["frames"]["test"] > first[1]["frames"]["test"]
    assert run("paper", "scored-once") == both
    assert "all lines are stored" in capsys.readouterr().out


def pitfall(number, line, against, f1, game="pong", **more):
    about = {key: MEASURED[0][key] for key in ("command", "commit", "machine", "versions")}
    setting = {"steps": 5000, "annotations": "current", "seed": 42, "encoder": "x", **about}
    return {"number": number, "line": line, "title": line, "against": against, "f1": f1, "game": game, **setting, **more}


def test_pitfalls_are_compared_with_the_line_before():
    found = [
        pitfall(0, "a", None, 0.9, steps=100),
        pitfall(2, "c", "a", 0.5),
        pitfall(0, "a", None, 0.1),
        pitfall(0, "a", None, 0.2),
        pitfall(1, "aside", "a", 0.25),
        pitfall(0, "a", None, 0.4, game="boxing"),
        pitfall(2, "c", "a", 0.3, game="boxing"),
    ]
    table = tables.pitfalls(found).splitlines()
    assert table[0].endswith("| pong, x | boxing, x | mean |")
    assert table[2:5] == [
        "| a | 0.200 | 0.400 | 0.300 |",
        "| aside | 0.250 (+0.050) |  |  |",
        "| c | 0.500 (+0.300) | 0.300 (-0.100) | 0.400 (+0.100) |",
    ]


def test_the_reference_way_leads_to_the_same_probe(data):
    network, screens = RandomCNN().network, probe_speed.gray_screens(data)[:300]
    labels = data.ram[:300, [state_variables("pong")[name] for name in ("player_y", "ball_x")]]
    train, val = [np.arange(100), np.arange(100, 200)], [np.arange(200, 300)]
    with th.no_grad():
        features = network(th.from_numpy(screens)[:, None] / 255).numpy()
    ours = fit_paper(features, labels, train, val, epochs=2, seed=3)
    for shared in (False, True):
        theirs = probe_speed.reference_way(network, screens, labels, train, val, epochs=2, seed=3, shared=shared)
        assert th.allclose(theirs.weight, ours.weight, atol=1e-5) and th.allclose(theirs.bias, ours.bias, atol=1e-5)
        assert [fact["val_accuracy"] for fact in theirs.facts] == [fact["val_accuracy"] for fact in ours.facts]
    other = fit_paper(features, labels, train, val, epochs=2, seed=4)
    assert not th.allclose(other.weight, ours.weight, atol=1e-3)


def test_probe_speed_prints_and_stores_a_row(data, folder, tmp_path, monkeypatch, capsys):
    flags = ["--frames", str(data.manifest["steps"]), "--epochs", "1", "--threads", "1", "--data", str(folder)]
    monkeypatch.setattr(sys, "argv", ["probe_speed.py", *flags, "--out", str(tmp_path / "rows.jsonl")])
    probe_speed.main()
    (row,) = rows.read(tmp_path / "rows.jsonl")
    seconds = row["seconds"]
    assert row["ratio"] == pytest.approx(seconds["reference"] / seconds["stored"], rel=0.05)
    assert min(row["same_predictions"].values()) > 0.99
    assert row["embedded_frames"] == len(data) and row["data"] == data.id
    assert f"| pong | {len(row['variables'])} |" in capsys.readouterr().out


def test_probe_speed_needs_few_epochs(capsys):
    with pytest.raises(SystemExit):
        probe_speed.parse(["--epochs", "6"])
    assert "give 1 to 5" in capsys.readouterr().err
