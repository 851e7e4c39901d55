"""ASHA's rungs: what trials had reached at the same share of their own course, and who goes on from there.

Trials are compared at equal shares of their optimizer steps, not at equal steps. Courses differ in length, and with
them the learning-rate schedules: at the same step a short course has come down from its peak and a long one is near
it, so that the short one looks better than it will end. At the same share all are at the same point of their
schedules, and the warm-up, itself a share of the course, is over. A longer course costs more before it is judged;
it is meant to. In the study's six learning curves the best preset, a long one, is fourth to sixth at equal steps until
step 500 and first at every share from 10 to 40 %. `tests/benchmarks/search_efficiency.py` shows both ways side by side.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from fractions import Fraction

SHARES = (Fraction(1, 8), Fraction(1, 4), Fraction(1, 2))
"""Where trials are compared; each trial pays at most twice of what the rung before has cost it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a rung says of a trial that has reached it."""

    share: Fraction
    """The rung."""
    value: float
    """What the trial had reached."""
    bar: float
    """The median of all that have reached the rung, this one among them."""
    trials: int
    """How many those are."""
    stops: bool
    """Whether the trial is worse than the bar."""


class Rungs:
    """The values of all trials at each rung; a trial goes on while it is in the better half of them.

    Args:
        mode: "max" where larger values are better, or "min".
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.values: dict[Fraction, dict[str, float]] = {share: {} for share in SHARES}
        """Rung to trial name to value."""

    def judge(self, name: str, progress: float, warmup: float, value: float) -> Verdict | None:
        """Enter a value in the highest rung that the trial has reached; None where it says nothing new.

        Args:
            name: The trial's name; it is judged once at a rung.
            progress: Share of its optimizer steps done, from 0 to 1.
            warmup: Share of its steps over which the learning rate rises: no trial is judged before.
            value: The best that it has reached so far.
        """
        reached = [share for share in SHARES if warmup < share <= progress + 1e-9]
        if not reached or math.isnan(value) or name in self.values[reached[-1]]:
            return None
        rung = self.values[reached[-1]]
        rung[name] = value
        bar = statistics.median(rung.values())
        stops = value < bar if self.mode == "max" else value > bar
        return Verdict(share=reached[-1], value=value, bar=bar, trials=len(rung), stops=stops)
