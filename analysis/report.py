"""What a person reads: the table at the end of a run, and the report as HTML and as Markdown, from files alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from analysis import study_files as names
from analysis.logged import CARD
from analysis.model_card import write_card
from analysis.plot_style import p_text, with_interval
from analysis.report_content import Report, Section, with_figures
from analysis.report_errors import errors_section
from analysis.report_html import to_html
from analysis.report_inputs import models_in, with_optional
from analysis.report_markdown import to_markdown
from analysis.report_models import (
    confusion_section,
    models_section,
    other_sets_section,
    scorers_section,
    topics_section,
    wordings_section,
)
from analysis.report_numbers import label
from analysis.report_record import limits_section, run_section
from analysis.report_summary import choice_section, summary_section
from analysis.report_trust import calibration_section, leaks_section, positions_section
from medqa.errors import RecordError

REPORT = "report.md"
PAGE = "report.html"
_PAIR_LABELS = {
    "fine_tuned_minus_zero_shot": "tuned minus zero-shot",
    "fine_tuned_minus_few_shot": "tuned minus 3-shot",
    "fine_tuned_minus_best_preset": "tuned minus best preset",
}
_SECTIONS: Final[tuple[Callable[[dict[str, Any]], Section | None], ...]] = (
    summary_section,
    models_section,
    choice_section,
    topics_section,
    confusion_section,
    calibration_section,
    positions_section,
    wordings_section,
    scorers_section,
    errors_section,
    leaks_section,
    other_sets_section,
    run_section,
    limits_section,
)


def format_table(files: dict[str, Any]) -> str:
    """Return the models' accuracies and the differences as lines of text."""
    lines = [f"{'on the test split':24} accuracy, % (95 % interval)    macro-F1    n"]
    for model in models_in(files[names.SUMMARY]):
        row = files[names.SUMMARY][model]
        text = with_interval(row["accuracy_interval"])
        lines.append(f"{label(model):24} {text:30} {row['macro_f1']:8.3f} {row['accuracy_interval']['n']:8,}")
    for pair, shown in _PAIR_LABELS.items():
        if pair in files[names.STATISTICS]:
            lines.append(f"{shown:24} {_difference(files, pair)}")
    return "\n".join(lines)


def _difference(files: dict[str, Any], pair: str) -> str:
    result = files[names.STATISTICS][pair]
    difference = result["difference"]
    value, low, high = (100 * difference[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f}), exact McNemar p {p_text(result['p_value'])}"


def build_report(files: dict[str, Any]) -> Report:
    """Return the report; a section whose file is not there is left out.

    Raises:
        RecordError: when a file lacks something that this version shows.
    """
    try:
        sections = [section for make in _SECTIONS if (section := make(files)) is not None]
    except KeyError as error:
        raise RecordError(
            f"the evaluation's files lack {error}: they are from another version, evaluate again"
        ) from error
    return Report(
        title=f"Final evaluation of the search {files[names.EVALUATION]['search']!r}", sections=tuple(sections)
    )


def write_report(folder: Path, files: dict[str, Any]) -> None:
    """Write report.html and report.md, and the model card; the figures are those that lie in the folder already.

    Raises:
        OSError: when a file cannot be written.
    """
    files = with_optional(folder, files)
    report = with_figures(build_report(files), {path.name for path in folder.glob("*.png")})
    (folder / REPORT).write_text(to_markdown(report), encoding="utf-8")
    (folder / CARD).write_text(write_card(files), encoding="utf-8")
    (folder / PAGE).write_text(to_html(report, folder), encoding="utf-8")
