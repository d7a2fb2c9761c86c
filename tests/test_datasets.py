"""Data sets: the registry is complete, files are verified, broken ones are named.

Every reader gives the peers' series.
"""

import functools
import hashlib
import http.server
import importlib.util
import os
import threading
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecastlab.core import datasets
from forecastlab.core.basics import LabError, embedded_dir

PEERS = {
    "online_retail_ii": "online_retail_ii (weekly)",
    "spare_parts/raf": "spare_parts/raf",
    "spare_parts/auto": "spare_parts/auto",
    "carparts": "expsmooth/carparts",
    "hospital": "expsmooth/hospital",
    "m4_hourly": "m4 hourly",
    "m4_weekly": "m4 weekly",
    "m1_yearly": "m1 yearly",
    "m1_quarterly": "m1 quarterly",
    "m1_monthly": "m1 monthly",
    "m3_yearly": "m3 yearly",
    "m3_quarterly": "m3 quarterly",
    "m3_monthly": "m3 monthly",
    "tourism_yearly": "tourism yearly",
    "tourism_quarterly": "tourism quarterly",
    "tourism_monthly": "tourism monthly",
    "ett": "ett (ETTh1+2)",
    "fpp3/pbs": "fpp3/PBS",
    "fpp3/aus_retail": "fpp3/aus_retail",
    "fpp3/tourism": "fpp3/tourism",
} | {
    n: n
    for n in (
        "breakfast_at_the_frat",
        "m5_foods3_tx3",
        "walmart2014",
        "rossmann_top100",
        "stallion_beer",
        "exchange_rate",
        "avocado",
    )
}
HEAVY = {"online_retail_ii"}
MARKED = [
    pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n
    for n in datasets.names()
]


@functools.cache
def loaded(name):
    return datasets.load(name)


def digest(content):
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def toy(
    tmp_path,
    monkeypatch,
    content=b"unique_id,ds,y\na,2024-01-07,3\n",
    source=None,
    **entry,
):
    "A registry with one set, an empty cache and an empty mirror variable."
    file = {"path": "toy.csv", **digest(content)} | (
        {"source": source} if source else {}
    )
    made = {
        "toy": {
            "folder": "demand/toy",
            "files": [file],
            "how": "Ask the owner.",
            "reader": "demand.readers:stallion",
            **entry,
        }
    }
    monkeypatch.setattr(datasets, "registry", lambda: made)
    monkeypatch.setenv("FORECASTLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FORECASTLAB_DATA", raising=False)
    return tmp_path / "cache" / "demand" / "toy"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine.

    `server.folder` is served at `server.url`; `server.cut` breaks every answer off
    after so many bytes.
    """
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *a):
            super().__init__(*a, directory=str(folder))

        def log_message(self, *a):
            pass

        def copyfile(self, source, target):
            target.write(source.read() if web.cut is None else source.read(web.cut))
            self.close_connection = True

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.folder = folder
    web.cut = None
    web.url = f"http://127.0.0.1:{web.server_address[1]}"
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield web
    web.shutdown()
    web.server_close()


# --- the registry


ENTRY = "title page licence attribution folder files reader freq horizon season fill"
ENTRY = {*ENTRY.split(), "series", "rows", "roles", "notes"}
ROLES = {"target", "known", "past", "static", "categorical", "text"}


@pytest.mark.parametrize("name", datasets.names())
def test_an_entry_of_the_registry_is_complete(name):
    e = datasets.info(name)
    assert not (lacking := ENTRY - set(e)), f"{name} lacks {sorted(lacking)}"
    assert set(e["roles"]) == ROLES
    assert callable(datasets.reader_of(name))
    assert e["fill"] in (None, "zero")
    assert e["horizon"] > 0 and e["series"] > 0 and e["rows"] > 0
    assert e["page"].startswith("https://")


@pytest.mark.parametrize("name", datasets.names())
def test_every_file_has_a_checksum_and_a_way_to_get_it(name):
    e = datasets.info(name)
    for f in e["files"]:
        for form in datasets.forms(f):
            assert len(form["sha256"]) == 64 and form["bytes"] > 0
        source = f.get("source")
        if source:
            assert source["url"].startswith("https://")
            assert ("archive" in source) == ("member" in source)
        else:
            said = e.get("embedded") or e.get("how")
            assert said, f"{name}: no source, so `how` must say how to get {f['path']}"


def test_the_embedded_default_comes_first_and_may_be_shipped():
    assert datasets.names()[0] == "online_retail"
    assert datasets.info("online_retail")["licence"] == "CC BY 4.0"
    about = embedded_dir() / "online_retail" / "README.md"
    assert "Chen" in about.read_text(encoding="utf-8")
    assert datasets.check("online_retail").ok.all()


def test_unknown_name_and_option_are_refused_with_a_hint():
    with pytest.raises(ValueError, match="Did you mean m4_hourly"):
        datasets.load("m4_hourli")
    with pytest.raises(
        TypeError, match="unknown option of data set 'online_retail': fequency"
    ):
        datasets.load(fequency="D")
    with pytest.raises(
        ValueError, match="series must be a whole number, at least 1, got 0"
    ):
        datasets.load(series=0)


@pytest.mark.parametrize(
    "reader, why",
    [
        ("stallion", "module:function"),
        ("demand.nowhere:stallion", "No module named 'forecastlab.demand.nowhere'"),
        ("demand.readers:nobody", "has no attribute 'nobody'"),
        ("..os:system", "module:function"),
        ("demand.readers:_shop", "module:function"),
    ],
)
def test_a_reader_that_is_nowhere_is_refused(tmp_path, monkeypatch, reader, why):
    toy(tmp_path, monkeypatch, reader=reader)
    with pytest.raises(LabError, match=why):
        datasets.reader_of("toy")


def test_a_set_needs_only_an_entry_and_a_reader(tmp_path, monkeypatch):
    content = b"shop,2024-01,2024-02\nnorth,3,4\nsouth,,5\n"
    folder = toy(
        tmp_path,
        monkeypatch,
        content,
        reader="core.datasets:wide",
        options={"file": "toy", "first": 1},
        roles={"known": [], "past": [], "static": [], "text": []},
        freq="MS",
        horizon=1,
        season=12,
        fill=None,
    )
    folder.mkdir(parents=True)
    (folder / "toy.csv").write_bytes(content)
    monkeypatch.setenv("FORECASTLAB_DATA", str(tmp_path / "cache"))
    panel = datasets.load("toy").panel()
    assert panel.ids.tolist() == ["north", "south"] and panel.length.tolist() == [2, 1]


def test_embedded_set_is_whole_and_means_what_it_says(monkeypatch):
    monkeypatch.delenv("FORECASTLAB_DATA", raising=False)
    ds = loaded("online_retail")
    f = ds.frame
    assert (f.unique_id.nunique(), f.ds.nunique()) == (1000, 104)
    assert len(f) == 101_027 and f.notna().all(axis=None)
    assert (f.ds.dt.dayofweek == 6).all()
    assert f.groupby("unique_id").ds.max().nunique() == 1
    # a series begins with a sale
    assert (f.groupby("unique_id").y.first() > 0).all()
    quiet = f[f.y == 0]
    before = f.groupby("unique_id").price.shift()
    assert (quiet.price == before[quiet.index]).all() and (quiet.invoices == 0).all()
    assert "price" not in ds.known
    assert ds.past == ["price", "invoices"] and ds.text == ["description"]
    assert ds.static.kind.nunique() < 80 and ds.static.notna().all(axis=None)


def test_only_the_first_series_are_loaded():
    ds = datasets.load(series=3)
    assert ds.frame.unique_id.nunique() == len(ds.static) == 3


def test_a_panel_takes_the_roles():
    panel = datasets.load(series=20).panel()
    assert len(panel) == 20 and not panel.known
    assert set(panel.past) == {"price", "invoices"}
    assert set(panel.static) == {"kind"}


def test_an_entry_that_lacks_a_key_names_it(tmp_path, monkeypatch):
    folder = toy(tmp_path, monkeypatch, reader="core.datasets:wide", freq="MS")
    folder.mkdir(parents=True)
    (folder / "toy.csv").write_bytes(b"unique_id,ds,y\na,2024-01-07,3\n")
    datasets.registry()["toy"]["options"] = {"file": "toy", "first": 2}
    with pytest.raises(LabError, match="lacks: roles, horizon, season, fill. Add them"):
        datasets.load("toy")


# --- broken files


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda b: b[:-7], "truncated"),
        (lambda b: b[:-1] + b"!", "corrupt"),
        (lambda b: b"", "truncated"),
    ],
)
def test_damaged_file_is_named_with_both_sizes_and_the_mend(
    tmp_path, monkeypatch, damage, word
):
    content = b"unique_id,ds,y\na,2024-01-07,3\n"
    toy(
        tmp_path,
        monkeypatch,
        content,
        source={"url": "https://example.invalid/toy.csv"},
    )
    mirror = tmp_path / "mirror" / "demand" / "toy"
    mirror.mkdir(parents=True)
    bad = damage(content)
    (mirror / "toy.csv").write_bytes(bad)
    monkeypatch.setenv("FORECASTLAB_DATA", str(tmp_path / "mirror"))
    with pytest.raises(OSError) as e:
        datasets.load("toy")
    text = str(e.value)
    assert str(mirror / "toy.csv") in text
    assert word in text
    assert "forecastlab data get toy" in text
    for found in (content, bad):
        assert f"{len(found):,} bytes" in text and digest(found)["sha256"][:12] in text
    row = datasets.check("toy").iloc[0]
    assert row.present and not row.ok and row["where"] == "mirror"


def test_missing_file_is_named_and_nothing_is_downloaded_behind_a_mirror(
    tmp_path, monkeypatch, server
):
    (server.folder / "toy.csv").write_bytes(
        content := b"unique_id,ds,y\na,2024-01-07,3\n"
    )
    toy(tmp_path, monkeypatch, content, source={"url": f"{server.url}/toy.csv"})
    monkeypatch.setenv("FORECASTLAB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(
        FileNotFoundError,
        match=r"(?s)toy\.csv \(missing; expected .*forecastlab data get toy",
    ):
        datasets.load("toy")
    assert not (tmp_path / "cache").exists() and not datasets.check("toy").present.any()
    # asked for, it is fetched and then found
    folder = datasets.get("toy")
    assert (folder / "toy.csv").read_bytes() == content
    assert datasets.whole_files("toy") == {"toy": folder / "toy.csv"}


def test_a_set_without_address_says_how_to_get_it(tmp_path, monkeypatch):
    toy(tmp_path, monkeypatch)
    with pytest.raises(
        FileNotFoundError, match=r"(?s)forecastlab data get toy.*Ask the owner"
    ):
        datasets.get("toy")


def test_damaged_embedded_file_names_the_mend(tmp_path, monkeypatch):
    entry = datasets.info("online_retail")
    folder = tmp_path / "online_retail"
    folder.mkdir()
    for f in entry["files"]:
        (folder / f["path"]).write_bytes(
            (embedded_dir() / "online_retail" / f["path"]).read_bytes()
        )
    (folder / "weekly.parquet").write_bytes(
        (folder / "weekly.parquet").read_bytes()[:1000]
    )
    monkeypatch.setattr(datasets, "registry", lambda: {"online_retail": entry})
    monkeypatch.setattr(datasets, "embedded_dir", lambda: tmp_path)
    with pytest.raises(
        OSError,
        match=(
            r"(?s)weekly\.parquet \(truncated; expected 327,508 bytes.*found 1,000"
            r" bytes.*forecastlab run embedded_data"
        ),
    ):
        datasets.load()


def test_truncated_parquet_is_one_error_even_where_the_checksum_agrees(
    tmp_path, monkeypatch
):
    whole = tmp_path / "whole.parquet"
    pd.DataFrame({"date": [1], "volume": [2.0]}).to_parquet(whole)
    cut = whole.read_bytes()[:-20]
    folder = toy(tmp_path, monkeypatch, cut)
    folder.mkdir(parents=True)
    datasets.registry()["toy"]["files"][0]["path"] = "toy.parquet"
    (folder / "toy.parquet").write_bytes(cut)
    with pytest.raises(
        OSError, match="cannot be read .truncated or corrupt.*toy.parquet"
    ):
        datasets.load("toy")


# --- downloads


def test_download_verifies_keeps_and_does_not_repeat(tmp_path, monkeypatch, server):
    (server.folder / "toy.csv").write_bytes(content := os.urandom(200_000))
    folder = toy(
        tmp_path, monkeypatch, content, source={"url": f"{server.url}/toy.csv"}
    )
    assert datasets.get("toy") == folder and os.listdir(folder) == ["toy.csv"]
    (server.folder / "toy.csv").unlink()
    # from the cache
    assert datasets.get("toy") == folder
    (folder / "toy.csv").write_bytes(content[:10])
    (server.folder / "toy.csv").write_bytes(content)
    # a damaged copy is mended
    assert (datasets.get("toy") / "toy.csv").read_bytes() == content


def test_a_member_of_an_archive_in_another_form_is_downloaded(
    tmp_path, monkeypatch, server
):
    import gzip

    content = b"a,b\n1,2\n"
    packed = gzip.compress(content)
    with zipfile.ZipFile(server.folder / "toy.whl", "w") as z:
        z.writestr("toy/data/toy.csv", content)
    wheel = (server.folder / "toy.whl").read_bytes()
    folder = toy(
        tmp_path,
        monkeypatch,
        packed,
        source={
            "path": "toy.csv",
            **digest(content),
            "url": f"{server.url}/toy.whl",
            "archive": digest(wheel),
            "member": "toy/data/toy.csv",
        },
    )
    datasets.registry()["toy"]["files"][0]["path"] = "toy.csv.gz"
    assert datasets.get("toy") == folder and os.listdir(folder) == ["toy.csv"]
    assert datasets.whole_files("toy")["toy"] == folder / "toy.csv"


def test_a_file_address_is_downloaded(tmp_path, monkeypatch):
    (tmp_path / "a b.csv").write_bytes(content := b"1,2\n")
    folder = toy(
        tmp_path, monkeypatch, content, source={"url": (tmp_path / "a b.csv").as_uri()}
    )
    assert datasets.get("toy") == folder
    assert (folder / "toy.csv").read_bytes() == content


@pytest.mark.parametrize("fault", ["cut", "wrong", "gone", "dead"])
def test_a_broken_download_leaves_nothing(tmp_path, monkeypatch, server, fault):
    content = os.urandom(300_000)
    (server.folder / "toy.csv").write_bytes(
        content if fault != "wrong" else os.urandom(300_000)
    )
    url = f"{server.url}/toy.csv" if fault != "dead" else "http://127.0.0.1:9/toy.csv"
    folder = toy(tmp_path, monkeypatch, content, source={"url": url})
    if fault == "cut":
        server.cut = 70_000
    if fault == "gone":
        (server.folder / "toy.csv").unlink()
    with pytest.raises(
        OSError, match="the download of http://127.0.0.1.*Nothing was kept"
    ) as e:
        datasets.get("toy")
    assert url in str(e.value) and os.listdir(folder) == []
    if fault == "wrong":
        assert "300,000 bytes" in str(e.value)
        assert digest(content)["sha256"][:12] in str(e.value)


def test_a_killed_download_leaves_no_file_and_the_next_one_works(
    tmp_path, monkeypatch, server
):
    (server.folder / "toy.csv").write_bytes(content := os.urandom(100_000))
    folder = toy(
        tmp_path, monkeypatch, content, source={"url": f"{server.url}/toy.csv"}
    )
    real = datasets.download

    def killed(url, path, progress=False):
        path.write_bytes(content[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "download", killed)
    with pytest.raises(KeyboardInterrupt):
        datasets.get("toy")
    assert os.listdir(folder) == []
    # SIGKILL leaves its scratch folder
    stale = folder / ".get-old"
    stale.mkdir()
    (stale / "toy.csv").write_bytes(b"half")
    os.utime(stale, (0, 0))
    assert datasets.check("toy").present.tolist() == [False]
    monkeypatch.setattr(datasets, "download", real)
    assert os.listdir(datasets.get("toy")) == ["toy.csv"]


# --- frames


def test_grid_refuses_duplicates_and_stray_dates():
    rows = pd.DataFrame(
        {
            "unique_id": ["a", "a"],
            "ds": pd.to_datetime(["2024-01-07", "2024-01-07"]),
            "y": [1, 2],
        }
    )
    with pytest.raises(ValueError, match="same series and date: a"):
        datasets.grid(rows, "W-SUN")
    rows["ds"] = pd.to_datetime(["2024-01-07", "2024-01-09"])
    rows.loc[2] = ["a", pd.Timestamp("2024-01-14"), 1]
    with pytest.raises(ValueError, match="not on the calendar W-SUN: 2024-01-09"):
        datasets.grid(rows, "W-SUN")


def test_carry_never_reads_a_neighbour():
    f = pd.DataFrame(
        {"unique_id": list("aaabb"), "price": [np.nan, 1, np.nan, np.nan, 7]}
    )
    assert datasets.carry(f, ["price"]).price.tolist() == [1, 1, 1, 7, 7]


@pytest.mark.parametrize("name", MARKED)
def test_every_set_in_the_mirror_loads_as_registered(mirror, name):
    assert datasets.check(name).ok.all()
    ds, e = loaded(name), datasets.info(name)
    assert (ds.frame.unique_id.nunique(), len(ds.frame)) == (e["series"], e["rows"])
    assert ds.frame.drop(columns="y").notna().all(axis=None)
    assert (ds.available is not None) == ds.frame.y.isna().any()
    assert np.isfinite(ds.frame.y.dropna()).all()
    assert not ds.frame.duplicated(["unique_id", "ds"]).any()
    step = ds.frame.groupby("unique_id").ds
    if isinstance(ds.freq, int):
        assert ((step.max() - step.min()).values + 1 == step.size().values).all()
    # to the end of the data
    if ds.fill == "zero":
        assert step.max().nunique() == 1
    for c in e["roles"]["categorical"]:
        table = ds.static if c in e["roles"]["static"] else ds.frame
        assert table[c].map(type).eq(str).all()
    for c in e["roles"]["static"]:
        assert ds.static[c].notna().all()
    panel = ds.panel()
    assert len(panel) == e["series"]
    assert list(panel.known) == ds.known and list(panel.past) == ds.past


@pytest.mark.parametrize(
    "name", ["ett", "rossmann_top100", "tourism_monthly", "m4_weekly", "avocado"]
)
def test_the_form_the_source_gives_reads_the_same(mirror, tmp_path, monkeypatch, name):
    import gzip

    e, want = datasets.info(name), loaded(name)
    folder = tmp_path / e["folder"]
    folder.mkdir(parents=True)
    for f in e["files"]:
        (folder / f["source"]["path"]).write_bytes(
            gzip.decompress((mirror / e["folder"] / f["path"]).read_bytes())
        )
    monkeypatch.delenv("FORECASTLAB_DATA")
    monkeypatch.setenv("FORECASTLAB_CACHE", str(tmp_path))
    assert datasets.check(name).ok.all()
    pd.testing.assert_frame_equal(datasets.load(name).frame, want.frame)


def peers():
    "The yardstick's own readers, where they are at hand."
    folder = os.environ.get("FORECASTLAB_PEERS")
    if not folder or not (Path(folder) / "demand" / "loaders.py").exists():
        pytest.skip("FORECASTLAB_PEERS names no folder with the peers' readers")
    return Path(folder)


def module(path):
    spec = importlib.util.spec_from_file_location("peer_" + path.stem, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in PEERS],
)
def test_series_are_exactly_the_peers(mirror, monkeypatch, name):
    monkeypatch.setenv("PEER_DATA", str(mirror))
    theirs = module(peers() / "demand" / "loaders.py").ALL[PEERS[name]]()
    ds = loaded(name)
    f = ds.frame
    ids = f.unique_id.unique()
    assert sorted(ids) == sorted(theirs["ids"])
    assert (ds.horizon, ds.season) == (theirs["h"], theirs["m"])
    row = pd.Series(np.arange(len(ids)), index=theirs["ids"])[f.unique_id].values
    if ds.freq == 1:
        calendar = pd.RangeIndex(f.ds.max() + 1)
    else:
        calendar = pd.date_range(f.ds.min(), f.ds.max(), freq=ds.freq)
    ours = np.full((len(ids), len(calendar)), np.nan)
    ours[row, calendar.get_indexer(f.ds)] = f.y
    np.testing.assert_array_equal(ours, theirs["y"])


def test_eia_is_exactly_the_peers_selection(mirror, monkeypatch):
    monkeypatch.setenv("PEER_DATA", str(mirror))
    y, ids, start = module(peers() / "eia" / "common.py").load()
    f = loaded("eia100").frame
    assert f.unique_id.unique().tolist() == ids and f.ds.min() == start
    np.testing.assert_array_equal(f.y.values.reshape(100, 8000).T.astype("float32"), y)
    assert len(datasets.load("eia100", hours=500, series=2).frame) == 1000


@pytest.mark.slow
def test_embedded_set_is_a_part_of_the_full_one(mirror):
    full, part = loaded("online_retail_ii").frame, loaded("online_retail").frame
    both = part.merge(full, on=["unique_id", "ds"], suffixes=("", "_full"))
    assert len(both) == len(part)
    assert (both.y == both.y_full).all() and (both.price == both.price_full).all()


@pytest.mark.slow
def test_rebuilt_embedded_data_equal_the_shipped(mirror, tmp_path):
    papermill = pytest.importorskip("papermill")
    from forecastlab.core.basics import pipelines_dir

    book = next(pipelines_dir().glob("*embedded_data.ipynb"))
    papermill.execute_notebook(
        str(book),
        str(tmp_path / "run.ipynb"),
        {"out": str(tmp_path / "run")},
        progress_bar=False,
        log_output=False,
    )
    for name in ("weekly", "items"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(tmp_path / "run" / "artifacts" / f"{name}.parquet"),
            pd.read_parquet(embedded_dir() / "online_retail" / f"{name}.parquet"),
        )


# --- covariates: what must not leak


def test_breakfast_covariates_are_the_recorded_ones(mirror):
    ds = loaded("breakfast_at_the_frat")
    f = ds.frame
    t = pd.read_parquet(
        mirror / "demand" / "breakfast_at_the_frat" / "transaction.parquet"
    ).rename(columns={"week_end_date": "ds"})
    t["unique_id"] = t.upc_id.astype(str) + "|" + t.store_id.astype(str)
    m = f.merge(t, on=["unique_id", "ds"], how="left", suffixes=("", "_raw"))
    seen = m.units.notna()
    for c in ("price", "feature", "display", "tpr_only"):
        assert (m[c][seen] == m[c + "_raw"][seen])[m[c + "_raw"][seen].notna()].all()
    before = m.groupby("unique_id").price.shift()
    assert (m.price[~seen] == before[~seen]).all() and (m.y[~seen] == 0).all()
    assert (m.loc[~seen, ["feature", "display", "tpr_only"]] == 0).all(axis=None)
    static = {"store", "upc", "category", "sub_category", "manufacturer", "segment"}
    assert static <= set(ds.static.columns[1:])


def test_m5_calendar_is_on_the_right_day(mirror):
    f = loaded("m5_foods3_tx3").frame
    christmas = f[(f.ds.dt.month == 12) & (f.ds.dt.day == 25)]
    assert (christmas.event == "Christmas").all()
    assert (christmas.event_type == "National").all()
    texas = [1, 3, 5, 6, 7, 9, 11, 12, 13, 15]
    assert sorted(f[f.snap == 1].ds.dt.day.unique()) == texas


def test_walmart_has_its_holidays_and_its_future(mirror):
    ds = loaded("walmart2014")
    holidays = set(ds.frame[ds.frame.holiday == 1].ds.dt.strftime("%Y-%m-%d"))
    assert {"2010-02-12", "2010-09-10", "2010-11-26", "2010-12-31"} <= holidays
    assert ds.future.groupby("unique_id").size().eq(39).all()
    assert ds.future.ds.min() == ds.frame.ds.max() + pd.Timedelta(weeks=1)
    assert (ds.panel().ahead == 39).all()


def test_rossmann_gap_is_not_zero_demand(mirror):
    f = loaded("rossmann_top100").frame
    gap = f[f.available == 0]
    assert len(gap) == 368 and gap.y.isna().all()
    assert set(gap.unique_id) == {"842", "1027"} and set(gap.ds.dt.year) == {2014}
    assert gap.promo.isin([0, 1]).all()
    assert (f[(f.open == 0) & (f.available == 1)].y == 0).all()


@pytest.mark.network
def test_sources_still_hand_out_the_registered_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("FORECASTLAB_CACHE", str(tmp_path))
    monkeypatch.delenv("FORECASTLAB_DATA", raising=False)
    broken = {}
    for name in datasets.names():
        e = datasets.info(name)
        if e.get("embedded") or not all(f.get("source") for f in e["files"]):
            continue
        try:
            datasets.get(name)
        except OSError as error:
            broken[name] = str(error)
    assert not broken
