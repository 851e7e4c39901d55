"""ASHA for Ray Tune: it spares seed points if asked to, says why it stops a trial, and survives a restart."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from medqa.record import read_json, write_json
from tune.proposal import proposal_of
from tune.rungs import Rungs, Verdict


class PresetSparingHalving(FIFOScheduler):
    """Stops a trial that is in the worse half at a rung; seed points go on unless asked for, but their values count.

    A trial is judged by its best value so far. Rungs and reasons go by the trials' names and are kept in a file before
    Ray acts on a decision: a search that goes on decides as if it had never been interrupted.

    Args:
        metric: Key of a result by which trials are compared.
        mode: "max" or "min".
        prune_seeds: Whether seed points may be stopped like any other trial.
        file: Where rungs and reasons are kept.
    """

    def __init__(self, *, metric: str, mode: str, prune_seeds: bool, file: Path) -> None:
        super().__init__()
        self.compared, self.prune_seeds, self.file = metric, prune_seeds, file
        self.rungs = Rungs(mode)
        self.reasons: dict[str, str] = {}
        """Name of a trial to why it was stopped: rung, its value, the bar that it missed."""
        if file.exists():
            self._load()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Enter the result in its rung and decide; one that is reported again after a kill changes nothing."""
        proposal = proposal_of(trial.config)
        if proposal.name in self.reasons:
            return str(TrialScheduler.STOP)
        if not result["step"]:  # the last words of a trial that fails
            return str(TrialScheduler.CONTINUE)
        progress = result["step"] / result["total_steps"]
        verdict = self.rungs.judge(proposal.name, progress, proposal.config.warmup_ratio, result[self.compared])
        if verdict is None:
            return str(TrialScheduler.CONTINUE)
        is_spared = result["finished"] or (bool(proposal.seed_point) and not self.prune_seeds)
        stops = verdict.stops and not is_spared
        if stops:
            self.reasons[proposal.name] = _words(verdict, result)
        self._save()
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)

    def _save(self) -> None:
        rungs = {str(share): values for share, values in self.rungs.values.items()}
        write_json(self.file, {"rungs": rungs, "reasons": self.reasons})

    def _load(self) -> None:
        content = read_json(self.file)
        self.reasons = content["reasons"]
        for share, values in content["rungs"].items():
            self.rungs.values[Fraction(share)] = values


def _words(verdict: Verdict, result: dict[str, Any]) -> str:
    return (
        f"asha: {verdict.value:.4f} at {verdict.share} of its course (step {result['step']} of "
        f"{result['total_steps']}), the bar was {verdict.bar:.4f} (median of {verdict.trials} trials)"
    )
