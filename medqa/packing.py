"""Sequences laid end to end in one row, so that no token of a batch is padding; attention stays within each.

Tokens with which all begin alike, as prompts do, can lie in the row once: causal attention gives them the same hidden
states before whatever follows.

Shape letters: N tokens of the row, K tokens that its sequences look on, B sequences, H heads, D units of a head, T
tokens of the longest sequence.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

from medqa.errors import ModelError
from medqa.kernels import attend, require_window, rows_of

_ATTENTION = "packed_rows"
_FEWEST_SHARED = 8
"""Tokens to have once: to look on fewer elsewhere costs as much as to compute them again."""
_MOST_ROUNDING = 0.1
"""Relative distance of logits up to which two ways to the same numbers may part in bf16, some 0.01 a layer."""


def pack(sequences: Sequence[torch.Tensor], shared: int = 0) -> dict[str, Any]:
    """Return what a model takes for one packed row.

    Args:
        sequences: At least one token each beside the shared ones.
        shared: First tokens that are the same in all; only the first sequence has them in the row.

    Returns:
        input_ids and position_ids (1, N), each sequence's positions starting at 0; where each sequence starts and the
        last ends, in the row and among what is looked on, (B + 1); and the longest length of each: under the names that
        transformers gives them. With shared tokens also looked_on: the places in the row that each sequence looks on,
        in turn (K).
    """
    first, *others = sequences
    kept = [first, *(sequence[shared:] for sequence in others)]
    lengths, whole = torch.tensor([*map(len, kept)]), torch.tensor([*map(len, sequences)])
    positions = [torch.arange(end - size, end) for size, end in zip(lengths.tolist(), whole.tolist(), strict=True)]
    row = {
        "input_ids": torch.cat(kept)[None],
        "position_ids": torch.cat(positions)[None],
        "cu_seq_lens_q": _starts(lengths),
        "cu_seq_lens_k": _starts(whole),
        "max_length_q": int(lengths.max()),
        "max_length_k": int(whole.max()),
    }
    if shared:
        own = torch.arange(int(lengths.sum())).split(lengths.tolist())
        row["looked_on"] = torch.cat([own[0], *(torch.cat([own[0][:shared], places]) for places in own[1:])])
    return row


def shared_tokens(sequences: Sequence[Sequence[int]], at_most: int) -> int:
    """Return how many first tokens of all sequences a row should have once; 0 where it would not pay.

    It is one less than they share, so that one token follows each that lies there once, the same in all sequences.
    """
    if len(sequences) < 2:
        return 0
    alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False))
    shared = min(sum(1 for _ in alike) - 1, at_most)
    return shared if shared >= _FEWEST_SHARED else 0


def _starts(lengths: torch.Tensor) -> torch.Tensor:
    return functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


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
