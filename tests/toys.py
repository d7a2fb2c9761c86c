"""What several test files share.

Small notebooks and small waits for the tests of runs, sweeps and figures; small panels
and whole checks for those of the networks; kernels compiled without a GPU; libpecos'
numbers.
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
import scipy.sparse as sp

from forecastlab.core.basics import SEALED
from forecastlab.core.panel import Panel

QUIET = dict(progress=False, accelerator="cpu")  # how networks train in tests
DECLARED = """\
out: str = ""      # Run folder
seed: int = 0      # Seed
steps: int = 3     # Steps
wait: float = 0.0  # Seconds a step"""
COUNT = """import time
from pathlib import Path
from forecastlab.core.runs import record
here = Path(out) / "artifacts" / "checkpoint"
begin = int(here.read_text()) if here.exists() else 0
for i in range(begin, steps):
    time.sleep(wait)
    half = here.with_name("half")
    half.write_text(str(i + 1))
    half.replace(here)
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


# Panels


def times(rows, freq, first="2020-01-01"):
    "The first time stamps of a frequency; integers where it is 1."
    if freq == 1:
        return np.arange(rows)
    return pd.date_range(first, periods=rows, freq=freq)


def frame(n=6, rows=40, freq="W-SUN", seed=0, **columns):
    "Counts with every kind of covariate; `columns` replace any of them."
    rng = np.random.default_rng(seed)
    time = times(rows, freq, "2022-01-01")
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
    df = pd.DataFrame({"unique_id": "a", "ds": times(len(y), freq), "y": y})
    return Panel.from_frame(df, freq=freq, **columns)


def several(y, freq=1):
    "Series without covariates, one a row of `y`, all from the same time on."
    n, rows = y.shape
    df = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(n)], rows),
            "ds": np.tile(times(rows, freq), n),
            "y": y.reshape(-1),
        }
    )
    return Panel.from_frame(df, freq=freq)


def planted(n=30, rows=140):
    "Daily counts with a weekly season, and promotions that sell 2.5 times as much."
    rng = np.random.default_rng(1)
    promo = (rng.random((n, rows)) < 0.2).astype(int)
    level = np.exp(rng.normal(2.5, 0.6, (n, 1)))
    season = 1 + 0.5 * np.sin(2 * np.pi * np.arange(rows) / 7)
    mean = level * season * (1 + 1.5 * promo)
    df = pd.DataFrame(
        {
            "unique_id": np.repeat([f"i{i}" for i in range(n)], rows),
            "ds": np.tile(pd.date_range("2024-01-01", periods=rows), n),
            "y": rng.poisson(mean).reshape(-1),
            "promo": promo.reshape(-1),
        }
    )
    return Panel.from_frame(df, known=["promo"])


def shortened():
    "A panel cut at step 36 with series of 1, 2, 3 and 10 rows; all end together."
    df = frame()
    row = df.groupby("unique_id").cumcount()
    keep = {"s0": 1, "s1": 2, "s2": 3, "s3": 10}
    df = df[(row >= 37 - df.unique_id.map(keep).fillna(37)) | (row >= 37)]
    panel = Panel.from_frame(df, freq="W-SUN", **ROLES).cut(36)
    assert sorted(panel.length) == [1, 2, 3, 10, 37, 37]
    return panel


def sold_out(recorded):
    """A panel with series sold out from the second row on, at the end, in the middle.

    `recorded` stands where there was nothing to sell.
    """
    df = frame(stock=1)
    row = df.groupby("unique_id").cumcount()
    always = (df.unique_id == "s0") & (row > 0)
    end = (df.unique_id == "s1") & (row > 15)
    middle = (df.unique_id == "s2") & row.between(5, 12)
    df.loc[always | end | middle, "stock"] = 0
    df = df.assign(y=df.y.where(df.stock == 1, recorded))
    return Panel.from_frame(df, freq="W-SUN", available="stock", **ROLES).cut(36)


DEGENERATE = {  # series that are hard to scale
    "zero": np.zeros(40),
    "constant": np.full(40, 7.0),
    "spike": np.r_[np.zeros(39), 1e6],
    "large": 1e7 + np.arange(40.0),
    "tiny": np.full(40, 1e-4),
}


def check_gradients(net):
    "After `backward` every parameter has a finite gradient that is not all zero."
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name
        assert p.grad.isfinite().all(), name


def check_units(fit, unit, low=0, centre=False, levels=(0.1, 0.5, 0.9), slack=2e-5):
    """In another unit a model forecasts the same numbers times that unit.

    `fit` trains it on a panel; targets reach down to `-low`, one series is all zeros.
    `slack` is what a number may be off, as a share of the largest.
    """
    rng = np.random.default_rng(0)
    y = rng.gamma(2.0, 1.0, (6, 48)) * np.exp(rng.normal(0, 1.5, (6, 1))) - low
    y[0] = 0
    y[1, ::3] = 0
    y = y.astype(np.float32)
    one = fit(several(y, "MS"))
    other = fit(several(y * np.float32(unit), "MS"))
    want = one.predict().quantile(levels).numpy()
    found = other.predict().quantile(levels).numpy() / np.float32(unit)
    floor = one.settings.floor * unit
    assert abs(other.settings.floor - floor) <= 1e-6 * abs(floor)
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=slack * np.abs(want).max())
    # a power of two rounds nothing
    if unit == 2.0**-13:
        assert np.array_equal(found, want)
    # equal only where 0 ends what is possible
    assert (np.diff(want, axis=-1) > 0)[want[..., :-1] > 0].all()


def draw(*shape, seed=0):
    "Normal draws in double precision."
    import torch

    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


# Kernels


COMPILER = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def compiled(kernel, fixed, type_of, chips=(80, 90)):
    "What Triton makes of a kernel for Ampere and Hopper: its texts and machine code."
    signature = {
        name: "constexpr" if name in fixed else type_of(name)
        for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature, constexprs=fixed)
    for chip in chips:
        yield triton.compile(source, target=GPUTarget("cuda", chip, 32)).asm
"""


def output(script, **env):
    "What a script prints in a Python of its own, where Triton finds its own way."
    words = [sys.executable, "-c", script]
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(words, capture_output=True, text=True, env=clean | env)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def compiled(script):
    "What a script prints that has `COMPILER`; there need not be a GPU."
    return output(COMPILER + script, TRITON_INTERPRET="0")


def check_benchmark(bench, shape, folder, monkeypatch):
    "A benchmark run twice appends its rows to one table with one header."
    import torch
    from forecastlab.kernels import runtime

    # to copy a gigabyte, and to compile, takes longer than the test is worth
    monkeypatch.setattr(runtime, "copy_bandwidth", lambda: 30.0)
    monkeypatch.setattr(torch, "compile", lambda fn: fn)
    table = Path(folder) / f"{bench.__name__}.csv"
    for _ in range(2):
        rows = bench([shape], path=table)
    lines = table.read_text().splitlines()
    assert len(lines) == 1 + 2 * len(rows)
    assert lines[0].startswith("date,device,machine")
    assert "gb_per_s" in lines[0]


# Rankings


def some_matrix(rows, columns, density=0.2, seed=0, kind="csr", dtype=np.float32):
    "A random sparse matrix."
    return sp.random(rows, columns, density, kind, dtype=dtype, random_state=seed)


def grouped(rows=300, labels=24, groups=6, seed=0, noise=0):
    """Features and labels in groups: sparse rows of length 1, sparse truth.

    A row has words of its labels, of their group, and `noise` of nothing.
    """
    rng = np.random.default_rng(seed)
    X = np.zeros((rows, 3 * labels + 4 * groups), np.float32)
    Y = np.zeros((rows, labels), np.float32)
    for i in range(rows):
        g = rng.integers(groups)
        mine = g * labels // groups + rng.choice(
            labels // groups, rng.integers(1, 3), replace=False
        )
        Y[i, mine] = 1
        X[i, 3 * labels + 4 * g + rng.integers(0, 4, 2)] = 1
        X[i, rng.integers(0, 3 * labels, noise)] = 1
        for label in mine:
            X[i, 3 * label + rng.integers(0, 3, 2)] = 1
    return sp.csr_matrix(X / np.sqrt(X.sum(1, keepdims=True))), sp.csr_matrix(Y)


# Three texts and their vectors by libpecos: of words, of pairs of words, and of both
# side by side; without and with inverse document frequencies.
CORPUS = ["midas amazon pecos", "amazon pecos pecos pecos", "iphone"]
OF_WORDS = {
    False: [
        [0, 0.57735026, 0.57735026, 0.57735026],
        [0, 0, 0.31622776, 0.94868326],
        [1, 0, 0, 0],
    ],
    True: [
        [0, 0.88651040, 0.32718456, 0.32718456],
        [0, 0, 0.31622776, 0.94868330],
        [1, 0, 0, 0],
    ],
}
OF_PAIRS = {
    False: [[0.70710677, 0, 0.70710677], [0, 0.89442720, 0.44721360], [0, 0, 0]],
    True: [[0.93814546, 0, 0.34624156], [0, 0.98339630, 0.18147115], [0, 0, 0]],
}
OF_BOTH = {
    False: [
        [0, 0.40824829, 0.40824829, 0.40824829, 0.5, 0, 0.5],
        [0, 0, 0.22360680, 0.67082038, 0, 0.63245555, 0.31622777],
        [1, 0, 0, 0, 0, 0, 0],
    ],
    True: [
        [0, 0.62685746, 0.23135442, 0.23135442, 0.66336906, 0, 0.24482976],
        [0, 0, 0.22360680, 0.67082040, 0, 0.69536614, 0.12831947],
        [1, 0, 0, 0, 0, 0, 0],
    ],
}


# Pipelines


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


# Files


def unsealed(folder):
    "The same folder without checksums: what is changed in it is taken as it stands."
    for seal in Path(folder).rglob("checksums.json"):
        seal.unlink()
    for note in Path(folder).rglob("*.json"):
        if SEALED in (text := note.read_text(encoding="utf-8")):
            bare = text.replace(f", {SEALED}", "").replace(SEALED, "")
            note.write_text(bare, encoding="utf-8")
    return folder
