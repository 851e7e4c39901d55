"""ASHA in training examples: it spares seed points if asked to, says why it stops a trial, and survives a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from medqa.record import read_json, write_json

GRACE_EPOCHS = 0.63
"""Part of an epoch before any trial may be stopped: step 400 of 636 in the study's six curves. There the first rung
at step 100 finds the best preset 23 % of the time, at 200 61 %, at 400 81 %; the winner is a slow starter."""
REDUCTION_FACTOR = 2
"""A trial goes on when it is in the upper half of those that reached its rung."""


class PresetSparingHalving(AsyncHyperBandScheduler):
    """Ray's ASHA over `examples`; seed points are not stopped unless asked for, and their values count in the rungs.

    Trials are compared by their best value so far, at rungs of 0.63, 1.26, 2.52 epochs' worth of examples. A trial
    whose course is shorter than the next rung simply ends. Rungs and reasons are kept in a file, because Ray saves no
    scheduler.

    Args:
        metric: Key of a result by which trials are compared.
        mode: "max" or "min".
        training_questions: Number of training questions, which make an epoch.
        most_epochs: The longest course in the space.
        prune_seeds: Whether seed points may be stopped like any other trial.
        file: Where rungs and reasons are kept.
    """

    def __init__(
        self, *, metric: str, mode: str, training_questions: int, most_epochs: float, prune_seeds: bool, file: Path
    ) -> None:
        grace = max(1, round(GRACE_EPOCHS * training_questions))
        super().__init__(
            time_attr="examples",
            metric=metric,
            mode=mode,
            grace_period=grace,
            max_t=max(grace, round(most_epochs * training_questions)),
            reduction_factor=REDUCTION_FACTOR,
            stop_last_trials=False,
        )
        self.prune_seeds = prune_seeds
        self.file = file
        self.reasons: dict[str, str] = {}
        """Ray trial id to why ASHA stopped the trial."""
        if file.exists():
            self._load()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Enter the result in its rung and decide; what a person can read about it is kept.

        A trial judged once at a rung is not judged there again, so one that goes on after a kill because Ray had not
        yet saved its end is stopped by the reason kept.
        """
        if trial.trial_id in self.reasons:
            return str(TrialScheduler.STOP)
        bar = self._bar(result["examples"])
        action = super().on_trial_result(tune_controller, trial, result)
        spared = result["finished"] or (bool(trial.config["seed_point"]) and not self.prune_seeds)
        if action == TrialScheduler.STOP and not spared:
            value = result[self.metric]
            self.reasons[trial.trial_id] = f"asha: {value:.4f} at {result['examples']} examples, the bar was {bar:.4f}"
        self._save()
        return str(TrialScheduler.CONTINUE if spared else action)

    def _bar(self, examples: int) -> float:
        """Return the value that a trial new in its rung must reach."""
        bracket = self._brackets[0]
        for milestone, recorded in bracket._rungs:
            if examples >= milestone:
                return float(self._metric_op * bracket.cutoff(recorded)) if recorded else float("nan")
        return float("nan")

    def _save(self) -> None:
        rungs = [[milestone, recorded] for milestone, recorded in self._brackets[0]._rungs]
        write_json(self.file, {"rungs": rungs, "reasons": self.reasons})

    def _load(self) -> None:
        content = read_json(self.file)
        self.reasons = content["reasons"]
        kept = dict(content["rungs"])
        for milestone, recorded in self._brackets[0]._rungs:
            recorded.update(kept.get(milestone, {}))
