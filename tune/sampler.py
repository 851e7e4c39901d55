"""Ray Tune's OptunaSearch, with the presets first and Optuna told what became of each trial."""

from __future__ import annotations

import math
from typing import Any

from optuna.samplers import TPESampler
from optuna.trial import TrialState
from ray.tune.search import SearchGenerator
from ray.tune.search.optuna import OptunaSearch

from medqa.config import TrialConfig
from tune.proposal import Proposal
from tune.space import Space

SEED_POINT = "seed_point"
_MOST_REDRAWS = 100


class PresetsThenOptuna(OptunaSearch):
    """Proposes the seed points, then what Optuna's TPE sampler finds most promising.

    Ray's own class tells Optuna that a trial which ASHA stopped is complete, with its low-budget value, and counts
    steps in reports. Here a stopped trial is PRUNED and its values are tagged with the examples it had seen, so TPE
    ranks it below what lasted longer. A configuration that was proposed before is drawn again.

    Args:
        space: The space searched.
        metric: Key of a result by which trials are compared.
        mode: "max" or "min".
        seed: Seed of the sampler.
        concurrent: Most trials that may be unfinished at a time.
    """

    def __init__(self, space: Space, *, metric: str, mode: str, seed: int, concurrent: int) -> None:
        seeds = space.seed_points()
        sampler = TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=max(1, len(seeds)))
        super().__init__(space=space.distributions(), metric=metric, mode=mode, sampler=sampler)
        for name, point in seeds.items():
            self._ot_study.enqueue_trial(point, user_attrs={SEED_POINT: name})
        self.space_searched = space
        self.proposed: list[TrialConfig] = []
        """Every configuration proposed so far, in order."""
        self.concurrent = concurrent
        self.unfinished = 0
        """Trials now waiting or running; the search's events keep it true."""
        self.is_exhausted = False
        """Whether no new configuration was found in many draws: the space is as good as used up."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next proposal; None while enough trials run, FINISHED when nothing new is found."""
        if self.unfinished >= self.concurrent:
            return None
        for _ in range(_MOST_REDRAWS):
            trial = self._ot_study.ask(fixed_distributions=self._space)
            config = self.space_searched.to_config(trial.params)
            if config not in self.proposed:
                self._ot_trials[trial_id] = trial
                return self._propose(trial.user_attrs.get(SEED_POINT, ""), config)
            self._ot_study.tell(trial, state=TrialState.FAIL)
        self.is_exhausted = True
        return str(self.FINISHED)

    def _propose(self, seed_point: str, config: TrialConfig) -> dict[str, Any]:
        self.proposed.append(config)
        self.unfinished += 1
        name = seed_point or f"trial_{len(self.proposed):03d}"
        return Proposal(name=name, seed_point=seed_point, config=config).to_ray()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report a value under the number of examples seen."""
        if trial_id in self._ot_trials and math.isfinite(result[self.metric]):
            self._ot_trials[trial_id].report(result[self.metric], step=result["examples"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna COMPLETE, PRUNED or FAIL, whichever it was."""
        trial = self._ot_trials.pop(trial_id, None)
        if trial is None:
            return
        if error or not result or not math.isfinite(result.get(self.metric, math.nan)):
            self._ot_study.tell(trial, state=TrialState.FAIL)
            return
        if result["finished"]:
            self._ot_study.tell(trial, result[self.metric])
            return
        # Ray keeps the report at which a trial is stopped from on_trial_result
        trial.report(result[self.metric], step=result["examples"])
        self._ot_study.tell(trial, state=TrialState.PRUNED)

    def restore(self, checkpoint_path: str) -> None:
        """Restore the study, the sampler's random state and what was proposed, under this run's concurrency."""
        concurrent = self.concurrent
        super().restore(checkpoint_path)
        self.concurrent, self.unfinished, self.is_exhausted = concurrent, 0, False


class Proposals(SearchGenerator):
    """Ray's SearchGenerator, whose number of trials may grow when a search goes on."""

    def __init__(self, searcher: PresetsThenOptuna, max_trials: int) -> None:
        super().__init__(searcher)
        self.max_trials = max_trials

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore how many trials there were; how many there shall be is this run's."""
        super().set_state({**state, "total_samples": self.max_trials, "finished": False})
