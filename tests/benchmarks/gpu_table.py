"""The table of what was measured on a GPU, beside floor and goal, as aligned text and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TRAIN_QUESTIONS, VALIDATION_QUESTIONS = 10_178, 1_272
"""MedQA's own: a whole trial is reckoned with them."""
EPOCHS, BATCH, EVAL_EVERY_STEPS, EVAL_QUESTIONS = 2, 16, 100, 300
ESTIMATE_MAY_BE_UNDER, ESTIMATE_MAY_BE_OVER = 0.05, 0.15
Results = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    shown: str
    floor: str = ""
    """What must be reached; "" where nothing was set."""
    goal: str = ""
    verdict: str = ""
    """"goal", "floor" or "BELOW"; "" where nothing was set."""
    note: str = ""


def rows_of(results: Results) -> list[Row]:
    """Return the lines for the parts that are there; a part that failed has one that says so."""
    parts = results["parts"]
    whole = {name: part for name, part in parts.items() if "error" not in part}
    rows: list[Row] = []
    for name, make in _MAKERS.items():
        if name in whole:
            rows += make(whole[name], whole)
    rows += _share_rows(whole)
    rows += [
        Row(what=name, shown="not measured", note=part["error"]) for name, part in parts.items() if "error" in part
    ]
    return rows


def evaluation_share(parts: Results) -> tuple[float, float] | None:
    """Return the shares of a whole trial's wall time of evaluation during training, and with the scoring at its end.

    By arithmetic; None where a part is missing. Two epochs of MedQA's 10,178 questions in steps of 16: the measured
    seconds of a step; after each 100 and at the end a sample scored, what is then left of saving, and all kept; at the
    end the other questions scored.
    """
    if not {"training", "scoring", "turnaround"} <= set(parts):
        return None
    scoring = parts["scoring"]
    steps = math.ceil(TRAIN_QUESTIONS * EPOCHS / BATCH)
    evaluations = math.ceil(steps / EVAL_EVERY_STEPS)
    gaps = parts["turnaround"]["after_an_evaluation_seconds"]["16"]
    scored = scoring["sample_seconds"] * EVAL_QUESTIONS / scoring["sample_questions"]
    sample = scored + sum(gaps) / len(gaps)
    final = (VALIDATION_QUESTIONS - EVAL_QUESTIONS) / scoring["adapter"]["questions_per_second"]
    during = evaluations * sample
    whole = during + final + steps * parts["training"]["whole"]["step_seconds"]
    return float(during / whole), float((during + final) / whole)


def _high(what: str, value: float, floor: float, goal: float, unit: str, note: str = "", digits: int = 0) -> Row:
    verdict = "goal" if value >= goal else "floor" if value >= floor else "BELOW"
    shown, least, best = (f"{number:,.{digits}f} {unit}" for number in (value, floor, goal))
    return Row(what=what, shown=shown, floor=least, goal=best, verdict=verdict, note=note)


def _low(what: str, value: float, floor: float, goal: float, form: str, note: str = "") -> Row:
    verdict = "goal" if value <= goal else "floor" if value <= floor else "BELOW"
    shown, most, best = (form.format(number) for number in (value, floor, goal))
    return Row(what=what, shown=shown, floor=most, goal=best, verdict=verdict, note=note)


def _training(part: Results, parts: Results) -> Iterator[Row]:
    goals = {
        "answer": (14_400, 18_700, "dropout 0, loss on the answer"),
        "whole": (12_100, 15_900, "dropout 0.05, loss on the whole text"),
    }
    for name, (floor, goal, words) in goals.items():
        yield _high(f"training, {words}", part[name]["tokens_per_second"], floor, goal, "tokens/s", _speed(part[name]))


def _study(part: Results, parts: Results) -> Iterator[Row]:
    times = ""
    if "training" in parts:
        ratio = parts["training"]["whole"]["tokens_per_second"] / part["tokens_per_second"]
        times = f"; ours is {ratio:.1f} times as fast"
    shown = f"{part['tokens_per_second']:,.0f} tokens/s"
    yield Row(what="training, the study's recipe", shown=shown, note=_speed(part) + times)


def _speed(row: Results) -> str:
    per_second = f"{row['sequences_per_second']:.1f} sequences/s of {row['mean_tokens']:.0f} tokens"
    return f"{per_second}, peak {row['peak_gib']:.1f} GiB"


def _losses(part: Results, parts: Results) -> Iterator[Row]:
    for name, words in (("plain", "ours against the plain path"), ("split", "micro-batch 2 x 8 against 16 x 1")):
        shown = f"{part[name]['largest']:.2e}"
        note = f"largest of {part['steps']} steps' relative differences; mean {part[name]['mean']:.1e}"
        yield Row(what=f"losses, {words}", shown=shown, note=note)


def _scoring(part: Results, parts: Results) -> Iterator[Row]:
    for name, words in (("base", "base alone"), ("adapter", "with an adapter")):
        row = part[name]
        note = f"{row['questions_per_second']:.1f} questions/s of {row['mean_tokens']:.0f} tokens"
        yield _high(f"scoring, {words}", row["tokens_per_second"], 31_800, 43_400, "tokens/s", note)


def _turnaround(part: Results, parts: Results) -> Iterator[Row]:
    for rank, gaps in part["between_trials_seconds"].items():
        note = f"last scoring to first step, the longest of {len(gaps)}"
        yield _low(f"from one trial to the next, rank {rank}", max(gaps), 5, 2, "{:.1f} s", note)


def _share_rows(parts: Results) -> list[Row]:
    shares = evaluation_share(parts)
    if shares is None:
        return []
    during, whole = shares
    note = f"reckoned from the parts: {EPOCHS} epochs, every {EVAL_EVERY_STEPS} steps {EVAL_QUESTIONS} questions; "
    note += f"with the other {VALIDATION_QUESTIONS - EVAL_QUESTIONS} scored at the end {whole:.1%}"
    return [_low("evaluation during training, share of a trial", during, 0.12, 0.08, "{:.1%}", note)]


def _memory(part: Results, parts: Results) -> Iterator[Row]:
    for card_gb, row in part["cards"].items():
        what = f"memory, estimate on a card of {card_gb} GB"
        if "error" in row:
            yield Row(what=what, shown="failed", verdict="BELOW", note=row["error"])
            continue
        plan, peak = row["plan"], row["peak_gib"]
        off = plan["estimated_gib"] / peak - 1 if peak else 0.0
        fits = -ESTIMATE_MAY_BE_UNDER <= off <= ESTIMATE_MAY_BE_OVER and not plan["halvings"]
        words = f"{plan['micro_batch_size']} x {plan['accumulation_steps']}"
        words += ", checkpointing" * plan["gradient_checkpointing"] + ", weights kept" * plan["keep_weights"]
        words += f", {plan['halvings']} times out of memory" * (plan["halvings"] > 0)
        words += f"; {row['tokens_per_second']:,.0f} tokens/s, peak {peak:.1f} GiB, held {row['reserved_gib']:.1f}"
        verdict = "goal" if fits else "BELOW"
        yield Row(what=what, shown=f"{off:+.0%}", floor="-5 to +15 %", verdict=verdict, note=words)


def _growth(part: Results, parts: Results) -> Iterator[Row]:
    note = f"{part['after_one_gib']:.3f} GiB after one trial, {part['after_all_gib']:.3f} after {part['trials']} more"
    yield _low("memory's growth over trials", part["growth"], 0.01, 0.01, "{:.2%}", note)
    note = f"largest of its losses; two in a row differ by {part['largest_difference_of_two_in_a_row']:.1e}"
    shown = f"{part['largest_difference_from_fresh']:.1e}"
    yield Row(what="a used worker against a fresh one", shown=shown, note=note)


def _gpus(part: Results, parts: Results) -> Iterator[Row]:
    gpus = part["gpus"]
    note = f"{part['many_trials_per_hour']:.0f} trials an hour against {part['one_trials_per_hour']:.0f}"
    yield _high(f"searches, {gpus} GPUs against one", part["times"], 0.9 * gpus, 0.975 * gpus, "times", note, digits=2)


_MAKERS = {
    "training": _training,
    "study": _study,
    "losses": _losses,
    "scoring": _scoring,
    "turnaround": _turnaround,
    "memory": _memory,
    "growth": _growth,
    "gpus": _gpus,
}


def text_table(results: Results) -> str:
    """Return the table in columns of equal width."""
    lines = [("", "measured", "floor", "goal", "", ""), *map(_cells, rows_of(results))]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[5]]).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (row.what, row.shown, row.floor, row.goal, row.verdict, row.note)


def markdown(results: Results) -> str:
    """Return the table for the README, with what it was measured on."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = ["| | measured | floor | goal | of that |", "|---|---|---|---|---|"]
    for row in rows_of(results):
        lines.append(f"| {row.what} | {row.shown} | {row.floor} | {row.goal} | {row.note} |")
    return f"On one {results['gpu']}, {results['date']} ({versions}):\n\n" + "\n".join(lines)
