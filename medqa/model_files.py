"""Where a base model's files are: a local folder, or the Hub's cache; which they are, and what is wrong with them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from medqa.config import DEMO, Task
from medqa.errors import ModelError

_NEEDED_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja"]
_SAMPLED_BYTES = 1 << 20
QUANTIZATION = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
"""How the base is stored, in bitsandbytes' words. Part of the fingerprint."""


def check_model(task: Task) -> Path:
    """Check cheaply, without loading weights, that the model of `task` can be had; return its config.json.

    Raises:
        ModelError: when the folder has no config, no safetensors weights or no tokenizer, or the Hub says no.
    """
    if task.model == DEMO or _is_local(task.model):
        folder = _local_folder(task.model)
        _check_folder(folder)
        return folder / "config.json"
    from huggingface_hub import hf_hub_download

    with _hub_errors(task.model):
        return Path(hf_hub_download(task.model, "config.json", revision=task.model_revision))


def source_of(task: Task) -> tuple[str, str | None]:
    """Return the local folder or the Hub id of the model of `task`, and the Hub revision."""
    if task.model == DEMO or _is_local(task.model):
        return str(_local_folder(task.model)), None
    return task.model, task.model_revision


def resolve_model(task: Task) -> Path:
    """Return the local folder of the model, downloaded from the Hub into its cache where needed."""
    if task.model == DEMO or _is_local(task.model):
        folder = _local_folder(task.model)
    else:
        from huggingface_hub import snapshot_download

        with _hub_errors(task.model):
            folder = Path(
                snapshot_download(
                    task.model,
                    revision=task.model_revision,
                    allow_patterns=_NEEDED_FILES,
                    # Mistral's repositories hold the same weights a second time under this name
                    ignore_patterns=["consolidated*"],
                )
            )
    _check_folder(folder)
    return folder


def _local_folder(model: str) -> Path:
    if model != DEMO:
        return Path(model).expanduser()
    from medqa.demo import BASE_FOLDER

    return BASE_FOLDER


def _is_local(model: str) -> bool:
    return Path(model).expanduser().exists() or model.startswith((".", "/", "~")) or model.count("/") != 1


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder, and not a Hub id of the form OWNER/NAME")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json, so this is not a model folder")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: no weights as *.safetensors (other formats are not loaded)")
    if not any(folder.glob("tokenizer*")):
        raise ModelError(f"{folder}: no tokenizer files")


@contextlib.contextmanager
def _hub_errors(model: str) -> Iterator[None]:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"{model} asks for an accepted licence: accept it on its Hub page, then set HF_TOKEN to your access token"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{model}: no such model on the Hub, or it is private and HF_TOKEN is not set") from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{model} cannot be fetched from the Hub ({first_line(error)}): check the network, or give a local "
            "folder with --model, or run the demo with --demo"
        ) from error


def fingerprint(folder: Path) -> str:
    """Hash config.json whole, the quantisation, and of each weight file its name, size, first and last MiB."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    digest.update(json.dumps(QUANTIZATION).encode())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLED_BYTES))
            file.seek(max(0, size - _SAMPLED_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
