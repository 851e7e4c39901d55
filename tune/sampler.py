"""Ray Tune's OptunaSearch, with the seed points first and Optuna told what became of each trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.experiment import Trial
from ray.tune.search import SearchGenerator
from ray.tune.search.optuna import OptunaSearch

from medqa.config import TrialConfig
from tune.proposal import Proposal
from tune.space import Space
from tune.study import CONFIG, NAME, RAY_TRIAL, SEED_POINT, Rule, SamplerName, draw, fail_running, put_back


class PresetsThenOptuna(OptunaSearch):
    """Proposes the seed points, the six presets first of all, then what Optuna's sampler finds most promising.

    Ray's own class tells Optuna that a trial which ASHA stopped is complete, with its low-budget value, and counts
    steps in reports. Here a stopped trial is PRUNED and its values are tagged with the examples it had seen, so TPE
    ranks it below what lasted longer. A configuration that was proposed before is drawn again.

    All state is in the study's storage, so that a search which goes on after a kill finds it as it was: seed points
    are put in once, a trial with which Ray goes on keeps its Optuna trial, one that Ray forgot is proposed again.

    Args:
        space: The space searched, with its seed points.
        metric: Key of a result by which trials are compared.
        mode: "max" or "min".
        kind: Which of Optuna's samplers draws.
        seed: Seed of the sampler.
        concurrent: Most trials that may be unfinished at a time.
        storage: Where the study is kept.
        study_name: The study's name in it.
        reserve: Told the name and configuration of the next trial; returns whether the budget pays for it.
    """

    def __init__(
        self,
        space: Space,
        *,
        metric: str,
        mode: str,
        kind: SamplerName,
        seed: int,
        concurrent: int,
        storage: BaseStorage,
        study_name: str,
        reserve: Callable[[str, TrialConfig], bool] = lambda name, config: True,
    ) -> None:
        seeds = space.seed_points()
        super().__init__(space=space.distributions(), metric=metric, mode=mode, storage=storage, study_name=study_name)
        self._rule = Rule(kind=kind, seed=seed, startup_trials=max(1, len(seeds)))
        put_back(storage)
        known = {trial.user_attrs.get(SEED_POINT) for trial in self._ot_study.get_trials(deepcopy=False)}
        for name, point in seeds.items():
            if name not in known:
                self._ot_study.enqueue_trial(point, user_attrs={SEED_POINT: name})
        self.space_searched = space
        self.concurrent = concurrent
        self.reserve = reserve
        self._unpaid: FrozenTrial | None = None
        self.trials_in_ray: int | None = None
        """Trials that Ray has, ended ones too; None until Ray has shown them."""
        self.unfinished = 0
        """Trials now waiting or running in Ray."""
        self.is_exhausted = False
        """Whether no new configuration was found in many draws: the space is as good as used up."""

    def follow(self, trials: Sequence[Trial]) -> None:
        """Learn which trials Ray has; call before each round of proposals.

        At the first call, trials of an earlier run are given their Optuna trials back. One that has ended in Ray
        without Optuna being told is told FAIL.
        """
        if self.trials_in_ray is None:
            self._adopt({trial.trial_id: trial.is_finished() for trial in trials})
        self.trials_in_ray = len(trials)
        self.unfinished = sum(not trial.is_finished() for trial in trials)

    def _adopt(self, ended: dict[str, bool]) -> None:
        for trial in self._ot_study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            ray_id = trial.user_attrs.get(RAY_TRIAL)
            if ray_id not in ended:
                continue
            state = TrialState.FAIL if ended[ray_id] else TrialState.RUNNING
            self._storage.set_trial_state_values(trial._trial_id, state=state)
            if not ended[ray_id]:
                self._ot_trials[ray_id] = trial

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next proposal; None while enough trials run or the budget waits for those that do.

        FINISHED when nothing new is found, or when the budget does not pay for the next and nothing is under way.
        """
        if self.unfinished >= self.concurrent:
            return None
        if self._unpaid and not self._is_paid(self._unpaid):  # asked again and again: the study is left alone
            return self._unpaid_words()
        trial = self._next_waiting() or self._draw()
        if trial is None:
            self.is_exhausted = True
            return str(self.FINISHED)
        self._unpaid = None if self._is_paid(trial) else trial
        if self._unpaid:
            self._storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
            return self._unpaid_words()
        return self._propose(trial_id, trial)

    def _is_paid(self, trial: FrozenTrial) -> bool:
        return self.reserve(_name(trial), self.space_searched.to_config(trial.params))

    def _unpaid_words(self) -> str | None:
        return None if self.unfinished else str(self.FINISHED)

    def _next_waiting(self) -> FrozenTrial | None:
        """Start the first trial that waits: a seed point, or one that a kill made Ray forget."""
        if not self._ot_study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return None
        # what waits has its parameters, given or drawn: none is sampled here
        trial = self._ot_study.ask(self._space)
        return self._ot_study.get_trials(deepcopy=False)[trial.number]

    def _draw(self) -> FrozenTrial | None:
        """Start a trial that is drawn; None when nothing new is found."""
        tried = set(self._proposed().values())
        params = draw(
            self._ot_study, self._space, self._rule, lambda point: self.space_searched.to_config(point) not in tried
        )
        if params is None:
            return None
        # one write, so that a kill leaves the whole trial or none of it
        self._ot_study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=self._space))
        return self._ot_study.get_trials(deepcopy=False)[-1]

    def _proposed(self) -> dict[str, TrialConfig]:
        """Return name to configuration of every trial proposed so far."""
        trials = [trial for trial in self._ot_study.get_trials(deepcopy=False) if NAME in trial.user_attrs]
        return {trial.user_attrs[NAME]: self.space_searched.to_config(trial.params) for trial in trials}

    def _propose(self, trial_id: str, trial: FrozenTrial) -> dict[str, Any]:
        seed_point, name = trial.user_attrs.get(SEED_POINT, ""), _name(trial)
        proposal = Proposal(name=name, seed_point=seed_point, config=self.space_searched.to_config(trial.params))
        in_ray = proposal.to_ray()
        for key, value in ((RAY_TRIAL, trial_id), (CONFIG, in_ray["config"]), (NAME, name)):
            self._storage.set_trial_user_attr(trial._trial_id, key, value)
        self._ot_trials[trial_id] = trial
        self.unfinished += 1
        self.trials_in_ray = (self.trials_in_ray or 0) + 1
        return in_ray

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report a value under the number of examples seen."""
        if trial_id in self._ot_trials and math.isfinite(result[self.metric]):
            self._report(self._ot_trials[trial_id], result)

    def _report(self, trial: FrozenTrial, result: dict[str, Any]) -> None:
        # a trial that goes on from its checkpoint may repeat an evaluation: the later one is kept
        self._storage.set_trial_intermediate_value(trial._trial_id, result["examples"], float(result[self.metric]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna COMPLETE, PRUNED or FAIL, whichever it was."""
        trial = self._ot_trials.pop(trial_id, None)
        if trial is None:  # told before a kill, or never proposed here
            return
        if error or not result or not math.isfinite(result.get(self.metric, math.nan)):
            self._ot_study.tell(trial.number, state=TrialState.FAIL)
            return
        # Ray keeps the report at which a trial is stopped from on_trial_result
        self._report(trial, result)
        if result["finished"]:
            self._ot_study.tell(trial.number, result[self.metric])
        else:
            self._ot_study.tell(trial.number, state=TrialState.PRUNED)

    def end(self, finished: bool) -> None:
        """Leave no Optuna trial RUNNING: it waits for the search to go on, or is told FAIL where that has finished."""
        if finished:
            fail_running(self._storage)
        else:
            put_back(self._storage)

    def save(self, checkpoint_path: str) -> None:
        """Leave Ray the file it asks for; what there is to save is in the study's storage."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study was opened with all that an earlier run left."""


def _name(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get(SEED_POINT) or f"trial_{trial.number + 1:03d}")


class Proposals(SearchGenerator):
    """Ray's SearchGenerator, whose number of trials may grow when a search goes on."""

    def __init__(self, searcher: PresetsThenOptuna, max_trials: int) -> None:
        super().__init__(searcher)
        self.max_trials = max_trials

    def is_finished(self) -> bool:
        """Whether no more is to be proposed.

        Ray saves its own count of proposals before the trials themselves, so that a kill in between loses one: here
        the trials are counted that Ray has.
        """
        count = self.searcher.trials_in_ray
        return count is not None and (self._finished or count >= self.max_trials)

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore Ray's state; how many trials there shall be is this run's."""
        super().set_state({**state, "total_samples": self.max_trials, "finished": False})
