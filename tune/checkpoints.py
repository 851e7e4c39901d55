"""Trials' checkpoint folders: put in order after a kill, and emptied of what an ended trial needs no more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from ray.tune.experiment import Trial

from medqa.errors import RecordError
from medqa.record import ADAPTER, STATE, read_json


def tidy(trial: Trial) -> None:
    """Leave an unfinished trial the one checkpoint that Ray's saved state names, or none.

    Ray deletes a checkpoint once it has registered the next, and saves its state a little later: a kill in between
    leaves a state that names a deleted folder. The oldest folder left is then the registered one and whole; a newer
    one may have been cut off while it was written, and is removed.
    """
    if not trial.storage.trial_dir_name:  # never started
        return
    folders = sorted(Path(trial.storage.trial_fs_path).glob("checkpoint_*"))
    named = Path(trial.checkpoint.path) if trial.checkpoint else None
    if named is not None and folders and named not in folders:
        folders[0].rename(named)
        folders = folders[1:]
    for folder in folders:
        if folder != named:
            shutil.rmtree(folder)


def prune(trial: Path, needs_adapter: Callable[[Path], bool]) -> bool:
    """Remove an ended trial's restart states, and its adapters where they are needed here no more.

    Args:
        trial: The trial's folder in Ray's folder of the search.
        needs_adapter: Whether the adapter in the checkpoint folder given is still needed.

    Returns:
        Whether nothing is left to be removed later.
    """
    is_tidy = True
    for folder in trial.glob("checkpoint_*"):
        shutil.rmtree(folder / STATE, ignore_errors=True)
        if not (folder / ADAPTER).is_dir():
            continue
        if needs_adapter(folder):
            is_tidy = False
        else:
            shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    return is_tidy


def ended_trials(trials: Path) -> set[str]:
    """Return the trials that have ended in Ray's saved state: none of them starts again, even after a kill."""
    newest = max(trials.glob("experiment_state-*.json"), default=None)
    if newest is None:
        return set()
    try:
        saved = [json.loads(trial) for trial, _ in read_json(newest)["trial_data"]]
    except RecordError:  # Ray is writing it just now
        return set()
    return {trial["config"]["name"] for trial in saved if trial["status"] in (Trial.TERMINATED, Trial.ERROR)}
