"""Question to prompt and answer; the one file that knows the wording."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medqa.errors import DataError, ModelError
from medqa.questions import LETTERS, Question

TRAINING_WORDING = "exam"
_INSTRUCTIONS = {
    "exam": "Answer the medical exam question with the letter of the best option.",
    "bare": "",
    "reasoning": "Think step by step about the medical exam question, then answer with the letter of the best option.",
    "role": "You are a physician taking the United States Medical Licensing Examination. "
    "Answer with the letter of the best option.",
}
WORDINGS: tuple[str, ...] = tuple(_INSTRUCTIONS)
"""Names of the prompt wordings; training uses the first."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one prompt, and of the same prompt with its answer."""

    prompt_ids: list[int]
    """Ends where the answer's letter is to come."""
    answer_ids: list[int]
    """The letter's token and the end token."""

    @property
    def full_ids(self) -> list[int]:
        """The prompt's and the answer's tokens."""
        return self.prompt_ids + self.answer_ids


def render_prompt(question: Question, wording: str = TRAINING_WORDING) -> str:
    """Return the user's message for a question in one of WORDINGS."""
    options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
    body = f"{question.question}\n\n{options}"
    if wording == "bare":
        return body
    return f"{_INSTRUCTIONS[wording]}\n\n{body}\n\nAnswer:"


def wording_fingerprint() -> str:
    """Return a SHA-256 over all wordings, rendered on a fixed question."""
    sample = Question("sample", "Question?", {"A": "a", "B": "b", "C": "c", "D": "d"}, "A")
    texts = [render_prompt(sample, wording) for wording in WORDINGS]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


class PromptEncoder:
    """Turns questions into token ids by a tokenizer's chat template, and knows the letters' tokens.

    Raises:
        ModelError: at construction, when the tokenizer has no chat template, writes other than one BOS token,
            or does not put each letter into one token followed by the end token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise ModelError("the model's tokenizer has no chat template: choose an instruction-tuned model")
        sample = Question("sample", "Which?", {letter: f"option {letter}" for letter in LETTERS}, "A")
        self.letter_ids: dict[str, int] = {}
        """Letter to the id of the token that the template produces for it as an answer."""
        for letter in LETTERS:
            self.letter_ids[letter] = self.encode(dataclasses.replace(sample, answer=letter)).answer_ids[0]
        if len(set(self.letter_ids.values())) != len(LETTERS):
            raise ModelError(f"the tokenizer gives answer letters the same token: {self.letter_ids}")

    def encode(
        self, question: Question, wording: str = TRAINING_WORDING, exemplars: Sequence[Question] = ()
    ) -> Encoded:
        """Encode a question, after solved `exemplars` as earlier turns of the chat.

        Raises:
            ModelError: when the template's answer is not one letter token and one end token.
        """
        messages: list[dict[str, str]] = []
        for exemplar in exemplars:
            messages.append({"role": "user", "content": render_prompt(exemplar, wording)})
            messages.append({"role": "assistant", "content": exemplar.answer})
        messages.append({"role": "user", "content": render_prompt(question, wording)})
        prompt_ids = self._apply(messages, add_generation_prompt=True)
        full_ids = self._apply([*messages, {"role": "assistant", "content": question.answer}])
        self._check(prompt_ids, full_ids)
        return Encoded(prompt_ids, full_ids[len(prompt_ids) : len(prompt_ids) + 2])

    def _apply(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> list[int]:
        encoded = self.tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False, add_generation_prompt=add_generation_prompt
        )
        return list(encoded)

    def _check(self, prompt_ids: list[int], full_ids: list[int]) -> None:
        if full_ids[: len(prompt_ids)] != prompt_ids:
            raise ModelError("the chat template changes the prompt when an answer follows: this model cannot be used")
        answer = full_ids[len(prompt_ids) :]
        if len(answer) < 2 or answer[1] != self.tokenizer.eos_token_id:
            raise ModelError(f"the chat template does not make an answer one token and the end token: {answer}")
        bos = self.tokenizer.bos_token_id
        if bos is not None and full_ids.count(bos) > 1:
            raise ModelError("the chat template writes two BOS tokens")


def shuffle_options(question: Question, generator: random.Random) -> Question:
    """Return the question with its options in a random order and the answer's letter moved along."""
    letters = list(question.options)
    order = letters[:]
    generator.shuffle(order)
    options = {new: question.options[old] for new, old in zip(letters, order, strict=True)}
    return dataclasses.replace(question, options=options, answer=letters[order.index(question.answer)])


def pick_exemplars(train: Sequence[Question], count: int, seed: int) -> tuple[Question, ...]:
    """Draw `count` solved examples from the train split; the same seed draws the same ones.

    Raises:
        DataError: when the split holds fewer.
    """
    if len(train) < count:
        raise DataError(f"{count} exemplars asked for, the train split has {len(train)} questions")
    return tuple(random.Random(seed).sample(list(train), count))
