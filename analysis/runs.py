"""The search's runs in MLflow, the winner among them and its files; the only MLflow reader here.

What the search writes there: experiment "medqa"; a parent run with the tags role=search and search=NAME; below it a
run per trial with the tags role=trial, search, state (running, completed, stopped or failed) and seed_point (a preset's
name, or ""), the trial's parameters, metrics by optimizer step, and the trial's files as artifacts. A training that
repeats a trial with a new seed has role=confirmation, and confirms=the trial's name.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.command_line import without_password
from medqa.errors import RecordError
from medqa.record import ADAPTER, CONFIG, VAL_RESULTS, read_json
from medqa.search_record import SETTINGS
from medqa.selection import Choice, best_first, choose

EXPERIMENT = "medqa"
BEST = "best"
"""Alias of the registered version that a search's final evaluation was of."""
_METRICS = ("accuracy", "answer_nll")
_START_A_SEARCH = "run one first: make search, or .venv/bin/python tune/search.py"
_ALL = 50_000  # the largest page that MLflow's stores give


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial as MLflow knows it."""

    run_id: str
    name: str
    seed_point: str
    """Preset's name; "" for a trial that the sampler chose."""
    state: str
    start_ms: int
    accuracy: float | None
    """Validation accuracy at the kept checkpoint; None before the first evaluation."""
    answer_nll: float | None
    """Validation answer NLL at the kept checkpoint, in nats; None before the first evaluation."""
    parameters: dict[str, str]
    questions: int | None = None
    """Validation questions that both are from: all for a completed trial, else a sample; None before the first."""
    confirms: str = ""
    """Name of the trial that it repeats with a new seed; "" for a trial of the search itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """One search: its folder, its parent run and its trials in the order of their starts."""

    name: str
    folder: Path
    tracking_uri: str
    run_id: str
    metric: str
    """"accuracy" or "answer_nll"."""
    trials: tuple[Trial, ...]
    status: str = ""
    """Of the parent run: "FINISHED", "KILLED" where the search was interrupted, "RUNNING" otherwise."""
    confirm: int = 0
    """Best trials that were to be trained again with new seeds."""
    repeats: tuple[Trial, ...] = ()
    """These trainings."""


def find_search(results: Path, tracking_uri: str | None = None, name: str | None = None) -> Search:
    """Find a search of the results folder, the newest one when no name is given.

    Args:
        results: Folder that holds a folder per search.
        tracking_uri: MLflow's address; None takes the SQLite file in `results`.
        name: The search's name.

    Raises:
        RecordError: when there is no such search.
    """
    uri = tracking_uri or f"sqlite:///{results}/mlflow.db"
    _require_store(uri, results)
    with mlflow_errors(uri):
        client = client_of(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            raise RecordError(f"{uri} holds no search: {_START_A_SEARCH}")
        parents = _runs(client, experiment.experiment_id, "tags.role = 'search'")
        parent = _choose_parent(parents, results, name)
        found = parent.data.tags["search"]
        children = _runs(client, experiment.experiment_id, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    trials = sorted(map(_trial, children), key=lambda trial: trial.start_ms)
    metric, confirm = _settings(results / found)
    return Search(
        name=found,
        folder=results / found,
        tracking_uri=uri,
        run_id=parent.info.run_id,
        metric=metric,
        trials=tuple(trial for trial in trials if not trial.confirms),
        status=parent.info.status,
        confirm=confirm,
        repeats=tuple(trial for trial in trials if trial.confirms),
    )


def choose_winner(search: Search) -> Choice[Trial]:
    """Return the best trial, as medqa/selection.py says.

    Raises:
        RecordError: when no trial has ended with a value.
    """
    choice = choose(search.trials, search.repeats, search.metric, search.confirm)
    if choice is not None:
        return choice
    states = sorted({trial.state for trial in search.trials}) or ["none"]
    raise RecordError(
        f"search {search.name!r} has no completed trial with a value (trials: {', '.join(states)}): let it go on with "
        f".venv/bin/python tune/search.py --name {search.name}"
    )


def search_of_run(results: Path, tracking_uri: str | None, run_id: str) -> str:
    """Return the name of the search that a run belongs to; RecordError when it is no trial's run."""
    uri = tracking_uri or f"sqlite:///{results}/mlflow.db"
    _require_store(uri, results)
    with mlflow_errors(uri):
        tags = client_of(uri).get_run(run_id).data.tags
    if "search" not in tags or tags.get("role") == "search":
        raise RecordError(f"run {run_id!r} is no trial of a search: give the run id of a trial")
    return str(tags["search"])


def find_trial(search: Search, what: str, matches: Callable[[Trial], bool]) -> Trial:
    """Return the first trial, or training with a new seed, that matches; RecordError when none does."""
    found = next((trial for trial in (*search.trials, *search.repeats) if matches(trial)), None)
    if found is None:
        names = ", ".join(trial.name for trial in search.trials) or "none"
        raise RecordError(f"search {search.name!r} has no trial of {what}: its trials are {names}")
    return found


def best_adapters(search: Search) -> list[Trial]:
    """Return the trials, and trainings with new seeds, whose adapter is kept, the best on validation first."""
    ranked = best_first([*search.trials, *search.repeats], search.metric)
    return [trial for trial in ranked if has_adapter(search, trial)]


def has_adapter(search: Search, trial: Trial) -> bool:
    """Whether the adapter of a trial is among its run's artifacts."""
    with mlflow_errors(search.tracking_uri):
        client = client_of(search.tracking_uri)
        return ADAPTER in {item.path for item in client.list_artifacts(trial.run_id)}


def download_record(search: Search, trial: Trial, into: Path) -> Path:
    """Fetch what the evaluation needs of the trial's files from its run's artifacts; return their folder.

    Raises:
        RecordError: when one of them is not there.
    """
    needed = (ADAPTER, CONFIG, VAL_RESULTS)
    with mlflow_errors(search.tracking_uri):
        client = client_of(search.tracking_uri)
        present = {item.path for item in client.list_artifacts(trial.run_id)}
        missing = [name for name in needed if name not in present]
        if missing:
            raise RecordError(f"trial {trial.name!r} (run {trial.run_id}) lacks {', '.join(missing)} in its artifacts")
        for name in needed:
            client.download_artifacts(trial.run_id, name, str(into))
    return into


def read_validation(search: Search, trial: Trial) -> dict[str, Any] | None:
    """Return the trial's val_results.json; None where its artifacts have none."""
    content: dict[str, Any] | None = read_file(search, trial, VAL_RESULTS)
    return content


def read_file(search: Search, trial: Trial, name: str) -> Any:
    """Return the content of one of the trial's JSON files; None where its artifacts have none of this name."""
    with mlflow_errors(search.tracking_uri), tempfile.TemporaryDirectory() as folder:
        client = client_of(search.tracking_uri)
        if name not in {item.path for item in client.list_artifacts(trial.run_id)}:
            return None
        client.download_artifacts(trial.run_id, name, folder)
        return read_json(Path(folder) / name)


def registered_run(results: Path, tracking_uri: str | None, model_name: str) -> str:
    """Return the run whose adapter a registered model's alias `best` stands for; RecordError where there is none."""
    uri = tracking_uri or f"sqlite:///{results}/mlflow.db"
    _require_store(uri, results)
    with mlflow_errors(uri):
        return str(client_of(uri).get_model_version_by_alias(model_name, BEST).run_id)


def client_of(uri: str) -> Any:
    """Return an MLflow client that keeps silent."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient  # 4.5 s

    return MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into a RecordError of one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:  # a server that cannot be reached is an OSError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecordError(without_password(f"MLflow at {uri}: {reason}")) from error


def _require_store(uri: str, results: Path) -> None:
    # MLflow would make an empty database where there is none
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not Path(uri.removeprefix(prefix)).is_file():
        raise RecordError(f"no search in {results}: {uri.removeprefix(prefix)} does not exist; {_START_A_SEARCH}")


def _runs(client: Any, experiment_id: str, condition: str) -> list[Any]:
    return list(client.search_runs([experiment_id], filter_string=condition, max_results=_ALL))


def _choose_parent(parents: list[Any], results: Path, name: str | None) -> Any:
    here = [run for run in parents if (results / run.data.tags["search"] / SETTINGS).is_file()]
    names = sorted({run.data.tags["search"] for run in here})
    if not here:
        raise RecordError(f"no search in {results}: {_START_A_SEARCH}")
    if name is not None:
        here = [run for run in here if run.data.tags["search"] == name]
    if not here:
        raise RecordError(f"no search named {name!r} in {results}: there are {', '.join(names)}")
    return max(here, key=lambda run: run.info.start_time)


def _settings(folder: Path) -> tuple[str, int]:
    """Return the search's metric, and how many of its trials were to be trained again."""
    settings = read_json(folder / SETTINGS)
    metric = settings.get("metric")
    if metric not in _METRICS:
        raise RecordError(f"{folder / SETTINGS}: metric is {metric!r}, must be {' or '.join(_METRICS)}")
    return str(metric), int(settings.get("confirm", 0))


def _trial(run: Any) -> Trial:
    tags, metrics = run.data.tags, run.data.metrics
    return Trial(
        run_id=run.info.run_id,
        name=run.info.run_name,
        seed_point=tags.get("seed_point", ""),
        state=tags.get("state", "running"),
        start_ms=run.info.start_time,
        accuracy=metrics.get("best_accuracy"),
        answer_nll=metrics.get("best_answer_nll"),
        parameters=dict(run.data.params),
        questions=int(metrics["best_questions"]) if "best_questions" in metrics else None,
        confirms=tags.get("confirms", ""),
    )
