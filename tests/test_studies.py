"""Studies: what they show is what their code gives today, their sliders answer, and
their last words quote numbers that stand above.
"""

import base64
import copy
import importlib.util
import io
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("studies", ROOT / ".ci" / "studies.py")
studies = importlib.util.module_from_spec(spec)
spec.loader.exec_module(studies)
STUDIES = sorted(studies.STUDIES.glob("*.ipynb"))
# Its stored numbers are those of a set that does not come with the project.
WHOLE = {"50_which_products_will_sell_alike": "online_retail_ii"}
MEND = "run it anew, look at it, mend its words: python .ci/studies.py {} --store"


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def is_here(name):
    "Is a data set that does not come with the project on this machine?"
    from forecastlab.core import datasets

    return datasets.check(name).ok.all()


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_a_study_shows_what_is_stored_and_each_of_its_widgets_moves_the_picture(path):
    pytest.importorskip("nbclient", reason="nbclient is in the `run` extra")
    pytest.importorskip("ipywidgets", reason="ipywidgets is in the `lab` extra")
    told = studies.study_of(path)
    assert told["moves"], "it has no moving picture"
    assert not told["idle"], "widgets that change nothing"
    assert not told["said"], "values that cannot be drawn"
    name = WHOLE.get(path.stem)
    if name and not is_here(name):
        pytest.skip(f"its numbers are those of {name}, which is not here")
    assert not told["stale"], MEND.format(path.name[:2])


@pytest.mark.slow
@pytest.mark.parametrize("stem", WHOLE)
def test_sliders_move_in_a_fresh_clone_without_shared_data(stem, tmp_path, monkeypatch):
    pytest.importorskip("nbclient", reason="nbclient is in the `run` extra")
    if not is_here(WHOLE[stem]):
        pytest.skip(
            f"{WHOLE[stem]} is not here, so the comparison above ran without it already"
        )
    monkeypatch.delenv("FORECASTLAB_DATA", raising=False)
    monkeypatch.setenv("FORECASTLAB_CACHE", str(tmp_path))
    told = studies.study_of(studies.STUDIES / f"{stem}.ipynb")
    assert told["moves"] and not told["idle"] and not told["said"], told


# ---- what notices a stale study is tested on planted faults


def png(shade):
    "A picture with a dark half, in base 64."
    from PIL import Image

    picture = Image.new("RGB", (80, 40), "white")
    picture.paste((shade,) * 3, (0, 0, 40, 40))
    data = io.BytesIO()
    picture.save(data, "png")
    return base64.b64encode(data.getvalue()).decode()


def toy():
    "Cells of a study: words, a table, a picture, a slider."
    outs = {
        "words": [dict(output_type="stream", name="stdout", text=["9.6 % of 1,234\n"])],
        "table": [
            dict(
                output_type="execute_result",
                data={"text/plain": ["   found\n1  0.710"], "text/html": ["<b>"]},
            )
        ],
        "picture": [dict(output_type="display_data", data={"image/png": png(0)})],
        "slider": [],
    }
    return [
        dict(id=id, cell_type="code", source=[], outputs=out)
        for id, out in outs.items()
    ]


def changed(id, **more):
    "The toy with the first output of a cell changed."
    made = copy.deepcopy(toy())
    out = next(c for c in made if c["id"] == id)["outputs"][0]
    out.update(more)
    return made


def moved_picture():
    "The toy with its picture in the slider's output."
    made = copy.deepcopy(toy())
    made[3]["outputs"], made[2]["outputs"] = made[2]["outputs"], []
    return made


@pytest.mark.parametrize(
    "fresh, says",
    [
        (toy(), None),
        (changed("words", text=["9.7 % of 1,250\n"]), None),
        (changed("words", text=["9.6 % of 1,334\n"]), "words: 1,234 is now 1,334"),
        (changed("words", text=["9.6 % of 1,234 units\n"]), "'9.6 % of 1,234 units'"),
        (changed("words", name="stderr"), "words: shows ['stderr']"),
        (changed("table", data={"text/plain": ["   found\n1  0.811"]}), "is now 0.811"),
        (changed("picture", data={"image/png": png(5)}), None),
        (changed("picture", data={"image/png": png(60)}), "picture: a picture is"),
        (moved_picture(), "slider: shows ['picture'], stored is []"),
    ],
)
def test_a_planted_change_of_what_a_study_shows_is_found(fresh, says):
    found = studies.stale(toy(), fresh)
    assert says in str(found) if says else not found


# ---- what its last words quote


QUOTED = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w])")


def numbers_in(text):
    found = studies.NUMBER.findall(text)
    return {abs(float(n.replace(",", ""))) for n in found}


def supported(quoted, numbers):
    "Does some number round to the quoted one, as fine as it is written?"
    value, plain = float(quoted.replace(",", "")), quoted.replace(",", "")
    if "." in plain:
        half = 0.5 * 10.0 ** -len(plain.partition(".")[2])
    else:
        half = 0.5 * 10.0 ** (len(plain) - len(plain.rstrip("0") or plain))
    scaled = {s * n for n in numbers for s in (1, 100)}
    return any(abs(n - value) <= half * 1.0001 for n in scaled)


def last_words(path):
    "What it saw: from that heading to the line that dates its numbers."
    prose = [source(c) for c in cells(path) if c["cell_type"] == "markdown"]
    words = next(text for text in prose if "## What we saw" in text)
    return words.partition("## What we saw")[2].partition("\nNumbers of ")[0]


def without_support(path):
    "Numbers of the last words that neither an output, code nor earlier prose has."
    words, above = last_words(path), set()
    for cell in cells(path):
        if "## What we saw" not in source(cell):
            above |= numbers_in(source(cell))
        if cell["cell_type"] == "code":
            for kind, text in studies.shown(cell):
                above |= set() if kind == "picture" else numbers_in(text)
    return [q for q in QUOTED.findall(words) if not supported(q, above)]


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_the_last_words_quote_numbers_that_stand_above(path):
    assert not without_support(path), "read its outputs, and mend its last words"


def test_a_planted_number_that_stands_nowhere_is_found(tmp_path):
    saw = dict(cell_type="markdown", source=["## What we saw\n9.6 %, 14,500, 17.3\n"])
    said = dict(output_type="stream", name="stdout", text=["0.0962 of 14,457"])
    planted = tmp_path / "60_planted.ipynb"
    code = dict(cell_type="code", id="a", source=["f()"], outputs=[said])
    planted.write_text(json.dumps(dict(cells=[code, saw])))
    assert without_support(planted) == ["17.3"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_a_study_stands_still_on_a_page_and_then_moves(path):
    text = [source(c) for c in cells(path) if c["cell_type"] == "code"]
    still = next(i for i, code in enumerate(text) if "picture.still(" in code)
    moves = next(i for i, code in enumerate(text) if "picture.move(" in code)
    assert still < moves
    shown = [studies.shown(c) for c in cells(path) if c["cell_type"] == "code"]
    assert "picture" in dict(shown[still]), "the page shows no picture"
    assert not shown[moves], "the slider's output is cleared"
    assert not any("interact(" in code for code in text)
