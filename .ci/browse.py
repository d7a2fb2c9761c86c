"""The built site as a reader's browser has it: what axe finds, and what a page weighs.

`python .ci/browse.py` prints both as JSON; the tests use the same functions. axe-core
comes from npm (`make .venv-docs/axe.min.js`).
"""

import json
import re
import shutil
import sys
import tempfile
import threading
from contextlib import contextmanager
from functools import lru_cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
DOCS, AXE = ROOT / "_docs", ROOT / ".venv-docs" / "axe.min.js"
# One page of each kind: words, tables, code, equations, pictures, source.
PAGES = (
    "index.html",
    "install.html",
    "results.html",
    "404.html",
    "core/panel.html",
    "kernels/quantile_loss.html",
    "quantile/mqf2.html",
    "pipelines/demand_forecast.html",
    "studies/five_knots_or_twenty.html",
    "source/forecastlab/core/figures.html",
)
SCHEMES = ("light", "dark")
NO_BROWSER = (
    "no Chromium with ChromeDriver (Debian: apt-get install chromium chromium-driver)"
)


def browser():
    "The path of a Chromium, or None."
    known = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, known) if path), None)


def can_drive():
    "Whether there is a Chromium, and its driver."
    return bool(browser() and shutil.which("chromedriver"))


def chrome(profile):
    "A headless Chromium with an empty profile, which keeps every console message."
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser()
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        "window-size=1400,1200",
        "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    return webdriver.Chrome(options, service)


class Files(SimpleHTTPRequestHandler):
    "A folder as a public host serves it: quietly, with the page for what is not there."

    def log_message(self, *args):
        pass

    def send_error(self, code, message=None, explain=None):
        lost = Path(self.directory) / "404.html"
        if code != 404 or not lost.exists():
            return super().send_error(code, message, explain)
        self.send_response(404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(lost.read_bytes())


@contextmanager
def served(folder):
    "The address of a folder, served on the loopback."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def screen(driver, width, height, scheme="light"):
    "A screen of this size, whose owner prefers this scheme."
    size = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 800)
    prefers = dict(name="prefers-color-scheme", value=scheme)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=[prefers]))


RUN = """
const done = arguments[arguments.length - 1];
const told = (v, n) => `${v.impact}: ${v.id}: ${n.html.slice(0, 120)}`;
axe.run(document, {resultTypes: ["violations"]}).then((found) => done(
    found.violations
        .filter((v) => v.impact === "serious" || v.impact === "critical")
        .flatMap((v) => v.nodes.map((n) => told(v, n)))
));
"""


def findings(driver, address):
    "Serious and critical findings of axe on a page, each with the tag it is about."
    driver.set_script_timeout(120)
    driver.get(address)
    driver.execute_script(AXE.read_text())
    return driver.execute_async_script(RUN)


@lru_cache(None)
def size(file):
    "Bytes of a file, and of what a style sheet loads."
    if not file.exists():
        return 0
    total = file.stat().st_size
    if file.suffix == ".css":
        found = re.findall(r"url\(\s*[\"']?([^\"')]+)", file.read_text())
        for url in {urlsplit(u).path for u in found if not u.startswith("data:")}:
            total += size((file.parent / url).resolve())
    return total


def weight(page):
    "Kilobytes of a page with its style sheets, fonts, scripts and pictures."
    text = page.read_text()
    sheets = re.findall(
        r"<link\b(?=[^>]*(?:stylesheet|icon))[^>]*href=\"([^\"]*)", text
    )
    loaded = sheets + re.findall(r"<(?:img|script)\b[^>]*\ssrc=\"([^\"]*)", text)
    here = {urlsplit(u).path for u in loaded if not re.match(r"\w+:", u)}
    files = {(page.parent / path).resolve() for path in here}
    return (page.stat().st_size + sum(map(size, files))) / 1000


def heaviest(docs=DOCS):
    "The heaviest page of the site and its weight."
    weights = {page: weight(page) for page in docs.rglob("*.html")}
    page = max(weights, key=weights.get)
    return str(page.relative_to(docs)), weights[page]


def every_finding():
    "Findings on ten pages in both schemes: page and scheme -> what axe says."
    found = {}
    with tempfile.TemporaryDirectory() as profile, served(DOCS) as site:
        driver = chrome(profile)
        try:
            for scheme in SCHEMES:
                screen(driver, 1280, 900, scheme)
                for page in PAGES:
                    said = findings(driver, f"{site}/{page}")
                    found[f"{page}, {scheme}"] = said
        finally:
            driver.quit()
    return found


def lacking():
    "What must be there before a page can be looked at, in words, or an empty text."
    if not can_drive():
        return NO_BROWSER
    if not AXE.exists():
        return "no axe-core from npm: make .venv-docs/axe.min.js"
    return ""


if __name__ == "__main__":
    if why := lacking():
        sys.exit(why)
    page, kilobytes = heaviest()
    print(json.dumps(dict(findings=every_finding(), heaviest=page, page_kb=kilobytes)))
