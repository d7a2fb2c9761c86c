"The pipeline of learned quantile functions, run as its users run it."

import json

import numpy as np
import pandas as pd
import pytest

from forecastlab.core.basics import LabError
from test_pipelines import walk

TINY = dict(
    simple=["SeasonalNaive"],
    steps=4,
    batch=8,
    origins=2,
    threads=1,
    network=dict(channels=8, agnostic=8, specific=4, local=8),
)


def own(path, low=0, n=8, steps=60, freq="W-SUN"):
    y = np.random.default_rng(0).poisson(5, (n, steps)).reshape(-1) + low
    df = pd.DataFrame(
        dict(
            unique_id=np.repeat([f"i{k}" for k in range(n)], steps),
            ds=np.tile(pd.date_range("2023-01-01", periods=steps, freq=freq), n),
            y=y,
        )
    )
    df.to_csv(path, index=False)
    return df


def go(tmp_path, **parameters):
    return walk(
        "quantile_forecast", out=str(tmp_path / "run"), **{**TINY, **parameters}
    )


def test_every_head_forecasts_ones_own_file_calibrated_and_beyond_its_end(tmp_path):
    own(tmp_path / "mine.csv")
    heads = ["isqf", "sqf", "iqf", "grid", "mqf2"]
    go(
        tmp_path,
        data=str(tmp_path / "mine.csv"),
        horizon=3,
        heads=heads,
        calibrate=2,
        levels=[0.2, 0.5, 0.8],
        support="count",
        final=True,
        network=dict(channels=8),
    )
    m = json.loads((tmp_path / "run" / "metrics.json").read_text())
    a = tmp_path / "run" / "artifacts"
    assert m["crossing"] == 0
    assert all(
        np.isfinite(m[f"{h}_wql"]) and np.isfinite(m[f"{h}_energy"]) for h in heads
    )
    board = pd.read_csv(a / "leaderboard.csv", index_col=0)
    assert {*heads, *(f"{h} calibrated" for h in heads), "SeasonalNaive"} == set(
        board.index
    )
    f = pd.read_parquet(a / "forecasts.parquet")
    q = f[[c for c in f if "_ql" in c]].values
    assert len(f) == 8 * 3
    assert (np.diff(q, axis=1) >= 0).all()
    assert (q >= 0).all()
    assert (q == q.round()).all()
    assert f.ds.min() > pd.Timestamp("2024-02-18")
    assert (a / "calibration.png").stat().st_size > 5000
    assert (a / "fan.png").stat().st_size > 5000
    assert (a / "model.safetensors").exists()


@pytest.mark.parametrize(
    "backbone, heads",
    [
        ("autoregressive", ["sqf"]),
        ("lags", ["mqf2"]),
        ("cnn", ["sqf", "isqf"]),
        ("rnn", ["iqf"]),
    ],
)
def test_counts_stay_counts_on_every_backbone(tmp_path, backbone, heads):
    own(tmp_path / "mine.csv")
    small = (
        dict(hidden=8, draws=20) if backbone == "autoregressive" else dict(channels=8)
    )
    go(
        tmp_path,
        data=str(tmp_path / "mine.csv"),
        horizon=2,
        heads=heads,
        backbone=backbone,
        support="count",
        network=small,
        calibrate=2,
        levels=[0.2, 0.5, 0.8],
    )
    f = pd.read_parquet(tmp_path / "run" / "artifacts" / "backtest.parquet")
    q = f[f.model != "SeasonalNaive"][[c for c in f if c.startswith("ql")]].values
    assert (q == q.round()).all() and (q >= 0).all() and (np.diff(q, axis=1) >= 0).all()


def test_a_backbone_that_goes_step_by_step_runs(tmp_path):
    own(tmp_path / "mine.csv", low=-5)
    go(
        tmp_path,
        data=str(tmp_path / "mine.csv"),
        horizon=2,
        heads=["sqf", "isqf"],
        backbone="autoregressive",
        network=dict(hidden=8, draws=20),
    )
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["crossing"] == 0


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(heads=["isqf", "spline"]), "unknown heads: spline"),
        (dict(heads=[]), "no heads given"),
        (dict(backbone="transformer"), "unknown backbone: transformer"),
        (
            dict(backbone="autoregressive", heads=["grid"]),
            "forecasts one step at a time",
        ),
        (dict(horizon=-1), "the horizon must be at least 1 step"),
        (dict(levels=[0.5, 0.2]), "levels"),
        (dict(support="whole"), "unknown support: whole"),
        (dict(simple=["Prophet"]), "unknown simple methods: Prophet. Choose among"),
        (dict(data="none.csv"), "none.csv"),
    ],
)
def test_bad_parameters_are_one_clear_error(tmp_path, change, message):
    with pytest.raises(LabError, match=message):
        go(tmp_path, **change)
