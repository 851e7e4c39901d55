"""ASHA stops losers by examples seen, spares presets and finished trials, and survives a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune.halving import PresetSparingHalving


class FakeTrial:
    """What the scheduler reads of a Ray trial."""

    def __init__(self, trial_id: str, seed_point: str = "") -> None:
        self.trial_id = trial_id
        self.config = {"seed_point": seed_point}


def new_halving(folder: Path, mode: str = "max", prune_seeds: bool = False) -> PresetSparingHalving:
    return PresetSparingHalving(
        metric="value",
        mode=mode,
        training_questions=1000,
        most_epochs=3.0,
        prune_seeds=prune_seeds,
        file=folder / "rungs.json",
    )


def decide(halving: PresetSparingHalving, trial: FakeTrial, examples: int, value: float, finished: bool = False) -> str:
    halving.on_trial_add(None, trial)
    result: dict[str, Any] = {"examples": examples, "value": value, "finished": finished}
    return halving.on_trial_result(None, trial, result)


def test_nothing_is_stopped_before_the_first_rung(tmp_path: Path) -> None:
    halving = new_halving(tmp_path)
    assert decide(halving, FakeTrial("a"), 629, 0.9) == "CONTINUE"
    assert decide(halving, FakeTrial("b"), 629, 0.1) == "CONTINUE"


def test_the_lower_half_is_stopped_at_a_rung_and_the_reason_can_be_read(tmp_path: Path) -> None:
    halving = new_halving(tmp_path)
    assert decide(halving, FakeTrial("a"), 640, 0.5) == "CONTINUE"
    assert decide(halving, FakeTrial("b"), 640, 0.7) == "CONTINUE"
    assert decide(halving, FakeTrial("c"), 640, 0.55) == "STOP"
    assert halving.reasons == {"c": "asha: 0.5500 at 640 examples, the bar was 0.6000"}


def test_a_preset_is_never_stopped_but_its_value_counts(tmp_path: Path) -> None:
    halving = new_halving(tmp_path)
    decide(halving, FakeTrial("a", "config_1_baseline"), 640, 0.9)
    assert decide(halving, FakeTrial("b", "config_2_low_rank"), 640, 0.1) == "CONTINUE"
    assert halving.reasons == {}
    assert decide(halving, FakeTrial("c"), 640, 0.4) == "STOP"


def test_a_seed_point_is_stopped_like_any_other_where_that_is_asked_for(tmp_path: Path) -> None:
    halving = new_halving(tmp_path, prune_seeds=True)
    decide(halving, FakeTrial("a", "config_1_baseline"), 640, 0.9)
    assert decide(halving, FakeTrial("b", "config_2_low_rank"), 640, 0.1) == "STOP"
    assert "b" in halving.reasons
    assert decide(halving, FakeTrial("c", "mine"), 640, 0.1, finished=True) == "CONTINUE"


def test_a_trial_at_its_own_end_is_not_called_stopped(tmp_path: Path) -> None:
    halving = new_halving(tmp_path)
    decide(halving, FakeTrial("a"), 1000, 0.9)
    assert decide(halving, FakeTrial("b"), 1000, 0.1, finished=True) == "CONTINUE"


def test_lower_is_better_where_the_metric_is_a_loss(tmp_path: Path) -> None:
    halving = new_halving(tmp_path, mode="min")
    decide(halving, FakeTrial("a"), 640, 0.5)
    assert decide(halving, FakeTrial("b"), 640, 0.4) == "CONTINUE"
    assert decide(halving, FakeTrial("c"), 640, 0.6) == "STOP"
    assert "the bar was 0.4500" in halving.reasons["c"]


def test_a_trial_is_judged_once_at_each_rung(tmp_path: Path) -> None:
    halving = new_halving(tmp_path)
    trial = FakeTrial("a")
    assert decide(halving, trial, 640, 0.5) == "CONTINUE"
    decide(halving, FakeTrial("b"), 640, 0.9)
    assert decide(halving, trial, 800, 0.5) == "CONTINUE"
    decide(halving, FakeTrial("c"), 1280, 0.9)
    assert decide(halving, trial, 1280, 0.5) == "STOP"


def test_rungs_and_reasons_survive_a_restart(tmp_path: Path) -> None:
    before = new_halving(tmp_path)
    decide(before, FakeTrial("a"), 640, 0.5)
    decide(before, FakeTrial("b"), 640, 0.7)
    decide(before, FakeTrial("c"), 640, 0.2)
    after = new_halving(tmp_path)
    assert after.reasons == before.reasons
    assert decide(after, FakeTrial("d"), 640, 0.45) == "STOP"


def test_a_trial_whose_stop_a_kill_made_ray_forget_is_stopped_again(tmp_path: Path) -> None:
    before = new_halving(tmp_path)
    decide(before, FakeTrial("a"), 640, 0.5)
    assert decide(before, FakeTrial("b"), 640, 0.2) == "STOP"
    after = new_halving(tmp_path)
    assert decide(after, FakeTrial("b"), 640, 0.2) == "STOP"
    assert after.reasons == before.reasons
