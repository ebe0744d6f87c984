"""The notebook for Colab: every cell runs, and is kept without what it printed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.integration.docs_text import ROOT, links

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def test_it_learns_two_tasks_and_classifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "work").mkdir()
    book = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(book, timeout=240, resources={"metadata": {"path": str(tmp_path / "work")}}).execute()
    said = ["".join(o.get("text", "") for o in cell.outputs) for cell in book.cells if cell.cell_type == "code"]
    first, second = (line.split()[2:] for line in said[-2].splitlines()[1:])
    assert first[0] == second[0], "what was learned first is as good after the second task"
    assert float(second[1]) > 60
    assert "task colors: lime" in said[-1]
    assert "task shapes: " in said[-1]


def test_it_is_kept_without_outputs() -> None:
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    assert [cell for cell in book.cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert [target for target in links(NOTEBOOK) if not (NOTEBOOK.parent / target).exists()] == []
