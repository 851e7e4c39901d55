"""What the scripts share: the command as it is recorded, and errors as one line."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from analysis.command_line import given_command, run_script
from analysis.runs import mlflow_errors
from medqa.errors import RecordError
from medqa.record import write_json


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://me:secret@host:5000/x", "https://host:5000/x"),
        ("--tracking-uri=postgresql://me:se/cret@9@host/db", "--tracking-uri=postgresql://host/db"),
        ("https://secret@host", "https://host"),
        ("s3://bucket/folder@2", "s3://bucket/folder@2"),
        ("mine=rows@2.jsonl", "mine=rows@2.jsonl"),
        ("two words", "'two words'"),
    ],
)
def test_a_recorded_command_holds_no_password(given: str, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["analysis/final_eval.py", "--best", given])
    assert given_command() == f"analysis/final_eval.py --best {kept}"


def test_what_mlflow_says_is_shown_without_a_password() -> None:
    uri = "https://me:secret@host:5000"
    shown = "^MLflow at https://host:5000: no answer from https://host:5000/api at 9:00$"
    with pytest.raises(RecordError, match=shown), mlflow_errors(uri):
        raise OSError(f"no answer from {uri}/api at 9:00")


def test_what_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run_script("final_eval", lambda: write_json(tmp_path / "file" / "started.json", {})) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"final_eval: {tmp_path / 'file'}")


def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it, without a name

    assert run_script("final_eval", write) == 2
    assert capsys.readouterr().err == "final_eval: No space left on device\n"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_exit_code_is_the_scripts_own(returned: int | None, code: int) -> None:
    assert run_script("lm_eval_check", lambda: returned) == code
