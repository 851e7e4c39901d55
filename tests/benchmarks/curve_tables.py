"""Recorded learning curves as a black box for searches: the study's six presets, and the demo's table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from demo_curves import FILE, SEEDS, read_rows
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from sklearn.ensemble import RandomForestRegressor

from medqa.config import from_mapping
from medqa.demo import LEARNING_RATE_FACTOR
from tune.space import Space

PATIENCE = 3
Params = dict[str, Any]
STUDY_LOSSES = """
1.012430 .998013 .984512 .977100 .968639 .959363 .970239 .968882 .964504
1.010241 .993710 .980955 .973089 .965998 .958321 .963546 .961391 .958791
1.016934 .998992 .983228 .973563 .963980 .952664 .972896 .975774 .970645
1.024983 .996553 .985458 .975137 .968872 .963279 .963650 .961486 .959831 .956861 .954281 .951495 .959800 .962542 .963003
1.014237 1.001462 .988192 .983066 .976689 .968524 .980103 .981465 .976619
1.051221 1.050710 1.045625 1.032887 1.020318 1.003166 1.012740 1.006572 .996334 .984990 .982062 .981024
"""
"""Validation loss of the presets of the study, in their order, one value per 100 steps, to their early stop."""
STUDY_STEPS_PER_EPOCH = 10_178 / 16
STUDY_EPOCHS = (2, 2, 2, 3, 3, 2)


@dataclass(frozen=True, slots=True)
class Curve:
    """One trial, trained until its patience of three evaluations ended it."""

    costs: tuple[float, ...]
    """What the trial has cost at each evaluation, in epochs."""
    values: tuple[float, ...]
    """What it was worth there; larger is better."""
    course: float
    """Epochs of its whole schedule."""

    @property
    def final(self) -> float:
        """What the trial is worth: its best value."""
        return max(self.values)


@dataclass(frozen=True, slots=True)
class Table:
    """A finite search space in which every trial's curve is known."""

    name: str
    space: dict[str, BaseDistribution]
    points: tuple[Params, ...]
    curves: tuple[Curve, ...]
    presets: tuple[int, ...]
    unit: str
    """Of regret."""
    scale: float
    """What a difference of values is multiplied by to be in that unit."""
    weights: tuple[float, ...]
    """How much each parameter counts in the distance between two points."""

    @property
    def best(self) -> float:
        """The best value of any trial."""
        return max(curve.final for curve in self.curves)

    def nearest(self, params: Params, used: set[int]) -> int:
        """Return the recorded trial that lies nearest to a proposal and was not run yet."""
        free = [index for index in range(len(self.points)) if index not in used]
        return min(free, key=lambda index: self._distance(params, self.points[index]))

    def _distance(self, first: Params, second: Params) -> float:
        pairs = zip(self.space.items(), self.weights, strict=True)
        return sum(weight * _apart(kind, first[name], second[name]) ** 2 for (name, kind), weight in pairs)


def _apart(kind: BaseDistribution, first: Any, second: Any) -> float:
    """Return how far two values of a parameter are apart, 1 from one end to the other."""
    if isinstance(kind, CategoricalDistribution):
        return float(first != second)
    if isinstance(kind, FloatDistribution):
        return math.log(first / second) / math.log(kind.high / kind.low)
    return (first - second) / kind.high


def study_table() -> Table:
    """Return the six presets as the study trained them, by validation loss."""
    losses = [[float(text) for text in line.split()] for line in STUDY_LOSSES.split("\n") if line]
    curves = tuple(
        Curve(
            costs=tuple((index + 1) * 100 / STUDY_STEPS_PER_EPOCH for index in range(len(row))),
            values=tuple(-loss for loss in row),
            course=float(epochs),
        )
        for row, epochs in zip(losses, STUDY_EPOCHS, strict=True)
    )
    return Table(
        name="the study's six curves",
        space={"preset": CategoricalDistribution(range(6))},
        points=tuple({"preset": index} for index in range(6)),
        curves=curves,
        presets=tuple(range(6)),
        unit="thousandths of a nat of validation loss",
        scale=1000,
        weights=(1.0,),
    )


def demo_table(file: Path = FILE) -> Table:
    """Return the demo's configurations with the first seed, by validation accuracy."""
    rows = [row for row in read_rows(file) if row["seed"] == SEEDS[0]]
    space = Space(fixed={"seed": SEEDS[0]}, learning_rate_factor=LEARNING_RATE_FACTOR)
    kinds = space.distributions()
    points = tuple(space.to_point(from_mapping(row["config"])) for row in rows)
    curves = tuple(_demo_curve(row) for row in rows)
    return Table(
        name=f"{len(rows)} configurations of the demo",
        space=kinds,
        points=points,
        curves=curves,
        presets=tuple(index for index, row in enumerate(rows) if row["preset"]),
        unit="points of validation accuracy",
        scale=100,
        weights=_importances(kinds, points, curves),
    )


def _demo_curve(row: dict[str, Any]) -> Curve:
    """Replay a recorded course as a search runs it: every second evaluation, and patience."""
    last = len(row["curve"]) - 1
    seen: list[list[float]] = []
    since_best, best = 0, (-math.inf, -math.inf)
    for index, point in enumerate(row["curve"]):
        if index % 2 == 0 and index != last:
            continue
        seen.append(point)
        key = (point[1], -point[2])
        since_best = 0 if key > best else since_best + 1
        best = max(best, key)
        if since_best == PATIENCE:
            break
    questions = row["curve"][last][0] / row["config"]["num_train_epochs"]
    return Curve(
        costs=tuple(point[0] / questions for point in seen),
        values=tuple(point[1] for point in seen),
        course=row["config"]["num_train_epochs"],
    )


def _importances(
    kinds: dict[str, BaseDistribution], points: tuple[Params, ...], curves: tuple[Curve, ...]
) -> tuple[float, ...]:
    """Return how much each parameter matters on the whole table, by a random forest's impurity importances."""
    rows = [[_number(kind, point[name]) for name, kind in kinds.items()] for point in points]
    forest = RandomForestRegressor(500, min_samples_leaf=2, random_state=0)
    return tuple(forest.fit(np.array(rows), [curve.final for curve in curves]).feature_importances_)


def _number(kind: BaseDistribution, value: Any) -> float:
    if isinstance(kind, CategoricalDistribution):
        return float(kind.choices.index(value))
    return math.log(value) if isinstance(kind, FloatDistribution) else float(value)
