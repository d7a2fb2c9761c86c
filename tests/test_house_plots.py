"""Plots look like those of one house: a notebook that draws calls `style()`.

No torch and no matplotlib; the failure names the notebooks.
"""

import ast
import json
import re
from pathlib import Path

import pytest

NBS = Path(__file__).resolve().parent.parent / "nbs"


def code(nb):
    "The code cells of a notebook."
    cells = json.loads(nb.read_text(encoding="utf-8"))["cells"]
    return [c for c in cells if c["cell_type"] == "code"]


def calls(cells):
    "Names of all that is called, without what stands before the last dot."
    for cell in cells:
        source = re.sub(r"^[%!]\S.*$", "pass", "".join(cell["source"]), flags=re.M)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                yield getattr(node.func, "attr", getattr(node.func, "id", ""))


def pictures(cells):
    "How many stored pictures the cells hold."
    outputs = [out for cell in cells for out in cell["outputs"]]
    return sum("image/png" in out.get("data", {}) for out in outputs)


def draws_in_another_style(cells):
    "Is something drawn, and nowhere `style()` called?"
    called = set(calls(cells))
    draws = pictures(cells) or called & {"subplots", "figure"}
    return bool(draws) and "style" not in called


def test_a_notebook_that_draws_does_so_in_the_house_style():
    plain = [
        str(nb.relative_to(NBS))
        for nb in sorted(NBS.rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in nb.parts and draws_in_another_style(code(nb))
    ]
    assert not plain, (
        f"{plain} draw without the house style: import style from"
        " forecastlab.core.plots and call plt.rcParams.update(style()) first"
    )


def cell(source, *outputs):
    return {"source": [source], "outputs": list(outputs)}


PICTURE = {"data": {"image/png": ""}}


@pytest.mark.parametrize(
    "planted",
    [
        cell("fig, ax = plt.subplots()"),
        cell("plt.figure()"),
        cell("forecast.plot();", PICTURE),
        cell("def style():\n    return {}", PICTURE),
        cell("# style()\n%matplotlib inline", PICTURE),
    ],
)
def test_a_planted_picture_in_another_style_is_found(planted):
    assert draws_in_another_style([planted])
    for mend in ("plt.rcParams.update(style())", "plt.rc_context(plots.style())"):
        assert not draws_in_another_style([cell(mend), planted])


def test_a_notebook_without_a_picture_needs_no_style():
    assert not draws_in_another_style([cell("1 + 1", {"data": {"text/plain": "2"}})])
