"""Each speed-up gives the numbers of the plain path: TRL, PEFT and bitsandbytes as they are."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from medqa import fused_layers, record
from medqa.config import Task, TrialConfig
from medqa.course import collate
from medqa.errors import ModelError
from medqa.evaluations import Evaluation
from medqa.fused_layers import unfuse_layers
from medqa.fused_lora import Adapter, Projections
from medqa.memory import MemoryPlan, Shape, keep_weights_if_roomy
from medqa.model import BaseModel, compute_dtype, compute_in, load_base
from medqa.packing import pack, packed_attention
from medqa.speedups import ALL, PLAIN, Speedups
from medqa.trainer import log_probabilities
from medqa.training import train
from medqa.weights import bytes_to_keep, drop_weights, keep_weights, kept_bytes, weight_of

CONFIG = TrialConfig(
    lora_rank=4, lora_alpha=8, learning_rate=5e-3, num_train_epochs=1.5, effective_batch_size=4, eval_every_steps=3
)
LENGTHS = (9, 30, 1, 17)
BF16 = 2.0**-8
"""Relative spacing of bf16 numbers: a rounding moves a value by at most half of it."""
EXAMPLES = [
    {"input_ids": [1, *range(5 + number, 3 + number + length), 2][:length], "prompt_length": max(0, length - 3)}
    for number, length in enumerate(LENGTHS)
]
ALIKE = [
    {"input_ids": [1, *range(40, 52), *range(60 + number, 60 + number + own), 2], "prompt_length": 11 + own}
    for number, own in enumerate((9, 3, 17))
]
"""The first thirteen tokens of each are the same."""


@pytest.fixture
def base(task: Task) -> Iterator[BaseModel]:
    base = load_base(task)
    drop_weights(base.model)
    yield base
    compute_in(base.model, compute_dtype())
    drop_weights(base.model)


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step of training comes to."""

    loss: float
    gradients: dict[str, torch.Tensor]


def step(
    base: BaseModel,
    config: TrialConfig,
    speedups: Speedups,
    dtype: torch.dtype,
    question_loss_weight: float = 1.0,
    examples: Sequence[dict[str, Any]] = EXAMPLES,
) -> Step:
    """One step's loss and its gradients, by the names of PEFT's parameters."""
    (keep_weights if speedups.keep_weights else drop_weights)(base.model)
    compute_in(base.model, dtype)
    packed, shared = speedups.packed_rows, speedups.shared_beginnings
    batch = collate(examples, 0, question_loss_weight, packed=packed, share_beginning=shared)
    rows = packed_attention(base.model) if speedups.packed_rows else contextlib.nullcontext()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16 and not speedups.fused_layers)
    with base.new_adapter(config, fused=speedups.fused_layers) as model, rows, autocast:
        generator = torch.Generator().manual_seed(1)
        lora = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
        for parameter in lora.values():  # B starts at zero, which would hide the A's gradients
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        weights_BT = batch.pop("loss_weights")
        labels_BT = batch.pop("labels")
        positions_P = batch.pop("predicting_positions", None)
        if speedups.fused_layers:
            losses = -log_probabilities(model.get_base_model(), batch, positions_P)
            weights = weights_BT[0, positions_P + 1]
        else:
            logits_BTV = model(**batch, use_cache=False).logits.float()
            losses = torch.nn.functional.cross_entropy(
                logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), reduction="none"
            )
            weights = weights_BT[:, 1:].flatten()
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        if speedups.fused_layers:
            views = _views_of_gradient(model, list(lora.values()))
            gradients = {name: view.clone() for name, view in zip(lora, views, strict=True)}
        else:
            gradients = {name: parameter.grad.clone() for name, parameter in lora.items()}
    return Step(float(loss), gradients)


def distance(one: Step, other: Step) -> float:
    """The largest relative distance of a parameter's gradients, in the L2 norm.

    Of gradients that are next to nothing beside the largest one the rounding is not measured at themselves.
    """
    assert one.gradients.keys() == other.gradients.keys()
    sizes = {name: float(gradient.norm()) for name, gradient in other.gradients.items()}
    least = max(sizes.values()) / 200
    return max(
        float((one.gradients[name] - other.gradients[name]).norm()) / max(size, least) for name, size in sizes.items()
    )


SWITCHES = {
    "packed rows": dataclasses.replace(PLAIN, packed_rows=True),
    "fused layers": dataclasses.replace(PLAIN, packed_rows=True, fused_layers=True),
    "shared beginnings": dataclasses.replace(PLAIN, packed_rows=True, shared_beginnings=True),
    "kept weights": dataclasses.replace(PLAIN, keep_weights=True),
    "all": ALL,
    "all but packed rows": dataclasses.replace(ALL, packed_rows=False, fused_layers=False),
    "all but fused layers": dataclasses.replace(ALL, fused_layers=False),
    "all but shared beginnings": dataclasses.replace(ALL, shared_beginnings=False),
    "all but kept weights": dataclasses.replace(ALL, keep_weights=False),
}


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("question_loss_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("examples", [EXAMPLES, ALIKE], ids=["apart", "alike"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"lora_targets": "attention"}, {"use_rslora": True, "lora_rank": 3}],
    ids=["all seven", "attention", "rsLoRA, odd rank"],
)
def test_in_fp32_each_switch_gives_the_plain_loss_and_gradients(
    base: BaseModel, name: str, changes: dict[str, Any], question_loss_weight: float, examples: list[dict[str, Any]]
) -> None:
    config = dataclasses.replace(CONFIG, lora_dropout=0.0, **changes)
    plain = step(base, config, PLAIN, torch.float32, question_loss_weight, examples)
    quick = step(base, config, SWITCHES[name], torch.float32, question_loss_weight, examples)
    assert quick.loss == pytest.approx(plain.loss, rel=1e-5)
    assert distance(quick, plain) < 1e-5
    assert min(float(gradient.norm()) for gradient in plain.gradients.values()) > 0


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_qwen"])
def other_base(request: pytest.FixtureRequest) -> Iterator[BaseModel]:
    """A Llama with a head of its own and wide heads, and a Qwen 2 with biases and tied embeddings."""
    base = load_base(Task(model=str(request.getfixturevalue(request.param)), data="unused"))
    drop_weights(base.model)
    yield base
    compute_in(base.model, compute_dtype())
    drop_weights(base.model)


@pytest.mark.parametrize("name", ["packed rows", "fused layers", "all"])
@pytest.mark.parametrize("examples", [EXAMPLES, ALIKE], ids=["apart", "alike"])
@pytest.mark.parametrize("targets", ["all", "attention"])
def test_other_families_have_their_plain_loss_and_gradients_too(
    other_base: BaseModel, name: str, targets: Any, examples: list[dict[str, Any]]
) -> None:
    assert fused_layers.can_fuse(other_base.model)
    config = dataclasses.replace(CONFIG, lora_dropout=0.0, lora_targets=targets)
    plain = step(other_base, config, PLAIN, torch.float32, examples=examples)
    quick = step(other_base, config, SWITCHES[name], torch.float32, examples=examples)
    assert quick.loss == pytest.approx(plain.loss, rel=1e-5)
    assert distance(quick, plain) < 1e-5
    assert min(float(gradient.norm()) for gradient in plain.gradients.values()) > 0


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("question_loss_weight", [0.0, 1.0])
@pytest.mark.parametrize("examples", [EXAMPLES, ALIKE], ids=["apart", "alike"])
def test_in_bf16_each_switch_is_as_near_to_fp32_as_the_plain_path(
    base: BaseModel, name: str, question_loss_weight: float, examples: list[dict[str, Any]]
) -> None:
    config = dataclasses.replace(CONFIG, lora_dropout=0.0)
    exact = step(base, config, PLAIN, torch.float32, question_loss_weight, examples)
    plain, quick = (
        step(base, config, speedups, torch.bfloat16, question_loss_weight, examples)
        for speedups in (PLAIN, SWITCHES[name])
    )
    # Each of the some 16 rounded results that a gradient passes through in each of two layers, forwards and
    # backwards, moves it by up to BF16 / 2; independent errors add up by their squares.
    allowed = BF16 / 2 * (2 * 2 * 16) ** 0.5
    assert quick.loss == pytest.approx(exact.loss, rel=allowed)
    assert distance(quick, exact) < 2 * allowed
    assert distance(quick, exact) < 1.5 * distance(plain, exact)


def test_dropout_drops_as_it_says_with_a_mask_for_each_projection(base: BaseModel) -> None:
    """Outputs and gradients are those of the formula with the masks that were drawn."""
    config = dataclasses.replace(CONFIG, lora_dropout=0.4)
    compute_in(base.model, torch.float32)
    with base.new_adapter(config) as model:
        attention = model.base_model.model.model.layers[0].self_attn
        layers = [attention.q_proj, attention.k_proj, attention.v_proj]
        for layer in layers:
            torch.nn.init.normal_(layer.lora_B["default"].weight)
        factors = [layer.lora_A["default"].weight for layer in layers]
        factors += [layer.lora_B["default"].weight for layer in layers]
        plain = [factor.detach().clone().requires_grad_() for factor in factors]
        adapter = Adapter([layers], torch.float32)
        adapter.round()
        projections = Projections(layers, adapter, 0)
        rows = torch.randn(50, 64, requires_grad=True)
        weights = [torch.randn(50, layer.out_features) for layer in layers]
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            outputs, kept = projections.forward(rows.detach())
            of_rows = projections.backward(rows.detach(), kept, weights)
        torch.manual_seed(3)
        masks, expected = [], []
        for number, layer in enumerate(layers):
            masks.append(torch.native_dropout(rows.detach(), 0.4, True)[1])
            a, b = plain[number], plain[number + 3]
            expected.append(rows @ weight_of(layer.get_base_layer()).T + 2.0 * (rows * masks[-1] / 0.6) @ a.T @ b.T)
        sum(((output * w).sum() for output, w in zip(expected, weights, strict=True)), torch.zeros(())).backward()
        for output, wanted in zip(outputs, expected, strict=True):
            torch.testing.assert_close(output, wanted.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(of_rows, rows.grad, rtol=1e-4, atol=1e-4)
        model.register_parameter("adapter_values", adapter.values)
        for gradient, factor in zip(_views_of_gradient(model, factors), plain, strict=True):
            torch.testing.assert_close(gradient, factor.grad, rtol=1e-4, atol=1e-3)
        assert not torch.equal(masks[0], masks[1])
        assert float(torch.stack(masks).float().mean()) == pytest.approx(0.6, abs=0.02)
        model.eval()
        assert torch.equal(projections.forward(rows.detach())[0][0], projections.forward(rows.detach())[0][0])


def _views_of_gradient(model: Any, parameters: list[Any]) -> list[torch.Tensor]:
    flat, start = model.adapter_values.grad, model.adapter_values.data_ptr()
    offsets = [(parameter.data_ptr() - start) // 4 for parameter in parameters]
    return [
        flat[offset : offset + parameter.numel()].view_as(parameter)
        for offset, parameter in zip(offsets, parameters, strict=True)
    ]


def test_kept_weights_are_the_same_model_bit_for_bit(base: BaseModel) -> None:
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        before = base.model(ids).logits
        keep_weights(base.model)
        assert kept_bytes(base.model) == bytes_to_keep(base.model) > 0
        assert torch.equal(base.model(ids).logits, before)
        drop_weights(base.model)
        assert kept_bytes(base.model) == 0
        assert torch.equal(base.model(ids).logits, before)


def test_weights_are_kept_for_scoring_where_there_is_room(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medqa.memory._CPU_KEEPS_BYTES", bytes_to_keep(base.model) - 1)
    keep_weights_if_roomy(base.model)
    assert kept_bytes(base.model) == 0
    monkeypatch.setattr("medqa.memory._CPU_KEEPS_BYTES", bytes_to_keep(base.model))
    keep_weights_if_roomy(base.model)
    assert kept_bytes(base.model) == bytes_to_keep(base.model)


def test_a_token_of_a_packed_row_sees_its_own_sequence_only(base: BaseModel) -> None:
    sequences = [torch.arange(5, 5 + length) for length in LENGTHS]
    others = [torch.arange(900, 900 + length) for length in LENGTHS]
    compute_in(base.model, torch.float32)
    with torch.no_grad(), packed_attention(base.model):
        row = base.model(**pack(sequences), use_cache=False).logits[0].split(LENGTHS)
        mixed = base.model(**pack([others[0], sequences[1], *others[2:]]), use_cache=False).logits[0].split(LENGTHS)
    torch.testing.assert_close(mixed[1], row[1], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for sequence, logits in zip(sequences, row, strict=True):
            torch.testing.assert_close(base.model(sequence[None]).logits[0], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fused", [True, False])
def test_a_window_shorter_than_a_sequence_is_refused(base: BaseModel, fused: bool) -> None:
    base.model.config.sliding_window = 8
    if not fused:
        unfuse_layers(base.model)
    try:
        with packed_attention(base.model), pytest.raises(ModelError, match="looks back over 8 tokens"):
            base.model(**pack([torch.arange(5, 15)]), use_cache=False)
    finally:
        base.model.config.sliding_window = None
        base.fuse()


def losses(config: TrialConfig, task: Task, run_dir: Path, speedups: Speedups = ALL) -> list[float]:
    seen: list[Evaluation] = []
    train(config, task, run_dir, "a_trial", seen.append, speedups)
    return [value for row in seen for value in (row.train_loss, row.answer_nll, row.lm_loss)]


@pytest.mark.parametrize("name", ["packed rows", "fused layers", "kept weights", "all but shared beginnings", "all"])
def test_a_trial_with_each_switch_has_the_plain_trials_curve(task: Task, tmp_path: Path, name: str) -> None:
    config = dataclasses.replace(CONFIG, lora_dropout=0.0, optim="adamw_torch")
    plain = losses(config, task, tmp_path / "plain", PLAIN)
    quick = losses(config, task, tmp_path / "quick", SWITCHES[name])
    assert len(plain) == 9
    # nine steps, each from weights that differ by the rounding of those before
    assert quick == pytest.approx(plain, rel=9 * BF16 / 2)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_micro_batches_of_any_size_give_the_same_curve(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    config = dataclasses.replace(CONFIG, lora_dropout=0.0, question_loss_weight=weight, effective_batch_size=16)
    curves = {}
    for size, accumulation in ((16, 1), (8, 2), (1, 16)):
        monkeypatch.setattr("medqa.training.plan_memory", _fixed(MemoryPlan(size, accumulation, False)))
        curves[size] = losses(config, task, tmp_path / str(size))
        assert record.read_plan(tmp_path / str(size)).micro_batch_size == size
    assert curves[8] == pytest.approx(curves[16], rel=3 * BF16)
    assert curves[1] == pytest.approx(curves[16], rel=3 * BF16)


def _fixed(plan: MemoryPlan) -> Callable[..., MemoryPlan]:
    return lambda *_: plan


def test_gradient_checkpointing_computes_each_layer_twice_and_changes_no_bit(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, times = fused_layers._FusedLayer.forward, []

    def forward(layer: Any, hidden: torch.Tensor, rows: Any) -> Any:
        times.append(1)
        return real(layer, hidden, rows)

    monkeypatch.setattr(fused_layers._FusedLayer, "forward", forward)
    curves, counts = [], []
    for checkpointing in (False, True):
        times.clear()
        monkeypatch.setattr("medqa.training.plan_memory", _fixed(MemoryPlan(4, 1, checkpointing)))
        curves.append(losses(CONFIG, task, tmp_path / str(checkpointing)))
        counts.append(len(times))
    assert curves[0] == curves[1]
    assert counts[1] - counts[0] == 9 * 2  # nine steps of two layers


def test_a_used_worker_trains_as_a_fresh_one(task: Task, tmp_path: Path) -> None:
    """Bit for bit, after trials of other ranks, targets and paths, and whether the weights were kept or not."""
    first = losses(CONFIG, task, tmp_path / "first")
    others = {
        "rank": (dataclasses.replace(CONFIG, lora_rank=8), ALL),
        "attention": (dataclasses.replace(CONFIG, lora_targets="attention"), ALL),
        "plain": (CONFIG, PLAIN),
        "padded": (CONFIG, dataclasses.replace(ALL, packed_rows=False)),
        "weights": (CONFIG, dataclasses.replace(ALL, keep_weights=False)),
    }
    for name, (config, speedups) in others.items():
        losses(config, task, tmp_path / name, speedups)
    assert losses(CONFIG, task, tmp_path / "again") == first


def test_a_trial_drops_its_adapters_inputs_while_it_trains(task: Task, tmp_path: Path) -> None:
    """The same trial with and without dropout parts at the first evaluation; in evaluations nothing is dropped."""
    curves = [
        losses(dataclasses.replace(CONFIG, lora_dropout=dropout), task, tmp_path / str(dropout))
        for dropout in (0.0, 0.6)
    ]
    assert curves[0][0] != curves[1][0]
    config = dataclasses.replace(CONFIG, learning_rate=1e-8)
    calm = [losses(dataclasses.replace(config, lora_dropout=p), task, tmp_path / f"calm-{p}") for p in (0.0, 0.6)]
    assert calm[0][1::3] == pytest.approx(calm[1][1::3], rel=BF16)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_memory_estimate_counts_what_autograd_keeps_of_a_layer(base: BaseModel, dropout: float) -> None:
    """Measured as what two layers keep more than one does, without the parameters, in bf16 as on a GPU."""
    config = dataclasses.replace(CONFIG, lora_dropout=dropout)
    compute_in(base.model, torch.bfloat16)
    keep_weights(base.model)
    sequences = [torch.arange(5, 45)] * 5
    with base.new_adapter(config) as model, packed_attention(base.model):
        model.train()
        shape = Shape.of(base.model, config, fused=True)
        parameters = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *base.model.buffers()]}
        passes = [functools.partial(_first_layers, base.model, number, pack(sequences)) for number in (1, 2)]
        kept = [_kept_bytes(forward, parameters) for forward in passes]
    # only the GPU's attention keeps a sum for each head
    assert shape.layer_bytes() - 4 * shape.heads == pytest.approx((kept[1] - kept[0]) / 200, rel=0.05)


def _first_layers(model: Any, number: int, row: dict[str, Any]) -> torch.Tensor:
    layers, model.config.num_hidden_layers = model.config.num_hidden_layers, number
    try:
        return model.model(**row, use_cache=False).last_hidden_state
    finally:
        model.config.num_hidden_layers = layers


def _kept_bytes(forward: Callable[[], torch.Tensor], but: set[int]) -> int:
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in but:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()
    assert output.requires_grad
    return sum(seen.values())
