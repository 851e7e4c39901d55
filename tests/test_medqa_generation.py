"""Generated texts say what the letter probabilities say, whatever the batch, with and without an adapter."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from analysis.extraction import compare_scorers
from medqa.config import DEMO, Task, TrialConfig
from medqa.errors import DataError
from medqa.generation import MOST_NEW_TOKENS, generate_texts
from medqa.model import BaseModel, load_base
from medqa.questions import load_search_questions
from medqa.scoring import score_questions

QUESTIONS = load_search_questions(DEMO).validation[:120]


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base(Task(model=DEMO, data=DEMO))


def test_the_letter_in_the_text_is_the_most_probable_one(base: BaseModel) -> None:
    texts = dict(zip((one.id for one in QUESTIONS), generate_texts(base.model, base.encoder, QUESTIONS), strict=True))
    found = compare_scorers(score_questions(base.model, base.encoder, QUESTIONS).predictions, texts)
    assert found.text_failures.value <= 0.05
    assert found.disagreement is not None
    assert found.disagreement.value <= 0.02  # the paths round differently: a tie may fall the other way


@pytest.mark.slow
def test_small_batches_and_an_untrained_adapter_change_nearly_nothing(base: BaseModel, tmp_path: Path) -> None:
    few = QUESTIONS[:40]
    texts = generate_texts(base.model, base.encoder, few)
    alone = generate_texts(base.model, base.encoder, few, tokens_per_batch=100)
    with base.new_adapter(TrialConfig(lora_rank=4)) as model:
        model.save_pretrained(tmp_path)
    with base.adapter_from(tmp_path) as model:
        model.train()
        tuned = generate_texts(model, base.encoder, few)
        assert model.training, "the mode was not restored"
    for others in (alone, tuned):
        assert sum(one == other for one, other in zip(texts, others, strict=True)) >= 39


def test_texts_are_those_that_transformers_generates(base: BaseModel) -> None:
    encoder, questions = base.encoder, QUESTIONS[:40]
    texts = generate_texts(base.model, encoder, questions, wording="reasoning", most_new_tokens=8)
    theirs = []
    for item in encoder.encode_all(questions, "reasoning"):
        prompt = torch.tensor([item.prompt_ids])
        whole = base.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=encoder.tokenizer.eos_token_id,
            pad_token_id=encoder.tokenizer.pad_token_id,
        )
        theirs.append(encoder.tokenizer.decode(whole[0, prompt.shape[1] :], skip_special_tokens=True))
    assert sum(one == other for one, other in zip(texts, theirs, strict=True)) >= 39  # a tie may fall the other way
    assert len(set(texts)) > 1


def test_out_of_memory_halves_the_batch_until_one_question_does_not_fit(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sizes = type(base.model).forward, []

    def forward(model: object, *args: object, **inputs: torch.Tensor) -> object:
        sizes.append(inputs["input_ids"].numel())
        if sizes[-1] > 400:
            raise torch.OutOfMemoryError
        return whole(model, *args, **inputs)

    texts = generate_texts(base.model, base.encoder, QUESTIONS[:20])
    monkeypatch.setattr(type(base.model), "forward", forward)
    halved = generate_texts(base.model, base.encoder, QUESTIONS[:20])
    assert sum(one == other for one, other in zip(texts, halved, strict=True)) >= 19
    assert sizes[0] > 400 >= max(sizes[-3:])
    long = dataclasses.replace(QUESTIONS[0], question=QUESTIONS[0].question * 8)
    monkeypatch.setattr(
        type(base.model), "forward", lambda *args, **inputs: (_ for _ in ()).throw(torch.OutOfMemoryError)
    )
    with pytest.raises(torch.OutOfMemoryError):
        generate_texts(base.model, base.encoder, [long])


def test_nothing_is_generated_from_nothing_or_beyond_the_model_s_positions(base: BaseModel) -> None:
    with pytest.raises(DataError, match="no questions"):
        generate_texts(base.model, base.encoder, [])
    limit = base.model.config.max_position_embeddings
    long = dataclasses.replace(QUESTIONS[0], question="fever " * (limit - MOST_NEW_TOKENS))
    with pytest.raises(DataError, match="it is not cut|is not cut"):
        generate_texts(base.model, base.encoder, [long])
