"""Results in an object store: what a trial has kept, who runs the search, and a search whose head dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("moto", reason="the object store of the tests is moto: make setup")
from mlflow import MlflowClient
from object_store import BUCKET, Weather

from medqa import record
from medqa.errors import LockedError, StorageError
from medqa.storage import RemoteFolder
from tune import kept_objects, mirror
from tune.fetching import fetch
from tune.kept import Kept, kept_in
from tune.mirror import Mirror, mirrored

TRIALS = f"s3://{BUCKET}/results/x/trials"
PLACE = f"s3://{BUCKET}/results/x"
TOY = Path(__file__).with_name("toy_search.py")


@pytest.fixture
def kept(object_store_weather: Weather, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kept:
    monkeypatch.setattr(kept_objects, "_HERE", tmp_path / "node")
    return kept_in(TRIALS, "a_trial")


def fill(folder: Path, step: int) -> None:
    """Leave what an evaluation leaves: every second one has a better adapter."""
    for name, text in (("state/checkpoint/optimizer.pt", str(step)), ("adapter/weights", str(step - step % 2))):
        if not (folder / name).exists() or (folder / name).read_text().strip() != text:
            record.write_json(folder / name, int(text))
    record.write_json(folder / "training_log.json", [step])


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text().strip() for path in folder.rglob("*") if path.is_file()}


def objects() -> list[str]:
    """What lies there of the trial, without the manifest."""
    return RemoteFolder(TRIALS + "/a_trial/kept").names()


def test_a_trial_goes_on_on_another_node_from_what_it_kept(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not kept.exists()
    with kept.working_copy() as folder:
        for step in (1, 2, 3):
            fill(folder, step)
            kept.keep(folder)
        fill(folder, 4)
    assert not folder.exists()
    monkeypatch.setattr(kept_objects, "_HERE", tmp_path / "another node")
    other = kept_in(TRIALS, "a_trial")
    assert other.exists()
    with other.working_copy() as folder:
        assert content(folder) == {
            "state/checkpoint/optimizer.pt": "3",
            "adapter/weights": "2",
            "training_log.json": "[\n 3\n]",
        }


def test_a_trial_of_which_a_file_never_arrived_starts_anew(kept: Kept) -> None:
    with kept.working_copy() as folder:
        fill(folder, 1)
        kept.keep(folder)
    lost = next(name for name in objects() if "optimizer" in name)
    RemoteFolder(f"{TRIALS}/a_trial/kept").delete(lost)
    with kept_in(TRIALS, "a_trial").working_copy() as folder:
        assert content(folder) == {}


def test_only_what_has_changed_is_uploaded_and_what_is_replaced_is_deleted(
    kept: Kept, object_store_weather: Weather
) -> None:
    with kept.working_copy() as folder:
        fill(folder, 2)
        kept.keep(folder)
        object_store_weather.requests.clear()
        fill(folder, 3)
        kept.keep(folder)
        written = [line for line in object_store_weather.requests if line.startswith(("PUT", "POST"))]
        assert not any("adapter" in line for line in written), written
        assert any("optimizer" in line for line in written)
    assert objects() == ["1-1-adapter-weights", "1-2-state-checkpoint-optimizer.pt", "1-2-training_log.json"]


def test_a_worker_that_was_cut_off_finds_its_place_taken(kept: Kept) -> None:
    other = kept_in(TRIALS, "a_trial")
    with kept.working_copy() as folder:
        fill(folder, 1)
        kept.keep(folder)
        other._claim(folder.parent / "elsewhere")  # type: ignore[attr-defined]
        fill(folder, 2)
        with pytest.raises(LockedError, match="taken over by another worker"):
            kept.keep(folder)
    with other.files(with_adapter=False) as folder:
        assert content(folder) == {"training_log.json": "[\n 1\n]"}


def test_a_store_that_is_lost_while_a_record_is_kept_leaves_the_old_one(
    kept: Kept, object_store_weather: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept.working_copy() as folder:
        fill(folder, 2)
        kept.keep(folder)
        kept.place.patience_seconds = 0.0  # type: ignore[attr-defined]
        upload = RemoteFolder.upload

        def then_gone(place: RemoteFolder, file: Path, name: str) -> None:
            upload(place, file, name)
            object_store_weather.is_down = True

        monkeypatch.setattr(RemoteFolder, "upload", then_gone)
        fill(folder, 4)
        with pytest.raises(StorageError):
            kept.keep(folder)
    object_store_weather.is_down = False
    with kept_in(TRIALS, "a_trial").files(with_adapter=True) as folder:
        assert content(folder) == {"training_log.json": "[\n 2\n]", "adapter/weights": "2"}


def test_an_ended_trial_keeps_its_record_and_only_what_is_needed_of_the_rest(
    kept: Kept, object_store_weather: Weather
) -> None:
    with kept.working_copy() as folder:
        fill(folder, 2)
        kept.keep(folder)
    kept.prune(needs_adapter=True)
    assert objects() == ["1-1-adapter-weights", "1-1-training_log.json"]
    object_store_weather.is_down = True
    with pytest.raises(StorageError):
        kept.prune(needs_adapter=False)
    object_store_weather.is_down = False
    kept.prune(needs_adapter=False)
    assert objects() == ["1-1-training_log.json"]
    object_store_weather.requests.clear()
    kept.prune(needs_adapter=False)
    assert not object_store_weather.requests, "asked again and again"


def test_what_killed_workers_left_on_a_node_is_removed_by_the_next(kept: Kept, tmp_path: Path) -> None:
    left = tmp_path / "node" / "another" / "working"
    left.mkdir(parents=True)
    (left / "weights").touch()
    with kept.working_copy():
        assert not left.exists()


# the search's own files


@pytest.fixture
def quick(object_store_weather: Weather, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_EVERY_SECONDS", 0.0), ("_BEAT_SECONDS", 0.5), ("_SILENCE_SECONDS", 4.0)):
        monkeypatch.setattr(mirror, name, seconds)


def new_folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_what_a_search_keeps_goes_to_the_store_and_comes_back_on_another_machine(quick: None, tmp_path: Path) -> None:
    here, there = new_folder(tmp_path, "here"), new_folder(tmp_path, "there")
    with mirrored(PLACE, here) as first:
        assert first is not None
        (here / "outcomes.json").write_text("[1]")
        with contextlib.closing(sqlite3.connect(here / "optuna.db")) as database:
            database.execute("create table t (x)")
            database.execute("insert into t values (7)")
            database.commit()
        first.look()
        (here / "gone.json").write_text("")
        first.write()
        (here / "gone.json").unlink()
    assert fetch(PLACE, there)
    assert {path.name for path in there.iterdir()} == {"outcomes.json", "optuna.db", "mirror.json", ".writer"}
    with contextlib.closing(sqlite3.connect(there / "optuna.db")) as database:
        assert database.execute("select x from t").fetchall() == [(7,)]
    assert not fetch(PLACE, there)
    assert not fetch(PLACE, here), "what this machine wrote itself is as new here"


def test_the_machine_that_comes_back_takes_what_the_other_wrote_since(quick: None, tmp_path: Path) -> None:
    here, there = new_folder(tmp_path, "here"), new_folder(tmp_path, "there")
    with mirrored(PLACE, here):
        (here / "outcomes.json").write_text("[1]")
    fetch(PLACE, there)
    with mirrored(PLACE, there):
        (there / "outcomes.json").write_text("[1, 2]")
    (here / "outcomes.json").write_text("[1, 3]")  # written here, and never there
    assert fetch(PLACE, here)
    assert (here / "outcomes.json").read_text() == "[1, 2]"


def test_two_machines_do_not_run_one_search(quick: None, tmp_path: Path) -> None:
    here, there = new_folder(tmp_path, "here"), new_folder(tmp_path, "there")
    with mirrored(PLACE, here), pytest.raises(LockedError, match=f"{PLACE} is in use by"), mirrored(PLACE, there):
        pass
    with mirrored(PLACE, there):
        pass


def test_a_machine_that_is_gone_is_taken_over_and_stops_when_it_comes_back(quick: None, tmp_path: Path) -> None:
    here, there = new_folder(tmp_path, "here"), new_folder(tmp_path, "there")
    first, second = Mirror(PLACE, here), Mirror(PLACE, there)
    (here / "outcomes.json").write_text("[1]")
    first.open()
    first._ended.set()  # its thread stands still, as one of a machine that hangs
    time.sleep(1.5)
    fetch(PLACE, there)
    began = time.monotonic()
    second.open()
    assert time.monotonic() - began >= 4
    assert (there / "outcomes.json").read_text() == "[1]"
    first._beat(first._patient)
    with pytest.raises(LockedError, match="another machine has taken"):
        first.look()
    (here / "outcomes.json").write_text("[2]")
    first.close()
    second.close()
    assert not fetch(PLACE, there)


def test_a_store_that_is_gone_holds_nothing_up_and_gets_the_newest_later(
    quick: None, object_store_weather: Weather, tmp_path: Path
) -> None:
    here, there = new_folder(tmp_path, "here"), new_folder(tmp_path, "there")
    with mirrored(PLACE, here) as first:
        assert first is not None
        object_store_weather.is_down = True
        seconds = []
        for number in range(20):
            (here / "outcomes.json").write_text(f"[{number}]")
            began = time.monotonic()
            first.look()
            seconds.append(time.monotonic() - began)
            time.sleep(0.1)
        assert statistics.median(seconds) < 0.5, "of the machine's own pauses there are few"
        object_store_weather.is_down = False
        deadline = time.monotonic() + 20
        while not ((there / "outcomes.json").exists() and (there / "outcomes.json").read_text() == "[19]"):
            fetch(PLACE, there)
            assert time.monotonic() < deadline
            time.sleep(0.2)


# a whole search


def head(tmp_path: Path, name: str) -> dict[str, str]:
    """The environment of a machine of its own, with nothing in it."""
    for folder in ("home", "tmp"):
        (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
    # the path of a socket of Ray must be short
    own = {
        "RAY_TMPDIR": "/tmp",
        "HOME": str(tmp_path / name / "home"),
        "TMPDIR": str(tmp_path / name / "tmp"),
        "TOY_NOTES": str(tmp_path),
    }
    return os.environ | own


def start(environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(TOY), f"s3://{BUCKET}/results", "6", "0.3"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def await_evaluations(tmp_path: Path, process: subprocess.Popen[str], count: int) -> None:
    deadline = time.monotonic() + 120
    while not ((tmp_path / "evaluations.txt").exists() and len(evaluations(tmp_path)) >= count):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def evaluations(tmp_path: Path) -> list[str]:
    return (tmp_path / "evaluations.txt").read_text().splitlines()


@pytest.mark.slow
def test_a_search_whose_head_dies_goes_on_from_a_new_head_with_the_same_command(
    object_store_weather: Weather, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_tune_faults import kill_node

    first = start(head(tmp_path, "first"))
    await_evaluations(tmp_path, first, 12)
    kill_node(first)
    output = start(head(tmp_path, "second")).communicate(timeout=300)[0]
    assert output.splitlines()[-1] == "finished", output
    assert "Going on with what is kept in" in output
    folder = tmp_path / "second" / "home" / ".cache" / "medqa-qlora-search" / "s3" / BUCKET / "results" / "toy"
    rows = json.loads((folder / "outcomes.json").read_text())
    assert len({row["name"] for row in rows}) == len(rows) == 6
    assert {row["state"] for row in rows} <= {"completed", "stopped"}
    # two trials were under way: each has done one evaluation again at most
    again = [line for line, times in Counter(evaluations(tmp_path)).items() if times > 1]
    assert len(again) <= 2, again
    require_whole_runs(folder, rows)
    # nothing of a trial is left there but its record
    place = RemoteFolder(f"s3://{BUCKET}/results/toy/trials")
    for row in rows:
        manifest = json.loads((place / row["name"]).read("kept.json") or b"{}")
        assert {path.split("/")[0] for path in manifest["files"]} == {"config.json", "training_log.json"}
    require_readable_elsewhere(tmp_path, [row["name"] for row in rows], monkeypatch)


def require_readable_elsewhere(tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A third machine, which has the address alone, finds every trial and its files."""
    from analysis.brought import bring, brought_uri
    from analysis.runs import find_search, read_file

    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    folder = bring(f"s3://{BUCKET}/results", None)
    search = find_search(folder.parent, brought_uri(folder), folder.name)
    assert sorted(trial.name for trial in search.trials) == sorted(names)
    assert read_file(search, search.trials[0], "training_log.json")


def require_whole_runs(folder: Path, rows: list[dict[str, Any]]) -> None:
    """MLflow has each trial once, with each evaluation once."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("medqa")
    runs = client.search_runs([experiment.experiment_id], "tags.role = 'trial'")
    assert sorted(run.info.run_name for run in runs) == sorted(row["name"] for row in rows)
    steps = {row["name"]: row["steps"] for row in rows}
    for run in runs:
        logged = [metric.step for metric in client.get_metric_history(run.info.run_id, "accuracy")]
        assert logged == sorted(set(logged))
        assert logged[-1] == steps[run.info.run_name]
        file = client.download_artifacts(run.info.run_id, "training_log.json", tempfile.mkdtemp())
        log = record.read_json(Path(file))
        assert logged == [row["step"] for row in log], "an evaluation is missing"


@pytest.mark.slow
def test_a_store_that_is_gone_for_a_while_costs_waiting_alone(object_store_weather: Weather, tmp_path: Path) -> None:
    process = start(head(tmp_path, "first"))
    await_evaluations(tmp_path, process, 6)
    object_store_weather.is_down = True
    time.sleep(10)
    object_store_weather.is_down = False
    object_store_weather.delay_seconds = 0.05
    output = process.communicate(timeout=300)[0]
    assert output.splitlines()[-1] == "finished", output
    assert len(evaluations(tmp_path)) == len(set(evaluations(tmp_path)))


@pytest.mark.slow
def test_ctrl_c_gives_the_lease_back_so_that_another_machine_goes_on_at_once(
    object_store_weather: Weather, tmp_path: Path
) -> None:
    process = start(head(tmp_path, "first"))
    await_evaluations(tmp_path, process, 4)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert RemoteFolder(f"s3://{BUCKET}/results/toy").read("lease.json") is None
