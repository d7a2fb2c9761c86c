"""Additions that multiply: a shared season, and prices with promotions."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from forecastlab.core.basics import LabError
from forecastlab.core.forecaster import load_model
from forecastlab.core.panel import Panel
from forecastlab.demand import price_elasticity as pe
from forecastlab.demand.price_elasticity import PriceElasticity
from forecastlab.demand.seasonal_profile import SeasonalProfile, best_strength
from forecastlab.demand.textbook import EmpiricalQuantiles
from forecastlab.quantile.mqf2 import MQF2Forecaster
from toys import QUIET

WEEKS = pd.date_range("2019-01-06", periods=156, freq="W-SUN")
POSITION = np.minimum((WEEKS.dayofyear - 1) // 7, 51)
WAVE = 1 + 0.5 * np.sin(2 * np.pi * np.arange(52) / 52)


def seasonal(series=24, noise=0.1, wave=WAVE, rows=156, low=0.0, seed=0):
    "A level for each series, times a wave over the year, times noise."
    rng = np.random.default_rng(seed)
    level = rng.uniform(5, 50, (series, 1))
    y = level * wave[POSITION[:rows]] * np.exp(rng.normal(0, noise, (series, rows)))
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(series)], rows),
            "ds": np.tile(WEEKS[:rows], series),
            "y": (y + low).ravel(),
            "kind": np.repeat([f"k{i % 3}" for i in range(series)], rows),
        }
    )
    return Panel.from_frame(frame, freq="W-SUN", static=["kind"])


def priced(series=24, rows=104, ahead=8, seed=0, spread=0.3, noise=0.0, level=20.0):
    "A panel with planted elasticities around -2 and a leaflet worth 0.5; the truth."
    rng = np.random.default_rng(seed)
    n = rows + ahead
    e = -2 + spread * rng.normal(size=(series, 1))
    b = 0.5 + 0.15 * rng.normal(size=(series, 1))
    cut = rng.choice([1, 1, 1, 1, 0.9, 0.75], (series, n))
    leaflet = (rng.random((series, n)) < 0.1).astype(float)
    size = level * np.exp(rng.uniform(-1, 1, (series, 1)))
    mean = size * np.exp(e * np.log(cut) + b * leaflet)
    if noise:
        mean = mean * np.exp(noise * rng.normal(size=mean.shape))
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i:03}" for i in range(series)], n),
            "ds": np.tile(WEEKS[:n], series),
            "y": rng.poisson(mean).astype(float).ravel(),
            "price": (3.0 * cut).ravel(),
            "regular_price": 3.0,
            "leaflet": leaflet.ravel(),
        }
    )
    later = frame.ds > WEEKS[rows - 1]
    columns = ["price", "regular_price", "leaflet"]
    panel = Panel.from_frame(
        frame[~later],
        freq="W-SUN",
        known=columns,
        future=frame[later].drop(columns="y"),
    )
    return panel, e.ravel(), b.ravel()


def with_known(panel, **columns):
    return dataclasses.replace(panel, known=panel.known | columns)


def whole(model, **how):
    "An addition to recent quantiles that makes no trials."
    return model(EmpiricalQuantiles(8), origins=0, **how)


def refuses(kind, message, call):
    with pytest.raises(kind, match=message) as e:
        call()
    assert isinstance(e.value, LabError)


def loss(forecast, actual):
    "Mean pinball loss at three levels."
    levels = np.array([0.1, 0.5, 0.9])
    error = actual[..., None] - forecast.quantile(levels).numpy()
    return np.nanmean(np.maximum(levels * error, (levels - 1) * error))


# --- a season


def test_a_planted_season_is_found():
    model = whole(SeasonalProfile).fit(seasonal())
    table = model.profiles
    for _, one in table.groupby("group"):
        profile = one.profile.to_numpy()
        assert abs(profile.mean() - 1) < 1e-9
        assert np.abs(profile - WAVE).mean() < 0.05


def test_the_forecast_follows_the_season():
    panel = seasonal()
    known, actual = panel.cut(147), panel.actual(np.full(24, 147), 8)
    plain = EmpiricalQuantiles(8).fit(known).predict()
    model = SeasonalProfile(EmpiricalQuantiles(8)).fit(known)
    assert model.strength == 1
    assert loss(model.predict(), actual) < 0.6 * loss(plain, actual)


def test_where_there_is_no_season_the_profile_is_one():
    panel = seasonal(wave=np.ones(52))
    model = SeasonalProfile(EmpiricalQuantiles(8)).fit(panel)
    assert np.abs(model.profiles.profile.astype(float) - 1).max() < 0.05
    known, actual = panel.cut(147), panel.actual(np.full(24, 147), 8)
    plain = EmpiricalQuantiles(8).fit(known).predict()
    with_it = SeasonalProfile(EmpiricalQuantiles(8)).fit(known).predict()
    assert loss(with_it, actual) < 1.02 * loss(plain, actual)


def test_what_hurts_inside_the_history_is_dropped():
    losses = np.array([[1.0, 1.05, 1.2], [1.0, 1.02, 1.1], [1.0, 1.1, 1.3]])
    assert best_strength(losses) == 0
    assert best_strength(losses[:1]) == 0
    assert best_strength(2 - losses) == 1


def test_a_season_that_turns_round_is_not_believed():
    "The last year is the others upside down."
    panel = seasonal()
    y = np.array(panel.y).reshape(24, 156)
    y[:, 104:] *= (2 - WAVE)[POSITION[104:]] / WAVE[POSITION[104:]]
    model = SeasonalProfile(EmpiricalQuantiles(8))
    model.fit(dataclasses.replace(panel, y=y.ravel()))
    # no row where no season was found beyond chance
    own = model.profiles.profile.to_numpy(float)
    assert model.strength < 1 or np.abs(own - 1).max(initial=0) < 0.2


@pytest.mark.parametrize("rows", [20, 51])
def test_less_than_a_cycle_is_said_and_the_profile_is_one(rows):
    panel = seasonal(rows=rows)
    model = whole(SeasonalProfile).fit(panel)
    assert not len(model.profiles)
    assert any("profile 1" in note for note in model.notes)
    plain = EmpiricalQuantiles(8).fit(panel).predict().quantile([0.5])
    assert np.array_equal(model.predict().quantile([0.5]), plain)


def test_zeros_and_holes_are_borne():
    panel = seasonal()
    y = np.array(panel.y).reshape(24, 156)
    y[:, POSITION == 30] = 0
    y[0], y[1, ::3] = 0, np.nan
    model = whole(SeasonalProfile).fit(dataclasses.replace(panel, y=y.ravel()))
    profiles = model.profiles
    assert np.isfinite(profiles.profile).all()
    assert (profiles[profiles.position == 30].profile < 0.2).all()
    assert np.isfinite(model.predict().quantile([0.1, 0.9]).numpy()).all()


def test_series_below_zero_are_left_alone_and_said():
    panel = seasonal(low=-30.0)
    model = whole(SeasonalProfile).fit(panel)
    under = model.notes["too much below 0: profile 1"]
    plain = EmpiricalQuantiles(8).fit(panel).predict()
    found = model.predict()
    assert len(under)
    assert np.array_equal(
        found.select(under).quantile([0.5]), plain.select(under).quantile([0.5])
    )


def test_settings_of_a_season_are_refused_in_words():
    make = lambda **how: SeasonalProfile(EmpiricalQuantiles(8), **how)
    refuses(KeyError, "There are: kind", lambda: make(by="colour").fit(seasonal()))
    refuses(ValueError, "unknown cycle", lambda: make(cycles=("moon",)))
    refuses(TypeError, "by must be", lambda: make(by=3))
    refuses(ValueError, "origins must be", lambda: make(origins=-1))
    refuses(TypeError, "got the class", lambda: SeasonalProfile(EmpiricalQuantiles))


# --- prices


@pytest.mark.parametrize(("noise", "level"), [(0.0, 3.0), (0.0, 30.0), (0.4, 60.0)])
def test_planted_elasticities_lie_in_nine_of_ten_intervals(noise, level):
    "Slow sellers, fast ones, and fast ones whose spread grows with their size."
    panel, e, b = priced(300, noise=noise, level=level)
    model = whole(PriceElasticity).fit(panel)
    table = model.elasticities
    inside = (table.low <= e) & (e <= table.high)
    assert 0.85 <= inside.mean() <= 0.95
    assert np.corrcoef(table.elasticity, e)[0, 1] > 0.4
    own = model.promotion_effects
    inside = (np.log(own.low) <= b) & (b <= np.log(own.high))
    assert 0.85 <= inside.mean() <= 0.95


def test_a_tenth_off_at_an_elasticity_of_two_is_a_factor():
    panel, *_ = priced(40, noise=0.0, level=300.0, spread=0.0)
    last = panel.indptr[:-1] + panel.length
    ahead = np.concatenate([np.arange(i, i + 8) for i in last])
    plans = []
    for cut in (1.0, 0.9):
        price, leaflet = (np.array(panel.known[n]) for n in ("price", "leaflet"))
        price[ahead], leaflet[ahead] = 3 * cut, 0
        plans.append(with_known(panel, price=price, leaflet=leaflet))
    model = whole(PriceElasticity).fit(panel)
    own = model.elasticities.elasticity.to_numpy()
    plain, cheap = (model.predict(panel=p).quantile([0.5])[..., 0] for p in plans)
    times = (cheap / plain).numpy()
    np.testing.assert_allclose(times, np.repeat(0.9 ** own[:, None], 8, 1), rtol=1e-4)
    assert abs(np.median(times) - 1.234568) < 0.02
    wide, narrow = (model.predict(panel=p).quantile([0.1, 0.9]) for p in plans[::-1])
    assert ((wide[..., 1] - wide[..., 0]) >= (narrow[..., 1] - narrow[..., 0])).all()


def test_a_plan_is_forecast_better_than_without_it():
    panel, *_ = priced(40, rows=112, ahead=0)
    known, actual = panel.cut(103), panel.actual(np.full(40, 103), 8)
    plain = EmpiricalQuantiles(8).fit(known).predict()
    model = PriceElasticity(EmpiricalQuantiles(8)).fit(known)
    assert model.strength == 1
    assert loss(model.predict(), actual) < 0.8 * loss(plain, actual)


def test_what_was_taken_for_a_price_is_said():
    panel, *_ = priced(8)
    notes = whole(PriceElasticity).fit(panel).notes
    assert notes["price taken from"] == ["price"]
    assert notes["regular price taken from"] == ["regular_price"]
    assert notes["promotions taken from"] == ["leaflet"]
    model = whole(PriceElasticity, price="regular_price", promotions=None).fit(panel)
    assert model.notes["price taken from"] == ["regular_price"]
    assert "promotions taken from" not in model.notes


def test_prices_below_zero_are_refused_by_series():
    panel, *_ = priced(4)
    price = np.array(panel.known["price"])
    price[panel.indptr[2] + 3] = -1
    bad = with_known(panel, price=price)
    asked = whole(PriceElasticity, price="price")
    refuses(ValueError, "1 prices in 'price' are below 0: s002", lambda: asked.fit(bad))
    # found by itself, it is not taken for a price, and that is said
    notes = whole(PriceElasticity).fit(bad).notes
    assert notes["called a price, but mostly 0 or some below 0: not taken"]


@pytest.mark.parametrize("nothing", [0.0, np.nan])
def test_missing_prices_are_taken_as_regular_and_said(nothing):
    panel, *_ = priced(4)
    price = np.array(panel.known["price"])
    price[panel.indptr[1] + 3], price[-2] = nothing, nothing
    model = whole(PriceElasticity).fit(with_known(panel, price=price))
    said = model.notes["prices of 0 or missing: taken as the regular one"]
    assert list(said) == ["s001"]
    assert np.isfinite(model.predict().quantile([0.1, 0.9]).numpy()).all()


def test_a_price_that_never_changes_has_no_elasticity():
    panel, *_ = priced(4)
    same = with_known(panel, price=np.full(panel.rows, 3.0, np.float32))
    model = whole(PriceElasticity).fit(same)
    assert "the price never changes: no elasticity" in model.notes
    table = model.elasticities
    assert table.elasticity.isna().all()
    assert (table.why == "the price never changes: no elasticity").all()
    assert list(table.unique_id) == ["s000", "s001", "s002", "s003"]


def test_one_price_that_never_changes_leans_on_its_group():
    panel, *_ = priced(12)
    price = np.array(panel.known["price"])
    price[: panel.indptr[1]] = 3
    table = whole(PriceElasticity).fit(with_known(panel, price=price)).elasticities
    assert table.why[0] == "its price never changed: its group's" and table.n[0] == 0
    assert (table.high - table.low).idxmax() == 0


def test_an_unknown_column_is_refused_by_name():
    panel, *_ = priced(4)
    for how in (dict(price="cost"), dict(promotions=("cost",)), dict(reference="cost")):
        asked = whole(PriceElasticity, **how)
        words = "called so: cost. There are: price, regular_price, leaflet"
        refuses(KeyError, words, lambda: asked.fit(panel))
    refuses(
        KeyError, "Use by='auto'", lambda: whole(PriceElasticity, by="x").fit(panel)
    )
    refuses(TypeError, "price must be", lambda: whole(PriceElasticity, price=3))
    refuses(
        TypeError, "promotions must be", lambda: whole(PriceElasticity, promotions=3)
    )


def test_a_panel_without_prices_is_forecast_as_it_is():
    panel = seasonal(6)
    model = PriceElasticity(EmpiricalQuantiles(8)).fit(panel)
    assert "no price and no promotions: nothing to learn" in model.notes
    assert (model.elasticities.why == "no price").all()
    assert not len(model.promotion_effects)
    plain = EmpiricalQuantiles(8).fit(panel).predict()
    levels = [0.1, 0.9]
    assert np.array_equal(model.predict().quantile(levels), plain.quantile(levels))
    asked = whole(PriceElasticity, price="price")
    refuses(KeyError, "The panel has none", lambda: asked.fit(panel))


def test_missing_future_prices_are_refused():
    panel, *_ = priced(4)
    model = whole(PriceElasticity).fit(panel)
    words = r"known covariates \(price, regular_price, leaflet\) end before the horizon"
    refuses(ValueError, words, lambda: model.predict(panel=priced(4, ahead=3)[0]))
    refuses(
        KeyError, "lacks covariates.*price", lambda: model.predict(panel=seasonal(4))
    )


def test_a_constant_flag_has_no_effect_and_that_is_said():
    panel, *_ = priced(6)
    on = with_known(panel, leaflet=np.ones(panel.rows, np.float32))
    model = whole(PriceElasticity).fit(on)
    assert model.notes["promotions that never change: no effect"] == ["leaflet"]
    assert not len(model.promotion_effects)


def test_a_price_known_afterwards_explains_the_past_only():
    panel, *_ = priced(12, ahead=0)
    late = dataclasses.replace(panel, known={}, past=panel.known)
    model = whole(PriceElasticity).fit(late)
    assert model.notes["price is not known ahead: taken as the regular one"]
    assert abs(model.elasticities.elasticity.mean() + 2) < 0.3
    assert np.isfinite(model.predict().quantile([0.5]).numpy()).all()


def test_the_future_is_not_read():
    panel, *_ = priced(12, rows=112, ahead=0)
    wild = np.array(panel.y).reshape(12, 112)
    wild[:, 104:] = 1e6
    wild = dataclasses.replace(panel, y=wild.ravel())
    for make in (PriceElasticity, SeasonalProfile):
        one, other = (
            make(EmpiricalQuantiles(8)).fit(p.cut(103)).predict() for p in (panel, wild)
        )
        assert np.array_equal(one.quantile([0.5]), other.quantile([0.5]))


def test_the_panel_stays_as_it_was():
    panel, *_ = priced(6)
    before = np.array(panel.y)
    whole(PriceElasticity).fit(panel).predict()
    assert np.array_equal(panel.y, before, equal_nan=True)


# --- together


def test_they_stack_are_saved_and_fitted_again(tmp_path):
    panel, *_ = priced(10, rows=130)
    model = PriceElasticity(whole(SeasonalProfile), origins=1, tried=5).fit(panel)
    assert model.name == "EmpiricalQuantiles with a season with prices"
    model.save(tmp_path / "m")
    again, levels = load_model(tmp_path / "m"), [0.1, 0.5, 0.9]
    want = model.predict().quantile(levels)
    assert np.array_equal(again.predict(8, panel).quantile(levels), want)
    pd.testing.assert_frame_equal(again.elasticities, model.elasticities)
    strength = model.strength
    refitted = model.fit_again(panel)
    assert refitted is model and model.strength == strength
    assert np.array_equal(model.predict().quantile(levels), want)


def test_paths_stay_paths():
    panel, *_ = priced(6, rows=60)
    network = dict(context=12, steps=4, batch=8, training=QUIET, forks=4, channels=8)
    inner = MQF2Forecaster(8, agnostic=8, local=8, recent=(4,), **network)
    model = PriceElasticity(inner, origins=0).fit(panel)
    forecast = model.predict()
    assert forecast.distribution.event_shape
    assert forecast.sample(5).shape == (5, 6, 8)
    assert np.isfinite(forecast.total(3).quantile([0.9])).all()


def test_routes_of_the_wrapped_forecast_are_passed_on():
    "Whatever a forecast holds beside its distribution stays."
    panel, *_ = priced(4)

    class Routed(EmpiricalQuantiles):
        def predict(self, h=None, panel=None, *, seed=0):
            made = super().predict(h, panel, seed=seed)
            return dataclasses.replace(made, choice="a route")

    model = PriceElasticity(Routed(8), origins=0).fit(panel)
    assert model.predict().choice == "a route"


def test_effects_are_bounded():
    panel, *_ = priced(6)
    price = np.array(panel.known["price"])
    price[-8:] = 1e-3
    forecast = whole(PriceElasticity).fit(with_known(panel, price=price)).predict()
    plain = whole(PriceElasticity).fit(panel).predict()
    most = np.exp(pe.LARGEST) + 1e-3
    times = forecast.quantile([0.5])[-1] / plain.quantile([0.5])[-1].clip(min=1)
    assert (times <= most).all()
