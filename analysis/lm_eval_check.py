"""Score the same adapter with EleutherAI's lm-evaluation-harness, and put its number beside ours.

.venv/bin/python analysis/lm_eval_check.py --best                  the winner of the newest search in results/
.venv/bin/python analysis/lm_eval_check.py --best --name X         of the search X
.venv/bin/python analysis/lm_eval_check.py --adapter FOLDER        an adapter as a trial leaves it
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.reads import Read
    from analysis.runs import Search, Trial
    from medqa.record import TrialIdentity

DESCRIPTION = "Score the same adapter with lm-evaluation-harness, and put its number beside ours."
NEEDED = ("analysis", "medqa", "mlflow", "torch", "transformers", "peft", "bitsandbytes", "sklearn")
FOLDER = "lm_eval_check"
CONTENT = "lm_eval_check.json"
_VERSIONED = ("lm_eval", "torch", "transformers", "peft", "bitsandbytes", "datasets")
_INSTALL = ".venv/bin/python -m pip install -c constraints.txt -e '.[lm-eval]'"


def main() -> int:
    """Check the environment, then the adapter; return 1 where both scorers disagree, 2 where nothing was scored."""
    if importlib.util.find_spec("analysis") is None:
        print(f"lm_eval_check: {environment_fault()}", file=sys.stderr)
        return 2
    arguments = parse_arguments()
    if fault := environment_fault():
        print(f"lm_eval_check: {fault}", file=sys.stderr)
        return 2
    # the harness's bars, which it offers no setting for
    os.environ.setdefault("TQDM_DISABLE", "1")
    from analysis.command_line import run_script

    return run_script("lm_eval_check", lambda: 0 if check(arguments) else 1)


def parse_arguments() -> argparse.Namespace:
    """Read the command line; nothing heavy is imported before."""
    from analysis import command_line

    parser = argparse.ArgumentParser(prog="lm_eval_check.py", description=DESCRIPTION)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--best", action="store_true", help="the search's winner, as final_eval.py --best chooses it")
    what.add_argument(
        "--adapter", type=Path, metavar="FOLDER", help="an adapter's folder, beside it the config.json of its trial"
    )
    command_line.add_search_options(parser)
    return parser.parse_args()


def environment_fault() -> str:
    """Return what is missing here and how to get it; "" where nothing is."""
    command = f"`.venv/bin/python {shlex.join(['analysis/lm_eval_check.py', *sys.argv[1:]])}`"
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} cannot be imported here: run `make setup`, then {command}"
    if importlib.util.find_spec("lm_eval") is None:
        return f"lm-evaluation-harness is not installed here: run `{_INSTALL}`, then {command}"
    return ""


def check(arguments: argparse.Namespace) -> bool:
    """Score what the command names both ways; return whether both agree."""
    return check_adapter(arguments) if arguments.adapter else check_best(arguments)


def check_best(arguments: argparse.Namespace) -> bool:
    """Choose the winner, score it both ways, write and log what came out; return whether both agree."""
    from analysis import chosen, runs, selected
    from analysis.command_line import with_results_here
    from medqa.record import ADAPTER

    arguments = with_results_here(arguments)
    best = selected.select_best(arguments.results, arguments.tracking_uri, arguments.name)
    search, trial = best.search, best.trial
    print(chosen.format_choice(search.name, best.choice), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        adapter = runs.download_record(search, trial, Path(temporary)) / ADAPTER
        folder, content = read_test_split(search.folder, trial.run_id, adapter)
    log(search, trial, folder, content)
    return bool(content["agreement"]["agree"])


def check_adapter(arguments: argparse.Namespace) -> bool:
    """Score the adapter of a folder both ways and write what came out; return whether both agree."""
    from medqa.search_record import SETTINGS

    adapter = arguments.adapter.resolve()
    # a read of the test split counts for the search that the adapter is from
    search_folder = next((folder for folder in adapter.parents if (folder / SETTINGS).is_file()), adapter.parent)
    _, content = read_test_split(search_folder, "", adapter)
    return bool(content["agreement"]["agree"])


def read_test_split(search_folder: Path, run_id: str, adapter: Path) -> tuple[Path, dict[str, Any]]:
    """Check that data, prompt and base are the trial's, read the test split once, and write and print both numbers."""
    from analysis import evaluation, harness, reads, yardstick
    from analysis.command_line import given_command
    from medqa import questions, record
    from medqa.quiet import silence_libraries
    from medqa.scoring import score_questions

    silence_libraries()
    identity = record.read_identity(adapter.parent)
    known = evaluation.load_same_questions(identity)
    base = evaluation.load_same_base(identity)
    with base.adapter_from(adapter) as model:
        harness.require_our_tokens(model, base.encoder, known.validation[0])
        folder = reads.new_folder(search_folder, FOLDER)
        read = reads.Read(run_id=run_id, folder=folder, command=given_command())
        test = reads.read_test_split(identity.task, search_folder, read)
        count = reads.count_reads(search_folder)
        questions.check_disjoint({questions.VALIDATION: known.validation, questions.TEST: test})
        print(f"the tuned model {identity.name}, {len(test)} questions: by us, and twice by the harness", flush=True)
        ours = score_questions(model, base.encoder, test).predictions
        same_prompt = harness.score_our_prompt(model, base.encoder, test)
        own_prompt = harness.score_own_prompt(model, base.encoder, test, identity.task.data)
    content = {
        **_about(identity, read, count),
        **yardstick.yardstick_content(ours, same_prompt, own_prompt),
    }
    record.write_json(folder / CONTENT, content)
    print(f"\n{yardstick.format_yardstick(content)}\n\nitem by item: {folder / CONTENT}")
    return folder, content


def _about(identity: TrialIdentity, read: Read, test_reads: int) -> dict[str, Any]:
    return {
        "trial": identity.name,
        "run_id": read.run_id,
        "command": read.command,
        "test_reads": test_reads,
        "base_fingerprint": identity.base_fingerprint,
        "data_fingerprint": identity.data_fingerprint,
        "prompt_fingerprint": identity.prompt_fingerprint,
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
    }


def log(search: Search, trial: Trial, folder: Path, content: dict[str, Any]) -> None:
    """Log both numbers to the winner's MLflow run; the file stays where it is when MLflow does not take it."""
    from analysis import logged
    from medqa.errors import RecordError

    metrics = {
        "lm_eval_accuracy": content["harness_our_prompt"]["acc"],
        "lm_eval_own_prompt_accuracy": content["harness_own_prompt"]["acc"],
    }
    try:
        logged.log_evaluation(search, trial, folder, metrics, {FOLDER: folder.name})
    except RecordError as error:
        print(f"lm_eval_check: not logged to the winner's run: {error}", file=sys.stderr)
        return
    print(f"logged to the winner's MLflow run {trial.run_id}")


if __name__ == "__main__":
    sys.exit(main())
