"""Search hyperparameters of QLoRA fine-tuning on MedQA; the same command again goes on with the same search.

python tune/search.py --demo
python tune/search.py --model mistralai/Mistral-7B-Instruct-v0.3 --data GBaker/MedQA-USMLE-4-options
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medqa.questions import QuestionSet
    from tune.driver import Search
    from tune.mirror import Mirror
    from tune.settings import SearchSettings
    from tune.wishes import Wishes

_NEEDED = ("medqa", "tune", "ray", "optuna", "mlflow", "torch", "transformers", "peft", "trl", "bitsandbytes", "rich")
_INTERRUPTED = 130
"""The exit code of a program that Ctrl-C has ended."""


def main() -> int:
    """Parse, check, run, report; return the exit code."""
    arguments = parse_arguments()
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"error: {', '.join(missing)} not installed for {sys.executable}: "
            "run `make setup`, then `.venv/bin/python tune/search.py`",
            file=sys.stderr,
        )
        return 2
    from medqa.errors import MedQAError

    try:
        if arguments.dry_run:
            return dry_run(arguments)
        return check_machines(arguments) if arguments.check else search(arguments)
    except MedQAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while trials run, `tune/interrupts.py` has it
        print("\nEnded: the same command goes on from here.", file=sys.stderr)
        return _INTERRUPTED
    finally:
        say_what_still_runs()


def say_what_still_runs() -> None:
    """Print what goes on costing money in a cluster that was joined; Ray is not loaded for it."""
    if "tune.cluster" in sys.modules:
        from tune.cluster import still_running

        if words := still_running():
            print(words, flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line; nothing heavy is imported before."""
    parser = argparse.ArgumentParser(
        prog="search.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--name", help="name of the search and of its folder in --results (default: demo, or medqa)")
    add("--demo", action="store_true", help="search on the embedded demo: no GPU and no network needed")
    add("--check", action="store_true", help="look on every machine for what would stop the search; train nothing")
    add("--dry-run", action="store_true", help="print what would be tried, and what it takes; start and write nothing")
    add("--model", metavar="ID_OR_FOLDER", help="base model: Hub id or local folder (default: Mistral-7B on GPUs)")
    add("--data", metavar="ID_OR_FOLDER", help="questions: Hub id, local folder or file (default: MedQA)")
    add("--extra-train", metavar="ID_OR_FOLDER", help="more training questions, their share searched (default: none)")
    # a cluster's nodes have these two, so that its head needs no flag
    results, uri = os.environ.get("MEDQA_RESULTS") or "results", os.environ.get("MLFLOW_TRACKING_URI") or None
    by = "(default: $MEDQA_RESULTS, else results)"
    add("--results", metavar="DIR", default=results, help=f"folder or s3://… where results go {by}")
    by = "(default: $MLFLOW_TRACKING_URI, else mlflow.db in the results folder)"
    add("--tracking-uri", metavar="URI", default=uri, help=f"MLflow store {by}")
    add(
        "--max-trials",
        metavar="N",
        type=int,
        help="trials in all (default: 12 demo, else 30, and one per --seeds)",
    )
    add("--max-hours", metavar="H", type=float, help="hours that trials may run, over all runs of this search")
    add("--max-gpu-hours", metavar="H", type=float, help="GPU-hours that trials may use, over all runs of this search")
    add("--max-cost", metavar="MONEY", type=float, help="what those GPU-hours may cost; needs --gpu-hour-price")
    add("--gpu-hour-price", metavar="MONEY", type=float, help="price of one GPU for one hour: shows what trials cost")
    add("--gpus-per-trial", metavar="G", type=float, help="default: 1 where there are GPUs, else 0")
    add("--concurrent", metavar="N", type=int, help="trials side by side (default: what the machines hold)")
    add("--keep-adapters", metavar="N", type=int, help="best trials that keep their adapter (default: 10)")
    add("--confirm", metavar="K", type=int, help="train the best K again with three new seeds each (default: 0)")
    add("--metric", choices=("accuracy", "answer_nll"), help="validation metric to improve (default: accuracy)")
    add("--seed", type=int, help="seed of sampler and training (default: 42)")
    add("--seeds", metavar="FILE", type=Path, help="your own seed points, YAML or JSON: name -> fields of TrialConfig")
    add("--prune-seeds", action="store_true", default=None, help="let ASHA stop seed points too")
    samplers = ("tpe", "multivariate_tpe", "gp", "random")
    add("--sampler", choices=samplers, help="what proposes after the seed points (default: tpe)")
    add("--set", metavar="FIELD=VALUE", action="append", default=[], help="hold a field in every trial; repeatable")
    return parser.parse_args()


def search(arguments: argparse.Namespace) -> int:
    """Run the search that the arguments describe, to its end or its limits, and print what came of it."""
    from medqa.locks import alone
    from tune import console
    from tune.failures import disk_watch
    from tune.mirror import mirrored
    from tune.settings import address_of, keep, make_folder

    console.quiet_ray()
    settings, folder = settle(read_wishes(arguments))
    settings, questions, model_config = check(settings, folder)
    make_folder(folder)
    place = address_of(arguments.results, folder.name)
    with alone(folder), disk_watch(folder), mirrored(place, folder) as mirror:
        keep(settings, folder)
        print(console.headline(settings, questions), flush=True)
        job, finished = run(settings, folder, mirror, questions, model_config)

    from tune.confirmation import trials_left
    from tune.summary import summary
    from tune.verdict import verdict

    rows, repeats = job.outcomes.rows(), job.repeats.rows()
    print(summary(rows, settings.metric))
    print(verdict(rows, repeats, settings.metric, settings.confirm))
    print("", console.used(job.budget, (*rows, *repeats)), sep="\n")
    why = console.why_ended(job.budget, trials_left(job))
    print(console.next_steps(settings, arguments.results, folder, finished, why))
    return 0 if any(row.state == "completed" for row in rows) else 1


def check_machines(arguments: argparse.Namespace) -> int:
    """Print what would stop the search that the arguments describe; return 1 where something would."""
    from tune import checks, console
    from tune.findings import table

    console.quiet_ray()
    findings = [checks.check_results(arguments.results)]
    if not findings[0].is_fault:
        settings, _ = settle(read_wishes(arguments))
        findings += checks.check_all(settings, arguments.results)
    print(table(findings), flush=True)
    return int(any(finding.is_fault for finding in findings))


def dry_run(arguments: argparse.Namespace) -> int:
    """Print what the search would try and take, without Ray; where no task is named, the one that GPUs would get."""
    from medqa.extra import load_questions
    from tune import console, settings
    from tune.preview import preview
    from tune.wishes import chosen_task, default_name, default_task

    wishes = read_wishes(arguments)
    kept = settings.kept_settings(settings.folder_of(wishes.results, wishes.name)) if wishes.name else None
    task = chosen_task(wishes) or (kept.task if kept else default_task(has_gpus=True))
    name = wishes.name or default_name(task)
    folder = settings.folder_of(wishes.results, name)
    wanted = settings.resolve(wishes, task, folder, settings.kept_settings(folder))
    questions = load_questions(wanted.task)
    print(console.headline(wanted, questions))
    print(preview(wanted, questions, settings.address_of(wishes.results, name) or str(folder)))
    return 0


def read_wishes(arguments: argparse.Namespace) -> Wishes:
    """Turn the command line into a record; ConfigError for a --set or a file of --seeds that is not allowed."""
    from medqa.config import parse_assignment
    from tune.seeds import read_seeds
    from tune.wishes import Wishes

    values = {name: value for name, value in vars(arguments).items() if name not in ("set", "check", "dry_run")}
    values["seeds"] = read_seeds(arguments.seeds) if arguments.seeds else None
    return Wishes(**values, fixed=dict(parse_assignment(text) for text in arguments.set))


def settle(wishes: Wishes) -> tuple[SearchSettings, Path]:
    """Decide what is searched and where it is kept; Ray is asked for GPUs only where nobody named a task."""
    from tune import settings
    from tune.fetching import find_kept
    from tune.wishes import chosen_task, default_name, default_task

    kept = find_kept(wishes.results, wishes.name) if wishes.name else None
    task = chosen_task(wishes) or (kept.task if kept else None)
    if task is None:
        settings.check_wishes(wishes)
        from tune import cluster

        has_gpus = cluster.connect().most_gpus > 0
        task = default_task(has_gpus)
        found = "The Ray cluster has GPUs" if has_gpus else "No --model, and no GPU in the Ray cluster"
        print(f"{found}: searching {'Mistral-7B on MedQA' if has_gpus else 'on the embedded demo'}.", flush=True)
    name = wishes.name or default_name(task)
    folder = settings.folder_of(wishes.results, name)
    return settings.resolve(wishes, task, folder, find_kept(wishes.results, name)), folder


def check(settings: SearchSettings, folder: Path) -> tuple[SearchSettings, QuestionSet, Path]:
    """Read the questions, look at the model, before any work is asked for; the path is that of its config.json."""
    import dataclasses

    from medqa.extra import load_questions
    from medqa.model_files import check_model
    from medqa.model_kind import check_kind
    from tune.settings import kept_settings, require_same, with_fingerprints

    questions = load_questions(settings.task)
    model_config = check_model(settings.task)
    check_kind(settings.task)
    settings = with_fingerprints(settings, questions)
    kept = kept_settings(folder)
    if kept:
        # where MLflow is was compared when the settings were put together
        require_same(dataclasses.replace(kept, tracking_uri=settings.tracking_uri), settings, folder)
    return settings, questions, model_config


def run(
    settings: SearchSettings, folder: Path, mirror: Mirror | None, questions: QuestionSet, model_config: Path
) -> tuple[Search, bool]:
    """Run what is left of the search and of its confirmation; return the search, and whether it came to its end."""
    from tune.confirmation import left_to_confirm, run_confirmation
    from tune.disk import report
    from tune.driver import open_search, run_search, settle_search
    from tune.sender import require_store

    job = open_search(settings, folder, mirror)
    if job.is_finished and not left_to_confirm(job):
        print("The search is finished: nothing is run. A larger --max-trials or --confirm would go on with it.")
        settle_search(job)
        return job, True
    if job.budget.used_up:
        print("The budget of this search is used up: nothing is run.")
        return job, False
    require_store(settings.tracking_uri)
    from medqa.speedups import has_layer_kernels
    from tune import cluster
    from tune.trainable import run_trial

    share = cluster.share_of(cluster.connect(), settings.gpus_per_trial, settings.concurrent)
    given = f"{share.gpus:g} GPU" if share.gpus else f"{share.cpus} CPU"
    ended = f" ({len(job.outcomes)} have ended)" if len(job.outcomes) else ""
    side_by_side = f"{share.concurrent} side by side with {given} each"
    print(f"{settings.max_trials} trials{ended}, {side_by_side}, in {job.place}", flush=True)
    if share.gpus and not has_layer_kernels():
        print("liger-kernel is not installed: trials take longer; install it beside the rest, then start again")
    print(report(settings, model_config, share.concurrent, len(questions.validation), job.place), flush=True)
    if not job.is_finished and not run_search(job, questions, share, run_trial):
        return job, False
    if left := left_to_confirm(job):
        more = " left" if len(job.repeats) else ""
        print(f"Training the best again with new seeds: {len(left)} trainings{more}", flush=True)
    return job, run_confirmation(job, questions, share, run_trial)


if __name__ == "__main__":
    sys.exit(main())
