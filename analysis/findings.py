"""What an evaluation shows beyond its accuracies, as JSON content that is checked before it is handed on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from analysis import leaks, mistakes
from analysis import positions as moved
from analysis.comparison import paired_difference
from analysis.consistency import require
from analysis.intervals import bootstrap_rows, calibration_estimates
from medqa.calibration import calibration
from medqa.estimates import Estimate
from medqa.metrics import accuracy
from medqa.prediction import Prediction
from medqa.questions import Question
from medqa.temperature import apply_temperature, best_temperature, fit_temperature, letter_logits
from medqa.word_runs import RUN_WORDS, SHARE

Content = dict[str, Any]
_TEMPERATURE_RESAMPLES = 300


def confidence_content(
    validation: Sequence[Prediction], test: Sequence[Prediction], generator: np.random.Generator
) -> Content:
    """Return the calibration on test, before and after the temperature fitted on validation, with intervals."""
    fitted = fit_temperature(validation)
    warm = apply_temperature(test, fitted.value)
    logits_NL, gold_N = letter_logits(validation)
    interval = bootstrap_rows(
        len(validation),
        lambda rows: best_temperature(logits_NL[rows], gold_N[rows])[0],
        generator,
        _TEMPERATURE_RESAMPLES,
    )
    require("calibration", "a temperature changes no letter", accuracy(warm) == accuracy(test))
    return {
        "temperature": {**dataclasses.asdict(fitted), "interval": dataclasses.asdict(interval)},
        "before": dataclasses.asdict(calibration(test)),
        "after": dataclasses.asdict(calibration(warm)),
        "before_estimates": stated_confidence(test, generator),
        "after_estimates": stated_confidence(warm, generator),
    }


def stated_confidence(predictions: Sequence[Prediction], generator: np.random.Generator) -> Content:
    """Return the calibration of the probabilities as stated, every number with its interval."""
    return _as_dicts(calibration_estimates(predictions, generator))


def positions_content(
    orders: Mapping[str, moved.Orders], pairs: Mapping[str, tuple[str, str]], generator: np.random.Generator
) -> Content:
    """Return for each model what moving the options does, and for each pair of models how the first differs.

    Args:
        orders: Model's name to its predictions over the cyclic orders, as in `analysis.positions`.
        pairs: Name of a comparison to the names of its two models.
        generator: Draws the items.
    """
    return {
        "models": {name: _moved_options(name, of_model, generator) for name, of_model in orders.items()},
        "pairs": {
            name: dataclasses.asdict(moved.stability_gain(orders[first], orders[second], generator))
            for name, (first, second) in pairs.items()
        },
    }


def _moved_options(name: str, orders: moved.Orders, generator: np.random.Generator) -> Content:
    by_position, vote = moved.accuracy_by_gold_position(orders), moved.mean_vote(orders)
    counts = Counter(len(item.probabilities) for item in orders[0])
    places = sum(options * questions for options, questions in counts.items())
    require(name, "every option stands once at each place", sum(rate.n for rate in by_position.values()) == places)
    return {
        "accuracy": dataclasses.asdict(accuracy(orders[0])),
        "by_gold_position": _as_dicts(by_position),
        # the test takes questions with the same number of options
        "position_test": dataclasses.asdict(moved.position_test(orders)) if len(counts) == 1 else None,
        "flip_rate": dataclasses.asdict(moved.flip_rate(orders)),
        "mean_vote": dataclasses.asdict(accuracy(vote)),
        "majority_vote": dataclasses.asdict(accuracy(moved.majority_vote(orders))),
        "mean_vote_minus_first_order": dataclasses.asdict(paired_difference(vote, orders[0], generator)),
    }


def mistakes_content(
    predictions: Sequence[Prediction],
    questions: Sequence[Question],
    topics: Sequence[str],
    unstable: Collection[str] = (),
) -> Content:
    """Return one model's mistakes by kind, letters, length and topic; each split sums to all of them."""
    lengths = mistakes.length_quartiles(questions)
    content: Content = {
        "kinds": mistakes.count_kinds(predictions, unstable),
        "by_topic": mistakes.count_kinds_by(predictions, topics, unstable),
        "by_length": mistakes.count_kinds_by(predictions, lengths, unstable),
        "accuracy_by_length": _as_dicts(mistakes.accuracy_by(predictions, lengths)),
        "confused_pairs": [dataclasses.asdict(pair) for pair in mistakes.confused_pairs(predictions)],
    }
    for split in ("by_topic", "by_length"):
        summed = {kind: sum(counts[kind] for counts in content[split].values()) for kind in mistakes.KINDS}
        require("mistakes", f"the kinds {split.replace('_', ' ')} sum to those of all", summed == content["kinds"])
    require("mistakes", "the kinds sum to n", sum(content["kinds"].values()) == len(predictions))
    return content


def leaks_content(
    found: Sequence[leaks.NearDuplicate],
    models: Mapping[str, Sequence[Prediction]],
    in_validation: Sequence[leaks.NearDuplicate] = (),
    validation: Mapping[str, Sequence[Prediction]] = MappingProxyType({}),
) -> Content:
    """Return the near-duplicates of train questions, and each model's accuracy with and without them.

    Args:
        found: Those among the scored questions.
        models: Model's name to its predictions.
        in_validation: Those among the validation questions.
        validation: Model's name to its predictions on the validation questions whose answers were kept.
    """
    kept = {item.id for items in validation.values() for item in items}
    return {
        "share": SHARE,
        "run_words": RUN_WORDS,
        "near_duplicates": [dataclasses.asdict(pair) for pair in found],
        "validation_near_duplicates": [dataclasses.asdict(pair) for pair in in_validation],
        "accuracy": _leak_effects({pair.id for pair in found}, models),
        "validation_accuracy": _leak_effects({pair.id for pair in in_validation} & kept, validation),
    }


def _leak_effects(ids: Collection[str], models: Mapping[str, Sequence[Prediction]]) -> Content:
    return {name: dataclasses.asdict(leaks.leak_effect(items, ids)) for name, items in models.items()}


def _as_dicts(estimates: Mapping[str, Estimate]) -> Content:
    return {name: dataclasses.asdict(estimate) for name, estimate in estimates.items()}
