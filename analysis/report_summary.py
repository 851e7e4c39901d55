"""What comes first in the report: did tuning help, by how much, how sure is that, and was the search worth it."""

from __future__ import annotations

from typing import Any

from analysis import study_files as names
from analysis.chosen import CONFIRMATION_HEAD, choice_lines, confirmation_caption, confirmation_rows
from analysis.plot_style import p_text
from analysis.report_content import Answers, Block, Bullets, Paragraph, Section, Table, code
from analysis.report_inputs import COMPARISONS, Files
from analysis.report_numbers import counted, p_cell, points, rate
from medqa.choice_text import format_value
from medqa.estimates import TOO_FEW
from medqa.presets import PRESETS
from medqa.selection import BEST_MEANS, CONFIRMED_MEANS

_CONFIRMED_LIMITS = (
    "The drop is by how much the mean over new seeds is worse than the value in the search, which was picked for being "
    "good. The intervals cover the choice of questions, not that of seeds: the standard deviation shows those."
)
_UNCONFIRMED_LIMITS = (
    "Each trial was trained once: another seed can change the order, and the best of many leans high. "
    "`tune/search.py --confirm 3` trains the best three again with new seeds."
)
_PAIR = "fine_tuned_minus_best_preset"
_PRESET = "the best preset"


def summary_section(files: Files) -> Section:
    """Return the summary in plain words."""
    pairs = [
        ("Did tuning help?", _helped(files)),
        ("By how much?", _by_how_much(files)),
        ("How sure is that?", _how_sure(files)),
        ("Is it worth it over three examples in the prompt?", _over_few_shot(files)),
    ]
    if files[names.EVALUATION].get("choice"):
        pairs.append(("Is it worth it over the best preset?", _over_best_preset(files)))
    last = Paragraph(
        text="In brackets stand 95 % intervals. These are answers to exam questions: not for clinical use."
    )
    return Section(title="Summary", blocks=(Answers(pairs=tuple(pairs)), last))


def _gain(files: Files, pair: str) -> Any:
    return files[names.STATISTICS][pair]


def _verdict(difference: dict[str, Any], yes: str, no: str, unknown: str) -> str:
    if difference["n"] < TOO_FEW:
        return unknown
    if difference["low"] > 0:
        return yes
    return no if difference["high"] < 0 else unknown


def _helped(files: Files) -> str:
    difference = _gain(files, "fine_tuned_minus_zero_shot")["difference"]
    verdict = _verdict(
        difference,
        "Tuning helped.",
        "Tuning hurt.",
        "Whether tuning helped cannot be told: the interval of the difference includes 0.",
    )
    tuned, base = (files[names.SUMMARY][model]["accuracy_interval"] for model in ("fine_tuned", "zero_shot"))
    n = difference["n"]
    if n < TOO_FEW:
        right = [round(one["value"] * n) for one in (tuned, base)]
        return f"{n} questions are too few to tell: the tuned model has {right[0]} right, the untuned base {right[1]}."
    return (
        f"{verdict} The tuned model answers {rate(tuned)} of {n:,} test questions rightly, the untuned "
        f"base {rate(base)}."
    )


def _by_how_much(files: Files) -> str:
    gain = _gain(files, "fine_tuned_minus_zero_shot")
    difference = gain["difference"]
    return (
        f"{counted(points(difference), difference)}: {gain['only_first_right']:,} questions that the base had wrong "
        f"are right now, {gain['only_second_right']:,} that it had right are wrong."
    )


def _how_sure(files: Files) -> str:
    times = files[names.EVALUATION]["test_reads"]
    reads = (
        "The test split was read once for this search, after every choice was made."
        if times == 1
        else f"The test split has been read {times} times for this search: choices made after a look at it lean high."
    )
    return (
        f"{_tested(files, 'fine_tuned_minus_zero_shot')} {reads} The interval covers the choice of questions, not "
        "another seed of training."
    )


def _tested(files: Files, pair: str) -> str:
    gain = _gain(files, pair)
    p_value, name = gain["p_value"], "exact McNemar test"
    corrected = files.get(COMPARISONS, {}).get("pairs", {}).get(pair)
    if corrected and corrected["holm_p"] is not None:
        p_value, name = corrected["holm_p"], "exact McNemar test, Holm-corrected"
    return f"p {p_text(p_value)} ({name}, n = {gain['difference']['n']:,})."


def _over_few_shot(files: Files) -> str:
    difference = _gain(files, "fine_tuned_minus_few_shot")["difference"]
    return (
        _verdict(difference, "Yes", "No, the examples do better", "That cannot be told")
        + f": {counted(points(difference), difference)}, against the untuned base with three solved examples in its "
        "prompt."
    )


def _over_best_preset(files: Files) -> str:
    """Return the answer on the test split, which had no part in the choice of either; else that on validation."""
    on_test, choice = _on_test(files), files[names.EVALUATION]["choice"]
    if not on_test:
        return worth_it(choice)
    verdict = _verdict(_gain(files, _PAIR)["difference"], "Yes", "No, the preset does better", "Not shown")
    if any(_PRESET in one["over"] and one["over_new_seeds"] for one in choice["margins"]):
        return f"{verdict}: {on_test} {worth_it(choice)}"
    return f"{verdict}: {on_test} One training of each: other seeds would give another difference."


def _on_test(files: Files) -> str:
    if _PAIR not in files.get(names.STATISTICS, {}):  # the report on a search has none
        return ""
    difference, preset = _gain(files, _PAIR)["difference"], code(files[names.EVALUATION]["best_preset"])
    return (
        f"{points(difference)} on the test split over {preset}, the best preset on validation; {_tested(files, _PAIR)}"
    )


def worth_it(choice: dict[str, Any]) -> str:
    """Return in words whether the best trial is better than the best preset on validation, and how sure that is."""
    margin = next((one for one in choice["margins"] if _PRESET in one["over"]), None)
    if margin is None:
        if choice["trial"] in PRESETS and choice["means"] in (BEST_MEANS, CONFIRMED_MEANS):
            return f"The best trial, {code(choice['trial'])}, is itself a preset: nothing else was better."
        return "That is not known: there is no completed preset to compare it with, or it was not chosen as the best."
    interval, preset = margin["interval"], code(margin["name"])
    shown = f"{format_value(margin['value'], choice['metric'])} {_unit(choice)} better than {preset}"
    if interval is None:
        return f"On validation it is {shown}; there is no interval, as validation answers are not kept."
    scale, digits = (100, 1) if choice["metric"] == "accuracy" else (1, 3)
    low, high = (f"{scale * interval[end]:+.{digits}f}" for end in ("low", "high"))
    verdict = _verdict(interval, "Yes, on validation", "No", "Not shown")
    basis = (
        "Both are means over new seeds."
        if margin["over_new_seeds"]
        else "Each was trained once, and the winner is known for being the best of many, so part of it may be luck."
    )
    return f"{verdict}: it is {shown} (paired interval {low} to {high}, n = {interval['n']:,}). {basis}"


def _unit(choice: dict[str, Any]) -> str:
    return "points" if choice["metric"] == "accuracy" else "nats"


def choice_section(files: Files) -> Section | None:
    """Return how the winner stands against the runner-up and the best preset; None for an older evaluation."""
    choice = files[names.EVALUATION].get("choice")
    if choice is None:
        return None
    lines = tuple(choice_lines(choice)) or ("There is no other trial to compare it with.",)
    on_test = _on_test(files)
    blocks: list[Block] = [Paragraph(text=on_test)] if on_test else []
    blocks += [Paragraph(text=f"{code(choice['trial'])} on validation:"), Bullets(lines=lines)]
    if choice["confirmed"]:
        blocks.append(_confirmed(choice))
    compared = files[names.ALL_CONFIGS].get("comparisons", {})
    if compared.get("pairs"):
        blocks.append(_against_all(compared))
    if compared.get("left_out"):
        left_out = ", ".join(map(code, compared["left_out"]))
        blocks.append(
            Paragraph(text=f"Not compared, as their answers to the same questions are not there: {left_out}.")
        )
    blocks.append(Paragraph(text=_CONFIRMED_LIMITS if choice["confirmed"] else _UNCONFIRMED_LIMITS))
    return Section(title="Over the best preset", blocks=tuple(blocks))


def _against_all(compared: dict[str, Any]) -> Table:
    rows = tuple(
        (
            name,
            points(one["pair"]["difference"]),
            f"{one['pair']['difference']['n']:,}",
            p_cell(one["pair"]["p_value"]),
            p_cell(one["holm_p"]),
        )
        for name, one in compared["pairs"].items()
    )
    head = ("over the trial", "accuracy", "n", "McNemar p", "Holm-corrected p")
    caption = f"{code(compared['first'])} minus each other training, on the validation questions"
    return Table(caption=caption, head=head, rows=rows)


def _confirmed(choice: dict[str, Any]) -> Table:
    caption = f"The configurations trained again: {confirmation_caption(choice)}"
    return Table(caption=caption, head=CONFIRMATION_HEAD, rows=confirmation_rows(choice))
