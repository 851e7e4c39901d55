"""Asking the best model a question: what is refused at once, what is read, and the answers on the demo's base."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from analysis_fakes import make_predictions, make_questions
from conftest import ROOT
from tuned_fakes import make_results

from analysis import answering, ask
from analysis.command_line import run_script
from medqa.errors import DataError, RecordError
from medqa.temperature import apply_temperature, fit_temperature

SCRIPT = ROOT / "analysis" / "ask.py"
OPTIONS = {
    *("--help", "--best", "--model-name", "--question", "--option", "--file"),
    *("--name", "--results", "--tracking-uri"),
}


def run(*arguments: object, interpreter: tuple[str, ...] = (sys.executable,)) -> subprocess.CompletedProcess[str]:
    command = [*interpreter, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def ask_here(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ask.py", *map(str, arguments)])
        return ask.main()


def test_help_answers_before_anything_heavy_is_imported() -> None:
    result = run("--help", interpreter=(sys.executable, "-X", "importtime"))
    assert result.returncode == 0
    assert not any(name in result.stderr for name in ("torch", "mlflow", "matplotlib", "numpy"))
    words = result.stdout.replace(",", " ").replace("[", " ").split()
    assert {word for word in words if word.startswith("--")} == OPTIONS


def test_started_outside_the_environment_it_names_the_command_that_makes_it() -> None:
    result = run("--best", interpreter=(sys.executable, "-S", "-E"))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "make setup" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--best", "--question", "Which?", "--option", "one"), "options given: 1; a question needs 2 to 5"),
        (("--best", "--question", " ", "--option", "a", "--option", "b"), "the question's text is empty"),
        (("--best", "--question", "Which?", "--option", "a", "--option", ""), "option B is empty"),
        (("--best", "--file", "none.jsonl"), "none.jsonl: no such file of questions"),
        (
            ("--best", "--question", "Which?", "--option", "a", "--option", "b", "--results", "none"),
            "no search in none",
        ),
        (("--best", "--option", "a"), "--option belongs to --question"),
        (("--question", "Which?"), "--best --model-name"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = ask_here(*arguments)
    except SystemExit as end:  # argparse, after its usage
        code = int(end.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert words in error
    assert [line.startswith("ask") for line in error.splitlines() if not line.startswith(("usage", " "))] == [True]


def test_a_question_is_typed_in_until_an_empty_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["Which drug?", "heparin", "insulin", "", "Too few?", "one", "", "Which five?", *"abcde", ""])
    monkeypatch.setattr("builtins.input", lambda asked: next(lines))
    asked = list(answering.typed_questions())
    assert [(one.question, tuple(one.options.values())) for one in asked] == [
        ("Which drug?", ("heparin", "insulin")),
        ("Which five?", tuple("abcde")),
    ]
    assert "options given: 1" in capsys.readouterr().out


def test_the_end_of_the_input_ends_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(asked: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    assert list(answering.typed_questions()) == []


def test_the_shown_probabilities_are_those_at_the_temperature_of_the_validation_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from medqa import scoring
    from medqa.prediction import Scores

    questions = make_questions(80)
    stated = make_predictions(questions, 0.5, seed=1)
    temperature = fit_temperature(stated)
    answerer = answering.Answerer(model=None, encoder=None, temperature=temperature)  # type: ignore[arg-type]
    monkeypatch.setattr(scoring, "score_questions", lambda model, encoder, asked: Scores(stated[:1], None))
    text = answerer.answer(questions[0], shows_right=True)
    (said,) = apply_temperature(stated[:1], temperature.value)
    assert abs(temperature.value - 1) > 0.05, "a temperature that changes nothing proves nothing"
    shown = [float(one) for one in re.findall(r"^[> ] [A-D] +([\d.]+)%", text, re.MULTILINE)]
    assert shown == [round(100 * one, 1) for one in said.probabilities.values()]
    assert f"> {said.pred} " in text
    assert f"right: {questions[0].answer}" in text
    assert "right:" not in answerer.answer(questions[0], shows_right=False)


def test_an_error_of_ours_is_one_line_and_another_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise RecordError("no search")

    def bug() -> None:
        raise ZeroDivisionError

    assert run_script("ask", broken) == 2
    assert capsys.readouterr().err == "ask: no search\n"
    with pytest.raises(ZeroDivisionError):
        run_script("ask", bug)


def test_six_options_are_too_many() -> None:
    with pytest.raises(DataError, match="options given: 6"):
        answering.new_question("Which?", list("abcdef"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("work"), "demo", moved=0.02)


@pytest.mark.slow
def test_the_best_model_and_the_registered_one_give_the_same_answer(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from analysis import logged
    from analysis.selected import select_best

    best = select_best(results, None, "x")
    question = ("--question", "Which finding fits?", "--option", "fever", "--option", "cough", "--option", "rash")
    assert ask_here("--best", "--results", results, *question) == 0
    first = capsys.readouterr().out
    for _ in range(2):  # again changes nothing
        assert logged.register_best(best.search, best.trial, {"test_accuracy": "0.5"}) == "models:/x@best"
    assert ask_here("--model-name", "x", "--results", results, *question) == 0
    assert capsys.readouterr().out == first
    assert "trial explored_1" in first
    assert "Not for clinical use." in first
    shown = [float(one) for one in re.findall(r"^[> ] [A-C] +([\d.]+)%", first, re.MULTILINE)]
    assert sum(shown) == pytest.approx(100, abs=0.2)
    assert max(shown) == float(re.findall(r"^> [A-C] +([\d.]+)%", first, re.MULTILINE)[0])
    assert ask_here("--model-name", "none", "--results", results, *question) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_the_registered_version_is_the_adapter_with_its_numbers(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from mlflow import MlflowClient

    from analysis import logged
    from analysis.selected import select_best

    best = select_best(results, None, "x")
    uri = f"sqlite:///{results}/mlflow.db"
    client = MlflowClient(uri)
    logged.register_best(best.search, best.trial, {"test_accuracy": "0.51"})
    version = client.get_model_version_by_alias("x", "best")
    assert (version.run_id, version.tags["test_accuracy"]) == (best.trial.run_id, "0.51")
    assert len(client.search_model_versions("name = 'x'")) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = mlflow.artifacts.download_artifacts("models:/x@best", dst_path=str(tmp_path))
    assert (Path(folder) / "adapter_config.json").is_file()


@pytest.mark.slow
def test_another_base_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = make_results(tmp_path, "demo")
    capsys.readouterr()
    for path in results.glob("artifacts/*/artifacts/config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_fingerprint": "0" * 64}))
    question = ("--question", "Which finding fits?", "--option", "fever", "--option", "cough")
    assert ask_here("--best", "--results", results, *question) == 2
    error = capsys.readouterr().err
    assert "the base model changed since the trial was trained" in error
    assert error.count("\n") == 1
