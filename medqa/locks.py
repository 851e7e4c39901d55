"""One process at a time: a lock on a file that the system lets go of when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from medqa.errors import LockedError

_FILE = ".lock"
_LOOK_EVERY_SECONDS = 0.1
# some network file systems are mounted without locks: that is no reason not to search there
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


@contextlib.contextmanager
def alone(folder: Path, wait_seconds: float = 0.0, beside: bool = False) -> Iterator[None]:
    """Be the only process that works in `folder`.

    Args:
        folder: It is there; an empty file in it is what is locked.
        wait_seconds: How long another holder is waited for.
        beside: Whether that file is beside the folder, because all that is in it is handed on.

    Raises:
        LockedError: when another holds it longer than that.
    """
    deadline = time.monotonic() + wait_seconds
    file = folder.with_name(f".{folder.name}{_FILE}") if beside else folder / _FILE
    with file.open("a") as handle:
        while not _taken(handle.fileno()):
            if time.monotonic() >= deadline:
                raise LockedError(f"{folder} is in use by another process: wait for its end, or stop it")
            time.sleep(_LOOK_EVERY_SECONDS)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
