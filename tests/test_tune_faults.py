"""Kill anything, run the same command again: nothing is lost or done twice, and the search ends as it would have."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from optuna.trial import FrozenTrial, TrialState

pytestmark = pytest.mark.slow
TOY = Path(__file__).with_name("toy_search.py")
SCRIPT = Path(__file__).resolve().parent.parent / "tune" / "search.py"
TRIALS = 9
PAUSE = 0.15
ONE_AT_A_TIME = ("", '{"concurrent": 1}')


def start(results: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(TOY), str(results), str(TRIALS), str(PAUSE), *more]
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
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """When a run of the command is killed."""

    evaluations: int
    """How many are awaited first; 0 for a moment in the start, that is before the first evaluation."""
    seconds: float


def random_moment(source: random.Random, start_seconds: float) -> Moment:
    """Return a moment in the start of a run (three in ten), or at any point of the work up to a tenth of a search."""
    if source.random() < 0.3:
        return Moment(evaluations=0, seconds=source.uniform(0, start_seconds))
    return Moment(evaluations=source.randint(1, 5), seconds=source.uniform(0, PAUSE))


def done(results: Path) -> list[str]:
    """Return the evaluations that were done: trial and step."""
    file = results / "toy" / "evaluations.txt"
    return file.read_text().splitlines() if file.exists() else []


def await_moment(process: subprocess.Popen[str], results: Path, moment: Moment) -> bool:
    """Wait for a moment; return whether the process still lives."""
    in_the_start = not moment.evaluations
    awaited = len(done(results)) + (moment.evaluations or 1)
    deadline = time.monotonic() + (moment.seconds if in_the_start else 200)
    while len(done(results)) < awaited and time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0 if in_the_start else moment.seconds)
    return process.poll() is None


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


def left(results: Path) -> Left:
    return Left(
        ended=ended(results),
        rungs=json.loads((results / "toy" / "rungs.json").read_text()),
        told=[(trial.state, trial.params, trial.values, trial.intermediate_values) for trial in study(results)],
        steps=mlflow_steps(f"sqlite:///{results}/mlflow.db"),
    )


def ended(results: Path) -> list[dict[str, Any]]:
    file = results / "toy" / "outcomes.json"
    return json.loads(file.read_text()) if file.exists() else []


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


def assert_whole(results: Path) -> None:
    """One outcome, one ended run and one told Optuna trial per trial, with each evaluation once."""
    found = left(results)
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
    finish(results, *ONE_AT_A_TIME)
    assert_whole(results)
    return left(results), time.monotonic() - began


def same(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return outcomes without how often a worker died with its search."""
    return [{**row, "retries": 0} for row in found]


def test_a_driver_killed_at_ten_random_moments_ends_with_the_search_it_would_have_been(
    undisturbed: tuple[Left, float], tmp_path: Path
) -> None:
    expected, seconds = undisturbed
    source, kills = random.Random(1), 0
    while kills < 10:
        process = start(tmp_path, *ONE_AT_A_TIME)
        if await_moment(process, tmp_path, random_moment(source, seconds / 3)):
            kill_driver(process)
            kills += 1
            continue
        process.communicate()
        if (tmp_path / "toy" / "finished.json").exists():
            break
    finish(tmp_path, *ONE_AT_A_TIME)
    assert kills > 5
    assert_whole(tmp_path)
    found = left(tmp_path)
    assert (same(found.ended), found.rungs) == (same(expected.ended), expected.rungs)
    assert (found.told, found.steps) == (expected.told, expected.steps)
    assert repeated(tmp_path) <= kills
    assert "nothing to run" in finish(tmp_path)


def test_a_node_or_driver_killed_loses_nothing_of_two_trials_at_a_time(tmp_path: Path) -> None:
    source, rows = random.Random(2), []
    for kill in (kill_node, kill_driver, kill_node):
        process = start(tmp_path)
        moment = Moment(evaluations=source.randint(6, 15), seconds=source.uniform(0, PAUSE))
        assert await_moment(process, tmp_path, moment)
        kill(process)
        rows.append(ended(tmp_path))
    finish(tmp_path)
    assert rows[-1]
    for before in rows:
        assert ended(tmp_path)[: len(before)] == before
    assert_whole(tmp_path)
    assert repeated(tmp_path) <= 2 * 3


def test_a_second_driver_on_the_same_search_ends_in_one_line(tmp_path: Path) -> None:
    first = start(tmp_path)
    await_moment(first, tmp_path, Moment(evaluations=1, seconds=0))
    second = subprocess.run(first.args, capture_output=True, text=True, timeout=120, check=False)
    kill_driver(first)
    assert second.returncode == 2
    assert second.stderr == f"error: {tmp_path / 'toy'} is in use by another process: wait for its end, or stop it\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 260 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=260m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: it needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, free_bytes: int) -> Path:
    """Fill a disk but for a few bytes; return the file to remove to make room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 20)):
            pass
    os.truncate(filler, filler.stat().st_size - free_bytes)
    return filler


def test_a_full_disk_stops_the_search_with_one_line_and_the_same_command_goes_on_with_room(
    undisturbed: tuple[Left, float], small_disk: Path
) -> None:
    expected, _ = undisturbed
    process = start(small_disk, *ONE_AT_A_TIME)
    assert await_moment(process, small_disk, Moment(evaluations=15, seconds=0))
    filler = fill(small_disk, 64 << 10)  # for some writes there is room still
    output, _ = process.communicate(timeout=120)
    filler.unlink()
    assert process.returncode == 2, output
    errors = [line for line in output.splitlines() if not line.startswith("[")]
    assert len(errors) == 1, output
    assert errors[0].startswith("error: the search has stopped because a disk is full: ")
    assert "make room, then run the same command to go on (nothing is lost)" in errors[0]
    finish(small_disk, *ONE_AT_A_TIME)
    assert_whole(small_disk)
    found = left(small_disk)
    assert (same(found.ended), found.rungs, found.told) == (same(expected.ended), expected.rungs, expected.told)


def start_demo(results: Path) -> subprocess.Popen[str]:
    short = ["--set", "num_train_epochs=0.25", "--set", "eval_every_steps=8"]
    one_at_a_time = ["--max-trials", "2", "--concurrent", "1"]
    command = [sys.executable, str(SCRIPT), "--demo", "--results", str(results), *one_at_a_time, *short]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trained(results: Path) -> dict[str, tuple[bytes, list[tuple[int, float, float, float]]]]:
    """Return MLflow run name to the trial's adapter and what was measured of it, times left out."""
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    found = {}
    for run in client.search_runs([client.get_experiment_by_name("medqa").experiment_id], "tags.role = 'trial'"):
        folder = results / "artifacts" / run.info.run_id / "artifacts"
        columns = [
            client.get_metric_history(run.info.run_id, name) for name in ("accuracy", "answer_nll", "train_loss")
        ]
        rows = [(one.step, one.value, two.value, three.value) for one, two, three in zip(*columns, strict=True)]
        found[run.info.run_name] = ((folder / "adapter" / "adapter_model.safetensors").read_bytes(), rows)
    return found


def test_a_demo_search_killed_in_the_middle_of_a_trial_ends_with_the_same_adapters_bit_for_bit(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        process = start_demo(tmp_path / name)
        if name == "killed":
            log = tmp_path / name / "demo" / "trials" / "config_2_low_rank" / "kept" / "training_log.json"
            while not log.exists() and process.poll() is None:
                time.sleep(0.05)
            assert not json.loads(log.read_text())[-1]["finished"]
            kill_driver(process)
            process = start_demo(tmp_path / name)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
    whole, killed = trained(tmp_path / "whole"), trained(tmp_path / "killed")
    assert killed == whole
    assert {len(rows) for _, rows in whole.values()} == {2}
    again, _ = start_demo(tmp_path / "killed").communicate(timeout=100)
    assert "The search is finished: nothing is run." in again
    assert "Best trial: " in again
