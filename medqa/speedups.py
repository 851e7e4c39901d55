"""Ways to the same numbers in less time, each of which can be left out to see that they are the same."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Speedups:
    """What a training uses; a trial uses all, the tests and the benchmark leave some out."""

    packed_rows: bool = True
    """Examples laid end to end instead of padded."""
    fused_layers: bool = True
    """Packed rows through `medqa.fused_layers` in bf16, instead of transformers' and PEFT's layers under autocast; and
    the loss at places that the host knows, instead of those that TRL's head looks for."""
    shared_beginnings: bool = True
    """The tokens with which all prompts begin computed once in a packed row, in fused layers without dropout."""
    keep_weights: bool = True
    """The NF4 weights worked out once where memory allows, instead of at each use."""


ALL = Speedups()
PLAIN = Speedups(packed_rows=False, fused_layers=False, shared_beginnings=False, keep_weights=False)
"""The plain path: what TRL, PEFT and bitsandbytes do by themselves."""


@functools.cache
def has_layer_kernels() -> bool:
    """Whether Liger's kernels are installed; they run on a GPU only."""
    return importlib.util.find_spec("liger_kernel") is not None
