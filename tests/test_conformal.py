"""Recalibration: promises are kept on windows not seen, whatever the forecast.

Quantiles never cross, and where it cannot be there is one clear error.
"""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastlab.core import metrics
from forecastlab.core.backtest import backtest
from forecastlab.core.conformal import Adaptive, Calibrated, Conformal, LevelMap
from forecastlab.core.conformal import Recalibrated, Widths, enough, isotonic
from forecastlab.core.conformal import needed_level, recalibrated, restored
from forecastlab.core.distributions import LEVELS as TEXTBOOK
from forecastlab.core.distributions import Counts, Paths, QuantileFunction, QuantileGrid
from forecastlab.core.forecast import Forecast
from forecastlab.core.forecaster import Forecaster, load_model
from forecastlab.quantile.spline import SplineQuantile
from toys import draw, several

N01 = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
D = torch.arange(1, 10, dtype=torch.float64) / 10
DENSE = torch.linspace(1e-4, 1 - 1e-4, 10_001, dtype=torch.float64)


class Standard(QuantileFunction):
    "N(0, 1) in every cell, without any closed form of its own but these."

    dtype, device = torch.float64, torch.device("cpu")
    icdf = staticmethod(N01.icdf)
    cdf = staticmethod(N01.cdf)
    log_prob = staticmethod(N01.log_prob)

    def __getitem__(self, which):
        return Standard(torch.empty(self.batch_shape)[which].shape)


def grid(*batch, seed=0, scale=1.0, **how):
    return QuantileGrid(D, scale * draw(*batch, 9, seed=seed).cumsum(-1), **how)


def every(batch=(3, 4)):
    "One of each quantile function of the lab, with batch shape `batch`."
    w = (
        torch.rand(
            *batch, generator=torch.Generator().manual_seed(9), dtype=torch.float64
        )
        + 0.1
    )
    heights = draw(*batch, 6, seed=4).sort(-1).values
    yield "grid", grid(*batch)
    yield "grid32", QuantileGrid(D.float(), 1000 * draw(*batch, 9, seed=1).float())
    yield "flat", grid(*batch, seed=2, tails="flat")
    yield (
        "zeros",
        QuantileGrid(
            D, (draw(*batch, 9, seed=3) - 0.5).clamp(min=0), support="nonnegative"
        ),
    )
    yield (
        "counts",
        Counts(
            QuantileGrid(
                D, 3 * draw(*batch, 9, seed=3).cumsum(-1), support="nonnegative"
            )
        ),
    )
    yield (
        "spline",
        SplineQuantile(
            torch.tensor([0.05, 0.2, 0.5, 0.6, 0.9, 0.97]).double(),
            heights,
            w,
            2 * w,
            right_shape=0.4 * w.clamp(max=1),
        ),
    )
    yield "paths", Paths(draw(300, *batch, seed=5))
    yield "any", Standard(batch)
    yield "recalibrated", Recalibrated(grid(*batch, seed=6), LevelMap(D, D**2))


def maps(base, batch=(3, 4)):
    "Level maps for all cells, for each step, for each series."
    for shape in ((), batch[-1:], (batch[0], 1), batch):
        values = (
            torch.rand(
                *shape,
                5,
                generator=torch.Generator().manual_seed(len(shape)),
                dtype=torch.float64,
            )
            .sort(-1)
            .values
        )
        yield LevelMap(torch.tensor([0.1, 0.25, 0.5, 0.8, 0.95]), values)
    # the least levels needed nothing
    if not torch.isinf(base.icdf(torch.zeros(batch, dtype=base.dtype))).any():
        yield LevelMap(torch.tensor([0.3, 0.6, 0.9]), torch.tensor([0.0, 0.0, 0.2]))


FAMILIES = [pytest.param(d, id=name) for name, d in every()]


@pytest.mark.parametrize("base", FAMILIES)
def test_whatever_the_forecast_and_the_map_it_stays_a_quantile_function(base):
    for m in maps(base):
        d = recalibrated(base, m)
        q = d.quantile(DENSE)
        assert q.shape == (3, 4, 10_001) and torch.isfinite(q).all()
        # it adds no crossing to its base
        exact = (q.diff(dim=-1) >= 0).all() or not (
            base.quantile(DENSE).diff(dim=-1) >= 0
        ).all()
        assert exact, f"crossing by {q.diff(dim=-1).min()}"
        u = (
            torch.rand(
                200,
                3,
                4,
                generator=torch.Generator().manual_seed(1),
                dtype=torch.float64,
            )
            .to(d.dtype)
            .clamp(0.01, 0.99)
        )
        some = torch.tensor([0.03, 0.4, 0.77])
        assert torch.allclose(
            d.icdf(some.view(3, 1, 1).expand(3, 3, 4)).movedim(0, -1),
            d.quantile(some),
            rtol=1e-4,
            atol=1e-6,
        )
        y = d.icdf(u)
        F = d.cdf(y)
        # u lies in the jump at y
        assert (F >= u - 1e-5).all()
        assert (
            d.cdf(torch.nextafter(y, torch.full_like(y, -math.inf))) <= u + 1e-5
        ).all()
        assert (d.slope([0.2, 0.6, 0.97]) >= 0).all()
        assert torch.isfinite(d.crps(y[0])).all()
        assert (d.crps(y[0]) >= 0).all()
        assert d[1:].shape == (2, 4)
        assert torch.equal(d[1:].quantile([0.3, 0.9]), d.quantile([0.3, 0.9])[1:])
        assert torch.equal(
            d[torch.tensor([2, 0])].quantile([0.5]), d.quantile([0.5])[[2, 0]]
        )
        assert d.rsample((7,), torch.Generator().manual_seed(0)).shape == (7, 3, 4)
        assert d.event_shape == base.event_shape


@pytest.mark.parametrize(
    "base", [p for p in FAMILIES if p.id not in ("flat", "counts", "zeros", "paths")]
)
def test_density_slope_mean_and_score_belong_together(base):
    m = LevelMap(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.02, 0.6, 0.95]))
    d = recalibrated(base, m)
    u = torch.tensor([0.07, 0.31, 0.62, 0.83, 0.96])
    q = d.quantile(u)
    density = d.log_prob(q.movedim(-1, 0)).exp().movedim(0, -1)
    np.testing.assert_allclose(density * d.slope(u), 1, rtol=2e-3)
    fine = torch.linspace(5e-6, 1 - 5e-6, 100_000, dtype=torch.float64)
    values = d.quantile(fine).double()
    np.testing.assert_allclose(
        d.mean, values.mean(-1), rtol=2e-2, atol=2e-3 * float(values.abs().mean())
    )
    z = d.quantile([0.8])[..., 0]
    e = z.double()[..., None] - values
    np.testing.assert_allclose(
        d.crps(z), 2 * torch.maximum(fine * e, (fine - 1) * e).mean(-1), rtol=1e-2
    )
    draws = d.sample((4000,))
    assert ((draws <= z).double().mean(0) - 0.8).abs().max() < 0.04


def test_the_identity_changes_nothing():
    same = LevelMap(D, D)
    for name, base in every():
        d = recalibrated(base, same)
        tolerance = 1e-9 if d.dtype == torch.float64 else 1e-5
        if name != "counts":
            np.testing.assert_allclose(
                d.quantile(DENSE[10:-10]),
                base.quantile(DENSE[10:-10]),
                rtol=100 * tolerance,
                atol=tolerance,
            )
        y = base.quantile([0.7])[..., 0]
        np.testing.assert_allclose(d.crps(y), base.crps(y), rtol=5e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(0, 10_000),
    st.sampled_from([None, (0.5,), (0.1, 0.3, 0.6)]),
)
def test_the_correction_is_the_order_statistic(n, seed, levels):
    y = 2 * draw(n, seed=seed)
    if n < enough(max(levels or [0.8])):
        return
    c = Conformal(levels).fit(Standard((n,)), y)
    v = N01.cdf(y).sort().values.numpy()
    want = v[np.ceil(np.round(c.promised.numpy() * (n + 1), 9)).astype(int) - 1]
    np.testing.assert_allclose(c.values, want, rtol=1e-9)
    q = c.apply(Standard((1,))).quantile(c.promised)[0]
    assert (
        (y[:, None] <= q + 1e-5).sum(0).numpy()
        >= np.round(c.promised.numpy() * (n + 1), 9)
    ).all()


@pytest.mark.parametrize("n", [9, 20, 99])
def test_coverage_is_promised_and_kept(n):
    """In exchangeable worlds even a badly wrong forecast is covered as promised.

    Coverage lies in [a, a + 1/(n + 1)] for every promised level.
    """
    worlds = 8000 if n < 99 else 3000
    y = 0.9 + 1.5 * draw(n + 1, worlds, seed=n)
    slack = 4 * (0.25 / worlds) ** 0.5
    c = Conformal(by="step").fit(Standard((n, worlds)), y[:n])
    q = c.apply(Standard((1, worlds))).quantile(c.promised)[0]
    share = (y[n, :, None] <= q).double().mean(0)
    wrong = (y[n, :, None] <= N01.icdf(c.promised)).double().mean(0)
    assert (share >= c.promised - slack).all()
    assert (share <= c.promised + 1 / (n + 1) + slack).all()
    assert (wrong - c.promised).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["level", "shift"])
@pytest.mark.parametrize(
    "values", [[0.0, 0, 0, 2, 4], [1.0, 2, 3, 4, 5], [0.0, 0, 0, 0, 1]]
)
def test_counts_with_zeros_lie_between_below_and_at_or_below(values, kind):
    n, worlds = 39, 4000
    g = torch.Generator().manual_seed(7)
    levels = torch.tensor([0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    y = torch.poisson(torch.full((n + 1, worlds), 2.5), g) * (
        torch.rand(n + 1, worlds, generator=g) < 0.5
    )
    for wrap in (lambda d: d, Counts):

        def f(k):
            return wrap(
                QuantileGrid(
                    [0.2, 0.4, 0.6, 0.8, 0.95],
                    torch.tensor(values).expand(k, worlds, -1),
                    support="nonnegative",
                )
            )

        d = Conformal(levels, "step", kind).fit(f(n), y[:n]).apply(f(1))
        q = d.quantile(levels)[0]
        assert isinstance(d, Counts) == (wrap is Counts)
        assert (q >= 0).all()
        assert wrap is not Counts or torch.equal(q, q.floor())
        upto = (y[n, :, None] <= q).double().mean(0)
        below = (y[n, :, None] + 1e-5 <= q).double().mean(0)
        slack = 4 * (0.25 / worlds) ** 0.5
        assert (upto >= levels - slack).all(), upto
        if kind == "level":
            assert (below <= levels + 1 / (n + 1) + slack).all(), below


def test_never_sold_is_exactly_zero():
    f = QuantileGrid(
        D.float(), torch.arange(1.0, 10).expand(100, 9), support="nonnegative"
    )
    d = Conformal().fit(f, torch.zeros(100)).apply(f[:1])
    assert (d.quantile([0.5, 0.9, 0.98]) == 0).all()
    assert d.cdf(torch.zeros(1)).item() >= 0.98


def test_gaps_are_no_targets():
    y = draw(400, seed=2)
    holes = y.clone()
    holes[::2] = math.nan
    a = Conformal().fit(Standard((400,)), holes)
    b = Conformal().fit(Standard((200,)), y[1::2])
    assert torch.equal(a.values, b.values)
    assert needed_level(Standard((2,)), [math.nan, 0.0]).isnan().tolist() == [
        True,
        False,
    ]


# ------------------------------------------------------------------ panels, backtests
# and models
def panel(series=6, rows=120, seed=0):
    r = np.random.default_rng(seed)
    y = r.gamma(2.0, 1 + np.arange(series)[:, None], (series, rows))
    return several(y)


class Shy:
    "Too narrow by half, and later steps the more so."

    horizon = 3

    def __init__(self):
        self.seen = 0

    def fit(self, panel):
        self.seen = int(panel.length.sum())
        return self

    def predict(self, h, panel):
        past = np.stack([panel.history(s)[-40:] for s in range(len(panel))])
        middle, width = np.median(past, 1), past.std(1)
        q = (
            middle[:, None, None]
            + 0.5
            * width[:, None, None]
            * N01.icdf(D).numpy()
            / np.arange(1, h + 1)[:, None]
        )
        return Forecast(panel, QuantileGrid(D, torch.tensor(q)), "shy")


LEVELS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


def off(result, name):
    y, q = result.stack(name)
    return np.abs(np.nanmean(y[..., None] <= q, (0, 1, 2)) - LEVELS).mean()


@pytest.mark.parametrize(
    "by, kind",
    [
        ("all", "level"),
        ("step", "level"),
        ("series", "level"),
        ("all", "shift"),
        ("step", "shift"),
        ("series", "shift"),
    ],
)
def test_a_model_is_calibrated_on_origins_it_never_saw(by, kind):
    p = panel()
    early = p.cut(77)
    m = Calibrated(Shy(), origins=12, conformal=Conformal(LEVELS, by, kind)).fit(early)
    # the held-back windows were not trained on
    assert m.trained.seen == 6 * (78 - 36)
    f = m.predict(3, early)
    assert f.ids.tolist() == early.ids.tolist()
    assert f.model == m.name == "Shy calibrated"
    assert (f.quantile(DENSE[::50].clone()).diff(dim=-1) >= 0).all()

    # the same correction at every later origin
    class Held:
        def fit(self, panel):
            return self

        def predict(self, h, panel):
            return m.predict(h, panel)

    result = backtest(
        {"raw": Shy(), "calibrated": Held()},
        p,
        3,
        origins=14,
        levels=LEVELS,
        progress=False,
    )
    assert off(result, "calibrated") < 0.06 < 0.12 < off(result, "raw")
    if by != "series":
        assert m.predict(2, early).horizon == 2


def test_refit_trains_on_everything_and_settings_stay_untouched():
    p = panel()
    template = Conformal(LEVELS)
    m = Calibrated(Shy(), origins=4, conformal=template, refit=True).fit(p)
    assert m.trained.seen == 6 * 120 and not template.fitted and m.model.seen == 0
    assert m.predict(3).ids.tolist() == p.ids.tolist()


class Median(Forecaster):
    "A family of its own: quantiles around the last value, learned spread."

    name, horizon = "median", 3

    def fit(self, panel):
        self.spread = float(np.nanstd(panel.y)) / 2
        self.panel = panel
        return self

    def _predict(self, panel, h, seed):
        last = torch.tensor([panel.history(s)[-1] for s in range(len(panel))])
        q = last[:, None, None] + self.spread * N01.icdf(D)
        return Forecast(panel, QuantileGrid(D, q.expand(-1, h, -1)), self.name)

    def _state(self):
        return dict(spread=self.spread), {}

    @classmethod
    def _restore(cls, note, tensors):
        new = cls()
        new.spread = note["spread"]
        return new

    @property
    def _ready(self):
        return hasattr(self, "spread")


@pytest.mark.parametrize(
    "correction",
    [
        Conformal(LEVELS),
        Conformal(by="step"),
        Conformal(LEVELS, "series", "shift"),
        Adaptive(by="all"),
        Adaptive((0.1, 0.5, 0.9), by="series"),
        Adaptive(LEVELS, by="step"),
        Widths(),
    ],
    ids=str,
)
def test_a_calibrated_model_is_saved_with_its_correction(tmp_path, correction):
    p = panel()
    m = Calibrated(Median(), origins=12, conformal=correction).fit(p)
    assert isinstance(m, Forecaster) and m.horizon == 3
    assert m.name == m.predict().model == "median calibrated"
    m.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert isinstance(again, Calibrated) and again.origins == 12
    for h in (None, 2):
        before, after = m.predict(h), again.predict(h, p)
        assert torch.equal(before.quantile(LEVELS), after.quantile(LEVELS))
        assert not torch.equal(
            before.quantile([0.9]), Median().fit(p).predict(h).quantile([0.9])
        )
    with pytest.raises(FileExistsError):
        m.save(tmp_path / "model")


def test_only_what_is_fitted_and_of_the_lab_is_saved(tmp_path):
    with pytest.raises(RuntimeError, match="has not been fitted"):
        Calibrated(Median()).save(tmp_path / "m")
    with pytest.raises(
        TypeError, match="only forecasters of the lab can be saved: Shy"
    ):
        Calibrated(Shy(), origins=12).fit(panel()).save(tmp_path / "m")


def test_a_calibrated_model_is_backtested_like_any_other():
    p = panel()
    result = backtest(
        {
            "raw": Shy(),
            "calibrated": Calibrated(Shy(), origins=10, conformal=Conformal(LEVELS)),
        },
        p,
        3,
        origins=10,
        levels=LEVELS,
        progress=False,
    )
    assert off(result, "calibrated") < 0.08 < 0.12 < off(result, "raw")
    assert result.leaderboard.wql["calibrated"] < result.leaderboard.wql["raw"]
    # it saw nothing after the first origin
    assert result.models["calibrated"].panel.last.max() == result.folds[0].origin


@pytest.mark.parametrize(
    "which",
    [
        (..., 1),
        (slice(None), slice(2)),
        1,
        [2, 0],
        (..., [3, 0]),
        (1, 2),
        (1, ...),
        torch.tensor([True, False, True]),
    ],
    ids=str,
)
def test_indexing_never_mixes_levels_with_groups(which):
    for base in (dict(every())["grid"], Standard((3, 4)), dict(every())["spline"]):
        for m in maps(base):
            d = recalibrated(base, m)
            some = d[which]
            assert some.shape == base.cdf(torch.zeros(3, 4))[which].shape
            u = torch.tensor([0.05, 0.3, 0.77])
            assert torch.equal(
                some.quantile(u),
                torch.stack([q[which] for q in d.quantile(u).movedim(-1, 0)], -1),
            )
            if m.values.dim() == 3 and m.values.shape[:2] == (3, 4):
                assert torch.equal(
                    m[which].values,
                    torch.stack([v[which] for v in m.values.movedim(-1, 0)], -1),
                )


def test_series_find_their_own_correction():
    p = panel()
    result = backtest({"shy": Shy()}, p, 3, origins=12, levels=LEVELS, progress=False)
    f = Shy().predict(3, p)
    c = Conformal(LEVELS, "series").fit(result)
    some = c.apply(f.select(["s4", "s1"]))
    assert torch.allclose(some.quantile(LEVELS), c.apply(f).quantile(LEVELS)[[4, 1]])
    with pytest.raises(KeyError, match="1 series have no calibration windows: s5"):
        Conformal(LEVELS, "series").fit(
            [
                (f.select([0, 1, 2, 3, 4]), p.actual(p.last - 40, 3)[:5])
                for _ in range(12)
            ]
        ).apply(f)


def test_joint_paths_stay_joint():
    z = draw(600, 5, 1, seed=3)
    paths = Paths(
        (0.9 * z + math.sqrt(1 - 0.81) * draw(600, 5, 4, seed=4)).contiguous()
    )
    wide = LevelMap(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.03, 0.5, 0.97]))
    for d in (
        recalibrated(paths, wide),
        Conformal(kind="shift", by="step")
        .fit(paths[[0] * 40], 1.5 * draw(40, 4, seed=5))
        .apply(paths),
    ):
        x = d.sample((600,))
        assert d.event_shape == (4,) and x.shape == (600, 5, 4)
        rho = np.corrcoef(x[:, 0].T.numpy())
        assert rho[np.triu_indices(4, 1)].min() > 0.6
        assert torch.allclose(x.quantile(0.9, 0), d.quantile([0.9])[..., 0], atol=0.12)
        assert (x.quantile(0.9, 0) > paths.quantile([0.9])[..., 0] + 0.1).all()


# ------------------------------------------------------------------ what a correction
# may not destroy
def together(n=500, series=40, h=6):
    "Integer draws whose steps share most of their variance, and what happened."
    z = draw(n, series, 1) + 0.3 * draw(n, series, h, seed=1)
    y = draw(series, 1, seed=2) + 0.3 * draw(series, h, seed=3)
    return (20 + 5 * z).round().clamp(min=0), (20 + 5 * y).round().clamp(min=0)


@pytest.mark.parametrize("kind", ["level", "shift"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: Paths(x, "nonnegative"),
        lambda x: Counts(Paths(x)),
        lambda x: recalibrated(Paths(x, "nonnegative"), LevelMap(D, D**1.2)),
        lambda x: recalibrated(Counts(Paths(x)), LevelMap(D, D**1.2)),
    ],
)
def test_dependence_survives_every_correction(kind, wrap):
    x, y = together()
    before = wrap(x)
    d = Conformal(D.tolist(), kind=kind).fit(before, y).apply(before)
    assert d.event_shape
    assert d.draws.shape == x.shape
    assert isinstance(d, Counts) == isinstance(before, Counts)
    for z in (d.sample((400,)).double(), d.draws.double()):
        rho = torch.stack([torch.corrcoef(z[:, s].T)[0, 5] for s in range(5)]).mean()
        assert rho > 0.8, rho
        np.testing.assert_allclose(
            z.quantile(0.8, 0)[:5], d.quantile([0.8])[:5, :, 0].double(), atol=1.5
        )
    q = d.quantile(D)
    assert not isinstance(d, Counts) or torch.equal(q, q.round())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: Paths(x, "nonnegative"),
        lambda x: Counts(Paths(x)),
        lambda x: Counts(QuantileGrid(D, x.quantile(D, 0).movedim(0, -1))),
        lambda x: SplineQuantile(
            D, x.quantile(D, 0).movedim(0, -1), right=1.0, support="nonnegative"
        ),
        lambda x: recalibrated(Paths(x, "nonnegative"), LevelMap(D, D**2)),
    ],
)
@pytest.mark.parametrize("by", ["all", "step", "series"])
def test_a_shift_stays_within_the_support(wrap, by):
    "Demand turns out far lower than the forecast, which would be shifted below 0."
    x, _ = together(series=60)
    before = wrap(x)
    assert before.domain == "nonnegative"
    y = (
        (0.3 * draw(60, 6, seed=8)).abs()
        if not isinstance(before, Counts)
        else torch.zeros(60, 6)
    )
    d = Conformal((0.2, 0.5, 0.8), by, "shift").fit(before, y).apply(before)
    assert d.domain == "nonnegative"
    assert (d.quantile(DENSE[::20].clone()) >= 0).all()
    assert (d.sample((300,)) >= 0).all()
    assert (d.mean >= 0).all()


def test_a_real_forecast_may_still_be_shifted_below_zero():
    f = Paths(draw(300, 50, 4))
    d = Conformal((0.2, 0.5, 0.8), kind="shift").fit(f, draw(50, 4) - 5).apply(f)
    assert d.quantile([0.5]).max() < -3 and d.domain == "real"


def atoms(*batch):
    return QuantileGrid(
        [0.1, 0.3, 0.5, 0.7, 0.9],
        torch.tensor([0.0, 0.0, 0.0, 3.0, 7.0]).expand(*batch, 5).double(),
        support="nonnegative",
    )


@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (3, 4)])
def test_slope_follows_the_chain_rule_in_groups_at_atoms_too(shape):
    for base in (
        atoms(3, 4),
        dict(every())["zeros"],
        dict(every())["spline"],
        Counts(atoms(3, 4)),
        Standard((3, 4)),
        dict(every())["recalibrated"],
    ):
        shift = (
            torch.rand(
                *shape,
                1,
                generator=torch.Generator().manual_seed(2),
                dtype=torch.float64,
            )
            * 0.05
        )
        m = LevelMap(
            torch.tensor([0.2, 0.5, 0.8]),
            torch.tensor([0.1, 0.5, 0.9]).double() + shift,
        )
        d = recalibrated(base, m)
        u = torch.tensor([0.05, 0.17, 0.31, 0.47, 0.63, 0.77, 0.91, 0.97]).double()
        e = 1e-7
        curve = d.base if isinstance(d, Counts) else d
        np.testing.assert_allclose(
            d.slope(u),
            (curve.quantile(u + e) - curve.quantile(u)) / e,
            rtol=1e-4,
            atol=1e-4,
        )


@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (3, 4)])
def test_mean_and_excess_are_those_of_the_curve(shape):
    fine = (torch.arange(200_000).double() + 0.5) / 200_000
    for name, base in every():
        if name in ("any", "grid32"):
            continue
        values = (
            torch.rand(
                *shape,
                5,
                generator=torch.Generator().manual_seed(3),
                dtype=torch.float64,
            )
            .sort(-1)
            .values
            * 0.9
        )
        # the lowest tenth needed nothing
        values[..., 0] = (
            0.0 if getattr(base, "domain", "real") == "nonnegative" else values[..., 0]
        )
        # a flat piece of the map
        values[..., 3] = values[..., 2]
        d = recalibrated(
            base, LevelMap(torch.tensor([0.1, 0.25, 0.5, 0.8, 0.95]), values)
        )
        q = d.quantile(fine).double()
        close = 1e-3 * float(q.abs().mean()) + 1e-3
        np.testing.assert_allclose(d.mean, q.mean(-1), atol=5 * close)
        stocks = d.quantile([0.02, 0.3, 0.6, 0.9, 0.99]).movedim(-1, 0)
        np.testing.assert_allclose(
            d.excess(stocks),
            torch.stack(
                [(q - c[..., None]).clamp(min=0).mean(-1) for c in stocks.double()]
            ),
            atol=5 * close,
        )


@pytest.mark.parametrize("levels", [None, (0.2, 0.5, 0.8)])
def test_one_hopeless_series_is_named_and_takes_the_pooled_map(levels):
    p = panel()
    f = Forecast(p, QuantileGrid(D, N01.icdf(D).expand(6, 20, 9), "flat"), "m")
    y = draw(6, 20, seed=1).clamp(-1.2, 1.2)
    y[4] = 50.0
    with pytest.warns(
        UserWarning,
        match=(
            "targets of 1 series exceed all that their forecasts hold possible.*: s4."
            " kind='shift'"
        ),
    ):
        c = Conformal(levels, "series").fit(f, y)
    own = Conformal(tuple(c.promised.tolist()), "series").fit(
        f.select([0, 1, 2, 3, 5]), y[[0, 1, 2, 3, 5]]
    )
    everyone = Conformal(tuple(c.promised.tolist())).fit(f, y)
    assert torch.equal(c.values[[0, 1, 2, 3, 5]], own.values)
    assert torch.equal(c.values[4, 0], everyone.values)
    assert torch.isfinite(c.apply(f).quantile(D)).all()
    y[:3] = 50.0
    bad(
        "66.7% of the targets exceed everything the forecast holds possible, so no"
        " level of it can promise: 0.5, 0.8. Use kind='shift'",
        lambda: Conformal((0.2, 0.5, 0.8), "series").fit(f, y),
    )


def test_a_hopeless_step_is_named():
    f = QuantileGrid(D, N01.icdf(D).expand(60, 4, 9), "flat")
    y = draw(60, 4, seed=1).clamp(-1.2, 1.2)
    y[:, 2] = 50.0
    bad(
        r"no level of it can promise at step 3: 0.2, 0.5. Use by='all', kind='shift'",
        lambda: Conformal((0.2, 0.5), "step").fit(f, y),
    )


# ------------------------------------------------------------------ adaptive
@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=12))
def test_isotonic_is_the_nearest_increasing_sequence(h):
    h = torch.tensor(h, dtype=torch.float64)
    s = isotonic(h)
    assert (s.diff() >= 0).all() and torch.allclose(isotonic(s), s)
    assert torch.allclose(s.mean(), h.mean(), atol=1e-9)
    for other in (h.sort().values, h.cummax(0).values, h.mean().expand_as(h)):
        assert ((s - h) ** 2).sum() <= ((other - h) ** 2).sum() + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.integers(1, 4)), min_size=1, max_size=9))
def test_isotonic_with_weights_is_that_of_repeated_values(pairs):
    h, w = (np.array(x, float) for x in zip(*pairs))
    many = isotonic(np.repeat(h, w.astype(int)))
    first = np.cumsum(np.r_[0, w[:-1]]).astype(int)
    np.testing.assert_allclose(isotonic(h, w), many[first], atol=1e-9)
    down = isotonic(h, w, increasing=False)
    np.testing.assert_allclose(down, -isotonic(-h, w), atol=1e-9)


def test_isotonic_keeps_shape_type_and_rows_apart():
    h = draw(4, 5, 6).float()
    s = isotonic(h)
    assert s.shape == h.shape and s.dtype == h.dtype
    assert torch.equal(s[2, 3], isotonic(h[2, 3]))
    assert isinstance(isotonic(h.numpy()), np.ndarray)
    bad("weights must be positive: 0", lambda: isotonic(h, torch.zeros(6)))


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_drift_is_followed_and_the_long_run_share_is_the_promise(rate):
    T = 1200
    y = torch.cat([draw(400, seed=1), 2.5 * draw(400, seed=2), draw(400, seed=3) - 2])
    online = Adaptive((0.1, 0.5, 0.8, 0.9), rate)
    cover = []
    split = (
        Conformal((0.1, 0.5, 0.8, 0.9))
        .fit(Standard((100,)), y[:100])
        .apply(Standard((1,)))
        .quantile([0.1, 0.5, 0.8, 0.9])[0]
    )
    for t in range(T):
        q = online.apply(Standard((1,))).quantile(online.levels)[0]
        assert (q.diff() >= 0).all() and torch.isfinite(q).all()
        cover.append(y[t] <= q)
        online.update(Standard((1,)), y[t : t + 1])
    error = torch.stack(cover).double().mean(0) - online.target
    # whatever happened
    assert torch.allclose(
        error, (online.hidden[None] - online.hidden[()]) / (rate * T), atol=1e-9
    )
    fixed = (y[:, None] <= split).double().mean(0) - online.target
    assert error.abs().max() < 8 / (rate * T)
    assert error.abs().max() < fixed.abs().max() / 2


@pytest.mark.parametrize(
    "by, shape", [("all", (4,)), ("step", (5, 4)), ("series", (3, 1, 4))]
)
def test_each_group_follows_its_own_drift(by, shape):
    scale = torch.ones(3, 5, dtype=torch.float64)
    scale[1] = 3.0
    scale[:, 4] *= 2
    online = Adaptive((0.1, 0.3, 0.7, 0.9), 1.0, by)
    f = Standard((3, 5))
    for t in range(60):
        online.update(f, scale * draw(3, 5, seed=t))
    s = online.asked(f)
    assert s.shape == shape
    if by == "series":
        assert s[1, 0, 3] > max(s[0, 0, 3], s[2, 0, 3]) and s[1, 0, 0] < s[0, 0, 0]
    if by == "step":
        assert s[4, 3] > s[:4, 3].mean()


def test_names_decide_and_gaps_do_nothing():
    p = panel()
    f = Shy().predict(3, p)
    online = Adaptive((0.1, 0.5, 0.9), by="series")
    online.update(f, torch.full((6, 3), 1e3))
    before = dict(online.hidden)
    some = f.select(["s2", "s0"])
    online.update(some, torch.full((2, 3), math.nan))
    assert all(torch.equal(before[k], online.hidden[k]) for k in before)
    assert torch.equal(online.asked(some), online.asked(f)[[2, 0]])


def test_adaptive_begins_where_split_left_off():
    y = 2 * draw(500, seed=8)
    c = Conformal().fit(Standard((500,)), y)
    online = Adaptive().start(c)
    u = online.levels
    np.testing.assert_allclose(
        online.apply(Standard((2,))).quantile(u),
        c.apply(Standard((2,))).quantile(u),
        rtol=1e-6,
    )


# ------------------------------------------------------------------ what cannot be
def bad(message, make, kind=ValueError):
    with pytest.raises(kind, match=message):
        make()


def test_calibrations_that_cannot_be_are_refused():
    f = Standard((30,))
    y = draw(30)
    fit = lambda *a, **k: lambda: Conformal(*a).fit(f, y, **k)
    bad(
        "30 calibration targets are too few to promise 0.99, which needs 99. Hold back"
        " more origins",
        fit((0.5, 0.99)),
    )
    bad(
        "too few to promise 0.8, which needs 4",
        lambda: Conformal().fit(Standard((3,)), draw(3)),
    )
    bad(
        "0 calibration targets",
        lambda: Conformal().fit(Standard((3,)), torch.full((3,), math.nan)),
    )
    bad("strictly between 0 and 1: 95.0", lambda: Conformal((0.5, 95)))
    bad("increase without repeats", lambda: Conformal((0.9, 0.5)))
    bad("unknown grouping: steps", lambda: Conformal(by="steps"))
    bad("unknown kind: cqr", lambda: Conformal(kind="cqr"))
    bad(r"expected targets of shape \(30,\)", lambda: Conformal().fit(f, draw(29)))
    bad("infinite targets", lambda: Conformal().fit(f, y / 0))
    bad("has not been fitted", lambda: Conformal().apply(f), RuntimeError)
    bad("no calibration windows", lambda: Conformal().fit([]))
    bad("needs batches of shape", fit(None, "series"))
    bad("needs batches of shape", fit(None, "step"))
    c = Conformal((0.5,), "step").fit(Standard((20, 3)), draw(20, 3))
    bad("calibrated for 3 steps ahead, asked for 4", lambda: c.apply(Standard((2, 4))))
    bad(
        "differ in horizon: 2, 3",
        lambda: Conformal((0.5,), "step").fit(
            [(Standard((9, 3)), draw(9, 3)), (Standard((9, 2)), draw(9, 2))]
        ),
    )
    flat = QuantileGrid(D, N01.icdf(D).expand(50, 9), "flat")
    bad(
        "100.0% of the targets exceed everything the forecast holds possible.*: 0.05,"
        " 0.1, 0.15, 0.2, 0.25 and 14 more. Use kind='shift'",
        lambda: Conformal().fit(flat, torch.full((50,), 9.0)),
    )
    bad("must increase within", lambda: LevelMap(D, D.flip(0)))
    bad("expected 9 values", lambda: LevelMap(D, D[:3]))
    bad(
        "does not fit forecasts",
        lambda: Recalibrated(Standard((2, 3)), LevelMap(D, D.expand(4, 1, 9))),
    )
    bad("rate must be a number above 0, got 0", lambda: Adaptive(rate=0))
    bad("can only start from", lambda: Adaptive().start(Conformal()))
    bad("unknown grouping", lambda: Adaptive(by="item"))
    bad("expected targets of shape", lambda: Adaptive().update(f, y[:3]))


def test_models_and_backtests_that_cannot_calibrate_are_refused():
    p = panel()
    result = backtest(
        {"a": Shy(), "b": Shy()}, p, 3, origins=4, levels=LEVELS, progress=False
    )
    bad("holds several models: a, b. Say which", lambda: Conformal().fit(result))
    bad(
        "no such model in this backtest: c",
        lambda: Conformal().fit(result, model="c"),
        KeyError,
    )
    assert len(Conformal().fit(result, model="b").promised) == 19

    class Plain:
        def fit(self, panel):
            return self

        def predict(self, h, panel):
            return Shy().predict(h, panel)

    bad("expected a forecaster, with fit", lambda: Calibrated(3), TypeError)
    bad("got the class Shy. Make one: Shy", lambda: Calibrated(Shy), TypeError)
    bad(
        "expected a correction, Conformal.*got 3",
        lambda: Calibrated(Shy(), conformal=3),
        TypeError,
    )
    bad("names no horizon. Pass horizon=", lambda: Calibrated(Plain()).fit(p))
    bad(
        "has not been fitted. Call fit",
        lambda: Calibrated(Shy()).predict(3),
        RuntimeError,
    )
    bad(
        "1 series|calibration targets are too few to promise 0.9, which needs 9: s0",
        lambda: Calibrated(Shy(), origins=2, conformal=Conformal(LEVELS, "series")).fit(
            p
        ),
    )


# --- only the width


def scaled(kind, scale, windows=5, series=200, horizon=6, seed=0):
    "Forecasts whose spread is `scale` times the right one, and what happened."
    g = torch.Generator().manual_seed(seed)
    size = 1 + 4 * torch.rand(series, 1, generator=g, dtype=torch.float64)
    noise = torch.randn(windows, series, horizon, generator=g, dtype=torch.float64)
    z = N01.icdf(torch.tensor(TEXTBOOK, dtype=torch.float64))
    if kind == "counts":
        # a skewed law with many zeros, rounded
        y = (size * (noise - 0.5).exp()).round()
        q = size[..., None] * (scale * z - 0.5).exp()
        made = Counts(QuantileGrid(TEXTBOOK, q.expand(-1, horizon, -1)))
    else:
        y, q = size * (10 + noise), size[..., None] * (10 + scale * z)
        made = QuantileGrid(TEXTBOOK, q.expand(-1, horizon, -1))
    return [made] * windows, y


def share_at(d, y, levels=(0.05, 0.95)):
    return metrics.calibration(y, d, levels)


@pytest.mark.parametrize("kind", ["normal", "counts"])
@pytest.mark.parametrize("scale", [0.6, 1.5])
def test_wrong_widths_are_mended_and_the_median_stays(kind, scale):
    made, y = scaled(kind, scale)
    c = Widths().fit(list(zip(made[:4], y[:4])))
    d = c.apply(made[4])
    before, after = share_at(made[4], y[4]), share_at(d, y[4])
    assert np.abs(before - [0.05, 0.95]).max() > 0.03
    assert np.abs(after - [0.05, 0.95]).max() < 0.02
    assert torch.equal(d.quantile([0.5]), made[4].quantile([0.5]))
    assert isinstance(d, type(made[4])) == (kind == "counts")
    assert (d.quantile(TEXTBOOK).diff() >= 0).all()


@pytest.mark.parametrize("kind", ["normal", "counts"])
@pytest.mark.parametrize("seed", range(3))
def test_right_widths_stay(kind, seed):
    made, y = scaled(kind, 1.0, seed=seed)
    c = Widths().fit(list(zip(made[:4], y[:4])))
    assert (c.factors.exp() - 1).abs().max() < 0.03
    d = c.apply(made[4])
    assert torch.equal(d.quantile([0.5]), made[4].quantile([0.5]))


def test_windows_that_disagree_teach_nothing():
    narrow, y = scaled("normal", 0.6)
    wide, _ = scaled("normal", 1 / 0.6)
    c = Widths().fit([(narrow[0], y[0]), (wide[0], y[1])])
    assert c.apply(narrow[0]) is narrow[0]


def test_zeros_stay_zeros_and_paths_stay_paths():
    values = torch.tensor([0.0] * 5 + [1.0, 2, 3, 5]).double().expand(50, 3, 9)
    zeros = QuantileGrid(D, values, support="nonnegative")
    y = torch.randint(0, 2, (2, 50, 3), generator=torch.Generator().manual_seed(1))
    c = Widths()
    c.factors = torch.tensor([-0.4, 0.5]).double()
    d = c.apply(zeros)
    assert (d.quantile([0.1, 0.5]) == 0).all() and (d.cdf(-1e-9) == 0).all()
    assert (d.quantile([0.9]) > zeros.quantile([0.9])).all()
    paths = Paths(draw(40, 6, 3))
    assert c.apply(paths).event_shape == (3,)
    assert c.apply(paths).draws.shape == (40, 6, 3)
    # no level of a forecast of nothing lowers its loss
    nothing = QuantileGrid(D, torch.zeros(50, 3, 9).double(), support="nonnegative")
    assert not Widths().fit([(nothing, y[0]), (nothing, y[1])]).factors.any()


def test_widths_are_restored():
    made, y = scaled("normal", 0.6)
    y[:, ::7] = math.nan
    c = Widths(noise=0.2).fit(list(zip(made[:4], y[:4])))
    note, tensors = c.state()
    again = restored(json.loads(json.dumps(note)), tensors)
    assert isinstance(again, Widths) and again == c
    levels = [0.1, 0.5, 0.9]
    assert torch.equal(
        again.apply(made[4]).quantile(levels), c.apply(made[4]).quantile(levels)
    )


def test_widths_that_cannot_be_learned_are_refused():
    made, y = scaled("normal", 1.0)
    with pytest.raises(ValueError, match="no calibration window holds a known target"):
        Widths().fit(made[0], torch.full_like(y[0], math.nan))
    with pytest.raises(RuntimeError, match="has not been fitted"):
        Widths().apply(made[0])
    with pytest.raises(ValueError, match="noise must"):
        Widths(noise=0.0)
