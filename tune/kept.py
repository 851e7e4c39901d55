"""What each trial has kept of itself: its record at its newest evaluation, whole, and used by one process at a time.

A search that goes on takes each fact from one place. `outcomes.json` says which trials have ended, and how; Optuna's
study, which trials were proposed, under which name, and what they reached on their way; a trial's own folder here,
how far it has come; `rungs.json`, what ASHA has seen and whom it stopped; `budget.json`, what was used. Ray's own
state is of one run of the command: nothing is read back from it. What a kill leaves half done is done again: a trial
goes on from what it kept and reports its newest evaluation once more, and whoever has heard it passes it over.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from medqa import record
from medqa.errors import ConfigError
from medqa.locks import alone
from medqa.storage import RemoteFolder, is_remote
from tune.kept_objects import KeptObjects

FOLDER = "kept"
"""Folder of what a trial has kept, in the trial's own folder."""
_WORKING = ".working"
_LONGEST_WAIT_SECONDS = 600.0
"""A worker whose search was killed dies with its Ray, or at the end of its step on the GPU."""


class Kept(Protocol):
    """What one trial has kept, wherever that is."""

    def exists(self) -> bool:
        """Whether it has kept anything."""

    def working_copy(self) -> AbstractContextManager[Path]:
        """Hand out a folder of this machine with a copy of what the trial has kept, and remove it at the end."""

    def keep(self, folder: Path) -> None:
        """Put the trial's folder in the place of what it had kept: a kill leaves the old one or the new one."""

    def prune(self, needs_adapter: bool) -> None:
        """Remove what an ended trial needs no more: its restart state, and its adapter where not needed here."""

    def files(self, with_adapter: bool) -> AbstractContextManager[Path]:
        """Hand out a folder of this machine to read the record from, and the adapter if asked for."""


def kept_of(ray_config: Mapping[str, Any]) -> Kept:
    """Return what the trial with this Ray configuration has kept; it may be nothing yet."""
    return kept_in(ray_config["trials"], str(ray_config["name"]))


def kept_in(trials: str, name: str) -> Kept:
    """Return what the trial of this name has kept; `trials` is a folder that every node sees, or an address."""
    if is_remote(trials):
        return KeptObjects(RemoteFolder(f"{trials}/{name}"))
    return KeptFolder(Path(trials) / name / FOLDER)


class KeptFolder:
    """What a trial has kept in a folder that every node sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def exists(self) -> bool:
        """Whether it has kept anything."""
        return self.folder.is_dir()

    @contextlib.contextmanager
    def working_copy(self) -> Iterator[Path]:
        """Hand out a copy beside what is kept; after a kill it is removed next time.

        Raises:
            ConfigError: when this node does not see the search's folder.
            LockedError: when a worker of an earlier run of the search still uses the trial after ten minutes.
        """
        trial, folder = self.folder.parent, self.folder.with_name(_WORKING)
        _require_shared(trial.parent)
        trial.mkdir(exist_ok=True)
        with alone(trial, _LONGEST_WAIT_SECONDS):
            shutil.rmtree(folder, ignore_errors=True)
            record.recover_folder(self.folder)
            try:
                if self.folder.is_dir():
                    _copy(self.folder, folder)
                folder.mkdir(exist_ok=True)
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def keep(self, folder: Path) -> None:
        """Put a copy of the trial's folder in the place of what it had kept: a kill leaves the old one or the new one.

        What lies in folders of its own, the adapter and the restart state, is hundreds of megabytes that are written
        once and never changed: both folders share those files. The few small files beside them are copied.
        """
        record.replace_folder(self.folder, lambda partial: _copy(folder, partial))

    def prune(self, needs_adapter: bool) -> None:
        """Remove what an ended trial needs no more, and the working copy of a worker that was killed."""
        shutil.rmtree(self.folder.with_name(_WORKING), ignore_errors=True)
        record.recover_folder(self.folder)
        shutil.rmtree(self.folder / record.STATE, ignore_errors=True)
        if not needs_adapter:
            shutil.rmtree(self.folder / record.ADAPTER, ignore_errors=True)

    @contextlib.contextmanager
    def files(self, with_adapter: bool) -> Iterator[Path]:
        """Hand out the folder itself."""
        yield self.folder


def _require_shared(trials: Path) -> None:
    """Raise ConfigError on a node that does not see the folder, which the search made before any trial."""
    if not trials.is_dir():
        raise ConfigError(
            f"{trials} is not on this node: with several nodes give --results a folder that all share, or s3://…"
        )


def _copy(folder: Path, copy: Path) -> None:
    copy.mkdir()
    for path in folder.iterdir():
        if path.is_dir():
            record.link_folder(path, copy / path.name)
        else:
            record.copy_file(path, copy / path.name)
