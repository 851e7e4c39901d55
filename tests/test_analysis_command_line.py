"""What the scripts share: the command as it is recorded."""

from __future__ import annotations

import sys

import pytest

from analysis.command_line import given_command


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
