"""The steps of a final evaluation: check that all is as in the search, ask the models, write what came of it."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from analysis import evaluation_folder as folders
from analysis import study_files
from analysis.asking import AskedSet, Asker, Took
from analysis.chosen import compare_with_others
from analysis.command_line import given_command
from analysis.evaluation import ASKED_ORDERS, ASKED_TEXTS, EXEMPLAR_SEED, EXEMPLARS, FEW_SHOT, FINE_TUNED, ZERO_SHOT
from analysis.evaluation_folder import Started
from analysis.item_rows import ITEM_ROWS, VALIDATION_ROWS, ItemRow, append_rows, write_rows
from analysis.leaks import near_duplicates
from analysis.prepared import Prepared, plan_of, prepare
from analysis.reads import Read, count_reads, read_test_split
from analysis.selected import Selected
from analysis.subject import Subject
from analysis.writing import log, write_all
from medqa import record
from medqa.errors import RecordError
from medqa.prompt import TRAINING_WORDING, WORDINGS, pick_exemplars
from medqa.questions import TEST, VALIDATION, Question, check_disjoint
from medqa.quiet import silence_libraries
from medqa.topics import topic_of


def evaluate(selected: Selected, arguments: argparse.Namespace) -> None:
    """Evaluate what was selected on the test split, write everything and log it to its run."""
    silence_libraries()
    with tempfile.TemporaryDirectory() as temporary:
        prepared = prepare(selected, arguments, Path(temporary))
        with folders.open_folder(selected.search.folder, plan_of(selected, prepared)) as (folder, goes_on):
            _ask(selected, prepared, arguments, folder, goes_on)
            _finish(selected, arguments, folder)


def _finish(selected: Selected, arguments: argparse.Namespace, folder: Path) -> None:
    files = write_all(folder)
    started = folders.read_started(folder)
    log(selected.search, started.subject, folder, study_files.main_numbers(files), is_best=arguments.best)
    folders.write_started(folder, dataclasses.replace(started, finished=True))


def _ask(selected: Selected, prepared: Prepared, arguments: argparse.Namespace, folder: Path, goes_on: bool) -> None:
    """Read the test split, and ask every model everything that has no answer in the folder yet."""
    search, winner = selected.search, prepared.tuned[0]
    read = Read(run_id=winner.trial.run_id, folder=folder, command=given_command(), goes_on=goes_on)
    test = read_test_split(winner.identity.task, search.folder, read)
    check_disjoint({VALIDATION: prepared.known.validation, TEST: test})  # copies of train questions are listed as leaks
    started = folders.read_started(folder) if goes_on else _start(selected, prepared, read, arguments)
    if goes_on:
        print(f"going on with {folder}, where an evaluation of the same was interrupted", flush=True)
    folders.write_started(folder, started)
    sets = _write_questions(folder, prepared, started, test)
    took = functools.partial(folders.add_seconds, folder)
    _ask_all(prepared, started, sets, _ready_validation(folder, prepared, started), took)
    for asked in sets:
        write_rows(asked.rows, _in_order(asked))  # from a line an answer to a line a question


def _start(selected: Selected, prepared: Prepared, read: Read, arguments: argparse.Namespace) -> Started:
    winner, names = prepared.tuned[0], {one.trial.run_id: one.model for one in prepared.tuned}
    subject = Subject(
        search=selected.search,
        winner=winner.trial,
        choice=selected.choice,
        identity=winner.identity,
        validation=record.read_json(winner.record_folder / record.VAL_RESULTS),
        test_reads=count_reads(selected.search.folder),
        command=read.command,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        ensemble=tuple(trial.name for trial in selected.ensemble),
        counterpart=selected.counterpart.name if selected.counterpart else "",
        best_preset=selected.best_preset.name if selected.best_preset else "",
        versions=record.installed_versions(),
        configurations=compare_with_others(selected.search, winner.trial, winner.validation),
    )
    return Started(
        plan=plan_of(selected, prepared),
        subject=subject,
        exemplars=pick_exemplars(prepared.known.train, EXEMPLARS, EXEMPLAR_SEED),
        ensemble=tuple(names[trial.run_id] for trial in selected.ensemble),
        best_preset=names[selected.best_preset.run_id] if selected.best_preset else "",
        validation_near_duplicates=near_duplicates(prepared.known.train, prepared.known.validation),
        also={name: str(file) for name, file in arguments.also.items()},
    )


def _write_questions(folder: Path, prepared: Prepared, started: Started, test: tuple[Question, ...]) -> list[AskedSet]:
    sets = []
    for name, questions in {TEST: test, **prepared.also}.items():
        place = folder if name == TEST else folder / folders.ALSO / name
        place.mkdir(parents=True, exist_ok=True)
        folders.write_questions(place, questions, near_duplicates(prepared.known.train, questions))
        sets.append(AskedSet(name=name, rows=place / ITEM_ROWS, questions=questions, plan=started.digest))
    return sets


def _ready_validation(folder: Path, prepared: Prepared, started: Started) -> AskedSet:
    """Write what the adapters said to the validation questions when they were kept; the base is asked the same ones."""
    said = {one.model: one.validation for one in prepared.tuned if one.model in (FINE_TUNED, *started.ensemble)}
    common = set.intersection(*({item.id for item in items} for items in said.values()))
    questions = tuple(one for one in prepared.known.validation if one.id in common)
    if not questions:
        raise RecordError("the kept validation answers are to none of the validation questions: search again")
    by_id = {name: {item.id: item for item in items} for name, items in said.items()}
    asked = AskedSet(name=VALIDATION, rows=folder / VALIDATION_ROWS, questions=questions, plan=started.digest)
    kept = asked.answers()
    append_rows(
        asked.rows,
        [
            ItemRow(
                id=one.id,
                topic=topic_of(one),
                gold=one.answer,
                models={name: items[one.id] for name, items in by_id.items()},
                plan=asked.plan,
            )
            for one in questions
            if one.id not in kept
        ],
    )
    return asked


def _ask_all(prepared: Prepared, started: Started, sets: Sequence[AskedSet], validation: AskedSet, took: Took) -> None:
    base, encoder = prepared.base, prepared.base.encoder
    zero_shot = Asker(name=ZERO_SHOT, model=base.model, encoder=encoder, took=took)
    few_shot = dataclasses.replace(zero_shot, name=FEW_SHOT, exemplars=started.exemplars)
    zero_shot.ask_letters(validation)
    for asked in sets:
        zero_shot.ask_letters(asked)
        zero_shot.ask_orders(asked)
        zero_shot.ask_texts(asked)
        few_shot.ask_letters(asked)
    for one in prepared.tuned:
        with base.adapter_from(one.adapter) as model:
            asker = dataclasses.replace(zero_shot, name=one.model, model=model)
            for asked in sets:
                _ask_tuned(asker, asked)


def _ask_tuned(asker: Asker, asked: AskedSet) -> None:
    asker.ask_letters(asked)
    if asker.name in ASKED_ORDERS:
        asker.ask_orders(asked)
    if asker.name == FINE_TUNED:
        for wording in WORDINGS:
            if wording != TRAINING_WORDING:
                asker.ask_wording(asked, wording)
    if asker.name in ASKED_TEXTS:
        asker.ask_texts(asked)


def _in_order(asked: AskedSet) -> list[ItemRow]:
    rows = asked.answers()
    return [rows[one.id] for one in asked.questions]
