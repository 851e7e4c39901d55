"""What the tests share: a tiny model with Mistral's real tokenizer, question files, MedQA's real rows."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.random_mistral import SHAPE_TINY, write_model, write_tokenizer
from tiny_models import write_llama, write_qwen

if TYPE_CHECKING:
    from object_store import Weather

    from medqa.config import Task

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# tests run side by side, and threads that wait for each other on a shared machine take many times as long as one
os.environ.setdefault("OMP_NUM_THREADS", "1")
DEFAULTS = ("MEDQA_RESULTS", "MLFLOW_TRACKING_URI")
for _default in DEFAULTS:
    os.environ.pop(_default, None)  # set on a cluster's nodes: a test says itself where its results go


ROOT = Path(__file__).resolve().parent.parent
REAL_ROWS = ROOT.parent / "shared" / "data" / "medqa"


@pytest.fixture(autouse=True)
def _environment_as_it_was() -> Iterator[None]:
    """Fail the test that leaves a default of the command line behind for those after it."""
    yield
    left = [name for name in DEFAULTS if os.environ.pop(name, None)]
    assert not left, f"the test has set {left} for all that come after it"


@pytest.fixture(scope="session")
def mistral_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Mistral-7B-Instruct-v0.3's tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Mistral of two layers and Mistral's real tokenizer, in shards as on the Hub."""
    folder = tmp_path_factory.mktemp("tiny-mistral")
    write_model(folder, SHAPE_TINY)
    return folder


@pytest.fixture
def task(tiny_mistral: Path, question_folder: Path) -> Task:
    """The tiny Mistral and a few questions."""
    from medqa.config import Task

    return Task(model=str(tiny_mistral), data=str(question_folder))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of two layers, its tokenizer and a chat template that asks for the day."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    write_llama(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Qwen 2 of two layers: biases on q, k and v, tied embeddings, no BOS token."""
    folder = tmp_path_factory.mktemp("tiny-qwen")
    write_qwen(folder)
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


@pytest.fixture
def object_store_weather(monkeypatch: pytest.MonkeyPatch) -> Iterator[Weather]:
    """An S3 on the loopback with the bucket `bucket`, which this process and its children find; see object_store.py."""
    from object_store import ENVIRONMENT, object_store

    from medqa import storage

    with object_store() as (endpoint, weather):
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        storage._open.cache_clear()  # the store of the test before has another address
        yield weather
        storage._open.cache_clear()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium; the test is skipped where there is none."""
    chromium, driver_file = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (chromium and driver_file and importlib.util.find_spec("selenium")):
        pytest.skip("chromium, chromedriver or selenium is not here (tests/install_debian.sh, make setup)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    # no sandbox: tests also run as root, in containers
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_file))
    yield driver
    driver.quit()


def script(name: str, *arguments: str) -> str:
    """Run a script of the project as a person does; return what it printed, and fail when it fails."""
    command = [sys.executable, str(ROOT / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
