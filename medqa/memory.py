"""Free GPU memory, model shape, sequence lengths and LoRA rank -> how one optimizer step is computed soonest.

The estimate counts the tensors that autograd keeps for the backward pass of one layer, in bytes a token, from the
model's shape; tests/benchmarks/gpu_trial.py holds it against measured peaks.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from medqa.config import TrialConfig
from medqa.errors import GpuMemoryError

SAFE_SHARE = 0.92
"""Share of the free memory that a plan may fill; the rest is for the allocator's gaps."""
_BYTES_PER_ADAPTER_PARAMETER = 14
"""fp32 value and gradient, a bf16 copy where it multiplies, two 8-bit moments, and what clipping works with."""
_BYTES_OF_FULL_MOMENTS = 6
"""What fp32 moments have more than 8-bit ones."""
_FIXED_BYTES = 512 << 20
"""cuBLAS's workspaces, dequantised weights of the moment, and what else does not grow with the batch."""
_HEAD_ROWS = 4096
"""Rows whose logits TRL's head holds at a time."""
HEAD_VOCABULARY = 32_768
"""Tokens of the vocabulary whose logits it holds at a time, TRL's own number."""
_SMALLEST_KERNEL_TOKENS = 160
"""Tokens whose forward pass takes as long as reading all weights once: 14 GB at 4.3 TB/s against 14.2 GFLOP a token at
700 TFLOP/s, on an H200; other GPUs have like ratios."""
_DEQUANTIZATION_TOKENS = 250
"""The same for working out all NF4 weights once: 3.5 GB read, 14 GB written."""
_CPU_KEEPS_BYTES = 1 << 30
"""On the CPU the weights of models up to this size are kept: the demo's and the tests'."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How one optimizer step is computed; every plan gives the same step."""

    micro_batch_size: int
    accumulation_steps: int
    gradient_checkpointing: bool
    keep_weights: bool = False
    """Whether the NF4 weights are worked out once and kept."""
    halvings: int = 0
    """How often an earlier plan of the trial ran out of memory."""
    estimated_gib: float = field(default=0.0, compare=False)
    """Peak GPU memory in GiB that the estimate gives; 0.0 on the CPU, and after the memory ran out."""

    def smaller(self, reason: str) -> MemoryPlan:
        """Return the plan to try after this one ran out of memory: half the micro-batch, then all that saves memory.

        An odd micro-batch becomes the largest divisor of the effective batch that is at most half of it. With one
        example the weights are not kept and layers are checkpointed.

        Raises:
            GpuMemoryError: with `reason` when there is no smaller plan.
        """
        effective, tries = self.micro_batch_size * self.accumulation_steps, self.halvings + 1
        if self.micro_batch_size > 1:
            size = max(size for size in range(1, self.micro_batch_size // 2 + 1) if effective % size == 0)
            return MemoryPlan(size, effective // size, self.gradient_checkpointing, self.keep_weights, tries)
        if self.keep_weights or not self.gradient_checkpointing:
            return MemoryPlan(1, effective, True, False, tries)
        raise GpuMemoryError(
            f"out of GPU memory with one example at a time and gradient checkpointing ({reason}): "
            "use a GPU with more memory, or a lower max_length"
        )


def plan_memory(
    model: Any, lengths: Sequence[int], config: TrialConfig, may_keep_weights: bool = True, fused: bool = True
) -> MemoryPlan:
    """Choose the quickest plan whose largest micro-batch fits the free memory of the model's device.

    On the CPU a step is one micro-batch.

    Args:
        model: transformers model of NF4 linear layers, already on its device.
        lengths: Tokens of each training example, in the order in which they are trained on.
        config: The trial's hyperparameters.
        may_keep_weights: Whether a plan may keep the dequantised weights.
        fused: Whether the layers are those of `medqa.fused_layers`.
    """
    import torch

    from medqa.weights import bytes_to_keep, kept_bytes, scale_bytes

    device = model.get_input_embeddings().weight.device
    if device.type == "cpu":
        return MemoryPlan(
            config.effective_batch_size, 1, False, may_keep_weights and bytes_to_keep(model) <= _CPU_KEEPS_BYTES
        )
    free = _free_bytes(device) + kept_bytes(model)
    allocated = torch.cuda.memory_allocated(device) - kept_bytes(model)
    shape = Shape.of(model, config, fused)
    candidates = sorted(_plans(lengths, config.effective_batch_size, may_keep_weights), key=lambda plan: plan.cost)
    for candidate in candidates:
        needed = shape.peak_bytes(candidate.tokens, candidate.checkpointing)
        needed += bytes_to_keep(model) if candidate.keep_weights else scale_bytes(model)
        if needed <= SAFE_SHARE * free:
            break
    size = candidate.size
    return MemoryPlan(
        size,
        config.effective_batch_size // size,
        candidate.checkpointing,
        candidate.keep_weights,
        estimated_gib=(allocated + needed) / 2**30,
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    size: int
    tokens: int
    """Of the largest micro-batch."""
    checkpointing: bool
    keep_weights: bool
    cost: float
    """Time of a step in tokens' forward passes."""


def _plans(lengths: Sequence[int], effective_batch_size: int, may_keep: bool) -> Iterator[_Candidate]:
    mean = sum(lengths) / len(lengths)
    for size in range(1, effective_batch_size + 1):
        if effective_batch_size % size:
            continue
        tokens = max(sum(lengths[start : start + size]) for start in range(0, len(lengths), size))
        for checkpointing in (False, True):
            for keep in (True, False)[not may_keep :]:
                passes = 3 if checkpointing else 2
                once = _SMALLEST_KERNEL_TOKENS + (0 if keep else _DEQUANTIZATION_TOKENS)
                cost = effective_batch_size / size * passes * (once + size * mean)
                yield _Candidate(size, tokens, checkpointing, keep, cost)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What the bytes of a training step depend on beside its tokens."""

    hidden: int
    query: int
    """Units of all query heads."""
    key: int
    """Units of all key heads."""
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    adapter_bytes: int
    """Of the adapter's values and of all that trains them."""
    rank: int
    dropout: bool
    whole_text: bool
    """Whether the loss is on more than the answer."""
    fused: bool
    """Whether the layers are those of `medqa.fused_layers`."""

    @classmethod
    def of(cls, model: Any, config: TrialConfig, fused: bool) -> Shape:
        """Return the shape of a model with the adapter of `config`."""
        form = model.config
        head = getattr(form, "head_dim", None) or form.hidden_size // form.num_attention_heads
        query, key = form.num_attention_heads * head, form.num_key_value_heads * head
        hidden, intermediate = form.hidden_size, form.intermediate_size
        sides = 2 * (hidden + query) + 2 * (hidden + key)
        if config.lora_targets == "all":
            sides += 3 * (hidden + intermediate)
        return cls(
            hidden=hidden,
            query=query,
            key=key,
            intermediate=intermediate,
            layers=form.num_hidden_layers,
            heads=form.num_attention_heads,
            vocabulary=form.vocab_size,
            adapter_bytes=sides * config.lora_rank * form.num_hidden_layers * _bytes_per_parameter(config),
            rank=config.lora_rank,
            dropout=config.lora_dropout > 0,
            whole_text=config.question_loss_weight > 0,
            fused=fused,
        )

    def peak_bytes(self, tokens: int, checkpointing: bool) -> int:
        """Return the bytes that training on a micro-batch of this many tokens needs beside the base's weights."""
        layer = self.layer_bytes() * tokens
        kept = 2 * self.hidden * self.layers * tokens + layer if checkpointing else layer * self.layers
        backward = 2 * (3 * self.intermediate + 4 * self.hidden) * tokens
        rows = min(tokens, _HEAD_ROWS) if self.whole_text else 0
        head = rows * min(self.vocabulary, HEAD_VOCABULARY) * 2 + 12 * self.hidden * tokens * self.whole_text
        ends = 6 * self.hidden * tokens
        return int(kept + max(backward, head) + ends + self.adapter_bytes + _FIXED_BYTES)

    def layer_bytes(self) -> int:
        """Return the bytes that autograd keeps of one token in one layer."""
        # residual stream and its norm, twice; q, k, v and attention's output; gate, up and their product
        kept = 2 * (4 * self.hidden + 2 * self.query + 2 * self.key + 3 * self.intermediate)
        kept += 4 * self.heads + 2 * 7 * self.rank
        if self.dropout:  # one byte of mask for each unit that an A reads
            kept += 5 * self.hidden + self.query + self.intermediate
        if not self.fused:  # the norms' fp32 copies and rounded results, and silu's result
            kept += 2 * (4 + 4 + 2) * self.hidden + 2 * self.intermediate
        return int(kept)


def _bytes_per_parameter(config: TrialConfig) -> int:
    return _BYTES_PER_ADAPTER_PARAMETER + (0 if config.optim.endswith("8bit") else _BYTES_OF_FULL_MOMENTS)


def _free_bytes(device: Any) -> int:
    """Return what this process may still take of the GPU's memory: what is free, or what its share leaves."""
    import torch

    free, total = (int(size) for size in torch.cuda.mem_get_info(device))
    share = torch.cuda.get_per_process_memory_fraction(device)
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return int(min(free, share * total - reserved) + reserved - allocated)


def keep_weights_if_roomy(model: Any) -> None:
    """Keep the dequantised weights for scoring where they take less than half of what is free."""
    import torch

    from medqa.weights import bytes_to_keep, keep_weights, kept_bytes

    device = model.get_input_embeddings().weight.device
    on_cpu = device.type == "cpu"
    room = _CPU_KEEPS_BYTES if on_cpu else (_free_bytes(device) + kept_bytes(model)) // 2
    if bytes_to_keep(model) <= room:
        with contextlib.suppress(torch.OutOfMemoryError):
            keep_weights(model)


def reserve(plan: MemoryPlan) -> None:
    """Take the memory of a plan at once: taken piece by piece as batches get longer, it makes the first steps slow."""
    import torch

    if not torch.cuda.is_available():
        return
    missing = int(plan.estimated_gib * 2**30) - torch.cuda.memory_allocated()
    with contextlib.suppress(torch.OutOfMemoryError):
        torch.empty(max(0, missing), dtype=torch.uint8, device="cuda")


def halving_batches(work: Callable[[int], Result], tokens_per_batch: int, least: int) -> Result:
    """Return what `work` returns for a number of tokens in a batch, halved as long as a GPU's memory runs out.

    Raises:
        torch.OutOfMemoryError: when it runs out with `least` tokens, which a single item has, or fewer.
    """
    import torch

    while True:
        try:
            return work(tokens_per_batch)
        except torch.OutOfMemoryError:
            if tokens_per_batch <= least:
                raise
        # here and not above: the error holds on to the tensors of the batch that failed
        free_memory()
        tokens_per_batch //= 2


def free_memory() -> None:
    """Give what nothing refers to any more back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
