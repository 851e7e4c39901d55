"""What a trial has kept in an object store: files under names never used twice, and a manifest of those that count."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from medqa import record
from medqa.errors import LockedError
from medqa.locks import alone
from medqa.storage import RemoteFolder

MANIFEST = "kept.json"
_OBJECTS = "kept"
_HERE = Path(tempfile.gettempdir()) / "medqa-qlora-search"
_LONGEST_WAIT_SECONDS = 600.0
_AT_A_TIME = 8
"""Files on their way at a time: most are small, and each takes a few requests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What counts of all that lies there."""

    attempt: int = 0
    """Number of the worker that wrote it; each one that starts takes the next."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path in the trial's folder to the object's name."""


class KeptObjects:
    """What a trial has kept under an address.

    A file that has not changed since the worker's last upload is not uploaded again. A worker on a node that was cut
    off may live on beside the one that took its place: it finds a later attempt in the manifest, and stops.

    Args:
        place: The trial's own folder in the object store.
    """

    def __init__(self, place: RemoteFolder) -> None:
        self.place = place
        self._attempt = 0
        self._uploads = 0
        self._uploaded: dict[str, tuple[tuple[int, int, int], str]] = {}
        """Path to the file as it was when it was uploaded, and its object."""
        self._pruned: set[bool] = set()

    def exists(self) -> bool:
        """Whether it has kept anything."""
        return bool(self._manifest().files)

    @contextlib.contextmanager
    def working_copy(self) -> Iterator[Path]:
        """Hand out a folder of this node with what is kept, downloaded; what killed workers left here is removed.

        Raises:
            LockedError: when another worker of this node still uses the trial after ten minutes.
            StorageError: when the object store is gone for too long.
        """
        here = _HERE / hashlib.sha256(self.place.uri.encode()).hexdigest()[:16]
        here.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(except_for=here)
        with alone(here, _LONGEST_WAIT_SECONDS):
            folder = here / "working"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                self._claim(folder)
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _claim(self, folder: Path) -> None:
        """Download what is kept, and write the next attempt's number beside it."""
        before = self._manifest()
        self._attempt = before.attempt + 1
        if not self._is_whole(before):
            before = Manifest(attempt=before.attempt)
        self._download(before, folder)
        for path, name in before.files.items():
            self._uploaded[path] = (_version(folder / path), name)
        self._write(Manifest(attempt=self._attempt, files=before.files))

    def _is_whole(self, manifest: Manifest) -> bool:
        """Whether all is there; a mounted drive that was cut off may have taken the manifest before what it names."""
        return set(manifest.files.values()) <= {f"{_OBJECTS}/{name}" for name in (self.place / _OBJECTS).names()}

    def keep(self, folder: Path) -> None:
        """Upload what has changed in the trial's folder, then let the manifest name it; a kill leaves the old one.

        Raises:
            LockedError: when another worker has taken the trial over.
            StorageError: when the object store is gone for too long.
        """
        before = self._manifest()
        if before.attempt != self._attempt:
            raise LockedError(f"{self.place.uri} was taken over by another worker: this one stops")
        self._uploads += 1
        paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            uploaded = pool.map(lambda path: self._upload(folder, path), paths)
            self._uploaded = dict(zip(paths, uploaded, strict=True))
        after = Manifest(attempt=self._attempt, files={path: name for path, (_, name) in self._uploaded.items()})
        self._write(after)
        self._delete(before, after)

    def _upload(self, folder: Path, path: str) -> tuple[tuple[int, int, int], str]:
        version = _version(folder / path)
        if path in self._uploaded and self._uploaded[path][0] == version:
            return self._uploaded[path]
        name = f"{_OBJECTS}/{self._attempt}-{self._uploads}-{path.replace('/', '-')}"
        self.place.upload(folder / path, name)
        return version, name

    def prune(self, needs_adapter: bool) -> None:
        """Remove what an ended trial needs no more; while the object store does not answer, nothing, to be tried again.

        Raises:
            StorageError: when it cannot be removed now.
        """
        if needs_adapter in self._pruned:
            return
        now = KeptObjects(RemoteFolder(self.place.uri, patience_seconds=0))
        before = now._manifest()
        unneeded = (record.STATE,) if needs_adapter else (record.STATE, record.ADAPTER)
        left = {path: name for path, name in before.files.items() if path.split("/")[0] not in unneeded}
        after = Manifest(attempt=before.attempt, files=left)
        if after != before:
            now._write(after)
            now._delete(before, after)
        self._pruned.add(needs_adapter)

    @contextlib.contextmanager
    def files(self, with_adapter: bool) -> Iterator[Path]:
        """Hand out a temporary folder with the record downloaded, and the adapter if asked for."""
        with tempfile.TemporaryDirectory(prefix="medqa-record-") as temporary:
            manifest = self._manifest()
            wanted = (*record.RECORD_FILES, *((record.ADAPTER,) if with_adapter else ()))
            files = {path: name for path, name in manifest.files.items() if path.split("/")[0] in wanted}
            self._download(Manifest(files=files), Path(temporary))
            yield Path(temporary)

    def _download(self, manifest: Manifest, folder: Path) -> None:
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(lambda path: self.place.download(manifest.files[path], folder / path), manifest.files))

    def _manifest(self) -> Manifest:
        content = self.place.read(MANIFEST)
        return Manifest(**json.loads(content)) if content else Manifest()

    def _write(self, manifest: Manifest) -> None:
        content = {"attempt": manifest.attempt, "files": dict(manifest.files)}
        self.place.write(MANIFEST, json.dumps(content, indent=1).encode())

    def _delete(self, before: Manifest, after: Manifest) -> None:
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(self.place.delete, set(before.files.values()) - set(after.files.values())))


def _version(file: Path) -> tuple[int, int, int]:
    """Return what changes when a file is replaced."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _remove_abandoned(except_for: Path) -> None:
    """Remove what killed workers of other trials left on this node; those in use are locked."""
    for folder in _HERE.iterdir():
        if folder != except_for:
            with contextlib.suppress(LockedError, OSError), alone(folder):
                shutil.rmtree(folder / "working", ignore_errors=True)
