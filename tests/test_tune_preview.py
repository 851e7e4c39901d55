"""--dry-run says what a search would try and take; its speeds are those that were measured."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from medqa.config import DEMO, Task, TrialConfig
from medqa.questions import Question, QuestionSet
from tune import preview, settings
from tune.settings import SearchSettings
from tune.wishes import Wishes

QUESTION = Question("q", "Which?", {"A": "a", "B": "b", "C": "c", "D": "d"}, "A")
QUESTIONS = QuestionSet(train=(QUESTION,) * 10_000, validation=(QUESTION,) * 1000, fingerprint="x")


def made(folder: Path, **wishes: object) -> SearchSettings:
    task = Task(model=str(folder), data="somewhere")
    return settings.resolve(Wishes(name="x", results=folder, **wishes), task, folder / "x", kept=None)  # type: ignore[arg-type]


def shown_hours(said: str) -> tuple[float, float]:
    words = next(line for line in said.splitlines() if line.startswith("GPU-hours")).replace(",", "").split()
    low, high = (float(word) for word in words if word.replace(".", "").isdigit())
    return low, high


def test_its_speeds_are_those_of_the_benchmark() -> None:
    measured = json.loads((ROOT / "tests" / "benchmarks" / "results" / "gpu_trial.json").read_text())
    parts = measured["parts"]
    assert measured["gpu"] == preview.MEASURED_ON
    assert parts["training"]["whole"]["sequences_per_second"] == pytest.approx(preview.EXAMPLES_PER_SECOND, abs=0.05)
    assert parts["scoring"]["adapter"]["questions_per_second"] == pytest.approx(preview.QUESTIONS_PER_SECOND, abs=0.05)
    between = [seconds for times in parts["turnaround"]["between_trials_seconds"].values() for seconds in times]
    assert max(between) == pytest.approx(preview.SECONDS_BETWEEN_TRIALS, abs=0.1)


def test_a_trial_takes_its_examples_its_evaluations_and_the_pause_before_it(tmp_path: Path) -> None:
    config = TrialConfig(num_train_epochs=2, effective_batch_size=16, eval_every_steps=125)
    # 20,000 examples; ten evaluations of 300 questions, and the other 700 at the end
    seconds = 20_000 / preview.EXAMPLES_PER_SECOND + 3_700 / preview.QUESTIONS_PER_SECOND
    seconds += preview.SECONDS_BETWEEN_TRIALS
    assert preview.hours(config, made(tmp_path), QUESTIONS) == pytest.approx(seconds / 3600)


def test_hours_and_price_grow_with_what_is_asked_for(tmp_path: Path) -> None:
    low, high = shown_hours(preview.preview(made(tmp_path), QUESTIONS, "there"))
    assert 0 < low < high
    more = preview.preview(made(tmp_path, max_trials=60, gpu_hour_price=2.0), QUESTIONS, "there")
    assert shown_hours(more)[1] > 1.8 * high
    price = next(line for line in more.splitlines() if line.startswith("At 2 an hour: ")).strip(".").split()
    assert (float(price[4]), float(price[6])) == pytest.approx([2 * hours for hours in shown_hours(more)], abs=0.11)
    six = preview.preview(made(tmp_path, max_trials=6), QUESTIONS, "there")
    assert shown_hours(six)[0] == shown_hours(six)[1]
    confirmed = preview.preview(made(tmp_path, confirm=3), QUESTIONS, "there")
    assert shown_hours(confirmed)[1] > high


def test_what_cannot_be_told_without_the_model_is_said(tmp_path: Path) -> None:
    said = preview.preview(made(tmp_path / "no model"), QUESTIONS, "there")
    assert "GPU memory: cannot be told (" in said
    assert "Disk: cannot be told (" in said


def test_the_command_writes_and_starts_nothing_and_is_quick(tmp_path: Path) -> None:
    results, began = tmp_path / "results", time.monotonic()
    command = [sys.executable, str(ROOT / "tune" / "search.py"), "--demo", "--dry-run", "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "12 trials: 6 seed points" in done.stdout
    assert f"Written to {results / DEMO}" in done.stdout
    assert "The demo needs no GPU" in done.stdout
    assert done.stderr == ""
    assert not results.exists()
    assert time.monotonic() - began < 60  # two seconds on an idle machine
