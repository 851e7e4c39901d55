"""A trial's files: their names and formats, written whole or not at all."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medqa.config import Task, TrialConfig, from_mapping
from medqa.errors import RecordError
from medqa.memory import MemoryPlan
from medqa.prediction import Prediction

ADAPTER = "adapter"
"""Folder of the best adapter, as PEFT saves it."""
CONFIG = "config.json"
TRAINING_LOG = "training_log.json"
TRAINING_SUMMARY = "training_summary.json"
TRAINING_CURVE = "training_curve.png"
VAL_RESULTS = "val_results.json"
STATE = "state"
"""Folder from which training goes on; not part of what a finished trial leaves."""
_VERSIONED = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets")
RECORD_FILES = (CONFIG, TRAINING_LOG, TRAINING_SUMMARY, TRAINING_CURVE, VAL_RESULTS)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrialIdentity:
    """What a trial was trained on and with; the final evaluation refuses anything else."""

    name: str
    """Preset's name, or a name made by the search."""
    config: TrialConfig
    task: Task
    data_fingerprint: str
    """SHA-256 of the train and validation rows."""
    prompt_fingerprint: str
    """SHA-256 of the prompt wordings."""
    base_fingerprint: str
    """SHA-256 of the base model's configuration, its weight files (sampled) and how they are quantised."""
    versions: dict[str, str]
    """Package name to version."""
    extra_fingerprint: str = ""
    """SHA-256 of the extra training questions; "" where there are none."""
    token_fingerprint: str = ""
    """SHA-256 of what chat template and tokenizer make of the prompt; "" in the records of older versions."""


def write_identity(run_dir: Path, identity: TrialIdentity) -> None:
    """Write config.json."""
    write_json(run_dir / CONFIG, dataclasses.asdict(identity))


def read_identity(run_dir: Path) -> TrialIdentity:
    """Read config.json; RecordError when it is missing or not one of ours."""
    content = read_json(run_dir / CONFIG)
    try:
        fields = {**content, "config": from_mapping(content["config"]), "task": Task(**content["task"])}
        return TrialIdentity(**fields)
    except (KeyError, TypeError) as error:
        raise RecordError(f"{run_dir / CONFIG}: not a trial's configuration ({error})") from error


def require_same(what: str, where: str, recorded: str, loaded: str) -> None:
    """Raise RecordError when a fingerprint is not the recorded one; nothing is said of one that is not recorded."""
    if recorded and recorded != loaded:
        raise RecordError(
            f"the {what} changed since the trial was trained ({where}: recorded {recorded[:12]}, now {loaded[:12]}): "
            "restore what it was, or search again"
        )


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: Path) -> Any:
    """Read JSON; RecordError when the file is missing, unreadable or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RecordError(f"{path}: not JSON ({error})") from error


def prediction_rows(predictions: tuple[Prediction, ...], topics: list[str]) -> list[dict[str, Any]]:
    """Return one row per prediction: idx, gold, pred, raw_output, correct, topic, and what letter scoring adds."""
    return [
        {
            "idx": index,
            "id": item.id,
            "gold": item.gold,
            "pred": item.pred,
            "raw_output": item.raw_output,
            "correct": item.correct,
            "topic": topic,
            "probabilities": item.probabilities,
            "letter_mass": item.letter_mass,
            "gold_nll": item.gold_nll,
        }
        for index, (item, topic) in enumerate(zip(predictions, topics, strict=True))
    ]


def predictions_from_rows(rows: list[dict[str, Any]]) -> tuple[Prediction, ...]:
    """Read predictions back from `prediction_rows`."""
    names = [field.name for field in dataclasses.fields(Prediction)]
    return tuple(Prediction(**{name: row[name] for name in names}) for row in rows)


def write_summary(
    run_dir: Path, name: str, log: list[dict[str, Any]], left_out: int, plan: MemoryPlan, gpu: str, computes_in: str
) -> None:
    """Write training_summary.json from the evaluations so far.

    Args:
        run_dir: The trial's folder.
        name: The trial's name.
        log: Rows of training_log.json; at least one.
        left_out: Training questions left out because they were too long.
        plan: How each step was split at the end.
        gpu: Name of the GPU; "" where there is none.
        computes_in: Type in which the model computed last.
    """
    last = log[-1]
    write_json(
        run_dir / TRAINING_SUMMARY,
        {
            "config_name": name,
            # of the same questions at every evaluation
            "best_eval_loss": min(row["lm_loss"] for row in log),
            "best_accuracy": last["best_accuracy"],
            "best_answer_nll": last["best_answer_nll"],
            "best_questions": last["best_questions"],
            "best_step": last["best_step"],
            "steps": last["step"],
            "total_steps": last["total_steps"],
            "total_train_time_sec": last["seconds"],
            "peak_gib": last["peak_gib"],
            "gpu": gpu,
            "computes_in": computes_in,
            "stop_reason": last["stop_reason"],
            "train_questions_left_out": left_out,
            "memory": dataclasses.asdict(plan),
            "adapter_path": ADAPTER,
        },
    )


def read_plan(run_dir: Path) -> MemoryPlan:
    """Read from training_summary.json how each step was split."""
    return MemoryPlan(**read_json(run_dir / TRAINING_SUMMARY)["memory"])


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new folder, then put it in the place of the old one."""
    partial, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    recover_folder(folder)
    write(partial)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Clear up what a kill in the midst of `replace_folder` left: where no folder is in place, the old one is again."""
    partial, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def link_folder(source: Path, target: Path) -> None:
    """Make a folder of the same files, flushed to the disk: the files are shared where the file system can do that.

    What is shared must be replaced later, never changed in place.
    """
    shutil.copytree(source, target, copy_function=_link)


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copy a file and bring the copy to the disk."""
    shutil.copy2(source, target)
    flush_file(target)


def flush_file(path: str | Path) -> None:
    """Bring a file to the disk; where it is there already, that costs nothing."""
    with Path(path).open("rb") as file:
        os.fsync(file.fileno())


def _link(source: str | Path, target: str | Path) -> None:
    flush_file(source)
    try:
        os.link(source, target)
    except OSError:  # not every file system links
        copy_file(source, target)


@functools.cache
def installed_versions() -> dict[str, str]:
    """Return the versions of the packages on which a trial's numbers depend."""
    return {name: importlib.metadata.version(name) for name in _VERSIONED}
