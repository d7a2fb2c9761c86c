"""Why this forecast: contributions by definition, cases that were, files, refusals."""

import math
from dataclasses import replace
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from forecastlab.core.basics import LabError
from forecastlab.core.forecaster import load_model, packed, unpacked
from forecastlab.core.panel import Panel
from forecastlab.demand.forest import SparseQuantileForest
from forecastlab.demand.growth import goes_left
from forecastlab.demand.sqrf import SQRF, PooledForest
from forecastlab.demand.textbook import SeasonalNaive
from forecastlab.demand.why import (
    case_quantiles,
    contributions,
    forest_contributions,
    nearest_cases,
    plot_contributions,
    plot_nearest_cases,
)
from test_design import shops

QUICK = dict(trees=8, smallest=5, rows=1500)


# contributions of a forest


def rows(n=200, seed=0):
    "Four columns: one jumps, one is missing at times, one is a category, one is noise."
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)).astype(np.float32)
    X[rng.random(n) < 0.3, 1] = np.nan
    X[:, 2] = rng.integers(0, 6, n)
    X[rng.random(n) < 0.3, 3] = 0
    y = np.sin(3 * X[:, 0]) + np.isnan(X[:, 1]) + np.isin(X[:, 2], [1, 4]) * X[:, 3]
    return X, y.astype(float), rng.gamma(2, 1, n)


class Game:
    "What a forest says of a row of which some columns are known, by its definition."

    def __init__(self, forest):
        self.trees, self.bins = forest.forest.trees, forest.forest.bins
        leaves, sorted_ = forest.forest.leaves, forest.forest.value
        ends = zip(leaves.indptr[:-1], leaves.indptr[1:])
        weight = np.ones(len(leaves.rank)) if leaves.weight is None else leaves.weight
        self.mean = [
            np.average(sorted_[leaves.rank[a:b]], weights=weight[a:b]) for a, b in ends
        ]

    def cover(self, i):
        split = self.trees.node[i]
        if split["feature"] < 0:
            return float(self.trees.cover[i])
        return self.cover(split["left"]) + self.cover(split["left"] + 1)

    def below(self, i, x, known):
        split = self.trees.node[i]
        column, left = split["feature"], split["left"]
        if column < 0:
            return self.mean[left]
        if column in known:
            goes = x[column] <= split["threshold"]
            if split["rule"] >= 2 or np.isnan(x[column]):
                goes = goes_left(x[column], split, column, self.trees, self.bins)
            return self.below(left if goes else left + 1, x, known)
        sides = left, left + 1
        cover = [self.cover(c) for c in sides]
        return np.average([self.below(c, x, known) for c in sides], weights=cover)

    def worth(self, x, known):
        return np.mean([self.below(root, x, known) for root in self.trees.root])

    def shapley(self, x):
        "The worth of nothing, and the contributions, over all sets of columns."
        d = len(x)
        sets = [s for n in range(d + 1) for s in combinations(range(d), n)]
        worth = {s: self.worth(x, s) for s in sets}
        found = np.zeros(d)
        for s in sets:
            for j in set(range(d)) - set(s):
                orders = math.factorial(len(s)) * math.factorial(d - len(s) - 1)
                gain = worth[tuple(sorted((*s, j)))] - worth[s]
                found[j] += orders / math.factorial(d) * gain
        return worth[()], found


@pytest.mark.parametrize(
    "weighted, settings",
    [
        (True, dict(features=1.0)),
        (False, dict(features=0.5, bag=1)),
        (True, dict(samples=3, features=1.0)),
        (False, dict(depth=1)),
    ],
)
def test_contributions_are_shapleys_over_all_sets(weighted, settings):
    X, y, weight = rows()
    forest = SparseQuantileForest(trees=3, smallest=8, **settings)
    forest.fit(X, y, weight=weight if weighted else None, categorical=[2])
    asked = np.array([X[0], X[1], [np.nan] * 2 + [17, 0], [0] * 4], np.float32)
    base, found = forest_contributions(forest, asked)
    game = Game(forest)
    for x, parts in zip(asked, found):
        start, wanted = game.shapley(x)
        np.testing.assert_allclose(parts, wanted, atol=1e-12)
        assert abs(base - start) < 1e-12
    np.testing.assert_allclose(base + found.sum(1), forest.mean(asked), atol=1e-12)


def test_they_add_up_in_deep_trees_and_the_threads_do_not_matter():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 30)) * (rng.random((1500, 30)) < 0.7)
    y = X @ rng.normal(size=30) + 100
    forest = SparseQuantileForest(trees=10, smallest=1).fit(X, y)
    base, found = forest_contributions(forest, X[:40])
    np.testing.assert_allclose(base + found.sum(1), forest.mean(X[:40]), atol=1e-9)
    forest.threads = 3
    assert np.array_equal(forest_contributions(forest, X[:40])[1], found)


def test_a_column_that_no_split_asks_contributes_nothing():
    X, y, _ = rows()
    still = np.column_stack([X[:, :2], np.ones(len(X))])
    forest = SparseQuantileForest(trees=5).fit(still, y)
    _, found = forest_contributions(forest, still)
    assert (found[:, 2] == 0).all() and np.abs(found[:, :2]).max() > 0.1
    alone = SparseQuantileForest(trees=3).fit(still[:, 2:], y)
    base, found = forest_contributions(alone, still[:3, 2:])
    assert (found == 0).all() and abs(base - alone.mean(still[:1, 2:])[0]) < 1e-12


def test_trees_of_another_library_are_explained_too():
    ensemble = pytest.importorskip("sklearn.ensemble")
    X, y, _ = rows()
    X = np.nan_to_num(X)
    grown = ensemble.RandomForestRegressor(5, bootstrap=False, min_samples_leaf=5)
    grown.set_params(random_state=0, max_features=2).fit(X, y)
    forest = SparseQuantileForest.from_trees(grown.estimators_, X, y)
    base, found = forest_contributions(forest, X[:20])
    np.testing.assert_allclose(base + found.sum(1), grown.predict(X[:20]), atol=1e-9)
    assert abs(base - y.mean()) < 1e-9


def test_forests_that_are_no_mean_of_trees_are_refused():
    X, y, _ = rows()
    loose = SparseQuantileForest(trees=2, weighted_leaves=False).fit(X, y)
    with pytest.raises(LabError, match="weighted_leaves=True"):
        forest_contributions(loose, X)
    with pytest.raises(LabError, match="this is a list"):
        forest_contributions([loose], X)
    with pytest.raises(LabError, match="has not been grown"):
        forest_contributions(SparseQuantileForest(), X)
    with pytest.raises(LabError, match="3 columns, 4 are expected"):
        forest_contributions(SparseQuantileForest(trees=2).fit(X, y), X[:, :3])


# forecasts


@pytest.fixture(scope="module")
def panel():
    "Four series of real numbers, the third of which was never observed."
    rng = np.random.default_rng(0)
    y = rng.gamma(2, 3, 4 * 60)
    y[120:180] = np.nan
    return shops(y=y, fill="missing").cut(50)


@pytest.fixture(scope="module")
def model(panel):
    lines = dict(line="kind", lines={"tin": ["lags", "known", "product"]})
    return SQRF(5, text="text", **lines, **QUICK).fit(panel)


@pytest.mark.parametrize("make", [SQRF, PooledForest])
def test_base_and_contributions_are_the_mean_of_the_forest(make, panel, model):
    model = model if make is SQRF else make(5, **QUICK).fit(panel)
    groups = contributions(model)
    total = groups.groupby(["unique_id", "step"], sort=False).contribution.sum()
    assert len(total) == 20
    wanted = np.empty(20)
    for asked in model.asked_rows():
        wanted[asked.at] = asked.model.mean(asked.matrix.X) * asked.matrix.level
    np.testing.assert_allclose(total, wanted, atol=1e-9)
    columns = contributions(model, by="column")
    keys = ["unique_id", "step", "group"]
    told, again = (x.groupby(keys).contribution.sum() for x in (groups, columns))
    pd.testing.assert_series_equal(told, again, rtol=1e-9, atol=1e-9)
    dates = model.predict().dates
    np.testing.assert_array_equal(groups.drop_duplicates(keys[:2]).ds, dates.ravel())


def test_some_series_and_steps_are_explained_as_among_all(panel, model):
    for ask in (contributions, nearest_cases):
        every = ask(model, panel)
        mine = every.unique_id.isin(["s1", "s2"]) & every.step.isin([2, 5])
        wanted = every[mine].reset_index(drop=True)
        found = ask(model, panel, series=["s1", "s2"], steps=[5, 2])
        pd.testing.assert_frame_equal(found, wanted)


def test_columns_say_what_stands_in_them(panel, model):
    told = contributions(model, series="s1", steps=3, by="column").set_index("column")
    assert told.value["static kind"] == "tin" and told.value["known event"] in (
        "none",
        "fair",
    )
    at = panel.indptr[1] + panel.length[1] - 1
    assert told.value["known plan"] == panel.known["plan"][at + 3]
    assert np.isnan(told.value["base"]) and told.contribution["base"] > 0


def test_cases_are_what_really_happened(panel, model):
    cases = nearest_cases(model)
    row = {name: i for i, name in enumerate(panel.ids)}
    series = cases.case.map(row).to_numpy()
    target = panel.calendar.get_indexer(cases.case_ds)
    at = panel.indptr[series] + target - panel.start[series]
    np.testing.assert_array_equal(cases.case_y, panel.y[at])
    away = target - panel.calendar.get_indexer(cases.case_origin)
    assert (away >= 1).all() and (away <= 5).all()
    assert (cases.case != "s2").all() and (cases.case_ds < cases.ds.min()).all()
    told = [n for n in cases if n.startswith("case ") and n[5:].startswith("known ")]
    assert told
    for name in told:
        column = name.removeprefix("case known ")
        wanted = panel.known[column][at]
        if column in panel.categories:
            wanted = np.array(panel.categories[column], object)[wanted]
        # the forest of products without history keeps other columns
        kept = cases[name].notna().to_numpy()
        assert kept.any() and (cases[name][kept] == wanted[kept]).all()


def test_cases_and_weights_are_the_forecast(model):
    cases = nearest_cases(model)
    levels = np.array([0.05, 0.35, 0.5, 0.9])
    told = model.predict().quantile(levels).numpy().reshape(-1, 4)
    asked = model.asked_rows()
    inverted, mean = np.empty((20, 4)), np.empty(20)
    for part in asked:
        size = part.matrix.level
        read = part.model.predict(part.matrix.X, levels, interpolation="inverted")
        inverted[part.at] = read * size[:, None]
        mean[part.at] = part.model.mean(part.matrix.X) * size
    groups = cases.groupby(["unique_id", "step"], sort=False)
    for i, (_, own) in enumerate(groups):
        assert abs(own.weight.sum() - 1) < 1e-9
        assert own.weight.is_monotonic_decreasing
        found = case_quantiles(own.value, own.weight, levels)
        np.testing.assert_allclose(found, inverted[i], rtol=1e-12)
        assert abs(own.weight @ own.value - mean[i]) < 1e-9
        # a forecast draws a line between two cases near the level
        for shift, side in ((-0.06, np.less_equal), (0.06, np.greater_equal)):
            near = case_quantiles(own.value, own.weight, (levels + shift).clip(0.01))
            assert side(near, told[i] * (1 - 1e-6 * np.sign(shift))).all()


def test_the_heaviest_cases_come_alone_when_asked_for(model):
    every, few = nearest_cases(model), nearest_cases(model, most=3)
    first = every.groupby(["unique_id", "step"], sort=False).head(3)
    pd.testing.assert_frame_equal(few, first.reset_index(drop=True))


def test_a_saved_model_remembers_its_cases(panel, model, tmp_path):
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    for ask in (contributions, nearest_cases):
        pd.testing.assert_frame_equal(ask(again, panel), ask(model, panel))


def test_a_file_without_cases_is_told_and_still_forecasts(panel, model):
    note, tensors = packed(model)
    note["state"].pop("cases")
    old = unpacked(
        note, {n: x for n, x in tensors.items() if not n.startswith("cases")}
    )
    told, asked = (m.predict(5, panel).quantile([0.5]) for m in (old, model))
    assert (told == asked).all()
    assert len(contributions(old, panel)) == len(contributions(model))
    with pytest.raises(LabError, match="cases of this model were not kept"):
        nearest_cases(old, panel)


def test_cases_of_counted_steps_and_numbered_products_keep_their_kinds(tmp_path):
    rng = np.random.default_rng(0)
    ids, ds = np.repeat([7, 12], 40), np.tile(np.arange(100, 140), 2)
    y = rng.gamma(2, 3, 80)
    frame = pd.DataFrame(dict(unique_id=ids, ds=ds, y=y))
    panel = Panel.from_frame(frame, 1)
    model = SQRF(3, **QUICK).fit(panel)
    model.save(tmp_path / "model")
    told = nearest_cases(load_model(tmp_path / "model"), panel, series=12, steps=1)
    assert set(told.case) == {7, 12} and (told.unique_id == 12).all()
    happened = frame.set_index(["unique_id", "ds"]).y
    wanted = happened[list(zip(told.case, told.case_ds))]
    np.testing.assert_allclose(told.case_y, wanted, rtol=1e-6)
    assert told.ds.unique().tolist() == [140]
    plot_nearest_cases(None, told)
    plt.close("all")


def test_wrong_questions_are_refused(panel, model):
    for ask in (contributions, nearest_cases):
        for wrong, words in (
            (dict(steps=6), "1 to 5 steps, asked for 6"),
            (dict(steps=0), "steps must be a whole number"),
            (dict(steps=[1, 1.5]), "steps must be a whole number"),
            (dict(steps=[]), "no step"),
            (dict(series="s9"), "unknown series: s9"),
            (dict(series=[]), "no series"),
        ):
            with pytest.raises(LabError, match=words):
                ask(model, panel, **wrong)
        with pytest.raises(LabError, match="has not been fitted"):
            ask(SQRF(5))
        with pytest.raises(LabError, match="Panel"):
            ask(model, panel.to_frame(), series="s1")
        with pytest.raises(LabError, match="this is a SeasonalNaive"):
            ask(SeasonalNaive(5).fit(panel.take([0])))
    with pytest.raises(LabError, match="this is a PooledForest"):
        nearest_cases(PooledForest(5))
    with pytest.raises(LabError, match="unknown by: colour"):
        contributions(model, by="colour")
    with pytest.raises(LabError, match="most"):
        nearest_cases(model, most=0)
    short = replace(panel, known={}, categories=dict(panel.categories))
    with pytest.raises(LabError, match="lacks: .*known plan"):
        contributions(model, short)


def test_weighted_quantiles_are_the_smallest_values_that_weights_reach():
    found = case_quantiles([3, 1, 2, 9], [1, 1, 2, 0], [0.01, 0.25, 0.26, 0.75, 0.99])
    assert found.tolist() == [1, 1, 2, 2, 3]
    with pytest.raises(LabError, match="no case has a weight"):
        case_quantiles([1.0], [0.0], [0.5])


def test_pictures_show_one_forecast_whole(model):
    groups = contributions(model, series="s1", steps=2)
    ax = plot_contributions(None, groups, most=4)
    total = groups.contribution.sum()
    assert len(ax.patches) == 4
    assert ax.get_yticklabels()[-1].get_text().endswith("others")
    last = ax.patches[-1]
    assert abs(last.get_x() + last.get_width() - total) < 1e-9
    columns = contributions(model, series="s1", steps=2, by="column")
    ax = plot_contributions(None, columns, most=50)
    assert any("known plan = " in t.get_text() for t in ax.get_yticklabels())
    cases = nearest_cases(model, series="s1", steps=2)
    ax = plot_nearest_cases(None, cases, levels=[0.5])
    median = case_quantiles(cases.value, cases.weight, [0.5])[0]
    assert any(np.allclose(line.get_ydata(), median) for line in ax.lines)
    plt.close("all")
    several = contributions(model, series="s1")
    with pytest.raises(LabError, match="the frame holds 5"):
        plot_contributions(None, several)
    with pytest.raises(LabError, match="no frame of nearest_cases, it lacks: case"):
        plot_nearest_cases(None, groups)
