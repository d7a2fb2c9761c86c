"""Gridded data: any axis order, any of three file kinds, read when asked, refused when
wrong.
"""

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from forecastlab.core.basics import LabError, data_dir

xr = pytest.importorskip("xarray", reason="xarray is in the `earth` extra")
h5py = pytest.importorskip("h5py", reason="h5py is in the `earth` extra")
pytest.importorskip("zarr", reason="zarr is in the `earth` extra")
pytest.importorskip("h5netcdf", reason="h5netcdf is in the `earth` extra")

from forecastlab.earth.fields import Fields, Scale, open_field  # noqa: E402
from forecastlab.earth.fields import read_frames, statistics, time_step  # noqa: E402
from forecastlab.earth.sources import nino34, open_icar, open_knmi  # noqa: E402
from forecastlab.earth.sources import RADARS, open_sevir  # noqa: E402
from forecastlab.earth.sources import radar_sample  # noqa: E402

EARTH = (data_dir() / "earth") if data_dir() else None


def real(name):
    return pytest.mark.skipif(
        EARTH is None or not (EARTH / name).exists(),
        reason=f"FORECASTLAB_DATA has no earth/{name}",
    )


def rain(frames=12, rows=6, columns=8, freq="5min", names=("time", "lat", "lon")):
    "A field with distinct numbers, named axes and coordinates."
    values = np.arange(frames * rows * columns, dtype="f4")
    coords = {
        names[0]: pd.date_range("2020-01-01", periods=frames, freq=freq),
        names[1]: np.linspace(50, 51, rows),
        names[2]: np.linspace(4, 5, columns),
    }
    shape = frames, rows, columns
    return xr.DataArray(values.reshape(shape), coords, names, "rain", {"units": "mm"})


WRITERS = {
    "netcdf4.nc": lambda da, path: da.to_netcdf(path, engine="h5netcdf"),
    "classic.nc": lambda da, path: da.to_netcdf(path, engine="scipy"),
    "v3.zarr": lambda da, path: da.to_zarr(path, consolidated=False),
    "v2.zarr": lambda da, path: da.to_zarr(path, zarr_format=2, consolidated=True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_windows(tmp_path, name):
    field = rain()
    field[3, 2, 2] = np.nan
    WRITERS[name](field, tmp_path / name)
    opened = open_field(tmp_path / name)
    assert opened.name == "rain" and opened.units == "mm"
    found, expected = (Fields(f, 3, 2, stride=2)[:] for f in (opened, field))
    assert found.x.shape == (4, 3, 6, 8, 1)
    assert_close(found.x, expected.x, equal_nan=True, rtol=0, atol=0)
    assert_close(found.y, expected.y, equal_nan=True, rtol=0, atol=0)
    assert int((~found.mask).sum()) == 1


def test_axes_may_be_in_any_order_and_keep_their_names(tmp_path):
    field = rain(names=("Time", "south_north", "west_east"))
    turned = field.transpose("west_east", "Time", "south_north")
    turned.to_netcdf(tmp_path / "turned.nc", engine="h5netcdf")
    for source in (turned, tmp_path / "turned.nc"):
        opened = open_field(source)
        assert opened.dims == ("Time", "south_north", "west_east")
        assert np.array_equal(read_frames(opened)[0, ..., 0], field)


def test_conventions_tell_axes_that_names_do_not():
    field = rain(names=("when", "j", "i"))
    field["when"].attrs["axis"] = "T"
    field["j"].attrs["standard_name"] = "projection_y_coordinate"
    field["i"].attrs["axis"] = "x"
    turned = field.transpose("i", "j", "when")
    assert open_field(turned).dims == ("when", "j", "i")


def test_sequences_and_channels_are_found():
    values = np.arange(2 * 3 * 5 * 4 * 6, dtype="f4").reshape(2, 3, 5, 4, 6)
    field = xr.DataArray(values, dims=["channel", "event", "time", "x", "y"])
    batch = Fields(field, 2, 1)[4]
    expected = values[:, 1, 1:3].transpose(1, 3, 2, 0)
    assert np.array_equal(batch.x[0], expected)


def test_variables_of_a_file_become_channels(tmp_path):
    field = rain()
    data = xr.Dataset({"rain": field, "wind": 2 * field, "height": field[0]})
    data.to_zarr(tmp_path / "two.zarr", consolidated=False)
    with pytest.raises(LabError, match="2 variables .*: rain, wind. Choose"):
        open_field(tmp_path / "two.zarr")
    with pytest.raises(LabError, match="no such variable: snow"):
        open_field(tmp_path / "two.zarr", "snow")
    with pytest.raises(LabError, match="list of variables is empty. There are rain"):
        Fields(tmp_path / "two.zarr", 3, 2, variable=[])
    both = Fields(tmp_path / "two.zarr", 3, 2, variable=["rain", "wind"])
    x = both[1].x
    assert both.channels == 2 and np.array_equal(x[..., 1], 2 * x[..., 0])


WRONG = {
    "no names": (
        lambda f: xr.DataArray(f.values),
        r"dim_0 \(12\), .*open_field\(\.\.\.",
    ),
    "a name nobody knows": (lambda f: f.rename(lat="level"), "level .6.. Say what"),
    "two of a role": (lambda f: f.rename(lon="y"), "two axes are y: lat, y"),
    "no time": (lambda f: f[0], "missing .* time. A single frame gets one"),
    "words": (lambda f: f.astype(str), "holds <U"),
    "a list": (lambda f: f.values.tolist(), "expected gridded data, got list"),
    "nothing": (lambda f: f[:0], "these axes are empty: time"),
    "a hole": (lambda f: f[[0, 1, 3, 4]], "1 frames are missing .* 2020-01-01 00:10"),
    "twice": (lambda f: f[[0, 1, 1, 2]], "1 times are there twice: 2020-01-01 00:05"),
    "back": (
        lambda f: f[[0, 2, 1]],
        "2020-01-01 00:10 is followed by 2020-01-01 00:05",
    ),
    "no date": (
        lambda f: f.assign_coords(time=[*f.time.values[:11], np.datetime64("NaT")]),
        "1 frames have no time: frame 11",
    ),
    "irregular": (
        lambda f: f.assign_coords(
            time=[*f.time.values[:11], f.time.values[11] + np.timedelta64(2, "m")]
        ),
        "first: 2020-01-01 00:57 comes after 2020-01-01 00:50",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_field_that_cannot_be_understood_is_refused(fault):
    change, words = WRONG[fault]
    with pytest.raises(LabError, match=words):
        Fields(change(rain()), 2, 1)


def test_names_can_be_told():
    field = rain(names=("a", "b", "c"))
    told = {"time": "a", "y": "b", "x": "c"}
    for source, dims in ((field, told), (xr.DataArray(field.values), list(told))):
        assert open_field(source, dims=dims).dims == ("time", "y", "x")
    with pytest.raises(LabError, match="no such axes: lat. There are a, b, c"):
        open_field(field, dims={"y": "lat"})
    with pytest.raises(LabError, match="unknown role of an axis: row"):
        open_field(field, dims={"row": "b"})
    with pytest.raises(LabError, match="names 2 axes, the field has 3"):
        open_field(field, dims=["time", "y"])
    with pytest.raises(LabError, match="got 'time'. Write a role for each axis"):
        open_field(field, dims="time")


@pytest.mark.parametrize("freq", ["MS", "ME", "QS", "YS", "D", "6h", "90s"])
def test_calendars_are_regular_and_go_on(freq):
    times = pd.date_range("2019-11-30", periods=18, freq=freq).values
    step = time_step(times[:12])
    assert np.array_equal(step.after(times[11], 6), times[12:])


def test_other_calendars_go_on():
    cftime = pytest.importorskip("cftime", reason="cftime is in the `earth` extra")
    times = np.array([cftime.DatetimeNoLeap(2001, m, 15) for m in range(1, 13)])
    assert time_step(times).after(times[-1], 1)[0] == cftime.DatetimeNoLeap(2002, 1, 15)


def monthly(at, count, calendar="standard"):
    "Months and their middles; `at` of each: how far it is gone, in its own length."
    bounds = xr.date_range(
        "2019-11-01",
        periods=count + 1,
        freq="MS",
        calendar=calendar,
        use_cftime=calendar != "standard",
    ).values
    return bounds[:-1] + np.diff(bounds) // 2 if at == "middle" else bounds[:-1] + at


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
@pytest.mark.parametrize("hours", ["middle", 0, 12, 15 * 24 + 12])
def test_months_may_be_dated_anywhere_and_go_on_in_that_way(calendar, hours):
    pytest.importorskip("cftime", reason="cftime is in the `earth` extra")
    at = hours
    if hours != "middle":
        at = pd.Timedelta(hours=hours).to_pytimedelta()
        at = np.timedelta64(at) if calendar == "standard" else at
    times = monthly(at, 20, calendar)
    step = time_step(times[:14])
    assert step.months == 1
    assert np.array_equal(step.after(times[13], 6), times[14:])
    with pytest.raises(LabError, match="1 frames are missing at a step of 1 month"):
        time_step(np.delete(times, 5))


def test_years_and_uneven_middles_are_regular():
    pytest.importorskip("cftime", reason="cftime is in the `earth` extra")
    days = ["1963-01-15T12", "1964-01-16T00", "1965-01-15T12", "1966-01-15T12"]
    assert time_step(np.array(days, "M8[ns]")).months == 12
    ends = xr.date_range("2000-01-31", periods=30, freq="ME", calendar="noleap")
    step = time_step(ends.values[:20])
    assert step.months == 1
    assert np.array_equal(step.after(ends.values[19], 10), ends.values[20:])
    days = ["2021-01-28", "2021-02-28", "2021-03-28"]
    step = time_step(np.array(days, "M8[ns]"))
    assert str(step.after(np.datetime64("2021-02-28", "ns"), 1)[0])[:10] == days[2]
    days = ["2021-01-05", "2021-02-24", "2021-03-12", "2021-04-11"]
    with pytest.raises(LabError, match=r"da.resample\(time='MS'\)"):
        time_step(np.array(days, "M8[ns]"))
    assert time_step(np.array(["2021-01-15", "2021-02-14"], "M8[ns]")).months == 0


def test_uneven_middles_keep_their_times_where_months_are_missing():
    times = monthly("middle", 8)
    field = rain(8).assign_coords(time=times)[[0, 1, 2, 5, 6, 7]]
    assert np.array_equal(open_field(field, gaps="mask").time, times)


@real("iris-sst")
def test_archives_of_months_and_years_are_opened():
    found = Fields(EARTH / "iris-sst" / "ostia_monthly.nc", 12, 6)
    times = found.arrays[0].time.values
    assert np.array_equal(time_step(times).after(times[0], 53), times[1:])
    if (EARTH / "enso-eofs").is_dir():
        found = Fields(EARTH / "enso-eofs" / "sst_ndjfm_anom.nc", 3, 2)
        assert len(found) == 46


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("freq", ["5min", "MS"])
def test_missing_frames_become_missing_pixels(tmp_path, lazily, freq):
    field = rain(freq=freq).transpose("lat", "time", "lon")
    kept = field[:, [0, 1, 4, 5, 6, 9]]
    if lazily:
        kept.to_netcdf(tmp_path / "holed.nc", engine="h5netcdf")
        kept = tmp_path / "holed.nc"
    opened = open_field(kept, gaps="mask")
    expected = field.transpose("time", ...).values[:10].copy()
    expected[[2, 3, 7, 8]] = np.nan
    assert np.array_equal(opened.time, field.time[:10])
    assert np.array_equal(opened.values, expected, equal_nan=True)
    assert np.array_equal(opened[3].values, expected[3], equal_nan=True)
    assert np.array_equal(opened[8:1:-2].values, expected[8:1:-2], equal_nan=True)
    windows = Fields(opened, 2, 1)
    assert windows[1].mask.any() is not True and not windows[1].mask.any()
    assert statistics(windows).missing == 4 * 48


def test_damaged_files_are_refused_by_name(tmp_path):
    field = rain(200, 30, 40)
    for name, write in WRITERS.items():
        write(field, tmp_path / name)
    for name in ("netcdf4.nc", "classic.nc"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / "cut.nc").write_bytes(data[: len(data) // 3])
        with pytest.raises(LabError, match=r"cut\.nc.* again"):
            Fields(tmp_path / "cut.nc", 2, 1)[-1]
    (tmp_path / "v3.zarr" / "zarr.json").write_text("{")
    with pytest.raises(LabError, match=r"damaged: .*v3\.zarr"):
        open_field(tmp_path / "v3.zarr")
    (tmp_path / "empty.nc").touch()
    with pytest.raises(LabError, match="the file is empty"):
        open_field(tmp_path / "empty.nc")
    with pytest.raises(LabError, match="no such file"):
        open_field(tmp_path / "none.nc")
    with pytest.raises(LabError, match="holds no zarr group"):
        open_field(tmp_path)


@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_without_names_of_axes_is_opened_when_they_are_told(tmp_path, version):
    import zarr

    field = rain()
    group = zarr.open_group(tmp_path / "plain.zarr", mode="w", zarr_format=version)
    group.create_array("rain", data=field.values, chunks=(1, 6, 8))
    single = zarr.open(
        tmp_path / "one.zarr", mode="w", zarr_format=version, shape=(12, 6, 8)
    )
    single[:] = field.values
    for name in ("plain.zarr", "one.zarr"):
        with pytest.raises(LabError, match=r"phony_dim_0 \(12\), .* dims="):
            open_field(tmp_path / name)
        windows = Fields(tmp_path / name, 2, 1, dims=["time", "y", "x"])
        again = pickle.loads(pickle.dumps(windows))
        assert torch.equal(again[3].x, Fields(field, 2, 1)[3].x)
    for mark in (tmp_path / "plain.zarr" / "rain").glob("*z*ar*"):
        mark.unlink()
    with pytest.raises(LabError, match="lacks its description .*rain"):
        open_field(tmp_path / "plain.zarr")


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_the_list_of_a_zarr_root_is_believed_but_not_without_its_arrays(tmp_path):
    field = rain()
    path = tmp_path / "listed.zarr"
    field.to_zarr(path, consolidated=True)
    # who else is adding to it has not changed the list yet
    about = (path / "rain" / "zarr.json").read_text()
    longer = about.replace("12,", "13,", 1)
    assert longer != about
    (path / "rain" / "zarr.json").write_text(longer)
    assert np.array_equal(open_field(path), field)
    (path / "rain" / "zarr.json").unlink()
    assert np.array_equal(open_field(path), field)
    # zarr would read a latitude of nothing but zeros
    shutil.rmtree(path / "lat")
    with pytest.raises(LabError, match="lacks arrays that its root lists: lat"):
        open_field(path)


def test_places_that_are_no_field_say_what_to_do(tmp_path):
    (tmp_path / "knmi" / "raw" / "more").mkdir(parents=True)
    (tmp_path / "knmi" / "raw" / "more" / "RAD_NL25_1.h5").touch()
    with pytest.raises(LabError, match="holds no zarr group"):
        open_field(tmp_path)
    for address in ("https://data.org/rain.zarr", "s3://bucket/rain.csv"):
        with pytest.raises(LabError, match="Open it with xarray"):
            Fields(address)
    with pytest.raises(LabError, match="the path is empty"):
        Fields("")
    np.savez(tmp_path / "radar.npz", frames=np.zeros((3, 2, 2)))
    for place in (tmp_path, tmp_path / "radar.npz"):
        with pytest.raises(LabError, match="radar_sample"):
            open_field(place)


def test_a_chunk_that_is_damaged_is_refused_when_it_is_read(tmp_path):
    field = rain(8, 30, 40)
    chunks = {"rain": {"chunks": (1, 30, 40)}}
    path = tmp_path / "rain.zarr"
    field.to_zarr(path, encoding=chunks, consolidated=False)
    (path / "rain" / "c" / "5" / "0" / "0").write_bytes(b"noise")
    windows = Fields(path, 2, 1)
    assert np.array_equal(windows[1].y[0, 0, ..., 0], field[3])
    with pytest.raises(LabError, match=r"damaged: .*rain\.zarr"):
        windows[4]


def test_infinite_values_are_refused_where_they_are():
    field = rain().astype("f8")
    field[7, 1, 1] = 1e300
    windows = Fields(field, 3, 2)
    assert windows[0].x.isfinite().all()
    with pytest.raises(LabError, match="infinite values at: 2020-01-01 00:35"):
        windows[5]
    with pytest.raises(LabError, match="infinite"):
        statistics(windows)


def test_only_the_frames_of_a_window_are_read(tmp_path):
    "A zarr of 2 TB whose chunks were never written, but for one frame."
    import zarr

    shape = 1_000_000, 512, 1024
    root = zarr.open_group(tmp_path / "large.zarr", mode="w")
    names = ["time", "y", "x"]
    large = root.create_array(
        "rain",
        shape=shape,
        chunks=(1, 512, 1024),
        dtype="f4",
        fill_value=0.0,
        dimension_names=names,
    )
    large[999_998] = 2.0
    windows = Fields(tmp_path / "large.zarr", past=2, future=3)
    assert len(windows) == 999_996
    assert windows.arrays[0].nbytes > 2e12
    sums = torch.cat([windows[-1].x, windows[-1].y], 1).mean((0, 2, 3, 4))
    assert sums.tolist() == [0, 0, 0, 2, 0]
    training, _, test = windows.split(0.1, 0.1)
    assert (len(training), len(test)) == (799_996, 99_996)


def test_a_field_in_memory_is_looked_at_and_not_copied():
    field = rain().transpose("lon", "lat", "time")
    windows = Fields(field, 2, 1)
    assert np.shares_memory(windows.arrays[0].values, field.values)
    field[0, 0, 0] = 77.0
    assert float(windows[0].x[0, 0, 0, 0, 0]) == 77


def test_windows_are_numbered_over_arrays_sequences_and_frames():
    long = xr.DataArray(np.arange(12.0), dims="time").expand_dims(y=2, x=2)
    several = xr.DataArray(np.arange(18.0).reshape(2, 9), dims=["sequence", "time"])
    several = 100 + several.expand_dims(y=2, x=2)
    windows = Fields([long, several], past=3, future=2, stride=3)
    firsts = [float(windows[i].x[0, 0, 0, 0, 0]) for i in range(len(windows))]
    assert firsts == [0, 3, 6, 100, 103, 109, 112]
    assert torch.equal(windows[2:5].x, windows.batch([2, 3, 4]).x)
    assert torch.equal(windows[-1].y, windows[6].y)
    part = windows[:].part(slice(1, None, 2))
    assert torch.equal(part.x, windows[[1, 3, 5]].x)
    for index in (7, -8):
        with pytest.raises(LabError, match="There are 7 windows"):
            windows[index]
    mask = torch.arange(7) % 3 == 0
    for rows in (mask, mask.numpy(), mask.tolist(), [0, 3, 6], torch.tensor([0, 3, 6])):
        assert torch.equal(windows[rows].x, windows[::3].x)
    assert len(windows[[]].x) == 0
    wrong = ([1.7], "1", 2.0, mask[:5], [[1, 2]], [[1], 2], slice("a"), True)
    for rows in wrong:
        with pytest.raises(LabError, match="windows"):
            windows[rows]
    with pytest.raises(LabError, match="differ in .rows, columns, channels"):
        Fields([long, rain()])
    with pytest.raises(LabError, match="10 . 10 frames is longer .* has 12"):
        Fields(long)


def test_fields_of_one_network_agree_in_step_directions_and_channels():
    field = rain()
    both = xr.concat([field, field], "channel").assign_coords(channel=["a", "b"])
    pairs = {
        "step: 00:05:00, 01:00:00. Resample": (field, rain(freq="h")),
        "y axis: rising, falling. Turn .*lat=slice": (field, field[:, ::-1]),
        "x axis: rising, falling": (field, field[..., ::-1]),
        "channels: a, b, b, a": (both, both[::-1]),
    }
    for words, pair in pairs.items():
        with pytest.raises(LabError, match=f"differ in their {words}"):
            Fields(pair, 2, 1)
    elsewhere = field.assign_coords(lat=field.lat + 3)
    plain = xr.DataArray(field.values, dims=["time", "y", "x"])
    assert len(Fields([field, elsewhere, plain], 2, 1)) == 30


@pytest.mark.parametrize("by", ["time", "sequence"])
def test_no_window_straddles_a_cut(by):
    values = np.arange(12 * 40, dtype="f4").reshape(12, 40)
    field = xr.DataArray(values, dims=["sequence", "time"]).expand_dims(y=1, x=1)
    windows = Fields(field, 3, 2)
    seen = []
    for part in windows.split(0.25, 0.25, by):
        batch = part[:]
        seen.append(set(torch.cat([batch.x, batch.y], 1).flatten().tolist()))
        frames = torch.cat(list(part.blocks(7))).flatten().tolist()
        assert set(frames) == seen[-1] and len(frames) == len(seen[-1])
    assert [len(s) for s in seen] == [240, 120, 120]
    assert not (seen[0] & seen[1] | seen[1] & seen[2] | seen[0] & seen[2])
    if by == "time":
        assert all(n % 40 < 20 for n in seen[0]) and all(n % 40 >= 30 for n in seen[2])
    with pytest.raises(LabError, match="nothing for training"):
        windows.split(0.5, 0.5)
    with pytest.raises(LabError, match="validation is shorter than a window"):
        windows.split(0.1, 0.2, "time")


def test_a_scale_is_learned_from_what_was_observed_and_undone():
    generator = np.random.default_rng(0)
    values = generator.normal([3.0, -2e4], [2.0, 5e3], size=(50, 4, 5, 2))
    values[generator.random(values.shape) < 0.3] = np.nan
    field = xr.DataArray(values, dims=["time", "y", "x", "channel"])
    windows = Fields(field, 3, 2)
    flat = values.reshape(-1, 2)
    found = statistics(windows)
    assert np.allclose(found.mean, np.nanmean(flat, 0), rtol=1e-6)
    assert np.allclose(found.width, np.nanstd(flat, 0), rtol=1e-6)
    assert found.missing == np.isnan(values).sum()
    x = windows[:].x
    for kind in ("standard", "range", "radar", "none"):
        scale = Scale.of(windows, kind)
        inside = scale.apply(x)
        assert inside.isfinite().all()
        back = torch.where(torch.isnan(x), x, scale.undo(inside))
        assert_close(back, x, equal_nan=True, rtol=1e-5, atol=1e-3)
        assert_close(scale.undo(scale.target(x)), back, equal_nan=True)
    inside = Scale.of(windows, "range").apply(x)
    assert 0 <= inside.min() and inside.max() <= 1
    with pytest.raises(LabError, match="every pixel is missing: channel 0, channel 1"):
        statistics(Fields(field * np.nan, 3, 2))


def sevir_file(path, ids, shape=(6, 5), seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (len(ids), *shape, 49))
    with h5py.File(path, "w") as h5:
        h5["id"] = np.array(ids, dtype="S")
        h5["vil"] = values.astype(np.uint8)
    return np.moveaxis(values, -1, 1)


def test_events_of_sevir_are_sequences(tmp_path):
    values = sevir_file(tmp_path / "SEVIR_VIL_A.h5", ["S1", "S2", "S3"])
    field = open_field(tmp_path / "SEVIR_VIL_A.h5")
    assert field.dims == ("sequence", "time", "y", "x") and field.dtype == np.uint8
    assert list(field.sequence.values) == ["S1", "S2", "S3"]
    windows = Fields(field, past=13, future=12, stride=12)
    assert len(windows) == 9
    batch = windows[4]
    assert np.array_equal(batch.x[0, ..., 0], values[1, 12:25])
    assert np.array_equal(batch.y[0, ..., 0], values[1, 25:37])
    assert Scale.of(windows).width == (255.0,)
    again = pickle.loads(pickle.dumps(windows))
    assert torch.equal(again[4].x, batch.x)


def test_a_catalogue_of_sevir_says_what_is_whole_and_when(tmp_path):
    (tmp_path / "data" / "vil" / "2018").mkdir(parents=True)
    files = ["vil/2018/A.h5", "vil/2018/B.h5"]
    a = sevir_file(tmp_path / "data" / files[0], ["S1", "S2", "S3"])
    b = sevir_file(tmp_path / "data" / files[1], ["S4", "S2"], seed=1)
    rows = [
        ("S1", files[0], 0, "vil", "2018-05-03 00:00:00", 0.0),
        ("S2", files[0], 1, "vil", "2018-05-02 00:00:00", 0.0),
        ("S3", files[0], 2, "vil", "2018-05-01 00:00:00", 0.2),
        ("S4", files[1], 0, "vil", "2018-05-01 12:00:00", 0.0),
        ("S2", files[1], 1, "vil", "2018-05-02 00:00:00", 0.0),
        ("S1", "vis/2018/C.h5", 0, "vis", "2018-05-03 00:00:00", 0.0),
    ]
    names = ["id", "file_name", "file_index", "img_type", "time_utc", "pct_missing"]
    catalog = tmp_path / "CATALOG.csv"
    pd.DataFrame(rows, columns=names).to_csv(catalog, index=False)
    field = open_field(catalog)
    assert list(field.sequence.values) == ["S4", "S2", "S1"]
    expected = np.stack([b[0], a[1], a[0]])
    assert np.array_equal(field.values, expected)
    assert str(field.start.values[0])[:13] == "2018-05-01T12"
    pd.DataFrame(rows[:1], columns=names).assign(file_index=9).to_csv(catalog)
    with pytest.raises(LabError, match="events that their files do not hold: S1"):
        open_sevir(catalog)
    pd.DataFrame(rows, columns=[*names[:-1], "missing"]).to_csv(catalog)
    with pytest.raises(LabError, match="it lacks: pct_missing"):
        open_sevir(catalog)


def test_months_of_icar_enso_unfold_in_their_order(tmp_path):
    def rows(models, years, base):
        months = np.arange(years)[:, None] * 12 + np.arange(36)
        return np.concatenate([base + 1000 * k + months for k in range(models)])

    index = np.concatenate([rows(2, 5, 0), rows(3, 4, 10_000)]).astype("f4")
    grid = dict(lat=np.arange(-55.0, 61, 5), lon=np.arange(0.0, 360, 5))
    sst = xr.DataArray(
        index[:, :, None, None] + np.zeros((24, 72), "f4"),
        dims=["year", "month", "lat", "lon"],
        coords=grid,
        name="sst",
    )
    sst.to_netcdf(tmp_path / "CMIP_train.nc", engine="scipy")
    labels = xr.DataArray(index, dims=["year", "month"], name="nino")
    labels.to_netcdf(tmp_path / "CMIP_label.nc", engine="scipy")
    icar = open_icar(tmp_path, generations=((2, 5), (3, 4)))
    assert icar.cmip6.shape == (2, 84, 24, 48) and icar.cmip5.shape == (3, 72, 24, 48)
    assert icar.cmip5.lon.values[[0, -1]].tolist() == [95, 330]
    months = 10_000 + 1000 * np.arange(3)[:, None] + np.arange(72)
    assert np.array_equal(icar.cmip5[:, :, 3, 4], months)
    assert np.array_equal(icar.cmip5[1, 5:70:7, 3, 4], months[1, 5:70:7])
    assert np.array_equal(icar.nino5, months)
    training, validation, test = icar.parts()
    windows = Fields(training, past=12, future=14)
    assert len(windows) == 2 * (84 - 25) + (72 - 25)
    assert Fields(test, 12, 14)[0].x.mean() == 12_000 + 5.5
    assert len(validation) == 1
    smoothed = nino34(icar.cmip5, weighted=False)
    assert smoothed.shape == (3, 70)
    assert_close(
        torch.tensor(smoothed.values), torch.tensor(months[:, 1:-1].astype("f4"))
    )
    with pytest.raises(LabError, match="9 rows .* pass generations="):
        open_icar(tmp_path, generations=((2, 5), (3, 3)))


@real("knmi-raw")
def test_a_folder_of_radar_files_is_one_field(tmp_path):
    folder = EARTH / "knmi-raw"
    field = open_field(folder)
    assert field.shape == (92, 765, 700)
    assert str(time_step(field.time.values)) == "00:05:00"
    files = sorted(folder.rglob("*.h5"))
    with h5py.File(files[40]) as h5:
        raw = h5["image1/image_data"][300:303]
    expected = np.where(raw == 65535, np.nan, raw * np.float32(0.01))
    assert np.allclose(field[40, 300:303], expected, equal_nan=True)
    for file in [*files[:3], *files[4:6]]:
        shutil.copy(file, tmp_path)
    with pytest.raises(LabError, match="1 frames are missing .* 2010-08-26 00:15"):
        Fields(tmp_path, 2, 1)
    windows = Fields(open_knmi(tmp_path), 2, 1, gaps="mask")
    assert len(windows) == 4 and not windows[1].mask.any()
    damaged = tmp_path / files[5].name
    damaged.write_bytes(damaged.read_bytes()[:3000])
    with pytest.raises(LabError, match=files[5].name):
        open_knmi(tmp_path)


@real("radar-ready")
def test_real_radar_is_cut_into_windows():
    for name, frames in zip(RADARS, (92, 40, 61), strict=True):
        assert len(Fields(radar_sample(name), 1, 1, gaps="mask")) >= frames - 1
    windows = Fields(radar_sample("fmi_20160928"), 13, 12)
    assert len(windows) == 16 and windows.rows == windows.columns == 384
    assert str(windows.origin(0))[:16] == "2016-09-28T15:45"


@real("ersst-2010-2020")
def test_real_sea_surface_temperature_has_its_known_winters():
    path = EARTH / "ersst-2010-2020" / "sst.mnmean.nc"
    windows = Fields(path, past=12, future=14, gaps="refuse")
    assert (len(windows), windows.rows, windows.columns) == (103, 89, 180)
    land = float(torch.isnan(windows[0].y).float().mean())
    assert 0.2 < land < 0.4
    sst = open_field(path)
    by_month = sst.groupby("time.month")
    index = nino34(by_month - by_month.mean("time"))
    assert (
        round(float(index.max()), 2) == 2.59 and round(float(index.min()), 2) == -1.66
    )
