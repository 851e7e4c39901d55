"""What a young adapter adds is far below the rounding of what it is added to, and arrives all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medqa.config import Task, TrialConfig
from medqa.model import BaseModel, compute_dtype, compute_in, load_base
from medqa.packing import pack
from medqa.weights import keep_weights

TOKENS = 2000
STREAM = 2.0**-4
"""Standard deviation of what goes through the layers: of the size of what a layer of this model adds to it."""
SMALL_B = 1e-4


@pytest.fixture
def base(tiny_mistral: Path) -> BaseModel:
    base = load_base(Task(model=str(tiny_mistral), data="unused"))
    keep_weights(base.model)
    return base


@pytest.mark.parametrize("projection", ["v_proj", "o_proj", "up_proj", "down_proj"])
def test_an_update_below_the_rounding_of_bf16_arrives_on_average(base: BaseModel, projection: str) -> None:
    exact, rounded = (added(base, projection, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert float(exact.abs().mean()) < STREAM * 2.0**-8, "not below the rounding"
    arrived = float((exact * rounded).sum() / exact.square().sum())
    assert arrived == pytest.approx(1.0, abs=0.1)


def added(base: BaseModel, projection: str, dtype: torch.dtype) -> torch.Tensor:
    """What a small B of one projection adds to the output of the first layer."""
    compute_in(base.model, dtype)
    with base.new_adapter(TrialConfig(lora_rank=4, lora_dropout=0.0)) as model:
        generator = torch.Generator().manual_seed(1)
        hidden_1NU = torch.randn(1, TOKENS, base.model.config.hidden_size, generator=generator).bfloat16() * STREAM
        row = pack([torch.zeros(2, dtype=torch.long)] * (TOKENS // 2))
        layer, inputs = base.model.model.layers[0], hidden_1NU.to(dtype)
        del row["input_ids"]
        positions = base.model.model.rotary_emb(inputs, row["position_ids"])
        outputs = []
        (factor,) = [
            parameter
            for name, parameter in model.named_parameters()
            if f"layers.0.{'self_attn' if projection[0] in 'qkvo' else 'mlp'}.{projection}.lora_B" in name
        ]
        small = torch.randn(factor.shape, generator=generator) * SMALL_B
        for values in (torch.zeros_like(factor), small):
            factor.data.copy_(values)
            with torch.no_grad():
                outputs.append(layer(inputs, position_embeddings=positions, **row).float())
    compute_in(base.model, compute_dtype())
    return outputs[1] - outputs[0]
