"""examples/train_on_a_folder.ipynb runs from top to bottom, prints figures, and is stored without outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eolgul.evaluation.reader import read_metrics

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("embreex")

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "train_on_a_folder.ipynb"


def test_it_is_stored_without_outputs_and_machine_paths() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert cells and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert not re.search(r"(/home|/root|/tmp|/work|/Users)\b", text)


def test_it_runs_and_measures_people_who_are_not_in_the_training_data(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    printed = "".join(output.text for output in last.outputs if output.output_type == "stream")
    figures = re.search(r"(\d+) pairs of people .*: AUC (0\.\d+), equal error rate (\d+\.\d) %", printed)
    assert figures is not None, printed
    pairs, auc, eer = int(figures[1]), float(figures[2]), float(figures[3])
    # Four test people with up to six aligned faces each.
    assert 100 < pairs <= 4 * 15 + 6 * 36
    assert 0.5 < auc <= 1 and 0 <= eer < 50
    metrics = read_metrics(tmp_path / "train_on_a_folder" / "evaluation")
    assert metrics["synthetic"] is True
    assert (tmp_path / "train_on_a_folder" / "evaluation" / "report.html").is_file()
