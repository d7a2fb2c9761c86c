"""New products:

weights and quantiles against slow oracles, no look at the future, every refusal, and
the frames that come out.
"""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from forecastlab.core.panel import Panel
from forecastlab.demand.launch import LaunchForecaster, first_sale, launch_weights
from forecastlab.demand.launch import launches, weighted_quantiles
from forecastlab.demand.textbook import LEVELS


def shop(products=40, steps=80, freq=1, seed=0):
    """Products launched at random, of two kinds that differ tenfold; every second step
    in `d` is missing.
    """
    rng = np.random.default_rng(seed)
    grid = (
        np.arange(steps)
        if freq == 1
        else pd.date_range("2020-01-05", periods=steps, freq=freq)
    )
    frames = []
    for i in range(products):
        t = np.arange(rng.integers(0, steps - 10), steps)
        y = rng.poisson(30 if i % 2 else 3, len(t)).astype(float)
        y[0] = max(y[0], 1)
        frames.append(
            pd.DataFrame(
                {
                    "unique_id": f"{'big' if i % 2 else 'small'}{i}",
                    "ds": grid[t],
                    "y": y,
                }
            )
        )
    return Panel.from_frame(pd.concat(frames), freq=freq)


def kinds(ids, panel):
    return sparse.csr_matrix(
        (
            np.array([i[0] for i in ids])[:, None]
            == np.array([i[0] for i in panel.ids])
        ).astype(float)
    )


def test_weights_are_what_a_loop_gives():
    rng = np.random.default_rng(1)
    s = rng.random((6, 11)) * (rng.random((6, 11)) < 0.6)
    allowed = rng.random((6, 11)) < 0.7
    for k in (1, 3, None):
        for shrink in (0.0, 0.3, 1.0):
            w = launch_weights(sparse.csr_matrix(s), k, shrink, allowed)
            for i in range(6):
                able = np.flatnonzero(allowed[i])
                best = sorted(able, key=lambda j: -s[i, j])[:k]
                near = np.zeros(11)
                near[best] = s[i, best]
                uniform = allowed[i] / len(able)
                near = near / near.sum() if near.sum() else uniform
                np.testing.assert_allclose(
                    w[i], (1 - shrink) * near + shrink * uniform, atol=1e-12
                )


def test_whole_weights_are_repetitions():
    """A sample with a value twice, against the value with weight two:

    the same distribution up to the rule of interpolation.
    """
    rng = np.random.default_rng(2)
    y = rng.normal(size=(400, 2))
    n = rng.integers(0, 4, 400)
    q = weighted_quantiles(y, n[None].astype(float), LEVELS)[0]
    slow = np.quantile(np.repeat(y, n, axis=0), LEVELS, axis=0, method="hazen").T
    np.testing.assert_allclose(q[:, 1:-1], slow[:, 1:-1], atol=0.05)
    assert (np.diff(q, axis=1) >= 0).all()


def test_values_without_weight_and_nan_do_not_count():
    y = np.array([[1.0, 5], [2, np.nan], [99, 99], [4, 7]])
    w = np.array([[1.0, 1, 0, 1]])
    np.testing.assert_allclose(
        weighted_quantiles(y, w, [0.2, 0.5, 0.7])[0],
        [
            np.quantile([1, 2, 4], [0.2, 0.5, 0.7], method="hazen"),
            np.quantile([5, 7], [0.2, 0.5, 0.7], method="hazen"),
        ],
        atol=1e-6,
    )


def test_launches_are_first_sales_that_are_over():
    panel = shop()
    at, step, weeks = launches(panel, 8, since=5)
    want = [s for s in range(len(panel)) if panel.start[s] >= 5]
    np.testing.assert_array_equal(at, want)
    np.testing.assert_array_equal(step, panel.start[want])
    for i, s in enumerate(at):
        np.testing.assert_array_equal(weeks[i], panel.history(s)[:8])
    zeros = Panel.from_frame(
        pd.DataFrame(
            {
                "unique_id": ["a"] * 6 + ["b"] * 6,
                "ds": [*range(6)] * 2,
                "y": [0, 0, 3, 1, 0, 2] + [0] * 6,
            }
        ),
        freq=1,
    )
    assert (
        first_sale(zeros).tolist() == [2, -1]
        and launches(zeros, 4, 0)[2].tolist() == [[3, 1, 0, 2]]
        and len(launches(zeros, 5, 0)[0]) == 0
    )


def test_a_row_after_the_history_is_not_a_sale():
    panel = shop()
    cut = panel.cut(30)
    assert (first_sale(cut) <= 30).all() and len(launches(cut, 8)[0]) == (
        (cut.start >= 4) & (cut.start <= 23)
    ).sum()


def test_the_future_is_not_read():
    panel = shop(80)
    row = np.repeat(panel.start - panel.indptr[:-1], np.diff(panel.indptr)) + np.arange(
        panel.rows
    )
    wild = shop(80)
    wild.y[row >= 50] = 1e6
    made = []
    for p in (panel, wild):
        # the cut panel, and the whole with launches at step 50
        for q in (p.cut(49), p):
            known = kinds(q.ids, q)
            new = kinds(["big", "small"], q)
            if q is p:
                known, new = None, new
            m = LaunchForecaster(8, neighbours=30, shrink=0.2).fit(q, known)
            made.append(
                m.predict(["big", "small"], new, at=50).quantile(LEVELS).numpy()
            )
    for other in made[1:]:
        np.testing.assert_allclose(other, made[0], rtol=1e-6)


def test_settings_are_chosen_on_earlier_launches_only():
    panel = shop(80)
    then = panel.cut(60)
    m = LaunchForecaster(8).fit(then, kinds(then.ids, then))
    assert (
        m.chosen["shrink"] == 0.0
        and m.table.wql.min() < 0.6 * m.table.wql[m.table["shrink"] == 1].min()
        and len(m.table) == 20
    )
    noise = sparse.random(len(then), len(then), 0.1, random_state=0, format="csr")
    assert LaunchForecaster(8).fit(then, noise).chosen["shrink"] >= 0.5
    blank = LaunchForecaster(8).fit(then).chosen
    assert blank == {"neighbours": None, "shrink": 1.0}
    few = LaunchForecaster(8).fit(shop(6, 40), None)
    assert few.table is None and list(few.notes) == ["too few launches to choose on"]


def test_similar_products_beat_the_catalogue_and_sizes_scale():
    panel = shop(80)
    then = panel.cut(60)
    f = (
        LaunchForecaster(8)
        .fit(then, kinds(then.ids, then))
        .predict(["big", "small"], kinds(["big", "small"], then))
    )
    np.testing.assert_allclose(f.quantile([0.5])[..., 0].mean(1), [30, 3], rtol=0.15)
    size = np.where([i[0] == "b" for i in then.ids], 10.0, 1)
    g = (
        LaunchForecaster(8)
        .fit(then, size=size)
        .predict(["big", "small"], size=[10, 1])
        .quantile(LEVELS)
        .numpy()
    )
    np.testing.assert_allclose(g[0], 10 * g[1], rtol=1e-4)
    assert 25 < g[0, :, 11].mean() < 35


@pytest.mark.parametrize("freq", [1, "W-SUN", "D"])
def test_a_forecast_like_any_other(freq):
    panel = shop(freq=freq)
    m = LaunchForecaster(5).fit(panel, kinds(panel.ids, panel))
    f = m.predict(["big", "small", "x"], kinds(["big", "small", "x"], panel))
    assert (
        f.distribution.batch_shape == (3, 5)
        and f.distribution.domain == "nonnegative"
        and (f.last == len(panel.calendar) - 1).all()
    )
    assert list(m.notes["no similar product: the whole catalogue"]) == [
        "x"
    ] and f.to_frame(level=[80]).shape == (15, 5)
    assert (
        (f.dates[:, 0] > panel.calendar[-1]).all()
        and f.select("small").quantile([0.5]).shape == (1, 5, 1)
        and f.sample(3).shape == (3, 3, 5)
    )
    at = panel.calendar[[40, 50, 60]] if freq != 1 else [40, 50, 60]
    g = m.predict(["big", "small", "x"], kinds(["big", "small", "x"], panel), at=at)
    assert g.last.tolist() == [39, 49, 59] and g.dates[:, 0].tolist() == list(
        panel.calendar[[40, 50, 60]].to_numpy().tolist()
    )
    who = m.analogues(kinds(["big"], panel), 4)
    assert (
        list(who.columns) == ["product", "unique_id", "launched", "weight", "sold"]
        and who.unique_id.str.startswith("big").all()
    )
    import matplotlib

    matplotlib.use("Agg")
    f.plot()


def test_refusals():
    panel = shop()
    m = LaunchForecaster(8, 10, 0.5).fit(panel)
    one = kinds(["big"], panel)
    for make, words in (
        (lambda: LaunchForecaster(0), "horizon must be a whole number"),
        (lambda: LaunchForecaster(neighbours=(5, 0)), "or None: 0"),
        (lambda: LaunchForecaster(shrink=(0.0, 1.5)), "between 0 and 1: 1.5"),
        (lambda: LaunchForecaster(holdout=1.0), "holdout must lie"),
        (lambda: LaunchForecaster(levels=(0.5, 0.1)), "levels must increase"),
        (lambda: LaunchForecaster().predict(["a"]), "Call fit"),
        (lambda: LaunchForecaster(79).fit(panel), "no analogues"),
        (lambda: LaunchForecaster().fit(panel, one), r"expected \(40, 40\)"),
        (lambda: LaunchForecaster().fit(panel, size=[1, 2]), "2 sizes for 40"),
        (lambda: m.predict([]), "no products"),
        (lambda: m.predict(["a", "a"]), "named twice: a"),
        (lambda: m.predict([panel.ids[3]]), "have sold before their launch"),
        (
            lambda: m.predict(["a"], one * np.nan),
            "negative, NaN or infinite, in rows: 0",
        ),
        (lambda: m.predict(["a"], -one), "Clip them"),
        (lambda: m.predict(["a", "b"], one), r"expected \(2, 40\)"),
        (lambda: m.predict(["a", "b"], at=[40, 50, 60]), "3 launch steps for 2"),
        (lambda: m.predict(["a", "b"], at=[5, 50]), "over before that of: a"),
        (lambda: m.predict(["a"], size=[-1]), "positive numbers, at: 0"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    weekly = LaunchForecaster(8, 10, 0.5).fit(shop(freq="W-SUN"))
    with pytest.raises(ValueError, match="not on the calendar W-SUN"):
        weekly.predict(["a"], at=np.datetime64("2021-05-03"))
