"""Whether the numbers are those of the rows: counted again here, by other means than the numbers were made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from medqa.errors import RecordError

TOLERANCE = 1e-9
"""How far two ways of adding up the same numbers may be apart."""
Row = dict[str, Any]


def check_numbers(where: str, rows: Sequence[Row], numbers: Row) -> None:
    """Hold the numbers of one model against its rows; a report is not written where they differ.

    Args:
        where: The model's name, for the message.
        rows: One row per question, as `medqa.record.prediction_rows` makes them.
        numbers: The content of a results file, as `medqa.metrics.study_results` makes it.

    Raises:
        RecordError: naming the first rule that does not hold.
    """
    _check_rows(where, rows)
    _check_accuracy(where, rows, numbers)
    _check_confusion(where, rows, numbers)
    _check_calibration(where, rows, numbers["calibration"])
    if "outside_letters" in numbers:  # of a final evaluation, and not of an older one
        _check_outside(where, rows, numbers["outside_letters"])


def require(where: str, rule: str, holds: bool) -> None:
    """Raise RecordError when a rule does not hold."""
    if not holds:
        raise RecordError(f"the results of {where} contradict themselves: {rule} does not hold")


def _check_rows(where: str, rows: Sequence[Row]) -> None:
    require(where, "one row a question", len({row["id"] for row in rows}) == len(rows) > 0)
    for row in rows:
        probabilities = row["probabilities"]
        name = f"{where}, question {row['id']!r}"
        require(name, "the probabilities of the letters sum to 1", abs(math.fsum(probabilities.values()) - 1) < 1e-6)
        most = max(probabilities.values())
        require(name, "the letter is the most probable one", probabilities[row["pred"]] >= most - TOLERANCE)
        require(name, "right means that the letter is the right one", row["correct"] == (row["pred"] == row["gold"]))


def _check_accuracy(where: str, rows: Sequence[Row], numbers: Row) -> None:
    n, right = len(rows), sum(row["correct"] for row in rows)
    require(where, "one prediction a question", numbers["n_total"] == n)
    require(where, "the stated count is what is right", numbers["n_correct"] == right)
    _require_near(where, "the accuracy is right / n", numbers["overall_accuracy"], right / n)
    _check_interval(where, "accuracy", numbers["accuracy_interval"], n)
    without = sum(row["raw_output"].strip() not in row["probabilities"] for row in rows)
    _require_near(where, "the failures are those of the rows", numbers["extraction_failure_rate"], without / n)
    topics = numbers["per_topic_accuracy"]
    require(where, "topics sum to n", sum(topic["n"] for topic in topics.values()) == n)
    require(where, "topics are those of the rows", Counter(row["topic"] for row in rows) == _counts(topics))
    for name, topic in topics.items():
        hits = sum(row["correct"] for row in rows if row["topic"] == name)
        _require_near(where, f"the accuracy of {name} is that of its rows", topic["accuracy"], hits / topic["n"])


def _counts(topics: dict[str, Row]) -> dict[str, int]:
    return {name: topic["n"] for name, topic in topics.items()}


def _check_confusion(where: str, rows: Sequence[Row], numbers: Row) -> None:
    letters, matrix, balance = numbers["letters"], numbers["confusion_matrix"], numbers["letter_balance"]
    pairs = Counter((row["gold"], row["pred"]) for row in rows)
    require(where, "the confusion matrix sums to n", sum(map(sum, matrix)) == len(rows))
    require(where, "its diagonal is what is right", sum(row[i] for i, row in enumerate(matrix)) == numbers["n_correct"])
    for gold, counts in zip(letters, matrix, strict=True):
        for pred, count in zip(letters, counts, strict=True):
            require(where, f"the confusion of {gold} with {pred} is that of the rows", count == pairs[gold, pred])
    for key, field in (("gold", "gold"), ("predicted", "pred")):
        counted = Counter(row[field] for row in rows)
        require(where, f"the {key} letters are those of the rows", +Counter(balance[key]) == counted)
    paired = balance["against_gold"] or {}  # older files have another test here, without n
    require(where, "the test against the right letters has every row", paired.get("n", len(rows)) == len(rows))
    for letter, scores in numbers.get("class_scores", {}).items():  # older files have none
        for key, field in (("recall", "gold"), ("precision", "pred")):
            count = sum(row[field] == letter for row in rows)
            stated = scores[key]["n"] if scores[key] else 0
            require(where, f"the n of the {key} of {letter} is that of the rows", stated == count)


def _check_calibration(where: str, rows: Sequence[Row], calibration: Row) -> None:
    n = len(rows)
    confidence = math.fsum(row["probabilities"][row["pred"]] for row in rows) / n
    accuracy = sum(row["correct"] for row in rows) / n
    bins = calibration["bins"]
    _require_near(where, "the mean confidence is that of the rows", calibration["mean_confidence"], confidence)
    _require_near(where, "calibration has the accuracy", calibration["accuracy"]["value"], accuracy)
    require(where, "calibration bins sum to n", sum(item["accuracy"]["n"] for item in bins) == n)
    gaps = [(item["mean_confidence"] - item["accuracy"]["value"]) * item["accuracy"]["n"] / n for item in bins]
    # laid into one bin, the bins' gaps are the gap between mean confidence and accuracy: the ECE of one bin
    _require_near(where, "the ECE of one bin is |confidence - accuracy|", math.fsum(gaps), confidence - accuracy)
    _require_near(where, "the ECE is that of its bins", calibration["ece"], math.fsum(map(abs, gaps)))
    least = abs(confidence - accuracy) - TOLERANCE
    for key in ("ece", "ece_equal_mass"):
        require(where, f"the {key} is not below that of one bin", calibration.get(key, least) >= least)
    squared = [(value - (letter == row["gold"])) ** 2 for row in rows for letter, value in row["probabilities"].items()]
    _require_near(where, "the Brier score is that of the rows", calibration["brier"], math.fsum(squared) / n)


def _check_outside(where: str, rows: Sequence[Row], outside: Row) -> None:
    counted = math.fsum(max(0.0, 1 - row["letter_mass"]) for row in rows) / len(rows)
    _require_near(where, "the probability outside the letters is that of the rows", outside["value"], counted)
    _check_interval(where, "probability outside the letters", outside, len(rows))


def _check_interval(where: str, what: str, interval: Row, n: int) -> None:
    require(where, f"the n of the {what} is that of the rows", interval["n"] == n)
    inside = interval["low"] - TOLERANCE <= interval["value"] <= interval["high"] + TOLERANCE
    require(where, f"the interval of the {what} holds it", inside)


def _require_near(where: str, rule: str, stated: float, counted: float) -> None:
    require(where, f"{rule} (stated {stated:.6g}, counted {counted:.6g})", abs(stated - counted) < TOLERANCE)
