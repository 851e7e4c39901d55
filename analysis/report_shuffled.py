"""The report's answer on whether training with shuffled options helped, and what that answer cannot say."""

from __future__ import annotations

from typing import Any

from analysis import study_files as names
from analysis.report_content import Answers, code
from analysis.report_inputs import POSITIONS, Files
from analysis.report_numbers import points, size
from medqa.estimates import TOO_FEW

_PAIR = "fine_tuned_minus_counterpart"
_SETTING = "shuffle_options"
_NONE_KEPT = (
    "That cannot be told: no adapter is kept of a trial that was trained the other way about them (`--keep-adapters` "
    "of the search keeps more)."
)


def shuffled_answer(files: Files) -> Answers:
    """Return in words how the model trained with shuffled options does against the one trained without."""
    evaluation, pair = files[names.EVALUATION], files[POSITIONS]["pairs"].get(_PAIR)
    with_them = bool(evaluation["identity"]["config"].get(_SETTING, False))
    told = f"The tuned model was trained with{'' if with_them else 'out'} shuffled options."
    if pair is None:
        return _answer(f"{told} {_NONE_KEPT}")
    other = f"Its counterpart, {code(evaluation['counterpart'])}, is the best other trial trained the other way."
    flips, accuracy = (_with_minus_without(one, with_them) for one in (pair["flips"]["difference"], pair["accuracy"]))
    return _answer(
        f"{told} {other} {_verdict(flips, accuracy)}: answer flips {points(flips)}, mean accuracy over all orders "
        f"{points(accuracy)}, {size(accuracy)}. {_confounded(files)}"
    )


def _answer(said: str) -> Answers:
    return Answers(pairs=(("Did training with shuffled options help?", said),))


def _with_minus_without(difference: dict[str, Any], with_them: bool) -> dict[str, Any]:
    """Return a difference as that of the model trained with shuffled options minus the one trained without."""
    if with_them:
        return difference
    turned = {"value": -difference["value"], "low": -difference["high"], "high": -difference["low"]}
    return {**difference, **turned}


def _verdict(flips: dict[str, Any], accuracy: dict[str, Any]) -> str:
    if accuracy["n"] < TOO_FEW:
        return "Which of the two does better cannot be told"
    better = flips["high"] < 0 or accuracy["low"] > 0
    worse = flips["low"] > 0 or accuracy["high"] < 0
    if better and worse:
        return "The one trained with them is better in one way and worse in the other"
    if better or worse:
        return f"The one trained with them does {'better' if better else 'worse'} than the one trained without"
    return "No difference between the one trained with them and the one trained without is shown"


def _confounded(files: Files) -> str:
    settings = _other_settings(files)
    if settings is None:
        return "The two may differ in other settings too: the difference cannot be laid to the shuffling alone."
    if not settings:
        return "The two differ in no other setting, but each was trained once: another seed can change the difference."
    listed = ", ".join(map(code, settings))
    return f"The two differ in {listed} too: the difference cannot be laid to the shuffling alone."


def _other_settings(files: Files) -> list[str] | None:
    """Return in which settings the winner and its counterpart differ beside the shuffling; None where not recorded."""
    trials = files[names.ALL_CONFIGS]["trials"]
    counterpart = files[names.EVALUATION]["counterpart"]
    ours: dict[str, str] | None = next((one["parameters"] for one in trials if one["winner"]), None)
    theirs: dict[str, str] | None = next((one["parameters"] for one in trials if one["name"] == counterpart), None)
    if not ours or not theirs:
        return None
    return [name for name in sorted({*ours, *theirs} - {_SETTING}) if ours.get(name) != theirs.get(name)]
