"""Every number that is changed by hand is noticed, and the first one is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from analysis_fakes import make_predictions, make_questions

from analysis.consistency import check_numbers
from medqa.errors import RecordError
from medqa.metrics import study_results

QUESTIONS = make_questions(90)
NUMBERS = study_results(make_predictions(QUESTIONS, 0.6, seed=4), QUESTIONS)
Spoil = Callable[[dict[str, Any]], Any]


def move_topic(numbers: dict[str, Any]) -> None:
    first, second, *_ = numbers["per_topic_accuracy"].values()
    first["n"] -= 1
    second["n"] += 1


def move_confusion(numbers: dict[str, Any]) -> None:
    matrix = numbers["confusion_matrix"]
    matrix[0][1] -= 1
    matrix[0][2] += 1


def swap_letters(numbers: dict[str, Any]) -> None:
    counts = numbers["letter_balance"]["predicted"]
    counts["A"], counts["B"] = counts["A"] - 1, counts["B"] + 1


def least_probable(numbers: dict[str, Any]) -> None:
    row = numbers["predictions"][3]
    row["pred"] = min("ABCD", key=lambda letter: row["probabilities"][letter])


def test_numbers_made_from_the_rows_agree_with_them() -> None:
    check_numbers("tuned", NUMBERS["predictions"], NUMBERS)


def test_numbers_of_an_older_file_are_held_to_what_it_has() -> None:
    older = {name: content for name, content in NUMBERS.items() if name != "class_scores"}
    older["calibration"] = {name: value for name, value in older["calibration"].items() if name != "ece_equal_mass"}
    check_numbers("tuned", older["predictions"], older)


@pytest.mark.parametrize(
    ("rule", "spoil"),
    [
        ("one row a question", lambda n: n["predictions"].append(n["predictions"][0])),
        ("one row a question", lambda n: n["predictions"].clear()),
        ("one prediction a question", lambda n: n["predictions"].pop()),
        ("sum to 1", lambda n: n["predictions"][3]["probabilities"].update(A=0.9)),
        (
            "most probable",
            lambda n: n["predictions"][3].update(pred=min("ABCD", key=n["predictions"][3]["probabilities"].get)),
        ),
        ("right means", lambda n: n["predictions"][3].update(correct=not n["predictions"][3]["correct"])),
        ("stated count", lambda n: n.update(n_correct=n["n_correct"] + 1)),
        ("accuracy is right / n", lambda n: n.update(overall_accuracy=n["overall_accuracy"] + 1e-6)),
        ("n of the accuracy", lambda n: n["accuracy_interval"].update(n=1273)),
        ("interval of the accuracy holds it", lambda n: n["accuracy_interval"].update(high=0.1)),
        ("failures", lambda n: n.update(extraction_failure_rate=0.5)),
        ("topics sum to n", lambda n: n["per_topic_accuracy"].popitem()),
        ("topics are those of the rows", move_topic),
        ("accuracy of Cardiology", lambda n: n["per_topic_accuracy"]["Cardiology"].update(accuracy=0.123)),
        ("matrix sums to n", lambda n: n["confusion_matrix"][1].__setitem__(2, 99)),
        ("diagonal", lambda n: n["confusion_matrix"].reverse()),
        ("confusion of A with B", move_confusion),
        ("predicted letters", swap_letters),
        ("against the right letters", lambda n: n["letter_balance"]["against_gold"].update(n=1)),
        ("n of the recall of A", lambda n: n["class_scores"]["A"]["recall"].update(n=3)),
        ("n of the precision of A", lambda n: n["class_scores"]["A"].update(precision=None)),
        ("mean confidence", lambda n: n["calibration"].update(mean_confidence=0.5)),
        ("calibration has the accuracy", lambda n: n["calibration"]["accuracy"].update(value=0.5)),
        ("bins sum to n", lambda n: n["calibration"].update(bins=n["calibration"]["bins"][1:])),
        ("ECE of one bin", lambda n: n["calibration"]["bins"][-1].update(mean_confidence=0.95)),
        ("ECE is that of its bins", lambda n: n["calibration"].update(ece=0.0)),
        ("ece_equal_mass is not below", lambda n: n["calibration"].update(ece_equal_mass=-0.1)),
        ("Brier", lambda n: n["calibration"].update(brier=0.3)),
    ],
)
def test_a_changed_number_is_noticed_and_named(rule: str, spoil: Spoil) -> None:
    spoiled = copy.deepcopy(NUMBERS)
    spoil(spoiled)
    with pytest.raises(RecordError, match="contradict") as caught:
        check_numbers("tuned", spoiled["predictions"], spoiled)
    assert rule in str(caught.value)
    assert "tuned" in str(caught.value)
    assert "\n" not in str(caught.value)
