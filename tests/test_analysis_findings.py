"""The content that goes into the files survives JSON, adds up, and is what the figures take."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from analysis_fakes import make_predictions, make_questions
from test_analysis_positions import GOLDS, ITEMS, by_content, by_place

from analysis.confidence_plots import draw_gold_positions, draw_reliability
from analysis.findings import confidence_content, leaks_content, mistakes_content, positions_content
from analysis.leaks import near_duplicates
from medqa.questions import Question
from medqa.topics import topic_of

QUESTIONS = make_questions(120)
PREDICTIONS = make_predictions(QUESTIONS, 0.6, seed=1)


def same_after_json(content: dict[str, Any]) -> dict[str, Any]:
    again: dict[str, Any] = json.loads(json.dumps(content))
    assert again == json.loads(json.dumps(again))
    return again


def test_confidence_is_shown_before_and_after_the_temperature_of_validation() -> None:
    validation = make_predictions(make_questions(150), 0.6, seed=2)
    content = same_after_json(confidence_content(validation, PREDICTIONS, np.random.default_rng(0)))
    temperature = content["temperature"]
    assert temperature["interval"]["low"] <= temperature["value"] <= temperature["interval"]["high"]
    assert temperature["n"] == 150
    assert content["before"]["accuracy"] == content["after"]["accuracy"]
    assert content["after_estimates"]["letter_nll"]["n"] == 120
    estimates = {name: content[f"{name}_estimates"] for name in ("before", "after")}
    draw_reliability(content["before"], content["after"], temperature, estimates)


def test_positions_tell_a_model_that_reads_from_one_that_likes_a_letter() -> None:
    orders = {"fine_tuned": by_content(ITEMS, GOLDS), "zero_shot": by_place(ITEMS, "A")}
    pairs = {"fine_tuned_minus_zero_shot": ("fine_tuned", "zero_shot")}
    content = same_after_json(positions_content(orders, pairs, np.random.default_rng(0)))
    reader, liker = content["models"]["fine_tuned"], content["models"]["zero_shot"]
    assert (reader["flip_rate"]["value"], liker["flip_rate"]["value"]) == (0.0, 1.0)
    assert (reader["mean_vote"]["value"], liker["accuracy"]["value"]) == (1.0, 0.25)
    assert content["pairs"]["fine_tuned_minus_zero_shot"]["flips"]["difference"]["value"] == -1.0
    models = content["models"]
    draw_gold_positions(
        {name: model["by_gold_position"] for name, model in models.items()},
        {name: model["position_test"] for name, model in models.items()},
    )


def test_mistakes_add_up_by_topic_and_by_length() -> None:
    topics = [topic_of(question) for question in QUESTIONS]
    unstable = {item.id for item in PREDICTIONS[::3]}
    content = same_after_json(mistakes_content(PREDICTIONS, QUESTIONS, topics, unstable))
    assert sum(content["kinds"].values()) == 120
    assert sum(rate["n"] for rate in content["accuracy_by_length"].values()) == 120
    assert set(content["by_topic"]) == set(topics)
    assert content["kinds"]["unstable under permutation"] > 0


def test_leaks_are_listed_with_the_accuracy_without_them() -> None:
    copied = QUESTIONS[3]
    train = [Question("t", copied.question, copied.options, copied.answer)]
    content = same_after_json(leaks_content(near_duplicates(train, QUESTIONS), {"fine_tuned": PREDICTIONS}))
    listed = [pair["id"] for pair in content["near_duplicates"]]
    assert copied.id in listed
    effect = content["accuracy"]["fine_tuned"]
    assert effect["without_them"]["n"] == 120 - len(listed)
    assert content["validation_accuracy"] == {}
    kept = leaks_content((), {}, near_duplicates(train, QUESTIONS), {"fine_tuned": PREDICTIONS[:50]})
    inside = [pair["id"] for pair in kept["validation_near_duplicates"] if pair["id"] in {q.id for q in QUESTIONS[:50]}]
    of_validation = kept["validation_accuracy"]["fine_tuned"]  # of the questions whose answers were kept
    assert (of_validation["with_them"]["n"], of_validation["on_them"]["n"]) == (50, len(inside))
    none = leaks_content([], {"fine_tuned": PREDICTIONS})
    assert (none["near_duplicates"], none["accuracy"]["fine_tuned"]["on_them"]) == ([], None)
