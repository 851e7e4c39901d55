"""Predictions to numbers, pure: every rate is a fraction in [0, 1] with its 95 % interval and n."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sklearn.metrics

from medqa.calibration import calibration
from medqa.errors import DataError
from medqa.estimates import ChiSquared, Estimate, MarginalHomogeneity, chi_squared, f1_estimate, stuart_maxwell, wilson
from medqa.prediction import Prediction
from medqa.questions import Question
from medqa.record import prediction_rows
from medqa.topics import SPECIALTIES, topic_of


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScores:
    """How well one letter is told; None where there is nothing to divide by."""

    precision: Estimate | None
    """Share of right ones among the items called this letter; None when none is."""
    recall: Estimate | None
    """Share of items of this letter that are called it; None when the letter is never right."""
    f1: Estimate | None
    """Harmonic mean of both; its n counts the items that are the letter or are called it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LetterBalance:
    """How often each letter is right and how often it is predicted."""

    gold: dict[str, int]
    predicted: dict[str, int]
    against_uniform: ChiSquared
    """Predicted counts against every letter of a question equally often; the study's figure."""
    against_gold: MarginalHomogeneity
    """Predicted letters against the right ones of the same questions."""


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


def class_scores(predictions: Sequence[Prediction]) -> dict[str, ClassScores]:
    """Return precision, recall and F1 of each letter, each with its interval and n.

    Precision is TP / (TP + FP) and recall TP / (TP + FN), with Wilson's interval; F1 is that of `f1_estimate`.
    """
    letters, counts = letters_of(predictions), confusion_matrix(predictions)
    scores = {}
    for index, letter in enumerate(letters):
        hits, gold = counts[index][index], sum(counts[index])
        called = sum(row[index] for row in counts)
        union = gold + called - hits
        scores[letter] = ClassScores(
            precision=wilson(hits, called) if called else None,
            recall=wilson(hits, gold) if gold else None,
            f1=f1_estimate(hits, union) if union else None,
        )
    return scores


def letter_balance(predictions: Sequence[Prediction]) -> LetterBalance:
    """Test whether letters are predicted as often as chance, or as often as they are right.

    The study counted the 3-shot letters as uneven against uniform counts (chi-squared 33.3); the right answers
    themselves are as uneven, which is why the second test stands beside the first. It is one of pairs: the right
    answers are a sample too, of the same questions, and no fixed expectation. Every question has a most probable
    letter, so none is left out.
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
        against_gold=stuart_maxwell(confusion_matrix(predictions)),
    )


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
        "answer_nll": math.fsum(item.gold_nll for item in predictions) / right.n,
        "calibration": dataclasses.asdict(calibration(predictions)),
        "letter_balance": dataclasses.asdict(letter_balance(predictions)),
        "letters": letters_of(predictions),
        "confusion_matrix": confusion_matrix(predictions),
        "per_topic_accuracy": {
            topic: {"accuracy": rate.value, "low": rate.low, "high": rate.high, "n": rate.n}
            for topic, rate in topic_accuracy(predictions, topics).items()
        },
        "classification_report": classification_report(predictions),
        "class_scores": {letter: dataclasses.asdict(row) for letter, row in class_scores(predictions).items()},
        "predictions": prediction_rows(tuple(predictions), topics),
    }
