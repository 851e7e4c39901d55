"""Disk: the bound covers what real adapters and searches fill, and ended trials leave only what is kept."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from medqa.config import Task, TrialConfig
from medqa.errors import ConfigError
from tune import disk
from tune.disk import DiskBound, adapter_tensors, bound, require_room
from tune.kept import KeptFolder
from tune.outcomes import State, TrialOutcome, best_names
from tune.settings import SearchSettings, resolve
from tune.wishes import Wishes

TOY = Path(__file__).with_name("toy_search.py")
MISTRAL_7B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
}
Usage = namedtuple("Usage", ["total", "used", "free"])


def settings(folder: Path, **fixed: object) -> SearchSettings:
    wishes = Wishes(demo=True, results=folder, max_trials=30, fixed=fixed)
    return resolve(wishes, Task(), folder / "x", None)


def test_an_adapter_of_mistral_7b_has_the_known_number_of_weights() -> None:
    assert sum(adapter_tensors(MISTRAL_7B, 16, all_projections=True)) == 41_943_040
    assert sum(adapter_tensors(MISTRAL_7B, 16, all_projections=False)) == 13_631_488
    assert len(adapter_tensors(MISTRAL_7B, 16, all_projections=True)) == 32 * 7 * 2


def test_the_bound_takes_the_widest_point_that_is_left(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(MISTRAL_7B))
    widest = bound(settings(tmp_path), config, 2, 1272)
    assert widest.adapter == pytest.approx(4 * 8 * 41_943_040, rel=0.01)
    narrow = bound(settings(tmp_path, lora_rank=16, lora_targets="attention"), config, 2, 1272)
    assert narrow.adapter == pytest.approx(4 * 13_631_488, rel=0.01)
    plain = bound(settings(tmp_path, optim="adamw_torch"), config, 2, 1272)
    assert plain.state - widest.state == pytest.approx(5.9 * 8 * 41_943_040, rel=0.01)
    assert (widest.kept, widest.under_way, widest.trials) == (10, 2, 30)


def test_real_files_of_the_demo_s_model_are_within_the_bound(tmp_path: Path) -> None:
    """The widest adapter, and what transformers keep of AdamW and PEFT of LoRA, on the demo's own model."""
    from medqa.model import load_base
    from medqa.model_files import check_model

    one = bound(settings(tmp_path), check_model(Task()), 1, 400)
    config = TrialConfig(lora_rank=128, lora_alpha=128)
    with load_base(Task()).new_adapter(config) as model:
        model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    saved = sum(file.stat().st_size for file in (tmp_path / "adapter").iterdir())
    assert 0.8 * one.adapter < saved <= one.adapter


def test_a_disk_too_small_for_the_bound_is_warned_of_and_one_too_small_to_begin_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = DiskBound(adapter=1e8, state=3e8, record=1e6, trials=30, under_way=2, kept=10)
    for free, expected in ((search.total + 1, ""), (search.running + 1, "Warning: ")):
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder, free=free: Usage(0, 0, free))
        first, *more = require_room(search, tmp_path).splitlines()
        assert first.startswith("Disk: at most about ")
        assert first.endswith(" GB (10 adapters, 2 trials under way).")
        assert "".join(more).startswith(expected)
        assert bool(more) == bool(expected)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: Usage(0, 0, search.running - 1))
    with pytest.raises(ConfigError, match="the trials under way need up to"):
        require_room(search, tmp_path)


def test_a_model_that_does_not_say_its_shape_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    said = disk.report(settings(tmp_path), tmp_path / "config.json", 2, 400, str(tmp_path))
    assert said == "Disk: what is needed cannot be told, because the model's config.json has no 'hidden_size'."


def row(name: str, state: State, accuracy: float | None) -> TrialOutcome:
    return TrialOutcome(
        name=name,
        seed_point="",
        state=state,
        stop_reason="",
        config=TrialConfig(),
        accuracy=accuracy,
        answer_nll=None if accuracy is None else 1 - accuracy,
        questions=300,
        steps=1,
        seconds=1.0,
    )


def test_completed_trials_keep_their_adapters_before_stopped_ones_and_failed_ones_never() -> None:
    rows = (
        row("stopped", "stopped", 0.9),
        row("failed", "failed", 0.95),
        row("low", "completed", 0.5),
        row("high", "completed", 0.7),
        row("nothing", "stopped", None),
    )
    assert best_names(rows, "accuracy", 2) == {"low", "high"}
    assert best_names(rows, "accuracy", 10) == {"low", "high", "stopped"}


def test_the_best_preset_keeps_its_adapter_among_better_trials() -> None:
    presets = [
        dataclasses.replace(row(name, "completed", accuracy), seed_point=name)
        for name, accuracy in (("config_1_baseline", 0.3), ("config_2_low_rank", 0.2))
    ]
    rows = (*presets, *(row(name, "completed", value) for name, value in (("a", 0.5), ("b", 0.6), ("c", 0.4))))
    assert best_names(rows, "accuracy", 3) == {"a", "b", "config_1_baseline"}
    assert best_names(rows, "accuracy", 1) == {"b"}
    assert best_names(rows, "accuracy", 4) == {"a", "b", "c", "config_1_baseline"}
    own = (dataclasses.replace(row("mine", "completed", 0.1), seed_point="mine"), *rows)
    assert best_names(own, "accuracy", 3) == {"a", "b", "config_1_baseline"}


def test_an_ended_trial_keeps_its_record_and_only_a_needed_adapter(tmp_path: Path) -> None:
    kept = tmp_path / "trial_007" / "kept"
    # a worker that was killed leaves the last two
    for folder in (kept, kept.with_name(".working"), kept.with_name(".kept.partial")):
        for name in ("adapter", "state"):
            (folder / name).mkdir(parents=True)
            (folder / name / "weights").write_text("w")
        (folder / "config.json").write_text("{}")
    KeptFolder(kept).prune(needs_adapter=True)
    assert {path.name for path in kept.iterdir()} == {"adapter", "config.json"}
    KeptFolder(kept).prune(needs_adapter=False)
    assert {path.name for path in kept.iterdir()} == {"config.json"}
    assert [path.name for path in kept.parent.iterdir()] == ["kept"]


def used(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118
            except FileNotFoundError:
                pass
    return total


@pytest.mark.slow
def test_thirty_trials_stay_within_the_bound_and_leave_five_adapters(tmp_path: Path) -> None:
    size = 400_000
    most = DiskBound(adapter=1.02 * size, state=3.02 * size, record=40_000, trials=30, under_way=2, kept=5)
    # without its rule a search of thirty would leave thirty adapters and as many states
    assert most.total < 30 * 4 * size
    results, environment = tmp_path / "results", {**os.environ, "TOY_BYTES": str(size)}
    command = [sys.executable, str(TOY), str(results), "30", "0.02", "", json.dumps({"keep_adapters": 5})]
    search = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    samples = [0]
    while search.poll() is None:
        samples.append(used(results))
        time.sleep(0.1)
    assert search.returncode == 0, search.communicate()[0]
    assert max(samples) <= most.total
    assert used(results) <= most.total - most.running
    kept = list((results / "artifacts").glob("*/artifacts/adapter/adapter_model.safetensors"))
    assert len(kept) == 5
    assert not [path for name in ("adapter", "state") for path in (results / "toy").glob(f"trials/*/*/{name}")]
    ended = json.loads((results / "toy" / "outcomes.json").read_text())
    assert len(ended) == 30
    assert len(list((results / "artifacts").glob("*/artifacts/config.json"))) == 30
    _require_winner(results, ended)
    # its folders emptied, the search goes on
    again = subprocess.run([*command[:3], "32", "0.02"], capture_output=True, text=True, env=environment, timeout=200)
    assert again.returncode == 0, again.stdout + again.stderr
    after = {line["name"]: line for line in json.loads((results / "toy" / "outcomes.json").read_text())}
    assert len(after) == 32
    assert {line["name"]: line for line in ended}.items() <= after.items()
    assert len(list((results / "artifacts").glob("*/artifacts/adapter"))) == 5


def _require_winner(results: Path, ended: list[dict[str, object]]) -> None:
    from analysis.runs import choose_winner, find_search

    search = find_search(results)
    winner = choose_winner(search).evaluated
    completed = [line for line in ended if line["state"] == "completed"]
    best = max(completed, key=lambda line: float(str(line["accuracy"])))
    assert winner.name == best["name"]
    artifacts = results / "artifacts" / winner.run_id / "artifacts"
    assert (artifacts / "adapter" / "adapter_model.safetensors").is_file()
    assert (artifacts / "config.json").is_file()


def test_the_words_for_sizes() -> None:
    assert disk.size(4.2e6) == "4 MB"
    assert disk.size(1.94e9) == "1.9 GB"
