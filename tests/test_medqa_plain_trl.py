"""A trial's adapter is the one that TRL's SFTTrainer makes as it comes, whichever way its steps are split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from conftest import write_jsonl
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from tiny_models import write_qwen3
from trl import SFTConfig, SFTTrainer

from medqa import record
from medqa.config import Task, TrialConfig
from medqa.course import build_course
from medqa.evaluations import Evaluation
from medqa.memory import MemoryPlan
from medqa.model import BaseModel, compute_dtype, compute_in, load_base
from medqa.questions import load_search_questions
from medqa.speedups import ALL, PLAIN, Speedups
from medqa.training import train
from medqa.weights import drop_weights

CONFIG = TrialConfig(
    lora_rank=4,
    lora_alpha=8,
    lora_dropout=0.0,
    learning_rate=5e-3,
    num_train_epochs=0.5,
    effective_batch_size=4,
    eval_every_steps=3,
    question_loss_weight=1.0,
    optim="adamw_torch",
)
"""Three steps of four of the twelve examples."""


@pytest.fixture
def base(tiny_mistral: Path, tmp_path: Path, question_rows: list[dict[str, Any]]) -> Iterator[BaseModel]:
    """The tiny Mistral in fp32, with questions whose lengths lie far apart."""
    folder = tmp_path / "questions"
    folder.mkdir()
    for number, row in enumerate(question_rows):
        row["question"] = f"{row['question']}{' The fever rises in the evening.' * (number % 7 * 3)}"
    for name, rows in (("train", question_rows[:24]), ("validation", question_rows[24:32])):
        write_jsonl(folder / f"{name}.jsonl", rows)
    base = load_base(Task(model=str(tiny_mistral), data=str(folder)))
    drop_weights(base.model)
    compute_in(base.model, torch.float32)
    yield base
    compute_in(base.model, compute_dtype())


def stock_adapter(base: BaseModel, run_dir: Path) -> dict[str, torch.Tensor]:
    """Train by an SFTTrainer that knows nothing of this project, on the same examples in the same order."""
    examples = build_course(CONFIG, load_search_questions(base.task.data, None).train, base.encoder, ()).examples
    rows = [{"input_ids": list(example.full_ids), "labels": list(example.full_ids)} for example in examples]
    steps = len(rows) // CONFIG.effective_batch_size
    arguments = SFTConfig(
        output_dir=str(run_dir),
        max_steps=steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        gradient_checkpointing=False,
        learning_rate=CONFIG.learning_rate,
        warmup_steps=math.ceil(CONFIG.warmup_ratio * steps),
        weight_decay=CONFIG.weight_decay,
        lr_scheduler_type=CONFIG.lr_scheduler_type,
        max_grad_norm=CONFIG.max_grad_norm,
        optim="adamw_torch",
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
    )
    with base.new_adapter(CONFIG, fused=False) as model:
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=base.tokenizer,
        )
        for parameter in model.parameters():  # TRL has made them bf16, where small updates are rounded away
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
        trainer.train()
        return {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}


def trial_adapter(
    base: BaseModel, run_dir: Path, plan: MemoryPlan, speedups: Speedups, monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    monkeypatch.setattr("medqa.training.plan_memory", lambda *_: plan)
    seen: list[Evaluation] = []
    train(CONFIG, base.task, run_dir, "a_trial", seen.append, speedups)
    assert [row.step for row in seen] == [3]
    return load_file(run_dir / record.ADAPTER / "adapter_model.safetensors")


def test_a_trials_adapter_is_that_of_an_unchanged_trainer(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32 to rounding; a mean of micro-batches' means, say, is far from it where lengths differ."""
    expected = stock_adapter(base, tmp_path / "stock")
    for size, speedups in ((4, ALL), (2, ALL), (1, ALL), (2, PLAIN)):
        run_dir = tmp_path / f"{size}-{speedups == ALL}"
        found = trial_adapter(base, run_dir, MemoryPlan(size, 4 // size, False), speedups, monkeypatch)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            distance = float((found[name] - tensor).norm() / tensor.norm())
            assert distance < 1e-5, (size, speedups, name, distance)


@pytest.mark.parametrize("family", ["mistral", "qwen3"])
def test_a_trial_in_bf16_computes_in_it_whichever_layers_it_has(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Autocast is on for transformers' layers, whose adapter is fp32; those written out are bf16 by themselves."""
    if family == "qwen3":
        write_qwen3(tmp_path / "model")
        base = load_base(Task(model=str(tmp_path / "model"), data=base.task.data))
    compute_in(base.model, torch.bfloat16)
    seen: set[bool] = set()

    def look(*_: Any) -> None:
        if torch.is_grad_enabled():
            seen.add(torch.is_autocast_enabled("cpu"))

    hook = base.model.get_input_embeddings().register_forward_pre_hook(look)
    trial_adapter(base, tmp_path / "trial", MemoryPlan(4, 1, False), ALL, monkeypatch)
    hook.remove()
    assert seen == {family == "qwen3"}
    assert record.read_json(tmp_path / "trial" / record.TRAINING_SUMMARY)["computes_in"] == "bfloat16"


def test_layers_of_transformers_train_with_checkpointing_as_without(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_qwen3(tmp_path / "model")
    base = load_base(Task(model=str(tmp_path / "model"), data=base.task.data))
    compute_in(base.model, torch.float32)
    found = [
        trial_adapter(base, tmp_path / str(checkpointing), MemoryPlan(2, 2, checkpointing), ALL, monkeypatch)
        for checkpointing in (False, True)
    ]
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-5, atol=1e-7)
