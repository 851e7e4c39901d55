"""A search that is kept in an object store, fetched to the machine that goes on with it."""

from __future__ import annotations

import dataclasses
import io
import json
import uuid
import zipfile
from pathlib import Path

from medqa import record
from medqa.locks import alone
from medqa.search_record import PACKED, STAMP
from medqa.storage import RemoteFolder
from tune import settings
from tune.settings import SearchSettings

DATABASE = ".db"
"""How the names of SQLite's files end."""
_WRITER = ".writer"
_FETCHED = ".fetched"
"""Says that MLflow's database may be older than what has come from another machine."""


def find_kept(results: Path | str, name: str) -> SearchSettings | None:
    """Return what an earlier run of a search of this name was begun with; from an object store, all it kept comes.

    Raises:
        ConfigError: when the name cannot be a folder's, or the folder cannot be written to.
        LockedError: when the search is running on this machine.
        StorageError: when the object store does not answer.
    """
    folder, place = settings.folder_of(results, name), settings.address_of(results, name)
    if place:
        settings.make_folder(folder)
        with alone(folder):
            if fetch(place, folder):
                (folder / _FETCHED).touch()
                print(f"Going on with what is kept in {place}; this machine works on it in {folder}.", flush=True)
    kept = settings.kept_settings(folder)
    if place and kept and kept.tracking_uri.startswith("sqlite:"):  # it travels with the search's files
        kept = dataclasses.replace(kept, tracking_uri=settings.default_store(results, folder))
    return kept


def fetch(place: str, folder: Path) -> bool:
    """Put what was kept under an address into the search's folder; return whether that was needed.

    What this folder wrote there itself, or has fetched before, is at least as new here.

    Raises:
        StorageError: when the object store does not answer.
    """
    content = RemoteFolder(place).read(PACKED)
    if content is None:
        return False
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        stamp = json.loads(archive.read(STAMP))
        if stamp["writer"] == writer_of(folder) or stamp == newest_stamp(folder):
            return False
        for file in files_of(folder):
            file.unlink()
        archive.extractall(folder)
    return True


def is_fetched(folder: Path) -> bool:
    """Whether the folder's content has come from another machine, and MLflow is to be told of it again."""
    return (folder / _FETCHED).exists()


def told_again(folder: Path) -> None:
    """Note that MLflow was told again."""
    (folder / _FETCHED).unlink(missing_ok=True)


def newest_stamp(folder: Path) -> dict[str, str]:
    """Return of which writing the files are that came here, or went from here, last; {} where none did."""
    file = folder / STAMP
    stamp: dict[str, str] = record.read_json(file) if file.exists() else {}
    return stamp


def writer_of(folder: Path) -> str:
    """Return the name of this folder among all that were ever the search's."""
    file = folder / _WRITER
    if not file.exists():
        record.write_json(file, uuid.uuid4().hex)
    return str(record.read_json(file))


def files_of(folder: Path) -> list[Path]:
    """Return what is kept there of a search's folder."""
    files = (path for path in folder.glob("*") if path.is_file() and not path.name.startswith("."))
    # what MLflow has taken is in its database before it is struck off the journal: the databases come last
    return sorted(files, key=lambda path: (path.suffix == DATABASE, path.name))
