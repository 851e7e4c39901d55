"""What was evaluated and why it was chosen, and the two files that say so: all_configs.json and evaluation.json."""

from __future__ import annotations

import dataclasses
from typing import Any

from analysis.evaluation import EXEMPLAR_SEED, Evaluation
from analysis.finding_files import BOOTSTRAP_SEED
from analysis.mistakes import KINDS
from analysis.runs import Search, Trial
from medqa.calibration import CALIBRATION_BINS
from medqa.estimates import wilson
from medqa.prompt import TRAINING_WORDING
from medqa.questions import TEST, fingerprint
from medqa.record import TrialIdentity


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What was evaluated and why it was chosen."""

    search: Search
    winner: Trial
    """The training whose adapter was evaluated."""
    choice: dict[str, Any]
    """What analysis/chosen.py says of its choice."""
    identity: TrialIdentity
    validation: dict[str, Any]
    """The winner's val_results.json."""
    test_reads: int
    """How often the test split has been read for this search, this time included."""
    set_name: str = TEST
    """Which questions: "test", or the name of another set."""
    source: str = ""
    """The other set's file; "" for the test split."""
    command: str = ""
    started: str = ""
    """When, in UTC."""
    ensemble: tuple[str, ...] = ()
    """Names of the ensemble's trials, best first."""
    counterpart: str = ""
    """Name of the trial trained the other way about shuffled options; "" where there is none."""
    best_preset: str = ""
    """Name of the best preset's training that is evaluated too; "" where there is none."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    """Package to version, now; those of the search stand in `identity`."""
    configurations: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The winner against the search's other trials on validation, as `finding_files.compare_configurations` says."""


def all_configs(search: Search, best: str, every: int, compared: dict[str, Any]) -> dict[str, Any]:
    """Return the content of all_configs.json: every trial's validation numbers, and how the winner compares.

    Args:
        search: Of the trials.
        best: Name of the best one.
        every: Validation questions in all.
        compared: As `finding_files.compare_configurations` says.
    """
    trials = [
        {
            "name": trial.name,
            "seed_point": trial.seed_point,
            "state": trial.state,
            "winner": trial.name == best,
            "accuracy_interval": _validation_interval(trial.accuracy, trial.questions or every),
            "answer_nll": trial.answer_nll,
            "parameters": trial.parameters,
        }
        for trial in search.trials
        if trial.accuracy is not None
    ]
    return {"search": search.name, "metric": search.metric, "n": every, "trials": trials, "comparisons": compared}


def _validation_interval(rate: float, n: int) -> dict[str, Any]:
    return dataclasses.asdict(wilson(round(rate * n), n))


def describe(evaluation: Evaluation, subject: Subject) -> dict[str, Any]:
    """Return the content of evaluation.json: what was evaluated, by which command, on what and with what."""
    return {
        "search": subject.search.name,
        "metric": subject.search.metric,
        "best_means": subject.choice["means"],
        "choice": subject.choice,
        "set": subject.set_name,
        "source": subject.source or subject.identity.task.data,
        "fingerprint": fingerprint(evaluation.questions),
        "command": subject.command,
        "started": subject.started,
        "models": list(evaluation.models),
        "ensemble": list(subject.ensemble),
        "counterpart": subject.counterpart,
        "best_preset": subject.best_preset,
        "winner": {"name": subject.winner.name, "run_id": subject.winner.run_id, "state": subject.winner.state},
        "validation_accuracy": subject.validation["accuracy_interval"],
        "identity": dataclasses.asdict(subject.identity),
        "versions": subject.versions,
        "n": len(evaluation.questions),
        "exemplars": [question.id for question in evaluation.exemplars],
        "exemplar_seed": EXEMPLAR_SEED,
        "training_wording": TRAINING_WORDING,
        "calibration_bins": CALIBRATION_BINS,
        "error_kinds": KINDS,
        "test_reads": subject.test_reads,
        "bootstrap_seed": BOOTSTRAP_SEED,
        "seconds": round(evaluation.seconds, 1),
    }
