"""What a forest's leaves remember: quantiles, weights, means.

Beside quantile-forest 1.4, whose answers are kept in `quantile_forest.json`; on ugly
shapes; on a CPU and, through Triton's interpreter, as on a GPU.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from forecastlab.core.basics import LabError
from forecastlab.kernels.leaf_quantiles import INTERPOLATIONS, RaggedLeaves
from forecastlab.kernels.leaf_quantiles import bench_leaf_quantiles, check_leaves
from forecastlab.kernels.leaf_quantiles import leaf_mean, leaf_quantiles
from forecastlab.kernels.leaf_quantiles import leaf_quantiles_ref
from forecastlab.kernels.leaf_quantiles import leaf_quantiles_triton, leaf_weights
from forecastlab.kernels.leaf_quantiles import leaves_on, row_weights_ref, ugly_leaves
from forecastlab.kernels.runtime import device
from toys import check_benchmark, compiled

kernel = pytest.mark.kernel
LEVELS = [0.5, 0.1, 0.95, 1 / 3, 0.999, 0.013]
PEER = json.loads((Path(__file__).parent / "quantile_forest.json").read_text())


@pytest.mark.parametrize("case", range(len(PEER)))
def test_leaves_answer_as_quantile_forest_does(case):
    known = PEER[case]
    values = np.asarray(known["values"])
    leaves = RaggedLeaves(known["indptr"], known["rank"], known["weight"])
    leaves = check_leaves(leaves, len(values))
    which = np.asarray(known["which"])
    for name, wanted in known["found"].items():
        how, weighted = name.split()
        options = dict(weighted_leaves=weighted == "True")
        if how == "mean":
            found = leaf_mean(leaves, values, which, **options)
        else:
            options["interpolation"] = how
            given = leaves, values, which, known["levels"]
            found = leaf_quantiles(*given, **options)
            own = leaf_quantiles_ref(*given, **options)
            np.testing.assert_allclose(own, wanted, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


UGLY = ((1, 1, 1), (2, 3, 2), (7, 1, 3), (97, 5, 13), (211, 31, 7), (31, 2, 40))


@pytest.mark.parametrize("counted", ["", "counts", "shares"])
@pytest.mark.parametrize("weighted", [True, False])
def test_compiled_code_agrees_with_the_definition(counted, weighted):
    for seed, (n, trees, most) in enumerate(UGLY):
        leaves, values, which = ugly_leaves(n, trees, most, counted, seed=seed)
        for dtype in (np.float32, np.float64):
            given = leaves, values.astype(dtype), which.astype(np.int32), LEVELS
            for how in INTERPOLATIONS:
                options = dict(weighted_leaves=weighted, interpolation=how)
                wanted = leaf_quantiles_ref(*given, **options)
                found = leaf_quantiles(*given, **options)
                np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
                several = leaf_quantiles(*given, **options, threads=3)
                np.testing.assert_array_equal(several, found)


def test_leaves_of_thousands_and_ranks_of_millions_are_sorted_rightly():
    draw = np.random.default_rng(0)
    n, trees = 5_000_000, 3
    ranks = [np.sort(draw.choice(n, 3000, replace=False)) for _ in range(trees)]
    indptr = np.arange(trees + 1) * 3000
    leaves = check_leaves(RaggedLeaves(indptr, np.concatenate(ranks)), n)
    values = np.arange(n, dtype=np.float64)
    found = leaf_quantiles(leaves, values, [[0, 1, 2]], LEVELS)
    wanted = np.quantile(np.concatenate(ranks), LEVELS)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-12)


def test_weights_are_the_ones_of_the_definition_and_carry_the_mean():
    for seed, (n, trees, most) in enumerate(UGLY):
        leaves, values, which = ugly_leaves(n, trees, most, "counts", seed=seed)
        for weighted in (True, False):
            options = dict(weighted_leaves=weighted)
            omega = leaf_weights(leaves, n, which, **options, threads=2)
            for i, row in enumerate(which):
                wanted = row_weights_ref(leaves, n, row, weighted)
                wanted = wanted / max(float(wanted.sum()), 1e-300)
                np.testing.assert_allclose(omega[[i]].toarray()[0], wanted, atol=1e-12)
            mean = leaf_mean(leaves, values, which, **options)
            empty = np.diff(omega.indptr) == 0
            assert (np.isnan(mean) == empty).all()
            np.testing.assert_allclose(mean[~empty], (omega @ values)[~empty])


def test_small_weights_are_scaled_to_the_samples_that_they_weigh():
    leaves, values, which = ugly_leaves(97, 5, 3, "", missing=0)
    light = leaves._replace(weight=np.full(len(leaves.rank), 0.01, np.float32))
    for weighted in (True, False):
        wanted = leaf_quantiles(leaves, values, which, LEVELS, weighted_leaves=weighted)
        found = leaf_quantiles(light, values, which, LEVELS, weighted_leaves=weighted)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_no_rows_no_trees_no_samples():
    leaves, values, which = ugly_leaves(7, 2, 2)
    assert leaf_quantiles(leaves, values, which[:0], LEVELS).shape == (0, len(LEVELS))
    assert np.isnan(leaf_quantiles(leaves, values, which[:, :0], LEVELS)).all()
    assert leaf_weights(leaves, 7, which[:0]).shape == (0, 7)
    assert np.isnan(leaf_mean(leaves, values, np.full((2, 3), -1))).all()


def test_what_points_elsewhere_is_refused():
    leaves, values, which = ugly_leaves(7, 2, 2, "counts")
    good = dict(leaves=leaves, values=values, which=which, levels=LEVELS)
    beyond = leaves._replace(rank=leaves.rank + 7)
    for change, words in (
        (dict(levels=[]), "no level is asked for"),
        (dict(levels=[0.5, 95]), "strictly between 0 and 1"),
        (dict(interpolation="cubic"), "unknown interpolation"),
        (dict(weighted_leaves=1), "weighted_leaves must be True or False"),
        (dict(threads=0), "threads must be a whole number"),
        (dict(which=which + 4), "there are 4 leaves"),
        (dict(which=which[0]), "which must be whole numbers"),
        (dict(which=which + 0.5), "which must be whole numbers"),
        (dict(values=values.astype(int)), "float32 or float64"),
        (dict(leaves=beyond), "ranks outside of the values; rows"),
        (dict(leaves=leaves._replace(weight=leaves.weight[1:])), "as many as ranks"),
        (dict(leaves=leaves._replace(indptr=leaves.indptr[:-1])), "indptr must go"),
    ):
        with pytest.raises(LabError, match=words):
            leaf_quantiles(**good | change)
    with pytest.raises(LabError, match="ranks outside of the values; rows"):
        leaf_mean(beyond, values, which)
    with pytest.raises(LabError, match="ranks outside of the values; rows"):
        leaf_weights(beyond, 7, which)


def test_leaves_are_checked_once_and_wholly():
    indptr, rank = [0, 2, 3], [0, 2, 1]
    for found, words in (
        (RaggedLeaves([0, 2], rank), "indptr must go from 0"),
        (RaggedLeaves([0, 4, 3], rank), "indptr must not fall: 1"),
        (RaggedLeaves(indptr, [0, 3, 1]), "between 0 and 2: 3"),
        (RaggedLeaves(indptr, [2, 0, 1]), "ranks must ascend in a leaf: 0"),
        (RaggedLeaves(indptr, rank, [1.0, 1.0]), "as many as ranks"),
        (RaggedLeaves(indptr, rank, [1.0, -1.0, 1.0]), "not negative: -1"),
    ):
        with pytest.raises(LabError, match=words):
            check_leaves(found, 3)
    assert check_leaves(RaggedLeaves([0, 0, 2, 3], rank), 3).rank.dtype == np.int32


FORMS = ("", True), ("counts", False), ("shares", True)
SHAPES = (1, 1, 1), (2, 3, 2), (23, 3, 7)
# all forms and shapes with one interpolation, and every other one once: what is read
# does not depend on it, and an interpreter is slow
CASES = [
    *[("linear", *case) for case in product(SHAPES, FORMS)],
    *[(how, SHAPES[1], FORMS[k % 3]) for k, how in enumerate(INTERPOLATIONS[1:])],
]


@kernel
@pytest.mark.parametrize("how, shape, form", CASES)
def test_kernels_agree_on_ugly_shapes(how, shape, form):
    counted, weighted = form
    drawn = ugly_leaves(*shape, counted, rows=1, missing=0.2, seed=sum(shape))
    leaves, values, which = drawn
    options = dict(weighted_leaves=weighted, interpolation=how)
    wanted = leaf_quantiles(leaves, values, which, LEVELS[:2], **options)
    found = leaf_quantiles_triton(
        leaves_on(leaves),
        torch.as_tensor(values).to(device()),
        torch.as_tensor(which).to(device()),
        LEVELS[:2],
        **options,
        tile=(2, 4),
    )
    np.testing.assert_allclose(found.cpu(), wanted, rtol=1e-9, atol=1e-9)


COMPILE = """
import json
from forecastlab.kernels.leaf_quantiles import leaf_quantile_launches
from forecastlab.kernels.runtime import machine_code

calls = leaf_quantile_launches()["counts, float32"]
for call in calls:
    found = machine_code(call, 80)
    print(json.dumps(dict(kernel=call.kernel.__name__) | found))
"""


@kernel
def test_kernels_compile_for_a_gpu_without_one():
    found = [json.loads(line) for line in compiled(COMPILE)]
    assert len(found) == 2
    for row in found:
        assert row["code"] > 0
        assert row["spilled"] == 0
        assert row["shared"] <= 48 * 1024


def test_a_benchmark_is_appended(tmp_path, monkeypatch):
    shape = 300, 3, 10, 20
    check_benchmark(bench_leaf_quantiles, shape, tmp_path, monkeypatch)
