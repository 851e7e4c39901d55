"""Model x questions -> predictions: the probability of each answer letter from one forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from medqa.course import IGNORED
from medqa.errors import DataError
from medqa.fused_layers import logits_at
from medqa.memory import halving_batches
from medqa.packing import batches, pack, packed_attention, shared_tokens
from medqa.prediction import Prediction, Scores
from medqa.prompt import TRAINING_WORDING, Encoded, PromptEncoder
from medqa.questions import Question

TOKENS_PER_BATCH = 8192
"""Tokens in one forward pass; bounds the memory of the logits."""
_ROWS_IN_FP32 = 1024


def score_questions(
    model: Any,
    encoder: PromptEncoder,
    questions: Sequence[Question],
    *,
    wording: str = TRAINING_WORDING,
    exemplars: Sequence[Question] = (),
    with_lm_loss: bool = False,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Scores:
    """Score questions by one forward pass each, in evaluation mode, restoring the model's mode after.

    Questions lie end to end in packed rows, with what all begin with once, and each is read at its own last prompt
    position. Where a pass runs out of GPU memory, all is scored again with half the tokens.

    Raises:
        DataError: when there are no questions, or a prompt is longer than the model's positions; it is never cut.
        torch.OutOfMemoryError: when a single question does not fit.
    """
    if not questions:
        raise DataError("no questions to score")
    encoded = encoder.encode_all(questions, wording, exemplars)
    check_lengths(encoded, questions, model)
    longest = max(len(item.full_ids) for item in encoded)

    def score(tokens: int) -> Scores:
        return _score(model, encoder, questions, encoded, with_lm_loss, tokens)

    return halving_batches(score, tokens_per_batch, longest)


def _score(
    model: Any,
    encoder: PromptEncoder,
    questions: Sequence[Question],
    encoded: Sequence[Encoded],
    with_lm_loss: bool,
    tokens_per_batch: int,
) -> Scores:
    groups = list(batches([len(item.full_ids) for item in encoded], tokens_per_batch))
    letter_ids = list(encoder.letter_ids.values())
    with evaluation_mode(model), packed_attention(model):
        read = [_forward(model, [encoded[row] for row in rows], letter_ids, with_lm_loss) for rows in groups]
    # fetched after the last batch: a GPU that has to answer after each one waits for the next
    log_probabilities_QL = torch.cat([batch.letter_log_probabilities for batch in read]).cpu()
    top_Q = torch.cat([batch.top_tokens for batch in read]).tolist()
    order = [row for rows in groups for row in rows]
    predictions = {
        row: predict(log_probabilities_L, top, questions[row], encoder)
        for row, log_probabilities_L, top in zip(order, log_probabilities_QL, top_Q, strict=True)
    }
    lm_loss = float(sum(batch.nll_sum for batch in read)) / sum(batch.tokens for batch in read)
    return Scores(tuple(predictions[row] for row in range(len(questions))), lm_loss if with_lm_loss else None)


def check_lengths(encoded: Sequence[Encoded], questions: Sequence[Question], model: Any) -> None:
    """Raise DataError when a prompt and its answer are longer than the model's positions."""
    longest = max(range(len(encoded)), key=lambda row: len(encoded[row].full_ids))
    limit = getattr(model.config, "max_position_embeddings", None)
    length = len(encoded[longest].full_ids)
    if limit is not None and length > limit:
        raise DataError(
            f"question {questions[longest].id!r} makes a prompt of {length} tokens, the model takes {limit}: "
            "it is not cut; use fewer exemplars or leave the question out"
        )


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read off one batch, left on its device."""

    letter_log_probabilities: torch.Tensor
    """Of each letter after each prompt, among all tokens, fp64 (B, letters)."""
    top_tokens: torch.Tensor
    """The most probable token after each prompt (B)."""
    nll_sum: torch.Tensor
    """Summed negative log-likelihood of all tokens but each sequence's first, nats; 0 where it was not asked for."""
    tokens: int
    """Number of those tokens; 1 where it was not asked for."""


def _forward(model: Any, batch: Sequence[Encoded], letter_ids: list[int], with_lm_loss: bool) -> _Read:
    sequences = [torch.tensor(item.full_ids if with_lm_loss else item.prompt_ids) for item in batch]
    device = model.get_input_embeddings().weight.device
    prompts = [item.prompt_ids for item in batch]
    shared = shared_tokens(prompts, at_most=min(map(len, prompts)) - 1)
    packed = pack(sequences, shared)
    row = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in packed.items()}
    bounds = packed["cu_seq_lens_q"].long()
    answers_B = torch.tensor([*map(len, sequences)]) - torch.tensor([*map(len, prompts)])
    starts_B, ends_B = bounds[:-1].to(device), (bounds[1:] - answers_B - 1).to(device)
    if with_lm_loss:
        logits_NV = model(**row, use_cache=False).logits[0]
        targets_N = row["input_ids"][0].clone()
        targets_N[starts_B] = IGNORED
        nll_sum = _nll_sum(logits_NV[:-1], targets_N[1:])
        # what lies there once counts for each sequence
        nll_sum += (len(batch) - 1) * _nll_sum(logits_NV[:shared], targets_N[1 : shared + 1])
        logits_BV, tokens = logits_NV[ends_B], sum(map(len, sequences)) - len(batch)
    else:
        logits_BV = logits_at(model, row, ends_B)
        nll_sum, tokens = torch.zeros((), device=device), 1
    log_probabilities_BV = torch.log_softmax(logits_BV.double(), dim=-1)
    return _Read(log_probabilities_BV[:, letter_ids], log_probabilities_BV.argmax(-1), nll_sum, tokens)


def _nll_sum(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Sum the token losses over a few rows at a time, which alone are held in fp32."""
    parts = zip(logits_NV.split(_ROWS_IN_FP32), targets_N.split(_ROWS_IN_FP32), strict=True)
    losses = [
        cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum") for logits, targets in parts
    ]
    return torch.stack(losses).sum()


def predict(log_probabilities_L: torch.Tensor, top: int, question: Question, encoder: PromptEncoder) -> Prediction:
    """Return what the model says to a question.

    Args:
        log_probabilities_L: Of each of the encoder's letters after the prompt, among all tokens, fp64.
        top: The most probable token after the prompt.
        question: The question.
        encoder: Knows the letters' tokens.
    """
    letters = list(question.options)
    columns = [list(encoder.letter_ids).index(letter) for letter in letters]
    letter_log_probabilities = log_probabilities_L[columns]
    probabilities = torch.softmax(letter_log_probabilities, dim=-1).tolist()
    best = max(range(len(letters)), key=lambda index: (probabilities[index], -index))
    return Prediction(
        id=question.id,
        gold=question.answer,
        pred=letters[best],
        probabilities=dict(zip(letters, probabilities, strict=True)),
        letter_mass=float(letter_log_probabilities.exp().sum()),
        gold_nll=-float(letter_log_probabilities[letters.index(question.answer)]),
        raw_output=encoder.tokenizer.decode([top]),
    )


@contextlib.contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Compute without dropout and gradients inside, and restore the model's mode after."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
