"""Where networks begin: at a forecast that no scale, level or share of zeros spoils.

Training ends where it stops helping, and what was settled can be read.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from forecastlab.core import neural
from forecastlab.core.forecaster import load_model
from forecastlab.core.metrics import mean_wql
from forecastlab.core.neural import WindowTask
from forecastlab.core.starts import STARTS
from forecastlab.demand.linear import PooledLinear
from forecastlab.demand.mq import MQCNN, MQDense
from forecastlab.demand.textbook import EmpiricalQuantiles
from toys import QUIET, planted, several

torch.set_num_threads(1)
HORIZON = 4
LEVELS = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
SMALL = dict(channels=8, dilations=(1, 2), mixing=8, agnostic=8, local=8)


def q(forecast, levels=LEVELS):
    return forecast.quantile(levels).numpy().astype(float)


def weekly(n=12, rows=90):
    "Days with a season, without the promotions that explain the rest."
    return several(planted(n, rows).y.reshape(n, rows), "D")


def noise(seed=0, n=30, rows=60):
    "A panel that holds nothing to learn but its distribution."
    return several(np.random.default_rng(seed).gamma(2, 3, (n, rows)), "W-SUN")


# --- any scale, any level, any share of zeros

SHAPES = {
    "normal": lambda rng, size: rng.normal(0, 1, size),
    "gamma": lambda rng, size: rng.gamma(1.5, 1, size),
    "counts": lambda rng, size: rng.poisson(3, size).astype(float),
}


def against_climatology(model, shape, seed, scale=1.0, offset=0.0, zeros=0.0):
    """The model's loss over that of the quantiles of all history, both on fresh data.

    Sixty series of sixty weeks; `offset` is in spreads.
    """
    rng = np.random.default_rng(seed)
    size = np.exp(rng.normal(0, 0.5, (60, 1)))

    def drawn(rows):
        "So many rows of every series."
        y = size * (SHAPES[shape](rng, (60, rows)) + offset)
        y[rng.random(y.shape) < zeros] = 0
        return (scale * y).astype(np.float32)

    return over_climatology(model, drawn(60), drawn(300))


def over_climatology(model, history, fresh):
    "The same of histories (series, row) and other rows (series, any) of their law."
    panel, fresh = several(history, "W-SUN"), fresh.astype(float)
    losses = []
    for asked in (model, EmpiricalQuantiles(HORIZON, last=history.shape[1])):
        found = q(asked.fit(panel).predict(HORIZON))
        gap = fresh[:, None, :, None] - found[:, :, None]
        losses.append(np.maximum(LEVELS * gap, (LEVELS - 1) * gap).mean())
    return losses[0] / losses[1]


powers = st.floats(-6, 6).map(lambda x: 10.0**x)
levels_far_from_0 = st.one_of(
    st.just(0.0),
    st.builds(
        lambda x, sign: sign * 10.0**x, st.floats(-1, 6), st.sampled_from([-1, 1])
    ),
)
seeds = st.integers(0, 2**31)


def network():
    return MQCNN(HORIZON, steps=30, training=QUIET, **SMALL)


# the draws are the same at every run: luck is not what is tested
SAME = dict(deadline=None, derandomize=True)


@settings(max_examples=12, **SAME)
@given(st.sampled_from(list(SHAPES)), seeds, powers, levels_far_from_0)
def test_no_scale_and_no_level_spoil_a_start(shape, seed, scale, offset):
    model = PooledLinear(HORIZON)
    assert against_climatology(model, shape, seed, scale, offset) < 1.05


@settings(max_examples=12, **SAME)
@given(st.sampled_from(["gamma", "counts"]), seeds, powers, st.floats(0, 0.97))
def test_no_share_of_zeros_spoils_a_start(shape, seed, scale, zeros):
    model = PooledLinear(HORIZON)
    assert against_climatology(model, shape, seed, scale, zeros=zeros) < 1.05


@settings(max_examples=3, **SAME)
@given(st.sampled_from(list(SHAPES)), seeds, powers, levels_far_from_0)
def test_no_scale_and_no_level_spoil_a_training(shape, seed, scale, offset):
    assert against_climatology(network(), shape, seed, scale, offset) < 1.05


@settings(max_examples=3, **SAME)
@given(st.sampled_from(["gamma", "counts"]), seeds, powers, st.floats(0, 0.97))
def test_no_share_of_zeros_spoils_a_training(shape, seed, scale, zeros):
    assert against_climatology(network(), shape, seed, scale, zeros=zeros) < 1.05


@pytest.mark.parametrize("centre", [False, True])
def test_far_from_0_training_moves_in_units_of_what_varies(centre):
    "A step of a weight is no step of the level, though all is relative to it."
    model = MQCNN(
        HORIZON, steps=30, training=QUIET, start="linear", centre=centre, **SMALL
    )
    assert against_climatology(model, "normal", 1, offset=1e4) < 1.1


@pytest.mark.parametrize("level", [1e3, 1e6])
def test_intervals_are_as_wide_as_the_noise_however_far_from_0(level):
    y = level + np.random.default_rng(3).normal(size=(30, 80))
    low, high = np.moveaxis(
        q(network().fit(several(y, "W-SUN")).predict(), [0.1, 0.9]), -1, 0
    )
    # of a normal: 2.56
    assert (high - low).mean() == pytest.approx(2.56, rel=0.15)


def test_rare_and_heavy_demand_is_not_forecast_as_nothing():
    "Spare parts: nine weeks of ten without any, sizes of several orders of magnitude."
    rng = np.random.default_rng(0)
    n, rows = 150, 450
    rate = np.exp(rng.normal(-3.3, 1.6, (n, 1))).clip(0.002, 0.9)
    size = np.exp(rng.normal(2.5, 1.6, (n, 1)) + rng.normal(0, 1, (n, rows)))
    y = np.round((rng.random((n, rows)) < rate) * size)
    assert 0.88 < (y == 0).mean() < 0.94
    model = MQCNN(HORIZON, steps=60, training=QUIET, **SMALL)
    assert over_climatology(model, y[:, :150], y[:, 150:]) < 1.05
    # what sells in one week of twenty has a 99 % quantile above 0
    assert (q(model.predict(), [0.99])[rate[:, 0] > 0.05] > 0).mean() > 0.9


# --- a start is the forecast until training says otherwise


@pytest.mark.parametrize("start", STARTS)
def test_an_untrained_network_is_its_start(start):
    panel = weekly()
    same = dict(
        start=start, context=40, forks=13, support="real", levels=(0.1, 0.5, 0.9)
    )
    network = MQDense(HORIZON, training=QUIET | dict(steps=0), **same)
    found, wanted = (
        q(m.fit(panel).predict(), same["levels"])
        for m in (network, PooledLinear(HORIZON, **same))
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_a_start_may_be_asked_for_by_its_name():
    panel = weekly()
    for start in STARTS:
        model = PooledLinear(HORIZON, start=start).fit(panel)
        assert model.settings.start == start and start in model.explain()
    # "auto" is what happens without a word
    found = [PooledLinear(HORIZON, **k).fit(panel) for k in ({}, dict(start="auto"))]
    assert found[0].settings == found[1].settings


# --- as many steps as help

ADAPTIVE = dict(horizon=7, batch=16, context=28, forks=14, **SMALL)


@pytest.fixture()
def hasty(monkeypatch):
    "Short trainings, so that a test may try them."
    monkeypatch.setattr(neural, "LADDER", (10, 20, 50))


def test_where_nothing_helps_the_start_is_delivered(hasty, tmp_path):
    panel = noise(seed=1, rows=80)
    model = MQCNN(training=QUIET, **ADAPTIVE).fit(panel)
    assert model.explain().splitlines()[-1].startswith("steps: 0, of 0, 20, 50 that")
    start = PooledLinear(7, 28, forks=14).fit(panel)
    np.testing.assert_allclose(q(model.predict()), q(start.predict()), atol=0.05)
    # what was settled is kept in the file
    model.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert again.explain() == model.explain()
    assert repr(again) == repr(model) and "steps" not in repr(model)


def test_where_training_helps_it_is_taken_as_far_as_it_does(hasty):
    panel = planted(n=20, rows=110)
    seen = panel.cut(len(panel.calendar) - 8)
    model = MQCNN(training=QUIET | dict(lr=1e-2), **ADAPTIVE).fit(seen)
    words = model.explain().splitlines()[-1]
    assert words.startswith("steps: 50, of 0, 20, 50") and "that of the start" in words
    start = PooledLinear(7, 28, forks=14).fit(seen)
    actual = panel.actual(seen.last, 7)
    mine, other = (
        mean_wql(actual, q(m.predict(7, seen)), LEVELS) for m in (model, start)
    )
    assert mine < 0.9 * other


def test_half_of_what_was_learned_lies_between_the_start_and_the_end(tmp_path):
    panel = planted(n=20, rows=60)
    untrained, model = (
        MQCNN(training=QUIET | dict(lr=1e-2, steps=steps), **ADAPTIVE).fit(panel)
        for steps in (0, 5)
    )
    start = untrained.networks[0].state_dict()
    whole = model.networks[0].state_dict()
    model.adaptive, model.stop, model.trust = True, 5, 0.5
    half = model.fit_again(panel).networks[0].state_dict()
    for name, value in half.items():
        head = ".head." in name
        wanted = (start[name] + whole[name]) / 2 if head else whole[name]
        torch.testing.assert_close(value, wanted)
    # a file keeps what was settled
    model.save(tmp_path / "m")
    assert load_model(tmp_path / "m").trust == 0.5


@pytest.mark.parametrize("dies", [7, 43])
def test_a_killed_search_for_the_steps_goes_on_to_the_same_forecast(
    tmp_path, monkeypatch, dies
):
    "Killed in the first trainings, and in the last, which has all rows."
    monkeypatch.setattr(neural, "LADDER", (5, 10, 25))
    panel, fast = planted(n=8, rows=60), dict(lr=1e-2, checkpoint_every=5)

    def make(**more):
        return MQCNN(training=QUIET | fast, dropout=0.1, **ADAPTIVE | more)

    seen = panel.cut(len(panel.calendar) - 8)
    draw, count = WindowTask.draw, []

    def counting(task, generator):
        count.append(1)
        return draw(task, generator)

    def dying(task, generator):
        if len(count) == dies:
            raise KeyboardInterrupt
        return counting(task, generator)

    def steps_of(model, drawn):
        "The model, fitted, and the steps that it took."
        count.clear()
        with monkeypatch.context() as patch:
            patch.setattr(WindowTask, "draw", drawn)
            return model.fit(seen), len(count)

    whole, steps = steps_of(make(), counting)
    assert steps > dies
    with pytest.raises(KeyboardInterrupt):
        steps_of(make(checkpoint=tmp_path), dying)
    resumed, rest = steps_of(make(checkpoint=tmp_path), counting)
    assert rest == steps - dies // 5 * 5
    assert resumed.explain() == whole.explain()
    assert np.array_equal(q(resumed.predict(7, seen)), q(whole.predict(7, seen)))
