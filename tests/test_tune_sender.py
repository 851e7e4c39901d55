"""What is sent to MLflow may be sent twice, and only what no time mends is a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow_fakes import TRIAL, artifacts, evaluation, new_record, new_tracking, outcome, runs

from tune.failures import says_disk_full
from tune.outbox import Record, first_line
from tune.sender import Sender, is_refusal, new_client
from tune.tracking import METRICS


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "results" / "x").mkdir(parents=True)
    return tmp_path / "results"


def test_every_record_may_be_sent_twice(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between MLflow's taking a record and the note of it sends it again, by a new process."""
    once = Sender.send

    def twice(sender: Sender, record: Record) -> None:
        once(sender, record)
        once(Sender(sender.tracking_uri, sender.place, sender.search_id), record)

    monkeypatch.setattr(Sender, "send", twice)
    uri = f"sqlite:///{results}/mlflow.db"
    tracking = new_tracking(uri, results)
    tracking.trial_started(TRIAL)
    for step in (10, 20, 20):
        tracking.trial_evaluated(TRIAL, {**evaluation(step), "lm_loss": float("nan")})
    tracking.trial_retried(TRIAL, 1)
    tracking.trial_ended(outcome(), new_record(results / "x"))
    tracking.adapter_displaced(outcome())
    tracking.search_ended(finished=True)
    assert tracking.outbox.refusals == []
    found = runs(uri, results / "x")
    assert {name: run.info.status for name, run in found.items()} == {"x": "FINISHED", "trial_007": "FINISHED"}
    client = MlflowClient(uri)
    for metric in METRICS:
        history = client.get_metric_history(found["trial_007"].info.run_id, metric)
        assert [point.step for point in history] == [10, 20], metric
    assert artifacts(uri, found["trial_007"]) == {"config.json"}


def test_the_same_metric_sent_twice_with_its_time_is_stored_once(results: Path) -> None:
    """MLflow's own guard, beneath that of the sender."""
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    run = client.create_run(client.create_experiment("e"))
    for value in (0.5, 0.5, float("nan"), float("nan")):
        client.log_metric(run.info.run_id, f"m{value}", value, timestamp=1000, step=3)
    assert len(client.get_metric_history(run.info.run_id, "m0.5")) == 1
    assert len(client.get_metric_history(run.info.run_id, "mnan")) == 1


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (MlflowException("bad", INVALID_PARAMETER_VALUE), True),
        (MlflowException("gone", RESOURCE_DOES_NOT_EXIST), True),
        (MlflowException("sqlite is locked", TEMPORARILY_UNAVAILABLE), False),
        (MlflowException("no connection", INTERNAL_ERROR), False),
        (MlflowException("log in again", PERMISSION_DENIED), False),
        (OSError(28, "No space left on device"), False),
        (ConnectionError("refused"), False),
        (TypeError("not a number"), True),
        (NotImplementedError("cannot delete"), True),
    ],
)
def test_only_what_no_time_mends_is_a_refusal(error: Exception, refused: bool) -> None:
    assert is_refusal(error) == refused


def test_two_searches_of_one_name_on_one_server_have_runs_of_their_own(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for place in ("here", "there"):
        (tmp_path / place / "x").mkdir(parents=True)
        tracking = new_tracking(uri, tmp_path / place)
        tracking.trial_started(TRIAL)
        tracking.trial_ended(outcome(), None)
        tracking.search_ended(finished=True)
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("medqa").experiment_id])
    assert sorted(run.info.run_name for run in found) == ["trial_007", "trial_007", "x", "x"]


def test_a_full_disk_under_mlflows_database_is_said_in_the_one_line(tmp_path: Path) -> None:
    client = new_client(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("full", artifact_location=str(tmp_path))
    run_id = client.create_run(experiment).info.run_id
    engine = client._tracking_client.store.engine
    sqlalchemy.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 1"))
    engine.dispose()
    long, metrics = "x" * 4000, [Metric(str(number), 1.0, 1, 1) for number in range(500)]
    errors = []
    for write in (
        lambda: client.create_run(experiment, tags={"long": long}),
        lambda: client.log_batch(run_id, metrics=metrics, tags=[RunTag("long", long)]),
        lambda: client.set_tag(run_id, "long", long),
    ):
        with pytest.raises(MlflowException) as raised:
            write()
        errors.append(raised.value)
    assert all(says_disk_full(first_line(error)) for error in errors), errors
    assert not all(says_disk_full(str(error).splitlines()[0]) for error in errors), "none had a line before it"
