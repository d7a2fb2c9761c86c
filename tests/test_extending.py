"""A panel moves on by new rows as if all rows had come at once."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest

from forecastlab.core.basics import LabError
from forecastlab.core.panel import Panel
from forecastlab.demand.mq import MQDense
from forecastlab.quantile.recurrent import RecurrentForecaster
from toys import QUIET, ROLES, frame

SMALL = dict(context=12, steps=2, batch=8, training=QUIET)


def table(rows=40):
    "Six weekly series with every kind of covariate; three begin later."
    df = frame(rows=rows)
    row = df.groupby("unique_id").cumcount()
    late = df.unique_id.isin(["s1", "s3", "s5"])
    return df[~late | (row >= 7)].reset_index(drop=True)


def packed(df, future=None):
    return Panel.from_frame(df, freq="W-SUN", future=future, **ROLES)


def words(panel, role):
    "Columns with names instead of codes; two panels may number them differently."
    return {
        n: np.asarray(panel.categories[n])[c] if n in panel.categories else c
        for n, c in getattr(panel, role).items()
    }


def same_panel(found, want):
    assert found.ids.tolist() == want.ids.tolist()
    assert (found.calendar == want.calendar).all() and found.freq == want.freq
    for name in ("start", "indptr", "length", "y"):
        np.testing.assert_array_equal(getattr(found, name), getattr(want, name))
    for role in ("known", "past", "static"):
        mine, theirs = words(found, role), words(want, role)
        assert list(mine) == list(theirs)
        for n in mine:
            np.testing.assert_array_equal(mine[n], theirs[n], n)


@pytest.mark.parametrize("planned", [0, 2, 5])
def test_rows_one_after_the_other_are_all_rows_at_once(planned):
    "Whatever had been planned: what came counts."
    df = table()
    dates = np.sort(df.ds.unique())
    old, new = df[df.ds < dates[-3]], df[df.ds >= dates[-3]]
    plan = None
    if planned:
        more = pd.date_range(dates[-3], periods=planned, freq="W-SUN")
        names = old.unique_id.unique()
        plan = pd.DataFrame(
            {
                "unique_id": np.repeat(names, planned),
                "ds": np.tile(more, len(names)),
                "price": 3.0,
                "promo": "no",
            }
        )
    found = packed(old, plan)
    for date in dates[-3:]:
        found = found.extend(new[new.ds == date])
    left = None if planned <= 3 else plan[plan.ds > dates[-1]]
    same_panel(found, packed(df, left))


def test_a_panel_of_rows_a_saved_panel_and_a_series_that_begins(tmp_path):
    df = table()
    dates = np.sort(df.ds.unique())
    begins = (df.unique_id == "s4") & (df.ds < dates[-2])
    old = packed(df[(df.ds < dates[-2]) & (df.unique_id != "s4")])
    old.save(tmp_path / "panel")
    rows = packed(df[(df.ds >= dates[-2]) | begins])
    with pytest.raises(ValueError, match="1 series are not in the panel: s4"):
        Panel.load(tmp_path / "panel").extend(rows)
    found = Panel.load(tmp_path / "panel").extend(rows, new_series=True)
    names = ["s0", "s1", "s2", "s3", "s5", "s4"]
    assert found.ids.tolist() == names
    same_panel(found, packed(df).select(names))


@pytest.mark.parametrize("make", [MQDense, RecurrentForecaster])
def test_a_network_with_covariates_goes_on(make, tmp_path):
    "From a file as well: the weights are those of the day of training."
    df = table(48)
    dates = np.sort(df.ds.unique())
    past, plan = df[df.ds < dates[44]], df[df.ds >= dates[44]]
    came, rest = plan[plan.ds < dates[46]], plan[plan.ds >= dates[46]]
    # one of the two says that it does not read what is known afterwards only
    with warnings.catch_warnings(action="ignore"):
        model = make(2, **SMALL).fit(packed(past, plan))
        model.save(tmp_path / "model")
        before = [p.clone() for p in model.networks[0].parameters()]
        want = model.predict(None, packed(df[df.ds < dates[46]], rest), seed=1)
        again = make.load(tmp_path / "model")
        again.update(came, panel=packed(past, plan))
        for moved in (model.update(came), again):
            found = moved.predict(seed=1)
            assert found.quantile([0.1, 0.9]).equal(want.quantile([0.1, 0.9]))
        assert all(a.equal(b) for a, b in zip(before, model.networks[0].parameters()))
        # two more weeks, and no plan behind them
        model.update(rest)
        with pytest.raises(LabError, match="end before the horizon"):
            model.predict()


def test_what_does_not_fit_is_refused_in_words():
    df = table()
    last = df.ds == df.ds.max()
    panel, new = packed(df[~last]), df[last]

    def refused(message, rows, **how):
        with pytest.raises(LabError, match=message):
            panel.extend(rows, **how)

    refused("overlap the history of 6 series", df)
    twice = pd.concat([new, new])
    refused("duplicate", twice)
    refused("unknown column: warm", new.drop(columns="warm"))
    refused("unknown column: y", new.drop(columns="y"))
    refused("targets are NaN", new.assign(y=np.nan))
    refused("text in one of the panel and the new rows", new.assign(promo=1.0))
    rows = packed(new)
    refused("past columns are missing", dataclasses.replace(rows, past={}))
    more = rows.known | dict(extra=rows.known["price"])
    refused("not in the panel: extra", dataclasses.replace(rows, known=more))
    refused("frequency 'D'", dataclasses.replace(rows, freq="D"))
    refused("cannot be given beside", rows, future=new)
    refused("new_series must be", rows, new_series="yes")
    moved = dataclasses.replace(rows, static=rows.static | dict(size=np.ones(6)))
    refused("static 'size' of the new rows is another", moved)
    bare = dataclasses.replace(rows, static={}, ids=np.array([*"abcdef"]))
    refused("static columns of series that begin", bare, new_series=True)
    refused("expected a pandas", 3)


# --- plans that nobody has


@pytest.mark.parametrize("make", [MQDense, RecurrentForecaster])
def test_what_is_missing_ahead_is_refused_or_assumed(make):
    df = table(48)
    past = df[df.ds < np.sort(df.ds.unique())[44]]
    panel = packed(past)
    with warnings.catch_warnings(action="ignore"):
        model = make(2, **SMALL).fit(panel)
        with pytest.raises(LabError, match="end before.*assume.2, price='last'"):
            model.predict()
        ahead = panel.assume(2, price="last", promo="no")
        found = model.predict(panel=ahead).quantile([0.1, 0.9])
        assert found.isfinite().all()
        # it is what a plan that says so would have said
        last = past.groupby("unique_id").tail(1)
        weeks = pd.to_timedelta([7, 14], "D")
        plan = pd.concat([last.assign(ds=last.ds + w, promo="no") for w in weeks])
        want = model.predict(panel=packed(past, plan)).quantile([0.1, 0.9])
        assert found.equal(want)
        hole = dataclasses.replace(ahead, known=dict(ahead.known))
        hole.known["price"] = np.array(ahead.known["price"])
        hole.known["price"][hole.indptr[3] - 1] = np.nan
        with pytest.raises(LabError, match="1 values of 'price' are NaN.*: s2. Say"):
            model.predict(panel=hole)
        filled = hole.assume(2, price="last")
        assert model.predict(panel=filled).quantile([0.1, 0.9]).equal(found)


def test_what_cannot_be_assumed_is_refused_in_words():
    panel = packed(table())

    def refused(message, horizon=2, **how):
        with pytest.raises(LabError, match=message):
            panel.assume(horizon, **how)

    refused("missing ahead: price, promo", 2)
    refused("known ahead is called: warm", warm=3)
    refused("'price' cannot be assumed to be nan", price=np.nan, promo="no")
    refused("'promo' cannot be assumed to be 'maybe'.*one of", price=1, promo="maybe")
    refused("'promo' cannot be assumed to be 1", price=1, promo=1)
    refused("horizon must be", 0, price=1)
    nothing = dataclasses.replace(panel, known=dict(panel.known))
    nothing.known["price"] = np.full_like(panel.known["price"], np.nan)
    for how in ("last", "usual"):
        with pytest.raises(LabError, match="no value to go by: s0"):
            nothing.assume(1, price=how, promo="no")
