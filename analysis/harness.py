"""EleutherAI's lm-evaluation-harness, given a loaded model and our questions; the only module that imports it.

The harness is used as documented: the model wrapped as its HFLM, a task as a YAML file. One task is its own
`medqa_4options` word for word, only where its questions come from may change; the other asks in our prompt.
"""

from __future__ import annotations

import functools
import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medqa.errors import ModelError
from medqa.prediction import Prediction
from medqa.prompt import PromptEncoder, render_prompt
from medqa.questions import LETTERS, Question, check_rows

OWN_TASK = "medqa_4options"
OUR_TASK = "medqa_our_prompt"
_HUB_DATA = ("GBaker/MedQA-USMLE-4-options-hf", "GBaker/MedQA-USMLE-4-options")
"""The set that the task reads, and the same questions in another schema."""
_SEQUENCES_PER_BATCH = 8
_OUR_CONFIG = {
    "task": OUR_TASK,
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "prompt",
    "doc_to_choice": "answers",
    "doc_to_target": "label",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessScores:
    """What the harness says of a model on one task."""

    task: str
    items: str
    """Where the questions came from."""
    accuracy: float
    """Its `acc`: the share of questions whose right answer has the highest log-likelihood; not normalised by length."""
    standard_error: float
    """Its `acc_stderr`."""
    letter_tokens: dict[str, list[int]]
    """Letter to the ids of the tokens that the harness scored for it."""
    bos_tokens: int
    """BOS tokens of a prompt: one in ours; in its own, what the tokenizer writes by default."""
    predictions: tuple[Prediction, ...]
    """In our form and order; raw_output is "" where no letter is the most probable token."""


def score_our_prompt(model: Any, encoder: PromptEncoder, questions: Sequence[Question]) -> HarnessScores:
    """Let the harness score the questions in our prompt, through the chat template.

    Raises:
        ModelError: when the harness makes other tokens of a prompt and a letter than we do.
    """
    # the template has written the BOS token already
    harness_model = _wrap(model, encoder, add_bos_token=False)
    rows = [_our_row(encoder, question) for question in questions]
    for question, row in zip(questions, rows, strict=True):
        _require_our_tokens(harness_model, encoder, question, row)
    with tempfile.TemporaryDirectory() as folder:
        task = _load_task(Path(folder), _OUR_CONFIG, rows)
        return _run(harness_model, OUR_TASK, task, questions, "the same questions")


def require_our_tokens(model: Any, encoder: PromptEncoder, question: Question) -> None:
    """Raise ModelError when the harness makes other tokens of our prompt and a letter than we do."""
    harness_model = _wrap(model, encoder, add_bos_token=False)
    _require_our_tokens(harness_model, encoder, question, _our_row(encoder, question))


def score_own_prompt(model: Any, encoder: PromptEncoder, questions: Sequence[Question], data: str) -> HarnessScores:
    """Let the harness score its task medqa_4options as it comes: what published numbers are made with.

    Where `data`, the questions' source, is MedQA on the Hub, the harness fetches its own copy, and keeps to it when it
    can be had and holds the same questions.
    """
    harness_model = _wrap(model, encoder, add_bos_token=None)
    with tempfile.TemporaryDirectory() as folder:
        task, items = _own_task(Path(folder), questions, data)
        return _run(harness_model, OWN_TASK, task, questions, items)


def _wrap(model: Any, encoder: PromptEncoder, add_bos_token: bool | None) -> Any:
    # it warns that a model which is there already is not loaded again, and of settings that multiple choice ignores
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.models.huggingface import HFLM

    wrapped = HFLM(
        pretrained=model,
        tokenizer=encoder.tokenizer,
        batch_size=_SEQUENCES_PER_BATCH,
        add_bos_token=add_bos_token,
        # in bf16, its own default here, two letters would often get the same number
        softmax_dtype="float32",
    )
    wrapped.loglikelihood = functools.partial(wrapped.loglikelihood, disable_tqdm=True)
    return wrapped


def _our_row(encoder: PromptEncoder, question: Question) -> dict[str, Any]:
    asked = render_prompt(question)
    (prompt,) = encoder.render([(asked,)], add_generation_prompt=True)
    answered = encoder.render([(asked, letter) for letter in question.options])
    answers = [text.removeprefix(prompt).partition(encoder.tokenizer.eos_token)[0] for text in answered]
    return {"prompt": prompt, "answers": answers, "label": LETTERS.index(question.answer)}


def _require_our_tokens(harness_model: Any, encoder: PromptEncoder, question: Question, row: dict[str, Any]) -> None:
    prompt_ids = encoder.encode(question).prompt_ids
    for letter, answer in zip(question.options, row["answers"], strict=True):
        if harness_model.tok_encode(row["prompt"] + answer) != [*prompt_ids, encoder.letter_ids[letter]]:
            raise ModelError(
                f"the harness makes other tokens than we do of question {question.id!r} with the answer {letter}: "
                "its numbers could not be compared with ours; use the versions of constraints.txt"
            )


def _own_task(folder: Path, questions: Sequence[Question], data: str) -> tuple[Any, str]:
    import lm_eval

    config = {"include": str(Path(lm_eval.__file__).parent / "tasks" / "medqa" / "medqa.yaml"), "task": OWN_TASK}
    note = "the same questions, from the search's own data"
    if data in _HUB_DATA:
        try:
            task = _load_task(folder, config, None)
        except Exception as error:  # as many kinds as the Hub's client has: all mean that it is not to be had
            note += f" (the harness's copy on the Hub was not to be had: {type(error).__name__})"
        else:
            if _contents(check_rows(list(task["tasks"][OWN_TASK].test_docs()), data, "test")) == _contents(questions):
                return task, "the harness's own copy, from the Hub"
            note += " (the harness's copy on the Hub holds others)"
    return _load_task(folder, config, [_own_row(question) for question in questions]), note


def _own_row(question: Question) -> dict[str, Any]:
    endings = {f"ending{index}": text for index, text in enumerate(question.options.values())}
    return {"sent1": question.question, **endings, "label": LETTERS.index(question.answer)}


def _contents(questions: Sequence[Question]) -> list[tuple[str, dict[str, str], str]]:
    return [(question.question, question.options, question.answer) for question in questions]


def _load_task(folder: Path, config: dict[str, Any], rows: list[dict[str, Any]] | None) -> Any:
    """Load a task of this configuration; `rows`, where given, are its questions."""
    import pyarrow.parquet
    import yaml
    from lm_eval.tasks import TaskManager

    if rows is not None:
        path = folder / "items.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        files = {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")}
        local = {"dataset_path": "parquet", "dataset_kwargs": files, "training_split": None, "validation_split": None}
        config = config | local
    (folder / "task.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=False).load([config["task"]])


def _run(harness_model: Any, name: str, task: Any, questions: Sequence[Question], items: str) -> HarnessScores:
    from lm_eval.evaluator import evaluate

    result = evaluate(harness_model, task)
    samples = sorted(result["samples"][name], key=lambda sample: int(sample["doc_id"]))
    context = harness_model.tok_encode(samples[0]["arguments"][0][0])
    letters = list(questions[0].options)
    scored = [harness_model.tok_encode(before + answer) for before, answer in samples[0]["arguments"]]
    return HarnessScores(
        task=name,
        items=items,
        accuracy=float(result["results"][name]["acc,none"]),
        standard_error=float(result["results"][name]["acc_stderr,none"]),
        letter_tokens={letter: ids[len(context) :] for letter, ids in zip(letters, scored, strict=True)},
        bos_tokens=context.count(harness_model.tokenizer.bos_token_id),
        predictions=tuple(map(_predict, questions, samples)),
    )


def _predict(question: Question, sample: dict[str, Any]) -> Prediction:
    letters = list(question.options)
    values = {letter: float(value) for letter, (value, _) in zip(letters, sample["filtered_resps"], strict=True)}
    greedy = [letter for letter, (_, is_top) in zip(letters, sample["filtered_resps"], strict=True) if is_top]
    highest = max(values.values())
    weights = {letter: math.exp(value - highest) for letter, value in values.items()}
    total = sum(weights.values())
    return Prediction(
        id=question.id,
        gold=question.answer,
        pred=max(letters, key=lambda letter: values[letter]),
        probabilities={letter: weight / total for letter, weight in weights.items()},
        letter_mass=total * math.exp(highest),
        gold_nll=-values[question.answer],
        raw_output=greedy[0] if greedy else "",
    )
