"""The command line: its flags, its speed, and one clear line with exit code 2 for each wrong use."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medqa.config import Task
from tune import settings
from tune.wishes import Wishes

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tune" / "search.py"
FLAGS = [
    "--check",
    "--concurrent",
    "--confirm",
    "--data",
    "--demo",
    "--dry-run",
    "--extra-train",
    "--gpu-hour-price",
    "--gpus-per-trial",
    "--help",
    "--keep-adapters",
    "--max-cost",
    "--max-gpu-hours",
    "--max-hours",
    "--max-trials",
    "--metric",
    "--model",
    "--name",
    "--prune-seeds",
    "--results",
    "--sampler",
    "--seed",
    "--seeds",
    "--set",
    "--tracking-uri",
]


def search(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_the_flags_are_these_and_help_answers_at_once() -> None:
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        done = search("--help")
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 1.0
    assert done.returncode == 0
    assert sorted(set(re.findall(r"(?<![\w-])--[a-z-]+", done.stdout))) == FLAGS


def test_no_module_of_tune_hides_a_standard_or_installed_one() -> None:
    ours = {path.stem for path in (ROOT / "tune").iterdir() if path.suffix == ".py" or path.is_dir()} - {"__init__"}
    assert not ours & set(sys.stdlib_module_names)
    assert not ours & set(importlib.metadata.packages_distributions())


def test_outside_the_environment_the_line_names_the_command_that_makes_it(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(SCRIPT), "--demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert_one_line(done, "make setup", ".venv/bin/python tune/search.py")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "lora_rnk=4"], ["'lora_rnk'", "lora_rank"]),
        (["--demo", "--set", "lora_rank=many"], ["lora_rank is 'many'", "whole number"]),
        (["--demo", "--set", "lora_rank"], ["FIELD=VALUE"]),
        (["--demo", "--set", "lora_dropout=2"], ["lora_dropout is 2"]),
        (["--demo", "--model", "owner/model"], ["--demo brings its own"]),
        (["--demo", "--max-trials", "0"], ["--max-trials is 0"]),
        (["--max-trials", "0"], ["--max-trials is 0"]),
        (["--demo", "--seeds", "nowhere.yaml"], ["nowhere.yaml", "cannot be read"]),
        (["--demo", "--name", "a/b"], ["--name is 'a/b'"]),
        (["--model", "demo", "--data", "./nowhere"], ["nowhere", "no such data folder"]),
        (["--model", "./nowhere", "--data", "demo"], ["nowhere", "no such model folder"]),
        (["--demo", "--results", "/proc/none"], ["/proc/none/demo", "cannot be written to", "--results"]),
    ],
)
def test_a_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    assert_one_line(search(*arguments, cwd=tmp_path), *words)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ("mine: {lora_rank: 24}", ["mine", "lora_rank is 24", "4, 8, 16, 32, 64, 128"]),
        ("mine: {lora_rnk: 8}", ["mine", "'lora_rnk'", "lora_rank"]),
        ("mine: {lora_targets: mlp}", ["mine", "lora_targets is 'mlp'", "all, attention"]),
        ("mine: {learning_rate: 5e-1}", ["mine", "learning_rate is 0.5", "from 2e-05 to 0.001"]),
        ("mine: {lora_rank: '16'}", ["mine", "lora_rank is '16'", "whole number"]),
        ("mine: {lora_rank: 8", ["seeds.yaml", "cannot be read", "line"]),
    ],
)
@pytest.mark.parametrize("task", [[], ["--demo"]])
def test_a_wrong_seed_point_is_one_line_and_exit_code_2(
    seeds: str, words: list[str], task: list[str], tmp_path: Path
) -> None:
    (tmp_path / "seeds.yaml").write_text(seeds)
    assert_one_line(search("--seeds", "seeds.yaml", *task, cwd=tmp_path), *words)
    assert not (tmp_path / "results").exists()


def test_a_name_used_with_other_seed_points_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "mine"
    kept = settings.resolve(Wishes(seeds={"low": {"lora_rank": 8}}), Task(), folder, None)
    settings.keep(kept, folder)
    (tmp_path / "seeds.json").write_text('{"low": {"lora_rank": 32}}')
    done = search("--demo", "--name", "mine", "--seeds", "seeds.json", cwd=tmp_path)
    assert_one_line(done, "seed point low was {'lora_rank': 8}, now {'lora_rank': 32}", "--name")


def test_a_row_with_five_options_is_named_by_file_and_row(question_folder: Path, tmp_path: Path) -> None:
    rows = (question_folder / "train.jsonl").read_text().splitlines()
    rows[2] = rows[2].replace('"options": {', '"options": {"E": "fifth", ')
    (question_folder / "train.jsonl").write_text("\n".join(rows))
    done = search("--model", "demo", "--data", str(question_folder), cwd=tmp_path)
    assert_one_line(done, "train.jsonl, row 3", "5 options")


def test_a_model_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert_one_line(search("--model", "./model", "--data", "demo", cwd=tmp_path), "no weights")


def test_a_name_used_with_other_settings_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "mine"
    kept = settings.resolve(Wishes(seed=1), Task(), folder, None)
    settings.keep(dataclasses.replace(kept, data_fingerprint="rows"), folder)
    done = search("--demo", "--name", "mine", "--seed", "2", cwd=tmp_path)
    assert_one_line(done, "'mine'", "seed was 1, now 2", "--name")
