"""The script as a person starts it: help, wrong uses, and one whole evaluation of a tiny model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tuned_fakes import TWO_TRIALS, make_results

from analysis import final_eval, study_files
from analysis.item_rows import read_rows
from analysis.reads import count_reads
from medqa.errors import DataError
from medqa.questions import load_search_questions, load_test_questions

SCRIPT = ROOT / "analysis" / "final_eval.py"
OPTIONS = {
    *("--help", "--best", "--run-id", "--preset", "--adapter", "--from"),
    *("--top", "--also", "--name", "--results", "--tracking-uri"),
}
FROM_THE_RECORD = {"items.jsonl", "validation.jsonl", "questions.json", "started.json", "seconds.json"}


def run(*arguments: object, interpreter: tuple[str, ...] = (sys.executable,)) -> subprocess.CompletedProcess[str]:
    command = [*interpreter, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr


def test_help_answers_before_anything_heavy_is_imported() -> None:
    result = run("--help", interpreter=(sys.executable, "-X", "importtime"))
    assert result.returncode == 0
    assert not any(name in result.stderr for name in ("torch", "mlflow", "matplotlib", "numpy"))


def test_the_flags_are_these() -> None:
    words = run("--help").stdout.replace(",", " ").replace("[", " ").split()
    assert {word for word in words if word.startswith("--")} == OPTIONS


def test_started_outside_the_environment_it_names_the_command_that_makes_it() -> None:
    result = run("--best", interpreter=(sys.executable, "-S", "-E"))
    assert_one_line(result, "make setup", ".venv/bin/python analysis/final_eval.py --best")


def test_best_before_any_search_is_one_line(tmp_path: Path) -> None:
    assert_one_line(run("--best", "--results", tmp_path), "no search in", "make search")
    assert list(tmp_path.iterdir()) == []


def test_drawing_again_from_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    assert_one_line(run("--from", tmp_path), "started.json", "no such file")


def test_a_file_in_the_place_of_an_evaluations_folder_is_one_line(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("")
    assert_one_line(run("--from", page), "started.json: cannot be read (Not a directory)")


def test_two_other_sets_of_one_name_are_refused() -> None:
    result = run("--best", "--also", "mine=one.jsonl", "--also", "mine=two.jsonl")
    assert result.returncode == 2
    assert "--also mine is given twice" in result.stderr


def test_it_must_be_told_what_to_evaluate() -> None:
    result = run()
    assert result.returncode == 2
    assert "--best" in result.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_mistral: Path) -> Path:
    """A results folder with one search of three trials: an untrained adapter on a tiny Mistral."""
    trials = (*TWO_TRIALS, ("config_3_high_rank", 0.4, True))
    return make_results(tmp_path_factory.mktemp("work"), str(tiny_mistral), trials=trials)


@pytest.fixture(scope="module")
def evaluated(results: Path) -> Path:
    """The results folder after one evaluation with an ensemble and another set of questions."""
    other = results.parent / "other.jsonl"
    rows = [other_row(number, "ABCDE"[: 2 + number % 4]) for number in range(9)]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = run("--best", "--results", results, "--top", "2", "--also", f"mine={other}")
    assert first.returncode == 0, first.stderr
    assert "tuned minus zero-shot" in first.stdout
    return results


def other_row(number: int, letters: str) -> dict[str, Any]:
    return {
        "id": f"mine{number}",
        "question": f"Child {number} has a rash. Which finding fits?",
        "options": {letter: f"finding {number}{letter.lower()}" for letter in letters},
        "answer": letters[number % len(letters)],
    }


def ask(*arguments: object) -> int:
    """The script's own main, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["final_eval.py", *map(str, arguments)])
        return final_eval.main()


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_an_evaluation_leaves_every_file_and_figure(evaluated: Path) -> None:
    folder = evaluated / "x" / "final_eval"
    names = {path.name for path in folder.iterdir()}
    assert names >= {*study_files.FILES, *study_files.OTHER_RESULTS.values(), *FROM_THE_RECORD}
    assert len(list(folder.glob("*.png"))) >= 9
    assert {path.name for path in (folder / "also" / "mine").iterdir()} >= {*study_files.SET_FILES, "items.jsonl"}
    # an untrained adapter changes nothing: zero-shot and tuned agree item by item, and so does their ensemble
    zero_shot, tuned = (
        json.loads((folder / name).read_text())["predictions"]
        for name in ("zero_shot_results.json", "finetuned_test_results.json")
    )
    assert [row["probabilities"] for row in zero_shot] == [row["probabilities"] for row in tuned]
    positions = json.loads((folder / "positions.json").read_text())
    assert set(positions["models"]) == {"zero_shot", "fine_tuned", "counterpart"}
    assert set(positions["pairs"]) == {"fine_tuned_minus_zero_shot", "fine_tuned_minus_counterpart"}
    assert positions["pairs"]["fine_tuned_minus_zero_shot"]["accuracy"]["value"] == 0
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["ensemble"] == ["explored_1", "config_3_high_rank"]
    assert (evaluation["counterpart"], evaluation["best_preset"]) == ("config_2_low_rank", "config_3_high_rank")
    statistics = json.loads((folder / "statistics.json").read_text())
    assert statistics["fine_tuned_minus_best_preset"]["difference"]["value"] == 0
    assert "on the test split over `config_3_high_rank`, the best preset on validation" in (
        (folder / "report.md").read_text()
    )
    assert "--best" in evaluation["command"]


@pytest.mark.slow
def test_every_question_has_one_row_with_all_that_was_asked(evaluated: Path) -> None:
    rows = read_rows(evaluated / "x" / "final_eval" / "items.jsonl")
    lines = (evaluated / "x" / "final_eval" / "items.jsonl").read_text().splitlines()
    assert len(rows) == len(lines) == 12
    for row in rows.values():
        assert set(row.models) == {"zero_shot", "few_shot", "fine_tuned", "counterpart", "best_preset"}
        assert set(row.texts) == {"zero_shot", "fine_tuned"}
        assert {name: len(items) for name, items in row.orders.items()} == dict.fromkeys(
            ("zero_shot", "fine_tuned", "counterpart"), 4
        )
        assert row.orders["fine_tuned"][0] == row.models["fine_tuned"]
        assert set(row.wordings) == {"bare", "reasoning", "role"}


@pytest.mark.slow
def test_a_second_evaluation_overwrites_nothing_and_is_counted(evaluated: Path) -> None:
    folder = evaluated / "x" / "final_eval"
    before = content_of(folder)
    assert ask("--best", "--results", evaluated, "--name", "x") == 0
    assert content_of(folder) == before
    second = json.loads((evaluated / "x" / "final_eval_2" / "evaluation.json").read_text())
    assert second["test_reads"] == 2
    assert len((evaluated / "x" / "test_reads.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_tables_and_figures_are_made_again_from_the_answers_alone(evaluated: Path, tmp_path: Path) -> None:
    folder, copied = evaluated / "x" / "final_eval", tmp_path / "copied"
    for name in content_of(folder):
        if Path(name).name in FROM_THE_RECORD:
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, copied / name)
    code = (
        "import sys; from analysis import final_eval; "
        f"sys.argv[1:] = ['--from', {str(copied)!r}]; assert final_eval.main() == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert content_of(copied) == content_of(folder)


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_with_the_same_files(evaluated: Path) -> None:
    whole = evaluated / "x" / "final_eval"
    folder = evaluated / "x" / f"final_eval_{1 + len(list((evaluated / 'x').glob('final_eval*')))}"
    also = f"mine={evaluated.parent / 'other.jsonl'}"
    command = [sys.executable, str(SCRIPT), "--best", "--results", str(evaluated), "--top", "2", "--also", also]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    items = folder / "items.jsonl"
    while process.poll() is None and not (items.is_file() and items.read_bytes().count(b"\n") >= 30):
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not json.loads((folder / "started.json").read_text())["finished"]
    assert not (folder / "evaluation.json").exists()
    reads, spent = count_reads(evaluated / "x"), json.loads((folder / "seconds.json").read_text())
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert f"going on with {folder}" in again.stdout
    assert "test, zero_shot, letters" not in again.stdout, "what was answered was asked again"
    assert count_reads(evaluated / "x") == reads
    seconds = json.loads((folder / "seconds.json").read_text())
    assert "test, zero_shot, letters" in spent
    assert len(seconds) > len(spent)
    assert all(seconds[name] >= spent[name] for name in spent)
    told = json.loads((folder / "evaluation.json").read_text())["seconds"]
    assert told == pytest.approx(sum(seconds.values()), abs=0.06)
    # these say when, how often and how long
    telling = {"evaluation.json", "started.json", "seconds.json", "report.md", "report.html", "model_card.md"}
    one, other = (
        {name: text for name, text in content_of(place).items() if Path(name).name not in telling}
        for place in (whole, folder)
    )
    assert one == other


@pytest.mark.slow
def test_it_is_logged_to_the_winners_run(evaluated: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{evaluated}/mlflow.db")
    experiment = client.get_experiment_by_name("medqa")
    trial = client.search_runs([experiment.experiment_id], filter_string="run_name = 'explored_1'")[0]
    folder = "final_eval"
    assert trial.data.tags["final_eval"].startswith(folder)
    names = {item.path for item in client.list_artifacts(trial.info.run_id, folder)}
    assert {f"{folder}/{name}" for name in ("report.md", "calibration_curve.png", "items.jsonl", "also")} <= names
    assert {f"{folder}/report.md", f"{folder}/report.html", f"{folder}/model_card.md"} <= names
    card = client.download_artifacts(trial.info.run_id, "adapter/README.md", str(tmp_path))
    assert "Not for clinical use" in Path(card).read_text()
    assert {f"{folder}/calibration_curve.png", f"{folder}/statistics.json"} <= names
    assert 0 <= trial.data.metrics["test_accuracy"] <= 1
    # the address of MLflow may hold a password, and is not among what is logged
    assert "sqlite:" not in (evaluated / "x" / "final_eval" / "started.json").read_text()


@pytest.mark.slow
def test_a_preset_a_run_or_a_folder_is_evaluated_by_name(evaluated: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{evaluated}/mlflow.db")
    experiment = client.get_experiment_by_name("medqa")
    preset = client.search_runs([experiment.experiment_id], filter_string="run_name = 'config_2_low_rank'")[0]
    results = ("--results", evaluated)
    for arguments in (("--preset", "config_2_low_rank"), ("--run-id", preset.info.run_id)):
        assert ask(*arguments, *results) == 0
        folder = max((evaluated / "x").glob("final_eval*"), key=lambda path: path.stat().st_mtime)
        evaluation = json.loads((folder / "evaluation.json").read_text())
        assert evaluation["winner"]["name"] == "config_2_low_rank"
        assert "asked for by name" in evaluation["best_means"]
    # an adapter that no search knows stands by itself, and its reads are counted there
    assert ask("--adapter", evaluated.parent / "record" / "adapter", "--results", tmp_path) == 0
    assert json.loads((tmp_path / "explored_1" / "final_eval" / "evaluation.json").read_text())["test_reads"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--preset", "config_9"), ("unknown preset", "config_1_baseline")),
        (("--preset", "config_1_baseline"), ("no trial of preset", "explored_1")),
        (("--run-id", "0" * 32), ("MLflow", "0" * 32)),
        (("--adapter", "absent"), ("no adapter here", "adapter_config.json")),
        (("--best", "--top", "4"), ("keeps the adapters of 3 trials", "--top")),
        (("--best", "--top", "1"), ("2 adapters or more",)),
        (("--best", "--also", "mine=absent.jsonl"), ("absent.jsonl: no such file",)),
    ],
)
def test_what_is_not_there_is_one_line_and_reads_nothing(
    results: Path, arguments: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(results.rglob("final_eval*")), count_reads(results / "x")
    assert ask(*arguments, "--results", results) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in words), said
    assert (sorted(results.rglob("final_eval*")), count_reads(results / "x")) == before


@pytest.mark.parametrize("text", ["mine", "=rows.jsonl", "../up=rows.jsonl", "test=rows.jsonl", "mine="])
def test_another_set_needs_a_name_that_can_be_a_folder(text: str) -> None:
    result = run("--best", "--also", text)
    assert result.returncode == 2
    assert "give NAME=FILE" in result.stderr


@pytest.mark.parametrize(
    ("split", "spoil", "words"),
    [
        ("test", lambda text: text.replace(', "D": "finding 200d"', ""), "test.jsonl, row 1: 3 options, must have 4"),
        ("test", lambda text: text.replace('"answer": "B"', '"answer": "E"', 1), "answer 'E' is not among the options"),
        ("test", lambda text: "", "no questions in the test split"),
        ("validation", lambda text: text.replace("fever", "rash"), "the questions changed since the trial was trained"),
    ],
)
def test_bad_questions_are_one_line_and_nothing_is_overwritten(
    results: Path, split: str, spoil: Callable[[str], str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = results.parent / "questions" / f"{split}.jsonl"
    original, before = path.read_text(), count_reads(results / "x")
    files = {place: content_of(place) for place in results.rglob("final_eval*")}
    path.write_text(spoil(original))
    try:
        assert ask("--best", "--results", results) == 2
    finally:
        path.write_text(original)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words in said
    assert {place: content_of(place) for place in files} == files
    # what was refused before the test split is no read of it
    assert count_reads(results / "x") == before + (split == "test")


def test_a_changed_base_is_refused(results: Path, tiny_mistral: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from medqa.model import _load_base

    path, before = tiny_mistral / "config.json", count_reads(results / "x")
    original = path.read_text()
    path.write_text(original + "\n")
    _load_base.cache_clear()
    try:
        assert ask("--best", "--results", results) == 2
    finally:
        path.write_text(original)
        _load_base.cache_clear()
    assert "the base model changed since the trial was trained" in capsys.readouterr().err
    assert count_reads(results / "x") == before


@pytest.mark.parametrize(
    ("changed", "words"), [("prompt_fingerprint", "prompt"), ("token_fingerprint", "chat template or tokenizer")]
)
def test_another_prompt_is_refused(results: Path, changed: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    records, before = list(results.glob("artifacts/*/artifacts/config.json")), count_reads(results / "x")
    original = records[0].read_text()
    for path in records:
        path.write_text(json.dumps(json.loads(original) | {changed: "0" * 64}))
    try:
        assert ask("--best", "--results", results) == 2
    finally:
        for path in records:
            path.write_text(original)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"the {words} changed since the trial was trained" in said
    assert count_reads(results / "x") == before


@pytest.mark.slow
def test_answers_from_another_run_are_refused_and_nothing_is_overwritten(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copied"
    shutil.copytree(evaluated / "x" / "final_eval", folder)
    shutil.copy(folder / "also" / "mine" / "items.jsonl", folder / "items.jsonl")
    before = content_of(folder)
    assert ask("--from", folder) == 2
    assert "the file is from another run" in capsys.readouterr().err
    assert content_of(folder) == before
    (folder / "items.jsonl").write_bytes(content_of(evaluated / "x" / "final_eval")["items.jsonl"][:-3])
    assert ask("--from", folder) == 2
    assert "has no answers" in capsys.readouterr().err
    (folder / "items.jsonl").write_bytes(content_of(evaluated / "x" / "final_eval")["items.jsonl"])
    (folder / "validation.jsonl").unlink()
    assert ask("--from", folder) == 2
    assert "no answers to the validation questions" in capsys.readouterr().err


def test_search_code_cannot_read_the_test_split() -> None:
    with pytest.raises(DataError, match="the test split is closed"):
        load_test_questions("demo")
    code = "import tune.trainable, medqa.questions as q; q.load_test_questions('demo')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "DataError: the test split is closed" in done.stderr
    assert not hasattr(load_search_questions("demo"), "test")


@pytest.mark.slow
def test_the_evaluated_best_is_registered_with_its_numbers(evaluated: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{evaluated}/mlflow.db")
    version = client.get_model_version_by_alias("x", "best")
    numbers = client.get_run(version.run_id).data.metrics
    assert float(version.tags["test_accuracy"]) == pytest.approx(numbers["test_accuracy"], abs=1e-4)
    assert version.tags["trial"] == "explored_1"
    assert version.tags["final_eval"].startswith("final_eval")
