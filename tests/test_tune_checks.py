"""`search.py --check`: each wrong thing is a line of its table and exit code 1."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from fake_cloud import head

from medqa.config import Task, TrialConfig
from medqa.least_memory import least_bytes
from tune import settings
from tune.checks import check_results, widest_config
from tune.findings import Finding, node_findings, table
from tune.node_look import Gpu, Request, Sight, delete_marker, look, versions_here, write_marker
from tune.wishes import Wishes

SCRIPT = Path(__file__).resolve().parent.parent / "tune" / "search.py"
GIB = 2**30
MISTRAL = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "vocab_size": 32768,
}
ONE_GPU = Request(results="file:///r", marker="m", own_marker="m-1", task=Task(), gpus=1)
A10G = Gpu(name="NVIDIA A10G", free_bytes=21 * GIB, total_bytes=22 * GIB, capability=(8, 6))


def faults(sight: Sight | str, needed: int | None = 12 * GIB) -> list[str]:
    return [row.words for row in node_findings("worker 10.0.0.2", ONE_GPU, sight, needed) if row.is_fault]


def sight(**changes: object) -> Sight:
    fine = Sight(versions=versions_here(), storage_problem="", model_problem="", gpus=(A10G,), gpu_problem="")
    return dataclasses.replace(fine, **changes)  # type: ignore[arg-type]


def test_a_node_with_all_that_is_needed_has_no_fault() -> None:
    assert faults(sight()) == []


def test_other_versions_on_a_node_are_named_with_both() -> None:
    (words,) = faults(sight(versions={**versions_here(), "torch": "1.0"}))
    assert words.startswith("torch 1.0, here ")
    assert "make setup" in words


def test_a_gpu_too_small_for_the_widest_trial_is_a_fault() -> None:
    (words,) = faults(sight(), needed=40 * GIB)
    assert words.startswith("NVIDIA A10G: 21.0 of 22.0 GiB free, the widest trial needs 40.0")


def test_a_gpu_without_bf16_is_a_fault() -> None:
    old = Gpu(name="Tesla T4", free_bytes=15 * GIB, total_bytes=15 * GIB, capability=(7, 5))
    assert faults(sight(gpus=(old,))) == ["Tesla T4 is too old: training needs bf16, from Ampere on"]


def test_gpus_that_torch_does_not_see_are_a_fault() -> None:
    (words,) = faults(sight(gpus=(), gpu_problem="the driver is too old"))
    assert words == "Ray counts 1, torch sees 0: the driver is too old"


def test_storage_and_model_and_silence_are_faults_of_their_node() -> None:
    assert faults(sight(storage_problem="no room", model_problem="no licence")) == ["no room", "no licence"]
    assert faults("no answer within 300 s") == ["no answer within 300 s: look whether the project is set up there"]


def test_results_that_another_machine_does_not_share_are_a_fault_there(tmp_path: Path) -> None:
    here, there = (tmp_path / "here").as_uri(), (tmp_path / "there").as_uri()
    assert write_marker(here, "m") == ""
    request = Request(results=here, marker="m", own_marker="m-1", task=Task(), gpus=0)
    assert look(request).storage_problem == ""
    assert (tmp_path / "here" / "m-1").is_file()
    assert "is not here" in look(dataclasses.replace(request, results=there)).storage_problem
    for name in ("m", "m-1"):
        delete_marker(here, name)
    assert list((tmp_path / "here").iterdir()) == []


def test_results_that_cannot_be_written_are_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert check_results(tmp_path / "file" / "results").is_fault
    assert not check_results(tmp_path / "a folder").is_fault
    assert list((tmp_path / "a folder").iterdir()) == []


def test_the_widest_trial_of_mistral_fits_16_gib_and_needs_more_with_its_rank_and_its_text() -> None:
    wide = widest_config(settings.resolve(Wishes(), Task(model="a/b", data="c/d"), Path("/r/s"), None))
    assert (wide.lora_rank, wide.lora_targets) == (128, "all")
    needed = least_bytes(MISTRAL, wide)
    assert 8 * GIB < needed < 16 * GIB
    assert least_bytes(MISTRAL, dataclasses.replace(wide, lora_rank=8)) < needed
    assert least_bytes(MISTRAL, dataclasses.replace(wide, max_length=4096)) > needed
    parameters = 32 * 128 * (4 * 4096 * 2 + 2 * (4096 + 1024) + 3 * (4096 + 14336))  # 7 projections, k and v narrow
    full = least_bytes(MISTRAL, dataclasses.replace(wide, optim="adamw_torch"))
    assert full - needed == pytest.approx(6 * parameters, rel=0.1), "two moments of four bytes in place of one"
    assert least_bytes({**MISTRAL, "vocab_size": 152_000}, wide) - needed < 2 * GIB, "its head is computed in parts"
    with pytest.raises(AttributeError):
        least_bytes({}, TrialConfig())


def test_the_table_is_aligned_and_counts_its_faults() -> None:
    rows = [Finding("results", "here", "fine"), Finding("GPU", "head 10.0.0.1", "too small", is_fault=True)]
    assert table(rows).splitlines() == [
        "ok     results  here           fine",
        "FAULT  GPU      head 10.0.0.1  too small",
        "",
        "1 fault: nothing was run.",
    ]


def check(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--check", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=500, cwd=cwd, env=environment or None, check=False
    )


@pytest.mark.slow
def test_a_check_asks_for_a_gpu_where_none_is_up_and_looks_at_every_node() -> None:
    """The GPU is one that Ray only believes in: that is found too."""
    with tempfile.TemporaryDirectory() as folder, head(Path(folder)) as there:
        wanted = ("--demo", "--gpus-per-trial", "1")
        down = check(*wanted, "--tracking-uri", "http://127.0.0.1:9", cwd=Path(folder), **there.environment)
        done = check(*wanted, cwd=Path(folder), **there.environment)
        left = [path.name for path in (Path(folder) / "results").iterdir() if path.name.startswith(".check")]
    assert down.returncode == 1, down.stdout + down.stderr
    assert "MLflow at http://127.0.0.1:9 does not answer" in down.stdout
    assert "asking the autoscaler" not in down.stdout, "nothing is paid for before this machine is in order"
    assert done.returncode == 1, done.stdout + done.stderr
    assert "asking the autoscaler for one" in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith(("ok ", "FAULT "))]
    faults = [row.split()[1:3] for row in rows if row.startswith("FAULT")]
    assert faults == [["GPU", "worker"]], done.stdout + done.stderr
    assert "Ray counts 1, torch sees 0" in done.stdout
    assert {tuple(row.split()[1:3]) for row in rows} >= {("results", "head"), ("results", "worker")}
    assert "Still running: the head, 1 worker" in done.stdout
    assert left == []
