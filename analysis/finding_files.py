"""The JSON files of what an evaluation shows beyond the study's tables, one file a subject."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis import comparison, findings, mistakes
from analysis.comparison import Corrected, correct_family, paired_difference
from analysis.coverage import coverage_curve
from analysis.evaluation import BEST_PRESET, COUNTERPART, ENSEMBLE, FEW_SHOT, FINE_TUNED, ZERO_SHOT, Evaluation
from analysis.extraction import compare_scorers
from analysis.mistakes import RIGHT, kind_of
from analysis.positions import unstable_ids
from medqa.prediction import Prediction
from medqa.prompt import TRAINING_WORDING
from medqa.topics import topic_of

CONFIDENCE = "confidence.json"
POSITIONS = "positions.json"
MISTAKE_ITEMS = "mistakes.json"
LEAKS = "leaks.json"
SCORERS = "scorers.json"
COMPARISONS = "comparisons.json"
COVERAGE = "coverage.json"
FINDINGS = (CONFIDENCE, POSITIONS, MISTAKE_ITEMS, LEAKS, SCORERS, COMPARISONS, COVERAGE)
PAIRS = {
    "fine_tuned_minus_zero_shot": (FINE_TUNED, ZERO_SHOT),
    "fine_tuned_minus_few_shot": (FINE_TUNED, FEW_SHOT),
    "fine_tuned_minus_best_preset": (FINE_TUNED, BEST_PRESET),
    "few_shot_minus_zero_shot": (FEW_SHOT, ZERO_SHOT),
    "ensemble_minus_fine_tuned": (ENSEMBLE, FINE_TUNED),
    "ensemble_minus_zero_shot": (ENSEMBLE, ZERO_SHOT),
}
"""Comparison's name to its two models; those are made whose models are there."""
BY_TOPIC = ("fine_tuned_minus_zero_shot", "fine_tuned_minus_few_shot")
_POSITION_PAIRS = {
    "fine_tuned_minus_zero_shot": (FINE_TUNED, ZERO_SHOT),
    "fine_tuned_minus_counterpart": (FINE_TUNED, COUNTERPART),
}
BOOTSTRAP_SEED = 0
Content = dict[str, Any]


def build_findings(evaluation: Evaluation) -> dict[str, Content]:
    """Return file name to content; each file draws from its own generator, so that none depends on another."""
    return {
        CONFIDENCE: _confidence(evaluation),
        POSITIONS: _positions(evaluation),
        MISTAKE_ITEMS: _mistakes(evaluation),
        LEAKS: findings.leaks_content(
            evaluation.near_duplicates,
            evaluation.models,
            evaluation.validation_near_duplicates,
            evaluation.validation,
        ),
        SCORERS: _scorers(evaluation),
        COMPARISONS: _comparisons(evaluation),
        COVERAGE: _coverage(evaluation),
    }


def unstable_of(evaluation: Evaluation, model: str) -> frozenset[str]:
    """Return the questions of which a model chooses another option when they are moved; none where not measured."""
    return unstable_ids(evaluation.orders[model]) if model in evaluation.orders else frozenset()


def model_pairs(evaluation: Evaluation) -> dict[str, Corrected]:
    """Compare the models pair by pair over all questions, corrected for the number of pairs."""
    models, generator = evaluation.models, _generator()
    return correct_family(
        {
            name: paired_difference(models[first], models[second], generator)
            for name, (first, second) in PAIRS.items()
            if first in models and second in models
        }
    )


def _confidence(evaluation: Evaluation) -> Content:
    generator = _generator()
    models = {
        name: findings.confidence_content(validation, evaluation.models[name], generator)
        for name, validation in evaluation.validation.items()
        if name in evaluation.models
    }
    stated = {name: content["before_estimates"] for name, content in models.items()}
    for name in evaluation.models:  # those without validation answers have no temperature
        if name not in stated:
            stated[name] = findings.stated_confidence(evaluation.models[name], generator)
    return {"models": models, "as_stated": stated}


def _positions(evaluation: Evaluation) -> Content:
    orders = evaluation.orders
    pairs = {name: pair for name, pair in _POSITION_PAIRS.items() if set(pair) <= orders.keys()}
    return findings.positions_content(orders, pairs, _generator())


def _mistakes(evaluation: Evaluation) -> Content:
    topics = [topic_of(one) for one in evaluation.questions]
    models = {
        name: findings.mistakes_content(predictions, evaluation.questions, topics, unstable_of(evaluation, name))
        for name, predictions in evaluation.models.items()
    }
    return {
        "confident": mistakes.CONFIDENT,
        "meanings": mistakes.KINDS,
        "models": models,
        "items": {FINE_TUNED: _wrong_items(evaluation, topics)},
    }


def _wrong_items(evaluation: Evaluation, topics: Sequence[str]) -> list[Content]:
    """Return the tuned model's wrong answers with their questions, the surest first."""
    unstable, texts = unstable_of(evaluation, FINE_TUNED), evaluation.texts.get(FINE_TUNED, {})
    answers = zip(evaluation.fine_tuned, evaluation.questions, topics, strict=True)
    items = [
        {
            "id": item.id,
            "kind": kind_of(item, unstable),
            "topic": topic,
            "question": question.question,
            "options": question.options,
            "gold": item.gold,
            "pred": item.pred,
            "probabilities": item.probabilities,
            "raw_output": item.raw_output,
            "text": texts.get(item.id),
        }
        for item, question, topic in answers
        if kind_of(item, unstable) != RIGHT
    ]
    return sorted(items, key=lambda row: (-row["probabilities"][row["pred"]], row["id"]))


def _scorers(evaluation: Evaluation) -> Content:
    return {
        name: dataclasses.asdict(compare_scorers(evaluation.models[name], texts))
        for name, texts in evaluation.texts.items()
    }


def _comparisons(evaluation: Evaluation) -> Content:
    models, generator = evaluation.models, _generator()
    topics = [topic_of(one) for one in evaluation.questions]
    worded = {name: items for name, items in evaluation.wordings.items() if name != TRAINING_WORDING}
    return {
        "pairs": _as_dicts(model_pairs(evaluation)),
        "by_topic": {
            name: _as_dicts(comparison.by_topic(models[PAIRS[name][0]], models[PAIRS[name][1]], topics, generator))
            for name in BY_TOPIC
        },
        "wordings": {
            f"{name}_minus_{TRAINING_WORDING}": content
            for name, content in _as_dicts(
                comparison.against_one(worded, evaluation.wordings[TRAINING_WORDING], generator)
            ).items()
        },
        "method": "paired percentile bootstrap over questions, exact two-sided McNemar test; holm_p is corrected "
        "(Holm 1979) over the comparisons of its own list: the pairs, the topics of one pair, the wordings",
    }


def _coverage(evaluation: Evaluation) -> Content:
    generator = _generator()
    return {
        name: dataclasses.asdict(coverage_curve(predictions, generator))
        for name, predictions in evaluation.models.items()
    }


def compare_configurations(
    winner: str, predictions: Sequence[Prediction], others: Mapping[str, Sequence[Prediction]]
) -> Content:
    """Compare the evaluated training with the search's others on validation, corrected for their number.

    The winner was chosen on these very questions, so that its differences lean high. A training whose answers are lost,
    or are to other questions, is not compared but named.
    """
    same = {name: items for name, items in others.items() if _ids(items) == _ids(predictions)}
    # the same draws for each, as for the margins of analysis/chosen.py: one difference has one interval everywhere
    pairs = {name: paired_difference(predictions, items, _generator()) for name, items in same.items()}
    return {
        "split": "validation",
        "first": winner,
        "pairs": _as_dicts(correct_family(pairs)),
        "left_out": [name for name in others if name not in same],
    }


def _ids(predictions: Sequence[Prediction]) -> list[str]:
    return [item.id for item in predictions]


def _as_dicts(family: Mapping[str, Corrected]) -> Content:
    return {name: dataclasses.asdict(one) for name, one in family.items()}


def _generator() -> np.random.Generator:
    return np.random.default_rng(BOOTSTRAP_SEED)
