"""The GPU benchmark: its parts run on the CPU with a tiny model, its arithmetic is right, and it fails softly."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_parts
import gpu_processes
import gpu_table
import gpu_trial
import pytest
import torch
from gpu_probe import FRESH_STEPS, Bench, Sizes
from gpu_processes import trials_per_hour

from medqa.prompt import Encoded
from medqa.record import read_json, write_json

SCRIPT = Path(gpu_trial.__file__)
FEW = Sizes(
    sample_questions=6, warm_up_steps=1, timed_steps=1, loss_steps=2, study_steps=3, short_trials=2, few_questions=4
)


@pytest.fixture
def bench(tiny_llama: Path, question_folder: Path, tmp_path: Path) -> Bench:
    work = tmp_path / "work"
    work.mkdir()
    return Bench(str(tiny_llama), str(question_folder), work, FEW)


def measured(bench: Bench, *names: str) -> dict[str, Any]:
    parts = {name: measure for name, measure in gpu_trial.measures().items() if name in names}
    out = bench.work / "out.json"
    code = gpu_trial.run_parts(parts, bench, gpu_trial.described(), out, time.monotonic() + 600)
    results = read_json(out)
    assert code == 0, results
    return dict(results["parts"])


@pytest.mark.slow
def test_the_parts_of_one_process_measure_what_they_say(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    parts = measured(bench, "training", "scoring", "turnaround", "growth")
    assert parts["training"]["whole"]["steps"] == FEW.timed_steps
    speed = parts["training"]["answer"]
    assert speed["tokens_per_second"] == pytest.approx(speed["sequences_per_second"] * speed["mean_tokens"])
    assert speed["step_seconds"] == pytest.approx(16 / speed["sequences_per_second"])
    assert parts["scoring"]["adapter"]["questions"] == parts["scoring"]["sample_questions"] == 8
    assert [len(gaps) for gaps in parts["turnaround"]["between_trials_seconds"].values()] == [2, 1]
    assert [len(gaps) for gaps in parts["turnaround"]["after_an_evaluation_seconds"].values()] == [3, 1]
    assert len(bench.fresh_losses) == FRESH_STEPS
    assert parts["growth"]["largest_difference_from_fresh"] == 0.0
    assert speed["first_tokens_per_second"] > 0
    assert "evaluation during training, share of a trial" in capsys.readouterr().out


@pytest.mark.slow
def test_the_parts_in_processes_of_their_own_measure_what_they_say(bench: Bench) -> None:
    parts = measured(bench, "losses", "study")
    assert len(parts["losses"]["plain_losses"]) == len(parts["losses"]["our_losses"]) == FEW.loss_steps
    assert parts["losses"]["plain"]["largest"] < 1e-4
    assert parts["losses"]["split"]["largest"] < 1e-4  # some processors add up both ways to the same bits
    assert parts["losses"]["split"]["micro_batch_size"] == 2
    assert parts["study"]["tokens_per_second"] > 0
    assert parts["study"]["steps"] == 1


@pytest.mark.slow
def test_each_card_gets_its_share_of_the_memory_and_one_that_fails_is_shown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Card:
        total_memory = int(141e9)

    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: Card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(gpu_parts, "CARDS_GB", (16, 141))
    cards = measured(bench, "memory")["memory"]["cards"]
    assert shares == [pytest.approx((gb * 1e9 - 0.6 * 2**30) / 141e9) for gb in (16, 141)] + [1.0]
    assert [row["plan"]["halvings"] for row in cards.values()] == [0, 0]
    broken = {"gpu": "", "parts": {"memory": {"cards": {"16": {"error": "OutOfMemoryError: all gone"}}}}}
    assert "all gone" in gpu_table.text_table(broken)


def test_the_heaviest_micro_batch_of_a_course_is_among_the_steps_however_they_are_split() -> None:
    lengths = [(7 * number * number) % 101 + 1 for number in range(16 * 20)]
    examples = [Encoded([0] * (length - 1), [1]) for length in lengths]
    chosen = [len(example) for example in gpu_parts.with_heaviest(examples, 16)]
    assert len(chosen) % 16 == 0
    assert len(chosen) < len(lengths)
    for size in (1, 2, 4, 8, 16):
        heaviest = [max(sum(row[at : at + size]) for at in range(0, len(row), size)) for row in (chosen, lengths)]
        assert heaviest[0] == heaviest[1]


def test_the_share_of_evaluation_is_reckoned_from_the_parts() -> None:
    parts = {
        "training": {"whole": {"step_seconds": 0.25}},
        "scoring": {"adapter": {"questions_per_second": 97.2}, "sample_seconds": 1.0, "sample_questions": 150},
        "turnaround": {"after_an_evaluation_seconds": {"16": [0.5, 1.5], "64": [9.0]}},
    }
    # 1,273 steps, 13 evaluations of 2 s and 1 s each, and 10 s at the end
    whole = 49 + 1273 * 0.25
    assert gpu_table.evaluation_share(parts) == pytest.approx((39 / whole, 49 / whole))
    del parts["scoring"]
    assert gpu_table.evaluation_share(parts) is None


def test_an_estimate_is_judged_by_both_its_sides() -> None:
    plan = {"micro_batch_size": 8, "accumulation_steps": 2, "gradient_checkpointing": True, "keep_weights": False}
    verdicts = []
    for estimated, halvings in ((9.4, 0), (9.6, 0), (11.4, 0), (11.6, 0), (10.0, 1)):
        row = {"plan": {**plan, "estimated_gib": estimated, "halvings": halvings}, "peak_gib": 10.0}
        row |= {"reserved_gib": 11.0, "tokens_per_second": 1.0}
        rows = gpu_table.rows_of({"parts": {"memory": {"cards": {"16": row}}}})
        verdicts.append(rows[0].verdict)
    assert verdicts == ["BELOW", "goal", "goal", "BELOW", "BELOW"]


def test_a_part_that_fails_is_reported_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_bench: object) -> dict[str, Any]:
        raise RuntimeError("the kernel is lost\nand more")

    def whole(_bench: object) -> dict[str, Any]:
        return {"gpus": 2, "one_trials_per_hour": 10.0, "many_trials_per_hour": 19.0, "times": 1.9}

    out, results = tmp_path / "results" / "out.json", {"gpu": "a card", "parts": {}}
    code = gpu_trial.run_parts({"study": broken, "gpus": whole}, None, results, out, time.monotonic() + 60)  # type: ignore[arg-type]
    assert code == 1
    assert read_json(out)["parts"]["study"]["error"] == "RuntimeError: the kernel is lost"
    shown = capsys.readouterr().out
    assert "1.90 times" in shown
    assert "the kernel is lost" in shown
    gpu_trial.run_parts({"gpus": whole}, None, results, out, time.monotonic() - 1)  # type: ignore[arg-type]
    assert read_json(out)["parts"]["gpus"]["error"] == "no time was left"


def test_trials_an_hour_are_counted_from_the_end_of_the_first_ones() -> None:
    assert trials_per_hour([100, 110, 120, 130], 1) == pytest.approx(360)
    assert trials_per_hour([90, 100, 110, 110, 120, 120], 2) == pytest.approx(720)


STUB = """
import argparse, json, pathlib, time
parser = argparse.ArgumentParser()
for name in ("name", "results", "model", "data", "max-trials", "concurrent", "gpus-per-trial"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--set", action="append")
asked = parser.parse_args()
assert "eval_every_steps=40" in asked.set and "lora_rank=16" in asked.set
folder = pathlib.Path(asked.results) / asked.name
folder.mkdir()
for ended in range(int(asked.max_trials) // int(asked.concurrent)):
    time.sleep(0.5)
    rows = [{"seconds": 0.5}] * (ended + 1) * int(asked.concurrent)
    (folder / "new.json").write_text(json.dumps(rows))
    (folder / "new.json").rename(folder / "outcomes.json")
time.sleep(0.5)
"""
"""A search whose trials take half a second."""


def test_trials_at_a_time_are_measured_against_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.work / "tune").mkdir()
    (bench.work / "tune" / "search.py").write_text(STUB)
    monkeypatch.setattr(gpu_processes, "ROOT", bench.work)
    seen = gpu_processes.searches(bench, gpus=2)
    assert seen["many"]["trial_seconds"] == [0.5] * 12
    assert len(seen["one"]["ends_seconds"]) == 6
    assert seen["times"] == pytest.approx(2.0, rel=0.4)


def test_results_of_another_gpu_are_not_added_to(tmp_path: Path) -> None:
    now = {"gpu": "new", "versions": {}, "date": "today", "parts": {}}
    write_json(tmp_path / "old.json", {**now, "parts": {"study": {"steps": 1}}})
    assert gpu_trial.old_results(tmp_path / "old.json", now)["parts"] == {"study": {"steps": 1}}
    write_json(tmp_path / "old.json", {**now, "gpu": "old", "parts": {"study": {"steps": 1}}})
    assert gpu_trial.old_results(tmp_path / "old.json", now)["parts"] == {}


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_without_a_gpu_the_script_says_so_and_exits_with_0(tmp_path: Path) -> None:
    done = script("--data", "anywhere", "--out", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    assert "No GPU is found" in done.stdout
    assert not (tmp_path / "out.json").exists()


def test_the_results_are_rendered_as_a_markdown_table(tmp_path: Path) -> None:
    study = {"tokens_per_second": 1300.0, "sequences_per_second": 4.9, "mean_tokens": 265.0, "peak_gib": 6.6}
    results = {"gpu": "a card", "versions": {"torch": "2"}, "date": "today", "parts": {"study": study}}
    write_json(tmp_path / "out.json", results)
    done = script("--render", "--out", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    assert "| training, the study's recipe | 1,300 tokens/s |  |  | 4.9 sequences/s of 265 tokens" in done.stdout


def test_the_larger_small_split_is_evaluated(tmp_path: Path) -> None:
    from gpu_final_eval import larger_as_test

    for name, count in (("train", 9), ("validation", 5), ("test", 2)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{name} {number}\n" for number in range(count)))
    assert larger_as_test(tmp_path, tmp_path / "laid") == 5
    assert (tmp_path / "laid" / "test.jsonl").read_text().startswith("validation 0\n")
    assert len((tmp_path / "laid" / "validation.jsonl").read_text().splitlines()) == 2
