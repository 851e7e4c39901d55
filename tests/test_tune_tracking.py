"""MLflow: one parent, one run per trial for its whole life, no step twice, states that tell the truth."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from tune_fakes import ended_trial

from medqa.config import Task, TrialConfig
from tune import provenance
from tune.mlflow_page import view_tag
from tune.outcomes import State, TrialOutcome
from tune.proposal import Proposal
from tune.provenance import code_tags
from tune.tracking import METRICS, Tracking

PRESET = Proposal(name="config_1_baseline", seed_point="config_1_baseline", config=TrialConfig())


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "x").mkdir()
    return tmp_path


def new_tracking(results: Path) -> Tracking:
    return Tracking(uri(results), str(results / "x"), "x", results / "x", Task(), {"metric": "accuracy"})


def uri(results: Path) -> str:
    return f"sqlite:///{results}/mlflow.db"


def evaluation(step: int) -> dict[str, Any]:
    return {**dict.fromkeys(METRICS, 0.5), "step": step, "accuracy": step / 100}


def outcome(state: State, reason: str = "") -> TrialOutcome:
    return ended_trial(state=state, stop_reason=reason, gpu_seconds=7200.0, cost=4.5)


def sent(tracking: Tracking) -> None:
    """Wait until MLflow has everything, and end the thread."""
    tracking.outbox.wait(60, lambda: None)
    assert len(tracking.outbox) == 0, tracking.outbox.problem
    assert tracking.outbox.refusals == []
    tracking.outbox.close()


def runs(results: Path) -> dict[str, Run]:
    client = MlflowClient(uri(results))
    experiment = client.get_experiment_by_name("medqa")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def new_record(search: Path) -> str:
    folder = search / "trials" / PRESET.name / "kept"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "state").mkdir()
    (folder / "state" / "optimizer.pt").write_text("large")
    for name in ("config.json", "training_log.json", "training_summary.json", "val_results.json"):
        (folder / name).write_text(json.dumps({"file": name}))
    (folder / "training_curve.png").write_bytes(b"png")
    return "trials"


def test_a_trial_is_a_child_run_with_its_configuration_metrics_and_record(results: Path) -> None:
    tracking = new_tracking(results)
    tracking.trial_started(PRESET)
    tracking.trial_evaluated(PRESET, evaluation(10))
    tracking.trial_evaluated(PRESET, evaluation(20))
    tracking.trial_ended(outcome("completed", "early_stopped"), new_record(results / "x"))
    tracking.search_ended(finished=True)
    found = runs(results)
    parent, child = found["x"], found["config_1_baseline"]
    assert parent.data.tags["role"] == "search"
    assert (
        child.data.tags.items()
        >= {
            "role": "trial",
            "search": "x",
            "state": "completed",
            "seed_point": "config_1_baseline",
            "stop_reason": "early_stopped",
            "mlflow.parentRunId": parent.info.run_id,
        }.items()
    )
    assert child.data.params["learning_rate"] == "0.0002"
    assert (child.data.params["model"], child.data.params["data"]) == ("demo", "demo")
    assert {parent.info.status, child.info.status} == {"FINISHED"}
    client = MlflowClient(uri(results))
    history = client.get_metric_history(child.info.run_id, "accuracy")
    assert [(point.step, point.value) for point in history] == [(10, 0.1), (20, 0.2)]
    assert set(METRICS) <= set(child.data.metrics)
    assert (child.data.metrics["gpu_seconds"], child.data.metrics["cost"]) == (7200.0, 4.5)
    assert {artifact.path for artifact in client.list_artifacts(child.info.run_id)} == {
        "adapter",
        "config.json",
        "training_log.json",
        "training_summary.json",
        "training_curve.png",
        "val_results.json",
    }


def test_a_trials_run_says_from_what_its_numbers_come(results: Path) -> None:
    tracking = new_tracking(results)
    tracking.trial_started(PRESET)
    trials = new_record(results / "x")
    identity = {"data_fingerprint": "d1", "prompt_fingerprint": "p1", "versions": {"torch": "2.13.0", "peft": "1"}}
    kept = results / "x" / trials / PRESET.name / "kept"
    (kept / "config.json").write_text(json.dumps(identity))
    (kept / "training_summary.json").write_text(json.dumps({"gpu": "NVIDIA H200", "computes_in": "bfloat16"}))
    tracking.trial_ended(outcome("completed"), trials)
    sent(tracking)
    tags = runs(results)["config_1_baseline"].data.tags
    assert (tags["data_fingerprint"], tags["prompt_fingerprint"]) == ("d1", "p1")
    assert (tags["versions"], tags["gpu"]) == ("torch 2.13.0, peft 1", "NVIDIA H200")
    assert tags["computes_in"] == "bfloat16"
    assert tags.items() >= code_tags().items()
    assert tags["mlflow.note.content"].startswith("rank 16, alpha 32, learning rate 2.00e-04")


def test_the_commit_is_that_of_the_checkout_and_of_no_other_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        name = ("-c", "user.name=x", "-c", "user.email=x@x")
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "installed").mkdir()
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    for root, words in ((tmp_path / "installed", None), (tmp_path, "as committed")):
        monkeypatch.setattr(provenance, "_ROOT", root)
        assert code_tags.__wrapped__().get("code") == words
    (tmp_path / "file").write_text("2")
    tags = code_tags.__wrapped__()
    assert tags["code"] == "changed since the commit"
    assert len(tags["mlflow.source.git.commit"]) == 40


def test_a_search_is_described_in_plain_words_and_told_of_more_as_it_goes_on(results: Path) -> None:
    tracking = new_tracking(results)
    tracking.search_described("No trial has completed.", [PRESET.name])
    tracking.trial_started(PRESET)
    tracking.outbox.wait(60, lambda: None)
    before = runs(results)["x"].data.tags["mlflow.note.content"]
    assert "No trial has completed." in before
    assert "compare-runs" not in before, "the trial had no run then"
    tracking.search_described("Best trial: config_1_baseline", [PRESET.name])
    sent(tracking)
    found = runs(results)
    after = found["x"].data.tags["mlflow.note.content"]
    assert "Best trial: config_1_baseline" in after
    assert found["config_1_baseline"].info.run_id in after


@pytest.mark.parametrize(("metric", "least_first"), [("accuracy", False), ("answer_nll", True)])
def test_the_experiment_keeps_a_view_of_one_searchs_trials_the_best_first(
    results: Path, metric: str, least_first: bool
) -> None:
    tracking = Tracking(uri(results), str(results / "x"), "x", results / "x", Task(), {"metric": metric})
    sent(tracking)
    tags = MlflowClient(uri(results)).get_experiment_by_name("medqa").tags
    view = json.loads(tags[view_tag(tracking.search_id)])
    state = json.loads(view["state"])
    assert view["name"] == "x: trials, best first"
    assert (state["orderByKey"], state["orderByAsc"]) == (f"metrics.`best_{metric}`", least_first)
    assert state["searchFilter"] == f"tags.search_id = '{tracking.search_id}' and tags.role = 'trial'"


def test_artifacts_lie_in_the_results_folder_and_nowhere_else(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = results / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    tracking = new_tracking(results)
    tracking.trial_started(PRESET)
    tracking.trial_ended(outcome("completed"), new_record(results / "x"))
    sent(tracking)
    assert runs(results)["config_1_baseline"].info.artifact_uri.startswith((results / "artifacts").as_uri())
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(("state", "status"), [("completed", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED")])
def test_a_run_ends_with_the_status_of_its_trial(results: Path, state: State, status: str) -> None:
    tracking = new_tracking(results)
    tracking.trial_started(PRESET)
    tracking.trial_ended(outcome(state, "why"), None)
    sent(tracking)
    child = runs(results)["config_1_baseline"]
    assert (child.info.status, child.data.tags["state"], child.data.tags["stop_reason"]) == (status, state, "why")


def test_a_search_that_goes_on_writes_to_the_same_runs_and_repeats_no_step(results: Path) -> None:
    before = new_tracking(results)
    before.trial_started(PRESET)
    before.trial_evaluated(PRESET, evaluation(10))
    before.trial_evaluated(PRESET, evaluation(20))
    before.search_ended(finished=False)
    assert {run.info.status for run in runs(results).values()} == {"KILLED"}
    after = new_tracking(results)
    after.trial_started(PRESET)
    after.outbox.wait(60, lambda: None)
    assert {run.info.status for run in runs(results).values()} == {"RUNNING"}
    for step in (20, 30):
        after.trial_evaluated(PRESET, evaluation(step))
    after.trial_ended(outcome("completed"), None)
    after.search_ended(finished=True)
    found = runs(results)
    assert set(found) == {"x", "config_1_baseline"}
    history = MlflowClient(uri(results)).get_metric_history(found["config_1_baseline"].info.run_id, "accuracy")
    assert [point.step for point in history] == [10, 20, 30]


def test_two_searches_share_the_experiment_and_have_parents_of_their_own(results: Path) -> None:
    sent(new_tracking(results))
    (results / "y").mkdir()
    sent(Tracking(uri(results), str(results / "y"), "y", results / "y", Task(), {}))
    assert set(runs(results)) == {"x", "y"}


def test_a_trial_that_is_not_wanted_now_keeps_its_run_and_goes_on_in_it_when_it_is(results: Path) -> None:
    before = new_tracking(results)
    before.trial_started(PRESET)
    before.trial_evaluated(PRESET, evaluation(10))
    before.search_ended(finished=True)  # fewer trials are wanted than have begun
    assert {name: run.info.status for name, run in runs(results).items()} == {
        "x": "FINISHED",
        "config_1_baseline": "KILLED",
    }
    after = new_tracking(results)
    after.trial_started(PRESET)
    after.trial_evaluated(PRESET, evaluation(20))
    after.trial_ended(outcome("completed"), None)
    after.search_ended(finished=True)
    run = runs(results)["config_1_baseline"]
    history = MlflowClient(uri(results)).get_metric_history(run.info.run_id, "accuracy")
    assert ([point.step for point in history], run.info.status) == ([10, 20], "FINISHED")
