"""libpecos' own tests, told to our modules: the same inputs, the same expected numbers,
the same tolerances.

One pytest test, or one group of them, for each test of amzn/pecos (commit 7b989e0) that
we have a counterpart for; its id begins with pecos' name, for example
`xlinear.test_cli`.
The fixtures are read from FORECASTLAB_DATA/ranking/pecos-tst-data. Where a number
depends on the order in which instances are visited, `order="libpecos"` is used; nothing
else is special.

Not here, because they test other products or plain plumbing: ann::test_hnsw and
test_pairwise_ann (nearest-neighbour graphs), xmr::test_reranker, sentencepiece,
mmap_hashmap and mmap_valstore,
torch_util, every test_importable, distributed::test_xlinear_load_balancer,
test_dist_cluster_chain and test_dist_clustering (how MPI ranks share a tree),
get_col_row_nonzero (a list of arrays that nobody reads here),
and of xtransformer the parts that load a pickled model or list parameters (test_bert's
init-model-dir, param_skeleton, test_encode).
What differs on purpose: an empty set of labels to answer with is refused, not
predicted; a label has one parent.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from forecastlab.kernels.posts import POSTS
from forecastlab.ranking.beam import beam_search
from forecastlab.ranking.calibration import platt
from forecastlab.ranking.chunks import Chunks
from forecastlab.ranking.ensemble import COMBINE
from forecastlab.ranking.chain import from_clusters, load_chain, matching_chain
from forecastlab.ranking.chain import relevance_chain, save_chain
from forecastlab.ranking.labels import label_embedding, pifa, spectrum
from forecastlab.ranking.solvers import LinearSettings
from forecastlab.ranking.metrics import evaluate
from forecastlab.ranking.two_means import hierarchical_kmeans
from forecastlab.core.sparse import (
    binary,
    block_diag,
    hstack,
    inner_products,
    load_matrix,
    only,
    ordered,
    product,
    save_matrix,
    scale_columns,
    scale_rows,
    softmax_rows,
    strongest,
    take_rows,
    vstack,
)
from forecastlab.ranking.text import Vectorizer
from forecastlab.ranking.xrlinear import XRLinear
from toys import CORPUS, OF_BOTH, OF_PAIRS, OF_WORDS

HERE = Path(__file__).parent
NAMES = [p for p in POSTS if isinstance(p, str)]
PERFECT = (
    "==== evaluation results ====\nprec   = 100.00 50.00 33.33 25.00 20.00 16.67 14.29"
    " 12.50 11.11 10.00\nrecall = 100.00 100.00 100.00 100.00 100.00 100.00 100.00"
    " 100.00 100.00 100.00\n"
)
SAME = LinearSettings(order="libpecos")


def pecos(name, *cases):
    "Mark a test as the counterpart of a test of pecos, once or for several cases."
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(c, id=name if c is None else f"{name}-{c}")
            for c in cases or (None,)
        ],
    )


def close(A, B, atol=1e-6, rtol=0):
    A, B = (M.toarray() if sp.issparse(M) else np.asarray(M) for M in (A, B))
    np.testing.assert_allclose(A, B, atol=atol, rtol=rtol)


def equal(A, B):
    assert A.shape == B.shape and (A != B).nnz == 0


@pytest.fixture(scope="session")
def tst(mirror):
    "The test data of amzn/pecos."
    folder = mirror / "ranking" / "pecos-tst-data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: it holds the test data of amzn/pecos")
    return folder


@pytest.fixture(scope="session")
def xy(tst):
    "X, Y, Xt, Yt of the XR-Linear tests."
    X, Y, Xt, Yt = (
        load_matrix(tst / "xmc" / "xlinear" / f"{n}.npz").astype(np.float32).tocsr()
        for n in ("X", "Y", "Xt", "Yt")
    )
    return X, Y, Xt, Yt


@pytest.fixture
def xr(xr):
    "Run `forecastlab-xr`, which must end well; what it printed."

    def run(*words):
        code, out, errors = xr(*words)
        assert code == 0, errors
        return out

    return run


def train(X, Y, chain=None, **how):
    return XRLinear.train(
        X, Y, chain, **dict(solver=SAME, progress=False, threads=1) | how
    )


def tree(X, Y, **how):
    return hierarchical_kmeans(pifa(Y, X), threads=1, **how)


# ---- xmc/xlinear


class Folder:
    "Files of one run of test_cli, from sparse or from dense features."

    def __init__(self, tst, tmp, kind):
        self.d = tst / "xmc" / "xlinear"
        self.y = self.d / "Y.npz"
        self.yt = self.d / "Yt.npz"
        self.m = tmp / "model"
        self.p = tmp / "P.npz"
        self.x, self.xt = (
            self.d / f"{n}.npz" if kind == "sparse" else tmp / f"{n}.npy"
            for n in ("X", "Xt")
        )
        if kind == "dense":
            for n, path in (("X", self.x), ("Xt", self.xt)):
                np.save(path, load_matrix(self.d / f"{n}.npz").toarray())

    def check(self, xr, expected, options, tail=""):
        "Train with the options; predict, freely and for selected outputs."
        xr(
            f"train -x {self.x} -y {self.y} -m {self.m} --order libpecos"
            f" --verbose-level 0 {options}"
        )
        ask = f"predict -x {self.xt} -y {self.yt} -o {self.p} -m {self.m}"
        for more in ("", f"-so {self.d / expected}"):
            out = xr(f"{ask} {more} {tail}")
            close(load_matrix(self.p), load_matrix(self.d / expected))
            assert out.startswith("==== evaluation results ====\nprec   = 100.00 50.00")


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pecos(
    "xlinear.test_cli",
    "plain",
    "chain",
    "code",
    "negatives",
    "man",
    "splits2",
    "splits4",
    "evaluate",
)
def test_the_command_line_predicts_the_same(case, kind, tst, tmp_path, xr):
    f = Folder(tst, tmp_path, kind)
    X, Y = load_matrix(f.x), load_matrix(f.y)
    chain = hierarchical_kmeans(pifa(Y, X), leaf=10, threads=1)
    if case == "plain":
        f.check(xr, "Yt_pred.npz", "--max-leaf-size 10")
    if case == "chain":
        save_chain(tmp_path / "chain", chain)
        f.check(xr, "Yt_pred.npz", f"-c {tmp_path}/chain")
    if case in ("code", "negatives"):
        save_matrix(tmp_path / "C.npz", chain[-1])
        save_matrix(tmp_path / "M.npz", sp.csc_matrix(Y @ chain[-1]))
    if case == "code":
        f.check(xr, "Yt_pred.npz", f"-c {tmp_path}/C.npz")
    if case == "negatives":
        options = f"-c {tmp_path}/C.npz -um {tmp_path}/M.npz -uy {f.y}"
        f.check(xr, "Yt_pred.npz", options)
    if case == "man":
        options = "--max-leaf-size 10 -pp noop -b 2 -ns tfn+man"
        f.check(xr, "Yt_pred_with_tfn+man.npz", options, tail="-pp sigmoid -b 4")
    if case.startswith("splits"):
        options = f"--nr-splits {case[-1]} --max-leaf-size 2"
        f.check(xr, f"P_nr_splits={case[-1]}.npz", options, tail="-B 2")
    if case == "evaluate":
        assert xr("evaluate", "-y", f.yt, "-p", f.d / "Yt_pred.npz") == PERFECT


@pecos("xlinear.test_consistency_of_primal", "sparse", "dense")
def test_the_primal_solver_predicts_the_same(case, tst, tmp_path, xr):
    options = "-s L2R_L2LOSS_SVC_PRIMAL --max-leaf-size 10"
    Folder(tst, tmp_path, case).check(xr, "Yt_primal_pred.npz", options)


@pecos("xlinear.test_cost_sensitive", "ova", "tree", "command")
def test_costs_on_positives_act_as_their_weight(case, tst, xy, tmp_path, xr):
    X, Y, *_ = xy
    R = 2 * binary(Y)
    Cp = LinearSettings(Cp=2.0, order="libpecos")
    f = Folder(tst, tmp_path, "sparse")
    if case == "ova":
        close(
            train(X, Y, "ova", R=R, rel_mode="induce").weights[0],
            train(X, Y, "ova", solver=Cp).weights[0],
            1e-9,
        )
        return
    chain = tree(X, Y, leaf=2)
    expected = train(X, Y, chain, solver=Cp).weights
    if case == "tree":
        got = train(X, Y, chain, R=R, rel_mode="induce").weights
    else:
        save_matrix(tmp_path / "R.npz", R)
        xr(
            f"train -x {f.x} -y {f.y} -m {f.m} -r {tmp_path}/R.npz --max-leaf-size 2"
            " --rel-norm no-norm --rel-mode induce --order libpecos"
        )
        got = XRLinear.load(f.m).weights
    for A, B in zip(got, expected, strict=True):
        close(A, B, 1e-12, 1e-6)


@pytest.fixture(scope="session")
def trio(xy, tmp_path_factory):
    """The default model, and trees of 2 and 4 branches with small leaves; saved with
    the memory-mapped form.
    """
    X, Y, *_ = xy
    folder = tmp_path_factory.mktemp("trio")
    for name, how in dict(
        default={}, two=dict(branches=2, leaf=2), four=dict(branches=4, leaf=2)
    ).items():
        train(X, Y, **how).save(folder / name, mmap=True)
    return folder


def by_hand(model, X, beam, k, post):
    "Beam search in NumPy from the weights: what `predict` ought to say."
    power, multiplies = POSTS[post]

    def f(v):
        if power == 0:
            return v
        if power < 0:
            return -np.log1p(np.exp(-v))
        return -(np.maximum(0, 1 - v) ** power)

    X = np.hstack([X.toarray(), np.ones((X.shape[0], 1))])
    P = np.zeros((len(X), model.labels))
    start = np.zeros((len(X), 1))
    there = np.ones((len(X), 1), bool)
    for t, (W, C) in enumerate(zip(model.weights, model.chain)):
        S = f(X @ W.toarray()) + (0 if power == 0 else start @ C.T.toarray())
        ok = (there @ C.T.toarray()) > 0
        kept = np.argsort(-np.where(ok, S, -np.inf), 1, kind="stable")[
            :, : k if t == model.depth - 1 else beam
        ]
        there = np.zeros_like(ok)
        np.put_along_axis(there, kept, True, 1)
        there &= ok
        start = np.where(there, S, 0)
    P[there] = (np.exp(start) if multiplies else start)[there]
    return P


@pytest.mark.parametrize("name", ["default", "two", "four"])
@pecos("xlinear.test_predict_consistency_between_python_and_cpp", *NAMES)
def test_all_ways_of_prediction_agree(case, name, trio, xy):
    Xt = xy[2]
    model, mapped = XRLinear.load(trio / name), XRLinear.load(trio / name, mmap=True)
    how = dict(beam=2, k=20, post=case, threads=1)
    expected = model.predict(Xt, **how).toarray()
    close(expected, by_hand(model, Xt, 2, 20, case), 1e-6, 1e-6)
    for m in (model, mapped):
        for X in (Xt, Xt.toarray()):
            close(m.predict(X, **how), expected)
            for i in range(len(expected)):
                close(m.predict(X[[i]], **how), expected[[i]])
        ask = m.query(k=20, beam=2, post=case)
        for i in range(len(expected)):
            row = np.zeros(model.labels)
            label, score = ask(Xt[[i]].indices, Xt[[i]].data)
            row[label] = score
            close(row, expected[i])


@pytest.mark.parametrize("name", ["default", "two", "four"])
@pecos("xlinear.test_predict_consistency_between_topk_and_selected", *NAMES)
def test_selected_outputs_get_the_same_scores(case, name, trio, xy):
    model = XRLinear.load(trio / name)
    for X in (xy[2], xy[2].toarray(), xy[2][[0]], xy[2][[1]].toarray()):
        P = model.predict(X, post=case, threads=1)
        close(model.predict(X, selected=P, post=case, threads=1), P)


@pecos("xlinear.test_mmap", "default", "two", "four")
def test_a_memory_mapped_model_predicts_the_same(case, trio, xy):
    A, B = (
        XRLinear.load(trio / case, mmap=m).predict(xy[2], k=2, threads=1)
        for m in (False, True)
    )
    close(A, B)
    assert A.nnz == 2 * A.shape[0]


@pecos("xmc.test_mmap_mlmodel")
def test_a_memory_mapped_layer_scores_the_same(case, xy, tmp_path):
    X, Y, Xt, _ = xy
    layer = train(X, Y, "ova").layers[0]
    layer.save(tmp_path / "layer")
    again = Chunks.load(tmp_path / "layer", mmap=True)
    close(
        beam_search(Xt, [again], k=2, threads=1),
        beam_search(Xt, [layer], k=2, threads=1),
    )
    equal(again.to_csc(), layer.to_csc())


@pecos("xlinear.test_batch_prediction_mode")
def test_parts_are_predicted_like_the_whole(case, xy):
    X, Y, Xt, _ = xy
    model = train(X, Y)
    close(
        vstack([model.predict(Xt[i : i + 1]) for i in range(Xt.shape[0])]),
        model.predict(Xt),
    )


@pecos("xlinear.test_manual_init")
def test_a_model_from_its_matrices(case, xy):
    X, Y, Xt, _ = xy
    model = train(X, Y, leaf=10)
    close(
        XRLinear(
            [Chunks.from_csc(W, C, 1.0) for W, C in zip(model.weights, model.chain)]
        ).predict(Xt),
        model.predict(Xt),
    )


@pecos("xlinear.test_matcher_ranker_mode")
def test_matcher_and_ranker_are_the_whole_model(case, xy):
    X, Y, Xt, _ = xy
    chain = tree(X, Y, branches=2, leaf=2)
    assert len(chain) == 5
    Ytop = Y
    for C in chain[:1:-1]:
        Ytop = Ytop @ C
    how = dict(negatives="tfn+man", post="noop")
    whole = train(X, Y, chain, **how)
    top = train(X, Ytop, chain[:2], **how)
    low = train(
        X,
        Y,
        chain[2:],
        negatives="usn+tfn+man",
        user_negatives={3: top.predict(X, k=10)},
        post="noop",
        shallow=True,
    )
    close(low.predict(Xt, k=2, start=top.predict(Xt, k=10)), whole.predict(Xt, k=2))


@pecos("xlinear.test_ova_shallow_mode", "ova", "shallow")
def test_one_layer_ranks_without_a_tree(case, xy, tmp_path, tst, xr):
    X, Y, Xt, _ = xy
    chain = tree(X, Y)
    model = (
        train(X, Y, "ova") if case == "ova" else train(X, Y, chain[-1], shallow=True)
    )
    save_matrix(tmp_path / "P.npz", model.predict(Xt))
    assert model.depth == 1
    out = xr(f"evaluate -y {tst}/xmc/xlinear/Yt.npz -p {tmp_path}/P.npz")
    assert out == PERFECT


@pytest.mark.parametrize("beam", [2, 20])
@pecos("xlinear.test_set_output_constraint", "two", "four", "ova")
def test_only_constrained_labels_are_predicted(case, beam, xy, tmp_path):
    X, Y, Xt, _ = xy
    model = (
        train(X, Y, "ova")
        if case == "ova"
        else train(X, Y, branches=dict(two=2, four=4)[case], leaf=2)
    )
    with pytest.raises(ValueError, match="label"):
        model.constrained([])
    for keep in ([0, 6, 10, 13, 19], [0, 6, 10]):
        model.constrained(keep).save(tmp_path / f"{len(keep)}", mmap=True)
        sent = None
        # score every node, then drop those that were cut off
        for layer, pruned in zip(
            model.layers, XRLinear.load(tmp_path / f"{len(keep)}").layers
        ):
            sent = ordered(
                only(
                    beam_search(Xt, [layer], k=layer.nodes, start=sent, threads=1),
                    range(Xt.shape[0]),
                    np.unique(pruned.C.indices),
                ),
                beam,
            )
        assert set(sent.indices) <= set(keep)
        for mmap in (False, True):
            close(
                XRLinear.load(tmp_path / f"{len(keep)}", mmap=mmap).predict(
                    Xt, beam=beam, k=beam
                ),
                sent,
            )


def hand_made(C2, seed=0):
    "A root with two nodes, and four labels under them; nine features and the bias."
    rng = np.random.default_rng(seed)
    W = [sp.csc_matrix(rng.normal(size=(10, n)), dtype=np.float32) for n in (2, 4)]
    C = [sp.csc_matrix(M, dtype=np.float32) for M in ([[1], [1]], C2)]
    return XRLinear([Chunks.from_csc(w, c, 1.0) for w, c in zip(W, C)]), W, C


PAIRS, CROSSED = [[1, 0], [1, 0], [0, 1], [0, 1]], [[1, 0], [0, 1], [1, 0], [0, 1]]


@pecos("xlinear.test_split_model_at_depth", "reindex", "keep")
def test_a_cut_model_keeps_its_layers(case, xy):
    model, W, C = hand_made(PAIRS)
    top, below = model.cut(1, reindex=case == "reindex")
    assert top.depth == 1 and len(below) == 2 and below[0][0].depth == 1
    equal(top.chain[0], C[0])
    equal(top.weights[0], W[0])
    for i, (m, labels) in enumerate(below):
        if case == "reindex":
            equal(m.chain[0], C[0])
            equal(m.weights[0], W[1][:, 2 * i : 2 * i + 2])
            assert list(labels) == [2 * i, 2 * i + 1]
        else:
            assert m.chain[0].shape == (4, 1)
            assert m.weights[0].shape == (10, 4)
            assert m.weights[0].nnz == 20


@pecos("xlinear.test_reconstruct_model", "pairs", "crossed")
def test_joined_parts_are_the_model_again(case):
    model, W, C = hand_made(dict(pairs=PAIRS, crossed=CROSSED)[case])
    top, below = model.cut(1)
    again = XRLinear.join(top, *zip(*below))
    for A, B in zip([*again.chain, *again.weights], [*C, *W], strict=True):
        equal(A, B)


@pecos("xlinear.test_get_submodel", "reindex", "keep")
def test_a_subtree_keeps_its_labels(case):
    C2 = [[0, 1], [0, 1], [1, 0], [0, 1]]
    model, W, C = hand_made(C2)
    m, labels = model.subtree(1, 1, reindex=case == "reindex")
    if case == "reindex":
        assert list(labels) == [0, 1, 3]
        equal(m.chain[0], C[1][[0, 1, 3]][:, [1]].tocsc())
        equal(m.weights[0], W[1][:, [0, 1, 3]])
    else:
        assert m.weights[0].shape == W[1].shape
        equal(m.chain[0], C[1][:, [1]])
        equal(m.weights[0], only(W[1], range(10), [0, 1, 3]).tocsc())


# ---- xmc


def two_halves(C):
    return {frozenset(np.flatnonzero(c)) for c in C.toarray().T}


@pecos("xmc.test_hierarchicalkmeans")
def test_a_tree_parts_labels_into_halves(case):
    Z = normalize(
        sp.csr_matrix([[1, 0], [0.95, 0.05], [0.9, 0.1], [0, 1]], dtype=np.float32)
    )
    assert two_halves(hierarchical_kmeans(Z, leaf=3)[-1]) == {
        frozenset([0, 1]),
        frozenset([2, 3]),
    }
    two, four = (hierarchical_kmeans(Z, leaf=1, branches=b) for b in (2, 4))
    equal(two[-1], four[-1])
    equal(sp.csc_matrix(two[1] @ two[0]), four[0])


@pecos("xmc.test_hierarchicalkmeans_sampling")
def test_a_tree_over_samples_finds_the_same_halves(case):
    Z = normalize(
        sp.csr_matrix([[1, 0], [0.99, 0.02], [0.01, 1.03], [0, 1]], dtype=np.float32)
    )
    assert two_halves(
        hierarchical_kmeans(Z, leaf=2, sampling=(0.75, 1.0, 1.0))[-1]
    ) == {frozenset([0, 1]), frozenset([2, 3])}


@pecos("utils.test_hierarchical_kmeans")
def test_four_labels_make_two_pairs(case):
    chain = hierarchical_kmeans(
        sp.csr_matrix(
            [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=np.float32
        ),
        leaf=2,
        seed=0,
        threads=1,
    )
    close(chain[0], [[1], [1]])
    close(chain[1], PAIRS)


EYE = sp.identity(3, np.float32, "csr")
THREE = sp.csr_matrix(
    [[1, 1, 1, 1, 0], [1, 1, 0, 1, 1], [0, 1, 1, 1, 1]], dtype=np.float32
)
a, b = 0.5**0.5, 3**-0.5
KNOWN = np.array([[a, a, 0], [b, b, b], [a, 0, a], [b, b, b], [0, a, a]])


@pecos(
    "xmc.test_label_embedding",
    "pifa",
    "random",
    "pii",
    "concat",
    "convex",
    "convex each",
)
def test_label_vectors_have_the_known_values(case):
    if case == "pifa":
        for X in (EYE, EYE.toarray()):
            V = label_embedding("pifa", THREE, X)
            close(V, KNOWN)
            assert sp.issparse(V) == sp.issparse(X)
    if case == "random":
        X, Y = (
            sp.random(30, n, 0.05, "csr", np.float32, random_state=s)
            for s, n in ((1, 40), (2, 50))
        )
        close(label_embedding("pifa", Y, X), normalize(normalize(Y).T @ X))
    if case == "pii":
        close(label_embedding("pii", THREE), normalize(THREE.T.tocsr()))
    alpha = dict(convex=0.3).get(case, np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    Z = 0.5 * KNOWN
    for X in (EYE, EYE.toarray()):
        for L in (Z, sp.csr_matrix(Z)):
            both = sp.issparse(X) and sp.issparse(L)
            either = sp.issparse(X) or sp.issparse(L)
            if case == "concat":
                V = label_embedding("pifa_lf_concat", THREE, X, Z=L)
                close(V, np.hstack([KNOWN, Z]))
                assert sp.issparse(V) == either
            if case.startswith("convex"):
                V = label_embedding(
                    "pifa_lf_convex_combine", THREE, X, Z=L, alpha=alpha
                )
                share = np.broadcast_to(alpha, 5)[:, None]
                close(V, share * KNOWN + (1 - share) * Z)
                assert sp.issparse(V) == both


# ---- utils

CHAIN = [
    sp.csc_matrix(M, dtype=np.float32)
    for M in ([[1], [1]], PAIRS, np.repeat(np.eye(4), 2, 0))
]
Y8 = sp.csr_matrix(
    [[1, 0, 0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]], dtype=np.float32
)


@pecos(
    "utils.test_cluster_chain",
    "files",
    "build",
    "matching",
    "relevance",
    "relevance alone",
)
def test_a_chain_is_built_saved_and_read(case, tmp_path):
    if case == "files":
        save_chain(tmp_path / "chain", CHAIN)
        for A, B in zip(load_chain(tmp_path / "chain"), CHAIN, strict=True):
            equal(A, B)
    if case == "build":
        for A, B in zip(from_clusters(CHAIN[-1], 2), CHAIN, strict=True):
            equal(A, B)
    if case == "matching":
        M2 = sp.csr_matrix([[0, 1, 0, 0], [0, 0, 0, 1]], dtype=np.float32)
        for A, B in zip(
            matching_chain({0: Y8, 1: M2, 2: None}, CHAIN),
            ([[3], [2]], [[2, 1], [1, 1]], [[1, 1, 1, 0], [0, 1, 0, 1]]),
            strict=True,
        ):
            close(A, B)
    R = sp.csr_matrix(
        [[2.0, 0, 0, 0, 0, 0.5, 0, 0], [0, 0, 0.1, 0, 0, 0, 0, 0]], dtype=np.float32
    )
    last = [[0.8, 0, 0, 0, 0, 0.2, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]]
    if case == "relevance":
        got = relevance_chain(
            {0: R, 2: sp.csr_matrix([[0.2, 0.2], [10, 0]], dtype=np.float32), 3: None},
            CHAIN,
            norm="l1",
        )
        for A, B in zip(
            got,
            ([[0.5, 0.5], [1, 0]], [[0.8, 0, 0.2, 0], [0, 1, 0, 0]], last),
            strict=True,
        ):
            close(A, B)
    if case == "relevance alone":
        got = relevance_chain({0: R}, CHAIN, norm="l1", induce=False)
        assert got[0] is None and got[1] is None
        close(got[2], last)


@pecos(
    "utils.test_csr_ensembler",
    "average",
    "rank_average",
    "sigmoid_average",
    "softmax_average",
    "round_robin",
)
def test_ensembles_have_the_known_scores(case):
    P = [
        ordered(sp.csr_matrix(M))
        for M in ([[0.5, 0, 0, 1], [0, 0.2, 0, 0.5]], [[1, 0, 0, 0.2], [0, 0, 0.2, 0]])
    ]
    expected = dict(
        average=[[0.75, 0, 0, 0.6], [0, 0.1, 0.1, 0.25]],
        rank_average=[[1.5, 0, 0, 1.5], [0, 0.5, 1, 1]],
        sigmoid_average=[
            [0.67675895, 0, 0, 0.64044629],
            [0, 0.274917, 0.274917, 0.31122967],
        ],
        softmax_average=[
            [0.5090297, 0, 0, 0.4909703],
            [0, 0.24092582, 0.5, 0.25907418],
        ],
        round_robin=[
            [1.16666667, 0, 0, 1.33333333],
            [0, 0.83333333, 1.16666667, 1.33333333],
        ],
    )
    # there, sigmoid_average had overwritten its inputs
    if case == "softmax_average":
        P = [
            sp.csr_matrix((1 / (1 + np.exp(-A.data)), A.indices, A.indptr), A.shape)
            for A in P
        ]
    close(COMBINE[case](P), expected[case], 1e-12, 1e-6)


GRAPH = [[0, 1, 0, 1], [3, 0, 3, 0], [1, 0, 0, 1], [3, 0, 3, 0]]
SMALL = np.array([[-5.0, 1, 0, 10], [0, 2, 0, 1], [-10, 11, 2, 0]])


@pecos("utils.test_get_cocluster_spectral_embeddings")
def test_the_spectrum_has_the_known_values(case):
    r, c = spectrum(sp.csr_matrix(GRAPH), 1)
    close(r.ravel(), [0.60162737, -0.13128586, 0.18608776, -0.13128586])
    close(c.ravel(), [-0.09449112, 0.66143783, -0.14433757, 0.4330127])


@pecos("utils.test_save_load_matrix", "sparse", "dense")
def test_a_matrix_comes_back_from_its_file(case, tmp_path):
    A = sp.csr_matrix(GRAPH) if case == "sparse" else np.array(GRAPH)
    save_matrix(tmp_path / "A", A)
    B = load_matrix(tmp_path / "A")
    assert type(B) is type(A)
    close(A, B)


@pecos("utils.test_get_sparsified_coo")
def test_only_chosen_rows_and_columns_stay(case):
    A = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 0]])
    keep = np.ix_([1, 2], [0, 2])
    B = np.zeros_like(A)
    B[keep] = A[keep]
    close(only(sp.coo_matrix(A), [1, 2], [0, 2]), B, 0)


@pecos("utils.test_dense_to_csr")
def test_the_strongest_entries_of_a_row_stay(case):
    A = np.array([[-5.0, 1, 2, 10], [-4, 2, 0, 1], [-10, 11, 2, 1]])
    close(strongest(A, 2, 2), [[-5, 0, 0, 10], [-4, 2, 0, 0], [-10, 11, 0, 0]], 0)
    close(strongest(A, 1000, 1000), A, 0)


@pecos("utils.test_stack_csr", "csr_matrix")
def test_stacked_rows_keep_their_format(case):
    stacks(sp.csr_matrix)


@pecos("utils.test_stack_csc", "csc_matrix")
def test_stacked_columns_keep_their_format(case):
    stacks(sp.csc_matrix)


def stacks(kind):
    A = kind(SMALL)
    zero = np.zeros_like(SMALL)
    for f, B in (
        (hstack, np.hstack([SMALL] * 2)),
        (vstack, np.vstack([SMALL] * 2)),
        (block_diag, np.block([[SMALL, zero], [zero, SMALL]])),
    ):
        C = f([A, A])
        assert type(C) is kind and C.dtype == A.dtype
        close(C, B, 0)


@pecos("utils.test_csr_rowwise_mul")
def test_rows_are_scaled_one_by_one(case):
    B = scale_rows(sp.csr_matrix(SMALL), np.array([3.0, 4, 5]))
    assert type(B) is sp.csr_matrix
    close(B, SMALL * [[3], [4], [5]], 1e-12)


@pecos("utils.test_csc_colwise_mul")
def test_columns_are_scaled_one_by_one(case):
    B = scale_columns(sp.csc_matrix(SMALL), np.array([3.0, 4, 5, 6]))
    assert type(B) is sp.csc_matrix
    close(B, SMALL * [[3, 4, 5, 6]], 1e-12)


@pecos("utils.test_get_row_submatrices")
def test_rows_are_taken_in_the_order_asked_for(case):
    A = np.array([[-5.0, 1], [0, 2], [2, 0], [1.2, 0]])
    B, C = take_rows([A, sp.csr_matrix(A)], [0, 2, 1])
    assert type(B) is np.ndarray and type(C) is sp.csr_matrix
    close(B, A[[0, 2, 1]], 0)
    close(C, A[[0, 2, 1]], 0)


PARTS = (
    np.array([1, 2, 3, 4, 5, 6]),
    np.array([0, 2, 2, 0, 1, 2]),
    np.array([0, 2, 3, 6]),
)


@pecos("utils.test_sorted_csr", "csr_matrix")
def test_rows_are_ordered_best_first(case):
    in_order(sp.csr_matrix(PARTS, shape=(3, 3)))


@pecos("utils.test_sorted_csc", "csc_matrix")
def test_columns_are_ordered_best_first(case):
    in_order(sp.csc_matrix(PARTS, shape=(3, 3)))


def in_order(A):
    B = ordered(A)
    assert type(B) is type(A)
    assert B.data.tolist() == [2, 1, 3, 6, 5, 4]
    assert B.indices.tolist() == [2, 0, 2, 2, 1, 0]
    close(A, B, 0)


@pecos("utils.test_csr_row_softmax")
def test_softmax_of_rows_has_the_known_values(case):
    close(
        softmax_rows(sp.csr_matrix(PARTS, shape=(3, 3))),
        [
            [0.2689414214, 0, 0.7310585786],
            [0, 0, 1],
            [0.0900305732, 0.2447284711, 0.6652409558],
        ],
    )


# ---- core

LEFT = sp.csr_matrix([[1, 0], [0.5, 0.5], [0, 1]], dtype=np.float32)
RIGHT = sp.csr_matrix([[0.5, 0], [0, 1], [1, 0], [0, 0.5]], dtype=np.float32)
TIMES = np.array([[0.5, 0, 1, 0], [0.25, 0.5, 0.5, 0.25], [0, 1, 0, 0.5]])


@pecos("core.test_smat_matmul")
def test_a_product_has_the_known_values(case):
    close(product(LEFT, RIGHT.T, threads=2), TIMES, 1e-9)


@pecos("core.test_sparse_inner_products", "sparse", "dense")
def test_inner_products_have_the_known_values(case):
    A, B = (LEFT, RIGHT.T) if case == "sparse" else (LEFT.toarray(), RIGHT.toarray().T)
    close(inner_products(A, B, [0, 1, 2], [1, 2, 3]), TIMES[[0, 1, 2], [1, 2, 3]], 1e-9)


@pecos("core.test_platt_scale", "float32", "float64")
def test_platt_scaling_recovers_its_parameters(case):
    s = np.arange(-15, 15, 1, dtype=case)
    close(platt(s, (1 / (1 + np.exp(0.25 * s + 3.14))).astype(case)), (0.25, 3.14))


# ---- text


def vectors(idf):
    one = dict(use_idf=idf, smooth_idf=False, norm="l2")
    words = one | dict(ngram_range=[1, 1], analyzer="word")
    pairs = one | dict(ngram_range=[2, 2], analyzer="word")

    def stacked(*parts):
        return dict(
            type="tfidf",
            kwargs=dict(norm_p=2, threads=4, base_vect_configs=list(parts)),
        )

    for config, expected in (
        (dict(type="tfidf", kwargs=one), OF_WORDS),
        (stacked(pairs), OF_PAIRS),
        (stacked(words, pairs), OF_BOTH),
    ):
        v = Vectorizer(config).fit(CORPUS)
        close(v.transform(CORPUS), expected[idf])
        close(vstack([v.transform([t]) for t in CORPUS]), expected[idf])


@pecos("text.test_tfidf_vectorizer_tf")
def test_counted_words_have_the_known_vectors(case):
    vectors(False)


@pecos("text.test_tfidf_vectorizer_idf")
def test_weighted_words_have_the_known_vectors(case):
    vectors(True)


def fixture_of_text(tst, tmp_path, name):
    d = tst / "utils" / "data"
    texts = [line.split("\t")[1] for line in (d / "train.src").read_text().splitlines()]
    assert texts == (d / "train_text.src").read_text().splitlines()
    v = Vectorizer(d / f"{name}_vectorizer_config.json").fit(texts)
    v.save(tmp_path / "v")
    expected = load_matrix(d / f"train.{name}.tgt.npz")
    for w in (v, Vectorizer.load(tmp_path / "v")):
        X = w.transform(texts)
        assert type(X) is type(expected)
        close(X, expected)


@pecos("text.test_preprocessor.test_tfidf_vectorizer", "tfidf")
def test_tfidf_fixtures_are_reproduced(case, tst, tmp_path):
    fixture_of_text(tst, tmp_path, case)


@pecos("text.test_preprocessor.test_sklearn_tfidf_vectorizer", "sklearn_tfidf")
def test_sklearn_fixtures_are_reproduced(case, tst, tmp_path):
    fixture_of_text(tst, tmp_path, case)


@pecos("text.test_preprocessor.test_hashing_vectorizer", "hashing")
def test_hashing_fixtures_are_reproduced(case, tst, tmp_path):
    fixture_of_text(tst, tmp_path, case)


# ---- apps/text2text


def same_answers(got, expected):
    "libpecos' rule: the same items by score and name, scores to 1e-6, as many."
    got, expected = (
        [json.loads(line) for line in text.splitlines()] for text in (got, expected)
    )
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        g, e = (sorted(x["data"], key=lambda p: (-p[1], p[0])) for x in (g, e))
        assert [n for n, _ in g] == [n for n, _ in e]
        assert [s for _, s in g] == pytest.approx([s for _, s in e], 1e-6)


@pecos(
    "text2text.test_cli",
    "sklearn",
    "keep",
    "tfidf",
    "stdin",
    "evaluate",
    "workspace",
    "label features",
    "relevance",
)
def test_text2text_trains_and_answers_the_same(case, tst, tmp_path, xr, monkeypatch):
    d, m, ws = tst / "apps" / "text2text", tmp_path / "model", tmp_path / "ws"
    read = lambda name: (d / name).read_text()

    def fit(*more, text="train.txt", to=m):
        return xr(
            *f"text2text-train -i {d}/{text} -q {d}/query_text.txt -m {to}".split(),
            *"--order libpecos --verbose-level 0".split(),
            *more,
        )

    def ask(*more, of=m):
        return xr("text2text-predict", "-i", d / "test.txt", "-m", of, *more)

    small = ["--max-leaf-size", 10]
    if case in ("sklearn", "keep"):
        fit(*small, "--vectorizer-config-json", '{"type":"sklearntfidf","kwargs":{}}')
    if case == "sklearn":
        got = ask("-T", 0.001, "--meta-info-path", d / "test.txt")
        expected = read("sklearn_tfidf_true_pred_items.txt")
        same_answers(got, expected)
        assert [json.loads(x)["meta_info"] for x in got.splitlines()] == [
            json.loads(x)["meta_info"] for x in expected.splitlines()
        ]
    if case == "keep":
        same_answers(
            ask("--output-to-keep-path", d / "query_to_keep_text.txt"),
            read("sklearn_tfidf_true_pred_items_keep.txt"),
        )
    if case == "tfidf":
        fit(*small)
        same_answers(ask(), read("true_pred_items.txt"))
    if case == "stdin":
        fit(*small)
        monkeypatch.setattr(
            "sys.stdin",
            iter(
                [line.split("\t")[1] + "\n" for line in read("test.txt").splitlines()]
            ),
        )
        same_answers(xr("text2text-predict", "-m", m), read("true_pred_items.txt"))
    if case == "evaluate":
        expected = (
            "==== evaluation results ====\nprec   = 0.00 0.00 33.33 25.00 20.00 16.67"
            " 14.29 12.50 11.11 10.00\nrecall = 0.00 0.00 100.00 100.00 100.00 100.00"
            " 100.00 100.00 100.00 100.00\n"
        )
        predicted = f"text2text-evaluate -p {d}/sklearn_tfidf_true_pred_items.txt"
        assert xr(f"{predicted} -y {d}/truth_items.txt") == expected
        assert xr(f"{predicted} -y {d}/test.txt -q {d}/query_text.txt") == expected
    if case == "workspace":
        for _ in range(2):
            fit(*small, "--workspace-folder", ws)
            same_answers(ask(), read("true_pred_items.txt"))
    if case == "label features":
        fit(*small, "--label-embed-type", f"pifa_lf_concat::Z={d / 'Z.pifa.npz'}")
        same_answers(ask(), read("true_pred_items.txt"))
    if case == "relevance":
        fit("--rel-norm", "no-norm", "--rel-mode", "induce", text="train_with_rel.txt")
        fit("--Cp", 2.0, to=tmp_path / "two")
        same_answers(ask(), ask(of=tmp_path / "two"))


# ---- xmc/xtransformer, with a tiny encoder of our own


@pecos("xtransformer.test_xtransformer_python_api", "sparse", "dense")
def test_a_transformer_trains_predicts_and_is_read_back(case, tst):
    pytest.importorskip("transformers")
    from forecastlab.ranking.encoder import tiny_encoder
    from forecastlab.ranking.xrtransformer import FineTuning, XRTransformer

    d = tst / "xmc" / "xtransformer"
    texts = (d / "train.txt").read_text().splitlines()
    Y = load_matrix(d / "train_label.npz")
    X = load_matrix(
        d / ("train_feat.npz" if case == "sparse" else "dense_train_feat.npy")
    )
    model = XRTransformer.train(
        texts,
        X,
        Y,
        tiny_encoder(texts),
        FineTuning(
            steps=(len(texts),), batch=1, topk=2, progress=False, accelerator="cpu"
        ),
        chain=[load_matrix(d / "clusters.npz")],
        threads=1,
    )
    P = model.predict(texts, X, k=2)
    close(
        vstack([model.predict([t], X[[i]], k=2) for i, t in enumerate(texts)]), P, 1e-5
    )
    assert (
        f"{evaluate(Y, P, 10)}\n"
        == "==== evaluation results ====\nprec   = 100.00 100.00 66.67 50.00 40.00"
        " 33.33 28.57 25.00 22.22 20.00\nrecall = 41.67 83.33 83.33 83.33 83.33"
        " 83.33 83.33 83.33 83.33 83.33\n"
    )


# ---- distributed: the parts that are not about machines

CODES = [0, 1, 2, 3, 4, 5, 6, 7, 7, 3]


def meta_and_sub_trees():
    """Two clusters of ten labels, each made into a tree of its own, put together.

    So does one rank of libpecos.
    """
    X = sp.identity(10, np.float32, "csr")
    top = hierarchical_kmeans(pifa(X, X), branches=2, leaf=5, threads=1)
    last, low = [], []
    for k in range(2):
        ids = np.flatnonzero(top[-1].toarray()[:, k])
        last.append(ids)
        low.append(
            hierarchical_kmeans(pifa(X[:, ids], X), branches=2, leaf=2, threads=1)
        )
    whole = [top[0] if len(top) > 1 else sp.csc_matrix(np.ones((2, 1), np.float32))]
    for t in range(len(low[0])):
        C = block_diag([sp.csc_matrix(part[t]) for part in low])
        whole.append(
            sp.csc_matrix(
                C[np.argsort(np.concatenate(last))] if t == len(low[0]) - 1 else C
            )
        )
    return X, whole


@pecos("distributed.test_dist_training")
def test_a_tree_of_metas_and_subs_trains_as_by_hand(case):
    X, chain = meta_and_sub_trees()
    model = train(X, X, chain)
    close(model.chain[-1], np.eye(8)[CODES], 0)
    assert model.depth == 4
    W = np.zeros((11, 10))
    alone = [0, 1, 2, 4, 5, 6]
    W[alone, alone] = 0.4
    W[10, alone] = 0.4
    for i, j in ((3, 9), (7, 8)):
        W[i, i], W[i, j], W[j, i], W[j, j] = 0.65984, -0.65984, -0.663936, 0.663936
    np.testing.assert_allclose(model.weights[-1].toarray(), W, rtol=1e-5, atol=1e-8)


# ---- folders, both ways

# written by libpecos 1.2.8, see make.py there
THEIRS = HERE / "pecos_folder"


@pytest.mark.parametrize("mmap", [False, True], ids=["loaded", "mapped"])
def test_a_folder_of_libpecos_gives_its_scores(mmap, tmp_path):
    model = XRLinear.load(THEIRS)
    X = load_matrix(THEIRS / "X.npz")[:6]
    assert (model.depth, model.labels, model.features) == (3, 24, 18)
    if mmap:
        model.save(tmp_path / "m", mmap=True)
        model = XRLinear.load(tmp_path / "m", mmap=True)
    for case, expected in np.load(THEIRS / "scores.npz").items():
        post, beam = case.split()
        how = dict(beam=int(beam), k=24, post=post, threads=1)
        # beyond 1, logarithms of scores are float32: one part in a million
        for Q in (X, X.toarray()):
            close(model.predict(Q, **how), expected, 1e-6, 1e-6)
        ask = model.query(k=24, beam=int(beam), post=post)
        for i in range(6):
            label, score = ask(X[[i]].indices, X[[i]].data)
            row = np.zeros(24)
            row[label] = score
            close(row, expected[i], 1e-6, 1e-6)


def test_the_same_training_gives_the_same_folder():
    theirs = XRLinear.load(THEIRS)
    ours = train(
        load_matrix(THEIRS / "X.npz"), load_matrix(THEIRS / "Y.npz"), branches=2, leaf=6
    )
    for A, B in zip(ours.chain, theirs.chain, strict=True):
        equal(A, B)
    for A, B in zip(ours.weights, theirs.weights, strict=True):
        close(A, B, 2e-6)


ASK = """
import sys

import numpy as np
import scipy.sparse as sp
from pecos.xmc.xlinear.model import XLinearModel

folder = sys.argv[1]
X = sp.load_npz(folder + "/X.npz").tocsr()
model = XLinearModel.load(folder + "/model")
quick = XLinearModel.load(folder + "/model", is_predict_only=True)
narrow = dict(beam_size=2, only_topk=5, post_processor="sigmoid")
saved = {
    "model": model.predict(X, threads=1),
    "quick": quick.predict(X, threads=1),
    "narrow": quick.predict(X, threads=1, **narrow),
}
model.save(folder + "/again")
scores = {name: P.toarray() for name, P in saved.items()}
np.savez(folder + "/scores.npz", **scores)
"""


@pytest.mark.parametrize("case", ["tree", "ova", "constrained", "grown"])
def test_libpecos_loads_our_folder(case, peer, tmp_path):
    rng = np.random.default_rng(1)
    Y = sp.random(300, 60, 0.04, "csr", np.float32, random_state=1)
    Y.data[:] = 1
    X = sp.csr_matrix(
        Y @ sp.random(60, 40, 0.1, "csr", np.float32, random_state=2)
        + sp.random(300, 40, 0.05, "csr", np.float32, random_state=3)
    ).sorted_indices()
    model = XRLinear.train(
        X,
        Y,
        "ova" if case == "ova" else None,
        branches=4,
        leaf=5,
        progress=False,
        threads=1,
        beam=5,
        k=7,
    )
    if case == "constrained":
        model = model.constrained(rng.permutation(60)[:20])
    if case == "grown":
        from forecastlab.ranking.growth import add_labels

        model = add_labels(model, X, Y, Y[:, :3], threads=1).model
        assert model.labels == 63
    save_matrix(tmp_path / "X.npz", X)
    model.save(tmp_path / "model")
    done = subprocess.run(
        [peer, "-c", ASK, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scores = np.load(tmp_path / "scores.npz")
    for name in ("model", "quick"):
        close(model.predict(X, threads=1), scores[name])
    close(model.predict(X, beam=2, k=5, post="sigmoid", threads=1), scores["narrow"])
    # and back again
    close(
        XRLinear.load(tmp_path / "again").predict(X, threads=1),
        model.predict(X, threads=1),
    )
