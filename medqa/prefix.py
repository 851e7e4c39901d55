"""Letter probabilities of prompts that begin alike: what they share is computed once and its keys and values kept."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch

from medqa.beginnings import follow, read_beginnings
from medqa.errors import DataError
from medqa.memory import halving_batches
from medqa.packing import batches, packed_attention
from medqa.prediction import Scores
from medqa.prompt import PromptEncoder
from medqa.questions import Question
from medqa.scoring import TOKENS_PER_BATCH, check_lengths, evaluation_mode, predict


def score_alike(
    model: Any,
    encoder: PromptEncoder,
    groups: Sequence[Sequence[Question]],
    exemplars: Sequence[Question] = (),
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Scores:
    """Score questions as `score_questions` does but for rounding, the beginnings that a group shares once.

    Of 3-shot prompts three quarters are the same in every one; the orders of a question's options share all that
    stands before these.

    Args:
        model: transformers causal language model, with an adapter or without.
        encoder: Of its tokenizer.
        groups: Questions whose prompts begin alike, one at least in each group.
        exemplars: Solved questions before each.
        tokens_per_batch: Tokens in one forward pass.

    Returns:
        The predictions, group after group.

    Raises:
        DataError: when there are no questions, or a prompt is longer than the model's positions; it is never cut.
        torch.OutOfMemoryError: when a single question does not fit.
    """
    questions = [question for group in groups for question in group]
    if not questions:
        raise DataError("no questions to score")
    encoded = encoder.encode_all(questions, exemplars=exemplars)
    check_lengths(encoded, questions, model)
    left = iter(item.prompt_ids for item in encoded)
    prompts = [list(itertools.islice(left, len(group))) for group in groups]
    score = functools.partial(_read_groups, model, encoder, prompts)
    letters_QL, top_Q = halving_batches(score, tokens_per_batch, max(map(len, encoded)))
    said = zip(letters_QL, top_Q, questions, strict=True)
    return Scores(tuple(predict(values_L, top, question, encoder) for values_L, top, question in said), None)


def _read_groups(
    model: Any, encoder: PromptEncoder, prompts: Sequence[Sequence[list[int]]], tokens_per_batch: int
) -> tuple[torch.Tensor, list[int]]:
    """Return the letters' log-probabilities after each prompt (Q, L), fp64, and the most probable tokens (Q)."""
    letter_ids = list(encoder.letter_ids.values())
    shared = [_shared_length(group) for group in prompts]
    first = [0, *itertools.accumulate(map(len, prompts))]
    # a group that is longer than a batch is alone here, and parted below
    lengths = [begun + sum(len(one) - begun for one in group) for begun, group in zip(shared, prompts, strict=True)]
    places, letters, top = [], [], []
    with evaluation_mode(model), packed_attention(model):
        for numbers in batches(lengths, tokens_per_batch):
            known = read_beginnings(model, [prompts[number][0][: shared[number]] for number in numbers])
            rest = [(owner, row) for owner, number in enumerate(numbers) for row in range(len(prompts[number]))]
            endings = [prompts[numbers[owner]][row][shared[numbers[owner]] :] for owner, row in rest]
            for chosen in batches(list(map(len, endings)), tokens_per_batch):
                logits_BV = follow(model, known, [rest[item][0] for item in chosen], [endings[item] for item in chosen])
                log_probabilities_BV = torch.log_softmax(logits_BV.double(), dim=-1)
                letters.append(log_probabilities_BV[:, letter_ids])
                top.append(log_probabilities_BV.argmax(-1))
                places += [first[numbers[rest[item][0]]] + rest[item][1] for item in chosen]
    order = torch.tensor(places).argsort()
    return torch.cat(letters).cpu()[order], torch.cat(top).cpu()[order].tolist()


def _shared_length(prompts: Sequence[list[int]]) -> int:
    """Return how many first tokens all prompts share; each keeps at least one of its own, to be read at."""
    alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in alike), min(map(len, prompts)) - 1)
