"""Which adapters are evaluated beside the one that was asked for."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tuned_fakes import make_results

from analysis import prepared
from analysis.evaluation_folder import find_unfinished
from analysis.selected import Selected, select
from medqa.errors import RecordError
from medqa.model import load_base
from medqa.questions import load_search_questions
from medqa.record import ADAPTER, VAL_RESULTS, read_json, write_json


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


def copied_record(results: Path, folder: Path, **settings: object) -> Path:
    """The files of explored_1, as a person keeps them, with other settings of its adapter."""
    shutil.copytree(results.parent / "explored_1", folder)
    validation = read_json(folder / VAL_RESULTS)
    write_json(folder / VAL_RESULTS, validation | {"overall_accuracy": 0.5})
    path = folder / ADAPTER / "adapter_config.json"
    write_json(path, read_json(path) | settings)
    return folder


def test_a_given_adapter_is_its_trials_where_the_run_holds_the_same(results: Path, tmp_path: Path) -> None:
    same = copied_record(results, tmp_path / "same", base_model_name_or_path="elsewhere", revision="main")
    assert chosen(results, adapter=same).trial == chosen(results, best=True).trial
    other = chosen(results, adapter=copied_record(results, tmp_path / "other", lora_alpha=99))
    assert (other.trial.name, other.trial.run_id) == ("explored_1", "")


def cut_weights(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def remove_weights(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()


def break_settings(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text('{"peft_type": ')


def empty_settings(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut_weights, r"adapter_model\.safetensors: not an adapter's whole weights"),
        (remove_weights, r"adapter_model\.safetensors: no such file"),
        (break_settings, r"adapter_config\.json: not JSON"),
        (empty_settings, r"adapter_config\.json: not an adapter's settings"),
    ],
)
def test_a_broken_adapter_is_one_line_before_anything_is_asked(
    results: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder = copied_record(results, tmp_path / "record")
    spoil(folder / ADAPTER)
    arguments = argparse.Namespace(also={})
    with pytest.raises(RecordError, match=words):
        prepared.prepare(chosen(results, adapter=folder), arguments, tmp_path)


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
