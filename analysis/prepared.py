"""Everything that an evaluation needs, checked against the search's record before the test split is read."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from analysis import runs
from analysis.adapters import adapter_fingerprint
from analysis.evaluation import (
    BEST_PRESET,
    COUNTERPART,
    EXEMPLAR_SEED,
    EXEMPLARS,
    FINE_TUNED,
    load_same_base,
    load_same_questions,
    require_same_tokens,
)
from analysis.runs import Search, Trial
from analysis.selected import Selected, find_record
from medqa import record
from medqa.memory import keep_weights_if_roomy
from medqa.model import BaseModel
from medqa.prediction import Prediction
from medqa.questions import Question, QuestionSet, fingerprint, load_other_questions
from medqa.record import TrialIdentity, require_same


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """One adapter to evaluate: its trial's files, under the name that it has in the rows."""

    model: str
    trial: Trial
    record_folder: Path
    adapter: Path
    fingerprint: str
    """SHA-256 of the adapter's weights and settings."""
    identity: TrialIdentity

    @property
    def validation(self) -> tuple[Prediction, ...]:
        """What it said to the validation questions when it was kept."""
        return record.predictions_from_rows(record.read_json(self.record_folder / record.VAL_RESULTS)["predictions"])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What has been checked, and is asked next."""

    base: BaseModel
    known: QuestionSet
    tuned: tuple[Tuned, ...]
    """The evaluated one first."""
    also: dict[str, tuple[Question, ...]]


def prepare(selected: Selected, arguments: argparse.Namespace, temporary: Path) -> Prepared:
    """Check base, prompt, questions and adapters against the search's record; nothing is written before."""
    also = {name: load_other_questions(Path(file)) for name, file in arguments.also.items()}
    tuned = _fetch(selected, temporary)
    identity = tuned[0].identity
    for one in tuned[1:]:
        where = f"record of {one.trial.name!r}, which is evaluated beside {tuned[0].trial.name!r}"
        require_same("questions", where, one.identity.data_fingerprint, identity.data_fingerprint)
        require_same("prompt", where, one.identity.prompt_fingerprint, identity.prompt_fingerprint)
        require_same("base model", where, one.identity.base_fingerprint, identity.base_fingerprint)
    known = load_same_questions(identity)
    print(f"loading {identity.task.model}", flush=True)
    base = load_same_base(identity)
    for one in tuned[1:]:
        require_same_tokens(one.identity, base)
    keep_weights_if_roomy(base.model)
    return Prepared(base=base, known=known, tuned=tuned, also=also)


def _fetch(selected: Selected, temporary: Path) -> tuple[Tuned, ...]:
    """Return the files of every adapter that is needed, each once."""
    wanted = {FINE_TUNED: selected.trial}
    if selected.counterpart:
        wanted[COUNTERPART] = selected.counterpart
    others = {BEST_PRESET: selected.best_preset, **{f"member {trial.name}": trial for trial in selected.ensemble}}
    for model, trial in others.items():
        if trial and trial not in wanted.values():
            wanted[model] = trial
    fetched = []
    for number, (model, trial) in enumerate(wanted.items()):
        if model == FINE_TUNED and selected.adapter:
            fetched.append(_tuned(model, trial, *find_record(selected.adapter)))
        else:
            (temporary / str(number)).mkdir()
            fetched.append(fetch(selected.search, trial, temporary / str(number), model))
    return tuple(fetched)


def fetch(search: Search, trial: Trial, into: Path, model: str = FINE_TUNED) -> Tuned:
    """Fetch a trial's files from its run in MLflow; RecordError when one of them is not there or broken."""
    folder = runs.download_record(search, trial, into)
    return _tuned(model, trial, folder, folder / record.ADAPTER)


def _tuned(model: str, trial: Trial, record_folder: Path, adapter: Path) -> Tuned:
    identity = record.read_identity(record_folder)
    return Tuned(
        model=model,
        trial=trial,
        record_folder=record_folder,
        adapter=adapter,
        fingerprint=adapter_fingerprint(adapter),
        identity=identity,
    )


def plan_of(selected: Selected, prepared: Prepared) -> dict[str, Any]:
    """Return what makes two evaluations the same: what is asked of what; a killed one goes on where it is equal."""
    identity = prepared.tuned[0].identity
    return {
        "run": selected.trial.run_id,
        "means": selected.choice["means"],
        "ensemble": [trial.name for trial in selected.ensemble],
        "counterpart": selected.counterpart.name if selected.counterpart else "",
        "best_preset": selected.best_preset.name if selected.best_preset else "",
        "adapters": {one.model: one.fingerprint for one in prepared.tuned},
        "data": identity.data_fingerprint,
        "prompt": identity.prompt_fingerprint,
        "tokens": prepared.base.encoder.fingerprint(),
        "base": identity.base_fingerprint,
        "also": {name: fingerprint(questions) for name, questions in prepared.also.items()},
        "exemplars": [EXEMPLARS, EXEMPLAR_SEED],
    }
