"""MLflow's server goes away and comes back: nothing is lost, nothing stands twice, and nobody waits for it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from medqa.config import Task, TrialConfig
from medqa.errors import ConfigError
from tune import tracking as tracking_module
from tune.outbox import Record
from tune.outcomes import State, TrialOutcome
from tune.proposal import Proposal
from tune.sender import Sender, is_refusal, require_store
from tune.tracking import METRICS, Tracking, is_settled

TOY = Path(__file__).with_name("toy_search.py")
TRIAL = Proposal(name="trial_007", seed_point="", config=TrialConfig())


class Server:
    """`mlflow server` on a free port, with a store of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "log").open("ab") as log:
            # a session of its own: its workers end with it
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return
            time.sleep(0.2)
        raise TimeoutError((self.folder / "log").read_text()[-2000:])

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        started = Server(tmp_path_factory.mktemp("mlflow") / "server")
        started.start()
        yield started
        started.stop()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "results" / "x").mkdir(parents=True)
    return tmp_path / "results"


def new_tracking(uri: str, results: Path) -> Tracking:
    return Tracking(uri, results, "x", results / "x", Task(), {"metric": "accuracy"})


def evaluation(step: int) -> dict[str, Any]:
    return {**dict.fromkeys(METRICS, 0.5), "step": step, "accuracy": step / 100}


def outcome(state: State = "completed") -> TrialOutcome:
    return TrialOutcome(
        name=TRIAL.name,
        seed_point="",
        state=state,
        stop_reason=state,
        config=TRIAL.config,
        accuracy=0.5,
        answer_nll=1.0,
        steps=20,
        seconds=1.0,
    )


def new_record(folder: Path) -> Path:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def runs(uri: str, folder: Path) -> dict[str, Run]:
    """The runs of the search in `folder`."""
    client = MlflowClient(uri)
    search_id = json.loads((folder / "mlflow_search.json").read_text())["search_id"]
    found = client.search_runs(
        [client.get_experiment_by_name("medqa").experiment_id], f"tags.search_id = '{search_id}'"
    )
    assert len({run.info.run_name for run in found}) == len(found), "a run stands twice"
    return {run.info.run_name: run for run in found}


def steps(uri: str, run: Run) -> list[int]:
    return [point.step for point in MlflowClient(uri).get_metric_history(run.info.run_id, "accuracy")]


def artifacts(uri: str, run: Run) -> set[str]:
    return {item.path for item in MlflowClient(uri).list_artifacts(run.info.run_id)}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["killed", "silent"])
def test_a_server_that_is_gone_for_a_while_loses_and_repeats_nothing_and_holds_nobody_up(
    server: Server, results: Path, way: str
) -> None:
    tracking = new_tracking(server.uri, results)
    tracking.trial_started(TRIAL)
    tracking.trial_evaluated(TRIAL, evaluation(10))
    tracking.outbox.wait(30, lambda: None)
    server.stop() if way == "killed" else server.signal(signal.SIGSTOP)
    started = time.monotonic()
    for step in (20, 30, 40):
        tracking.trial_evaluated(TRIAL, evaluation(step))
    other = dataclasses.replace(TRIAL, name="trial_008")
    tracking.trial_started(other)
    tracking.trial_evaluated(other, evaluation(10))
    tracking.trial_ended(outcome(), new_record(results / "x" / "record"))
    tracking.trial_ended(dataclasses.replace(outcome("stopped"), name="trial_008"), None)
    assert time.monotonic() - started < 2
    tracking.outbox.wait(5, lambda: None)
    assert len(tracking.outbox) >= 8
    assert tracking.outbox.problem
    server.start() if way == "killed" else server.signal(signal.SIGCONT)
    tracking.search_ended(finished=True)
    assert (len(tracking.outbox), tracking.outbox.refusals) == (0, [])
    found = runs(server.uri, results / "x")
    assert {name: run.info.status for name, run in found.items()} == {
        "x": "FINISHED",
        "trial_007": "FINISHED",
        "trial_008": "KILLED",
    }
    assert steps(server.uri, found["trial_007"]) == [10, 20, 30, 40]
    assert steps(server.uri, found["trial_008"]) == [10]
    assert artifacts(server.uri, found["trial_007"]) == {"adapter", "config.json"}
    # a server's own store lets adapters be deleted too
    again = new_tracking(server.uri, results)
    again.adapter_displaced(outcome())
    again.search_ended(finished=True)
    assert again.outbox.refusals == []
    assert artifacts(server.uri, found["trial_007"]) == {"config.json"}
    assert set(runs(server.uri, results / "x")) == {"x", "trial_007", "trial_008"}


@pytest.mark.slow
def test_what_could_not_be_sent_waits_in_a_file_and_the_same_command_sends_it(
    server: Server, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking_module, "_LAST_WAIT_SECONDS", 1.0)
    tracking = new_tracking(server.uri, results)
    tracking.outbox.wait(30, lambda: None)
    server.stop()
    with pytest.raises(ConfigError, match=r"MLflow at http://127.* does not answer .*nothing is lost"):
        require_store(server.uri)
    tracking.trial_started(TRIAL)
    tracking.trial_evaluated(TRIAL, evaluation(10))
    tracking.trial_ended(outcome(), new_record(results / "x" / "record"))
    assert tracking.still_needs(results / "x" / "record")
    tracking.search_ended(finished=True)
    said = capsys.readouterr().out
    assert f"MLflow at {server.uri} has not taken 6 records" in said
    assert f"they wait in {results / 'x' / 'mlflow.jsonl'}, and the same command sends them." in said
    assert not is_settled(results / "x")
    server.start()
    require_store(server.uri)
    monkeypatch.setattr(tracking_module, "_LAST_WAIT_SECONDS", 60.0)
    again = new_tracking(server.uri, results)
    again.search_ended(finished=True)
    assert capsys.readouterr().out == ""
    assert is_settled(results / "x")
    assert not again.still_needs(results / "x" / "record")
    found = runs(server.uri, results / "x")
    assert {name: run.info.status for name, run in found.items()} == {"x": "FINISHED", "trial_007": "FINISHED"}
    assert steps(server.uri, found["trial_007"]) == [10]


def test_every_record_may_be_sent_twice(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between MLflow's taking a record and the note of it sends it again, by a new process."""
    once = Sender.send

    def twice(sender: Sender, record: Record) -> None:
        once(sender, record)
        once(Sender(sender.tracking_uri, sender.results, sender.folder, sender.search_id), record)

    monkeypatch.setattr(Sender, "send", twice)
    uri = f"sqlite:///{results}/mlflow.db"
    tracking = new_tracking(uri, results)
    tracking.trial_started(TRIAL)
    for step in (10, 20, 20):
        tracking.trial_evaluated(TRIAL, {**evaluation(step), "lm_loss": float("nan")})
    tracking.trial_retried(TRIAL, 1)
    tracking.trial_ended(outcome(), new_record(results / "x" / "record"))
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


@pytest.mark.slow
def test_a_search_goes_on_while_the_server_is_away(server: Server, results: Path) -> None:
    command = [sys.executable, str(TOY), str(results), "8", "0.2", "", json.dumps({"tracking_uri": server.uri})]
    search = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    rows = results / "toy" / "outcomes.json"
    try:
        ended_when_stopped = wait_for_trials(rows, 2)
        server.stop()
        ended_while_away = wait_for_trials(rows, ended_when_stopped + 3)
        server.start()
        output, _ = search.communicate(timeout=200)
    finally:
        search.poll() is None and search.kill()
    assert search.returncode == 0, output
    assert "finished" in output
    assert "has not taken" not in output
    assert "refused" not in output.replace("Connection refused", "")
    assert ended_while_away >= ended_when_stopped + 3
    ended = {row["name"]: row for row in json.loads(rows.read_text())}
    found = runs(server.uri, results / "toy")
    assert set(found) == {"toy", *ended}
    status = {"completed": "FINISHED", "stopped": "KILLED"}
    for name, row in ended.items():
        every, last = row["config"]["eval_every_steps"], row["steps"]
        assert steps(server.uri, found[name]) == sorted({*range(every, last, every), last}), name
        assert found[name].info.status == status[row["state"]]
        assert "adapter" in artifacts(server.uri, found[name])
    assert not list((results / "toy" / "trials").glob("*/kept/adapter"))
    done = (results / "toy" / "evaluations.txt").read_text().splitlines()
    assert len(set(done)) == len(done)


def wait_for_trials(rows: Path, count: int) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        ended = len(json.loads(rows.read_text())) if rows.exists() else 0
        if ended >= count:
            return ended
        time.sleep(0.1)
    raise TimeoutError(f"{count} trials have not ended")


@pytest.mark.slow
def test_a_server_that_does_not_answer_at_the_start_ends_in_one_line(results: Path) -> None:
    command = [sys.executable, str(TOY.parent.parent / "tune" / "search.py"), "--demo", "--results", str(results)]
    command += ["--tracking-uri", "http://127.0.0.1:1"]
    search = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert search.returncode == 2
    (line,) = search.stderr.splitlines()
    assert line.startswith("error: MLflow at http://127.0.0.1:1 does not answer (Connection refused): start it or")
    assert line.endswith("nothing is lost, and the same command goes on")
