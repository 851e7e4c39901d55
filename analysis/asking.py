"""The passes of an evaluation: one model, all questions of a set, every answer on the disk some hundreds at a time."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.extraction import extract_letter
from analysis.item_rows import ANY, ItemRow, append_rows, ids_left, read_rows
from analysis.positions import rotate
from medqa.generation import generate_texts
from medqa.prediction import Prediction
from medqa.prefix import score_alike
from medqa.prompt import TRAINING_WORDING, PromptEncoder
from medqa.questions import Question
from medqa.scoring import score_questions
from medqa.topics import topic_of

CHUNK = 640
"""Questions whose answers are written together; at most these are asked again after a kill."""
Say = Callable[[str], None]
Took = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedSet:
    """Questions, and the file in which their answers gather."""

    name: str
    rows: Path
    questions: tuple[Question, ...]
    plan: str = ""
    """Digest of the evaluation's plan, which each row bears."""

    def answers(self) -> dict[str, ItemRow]:
        """Return what is answered so far, by question; RecordError where an answer is of another evaluation."""
        return read_rows(self.rows, self.plan)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asker:
    """One model, by its name in the rows, with the settings that all its passes share."""

    name: str
    model: Any
    encoder: PromptEncoder
    exemplars: tuple[Question, ...] = ()
    say: Say = print
    took: Took
    """Is told after each writing by which pass, and how many seconds it took."""

    def ask_letters(self, asked: AskedSet) -> None:
        """Score every question by the letters' probabilities."""

        def answer(questions: Sequence[Question], rows: dict[str, ItemRow]) -> list[ItemRow]:
            return [_row(one, models={self.name: item}) for one, item in self._scored(questions)]

        self._go_through(asked, "letters", ItemRow(id="", topic="", gold="", models={self.name: ANY}), answer)

    def ask_wording(self, asked: AskedSet, wording: str) -> None:
        """Score every question in another wording of the prompt."""

        def answer(questions: Sequence[Question], rows: dict[str, ItemRow]) -> list[ItemRow]:
            return [_row(one, wordings={wording: item}) for one, item in self._scored(questions, wording)]

        wanted = ItemRow(id="", topic="", gold="", wordings={wording: ANY})
        self._go_through(asked, f"wording {wording!r}", wanted, answer)

    def ask_orders(self, asked: AskedSet) -> None:
        """Score every question with its options moved on; the order as it stands is taken from `ask_letters`."""

        def answer(questions: Sequence[Question], rows: dict[str, ItemRow]) -> list[ItemRow]:
            moved = [[rotate(one, shift) for shift in range(1, len(one.options))] for one in questions]
            later = iter(score_alike(self.model, self.encoder, moved, self.exemplars).predictions)
            found = []
            for one in questions:
                orders = [rows[one.id].models[self.name], *itertools.islice(later, len(one.options) - 1)]
                found.append(_row(one, orders={self.name: orders}))
            return found

        self._go_through(
            asked, "orders of the options", ItemRow(id="", topic="", gold="", orders={self.name: []}), answer
        )

    def ask_texts(self, asked: AskedSet) -> None:
        """Let the model write its answer to every question, and look for a letter in it."""

        def answer(questions: Sequence[Question], rows: dict[str, ItemRow]) -> list[ItemRow]:
            texts = generate_texts(self.model, self.encoder, questions, exemplars=self.exemplars)
            return [
                _row(one, texts={self.name: text}, letters={self.name: extract_letter(text, one.options)})
                for one, text in zip(questions, texts, strict=True)
            ]

        self._go_through(asked, "generated text", ItemRow(id="", topic="", gold="", texts={self.name: ""}), answer)

    def _scored(
        self, questions: Sequence[Question], wording: str = TRAINING_WORDING
    ) -> list[tuple[Question, Prediction]]:
        if self.exemplars:
            scores = score_alike(self.model, self.encoder, [questions], self.exemplars)
        else:
            scores = score_questions(self.model, self.encoder, questions, wording=wording)
        return list(zip(questions, scores.predictions, strict=True))

    def _go_through(
        self,
        asked: AskedSet,
        what: str,
        wanted: ItemRow,
        answer: Callable[[Sequence[Question], dict[str, ItemRow]], list[ItemRow]],
    ) -> None:
        rows, start = asked.answers(), time.monotonic()
        left = set(ids_left(rows, (one.id for one in asked.questions), wanted))
        if not left:
            return
        self.say(f"{asked.name}, {self.name}, {what}: {len(left):,} questions")
        questions = [one for one in asked.questions if one.id in left]
        for first in range(0, len(questions), CHUNK):
            answered = answer(questions[first : first + CHUNK], rows)
            append_rows(asked.rows, [dataclasses.replace(row, plan=asked.plan) for row in answered])
            self.took(f"{asked.name}, {self.name}, {what}", time.monotonic() - start)
            start = time.monotonic()


def _row(question: Question, **parts: Any) -> ItemRow:
    return ItemRow(id=question.id, topic=topic_of(question), gold=question.answer, **parts)
