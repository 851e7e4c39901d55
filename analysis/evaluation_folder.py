"""The folder of an evaluation: what it was started with, the questions, and the answers as they come."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.ensemble import mean_predictions
from analysis.evaluation import ASKED_ORDERS, ASKED_TEXTS, ENSEMBLE, FEW_SHOT, FINE_TUNED, ZERO_SHOT, Evaluation
from analysis.item_rows import ANY, ITEM_ROWS, VALIDATION_ROWS, ItemRow, over_orders, read_rows
from analysis.leaks import NearDuplicate
from analysis.reads import new_folder
from analysis.runs import Search, Trial
from analysis.subject import Subject
from medqa.config import Task, from_mapping
from medqa.errors import RecordError
from medqa.locks import alone
from medqa.prediction import Prediction
from medqa.prompt import TRAINING_WORDING, WORDINGS
from medqa.questions import Question, fingerprint
from medqa.record import TrialIdentity, read_json, write_json

STARTED = "started.json"
SECONDS = "seconds.json"
"""Each pass's name and the time that it took so far."""
QUESTIONS = "questions.json"
ALSO = "also"
Content = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """What an evaluation was started with: all that its tables need beside questions and answers."""

    plan: Content
    """What makes two evaluations the same: adapters, fingerprints, other sets."""
    subject: Subject
    exemplars: tuple[Question, ...]
    ensemble: tuple[str, ...]
    """Names in the rows of the models whose mean is the ensemble."""
    validation_near_duplicates: tuple[NearDuplicate, ...]
    also: dict[str, str]
    """Name of each other set to its file."""
    best_preset: str = ""
    """Name in the rows of the best preset; "" where it is not evaluated."""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """What SECONDS holds, in evaluations of older versions; empty in newer ones."""
    finished: bool = False

    @property
    def digest(self) -> str:
        """Short digest of the plan, which every row of answers bears; "" for a plan of older versions, whose do not."""
        content = json.dumps(self.plan, sort_keys=True).encode()
        return hashlib.sha256(content).hexdigest()[:12] if "run" in self.plan else ""


def find_unfinished(search_folder: Path, plan: Content) -> Path | None:
    """Return the folder of an evaluation of the same that was killed; None where there is none."""
    for path in sorted(search_folder.glob(f"*/{STARTED}")):
        content = read_json(path)
        if content.get("plan") == plan and not content.get("finished"):
            return path.parent
    return None


@contextlib.contextmanager
def open_folder(search_folder: Path, plan: Content) -> Iterator[tuple[Path, bool]]:
    """Hand out the folder to write into, and whether an evaluation goes on there that was killed.

    Raises:
        LockedError: when another process evaluates the same.
    """
    unfinished = find_unfinished(search_folder, plan)
    folder = unfinished or new_folder(search_folder)
    with alone(folder, beside=True):
        yield folder, unfinished is not None


def write_started(folder: Path, started: Started) -> None:
    """Write what the evaluation was started with, but for MLflow's address, which may hold a password."""
    content = dataclasses.asdict(started)
    content["subject"]["search"] |= {"folder": str(started.subject.search.folder), "tracking_uri": ""}
    write_json(folder / STARTED, content)


def read_started(folder: Path) -> Started:
    """Read it back.

    Raises:
        RecordError: when it is missing, or not what an evaluation was started with.
    """
    content = read_json(folder / STARTED)
    try:
        return Started(
            **{
                **content,
                "subject": _subject(content["subject"]),
                "exemplars": tuple(Question(**one) for one in content["exemplars"]),
                "ensemble": tuple(content["ensemble"]),
                "validation_near_duplicates": _duplicates(content["validation_near_duplicates"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise RecordError(f"{folder / STARTED}: not the start of an evaluation ({error})") from error


def _subject(content: Content) -> Subject:
    search, identity = content["search"], content["identity"]
    trials = {key: tuple(Trial(**one) for one in search[key]) for key in ("trials", "repeats")}
    task, config = Task(**identity["task"]), from_mapping(identity["config"])
    return Subject(
        **{
            **content,
            "search": Search(**{**search, **trials, "folder": Path(search["folder"])}),
            "winner": Trial(**content["winner"]),
            "identity": TrialIdentity(**{**identity, "task": task, "config": config}),
        }
    )


def write_questions(folder: Path, questions: Sequence[Question], duplicates: Sequence[NearDuplicate]) -> None:
    """Write a set's questions, once.

    Raises:
        RecordError: when an evaluation that goes on was started with other questions.
    """
    path = folder / QUESTIONS
    now = fingerprint(questions)
    if path.exists() and read_json(path)["fingerprint"] != now:
        raise RecordError(f"{path}: the questions changed since this evaluation was started: restore what they were")
    write_json(
        path,
        {
            "fingerprint": now,
            "near_duplicates": [dataclasses.asdict(pair) for pair in duplicates],
            "questions": [dataclasses.asdict(one) for one in questions],
        },
    )


def add_seconds(folder: Path, what: str, seconds: float) -> None:
    """Add to the time that a pass took: after a kill, what it took before is still there."""
    so_far = _read_seconds(folder)
    write_json(folder / SECONDS, so_far | {what: round(so_far.get(what, 0.0) + seconds, 2)})


def _read_seconds(folder: Path) -> dict[str, float]:
    path = folder / SECONDS
    return dict(read_json(path)) if path.exists() else {}


def read_evaluation(folder: Path, started: Started, validation_folder: Path) -> Evaluation:
    """Build an evaluation from a set's folder; the validation answers stand in the main one.

    Raises:
        RecordError: when answers are missing, or are not those of this evaluation to the folder's questions.
    """
    questions, duplicates = _read_questions(folder / QUESTIONS)
    rows = _rows_of(folder / ITEM_ROWS, questions, started)
    kept = list(read_rows(validation_folder / VALIDATION_ROWS, started.digest).values())
    if not kept:
        raise RecordError(f"{validation_folder / VALIDATION_ROWS}: no answers to the validation questions are here")
    _require_whole(folder / ITEM_ROWS, rows, _asked(started))
    _require_whole(validation_folder / VALIDATION_ROWS, kept, _asked_of_validation(started))
    seconds = sum((_read_seconds(validation_folder) or started.seconds).values())
    validation = _models(kept, started.ensemble)
    return _evaluation(started, duplicates, questions, rows, validation, seconds)


def _evaluation(
    started: Started,
    duplicates: tuple[NearDuplicate, ...],
    questions: tuple[Question, ...],
    rows: Sequence[ItemRow],
    validation: Mapping[str, tuple[Prediction, ...]],
    seconds: float,
) -> Evaluation:
    models = _models(rows, started.ensemble)
    wordings = {name: tuple(row.wordings[name] for row in rows) for name in rows[0].wordings}
    return Evaluation(
        questions=questions,
        exemplars=started.exemplars,
        zero_shot=models[ZERO_SHOT],
        few_shot=models[FEW_SHOT],
        fine_tuned=models[FINE_TUNED],
        wordings={TRAINING_WORDING: models[FINE_TUNED], **wordings},
        seconds=seconds,
        ensemble=models[ENSEMBLE] if started.ensemble else (),
        best_preset=models[started.best_preset] if started.best_preset else (),
        orders={name: over_orders(rows, name) for name in rows[0].orders},
        texts={name: {row.id: row.texts[name] for row in rows} for name in rows[0].texts},
        validation={name: validation[name] for name in (ZERO_SHOT, FINE_TUNED, ENSEMBLE) if name in validation},
        near_duplicates=duplicates,
        validation_near_duplicates=started.validation_near_duplicates,
    )


def _read_questions(path: Path) -> tuple[tuple[Question, ...], tuple[NearDuplicate, ...]]:
    content = read_json(path)
    try:
        questions = tuple(Question(**one) for one in content["questions"])
        recorded, duplicates = content["fingerprint"], _duplicates(content["near_duplicates"])
    except (KeyError, TypeError) as error:
        raise RecordError(f"{path}: not the questions of an evaluation ({error})") from error
    if not questions or fingerprint(questions) != recorded:
        raise RecordError(f"{path}: the questions are not those that were evaluated")
    return questions, duplicates


def _asked(started: Started) -> ItemRow:
    """Return a row that names everything that the plan's models are asked of one question."""
    adapters = started.plan["adapters"]
    texts = dict.fromkeys(ASKED_TEXTS, "")
    return ItemRow(
        id="",
        topic="",
        gold="",
        models=dict.fromkeys((ZERO_SHOT, FEW_SHOT, *adapters), ANY),
        texts=texts,
        letters=dict(texts),
        orders={name: [] for name in ASKED_ORDERS if name in (ZERO_SHOT, *adapters)},
        wordings={wording: ANY for wording in WORDINGS if wording != TRAINING_WORDING},
    )


def _asked_of_validation(started: Started) -> ItemRow:
    return ItemRow(id="", topic="", gold="", models=dict.fromkeys((ZERO_SHOT, FINE_TUNED, *started.ensemble), ANY))


def _require_whole(path: Path, rows: Sequence[ItemRow], asked: ItemRow) -> None:
    """Raise RecordError unless every question has all the answers that were asked for."""
    for row in rows:
        if not row.holds(asked):
            raise RecordError(f"{path}: unfinished, question {row.id!r} lacks answers: give the same command to go on")


def _rows_of(path: Path, questions: Sequence[Question], started: Started) -> list[ItemRow]:
    rows = read_rows(path, started.digest)
    strange = [name for name in rows if name not in {one.id for one in questions}]
    if strange:
        raise RecordError(f"{path}: question {strange[0]!r} is not of this evaluation: the file is from another run")
    for one in questions:
        if one.id not in rows:
            raise RecordError(f"{path}: question {one.id!r} has no answers: the same command goes on with it")
        if rows[one.id].gold != one.answer:
            raise RecordError(f"{path}: question {one.id!r} has another right letter: the file is from another run")
    return [rows[one.id] for one in questions]


def _models(rows: Sequence[ItemRow], ensemble: Sequence[str]) -> dict[str, tuple[Prediction, ...]]:
    """Return each model's predictions on the rows that all of its kind have, the ensemble's beside them."""
    models = {name: tuple(row.models[name] for row in rows) for name in rows[0].models}
    if ensemble:
        models[ENSEMBLE] = mean_predictions([models[name] for name in ensemble])
    return models


def _duplicates(rows: Sequence[Content]) -> tuple[NearDuplicate, ...]:
    return tuple(NearDuplicate(**row) for row in rows)
