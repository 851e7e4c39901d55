"""A trial out of memory goes on with smaller micro-batches; one that diverges is ended soon."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from medqa import record
from medqa.config import Task, TrialConfig
from medqa.divergence import CHECK_EVERY_STEPS, LossWatch
from medqa.errors import DivergedError, GpuMemoryError
from medqa.evaluations import Evaluation
from medqa.memory import MemoryPlan
from medqa.trainer import LetterTrainer
from medqa.training import train

CONFIG = TrialConfig(
    lora_rank=4, lora_alpha=8, learning_rate=5e-3, num_train_epochs=1.5, effective_batch_size=4, eval_every_steps=3
)
REASON = "CUDA out of memory. Tried to allocate 2.00 GiB."


def run(config: TrialConfig, task: Task, run_dir: Path) -> list[dict[str, Any]]:
    seen: list[Evaluation] = []
    train(config, task, run_dir, "a_trial", seen.append)
    return [dataclasses.asdict(row) | {"seconds": 0} for row in seen]


def adapter(run_dir: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run_dir / record.ADAPTER / "adapter_model.safetensors")


def _examples(inputs: dict[str, Any]) -> int:
    return len(inputs["cu_seq_lens_q"]) - 1


def allow(monkeypatch: pytest.MonkeyPatch, largest: int, from_step: int = 0) -> list[int]:
    """Let memory run out where a micro-batch is larger than `largest`; return the sizes that were tried."""
    real, tried = LetterTrainer.compute_loss, []

    def compute_loss(self: LetterTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        size = _examples(inputs)
        tried.append(size)
        if size > largest and self.state.global_step >= from_step:
            raise torch.OutOfMemoryError(REASON + "\nmore of it")
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(LetterTrainer, "compute_loss", compute_loss)
    return tried


def test_out_of_memory_at_the_start_gives_what_the_smaller_micro_batch_gives_from_the_start(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        tried = allow(patch, largest=2)
        rows = run(CONFIG, task, tmp_path / "ran_out")
    assert tried == [4] + [2] * 18
    assert record.read_plan(tmp_path / "ran_out") == MemoryPlan(2, 2, False, keep_weights=True, halvings=1)
    monkeypatch.setattr("medqa.training.plan_memory", lambda *_: MemoryPlan(2, 2, False, keep_weights=True))
    assert run(CONFIG, task, tmp_path / "planned") == rows
    ran_out, planned = adapter(tmp_path / "ran_out"), adapter(tmp_path / "planned")
    assert all(torch.equal(ran_out[key], planned[key]) for key in planned)


def test_out_of_memory_in_mid_course_goes_on_from_the_checkpoint_to_the_same_losses(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, lora_dropout=0.0)  # its masks depend on the micro-batch's shape
    whole = run(config, task, tmp_path / "whole")
    tried = allow(monkeypatch, largest=1, from_step=5)
    rows = run(config, task, tmp_path / "ran_out")
    # steps 1 to 5 whole, then from the checkpoint at step 3 in halves, then in single examples
    assert tried == [4] * 5 + [4] + [2] * 4 + [2] + [1] * 24
    assert record.read_plan(tmp_path / "ran_out") == MemoryPlan(1, 4, False, keep_weights=True, halvings=2)
    assert [row["step"] for row in rows] == [3, 6, 9]
    for name in ("train_loss", "answer_nll", "lm_loss"):
        # products are rounded to bf16 (2**-8), and a sum of gradients adds them in another order
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in whole], rel=1e-2)


def test_weights_that_do_not_fit_are_not_kept_and_the_trial_is_the_same(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan may be of an emptier GPU: that of a lost worker, or before another trial came to the same one."""
    kept = run(CONFIG, task, tmp_path / "kept")

    def run_out(model: Any) -> None:
        raise torch.OutOfMemoryError(REASON)

    monkeypatch.setattr("medqa.training.keep_weights", run_out)
    assert run(CONFIG, task, tmp_path / "not_kept") == kept
    assert record.read_plan(tmp_path / "not_kept") == MemoryPlan(4, 1, False, keep_weights=False)


def test_the_seconds_of_an_attempt_that_ran_out_of_memory_count(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, clock, lost = LetterTrainer.compute_loss, time.perf_counter, []

    def compute_loss(self: LetterTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if _examples(inputs) > 2 and self.state.global_step == 4:
            lost.append(1000.0)
            raise torch.OutOfMemoryError(REASON)
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(LetterTrainer, "compute_loss", compute_loss)
    monkeypatch.setattr("time.perf_counter", lambda: clock() + sum(lost))
    seconds: list[float] = []
    train(CONFIG, task, tmp_path, "a_trial", lambda evaluation: seconds.append(evaluation.seconds))
    assert len(seconds) == 3
    assert lost == [1000.0]
    assert seconds[1] - seconds[0] > 1000


def test_out_of_memory_with_one_example_at_a_time_fails_with_its_reason(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = allow(monkeypatch, largest=0)
    with pytest.raises(GpuMemoryError, match="one example at a time and gradient checkpointing") as raised:
        run(CONFIG, task, tmp_path / "run")
    assert REASON in str(raised.value)
    assert "\n" not in str(raised.value)
    assert tried == [4, 2, 1, 1]
    monkeypatch.undo()
    assert run(CONFIG, task, tmp_path / "run")[-1]["finished"]


def test_an_evaluation_out_of_memory_goes_on_with_shorter_batches(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medqa import scoring

    whole = run(CONFIG, task, tmp_path / "whole")
    real = scoring._forward

    def forward(model: Any, batch: Any, *rest: Any) -> Any:
        if len(batch) > 2:
            raise torch.OutOfMemoryError(REASON)
        return real(model, batch, *rest)

    monkeypatch.setattr(scoring, "_forward", forward)
    rows = run(CONFIG, task, tmp_path / "ran_out")
    assert record.read_plan(tmp_path / "ran_out").halvings == 0
    for name in ("accuracy", "answer_nll", "lm_loss", "train_loss"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in whole], rel=1e-2)


def test_an_odd_micro_batch_becomes_a_divisor_of_at_most_half() -> None:
    plan, sizes = MemoryPlan(12, 1, False), []
    while not plan.gradient_checkpointing:
        plan = plan.smaller(REASON)
        sizes.append((plan.micro_batch_size, plan.accumulation_steps))
    assert sizes == [(6, 2), (3, 4), (1, 12), (1, 12)]
    with pytest.raises(GpuMemoryError):
        plan.smaller(REASON)


def test_an_exploding_training_ends_as_diverged_between_evaluations(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LetterTrainer.compute_loss

    def exploding(self: LetterTrainer, *args: Any, **kwargs: Any) -> Any:
        return real(self, *args, **kwargs) * (5 if self.state.global_step >= 12 else 1)

    monkeypatch.setattr(LetterTrainer, "compute_loss", exploding)
    config = dataclasses.replace(CONFIG, num_train_epochs=4, eval_every_steps=1000)
    with pytest.raises(DivergedError, match="diverged at step 20: the mean training loss is .* times its start"):
        run(config, task, tmp_path)


def test_a_loss_that_is_not_a_number_is_seen_at_its_step() -> None:
    watch = LossWatch(None)
    watch.add(torch.tensor(1.0))
    watch.step_ended(1)
    watch.add(torch.tensor(math.nan))
    with pytest.raises(DivergedError, match="step 2: the training loss is nan"):
        watch.step_ended(2)


def test_three_times_the_start_is_diverged_and_what_noise_does_is_not() -> None:
    def feed(watch: LossWatch, loss: float, first: int) -> None:
        for step in range(first, first + CHECK_EVERY_STEPS):
            watch.add(torch.tensor(loss / 2))  # two micro-batches a step
            watch.add(torch.tensor(loss / 2))
            watch.step_ended(step)

    watch = LossWatch(None)
    feed(watch, 1.0, 1)
    feed(watch, 2.9, 11)
    with pytest.raises(DivergedError, match=r"step 30: the mean training loss is 3\.1, above 3"):
        feed(watch, 3.1, 21)
    # one bad step is not the mean of ten
    watch = LossWatch(1.0)
    watch.add(torch.tensor(9.0))
    watch.step_ended(1)
    # guessing among four letters is not divergence, however good the start was
    feed(LossWatch(0.01), math.log(4) / 2, 1)


def test_a_restarted_watch_judges_as_one_that_was_not_interrupted() -> None:
    watch = LossWatch(None)
    watch.evaluated(3, 1.0, 1.0)
    watch.evaluated(6, 2.0, 1.0)
    for judge in (watch, LossWatch(1.0)):
        with pytest.raises(DivergedError, match="step 9"):
            judge.evaluated(9, 3.5, 1.0)
    with pytest.raises(DivergedError, match="validation NLL is inf"):
        LossWatch(1.0).evaluated(9, 1.0, math.inf)
