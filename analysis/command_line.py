"""What the scripts here share: options that name a search, the command as it is recorded, errors as one line."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

_NEEDED = ("mlflow", "optuna", "torch", "transformers", "peft", "bitsandbytes", "sklearn", "matplotlib")


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add --name, --results and --tracking-uri."""
    results, uri = os.environ.get("MEDQA_RESULTS") or "results", os.environ.get("MLFLOW_TRACKING_URI") or None
    parser.add_argument("--name", help="the search (default: the newest)")
    by = "a folder, s3://… or gs://… (default: $MEDQA_RESULTS, else results)"
    parser.add_argument("--results", default=results, metavar="DIR", help=by)
    by = "MLflow's address (default: $MLFLOW_TRACKING_URI, else that of the results)"
    parser.add_argument("--tracking-uri", default=uri, metavar="URI", help=by)


def given_command() -> str:
    """Return the command that was given, as it may be kept and shown."""
    return shlex.join(map(without_password, sys.argv))


def without_password(text: str) -> str:
    """Return the text without user and password of any address in it."""
    # to the last @, because a password may hold one, and with a colon also a slash
    return re.sub(r"://([^:/\s]*:\S*|[^/?#\s]*)@", "://", text)


def with_results_here(arguments: argparse.Namespace, needs_search: bool = True) -> argparse.Namespace:
    """Return the arguments with --results as a Path; a search in an object store is brought first where it is needed.

    Raises:
        RecordError: when there is no such search.
        StorageError: when the object store does not answer.
    """
    from analysis import brought
    from medqa.storage import is_remote

    given = dict(vars(arguments))
    if not is_remote(given["results"]):
        given["results"] = Path(given["results"])
    elif not needs_search:
        given["results"] = brought.HOME
    else:
        folder = brought.bring(given["results"], given["name"])
        uri = given["tracking_uri"] or brought.brought_uri(folder)
        given |= {"results": folder.parent, "name": folder.name, "tracking_uri": uri}
    return argparse.Namespace(**given)


def run_script(name: str, action: Callable[[], int | None]) -> int:
    """Do what a script is there for; return its exit code: the action's, 0 where it has none, or 2 after an error."""
    from medqa.errors import MedQAError

    missing = [module for module in _NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        print(f"{name}: {', '.join(missing)} cannot be imported here: run `make setup`", file=sys.stderr)
        return 2
    try:
        return action() or 0
    except MedQAError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk or a folder that may not be written, wherever it is met
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error).partition("\n")[0]
        print(f"{name}: {where}{reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
