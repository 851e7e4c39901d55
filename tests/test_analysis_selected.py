"""Which adapters are evaluated beside the one that was asked for."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest
from tuned_fakes import make_results

from analysis import prepared
from analysis.selected import Selected, select
from medqa.record import ADAPTER


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
