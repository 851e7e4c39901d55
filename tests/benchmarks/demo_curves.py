"""Trains LoRA configurations of the demo to the end of their course and keeps every learning curve.

python tests/benchmarks/demo_curves.py --trials 420 --workers 16     # goes on where it was ended

Writes demo_curves.jsonl beside itself, one trial a line; demo_curves.md describes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from medqa.config import Task, TrialConfig
from medqa.demo import LEARNING_RATE_FACTOR
from medqa.errors import DivergedError
from medqa.evaluations import Evaluation
from tune.space import TABLE, Space

FILE = Path(__file__).with_name("demo_curves.jsonl")
EVAL_EVERY_EXAMPLES = 128
"""Half of what a search of the demo takes, so that a search with rarer evaluations can be replayed too."""
SEEDS = (42, 43, 44)
REPEATED = 30
"""Configurations with all three seeds, the presets among them; the others have the first seed."""
SEARCHED = tuple(parameter.field for parameter in TABLE)
"""Fields of TrialConfig that differ between trials; all others have their defaults, but for patience."""
_DRAW_SEED = 2026
_NEVER = 10_000
"""Evaluations of patience: every course is seen to its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One trial of the table."""

    number: int
    """Place of its configuration: presets first, then in order of drawing."""
    preset: str
    """The preset's name, or ""."""
    config: TrialConfig

    @property
    def key(self) -> tuple[int, int]:
        """What no two trials of the table share."""
        return self.number, self.config.seed


def jobs(configurations: int) -> list[Job]:
    """Return the trials of a table: presets, then uniform draws from the search space; repeats with other seeds."""
    space = Space(
        fixed={"patience": _NEVER, "seed": SEEDS[0]},
        learning_rate_factor=LEARNING_RATE_FACTOR,
        eval_every_examples=EVAL_EVERY_EXAMPLES,
    )
    points = list(space.seed_points().items())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=_DRAW_SEED))
    while len(points) < configurations:
        points.append(("", study.ask(fixed_distributions=space.distributions()).params))
    first = [Job(number=n, preset=name, config=space.to_config(p)) for n, (name, p) in enumerate(points)]
    again = [
        dataclasses.replace(job, config=dataclasses.replace(job.config, seed=seed))
        for job in first[:REPEATED]
        for seed in SEEDS[1:]
    ]
    return first[:REPEATED] + again + first[REPEATED:]


def train_one(job: Job) -> dict[str, Any]:
    """Train one trial; return its row of the table."""
    import torch

    from medqa.training import train

    torch.set_num_threads(1)
    curve: list[Evaluation] = []
    began, ended = time.perf_counter(), "completed"
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(job.config, Task(), Path(folder), f"{job.number}", curve.append)
        except DivergedError as error:
            ended = f"diverged: {error}"
    return {
        "number": job.number,
        "preset": job.preset,
        "seed": job.config.seed,
        "config": {name: getattr(job.config, name) for name in SEARCHED},
        "ended": ended,
        "seconds": round(time.perf_counter() - began, 1),
        "curve": [_point(evaluation) for evaluation in curve],
    }


def _point(evaluation: Evaluation) -> list[float]:
    """Return examples, accuracy, answer NLL, LM loss and training loss."""
    values = (evaluation.accuracy, evaluation.answer_nll, evaluation.lm_loss, evaluation.train_loss)
    return [evaluation.examples, *(round(value, 4) for value in values)]


def read_rows(file: Path = FILE) -> list[dict[str, Any]]:
    """Return the table's rows in the order of the file; none where there is no file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def run(wanted: list[Job], workers: int, file: Path) -> Iterator[dict[str, Any]]:
    """Train what the file lacks, side by side; each row is in the file when it is yielded."""
    done = {(row["number"], row["seed"]) for row in read_rows(file)}
    left = [job for job in wanted if job.key not in done]
    context = multiprocessing.get_context("spawn")  # forked workers could not use a GPU
    begun = context.Value("i", 0)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_choose_gpu, initargs=(begun,)) as pool:
        for future in as_completed([pool.submit(train_one, job) for job in left]):
            row = future.result()
            with file.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps(row, separators=(",", ":")) + "\n")
            yield row


def _choose_gpu(begun: Any) -> None:
    """Spread the workers over the GPUs, where there are any."""
    import torch

    with begun.get_lock():
        begun.value += 1
    if gpus := torch.cuda.device_count():
        os.environ["CUDA_VISIBLE_DEVICES"] = str(begun.value % gpus)


def main() -> int:
    """Parse, train, put the rows in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=420, help="configurations, the six presets among them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--file", type=Path, default=FILE)
    arguments = parser.parse_args()
    wanted = jobs(arguments.trials)
    began = time.monotonic()
    for count, row in enumerate(run(wanted, arguments.workers, arguments.file), start=1):
        best = max((point[1] for point in row["curve"]), default=float("nan"))
        print(
            f"{count} {time.monotonic() - began:.0f} s: number {row['number']} seed {row['seed']} best {best:.3f} "
            f"{row['ended']} in {row['seconds']} s",
            flush=True,
        )
    rows = sorted(read_rows(arguments.file), key=lambda row: (row["number"], row["seed"]))
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    arguments.file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
