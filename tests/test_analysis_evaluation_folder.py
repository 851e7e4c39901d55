"""An evaluation's folder is read only where it holds every answer, and its own; without a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from analysis_fakes import make_evaluation, make_predictions, make_questions, make_subject

from analysis import evaluation_folder as folders
from analysis.evaluation import FEW_SHOT, FINE_TUNED, ZERO_SHOT, Evaluation
from analysis.evaluation_folder import Started
from analysis.item_rows import ITEM_ROWS, VALIDATION_ROWS, ItemRow, append_rows
from medqa.errors import LockedError, RecordError
from medqa.prompt import TRAINING_WORDING
from medqa.record import write_json

PLAN = {"run": "run-explored_9", "adapters": {FINE_TUNED: "a"}}
OLDER_PLAN = {"adapters": {FINE_TUNED: "a"}}
QUESTIONS = make_questions(6)
Change = Callable[[ItemRow], ItemRow]


def as_it_is(row: ItemRow) -> ItemRow:
    return row


def make_folder(
    folder: Path, plan: dict[str, Any] = PLAN, items: Change = as_it_is, validation: Change = as_it_is
) -> Path:
    """Write what a finished evaluation leaves of six questions, its rows changed."""
    folder.mkdir()
    started = Started(
        plan=plan,
        subject=make_subject(folder),
        exemplars=QUESTIONS[:3],
        ensemble=(),
        validation_near_duplicates=(),
        also={},
    )
    folders.write_started(folder, started)
    folders.write_questions(folder, QUESTIONS, ())
    rows = [dataclasses.replace(row, plan=started.digest) for row in item_rows()]
    append_rows(folder / ITEM_ROWS, map(items, rows))
    said = [dataclasses.replace(row, texts={}, letters={}, orders={}, wordings={}) for row in rows]
    append_rows(folder / VALIDATION_ROWS, map(validation, said))
    return folder


def item_rows() -> Sequence[ItemRow]:
    asked = make_evaluation(len(QUESTIONS))
    models = {ZERO_SHOT: asked.zero_shot, FEW_SHOT: asked.few_shot, FINE_TUNED: asked.fine_tuned}
    return [
        ItemRow(
            id=one.id,
            topic="Other",
            gold=one.answer,
            models={name: items[place] for name, items in models.items()},
            texts={name: texts[one.id] for name, texts in asked.texts.items()},
            letters=dict.fromkeys(asked.texts),
            orders={name: [order[place] for order in asked.orders[name]] for name in (ZERO_SHOT, FINE_TUNED)},
            wordings={name: items[place] for name, items in asked.wordings.items() if name != TRAINING_WORDING},
        )
        for place, one in enumerate(QUESTIONS)
    ]


def read(folder: Path) -> Evaluation:
    return folders.read_evaluation(folder, folders.read_started(folder), folder)


def test_what_was_answered_is_read_back(tmp_path: Path) -> None:
    folder, asked = make_folder(tmp_path / "whole"), make_evaluation(len(QUESTIONS))
    folders.add_seconds(folder, "test, zero_shot, letters", 1.5)
    folders.add_seconds(folder, "test, few_shot, letters", 2.0)
    folders.add_seconds(folder, "test, zero_shot, letters", 0.25)  # after a kill
    found = read(folder)
    assert (found.fine_tuned, found.texts, found.wordings) == (asked.fine_tuned, asked.texts, asked.wordings)
    assert found.seconds == 3.75


def test_an_evaluation_of_an_older_version_is_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "older", plan=OLDER_PLAN)
    folders.write_started(folder, dataclasses.replace(folders.read_started(folder), seconds={"letters": 2.5}))
    assert '"plan": ""' in (folder / ITEM_ROWS).read_text()
    assert read(folder).seconds == 2.5


@pytest.mark.parametrize("lacking", ["models", "texts", "letters", "orders", "wordings"])
def test_an_unfinished_evaluation_is_one_line(lacking: str, tmp_path: Path) -> None:
    def without_last(row: ItemRow) -> ItemRow:
        have = dict(getattr(row, lacking))
        have.popitem()
        return dataclasses.replace(row, **{lacking: have})

    with pytest.raises(RecordError, match=r"items\.jsonl: unfinished, .*: give the same command to go on$"):
        read(make_folder(tmp_path / "x", items=without_last))


def test_validation_questions_that_the_base_was_not_asked_are_one_line(tmp_path: Path) -> None:
    def tuned_alone(row: ItemRow) -> ItemRow:
        return dataclasses.replace(row, models={FINE_TUNED: row.models[FINE_TUNED]})

    with pytest.raises(RecordError, match=r"validation\.jsonl: unfinished"):
        read(make_folder(tmp_path / "x", validation=tuned_alone))


@pytest.mark.parametrize("file", [ITEM_ROWS, VALIDATION_ROWS])
@pytest.mark.parametrize("other", [PLAN | {"adapters": {FINE_TUNED: "b"}}, OLDER_PLAN])
def test_the_rows_of_another_adapter_are_refused(file: str, other: dict[str, Any], tmp_path: Path) -> None:
    folder, strange = make_folder(tmp_path / "one"), make_folder(tmp_path / "other", plan=other)
    (strange / file).replace(folder / file)
    with pytest.raises(RecordError, match=f"{file}, line 1: an answer of another evaluation"):
        read(folder)


def test_the_same_is_evaluated_by_one_process_at_a_time(tmp_path: Path) -> None:
    with folders.open_folder(tmp_path, PLAN) as (folder, goes_on):
        assert (folder, goes_on) == (tmp_path / "final_eval", False)
        for started in (False, True):  # the other is refused before anything is written, and while it is going on
            if started:
                write_json(folder / folders.STARTED, {"plan": PLAN, "finished": False})
            with pytest.raises(LockedError, match="final_eval is in use"), folders.open_folder(tmp_path, PLAN):
                pass
        with folders.open_folder(tmp_path, OLDER_PLAN) as (other, _):
            assert other == tmp_path / "final_eval_2"
        assert [path.name for path in folder.iterdir()] == [folders.STARTED]
    with folders.open_folder(tmp_path, PLAN) as opened:
        assert opened == (tmp_path / "final_eval", True)


def test_the_questions_of_another_set_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "x")
    (item,) = make_predictions(make_questions(7)[6:], 0.5, seed=1)
    row = ItemRow(id=item.id, topic="Other", gold=item.gold, plan=folders.read_started(folder).digest)
    append_rows(folder / ITEM_ROWS, [row])
    with pytest.raises(RecordError, match="is not of this evaluation"):
        read(folder)
