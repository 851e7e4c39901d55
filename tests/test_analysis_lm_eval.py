"""The common yardstick: the harness and we say the same of the same model, prompt and questions."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from analysis_fakes import make_predictions, make_questions
from conftest import ROOT

from analysis import lm_eval_check
from analysis.harness import HarnessScores
from analysis.yardstick import agreement, agreement_line, format_yardstick, yardstick_content
from medqa.config import Task, TrialConfig
from medqa.errors import ModelError, RecordError
from medqa.metrics import accuracy
from medqa.model import BaseModel, load_base
from medqa.prediction import Prediction
from medqa.questions import Question, QuestionSet, load_search_questions

SCRIPT = ROOT / "analysis" / "lm_eval_check.py"
OPTIONS = {"--help", "--best", "--adapter", "--name", "--results", "--tracking-uri"}
DEMO_LETTERS = ("A", "B", "C", "D")
BF16_NATS = 0.35
"""Between two ways of rounding to bf16: each is up to 0.2 nats from fp32 here, 0.035 root mean square."""
NO_HARNESS = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install -e '.[lm-eval]'"
)


def run(*arguments: object, interpreter: tuple[str, ...] = (sys.executable,)) -> subprocess.CompletedProcess[str]:
    command = [*interpreter, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def scores(predictions: tuple[Prediction, ...], acc: float | None = None) -> HarnessScores:
    return HarnessScores(
        task="a_task",
        items="the same questions",
        accuracy=accuracy(predictions).value if acc is None else acc,
        standard_error=0.01,
        letter_tokens={},
        bos_tokens=1,
        predictions=predictions,
    )


def one(pred: str, **probabilities: float) -> tuple[Prediction, ...]:
    return (Prediction("q", "A", pred, probabilities, 1.0, 1.0, pred),)


def test_letters_that_change_places_in_a_near_tie_are_no_disagreement() -> None:
    found = agreement(one("A", A=0.51, B=0.49), one("B", A=0.49, B=0.51))
    assert (found["same_letter"], found["near_ties"], found["agree"]) == (0, 1, True)
    assert found["largest_difference_nats"] == pytest.approx(0.0400, abs=1e-4)
    assert "1 near ties" in agreement_line(found)


def test_another_letter_by_a_clear_margin_is_a_disagreement() -> None:
    for theirs in (one("B", A=0.3, B=0.7), one("B", A=0.49, B=0.51)):
        found = agreement(one("A", A=0.7, B=0.3), theirs)
        assert not found["agree"]
        assert found["clearly_different"] == ["q"]
        assert "THEY DISAGREE clearly on 1: q" in agreement_line(found)


def test_the_table_shows_each_number_with_its_interval_and_n() -> None:
    questions = make_questions(60)
    ours, other = (make_predictions(questions, share, seed=3) for share in (0.75, 0.4))
    content = yardstick_content(ours, scores(ours), scores(other))
    right = accuracy(other)
    table = format_yardstick(content)
    assert f"{100 * right.value:.2f} ({100 * right.low:.2f} to {100 * right.high:.2f})" in table
    assert table.count(" 60 ") >= 3
    assert "the same letter for 60 of 60 questions" in table
    assert "hardly answers by letter" not in table
    difference = content["own_prompt_minus_ours"]["difference"]
    assert difference["value"] == pytest.approx(right.value - accuracy(ours).value)
    assert json.loads(json.dumps(content))["predictions"][0]["ours"]["pred"] == ours[0].pred


def test_an_accuracy_that_its_own_letters_do_not_give_fails_loudly() -> None:
    predictions = make_predictions(make_questions(20), 0.5, seed=1)
    with pytest.raises(RecordError, match="the letters that it scored highest give"):
        yardstick_content(predictions, scores(predictions, acc=0.99), scores(predictions))


def test_without_the_harness_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # find_spec then says that there is none
    monkeypatch.setattr(sys, "argv", ["analysis/lm_eval_check.py", "--best"])
    assert lm_eval_check.main() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install -c constraints.txt -e '.[lm-eval]'" in error


def test_help_answers_before_anything_heavy_is_imported() -> None:
    result = run("--help", interpreter=(sys.executable, "-X", "importtime"))
    assert result.returncode == 0
    assert not any(name in result.stderr for name in ("torch", "mlflow", "numpy", "lm_eval.evaluator"))


def test_the_flags_are_these() -> None:
    words = run("--help").stdout.replace(",", " ").replace("[", " ").split()
    assert {word for word in words if word.startswith("--")} == OPTIONS


@NO_HARNESS
def test_a_folder_without_a_trial_is_one_line(tmp_path: Path) -> None:
    result = run("--adapter", tmp_path / "adapter")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1, result.stderr
    assert "config.json: no such file" in result.stderr


@pytest.fixture(scope="module")
def demo() -> BaseModel:
    return load_base(Task())


@pytest.fixture(scope="module")
def questions() -> QuestionSet:
    return load_search_questions("demo")


@contextlib.contextmanager
def random_adapter(base: BaseModel) -> Iterator[Any]:
    """An adapter whose every weight is drawn, so that it changes what the base says."""
    import torch

    with base.new_adapter(TrialConfig(lora_rank=4)) as model:
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.03)
        yield model


def log_likelihood(prediction: Prediction, letter: str) -> float:
    return math.log(prediction.probabilities[letter] * prediction.letter_mass)


@NO_HARNESS
def test_on_the_demo_both_agree_item_by_item(demo: BaseModel, questions: QuestionSet) -> None:
    from analysis import harness
    from medqa.fused_layers import unfuse_layers
    from medqa.scoring import score_questions

    few = questions.validation[:40]
    plain = score_questions(demo.model, demo.encoder, few).predictions
    with random_adapter(demo) as model:
        ours = score_questions(model, demo.encoder, few).predictions
        theirs = harness.score_our_prompt(model, demo.encoder, few)
        again = score_questions(model, demo.encoder, few).predictions
        unfuse_layers(demo.model)
        same_layers = score_questions(model, demo.encoder, few).predictions
    # through transformers' own layers, as the harness goes: the same numbers
    assert [item.pred for item in theirs.predictions] == [item.pred for item in same_layers]
    for mine, other in zip(same_layers, theirs.predictions, strict=True):
        assert other.gold_nll == pytest.approx(mine.gold_nll, abs=1e-5)
        for letter in DEMO_LETTERS:
            assert log_likelihood(other, letter) == pytest.approx(log_likelihood(mine, letter), abs=1e-5)
    # through the search's faster layers, which round elsewhere: the same but for near ties
    found = agreement(ours, theirs.predictions)
    assert found["agree"]
    assert found["same_letter"] >= 38
    assert found["largest_difference_nats"] < BF16_NATS
    assert len({item.pred for item in ours}) > 1
    assert theirs.accuracy == accuracy(theirs.predictions).value
    assert theirs.letter_tokens == {letter: [demo.encoder.letter_ids[letter]] for letter in DEMO_LETTERS}
    # the adapter was on, and the harness left the model as it was
    assert [item.pred for item in ours] != [item.pred for item in plain]
    assert again == ours


@NO_HARNESS
@pytest.mark.parametrize("which", ["demo", "mistral"])
def test_no_prompt_has_two_bos_tokens_and_a_letter_is_one_token(
    which: str, demo: BaseModel, tiny_mistral: Path, questions: QuestionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis import harness
    from medqa.scoring import score_questions

    base = demo if which == "demo" else load_base(Task(model=str(tiny_mistral), data="unused"))
    bos, few = base.tokenizer.bos_token_id, questions.validation[:8]
    read: list[list[int]] = []
    forward = base.model.forward
    monkeypatch.setattr(base.model, "forward", lambda ids, **more: read.extend(ids.tolist()) or forward(ids, **more))
    theirs = harness.score_our_prompt(base.model, base.encoder, few)
    own = harness.score_own_prompt(base.model, base.encoder, few, "demo")
    monkeypatch.undo()
    by_default = base.tokenizer.encode("Question").count(bos)
    assert (theirs.bos_tokens, own.bos_tokens) == (1, by_default)
    assert [row.count(bos) for row in read] == [1] * len(few) + [by_default] * len(few)
    # in the chat the letter follows [/INST], in the harness's own prompt a space: one token either way
    assert theirs.letter_tokens == {letter: [base.encoder.letter_ids[letter]] for letter in DEMO_LETTERS}
    assert [len(ids) for ids in own.letter_tokens.values()] == [1, 1, 1, 1]
    found = agreement(score_questions(base.model, base.encoder, few).predictions, theirs.predictions)
    assert found["largest_difference_nats"] < BF16_NATS
    assert found["agree"]


@NO_HARNESS
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_qwen"])
def test_models_of_other_families_get_our_prompt(
    family: str, questions: QuestionSet, request: pytest.FixtureRequest
) -> None:
    """Llama's template would write the day of the call into the prompt."""
    from analysis import harness
    from medqa.scoring import score_questions

    base, few = load_base(Task(model=str(request.getfixturevalue(family)), data="unused")), questions.validation[:8]
    harness.require_our_tokens(base.model, base.encoder, few[0])
    theirs = harness.score_our_prompt(base.model, base.encoder, few)
    assert theirs.letter_tokens == {letter: [base.encoder.letter_ids[letter]] for letter in DEMO_LETTERS}
    found = agreement(score_questions(base.model, base.encoder, few).predictions, theirs.predictions)
    assert found["largest_difference_nats"] < BF16_NATS
    assert found["agree"]


@NO_HARNESS
def test_other_tokens_than_ours_are_refused(demo: BaseModel, questions: QuestionSet) -> None:
    from analysis import harness

    swapped = dict(zip("ABCDE", (demo.encoder.letter_ids[letter] for letter in "BACDE"), strict=True))
    encoder = type(demo.encoder)(demo.tokenizer)
    encoder.letter_ids = swapped
    with pytest.raises(ModelError, match="other tokens than we do of question"):
        harness.score_our_prompt(demo.model, encoder, questions.validation[:2])
    with pytest.raises(ModelError, match="other tokens than we do of question"):
        harness.require_our_tokens(demo.model, encoder, questions.validation[0])


def hub_rows(questions: tuple[Question, ...]) -> list[dict[str, Any]]:
    return [
        {
            "id": item.id,
            "sent1": item.question,
            "sent2": "",
            **{f"ending{index}": text for index, text in enumerate(item.options.values())},
            "label": "ABCD".index(item.answer),
        }
        for item in questions
    ]


@NO_HARNESS
@pytest.mark.parametrize(("same", "words"), [(True, "own copy, from the Hub"), (False, "holds others")])
def test_the_harnesss_own_copy_is_used_where_it_holds_the_same_questions(
    demo: BaseModel, questions: QuestionSet, monkeypatch: pytest.MonkeyPatch, same: bool, words: str
) -> None:
    import datasets

    from analysis import harness

    few, asked = questions.validation[:8], []
    stored = few if same else (dataclasses.replace(few[0], answer="ABCD"[few[0].answer == "A"]), *few[1:])
    load = datasets.load_dataset

    def from_hub(path: str, **more: Any) -> Any:
        asked.append(path)
        if path == "parquet":
            return load(path, **more)
        rows = datasets.Dataset.from_list(hub_rows(stored))
        return datasets.DatasetDict({"train": rows, "validation": rows, "test": rows})

    monkeypatch.setattr(datasets, "load_dataset", from_hub)
    found = harness.score_own_prompt(demo.model, demo.encoder, few, "GBaker/MedQA-USMLE-4-options")
    assert words in found.items
    assert asked == ["GBaker/MedQA-USMLE-4-options-hf", *([] if same else ["parquet"])]
    local = harness.score_own_prompt(demo.model, demo.encoder, few, "demo")
    assert found.predictions == local.predictions


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, demo: BaseModel, questions: QuestionSet) -> Path:
    """A results folder with one search of one trial: a random adapter on the demo."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("results")
    record_folder = make_record(folder / "x" / "trials" / "explored_1", demo, questions)
    (folder / "x" / "settings.json").write_text(json.dumps({"metric": "accuracy"}))
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("medqa", artifact_location=(folder / "artifacts").as_uri())
    parent = client.create_run(experiment, tags={"role": "search", "search": "x"}).info.run_id
    tags = {"role": "trial", "search": "x", "state": "completed", "mlflow.parentRunId": parent, "seed_point": ""}
    trial = client.create_run(experiment, tags=tags, run_name="explored_1").info.run_id
    client.log_metric(trial, "best_accuracy", 0.5)
    client.log_metric(trial, "best_answer_nll", 1.4)
    client.log_artifacts(trial, str(record_folder))
    return folder


def make_record(folder: Path, base: BaseModel, questions: QuestionSet) -> Path:
    from medqa import record
    from medqa.metrics import study_results
    from medqa.prompt import wording_fingerprint
    from medqa.scoring import score_questions

    with random_adapter(base) as model:
        model.save_pretrained(folder / record.ADAPTER)
        validation = score_questions(model, base.encoder, questions.validation).predictions
    identity = record.TrialIdentity(
        name="explored_1",
        config=TrialConfig(lora_rank=4),
        task=base.task,
        data_fingerprint=questions.fingerprint,
        prompt_fingerprint=wording_fingerprint(),
        base_fingerprint=base.fingerprint,
        versions={},
    )
    record.write_identity(folder, identity)
    record.write_json(folder / record.VAL_RESULTS, study_results(validation, questions.validation))
    return folder


@NO_HARNESS
@pytest.mark.slow
def test_the_command_puts_both_numbers_side_by_side(results: Path) -> None:
    first = run("--best", "--results", results)
    assert first.returncode == 0, first.stderr
    content = json.loads((results / "x" / "lm_eval_check" / "lm_eval_check.json").read_text())
    found = content["agreement"]
    assert (found["n"], found["agree"]) == (400, True)
    assert found["same_letter"] + found["near_ties"] == 400
    assert found["near_ties"] <= 4
    assert found["largest_difference_nats"] < BF16_NATS
    difference = content["harness_our_prompt"]["acc"] - content["ours"]["accuracy"]["value"]
    assert abs(difference) <= found["near_ties"] / 400
    assert len(content["predictions"]) == 400
    labels = {"ours": "ours: letter probabilities", "harness_our_prompt": "lm-evaluation-harness, our prompt"}
    for key, label in labels.items():
        shown = f"{100 * content[key]['accuracy']['value']:.2f} ("
        assert any(line.startswith(label) and shown in line for line in first.stdout.splitlines()), first.stdout
    assert "lm-evaluation-harness, medqa_4options" in first.stdout
    assert "hardly answers by letter" in first.stdout  # the demo's base knows its own prompt only
    assert "logged to the winner's MLflow run" in first.stdout
    assert first.stderr == ""

    trial = results / "x" / "trials" / "explored_1" / "adapter"
    second = run("--adapter", trial)
    assert second.returncode == 0, second.stderr
    again = json.loads((results / "x" / "lm_eval_check_2" / "lm_eval_check.json").read_text())
    assert again["predictions"] == content["predictions"]
    assert (content["test_reads"], again["test_reads"]) == (1, 2)


@NO_HARNESS
@pytest.mark.slow
def test_a_changed_base_is_refused_before_the_test_split_is_read(results: Path) -> None:
    reads = results / "x" / "test_reads.jsonl"
    before = reads.read_text() if reads.exists() else ""
    path = results / "x" / "trials" / "explored_1" / "config.json"
    original = path.read_text()
    path.write_text(json.dumps(json.loads(original) | {"base_fingerprint": "f" * 64}))
    try:
        result = run("--adapter", path.parent / "adapter")
    finally:
        path.write_text(original)
    assert result.returncode == 2
    assert "the base model changed since the trial was trained" in result.stderr
    assert (reads.read_text() if reads.exists() else "") == before
