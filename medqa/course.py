"""Questions -> the course of training: every example of every epoch, in the order in which it is seen."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medqa.config import TrialConfig
from medqa.errors import DataError
from medqa.prompt import Encoded, PromptEncoder, shuffle_options
from medqa.questions import Question

IGNORED = -100
"""Label of a token that is not trained."""


@dataclass(frozen=True, slots=True)
class Course:
    """All training examples of one trial in order; epochs follow each other without a gap."""

    examples: tuple[Encoded, ...]
    left_out: tuple[str, ...]
    """Ids of the questions longer than `max_length` tokens, which are not trained on."""
    examples_per_epoch: int
    """Of the train split and the extra questions together."""

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return max(map(len, self.examples))

    def total_steps(self, effective_batch_size: int) -> int:
        """Optimizer steps of the whole course."""
        return math.ceil(len(self.examples) / effective_batch_size)


def build_course(
    config: TrialConfig, questions: Sequence[Question], encoder: PromptEncoder, extra: Sequence[Question] = ()
) -> Course:
    """Encode, order and repeat the training questions; the same config gives the same course.

    Args:
        config: The trial's hyperparameters.
        questions: The train split.
        encoder: Of the base model's tokenizer.
        extra: What `config.extra_share` takes its questions from.

    Raises:
        DataError: when no question fits in `config.max_length`, or a share of no extra questions is asked for.
    """
    if config.extra_share and not extra:
        raise DataError(f"extra_share is {config.extra_share:g}, but the task has no extra questions: it must be 0")
    extra_per_epoch = round(config.extra_share * len(questions))
    drawn = _draw(config, extra_per_epoch, extra)
    both = [*questions, *drawn]
    fixed = dict(zip((question.id for question in both), encoder.encode_all(both), strict=True))
    fitting, drawn = (
        [question for question in some if len(fixed[question.id]) <= config.max_length] for some in (questions, drawn)
    )
    if not fitting or (extra_per_epoch and not drawn):
        kind = "extra training" if fitting else "training"
        raise DataError(f"no {kind} question fits in {config.max_length} tokens: raise max_length")
    asked = _in_order(config, fitting, drawn, extra_per_epoch)
    # a new order of options has the same tokens or, where they merge differently at line ends, nearly so
    examples = encoder.encode_all(asked) if config.shuffle_options else [fixed[question.id] for question in asked]
    left_out = tuple(question.id for question in both if len(fixed[question.id]) > config.max_length)
    return Course(tuple(examples), left_out, len(fitting) + extra_per_epoch)


def _draw(config: TrialConfig, per_epoch: int, extra: Sequence[Question]) -> list[Question]:
    """Return the extra questions of all epochs, or all there are; a larger share draws those of a smaller one first."""
    order = list(range(len(extra)))
    random.Random(f"extra-{config.seed}").shuffle(order)
    return [extra[number] for number in order[: per_epoch * math.ceil(config.num_train_epochs)]]


def _in_order(
    config: TrialConfig, train: Sequence[Question], extra: Sequence[Question], extra_per_epoch: int
) -> list[Question]:
    """Return the questions of all epochs, each epoch in its own order, their options too where these are shuffled.

    An epoch has the whole train split and the next of the extra questions, which begin anew once all were seen.
    """
    total = max(1, round((len(train) + extra_per_epoch) * config.num_train_epochs))
    asked: list[Question] = []
    for epoch in range(math.ceil(total / (len(train) + extra_per_epoch))):
        generator = random.Random(f"{config.seed}-{epoch}")
        places = range(epoch * extra_per_epoch, (epoch + 1) * extra_per_epoch)
        order = [*train, *(extra[place % len(extra)] for place in places)]
        generator.shuffle(order)
        order = order[: total - len(asked)]
        asked += [shuffle_options(question, generator) for question in order] if config.shuffle_options else order
    return asked


def collate(
    examples: Sequence[dict[str, Any]],
    pad_token_id: int,
    question_loss_weight: float,
    packed: bool,
    share_beginning: bool = False,
) -> dict[str, Any]:
    """Put examples into one packed row (1, N), or pad them on the right into rows (B, T).

    Args:
        examples: Rows of `to_dataset`.
        pad_token_id: Of the tokenizer.
        question_loss_weight: Of a prompt's token.
        packed: Whether they lie in one row.
        share_beginning: Whether the tokens with which all begin lie in the packed row once; with dropout each example
            would draw its own.

    Returns:
        What the model takes, labels (IGNORED where the weight is 0) and loss_weights: 1 on the answer's tokens,
        `question_loss_weight` on the prompt's, 0 on padding and on each first token, which nothing predicts; on a token
        that lies there once, the sum of all examples' weights. A packed row has predicting_positions too: (P) places
        whose next token has a weight, so that a GPU need not be asked.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from medqa.packing import pack, shared_tokens

    sequences = [torch.as_tensor(example["input_ids"]) for example in examples]
    weights = []
    for example, sequence in zip(examples, sequences, strict=True):
        weights_T = torch.ones(len(sequence))
        weights_T[: example["prompt_length"]] = question_loss_weight
        weights_T[0] = 0.0
        weights.append(weights_T)
    if packed:
        prompts = min(example["prompt_length"] for example in examples)
        ids = [example["input_ids"] for example in examples]
        shared = shared_tokens(ids, at_most=prompts - 1) if share_beginning else 0
        batch = pack(sequences, shared)
        first, *others = weights
        first[1 : shared + 1] *= len(weights)
        for weights_T in others:
            weights_T[shared] = 0.0
        weights_BT = torch.cat([first, *(weights_T[shared:] for weights_T in others)])[None]
        batch["predicting_positions"] = weights_BT[0, 1:].nonzero()[:, 0]
    else:
        ids_BT = pad_sequence(sequences, batch_first=True, padding_value=pad_token_id)
        mask_BT = pad_sequence([torch.ones_like(sequence) for sequence in sequences], batch_first=True)
        batch = {"input_ids": ids_BT, "attention_mask": mask_BT}
        weights_BT = pad_sequence(weights, batch_first=True)
    labels_BT = batch["input_ids"].masked_fill(weights_BT == 0, IGNORED)
    return batch | {"labels": labels_BT, "loss_weights": weights_BT}


def to_dataset(course: Course) -> Any:
    """Return the course as a datasets.Dataset with columns input_ids and prompt_length.

    Trainers of TRL take nothing else. It holds the examples' numbers, and looks the examples up: to copy millions of
    tokens into a table takes seconds.
    """
    import datasets

    dataset = datasets.Dataset.from_dict({"number": range(len(course.examples))})
    dataset.set_transform(_Lookup(course.examples))
    return dataset


class _Lookup:
    """Turns numbers of examples into what a row of the dataset holds."""

    def __init__(self, examples: Sequence[Encoded] = ()) -> None:
        self._examples = examples

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        examples = [self._examples[number] for number in batch["number"]]
        return {
            "input_ids": [example.full_ids for example in examples],
            "prompt_length": [len(example.prompt_ids) for example in examples],
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # a dataset hashes its transform whole, and no cache of it is kept here
        return _Lookup, ()
