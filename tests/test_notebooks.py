"""Every notebook is its own test.

Each runs from the top, as `nbdev_test` runs it, in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Pipelines run under papermill in tests/test_pipelines.py, studies in
# tests/test_studies.py, which also compares what they show.
NOTEBOOKS = sorted(
    p.relative_to(ROOT / "nbs")
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if not {"pipelines", "studies"} & set(p.parts)
    and not any(part.startswith((".", "_")) for part in p.relative_to(ROOT).parts)
)
RUN = """
import sys
from nbdev.test import nbdev_test
nbdev_test(path=sys.argv[1], n_workers=0)
"""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=str)
def test_notebook(notebook):
    pytest.importorskip("nbdev", reason="nbdev is in the `dev` extra")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(ROOT / "nbs" / notebook)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (done.stderr + done.stdout)[-6000:]
    assert "No files were eligible" not in done.stdout, f"{notebook} was not run"
