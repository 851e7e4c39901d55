"""What one trial has used of the machines, how fast it was, and what a full course takes by that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What one trial has used, over all its starts, and how fast it was."""

    seconds: float = 0.0
    """Seconds for which it held a worker."""
    gpu_seconds: float = 0.0
    """The same, times the GPUs it held."""
    course: float = 0.0
    """Training examples of its full course."""
    first_seconds: float = 0.0
    """`seconds` at its first evaluation; 0.0 before."""
    first_examples: int = 0
    """Training examples seen at its first evaluation; 0 before."""
    last_seconds: float = 0.0
    last_examples: int = 0

    @property
    def pace(self) -> float:
        """Seconds per training example between its first and its last evaluation; with start-up where there is one."""
        if self.last_examples == self.first_examples:
            return self.first_seconds / self.first_examples
        return (self.last_seconds - self.first_seconds) / (self.last_examples - self.first_examples)

    def expected_seconds(self, course: float) -> float:
        """Return what a trial as fast as this one would take for a full course."""
        return self.first_seconds + self.pace * max(0.0, course - self.first_examples)

    def remaining_seconds(self, measured: Sequence[Use]) -> float:
        """Return what this trial still needs, by its own speed or else by the slowest of those measured.

        What it did since its last evaluation is not taken off: a kill would make it do that again.
        """
        if self.last_examples:
            return self.pace * max(0.0, self.course - self.last_examples)
        return slowest(measured, self.course)


def slowest(measured: Sequence[Use], course: float) -> float:
    """Return the most seconds that a full course takes by any of the trials measured; there is at least one."""
    return max(use.expected_seconds(course) for use in measured)
