"""The report's sections on what was run, with which versions and seeds, and on how to read it."""

from __future__ import annotations

from typing import Any

from analysis import study_files as names
from analysis.report_content import Bullets, Paragraph, Picture, Section, Table, code
from analysis.report_inputs import Files
from analysis.report_numbers import rate

_FINGERPRINTS = ("data_fingerprint", "prompt_fingerprint", "base_fingerprint")


def run_section(files: Files) -> Section:
    """Return what was evaluated, how it was chosen, and all that is needed to do it again."""
    evaluation = files[names.EVALUATION]
    rows = tuple((name, code(text)) for name, text in _facts(evaluation).items())
    settings = tuple((name, str(value)) for name, value in evaluation["identity"]["config"].items())
    trials = files[names.ALL_CONFIGS]["trials"]
    alt = f"Validation accuracy of the search's {len(trials)} trials with intervals, the best on top, the winner named."
    return Section(
        title="What was evaluated",
        blocks=(
            Paragraph(text=_chosen(evaluation)),
            Paragraph(text=_reads(evaluation["test_reads"])),
            Table(caption="What was run", head=("what", "value"), rows=rows),
            Table(caption="The winner's settings", head=("setting", "value"), rows=settings),
            Picture(file="all_configs_comparison.png", alt=alt),
        ),
    )


def _chosen(evaluation: dict[str, Any]) -> str:
    choice = evaluation.get("choice", {})
    repeats = "" if choice.get("confirmed", []) == [] else f", trial {code(choice['trial'])} with a new seed"
    return (
        f"Trial {code(evaluation['winner']['name'])} (MLflow run {code(evaluation['winner']['run_id'])}){repeats}: "
        f"{evaluation['best_means']}. The search's metric is {code(evaluation['metric'])}; on validation the trial has "
        f"{rate(evaluation['validation_accuracy'])} right (n = {evaluation['validation_accuracy']['n']:,}). "
        "That number is the best of several and so leans high; the one on the test split does not."
    )


def _reads(count: int) -> str:
    times = "once" if count == 1 else f"{count} times"
    return (
        f"The test split has now been read {times} for this search ({code('test_reads.jsonl')}); every choice made "
        "after a look at it makes its numbers lean high."
    )


def _facts(evaluation: dict[str, Any]) -> dict[str, Any]:
    identity = evaluation["identity"]
    task = identity["task"]
    facts = {
        "search": evaluation["search"],
        "trial": evaluation["winner"]["name"],
        "MLflow run": evaluation["winner"]["run_id"],
        "command": evaluation.get("command"),
        "started": evaluation.get("started"),
        "ensemble of": ", ".join(evaluation.get("ensemble", [])),
        "best preset": evaluation.get("best_preset"),
        "trained the other way about shuffled options": evaluation.get("counterpart"),
        "base model": task["model"],
        "revision of the base model": task.get("model_revision"),
        "questions": task["data"],
        "revision of the questions": task.get("data_revision"),
        "extra training questions": task.get("extra"),
        "fingerprint of the extra questions": identity.get("extra_fingerprint"),
        **{name.replace("_", " "): identity[name] for name in _FINGERPRINTS},
        "fingerprint of the test questions": evaluation.get("fingerprint"),
        **_versions(identity["versions"], evaluation.get("versions", {})),
        "test questions": f"{evaluation['n']:,}",
        "seed of the 3-shot examples": evaluation["exemplar_seed"],
        "seed of the bootstrap": evaluation.get("bootstrap_seed"),
        "seconds of the evaluation": evaluation["seconds"],
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _versions(trained: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """Return package to version; to both where the training had another one than the evaluation."""
    both = {name: (trained.get(name), now.get(name)) for name in {**trained, **now}}
    return {
        name: f"{then}, in the evaluation {later}" if then and later and then != later else str(then or later)
        for name, (then, later) in both.items()
    }


def limits_section(files: Files) -> Section:
    """Return how to read the numbers, and what they do not say."""
    evaluation = files[names.EVALUATION]
    return Section(
        title="How to read it, and its limits",
        blocks=(
            Bullets(
                lines=(
                    "An answer is the most probable of the question's letters after one forward pass. "
                    '"No letter" counts questions whose most probable token is none of them, "outside the letters" is '
                    "the mean probability of all other tokens together.",
                    f"The 3-shot examples are {', '.join(map(code, evaluation['exemplars']))}, drawn from the train "
                    f"split with seed {evaluation['exemplar_seed']}; no prompt is cut.",
                    "Intervals: Wilson for rates, bootstrap over questions for differences, means, macro-F1 and "
                    "ECE. They cover the choice of questions, not another seed of training.",
                    "Specialties come from lists of words; a question can belong to another one.",
                    "Questions of a public exam may stand in what the base model was trained on before; that cannot be "
                    "measured here.",
                    "An exam score says nothing about use with patients.",
                )
            ),
        ),
    )
