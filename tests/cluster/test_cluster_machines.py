"""cluster.yaml on two machines: brought up, searched on, its parts killed and cut off in mid-search, taken down."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cluster_files import read
from local_cluster import LocalCluster, prepare
from machines import Machine, World, wait_until, why_not
from running_search import RunningSearch, assert_cheap, assert_whole, assert_whole_in_mlflow, start
from stored_search import FOLDER, NAME, PLACE, TRIALS, serve_store, stored_rows, stored_steps, submit

WHY_NOT = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A head and a worker after `ray up`, with an object store in reach and a folder that both see."""
    world = World(tmp_path_factory.mktemp("world"))
    try:
        store = serve_store(world)
        cluster = prepare(world, world.start("head", 1), world.start("worker", 2), PLACE, store)
        cluster.run(f"ray up --yes {cluster.file}")
        wait_until("both machines in the cluster", 240, lambda: gpus(cluster) == 2)
        yield cluster
    finally:
        world.end()


def gpus(cluster: LocalCluster) -> int:
    found = re.search(r"/(\d+)\.0 GPU", cluster.on_head("ray status"))
    return int(found.group(1)) if found else 0


def check(cluster: LocalCluster, more: str = "") -> tuple[int, list[list[str]]]:
    """Run --check on the head; return its exit code and the first three columns of its table."""
    # Ray only believes in the GPUs, which --check would find out
    line = f"cd ~/search && python tune/search.py --check --demo --gpus-per-trial 0 {more}"
    code, said = cluster.shell(f"ray exec {cluster.file} '{line}' 2>&1")
    rows = [row.split(maxsplit=3) for row in said.splitlines() if row.startswith(("ok ", "FAULT "))]
    assert rows, said
    return code, rows


def test_a_check_finds_the_object_store_from_every_machine(cluster: LocalCluster) -> None:
    code, rows = check(cluster)
    assert (code, {row[0] for row in rows}) == (0, {"ok"}), rows
    assert {"head", "worker"} <= {row[2] for row in rows if row[1] == "results"}
    assert {row[1] for row in rows} >= {"results", "data", "model", "MLflow", "Ray"}


def test_a_check_names_a_bucket_that_is_not_there(cluster: LocalCluster) -> None:
    code, rows = check(cluster, "--results s3://another-bucket/results")
    assert code == 1
    (fault,) = [" ".join(row) for row in rows if row[0] == "FAULT"]
    assert fault.startswith("FAULT results here") and "another-bucket" in fault


@pytest.fixture(scope="module")
def search(cluster: LocalCluster) -> RunningSearch:
    """A search with a trial under way on each machine."""
    search = start(cluster, "killed", trials=3)
    for machine in (cluster.head, cluster.worker):
        search.await_trial_on(machine)
    return search


def test_one_trial_runs_on_each_machine_that_has_a_gpu(cluster: LocalCluster, search: RunningSearch) -> None:
    on_head, on_worker = search.trial_on(cluster.head), search.trial_on(cluster.worker)
    assert on_head and on_worker and on_head != on_worker


GRPC = {"gcs_server", "raylet", "ray::DashboardA", "ray::ImplicitFu", "ray::IDLE", "python"}
"""Ray's own servers, and its workers and driver: they listen at every address, whatever a node is started with, and
ask for the token. Only a security group or a firewall keeps others away from them."""
COUNTERS = {44217, 44227}
"""What the autoscaler and the dashboard count, on the head, for all who can reach it; each node's agent has such a
page too. They can be read without a token, and tell nothing of questions or results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """Who waits for connections where."""

    program: str
    address: str
    port: int


def listeners(machine: Machine) -> list[Listener]:
    """List what listens on a machine at more than its loopback and its address in the cluster's network."""
    found = []
    for line in machine.run("ss -Hltnp").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        address = address.strip("[]").removeprefix("::ffff:")
        program = line.split('"')[1] if '"' in line else ""
        if address not in ("127.0.0.1", "::1", machine.address):
            found.append(Listener(program=program, address=address, port=int(port)))
    return found


def test_nothing_listens_to_other_networks_but_ray_which_asks_for_its_token(
    cluster: LocalCluster, search: RunningSearch
) -> None:
    on_head, on_worker = listeners(cluster.head), listeners(cluster.worker)
    assert not search.ended()
    assert {one.program for one in on_worker} <= GRPC
    assert {one.port for one in on_head if one.program not in GRPC} <= COUNTERS
    ports = {one.port for one in on_head}
    assert 6379 in ports and not ports & {5000, 8265}, "the head's GCS, but neither MLflow nor the dashboard"
    refused = cluster.head.command(f"ray status --address {cluster.head.address}:6379")
    assert "token is missing" in subprocess.run(refused, capture_output=True, text=True).stderr
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' http://{cluster.head.address}:52365/api/job_agent/jobs/"
    assert cluster.world.launcher.run(ask) == "401"


# its workers bear no name, and would go on without it
KILL_MLFLOW = """
pkill -9 -f '[m]lflow'
while listening=$(ss -Hltnp 'sport = :5000' | grep -o 'pid=[0-9]*'); do
    kill -9 ${listening//pid=/}; sleep 0.2
done
"""


def test_a_killed_raylet_and_a_server_that_is_gone_lose_nothing(
    cluster: LocalCluster, search: RunningSearch, record_property: Any
) -> None:
    on_worker, on_head = search.trial_on(cluster.worker), search.trial_on(cluster.head)
    cluster.head.run(KILL_MLFLOW)
    cluster.worker.run("pkill -9 raylet; sleep 0.5")
    record_property("seconds_from_killed_raylet_to_next_evaluation", search.await_next(on_worker))
    cluster.on_head(read("local")["head_start_ray_commands"][2])
    rows = search.finish()
    assert rows[on_head]["retries"] == 0
    assert_cheap(search, rows, on_worker)
    assert_whole(search, rows)


@pytest.mark.timeout(1800)
def test_a_machine_that_is_cut_off_costs_its_trial_one_evaluation_at_most(
    cluster: LocalCluster, record_property: Any
) -> None:
    wait_until("the worker is back", 240, lambda: gpus(cluster) == 2)
    search = start(cluster, "cut", trials=2)
    on_worker = search.await_trial_on(cluster.worker)
    cluster.worker.set_link("down")
    # it waits for the head's own trial to end
    seconds = wait_until("the trial is on the head", 400, lambda: search.trial_on(cluster.head) == on_worker)
    # the folder of results is no network file system, whose server would let go of the locks of a machine that is gone
    cluster.worker.run("pkill -9 ImplicitFu")
    record_property("seconds_from_cut_link_to_next_evaluation", seconds + search.await_next(on_worker))
    rows = search.finish()
    cluster.worker.set_link("up")
    assert_cheap(search, rows, on_worker)
    assert_whole(search, rows)


@pytest.mark.timeout(1800)
def test_a_head_that_is_lost_is_replaced_by_an_empty_one_and_the_same_command_goes_on(
    cluster: LocalCluster, record_property: Any
) -> None:
    wait_until("the worker is back", 240, lambda: gpus(cluster) == 2)
    first = submit(cluster)
    last = "config_3_high_rank"

    def is_at_its_last() -> bool:
        assert first.poll() is None, said(cluster)
        return len(stored_steps(cluster, last)) >= 2

    wait_until("the last trial is under way", 500, is_at_its_last)
    cluster.head.kill()
    began, ended, steps = time.monotonic(), stored_rows(cluster), stored_steps(cluster, last)
    assert 1 <= len(ended) < TRIALS
    cluster.head = cluster.world.start("new-head", 1)
    # on machines of one's own Ray believes that a head at this address has all that it had
    cluster.run(f"ray down --yes {cluster.file}; ray up --yes {cluster.file}")
    second = submit(cluster)
    second.wait(timeout=600)
    assert second.returncode == 0, said(cluster)
    rows = json.loads(cluster.head.run(f"cat {FOLDER}/outcomes.json"))
    assert rows[: len(ended)] == ended
    assert {row["state"] for row in rows} == {"completed"}
    names = {row["name"] for row in rows}
    assert len(names) == len(rows) == TRIALS
    # the new head has heard of those alone that had not ended, and of the last one from where it was
    heard = cluster.head.run(f"cd {FOLDER}/trials && grep -H . */result.json").splitlines()
    assert {line.split("/")[0] for line in heard} == names - {row["name"] for row in ended}
    (again, *_) = [json.loads(line.split(":", maxsplit=1)[1]) for line in heard if line.startswith(f"{last}/")]
    assert again["step"] >= steps[-1]
    assert_whole_in_mlflow(cluster.head, FOLDER, NAME, names)
    record_property("seconds_from_a_lost_head_to_the_end_of_the_search", time.monotonic() - began)


def said(cluster: LocalCluster) -> str:
    return (cluster.results / f"{NAME}.log").read_text()


def test_nothing_runs_any_more_after_the_end(cluster: LocalCluster, record_property: Any) -> None:
    seconds = wait_until("the worker is back", 240, lambda: gpus(cluster) == 2 and "raylet" in left_on(cluster.worker))
    record_property("seconds_from_mended_link_to_a_worker_that_is_back", seconds)
    cluster.on_head("pkill -f '[m]lflow server'")
    cluster.run(f"ray down --yes {cluster.file}")
    began = time.monotonic()
    for machine in (cluster.head, cluster.worker):
        while left := left_on(machine):
            assert time.monotonic() - began < 150, f"on the {machine.name}: {left}"
            time.sleep(0.5)
    record_property("seconds_from_ray_down_to_nothing_left", time.monotonic() - began)


def left_on(machine: Machine) -> str:
    """List the Python programs and Ray's own that run on a machine.

    Without Ray's reader of logs, which holds nothing and may outlive its raylet for minutes: the next `ray up` ends it.
    """
    return machine.run("ps ax -o pid,args | grep -E '[r]ay|[p]ython' | grep -v log_monitor.py || true")
