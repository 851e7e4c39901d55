"""One trial: its course, its loss, its record, and a restart that changes nothing."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from medqa import prompt, record
from medqa.config import Task, TrialConfig
from medqa.course import IGNORED, build_course, collate, to_dataset
from medqa.errors import DataError, DivergedError, RecordError
from medqa.evaluations import Evaluation, decide, evaluations
from medqa.model import load_base
from medqa.questions import load_search_questions
from medqa.training import train

CONFIG = TrialConfig(
    lora_rank=4, lora_alpha=8, learning_rate=5e-3, num_train_epochs=1.5, effective_batch_size=4, eval_every_steps=3
)
ANSWER_ONLY = dataclasses.replace(CONFIG, question_loss_weight=0.0, shuffle_options=True)


class Interrupted(BaseException):
    """Stands for whatever ends a trial from outside."""


def run(config: TrialConfig, task: Task, run_dir: Path, stop_at: int | None = None) -> list[Evaluation]:
    seen: list[Evaluation] = []

    def on_eval(evaluation: Evaluation) -> None:
        seen.append(evaluation)
        if evaluation.step == stop_at:
            raise Interrupted

    try:
        train(config, task, run_dir, "a_trial", on_eval)
    except Interrupted:
        pass
    return seen


def numbers(rows: list[Evaluation]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(row) | {"seconds": 0} for row in rows]


@pytest.mark.parametrize("config", [CONFIG, ANSWER_ONLY], ids=["whole text", "answer only, shuffled"])
def test_an_interrupted_trial_goes_on_to_the_same_adapter_bit_for_bit(
    config: TrialConfig, task: Task, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    whole = run(config, task, tmp_path / "whole")
    assert [row.step for row in whole] == [3, 6, 9]
    assert [row.finished for row in whole] == [False, False, True]
    run(config, task, tmp_path / "cut", stop_at=6)
    # the caller may not have heard of the evaluation at which it was cut
    assert [row.step for row in run(config, task, tmp_path / "cut")] == [6, 9]
    assert numbers(evaluations(tmp_path / "cut")) == numbers(whole)
    one, two = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(float(value.abs().max()) > 0 for key, value in one.items() if "lora_B" in key)


def test_the_best_adapter_is_written_once_beside_what_a_kill_left_of_its_checkpoint(task: Task, tmp_path: Path) -> None:
    left = tmp_path / "state" / "checkpoint-3" / "adapter_model.safetensors"
    left.parent.mkdir(parents=True)
    left.write_text("a part")
    shared = tmp_path / "shared"
    shared.hardlink_to(left)
    run(CONFIG, task, tmp_path, stop_at=3)
    assert left.samefile(tmp_path / "adapter" / left.name)
    assert shared.read_text() == "a part"


def test_a_finished_trial_leaves_its_record_and_is_not_trained_again(task: Task, tmp_path: Path) -> None:
    rows = run(CONFIG, task, tmp_path)
    names = {path.name for path in tmp_path.iterdir()} - {"questions"}
    assert names == {*record.RECORD_FILES, record.ADAPTER}
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    identity = record.read_identity(tmp_path)
    assert (identity.config, identity.task, identity.name) == (CONFIG, task, "a_trial")
    results = record.read_json(tmp_path / record.VAL_RESULTS)
    assert results["n_total"] == 8
    assert results["overall_accuracy"] == rows[-1].best_accuracy
    summary = record.read_json(tmp_path / record.TRAINING_SUMMARY)
    assert summary["config_name"] == "a_trial"
    assert summary["best_eval_loss"] == min(row.lm_loss for row in rows)
    assert run(CONFIG, task, tmp_path) == rows[-1:]


@pytest.mark.parametrize(
    ("changed", "words"), [("prompt_fingerprint", "prompt"), ("token_fingerprint", "chat template or tokenizer")]
)
def test_an_interrupted_trial_does_not_go_on_with_another_prompt(
    changed: str, words: str, task: Task, tmp_path: Path
) -> None:
    run(CONFIG, task, tmp_path, stop_at=3)
    begun = record.read_json(tmp_path / record.CONFIG)
    record.write_json(tmp_path / record.CONFIG, begun | {changed: "0" * 64})
    with pytest.raises(RecordError, match=f"the {words} changed since the trial was trained"):
        run(CONFIG, task, tmp_path)
    record.write_json(tmp_path / record.CONFIG, begun | {changed: ""})  # a record that does not say is believed
    assert [row.step for row in run(CONFIG, task, tmp_path, stop_at=6)] == [3, 6]


def test_training_a_second_trial_in_the_same_process_changes_no_number(task: Task, tmp_path: Path) -> None:
    first = run(CONFIG, task, tmp_path / "first")
    run(ANSWER_ONLY, task, tmp_path / "between", stop_at=3)
    assert numbers(run(CONFIG, task, tmp_path / "again")) == numbers(first)


def test_the_loss_is_the_weighted_mean_of_token_losses(task: Task, tmp_path: Path) -> None:
    """A first step of one batch is reproduced by hand from the base model's own logits."""
    base = load_base(task)
    questions = load_search_questions(task.data)
    losses = {}
    for weight in (0.0, 0.25, 1.0):
        config = dataclasses.replace(
            CONFIG, question_loss_weight=weight, lora_dropout=0.0, num_train_epochs=4 / 24, eval_every_steps=1
        )
        losses[weight] = run(config, task, tmp_path / str(weight))[0].train_loss
        course = build_course(config, questions.train, base.encoder)
        total, weights = 0.0, 0.0
        for example in course.examples:
            ids = torch.tensor([example.full_ids])
            in_bf16 = base.model.dtype == torch.bfloat16
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
                logits = base.model(ids).logits[0, :-1].double()
            token_losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            token_weights = torch.full_like(token_losses, weight)
            token_weights[-2:] = 1.0
            total += float((token_losses * token_weights).sum())
            weights += float(token_weights.sum())
        # the LM head's logits may be bf16: relative rounding 2**-8, averaged over tokens
        assert losses[weight] == pytest.approx(total / weights, rel=2e-3)
    assert len(set(losses.values())) == 3


def test_collation_trains_the_letter_and_the_end_and_never_the_padding() -> None:
    examples = [
        {"input_ids": [1, 7, 8, 9, 2], "prompt_length": 3},
        {"input_ids": [1, 7, 2], "prompt_length": 1},
    ]
    batch = collate(examples, pad_token_id=0, question_loss_weight=0.0, packed=False)
    assert batch["input_ids"].tolist() == [[1, 7, 8, 9, 2], [1, 7, 2, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED] * 3 + [9, 2], [IGNORED, 7, 2, IGNORED, IGNORED]]
    # an end token used as padding elsewhere in the text is still trained; nothing predicts the first
    half = collate(examples, pad_token_id=2, question_loss_weight=0.5, packed=False)
    assert half["loss_weights"].tolist() == [[0, 0.5, 0.5, 1, 1], [0, 1, 1, 0, 0]]
    assert half["labels"].tolist() == [[IGNORED, 7, 8, 9, 2], [IGNORED, 7, 2, IGNORED, IGNORED]]


def test_packed_examples_lie_end_to_end_and_no_sequence_predicts_the_next() -> None:
    examples = [
        {"input_ids": [1, 7, 8, 9, 2], "prompt_length": 3},
        {"input_ids": [1, 7, 2], "prompt_length": 1},
    ]
    batch = collate(examples, pad_token_id=0, question_loss_weight=0.5, packed=True)
    assert batch["input_ids"].tolist() == [[1, 7, 8, 9, 2, 1, 7, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 5, 8]
    assert batch["max_length_q"] == 5
    assert batch["loss_weights"].tolist() == [[0, 0.5, 0.5, 1, 1, 0, 1, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 7, 8, 9, 2, IGNORED, 7, 2]]


def test_the_course_repeats_every_question_once_an_epoch_in_a_seeded_order(task: Task) -> None:
    base, questions = load_base(task), load_search_questions(task.data)
    plain = build_course(CONFIG, questions.train, base.encoder)
    assert len(plain.examples) == 36
    assert plain.total_steps(4) == 9
    texts = [tuple(example.full_ids) for example in plain.examples]
    assert len(set(texts[:24])) == 24
    assert texts[24:] != texts[:12]
    assert plain == build_course(CONFIG, questions.train, base.encoder)
    other = build_course(dataclasses.replace(CONFIG, seed=7), questions.train, base.encoder)
    assert other != plain
    shuffled = build_course(dataclasses.replace(CONFIG, shuffle_options=True), questions.train, base.encoder)
    assert len({example.answer_ids[0] for example in shuffled.examples}) == 4
    assert len({tuple(example.full_ids) for example in shuffled.examples}) > 24


@pytest.mark.parametrize("shuffle_options", [False, True])
def test_the_course_is_that_of_each_question_encoded_in_its_turn(shuffle_options: bool, task: Task) -> None:
    base, questions = load_base(task), load_search_questions(task.data)
    config = dataclasses.replace(CONFIG, num_train_epochs=2.6, shuffle_options=shuffle_options)
    expected = []
    for epoch, count in enumerate((24, 24, 14)):
        generator = random.Random(f"{config.seed}-{epoch}")
        order = list(questions.train)
        generator.shuffle(order)
        for question in order[:count]:
            asked = prompt.shuffle_options(question, generator) if shuffle_options else question
            expected.append(base.encoder.encode(asked))
    course = build_course(config, questions.train, base.encoder)
    assert list(course.examples) == expected
    rows = [{"input_ids": item.full_ids, "prompt_length": len(item.prompt_ids)} for item in expected]
    dataset = to_dataset(course)
    assert [dataset[number] for number in range(len(dataset))] == rows
    assert list(dataset) == dataset.__getitems__(list(range(len(rows)))) == rows


def test_what_is_too_long_is_left_out_and_named_never_cut(task: Task) -> None:
    base, questions = load_base(task), load_search_questions(task.data)
    long = dataclasses.replace(questions.train[5], question="word " * 200)
    train_questions = [*questions.train[:5], long, *questions.train[6:]]
    config = dataclasses.replace(CONFIG, max_length=150, num_train_epochs=1)
    course = build_course(config, train_questions, base.encoder)
    assert course.left_out == (long.id,)
    assert len(course.examples) == 23
    assert course.longest <= 150
    with pytest.raises(DataError, match="raise max_length"):
        build_course(dataclasses.replace(CONFIG, max_length=16), train_questions, base.encoder)


def _rows(values: list[tuple[float, float]], total: int = 900) -> list[dict[str, Any]]:
    return [
        {"step": 100 * number, "total_steps": total, "questions": 8, "accuracy": accuracy, "answer_nll": nll}
        for number, (accuracy, nll) in enumerate(values, 1)
    ]


def test_training_stops_after_three_evaluations_without_a_better_one() -> None:
    values = [(0.5, 1.2), (0.6, 1.1), (0.6, 1.2), (0.55, 1.0)]
    assert decide(TrialConfig(), _rows(values)) == {
        "best_step": 200,
        "compared_accuracy": 0.6,
        "compared_answer_nll": 1.1,
        "best_accuracy": 0.6,
        "best_answer_nll": 1.1,
        "best_questions": 8,
        "finished": False,
        "stop_reason": "",
    }
    assert decide(TrialConfig(), _rows([*values, (0.6, 1.1)]))["stop_reason"] == "early_stopped"
    assert decide(TrialConfig(), _rows([*values, (0.6, 1.0)]))["best_step"] == 500
    by_nll = TrialConfig(selection_metric="answer_nll")
    assert decide(by_nll, _rows(values))["best_step"] == 400
    assert decide(TrialConfig(), _rows(values, total=400))["stop_reason"] == "completed"


def test_a_loss_that_is_not_finite_ends_the_trial_as_diverged(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medqa import training

    real = training.collate

    def poisoned(*args: Any, **kwargs: Any) -> dict[str, Any]:
        batch = real(*args, **kwargs)
        return batch | {"loss_weights": batch["loss_weights"] * float("inf")}

    monkeypatch.setattr(training, "collate", poisoned)
    with pytest.raises(DivergedError, match="diverged at step 1: the training loss is"):
        run(CONFIG, task, tmp_path)
    monkeypatch.undo()
    assert run(CONFIG, task, tmp_path / "after")[-1].finished
