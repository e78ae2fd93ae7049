"""`examples/quickstart.ipynb`, run as Jupyter runs it: with a stub for the model, and once with the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from reviewmill.errors import ModelError
from reviewmill.models import resolve
from reviewmill.settings import DEFAULT_MODEL, load_settings
from service import RunningService, running_service
from stub_endpoint import StubEndpoint

NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"


def executed(folder: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[Any]:
    """The notebook's code cells after a run in a kernel of its own."""
    own = {"CACHE_DIR": folder / "cache", "STATE_DIR": folder / "kernel-state"}
    for name, value in {**{f"REVIEWMILL_{name}": str(path) for name, path in own.items()}, **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def said(cell: Any) -> str:
    """What a cell printed and showed, as text."""
    return "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


def check(cells: list[Any]) -> None:
    """Every cell said what it is there for, and nothing else: no warnings, no errors."""
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")
    shown = [said(cell) for cell in cells]
    assert "'sentiment': 'negative'" in shown[0]
    assert shown[1].count("(") == 8
    assert "needs_review" in shown[2]
    pictures = [out for cell in cells for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == 1
    assert "'sentiment', 'emotion'" in shown[5]
    assert shown[7].startswith("done {")
    assert shown[8].startswith("('neutral',")
    assert "'reviewmill-sentiment'" in shown[10]
    assert "'original_text'" in shown[11]
    assert shown[12].strip()


def test_the_notebook_is_valid() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # they name folders and times of one machine


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StubEndpoint() as stub, running_service(tmp_path, stub) as running:
        key = running.key("analyse", "jobs")
        service = {"QUICKSTART_SERVICE": running.url, "QUICKSTART_KEY": key}
        check(executed(tmp_path, monkeypatch, REVIEWMILL_ENDPOINT=stub.url, **service))
        assert not running.http.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"}).json()["items"]


def _model_is_here() -> bool:
    try:
        resolve(DEFAULT_MODEL, models_dir=load_settings().models_dir)
    except ModelError:
        return False
    return True


@pytest.fixture
def real_service(tmp_path: Path, prefixes: Path) -> Iterator[RunningService]:
    """A service with the embedded model, which is loaded when it is asked first. Its cache is the notebook's, too."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "prefixes").symlink_to(prefixes)
    service = {"data_dir": tmp_path / "data", "port": 0, "no_auth": True}
    settings = load_settings(cache_dir=tmp_path / "cache", service=service)
    running = RunningService(settings)
    try:
        yield running
    finally:
        running.stop()


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.skipif(not _model_is_here(), reason=f"the model is not here: reviewmill models pull {DEFAULT_MODEL}")
def test_the_notebook_runs_with_the_real_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_service: RunningService
) -> None:
    # What begins the task's prompt is computed before: on one slow core that takes longer than a client waits.
    real_service.http.post("/v1/analyze", json={"text": "好", "task": "emotion"}, timeout=300).raise_for_status()
    cells = executed(tmp_path, monkeypatch, QUICKSTART_SERVICE=real_service.url)
    check(cells)
    assert "'negative'" in said(cells[11])
