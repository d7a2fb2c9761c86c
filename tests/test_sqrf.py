"""The pooled forests: bad input in words, new products, files."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from forecastlab.core.basics import LabError
from forecastlab.core.forecaster import load_model
from forecastlab.core.panel import Panel
from forecastlab.demand.sqrf import SQRF, PooledForest
from test_design import shops

QUICK = dict(trees=8, smallest=5, rows=2000)
both = pytest.mark.parametrize("make", [PooledForest, SQRF])


def known(panel=None):
    return (shops() if panel is None else panel).cut(50)


@both
def test_a_plan_that_sells_is_forecast_where_it_is_planned(make):
    rng = np.random.default_rng(0)
    plan = rng.integers(0, 2, 4 * 120)
    panel = shops(rows=120, plan=plan, y=rng.poisson(2 + 10 * plan).astype(float))
    past = panel.cut(111)
    q = make(8, season=1, **QUICK).fit(past).predict(8, past).quantile([0.5])
    planned = plan.reshape(4, 120)[:, 112:] == 1
    assert q[..., 0].numpy()[planned].mean() > 2 * q[..., 0].numpy()[~planned].mean()


@both
def test_a_panel_of_zeros_is_forecast_as_zero(make):
    panel = known(shops(y=np.zeros(240)))
    assert (
        make(4, **QUICK).fit(panel).predict(4, panel).quantile([0.1, 0.9]) == 0
    ).all()


@both
def test_a_column_without_a_value_is_borne(make):
    panel = known()
    panel = replace(panel, past={"price": np.full_like(panel.past["price"], np.nan)})
    q = make(4, **QUICK).fit(panel).predict(4, panel).quantile([0.1, 0.9])
    assert np.isfinite(q.numpy()).all()


@both
def test_fewer_rows_than_a_leaf_are_one_leaf(make):
    panel = shops(rows=12, n=1).cut(7)
    model = make(2, trees=4, smallest=500).fit(panel)
    assert np.isfinite(model.predict(2, panel).quantile([0.1, 0.9]).numpy()).all()


@both
def test_a_category_unseen_in_training_is_forecast_with_a_warning(make):
    model = make(4, **QUICK).fit(known())
    other = known(shops(kind=np.repeat("pan", 240)))
    with pytest.warns(UserWarning, match="pan"):
        q = model.predict(4, other).quantile([0.5])
    assert np.isfinite(q.numpy()).all()


@both
def test_columns_that_the_forest_has_not_seen_are_named(make):
    model = make(4, **QUICK).fit(known())
    frame = shops().to_frame()
    columns = dict(known=["plan", "offer", "event"], past="price")
    bare = Panel.from_frame(frame, "W-SUN", **columns).cut(50)
    with pytest.raises(LabError, match="lacks: static kind, static text"):
        model.predict(4, bare)
    lean = make(4, **QUICK).fit(bare)
    with pytest.raises(LabError, match="not seen these columns: static kind"):
        lean.predict(4, known())


@both
def test_a_product_that_was_never_observed_is_forecast_by_its_kind(make, tmp_path):
    rng = np.random.default_rng(0)
    rate = np.repeat([50, 5] * 2, 60)
    panel = known(shops(y=rng.poisson(rate).astype(float)))
    model = make(4, text="text", **QUICK).fit(panel)
    unseen = known(shops(y=np.full(240, np.nan), fill="missing"))
    q = model.predict(4, unseen).quantile([0.5])[..., 0].mean(1).numpy()
    assert q[0] > 25 and q[1] < 15
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert np.array_equal(
        again.predict(4, unseen).quantile([0.5])[..., 0].mean(1).numpy(), q
    )


def test_covariates_that_end_before_the_horizon_are_refused():
    with pytest.raises(LabError, match="end before the horizon"):
        SQRF(4, **QUICK).fit(shops()).predict(4)


def test_too_short_a_panel_is_refused():
    frame = pd.DataFrame(dict(unique_id=[*"ab"], ds=[0, 0], y=[1.0, 2.0]))
    with pytest.raises(LabError, match="no series has 1 rows of history"):
        SQRF(2).fit(Panel.from_frame(frame, 1))


@pytest.mark.parametrize(
    "wrong",
    [dict(trees=0), dict(features=0.0), dict(weight=-1), dict(levels=[0.9, 0.1])],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(LabError):
        SQRF(4, **wrong)
