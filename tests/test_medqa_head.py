"""The loss at places that the host knows is that of the whole row's logits, and so are its gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_medqa_speedups import EXAMPLES

from medqa.config import Task
from medqa.course import IGNORED, collate
from medqa.model import compute_dtype, compute_in, load_base
from medqa.packing import packed_attention
from medqa.trainer import log_probabilities


@pytest.mark.parametrize("question_loss_weight", [0.0, 0.3, 1.0])
def test_the_places_are_those_before_each_token_that_has_a_weight(question_loss_weight: float) -> None:
    row = collate(EXAMPLES, 0, question_loss_weight, packed=True)
    before = row["predicting_positions"]
    assert torch.equal(row["labels"][0, before + 1], row["input_ids"][0, before + 1])
    assert len(before) == int((row["labels"] != IGNORED).sum())
    assert "predicting_positions" not in collate(EXAMPLES, 0, question_loss_weight, packed=False)


@pytest.mark.parametrize("model_name", ["tiny_mistral", "tiny_qwen"])
@pytest.mark.parametrize("question_loss_weight", [0.0, 0.3])
def test_log_probabilities_and_gradients_are_those_of_all_logits(
    model_name: str, question_loss_weight: float, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(model_name)
    base = load_base(Task(model=str(folder), data="unused"))
    compute_in(base.model, torch.float32)
    row = collate(EXAMPLES, 0, question_loss_weight, packed=True)
    weights_BT, before = row.pop("loss_weights"), row.pop("predicting_positions")
    del row["labels"]
    seen = []
    layer = base.model.model.layers[-2]
    hook = layer.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad_()) or output)
    try:
        with packed_attention(base.model):
            log_probabilities_P = log_probabilities(base.model, dict(row), before)
            whole_NV = base.model(**row, use_cache=False).logits[0].log_softmax(-1)
        expected_P = whole_NV[before, row["input_ids"][0, before + 1]]
        torch.testing.assert_close(log_probabilities_P, expected_P, rtol=1e-5, atol=1e-5)
        weights_P = weights_BT[0, before + 1]
        gradients = [
            torch.autograd.grad((values * weights_P).sum(), hidden)[0]
            for values, hidden in zip((log_probabilities_P, expected_P), seen, strict=True)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
        assert float(gradients[0].abs().max()) > 0
    finally:
        hook.remove()
        compute_in(base.model, compute_dtype())
