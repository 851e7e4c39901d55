"""Ways to search a table of recorded learning curves: this project's, Ray's parts as they come, and plain ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import matplotlib
import numpy as np
import optuna
from curve_tables import Params, Table
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from tune.rungs import Rungs
from tune.study import SamplerName, new_sampler

matplotlib.use("Agg")


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a trial says at an evaluation."""

    number: int
    """Of the trial, in order of its start."""
    iteration: int
    cost: float
    """Epochs trained so far."""
    progress: float
    """Share of its course done."""
    value: float
    best: float
    finished: bool


class Method(Protocol):
    """A way to search."""

    counts_unfinished: bool
    """Whether a trial's value counts before its end."""

    def suggest(self, number: int) -> int | None:
        """Return the recorded trial that is run next; None when there is none."""

    def reported(self, report: Report) -> bool:
        """Return whether the trial is stopped."""

    def ended(self, report: Report) -> None:
        """Take how a trial ended."""


class Snapped(BaseSampler):
    """An Optuna sampler whose proposals are moved to the nearest recorded trial that was not run yet."""

    def __init__(self, inner: BaseSampler, table: Table, used: set[int]) -> None:
        self.inner, self.table, self.used = inner, table, used
        self.chosen = -1

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        return self.table.space

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Params:
        proposal = self.inner.sample_relative(study, trial, self.inner.infer_relative_search_space(study, trial))
        for name, kind in self.table.space.items():
            if name not in proposal:
                proposal[name] = self.inner.sample_independent(study, trial, name, kind)
        self.chosen = self.table.nearest(proposal, self.used)
        self.used.add(self.chosen)
        return dict(self.table.points[self.chosen])

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        raise AssertionError("every parameter is sampled together")


class Ours:
    """This project's search: presets first and to their end, its sampler, its rungs."""

    counts_unfinished = False

    def __init__(
        self,
        table: Table,
        seed: int,
        *,
        sampler: SamplerName = "tpe",
        prunes_presets: bool = False,
        stops: bool = True,
        by_share: bool = True,
        only_presets: bool = False,
    ) -> None:
        self.table, self.seed, self.kind = table, seed, sampler
        self.spared = set() if prunes_presets else set(range(len(table.presets)))
        self.stops, self.by_share, self.only_presets = stops, by_share, only_presets
        self.rungs, self.longest = Rungs("max"), max(curve.course for curve in table.curves)
        self.study = optuna.create_study(direction="maximize")
        self.waiting = [int(index) for index in np.random.default_rng(seed).permutation(table.presets)]
        self.used = set(table.presets)
        self.trials: dict[int, optuna.Trial] = {}

    def suggest(self, number: int) -> int | None:
        if self.waiting:
            index = self.waiting.pop(0)
            self.study.enqueue_trial(self.table.points[index])
            self.trials[number] = self.study.ask(self.table.space)
            return index
        if self.only_presets or len(self.used) == len(self.table.points):
            return None
        mixed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
        snapped = Snapped(new_sampler(self.kind, mixed), self.table, self.used)
        self.study.sampler = snapped
        self.trials[number] = self.study.ask(self.table.space)
        return snapped.chosen

    def reported(self, report: Report) -> bool:
        self.trials[report.number].report(report.best, round(1000 * report.cost))
        progress = report.progress if self.by_share else report.cost / self.longest
        verdict = self.rungs.judge(str(report.number), progress, 0.1, report.best)
        return self.stops and report.number not in self.spared and verdict is not None and verdict.stops

    def ended(self, report: Report) -> None:
        trial = self.trials[report.number]
        if report.finished:
            self.study.tell(trial, report.best)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)


class AsTheyCome:
    """Ray's OptunaSearch and ASHA with their defaults, by the value of the newest evaluation."""

    counts_unfinished = True

    def __init__(
        self, table: Table, seed: int, *, sampler: type[BaseSampler] = TPESampler, presets_first: bool = False
    ) -> None:
        self.table = table
        self.waiting = list(table.presets) if presets_first else []
        used = set(self.waiting)
        self.snapped = Snapped(sampler(seed=seed), table, used)
        first = [dict(table.points[index]) for index in self.waiting] or None
        self.search = OptunaSearch(
            space=table.space, metric="value", mode="max", sampler=self.snapped, points_to_evaluate=first
        )
        self.scheduler = AsyncHyperBandScheduler(metric="value", mode="max")
        self.trials: dict[int, _RayTrial] = {}

    def suggest(self, number: int) -> int | None:
        if len(self.snapped.used) == len(self.table.points) and not self.waiting:
            return None
        self.trials[number] = _RayTrial(trial_id=str(number))
        self.search.suggest(str(number))
        self.scheduler.on_trial_add(None, self.trials[number])
        return self.waiting.pop(0) if self.waiting else self.snapped.chosen

    def reported(self, report: Report) -> bool:
        result = _ray_result(report)
        stops = self.scheduler.on_trial_result(None, self.trials[report.number], result) == "STOP"
        if not stops and not report.finished:
            self.search.on_trial_result(str(report.number), result)
        return bool(stops)

    def ended(self, report: Report) -> None:
        self.search.on_trial_complete(str(report.number), _ray_result(report))


@dataclass(frozen=True, slots=True)
class _RayTrial:
    """What Ray's scheduler reads of a trial."""

    trial_id: str


def _ray_result(report: Report) -> dict[str, Any]:
    return {"training_iteration": report.iteration, "value": report.value}


class RandomSearch:
    """Random trials to their end."""

    counts_unfinished = True

    def __init__(self, table: Table, seed: int) -> None:
        self.order = [int(index) for index in np.random.default_rng(seed).permutation(len(table.points))]

    def suggest(self, number: int) -> int | None:
        return self.order.pop(0) if self.order else None

    def reported(self, report: Report) -> bool:
        return False

    def ended(self, report: Report) -> None:
        pass


METHODS: dict[str, Callable[[Table, int], Method]] = {
    "six presets": lambda table, seed: Ours(table, seed, only_presets=True),
    "random": RandomSearch,
    "random + ASHA as it comes": lambda table, seed: AsTheyCome(table, seed, sampler=RandomSampler),
    "OptunaSearch + ASHA as they come": AsTheyCome,
    "the same, presets first": lambda table, seed: AsTheyCome(table, seed, presets_first=True),
    "ours": Ours,
    "ours, --prune-seeds": lambda table, seed: Ours(table, seed, prunes_presets=True),
    "ours, multivariate TPE": lambda table, seed: Ours(table, seed, sampler="multivariate_tpe"),
    "ours, random sampler": lambda table, seed: Ours(table, seed, sampler="random"),
    "ours, nothing stopped": lambda table, seed: Ours(table, seed, stops=False),
    "ours, rungs at equal steps": lambda table, seed: Ours(table, seed, by_share=False),
    "ours, equal steps, --prune-seeds": lambda table, seed: Ours(table, seed, by_share=False, prunes_presets=True),
}
