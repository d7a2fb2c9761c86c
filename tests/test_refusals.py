"""What a user may get wrong at any door is refused by the lab, in words.

A thing of the wrong kind is a TypeError too, a value that cannot be a ValueError.
"""

import json

import numpy as np
import pytest
import torch

import forecastlab
from forecastlab.core.backtest import backtest
from forecastlab.core.basics import LabError, write_tensors
from forecastlab.core.conformal import Adaptive, Calibrated, Conformal
from forecastlab.core.distributions import Counts, Draws, QuantileFunction, QuantileGrid
from forecastlab.core.forecast import Forecast
from forecastlab.core.forecaster import Forecaster, Saved, load_model
from forecastlab.core.frequency import context_of, cycles_of, lags_of, recent_of
from forecastlab.core.frequency import season_of
from forecastlab.core.windows import Windows
from forecastlab.demand.decision import newsvendor, price_of_service, saving
from forecastlab.demand.decision import stock_curve, stockout_probability
from forecastlab.demand.mq import MQCNN
from forecastlab.demand.textbook import EmpiricalQuantiles, SeasonalNaive
from toys import plain

PANEL = plain(np.arange(1.0, 41.0), "W-SUN")
MODEL = SeasonalNaive(4).fit(PANEL)
FORECAST = MODEL.predict()

WRONG_KIND = {
    "expected a Panel": [
        lambda: Windows(3, 4, 5),
        lambda: cycles_of(3),
        lambda: Forecast(3, FORECAST.distribution),
        lambda: FORECAST.plot(actual=3),
        lambda: backtest(MODEL, 3),
    ],
    "no frequency given": [
        lambda: season_of(None),
        lambda: recent_of(None),
        lambda: context_of(None),
        lambda: lags_of(None),
    ],
    "must be a whole number": [
        lambda: lags_of("D", "x"),
        lambda: SeasonalNaive("4"),
        lambda: MODEL.predict("2"),
        lambda: MODEL.predict(2.5),
        lambda: MODEL.predict(2, seed="x"),
        lambda: FORECAST.sample(2.5),
        lambda: FORECAST.sample(2, seed="x"),
        lambda: MQCNN("4"),
        lambda: MQCNN(4, context="x"),
        lambda: MQCNN(4, batch=2.5),
    ],
    "must be numbers": [
        lambda: FORECAST.quantile("0.9"),
        lambda: FORECAST.quantile(None),
        lambda: FORECAST.crps("x"),
        lambda: FORECAST.to_frame(quantiles=["a"]),
        lambda: Draws(None),
        lambda: QuantileGrid("x", 3),
        lambda: Adaptive("x"),
    ],
    "must be a list": [
        lambda: FORECAST.to_frame(level=80),
        lambda: FORECAST.to_frame(quantiles=0.5),
    ],
    "expected a path": [
        lambda: MODEL.save(3),
        lambda: load_model(None),
        lambda: SeasonalNaive.load(3),
        lambda: MQCNN(4, checkpoint=3),
        lambda: PANEL.save(3),
    ],
    "expected a QuantileFunction": [lambda: Forecast(PANEL, 4)],
    "expected a quantile function": [lambda: Counts(3), lambda: Counts(None)],
    "expected a Forecast": [
        lambda: stock_curve(3),
        lambda: saving(3),
        lambda: price_of_service(3),
        lambda: newsvendor(3, 1, 1),
        lambda: stockout_probability(3, 1),
        lambda: Conformal().fit(FORECAST, np.ones((1, 4))).apply(3),
        lambda: Adaptive().update(3, 4),
        lambda: Adaptive().apply(3),
    ],
    "expected a forecaster": [
        lambda: Calibrated(3),
        lambda: Calibrated(SeasonalNaive),
        lambda: backtest(3, PANEL, 4),
        lambda: backtest([MODEL], PANEL, 4),
        lambda: backtest({"a": 3}, PANEL, 4),
        lambda: backtest({"a": SeasonalNaive}, PANEL, 4),
    ],
    "expected a correction": [lambda: Calibrated(MODEL, conformal=3)],
    "no calibration windows": [lambda: Conformal().fit(3)],
    "refit must be": [lambda: backtest(MODEL, PANEL, refit="x")],
    "training must be a dict": [lambda: MQCNN(4, training=3)],
    "overwrite must be": [lambda: MODEL.save("nowhere", overwrite="yes")],
    "from 1 to the horizon 4": [
        lambda: FORECAST.total(2.5),
        lambda: FORECAST.total("3"),
    ],
}

WRONG_VALUE = {
    "unknown frequency: foo": [lambda: lags_of("foo"), lambda: season_of("foo")],
    "n must be a whole number": [lambda: FORECAST.sample(-2)],
    "seed must be": [lambda: FORECAST.sample(2, seed=-1)],
    "expected targets of shape": [
        lambda: FORECAST.crps(np.zeros((2, 9))),
        lambda: FORECAST.crps(3.0),
    ],
    "no series to draw": [lambda: FORECAST.plot([])],
    "columns must be": [lambda: FORECAST.plot(columns=0)],
    "history must be": [lambda: FORECAST.plot(history=0)],
    "For 80% write 80": [lambda: FORECAST.to_frame(level=[0.8])],
    "unknown assumption: foo": [
        lambda: FORECAST.total(1, "foo"),
        lambda: stockout_probability(MODEL.predict(1), 3, "foo"),
    ],
    "no models to backtest": [lambda: backtest({}, PANEL, 4)],
    "do not name one horizon: a 4, b 5": [
        lambda: backtest({"a": MODEL, "b": SeasonalNaive(5)}, PANEL)
    ],
}


def cases(table):
    return [
        pytest.param(text, call, id=f"{text} {i}")
        for text, calls in table.items()
        for i, call in enumerate(calls)
    ]


@pytest.mark.parametrize("text, call", cases(WRONG_KIND))
def test_what_is_of_the_wrong_kind_is_refused_in_words(text, call):
    with pytest.raises(LabError, match=text) as e:
        call()
    assert isinstance(e.value, TypeError)


@pytest.mark.parametrize("text, call", cases(WRONG_VALUE))
def test_a_value_that_cannot_be_is_refused_in_words(text, call):
    with pytest.raises(LabError, match=text) as e:
        call()
    assert isinstance(e.value, ValueError)


def test_a_folder_is_no_file_to_save_to(tmp_path):
    for overwrite in (False, True):
        with pytest.raises(LabError, match="a folder is no file.*Name a file in it"):
            MODEL.save(tmp_path, overwrite=overwrite)


def test_integer_time_has_no_calendar_whoever_counts_it():
    assert lags_of(np.int64(1)) == lags_of(1) == (1, 2, 3)


# --- one model, or several by name


def test_one_model_is_backtested_over_its_own_horizon():
    result = backtest(SeasonalNaive(3), PANEL, origins=2, progress=False)
    assert list(result.models) == ["SeasonalNaive"] and result.horizon == 3


def test_a_table_that_shows_both_tells_them_apart():
    plain_one = EmpiricalQuantiles(2)
    both = [plain_one.fit(PANEL), Calibrated(plain_one, origins=12).fit(PANEL)]
    columns = [set(m.predict().to_frame(level=[80])) for m in both]
    assert both[1].name == "EmpiricalQuantiles calibrated"
    assert columns[0] & columns[1] == {"unique_id", "ds"}


# --- totals of a law that holds no draws


class Fresh(QuantileFunction):
    "Independent uniforms as paths; nothing is stored."

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, series, horizon):
        super().__init__((series,), (horizon,), validate_args=False)

    @property
    def mean(self):
        return torch.full(self.shape, 0.5)

    def rsample(self, sample_shape=(), generator=None):
        return torch.rand(*sample_shape, *self.shape, generator=generator)


def test_draws_of_a_total_are_as_many_as_asked_for_and_decided_by_their_seed():
    for assume, law in ((None, Fresh(1, 4)), ("independent", FORECAST.distribution)):
        total = lambda *how: Forecast(PANEL, law).total(None, assume, *how).draws
        assert len(total()) == 4096 and len(total(64)) == 64
        assert torch.equal(total(64), total(64, 0))
        assert not torch.equal(total(64), total(64, 1))


# --- families in files


@pytest.mark.parametrize(
    "family",
    ["os:path", "json.decoder:JSONDecoder", "core.os:path", "core.a.b:C", "no.room:C"],
)
def test_a_file_names_no_code_outside_the_lab(family, tmp_path):
    write_tensors(tmp_path / "m", {}, dict(family=family, state={}))
    with pytest.raises(LabError, match="unknown family of forecasters"):
        load_model(tmp_path / "m")


def test_a_class_that_is_no_forecaster_is_no_family(tmp_path):
    write_tensors(tmp_path / "m", {}, dict(family="core.panel:Panel", state={}))
    with pytest.raises(LabError, match="unknown family of forecasters"):
        load_model(tmp_path / "m")


def test_a_forecaster_of_a_new_room_is_found_where_its_file_says(tmp_path, monkeypatch):
    room = tmp_path / "ocean"
    room.mkdir()
    (room / "__init__.py").write_text("")
    (room / "crust.py").write_text(
        "from forecastlab.demand.textbook import SeasonalNaive\n"
        "class Quakes(SeasonalNaive):\n    name = 'Quakes'\n"
    )
    monkeypatch.setattr(forecastlab, "__path__", [*forecastlab.__path__, str(tmp_path)])
    note = dict(family="ocean.crust:Quakes", state=dict(horizon=3))
    write_tensors(tmp_path / "m", {}, json.loads(json.dumps(note)))
    model = load_model(tmp_path / "m")
    assert (model.name, model.horizon) == ("Quakes", 3)
    assert isinstance(model, Forecaster)
    vars(Saved)["_families"].pop("ocean.crust:Quakes")
