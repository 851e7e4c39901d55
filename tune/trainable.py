"""What Ray runs: one trial, trained in a folder of its own that is reported whole at each evaluation."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune import Checkpoint, get_checkpoint, report

from tune.failures import last_words
from tune.proposal import proposal_of, task_of
from tune.run_folder import run_folder

if TYPE_CHECKING:
    from medqa.evaluations import Evaluation


def run_trial(ray_config: dict[str, Any]) -> None:
    """Train the proposal in `ray_config`, going on from its newest checkpoint where there is one.

    Ray ends a stopped trial by SystemExit in `report`; it passes through, and the folder is removed. Any error is
    reported before it ends the trial.
    """
    with last_words():
        _train(ray_config)


def _train(ray_config: dict[str, Any]) -> None:
    # imported by the worker alone: the driver starts seconds sooner without torch and trl
    from medqa.training import train

    _use_own_cpus()
    proposal = proposal_of(ray_config)
    with run_folder(ray_config["search"], proposal.name) as run_dir:
        _restore(run_dir)
        train(proposal.config, task_of(ray_config), run_dir, proposal.name, functools.partial(_report, run_dir))


def _use_own_cpus() -> None:
    """Use the CPUs that Ray gave, so that trials side by side do not fight for all of them."""
    import torch

    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))


def _restore(run_dir: Path) -> None:
    checkpoint = get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        shutil.copytree(folder, run_dir, dirs_exist_ok=True)


def _report(run_dir: Path, evaluation: Evaluation) -> None:
    report(dataclasses.asdict(evaluation), checkpoint=Checkpoint.from_directory(str(run_dir)))
