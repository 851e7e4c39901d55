"""An adapter merged into its base: what the 4 bits of each weight stand for, and the adapter's part of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medqa.config import Task, TrialConfig
from medqa.merging import merged_weights
from medqa.model import load_base
from medqa.weights import weight_of


@pytest.mark.parametrize("is_rank_stabilised", [False, True])
def test_adapted_weights_get_the_adapters_part_and_no_others(tiny_mistral: Path, is_rank_stabilised: bool) -> None:
    base = load_base(Task(model=str(tiny_mistral)))
    config = TrialConfig(lora_rank=4, lora_alpha=16, lora_targets="attention", use_rslora=is_rank_stabilised)
    with base.new_adapter(config) as model:
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        weights = merged_weights(base.model)
        layer = base.model.model.layers[0]
        key = "model.layers.0.self_attn.q_proj.weight"
        update = layer.self_attn.q_proj.get_delta_weight("default").float()
        expected = weight_of(layer.self_attn.q_proj.base_layer).float() + update
        assert update.abs().max() > 0.01
        assert torch.equal(weights[key], expected.to(torch.bfloat16))
        own = weight_of(layer.mlp.up_proj).to(torch.bfloat16)
        assert torch.equal(weights["model.layers.0.mlp.up_proj.weight"], own)
    # what is on the base goes off again, and the names are those of the base without one
    assert set(weights) == {name for name, _ in base.model.named_parameters()}
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
