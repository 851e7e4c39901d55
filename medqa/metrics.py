"""Predictions to numbers, pure: every rate is a fraction in [0, 1] with its 95 % interval and n."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics

from medqa.errors import DataError
from medqa.prediction import Prediction
from medqa.questions import Question
from medqa.record import prediction_rows
from medqa.topics import SPECIALTIES, topic_of

CONFIDENCE_LEVEL = 0.95
CALIBRATION_BINS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its 95 % interval and the count of items behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBin:
    """The predictions whose confidence lies in [low, high); the last bin includes 1."""

    low: float
    high: float
    mean_confidence: float
    accuracy: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How far stated probabilities agree with what is right."""

    ece: float
    """Expected calibration error: mean over items of |confidence - accuracy| of the item's bin."""
    mean_confidence: float
    accuracy: Estimate
    brier: float
    """Mean over items of the squared error summed over letters, in [0, 2] (Brier 1950)."""
    letter_nll: float
    """Mean negative log-probability of the right letter among the letters, in nats."""
    bins: tuple[CalibrationBin, ...]
    """Bins that hold at least one item, by rising confidence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChiSquared:
    """Pearson's statistic and its p-value."""

    statistic: float
    p_value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LetterBalance:
    """How often each letter is right and how often it is predicted."""

    gold: dict[str, int]
    predicted: dict[str, int]
    against_uniform: ChiSquared
    """Predicted counts against every letter of a question equally often; the study's figure."""
    against_gold: ChiSquared | None
    """Predicted counts against the counts of right answers; None when a letter is never right."""


def wilson(successes: int, n: int) -> Estimate:
    """Return a proportion with its Wilson score interval (Wilson 1927).

    Raises:
        DataError: when n is 0: there is no rate of nothing.
    """
    if n == 0:
        raise DataError("no items to compute a rate of")
    test = scipy.stats.binomtest(successes, n)
    interval = test.proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    return Estimate(value=successes / n, low=float(interval.low), high=float(interval.high), n=n)


def standard_error(rate: float, n: int) -> float:
    """Return the standard error of a rate of n independent items, sqrt(p (1 - p) / n).

    Raises:
        DataError: when n is 0: there is no rate of nothing.
    """
    if n == 0:
        raise DataError("no items to compute a rate of")
    return math.sqrt(rate * (1 - rate) / n)


def accuracy(predictions: Sequence[Prediction]) -> Estimate:
    """Return the share of right answers; DataError when there are none to count."""
    return wilson(sum(item.correct for item in predictions), len(predictions))


def extraction_failure_rate(predictions: Sequence[Prediction]) -> Estimate:
    """Return the share of questions whose most probable token is not one of the question's letters."""
    return wilson(sum(not item.extracted for item in predictions), len(predictions))


def topic_accuracy(predictions: Sequence[Prediction], topics: Sequence[str]) -> dict[str, Estimate]:
    """Return the accuracy within each specialty that occurs, in the order of SPECIALTIES; their n sum to all."""
    chosen: dict[str, list[Prediction]] = {topic: [] for topic in SPECIALTIES if topic in topics}
    for item, topic in zip(predictions, topics, strict=True):
        chosen[topic].append(item)
    return {topic: accuracy(items) for topic, items in chosen.items()}


def letters_of(predictions: Sequence[Prediction]) -> list[str]:
    """Return the letters that any question offers, in order; DataError when there are no predictions."""
    if not predictions:
        raise DataError("no predictions to measure")
    return sorted({letter for item in predictions for letter in item.probabilities})


def confusion_matrix(predictions: Sequence[Prediction]) -> list[list[int]]:
    """Count predictions by right letter (row) and predicted letter (column), in the order of `letters_of`."""
    letters = letters_of(predictions)
    gold, pred = [item.gold for item in predictions], [item.pred for item in predictions]
    counts: list[list[int]] = sklearn.metrics.confusion_matrix(gold, pred, labels=letters).tolist()
    return counts


def classification_report(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return scikit-learn's report: precision, recall, F1 and support per letter; 0 where never predicted."""
    letters = letters_of(predictions)
    gold, pred = [item.gold for item in predictions], [item.pred for item in predictions]
    report: dict[str, Any] = sklearn.metrics.classification_report(
        gold, pred, labels=letters, output_dict=True, zero_division=0
    )
    return report


def macro_f1(predictions: Sequence[Prediction]) -> float:
    """Return the unweighted mean over letters of F1."""
    return float(classification_report(predictions)["macro avg"]["f1-score"])


def calibration(predictions: Sequence[Prediction], bins: int = CALIBRATION_BINS) -> Calibration:
    """Compare confidence with accuracy over equal-width bins of the predicted letter's probability."""
    right = accuracy(predictions)
    filled = _calibration_bins(predictions, bins)
    gaps = [abs(item.mean_confidence - item.accuracy.value) * item.accuracy.n for item in filled]
    return Calibration(
        ece=sum(gaps) / right.n,
        mean_confidence=_mean([item.confidence for item in predictions]),
        accuracy=right,
        brier=_mean([_squared_error(item) for item in predictions]),
        letter_nll=_mean([-math.log(max(item.probabilities[item.gold], sys.float_info.min)) for item in predictions]),
        bins=filled,
    )


def _calibration_bins(predictions: Sequence[Prediction], bins: int) -> tuple[CalibrationBin, ...]:
    members: list[list[Prediction]] = [[] for _ in range(bins)]
    for item in predictions:
        members[min(int(item.confidence * bins), bins - 1)].append(item)
    return tuple(
        CalibrationBin(
            low=index / bins,
            high=(index + 1) / bins,
            mean_confidence=_mean([item.confidence for item in items]),
            accuracy=accuracy(items),
        )
        for index, items in enumerate(members)
        if items
    )


def _squared_error(item: Prediction) -> float:
    return sum((value - (letter == item.gold)) ** 2 for letter, value in item.probabilities.items())


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def letter_balance(predictions: Sequence[Prediction]) -> LetterBalance:
    """Test whether letters are predicted as often as chance, or as often as they are right.

    The study counted the 3-shot letters as uneven against uniform counts (chi-squared 33.3); the right answers
    themselves are as uneven, which is why the second test stands beside the first.
    """
    letters = letters_of(predictions)
    gold = [sum(item.gold == letter for item in predictions) for letter in letters]
    predicted = [sum(item.pred == letter for item in predictions) for letter in letters]
    uniform = [
        math.fsum(1 / len(item.probabilities) for item in predictions if letter in item.probabilities)
        for letter in letters
    ]
    return LetterBalance(
        gold=dict(zip(letters, gold, strict=True)),
        predicted=dict(zip(letters, predicted, strict=True)),
        against_uniform=chi_squared(predicted, uniform),
        against_gold=chi_squared(predicted, gold) if all(gold) else None,
    )


def chi_squared(observed: Sequence[int], expected: Sequence[float]) -> ChiSquared:
    """Test observed counts against expected ones, which are scaled to the observed total.

    Raises:
        DataError: when an expected count is 0.
    """
    if not observed or min(expected) <= 0:
        raise DataError(f"expected counts must be above 0 for a chi-squared test: {list(expected)}")
    scaled = np.asarray(expected, dtype=float) * (sum(observed) / math.fsum(expected))
    result = scipy.stats.chisquare(observed, scaled)
    return ChiSquared(statistic=float(result.statistic), p_value=float(result.pvalue))


def study_results(predictions: Sequence[Prediction], questions: Sequence[Question]) -> dict[str, Any]:
    """Return the content of a results file: the study's keys, and ours beside them; rates are fractions.

    Raises:
        DataError: when there are no predictions, or they are not those of `questions`.
    """
    if [item.id for item in predictions] != [question.id for question in questions]:
        raise DataError("the predictions are not those of the questions")
    topics = [topic_of(question) for question in questions]
    right = accuracy(predictions)
    return {
        "overall_accuracy": right.value,
        "accuracy_interval": dataclasses.asdict(right),
        "macro_f1": macro_f1(predictions),
        "extraction_failure_rate": extraction_failure_rate(predictions).value,
        "n_total": right.n,
        "n_correct": sum(item.correct for item in predictions),
        "answer_nll": _mean([item.gold_nll for item in predictions]),
        "calibration": dataclasses.asdict(calibration(predictions)),
        "letter_balance": dataclasses.asdict(letter_balance(predictions)),
        "letters": letters_of(predictions),
        "confusion_matrix": confusion_matrix(predictions),
        "per_topic_accuracy": {
            topic: {"accuracy": rate.value, "low": rate.low, "high": rate.high, "n": rate.n}
            for topic, rate in topic_accuracy(predictions, topics).items()
        },
        "classification_report": classification_report(predictions),
        "predictions": prediction_rows(tuple(predictions), topics),
    }
