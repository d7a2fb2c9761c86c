"""The wheel as a stranger installs it.

Every module, the pipelines and the embedded data, without nbdev, Jupyter or a checkout.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "A wheel built from what git tracks or would track."
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in listed:
        if not (ROOT / name).is_file() or name.startswith("tests/"):
            continue
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    build = "-m build --wheel --no-isolation --outdir".split()
    done = subprocess.run(
        [sys.executable, *build, out, copy], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next(out.glob("*.whl"))


def run(site, code):
    "Python with only the unpacked wheel in front of it, started far from the checkout."
    env = {k: v for k, v in os.environ.items() if not k.startswith("FORECASTLAB")}
    env["PYTHONPATH"] = str(site)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=site.parent,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    place = tmp_path_factory.mktemp("install") / "site"
    install = "-m pip install -q --no-deps --no-index --target".split()
    done = subprocess.run(
        [sys.executable, *install, place, wheel], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return place


def test_wheel_holds_all_modules_pipelines_and_data(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"forecastlab/{p.relative_to(ROOT / 'forecastlab')}"
        for p in (ROOT / "forecastlab").rglob("*.py")
    }
    wanted |= {
        f"forecastlab/pipelines/{p.name}"
        for p in (ROOT / "nbs" / "pipelines").iterdir()
        if p.suffix in (".ipynb", ".yaml")
    }
    wanted |= {
        f"forecastlab/data/{p.relative_to(ROOT / 'data')}"
        for p in (ROOT / "data").rglob("*")
        if p.suffix in (".csv", ".parquet", ".yaml")
    }
    assert not wanted - held, (
        "not in the wheel; add the folder to [tool.setuptools] in pyproject.toml:"
        f" {sorted(wanted - held)}"
    )
    assert not [n for n in held if n.startswith(("nbs/", "tests/", "data/"))]


IMPORT_ALL = """
import importlib
import pkgutil
import sys

tools = "nbdev fastcore execnb jupyterlab papermill nbformat ipywidgets"
for tool in f"{tools} ray statsforecast gluonts".split():
    sys.modules[tool] = None

import forecastlab

found = pkgutil.walk_packages(forecastlab.__path__, "forecastlab.")
names = [m.name for m in found if not m.name.endswith("_modidx")]
for name in names:
    importlib.import_module(name)
print(forecastlab.__file__, len(names))
"""


def test_every_module_imports_without_notebook_tools(site):
    path, n = run(site, IMPORT_ALL).rsplit(" ", 1)
    assert Path(path).is_relative_to(site) and int(n) >= 10


FOLDERS = """
from forecastlab.core.basics import embedded_dir, pipelines_dir
print(pipelines_dir())
print(embedded_dir())
"""
LIST = """
import sys
from forecastlab.core.cli import main
sys.exit(main(["list", "--all"]))
"""


def test_pipelines_and_data_are_found_in_the_installed_wheel(site):
    found = run(site, FOLDERS).splitlines()
    assert [Path(p).is_relative_to(site) for p in found] == [True, True], found
    listed = run(site, LIST)
    for p in (ROOT / "nbs" / "pipelines").glob("[0-9]*.ipynb"):
        assert p.stem.split("_", 1)[1] in listed
