"""Probe results as tables: games × methods, beside what others published."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import geometric_mean, mean
from typing import Any

import numpy as np

from pearl_sb3.probing.metrics import interval
from pearl_sb3.probing.published import published
from pearl_sb3.probing.result import ProbeResult

# Columns beside ours unless others are named: random agents' frames, 2019 annotations, and the PEARL paper's full image.
PUBLISHED = ("MAJ-CLF", "RANDOM-CNN", "ST-DIM", "SUPERVISED", "PEARL FI")
# What may differ between results of one subject, and how a column says so.
SETTINGS = {"hidden": "{} hidden", "steps": "{:,} steps", "seed": "seed {}", "agent": "play of {}", "updates": "{:,} updates"}
Table = tuple[list[str], list[list[str]]]


def games_by_methods(results: Sequence[ProbeResult], others: Sequence[str] = PUBLISHED) -> Table:
    """
    Lay F1 of each game and method side by side.

    :param results: In any order
    :param others: Published methods to show beside them, see :func:`pearl_sb3.probing.published.published`
    :return: Header and lines; the last line holds means over the games of this table, where a method has all of them
    :raises ValueError: for an unknown published method
    """
    games = sorted({result.game for result in results})
    ours: dict[str, dict[str, float]] = {}
    for name, result in zip(methods(results), results, strict=True):
        ours.setdefault(name, {})[result.game] = result.f1
    table = {**ours, **{f"{name} (published)": published(name)[name] for name in others}}
    lines = [[game, *(_cell(column.get(game)) for column in table.values())] for game in games]
    means = [mean(column[game] for game in games) if set(games) <= set(column) else None for column in table.values()]
    return ["game", *table], [*lines, ["mean", *map(_cell, means)]]


def difference(results: Sequence[ProbeResult], method: str, baseline: str) -> tuple[int, float, float, float]:
    """
    Compare two methods on the games that have both.

    :param results: In any order
    :param method: A name as :func:`methods` gives it
    :param baseline: Another
    :return: Games, mean difference of F1, and its 95 % interval over games drawn with replacement
    :raises ValueError: if no game has both
    """
    found: dict[str, dict[str, float]] = {method: {}, baseline: {}}
    for name, result in zip(methods(results), results, strict=True):
        if name in found:
            found[name][result.game] = result.f1
    games = sorted(set(found[method]) & set(found[baseline]))
    if not games:
        raise ValueError(f"No game has results of both {method!r} and {baseline!r}: probe one with both.")
    gains = np.array([found[method][game] - found[baseline][game] for game in games])
    draws = gains[np.random.default_rng(0).integers(len(games), size=(10_000, len(games)))].mean(1)
    low, high = interval(draws)
    return len(games), float(gains.mean()), float(low), float(high)


def error_ratio(results: Sequence[ProbeResult], method: str, baseline: str) -> tuple[int, float]:
    """
    Compare the errors of positions.

    :param results: In any order
    :param method: A name as :func:`methods` gives it
    :param baseline: Another
    :return: Variables that both have, and the geometric mean of their mean absolute error over the baseline's
    :raises ValueError: if no variable has both
    """
    found: dict[str, dict[tuple[str, str], float]] = {method: {}, baseline: {}}
    for name, result in zip(methods(results), results, strict=True):
        if name in found:
            errors = {(result.game, variable): scores.get("mae") for variable, scores in result.variables.items()}
            found[name] |= {key: error for key, error in errors.items() if error}
    both = sorted(set(found[method]) & set(found[baseline]))
    if not both:
        raise ValueError(f"No position has errors of both {method!r} and {baseline!r}: probe one game with both.")
    ratios = [found[method][key] / found[baseline][key] for key in both]
    return len(both), geometric_mean(ratios)


def categories_by_methods(results: Sequence[ProbeResult]) -> Table:
    """
    Average F1 of each category over the games that have it.

    :param results: In any order
    :return: Header and lines
    """
    labels = methods(results)
    names = list(dict.fromkeys(name for result in results for name in result.categories))
    lines = []
    for name in names:
        per_method: dict[str, list[float]] = {label: [] for label in labels}
        for label, result in zip(labels, results, strict=True):
            per_method[label] += [result.categories[name]["f1"]] if name in result.categories else []
        lines.append([name, *(_cell(mean(values) if values else None) for values in per_method.values())])
    return ["category", *dict.fromkeys(labels)], lines


def methods(results: Sequence[ProbeResult]) -> list[str]:
    """
    Name the column of each result: its subject, and of its settings those in which results differ.

    :param results: In any order
    :return: As many names
    """
    settings = [_settings(result) for result in results]
    differ = [key for key in SETTINGS if len({repr(each[key]) for each in settings}) > 1]
    names = []
    for result, each in zip(results, settings, strict=True):
        said = [SETTINGS[key].format(each[key]) for key in differ if each[key] is not None]
        names.append(", ".join([result.subject, *said]))
    return names


def _settings(result: ProbeResult) -> dict[str, Any]:
    data = result.provenance.get("data", {})
    return {key: data.get(key, result.provenance.get(key)) for key in SETTINGS}


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def markdown(table: Table) -> str:
    """
    :param table: Header and lines
    :return: A Markdown table
    """
    header, lines = table
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *lines]) + "\n"


def comma_separated(table: Table) -> str:
    """
    :param table: Header and lines
    :return: CSV
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table[0], *table[1]])
    return text.getvalue()


def latex(table: Table) -> str:
    """
    :param table: Header and lines
    :return: A LaTeX tabular in booktabs' style
    """
    header, lines = table

    def row(cells: Sequence[str]) -> str:
        return " & ".join(cell.replace("_", r"\_").replace("%", r"\%") for cell in cells) + r" \\"

    body = [row(header), r"\midrule", *map(row, lines[:-1]), r"\midrule", row(lines[-1])]
    return "\n".join(
        [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}", ""]
    )


WRITERS: dict[str, Callable[[Table], str]] = {"md": markdown, "csv": comma_separated, "tex": latex}


def write(results: Sequence[ProbeResult], folder: Path, others: Sequence[str] = PUBLISHED) -> list[Path]:
    """
    Write both tables in every format, a plot of the categories, and one per category of the games.

    :param results: In any order
    :param folder: Where to
    :param others: Published methods to show
    :return: The files
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, table in (("games", games_by_methods(results, others)), ("categories", categories_by_methods(results))):
        for suffix, writer in WRITERS.items():
            path = folder / f"{name}.{suffix}"
            path.write_text(writer(table))
            written.append(path)
    return [
        *written,
        plot(categories_by_methods(results), folder / "categories.png"),
        plot_games(results, folder / "games.png"),
    ]


def plot(table: Table, path: Path) -> Path:
    """
    Draw a group of bars per category.

    :param table: What :func:`categories_by_methods` gave
    :param path: File of the picture
    :return: The file
    """
    # Imported here: drawing is the last thing a long run does, and the rest needs none of it.
    from matplotlib.figure import Figure

    header, lines = table
    figure = Figure(figsize=(2 + 1.8 * len(lines), 3.6), layout="constrained")
    axis = figure.subplots()
    _bars(axis, [line[0].replace("_", "\n", 1).replace("_", " ") for line in lines], header[1:], [line[1:] for line in lines])
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    return path


def plot_games(results: Sequence[ProbeResult], path: Path) -> Path:
    """
    Draw a plot per category, with a group of bars per game that has it.

    :param results: In any order
    :param path: File of the picture
    :return: The file
    """
    from matplotlib.figure import Figure

    labels = methods(results)
    names = list(dict.fromkeys(name for result in results for name in result.categories))
    n_games = len({result.game for result in results})
    figure = Figure(figsize=(2 + 0.16 * n_games * max(3, len(set(labels))), 2.4 * len(names)), layout="constrained")
    for axis, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        games = sorted({result.game for result in results if name in result.categories})
        found = {
            (result.game, label): _cell(result.categories[name]["f1"])
            for label, result in zip(labels, results, strict=True)
            if name in result.categories
        }
        columns = list(dict.fromkeys(labels))
        _bars(axis, games, columns, [[found.get((game, label), "") for label in columns] for game in games])
        axis.tick_params("x", rotation=20)
        axis.set_xlim(-0.5, len(games) + 0.1)
        axis.set_title(name.replace("_", " "), fontsize=9, loc="left")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)
    return path


def _bars(axis: Any, groups: list[str], methods: list[str], cells: list[list[str]]) -> None:
    """Draw F1 of each group (line of cells) and method (column); nothing where a cell is empty."""
    width = 0.8 / len(methods)
    for index, method in enumerate(methods):
        heights = [float(line[index] or "nan") for line in cells]
        axis.bar([place + index * width for place in range(len(groups))], heights, width * 0.95, label=method)
    axis.set_xticks([place + 0.4 - width / 2 for place in range(len(groups))], groups, fontsize=8)
    axis.set_ylabel("F1")
    axis.set_ylim(0, 1)
    axis.spines[["top", "right"]].set_visible(False)
