"""What a trial was trained with is compared with what is there now, chat template and tokenizer included."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from tiny_models import LLAMA_TEMPLATE

from analysis.evaluation import load_same_base, load_same_questions
from medqa.config import Task, TrialConfig
from medqa.errors import RecordError
from medqa.model import _load_base, load_base
from medqa.prompt import wording_fingerprint
from medqa.questions import load_search_questions
from medqa.record import TrialIdentity


@pytest.fixture
def identity(tiny_llama: Path, question_folder: Path, tmp_path: Path) -> TrialIdentity:
    """Of a trial on a model in a folder of its own, which may be changed."""
    shutil.copytree(tiny_llama, tmp_path / "model")
    task = Task(model=str(tmp_path / "model"), data=str(question_folder))
    base = load_base(task)
    return TrialIdentity(
        name="a_trial",
        config=TrialConfig(),
        task=task,
        data_fingerprint=load_search_questions(task.data).fingerprint,
        prompt_fingerprint=wording_fingerprint(),
        base_fingerprint=base.fingerprint,
        token_fingerprint=base.encoder.fingerprint(),
        versions={},
    )


def test_an_edited_chat_template_is_refused(identity: TrialIdentity) -> None:
    load_same_base(identity)
    folder = Path(identity.task.model)
    (changed,) = (path for path in folder.iterdir() if path.suffix in (".json", ".jinja") and edit(path))
    assert changed.name in ("chat_template.jinja", "tokenizer_config.json")
    _load_base.cache_clear()
    with pytest.raises(RecordError, match="the chat template or tokenizer changed since the trial was trained"):
        load_same_base(identity)
    load_same_base(dataclasses.replace(identity, token_fingerprint=""))  # of an older version


def edit(path: Path) -> bool:
    text, system = path.read_text(), "Today is {{ date_string }}"
    assert system in LLAMA_TEMPLATE
    path.write_text(text.replace(system, f"{system}, and you are a doctor."))
    return system in text


def test_a_changed_prompt_is_refused(identity: TrialIdentity) -> None:
    other = dataclasses.replace(identity, prompt_fingerprint="0" * 64)
    for load in (load_same_questions, load_same_base):
        load(identity)
        with pytest.raises(RecordError, match="the prompt changed since the trial was trained"):
            load(other)
