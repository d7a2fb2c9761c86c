"""What a loss counts: lower bounds where stock ran out, weights of rows and steps."""

import dataclasses
import functools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from forecastlab.core.basics import LabError
from forecastlab.core.datasets import read_panel
from forecastlab.core.forecaster import load_model
from forecastlab.core.panel import Panel
from forecastlab.core.targets import cut_off, level_at, pull_beyond
from forecastlab.core.windows import Windows
from forecastlab.demand.linear import PooledLinear
from forecastlab.demand.mq import MQCNN, MQDense, MQRNN
from forecastlab.demand.seasonal_profile import SeasonalProfile
from forecastlab.demand.textbook import EmpiricalQuantiles
from forecastlab.quantile.mqf2 import MQF2Forecaster
from forecastlab.quantile.recurrent import RecurrentForecaster
from toys import QUIET, sold_out

torch.set_num_threads(1)
SMALL = dict(context=6, steps=2, batch=8, training=QUIET)
LONGER = dict(context=6, steps=250, batch=16, training=QUIET | dict(lr=1e-2))

# --- simulated stock-outs, whose truth is known


def shop(n=40, rows=60):
    "Gamma demand of mean 10, and stock that runs out two weeks in five."
    rng = np.random.default_rng(0)
    demand, stock = rng.gamma(2, 5, n * rows), rng.uniform(2, 25, n * rows)
    return pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(n)], rows),
            "ds": np.tile(np.arange(rows), n),
            "y": np.minimum(demand, stock),
            "in_stock": (demand < stock).astype(int),
        }
    )


WAYS = dict(
    demand=dict(),
    missing=dict(available="in_stock"),
    censored=dict(available="in_stock", censored=True),
)
LEVELS = [0.5, 0.8, 0.9]
DREAMED = dict(hidden=8, draws=200, least=3)
FAMILIES = {
    "grid": lambda: MQDense(2, forks=3, **LONGER),
    "isqf": lambda: MQDense(2, forks=3, head="isqf", **LONGER),
    "sqf": lambda: RecurrentForecaster(2, **DREAMED, **LONGER),
    "student": lambda: RecurrentForecaster(2, head="student", **DREAMED, **LONGER),
    "paths": lambda: MQF2Forecaster(2, forks=3, draws=20, **LONGER),
}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_quantiles_learned_with_bounds_are_nearest_to_demand(name):
    truth = stats.gamma.ppf(LEVELS, 2, scale=5)
    off = {}
    for way, how in WAYS.items():
        panel = Panel.from_frame(shop(), freq=1, **how)
        found = FAMILIES[name]().fit(panel).predict().quantile(LEVELS)
        off[way] = float(abs(found.mean((0, 1)).numpy() - truth).mean())
    assert off["censored"] < 0.6 * min(off["demand"], off["missing"])


# --- what bounds are, and what they are not


def stocked(recorded=3.0, **how):
    "Two series; the first is sold out at rows 2 and 5."
    df = pd.DataFrame(
        {
            "unique_id": ["a"] * 7 + ["b"] * 5,
            "ds": [*range(7), *range(2, 7)],
            "y": [4.0, 5, recorded, 6, 7, recorded, 5, 9, 8, 7, 9, 8],
            "stock": [1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1],
        }
    )
    return Panel.from_frame(df, freq=1, available="stock", **how)


def test_a_bound_is_kept_beside_a_target_that_is_not_observed(tmp_path):
    panel, plainly = stocked(censored=True), stocked()
    np.testing.assert_array_equal(panel.y, plainly.y)
    assert np.flatnonzero(panel.censored).tolist() == [2, 5]
    assert panel.at_least[2] == 3 and plainly.at_least is None
    assert not plainly.censored.any()
    assert "sold out: 2 rows with a lower bound" in repr(panel)
    assert panel.select("a").censored.sum() == 2 and not panel.take(1).censored.any()
    assert panel.cut(4).censored.tolist() == [i == 2 for i in range(12)]
    assert panel.to_frame().at_least.notna().sum() == 2
    assert "at_least" not in plainly.to_frame()
    panel.save(tmp_path / "p")
    np.testing.assert_array_equal(Panel.load(tmp_path / "p").at_least, panel.at_least)
    plainly.save(tmp_path / "q")
    assert Panel.load(tmp_path / "q").at_least is None


def test_files_and_new_rows_bring_bounds(tmp_path):
    df = shop(3, 20)
    how = dict(freq=1, available="in_stock", censored=True)
    want = Panel.from_frame(df, **how)
    df.to_parquet(tmp_path / "f.parquet")
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        found = Panel.from_parquet(tmp_path / "f.parquet", cache, **how)
        np.testing.assert_array_equal(found.at_least, want.at_least)
    for source in (df, tmp_path / "f.parquet"):
        found = read_panel(source, **how)
        np.testing.assert_array_equal(found.at_least, want.at_least)
    with pytest.raises(LabError, match="other files or settings"):
        Panel.from_parquet(tmp_path / "f.parquet", tmp_path / "cache", freq=1)
    old, new = (Panel.from_frame(df[part], **how) for part in (df.ds < 15, df.ds >= 15))
    np.testing.assert_array_equal(old.extend(new).at_least, want.at_least)
    bare = dataclasses.replace(old, at_least=None).extend(new)
    assert bare.censored.sum() == new.censored.sum()


def test_what_cannot_be_a_bound_is_refused_or_says_nothing():
    assert not stocked(np.nan, censored=True).censored.any()
    with pytest.raises(LabError, match="sold-out rows are infinite: a at 2"):
        stocked(np.inf, censored=True)
    # without `censored` any number may stand there
    stocked(np.inf)
    with pytest.raises(LabError, match="censored needs an `available` column"):
        Panel.from_frame(shop(), freq=1, censored=True)
    with pytest.raises(LabError, match="censored must be"):
        stocked(censored="yes")


def test_a_bound_changes_no_input():
    "Whatever was sold until stock ran out: only losses see it."
    for first in (3.0, 1e6):
        panel = stocked(first, censored=True)
        batch = Windows(panel, 4, 2).read(torch.tensor([0]), torch.tensor([5]))
        assert batch.y.tolist() == [[5, 0, 6, 7, 0, 5]]
        assert batch.observed.tolist() == [[1, 0, 1, 1, 0, 1]]
        assert batch.bound.tolist() == [[0, first, 0, 0, first, 0]]
        assert batch.counts.tolist() == [[1] * 6]
    # beyond what is known there is none, whatever the panel remembers
    short = dataclasses.replace(panel, length=np.array([5, 5]))
    late = Windows(short, 4, 2).read(torch.tensor([0]), torch.tensor([5]))
    assert late.counts.tolist() == [[1, 1, 1, 1, 0, 0]]
    hidden = batch.seen_where(torch.arange(6) < 4)
    assert hidden.counts.tolist() == [[1] * 4 + [0, 0]]
    assert hidden.target[0, 4:].tolist() == [0, 0]
    assert batch.part(slice(0, 0)).bound.shape == (0, 6)


def test_a_panel_of_messy_stock_outs_is_trained_on():
    "Series sold out from the second row on, at the end, in the middle."
    panel = sold_out(2.0)
    bounds = np.where(np.isnan(panel.y), np.float32(2), np.float32(np.nan))
    panel = dataclasses.replace(panel, at_least=bounds)
    with warnings.catch_warnings(action="ignore"):
        for make in (MQCNN, MQRNN, RecurrentForecaster, MQF2Forecaster):
            model = make(2, **SMALL).fit(panel)
            found = model.predict(panel=panel.select(panel.ids[1:])).quantile(
                [0.1, 0.9]
            )
            assert found.isfinite().all()
            assert np.isfinite(model.fitted[-1].losses).all()


def test_who_does_not_count_bounds_says_so():
    panel = stocked(censored=True)
    said = "does not count lower bounds: 2 rows where stock ran out"
    few = dict(context=3, forks=2, least=1)
    for model in (EmpiricalQuantiles(2), PooledLinear(2, **few)):
        assert not model.censors
        with pytest.warns(UserWarning, match=said):
            model.fit(panel).predict()
    density = MQF2Forecaster(
        2, loss="likelihood", steps=1, batch=4, training=QUIET, **few
    )
    assert not density.censors and MQF2Forecaster(2).censors and MQCNN(2).censors
    with pytest.warns(UserWarning, match=f"MQF2 {said}"):
        density.fit(panel)
    with warnings.catch_warnings(action="error"):
        MQDense(2, steps=1, batch=4, training=QUIET, **few).fit(panel).predict()
        EmpiricalQuantiles(2).fit(stocked()).predict()


def test_the_pull_beyond_a_bound_is_kaplan_and_meiers():
    "Quantiles at which the pulls of all rows cancel are those of their estimate."
    y = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10])[:, None]
    censored = torch.tensor([0.0, 0, 1, 0, 1, 0, 0, 1, 0, 0])[:, None]
    survival, expected = 1.0, []
    for k, gone in enumerate(censored[:, 0].tolist()):
        survival *= 1 if gone else 1 - 1 / (10 - k)
        expected.append(1 - survival)
    # a quantile function that jumps where the estimate does, finely resolved
    levels = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    jumps = torch.tensor(expected, dtype=torch.float64)
    at = torch.searchsorted(jumps, levels).clamp(max=9)
    q = y[at, 0].double().expand(10, -1).clone().requires_grad_()
    below = (torch.tensor([0.0, *expected[:-1]]).double())[:, None]
    pull = pull_beyond(levels, below)
    forecast = cut_off(q, y.double(), censored, pull)
    error = y - forecast
    torch.maximum(levels * error, (levels - 1) * error).sum().backward()
    # subgradients: within what the row that is met may give
    assert (q.grad.sum(0).abs() <= 1.0001).all()
    plainly = torch.maximum(
        levels * (y - cut_off(q, y.double(), censored)),
        (levels - 1) * (y - cut_off(q, y.double(), censored)),
    )
    (bare,) = torch.autograd.grad(plainly.sum(), q)
    assert (bare.sum(0)[levels > 0.6] > 1.0001).any()


def test_levels_of_bounds_are_read_between_quantiles():
    levels = torch.tensor([0.2, 0.5, 0.8])
    q = torch.tensor([[1.0, 2, 4], [3, 3, 3]], requires_grad=True)
    found = level_at(levels, q, torch.tensor([[3.0], [9.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.65], [0.8]]))
    assert not found.requires_grad
    # a single level, and a bound below all of them
    assert (
        level_at(levels[:1], q[:, :1], torch.tensor([[0.0], [0.0]])).tolist()
        == [[pytest.approx(0.1)]] * 2
    )


@pytest.mark.parametrize("name", ["cnn", "sqf"])
def test_a_forecast_beyond_a_bound_costs_nothing_and_one_below_what_is_missing(name):
    model = trained(name)
    bare, loss = loss_of(model, [1, 2], [20, 20])
    time = bare.y.shape[1]
    last = (torch.arange(time) == time - 1).float().expand(2, -1)
    hidden = bare.seen_where(last[0] == 0)

    def bounded(z):
        return dataclasses.replace(hidden, bound=z * last, censored=last)

    without, mass = loss(hidden)
    low, counted = loss(bounded(-10.0))
    torch.testing.assert_close(low, without, atol=1e-3, rtol=1e-5)
    assert counted > mass
    high = [float(loss(bounded(z))[0] - without) for z in (1e3, 2e3)]
    assert 0 < high[0] < high[1]
    if name == "cnn":
        found, loc, scale = model.networks[0](hidden)
        q, tau = found["values"][:, 0, -1].detach(), torch.tensor(model.settings.levels)
        z = (1e3 - loc) / scale
        own = (scale / model.recipe.typical) ** model.settings.weight
        want = (tau * (z - q) * own).sum()
        assert high[0] == pytest.approx(float(want), rel=1e-4)


# --- weights

WEIGHED = {
    "grid": lambda **how: MQDense(2, forks=2, **SMALL, **how),
    "isqf": lambda **how: MQDense(2, forks=2, head="isqf", **SMALL, **how),
    "cnn": lambda **how: MQCNN(2, forks=1, **SMALL, **how),
    "sqf": lambda **how: RecurrentForecaster(2, least=2, **SMALL, **how),
    "density": lambda **how: MQF2Forecaster(
        2, forks=2, loss="likelihood", **SMALL, **how
    ),
}
every_loss = pytest.mark.parametrize("name", list(WEIGHED))


@functools.cache
def goods():
    df = shop(4, 24).assign(matters=lambda d: 1.0 + d.ds % 3)
    return Panel.from_frame(df, freq=1, past=["matters"])


@functools.cache
def trained(name):
    with warnings.catch_warnings(action="ignore"):
        return WEIGHED[name]().fit(goods())


def loss_of(model, series, known, **how):
    "Sum of losses and sum of weights of some windows."
    windows = Windows(
        model.recipe.apply(goods()),
        model.settings.rows,
        model.settings.horizon,
        1,
        "cpu",
        model.recipe.cycles,
        **how,
    )
    batch = windows.read(torch.tensor(series), torch.tensor(known))
    network = model.networks[0].eval()
    return batch, lambda b: torch.stack(
        type(model).loss(network, b, model.settings, model.recipe)
    ).detach()


@every_loss
def test_a_weight_of_two_is_the_series_twice_and_none_is_none(name):
    model = trained(name)
    twice, loss = loss_of(model, [0, 0, 1], [15, 15, 18])
    weights = np.array([2.0, 1, 0, 1], np.float32)
    once, _ = loss_of(model, [0, 1, 2], [15, 18, 16], weights=weights)
    torch.testing.assert_close(loss(once), loss(twice), rtol=1e-5, atol=1e-5)


@every_loss
def test_weights_of_rows_go_with_the_rows(name):
    "All alike are none; a row of weight 0 is one that was not observed."
    model = trained(name)
    bare, loss = loss_of(model, [1, 2], [20, 20])
    alike, _ = loss_of(model, [1, 2], [20, 20], weights=np.full(96, 3, np.float32))
    torch.testing.assert_close(loss(alike), 3 * loss(bare), rtol=1e-5, atol=1e-4)
    if name == "density":
        return  # a density is one of whole paths
    # the last row is nobody's input
    weights = np.ones(96, np.float32)
    weights[[24 + 21, 48 + 21]] = 0
    without, _ = loss_of(model, [1, 2], [20, 20], weights=weights)
    time = bare.y.shape[1]
    hidden = bare.seen_where(torch.arange(time) < time - 1)
    torch.testing.assert_close(loss(without), loss(hidden), rtol=1e-5, atol=1e-5)


def test_weights_of_steps_go_with_the_distance():
    model = trained("cnn")
    bare, loss = loss_of(model, [1, 2], [20, 20])
    steps, _ = loss_of(model, [1, 2], [20, 20], step_weights=torch.tensor([1.0, 0]))
    time = bare.y.shape[1]
    hidden = bare.seen_where(torch.arange(time) < time - 1)
    torch.testing.assert_close(loss(steps), loss(hidden), rtol=1e-5, atol=1e-5)


def test_what_matters_more_is_learned_better():
    "Rows near two and rows near nine at random: the forecast goes where weight is."
    rng = np.random.default_rng(0)
    large = rng.random(240) < 0.5
    df = pd.DataFrame(
        {
            "unique_id": np.repeat([*"abcdefgh"], 30),
            "ds": np.tile(np.arange(30), 8),
            "y": np.where(large, 9.0, 2.0) + rng.normal(0, 0.1, 240),
        }
    )
    panel = Panel.from_frame(df, freq=1)
    asked = dict(context=6, steps=100, batch=16, training=QUIET | dict(lr=2e-2))
    middle = []
    for weights in (~large, large):
        model = MQDense(2, forks=2, sample_weights=weights, **asked).fit(panel)
        middle.append(float(model.predict().quantile([0.5]).mean()))
    assert middle[0] < 4 and middle[1] > 7


def test_weights_are_saved_and_asked_again(tmp_path):
    panel = goods()
    named = MQDense(2, sample_weights="matters", step_weights=[1, 0.5], **SMALL)
    named.fit(panel).save(tmp_path / "named")
    again = load_model(tmp_path / "named")
    assert (again.sample_weights, again.step_weights) == ("matters", [1.0, 0.5])
    assert "step_weights=[1.0, 0.5], sample_weights='matters'" in repr(again)
    q = lambda model: model.predict(panel=panel).quantile([0.1, 0.9])
    assert q(again.fit(panel)).equal(q(named))
    plainly = MQDense(2, **SMALL).fit(panel)
    assert not q(plainly).equal(q(named))
    given = MQDense(2, sample_weights=np.arange(4.0), **SMALL).fit(panel)
    given.save(tmp_path / "given")
    kept = load_model(tmp_path / "given")
    np.testing.assert_array_equal(kept.sample_weights, np.arange(4.0))
    assert q(kept.fit(panel)).equal(q(given)) and q(kept).equal(q(given))


def test_training_that_looks_at_held_out_rows_weighs_them(tmp_path):
    held = SMALL | dict(training=QUIET | dict(validate_every=1), forks=2)
    one = MQDense(2, **held, checkpoint=tmp_path).fit(goods())
    steps = MQDense(2, step_weights=[0, 1], **held, checkpoint=tmp_path).fit(goods())
    assert np.isfinite(steps.fitted[0].scores).all()
    # another loss, another checkpoint
    assert one.fitted[0].scores != steps.fitted[0].scores
    bounds = Panel.from_frame(shop(4, 24), freq=1, **WAYS["censored"])
    scores = MQDense(2, **held).fit(bounds).fitted[0].scores
    assert np.isfinite(scores).all()


def test_weights_that_cannot_be_are_refused_in_words():
    panel = goods()

    def refused(kind, message, call):
        with pytest.raises(kind, match=message) as e:
            call()
        assert isinstance(e.value, LabError)

    made = lambda **how: MQDense(2, **SMALL, **how)
    refused(ValueError, "3 numbers for 2 steps", lambda: made(step_weights=[1, 1, 1]))
    refused(ValueError, "at least 0: -1.0", lambda: made(step_weights=[1, -1]))
    refused(ValueError, "at least 0: nan", lambda: made(step_weights=[1, np.nan]))
    refused(ValueError, "0 everywhere", lambda: made(step_weights=[0, 0]))
    refused(TypeError, "one a step", lambda: made(step_weights=3))
    refused(TypeError, "one a step", lambda: made(step_weights="ab"))
    fit = lambda weights: made(sample_weights=weights).fit(panel)
    refused(ValueError, "is called: price", lambda: fit("price"))
    refused(ValueError, r"have shape \(3,\)", lambda: fit([1.0, 2, 3]))
    refused(ValueError, "at least 0: -1.0", lambda: fit([1.0, 2, 3, -1]))
    refused(ValueError, "0 everywhere", lambda: fit(np.zeros(96)))
    refused(TypeError, "a column's name or numbers", lambda: fit(["a", "b", "c", "d"]))
    words = dataclasses.replace(panel, static=dict(kind=np.ones(4, np.int32)))
    words.categories["kind"] = ["<unknown>", "mug"]
    refused(
        ValueError,
        "a column of text: kind",
        lambda: made(sample_weights="kind").fit(words),
    )
    horizon = made(step_weights=[1, 2])
    horizon.horizon = 3
    refused(ValueError, "2 numbers for 3 steps", lambda: horizon.fit(panel))
    for make, asked in (
        (PooledLinear, "sample_weights"),
        (PooledLinear, "step_weights"),
        (RecurrentForecaster, "step_weights"),
        (MQF2Forecaster, "step_weights"),
    ):
        refused(
            ValueError,
            f"loss of {make.__name__} cannot count: {asked}",
            lambda: make(2, **{asked: [1, 2]}),
        )


def test_a_profile_is_taken_out_of_bounds_as_well():
    "Wrapped around a network, that reads a panel in which seasons are divided out."
    n, rows = 6, 120
    rng = np.random.default_rng(0)
    season = 1 + 0.9 * np.sin(2 * np.pi * np.arange(rows) / 7)
    demand = rng.poisson(30 * season, (n, rows)).astype(float)
    df = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(n)], rows),
            "ds": np.tile(pd.date_range("2024-01-01", periods=rows), n),
            "y": np.minimum(demand, 40).ravel(),
            "in_stock": (demand < 40).astype(int).ravel(),
        }
    )
    panel = Panel.from_frame(df, freq="D", **WAYS["censored"])
    inner = MQDense(2, context=14, steps=2, batch=8, training=QUIET)
    with pytest.warns(UserWarning, match="does not count lower bounds"):
        found = SeasonalProfile(inner).fit(panel).predict()
    assert found.quantile([0.1, 0.9]).isfinite().all()
