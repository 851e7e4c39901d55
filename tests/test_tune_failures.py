"""Failures by class: an error ends its trial, a dead worker does not, and equal bugs stop the search."""

from __future__ import annotations

import errno
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError
from ray.tune import TuneError

from medqa.errors import DiskFullError, DivergedError, GpuMemoryError
from medqa.presets import PRESETS
from tune.failures import BugWatch, Failure, disk_watch, failure_from, unreported_failure

TOY = Path(__file__).with_name("toy_search.py")
MEMORY, DIVERGED, BUG, KILLED, FINE, NOT_A_NUMBER = PRESETS


def toy(results: Path, max_trials: int, failing: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOY), str(results), str(max_trials), "0.02", failing]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)


def outcomes(results: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((results / "toy" / "outcomes.json").read_text())}


def starts(results: Path, name: str) -> list[int]:
    """The steps at which a trial began or went on."""
    lines = (results / "toy" / "starts.txt").read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.split()[0] == name]


def mlflow_runs(results: Path) -> dict[str, Run]:
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("medqa").experiment_id])
    return {run.info.run_name: run for run in found}


def raised(error: Exception) -> Failure:
    try:
        raise error
    except type(error) as caught:
        return failure_from(caught)


def test_each_error_has_its_class_and_one_line_that_says_why() -> None:
    import torch

    assert raised(DivergedError("diverged at step 3")).kind == "diverged"
    assert raised(GpuMemoryError("too large")).kind == "out_of_memory"
    assert raised(torch.OutOfMemoryError("CUDA out of memory")).kind == "out_of_memory"
    bug = raised(KeyError("no\nsuch key"))
    assert (bug.kind, "\n" in bug.reason) == ("bug", False)
    assert raised(DivergedError("diverged at step 3")).reason == "diverged at step 3"
    assert raised(RuntimeError("a\nb")).reason == "RuntimeError: a"


def test_equal_bugs_are_equal_in_type_message_and_last_frame() -> None:
    assert raised(RuntimeError("a")).signature == raised(RuntimeError("a")).signature
    assert raised(RuntimeError("a")).signature != raised(RuntimeError("b")).signature
    assert raised(RuntimeError("a")).signature != raised(ValueError("a")).signature
    try:
        raise RuntimeError("a")
    except RuntimeError as error:
        assert failure_from(error).signature != raised(RuntimeError("a")).signature


class FakeTrial:
    """A Ray trial with what Ray last saw of its failures."""

    num_failures = 21

    def __init__(self, file: Path, error: Exception) -> None:
        file.write_bytes(cloudpickle.dumps(error))
        self.pickled_error_file = str(file)


def test_a_failure_that_no_worker_reported_is_a_lost_worker_or_a_bug(tmp_path: Path) -> None:
    died = unreported_failure(FakeTrial(tmp_path / "died", ActorDiedError()))
    assert (died.kind, died.reason) == ("worker_lost", "its worker died 21 times")
    in_task = RayTaskError("train", "Traceback:\n  a frame\nValueError: a bad value\n", ValueError("a bad value"))
    assert unreported_failure(FakeTrial(tmp_path / "raised", in_task)).kind == "bug"
    no_start = ActorDiedError(in_task)
    assert unreported_failure(FakeTrial(tmp_path / "no_start", no_start)).kind == "bug"
    assert "ValueError: a bad value" in unreported_failure(FakeTrial(tmp_path / "no_start", no_start)).reason


FULL = [
    OSError(errno.ENOSPC, "No space left on device", "results/a_file"),
    sqlite3.OperationalError("database or disk is full"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),  # torch.save
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    TuneError("Traceback:\n  a frame\nOSError: [Errno 28] No space left on device\n"),  # Ray quotes the others
]


@pytest.mark.parametrize("error", FULL, ids=["system", "sqlite", "torch", "safetensors", "ray"])
def test_a_full_disk_is_no_failure_of_a_trial_and_ends_the_search_in_one_line(error: Exception, tmp_path: Path) -> None:
    assert raised(error).kind == "disk_full"
    assert unreported_failure(FakeTrial(tmp_path / "error", error)).kind == "disk_full"
    words = "make room, then run the same command to go on"
    with pytest.raises(DiskFullError, match=words) as caught, disk_watch(tmp_path):
        raise error
    assert "\n" not in str(caught.value)


def commit_to_a_full_disk() -> None:
    """Fail as Optuna's storage does: its error says nothing of a disk, what it was raised from does."""
    try:
        raise FULL[1]
    except sqlite3.OperationalError as error:
        raise StorageInternalError("An exception is raised during the commit.") from error


def clean_up_after_a_full_disk() -> None:
    """Fail again in the midst of ending, in words of its own."""
    try:
        raise FULL[0]
    finally:
        raise KeyError("what was not written")


@pytest.mark.parametrize("fail", [commit_to_a_full_disk, clean_up_after_a_full_disk])
def test_a_full_disk_is_found_behind_an_error_that_does_not_name_it(fail: Callable[[], None], tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="disk is full|No space left") as caught, disk_watch(tmp_path):
        fail()
    assert "\n" not in str(caught.value)


def test_an_error_raised_in_place_of_a_full_disk_stands_for_itself(tmp_path: Path) -> None:
    with pytest.raises(KeyError), disk_watch(tmp_path):
        try:
            raise FULL[0]
        except OSError:
            raise KeyError("no such key") from None


def test_the_watch_for_full_disks_lets_every_other_error_pass(tmp_path: Path) -> None:
    with pytest.raises(KeyError), disk_watch(tmp_path):
        raise KeyError("no such key")


def test_only_equal_bugs_in_a_row_are_hopeless() -> None:
    bug, diverged = raised(RuntimeError("a")), raised(DivergedError("a"))
    for ends, hopeless in (
        ((bug, bug, bug), True),
        ((bug, bug, None, bug), False),
        ((bug, bug, diverged, bug), False),
        ((bug, bug, raised(RuntimeError("b")), bug), False),
        ((diverged, diverged, diverged), False),
    ):
        watch = BugWatch()
        for failure in ends:
            watch.trial_ended(failure)
        assert watch.is_hopeless == hopeless


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A search in which five trials meet a failure each, and what it printed."""
    results = tmp_path_factory.mktemp("results")
    ways = f"{MEMORY}=memory,{DIVERGED}=diverged,{BUG}=error,{KILLED}=kill,{NOT_A_NUMBER}=nan"
    search = toy(results, 6, ways)
    assert search.returncode == 0, search.stdout
    return results, search.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "failure"), [(MEMORY, "out_of_memory"), (DIVERGED, "diverged"), (BUG, "bug")], ids=["memory", "nan", "bug"]
)
def test_a_failed_trial_is_not_tried_again_and_its_class_is_everywhere(
    searched: tuple[Path, str], name: str, failure: str
) -> None:
    results, output = searched
    row = outcomes(results)[name]
    assert (row["state"], row["failure"], row["retries"], row["accuracy"]) == ("failed", failure, 0, None)
    assert row["stop_reason"].startswith(f"{failure}: ")
    assert [line for line in output.splitlines() if name in line and f"failed    {failure}: " in line]
    run = mlflow_runs(results)[name]
    assert (run.data.tags["failure"], run.data.tags["retries"], run.info.status) == (failure, "0", "FAILED")
    assert starts(results, name) == [0]


@pytest.mark.slow
def test_a_value_that_is_not_a_number_ends_its_trial_as_diverged_and_keeps_what_came_before(
    searched: tuple[Path, str],
) -> None:
    results, _ = searched
    row = outcomes(results)[NOT_A_NUMBER]
    every = row["config"]["eval_every_steps"]
    assert (row["state"], row["failure"], row["steps"]) == ("failed", "diverged", every)
    assert row["stop_reason"] == f"diverged: diverged at step {2 * every}: accuracy is nan"
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{results}/toy/optuna.db")
    states = {trial.user_attrs["name"]: trial.state for trial in study.trials}
    assert (states[NOT_A_NUMBER], states[FINE]) == (TrialState.FAIL, TrialState.COMPLETE)


@pytest.mark.slow
def test_a_killed_worker_s_trial_goes_on_from_its_checkpoint_and_has_not_failed(searched: tuple[Path, str]) -> None:
    results, _ = searched
    row = outcomes(results)[KILLED]
    assert (row["state"], row["failure"], row["retries"]) == ("completed", "", 1)
    every = row["config"]["eval_every_steps"]
    assert starts(results, KILLED) == [0, 2 * every]
    run = mlflow_runs(results)[KILLED]
    assert (run.data.tags["failure"], run.data.tags["retries"], run.info.status) == ("", "1", "FINISHED")
    history = MlflowClient(f"sqlite:///{results}/mlflow.db").get_metric_history(run.info.run_id, "accuracy")
    assert [point.step for point in history] == sorted({*range(every, row["steps"], every), row["steps"]})


@pytest.mark.slow
def test_a_failed_search_has_one_line_a_trial_and_the_others_complete(searched: tuple[Path, str]) -> None:
    results, output = searched
    ours = [line for line in output.splitlines() if "(raylet)" not in line]  # Ray tells of the dead worker
    assert [line[:5] for line in ours] == [f"[{number}/6]" for number in range(1, 7)] + ["finis"]
    assert (outcomes(results)[FINE]["state"], outcomes(results)[FINE]["failure"]) == ("completed", "")


@pytest.mark.slow
def test_three_equal_bugs_in_a_row_stop_the_search_and_the_same_command_goes_on(tmp_path: Path) -> None:
    search = toy(tmp_path, 6, "all")
    assert search.returncode != 0
    last = search.stdout.splitlines()[-1]
    assert last.startswith("error: the search has stopped: 3 trials in a row ended with the same bug, RuntimeError")
    assert "the toy broke" in last
    failed = outcomes(tmp_path)
    assert {row["failure"] for row in failed.values()} == {"bug"}
    assert len(failed) in (3, 4)  # two run side by side
    assert "RUNNING" not in {run.info.status for run in mlflow_runs(tmp_path).values()}
    mended = toy(tmp_path, 6, "")
    assert mended.returncode == 0, mended.stdout
    after = outcomes(tmp_path)
    assert len(after) == 6
    assert {name: after[name] for name in failed} == failed
    assert {row["state"] for name, row in after.items() if name not in failed} == {"completed"}
