"""The demo's facts, questions and base model are what its README says."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medqa.demo import BASE_FOLDER, QUESTIONS_FOLDER
from medqa.demo.facts import KINDS, distractors, load_conditions, load_overlaps
from medqa.demo.lessons import LESSON_TEXTS, Lesson, write_lessons
from medqa.demo.make_base import Recipe, make_base
from medqa.demo.make_questions import make_questions
from medqa.demo.vignettes import ASKS, LETTERS
from medqa.demo.vocabulary import build_tokenizer
from medqa.prompt import WORDINGS, render_prompt
from medqa.questions import Question

SPLITS = ("train", "validation", "test")


def read_split(split: str) -> list[Question]:
    lines = (QUESTIONS_FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Question(**json.loads(line)) for line in lines]


def normalise(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def fact_of(question: Question) -> tuple[str, str]:
    kind = next(kind for kind in KINDS if any(question.question.endswith(ask) for ask in ASKS[kind]))
    named = [
        condition.diagnosis
        for condition in load_conditions()
        if sum(finding in question.question for finding in condition.findings) >= 2
    ]
    assert len(named) == 1, question.question
    return named[0], kind


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BASE_FOLDER, local_files_only=True)


def test_the_facts_are_132_whole_conditions_of_which_100_are_in_the_demo() -> None:
    conditions = load_conditions()
    assert Counter(condition.in_demo for condition in conditions) == {True: 100, False: 32}
    assert len({condition.diagnosis for condition in conditions}) == 132
    assert all(len(condition.findings) == 4 for condition in conditions)
    for phrase in (phrase for condition in conditions for phrase in condition.phrases()):
        assert phrase == phrase.strip() and 3 <= len(phrase) <= 60 and "," not in phrase


def test_no_finding_belongs_to_two_conditions() -> None:
    findings = [finding for condition in load_conditions() for finding in condition.findings]
    assert len(set(findings)) == len(findings) == 528


def test_every_overlap_names_phrases_of_the_table() -> None:
    known = {phrase for condition in load_conditions() for phrase in condition.phrases()}
    for group in load_overlaps():
        assert len(group) >= 2
        assert group <= known, group - known


def test_a_distractor_is_never_also_right() -> None:
    for condition in load_conditions():
        own = set(condition.phrases())
        for kind in KINDS:
            wrong = set(distractors(condition, kind))
            assert len(wrong) >= 20
            assert not wrong & own
            assert not any(group & own and group & wrong for group in load_overlaps())


def test_the_drugs_of_one_class_do_not_meet() -> None:
    syphilis = next(condition for condition in load_conditions() if condition.diagnosis == "secondary syphilis")
    assert not {"ceftriaxone", "doxycycline", "amoxicillin"} & set(distractors(syphilis, "treatment"))
    assert "oral ferrous sulfate" in distractors(syphilis, "treatment")


def test_every_option_of_the_kept_questions_is_right_or_a_distractor() -> None:
    conditions = {condition.diagnosis: condition for condition in load_conditions()}
    for question in (question for split in SPLITS for question in read_split(split)):
        diagnosis, kind = fact_of(question)
        options = dict(question.options)
        assert options.pop(question.answer) == conditions[diagnosis].answer(kind)  # type: ignore[arg-type]
        assert len(set(options.values())) == 3
        assert set(options.values()) <= set(distractors(conditions[diagnosis], kind))  # type: ignore[arg-type]


def test_the_splits_have_their_sizes_and_share_no_fact_and_no_question() -> None:
    questions = {split: read_split(split) for split in SPLITS}
    assert {split: len(rows) for split, rows in questions.items()} == {"train": 1024, "validation": 300, "test": 400}
    texts = [normalise(question.question) for rows in questions.values() for question in rows]
    assert len(set(texts)) == len(texts)
    facts = {split: {fact_of(question) for question in rows} for split, rows in questions.items()}
    assert {split: len(held) for split, held in facts.items()} == {"train": 256, "validation": 64, "test": 80}
    assert len(set.union(*facts.values())) == 400


@pytest.mark.parametrize("split", SPLITS)
def test_right_answers_stand_equally_often_under_each_letter(split: str) -> None:
    questions = read_split(split)
    assert Counter(question.answer for question in questions) == dict.fromkeys(LETTERS, len(questions) // 4)
    assert [question.id for question in questions] == [f"demo-{split}-{number:05d}" for number in range(len(questions))]


def test_the_script_writes_the_kept_questions_byte_for_byte(tmp_path: Path) -> None:
    make_questions(tmp_path)
    for split in SPLITS:
        kept = (QUESTIONS_FOLDER / f"{split}.jsonl").read_bytes()
        assert (tmp_path / f"{split}.jsonl").read_bytes() == kept


def test_base_and_questions_fit_into_8_megabytes() -> None:
    files = [*BASE_FOLDER.iterdir(), *QUESTIONS_FOLDER.iterdir()]
    assert sum(file.stat().st_size for file in files) <= 8_000_000
    assert (BASE_FOLDER / "model.safetensors").is_file()


def test_the_kept_tokenizer_is_the_one_that_the_script_builds(tmp_path: Path) -> None:
    build_tokenizer(LESSON_TEXTS).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (BASE_FOLDER / "tokenizer.json").read_bytes()


def test_the_tokenizer_loses_no_text(tokenizer: Any) -> None:
    for text in ("A 45-year-old man; 3.5 mg/dL.", "naïve 日本\n\n x\t y  z", " two  spaces ", "the JAK2 mutation test"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_padding_is_not_the_end_token(tokenizer: Any) -> None:
    special = [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id]
    assert len(set(special)) == 4


@pytest.mark.parametrize("wording", WORDINGS)
def test_a_chat_has_one_bos_and_each_letter_is_one_token_of_its_own(tokenizer: Any, wording: str) -> None:
    question = read_split("train")[0]
    prompt = [{"role": "user", "content": render_prompt(question, wording)}]
    prompt_ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    letters = set()
    for letter in "ABCDE":
        chat = [*prompt, {"role": "assistant", "content": letter}]
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True) + f" {letter}"
        assert ids[:-2] == prompt_ids and ids[-1] == tokenizer.eos_token_id
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids[:-1]
        assert ids.count(tokenizer.bos_token_id) == 1
        letters.add(ids[-2])
    assert len(letters) == 5


def test_prompts_are_short(tokenizer: Any) -> None:
    prompts = [tokenizer(render_prompt(question))["input_ids"] for question in read_split("validation")]
    assert max(map(len, prompts)) <= 64


def test_pre_training_reads_no_case_about_a_condition_of_the_demo() -> None:
    random = Random(1)
    lessons = [lesson for step in range(40) for lesson in write_lessons(step / 40, 256, random)]
    asked = [question for lesson in lessons for question in lesson.questions]
    kept = {normalise(question.question) for split in SPLITS for question in read_split(split)}
    assert not kept & {normalise(question.question) for question in asked}
    findings = {finding for condition in load_conditions() if condition.in_demo for finding in condition.findings}
    assert len(asked) > 1000
    assert not any(finding in question.question for question in asked for finding in findings)
    assert {lesson.wording for lesson in lessons} == set(WORDINGS)


def test_lessons_repeat_from_their_seed() -> None:
    first: list[Lesson] = write_lessons(0.5, 64, Random(3))
    assert first == write_lessons(0.5, 64, Random(3))


def test_making_a_base_repeats_to_the_bit(tmp_path: Path) -> None:
    recipe = Recipe(steps=2, batch=8, layers=1, width=64, warmup_steps=1)
    try:
        for name in ("first", "second"):
            make_base(tmp_path / name, recipe)
    finally:
        torch.use_deterministic_algorithms(False)
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_the_base_is_small_and_its_widths_are_multiples_of_64(tmp_path: Path) -> None:
    folder = shutil.copytree(BASE_FOLDER, tmp_path / "elsewhere")
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert type(model).__name__ == "MistralForCausalLM"
    assert 2e6 <= sum(weight.numel() for weight in model.parameters()) <= 5e6
    layer_weights = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    assert all(side % 64 == 0 for weight in layer_weights for side in weight.shape)


def test_the_untuned_base_answers_better_than_chance_and_far_from_all(tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(BASE_FOLDER, dtype=torch.float32, local_files_only=True)
    questions = read_split("validation")[:100]
    chats = [[{"role": "user", "content": render_prompt(question)}] for question in questions]
    batch = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True, padding_side="right"
    )
    last_B = batch["attention_mask"].sum(1) - 1
    with torch.no_grad():
        logits_BV = model(**batch).logits[torch.arange(len(questions)), last_B]
    ids = tokenizer.convert_tokens_to_ids([f"▁{letter}" for letter in LETTERS])
    chosen = [LETTERS[place] for place in logits_BV[:, ids].argmax(1).tolist()]
    accuracy = sum(letter == question.answer for letter, question in zip(chosen, questions, strict=True)) / 100
    assert 0.35 <= accuracy <= 0.60
