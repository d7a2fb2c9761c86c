"""Scores agree with utilsforecast and GluonTS on the same numbers, keep their promises
on any numbers, and refuse what they cannot score.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_equal

from forecastlab.core import metrics as m
from forecastlab.core.distributions import Counts, QuantileFunction, QuantileGrid

LEVELS = np.arange(1, 10) / 10
NAMES = [f"Model-q-{a:g}" for a in LEVELS]
SERIES, HORIZON, TIME, SEASON = 7, 12, 40, 4


@pytest.fixture(scope="module")
def numbers():
    "Targets (series, horizon), quantiles (.., level), history (series, time)."
    rng = np.random.default_rng(11)
    y = rng.gamma(2, 10, (SERIES, HORIZON))
    y[rng.random(y.shape) < 0.15] = 0
    q = np.sort(y[..., None] + rng.normal(0, 9, y.shape + (9,)), axis=-1)
    return y, q, rng.gamma(2, 10, (SERIES, TIME))


@pytest.fixture(scope="module")
def frames(numbers):
    "The same numbers in utilsforecast's long form: forecasts and training history."
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    y, q, history = numbers
    ids = np.array([f"s{i}" for i in range(SERIES)])
    df = pd.DataFrame(
        {
            "unique_id": ids.repeat(HORIZON),
            "ds": np.tile(TIME + np.arange(HORIZON), SERIES),
            "y": y.ravel(),
            "Model": q[..., 4].ravel(),
        }
    )
    df = df.assign(
        **{n: q[..., i].ravel() for i, n in enumerate(NAMES)},
        **{"Model-lo-80": q[..., 0].ravel(), "Model-hi-80": q[..., 8].ravel()},
    )
    train = pd.DataFrame(
        {
            "unique_id": ids.repeat(TIME),
            "ds": np.tile(np.arange(TIME), SERIES),
            "y": history.ravel(),
        }
    )
    return df, train


@pytest.fixture(scope="module")
def losses():
    return pytest.importorskip(
        "utilsforecast.losses",
        reason="utilsforecast is not installed (it is in the dev extra)",
    )


def close(ours, frame, factor=1.0):
    assert_allclose(
        ours,
        factor * frame.sort_values("unique_id")["Model"].to_numpy(),
        rtol=0,
        atol=1e-6,
    )


# ---------------------------------------------------------------- utilsforecast


@pytest.mark.parametrize("k", [0, 4, 8])
def test_pinball_is_utilsforecast_quantile_loss(numbers, frames, losses, k):
    y, q, _ = numbers
    close(
        m.pinball(y, q, LEVELS)[..., k].mean(-1),
        losses.quantile_loss(frames[0], {"Model": NAMES[k]}, q=LEVELS[k]),
    )


def test_mean_pinball_is_utilsforecast_mqloss(numbers, frames, losses):
    y, q, _ = numbers
    close(
        m.pinball(y, q, LEVELS).mean((1, 2)),
        losses.mqloss(frames[0], {"Model": NAMES}, quantiles=LEVELS),
    )


def test_wql_of_each_series_is_utilsforecast_scaled_crps(numbers, frames, losses):
    y, q, _ = numbers
    close(
        m.mean_wql(y, q, LEVELS, axis=-1),
        losses.scaled_crps(frames[0], {"Model": NAMES}, quantiles=LEVELS),
    )


def test_a_masked_cell_is_a_dropped_row(numbers, frames, losses):
    y, q, _ = numbers
    y = y.copy()
    y[:, ::5] = np.nan
    df = frames[0][~np.isnan(y.ravel())]
    close(
        m.mean_wql(y, q, LEVELS, axis=-1),
        losses.scaled_crps(df, {"Model": NAMES}, quantiles=LEVELS),
    )
    close(m.smape(y, q[..., 4], axis=-1), losses.smape(df, ["Model"]))
    close(
        m.interval_share(y, q[..., 0], q[..., 8], axis=-1),
        losses.coverage(df, ["Model"], level=80),
    )


def test_coverage_and_calibration_are_utilsforecast_s(numbers, frames, losses):
    y, q, _ = numbers
    close(
        m.interval_share(y, q[..., 0], q[..., 8], axis=-1),
        losses.coverage(frames[0], ["Model"], level=80),
    )
    for k in (0, 4, 8):
        close(
            m.calibration(y, q, LEVELS, axis=-1, count="upto")[:, k],
            losses.calibration(frames[0], {"Model": NAMES[k]}),
        )


def test_smape_is_utilsforecast_s(numbers, frames, losses):
    y, q, _ = numbers
    close(m.smape(y, q[..., 4], axis=-1), losses.smape(frames[0], ["Model"]))


@pytest.mark.parametrize("season", [1, SEASON])
def test_scaled_errors_are_utilsforecast_s(numbers, frames, losses, season):
    y, q, history = numbers
    df, train = frames
    close(
        m.mase(y, q[..., 4], history, season),
        losses.mase(df, ["Model"], seasonality=season, train_df=train),
    )
    ours = m.scaled_quantile_loss(y, q, LEVELS, history, season)
    for k in (0, 4, 8):
        theirs = losses.scaled_quantile_loss(
            df, {"Model": NAMES[k]}, seasonality=season, train_df=train, q=LEVELS[k]
        )
        close(ours[:, k], theirs, factor=2)
    close(
        ours.mean(-1),
        losses.scaled_mqloss(
            df, {"Model": NAMES}, quantiles=LEVELS, seasonality=season, train_df=train
        ),
        factor=2,
    )


# ---------------------------------------------------------------- GluonTS


@pytest.fixture(scope="module")
def ev():
    return pytest.importorskip(
        "gluonts.ev.metrics", reason="gluonts is not installed (it is in the dev extra)"
    )


def gluon(metric, y, q, history=None, axis=None):
    "One GluonTS metric on our arrays, NaN targets masked."
    data = {"label": np.ma.masked_invalid(y)} | {
        f"{a:g}": q[..., i] for i, a in enumerate(LEVELS)
    }
    if history is not None:
        data["seasonal_error"] = np.abs(
            history[:, SEASON:] - history[:, :-SEASON]
        ).mean(1, keepdims=True)
    return float(metric(axis=axis).update(data).get())


@pytest.mark.parametrize("masked", [False, True])
def test_scores_are_gluonts(numbers, ev, masked):
    # GluonTS has no sMAPE for 0 against 0
    y, q, history = numbers
    y = np.where(y == 0, 1.0, y)
    if masked:
        y[:, ::5] = np.nan
    g = lambda metric, **k: gluon(metric, y, q, **k)
    levels = [round(a, 1) for a in LEVELS.tolist()]
    same = lambda ours, theirs: assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    same(m.mean_wql(y, q, LEVELS), g(ev.MeanWeightedSumQuantileLoss(levels)))
    same(m.wql(y, q, LEVELS), [g(ev.WeightedSumQuantileLoss(a)) for a in levels])
    same(m.wql(y, q, LEVELS)[4], g(ev.ND("0.5")))
    plain = dict(count="upto")
    same(m.calibration(y, q, LEVELS, **plain), [g(ev.Coverage(a)) for a in levels])
    same(m.calibration_error(y, q, LEVELS, **plain), g(ev.MAECoverage(levels)))
    same(m.smape(y, q[..., 4], "m4"), g(ev.SMAPE("0.5")))
    # GluonTS pools scaled cells, we average series: the same while every series has as
    # many cells
    same(
        m.mase(y, q[..., 4], history, SEASON).mean(), g(ev.MASE("0.5"), history=history)
    )
    same(
        m.scaled_quantile_loss(y, q, LEVELS, history, SEASON).mean(),
        g(ev.AverageMeanScaledQuantileLoss(levels), history=history),
    )
    row = m.score(y, q, LEVELS, scale=m.seasonal_scale(history, SEASON))
    same(row["mase"], g(ev.MASE("0.5"), history=history))
    same(row["wql"], g(ev.MeanWeightedSumQuantileLoss(levels)))


def test_seasonal_scale_is_gluonts_seasonal_error(numbers, ev):
    from gluonts.ev.ts_stats import seasonal_error

    history = numbers[2]
    assert_allclose(
        m.seasonal_scale(history, SEASON),
        seasonal_error(history, SEASON, time_axis=1)[:, 0],
    )
    assert_allclose(
        m.seasonal_scale(
            history.ravel(), SEASON, indptr=np.arange(0, SERIES * TIME + 1, TIME)
        ),
        m.seasonal_scale(history, SEASON),
    )


# ---------------------------------------------------------------- closed forms


def crps_pairs(y, x, fair=False):
    "The definition, pair by pair (as in properscoring)."
    n = len(x)
    return np.abs(x - y).mean() - 0.5 * np.abs(x[:, None] - x).sum() / (
        n * (n - 1) if fair else n * n
    )


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("n", [2, 3, 50])
def test_sorted_crps_is_the_pairwise_one(n, fair):
    rng = np.random.default_rng(n)
    y, x = rng.normal(size=(4, 3)), rng.normal(size=(n, 4, 3)).round(1)
    ours = m.crps_samples(y, x, fair)
    assert_allclose(
        ours,
        [[crps_pairs(y[i, j], x[:, i, j], fair) for j in range(3)] for i in range(4)],
        atol=1e-12,
    )


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("beta", [0.5, 1, 1.7])
def test_energy_score_is_the_pairwise_one(beta, fair):
    rng = np.random.default_rng(5)
    n = 20
    y, w = rng.normal(size=(3, 6)), rng.normal(size=(n, 3, 6))
    far = lambda a: np.linalg.norm(a, axis=-1) ** beta
    expected = far(w - y).mean(0) - 0.5 * far(w[:, None] - w).sum((0, 1)) / (
        n * (n - 1) if fair else n * n
    )
    assert_allclose(m.energy_score(y, w, beta, fair), expected)
    gap = y.copy()
    gap[0, 2] = np.nan
    gap[1] = np.nan
    got = m.energy_score(gap, w, beta, fair)
    assert_allclose(
        got[0],
        m.energy_score(np.delete(y[0], 2), np.delete(w[:, 0], 2, axis=-1), beta, fair),
    )
    assert np.isnan(got[1])
    assert_allclose(got[2], expected[2])


def test_crps_of_draws_reaches_the_normals_closed_form():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    z = np.linspace(-3, 3, 13)
    a = (np.arange(50_000) + 0.5) / 50_000
    exact = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    assert_allclose(
        m.crps_samples(z, np.tile(stats.norm.ppf(a)[:, None], 13)), exact, atol=5e-5
    )
    assert_allclose(
        m.crps_quantiles(z, np.tile(stats.norm.ppf(a), (13, 1)), a), exact, atol=2e-4
    )


def test_excess_volatility_on_ragged_origins_is_the_plain_sum():
    rng = np.random.default_rng(2)
    f, y = rng.normal(size=(30, 9)), rng.normal(size=30)
    f[rng.random(f.shape) < 0.4] = np.nan
    f[0] = np.nan
    f[1, 1:] = np.nan
    y[2] = np.nan
    expected = []
    for a, t in zip(f, y):
        a = a[~np.isnan(a)]
        expected.append(
            np.nan
            if len(a) < 2 or np.isnan(t)
            else (np.diff(a) ** 2).sum() - ((t - a[0]) ** 2 - (t - a[-1]) ** 2)
        )
    assert_allclose(m.excess_volatility(y, f), expected)


def test_revision_excess_on_ragged_origins_is_the_plain_sum_and_never_negative():
    rng = np.random.default_rng(4)
    levels = np.array([0.1, 0.5, 0.8])
    q, y = rng.normal(size=(30, 7, 3)), rng.normal(size=30)
    q[rng.random((30, 7)) < 0.4] = np.nan
    q[0] = np.nan
    q[1, 1:] = np.nan
    y[2] = np.nan
    expected = np.full((30, 3), np.nan)
    size = moved = 0.0
    for i, (rows, t) in enumerate(zip(q, y)):
        rows = rows[~np.isnan(rows[:, 0])]
        if len(rows) < 2 or np.isnan(t):
            continue
        expected[i] = 0
        for old, new in zip(rows, rows[1:]):
            gained = m.pinball(t, old, levels) - m.pinball(t, new, levels)
            for k, a in enumerate(levels):
                expected[i, k] += m.pinball(new[k], old[[k]], [a])[0] - gained[k]
            size, moved = size + abs(t), moved + np.abs(new - old)
    found = m.revision_excess(y, q, levels)
    assert_allclose(found, expected, atol=1e-12)
    assert np.nanmin(found) > -1e-12
    sums = m.calm(y, q, levels)
    assert_allclose(sums["sev"], np.nansum(expected, 0) / size)
    assert_allclose(sums["sfpc"], moved / size)


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_same_target_puts_every_forecast_in_its_place(step):
    f = np.arange(2 * 4 * 3.0).reshape(2, 4, 3)
    out = m.same_target(f, step)
    assert out.shape == (2, 3 * step + 3, 4)
    assert np.isfinite(out).sum() == f.size
    for o in range(4):
        for h in range(3):
            assert_equal(out[:, o * step + h, o], f[:, o, h])


# ---------------------------------------------------------------- jumps


class Law(QuantileFunction):
    "A law of scipy as a forecast."

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, law, n, domain="nonnegative"):
        self.law, self.domain = law, domain
        super().__init__((n,), validate_args=False)

    def cdf(self, value):
        return torch.as_tensor(self.law.cdf(value))


def drawn(kind, n=100_000):
    "An oracle over series of every size, or of one, its draws, and the law."
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    rng = np.random.default_rng(3)
    mean = np.exp(rng.normal(0.5, 1.5, n))
    law = {
        "poisson": stats.poisson(mean),
        "rare poisson": stats.poisson(np.full(n, 0.3)),
        "negative binomial": stats.nbinom(1.5, 1.5 / (1.5 + mean)),
        "gamma": stats.gamma(2.0, scale=mean),
    }[kind]
    return law, law.rvs(random_state=rng).astype(float), n


@pytest.mark.parametrize("kind", ["poisson", "rare poisson", "negative binomial"])
def test_a_right_count_forecast_covers_what_it_says_and_plain_counting_too_much(kind):
    law, y, n = drawn(kind)
    where = m.pit(y, Law(law, n))
    for percent in (80, 90, 95, 99):
        assert abs(m.coverage(y, where, percent=percent) - percent / 100) < 0.005
    plain = m.interval_share(y, law.ppf(0.025), law.ppf(0.975))
    assert plain > 0.965
    assert_allclose(m.pit_histogram(where), 1, atol=0.04)
    assert m.calibration_error(y, where, LEVELS) < 0.004


@pytest.mark.parametrize("kind", ["poisson", "negative binomial"])
def test_stored_quantiles_of_many_sizes_tell_the_coverage_of_counts(kind):
    law, y, n = drawn(kind, 10_000)
    levels = np.r_[0.005, 0.025, 0.05, LEVELS, 0.95, 0.975, 0.995]
    q = np.stack([law.ppf(a) for a in levels], -1)
    where = m.pit(y, q, levels)
    for percent in (80, 90, 95, 99):
        assert abs(m.coverage(y, where, percent=percent) - percent / 100) < 0.012


def test_without_jumps_coverage_is_the_plain_share():
    law, y, n = drawn("gamma", 20_000)
    levels = np.array([0.025, *LEVELS, 0.975])
    q = np.stack([law.ppf(a) for a in levels], -1)
    for percent, low, high in ((80, 1, 9), (95, 0, 10)):
        plain = m.interval_share(y, q[:, low], q[:, high])
        assert_allclose(m.coverage(y, q, levels, percent), plain, atol=1e-6)
        assert_allclose(m.coverage(y, Law(law, n), None, percent), plain, atol=1e-6)
    upto = m.calibration(y, q, levels, count="upto")
    assert_allclose(m.calibration(y, q, levels), upto, atol=1e-6)


@pytest.mark.parametrize("tiny", [0.0, 1e-9])
@pytest.mark.parametrize("unit", [1.0, 0.37])
def test_zeros_are_shared_where_a_forecast_stops_at_zero_or_a_hair_above(tiny, unit):
    rng = np.random.default_rng(0)
    y = unit * rng.choice([0.0, 0, 0, 1, 2], 20_000)
    # right at levels up to 0.6, where the zeros end
    q = unit * np.array([tiny] * 6 + [1, 1, 2])
    q = np.tile(q, (len(y), 1))
    assert m.interval_share(y, q[:, 0], q[:, 8]) == (1 if tiny == 0 else (y > 0).mean())
    share = m.calibration(y, q, LEVELS)
    assert_allclose(share[:6], LEVELS[:6], atol=0.06)
    assert abs(m.coverage(y, q, LEVELS) - 0.8) < 0.07


def test_a_count_forecast_is_judged_by_its_own_cdf():
    values = torch.tensor([[0.0, 0.4, 1.2, 2.9]]).expand(2, 4)
    law = Counts(QuantileGrid([0.2, 0.5, 0.7, 0.9], values, support="nonnegative"))
    where = m.pit([1.0, 0.0], law)
    assert_allclose(where.low, [float(law.cdf(torch.zeros(2))[0]), 0], atol=1e-6)
    assert_allclose(where.high, law.cdf(torch.tensor([1.0, 0.0])), atol=1e-6)


# ---------------------------------------------------------------- properties

finite = st.floats(-1e3, 1e3, allow_nan=False, width=32)
cells = hnp.arrays(
    float, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=finite
)
common = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def forecasts(draw):
    y = draw(cells)
    q = np.sort(draw(hnp.arrays(float, y.shape + (9,), elements=finite)), axis=-1)
    return y, q


@common
@given(forecasts(), st.floats(0.01, 100))
def test_scores_are_non_negative_and_scale(pair, c):
    y, q = pair
    for f in (
        lambda s: m.pinball(s * y, s * q, LEVELS),
        lambda s: m.crps_quantiles(s * y, s * q, LEVELS),
        lambda s: m.crps_samples(s * y, s * np.moveaxis(q, -1, 0)),
        lambda s: m.energy_score(s * y, s * np.moveaxis(q, -1, 0)),
        lambda s: m.width(s * y, s * q[..., 0], s * q[..., -1]),
    ):
        assert (f(1.0) >= -1e-9).all()
        assert_allclose(f(c), c * f(1.0), rtol=1e-9, atol=1e-9)
    if np.abs(y).sum() > 1e-6:
        assert_allclose(m.wql(c * y, c * q, LEVELS), m.wql(y, q, LEVELS), rtol=1e-9)


@common
@given(forecasts(), finite)
def test_shifting_everything_changes_no_score(pair, c):
    y, q = pair
    x = np.moveaxis(q, -1, 0)
    assert_allclose(m.pinball(y + c, q + c, LEVELS), m.pinball(y, q, LEVELS), atol=1e-8)
    assert_allclose(
        m.crps_samples(y + c, x + c, fair=True),
        m.crps_samples(y, x, fair=True),
        atol=1e-8,
    )
    assert_equal(
        m.interval_share(y, q[..., 0], q[..., -1]),
        m.interval_share(-y, -q[..., -1], -q[..., 0]),
    )


@common
@given(cells, finite, st.integers(1, 6))
def test_crps_of_a_point_mass_is_the_absolute_error(y, f, n):
    assert_allclose(
        m.crps_samples(y, np.full((n,) + y.shape, f)), np.abs(y - f), atol=1e-9
    )
    # a grid integrates only between its first and last level: 2 rho summed with
    # trapezoid weights, 0.4 on either side
    assert_allclose(
        m.crps_quantiles(y, np.full(y.shape + (9,), f), LEVELS),
        0.8 * np.abs(y - f),
        atol=1e-9,
    )
    assert_allclose(
        m.energy_score(y, np.full((n,) + y.shape, f)),
        np.linalg.norm(y - f, axis=-1),
        atol=1e-9,
    )


@common
@given(forecasts(), st.booleans())
def test_energy_score_in_one_dimension_is_the_crps(pair, fair):
    y, q = pair
    x = np.moveaxis(q, -1, 0)
    assert_allclose(
        m.energy_score(y[..., None], x[..., None], fair=fair),
        m.crps_samples(y, x, fair),
        atol=1e-8,
    )


@common
@given(forecasts(), st.data())
def test_masked_cells_change_nothing(pair, data):
    y, q = pair
    mask = data.draw(hnp.arrays(bool, y.shape))
    mask.flat[0] = False
    # nor need they have a forecast
    gone = np.where(mask, np.nan, y)
    keep = ~mask
    wild = np.where(mask[..., None], np.nan, q)
    assert_allclose(
        m.calibration(gone, wild, LEVELS), m.calibration(y[keep], q[keep], LEVELS)
    )
    assert_allclose(
        m.interval_share(gone, wild[..., 0], wild[..., 8]),
        m.interval_share(y[keep], q[keep][:, 0], q[keep][:, 8]),
    )
    assert_allclose(
        m.coverage(gone, wild, LEVELS), m.coverage(y[keep], q[keep], LEVELS)
    )
    assert_allclose(m.smape(gone, wild[..., 4]), m.smape(y[keep], q[keep][:, 4]))
    assert_equal(np.isnan(m.pinball(gone, wild, LEVELS)).all(-1), mask)
    assert_allclose(
        m.crps_samples(gone, np.moveaxis(wild, -1, 0))[keep],
        m.crps_samples(y[keep], q[keep].T),
    )
    if np.abs(y[keep]).sum() > 1e-6:
        assert_allclose(m.wql(gone, wild, LEVELS), m.wql(y[keep], q[keep], LEVELS))
        assert_allclose(
            list(m.score(gone, wild, LEVELS).values()),
            list(m.score(y[keep], q[keep], LEVELS).values()),
        )


@common
@given(forecasts())
def test_shares_are_shares_and_bounds_hold(pair):
    y, q = pair
    share = m.calibration(y, q, LEVELS)
    assert ((0 <= share) & (share <= 1)).all()
    assert (np.diff(share) >= 0).all()
    assert m.crossing(q) == 0
    forgiven = m.calibration_error(y, q, LEVELS, ties=True)
    assert forgiven <= m.calibration_error(y, q, LEVELS) + 1e-12
    assert 0 <= m.smape(y, q[..., 4]) <= 1
    assert 0 <= m.smape(y, q[..., 4], "m4") <= 2


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "call, says",
    [
        (
            lambda: m.wql(np.full(3, np.nan), np.ones((3, 1)), [0.5]),
            "nothing to score, every target is NaN",
        ),
        (
            lambda: m.wql(np.zeros(3), np.ones((3, 1)), [0.5]),
            "every scored target is zero",
        ),
        (
            lambda: m.width(np.zeros(3), np.zeros(3), np.ones(3), relative=True),
            "every scored target is zero",
        ),
        (lambda: m.pinball([1.0, np.inf], np.ones((2, 1)), [0.5]), "infinite targets"),
        (
            lambda: m.pinball([1.0], [[1.0, 2.0]], [0.5]),
            "1 levels for quantiles of shape",
        ),
        (
            lambda: m.pinball([1.0], [[1.0, 2.0]], [0.0, 1.0]),
            "strictly between 0 and 1: 0.0, 1.0",
        ),
        (
            lambda: m.crps_quantiles([1.0], [[1.0, 2.0]], [0.9, 0.1]),
            "levels must increase without repeats: 0.9, 0.1",
        ),
        (lambda: m.crps_quantiles([1.0], [[1.0]], [0.5]), "at least two levels"),
        (
            lambda: m.interval_share([1.0, 2.0], [0.0, 0.0], [1.0]),
            r"hi has shape \(1,\)",
        ),
        (
            lambda: m.coverage([1.0], [[1.0, 2.0]], [0.2, 0.8]),
            "reach from 0.2 to 0.8, a 80 % interval from 0.1 to 0.9",
        ),
        (lambda: m.coverage([1.0], [[1.0, 2.0]]), "quantiles need their levels"),
        (lambda: m.crps_samples([1.0], [[1.0]], fair=True), "at least two samples"),
        (lambda: m.crps_samples([1.0], [1.0, 2.0]), "samples have shape"),
        (
            lambda: m.energy_score([1.0], [[np.nan]]),
            "samples are not finite in 1 scored cells",
        ),
        (
            lambda: m.energy_score([1.0], [[1.0]], beta=2),
            r"beta must lie in \(0, 2\), got 2",
        ),
        (
            lambda: m.mase([[1.0]], [[1.0]], [[3.0, 3.0, 3.0]]),
            "no series has both a scored target and a seasonal scale",
        ),
        (lambda: m.seasonal_scale([1.0, 2.0], 0), "season must be a whole number"),
        (lambda: m.smape([1.0], [1.0], "mape"), "unknown sMAPE definition: mape"),
        (lambda: m.volatility(np.zeros((2, 3))), "every revised forecast is zero"),
        (
            lambda: m.volatility(np.array([[1.0], [2.0]])),
            "no target was forecast from two origins",
        ),
        (lambda: m.excess_volatility([1.0, 2.0], [1.0, 2.0]), "Expected"),
        (lambda: m.calm([1.0, 2.0], np.ones((2, 3)), [0.5]), "Expected"),
        (lambda: m.calm([1.0], np.ones((1, 1, 1)), [0.5]), "no target was forecast"),
        (lambda: m.belief_movement([0.5, 1.5]), "beliefs are probabilities"),
        (
            lambda: m.score([1.0], [[1.0, 2.0]], [0.1, 0.9], scale=[1.0]),
            "need the level 0.5",
        ),
        (
            lambda: m.score([1.0], [[1.0]], [0.5], scale=[1.0, 2.0]),
            "One scale a series",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_float32_and_torch_input_give_float64_scores(numbers):
    y, q, _ = numbers
    assert m.pinball(y.astype("f4"), q.astype("f4"), LEVELS).dtype == np.float64
    assert_allclose(
        m.mean_wql(torch.tensor(y), torch.tensor(q), torch.tensor(LEVELS)),
        m.mean_wql(y, q, LEVELS),
    )


def test_a_point_forecast_repeated_over_levels_scores_its_weighted_error(numbers):
    y, q, _ = numbers
    point = np.repeat(q[..., 4:5], 9, axis=-1)
    assert_allclose(m.mean_wql(y, point, LEVELS), np.abs(y - q[..., 4]).sum() / y.sum())
