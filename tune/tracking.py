"""Writes a search to MLflow: a parent run for the search, one child run per trial for its whole life."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from medqa import record
from medqa.config import Task, TrialConfig
from medqa.curve import draw_training_curve
from tune.outcomes import TrialOutcome
from tune.proposal import Proposal

EXPERIMENT = "medqa"
METRICS = (
    "accuracy",
    "answer_nll",
    "lm_loss",
    "train_loss",
    "learning_rate",
    "best_accuracy",
    "best_answer_nll",
    "seconds",
    "peak_gib",
    "examples",
)
"""Keys of a result that become metrics; their step is the optimizer step."""
_STATUS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_LONGEST_TAG = 4000
_SEARCH = "search"
"""What the search's own run is kept under."""


class Tracking:
    """The only writer to MLflow of a search; the runs' ids are kept so that a search goes on in the same runs.

    Args:
        tracking_uri: Where MLflow keeps its runs.
        results: The results folder; a local store keeps its artifacts there.
        search: The search's name.
        folder: The search's own folder, where the run ids are kept.
        task: Base model and questions.
        params: What the parent run shows as parameters.
    """

    def __init__(
        self, tracking_uri: str, results: Path, search: str, folder: Path, task: Task, params: Mapping[str, Any]
    ) -> None:
        _quiet()
        self.search, self.task = search, task
        self._client = MlflowClient(tracking_uri)
        self._file = folder / "mlflow_runs.json"
        self._run_ids: dict[str, str] = record.read_json(self._file) if self._file.exists() else {}
        self._last_step: dict[str, int] = {}
        self._experiment = self._get_experiment(tracking_uri, results)
        self._open_search(params)

    def trial_started(self, proposal: Proposal) -> None:
        """Open the trial's run, or open it again where the search goes on."""
        key = _key(proposal.name, proposal.config)
        if key in self._run_ids:
            self._open_again(key)
            return
        tags = {"role": "trial", "search": self.search, "state": "running", "seed_point": proposal.seed_point}
        tags |= {"stop_reason": "", "mlflow.parentRunId": self._run_ids[_SEARCH]}
        if proposal.confirms:
            tags |= {"role": "confirmation", "confirms": proposal.confirms}
        params = {**dataclasses.asdict(proposal.config), "model": self.task.model, "data": self.task.data}
        self._create(key, proposal.name, tags, params)

    def _open_again(self, key: str) -> None:
        run_id = self._run_ids[key]
        self._client.update_run(run_id, status="RUNNING")
        self._client.set_tag(run_id, "state", "running")
        history = self._client.get_metric_history(run_id, METRICS[0])
        self._last_step[key] = max((metric.step for metric in history), default=-1)

    def trial_evaluated(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        """Log one evaluation; a step that a restarted trial repeats is not logged twice."""
        key, step = _key(proposal.name, proposal.config), int(result["step"])
        if step <= self._last_step.get(key, -1):
            return
        now = int(time.time() * 1000)
        metrics = [Metric(name, float(result[name]), now, step) for name in METRICS]
        self._client.log_batch(self._run_ids[key], metrics=metrics)
        self._last_step[key] = step

    def trial_retried(self, proposal: Proposal, retries: int) -> None:
        """Note how often the trial went on after its worker died or was taken away."""
        run_id = self._run_ids.get(_key(proposal.name, proposal.config))
        if run_id is not None:  # its worker may die before the trial has started
            self._client.set_tag(run_id, "retries", str(retries))

    def trial_ended(self, outcome: TrialOutcome, run_dir: Path | None) -> None:
        """Upload the trial's record and close its run.

        Args:
            outcome: How it ended.
            run_dir: Folder with the record; None when the trial failed before it left one.
        """
        run_id = self._run_ids[_key(outcome.name, outcome.config)]
        if run_dir is not None:
            self._upload(run_id, run_dir)
        tags = {"state": outcome.state, "stop_reason": outcome.stop_reason[:_LONGEST_TAG]}
        tags |= {"failure": outcome.failure, "retries": str(outcome.retries)}
        spent = {"gpu_seconds": outcome.gpu_seconds} | ({} if outcome.cost is None else {"cost": outcome.cost})
        metrics = [Metric(key, value, int(time.time() * 1000), outcome.steps) for key, value in spent.items()]
        self._client.log_batch(run_id, metrics=metrics, tags=[RunTag(key, value) for key, value in tags.items()])
        self._client.set_terminated(run_id, _STATUS[outcome.state])

    def search_ended(self, finished: bool) -> None:
        """Close the search's run.

        A search that was interrupted is KILLED, with its unfinished trials, until it goes on. A run still open when
        the search is finished belongs to a trial that a kill made Ray forget in its first second: it is deleted,
        unless it belongs to a confirmation, which runs the same trainings until all have ended.
        """
        for key, run_id in self._run_ids.items():
            run = self._client.get_run(run_id)
            if run.info.status != "RUNNING":
                continue
            if finished and run.data.tags["role"] == "trial":
                self._client.delete_run(run_id)
            else:
                self._client.set_terminated(run_id, "FINISHED" if finished and key == _SEARCH else "KILLED")

    def _get_experiment(self, tracking_uri: str, results: Path) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        # MLflow would put artifacts into ./mlruns of whoever asks first; a server has its own place
        location = (results / "artifacts").as_uri() if tracking_uri.startswith("sqlite:") else None
        # tells MLflow's page that these are training runs, not traces of an application
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=location, tags=tags))

    def _open_search(self, params: Mapping[str, Any]) -> None:
        if _SEARCH in self._run_ids:
            self._client.update_run(self._run_ids[_SEARCH], status="RUNNING")
        else:
            self._create(_SEARCH, self.search, {"role": "search", "search": self.search}, params)

    def _create(self, key: str, name: str, tags: dict[str, str], params: Mapping[str, Any]) -> None:
        """Create a run and keep its id."""
        tags = {**tags, "mlflow.source.name": "tune/search.py"}
        run_id = str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)
        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
        self._run_ids[key] = run_id
        record.write_json(self._file, self._run_ids)

    def _upload(self, run_id: str, run_dir: Path) -> None:
        # a trial draws its own curve at its end, which a stopped one did not see
        if (run_dir / record.TRAINING_SUMMARY).is_file() and not (run_dir / record.TRAINING_CURVE).is_file():
            draw_training_curve(run_dir)
        for name in record.RECORD_FILES:
            if (run_dir / name).is_file():
                self._client.log_artifact(run_id, str(run_dir / name))
        if (run_dir / record.ADAPTER).is_dir():
            self._client.log_artifacts(run_id, str(run_dir / record.ADAPTER), record.ADAPTER)


def _key(name: str, config: TrialConfig) -> str:
    """Return what a trial's run is kept under: the same name may come with another configuration after a kill."""
    return f"{name} {hashlib.sha256(repr(config).encode()).hexdigest()[:16]}"


def _quiet() -> None:
    """Silence the account of every table that MLflow makes in a new database."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
