"Stock: the newsvendor's closed forms, savings that add up, service that was really delivered."
import numpy as np
import pandas as pd
import pytest
import torch

from forecastlab.core.decision import achieved, saving, stock_curve, total_curve
from forecastlab.core.distributions import QuantileGrid
from forecastlab.core.forecast import Forecast
from forecastlab.core.panel import Panel

U = torch.linspace(.005, .995, 199, dtype=torch.float64)
SERVICE = np.round(np.arange(.80, .995, .01), 2)


def forecast(values, h=3):
    "A forecast with the same (series, level) quantiles at every step."
    n = len(values); p = Panel.from_frame(pd.DataFrame({"unique_id": np.repeat([f"i{k}" for k in range(n)], 2), "ds": [0, 1]*n, "y": 1.}), freq=1)
    return Forecast(p, QuantileGrid(U, torch.as_tensor(values, dtype=torch.float64)[:, None].expand(n, h, -1), "flat", "nonnegative"), "m")


def uniform(*tops): return forecast(torch.stack([t*U for t in tops]))
def exponential(*means): return forecast(torch.stack([-m*torch.log1p(-U) for m in means]))


def test_uniform_demand_costs_one_percent_of_its_range_a_point():
    f = uniform(100., 50.); curve = stock_curve(f); total = total_curve(curve)
    np.testing.assert_allclose(curve[curve.unique_id == "i0"].units, 100*SERVICE, rtol=1e-6); np.testing.assert_allclose(total.units, 150*SERVICE, rtol=1e-6)
    assert list(curve) == ["unique_id", "level", "units", "money"] and len(curve) == 40 and curve.money.isna().all() and total.money.isna().all()


def test_exponential_demand_pays_dearly_for_the_last_points():
    "q(a) = -m ln(1 - a), so going from 95 to 94 % saves m ln(6/5)."
    f = exponential(10., 30.); s = saving(f).set_index("unique_id")
    np.testing.assert_allclose(s.units_saved[["i0", "i1"]], np.array([10, 30])*np.log(6/5), rtol=2e-3)
    assert (np.diff(total_curve(stock_curve(f)).units, 2) > -1e-9).all()


def test_the_newsvendors_quantile_minimises_expected_cost():
    "Shortage costs u, leftovers cost o: the best stock is the u/(u + o) quantile."
    f = exponential(10.); y = -10*np.log1p(-(np.arange(40_000) + .5)/40_000); under, over = 9., 1.
    cost = lambda s: (under*np.maximum(y - s, 0) + over*np.maximum(s - y, 0)).mean()
    best = float(f.quantile([under/(under + over)])[0, 0, 0]); grid = np.linspace(5, 60, 1101)
    assert abs(grid[np.argmin([cost(s) for s in grid])] - best) < .1 and best == pytest.approx(10*np.log(10), rel=1e-3)


def test_savings_add_up_over_items_and_over_points():
    f = exponential(3., 10., 25.); value = [4., 1., 2.]; curve = total_curve(stock_curve(f, [.9, .94, .95], value))
    one, rest, all_ = saving(f, .95, .94, value), saving(f, .94, .90, value), saving(f, .95, .90, value)
    for c in ("units", "money"):
        assert one[f"{c}_saved"].sum() == pytest.approx(curve[c].iloc[2] - curve[c].iloc[1]) and all_[f"{c}_saved"].sum() == pytest.approx(one[f"{c}_saved"].sum() + rest[f"{c}_saved"].sum())
    parts = pd.concat([saving(f.select([i]), .95, .94, value[i]) for i in range(3)]).set_index("unique_id"); pd.testing.assert_frame_equal(parts.loc[one.unique_id], one.set_index("unique_id"))
    assert list(one.unique_id) == ["i2", "i0", "i1"] or list(one.money_saved) == sorted(one.money_saved, reverse=True)
    assert list(one) == ["unique_id", "stock_0.94", "stock_0.95", "units_saved", "money_saved"] and np.allclose(one["stock_0.95"] - one["stock_0.94"], one.units_saved)


def test_dearest_first_by_money_where_there_is_money_else_by_units():
    f = uniform(10., 100.); assert list(saving(f).unique_id) == ["i1", "i0"] and saving(f).money_saved.isna().all()
    assert list(saving(f, value=[50., 1.]).unique_id) == ["i0", "i1"]


def test_stock_is_the_mean_over_the_steps():
    values = torch.stack([U*10, U*30])[None]; p = uniform(1.).panel
    f = Forecast(p, QuantileGrid(U, values, "flat", "nonnegative"), "m"); assert stock_curve(f, [.9]).units[0] == pytest.approx((9 + 27)/2)


def test_more_service_never_needs_less_stock():
    rng = np.random.default_rng(0); f = forecast(torch.from_numpy(np.sort(rng.gamma(.3, 20, (20, 199)), 1))); curve = stock_curve(f, np.linspace(.01, .99, 99))
    assert (curve.pivot(index="unique_id", columns="level", values="units").diff(axis=1).iloc[:, 1:] >= 0).all(axis=None) and (saving(f).units_saved >= 0).all()


def test_an_item_that_never_sells_needs_no_stock():
    f = forecast(torch.zeros(1, 199)); assert (stock_curve(f).units == 0).all() and saving(f).units_saved[0] == 0


@pytest.mark.parametrize("call, message", [
    (lambda f: saving(f, .94, .95), "the second level must be lower than the first, got 0.94 and 0.95"), (lambda f: saving(f, .95, .95), "must be lower"), (lambda f: stock_curve(f, [95]), "For 95 % write 0.95"),
    (lambda f: stock_curve(f, [.9, .8]), "levels must increase"), (lambda f: stock_curve(f, []), "no levels given"), (lambda f: saving(f, value=[1., -2.]), "a unit cannot be worth less than nothing: i1. Check the prices")])
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message): call(uniform(10., 20.))


# --- delivered service

def test_achieved_counts_by_hand():
    y = np.array([[0., 4, np.nan], [10., 6, 2]]); q = np.stack([np.full((2, 3), 3.), np.full((2, 3), 6.)], -1); t = achieved(y, q, [.5, .9])
    assert list(t) == ["level", "achieved", "fill_rate"] and t.level.tolist() == [.5, .9]
    assert t.achieved.tolist() == [2/5, 4/5] and t.fill_rate.tolist() == pytest.approx([(0 + 3 + 3 + 3 + 2)/22, (0 + 4 + 6 + 6 + 2)/22])


def test_a_true_forecast_delivers_what_it_promises():
    y = np.random.default_rng(0).exponential(10, 50_000); q = np.broadcast_to(-10*np.log1p(-SERVICE), (len(y), 20)); t = achieved(y, q, SERVICE)
    assert np.abs(t.achieved - SERVICE).max() < .005 and np.abs(t.fill_rate - SERVICE).max() < .01      # exponential: E min(y, q)/E y = level
    assert (t.fill_rate.diff()[1:] > 0).all()


def test_a_shy_forecast_delivers_less():
    y = np.random.default_rng(0).exponential(10, 20_000); t = achieved(y, np.broadcast_to(-7*np.log1p(-SERVICE), (len(y), 20)), SERVICE)
    assert (t.achieved < SERVICE - .003).all()


def test_no_demand_and_nothing_to_score():
    t = achieved(np.zeros(4), np.zeros((4, 1)), [.9]); assert t.achieved[0] == 1 and np.isfinite(t.fill_rate[0])
    with pytest.raises(ValueError, match="nothing to score: every target is NaN"): achieved(np.full(3, np.nan), np.ones((3, 1)), [.9])
