"""A pass writes its answers some at a time, asks nothing twice, and goes on after a kill; without a model."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from analysis_fakes import make_predictions, make_questions

from analysis import asking
from analysis.asking import AskedSet, Asker, Took
from analysis.item_rows import over_orders, read_rows
from analysis.positions import accuracy_by_gold_position, flip_rate, rotate
from medqa.prediction import Prediction, Scores
from medqa.prompt import TRAINING_WORDING
from medqa.questions import Question

MIXED = (
    *make_questions(9),
    Question("two", "Which?", {"A": "one", "B": "two"}, "B"),
    Question("five", "Which?", {letter: letter for letter in "ABCDE"}, "E"),
)


class KilledError(Exception):
    """Stands for a kill between two writes."""


class Scorer:
    """Answers by what is asked and how alone, counts it, and is killed after some questions."""

    def __init__(self, most: int = 10_000) -> None:
        self.asked: list[Question] = []
        self.most = most

    def __call__(self, model: Any, encoder: Any, questions: Sequence[Question], **how: Any) -> Scores:
        if len(self.asked) + len(questions) > self.most:
            raise KilledError
        self.asked += questions
        return Scores(tuple(said_to(one, **how) for one in questions), None)


def said_to(question: Question, wording: str = TRAINING_WORDING, exemplars: Sequence[Question] = ()) -> Prediction:
    asked = f"{question.id} {question.answer} {wording} {[one.id for one in exemplars]}"
    return make_predictions((question,), 0.5, seed=zlib.crc32(asked.encode()))[0]


def text_after(question: Question, exemplars: Sequence[Question]) -> str:
    return f"({said_to(question, exemplars=exemplars).pred})"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "CHUNK", 4)


def asker(monkeypatch: pytest.MonkeyPatch, scorer: Scorer, took: Took = lambda what, seconds: None) -> Asker:
    monkeypatch.setattr(asking, "score_questions", scorer)
    monkeypatch.setattr(
        asking,
        "score_alike",
        lambda model, encoder, groups, exemplars: scorer(
            model, encoder, [one for group in groups for one in group], exemplars=exemplars
        ),
    )
    return Asker(name="tuned", model=None, encoder=None, say=lambda text: None, took=took)  # type: ignore[arg-type]


def writes_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        asking,
        "generate_texts",
        lambda model, encoder, questions, exemplars: [text_after(one, exemplars) for one in questions],
    )


def test_after_a_kill_only_what_has_no_answer_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = AskedSet(name="test", rows=tmp_path / "rows", questions=MIXED)
    with pytest.raises(KilledError):
        asker(monkeypatch, Scorer(most=9)).ask_letters(asked)
    assert list(read_rows(asked.rows)) == [one.id for one in MIXED[:8]]
    with asked.rows.open("a") as file:
        file.write('{"id": "torn')
    again = Scorer()
    asker(monkeypatch, again).ask_letters(asked)
    assert [one.id for one in again.asked] == [one.id for one in MIXED[8:]]
    whole = dataclasses.replace(asked, rows=tmp_path / "whole")
    asker(monkeypatch, Scorer()).ask_letters(whole)
    assert read_rows(asked.rows) == read_rows(whole.rows)
    nothing = Scorer()
    asker(monkeypatch, nothing).ask_letters(asked)
    assert nothing.asked == []


def test_the_order_as_it_stands_is_not_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked, scorer = AskedSet(name="test", rows=tmp_path / "rows", questions=MIXED), Scorer()
    passes: list[str] = []
    one = asker(monkeypatch, scorer, took=lambda what, seconds: passes.append(what))
    one.ask_letters(asked)
    one.ask_orders(asked)
    assert len(scorer.asked) == sum(len(question.options) for question in MIXED)
    rows = list(read_rows(asked.rows).values())
    orders = over_orders(rows, "tuned")
    assert len(orders) == 5
    assert [item.id for item in orders[0]] == [question.id for question in MIXED]
    assert orders[0] == [row.models["tuned"] for row in rows]
    # what positions.py says of them holds for questions with different numbers of options
    assert sum(rate.n for rate in accuracy_by_gold_position(orders).values()) == len(scorer.asked)
    assert flip_rate(orders).n == len(MIXED)
    assert set(passes) == {"test, tuned, letters", "test, tuned, orders of the options"}


def test_a_wording_and_a_text_stand_beside_the_letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = AskedSet(name="test", rows=tmp_path / "rows", questions=MIXED)
    writes_texts(monkeypatch)
    one = asker(monkeypatch, Scorer())
    one.ask_letters(asked)
    one.ask_wording(asked, "bare")
    one.ask_texts(asked)
    rows = read_rows(asked.rows)
    for question in MIXED:
        row, said = rows[question.id], said_to(question)
        assert row.models == {"tuned": said}
        assert row.wordings == {"bare": said_to(question, "bare")} != {"bare": said}
        assert (row.texts, row.letters) == ({"tuned": f"({said.pred})"}, {"tuned": said.pred})


def test_all_that_a_model_with_exemplars_is_asked_comes_after_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = AskedSet(name="test", rows=tmp_path / "rows", questions=MIXED)
    writes_texts(monkeypatch)
    one = dataclasses.replace(asker(monkeypatch, Scorer()), exemplars=MIXED[:3])
    one.ask_letters(asked)
    one.ask_orders(asked)
    one.ask_texts(asked)
    rows = read_rows(asked.rows)
    for question in MIXED:
        row = rows[question.id]
        moved = [rotate(question, shift) for shift in range(len(question.options))]
        assert row.models == {"tuned": said_to(question, exemplars=MIXED[:3])} != {"tuned": said_to(question)}
        assert row.orders == {"tuned": [said_to(order, exemplars=MIXED[:3]) for order in moved]}
        assert row.texts == {"tuned": text_after(question, MIXED[:3])}
    assert any(rows[one.id].texts != {"tuned": text_after(one, ())} for one in MIXED)
