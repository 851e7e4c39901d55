"""Evaluations while training score a sample; at its end the kept adapter is scored on all validation questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from medqa import record, trainer
from medqa.config import Task, TrialConfig
from medqa.evaluations import Evaluation, evaluation_sample, evaluations
from medqa.model import load_base
from medqa.prediction import Scores
from medqa.questions import Question, load_search_questions
from medqa.scoring import score_questions
from medqa.training import train

ALL, SAMPLED = 8, 5
CONFIG = TrialConfig(
    lora_rank=4,
    lora_alpha=8,
    learning_rate=0.02,
    num_train_epochs=1.5,
    effective_batch_size=4,
    eval_every_steps=3,
    eval_questions=SAMPLED,
    question_loss_weight=0.0,
    selection_metric="answer_nll",
)


class Killed(BaseException):
    """Stands for whatever ends a trial from outside."""


def question(number: int) -> Question:
    return Question(f"q{number}", f"text {number}", {"A": "a", "B": "b"}, "A")


def run(config: TrialConfig, task: Task, run_dir: Path) -> list[Evaluation]:
    seen: list[Evaluation] = []
    train(config, task, run_dir, "a_trial", seen.append)
    return seen


def numbers(rows: list[Evaluation]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(row) | {"seconds": 0} for row in rows]


def scored_apart(trained: Trained) -> Scores:
    """Score the saved adapter on all validation questions, as the final evaluation would."""
    base, questions = load_base(trained.task), load_search_questions(trained.task.data)
    with base.adapter_from(trained.folder / record.ADAPTER) as model:
        return score_questions(model.get_base_model(), base.encoder, questions.validation)


def watch_scoring(monkeypatch: pytest.MonkeyPatch, killed_at: int = 0) -> list[int]:
    """Return the sizes of all scorings to come; the first of `killed_at` questions ends the trial."""
    sizes: list[int] = []

    def score(model: Any, encoder: Any, questions: Sequence[Question], **more: Any) -> Scores:
        sizes.append(len(questions))
        if len(questions) == killed_at:
            raise Killed
        return score_questions(model, encoder, questions, **more)

    monkeypatch.setattr(trainer, "score_questions", score)
    return sizes


@dataclasses.dataclass(frozen=True)
class Trained:
    task: Task
    folder: Path
    rows: list[Evaluation]


def new_task(model: Path, folder: Path, validation_answer: str) -> Task:
    """Every training question is answered by A."""
    for name, numbers_of, answer in (("train", range(24), "A"), ("validation", range(24, 24 + ALL), validation_answer)):
        rows: list[dict[str, object]] = [
            {
                "id": f"q{number}",
                "question": f"Patient {number} has a cough. Which finding fits?",
                "options": {letter: f"finding {number}{letter}" for letter in "ABCD"},
                "answer": answer,
            }
            for number in numbers_of
        ]
        write_jsonl(folder / f"{name}.jsonl", rows)
    return Task(model=str(model), data=str(folder))


@pytest.fixture(scope="module", params=["A", "B"], ids=["best at its end", "best before"])
def trained(request: pytest.FixtureRequest, tiny_mistral: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A trial that came to its end: what it learns is right on validation, or the more wrong the longer it learns."""
    task = new_task(tiny_mistral, tmp_path_factory.mktemp("questions"), request.param)
    folder = tmp_path_factory.mktemp("trained")
    done = Trained(task, folder, run(CONFIG, task, folder))
    assert (done.rows[-1].best_step == done.rows[-1].step) is (request.param == "A")
    return done


def test_the_sample_follows_from_the_ids_alone_and_keeps_the_splits_order() -> None:
    questions = [question(number) for number in range(50)]
    drawn = evaluation_sample(questions, 20)
    assert [item.id for item in drawn[:5]] == ["q0", "q3", "q4", "q5", "q7"]
    assert list(drawn) == [item for item in questions if item in drawn]
    assert {item.id for item in evaluation_sample(questions[::-1], 20)} == {item.id for item in drawn}
    reworded = [dataclasses.replace(item, question="another text", answer="B") for item in questions]
    assert [item.id for item in evaluation_sample(reworded, 20)] == [item.id for item in drawn]


def test_a_larger_sample_contains_a_smaller_one_and_none_has_more_than_all() -> None:
    questions = tuple(question(number) for number in range(50))
    samples = [{item.id for item in evaluation_sample(questions, count)} for count in (1, 20, 49)]
    assert [len(sample) for sample in samples] == [1, 20, 49]
    assert samples[0] < samples[1] < samples[2]
    assert evaluation_sample(questions, 50) == evaluation_sample(questions, 10**6) == questions


def test_a_finished_trial_has_the_values_of_its_kept_adapter_on_all_questions(trained: Trained) -> None:
    rows, last = trained.rows, trained.rows[-1]
    assert {row.questions for row in rows} == {SAMPLED}
    assert [row.best_questions for row in rows] == [SAMPLED] * (len(rows) - 1) + [ALL]
    for row in rows[:-1]:
        assert (row.best_accuracy, row.best_answer_nll) == (row.compared_accuracy, row.compared_answer_nll)
    apart = scored_apart(trained)
    assert (last.best_accuracy, last.best_answer_nll) == (apart.accuracy, pytest.approx(apart.answer_nll, rel=1e-5))
    best = next(row for row in rows if row.step == last.best_step)
    assert (last.compared_accuracy, last.compared_answer_nll) == (best.accuracy, best.answer_nll)
    assert last.best_answer_nll != last.compared_answer_nll


def test_a_finished_trial_leaves_a_record_of_all_questions(trained: Trained) -> None:
    last, folder = trained.rows[-1], trained.folder
    results, summary = (record.read_json(folder / name) for name in (record.VAL_RESULTS, record.TRAINING_SUMMARY))
    assert results["n_total"] == summary["best_questions"] == ALL
    assert (results["overall_accuracy"], results["answer_nll"]) == (
        last.best_accuracy,
        pytest.approx(last.best_answer_nll),
    )
    assert (summary["best_accuracy"], summary["best_answer_nll"]) == (last.best_accuracy, last.best_answer_nll)
    assert summary["best_eval_loss"] == min(row.lm_loss for row in trained.rows)
    assert (folder / record.TRAINING_CURVE).stat().st_size > 10_000


def test_before_its_end_a_trial_leaves_the_answers_of_the_sample(trained: Trained, tmp_path: Path) -> None:
    def end(evaluation: Evaluation) -> None:
        raise Killed

    with pytest.raises(Killed):
        train(CONFIG, trained.task, tmp_path, "a_trial", end)
    ids = [row["id"] for row in record.read_json(tmp_path / record.VAL_RESULTS)["predictions"]]
    sample = evaluation_sample(load_search_questions(trained.task.data).validation, SAMPLED)
    assert ids == [item.id for item in sample]


def test_a_trial_killed_in_its_final_scoring_does_it_again_and_one_killed_after_it_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch_scoring(monkeypatch, killed_at=ALL - SAMPLED)
    with pytest.raises(Killed):
        run(CONFIG, trained.task, tmp_path)
    assert not evaluations(tmp_path)[-1].finished
    sizes = watch_scoring(monkeypatch)
    run(CONFIG, trained.task, tmp_path)
    assert sizes == [SAMPLED, ALL - SAMPLED]
    assert numbers(evaluations(tmp_path)) == numbers(trained.rows)
    assert scored_apart(dataclasses.replace(trained, folder=tmp_path)) == scored_apart(trained)
    assert numbers(run(CONFIG, trained.task, tmp_path)) == numbers(trained.rows[-1:])
    assert sizes == [SAMPLED, ALL - SAMPLED]


def test_where_the_sample_is_all_nothing_is_scored_twice_and_training_is_the_same(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = watch_scoring(monkeypatch)
    rows = run(dataclasses.replace(CONFIG, eval_questions=300), trained.task, tmp_path)
    assert sizes == [ALL] * len(rows)
    for row in rows:
        assert (row.questions, row.best_questions) == (ALL, ALL)
        assert (row.best_accuracy, row.best_answer_nll) == (row.compared_accuracy, row.compared_answer_nll)
    assert record.read_json(tmp_path / record.VAL_RESULTS)["answer_nll"] == pytest.approx(rows[-1].best_answer_nll)
    assert [row.train_loss for row in rows] == [row.train_loss for row in trained.rows]
