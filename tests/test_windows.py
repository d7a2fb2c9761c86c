"""Windows: a batch holds what plain Python reads row by row.

In memory and on the disk, and never another series or the future.
"""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal as same

from forecastlab.core.frequency import cycles_of
from forecastlab.core.panel import Panel
from forecastlab.core.windows import Batch, Windows, calendar_features, continued
from forecastlab.core.windows import forked
from toys import unsealed

ROLES = dict(known=["price", "promo"], past=["weather", "sky"])


def ragged(seed, freq="D", series=5, steps=30, future=True):
    """A panel with holes, stock-outs, series of any length, and known covariates that
    end anywhere after the history.
    """
    rng = np.random.default_rng(seed)
    parts = []
    ahead = []
    grid = pd.date_range("2023-02-01", periods=steps + 6, freq=freq)
    for s in range(series):
        a = int(rng.integers(0, steps - 1))
        b = int(rng.integers(a + 1, steps + 1))
        e = b + int(rng.integers(0, 6)) if future else b
        n = e - a
        i = np.arange(a, e)
        one = pd.DataFrame(
            {
                "unique_id": f"s{s}",
                "ds": grid[i],
                "y": 1000.0 * (s + 1) + i,
                "price": 100.0 * (s + 1) + i,
                "promo": rng.choice(["x", "y", "z"], n),
                "weather": -100.0 * (s + 1) - i,
                "sky": rng.choice(["u", "v"], n),
                "size": float(s + 1),
                "shop": f"shop {s % 2}",
            }
        )
        parts.append(one[: b - a])
        ahead.append(one[b - a :])
    df = pd.concat(parts, ignore_index=True)
    keep = (
        (rng.random(len(df)) < 0.8)
        | (df.groupby("unique_id").cumcount() == 0)
        | ~df.duplicated("unique_id", keep="last")
    )
    df.loc[rng.random(len(df)) < 0.1, ["y", "price", "weather"]] = np.nan
    df["open"] = (rng.random(len(df)) < 0.9).astype(int)
    return Panel.from_frame(
        df[keep],
        freq=freq,
        fill="missing",
        available="open",
        static=["size", "shop"],
        future=pd.concat(ahead) if future else None,
        **ROLES,
    )


def by_hand(p, s, known, context, horizon, table):
    "One window, row by row."
    L = context + horizon
    out = {
        n: [] for n in ("y", "observed", "known", "known_codes", "past", "past_codes")
    }
    for j in range(L):
        r = known - context + j
        k = p.indptr[s] + r
        exists = 0 <= r < p.indptr[s + 1] - p.indptr[s]
        past = 0 <= r < p.length[s]
        seen = past and not np.isnan(p.y[k])
        out["y"].append(p.y[k] if seen else 0)
        out["observed"].append(float(seen))
        price = p.known["price"][k] if exists else 0
        out["known"].append(
            [*table[99 + p.start[s] + r], 0 if np.isnan(price) else price]
        )
        out["known_codes"].append([p.known["promo"][k] if exists else 0])
        if j < context:
            weather = p.past["weather"][k] if exists else 0
            out["past"].append([0 if np.isnan(weather) else weather])
            out["past_codes"].append([p.past["sky"][k] if exists else 0])
    return out | dict(
        static=[p.static["size"][s]],
        static_codes=[p.static["shop"][s]],
        series=s,
        origin=known,
    )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["D", "W-WED", "MS", "h", "B", "2W-FRI"]),
    st.integers(1, 40),
    st.integers(1, 12),
    st.booleans(),
)
def test_batches_hold_what_plain_python_reads(seed, freq, context, horizon, mapped):
    import tempfile

    p = ragged(seed, freq)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        q = p
        if mapped:
            p.save(f"{folder}/p")
            q = Panel.load(f"{folder}/p")
        w = Windows(q, context, horizon, cycles=("week", "year"))
        table = calendar_features(continued(p.calendar, p.freq, 99, 99), w.cycles)
        pairs = [
            (s, k)
            for s in range(len(p))
            for k in {1, int(p.length[s]) // 2 + 1, int(p.length[s])}
        ]
        batch = w.read(*(torch.tensor(c) for c in zip(*pairs)))
        for i, (s, k) in enumerate(pairs):
            for n, values in by_hand(p, s, k, context, horizon, table).items():
                same(
                    getattr(batch, n)[i].numpy(),
                    np.float32(values),
                    err_msg=f"{n} of window {s}, {k}",
                )
        y, observed = w.target(*(torch.tensor(c) for c in zip(*pairs)))
        same(y, batch.y)
        same(observed.float(), batch.observed)
        del w, q, batch


@pytest.mark.parametrize(
    "freq", ["h", "D", "B", "W-SUN", "W-WED", "MS", "ME", "QS", "YS", "15min", "2W-FRI"]
)
def test_the_calendar_goes_on_before_and_after(freq):
    """Features of the horizon are those of its real dates, although the data ends
    before it.
    """
    grid = pd.date_range("2001-03-07", periods=40, freq=freq)
    p = Panel.from_frame(
        pd.DataFrame({"unique_id": "a", "ds": grid[10:30], "y": 1.0}), freq=freq
    )
    w = Windows(p, 5, 10, cycles=("day", "week", "month", "year"))
    b = w.read(*w.latest())
    same(b.known[0].numpy(), calendar_features(grid[25:40], w.cycles))
    same(
        w.read(torch.tensor([0]), torch.tensor([1])).known[0].numpy(),
        calendar_features(grid[6:21], w.cycles),
    )


def test_cycles_do_not_depend_on_where_the_calendar_begins():
    for first in pd.date_range("2024-01-01", periods=7):
        grid = pd.bdate_range(first, periods=30)
        assert cycles_of(
            Panel.from_frame(
                pd.DataFrame({"unique_id": "a", "ds": grid, "y": 1.0}), freq="B"
            )
        ) == ("week",)


def test_integer_time_has_no_calendar():
    p = Panel.from_frame(
        pd.DataFrame({"unique_id": "a", "ds": range(0, 90, 3), "y": 1.0, "x": 2.0}),
        freq=3,
        known=["x"],
    )
    assert Windows(p, 4, 2).read(*Windows(p, 4, 2).latest()).known.shape == (1, 6, 1)
    assert Windows(p.select([0]), 4, 2).calendar.shape[1] == 0
    bare = Panel.from_frame(
        pd.DataFrame({"unique_id": "a", "ds": range(30), "y": 1.0}), freq=1
    )
    w = Windows(bare, 4, 2)
    b = w.read(*w.draw(7))
    for role, shape in (("known", (7, 6, 0)), ("past", (7, 4, 0)), ("static", (7, 0))):
        assert getattr(b, role).shape == shape
        assert getattr(b, f"{role}_codes").shape == shape


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_draw_reaches_every_origin_and_no_other(seed, horizon, context_min, complete):
    p = ragged(seed, series=4, steps=20)
    w = Windows(p, 6, horizon, context_min=context_min, complete=complete)
    valid = {
        (s, k)
        for s in range(4)
        for k in range(context_min, int(p.length[s]) - (horizon if complete else 1) + 1)
    }
    assert len(w) == len(valid)
    if not valid:
        return
    s, k = w.draw(60 * len(valid), torch.Generator().manual_seed(seed))
    assert set(zip(s.tolist(), k.tolist())) <= valid
    assert len(set(zip(s.tolist(), k.tolist()))) >= 0.99 * len(valid)
    again = w.draw(60 * len(valid), torch.Generator().manual_seed(seed))
    assert torch.equal(s, again[0]) and torch.equal(k, again[1])


def test_every_window_is_drawn_equally_often():
    from scipy.stats import chisquare

    p = ragged(3, series=4)
    w = Windows(p, 6, 2)
    s, k = w.draw(50_000, torch.Generator().manual_seed(0))
    assert (
        chisquare(np.unique(s.numpy() * 1000 + k.numpy(), return_counts=True)[1]).pvalue
        > 0.01
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_the_last_window_of_a_cut_panel_knows_no_future(seed, mapped):
    """Batches at the cut, read from the whole panel and from the cut one, differ only
    by what must be gone.
    """
    import tempfile

    p = ragged(seed)
    with tempfile.TemporaryDirectory() as folder:
        if mapped:
            p.save(f"{folder}/p")
            p = Panel.load(f"{folder}/p")
        step = int(np.sort(p.start)[1]) + 3
        x = p.cut(step)
        w = Windows(x, 8, 4, cycles=("week",))
        a = w.read(*w.latest())
        b = Windows(p.select(x.ids), 8, 4, cycles=("week",)).read(*w.latest())
        for n in (
            "known",
            "known_codes",
            "past",
            "past_codes",
            "static",
            "static_codes",
        ):
            assert torch.equal(getattr(a, n), getattr(b, n))
        assert torch.equal(a.y[:, :8], b.y[:, :8])
        assert torch.equal(a.observed[:, :8], b.observed[:, :8])
        assert not a.y[:, 8:].any()
        assert not a.observed[:, 8:].any()
        del p, x, w


@given(st.integers(1, 6), st.integers(1, 30), st.integers(1, 8), st.integers(1, 30))
def test_forks_equal_plain_python(batch, context, horizon, forks):
    y = torch.arange(batch * (context + horizon), dtype=torch.float32).view(batch, -1)
    if forks > context:
        with pytest.raises(
            ValueError,
            match=(
                f"forks must lie between 1 and the context of {context} rows, got"
                f" {forks}"
            ),
        ):
            forked(y, horizon, forks)
        return
    v = forked(y, horizon, forks)
    assert v.shape == (batch, forks, horizon)
    for f in range(forks):
        assert torch.equal(
            v[:, f], y[:, context - forks + f + 1 : context - forks + f + 1 + horizon]
        )


def test_a_part_of_a_batch_holds_its_rows():
    w = Windows(ragged(0), 5, 3)
    b = w.read(*w.draw(9))
    part = b.part(torch.tensor([4, 2]))
    assert isinstance(part, Batch)
    assert len(part) == 2
    assert torch.equal(part.y, b.y[[4, 2]])
    assert torch.equal(part.series, b.series[[4, 2]])


@pytest.mark.parametrize(
    "context, horizon, message",
    [
        (5, 0, "horizon must be a whole number, at least 1, got 0"),
        (5, -2, "got -2"),
        (0, 5, "context must be a whole number, at least 1, got 0"),
    ],
)
def test_lengths_that_cannot_be_are_refused(context, horizon, message):
    with pytest.raises(ValueError, match=message):
        Windows(ragged(0), context, horizon)


def test_series_shorter_than_the_horizon():
    """They are forecast, not trained on; where none is long enough, the error says how
    long they are.
    """
    p = ragged(1)
    w = Windows(p, 5, int(p.length.max()) - 1)
    assert len(w) == (p.length == p.length.max()).sum()
    assert len(w.read(*w.latest())) == len(p)
    with pytest.raises(
        ValueError,
        match=(
            "no series is long enough: training needs 3 \\+ 99 rows, the longest has"
            f" {p.length.max()}"
        ),
    ):
        Windows(p, 5, 99, context_min=3).draw(4)


@pytest.mark.gpu
def test_batches_are_the_same_on_the_gpu():
    p = ragged(2)
    a, b = Windows(p, 9, 4), Windows(p, 9, 4, device="cuda")
    s, k = a.draw(300, torch.Generator().manual_seed(0))
    x, y = a.read(s, k), b.read(s.cuda(), k.cuda())
    for n in vars(x):
        assert torch.equal(getattr(x, n), getattr(y, n).cpu()), n


LARGER = """
import json
import resource
import sys

import numpy as np
import torch

from forecastlab.core.panel import Panel
from forecastlab.core.windows import Windows


def data():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("VmData")).split()[1])


folder, limit = sys.argv[1], 2**20 * int(sys.argv[2])
panel = Panel.load(folder)
size = 4 * panel.rows * (1 + len(panel.known))
# private memory: no copy of a column fits
resource.setrlimit(resource.RLIMIT_DATA, (data() + limit,) * 2)
try:
    np.ones(panel.rows, np.float32)
    fits = True
except MemoryError:
    fits = False
w = Windows(panel, 48, 12)
g = torch.Generator().manual_seed(0)
weight = torch.zeros(48, requires_grad=True)
total = 0.0
for _ in range(20):
    b = w.read(*w.draw(256, g))
    loss = (((b.y[:, :48] * weight).sum(1, keepdim=True) - b.y[:, 48:]) ** 2).mean()
    loss.backward()
    total += float(loss.detach())
found = dict(size=size, fits=fits, total=total, grad=weight.grad.tolist())
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is enforced by Linux")
def test_a_panel_larger_than_the_memory_limit_trains(tmp_path):
    "200 MB of panel, 50 MB of memory: it trains, with the numbers of one in memory."
    series, steps = 250, 100_000
    rng = np.random.default_rng(0)
    grid = pd.date_range("2020", periods=steps, freq="h", unit="us")
    rows = series * steps
    row = rng.normal(size=steps).astype(np.float32)
    p = Panel(
        np.array([f"s{i}" for i in range(series)]),
        "h",
        grid,
        np.zeros(series, np.int64),
        np.arange(series + 1) * steps,
        np.full(series, steps),
        np.tile(row, series),
        known={"x": np.tile(row, series)},
    )
    p.save(tmp_path / "p")
    out = subprocess.run(
        [sys.executable, "-c", LARGER, tmp_path / "p", "50"],
        # each thread has a heap of its own
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
    )
    assert not out.returncode, out.stderr[-2000:]
    got = json.loads(out.stdout)
    assert got["size"] >= 200e6 and not got["fits"]
    w = Windows(p, 48, 12)
    g = torch.Generator().manual_seed(0)
    weight = torch.zeros(48, requires_grad=True)
    total = 0.0
    for _ in range(20):
        b = w.read(*w.draw(256, g))
        loss = (((b.y[:, :48] * weight).sum(1, keepdim=True) - b.y[:, 48:]) ** 2).mean()
        loss.backward()
        total += float(loss.detach())
    assert got["total"] == total
    assert got["grad"] == weight.grad.tolist()
    assert rows == len(p.y)


CUT = """
import json
import sys

from forecastlab.core.panel import Panel
from forecastlab.core.windows import Windows


def memory():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("RssAnon")).split()[1])


panel = Panel.load(sys.argv[1])
w = Windows(panel, 48, 12)
w.read(*w.draw(64))
before = memory()
late = panel.cut(len(panel.calendar) - 25)
w = Windows(late, 48, 12)
b = w.read(*w.latest())
found = dict(
    grown=memory() - before,
    size=4 * panel.rows,
    hidden=not b.observed[:, 48:].any().item(),
    seen=b.observed[:, :48].all().item(),
)
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_cut_of_a_mapped_panel_stays_on_the_disk(tmp_path):
    "Hiding the last day of 100 MB moves one page a series to memory, not the panel."
    series, steps = 100, 250_000
    Panel(
        np.array([f"s{i}" for i in range(series)]),
        1,
        pd.RangeIndex(steps),
        np.zeros(series, np.int64),
        np.arange(series + 1) * steps,
        np.full(series, steps),
        np.ones(series * steps, np.float32),
    ).save(tmp_path / "p")
    out = subprocess.run(
        [sys.executable, "-c", CUT, tmp_path / "p"], capture_output=True, text=True
    )
    assert not out.returncode, out.stderr[-2000:]
    got = json.loads(out.stdout)
    assert got["hidden"] and got["seen"] and got["grown"] < 0.25 * got["size"], got


@pytest.mark.skipif(
    sys.platform != "linux", reason="sparse files and MAP_NORESERVE as on Linux"
)
def test_a_panel_larger_than_the_machine_opens_and_is_cut(tmp_path):
    "A sparse file larger than all memory: opened, read and cut without being loaded."
    import os

    rows = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    series = 20
    steps = rows // series
    Panel(
        np.array([f"s{i}" for i in range(series)]),
        1,
        pd.RangeIndex(steps),
        np.zeros(series, np.int64),
        np.r_[0, np.zeros(series, np.int64)],
        np.full(series, steps),
        np.ones(0, np.float32),
    ).save(tmp_path / "p")
    # the layout is written anew, and no longer what was sealed
    unsealed(tmp_path / "p")
    np.save(tmp_path / "p" / "indptr.npy", np.arange(series + 1) * steps)
    os.unlink(tmp_path / "p" / "y.npy")
    np.lib.format.open_memmap(
        tmp_path / "p" / "y.npy", "w+", np.float32, (series * steps,)
    )
    p = Panel.load(tmp_path / "p")
    w = Windows(p.cut(steps - 5), 48, 12)
    b = w.read(*w.latest())
    assert p.y.nbytes > 1.9 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert b.observed.sum() == 48 * series
