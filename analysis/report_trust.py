"""The report's sections on what an answer is worth: its confidence, the place of the options, copied questions."""

from __future__ import annotations

from typing import Any

from analysis import study_files as names
from analysis.plot_style import p_text
from analysis.report_content import Block, Bullets, Paragraph, Picture, Section, Table
from analysis.report_inputs import CONFIDENCE, COVERAGE, LEAKS, POSITIONS, Files, models_in, results_of
from analysis.report_numbers import NOTHING, counted, label, number, p_cell, pair_label, points, rate, share, size
from analysis.report_shuffled import shuffled_answer
from medqa.estimates import TOO_FEW

_SHARES = (0.25, 0.5, 0.75, 1.0)


def calibration_section(files: Files) -> Section:
    """Return how far stated probabilities can be trusted, and accuracy when only sure answers are given."""
    calibration = files[names.CALIBRATION]
    blocks: list[Block] = [
        Paragraph(
            text="The expected calibration error (ECE) is by how much confidence and accuracy are apart, 0 at best; "
            "Brier score (0 to 2) and NLL (nats) are better the smaller. A temperature fitted on validation changes "
            "confidences and no answer."
        )
    ]
    confidence = files.get(CONFIDENCE, {}).get("models", {})
    blocks.append(_measures(calibration, confidence))
    blocks.append(Picture(file="calibration_curve.png", alt=_calibration_alt(calibration)))
    for model in models_in(confidence):
        blocks.append(Picture(file=f"reliability_{model}.png", alt=_reliability_alt(model, confidence[model])))
    if COVERAGE in files:
        curves = files[COVERAGE]
        alt = f"Accuracy among the surest answers against the share answered, from {TOO_FEW} answers on; see the table."
        blocks += [_coverage(curves), Picture(file="coverage.png", alt=alt)]
    return Section(title="Calibration", blocks=tuple(blocks))


_MEASURES = ("ece", "ece_equal_mass", "brier", "letter_nll", "mean_confidence")
_MEASURE_HEAD = ("ECE, equal width", "ECE, equal mass", "Brier", "NLL of the letters", "mean confidence", "accuracy")


def _measures(calibration: dict[str, Any], confidence: dict[str, Any]) -> Table:
    rows = []
    for model in models_in(calibration):
        stated = calibration[model]
        rows.append((f"{label(model)}, as stated", *_cells(stated["estimates"], stated["accuracy"])))
        if model in confidence:
            content = confidence[model]
            cells = _cells(content["after_estimates"], content["after"]["accuracy"])
            rows.append((f"{label(model)}, {_at_temperature(content['temperature']['interval'])}", *cells))
    fitted = {size(content["temperature"]["interval"]) for content in confidence.values()}
    caption = f"Calibration on the test split (95 % interval, {size(calibration['fine_tuned']['accuracy'])})"
    return Table(
        caption=caption + "".join(f", and at the temperature fitted on validation ({n})" for n in fitted),
        head=("model", *_MEASURE_HEAD),
        rows=tuple(rows),
    )


def _cells(estimates: dict[str, Any], accuracy: dict[str, Any]) -> tuple[str, ...]:
    return (*(number(estimates[key]) for key in _MEASURES[:-1]), rate(estimates["mean_confidence"]), rate(accuracy))


def _at_temperature(heat: dict[str, Any]) -> str:
    return f"at temperature {heat['value']:.2f} ({heat['low']:.2f} to {heat['high']:.2f})"


def _calibration_alt(calibration: dict[str, Any]) -> str:
    parts = "; ".join(
        f"{label(model)}: mean confidence {rate(calibration[model]['estimates']['mean_confidence'])} at accuracy "
        f"{rate(calibration[model]['accuracy'])}"
        for model in models_in(calibration)
    )
    n = size(calibration["fine_tuned"]["accuracy"])
    return f"Accuracy against confidence in bins, and how many answers each bin holds, {n}. {parts}."


def _reliability_alt(model: str, content: dict[str, Any]) -> str:
    before, after = (content[f"{when}_estimates"]["ece"] for when in ("before", "after"))
    return (
        f"Reliability diagram, {label(model)}: ECE {number(before)} as stated, {number(after)} at the fitted "
        f"temperature, {size(after)}."
    )


def _coverage(curves: dict[str, Any]) -> Table:
    rows = tuple(
        (
            label(model),
            *(_at(curves[model]["points"], asked) for asked in _SHARES),
            counted(number(curves[model]["risk_area"]), curves[model]["risk_area"]),
        )
        for model in models_in(curves)
    )
    return Table(
        caption="Answering only when sure: accuracy among the surest part of the answers (95 % interval)",
        head=("model", *(f"surest {100 * asked:.0f} %" for asked in _SHARES), "area under risk"),
        rows=rows,
    )


def _at(points_of_curve: list[dict[str, Any]], asked: float) -> str:
    nearest = min(points_of_curve, key=lambda point: abs(float(point["coverage"]) - asked))
    return counted(rate(nearest["accuracy"]), nearest["accuracy"])


_LETTER_TESTS = (
    "Against equal letters: Pearson's chi-squared test of the counts. Against the right answers: the Stuart-Maxwell "
    "test, which pairs the letter that is predicted for a question with the one that is right. Every question has a "
    "most probable letter, so none is left out of it."
)


def positions_section(files: Files) -> Section:
    """Return whether letters are preferred, and what moving the options changes."""
    results = results_of(files)
    balances = {model: content["letter_balance"] for model, content in results.items()}
    letters = list(balances["fine_tuned"]["gold"])
    rows = (
        ("right answers", *(f"{balances['fine_tuned']['gold'][letter]:,}" for letter in letters), NOTHING, NOTHING),
        *((label(model), *_letter_cells(balance, letters)) for model, balance in balances.items()),
    )
    head = ("letters of", *letters, "p against equal letters", "p against the right answers")
    caption = (
        f"How often each letter is right and predicted (n = {sum(balances['fine_tuned']['gold'].values()):,} each)"
    )
    table = Table(caption=caption, head=head, rows=rows)
    alt = "Share of each letter among the right answers and among each model's, with intervals; see the table."
    blocks: list[Block] = [table, Paragraph(text=_LETTER_TESTS), Picture(file="position_bias.png", alt=alt)]
    if POSITIONS in files:
        blocks += [*_moved(files[POSITIONS]), shuffled_answer(files)]
    return Section(title="Position of the options", blocks=tuple(blocks))


def _letter_cells(balance: dict[str, Any], letters: list[str]) -> tuple[str, ...]:
    counts = (f"{balance['predicted'][letter]:,}" for letter in letters)
    return (*counts, *(p_cell(balance[key]["p_value"]) for key in ("against_uniform", "against_gold")))


def _p_of(test: dict[str, Any] | None) -> str:
    return p_cell(None if test is None else test["p_value"])


def _moved(content: dict[str, Any]) -> list[Block]:
    models = content["models"]
    keys = ("accuracy", "mean_vote", "majority_vote", "flip_rate")
    rows = tuple(
        (
            label(model),
            *(rate(models[model][key]) for key in keys),
            points(models[model]["mean_vote_minus_first_order"]["difference"]),
            _p_of(models[model]["position_test"]),
        )
        for model in models_in(models)
    )
    head = ("model", "as asked", "mean vote", "majority vote", "answer flips", "vote minus as asked", "Cochran's Q p")
    n = size(models["fine_tuned"]["accuracy"])
    caption = f"The same questions in all cyclic orders of their options (95 % interval, {n})"
    table = Table(caption=caption, head=head, rows=rows)
    parts = "; ".join(
        f"{label(model)} " + ", ".join(f"{letter} {counted(rate(one), one)}" for letter, one in by_letter.items())
        for model, by_letter in ((model, models[model]["by_gold_position"]) for model in models_in(models))
    )
    picture = Picture(file="gold_positions.png", alt=f"Accuracy by the place of the right option: {parts}.")
    lines = [
        f"{pair_label(name)}: flips {points(pair['flips']['difference'])}, p {p_text(pair['flips']['p_value'])}; mean "
        f"accuracy over all orders {points(pair['accuracy'])}, {size(pair['accuracy'])}"
        for name, pair in content["pairs"].items()
    ]
    return [table, picture, *([Bullets(lines=tuple(lines))] if lines else [])]


def leaks_section(files: Files) -> Section | None:
    """Return near-duplicates of train questions and what they change; None where they were not looked for."""
    if LEAKS not in files:
        return None
    content = files[LEAKS]
    text = (
        f"A question counts as a near-duplicate when {share(content['share'])} or more of its runs of "
        f"{content['run_words']} words stand in one train question; an exact copy has all of them there."
    )
    blocks: list[Block] = [Paragraph(text=text)]
    blocks += _leaks("test", content["near_duplicates"], content["accuracy"])
    if "validation_near_duplicates" in content:
        effects = content.get("validation_accuracy", {})  # older files have none
        blocks += _leaks("validation", content["validation_near_duplicates"], effects)
    return Section(title="Leaks from the train split", blocks=tuple(blocks))


_EFFECTS = ("with_them", "without_them", "on_them")


def _leaks(split: str, found: list[dict[str, Any]], effects: dict[str, Any]) -> list[Block]:
    count = "There is 1" if len(found) == 1 else f"There are {len(found):,}"
    chosen = ", on which the search chose" if split == "validation" else ""
    blocks: list[Block] = [Paragraph(text=f"{count} among the {split} questions{chosen}.")]
    if effects:
        rows = tuple(
            (label(model), *(counted(rate(one), one) for one in (effects[model][key] for key in _EFFECTS)))
            for model in models_in(effects)
        )
        head = ("model", "all questions", "without near-duplicates", "on near-duplicates")
        caption = f"Accuracy on the {split} questions with and without them (95 % interval)"
        blocks.append(Table(caption=caption, head=head, rows=rows))
    if found:
        rows = tuple(
            (one["id"], one["train_id"], share(one["share"]), "yes" if one["same_answer"] else "no") for one in found
        )
        listed = ("question", "train question", "shared runs", "same answer")
        blocks.append(Table(caption=f"The near-duplicates among the {split} questions", head=listed, rows=rows))
    return blocks
