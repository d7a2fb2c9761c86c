"""Probabilities: scikit-learn and SciPy as oracles, parameters recovered from trees.

Rules against slow ones, round trips, bad input.
"""

import json

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sk_log_loss

from forecastlab.ranking import calibration as C
from forecastlab.ranking.calibration import Calibration, Steps
from forecastlab.ranking.beam import beam_search
from forecastlab.ranking.chunks import Chunks, layer_scores


def sigma(z):
    return 1 / (1 + np.exp(-z))


# ---------------------------------------------------------------- looking
@pytest.mark.parametrize("by", ["mass", "width"])
def test_reliability_equals_a_slow_oracle(by):
    rng = np.random.default_rng(0)
    p = rng.random(500) ** 3
    p[:60] = 0.25
    y = (rng.random(500) < p).astype(float)
    t = C.reliability(p, y, 7, by)
    edges = (
        sorted(set(np.quantile(p, [i / 7 for i in range(1, 7)])))
        if by == "mass"
        else [i / 7 for i in range(1, 7)]
    )
    bins = {}
    for a, b in zip(p, y):
        bins.setdefault(sum(a >= e for e in edges), []).append((a, b))
    want = [
        (len(v), np.mean([a for a, _ in v]), np.mean([b for _, b in v]))
        for _, v in sorted(bins.items())
    ]
    assert t[["pairs", "promised", "observed"]].to_numpy() == pytest.approx(
        np.array(want)
    )
    assert t.pairs.sum() == 500
    assert C.ece(p, y, 7, by) == pytest.approx(
        sum(n * abs(a - b) for n, a, b in want) / 500
    )
    assert ((t.low <= t.observed) & (t.observed <= t.high)).all()


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(1)
    p = rng.random(300)
    y = (rng.random(300) < p).astype(float)
    assert C.brier(p, y) == pytest.approx(brier_score_loss(y, p))
    assert C.log_loss(p, y) == pytest.approx(sk_log_loss(y, p))
    assert np.isfinite(C.log_loss([0, 1], [1, 0]))


def test_one_value_makes_one_bin():
    t = C.reliability([0.3] * 10, [1] * 3 + [0] * 7)
    assert len(t) == 1
    assert C.ece([0.3] * 10, [1] * 3 + [0] * 7) == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------- Platt
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_platt_recovers_the_curve_of_pecos(kind):
    x = np.arange(-15, 15, dtype=kind)
    t = (1 / (1 + np.exp(0.25 * x + 3.14))).astype(kind)
    assert C.platt(x, t) == pytest.approx((0.25, 3.14), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_platt_is_logistic_regression_with_platts_targets(seed):
    rng = np.random.default_rng(seed)
    v = rng.normal(3, 50, 400)
    y = (rng.random(400) < sigma(0.03 * v - 1)).astype(float)
    free = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(v[:, None] / 50, y)
    A, B = C.platt(v, y, smooth=False)
    assert (-A * 50, -B) == pytest.approx(
        (free.coef_[0, 0], free.intercept_[0]), rel=1e-4
    )
    n1 = y.sum()
    t = np.where(y > 0, (n1 + 1) / (n1 + 2), 1 / (400 - n1 + 2))
    A, B = C.platt(v, y)
    P = 1 / (1 + np.exp(A * v + B))
    # the gradient vanishes
    assert [((t - P) * x).sum() for x in (v / 50, np.ones(400))] == pytest.approx(
        [0, 0], abs=1e-5
    )


@pytest.mark.parametrize(
    "v,y",
    [
        ([1.0, 2, 3], [0, 0, 0]),
        ([1.0, 2, 3], [1, 1, 1]),
        ([2.0, 2, 2], [0, 1, 1]),
        ([-1e8, 1e8], [0, 1]),
        ([5.0], [1]),
        ([-1e-9, 1e-9] * 50, [0, 1] * 50),
        (np.arange(2000.0), np.arange(2000) >= 1000),
        (np.r_[np.zeros(999), 1e6], np.r_[np.zeros(999), 1]),
    ],
)
def test_hard_cases_stay_finite(v, y):
    A, B = C.platt(v, y)
    P = 1 / (1 + np.exp(np.clip(A * np.asarray(v) + B, -700, 700)))
    assert np.isfinite((A, B)).all() and ((P > 0) & (P < 1 + 1e-12)).all() and A <= 1e-9
    if len(set(np.asarray(v).tolist())) == 1:
        assert P[0] == pytest.approx(
            (lambda n, s: (s * (s + 1) / (s + 2) + (n - s) / (n - s + 2)) / n)(
                len(y), np.sum(y)
            ),
            rel=1e-6,
        )


@pytest.mark.parametrize("seed", range(3))
def test_the_product_family_equals_a_general_optimiser(seed):
    rng = np.random.default_rng(seed)
    n = 3000
    v, log_c = rng.normal(1, 2, n), np.log(rng.choice([1.0, 0.5, 0.03, 1e-4], n))
    y = rng.random(n) < np.exp(log_c) * sigma(1.5 * v - 2)

    def loss(w):
        P = np.exp(log_c) * sigma(w[0] * v + w[1])
        return -np.where(y, np.log(P), np.log1p(-np.minimum(P, 1 - 1e-12))).mean()

    want = minimize(
        loss,
        [1.0, 0.0],
        method="Nelder-Mead",
        options=dict(xatol=1e-7, fatol=1e-13, maxiter=5000),
    )
    got = C.fit_sigmoid(v, y, log_c)
    assert loss(got) <= want.fun + 1e-9
    assert got == pytest.approx(want.x, rel=1e-3, abs=1e-3)


def test_fitted_steps_pool_neighbours():
    rng = np.random.default_rng(0)
    v = rng.permutation(60).astype(float)
    y = (rng.random(60) < v / 60).astype(float)
    order = np.argsort(v)
    blocks = [[t, 1] for t in y[order]]
    i = 0
    # pool adjacent violators
    while i < len(blocks) - 1:
        if blocks[i][0] > blocks[i + 1][0]:
            (a, n), (b, m) = blocks[i], blocks.pop(i + 1)
            blocks[i] = [(a * n + b * m) / (n + m), n + m]
            i = max(i - 1, 0)
        else:
            i += 1
    assert C.fit_steps(v, y)(v[order]) == pytest.approx(
        np.concatenate([[a] * n for a, n in blocks])
    )


# ---------------------------------------------------------------- trees
class Tree:
    def __init__(self, layers, chain, post="l3-hinge"):
        self.layers, self.chain, self.post = layers, chain, post

    def predict(self, X, k=None, beam=10):
        return beam_search(
            X, self.layers, beam=beam, k=k or 20, post=self.post, threads=1
        )


def drawn(n=6000, seed=0, a=(1.7, 0.6), b=(-0.8, -1.5)):
    """5 clusters of 7 labels; labels drawn from the tree's own margins.

    The first child of a cluster is true whenever the cluster is.
    """
    rng = np.random.default_rng(seed)
    d, K, w = 12, 5, 7
    X = sparse.csr_matrix(rng.normal(size=(n, d)), dtype=np.float32)
    top, low = rng.normal(size=(d + 1, K)), rng.normal(size=(d + 1, K * w))
    low[:, ::w] = 0
    low[-1, ::w] = 60
    chain = [
        sparse.csc_matrix(np.ones((K, 1), np.float32)),
        sparse.csc_matrix(
            (
                np.ones(K * w, np.float32),
                (np.arange(K * w), np.repeat(np.arange(K), w)),
            ),
            (K * w, K),
        ),
    ]
    tree = Tree(
        [
            Chunks.from_csc(sparse.csc_matrix(W, dtype=np.float32), c, 1.0)
            for W, c in zip((top, low), chain)
        ],
        chain,
    )
    x = np.hstack([X.toarray(), np.ones((n, 1))])
    parent = rng.random((n, K)) < sigma(a[0] * (x @ top) + b[0])
    child = (rng.random((n, K * w)) < sigma(a[1] * (x @ low) + b[1])) & np.repeat(
        parent, w, 1
    )
    return tree, X, sparse.csr_matrix(child, dtype=np.float32), a, b


@pytest.mark.parametrize(
    "pairs,beam", [("reached", 5), ("relevant", 5), ("reached", 2)]
)
def test_a_tree_that_drew_the_labels_is_recovered(pairs, beam):
    tree, X, Y, a, b = drawn()
    got = Calibration.fit(tree, X, Y, pairs=pairs, beam=beam, last=None, most=10_000)
    assert (*got.slope, *got.offset) == pytest.approx((*a, *b), abs=0.12)
    P = got.predict(tree, X, k=35, beam=5)
    p, y, missed = C.pairs_of(Y, P)
    assert missed == 0
    assert C.ece(p, y) < 0.006
    assert p.sum() == pytest.approx(y.sum(), rel=0.02)


def test_held_out_rows_improve_and_the_order_stays():
    tree, X, Y, *_ = drawn()
    half, rest = np.arange(3000), np.arange(3000, 6000)
    got = Calibration.fit(tree, X[half], Y[half], beam=5)
    assert got.facts["rows"] == 3000 and got.facts["pairs"] == [15000, 105000]
    bare = got.apply(tree).predict(X[rest], beam=5)
    whole = got.predict(tree, X[rest], beam=5)
    assert np.array_equal(bare.indices, whole.indices)
    assert (np.diff(whole.data.reshape(3000, 20), axis=1) <= 0).all()
    error = lambda P: C.ece(*C.pairs_of(Y[rest], P)[:2])
    assert error(whole) < 0.02 < error(tree.predict(X[rest], beam=5)) / 3


def test_rows_are_drawn_by_seed():
    tree, X, Y, *_ = drawn(900)
    fitted = lambda seed: Calibration.fit(tree, X, Y, most=300, seed=seed, beam=3)
    one, two, other = fitted(0), fitted(0), fitted(1)
    assert one.slope == two.slope != other.slope and one.facts["rows"] == 300


def test_a_folded_layer_has_the_mapped_margins():
    # pruned bias, an empty node
    rng = np.random.default_rng(0)
    W = rng.normal(size=(9, 6)) * (rng.random((9, 6)) < 0.5)
    W[-1, :3] = 0
    W[:, 5] = 0
    # node 4 is in no cluster
    Cm = sparse.csc_matrix(
        (np.ones(5, np.float32), ([0, 3, 1, 2, 5], [0, 0, 1, 1, 2])), (6, 3)
    )
    X = sparse.csr_matrix(rng.normal(size=(20, 8)), dtype=np.float32)
    for bias in (1.0, 2.5):
        layer = Chunks.from_csc(sparse.csc_matrix(W, dtype=np.float32), Cm, bias)
        every = sparse.csr_matrix(np.ones((20, 3), np.float32))
        folded = C.fold(layer, 1.3, -0.7)
        assert folded.bias == bias and (folded.C != layer.C).nnz == 0
        margins = lambda c: layer_scores(X, c, every).toarray()[:, [0, 1, 2, 3, 5]]
        want = 1.3 * margins(layer) - 0.7
        assert margins(folded) == pytest.approx(want, abs=1e-5)


def test_fold_needs_a_bias():
    layer = Chunks.from_csc(
        sparse.csc_matrix(np.ones((3, 2)), dtype=np.float32),
        sparse.csc_matrix(np.ones((2, 1)), dtype=np.float32),
        -1.0,
    )
    with pytest.raises(ValueError, match="without a bias"):
        C.fold(layer, 1.0, 1.0)


def test_inputs_stay_as_they_are():
    tree, X, Y, *_ = drawn(300)
    before = [c.value.copy() for c in tree.layers], X.data.copy(), Y.data.copy()
    got = Calibration.fit(tree, X, Y)
    got.apply(tree)
    assert all(np.array_equal(c.value, v) for c, v in zip(tree.layers, before[0]))
    assert np.array_equal(X.data, before[1])
    assert np.array_equal(Y.data, before[2])
    assert tree.post == "l3-hinge"


def test_round_trip_and_broken_files(tmp_path):
    tree, X, Y, *_ = drawn(500)
    got = Calibration.fit(tree, X, Y)
    path = tmp_path / "c.json"
    got.save(path)
    again = Calibration.load(path)
    assert again.slope == got.slope and again.offset == got.offset
    assert again.facts == got.facts
    assert (again.predict(tree, X) != got.predict(tree, X)).nnz == 0
    with pytest.raises(FileExistsError, match="overwrite=True"):
        got.save(path)
    got.save(path, overwrite=True)
    Calibration([1.0], [0.0]).save(tmp_path / "bare.json")
    assert Calibration.load(tmp_path / "bare.json").last is None
    with pytest.raises(FileNotFoundError, match="no such calibration"):
        Calibration.load(tmp_path / "none.json")
    d = json.loads(path.read_text())
    changed = json.dumps(d | dict(note=d["note"] | dict(offset=[0.5])))
    for text, words in [
        (path.read_text()[:50], "not a readable"),
        ("[1]", "not a readable"),
        (changed, "the calibration file is damaged"),
    ]:
        path.write_text(text)
        with pytest.raises(OSError, match=words):
            Calibration.load(path)
    # one of an earlier version has no checksum
    d = d["note"]
    for text, words in [
        (json.dumps(d | dict(slope=["import os"])), "cannot be read"),
        (json.dumps(d | dict(slope=[1])), "damaged"),
        (json.dumps(d | dict(last=dict(score=[2, 1], value=[0, 1]))), "damaged"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            Calibration.load(path)


def test_titles_of_a_library_are_calibrated(mirror):
    from forecastlab.ranking.metrics import precision
    from forecastlab.ranking.xrlinear import XRLinear

    X, Y, Xt, Yt = (
        sparse.load_npz(mirror / "ranking" / "finna-yso-4k" / f"{m}.npz").astype(
            np.float32
        )
        for m in ("X_trn", "Y_trn", "X_tst", "Y_tst")
    )
    rows = np.random.default_rng(0).permutation(20_000)
    fit, held = np.sort(rows[:16_000]), np.sort(rows[16_000:])
    model = XRLinear.train(X[fit], Y[fit], progress=False)
    plain = model.predict(Xt)
    book = Calibration.fit(
        model, X[held], Y[held], pairs="relevant", last=None, most=2000
    ).predict(model, Xt)
    calibration = Calibration.fit(model, X[held], Y[held])
    bare = calibration.apply(model).predict(Xt)
    got = dict(book=book, reached=bare, whole=calibration.probabilities(bare))
    error = {name: C.ece(*C.pairs_of(Yt, P)[:2]) for name, P in got.items()} | {
        "hinge": C.ece(*C.pairs_of(Yt, plain)[:2])
    }
    assert error["hinge"] > 0.04
    assert error["book"] < 0.025
    assert error["reached"] < 0.013
    assert error["whole"] < 0.011
    assert precision(Yt, got["whole"], 1)[0] > precision(Yt, plain, 1)[0] - 0.005
    assert precision(Yt, got["whole"], 5)[-1] > precision(Yt, plain, 5)[-1]
    p, y, _ = C.pairs_of(Yt, got["whole"])
    assert p.sum() == pytest.approx(y.sum(), rel=0.15)
    few, many = C.keep(got["whole"], "precision", 0.5), C.keep(got["whole"])
    assert C.pairs_of(Yt, few)[1].mean() == pytest.approx(0.5, abs=0.06)
    assert few.nnz < many.nnz


def test_a_calibrated_model_is_saved_as_a_model(tmp_path):
    from forecastlab.ranking.xrlinear import XRLinear

    tree, X, Y, *_ = drawn(800)
    model = XRLinear(tree.layers, beam=3, k=10)
    calibration = Calibration.fit(model, X, Y, beam=3, k=10)
    calibration.apply(model).save(tmp_path / "m")
    again = XRLinear.load(tmp_path / "m")
    assert again.post == "sigmoid" and model.post == "l3-hinge"
    assert (
        abs(
            calibration.probabilities(again.predict(X)) - calibration.predict(model, X)
        ).max()
        < 1e-6
    )


# ---------------------------------------------------------------- how many labels
def slow_keep(p, rule, value):
    p = np.array(p)
    if rule == "threshold":
        return int((p >= value).sum())
    if rule == "count":
        return min(int(np.rint(p.sum())), len(p))
    if rule == "precision":
        return max(
            [m for m in range(1, len(p) + 1) if p[:m].mean() >= value - 1e-12],
            default=0,
        )
    F = (
        [0]
        + [
            (1 + value**2) * p[:m].sum() / (m + value**2 * p.sum())
            for m in range(1, len(p) + 1)
        ]
        if len(p)
        else [0]
    )
    return int(np.argmax(F))


@pytest.mark.parametrize(
    "rule,value",
    [
        ("threshold", 0.4),
        ("precision", 0.6),
        ("f", 1.0),
        ("f", 2.0),
        ("f", 0.5),
        ("count", None),
    ],
)
def test_rules_equal_slow_ones(rule, value):
    rng = np.random.default_rng(5)
    rows = [np.sort(rng.random(rng.integers(0, 9)) ** 2)[::-1] for _ in range(80)]
    P = sparse.csr_matrix(
        (
            np.concatenate(rows),
            np.concatenate([rng.choice(30, len(r), replace=False) for r in rows]),
            np.r_[0, np.cumsum([len(r) for r in rows])],
        ),
        (80, 30),
    )
    K = C.keep(P, rule, value)
    assert np.diff(K.indptr).tolist() == [slow_keep(r, rule, value) for r in rows]
    for i in range(80):
        assert (
            K.indices[K.indptr[i] : K.indptr[i + 1]].tolist()
            == P.indices[P.indptr[i] : P.indptr[i + 1]][
                : K.indptr[i + 1] - K.indptr[i]
            ].tolist()
        )


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_best_threshold_equals_a_search(beta):
    rng = np.random.default_rng(0)
    S = rng.random((60, 10)).round(1) + 0.05
    Y = (rng.random((60, 10)) < S).astype(float)
    S[:, 9] = 0
    P = sparse.csr_matrix(S)

    def F(t):
        shown = (S >= t) & (S > 0)
        right = (shown & (Y > 0)).sum()
        return (1 + beta**2) * right / (shown.sum() + beta**2 * Y.sum())

    t, best = C.best_threshold(Y, P, beta)
    assert best == pytest.approx(max(F(x) for x in np.unique(S))) == F(t)


def test_where_nothing_is_predicted_nothing_is_kept():
    none = sparse.csr_matrix((4, 5))
    assert C.keep(none).nnz == 0 and C.pairs_of(np.eye(4, 5), none)[2] == 4
    with pytest.raises(ValueError, match="no predictions"):
        C.best_threshold(np.eye(4, 5), none)


@pytest.mark.parametrize(
    "wrong,words",
    [
        (lambda: C.ece([0.5], [0, 1]), "1 probabilities, 2 outcomes"),
        (lambda: C.ece([], []), "no pairs"),
        (lambda: C.brier([np.nan], [1]), r"\[0, 1\]: nan"),
        (lambda: C.ece([0.5], [2]), "outcomes must lie"),
        (lambda: C.reliability([0.5], [1], by="eye"), "unknown kind of bins"),
        (lambda: C.platt([1, 2], [1]), "2 scores, 1 targets"),
        (lambda: C.platt([], []), "0 scores"),
        (lambda: C.platt([np.inf], [1]), "NaN or infinite"),
        (lambda: C.platt([1], [-1]), "must lie in"),
        (lambda: C.fit_steps([1], [3]), "must lie in"),
        (lambda: C.fit_steps([np.nan], [1]), "NaN or infinite"),
        (lambda: C.keep(np.array([[0.5, 3.0]])), r"\[0, 1\]: 3.0"),
        (lambda: C.keep(np.eye(2), "all"), "unknown rule: all"),
        (lambda: C.pairs_of(np.eye(2), sparse.eye(3)), "does not fit"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


def test_fits_that_cannot_be_are_refused():
    tree, X, Y, *_ = drawn(50)
    for wrong, words in [
        (lambda: Calibration.fit(tree, X[:9], Y), "do not fit 9 instances"),
        (lambda: Calibration.fit(tree, X, Y[:, :4]), "do not fit"),
        (lambda: Calibration.fit(tree, X[:, :3], Y), "3 features"),
        (lambda: Calibration.fit(tree, X, Y * 0), "no held-out row has a label"),
        (lambda: Calibration.fit(tree, X, Y, last="spline"), "unknown setting"),
        (
            lambda: Calibration([1.0], [0.0]).apply(tree),
            "1 layers were calibrated, the model has 2",
        ),
    ]:
        with pytest.raises(ValueError, match=words):
            wrong()


def test_steps_are_flat_beyond_the_ends():
    assert Steps(np.array([0.0, 1.0]), np.array([0.2, 0.4]))(
        [-5, 0, 0.5, 1, 5]
    ) == pytest.approx([0.2, 0.2, 0.3, 0.4, 0.4])
