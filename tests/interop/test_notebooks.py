"""The notebooks of the documentation, run by a kernel of their own; and what one shows of an error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
QUICK = NOTEBOOKS[:1]


def run(notebook: Any, folder: Path) -> Any:
    """The notebook with its outputs, run in an empty folder."""
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3", resources=resources).execute()
    return notebook


def kinds(cell: Any) -> list[str]:
    """What a cell shows, by the richest form of each output; a bar that is gone is empty, and shows nothing."""
    found = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if not data or any(data.values()):
            rich = (kind for kind in ("text/html", "image/png") if data.get(kind))
            found.append(next(rich, output["output_type"]))
    return found


def check(path: Path, folder: Path) -> None:
    stored = nbformat.read(path, 4)
    expected = [kinds(cell) for cell in stored.cells]
    assert any(expected), "it is stored with its outputs"
    fresh = nbformat.from_dict(json.loads(json.dumps(stored)))
    assert [kinds(cell) for cell in run(fresh, folder).cells] == expected


@pytest.mark.parametrize("path", QUICK, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_is_stored_with(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_a_long_notebook_shows_what_it_is_stored_with(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_names_no_machine_and_shows_errors_with_a_caret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|tmp|root|Users|work)/", text)
    for cell in nbformat.reads(text, 4).cells:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                shown = "\n".join(output["traceback"])
                assert "Traceback" not in shown and "^" in shown and "%%plm story:5:" in shown
            assert output.get("name") != "stderr", "nothing is left over"
