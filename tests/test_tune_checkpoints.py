"""After a kill, a trial is left the one checkpoint that Ray's saved state names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from tune.checkpoints import tidy


def new_trial(folder: Path, named: str | None, present: list[str]) -> SimpleNamespace:
    for name in present:
        (folder / name).mkdir()
        (folder / name / "content").write_text(name)
    checkpoint = SimpleNamespace(path=str(folder / named)) if named else None
    storage = SimpleNamespace(trial_dir_name=folder.name, trial_fs_path=str(folder))
    return SimpleNamespace(checkpoint=checkpoint, storage=storage)


def left(folder: Path) -> dict[str, str]:
    return {path.name: (path / "content").read_text() for path in folder.iterdir()}


def test_a_newer_checkpoint_that_may_be_cut_off_is_removed(tmp_path: Path) -> None:
    tidy(new_trial(tmp_path, "checkpoint_000001", ["checkpoint_000001", "checkpoint_000002"]))
    assert left(tmp_path) == {"checkpoint_000001": "checkpoint_000001"}


def test_the_oldest_left_takes_the_place_of_a_deleted_one(tmp_path: Path) -> None:
    tidy(new_trial(tmp_path, "checkpoint_000001", ["checkpoint_000002", "checkpoint_000003"]))
    assert left(tmp_path) == {"checkpoint_000001": "checkpoint_000002"}


def test_a_checkpoint_that_was_never_registered_is_removed(tmp_path: Path) -> None:
    tidy(new_trial(tmp_path, None, ["checkpoint_000000"]))
    assert left(tmp_path) == {}


def test_a_trial_that_never_started_has_nothing_to_tidy(tmp_path: Path) -> None:
    trial = new_trial(tmp_path, None, [])
    trial.storage = SimpleNamespace(trial_dir_name=None)
    tidy(trial)
    assert list(tmp_path.iterdir()) == []
