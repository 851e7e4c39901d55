"""A trial keeps its record whole, goes on from it, and is worked on by one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medqa import record
from medqa.errors import DivergedError, LockedError
from medqa.locks import alone
from tune.kept import KeptFolder, kept_of
from tune.trainable import keep_and_report


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_trial_goes_on_from_the_newest_record_it_kept_and_the_copy_is_its_own(tmp_path: Path) -> None:
    kept = kept_of({"trials": str(tmp_path), "name": "a_trial"})
    assert isinstance(kept, KeptFolder)
    for step in ("1", "2"):
        with kept.working_copy() as folder:
            (folder / "step").write_text(step)
            kept.keep(folder)
            (folder / "step").write_text("not kept")
        assert not folder.exists()
    with kept.working_copy() as folder:
        assert content(folder) == {"step": "2"}
    assert content(kept.folder) == {"step": "2"}


def save(folder: Path, text: str) -> None:
    def write(partial: Path) -> None:
        partial.mkdir()
        (partial / "weights").write_text(text)

    record.replace_folder(folder, write)


@pytest.mark.parametrize("links", [True, False], ids=["with links", "without links"])
def test_large_files_are_shared_where_they_can_be_and_what_replaces_them_changes_no_other_copy(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError("Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    kept = tmp_path / "a_trial" / "kept"
    for number in range(3):
        with KeptFolder(kept).working_copy() as folder:
            save(folder / "adapter", str(number))
            record.write_json(folder / "log.json", number)
            KeptFolder(kept).keep(folder)
            kept_weights, own_weights = kept / "adapter" / "weights", folder / "adapter" / "weights"
            assert kept_weights.samefile(own_weights) == links
            assert not (kept / "log.json").samefile(folder / "log.json")
            save(folder / "adapter", "not kept")
            assert kept_weights.read_text() == str(number)
        with KeptFolder(kept).working_copy() as folder:
            assert (folder / "adapter" / "weights").read_text() == str(number)
            assert record.read_json(folder / "log.json") == number


@pytest.mark.parametrize("moment", ["while copying", "between the renames", "before the old one is removed"])
def test_a_kill_while_a_record_is_kept_leaves_a_whole_one(moment: str, tmp_path: Path) -> None:
    kept = tmp_path / "a_trial" / "kept"
    partial, old = kept.with_name(".kept.partial"), kept.with_name(".kept.old")
    for folder in {"while copying": (kept, partial), "between the renames": (partial, old)}.get(moment, (kept, old)):
        folder.mkdir(parents=True)
        (folder / "name").write_text(folder.name)
    whole = {"between the renames": ".kept.old"}.get(moment, "kept")
    with KeptFolder(kept).working_copy() as folder:
        assert content(folder) == {"name": whole}
    assert not partial.exists()
    assert not old.exists()


def test_a_folder_is_worked_on_by_one_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(LockedError, match="in use by another process"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_a_killed_holder_is_waited_for_and_holds_nothing(tmp_path: Path) -> None:
    code = "import pathlib, sys, time, medqa.locks\nwith medqa.locks.alone(pathlib.Path(sys.argv[1])):"
    code += "\n    print('held')\n    time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-u", "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(LockedError), alone(tmp_path, wait_seconds=0.2):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    began = time.monotonic()
    with alone(tmp_path, wait_seconds=30):
        assert time.monotonic() - began < 10
    holder.communicate()


def test_a_value_that_is_not_a_number_is_neither_kept_nor_reported(tmp_path: Path) -> None:
    evaluation = {"step": 16, "accuracy": float("nan"), "answer_nll": 1.0}
    with pytest.raises(DivergedError, match="diverged at step 16: accuracy is nan"):
        keep_and_report(evaluation, tmp_path, KeptFolder(tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()


def test_a_record_replaced_twice_is_the_newest(tmp_path: Path) -> None:
    for text in ("1", "2"):

        def write(folder: Path, text: str = text) -> None:
            folder.mkdir()
            (folder / "file").write_text(text)

        record.replace_folder(tmp_path / "folder", write)
    assert content(tmp_path / "folder") == {"file": "2"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
