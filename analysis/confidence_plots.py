"""Figures of how far a model's confidence can be trusted, drawn from JSON content alone."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plot_style import (
    BLACK,
    BLUE,
    VERMILION,
    WIDTH_INCHES,
    Look,
    arms,
    look_of,
    make_plain,
    new_figure,
    p_text,
    with_interval,
)
from medqa.estimates import TOO_FEW

Content = dict[str, Any]
_BEFORE = Look(label="as stated", colour=VERMILION, marker="o")
_AFTER = Look(label="at the fitted temperature", colour=BLUE, marker="D")


def draw_reliability(
    before: Content, after: Content, temperature: Content, estimates: Content, label: str = "tuned"
) -> Figure:
    """Draw accuracy against confidence on the test split, before and after the temperature fitted on validation.

    Args:
        before: `medqa.calibration.Calibration` of the probabilities as stated, as a dict.
        after: The same at the fitted temperature.
        temperature: `medqa.temperature.Temperature`, as a dict.
        estimates: "before" and "after" to what `analysis.intervals.calibration_estimates` says, as dicts.
        label: The model's.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 7.6), layout="constrained")
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.1))
    curve.plot([0, 100], [0, 100], color=BLACK, linewidth=1, linestyle="--", label="confidence = accuracy")
    for place, (look, data, shown) in enumerate(
        ((_BEFORE, before, estimates["before"]), (_AFTER, after, estimates["after"]))
    ):
        confidence = with_interval(shown["mean_confidence"])
        _draw_curve(curve, data, look, f"ECE {_interval(shown['ece'])},\nmean confidence {confidence}")
        _draw_counts(counts, data, look, place - 0.5)
    curve.set(xlim=(0, 102), ylim=(-2, 102), ylabel=f"accuracy, % (95 % interval; hollow: n below {TOO_FEW})")
    n, right = before["accuracy"]["n"], with_interval(before["accuracy"])
    curve.set_title(
        f"Calibration on the test split: {label},\nn = {n:,}, accuracy {right},\n"
        f"before and after a temperature of {temperature['value']:.2f},\n"
        f"fitted on validation (n = {temperature['n']:,})",
        fontsize=11,
    )
    counts.set(xlabel="probability of the chosen letter, %", ylabel="questions")
    for axes in (curve, counts):
        make_plain(axes)
    figure.legend(*curve.get_legend_handles_labels(), loc="outside lower center", ncols=1, frameon=False)
    return figure


def _draw_curve(axes: Axes, data: Content, look: Look, text: str) -> None:
    enough = [item for item in data["bins"] if item["accuracy"]["n"] >= TOO_FEW]
    few = [item for item in data["bins"] if item["accuracy"]["n"] < TOO_FEW]
    for items, line, face, label in (
        (enough, "-", look.colour, f"{look.label}: {text}"),
        (few, "none", "white", None),
    ):
        axes.errorbar(
            [100 * item["mean_confidence"] for item in items],
            [100 * item["accuracy"]["value"] for item in items],
            yerr=arms([item["accuracy"] for item in items]) if items else None,
            color=look.colour,
            marker=look.marker,
            markerfacecolor=face,
            linestyle=line,
            capsize=3,
            label=label,
        )


def _draw_counts(axes: Axes, data: Content, look: Look, place: float) -> None:
    widths = [100 * (item["high"] - item["low"]) / 2.6 for item in data["bins"]]
    centres = [
        50 * (item["low"] + item["high"]) + place * width for item, width in zip(data["bins"], widths, strict=True)
    ]
    axes.bar(centres, [item["accuracy"]["n"] for item in data["bins"]], width=widths, color=look.colour)


def draw_coverage(curves: dict[str, Content]) -> Figure:
    """Draw accuracy among the surest answers against the share of questions that they are.

    Args:
        curves: Model's key in MODELS to its `analysis.coverage.CoverageCurve`, as a dict.
    """
    figure, axes = new_figure(5.2)
    for model, curve in curves.items():
        look, area = look_of(model), curve["risk_area"]
        points = [point for point in curve["points"] if point["accuracy"]["n"] >= TOO_FEW]
        coverage = [100 * point["coverage"] for point in points]
        axes.fill_between(
            coverage,
            [100 * point["accuracy"]["low"] for point in points],
            [100 * point["accuracy"]["high"] for point in points],
            color=look.colour,
            alpha=0.18,
            linewidth=0,
        )
        axes.plot(
            coverage,
            [100 * point["accuracy"]["value"] for point in points],
            color=look.colour,
            marker=look.marker,
            markevery=max(1, len(points) // 12),
            label=f"{look.label}: area under risk {_interval(area)}",
        )
    n = next(iter(curves.values()))["risk_area"]["n"]
    axes.set(
        xlim=(0, 101),
        xlabel="questions answered, the surest first, %",
        ylabel="accuracy among them, %\n(band: 95 % interval)",
    )
    axes.set_title(f"Answering only when sure (n = {n:,}; from {TOO_FEW} answers on)")
    figure.legend(loc="outside lower center", ncols=1, frameon=False)
    return figure


def draw_gold_positions(rates: dict[str, Content], tests: dict[str, Content | None]) -> Figure:
    """Draw the accuracy where the right option stands at each letter, over the cyclic orders of the options.

    Args:
        rates: Model's key in MODELS to letter to `Estimate`, as dicts.
        tests: Model's key to `analysis.positions.position_test`, as a dict; None where it cannot be taken.
    """
    figure, axes = new_figure(5.0)
    letters = list(next(iter(rates.values())))
    for index, (model, by_letter) in enumerate(rates.items()):
        look, test = look_of(model), tests[model]
        shift = 0.16 * (index - (len(rates) - 1) / 2)
        intervals = [by_letter[letter] for letter in letters]
        axes.errorbar(
            [place + shift for place in range(len(letters))],
            [100 * interval["value"] for interval in intervals],
            yerr=arms(intervals),
            color=look.colour,
            marker=look.marker,
            markersize=7,
            capsize=3,
            linestyle="none",
            label=look.label
            if test is None
            else f"{look.label}: Cochran's Q {test['statistic']:.1f} (p {p_text(test['p_value'])})",
        )
    counts = [next(iter(rates.values()))[letter]["n"] for letter in letters]
    axes.set_xticks(range(len(letters)), [f"{letter}\nn = {n:,}" for letter, n in zip(letters, counts, strict=True)])
    axes.set(xlabel="letter at which the right option stands", ylabel="accuracy, % (95 % interval)")
    axes.set_xlim(-0.5, len(letters) - 0.5)
    axes.set_title("Accuracy by the place of the right option:\nthe same questions in all cyclic orders")
    figure.legend(loc="outside lower center", ncols=1, frameon=False)
    return figure


def _interval(estimate: Content) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
