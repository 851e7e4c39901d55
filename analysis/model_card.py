"""The card of an adapter or a merged model: what it is, what it was made from, its numbers, and what it is not for."""

from __future__ import annotations

import json
from typing import Any

from analysis import study_files as names
from analysis.report_content import NOT_FOR_CLINICAL_USE, Bullets, Paragraph, Report, Section, Table, code
from analysis.report_inputs import Files, models_in
from analysis.report_markdown import to_markdown
from analysis.report_numbers import counted, label, number, pair_label, points, rate
from medqa.config import DEMO
from medqa.prompt import render_prompt
from medqa.questions import Question


def write_card(files: Files, merged: Section | None = None) -> str:
    """Return the card as Markdown, with the head that the Hub reads.

    Args:
        files: Of a final evaluation; without its tables the card has the validation number alone.
        merged: How a merged model differs from the 4-bit base with the adapter; None for the adapter itself.
    """
    evaluation = files[names.EVALUATION]
    warning = Section(title="Not for clinical use", blocks=(Paragraph(text=NOT_FOR_CLINICAL_USE),))
    more = (merged,) if merged else ()
    sections = (warning, *more, _made_from(evaluation), _recipe(evaluation), _numbers(files), _limits(evaluation))
    name = evaluation["winner"]["name"]
    title = f"{name}, merged into its base" if merged else f"LoRA adapter {name}"
    return _head(evaluation, is_merged=merged is not None) + to_markdown(Report(title=title, sections=sections))


def _head(evaluation: dict[str, Any], is_merged: bool) -> str:
    # a JSON string is a YAML string too
    base = json.dumps(evaluation["identity"]["task"]["model"])
    lines = (
        f"base_model: {base}",
        f"library_name: {'transformers' if is_merged else 'peft'}",
        "pipeline_tag: text-generation",
        "language: en",
        "tags: [lora, qlora, medqa, not-for-clinical-use]",
    )
    return "\n".join(("---", *lines, "---", "", ""))


def _made_from(evaluation: dict[str, Any]) -> Section:
    identity = evaluation["identity"]
    task = identity["task"]
    demo = (
        ("The base and the questions are the project's small demo: these numbers say nothing about a real model.",)
        if DEMO in (task["model"], task["data"])
        else ()
    )
    alone = "" if _extra(identity) else " alone"
    lines = (
        f"Base model: {code(task['model'])}{_revision(task['model_revision'])}, loaded in 4 bits (NF4, double "
        f"quantisation); fingerprint {code(identity['base_fingerprint'])}.",
        f"Questions: {code(task['data'])}{_revision(task['data_revision'])}, trained on the train split{alone}; "
        f"fingerprint of train and validation {code(identity['data_fingerprint'])}.",
        *_extra(identity),
        f"Wording of the prompt: {code(evaluation['training_wording'])}, fingerprint "
        f"{code(identity['prompt_fingerprint'])}. The user's message in the chat template is "
        f"{code(repr(render_prompt(_SHOWN)))}, and an answer is the most probable of the option letters.",
        *demo,
    )
    return Section(title="Base and data", blocks=(Bullets(lines=lines),))


def _extra(identity: dict[str, Any]) -> tuple[str, ...]:
    share = identity["config"].get("extra_share", 0.0)
    if not share:
        return ()
    task = identity["task"]
    return (
        f"For each of them, {share:g} of {code(task['extra'])}{_revision(task['extra_revision'])} beside it, without "
        f"near-duplicates of validation and test questions; fingerprint {code(identity['extra_fingerprint'])}.",
    )


_SHOWN = Question("shown", "QUESTION", {"A": "FIRST", "B": "SECOND"}, "A")


def _revision(revision: str | None) -> str:
    return f", revision {code(revision)}" if revision else ""


def _recipe(evaluation: dict[str, Any]) -> Section:
    identity = evaluation["identity"]
    rows = tuple((name, str(value)) for name, value in identity["config"].items())
    versions = ", ".join(f"{name} {version}" for name, version in identity["versions"].items())
    text = (
        f"Trial {code(evaluation['winner']['name'])} of the search {code(evaluation['search'])}, trained with "
        f"{versions}. It was chosen on validation: {evaluation['best_means']}."
    )
    table = Table(caption="Settings of the training", head=("setting", "value"), rows=rows)
    return Section(title="Recipe", blocks=(Paragraph(text=text), table))


def _numbers(files: Files) -> Section:
    validation = files[names.EVALUATION]["validation_accuracy"]
    chosen = Paragraph(
        text=f"On validation, where it was chosen: {rate(validation)} right (n = {validation['n']:,}); that leans high."
    )
    if names.SUMMARY not in files:
        return Section(title="Numbers", blocks=(chosen, Paragraph(text="It was not evaluated on the test split.")))
    return Section(title="Numbers", blocks=(*_on_test(files), chosen))


def _on_test(files: Files) -> tuple[Table, Bullets]:
    summary = files[names.SUMMARY]
    rows = tuple(
        (
            label(model),
            rate(summary[model]["accuracy_interval"]),
            number(summary[model]["macro_f1_interval"]),
            number(summary[model].get("ece_interval")),  # an older evaluation has none
            f"{summary[model]['accuracy_interval']['n']:,}",
        )
        for model in models_in(summary)
    )
    table = Table(
        caption="On the test split (95 % interval)", head=("model", "accuracy", "macro-F1", "ECE", "n"), rows=rows
    )
    gains = {pair: files[names.STATISTICS][pair]["difference"] for pair in _PAIRS if pair in files[names.STATISTICS]}
    lines = tuple(f"{pair_label(pair)}: {counted(points(gain), gain)}" for pair, gain in gains.items())
    return table, Bullets(lines=lines)


_PAIRS = ("fine_tuned_minus_zero_shot", "fine_tuned_minus_few_shot", "fine_tuned_minus_best_preset")


def _limits(evaluation: dict[str, Any]) -> Section:
    reads = evaluation["test_reads"]
    lines = (
        "The intervals cover the choice of questions, not another seed of training.",
        f"The test split has been read {'once' if reads == 1 else f'{reads} times'} for this search.",
        "Exam questions in English with a few options each: it was not measured on free text, on other languages, on "
        "real records or on people.",
        "Its probabilities are not safe to act on; the report beside the evaluation shows how far they can be trusted.",
        "What the base model was trained on before is not known here: questions of a public exam may be among it.",
    )
    return Section(title="Limits", blocks=(Bullets(lines=lines),))
