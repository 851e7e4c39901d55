"""Budgets: what is counted and kept, when a trial may start, and caps that hold over all runs of a search."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tune_fakes import ended_trial

from medqa.config import Task
from medqa.errors import ConfigError
from tune import settings
from tune.budget import Budget
from tune.console import used, why_ended
from tune.outcomes import TrialOutcome
from tune.usage import Use
from tune.wishes import Wishes

TOY = Path(__file__).with_name("toy_search.py")
HOUR = 3600.0


class Watch:
    """A clock that is set by hand."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def new_budget(folder: Path, watch: Watch, gpus: float = 1, **caps: float) -> Budget:
    """A budget that has begun to count a run."""
    chosen = settings.resolve(Wishes(demo=True, max_trials=30, **caps), Task(), folder, None)
    budget = Budget(folder / "budget.json", chosen, watch)
    budget.begin(gpus, 1000)
    return budget


def run_trial(budget: Budget, watch: Watch, name: str, evaluations: list[tuple[float, int]], course: float) -> Use:
    """Run a trial alone; `evaluations` are (seconds since the one before, examples seen)."""
    assert budget.reserve(name, course)
    budget.trial_started(name)
    for seconds, examples in evaluations:
        watch.seconds += seconds
        budget.trial_evaluated(name, examples)
    return budget.trial_ended(name)


def test_a_trial_s_seconds_count_from_its_starts_to_its_ends_times_its_gpus(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch, gpus=0.5, gpu_hour_price=2.0)
    assert budget.reserve("a", 100)
    watch.seconds += 50  # it waits for a node
    budget.trial_started("a")
    watch.seconds += 10
    budget.trial_lost("a")
    watch.seconds += 70  # and for another
    budget.trial_started("a")
    watch.seconds += 30
    use = budget.trial_ended("a")
    assert (use.seconds, use.gpu_seconds, budget.seconds) == (40, 20, 160)
    assert budget.cost(use.gpu_seconds) == pytest.approx(20 / HOUR * 2)
    assert budget.trial_ended("never started") == Use()


def test_two_trials_side_by_side_count_twice(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch)
    for name in ("a", "b"):
        assert budget.reserve(name, 100)
        budget.trial_started(name)
    watch.seconds += HOUR
    budget.look()
    assert (budget.gpu_hours, budget.seconds) == (2, HOUR)


def test_a_kill_loses_what_was_counted_since_the_last_ten_seconds_and_no_more(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch)
    assert budget.reserve("a", 100)
    budget.trial_started("a")
    for _ in range(27):
        watch.seconds += 1
        budget.look()
    watch.seconds += 5000  # killed: the time until the next start is nobody's
    again = new_budget(tmp_path, watch)
    assert again.uses["a"].gpu_seconds == again.seconds == 20
    assert again.reserve("a", 100)
    again.trial_started("a")
    watch.seconds += 7
    assert again.trial_ended("a").gpu_seconds == 27
    assert new_budget(tmp_path, watch).uses["a"].seconds == 27


def test_an_interrupted_run_counts_until_its_workers_have_stopped(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch)
    assert budget.reserve("a", 100)
    budget.trial_started("a")
    watch.seconds += 3
    budget.end()
    watch.seconds += 100
    budget.end()
    assert new_budget(tmp_path, watch).uses["a"].seconds == 3


def test_a_course_is_expected_to_take_its_start_up_and_then_its_pace() -> None:
    # 60 s of start-up and 0.1 s an example
    use = Use(course=1000, first_seconds=70, first_examples=100, last_seconds=90, last_examples=300)
    assert use.pace == pytest.approx(0.1)
    assert use.expected_seconds(1000) == pytest.approx(160)
    assert use.expected_seconds(50) == 70
    assert use.remaining_seconds([]) == pytest.approx(70)
    once = Use(course=1000, first_seconds=70, first_examples=100, last_seconds=70, last_examples=100)
    assert once.expected_seconds(1000) == pytest.approx(700)  # wide: the start-up counts in every example


def test_under_a_cap_on_gpu_hours_one_trial_shows_the_speed_before_a_second_starts(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch, max_gpu_hours=1.01)
    assert budget.reserve("a", 1000)
    assert not budget.reserve("b", 1000)
    assert budget.refusal is None
    budget.trial_started("a")
    watch.seconds += 60
    budget.trial_evaluated("a", 100)  # 600 s a course: 540 are to come of this one, 600 of each other
    assert [budget.reserve(name, 1000) for name in "bcdefg"] == [True] * 5 + [False]
    assert budget.refusal
    assert budget.refusal.expected == pytest.approx(600 / HOUR)


def test_a_trial_that_fails_unmeasured_lets_the_next_show_the_speed(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch, max_gpu_hours=1)
    assert run_trial(budget, watch, "a", [], 1000).last_examples == 0
    assert budget.reserve("b", 1000)


def test_without_a_cap_and_under_hours_alone_no_trial_waits(tmp_path: Path) -> None:
    for caps in ({}, {"max_hours": 1.0}, {"max_gpu_hours": math.inf}):
        budget = new_budget(tmp_path, Watch(), **caps)
        assert all(budget.reserve(f"trial {number}", 1000) for number in range(8))


def test_a_trial_starts_when_hours_are_left_for_it_alone(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch, max_hours=1)
    run_trial(budget, watch, "a", [(600, 100), (600, 1000)], 1000)
    assert all(budget.reserve(f"trial {number}", 1000) for number in range(8))  # 1,200 of 2,400 s left
    assert not budget.can_pay(4000)
    watch.seconds += 1201
    budget.look()
    assert not budget.can_pay(1000)
    assert budget.refusal
    assert budget.refusal.cap.flag == "--max-hours"


def test_money_is_a_cap_at_the_price_and_a_larger_one_pays_again(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch, gpus=2, max_cost=4.0, gpu_hour_price=2.0)
    run_trial(budget, watch, "a", [(900, 500), (900, 1000)], 1000)  # half an hour of two GPUs
    assert budget.reserve("b", 1000)
    assert not budget.can_pay(1)  # 450 s and more by the time to the first evaluation
    assert budget.refusal
    assert (budget.refusal.cap.flag, budget.refusal.cap.used) == ("--max-cost", pytest.approx(2.0))
    budget.save()
    assert new_budget(tmp_path, watch, gpus=2, max_cost=6.0, gpu_hour_price=2.0).can_pay(1000)
    assert not new_budget(tmp_path, watch, gpus=2, max_cost=6.0, gpu_hour_price=4.0).can_pay(1000)


def test_the_slowest_of_the_trials_measured_last_is_expected(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch, max_gpu_hours=100)
    run_trial(budget, watch, "download", [(7200, 10), (10, 20)], 20)
    run_trial(budget, watch, "slow", [(100, 10), (100, 20)], 20)
    for number in range(7):
        run_trial(budget, watch, f"quick {number}", [(10, 10), (10, 20)], 20)
    assert not budget.can_pay(100 * HOUR)
    assert budget.refusal
    assert budget.refusal.expected == pytest.approx((100 + 10 * (100 * HOUR - 10)) / HOUR)


def test_a_cap_that_is_reached_pays_for_nothing(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch, max_gpu_hours=1)
    assert budget.reserve("a", 1000)
    budget.trial_started("a")
    watch.seconds += HOUR - 1
    budget.look()
    assert budget.used_up is None
    watch.seconds += 1
    budget.look()
    assert budget.used_up
    assert not budget.can_pay(1)
    budget.end()
    assert why_ended(budget, 2) == (
        "1.00 GPU-hours are used and --max-gpu-hours is 1. "
        "The same command with a larger --max-gpu-hours goes on with it"
    )


def test_a_trial_begun_in_an_earlier_run_goes_on_while_anything_is_left(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch, max_gpu_hours=1)
    run_trial(budget, watch, "a", [(900, 500), (900, 1000)], 1000)
    assert budget.reserve("b", 1000)
    budget.trial_started("b")
    watch.seconds += 60
    budget.end()  # killed; 29 minutes are left, and a whole course takes 30
    again = new_budget(tmp_path, watch, max_gpu_hours=1)
    assert not again.reserve("c", 1000)
    assert again.reserve("b", 1000)
    again.trial_started("b")
    watch.seconds += 1740
    again.end()
    assert not new_budget(tmp_path, watch, max_gpu_hours=1).reserve("b", 1000)


def test_a_cap_on_gpu_hours_is_refused_where_trials_have_no_gpu(tmp_path: Path) -> None:
    for caps in ({"max_gpu_hours": 1.0}, {"max_cost": 1.0, "gpu_hour_price": 2.0}):
        with pytest.raises(ConfigError, match=f"--{next(iter(caps)).replace('_', '-')} .*use --max-hours") as raised:
            new_budget(tmp_path, Watch(), gpus=0, **caps)
        assert "\n" not in str(raised.value)
    new_budget(tmp_path, Watch(), gpus=0, max_gpu_hours=math.inf)
    with pytest.raises(ConfigError, match="--max-hours is nan"):
        new_budget(tmp_path, Watch(), max_hours=math.nan)


def row(name: str, failed: bool = False) -> TrialOutcome:
    return ended_trial(name=name, state="failed" if failed else "completed")


def test_the_total_names_hours_price_and_what_failed_trials_took(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch, gpu_hour_price=2.0)
    run_trial(budget, watch, "a", [(HOUR, 10), (HOUR, 20)], 20)
    run_trial(budget, watch, "b", [(HOUR / 2, 10)], 20)
    rows = [row("a"), row("b", failed=True)]
    assert (
        used(budget, rows) == "Used 2.50 GPU-hours (5.00 at 2.00 an hour) in 2 trials; 0.5 of it on trials that failed."
    )
    on_cpus = new_budget(tmp_path / "cpus", watch, gpus=0, gpu_hour_price=2.0)
    run_trial(on_cpus, watch, "a", [(HOUR / 4, 20)], 20)
    assert used(on_cpus, rows) == "Used 0.25 CPU-hours (without a price: --gpu-hour-price is that of GPUs) in 1 trial."


def test_what_was_not_started_is_said_with_what_it_needs_and_what_is_left(tmp_path: Path) -> None:
    watch = Watch()
    budget = new_budget(tmp_path, watch, max_gpu_hours=2.5)
    run_trial(budget, watch, "a", [(HOUR, 10), (HOUR, 20)], 20)
    assert not budget.reserve("b", 20)
    budget.end()
    assert why_ended(budget, 29) == (
        "29 trials were not started, because the next would take about 2.00 GPU-hours and 0.5 are left of "
        "--max-gpu-hours 2.5. The same command with a larger --max-gpu-hours goes on with it"
    )
