"""One contract for every forecaster of the lab.

Each family is built tiny, fitted once, and asked the same questions.
"""

import contextlib
import copy
import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import forecastlab
from forecastlab.core import neural
from forecastlab.core.auto import Chooser
from forecastlab.core.basics import LabError, read_tensors, write_tensors
from forecastlab.core.conformal import Calibrated
from forecastlab.core.distributions import Counts
from forecastlab.core.forecast import Forecast
from forecastlab.core.forecaster import Forecaster, load_model
from forecastlab.core.neural import NeuralForecaster
from forecastlab.core.panel import Panel
from forecastlab.demand.auto import AutoForecaster
from forecastlab.demand.distribution_engine import DistributionEngine
from forecastlab.demand.feed_forward import FeedForward
from forecastlab.demand.launch import LaunchForecaster
from forecastlab.demand.linear import PooledLinear
from forecastlab.demand.mq import MQCNN, MQDense, MQRNN
from forecastlab.demand.mqtransformer import MQTransformer
from forecastlab.demand.price_elasticity import PriceElasticity
from forecastlab.demand.recurrent import RecurrentPoint
from forecastlab.demand.seasonal_profile import SeasonalProfile
from forecastlab.demand.sqrf import SQRF, PooledForest
from forecastlab.demand.textbook import AutoETS, AutoTheta, CrostonSBA
from forecastlab.demand.router import Router
from forecastlab.demand.textbook import TSB, AutoARIMA
from forecastlab.demand.textbook import EmpiricalQuantiles, PooledClimatology
from forecastlab.demand.textbook import SeasonalNaive
from forecastlab.demand.trees import BoostedTrees
from forecastlab.quantile.mqf2 import MQF2Forecaster
from forecastlab.quantile.recurrent import RecurrentForecaster
from toys import QUIET

torch.set_num_threads(1)
HORIZON = 4
LEVELS = [0.1, 0.5, 0.9]
NETWORK = dict(context=12, steps=4, batch=8, training=QUIET)
SMALL = NETWORK | dict(forks=4, channels=8, agnostic=8, local=8, recent=(4,))


def board():
    return dict(recent=EmpiricalQuantiles(HORIZON), naive=SeasonalNaive(HORIZON, 1))


# Name -> an unfitted forecaster with a horizon of four steps.
MAKERS = {
    "MQCNN": lambda: MQCNN(HORIZON, dilations=(1, 2), mixing=8, **SMALL),
    "MQRNN": lambda: MQRNN(HORIZON, mixing=8, **SMALL),
    "MQDense": lambda: MQDense(HORIZON, mixing=8, **SMALL),
    "MQTransformer": lambda: MQTransformer(
        HORIZON, dilations=(1, 2), mixing=8, attention=4, **SMALL
    ),
    "PooledLinear": lambda: PooledLinear(HORIZON, 12, forks=4, training=QUIET),
    "MQCNN isqf": lambda: MQCNN(HORIZON, dilations=(1,), head="isqf", **SMALL),
    "RecurrentForecaster": lambda: RecurrentForecaster(
        HORIZON, hidden=8, draws=40, **NETWORK
    ),
    "RecurrentPoint": lambda: RecurrentPoint(HORIZON, hidden=8, **NETWORK),
    "MQF2Forecaster": lambda: MQF2Forecaster(HORIZON, **SMALL),
    "EmpiricalQuantiles": lambda: EmpiricalQuantiles(HORIZON),
    "SeasonalNaive": lambda: SeasonalNaive(HORIZON),
    "CrostonSBA": lambda: CrostonSBA(HORIZON),
    "TSB": lambda: TSB(HORIZON),
    "AutoARIMA": lambda: AutoARIMA(HORIZON, tail=30, n_jobs=1, progress=False),
    "Router": lambda: Router(HORIZON, n_jobs=1),
    "AutoETS": lambda: AutoETS(HORIZON, n_jobs=1, progress=False),
    "AutoTheta": lambda: AutoTheta(HORIZON, n_jobs=1, progress=False),
    "PooledClimatology": lambda: PooledClimatology(HORIZON),
    "LaunchForecaster": lambda: LaunchForecaster(HORIZON),
    "PooledForest": lambda: PooledForest(HORIZON, trees=8, smallest=5),
    "SQRF": lambda: SQRF(HORIZON, trees=8, smallest=5),
    "FeedForward": lambda: FeedForward(
        HORIZON, width=8, steps=8, training=QUIET | dict(validate_every=4)
    ),
    "BoostedTrees": lambda: BoostedTrees(HORIZON, rounds=8, smallest=5),
    "Chooser": lambda: Chooser(board(), HORIZON, progress=False),
    "AutoForecaster": lambda: AutoForecaster(HORIZON, models=(), progress=False),
    "DistributionEngine": lambda: DistributionEngine(
        EmpiricalQuantiles(HORIZON), origins=3
    ),
    "Calibrated": lambda: Calibrated(EmpiricalQuantiles(HORIZON), origins=2),
    "SeasonalProfile": lambda: SeasonalProfile(EmpiricalQuantiles(HORIZON)),
    "PriceElasticity": lambda: PriceElasticity(EmpiricalQuantiles(HORIZON)),
}

# Refuse targets below 0.
FROM_ZERO_ON = {"CrostonSBA", "TSB"}

# Forecasts what has not been sold yet: it is asked about panels without a sale.
BEFORE_THE_FIRST_SALE = {"LaunchForecaster"}

every_forecaster = pytest.mark.parametrize("name", list(MAKERS))
# Speaks the language of networks, but takes no step: nothing to hold out or to resume.
UNTRAINED = {"PooledLinear"}

NETWORKS = [n for n, make in MAKERS.items() if isinstance(make(), NeuralForecaster)]
every_network = pytest.mark.parametrize("name", NETWORKS)
every_trained_network = pytest.mark.parametrize(
    "name", [n for n in NETWORKS if n not in UNTRAINED]
)


def sales(prefix="s", seed=0, rows=60):
    "Eight weekly series of counts; four begin later, none has covariates."
    rng = np.random.default_rng(seed)
    weeks = pd.date_range("2022-01-02", periods=rows, freq="W-SUN")
    parts = [
        pd.DataFrame(
            {
                "unique_id": f"{prefix}{i}",
                "ds": weeks[begin:],
                "y": rng.poisson(3 + i, rows - begin).astype(float),
            }
        )
        for i, begin in enumerate((0, 0, 0, 0, 8, 12, 16, 20))
    ]
    return Panel.from_frame(pd.concat(parts, ignore_index=True), freq="W-SUN")


def shops(rows=60, low=0.0):
    """Four weekly series with a price plan that is known ahead and a kind; the first
    rows of one, and every seventh row, are not observed.
    """
    rng = np.random.default_rng(3)
    weeks = pd.date_range("2022-01-02", periods=rows + HORIZON, freq="W-SUN")
    n, rest = 4, HORIZON
    y = rng.poisson(6, (n, rows)).astype(float) + low
    y[0, :9], y[:, ::7] = np.nan, np.nan
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(n)], rows + rest),
            "ds": np.tile(weeks, n),
            "y": np.pad(y, ((0, 0), (0, rest)), constant_values=np.nan).reshape(-1),
            "price": np.exp(rng.normal(0, 0.2, n * (rows + rest))),
            "kind": np.repeat(["mug", "tin", "mug", "tin"], rows + rest),
        }
    )
    ahead = frame.ds > weeks[rows - 1]
    columns = dict(known=["price"], static=["kind"], fill="missing", freq="W-SUN")
    future = frame[ahead].drop(columns="y")
    return Panel.from_frame(frame[~ahead], future=future, **columns)


@functools.cache
def fitted(name):
    "The forecaster of that name, fitted once for all tests."
    return MAKERS[name]().fit(sales())


def ask(name, model, h=None, panel=None, **how):
    "The forecast of a panel; None is the fitted one."
    if name in BEFORE_THE_FIRST_SALE:
        panel = sales() if panel is None else panel
        panel = dataclasses.replace(panel, y=np.zeros_like(panel.y))
    return model.predict(h, panel, **how)


def q(forecast):
    return forecast.quantile(LEVELS).numpy()


def total_draws(forecast):  # (draw, series)
    "Draws of the sum of all steps, as the forecast has it or of independent steps."
    joint = forecast.distribution.event_shape
    total = forecast.total(assume=None if joint else "independent", draws=64)
    return (total.base if isinstance(total, Counts) else total).draws


@contextlib.contextmanager
def another_thread_drawing():
    "Somebody else uses the global generators all the time."
    over = threading.Event()

    def draw():
        while not over.is_set():
            torch.rand(7), np.random.rand(3)

    other = threading.Thread(target=draw)
    other.start()
    try:
        yield
    finally:
        over.set()
        other.join()


def refuses(kind, message, call):
    "It is refused by the lab, and by the error that Python would use."
    with pytest.raises(kind, match=message) as e:
        call()
    assert isinstance(e.value, LabError)


# --- the list


def families():
    "Classes of the package that keep the contract and are nobody's base."
    folders = {m.name for m in pkgutil.iter_modules(forecastlab.__path__) if m.ispkg}
    # these two hold none, and load slowly
    for folder in sorted(folders - {"kernels", "ranking"}):
        package = importlib.import_module(f"forecastlab.{folder}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"forecastlab.{folder}.{module.name}")
    found, waiting = set(), [Forecaster]
    home = Path(forecastlab.__file__).parent
    while waiting:
        sisters = [
            cls
            for cls in waiting.pop().__subclasses__()
            if cls.__module__.startswith(f"{forecastlab.__name__}.")
            # another test may have planted one in a room of its own
            and Path(sys.modules[cls.__module__].__file__).is_relative_to(home)
        ]
        found |= set(sisters)
        waiting += sisters
    bases = {base for cls in found for base in cls.__mro__[1:]}
    return {cls for cls in found - bases if not inspect.isabstract(cls)}


def test_every_forecaster_of_the_package_is_in_the_list():
    listed = {name.split()[0] for name in MAKERS}
    missing = {cls.__name__ for cls in families()} - listed
    assert not missing, f"add to MAKERS: {sorted(missing)}"


# --- fit and predict


@every_forecaster
def test_it_is_a_forecaster_and_fit_returns_it(name):
    model = MAKERS[name]()
    assert isinstance(model, Forecaster)
    assert model.fit(sales()) is model


@every_forecaster
def test_a_forecast_has_its_shape_name_and_horizon(name):
    model, panel = fitted(name), sales()
    forecast = ask(name, model)
    assert isinstance(forecast, Forecast)
    assert (model.horizon, forecast.horizon) == (HORIZON, HORIZON)
    assert forecast.model == model.name and list(forecast.ids) == list(panel.ids)
    found = q(forecast)
    assert found.shape == (8, HORIZON, 3) and np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
    # the step after the last known row
    assert pd.Timestamp(forecast.dates[0, 0]) == panel.calendar[-1] + pd.Timedelta("7D")


@every_forecaster
def test_a_shorter_horizon_gives_the_first_steps(name):
    model = fitted(name)
    short = ask(name, model, 2)
    assert short.horizon == 2
    np.testing.assert_allclose(q(short), q(ask(name, model))[:, :2], rtol=1e-6)


@every_forecaster
def test_the_same_seed_gives_the_same_bits(name):
    model = fitted(name)
    once, again = (q(ask(name, model, seed=3)) for _ in range(2))
    assert np.array_equal(once, again)
    twin = MAKERS[name]().fit(sales())
    assert np.array_equal(q(ask(name, twin, seed=3)), once)


@every_trained_network
def test_a_network_may_hold_the_last_rows_out(name):
    "Whatever its loss: the score is finite, and the hidden rows change no training."
    model = MAKERS[name]()
    model.training = dataclasses.replace(model.training, validate_every=2)
    scores = model.fit(sales()).fitted[0].scores
    assert [step for step, _ in scores] == [2, 4]
    assert np.isfinite(scores).all()


# --- covariates, holes, negative targets


@every_forecaster
def test_covariates_and_missing_targets_are_borne(name):
    panel = shops()
    if name in BEFORE_THE_FIRST_SALE:
        panel = panel.cut(len(panel.calendar) - 1 - HORIZON)
    model = MAKERS[name]().fit(shops())
    forecast = ask(name, model, HORIZON, panel)
    assert list(forecast.ids) == list(panel.ids)
    assert np.isfinite(q(forecast)).all() and (q(forecast) >= 0).all()


@every_forecaster
def test_negative_targets_are_forecast_or_refused_in_words(name):
    panel = shops(low=-9.0)
    forecast = lambda: ask(name, MAKERS[name]().fit(panel), HORIZON, panel)
    if name in FROM_ZERO_ON:
        refuses(ValueError, "targets of at least 0", forecast)
    elif name in BEFORE_THE_FIRST_SALE:
        assert np.isfinite(q(forecast())).all()
    else:
        assert (q(forecast()) < 0).any()


@every_forecaster
def test_lower_bounds_change_no_forecast_and_are_counted_or_told(name):
    "Where stock ran out inputs are not observed; what cannot use the bounds says so."
    model, panel = fitted(name), sales()
    y = np.array(panel.y)
    sold_out = panel.indptr[1:] - 3
    bound = np.full_like(y, np.nan)
    bound[sold_out], y[sold_out] = y[sold_out], np.nan
    bare = dataclasses.replace(panel, y=y)
    if name in BEFORE_THE_FIRST_SALE:
        bare = dataclasses.replace(bare, y=np.where(np.isnan(y), y, 0))
    known = dataclasses.replace(bare, at_least=bound)
    want = q(model.predict(HORIZON, bare))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert np.array_equal(q(model.predict(HORIZON, known)), want)
    told = [
        str(w.message) for w in said if "does not count lower bounds" in str(w.message)
    ]
    assert bool(told) != model.censors
    assert all("8 rows where stock ran out are left out" in words for words in told)


# --- totals


@every_forecaster
def test_the_steps_add_up_as_they_are_told_to(name):
    forecast = ask(name, fitted(name))
    mean = forecast.mean().sum(-1)
    for how in ("independent", "comonotone"):
        total = forecast.total(assume=how, draws=256)
        assert total.shape == (8,)
        torch.testing.assert_close(total.mean, mean, rtol=1e-4, atol=1e-4)
    if forecast.distribution.event_shape:
        assert forecast.total(3).quantile([0.9]).shape == (8, 1)
    else:
        refuses(ValueError, "Pass assume='independent'", forecast.total)


@every_forecaster
def test_a_total_that_cannot_be_is_refused_in_words(name):
    total = ask(name, fitted(name)).total
    refuses(ValueError, "unknown assumption: foo", lambda: total(1, "foo"))
    refuses(ValueError, "Forecast further ahead", lambda: total(HORIZON + 1))
    refuses(ValueError, "from 1 to the horizon 4.*got 0.$", lambda: total(0))
    refuses(TypeError, "got 2.5.$", lambda: total(2.5))
    refuses(TypeError, "draws must be", lambda: total(2, "independent", draws="9"))


# --- files


@every_forecaster
def test_a_saved_forecaster_forecasts_the_same_bits(name, tmp_path):
    model, path = fitted(name), tmp_path / "model.safetensors"
    model.save(path)
    for again in (load_model(path), type(model).load(path)):
        assert type(again) is type(model)
        assert (again.name, again.horizon) == (model.name, model.horizon)
        found = q(ask(name, again, HORIZON, sales()))
        assert np.array_equal(found, q(ask(name, model, HORIZON, sales())))
        refuses(ValueError, "no panel to forecast from", again.predict)


@every_forecaster
def test_a_file_that_lacks_a_part_is_one_clear_error(name, tmp_path):
    "Its checksum is right: another program, or another version, left it so."
    model, path = fitted(name), tmp_path / "model.safetensors"
    model.save(path)
    tensors, note = read_tensors(path)

    def asked(tensors, note):
        write_tensors(path, tensors, note, overwrite=True)
        return ask(name, load_model(path), HORIZON, sales())

    for part in list(tensors)[:3]:
        rest = {n: x for n, x in tensors.items() if n != part}
        refuses(LabError, ".", lambda: asked(rest, note))
        other = rest | {part: torch.ones(3, 2, 5)}
        refuses(LabError, ".", lambda: asked(other, note))
    for other in ({}, dict(family=note["family"]), dict(state=note["state"])):
        refuses(
            OSError, "no forecaster is described here", lambda: asked(tensors, other)
        )
    stranger = note | dict(state=[1])
    refuses(OSError, "saved by another version", lambda: asked(tensors, stranger))
    safetensors.torch.save_file(tensors, path, {"forecastlab": json.dumps(note)})
    refuses(OSError, "has no checksum", lambda: load_model(path))


@every_network
def test_weights_that_are_no_numbers_are_refused(name, tmp_path):
    fitted(name).save(tmp_path / "m")
    tensors, note = read_tensors(tmp_path / "m")
    last = list(tensors)[-1]
    broken = tensors | {last: torch.full_like(tensors[last], torch.nan)}
    write_tensors(tmp_path / "m", broken, note, overwrite=True)
    refuses(OSError, f"NaN or infinite: {last}", lambda: load_model(tmp_path / "m"))


@every_forecaster
def test_a_file_is_replaced_on_request_only(name, tmp_path):
    model, path = fitted(name), tmp_path / "model.safetensors"
    model.save(path)
    refuses(FileExistsError, "overwrite=True", lambda: model.save(path))
    model.save(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@every_forecaster
def test_a_loaded_forecaster_can_be_fitted_anew(name, tmp_path):
    fitted(name).save(tmp_path / "model")
    other = sales("o", seed=1)
    again, fresh = load_model(tmp_path / "model").fit(other), MAKERS[name]().fit(other)
    assert np.array_equal(q(ask(name, again, 4, other)), q(ask(name, fresh, 4, other)))


# --- other panels


@every_forecaster
def test_series_never_seen_are_forecast(name):
    other = sales("new", seed=5)
    forecast = ask(name, fitted(name), HORIZON, other)
    assert list(forecast.ids) == list(other.ids)
    assert np.isfinite(q(forecast)).all()


@every_forecaster
def test_a_series_alone_is_forecast_as_among_others(name):
    model, panel = fitted(name), sales()
    among = q(ask(name, model, HORIZON, panel))
    for which in ([5], [2], [6, 0, 3]):
        alone = ask(name, model, HORIZON, panel.select(panel.ids[which]))
        np.testing.assert_allclose(q(alone), among[which], rtol=1e-5, atol=1e-6)


@every_forecaster
def test_draws_depend_on_seed_and_series_only(name):
    """Not on the other series, their order, the chunks that are read at once, or who
    else draws in the meantime.
    """
    model, panel = fitted(name), sales()
    forecast = ask(name, model, HORIZON, panel, seed=3)
    among = forecast.sample(30, seed=3)
    totals = total_draws(forecast)
    assert not torch.equal(among, forecast.sample(30, seed=4))
    with another_thread_drawing():
        for which in ([5], [6, 0, 3], [*range(8)][::-1]):
            some = panel.select(panel.ids[which])
            asked = ask(name, model, HORIZON, some, seed=3)
            assert torch.equal(asked.sample(30, seed=3), among[:, which])
            assert torch.equal(forecast.select(which).sample(30, 3), among[:, which])
            assert torch.equal(total_draws(asked), totals[:, which])
    assert torch.equal(ask(name, model, HORIZON, panel, seed=3).sample(30, 3), among)


@every_network
def test_the_size_of_chunks_changes_no_bit(name, monkeypatch):
    model, panel = fitted(name), sales()
    among = model.predict(HORIZON, panel, seed=3).sample(30, seed=3)
    monkeypatch.setattr(neural, "CHUNK", 3)
    chunked = model.predict(HORIZON, panel, seed=3)
    assert torch.equal(chunked.sample(30, seed=3), among)


@every_network
def test_forecasts_leave_the_global_generator_alone(name):
    before = torch.get_rng_state()
    forecast = ask(name, fitted(name), seed=3)
    forecast.sample(5), forecast.total(assume="independent", draws=16)
    assert torch.equal(torch.get_rng_state(), before)


@every_forecaster
def test_what_is_not_known_yet_is_not_read(name):
    "The past of a panel whose end is another is forecast alike."
    model, panel = fitted(name), sales()
    wild = dataclasses.replace(panel, y=np.array(panel.y))
    last = wild.indptr[:-1] + wild.length - 1
    wild.y[last] = 1e6
    step = len(panel.calendar) - 2
    found, want = (q(ask(name, model, HORIZON, p.cut(step))) for p in (wild, panel))
    assert np.array_equal(found, want)


# --- new rows


def came_since(panel):
    "Three more weeks of every series but one, and a series that began lately."
    rng = np.random.default_rng(8)
    weeks = panel.calendar[-1] + pd.to_timedelta(7 * np.arange(-16, 4), "D")
    names = [*np.repeat(panel.ids[:-1], 3), *["t"] * 20]
    ds = [*np.tile(weeks[-3:], len(panel) - 1), *weeks]
    y = rng.poisson(4, len(ds)).astype(float)
    return pd.DataFrame(dict(unique_id=names, ds=ds, y=y))


@every_forecaster
def test_new_rows_are_gone_on_from(name):
    "As another panel is forecast: what was learned stays, histories are longer."
    model, panel = fitted(name), sales()
    rows = came_since(panel)
    if name in BEFORE_THE_FIRST_SALE:
        panel = dataclasses.replace(panel, y=np.zeros_like(panel.y))
        rows["y"] = 0.0
    both = pd.concat([panel.to_frame(), rows], ignore_index=True)
    longer = Panel.from_frame(both, freq="W-SUN")
    moved = copy.copy(model)
    assert moved.update(rows, panel=panel, new_series=True) is moved
    found, want = moved.predict(seed=3), model.predict(None, longer, seed=3)
    assert list(found.ids) == [*panel.ids, "t"]
    assert np.array_equal(q(found), q(want))
    assert (found.dates == want.dates).all()
    assert torch.equal(found.sample(5, seed=3), want.sample(5, seed=3))
    # what was refused changed nothing
    refuses(ValueError, "overlap the history", lambda: moved.update(rows))
    assert np.array_equal(q(moved.predict(seed=3)), q(want))


# --- what is refused


@every_forecaster
def test_what_cannot_be_forecast_is_refused_in_words(name):
    model, panel = fitted(name), sales()
    table = panel.to_frame()
    none = panel.select(np.zeros(len(panel), bool))
    refuses(TypeError, "Panel.from_frame", lambda: model.predict(2, table))
    refuses(TypeError, "Panel.from_frame", lambda: MAKERS[name]().fit(table))
    refuses(ValueError, "no series", lambda: model.predict(2, none))
    refuses(ValueError, "no series", lambda: MAKERS[name]().fit(none))
    refuses(ValueError, "asked for 0", lambda: model.predict(0))
    refuses(TypeError, "whole number of steps", lambda: model.predict(2.5))
    refuses(TypeError, "whole number of steps", lambda: model.predict(True))
    refuses(ValueError, "seed must be", lambda: model.predict(seed=-1))
    if model.longest is not None:
        longer = model.longest + 1
        refuses(ValueError, f"asked for {longer}", lambda: model.predict(longer))


@every_forecaster
def test_a_series_never_observed_is_refused_by_name(name):
    "Whatever is known of it besides: no number is invented."
    panel = shops()
    if MAKERS[name]().newcomers:
        model = MAKERS[name]().fit(panel)
        never = dataclasses.replace(panel, y=np.full_like(panel.y, np.nan))
        assert np.isfinite(q(model.predict(HORIZON, never))).all()
        return
    words = "1 series have no observed value: s2. Drop them, or forecast them after"
    never = np.where(
        np.repeat(panel.ids, np.diff(panel.indptr)) == "s2", np.nan, panel.y
    )
    never = dataclasses.replace(panel, y=never)
    model = MAKERS[name]().fit(panel)
    refuses(ValueError, words, lambda: model.predict(HORIZON, never))
    refuses(ValueError, words, lambda: MAKERS[name]().fit(never).predict())


@every_forecaster
def test_a_horizon_changed_since_is_checked_at_fit(name):
    model = MAKERS[name]()
    for wrong, kind in ((0, ValueError), ("4", TypeError)):
        model.horizon = wrong
        refuses(kind, "horizon must be a whole number", lambda: model.fit(sales()))


@every_trained_network
def test_a_network_says_with_which_settings_it_was_made(name):
    made = repr(MAKERS[name]())
    assert made.startswith(f"{name.split()[0]}(horizon=4, context=12, steps=4, batch=8")
    assert "training={'accelerator': 'cpu', 'progress': False}" in made


@every_network
def test_a_horizon_asked_anew_is_not_that_of_the_trained_network(name):
    model = MAKERS[name]().fit(sales())
    model.horizon = HORIZON + 2
    refuses(ValueError, f"1 to {HORIZON} steps", model.predict)
    assert model.fit(sales()).predict().horizon == HORIZON + 2


@every_trained_network
def test_the_place_of_checkpoints_is_saved_too(name, tmp_path):
    model = MAKERS[name]().fit(sales())
    model.checkpoint = tmp_path / "points"
    model.save(tmp_path / "model")
    assert load_model(tmp_path / "model").checkpoint == str(tmp_path / "points")


@every_forecaster
def test_an_unfitted_forecaster_says_so(name, tmp_path):
    model = MAKERS[name]()
    refuses(RuntimeError, "has not been fitted", lambda: model.predict(2, sales()))
    refuses(RuntimeError, "has not been fitted", lambda: model.update(sales()))
    refuses(RuntimeError, "not been fitted", lambda: model.save(tmp_path / "model"))
    assert not list(tmp_path.iterdir())
