"""XR-Linear, the estimator, explanations and reports, against exact scores; folders.

Also against one-vs-rest and themselves; bad input is named.
"""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import sparse

pytest.importorskip(
    "numba", reason="ranking needs numba: pip install 'forecastlab[ranking]'"
)

from forecastlab.ranking.beam import beam_search
from forecastlab.ranking.estimator import ExtremeClassifier, add, label_matrix
from forecastlab.ranking.explain import explain, ranker
from forecastlab.ranking.two_means import hierarchical_kmeans
from forecastlab.ranking.labels import pifa
from forecastlab.ranking.report import pruned, report
from forecastlab.ranking.solvers import LinearSettings
from forecastlab.ranking.xrlinear import XRLinear, active
from toys import grouped, unsealed


@pytest.fixture(scope="module")
def data():
    return *grouped(400, 40, 8), *grouped(100, 40, 8, seed=1)


@pytest.fixture(scope="module")
def tree(data):
    return XRLinear.train(
        data[0], data[1], leaf=5, branches=4, beam=3, k=10, progress=False
    )


def scores(model, X):
    "Every label's score by plain products, in float64, for l3-hinge."
    up = np.ones((X.shape[0], 1))
    X = sparse.hstack([X, model.bias * up]).toarray().astype(float)
    for W, C in zip(model.weights, model.chain):
        up = np.exp(-(np.maximum(0, 1 - X @ W.toarray()) ** 3)) * (up @ C.toarray().T)
    return up


def test_a_wide_beam_is_exact(tree, data):
    P = tree.predict(data[2], k=40, beam=40)
    assert_allclose(P.toarray(), scores(tree, data[2]), atol=2e-6)
    assert (np.diff(P.data.reshape(-1, 40)) <= 0).all()


@pytest.mark.parametrize(
    "post", ["l1-hinge", "l4-hinge", "log-l2-hinge", "sigmoid", "log-sigmoid", "noop"]
)
def test_selected_scores_do_not_depend_on_the_beam(tree, data, post):
    P = tree.predict(data[2], k=6, beam=3, post=post)
    S = tree.predict(data[2], selected=P, post=post)
    assert_allclose(S.data, P.data, atol=1e-5)


@pytest.mark.parametrize(
    "negatives", ["man", "tfn+man", "usn+tfn", ["tfn", "man", "tfn+man"]]
)
def test_every_kind_of_negatives_trains(data, negatives):
    X, Y, Xt, Yt = data
    chain = hierarchical_kmeans(pifa(Y, X), branches=4, leaf=5)
    m = XRLinear.train(
        X,
        Y,
        chain,
        negatives=negatives,
        user_negatives={1: Y @ chain[-1]} if "usn" in negatives else None,
        progress=False,
    )
    P = m.predict(Xt, k=1)
    assert np.mean([Yt[i, j] for i, j in enumerate(P.indices)]) > 0.8


def test_usn_of_the_truth_is_tfn(data):
    X, Y = data[:2]
    chain = hierarchical_kmeans(pifa(Y, X), branches=4, leaf=5)
    a = XRLinear.train(X, Y, chain, progress=False)
    b = XRLinear.train(
        X, Y, chain, negatives="usn", user_negatives={0: Y}, progress=False
    )
    for v, w in zip(a.weights, b.weights):
        assert abs(v - w).max() == 0


def test_relevance_of_two_is_a_cost_of_two(data):
    X, Y = data[:2]
    for how in (dict(chain="ova"), dict(leaf=5, branches=4, rel_mode="induce")):
        R = 2 * Y if "rel_mode" not in how else None
        if R is None:
            chain = hierarchical_kmeans(pifa(Y, X), branches=4, leaf=5)
            single = sparse.csr_matrix(Y)
            single.data[:] = 2
            a = XRLinear.train(
                X, Y, chain, R=single, rel_mode="ranker-only", progress=False
            ).weights[-1]
            b = XRLinear.train(
                X, Y, chain, solver=LinearSettings(Cp=2), progress=False
            ).weights[-1]
        else:
            a = XRLinear.train(X, Y, R=R, progress=False, **how).weights[0]
            b = XRLinear.train(
                X, Y, solver=LinearSettings(Cp=2), progress=False, **how
            ).weights[0]
        assert abs(a - b).max() == 0


def test_a_layer_by_layer_search_is_the_whole_search(tree, data):
    top = beam_search(data[2], tree.layers[:1], k=tree.beam[0])
    sub = XRLinear(tree.layers[1:], tree.beam[1:], tree.k)
    assert_allclose(
        sub.predict(data[2], start=top).toarray(),
        tree.predict(data[2]).toarray(),
        atol=1e-7,
    )


@pytest.mark.parametrize("reindex", [True, False])
def test_subtrees_score_as_the_tree_does(tree, data, reindex):
    whole = scores(tree, data[2])
    for layer in range(1, tree.depth):
        top, parts = tree.cut(layer, reindex)
        seen = scores(top, data[2])
        assert len(parts) == top.labels
        for node, (part, labels) in enumerate(parts):
            one = sparse.csr_matrix(seen[:, [node]].astype(np.float32))
            P = part.predict(data[2], k=40, beam=40, start=one).toarray()
            mine = labels
            if layer >= tree.depth - 2:
                below = tree.chain[-1]
                if layer == tree.depth - 2:
                    below = tree.chain[-1] @ tree.chain[-2]
                mine = np.flatnonzero(below[:, [node]].toarray().sum(1))
            assert_allclose(
                P if reindex else P[:, mine],
                whole[:, labels if reindex else mine],
                atol=2e-6,
            )


def test_constraints_hold_with_every_beam(tree, data):
    keep = [0, 7, 8, 30]
    small = tree.constrained(keep)
    whole = scores(tree, data[2])[:, keep]
    for beam in (1, 2, 40):
        P = small.predict(data[2], k=4, beam=beam)
        assert set(P.indices) <= set(keep)
        if beam == 40:
            assert_allclose(P.toarray()[:, keep], whole, atol=2e-6)


def test_folders_round_trip_and_refuse(tree, data, tmp_path):
    tree.save(tmp_path / "m", mmap=True)
    want = tree.predict(data[2]).toarray()
    for mmap in (False, True):
        assert_allclose(
            XRLinear.load(tmp_path / "m", mmap=mmap).predict(data[2]).toarray(),
            want,
            atol=1e-7,
        )
    with pytest.raises(FileExistsError, match="overwrite"):
        tree.save(tmp_path / "m")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="only a folder"):
        tree.save(tmp_path / "other", overwrite=True)
    tree.save(tmp_path / "m", overwrite=True)
    assert not (tmp_path / "m" / "ranker" / "0.model" / "chunks").exists()
    with pytest.raises(FileNotFoundError, match="memory-mapped"):
        XRLinear.load(tmp_path / "m", mmap=True)
    part = unsealed(tmp_path / "m") / "ranker" / "1.model"
    about = json.loads((part / "param.json").read_text())
    assert about["pred_kwargs"]["only_topk"] == 3
    assert about["__meta__"]["class_fullname"] == "pecos.xmc.base###MLModel"
    whole = (part / "W.npz").read_bytes()
    (part / "W.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises((ValueError, OSError), match="W.npz"):
        XRLinear.load(tmp_path / "m")
    (part / "W.npz").unlink()
    with pytest.raises(FileNotFoundError, match="W.npz"):
        XRLinear.load(tmp_path / "m")
    (part / "W.npz").write_bytes(whole)
    (part / "param.json").write_text("{")
    with pytest.raises(ValueError, match="param.json is not JSON"):
        XRLinear.load(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="param.json is missing"):
        XRLinear.load(tmp_path)


def test_mixed_post_processors_survive_the_disk(tree, data, tmp_path):
    m = XRLinear(tree.layers, tree.beam, tree.k, ["sigmoid", "l3-hinge", "l3-hinge"])
    m.save(tmp_path / "m")
    again = XRLinear.load(tmp_path / "m")
    assert again.post == m.post
    assert_allclose(
        again.predict(data[2]).toarray(), m.predict(data[2]).toarray(), atol=1e-7
    )
    with pytest.raises(ValueError, match="post-processor for each layer"):
        again.query()


def test_training_does_not_depend_on_threads(data):
    a, b = (
        XRLinear.train(data[0], data[1], leaf=5, branches=4, progress=False, threads=t)
        for t in (1, 2)
    )
    for v, w in zip(a.weights, b.weights):
        assert (v != w).nnz == 0


def test_dense_features_give_the_same_model(data):
    a, b = (
        XRLinear.train(X, data[1], leaf=5, branches=4, progress=False)
        for X in (data[0], data[0].toarray())
    )
    for v, w in zip(a.weights, b.weights):
        assert_allclose(v.toarray(), w.toarray(), atol=1e-5)
    assert_allclose(
        a.predict(data[2].toarray()).toarray(), a.predict(data[2]).toarray(), atol=1e-6
    )


def test_empty_rows_and_empty_labels_are_trained_and_ranked(data):
    X, Y = data[0], sparse.csr_matrix(data[1]).tolil()
    Y[:, [3, 11]] = 0
    Y[:20] = 0
    m = XRLinear.train(X, Y.tocsr(), leaf=5, branches=4, progress=False)
    P = m.predict(X[:5])
    assert m.labels == 40 and np.isfinite(P.data).all()
    empty = m.predict(sparse.csr_matrix((2, X.shape[1]), dtype=np.float32))
    assert empty.nnz == 2 * min(20, 40) and np.isfinite(empty.data).all()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(negatives="all"), "unknown negatives: all"),
        (dict(negatives=["tfn"]), "1 entries for a tree of"),
        (dict(rel_mode="up"), "unknown rel_mode: up"),
        (dict(chain="forest"), "unknown index: forest"),
        (dict(R=sparse.csr_matrix(np.ones((400, 40)))), "rel_mode is 'disable'"),
        (dict(chain=[sparse.csc_matrix(np.ones((39, 1)))]), "39 labels, Y has 40"),
        (dict(chain=sparse.csc_matrix(np.eye(40)[:, :39])), "in no cluster: 39"),
    ],
)
def test_settings_that_cannot_be_are_refused(data, change, message):
    with pytest.raises(ValueError, match=message):
        XRLinear.train(data[0], data[1], leaf=5, branches=4, progress=False, **change)


def test_what_cannot_be_trained_on_is_refused(tree, data):
    X, Y = data[:2]
    nan = X.copy()
    nan.data[3] = np.nan
    with pytest.raises(ValueError, match="NaN|finite"):
        XRLinear.train(nan, Y, progress=False)
    with pytest.raises(ValueError, match="rows"):
        XRLinear.train(X[:5], Y, progress=False)
    with pytest.raises(ValueError, match="152|features"):
        tree.predict(X[:, :9])
    with pytest.raises(ValueError, match="at least 1"):
        tree.predict(X, k=0)
    with pytest.raises(ValueError, match="unknown post-processor: l5"):
        tree.predict(X, post="l5")
    with pytest.raises(ValueError, match="2 beams|beams for a tree"):
        tree.predict(X, beam=[1])
    with pytest.raises(ValueError, match="labels outside"):
        tree.constrained([40])
    with pytest.raises(ValueError, match="can be cut at 1"):
        tree.cut(0)


# --- explanations


def test_the_shares_add_up_to_the_score(tree, data):
    exact = scores(tree, data[2])
    for i, label in ((0, 3), (5, 22), (9, 39)):
        why = explain(tree, data[2][i], label, most=999)
        assert_allclose(
            why.words.groupby("layer").share.sum().to_numpy(),
            why.path.margin,
            atol=1e-5,
        )
        assert why.path.score.iloc[-1] == pytest.approx(exact[i, label], abs=2e-6)
        assert str(label) in why.verdict


def test_a_label_is_reached_if_and_only_if_it_is_an_answer(tree, data):
    P = tree.predict(data[2][:12], k=3, beam=2)
    for i in range(12):
        answers = set(P[i].indices)
        for label in (0, 9, 21, *answers):
            assert explain(tree, data[2][i], int(label), k=3, beam=2).reached == (
                label in answers
            )


def test_a_ranker_is_a_column(tree):
    for layer, W in zip(tree.layers, tree.weights):
        f, w, b = ranker(layer, 1)
        column = W[:, [1]].toarray().ravel()
        dense = np.zeros(len(column))
        dense[f] = w
        dense[-1] = b
        assert_allclose(dense, column)


# --- the estimator


@pytest.fixture(scope="module")
def texts():
    words = "red blue green small large round flat soft hard warm".split()
    goods = "cup plate spoon lamp chair scarf".split()
    rng = np.random.default_rng(0)
    T = [
        f"{rng.choice(words)} {rng.choice(words)} {g}" for g in goods for _ in range(25)
    ]
    return T, [
        [g] + (["kitchen"] if g in goods[:3] else []) for g in goods for _ in range(25)
    ]


def test_texts_and_names_go_in_and_names_come_out(texts, tmp_path):
    m = ExtremeClassifier(trees=2, leaf=3, branches=2, seed=1).fit(*texts)
    assert m.score(*texts) > 0.95
    assert set(m.classes_) == set("cup plate spoon lamp chair scarf kitchen".split())
    assert set(m.predict(["a red cup"])[0]) == {"cup", "kitchen"}
    P = m.predict_proba(texts[0])
    assert P.shape == (150, 7)
    assert 0 <= P.data.min()
    assert P.data.max() <= 1
    assert (np.diff(P.indptr) > 0).all()
    top = m.top(["warm lamp"], 2)
    assert top.label[0] == "lamp" and list(top.place) == [1, 2]
    m.save(tmp_path / "m")
    again = ExtremeClassifier.load(tmp_path / "m")
    assert again.get_params() == m.get_params()
    assert_allclose(again.predict_proba(texts[0]).toarray(), P.toarray(), atol=1e-6)
    assert again.predict(["flat plate"]) == m.predict(["flat plate"])
    assert not list(tmp_path.rglob("*.pkl"))
    assert again.explain("green chair", "cup", tree=0).verdict.startswith(
        "Tree 0 of 2 (counted from 0): 'cup'"
    )
    more = ["red whale", "green whale"], [["animal"]] * 2
    grown = add(m, texts[0] + more[0], texts[1] + more[1])
    assert "animal" in grown.classes_ and "animal" not in m.classes_
    r = report(m, *texts, *texts)
    assert r.ece >= 0 and set(r.trees.index) >= {"one-vs-rest"} and "beam" in str(r)


def test_matrices_give_matrices(data):
    m = ExtremeClassifier(trees=1, leaf=5, branches=4, calibrate=False).fit(
        data[0], data[1]
    )
    P = m.predict(data[2])
    assert sparse.issparse(P) and (np.diff(P.indptr) == 1).all()
    with pytest.raises(ValueError, match="calibrate=False"):
        m.predict_proba(data[2])
    with pytest.raises(ValueError, match="texts were given"):
        m.rank(["a"])
    with pytest.raises(ValueError, match="features"):
        m.rank(data[2][:, :5])


def test_probabilities_are_near_what_happens(data):
    X, Y = grouped(3000, 40, 8, seed=5)
    m = ExtremeClassifier(trees=2, leaf=5, branches=4).fit(X, Y)
    P = m.predict_proba(data[2])
    p = P.data
    y = np.asarray(
        data[3][np.repeat(np.arange(100), np.diff(P.indptr)), P.indices]
    ).ravel()
    assert abs(p.mean() - y.mean()) < 0.02


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(X=["tea", "bun"], y=[["x"]]), "2 rows, y has 1"),
        (dict(X=["tea bun"] * 30, y=[[]] * 30), "no row has a label"),
        (dict(X=["tea", "bun jam"], y=[["x"], ["z"]]), "too few to calibrate"),
    ],
)
def test_the_estimator_refuses_what_it_cannot_fit(bad, message):
    with pytest.raises(ValueError, match=message):
        ExtremeClassifier(text={"type": "sklearntfidf"}).fit(**bad)


def test_the_estimator_keeps_scikit_learns_rules():
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError

    m = ExtremeClassifier(trees=5, C=0.3)
    assert clone(m).get_params() == m.get_params() and m.set_params(leaf=9).leaf == 9
    with pytest.raises(NotFittedError):
        m.predict(["a"])
    with pytest.raises(ValueError, match="labels that were not there"):
        label_matrix([["q"]], np.array(["a"], object))


def test_pruning_keeps_the_largest(tree):
    half = pruned(tree, 0.5)
    for v, w in zip(tree.weights, half.weights):
        assert abs(w.nnz - v.nnz / 2) <= 1
        assert abs(w.data).min() >= np.median(abs(v.data)) - 1e-6


def test_active_instances_add_up():
    a = sparse.csc_matrix([[1.0, 0], [0, 3]])
    b = sparse.csc_matrix([[0, 0.1], [0, 0.1]])
    assert active("tfn+usn", a, None, b, (2, 2)).toarray().astype(bool).tolist() == [
        [True, True],
        [False, True],
    ]
    assert active("man", a, None, b, (2, 2)).nnz == 0


def test_loading_runs_no_code(tree, tmp_path):
    tree.save(tmp_path / "m")
    W = unsealed(tmp_path / "m") / "ranker" / "0.model" / "W.npz"
    np.savez(
        W,
        data=np.array([print], object),
        indices=np.zeros(1, int),
        indptr=np.array([0, 1]),
        shape=np.array([1, 1]),
        format=np.array(b"csc"),
    )
    with pytest.raises(ValueError, match="W.npz"):
        XRLinear.load(tmp_path / "m")
    assert Path(W).exists()


def test_a_trainer_on_cpus_and_a_device_exclude_each_other(data):
    X, Y = data[:2]
    with pytest.raises(ValueError, match="trains on CPUs, and device is 'cuda'"):
        XRLinear.train(X, Y, trainer=lambda *a, **k: None, device="cuda")


def test_what_training_takes_is_written_where_one_looks():
    names = list(inspect.signature(XRLinear.train).parameters)
    assert names[:3] == ["X", "Y", "chain"]
    assert names[-3:] == ["device", "threads", "progress"]
    assert "how" not in names and "settings" not in names
