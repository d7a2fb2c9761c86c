"""Fuzz: every place where a stranger's input comes in, and random input for it.

A new place is one line of `PLACES`: its name, and a function that makes one random
case and runs it. `python tests/fuzz.py --count 10000` runs many, in a process of its
own that a crash, a hang or too much memory would end; `test_fuzz.py` runs a few.
Whatever comes in, the outcome must be an answer, or a refusal in the lab's own words.
"""

import argparse
import dataclasses
import decimal
import functools
import gzip
import inspect
import json
import math
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from forecastlab.core.basics import LabError
from toys import unsealed

GOOD = ("answer", "refused")
# more than any case may take
MEMORY_GB, SECONDS = 8, 60


# --- values that nobody expects

ODD = [
    "1e-3", "x", "", b"x", "\udcff", "a\0b", "on", "None", "nan", "[1]",
    None, True, False, -1, 0, 1.5, 2**31, 2**53 + 1, 2**70, 10**400,
    math.inf, -math.inf, math.nan, complex(1, 2), decimal.Decimal("NaN"),
    [], [1], ["a"], [None], [[]], (1,), {}, {"a": 1}, {1: "x"}, {3}, range(3),
    object(), float, len, np.array([1.0, 2.0]), np.float32("nan"), np.int64(-5),
    np.datetime64("NaT"), pd.NA, pd.NaT, pd.Timestamp("2024-01-01"), Path("x"),
]  # fmt: skip


def pick(rng, values):
    return values[int(rng.integers(len(values)))]


def words(value):
    try:
        return repr(value)[:60]
    except Exception:
        return type(value).__name__


# --- frames


def good_frame(rng):
    "A frame that is as it should be: three series, with covariates."
    n, series = int(rng.integers(1, 25)), int(rng.integers(1, 4))
    freq = pick(rng, ["D", "W-SUN", "MS", "h"])
    days = pd.date_range("2024-01-01", periods=n, freq=freq)
    df = pd.DataFrame(
        dict(
            unique_id=np.repeat([f"s{i}" for i in range(series)], n),
            ds=np.tile(days, series),
            y=rng.poisson(3, n * series).astype(float),
            price=rng.random(n * series).round(2),
            promo=rng.choice(["no", "yes"], n * series),
        )
    )
    df["size"] = df.unique_id.map(lambda i: float(i[1:]))
    return df, freq


def odd_values(rng, n):
    "A column of a kind that a frame may hold, sensible or not."
    base = rng.integers(0, 5, n)
    kinds = [
        lambda: base,
        lambda: base.astype(bool),
        lambda: base.astype("uint8"),
        lambda: base + 2**53 + 1,
        lambda: np.full(n, 2**64 - 1, "uint64"),
        lambda: [2**70] * n,
        lambda: base * 1e300 * 1e10,
        lambda: np.where(base > 2, np.nan, base),
        lambda: np.where(base > 2, np.inf, base),
        lambda: -base.astype(float) * 1e38,
        lambda: base.astype(complex),
        lambda: base.astype("float16"),
        lambda: base.astype("longdouble"),
        lambda: base.astype(str),
        lambda: [b"\xff\xfe"] * n,
        lambda: [b"ok"] * n,
        lambda: ["\ud800"] * n,
        lambda: ["a" + chr(0) * int(b) for b in base],
        lambda: ["1,99"] * n,
        lambda: [""] * n,
        lambda: [None] * n,
        lambda: [pd.NA] * n,
        lambda: [pick(rng, ODD) for _ in range(n)],
        lambda: [pick(rng, ODD)] * n,
        lambda: [[1, 2]] * n,
        lambda: [{"a": 1}] * n,
        lambda: [decimal.Decimal("1.25")] * n,
        lambda: [decimal.Decimal("1e400")] * n,
        lambda: pd.arrays.SparseArray(base.astype(float)),
        lambda: pd.cut(base + 0.5, [0, 2, 6]),
        lambda: pd.Categorical(base),
        lambda: pd.Categorical(base.astype(str)),
        lambda: pd.array(base, dtype="Int64"),
        lambda: pd.array([None] * n, dtype="Float64"),
        lambda: pd.array(base, dtype="boolean" if base.max(initial=0) < 2 else "Int8"),
        lambda: pd.array(base.astype(str), dtype="string"),
        lambda: pd.array(base, dtype=pd.ArrowDtype(pick(rng, _arrow_types()))),
        lambda: pd.date_range("2024-01-01", periods=n, tz="Europe/Berlin"),
        lambda: pd.date_range("2024-01-01", periods=n, freq="s"),
        lambda: pd.date_range("1690-01-01", periods=n, freq="400D"),
        lambda: np.array(["0001-01-01", "9999-12-31"], "datetime64[us]")[base % 2],
        lambda: np.array([-(2**63) + 1, 2**63 - 1])[base % 2],
        lambda: np.array([0, 1, 2 * 10**9])[base % 3],
        lambda: pd.period_range("2024-01", periods=n, freq=pick(rng, ["M", "W", "Y"])),
        lambda: pd.to_timedelta(base, unit="h"),
        lambda: [pd.NaT] * n,
        lambda: [pd.Timestamp("2024-01-01").date()] * n,
        lambda: [f"{1 + i % 12:02d}/{1 + i % 12:02d}/2024" for i in range(n)],
        lambda: [f"2024-W{1 + i:02d}" for i in range(n)],
        lambda: [f"20240{1 + i % 9}" for i in range(n)],
    ]
    return pick(rng, kinds)()


def _arrow_types():
    import pyarrow as pa

    return [pa.int8(), pa.float32(), pa.uint64(), pa.int32()]


def odd_rows(rng, df):
    "Rows dropped, doubled, shuffled; columns lost, doubled, renamed, moved."
    changes = [
        lambda: df.drop(index=df.index[int(rng.integers(len(df)))]),
        lambda: pd.concat([df, df[:1]]),
        lambda: df.sample(frac=1, random_state=int(rng.integers(99))),
        lambda: df[:0],
        lambda: df[:1],
        lambda: df.drop(columns=pick(rng, list(df.columns))),
        lambda: pd.concat([df, df[[pick(rng, list(df.columns))]]], axis=1),
        lambda: df.rename(columns={pick(rng, list(df.columns)): pick(rng, HASHABLE)}),
        lambda: df.set_index(pick(rng, list(df.columns))),
        lambda: df.set_index(["unique_id", "ds"]),
        lambda: df.T,
        lambda: df.set_axis([0] * len(df)),
        lambda: df.set_axis(pd.MultiIndex.from_product([["a"], df.columns]), axis=1),
        lambda: df.pivot_table(index="ds", columns="unique_id", values="y"),
        lambda: df.assign(ds=df.ds.sample(frac=1, random_state=0).to_numpy()),
        lambda: df.assign(ds=df.ds + pd.to_timedelta(rng.integers(0, 3, len(df)), "D")),
    ]
    try:
        return pick(rng, changes)()
    except Exception:  # pandas itself refuses
        return df


HASHABLE = [None, 1, 1.5, ("a", "b"), "", "y", "ds", "unique_id", "a\0", math.nan]


def odd_kind(rng, df):
    "The same frame as another library's, or no frame at all."
    import polars as pl
    import pyarrow as pa

    kinds = [
        lambda: pl.from_pandas(df),
        lambda: pl.from_pandas(df).lazy(),
        lambda: pl.DataFrame(
            {c: pl.Series([object()] * 2, dtype=pl.Object) for c in df}
        ),
        lambda: pa.Table.from_pandas(df),
        lambda: pa.Table.from_pandas(df).to_batches()[0],
        lambda: pa.table([pa.array([1, 2])] * 2, names=["y", "y"]),
        lambda: df.to_dict("records"),
        lambda: df.to_dict("list"),
        lambda: df.to_numpy(),
        lambda: df.y,
        lambda: pick(rng, ODD),
    ]
    try:
        return pick(rng, kinds)()
    except Exception:  # the other library itself refuses
        return df


ROLES = {
    "freq": [
        "D",
        "W",
        "0D",
        "-1D",
        "1e5D",
        "9" * 12 + "D",
        "fortnight",
        1,
        10**20,
        "MS",
    ],
    "known": ["price", ["price", "promo"], ["price", "price"], ["nope"], "", [""]],
    "past": ["promo", ["price"], ["y"], ["ds"], [None]],
    "static": ["size", ["size"], ["price"], ["unique_id"], ["y"], ["size", "size"]],
    "available": ["promo", "price", "y", "nope", "size"],
    "fill": [0, "missing", "zero", math.nan, -1, 1e300, "0"],
    "align_end": [True, "yes", 1],
    "id": ["promo", "size", "nope", "ds", ""],
    "time": ["y", "nope", "unique_id", "promo"],
    "target": ["promo", "nope", "ds", "size"],
}


def odd_roles(rng, freq):
    "Settings of a panel, some of them odd."
    asked = dict(freq=freq)
    if rng.random() < 0.5:
        asked |= dict(known=["price"], past=["promo"], static=["size"])
    some = int(rng.integers(0, 3)) if rng.random() < 0.5 else 0
    for name in rng.choice(list(ROLES), some, replace=False).tolist():
        asked[name] = pick(rng, ROLES[name] if rng.random() < 0.7 else ODD)
    return asked


def odd_frame(rng):
    "A frame with some faults, and what is said about it."
    df, freq = good_frame(rng)
    roles = odd_roles(rng, freq)
    for _ in range(int(rng.choice([0, 1, 1, 2]))):
        column = pick(rng, list(df.columns))
        values = odd_values(rng, len(df))
        if hasattr(values, "shape") and getattr(values, "ndim", 1) != 1:
            continue
        try:
            df = df.assign(**{column: values})
        except Exception:  # pandas itself refuses
            continue
    if rng.random() < 0.3:
        df = odd_rows(rng, df)
    return (odd_kind(rng, df) if rng.random() < 0.1 else df), roles


def plan(rng, df):
    "Future rows, sensible or not."
    if rng.random() < 0.8 or not isinstance(df, pd.DataFrame):
        return None
    later = df.copy()
    if "ds" in later and pd.api.types.is_datetime64_dtype(later.ds):
        try:
            span = later.ds.max() - later.ds.min()
            later["ds"] = later.ds + span + pd.Timedelta("1D")
        except ValueError:  # beyond what pandas can count
            return None
    return odd_rows(rng, later) if len(later) else later


def forecast_of(panel, rng):
    "A panel must be good for something: a forecast, and its frame."
    from forecastlab.demand.textbook import SeasonalNaive

    model = SeasonalNaive(2, season=1).fit(panel)
    ask = {} if rng.random() < 0.8 else dict(level=pick(rng, [[80], [0.8], [101], ODD]))
    return model.predict(2, panel).to_frame(**ask)


def frames(rng):
    from forecastlab.core.panel import Panel

    df, roles = odd_frame(rng)
    yield roles, df
    if rng.random() < 0.1:
        roles["static"] = odd_frame(rng)[0]
    panel = Panel.from_frame(df, future=plan(rng, df), **roles)
    forecast_of(panel, rng)


def reader(rng):
    from forecastlab.core.reader import Settings, understand

    df, roles = odd_frame(rng)
    yield roles, df
    forecast_of(understand(df, Settings(**roles)).panel(), rng)


def tables(rng):
    "A text file of rows, damaged."
    from forecastlab.core.reader import Settings, understand

    df, freq = good_frame(rng)
    mark, comma = pick(rng, [",", ";", "\t", "|"]), pick(rng, [".", ","])
    text = df.to_csv(index=False, sep=mark, decimal=comma)
    data = bytearray(text.encode(pick(rng, ["utf-8", "utf-16", "utf-8-sig", "cp1252"])))
    _spoil(data, rng)
    folder = Path(tempfile.mkdtemp())
    path = folder / pick(rng, ["a.csv", "a.tsv", "a.txt", "a.xlsx", "a.parquet", "a"])
    path.write_bytes(
        gzip.compress(bytes(data), mtime=0) if rng.random() < 0.1 else data
    )
    yield dict(freq=freq), bytes(data[:200])
    forecast_of(understand(path, Settings(freq=freq)).panel(), rng)


def _spoil(data, rng):
    "Some bytes are others, the end is lost, a line is doubled."
    for _ in range(int(rng.integers(0, 4))):
        if len(data):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
    if rng.random() < 0.2:
        del data[int(rng.integers(len(data) + 1)) :]
    if rng.random() < 0.1:
        data[:0] = b"Report of sales;;;\n\n"


# --- settings


@functools.cache
def classes():
    "Whatever has settings: forecasters, and the data classes beside them."
    import importlib
    import pkgutil

    import forecastlab

    found = []
    for m in pkgutil.walk_packages(forecastlab.__path__, "forecastlab."):
        if m.name.rsplit(".", 1)[-1].startswith("_") or "plots" in m.name:
            continue
        module = importlib.import_module(m.name)
        for name in getattr(module, "__all__", []):
            kind = getattr(module, name)
            if isinstance(kind, type) and kind.__module__ == m.name:
                model = hasattr(kind, "fit") and hasattr(kind, "predict")
                # a contract, or a model of which a part is left to others
                if Protocol in kind.__bases__ or inspect.isabstract(kind):
                    continue
                if model or name.endswith(("Settings", "Training")):
                    found.append((f"{m.name}.{name}", kind, _parameters(kind)))
    return found


def _parameters(kind):
    "Names of what can be set, and of what must be."
    given = inspect.signature(kind).parameters.values()
    plain = [p for p in given if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in plain]
    more = getattr(kind, "Settings", None)
    if any(p.kind == p.VAR_KEYWORD for p in given) and dataclasses.is_dataclass(more):
        names += [f.name for f in dataclasses.fields(more)]
    must = [p.name for p in plain if p.default is p.empty]
    return list(dict.fromkeys(names)), must


def settings(rng):
    "A model or its settings, made with odd values."
    from forecastlab.core.fit import Training

    name, kind, (names, must) = pick(rng, classes())
    given = dict.fromkeys(must, 4)
    for n in rng.choice(names, min(len(names), int(rng.integers(1, 3))), replace=False):
        given[str(n)] = pick(rng, ODD)
    if "training" in names and rng.random() < 0.3:
        field = pick(rng, [f.name for f in dataclasses.fields(Training)])
        given["training"] = {field: pick(rng, ODD)}
    yield name, given
    kind(**given)


@functools.cache
def small_panel():
    "Two series of forty weeks, with covariates."
    from forecastlab.core.panel import Panel

    rng = np.random.default_rng(0)
    ds = pd.date_range("2024-01-07", periods=40, freq="W-SUN")
    df = pd.DataFrame(
        dict(
            unique_id=np.repeat(["a", "b"], 40),
            ds=np.tile(ds, 2),
            y=rng.poisson(4, 80).astype(float),
            price=rng.random(80),
        )
    )
    return Panel.from_frame(df, freq="W-SUN", past=["price"])


SIZES = [
    0,
    1,
    2,
    3,
    8,
    39,
    40,
    41,
    1000,
    2**31,
    1e-9,
    0.5,
    0.999,
    1e9,
    1e30,
    True,
    "auto",
]


def models(rng):
    "Settings of sensible types and extreme sizes, trained and asked."
    from forecastlab.core.forecaster import Forecaster

    # a launch needs a catalogue, a competition has its own tests
    slow = ("LaunchForecaster", "Chooser", "AutoForecaster")
    known = [
        (name, kind, names)
        for name, kind, (names, must) in classes()
        if issubclass(kind, Forecaster) and not must and not name.endswith(slow)
    ]
    name, kind, names = pick(rng, known)
    given = {}
    wanted = min(len(names), int(rng.integers(1, 3)))
    for n in rng.choice(names, wanted, replace=False).tolist():
        given[n] = pick(rng, SIZES)
    yield name, given
    if "training" in names:
        how = dict(lr=pick(rng, [1e-3, 1e-9, 1e3, 1e30])) if rng.random() < 0.2 else {}
        given["training"] = dict(progress=False) | how
        given.setdefault("steps", 2)
    if given.get("steps", 2) not in (0, 1, 2, 3, "auto", 0.5):
        given["steps"] = 3
    model = kind(**dict(horizon=2) | given).fit(small_panel())
    model.predict(model.horizon, small_panel()).to_frame()


# --- parameters of a pipeline

LINES = [
    "a: 1", "horizon: 8", "levels: [0.1, .5]", "data: online_retail",
    "x: !!python/name:os",
    "x: !t 1", "x: &a [*a]", "x: {1: 2}", "- 1", "1/0", "x: 1/0", "x: .inf", "x: .nan",
    "x: 2024-01-01", "x: 0o777", "x: 1_000", "x: on", "horizon: eight", "seed: 1e3",
    "horizon: [1]", "levels: 0.5", "levels: '[0.1]'", "? {a: b} : c", "x: \"\\ud800\"",
    "x: |\n  text", "<<: {horizon: 1}", "horizon: 3\nhorizon: 4", "\t", "%YAML 9.9",
    "x: " + "[" * 3000, "x: " + "9" * 5000, "out: /dev/null/x", "---\n---", "x: \0",
]  # fmt: skip


def parameters(rng):
    "A parameter file, and the same on the command line."
    from forecastlab.core.basics import pipelines_dir
    from forecastlab.core.parameters import from_file, resolve

    books = sorted(pipelines_dir().glob("*.ipynb"))
    text = "\n".join(pick(rng, LINES) for _ in range(int(rng.integers(0, 4))))
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if rng.random() < 0.3:
        _spoil(data, rng)
    folder = Path(tempfile.mkdtemp())
    (folder / "p.yaml").write_bytes(data)
    given = {}
    names = ["horizon", "levels", "data", "seed", "out", "known", "steps", "nope"]
    for _ in range(int(rng.integers(0, 3))):
        given[pick(rng, names)] = pick(rng, ODD if rng.random() < 0.5 else LINES)
    yield given, bytes(data[:200])
    if rng.random() < 0.5:
        given = from_file(folder / "p.yaml") | given
    resolve(pick(rng, books), given)


# --- ranking


@functools.cache
def ranking_task():
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    X = sp.random(40, 30, 0.2, "csr", np.float32, rng)
    Y = sp.random(40, 12, 0.15, "csr", np.float32, rng)
    Y.data[:] = 1
    from forecastlab.ranking.xrlinear import XRLinear

    return X, Y, XRLinear.train(X, Y, leaf=3, branches=2, threads=1, progress=False)


def wide(A):
    "The same entries, in as many columns as there can be."
    import scipy.sparse as sp

    parts = A.data, 2**31 - 2 - A.indices[::-1].astype(np.int64), A.indptr
    return sp.csr_matrix(parts, shape=(A.shape[0], 2**31 - 1))


def odd_matrix(rng, A):
    "A matrix with a fault."
    import scipy.sparse as sp

    kinds = [
        lambda: A,
        lambda: A.tocoo(),
        lambda: A.toarray(),
        lambda: A[:0],
        lambda: A[:, :3],
        lambda: A.astype(np.float64),
        lambda: A.astype(complex),
        lambda: A * np.float32("nan"),
        lambda: A * np.float32("inf"),
        lambda: sp.csr_matrix((A.shape[0], 2**31), dtype=np.float32),
        lambda: wide(A),
        lambda: wide(A.T.tocsr()),
        lambda: A.tocsc()[:, ::-1].tocsr(),
        lambda: sp.coo_array(A.toarray()[0]),
        lambda: A.toarray().astype(np.float16),
        lambda: [[1.0], [1.0, 2.0]],
        lambda: np.array([[pick(rng, ODD)] * 2], object),
        lambda: sp.csr_matrix((0, 0), dtype=np.float32),
        lambda: sp.csr_matrix(A.shape, dtype=np.float32),
        lambda: sp.csr_array(A),
        lambda: A.toarray().tolist(),
        lambda: pick(rng, ODD),
    ]
    return pick(rng, kinds)()


def rankers(rng):
    "Training and asking a ranker, with odd matrices and settings."
    from forecastlab.ranking.xrlinear import XRLinear

    X, Y, model = ranking_task()
    names = ["beam", "k", "post", "threads", "selected", "start"]
    more = ["branches", "leaf", "seed", "negatives", "solver", "chain", "shallow"]
    more += ["label_features", "user_negatives", "R", "rel_mode", "rel_norm"]
    more += ["progress", "device"]
    rows = odd_matrix(rng, X) if rng.random() < 0.6 else X
    if rng.random() < 0.5:
        given = {str(n): pick(rng, ODD) for n in rng.choice(names, 1)}
        given = given if rng.random() < 0.6 else {}
        for name in ("selected", "start"):
            if name in given and rng.random() < 0.5:
                given[name] = odd_matrix(rng, Y)
        yield given, words(rows)
        model.predict(rows, **given)
        return
    labels = odd_matrix(rng, Y) if rng.random() < 0.6 else Y
    given = {str(n): pick(rng, ODD) for n in rng.choice([*names[:4], *more], 1)}
    given = given if rng.random() < 0.6 else {}
    for name in ("chain", "label_features", "user_negatives", "R"):
        if name in given and rng.random() < 0.5:
            given[name] = odd_matrix(rng, pick(rng, [X, Y, Y.T.tocsr()]))
            given |= dict(rel_mode="induce") if name == "R" else {}
            given |= dict(negatives="tfn+usn") if name == "user_negatives" else {}
    yield given, f"{words(rows)} {words(labels)}"
    how = dict(leaf=3, branches=2, threads=1, progress=False) | given
    XRLinear.train(rows, labels, **how)


def queries(rng):
    "Single queries, compiled once."
    _, _, model = ranking_task()
    names = ["k", "beam", "post"]
    given = {n: pick(rng, ODD) for n in names if rng.random() < 0.2}
    index = pick(rng, [[1, 2], [0], [], [29, 30], [-1], [2**31], [1, 1], *ODD])
    value = pick(rng, [[1.0, 2.0], [1e30], [], [1e38, 1e38], [math.nan], *ODD])
    if rng.random() < 0.5:
        index, value = pick(rng, [[1, 2], [29, 0], [1, 1], [30, 1]]), [1.0, 1e38]
    yield given, f"{words(index)} {words(value)}"
    model.query(**given)(index, value)


def classifiers(rng):
    "The default estimator on texts and labels of any kind."
    from forecastlab.ranking.estimator import ExtremeClassifier

    texts = [f"red cup number {i} of {i % 7}" for i in range(30)]
    labels = [[f"l{i % 5}"] for i in range(30)]
    for _ in range(int(rng.integers(0, 3))):
        at = int(rng.integers(30))
        if rng.random() < 0.5:
            texts[at] = pick(rng, [*ODD, "漢字", "  ", "!!", "a" * 10000])
        else:
            labels[at] = pick(rng, [*ODD, ["l1", "l1"], "l1", [""], ["new"]])
    X = texts if rng.random() < 0.9 else pick(rng, ODD)
    y = labels if rng.random() < 0.9 else pick(rng, ODD)
    names = ["trees", "leaf", "branches", "threads", "calibrate", "seed", "beam", "C"]
    names += ["negatives", "solver", "threshold", "post", "k", "how", "text"]
    known = _parameters(ExtremeClassifier)[0]
    given = {n: pick(rng, ODD) for n in [pick(rng, names)] if n in known}
    given = given if rng.random() < 0.4 else {}
    yield given, words(X) + words(y)
    how = dict(trees=1, leaf=3, branches=2, threads=1) | given
    model = ExtremeClassifier(**how).fit(X, y)
    ask_classifier(model, texts[:3], rng)


@functools.cache
def fitted_classifier():
    from forecastlab.ranking.estimator import ExtremeClassifier

    texts = [f"red cup number {i} of {i % 7}" for i in range(60)]
    model = ExtremeClassifier(trees=2, leaf=3, branches=2, threads=1)
    return model.fit(texts, [[f"l{i % 5}"] for i in range(60)])


def ask_classifier(model, texts, rng):
    "Whatever a fitted classifier can be asked."
    k = pick(rng, ODD) if rng.random() < 0.3 else 2
    beam = pick(rng, ODD) if rng.random() < 0.2 else 3
    threads = pick(rng, ODD) if rng.random() < 0.1 else 1
    one = texts[0] if isinstance(texts, list) and texts else texts
    questions = [
        lambda: model.rank(texts, k=k, beam=beam, threads=threads),
        lambda: model.predict_proba(texts, k=k, beam=beam, threads=threads),
        lambda: model.predict(texts),
        lambda: model.top(texts, k),
        lambda: model.score(texts, pick(rng, [[["l1"]] * 3, ["l1", "new"], *ODD])),
        lambda: model.explain(one, pick(rng, ["l1", *ODD])),
        lambda: model.rank(texts, selected=odd_matrix(rng, ranking_task()[1])),
    ]
    pick(rng, questions)()


def answers(rng):
    "A fitted classifier, asked about odd rows."
    rows = ["red cup number 3", pick(rng, ["", "漢字", *ODD]), "x" * 10000]
    some = rows[: int(rng.integers(4))]
    X = pick(rng, [some, some, odd_matrix(rng, ranking_task()[0]), pick(rng, ODD)])
    yield "asked", words(X)
    ask_classifier(fitted_classifier(), X, rng)


def label_files(rng):
    "Files of texts and labels, cut and spoilt, in any encoding."
    from forecastlab.ranking.corpus import read_corpus
    from forecastlab.ranking.files import read_xc

    folder = Path(tempfile.mkdtemp())
    read = read_corpus
    if rng.random() < 0.5:
        text = "3 5 4\n0,1 0:0.5 3:1.5\n2 1:1\n 4:2\n"
        read = pick(rng, [read_xc, read_corpus])
        path = folder / pick(rng, ["a.txt", "a.txt.gz"])
    else:
        text = "0,1\tred cup\n2::.5\tblüe cup\n\tgreen\n"
        path = folder / pick(rng, ["a.txt", "a.tsv", "a.tsv.gz", "a.csv", "a.parquet"])
    data = bytearray(text.encode(pick(rng, ENCODINGS)))
    _spoil(data, rng)
    if rng.random() < 0.1:
        data = data.replace(b"3 5 4", b"3 %d 4" % pick(rng, [2**31, 2**70, -1, 0]))
        data = data.replace(b"2::.5", b"%d::1e39" % pick(rng, [2**31 - 2, 2**70, -1]))
    packed = bytearray(
        gzip.compress(bytes(data), mtime=0) if path.suffix == ".gz" else data
    )
    if rng.random() < 0.3:
        _spoil(packed, rng)
    path.write_bytes(packed)
    if rng.random() < 0.05:
        path = pick(rng, ODD)
    yield words(path), bytes(data[:80])
    read(path)


ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"]


def corpora(rng):
    "Tables of texts and labels, and folders of matrices."
    import scipy.sparse as sp

    from forecastlab.ranking.corpus import read_corpus

    folder = Path(tempfile.mkdtemp())
    if rng.random() < 0.3:
        for part in ("X_trn", "Y_trn", "X_tst", "Y_tst"):
            A = odd_matrix(rng, pick(rng, ranking_task()[:2]))
            if sp.issparse(A) and A.ndim == 2 and rng.random() < 0.9:
                sp.save_npz(folder / f"{part}.npz", sp.csr_matrix(A))
        yield "folder", sorted(p.name for p in folder.iterdir())
        read_corpus(folder)
        return
    odd = pick(rng, ["ü\0", "", "a;b", "[1]", 3, None, ["x", 1], [], "\udcff"])
    table = dict(text=["red cup", "blüe", "x"], labels=[["a"], ["b", "c"], ["a"]])
    table[pick(rng, ["text", "labels"])][int(rng.integers(3))] = odd
    df = pd.DataFrame(table)
    if rng.random() < 0.5:
        df["labels"] = df.labels.map(str)
    path = folder / pick(rng, ["a.parquet", "a.csv", "a.tsv", "a.csv.gz"])
    columns = {n: pick(rng, ODD) for n in ("text", "labels") if rng.random() < 0.1}
    try:
        if path.suffix == ".parquet":
            df.to_parquet(path)
        else:
            text = df.to_csv(index=False, sep=pick(rng, [",", ";", "\t"]))
            data = bytearray(text.encode(pick(rng, ENCODINGS), "replace"))
            _spoil(data, rng)
            gz = path.suffix == ".gz"
            path.write_bytes(gzip.compress(bytes(data), mtime=0) if gz else data)
    except Exception:  # pandas itself refuses
        path.write_text("")
    yield f"{path.name} {columns}", words(odd)
    read_corpus(path, path if rng.random() < 0.3 else None, **columns)


SKLEARN = ["ngram_range", "n_features", "vocabulary", "token_pattern", "stop_words"]
SKLEARN += ["analyzer", "input", "tokenizer", "min_df", "norm", "dtype", "encoding"]


def vectorizers(rng):
    "Settings of a vectorizer, sensible or not."
    from forecastlab.ranking.ngrams import NGrams
    from forecastlab.ranking.text import Vectorizer

    known = [f.name for f in dataclasses.fields(NGrams)]
    one = {pick(rng, known): pick(rng, ODD)}
    config = pick(
        rng,
        [
            {"type": "tfidf", "kwargs": one},
            {"type": "tfidf", "kwargs": {"base_vect_configs": [one, {}]}},
            {"type": "tfidf", "kwargs": {"base_vect_configs": [pick(rng, ODD)]}},
            {"type": "tfidf", "kwargs": {pick(rng, ["ngram_range", "min_df", "x"]): 1}},
            {"type": "tfidf", "kwargs": {"ngram_range": [1, pick(rng, [3, 2**31])]}},
            {"type": pick(rng, ["tfidf", "sklearntfidf", "nope"]), "kwargs": {}},
            {"type": "tfidf", "kwargs": {"base_vect_configs": pick(rng, ODD)}},
            {"type": "sklearnhashing", "kwargs": {pick(rng, SKLEARN): pick(rng, ODD)}},
            {"type": "sklearntfidf", "kwargs": {pick(rng, SKLEARN): pick(rng, ODD)}},
            {"type": pick(rng, ODD), "kwargs": pick(rng, ODD)},
            pick(rng, ODD),
            "[" * 5000,
            '{"type":' * 5000,
            json.dumps({"type": "tfidf", "kwargs": {}}),
        ],
    )
    yield "config", words(config)
    texts = [f"red cup {i}" for i in range(20)]
    texts = texts if rng.random() < 0.9 else pick(rng, [[], ["", "!"], *ODD])
    v = Vectorizer(config).fit(texts)
    v.transform(texts if rng.random() < 0.8 else pick(rng, ODD))


def ranking_folders(rng):
    "JSON of saved models that says something else."
    from forecastlab.ranking.chain import load_chain, save_chain
    from forecastlab.ranking.text2text import Text2Text
    from forecastlab.ranking.xrlinear import XRLinear

    _, _, model = ranking_task()
    folder = Path(tempfile.mkdtemp()) / "m"
    if rng.random() < 0.3:
        save_chain(folder, model.chain)
        load = load_chain
    elif rng.random() < 0.5:
        estimator = fitted_classifier()
        trees, items = estimator.model_.models, list(map(str, estimator.classes_))
        Text2Text(estimator.vectorizer_, trees, items).save(folder)
        load = Text2Text.load
    else:
        model.save(folder)
        load = XRLinear.load
    path = pick(rng, sorted(folder.rglob("*.json")))
    found = json.loads(path.read_text())
    if isinstance(found, dict) and rng.random() < 0.6:
        value = pick(rng, [None, -1, 0, 2**70, "x", [], {}, [1], math.nan, True, 1.5])
        text = json.dumps(found | {pick(rng, sorted(found)): value})
    else:
        text = pick(
            rng, ["[" * 9000, '{"len":' * 9000, "", "[]", "null", "{}", "\ufeff"]
        )
    path.write_text(text)
    # as a folder of libpecos, which has no seal
    unsealed(folder)
    yield f"{load.__qualname__} {path.name}", text
    load(folder)


def fine_tuning(rng):
    "Settings of a transformer."
    from forecastlab.ranking.xrtransformer import FineTuning

    names = [f.name for f in dataclasses.fields(FineTuning)]
    given = {n: pick(rng, ODD) for n in rng.choice(names, 2, replace=False).tolist()}
    yield "FineTuning", given
    FineTuning(**given)


WORDS = ["x", "", "-1", "0", "1.5", "nan", "1e999", "9" * 30, "a\0b", "/dev/null/x"]
WORDS += ["true", "pii", "pifa_lf_concat::Z=nope", "[" * 3000, "{", "--help", "tfn+man"]


@functools.cache
def ranking_files():
    "Files that every command line can name."
    import scipy.sparse as sp

    X, Y, model = ranking_task()
    folder = Path(tempfile.mkdtemp())
    sp.save_npz(folder / "X.npz", X)
    sp.save_npz(folder / "Y.npz", Y)
    np.save(folder / "dense.npy", X.toarray())
    np.save(folder / "row.npy", np.ones(3))
    (folder / "texts.txt").write_text("0,1\tred cup\n2\tblue cup\n1\tred\n")
    (folder / "names.txt").write_text("a\nb\nc\n")
    (folder / "p.json").write_text('{"nr_splits": [2, "x"], "only_topk": []}')
    (folder / "deep.json").write_text("[" * 9000)
    model.save(folder / "model")
    return folder


def commands(rng):
    "Words behind `forecastlab-xr`."
    import contextlib
    import io

    from forecastlab.ranking.commands import COMMANDS, main, parsers

    folder = ranking_files()
    files = [str(p) for p in sorted(folder.iterdir())]
    name = pick(rng, list(COMMANDS))
    known = parsers()[1][name]._actions
    usual = dict(inst_path="X.npz", label_path="Y.npz", truth_path="Y.npz")
    usual |= dict(pred_path="Y.npz", input_text_path="texts.txt", model_folder="model")
    usual |= dict(output_item_path="names.txt")
    argv = [name]
    for action in known:
        word = action.option_strings[-1]
        if action.dest in usual and rng.random() < 0.97:
            path = str(folder / usual[action.dest])
            if action.dest == "model_folder" and "train" in name:
                path = tempfile.mkdtemp() + "/m"
            argv += [word, path if rng.random() < 0.9 else pick(rng, [*files, *WORDS])]
        elif rng.random() < 0.08 and word not in ("--help", "--debug"):
            argv += [word] if action.nargs == 0 else [word, pick(rng, [*files, *WORDS])]
    argv += ["--nr-splits", "2", "--max-leaf-size", "3"] if name == "train" else []
    if rng.random() < 0.1:
        argv[int(rng.integers(len(argv)))] = pick(rng, WORDS)
    yield " ".join(argv[:1]), [w.replace(str(folder), "") for w in argv[1:]]
    said, out = io.StringIO(), io.StringIO()
    elsewhere = contextlib.chdir(tempfile.mkdtemp())
    with elsewhere, contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        code = main(argv)
    said = said.getvalue()
    last = (said.strip().splitlines() or [""])[-1]
    if code not in (0, 1, 2) or "Traceback" in said or "--debug shows" in said:
        raise AssertionError(f"exit code {code}: {last[-200:]}")
    if code and not last.startswith("forecastlab-xr"):
        raise AssertionError(f"exit code {code} without a word: {last[-200:]}")
    if code:
        raise LabError(last)


def crash(rng):
    "Not a place: what the harness makes of a process that dies."
    yield "nothing", None
    if rng.bit_generator.seed_seq.entropy[1] == 1:
        os._exit(9)


# a line a place: its name, and one random case there
PLACES = {
    "frames": frames,
    "reader": reader,
    "tables": tables,
    "settings": settings,
    "models": models,
    "parameters": parameters,
    "rankers": rankers,
    "queries": queries,
    "classifiers": classifiers,
    "answers": answers,
    "label files": label_files,
    "corpora": corpora,
    "vectorizers": vectorizers,
    "ranking folders": ranking_folders,
    "fine tuning": fine_tuning,
    "xr commands": commands,
}


# --- the harness


def outcome(place, rng):
    "What a case comes to, and what it was, in words."
    case, told = (PLACES | {"crash": crash})[place](rng), ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            about, data = next(case)
            told = f"{words(about)} {words(data)}"
            next(case, None)
        except LabError:
            return "refused", told
        except Exception as e:
            at = traceback.extract_tb(e.__traceback__)[-1]
            first = (str(e).splitlines() or [""])[0][:80]
            where = f"{Path(at.filename).name}:{at.lineno}"
            return f"raw {type(e).__name__} at {where}: {first}", told
    return "answer", told


def cases(place, first, last, seed=0):
    "Yield (number, outcome, what it was) of some cases; None before each."
    for i in range(first, last):
        yield i, None, ""
        yield i, *outcome(place, np.random.default_rng([seed, i]))


def _work(place, first, last, seed):
    "A process of its own: one line a case."
    import faulthandler
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GB << 30,) * 2)
    for i, found, told in cases(place, first, last, seed):
        if found is None:
            faulthandler.dump_traceback_later(SECONDS, exit=True)
        print(json.dumps([i, found, told]), flush=True)


def run(place, count, seed=0):
    "Outcomes of many cases, and the faults among them; a crash is one of them."
    done, faults, ends = 0, [], Counter()
    while done < count:
        words = [place, str(done), str(count), str(seed)]
        worker = subprocess.run(
            [sys.executable, __file__, "--work", *words],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        last = done - 1
        for line in worker.stdout.splitlines():
            if not line.startswith("["):
                continue
            last, found, told = json.loads(line)
            if found is None:
                continue
            ends["raw" if found.startswith("raw") else found] += 1
            if found not in GOOD:
                faults.append([place, last, found, told])
            done = last + 1
        if done < count:
            if last < done:
                raise RuntimeError(worker.stderr[-2000:])
            ends["crash"] += 1
            faults.append([place, last, "crash", worker.stderr[-400:]])
            done = last + 1
    return ends, faults


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("places", nargs="*", help="names; none: all")
    p.add_argument("--count", type=int, default=10_000, help="cases in all")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", help="JSON file of what was found")
    p.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    given = p.parse_args()
    if given.work:
        place, first, last, seed = given.work
        _work(place, int(first), int(last), int(seed))
        return
    names = given.places or list(PLACES)
    each = -(-given.count // len(names))
    found, faults = {}, []
    for name in names:
        ends, bad = run(name, each, given.seed)
        found[name] = dict(ends)
        faults += bad
        print(f"{name}: {dict(ends)}", flush=True)
        for fault in bad[:50]:
            print("  ", *fault[1:], flush=True)
    if given.out:
        Path(given.out).write_text(json.dumps(dict(places=found, faults=faults)))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
