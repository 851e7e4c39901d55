"""Ray: joined or started, what it has, and what each trial gets of it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray._private.services import canonicalize_bootstrap_address

from medqa.errors import ConfigError
from tune.autoscaler import NodeType, autoscaler_here, is_joined
from tune.outbox import first_line
from tune.workers import count_workers, up_gpus, wait_for_own_machines

SECONDS_TO_LEAVE = 120
"""How long a stopped trial may take to let go of its worker before the worker is given up."""
_MOST_CPUS_PER_GPU = 8
_MOST_CPU_TRIALS = 6
_ANSWER_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What the Ray cluster has."""

    cpus: int
    gpus: int
    most_gpus: int
    """GPUs once the autoscaler has added all nodes that it may."""
    cpus_per_gpu: int
    """CPUs that each GPU can be given on every node that has one, or that may be added."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one trial gets, and how many run side by side."""

    cpus: int
    gpus: float
    concurrent: int


def connect() -> Cluster:
    """Join the running Ray cluster (RAY_ADDRESS, or one on this machine), or start one here; say what it has.

    Raises:
        ConfigError: when a cluster is named that cannot be reached, or none can be started here.
    """
    if not ray.is_initialized():
        _join_or_start()
    autoscaler = autoscaler_here()
    # machines of one's own say what they have once they are up
    if autoscaler and not autoscaler.most_gpus and not up_gpus():
        wait_for_own_machines(autoscaler)
    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0))
    kinds = autoscaler.gpu_types if autoscaler else ()
    return Cluster(
        cpus=int(has.get("CPU", 1)),
        gpus=gpus,
        most_gpus=max(gpus, autoscaler.most_gpus if autoscaler else 0),
        cpus_per_gpu=cpus_per_gpu([node["Resources"] for node in ray.nodes() if node["Alive"]], kinds),
    )


def _join_or_start() -> None:
    try:
        _require_answer()
        ray.init(
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            # read by the workers: Ray's default of 2 s is too short to take an adapter off
            runtime_env={"env_vars": {"TUNE_FUNCTION_THREAD_TIMEOUT_S": str(SECONDS_TO_LEAVE)}},
        )
    except ConfigError:
        raise
    except Exception as error:  # Ray raises a bare one where its processes are not up in time
        raise ConfigError(
            f"Ray cannot be started or reached ({first_line(error)}): check RAY_ADDRESS, that RAY_AUTH_MODE=token is "
            "set where the cluster asks for its token, and that no other work keeps this machine from starting Ray"
        ) from error


def _require_answer() -> None:
    """Find in seconds that the cluster to join is gone, say after a power cut: Ray looks for it for eight minutes."""
    named = os.environ.get("RAY_ADDRESS", "")
    address = None if "://" in named else canonicalize_bootstrap_address(None)
    if address is None:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        remedy = (
            "start it there, or take RAY_ADDRESS out of the environment"
            if named
            else "one was started here and has gone; `ray up cluster.yaml` on your own machine, or `ray start`, brings "
            "it back, and `ray stop` here forgets it"
        )
        raise ConfigError(f"no Ray answers at {address} ({first_line(error)}): {remedy}") from error


def cpus_per_gpu(up: Sequence[Mapping[str, float]], kinds: Sequence[NodeType]) -> int:
    """Return the CPUs that each GPU can be given on all nodes that are up and on all that may be added.

    Args:
        up: Ray resource name to amount, of each node.
        kinds: What may be added.
    """
    shares = [int(node.get("CPU", 1) // node["GPU"]) for node in up if node.get("GPU", 0)]
    shares += [kind.cpus // kind.gpus for kind in kinds if kind.cpus]
    return max(1, min(_MOST_CPUS_PER_GPU, *shares)) if shares else 1


def still_running() -> str:
    """Return which machines go on costing money and what ends them; "" where Ray ends with this process."""
    if not is_joined():
        return ""
    autoscaler, workers = autoscaler_here(), count_workers()
    if autoscaler is None:
        nodes = f"{workers + 1} nodes" if workers else "1 node"
        return f"Still running: the Ray cluster that was joined ({nodes}). `ray stop` on each node ends it."
    others = f", {workers} workers" if workers > 1 else ", 1 worker" if workers else ""
    if autoscaler.provider == "local":
        return f"Still running: Ray on the head{others}. `ray down cluster.yaml` on your own machine ends it."
    if workers:
        they = "they end by themselves" if workers > 1 else "it ends by itself"
        others += f" ({they} after {autoscaler.idle_minutes:g} idle minutes)"
    return f"Still running: the head{others}. `ray down cluster.yaml` on your own machine ends everything."


def share_of(cluster: Cluster, gpus_per_trial: float | None, concurrent: int | None) -> Share:
    """Decide what each trial gets.

    By default one GPU where there are any, as many trials as there are GPUs; else one CPU, as many trials as CPUs up
    to six, so that the sampler learns from some trials before it proposes others. It is one CPU on every machine: with
    another number of threads, sums are rounded in another order and the same search gives other numbers.

    Raises:
        ConfigError: when the cluster can never give a trial what it asks for, or a trial cannot use it.
    """
    gpus = float(cluster.most_gpus > 0) if gpus_per_trial is None else gpus_per_trial
    if gpus > 1:
        raise ConfigError(f"--gpus-per-trial is {gpus:g}, but a trial trains on one GPU: give 1, or less to share one")
    if gpus > cluster.most_gpus:
        raise ConfigError(f"--gpus-per-trial is {gpus:g}, but the Ray cluster has {cluster.most_gpus} GPUs")
    if not gpus:
        side_by_side = concurrent or min(cluster.cpus, _MOST_CPU_TRIALS)
        return Share(cpus=1, gpus=0.0, concurrent=side_by_side)
    side_by_side = concurrent or max(1, int(cluster.most_gpus / gpus))
    return Share(cpus=max(1, int(cluster.cpus_per_gpu * gpus)), gpus=gpus, concurrent=side_by_side)
