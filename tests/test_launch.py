"""New products: weights and quantiles against slow oracles, no look at the future,
every refusal, the file, and the frames that come out.
"""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from forecastlab.core.basics import LabError
from forecastlab.core.forecaster import load_model
from forecastlab.core.panel import Panel
from forecastlab.demand.launch import LaunchForecaster, ScoresByName, first_sale
from forecastlab.demand.launch import launch_weights, launches, weighted_quantiles
from forecastlab.demand.textbook import LEVELS


def shop(products=40, steps=80, freq=1, seed=0):
    "Products launched at random, of two kinds that differ tenfold."
    rng = np.random.default_rng(seed)
    grid = np.arange(steps)
    if freq != 1:
        grid = pd.date_range("2020-01-05", periods=steps, freq=freq)
    frames = []
    for i in range(products):
        t = np.arange(rng.integers(0, steps - 10), steps)
        y = rng.poisson(30 if i % 2 else 3, len(t)).astype(float)
        y[0] = max(y[0], 1)
        name = f"{'big' if i % 2 else 'small'}{i}"
        frames.append(pd.DataFrame({"unique_id": name, "ds": grid[t], "y": y}))
    return Panel.from_frame(pd.concat(frames), freq=freq)


def kinds(ids, panel):
    "(product, catalogue) 1 where the first letters agree."
    letter = lambda names: np.array([i[0] for i in names])
    return sparse.csr_matrix(letter(ids)[:, None] == letter(panel.ids)).astype(float)


class FirstLetter:
    "A scorer of one's own."

    def score(self, panel, catalogue):
        letter = lambda names: np.array([i[0] for i in names])
        return letter(panel.ids)[:, None] == letter(catalogue)


def by_kind(panel, *more):
    "The same scores as a table."
    names = [*panel.ids, *more]
    return ScoresByName(kinds(names, panel), names, panel.ids)


NEW = ["big", "small"]


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
    "A value twice, and a value of weight two: the same up to interpolation."
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
    at, step, sold = launches(panel, 8, since=5)
    want = [s for s in range(len(panel)) if panel.start[s] >= 5]
    np.testing.assert_array_equal(at, want)
    np.testing.assert_array_equal(step, panel.start[want])
    for i, s in enumerate(at):
        np.testing.assert_array_equal(sold[i], panel.history(s)[:8])


def test_zeros_before_the_first_sale_are_no_launch():
    frame = pd.DataFrame(
        {
            "unique_id": ["a"] * 6 + ["b"] * 6,
            "ds": [*range(6)] * 2,
            "y": [0, 0, 3, 1, 0, 2] + [0] * 6,
        }
    )
    zeros = Panel.from_frame(frame, freq=1)
    assert first_sale(zeros).tolist() == [2, -1]
    assert launches(zeros, 4, 0).sold.tolist() == [[3, 1, 0, 2]]
    assert len(launches(zeros, 5, 0).position) == 0


def test_a_row_after_the_history_is_not_a_sale():
    cut = shop().cut(30)
    assert (first_sale(cut) <= 30).all()
    over = (cut.start >= 4) & (cut.start <= 23)
    assert len(launches(cut, 8).position) == over.sum()


def test_the_future_is_not_read():
    panel = shop(80)
    begin = np.repeat(panel.start - panel.indptr[:-1], np.diff(panel.indptr))
    wild = shop(80)
    wild.y[begin + np.arange(panel.rows) >= 50] = 1e6
    made = []
    for p in (panel, wild):
        # the cut panel, and the whole with launches at step 50
        for q in (p.cut(49), p):
            model = LaunchForecaster(8, neighbours=30, shrink=0.2).fit(q)
            f = model.forecast_launches(NEW, kinds(NEW, q), at=50)
            made.append(f.quantile(LEVELS).numpy())
    for other in made[1:]:
        np.testing.assert_allclose(other, made[0], rtol=1e-6)


def test_settings_are_chosen_on_earlier_launches_only():
    then = shop(80).cut(60)
    model = LaunchForecaster(similar=by_kind(then)).fit(then)
    assert model.chosen["shrink"] == 0.0
    everyone = model.table.wql[model.table["shrink"] == 1].min()
    assert model.table.wql.min() < 0.6 * everyone
    assert len(model.table) == 20
    noise = sparse.random(len(then), len(then), 0.1, random_state=0, format="csr")
    noise = ScoresByName(noise, then.ids)
    assert LaunchForecaster(similar=noise).fit(then).chosen["shrink"] >= 0.5
    blank = LaunchForecaster(8).fit(then).chosen
    assert blank == {"neighbours": None, "shrink": 1.0}


def test_few_launches_leave_the_middle_setting():
    few = LaunchForecaster(8).fit(shop(6, 40))
    assert few.table is None
    assert list(few.notes) == ["too few launches to choose on"]


def test_similar_products_beat_the_catalogue():
    then = shop(80).cut(60)
    model = LaunchForecaster(similar=by_kind(then, *NEW)).fit(then)
    median = model.forecast_launches(NEW).quantile([0.5])[..., 0]
    np.testing.assert_allclose(median.mean(1), [30, 3], rtol=0.15)


def test_a_size_scales_its_forecast():
    then = shop(80).cut(60)
    size = {i: 10.0 if i[0] == "b" else 1.0 for i in [*then.ids, *NEW]}
    model = LaunchForecaster(size=size).fit(then)
    q = model.forecast_launches(NEW).quantile(LEVELS).numpy()
    np.testing.assert_allclose(q[0], 10 * q[1], rtol=1e-4)
    assert 25 < q[0, :, 11].mean() < 35
    given = model.forecast_launches(["x", "y"], size=[10, 1]).quantile(LEVELS)
    np.testing.assert_array_equal(given, q)
    series = LaunchForecaster(size=pd.Series(size)).fit(then)
    assert series.size == size


def test_a_scorer_of_ones_own_says_what_the_table_says():
    panel = shop()
    own = LaunchForecaster(similar=FirstLetter()).fit(panel)
    table = LaunchForecaster(similar=by_kind(panel, *NEW)).fit(panel)
    assert own.chosen == table.chosen
    a, b = (m.forecast_launches(NEW).quantile(LEVELS) for m in (own, table))
    np.testing.assert_array_equal(a, b)


def unsold(freq=1, at=80, names=("big", "small", "x")):
    "Products that are listed on the eve of their launch, by zeros and by a gap."
    eve = (
        at - 1 if freq == 1 else pd.date_range("2020-01-05", periods=at, freq=freq)[-1]
    )
    y = [0.0, np.nan, 0.0]
    frame = pd.DataFrame({"unique_id": names, "ds": eve, "y": y})
    return Panel.from_frame(frame, freq=freq, fill="missing")


@pytest.mark.parametrize("freq", [1, "W-SUN", "MS"])
def test_the_contract_is_kept(freq, tmp_path):
    panel = shop(freq=freq)
    model = LaunchForecaster(5, similar=by_kind(panel, *NEW))
    assert model.fit(panel) is model
    new = unsold(freq, 81 if freq == "MS" else 80)
    f = model.predict(panel=new)
    assert f.distribution.batch_shape == (3, 5)
    assert f.model == model.name == "LaunchForecaster"
    assert list(model.notes["no similar product: the whole catalogue"]) == ["x"]
    q = f.quantile(LEVELS)
    # integers would be steps of the catalogue's calendar
    at = None if freq == 1 else f.dates[:, 0]
    asked = model.forecast_launches(new.ids, at=at)
    np.testing.assert_array_equal(asked.quantile(LEVELS), q)
    np.testing.assert_array_equal(asked.dates, f.dates)
    np.testing.assert_array_equal(model.predict(2, new).quantile(LEVELS), q[:, :2])
    one = model.predict(panel=new.select(["small"])).quantile(LEVELS)
    np.testing.assert_array_equal(one, q[1:2])
    path = tmp_path / "launch.safetensors"
    model.save(path)
    again = load_model(path)
    assert again.chosen == model.chosen
    np.testing.assert_array_equal(again.predict(panel=new).quantile(LEVELS), q)
    named = again.forecast_launches(NEW, at=40).quantile(LEVELS)
    before = model.forecast_launches(NEW, at=40).quantile(LEVELS)
    np.testing.assert_array_equal(named, before)
    with pytest.raises(LabError, match="overwrite=True"):
        again.save(path)


def test_a_scorer_of_ones_own_is_not_saved(tmp_path):
    model = LaunchForecaster(similar=FirstLetter()).fit(shop())
    with pytest.raises(TypeError, match="a FirstLetter cannot be saved"):
        model.save(tmp_path / "m.safetensors")
    model.similar = None
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    scores = kinds(NEW, shop())
    a, b = (m.forecast_launches(NEW, scores).quantile(LEVELS) for m in (model, again))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("freq", [1, "W-SUN", "D"])
def test_a_forecast_like_any_other(freq):
    panel = shop(freq=freq)
    model = LaunchForecaster(5, similar=by_kind(panel, *NEW)).fit(panel)
    f = model.forecast_launches([*NEW, "x"])
    assert f.distribution.batch_shape == (3, 5)
    assert f.distribution.domain == "nonnegative"
    assert (f.last == len(panel.calendar) - 1).all()
    assert f.to_frame(level=[80]).shape == (15, 5)
    assert (f.dates[:, 0] > panel.calendar[-1]).all()
    assert f.select("small").quantile([0.5]).shape == (1, 5, 1)
    assert f.sample(3).shape == (3, 3, 5)
    at = panel.calendar[[40, 50, 60]] if freq != 1 else [40, 50, 60]
    g = model.forecast_launches([*NEW, "x"], at=at)
    assert g.last.tolist() == [39, 49, 59]
    starts = panel.calendar[[40, 50, 60]].to_numpy()
    assert g.dates[:, 0].tolist() == starts.tolist()
    import matplotlib

    matplotlib.use("Agg")
    f.plot()


def test_analogues_are_named_the_heaviest_first():
    panel = shop()
    model = LaunchForecaster(similar=by_kind(panel, *NEW)).fit(panel)
    who = model.analogues(NEW, most=4)
    assert list(who) == ["product", "unique_id", "launched", "weight", "sold"]
    assert who["product"].tolist() == ["big"] * 4 + ["small"] * 4
    assert who.unique_id[:4].str.startswith("big").all()
    assert who.weight.groupby(who["product"]).is_monotonic_decreasing.all()


def test_what_cannot_be_launched_is_refused_in_words():
    panel = shop()
    model = LaunchForecaster(8, 10, 0.5).fit(panel)
    ask = model.forecast_launches
    one = kinds(["big"], panel)
    short = {"big1": 1.0}
    for make, words in (
        (lambda: LaunchForecaster(0), "horizon must be a whole number"),
        (lambda: LaunchForecaster(neighbours=(5, 0)), "at least 1, got 0"),
        (lambda: LaunchForecaster(shrink=(0.0, 1.5)), r"lie in \[0, 1\], got 1.5"),
        (lambda: LaunchForecaster(holdout=1.0), "holdout must lie"),
        (lambda: LaunchForecaster(levels=(0.5, 0.1)), "levels must increase"),
        (lambda: LaunchForecaster(79).fit(panel), "no analogues"),
        (lambda: LaunchForecaster(size=short).fit(panel), "39 products have no size"),
        (lambda: ScoresByName(one, ["big"], ["a"]), r"expected \(1, 1\)"),
        (lambda: ScoresByName(np.eye(2), ["a", "a"]), "named twice: a"),
        (lambda: ask([]), "no products"),
        (lambda: ask(["a", "a"]), "named twice: a"),
        (lambda: ask([panel.ids[3]]), "have sold before their launch"),
        (lambda: ask(["a"], one * np.nan), "negative, NaN or infinite, in rows: 0"),
        (lambda: ask(["a"], -one), "Clip them"),
        (lambda: ask(["a", "b"], one), r"expected \(2, 40\)"),
        (lambda: ask(["a", "b"], at=[40, 50, 60]), "3 launch steps for 2"),
        (lambda: ask(["a", "b"], at=[5, 50]), "over before that of: a"),
        (lambda: ask(["a"], size=[-1]), "positive numbers, at: 0"),
        (lambda: ask(["a"], size=[1, 2]), "2 sizes for 1"),
        (lambda: model.predict(), "sold before their launch"),
        (lambda: model.predict(9, unsold()), "1 to 8 steps, asked for 9"),
        (lambda: model.predict(panel=unsold("D")), "steps of 1, the panel of D"),
        (lambda: model.predict(panel=unsold(at=5)), "no launch was over before"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(RuntimeError, match="Call fit"):
        LaunchForecaster().forecast_launches(["a"])
    with pytest.raises(RuntimeError, match="Call fit"):
        LaunchForecaster().predict(panel=panel)
    weekly = LaunchForecaster(8, 10, 0.5).fit(shop(freq="W-SUN"))
    with pytest.raises(ValueError, match="not on the calendar W-SUN"):
        weekly.forecast_launches(["a"], at=np.datetime64("2021-05-03"))
