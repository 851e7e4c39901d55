"""Free GPU memory -> micro-batch, accumulation and checkpointing at the same effective batch."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from medqa.errors import GpuMemoryError

_SAFE_SHARE = 0.85
"""Share of the free memory that a plan may fill; the rest is for the allocator's gaps."""
_ACTIVATION_BYTES = 46
"""Bytes kept for the backward pass per token, layer and hidden unit; from 96 GiB at 16 x 1,024 tokens of a
7B model (32 layers, 4,096 units) on one H200."""
_CHECKPOINT_BYTES = 6
"""The same with gradient checkpointing: a layer's bf16 input, and the fp32 copy that its recomputation makes."""
_LOGIT_BYTES = 10
"""Bytes per token and vocabulary entry in the widest moment of the loss."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How one optimizer step is split; every plan gives the same step."""

    micro_batch_size: int
    accumulation_steps: int
    gradient_checkpointing: bool
    halvings: int = 0
    """How often an earlier plan of the trial ran out of memory."""

    def smaller(self, reason: str) -> MemoryPlan:
        """Return the plan to try after this one ran out of memory: the micro-batch halved, then checkpointing.

        An odd micro-batch becomes the largest divisor of the effective batch that is at most half of it.

        Raises:
            GpuMemoryError: with `reason` when there is no smaller plan.
        """
        effective, tries = self.micro_batch_size * self.accumulation_steps, self.halvings + 1
        if self.micro_batch_size > 1:
            size = max(size for size in range(1, self.micro_batch_size // 2 + 1) if effective % size == 0)
            return MemoryPlan(size, effective // size, self.gradient_checkpointing, tries)
        if not self.gradient_checkpointing:
            return MemoryPlan(1, effective, True, tries)
        raise GpuMemoryError(
            f"out of GPU memory with one example at a time and gradient checkpointing ({reason}): "
            "use a GPU with more memory, or a lower max_length"
        )


def plan_memory(model: Any, longest: int, effective_batch_size: int) -> MemoryPlan:
    """Choose the fastest plan whose longest batch fits the free memory of the model's device.

    Without checkpointing is faster than with it, and large micro-batches are faster than small ones. On the
    CPU a step is one micro-batch.

    Args:
        model: transformers model, already on its device.
        longest: Tokens of the longest training example.
        effective_batch_size: Examples per optimizer step.
    """
    import torch

    device = model.get_input_embeddings().weight.device
    if device.type == "cpu":
        return MemoryPlan(effective_batch_size, 1, False)
    free, _ = torch.cuda.mem_get_info(device)
    sizes = [size for size in range(effective_batch_size, 0, -1) if effective_batch_size % size == 0]
    roomy = [(size, False) for size in sizes if size * 4 >= effective_batch_size]
    for size, checkpointing in roomy + [(size, True) for size in sizes]:
        if _estimate(model.config, size * longest, checkpointing) <= _SAFE_SHARE * free:
            return MemoryPlan(size, effective_batch_size // size, checkpointing)
    return MemoryPlan(1, effective_batch_size, True)


def _estimate(config: Any, tokens: int, checkpointing: bool) -> float:
    """Return the bytes that a micro-batch of this many padded tokens needs beside the weights."""
    per_unit = _CHECKPOINT_BYTES if checkpointing else _ACTIVATION_BYTES
    kept = tokens * config.hidden_size * config.num_hidden_layers * per_unit
    one_layer = tokens * config.hidden_size * _ACTIVATION_BYTES if checkpointing else 0
    return float(kept + one_layer + tokens * config.vocab_size * _LOGIT_BYTES)


def free_memory() -> None:
    """Give what nothing refers to any more back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
