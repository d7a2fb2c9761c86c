"""The sparse quantile forest: its definition, bad input in words, files, seeds."""

import json
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from forecastlab.core.basics import LabError
from forecastlab.demand.forest import NOTE, SparseQuantileForest
from forecastlab.kernels.leaf_quantiles import leaf_quantiles_ref

LEVELS = [0.05, 0.3, 0.5, 0.9]
NAMES = ["price", "offer", "week", "colour", "size"]
QUICK = dict(trees=5, smallest=5)


def rows(n=120, seed=0):
    "Sparse rows of which the first three columns matter, and their targets."
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 4, (n, 5)) * (rng.random((n, 5)) < 0.6)
    X[:, 3] = rng.integers(0, 5, n)
    y = X[:, 0] - 2 * (X[:, 1] > 1) + 0.5 * X[:, 2] + 0.3 * rng.standard_normal(n)
    return sp.csr_matrix(X.astype(np.float32)), y


def grown(**settings):
    "A small forest, what it was grown on, and the same rows."
    X, y = rows()
    return SparseQuantileForest(**QUICK | settings).fit(X, y, names=NAMES), X, y


# the definition


def explained(y, w, left):
    "Weighted squared sums of two sides over their weights: what a split maximises."
    sides = [(w[s] @ y[s]) ** 2 / w[s].sum() for s in (left, ~left)]
    return sum(sides)


def cuts(x, categorical):
    "Every way to divide a column: below each value, or any group of categories."
    kinds = np.unique(x)
    if not categorical:
        return [x <= k for k in kinds[:-1]]
    groups = product((False, True), repeat=len(kinds) - 1)
    return [np.isin(x, kinds[:-1][list(g)]) for g in groups]


def divided(X, y, w, categorical, smallest, depth, here):
    "The leaves of Breiman's regression tree, as sets of rows."
    y_, w_ = y[here], w[here]
    middle = w_ @ y_ / w_.sum()
    best, best_left = 1e-9, None
    for j in range(X.shape[1] if depth else 0):
        for left in cuts(X[here, j], j in categorical):
            if smallest <= left.sum() <= len(here) - smallest:
                gain = explained(y_ - middle, w_, left)
                if gain > best:
                    best, best_left = gain, left
    if best_left is None:
        return [frozenset(here.tolist())]
    sides = here[best_left], here[~best_left]
    rest = categorical, smallest, depth - 1
    return [leaf for s in sides for leaf in divided(X, y, w, *rest, s)]


# where leaves must hold several rows, the best group of categories need not be the
# best of those that are sorted by their mean (Fisher 1958): single rows may be leaves
@pytest.mark.parametrize("categorical, smallest, depth", [([], 7, 99), ([3], 1, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_tree_on_all_rows_is_the_one_of_the_definition(
    categorical, smallest, depth, weighted
):
    X, y = rows()
    w = np.random.default_rng(1).integers(1, 4, len(y)) if weighted else None
    settings = dict(smallest=smallest, depth=depth, features=1, bag=1)
    forest = SparseQuantileForest(trees=1, **settings)
    forest.fit(X, y, weight=w, categorical=categorical)
    say = np.ones(len(y)) if w is None else w
    everyone = np.arange(len(y))
    rule = categorical, smallest, depth
    wanted = divided(X.toarray(), y, say, *rule, everyone)
    leaf = forest.leaves(X)[:, 0]
    found = {frozenset(np.flatnonzero(leaf == k).tolist()) for k in set(leaf.tolist())}
    assert found == set(wanted)
    assert len(found) > 4


def test_quantiles_are_those_of_the_cases_in_the_leaf():
    X, y = rows()
    forest = SparseQuantileForest(trees=1, smallest=7, bag=1).fit(X, y)
    leaf = forest.leaves(X)[:, 0]
    wanted = [np.quantile(y[leaf == k], LEVELS) for k in leaf]
    np.testing.assert_allclose(forest.predict(X, LEVELS), wanted, rtol=1e-12)


@pytest.mark.parametrize("weighted_leaves", [True, False])
def test_weights_are_meinshausens_equation_4(weighted_leaves):
    forest, X, y = grown(weighted_leaves=weighted_leaves)
    leaf = forest.leaves(X)
    wanted = np.zeros((len(y), len(y)))
    for t in range(forest.trees):
        same = (leaf[:, [t]] == leaf[:, t]) & forest.in_bag(t)
        wanted += same / (same.sum(1, keepdims=True) if weighted_leaves else 1)
    wanted /= wanted.sum(1, keepdims=True)
    found = forest.weights(X)
    np.testing.assert_allclose(found.toarray(), wanted, atol=1e-12)
    np.testing.assert_allclose(found @ y, forest.mean(X), atol=1e-9)
    ref = leaf_quantiles_ref(
        forest.forest.leaves,
        forest.forest.value,
        leaf[:9],
        LEVELS,
        weighted_leaves=weighted_leaves,
    )
    np.testing.assert_allclose(forest.predict(X[:9], LEVELS), ref, atol=1e-9)


def test_the_mean_is_the_weighted_mean_of_weighted_rows():
    X, y = rows()
    w = np.random.default_rng(1).random(len(y))
    forest = SparseQuantileForest(trees=1, smallest=7, bag=1).fit(X, y, weight=w)
    leaf = forest.leaves(X)[:, 0]
    wanted = [np.average(y[leaf == k], weights=w[leaf == k]) for k in leaf]
    np.testing.assert_allclose(forest.mean(X), wanted, rtol=1e-6)


def test_a_row_of_weight_zero_is_as_one_left_out():
    X, y = rows()
    w = (np.arange(len(y)) % 3 > 0).astype(float)
    settings = dict(trees=1, smallest=7, bag=1, features=1)
    all_rows = SparseQuantileForest(**settings).fit(X, y, weight=w)
    fewer = SparseQuantileForest(**settings).fit(X[w > 0], y[w > 0])
    found, wanted = (f.predict(X[w > 0], LEVELS) for f in (all_rows, fewer))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert all_rows.weights(X)[:, w == 0].nnz == 0


# what must not matter


def test_any_layout_of_the_same_rows_gives_the_same_forest():
    forest, X, y = grown()
    wanted = forest.predict(X, LEVELS)
    turned = X[:, ::-1][:, ::-1]
    halves = sp.coo_matrix(
        (
            np.concatenate([X.data / 2] * 2),
            (np.tile(X.tocoo().row, 2), np.tile(X.tocoo().col, 2)),
        ),
        shape=X.shape,
    )
    indptr, twice = 2 * X.indptr, np.repeat(X.indices, 2)
    doubled = sp.csr_matrix((np.repeat(X.data / 2, 2), twice, indptr), X.shape)
    unsorted = X.copy()
    for a, b in zip(X.indptr, X.indptr[1:]):
        unsorted.indices[a:b] = X.indices[a:b][::-1]
        unsorted.data[a:b] = X.data[a:b][::-1]
    unsorted = sp.csr_matrix((unsorted.data, unsorted.indices, X.indptr), X.shape)
    layouts = (X.toarray(), X.tocsc(), sp.csr_array(X), halves, doubled, turned)
    for same in (*layouts, unsorted, X.astype(np.float64)):
        again = SparseQuantileForest(**QUICK).fit(same, y)
        np.testing.assert_array_equal(again.predict(same, LEVELS), wanted)


def test_equal_seeds_and_any_threads_give_equal_forests():
    forest, X, y = grown()
    wanted = forest.predict(X, LEVELS)
    for settings in ({}, dict(threads=3)):
        again = grown(**settings)[0]
        assert np.array_equal(again.predict(X, LEVELS), wanted)
        assert np.array_equal(again.importance(), forest.importance())
    assert not np.array_equal(grown(seed=1)[0].predict(X, LEVELS), wanted)


def test_rows_and_weights_are_left_as_they_were():
    X, y = rows()
    w = np.arange(1.0, len(y) + 1)
    before = [a.copy() for a in (X.data, X.indices, X.indptr, y, w)]
    SparseQuantileForest(**QUICK).fit(X, y, weight=w).predict(X, LEVELS)
    for old, new in zip(before, (X.data, X.indices, X.indptr, y, w)):
        assert np.array_equal(old, new)


@pytest.mark.parametrize("folder", ["forest", "deeper/forest"])
def test_a_saved_forest_answers_alike(tmp_path, folder):
    X, y = rows()
    X.data[::7] = np.nan
    w = np.arange(1.0, len(y) + 1)
    forest = SparseQuantileForest(**QUICK)
    forest.fit(X, y, weight=w, names=NAMES, categorical=["week"])
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    forest.save(tmp_path / folder)
    again = SparseQuantileForest.load(tmp_path / folder)
    assert again == forest
    assert again.names == NAMES
    for answer in ("mean", "leaves"):
        found, wanted = (getattr(f, answer)(X) for f in (again, forest))
        assert np.array_equal(found, wanted)
    assert np.array_equal(again.predict(X, LEVELS), forest.predict(X, LEVELS))
    assert np.array_equal(again.out_of_bag(X, [0.5]), forest.out_of_bag(X, [0.5]), True)


# rows out of the ordinary


def test_a_column_that_is_all_missing_is_never_split():
    X, y = rows()
    dense = X.toarray()
    dense[:, 1] = np.nan
    forest = SparseQuantileForest(**QUICK).fit(dense, y)
    assert forest.importance()[1] == 0
    assert np.isfinite(forest.predict(dense, LEVELS)).all()
    nothing = SparseQuantileForest(**QUICK).fit(np.full((30, 2), np.nan), y[:30])
    one = nothing.leaves(np.full((1, 2), np.nan))
    assert np.array_equal(nothing.leaves([[1.0, 2.0]]), one)


def test_a_missing_value_is_a_reason_to_split():
    y = np.repeat([0.0, 1.0], 20)
    x = np.where(y == 0, np.nan, 3.0)[:, None]
    forest = SparseQuantileForest(trees=1, smallest=5, bag=1).fit(x, y)
    assert forest.mean([[np.nan], [3.0]]).tolist() == [0, 1]


def test_a_category_unseen_in_training_follows_the_larger_side():
    kind = np.repeat([1, 2, 5], [30, 10, 10])
    y = (kind > 1).astype(float)
    forest = SparseQuantileForest(trees=1, smallest=5, bag=1)
    forest.fit(kind[:, None], y, categorical=[0])
    assert forest.mean([[1], [2], [5]]).tolist() == [0, 1, 1]
    assert forest.mean([[3], [99], [0], [np.nan]]).tolist() == [0] * 4


def test_targets_that_are_all_zero_are_forecast_as_zero():
    X, y = rows()
    forest = SparseQuantileForest(**QUICK).fit(X, 0 * y)
    assert (forest.predict(X, LEVELS) == 0).all()
    assert (forest.mean(X) == 0).all()
    assert (forest.importance() == 0).all()


def test_huge_and_tiny_targets_are_split_alike():
    X, y = rows()
    leaves = [
        SparseQuantileForest(**QUICK).fit(X, y * scale).leaves(X)
        for scale in (1.0, 2.0**200, 2.0**-200)
    ]
    assert np.array_equal(leaves[0], leaves[1])
    assert np.array_equal(leaves[0], leaves[2])


def test_as_many_rows_as_a_leaf_are_one_leaf():
    X, y = rows(5)
    forest = SparseQuantileForest(trees=1, smallest=5, bag=1).fit(X, y)
    wanted = np.quantile(y, LEVELS)
    np.testing.assert_allclose(forest.predict(X[:1], LEVELS)[0], wanted, rtol=1e-12)


def test_no_rows_asked_no_rows_answered():
    forest, X, _ = grown()
    assert forest.predict(X[:0], LEVELS).shape == (0, 4)
    assert forest.mean(X[:0]).shape == (0,)
    assert forest.weights(X[:0]).shape == (0, 120)


def test_leaves_keep_at_most_so_many_samples():
    forest, X, y = grown(samples=2)
    assert np.diff(forest.forest.leaves.indptr).max() == 2
    assert np.isin(forest.predict(X, LEVELS, interpolation="inverted"), y).all()


# refusals


@pytest.mark.parametrize(
    "changed, words",
    [
        (dict(y=np.full(120, np.nan)), "120 values that are NaN or infinite"),
        (dict(y=np.r_[np.inf, np.zeros(119)]), "1 values that are NaN or infinite"),
        (dict(y=np.zeros(119)), r"one number a row, \(120,\)"),
        (dict(y=np.zeros((120, 2))), "several targets are several forests"),
        (dict(y=["a"] * 120), "y must be one number a row"),
        (dict(weight=np.r_[-1.0, np.ones(119)]), "not negative, they are not in rows"),
        (dict(weight=np.full(120, np.nan)), "weights must be finite"),
        (dict(weight=np.zeros(120)), "all weights are zero"),
        (dict(weight=np.ones(3)), "weight must be one number a row"),
        (dict(X=np.zeros((3, 5)), y=np.zeros(3)), "3 rows cannot fill a leaf of 5"),
        (dict(X=np.zeros((120, 0))), "X has no columns"),
        (dict(X=np.full((120, 5), np.inf)), "infinite or too large"),
        (dict(X=np.zeros(120)), "must be a table of numbers"),
        (dict(X=[["a", "b"]] * 120), "must be a table of numbers"),
        (dict(categorical=["taste"]), "none of them: taste"),
        (dict(categorical=[5]), "none of them: 5"),
        (dict(categorical=[3], X=np.full((120, 5), 0.5)), "must hold whole numbers"),
        (dict(names=["a"] * 5), "names of columns must differ: a"),
        (dict(names=["a"]), "1 names do not fit 5 columns"),
    ],
)
def test_what_it_cannot_be_grown_on_is_refused(changed, words):
    X, y = rows()
    with pytest.raises(LabError, match=words):
        SparseQuantileForest(**QUICK).fit(**dict(X=X, y=y, names=NAMES) | changed)


@pytest.mark.parametrize(
    "setting",
    [
        dict(trees=0),
        dict(smallest=0),
        dict(features=0),
        dict(features=1.5),
        dict(bins=1),
        dict(bag=0),
        dict(samples=0),
        dict(depth=0),
        dict(seed=-1),
        dict(threads=0),
        dict(grow="there"),
        dict(weighted_leaves=1),
    ],
)
def test_wrong_settings_are_named(setting):
    with pytest.raises(LabError, match=next(iter(setting))):
        SparseQuantileForest(**setting)


def test_columns_that_it_has_not_seen_are_named():
    forest, X, _ = grown()
    with pytest.raises(LabError, match="not seen these columns: taste"):
        forest.predict(X, LEVELS, names=[*NAMES[:4], "taste"])
    with pytest.raises(LabError, match="grown on: size"):
        forest.mean(X[:, :4], names=NAMES[:4])
    with pytest.raises(LabError, match="another order than in training: size, price"):
        forest.weights(X, names=["size", *NAMES[1:4], "price"])
    with pytest.raises(LabError, match="4 columns, 5 are expected"):
        forest.predict(X[:, :4], LEVELS)


@pytest.mark.parametrize("levels", [[0], [1], [-0.1], [95], [np.nan]])
def test_levels_outside_of_0_to_1_are_refused(levels):
    forest, X, _ = grown()
    with pytest.raises(LabError, match="level"):
        forest.predict(X, levels)


def test_what_was_not_grown_answers_nothing(tmp_path):
    forest, (X, _) = SparseQuantileForest(), rows()
    for ask in (forest.mean, forest.weights, forest.leaves):
        with pytest.raises(LabError, match="not been grown"):
            ask(X)
    with pytest.raises(LabError, match="not been grown"):
        forest.save(tmp_path / "forest")
    assert not (tmp_path / "forest").exists()


def test_out_of_bag_wants_the_rows_of_the_training():
    forest, X, _ = grown()
    with pytest.raises(LabError, match="X has 9 rows, the forest was grown on 120"):
        forest.out_of_bag(X[:9], LEVELS)
    with pytest.raises(LabError, match="every tree saw every row"):
        grown(bag=1)[0].out_of_bag(X, LEVELS)
    with pytest.raises(LabError, match="tree"):
        forest.in_bag(5)


def test_trees_of_another_kind_are_refused():
    X, y = rows()
    with pytest.raises(TypeError, match="str is no tree of scikit-learn"):
        SparseQuantileForest.from_trees(["a tree"], X, y)
    far = SimpleNamespace(
        children_left=[1, -1, -1],
        children_right=[2, -1, -1],
        feature=[7, -2, -2],
        threshold=[0.5, -2, -2],
    )
    with pytest.raises(LabError, match="more than the 5 columns"):
        SparseQuantileForest.from_trees([SimpleNamespace(tree_=far)], X, y)


# folders


def saved(tmp_path):
    "The folder of a forest."
    grown()[0].save(tmp_path / "forest")
    return tmp_path / "forest"


def test_a_forest_is_not_replaced_unasked(tmp_path):
    folder = saved(tmp_path)
    forest, X, _ = grown(seed=3)
    with pytest.raises(LabError, match="overwrite"):
        forest.save(folder)
    forest.save(folder, overwrite=True)
    assert SparseQuantileForest.load(folder).seed == 3


def test_a_folder_from_a_newer_version_is_refused(tmp_path):
    folder = saved(tmp_path)
    note = json.loads((folder / NOTE).read_text())
    (folder / NOTE).write_text(json.dumps(note | dict(format=99)))
    with pytest.raises(LabError, match="newer version, format 99"):
        SparseQuantileForest.load(folder)


@pytest.mark.parametrize("name", ["rank.npy", "node.npy", "sorted.npy", NOTE])
def test_a_folder_that_was_cut_short_is_refused(tmp_path, name):
    folder = saved(tmp_path)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(LabError, match="forest"):
        SparseQuantileForest.load(folder)
    (folder / name).unlink()
    with pytest.raises(LabError, match="forest"):
        SparseQuantileForest.load(folder)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(LabError, match="forest"):
        SparseQuantileForest.load(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("no forest")
    with pytest.raises(LabError, match="forest"):
        SparseQuantileForest.load(tmp_path)
