"The command line: one line for an error, an exit code for scripts, quick to answer."

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from forecastlab import __version__
from forecastlab.core import cli
from forecastlab.core.basics import pipelines_dir
from forecastlab.core.cli import main
from forecastlab.core.figures import declared_figures, figure_parameters
from forecastlab.core.parameters import about, declared, pipelines, resolve
from forecastlab.core.runs import load_json, read, save_json
from toys import COMMAND, COUNT, notebook


@pytest.fixture
def toy(tmp_path):
    return notebook(tmp_path / "10_toy.ipynb", COUNT)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORECASTLAB_RUNS", raising=False)
    return tmp_path


def command(capsys, *words):
    "Exit code, output, errors."
    try:
        code = main([str(w) for w in words])
    except SystemExit as e:
        code = e.code
    return (code, *capsys.readouterr())


def needs_papermill():
    pytest.importorskip("papermill", reason="papermill is in the `run` extra")


def test_version_and_help(capsys):
    assert __version__ in command(capsys, "--version")[1]
    code, out, err = command(capsys, "--help")
    assert code == 0
    for name in ("list", "run", "runs", "sweep", "data", "figures"):
        assert name in out
        assert command(capsys, name, "--help")[0] == 0
    assert command(capsys)[0] == 2 and command(capsys, "ron")[0] == 2


def test_list_shows_every_pipeline_and_its_parameters(capsys):
    code, out, _ = command(capsys, "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(pipelines())
    for name, path in pipelines().items():
        known = declared(path)
        assert about(path), f"{name} needs a subtitle"
        assert known.pop("out", None), f"{name} needs the parameter out"
        code, out, _ = command(capsys, "list", name)
        assert code == 0 and all(p.name in out for p in known.values())
        assert all(p.help for p in known.values()), f"{name}: no comment on a parameter"


LOADED = """
import sys
from forecastlab.core.cli import main
main(["list"])
print(*sys.modules, file=sys.stderr)
"""


def test_list_and_help_load_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    heavy = "torch pandas numpy pyarrow matplotlib papermill ray IPython nbformat yaml"
    assert not {*heavy.split(), "jupyter_client"} & set(done.stderr.split())


@pytest.mark.parametrize("id", list(declared_figures()))
def test_each_figure_sets_parameters_that_its_pipeline_knows(id):
    figure = declared_figures()[id]
    assert resolve(pipelines()[figure["pipeline"]], figure_parameters(figure))


def test_each_parameter_file_is_offered_by_its_pipelines_only(capsys):
    offered = {name: command(capsys, "list", name)[1] for name in pipelines()}
    for file in pipelines_dir().glob("*.yaml"):
        by = [name for name, out in offered.items() if file.name in out]
        assert by, f"{file.name} fits no pipeline of its first word"
        assert {name.split("_")[0] for name in by} == {file.name.split("_")[0]}


def test_no_runs_yet_says_where_it_looked_and_what_makes_one(capsys, here):
    code, out, _ = command(capsys, "runs")
    assert code == 0 and str(here / "runs") in out and "forecastlab run" in out


def test_a_table_of_one_run_shows_what_was_set(capsys, toy, here, monkeypatch):
    needs_papermill()
    monkeypatch.setattr(cli, "pipelines", lambda: {"toy": toy})
    assert command(capsys, "run", toy, "-p", "steps", 2)[0] == 0
    head = command(capsys, "runs")[1].splitlines()[0].split()
    assert "parameters.steps" in head and "seed" not in head


def test_run_prints_its_folder_and_shows_progress(capsys, toy, here):
    needs_papermill()
    (here / "p.yaml").write_text("steps: 9\nseed: 4\n")
    code, out, err = command(capsys, "run", toy, "-f", "p.yaml", "-p", "steps", 2)
    folder = Path(out.strip())
    assert code == 0 and folder.parent == here / "runs" / "toy"
    assert "[2/2] Train" in err and "step 2" in err
    assert read(folder)["parameters"] == {"seed": 4, "steps": 2, "wait": 0.0}
    code, out, err = command(capsys, "runs", "--where", "steps=2", "--sort", "-wql")
    assert code == 0 and folder.name in out and "done" in out and "wql" in out
    assert command(capsys, "runs", "--where", "steps>2")[1] == "no runs\n"
    assert command(capsys, "runs", "--csv", "all.csv")[0] == 0
    assert "metrics.wql" in (here / "all.csv").read_text()


def test_a_failing_run_has_exit_code_1(capsys, here):
    needs_papermill()
    nb = notebook(here / "toy.ipynb", "1/0")
    code, out, err = command(capsys, "run", nb, "--quiet", "--out", "r")
    assert (code, out) == (1, "")
    assert err.startswith("forecastlab: toy failed: ZeroDivisionError")
    assert err.count("\n") == 1
    with pytest.raises(RuntimeError):
        main(["run", str(nb), "--quiet", "--out", "r2", "--debug"])
    assert "ZeroDivisionError" in command(capsys, "runs", "--runs", ".")[1]


@pytest.mark.parametrize(
    "words, message",
    [
        (["run", "demand_forcast"], "unknown pipeline: demand_forcast."),
        (["run", "none.ipynb"], "no such notebook: none.ipynb."),
        (
            ["run", "10_toy.ipynb", "-p", "stepps", "1"],
            "unknown 'stepps' (did you mean 'steps'?)",
        ),
        (
            ["run", "10_toy.ipynb", "-p", "steps", "x", "-p", "wait", "y"],
            "steps='x' is not int, wait='y' is not float",
        ),
        (
            ["run", "10_toy.ipynb", "-f", "none.yaml"],
            "no such parameter file: none.yaml",
        ),
        (["run", "10_toy.ipynb", "-f", "list.yaml"], "a parameter file holds"),
        (["run", "10_toy.ipynb", "-f", "twice.yaml"], "given twice"),
        (["runs", "--where", "nonsense"], "not a condition"),
        (["runs", "--where", "a=1"], "no such column: a"),
        (["sweep", "none.yaml"], "no such sweep file"),
        (["sweep", "list.yaml"], "a parameter file holds"),
        (["data", "get"], "data get needs a name"),
        (["data", "get", "onlin_retail"], "unknown data set 'onlin_retail'"),
        (["figures", "lab.window"], "unknown figure: lab.window"),
        (["figures", "lab.window", "--run"], "did you mean 'lab.windows'?"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(capsys, toy, here, words, message):
    (here / "list.yaml").write_text("- 1\n")
    (here / "twice.yaml").write_text("steps: 1\nsteps: 2\n")
    before = sorted(p.name for p in here.iterdir())
    code, out, err = command(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("forecastlab: ") and message in err
    assert err.count("\n") == 1
    assert sorted(p.name for p in here.iterdir()) == before


def test_a_missing_extra_is_named(capsys, toy, here, monkeypatch):
    real = importlib.util.find_spec
    without = lambda name, *a: None if name == "papermill" else real(name, *a)
    monkeypatch.setattr(importlib.util, "find_spec", without)
    code, out, err = command(capsys, "run", toy, "--quiet", "--out", "r")
    told = "forecastlab: papermill is not installed. pip install 'forecastlab[run]'\n"
    assert (code, out, err) == (2, "", told)
    assert not (here / "r").exists()


def test_the_command_is_quiet_in_a_closed_pipe(toy):
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    words = shlex.join(COMMAND) + " figures | head -1"
    done = subprocess.run(words, shell=True, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_data_list_and_check(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("FORECASTLAB_DATA", raising=False)
    monkeypatch.setenv("FORECASTLAB_CACHE", str(tmp_path))
    from forecastlab.core import datasets

    code, out, _ = command(capsys, "data", "list")
    assert code == 0 and all(name in out for name in datasets.names())
    code, out, err = command(capsys, "data", "check", "online_retail")
    assert code == 0 and "whole" in out and not err
    code, out, _ = command(capsys, "data", "get", "online_retail")
    assert code == 0 and Path(out.split(maxsplit=1)[1].strip()).is_dir()
    code, out, err = command(capsys, "data", "check", "m5_foods3_tx3")
    assert code == 1 and "missing" in out and "missing" in err
    # sets one does not have are no fault
    assert command(capsys, "data", "check")[0] == 0


def test_a_damaged_run_is_listed(capsys, here):
    folder = here / "runs" / "toy" / "a"
    save_json(folder / "parameters.json", {"seed": 1})
    (folder / "status.json").write_text('{"sta')
    code, out, _ = command(capsys, "runs")
    assert code == 0 and "damaged" in out
    assert load_json(folder / "status.json") is None
