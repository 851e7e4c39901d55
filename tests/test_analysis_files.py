"""The evaluation's files, figures and report, made from answers of known accuracy and made again from JSON alone."""

from __future__ import annotations

import copy
import dataclasses
import struct
from pathlib import Path
from typing import Any

import pytest
from analysis_fakes import make_evaluation, make_predictions, make_questions, make_subject, make_trial

from analysis import study_files
from analysis.chosen import describe_choice, format_choice
from analysis.mistakes import count_kinds, kind_of
from analysis.plot_style import sample_sizes
from analysis.plots import draw_all
from analysis.reads import Read, count_reads, log_read, new_folder, read_log
from analysis.report import format_table, write_report
from analysis.runs import choose_winner
from medqa.errors import RecordError
from medqa.estimates import wilson
from medqa.metrics import study_results
from medqa.prediction import Prediction

FIGURES = {
    "all_configs_comparison.png",
    "per_topic_accuracy.png",
    "calibration_curve.png",
    "error_taxonomy.png",
    "position_bias.png",
    "confusion_matrix_zero_shot.png",
    "confusion_matrix_3_shot.png",
    "confusion_matrix_fine_tuned.png",
    "prompt_template_comparison.png",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return study_files.build_files(make_evaluation(), make_subject(tmp_path_factory.mktemp("search")))


def test_all_files_of_the_study_are_there_with_its_keys(files: dict[str, Any]) -> None:
    names = {
        "zero_shot_results.json",
        "few_shot_results.json",
        "finetuned_test_results.json",
        "comparison_summary.json",
    }
    assert set(files) >= names | {"calibration_data.json", "prompt_template_results.json", "statistics.json"}
    summary = files["comparison_summary.json"]
    assert set(summary) == {"zero_shot", "few_shot", "fine_tuned", "delta"}
    assert set(summary["few_shot"]) >= {"accuracy", "macro_f1", "extraction_failures"}
    for template in files["prompt_template_results.json"].values():
        assert set(template) >= {"accuracy", "extraction_failures", "pred_distribution"}


def test_the_difference_is_that_of_the_models(files: dict[str, Any]) -> None:
    summary, statistics = files["comparison_summary.json"], files["statistics.json"]
    gain = summary["fine_tuned"]["accuracy"] - summary["zero_shot"]["accuracy"]
    assert statistics["fine_tuned_minus_zero_shot"]["difference"]["value"] == pytest.approx(gain)
    assert summary["delta"]["fine_tuned_minus_zero_shot"]["accuracy"] == pytest.approx(gain)


def test_the_probability_outside_the_letters_is_the_mean_of_what_the_letters_leave(tmp_path: Path) -> None:
    made = make_evaluation(40)
    masses = [0.9, 0.7, 1.0, 1.0 + 1e-7] * 10  # rounded above 1: nothing is left
    tuned = tuple(
        dataclasses.replace(item, letter_mass=mass) for item, mass in zip(made.fine_tuned, masses, strict=True)
    )
    built = study_files.build_files(dataclasses.replace(made, fine_tuned=tuned), make_subject(tmp_path))
    outside = built["comparison_summary.json"]["fine_tuned"]["outside_letters"]
    assert outside["value"] == pytest.approx((0.1 + 0.3 + 0 + 0) / 4, abs=1e-12)
    # the standard error is sqrt(0.015 / 40) = 0.0194
    assert (outside["low"], outside["high"]) == pytest.approx((0.1 - 0.038, 0.1 + 0.038), abs=0.006)
    assert outside["n"] == 40
    write_report(tmp_path, built)
    models = (tmp_path / "report.md").read_text().split("## The models on the same questions")[1]
    assert "| outside the letters |" in models
    assert f"| 0.100 ({outside['low']:.3f} to {outside['high']:.3f}) |" in models


def test_agreement_of_a_wording_is_the_share_of_questions_with_the_same_letter(tmp_path: Path) -> None:
    made = make_evaluation(40)
    trained, other, *_ = made.wordings
    # another letter for the first 10 of 40 questions
    moved = tuple(dataclasses.replace(item, pred="BCDA"["ABCD".index(item.pred)]) for item in made.fine_tuned[:10])
    wordings = {**made.wordings, other: (*moved, *made.fine_tuned[10:])}
    built = study_files.build_files(dataclasses.replace(made, wordings=wordings), make_subject(tmp_path))
    content = built["prompt_template_results.json"]
    assert {name: content[name]["agreement"]["value"] for name in (trained, other)} == {trained: 1.0, other: 0.75}
    assert content[other]["agreement"] == dataclasses.asdict(wilson(30, 40))


def test_a_trial_that_was_scored_on_a_sample_has_an_interval_of_as_many(tmp_path: Path) -> None:
    subject = make_subject(tmp_path)
    asked = {"stopped": 30, "completed": None}
    trials = [dataclasses.replace(one, questions=asked.get(one.state)) for one in subject.search.trials]
    search = dataclasses.replace(subject.search, trials=tuple(trials))
    built = study_files.build_files(make_evaluation(), dataclasses.replace(subject, search=search))
    rows = built["all_configs.json"]["trials"]
    assert {(row["state"], row["accuracy_interval"]["n"]) for row in rows} == {("completed", 100), ("stopped", 30)}
    assert sample_sizes([row["accuracy_interval"] for row in rows]) == "100; hollow: 30"
    assert sample_sizes([rows[0]["accuracy_interval"]]) == "100"


def test_the_same_answers_give_the_same_files(files: dict[str, Any], tmp_path: Path) -> None:
    again = study_files.build_files(make_evaluation(), make_subject(tmp_path))
    assert again == files


def test_figures_and_report_are_made_again_from_json_alone(files: dict[str, Any], tmp_path: Path) -> None:
    study_files.write_files(tmp_path, files)
    loaded = study_files.read_files(tmp_path)
    draw_all(tmp_path, loaded)
    write_report(tmp_path, loaded)
    assert {path.name for path in tmp_path.glob("*.png")} >= FIGURES
    for path in tmp_path.glob("*.png"):
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert width == 1200
        assert height > 400
    report = (tmp_path / "report.md").read_text()
    assert "Tuning helped." in report
    assert all(f"({name})" in report for name in FIGURES)


def test_the_report_draws_no_conclusion_from_too_few_questions(tmp_path: Path) -> None:
    write_report(tmp_path, study_files.build_files(make_evaluation(12, 0.9), make_subject(tmp_path)))
    summary = (tmp_path / "report.md").read_text().split("## The models on the same questions")[0]
    assert "12 questions are too few to tell" in summary
    assert "Tuning helped" not in summary
    assert "That cannot be told: too few (n = 12)" in summary


@pytest.mark.parametrize(
    ("tuned", "verdict"), [(0.75, "Tuning helped."), (0.4, "cannot be told"), (0.1, "Tuning hurt.")]
)
def test_the_report_says_what_the_interval_allows(tuned: float, verdict: str, tmp_path: Path) -> None:
    built = study_files.build_files(make_evaluation(200, tuned), make_subject(tmp_path))
    write_report(tmp_path, built)
    assert verdict in (tmp_path / "report.md").read_text().split("## The models on the same questions")[0]


def test_the_table_shows_every_accuracy_with_interval_and_n(files: dict[str, Any]) -> None:
    lines = format_table(files).splitlines()
    assert [line[:24].strip() for line in lines[1:4]] == ["zero-shot base", "3-shot base", "tuned"]
    assert all("to" in line and line.endswith("60") for line in lines[1:4])
    assert "points" in lines[4]


def _drop_topic(files: dict[str, Any]) -> None:
    files["zero_shot_results.json"]["per_topic_accuracy"].popitem()


def _change_confusion(files: dict[str, Any]) -> None:
    files["few_shot_results.json"]["confusion_matrix"][0][0] += 1


def _change_accuracy(files: dict[str, Any]) -> None:
    files["comparison_summary.json"]["fine_tuned"]["accuracy"] += 0.01


def _change_outside(files: dict[str, Any]) -> None:
    for content in (files["zero_shot_results.json"], files["comparison_summary.json"]["zero_shot"]):
        content["outside_letters"]["value"] += 0.001


def _swap_items(files: dict[str, Any]) -> None:
    files["few_shot_results.json"]["predictions"].reverse()


@pytest.mark.parametrize("spoil", [_drop_topic, _change_confusion, _change_accuracy, _change_outside, _swap_items])
def test_numbers_that_contradict_each_other_are_refused(files: dict[str, Any], spoil: Any, tmp_path: Path) -> None:
    spoiled = copy.deepcopy(files)
    spoil(spoiled)
    with pytest.raises(RecordError, match="contradict"):
        study_files.write_files(tmp_path, spoiled)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file"):
        study_files.read_files(tmp_path)


def test_a_second_evaluation_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    first = new_folder(tmp_path)
    assert (first.name, new_folder(tmp_path).name) == ("final_eval", "final_eval")
    (first / "report.md").write_text("kept")
    assert new_folder(tmp_path).name == "final_eval_2"
    assert (first / "report.md").read_text() == "kept"


def test_reads_of_the_test_split_are_counted(tmp_path: Path) -> None:
    assert count_reads(tmp_path) == 0
    first = Read(run_id="run", folder=tmp_path / "final_eval", command="command one")
    log_read(tmp_path, first)
    log_read(tmp_path, dataclasses.replace(first, goes_on=True))
    assert count_reads(tmp_path) == 1
    log_read(tmp_path, Read(run_id="run", folder=tmp_path / "final_eval_2", command="command two"))
    assert count_reads(tmp_path) == 2
    assert [row["command"] for row in read_log(tmp_path)] == ["command one", "command one", "command two"]


def test_a_file_in_the_way_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        new_folder(tmp_path / "x")


@pytest.mark.parametrize(
    ("pred", "probabilities", "raw", "kind"),
    [
        ("A", (0.4, 0.3, 0.2, 0.1), "A", "right"),
        ("A", (0.4, 0.3, 0.2, 0.1), "The", "right"),
        ("B", (0.1, 0.8, 0.05, 0.05), "The", "no letter found"),
        ("B", (0.1, 0.8, 0.05, 0.05), " B", "confident and wrong"),
        ("B", (0.4, 0.45, 0.1, 0.05), "B", "other"),
    ],
)
def test_every_answer_has_one_kind(pred: str, probabilities: tuple[float, ...], raw: str, kind: str) -> None:
    item = Prediction("q", "A", pred, dict(zip("ABCD", probabilities, strict=True)), 1.0, 1.0, raw)
    assert kind_of(item) == kind


def test_kinds_sum_to_all_answers() -> None:
    predictions = make_predictions(make_questions(80), 0.5, seed=3, failures=0.2)
    assert sum(count_kinds(predictions).values()) == 80


def test_a_search_with_a_single_trial_and_questions_of_one_letter_is_drawn(tmp_path: Path) -> None:
    subject = make_subject(tmp_path)
    alone = dataclasses.replace(subject, search=dataclasses.replace(subject.search, trials=(subject.winner,)))
    draw_all(tmp_path, study_files.build_files(make_evaluation(1), alone))
    assert {path.name for path in tmp_path.glob("*.png")} >= FIGURES


def test_the_report_shows_the_margins_with_paired_intervals(tmp_path: Path) -> None:
    subject, questions = make_subject(tmp_path), make_questions(100)
    answers = {
        trial.name: study_results(make_predictions(questions, trial.accuracy or 0.0, seed), questions)
        for seed, trial in enumerate(subject.search.trials)
    }
    choice = describe_choice(choose_winner(subject.search), "accuracy", lambda trial: answers[trial.name])
    write_report(tmp_path, study_files.build_files(make_evaluation(), dataclasses.replace(subject, choice=choice)))
    section = (tmp_path / "report.md").read_text().split("## Over the best preset")[1].split("\n## ")[0]
    assert "10.0 points better than the runner-up and the best preset, config_6_aggressive" in section
    assert "paired 95 % interval" in section
    assert "--confirm 3" in section


def test_the_report_shows_what_new_seeds_confirmed(tmp_path: Path) -> None:
    subject = make_subject(tmp_path)
    seeds = [make_trial(f"explored_9_seed_{seed}", 0.6 + 0.01 * seed, confirms="explored_9") for seed in (1, 2, 3)]
    search = dataclasses.replace(subject.search, confirm=1, repeats=tuple(seeds))
    choice = describe_choice(choose_winner(search), "accuracy", lambda trial: None)
    confirmed = dataclasses.replace(subject, search=search, choice=choice, winner=seeds[2])
    built = study_files.build_files(make_evaluation(), confirmed)
    write_report(tmp_path, built)
    report = (tmp_path / "report.md").read_text()
    assert "| explored_9 | 70.0 | 62.0 | 1.0 | 3 | 8.0 | 0 |" in report
    assert "`explored_9_seed_3` (MLflow run `run-explored_9_seed_3`), trial `explored_9` with a new seed" in report
    assert "no interval" in report
    assert [row["name"] for row in built["all_configs.json"]["trials"] if row["winner"]] == ["explored_9"]
    assert "evaluated with the adapter of explored_9_seed_3" in format_choice("x", choice)


def test_the_report_of_an_evaluation_without_its_choice_is_written(files: dict[str, Any], tmp_path: Path) -> None:
    older = {name: content for name, content in files["evaluation.json"].items() if name != "choice"}
    write_report(tmp_path, {**files, "evaluation.json": older})
    assert "the best preset" not in (tmp_path / "report.md").read_text()
