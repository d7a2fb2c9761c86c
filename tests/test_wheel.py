"""The wheel as a stranger installs it:

every module, the pipelines and the embedded data, without nbdev, Jupyter or a checkout.
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
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            out,
            copy,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next(out.glob("*.whl"))


def run(site, code):
    """Python with only the unpacked wheel in front of the environment, started far from
    the checkout.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("FORECASTLAB")} | {
        "PYTHONPATH": str(site)
    }
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
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            "--target",
            place,
            wheel,
        ],
        capture_output=True,
        text=True,
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


def test_every_module_imports_without_notebook_tools(site):
    code = """
import sys, pkgutil, importlib
for tool in ("nbdev", "fastcore", "execnb", "jupyterlab", "papermill", "nbformat", "ipywidgets", "ray", "statsforecast", "gluonts"): sys.modules[tool] = None
import forecastlab
names = [m.name for m in pkgutil.walk_packages(forecastlab.__path__, "forecastlab.") if not m.name.endswith("_modidx")]
for name in names: importlib.import_module(name)
print(forecastlab.__file__, len(names))
"""
    path, n = run(site, code).rsplit(" ", 1)
    assert Path(path).is_relative_to(site) and int(n) >= 10


def test_pipelines_and_data_are_found_in_the_installed_wheel(site):
    found = run(
        site,
        "from forecastlab.core.basics import pipelines_dir, embedded_dir;"
        " print(pipelines_dir()); print(embedded_dir())",
    ).splitlines()
    assert [Path(p).is_relative_to(site) for p in found] == [True, True], found
    listed = run(
        site,
        "import sys; from forecastlab.core.cli import main; sys.argv = ['forecastlab',"
        " 'list']; sys.exit(main())",
    )
    for p in (ROOT / "nbs" / "pipelines").glob("[0-9]*.ipynb"):
        assert p.stem.split("_", 1)[1] in listed
