"""A nowcaster: learns from windows, goes on where it was killed, speaks xarray, refuses
what it cannot forecast.
"""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import toys
from forecastlab.core.basics import LabError, data_dir
from forecastlab.core.fit import Training
from forecastlab.core.forecaster import Forecaster, load_model

xr = pytest.importorskip("xarray", reason="xarray is in the `earth` extra")
pytest.importorskip("zarr", reason="zarr is in the `earth` extra")
pytest.importorskip("h5netcdf", reason="h5netcdf is in the `earth` extra")

from forecastlab.earth.baselines import Persistence, UNet, UNetSettings  # noqa: E402
from forecastlab.earth.earthformer import ConvStem, Earthformer  # noqa: E402
from forecastlab.earth.fields import Fields, Scale, TimeStep  # noqa: E402
from forecastlab.earth.nowcaster import FieldForecast, FieldGrid  # noqa: E402
from forecastlab.earth.nowcaster import FieldTask, HeldOutWindows  # noqa: E402
from forecastlab.earth.nowcaster import Nowcaster, Stream, append  # noqa: E402
from forecastlab.earth.nowcaster import default_settings, forecast  # noqa: E402
from forecastlab.earth.nowcaster import published_training  # noqa: E402
from forecastlab.earth.presets import preset  # noqa: E402
from forecastlab.earth.sources import open_dataset  # noqa: E402

CPU = torch.device("cpu")
TINY = preset(
    "enso",
    input_shape=(3, 6, 8, 1),
    target_shape=(2, 6, 8, 1),
    width=16,
    encoder_depth=(1,),
    decoder_depth=(1,),
    heads=2,
    vectors=2,
    stem=ConvStem((1, 1, 1), 1, 1),
)


def plan(steps=6, **changes):
    return published_training(steps=steps, **toys.QUIET, **changes)


def waves(frames=40, rows=6, columns=8, freq="h"):
    "A pattern that moves one column a frame."
    phase = np.arange(columns)[None, None] - np.arange(frames)[:, None, None]
    values = np.repeat(np.sin(2 * np.pi * phase / 8), rows, 1).astype("f4")
    coords = {
        "time": pd.date_range("2024-05-01", periods=frames, freq=freq),
        "lat": np.linspace(50, 51, rows),
        "lon": np.linspace(4, 5, columns),
        "height": ("lat", np.arange(rows)),
    }
    about = {"units": "m", "long_name": "height of the sea"}
    return xr.DataArray(values, coords, ["time", "lat", "lon"], "sea", about)


@pytest.fixture(scope="module")
def fitted():
    return Nowcaster(TINY, training=plan(20), batch=4).fit(waves())


class Last(nn.Module):
    "The last frame, times a number that is learned."

    def __init__(self, future):
        super().__init__()
        self.future, self.size = future, nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.size * x[:, -1:].expand(-1, self.future, -1, -1, -1)


def test_without_a_word_a_model_that_suits_the_grid_is_learned():
    windows = Fields(waves(), 3, 2)
    training, validation, test = windows.split(0.2, 0.2)
    nowcaster = Nowcaster(training=plan(30, lr=4e-3, validate_every=10), batch=4)
    assert nowcaster.fit(training, validation) is nowcaster
    found, truth = nowcaster.predict(test), test[:].y
    assert found.shape == truth.shape == (len(test), 2, 6, 8, 1)
    waiting = test[:].x[:, -1:].expand_as(truth)
    assert (found - truth).square().mean() < (waiting - truth).square().mean() / 3
    assert nowcaster.horizon == 2 and len(nowcaster.fitted.scores) == 3
    # among others or alone: matrix products of another size add in another order
    assert_close(nowcaster.predict(test, [1]), found[1:2], rtol=0, atol=1e-5)
    assert torch.equal(nowcaster.predict(test), found)


def test_any_module_between_frames_is_learned():
    field = waves().expand_dims(sequence=3)
    nowcaster = Nowcaster(Last(2), past=3, future=2, training=plan(30, lr=0.05))
    found = nowcaster.fit(Fields(field, 3, 2)).predict(Fields(field, 3, 2))
    assert found.shape == (3 * 36, 2, 6, 8, 1)
    # of this pattern, the best multiple is the mean cosine of one and two steps
    best = np.cos(2 * np.pi * np.array([1, 2]) / 8).mean()
    assert abs(nowcaster.network.size.item() - best) < 0.1


def test_a_module_without_parameters_needs_no_training():
    class Persistence(nn.Module):
        def forward(self, x):
            return x[:, -1:].expand(-1, 2, -1, -1, -1)

    windows = Fields(waves(), 3, 2)
    found = Nowcaster(Persistence()).fit(windows).predict(windows)
    expected = windows[:].x[:, -1:].expand_as(found)
    assert_close(found, expected)


def test_a_preset_takes_the_grid_of_the_field():
    windows = Fields(waves(12), 3, 2)
    nowcaster = Nowcaster("nbody", training=plan(0)).fit(windows)
    assert nowcaster.network.settings == preset(
        "nbody", input_shape=(3, 6, 8, 1), target_shape=(2, 6, 8, 1)
    )


def test_missing_pixels_change_neither_loss_nor_gradient():
    model = Earthformer(replace(TINY, attention_dropout=0.0)).eval()
    batch = Fields(waves(), 3, 2)[[0, 5]]
    hole = torch.rand(batch.y.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    task = FieldTask(None, Scale((0.1,), (0.7,)), 2, CPU)
    batch.y[hole] = float("nan")
    losses = []
    for other in (0.0, 1e6):
        answers = []

        def network(x, other=other, answers=answers):
            found = model(x)
            found = torch.where(hole, found + other, found)
            answers.append(found.retain_grad() or found)
            return found

        total, weight = task.loss(network, batch)
        total.backward()
        losses.append(total.item())
        assert int(weight) == int((~hole).sum())
        slope = answers[0].grad
        assert not slope[hole].any() and slope[~hole].any() and slope.isfinite().all()
    assert losses[0] == losses[1]


def test_a_field_with_holes_is_learned_and_forecast():
    field = waves()
    field[:, :2, :3] = np.nan
    field[7] = np.nan
    nowcaster = Nowcaster(TINY, training=plan(8), batch=4).fit(field)
    ahead = forecast(nowcaster, field)
    assert np.isfinite(nowcaster.fitted.losses).all()
    # what no frame shows stays missing, unless it is asked for
    unseen = np.isnan(field[-3:]).all("time")
    assert np.array_equal(np.isnan(ahead), unseen.broadcast_like(ahead))
    assert np.isfinite(forecast(nowcaster, field, fill=True)).all()
    holed = field.isel(time=[*range(20), *range(21, 40)])
    with pytest.raises(LabError, match="1 frames are missing"):
        nowcaster.fit(holed)
    with pytest.warns(UserWarning, match="as missing: 2024-05-01T20:00:00$"):
        patched = forecast(nowcaster, holed, origin=field.time.values[20])
    assert np.isfinite(patched[:, 2:]).all()
    with pytest.raises(LabError, match="every pixel of the 3 frames seen is missing"):
        forecast(nowcaster, field * np.nan)


def test_norms_and_biases_do_not_decay():
    from forecastlab.core.fit import parameter_groups

    model = Earthformer(TINY)
    groups = parameter_groups(model, published_training())
    decaying = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    named = dict(model.named_parameters())
    spared = {n for n, p in named.items() if id(p) not in decaying}
    expected = {n for n, p in named.items() if "bias" in n or p.dim() < 2}
    assert spared == expected
    assert any("relative_position_bias_table" in n for n in spared)


def test_a_training_that_was_killed_goes_on_bit_for_bit(tmp_path):
    settings = plan(12, average=0.9, checkpoint_every=5, validate_every=4)

    class Killed(KeyboardInterrupt):
        pass

    class Frail(Fields):
        alive = 10**9

        def batch(self, indices):
            self.alive -= 1
            if self.alive < 0:
                raise Killed
            return super().batch(indices)

    def made(checkpoint=None):
        return Nowcaster(TINY, training=settings, batch=2, checkpoint=checkpoint)

    windows, held_out = Frail(waves(), 3, 2), Fields(waves(20), 3, 2)
    whole = made().fit(windows, held_out)
    windows.alive = 10
    with pytest.raises(Killed):
        made(tmp_path).fit(windows, held_out)
    (point,) = tmp_path.iterdir()
    windows.alive = 10**9
    resumed = made(tmp_path).fit(windows, held_out)
    assert np.array_equal(resumed.fitted.losses, whole.fitted.losses)
    assert resumed.fitted.scores == whole.fitted.scores
    pairs = zip(resumed.network.parameters(), whole.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    # other data are another training
    made(tmp_path).fit(Fields(waves() + 1, 3, 2), held_out)
    assert len(list(tmp_path.iterdir())) == 2


def test_two_halves_of_a_batch_add_up_to_the_whole():
    field = waves()
    field[:, :3, :5] = np.nan
    field[20:, 3:] = np.nan
    batch = Fields(field, 3, 2)[[0, 30, 5, 17]]
    model = Earthformer(TINY).eval()
    task = FieldTask(None, Scale(), 4, CPU)
    whole, weight = task.loss(model, batch)
    halves = [task.loss(model, batch.part(slice(r, None, 2))) for r in (0, 1)]
    assert halves[0][1] != halves[1][1]
    assert_close(sum(h[0] for h in halves) / sum(h[1] for h in halves), whole / weight)


@pytest.mark.long
def test_two_processes_learn_as_one(tmp_path):
    field = waves()
    field[:, :3, :5] = np.nan
    field.to_netcdf(tmp_path / "waves.nc", engine="h5netcdf")
    settings = replace(
        TINY, attention_dropout=0.0, projection_dropout=0.0, feed_forward_dropout=0.0
    )
    body = f"""
import sys

import torch
from forecastlab.core.fit import Training
from forecastlab.earth.earthformer import *
from forecastlab.earth.fields import Fields
from forecastlab.earth.nowcaster import Nowcaster

if __name__ == "__main__":
    training = {replace(plan(8), devices=2)!r}
    nowcaster = Nowcaster({settings!r}, training=training, batch=4)
    nowcaster.fit(Fields(sys.argv[1], 3, 2)).save(sys.argv[2])
"""
    (tmp_path / "train.py").write_text(body)
    names = ("train.py", "waves.nc", "model")
    script, data, model = (str(tmp_path / n) for n in names)
    command = [sys.executable, script, data, model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    one = Nowcaster(settings, training=plan(8), batch=4).fit(Fields(data, 3, 2))
    both = Nowcaster.load(model)
    for a, b in zip(one.network.parameters(), both.network.parameters(), strict=True):
        assert_close(a, b, rtol=1e-3, atol=2e-5)


def test_half_precision_and_averaged_weights_learn():
    windows = Fields(waves(), 3, 2)
    half = plan(12, precision="bf16-mixed", average=0.9, accumulate=2)
    nowcaster = Nowcaster(TINY, training=half, batch=2).fit(windows)
    losses = nowcaster.fitted.losses
    assert np.isfinite(losses).all() and losses[-3:].mean() < losses[:3].mean()
    assert next(nowcaster.network.parameters()).dtype == torch.float32


def test_held_out_windows_are_spread_and_scored_as_one_mean():
    windows = Fields(waves(), 3, 2)
    task = FieldTask(windows, Scale(), 4, CPU)
    held_out = HeldOutWindows(task, windows, most=7)
    batch = windows.batch(held_out.chosen)
    expected = (Last(2)(batch.x) - batch.y).square().mean()
    assert held_out.score(Last(2)) == pytest.approx(float(expected))
    assert held_out.chosen[0] == 0 and held_out.chosen[-1] == len(windows) - 1


def test_a_saved_nowcaster_answers_the_same(tmp_path, fitted):
    windows = Fields(waves(), 3, 2)
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    with pytest.raises(LabError, match="overwrite=True"):
        fitted.save(path)
    for again in (load_model(path), Nowcaster.load(path), Nowcaster.load(path, TINY)):
        assert torch.equal(again.predict(windows), fitted.predict(windows))
        assert (again.name, again.grid) == (fitted.name, fitted.grid)
        assert again.training == fitted.training and again.scale == fitted.scale
    with pytest.raises(LabError, match="holds a Nowcaster, not a Forecaster"):
        Forecaster.load(path)
    damaged = bytearray(path.read_bytes())
    damaged[-9] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(LabError, match="damaged"):
        Nowcaster.load(path)


def test_a_file_of_another_configuration_is_refused_with_its_differences(
    tmp_path, fitted
):
    fitted.save(tmp_path / "model")
    other = replace(TINY, heads=4, width=32)
    words = "another configuration, .* differences: width is 16 in the file, 32 here"
    with pytest.raises(LabError, match=words):
        Nowcaster.load(tmp_path / "model", other)
    with pytest.raises(LabError, match="heads is 2 in the file, 4 here"):
        Nowcaster.load(tmp_path / "model", Earthformer(replace(TINY, heads=4)))
    with pytest.raises(LabError, match="encoder_depth is"):
        Nowcaster.load(tmp_path / "model", "enso")
    with pytest.raises(LabError, match="size is missing"):
        Nowcaster.load(tmp_path / "model", Last(2))


def test_a_network_of_ones_own_is_loaded_into_its_like(tmp_path):
    windows = Fields(waves(), 3, 2)
    own = Nowcaster(Last(2), training=plan(3)).fit(windows)
    own.save(tmp_path / "own")
    for load in (load_model, Nowcaster.load):
        with pytest.raises(LabError, match="not of the lab: .*Last. Pass one"):
            load(tmp_path / "own")
    again = Nowcaster.load(tmp_path / "own", Last(2))
    assert torch.equal(again.predict(windows), own.predict(windows))


def test_a_forecast_speaks_the_words_of_its_field(fitted):
    field = waves()
    ahead = forecast(fitted, field)
    assert ahead.dims == ("lead_time", "lat", "lon") and ahead.shape == (2, 6, 8)
    assert (ahead.name, ahead.attrs) == ("sea", field.attrs)
    for name in ("lat", "lon", "height"):
        assert ahead[name].variable.equals(field[name].variable)
    assert np.array_equal(ahead.lead_time, np.array([1, 2], "m8[h]"))
    expected = field.time.values[-1] + np.array([1, 2], "m8[h]")
    assert np.array_equal(ahead.time, expected)
    assert ahead.origin.values == field.time.values[-1]
    assert_close(
        torch.tensor(ahead.values),
        fitted.answer(torch.tensor(field.values[None, -3:, ..., None]))[0, ..., 0],
    )
    turned = field.transpose("lon", "time", "lat")
    assert forecast(fitted, turned).equals(ahead)
    assert fitted.predict(turned).equals(ahead)


def test_a_forecast_of_a_file_starts_where_it_is_told(tmp_path, fitted):
    field = waves()
    field.to_netcdf(tmp_path / "sea.nc", engine="h5netcdf")
    early = forecast(fitted, tmp_path / "sea.nc", origin="2024-05-01 10:00")
    assert early.equals(forecast(fitted, field[:11]))
    with pytest.raises(LabError, match="sees 3 frames, got 2"):
        forecast(fitted, field, origin="2024-05-01 01:00")
    with pytest.raises(LabError, match="no frame can be the origin"):
        forecast(fitted, field.drop_vars("time"), origin="2024-05-01")


def test_months_sequences_and_fields_without_times_are_forecast(fitted):
    other = copy.copy(fitted)
    other.about = None
    monthly = forecast(other, waves(12, freq="MS"))
    assert monthly.lead_time.values.tolist() == [1, 2]
    assert monthly.lead_time.units == "months"
    assert [str(t)[:10] for t in monthly.time.values] == ["2025-05-01", "2025-06-01"]
    many = forecast(fitted, waves().expand_dims(event=["a", "b"]))
    assert many.dims == ("event", "lead_time", "lat", "lon")
    assert list(many.event.values) == ["a", "b"]
    plain = forecast(fitted, waves().drop_vars("time"))
    assert plain.lead_time.values.tolist() == [1, 2] and "origin" not in plain.coords


def test_a_larger_grid_is_forecast_in_tiles_and_a_smaller_one_refused(fitted):
    large = waves(5, rows=10, columns=24)
    assert forecast(fitted, large).shape == (2, 10, 24)
    with pytest.raises(LabError, match="6 x 8 points, a smaller .*: got 4 x 24"):
        forecast(fitted, waves(5, rows=4, columns=24))
    with pytest.raises(LabError, match="made for 1 channels: the field has 2"):
        forecast(fitted, large.expand_dims(channel=2))


def test_a_bare_network_forecasts_in_the_numbers_of_the_field():
    model = Earthformer(TINY).eval()
    field = waves(3)
    with torch.no_grad():
        expected = model(torch.tensor(field.values)[None, ..., None])[0, ..., 0]
    assert_close(torch.tensor(forecast(model, field).values), expected)
    radar = Nowcaster(model, scale="radar")
    assert radar.scale == Scale(width=(255.0,))
    with pytest.raises(LabError, match="expected a nowcaster: Last"):
        forecast(Last(2), field)


def test_an_ensemble_has_a_mean_and_quantiles():
    values = torch.arange(5.0).view(5, 1, 1, 1, 1, 1).expand(5, 1, 2, 6, 8, 1)
    ensemble = FieldForecast(values, FieldGrid.of(waves()))
    assert ensemble.members == 5
    assert ensemble.to_xarray().dims == ("member", "lead_time", "lat", "lon")
    assert (ensemble.mean().to_xarray() == 2).all()
    found = ensemble.quantile([0.25, 1.0])
    assert found.dims == ("quantile", "lead_time", "lat", "lon")
    assert (found.sel(quantile=0.25) == 1).all() and (found[1] == 4).all()
    with pytest.raises(LabError, match="between 0 and 1: 95"):
        ensemble.quantile(95)
    with pytest.raises(LabError, match="six axes"):
        FieldForecast(values[0], ensemble.grid)


def test_forecasts_pile_up_in_a_store(tmp_path, fitted):
    field = waves()
    path = tmp_path / "runs.zarr"
    origins = field.time.values[[9, 10, 20]]
    made = [forecast(fitted, field, origin=o) for o in origins]
    for one in made:
        append(path, one)
    with xr.open_zarr(path, chunks=None) as runs:
        assert runs.sea.dims == ("origin", "lead_time", "lat", "lon")
        assert np.array_equal(runs.origin, origins)
        for k, one in enumerate(made):
            assert np.array_equal(runs.sea[k], one)
            assert np.array_equal(runs.time[k], one.time)
        assert runs.sea.units == "m" and np.array_equal(runs.lat, field.lat)
        assert np.array_equal(runs.lead_time, made[0].lead_time)
    with pytest.raises(LabError, match="has this origin: 2024-05-01T10:00"):
        append(path, made[1])
    moved = forecast(fitted, field.assign_coords(lat=field.lat + 1))
    with pytest.raises(LabError, match="the coordinate lat differs"):
        append(path, moved)
    with pytest.raises(LabError, match="the store holds ..sea.., not ..wind"):
        append(path, forecast(fitted, field.rename("wind")))
    with pytest.raises(LabError, match="no origin"):
        append(path, forecast(fitted, field.drop_vars("time")))
    with pytest.raises(LabError, match="no forecast of a field"):
        append(path, field)


def test_a_stream_equals_the_full_pass(fitted):
    field = waves()
    field[:, 0, 0] = np.nan
    stream = Stream(fitted)
    told = [stream.update(frame) for frame in field[:9]]
    assert told[:2] == [None, None] and stream.ready
    for k in range(2, 9):
        expected = forecast(fitted, field[: k + 1])
        assert np.array_equal(told[k].time, expected.time)
        assert np.array_equal(told[k].lead_time, expected.lead_time)
        assert told[k].name == "sea" and told[k].units == "m"
        assert_close(
            torch.tensor(told[k].values),
            torch.tensor(expected.values),
            atol=1e-5,
            rtol=0,
            equal_nan=True,
        )
    plain = Stream(fitted)
    for frame in field[:9].values:
        answer = plain.update(frame)
    assert_close(answer[..., 0], torch.tensor(told[-1].values), equal_nan=True)
    # times count under every name
    renamed = Stream(fitted)
    renamed.update(field.rename(time="t")[0])
    renamed.update(field.rename(time="t")[1])
    with pytest.raises(LabError, match="frame of 2024-05-01T02:00:00 is missing"):
        renamed.update(field.rename(time="t")[3])


def test_a_stream_takes_the_routine_that_takes_all_frames():
    "A frame of 64 by 64 alone is few numbers to PyTorch, ten of them are many."
    settings = preset(
        "nbody", width=16, encoder_depth=(1,), decoder_depth=(1,), vectors=0
    )
    torch.manual_seed(0)
    nowcaster = Nowcaster(Earthformer(settings), scale="none")
    frames = waves(10, 64, 64).values * (np.arange(64) > 40)
    stream = Stream(nowcaster)
    for frame in frames:
        told = stream.update(frame)
    full = nowcaster.answer(torch.tensor(frames)[None, ..., None])[0]
    assert_close(told, full, rtol=0, atol=2e-6)


def test_a_stream_of_another_network_equals_the_full_pass():
    windows = Fields(waves(), 3, 2)
    own = Nowcaster(Last(2), training=plan(2)).fit(windows)
    stream = Stream(own)
    for frame in waves()[:3]:
        told = stream.update(frame)
    assert np.allclose(told, forecast(own, waves()[:3]))


def test_a_stream_refuses_frames_that_do_not_follow(fitted):
    field = waves()
    stream = Stream(fitted)
    stream.update(field[0])
    stream.update(field[1])
    with pytest.raises(LabError, match="frame of 2024-05-01T02:00:00 is missing"):
        stream.update(field[3])
    stream.reset()
    with pytest.raises(LabError, match="another grid: .4, 8, 1.. Expected"):
        stream.update(field[0, :4])
    stream = Stream(fitted, np.timedelta64(30, "m"))
    stream.update(field[0])
    with pytest.raises(LabError, match="frame of 2024-05-01T00:30:00 is missing"):
        stream.update(field[1])
    endless = field[0].copy()
    endless[1, 1] = np.inf
    for frame in (endless, endless.values):
        with pytest.raises(LabError, match="infinite"):
            Stream(fitted, TimeStep()).update(frame)


WRONG = {
    "a class": (lambda: Nowcaster(Last), "no model: type"),
    "a preset": (lambda: Nowcaster("era5"), "unknown preset: era5. Choose sevir"),
    "a pattern": (
        lambda: Nowcaster(replace(TINY, encoder_pattern="axail")).fit(waves()),
        "axail.*axial_space_dilate_K",
    ),
    "a scale": (lambda: Nowcaster(scale="log"), "unknown scale: log"),
    "past": (lambda: Nowcaster(past=0), "past must be a whole number"),
    "unfitted": (lambda: Nowcaster().predict(waves()), "has not been fitted"),
    "unsaved": (lambda: Nowcaster().save("nowhere"), r"Call fit\(fields\) first"),
    "unstreamed": (lambda: Stream(Nowcaster()), "has not been fitted"),
    "other windows": (
        lambda: Nowcaster(past=4, future=2).fit(Fields(waves(), 3, 2)),
        "of other lengths: past is 4, the windows have 3",
    ),
    "other settings": (
        lambda: Nowcaster(TINY).fit(Fields(waves(rows=7), 3, 2)),
        r"other windows: input_shape is \(3, 6, 8, 1\), .* \(3, 7, 8, 1\)",
    ),
    "another answer": (
        lambda: Nowcaster(Last(5)).fit(Fields(waves(), 3, 2)),
        r"answers in another shape: \(1, 5, 6, 8, 1\). Expected \(1, 2, 6, 8, 1\)",
    ),
    "no answer": (
        lambda: Nowcaster(nn.Linear(4, 4)).fit(Fields(waves(), 3, 2)),
        "cannot take frames of shape .1, 3, 6, 8, 1.",
    ),
    "one channel": (
        lambda: Nowcaster(Last(2), scale=Scale((0.0,) * 2, (1.0,) * 2)).fit(
            Fields(waves().expand_dims(channel=3), 3, 2)
        ),
        "of 2 channels, the field has 3",
    ),
    "a step": (lambda: Stream(Nowcaster(Last(2), 3, 2, scale="none"), "x"), "no step"),
    "no frame": (
        lambda: Stream(Nowcaster(Last(2), 3, 2, scale="none")).update("x"),
        "this is no frame: str",
    ),
    "a training": (lambda: Nowcaster(training=5), "no training: int"),
    "a setting": (lambda: published_training(device="cuda"), "unknown settings of"),
    "a file": (lambda: Nowcaster(checkpoint=__file__), "need a folder"),
    "levels": (
        lambda: FieldForecast(
            torch.zeros(1, 1, 2, 6, 8, 1), FieldGrid.of(waves())
        ).quantile("a"),
        "must be numbers: a",
    ),
    "a grid": (
        lambda: FieldForecast(torch.zeros(1, 1, 2, 7, 8, 1), FieldGrid.of(waves())),
        "another grid: lat has 7, the grid says 6",
    ),
    "no width": (lambda: Scale(width=(0.0,)), "must be above 0"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_cannot_be_is_refused(fault):
    wrong, words = WRONG[fault]
    with pytest.raises(LabError, match=words):
        wrong()


def test_settings_suit_every_grid():
    for rows, columns in ((1, 1), (5, 7), (24, 48), (64, 64), (384, 384), (200, 900)):
        settings = default_settings(4, 3, rows, columns, 2)
        with torch.device("meta"):
            Earthformer(settings)
        assert max(settings.grids[0]) <= max(48, columns // 12)
    odd = Earthformer(default_settings(2, 1, 25, 31)).eval()
    with torch.no_grad():
        assert odd(torch.zeros(1, 2, 25, 31, 1)).shape == (1, 1, 25, 31, 1)


def test_the_modules_state_is_left_as_it_was():
    model = Earthformer(TINY).train()
    before = copy.deepcopy(model.state_dict())
    nowcaster = Nowcaster(model, scale="none")
    first = nowcaster.predict(waves())
    assert model.training and first.equals(nowcaster.predict(waves()))
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.skipif(
    data_dir() is None or not (data_dir() / "earth" / "ersst-2010-2020").is_dir(),
    reason="FORECASTLAB_DATA has no earth/ersst-2010-2020",
)
def test_real_sea_surface_temperature_is_learned_and_forecast():
    path = data_dir() / "earth" / "ersst-2010-2020" / "sst.mnmean.nc"
    from forecastlab.earth.fields import open_field

    pacific = open_field(path).sel(lat=slice(20, -20), lon=slice(160, 280))
    windows = Fields(pacific, 6, 3)
    nowcaster = Nowcaster(training=plan(2), batch=2).fit(windows)
    ahead = forecast(nowcaster, pacific)
    assert ahead.shape == (3, 21, 61)
    assert [str(t)[:7] for t in ahead.time.values] == ["2020-09", "2020-10", "2020-11"]


def test_a_training_is_a_training():
    assert isinstance(published_training(), Training)
    assert published_training(lr=1e-4).lr == 1e-4


@pytest.mark.parametrize("calendar", ["360_day", "noleap", "standard"])
@pytest.mark.parametrize("freq", ["h", "MS"])
def test_stores_keep_times_of_every_calendar(tmp_path, calendar, freq):
    field = waves(12)
    times = dict(start="2024-01-01", periods=12, calendar=calendar, use_cftime=True)
    field["time"] = xr.date_range(freq=freq, **times)
    persistence = Nowcaster(Last(2), past=3, future=2, scale="none")
    for k in (9, 10, 11):
        append(tmp_path / "runs.zarr", forecast(persistence, field[: k + 1]))
    again = forecast(persistence, field[:11])
    with pytest.raises(LabError, match="has this origin"):
        append(tmp_path / "runs.zarr", again)
    own = xr.coders.CFDatetimeCoder(use_cftime=True)
    with xr.open_zarr(tmp_path / "runs.zarr", chunks=None, decode_times=own) as runs:
        assert runs.origin.values.tolist() == field.time.values[9:].tolist()
        assert runs.time.values[1].tolist() == again.time.values.tolist()
    if calendar != "standard":
        with pytest.raises(LabError, match="the calendar is proleptic"):
            append(tmp_path / "runs.zarr", forecast(persistence, waves(freq=freq)))


def test_stores_keep_fractions_of_a_second(tmp_path):
    field = waves(12, freq="1500ms")
    persistence = Nowcaster(Last(2), past=3, future=2, scale="none")
    tmp_path.joinpath("runs").mkdir()  # an empty folder will do
    for k in (9, 10):
        append(tmp_path / "runs", forecast(persistence, field[: k + 1]))
    with xr.open_zarr(tmp_path / "runs", chunks=None) as runs:
        assert np.array_equal(runs.origin, field.time[9:11])
    finer = field.assign_coords(time=field.time + np.timedelta64(1, "ns"))
    for place in ("runs", "new"):
        with pytest.raises(LabError, match="finer than|more coarsely"):
            append(tmp_path / place, forecast(persistence, finer))
    (tmp_path / "file.h5").write_bytes(b"no store")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "note.txt").write_text("no store")
    for place in ("file.h5", "folder"):
        with pytest.raises(LabError, match="no zarr store of forecasts"):
            append(tmp_path / place, forecast(persistence, field))


def ahead_of(count, value, name="sea"):
    "A forecast of one number, whose origin is `count` hours after the first."
    grid = FieldGrid.of(waves(count + 2).rename(name))
    return FieldForecast(torch.full((1, 1, 2, 6, 8, 1), float(value)), grid)


def held_by(path, **how):
    "The number of each forecast that plain xarray finds; none where there is no store."
    try:
        runs = xr.open_zarr(path, chunks=None, **how)
    except FileNotFoundError:
        return []
    with runs:
        if not runs.data_vars:
            return []
        assert runs.sea.shape == runs.time.shape + (6, 8)
        hours = (runs.time - runs.origin) / np.timedelta64(1, "h")
        assert np.array_equal(hours, np.ones((len(runs.origin), 1)) * [1, 2])
        assert np.array_equal(runs.lat, waves().lat)
        found = runs.sea.values.reshape(len(runs.origin), -1)
    assert (found == found[:, :1]).all()
    return found[:, 0].tolist()


KILLED = """
import os
import shutil
import sys
from pathlib import Path

import zarr  # once, not in each child
from test_nowcaster import ahead_of
from forecastlab.core import basics
from forecastlab.earth.nowcaster import append

folder, replace = Path(sys.argv[1]), os.replace


def append_and_die(path, forecast, writes):
    "In a process of its own, which ends when it would write for the last time."
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = [writes]

    def frail(*names):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        replace(*names)

    os.replace = frail
    append(path, forecast)
    os._exit(0)


for before in (0, 2):
    earlier = folder / "earlier"
    for k in range(before):
        assert append_and_die(earlier, ahead_of(k + 1, k + 1), 99) == 0
    writes, ended = 0, 9
    while ended == 9:
        path = folder / str(before) / str(writes)
        path.parent.mkdir(exist_ok=True)
        if before:
            shutil.copytree(earlier, path)
        ended = append_and_die(path, ahead_of(before + 1, before + 1), writes)
        writes += 1
    assert ended == 0
"""


def test_a_forecast_is_appended_whole_or_not_at_all(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path)]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr[-3000:]
    for before, most in ((0, 17), (2, 8)):
        stores = sorted(
            tmp_path.joinpath(str(before)).iterdir(), key=lambda p: int(p.name)
        )
        earlier = [float(k + 1) for k in range(before)]
        whole = [*earlier, before + 1.0]
        assert len(stores) == most
        kinds = []
        for store in stores:
            found = held_by(store)
            assert found in (earlier, whole)
            kinds.append(found == whole)
            if kinds[-1]:
                # the lab's own door finds the same
                assert len(open_dataset(store).origin) == len(whole)
                with pytest.raises(LabError, match="has this origin"):
                    append(store, ahead_of(before + 1, 5))
            else:
                append(store, ahead_of(before + 1, before + 1))
            # nothing is left of the one that was killed
            assert held_by(store) == held_by(store, consolidated=False) == whole
            assert not list(store.rglob("*.tmp"))
        # the root decides
        assert kinds == sorted(kinds) and not kinds[0] and kinds[-2]


def test_several_writers_wait_for_each_other(tmp_path):
    body = """
import os
import sys
import zarr  # once, not in each child
from test_nowcaster import ahead_of
from forecastlab.earth.nowcaster import append

children = []
for first in (0, 1, 2):
    if child := os.fork():
        children.append(child)
        continue
    for k in range(first, 12, 3):
        append(sys.argv[1], ahead_of(k + 1, k))
    os._exit(0)
assert not any(os.waitpid(child, 0)[1] for child in children)
"""
    (tmp_path / "writers.py").write_text(body)
    command = [sys.executable, str(tmp_path / "writers.py"), str(tmp_path / "runs")]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr[-3000:]
    found = held_by(tmp_path / "runs")
    assert sorted(found) == list(range(12))
    assert held_by(tmp_path / "runs", consolidated=False) == found


def longer(store, name, count):
    "Say in the description of one array alone that it is longer."
    about = json.loads((store / name / "zarr.json").read_text())
    about["shape"][0] = count
    (store / name / "zarr.json").write_text(json.dumps(about))


def test_what_others_added_to_a_store_is_not_lost(tmp_path):
    store = tmp_path / "runs"
    append(store, ahead_of(1, 1))
    rows = xr.open_zarr(store, chunks=None).load()
    later = {n: rows[n] + np.timedelta64(7, "D") for n in ("origin", "time")}
    # in large chunks of their own, too
    times = {"units": rows.origin.encoding["units"], "dtype": "int64"}
    encoding = {
        "origin": {**times, "chunks": (5,)},
        "time": {**times, "chunks": (5, 2)},
    }
    encoding["sea"] = {"chunks": (5, 2, 6, 8)}
    rows = rows.drop_encoding()
    rows.to_zarr(tmp_path / "large", consolidated=False, encoding=encoding)
    for k in range(2, 9):
        append(tmp_path / "large", ahead_of(k, k))
    assert held_by(tmp_path / "large") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(list(tmp_path.glob("large/sea/c/*"))) == 2

    rows = rows.assign_coords(later)
    rows.to_zarr(store, append_dim="origin", consolidated=False)
    append(store, ahead_of(2, 2))
    assert held_by(store) == held_by(store, consolidated=False) == [1, 1, 2]
    longer(store, "sea", 4)
    with pytest.raises(LabError, match="its root does not know: sea is longer"):
        append(store, ahead_of(3, 3))
    assert held_by(store) == [1, 1, 2]


def test_a_store_that_was_left_half_written_is_cut(tmp_path):
    "Earlier versions wrote one array after the other, and no list."
    store = tmp_path / "runs"
    for k in (1, 2):
        append(store, ahead_of(k, k))
    root = json.loads((store / "zarr.json").read_text())
    del root["consolidated_metadata"]
    (store / "zarr.json").write_text(json.dumps(root))
    longer(store, "origin", 3)
    with pytest.raises(ValueError, match="conflicting sizes"):
        held_by(store, consolidated=False)
    with pytest.warns(UserWarning, match="its first 2 forecasts are kept"):
        append(store, ahead_of(3, 3))
    assert held_by(store) == held_by(store, consolidated=False) == [1, 2, 3]


def test_missing_pixels_are_not_those_of_a_forecast_that_was_killed(tmp_path):
    "Chunks of nothing but missing pixels are not written: none must lie there."
    store = tmp_path / "runs"
    append(store, ahead_of(1, 1))
    before = (store / "zarr.json").read_bytes()
    append(store, ahead_of(2, 2))
    # as a kill before the root was written leaves it
    (store / "zarr.json").write_bytes(before)
    for name in ("origin", "time", "sea"):
        longer(store, name, 1)
    append(store, ahead_of(3, np.nan))
    with xr.open_zarr(store, chunks=None) as runs:
        assert np.isnan(runs.sea[1]).all() and (runs.sea[0] == 1).all()


def test_other_data_of_equal_shape_are_another_training(tmp_path):
    def losses(field):
        settings = plan(2, checkpoint_every=1)
        own = Nowcaster(Last(2), training=settings, checkpoint=tmp_path)
        return own.fit(Fields(field, 3, 2)).fitted.losses

    field = waves()
    first = losses(field)
    assert np.array_equal(losses(field.copy()), first)
    assert len(list(tmp_path.iterdir())) == 1
    changed = field.copy()
    changed[-1] *= -1
    losses(changed)
    losses(field.assign_coords(lat=field.lat + 1))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_field_of_another_kind_is_refused(tmp_path, fitted):
    field = waves()
    others = {
        "frames are 00:05:00 apart, not 01:00:00": waves(freq="5min"),
        "coordinates of rows fall, they should not": field.isel(
            lat=slice(None, None, -1)
        ),
    }
    fitted.save(tmp_path / "model")
    for known in (fitted, Nowcaster.load(tmp_path / "model")):
        for words, other in others.items():
            for asked in (other, Fields(other, 3, 2)):
                with pytest.raises(LabError, match=f"{words}.*about = None"):
                    known.predict(asked)
    known.about = None
    assert known.predict(other).shape == (2, 6, 8)
    with pytest.raises(LabError, match="coordinates of rows fall"):
        Stream(fitted).update(other[0])
    wind = xr.concat([field, field], pd.Index(["u", "v"], name="channel"))
    own = Nowcaster(Last(2), training=plan(1)).fit(Fields(wind, 3, 2))
    with pytest.raises(LabError, match=r"channels are \(v, u\), not \(u, v\)"):
        own.predict(wind.isel(channel=[1, 0]))
    for asked in (field, Fields(field, 3, 2)):
        with pytest.raises(LabError, match="made for 2 channels: the field has 1"):
            own.predict(asked)
    later = waves(rows=7)
    with pytest.raises(LabError, match="held out are of another kind: .rows, columns"):
        Nowcaster(TINY).fit(Fields(field, 3, 2), Fields(later, 3, 2))


def test_what_was_never_observed_is_no_training():
    field = waves()
    nothing = field * np.nan
    with pytest.raises(LabError, match="missing in the windows held out"):
        Nowcaster(Last(2)).fit(Fields(field, 3, 2), Fields(nothing, 3, 2))
    for scale in ("none", "radar", Scale()):
        with pytest.raises(LabError, match="missing in the windows of the field"):
            Nowcaster(Last(2), scale=scale).fit(Fields(nothing, 3, 2))


def test_windows_are_chosen_by_numbers_and_masks():
    windows = Fields(waves(9), 3, 2)
    own = Nowcaster(Last(2), scale="none", past=3, future=2)
    every = own.predict(windows)
    mask = np.arange(5) % 2 == 1
    for chosen in (mask, torch.tensor(mask), mask.tolist(), [1, 3], slice(1, 4, 2)):
        assert torch.equal(own.predict(windows, chosen), every[[1, 3]])
    assert torch.equal(own.predict(windows, 2), every[2:3])
    with pytest.raises(LabError, match="mask of 4 does not fit"):
        own.predict(windows, mask[:4])
    with pytest.raises(LabError, match="windows have numbers, got"):
        own.predict(windows, [1.7])


def test_origins_are_frames():
    field = waves()
    own = Nowcaster(Last(2), scale="none", past=3, future=2)
    assert str(forecast(own, field, "2024-05-01").origin.values)[:13] == "2024-05-01T23"
    day = pd.Timestamp("2024-05-01").date()
    assert forecast(own, field, day).equals(forecast(own, field, "2024-05-01"))
    for wrong in ("2024-05-01 12:30", "2030-01-01", "noon", 5):
        with pytest.raises(
            LabError, match="no time of the field: .*go from 2024-05-01T"
        ):
            forecast(own, field, wrong)


def test_one_frame_is_dated_by_what_was_learned():
    field = waves()
    own = Nowcaster(Last(2), past=1, future=2, training=plan(1)).fit(field)
    assert np.array_equal(forecast(own, field[-1:]).time, forecast(own, field).time)
    bare = Nowcaster(Last(2), past=1, future=2, scale="none")
    with pytest.raises(LabError, match="does not say when the next one is"):
        forecast(bare, field[-1:])
    assert forecast(bare, field[-1:].drop_vars("time")).shape == (2, 6, 8)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_weights_of_every_precision_answer(tmp_path, kind):
    model = Earthformer(TINY).to(kind).eval()
    field = waves(3)
    ahead = forecast(model, field)
    stream = Stream(Nowcaster(model, scale="none"))
    told = [stream.update(frame) for frame in field][-1]
    assert np.isfinite(ahead).all() and np.allclose(told, ahead, atol=0.05)
    Nowcaster(model, scale="none").save(tmp_path / "model")
    again = Nowcaster.load(tmp_path / "model")
    assert next(again.network.parameters()).dtype == kind
    assert again.predict(field).equals(ahead)


def test_frames_that_a_stream_refused_do_not_count(fitted):
    field = waves()
    stream = Stream(fitted, "1h")
    stream.update(field[0])
    broken = field[1].copy()
    broken[0, 0] = np.inf
    for wrong in (field[1, :4], broken):
        with pytest.raises(LabError, match="another grid|infinite"):
            stream.update(wrong)
    with pytest.raises(LabError, match="takes one frame, got 2 along time"):
        stream.update(field[1:3])
    stream.update(field[1])
    told, expected = stream.update(field[2]), forecast(fitted, field[:3])
    assert np.allclose(told, expected, atol=1e-5)
    for step in (
        pd.Timedelta("30min"),
        pd.Timedelta("30min").to_pytimedelta(),
        "30min",
    ):
        stream = Stream(fitted, step)
        stream.update(field[0])
        with pytest.raises(LabError, match="frame of 2024-05-01T00:30:00 is missing"):
            stream.update(field[1])


def test_a_stream_of_months_equals_the_forecast():
    field = waves(12, freq="ME")
    own = Nowcaster(Last(2), past=3, future=2, training=plan(1)).fit(field)
    stream = Stream(own)
    told = [stream.update(frame) for frame in field][-1]
    assert np.array_equal(told.time, forecast(own, field).time)
    with pytest.raises(LabError, match="frame of 2025-05-31T00:00:00 is missing"):
        stream.update(field[0])


def test_rivals_are_nowcasters_too(tmp_path):
    shapes = dict(input_shape=(3, 6, 8, 1), target_shape=(2, 6, 8, 1))
    unet = UNet(UNetSettings(**shapes, widths=(4,), centre=4))
    own = Nowcaster(unet, training=plan(1)).fit(waves())
    assert (own.past, own.future) == (3, 2)
    Nowcaster(Persistence(2), past=3, future=2, scale="none").save(tmp_path / "last")
    again = Nowcaster.load(tmp_path / "last")
    assert np.array_equal(again.predict(waves())[0], waves()[-1])


def test_a_data_set_is_learned_by_the_words_of_a_field():
    both = xr.Dataset({"u": waves(), "v": waves()})
    own = Nowcaster(Last(2), past=3, future=2, training={"steps": 1, "progress": False})
    ahead = own.fit(both, variable="u").predict(both, variable="u")
    assert own.training == published_training(steps=1, progress=False)
    assert ahead.shape == (2, 6, 8)
