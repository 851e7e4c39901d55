"""Replays searches on recorded learning curves: what each method has found at what cost.

python tests/benchmarks/search_efficiency.py --seeds 200     # some ten minutes on one core

Every method proposes points of the same space; a proposal is answered by the nearest recorded trial that it has not
run yet, and the method is told that trial's own parameters. Writes results/search_efficiency.json and a figure.
"""

from __future__ import annotations

import argparse
import heapq
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from curve_tables import Table, demo_table, study_table
from search_methods import METHODS, Method, Report

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).with_name("results") / "search_efficiency.json"
FIRST_SEED = 1000
"""Methods were chosen with seeds below."""


def replay(table: Table, method: Method, budget: float, workers: int) -> list[tuple[float, float]]:
    """Return what the method had found at which cost, in epochs, each time that it had found something better."""
    events: list[tuple[float, int, int, int]] = []  # time, trial, evaluation, row of the table
    found: list[tuple[float, float]] = []
    now, started, under_way, best = 0.0, 0, 0, -np.inf
    while True:
        while under_way < workers and (row := method.suggest(started)) is not None:
            heapq.heappush(events, (now + table.curves[row].costs[0], started, 0, row))
            started, under_way = started + 1, under_way + 1
        if not events or events[0][0] * workers > budget:
            return found
        now, number, evaluation, row = heapq.heappop(events)
        curve = table.curves[row]
        report = Report(
            number=number,
            iteration=evaluation + 1,
            cost=curve.costs[evaluation],
            progress=curve.costs[evaluation] / curve.course,
            value=curve.values[evaluation],
            best=max(curve.values[: evaluation + 1]),
            finished=evaluation + 1 == len(curve.costs),
        )
        stops = method.reported(report)
        if report.best > best and (report.finished or method.counts_unfinished):
            best = report.best
            found.append((now * workers, best))
        if stops or report.finished:
            method.ended(report)
            under_way -= 1
        else:
            heapq.heappush(events, (now + curve.costs[evaluation + 1] - report.cost, number, evaluation + 1, row))


def one_epoch_then_top(table: Table, seed: int, budget: float, count: int) -> float:
    """Return what is found by one epoch of random trials and the rest of the best `count`, at this cost in all."""
    tried: list[int] = []
    best: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(table.points)):
        more = [*tried, int(index)]
        top = sorted(more, key=lambda row: -_at_one_epoch(table, row)[1])[:count]
        spent = sum(_at_one_epoch(table, row)[0] for row in more)
        spent += sum(table.curves[row].costs[-1] - _at_one_epoch(table, row)[0] for row in top)
        if spent > budget:
            break
        tried, best = more, top
    return max((table.curves[row].final for row in best), default=-np.inf)


def _at_one_epoch(table: Table, row: int) -> tuple[float, float]:
    curve = table.curves[row]
    seen = max(1, sum(cost <= 1.0 + 1e-9 for cost in curve.costs))
    return curve.costs[seen - 1], max(curve.values[:seen])


TOPS = (1, 3, 5)
PLAIN = "OptunaSearch + ASHA as they come"


def regrets(table: Table, grid: list[float], seeds: range, workers: int) -> dict[str, np.ndarray]:
    """Return method to regret by seed and cost, NaN where nothing was found yet."""
    rows: dict[str, np.ndarray] = {}
    for name, build in METHODS.items():
        rows[name] = np.array([_along(replay(table, build(table, seed), grid[-1], workers), grid) for seed in seeds])
        print(f"{table.name}, {workers} at a time: {name}", file=sys.stderr, flush=True)
    for count in TOPS:
        values = [[one_epoch_then_top(table, seed, cost, count) for cost in grid] for seed in seeds]
        rows[f"one epoch, then the best {count}"] = np.array(values)
    return {name: table.scale * (table.best - np.where(np.isinf(v), np.nan, v)) for name, v in rows.items()}


def _along(found: list[tuple[float, float]], grid: list[float]) -> list[float]:
    return [max((value for cost, value in found if cost <= limit), default=-np.inf) for limit in grid]


def summarize(rows: dict[str, np.ndarray], grid: list[float]) -> dict[str, Any]:
    """Return mean regrets with 95 % bootstrap intervals over seeds; None where a seed had found nothing yet."""
    generator = np.random.default_rng(0)
    methods = {}
    for name, values in rows.items():
        draws = values[generator.integers(0, len(values), (2000, len(values)))].mean(axis=1)
        low, high = np.percentile(draws, [2.5, 97.5], axis=0)
        columns = {"mean": values.mean(axis=0), "low": low, "high": high}
        methods[name] = {key: [None if np.isnan(x) else round(float(x), 4) for x in v] for key, v in columns.items()}
    return {"cost_epochs": grid, "regret": methods}


def cost_to_reach(summary: dict[str, Any], name: str, regret: float) -> float | None:
    """Return the first cost of the grid at which a method's mean regret is no larger."""
    row = summary["regret"][name]["mean"]
    for cost, mean in zip(summary["cost_epochs"], row, strict=True):
        if mean is not None and mean <= regret:
            return float(cost)
    return None


def show(table: Table, summary: dict[str, Any], shown: list[float]) -> str:
    """Return the summary as a Markdown table."""
    places = [summary["cost_epochs"].index(cost) for cost in shown]
    lines = [f"| {table.name}: regret, {table.unit} | " + " | ".join(f"{cost:g} epochs" for cost in shown) + " |"]
    lines.append("|---" * (len(shown) + 1) + "|")
    for name, row in summary["regret"].items():
        cells = [
            "-" if row["mean"][i] is None else f"{row['mean'][i]:.2f} ({row['low'][i]:.2f} to {row['high'][i]:.2f})"
            for i in places
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(parts: list[tuple[Table, dict[str, Any]]], file: Path) -> None:
    """Draw regret against cost with its intervals."""
    figure, axes = plt.subplots(1, len(parts), figsize=(7 * len(parts), 6), layout="constrained")
    names = [name for name in METHODS if not name.startswith("ours,")] + [
        "ours, --prune-seeds",
        "one epoch, then the best 3",
    ]
    for axis, (table, summary) in zip(axes, parts, strict=True):
        for place, name in enumerate(names):
            row = summary["regret"][name]
            mean, low, high = (np.array(row[key], dtype=float) for key in ("mean", "low", "high"))
            width = 2.5 if name.startswith("ours") else 1.2
            (line,) = axis.plot(summary["cost_epochs"], mean, label=name, linewidth=width, color=f"C{place}")
            axis.fill_between(summary["cost_epochs"], low, high, alpha=0.15, color=line.get_color())
        axis.set(title=table.name, xlabel="cost in epochs of training", ylabel=f"regret, {table.unit}")
        axis.set_yscale("symlog", linthresh=0.1)
        axis.set_ylim(bottom=0)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def main() -> int:
    """Parse, replay, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1, help="trials at a time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    logging.getLogger("ray").setLevel(logging.ERROR)
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    parts = []
    for table, grid, shown in (
        (study_table(), [float(x) for x in np.arange(0.5, 10.25, 0.25)], [3.0, 5.0, 7.0, 10.0]),
        (demo_table(), [float(x) for x in range(2, 62, 2)], [16.0, 20.0, 24.0, 30.0, 40.0, 60.0]),
    ):
        summary = summarize(regrets(table, grid, seeds, arguments.workers), grid)
        parts.append((table, summary))
        print(show(table, summary, shown))
        bar = summary["regret"][PLAIN]["mean"][-1]
        print(f"\nOurs is at the {bar:.2f} with which {PLAIN} ends ({grid[-1]:g} epochs) from ", end="")
        print(f"{cost_to_reach(summary, 'ours', bar)} epochs on.\n", flush=True)
    content = {
        "seeds": arguments.seeds,
        "workers": arguments.workers,
        "tables": {table.name: {"unit": table.unit, **summary} for table, summary in parts},
    }
    arguments.results.parent.mkdir(exist_ok=True)
    arguments.results.write_text(json.dumps(content) + "\n", encoding="utf-8")
    draw(parts, arguments.results.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
