"""Exporting the best model: what is refused before any work, what the card says, a merged model that anybody loads."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from analysis_fakes import make_predictions, make_questions
from conftest import ROOT
from tuned_fakes import make_results

from analysis import export, hub_push
from analysis.exporting import difference_section, require_free
from analysis.report_content import Bullets
from medqa.errors import ModelError, RecordError

SCRIPT = ROOT / "analysis" / "export.py"
OPTIONS = {"--help", "--best", "--to", "--merge", "--push", "--name", "--results", "--tracking-uri"}


def run(*arguments: object, interpreter: tuple[str, ...] = (sys.executable,)) -> subprocess.CompletedProcess[str]:
    command = [*interpreter, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def export_here(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export.py", "--best", *map(str, arguments)])
        return export.main()


def test_help_answers_before_anything_heavy_is_imported() -> None:
    result = run("--help", interpreter=(sys.executable, "-X", "importtime"))
    assert result.returncode == 0
    assert not any(name in result.stderr for name in ("torch", "mlflow", "matplotlib", "numpy"))
    assert set(re.findall(r"(?<!\w)--[a-z-]+", result.stdout)) == OPTIONS


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "mine.txt"):
        assert export_here("--to", place, "--results", tmp_path / "none") == 2
        assert "nothing is overwritten" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    require_free(tmp_path / "empty")
    require_free(tmp_path / "new" / "deep")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_push_without_a_token_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert export_here("--to", tmp_path / "new", "--push", "me/mine") == 2
    error = capsys.readouterr().err
    assert "set HF_TOKEN" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_push_that_the_hub_cannot_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_made_up")
    with pytest.raises(ModelError, match="--push me/mine: the Hub does not take it") as caught:
        hub_push.require_hub("me/mine")  # the tests are offline
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="a/b/c"):
        hub_push.require_hub("a/b/c")


def test_a_push_makes_a_private_repository_of_the_folders_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    class Made(str):
        repo_id = "me/mine"

    class Hub:
        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> Made:
            asked.append((name, private, exist_ok))
            return Made("https://huggingface.co/me/mine")

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> None:
            asked.append((repo_id, folder_path))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert hub_push.push(tmp_path, "mine") == "https://huggingface.co/me/mine"
    assert asked == [("mine", True, True), ("me/mine", tmp_path)]


def test_the_difference_counts_letters_and_finds_the_largest_gap() -> None:
    first = make_predictions(make_questions(40), 0.6, seed=1)
    moved = {"A": 0.1, "B": 0.2, "C": 0.3, "D": 0.4}
    other = next(letter for letter in "ABCD" if letter != first[0].pred)
    second = (dataclasses.replace(first[0], pred=other, probabilities=moved), *first[1:])
    gap = max(abs(first[0].probabilities[letter] - moved[letter]) for letter in "ABCD")
    (lines,) = (block.lines for block in difference_section(first, second).blocks if isinstance(block, Bullets))
    assert "Another letter for 1 of 40 questions." in lines
    assert f"{100 * gap:.2g} points" in lines[2]
    assert f"{100 * sum(one.correct for one in first) / 40:.1f} %" in lines[0]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("work"), "demo", moved=0.02)


@pytest.mark.slow
def test_the_adapter_is_written_with_a_card_and_loads_with_peft(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "adapter"
    assert export_here("--results", results, "--to", folder) == 0
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= {path.name for path in folder.iterdir()}
    card = (folder / "README.md").read_text()
    assert "Not for clinical use" in card
    assert "It was not evaluated on the test split." in card
    assert "library_name: peft" in card

    from peft import AutoPeftModelForCausalLM

    assert AutoPeftModelForCausalLM.from_pretrained(folder).peft_config["default"].r == 4


@pytest.mark.slow
def test_an_adapters_base_is_the_one_that_the_search_was_given(tiny_mistral: Path, tmp_path: Path) -> None:
    results = make_results(tmp_path, str(tiny_mistral))
    assert export_here("--results", results, "--to", tmp_path / "adapter") == 0
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tiny_mistral)


@pytest.mark.slow
def test_the_merged_model_answers_with_plain_transformers(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medqa.prompt import PromptEncoder, render_prompt
    from medqa.questions import load_search_questions
    from medqa.record import predictions_from_rows

    folder = tmp_path / "merged"
    assert export_here("--results", results, "--to", folder, "--merge") == 0
    card = (folder / "README.md").read_text()
    assert "Another letter for" in card
    assert "library_name: transformers" in card

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert {type(module).__name__ for module in model.modules() if "Linear" in type(module).__name__} == {"Linear"}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kept = json.loads((results.parent / "explored_1" / "val_results.json").read_text())
    said = predictions_from_rows(kept["predictions"])
    letters = list(PromptEncoder(tokenizer).letter_ids.values())[:4]
    same = 0
    for question, item in zip(load_search_questions(str(results.parent / "questions")).validation, said, strict=True):
        turns = [{"role": "user", "content": render_prompt(question)}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            logits = model(**ids).logits[0, -1].float()
        probabilities = torch.softmax(logits[letters], dim=-1).tolist()
        assert probabilities == pytest.approx(list(item.probabilities.values()), abs=0.1)
        same += probabilities.index(max(probabilities)) == list(item.probabilities).index(item.pred)
    assert same >= len(said) - 2
    assert export_here("--results", results, "--to", folder, "--merge") == 2


def test_a_missing_search_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_here("--results", tmp_path, "--to", tmp_path / "new") == 2
    assert "no search in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RecordError, match="something is there"):
        require_free(SCRIPT)
