"""The Optuna study of a search: where it is kept, which sampler draws from it, what its trials are called."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

FILE = "optuna.db"
"""The study's SQLite file in the search's folder; `optuna-dashboard sqlite:///.../optuna.db` opens it."""
SamplerName = Literal["tpe", "gp", "random"]

# user attributes of an Optuna trial
SEED_POINT = "seed_point"
"""The seed point's name; not there for a configuration that the sampler drew."""
NAME = "name"
"""The trial's name in the search; not there before it is proposed, nor for a draw that was proposed before."""
CONFIG = "config"
"""The trial's TrialConfig by field: Optuna's own parameters hold places in the space's table."""
RAY_TRIAL = "ray_trial"
"""Id of the Ray trial that runs it."""
EQUAL_TO = "equal_to"
"""Name of the earlier trial to which a draw was equal; such a draw is told FAIL and never run."""

_WAIT_FOR_LOCK_SECONDS = 60
"""A dashboard that reads may hold the file for a moment."""


def open_storage(file: Path) -> BaseStorage:
    """Return the storage in `file`, made where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": _WAIT_FOR_LOCK_SECONDS}})


def new_sampler(kind: SamplerName, seed: int, trial_number: int, startup_trials: int) -> BaseSampler:
    """Return the sampler for one trial, whose random state follows from the search's seed and the trial's number.

    No random state is carried from trial to trial, so that nothing about it can be lost by a kill: with the same
    trials before it, a number is given the same configuration whichever process asks.

    Args:
        kind: "tpe" learns from stopped trials and keeps away from those in flight; "gp" learns from complete trials
            only; "random" does not learn.
        seed: Seed of the search.
        trial_number: Optuna's number of the trial.
        startup_trials: Trials before the first that is not drawn at random.
    """
    mixed = int(np.random.SeedSequence((seed, trial_number)).generate_state(1)[0])
    if kind == "random":
        return RandomSampler(seed=mixed)
    if kind == "gp":
        return GPSampler(seed=mixed, n_startup_trials=startup_trials)
    return TPESampler(seed=mixed, multivariate=True, constant_liar=True, n_startup_trials=startup_trials)


def put_back(storage: BaseStorage) -> None:
    """Let every trial wait that is RUNNING although nobody runs it now.

    A waiting trial keeps its number, its parameters and its values. It runs again when Ray goes on with it, and is
    proposed again before anything new when a kill made Ray forget it; telling it FAIL would lose a seed point.
    """
    _settle(storage, TrialState.WAITING)


def fail_running(storage: BaseStorage) -> None:
    """Tell FAIL for every trial that is RUNNING although nobody will ever run it."""
    _settle(storage, TrialState.FAIL)


def _settle(storage: BaseStorage, state: TrialState) -> None:
    for study in storage.get_all_studies():
        for trial in storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            storage.set_trial_state_values(trial._trial_id, state=state)
