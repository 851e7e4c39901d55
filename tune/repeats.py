"""The best configurations trained again: which, with which seeds, and how Ray gets and judges these trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher, SearchGenerator

from medqa.config import TrialConfig
from medqa.selection import NEW_SEEDS, best_first
from tune.outcomes import Metric, TrialOutcome
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
    """Gives Ray each proposal once, also when it goes on after a kill.

    Args:
        proposals: Trainings that have not ended yet.
        concurrent: Most trials that may be unfinished at a time.
        reserve: Told the name and configuration of the next one; returns whether the budget pays for it.
    """

    def __init__(
        self, proposals: Sequence[Proposal], concurrent: int, reserve: Callable[[str, TrialConfig], bool]
    ) -> None:
        super().__init__()
        self.reserve = reserve
        self._left = {proposal.name: proposal for proposal in proposals}
        self.concurrent = concurrent
        self.unfinished = 0
        """Trials now waiting or running in Ray."""

    def follow(self, trials: Sequence[Trial]) -> None:
        """Learn which trials Ray has; call before each round of proposals."""
        for trial in trials:
            self._left.pop(trial.config["name"], None)
        self.unfinished = sum(not trial.is_finished() for trial in trials)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next proposal; None while enough trials run or the budget waits for those that do.

        FINISHED when Ray has all, or when the budget does not pay for the next and nothing is under way.
        """
        if not self._left:
            return str(self.FINISHED)
        if self.unfinished >= self.concurrent:
            return None
        following = next(iter(self._left.values()))
        if not self.reserve(following.name, following.config):
            return None if self.unfinished else str(self.FINISHED)
        self.unfinished += 1
        return self._left.pop(following.name).to_ray()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: what ended is seen by `follow`."""

    def save(self, checkpoint_path: str) -> None:
        """Leave Ray the file it asks for; what there is to know is in Ray's trials."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: `follow` shows Ray's trials."""


class RepeatProposals(SearchGenerator):
    """Ray's SearchGenerator, which asks until its searcher has nothing left, whatever an earlier run had counted."""

    def is_finished(self) -> bool:
        """Whether no more is to be proposed."""
        return bool(self._finished)

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore Ray's state; what is left to propose is this run's."""
        super().set_state({**state, "finished": False})


class FullLength(FIFOScheduler):
    """Ray's scheduler that stops no trial."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, str] = {}
        """Why a trial was stopped; none ever is."""
