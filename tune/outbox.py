"""Records on their way to a place that may be slow or gone: kept in a file, sent in order by one thread."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medqa.record import read_json, write_json

Record = dict[str, Any]
"""What can be written as JSON; "number" is the outbox's own key and grows from record to record."""
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_LONGEST_REASON = 200
_NOTE_BEFORE = "(raised as a result of "
"""How SQLAlchemy begins a line of its own before the database's."""
_NEWS_SECONDS = 10.0
"""How long one waits without a word."""


class Outbox:
    """A journal of records and the daemon thread that sends them; adding one never waits for the other side.

    A record is on the disk before it is sent, and counts as sent once its number is: a kill in between sends it
    again, so `send` must bear the same record twice. One that fails is tried again for ever, and those behind it
    wait, unless it is refused: then it is put aside into a file.

    Args:
        file: The journal; it is there only while records wait.
        send: Delivers one record; called in the thread alone.
        is_refusal: Whether an error of `send` says no for good; any other is an outage.
    """

    def __init__(self, file: Path, send: Callable[[Record], None], is_refusal: Callable[[Exception], bool]) -> None:
        self.file = file
        self.refused_file = file.with_name(f"{file.stem}_refused.jsonl")
        self.problem = ""
        """Why the newest try failed; "" after one that did not."""
        self.refusals: list[str] = []
        """Reasons of the records refused since this outbox was opened."""
        self._send, self._is_refusal = send, is_refusal
        self._position_file = file.with_name(f"{file.stem}_sent.json")
        self._sent: int = read_json(self._position_file)["number"] if self._position_file.exists() else 0
        self._waiting = deque(record for record in _read(file) if record["number"] > self._sent)
        self._number = self._waiting[-1]["number"] if self._waiting else self._sent
        self._changed = threading.Condition()
        self._closing = threading.Event()
        threading.Thread(target=self._run, name="outbox", daemon=True).start()

    def __len__(self) -> int:
        return len(self._waiting)

    def not_taken(self) -> tuple[Record, ...]:
        """Return the records that wait, in order, and those that were ever refused."""
        refused = _read(self.refused_file)
        with self._changed:
            return (*refused, *self._waiting)

    def add(self, record: Record) -> None:
        """Write a record to the journal, whole or not at all, and let it be sent."""
        with self._changed:
            numbered = {**record, "number": self._number + 1}
            _append(self.file, numbered)
            self._number += 1
            self._waiting.append(numbered)
            self._changed.notify_all()

    def wait(
        self, seconds: float, still_waiting: Callable[[], None], is_in_vain: Callable[[], bool] = lambda: False
    ) -> None:
        """Wait until all is sent, or waiting is in vain, `seconds` at most; say so once when it takes longer."""
        started, is_told = time.monotonic(), False
        while len(self) and not is_in_vain() and time.monotonic() - started < seconds:
            if not is_told and time.monotonic() - started >= _NEWS_SECONDS:
                still_waiting()
                is_told = True
            with self._changed:
                self._changed.wait(0.2)

    def close(self) -> None:
        """End the thread after what it is sending now; what waits stays in the journal."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while record := self._next():
            try:
                self._deliver(record)
                self.problem, pause = "", _FIRST_PAUSE_SECONDS
            except Exception as error:
                self.problem = first_line(error)
                self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _next(self) -> Record | None:
        with self._changed:
            while not self._waiting and not self._closing.is_set():
                self._changed.wait()
            return None if self._closing.is_set() else self._waiting[0]

    def _deliver(self, record: Record) -> None:
        try:
            self._send(record)
        except Exception as error:
            if not self._is_refusal(error):
                raise
            _append(self.refused_file, {**record, "reason": first_line(error)})
            self.refusals.append(first_line(error))
        write_json(self._position_file, {"number": record["number"]})
        with self._changed:
            self._waiting.popleft()
            if not self._waiting:
                self.file.unlink(missing_ok=True)
            self._changed.notify_all()


def first_line(error: Exception) -> str:
    """Return what an error says, in one line.

    Of a long chain around an error of the system that error, and of a database's what SQLAlchemy's note stands before.
    """
    if system_error := re.search(r"\[Errno \d+\] ([\w ]+)", str(error)):
        return system_error[1][:_LONGEST_REASON]
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(_NOTE_BEFORE)]
    return (lines[0].strip() if lines else type(error).__name__)[:_LONGEST_REASON]


def _read(file: Path) -> list[Record]:
    """Return the journal's records; a last line that a kill cut off is taken away."""
    if not file.exists():
        return []
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(file, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def _append(file: Path, record: Record) -> None:
    line = json.dumps(record, ensure_ascii=False) + "\n"
    size = file.stat().st_size if file.exists() else 0
    with file.open("a", encoding="utf-8") as stream:
        try:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        except OSError:  # a full disk may have taken a part
            os.truncate(file, size)
            raise
