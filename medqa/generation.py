"""Model x questions -> the text that each answer begins with, by greedy generation; read beside the letters' scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from medqa.beginnings import follow, read_beginnings
from medqa.errors import DataError
from medqa.memory import halving_batches
from medqa.packing import batches, packed_attention
from medqa.prompt import TRAINING_WORDING, PromptEncoder
from medqa.questions import Question
from medqa.scoring import TOKENS_PER_BATCH, evaluation_mode

MOST_NEW_TOKENS = 5
"""Tokens after which a text ends if the model has not ended it: room for "The answer is B"."""


def generate_texts(
    model: Any,
    encoder: PromptEncoder,
    questions: Sequence[Question],
    *,
    wording: str = TRAINING_WORDING,
    exemplars: Sequence[Question] = (),
    most_new_tokens: int = MOST_NEW_TOKENS,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> tuple[str, ...]:
    """Return what the model writes after each prompt, the most probable token each time, special tokens left out.

    What transformers' `generate` writes greedily, but by the packed rows that the letters' scores are from. Where a
    batch runs out of GPU memory, all is generated again with half the tokens.

    Raises:
        DataError: when there are no questions, or a prompt and its text are longer than the model's positions.
        torch.OutOfMemoryError: when a single question does not fit.
    """
    if not questions:
        raise DataError("no questions to generate texts for")
    prompts = [item.prompt_ids for item in encoder.encode_all(questions, wording, exemplars)]
    _check_lengths(prompts, questions, model, most_new_tokens)
    generate = functools.partial(_generate, model, encoder.tokenizer, prompts, most_new_tokens)
    return halving_batches(generate, tokens_per_batch, max(map(len, prompts)))


def _generate(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], most_new_tokens: int, tokens_per_batch: int
) -> tuple[str, ...]:
    texts: dict[int, str] = {}
    with evaluation_mode(model), packed_attention(model):
        for rows in batches(list(map(len, prompts)), tokens_per_batch):
            written = _write(model, [prompts[row] for row in rows], most_new_tokens, tokenizer.eos_token_id)
            texts.update(zip(rows, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True))
    return tuple(texts[row] for row in range(len(prompts)))


def _write(model: Any, prompts: Sequence[list[int]], most_new_tokens: int, end: int) -> list[list[int]]:
    """Return the tokens after each prompt, up to the end token where one comes."""
    known = read_beginnings(model, prompts)
    written = [[token] for token in known.logits_BV.argmax(-1).tolist()]
    for _ in range(1, most_new_tokens):
        open_ones = [number for number, tokens in enumerate(written) if tokens[-1] != end]
        if not open_ones:
            break
        logits_BV = follow(model, known, open_ones, [written[number] for number in open_ones])
        for number, token in zip(open_ones, logits_BV.argmax(-1).tolist(), strict=True):
            written[number].append(token)
    return written


def _check_lengths(
    prompts: Sequence[list[int]], questions: Sequence[Question], model: Any, most_new_tokens: int
) -> None:
    longest = max(range(len(prompts)), key=lambda row: len(prompts[row]))
    limit, length = model.config.max_position_embeddings, len(prompts[longest]) + most_new_tokens
    if length > limit:
        raise DataError(
            f"question {questions[longest].id!r} and its text take {length} tokens, the model takes {limit}: "
            "the prompt is not cut; use fewer exemplars or leave the question out"
        )
