"""The shared beginning of 3-shot prompts computed once gives what whole prompts give, but for rounding."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from analysis.positions import rotate
from medqa.config import DEMO, Task, TrialConfig
from medqa.errors import DataError
from medqa.fused_layers import unfuse_layers
from medqa.model import BaseModel, compute_dtype, compute_in, load_base
from medqa.prefix import score_alike
from medqa.prompt import pick_exemplars
from medqa.questions import load_search_questions
from medqa.scoring import score_questions

DEMO_QUESTIONS = load_search_questions(DEMO)
QUESTIONS = DEMO_QUESTIONS.validation[:60]
EXEMPLARS = pick_exemplars(DEMO_QUESTIONS.train, 3, 42)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base(Task(model=DEMO, data=DEMO))


@pytest.mark.parametrize("tokens_per_batch", [1500, 32_768])
def test_probabilities_are_those_of_whole_prompts(base: BaseModel, tokens_per_batch: int) -> None:
    plain = score_questions(base.model, base.encoder, QUESTIONS, exemplars=EXEMPLARS).predictions
    shared = score_alike(base.model, base.encoder, [QUESTIONS], EXEMPLARS, tokens_per_batch).predictions
    assert [one.id for one in shared] == [one.id for one in plain]
    gaps = [
        abs(one.probabilities[key] - two.probabilities[key])
        for one, two in zip(plain, shared, strict=True)
        for key in "ABCD"
    ]
    assert max(gaps) < 0.05  # bf16 carries 8 bits
    assert sum(gaps) / len(gaps) < 0.005
    assert sum(one.pred == two.pred for one, two in zip(plain, shared, strict=True)) >= 57
    # another prompt gives other numbers: the comparison can fail
    without = score_questions(base.model, base.encoder, QUESTIONS).predictions
    others = [abs(one.probabilities["A"] - two.probabilities["A"]) for one, two in zip(without, shared, strict=True)]
    assert sum(others) / len(others) > 0.02


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("adapted", [True, False])
def test_orders_of_the_options_are_scored_as_if_each_stood_alone(base: BaseModel, fused: bool, adapted: bool) -> None:
    groups = [[rotate(one, shift) for shift in range(1, 4)] for one in QUESTIONS[:12]]
    flat = [one for group in groups for one in group]
    with in_fp32(base), adapter(base, fused) if adapted else only(base, fused) as model:
        plain = score_questions(model, base.encoder, flat).predictions
        for tokens_per_batch in (60, 200, 8192):  # less than a group, some groups, all
            alike = score_alike(model, base.encoder, groups, (), tokens_per_batch).predictions
            assert [one.id for one in alike] == [one.id for one in plain]
            assert [one.gold for one in alike] == [one.gold for one in plain]
            for one, two in zip(alike, plain, strict=True):
                assert one.probabilities == pytest.approx(two.probabilities, abs=1e-5)


@contextlib.contextmanager
def in_fp32(base: BaseModel) -> Iterator[None]:
    """Let the model compute in fp32, where two ways to the same number are told from two numbers."""
    compute_in(base.model, torch.float32)
    try:
        yield
    finally:
        compute_in(base.model, compute_dtype())


@contextlib.contextmanager
def only(base: BaseModel, fused: bool) -> Iterator[Any]:
    """Yield the base alone."""
    base.fuse() if fused else unfuse_layers(base.model)
    yield base.model
    base.fuse()


@contextlib.contextmanager
def adapter(base: BaseModel, fused: bool) -> Iterator[Any]:
    """Yield the model with an adapter that changes its answers."""
    with base.new_adapter(TrialConfig(lora_rank=4), fused=fused) as model:
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        yield model.get_base_model()


def test_one_question_alone_and_out_of_memory_are_scored_alike(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score_alike(base.model, base.encoder, [QUESTIONS[:8]], EXEMPLARS).predictions
    alone = score_alike(base.model, base.encoder, [QUESTIONS[:1]], EXEMPLARS).predictions
    assert alone[0].probabilities == pytest.approx(whole[0].probabilities, abs=0.05)
    forward = type(base.model).forward

    def small_only(model: object, *args: object, **inputs: torch.Tensor) -> object:
        if inputs["input_ids"].numel() > 400:
            raise torch.OutOfMemoryError
        return forward(model, *args, **inputs)

    monkeypatch.setattr(type(base.model), "forward", small_only)
    halved = score_alike(base.model, base.encoder, [QUESTIONS[:8]], EXEMPLARS).predictions
    for one, two in zip(whole, halved, strict=True):
        assert one.probabilities == pytest.approx(two.probabilities, abs=0.05)


def test_a_prompt_is_never_cut(base: BaseModel) -> None:
    long = dataclasses.replace(QUESTIONS[0], question="fever " * base.model.config.max_position_embeddings)
    with pytest.raises(DataError, match="not cut"):
        score_alike(base.model, base.encoder, [[long]], EXEMPLARS)
    with pytest.raises(DataError, match="no questions"):
        score_alike(base.model, base.encoder, [[]], EXEMPLARS)
