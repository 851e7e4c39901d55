"""`search.py --check`: what would stop a search is looked for on every machine before money is spent."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medqa.config import Task
from medqa.errors import MedQAError
from medqa.extra import load_questions
from medqa.least_memory import least_bytes
from medqa.model_files import check_model
from medqa.model_kind import check_kind
from medqa.questions import load_search_questions
from medqa.record import read_json
from medqa.storage import is_remote
from tune.autoscaler import autoscaler_here, is_head
from tune.cluster import Share, connect, share_of
from tune.disk import widest_config
from tune.findings import Finding, node_findings
from tune.node_look import MARKER, Request, Sight, delete_marker, look, write_marker
from tune.sender import require_store
from tune.settings import SearchSettings
from tune.workers import up_gpus, watch_workers

_NODE_SECONDS = 300.0
_GPU_PATIENCE_SECONDS = 900.0


def check_all(settings: SearchSettings, results: Path | str) -> list[Finding]:
    """Check this machine, then every node; where nothing is wrong here, a worker with a GPU is asked for if none is up.

    Args:
        settings: The search.
        results: Where its results go; `check_results` has found them in order.
    """
    task, uri = settings.task, settings.tracking_uri
    findings = [
        check_here("data", task.data, lambda: load_search_questions(task.data, task.data_revision)),
        *([check_here("extra questions", task.extra, lambda: load_questions(task))] if task.extra else []),
        check_here("model", task.model, lambda: _check_model(task)),
        check_here("MLflow", uri, lambda: require_store(uri)),
    ]
    try:
        share = share_of(connect(), settings.gpus_per_trial, settings.concurrent)
    except MedQAError as error:
        return [*findings, Finding("Ray", "here", str(error), is_fault=True)]
    if not any(finding.is_fault for finding in findings) and (fault := bring_gpu(share)):
        findings.append(fault)
    each = f"{share.gpus:g} GPU" if share.gpus else f"{share.cpus} CPU"
    up = f" ({up_gpus()} GPUs are up, what is not was not checked)" if share.gpus else ""
    findings.append(Finding("Ray", "here", f"{share.concurrent} trials side by side with {each} each{up}"))
    return [*findings, *check_nodes(settings, results, share)]


def _check_model(task: Task) -> None:
    check_model(task)
    check_kind(task)


def check_here(subject: str, words: str, action: Callable[[], object]) -> Finding:
    """Return what came of something tried on this machine."""
    try:
        action()
    except MedQAError as error:
        return Finding(subject, "here", str(error), is_fault=True)
    return Finding(subject, "here", words)


def check_results(results: Path | str) -> Finding:
    """Write to the results, read and remove what was written."""
    address, marker = address_of_results(results), _marker()
    problem = write_marker(address, marker)
    delete_marker(address, marker)
    return Finding("results", "here", problem or f"{results} can be written to", is_fault=bool(problem))


def bring_gpu(share: Share) -> Finding | None:
    """Let the autoscaler add a worker where trials need a GPU and none is up; return what is wrong if none comes."""
    watch, autoscaler = watch_workers(share.gpus), autoscaler_here()
    if watch is None or autoscaler is None or up_gpus():
        return None
    print(
        "No worker with a GPU is up: asking the autoscaler for one, to check it. It costs money from now on, until it "
        f"has been idle for {autoscaler.idle_minutes:g} minutes.",
        flush=True,
    )
    wanted = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0)(_nothing).remote()
    began, reason = time.monotonic(), "the autoscaler gives no reason"
    try:
        while not ray.wait([wanted], timeout=1)[0]:
            for trouble in watch.look():
                reason = " / ".join(str(trouble).splitlines())
                if trouble.is_setup:
                    return Finding("GPU", "autoscaler", reason, is_fault=True)
            if time.monotonic() - began > _GPU_PATIENCE_SECONDS:
                minutes = f"{_GPU_PATIENCE_SECONDS / 60:.0f} minutes"
                return Finding("GPU", "autoscaler", f"none came within {minutes}: {reason}", is_fault=True)
    finally:
        if not ray.wait([wanted], timeout=0)[0]:  # Ray can die of a cancel that meets the task's own end
            ray.cancel(wanted)
    return None


def _nothing() -> None:
    """Need what a trial needs, for a moment."""


def check_nodes(
    settings: SearchSettings,
    results: Path | str,
    share: Share,
    look_there: Callable[[Request], Sight] = look,
) -> list[Finding]:
    """Let every node that is up try what a trial needs there.

    Args:
        settings: The search.
        results: Where its results go.
        share: What each trial gets.
        look_there: What each node runs.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    address, marker = address_of_results(results), _marker()
    problem = write_marker(address, marker)
    if problem:
        return [Finding("results", "here", problem, is_fault=True)]
    requests = [
        Request(
            results=address,
            marker=marker,
            own_marker=f"{marker}-{number}",
            task=settings.task,
            gpus=int(node["Resources"].get("GPU", 0)) if share.gpus else 0,
        )
        for number, node in enumerate(nodes)
    ]
    try:
        sights = _ask(nodes, requests, look_there)
    finally:
        for name in (marker, *(request.own_marker for request in requests)):
            delete_marker(address, name)
    needed = needed_bytes(settings, share) if share.gpus else None
    findings: list[Finding] = []
    for node, request, sight in zip(nodes, requests, sights, strict=True):
        findings += node_findings(_name(node), request, sight, needed)
    return findings


def _ask(
    nodes: Sequence[dict[str, Any]], requests: Sequence[Request], look_there: Callable[[Request], Sight]
) -> list[Sight | str]:
    """Return what each node says, or why it says nothing."""
    remote = ray.remote(num_cpus=0, max_retries=0)(look_there)
    tasks = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(request)
        for node, request in zip(nodes, requests, strict=True)
    ]
    deadline = time.monotonic() + _NODE_SECONDS
    answers: list[Sight | str] = []
    for task in tasks:
        try:
            answers.append(ray.get(task, timeout=max(0.0, deadline - time.monotonic())))
        except GetTimeoutError:
            answers.append(f"no answer within {_NODE_SECONDS:.0f} s")
        except RayError as error:
            answers.append((str(error).strip().splitlines() or [type(error).__name__])[-1])
    return answers


def needed_bytes(settings: SearchSettings, share: Share) -> int | None:
    """Return the free bytes that a GPU must have for the trials on it; None where config.json does not tell."""
    try:
        form = read_json(check_model(settings.task))
        return max(1, int(1 / share.gpus)) * least_bytes(form, widest_config(settings))
    except (AttributeError, MedQAError):
        return None


def address_of_results(results: Path | str) -> str:
    """Return the address of the results, with that of a folder on this machine too."""
    return str(results).rstrip("/") if is_remote(results) else Path(results).absolute().as_uri()


def _marker() -> str:
    return f"{MARKER}-{uuid.uuid4().hex}"


def _name(node: dict[str, Any]) -> str:
    return f"{'head' if is_head(node) else 'worker'} {node['NodeManagerAddress']}"
