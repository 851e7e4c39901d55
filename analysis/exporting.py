"""The best adapter, or the model that it makes of its base, as a folder with a card."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import study_files
from analysis.chosen import format_choice
from analysis.evaluation import load_same_base, load_same_questions
from analysis.model_card import write_card
from analysis.prepared import Tuned, fetch
from analysis.reads import count_reads
from analysis.report_content import Bullets, Paragraph, Section, code
from analysis.report_inputs import Files, with_optional
from analysis.report_numbers import rate
from analysis.selected import Selected, select_best
from medqa import record
from medqa.config import DEMO
from medqa.errors import RecordError
from medqa.metrics import accuracy
from medqa.model import BaseModel
from medqa.prediction import Prediction
from medqa.prompt import TRAINING_WORDING
from medqa.quiet import silence_libraries

CARD = "README.md"
"""Where the Hub looks for a card."""


def require_free(folder: Path) -> None:
    """Raise RecordError when something is in the folder, or in the way of it."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RecordError(f"--to {folder}: something is there, and nothing is overwritten: give a new folder")


def export_best(arguments: argparse.Namespace) -> None:
    """Write the folder that the command asks for, whole or not at all.

    Raises:
        RecordError: when there is no such search or adapter, or what it was trained with is no longer the same.
    """
    selected = select_best(arguments.results, arguments.tracking_uri, arguments.name)
    print(format_choice(selected.search.name, selected.choice), flush=True)
    silence_libraries()
    write = _write_merged if arguments.merge else _write_adapter
    with tempfile.TemporaryDirectory() as temporary:
        tuned = fetch(selected.search, selected.trial, Path(temporary))
        files = card_files(selected, tuned)
        try:
            arguments.to.parent.mkdir(parents=True, exist_ok=True)
            record.replace_folder(arguments.to.absolute(), lambda folder: write(folder, tuned, files))
        except OSError as error:
            raise RecordError(f"--to {arguments.to}: cannot be written ({error.strerror or error})") from error
    print(f"written: {arguments.to}, with its card in {CARD}")


def card_files(selected: Selected, tuned: Tuned) -> Files:
    """Return what a card is made of: the files of the newest final evaluation of this training, else what is known."""
    folders = [file.parent for file in selected.search.folder.glob(f"*/{study_files.EVALUATION}")]
    for folder in sorted(folders, key=lambda one: (one / study_files.EVALUATION).stat().st_mtime, reverse=True):
        evaluated = record.read_json(folder / study_files.EVALUATION)
        if evaluated["winner"]["run_id"] == selected.trial.run_id:
            return with_optional(folder, study_files.read_files(folder))
    validation = record.read_json(tuned.record_folder / record.VAL_RESULTS)
    evaluation = {
        "search": selected.search.name,
        "best_means": selected.choice["means"],
        "winner": {"name": selected.trial.name},
        "identity": dataclasses.asdict(tuned.identity),
        "training_wording": TRAINING_WORDING,
        "validation_accuracy": validation["accuracy_interval"],
        "test_reads": count_reads(selected.search.folder),
    }
    return {study_files.EVALUATION: evaluation}


def _write_adapter(folder: Path, tuned: Tuned, files: Files) -> None:
    shutil.copytree(tuned.adapter, folder)
    task, settings = tuned.identity.task, record.read_json(folder / "adapter_config.json")
    if task.model != DEMO:  # in the place of the folder from which this machine loaded it
        settings |= {"base_model_name_or_path": task.model, "revision": task.model_revision}
        record.write_json(folder / "adapter_config.json", settings)
    (folder / CARD).write_text(write_card(files), encoding="utf-8")


def _write_merged(folder: Path, tuned: Tuned, files: Files) -> None:
    """Write the merged model, load it as anybody would, and put into its card how its answers differ."""
    from medqa.merging import write_merged
    from medqa.scoring import score_questions

    questions, base = load_same_questions(tuned.identity).validation, load_same_base(tuned.identity)
    folder.mkdir()
    with base.adapter_from(tuned.adapter) as model:
        in_four_bits = score_questions(model, base.encoder, questions).predictions
        print("merging", flush=True)
        write_merged(base, folder)
    merged = score_questions(_load(folder, base), base.encoder, questions).predictions
    section = difference_section(in_four_bits, merged)
    print("\n".join(line for block in section.blocks if isinstance(block, Bullets) for line in block.lines))
    (folder / CARD).write_text(write_card(files, merged=section), encoding="utf-8")


def _load(folder: Path, base: BaseModel) -> Any:
    from transformers import AutoModelForCausalLM

    from medqa.model import compute_dtype

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=compute_dtype(), device_map={"": base.model.device}, attn_implementation="sdpa"
    ).eval()


def difference_section(in_four_bits: Sequence[Prediction], merged: Sequence[Prediction]) -> Section:
    """Return what a card says of the merged model beside the 4-bit base with its adapter, on the same questions."""
    pairs = list(zip(in_four_bits, merged, strict=True))
    letters = sum(one.pred != other.pred for one, other in pairs)
    apart = [abs(value - other.probabilities[key]) for one, other in pairs for key, value in one.probabilities.items()]
    rates = [rate(dataclasses.asdict(accuracy(items))) for items in (in_four_bits, merged)]
    text = (
        "This is the base's 4-bit weights written out in bf16 with the adapter added to them, so that plain "
        f"{code('transformers')} loads it. Measured on the {len(pairs):,} validation questions, on one machine (all "
        "other numbers on this card are of the 4-bit base with the adapter):"
    )
    lines = (
        f"4-bit base with the adapter: {rates[0]} right; this model: {rates[1]} right.",
        f"Another letter for {letters:,} of {len(pairs):,} questions.",
        f"Largest difference of a letter's probability: {100 * max(apart):.2g} points.",
    )
    return Section(title="Merged", blocks=(Paragraph(text=text), Bullets(lines=lines)))
