"""Forecasts without one thing after the other."""

import warnings

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from forecastlab.core.basics import LabError
from forecastlab.core.panel import Panel
from forecastlab.demand.ablations import ablated, ablations, plot_ablations
from forecastlab.demand.mq import MQDense
from forecastlab.demand.textbook import EmpiricalQuantiles
from forecastlab.quantile.recurrent import RecurrentForecaster
from toys import QUIET, ROLES, frame, full, plain

SMALL = dict(context=8, steps=2, batch=8, training=QUIET)


def planned():
    df = frame()
    late = df.ds > np.sort(df.ds.unique())[35]
    future = df[late].drop(columns="y")
    return Panel.from_frame(df[~late], future=future, freq="W-SUN", **ROLES)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MQDense(4, **SMALL),
        lambda: RecurrentForecaster(4, least=2, draws=50, **SMALL),
        lambda: EmpiricalQuantiles(4),
    ],
)
def test_any_forecaster_says_what_changed(make):
    panel = planned()
    with warnings.catch_warnings(action="ignore"):
        model = make().fit(panel)
        found = ablations(model, by="column")
        some = ablations(model, series=["s4", "s1"], steps=[3], by="column")
        want = model.predict().quantile([0.5])[..., 0].numpy()
    wide = found.pivot(index=["unique_id", "step"], columns="group", values="median")
    assert list(dict.fromkeys(found.group)) == [
        *["history", "price", "promo", "warm", "sky", "size", "kind"]
    ]
    assert wide.shape == (24, 7) and np.isfinite(wide).all().all()
    value = found.drop_duplicates(["unique_id", "step"])["value"]
    np.testing.assert_array_equal(value, want.ravel())
    assert some.unique_id.unique().tolist() == ["s4", "s1"]
    where = found.unique_id.isin(["s4"]) & (found.step == 3)
    mine = some[some.unique_id == "s4"]
    np.testing.assert_array_equal(found[where]["median"], mine["median"])
    if isinstance(model, EmpiricalQuantiles):
        # reads nothing but the history
        assert (wide.drop(columns="history") == 0).all().all()
        assert (wide.history != 0).any()
    plot_ablations(None, mine)


def test_what_is_usual_stands_in_the_place_of_what_is_taken_away():
    panel = planned()
    without = dict(ablated(panel, "column"))
    for name, kept in (("price", "promo"), ("promo", "price")):
        (some,) = without[name]
        for s in range(len(panel)):
            rows = slice(*panel.indptr[s : s + 2])
            past = panel.known[name][rows][: panel.length[s]]
            usual = np.median(past) if name == "price" else pd.Series(past).mode()[0]
            assert (some.known[name][rows] == np.float32(usual)).all()
        assert some.known[kept] is panel.known[kept]
    assert (without["kind"][0].static["kind"] == 0).all()
    assert np.ptp(without["size"][0].static["size"]) == 0
    np.testing.assert_allclose(
        [np.nanmean(without["history"][0].history(s)) for s in range(6)],
        [np.nanmean(panel.history(s)) for s in range(6)],
        rtol=1e-5,
    )
    groups = list(dict(ablated(full(rows=110))))
    assert groups == ["history", "calendar", "known", "past", "static"]


def test_other_dates_are_on_the_calendar_and_of_other_seasons():
    for freq, rows in (("D", 30), ("h", 400), ("MS", 60), ("W-SUN", 120), ("B", 300)):
        panel = plain(np.arange(1.0, rows), freq)
        moved = dict(ablated(panel))["calendar"]
        assert len(moved) == 6 and all(len(p.calendar) == rows - 1 for p in moved)
        first = [p.calendar[0] for p in moved]
        assert len(set(first)) == 6 and panel.calendar[0] not in first
        assert max(first) - panel.calendar[0] < pd.Timedelta("366D")


def test_what_cannot_be_explained_is_refused_in_words():
    model = EmpiricalQuantiles(4).fit(planned())
    for message, call in {
        "has 4 steps, asked for: 6": lambda: ablations(model, steps=[1, 6]),
        "no step is asked for": lambda: ablations(model, steps=[]),
        "unknown series: x": lambda: ablations(model, series="x"),
        "unknown by": lambda: ablations(model, by="role"),
        "no panel to explain": lambda: ablations(EmpiricalQuantiles(4)),
        "expected a Panel": lambda: ablations(model, 3),
        "it lacks": lambda: plot_ablations(None, planned().to_frame()),
    }.items():
        with pytest.raises(LabError, match=message):
            call()
