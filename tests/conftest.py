"""What every test can use: folders, commands, browsers, and the reasons to be skipped.

A test that this machine cannot run says what is missing.
"""

import os
import shutil
import sys
from pathlib import Path

# Set before torch or triton is imported: one thread a test process, kernels through
# Triton's interpreter where there is no GPU.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not shutil.which("nvidia-smi"):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / ".ci"))
import browse

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption(
        "--network",
        action="store_true",
        help="also run tests that download from the internet",
    )
    parser.addoption(
        "--long",
        action="store_true",
        help="also run tests of half a minute and more",
    )


def pytest_collection_modifyitems(config, items):
    "Skip what this machine cannot run, and say why."
    lacking = {}
    if not shutil.which("nvidia-smi"):
        lacking["gpu"] = "no NVIDIA GPU"
    if not browse.can_drive():
        lacking["browser"] = browse.NO_BROWSER
    if not config.getoption("--network"):
        lacking["network"] = "downloads from the internet: pass --network"
    if not config.getoption("--long"):
        lacking["long"] = "takes half a minute and more: pass --long"
    if any(item.get_closest_marker("kernel") for item in items) and not kernels_run():
        lacking["kernel"] = (
            "Triton is missing, or was imported before forecastlab without a GPU"
        )
    for item in items:
        for mark in item.iter_markers():
            if mark.name in lacking:
                item.add_marker(pytest.mark.skip(reason=lacking[mark.name]))


def kernels_run():
    "Compiled on a GPU, or through the interpreter."
    from forecastlab.kernels.runtime import interpreting, native

    return interpreting() or native()


@pytest.fixture(scope="session")
def root():
    "The checkout."
    return ROOT


@pytest.fixture(scope="session")
def mirror():
    "The local mirror of the registered data sets."
    path = os.environ.get("FORECASTLAB_DATA")
    if not path:
        pytest.skip(
            "FORECASTLAB_DATA is not set: it names a folder with a mirror of the data"
            " sets"
        )
    if not Path(path).is_dir():
        pytest.skip(f"FORECASTLAB_DATA={path} is no folder")
    return Path(path)


@pytest.fixture(scope="session")
def peer(root):
    "A Python with libpecos in it."
    if python := os.environ.get("FORECASTLAB_PECOS_PYTHON"):
        return python
    if not (root / ".venv-peers" / ".ready").exists():
        pytest.skip(
            "no Python with libpecos: `make peers`, or name one in"
            " FORECASTLAB_PECOS_PYTHON"
        )
    return str(root / ".venv-peers" / "bin" / "python")


@pytest.fixture
def xr(capsys):
    "Run `forecastlab-xr` on words, or on a whole line: exit code, output, errors."
    from forecastlab.ranking import commands

    def run(*words):
        if len(words) == 1:
            words = words[0].split()
        code = commands.main([str(w) for w in words])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def chrome(tmp_path):
    "A headless Chromium with an empty profile, which keeps every console message."
    driver = browse.chrome(tmp_path / "profile")
    yield driver
    driver.quit()
