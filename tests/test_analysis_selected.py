"""Which adapters are evaluated beside the one that was asked for."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest
from tuned_fakes import make_results

from analysis import prepared
from analysis.evaluation_folder import find_unfinished
from analysis.selected import Selected, select
from medqa.model import load_base
from medqa.questions import load_search_questions
from medqa.record import ADAPTER, write_json


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_mistral: Path) -> Path:
    return make_results(tmp_path_factory.mktemp("work"), str(tiny_mistral))


def chosen(results: Path, **asked: object) -> Selected:
    given = {"best": False, "name": "x", "run_id": None, "preset": None, "adapter": None, "top": None, **asked}
    return select(argparse.Namespace(results=results, tracking_uri=None, **given))


def test_one_adapter_with_two_parts_is_fetched_and_asked_once(results: Path, tmp_path: Path) -> None:
    selected = chosen(results, best=True, top=2)
    assert selected.best_preset is not None
    assert selected.best_preset == selected.counterpart == selected.ensemble[1]
    assert [one.model for one in prepared._fetch(selected, tmp_path)] == ["fine_tuned", "counterpart"]


def test_a_preset_is_not_compared_with_the_best_preset(results: Path) -> None:
    selected = chosen(results, preset="config_2_low_rank")
    assert (selected.trial.name, selected.best_preset) == ("config_2_low_rank", None)


def test_a_preset_whose_adapter_is_not_kept_is_not_evaluated(tiny_mistral: Path, tmp_path: Path) -> None:
    results = make_results(tmp_path, str(tiny_mistral))
    preset = chosen(results, best=True).best_preset
    assert preset is not None
    shutil.rmtree(results / "artifacts" / preset.run_id / "artifacts" / ADAPTER)
    assert chosen(results, best=True).best_preset is None


def plan(results: Path, temporary: Path, **asked: object) -> dict[str, object]:
    temporary.mkdir()
    selected = chosen(results, **asked)
    tuned = prepared._fetch(selected, temporary)
    known = load_search_questions(tuned[0].identity.task.data)
    base = load_base(tuned[0].identity.task)
    return prepared.plan_of(selected, prepared.Prepared(base=base, known=known, tuned=tuned, also={}))


@pytest.mark.parametrize(
    ("killed", "asked"),
    [
        ({"best": True}, {"best": True, "top": 2}),
        ({"best": True, "top": 2}, {"best": True}),
        ({"preset": "config_2_low_rank"}, {"preset": "config_2_low_rank", "top": 2}),
        ({"preset": "config_2_low_rank"}, {"run_id": ""}),
    ],
)
def test_a_killed_evaluation_goes_on_only_where_the_same_was_asked(
    results: Path, tmp_path: Path, killed: dict[str, object], asked: dict[str, object]
) -> None:
    if "run_id" in asked:  # the same trial, by another name
        asked = {"run_id": chosen(results, **killed).trial.run_id}
    before, now = plan(results, tmp_path / "killed", **killed), plan(results, tmp_path / "asked", **asked)
    assert before["data"] == now["data"]
    write_json(tmp_path / "search" / "final_eval" / "started.json", {"plan": before, "finished": False})
    assert find_unfinished(tmp_path / "search", before) == tmp_path / "search" / "final_eval"
    assert find_unfinished(tmp_path / "search", now) is None
