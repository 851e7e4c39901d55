"""A search with a toy in place of training: python toy_search.py RESULTS MAX_TRIALS PAUSE [FAILING [WISHES]].

From the environment: TOY_BYTES, of an adapter; a restart state has three times as many.

FAILING is NAME or NAME=WAY,NAME=WAY...: a trial's name or "all", and error, memory, diverged or kill (once, after two
evaluations). WISHES is JSON: more of the command line's; with gpus_per_trial there are two GPUs that Ray only
believes in. What a trial reaches follows from its configuration alone, so that two runs can be compared.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medqa.config import Task
from medqa.errors import MedQAError
from medqa.questions import Question, QuestionSet
from tune import console

QUESTION = Question("q", "Which?", {"A": "a", "B": "b", "C": "c", "D": "d"}, "A")
QUESTIONS = QuestionSet(train=(QUESTION,) * 1000, validation=(QUESTION,) * 300, fingerprint="toy")


def make_toy(pause: float, ways: dict[str, str], starts: Path, size: int = 1000) -> Callable[[dict[str, Any]], None]:
    # a nested function travels to the workers by value: they cannot import this file
    def toy(ray_config: dict[str, Any]) -> None:
        import json
        import math
        import os
        import shutil
        import signal
        import time

        from ray.tune import Checkpoint, get_checkpoint, report

        from medqa.errors import DivergedError, GpuMemoryError
        from tune.failures import last_words
        from tune.proposal import proposal_of
        from tune.run_folder import run_folder

        def save(step: int, finished: bool) -> None:
            (folder / "adapter" / "adapter_model.safetensors").write_bytes(os.urandom(size))
            for old in (folder / "state").glob("checkpoint-*"):
                shutil.rmtree(old)
            if not finished:
                (folder / "state" / f"checkpoint-{step}").mkdir(parents=True)
                (folder / "state" / f"checkpoint-{step}" / "optimizer.pt").write_bytes(os.urandom(3 * size))

        def fail(step: int) -> None:
            if way == "memory":
                raise GpuMemoryError("out of GPU memory with one example at a time")
            if way == "diverged":
                raise DivergedError("diverged at step 3: the training loss is nan")
            if way == "error":
                raise RuntimeError("the toy broke")
            if step >= 2 * config.eval_every_steps and starts.read_text().count(proposal.name) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        proposal = proposal_of(ray_config)
        config = proposal.config
        total = math.ceil(1000 * config.num_train_epochs / config.effective_batch_size)
        step, best, checkpoint = 0, 0.0, get_checkpoint()
        if checkpoint:
            with checkpoint.as_directory() as kept:
                step, best = json.loads((Path(kept) / "state.json").read_text())
        way = ways.get(proposal.name, ways.get("all", ""))
        if way:
            with starts.open("a") as file:
                file.write(f"{proposal.name} {step}\n")
        with last_words(), run_folder(ray_config["search"], proposal.name) as folder:
            (folder / "adapter").mkdir()
            (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"process": os.getpid()}))
            (folder / "config.json").write_text("{}")
            while step < total:
                if way:
                    fail(step)
                time.sleep(pause)
                step = min(total, step + config.eval_every_steps)
                examples = min(step * config.effective_batch_size, int(1000 * config.num_train_epochs))
                wobble = 0.01 * math.sin(config.seed - 42)
                top = 0.8 - 0.1 * abs(math.log10(config.learning_rate / 1e-3)) + wobble
                accuracy = top * (1 - math.exp(-examples / 800))
                best = max(best, accuracy)
                row = {
                    "step": step,
                    "total_steps": total,
                    "examples": examples,
                    "epoch": examples / 1000,
                    "accuracy": accuracy,
                    "answer_nll": 1 - accuracy,
                    "lm_loss": 1.0,
                    "train_loss": 1.0,
                    "learning_rate": config.learning_rate,
                    "best_accuracy": best,
                    "best_answer_nll": 1 - best,
                    "best_step": step,
                    "seconds": step / 10,
                    "peak_gib": 0.0,
                    "finished": step >= total,
                    "stop_reason": "completed" if step >= total else "",
                }
                save(step, row["finished"])
                (folder / "state.json").write_text(json.dumps([step, best]))
                (folder / "training_log.json").write_text(json.dumps([row]))
                report(row, checkpoint=Checkpoint.from_directory(str(folder)))

    return toy


def main(results: Path, max_trials: int, pause: float, failing: str = "", more: str = "{}") -> None:
    console.quiet_ray()
    import json

    import ray

    from tune import cluster, settings
    from tune.confirmation import left_to_confirm, run_confirmation
    from tune.driver import open_search, run_search, settle_search
    from tune.wishes import Wishes

    folder = settings.folder_of(results, "toy")
    wishes = Wishes(demo=True, results=results, max_trials=max_trials, **json.loads(more))
    search_settings = settings.resolve(wishes, Task(), folder, settings.kept_settings(folder))
    settings.keep(search_settings, folder)
    job = open_search(search_settings, folder)
    if job.is_finished and not left_to_confirm(job):
        print("nothing to run")
        settle_search(job)
        return
    if job.budget.used_up:
        print(f"nothing is run: {console.why_ended(job.budget, len(job.outcomes))}")
        return
    gpus = search_settings.gpus_per_trial or 0
    if gpus:
        ray.init(num_gpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    share = cluster.share_of(cluster.connect(), gpus_per_trial=gpus, concurrent=search_settings.concurrent or 2)
    size = int(os.environ.get("TOY_BYTES", "1000"))
    parts = (part.partition("=") for part in failing.split(",") if part)
    toy = make_toy(pause, {name: way or "error" for name, _, way in parts}, folder / "starts.txt", size)
    try:
        finished = job.is_finished or run_search(job, QUESTIONS, share, toy)
        finished = finished and run_confirmation(job, QUESTIONS, share, toy)
        why = console.why_ended(job.budget, len(job.outcomes))
        print("finished" if finished else f"unfinished: {why}" if why else "unfinished")
    except MedQAError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
