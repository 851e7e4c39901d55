"""What ended a trial before its time, and what follows: no retry of an error, free retries of a lost worker."""

from __future__ import annotations

import contextlib
import math
import shutil
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ray import cloudpickle
from ray.exceptions import RayActorError
from ray.tune import report
from ray.tune.experiment import Trial

from medqa.errors import DiskFullError, DivergedError, GpuMemoryError, HopelessError, MedQAError, StorageError

FailureClass = Literal["", "out_of_memory", "diverged", "bug", "worker_lost", "disk_full", "storage_lost"]
MOST_RETRIES = 20
"""Times that a trial goes on after its worker died or was taken away; more is a worker that cannot live."""
MOST_EQUAL_BUGS = 3
"""Trials in a row that may end with the same bug; the search stops at the last of them."""
_KEY = "failure"
# as Linux, Rust, SQLite and torch's writer say it; some of them reach the search as text only
_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "disk is full",
    "inline_container.cc:",
    "PytorchStreamWriter",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a trial failed."""

    kind: FailureClass
    """Never ""; a full disk and an object store that is gone end the search, not the trial."""
    reason: str
    """One line."""
    signature: str
    """Type, message and last frame: equal for the same bug."""


@contextlib.contextmanager
def last_words() -> Iterator[None]:
    """Report what is raised inside to the search, then let it end the trial.

    Ray counts errors and dead workers alike against `max_failures`. A dead worker says nothing, an error can: the
    search allows retries to every trial, and takes them away from one that has reported an error. The error is raised
    all the same and not reported as a result, because Ray then gives up the worker too: one whose GPU is in a bad
    state would make every later trial fail.
    """
    try:
        yield
    except Exception as error:
        report(_to_result(failure_from(error)))
        raise


def failure_from(error: Exception) -> Failure:
    """Return the class of an error, and what a person and the search need to know of it."""
    first_line = str(error).strip().partition("\n")[0]
    reason = first_line if isinstance(error, MedQAError) else f"{type(error).__name__}: {first_line}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    signature = f"{reason} ({Path(frame.filename).name}, line {frame.lineno}, in {frame.name})"
    return Failure(kind=_kind(error), reason=reason, signature=signature)


def _kind(error: Exception) -> FailureClass:
    if isinstance(error, DivergedError):
        return "diverged"
    # torch's error by its name: where it can be raised torch is loaded, and elsewhere it need not be
    if isinstance(error, GpuMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    if isinstance(error, StorageError):
        return "storage_lost"
    return "disk_full" if is_disk_full(error) else "bug"


def _to_result(failure: Failure) -> dict[str, Any]:
    """Return a Ray result that tells scheduler and sampler nothing: no example seen, no value."""
    values = dict.fromkeys(("accuracy", "answer_nll", "compared_accuracy", "compared_answer_nll"), math.nan)
    nothing: dict[str, Any] = {"step": 0, "examples": 0, "finished": False, "stop_reason": "", **values}
    return {**nothing, _KEY: {"kind": failure.kind, "reason": failure.reason, "signature": failure.signature}}


def reported_failure(result: Mapping[str, Any]) -> Failure | None:
    """Return the failure in a result; None where it is an evaluation."""
    return Failure(**result[_KEY]) if _KEY in result else None


def unreported_failure(trial: Trial) -> Failure:
    """Return why a trial failed that could not say so itself."""
    error = newest_error(trial)
    if is_lost_worker(error):
        return Failure(kind="worker_lost", reason=f"its worker died {trial.num_failures} times", signature="")
    reason = _last_line(error) or "unknown error"
    kind: FailureClass = "disk_full" if is_disk_full(error) else "bug"
    return Failure(kind=kind, reason=reason, signature=reason)


def _last_line(error: Exception | None) -> str:
    """Return the last line of an error's text: of a traceback it says what went wrong."""
    lines = str(error or "").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def newest_error(trial: Trial) -> Exception | None:
    """Return what Ray last saw of a trial's failures; Ray's own reader looks where it will lie later."""
    file = trial.pickled_error_file
    if file is None or not Path(file).is_file():
        return None
    error: Exception = cloudpickle.loads(Path(file).read_bytes())
    return error


def is_lost_worker(error: Exception | None) -> bool:
    """Whether a worker died or was taken away; one that cannot even start has an error."""
    return isinstance(error, RayActorError) and not error.actor_init_failed


def is_disk_full(error: Exception | None) -> bool:
    """Whether an error or what it follows from says, itself or in a traceback that it quotes, that a disk is full."""
    return any(says_disk_full(line) for line in _lines(error))


def says_disk_full(text: str) -> bool:
    """Whether a text says that a disk is full."""
    return any(words in text for words in _FULL)


class BugWatch:
    """Counts trials in a row that ended with the same bug."""

    def __init__(self) -> None:
        self.signature = ""
        """The bug with which the newest trial ended; "" when it ended otherwise."""
        self._count = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether the search should stop."""
        return self._count >= MOST_EQUAL_BUGS

    def trial_ended(self, failure: Failure | None) -> None:
        """Take how a trial ended."""
        signature = failure.signature if failure and failure.kind == "bug" else ""
        self._count = 0 if not signature else self._count + 1 if signature == self.signature else 1
        self.signature = signature


def hopeless(signature: str, folder: Path) -> HopelessError:
    """Return the error with which a search stops after too many equal bugs."""
    return HopelessError(
        f"the search has stopped: {MOST_EQUAL_BUGS} trials in a row ended with the same bug, {signature}: "
        f"mend it, then run the same command to go on (nothing is lost; tracebacks are in {folder}/*/error.txt)"
    )


@contextlib.contextmanager
def disk_watch(folder: Path) -> Iterator[None]:
    """Turn whatever is raised inside because a disk is full into one line; `folder` is where results go.

    Raises:
        DiskFullError: in place of an error that says so.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        free_mb = shutil.disk_usage(folder).free / 2**20
        raise DiskFullError(
            f"the search has stopped because a disk is full: {_full_words(error)} ({free_mb:.0f} MB free in {folder}); "
            "make room, then run the same command to go on (nothing is lost)"
        ) from error


def _full_words(error: Exception) -> str:
    """Return the line of an error that says which disk is full."""
    return next(line.strip() for line in _lines(error) if says_disk_full(line))


def _lines(error: BaseException | None) -> Iterator[str]:
    """Yield the lines of an error's text, then those of what it was raised from or in the midst of."""
    while error is not None:
        yield from str(error).split("\n")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
