"Metrics of a ranking: PECOS' text, slow oracles, scikit-learn, bad input."

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import f1_score, ndcg_score, precision_score, recall_score

from forecastlab.ranking import metrics as M

K = 6


def world(seed=0, n=60, L=25, most=9, ties=False):
    "Truth with empty rows, lists of 0 to `most` labels in any order, training labels."
    rng = np.random.default_rng(seed)
    Y = sparse.random(n, L, 0.12, format="csr", random_state=seed)
    Y.data[:] = 1
    Y = sparse.csr_matrix(Y)
    Y.data[rng.random(Y.nnz) < 0.1] = 0
    data, indices, indptr = [], [], [0]
    for _ in range(n):
        k = rng.integers(0, most + 1)
        data += list(rng.integers(0, 4, k) if ties else rng.normal(size=k))
        indices += list(rng.choice(L, k, replace=False))
        indptr.append(len(data))
    return (
        Y,
        sparse.csr_matrix((np.array(data, np.float32), indices, indptr), (n, L)),
        sparse.random(500, L, 0.1, format="csr", random_state=seed),
    )


def lists(P, ties):
    "Labels of every row, best first."
    out = []
    for i in range(P.shape[0]):
        s = P.data[P.indptr[i] : P.indptr[i + 1]]
        labels = P.indices[P.indptr[i] : P.indptr[i + 1]]
        order = sorted(
            range(len(s)), key=lambda t: (-s[t], labels[t] if ties == "label" else t)
        )
        out.append([int(labels[t]) for t in order])
    return out


def truths(Y):
    return [set(np.flatnonzero(row).tolist()) for row in Y.toarray()]


def slow(Y, P, w, k, ties):
    "Every metric at k, row by row and label by label."
    n, L = Y.shape
    T, S = truths(Y), lists(P, ties)
    d = lambda j: 1 / np.log2(j + 2)
    out = dict(prec=0, recall=0, ndcg=0)
    worth, best, wd, bd = 0, 0, 0, 0
    for t, s in zip(T, S):
        s = s[:k]
        hit = [x in t for x in s]
        ideal = sum(d(j) for j in range(min(k, len(t)))) or 1
        out["prec"] += sum(hit) / k / n
        out["recall"] += sum(hit) / max(len(t), 1) / n
        out["ndcg"] += sum(d(j) for j, h in enumerate(hit) if h) / ideal / n
        top = sorted((w[x] for x in t), reverse=True)[:k]
        worth += sum(w[x] for x, h in zip(s, hit) if h)
        best += sum(top)
        wd += sum(w[x] * d(j) for j, (x, h) in enumerate(zip(s, hit)) if h) / ideal
        bd += sum(v * d(j) for j, v in enumerate(top)) / ideal
    out |= dict(psp=worth / best, psndcg=wd / bd)
    true, shown, right = (np.zeros(L) for _ in range(3))
    for t, s in zip(T, S):
        for x in t:
            true[x] += 1
        for x in s[:k]:
            shown[x] += 1
            right[x] += x in t
    z = lambda a, b: np.array([x / y if y else 0 for x, y in zip(a, b)])
    for over, at in (("true", true > 0), ("all", true >= 0)):
        out |= {
            f"{over} precision": z(right, shown)[at].mean(),
            f"{over} recall": z(right, true)[at].mean(),
            f"{over} f1": z(2 * right, shown + true)[at].mean(),
        }
    return out | dict(
        right=(right > 0).sum() / (true > 0).sum(), shown=(shown > 0).mean()
    )


@pytest.mark.parametrize("ties", ["stored", "label"])
@pytest.mark.parametrize("seed,tied", [(0, False), (1, True), (2, True)])
def test_every_metric_equals_a_slow_oracle(seed, tied, ties):
    Y, P, train = world(seed, ties=tied)
    w = M.inverse_propensity(train)
    j = M.judge(Y, P, K, ties)
    got = dict(
        prec=M.precision(Y, j, K),
        recall=M.recall(Y, j, K),
        ndcg=M.ndcg(Y, j, K),
        psp=M.psp(Y, j, w, K),
        psndcg=M.psndcg(Y, j, w, K),
        right=M.coverage(Y, j, K),
        shown=M.coverage(Y, j, K, "shown"),
    )
    for over in ("true", "all"):
        got |= {f"{over} {c}": x.to_numpy() for c, x in M.macro(Y, j, K, over).items()}
    for k in range(1, K + 1):
        want = slow(Y, P, w, k, ties)
        assert got.keys() == want.keys()
        assert {m: v[k - 1] for m, v in got.items()} == pytest.approx(want, abs=1e-12)
    # a longer judgement is cut, predictions are judged
    for f, a in (
        (M.precision, ()),
        (M.recall, ()),
        (M.ndcg, ()),
        (M.psp, (w,)),
        (M.psndcg, (w,)),
        (M.coverage, ()),
    ):
        assert np.array_equal(f(Y, P, *a, k=3, ties=ties), f(Y, j, *a, k=K)[:3])
        assert np.array_equal(f(Y, j, *a, k=3), f(Y, j, *a, k=K)[:3])


def test_scikit_learn_agrees():
    rng = np.random.default_rng(0)
    Y, P = (rng.random((80, 20)) < 0.15).astype(float), rng.normal(size=(80, 20))
    Y[3] = 0
    assert M.ndcg(Y, P, K) == pytest.approx(
        [ndcg_score(Y, P, k=k, ignore_ties=True) for k in range(1, K + 1)]
    )
    for k in (1, 4):
        shown = np.zeros(P.shape)
        np.put_along_axis(shown, np.argsort(-P, 1)[:, :k], 1, 1)
        for name, f in (
            ("precision", precision_score),
            ("recall", recall_score),
            ("f1", f1_score),
        ):
            assert M.macro(Y, P, k, "all")[name].iloc[-1] == pytest.approx(
                f(Y, shown, average="macro", zero_division=0)
            )


def test_a_report_prints_the_text_of_pecos(mirror):
    folder = mirror / "ranking" / "pecos-tst-data" / "xmc" / "xlinear"
    Y, P = (sparse.load_npz(folder / f"{f}.npz") for f in ("Yt", "Yt_pred"))
    assert (
        str(M.evaluate(Y, P, 10))
        == "==== evaluation results ====\nprec   = 100.00 50.00 33.33 25.00 20.00 16.67"
        " 14.29 12.50 11.11 10.00\nrecall = 100.00 100.00 100.00 100.00 100.00"
        " 100.00 100.00 100.00 100.00 100.00"
    )


def test_the_text_without_the_mirror():
    Y = [[1, 0, 1, 0], [0, 1, 0, 0]]
    P = sparse.csr_matrix([[0.5, 0.5, 0.5, 0], [0, 0, 0.1, 0]])
    assert (
        str(M.evaluate(Y, P, 4))
        == "==== evaluation results ====\nprec   = 50.00 25.00 33.33 25.00\nrecall ="
        " 25.00 25.00 50.00 50.00"
    )


def test_ties_are_broken_by_place_or_by_label():
    P = sparse.csr_matrix(
        (np.array([1, 2, 1, 1, 2.0]), [4, 2, 0, 3, 1], [0, 5]), (1, 5)
    )
    Y = np.zeros((1, 5))
    assert M.judge(Y, P, 5).top.tolist() == [[2, 1, 4, 0, 3]]
    assert M.judge(Y, P, 5, "label").top.tolist() == [[1, 2, 0, 3, 4]]
    draws = {
        tuple(M.judge(Y, P, 5, "random", seed).top[0].tolist()) for seed in range(300)
    }
    assert len(draws) == 12 and {d[:2] for d in draws} == {(1, 2), (2, 1)}
    assert np.array_equal(
        M.judge(Y, P, 5, "random", 3).top, M.judge(Y, P, 5, "random", 3).top
    )


def test_stored_and_dense_zeros_are_predictions():
    P = sparse.csr_matrix((np.zeros(2), [3, 1], [0, 2, 2]), (2, 4))
    Y = [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert M.precision(Y, P, 2).tolist() == [0, 0.25]
    assert M.precision(
        Y, np.array([[0, 0, -1, -1], [0, -1, -1, -1.0]]), 2
    ).tolist() == [0.5, 0.5]


def test_zeros_in_the_truth_are_no_labels():
    Y = sparse.csr_matrix((np.array([0, 1.0]), [0, 1], [0, 2]), (1, 3))
    assert M.precision(Y, [[3, 2, 1]], 2).tolist() == [0, 0.5]
    assert M.recall(Y, [[3, 2, 1]], 2).tolist() == [0, 1]


def test_propensity_is_its_formula_by_hand_and_by_name():
    Y = np.zeros((50, 3))
    Y[:10, 0] = 1
    Y[0, 1] = 1
    for name, (A, B) in M.PROPENSITY.items():
        want = [1 + (np.log(50) - 1) * (B + 1) ** A / (c + B) ** A for c in (10, 1, 0)]
        assert M.inverse_propensity(Y, name) == pytest.approx(want)
        assert M.inverse_propensity(Y, A, B) == pytest.approx(want)
    assert M.PROPENSITY == dict(
        default=(0.55, 1.5), wikipedia=(0.5, 0.4), amazon=(0.6, 2.6)
    )


def test_unnormalised_psp_is_unbiased():
    """Where labels are hidden with a known chance, weighted hits estimate the precision
    against the whole truth.
    """
    rng = np.random.default_rng(1)
    n, L = 40_000, 12
    whole = rng.random((n, L)) < 0.3
    p = rng.uniform(0.2, 1, L)
    P = rng.random((n, L)) + whole
    seen = whole & (rng.random((n, L)) < p)
    assert M.psp(seen, P, 1 / p, 3, normalize=False) == pytest.approx(
        M.precision(whole, P, 3), abs=0.01
    )
    assert (M.precision(seen, P, 3) < 0.7 * M.precision(whole, P, 3)).all()


def test_bands_add_up():
    Y, P, train = world(3)
    t = M.tail(Y, P, train, 4, edges=(0, 40, 50, 60))
    assert t["part of P@4"].sum() == pytest.approx(M.precision(Y, P, 4)[-1])
    assert t.labels.sum() == 25
    assert t.true.sum() == (Y.toarray() > 0).sum()
    assert t.index.tolist() == ["0-39", "40-49", "50-59", "60+"]
    frequency = np.asarray((train != 0).sum(0)).ravel()
    pd.testing.assert_frame_equal(t, M.tail(Y, P, frequency, 4, edges=(0, 40, 50, 60)))
    inside = (frequency >= 40) & (frequency < 50)
    hits = sum(
        x in t_ and inside[x]
        for t_, s in zip(truths(Y), lists(P, "stored"))
        for x in s[:4]
    )
    assert t["recall"].iloc[1] == pytest.approx(
        hits / (Y.toarray()[:, inside] > 0).sum()
    )


def test_table_holds_all_in_percent():
    Y, P, train = world(4)
    t = M.table(Y, P, train, k=(1, 5))
    w = M.inverse_propensity(train)
    assert t.columns.tolist() == ["@1", "@5"]
    assert t.loc["P", "@5"] == 100 * M.precision(Y, P, 5)[4]
    assert t.loc["PSP", "@1"] == 100 * M.psp(Y, P, w, 1)[0]
    ranked = ["P", "R", "nDCG", "PSP", "PSnDCG"]
    macro = ["macro precision", "macro recall", "macro f1"]
    assert t.index.tolist() == [*ranked, *macro, "coverage", "shown"]
    assert "PSP" not in M.table(Y, P).index
    by_numbers = M.table(Y, P, train, propensity=(0.6, 2.6)).loc["PSP", "@3"]
    by_name = M.table(Y, P, train, propensity="amazon").loc["PSP", "@3"]
    assert by_numbers == by_name != t.loc["PSP", "@5"]


def test_metrics_are_zero_where_nothing_is_right_true_or_shown():
    Y, none = np.eye(3), sparse.csr_matrix((3, 3))
    w = np.ones(3)
    for f in (M.precision, M.recall, M.ndcg, M.coverage):
        assert f(Y, none).tolist() == [0] * 5
        assert f(np.zeros((3, 3)), Y).tolist() == [0] * 5
    assert M.psp(Y, none, w).tolist() == [0] * 5
    assert M.psp(np.zeros((3, 3)), Y, w).tolist() == [0] * 5
    assert M.psndcg(np.zeros((3, 3)), Y, w).tolist() == [0] * 5
    assert (M.macro(np.zeros((3, 3)), Y) == 0).all(axis=None)
    assert M.precision(Y, Y, 9)[-1] == 1 / 9


def test_inputs_stay_as_they_are():
    Y, P, _ = world(5)
    before = [x.copy() for m in (Y, P) for x in (m.data, m.indices, m.indptr)]
    M.table(Y, P, ties="random")
    assert all(
        np.array_equal(a, b)
        for a, b in zip(
            before, [x for m in (Y, P) for x in (m.data, m.indices, m.indptr)]
        )
    )


@pytest.mark.parametrize(
    "wrong,words",
    [
        (lambda Y, P: M.precision(Y, P[:3]), "does not fit predictions"),
        (lambda Y, P: M.precision(Y, P, 0), "whole number, at least 1"),
        (lambda Y, P: M.precision(Y, P, 2.5), "whole number"),
        (lambda Y, P: M.recall(Y, P, 2, "worst"), "unknown rule for ties: worst"),
        (
            lambda Y, P: M.ndcg(Y, M.judge(Y, P, 2), 3),
            "judged to 2 places, asked for 3",
        ),
        (lambda Y, P: M.precision(Y, P * np.nan), "predictions are NaN in rows"),
        (lambda Y, P: M.precision(Y[:0], P[:0]), "no rows to judge"),
        (lambda Y, P: M.psp(Y, P, np.ones(3)), "do not fit 25 labels"),
        (lambda Y, P: M.inverse_propensity(Y, "x"), "unknown propensity: x"),
        (lambda Y, P: M.inverse_propensity(Y, 0.5), "A is given without B"),
        (lambda Y, P: M.inverse_propensity(Y[:2]), "2 training rows"),
        (lambda Y, P: M.macro(Y, P, over="most"), "unknown set of labels"),
        (lambda Y, P: M.coverage(Y, P, kind="most"), "unknown coverage"),
        (lambda Y, P: M.tail(Y, P, np.ones(25), edges=(3, 2)), "bands must rise"),
        (lambda Y, P: M.tail(Y, P, np.ones(4)), "do not fit 25 labels"),
        (lambda Y, P: M.precision(-Y, P), "below 0"),
        (lambda Y, P: M.precision(Y, P.data), "does not fit"),
    ],
)
def test_what_cannot_be_judged_is_refused(wrong, words):
    Y, P, _ = world(6)
    with pytest.raises(ValueError, match=words):
        wrong(Y, P)
