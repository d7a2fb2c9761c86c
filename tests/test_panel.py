"""Panels: every source gives the same one, in any order and frequency.

To cut, choose, save and read back loses and leaks nothing.
"""

import resource
from contextlib import contextmanager

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal as same

from forecastlab.core import basics, packing
from forecastlab.core.panel import Panel, series_chunks

ROLES = dict(known=["price", "promo"], past=["weather", "sky"])
FREQS = [
    "h",
    "D",
    "B",
    "W-SUN",
    "W-WED",
    "MS",
    "ME",
    "QS",
    "YS",
    "15min",
    "2W-FRI",
    1,
    7,
]


def dates(n, freq, first="2021-01-06"):
    "Time stamps of any frequency."
    if isinstance(freq, int):
        return np.arange(n) * freq + 5
    return pd.date_range(first, periods=n, freq=freq)


def ragged(seed=0, series=6, steps=40, freq="D"):
    "A long frame of series of different length, with covariates of both kinds."
    rng = np.random.default_rng(seed)
    parts = []
    for s in range(series):
        a = rng.integers(0, steps // 2)
        b = rng.integers(a + 3, steps + 1)
        n = b - a
        parts.append(
            pd.DataFrame(
                {
                    "unique_id": f"item {s:02d}",
                    "ds": dates(steps, freq)[a:b],
                    "y": rng.poisson(3, n).astype(np.float32),
                    "price": rng.uniform(1, 9, n).astype(np.float32),
                    "promo": rng.choice(["no", "yes", "half"], n),
                    "weather": rng.normal(size=n).astype(np.float32),
                    "sky": rng.choice(["clear", "grey"], n),
                    "size": np.float32(s),
                    "shop": f"shop {s % 3}",
                    "junk": rng.normal(size=n),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def sort(df):
    return df.sort_values(["unique_id", "ds"], ignore_index=True)


def equal(a, b, order=True):
    "Two panels hold the same numbers, names behind codes included."
    if not order:
        b = b.select(a.ids)
    assert a.freq == b.freq and a.calendar.equals(b.calendar)
    for n in ("ids", "start", "indptr", "length", "y"):
        same(getattr(a, n), getattr(b, n))
    for role in ("known", "past", "static"):
        assert list(getattr(a, role)) == list(getattr(b, role))
        for n, c in getattr(a, role).items():
            d = getattr(b, role)[n]
            assert c.dtype == d.dtype
            if n in a.categories:
                c, d = (np.array(p.categories[n])[x] for p, x in ((a, c), (b, d)))
            same(c, d)


SOURCES = {
    "pandas": lambda df: df,
    "polars": pl.from_pandas,
    "lazy": lambda df: pl.from_pandas(df).lazy(),
    "arrow": pa.Table.from_pandas,
    "batch": lambda df: pa.Table.from_pandas(df).to_batches()[0],
    "chunks": lambda df: pa.concat_tables(
        pa.Table.from_pandas(part) for part in (df[:7], df[7:50], df[50:])
    ),
    "category": lambda df: df.astype(
        {c: "category" for c in ("unique_id", "promo", "sky", "shop")}
    ),
    "arrow types": lambda df: df.convert_dtypes(dtype_backend="pyarrow"),
    "nullable": lambda df: df.convert_dtypes(),
    "polars category": (
        lambda df: pl.from_pandas(df).with_columns(
            pl.col("unique_id", "promo", "shop").cast(pl.Categorical)
        )
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_panel(source):
    df = ragged()
    a, b = (
        Panel.from_frame(d, freq="D", static=["size", "shop"], **ROLES)
        for d in (df, SOURCES[source](df))
    )
    equal(a, b)


TIMES = {
    "date32": pa.date32(),
    "date64": pa.date64(),
    "s": pa.timestamp("s"),
    "ms": pa.timestamp("ms"),
    "ns": pa.timestamp("ns"),
    "utc": pa.timestamp("us", "UTC"),
}


@pytest.mark.parametrize("time", [*TIMES, "text", "text category"])
def test_every_kind_of_time_column_gives_the_same_panel(time):
    df = ragged()
    table = pa.Table.from_pandas(df)
    ds = (
        pa.array(df.ds.astype(str))
        if time.startswith("text")
        else table["ds"].cast(TIMES[time], safe=False)
    )
    if time == "text category":
        ds = ds.dictionary_encode()
    equal(
        Panel.from_frame(df, freq="D"),
        Panel.from_frame(
            table.set_column(table.column_names.index("ds"), "ds", ds), freq="D"
        ),
    )


@pytest.mark.parametrize("freq", FREQS)
def test_shuffled_rows_of_every_frequency_find_their_place(freq):
    df = ragged(1, freq=freq)
    p = Panel.from_frame(df.sample(frac=1, random_state=1), freq=freq, **ROLES)
    for s, name in enumerate(p.ids):
        one = sort(df[df.unique_id == name])
        same(p.history(s), one.y)
        assert list(p.dates(s)) == list(one.ds)
        same(p.known["price"][p.indptr[s] : p.indptr[s + 1]], one.price)
    back = sort(p.to_frame())
    for c in back:
        assert list(back[c]) == list(sort(df)[c])


@pytest.mark.parametrize("freq", [f for f in FREQS if not isinstance(f, int)])
def test_frequency_is_inferred(freq):
    df = ragged(2, freq=freq)
    p = Panel.from_frame(df)
    assert p.calendar.equals(Panel.from_frame(df, freq=freq).calendar)
    assert list(p.calendar) == list(pd.date_range(df.ds.min(), df.ds.max(), freq=freq))


def test_frequency_is_spelled_one_way(tmp_path):
    df = ragged(2, freq="W-SUN")
    for freq in ("W", "W-SUN", pd.offsets.Week(weekday=6)):
        assert Panel.from_frame(df, freq=freq).freq == "W-SUN"
    p = Panel.from_frame(df, freq=pd.offsets.Week(weekday=6))
    p.save(tmp_path / "p")
    equal(p, Panel.load(tmp_path / "p"))
    assert Panel.from_frame(ragged(freq=7), freq=np.int64(7)).freq == 7


def test_huge_integer_times_need_no_huge_calendar():
    p = Panel.from_frame(
        pd.DataFrame(
            {
                "unique_id": ["a", "a", "b"],
                "ds": [10**15, 10**15 + 10, 2 * 10**15],
                "y": 1.0,
            }
        ),
        freq=10,
    )
    assert p.start.tolist() == [0, 10**14] and p.rows == 3


def test_names_that_no_row_uses_are_no_series():
    "A category may name series and values that no row holds: they are neither."
    df = ragged().astype({"unique_id": "category", "promo": "category"})
    some = df[df.unique_id.isin(["item 01", "item 03"]) & (df.promo != "half")]
    p = Panel.from_frame(some, freq="D", known=["promo"], fill="missing")
    assert p.ids.tolist() == ["item 01", "item 03"]
    assert sorted(p.categories["promo"]) == ["<unknown>", "no", "yes"]


@pytest.mark.parametrize("n", [126, 127, 128, 129, 300])
def test_codes_in_one_byte_leave_room_for_null(n):
    "Arrow codes few categories in one byte; the null code must fit beside them."
    names = [f"c{i}" for i in range(n)]
    df = pd.DataFrame(
        {
            "unique_id": "a",
            "ds": range(n + 1),
            "y": 1.0,
            "c": pd.Categorical([*names, None], names),
        }
    )
    p = Panel.from_frame(df, freq=1, known=["c"])
    assert p.known["c"].tolist() == [*range(1, n + 1), 0]
    assert p.categories["c"][1:] == names


def test_numbers_of_many_types_are_read():
    df = pd.DataFrame(
        {
            "unique_id": 7,
            "ds": range(4),
            "y": pd.array([1, None, 3, 4], "Int16"),
            "flag": [True, False, True, True],
        }
    )
    for column in (pa.decimal128(6, 2), pa.float16(), pa.uint8(), pa.int64()):
        table = pa.Table.from_pandas(df)
        table = table.set_column(2, "y", table["y"].cast(pa.float32()).cast(column))
        p = Panel.from_frame(table, freq=1, known=["flag"], fill="missing")
        same(p.y, np.array([1, np.nan, 3, 4], np.float32))
        assert p.known["flag"].tolist() == [1, 0, 1, 1] and p.ids.tolist() == ["7"]


def test_junk_columns_are_never_looked_at():
    df = ragged().assign(junk=[1, "a", None, *[{}] * (len(ragged()) - 3)])
    assert len(Panel.from_frame(df, freq="D")) == 6


@pytest.mark.parametrize("roles", [{}, ROLES])
def test_parquet_in_pieces_gives_the_panel_of_the_frame(tmp_path, roles):
    "Files and row groups, shuffled or not, cached or not, give the frame's panel."
    df = ragged(3, series=20)
    a = Panel.from_frame(df, freq="D", static=["size", "shop"], **roles)
    df.to_parquet(tmp_path / "a.parquet", row_group_size=37)
    b = Panel.from_parquet(
        tmp_path / "a.parquet", freq="D", static=["size", "shop"], **roles
    )
    equal(a, b)
    mixed = df.sample(frac=1, random_state=0)
    (tmp_path / "many").mkdir()
    for i in range(4):
        mixed[i::4].to_parquet(tmp_path / "many" / f"{i}.parquet", row_group_size=31)
    still = df.groupby("unique_id")[["size", "shop"]].first().reset_index()
    still.to_parquet(tmp_path / "still.parquet")
    many = [
        tmp_path / "many",
        str(tmp_path / "many" / "*.parquet"),
        [tmp_path / "many" / f"{i}.parquet" for i in range(4)],
    ]
    for i, path in enumerate(many):
        static = still if i else tmp_path / "still.parquet"
        for cache in (None, tmp_path / f"cache {i}"):
            b = Panel.from_parquet(path, cache, static=static, freq="D", **roles)
            equal(a, b, order=False)


def test_a_file_name_with_wildcards_is_a_name(tmp_path):
    ragged().to_parquet(tmp_path / "data [1].parquet")
    assert len(Panel.from_parquet(tmp_path / "data [1].parquet")) == 6


def test_cache_is_used_again_and_never_mistaken(tmp_path):
    ragged().to_parquet(tmp_path / "a.parquet")
    cache = tmp_path / "packed"
    still = pd.DataFrame(
        {"unique_id": [f"item {i:02d}" for i in range(6)], "w": range(6)}
    )

    def read(**k):
        return Panel.from_parquet(
            tmp_path / "a.parquet", cache=cache, **dict(freq="D", static=still) | k
        )

    read()
    made = (cache / "y.npy").stat().st_mtime_ns
    read()
    read(freq=pd.offsets.Day())
    assert (cache / "y.npy").stat().st_mtime_ns == made
    for k in (
        dict(known=["price"]),
        dict(static=None),
        dict(static=still.assign(w=still.w.where(still.w < 5, 9))),
        dict(fill=0),
    ):
        with pytest.raises(FileExistsError, match="made from other files or settings"):
            read(**k)
    ragged(1).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(FileExistsError, match="made from other files or settings"):
        read()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "packed"]


@pytest.mark.parametrize("freq", ["W-WED", "ME", 7])
def test_what_is_saved_is_loaded_and_stays_as_it_is(tmp_path, freq):
    p = Panel.from_frame(
        ragged(4, freq=freq), freq=freq, static=["size", "shop"], **ROLES
    )
    p.save(tmp_path / "deep" / "p")
    q = Panel.load(tmp_path / "deep" / "p")
    equal(p, q)
    assert isinstance(q.y, np.memmap) and repr(p) == repr(q)
    with pytest.raises(ValueError, match="read-only"):
        q.y[:] = -1
    # copy on write: the disk keeps its numbers
    q.cut(12).y[:] = -1
    equal(p, Panel.load(tmp_path / "deep" / "p"))
    with pytest.raises(FileExistsError, match="something is there already"):
        p.save(tmp_path / "deep" / "p")
    p.cut(12).save(tmp_path / "deep" / "p", overwrite=True)
    equal(p.cut(12), Panel.load(tmp_path / "deep" / "p"))
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["p"]


def test_only_a_panel_is_ever_replaced(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="only a folder with panel.json"):
        Panel.from_frame(ragged(), freq="D").save(tmp_path / "letters", overwrite=True)
    assert (tmp_path / "letters" / "a.txt").read_text() == "dear"


@pytest.mark.parametrize("name", ["y.npy", "indptr.npy", "known-0.npy", "panel.json"])
def test_a_damaged_save_is_named(tmp_path, name):
    Panel.from_frame(ragged(), freq="D", **ROLES).save(tmp_path / "p")
    file = tmp_path / "p" / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(
        OSError, match=f"the saved panel is damaged: .*/p/{name}. Save it again"
    ):
        Panel.load(tmp_path / "p")
    file.unlink()
    with pytest.raises(OSError, match="damaged|no panel in this folder"):
        Panel.load(tmp_path / "p")


@contextmanager
def small_disk(size=64):
    "No file may grow beyond `size` bytes: what a full disk looks like to a program."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_nothing_behind(tmp_path):
    p = Panel.from_frame(ragged(), freq="D", **ROLES)
    ragged().to_parquet(tmp_path / "a.parquet")
    for write in (
        lambda: p.save(tmp_path / "p"),
        lambda: Panel.from_parquet(
            tmp_path / "a.parquet", freq="D", cache=tmp_path / "p"
        ),
    ):
        with (
            small_disk(),
            pytest.raises(OSError, match="could not write .*/p: .*. Free some space"),
        ):
            write()
        assert [f.name for f in tmp_path.iterdir()] == ["a.parquet"]
    # and the way is free again
    p.save(tmp_path / "p")
    equal(p, Panel.load(tmp_path / "p"))


def test_leftovers_of_a_killed_save_do_no_harm(tmp_path, monkeypatch):
    """A process killed half way leaves a hidden folder.

    The next one, of the same process id, must not pick up its files.
    """
    a = Panel.from_frame(ragged(0), freq="D", static=["size"])
    b = Panel.from_frame(ragged(1), freq="D")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(basics.os, "replace", killed)
        # killed: no clean-up
        m.setattr(basics.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            a.save(tmp_path / "p")
    assert len(list(tmp_path.iterdir())) == 1
    b.save(tmp_path / "p")
    equal(b, Panel.load(tmp_path / "p"))
    assert not (tmp_path / "p" / "static-0.npy").exists()


@pytest.mark.parametrize("when", ["scattering", "writing the note"])
def test_a_killed_packing_leaves_no_cache(tmp_path, monkeypatch, when):
    ragged().to_parquet(tmp_path / "a.parquet")

    def read():
        return Panel.from_parquet(
            tmp_path / "a.parquet", freq="D", cache=tmp_path / "packed"
        )

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        if when == "scattering":
            m.setattr(packing.np, "isinf", killed)
        else:
            m.setattr(packing, "write_panel", killed)
        with pytest.raises(KeyboardInterrupt):
            read()
    assert [f.name for f in tmp_path.iterdir()] == ["a.parquet"]
    equal(read(), Panel.from_frame(ragged(), freq="D"))


def test_a_file_with_a_hole_in_it_is_named_and_leaves_no_cache(tmp_path):
    "Its end is whole, so it opens; its middle is not."
    file = tmp_path / "a.parquet"
    ragged(series=200).to_parquet(file)
    content = bytearray(file.read_bytes())
    content[100:5000] = b"!" * 4900
    file.write_bytes(content)
    for cache in (None, tmp_path / "packed"):
        with pytest.raises(OSError, match="not a readable parquet file.*a.parquet"):
            Panel.from_parquet(file, freq="D", cache=cache)
        assert [f.name for f in tmp_path.iterdir()] == ["a.parquet"]


def truth(df, freq):
    "{(id, step): row} by plain Python."
    at = {d: i for i, d in enumerate(dates(400, freq))}
    return {(r.unique_id, at[r.ds]): r for r in df.itertuples()}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["D", "MS", 7]),
    st.sampled_from([0.0, -1.5, "missing"]),
    st.booleans(),
)
def test_holes_mean_what_fill_says(seed, freq, fill, align_end):
    rng = np.random.default_rng(seed)
    df = ragged(seed, freq=freq)
    df = df[rng.random(len(df)) < 0.7]
    df.loc[rng.random(len(df)) < 0.1, "y"] = np.nan
    df["open"] = (rng.random(len(df)) < 0.8).astype(int)
    df.loc[rng.random(len(df)) < 0.2, ["price", "weather"]] = np.nan
    p = Panel.from_frame(
        df, freq=freq, fill=fill, align_end=align_end, available="open", **ROLES
    )
    rows = truth(df, freq)
    first = min(t for _, t in rows)
    final = max(t for _, t in rows)
    assert set(p.ids) == set(df.unique_id)
    for s, name in enumerate(p.ids):
        mine = {t: r for (i, t), r in rows.items() if i == name}
        end = final if align_end else max(mine)
        assert (p.start[s] + first, p.length[s]) == (min(mine), end - min(mine) + 1)
        price = next((r.price for _, r in sorted(mine.items()) if known(r.price)), NAN)
        weather = NAN
        for k, t in enumerate(range(min(mine), end + 1), p.indptr[s]):
            row = mine.get(t)
            same(p.y[k], np.float32(expected_target(row, fill)))
            if row is not None:
                price = row.price if known(row.price) else price
                weather = row.weather if known(row.weather) else weather
                assert p.categories["promo"][p.known["promo"][k]] == row.promo
            same(p.known["price"][k], np.float32(price))
            same(p.past["weather"][k], np.float32(weather))


NAN = float("nan")


def known(number):
    "Not NaN."
    return number == number


def expected_target(row, fill):
    "What a row's target becomes; None where there is no row."
    if row is not None and not row.open:
        return NAN
    if row is not None and known(row.y):
        return row.y
    return NAN if fill == "missing" else fill


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, "missing"]), st.booleans())
def test_cut_never_leaks(seed, fill, mapped):
    """Change everything after the cut: what was known then is the same.

    Array by array, in memory and on the disk.
    """
    import tempfile

    rng = np.random.default_rng(seed)
    df = ragged(seed)
    step = int(rng.integers(5, 40))
    day = dates(40, "D")[step]
    df = df[(rng.random(len(df)) < 0.8) | (df.ds == df.ds.min())]
    late = df.ds > day
    df.loc[rng.random(len(df)) < 0.2, ["y", "weather"]] = np.nan
    other = df.copy()
    other.loc[late, "y"] = 1e6
    other.loc[late, "weather"] = -1e6
    other.loc[late, "sky"] = "grey"
    a, b = (Panel.from_frame(d, freq="D", fill=fill, **ROLES) for d in (df, other))
    with tempfile.TemporaryDirectory() as folder:
        if mapped:
            a.save(f"{folder}/a")
            a = Panel.load(f"{folder}/a")
        if not (df.ds <= day).any():
            return
        before = a.y.copy()
        x = a.cut(day)
        equal(x, b.cut(day))
        equal(x, a.cut(max(day, df.ds.min())).cut(day))
        equal(x, a.cut(10**6).cut(a.calendar.searchsorted(day, "right") - 1))
        for s in range(len(x)):
            assert np.isnan(x.y[x.indptr[s] + x.length[s] : x.indptr[s + 1]]).all()
            assert x.dates(s).max() <= day
        # the panel itself is untouched
        same(a.y, before)
        del x, a


@pytest.mark.parametrize("mapped", [False, True])
def test_a_cut_of_a_cut_is_the_earlier_cut(tmp_path, mapped):
    p = Panel.from_frame(ragged(series=8), freq="D", **ROLES)
    if mapped:
        p.save(tmp_path / "p")
        p = Panel.load(tmp_path / "p")
    step = int(p.start.max()) + 1
    for late in range(step, 40):
        equal(p.cut(late).cut(step), p.cut(step))
    # what is gone stays gone
    twice = p.cut(step).cut(step + 10)
    equal(twice, p.cut(step))
    assert isinstance(twice.y, np.memmap) == mapped


def test_a_cut_by_date_is_the_cut_by_its_step():
    p = Panel.from_frame(ragged(freq="W-SUN"), freq="W-SUN", **ROLES)
    step = 25
    day = p.calendar[step]
    for when in (
        day,
        day + pd.Timedelta("6D"),
        np.datetime64(day),
        str(day.date()),
        np.int64(step),
    ):
        equal(p.cut(when), p.cut(step))
    with pytest.raises(ValueError, match="no series had begun by step -1"):
        p.cut(pd.Timestamp("1990-01-01"))


@pytest.mark.parametrize("mapped", [False, True])
def test_series_are_chosen_by_name_position_or_mask(tmp_path, mapped):
    p = Panel.from_frame(ragged(series=8), freq="D", static=["size", "shop"], **ROLES)
    if mapped:
        p.save(tmp_path / "p")
        p = Panel.load(tmp_path / "p")
    q = p.select(["item 06", "item 01", "item 03"])
    equal(q, p.select([6, 1, 3]))
    equal(q, p.select(np.array([-2, 1, 3])))
    equal(q.select([1, 2, 0]), p.select(np.isin(np.arange(8), [1, 3, 6])))
    for i, s in enumerate((6, 1, 3)):
        same(q.history(i), p.history(s))
        assert q.static["size"][i] == s and q.last[i] == p.last[s]
    none = p.select([])
    assert len(none) == none.rows == 0 and "empty" in repr(none)
    with pytest.raises(
        KeyError, match="unknown series: west, east. The panel holds 8, such as item 00"
    ):
        p.select(["item 01", "west", "east"])
    with pytest.raises(ValueError, match="no such series position: 8, -9"):
        p.select([8, -9, 0])


@pytest.mark.parametrize("kind", [int, np.int32, np.uint64])
def test_whole_numbers_are_names_where_names_are_whole_numbers(kind):
    frame = pd.DataFrame(
        dict(unique_id=np.repeat([1, 2, 3], 4), ds=[0, 1, 2, 3] * 3, y=np.arange(12.0))
    )
    p = Panel.from_frame(frame.astype({"unique_id": kind}), freq=1)
    for which in ([1], 1, np.array([1], kind), ["1"]):
        assert p.select(which).y.tolist() == [0, 1, 2, 3]
    assert p.select(p.names[1:]).names.tolist() == [2, 3]
    assert p.take([1]).names.tolist() == p.take(-2).names.tolist() == [2]
    assert p.select([False, True, False]).names.tolist() == [2]
    with pytest.raises(KeyError, match=r"unknown series: 0\. .*take\(...\) asks by"):
        p.select([0])
    with pytest.raises(TypeError, match="take wants positions"):
        p.take([True, False, False])


def test_actual_is_what_plain_python_finds():
    p = Panel.from_frame(ragged(5, series=9), freq="D")
    rng = np.random.default_rng(0)
    last = rng.integers(-3, 45, len(p))
    a = p.actual(last, 7)
    for s in range(len(p)):
        for h in range(7):
            t = last[s] + 1 + h - p.start[s]
            inside = 0 <= t < p.length[s]
            same(a[s, h], p.history(s)[t] if inside else np.float32(np.nan))


def test_codes_follow_another_panel():
    a, b = (
        Panel.from_frame(ragged(s, series=9), freq="D", static=["shop"], **ROLES)
        for s in (0, 1)
    )
    c = b.recode(a.categories)
    assert c.categories == a.categories
    for n in ("promo", "sky"):
        col = lambda p: np.array(p.categories[n])[(p.known | p.past)[n]]
        same(col(b), col(c))
    equal(c.recode(b.categories), b)
    with pytest.warns(
        UserWarning,
        match="'promo' that training never saw are treated as <unknown>: (half|no|yes)",
    ):
        d = b.recode({"promo": ["<unknown>", "no", "maybe"]})
    same(
        d.known["promo"] == 1, np.array(b.categories["promo"])[b.known["promo"]] == "no"
    )
    assert set(d.known["promo"]) == {0, 1}
    with pytest.raises(ValueError, match="text in training and are numbers now: price"):
        b.recode({"price": ["<unknown>", "a"]})


def test_future_rows_hold_known_covariates_only():
    df = ragged(6)
    last = df.groupby("unique_id").ds.max()
    rows = []
    for name, n in zip(last.index, (3, 0, 5, 1, 0, 2)):
        rows += [
            dict(
                unique_id=name,
                ds=last[name] + pd.Timedelta(days=i + 1),
                price=100.0 + i,
                promo="new" if i else "yes",
                y=-1.0,
                weather=9.0,
            )
            for i in range(n)
        ]
    future = pd.DataFrame(rows)
    shuffled = future.sample(frac=1, random_state=0)
    for f in (future, pl.from_pandas(shuffled), pl.from_pandas(future).lazy()):
        p = Panel.from_frame(df, freq="D", future=f, **ROLES)
        assert p.ahead.tolist() == [3, 0, 5, 1, 0, 2]
        assert (p.length.sum(), p.rows) == (len(df), len(df) + 11)
        for s, n in enumerate(p.ahead):
            tail = slice(p.indptr[s] + p.length[s], p.indptr[s + 1])
            assert np.isnan(p.y[tail]).all()
            assert np.isnan(p.past["weather"][tail]).all()
            assert not p.past["sky"][tail].any()
            same(p.known["price"][tail], 100 + np.arange(n, dtype=np.float32))
            promo = [p.categories["promo"][c] for c in p.known["promo"][tail]]
            assert promo == (["yes"] + ["new"] * n)[:n]
    assert Panel.from_frame(df, freq="D", future=future[:0], **ROLES).ahead.sum() == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=9),
    st.booleans(),
    st.sampled_from([1, 4, 2**22]),
)
def test_carried_values_are_what_plain_python_carries(holes, lead, rows):
    hole = np.array([h for s in holes for h in s])
    indptr = np.r_[0, np.cumsum([len(s) for s in holes])]
    v = np.arange(len(hole), dtype=np.float32)
    v[hole] = np.nan
    expected = []
    for a, b in zip(indptr, indptr[1:]):
        values = [v[i] for i in range(a, b) if not hole[i]]
        seen = values[0] if lead and values else np.nan
        for i in range(a, b):
            seen = seen if hole[i] else v[i]
            expected.append(seen)
    packing.carry_forward(v, hole, indptr, lead, rows)
    same(v, np.array(expected, np.float32))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 40))
def test_chunks_cover_every_series_once(count, rows):
    indptr = np.r_[0, np.cumsum(count)]
    chunks = series_chunks(indptr, rows)
    covered = [s for a, b in chunks for s in range(a, b)]
    assert len(covered) == len(set(covered))
    assert {s for s, n in enumerate(count) if n} <= set(covered)
    assert all(indptr[b] - indptr[a] <= rows + 2 * max(count) for a, b in chunks)


def test_a_row_group_at_a_time_when_dictionaries_change(tmp_path):
    "Every row group has its own dictionary of names; codes must not mix."
    df = ragged(7, series=30).sort_values("ds")
    writer = pq.ParquetWriter(
        tmp_path / "a.parquet", pa.Table.from_pandas(df, preserve_index=False).schema
    )
    for i in range(0, len(df), 29):
        writer.write_table(pa.Table.from_pandas(df[i : i + 29], preserve_index=False))
    writer.close()
    equal(
        Panel.from_frame(df, freq="D", **ROLES),
        Panel.from_parquet(tmp_path / "a.parquet", freq="D", **ROLES),
    )
