"""What the figures share: colours, markers, intervals and plain axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every common colour blindness
BLUE, ORANGE, VERMILION, YELLOW = "#0072B2", "#E69F00", "#D55E00", "#F0E442"
GREEN, GREY, BLACK = "#009E73", "#999999", "#222222"
DOTS_PER_INCH = 200
WIDTH_INCHES = 6.0  # 1,200 pixels: letters large enough for the width of a phone


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How one series is drawn: told apart without colour too."""

    label: str
    colour: str
    marker: str


MODELS: Final = {
    "zero_shot": Look(label="zero-shot base", colour=GREY, marker="o"),
    "few_shot": Look(label="3-shot base", colour=ORANGE, marker="s"),
    "fine_tuned": Look(label="tuned", colour=BLUE, marker="D"),
}
"""The models of every evaluation, in the order in which they are shown."""
SEED_POINT = Look(label="seed point", colour=BLUE, marker="D")
DRAWN = Look(label="drawn by Optuna", colour=ORANGE, marker="o")
"""The trials of a search, by where their configurations are from."""
_OTHERS = {
    "best_preset": Look(label="best preset", colour=BLACK, marker="P"),
    "ensemble": Look(label="ensemble", colour=VERMILION, marker="^"),
    "counterpart": Look(label="counterpart", colour=GREEN, marker="v"),
}


def look_of(model: str) -> Look:
    """Return how a model is drawn and called: one of MODELS or of the others, or a further one under its own name."""
    return MODELS.get(model) or _OTHERS.get(model) or Look(label=model, colour=BLACK, marker="v")


def new_figure(height_inches: float) -> tuple[Figure, Axes]:
    """Return a figure of the common width with one plain pair of axes."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    axes = figure.subplots()
    make_plain(axes)
    return figure, axes


def make_plain(axes: Axes) -> None:
    """Take off the frame's top and right, and lay a faint grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def draw_interval(axes: Axes, interval: dict[str, Any], row: float, look: Look, hollow: bool = False) -> None:
    """Draw one rate with its interval, in per cent, as a point with arms on a row."""
    value = 100 * interval["value"]
    axes.errorbar(
        [value],
        [row],
        xerr=arms([interval]),
        color=look.colour,
        marker=look.marker,
        markersize=7,
        markerfacecolor="white" if hollow else look.colour,
        capsize=3,
        linestyle="none",
    )


def arms(intervals: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Return the lengths below and above each value, in per cent, as matplotlib's error bars take them."""
    below = [100 * max(0.0, item["value"] - item["low"]) for item in intervals]
    above = [100 * max(0.0, item["high"] - item["value"]) for item in intervals]
    return [below, above]


def add_legend(figure: Figure, axes: Axes, looks: Sequence[tuple[Look, bool]], columns: int = 3) -> None:
    """Put a legend below the axes; each look with whether its marker is hollow."""
    for look, hollow in looks:
        face = "white" if hollow else look.colour
        axes.plot(
            [], [], color=look.colour, marker=look.marker, markerfacecolor=face, linestyle="none", label=look.label
        )
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)


def sample_sizes(intervals: Sequence[dict[str, Any]]) -> str:
    """Return the n of trials as "1,272; hollow: 300": those that did not complete were scored on a sample."""
    sizes = sorted({interval["n"] for interval in intervals})
    return f"{sizes[-1]:,}" + (f"; hollow: {sizes[0]:,}" if len(sizes) > 1 else "")


def percent(value: float) -> str:
    """Return a fraction as "57.4 %"."""
    return f"{100 * value:.1f} %"


def with_interval(interval: dict[str, Any]) -> str:
    """Return a rate as "57.4 % (54.7 to 60.1)"."""
    return f"{percent(interval['value'])} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"


def p_text(p_value: float) -> str:
    """Return a p-value as "= 0.012", or "< 0.0001"."""
    return "< 0.0001" if p_value < 1e-4 else f"= {p_value:.2g}"
