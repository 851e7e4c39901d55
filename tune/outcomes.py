"""What became of each trial of a search: one row a trial, kept in the search's folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medqa.config import TrialConfig
from medqa.presets import PRESETS
from medqa.record import read_json, write_json
from medqa.selection import Metric, best_first
from tune.failures import FailureClass

State = Literal["completed", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialOutcome:
    """How a trial ended, with the numbers of its kept best checkpoint."""

    name: str
    """Its name in the search; no two trials share one."""
    seed_point: str
    """The preset's name, or ""."""
    state: State
    """Came to its own end; stopped by ASHA; ended by an error."""
    stop_reason: str
    """"completed", "early_stopped", ASHA's words, or the failure's class and reason."""
    config: TrialConfig
    accuracy: float | None
    """Best validation accuracy; None when the trial failed before its first evaluation."""
    answer_nll: float | None
    """Validation answer NLL at the same checkpoint, nats."""
    questions: int
    """Validation questions that both are from: all for a completed trial, else a sample; 0 where it has no values."""
    steps: int
    """Optimizer steps done."""
    seconds: float
    """Wall seconds of training."""
    failure: FailureClass = ""
    """What kind of failure ended it; "" for a trial that did not fail."""
    retries: int = 0
    """Times that it went on after its worker died or was taken away."""
    gpu_seconds: float = 0.0
    """GPU-seconds for which it held its worker, over all its starts; 0.0 on CPUs."""
    cost: float | None = None
    """Their price; None where GPU-hours have none."""
    confirms: str = ""
    """Name of the trial whose configuration it repeats with a new seed; "" for a trial of the search itself."""


class Outcomes:
    """The rows of a search by trial, in order of their end, kept in a file.

    A trial has ended when its row is in the file: what was told of its end before is told again after a kill in
    between, and what is told later follows from the row.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._rows: dict[str, TrialOutcome] = {}
        if file.exists():
            for row in read_json(file):
                self._rows[row["name"]] = TrialOutcome(**{**row, "config": TrialConfig(**row["config"])})

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> tuple[TrialOutcome, ...]:
        """Return all rows in order of their end."""
        return tuple(self._rows.values())

    def add(self, outcome: TrialOutcome) -> None:
        """Keep a trial's outcome, in place of an earlier one of the same trial."""
        self._rows[outcome.name] = outcome
        write_json(self.file, [dataclasses.asdict(row) for row in self._rows.values()])


def best_names(rows: tuple[TrialOutcome, ...], metric: Metric, count: int) -> frozenset[str]:
    """Return the best trials that have not failed: completed ones before stopped ones.

    The best preset is always one of them where there are two or more: the final evaluation compares the winner with it.
    """
    states = ("completed", "stopped")
    ranked = [row for state in states for row in best_first((row for row in rows if row.state == state), metric)]
    presets = [row for row in ranked if row.seed_point in PRESETS]
    if count > 1 and presets and presets[0] not in ranked[:count]:
        ranked = [*ranked[: count - 1], presets[0]]
    return frozenset(row.name for row in ranked[:count])
