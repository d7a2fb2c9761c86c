"""The page of a run: the answer first, no progress, one way to show numbers.

Read on a phone and on a desk.
"""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("papermill", reason="papermill is in the `run` extra")

from forecastlab.core import runs
from forecastlab.core.basics import readable
from forecastlab.core.page import answer_from, page, steps_of, tidied, without_progress
from forecastlab.core.runs import RunFailed, load_json, run
from toys import notebook

TQDM = "\rfit:   0%|          | 0/2\rfit: 100%|██████████| 2/2 [00:00<00:00, 9.1it/s]"
NESTED = "outer:  50%|█████     | 1/2\n\rinner: 100%|███| 9/9 [00:01<00:00]\x1b[A"
ASCII = "fit:  35%|###5      | 7/20 [00:02<00:04,  3.1it/s, loss=0.3]"
ENDLESS = "12it [00:03,  4.10it/s]"
RICH = "\x1b[2K\rWorking... ━━━━━━━━━━╺━━━━  40% 0:00:03"
KERAS = "10/10 [=========>....] - ETA: 3s"
COUNTED = "\r1 of 2000\r2 of 2000"
SPINNER = "wait |\b/\b-\b 100 %"


@pytest.mark.parametrize(
    "bar", [TQDM, NESTED, ASCII, ENDLESS, RICH, KERAS, COUNTED, SPINNER]
)
def test_progress_of_any_kind_is_gone_and_the_words_around_it_stay(bar):
    assert without_progress(f"before\n{bar}\nafter\n") == "before\nafter\n"
    printed = [dict(output_type="stream", name="stderr", text=bar)]
    assert tidied(printed) == []


@pytest.mark.parametrize(
    "said",
    [
        "12 % of 300 values are zero\r\n",
        "| share | n |\n| 40%| 12 |",
        "step 3/7: loss .4 [00:12 h]",
        "a path/to/20 [30]\n\n\nb",
        "\x1b[31mred\x1b[0m",
    ],
)
def test_what_only_looks_like_progress_stays(said):
    assert without_progress(said) == said.replace("\r\n", "\n")


WORK = """
import sys, time
import numpy as np, pandas as pd
from forecastlab.core import runs
for i in range(40):
    print(f"\\rfit: {i}%|##   | {i}/40 [00:01<", end="", file=sys.stderr)
    time.sleep(0.002)
print("\\nFutureWarning: this will change", file=sys.stderr)
print("fitted")
pd.DataFrame({"saved": np.float32([196.8, 1e-6])}, index=["a", "b"])
"""
ANSWER = """
answer = runs.answer(
    out,
    "Order up to 3 units <now> at 95 % a week.",
    {"How sure": "Very."},
    {"Methods, best first": pd.DataFrame({"loss": [1 / 3]}, index=["Naive"])},
    {"missing.png": "A fan"},
    {"order.csv": "what to hold"},
)
runs.record(out, wql=1 / 3)
print(answer)
"""


def answering(path, *code):
    "A small pipeline with a title, whose last cell answers."
    book = json.loads(notebook(path, *code).read_text())
    title = dict(
        cell_type="markdown", id="t", metadata={}, source="# A toy\n> It answers"
    )
    book["cells"].insert(0, title)
    book["cells"][-1]["metadata"]["tags"] = ["answer"]
    path.write_text(json.dumps(book))
    return path


def test_the_page_and_the_terminal_of_a_run_give_the_answer(tmp_path, capfd):
    nb = answering(tmp_path / "10_toy.ipynb", WORK, ANSWER)
    folder = run(nb, {"steps": 7}, out=tmp_path / "run", terminal=sys.stderr)
    told = capfd.readouterr().err
    assert "Order up to 3 units <now>" in told and re.search(r"Naive +0\.3333", told)
    assert told.index("set-up") < told.index("[2/2] Train") < told.index("Order up")
    text = (folder / "notebook.html").read_text()
    made = text[text.index("<body>") :]
    assert made.count("<h1>") == 1 and "<h1>A toy</h1>" in made
    assert made.count("Order up to 3 units &lt;now&gt; at 95&nbsp;% a week.") == 1
    places = [made.index(w) for w in ("Order up", "Naive", "Parameters: 1", "fitted")]
    assert places == sorted(places)
    # what was set once, with its meaning; the cell that injects it is not shown
    assert "<strong>7</strong>" in made and "injected" not in made
    assert len(re.findall(r"\bsteps\b</th>", made)) == 1
    assert "seed = " not in made and "seed: int" not in made
    # no bar; a warning is folded and not lost; numbers are read
    assert (
        "/40"
        not in made.replace("[00:01&lt;", "").split("Messages")[1].split("</pre>")[0]
    )
    assert "Messages of libraries" in made and "FutureWarning" in made
    assert "<td>196.8</td>" in made and "196.80" not in made and "1e-6" in made
    stored = (folder / "notebook.ipynb").read_text()
    assert not re.search(r"\d/40", stored) and "196.8" in stored
    assert answer_from(load_json(folder / "answer.json")).points == {
        "How sure": "Very."
    }
    shown = re.sub(r"<(style|script).*?</\1>", "", text, flags=re.S)
    assert not re.findall(r'(?:src|href)="https?:', shown)
    assert '<html lang="en">' in text and 'name="viewport"' in text


def test_a_run_that_goes_on_forgets_the_answer_of_before(tmp_path):
    code = f"{ANSWER}\nraise ValueError('late')"
    imports = "import pandas as pd\nfrom forecastlab.core import runs"
    nb = answering(tmp_path / "toy.ipynb", imports, code)
    with pytest.raises(RunFailed, match="late"):
        run(nb, out=tmp_path / "run", terminal=None)
    made = (tmp_path / "run" / "notebook.html").read_text().split("<body>")[1]
    # the failure comes before everything else, with the place and the way on
    first = made[: made.index("</section>")]
    assert "This run failed" in first and "ValueError: late (step 2/2 Train)" in first
    assert f"--resume --out {tmp_path / 'run'}" in first and 'href="#error"' in first
    assert "<h1>A toy</h1>" in first and made.count("<h1>") == 1
    assert "Order up" not in first and 'id="error"' in made
    path = tmp_path / "run" / "answer.json"
    assert path.exists()
    notebook(nb, "1")
    run(nb, out=tmp_path / "run", resume=True, terminal=None)
    assert not path.exists()


def cell(kind, source, *outputs, tags=()):
    made = dict(cell_type=kind, source=source, metadata=dict(tags=list(tags)))
    code = dict(outputs=list(outputs), execution_count=None)
    return made | (code if kind == "code" else {})


@pytest.mark.parametrize(
    "cells, steps",
    [
        ([], []),
        ([cell("code", "1")], ["the notebook"]),
        ([cell("markdown", "# T"), cell("code", "1")], ["T"]),
        (
            [cell("code", "1")] + 2 * [cell("markdown", "## A"), cell("code", "2")],
            ["set-up", "A", "A (2)"],
        ),
        (
            [cell("markdown", "# T\n## [A](b.md)\ntext\n### `c`"), cell("code", "1")],
            ["c"],
        ),
    ],
)
def test_no_two_steps_have_one_name(cells, steps):
    assert list(dict.fromkeys(steps_of(cells).values())) == steps


@pytest.mark.parametrize(
    "x, shown",
    [
        (np.float32(196.8), "196.8"),
        (np.int64(1234567), "1,234,567"),
        (1e-6, "1e-6"),
        (-1.25e9, "-1,250,000,000"),
        (0.1 + 0.2, "0.3"),
        (99999.6, "100,000"),
        (float("nan"), "-"),
        (pd.NA, "<NA>"),
        ("1.10", "1.10"),
        (np.bool_(True), "True"),
    ],
)
def test_numbers_are_shown_as_people_read_them(x, shown):
    assert readable(x) == shown


def wide_page(tmp_path, status="done"):
    "A page of all that is wide: tables, code, printed columns, words, pictures."
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(3, 14)))
    frame.columns = [f"a long name {i}" for i in frame]
    html = dict(
        output_type="execute_result",
        data={"text/html": frame.to_html(notebook=True)},
        metadata={},
        execution_count=1,
    )
    columns = dict(output_type="stream", name="stdout", text=frame.to_string())
    words = dict(output_type="stream", name="stdout", text="word " * 60 + "x" * 300)
    pixel = (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
        "awAAAABJRU5ErkJggg=="
    )
    drawn = dict(
        output_type="display_data",
        data={"image/png": pixel},
        metadata={"image/png": dict(width=2000)},
    )
    cells = [
        cell("markdown", "# Wide\n> All that is wide\n\nWhy."),
        cell(
            "markdown", "## A table\n\n| a | b |\n|---|---|\n| " + "w" * 300 + " | c |"
        ),
        cell("code", "x = " + "1 + " * 90 + "1", html, columns, words),
        cell("markdown", "## An equation\n\n$$" + "x^2 + " * 90 + "1$$ and $a_i$."),
        cell("markdown", "## A picture\n\nWhat is drawn:"),
        cell("code", "draw()", drawn),
    ]
    answer = runs.answer(
        tmp_path,
        "Order " + "up" * 200,
        {"How sure": "Quite. " * 30},
        {"Methods": [[f"column {i}" for i in range(20)], [i / 7 for i in range(20)]]},
    )
    about = dict(name="wide", status=status, folder=str(tmp_path), seconds=3.0)
    about |= dict(error="ValueError: " + "no" * 300, metrics=dict(wql=0.3))
    made = page(cells, about, answer, [("data", "/a" * 200, "", "A file")])
    # equations and all else are there without a network
    assert made.count("<math") == 2 and 'src="http' not in made
    path = tmp_path / f"{status}.html"
    path.write_text(made)
    return path


WIDTH = "return [document.documentElement.scrollWidth, window.innerWidth]"


@pytest.mark.browser
@pytest.mark.parametrize("status", ["done", "failed"])
def test_no_page_scrolls_sideways_on_a_phone_or_a_desk(tmp_path, chrome, status):
    chrome.get(f"file://{wide_page(tmp_path, status)}")
    for width in (390, 1280):
        size = dict(width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        chrome.execute_script(
            "document.querySelectorAll('details').forEach(d => d.open = true)"
        )
        page_width, window = chrome.execute_script(WIDTH)
        assert page_width <= window == width
    levels = chrome.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)"
    )
    assert levels[0] == "H1" and levels.count("H1") == 1
    without = "return document.querySelectorAll('img:not([alt]), img[alt=\"\"]').length"
    assert chrome.execute_script(without) == 0
    assert not [e for e in chrome.get_log("browser") if e["level"] == "SEVERE"]
