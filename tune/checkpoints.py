"""Puts a trial's checkpoint folders in order after a kill, before Ray goes on from them."""

from __future__ import annotations

import shutil
from pathlib import Path

from ray.tune.experiment import Trial


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
