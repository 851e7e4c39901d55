"""What is evaluated: the search's best trial, or the one that was asked for, and the adapters beside it."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import runs
from analysis.adapters import SETTINGS, adapter_fingerprint
from analysis.chosen import describe_choice
from analysis.runs import Search, Trial
from medqa.errors import RecordError
from medqa.presets import PRESETS, get_preset
from medqa.record import ADAPTER, VAL_RESULTS, TrialIdentity, read_identity, read_json
from medqa.selection import choose

_SHUFFLED = "shuffle_options"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """One training to evaluate, and the trainings that are evaluated with it."""

    search: Search
    trial: Trial
    """Its run_id is "" for an adapter that no search knows."""
    choice: dict[str, Any]
    """What evaluation.json says of the choice."""
    adapter: Path | None = None
    """Folder of the adapter where it was given; None: it is in MLflow."""
    ensemble: tuple[Trial, ...] = ()
    """The best adapters by validation, best first; empty where no ensemble was asked for."""
    counterpart: Trial | None = None
    """The best other trial that was trained the other way about shuffled options; None where none is kept."""
    best_preset: Trial | None = None
    """The search's best preset; None where `trial` is a preset itself, or the preset's adapter is not kept."""


def select(arguments: argparse.Namespace) -> Selected:
    """Find what the command names.

    Raises:
        RecordError: when there is no such search, trial or adapter, or fewer adapters than an ensemble was asked of.
        ConfigError: when there is no such preset.
    """
    if arguments.top is not None and arguments.top < 2:
        raise RecordError(f"--top is {arguments.top}: an ensemble takes 2 adapters or more")
    if arguments.adapter:
        return _with_others(_given_adapter(arguments), arguments.top)
    if arguments.best:
        return _with_others(select_best(arguments.results, arguments.tracking_uri, arguments.name), arguments.top)
    name = arguments.name
    if arguments.run_id:
        name = runs.search_of_run(arguments.results, arguments.tracking_uri, arguments.run_id)
    search = runs.find_search(arguments.results, arguments.tracking_uri, name)
    if arguments.preset:
        get_preset(arguments.preset)
        what, key = f"preset {arguments.preset!r}", arguments.preset
        trial = runs.find_trial(search, what, lambda one: one.seed_point == key and not one.confirms)
    else:
        what = f"run {arguments.run_id!r}"
        trial = runs.find_trial(search, what, lambda one: one.run_id == arguments.run_id)
    return _with_others(Selected(search=search, trial=trial, choice=_asked_for(search, trial, what)), arguments.top)


def select_best(results: Path, tracking_uri: str | None, name: str | None) -> Selected:
    """Choose the best trial of a search, the newest one when no name is given.

    Raises:
        RecordError: when there is no such search, or none of its trials has ended with a value.
    """
    search = runs.find_search(results, tracking_uri, name)
    choice = runs.choose_winner(search)
    described = describe_choice(choice, search.metric, lambda trial: runs.read_validation(search, trial))
    return Selected(search=search, trial=choice.evaluated, choice=described)


def select_registered(results: Path, tracking_uri: str | None, model_name: str) -> Selected:
    """Return the trial whose adapter is the best version of a model in MLflow's registry.

    Raises:
        RecordError: when there is no such model, or its search is not here.
    """
    run_id = runs.registered_run(results, tracking_uri, model_name)
    search = runs.find_search(results, tracking_uri, runs.search_of_run(results, tracking_uri, run_id))
    what = f"the registered model {model_name!r}"
    trial = runs.find_trial(search, what, lambda one: one.run_id == run_id)
    return Selected(search=search, trial=trial, choice=_asked_for(search, trial, what))


def _asked_for(search: Search, trial: Trial, what: str) -> dict[str, Any]:
    return {
        "metric": search.metric,
        "trial": trial.name,
        "evaluated": trial.name,
        "means": f"the trial of {what}, asked for by name; it need not be the best of its search",
        "note": "",
        "margins": [],
        "confirmed": [],
    }


def _given_adapter(arguments: argparse.Namespace) -> Selected:
    """Find the trial of the search that an adapter's folder belongs to; where there is none, it stands by itself."""
    record_folder, adapter = find_record(arguments.adapter)
    identity, accuracy = read_identity(record_folder), _validation_accuracy(record_folder)
    what = f"the adapter {arguments.adapter}"
    search = _search_or_none(arguments)
    for trial in (*search.trials, *search.repeats) if search else ():
        same = trial.accuracy is not None and math.isclose(trial.accuracy, accuracy, abs_tol=1e-9)
        if search and same and trial.name == identity.name and _keeps(search, trial, adapter):
            return Selected(search=search, trial=trial, choice=_asked_for(search, trial, what), adapter=adapter)
    search = _search_of_one(arguments.results, identity, accuracy)
    trial = search.trials[0]
    return Selected(search=search, trial=trial, choice=_asked_for(search, trial, what), adapter=adapter)


def _keeps(search: Search, trial: Trial, adapter: Path) -> bool:
    """Whether the trial's run holds this very adapter: a name and a number are soon the same."""
    if not runs.has_adapter(search, trial):
        return False
    with tempfile.TemporaryDirectory() as temporary:
        kept = runs.download_record(search, trial, Path(temporary)) / ADAPTER
        return adapter_fingerprint(kept) == adapter_fingerprint(adapter)


def _validation_accuracy(record_folder: Path) -> float:
    try:
        return float(read_json(record_folder / VAL_RESULTS)["overall_accuracy"])
    except (KeyError, TypeError) as error:
        raise RecordError(f"{record_folder / VAL_RESULTS}: not a trial's validation results ({error})") from error


def find_record(folder: Path) -> tuple[Path, Path]:
    """Return the trial's folder of files, and the adapter in it, for either of the two.

    Raises:
        RecordError: when there is no adapter.
    """
    if (folder / ADAPTER / SETTINGS).is_file():
        return folder, folder / ADAPTER
    if (folder / SETTINGS).is_file():
        return folder.resolve().parent, folder
    raise RecordError(
        f"{folder}: no adapter here (adapter_config.json is missing); give the adapter's folder, with the trial's "
        "config.json and val_results.json beside it"
    )


def _search_or_none(arguments: argparse.Namespace) -> Search | None:
    try:
        return runs.find_search(arguments.results, arguments.tracking_uri, arguments.name)
    except RecordError:
        if arguments.name:
            raise
        return None


def _search_of_one(results: Path, identity: TrialIdentity, accuracy: float) -> Search:
    trial = Trial(
        run_id="",
        name=identity.name,
        seed_point="",
        state="completed",
        start_ms=0,
        accuracy=accuracy,
        answer_nll=None,
        parameters={},
    )
    metric, folder = identity.config.selection_metric, results / identity.name
    return Search(name=identity.name, folder=folder, tracking_uri="", run_id="", metric=metric, trials=(trial,))


def _with_others(selected: Selected, top: int | None) -> Selected:
    search, trial = selected.search, selected.trial
    if not search.run_id:
        if top:
            raise RecordError("--top needs a search whose adapters are kept: this adapter belongs to none here")
        return selected
    kept = runs.best_adapters(search)
    if top and len(kept) < top:
        raise RecordError(
            f"search {search.name!r} keeps the adapters of {len(kept)} trials, an ensemble of {top} was asked for: "
            "give a smaller --top"
        )
    return Selected(
        search=search,
        trial=trial,
        choice=selected.choice,
        adapter=selected.adapter,
        ensemble=tuple(kept[: top or 0]),
        counterpart=_counterpart(trial, kept),
        best_preset=_best_preset(search, trial, kept),
    )


def _counterpart(trial: Trial, kept: Sequence[Trial]) -> Trial | None:
    shuffled = trial.parameters.get(_SHUFFLED)
    others = (one for one in kept if one.parameters.get(_SHUFFLED) not in (None, shuffled))
    return None if shuffled is None else next(others, None)


def _best_preset(search: Search, trial: Trial, kept: Sequence[Trial]) -> Trial | None:
    choice = choose(search.trials, search.repeats, search.metric, search.confirm)
    preset = choice.best_preset if choice else None
    return preset if trial.seed_point not in PRESETS and preset in kept else None
