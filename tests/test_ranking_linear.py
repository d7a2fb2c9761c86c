"""Linear rankers: libpecos' digits, slow oracles, the edges of the data, the kernels.

Problems are random; bad input is named.
"""

import numpy as np
import pytest
import scipy.sparse as sp

from forecastlab.ranking.chunks import Chunks
from forecastlab.ranking.lanes import LANES
from forecastlab.ranking.linear import BLOCK
from forecastlab.ranking.linear import solve_cluster, train_layer, train_layer_gpu
from forecastlab.ranking.solvers import SOLVERS, LinearSettings

TIGHT = dict(eps=1e-5, max_iter=3000, threshold=0)


def dense(part, d, labels):
    "A part as (d+1, labels)."
    row, ptr, column, value = part
    W = np.zeros((d + 1, labels))
    W[np.repeat(row, np.diff(ptr)), column] = value
    return W


def problem(seed, n=80, d=30, labels=5, density=0.2, share=0.2):
    rng = np.random.default_rng(seed)
    X = sp.random(n, d, density, random_state=seed, format="csr", dtype=np.float32)
    X.sort_indices()
    return rng, X, sp.csc_matrix((rng.random((n, labels)) < share).astype(np.float32))


def emptied(X, rows):
    "X with some rows emptied."
    keep = np.ones(X.shape[0], np.float32)
    keep[rows] = 0
    X = sp.csr_matrix(sp.diags_array(keep) @ X).astype(np.float32)
    X.eliminate_zeros()
    return X


def oracle(X, y, cost, kind="l2-svm", passes=3000, bias=1.0):
    "One label by plain dual coordinate descent in float64, rows of cost 0 left out."
    A = np.c_[X.toarray(), np.full(X.shape[0], bias)].astype(float)[cost > 0]
    y, c = y[cost > 0], cost[cost > 0]
    rng, w, a = np.random.default_rng(0), np.zeros(A.shape[1]), np.zeros(len(y))
    D, U = (0.5 / c, np.full(len(c), np.inf)) if kind == "l2-svm" else (0 * c, c)
    q = (A**2).sum(1) + D
    for _ in range(passes):
        for i in rng.permutation(len(y)):
            new = np.clip(a[i] - (y[i] * (A[i] @ w) - 1 + a[i] * D[i]) / q[i], 0, U[i])
            w += (new - a[i]) * y[i] * A[i]
            a[i] = new
    return w


# ---------------------------------------------------------------- libpecos
FIXTURE = {"l2-svm": "Yt_pred.npz", "l2-svm-primal": "Yt_primal_pred.npz"}


@pytest.mark.parametrize("solver", FIXTURE)
def test_scores_are_those_of_the_fixture(mirror, solver):
    folder = mirror / "ranking/pecos-tst-data/xmc/xlinear"
    X, Y = (
        sp.load_npz(folder / f"{k}.npz").tocsr().astype(np.float32) for k in ("X", "Y")
    )
    X.sort_indices()
    C = sp.csc_matrix(np.repeat(np.eye(2, dtype=np.float32), 10, axis=0))
    s = LinearSettings(
        solver, order="libpecos", eps=0.01 if "primal" in solver else 0.1
    )
    top = train_layer(X, (Y @ C).tocsc(), np.ones((2, 1)), settings=s).to_csc()
    leaves = train_layer(X, Y.tocsc(), C, (Y @ C).tocsc(), settings=s).to_csc()
    A = sp.hstack([X, np.ones((2, 1))]).tocsr()
    hinge = lambda v: np.exp(-(np.maximum(1 - v, 0) ** 3))
    got = hinge((A @ top).toarray())[:, np.repeat([0, 1], 10)] * hinge(
        (A @ leaves).toarray()
    )
    np.testing.assert_allclose(
        got, sp.load_npz(folder / FIXTURE[solver]).toarray(), atol=1e-6
    )


# weights of the 1.2.8 wheel: entries, sum of sizes, sum of squares, last row of four
# labels
WHEEL = {
    "l2-svm": (
        {},
        False,
        (14561, 2843.6045, 784.7314, [-0.92531, -0.97693, -0.96953, -0.98762]),
    ),
    "costs": (
        {},
        True,
        (17551, 3760.7666, 1165.0779, [-0.92949, -0.98742, -0.97789, -1.02624]),
    ),
    "l1-svm": (
        dict(solver="l1-svm"),
        False,
        (8649, 1545.0841, 410.0609, [-0.93011, -0.99911, -0.96463, -0.96394]),
    ),
    "logistic": (
        dict(solver="logistic"),
        False,
        (17594, 4458.1294, 2638.5322, [0, 0, 0, 0]),
    ),
    "few weights": (
        dict(max_nonzeros=30),
        False,
        (1200, 592.9789, 355.3671, [-0.92531, -0.97693, -0.96953, -0.98762]),
    ),
    "no bias": (
        dict(bias=-1, Cn=0.3),
        False,
        (15866, 3100.7783, 878.1671, [-0.18292, -0.2607, 0.1338, -0.16633]),
    ),
}


@pytest.mark.parametrize("case", WHEEL)
def test_weights_are_those_of_the_wheel(mirror, case):
    """1,000 instances of bibtex, 40 labels in 3 clusters; a quarter of the instances is
    not active, positives among them.
    """

    def load(k):
        return (
            sp.load_npz(mirror / f"ranking/bibtex/{k}_trn.npz")
            .tocsr()
            .astype(np.float32)[:1000]
        )

    X, Y = load("X"), load("Y")[:, :40].tocsc()
    X.sort_indices()
    Y.sort_indices()
    R = Y.copy()
    R.data = (1 + R.indices % 3).astype(np.float32)
    C = sp.csc_matrix(
        (np.ones(40, np.float32), (np.arange(40), np.arange(40) % 3)), shape=(40, 3)
    )
    M = sp.csc_matrix((np.arange(1000)[:, None] + 7 * np.arange(3)) % 4 > 0)
    options, costly, (entries, size, squares, last) = WHEEL[case]
    W = train_layer(
        X, Y, C, M, R if costly else None, LinearSettings(order="libpecos", **options)
    ).to_csc()
    # some weights lie on the threshold
    assert abs(W.nnz - entries) <= 5
    assert abs(W).sum() == pytest.approx(size, abs=0.6)
    assert W.power(2).sum() == pytest.approx(squares, abs=0.06)
    np.testing.assert_allclose(W.toarray()[-1, [0, 1, 20, 39]], last, atol=1e-5)


# ---------------------------------------------------------------- slow oracles
@pytest.mark.parametrize("order", ("shared", "libpecos"))
@pytest.mark.parametrize("solver", ("l2-svm", "l1-svm"))
def test_random_problems_match_a_slow_oracle(order, solver):
    "Costs (some 0), inactive rows, positives among them, a bias of 2, empty rows."
    for seed in range(2):
        rng, X, Y = problem(seed)
        R = Y.copy()
        R.data = rng.choice(np.float32([0, 0.5, 1, 3]), R.nnz)
        X = emptied(X, [3])
        active = np.sort(rng.choice(80, 60, replace=False))
        W = dense(
            solve_cluster(
                X,
                active,
                Y,
                R,
                LinearSettings(solver, Cp=1.5, Cn=0.7, bias=2, order=order, **TIGHT),
            ),
            30,
            5,
        )
        margin = lambda v: X @ v[:-1] + 2 * v[-1]
        power = 2 if solver == "l2-svm" else 1
        for label in range(5):
            y = np.where(Y[:, [label]].toarray().ravel() > 0, 1.0, -1.0)
            cost = np.where(
                y > 0,
                1.5 * R[:, [label]].toarray().ravel(),
                0.7 * np.isin(np.arange(80), active),
            )
            loss = lambda v: cost @ np.maximum(0, 1 - y * margin(v)) ** power
            value = lambda v: v @ v / 2 + loss(v)
            ours, w = W[:, label], oracle(X, y, cost, solver, 200, 2.0)
            if solver == "l2-svm":
                np.testing.assert_allclose(margin(ours), margin(w), atol=2e-3)
            assert value(ours) <= 1.0001 * value(w)


# libpecos' order leaves the logistic bias where it starts
@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != "logistic"])
def test_both_orders_reach_the_same_minimum(solver):
    _, X, Y = problem(7, n=120)
    a, b = (
        dense(
            solve_cluster(
                X, range(120), Y, settings=LinearSettings(solver, order=o, **TIGHT)
            ),
            30,
            5,
        )
        for o in ("shared", "libpecos")
    )
    np.testing.assert_allclose(a, b, atol=5e-3)


def test_more_labels_than_a_block():
    """Every label is what it is alone, in blocks, in lanes that are not full, and
    where labels finish at different times.
    """
    rng, X, Y = problem(11, n=150, labels=2 * BLOCK + LANES + 3, share=0.05)
    s = LinearSettings(eps=1e-4, max_iter=2000)
    W = dense(solve_cluster(X, range(150), Y, settings=s, threads=2), 30, Y.shape[1])
    uncut = LinearSettings(eps=1e-4, max_iter=2000, threshold=0)
    for label in (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 5, Y.shape[1] - 1):
        one = solve_cluster(X, range(150), Y[:, [label]], settings=uncut)
        alone = dense(one, 30, 1)[:, 0]
        # the threshold may fall on either side
        near = np.abs(np.abs(alone) - 0.1) < 2e-3
        want = np.where(np.abs(alone) >= 0.1, alone, 0)
        np.testing.assert_allclose(W[~near, label], want[~near], atol=2e-3)


def test_threads_and_density_change_nothing():
    rng, X, Y = problem(5, n=200, labels=150)
    C = sp.csc_matrix(
        (np.ones(150), (np.arange(150), rng.integers(0, 7, 150))), shape=(150, 7)
    )
    M = sp.csc_matrix(rng.random((200, 7)) < 0.6)
    for order in ("shared", "libpecos"):
        want = train_layer(X, Y, C, M, settings=LinearSettings(order=order), threads=1)
        for A, threads in ((X, 3), (X.toarray(), 1), (X.toarray(), 16)):
            got = train_layer(
                A, Y, C, M, settings=LinearSettings(order=order), threads=threads
            )
            assert all(
                np.array_equal(getattr(got, k), getattr(want, k))
                for k in ("row_ptr", "row", "entry_ptr", "column", "value", "child")
            )


# ---------------------------------------------------------------- options
@pytest.mark.parametrize("order", ("shared", "libpecos"))
@pytest.mark.parametrize("solver", SOLVERS)
def test_relevance_of_two_is_a_cost_of_two(order, solver):
    "R = 2 on every positive is Cp = 2, one-vs-rest and in a tree."
    rng, X, Y = problem(2)
    C = sp.csc_matrix((np.ones(5), (np.arange(5), [0, 1, 1, 0, 0])), shape=(5, 2))
    M = (Y @ C).tocsc()
    for chain, active in ((np.ones((5, 1)), None), (C, M)):
        a = train_layer(X, Y, chain, active, 2 * Y, LinearSettings(solver, order=order))
        b = train_layer(
            X, Y, chain, active, None, LinearSettings(solver, order=order, Cp=2)
        )
        assert np.array_equal(a.value, b.value) and np.array_equal(a.row, b.row)


def test_small_weights_go_and_the_largest_stay():
    _, X, Y = problem(3)
    full = dense(
        solve_cluster(X, range(80), Y, settings=LinearSettings(threshold=0)), 30, 5
    )
    np.testing.assert_array_equal(
        dense(
            solve_cluster(X, range(80), Y, settings=LinearSettings(threshold=0.3)),
            30,
            5,
        ),
        np.where(abs(full) >= 0.3, full, 0),
    )
    few = dense(
        solve_cluster(
            X, range(80), Y, settings=LinearSettings(threshold=0, max_nonzeros=4)
        ),
        30,
        5,
    )
    for label in range(5):
        kept = np.flatnonzero(few[:, label])
        largest = np.argsort(-abs(full[:, label]))[:4]
        assert len(kept) == 4
        assert set(kept) == set(largest)


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_a_bias_there_is_no_row_for_it(solver):
    _, X, Y = problem(4)
    for bias in (0, -1):
        c = train_layer(
            X,
            Y,
            np.ones((5, 1)),
            settings=LinearSettings(solver, bias=bias, threshold=0),
        )
        assert c.row.max() == 29 and c.to_csc().shape == (30, 5)


# ---------------------------------------------------------------- edges
@pytest.mark.parametrize("order", ("shared", "libpecos"))
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_edges_of_the_data(solver, order):
    """A cluster without instances, one without labels, a label without positives, one
    with nothing else, rows without features, no features at all.
    """
    rng, X, Y = problem(6)
    X = emptied(X, range(10, 20))
    D = Y.toarray()
    D[:, 0] = D[:, 2] = 0
    D[:, 1] = 1
    Y = sp.csc_matrix(D)
    C = sp.csc_matrix((np.ones(5), (np.arange(5), [0, 0, 3, 0, 1])), shape=(5, 4))
    M = np.ones((80, 4))
    M[:, 3] = 0
    for bias in (1, 0):
        s = LinearSettings(solver, order=order, bias=bias, threshold=0)
        c = train_layer(X, Y, C, sp.csc_matrix(M), settings=s)
        W = c.to_csc().toarray()
        assert isinstance(c, Chunks)
        assert np.isfinite(W).all()
        assert not W[:, 2].any()
        assert c.clusters == 4
        # nothing is like a label that nobody has
        assert (X @ W[:30, 0] + bias * (W[-1, 0] if bias else 0)).max() < 0.5
        empty = train_layer(
            sp.csr_matrix((80, 30), dtype=np.float32), Y, C, settings=s
        ).to_csc()
        assert np.isfinite(empty.data).all() and (empty.indices >= 30).all()
    assert solve_cluster(X, [], sp.csc_matrix((80, 3)), settings=s)[3].size == 0
    assert solve_cluster(X, range(80), sp.csc_matrix((80, 0)), settings=s)[3].size == 0


def test_stored_zeros_are_no_positives():
    _, X, Y = problem(8)
    Z = (Y + sp.csc_matrix(np.full(Y.shape, 1e-30))).tocsc()
    Z.data[Z.data < 0.5] = 0
    assert np.array_equal(
        train_layer(X, Z, np.ones((5, 1))).value,
        train_layer(X, Y, np.ones((5, 1))).value,
    )


def test_input_is_left_alone():
    _, X, Y = problem(9)
    before = [A.copy() for A in (X, Y)]
    train_layer(X, Y, np.ones((5, 1)), (Y @ np.ones((5, 1))) * 1.0)
    for A, B in zip((X, Y), before):
        assert np.array_equal(A.data, B.data) and np.array_equal(A.indices, B.indices)


def test_training_is_silent_unless_asked(capfd):
    _, X, Y = problem(1)
    train_layer(X, Y, np.ones((5, 1)))
    assert capfd.readouterr() == ("", "")
    train_layer(X, Y, np.ones((5, 1)), progress="layer 1")
    assert "layer 1" in capfd.readouterr().err


# ---------------------------------------------------------------- the kernels
def small_layer(n=24, d=6, nodes=5, seed=3):
    "A layer of two clusters, with positives that are not active, and relevance."
    rng = np.random.default_rng(seed)
    X = sp.random(n, d, 0.5, random_state=seed, format="csr", dtype=np.float32)
    Y = sp.csc_matrix(rng.random((n, nodes)) < 0.3, dtype=np.float32)
    C = sp.csc_matrix(np.eye(2, dtype=np.float32)[np.arange(nodes) % 2])
    M = sp.csc_matrix(rng.random((n, 2)) < 0.7, dtype=np.float32)
    R = Y.copy()
    R.data = rng.random(R.nnz).astype(np.float32)
    R.data[:2] = 0
    return X, Y, C, M, R


@pytest.mark.parametrize("kernels", [False, True], ids=["torch", "triton"])
@pytest.mark.parametrize("bias", [0.7, 0.0])
def test_the_kernels_train_the_layer_that_the_cpu_trains(kernels, bias):
    pytest.importorskip("triton")
    runtime = pytest.importorskip("forecastlab.kernels.runtime")
    if kernels and not (runtime.interpreting() or runtime.native()):
        pytest.skip("Triton is neither compiled nor interpreted here")
    X, Y, C, M, R = small_layer()
    how = dict(Cp=2.0, Cn=0.5, bias=bias, threshold=0, max_iter=500)
    settings = LinearSettings(eps=1e-5, **how)
    want = train_layer(X, Y, C, M, R, settings, threads=1).to_csc().toarray()
    for solver in ("l2-svm", "l2-svm-primal"):
        same = LinearSettings(solver, eps=1e-3, **how)
        got = train_layer_gpu(X, Y, C, M, R, same, "cpu", kernels=kernels)
        np.testing.assert_allclose(got.to_csc().toarray(), want, atol=2e-3)
        assert (got.bias, got.features, got.nodes) == (bias, 6, 5)


def test_wide_clusters_reach_the_kernels_in_blocks_of_labels():
    X, Y, C, M, R = small_layer()
    tight = LinearSettings(eps=1e-4, threshold=0.05, max_nonzeros=3)
    whole = train_layer_gpu(X, Y, C, M, R, tight, "cpu")
    parts = train_layer_gpu(X, Y, C, M, R, tight, "cpu", megabytes=1e-4)
    np.testing.assert_allclose(
        parts.to_csc().toarray(), whole.to_csc().toarray(), atol=1e-3
    )
    assert (np.diff(whole.to_csc().indptr) <= 3).all()


def test_a_cluster_without_labels_or_instances_has_no_weights():
    X, Y, _, M, _ = small_layer()
    C = sp.csc_matrix(np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 1]])
    M = sp.csc_matrix(np.c_[M.toarray()[:, 0], np.zeros(24), np.ones(24)])
    Y = Y.tolil()
    Y[:, 2:] = 0
    for train in (train_layer, lambda *a: train_layer_gpu(*a, device="cpu")):
        W = train(X, sp.csc_matrix(Y), C, M).to_csc()
        assert W[:, 2:].nnz == 0 and W[:, :2].nnz > 0


def test_what_the_kernels_lack_is_refused():
    X, Y, C, M, _ = small_layer()
    cases = {
        "lack this solver: logistic": LinearSettings("logistic"),
        "lack this solver: l1-svm": LinearSettings("l1-svm"),
        "lack this order of labels: libpecos": LinearSettings(order="libpecos"),
    }
    for text, settings in cases.items():
        with pytest.raises(ValueError, match=text):
            train_layer(X, Y, C, M, settings=settings, device="cuda")
    runtime = pytest.importorskip("forecastlab.kernels.runtime")
    if not runtime.has_gpu():
        with pytest.raises(RuntimeError, match="there is no GPU here"):
            train_layer(X, Y, C, M, device="cuda")


# ---------------------------------------------------------------- bad input
def test_bad_input_is_named():
    _, X, Y = problem(1)
    one = np.ones((5, 1))
    N = X.copy()
    N.data[0] = np.nan
    cases = {
        r"Y \(80, 5\) does not fit 70 instances": lambda: train_layer(X[:70], Y, one),
        r"M \(80, 2\) does not fit": lambda: train_layer(X, Y, one, np.ones((80, 2))),
        "Give every positive a cost": lambda: train_layer(X, Y, one, R=Y[:, :4]),
        "costs must be finite and 0 or more": lambda: train_layer(X, Y, one, R=-Y),
        "NaN or infinite in rows: 0": lambda: train_layer(N, Y, one),
        "rows must lie in 0 to 79": lambda: solve_cluster(X, [90], Y),
        "50 rows, X 80": lambda: solve_cluster(X, [0], Y[:50]),
        "unknown solver: hinge": lambda: LinearSettings("hinge"),
        "unknown order": lambda: LinearSettings(order="random"),
        "eps must be": lambda: LinearSettings(eps=0),
        "threshold must be": lambda: LinearSettings(threshold=-1),
        "bias must be": lambda: LinearSettings(bias=np.nan),
        "Cn must be": lambda: LinearSettings(Cn=-1),
    }
    for text, call in cases.items():
        with pytest.raises(ValueError, match=text):
            call()
