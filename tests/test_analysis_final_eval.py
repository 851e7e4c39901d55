"""The script as a person starts it: help, wrong uses, and one whole evaluation of a tiny model."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tuned_fakes import TWO_TRIALS, make_results

from analysis import final_eval, study_files
from analysis.item_rows import ItemRow, read_rows
from analysis.reads import count_reads
from medqa import record
from medqa.errors import DataError
from medqa.prediction import Prediction
from medqa.prompt import pick_exemplars
from medqa.questions import Question, load_other_questions, load_search_questions, load_test_questions

SCRIPT = ROOT / "analysis" / "final_eval.py"
TRIALS = (*TWO_TRIALS, ("config_3_high_rank", 0.4, True), ("explored_2", 0.45, True))
TRIAL_OF = {
    "zero_shot": None,
    "fine_tuned": "explored_1",
    "counterpart": "config_2_low_rank",
    "best_preset": "config_3_high_rank",
    "member explored_2": "explored_2",
}
"""Name in the rows to the trial whose adapter answers under it; None: the base."""
MEMBERS = ("fine_tuned", "member explored_2")
NEAR = 0.001
"""Rounding moves a probability by less; another adapter, another wording or exemplars move one by more than FAR."""
FAR = 0.004
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
    """A results folder with one search of four trials, each with another adapter on a tiny Mistral."""
    return make_results(tmp_path_factory.mktemp("work"), str(tiny_mistral), moved=0.02, trials=TRIALS)


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
    positions = json.loads((folder / "positions.json").read_text())
    assert set(positions["models"]) == {"zero_shot", "fine_tuned", "counterpart"}
    assert set(positions["pairs"]) == {"fine_tuned_minus_zero_shot", "fine_tuned_minus_counterpart"}
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["ensemble"] == ["explored_1", "explored_2"]
    assert (evaluation["counterpart"], evaluation["best_preset"]) == ("config_2_low_rank", "config_3_high_rank")
    fine_tuned, best_preset = (
        json.loads((folder / name).read_text())["overall_accuracy"]
        for name in ("finetuned_test_results.json", "best_preset_results.json")
    )
    statistics = json.loads((folder / "statistics.json").read_text())
    difference = statistics["fine_tuned_minus_best_preset"]["difference"]["value"]
    assert difference == pytest.approx(fine_tuned - best_preset)
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
        assert set(row.models) == {"few_shot", *TRIAL_OF}
        assert set(row.texts) == {"zero_shot", "fine_tuned"}
        assert {name: len(items) for name, items in row.orders.items()} == dict.fromkeys(
            ("zero_shot", "fine_tuned", "counterpart"), 4
        )
        assert row.orders["fine_tuned"][0] == row.models["fine_tuned"]
        assert set(row.wordings) == {"bare", "reasoning", "role"}


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A set's questions, and what the evaluation's folder holds of them."""

    folder: Path
    questions: tuple[Question, ...]

    @property
    def rows(self) -> list[ItemRow]:
        rows = read_rows(self.folder / "items.jsonl")
        return [rows[one.id] for one in self.questions]

    def said_by(self, model: str) -> list[Prediction]:
        return [row.models[model] for row in self.rows]


@pytest.fixture(params=["test", "mine"])
def recorded(request: pytest.FixtureRequest, evaluated: Path) -> Recorded:
    """The test split, then the other set, whose questions have two to five options."""
    folder = evaluated / "x" / "final_eval"
    if request.param == "test":
        return Recorded(folder, load_other_questions(evaluated.parent / "questions" / "test.jsonl"))
    return Recorded(folder / "also" / "mine", load_other_questions(evaluated.parent / "other.jsonl"))


@contextlib.contextmanager
def model_of(results: Path, trial: str | None) -> Iterator[tuple[Any, Any]]:
    """A trial's adapter on the base, or the base alone, and its encoder; none of the evaluation's code is used."""
    from medqa.model import load_base

    base = load_base(record.read_identity(results.parent / "explored_1").task)
    adapted = base.adapter_from(results.parent / trial / record.ADAPTER) if trial else None
    with adapted or contextlib.nullcontext(base.model) as model:
        yield model, base.encoder


def asked_directly(
    results: Path, trial: str | None, questions: Sequence[Question], **how: Any
) -> tuple[Prediction, ...]:
    from medqa.scoring import score_questions

    with model_of(results, trial) as (model, encoder):
        return score_questions(model, encoder, questions, **how).predictions


def gap(found: Sequence[Prediction], wanted: Sequence[Prediction]) -> float:
    """The largest difference of a letter's probability between two models' answers to the same questions."""
    largest = 0.0
    for one, other in zip(found, wanted, strict=True):
        assert (one.id, one.gold, [*one.probabilities]) == (other.id, other.gold, [*other.probabilities])
        largest = max(largest, *(abs(value - other.probabilities[key]) for key, value in one.probabilities.items()))
    return largest


@pytest.mark.slow
def test_each_model_s_answers_are_those_of_its_own_adapter(evaluated: Path, recorded: Recorded) -> None:
    said = {model: recorded.said_by(model) for model in TRIAL_OF}
    for model, trial in TRIAL_OF.items():
        assert gap(said[model], asked_directly(evaluated, trial, recorded.questions)) < NEAR, model
    # else one taken for another would not show
    assert all(gap(said[one], said[other]) > FAR for one, other in itertools.combinations(TRIAL_OF, 2))


@pytest.mark.slow
def test_each_file_of_results_holds_the_answers_of_its_model(recorded: Recorded) -> None:
    files = {**study_files.RESULTS, **study_files.OTHER_RESULTS}
    for model in ("zero_shot", "few_shot", "fine_tuned", "best_preset"):
        results = json.loads((recorded.folder / files[model]).read_text())
        assert [*record.predictions_from_rows(results["predictions"])] == recorded.said_by(model), model


@pytest.mark.slow
def test_the_generated_texts_are_those_of_their_own_adapter(evaluated: Path, recorded: Recorded) -> None:
    from medqa.generation import generate_texts

    texts = {}
    for name in ("zero_shot", "fine_tuned"):
        with model_of(evaluated, TRIAL_OF[name]) as (model, encoder):
            texts[name] = generate_texts(model, encoder, recorded.questions)
        assert [row.texts[name] for row in recorded.rows] == [*texts[name]]
    assert texts["zero_shot"] != texts["fine_tuned"]


@pytest.mark.slow
def test_the_3_shot_answers_are_those_after_three_train_questions(evaluated: Path, recorded: Recorded) -> None:
    train = load_search_questions(str(evaluated.parent / "questions")).train
    exemplars, said = pick_exemplars(train, 3, 42), recorded.said_by("few_shot")
    assert len(exemplars) == 3
    assert gap(said, asked_directly(evaluated, None, recorded.questions, exemplars=exemplars)) < NEAR
    assert gap(said, recorded.said_by("zero_shot")) > FAR


@pytest.mark.slow
def test_each_wording_s_answers_are_those_to_that_prompt(evaluated: Path, recorded: Recorded) -> None:
    said = {name: [row.wordings[name] for row in recorded.rows] for name in ("bare", "reasoning", "role")}
    for name, answers in said.items():
        assert gap(answers, asked_directly(evaluated, "explored_1", recorded.questions, wording=name)) < NEAR, name
    said["ours"] = recorded.said_by("fine_tuned")
    assert all(gap(said[one], said[other]) > FAR for one, other in itertools.combinations(said, 2))


@pytest.mark.slow
def test_the_ensemble_is_the_mean_of_the_two_best_by_validation(evaluated: Path, recorded: Recorded) -> None:
    results = json.loads((recorded.folder / "ensemble_results.json").read_text())
    members = [asked_directly(evaluated, TRIAL_OF[name], recorded.questions) for name in MEMBERS]
    for row, *items in zip(results["predictions"], *members, strict=True):
        mean = {letter: sum(one.probabilities[letter] for one in items) / 2 for letter in items[0].probabilities}
        assert row["id"] == items[0].id
        assert row["probabilities"] == pytest.approx(mean, abs=NEAR)
        assert row["pred"] == likeliest(row["probabilities"])


@pytest.mark.slow
def test_the_validation_answers_are_of_the_same_models(evaluated: Path) -> None:
    questions = load_search_questions(str(evaluated.parent / "questions")).validation
    rows = list(read_rows(evaluated / "x" / "final_eval" / "validation.jsonl").values())
    assert {name for row in rows for name in row.models} == {"zero_shot", *MEMBERS}
    for name in ("zero_shot", *MEMBERS):
        said = [row.models[name] for row in rows]
        assert gap(said, asked_directly(evaluated, TRIAL_OF[name], questions)) < NEAR, name


def moved_on(question: Question, places: int) -> Question:
    """The question with its options so many places further on, the last ones first; as a reader would write it."""
    texts = list(question.options.values())
    options = dict(zip(question.options, texts[-places:] + texts[:-places], strict=True))
    (answer,) = (letter for letter, text in options.items() if text == question.options[question.answer])
    return dataclasses.replace(question, options=options, answer=answer)


def likeliest(probabilities: dict[str, float]) -> str:
    return max(probabilities, key=lambda one: probabilities[one])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero_shot", "fine_tuned", "counterpart"])
def test_the_orders_answers_are_those_to_the_question_with_its_options_moved(
    evaluated: Path, recorded: Recorded, name: str
) -> None:
    asked = [moved_on(one, places) for one in recorded.questions for places in range(len(one.options))]
    said = [item for row in recorded.rows for item in row.orders[name]]
    assert gap(said, asked_directly(evaluated, TRIAL_OF[name], asked)) < NEAR
    # back from the letters that it saw to the options' texts, which no order changes
    back = [
        {text: item.probabilities[letter] for letter, text in one.options.items()}
        for one, item in zip(asked, said, strict=True)
    ]
    orders, flipped, right = iter(back), 0, 0
    for question in recorded.questions:
        own = list(itertools.islice(orders, len(question.options)))
        flipped += len({likeliest(order) for order in own}) > 1
        mean = {text: sum(order[text] for order in own) / len(own) for text in own[0]}
        right += likeliest(mean) == question.options[question.answer]
    told, n = json.loads((recorded.folder / "positions.json").read_text())["models"][name], len(recorded.questions)
    assert told["flip_rate"]["value"] == pytest.approx(flipped / n)
    assert told["mean_vote"]["value"] == pytest.approx(right / n)


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
    assert ask("--adapter", evaluated.parent / "explored_1" / "adapter", "--results", tmp_path) == 0
    assert json.loads((tmp_path / "explored_1" / "final_eval" / "evaluation.json").read_text())["test_reads"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--preset", "config_9"), ("unknown preset", "config_1_baseline")),
        (("--preset", "config_1_baseline"), ("no trial of preset", "explored_1")),
        (("--run-id", "0" * 32), ("MLflow", "0" * 32)),
        (("--adapter", "absent"), ("no adapter here", "adapter_config.json")),
        (("--best", "--top", "5"), ("keeps the adapters of 4 trials", "--top")),
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
