"""Small notebooks and small waits for the tests of runs, sweeps and figures; small
panels for those of the networks.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from forecastlab.core.panel import Panel

DECLARED = """\
out: str = ""      # Run folder
seed: int = 0      # Seed
steps: int = 3     # Steps
wait: float = 0.0  # Seconds a step"""
COUNT = """\
import time
from pathlib import Path
from forecastlab.core.runs import record
here = Path(out) / "artifacts" / "checkpoint"
begin = int(here.read_text()) if here.exists() else 0
for i in range(begin, steps):
    time.sleep(wait)
    here.write_text(str(i + 1))
    print("step", i + 1)
record(out, steps=steps, begin=begin, wql=steps / (10 + seed))"""
COMMAND = [
    sys.executable,
    "-c",
    "from forecastlab.core.cli import main; raise SystemExit(main())",
]

ROLES = dict(known=["price", "promo"], past=["warm", "sky"], static=["size", "kind"])


def notebook(path, *code, declared=DECLARED, tagged=1):
    "A notebook with a parameters cell and working cells under one heading."
    cells = (
        [("code", declared, ["parameters"])] * tagged
        + [("markdown", "## Train", [])]
        + [("code", c, []) for c in code]
    )
    made = [
        {
            "cell_type": kind,
            "source": source,
            "metadata": {"tags": tags},
            "id": f"cell-{i}",
        }
        | ({"outputs": [], "execution_count": None} if kind == "code" else {})
        for i, (kind, source, tags) in enumerate(cells)
    ]
    Path(path).write_text(
        json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    return Path(path)


def start(*words, **settings):
    "The command in a process of its own."
    # a shell's background jobs ignore Ctrl-C
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        preexec_fn=heard,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def until(condition, seconds=120):
    "Wait for a condition; its value."
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def alive(pid):
    "Does a process run? (A zombie does not.)"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return not Path("/proc").exists()


def frame(n=6, rows=40, freq="W-SUN", seed=0, **columns):
    "Counts with every kind of covariate; `columns` replace any of them."
    rng = np.random.default_rng(seed)
    time = (
        np.arange(rows)
        if freq == 1
        else pd.date_range("2022-01-01", periods=rows, freq=freq)
    )
    df = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(n)], rows),
            "ds": np.tile(time, n),
            "y": rng.poisson(6, n * rows).astype(float),
            "price": np.exp(rng.normal(0, 0.2, n * rows)),
            "promo": rng.choice(["no", "yes"], n * rows),
            "warm": rng.normal(size=n * rows),
            "sky": rng.choice(["sun", "rain"], n * rows),
            "size": np.repeat(rng.normal(size=n), rows),
            "kind": np.repeat(rng.choice(["mug", "tin"], n), rows),
        }
    )
    return df.assign(**columns)


def full(**change):
    "A panel of `frame` with every kind of covariate in its role."
    return Panel.from_frame(frame(**change), freq=change.get("freq", "W-SUN"), **ROLES)


def plain(y, freq=1, **columns):
    "One series without covariates."
    time = (
        np.arange(len(y))
        if freq == 1
        else pd.date_range("2020-01-01", periods=len(y), freq=freq)
    )
    return Panel.from_frame(
        pd.DataFrame({"unique_id": "a", "ds": time, "y": y}), freq=freq, **columns
    )


def walk(name="demand_forecast", **parameters):
    """A pipeline's cells one after the other in this process; its names at the end, and
    what it printed.
    """
    import matplotlib.pyplot
    from forecastlab.core.parameters import cells, find, resolve

    path = find(name)
    values, names, said = resolve(path, parameters), {}, io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        for c in cells(path):
            if c["kind"] != "code":
                continue
            exec(compile(c["source"], name, "exec"), names)
            if "parameters" in c["tags"]:
                names |= values
    matplotlib.pyplot.close("all")
    return names, said.getvalue()
