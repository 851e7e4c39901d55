"""Figures of what an evaluation holds beside the study's files; each is drawn where its file is there."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.confidence_plots import draw_coverage, draw_gold_positions, draw_reliability
from analysis.plot_style import BLACK, BLUE, Look, draw_interval, new_figure, p_text
from analysis.report_inputs import COMPARISONS, CONFIDENCE, COVERAGE, POSITIONS, Files, models_in
from analysis.report_numbers import label, pair_label, points
from medqa.estimates import TOO_FEW

_LOOK = Look(label="difference", colour=BLUE, marker="D")


def draw_further(files: Files) -> dict[str, Figure]:
    """Return the name of each further figure, without its ending, to the figure."""
    figures = {}
    confidence = files.get(CONFIDENCE, {}).get("models", {})
    for model in models_in(confidence):
        figures[f"reliability_{model}"] = _reliability(model, confidence[model])
    if COVERAGE in files:
        figures["coverage"] = draw_coverage(files[COVERAGE])
    if POSITIONS in files:
        models = files[POSITIONS]["models"]
        rates, tests = ({model: models[model][key] for model in models_in(models)} for key in _OF_POSITIONS)
        figures["gold_positions"] = draw_gold_positions(rates, tests)
    if COMPARISONS in files:
        figures["differences"] = draw_differences(files[COMPARISONS]["pairs"])
    return figures


_OF_POSITIONS = ("by_gold_position", "position_test")


def _reliability(model: str, content: dict[str, Any]) -> Figure:
    estimates = {when: content[f"{when}_estimates"] for when in ("before", "after")}
    return draw_reliability(content["before"], content["after"], content["temperature"], estimates, label(model))


def draw_differences(family: dict[str, Any]) -> Figure:
    """Draw each difference of two models with its interval, beside a line at 0.

    Args:
        family: Name of a pair to `analysis.comparison.Corrected`, as a dict.
    """
    figure, axes = new_figure(1.4 + 0.75 * len(family))
    order = list(reversed(family.items()))
    axes.axvline(0, color=BLACK, linewidth=1, linestyle="--")
    for row, (_, one) in enumerate(order):
        difference = one["pair"]["difference"]
        draw_interval(axes, difference, row, _LOOK, difference["n"] < TOO_FEW)
        _note(axes, points(difference), (100 * difference["value"], row), 9)
        if one["holm_p"] is not None:
            _note(axes, f"Holm-corrected p {p_text(one['holm_p'])}", (100 * difference["value"], row), -17)
    axes.set_yticks(range(len(order)), [pair_label(name).replace(" minus ", "\nminus ") for name, _ in order])
    axes.margins(x=0.35)
    axes.set_ylim(-0.6, len(order) - 0.4)
    n = max(one["pair"]["difference"]["n"] for one in family.values())
    axes.set_xlabel(f"difference of the test accuracies, points\n(95 % interval, n = {n:,})")
    axes.set_title("Right of the line, the first model is better")
    return figure


def _note(axes: Axes, text: str, at: tuple[float, float], above: int) -> None:
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # the line at 0 stays behind the letters
    axes.annotate(text, at, (0, above), textcoords="offset points", ha="center", fontsize=9, bbox=ground)
