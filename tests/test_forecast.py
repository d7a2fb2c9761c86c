"Forecasts: names and dates, any level, the columns that the Nixtla libraries read."

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastlab.core.distributions import QuantileGrid
from forecastlab.core.forecast import Forecast, dates_of
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
    ] and list(frame.unique_id) == [i for i in ("s0", "s1", "s2") for _ in range(4)]
    assert f.dates.shape == (3, 4) and list(
        dates_of(f.panel, np.array([0, 12]))
    ) == list(np.asarray(grid)[[0, 12]])


def test_columns_follow_the_nixtla_convention():
    from statsforecast import StatsForecast
    from statsforecast.models import Naive

    f, _ = made(model="Naive")
    df = f.panel.to_frame()
    theirs = StatsForecast([Naive()], freq="D").forecast(df=df, h=4, level=[80, 95])
    ours = f.to_frame(level=[80, 95])
    assert set(ours) == set(theirs) and list(ours.columns[:3]) == [
        "unique_id",
        "ds",
        "Naive",
    ]
    assert list(ours.unique_id) == list(theirs.unique_id) and list(ours.ds) == list(
        theirs.ds
    )


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
def test_columns(ask, names):
    f, _ = made(model="m")
    frame = f.to_frame(**ask)
    assert list(frame) == ["unique_id", "ds", "m", *names]
    for n in names:
        u = (
            float(n[4:])
            if "_ql" in n
            else 0.5 + (1 if "-hi-" in n else -1) * float(n[5:]) / 200
        )
        np.testing.assert_allclose(
            frame[n], f.quantile([u]).reshape(-1).numpy(), rtol=1e-5
        )
    np.testing.assert_allclose(frame.m, f.quantile([0.5]).reshape(-1).numpy())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=9))
def test_any_level_in_order(levels):
    f, _ = made()
    q = f.quantile(levels)
    assert q.shape == (3, 4, len(levels)) and torch.isfinite(q).all()
    order = np.argsort(levels)
    assert (q[..., order].diff(dim=-1) >= -1e-5).all()


def test_samples_and_scores():
    f, _ = made()
    assert (
        f.sample(6).shape == (6, 3, 4)
        and torch.equal(f.sample(6), f.sample(6))
        and not torch.equal(f.sample(6), f.sample(6, seed=1))
    )
    assert torch.equal(f.mean(), f.distribution.mean) and torch.equal(
        f.crps(np.zeros((3, 4), np.float32)), f.distribution.crps(torch.zeros(3, 4))
    )
    assert np.allclose(
        f.sample(20_000).mean(0), f.mean(), atol=0.1
    ) and "3 series x 4 steps" in repr(f)


def test_select():
    f, _ = made()
    for which in (["s2", "s0"], [2, 0], np.array([-1, 0])):
        g = f.select(which)
        assert (
            g.ids.tolist() == ["s2", "s0"]
            and torch.equal(g.quantile([0.9]), f.quantile([0.9])[[2, 0]])
            and (g.dates == f.dates[[2, 0]]).all()
        )
    assert f.select(np.array([False, True, True])).ids.tolist() == [
        "s1",
        "s2",
    ] and f.select("s1").ids.tolist() == ["s1"]
    with pytest.raises(KeyError, match="unknown series: nobody"):
        f.select("nobody")


def test_after_a_cut_the_forecast_begins_there():
    f, grid = made()
    cut = f.panel.cut(4)
    g = Forecast(cut, f.distribution)
    assert list(g.dates[0]) == list(grid[5:9].to_numpy())


def test_a_forecast_with_gradients():
    "Distributions still attached to a network can be asked for everything."
    v = torch.randn(3, 4, 9, requires_grad=True)
    f = Forecast(made()[0].panel, QuantileGrid(LEVELS, v))
    assert (
        len(f.to_frame(level=[80])) == 12
        and not f.sample(2).requires_grad
        and f.crps(torch.zeros(3, 4)).requires_grad
    )


def test_plot(monkeypatch):
    import matplotlib.pyplot as plt

    f, _ = made(lengths=(9, 5, 7, 8, 9, 6, 5, 9))
    more = made(lengths=[n + 2 for n in (9, 5, 7, 8, 9, 6, 5, 9)])[0].panel
    fig = f.plot(actual=more)
    assert sum(a.axison for a in fig.axes) == 6 and [
        a.get_title() for a in fig.axes[:2]
    ] == ["s0", "s1"]
    assert sum(a.axison for a in f.plot(["s7"], history=3).axes) == 1
    plt.close("all")


@pytest.mark.parametrize("shape", [(2, 4), (3,), (3, 4, 1), (3, 0)])
def test_shapes_that_do_not_fit(shape):
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
def test_bad_levels(ask, message):
    with pytest.raises(ValueError, match=message):
        made()[0].to_frame(**ask)
