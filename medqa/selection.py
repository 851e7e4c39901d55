"""Which trial of a search is the best, and by how much: one rule for the search and for all who read it later."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from medqa.presets import PRESETS

Metric = Literal["accuracy", "answer_nll"]
NEW_SEEDS = 3
"""Seeds with which each of the best configurations is trained again: the fewest that give a spread."""
_TIES = (
    "ties go to the better value of the other validation metric, then to the name that sorts first; "
    "failed trials and the test split have no part in it"
)
BEST_MEANS = (
    "the completed trial with the best value of the search's metric at its kept checkpoint, on all validation "
    "questions; trials that were stopped early count only where none completed; " + _TIES
)
"""What --best chooses."""
CONFIRMED_MEANS = (
    "of the configurations trained again with new seeds, the one with the best mean of the search's metric on "
    "validation over those seeds; one of which a training failed comes after the others; its adapter is the best of "
    "the new ones on validation, not the search's own, whose value was picked for being good; " + _TIES
)
"""What --best chooses where a confirmation is complete.

The mean over seeds that had no part in the choice is what the recipe can be expected to give. One adapter has to be
taken: the new ones stand equal, so that the best of them on validation is a fair guess at the best. The search's own
does not stand equal to them: it is known because of its value, the best of many, which leans high.
"""


class Scored(Protocol):
    """What the choice knows of a trial, whoever keeps it."""

    @property
    def name(self) -> str:
        """Its name in the search."""

    @property
    def seed_point(self) -> str:
        """The name of its seed point, or ""."""

    @property
    def state(self) -> str:
        """How it ended: completed, stopped or failed; anything else has not ended."""

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy at the kept checkpoint; None before the first evaluation."""

    @property
    def answer_nll(self) -> float | None:
        """Validation answer NLL at the kept checkpoint, in nats."""

    @property
    def confirms(self) -> str:
        """Name of the trial whose configuration it repeats with a new seed; "" for a trial of the search itself."""


T = TypeVar("T", bound=Scored)


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed(Generic[T]):
    """A configuration and its trainings with new seeds."""

    trial: T
    """The search's own."""
    repeats: tuple[T, ...]
    """Those that completed, best first."""
    failed: int
    """Those that did not."""
    mean: float | None
    """Mean of the search's metric over `repeats`; None where there are none."""
    deviation: float | None
    """Standard deviation of the same (n - 1); None of fewer than two."""
    drop: float | None
    """By how much the mean is worse than the search's own value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Margin(Generic[T]):
    """By how much the best is better than another, in the search's metric; never a difference of unlike numbers."""

    over: str
    """What the other is."""
    other: T
    value: float
    runs: tuple[T, ...]
    """The trainings whose mean stands for the best: with new seeds where both have them, else the search's own."""
    other_runs: tuple[T, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice(Generic[T]):
    """The best trial."""

    trial: T
    """The search's trial with the best configuration."""
    evaluated: T
    """The training whose adapter is the best: the same trial, or one with a new seed."""
    best_preset: T | None
    """The training that stands for the best preset beside `evaluated`; None where no preset can be it."""
    means: str
    """BEST_MEANS or CONFIRMED_MEANS, whichever chose."""
    note: str
    """Why a confirmation that was asked for did not choose, or ""."""
    confirmed: tuple[Confirmed[T], ...]
    """Best first; empty unless a confirmation chose."""
    margins: tuple[Margin[T], ...]


def selection_key(metric: str, accuracy: float | None, answer_nll: float | None) -> tuple[float, float]:
    """Return a key by which the better of two results sorts first; a missing value comes last."""
    wrong = math.inf if accuracy is None else -accuracy
    nats = math.inf if answer_nll is None else answer_nll
    return (wrong, nats) if metric == "accuracy" else (nats, wrong)


def best_first(trials: Iterable[T], metric: str) -> list[T]:
    """Return the trials that can be the best, best first: the completed ones, or the stopped where none completed."""
    trials = list(trials)
    for state in ("completed", "stopped"):
        if able := [trial for trial in trials if trial.state == state and _value(trial, metric) is not None]:
            return sorted(able, key=lambda trial: (*_key(trial, metric), trial.name))
    return []


def choose(trials: Sequence[T], repeats: Sequence[T], metric: str, confirm: int) -> Choice[T] | None:
    """Return the best trial as BEST_MEANS and CONFIRMED_MEANS say; None when no trial can be it.

    Args:
        trials: The search's own.
        repeats: Trainings of their configurations with new seeds.
        metric: The search's.
        confirm: Configurations that shall be trained again; 0 when no confirmation was asked for.
    """
    ranked = best_first(trials, metric)
    if not ranked:
        return None
    confirmed, note = _confirm(ranked[:confirm], repeats, metric)
    again = [one.trial for one in confirmed]
    order = again + [trial for trial in ranked if trial not in again]
    preset = next((trial for trial in order if trial.seed_point in PRESETS), None)
    return Choice(
        trial=order[0],
        evaluated=confirmed[0].repeats[0] if confirmed else order[0],
        best_preset=next((one.repeats[0] for one in confirmed if one.trial is preset and one.repeats), preset),
        means=CONFIRMED_MEANS if confirmed else BEST_MEANS,
        note=note,
        confirmed=confirmed,
        margins=_margins(order, {one.trial.name: one.repeats for one in confirmed}, metric),
    )


def _confirm(trials: Sequence[T], repeats: Sequence[T], metric: str) -> tuple[tuple[Confirmed[T], ...], str]:
    """Return the confirmed configurations, best first, and why there are none though some were asked for."""
    ended = [run for run in repeats if run.state in ("completed", "stopped", "failed")]
    done = sum(min(NEW_SEEDS, sum(run.confirms == trial.name for run in ended)) for trial in trials)
    if done < NEW_SEEDS * len(trials):
        return (), f"the confirmation is not complete ({done} of {NEW_SEEDS * len(trials)} trainings have ended)"
    confirmed = [_confirmed(trial, [run for run in ended if run.confirms == trial.name], metric) for trial in trials]
    if confirmed and not any(one.repeats for one in confirmed):
        return (), "every training of the confirmation failed"
    return tuple(sorted(confirmed, key=lambda one: _confirmed_key(one, metric))), ""


def _confirmed(trial: T, ended: Sequence[T], metric: str) -> Confirmed[T]:
    completed = best_first((run for run in ended if run.state == "completed"), metric)
    values = [_known(run, metric) for run in completed]
    mean = statistics.fmean(values) if values else None
    return Confirmed(
        trial=trial,
        repeats=tuple(completed),
        failed=len(ended) - len(completed),
        mean=mean,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        drop=None if mean is None else advantage(metric, _known(trial, metric), mean),
    )


def _confirmed_key(one: Confirmed[T], metric: str) -> tuple[float, float, float, str]:
    means = [
        statistics.fmean(_known(run, name) for run in one.repeats) if one.repeats else None
        for name in ("accuracy", "answer_nll")
    ]
    return (one.failed, *selection_key(metric, *means), one.trial.name)


def _margins(order: Sequence[T], again: dict[str, tuple[T, ...]], metric: str) -> tuple[Margin[T], ...]:
    """Compare the first with the second, and with the best preset; or, where it is a preset, with the best other."""
    best, others = order[0], order[1:]
    if not others:
        return ()
    is_preset = best.seed_point in PRESETS
    kind = "the best trial that is no preset" if is_preset else "the best preset"
    rival = next((trial for trial in others if (trial.seed_point in PRESETS) != is_preset), None)
    if rival is others[0]:
        return (_margin(f"the runner-up and {kind}", best, rival, again, metric),)
    runner_up = _margin("the runner-up", best, others[0], again, metric)
    return (runner_up,) if rival is None else (runner_up, _margin(kind, best, rival, again, metric))


def _margin(over: str, best: T, other: T, again: dict[str, tuple[T, ...]], metric: str) -> Margin[T]:
    both = bool(again.get(best.name)) and bool(again.get(other.name))
    runs, other_runs = (again[best.name], again[other.name]) if both else ((best,), (other,))
    first, second = (statistics.fmean(_known(run, metric) for run in side) for side in (runs, other_runs))
    return Margin(over=over, other=other, value=advantage(metric, first, second), runs=runs, other_runs=other_runs)


def advantage(metric: str, first: float, second: float) -> float:
    """Return by how much the first value is better than the second."""
    return first - second if metric == "accuracy" else second - first


def _key(trial: Scored, metric: str) -> tuple[float, float]:
    return selection_key(metric, trial.accuracy, trial.answer_nll)


def _value(trial: Scored, metric: str) -> float | None:
    return trial.accuracy if metric == "accuracy" else trial.answer_nll


def _known(trial: Scored, metric: str) -> float:
    value = _value(trial, metric)
    return math.nan if value is None else value
