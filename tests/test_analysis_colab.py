"""The notebook, from top to bottom on the demo, as a person runs it who changes nothing but the sizes."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebook is run by nbclient: make setup")
nbclient = pytest.importorskip("nbclient", reason="the notebook is run by nbclient: make setup")
pytest.importorskip("ipykernel", reason="the notebook is run by nbclient: make setup")

NOTEBOOK = Path(__file__).resolve().parent.parent / "analysis" / "colab.ipynb"
SHORT = "--set num_train_epochs=0.25 --set eval_every_steps=16 --set eval_questions=60 --concurrent 2"


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def said(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shown(cell: Any, kind: str) -> list[str]:
    return [
        output.data[kind] for output in cell.outputs if output.output_type == "display_data" and kind in output.data
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_notebook_runs_from_top_to_bottom_and_its_search_a_second_time_runs_nothing(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    search, table, server, evaluation, question = code[2:]
    again = [copy.deepcopy(cell) for cell in (search, table, server)]
    for number, cell in enumerate(again):
        cell.id = f"again-{number}"
    notebook.cells += again
    storage, home = tmp_path / "a drive" / "kept", tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "NOTEBOOK_FOLDER": str(storage), "NOTEBOOK_TRIALS": "2", "NOTEBOOK_FLAGS": SHORT}
    client = nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute(env={**os.environ, **environment})

    assert "Best trial: " in said(search)
    (rows,) = shown(table, "text/markdown")
    assert rows.count("\n") == 3
    assert rows.count("| completed |") == 2
    assert said(server).startswith("MLflow: http://127.0.0.1:")
    evaluated = storage / "demo" / "final_eval"
    assert "tuned minus zero-shot" in said(evaluation)
    assert len(shown(evaluation, "image/png")) == len(list(evaluated.glob("*.png"))) >= 10
    assert "Answer: " in said(question)
    assert "Not for clinical use." in said(question)

    search_again, table_again, server_again = again
    assert "Best trial: " in said(search_again)
    assert shown(table_again, "text/markdown") == [rows]
    assert said(server_again) == said(server), "the one that runs is not started twice"
    starts = [json.loads(file.read_text())["attempt"] for file in (storage / "demo" / "trials").glob("*/kept.json")]
    assert starts == [1, 1]
    assert not list(storage.rglob("*.db")), "databases are worked on elsewhere"
    port = said(server).strip().rpartition(":")[2]
    ending = [process for process in psutil.process_iter(["cmdline"]) if port in (process.info["cmdline"] or [])]
    _, left = psutil.wait_procs(ending, timeout=60)
    assert not left, "the notebook's end ends its server"
