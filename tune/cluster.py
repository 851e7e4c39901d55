"""Ray: joined or started, what it has, and what each trial gets of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import ray

from medqa.errors import ConfigError

SECONDS_TO_LEAVE = 120
"""How long a stopped trial may take to let go of its worker before the worker is given up."""
_MOST_CPUS_PER_GPU = 8
_MOST_CPU_TRIALS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What the Ray cluster has."""

    cpus: int
    gpus: int
    most_gpus: int
    """GPUs once the autoscaler has added all nodes that it may."""
    cpus_per_gpu: int
    """CPUs that each GPU can be given on every node that has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one trial gets, and how many run side by side."""

    cpus: int
    gpus: float
    concurrent: int


def connect() -> Cluster:
    """Join the running Ray cluster (RAY_ADDRESS, or one on this machine), or start one here; say what it has.

    Raises:
        ConfigError: when a cluster is named that cannot be reached.
    """
    if not ray.is_initialized():
        try:
            ray.init(
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                # read by the workers: Ray's default of 2 s is too short to take an adapter off
                runtime_env={"env_vars": {"TUNE_FUNCTION_THREAD_TIMEOUT_S": str(SECONDS_TO_LEAVE)}},
            )
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"Ray cannot be started or reached ({error}): check RAY_ADDRESS") from error
    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0))
    return Cluster(
        cpus=int(has.get("CPU", 1)), gpus=gpus, most_gpus=max(gpus, _most_gpus()), cpus_per_gpu=_cpus_per_gpu()
    )


def _most_gpus() -> int:
    """Return the GPUs that the autoscaler may bring; 0 where none runs."""
    from ray._private.state import state  # Ray Data asks here too; there is no public way

    limits = state.get_max_resources_from_cluster_config() or {}
    return int(limits.get("GPU", 0))


def _cpus_per_gpu() -> int:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0)]
    shares = [int(node.get("CPU", 1) // node["GPU"]) for node in nodes]
    return max(1, min(_MOST_CPUS_PER_GPU, *shares)) if shares else 1


def share_of(cluster: Cluster, gpus_per_trial: float | None, concurrent: int | None) -> Share:
    """Decide what each trial gets.

    By default one GPU where there are any, as many trials as there are GPUs; else one CPU, as many trials as CPUs up
    to six, so that the sampler learns from some trials before it proposes others. It is one CPU on every machine: with
    another number of threads, sums are rounded in another order and the same search gives other numbers.

    Raises:
        ConfigError: when the cluster can never give a trial what it asks for.
    """
    gpus = float(cluster.most_gpus > 0) if gpus_per_trial is None else gpus_per_trial
    if gpus > cluster.most_gpus:
        raise ConfigError(f"--gpus-per-trial is {gpus:g}, but the Ray cluster has {cluster.most_gpus} GPUs")
    if not gpus:
        side_by_side = concurrent or min(cluster.cpus, _MOST_CPU_TRIALS)
        return Share(cpus=1, gpus=0.0, concurrent=side_by_side)
    side_by_side = concurrent or max(1, int(cluster.most_gpus / gpus))
    return Share(cpus=max(1, int(cluster.cpus_per_gpu * gpus)), gpus=gpus, concurrent=side_by_side)
