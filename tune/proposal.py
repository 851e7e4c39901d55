"""What the search asks one trial to run, and its form in a Ray trial's configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medqa.config import Task, TrialConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A named configuration."""

    name: str
    """The seed point's name, or trial_007 for the seventh trial."""
    seed_point: str
    """The seed point's name; "" for a configuration that the sampler proposed."""
    config: TrialConfig
    confirms: str = ""
    """Name of the trial whose configuration it repeats with a new seed; "" for a trial of the search itself."""

    def to_ray(self) -> dict[str, Any]:
        """Return the proposal as part of a Ray trial's configuration."""
        return dataclasses.asdict(self)


def proposal_of(ray_config: Mapping[str, Any]) -> Proposal:
    """Read the proposal from a Ray trial's configuration."""
    return Proposal(
        name=ray_config["name"],
        seed_point=ray_config["seed_point"],
        config=TrialConfig(**ray_config["config"]),
        confirms=ray_config.get("confirms", ""),
    )


def task_of(ray_config: Mapping[str, Any]) -> Task:
    """Read the task from a Ray trial's configuration."""
    return Task(**ray_config["task"])
