"""
Markdown tables made from the stored rows, between the markers in README.md and PROBES.md.

Example: ``python benchmarks/tables.py``, or with ``--check`` to see whether the pages are up to date.
"""

import argparse
import json
import os
import re
from pathlib import Path
from statistics import fmean, median

import curves
import rows
from rows import Row

from pearl_sb3.atari.games import GAMES
from pearl_sb3.probing import tables as probe_tables
from pearl_sb3.probing.data import STEPS
from pearl_sb3.probing.result import ProbeResult

NAMES = {
    "nature": "NatureCNN (SB3)",
    "obvious": "ViT-Tiny/16 at 96 px inside the policy",
    "pearl-tiny": "PEARL, `pearl-tiny` (default)",
    "vit-tiny-96": "PEARL, `vit_tiny_patch16_224` at 96 px",
    "dinov2-s-84": "PEARL, `vit_small_patch14_dinov2` at 84 px",
}
SECTIONS = ("env", "encode", "hash, gather", "attention", "act", "update", "other")
FIGURES = ("env_steps_per_s", "frames_per_step", "peak_mb", "saved_mb")

PAGES = (rows.ROOT / "README.md", rows.ROOT / "benchmarks" / "PROBES.md")

Group = tuple[str, int | None]


def latest(measured: list[Row]) -> list[Row]:
    """
    :param measured: rows of throughput.py
    :return: those of the last full run of each algorithm and number of epochs
    """
    if not all(row["quick"] for row in measured):
        measured = [row for row in measured if not row["quick"]]
    last = {_group(row): row["run"] for row in sorted(measured, key=lambda row: row["run"])}
    return [row for row in measured if last[_group(row)] == row["run"]]


def _group(row: Row) -> Group:
    return row["algo"], row["n_epochs"] if row["algo"] == "ppo" else None


def _title(group: Group) -> str:
    algo, epochs = group
    return algo.upper() + (f", {epochs} epochs" if epochs not in (None, 4) else "")


def summary(measured: list[Row]) -> dict[Group, dict[str, Row]]:
    """
    :param measured: rows of throughput.py
    :return: per algorithm and number of epochs, per arm: the medians over the repeats, and the ratio to NatureCNN
    """
    table: dict[Group, dict[str, Row]] = {}
    for group in sorted({_group(row) for row in measured}, key=lambda group: (group[0] != "ppo", group[1] or 0)):
        of_group = [row for row in latest(measured) if _group(row) == group and not row["breakdown"]]
        arms = sorted({row["arm"] for row in of_group}, key=list(NAMES).index)
        of_arm = {arm: [row for row in of_group if row["arm"] == arm] for arm in arms}
        table[group] = {
            arm: {name: None if many[0][name] is None else median(row[name] for row in many) for name in FIGURES}
            for arm, many in of_arm.items()
        }
        nature = table[group].get("nature", {}).get("env_steps_per_s")
        for figures in table[group].values():
            figures["ratio"] = figures["env_steps_per_s"] / nature if nature else None
    return table


def throughput(measured: list[Row]) -> str:
    """
    :param measured: rows of throughput.py
    :return: the table of speed, frames encoded, memory and file size
    """
    lines = [
        "| | features | env steps/s | ratio to NatureCNN | frames encoded per env step | peak memory, MB | saved agent, MB |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for (algo, epochs), arms in summary(measured).items():
        title = _title((algo, epochs))
        for arm, row in arms.items():
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            frames = "" if row["frames_per_step"] is None else f"{row['frames_per_step']:.2f}"
            speed = f"{row['env_steps_per_s']:.{0 if row['env_steps_per_s'] >= 20 else 1}f}"
            lines.append(
                f"| {title} | {NAMES[arm]} | {speed} | {ratio} | {frames} | {row['peak_mb']:,.0f} | {row['saved_mb']:.1f} |"
            )
    return "\n".join([*lines, "", source(latest(measured))])


def breakdown(measured: list[Row]) -> str:
    """
    :param measured: rows of throughput.py
    :return: the table of percent of the time per part of the loop
    """
    lines = [f"| percent of the time | {' | '.join(SECTIONS)} |", "|---|" + "--:|" * len(SECTIONS)]
    for row in latest(measured):
        if row["breakdown"]:
            shares = [f"{row['breakdown'].get(section, 0):.0f}" for section in SECTIONS]
            lines.append(f"| {_title(_group(row))}, {NAMES[row['arm']]} | {' | '.join(shares)} |")
    return "\n".join(lines)


def source(measured: list[Row]) -> str:
    """
    :param measured: rows that a table was made from
    :return: one line that says how and where they were measured
    """
    if not measured:
        return ""
    commands = " and ".join(f"`{command}`" for command in dict.fromkeys(row["command"] for row in measured))
    last = measured[-1]
    machine, versions = last["machine"], last["versions"]
    where = f"{machine['cores']} cores of {machine['cpu']}, {machine['torch_threads']} PyTorch threads"
    accelerator = machine["accelerator"] or "no accelerator"
    packages = f"torch {versions['torch']}, stable-baselines3 {versions['stable_baselines3']}"
    return f"{commands}; {where}, {accelerator}; {packages}; commit {(last['commit'] or 'none')[:10]}."


def targets(measured: list[Row]) -> list[str]:
    """
    :param measured: rows of throughput.py
    :return: one line per design target: what was wanted and what was measured
    """
    lines = []
    for (algo, epochs), arms in summary(measured).items():
        wanted: list[tuple[str, float | None, str, float]] = []
        frames, nature = {"ppo": 1.02, "dqn": 1.05}[algo], arms.get("nature")
        for arm in [arm for arm in arms if arm not in ("nature", "obvious")]:
            wanted.append((f"{arm}: frames encoded per env step", arms[arm]["frames_per_step"], "<=", frames))
            wanted.append((f"{arm}: saved agent, MB", arms[arm]["saved_mb"], "<=", 15))
            if algo == "dqn" and nature:
                wanted.append((f"{arm}: memory / NatureCNN's", arms[arm]["peak_mb"] / nature["peak_mb"], "<=", 1.25))
            if algo == "ppo":
                least = {"pearl-tiny": 1.3, "vit-tiny-96": 0.8, "dinov2-s-84": 0.4}[arm]
                wanted.append((f"{arm}: speed / NatureCNN's", arms[arm]["ratio"], ">=", least))
        if algo == "ppo" and {"vit-tiny-96", "obvious"} <= arms.keys():
            speedup = arms["vit-tiny-96"]["env_steps_per_s"] / arms["obvious"]["env_steps_per_s"]
            wanted.append(("vit-tiny-96: speed / the obvious way's", speedup, ">=", 20))
        for what, value, sign, bound in wanted:
            if value is None:
                continue
            met = value <= bound if sign == "<=" else value >= bound
            title = f"{algo}, {epochs} epochs" if epochs else algo
            lines.append(f"{'met   ' if met else 'MISSED'} {title} {what}: {value:.3f} (target {sign} {bound})")
    return lines


def learning(runs: curves.Runs) -> str:
    """
    :param runs: the curves of learning.py
    :return: the table of final returns, areas under the curve and steps to reach given returns
    """
    heads = ["game", "method", "seeds", "env steps", "minutes", "final return", "area under the curve"]
    heads += [f"steps to {level:+d}" for level in curves.THRESHOLDS]
    lines = [f"| {' | '.join(heads)} |", "|---|---|" + "--:|" * (len(heads) - 2)]
    for row in curves.summarise(runs):
        reached = ["never" if steps is None else f"{steps / 1000:,.0f}k" for steps in row["reached"]]
        shown = [row["game"], row["label"], row["seeds"], f"{row['steps']:,}", f"{row['seconds'] / 60:.0f}"]
        shown += [f"{row['final']:.1f}", f"{row['area']:.1f}", *reached]
        lines.append(f"| {' | '.join(map(str, shown))} |")
    return "\n".join(lines)


def probe(found: list[Row]) -> str:
    """
    :param found: rows of quick_probe.py
    :return: the table of means over games, random twins (by seed) taken together
    """
    metrics = [(metric, n) for metric in ("f1", "r2", "r2_small") for n in (8000, 500)]
    names = {"f1": "F1", "r2": "R²", "r2_small": "R², balls and missiles"}
    heads = ["tokens", "seeds", *(f"{names[metric]}, {n:,} labels" for metric, n in metrics)]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    subjects = dict.fromkeys(row["subject"].split(":")[0] for row in found)
    for subject in subjects:
        mine = [row for row in found if row["subject"].split(":")[0] == subject]
        cells = []
        for metric, n in metrics:
            by_seed: dict[str, list[float]] = {}
            for row in mine:
                if (row["metric"], row["n_labels"]) == (metric, n):
                    by_seed.setdefault(row["subject"], []).append(row["value"])
            means = [sum(values) / len(values) for values in by_seed.values()]
            spread = f" ({min(means):.3f} to {max(means):.3f})" if len(means) > 1 else ""
            cells.append(f"{sum(means) / len(means):.3f}{spread}")
        title = {"random": "twin with random weights", "pixels": "pixels, 42x42"}.get(subject, f"`{subject}`")
        lines.append(f"| {title} | {len({row['subject'] for row in mine})} | {' | '.join(cells)} |")
    games = ", ".join(dict.fromkeys(row["game"] for row in found))
    return "\n".join([*lines, "", f"Means over {games}: `{found[-1]['command']}`."])


def attention_study(found: list[Row]) -> str:
    """
    :param found: rows of attention_study.py
    :return: the table of its last run
    """
    last = {(row["reader"], row["weights"], row["game"]): row for row in found}
    games = list(dict.fromkeys(row["game"] for row in found))
    heads = ["reader", "encoder", *(f"R², {game}" for game in games), "ms per update", "trained parameters"]
    lines = [f"| {' | '.join(heads)} |", "|---|---|" + "--:|" * (len(heads) - 2)]
    for reader, weights in dict.fromkeys((row["reader"], row["weights"]) for row in found):
        cells = [last[reader, weights, game] for game in games if (reader, weights, game) in last]
        values = [f"{row['r2']:.3f}" for row in cells]
        time = f"{median(row['ms_per_update'] for row in cells):.0f}"
        lines.append(f"| {reader} | {weights} | {' | '.join(values)} | {time} | {cells[0]['parameters']:,} |")
    return "\n".join([*lines, "", f"After {cells[0]['updates']} updates: `{cells[0]['command']}`."])


def probes(results: list[ProbeResult]) -> str:
    """
    :param results: what ``pearl probe --out`` stored
    :return: F1 of games and methods beside the published ones, and how to make it
    """
    made = results[0].provenance
    frames = (
        f"{made['data']['steps']:,} env steps of random play per game, seed {made['seed']}, {made['annotations']} annotations"
    )
    table = probe_tables.markdown(probe_tables.games_by_methods(results))
    commands = dict.fromkeys(f"`{result.provenance['command']}`" for result in results)
    said = f"F1, protocol {results[0].protocol}, {frames}: {' and '.join(commands)}."
    compared = [
        _twins(results, label) for label in dict.fromkeys(probe_tables.methods(results)) if f"{label} (random)" in table
    ]
    return "\n".join([f"{table}", said, *filter(None, compared)])


def _twins(results: list[ProbeResult], label: str) -> str:
    """Say what an encoder's weights are worth: the mean difference to its twin over games, with an interval over them."""
    n, mean, low, high = probe_tables.difference(results, label, f"{label} (random)")
    positions, ratio = probe_tables.error_ratio(results, label, f"{label} (random)")
    said = f"`{label}` less its twin with random weights: {mean:+.3f}, 95 % interval over {n} games {low:+.3f} to {high:+.3f}."
    errors = f"Its errors of positions (ridge regression) are {ratio:.2f} times its, geometric mean of {positions} variables."
    return f"\n{said} {errors}" if n > 1 else ""


def pitfalls(found: list[Row]) -> str:
    """
    :param found: rows of probe_pitfalls.py
    :return: the ladder of its last settings: F1 of each line, and the change to the line it is compared with
    """
    setting = ("steps", "annotations", "seed")
    found = [row for row in found if all(row[name] == found[-1][name] for name in setting)]
    f1 = {(row["line"], row["game"], row["encoder"]): row["f1"] for row in found}
    lines = {row["line"]: row for row in sorted(found, key=lambda row: row["number"])}
    columns = list(dict.fromkeys((row["game"], row["encoder"]) for row in found))
    groups = [[column] for column in columns] + ([columns] if len(columns) > 1 else [])
    heads = ["each line keeps the changes above it", *(f"{game}, {encoder}" for game, encoder in columns), "mean"]
    heads = heads[: len(groups) + 1]
    table = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for line, row in lines.items():
        table.append(f"| {row['title']} | {' | '.join(_change(f1, line, row['against'], group) for group in groups)} |")
    last = found[-1]
    frames = f"{last['steps']:,} env steps of random play per game, seed {last['seed']}, {last['annotations']} annotations"
    compared = (
        "in brackets the change to the line above; an aside is not kept, the line below it is compared with the one above it"
    )
    return "\n".join([*table, "", f"F1, {compared}. {frames}: {source(found)}"])


def _change(f1: dict[tuple[str, str, str], float], line: str, against: str | None, columns: list[tuple[str, str]]) -> str:
    """Give the mean over columns at a line, and how it differs from another line; nothing where a row is missing."""
    here, before = ([f1.get((name, *column)) for column in columns] for name in (line, against))
    if None in here:
        return ""
    mean = fmean(here)
    return f"{mean:.3f}" + (f" ({mean - fmean(before):+.3f})" if against and None not in before else "")


def probe_speed(found: list[Row]) -> str:
    """
    :param found: rows of probe_speed.py
    :return: the table of the last row of each game: seconds of the three ways, and their ratios
    """
    heads = [
        "game",
        "variables",
        "encoder per variable (reference), s",
        "encoder per batch, s",
        "stored embeddings, s",
        "ratio",
    ]
    heads += ["making the embeddings, s", "ratio with these", "same predictions", "peak memory, MB"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    last = list({row["game"]: row for row in found}.values())
    for row in last:
        seconds = {name: f"{value:.{0 if value >= 20 else 2}f}" for name, value in row["seconds"].items()}
        shown = [row["game"], len(row["variables"]), seconds["reference"], seconds["shared"], seconds["stored"]]
        shown += [f"{row['ratio']:.0f}", seconds["embedding"], f"{row['ratio_with_embedding']:.1f}"]
        shown += [f"{100 * min(row['same_predictions'].values()):.1f} %", f"{row['peak_mb']:,.0f}"]
        lines.append(f"| {' | '.join(map(str, shown))} |")
    frames = f"{last[-1]['epochs']} epochs over {last[-1]['train_frames']:,} frames of {last[-1]['game']}"
    return "\n".join([*lines, "", f"{frames}, {last[-1]['encoder']}: {source(last)}"])


def probe_cost(found: list[Row]) -> str:
    """
    :param found: rows of probe_cost.py
    :return: the table of the last row of each game, encoder and number of steps, and hours for all games
    """
    heads = ["game", "encoder", "env steps", "playing, s", "embedding, s", "probing, s", "all, s", "memory, MB", "frames, MB"]
    lines = [f"| {' | '.join([*heads, 'embeddings, MB'])} |", "|---|---|" + "--:|" * (len(heads) - 1)]
    last = {(row["game"], row["encoder"], row["steps"]): row for row in found}
    for row in last.values():
        parts, size = row["parts"], row["bytes"]
        cells = [row["game"], f"`{row['encoder']}`", f"{row['steps']:,}"]
        cells += [f"{parts[name]:.0f}" for name in ("frames", "embeddings", "probes")]
        cells += [f"{row['seconds']:.0f}", f"{row['peak_mb']:,.0f}"]
        cells += [f"{size[name] / 1e6:,.0f}" for name in ("frames", "embeddings")]
        lines.append(f"| {' | '.join(cells)} |")
    usual = [row["seconds"] for row in last.values() if row["steps"] == STEPS]
    hours = len(GAMES) * fmean(usual) / 3600 if usual else 0
    said = f"{hours:.1f} hours for {len(GAMES)} games of {STEPS:,} steps, if all are as these on average. " if usual else ""
    return "\n".join([*lines, "", said + source(list(last.values()))])


def fill(text: str, results: Path = rows.RESULTS) -> str:
    """
    Put the tables between their markers, ``<!-- throughput:begin -->`` and ``<!-- throughput:end -->`` and so on.

    :param text: Markdown with any of the markers ``throughput``, ``breakdown``, ``learning``, ``probe``, ``study``, ``probes``,
        ``probes_paper``, ``probes_draws``, ``pitfalls``, ``rates``, ``probe_speed``, ``probe_cost``
    :param results: folder of the rows
    :return: the text with those tables replaced whose rows exist
    """
    measured = rows.read(results / "throughput.jsonl")
    runs = curves.load(results)
    made = {}
    if measured:
        made = {"throughput": throughput(measured), "breakdown": breakdown(measured)}
    if runs:
        made["learning"] = learning(runs)
    if (results / "quick_probe.json").exists():
        made["probe"] = probe(json.loads((results / "quick_probe.json").read_text()))
    if studied := rows.read(results / "attention_study.jsonl"):
        made["study"] = attention_study(studied)
    if climbed := rows.read(results / "probe_pitfalls.jsonl"):
        made["pitfalls"] = pitfalls(climbed)
    if compared := rows.read(results / "probe_rates.jsonl"):
        made["rates"] = pitfalls(compared)
    if paid := rows.read(results / "probe_cost.jsonl"):
        made["probe_cost"] = probe_cost(paid)
    if timed := rows.read(results / "probe_speed.jsonl"):
        made["probe_speed"] = probe_speed(timed)
    for name in ("probes", "probes_paper", "probes_draws"):
        if stored := sorted((results / name).glob("*.json")):
            # In the order of the command that made them: controls first.
            made[name] = probes(sorted(map(ProbeResult.load, stored), key=lambda result: result.provenance["time"]))
    for name, table in made.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        parts = re.split(f"({re.escape(begin)}).*?({re.escape(end)})", text, flags=re.DOTALL)
        text = "".join(f"{part}\n{table}\n" if part == begin else part for part in parts)
    return text


def main() -> None:
    """Write the tables, or with ``--check`` say whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", default=PAGES, help="default: README.md and benchmarks/PROBES.md")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a table is out of date")
    options = parser.parse_args()
    for page in options.files:
        old = page.read_text()
        new = fill(old)
        if options.check and new != old:
            raise SystemExit(f"{page.name} is out of date: run python benchmarks/tables.py")
        if new != old:
            temporary = page.with_name(f".{page.name}.new")
            temporary.write_text(new)
            os.replace(temporary, page)


if __name__ == "__main__":
    main()
