"""Words for the choice of the best trial, the same in the search's summary and in the final evaluation."""

from __future__ import annotations


def format_value(value: float | None, metric: str) -> str:
    """Return an accuracy in %, or an answer NLL in nats; "-" for None."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if metric == "accuracy" else f"{value:.3f}"


def format_margin(value: float, metric: str, over: str, name: str, over_new_seeds: bool) -> str:
    """Return a margin and what it rests on, with the bracket left open for what else is known of it.

    Args:
        value: By how much the best is better, in the metric.
        metric: The search's.
        over: What the other trial is.
        name: Its name.
        over_new_seeds: Whether means over new seeds are compared, not one training each.
    """
    unit = "points" if metric == "accuracy" else "nats"
    better = "better" if value >= 0 else "worse"
    basis = "means over new seeds" if over_new_seeds else "one training each, in the search"
    return f"{format_value(abs(value), metric)} {unit} {better} than {over}, {name} ({basis}"


def format_note(note: str) -> str:
    """Return why a confirmation did not choose, as a sentence."""
    return f"{note[0].upper()}{note[1:]}: this is the search's own choice."
