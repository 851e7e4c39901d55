"""Near-duplicates planted in questions of which the rest shares no run of eight words."""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import time
from pathlib import Path

import pytest
from analysis_fakes import make_predictions
from tuned_fakes import make_results

from analysis import final_eval
from analysis.leaks import leak_effect, near_duplicates
from medqa.errors import DataError
from medqa.questions import Question
from medqa.record import read_json
from medqa.word_runs import SHARE

OPTIONS = {"A": "Heparin", "B": "Aspirin", "C": "Warfarin", "D": "Rest"}


def words(count: int, seed: int) -> str:
    dice = random.Random(seed)
    return " ".join(f"w{dice.randrange(5_000)}" for _ in range(count))


def question(name: str, text: str, answer: str = "A", options: dict[str, str] | None = None) -> Question:
    return Question(name, text, options or OPTIONS, answer)


def test_a_copy_in_other_letters_marks_and_options_is_found() -> None:
    text = words(60, 1)
    train = [question("t0", words(60, 2)), question("t1", text.upper().replace(" ", ",\n ") + "?")]
    moved = {"A": "Rest", "B": "HEPARIN.", "C": "Oxygen", "D": "Ice"}
    (found,) = near_duplicates(train, [question("q0", words(60, 3)), question("q1", text, "B", moved)])
    assert (found.id, found.train_id, found.share, found.same_answer) == ("q1", "t1", 1.0, True)


def test_a_question_that_stands_in_a_longer_one_is_found_with_another_answer() -> None:
    text = words(40, 1)
    (found,) = near_duplicates([question("t", f"{words(50, 2)} {text} {words(50, 3)}")], [question("q", text, "B")])
    assert (found.share, found.same_answer) == (1.0, False)


@pytest.mark.parametrize(("kept", "listed"), [(30, False), (34, True)])
def test_half_of_the_runs_make_a_near_duplicate(kept: int, listed: bool) -> None:
    # of 60 words, the first `kept` are shared: kept - 7 of 53 runs
    text = words(60, 1)
    shared = " ".join(text.split()[:kept])
    found = near_duplicates([question("t", f"{shared} {words(40, 2)}")], [question("q", text)])
    assert bool(found) is listed
    assert ((kept - 7) / 53 >= SHARE) is listed


def test_a_shared_closing_phrase_makes_none() -> None:
    end = "Which of the following is the most appropriate next step in management of this patient?"
    train = [question(f"t{i}", f"{words(50, i)} {end}") for i in range(20)]
    assert near_duplicates(train, [question("q", f"{words(50, 99)} {end}")]) == ()


def test_a_text_of_fewer_than_eight_words_is_one_run() -> None:
    train = [question("t", "What treats gout?")]
    assert [one.id for one in near_duplicates(train, [question("q", "what treats GOUT")])] == ["q"]
    assert near_duplicates(train, [question("q", "What treats gout best?")]) == ()


def test_each_question_is_listed_once_with_its_nearest_and_the_largest_share_first() -> None:
    text, other = words(60, 1), words(60, 2)
    train = [question("half", " ".join(text.split()[:45])), question("whole", text), question("again", text)]
    train.append(question("most", " ".join(other.split()[:50])))
    found = near_duplicates(train, [question("b", other), question("a", text)])
    assert [(one.id, one.train_id) for one in found] == [("a", "whole"), ("b", "most")]
    assert near_duplicates(train, []) == ()


def test_an_exact_copy_is_a_near_duplicate_with_all_of_its_runs() -> None:
    copied = question("q", words(60, 1))
    (found,) = near_duplicates([dataclasses.replace(copied, id="t")], [copied])
    assert (found.share, found.same_answer) == (1.0, True)


@pytest.mark.slow
def test_a_copy_of_a_train_question_in_the_test_split_is_evaluated_and_listed(
    tmp_path: Path, tiny_mistral: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = make_results(tmp_path, str(tiny_mistral))
    train, test = (tmp_path / "questions" / f"{split}.jsonl" for split in ("train", "test"))
    copied = {**json.loads(train.read_text().splitlines()[3]), "id": "copy"}
    test.write_text(test.read_text() + json.dumps(copied) + "\n")
    monkeypatch.setattr(sys, "argv", ["final_eval.py", "--best", "--results", str(results)])
    assert final_eval.main() == 0
    content = read_json(results / "x" / "final_eval" / "leaks.json")
    assert content["near_duplicates"] == [{"id": "copy", "train_id": "train3", "share": 1.0, "same_answer": True}]
    effect = content["accuracy"]["fine_tuned"]
    assert [effect[key]["n"] for key in ("with_them", "without_them", "on_them")] == [13, 12, 1]


def test_as_many_rows_as_medqa_has_take_seconds() -> None:
    train = [question(f"t{i}", words(120, i)) for i in range(10_178)]
    scored = [question(f"q{i}", words(120, 20_000 + i)) for i in range(1_273)]
    scored[7] = question("q7", words(120, 77))
    start = time.monotonic()
    assert [(one.id, one.train_id) for one in near_duplicates(train, scored)] == [("q7", "t77")]
    assert time.monotonic() - start < 30


def test_accuracy_is_given_with_and_without_the_near_duplicates() -> None:
    questions = tuple(question(f"q{i}", "text") for i in range(50))
    predictions = make_predictions(questions, 0.6, seed=1)
    leaked = {item.id for item in predictions if item.correct and int(item.id[1:]) < 20}
    effect = leak_effect(predictions, leaked)
    assert effect.on_them is not None
    assert effect.without_them is not None
    assert (effect.on_them.value, effect.on_them.n) == (1.0, len(leaked))
    assert effect.without_them.n == 50 - len(leaked)
    assert effect.without_them.value < effect.with_them.value
    assert leak_effect(predictions, set()).on_them is None
    assert leak_effect(predictions, {item.id for item in predictions}).without_them is None
    with pytest.raises(DataError, match="not among the predictions"):
        leak_effect(predictions, {"unknown"})
