"""Runs one search through Ray Tune, from its beginning or from where an earlier run left it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import SyncConfig, run
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback

from medqa.questions import QuestionSet
from medqa.record import read_json, write_json
from tune.budget import Clock
from tune.cluster import Share
from tune.console import Console
from tune.events import SearchEvents
from tune.failures import MOST_RETRIES, hopeless
from tune.halving import PresetSparingHalving
from tune.outcomes import Outcomes
from tune.sampler import PresetsThenOptuna, Proposals
from tune.settings import SearchSettings
from tune.space import TABLE
from tune.study import FILE, open_storage, put_back
from tune.tracking import Tracking

TRIALS = "trials"
"""Folder of one folder per trial, inside the search's folder: what the trial has kept, and Ray's logs of it."""
_FINISHED = "finished.json"
"""Says up to how many trials the search came to its end; written when all that follows the last trial is done."""
_LONGEST_PARAM = 500
_MODES = {"accuracy": "max", "answer_nll": "min"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """A search and what it has kept in its folder."""

    settings: SearchSettings
    folder: Path
    outcomes: Outcomes
    clock: Clock

    @property
    def is_finished(self) -> bool:
        """Whether an earlier run came to the end of the search, with as many trials as are wanted now."""
        file = self.folder / _FINISHED
        return file.exists() and read_json(file)["max_trials"] >= self.settings.max_trials


def open_search(settings: SearchSettings, folder: Path) -> Search:
    """Return the search in `folder` with what earlier runs of it have kept; no Optuna trial is left RUNNING there."""
    if (folder / FILE).exists():
        put_back(open_storage(folder / FILE))
    clock = Clock(folder / "clock.json", settings.max_hours)
    return Search(settings=settings, folder=folder, outcomes=Outcomes(folder / "outcomes.json"), clock=clock)


def run_search(search: Search, questions: QuestionSet, share: Share, trainable: Callable[..., None]) -> bool:
    """Run the trials that are left; Ray must be connected.

    Args:
        search: What to run; its outcomes and clock are kept up to date.
        questions: What the trials train on; their number sets ASHA's rungs.
        share: What each trial gets of the cluster.
        trainable: What Ray runs for a trial.

    Raises:
        HopelessError: when trials in a row ended with the same bug; the search can go on.

    Returns:
        Whether the search came to its end: all trials have ended, or nothing new is left to try.
    """
    settings, folder = search.settings, search.folder
    sampler, halving = _judges(search, questions, share)
    # MLflow bounds a parameter's length; settings.json has the seed points whole
    params = {**dataclasses.asdict(settings), "seeds": ", ".join(settings.seeds)[:_LONGEST_PARAM]}
    tracking = Tracking(settings.tracking_uri, folder.parent, settings.name, folder, settings.task, params)
    events = SearchEvents(sampler, halving, search.outcomes, tracking, Console(settings.max_trials), search.clock)
    search.clock.start()
    finished = False
    try:
        if len(search.outcomes) < settings.max_trials:
            _run_trials(search, share, trainable, events)
        all_ended = len(search.outcomes) >= settings.max_trials
        finished = all_ended or (sampler.is_exhausted and not sampler.unfinished)
    finally:
        with contextlib.ExitStack() as ends:  # each, even if another fails
            ends.callback(tracking.search_ended, finished)
            ends.callback(sampler.end)
            ends.callback(search.clock.save)
    if finished:
        write_json(folder / _FINISHED, {"max_trials": settings.max_trials})
    if events.bugs.is_hopeless:
        raise hopeless(events.bugs.signature, folder / TRIALS)
    return finished


def _run_trials(search: Search, share: Share, trainable: Callable[..., None], events: SearchEvents) -> None:
    """Let Ray run trials until the search ends or is stopped; of Ray's own state nothing is read back later."""
    settings, folder = search.settings, search.folder
    _prepare_process(share)
    run(
        trainable,
        name=TRIALS,
        storage_path=str(folder),
        config={"task": dataclasses.asdict(settings.task), "trials": str(folder / TRIALS)},
        num_samples=settings.max_trials,
        search_alg=Proposals(events.sampler, settings.max_trials),
        scheduler=events.halving,
        callbacks=[JsonLoggerCallback(), events],
        resources_per_trial={"cpu": share.cpus, "gpu": share.gpus},
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_name,
        reuse_actors=True,
        raise_on_failed_trial=False,
        max_failures=MOST_RETRIES,
        # what a trial prints is kept beside its record
        log_to_file=True,
        sync_config=SyncConfig(sync_artifacts=True),
        verbose=0,
    )


def _judges(search: Search, questions: QuestionSet, share: Share) -> tuple[PresetsThenOptuna, PresetSparingHalving]:
    """Return what proposes trials and what stops them; both go by the best value so far of the search's metric."""
    settings = search.settings
    metric, mode = f"best_{settings.metric}", _MODES[settings.metric]
    sampler = PresetsThenOptuna(
        settings.space,
        metric=metric,
        mode=mode,
        kind=settings.sampler,
        seed=settings.seed,
        concurrent=share.concurrent,
        storage=open_storage(search.folder / FILE),
        study_name=settings.name,
        ended=search.outcomes.rows(),
    )
    halving = PresetSparingHalving(
        metric=metric,
        mode=mode,
        training_questions=len(questions.train),
        most_epochs=_most_epochs(settings),
        prune_seeds=settings.prune_seeds,
        file=search.folder / "rungs.json",
    )
    return sampler, halving


def _prepare_process(share: Share) -> None:
    """Set what Ray Tune reads from the environment, and the end by SIGTERM."""
    # as many trials may wait for a node as may run, so that an autoscaler sees what is needed
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(share.concurrent)
    # a preempted worker counts as any other that died, so that retries are counted and bounded
    os.environ["RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE"] = "1"
    # a machine that is taken away says so by SIGTERM: end as Ctrl-C does, so that the same command goes on
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def _most_epochs(settings: SearchSettings) -> float:
    """Return the longest course that a trial can have."""
    searched = {parameter.name: parameter for parameter in TABLE}["num_train_epochs"]
    return float(settings.fixed.get("num_train_epochs", max(searched.choices)))


def _trial_name(trial: Trial) -> str:
    name: Any = trial.config["name"]
    return str(name)
