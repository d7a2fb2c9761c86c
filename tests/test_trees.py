"""Boosted trees: no column sees past its origin, whatever the panel."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastlab.core.backtest import plant
from forecastlab.core.basics import LabError
from forecastlab.core.panel import Panel
from forecastlab.demand.trees import BoostedTrees, Samples, drawn_samples
from forecastlab.demand.trees import latest_samples, table_of

QUICK = dict(rounds=8, smallest=5, rows=2000)


def shops(freq="W-SUN", rows=60, n=4, seed=0, **columns):
    "Some series of counts with a plan known ahead, a past price and a kind."
    rng = np.random.default_rng(seed)
    ds = pd.date_range("2021-01-03", periods=rows, freq=freq) if freq != 1 else None
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(n)], rows),
            "ds": np.tile(np.arange(rows) if ds is None else ds, n),
            "y": rng.poisson(4, n * rows).astype(float),
            "plan": rng.integers(0, 2, n * rows),
            "price": rng.uniform(1, 2, n * rows),
            "kind": np.repeat([["mug", "tin"][i % 2] for i in range(n)], rows),
        }
        | columns
    )
    return Panel.from_frame(frame, freq, known="plan", past="price", static=["kind"])


@given(
    freq=st.sampled_from(["W-SUN", "D", "h", "MS", "QS", 1]),
    season=st.sampled_from([1, 4, 7, 12]),
    origin=st.integers(1, 50),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_no_column_changes_when_the_future_does(freq, season, origin, seed):
    panel = shops(freq, seed=seed)
    step = np.array([1, 2, 5, 9])
    samples = Samples(np.arange(4), np.full(4, origin), step)
    absurd = plant(panel, int(panel.start[0]) + origin - 1)
    told, again = (table_of(p, samples, season).values for p in (panel, absurd))
    assert np.array_equal(told, again, equal_nan=True)


def test_samples_lie_inside_the_history():
    panel = shops(rows=40)
    few = drawn_samples(panel, 5, 10, 10**6, seed=0)
    assert len(few) == 4 * sum(min(5, 40 - o) for o in range(10, 40))
    for samples in (few, drawn_samples(panel, 5, 10, 100, seed=0)):
        assert (samples.origin >= 10).all()
        assert (samples.target < panel.length[samples.series]).all()
    ahead = latest_samples(panel, 3)
    assert ahead.target.tolist() == [40, 41, 42] * 4


def test_a_plan_that_sells_is_forecast_where_it_is_planned():
    rng = np.random.default_rng(0)
    plan = rng.integers(0, 2, 4 * 120)
    panel = shops(rows=120, plan=plan, y=rng.poisson(2 + 10 * plan).astype(float))
    known = panel.cut(111)
    q = BoostedTrees(8, season=1, **QUICK).fit(known).predict(8, known).quantile([0.5])
    planned = plan.reshape(4, 120)[:, 112:] == 1
    assert q[..., 0].numpy()[planned].min() > q[..., 0].numpy()[~planned].max()


def test_a_panel_of_zeros_is_forecast_as_zero():
    panel = shops(y=np.zeros(240))
    q = BoostedTrees(4, **QUICK).fit(panel.cut(50)).predict(4, panel.cut(50))
    assert (q.quantile([0.1, 0.9]) == 0).all()


@pytest.mark.parametrize(
    "wrong", [dict(rate=0), dict(leaves=1), dict(levels=[0.9, 0.1]), dict(rows=0)]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(LabError):
        BoostedTrees(4, **wrong)


def test_another_panel_needs_the_same_columns():
    panel = shops()
    trees = BoostedTrees(2, **QUICK).fit(panel.cut(50))
    frame = panel.to_frame().drop(columns="price")
    other = Panel.from_frame(frame, "W-SUN", known="plan").cut(50)
    with pytest.raises(LabError, match="other columns"):
        trees.predict(2, other)
