"""A search with a toy in place of training.

python toy_search.py RESULTS MAX_TRIALS PAUSE [FAILING [WISHES]]

FAILING is NAME or NAME=WAY,NAME=WAY...: a trial's name or "all", and error, memory, diverged, nan or kill (once, after
two evaluations). WISHES is JSON: more of the command line's; with gpus_per_trial there are two GPUs that Ray only
believes in. What a trial reaches follows from its configuration alone, so that two runs can be compared. Each
evaluation that is done is a line of RESULTS/toy/evaluations.txt: the trial's name and the step. TOY_BYTES in the
environment is the size of an adapter; a restart state has three times as many; TOY_NOTES is where the lines go instead.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa.config import Task
from medqa.errors import MedQAError
from medqa.questions import Question, QuestionSet
from tune import console
from tune.settings import SearchSettings

if TYPE_CHECKING:
    from tune.cluster import Share
    from tune.mirror import Mirror

Toy = Callable[[dict[str, Any]], None]
QUESTION = Question("q", "Which?", {"A": "a", "B": "b", "C": "c", "D": "d"}, "A")
QUESTIONS = QuestionSet(train=(QUESTION,) * 1000, validation=(QUESTION,) * 300, fingerprint="toy")


def make_toy(pause: float, ways: dict[str, str], folder: Path, size: int) -> Toy:
    # a nested function travels to the workers by value: they cannot import this file
    def toy(ray_config: dict[str, Any]) -> None:
        import json
        import math
        import os
        import shutil
        import signal
        import time

        from medqa import record
        from medqa.errors import DivergedError, GpuMemoryError
        from tune.failures import last_words
        from tune.kept import kept_of
        from tune.proposal import proposal_of
        from tune.trainable import keep_and_report

        def fail(step: int) -> None:
            if way == "memory":
                raise GpuMemoryError("out of GPU memory with one example at a time")
            if way == "diverged":
                raise DivergedError("diverged at step 3: the training loss is nan")
            if way == "error":
                raise RuntimeError("the toy broke")
            if step >= 2 * config.eval_every_steps and (folder / "starts.txt").read_text().count(proposal.name) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        def write_line(name: str, step: int) -> None:
            with (folder / name).open("a") as file:
                file.write(f"{proposal.name} {step}\n")

        def save_adapter(folder: Path) -> None:
            folder.mkdir()
            (folder / "adapter_config.json").write_text(json.dumps({"process": os.getpid()}))
            (folder / "adapter_model.safetensors").write_bytes(os.urandom(size))

        def save(run_dir: Path, step: int) -> None:
            record.replace_folder(run_dir / "adapter", save_adapter)
            shutil.rmtree(run_dir / "state", ignore_errors=True)
            if step < total:
                (run_dir / "state" / f"checkpoint-{step}").mkdir(parents=True)
                (run_dir / "state" / f"checkpoint-{step}" / "optimizer.pt").write_bytes(os.urandom(3 * size))

        def train(run_dir: Path) -> None:
            log = run_dir / "training_log.json"
            rows = json.loads(log.read_text()) if log.exists() else []
            step, best = (rows[-1]["step"], rows[-1]["compared_accuracy"]) if rows else (0, 0.0)
            if way:
                write_line("starts.txt", step)
            if rows:
                keep_and_report(rows[-1], run_dir, kept)
            (run_dir / "config.json").write_text("{}")
            while step < total:
                if way:
                    fail(step)
                time.sleep(pause)
                step = min(total, step + config.eval_every_steps)
                write_line("evaluations.txt", step)
                examples = min(step * config.effective_batch_size, int(1000 * config.num_train_epochs))
                wobble = 0.01 * math.sin(config.seed - 42)
                top = 0.8 - 0.1 * abs(math.log10(config.learning_rate / 1e-3)) + wobble
                accuracy = top * (1 - math.exp(-examples / 800))
                best = max(best, accuracy)
                # on all questions, at its end, a trial has a little less than on the sample
                own, asked = (best - 0.01, 1000) if step >= total else (best, 300)
                row = {
                    "step": step,
                    "total_steps": total,
                    "examples": examples,
                    "epoch": examples / 1000,
                    "questions": 300,
                    "accuracy": math.nan if way == "nan" and step >= 2 * config.eval_every_steps else accuracy,
                    "answer_nll": 1 - accuracy,
                    "lm_loss": 1.0,
                    "train_loss": 1.0,
                    "learning_rate": config.learning_rate,
                    "best_step": step,
                    "compared_accuracy": best,
                    "compared_answer_nll": 1 - best,
                    "best_accuracy": own,
                    "best_answer_nll": 1 - own,
                    "best_questions": asked,
                    "seconds": step / 10,
                    "peak_gib": 0.0,
                    "finished": step >= total,
                    "stop_reason": "completed" if step >= total else "",
                }
                save(run_dir, step)
                log.write_text(json.dumps([*rows, row]))
                rows.append(row)
                keep_and_report(row, run_dir, kept)

        proposal, kept = proposal_of(ray_config), kept_of(ray_config)
        config = proposal.config
        total = math.ceil(1000 * config.num_train_epochs / config.effective_batch_size)
        way = ways.get(proposal.name, ways.get("all", ""))
        with last_words(), kept.working_copy() as run_dir:
            train(run_dir)

    return toy


def main(results: str, max_trials: int, pause: float, failing: str = "", more: str = "{}") -> None:
    console.quiet_ray()
    from medqa.locks import alone
    from tune import screen, settings
    from tune.failures import disk_watch
    from tune.fetching import find_kept
    from tune.mirror import mirrored
    from tune.wishes import Wishes

    # tests read what is printed: a slow machine shall add no line
    screen.LINE_EVERY_SECONDS = 1e9
    folder = settings.folder_of(results, "toy")
    wishes = Wishes(demo=True, results=results, max_trials=max_trials, **json.loads(more))
    parts = (part.partition("=") for part in failing.split(",") if part)
    size = int(os.environ.get("TOY_BYTES", "1000"))
    notes = Path(os.environ.get("TOY_NOTES", folder))
    toy = make_toy(pause, {name: way or "error" for name, _, way in parts}, notes, size)
    try:
        search_settings = settings.resolve(wishes, Task(), folder, find_kept(results, "toy"))
        settings.make_folder(folder)
        place = settings.address_of(results, "toy")
        with alone(folder), disk_watch(folder), mirrored(place, folder) as mirror:
            settings.keep(search_settings, folder)
            search(search_settings, folder, mirror, toy)
    except MedQAError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def search(
    settings: SearchSettings, folder: Path, mirror: Mirror | None, toy: Callable[[dict[str, Any]], None]
) -> None:
    from tune.confirmation import left_to_confirm, run_confirmation, trials_left
    from tune.driver import open_search, run_search, settle_search

    job = open_search(settings, folder, mirror)
    if job.is_finished and not left_to_confirm(job):
        print("nothing to run")
        settle_search(job)
        return
    if job.budget.used_up:
        print(f"nothing is run: {console.why_ended(job.budget, trials_left(job))}")
        return
    share = connect(settings)
    finished = job.is_finished or run_search(job, QUESTIONS, share, toy)
    finished = finished and run_confirmation(job, QUESTIONS, share, toy)
    why = console.why_ended(job.budget, trials_left(job))
    print("finished" if finished else f"unfinished: {why}" if why else "unfinished")


def connect(settings: SearchSettings) -> Share:
    import ray

    from tune import cluster

    gpus = settings.gpus_per_trial or 0
    if gpus:
        ray.init(num_gpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    return cluster.share_of(cluster.connect(), gpus_per_trial=gpus, concurrent=settings.concurrent or 2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
