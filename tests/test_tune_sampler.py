"""Presets come first, Optuna is told the truth, and nothing is proposed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from medqa.presets import PRESETS
from tune.proposal import Proposal, proposal_of
from tune.sampler import PresetsThenOptuna
from tune.space import TABLE, Space


def new_sampler(space: Space | None = None, concurrent: int = 100, seed: int = 0) -> PresetsThenOptuna:
    return PresetsThenOptuna(space or Space(), metric="best_accuracy", mode="max", seed=seed, concurrent=concurrent)


def propose(sampler: PresetsThenOptuna, count: int) -> list[Proposal]:
    proposals = []
    for _ in range(count):
        suggested = sampler.suggest(f"id{len(sampler.proposed)}")
        assert isinstance(suggested, dict)
        proposals.append(proposal_of(suggested))
    return proposals


def result(accuracy: float, examples: int, finished: bool) -> dict[str, Any]:
    return {"best_accuracy": accuracy, "examples": examples, "finished": finished}


def test_the_first_trials_are_the_presets_and_later_ones_have_numbers() -> None:
    proposals = propose(new_sampler(), 8)
    assert [proposal.config for proposal in proposals[:6]] == list(PRESETS.values())
    assert [proposal.seed_point for proposal in proposals] == [*PRESETS, "", ""]
    assert [proposal.name for proposal in proposals[6:]] == ["trial_007", "trial_008"]


def test_no_more_trials_are_proposed_than_may_run_side_by_side() -> None:
    sampler = new_sampler(concurrent=2)
    propose(sampler, 2)
    assert sampler.suggest("one too many") is None
    sampler.unfinished = 1
    assert sampler.suggest("now there is room") is not None


def test_a_stopped_trial_is_pruned_with_its_values_by_examples_and_a_complete_one_complete() -> None:
    sampler = new_sampler()
    propose(sampler, 4)
    sampler.on_trial_result("id0", result(0.3, 100, False))
    sampler.on_trial_complete("id0", result(0.4, 200, True))
    sampler.on_trial_result("id1", result(0.2, 100, False))
    sampler.on_trial_complete("id1", result(0.25, 200, False))
    sampler.on_trial_complete("id2", None, error=True)
    sampler.on_trial_complete("id3", result(float("nan"), 100, True))
    trials = sampler._ot_study.trials
    assert [trial.state for trial in trials[:4]] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
    ]
    assert trials[0].value == 0.4
    assert trials[1].intermediate_values == {100: 0.2, 200: 0.25}


def test_results_of_a_trial_that_the_sampler_never_proposed_are_passed_over() -> None:
    sampler = new_sampler()
    sampler.on_trial_result("unknown", result(0.3, 100, False))
    sampler.on_trial_complete("unknown", result(0.3, 100, True))


def test_a_small_space_is_tried_whole_without_repetition_and_then_ends() -> None:
    values = {parameter.field: parameter.choices[0] for parameter in TABLE if parameter.choices}
    values |= {"learning_rate": 1e-4, "lora_alpha": 8}
    free = {"use_rslora", "shuffle_options"}
    space = Space(fixed={name: value for name, value in values.items() if name not in free})
    sampler = new_sampler(space)
    proposals = propose(sampler, 4)
    assert len({proposal.config for proposal in proposals}) == 4
    assert sampler.suggest("none left") == sampler.FINISHED
    assert sampler.is_exhausted


def test_the_same_seed_proposes_the_same_configurations_and_another_seed_others() -> None:
    assert propose(new_sampler(seed=1), 9) == propose(new_sampler(seed=1), 9)
    assert propose(new_sampler(seed=1), 9)[6:] != propose(new_sampler(seed=2), 9)[6:]


def test_a_restored_sampler_goes_on_as_if_never_stopped_and_repeats_no_preset(tmp_path: Path) -> None:
    def told(sampler: PresetsThenOptuna, count: int) -> list[Proposal]:
        proposals = []
        for _ in range(count):
            trial_id = f"id{len(sampler.proposed)}"
            proposals += propose(sampler, 1)
            sampler.on_trial_complete(trial_id, result(len(sampler.proposed) / 100, 1000, True))
        return proposals

    unbroken = told(new_sampler(), 12)
    before = new_sampler()
    first = told(before, 8)
    before.save(str(tmp_path / "state.pkl"))
    after = new_sampler(concurrent=3)
    after.restore(str(tmp_path / "state.pkl"))
    assert after.concurrent == 3
    after.concurrent = 100
    assert first + told(after, 4) == unbroken
