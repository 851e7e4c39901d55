"""What Ray reports of the trials, passed on to those who keep, track and show it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from tune.budget import Clock
from tune.checkpoints import tidy
from tune.console import Console
from tune.halving import PresetSparingHalving
from tune.outcomes import Outcomes, State, TrialOutcome
from tune.proposal import proposal_of
from tune.sampler import PresetsThenOptuna
from tune.tracking import Tracking


class SearchEvents(Callback):
    """The one listener to Ray Tune; each event goes to those it concerns."""

    def __init__(
        self,
        sampler: PresetsThenOptuna,
        halving: PresetSparingHalving,
        outcomes: Outcomes,
        tracking: Tracking,
        console: Console,
        clock: Clock,
    ) -> None:
        self.sampler, self.halving, self.outcomes = sampler, halving, outcomes
        self.tracking, self.console, self.clock = tracking, console, clock
        self._is_first_step = True

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tell the sampler which trials there are, before it is asked for more."""
        self.sampler.follow(trials)
        if self._is_first_step:  # those from an earlier run of the search have not started yet
            self._is_first_step = False
            for trial in (trial for trial in trials if not trial.is_finished()):
                tidy(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """End the run when the hours are used up, as Ctrl-C does: what runs can go on later."""
        self.clock.tick()
        if self.clock.is_over:
            signal.raise_signal(signal.SIGINT)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Open the trial's run."""
        self.tracking.trial_started(proposal_of(trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Log an evaluation."""
        self.tracking.trial_evaluated(proposal_of(trial.config), result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Keep a trial that came to its end or was stopped."""
        if trial.last_result.get("finished"):
            self._end(trial, "completed", trial.last_result["stop_reason"])
        else:
            self._end(trial, "stopped", self.halving.reasons.get(trial.trial_id, ""))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Keep a trial that an error ended."""
        self.tracking.trial_started(proposal_of(trial.config))
        error = Path(trial.error_file)
        self._end(trial, "failed", last_line(error.read_text() if error.exists() else ""))

    def _end(self, trial: Trial, state: State, reason: str) -> None:
        outcome = outcome_of(trial, state, reason)
        self.outcomes.add(outcome)
        run_dir = Path(trial.checkpoint.path) if trial.checkpoint else None
        self.tracking.trial_ended(outcome, run_dir)
        self.console.trial_ended(outcome, len(self.outcomes))


def outcome_of(trial: Trial, state: State, reason: str) -> TrialOutcome:
    """Return the row of a trial that has ended."""
    proposal = proposal_of(trial.config)
    result = trial.last_result or {}
    return TrialOutcome(
        name=proposal.name,
        seed_point=proposal.seed_point,
        state=state,
        stop_reason=reason,
        config=proposal.config,
        accuracy=result.get("best_accuracy"),
        answer_nll=result.get("best_answer_nll"),
        steps=result.get("step", 0),
        seconds=result.get("seconds", 0.0),
    )


def last_line(text: str) -> str:
    """Return the last line of a traceback that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown error"
