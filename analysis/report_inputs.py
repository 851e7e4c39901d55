"""The files of an evaluation that a report shows where they are there, beside those that always are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis import study_files as names
from analysis.plot_style import MODELS
from medqa.record import read_json

Files = dict[str, Any]
"""Name of a file to its content."""
CONFIDENCE = "confidence.json"
POSITIONS = "positions.json"
DETAILS = "mistakes.json"
LEAKS = "leaks.json"
SCORERS = "scorers.json"
COMPARISONS = "comparisons.json"
COVERAGE = "coverage.json"
ALSO = "also"
"""Folder with one folder for each further set of questions."""
_OPTIONAL = (CONFIDENCE, POSITIONS, DETAILS, LEAKS, SCORERS, COMPARISONS, COVERAGE, *names.OTHER_RESULTS.values())
_OF_A_SET = (names.SUMMARY, names.STATISTICS, COMPARISONS)


def with_optional(folder: Path, files: Files) -> Files:
    """Return the files with those added that lie in the folder and are not given, and the further sets under ALSO.

    Raises:
        RecordError: when one of them is broken.
    """
    found = {name: read_json(folder / name) for name in _OPTIONAL if name not in files and (folder / name).is_file()}
    sets = sorted(path for path in (folder / ALSO).glob("*") if (path / names.SUMMARY).is_file())
    also = {path.name: {name: read_json(path / name) for name in _OF_A_SET if (path / name).is_file()} for path in sets}
    return {**files, **found, **({ALSO: also} if also else {})}


def models_in(content: dict[str, Any]) -> list[str]:
    """Return the models that a file names, in the order in which they are shown; its other keys are left out."""
    others = [key for key in content if key not in MODELS and key != "delta"]
    return [model for model in MODELS if model in content] + others


def results_of(files: Files) -> dict[str, Any]:
    """Return model's name to its results file, in the order in which models are shown."""
    places = {**names.RESULTS, **names.OTHER_RESULTS}
    return {model: files[places[model]] for model in models_in(places) if places[model] in files}
