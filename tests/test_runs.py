"""Runs and sweeps.

Strict parameters, folders that tell the truth, killed processes, full disks.
"""

import contextlib
import errno
import io
import json
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("papermill", reason="papermill is in the `run` extra")

from forecastlab.core import basics, reader, runs
from forecastlab.core.basics import LabError
from forecastlab.core.cli import main
from forecastlab.core.runs import Echo, RunFailed, load_json, locked, read, run
from forecastlab.core.runs import save_json
from forecastlab.core.sweep import folders, job_folder, plan, sweep, table
from toys import COUNT, alive, notebook, start, until


@pytest.fixture
def toy(tmp_path):
    return notebook(tmp_path / "10_toy.ipynb", COUNT)


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def status(folder):
    return load_json(Path(folder) / "status.json") or {}


def times_of(folder):
    "When each file of a run was last written; the lock is touched all the time."
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    return {p: p.stat().st_mtime_ns for p in files}


def counted(folder):
    "How far the toy has come; it has written at least once."
    checkpoint = folder / "artifacts" / "checkpoint"
    text = checkpoint.read_text() if checkpoint.exists() else ""
    return int(text or 0)


def kernel_at_work(folder):
    "The kernel's process id, once it is in the last cell."
    found = until(
        lambda: status(folder).get("step") == "2/2 Train" and status(folder)["kernel"]
    )
    return found[0]


def test_a_run_leaves_a_whole_folder(toy, tmp_path, capsys):
    given = {"steps": "2", "seed": 5}
    folder = run(toy, given, runs=tmp_path / "runs", terminal=sys.stderr)
    assert folder.parent == tmp_path / "runs" / "toy"
    assert names(folder) == [
        ".lock",
        "artifacts",
        "log.txt",
        "metrics.json",
        "notebook.html",
        "notebook.ipynb",
        "parameters.json",
        "status.json",
        "versions.json",
    ]
    done = read(folder)
    assert (done["status"], done["error"]) == ("done", "")
    assert done["parameters"] == {"seed": 5, "steps": 2, "wait": 0.0}
    assert done["metrics"] == {"steps": 2, "begin": 0, "wql": 2 / 15}
    assert done["seconds"] > 0
    versions = load_json(folder / "versions.json")
    assert {"python", "torch", "papermill", "notebook_sha256"} <= set(versions)
    shown = capsys.readouterr().err
    for line in ("[1/2] set-up", "[2/2] Train", "  step 2", "done after"):
        assert line in shown
    assert "step 2" in (folder / "log.txt").read_text()


def test_the_page_needs_nothing_from_elsewhere(toy, tmp_path):
    page = (run(toy, out=tmp_path / "run", terminal=None) / "notebook.html").read_text()
    assert "step 3" in page
    assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', page)


WHERE = """
import os
import sys
from forecastlab.core.runs import record
record(out, python=sys.executable, cwd=os.getcwd())
"""


def test_the_kernel_is_this_python_in_this_folder(tmp_path, monkeypatch):
    nb = notebook(tmp_path / "where.ipynb", WHERE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "none"))
    assert read(run(nb, out="run", terminal=None))["metrics"] == {
        "python": sys.executable,
        "cwd": str(tmp_path),
    }


TYPES = """\
out: str = ""
text: str = ""
levels: list[float] = [.5]
names: dict[str, str] = {}
limit: float | None = 1.
flag: bool = True"""
RECORD = """
from forecastlab.core.runs import record
record(out, text=text, levels=levels, names=names, limit=limit, flag=flag)
"""


def test_values_reach_the_notebook_as_they_are(tmp_path):
    nb = notebook(tmp_path / "types.ipynb", RECORD, declared=TYPES)
    given = {
        "text": "a \"b\" \\n {c} 'd' \u00e4",
        "levels": ".1, 1",
        "names": {"y": "sales"},
        "limit": "none",
        "flag": "no",
    }
    found = read(run(nb, given, out=tmp_path / "a {b} c", terminal=None))
    read_as = {"levels": [0.1, 1.0], "limit": None, "flag": False}
    assert found["metrics"] == given | read_as


FEW = """\
as_declared(globals())
record(out, levels=levels, steps=steps)"""


@pytest.mark.parametrize(
    "given, told",
    [
        (dict(levels="[.1, 1e-3]", steps="5"), {"levels": [0.1, 0.001], "steps": 5}),
        (dict(levels="low", steps=1), "levels='low' is not list[float]"),
        (dict(levels=[0.1], steps=2.5), "steps=2.5 is not int"),
    ],
)
def test_a_notebook_checks_its_parameters_under_plain_papermill(tmp_path, given, told):
    from papermill import PapermillExecutionError, execute_notebook

    imports = "from forecastlab.core.parameters import as_declared\n"
    imports += "from forecastlab.core.runs import record\n"
    declared = 'out: str = ""\nlevels: list[float] = [.5]\nsteps: int = 3'
    nb = notebook(tmp_path / "few.ipynb", imports + FEW, declared=declared)
    words = dict(kernel_name="python3", language="python", progress_bar=False)
    out = dict(out=str(tmp_path), **given)
    if isinstance(told, dict):
        execute_notebook(nb, tmp_path / "done.ipynb", out, **words)
        assert load_json(tmp_path / "metrics.json") == told
    else:
        with pytest.raises(PapermillExecutionError, match=re.escape(told)):
            execute_notebook(nb, tmp_path / "done.ipynb", out, **words)


@pytest.mark.parametrize(
    "given, message",
    [
        (
            {"stepps": 1},
            "unknown 'stepps' \\(did you mean 'steps'\\?\\).*Known:"
            " seed: int = 0; steps: int = 3; wait: float = 0.0",
        ),
        ({"steps": "many"}, "steps='many' is not int"),
        ({"steps": 1.5}, "steps=1.5 is not int"),
        ({"wait": True}, "wait=True is not float"),
        ({"steps": None}, "steps=None is not int"),
        ({"out": "/tmp"}, "belongs to the runner"),
        ({"steps": "x", "sed": 1}, "steps='x' is not int, unknown 'sed'"),
    ],
)
def test_bad_parameters_are_one_error_and_leave_nothing(toy, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        run(toy, given, out=tmp_path / "run", terminal=None)
    with pytest.raises(ValueError, match=message):
        run(toy, given, runs=tmp_path / "runs", terminal=None)
    assert names(tmp_path) == ["10_toy.ipynb"]


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_exactly_one_parameters_cell(tmp_path, count):
    nb = notebook(tmp_path / "toy.ipynb", "1", tagged=count)
    with pytest.raises(
        ValueError, match=f"has {count} cells tagged 'parameters', not one"
    ):
        run(nb, out=tmp_path / "run", terminal=None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "declared",
    ["a = 1\nb = 2*a", "import os", "a: int", "a, b = 1, 2", "a: int = 'x'", "a = ("],
)
def test_a_parameters_cell_only_declares(tmp_path, declared):
    with pytest.raises(ValueError, match="parameters cell of toy.ipynb"):
        run(notebook(tmp_path / "toy.ipynb", "1", declared=declared), terminal=None)


def test_a_file_that_is_no_notebook(tmp_path):
    (tmp_path / "toy.ipynb").write_text('{"cells": [')
    with pytest.raises(ValueError, match="not a notebook"):
        run(tmp_path / "toy.ipynb", terminal=None)
    with pytest.raises(FileNotFoundError, match="no such notebook"):
        run(tmp_path / "tos.ipynb", terminal=None)


def test_finished_and_foreign_folders_are_left_alone(toy, tmp_path):
    folder = run(toy, out=tmp_path / "run", terminal=None)
    before = times_of(folder)
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="finished run.*never overwritten"):
            run(toy, out=folder, resume=resume, terminal=None)
    assert times_of(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="holds other files: thesis.tex"):
        run(toy, out=tmp_path / "mine", terminal=None)
    assert names(tmp_path / "mine") == ["thesis.tex"]


def test_a_failed_run_says_so_and_resumes_with_its_parameters(tmp_path):
    code = COUNT + "\nif begin < steps:\n    raise KeyError('price')"
    nb, here = notebook(tmp_path / "toy.ipynb", code), tmp_path / "run"
    failed = "toy failed: KeyError: 'price' \\(step 2/2 Train\\).*--resume"
    with pytest.raises(RunFailed, match=failed):
        run(nb, {"steps": 2}, out=here, terminal=None)
    assert read(here)["status"] == "failed"
    assert "KeyError" in (here / "notebook.html").read_text()
    held = "holds a run that is failed.*Add --resume"
    with pytest.raises(FileExistsError, match=held):
        run(nb, out=here, terminal=None)
    with pytest.raises(ValueError, match="steps was 2, now 4"):
        run(nb, {"steps": 4}, out=here, resume=True, terminal=None)
    assert read(here)["status"] == "failed"
    done = read(run(nb, {"steps": "2"}, out=here, resume=True, terminal=None))
    assert (done["status"], done["attempt"]) == ("done", 2)
    assert done["metrics"]["begin"] == done["parameters"]["steps"] == 2


def test_resume_without_a_folder_takes_the_last_unfinished_run(tmp_path):
    nb, base = (
        notebook(tmp_path / "toy.ipynb", COUNT + "\nassert begin"),
        tmp_path / "r",
    )
    with pytest.raises(ValueError, match="no failed or killed run"):
        run(nb, resume=True, runs=base, terminal=None)
    with pytest.raises(RunFailed):
        run(nb, runs=base, terminal=None)
    assert read(run(nb, resume=True, runs=base, terminal=None))["attempt"] == 2
    assert len(folders(base)) == 1


def test_a_dead_kernel_is_a_failed_run(tmp_path):
    nb = notebook(tmp_path / "toy.ipynb", "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(RunFailed, match="the kernel died"):
        run(nb, out=tmp_path / "run", terminal=None)
    assert read(tmp_path / "run")["status"] == "failed"


def test_two_runs_in_one_folder(toy, tmp_path):
    here = tmp_path / "run"
    first = start("run", toy, *"-p steps 1 -p wait 60 --out".split(), here)
    owner = f"is in use: process {first.pid} on {socket.gethostname()}"
    try:
        until(lambda: status(here).get("step") == "2/2 Train")
        assert read(here)["status"] == "running"
        for resume in (False, True):
            with pytest.raises(RuntimeError, match=owner):
                run(toy, out=here, resume=resume, terminal=None)
        assert status(here)["pid"] == first.pid
    finally:
        first.terminate()
        first.wait(30)


def test_the_lock_admits_one_thread(tmp_path):
    inside, most, refused = [], [], []

    def enter():
        try:
            with locked(tmp_path / "run", patience=0):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.2)
                inside.pop()
        except RuntimeError:
            refused.append(1)

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert max(most) == 1 and len(most) + len(refused) == 8 and refused


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_with_the_command_that_goes_on(toy, tmp_path, number, code):
    "One line, no kernel, no half-written file; the command works as it was told."
    here, steps = tmp_path / "run", "-p steps 40 -p wait 0.1 --out".split()
    runner = start("run", toy, *steps, here)
    until(lambda: counted(here) >= 3)
    kernel = kernel_at_work(here)
    half = here / "artifacts" / ".model.7.tmp"
    half.touch()
    runner.send_signal(number)
    assert runner.wait(60) == code
    out, err = runner.stdout.read(), runner.stderr.read()
    assert out == "" and "Traceback" not in err and "killed" not in err
    last = err.splitlines()[-1]
    name = signal.Signals(number).name
    assert last.startswith(f"forecastlab: stopped by {name} in step 2/2 Train. ")
    assert "Go on with: " in last
    found = status(here)
    assert found["status"] == "killed" and name in found["error"]
    until(lambda: not alive(kernel), 10)
    assert not half.exists() and not list(here.rglob("*.tmp"))
    words = shlex.split(last.split("Go on with: ")[1])
    assert words == ["forecastlab", "run", str(toy), "--resume", "--out", str(here)]
    assert main([*words[1:], "--quiet"]) == 0
    assert read(here)["metrics"]["begin"] >= 3


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_no_run_ends_with_one_line_too(
    monkeypatch, capsys, tmp_path, number, code
):
    def stopped(*given, **named):
        os.kill(os.getpid(), number)
        time.sleep(30)

    monkeypatch.setattr(reader, "understand", stopped)
    # libraries that other tests import may have put in signal handlers of their own
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {n: signal.signal(n, handler) for n, handler in usual.items()}
    try:
        assert main(["look", str(tmp_path / "a.csv")]) == code
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    out, told = capsys.readouterr()
    assert told.startswith("forecastlab: stopped") and told.count("\n") == 1


def test_to_go_on_in_a_folder_with_a_misspelt_time_is_refused(toy, tmp_path):
    there = tmp_path / "20260102-030405"
    save_json(there / "status.json", {"name": "toy", "status": "killed"})
    with pytest.raises(ValueError, match="did you mean '20260102-030405'"):
        run(toy, out=tmp_path / "20260102-03045", resume=True, terminal=None)
    assert not (tmp_path / "20260102-03045").exists()


def test_sigkill_then_status_then_resume(toy, tmp_path):
    here = tmp_path / "run"
    runner = start("run", toy, *"-p steps 40 -p wait 0.1 -p seed 7 --out".split(), here)
    until(lambda: counted(here) >= 3)
    kernel = status(here)["kernel"][0]
    runner.kill()
    runner.wait()
    found = read(here)
    assert found["status"] == "killed"
    assert "without a word in step 2/2 Train" in found["error"]
    assert status(here)["status"] == "running"
    assert list(table(tmp_path).status) == ["killed"]
    until(lambda: not alive(kernel), 15)
    json.loads((here / "notebook.ipynb").read_text())
    assert not [name for name in names(here) if name.endswith(".tmp")]
    done = read(run(toy, out=here, resume=True, terminal=None))
    assert done["status"] == "done"
    assert done["parameters"] == {"seed": 7, "steps": 40, "wait": 0.1}
    assert 3 <= done["metrics"]["begin"] <= 40


def test_resume_ends_the_old_kernel_first(toy, tmp_path):
    "A runner killed a moment ago: its kernel may still write checkpoints."
    here = tmp_path / "run"
    runner = start("run", toy, *"-p steps 1 -p wait 3 --out".split(), here)
    kernel = kernel_at_work(here)
    # it cannot notice that its parent is gone
    os.kill(kernel, signal.SIGSTOP)
    runner.kill()
    runner.wait()
    assert alive(kernel)
    assert read(run(toy, out=here, resume=True, terminal=None))["status"] == "done"
    until(lambda: not alive(kernel), 5)


@pytest.mark.parametrize("text", ["", '{"status": "do', "[]", "null"])
def test_a_truncated_status_is_listed_and_never_taken_for_finished(toy, tmp_path, text):
    folder = tmp_path / "runs" / "toy" / "a"
    folder.mkdir(parents=True)
    save_json(folder / "parameters.json", {"seed": 0, "steps": 1, "wait": 0.0})
    (folder / "status.json").write_text(text)
    assert list(table(tmp_path / "runs").status) == ["damaged"]
    with pytest.raises(FileExistsError, match="is damaged.*status.json cannot be read"):
        run(toy, out=folder, terminal=None)
    assert read(run(toy, out=folder, resume=True, terminal=None))["status"] == "done"


def test_resume_refuses_damaged_parameters(toy, tmp_path):
    save_json(tmp_path / "run" / "status.json", {"name": "toy", "status": "killed"})
    (tmp_path / "run" / "parameters.json").write_text("{")
    unread = "cannot be resumed: parameters.json cannot be read"
    with pytest.raises(ValueError, match=unread):
        run(toy, out=tmp_path / "run", resume=True, terminal=None)


def test_a_run_on_another_host_counts_for_two_minutes(toy, tmp_path):
    here = tmp_path / "run"
    there = dict(name="toy", status="running", host="elsewhere", pid=1, cell="1/2")
    save_json(here / "status.json", there)
    save_json(here / "parameters.json", {"seed": 0, "steps": 1, "wait": 0.0})
    (here / ".lock").write_text("process 1 on elsewhere")
    assert read(here)["status"] == "running"
    with pytest.raises(RuntimeError, match="in use: process 1 on elsewhere"):
        run(toy, out=here, resume=True, terminal=None)
    os.utime(here / ".lock", (0, 0))
    assert read(here)["status"] == "killed"


def test_a_full_disk_at_the_start_leaves_nothing(toy, tmp_path, monkeypatch):
    def full(*a):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(basics.os, "replace", full)
    told = "could not write .*status.json: No space left on device. Free some space"
    with pytest.raises(OSError, match=told):
        run(toy, out=tmp_path / "run", terminal=None)
    assert names(tmp_path) == ["10_toy.ipynb"]


def test_a_full_disk_in_the_middle_leaves_whole_files_and_a_run_to_resume(
    toy, tmp_path, monkeypatch
):
    real, calls = os.replace, []

    def full(a, b):
        calls.append(b)
        if len(calls) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(a, b)

    here = tmp_path / "run"
    monkeypatch.setattr(basics.os, "replace", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(toy, out=here, terminal=None)
    monkeypatch.undo()
    assert not [n for n in names(here) if n.endswith(".tmp")]
    for file in here.glob("*.json"):
        json.loads(file.read_text())
    assert read(here)["status"] in ("failed", "killed")
    assert read(run(toy, out=here, resume=True, terminal=None))["status"] == "done"


def test_a_read_only_disk_is_named_and_its_message_is_not_hidden(
    toy, tmp_path, monkeypatch
):
    def read_only(*a, **k):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(basics.os, "replace", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(LabError, match="could not write .*status.json: Read-only file"):
        run(toy, out=tmp_path / "run", terminal=None)
    monkeypatch.setattr(Path, "mkdir", read_only)
    for where in (dict(out=tmp_path / "other" / "run"), dict(runs=tmp_path / "runs")):
        path = str(next(iter(where.values())))
        with pytest.raises(LabError, match=f"{path}.*: Read-only file system"):
            run(toy, **where, terminal=None)


class FullDevice(io.StringIO):
    "What a full disk, or a terminal that was closed, does to a stream."

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_or_a_terminal_that_takes_no_more_ends_no_run():
    echo = Echo(FullDevice(), FullDevice())
    echo.write("step 1\rstep 2\nover")
    echo.say("done")


def test_a_notebook_s_own_error_is_told_where_the_status_cannot_be_written(
    tmp_path, monkeypatch
):
    nb = notebook(tmp_path / "toy.ipynb", "raise KeyError('price')")
    real, here = os.replace, tmp_path / "run"

    def full_at_the_end(a, b):
        if Path(b).name == "status.json" and (here / "notebook.html").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(a, b)

    monkeypatch.setattr(basics.os, "replace", full_at_the_end)
    with pytest.raises(RunFailed, match="KeyError: 'price'"):
        run(nb, out=here, terminal=None)
    monkeypatch.undo()
    assert read(here)["status"] == "killed"


# --- kills, races and whatever else a folder may hold


class Kernelless:
    "papermill without a kernel: what it reads, tells and writes, in milliseconds."

    def __call__(self, nb, target, on_cell_start, **settings):
        from papermill.iorw import write_ipynb

        on_cell_start(nb.cells[-1], len(nb.cells) - 1)
        values = next(c.source for c in nb.cells if "out = " in c.source)
        names = {}
        exec(values, names)
        with basics.atomic(Path(names["out"]) / "artifacts" / "steps.txt") as tmp:
            tmp.write_text(str(names["steps"]))
        runs.record(names["out"], steps=names["steps"])
        write_ipynb(nb, target)


TOUCHING = {"open", "os.mkdir", "os.rename", "os.remove", "os.truncate", "os.utime"}


def killed_at(step, folder, work):
    "Do some work in a process that is killed when it touches a folder once more."
    child = os.fork()
    if child == 0:
        left = [step]

        def hook(event, args):
            if event in TOUCHING and str(folder) in str(args):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("again, stride", [(False, 1), (True, 5)])
def test_a_kill_at_any_touch_of_the_folder_leaves_a_run_that_goes_on(
    toy, tmp_path, monkeypatch, again, stride
):
    import nbconvert
    import papermill

    monkeypatch.setattr(papermill, "execute_notebook", Kernelless())
    monkeypatch.setattr(nbconvert, "HTMLExporter", None)
    go = lambda here, **how: run(toy, {"steps": 5}, out=here, terminal=None, **how)
    # all that is imported on the way is imported now
    want = read(go(tmp_path / "whole"))
    seen, step, died = set(), 0, True
    while died:
        here = tmp_path / f"{step}"
        if again:
            save_json(here / "status.json", dict(name="toy", status="failed"))
            save_json(here / "parameters.json", want["parameters"])
        died = killed_at(step, here, lambda: go(here, resume=again))
        found = read(here)["status"]
        seen.add(found)
        assert list(table(here).status) == ([] if found == "none" else [found])
        if found == "none":
            # as if there was nothing: with and without the word
            go(here, resume=bool(step % 2))
        elif found != "done":
            run(toy, out=here, resume=True, terminal=None)
        ended = read(here)
        for key in ("parameters", "metrics"):
            assert ended[key] == want[key]
        assert ended["status"] == "done"
        assert names(here / "artifacts") == ["steps.txt"]
        assert not [n for n in names(here) if n.endswith(".tmp")]
        step += stride
    assert seen == {"failed" if again else "none", "killed", "done"}


def test_the_loser_of_a_race_is_told_who_won(toy, tmp_path):
    here = tmp_path / "run"
    here.mkdir()
    (here / ".status.json.77.tmp").touch()
    (here / ".parameters.json.77.tmp").touch()
    with locked(here):
        with pytest.raises(RuntimeError, match=f"in use: process {os.getpid()}"):
            run(toy, out=here, terminal=None)


def test_who_waited_for_the_lock_of_a_folder_that_is_gone_gets_a_new_one(tmp_path):
    import shutil

    here, got = tmp_path / "run", []

    def wait():
        with locked(here, patience=20):
            got.append((here / ".lock").exists())

    with locked(here):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        shutil.rmtree(here)
    waiting.join(20)
    assert got == [True]


@pytest.mark.parametrize(
    "status",
    [
        {},
        dict(pid="x", host=3, attempt="two", kernel="k", cell=[], seconds="long"),
        dict(kernel=[1], attempt=None, error=None, parameters=[]),
    ],
)
def test_a_status_of_other_fields_is_a_run_to_resume(toy, tmp_path, status):
    folder = tmp_path / "runs" / "toy" / "a"
    save_json(folder / "status.json", dict(status="running") | status)
    save_json(folder / "parameters.json", {"seed": 0, "steps": 1, "wait": 0.0})
    assert list(table(tmp_path / "runs").status) == ["killed"]
    with pytest.raises(FileExistsError, match="is killed.*--resume"):
        run(toy, out=folder, terminal=None)
    with locked(folder):
        with pytest.raises(RuntimeError, match="is in use"):
            run(toy, out=folder, resume=True, terminal=None)
    assert read(run(toy, out=folder, resume=True, terminal=None))["status"] == "done"


def test_a_run_without_parameters_goes_on(tmp_path):
    nb = notebook(tmp_path / "toy.ipynb", "1/0", declared="out: str = ''")
    with pytest.raises(RunFailed):
        run(nb, out=tmp_path / "run", terminal=None)
    with pytest.raises(RunFailed, match="ZeroDivision"):
        run(nb, out=tmp_path / "run", resume=True, terminal=None)


HELPER = """
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
Path(out, "worker").write_text(str(worker.pid))
"""


def test_resume_ends_what_the_killed_notebook_had_started(tmp_path):
    nb = notebook(tmp_path / "toy.ipynb", COUNT.replace("here =", HELPER + "here =", 1))
    here = tmp_path / "run"
    runner = start("run", nb, *"-p steps 1 -p wait 1 --out".split(), here)
    until(lambda: (here / "worker").exists() and (here / "worker").read_text())
    worker = int((here / "worker").read_text())
    runner.kill()
    runner.wait()
    assert alive(worker)
    run(nb, out=here, resume=True, terminal=None)
    assert not alive(worker)


def test_a_kernel_that_does_not_start_is_tried_once_more(toy, tmp_path, monkeypatch):
    import papermill

    real, tried = papermill.execute_notebook, []

    def shaky(*a, **k):
        tried.append(1)
        if len(tried) == 1:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return real(*a, **k)

    monkeypatch.setattr(papermill, "execute_notebook", shaky)
    folder = run(toy, out=tmp_path / "run", terminal=None)
    assert len(tried) == 2 and "trying once more" in (folder / "log.txt").read_text()


BAR = r"""
import sys
for i in range(2000):
    print(f"\r{i} of 2000", end="", file=sys.stderr, flush=True)
print("\nover")
"""


def test_progress_bars_do_not_flood(tmp_path):
    nb = notebook(tmp_path / "toy.ipynb", BAR)
    folder = run(nb, out=tmp_path / "run", terminal=None)
    log = (folder / "log.txt").read_text()
    assert "1999 of 2000" in log and "  over" in log
    assert log.count("of 2000") < 20
    assert (folder / "notebook.ipynb").read_text().count("of 2000") < 20


def save_run(folder, status, parameters, metrics):
    save_json(folder / "status.json", dict(name="toy") | status)
    save_json(folder / "parameters.json", parameters)
    if metrics:
        save_json(folder / "metrics.json", metrics)


def test_table_filters_and_sorts(tmp_path):
    made = [(0.5, "mqcnn"), (None, "mqrnn"), (0.25, "mqcnn")]
    for i, (wql, model) in enumerate(made):
        state = "done" if wql else "failed"
        ended = dict(status=state, started=f"2026-01-0{i + 1}", seconds=i)
        metrics = {"wql": wql} if wql else {}
        save_run(
            tmp_path / "toy" / f"r{i}", ended, {"model": model, "seed": i}, metrics
        )

    def ids(*where, sort=None):
        return list(table(tmp_path, where, sort).id)

    assert ids() == ["r0", "r1", "r2"]
    assert ids("metrics.wql<0.4") == ["r2"]
    assert ids("wql>=0.25", sort="wql") == ["r2", "r0"]
    assert ids("status=failed") == ["r1"]
    assert ids("model = MQCNN", "seed!=0") == ["r2"]
    assert ids(sort="-seconds") == ["r2", "r1", "r0"]
    with pytest.raises(ValueError, match="no such column: wqll. did you mean 'wql'"):
        ids("wqll<1")
    with pytest.raises(ValueError, match="not a condition"):
        ids("wql")
    assert table(tmp_path / "empty").empty


GRID = "grid: {seed: [0, 1, 2], steps: [20]}\nparameters: {wait: 0.2}"


def sweep_file(tmp_path, toy, text=GRID):
    (tmp_path / "sweep.yaml").write_text(f"pipeline: {toy}\n{text}\n")
    return tmp_path / "sweep.yaml"


@pytest.mark.parametrize(
    "text, message",
    [
        ("grid: {sed: [1]}", "unknown 'sed'"),
        ("grid: {seed: 1}", "needs a list"),
        ("grids: {}", "unknown key.*grids"),
        ("list: [{steps: x}]", "steps='x' is not int"),
        ("grid: [", "not YAML"),
    ],
)
def test_a_bad_sweep_starts_nothing(toy, tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        sweep(sweep_file(tmp_path, toy, text), runs=tmp_path / "runs", terminal=None)
    assert not (tmp_path / "runs").exists()


def test_a_plan_is_deterministic(toy, tmp_path):
    text = "grid: {seed: [0, 1]}\nlist: [{steps: 1}, {steps: 3}]\ncpus: 2"
    nb, jobs, resources = plan(sweep_file(tmp_path, toy, text))
    assert jobs == [{"steps": s, "seed": e} for s in (1, 3) for e in (0, 1)]
    assert resources == {"num_cpus": 2, "num_gpus": 0}
    place = job_folder(nb, {}, tmp_path)
    assert job_folder(nb, {"steps": 3, "seed": 0}, tmp_path) == place
    assert job_folder(nb, {"seed": 1}, tmp_path) != place


@pytest.mark.slow
def test_a_sweep_survives_a_killed_worker(toy, tmp_path, capsys):
    pytest.importorskip("ray", reason="ray is in the `sweep` extra")
    file, base = sweep_file(tmp_path, toy), tmp_path / "runs"
    nb, jobs, _ = plan(file)
    places = [job_folder(nb, j, base) for j in jobs]
    # one is finished before
    run(nb, jobs[0], out=places[0], terminal=None)
    before, killed = times_of(places[0]), []

    def kill():
        until(lambda: counted(places[1]) >= 3)
        killed.append(status(places[1])["pid"])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    df = sweep(file, workers=2, runs=base, terminal=sys.stderr)
    killer.join(5)
    assert killed
    assert list(df.status) == ["done"] * 3
    assert sorted(df["parameters.seed"]) == [0, 1, 2]
    again = read(places[1])
    assert again["attempt"] == 2 and again["pid"] != killed[0]
    assert again["metrics"]["begin"] >= 3
    assert times_of(places[0]) == before
    assert "3 runs, 1 already there, 2 to do" in capsys.readouterr().err
    # one process each
    assert len({read(p)["pid"] for p in places}) == 3
    sweep(file, runs=base, terminal=sys.stderr)
    assert "3 already there, 0 to do" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failing_notebook_does_not_stop_a_sweep(tmp_path):
    pytest.importorskip("ray", reason="ray is in the `sweep` extra")
    nb = notebook(tmp_path / "toy.ipynb", "assert seed != 1, 'bad seed'")
    file = sweep_file(tmp_path, nb, "grid: {seed: [0, 1]}")
    df = sweep(file, workers=2, runs=tmp_path / "runs", terminal=None)
    assert dict(zip(df["parameters.seed"], df.status)) == {0: "done", 1: "failed"}
    assert "bad seed" in df.error[df.status == "failed"].item()


def test_record_and_folder(tmp_path):
    import numpy as np

    here = runs.folder(tmp_path / "run")
    assert (here / "artifacts").is_dir() and runs.folder().is_dir()
    runs.record(here, a=np.float32(0.5), b=np.arange(2))
    runs.record(here, c=float("inf"))
    assert load_json(here / "metrics.json") == {"a": 0.5, "b": [0, 1], "c": None}
