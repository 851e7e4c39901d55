"""What a person reads: the table at the end of a run, and report.md in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis import study_files as names
from analysis.chosen import choice_lines, confirmation_table
from analysis.plot_style import MODELS, percent, with_interval
from analysis.plots import p_text

REPORT = "report.md"
_PAIR_LABELS = {
    "fine_tuned_minus_zero_shot": "tuned minus zero-shot",
    "fine_tuned_minus_few_shot": "tuned minus 3-shot",
}
_CONFIRMED_LIMITS = (
    "The drop is by how much the mean over new seeds is worse than the value in the search, which was picked for being "
    "good. The intervals cover the choice of questions, not that of seeds: the standard deviation shows those."
)
_UNCONFIRMED_LIMITS = (
    "Each trial was trained once: another seed can change the order, and the best of many leans high. "
    "`tune/search.py --confirm 3` trains the best three again with new seeds."
)


def format_table(files: dict[str, Any]) -> str:
    """Return the models' accuracies and the differences as lines of text."""
    lines = [f"{'on the test split':24} accuracy, % (95 % interval)    macro-F1    n"]
    for model, look in MODELS.items():
        row = files[names.SUMMARY][model]
        text = with_interval(row["accuracy_interval"])
        lines.append(f"{look.label:24} {text:30} {row['macro_f1']:8.3f} {row['accuracy_interval']['n']:8,}")
    for pair, label in _PAIR_LABELS.items():
        lines.append(f"{label:24} {_difference(files, pair)}")
    return "\n".join(lines)


def _difference(files: dict[str, Any], pair: str) -> str:
    result = files[names.STATISTICS][pair]
    difference = result["difference"]
    value, low, high = (100 * difference[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f}), exact McNemar p {p_text(result['p_value'])}"


def write_report(folder: Path, files: dict[str, Any]) -> None:
    """Write report.md."""
    sections = (_summary, _how_chosen, _how_sure, _models, _wordings, _behaviour, _limits)
    text = "\n\n".join(text for section in sections if (text := section(files)))
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def _summary(files: dict[str, Any]) -> str:
    result = files[names.STATISTICS]["fine_tuned_minus_zero_shot"]["difference"]
    summary, n = files[names.SUMMARY], result["n"]
    tuned = with_interval(summary["fine_tuned"]["accuracy_interval"])
    base = with_interval(summary["zero_shot"]["accuracy_interval"])
    if result["low"] > 0:
        verdict = "Tuning helped."
    elif result["high"] < 0:
        verdict = "Tuning hurt."
    else:
        verdict = "Whether tuning helped cannot be told: the interval of the difference includes 0."
    return (
        f"# Final evaluation of the search {files[names.EVALUATION]['search']!r}\n\n"
        f"{verdict} The tuned model answers {tuned} of {n:,} test questions rightly, the untuned base {base}: "
        f"{_difference(files, 'fine_tuned_minus_zero_shot')}. In brackets stand 95 % intervals."
    )


def _how_chosen(files: dict[str, Any]) -> str:
    evaluation = files[names.EVALUATION]
    identity = evaluation["identity"]
    settings = ", ".join(f"{name} {value}" for name, value in identity["config"].items())
    choice = evaluation.get("choice", {})
    repeats = "" if choice.get("confirmed", []) == [] else f", trial `{choice['trial']}` with a new seed"
    return (
        "## What was evaluated\n\n"
        f"Trial `{evaluation['winner']['name']}` (MLflow run `{evaluation['winner']['run_id']}`){repeats}: "
        f"{evaluation['best_means']}. The search's metric is `{evaluation['metric']}`; on validation the trial has "
        f"{with_interval(evaluation['validation_accuracy'])} right (n = {evaluation['validation_accuracy']['n']:,}). "
        "That number is the best of several and so leans high; the one on the test split does not.\n\n"
        f"Base model `{identity['task']['model']}`, questions `{identity['task']['data']}`. {settings}.\n\n"
        f"The test split has now been read {_times(evaluation['test_reads'])} for this search (test_reads.jsonl); "
        "every choice made after a look at it makes its numbers lean high.\n\n"
        "![all trials](all_configs_comparison.png)"
    )


def _how_sure(files: dict[str, Any]) -> str:
    choice = files[names.EVALUATION].get("choice")
    if choice is None:  # an evaluation older than this section
        return ""
    lines = [f"- {line}" for line in choice_lines(choice)] or ["- There is no other trial to compare it with."]
    table = confirmation_table(choice)
    limits = _CONFIRMED_LIMITS if table else _UNCONFIRMED_LIMITS
    parts = ("## How sure the choice is", f"`{choice['trial']}` on validation:", "\n".join(lines), table, limits)
    return "\n\n".join(part for part in parts if part)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _models(files: dict[str, Any]) -> str:
    head = "| model | accuracy | macro-F1 | no letter | answer NLL, nats | ECE |\n|---|---|---|---|---|---|"
    rows = []
    for model, look in MODELS.items():
        row = files[names.SUMMARY][model]
        rows.append(
            f"| {look.label} | {with_interval(row['accuracy_interval'])} | {_plain_interval(row['macro_f1_interval'])} "
            f"| {percent(row['extraction_failures'])} | {row['answer_nll']:.3f} | {row['ece']:.3f} |"
        )
    pairs = [f"- {label}: {_difference(files, pair)}" for pair, label in _PAIR_LABELS.items()]
    images = "![by specialty](per_topic_accuracy.png)\n\n![calibration](calibration_curve.png)"
    return "\n".join(["## The three models on the same questions", "", head, *rows, "", *pairs, "", images])


def _plain_interval(interval: dict[str, float]) -> str:
    return f"{interval['value']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


def _wordings(files: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {with_interval(result['accuracy_interval'])} | {percent(result['extraction_failures'])} |"
        for name, result in files[names.WORDINGS].items()
    ]
    head = "| wording | accuracy | no letter |\n|---|---|---|"
    image = "![wordings](prompt_template_comparison.png)"
    return "\n".join(["## The tuned model under other wordings of the prompt", "", head, *rows, "", image])


def _behaviour(files: dict[str, Any]) -> str:
    kinds = files[names.EVALUATION]["error_kinds"]
    mistakes = files[names.MISTAKES]
    head = "| kind | meaning | " + " | ".join(look.label for look in MODELS.values()) + " |\n|---|---|---|---|---|"
    rows = [
        f"| {kind} | {meaning} | " + " | ".join(f"{mistakes[model][kind]:,}" for model in MODELS) + " |"
        for kind, meaning in kinds.items()
    ]
    images = [f"![{name}]({name}.png)" for name in ("error_taxonomy", "position_bias")]
    images += [f"![{name}](confusion_matrix_{name}.png)" for name in ("zero_shot", "3_shot", "fine_tuned")]
    return "\n".join(["## Mistakes and letters", "", head, *rows, "", "\n\n".join(images)])


def _limits(files: dict[str, Any]) -> str:
    evaluation = files[names.EVALUATION]
    return (
        "## How to read it\n\n"
        "- An answer is the most probable of the question's letters after one forward pass. "
        '"No letter" counts questions whose most probable token is none of them.\n'
        f"- The 3-shot examples are {', '.join(evaluation['exemplars'])}, drawn from the train split with seed "
        f"{evaluation['exemplar_seed']}; no prompt is cut.\n"
        "- Intervals: Wilson for rates, bootstrap over questions for differences and macro-F1. They cover the choice "
        "of questions, not another seed of training.\n"
        "- Specialties come from lists of words; a question can belong to another one.\n"
        "- An exam score says nothing about use with patients."
    )
