"""Kill anything, run the same command again: nothing is lost or done twice, and the search ends as it would have."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from optuna.trial import FrozenTrial, TrialState

TOY = Path(__file__).with_name("toy_search.py")
TRIALS = 9
PAUSE = 0.15


def start(results: Path, *more: str, pause: float = PAUSE) -> subprocess.Popen[str]:
    command = [sys.executable, str(TOY), str(results), str(TRIALS), str(pause), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(results: Path, *more: str) -> str:
    """Run the search to its end; return what it printed."""
    process = start(results, *more)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def kill_driver(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def kill_node(process: subprocess.Popen[str]) -> None:
    """Kill the driver and all that it has started, Ray's processes and the workers, as a reboot does."""
    driver = psutil.Process(process.pid)
    driver.suspend()  # so that it starts nothing while its children are counted
    for one in (*driver.children(recursive=True), driver):
        one.kill()
    process.communicate()


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """When a run of the command is killed."""

    evaluations: int
    """How many are awaited first; 0 for a moment in the start."""
    seconds: float


def random_moment(source: random.Random, start_seconds: float) -> Moment:
    """Return a moment in the start of a run (three in ten), or at any point of the work up to a third of a search."""
    if source.random() < 0.3:
        return Moment(evaluations=0, seconds=source.uniform(0, start_seconds))
    return Moment(evaluations=source.randint(1, 20), seconds=source.uniform(0, 2 * PAUSE))


def done(results: Path) -> list[str]:
    """Return the evaluations that were done: trial and step."""
    file = results / "toy" / "evaluations.txt"
    return file.read_text().splitlines() if file.exists() else []


def await_moment(process: subprocess.Popen[str], results: Path, moment: Moment) -> bool:
    """Wait for a moment; return whether the process still lives."""
    before, deadline = len(done(results)), time.monotonic() + 200
    while moment.evaluations and len(done(results)) < before + moment.evaluations and time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    try:
        process.wait(moment.seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What a search has left behind, for comparison with another."""

    ended: list[dict[str, Any]]
    """Rows of outcomes.json in order of their end."""
    rungs: dict[str, Any]
    told: list[tuple[TrialState, dict[str, Any], list[float] | None, dict[int, float]]]
    """Optuna's trials in order of their number."""
    steps: dict[str, tuple[str, list[int]]]
    """MLflow run name to status and the steps of its evaluations."""


def left(results: Path, tracking_uri: str = "") -> Left:
    folder = results / "toy"
    return Left(
        ended=json.loads((folder / "outcomes.json").read_text()),
        rungs=json.loads((folder / "rungs.json").read_text()),
        told=[(trial.state, trial.params, trial.values, trial.intermediate_values) for trial in study(results)],
        steps=mlflow_steps(tracking_uri or f"sqlite:///{results}/mlflow.db"),
    )


def study(results: Path) -> list[FrozenTrial]:
    return list(optuna.load_study(study_name="toy", storage=f"sqlite:///{results}/toy/optuna.db").trials)


def mlflow_steps(tracking_uri: str) -> dict[str, tuple[str, list[int]]]:
    client = MlflowClient(tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("medqa").experiment_id], run_view_type=ViewType.ALL)
    names = [run.info.run_name for run in runs]
    assert len(set(names)) == len(names), "a trial has two runs"
    assert {run.info.lifecycle_stage for run in runs} == {"active"}
    return {
        run.info.run_name: (
            run.info.status,
            [point.step for point in client.get_metric_history(run.info.run_id, "accuracy")],
        )
        for run in runs
    }


def assert_whole(results: Path, tracking_uri: str = "") -> None:
    """One outcome, one ended run and one told Optuna trial per trial, with each evaluation once."""
    found = left(results, tracking_uri)
    rows = {row["name"]: row for row in found.ended}
    assert len(rows) == len(found.ended) == TRIALS
    assert {trial.user_attrs["name"] for trial in study(results)} == set(rows)
    assert {state for state, *_ in found.told} <= {TrialState.COMPLETE, TrialState.PRUNED}
    status = {"completed": "FINISHED", "stopped": "KILLED"}
    assert found.steps.pop("toy") == ("FINISHED", [])
    assert {name: status for name, (status, _) in found.steps.items()} == {
        name: status[row["state"]] for name, row in rows.items()
    }
    for name, (_, steps) in found.steps.items():
        every, last = rows[name]["config"]["eval_every_steps"], rows[name]["steps"]
        assert steps == sorted({*range(every, last, every), last}), name


def repeated(results: Path) -> int:
    """Return how many evaluations were done that had been done before."""
    return sum(count - 1 for count in Counter(done(results)).values())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Left, float]:
    """What a search leaves that nothing disturbs, one trial at a time, and how long it takes."""
    results = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    finish(results, "--concurrent", "1")
    assert_whole(results)
    return left(results), time.monotonic() - began
