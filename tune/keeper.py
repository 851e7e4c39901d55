"""What an ended trial leaves: its record for good, its adapter while it is among the best, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

from tune.checkpoints import ended_trials, prune
from tune.outcomes import Metric, Outcomes, TrialOutcome, best_names
from tune.tracking import Tracking

_EVERY_SECONDS = 2.0


class Keeper:
    """Keeps outcomes and the best adapters; a trial's own folder is emptied once Ray and MLflow have what they need.

    Args:
        outcomes: Of the trials that have ended.
        tracking: Uploads what is kept.
        trials: Ray's folder of the search.
        metric: By which the best are chosen.
        adapters: How many of the best keep their adapter.
    """

    def __init__(self, outcomes: Outcomes, tracking: Tracking, trials: Path, metric: Metric, adapters: int) -> None:
        self.outcomes, self.tracking, self.trials = outcomes, tracking, trials
        self.metric: Metric = metric
        self.adapters = adapters
        self._untidy = {row.name for row in outcomes.rows()}
        self._ended: set[str] = set()
        self._looked = 0.0
        # a kill may have come before it was written down, or fewer may be kept than before
        for row in outcomes.rows():
            if row.accuracy is not None and row.name not in self._best(outcomes.rows()):
                tracking.adapter_displaced(row)

    def trial_ended(self, outcome: TrialOutcome, run_dir: Path | None) -> None:
        """Keep a trial that has ended, and its adapter if it is among the best; another may lose its own to it."""
        before = self.outcomes.rows()
        after = (*(row for row in before if row.name != outcome.name), outcome)
        best = self._best(after)
        # told first, so that a full disk has room for what is uploaded then
        for row in before:
            if row.name in self._best(before) - best:
                self.tracking.adapter_displaced(row)
        self.tracking.trial_ended(outcome, run_dir, with_adapter=outcome.name in best)
        # last: a kill before this line makes Ray end the trial again, and nothing above minds
        self.outcomes.add(outcome)
        self._untidy.add(outcome.name)

    def look(self) -> None:
        """Empty the folders of ended trials, as far as can be now; called often, it does so every two seconds."""
        if self._untidy and time.monotonic() - self._looked >= _EVERY_SECONDS:
            self.tidy()

    def tidy(self) -> None:
        """Empty the folders of ended trials, as far as can be now."""
        if not self._untidy <= self._ended:
            self._ended = ended_trials(self.trials)
        best = self._best(self.outcomes.rows())
        for name in self._untidy & self._ended:
            if prune(self.trials / name, self.tracking.still_needs if name in best else _is_needless):
                self._untidy.discard(name)
        self._looked = time.monotonic()

    def _best(self, rows: tuple[TrialOutcome, ...]) -> frozenset[str]:
        return best_names(rows, self.metric, self.adapters)


def _is_needless(folder: Path) -> bool:
    return False
