"Forecasts: names and dates, any level, the columns that the Nixtla libraries read."

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastlab.core.distributions import Counts, Paths, QuantileGrid
from forecastlab.core.forecast import Forecast, dates_of, total_of
from forecastlab.core.panel import Panel

LEVELS = torch.arange(1, 10) / 10


def made(freq="D", horizon=4, lengths=(9, 5, 7), seed=0, model="model"):
    grid = (
        np.arange(40) * freq
        if isinstance(freq, int)
        else pd.date_range("2024-01-03", periods=40, freq=freq)
    )
    df = pd.concat(
        [
            pd.DataFrame(
                {"unique_id": f"s{i}", "ds": grid[i : i + n], "y": np.arange(n) + 1.0}
            )
            for i, n in enumerate(lengths)
        ]
    )
    v = torch.randn(
        len(lengths), horizon, 9, generator=torch.Generator().manual_seed(seed)
    ).cumsum(-1)
    return (
        Forecast(Panel.from_frame(df, freq=freq), QuantileGrid(LEVELS, v), model),
        grid,
    )


@pytest.mark.parametrize(
    "freq", ["h", "D", "B", "W-SUN", "W-WED", "MS", "ME", "QS", "YS", "15min", 1, 7]
)
def test_dates_go_on_after_the_calendar(freq):
    f, grid = made(freq)
    frame = f.to_frame()
    assert list(frame.ds) == [
        d for i, n in enumerate((9, 5, 7)) for d in grid[i + n : i + n + 4]
    ]
    assert list(frame.unique_id) == [i for i in ("s0", "s1", "s2") for _ in range(4)]
    assert f.dates.shape == (3, 4)
    assert list(dates_of(f.panel, np.array([0, 12]))) == list(np.asarray(grid)[[0, 12]])


def test_columns_follow_the_nixtla_convention():
    from statsforecast import StatsForecast
    from statsforecast.models import Naive

    f, _ = made(model="Naive")
    df = f.panel.to_frame()
    theirs = StatsForecast([Naive()], freq="D").forecast(df=df, h=4, level=[80, 95])
    ours = f.to_frame(level=[80, 95])
    assert set(ours) == set(theirs)
    assert list(ours.columns[:3]) == ["unique_id", "ds", "Naive"]
    assert list(ours.unique_id) == list(theirs.unique_id)
    assert list(ours.ds) == list(theirs.ds)


@pytest.mark.parametrize(
    "ask, names",
    [
        ({}, ["m_ql0.1", "m_ql0.5", "m_ql0.9"]),
        (dict(quantiles=[]), []),
        (dict(quantiles=[0.025, np.float32(0.9)]), ["m_ql0.025", "m_ql0.9"]),
        (dict(level=[99.5]), ["m-lo-99.5", "m-hi-99.5"]),
        (dict(quantiles=(0.3,), level=(50,)), ["m_ql0.3", "m-lo-50", "m-hi-50"]),
    ],
)
def test_columns_are_the_quantiles_that_were_asked_for(ask, names):
    f, _ = made(model="m")
    frame = f.to_frame(**ask)
    assert list(frame) == ["unique_id", "ds", "m", *names]
    for n in names:
        if "_ql" in n:
            u = float(n[4:])
        else:
            side = 1 if "-hi-" in n else -1
            u = 0.5 + side * float(n[5:]) / 200
        np.testing.assert_allclose(
            frame[n], f.quantile([u]).reshape(-1).numpy(), rtol=1e-5
        )
    np.testing.assert_allclose(frame.m, f.quantile([0.5]).reshape(-1).numpy())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=9))
def test_any_levels_in_any_order_never_cross(levels):
    f, _ = made()
    q = f.quantile(levels)
    assert q.shape == (3, 4, len(levels)) and torch.isfinite(q).all()
    order = np.argsort(levels)
    assert (q[..., order].diff(dim=-1) >= -1e-5).all()


def test_samples_are_decided_by_their_seed():
    f, _ = made()
    assert f.sample(6).shape == (6, 3, 4)
    assert torch.equal(f.sample(6), f.sample(6))
    assert not torch.equal(f.sample(6), f.sample(6, seed=1))


def test_mean_score_and_samples_are_those_of_the_distribution():
    f, _ = made()
    assert torch.equal(f.mean(), f.distribution.mean)
    score = f.crps(np.zeros((3, 4), np.float32))
    assert torch.equal(score, f.distribution.crps(torch.zeros(3, 4)))
    assert np.allclose(f.sample(20_000).mean(0), f.mean(), atol=0.1)


def test_a_forecast_says_its_size():
    assert "3 series x 4 steps" in repr(made()[0])


def test_series_are_selected_by_name_place_or_mask():
    f, _ = made()
    for which in (["s2", "s0"], [2, 0], np.array([-1, 0])):
        g = f.select(which)
        assert g.ids.tolist() == ["s2", "s0"]
        assert torch.equal(g.quantile([0.9]), f.quantile([0.9])[[2, 0]])
        assert (g.dates == f.dates[[2, 0]]).all()
    assert f.select(np.array([False, True, True])).ids.tolist() == ["s1", "s2"]
    assert f.select("s1").ids.tolist() == ["s1"]
    with pytest.raises(KeyError, match="unknown series: nobody"):
        f.select("nobody")


def test_after_a_cut_the_forecast_begins_there():
    f, grid = made()
    cut = f.panel.cut(4)
    g = Forecast(cut, f.distribution)
    assert list(g.dates[0]) == list(grid[5:9].to_numpy())


def test_a_forecast_with_gradients_answers_without_them():
    "Distributions still attached to a network can be asked for everything."
    v = torch.randn(3, 4, 9, requires_grad=True)
    f = Forecast(made()[0].panel, QuantileGrid(LEVELS, v))
    assert len(f.to_frame(level=[80])) == 12
    assert not f.sample(2).requires_grad
    assert f.crps(torch.zeros(3, 4)).requires_grad


def test_a_plot_has_an_axis_a_series_six_at_the_most():
    import matplotlib.pyplot as plt

    f, _ = made(lengths=(9, 5, 7, 8, 9, 6, 5, 9))
    more = made(lengths=[n + 2 for n in (9, 5, 7, 8, 9, 6, 5, 9)])[0].panel
    fig = f.plot(actual=more)
    assert sum(a.axison for a in fig.axes) == 6
    # on the left, as the house has it; one legend for all
    assert [a.get_title(loc="left") for a in fig.axes[:2]] == ["s0", "s1"]
    assert [t.get_text() for t in fig.legends[0].texts][-1] == "95 %"
    assert sum(a.axison for a in f.plot(["s7"], history=3).axes) == 1
    plt.close("all")


@pytest.mark.parametrize("shape", [(2, 4), (3,), (3, 4, 1), (3, 0)])
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(
        ValueError, match="expected a distribution of shape \\(3, horizon\\), got"
    ):
        Forecast(made()[0].panel, QuantileGrid(LEVELS, torch.zeros(*shape, 9)))


@pytest.mark.parametrize(
    "ask, message",
    [
        (dict(quantiles=[95]), "For 95 % write 0.95"),
        (dict(level=[0]), "percentages between 0 and 100: 0"),
        (dict(level=[100]), "Write level=\\[80, 95\\]"),
    ],
)
def test_levels_that_cannot_be_are_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        made()[0].to_frame(**ask)


# ------------------------------------------------------------------ totals
U = torch.special.ndtr(torch.linspace(-5.5, 5.5, 1001, dtype=torch.float64))


def bells(mean, deviation):
    "Normal steps of shape (series, horizon), as fine grids."
    mean, deviation = (
        torch.as_tensor(x, dtype=torch.float64)[..., None] for x in (mean, deviation)
    )
    return QuantileGrid(U, mean + deviation * torch.special.ndtri(U))


def poisson(mean, n=120):
    "Poisson counts, P(N <= k) at k + 1/2, of any shape."
    k = torch.arange(n, dtype=torch.float64)
    F = torch.special.gammaincc(k + 1, torch.tensor(mean, dtype=torch.float64))
    k, F = k[F < 1], F[F < 1]
    return lambda *shape: Counts(
        QuantileGrid(F, (k + 0.5).expand(*shape, -1), "flat", "nonnegative")
    )


ASKED = torch.tensor([0.05, 0.5, 0.9, 0.95, 0.99], dtype=torch.float64)


@pytest.mark.parametrize("horizon", [2, 8, 26])
def test_independent_normal_steps_have_a_normal_sum(horizon):
    steps = np.arange(1, horizon + 1)
    mean, deviation = np.stack([10.0 * steps, 3.0 + steps]), np.stack([steps, steps])
    total = total_of(bells(mean, deviation), assume="independent")
    for i in range(2):
        spread = (deviation[i] ** 2).sum() ** 0.5
        exact = mean[i].sum() + spread * torch.special.ndtri(ASKED)
        assert ((total.quantile(ASKED)[i] - exact).abs() < 0.06 * spread).all()
        assert total.quantile([0.95])[i].item() == pytest.approx(
            exact[3].item(), rel=0.01
        )


@pytest.mark.parametrize("rate", [0.3, 2.0, 10.0])
def test_independent_poisson_steps_have_a_poisson_sum_of_whole_numbers(rate):
    total = total_of(poisson(rate)(1, 8), assume="independent")
    q = total.quantile(ASKED)[0]
    exact = poisson(8 * rate)().quantile(ASKED)
    assert isinstance(total, Counts) and torch.equal(q, q.round())
    assert ((q - exact).abs() <= (1 if rate > 1 else 0)).all()
    assert total.mean.item() == pytest.approx(8 * rate, rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: bells([[5.0, 7, 9], [1, 2, 3]], [[1.0, 2, 3], [3, 2, 1]]),
        lambda: poisson(2.5)(2, 3),
        lambda: QuantileGrid(LEVELS, torch.rand(2, 3, 9).cumsum(-1)),
    ],
)
def test_steps_that_move_together_add_their_quantiles_and_shortages(make):
    d = make()
    total = total_of(d, assume="comonotone")
    fine = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    q = total.quantile(fine)
    torch.testing.assert_close(q, d.quantile(fine).sum(1))
    torch.testing.assert_close(total.mean, d.mean.sum(1))
    for c in q[:, [100, 9000, 19_000]].T:
        level = (q <= c[:, None]).double().mean(1)
        short = (q.double() - c[:, None]).clamp(min=0).mean(1)
        torch.testing.assert_close(total.cdf(c).double(), level, atol=2e-3, rtol=0)
        near = 5e-3 * float(q.abs().mean())
        torch.testing.assert_close(
            total.excess(c).double(), short, atol=near, rtol=1e-2
        )
    u = torch.tensor([0.2, 0.7], dtype=d.dtype)
    assert (total.cdf(total.icdf(u)) >= u - 1e-5).all()
    torch.testing.assert_close(total[1].quantile(ASKED), total.quantile(ASKED)[1])
    torch.testing.assert_close(total.slope([0.33]), d.slope([0.33]).sum(1))


@pytest.mark.parametrize("assume", ["independent", "comonotone", None])
def test_means_add_whatever_is_assumed(assume):
    g = torch.Generator().manual_seed(0)
    heavy = QuantileGrid(LEVELS, torch.rand(3, 4, 9, generator=g).exp().cumsum(-1))
    d = Paths(heavy.sample((500,))) if assume is None else heavy
    f = Forecast(made()[0].panel, d)
    torch.testing.assert_close(f.total(assume=assume).mean, f.mean().sum(-1))
    own = f.total([1, 4, 2], assume)
    exact = [f.mean()[0, :1].sum(), f.mean()[1].sum(), f.mean()[2, :2].sum()]
    torch.testing.assert_close(own.mean, torch.stack(exact))


@pytest.mark.parametrize("wrap", [lambda p: p, Counts])
def test_the_total_of_paths_is_that_of_their_sums(wrap):
    g = torch.Generator().manual_seed(1)
    x = torch.poisson(torch.full((400, 3, 4), 3.0), generator=g)
    f = Forecast(made()[0].panel, wrap(Paths(x, "nonnegative")))
    for steps in (None, 4, 2, np.array([4, 1, 3])):
        n = np.broadcast_to(4 if steps is None else steps, 3)
        sums = torch.stack([x[:, i, :k].sum(-1) for i, k in enumerate(n)], -1)
        total = f.total(steps)
        assert total.batch_shape == (3,) and total.event_shape == ()
        assert torch.equal(total.draws, sums)
    # what is assumed replaces what the paths know
    apart = f.total(assume="independent")
    torch.testing.assert_close(apart.mean, f.mean().sum(-1))


def test_one_step_is_itself_and_several_need_a_word():
    f, _ = made()
    assert torch.equal(f.total(1).quantile([0.9]), f.quantile([0.9])[:, 0])
    with pytest.raises(ValueError) as e:
        f.total(2)
    for word in (
        "assume='independent'",
        "assume='comonotone'",
        "MQF2Forecaster",
        "RecurrentForecaster",
    ):
        assert word in str(e.value)
    with pytest.raises(ValueError, match="unknown assumption: both"):
        f.total(2, "both")
    with pytest.raises(
        ValueError, match="of shape \\(series, horizon\\), got \\(3,\\)"
    ):
        total_of(f.distribution[:, 0])


@pytest.mark.parametrize("steps", [0, 5, 1.5, True, "2", [1, 2], [1, 2, 5]])
def test_steps_that_cannot_be_added_are_refused(steps):
    with pytest.raises(
        (ValueError, TypeError), match="from 1 to the horizon 4, or one for each of 3"
    ):
        made()[0].total(steps, "independent")


def test_totals_are_the_same_every_time():
    d = made()[0].distribution
    again = [total_of(d, assume="independent").draws for _ in range(2)]
    assert torch.equal(*again)
