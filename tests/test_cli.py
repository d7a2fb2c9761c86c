"The command line: one line for an error, an exit code for scripts, quick to answer."

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from forecastlab import __version__
from forecastlab.core import cli, datasets, figures
from forecastlab.core.cli import main
from forecastlab.core.figures import declared_figures, figure_parameters
from forecastlab.core.parameters import about, about_file, belongs_to, declared
from forecastlab.core.parameters import find, from_file, jobs, parameter_files
from forecastlab.core.parameters import pipelines, resolve
from forecastlab.core.runs import load_json, read, refuse_early, save_json
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
    # who types nothing is shown the same
    assert command(capsys) == (0, out, err) == command(capsys, "help")
    assert command(capsys, "ron")[0] == 2


def test_list_shows_every_pipeline_and_its_parameters(capsys):
    code, out, _ = command(capsys, "list")
    assert code == 0
    named = [line.split()[0] for line in out.splitlines() if line[:1].strip()]
    assert named[:-1] == list(jobs()) and "list --all" in out
    assert not any(name.startswith("bench_") for name in jobs())
    code, out, _ = command(capsys, "list", "--all")
    named = [line.split()[0] for line in out.splitlines() if line[0] != " "]
    assert code == 0 and named == list(pipelines())
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


def test_each_parameter_file_belongs_to_one_pipeline(capsys):
    offered = {name: command(capsys, "list", name)[1] for name in pipelines()}
    listed = command(capsys, "list")[1]
    for file in parameter_files().values():
        owner = belongs_to(file)
        assert [n for n, out in offered.items() if file.name in out] == [owner]
        assert about_file(file) and f"-f {file.name}" in listed
        assert resolve(pipelines()[owner], from_file(file, pipelines()[owner]))
        other = "toy_paths" if owner != "toy_paths" else "toy_density"
        code, out, err = command(capsys, "run", other, "-f", file.name)
        assert code == 2 and f"belongs to {owner}, not to {other}" in err
        assert f"forecastlab run {owner} -f {file.name}" in err


@pytest.fixture
def runs_of_many(tmp_path):
    "A folder of runs with many parameters, many metrics, one failure."
    for i, name in enumerate(["demand_forecast", "xmr_train", "demand_forecast"]):
        folder = tmp_path / "runs" / name / f"20260102-03040{i}"
        known = dict(data=f"sales {i}.csv", horizon=8) | {f"p{k}": i for k in range(9)}
        save_json(folder / "parameters.json", known)
        save_json(folder / "metrics.json", {f"metric_{k}": i / 7 for k in range(30)})
        state = dict(name=name, status="done" if i else "failed", seconds=1.5)
        state |= dict(
            started=f"2026-01-02T03:04:0{i}+00:00", error="" if i else "x" * 90
        )
        save_json(folder / "status.json", state)
    return tmp_path / "runs"


TABLES = ["list", "list --all", "list demand_forecast", "figures", "data list"]
TABLES += ["figures lab.load.gb", "data list m5_foods3_tx3", "runs", "--help"]
TABLES += ["runs --where p1>0 --sort -metric_29", "runs 20260102-030401"]
TABLES += [f"{c} --help" for c in "list look runs data figures run sweep".split()]


@pytest.mark.parametrize("columns", [80, 120])
def test_every_table_fits_the_terminal(capsys, runs_of_many, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORECASTLAB_RUNS", str(runs_of_many))
    for words in TABLES:
        code, out, err = command(capsys, *words.split())
        assert code == 0 and not err, words
        # a path stays whole, so that it can be copied
        lines = [x for x in out.splitlines() if str(runs_of_many) not in x]
        assert lines and max(map(len, lines)) <= columns, words
        if words in ("figures", "data list", "runs"):
            assert 4 <= len(re.split(r"  +", lines[0].strip())) <= 8, lines[0]


def test_a_narrow_table_keeps_what_was_asked_for(capsys, runs_of_many, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    asked = ["runs", "--runs", runs_of_many, "--where", "metric_29>0.1"]
    out = command(capsys, *asked, "--sort", "-metric_3")[1]
    assert {"name", "id", "status", "metric_29", "metric_3"} <= set(
        out.split("\n")[0].split()
    )
    assert "more columns: --wide" in out
    assert "metric_17" in command(capsys, *asked, "--wide")[1]
    one = command(capsys, "runs", "20260102-030400", "--runs", runs_of_many)[1]
    assert "metric_17" in one and "x" * 40 in one
    assert "not a condition" in command(capsys, *asked[:3], "--where", "nonsense")[2]
    assert "no such column: a" in command(capsys, *asked[:3], "--where", "a=1")[2]
    again = f"--resume --out {runs_of_many / 'demand_forecast' / '20260102-030400'}"
    assert again in one


def test_what_a_figure_is_stands_in_full_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    told = " ".join(command(capsys, "figures")[1].split())
    assert all(" ".join(f["what"].split()) in told for f in declared_figures().values())


def test_in_a_pipe_nothing_is_left_out(capsys, runs_of_many, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    out = command(capsys, "runs", "--runs", runs_of_many)[1]
    assert "metric_29" in out and "p8" in out and "..." not in out
    out = command(capsys, "figures")[1]
    assert all(f["what"] in out for f in declared_figures().values())


def examples():
    "Command lines in the help of every command."
    found = []
    for name in "list look runs data figures run sweep".split():
        out = io.StringIO()
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
            main([name, "--help"])
        lines = out.getvalue().splitlines()
        found += [x.strip() for x in lines if x.startswith("  forecastlab ")]
    return found


def test_every_example_in_the_help_works(capsys, here, monkeypatch, runs_of_many):
    "Those that take minutes are checked up to the first cell that is not early."
    assert len(examples()) > 15
    weeks = pd.date_range("2024-01-07", periods=60, freq="W-SUN").astype(str)
    sold = pd.DataFrame({"unique_id": "a", "ds": weeks, "y": range(60)})
    sold.to_csv(here / "sales.csv", index=False)
    monkeypatch.setenv("FORECASTLAB_RUNS", str(runs_of_many))
    # `--where 'metrics.wql<0.5'`
    save_json(
        runs_of_many / "xmr_train" / "20260102-030401" / "metrics.json", {"wql": 1}
    )

    def checked(name, given, resume=False, **more):
        path = find(name)
        refuse_early(path, resolve(path, given))
        return resume

    monkeypatch.setattr(cli, "run", checked)
    monkeypatch.setattr(figures, "measure", lambda ids, *more: list(ids))
    fetched = []
    monkeypatch.setattr(datasets, "get", fetched.append)
    for line in examples():
        code, out, err = command(capsys, *shlex.split(line)[1:])
        assert code == 0 and out and not err, (line, err)
    assert fetched == ["online_retail"]


def test_a_parameter_file_is_run_by_its_name(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        cli, "run", lambda name, given, **more: asked.append((name, given)) or "r"
    )
    assert command(capsys, "run", "demand_m5", "-p", "horizon", "9")[0] == 0
    name, given = asked[0]
    assert name == "demand_forecast"
    assert given == from_file("demand_m5") | dict(horizon="9")


EARLY = """
import json, sys
from forecastlab.core.basics import LabError
from forecastlab.core.parameters import cells, declared, pipelines, resolve
from forecastlab.core.runs import refuse_early
wrong = dict(bench_house=("tests", "none"), bench_conformance=("tests", "none"))
wrong |= dict(bench_board=("most", 0), bench_public=("most", -1))
wrong["bench_sliders"] = ("names", "none")
silent = []
for name, path in pipelines().items():
    known = declared(path).values()
    whole = [p.name for p in known if p.hint == "int" and p.name != "seed"]
    where, value = wrong.get(name) or ((whole or ["seed"])[0], -7)
    if not any("early" in c["tags"] for c in cells(path)):
        silent.append(name)
    try:
        refuse_early(path, resolve(path, {where: value}))
        silent.append(name)
    except LabError as e:
        if where not in str(e) and value not in (-7, "none"):
            silent.append(f"{name}: {e}")
heavy = "torch pandas numpy scipy numba sklearn pyarrow matplotlib IPython papermill"
print(json.dumps([silent, sorted(set(heavy.split()) & set(sys.modules))]))
"""


def test_every_pipeline_refuses_a_bad_value_before_any_heavy_import():
    done = subprocess.run(
        [sys.executable, "-c", EARLY], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[], []]


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
        (["sweep", "none.yaml"], "no such sweep file"),
        (["sweep", "list.yaml"], "a parameter file holds"),
        (["data", "get"], "data get needs a name"),
        (["data", "get", "onlin_retail"], "unknown data set 'onlin_retail'"),
        (["figures", "lab.window"], "unknown figure: lab.window"),
        (["figures", "lab.window", "--run"], "did you mean 'lab.windows'?"),
        (["figures", "lab.wndows"], "did you mean 'lab.windows'?"),
        (["rnu"], "unknown command: rnu. did you mean 'run'?"),
        (["demand_forecst"], "did you mean 'demand_forecast'? A pipeline is run by"),
        (["run", "demand_forecast", "horizon=3"], "did you mean -p horizon 3?"),
        (["run", "demand_forecast", "--horizon", "3"], "did you mean -p horizon 3?"),
        (["run", "demand_forecast", "--servce=.9"], "did you mean -p service .9?"),
        (["run", "demand_forecast", "my.csv"], "did you mean -p data my.csv?"),
        (["run", "nothere", "--horizon", "3"], "unknown pipeline: nothere."),
        (["run", "demand_forecast", "-p", "horizon"], "-p NAME VALUE"),
        (["run"], "something is missing: name"),
        (["runs", "--folder", "X"], "did you mean --runs X?"),
        (["runs", "-n", "3"], "There are: --help, --debug, --where"),
        (["figures", "--id", "lab.windows"], "did you mean lab.windows, without --id"),
        (["look", "sales.csv", "--id", "sku"], "did you mean -p id sku?"),
        (["list", "demnd"], "did you mean 'demand_forecast'"),
        (["data", "get", "m4"], "Did you mean m4_hourly or m4_weekly?"),
        (["demand_forecast"], "forecastlab run demand_forecast runs it."),
        (["run", "demand"], "did you mean 'demand_forecast'"),
        (["run", "xmr_train", "--resum"], "did you mean --resume?"),
        (["run", "demand_forecast", "-p", "horizn=8"], "did you mean 'horizon'?"),
        (["run", "demand_forecast", "-f", "demand_m6"], "mean 'demand_m5.yaml'?"),
        (["look", "sales.csv", "-p", "tagret", "y"], "did you mean 'target'?"),
        (["data", "chek"], "did you mean 'check'?"),
        (["runs", "nothing"], "no run nothing in"),
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
