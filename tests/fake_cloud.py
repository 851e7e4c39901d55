"""A head with Ray's real autoscaler whose cloud is this machine: its workers are Ray nodes with imagined GPUs.

The cloud can also refuse to launch ("launch"), or give machines whose set-up fails ("setup").
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray._private.services import get_node_ip_address
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND

TESTS = Path(__file__).resolve().parent
HEAD_TYPE = "ray.head.default"
WORKER = {"resources": {"CPU": 3, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
NO_CAPACITY = "We currently do not have sufficient capacity"
FAKE_SSH = """#!/bin/sh
case "$*" in *"make setup"*) echo "no room on this disk"; exit 2;; esac
"""


class FakeCloud(FakeMultiNodeProvider):  # type: ignore[misc]
    """What Ray's monitor loads by name."""

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self._nodes[node_id]["tags"].update(tags)

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> None:
        way = self.provider_config["way"]
        if way == "launch":
            raise NodeLaunchException("InsufficientInstanceCapacity", NO_CAPACITY, None)
        if way == "setup":
            self._nodes[self._next_hex_node_id()] = {"tags": {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, **tags}}
            return
        super()._create_node_with_resources_and_labels(node_config, tags, count, resources, labels)

    def _terminate_node(self, node: dict[str, Any]) -> None:
        if "node" in node:
            super()._terminate_node(node)


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """A running head."""

    home: Path
    """Home of whoever uses the head: there lies ray_bootstrap_config.yaml."""
    environment: dict[str, str]
    """In which a process finds the cluster."""


@contextlib.contextmanager
def head(folder: Path, way: str = "ok", autoscaler_v2: bool = True) -> Iterator[Head]:
    """Start a head without a GPU whose autoscaler may add two workers with one each; end it after."""
    address, home = f"{get_node_ip_address()}:{_free_port()}", folder / "home"
    home.mkdir(parents=True)
    file = home / "ray_bootstrap_config.yaml"
    file.write_text(json.dumps(_config(address, way)))
    for name in ("ssh", "rsync"):
        (folder / name).write_text(FAKE_SSH)
        (folder / name).chmod(0o755)
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a" * 64,
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    started = {
        **environment,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": str(int(autoscaler_v2)),
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={address.rpartition(':')[2]}"]
    command += ["--num-cpus=1", "--num-gpus=0", "--include-dashboard=false", f"--autoscaling-config={file}"]
    try:
        with (folder / "head.log").open("w") as log:
            subprocess.run(command, env=started, check=True, stdout=log, stderr=log, timeout=240)
        yield Head(home=home, environment={**environment, "RAY_ADDRESS": address})
    finally:
        _end_all_of(str(folder), address)


def _config(address: str, way: str) -> dict[str, Any]:
    setup = ["cd ~/search && make setup"]
    return {
        "cluster_name": "fake",
        "max_workers": 2,
        "idle_timeout_minutes": 10,
        "upscaling_speed": 1,
        "provider": {
            "type": "external",
            "module": "fake_cloud.FakeCloud",
            "way": way,
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": way != "setup",
        },
        "auth": {"ssh_user": "nobody", "ssh_private_key": "/dev/null"},
        "head_node_type": HEAD_TYPE,
        "available_node_types": {
            HEAD_TYPE: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "gpu_24gb": WORKER,
        },
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "initialization_commands": [],
        "setup_commands": setup,
        "head_setup_commands": setup,
        "worker_setup_commands": setup,
        "head_start_ray_commands": [],
        "worker_start_ray_commands": ["ray start"],
        "rsync_exclude": [],
        "rsync_filter": [],
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _end_all_of(*words: str) -> None:
    """Kill processes whose command line has one of the words, and theirs; `ray stop` would end every Ray here."""
    doomed: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if process.pid != os.getpid() and any(word in line for word in words):
                doomed += [process, *process.children(recursive=True)]
    for process in doomed:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
