"""The JSON files of a final evaluation: what is in each, and that they agree with one another.

Names and keys are those of the study this project grows out of; more stands beside them. Every accuracy, F1, failure
rate and difference is a fraction in [0, 1], never a percentage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.consistency import check_numbers, require
from analysis.evaluation import BEST_PRESET, ENSEMBLE, FINE_TUNED, Evaluation
from analysis.finding_files import (
    BOOTSTRAP_SEED,
    COMPARISONS,
    CONFIDENCE,
    COVERAGE,
    FINDINGS,
    LEAKS,
    MISTAKE_ITEMS,
    PAIRS,
    POSITIONS,
    SCORERS,
    build_findings,
    unstable_of,
)
from analysis.intervals import bootstrap_macro_f1, bootstrap_mean
from analysis.mistakes import RIGHT, count_kinds
from analysis.subject import Subject, all_configs, describe
from medqa.errors import RecordError
from medqa.estimates import CONFIDENCE_LEVEL, Estimate, wilson
from medqa.metrics import accuracy, extraction_failure_rate, study_results
from medqa.prediction import Prediction
from medqa.questions import TEST
from medqa.record import read_json, write_json

RESULTS = {
    "zero_shot": "zero_shot_results.json",
    "few_shot": "few_shot_results.json",
    "fine_tuned": "finetuned_test_results.json",
}
"""Model's key in the summaries to the file with its predictions."""
SUMMARY = "comparison_summary.json"
CALIBRATION = "calibration_data.json"
WORDINGS = "prompt_template_results.json"
STATISTICS = "statistics.json"
MISTAKES = "error_taxonomy.json"
ALL_CONFIGS = "all_configs.json"
EVALUATION = "evaluation.json"
OTHER_RESULTS = {BEST_PRESET: "best_preset_results.json", ENSEMBLE: "ensemble_results.json"}
"""As RESULTS, of the models that are not in every evaluation."""
SET_FILES = (*RESULTS.values(), SUMMARY, CALIBRATION, WORDINGS, STATISTICS, MISTAKES, *FINDINGS, EVALUATION)
"""Files of every set of questions; evaluation.json comes last."""
FILES = (ALL_CONFIGS, *SET_FILES)
"""Files of the test split."""


def build_files(evaluation: Evaluation, subject: Subject) -> dict[str, Any]:
    """Return file name to content: FILES for the test split, SET_FILES for another set, OTHER_RESULTS' beside them."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    results = {
        name: {**study_results(predictions, evaluation.questions), **_bootstrapped(predictions, generator)}
        for name, predictions in evaluation.models.items()
    }
    findings = build_findings(evaluation)
    for name, content in results.items():
        content["calibration"]["estimates"] = findings[CONFIDENCE]["as_stated"][name]
    return {
        **({ALL_CONFIGS: _all_configs(subject)} if subject.set_name == TEST else {}),
        **{{**RESULTS, **OTHER_RESULTS}[name]: content for name, content in results.items()},
        SUMMARY: _summary(results),
        CALIBRATION: {name: content["calibration"] for name, content in results.items()},
        WORDINGS: {
            name: _wording(predictions, evaluation.fine_tuned) for name, predictions in evaluation.wordings.items()
        },
        STATISTICS: _statistics(findings[COMPARISONS]["pairs"]),
        MISTAKES: {
            name: count_kinds(predictions, unstable_of(evaluation, name))
            for name, predictions in evaluation.models.items()
        },
        **findings,
        EVALUATION: describe(evaluation, subject),
    }


def _bootstrapped(predictions: Sequence[Prediction], generator: np.random.Generator) -> dict[str, Any]:
    """Return the numbers of a results file that no formula gives an interval for."""
    # the sum of the letters' probabilities is rounded, to above 1 too
    outside = [max(0.0, 1 - item.letter_mass) for item in predictions]
    estimates = {
        "macro_f1_interval": bootstrap_macro_f1(predictions, generator),
        "outside_letters": bootstrap_mean(outside, generator),
        "answer_nll_interval": bootstrap_mean([item.gold_nll for item in predictions], generator),
    }
    return {name: dataclasses.asdict(estimate) for name, estimate in estimates.items()}


def _all_configs(subject: Subject) -> dict[str, Any]:
    every = subject.validation["n_total"]
    return all_configs(subject.search, subject.choice["trial"], every, subject.configurations)


def _summary(results: dict[str, Any]) -> dict[str, Any]:
    summary = {
        name: {
            "accuracy": content["overall_accuracy"],
            "accuracy_interval": content["accuracy_interval"],
            "macro_f1": content["macro_f1"],
            "macro_f1_interval": content["macro_f1_interval"],
            "extraction_failures": content["extraction_failure_rate"],
            "outside_letters": content["outside_letters"],
            "answer_nll": content["answer_nll"],
            "answer_nll_interval": content["answer_nll_interval"],
            "ece": content["calibration"]["ece"],
            "ece_interval": content["calibration"]["estimates"]["ece"],
        }
        for name, content in results.items()
    }
    delta = {
        pair: {key: summary[first][key] - summary[second][key] for key in ("accuracy", "macro_f1")}
        for pair, (first, second) in PAIRS.items()
        if first in summary and second in summary
    }
    return {**summary, "delta": delta}


def _wording(predictions: Sequence[Prediction], trained: Sequence[Prediction]) -> dict[str, Any]:
    right = accuracy(predictions)
    letters = sorted({letter for item in predictions for letter in item.probabilities})
    return {
        "accuracy": right.value,
        "accuracy_interval": dataclasses.asdict(right),
        "extraction_failures": extraction_failure_rate(predictions).value,
        "pred_distribution": {letter: sum(item.pred == letter for item in predictions) for letter in letters},
        "agreement": dataclasses.asdict(_agreement(predictions, trained)),
    }


def _agreement(first: Sequence[Prediction], second: Sequence[Prediction]) -> Estimate:
    """Return the share of questions to which both give the same letter."""
    return wilson(sum(one.pred == other.pred for one, other in zip(first, second, strict=True)), len(first))


def _statistics(pairs: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: {**content["pair"], "holm_p": content["holm_p"]} for name, content in pairs.items()},
        "method": f"paired percentile bootstrap over items, {CONFIDENCE_LEVEL:.0%}; exact two-sided McNemar test, "
        "p_value as it is and holm_p corrected for the number of pairs (Holm 1979)",
        "seed": BOOTSTRAP_SEED,
    }


def write_files(folder: Path, files: dict[str, Any]) -> None:
    """Check that the files agree, then write them; RecordError when they do not or cannot be written."""
    check_consistency(files)
    try:
        for name, content in files.items():
            write_json(folder / name, content)
    except OSError as error:
        raise RecordError(f"{folder}: cannot be written ({error.strerror})") from error


def read_files(folder: Path) -> dict[str, Any]:
    """Read the files of an earlier evaluation; RecordError when one is missing, broken or at odds with the others."""
    wanted = [*(FILES if (folder / ALL_CONFIGS).exists() else SET_FILES)]
    wanted += [name for name in OTHER_RESULTS.values() if (folder / name).exists()]
    files = {name: read_json(folder / name) for name in wanted}
    try:
        check_consistency(files)
    except (KeyError, TypeError) as error:
        raise RecordError(f"{folder}: not the files of a final evaluation ({error})") from error
    return files


def check_consistency(files: dict[str, Any]) -> None:
    """Raise RecordError when numbers are not those of their rows, or files tell different numbers."""
    models = {**RESULTS, **{name: file for name, file in OTHER_RESULTS.items() if file in files}}
    ids = {name: [row["id"] for row in files[file]["predictions"]] for name, file in models.items()}
    for name, file in models.items():
        results = files[file]
        n = results["n_total"]
        check_numbers(name, results["predictions"], results)
        require(name, "models have the same questions", ids[name] == ids["zero_shot"])
        require(name, "kinds of mistakes sum to n", sum(files[MISTAKES][name].values()) == n)
        same_kinds = files[MISTAKES][name] == files[MISTAKE_ITEMS]["models"][name]["kinds"]
        require(name, "both files of mistakes have the same kinds", same_kinds)
        require(name, "the calibration file has the results' bins", files[CALIBRATION][name] == results["calibration"])
        require(name, "the summary has the accuracy", files[SUMMARY][name]["accuracy"] == results["overall_accuracy"])
        same_mass = files[SUMMARY][name].get("outside_letters") == results.get("outside_letters")  # older: neither
        require(name, "the summary has the probability outside the letters", same_mass)
    summaries = files[SUMMARY]
    for pair, (first, second) in PAIRS.items():
        if first not in summaries or second not in summaries:
            continue
        stated = files[STATISTICS][pair]["difference"]["value"]
        apart = summaries[first]["accuracy"] - summaries[second]["accuracy"]
        require(pair, "the difference is that of the accuracies", abs(stated - apart) < 1e-9)
    _check_findings(files)


def _check_findings(files: dict[str, Any]) -> None:
    """Hold the accuracies of the files beside the study's against the study's."""
    summaries = files[SUMMARY]
    stated = [
        *((name, one["before"]["accuracy"]["value"]) for name, one in files[CONFIDENCE]["models"].items()),
        *((name, one["accuracy"]["value"]) for name, one in files[POSITIONS]["models"].items()),
        *((name, one["by_probability"]["value"]) for name, one in files[SCORERS].items()),
        *((name, one["with_them"]["value"]) for name, one in files[LEAKS]["accuracy"].items()),
        *((name, one["points"][-1]["accuracy"]["value"]) for name, one in files[COVERAGE].items()),
    ]
    for name, value in stated:
        if name in summaries:  # the counterpart of the positions has no results of its own
            require(name, "every file states the same accuracy", abs(value - summaries[name]["accuracy"]) < 1e-9)
    kinds = files[MISTAKE_ITEMS]["models"][FINE_TUNED]["kinds"]
    wrong = sum(count for kind, count in kinds.items() if kind != RIGHT)
    require(FINE_TUNED, "every wrong answer is listed", len(files[MISTAKE_ITEMS]["items"][FINE_TUNED]) == wrong)


def main_numbers(files: dict[str, Any]) -> dict[str, float]:
    """Return the numbers that the winner's run shows as metrics, by name."""
    tuned, difference = files[SUMMARY]["fine_tuned"], files[STATISTICS]["fine_tuned_minus_zero_shot"]["difference"]
    others = {
        f"test_accuracy_{name}": files[SUMMARY][name]["accuracy"] for name in OTHER_RESULTS if name in files[SUMMARY]
    }
    return {
        **others,
        "test_accuracy": tuned["accuracy"],
        "test_accuracy_low": tuned["accuracy_interval"]["low"],
        "test_accuracy_high": tuned["accuracy_interval"]["high"],
        "test_macro_f1": tuned["macro_f1"],
        "test_answer_nll": tuned["answer_nll"],
        "test_ece": tuned["ece"],
        "test_accuracy_zero_shot": files[SUMMARY]["zero_shot"]["accuracy"],
        "test_accuracy_few_shot": files[SUMMARY]["few_shot"]["accuracy"],
        "test_gain_over_zero_shot": difference["value"],
        "test_gain_over_zero_shot_low": difference["low"],
        "test_gain_over_zero_shot_high": difference["high"],
    }
