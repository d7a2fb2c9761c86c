"Distribution Engine: known errors come back as quantiles, and what cannot be is said."

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from forecastlab import DistributionEngine, LabError, Panel, load_model
from forecastlab.core.backtest import backtest, plant
from forecastlab.core.distributions import QuantileFunction, QuantileGrid
from forecastlab.core.forecast import Forecast
from forecastlab.core.forecaster import Forecaster
from forecastlab.core.metrics import mean_wql, share_below
from forecastlab.demand.router import Router
from forecastlab.demand.textbook import EmpiricalQuantiles, SeasonalNaive

LEVELS = [0.1, 0.25, 0.5, 0.75, 0.9]
DECILES = np.arange(1, 10) / 10


class Middle(Forecaster):
    "The median of each history, without any spread."

    name, local, horizon = "Middle", True, 4

    def fit(self, panel):
        self.panel = panel
        return self

    def points(self, panel, h):
        middle = [np.nanmedian(panel.history(s)) for s in range(len(panel))]
        return torch.tensor(np.array(middle))[:, None].expand(-1, h).float()

    def _predict(self, panel, h, seed):
        grid = QuantileGrid([0.5], self.points(panel, h)[..., None], "flat")
        return Forecast(panel, grid, self.name)

    @property
    def _ready(self):
        return True

    def _state(self):
        return {}, {}

    @classmethod
    def _restore(cls, note, tensors):
        return cls()


class Lost(QuantileFunction):
    "A law that forgot its numbers for the first series."

    def __init__(self, shape):
        super().__init__(torch.Size(shape), validate_args=False)
        self.values = torch.ones(shape)
        self.values[0] = torch.nan

    dtype, device = torch.float32, torch.device("cpu")

    def quantile(self, levels):
        return self.values[..., None].expand(*self.shape, len(levels))

    @property
    def mean(self):
        return self.values


class Broken(Middle):
    name = "Broken"

    def _predict(self, panel, h, seed):
        return Forecast(panel, Lost((len(panel), h)), self.name)


def panel_of(y, freq="W-SUN"):
    "Series of equal length, named s000, s001, ..."
    dates = pd.date_range("2020-01-05", periods=y.shape[1], freq=freq)
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i:03}" for i in range(len(y))], y.shape[1]),
            "ds": np.tile(dates, len(y)),
            "y": y.ravel(),
        }
    )
    return Panel.from_frame(frame, freq=freq)


def world(kind, series=60, rows=120, seed=1):
    "iid sales around rates of their own: the panel, and (series,) rates."
    rng = np.random.default_rng(seed)
    rates = rng.uniform(4, 40, series)
    shape = series, rows
    if kind == "lognormal":
        y = rates[:, None] * rng.lognormal(0, 0.5, shape)
    else:
        y = rng.negative_binomial(rates[:, None] / 2, 1 / 3, shape).astype(float)
    return panel_of(y), rates


@pytest.fixture(scope="module")
def fitted():
    panel, rates = world("lognormal")
    return DistributionEngine(Middle()).fit(panel), panel, rates


def covered(past, name):
    below = share_below(past.pit(name), [0.1, 0.9])
    return float(np.nanmean(below[..., 1] - below[..., 0]))


def test_lognormal_errors_come_back_as_their_quantiles(fitted):
    engine, _, rates = fitted
    told = engine.predict().quantile(LEVELS).numpy() / rates[:, None, None]
    truth = stats.lognorm.ppf(LEVELS, 0.5)
    assert truth[-1] == pytest.approx(1.897953, abs=1e-5)
    np.testing.assert_allclose(told.mean((0, 1)), truth, rtol=0.06)


def test_negative_binomial_errors_come_back_as_their_quantiles():
    panel, rates = world("counts")
    told = DistributionEngine(Middle()).fit(panel).predict().quantile(LEVELS).numpy()
    assert (told == told.round()).all()
    truth = stats.nbinom.ppf(LEVELS, rates[:, None] / 2, 1 / 3)
    np.testing.assert_allclose(told.mean((0, 1)), truth.mean(0), rtol=0.06)


@pytest.mark.parametrize("kind", ["lognormal", "counts"])
def test_the_pit_is_uniform_on_later_origins(kind):
    panel, _ = world(kind, rows=140)
    past = backtest(DistributionEngine(Middle()), panel, origins=4, progress=False)
    (name,) = past.models
    below = np.nanmean(share_below(past.pit(name), DECILES), (0, 1, 2))
    np.testing.assert_allclose(below, DECILES, atol=0.035)
    assert 0.77 <= covered(past, name) <= 0.83


def test_levels_never_cross(fitted):
    q = fitted[0].predict().quantile(np.linspace(0.005, 0.995, 199))
    assert (q.diff(dim=-1) >= 0).all()


def test_other_units_give_the_same_forecast_in_them(fitted):
    engine, panel, _ = fitted
    times = DistributionEngine(Middle()).fit(replace(panel, y=panel.y * 8))
    told, q = (x.predict().quantile(LEVELS) for x in (times, engine))
    torch.testing.assert_close(told, 8 * q, rtol=1e-3, atol=1e-3)


def test_nothing_after_the_origin_is_read(fitted):
    _, panel, _ = fitted
    origin = int(panel.last.max()) - 8
    q = [
        DistributionEngine(Middle()).fit(p.cut(origin)).predict().quantile(LEVELS)
        for p in (panel, plant(panel, origin))
    ]
    assert torch.equal(*q)


def test_a_model_that_knows_its_spread_is_not_made_worse():
    rng = np.random.default_rng(2)
    season = 10 + 8 * np.sin(np.arange(7) * 2 * np.pi / 7)
    rate = rng.uniform(0.5, 4, (40, 1)) * np.tile(season, 20)
    panel = panel_of(rng.poisson(rate).astype(float), "D")
    models = {"before": SeasonalNaive(7)}
    models["after"] = DistributionEngine(SeasonalNaive(7))
    past = backtest(models, panel, 7, 2, progress=False)
    loss = {m: mean_wql(*past.stack(m), past.levels) for m in models}
    assert loss["after"] < loss["before"]


def test_sales_that_close_on_one_day_are_learned_by_the_day():
    rng = np.random.default_rng(3)
    y = rng.poisson(9, (30, 140)).astype(float)
    y[:, ::7] = 0
    engine = DistributionEngine(Middle(), horizon=7).fit(panel_of(y, "D"))
    q = engine.predict(7).quantile([0.1, 0.9]).numpy()
    closed = np.flatnonzero((140 + np.arange(7)) % 7 == 0)[0]
    assert (q[:, closed] <= 1).all() and (np.delete(q, closed, 1)[..., 0] > 2).all()


def test_sales_below_zero_stay_below_zero():
    rng = np.random.default_rng(4)
    panel = panel_of(rng.normal(0, 3, (30, 80)))
    engine = DistributionEngine(Middle()).fit(panel)
    told = engine.predict().quantile([0.1, 0.9]).mean((0, 1))
    np.testing.assert_allclose(told, [-3.84, 3.84], rtol=0.15)


def test_series_that_never_sold_are_named_and_forecast():
    y = np.random.default_rng(5).poisson(0.3, (30, 60)).astype(float)
    y[3] = 0
    engine = DistributionEngine(EmpiricalQuantiles(4)).fit(panel_of(y))
    (names,) = [v for k, v in engine.notes.items() if k.startswith("all zeros")]
    assert list(names) == ["s003"]
    assert (engine.predict().quantile([0.5])[3] == 0).all()
    nothing = DistributionEngine(EmpiricalQuantiles(4)).fit(panel_of(0 * y))
    assert (nothing.predict().quantile([0.1, 0.5]) == 0).all()


def test_too_short_a_history_keeps_the_models_own_quantiles():
    panel = panel_of(np.arange(14.0).reshape(2, 7))
    engine = DistributionEngine(EmpiricalQuantiles(4)).fit(panel)
    assert any("too short" in reason for reason in engine.notes)
    own = EmpiricalQuantiles(4).fit(panel).predict()
    assert torch.equal(engine.predict().quantile(LEVELS), own.quantile(LEVELS))
    assert engine.blend == {}


def test_a_fit_on_more_keeps_what_errors_taught(fitted):
    engine, panel, _ = fitted
    early = DistributionEngine(Middle()).fit(panel.cut(int(panel.last.max()) - 4))
    learned = early.learned
    again = early.fit_again(panel)
    assert again is early and early.learned is learned
    assert early.predict().last.max() == panel.last.max()


def test_a_saved_engine_says_the_same(fitted, tmp_path):
    engine, panel, _ = fitted
    engine.save(tmp_path / "engine")
    again = load_model(tmp_path / "engine")
    q = [m.predict(4, panel).quantile(LEVELS) for m in (engine, again)]
    assert torch.equal(*q) and again.blend == engine.blend


def test_routes_of_the_wrapped_model_are_passed_on():
    y = np.random.default_rng(6).poisson(3, (6, 60)).astype(float)
    forecast = DistributionEngine(Router(4)).fit(panel_of(y)).predict()
    assert list(forecast.routes["unique_id"]) == list(forecast.ids)


def test_what_cannot_be_is_refused_in_words(fitted):
    def refuses(message, call):
        with pytest.raises(LabError, match=message):
            call()

    refuses(
        "Broken forecasts NaN.*1 series: s000",
        lambda: DistributionEngine(Broken()).fit(fitted[1]),
    )
    refuses("got the class SeasonalNaive", lambda: DistributionEngine(SeasonalNaive))
    refuses("has not been fitted", lambda: DistributionEngine(Middle()).predict())
    refuses("origins must be", lambda: DistributionEngine(Middle(), origins=0))
    refuses("half_life must", lambda: DistributionEngine(Middle(), half_life=-1))
    refuses("least must be", lambda: DistributionEngine(Middle(), least=0))
