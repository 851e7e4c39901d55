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
_TEMPLATE_VARIABLES = {"date_string": "26 Jul 2024", "enable_thinking": False}
"""What some templates ask for. Llama 3's writes the day into the prompt, by default that of the call: a prompt would
change overnight; this is the day that Llama 3.1's has by default. Qwen 3's begins the answer with a place to think."""
_SAMPLE = Question(
    "sample",
    "A 37-year-old woman\u2019s temperature is 38.5 \u00b0C, her pulse 104/min.  Cause?\n- \u03b2-lactamase?",
    {"A": "Na+ 128 mEq/L", "B": "S\u00e9zary syndrome", "C": "<i>Candida</i>", "D": "(none)"},
    "B",
)
"""Letters, digits, signs, spaces and line ends as the questions have them: what a tokenizer may treat differently."""
_MOST_KNOWN = 60_000
"""Prompts that an encoder remembers before it forgets them all: MedQA in five orders of its options, some 700 MB."""

Chat = tuple[str, ...]
"""The user's and the assistant's texts in turn; the last is the answer."""


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

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


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

    What was encoded is remembered, because the trials of a worker ask for the same prompts again and again.

    Raises:
        ModelError: at construction, when the tokenizer has no chat template, writes other than one BOS token,
            or does not put each letter into one token followed by the end token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise ModelError("the model's tokenizer has no chat template: choose an instruction-tuned model")
        self._known: dict[tuple[str, ...], Encoded] = {}
        self._answers: dict[str, list[int]] = {}
        """Text after a prompt to its tokens, where these cannot depend on the question."""
        self._closing: list[int] = []
        options = {letter: f"option {letter}" for letter in LETTERS}
        chats = [(render_prompt(Question("sample", "Which?", options, letter)), letter) for letter in LETTERS]
        samples = self._encode(chats)
        self.letter_ids = {letter: item.answer_ids[0] for letter, item in zip(LETTERS, samples, strict=True)}
        """Letter to the id of the token that the template produces for it as an answer."""
        if len(set(self.letter_ids.values())) != len(LETTERS):
            raise ModelError(f"the tokenizer gives answer letters the same token: {self.letter_ids}")
        self._closing = self._closing_ids(samples[0].prompt_ids)
        if self._closing:
            answers = [item.answer_ids for item in samples]
            self._answers = dict(zip(self._texts_after(chats, self._prompts(chats)), answers, strict=True))

    def fingerprint(self) -> str:
        """Return a SHA-256 over the token ids of a fixed question with its answer, in every wording.

        It changes with the chat template, the tokenizer and the letters' tokens, whatever their files are called.
        """
        asked = [self.encode(_SAMPLE, wording).full_ids for wording in WORDINGS]
        return hashlib.sha256(json.dumps([asked, self.letter_ids]).encode()).hexdigest()

    def encode(
        self, question: Question, wording: str = TRAINING_WORDING, exemplars: Sequence[Question] = ()
    ) -> Encoded:
        """Encode one question; arguments and errors as of `encode_all`."""
        return self.encode_all([question], wording, exemplars)[0]

    def encode_all(
        self, questions: Sequence[Question], wording: str = TRAINING_WORDING, exemplars: Sequence[Question] = ()
    ) -> list[Encoded]:
        """Encode questions, each after solved `exemplars` as earlier turns of the chat.

        Raises:
            ModelError: when the template's answer is not one letter token and one end token.
        """
        before = [text for item in exemplars for text in (render_prompt(item, wording), item.answer)]
        chats = [(*before, render_prompt(question, wording), question.answer) for question in questions]
        new = [chat for chat in dict.fromkeys(chats) if chat not in self._known]
        if len(self._known) + len(new) > _MOST_KNOWN:
            self._known, new = {}, list(dict.fromkeys(chats))
        self._known.update(zip(new, self._encode(new), strict=True))
        return [self._known[chat] for chat in chats]

    def _encode(self, chats: Sequence[Chat]) -> list[Encoded]:
        prompts = self._prompts(chats)
        prompt_ids = self._tokenise(prompts)
        answers = [
            self._answers.get(text) if self._is_plain(ids) else None
            for text, ids in zip(self._texts_after(chats, prompts), prompt_ids, strict=True)
        ]
        rest = [row for row, answer in enumerate(answers) if answer is None]
        for row, full_ids in zip(rest, self._tokenise(self.render([chats[row] for row in rest])), strict=True):
            answers[row] = self._checked_answer(prompt_ids[row], full_ids)
        return [Encoded(ids, answer) for ids, answer in zip(prompt_ids, answers, strict=True) if answer]

    def _closing_ids(self, prompt_ids: list[int]) -> list[int]:
        """Return the template's tokens after a question, from the last special one on.

        Tokenizers never join text across a special token, so that what follows is the same after every question.
        Empty where there is none.
        """
        special = set(self.tokenizer.get_added_vocab().values())
        places = [place for place, token in enumerate(prompt_ids) if token in special]
        return prompt_ids[places[-1] :] if places[1:] else []

    def _is_plain(self, prompt_ids: list[int]) -> bool:
        """Whether a prompt ends as the samples do, with one BOS token at most."""
        return prompt_ids[-len(self._closing) :] == self._closing and not self._has_two_bos(prompt_ids)

    def _checked_answer(self, prompt_ids: list[int], full_ids: list[int]) -> list[int]:
        if full_ids[: len(prompt_ids)] != prompt_ids:
            raise ModelError("the chat template changes the prompt when an answer follows: this model cannot be used")
        answer = full_ids[len(prompt_ids) :]
        if len(answer) < 2 or answer[1] != self.tokenizer.eos_token_id:
            raise ModelError(f"the chat template does not make an answer one token and the end token: {answer}")
        if self._has_two_bos(full_ids):
            raise ModelError("the chat template writes two BOS tokens")
        return answer[:2]

    def _has_two_bos(self, ids: list[int]) -> bool:
        bos = self.tokenizer.bos_token_id
        return bool(bos is not None and ids.count(bos) > 1)

    def _prompts(self, chats: Sequence[Chat]) -> list[str]:
        return self.render([chat[:-1] for chat in chats], add_generation_prompt=True)

    def _texts_after(self, chats: Sequence[Chat], prompts: Sequence[str]) -> list[str]:
        """Return what the template writes after each prompt: the answer and what closes it."""
        return [full.removeprefix(prompt) for full, prompt in zip(self.render(chats), prompts, strict=True)]

    def render(self, chats: Sequence[Chat], add_generation_prompt: bool = False) -> list[str]:
        """Return what the chat template writes for each chat: as in training, whatever the day is.

        Args:
            chats: Each with or without its answer.
            add_generation_prompt: Whether the text ends where an answer is to come.
        """
        roles = ("user", "assistant")
        turns = [[{"role": roles[turn % 2], "content": text} for turn, text in enumerate(chat)] for chat in chats]
        if not turns:
            return []
        return list(
            self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, **_TEMPLATE_VARIABLES
            )
        )

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        """Tokenise in one call, whose texts the tokenizer shares out among the CPUs."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return ids


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
