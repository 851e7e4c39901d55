"""Every rate in the report has its interval and its n; what cannot have one is listed here, with the reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import pytest
from analysis_fakes import make_evaluation, make_predictions, make_questions, make_subject, make_trial

from analysis import plots, report, study_files
from analysis.chosen import describe_choice
from analysis.finding_files import compare_configurations
from analysis.report_content import Answers, Bullets, Paragraph, Picture, Report, Table
from analysis.report_inputs import with_optional
from analysis.runs import choose_winner
from medqa.metrics import study_results
from medqa.record import write_json

RATE = re.compile(r"\d+\.\d+(?: %)?|\d+ %")
INTERVAL = re.compile(r"\([-+]?[\d.]+ to [-+]?[\d.]+\)|interval [-+]?[\d.]+ to [-+]?[\d.]+")
SIZE = re.compile(r"n = \d|of [\d,]+ test questions|too few \(")
NO_RATES = {
    "McNemar p": "a p-value",
    "Holm-corrected p": "a p-value",
    "p against equal letters": "a p-value",
    "p against the right answers": "a p-value",
    "Cochran's Q p": "a p-value",
    "probability of the answer": "what the model says of one question",
    "of the right letter": "what the model says of one question",
    "shared runs": "counted in one question's text",
    "value": "a setting or a version",
    "mean of new seeds": "of a few seeds: their standard deviation and number stand beside it",
    "standard deviation": "of a few seeds: their number stands beside it",
    "drop": "the search's number, which has an interval, less that mean",
}
"""Heads of columns without intervals, each with the reason."""
NO_RATES_IN_TEXT = (
    r"95 % interval",  # the confidence level
    r"below 0\.05|below 5 %",  # the level of a test
    r"p (=|<) [\d.e-]+",  # a p-value
    r"when 50\.0 % or more",  # the rule by which near-duplicates are listed
    r"(of|than) 0\.7\b",  # the confidence by which mistakes are sorted into kinds
    r"Brier score \(0 to 2\)",  # the range that it can have
    r"surest \d+ %",  # the share of the questions that a column is about
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Report]:
    """The report of an evaluation that has all there is: ensemble, best preset, confirmation, counterpart, a set."""
    folder = tmp_path_factory.mktemp("final_eval")
    made, questions = make_evaluation(300, 0.7, ensemble=True), make_questions(100)
    made = dataclasses.replace(made, best_preset=make_predictions(made.questions, 0.65, 9))
    subject = make_subject(folder)
    again = [make_trial(f"explored_9_seed_{seed}", 0.6, confirms="explored_9") for seed in (1, 2, 3)]
    answers = {
        trial.name: make_predictions(questions, trial.accuracy or 0.0, seed)
        for seed, trial in enumerate((*subject.search.trials, *again))
    }
    results = {name: study_results(items, questions) for name, items in answers.items()}
    trials, repeats = (
        tuple(dataclasses.replace(one, accuracy=results[one.name]["overall_accuracy"]) for one in those)
        for those in (subject.search.trials, again)
    )
    search = dataclasses.replace(subject.search, confirm=1, trials=trials, repeats=repeats)
    others = {name: items for name, items in answers.items() if name not in ("explored_9", "broken")}
    subject = dataclasses.replace(
        subject,
        search=search,
        choice=describe_choice(choose_winner(search), "accuracy", lambda trial: results[trial.name]),
        counterpart="config_1_baseline",
        best_preset="config_6_aggressive",
        configurations=compare_configurations("explored_9", answers["explored_9"], others),
    )
    files = study_files.build_files(made, subject)
    study_files.write_files(folder, files)
    write_json(folder / "also" / "ward-notes" / study_files.SUMMARY, files[study_files.SUMMARY])
    files = with_optional(folder, files)
    return files, report.build_report(files)


def texts_of(block: object) -> tuple[str, ...]:
    match block:
        case Paragraph():
            return (block.text,)
        case Bullets():
            return block.lines
        case Answers():
            return tuple(said for _, said in block.pairs)
        case Picture():
            return (block.alt,)
    return ()  # an Example is one question, with what the model says of it


def sentences(shown: Report) -> Iterator[str]:
    for section in shown.sections:
        for block in section.blocks:
            for text in texts_of(block):
                yield from re.split(r"(?<=[.?!]) (?=[A-Z`])", text)


def cells(shown: Report) -> Iterator[tuple[str, str]]:
    """Yield each cell that can hold a rate, and all that can hold its n: itself, its row's n, the caption."""
    for section in shown.sections:
        for table in section.blocks:
            if isinstance(table, Table):
                for row in table.rows:
                    by_head = dict(zip(table.head, row, strict=True))
                    count = f"n = {by_head['n']}" if "n" in by_head else ""
                    for head, cell in by_head.items():
                        if head not in NO_RATES:
                            yield cell, f"{cell}; {count}; {table.caption}"


def rates_in(text: str) -> str:
    """What is left of a text without the numbers that are no rates."""
    for allowed in NO_RATES_IN_TEXT:
        text = re.sub(allowed, "interval" if "interval" in allowed else "", text)
    return text


def lacks_interval(text: str) -> bool:
    text = rates_in(text)
    return len(RATE.findall(INTERVAL.sub("", text))) > len(INTERVAL.findall(text))


def lacks_n(text: str, around: str) -> bool:
    return bool(INTERVAL.search(rates_in(text))) and not SIZE.search(around)


def test_every_rate_in_a_table_has_its_interval_and_its_n(built: tuple[dict[str, Any], Report]) -> None:
    found = list(cells(built[1]))
    assert sum(bool(INTERVAL.search(cell)) for cell, _ in found) > 200
    assert [cell for cell, _ in found if lacks_interval(cell)] == []
    assert [around for cell, around in found if lacks_n(cell, around)] == []


def test_every_rate_in_a_sentence_has_its_interval_and_its_n(built: tuple[dict[str, Any], Report]) -> None:
    found = list(sentences(built[1]))
    assert sum(bool(INTERVAL.search(text)) for text in found) > 15
    assert [text for text in found if lacks_interval(text)] == []
    assert [text for text in found if lacks_n(text, text)] == []


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("57.4 %", True),
        ("57.4 % (54.7 to 60.1), n = 1,273", False),
        ("0.041", True),
        ("mean confidence 60.0 % (58.0 to 62.0) at accuracy 57.4 %", True),
        ("too few (5 of 7)", False),
        ("p < 0.0001 (exact McNemar test, n = 200)", False),
    ],
)
def test_a_rate_without_an_interval_is_found(text: str, lacking: bool) -> None:
    assert lacks_interval(text) is lacking
    assert lacks_n("57.4 % (54.7 to 60.1)", "57.4 % (54.7 to 60.1); 1,273")
    assert not lacks_n("57.4 % (54.7 to 60.1)", "n = 1,273")


def test_legends_of_figures_have_intervals_too(built: tuple[dict[str, Any], Report]) -> None:
    figures = (
        plots.draw_calibration(built[0][study_files.CALIBRATION]),
        plots.draw_wordings(built[0]),
        *(plots.draw_confusion(built[0], model) for model in ("zero_shot", "fine_tuned")),
    )
    legends = [text.get_text() for figure in figures for legend in figure.legends for text in legend.get_texts()]
    titles = [axes.get_title() for figure in figures for axes in figure.axes]
    assert sum(bool(INTERVAL.search(text)) for text in (*legends, *titles)) == 5
    assert [text for text in (*legends, *titles) if lacks_interval(text)] == []


def test_the_card_has_intervals_and_n(built: tuple[dict[str, Any], Report]) -> None:
    from analysis.model_card import write_card

    lines = write_card(built[0]).split("## Numbers")[1].split("\n## ")[0].splitlines()
    assert sum(bool(INTERVAL.search(line)) for line in lines) == 5 + 3 + 1
    assert [line for line in lines if lacks_interval(line)] == []
