"""An adapter's files: whether they are whole, and which adapter they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from medqa.errors import RecordError
from medqa.record import read_json

SETTINGS = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_OF_A_COPY = ("base_model_name_or_path", "revision")
"""Settings that say where the base was found, which an export changes: the same adapter may have others."""


def adapter_fingerprint(folder: Path) -> str:
    """Return a SHA-256 over an adapter's weights and the settings with which they are used.

    Raises:
        RecordError: when a file of it is missing, cut short or broken.
    """
    settings, weights = read_json(folder / SETTINGS), folder / _WEIGHTS
    if not (isinstance(settings, dict) and "peft_type" in settings):
        raise RecordError(f"{folder / SETTINGS}: not an adapter's settings")
    _require_whole(weights)
    used = {name: value for name, value in settings.items() if name not in _OF_A_COPY}
    digest = hashlib.sha256(json.dumps(used, sort_keys=True).encode())
    digest.update(weights.read_bytes())
    return digest.hexdigest()


def _require_whole(weights: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if not weights.is_file():
        raise RecordError(f"{weights}: no such file, so the adapter cannot be used")
    try:
        with safe_open(weights, framework="numpy"):  # reads the header, and compares what it says with the file's size
            pass
    except SafetensorError as error:
        raise RecordError(f"{weights}: not an adapter's whole weights ({error}): restore the file") from error
