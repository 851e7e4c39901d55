"""How sure the choice of the best trial is: paired margins on validation, and what new seeds confirmed."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from analysis.comparison import paired_difference, paired_margin
from analysis.finding_files import BOOTSTRAP_SEED, compare_configurations
from analysis.intervals import bootstrap_mean
from analysis.runs import Search, Trial, read_validation
from medqa.choice_text import format_margin, format_note, format_value
from medqa.metrics import accuracy
from medqa.prediction import Prediction
from medqa.record import predictions_from_rows
from medqa.selection import NEW_SEEDS, Choice, Margin

_WIDTH = 118
Reader = Callable[[Trial], dict[str, Any] | None]
"""A trial to its val_results.json; None where it is lost."""


def describe_choice(choice: Choice[Trial], metric: str, read: Reader) -> dict[str, Any]:
    """Return what evaluation.json says of the choice; every value is in the metric's own unit."""
    return {
        "metric": metric,
        "trial": choice.trial.name,
        "evaluated": choice.evaluated.name,
        "means": choice.means,
        "note": choice.note,
        "margins": [_margin(margin, metric, read) for margin in choice.margins],
        "confirmed": [
            {
                "name": one.trial.name,
                "search": one.trial.accuracy if metric == "accuracy" else one.trial.answer_nll,
                "search_interval": _own_interval(one.trial, metric, read),
                "seeds": len(one.repeats),
                "mean": one.mean,
                "deviation": one.deviation,
                "drop": one.drop,
                "failed": one.failed,
            }
            for one in choice.confirmed
        ],
    }


def _own_interval(trial: Trial, metric: str, read: Reader) -> dict[str, Any] | None:
    """Return the interval of a training's own number; None where its answers are lost."""
    answers = _predictions([trial], read)
    if not answers:
        return None
    if metric == "accuracy":
        return dataclasses.asdict(accuracy(answers[0]))
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    return dataclasses.asdict(bootstrap_mean([item.gold_nll for item in answers[0]], generator))


def _margin(margin: Margin[Trial], metric: str, read: Reader) -> dict[str, Any]:
    sides = [_predictions(runs, read) for runs in (margin.runs, margin.other_runs)]
    interval, test = None, None
    if all(sides):
        generator = np.random.default_rng(BOOTSTRAP_SEED)
        interval = dataclasses.asdict(paired_margin(sides[0], sides[1], metric, generator))
    if interval and len(margin.runs) == len(margin.other_runs) == 1:  # McNemar's test is of two models, not of means
        test = dataclasses.asdict(paired_difference(sides[0][0], sides[1][0], np.random.default_rng(BOOTSTRAP_SEED)))
    return {
        "over": margin.over,
        "name": margin.other.name,
        "value": margin.value,
        "interval": interval,
        "test": test,
        "over_new_seeds": bool(margin.runs[0].confirms),
    }


def _predictions(runs: Sequence[Trial], read: Reader) -> list[tuple[Prediction, ...]]:
    """Return the predictions of each training; none at all where those of one are lost."""
    found = [read(run) for run in runs]
    known = [results for results in found if results is not None]
    return [predictions_from_rows(results["predictions"]) for results in known] if len(known) == len(found) else []


def compare_with_others(search: Search, winner: Trial, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Compare a training with the other completed ones of its search, as `compare_configurations` says."""
    others: dict[str, tuple[Prediction, ...]] = {}
    for trial in (*search.trials, *search.repeats):
        if trial.state == "completed" and trial.run_id and trial.run_id != winner.run_id:
            results = read_validation(search, trial)
            others[trial.name] = predictions_from_rows(results["predictions"]) if results else ()
    return compare_configurations(winner.name, predictions, others)


def format_choice(search: str, chosen: dict[str, Any]) -> str:
    """Return what was chosen, what that means and how sure it is, as lines of text."""
    adapter = "" if chosen["evaluated"] == chosen["trial"] else f", evaluated with the adapter of {chosen['evaluated']}"
    table = confirmation_table(chosen)
    return "\n".join(
        [
            f"search {search!r}: the best trial is {chosen['trial']}{adapter}",
            *(f"  {line}" for line in choice_lines(chosen)),
            *textwrap.wrap(f"--best means {chosen['means']}", _WIDTH, initial_indent="  ", subsequent_indent="  "),
            *(["", table, ""] if table else [""]),
        ]
    )


def choice_lines(chosen: dict[str, Any]) -> list[str]:
    """Return the margins, and why a confirmation did not choose, one line each."""
    lines = [_margin_line(margin, chosen["metric"]) for margin in chosen["margins"]]
    if chosen["note"]:
        lines.append(format_note(chosen["note"]))
    return lines


def _margin_line(margin: dict[str, Any], metric: str) -> str:
    text = format_margin(margin["value"], metric, margin["over"], margin["name"], margin["over_new_seeds"])
    interval = margin["interval"]
    if interval is None:
        return f"{text}; no interval: validation answers are not kept)"
    scale, digits = (100, 1) if metric == "accuracy" else (1, 3)
    low, high = (scale * interval[end] for end in ("low", "high"))
    chance = ", which includes 0" if low <= 0 <= high else ""
    return f"{text}; paired 95 % interval {low:+.{digits}f} to {high:+.{digits}f}, n = {interval['n']:,}{chance})"


def confirmation_table(chosen: dict[str, Any]) -> str:
    """Return the confirmed configurations as a table in Markdown; "" where there are none."""
    if not chosen["confirmed"]:
        return ""
    rows = [f"| {' | '.join(cells)} |" for cells in (CONFIRMATION_HEAD, *confirmation_rows(chosen))]
    return "\n".join(
        [f"{confirmation_caption(chosen)}:", "", rows[0], "|---" * len(CONFIRMATION_HEAD) + "|", *rows[1:]]
    )


CONFIRMATION_HEAD = ("trial", "in the search", "mean of new seeds", "standard deviation", "new seeds", "drop", "failed")
"""Of the table of the confirmed configurations; a mean of a few seeds has their deviation and number beside it."""


def confirmation_caption(chosen: dict[str, Any]) -> str:
    """Return what the numbers of `confirmation_rows` are."""
    shown = "accuracy, %" if chosen["metric"] == "accuracy" else "answer NLL, nats"
    sizes = [one["search_interval"]["n"] for one in chosen["confirmed"] if one.get("search_interval")]
    return f"validation {shown}" + (f" (in brackets: 95 % interval, n = {sizes[0]:,} questions)" if sizes else "")


def confirmation_rows(chosen: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Return one row a confirmed configuration, below CONFIRMATION_HEAD."""
    metric = chosen["metric"]
    return tuple(
        (
            one["name"],
            _with_interval(one["search"], one.get("search_interval"), metric),
            *(format_value(one[key], metric) for key in ("mean", "deviation")),
            str(one.get("seeds", NEW_SEEDS - one["failed"])),
            format_value(one["drop"], metric),
            str(one["failed"]),
        )
        for one in chosen["confirmed"]
    )


def _with_interval(value: float | None, interval: dict[str, Any] | None, metric: str) -> str:
    shown = format_value(value, metric)
    if interval is None:
        return shown
    low, high = (format_value(interval[end], metric) for end in ("low", "high"))
    return f"{shown} ({low} to {high})"
