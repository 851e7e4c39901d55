"""The report's sections on how many answers are right: by model, specialty, letter, wording, scorer and set."""

from __future__ import annotations

from typing import Any

from analysis import study_files as names
from analysis.evaluation import BEST_PRESET
from analysis.report_content import Block, Paragraph, Picture, Section, Table, code
from analysis.report_inputs import ALSO, COMPARISONS, SCORERS, Files, models_in, results_of
from analysis.report_numbers import NOTHING, counted, label, number, of_all, p_cell, pair_label, points, rate
from medqa.estimates import TOO_FEW

_HOLM = (
    "Holm-corrected p-values take the number of comparisons in their table into account: counting those below 0.05 as "
    "found keeps the chance of any false find there below 5 %."
)


def models_section(files: Files) -> Section:
    """Return all models on the same questions, and their differences."""
    n = files[names.EVALUATION]["n"]
    summary = files[names.SUMMARY]
    blocks: list[Block] = [_accuracies(summary, f"On the same {n:,} test questions (95 % interval)")]
    if COMPARISONS in files:
        family = files[COMPARISONS]["pairs"]
        blocks += [_differences(family), Paragraph(text=_HOLM), _differences_picture(family)]
    else:
        blocks.append(_uncorrected(files[names.STATISTICS]))
    return Section(title="The models on the same questions", blocks=tuple(blocks))


def _accuracies(summary: dict[str, Any], caption: str) -> Table:
    rows = tuple(
        (
            label(model),
            rate(row["accuracy_interval"]),
            number(row["macro_f1_interval"]),
            of_all(row["extraction_failures"], row["accuracy_interval"]["n"]),
            number(row.get("outside_letters")),
            number(row.get("answer_nll_interval")),
            f"{row['accuracy_interval']['n']:,}",
        )
        for model, row in ((model, summary[model]) for model in models_in(summary))
    )
    return Table(
        caption=caption,
        head=("model", "accuracy", "macro-F1", "no letter", "outside the letters", "answer NLL, nats", "n"),
        rows=rows,
    )


_PAIR_HEAD = ("difference", "accuracy", "only first right", "only second right", "n", "McNemar p")


def _pair_cells(pair: dict[str, Any]) -> tuple[str, ...]:
    difference = pair["difference"]
    counts = (f"{pair[side]:,}" for side in ("only_first_right", "only_second_right"))
    return (points(difference), *counts, f"{difference['n']:,}", p_cell(pair["p_value"]))


def _differences(family: dict[str, Any], caption: str = "Differences on the same questions") -> Table:
    rows = tuple((pair_label(name), *_pair_cells(one["pair"]), p_cell(one["holm_p"])) for name, one in family.items())
    return Table(
        caption=f"{caption} (paired bootstrap interval, exact McNemar test)",
        head=(*_PAIR_HEAD, "Holm-corrected p"),
        rows=rows,
    )


def _differences_picture(family: dict[str, Any]) -> Picture:
    parts = "; ".join(
        f"{pair_label(name)} {counted(points(difference), difference)}"
        for name, difference in ((name, one["pair"]["difference"]) for name, one in family.items())
    )
    return Picture(
        file="differences.png", alt=f"Differences between models with their intervals, beside a line at 0: {parts}."
    )


def _uncorrected(statistics: dict[str, Any]) -> Table:
    rows = tuple((pair_label(pair), *_pair_cells(statistics[pair])) for pair in statistics if "_minus_" in pair)
    return Table(
        caption="Differences on the same questions (paired bootstrap interval, exact McNemar test, not corrected)",
        head=_PAIR_HEAD,
        rows=rows,
    )


def topics_section(files: Files) -> Section:
    """Return the accuracy of every model by specialty, and where the tuned one differs from the base."""
    # a column more would not fit the page: the best preset is another tuned model
    results = {model: content for model, content in results_of(files).items() if model != BEST_PRESET}
    topics = {model: content["per_topic_accuracy"] for model, content in results.items()}
    gains = files.get(COMPARISONS, {}).get("by_topic", {}).get("fine_tuned_minus_zero_shot", {})
    rows = tuple(
        (
            topic,
            f"{tuned['n']:,}",
            *(rate({**topics[model][topic], "value": topics[model][topic]["accuracy"]}) for model in topics),
            *_gain_cells(gains, topic),
        )
        for topic, tuned in topics["fine_tuned"].items()
    )
    head = ("specialty", "n", *map(label, topics)) + (("tuned minus zero-shot", "Holm-corrected p") if gains else ())
    table = Table(caption=f"Test accuracy by specialty (below n = {TOO_FEW}: too few)", head=head, rows=rows)
    alt = "Accuracy by specialty for the base and the tuned model, with intervals; the numbers stand in the table."
    return Section(title="By specialty", blocks=(table, Picture(file="per_topic_accuracy.png", alt=alt)))


def _gain_cells(gains: dict[str, Any], topic: str) -> tuple[str, ...]:
    if not gains:
        return ()
    if topic not in gains:
        return NOTHING, NOTHING
    return points(gains[topic]["pair"]["difference"]), p_cell(gains[topic]["holm_p"])


def confusion_section(files: Files) -> Section:
    """Return which letters are taken for which, and precision, recall and F1 of each."""
    results = results_of(files)
    rows = tuple(
        (
            label(model),
            letter,
            *(counted(rate(scores[key]), scores[key]) for key in ("precision", "recall")),
            counted(number(scores["f1"]), scores["f1"]),
        )
        for model, content in results.items()
        for letter, scores in content["class_scores"].items()
    )
    table = Table(
        caption="Each letter as a class (95 % interval)",
        head=("model", "letter", "precision", "recall", "F1"),
        rows=rows,
    )
    pictures = [
        Picture(file=f"confusion_matrix_{word}.png", alt=_confusion_alt(model, results[model]))
        for model, word in {"zero_shot": "zero_shot", "few_shot": "3_shot", "fine_tuned": "fine_tuned"}.items()
    ]
    return Section(title="Confusion of letters", blocks=(table, *pictures))


def _confusion_alt(model: str, results: dict[str, Any]) -> str:
    rows = "; ".join(
        f"{letter}: " + ", ".join(map(str, counts))
        for letter, counts in zip(results["letters"], results["confusion_matrix"], strict=True)
    )
    return (
        f"Confusion matrix, {label(model)}. Counts by right letter, each with the predicted letters in order: {rows}."
    )


def wordings_section(files: Files) -> Section:
    """Return the tuned model under other wordings of the prompt."""
    trained = files[names.EVALUATION]["training_wording"]
    content = files[names.WORDINGS]
    rows = tuple(
        (
            f"{name} (trained on)" if name == trained else name,
            rate(one["accuracy_interval"]),
            of_all(one["extraction_failures"], one["accuracy_interval"]["n"]),
            ", ".join(f"{letter} {count:,}" for letter, count in one["pred_distribution"].items()),
            rate(one["agreement"]) if "agreement" in one else NOTHING,
        )
        for name, one in content.items()
    )
    head = ("wording", "accuracy", "no letter", "letters predicted", "same letter as the trained wording")
    shown = head if any("agreement" in one for one in content.values()) else head[:-1]
    n = files[names.EVALUATION]["n"]
    table = Table(
        caption=f"The tuned model under each wording of the prompt (n = {n:,})",
        head=shown,
        rows=tuple(row[: len(shown)] for row in rows),
    )
    parts = "; ".join(f"{name} {rate(one['accuracy_interval'])}" for name, one in content.items())
    picture = Picture(
        file="prompt_template_comparison.png", alt=f"Accuracy under each wording, with intervals, n = {n:,}: {parts}."
    )
    family = files.get(COMPARISONS, {}).get("wordings", {})
    differences = (_differences(family, "Each other wording against the trained one"),) if family else ()
    return Section(title="Wordings of the prompt", blocks=(table, picture, *differences))


def scorers_section(files: Files) -> Section | None:
    """Return letter probabilities against generated text; None where no text was generated."""
    if SCORERS not in files:
        return None
    content = files[SCORERS]
    rows = tuple(
        (
            label(model),
            *(rate(content[model][key]) for key in ("by_probability", "by_text", "text_failures")),
            counted(rate(content[model]["disagreement"]), content[model]["disagreement"]),
            p_cell(content[model]["p_value"]),
            f"{content[model]['by_text']['n']:,}",
        )
        for model in models_in(content)
    )
    table = Table(
        caption="Accuracy by the most probable letter and by the letter in a generated text",
        head=("model", "by probability", "by text", "no letter in the text", "letters differ", "McNemar p", "n"),
        rows=rows,
    )
    text = "A text in which no letter is found counts as wrong; letters are compared where the text has one."
    return Section(title="The two scorers", blocks=(table, Paragraph(text=text)))


def other_sets_section(files: Files) -> Section | None:
    """Return the same models on further sets of questions; None where there are none."""
    if ALSO not in files:
        return None
    blocks: list[Block] = []
    for name, of_set in files[ALSO].items():
        blocks.append(_accuracies(of_set[names.SUMMARY], f"{code(name)} (95 % interval)"))
        if COMPARISONS in of_set:
            blocks.append(_differences(of_set[COMPARISONS]["pairs"]))
        elif names.STATISTICS in of_set:
            blocks.append(_uncorrected(of_set[names.STATISTICS]))
    return Section(title="Other sets of questions", blocks=tuple(blocks))
