"""What Ray runs: one trial, trained in a folder of its own whose copy is kept whole at each evaluation."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune import report

from medqa.errors import DivergedError
from tune.failures import last_words
from tune.kept import Kept, kept_of
from tune.proposal import proposal_of, task_of

if TYPE_CHECKING:
    from medqa.evaluations import Evaluation


def run_trial(ray_config: dict[str, Any]) -> None:
    """Train the proposal in `ray_config`, going on from what the trial has kept.

    Ray ends a stopped trial by SystemExit in `report`; it passes through, and the folder is removed. Any error is
    reported before it ends the trial.
    """
    with last_words():
        _train(ray_config)


def _train(ray_config: dict[str, Any]) -> None:
    _see_own_gpus()
    # imported by the worker alone: the driver starts seconds sooner without torch and trl
    from medqa.training import train

    _use_own_cpus()
    proposal, kept = proposal_of(ray_config), kept_of(ray_config)
    with kept.working_copy() as run_dir:

        def on_eval(evaluation: Evaluation) -> None:
            keep_and_report(dataclasses.asdict(evaluation), run_dir, kept)

        train(proposal.config, task_of(ray_config), run_dir, proposal.name, on_eval)


def _see_own_gpus() -> None:
    """Hide all GPUs from a trial without one: Ray leaves them in sight, and the trials would share the first."""
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _use_own_cpus() -> None:
    """Use the CPUs that Ray gave, so that trials side by side do not fight for all of them."""
    import torch

    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))


def keep_and_report(evaluation: Mapping[str, Any], run_dir: Path, kept: Kept) -> None:
    """Keep the trial's folder, then tell Ray: what the search has heard of is never lost.

    Raises:
        DivergedError: when a value by which trials are compared is not a number.
    """
    for name in ("accuracy", "answer_nll", "best_accuracy", "best_answer_nll"):
        if not math.isfinite(evaluation[name]):
            raise DivergedError(f"diverged at step {evaluation['step']}: {name} is {evaluation[name]}")
    kept.keep(run_dir)
    # the numbers of its GPUs on its node: shown to the person who watches
    report({**evaluation, "gpu_ids": ray.get_gpu_ids()})
