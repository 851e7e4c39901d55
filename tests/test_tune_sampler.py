"""Seed points come first, Optuna is told the truth, nothing is proposed twice, and a kill changes nothing."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from medqa.presets import PRESETS
from tune.proposal import Proposal, proposal_of
from tune.sampler import PresetsThenOptuna, Proposals
from tune.space import TABLE, Space
from tune.study import SamplerName, open_storage, put_back

OWN = {"mine": {"lora_rank": 8, "use_rslora": True}}


class FakeTrial:
    """What the sampler reads of a Ray trial."""

    def __init__(self, trial_id: str, ended: bool = False) -> None:
        self.trial_id = trial_id
        self._ended = ended

    def is_finished(self) -> bool:
        return self._ended


def new_sampler(
    space: Space | None = None,
    concurrent: int = 100,
    seed: int = 0,
    kind: SamplerName = "tpe",
    file: Path | None = None,
    storage: BaseStorage | None = None,
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
    )


def propose(sampler: PresetsThenOptuna, trial_id: str) -> Proposal:
    suggested = sampler.suggest(trial_id)
    assert isinstance(suggested, dict)
    return proposal_of(suggested)


def propose_many(sampler: PresetsThenOptuna, count: int) -> list[Proposal]:
    return [propose(sampler, f"id{number}") for number in range(count)]


def result(accuracy: float, examples: int, finished: bool) -> dict[str, Any]:
    return {"best_accuracy": accuracy, "examples": examples, "finished": finished}


def run_trial(sampler: PresetsThenOptuna, trial_id: str, proposal: Proposal) -> None:
    """Every third trial is stopped, every seventh fails, and the value follows from the configuration."""
    value = 0.5 + proposal.config.lora_dropout - abs(proposal.config.learning_rate - 4e-4) * 500
    place = sum(proposal.name.encode())
    sampler.on_trial_result(trial_id, result(value / 2, 500, False))
    if place % 7 == 0:
        sampler.on_trial_complete(trial_id, None, error=True)
    else:
        sampler.on_trial_complete(trial_id, result(value, 1000, finished=place % 3 > 0))


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
    sampler.follow([])
    propose_many(sampler, 2)
    assert sampler.suggest("one too many") is None
    sampler.follow([FakeTrial("id0", ended=True), FakeTrial("id1")])
    assert sampler.suggest("now there is room") is not None


def test_a_stopped_trial_is_pruned_with_its_values_by_examples_and_a_complete_one_complete(tmp_path: Path) -> None:
    sampler = new_sampler(file=tmp_path / "optuna.db")
    propose_many(sampler, 6)
    sampler.on_trial_result("id0", result(0.3, 100, False))
    sampler.on_trial_complete("id0", result(0.4, 200, True))
    sampler.on_trial_result("id1", result(0.2, 100, False))
    sampler.on_trial_complete("id1", result(0.25, 200, False))
    sampler.on_trial_complete("id2", None, error=True)
    sampler.on_trial_result("id3", result(float("nan"), 100, False))
    sampler.on_trial_complete("id3", result(float("nan"), 200, True))
    sampler.on_trial_complete("id4", None)
    sampler.on_trial_complete("id5", result(float("inf"), 200, True))
    trials = stored(tmp_path / "optuna.db")
    complete, pruned, fail = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    assert [trial.state for trial in trials] == [complete, pruned, fail, fail, fail, fail]
    assert trials[0].value == 0.4
    assert trials[1].intermediate_values == {100: 0.2, 200: 0.25}
    assert trials[3].intermediate_values == {}


def test_an_evaluation_repeated_after_a_restart_and_an_end_told_twice_do_no_harm(tmp_path: Path) -> None:
    sampler = new_sampler(file=tmp_path / "optuna.db")
    propose(sampler, "id0")
    for _ in range(2):
        sampler.on_trial_result("id0", result(0.3, 100, False))
    for _ in range(2):
        sampler.on_trial_complete("id0", result(0.4, 200, True))
    sampler.on_trial_result("id0", result(0.9, 300, True))
    assert stored(tmp_path / "optuna.db")[0].intermediate_values == {100: 0.3, 200: 0.4}


def test_results_of_a_trial_that_the_sampler_never_proposed_are_passed_over() -> None:
    sampler = new_sampler()
    before = [trial.state for trial in sampler._ot_study.get_trials()]
    sampler.on_trial_result("unknown", result(0.3, 100, False))
    sampler.on_trial_complete("unknown", result(0.3, 100, True))
    assert [trial.state for trial in sampler._ot_study.get_trials()] == before


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
    for number in range(4):
        sampler = new_sampler(small_space(), file=file)
        sampler.follow([FakeTrial(f"id{earlier}", ended=True) for earlier in range(number)])
        proposal = propose(sampler, f"id{number}")
        configs.add(proposal.config)
        sampler.on_trial_complete(f"id{number}", result(0.5, 100, True))
    assert len(configs) == 4
    assert states(file) == [TrialState.COMPLETE] * 4
    assert new_sampler(small_space(), file=file).suggest("none left") == "FINISHED"


@pytest.mark.parametrize("kind", ["tpe", "gp", "random"])
def test_the_same_seed_proposes_the_same_configurations_and_another_seed_others(kind: SamplerName) -> None:
    def proposed(seed: int) -> list[Proposal]:
        sampler = new_sampler(seed=seed, kind=kind)
        proposals = []
        for number in range(10):
            proposals.append(propose(sampler, f"id{number}"))
            run_trial(sampler, f"id{number}", proposals[-1])
        return proposals

    assert proposed(1) == proposed(1)
    assert proposed(1)[6:] != proposed(2)[6:]


def test_tpe_is_aware_of_trials_in_flight() -> None:
    def next_five(in_flight: bool) -> list[Proposal]:
        sampler = new_sampler()
        for number in range(10):
            run_trial(sampler, f"id{number}", propose(sampler, f"id{number}"))
        proposals = []
        for number in range(5):
            proposals.append(propose(sampler, f"next{number}"))
            if not in_flight:  # Optuna passes over failed trials
                sampler.on_trial_complete(f"next{number}", None, error=True)
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


def test_a_trial_that_ray_goes_on_with_keeps_its_optuna_trial_and_one_it_forgot_is_proposed_again(
    tmp_path: Path,
) -> None:
    file = tmp_path / "optuna.db"
    before = propose_many(new_sampler(file=file), 8)
    after = new_sampler(file=file)
    assert TrialState.RUNNING not in states(file)
    # Ray has five trials, the second ended without Optuna being told; it forgot the last three
    after.follow([FakeTrial("id0"), FakeTrial("id1", ended=True), *(FakeTrial(f"id{n}") for n in (2, 3, 4))])
    running, waiting = TrialState.RUNNING, TrialState.WAITING
    assert states(file) == [running, TrialState.FAIL, running, running, running, waiting, waiting, waiting]
    assert after.unfinished == 4
    again = [propose(after, f"new{number}") for number in range(3)]
    assert again == before[5:]
    assert len(stored(file)) == 8
    after.on_trial_complete("id0", result(0.4, 200, True))
    after.on_trial_complete("new0", result(0.5, 200, True))
    assert stored(file)[0].value == 0.4
    assert stored(file)[5].value == 0.5


@pytest.mark.parametrize("finished", [False, True])
def test_no_trial_is_running_after_the_end_and_an_interrupted_one_waits(finished: bool, tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    sampler = new_sampler(file=file)
    propose_many(sampler, 7)
    sampler.on_trial_complete("id0", result(0.4, 200, True))
    sampler.end(finished)
    left = TrialState.FAIL if finished else TrialState.WAITING
    assert states(file) == [TrialState.COMPLETE, *[left] * 6]


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
    """What outlives a killed search of 12 trials, one at a time: the study, and the trials that Ray has saved."""

    def __init__(self, storage: BaseStorage, kind: SamplerName) -> None:
        self.storage, self.kind = storage, kind
        self.proposals: dict[str, Proposal] = {}
        self.ended: set[str] = set()
        self.starts = 0

    def run_search(self) -> None:
        self.starts += 1
        sampler = new_sampler(Space(seeds=OWN), concurrent=1, seed=3, kind=self.kind, storage=self.storage)
        self._follow(sampler)
        for trial_id in [trial_id for trial_id in self.proposals if trial_id not in self.ended]:
            self._run(sampler, trial_id)
        while len(self.proposals) < 12:
            self._follow(sampler)
            trial_id = f"id{len(self.proposals)} of start {self.starts}"
            self.proposals[trial_id] = propose(sampler, trial_id)
            self._run(sampler, trial_id)

    def _follow(self, sampler: PresetsThenOptuna) -> None:
        sampler.follow([FakeTrial(trial_id, trial_id in self.ended) for trial_id in self.proposals])

    def _run(self, sampler: PresetsThenOptuna, trial_id: str) -> None:
        run_trial(sampler, trial_id, self.proposals[trial_id])
        self.ended.add(trial_id)

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
            with contextlib.suppress(KilledError):
                self.run_search()

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
        if len(killed.ended) == 12:
            break
        killed.run_search()
        assert killed.result() == unbroken.result(), f"killed before write {number}"
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


def test_the_number_of_trials_is_counted_by_those_that_ray_has() -> None:
    sampler = new_sampler()
    proposals = Proposals(sampler, max_trials=3)
    assert not proposals.is_finished()
    # Ray's own count, saved before the trials, says 3 although the third was lost
    proposals.set_state({"counter": 3, "total_samples": 3, "finished": False, "experiment": None})
    sampler.follow([FakeTrial("id0", ended=True), FakeTrial("id1", ended=True)])
    assert not proposals.is_finished()
    propose(sampler, "id2")
    assert proposals.is_finished()
