"""The prompt on Mistral's real tokenizer: one BOS, one letter token, the end token, nothing cut."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medqa.errors import DataError, ModelError
from medqa.prompt import WORDINGS, Encoded, PromptEncoder, pick_exemplars, render_prompt, shuffle_options
from medqa.questions import Question, load_search_questions

QUESTION = Question(
    "q", "A 60-year-old man coughs. Cause?", {"A": "Virus", "B": "Fungus", "C": "Prion", "D": "Worm"}, "C"
)


@pytest.fixture(scope="module")
def tokenizer(mistral_tokenizer_folder: Path) -> Iterator[Any]:
    from transformers import AutoTokenizer

    yield AutoTokenizer.from_pretrained(mistral_tokenizer_folder, mistral_format=False)


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> PromptEncoder:
    return PromptEncoder(tokenizer)


def test_the_prompt_has_mistrals_form_and_one_bos(encoder: PromptEncoder) -> None:
    ids = encoder.encode(QUESTION).full_ids
    tokens = encoder.tokenizer.convert_ids_to_tokens(ids)
    assert tokens[:2] == ["<s>", "[INST]"]
    assert tokens.count("<s>") == 1
    assert tokens[-3:] == ["[/INST]", "▁C", "</s>"]


def test_the_token_ids_are_those_of_mistrals_own_encoder(encoder: PromptEncoder) -> None:
    from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    own = MistralTokenizer.v3().encode_chat_completion(
        ChatCompletionRequest(messages=[UserMessage(content=render_prompt(QUESTION))])
    )
    assert encoder.encode(QUESTION).prompt_ids == own.tokens
    answered = MistralTokenizer.v3().encode_chat_completion(
        ChatCompletionRequest(
            messages=[
                UserMessage(content=render_prompt(QUESTION)),
                AssistantMessage(content="C"),
                UserMessage(content="more"),
            ]
        )
    )
    full = encoder.encode(QUESTION).full_ids
    assert answered.tokens[: len(full)] == full


def test_each_letter_is_one_token_and_the_answer_ends_with_eos(encoder: PromptEncoder) -> None:
    for letter in "ABCD":
        answer = encoder.encode(dataclasses.replace(QUESTION, answer=letter)).answer_ids
        assert answer == [encoder.letter_ids[letter], encoder.tokenizer.eos_token_id]
        assert encoder.tokenizer.decode([answer[0]]).strip() == letter


@pytest.mark.parametrize("wording", WORDINGS)
def test_every_wording_shows_the_whole_question_and_all_options(wording: str, encoder: PromptEncoder) -> None:
    text = encoder.tokenizer.decode(encoder.encode(QUESTION, wording).prompt_ids)
    assert QUESTION.question in text
    for letter, option in QUESTION.options.items():
        assert f"{letter}. {option}" in text


def test_few_shot_prompts_end_with_the_question_asked_and_are_not_cut(encoder: PromptEncoder, real_rows: Path) -> None:
    questions = load_search_questions(str(real_rows))
    exemplars = pick_exemplars(questions.train, 3, seed=0)
    longest = max(questions.validation, key=lambda question: len(question.question))
    encoded = encoder.encode(longest, exemplars=exemplars)
    alone = encoder.encode(longest)
    assert encoded.prompt_ids[-len(alone.prompt_ids) + 1 :] == alone.prompt_ids[1:]
    assert encoded.full_ids.count(encoder.tokenizer.bos_token_id) == 1
    assert len(encoded.prompt_ids) > 1024


def test_exemplars_are_drawn_by_seed_and_refused_when_too_many() -> None:
    train = [dataclasses.replace(QUESTION, id=str(number)) for number in range(9)]
    assert pick_exemplars(train, 3, seed=1) == pick_exemplars(train, 3, seed=1)
    assert pick_exemplars(train, 3, seed=1) != pick_exemplars(train, 3, seed=2)
    with pytest.raises(DataError, match="10 exemplars asked for"):
        pick_exemplars(train, 10, seed=1)


def test_shuffled_options_keep_the_right_answer() -> None:
    seen = set()
    for seed in range(40):
        shuffled = shuffle_options(QUESTION, random.Random(seed))
        assert shuffled.options[shuffled.answer] == "Prion"
        assert sorted(shuffled.options.values()) == sorted(QUESTION.options.values())
        seen.add(shuffled.answer)
    assert seen == set("ABCD")


def test_a_tokenizer_without_template_or_with_two_bos_is_refused(mistral_tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(mistral_tokenizer_folder)
    template = tokenizer.chat_template
    tokenizer.chat_template = "{{ bos_token }}" + template
    with pytest.raises(ModelError, match="two BOS"):
        PromptEncoder(tokenizer)
    tokenizer.chat_template = template.replace("{{ eos_token }}", "")
    with pytest.raises(ModelError, match="one token and the end token"):
        PromptEncoder(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        PromptEncoder(tokenizer)


def plainly_encoded(tokenizer: Any, question: Question, wording: str, exemplars: tuple[Question, ...]) -> Encoded:
    """Encode one question by the chat template alone, with its answer and without."""
    turns = [("user", render_prompt(question, wording)), ("assistant", question.answer)]
    before = [
        turn for item in exemplars for turn in (("user", render_prompt(item, wording)), ("assistant", item.answer))
    ]
    chat = [{"role": role, "content": text} for role, text in (*before, *turns)]
    prompt_ids = tokenizer.apply_chat_template(chat[:-1], return_dict=False, add_generation_prompt=True)
    full_ids = tokenizer.apply_chat_template(chat, return_dict=False)
    return Encoded(prompt_ids, full_ids[len(prompt_ids) :])


def test_all_real_rows_together_have_the_tokens_that_the_template_gives_each(
    encoder: PromptEncoder, real_rows: Path
) -> None:
    questions = load_search_questions(str(real_rows))
    rows = [*questions.train, *questions.validation]
    rows += [shuffle_options(row, random.Random(row.id)) for row in rows]
    assert encoder.encode_all(rows) == [plainly_encoded(encoder.tokenizer, row, "exam", ()) for row in rows]


@pytest.mark.parametrize("wording", WORDINGS)
def test_every_wording_and_solved_examples_have_the_tokens_that_the_template_gives(
    wording: str, encoder: PromptEncoder, real_rows: Path
) -> None:
    questions = load_search_questions(str(real_rows))
    exemplars = pick_exemplars(questions.train, 3, seed=1)
    rows = questions.validation[:30]
    for before in ((), exemplars):
        expected = [plainly_encoded(encoder.tokenizer, row, wording, before) for row in rows]
        assert encoder.encode_all(rows, wording, before) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
        "{% for m in messages %}[INST]{{ m['role'] }}[/INST]\n\n{{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[INST]assistant[/INST]\n\n{% endif %}",
    ],
    ids=["no special token after the question", "text after the last special token"],
)
def test_other_templates_give_their_own_tokens(template: str, mistral_tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(mistral_tokenizer_folder, mistral_format=False)
    tokenizer.chat_template = template
    rows = [dataclasses.replace(QUESTION, question=f"{text} Cause?") for text in ("A cough.", " a ", "¿Fiebre? \n")]
    found = PromptEncoder(tokenizer).encode_all(rows)
    plain = [plainly_encoded(tokenizer, row, "exam", ()) for row in rows]
    assert found == [Encoded(item.prompt_ids, item.answer_ids[:2]) for item in plain]


def test_what_an_encoder_has_forgotten_is_encoded_again(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [dataclasses.replace(QUESTION, question=f"Case {number}?") for number in range(5)]
    expected = PromptEncoder(tokenizer).encode_all(rows)
    monkeypatch.setattr("medqa.prompt._MOST_KNOWN", 3)
    encoder = PromptEncoder(tokenizer)
    for part in (rows[:2], rows[1:4], rows, rows[:1]):
        assert encoder.encode_all(part) == [expected[rows.index(row)] for row in part]


def test_a_question_that_writes_a_bos_token_is_refused(encoder: PromptEncoder) -> None:
    with pytest.raises(ModelError, match="two BOS"):
        encoder.encode_all([QUESTION, dataclasses.replace(QUESTION, question="What is <s>?")])


def test_the_fingerprint_is_that_of_the_tokens_which_template_and_tokenizer_make(tokenizer: Any) -> None:
    known = PromptEncoder(tokenizer).fingerprint()
    assert PromptEncoder(tokenizer).fingerprint() == known
    commented, spaced = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    commented.chat_template = "{# the same tokens #}" + tokenizer.chat_template
    assert PromptEncoder(commented).fingerprint() == known
    assert "[INST]" in tokenizer.chat_template
    spaced.chat_template = tokenizer.chat_template.replace("[INST]", "[INST] Doctor:")
    assert PromptEncoder(spaced).fingerprint() != known
