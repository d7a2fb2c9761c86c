"""Bad input at the door: one error that names the culprit and the mend.

At most five culprits are named, and nothing half-made is left. Where bad input has a
documented meaning instead, it is tested here too. What is refused behind the door:

- known covariates that end before the horizon, unseen categories, short series, a
  horizon of 0: `test_mq.py`, `test_backtest.py`, `test_textbook.py`
- bad data and bad parameters of a pipeline: `test_pipelines.py`
- a full disk during a checkpoint: `test_fit.py`
- two runs writing to one folder: `test_runs.py`
"""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from forecastlab.core.basics import LabError
from forecastlab.core.panel import Panel
from forecastlab.core.windows import Windows

DAYS = pd.date_range("2024-01-01", periods=8)
GOOD = pd.DataFrame(
    {
        "unique_id": ["a"] * 8 + ["b"] * 8,
        "ds": [*DAYS] * 2,
        "y": np.arange(16.0),
        "price": np.ones(16),
        "promo": ["no", "yes"] * 8,
        "stock": [1] * 16,
    }
)
AHEAD = pd.DataFrame(
    {
        "unique_id": ["a"] * 3 + ["b"] * 3,
        "ds": [*pd.date_range("2024-01-09", periods=3)] * 2,
        "price": 2.0,
        "promo": "no",
    }
)


def change(df, row, column, value):
    df = df.copy()
    df[column] = df[column].astype(object) if isinstance(value, str) else df[column]
    df.loc[row, column] = value
    return df


def shift(df, row, by):
    return change(df, row, "ds", df.ds[row] + pd.Timedelta(by))


ints = GOOD.assign(ds=[*range(8)] * 2)
FRAMES = {  # name: (frame, arguments, error, message)
    "duplicate": (
        pd.concat([GOOD, GOOD[3:5]]),
        {},
        ValueError,
        (
            r"2 duplicate \(unique_id, ds\) pairs: a at 2024-01-04, a at 2024-01-05."
            r" Sum or drop them first"
        ),
    ),
    "everything twice": (
        pd.concat([GOOD] * 300),
        {},
        ValueError,
        r"16 duplicate .* pairs: (a at 2024-01-0\d, ){4}a at 2024-01-05. Sum",
    ),
    "duplicate and hole": (
        pd.concat([GOOD.drop(2), GOOD[3:4]]),
        dict(fill=0),
        ValueError,
        r"1 duplicate .* pairs: a at 2024-01-04. ",
    ),
    "hole": (
        GOOD.drop([2, 11]),
        dict(freq="D"),
        ValueError,
        (
            r"2 time stamps are missing: a at 2024-01-03, b at 2024-01-04. Pass fill=0"
            r" \(nothing sold\) or fill='missing'"
        ),
    ),
    "many holes": (
        GOOD.drop([1, 2, 3, 4, 5, 6]),
        dict(freq="D"),
        ValueError,
        r"6 time stamps are missing: (a at 2024-01-0\d, ){4}a at 2024-01-06. Pass",
    ),
    "off the calendar": (
        shift(GOOD, 4, "6h"),
        dict(freq="D"),
        ValueError,
        (
            r"1 time stamps are not on the calendar 'D': 2024-01-05 06:00:00. Round"
            r" them to the calendar"
        ),
    ),
    "wrong freq": (
        GOOD,
        dict(freq="W-SUN"),
        ValueError,
        r"7 time stamps are not on the calendar 'W-SUN': 2024-01-01, .* and 2 more. ",
    ),
    "no freq": (
        GOOD.drop([2, 10]),
        {},
        ValueError,
        r"frequency could not be inferred from the time stamps. Pass freq",
    ),
    "too few to infer": (GOOD[:2], {}, ValueError, r"frequency could not be inferred"),
    "unknown freq": (
        GOOD,
        dict(freq="fortnight"),
        ValueError,
        r"unknown freq 'fortnight'. Pass a pandas alias",
    ),
    "freq 0": (
        ints,
        dict(freq=0),
        ValueError,
        r"an integer freq must be at least 1, got 0",
    ),
    "freq True": (
        ints,
        dict(freq=True),
        ValueError,
        r"an integer freq must be at least 1, got True",
    ),
    "off the integers": (
        change(ints.assign(ds=ints.ds * 3), 5, "ds", 16),
        dict(freq=3),
        ValueError,
        r"1 time stamps are not on the calendar 3: 16. ",
    ),
    "NaN target": (
        change(GOOD, [1, 9], "y", np.nan),
        {},
        ValueError,
        (
            r"2 targets are NaN: a at 2024-01-02, b at 2024-01-02. Pass fill=0 or"
            r" fill='missing', or mark them"
        ),
    ),
    "infinite target": (
        change(GOOD, [7, 8], "y", -np.inf),
        dict(fill=0),
        ValueError,
        r"2 targets are infinite: a at 2024-01-08, b at 2024-01-01. Replace them",
    ),
    "too large a target": (
        change(GOOD, 7, "y", 1e39),
        {},
        ValueError,
        r"1 targets are infinite: a at 2024-01-08",
    ),
    "text target": (
        GOOD.assign(y="three"),
        {},
        TypeError,
        r"target column 'y' is of type .*string. Convert it to numbers$",
    ),
    "date covariate": (
        GOOD.assign(price=GOOD.ds),
        dict(known=["price"]),
        TypeError,
        (
            r"covariate column 'price' is of type timestamp.*. Convert it to numbers or"
            r" text"
        ),
    ),
    "text availability": (
        GOOD,
        dict(available="promo"),
        TypeError,
        r"available column 'promo' is of type",
    ),
    "NaN covariate": (
        change(GOOD, 2, "price", np.nan),
        dict(known=["price"]),
        ValueError,
        r"1 values of 'price' are NaN: a at 2024-01-03. Fill them, or pass fill=",
    ),
    "infinite covariate": (
        change(GOOD, 2, "price", np.inf),
        dict(past=["price"], fill="missing"),
        ValueError,
        r"1 values of 'price' are infinite: a at 2024-01-03",
    ),
    "unknown column": (
        GOOD,
        dict(known=["prise", "promo"], past=["wether"]),
        ValueError,
        (
            r"unknown column: prise, wether. The data has: unique_id, ds, y, price,"
            r" promo, stock"
        ),
    ),
    "no id": (
        GOOD.rename(columns={"unique_id": "item"}),
        {},
        ValueError,
        r"unknown column: unique_id. The data has: item, ds",
    ),
    "unknown static": (
        GOOD,
        dict(static=["size"]),
        ValueError,
        r"unknown column: size",
    ),
    "two roles": (
        GOOD,
        dict(known=["price"], past=["price"]),
        ValueError,
        r"column declared both known and past: price. Give it one role",
    ),
    "target as covariate": (
        GOOD,
        dict(known=["y"]),
        ValueError,
        r"column declared both target and known: y",
    ),
    "numbers as text": (
        GOOD.assign(price=[f"{i},99" for i in range(len(GOOD))]),
        dict(known=["price"]),
        TypeError,
        (
            r"column 'price' is text that reads as numbers: '0,99', .* more. Convert"
            r" it to numbers, .*astype\('category'\)"
        ),
    ),
    "dates in another order": (
        GOOD.assign(ds=GOOD.ds.dt.strftime("%d/%m/%Y")),
        {},
        TypeError,
        r"the time column does not hold dates. .*core.reader.read_panel",
    ),
    "a bare name": (GOOD, dict(known="prise"), ValueError, r"unknown column: prise. "),
    "null id": (
        change(GOOD, 3, "unique_id", None),
        {},
        ValueError,
        r"1 rows have no unique_id. Drop them or name their series",
    ),
    "null id in a category": (
        change(GOOD, 3, "unique_id", None).astype({"unique_id": "category"}),
        {},
        ValueError,
        r"1 rows have no unique_id",
    ),
    "null time": (
        change(GOOD, 3, "ds", pd.NaT),
        {},
        ValueError,
        r"1 rows have no time stamp. Drop them or fill",
    ),
    "time zone": (
        GOOD.assign(ds=GOOD.ds.dt.tz_localize("America/New_York")),
        {},
        TypeError,
        (
            r"time stamps carry the time zone America/New_York. Convert them to UTC, or"
            r" drop the zone: .*tz_localize"
        ),
    ),
    "integers as dates": (
        ints,
        dict(freq="D"),
        TypeError,
        r"time is counted in integers. Pass freq=1",
    ),
    "dates as integers": (
        GOOD,
        dict(freq=1),
        TypeError,
        r"freq is an integer, but time is of type timestamp",
    ),
    "fractional time": (
        ints.assign(ds=ints.ds + 0.5),
        dict(freq=1),
        TypeError,
        r"time column does not hold whole numbers. Convert it first",
    ),
    "text as time": (
        GOOD.assign(ds="tomorrow"),
        {},
        TypeError,
        r"time column does not hold dates. Convert it first",
    ),
    "fractions as time": (
        GOOD.assign(ds=1.5),
        {},
        TypeError,
        r"time column does not hold dates",
    ),
    "lists as time": (
        GOOD.assign(ds=[[1]] * 16),
        {},
        TypeError,
        r"time column does not hold dates",
    ),
    "empty": (
        GOOD[:0],
        {},
        ValueError,
        r"the data holds no rows. Check the file or the filter",
    ),
    "no frame": (
        {"unique_id": ["a"]},
        {},
        TypeError,
        r"expected a pandas, polars or Arrow frame, got dict",
    ),
    "array": (
        np.zeros((3, 3)),
        {},
        TypeError,
        r"expected a pandas, polars or Arrow frame, got ndarray",
    ),
    "mixed types": (
        GOOD.assign(y=[1, "a", *[2] * 14]),
        {},
        TypeError,
        r"column .y. mixes types, or holds .*Convert it first",
    ),
    "fill": (
        GOOD,
        dict(fill="zero"),
        ValueError,
        r"fill must be None, a number or 'missing', got 'zero'",
    ),
    "fill NaN": (
        GOOD,
        dict(fill=np.nan),
        ValueError,
        r"fill must be None, a number or 'missing', got nan",
    ),
    "fill True": (
        GOOD,
        dict(fill=True),
        ValueError,
        r"fill must be None, a number or 'missing', got True",
    ),
    "align in words": (
        GOOD,
        dict(fill=0, align_end="yes"),
        TypeError,
        r"align_end must be True or False, got 'yes'",
    ),
    "known is no name": (
        GOOD,
        dict(known=3),
        TypeError,
        r"known must be names of columns, got 3",
    ),
    "target is no name": (
        GOOD,
        dict(target=["y"]),
        TypeError,
        r"target must be the name of a column: \['y'\]",
    ),
    "align without fill": (
        GOOD,
        dict(align_end=True),
        ValueError,
        r"align_end needs fill. Say what the added steps mean",
    ),
    "static changes": (
        GOOD,
        dict(static=["promo"]),
        ValueError,
        (
            r"static columns promo change within a series: a, b. Declare them known or"
            r" past"
        ),
    ),
    "static twice": (
        GOOD,
        dict(static=pd.DataFrame({"unique_id": ["a", "b", "b"], "w": 1.0})),
        ValueError,
        r"duplicate unique_id in static: b. Keep one row",
    ),
    "static missing": (
        GOOD,
        dict(static=pd.DataFrame({"unique_id": ["a"], "w": 1.0})),
        ValueError,
        r"series without static row: b. Add their rows",
    ),
    "static NaN": (
        GOOD,
        dict(static=pd.DataFrame({"unique_id": ["a", "b"], "w": [1.0, np.nan]})),
        ValueError,
        r"static 'w' is NaN or infinite: b. Fill it first",
    ),
    "static date": (
        GOOD,
        dict(static=pd.DataFrame({"unique_id": ["a", "b"], "w": DAYS[:2]})),
        TypeError,
        r"static column 'w' is of type timestamp.* leave it out",
    ),
    "static without id": (
        GOOD,
        dict(static=pd.DataFrame({"w": [1.0, 2.0]})),
        ValueError,
        r"unknown column: unique_id. The data has: w",
    ),
    "static and dynamic": (
        GOOD,
        dict(
            known=["price"],
            static=pd.DataFrame({"unique_id": ["a", "b"], "price": 1.0}),
        ),
        ValueError,
        r"column declared both static and dynamic: price",
    ),
    "future overlaps": (
        GOOD,
        dict(known=["price"], future=shift(AHEAD, [0, 1, 2], "-1D")),
        ValueError,
        (
            r"future rows must begin one step after the history: a. Cut the overlap, or"
            r" add the missing steps"
        ),
    ),
    "future late": (
        GOOD,
        dict(known=["price"], future=shift(AHEAD, [3, 4, 5], "1D")),
        ValueError,
        r"future rows must begin one step after the history: b",
    ),
    "future hole": (
        GOOD,
        dict(known=["price"], future=AHEAD.drop(4)),
        ValueError,
        (
            r"1 future rows are missing: b at 2024-01-10. Known covariates must cover"
            r" every step up to the horizon"
        ),
    ),
    "future hole, fill": (
        GOOD,
        dict(known=["price"], future=AHEAD.drop(4), fill=0),
        ValueError,
        r"1 future rows are missing: b at 2024-01-10",
    ),
    "future twice": (
        GOOD,
        dict(known=["price"], future=pd.concat([AHEAD, AHEAD[1:2]])),
        ValueError,
        r"1 duplicate .* pairs: a at 2024-01-10",
    ),
    "future NaN": (
        GOOD,
        dict(known=["price"], future=change(AHEAD, 1, "price", np.nan)),
        ValueError,
        r"1 values of 'price' are NaN: a at 2024-01-10",
    ),
    "future of nobody": (
        GOOD,
        dict(known=["price"], future=AHEAD.assign(unique_id="c")),
        ValueError,
        r"future rows for series without history: c. Drop them",
    ),
    "future lacks a column": (
        GOOD,
        dict(known=["price", "promo"], future=AHEAD.drop(columns="promo")),
        ValueError,
        r"unknown column: promo. The data has: unique_id, ds, price",
    ),
    "future of other type": (
        GOOD,
        dict(known=["promo"], future=AHEAD.assign(promo=1)),
        TypeError,
        r"columns are text in one frame and numbers in the other: promo",
    ),
    "future off the calendar": (
        GOOD,
        dict(freq="D", known=["price"], future=shift(AHEAD, 2, "1h")),
        ValueError,
        r"1 time stamps are not on the calendar 'D': 2024-01-11 01:00:00",
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_bad_frame_is_refused_in_words(name):
    df, arguments, error, message = FRAMES[name]
    with pytest.raises(error, match=message) as e:
        Panel.from_frame(df, **arguments)
    assert isinstance(e.value, LabError) and len(str(e.value)) < 500


@pytest.mark.parametrize(
    "name",
    [
        n
        for n, (df, k, _, _) in FRAMES.items()
        if isinstance(df, pd.DataFrame)
        and n not in ("mixed types", "future hole, fill")
    ],
)
def test_parquet_says_the_same_and_leaves_no_cache(name, tmp_path):
    df, arguments, error, message = FRAMES[name]
    k = dict(arguments)
    df.to_parquet(tmp_path / "a.parquet")
    if "future" in k:
        k["future"].to_parquet(tmp_path / "ahead.parquet")
        k["future"] = tmp_path / "ahead.parquet"
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(error, match=message):
            Panel.from_parquet(tmp_path / "a.parquet", cache=cache, **k)
        assert {f.name for f in tmp_path.iterdir()} <= {"a.parquet", "ahead.parquet"}


def test_the_order_of_rows_does_not_matter():
    a = Panel.from_frame(GOOD, known=["price"])
    b = Panel.from_frame(GOOD.sample(frac=1, random_state=0), known=["price"])
    b = b.select(["a", "b"])
    assert (a.y == b.y).all() and (a.known["price"] == b.known["price"]).all()


def test_a_stock_out_excuses_a_missing_target():
    p = Panel.from_frame(
        change(change(GOOD, 3, "y", np.nan), [3, 4], "stock", 0), available="stock"
    )
    assert np.isnan(p.history(0)[[3, 4]]).all()
    assert np.isfinite(np.delete(p.y, [3, 4])).all()


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'frequency'"):
        Panel.from_frame(GOOD, frequency="D")


@pytest.mark.parametrize("size", [0, 3, 100, -9, -1])
def test_a_truncated_parquet_file_is_named(tmp_path, size):
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.parquet"
    GOOD.to_parquet(good)
    bad.write_bytes(good.read_bytes()[:size])
    for path in (bad, tmp_path, [good, bad], f"{tmp_path}/*.parquet"):
        with pytest.raises(
            OSError,
            match=(
                r"not a readable parquet file \(truncated or corrupt\): .*bad.parquet."
                r" Write it again or fetch it again"
            ),
        ):
            Panel.from_parquet(path, cache=tmp_path / "cache")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["bad.parquet", "good.parquet"]


def test_a_path_without_parquet_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.parquet", f"{tmp_path}/*.pq"):
        with pytest.raises(
            FileNotFoundError, match="no parquet file found: .* Check the path"
        ):
            Panel.from_parquet(path)
    with pytest.raises(
        FileNotFoundError, match="no panel in this folder: .* Save one with"
    ):
        Panel.load(tmp_path)
    GOOD.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(TypeError, match="unexpected keyword argument 'frequency'"):
        Panel.from_parquet(tmp_path, frequency="D")


@pytest.mark.parametrize("path", [None, 3, [3]])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(LabError, match="expected the path of a parquet file, got "):
        Panel.from_parquet(path)


def test_parquet_files_of_different_types_are_refused(tmp_path):
    for name, part in (
        ("a", GOOD[:8].assign(price=None)),
        ("b", GOOD[8:].assign(price="one")),
    ):
        part.to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(LabError, match="do not agree on the types of their columns"):
        Panel.from_parquet(tmp_path, known=["price"], cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("step", ["tomorrow", None, 1.5j])
def test_a_cut_at_no_date_is_refused(step):
    with pytest.raises(LabError, match="is no step of a calendar that ends at 2024"):
        Panel.from_frame(GOOD).cut(step)


def test_a_cut_at_a_date_is_refused_where_time_is_counted():
    with pytest.raises(LabError, match="is no step of a calendar that ends at 7"):
        Panel.from_frame(ints, freq=1).cut("2024-01-01")


def test_known_covariates_that_end_before_the_horizon_show_nothing():
    "The panel says how far they reach; a batch shows 0 beyond, never the next series."
    p = Panel.from_frame(GOOD, known=["price", "promo"], future=AHEAD.drop([2, 4, 5]))
    assert p.ahead.tolist() == [2, 1]
    b = Windows(p, 4, 5, cycles=()).read(*Windows(p, 4, 5).latest())
    assert b.known[:, 4:, 0].tolist() == [[2, 2, 0, 0, 0], [2, 0, 0, 0, 0]]
    seen = (b.known_codes[:, 4:, 0] > 0).int().tolist()
    assert seen == [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_an_unseen_category_is_unknown_with_a_warning():
    p = Panel.from_frame(GOOD, known=["promo"])
    q = Panel.from_frame(GOOD.assign(promo=["no", "flash"] * 8), known=["promo"])
    with pytest.warns(
        UserWarning,
        match=(
            "categories of 'promo' that training never saw are treated as <unknown>:"
            " flash"
        ),
    ):
        r = q.recode(p.categories)
    assert r.known["promo"].tolist() == [1, 0] * 8
    assert q.known["promo"].tolist() == [1, 2] * 8


def test_a_series_of_one_row_is_a_series():
    p = Panel.from_frame(GOOD[:9], freq="D")
    assert p.length.tolist() == [8, 1] and len(Windows(p, 5, 3)) == 5
    with pytest.raises(
        ValueError,
        match=(
            "no series is long enough: training needs 1 \\+ 30 rows, the longest has 8."
            " Lower the horizon"
        ),
    ):
        Windows(p, 5, 30).draw(1)
    with pytest.raises(
        ValueError, match="horizon must be a whole number, at least 1, got 0"
    ):
        Windows(p, 5, 0)
    one = Panel.from_frame(GOOD[:1], freq="D")
    assert one.rows == 1
    assert len(one.cut(0)) == 1
    assert one.actual(one.last, 2).shape == (1, 2)


@pytest.mark.parametrize(
    "make", [pl.from_pandas, lambda d: pl.from_pandas(d).lazy(), pa.Table.from_pandas]
)
def test_other_frames_get_the_same_words(make):
    for n in (
        "duplicate",
        "NaN target",
        "null id",
        "unknown column",
        "time zone",
        "empty",
    ):
        df, arguments, error, message = FRAMES[n]
        with pytest.raises(error, match=message):
            Panel.from_frame(make(df.reset_index(drop=True)), **arguments)


@pytest.mark.parametrize(
    "ds, freq, fill, message",
    [
        ([0, 1, 2 * 10**9], 1, None, r"1,999,999,998 time stamps are missing: a at 2 "),
        ([0, 1, 2 * 10**9], 1, 0, r"a at 2 and on. Look for a mistyped time"),
        ([-(2**62), 1, 2**62], 1, 0, r"integer times lie too far apart"),
        (["1990-01-01", "1990-01-02", "2050-01-01"], "s", 0, r"1,893,456,000 steps of"),
        (["1990-01-01", "1990-01-02", "2050-01-01"], "us", None, r"a mistyped date"),
    ],
)
def test_a_mistyped_time_is_named_before_it_takes_the_memory(ds, freq, fill, message):
    ds = ds if isinstance(freq, int) else pd.to_datetime(ds)
    df = pd.DataFrame(dict(unique_id="a", ds=ds, y=1.0))
    with pytest.raises(LabError, match=message):
        Panel.from_frame(df, freq=freq, fill=fill)
