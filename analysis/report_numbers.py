"""How numbers are written in a report: a rate with its interval, a difference in points, a p-value in plain form."""

from __future__ import annotations

import dataclasses
from typing import Any

from analysis.plot_style import look_of, p_text, percent, with_interval
from medqa.estimates import TOO_FEW, wilson

NOTHING = "–"
"""A cell without a value; sorts last."""
Content = dict[str, Any]
_SIDES = " minus "


def rate(estimate: Content | None) -> str:
    """Return "57.4 % (54.7 to 60.1)", "too few (5 of 7)" below TOO_FEW items, or NOTHING for None."""
    if estimate is None:
        return NOTHING
    if estimate["n"] < TOO_FEW:
        return f"too few ({round(estimate['value'] * estimate['n'])} of {estimate['n']})"
    return with_interval(estimate)


def counted(text: str, estimate: Content | None) -> str:
    """Return what `rate` or `number` wrote with its n behind it, for cells whose n is not that of their row."""
    return text if estimate is None or estimate["n"] < TOO_FEW else f"{text}, {size(estimate)}"


def size(estimate: Content) -> str:
    """Return "n = 1,273"."""
    return f"n = {estimate['n']:,}"


def of_all(fraction: float, n: int) -> str:
    """Return a fraction of n questions as `rate` writes it."""
    return rate(dataclasses.asdict(wilson(round(fraction * n), n)))


def number(estimate: Content | None) -> str:
    """Return "0.493 (0.460 to 0.520)", "too few (n = 7)" or NOTHING."""
    if estimate is None:
        return NOTHING
    if estimate["n"] < TOO_FEW:
        return f"too few (n = {estimate['n']})"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def points(estimate: Content) -> str:
    """Return a difference of rates as "+8.3 points (+5.1 to +11.4)", or "too few (n = 7)"."""
    if estimate["n"] < TOO_FEW:
        return f"too few (n = {estimate['n']})"
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def p_cell(p_value: float | None) -> str:
    """Return a p-value as "0.012" or "< 0.0001"; NOTHING for None."""
    if p_value is None:
        return NOTHING
    return p_text(p_value).removeprefix("= ")


def label(model: str) -> str:
    """Return what a model is called."""
    return look_of(model).label


def pair_label(pair: str) -> str:
    """Return "tuned minus zero-shot base" for "fine_tuned_minus_zero_shot"."""
    return _SIDES.join(label(side) for side in pair.split("_minus_"))


def share(value: float) -> str:
    """Return a fraction as "57.4 %"."""
    return percent(value)
