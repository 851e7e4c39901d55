"""Error taxonomy: every wrong answer has one kind."""

from __future__ import annotations

from collections.abc import Sequence

from medqa.prediction import Prediction

CONFIDENT = 0.7
"""Probability of the chosen letter from which a wrong answer counts as confident."""
CLOSE = 0.1
"""Lead of the chosen letter over the right one up to which the right one was a close second."""
RIGHT = "right"
KINDS: dict[str, str] = {
    RIGHT: "the right letter is the most probable one",
    "no letter found": "wrong, and the most probable token is not a letter of the question",
    "confident and wrong": f"wrong, with a probability of {CONFIDENT} or more on the wrong letter",
    "close second": f"wrong, and the right letter is at most {CLOSE} less probable than the chosen one",
    "unsure and wrong": f"wrong, with less than {CONFIDENT} on the wrong letter, the right one further behind",
}
"""Kind to its meaning; the first that fits, in this order, is taken."""


def kind_of(prediction: Prediction) -> str:
    """Return the kind of one prediction."""
    if prediction.correct:
        return RIGHT
    if not prediction.extracted:
        return "no letter found"
    if prediction.confidence >= CONFIDENT:
        return "confident and wrong"
    if prediction.confidence - prediction.probabilities[prediction.gold] <= CLOSE:
        return "close second"
    return "unsure and wrong"


def count_kinds(predictions: Sequence[Prediction]) -> dict[str, int]:
    """Count predictions by kind; the counts sum to all of them."""
    kinds = [kind_of(prediction) for prediction in predictions]
    return {kind: kinds.count(kind) for kind in KINDS}
