"The built site, opened in headless Chromium with every other host cut off."

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock

from test_pages import builder, by_pandoc, raw

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).resolve().parent.parent


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    "The site, built as `make docs` builds it, and served on the loopback; its address."
    if not (shutil.which("quarto") or (ROOT / ".venv-docs/bin/smalldocs").exists()):
        pytest.skip("neither Quarto nor smalldocs: run `make docs` once")
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    stamp = ROOT / "_docs" / f".built-{run}"
    # workers share one build
    with FileLock(Path(tempfile.gettempdir()) / f"forecastlab-site-{run}.lock"):
        if not stamp.exists():
            done = subprocess.run(
                [sys.executable, ROOT / ".ci" / "site.py"],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
            stamp.touch()
    handler = partial(Quiet, directory=ROOT / "_docs")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def pages():
    "Notebook -> its page, for all that were published."
    return {
        ROOT / "nbs" / old.with_suffix(".ipynb"): str(new)
        for old, new in builder.names().items()
    }


def wait(driver, script, seconds=20):
    "The value of a script once it is true."
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, seconds).until(
        lambda d: d.execute_script(f"return {script}")
    )


UNSEEN = r"^#\|\s*(hide$|exporti?|default_exp|include: *false|exec_doc)"
DISPLAYED = r"\$\$.+?\$\$"
INLINE = r"(?<![\\$\w])\$(?![\s$])[^$\n]*?(?<![\s\\])\$(?![\d$])"


def equations_of(source):
    "How many equations a cell of prose holds, outside its code."
    prose = re.sub(r"```.*?```|`[^`]*`", "", source, flags=re.S)
    rest = re.sub(DISPLAYED, "", prose, flags=re.S)
    displayed = re.findall(DISPLAYED, prose, re.S)
    return len(displayed) + len(re.findall(INLINE, rest))


def shown(notebook):
    """Equations and pictures that a notebook promises on its page.

    Cells that are hidden, or made at build time, are not counted.
    """
    equations = pictures = 0
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            equations += equations_of(source)
        elif not re.search(UNSEEN, source, re.M):
            drawn = [
                out for out in cell["outputs"] if "image/png" in out.get("data", {})
            ]
            pictures += len(drawn)
    return equations, pictures


def test_site_has_no_broken_link_and_loads_nothing_from_elsewhere(site):
    assert builder.check() == []
    built = {
        str(p.relative_to(ROOT / "_docs")) for p in (ROOT / "_docs").rglob("*.html")
    }
    assert set(pages().values()) <= built
    notebooks = [
        p
        for p in (ROOT / "nbs").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in p.parts
    ]
    assert len(pages()) == len(notebooks)


def test_pandoc_understands_every_docstring_too(site):
    "Prose and equations of notebooks: test_pages.py. Code is not parsed again."
    said = []
    for notebook in pages():
        made = builder.PROC / notebook.relative_to(ROOT / "nbs")
        for cell in json.loads(made.read_text())["cells"]:
            for out in cell.get("outputs", []):
                words = "".join(out.get("data", {}).get("text/markdown", ""))
                plain = re.sub(r"^```.*?^```", "", words, flags=re.S | re.M)
                said.append((made.stem, plain))
    pieces = by_pandoc([words for _, words in said])
    assert len(pieces) == len(said) > 1000
    wrong = [
        (name, fault) for (name, _), made in zip(said, pieces) for fault in raw(made)
    ]
    assert not wrong, wrong


DRAWN = """
const maths = [...document.querySelectorAll("main math")];
return maths.filter(m => m.getBoundingClientRect().width > 1).length;
"""
PICTURES = """
const images = [...document.querySelectorAll("main img")];
const loaded = images.filter(i => i.complete && i.naturalWidth > 1);
const missing = images.filter(i => !loaded.includes(i));
return [loaded.length, missing.map(i => i.src.slice(0, 80))];
"""
# What stands out of the page to the right, unless it is in a box that scrolls.
TOO_WIDE = """
const width = document.documentElement.clientWidth;
const scrolls = e => /auto|scroll|hidden/.test(getComputedStyle(e).overflowX);
const boxed = e => {
    while ((e = e.parentElement) && e !== document.body) if (scrolls(e)) return true;
};
if (document.scrollingElement.scrollWidth <= width) return [];
const wide = [...document.querySelectorAll("main *")]
    .filter(e => e.getBoundingClientRect().right > width + 1 && !boxed(e));
return [`${document.scrollingElement.scrollWidth} pixels`, ...wide.slice(0, 5)
    .map(e => `<${e.localName} class=${e.className}> ${e.textContent.slice(0, 60)}`)];
"""
PHONE = dict(width=390, height=844, deviceScaleFactor=1, mobile=True)


@pytest.fixture
def phone(chrome):
    "A browser as narrow as a phone."
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    yield chrome
    chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def console_errors(chrome):
    "What the browser complained about, but for the picture in its tab."
    severe = [e["message"] for e in chrome.get_log("browser") if e["level"] == "SEVERE"]
    return [message for message in severe if "favicon.ico" not in message]


def test_pages_show_equations_and_figures_on_a_phone_without_an_error(site, phone):
    phone.get_log("browser")
    counted = [0, 0]
    for notebook, page in pages().items():
        phone.get(f"{site}/{page}")
        wait(phone, "document.readyState == 'complete'")
        errors = console_errors(phone)
        assert not errors, f"{page}: {errors[:5]}"
        drawn = phone.execute_script(DRAWN)
        loaded, missing = phone.execute_script(PICTURES)
        wide = phone.execute_script(TOO_WIDE)
        equations, pictures = shown(notebook)
        assert drawn >= equations, (
            f"{page}: {equations} equations in the notebook, {drawn} on the page"
        )
        assert loaded >= pictures and not missing, (
            f"{page}: {pictures} pictures in the notebook, {loaded} on the page; not"
            f" loaded: {missing}"
        )
        assert not wide, f"{page} is wider than a phone: {wide}"
        counted = [counted[0] + drawn, counted[1] + loaded]
    assert min(counted) > 5, (
        f"{counted[0]} equations and {counted[1]} pictures on the whole site"
    )


@pytest.mark.parametrize("boxed", [True, False])
def test_a_planted_page_wider_than_a_phone_is_found(boxed, phone, tmp_path):
    table = f"<table><tr>{'<td>' + 'w' * 30 + '</td>'}{'<td>x</td>' * 60}</tr></table>"
    if boxed:
        table = f'<div class="table-scroll" style="overflow-x: auto">{table}</div>'
    page = tmp_path / "page.html"
    scale = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    page.write_text(f"<!doctype html>{scale}<main>{table}</main>")
    phone.get(page.as_uri())
    wide = phone.execute_script(TOO_WIDE)
    assert bool(wide) is not boxed and (boxed or "<table" in str(wide)), wide


FOUND = """
[...document.querySelectorAll(".smalldocs-search-results a, .aa-Panel a")]
    .map(a => a.href)
"""
NOTHING = """
document.querySelector("#quarto-search, .aa-Panel").innerText.toLowerCase()
    .includes("no results") && document.body.innerText.toLowerCase()
"""


def search(chrome, site, words):
    "Type into the search field of the first page."
    from selenium.webdriver.common.by import By

    chrome.get(f"{site}/index.html")
    wait(chrome, "document.readyState == 'complete'")
    field = "#quarto-search input, #quarto-search button"
    chrome.find_element(By.CSS_SELECTOR, field).click()
    chrome.switch_to.active_element.send_keys(words)


def test_search_answers_and_leads_to_the_page(site, chrome):
    from selenium.webdriver.common.by import By

    search(chrome, site, "pinball loss")
    links = FOUND.strip()
    found = wait(chrome, f"{links}.length && {links}")
    assert any("metrics.html" in u for u in found), found
    chrome.get(found[0])
    assert "pinball" in chrome.find_element(By.TAG_NAME, "main").text.lower()
    search(chrome, site, "zzqqxxyyvv")
    assert "no results" in wait(chrome, NOTHING.strip())


PLACES = {
    "stock": "pipelines/demand_forecast.html",
    "forecast": "pipelines/demand_forecast.html",
    "service level": "pipelines/demand_forecast.html",
    "conformal": "core/conformal.html",
    "Panel": "core/panel.html",
    "install": "install.html",
}


def test_search_puts_jobs_and_pages_before_signatures(site, chrome):
    for words, first in PLACES.items():
        search(chrome, site, words)
        links = FOUND.strip()
        found = wait(chrome, f"{links}.length && {links}")
        assert found[0] == f"{site}/{first}", (words, found[:5])
    # a word that is misspelt is answered as before
    search(chrome, site, "forcaster")
    assert any(
        "forecaster.html" in u for u in wait(chrome, f"{links}.length && {links}")
    )


LINKS = """
const links = [...document.querySelectorAll("#quarto-sidebar a, nav a")];
return links.map(a => a.href.split("#")[0]);
"""


def test_home_page_leads_to_every_page(site, chrome):
    chrome.get(f"{site}/index.html")
    seen = set(chrome.execute_script(LINKS))
    lost = [page for page in pages().values() if f"{site}/{page}" not in seen]
    assert not lost, f"not in the sidebar: {lost}"
