"""What the tests share: a tiny model with Mistral's real tokenizer, question files, MedQA's real rows."""

from __future__ import annotations

import json
import os
import shutil
from importlib import resources
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

ROOT = Path(__file__).resolve().parent.parent
REAL_ROWS = ROOT.parent / "shared" / "data" / "medqa"
# the form in which Mistral-7B-Instruct-v0.3 was trained: <s>[INST] user[/INST] assistant</s>
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }}[/INST]{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="session")
def mistral_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Mistral-7B-Instruct-v0.3's tokenizer, laid out as on the Hub."""
    from transformers import AutoTokenizer

    raw = tmp_path_factory.mktemp("sentencepiece")
    model = resources.files("mistral_common") / "data" / "mistral_instruct_tokenizer_240323.model.v3"
    with resources.as_file(model) as source:
        shutil.copy(source, raw / "tokenizer.model")
    (raw / "config.json").write_text(json.dumps({"model_type": "mistral", "vocab_size": 32768}))
    tokenizer = AutoTokenizer.from_pretrained(raw)
    tokenizer.chat_template = MISTRAL_TEMPLATE
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory, mistral_tokenizer_folder: Path) -> Path:
    """A folder with a random Mistral of two layers and Mistral's real tokenizer."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-mistral")
    config = MistralConfig(
        vocab_size=32768,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    MistralForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for file in mistral_tokenizer_folder.iterdir():
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def question_rows() -> list[dict[str, object]]:
    """Forty well-formed rows; question k is answered by the letter of k."""
    return [
        {
            "id": f"q{number}",
            "question": f"Patient {number} has fever and a cough. Which finding fits number {number}?",
            "options": {letter: f"finding {number}{letter.lower()}" for letter in "ABCD"},
            "answer": "ABCD"[number % 4],
        }
        for number in range(40)
    ]


@pytest.fixture
def question_folder(tmp_path: Path, question_rows: list[dict[str, object]]) -> Path:
    """A folder of train.jsonl (24 rows), validation.jsonl (8) and test.jsonl (8)."""
    folder = tmp_path / "questions"
    folder.mkdir()
    for name, rows in (
        ("train", question_rows[:24]),
        ("validation", question_rows[24:32]),
        ("test", question_rows[32:]),
    ):
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


@pytest.fixture
def real_rows() -> Path:
    """The folder of real MedQA rows; the test is skipped where it is absent."""
    if not REAL_ROWS.is_dir():
        pytest.skip("the real MedQA rows are not here")
    return REAL_ROWS


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
