"""What each trial gets of a cluster, and how many run side by side."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from medqa.errors import ConfigError
from tune import trainable
from tune.autoscaler import NodeType
from tune.cluster import Cluster, Share, connect, cpus_per_gpu, share_of, still_running

TWO_CORES = Cluster(cpus=2, gpus=0, most_gpus=0, cpus_per_gpu=1)
FOUR_GPUS = Cluster(cpus=64, gpus=4, most_gpus=4, cpus_per_gpu=8)
SLEEPING_GPUS = Cluster(cpus=4, gpus=0, most_gpus=8, cpus_per_gpu=1)


def test_a_trial_gets_one_cpu_where_there_is_no_gpu() -> None:
    assert share_of(TWO_CORES, None, None) == Share(cpus=1, gpus=0.0, concurrent=2)


def test_one_trial_at_a_time_has_as_many_threads_as_one_of_many() -> None:
    assert share_of(TWO_CORES, None, 1) == Share(cpus=1, gpus=0.0, concurrent=1)


def test_many_cpus_do_not_run_all_trials_at_once() -> None:
    wide = Cluster(cpus=64, gpus=0, most_gpus=0, cpus_per_gpu=1)
    assert share_of(wide, None, None) == Share(cpus=1, gpus=0.0, concurrent=6)


def test_each_gpu_runs_one_trial() -> None:
    assert share_of(FOUR_GPUS, None, None) == Share(cpus=8, gpus=1.0, concurrent=4)


def test_a_gpu_can_be_shared_by_small_trials() -> None:
    assert share_of(FOUR_GPUS, 0.25, None) == Share(cpus=2, gpus=0.25, concurrent=16)


def test_gpus_that_the_autoscaler_can_add_are_asked_for() -> None:
    assert share_of(SLEEPING_GPUS, None, None) == Share(cpus=1, gpus=1.0, concurrent=8)


def test_gpus_that_can_never_come_are_refused() -> None:
    with pytest.raises(ConfigError, match="the Ray cluster has 0 GPUs"):
        share_of(TWO_CORES, 1.0, None)


def test_a_trial_cannot_have_two_gpus() -> None:
    with pytest.raises(ConfigError, match="a trial trains on one GPU"):
        share_of(FOUR_GPUS, 2.0, None)


def test_a_trial_asks_for_no_more_cpus_than_the_least_node_that_is_up_or_may_come_has() -> None:
    to_come = NodeType(name="gpu_24gb", cpus=6, gpus=1, fewest=0, most=4)
    assert cpus_per_gpu([{"CPU": 4}], []) == 1
    assert cpus_per_gpu([{"CPU": 4}], [to_come]) == 6
    assert cpus_per_gpu([{"CPU": 4}, {"CPU": 8, "GPU": 2}], [to_come]) == 4


@pytest.mark.parametrize(("given", "seen"), [([], ""), (["1"], "1")])
def test_a_trial_without_a_gpu_sees_none(monkeypatch: pytest.MonkeyPatch, given: list[str], seen: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: given)
    trainable._see_own_gpus()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_a_process_without_ray_leaves_nothing_running() -> None:
    assert still_running() == ""


@pytest.fixture
def silent_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address at which nothing listens; Ray must not be asked to look for a cluster there."""

    def wait_for_minutes(**_: object) -> None:
        raise AssertionError("Ray would wait for minutes")

    monkeypatch.setattr(ray, "init", wait_for_minutes)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def test_a_cluster_that_was_started_here_and_has_gone_is_found_out_at_once(
    silent_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(silent_address)  # what a power cut leaves
    port = silent_address.partition(":")[2]
    with pytest.raises(ConfigError, match=rf"^no Ray answers at .*:{port} \(.*`ray stop` here forgets it$"):
        connect()


def test_a_named_cluster_that_is_not_there_is_found_out_at_once(
    silent_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", silent_address)
    with pytest.raises(ConfigError, match=r"^no Ray answers at .* take RAY_ADDRESS out of the environment$"):
        connect()


def test_a_machine_too_busy_to_start_ray_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", time_out)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"cannot be started or reached \(The current node timed out .*no other work"):
        connect()
