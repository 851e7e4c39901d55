"""Evaluate a search's winner on the test split and leave files, figures and a report.

.venv/bin/python analysis/final_eval.py --best                          the newest search in results/
.venv/bin/python analysis/final_eval.py --best --name X --top 3         the search X, and its best three as an ensemble
.venv/bin/python analysis/final_eval.py --best --also mine=rows.jsonl   the same models on questions of your own too
.venv/bin/python analysis/final_eval.py --from results/X/final_eval     its tables and figures again, without a model
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
from pathlib import Path

DESCRIPTION = "Evaluate a search's winner on the test split and leave files, figures and a report."


def main() -> int:
    """Check the environment, then do what was asked; return the exit code."""
    if importlib.util.find_spec("analysis") is None:
        command = shlex.join(["analysis/final_eval.py", *sys.argv[1:]])
        print(f"final_eval: run `make setup`, then `.venv/bin/python {command}`", file=sys.stderr)
        return 2
    from analysis.command_line import run_script

    arguments = parse_arguments()
    return run_script("final_eval", lambda: evaluate(arguments))


def evaluate(arguments: argparse.Namespace) -> None:
    """Find and show what the command names, then evaluate it; torch is loaded only once it is found."""
    if arguments.from_folder:
        from analysis.writing import write_all

        write_all(arguments.from_folder)
        return
    from analysis.chosen import format_choice
    from analysis.command_line import with_results_here
    from analysis.selected import select

    arguments = with_results_here(arguments, needs_search=not arguments.adapter)
    selected = select(arguments)
    print(format_choice(selected.search.name, selected.choice), flush=True)
    from analysis import evaluating

    evaluating.evaluate(selected, arguments)


def parse_arguments() -> argparse.Namespace:
    """Read the command line; nothing heavy is imported before."""
    from analysis.command_line import add_search_options

    parser = argparse.ArgumentParser(prog="final_eval.py", description=DESCRIPTION)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--best",
        action="store_true",
        help="evaluate the best trial on validation, by the mean over new seeds where the search has confirmed it",
    )
    what.add_argument("--run-id", metavar="ID", help="evaluate the trial with this MLflow run")
    what.add_argument("--preset", metavar="NAME", help="evaluate the search's trial of this preset")
    what.add_argument("--adapter", type=Path, metavar="FOLDER", help="evaluate a trial's adapter in a local folder")
    what.add_argument(
        "--from",
        dest="from_folder",
        type=Path,
        metavar="FOLDER",
        help="make an earlier evaluation's tables and figures again from its answers",
    )
    parser.add_argument("--top", type=int, metavar="K", help="evaluate an ensemble of the K best adapters too")
    parser.add_argument(
        "--also", type=named_file, action="append", default=[], metavar="NAME=FILE", help="questions to answer too"
    )
    add_search_options(parser)
    arguments = parser.parse_args()
    names = [name for name, _ in arguments.also]
    if len(set(names)) < len(names):
        parser.error(f"--also {max(names, key=names.count)} is given twice: give each file a name of its own")
    arguments.also = dict(arguments.also)
    return arguments


def named_file(text: str) -> tuple[str, str]:
    """Read NAME=FILE; the name becomes a folder's."""
    name, equals, file = text.partition("=")
    if not (equals and file and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)) or name == "test":
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=FILE, the name of letters, digits, _ . or -, not 'test'")
    return name, file


if __name__ == "__main__":
    sys.exit(main())
