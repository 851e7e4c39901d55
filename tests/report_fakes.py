"""A whole folder of an evaluation for the tests of its report: answers of known accuracy to the demo's questions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from analysis_fakes import make_evaluation, make_orders, make_predictions, make_questions, make_subject

from analysis import leaks, study_files
from medqa.prediction import Prediction
from medqa.questions import Question
from medqa.record import write_json

DEMO_TEST = Path(__file__).resolve().parent.parent / "medqa" / "demo" / "questions" / "test.jsonl"
NASTY = "<script>document.title='broken'</script> | *bold* [link](http://example.com) `code` & 1 < 2"
"""A question's text that must be shown as it is."""


def demo_questions(count: int) -> tuple[Question, ...]:
    """The first questions of the demo's test split."""
    rows = [json.loads(line) for line in DEMO_TEST.read_text().splitlines()[:count]]
    return tuple(Question(row["id"], row["question"], row["options"], row["answer"]) for row in rows)


def write_folder(folder: Path, count: int = 200, tuned: float = 0.72) -> dict[str, Any]:
    """Write every file of an evaluation, one of them for another set of questions; return those of the test split."""
    questions = demo_questions(count)
    answers = make_predictions(questions, tuned, 3)
    questions = _with_nasty(questions, answers)
    zero_shot, validation = make_predictions(questions, 0.45, 1), make_questions(100)
    evaluation = dataclasses.replace(
        make_evaluation(),
        questions=questions,
        exemplars=questions[:3],
        zero_shot=zero_shot,
        few_shot=make_predictions(questions, 0.47, 2),
        fine_tuned=answers,
        orders={
            "zero_shot": make_orders(questions, zero_shot, 0.45, 30),
            "fine_tuned": make_orders(questions, answers, tuned, 40),
        },
        texts={name: _texts(items) for name, items in (("zero_shot", zero_shot), ("fine_tuned", answers))},
        validation={
            "zero_shot": make_predictions(validation, 0.45, 6),
            "fine_tuned": make_predictions(validation, tuned, 7),
        },
        near_duplicates=leaks.near_duplicates(questions[3:5], questions),
        validation_near_duplicates=(
            leaks.NearDuplicate(id=validation[1].id, train_id="train-1", share=1.0, same_answer=False),
        ),
    )
    wordings = {name: make_predictions(questions, tuned - 0.02, 20 + len(name)) for name in evaluation.wordings}
    first = next(iter(wordings))
    evaluation = dataclasses.replace(evaluation, wordings={**wordings, first: answers})
    files = study_files.build_files(evaluation, make_subject(folder))
    study_files.write_files(folder, files)
    for name in (study_files.SUMMARY, study_files.STATISTICS):
        write_json(folder / "also" / "ward-notes" / name, files[name])
    return files


def _with_nasty(questions: tuple[Question, ...], tuned: tuple[Prediction, ...]) -> tuple[Question, ...]:
    """Give NASTY to the question that the tuned model is surest and wrong about: the report shows it in full."""
    wrong = [(item.confidence, place) for place, item in enumerate(tuned) if not item.correct]
    _, surest = max(wrong)
    changed = dataclasses.replace(questions[surest], question=NASTY)
    return (*questions[:surest], changed, *questions[surest + 1 :])


def _texts(items: tuple[Prediction, ...]) -> dict[str, str]:
    return {
        item.id: "I cannot tell." if index % 17 == 0 else f"The answer is {item.pred}."
        for index, item in enumerate(items)
    }
