"""Studies as a reader meets them in JupyterLab.

All cells run, the slider is moved, the picture changes.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).resolve().parent.parent
STUDIES = sorted((ROOT / "nbs" / "studies").glob("*.ipynb"))
# One that trains for a moment only; the others run here with --long.
QUICK = "40_how_wide_must_the_search_be"
MARKS = {True: (), False: pytest.mark.long}


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a free loopback port, on a copy of the notebooks, with settings of
    its own; its address and token.
    """
    pytest.importorskip("jupyterlab", reason="JupyterLab is in the `lab` extra")
    shutil.copytree(
        ROOT / "nbs",
        tmp_path / "nbs",
        symlinks=True,
        ignore=shutil.ignore_patterns(".ipynb_checkpoints"),
    )
    settings = {
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {
            "fetchNews": "false",
            "checkForUpdates": False,
        },
    }
    for name, value in settings.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    env = {
        **{k: v for k, v in os.environ.items() if k != "MPLBACKEND"},
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    log = open(tmp_path / "lab.log", "w")
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={token}",
            f"--ServerApp.root_dir={tmp_path / 'nbs'}",
        ],
        env=env,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        for _ in range(240):
            if server.poll() is not None:
                pytest.fail((tmp_path / "lab.log").read_text()[-3000:])
            try:
                urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/api?token={token}", timeout=5
                )
                break
            except OSError:
                time.sleep(0.25)
        else:
            pytest.fail("JupyterLab did not answer within a minute")
        yield f"http://127.0.0.1:{port}", token
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
        log.close()


@pytest.mark.parametrize(
    "study",
    [pytest.param(p, marks=MARKS[p.stem == QUICK], id=p.stem) for p in STUDIES],
)
def test_the_slider_of_a_study_redraws_its_figure(study, lab, chrome):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    address, token = lab
    chrome.set_window_size(1400, 1600)
    chrome.get(f"{address}/lab/tree/studies/{study.name}?token={token}")

    def until(condition, seconds, what):
        # JupyterLab draws cells anew
        return WebDriverWait(
            chrome,
            seconds,
            poll_frequency=0.2,
            ignored_exceptions=[StaleElementReferenceException],
        ).until(lambda d: condition(), what)

    def one(css, text=None):
        return next(
            (
                e
                for e in chrome.find_elements(By.CSS_SELECTOR, css)
                if e.is_displayed() and (text is None or e.text.strip() == text)
            ),
            None,
        )

    until(lambda: one(".jp-NotebookPanel .jp-Cell"), 60, "the notebook did not open")
    until(
        lambda: one(
            ".jp-StatusBar-Widget .jp-StatusBar-TextItem", "Python 3 (ipykernel) | Idle"
        ),
        180,
        "no kernel",
    )
    assert not one(".jp-Dialog"), "JupyterLab asks which kernel to use"
    until(lambda: one(".lm-MenuBar-itemLabel", "Run"), 10, "no Run menu").click()
    until(
        lambda: one(".lm-Menu-itemLabel", "Run All Cells"), 10, "no 'Run All Cells'"
    ).click()
    handle = lambda: one(".jp-OutputArea .widget-slider .noUi-handle")
    until(handle, 600, "no slider after all cells ran")
    # a picture, and words below it where a value cannot be drawn
    picture = (
        "return [...document.querySelectorAll('.jp-OutputArea .jupyter-widgets"
        " img.widget-image')].map(i => i.src).join()"
    )
    until(lambda: chrome.execute_script(picture), 60, "no picture below the slider")
    words = (
        "return [...document.querySelectorAll('.jupyter-widgets .widget-label')]"
        ".filter(w => w.offsetWidth > 0 && w.scrollWidth > w.clientWidth)"
        ".map(w => w.innerText)"
    )
    assert not chrome.execute_script(words), "descriptions that are cut"
    errors = chrome.execute_script(
        "return"
        " [...document.querySelectorAll('.jp-OutputArea-output[data-mime-type*=stderr],"
        " .jp-RenderedText[data-mime-type*=error]')].map(e => e.innerText)"
    )
    assert not errors, errors
    before = chrome.execute_script(picture)
    at = until(
        lambda: handle().get_attribute("aria-valuenow"), 20, "the slider has no value"
    )
    until(
        lambda: (
            chrome.execute_script(
                "arguments[0].scrollIntoView({block: 'center'})", handle()
            )
            is None
        ),
        20,
        "the slider cannot be shown",
    )
    until(
        lambda: handle().send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT) is None,
        20,
        "the slider takes no keys",
    )
    until(
        lambda: handle().get_attribute("aria-valuenow") != at,
        20,
        "the slider did not move",
    )
    until(
        lambda: chrome.execute_script(picture) != before,
        60,
        "the picture did not change with the slider",
    )


def test_make_lab_opens_the_home_notebook(lab, chrome):
    "`make lab` opens nbs/index.ipynb; it must render there, links included."
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    assert "jupyter-lab nbs/index.ipynb" in (ROOT / "Makefile").read_text()
    address, token = lab
    chrome.get(f"{address}/lab/tree/index.ipynb?token={token}")
    WebDriverWait(chrome, 60).until(
        lambda d: (
            "forecastlab"
            in (
                d.execute_script(
                    "return document.querySelector('.jp-MarkdownOutput h1')?.innerText"
                )
                or ""
            ).lower()
        )
    )
    assert chrome.find_elements(By.CSS_SELECTOR, ".jp-NotebookPanel")
