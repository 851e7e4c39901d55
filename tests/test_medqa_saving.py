"""What a trial saves is written while its sample is scored, and is what it would have written after."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import load_peft_weights
from transformers import Trainer

from medqa import record
from medqa.config import Task, TrialConfig
from medqa.evaluations import Evaluation
from medqa.saving import meanwhile
from medqa.trainer import LetterTrainer
from medqa.training import train

WAIT = 60
CONFIG = TrialConfig(lora_rank=4, learning_rate=5e-3, num_train_epochs=1, effective_batch_size=4, eval_every_steps=2)


def test_work_and_what_stands_inside_go_on_side_by_side() -> None:
    begun, goes_on = threading.Event(), threading.Event()
    found = []

    def work() -> None:
        begun.set()
        found.append(goes_on.wait(WAIT))

    with meanwhile(work):
        assert begun.wait(WAIT)
        goes_on.set()
    assert found == [True]


def test_an_error_of_the_work_is_raised_at_the_end() -> None:
    reached = []

    def work() -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), meanwhile(work):
        reached.append(1)
    assert reached == [1]


def test_an_error_inside_passes_after_the_work_is_done() -> None:
    inside, done = threading.Event(), []

    def work() -> None:
        assert inside.wait(WAIT)
        done.append(1)

    with pytest.raises(torch.OutOfMemoryError), meanwhile(work):
        inside.set()
        raise torch.OutOfMemoryError
    assert done == [1]


def test_what_is_saved_is_written_while_the_sample_is_scored(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample's scoring waits until all files are there, which would never be if they came after it."""
    saved: dict[str, threading.Event] = {"adapter": threading.Event(), "state": threading.Event()}
    save_adapter, score = LetterTrainer._save_adapter, LetterTrainer._score
    save_state = Trainer._save_optimizer_and_scheduler
    sampled, flushed = [], []
    flush = record.flush_file

    def then_tell(name: str, save: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def run(trainer: Any, folder: Any) -> None:
            save(trainer, folder)
            saved[name].set()

        return run

    def flush_and_note(path: Path) -> None:
        flush(path)
        if threading.current_thread().name.startswith("saving"):
            flushed.append(Path(path).name)

    def wait_and_score(trainer: Any, questions: Any, with_lm_loss: bool = False) -> Any:
        if with_lm_loss:
            is_last = trainer.state.global_step == trainer.state.max_steps
            sampled.append(saved["adapter"].wait(WAIT) and (is_last or saved["state"].wait(WAIT)))
            for event in saved.values():
                event.clear()
        return score(trainer, questions, with_lm_loss)

    monkeypatch.setattr(LetterTrainer, "_save_adapter", then_tell("adapter", save_adapter))
    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", then_tell("state", save_state))
    monkeypatch.setattr(LetterTrainer, "_score", wait_and_score)
    monkeypatch.setattr(record, "flush_file", flush_and_note)
    train(CONFIG, task, tmp_path, "trial", lambda evaluation: None)
    assert len(sampled) > 2
    assert all(sampled)
    assert flushed.count("adapter_model.safetensors") == len(sampled)
    assert flushed.count("optimizer.pt") == len(sampled) - 1


def test_at_each_evaluation_the_files_are_whole_and_at_the_end_none_is_left_over(task: Task, tmp_path: Path) -> None:
    adapters: dict[int, dict[str, torch.Tensor]] = {}

    def look(evaluation: Evaluation) -> None:
        assert not list(tmp_path.glob("**/.*")), "nothing is half written"
        adapters[evaluation.step] = load_peft_weights(str(tmp_path / record.ADAPTER))
        if evaluation.finished:
            assert not (tmp_path / record.STATE).exists()
            return
        folder = tmp_path / record.STATE / f"checkpoint-{evaluation.step}"
        assert {path.name for path in folder.parent.iterdir()} == {folder.name, "committed.json"}
        assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt"} <= {file.name for file in folder.iterdir()}
        scheduler = torch.load(folder / "scheduler.pt")
        assert scheduler["last_epoch"] == evaluation.step
        of_state = load_peft_weights(str(folder))
        if evaluation.best_step == evaluation.step:
            for name, value in adapters[evaluation.step].items():
                assert torch.equal(value, of_state[name])

    train(CONFIG, task, tmp_path, "trial", look)
    best = record.read_json(tmp_path / record.TRAINING_SUMMARY)["best_step"]
    for step, adapter in adapters.items():
        is_kept = all(torch.equal(value, adapters[best][name]) for name, value in adapter.items())
        assert is_kept or step < best
    assert not torch.equal(*(next(iter(adapters[step].values())) for step in (min(adapters), best))) or best == min(
        adapters
    )
