"""Which trial is the best: completed before stopped, ties, new seeds before the search's own value, like with like."""

from __future__ import annotations

import statistics

import pytest
from analysis_fakes import make_trial

from analysis.runs import Trial
from medqa.selection import BEST_MEANS, CONFIRMED_MEANS, best_first, choose, selection_key

PRESET = "config_1_baseline"


def names(*trials: Trial, metric: str = "accuracy") -> list[str]:
    return [trial.name for trial in best_first(trials, metric)]


def again(name: str, *values: float | None) -> list[Trial]:
    return [
        make_trial(f"{name}_seed_{43 + index}", value, state="failed" if value is None else "completed", confirms=name)
        for index, value in enumerate(values)
    ]


def test_the_best_first_and_stopped_or_failed_trials_not_at_all() -> None:
    trials = make_trial("a", 0.5), make_trial("b", 0.6), make_trial("c", 0.9, state="stopped")
    assert names(*trials, make_trial("d", 0.9, state="failed"), make_trial("e", 0.9, state="running")) == ["b", "a"]


def test_stopped_trials_count_when_none_was_completed() -> None:
    stopped = make_trial("a", 0.5, state="stopped"), make_trial("b", 0.6, state="stopped")
    assert names(*stopped, make_trial("c", 0.9, state="failed")) == ["b", "a"]
    assert names(make_trial("c", None, state="failed")) == []
    assert choose([make_trial("c", None, state="failed")], [], "accuracy", 0) is None


def test_ties_go_to_the_other_metric_then_to_the_first_name() -> None:
    late, early = make_trial("trial_008", 0.6, nll=0.8), make_trial("trial_007", 0.6, nll=0.8)
    worse = make_trial("config_1_baseline", 0.6, nll=0.9)
    assert names(late, worse, early) == ["trial_007", "trial_008", "config_1_baseline"]
    accurate = make_trial("z", 0.7, nll=0.8)
    assert names(late, accurate, metric="answer_nll") == ["z", "trial_008"]


def test_the_lowest_nll_wins_where_that_is_the_metric() -> None:
    assert names(make_trial("a", 0.7, nll=1.2), make_trial("b", 0.6, nll=0.9), metric="answer_nll") == ["b", "a"]


def test_a_missing_value_comes_last() -> None:
    keys = [selection_key(metric, None, None) for metric in ("accuracy", "answer_nll")]
    assert all(
        key > selection_key(metric, 0.0, 99.0) for key, metric in zip(keys, ("accuracy", "answer_nll"), strict=True)
    )


def test_without_a_confirmation_the_margins_are_over_the_runner_up_and_the_best_preset() -> None:
    preset, other = make_trial(PRESET, 0.5), make_trial("config_2_low_rank", 0.4)
    choice = choose([preset, other, make_trial("trial_007", 0.56), make_trial("trial_008", 0.6)], [], "accuracy", 0)
    assert choice is not None
    assert (choice.trial, choice.evaluated, choice.means) == (choice.trial, choice.trial, BEST_MEANS)
    assert [(margin.over, margin.other.name) for margin in choice.margins] == [
        ("the runner-up", "trial_007"),
        ("the best preset", PRESET),
    ]
    assert choice.best_preset is preset
    assert [margin.value for margin in choice.margins] == pytest.approx([0.04, 0.1])


def test_a_preset_that_wins_is_compared_with_the_best_trial_that_is_none() -> None:
    trials = make_trial(PRESET, 0.6), make_trial("config_2_low_rank", 0.5), make_trial("trial_007", 0.4)
    choice = choose(trials, [], "accuracy", 0)
    assert choice is not None
    assert [(margin.over, margin.other.name) for margin in choice.margins] == [
        ("the runner-up", "config_2_low_rank"),
        ("the best trial that is no preset", "trial_007"),
    ]
    alone = choose(trials[:1], [], "accuracy", 0)
    assert alone is not None
    assert alone.margins == ()


def test_a_runner_up_that_is_the_best_preset_is_named_once() -> None:
    choice = choose([make_trial(PRESET, 0.5), make_trial("trial_007", 0.6)], [], "accuracy", 0)
    assert choice is not None
    assert [margin.over for margin in choice.margins] == ["the runner-up and the best preset"]


def test_the_best_mean_over_new_seeds_wins_with_the_best_of_the_new_adapters() -> None:
    trials = make_trial("lucky", 0.7), make_trial("steady", 0.68), make_trial("out", 0.67), make_trial(PRESET, 0.5)
    repeats = again("lucky", 0.60, 0.61, 0.65) + again("steady", 0.65, 0.67, 0.66) + again("out", 0.9, 0.9, 0.9)
    choice = choose(trials, repeats, "accuracy", 2)
    assert choice is not None
    assert (choice.trial.name, choice.evaluated.name, choice.means) == ("steady", "steady_seed_44", CONFIRMED_MEANS)
    assert [one.trial.name for one in choice.confirmed] == ["steady", "lucky"]
    first = choice.confirmed[0]
    assert (first.mean, first.deviation, first.drop) == pytest.approx(
        (0.66, statistics.stdev([0.65, 0.67, 0.66]), 0.02)
    )
    # like is compared with like: means with means, and a preset that was trained once with one training
    runner_up, preset = choice.margins
    assert (runner_up.other.name, len(runner_up.runs), runner_up.value) == ("lucky", 3, pytest.approx(0.04))
    assert (preset.other.name, preset.runs, preset.value) == (PRESET, (trials[1],), pytest.approx(0.18))
    assert choice.best_preset is trials[3]


def test_a_confirmed_preset_is_stood_for_by_the_best_of_its_new_adapters() -> None:
    trials = make_trial("a", 0.7), make_trial(PRESET, 0.6), make_trial("config_2_low_rank", 0.65)
    confirmed = again("a", 0.7, 0.7, 0.7) + again("config_2_low_rank", 0.5, 0.55, 0.5)
    choice = choose(trials, confirmed, "accuracy", 2)
    assert choice is not None
    assert choice.best_preset is not None
    assert choice.best_preset.name == "config_2_low_rank_seed_44"


def test_a_drop_of_the_nll_is_a_rise() -> None:
    trials = [make_trial("a", 0.5, nll=1.0)]
    repeats = [make_trial(f"a_{seed}", 0.5, nll=nll, confirms="a") for seed, nll in enumerate((1.1, 1.2, 1.3))]
    choice = choose(trials, repeats, "answer_nll", 1)
    assert choice is not None
    assert choice.confirmed[0].drop == pytest.approx(0.2)
    assert choice.evaluated.name == "a_0"


def test_a_configuration_of_which_a_new_seed_failed_comes_after_the_others() -> None:
    trials = make_trial("a", 0.7), make_trial("b", 0.6)
    choice = choose(trials, again("a", 0.7, None, 0.7) + again("b", 0.5, 0.5, 0.5), "accuracy", 2)
    assert choice is not None
    assert [(one.trial.name, one.failed) for one in choice.confirmed] == [("b", 0), ("a", 1)]


@pytest.mark.parametrize(
    ("repeats", "words"),
    [
        ([], "0 of 3"),
        (again("a", 0.5, 0.5), "2 of 3"),
        ([*again("a", 0.5, 0.5), make_trial("a_seed_45", 0.5, state="running", confirms="a")], "2 of 3"),
        (again("b", 0.5, 0.5, 0.5), "0 of 3"),
        (again("a", None, None, None), "every training of the confirmation failed"),
    ],
)
def test_a_confirmation_that_cannot_choose_leaves_it_to_the_search_and_says_so(
    repeats: list[Trial], words: str
) -> None:
    choice = choose([make_trial("a", 0.7)], repeats, "accuracy", 1)
    assert choice is not None
    assert (choice.evaluated.name, choice.means, choice.confirmed) == ("a", BEST_MEANS, ())
    assert words in choice.note


def test_a_confirmation_that_is_not_asked_for_any_more_plays_no_part() -> None:
    choice = choose([make_trial("a", 0.7)], again("a", 0.5, 0.5, 0.5), "accuracy", 0)
    assert choice is not None
    assert (choice.evaluated.name, choice.note) == ("a", "")
