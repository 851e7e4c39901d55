"""The best configurations trained again: which, with which seeds, and how Ray gets and judges these trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from medqa.config import TrialConfig
from medqa.selection import NEW_SEEDS, Metric, best_first
from tune.outcomes import TrialOutcome
from tune.proposal import Proposal

_SEEDS = 2**31
"""How many seeds there are."""


def repeats_of(rows: Sequence[TrialOutcome], metric: Metric, count: int, seed: int) -> list[Proposal]:
    """Return the best `count` configurations with new seeds each: the ones after the search's `seed`.

    All configurations get the same new seeds, unless a trial of a person's own has one of them already.
    """
    return [
        Proposal(
            name=f"{row.name}_seed_{new}",
            seed_point=row.seed_point,
            config=dataclasses.replace(row.config, seed=new),
            confirms=row.name,
        )
        for row in best_first(rows, metric)[:count]
        for new in new_seeds(seed, row.config.seed)
    ]


def new_seeds(seed: int, own: int) -> list[int]:
    """Return the seeds that follow the search's, without the one that the trial had itself."""
    following = [(seed + step) % _SEEDS for step in range(1, NEW_SEEDS + 2)]
    return [new for new in following if new != own][:NEW_SEEDS]


class Repeats(Searcher):
    """Gives Ray each training once.

    Args:
        proposals: Trainings that have not ended yet; one that a kill interrupted goes on from what it kept.
        concurrent: Most trials that may be unfinished at a time.
        pays_for: Told the name and configuration of the next one; says whether the budget pays for it.
    """

    def __init__(
        self, proposals: Sequence[Proposal], concurrent: int, pays_for: Callable[[str, TrialConfig], bool]
    ) -> None:
        super().__init__()
        self._left = list(proposals)
        self._under_way: set[str] = set()
        self.concurrent, self.pays_for = concurrent, pays_for
        self.proposed = 0
        """Trainings that Ray has been given."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next proposal; None while enough trials run or the budget waits for those that do.

        FINISHED when Ray has all, or when the budget does not pay for the next and nothing is under way.
        """
        if not self._left:
            return str(self.FINISHED)
        if len(self._under_way) >= self.concurrent:
            return None
        following = self._left[0]
        if not self.pays_for(following.name, following.config):
            return None if self._under_way else str(self.FINISHED)
        self._under_way.add(following.name)
        self.proposed += 1
        return self._left.pop(0).to_ray()

    def trial_evaluated(self, name: str, result: Mapping[str, Any]) -> None:
        """Learn nothing: what is trained follows from the search alone."""

    def trial_ended(self, outcome: TrialOutcome) -> None:
        """Note that a training has ended."""
        self._under_way.discard(outcome.name)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass over what Ray says: the search's events say it."""

    def save(self, checkpoint_path: str) -> None:
        """Leave Ray the file it asks for; nothing is read back from it."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: Ray's state is not read back."""


class FullLength(FIFOScheduler):
    """Ray's scheduler that stops no trial."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, str] = {}
        """Why a trial was stopped; none ever is."""
