"""The hours a search may take, counted over all runs of the same search together."""

from __future__ import annotations

import time
from pathlib import Path

from medqa.record import read_json, write_json

_SAVED_EVERY_SECONDS = 10.0


class Clock:
    """Hours during which trials ran, kept in a file so that a search that goes on counts on."""

    def __init__(self, file: Path, max_hours: float | None) -> None:
        self.file = file
        self.max_hours = max_hours
        self._hours_before: float = read_json(file)["hours"] if file.exists() else 0.0
        self._started: float | None = None
        self._saved = 0.0

    @property
    def hours(self) -> float:
        """Hours used so far."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._hours_before + running / 3600

    @property
    def is_over(self) -> bool:
        """Whether the hours allowed are used up."""
        return self.max_hours is not None and self.hours >= self.max_hours

    def start(self) -> None:
        """Begin to count; or go on counting, where trials ran before in this process."""
        self._hours_before = self.hours
        self._started = time.monotonic()

    def tick(self) -> None:
        """Keep the count, at most every ten seconds."""
        if time.monotonic() - self._saved >= _SAVED_EVERY_SECONDS:
            self.save()

    def save(self) -> None:
        """Keep the count now."""
        self._saved = time.monotonic()
        write_json(self.file, {"hours": self.hours})
