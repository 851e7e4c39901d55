"""Behind its attention the last layer computes the places that are read, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_medqa_speedups import EXAMPLES

from medqa.config import Task, TrialConfig
from medqa.course import collate
from medqa.fused_layers import is_fused, logits_at, unfuse_layers
from medqa.model import BaseModel, compute_dtype, compute_in, load_base
from medqa.packing import packed_attention
from medqa.trainer import log_probabilities

PLACES = torch.tensor([8, 38, 39, 56])
"""The sequences' ends, in a row of 57 tokens."""


@pytest.fixture(params=["tiny_mistral", "tiny_qwen"])
def base(request: pytest.FixtureRequest) -> Iterator[BaseModel]:
    folder: Path = request.getfixturevalue(request.param)
    base = load_base(Task(model=str(folder), data="unused"))
    compute_in(base.model, torch.float32)
    yield base
    compute_in(base.model, compute_dtype())


def packed_row(question_loss_weight: float) -> tuple[dict[str, Any], torch.Tensor]:
    row = collate(EXAMPLES, 0, question_loss_weight, packed=True)
    del row["labels"], row["loss_weights"]
    return row, row.pop("predicting_positions")


def rows_of_layers(base: BaseModel, row: dict[str, Any], places_P: torch.Tensor) -> tuple[list[int], list[int]]:
    """How many places the first layer and the last one return in a pass."""
    widths: dict[str, list[int]] = {}
    handles = [
        layer.register_forward_hook(
            lambda module, args, output, name=name: widths.setdefault(name, []).append(output.shape[1])
        )
        for name, layer in (("first", base.model.model.layers[0]), ("last", base.model.model.layers[-1]))
    ]
    try:
        with torch.no_grad(), packed_attention(base.model):
            logits_at(base.model, row, places_P)
    finally:
        for handle in handles:
            handle.remove()
    return widths["first"], widths["last"]


def test_only_the_last_layer_leaves_places_out(base: BaseModel) -> None:
    row, _ = packed_row(1.0)
    assert rows_of_layers(base, row, PLACES) == ([57], [4])


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "not fused"])
@pytest.mark.parametrize("adapted", [True, False], ids=["with an adapter", "alone"])
def test_logits_at_places_are_those_of_the_whole_row(base: BaseModel, fused: bool, adapted: bool) -> None:
    row, _ = packed_row(1.0)
    with base.new_adapter(TrialConfig(lora_rank=4, lora_dropout=0.0), fused=fused) as model:
        torch.nn.init.normal_(next(value for name, value in model.named_parameters() if "lora_B" in name), std=0.1)
        asked = model if adapted else model.get_base_model()
        with torch.no_grad(), packed_attention(base.model):
            at_places_PV = logits_at(asked, row, PLACES)
            whole_NV = asked(**row, use_cache=False).logits[0]
        assert is_fused(asked) == fused
    torch.testing.assert_close(at_places_PV, whole_NV[PLACES], rtol=1e-5, atol=1e-5)


def test_a_model_whose_layers_are_its_own_is_read_at_places_too(base: BaseModel) -> None:
    row, _ = packed_row(1.0)
    with torch.no_grad(), packed_attention(base.model):
        fused_PV = logits_at(base.model, row, PLACES)
        unfuse_layers(base.model)
        try:
            own_PV = logits_at(base.model, row, PLACES)
        finally:
            base.fuse()
    assert own_PV.shape == (4, base.model.config.vocab_size)
    torch.testing.assert_close(fused_PV, own_PV, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("question_loss_weight", "of_last"), [(0.0, "places"), (1.0, "whole row")])
def test_training_leaves_out_what_no_loss_is_on_where_that_is_most(
    base: BaseModel, question_loss_weight: float, of_last: str
) -> None:
    row, before_P = packed_row(question_loss_weight)
    widths = []
    handle = base.model.model.layers[-1].register_forward_hook(
        lambda module, args, output: widths.append(output.shape[1])
    )
    try:
        with torch.no_grad(), packed_attention(base.model):
            log_probabilities(base.model, row, before_P)
    finally:
        handle.remove()
    assert widths == [len(before_P) if of_last == "places" else 57]
