"""From what a trial's numbers come: the code's commit, and what its record says of data, prompt, versions and GPU."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

from medqa import record

_ROOT = Path(__file__).resolve().parent.parent
_FINGERPRINTS = ("data_fingerprint", "prompt_fingerprint", "token_fingerprint", "base_fingerprint")


@functools.cache
def code_tags() -> dict[str, str]:
    """Return the commit of the checkout that runs, and whether files differ from it; nothing outside a checkout."""
    if not (_ROOT / ".git").exists():  # a repository around the place where this is installed is another's
        return {}
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    if not commit:
        return {}
    return {"mlflow.source.git.commit": commit, "code": "changed since the commit" if changed else "as committed"}


def record_tags(run_dir: Path) -> dict[str, str]:
    """Return what a trial's record says of its origin; a record that was cut short says less."""
    identity, summary = (_content(run_dir / name) for name in (record.CONFIG, record.TRAINING_SUMMARY))
    tags = {name: str(identity[name]) for name in _FINGERPRINTS if name in identity}
    if versions := identity.get("versions"):
        tags["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    if gpu := summary.get("gpu"):
        tags["gpu"] = gpu
    if computes_in := summary.get("computes_in"):
        tags["computes_in"] = computes_in
    return tags


def _content(file: Path) -> dict[str, Any]:
    return dict(record.read_json(file)) if file.is_file() else {}


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
