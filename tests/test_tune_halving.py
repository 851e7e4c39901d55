"""ASHA stops losers at equal shares of their courses, spares presets and finished trials, and survives a restart."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from medqa.config import TrialConfig
from tune.halving import PresetSparingHalving
from tune.proposal import Proposal
from tune.rungs import SHARES, Rungs
from tune.space import TABLE

FIRST = Fraction(1, 8)


class FakeTrial:
    """What the scheduler reads of a Ray trial."""

    def __init__(self, name: str, seed_point: str = "", **fields: Any) -> None:
        self.config = Proposal(name=name, seed_point=seed_point, config=TrialConfig(**fields)).to_ray()


def new_halving(folder: Path, mode: str = "max", prune_seeds: bool = False) -> PresetSparingHalving:
    return PresetSparingHalving(metric="value", mode=mode, prune_seeds=prune_seeds, file=folder / "rungs.json")


def decide(
    halving: PresetSparingHalving, trial: FakeTrial, step: int, value: float, total: int = 80, finished: bool = False
) -> str:
    result: dict[str, Any] = {"step": step, "total_steps": total, "value": value, "finished": finished}
    return halving.on_trial_result(None, trial, result)


def test_nothing_is_stopped_before_the_first_rung(tmp_path: Path) -> None:
    halving = new_halving(tmp_path)
    assert decide(halving, FakeTrial("a"), 9, 0.9) == "CONTINUE"
    assert decide(halving, FakeTrial("b"), 9, 0.1) == "CONTINUE"


def test_the_worse_half_is_stopped_at_a_rung_and_a_person_can_read_why(tmp_path: Path) -> None:
    halving = new_halving(tmp_path)
    assert decide(halving, FakeTrial("a"), 10, 0.5) == "CONTINUE"
    assert decide(halving, FakeTrial("b"), 10, 0.7) == "CONTINUE"
    assert decide(halving, FakeTrial("c"), 11, 0.55) == "CONTINUE"  # the median itself
    assert decide(halving, FakeTrial("d"), 11, 0.4) == "STOP"
    assert halving.reasons == {
        "d": "asha: 0.4000 at 1/8 of its course (step 11 of 80), the bar was 0.5250 (median of 4 trials)"
    }


def test_courses_of_different_lengths_are_compared_at_the_same_share(tmp_path: Path) -> None:
    """At the same step the long one would be stopped: its learning rate is still high."""
    halving = new_halving(tmp_path)
    decide(halving, FakeTrial("short"), 10, 0.5, total=80)
    assert decide(halving, FakeTrial("long"), 10, 0.3, total=240) == "CONTINUE"
    assert decide(halving, FakeTrial("long"), 30, 0.6, total=240) == "CONTINUE"
    assert set(halving.rungs.values[FIRST]) == {"short", "long"}


def test_no_trial_is_judged_during_its_warm_up(tmp_path: Path) -> None:
    halving = new_halving(tmp_path)
    decide(halving, FakeTrial("a"), 20, 0.9)
    assert decide(halving, FakeTrial("b", warmup_ratio=0.3), 20, 0.1) == "CONTINUE"
    assert decide(halving, FakeTrial("c", warmup_ratio=0.1), 20, 0.1) == "STOP"


def test_every_warm_up_of_the_space_is_over_at_the_first_rung() -> None:
    choices = next(parameter.choices for parameter in TABLE if parameter.name == "warmup_ratio")
    assert max(choices) < min(SHARES)


def test_a_trial_enters_only_the_highest_rung_that_it_has_reached() -> None:
    rungs = Rungs("max")
    rungs.judge("a", 0.5, 0.05, 0.9)
    assert [list(values) for values in rungs.values.values()] == [[], [], ["a"]]


def test_a_preset_is_never_stopped_but_its_value_counts(tmp_path: Path) -> None:
    halving = new_halving(tmp_path)
    decide(halving, FakeTrial("a", "config_1_baseline"), 10, 0.9)
    assert decide(halving, FakeTrial("b", "config_2_low_rank"), 10, 0.1) == "CONTINUE"
    assert halving.reasons == {}
    assert decide(halving, FakeTrial("c"), 10, 0.4) == "STOP" or decide(halving, FakeTrial("d"), 10, 0.3) == "STOP"


def test_a_seed_point_is_stopped_like_any_other_where_that_is_asked_for(tmp_path: Path) -> None:
    halving = new_halving(tmp_path, prune_seeds=True)
    decide(halving, FakeTrial("a", "config_1_baseline"), 10, 0.9)
    assert decide(halving, FakeTrial("b", "config_2_low_rank"), 10, 0.1) == "STOP"
    assert decide(halving, FakeTrial("c", "mine"), 10, 0.1, finished=True) == "CONTINUE"


def test_a_trial_at_its_own_end_is_not_called_stopped(tmp_path: Path) -> None:
    halving = new_halving(tmp_path)
    decide(halving, FakeTrial("a"), 80, 0.9)
    assert decide(halving, FakeTrial("b"), 80, 0.1, finished=True) == "CONTINUE"


def test_lower_is_better_where_the_metric_is_a_loss(tmp_path: Path) -> None:
    halving = new_halving(tmp_path, mode="min")
    decide(halving, FakeTrial("a"), 10, 0.5)
    assert decide(halving, FakeTrial("b"), 10, 0.4) == "CONTINUE"
    assert decide(halving, FakeTrial("c"), 10, 0.6) == "STOP"
    assert "the bar was 0.5000" in halving.reasons["c"]


def test_a_trial_is_judged_once_at_each_rung(tmp_path: Path) -> None:
    halving = new_halving(tmp_path)
    trial = FakeTrial("a")
    assert decide(halving, trial, 10, 0.5) == "CONTINUE"
    decide(halving, FakeTrial("b"), 10, 0.9)
    assert decide(halving, trial, 15, 0.5) == "CONTINUE"
    decide(halving, FakeTrial("b"), 20, 0.9)
    assert decide(halving, trial, 20, 0.5) == "STOP"


@pytest.mark.parametrize("value", [float("nan")])
def test_last_words_and_values_that_are_no_numbers_enter_no_rung(tmp_path: Path, value: float) -> None:
    halving = new_halving(tmp_path)
    assert decide(halving, FakeTrial("a"), 10, value) == "CONTINUE"
    words = {"step": 0, "examples": 0, "value": value, "finished": False}
    assert halving.on_trial_result(None, FakeTrial("b"), words) == "CONTINUE"
    assert not any(halving.rungs.values.values())


def test_a_search_that_goes_on_decides_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    before = new_halving(tmp_path)
    for name, value in (("a", 0.5), ("b", 0.7)):
        decide(before, FakeTrial(name), 10, value)
    assert decide(before, FakeTrial("c"), 10, 0.2) == "STOP"
    kept = json.loads((tmp_path / "rungs.json").read_text())
    after = new_halving(tmp_path)
    # what a kill kept the search from hearing is reported again
    assert decide(after, FakeTrial("c"), 10, 0.2) == "STOP"
    assert decide(after, FakeTrial("a"), 10, 0.5) == "CONTINUE"
    assert json.loads((tmp_path / "rungs.json").read_text()) == kept
    assert decide(after, FakeTrial("d"), 10, 0.45) == "STOP"
