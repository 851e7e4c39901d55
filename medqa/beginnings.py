"""Sequences computed in two parts: their beginnings once, then what follows, which looks back on these.

Shape letters: N tokens of a packed row, K tokens that it looks on, B sequences, H heads of keys, D units of a head,
V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from medqa.fused_layers import logits_at
from medqa.packing import pack

Layers = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""A layer's number to the keys and the values of a packed row, (N, H, D) each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginnings:
    """What a model keeps of the beginnings that it has read."""

    starts: list[int]
    """Where each lies in the row, and the row's end, (B + 1)."""
    layers: Layers
    logits_BV: torch.Tensor
    """After each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LookBack:
    """What a layer's attention does with the keys and values of a packed row beside using them."""

    layers: Layers = field(default_factory=dict)
    """Of the beginnings: to be filled by their own row, to stand before the row of what follows."""

    def extend(self, layer: int, key_NHD: torch.Tensor, value_NHD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values to look on: the row's own behind those of beginnings, which are remembered."""
        if layer not in self.layers:
            self.layers[layer] = key_NHD, value_NHD
            return key_NHD, value_NHD
        known_key, known_value = self.layers[layer]
        return torch.cat([known_key, key_NHD]), torch.cat([known_value, value_NHD])


def read_beginnings(model: Any, sequences: Sequence[Sequence[int]]) -> Beginnings:
    """Compute sequences of token ids in one packed row, with packed attention, and keep their keys and values."""
    look_back = LookBack()
    logits_BV = _logits(model, sequences, look_back, pack([torch.tensor(one) for one in sequences]))
    starts = [0, *itertools.accumulate(map(len, sequences))]
    return Beginnings(starts=starts, layers=look_back.layers, logits_BV=logits_BV)


def follow(
    model: Any, beginnings: Beginnings, owners: Sequence[int], sequences: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return the logits after sequences of token ids (B, V), each computed as if it stood behind its beginning.

    Args:
        model: The one that has read the beginnings, with packed attention.
        beginnings: What it kept of them.
        owners: Number of each sequence's beginning.
        sequences: At least one token each.
    """
    row = pack([torch.tensor(one) for one in sequences])
    looked_on, offset = [], beginnings.starts[-1]
    for owner, sequence in zip(owners, sequences, strict=True):
        looked_on.append(torch.arange(*beginnings.starts[owner : owner + 2]))
        looked_on.append(torch.arange(offset, offset + len(sequence)))
        offset += len(sequence)
    lengths = [beginnings.starts[owner + 1] - beginnings.starts[owner] for owner in owners]
    whole = [length + len(sequence) for length, sequence in zip(lengths, sequences, strict=True)]
    before_N = torch.tensor(lengths).repeat_interleave(torch.tensor([len(sequence) for sequence in sequences]))
    row["position_ids"] = row["position_ids"] + before_N
    row["cu_seq_lens_k"] = torch.tensor([0, *itertools.accumulate(whole)], dtype=torch.int32)
    row["max_length_k"] = max(whole)
    row["looked_on"] = torch.cat(looked_on)
    return _logits(model, sequences, LookBack(layers=beginnings.layers), row)


def _logits(
    model: Any, sequences: Sequence[Sequence[int]], look_back: LookBack, packed: dict[str, Any]
) -> torch.Tensor:
    device = model.get_input_embeddings().weight.device
    row = {name: part.to(device) if isinstance(part, torch.Tensor) else part for name, part in packed.items()}
    ends_B = torch.tensor([*itertools.accumulate(map(len, sequences))], device=device) - 1
    return logits_at(model, row | {"look_back": look_back}, ends_B)
