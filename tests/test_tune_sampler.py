"""Seed points come first, Optuna is told the truth, nothing is proposed twice, and a kill changes nothing."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from medqa.presets import PRESETS
from tune.outcomes import State, TrialOutcome
from tune.proposal import Proposal, proposal_of
from tune.sampler import PresetsThenOptuna, Proposals
from tune.space import TABLE, Space
from tune.study import SamplerName, open_storage, put_back

OWN = {"mine": {"lora_rank": 8, "use_rslora": True}}


def new_sampler(
    space: Space | None = None,
    concurrent: int = 100,
    seed: int = 0,
    kind: SamplerName = "tpe",
    file: Path | None = None,
    storage: BaseStorage | None = None,
    ended: Sequence[TrialOutcome] = (),
) -> PresetsThenOptuna:
    return PresetsThenOptuna(
        space or Space(),
        metric="best_accuracy",
        mode="max",
        kind=kind,
        seed=seed,
        concurrent=concurrent,
        storage=storage or (open_storage(file) if file else InMemoryStorage()),
        study_name="a search",
        ended=ended,
    )


def propose(sampler: PresetsThenOptuna) -> Proposal:
    suggested = sampler.suggest("an id that Ray made up")
    assert isinstance(suggested, dict)
    return proposal_of(suggested)


def propose_many(sampler: PresetsThenOptuna, count: int) -> list[Proposal]:
    return [propose(sampler) for _ in range(count)]


def result(accuracy: float, examples: int) -> dict[str, Any]:
    return {"best_accuracy": accuracy, "examples": examples}


def outcome(proposal: Proposal, state: State, accuracy: float | None) -> TrialOutcome:
    return TrialOutcome(
        name=proposal.name,
        seed_point=proposal.seed_point,
        state=state,
        stop_reason="",
        config=proposal.config,
        accuracy=accuracy,
        answer_nll=accuracy,
        steps=10,
        seconds=1.0,
    )


def run_trial(sampler: PresetsThenOptuna, proposal: Proposal) -> TrialOutcome:
    """Every third trial is stopped, every seventh fails, and the value follows from the configuration."""
    value = 0.5 + proposal.config.lora_dropout - abs(proposal.config.learning_rate - 4e-4) * 500
    place = sum(proposal.name.encode())
    sampler.trial_evaluated(proposal.name, result(value / 2, 500))
    if place % 7 == 0:
        return outcome(proposal, "failed", value / 2)
    sampler.trial_evaluated(proposal.name, result(value, 1000))
    return outcome(proposal, "completed" if place % 3 else "stopped", value)


def stored(file: Path) -> list[FrozenTrial]:
    return list(optuna.load_study(study_name="a search", storage=f"sqlite:///{file}").trials)


def states(file: Path) -> list[TrialState]:
    return [trial.state for trial in stored(file)]


def test_the_first_trials_are_the_presets_and_own_seed_points_and_later_ones_have_numbers() -> None:
    proposals = propose_many(new_sampler(Space(seeds=OWN)), 9)
    assert [proposal.config for proposal in proposals[:6]] == list(PRESETS.values())
    assert [proposal.seed_point for proposal in proposals] == [*PRESETS, "mine", "", ""]
    assert (proposals[6].config.lora_rank, proposals[6].config.use_rslora) == (8, True)
    assert [proposal.name for proposal in proposals[6:]] == ["mine", "trial_008", "trial_009"]


def test_no_more_trials_are_proposed_than_may_run_side_by_side() -> None:
    sampler = new_sampler(concurrent=2)
    first, _ = propose_many(sampler, 2)
    assert sampler.suggest("one too many") is None
    sampler.trial_ended(outcome(first, "completed", 0.5))
    assert sampler.suggest("now there is room") is not None


def test_a_stopped_trial_is_pruned_with_its_values_by_examples_and_a_complete_one_complete(tmp_path: Path) -> None:
    sampler = new_sampler(file=tmp_path / "optuna.db")
    proposals = propose_many(sampler, 6)
    names = [proposal.name for proposal in proposals]
    for name, value, examples in (
        (names[0], 0.3, 100),
        (names[0], 0.4, 200),
        (names[1], 0.2, 100),
        (names[1], 0.25, 200),
        (names[3], float("nan"), 100),
    ):
        sampler.trial_evaluated(name, result(value, examples))
    ends: list[tuple[State, float | None]] = [("completed", 0.4), ("stopped", 0.25), ("failed", None)]
    ends += [("completed", float("nan")), ("stopped", None), ("completed", float("inf"))]
    for proposal, (state, value) in zip(proposals, ends, strict=True):
        sampler.trial_ended(outcome(proposal, state, value))
    trials = stored(tmp_path / "optuna.db")
    complete, pruned, fail = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    assert [trial.state for trial in trials] == [complete, pruned, fail, fail, fail, fail]
    assert trials[0].value == 0.4
    assert trials[1].intermediate_values == {100: 0.2, 200: 0.25}
    assert trials[3].intermediate_values == {}


def test_an_evaluation_repeated_after_a_restart_and_an_end_told_twice_do_no_harm(tmp_path: Path) -> None:
    sampler = new_sampler(file=tmp_path / "optuna.db")
    proposal = propose(sampler)
    for _ in range(2):
        sampler.trial_evaluated(proposal.name, result(0.3, 100))
    for _ in range(2):
        sampler.trial_ended(outcome(proposal, "completed", 0.4))
    sampler.trial_evaluated(proposal.name, result(0.9, 300))
    (trial, *_) = stored(tmp_path / "optuna.db")
    assert (trial.value, trial.intermediate_values) == (0.4, {100: 0.3})


def test_an_end_that_optuna_did_not_hear_before_a_kill_is_told_at_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    proposals = propose_many(new_sampler(file=file), 8)
    ends: list[State] = ["completed", "stopped", "failed"]
    rows = [outcome(proposals[number], state, 0.4) for number, state in zip((0, 6, 7), ends, strict=True)]
    after = new_sampler(file=file, ended=rows)
    waiting = [TrialState.WAITING] * 5
    assert states(file) == [TrialState.COMPLETE, *waiting, TrialState.PRUNED, TrialState.FAIL]
    assert (stored(file)[0].value, after.unfinished, after.proposed) == (0.4, 0, 3)
    assert propose_many(after, 5) == proposals[1:6]


def test_what_ray_says_of_trials_is_passed_over(tmp_path: Path) -> None:
    sampler = new_sampler(file=tmp_path / "optuna.db")
    proposal = propose(sampler)
    before = states(tmp_path / "optuna.db")
    sampler.on_trial_result(proposal.name, result(0.3, 100))
    sampler.on_trial_complete(proposal.name, result(0.3, 100))
    assert states(tmp_path / "optuna.db") == before
    assert stored(tmp_path / "optuna.db")[0].intermediate_values == {}


def small_space() -> Space:
    """Four configurations in all."""
    values = {parameter.field: parameter.choices[0] for parameter in TABLE if parameter.choices}
    values |= {"learning_rate": 1e-4, "lora_alpha": 8}
    free = {"use_rslora", "shuffle_options"}
    return Space(fixed={name: value for name, value in values.items() if name not in free})


def test_a_small_space_is_tried_whole_without_repetition_and_then_ends() -> None:
    sampler = new_sampler(small_space())
    proposals = propose_many(sampler, 4)
    assert len({proposal.config for proposal in proposals}) == 4
    assert sampler.suggest("none left") == sampler.FINISHED
    assert sampler.is_exhausted


def test_nothing_is_proposed_twice_across_restarts(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    configs = set()
    for _ in range(4):
        sampler = new_sampler(small_space(), file=file)
        proposal = propose(sampler)
        configs.add(proposal.config)
        sampler.trial_ended(outcome(proposal, "completed", 0.5))
    assert len(configs) == 4
    assert states(file) == [TrialState.COMPLETE] * 4
    assert new_sampler(small_space(), file=file).suggest("none left") == "FINISHED"


@pytest.mark.parametrize("kind", ["tpe", "gp", "random"])
def test_the_same_seed_proposes_the_same_configurations_and_another_seed_others(kind: SamplerName) -> None:
    def proposed(seed: int) -> list[Proposal]:
        sampler = new_sampler(seed=seed, kind=kind)
        proposals = []
        for _ in range(10):
            proposals.append(propose(sampler))
            sampler.trial_ended(run_trial(sampler, proposals[-1]))
        return proposals

    assert proposed(1) == proposed(1)
    assert proposed(1)[6:] != proposed(2)[6:]


def test_tpe_is_aware_of_trials_in_flight() -> None:
    def next_five(in_flight: bool) -> list[Proposal]:
        sampler = new_sampler()
        for _ in range(10):
            sampler.trial_ended(run_trial(sampler, propose(sampler)))
        proposals = []
        for _ in range(5):
            proposals.append(propose(sampler))
            if not in_flight:  # Optuna passes over failed trials
                sampler.trial_ended(outcome(proposals[-1], "failed", None))
        return proposals

    assert next_five(in_flight=True)[0] == next_five(in_flight=False)[0]
    assert next_five(in_flight=True) != next_five(in_flight=False)


def test_the_study_has_the_searchs_name_and_each_trial_its_configuration_in_words(tmp_path: Path) -> None:
    sampler = new_sampler(file=tmp_path / "optuna.db")
    propose_many(sampler, 7)
    trials = stored(tmp_path / "optuna.db")
    assert [trial.user_attrs["name"] for trial in trials] == [*PRESETS, "trial_007"]
    assert trials[2].user_attrs["config"]["lora_rank"] == 64
    assert trials[2].user_attrs["seed_point"] == "config_3_high_rank"


def test_reopening_never_puts_the_seed_points_in_again(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    for _ in range(3):
        new_sampler(Space(seeds=OWN), file=file)
    assert len(stored(file)) == 7
    sampler = new_sampler(Space(seeds=OWN), file=file)
    proposals = propose_many(sampler, 8)
    assert [proposal.seed_point for proposal in proposals] == [*PRESETS, "mine", ""]
    new_sampler(Space(seeds=OWN), file=file)
    assert len(stored(file)) == 8


def test_seed_points_half_put_in_before_a_kill_are_completed(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    study = optuna.create_study(storage=open_storage(file), study_name="a search", direction="maximize")
    first, *_ = Space().seed_points().items()
    study.enqueue_trial(first[1], user_attrs={"seed_point": first[0]})
    assert [proposal.name for proposal in propose_many(new_sampler(file=file), 6)] == list(PRESETS)


def test_trials_under_way_at_a_kill_are_proposed_again_as_they_were_before_anything_new(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    first = new_sampler(file=file)
    before = propose_many(first, 8)
    first.trial_ended(outcome(before[1], "completed", 0.4))
    after = new_sampler(file=file)
    assert TrialState.RUNNING not in states(file)
    assert propose_many(after, 8)[:7] == [before[0], *before[2:]]
    after.trial_ended(outcome(before[7], "completed", 0.5))
    assert stored(file)[7].value == 0.5
    assert len(stored(file)) == 9


def test_no_trial_is_running_after_the_end_and_an_unfinished_one_waits(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    sampler = new_sampler(file=file)
    proposals = propose_many(sampler, 7)
    sampler.trial_ended(outcome(proposals[0], "completed", 0.4))
    sampler.end()
    assert states(file) == [TrialState.COMPLETE, *[TrialState.WAITING] * 6]


def test_a_killed_search_is_put_back_without_being_run(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    propose_many(new_sampler(file=file), 7)
    put_back(open_storage(file))
    assert set(states(file)) == {TrialState.WAITING}


class KilledError(Exception):
    """Stands for SIGKILL at one write to the storage."""


WRITES = (
    "create_new_trial",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_intermediate_value",
)


class Machine:
    """What outlives a killed search of 12 trials, one at a time: the study, and the outcomes."""

    def __init__(self, storage: BaseStorage, kind: SamplerName) -> None:
        self.storage, self.kind = storage, kind
        self.proposals: dict[str, Proposal] = {}
        self.ended: list[TrialOutcome] = []

    def run_search(self) -> None:
        sampler = new_sampler(
            Space(seeds=OWN), concurrent=1, seed=3, kind=self.kind, storage=self.storage, ended=self.ended
        )
        while sampler.proposed < 12:
            proposal = propose(sampler)
            assert self.proposals.setdefault(proposal.name, proposal) == proposal
            self.ended.append(run_trial(sampler, proposal))
            sampler.trial_ended(self.ended[-1])

    def run_search_killed_before_write(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        writes = itertools.count(1)

        def killing(method: Callable[..., Any]) -> Callable[..., Any]:
            def write(*arguments: Any, **named: Any) -> Any:
                if next(writes) >= number:
                    raise KilledError
                return method(*arguments, **named)

            return write

        with monkeypatch.context() as patch:
            for name in WRITES:
                patch.setattr(self.storage, name, killing(getattr(self.storage, name)))
            self.was_killed = True
            with contextlib.suppress(KilledError):
                self.run_search()
                self.was_killed = False

    def result(self) -> tuple[list[Proposal], list[tuple[TrialState, dict[str, Any], dict[int, float]]]]:
        (study,) = self.storage.get_all_studies()
        trials = self.storage.get_all_trials(study._study_id)
        told = [(trial.state, trial.params, trial.intermediate_values) for trial in trials]
        return list(self.proposals.values()), told


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "every"), [("tpe", 4), ("random", 11), ("gp", 23)])
def test_a_kill_before_any_write_leaves_all_proposals_and_all_that_optuna_is_told_as_they_were(
    kind: SamplerName, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = Machine(InMemoryStorage(), kind)
    unbroken.run_search()
    assert len({proposal.config for proposal in unbroken.result()[0]}) == 12
    for number in itertools.count(1, every):
        killed = Machine(InMemoryStorage(), kind)
        killed.run_search_killed_before_write(number, monkeypatch)
        killed.run_search()
        assert killed.result() == unbroken.result(), f"killed before write {number}"
        if not killed.was_killed:
            break
    assert number > 150


def test_a_kill_leaves_a_study_in_a_file_to_go_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = Machine(InMemoryStorage(), "tpe")
    unbroken.run_search()
    killed = Machine(open_storage(tmp_path / "optuna.db"), "tpe")
    killed.run_search_killed_before_write(60, monkeypatch)
    assert 0 < len(killed.ended) < 12
    killed.storage = open_storage(tmp_path / "optuna.db")
    killed.run_search()
    assert killed.result() == unbroken.result()
    assert TrialState.RUNNING not in states(tmp_path / "optuna.db")


def test_trials_are_counted_over_all_runs_of_the_search(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    first, _ = propose_many(new_sampler(file=file), 2)
    sampler = new_sampler(file=file, ended=[outcome(first, "completed", 0.5)])
    proposals = Proposals(sampler, most=3)
    propose(sampler)  # the one that was under way
    assert not proposals.is_finished()
    propose(sampler)
    assert proposals.is_finished()
