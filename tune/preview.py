"""`search.py --dry-run`: what a search would try, take and cost, told without a GPU and before anything is written."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from medqa.config import DEMO, TrialConfig
from medqa.errors import MedQAError
from medqa.least_memory import least_bytes
from medqa.model_files import check_model
from medqa.questions import QuestionSet
from medqa.record import read_json
from medqa.selection import NEW_SEEDS
from tune import disk
from tune.settings import SearchSettings
from tune.space import Parameter

MEASURED_ON = "NVIDIA H200"
EXAMPLES_PER_SECOND = 62.8
"""Training with the presets, at Mistral-7B's shape and MedQA's lengths; tests/benchmarks/results/gpu_trial.json."""
QUESTIONS_PER_SECOND = 166.2
"""Scoring with an adapter, there."""
SECONDS_BETWEEN_TRIALS = 0.9
"""From a trial's last step to the next one's first, the longest there."""
FIRST_RUNG = 1 / 8
"""Share of its course at which ASHA first stops a trial."""
_DRAWS = 500
_SEED = 0
_GIB = 2**30


def preview(settings: SearchSettings, questions: QuestionSet, place: str) -> str:
    """Return what is searched and what it takes, as lines for a person.

    Args:
        settings: The search.
        questions: What it trains and evaluates on.
        place: Folder or address of the search.
    """
    points = settings.space.seed_points()
    return "\n".join(
        [
            "",
            f"{settings.max_trials} trials: {len(points)} seed points, then what the sampler draws.",
            *(f"  {name}: {_words(settings.space.to_config(point))}" for name, point in points.items()),
            "",
            "The space:",
            *(f"  {parameter.name}: {parameter.values}" for parameter in settings.space.parameters()),
            "",
            *_time(settings, questions),
            _memory(settings),
            _disk(settings, questions),
            f"Written to {place}; MLflow: {settings.tracking_uri}.",
            "Nothing was written and nothing started: the same command without --dry-run does.",
        ]
    )


def _words(config: TrialConfig) -> str:
    return (
        f"rank {config.lora_rank}, learning rate {config.learning_rate:g}, {config.num_train_epochs:g} epochs, "
        f"batch {config.effective_batch_size}, dropout {config.lora_dropout:g}"
        + (f", extra share {config.extra_share:g}" if config.extra_share else "")
    )


def _time(settings: SearchSettings, questions: QuestionSet) -> list[str]:
    """Return GPU-hours from the fewest to the most, and their price."""
    if settings.task.model == DEMO:
        return ["The demo needs no GPU: minutes on a processor."]
    seeds = [settings.space.to_config(point) for point in settings.space.seed_points().values()]
    drawn = draws(settings)
    begun = seeds[: settings.max_trials]
    more = settings.max_trials - len(begun)
    full = [hours(config, settings, questions) for config in begun]
    mean = sum(hours(config, settings, questions) for config in drawn) / len(drawn)
    confirmed = settings.confirm * NEW_SEEDS * mean
    low, high = sum(full) + more * mean * FIRST_RUNG + confirmed, sum(full) + more * mean + confirmed
    line = (
        f"GPU-hours on one {MEASURED_ON}: {low:.1f}, if ASHA stops every drawn trial at its first rung, to {high:.1f}, "
        "if it stops none; early stopping makes both less."
    )
    price = settings.gpu_hour_price
    cost = [] if price is None else [f"At {price:g} an hour: {low * price:.2f} to {high * price:.2f}."]
    other = (
        "Measured at Mistral-7B's shape and MedQA's lengths; another GPU, model or text has its own speed, "
        "and the search keeps to --max-gpu-hours and --max-cost by what it measures itself."
    )
    return [line, *cost, other]


def hours(config: TrialConfig, settings: SearchSettings, questions: QuestionSet) -> float:
    """Return the GPU-hours of a trial that goes to the end of its course, on the GPU that was measured."""
    examples = config.num_train_epochs * len(questions.train) * (1 + config.extra_share)
    asked = min(settings.eval_questions, len(questions.validation))
    evaluations = examples / (config.eval_every_steps * config.effective_batch_size)
    scored = evaluations * asked + len(questions.validation) - asked  # the end scores those that no evaluation has
    seconds = examples / EXAMPLES_PER_SECOND + scored / QUESTIONS_PER_SECOND + SECONDS_BETWEEN_TRIALS
    return seconds / 3600


def draws(settings: SearchSettings) -> Sequence[TrialConfig]:
    """Return configurations drawn evenly from the space."""
    source = random.Random(_SEED)
    parameters = settings.space.parameters()
    return [
        settings.space.to_config({parameter.name: _draw(parameter, source) for parameter in parameters})
        for _ in range(_DRAWS)
    ]


def _draw(parameter: Parameter, source: random.Random) -> object:
    if parameter.choices:
        return parameter.encode(source.choice(parameter.choices))
    return parameter.low * (parameter.high / parameter.low) ** source.random()


def _memory(settings: SearchSettings) -> str:
    try:
        form = read_json(check_model(settings.task))
        least = least_bytes(form, disk.widest_config(settings)) / _GIB
    except (MedQAError, AttributeError, KeyError) as error:
        return f"GPU memory: cannot be told ({error})."
    widest = f"GPU memory: at least {least:.1f} GiB free for the widest point of the space"
    return f"{widest}; more is used to be faster."


def _disk(settings: SearchSettings, questions: QuestionSet) -> str:
    under_way = settings.concurrent or 1
    try:
        most = disk.bound(settings, Path(check_model(settings.task)), under_way, len(questions.validation))
    except (MedQAError, KeyError) as error:
        return f"Disk: cannot be told ({error})."
    return disk.sum_words(most)
