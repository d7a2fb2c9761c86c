"Textbook methods: every frequency, every hard series, the published yardstick."

import numpy as np
import pandas as pd
import pytest
import torch

from forecastlab.core.basics import LabError
from forecastlab.core.forecaster import load_model
from forecastlab.core.metrics import mean_wql
from forecastlab.core.panel import Panel
from forecastlab.core.frequency import season_of
from forecastlab.demand.textbook import LEVELS, AutoETS, AutoTheta, CrostonSBA
from forecastlab.demand.textbook import EmpiricalQuantiles, PooledClimatology
from forecastlab.demand.textbook import SeasonalNaive, capped_tails, count_unit
from forecastlab.demand.textbook import normal_within

pytest.importorskip(
    "statsforecast",
    reason="the textbook methods need statsforecast: pip install 'forecastlab[demand]'",
)
METHODS = [
    SeasonalNaive(),
    EmpiricalQuantiles(),
    EmpiricalQuantiles(last=3, season=4),
    CrostonSBA(),
    AutoETS(progress=False),
    AutoTheta(season=4, progress=False),
    PooledClimatology(),
]
TENTHS = np.arange(1, 10) / 10
FREQUENCIES = [1, 7, *"s 15min h 6h D 2D B W-SUN W-WED MS ME QS QE-NOV YS YE".split()]
name = lambda m: type(m).__name__


def ragged(freq, lengths=(1, 2, 3, 5, 9, 17, 40, 70), seed=0, low=0.0):
    "Counts of different length that end together; holes, some in the last row."
    rng = np.random.default_rng(seed)
    frames = []
    grid = (
        np.arange(0, 70 * freq, freq)
        if isinstance(freq, int)
        else pd.date_range("2020-01-01", periods=70, freq=freq)
    )
    for i, n in enumerate(lengths):
        y = rng.negative_binomial(1, 0.3, n) + low
        y[(rng.random(n) < 0.2) & (np.arange(n) > 0)] = np.nan
        frames.append(
            pd.DataFrame({"unique_id": f"s{i}", "ds": grid[70 - n :], "y": y})
        )
    return Panel.from_frame(pd.concat(frames), freq=freq, fill="missing")


@pytest.mark.parametrize("freq", FREQUENCIES)
@pytest.mark.parametrize("method", METHODS, ids=name)
def test_each_method_answers_on_each_frequency_and_length(method, freq):
    panel = ragged(freq)
    f = method.fit(panel).predict(5)
    q = f.quantile(LEVELS)
    assert q.shape == (8, 5, len(LEVELS))
    assert torch.isfinite(q).all()
    assert (q.diff(dim=-1) >= 0).all()
    assert (q >= 0).all()
    assert f.dates.shape == (8, 5)
    assert (f.dates[:, 0] > panel.calendar.to_numpy()[-1]).all()
    assert f.distribution.domain == "nonnegative"
    assert f.model == name(method)


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_a_file_brings_the_method_back(method, tmp_path):
    panel = ragged("D")
    before = method.fit(panel).predict().quantile(LEVELS)
    path = tmp_path / "method.safetensors"
    method.save(path)
    again = load_model(path)
    assert again == method
    assert torch.equal(again.predict(panel=panel).quantile(LEVELS), before)
    with pytest.raises(LabError, match="no panel to forecast from"):
        again.predict()
    with pytest.raises(LabError, match="overwrite=True"):
        method.save(path)


def test_the_horizon_is_a_setting_and_any_other_may_be_asked_for():
    panel = ragged("D")
    model = EmpiricalQuantiles(3).fit(panel)
    assert model.predict().horizon == 3
    assert model.predict(30).horizon == 30
    assert model.longest is None
    assert SeasonalNaive().horizon == 8


@pytest.mark.parametrize(
    "method", [m for m in METHODS if name(m) != "CrostonSBA"], ids=name
)
def test_negative_targets_give_quantiles_on_the_whole_line(method):
    f = method.fit(ragged("D", low=-50.0)).predict(3)
    assert f.distribution.domain == "real" and (f.quantile([0.5]) < 0).all()


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_hard_cases_are_refused_by_name(method):
    panel = ragged("D")
    hollow = ragged("D")
    hollow.y[hollow.indptr[3] : hollow.indptr[4]] = np.nan
    for h in (0, -1):
        with pytest.raises(ValueError, match=f"at least 1 step, asked for {h}"):
            method.fit(panel).predict(h)
    with pytest.raises(TypeError, match="whole number of steps, got 2.5"):
        method.fit(panel).predict(2.5)
    with pytest.raises(ValueError, match="1 series have no observed value: s3"):
        method.fit(hollow)
    with pytest.raises(ValueError, match="1 series have no observed value: s3"):
        method.fit(panel).predict(2, hollow)
    with pytest.raises(RuntimeError, match="Call fit"):
        type(method)().predict(2)
    with pytest.raises(TypeError, match="Build one with Panel.from_frame"):
        method.fit(panel.to_frame())


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_nothing_after_the_origin_is_read(method):
    panel = ragged("W-SUN", lengths=(30, 50, 70))
    past = panel.cut(60)
    plain = method.fit(past).predict(4).quantile(LEVELS)
    planted = panel.cut(60)
    after = np.concatenate(
        [
            np.arange(a + n, b)
            for a, n, b in zip(past.indptr, past.length, past.indptr[1:])
        ]
    )
    # rows beyond `length`, which a panel hides as NaN
    assert len(after)
    planted.y[after] = 1e9
    assert torch.equal(method.predict(4, planted).quantile(LEVELS), plain)


def test_a_panel_on_disk_gives_the_same_numbers(tmp_path):
    panel = ragged("D")
    panel.save(tmp_path / "p")
    disk = Panel.load(tmp_path / "p")
    assert isinstance(disk.y, np.memmap)
    for m in METHODS:
        assert torch.equal(
            m.fit(panel).predict(3).quantile(LEVELS),
            m.fit(disk).predict(3).quantile(LEVELS),
        )


def test_empirical_quantiles_equal_a_loop_over_series():
    panel = ragged("D", lengths=range(1, 61))
    q = EmpiricalQuantiles(last=10).fit(panel).predict(2).quantile(TENTHS)
    seen = [y[np.isfinite(y)][-10:] for y in map(panel.history, range(60))]
    np.testing.assert_allclose(
        q[:, 1], [np.quantile(y, TENTHS) for y in seen], atol=1e-5
    )


def test_seasonal_naive_equals_a_loop_over_series():
    y = np.random.default_rng(4).gamma(2, 5, (20, 60)).astype(np.float32)
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i:02d}" for i in range(20)], 60),
            "ds": np.tile(np.arange(60), 20),
            "y": y.ravel(),
        }
    )
    q = (
        SeasonalNaive(season=7)
        .fit(Panel.from_frame(frame, freq=1))
        .predict(10)
        .quantile(TENTHS)
    )
    for k in range(10):
        lag = 7 * (k // 7 + 1)
        expect = (
            y[:, [60 + k - lag]]
            + np.quantile(y[:, lag:] - y[:, :-lag], TENTHS, axis=1).T
        )
        np.testing.assert_allclose(q[:, k], expect.clip(0), atol=1e-4)


def test_croston_equals_the_yardstick():
    from scipy import stats
    from statsforecast.models import CrostonSBA as Peer

    panel = ragged("W-SUN", lengths=range(20, 60))
    q = CrostonSBA().fit(panel).predict(3).quantile(TENTHS).numpy()
    for s in range(len(panel)):
        v = pd.Series(panel.history(s)).ffill().to_numpy()
        mu = max(Peer().forecast(v, 1)["mean"][0], 1e-6)
        r = max(v[-156:].var() / max(v[-156:].mean(), 1e-9), 1.0)
        counts = stats.poisson(mu) if r < 1.01 else stats.nbinom(mu / (r - 1), 1 / r)
        np.testing.assert_allclose(q[s, 2], counts.ppf(TENTHS), atol=1e-4)


def counts_and_weights(unit, offset=0.0, rows=64):
    "Ten series: five are counted, five weighed on seven days of ten."
    rng = np.random.default_rng(7)
    counted = rng.poisson(1.3, (5, rows)) * 1.0
    weighed = rng.binomial(1, 0.7, (5, rows)) * rng.uniform(0.1, 0.4, (5, rows))
    y = np.concatenate([counted, weighed]) * unit + offset
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(10)], rows),
            "ds": np.tile(pd.date_range("2021-01-03", periods=rows, freq="W-SUN"), 10),
            "y": y.ravel(),
        }
    )
    return Panel.from_frame(frame, freq="W-SUN"), y


@pytest.mark.parametrize("method", METHODS, ids=name)
@pytest.mark.parametrize("unit", [0.5, 0.001, 1000, 1e6])
def test_the_unit_of_measurement_is_nobodys_business(method, unit):
    plain = method.fit(counts_and_weights(1)[0]).predict(3).quantile(LEVELS)
    other = method.fit(counts_and_weights(unit)[0]).predict(3).quantile(LEVELS)
    # a whole count may fall on either side of a level
    near = torch.isclose(other / unit, plain, rtol=2e-2, atol=2e-3)
    assert near.float().mean() > 0.99


@pytest.mark.parametrize("name_", ["CrostonSBA", "AutoETS", "AutoTheta"])
def test_counts_are_whole_and_weights_are_not(name_):
    method = next(m for m in METHODS if name(m) == name_)
    panel, y = counts_and_weights(0.5)
    q = method.fit(panel).predict(2).quantile(LEVELS)
    counted, weighed = q[:5] / 0.5, q[5:] / 0.5
    assert (counted == counted.round()).all()
    assert (counted[..., 0] == 0).all() and (counted[..., -1] >= 3).all()
    assert (weighed[..., 0] == 0).all() and (weighed[..., -1] < 1).all()
    # three in ten are 0, and the rest is about a quarter
    at = lambda u: weighed[..., LEVELS.index(u)].mean()
    assert at(0.2) == 0 and 0.15 < at(0.5) < 0.3 and 0.25 < at(0.9) < 0.5


@pytest.mark.parametrize(
    "y, unit",
    [
        ([0, 2, 4, 0], 2),
        ([3, 0, np.nan, 5], 1),
        ([0.5, 1.5, 0], 0.5),
        ([0, 0], 1),
        ([-1, 2], 0),
        ([1000, 1001, 1003], 0),
        ([0.123, 0.771, 0.333, 0.0], 0),
    ],
)
def test_the_unit_is_read_from_the_history(y, unit):
    assert count_unit(np.array(y, np.float32)) == pytest.approx(unit)


def test_what_a_hundredth_of_service_costs_is_right_on_normal_data():
    rng = np.random.default_rng(9)
    y = 100 + 10 * rng.normal(size=(40, 200))
    grid = np.arange(200)
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(40)], 200),
            "ds": np.tile(grid, 40),
            "y": y.ravel(),
        }
    )
    panel = Panel.from_frame(frame, freq=1)
    truth = 10 * (1.644854 - 1.554774), 10 * (2.326348 - 2.053749)
    for model in (AutoETS(progress=False, n_jobs=1), AutoTheta(progress=False)):
        q = model.fit(panel).predict(1).quantile([0.94, 0.95, 0.98, 0.99])
        saved = (q[..., 1::2] - q[..., ::2]).mean((0, 1))
        np.testing.assert_allclose(saved, truth, rtol=0.06)


def test_the_pool_needs_no_long_history_and_comes_back_from_a_file(tmp_path):
    panel = ragged("W-SUN", lengths=(1, 2, 2, 3, 1))
    model = PooledClimatology(6).fit(panel)
    q = model.predict().quantile(LEVELS)
    assert torch.isfinite(q).all()
    assert not model.local
    # more steps than were learned: the last one goes on
    far = model.predict(9).quantile(LEVELS)
    assert torch.equal(far[:, :6], q) and torch.equal(far[:, 8], q[:, 5])
    other = ragged("W-SUN", seed=3)
    before = model.predict(panel=other).quantile(LEVELS)
    model.save(tmp_path / "pool.safetensors")
    again = load_model(tmp_path / "pool.safetensors")
    assert torch.equal(again.predict(panel=other).quantile(LEVELS), before)


def test_two_processes_give_what_one_gives():
    panel = ragged("D", lengths=[30] * 40)
    one = AutoETS(n_jobs=1, progress=False).fit(panel).predict(3)
    two = AutoETS(n_jobs=2, progress=False).fit(panel).predict(3)
    assert torch.equal(one.quantile(LEVELS), two.quantile(LEVELS))


def test_ets_answers_any_levels():
    panel = ragged("D", lengths=[40, 50])
    levels = (0.1, 0.5, 0.9, 0.95, 0.97)
    few = AutoETS(levels=levels, progress=False).fit(panel).predict(2)
    all_ = AutoETS(progress=False).fit(panel).predict(2)
    torch.testing.assert_close(few.quantile(levels[:4]), all_.quantile(levels[:4]))


def test_failed_fits_fall_back_and_are_counted(monkeypatch):
    from statsforecast import models

    fit = models.AutoETS.fit

    def broken(self, y):
        if len(y) == 40:
            raise RuntimeError("planted")
        return fit(self, y)

    def hollow(self, h, level):
        ends = (f"{side}-{w}" for side in ("lo", "hi") for w in level)
        return {name: np.full(h, np.nan) for name in ("mean", *ends)}

    monkeypatch.setattr(models.AutoETS, "fit", broken)
    monkeypatch.setattr(models.AutoETS, "predict", hollow)
    panel = ragged("D", lengths=[40, 50])
    model = AutoETS(progress=False).fit(panel)
    q = model.predict(2).quantile(LEVELS)
    told = {reason: list(ids) for reason, ids in model.notes.items()}
    assert told == {"failed or too short: recent quantiles": ["s0", "s1"]}
    assert torch.equal(q, EmpiricalQuantiles().fit(panel).predict(2).quantile(LEVELS))


def test_the_guard_leaves_plausible_intervals_alone():
    mean, deviation = np.full((50, 4), 8.0), np.full((50, 4), 2.0)
    seen = np.tile([0.0, 12.0], (50, 1))
    mean[1, 3], mean[2, 0], deviation[3, 2] = 1e6, -1e6, 40.0
    believed = normal_within(mean, deviation, seen)
    assert list(np.flatnonzero(~believed)) == [1, 2, 3]
    values = np.sort(np.random.default_rng(5).uniform(0, 20, (50, 4, 23)), -1)
    q, capped = capped_tails(values, seen)
    assert not capped.any() and (q == values).all()
    values[0, 2, -1] = 1e6
    q, capped = capped_tails(values, seen)
    assert list(np.flatnonzero(capped)) == [0]
    assert q[0, 2, -1] == pytest.approx(24, rel=1e-3)
    assert (q[0, 2, :-1] == values[0, 2, :-1]).all()


@pytest.mark.parametrize("digits", [1, 6])
def test_an_explosion_is_seen_whether_a_series_is_counted_or_weighed(digits):
    spiky = np.exp(np.random.default_rng(5).normal(0, 2, 60)).round(digits) + 0.1
    frame = pd.DataFrame({"unique_id": "s0", "ds": np.arange(60), "y": spiky})
    panel = Panel.from_frame(frame, freq=1)
    model = AutoETS(progress=False).fit(panel)
    q = model.predict(4).quantile(LEVELS)
    assert list(model.notes) == ["exploded: recent quantiles"]
    assert torch.equal(q, EmpiricalQuantiles().fit(panel).predict(4).quantile(LEVELS))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: EmpiricalQuantiles(last=0), "last must"),
        (lambda: SeasonalNaive(season=0), "season must"),
        (lambda: CrostonSBA(window=1), "window must"),
        (lambda: AutoETS(season=52), "at most 24"),
        (lambda: AutoETS(tail=1.5), "tail must"),
        (lambda: AutoETS(damped="yes"), "damped"),
        (lambda: AutoTheta(season=0), "season must"),
        (lambda: PooledClimatology(weight=-1), "weight must"),
        (lambda: AutoETS(ranges=-1), "ranges must"),
        (lambda: EmpiricalQuantiles(horizon=0), "horizon must"),
        (lambda: SeasonalNaive(levels=(0.5, 0.1)), "increase"),
        (lambda: season_of("fortnight"), "unknown frequency"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.fixture(scope="module")
def yardstick(mirror):
    "(name) -> history, targets, horizon of a data set with published scores."
    from forecastlab.core.datasets import load

    made = {}

    def read(which):
        if which not in made:
            data = load(which)
            panel = data.panel()
            past = panel.cut(len(panel.calendar) - data.horizon - 1)
            made[which] = (
                past,
                panel.select(past.ids).actual(past.last, data.horizon),
                data.horizon,
            )
        return made[which]

    return read


def score(yardstick, which, model):
    past, y, h = yardstick(which)
    return mean_wql(y, model.fit(past).predict(h).quantile(TENTHS).numpy(), TENTHS)


@pytest.mark.parametrize(
    "which, model, published",
    [
        ("breakfast_at_the_frat", EmpiricalQuantiles(last=13), 0.3997),
        ("breakfast_at_the_frat", CrostonSBA(), 0.4180),
        ("m5_foods3_tx3", EmpiricalQuantiles(last=28), 0.5169),
        ("m5_foods3_tx3", CrostonSBA(), 0.5100),
        ("breakfast_at_the_frat", PooledClimatology(), 0.3971),
    ],
    ids=str,
)
def test_the_yardstick_is_reproduced(yardstick, which, model, published):
    assert score(yardstick, which, model) == pytest.approx(published, abs=0.0005)


@pytest.mark.long
def test_the_yardstick_of_ets_is_reproduced_and_the_guard_does_not_cost(yardstick):
    measured = lambda model: score(yardstick, "breakfast_at_the_frat", model)
    raw = measured(AutoETS(ranges=None, progress=False))
    assert raw == pytest.approx(0.4157, abs=0.002)
    guarded = measured(AutoETS(progress=False))
    assert guarded == pytest.approx(0.4102, abs=0.002)
