"""A results folder as a search leaves it, with a small tuned model that answers: for the scripts that load one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TWO_TRIALS = (("explored_1", 0.5, True), ("config_2_low_rank", 0.25, False))


def make_results(
    folder: Path, model: str, *, moved: float = 0.0, trials: tuple[tuple[str, float, bool], ...] = TWO_TRIALS
) -> Path:
    """Make a results folder with a search `x`; return it.

    Each trial has an adapter of its own, so that one taken for another shows; its files are kept in `folder / name`.

    Args:
        folder: An empty folder.
        model: Folder of the base model, or "demo".
        moved: Standard deviation of the adapters' B matrices; 0.0 leaves them untrained, and all the same.
        trials: Each trial's name, validation accuracy, and whether it shuffled options.
    """
    from mlflow import MlflowClient

    from medqa.presets import PRESETS

    _make_records(folder, model, moved, [name for name, _, _ in trials])
    results = folder / "results"
    (results / "x").mkdir(parents=True)
    (results / "x" / "settings.json").write_text(json.dumps({"metric": "accuracy"}))
    client = MlflowClient(tracking_uri=f"sqlite:///{results}/mlflow.db")
    experiment = client.create_experiment("medqa", artifact_location=(results / "artifacts").as_uri())
    parent = client.create_run(experiment, tags={"role": "search", "search": "x"}).info.run_id
    shared = {"role": "trial", "search": "x", "state": "completed", "mlflow.parentRunId": parent}
    for name, accuracy, shuffled in trials:
        seed_point = name if name in PRESETS else ""
        trial = client.create_run(experiment, tags={**shared, "seed_point": seed_point}, run_name=name).info.run_id
        client.log_metric(trial, "best_accuracy", accuracy)
        client.log_metric(trial, "best_answer_nll", 1.4)
        client.log_param(trial, "shuffle_options", str(shuffled))
        client.log_artifacts(trial, str(folder / name))
    return results


def _make_records(folder: Path, model_name: str, moved: float, names: list[str]) -> None:
    import torch

    from medqa import record
    from medqa.config import Task, TrialConfig
    from medqa.metrics import study_results
    from medqa.model import load_base
    from medqa.prompt import wording_fingerprint
    from medqa.questions import load_search_questions
    from medqa.scoring import score_questions

    _write_questions(folder / "questions")
    task, config = Task(model=model_name, data=str(folder / "questions")), TrialConfig(lora_rank=4)
    questions, base = load_search_questions(task.data), load_base(task)
    for number, name in enumerate(names):
        with base.new_adapter(config) as model:
            dice = torch.Generator().manual_seed(number)
            for weight_name, weight in model.named_parameters():
                if "lora_B" in weight_name:
                    torch.nn.init.normal_(weight, std=moved, generator=dice)
            model.save_pretrained(folder / name / record.ADAPTER)
            validation = score_questions(model, base.encoder, questions.validation).predictions
        identity = record.TrialIdentity(
            name=name,
            config=config,
            task=task,
            data_fingerprint=questions.fingerprint,
            prompt_fingerprint=wording_fingerprint(),
            base_fingerprint=base.fingerprint,
            versions={},
        )
        record.write_identity(folder / name, identity)
        record.write_json(folder / name / record.VAL_RESULTS, study_results(validation, questions.validation))


def _write_questions(folder: Path) -> None:
    folder.mkdir()
    for split, first in (("train", 0), ("validation", 100), ("test", 200)):
        rows: list[dict[str, Any]] = [
            {
                "id": f"{split}{number}",
                "question": f"Patient {number} has fever and a cough. Which finding fits?",
                "options": {letter: f"finding {number}{letter.lower()}" for letter in "ABCD"},
                "answer": "ABCD"[number % 4],
            }
            for number in range(first, first + 12)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
