"""Finding a search and its winner in a real MLflow store, written here by plain MLflow calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from analysis_fakes import make_predictions, make_questions
from mlflow import MlflowClient

from analysis.chosen import choice_lines, compare_with_others, describe_choice
from analysis.logged import log_evaluation
from analysis.runs import choose_winner, download_record, find_search, read_validation
from medqa.errors import RecordError
from medqa.metrics import study_results
from medqa.selection import BEST_MEANS, CONFIRMED_MEANS


class Store:
    """An SQLite store with its artifacts in a results folder."""

    def __init__(self, results: Path) -> None:
        results.mkdir(parents=True, exist_ok=True)
        self.results = results
        self.client = MlflowClient(tracking_uri=f"sqlite:///{results}/mlflow.db")
        self.experiment = self.client.create_experiment("medqa", artifact_location=(results / "artifacts").as_uri())

    def add_search(self, name: str, metric: str = "accuracy", start_ms: int = 1, confirm: int = 0) -> str:
        tags = {"role": "search", "search": name}
        run = self.client.create_run(self.experiment, start_time=start_ms, tags=tags, run_name=name)
        (self.results / name).mkdir()
        (self.results / name / "settings.json").write_text(json.dumps({"metric": metric, "confirm": confirm}))
        return str(run.info.run_id)

    def add_trial(self, parent: str, name: str, state: str, values: list[tuple[float, float]], **tags: str) -> str:
        tags |= {"role": "trial", "search": "x", "state": state, "mlflow.parentRunId": parent, "seed_point": ""}
        run = self.client.create_run(self.experiment, tags=tags, run_name=name)
        run_id = str(run.info.run_id)
        self.client.log_param(run_id, "lora_rank", 16)
        for step, (accuracy, nll) in enumerate(values, 1):
            asked = 1272 if state == "completed" and step == len(values) else 300
            self.client.log_metric(run_id, "best_questions", asked, step=100 * step)
            self.client.log_metric(run_id, "best_accuracy", accuracy, step=100 * step)
            self.client.log_metric(run_id, "best_answer_nll", nll, step=100 * step)
        return run_id


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("results"))
    parent = store.add_search("x", start_ms=2_000)
    store.add_trial(parent, "middling", "completed", [(0.4, 1.2), (0.5, 1.1)])
    store.add_trial(parent, "best", "completed", [(0.3, 1.3), (0.6, 1.0)])
    store.add_trial(parent, "stopped_high", "stopped", [(0.9, 0.5)])
    store.add_trial(parent, "broken", "failed", [])
    store.add_search("older", start_ms=1_000)
    return store


def test_the_newest_search_is_found_with_its_trials(store: Store) -> None:
    search = find_search(store.results)
    assert (search.name, search.metric, search.folder) == ("x", "accuracy", store.results / "x")
    assert [trial.name for trial in search.trials] == ["middling", "best", "stopped_high", "broken"]
    assert search.trials[1].accuracy == 0.6
    assert search.trials[3].accuracy is None
    assert [trial.questions for trial in search.trials] == [1272, 1272, 300, None]
    assert search.trials[0].parameters == {"lora_rank": "16"}


def test_the_best_completed_trial_wins_over_a_better_stopped_one(store: Store) -> None:
    assert choose_winner(find_search(store.results)).trial.name == "best"


def test_a_search_can_be_named(store: Store) -> None:
    assert find_search(store.results, name="older").name == "older"


def test_an_unknown_name_lists_the_known_ones(store: Store) -> None:
    with pytest.raises(RecordError, match="'y'.*there are older, x"):
        find_search(store.results, name="y")


def test_a_search_without_trials_has_no_winner(store: Store) -> None:
    with pytest.raises(RecordError, match="--name older"):
        choose_winner(find_search(store.results, name="older"))


def test_results_without_a_database_name_the_command_and_make_none(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="make search"):
        find_search(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_results_folder_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.results.parent)
    assert find_search(Path(store.results.name)).name == "x"


def test_an_unknown_metric_in_the_settings_is_refused(store: Store) -> None:
    store.add_search("odd", metric="vibes", start_ms=1)
    with pytest.raises(RecordError, match="metric is 'vibes'"):
        find_search(store.results, name="odd")


def test_lacking_artifacts_are_named(store: Store, tmp_path: Path) -> None:
    search = find_search(store.results, name="x")
    with pytest.raises(RecordError, match="'best' .* lacks adapter, config.json, val_results.json"):
        download_record(search, choose_winner(search).evaluated, tmp_path)


def test_an_evaluation_is_logged_to_the_winners_run(store: Store, tmp_path: Path) -> None:
    search = find_search(store.results, name="x")
    winner = choose_winner(search).evaluated
    folder = tmp_path / "final_eval_2"
    folder.mkdir()
    (folder / "report.md").write_text("hello")
    log_evaluation(search, winner, folder, {"test_accuracy": 0.5}, {"final_eval": folder.name})
    run: Any = store.client.get_run(winner.run_id)
    assert run.data.metrics["test_accuracy"] == 0.5
    assert run.data.tags["final_eval"] == "final_eval_2"
    assert [item.path for item in store.client.list_artifacts(winner.run_id, "final_eval_2")] == [
        "final_eval_2/report.md"
    ]


def test_confirmations_are_kept_apart_and_the_best_mean_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    parent = store.add_search("x", confirm=2)
    for name, value, again in (("lucky", 0.70, (0.60, 0.61, 0.62)), ("steady", 0.68, (0.66, 0.67, 0.65))):
        store.add_trial(parent, name, "completed", [(value, 1.0)])
        for seed, repeated in enumerate(again, 43):
            store.add_trial(parent, f"{name}_seed_{seed}", "completed", [(repeated, 1.0)], confirms=name)
    search = find_search(tmp_path)
    assert [trial.name for trial in search.trials] == ["lucky", "steady"]
    assert (len(search.repeats), search.confirm) == (6, 2)
    choice = choose_winner(search)
    assert (choice.trial.name, choice.evaluated.name) == ("steady", "steady_seed_44")
    assert choice.means == CONFIRMED_MEANS


def test_a_confirmation_under_way_leaves_the_choice_to_the_search_and_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    parent = store.add_search("x", confirm=1)
    store.add_trial(parent, "best", "completed", [(0.7, 1.0)])
    store.add_trial(parent, "best_seed_43", "completed", [(0.6, 1.0)], confirms="best")
    store.add_trial(parent, "best_seed_44", "running", [(0.9, 1.0)], confirms="best")
    choice = choose_winner(find_search(tmp_path))
    assert (choice.evaluated.name, choice.means) == ("best", BEST_MEANS)
    assert "1 of 3" in choice.note
    assert choice.note[1:] in "\n".join(choice_lines(describe_choice(choice, "accuracy", lambda trial: None)))


def test_a_training_is_compared_with_the_completed_others_and_those_without_answers_are_named(tmp_path: Path) -> None:
    store, questions = Store(tmp_path / "results"), make_questions(60)
    parent = store.add_search("x")
    answers = {"winner": make_predictions(questions, 0.8, 1), "other": make_predictions(questions, 0.4, 2)}
    for name in ("winner", "other", "lost"):
        run_id = store.add_trial(parent, name, "completed", [(0.5, 1.0)])
        if name in answers:
            (tmp_path / "val_results.json").write_text(json.dumps(study_results(answers[name], questions)))
            store.client.log_artifact(run_id, str(tmp_path / "val_results.json"))
    store.add_trial(parent, "stopped", "stopped", [(0.5, 1.0)])
    search = find_search(store.results)
    winner = next(one for one in search.trials if one.name == "winner")
    content = compare_with_others(search, winner, answers["winner"])
    assert (content["first"], list(content["pairs"]), content["left_out"]) == ("winner", ["other"], ["lost"])
    right = {name: sum(item.correct for item in items) for name, items in answers.items()}
    difference = content["pairs"]["other"]["pair"]["difference"]
    assert difference["value"] == pytest.approx((right["winner"] - right["other"]) / 60)
    assert content["pairs"]["other"]["holm_p"] == content["pairs"]["other"]["pair"]["p_value"] < 0.05


def test_a_lost_validation_file_is_none_and_a_kept_one_is_read(store: Store, tmp_path: Path) -> None:
    search = find_search(store.results, name="x")
    middling, best = search.trials[:2]
    (tmp_path / "val_results.json").write_text('{"n_total": 3}')
    store.client.log_artifact(middling.run_id, str(tmp_path / "val_results.json"))
    assert read_validation(search, middling) == {"n_total": 3}
    assert read_validation(search, best) is None
