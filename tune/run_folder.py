"""Where a trial trains: a temporary folder on its node that does not outlive a killed worker for long."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def run_folder(search: str, trial: str) -> Iterator[Path]:
    """Yield an empty folder for one start of a trial; first remove what killed workers of the search left here.

    Each folder has a file beside it that its process holds locked. The system unlocks it when the process dies,
    however it dies, so that a folder without a lock belongs to nobody.

    Args:
        search: The search's folder, which tells it from others on the node.
        trial: The trial's name.
    """
    remove_dead(search)
    parent = _parent(search)
    parent.mkdir(parents=True, exist_ok=True)
    name = f"{trial}-{os.getpid()}-{os.urandom(4).hex()}"
    lock, folder = parent / f"{name}.lock", parent / name
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def remove_dead(search: str) -> None:
    """Remove the folders of this search on this node whose process has died; those of live trials stay."""
    for lock in _parent(search).glob("*.lock"):
        with contextlib.suppress(OSError), lock.open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError while its process lives
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()


def _parent(search: str) -> Path:
    name = hashlib.sha256(search.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"medqa-{os.getuid()}-{name}"
