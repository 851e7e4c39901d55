"""Losses of a training -> whether it diverges, seen soon and without making the GPU wait at every step."""

from __future__ import annotations

import math

import torch

from medqa.errors import DivergedError

CHECK_EVERY_STEPS = 10
"""Steps after which the losses are fetched from a GPU; at batch 16, their mean is over 160 examples."""
MOST_TIMES_START = 3.0
"""Above this multiple of its start a loss has diverged. The mean of ten steps wanders by some 15 %, and the study's six
curves by 5 %: three times is far from both."""
LEAST_START = 0.5
"""Nats that count as the start of a lower one. A model that falls back to guessing among four letters has 0.7 nats per
answer token: that is seen in its accuracy, and is not divergence."""


class LossWatch:
    """Compares the mean loss of every ten steps, and of every evaluation's interval, with the start of the training.

    The start is the mean of the first ten steps and, from the first evaluation on, that of the first interval, which
    a restarted trial knows from its log: it judges the same means as one that was not interrupted.

    Args:
        start: Mean training loss of the first interval in nats; None before the first evaluation.
    """

    def __init__(self, start: float | None) -> None:
        self.start = start
        self._in_first_interval = start is None
        self._sum: torch.Tensor | float = 0.0
        self._steps = 0

    def add(self, loss: torch.Tensor) -> None:
        """Take one micro-batch's part of a step's loss, left on its device."""
        self._sum = self._sum + loss

    def step_ended(self, step: int) -> None:
        """Look at the losses since the last look: every step on the CPU, where it costs nothing, else every tenth.

        Raises:
            DivergedError: when they are not finite, or too high.
        """
        self._steps += 1
        due = self._steps == CHECK_EVERY_STEPS
        if not due and isinstance(self._sum, torch.Tensor) and self._sum.device.type != "cpu":
            return
        mean = float(self._sum) / self._steps
        _require_finite("training loss", mean, step)
        if due:
            self._judge(mean, step)
            self._sum, self._steps = 0.0, 0

    def evaluated(self, step: int, train_loss: float, answer_nll: float) -> None:
        """Look at an evaluation, and begin to count anew: a restart begins here too.

        Raises:
            DivergedError: when a value is not finite, or the training loss is too high.
        """
        _require_finite("training loss", train_loss, step)
        _require_finite("validation NLL", answer_nll, step)
        self._judge(train_loss, step)
        if self._in_first_interval:
            self.start, self._in_first_interval = train_loss, False
        self._sum, self._steps = 0.0, 0

    def _judge(self, mean: float, step: int) -> None:
        self.start = mean if self.start is None else self.start
        bar = MOST_TIMES_START * max(self.start, LEAST_START)
        if mean > bar:
            raise DivergedError(
                f"diverged at step {step}: the mean training loss is {mean:.4g}, above {bar:.4g}, which is "
                f"{MOST_TIMES_START:g} times its start ({self.start:.4g}, at least {LEAST_START:g})"
            )


def _require_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise DivergedError(f"diverged at step {step}: the {what} is {value}")
