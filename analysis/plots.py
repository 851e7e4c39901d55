"""The figures of a final evaluation, drawn from its JSON files alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis import study_files as names
from analysis.further_plots import draw_further
from analysis.plot_style import (
    BLACK,
    BLUE,
    DOTS_PER_INCH,
    DRAWN,
    GREY,
    MODELS,
    ORANGE,
    SEED_POINT,
    VERMILION,
    WIDTH_INCHES,
    YELLOW,
    Look,
    add_legend,
    arms,
    draw_interval,
    make_plain,
    new_figure,
    p_text,
    percent,
    sample_sizes,
    with_interval,
)
from analysis.report_inputs import with_optional
from analysis.report_numbers import number, of_all
from medqa.calibration import CALIBRATION_BINS
from medqa.estimates import TOO_FEW, wilson

_CONFUSION = {"zero_shot": "zero_shot", "few_shot": "3_shot", "fine_tuned": "fine_tuned"}
_KIND_COLOURS = (BLUE, BLACK, VERMILION, YELLOW, GREY)


def draw_all(folder: Path, files: dict[str, Any]) -> None:
    """Draw every figure into `folder`; those of further files where these are given or lie there."""
    files = with_optional(folder, files)
    figures = {
        "all_configs_comparison": draw_all_configs(files[names.ALL_CONFIGS]),
        "per_topic_accuracy": draw_topics(files),
        "calibration_curve": draw_calibration(files[names.CALIBRATION]),
        "error_taxonomy": draw_mistakes(files[names.MISTAKES]),
        "position_bias": draw_positions(files),
        "prompt_template_comparison": draw_wordings(files),
        **{f"confusion_matrix_{word}": draw_confusion(files, model) for model, word in _CONFUSION.items()},
        **draw_further(files),
    }
    for name, figure in figures.items():
        FigureCanvasAgg(figure)
        figure.savefig(folder / f"{name}.png", dpi=DOTS_PER_INCH)


def draw_all_configs(search: dict[str, Any]) -> Figure:
    """Draw every trial's validation accuracy with its interval, best on top."""
    trials = sorted(search["trials"], key=lambda trial: float(trial["accuracy_interval"]["value"]))
    figure, axes = new_figure(max(3.2, 1.5 + 0.32 * len(trials)))
    looks: dict[str, tuple[Look, bool]] = {}
    for row, trial in enumerate(trials):
        look, hollow = _trial_look(trial)
        draw_interval(axes, trial["accuracy_interval"], row, look, hollow)
        looks[look.label] = (look, hollow)
    axes.set_yticks(range(len(trials)), [_trial_name(trial) for trial in trials])
    sizes = sample_sizes([trial["accuracy_interval"] for trial in trials])
    axes.set_xlabel(f"validation accuracy at the kept checkpoint, %\n(95 % interval, n = {sizes})")
    axes.set_title(f"Trials of the search {search['search']!r}")
    add_legend(figure, axes, [looks[label] for label in sorted(looks, reverse=True)], columns=2)
    return figure


def _trial_look(trial: dict[str, Any]) -> tuple[Look, bool]:
    look = SEED_POINT if trial["seed_point"] else DRAWN
    if trial["state"] == "completed":
        return look, False
    return dataclasses.replace(look, label=f"{look.label}, {trial['state']}"), True


def _trial_name(trial: dict[str, Any]) -> str:
    return f"winner: {trial['name']}" if trial["winner"] else str(trial["name"])


def draw_topics(files: dict[str, Any]) -> Figure:
    """Draw each specialty's accuracy for the base and the tuned model, the most frequent specialty on top."""
    rates = {model: files[file]["per_topic_accuracy"] for model, file in names.RESULTS.items()}
    topics = sorted(rates["fine_tuned"], key=lambda topic: int(rates["fine_tuned"][topic]["n"]))
    figure, axes = new_figure(1.8 + 0.42 * len(topics))
    shown = {"zero_shot": -0.16, "fine_tuned": 0.16}
    for model, shift in shown.items():
        for row, topic in enumerate(topics):
            rate = rates[model][topic]
            draw_interval(axes, {**rate, "value": rate["accuracy"]}, row + shift, MODELS[model], rate["n"] < TOO_FEW)
        overall = files[names.RESULTS[model]]["overall_accuracy"]
        axes.axvline(100 * overall, color=MODELS[model].colour, linestyle=":", linewidth=1.2, zorder=0)
    axes.set_yticks(range(len(topics)), [f"{topic} (n = {rates['fine_tuned'][topic]['n']:,})" for topic in topics])
    axes.set(xlim=(-2, 102), xlabel="test accuracy, %\n(95 % interval; dotted line: all questions)")
    axes.set_title(f"Accuracy by specialty\n(hollow: fewer than {TOO_FEW} questions)")
    add_legend(figure, axes, [(MODELS[model], False) for model in shown])
    return figure


def draw_calibration(calibration: dict[str, Any]) -> Figure:
    """Draw accuracy against confidence by bins, and below how many answers each bin holds."""
    figure = Figure(figsize=(WIDTH_INCHES, 7.6), layout="constrained")
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.1))
    curve.plot([0, 100], [0, 100], color=BLACK, linewidth=1, linestyle="--", label="confidence = accuracy")
    for index, (model, look) in enumerate(MODELS.items()):
        _draw_reliability(curve, calibration[model], look, index - 1)
        _draw_bin_counts(counts, calibration[model], look, index - 1)
    curve.set(xlim=(0, 102), ylim=(-2, 102), ylabel="accuracy, % (95 % interval)")
    curve.set_title(f"Calibration on the test split (n = {calibration['fine_tuned']['accuracy']['n']:,})")
    counts.set(xlabel="probability of the chosen letter, %", ylabel="questions")
    for axes in (curve, counts):
        make_plain(axes)
    figure.legend(*curve.get_legend_handles_labels(), loc="outside lower center", ncols=1, frameon=False)
    return figure


def _draw_reliability(axes: Axes, data: dict[str, Any], look: Look, place: int) -> None:
    # points of the models that fall together stand side by side
    ece, confidence = data["estimates"]["ece"], with_interval(data["estimates"]["mean_confidence"])
    right = with_interval(data["accuracy"])
    axes.errorbar(
        [100 * item["mean_confidence"] + 0.7 * place for item in data["bins"]],
        [100 * item["accuracy"]["value"] for item in data["bins"]],
        yerr=arms([item["accuracy"] for item in data["bins"]]),
        color=look.colour,
        marker=look.marker,
        capsize=3,
        label=f"{look.label}: ECE {number(ece)},\nmean confidence {confidence}, accuracy {right}",
    )


def _draw_bin_counts(axes: Axes, data: dict[str, Any], look: Look, place: int) -> None:
    width = 100 / CALIBRATION_BINS / 4
    centres = [50 * (item["low"] + item["high"]) + place * width for item in data["bins"]]
    axes.bar(centres, [item["accuracy"]["n"] for item in data["bins"]], width=0.9 * width, color=look.colour)


def draw_mistakes(mistakes: dict[str, Any]) -> Figure:
    """Draw for each model which share of its answers is right, and of which kinds the wrong ones are."""
    figure, axes = new_figure(3.8)
    order = list(reversed(MODELS))
    n = sum(mistakes["fine_tuned"].values())
    starts = [0.0] * len(order)
    for kind, colour in zip(mistakes["fine_tuned"], _KIND_COLOURS, strict=True):
        widths = [100 * mistakes[model][kind] / n for model in order]
        bars = axes.barh(
            range(len(order)), widths, left=starts, height=0.62, color=colour, edgecolor="white", label=kind
        )
        texts = [f"{mistakes[model][kind]:,}" if width >= 4 else "" for model, width in zip(order, widths, strict=True)]
        axes.bar_label(bars, texts, label_type="center", color=BLACK if colour in (YELLOW, GREY) else "white")
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.set_yticks(range(len(order)), [MODELS[model].label for model in order])
    axes.set(xlim=(0, 100), xlabel=f"share of the test questions, %\n(n = {n:,}; in the bars: questions)")
    axes.set_title("Right answers and kinds of wrong ones")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_positions(files: dict[str, Any]) -> Figure:
    """Draw how often each letter is right and how often each model predicts it, with the tests of both."""
    balances = {model: files[file]["letter_balance"] for model, file in names.RESULTS.items()}
    n = files[names.EVALUATION]["n"]
    figure, axes = new_figure(5.4)
    _draw_letters(axes, balances["fine_tuned"]["gold"], n, -1.5, Look(label="right answers", colour="white", marker=""))
    for index, (model, look) in enumerate(MODELS.items()):
        labelled = dataclasses.replace(look, label=f"{look.label}: {_tests(balances[model])}")
        _draw_letters(axes, balances[model]["predicted"], n, index - 0.5, labelled)
    letters = list(balances["fine_tuned"]["gold"])
    axes.set_xticks(range(len(letters)), letters)
    axes.set(xlabel="letter", ylabel="share of the test questions, % (95 % interval)")
    axes.set_title(f"Which letters are right, and which are predicted (n = {n:,})")
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=9)
    return figure


def _draw_letters(axes: Axes, counts: dict[str, int], n: int, place: float, look: Look) -> None:
    intervals = [dataclasses.asdict(wilson(count, n)) for count in counts.values()]
    axes.bar(
        [position + 0.2 * place for position in range(len(counts))],
        [100 * interval["value"] for interval in intervals],
        yerr=arms(intervals),
        width=0.18,
        color=look.colour,
        edgecolor=BLACK,
        linewidth=0.8,
        error_kw={"ecolor": BLACK, "capsize": 2, "linewidth": 1},
        label=look.label,
    )


def _tests(balance: dict[str, Any]) -> str:
    uniform, gold = (
        f"{balance[key]['statistic']:.1f} (p {p_text(balance[key]['p_value'])})"
        for key in ("against_uniform", "against_gold")
    )
    return f"chi² against equal letters {uniform},\nStuart-Maxwell against the right answers {gold}"


def draw_confusion(files: dict[str, Any], model: str) -> Figure:
    """Draw right letters against predicted letters, as counts and as shares of each row."""
    results = files[names.RESULTS[model]]
    letters, matrix = results["letters"], results["confusion_matrix"]
    shares = [[100 * count / max(sum(row), 1) for count in row] for row in matrix]
    figure = Figure(figsize=(WIDTH_INCHES, 5.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, counts in enumerate(matrix):
        for column, count in enumerate(counts):
            share = shares[row][column]
            ink = "white" if share > 62 else BLACK
            axes.text(column, row, f"{count:,}\n{share:.0f} %", ha="center", va="center", color=ink, fontsize=13)
    axes.tick_params(length=0)
    axes.set_xticks(range(len(letters)), letters)
    axes.set_yticks(
        range(len(letters)), [f"{letter}\nn = {sum(row):,}" for letter, row in zip(letters, matrix, strict=True)]
    )
    axes.set(xlabel="predicted letter (below the counts: share of the row)", ylabel="right letter")
    axes.set_title(
        f"{MODELS[model].label}, n = {results['n_total']:,}\naccuracy {with_interval(results['accuracy_interval'])}"
    )
    return figure


def draw_wordings(files: dict[str, Any]) -> Figure:
    """Draw the tuned model's accuracy under each wording of the prompt."""
    wordings, trained = files[names.WORDINGS], files[names.EVALUATION]["training_wording"]
    order = list(reversed(wordings))
    figure, axes = new_figure(1.6 + 0.6 * len(order))
    for row, name in enumerate(order):
        interval = wordings[name]["accuracy_interval"]
        look = (
            Look(label=name, colour=BLUE, marker="D")
            if name == trained
            else Look(label=name, colour=ORANGE, marker="o")
        )
        draw_interval(axes, interval, row, look)
        without = of_all(wordings[name]["extraction_failures"], interval["n"])
        text = f"{percent(interval['value'])}; no letter in {without}"
        axes.annotate(text, (100 * interval["value"], row), (0, 9), textcoords="offset points", ha="center", fontsize=9)
    axes.set_yticks(range(len(order)), [f"{name} (trained on)" if name == trained else name for name in order])
    axes.margins(x=0.2, y=0.25)
    axes.set_xlabel(f"test accuracy of the tuned model, %\n(95 % interval, n = {files[names.EVALUATION]['n']:,})")
    axes.set_title("The tuned model under other wordings")
    return figure
