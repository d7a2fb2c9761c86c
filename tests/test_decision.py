"Stock: closed forms of the newsvendor, savings that add up, service delivered."

import numpy as np
import pandas as pd
import pytest
import torch

from forecastlab.core.conformal import LevelMap, recalibrated
from forecastlab.demand.decision import (
    achieved,
    joint_service,
    newsvendor,
    price_of_service,
    saving,
    shortage,
    stock_curve,
    stock_for_joint_service,
    stockout_probability,
    total_curve,
    total_saving,
)
from forecastlab.demand.laws import Known, Remembering
from forecastlab.demand.mq import MQCNN
from forecastlab.core.distributions import Counts, Paths, QuantileFunction, QuantileGrid
from forecastlab.core.forecast import Forecast
from forecastlab.core.panel import Panel
from forecastlab.quantile.spline import SplineQuantile
from toys import QUIET, draw, frame

U = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)
SERVICE = np.round(np.arange(0.80, 0.995, 0.01), 2)


def forecast(values, h=3):
    "A forecast with the same (series, level) quantiles at every step."
    n = len(values)
    p = Panel.from_frame(
        pd.DataFrame(
            {
                "unique_id": np.repeat([f"i{k}" for k in range(n)], 2),
                "ds": [0, 1] * n,
                "y": 1.0,
            }
        ),
        freq=1,
    )
    return Forecast(
        p,
        QuantileGrid(
            U,
            torch.as_tensor(values, dtype=torch.float64)[:, None].expand(n, h, -1),
            "flat",
            "nonnegative",
        ),
        "m",
    )


def uniform(*tops):
    return forecast(torch.stack([t * U for t in tops]))


def exponential(*means):
    return forecast(torch.stack([-m * torch.log1p(-U) for m in means]))


def test_uniform_demand_costs_one_percent_of_its_range_a_point():
    f = uniform(100.0, 50.0)
    curve = stock_curve(f)
    total = total_curve(curve)
    np.testing.assert_allclose(
        curve[curve.unique_id == "i0"].units, 100 * SERVICE, rtol=1e-6
    )
    np.testing.assert_allclose(total.units, 150 * SERVICE, rtol=1e-6)
    assert list(curve) == ["unique_id", "level", "units", "money"]
    assert len(curve) == 40
    assert curve.money.isna().all()
    assert total.money.isna().all()


def test_exponential_demand_pays_dearly_for_the_last_points():
    "q(a) = -m ln(1 - a), so going from 95 to 94 % saves m ln(6/5)."
    f = exponential(10.0, 30.0)
    s = saving(f).set_index("unique_id")
    np.testing.assert_allclose(
        s.units_saved[["i0", "i1"]], np.array([10, 30]) * np.log(6 / 5), rtol=2e-3
    )
    assert (np.diff(total_curve(stock_curve(f)).units, 2) > -1e-9).all()


def test_the_newsvendors_quantile_minimises_expected_cost():
    "Shortage costs u, leftovers cost o: the best stock is the u/(u + o) quantile."
    f = exponential(10.0)
    y = -10 * np.log1p(-(np.arange(40_000) + 0.5) / 40_000)
    under, over = 9.0, 1.0
    cost = lambda s: (under * np.maximum(y - s, 0) + over * np.maximum(s - y, 0)).mean()
    best = float(f.quantile([under / (under + over)])[0, 0, 0])
    grid = np.linspace(5, 60, 1101)
    assert abs(grid[np.argmin([cost(s) for s in grid])] - best) < 0.1
    assert best == pytest.approx(10 * np.log(10), rel=1e-3)


def test_savings_add_up_over_items_and_over_points():
    f = exponential(3.0, 10.0, 25.0)
    value = [4.0, 1.0, 2.0]
    curve = total_curve(stock_curve(f, [0.9, 0.94, 0.95], value))
    one = saving(f, 0.95, 0.94, value)
    rest = saving(f, 0.94, 0.90, value)
    all_ = saving(f, 0.95, 0.90, value)
    for c in ("units", "money"):
        assert one[f"{c}_saved"].sum() == pytest.approx(
            curve[c].iloc[2] - curve[c].iloc[1]
        )
        assert all_[f"{c}_saved"].sum() == pytest.approx(
            one[f"{c}_saved"].sum() + rest[f"{c}_saved"].sum()
        )
    parts = pd.concat(
        [saving(f.select([i]), 0.95, 0.94, value[i]) for i in range(3)]
    ).set_index("unique_id")
    pd.testing.assert_frame_equal(parts.loc[one.unique_id], one.set_index("unique_id"))
    assert list(one.unique_id) == ["i2", "i0", "i1"] or list(one.money_saved) == sorted(
        one.money_saved, reverse=True
    )
    assert list(one) == [
        "unique_id",
        "stock_0.94",
        "stock_0.95",
        "units_saved",
        "money_saved",
    ]
    assert np.allclose(one["stock_0.95"] - one["stock_0.94"], one.units_saved)


def test_dearest_first_by_money_where_there_is_money_else_by_units():
    f = uniform(10.0, 100.0)
    assert list(saving(f).unique_id) == ["i1", "i0"]
    assert saving(f).money_saved.isna().all()
    assert list(saving(f, value=[50.0, 1.0]).unique_id) == ["i0", "i1"]


def test_every_total_saving_has_an_interval_around_it():
    f = exponential(3.0, 10.0, 25.0)
    value = [4.0, 1.0, 2.0]
    one = saving(f, 0.95, 0.94, value)
    both = total_saving(f, 0.95, 0.94, value)
    assert list(both) == [
        "items",
        "forecasts",
        "stock_0.94",
        "stock_0.95",
        "units_saved",
        "units_low",
        "units_high",
        "money_saved",
        "money_low",
        "money_high",
    ]
    for name in ("units", "money"):
        total = both[f"{name}_saved"][0]
        assert total == pytest.approx(one[f"{name}_saved"].sum())
        assert both[f"{name}_low"][0] < total < both[f"{name}_high"][0]
    wide = total_saving(f, 0.95, 0.94, value, interval=0.99)
    assert (
        wide.units_high[0] - wide.units_low[0]
        > both.units_high[0] - (both.units_low[0])
    )
    # equal seeds, equal intervals; no prices, no money
    pd.testing.assert_frame_equal(both, total_saving(f, 0.95, 0.94, value))
    assert total_saving(f).money_low.isna().all()


def test_the_interval_holds_the_mean_of_the_items_as_often_as_it_says():
    "Assortments of 40 items drawn from one population, of known mean saving."
    rng = np.random.default_rng(5)
    means = rng.gamma(4.0, 2.5, (60, 40))
    truth = 40 * 10 * np.log(6 / 5)
    rows = [total_saving(exponential(*m), draws=200) for m in means]
    held = [r.units_low[0] <= truth <= r.units_high[0] for r in rows]
    assert 0.8 < np.mean(held) <= 0.97


def test_several_forecasts_are_averaged_and_drawn_again():
    "What networks of different seeds disagree on shows even where items are alike."
    members = [exponential(m, m, m) for m in (8.0, 10.0, 12.0)]
    one = saving(members).set_index("unique_id")
    alone = saving(members[1]).set_index("unique_id")
    np.testing.assert_allclose(one.units_saved, alone.units_saved, rtol=1e-6)
    total = total_saving(members)
    assert total.forecasts[0] == 3
    assert total.units_low[0] < 0.95 * total.units_saved[0]
    same = total_saving(members[1])
    assert same.units_low[0] == pytest.approx(same.units_high[0])
    single = exponential(10.0)
    assert total_saving(single).units_low.isna().all()
    for wrong in ([], [members[0], single]):
        with pytest.raises(ValueError, match="no forecast|different items"):
            total_saving(wrong)
    with pytest.raises(ValueError, match="interval"):
        total_saving(members, interval=95)


def test_stock_is_the_mean_over_the_steps():
    values = torch.stack([U * 10, U * 30])[None]
    p = uniform(1.0).panel
    f = Forecast(p, QuantileGrid(U, values, "flat", "nonnegative"), "m")
    assert stock_curve(f, [0.9]).units[0] == pytest.approx((9 + 27) / 2)


def test_more_service_never_needs_less_stock():
    rng = np.random.default_rng(0)
    f = forecast(torch.from_numpy(np.sort(rng.gamma(0.3, 20, (20, 199)), 1)))
    curve = stock_curve(f, np.linspace(0.01, 0.99, 99))
    assert (
        curve.pivot(index="unique_id", columns="level", values="units")
        .diff(axis=1)
        .iloc[:, 1:]
        >= 0
    ).all(axis=None)
    assert (saving(f).units_saved >= 0).all()


def test_an_item_that_never_sells_needs_no_stock():
    f = forecast(torch.zeros(1, 199))
    assert (stock_curve(f).units == 0).all() and saving(f).units_saved[0] == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda f: saving(f, 0.94, 0.95),
            "the second level must be lower than the first, got 0.94 and 0.95",
        ),
        (lambda f: saving(f, 0.95, 0.95), "must be lower"),
        (lambda f: stock_curve(f, [95]), "For 95 % write 0.95"),
        (lambda f: stock_curve(f, [0.9, 0.8]), "levels must increase"),
        (lambda f: stock_curve(f, []), "no levels given"),
        (
            lambda f: saving(f, value=[1.0, -2.0]),
            "a unit cannot be worth less than nothing: i1. Check the prices",
        ),
    ],
)
def test_stocks_that_cannot_be_asked_for_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(uniform(10.0, 20.0))


# --- delivered service


def test_achieved_service_is_counted_by_hand():
    y = np.array([[0.0, 4, np.nan], [10.0, 6, 2]])
    q = np.stack([np.full((2, 3), 3.0), np.full((2, 3), 6.0)], -1)
    t = achieved(y, q, [0.5, 0.9])
    assert list(t) == ["level", "achieved", "fill_rate"]
    assert t.level.tolist() == [0.5, 0.9]
    assert t.achieved.tolist() == [2 / 5, 4 / 5]
    assert t.fill_rate.tolist() == pytest.approx(
        [(0 + 3 + 3 + 3 + 2) / 22, (0 + 4 + 6 + 6 + 2) / 22]
    )


def test_a_true_forecast_delivers_what_it_promises():
    y = np.random.default_rng(0).exponential(10, 50_000)
    q = np.broadcast_to(-10 * np.log1p(-SERVICE), (len(y), 20))
    t = achieved(y, q, SERVICE)
    # exponential: E min(y, q)/E y = level
    assert np.abs(t.achieved - SERVICE).max() < 0.005
    assert np.abs(t.fill_rate - SERVICE).max() < 0.01
    assert (t.fill_rate.diff()[1:] > 0).all()


def test_a_shy_forecast_delivers_less():
    y = np.random.default_rng(0).exponential(10, 20_000)
    t = achieved(y, np.broadcast_to(-7 * np.log1p(-SERVICE), (len(y), 20)), SERVICE)
    assert (t.achieved < SERVICE - 0.003).all()


def test_no_demand_and_nothing_to_score():
    t = achieved(np.zeros(4), np.zeros((4, 1)), [0.9])
    assert t.achieved[0] == 1 and np.isfinite(t.fill_rate[0])
    with pytest.raises(ValueError, match="nothing to score: every target is NaN"):
        achieved(np.full(3, np.nan), np.ones((3, 1)), [0.9])


# ------------------------------------------------------------------ every distribution
# of the lab
class Bell(QuantileFunction):
    "N(100, 20) by icdf and cdf alone."

    dtype, device = torch.float64, torch.device("cpu")
    law = torch.distributions.Normal(torch.tensor(100.0).double(), 20.0)
    icdf = staticmethod(law.icdf)
    cdf = staticmethod(law.cdf)
    log_prob = staticmethod(law.log_prob)

    def __getitem__(self, which):
        return Bell(torch.empty(self.batch_shape)[which].shape)


def every():
    "One of each, two series and three steps, demand mostly positive."
    levels = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95]).double()
    heights = 3 * draw(2, 3, 7).abs().cumsum(-1)
    shape = torch.tensor([0.1, 0.3, 0.0]).double().expand(2, 3)
    yield "grid", QuantileGrid(levels, heights, support="nonnegative")
    yield "flat", QuantileGrid(levels, heights, "flat", "nonnegative")
    yield (
        "grid32",
        QuantileGrid(levels.float(), 100 * heights.float(), support="nonnegative"),
    )
    yield (
        "zeros",
        QuantileGrid(levels, (heights - 6).clamp(min=0), support="nonnegative"),
    )
    yield "counts", Counts(QuantileGrid(levels, heights, support="nonnegative"))
    yield (
        "spline",
        SplineQuantile(
            levels, heights, right=1 + shape, right_shape=shape, support="nonnegative"
        ),
    )
    yield "paths", Paths(20 + 3 * draw(500, 2, 1) + 4 * draw(500, 2, 3, seed=1))
    yield (
        "recalibrated",
        recalibrated(
            QuantileGrid(levels, heights, support="nonnegative"),
            LevelMap(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.05, 0.55, 0.96])),
        ),
    )
    yield "any", Bell((2, 3))


FAMILIES = [pytest.param(d, id=n) for n, d in every()]
# a fine rule, finest near level 1
W = torch.linspace(0, 1, 100_001, dtype=torch.float64) ** 3
TAIL, WEIGHT = 1 - (W[1:] + W[:-1]) / 2, W.diff()


def named(d):
    return Forecast(
        Panel.from_frame(
            pd.DataFrame(
                {"unique_id": ["a", "a", "b", "b"], "ds": [0, 1] * 2, "y": 1.0}
            ),
            freq=1,
        ),
        d,
        "m",
    )


@pytest.mark.parametrize("d", FAMILIES)
def test_units_short_equal_the_integral_over_levels(d):
    keep = TAIL < (1 - 1e-7 if d.dtype == torch.float32 else 1)
    q = d.quantile(TAIL[keep]).double()
    for stock in (
        d.quantile([0.3])[..., 0],
        d.quantile([0.9])[..., 0],
        d.quantile([0.99])[..., 0],
        torch.zeros(2, 3),
    ):
        want = ((q - stock.double()[..., None]).clamp(min=0) * WEIGHT[keep]).sum(-1)
        np.testing.assert_allclose(
            shortage(d, stock), want, rtol=2e-3, atol=1e-6 * float(q.mean())
        )
    # with no stock all demand is short
    np.testing.assert_allclose(
        shortage(d, torch.zeros(2, 3)), d.mean, rtol=2e-3 if d.event_shape else 2e-4
    )


@pytest.mark.parametrize("d", FAMILIES)
@pytest.mark.parametrize(
    "under, over", [(9.0, 1.0), (1.0, 4.0), ([9.0, 2.0], [1.0, 3.0])]
)
def test_no_other_stock_is_cheaper(d, under, over):
    f = named(d)
    best = newsvendor(f, under, over)
    u, o = (np.broadcast_to(x, 2) for x in (under, over))
    assert list(best) == "unique_id ratio quantity short left cost profit".split()
    assert np.allclose(best.ratio, u / (u + o))
    assert (best.short >= 0).all()
    assert (best.left >= 0).all()
    held = (
        d.icdf(torch.tensor(u / (u + o))[:, None].expand(2, 3).to(d.dtype))
        .double()
        .numpy()
    )
    for change in (0.5, 0.9, 1.1, 2.0):
        short = shortage(d, torch.tensor(held * change)).double().numpy().mean(1)
        cost = u * short + o * (
            held.mean(1) * change - d.mean.double().numpy().mean(1) + short
        )
        assert (cost >= best.cost - 1e-3 * abs(best.cost)).all()
    np.testing.assert_allclose(best.quantity, held.mean(1), rtol=1e-6)
    np.testing.assert_allclose(
        best.profit + best.cost, u * d.mean.double().numpy().mean(1), rtol=1e-6
    )
    # a bare distribution is as good
    np.testing.assert_allclose(newsvendor(d, under, over).cost, best.cost)


def test_the_newsvendor_has_its_closed_forms():
    u = torch.special.ndtr(torch.linspace(-6, 6, 6001).double())
    for d in (Bell(()), QuantileGrid(u, Bell.icdf(u))):
        r = newsvendor(d, 9, 1).iloc[0]
        assert r.quantity == pytest.approx(125.631031, abs=1e-4)
        assert r.cost == pytest.approx(35.099666, abs=1e-4)
        assert r.unique_id == 0
    k = torch.arange(60).double()
    F = torch.special.gammaincc(k + 1, torch.tensor(5.0).double())
    F = F[F.diff(prepend=-F[:1]) > 0]
    F = F[F < 1]
    poisson = Counts(QuantileGrid(F, k[: len(F)] + 0.5, "flat", "nonnegative"))
    for p, s, c in (
        (4, 7, 3.277405),
        (9, 8, 4.221093),
        (19, 9, 5.080313),
        (39, 10, 5.887504),
    ):
        r = newsvendor(poisson, p, 1).iloc[0]
        assert r.quantity == s and r.cost == pytest.approx(c, abs=2e-6)
    assert shortage(poisson, 7.5).item() == pytest.approx(
        (shortage(poisson, 7.0) + shortage(poisson, 8.0)).item() / 2
    )
    # beyond 0.9 the exponential distribution itself
    a = torch.tensor([0.5, 0.9]).double()
    d = QuantileGrid(a, -10 * torch.log1p(-a), support="nonnegative")
    assert shortage(d, 30.0).item() == pytest.approx(10 * np.exp(-3), rel=1e-9)


@pytest.mark.parametrize("d", FAMILIES)
def test_the_price_of_a_point_is_the_slope_of_the_stock_curve(d):
    f = named(d)
    levels = np.array([0.31, 0.52, 0.83, 0.93, 0.97])
    price = price_of_service(f, levels, [2.0, 5.0])
    eps = 1e-3 if d.dtype == torch.float32 else 1e-5
    curve = d.base if isinstance(d, Counts) else d
    low, high = (
        (levels - (h := np.minimum(levels, 1 - levels) / 2), levels + h)
        if d.event_shape
        else (levels, levels + eps)
    )
    rise = (
        ((curve.quantile(high) - curve.quantile(low)) / torch.tensor(high - low) / 100)
        .mean(1)
        .double()
        .numpy()
        .reshape(-1)
    )
    np.testing.assert_allclose(
        price.units, rise, rtol=2e-2, atol=1e-6 if d.dtype == torch.float64 else 1e-2
    )
    assert (price.units >= 0).all()
    np.testing.assert_allclose(price.money, price.units * np.repeat([2.0, 5.0], 5))
    assert list(price) == ["unique_id", "level", "units", "money"]
    np.testing.assert_allclose(
        total_curve(price).units, price.units.to_numpy().reshape(2, 5).sum(0)
    )


def test_price_and_margin_meet_at_the_critical_ratio():
    """d cost / d level = (over level - under (1 - level)) q'(level).

    So cost falls before the ratio and rises after it.
    """
    d = dict(every())["spline"]
    under, over = 7.0, 2.0
    levels = np.arange(0.70, 0.86, 0.005)
    slope = d.slope(levels).numpy()
    stock = d.quantile(levels)
    cost = np.stack(
        [
            (
                (under + over) * shortage(d, stock[..., i])
                + over * (stock[..., i] - d.mean)
            ).numpy()
            for i in range(len(levels))
        ],
        -1,
    )
    middle = (levels[1:] + levels[:-1]) / 2
    want = (over * middle - under * (1 - middle)) * d.slope(middle).numpy()
    # no knot between the two levels
    inside = np.abs(slope[..., 1:] / slope[..., :-1] - 1) < 1e-9
    np.testing.assert_allclose(
        (np.diff(cost) / 0.005)[inside], want[inside], rtol=1e-3, atol=1e-2
    )
    assert inside.mean() > 0.8


@pytest.mark.parametrize("d", FAMILIES)
def test_a_stock_out_is_as_probable_as_draws_show(d):
    f = named(d)
    stock = d.quantile([0.8])[..., 0].double().numpy()
    assume = None if d.event_shape else "independent"
    ask = lambda f, stock: stockout_probability(f, stock, assume)
    out = ask(f, stock)
    assert list(out) == ["unique_id", "ds", "stock", "probability", "so_far"]
    assert out.ds.tolist() == [2, 3, 4] * 2
    np.testing.assert_allclose(
        out.probability,
        (1 - d.cdf(torch.tensor(stock).to(d.dtype))).double().numpy().reshape(-1),
        atol=1e-6,
    )
    so_far = out.so_far.to_numpy().reshape(2, 3)
    assert (np.diff(so_far) >= -1e-12).all()
    assert (so_far[:, 0] - out.probability.to_numpy().reshape(2, 3)[:, 0] < 0.03).all()
    if not d.event_shape:
        np.testing.assert_allclose(
            so_far[:, -1], 1 - np.prod(1 - out.probability.to_numpy().reshape(2, 3), 1)
        )
    x = d.sample((4000,))
    np.testing.assert_allclose(
        so_far[:, -1], (x.double().numpy() > stock).any(-1).mean(0), atol=0.04
    )
    assert (ask(f, [5.0, 6.0]).stock == [5.0] * 3 + [6.0] * 3).all()
    assert (ask(d, 1.0).ds == [1, 2, 3] * 2).all()
    assert (
        ask(f, pd.Series({"b": 2.0, "a": 1.0})).stock == [1.0] * 3 + [2.0] * 3
    ).all()


# ------------------------------------------------------------------ a stock that must
# last
def walk(n=6000, rho=0.5):
    z = rho**0.5 * draw(n, 2, 1, seed=3) + (1 - rho) ** 0.5 * draw(n, 2, 4, seed=4)
    return (100 + 20 * z) * torch.tensor([1.0, 2.0])[:, None]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: x.numpy(),
        Paths,
        lambda x: recalibrated(
            Paths(x), LevelMap(torch.tensor([0.5]), torch.tensor([0.5]))
        ),
    ],
)
def test_dependence_of_steps_costs_stock(wrap):
    x = wrap(walk())
    need = stock_for_joint_service(x, [0.5, 0.95], value=[1.0, 3.0])
    columns = "unique_id level lead_time units independent summed money".split()
    assert list(need) == columns
    assert (need.lead_time == 4).all()
    for i, scale in enumerate((1.0, 2.0)):
        half, top = need.iloc[2 * i], need.iloc[2 * i + 1]
        z = 1.644854 * 20 * scale
        assert half.units == pytest.approx(400 * scale, rel=0.01)
        assert top.units == pytest.approx(400 * scale + z * 10**0.5, rel=0.015)
        assert top.independent == pytest.approx(400 * scale + z * 2, rel=0.015)
        assert top.summed == pytest.approx(400 * scale + z * 4, rel=0.015)
        assert top.independent < top.units < top.summed
        assert top.money == pytest.approx(top.units * (1, 3)[i])
    kept = joint_service(x, need[need.level == 0.95].units.to_numpy())
    less = joint_service(x, need[need.level == 0.95].independent.to_numpy(), value=2.0)
    np.testing.assert_allclose(kept.service, 0.95, atol=2e-4)
    np.testing.assert_allclose(less.independent, 0.95, atol=2e-4)
    assert (less.service < 0.9).all()
    assert (less.short > kept.short).all()
    assert np.allclose(less.money, 2 * less.short)
    assert kept.money.isna().all()


@pytest.mark.parametrize("d", FAMILIES)
def test_every_distribution_answers_for_joint_service(d):
    f = named(d)
    assume = None if d.event_shape else "independent"
    need = stock_for_joint_service(f, [0.5, 0.9], lead_time=2, assume=assume)
    stock = need[need.level == 0.9].units.to_numpy()
    got = joint_service(f, stock, 2, assume=assume)
    assert (got.service >= 0.9 - 1e-6).all()
    assert (got.service < 0.92).all() or isinstance(d, Counts)
    assert (got.lead_time == 2).all() and list(got.unique_id) == ["a", "b"]
    if not d.event_shape:
        assert (got.service == got.independent).all()
    # one step needs no assumption, and is the forecast's own
    one = stock_for_joint_service(f, 0.9, lead_time=1)
    own = d.quantile([0.9])[:, 0, 0]
    for column in ("units", "independent", "summed"):
        np.testing.assert_allclose(one[column], own, rtol=1e-6)
    again = stock_for_joint_service(f, [0.5, 0.9], lead_time=2, assume=assume)
    pd.testing.assert_frame_equal(need, again)


@pytest.mark.parametrize("d", FAMILIES)
def test_single_steps_are_never_taken_together_without_a_word(d):
    if d.event_shape:
        return
    f = named(d)
    for ask in (
        lambda **how: joint_service(f, 50.0, **how),
        lambda **how: stock_for_joint_service(f, 0.9, **how),
        lambda **how: stockout_probability(f, 50.0, **how),
    ):
        with pytest.raises(ValueError, match="assume='independent'.*MQF2Forecaster"):
            ask()
        assert len(ask(assume="independent")) and len(ask(assume="comonotone"))
        with pytest.raises(ValueError, match="unknown assumption: yes"):
            ask(assume="yes")


@pytest.mark.parametrize("d", FAMILIES)
def test_a_stock_for_steps_that_move_together_is_the_sum_of_their_stocks(d):
    f = named(d)
    need = stock_for_joint_service(f, [0.5, 0.9], assume="comonotone")
    q = d.quantile([0.5, 0.9]).sum(1).reshape(-1).numpy()
    np.testing.assert_allclose(need.units, q, rtol=1e-5)
    assert need.units.equals(need.summed)
    so_far = stockout_probability(f, 40.0, "comonotone")
    by_item = so_far.groupby("unique_id").so_far
    assert (
        by_item.last().tolist()
        == so_far.groupby("unique_id").probability.max().tolist()
    )


def test_each_item_has_a_lead_time_of_its_own():
    need = stock_for_joint_service(walk(), 0.9, lead_time=[1, 4])
    assert need.lead_time.tolist() == [1, 4]
    for item, steps in enumerate((1, 4)):
        alone = stock_for_joint_service(walk(), 0.9, lead_time=steps)
        assert need.units[item] == pytest.approx(alone.units[item])


def test_weeks_that_remember_need_more_than_independent_ones_promise():
    """AR(1) demand, whose exact weekly law is known.

    95 % by independent weeks serves far less. The same weeks without an assumption are
    refused, and joint paths keep the promise.
    """
    ahead = np.arange(1, 9)
    decay = np.tril(0.9 ** (ahead[:, None] - ahead))
    covariance = 64.0 * decay @ decay.T
    truth = torch.distributions.Normal(800.0, covariance.sum() ** 0.5)
    spread = torch.tensor(covariance.diagonal() ** 0.5)
    weekly = QuantileGrid(U, (100 + spread[:, None] * torch.special.ndtri(U))[None])
    paths = Paths(100 + 8 * draw(20_000, 1, 8, seed=6) @ torch.tensor(decay).T)

    def served(forecast, assume=None):
        need = stock_for_joint_service(forecast, 0.95, assume=assume)
        return float(truth.cdf(torch.tensor(need.units[0])))

    with pytest.raises(ValueError, match="how they hang together"):
        served(weekly)
    assert served(weekly, "independent") < 0.8
    assert served(paths) == pytest.approx(0.95, abs=0.01)
    assert served(weekly, "comonotone") > 0.97
    promised = joint_service(paths, stock_for_joint_service(paths, 0.95).units)
    assert promised.service[0] == pytest.approx(0.95, abs=1e-3)
    assert promised.independent[0] > 0.99


def test_a_networks_weeks_are_not_added_up_in_silence():
    """MQ-CNN knows weeks one by one; AR(1) demand says what adding them up costs.

    From the true law of every week, 95 % by independent weeks serves 85 % or less, by
    weeks all high or all low together 95 % or more.
    """
    panel = Panel.from_frame(frame()[["unique_id", "ds", "y"]], freq="W-SUN")
    network = MQCNN(8, steps=2, batch=4, training=QUIET).fit(panel).predict()
    level = np.full(len(panel), 100.0)
    law = Remembering("ar1", 100.0, None, rho=0.9, width=0.08)
    past = law.draw(level, 30)
    weekly = Forecast(panel, law.ahead(level, past, 8), "truth")
    for f in (network, weekly):
        for ask in (f.total, lambda f=f: stock_for_joint_service(f, 0.95)):
            with pytest.raises(ValueError, match="assume=.*MQF2Forecaster"):
                ask()
    decay = np.tril(0.9 ** (np.arange(8)[:, None] - np.arange(8)))
    spread = 8 * np.sqrt((decay @ decay.T).sum())
    truth = Known("normal", loc=weekly.mean().sum(1).numpy(), scale=spread)

    def served(assume):
        need = stock_for_joint_service(weekly, 0.95, assume=assume)
        return truth.cdf(need.units.to_numpy())

    assert (served("independent") < 0.85).all()
    assert (served("comonotone") > 0.95).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda f: newsvendor(f, 0, 1),
            (
                "a unit short must cost something: `under` is not positive for: i0, i1."
                " Free shortages"
            ),
        ),
        (
            lambda f: newsvendor(f, 1, [1, -2]),
            "a unit left over must cost something: `over` is not positive for: i1",
        ),
        (
            lambda f: newsvendor(f, [1, 2, 3], 1),
            "under must be one number, or one for each of the 2 series",
        ),
        (lambda f: newsvendor(f, "9", "x"), "over must be one number"),
        (lambda f: price_of_service(f, [95]), "For 95 % write 0.95"),
        (lambda f: price_of_service(f, [0.9], [1, -1]), "worth less than nothing: i1"),
        (
            lambda f: stockout_probability(f, [1.0, np.nan]),
            "stock must be a number, not negative; it is not for: i1",
        ),
        (
            lambda f: stockout_probability(f, [[1.0, 2.0]]),
            r"or of shape \(2, 3\); got \(1, 2\)",
        ),
        (
            lambda f: joint_service(f, 5, 4),
            (
                "whole number of steps from 1 to the horizon 3, or one for each of 2"
                " series, got 4. Forecast further ahead"
            ),
        ),
        (lambda f: joint_service(f, 5, 0), "got 0"),
        (lambda f: joint_service(f, 5, 1.5), "got 1.5"),
        (
            lambda f: joint_service(f, 5, value=[1, -1], assume="independent"),
            "worth less than nothing: i1",
        ),
        (
            lambda f: stock_for_joint_service(f, value=np.inf, assume="independent"),
            "worth infinitely much: i0, i1",
        ),
        (
            lambda f: joint_service(f, -5, assume="independent"),
            "not negative; it is not for: i0, i1",
        ),
        (
            lambda f: joint_service(f, [1, 2, 3], assume="independent"),
            "one for each of 2 series",
        ),
        (lambda f: stock_for_joint_service(f, 95), "For 95 % write 0.95"),
        (
            lambda f: stock_for_joint_service(f, 0.9999, assume="independent"),
            "4,096 paths cannot tell: 0.9999. Draw more paths",
        ),
        (
            lambda f: joint_service(QuantileGrid(U, U), 5),
            r"shape \(series, horizon\), got \(\)",
        ),
        (
            lambda f: newsvendor(QuantileGrid(U, U.expand(2, 2, 2, -1)), 1, 1),
            "expected forecasts of shape",
        ),
    ],
)
def test_questions_that_cannot_be_answered_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(uniform(100.0, 50.0))


# ------------------------------------------------------------------ shortage: heavy
# tails, draws, levels that were moved
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("xi", [0.0, 0.3, 0.5, 0.7, 0.9])
def test_no_part_of_a_heavy_tail_is_cut_off(xi, kind):
    """The shortage of a Pareto tail is known in closed form, in units of 1 and 1,000.

    Beyond 90 % demand is 20 + 4 ((p/.1)^-xi - 1)/xi, so E(D - 20)+ = .1*4/(1 - xi), and
    further out a known share of it.
    """
    for unit in (1.0, 1000.0):
        d = SplineQuantile(
            [0.1, 0.5, 0.9],
            unit * torch.tensor([5.0, 10.0, 20.0], dtype=kind),
            1.0 * unit,
            4.0 * unit,
            right_shape=xi,
            support="nonnegative",
        )
        further = (1 + xi * 10) ** (-1 / xi) if xi else np.exp(-10.0)
        digits = 1e-5 if kind == torch.float32 else 1e-9
        want = {
            20.0: 0.4 / (1 - xi),
            60.0: 0.4 / (1 - xi) * further ** (1 - xi),
            10.0: 0.4 / (1 - xi) + 0.4 * 10 / 2 + 0.1 * 10,
        }
        same = recalibrated(
            d, LevelMap(torch.tensor([0.25, 0.95]), torch.tensor([0.25, 0.95]))
        )
        moved = recalibrated(
            d, LevelMap(torch.tensor([0.5, 0.95]), torch.tensor([0.5, 0.9]))
        )
        for stock, short in want.items():
            for x in (d, same):
                assert shortage(x, stock * unit).item() == pytest.approx(
                    unit * short, rel=digits
                )
        # 5 % of the levels are the top 10 %
        assert same.mean.item() == pytest.approx(d.mean.item(), rel=digits)
        assert shortage(moved, 20 * unit).item() == pytest.approx(
            unit * 0.2 / (1 - xi), rel=10 * digits
        )
        best = newsvendor(d, 9, 1).iloc[0]
        assert best.short == pytest.approx(unit * 0.4 / (1 - xi), rel=digits)
        assert best.left == pytest.approx(
            best.quantity - d.mean.item() + best.short, rel=10 * digits
        )


def test_counts_of_a_heavy_tail_are_summed_to_its_end():
    d = Counts(
        SplineQuantile(
            [0.3, 0.6, 0.9],
            torch.tensor([0.0, 0.4, 1.2]).double(),
            None,
            1.0,
            None,
            0.6,
            support="nonnegative",
        )
    )
    k = torch.arange(200_000).double()
    beyond = d.base.excess(200_000.0).item()
    tail = (1 - d.cdf(k)).flip(0).cumsum(0).flip(0) + beyond
    for c in (0.0, 1.0, 2.0, 40.0):
        assert shortage(d, c).item() == pytest.approx(tail[int(c)].item(), rel=1e-5)
    assert d.mean.item() == pytest.approx(tail[0].item(), rel=1e-5)
    assert shortage(d, -3.0).item() == pytest.approx(3 + tail[0].item(), rel=1e-5)


@pytest.mark.parametrize("d", FAMILIES)
def test_shortage_falls_by_the_chance_to_run_out(d):
    """dE/ds = F(s) - 1 everywhere, also under the first quantile and past the last;
    many stocks at once.
    """
    q = d.quantile([0.003, 0.1, 0.5, 0.8, 0.93, 0.99]).double().movedim(-1, 0)
    step = 1e-5 * q.mean() if d.dtype == torch.float64 else 1e-3 * q.mean()
    if isinstance(d, Counts):
        q, step = q + 0.3, 0.01
    at, up = shortage_many(d, q), shortage_many(d, q + step)
    np.testing.assert_allclose(
        (up - at) / step,
        (d.cdf(q.to(d.dtype)) - 1).double(),
        atol=2e-2 if d.dtype == torch.float32 else 1e-3,
    )


def shortage_many(d, stock):
    return d.excess(stock.to(d.dtype)).double()


def drawn(n=400, wrap=lambda d: d):
    return wrap(
        Paths(
            (20 + 4 * (draw(n, 3, 1) + 0.5 * draw(n, 3, 5, seed=1)))
            .round()
            .clamp(min=0),
            "nonnegative",
        )
    )


HALF = LevelMap(torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.1, 0.5, 0.95]))
WRAPS = [
    lambda d: d,
    Counts,
    lambda d: recalibrated(d, HALF),
    lambda d: Counts(recalibrated(d, HALF)),
    lambda d: recalibrated(recalibrated(d, HALF), HALF),
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_draws_are_found_under_every_wrapper_and_each_is_used_once(wrap):
    d = drawn(wrap=wrap)
    assert d.draws.shape == (400, 3, 5)
    x = np.sort(d.draws.double().sum(-1).numpy(), 0)
    need = stock_for_joint_service(d, [0.5, 0.9]).units.to_numpy().reshape(3, 2).T
    # between the draws of the two ranks around each level
    assert (need >= x[[199, 359]] - 1e-3).all() and (need <= x[[200, 360]] + 0.5).all()
    served = joint_service(d, 90.0).service
    np.testing.assert_allclose(served, (x <= 90.0).mean(0), atol=2 / 400)
    for ask in (
        lambda: stock_for_joint_service(d, 0.999),
        lambda: newsvendor(d, 999.0, 1.0),
        lambda: price_of_service(named3(d), [0.999]),
        lambda: stock_curve(named3(d), [0.9, 0.999]),
        lambda: saving(named3(d), 0.999, 0.9),
    ):
        with pytest.raises(
            ValueError, match="400 paths cannot tell: 0.999.*. Draw more paths"
        ):
            ask()


def named3(d):
    return Forecast(
        Panel.from_frame(
            pd.DataFrame({"unique_id": ["a", "b", "c"], "ds": 0, "y": 1.0}), freq=1
        ),
        d,
        "m",
    )


@pytest.mark.parametrize("wrap", WRAPS)
def test_so_far_begins_with_the_probability_and_never_falls_below_it(wrap):
    d = drawn(wrap=wrap)
    for stock in (17.0, 21.0, 24.5, 0.0, 60.0):
        out = stockout_probability(d, stock)
        p, so_far = (out[c].to_numpy().reshape(3, 5) for c in ("probability", "so_far"))
        np.testing.assert_allclose(so_far[:, 0], p[:, 0], atol=1e-12)
        assert (so_far >= p - 1e-9).all()
        assert (so_far <= 1 - np.cumprod(1 - p, 1) + 1e-9).all()
        assert (np.diff(so_far) >= 0).all()
    ever = (d.draws > 21.0).any(-1).double().mean(0).numpy()
    np.testing.assert_allclose(
        stockout_probability(d, 21.0).so_far.to_numpy().reshape(3, 5)[:, -1],
        ever,
        atol=0.02,
    )


@pytest.mark.parametrize("wrap", WRAPS[:4])
def test_the_price_of_a_point_of_draws_is_no_noise(wrap):
    """200 draws of a normal demand in whole units price a point nearly as the law does.

    The mean is over 60 series and 8 steps, at every level.
    """
    mean = 30.0
    law = torch.distributions.Normal(torch.tensor(mean).double(), mean**0.5)
    g = torch.Generator().manual_seed(0)
    d = wrap(
        Paths(
            (
                mean
                + mean**0.5 * torch.randn(200, 60, 8, generator=g, dtype=torch.float64)
            ).round(),
            "nonnegative",
        )
    )
    levels = np.array([0.8, 0.9, 0.95, 0.98])
    f = Forecast(
        Panel.from_frame(
            pd.DataFrame(
                {"unique_id": [f"i{k:02}" for k in range(60)], "ds": 0, "y": 1.0}
            ),
            freq=1,
        ),
        d,
        "m",
    )
    price = price_of_service(f, levels).groupby("level").units.mean().to_numpy()
    u = torch.tensor(levels)
    h = (1 - u) / 2
    M = HALF if "Recalibrated" in repr(d) else lambda u: u
    np.testing.assert_allclose(
        price,
        ((law.icdf(M(u + h)) - law.icdf(M(u - h))) / (2 * h) / 100).numpy(),
        rtol=0.1,
    )
    assert (np.diff(price) > 0).all()


def test_families_without_draws_keep_their_own_slope():
    d = dict(every())["spline"]
    assert d.draws is None
    assert np.allclose(
        price_of_service(named(d), [0.83]).units,
        d.slope([0.83]).mean(1)[:, 0].numpy() / 100,
    )
