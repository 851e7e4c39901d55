"""Times the whole final evaluation on one GPU at Mistral-7B's shape with random weights.

python tests/benchmarks/gpu_final_eval.py --data FOLDER

One preset is trained for a few steps, so that there is something to evaluate; then `analysis/final_eval.py --best`
runs as a person starts it. The larger of the folder's validation and test files is evaluated: time goes by questions.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_trial import described, make_model  # first: it sets torch's allocator

RESULTS = Path(__file__).with_name("results") / "gpu_final_eval.json"
ROOT = Path(__file__).resolve().parent.parent.parent
_TRAINED_QUESTIONS = 64


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="train, validation and test.jsonl")
    parser.add_argument("--model", type=Path, default=Path("/dev/shm/random-mistral-7b"), help="made where absent")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help="results as JSON")
    return parser.parse_args()


def main() -> int:
    """Train a little, evaluate, and write how long it took; without a GPU say so."""
    arguments = parse_arguments()
    import torch

    if not torch.cuda.is_available():
        print("No GPU is found: nothing is measured.")
        return 0
    from medqa.record import write_json

    make_model(arguments.model)
    with tempfile.TemporaryDirectory() as work:
        found = measure(str(arguments.model), arguments.data, Path(work))
    write_json(arguments.out, described() | {"parts": {"final_eval": found}})
    print(f"{found['questions']} questions: {found['seconds']:.0f} s, loading included; written to {arguments.out}")
    return 0


def measure(model: str, data: Path, work: Path) -> dict[str, Any]:
    """Return the seconds of a final evaluation, and of them those in which models are asked.

    Raises:
        CalledProcessError: when the search or the evaluation fails.
    """
    from medqa.record import read_json

    questions = larger_as_test(data, work / "data")
    trained = sum(1 for _ in (work / "data" / "train.jsonl").open())
    common = ["--results", str(work / "results"), "--name", "timed"]
    search = [sys.executable, str(ROOT / "tune" / "search.py"), *common, "--max-trials", "1", "--model", model]
    search += ["--data", str(work / "data"), "--set", f"num_train_epochs={_TRAINED_QUESTIONS / trained}"]
    subprocess.run(search, check=True)
    began = time.monotonic()
    subprocess.run([sys.executable, str(ROOT / "analysis" / "final_eval.py"), "--best", *common], check=True)
    seconds = time.monotonic() - began
    evaluation = read_json(work / "results" / "timed" / "final_eval" / "evaluation.json")
    return {"questions": questions, "seconds": seconds, "seconds_of_all_passes": evaluation["seconds"]}


def larger_as_test(data: Path, folder: Path) -> int:
    """Lay out the questions so that the larger of the two small splits is the test split; return its size."""
    folder.mkdir(parents=True)
    lines = {name: (data / f"{name}.jsonl").read_text().splitlines() for name in ("train", "validation", "test")}
    smaller, larger = sorted((lines["validation"], lines["test"]), key=len)
    for name, rows in (("train", lines["train"]), ("validation", smaller), ("test", larger)):
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return len(larger)


if __name__ == "__main__":
    sys.exit(main())
