"""The record of an evaluation: one row per question, appended as it goes and read back after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from medqa.errors import RecordError
from medqa.prediction import Prediction

ITEM_ROWS = "items.jsonl"
VALIDATION_ROWS = "validation.jsonl"
ANY = Prediction("", "", "", {}, 0.0, 0.0, "")
"""Stands for whatever a model answers, in a row that says what is asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemRow:
    """What is known of one question; rows of the same id complete one another."""

    id: str
    topic: str
    gold: str
    models: dict[str, Prediction] = field(default_factory=dict)
    """Model's name to its answer; letter and probabilities stand in it."""
    texts: dict[str, str] = field(default_factory=dict)
    """Model's name to the text that it generated."""
    letters: dict[str, str | None] = field(default_factory=dict)
    """Model's name to the letter in that text; None where there is none."""
    orders: dict[str, list[Prediction]] = field(default_factory=dict)
    """Model's name to its answers over the cyclic orders of the options, in the letters that it saw."""
    wordings: dict[str, Prediction] = field(default_factory=dict)
    """Prompt wording's name to the tuned model's answer."""
    plan: str = ""
    """Digest of the plan of the evaluation that asked; "" in the rows of older versions."""

    def holds(self, wanted: ItemRow) -> bool:
        """Whether everything that `wanted` names is there; its values do not matter."""
        return all(want.keys() <= have.keys() for want, have in zip(wanted.parts(), self.parts(), strict=True))

    def parts(self) -> tuple[dict[str, Any], ...]:
        """Return all that the row knows beside the question itself."""
        return self.models, self.texts, self.letters, self.orders, self.wordings


def append_rows(path: Path, rows: Iterable[ItemRow]) -> None:
    """Append rows, one JSON object a line, and hand them to the disk before returning.

    A torn last line, left by a kill, is cut off first, so that the next row never runs into it.

    Raises:
        RecordError: when the file cannot be written.
    """
    lines = "".join(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows)
    try:
        with path.open("ab+") as file:
            _cut_torn_line(file)
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RecordError(f"{path}: cannot be written ({error.strerror})") from error


def write_rows(path: Path, rows: Iterable[ItemRow]) -> None:
    """Write a file of whole rows, one a question, in place of what is there; a reader sees the old one or the new.

    Raises:
        RecordError: when the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    append_rows(partial, rows)
    partial.replace(path)


def read_rows(path: Path, plan: str = "") -> dict[str, ItemRow]:
    """Return every question's row by id, in the order of their first lines; {} where there is no file yet.

    A last line without its end is what a kill left in the middle of a write: it is passed over, its question is not
    done. Lines of the same id are laid together, the later one winning.

    Raises:
        RecordError: when any other line is not a row, or rows of one id differ in topic or right letter.
    """
    try:
        whole = path.read_bytes().rpartition(b"\n")[0]
    except FileNotFoundError:
        return {}
    rows: dict[str, ItemRow] = {}
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        row = _parse(path, number, line)
        if plan and row.plan != plan:
            raise RecordError(f"{path}, line {number}: an answer of another evaluation: the file is from another run")
        rows[row.id] = _laid_together(path, number, rows[row.id], row) if row.id in rows else row
    return rows


def ids_left(rows: dict[str, ItemRow], ids: Iterable[str], wanted: ItemRow) -> list[str]:
    """Return, in order, the ids whose rows do not yet hold everything that `wanted` names."""
    return [name for name in ids if name not in rows or not rows[name].holds(wanted)]


def over_orders(rows: Sequence[ItemRow], name: str) -> list[list[Prediction]]:
    """Return a model's answers as `analysis.positions` takes them: by order, then by question."""
    longest = max(len(row.orders[name]) for row in rows)
    # a question with fewer options than others repeats its first orders
    return [[row.orders[name][shift % len(row.orders[name])] for row in rows] for shift in range(longest)]


def _cut_torn_line(file: BinaryIO) -> None:
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def _parse(path: Path, number: int, line: bytes) -> ItemRow:
    try:
        content = json.loads(line)
        return ItemRow(
            **{
                **content,
                "models": {name: Prediction(**item) for name, item in content["models"].items()},
                "orders": {name: [Prediction(**item) for item in items] for name, items in content["orders"].items()},
                "wordings": {name: Prediction(**item) for name, item in content["wordings"].items()},
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path}, line {number}: not a question's row ({error})") from error


def _laid_together(path: Path, number: int, earlier: ItemRow, later: ItemRow) -> ItemRow:
    if (earlier.topic, earlier.gold) != (later.topic, later.gold):
        raise RecordError(f"{path}, line {number}: question {later.id!r} has another topic or answer than before")
    return dataclasses.replace(
        later,
        models=earlier.models | later.models,
        texts=earlier.texts | later.texts,
        letters=earlier.letters | later.letters,
        orders=earlier.orders | later.orders,
        wordings=earlier.wordings | later.wordings,
    )
