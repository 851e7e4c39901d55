"""Measures on one GPU what a trial costs, on Mistral-7B's exact shape with random weights and on real texts.

python tests/benchmarks/gpu_trial.py --data FOLDER                       # all parts, under nine minutes on an H200
python tests/benchmarks/gpu_trial.py --data FOLDER --only training scoring
python tests/benchmarks/gpu_trial.py --data FOLDER --gpus 4              # whole searches on four GPUs and on one
python tests/benchmarks/gpu_trial.py --render                            # the table of the last results, as Markdown

Speed does not depend on the weights' values. Goals are for texts of 289 tokens, so that tokens a second count.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medqa  # noqa: F401  # before torch, whose allocator it sets

if TYPE_CHECKING:
    from gpu_probe import Bench

PARTS = ("training", "scoring", "turnaround", "losses", "study", "memory", "growth")
RESULTS = Path(__file__).with_name("results") / "gpu_trial.json"
SEARCHES = RESULTS.with_name("gpu_searches.json")
"""Of several GPUs, which are another machine than that of the one."""
_STANDING_MODEL = Path("/dev/shm/random-mistral-7b")


def parse_arguments() -> argparse.Namespace:
    """Read the command line; nothing heavy is imported before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="questions: a local folder of train and validation files")
    add("--model", type=Path, default=_STANDING_MODEL, help=f"made where absent (default: {_STANDING_MODEL})")
    add("--out", type=Path, metavar="FILE", help=f"results as JSON (default: {RESULTS.name}, or {SEARCHES.name})")
    add("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}; the others' results stay")
    add("--gpus", type=int, metavar="N", help="measure whole searches with N trials at a time, and nothing else")
    add("--minutes", type=float, default=8.0, help="no part is begun after that (default: 8)")
    add("--render", action="store_true", help="print the results as Markdown and measure nothing")
    arguments = parser.parse_args()
    if not arguments.render and not arguments.data:
        parser.error("--data is needed: a folder of question files")
    arguments.out = arguments.out or (SEARCHES if arguments.gpus else RESULTS)
    return arguments


def main() -> int:
    """Parse, make the model, measure, print; return the exit code."""
    began, arguments = time.monotonic(), parse_arguments()
    if arguments.render:
        from gpu_table import markdown

        from medqa.record import read_json

        print(markdown(read_json(arguments.out)))
        return 0
    import torch

    if not torch.cuda.is_available():
        print("No GPU is found: nothing is measured.")
        return 0
    if (arguments.gpus or 1) > torch.cuda.device_count():
        print(f"--gpus {arguments.gpus}: this machine has {torch.cuda.device_count()}", file=sys.stderr)
        return 2
    make_model(arguments.model)
    wanted = arguments.only or ([] if arguments.gpus else PARTS)
    with tempfile.TemporaryDirectory() as work:
        from gpu_probe import Bench

        bench = Bench(str(arguments.model), arguments.data, Path(work))
        parts = {name: measure for name, measure in measures(arguments.gpus).items() if name in (*wanted, "gpus")}
        results = old_results(arguments.out, described()) if arguments.only or arguments.gpus else described()
        return run_parts(parts, bench, results, arguments.out, began + 60 * arguments.minutes)


def make_model(folder: Path) -> None:
    """Write the random model where it is not there whole."""
    if (folder / "model.safetensors.index.json").exists():  # the last file that is written
        return
    from random_mistral import SHAPE_7B, write_model

    began = time.monotonic()
    write_model(folder, SHAPE_7B)
    print(f"{folder} made in {time.monotonic() - began:.0f} s", flush=True)


def measures(gpus: int | None = None) -> dict[str, Callable[[Bench], dict[str, Any]]]:
    """Return what measures each part."""
    import gpu_parts
    import gpu_processes

    functions: dict[str, Callable[[Bench], dict[str, Any]]] = {
        "training": gpu_parts.training,
        "scoring": gpu_parts.scoring,
        "turnaround": gpu_parts.turnaround,
        "losses": gpu_processes.losses,
        "study": gpu_processes.study,
        "memory": gpu_parts.memory,
        "growth": gpu_parts.growth,
    }
    return functions | ({"gpus": functools.partial(gpu_processes.searches, gpus=gpus)} if gpus else {})


def run_parts(
    parts: Mapping[str, Callable[[Bench], dict[str, Any]]],
    bench: Bench,
    results: dict[str, Any],
    out: Path,
    last_start: float,
) -> int:
    """Run the parts in turn, writing what is there after each; return 1 when one failed.

    Args:
        parts: Name to what measures it.
        bench: What they measure with.
        results: Added to.
        out: Where they are written.
        last_start: On time.monotonic(); parts that would begin later are left out.
    """
    from gpu_table import text_table

    from medqa.record import write_json

    for name, measure in parts.items():
        print(f"##### {name}", flush=True)
        began = time.monotonic()
        results["parts"][name] = attempt(measure, bench) if began < last_start else {"error": "no time was left"}
        results["parts"][name]["took_seconds"] = time.monotonic() - began
        results["parts"][name]["allocator"] = os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "")
        print(f"  {name} took {time.monotonic() - began:.0f} s", flush=True)
        write_json(out, results)
    print(f"\n{results['gpu']}\n\n{text_table(results)}\n\nwritten to {out}")
    return int(any("error" in results["parts"][name] for name in parts))


def attempt(measure: Callable[[Bench], dict[str, Any]], bench: Bench) -> dict[str, Any]:
    """Measure a part; one that fails says why, and the others go on."""
    try:
        return measure(bench)
    except Exception as error:  # whatever it is, the other parts are still worth having
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}".partition("\n")[0]}


def described() -> dict[str, Any]:
    """Return empty results with what they will have been measured on."""
    import importlib.metadata
    import importlib.util
    import platform

    import torch

    from medqa.record import installed_versions

    versions = {"python": platform.python_version(), **installed_versions(), "cuda": torch.version.cuda or ""}
    if importlib.util.find_spec("liger_kernel"):
        versions["liger-kernel"] = importlib.metadata.version("liger-kernel")
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
        "parts": {},
    }


def old_results(file: Path, now: dict[str, Any]) -> dict[str, Any]:
    """Return the results in the file where they are of the same GPU and versions, else empty ones."""
    from medqa.record import read_json

    if not file.exists():
        return now
    old: dict[str, Any] = read_json(file)
    same = all(old.get(name) == now[name] for name in ("gpu", "versions"))
    return now | {"parts": old["parts"]} if same else now


if __name__ == "__main__":
    sys.exit(main())
