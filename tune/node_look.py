"""What a node of the cluster says of itself when a search is checked; this runs there, as a task of Ray."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass

import ray

from medqa.config import Task
from medqa.errors import MedQAError
from medqa.model_files import check_model
from medqa.record import installed_versions
from medqa.storage import RemoteFolder
from tune.outbox import first_line

PATIENCE_SECONDS = 20.0
"""How long storage is tried again."""
MARKER = ".check"
"""Begins the names of the files that a check writes to the results and removes again."""
_GPU_SECONDS = 120
# a process of its own: the task has no GPU, so that Ray hides them all from it
_LIST_GPUS = """
import json, torch
gpus = range(torch.cuda.device_count())
of = torch.cuda
print(json.dumps([[of.get_device_name(gpu), *of.mem_get_info(gpu), of.get_device_capability(gpu)] for gpu in gpus]))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU as torch sees it."""

    name: str
    free_bytes: int
    total_bytes: int
    capability: tuple[int, ...]
    """Compute capability: major and minor number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a node is asked."""

    results: str
    """Address of the results, a folder's too."""
    marker: str
    """Name of the file that the driver has written there; its content is its name."""
    own_marker: str
    """Name of the file that the node shall write."""
    task: Task
    gpus: int
    """How many Ray believes that it has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What a node has; each problem is "" where there is none."""

    versions: dict[str, str]
    storage_problem: str
    model_problem: str
    gpus: tuple[Gpu, ...]
    gpu_problem: str


def look(request: Request) -> Sight:
    """Try on this node what a trial will need there."""
    gpus, gpu_problem = _gpus() if request.gpus else ((), "")
    return Sight(
        versions=versions_here(),
        storage_problem=_storage_problem(request),
        model_problem=_model_problem(request.task),
        gpus=gpus,
        gpu_problem=gpu_problem,
    )


def versions_here() -> dict[str, str]:
    """Return the versions that must be the same on all nodes."""
    return {**installed_versions(), "ray": ray.__version__, "python": platform.python_version()}


def write_marker(results: str, marker: str) -> str:
    """Write a marker and read it; return why that failed, or ""."""
    folder = RemoteFolder(results, PATIENCE_SECONDS)
    try:
        folder.write(marker, marker.encode())
        return "" if folder.read(marker) == marker.encode() else "what was written there is not read again"
    except MedQAError as error:
        return str(error)


def delete_marker(results: str, marker: str) -> None:
    """Remove a marker; where storage does not answer, it stays."""
    with contextlib.suppress(MedQAError):
        RemoteFolder(results, PATIENCE_SECONDS).delete(marker)


def _storage_problem(request: Request) -> str:
    try:
        if RemoteFolder(request.results, PATIENCE_SECONDS).read(request.marker) is None:
            return "what the head wrote there is not here: give --results s3://... or a folder that all machines share"
    except MedQAError as error:
        return str(error)
    return write_marker(request.results, request.own_marker)


def _model_problem(task: Task) -> str:
    try:
        check_model(task)
    except MedQAError as error:
        return str(error)
    return ""


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-c", _LIST_GPUS]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_GPU_SECONDS)
    except subprocess.TimeoutExpired as error:
        return (), first_line(error)
    if done.returncode:
        return (), (done.stderr.strip().splitlines() or ["no reason is given"])[-1]
    rows = json.loads(done.stdout.splitlines()[-1])
    gpus = (
        Gpu(name=name, free_bytes=free, total_bytes=total, capability=tuple(capability))
        for name, free, total, capability in rows
    )
    return tuple(gpus), ""
