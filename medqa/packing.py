"""Sequences laid end to end in one row, so that no token of a batch is padding; attention stays within each.

Shape letters: N tokens of all sequences, B sequences, H heads, D units of a head, T tokens of the longest sequence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

from medqa.errors import ModelError
from medqa.kernels import attend, require_window, rows_of

_ATTENTION = "packed_rows"
_MOST_ROUNDING = 0.1
"""Relative distance of logits up to which two ways to the same numbers may part in bf16, some 0.01 a layer."""


def pack(sequences: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Return what a model takes for one packed row.

    Returns:
        input_ids and position_ids (1, N), each sequence's positions starting at 0; where each sequence starts and the
        last ends, (B + 1); and the longest length: under the names that transformers gives them.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    starts = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    longest = int(lengths.max())
    positions_N = torch.cat([torch.arange(length) for length in lengths.tolist()])
    return {
        "input_ids": torch.cat(list(sequences))[None],
        "position_ids": positions_N[None],
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def batches(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Yield numbers of sequences of like length, longest first, whose tokens stay within the bound, or one alone."""
    batch: list[int] = []
    tokens = 0
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        if batch and tokens + lengths[number] > tokens_per_batch:
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += lengths[number]
    if batch:
        yield batch


@contextlib.contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Let the model attend within each sequence of packed rows; rows that are not packed cannot be used inside."""
    before = model.config._attn_implementation
    model.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def require_separate_sequences(model: Any) -> None:
    """Try whether a token of a packed row sees its own sequence alone, for models of which no test here knows it.

    Raises:
        ModelError: when it does not: the model's layers mix tokens in a way of their own.
    """
    first_T, second_T = torch.arange(5, 25), torch.arange(30, 50)
    device = model.get_input_embeddings().weight.device
    rows = [
        {name: part.to(device) if isinstance(part, torch.Tensor) else part for name, part in pack(sequences).items()}
        for sequences in ([second_T], [first_T, second_T])
    ]
    with torch.no_grad(), packed_attention(model):
        alone_TV, behind_TV = (model(**row, use_cache=False).logits[0, -len(second_T) :].float() for row in rows)
    if float((behind_TV - alone_TV).norm() / alone_TV.norm()) > _MOST_ROUNDING:
        raise ModelError(
            f"{type(model).__name__} answers otherwise behind another text in the same row: its layers cannot take "
            "examples laid end to end; choose another model"
        )


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **row: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence of a packed row, as transformers calls it.

    Args:
        module: The attention layer.
        query: (1, H, N, D).
        key: (1, H of keys, N, D); each of its heads serves as many of the query's as the numbers say.
        value: As key.
        attention_mask: None: the row's sequences say all.
        scaling: Factor of the scores.
        row: What `pack` says of the row.

    Returns:
        (1, N, H, D), and no weights.

    Raises:
        ModelError: when the model's attention looks back over a window shorter than a sequence.
    """
    require_window(module.config, row["max_length_k"])
    query_NHD, key_NHD, value_NHD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    attended_NHD, _ = attend(query_NHD, key_NHD, value_NHD, rows_of(row), scaling, module.layer_idx)
    return attended_NHD[None], None


AttentionInterface.register(_ATTENTION, _attend)
