"""The medical facts that the demo is made of, and which of their phrases are never offered against each other."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

Kind = Literal["diagnosis", "cause", "test", "treatment"]
"""What a question asks for."""

KINDS: Final[tuple[Kind, ...]] = ("diagnosis", "cause", "test", "treatment")
FACTS_FILE: Final[Path] = Path(__file__).parent / "facts.csv"
OVERLAPS_FILE: Final[Path] = Path(__file__).parent / "overlaps.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One medical condition and what standard textbooks say of it."""

    diagnosis: str
    """Its name."""
    findings: tuple[str, ...]
    """Four findings, each a phrase that can stand in a list."""
    cause: str
    """The cause or mechanism."""
    test: str
    """The test that settles it, or the best first one."""
    treatment: str
    """The treatment of choice."""
    in_demo: bool
    """True: the demo asks about it. False: only pre-training does."""

    def answer(self, kind: Kind) -> str:
        """Return the phrase that answers a question of this kind."""
        match kind:
            case "diagnosis":
                return self.diagnosis
            case "cause":
                return self.cause
            case "test":
                return self.test
            case "treatment":
                return self.treatment

    def phrases(self) -> tuple[str, ...]:
        """Return every phrase of the condition, its name first."""
        return (self.diagnosis, *self.findings, self.cause, self.test, self.treatment)


@cache
def load_conditions() -> tuple[Condition, ...]:
    """Read the 132 conditions in the order of the file."""
    with FACTS_FILE.open(encoding="utf-8", newline="") as file:
        return tuple(_condition(row) for row in csv.DictReader(file))


def _condition(row: Mapping[str, str]) -> Condition:
    return Condition(
        diagnosis=row["condition"],
        findings=tuple(row[f"finding_{number}"] for number in (1, 2, 3, 4)),
        cause=row["cause"],
        test=row["test"],
        treatment=row["treatment"],
        in_demo=row["use"] == "demo",
    )


@cache
def load_overlaps() -> tuple[frozenset[str], ...]:
    """Read the groups of conditions and phrases of which no two may stand as options of one question."""
    lines = OVERLAPS_FILE.read_text(encoding="utf-8").splitlines()
    return tuple(frozenset(line.split(" | ")) for line in lines if line and not line.startswith("#"))


@cache
def distractors(condition: Condition, kind: Kind) -> tuple[str, ...]:
    """Return the phrases that are wrong for this condition and kind, in the order of the table.

    A phrase is left out when it equals one of the condition's own, when it shares a group of overlaps with one of
    them, or when it belongs to a condition that does.
    """
    own = set(condition.phrases())
    barred = own.union(*(group for group in load_overlaps() if own & group))
    others = (other for other in load_conditions() if not barred & {other.diagnosis, *other.findings})
    return tuple(dict.fromkeys(other.answer(kind) for other in others if other.answer(kind) not in barred))
