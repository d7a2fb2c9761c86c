"Chunks and beam search against plain float64 products with masks, layer by layer."

import shutil

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from forecastlab.ranking import beam as searching
from forecastlab.kernels.posts import POSTS
from forecastlab.ranking.beam import Query, beam_search, score_selected
from forecastlab.ranking.chunks import Chunks, layer_scores
from toys import unsealed

NAMES = [p for p in POSTS if isinstance(p, str)]
LISTS = "child_ptr child row_ptr row entry_ptr column value".split()  # of a layer
D = 50


def tree_layer(clusters, nodes, rng, shuffled=True):
    "Children of very different number, some clusters without any."
    parent = (
        np.sort(rng.choice(clusters, nodes, p=rng.dirichlet(np.ones(clusters))))
        if clusters > 1
        else np.zeros(nodes, int)
    )
    if shuffled:
        rng.shuffle(parent)
    return sp.csc_matrix(
        (np.ones(nodes, np.float32), (np.arange(nodes), parent)),
        shape=(nodes, clusters),
    )


def model(sizes=(1, 6, 40, 300), bias=1.0, seed=0, density=0.3, shuffled=True):
    "(Chunks, W, C) of every layer; each third column has no weight at all."
    rng, made = np.random.default_rng(seed), []
    for above, nodes in zip(sizes, sizes[1:]):
        W = np.where(
            rng.random((D + (bias > 0), nodes)) < density,
            rng.normal(0, 1.2, (D + (bias > 0), nodes)),
            0,
        ).astype(np.float32)
        W[:, rng.random(nodes) < 0.2] = 0
        C = tree_layer(above, nodes, rng, shuffled)
        made.append((Chunks.from_csc(sp.csc_matrix(W), C, bias), W.astype(float), C))
    return made


def queries(n, seed=1, density=0.2):
    X = sp.random(n, D, density, format="csr", random_state=seed, dtype=np.float32)
    X.data -= 0.3
    # one query without features
    X.data[: X.indptr[1]] = 0
    X.eliminate_zeros()
    return X


def transform(name, v):
    if name == "noop":
        return v
    if "sigmoid" in name:
        s = 1 / (1 + np.exp(-v))
    else:
        s = np.exp(-(np.maximum(0, 1 - v) ** int(name.removeprefix("log-")[1])))
    if not name.startswith("log-"):
        return s
    if "sigmoid" in name:
        return -np.logaddexp(0, -v)
    return -(np.maximum(0, 1 - v) ** int(name[5]))


def combine(name, s, parent):
    if name == "noop":
        return s
    return s + parent if name.startswith("log-") else s * parent


def slow(X, layers, widths, name, start=None):
    "A list of (nodes, scores) per query, best first, ties by position."
    X, found = X.toarray().astype(float) if sp.issparse(X) else np.asarray(X, float), []
    for i, x in enumerate(X):
        if start is None:
            nodes = np.array([0])
            scores = np.array([0.0 if name.startswith("log-") else 1.0])
        else:
            row = slice(start.indptr[i], start.indptr[i + 1])
            nodes, scores = start.indices[row], start.data[row].astype(float)
        for (c, W, C), width in zip(layers, widths):
            v = (np.append(x, c.bias) if c.bias > 0 else x) @ W
            children = [C.indices[C.indptr[p] : C.indptr[p + 1]] for p in nodes]
            scores = np.concatenate(
                [
                    np.zeros(0),
                    *(
                        combine(name, transform(name, v[j]), s)
                        for j, s in zip(children, scores)
                    ),
                ]
            )
            nodes = np.concatenate([np.zeros(0, int), *children]).astype(int)
            order = np.argsort(-scores, kind="stable")[:width]
            nodes, scores = nodes[order], scores[order]
        found.append((nodes, scores))
    return found


def agree(P, expected, atol=2e-5):
    assert P.shape[0] == len(expected)
    for i, (nodes, scores) in enumerate(expected):
        got = P.indices[P.indptr[i] : P.indptr[i + 1]]
        s = P.data[P.indptr[i] : P.indptr[i + 1]]
        assert len(got) == len(nodes) and len(set(got)) == len(got)
        assert_allclose(s, scores, atol=atol, rtol=2e-5)
        assert (np.diff(s) <= 0).all()
        # not decided by rounding
        clear = np.abs(np.subtract.outer(scores, scores)) < 1e-4
        clear = clear.sum(1) == 1
        if len(clear):
            clear[-1] = False
        assert_array_equal(got[clear], nodes[clear])


# --- layout


@pytest.mark.parametrize("bias", [1.0, 0.5, 0.0, -1.0])
@pytest.mark.parametrize("shuffled", [True, False])
def test_layout_loses_nothing(bias, shuffled, tmp_path):
    for c, W, C in model(bias=bias, shuffled=shuffled):
        assert_array_equal(c.to_csc().toarray(), W.astype(np.float32))
        assert (c.C != C).nnz == 0
        assert c.shape == W.shape
        assert c.nodes == C.shape[0]
        assert c.clusters == C.shape[1]
        assert c.features == D
        assert (np.diff(c.entry_ptr) > 0).all()
        for a, b in zip(c.row_ptr, c.row_ptr[1:]):
            assert (np.diff(c.row[a:b]) > 0).all()
        for a, b in zip(c.entry_ptr, c.entry_ptr[1:]):
            assert (np.diff(c.column[a:b]) > 0).all()
        c.save(tmp_path / "layer", overwrite=True)
        for mmap in (True, False):
            d = Chunks.load(tmp_path / "layer", mmap)
            for name in ["features", "bias", "nodes", *LISTS]:
                assert_array_equal(getattr(d, name), getattr(c, name))


def test_parts_are_laid_end_to_end():
    for c, _, C in model():
        cut = [
            (
                c.row[a:b],
                c.entry_ptr[a : b + 1] - c.entry_ptr[a],
                c.column[c.entry_ptr[a] : c.entry_ptr[b]],
                c.value[c.entry_ptr[a] : c.entry_ptr[b]],
            )
            for a, b in zip(c.row_ptr, c.row_ptr[1:])
        ]
        p = Chunks.pack(cut, C, D, 1.0)
        for name in LISTS:
            assert_array_equal(getattr(p, name), getattr(c, name))
            assert getattr(p, name).dtype == getattr(c, name).dtype
    none = (
        np.zeros(0, np.int32),
        np.zeros(1, np.int64),
        np.zeros(0, np.int32),
        np.zeros(0, np.float32),
    )
    assert len(Chunks.pack([none] * 3, sp.csc_matrix((5, 3)), D).value) == 0


def test_unsorted_and_duplicate_entries_are_summed():
    W = sp.csc_matrix(
        (np.array([1, 2, 4], np.float32), np.array([3, 0, 3]), np.array([0, 3])),
        shape=(5, 1),
    )
    assert_array_equal(
        Chunks.from_csc(W, sp.csc_matrix(np.ones((1, 1)))).to_csc().toarray()[:, 0],
        [2, 0, 0, 5, 0],
    )


def test_a_pruned_node_has_no_chunk_but_keeps_its_number():
    ((c, W, C),) = model((1, 8))
    C = C.copy()
    C.data[2] = 0
    C.eliminate_zeros()
    c = Chunks.from_csc(sp.csc_matrix(W), C)
    assert c.nodes == 8 and len(c.child) == 7
    W[:, 2] = 0
    assert_allclose(c.to_csc().toarray(), W)
    P = beam_search(queries(30), [c], k=8)
    assert P.shape == (30, 8) and 2 not in P.indices and P.nnz == 210
    with pytest.raises(ValueError, match="no parent in the tree: 2"):
        score_selected(
            queries(1), [c], sp.csr_matrix(([1.0], ([0], [2])), shape=(1, 8))
        )


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda W, C: Chunks.from_csc(W[:, :5], C),
            "weights of 5 nodes do not fit a tree layer of 8",
        ),
        (
            lambda W, C: Chunks.from_csc(W, sp.hstack([C, C]).tocsc()),
            "more than one parent: 0, 1, 2, 3, 4 and 3 more",
        ),
        (lambda W, C: Chunks.from_csc(W * np.nan, C), "weights are NaN or infinite"),
        (lambda W, C: Chunks.pack([], C, D), "0 parts do not fit 1 clusters"),
    ],
)
def test_what_cannot_be_a_layer(make, message):
    ((c, W, C),) = model((1, 8))
    with pytest.raises(ValueError, match=message):
        make(sp.csc_matrix(W), C)


@pytest.mark.parametrize(
    "harm",
    [
        "missing",
        "short",
        "lost json",
        "other type",
        "pickle",
        "other length",
        "bad json",
    ],
)
def test_a_damaged_folder_is_one_clear_error(harm, tmp_path):
    ((c, _, _),) = model((1, 8))
    c.save(tmp_path)
    value = tmp_path / "value.npy"
    if harm == "missing":
        value.unlink()
    if harm == "short":
        value.write_bytes(value.read_bytes()[:-4])
    if harm == "lost json":
        (tmp_path / "chunks.json").unlink()
    if harm == "bad json":
        (tmp_path / "chunks.json").write_text("{")
    if harm == "other type":
        np.save(value, c.value.astype(float))
    if harm == "other length":
        np.save(value, c.value[:-1])
    if harm == "pickle":
        np.save(value, np.array([{}], dtype=object), allow_pickle=True)
    for mmap in (True, False):
        with pytest.raises((OSError, ValueError), match="Save the layer again"):
            Chunks.load(tmp_path, mmap)


def test_a_model_larger_than_memory_is_opened_and_asked(tmp_path):
    "The last cluster has 40 GB of weights in a sparse file; no query visits them."
    c, W, C = model((1, 3, 24), bias=0.0, density=1.0)[-1]
    c.save(tmp_path)
    unsealed(tmp_path)
    more = 10_000_000_000
    for name in ("column", "value"):
        old = np.load(tmp_path / f"{name}.npy")
        with open(tmp_path / f"{name}.npy", "wb") as f:
            np.lib.format.write_array_header_1_0(
                f,
                dict(
                    descr=old.dtype.str, fortran_order=False, shape=(len(old) + more,)
                ),
            )
            f.write(old.tobytes())
            try:
                f.truncate(f.tell() + 4 * more)
            except OSError:
                pytest.skip("the file system has no sparse files")
    ptr = c.entry_ptr.copy()
    ptr[-1] += more
    np.save(tmp_path / "entry_ptr.npy", ptr)
    if (
        shutil.disk_usage(tmp_path).used > 0
        and (tmp_path / "value.npy").stat().st_blocks * 512 > 2**30
    ):
        pytest.skip("the file system has no sparse files")
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    big = Chunks.load(tmp_path)
    X = queries(9)
    start = sp.csr_matrix(np.tile(np.float32([0.9, 0.8, 0]), (9, 1)))
    P, Q = (beam_search(X, [layer], k=8, start=start) for layer in (big, c))
    assert (P != Q).nnz == 0 and P.nnz
    # kilobytes; the file has 80 million of them
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2_000_000


# --- products


@pytest.mark.parametrize("n", [1, 3, 40, 400])
@pytest.mark.parametrize("dense", [False, True])
def test_margins_are_the_masked_product(n, dense):
    rng = np.random.default_rng(n)
    for bias in (1.0, 0.0):
        for c, W, C in model(bias=bias):
            X = queries(n)
            M = sp.csr_matrix(rng.random((n, c.clusters)) < 0.4, dtype=np.float32)
            whole = (np.hstack([X.toarray(), np.full((n, int(bias > 0)), bias)])) @ W
            S = layer_scores(X.toarray() if dense else X, c, M)
            assert_allclose(S.toarray(), whole * (M @ C.T).toarray(), atol=1e-5)
            assert S.nnz == (M @ C.T).nnz
            assert_allclose(
                layer_scores(X, c).toarray(),
                whole * np.asarray(c.C.sum(1)).ravel(),
                atol=1e-5,
            )


def test_both_ways_give_the_same_bits():
    "One query at a time is searched, a thousand are looked up."
    ((c, W, C),) = model((1, 37))
    X = queries(1000)
    whole = layer_scores(X, c)
    for i in range(0, 1000, 97):
        assert_array_equal(layer_scores(X[i], c).data, whole[i].data)


def test_wide_layers_are_spread_a_group_of_panels_at_a_time():
    rng = np.random.default_rng(0)
    W = sp.random(901, 3000, 0.02, format="csc", random_state=0, dtype=np.float32)
    X = sp.random(60, 900, 0.5, format="csr", random_state=1, dtype=np.float32)
    c = Chunks.from_csc(W, sp.csc_matrix(np.ones((3000, 1))))
    assert (len(c.row) + 2) * 3008 > 2 * 2**20
    assert_allclose(
        layer_scores(X, c).toarray(),
        np.hstack([X.toarray(), np.ones((60, 1))]) @ W.toarray(),
        atol=1e-4,
    )
    P = beam_search(X, [c], k=int(rng.integers(5, 9)), post="noop")
    assert_allclose(P.data.reshape(60, -1)[:, 0], layer_scores(X, c).toarray().max(1))


# --- search


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dense", [False, True])
def test_every_post_processor_scores_as_its_formula(name, dense):
    layers, X = model(seed=len(name)), queries(70)
    for widths in ([3, 5, 10], [10, 100, 7], [2, 3, 300]):
        P = beam_search(
            X.toarray() if dense else X,
            [c for c, *_ in layers],
            widths,
            widths[-1],
            name,
            threads=1,
        )
        agree(P, slow(X, layers, widths, name))


def test_other_names_of_post_processors():
    layers, X = [c for c, *_ in model()], queries(20)
    for value, name in ((True, "l3-hinge"), (False, "noop"), (None, "noop")):
        assert (
            beam_search(X, layers, post=value) != beam_search(X, layers, post=name)
        ).nnz == 0


@pytest.mark.parametrize("name", ["l3-hinge", "log-l2-hinge", "sigmoid", "noop"])
def test_start_continues_a_search(name):
    layers, X = model(), queries(50)
    chunks = [c for c, *_ in layers]
    whole = beam_search(X, chunks, [4, 6, 0], 9, name)
    for cut in (1, 2):
        start = beam_search(X, chunks[:cut], [4, 6][:cut], [4, 6][cut - 1], name)
        P = beam_search(X, chunks[cut:], [4, 6, 0][cut:], 9, name, start=start)
        assert_allclose(P.data, whole.data, atol=1e-6, rtol=1e-5)
        agree(
            P, slow(X, layers[cut:], [[4, 6, 9][i] for i in range(cut, 3)], name, start)
        )
    some = sp.csr_matrix(start.multiply(sp.csr_matrix(np.arange(50)[:, None] % 2)))
    some.eliminate_zeros()
    # nowhere to start, nothing found
    assert (
        np.diff(beam_search(X, chunks[2:], k=9, post=name, start=some).indptr)[::2] == 0
    ).all()


def test_stored_zeros_of_start_count():
    c = Chunks.from_csc(
        sp.csc_matrix((D + 1, 4), dtype=np.float32),
        sp.csc_matrix(np.repeat(np.eye(2), 2, 0)),
    )
    start = sp.csr_matrix((np.zeros(3, np.float32), [1, 0, 1], [0, 2, 3]), shape=(2, 2))
    for name, score in (("log-l1-hinge", -1), ("l1-hinge", 0)):
        P = beam_search(queries(2), [c], k=4, post=name, start=start)
        assert_array_equal(P.indices, [2, 3, 0, 1, 2, 3])
        assert_array_equal(P.data, score)


def test_ties_go_by_position_not_by_number():
    """Four clusters in the order 2, 0, 3, 1 by score; all their children alike, in the
    tree's own order.
    """
    top = np.zeros((D + 1, 4), np.float32)
    top[D] = [0.5, -1, 0.9, 0]
    C = sp.csc_matrix(
        (
            np.ones(12),
            np.array([3, 11, 5, 0, 4, 6, 9, 8, 1, 2, 7, 10]),
            np.array([0, 3, 6, 9, 12]),
        ),
        shape=(12, 4),
    )
    layers = [
        Chunks.from_csc(sp.csc_matrix(top), sp.csc_matrix(np.ones((4, 1)))),
        Chunks.from_csc(sp.csc_matrix((D + 1, 12), dtype=np.float32), C),
    ]
    order = [9, 8, 1, 3, 11, 5, 2, 7, 10, 0, 4, 6]
    for n in (1, 300):
        for k in (5, 12, 80):
            assert_array_equal(
                beam_search(queries(n), layers, 4, k).indices, np.tile(order[:k], n)
            )
        assert_array_equal(
            beam_search(queries(n), layers, 4, 12, "noop").indices, np.tile(order, n)
        )
    for k in (5, 12, 80):
        assert_array_equal(
            Query(layers, 4, k)(np.zeros(0, np.int32), np.zeros(0, np.float32))[0],
            order[:k],
        )


def test_a_score_of_zero_is_stored():
    W = np.zeros((D + 1, 6), np.float32)
    W[D] = [1, 2, 3, 0.5, -9, -99]
    c = Chunks.from_csc(sp.csc_matrix(W), sp.csc_matrix(np.ones((6, 1))))
    P = beam_search(queries(3), [c], k=6, post="log-l3-hinge")
    assert P.nnz == 18
    assert_array_equal(P.indices[:6], [0, 1, 2, 3, 4, 5])
    assert_array_equal(P.data[:3], 0)
    P = beam_search(queries(3), [c], k=6)
    assert P.nnz == 18
    assert_array_equal(P.indices[:6], range(6))
    assert_array_equal(P.data[4:6], 0)


def test_where_there_is_nothing_to_find_nothing_is_found():
    # a root without children
    empty = Chunks.from_csc(
        sp.csc_matrix((D + 1, 3), dtype=np.float32), sp.csc_matrix((3, 1))
    )
    below = Chunks.from_csc(
        sp.csc_matrix((D + 1, 5), dtype=np.float32), sp.csc_matrix((5, 3))
    )
    P = beam_search(queries(4), [empty, below])
    assert P.shape == (4, 5) and P.nnz == 0
    assert len(Query([empty, below])([1], [1.0])[0]) == 0
    P = beam_search(sp.csr_matrix((0, D), dtype=np.float32), [c for c, *_ in model()])
    assert P.shape == (0, 300) and P.nnz == 0


def test_one_layer_is_one_against_the_rest():
    layers, X = model((1, 90)), queries(40)
    agree(beam_search(X, [layers[0][0]], k=100), slow(X, layers, [100], "l3-hinge"))
    agree(beam_search(X, [layers[0][0]], k=6), slow(X, layers, [6], "l3-hinge"))


def test_threads_and_blocks_change_nothing(monkeypatch):
    layers, X = [c for c, *_ in model()], queries(900)
    wanted = sp.random(900, 300, 0.01, format="csr", random_state=0)
    one = beam_search(X, layers, threads=1)
    asked = score_selected(X, layers, wanted, threads=1)
    for room in (1 << 21, 3000, 1):
        if room == 1:
            X, one, wanted, asked = X[:20], one[:20], wanted[:20], asked[:20]
        monkeypatch.setattr(searching, "ROOM", room)
        for threads in (1, 2, 3, None):
            two = beam_search(X, layers, threads=threads)
            again = score_selected(X, layers, wanted, threads=threads)
            for a, b in ((one, two), (asked, again)):
                assert_array_equal(a.indptr, b.indptr)
                assert_array_equal(a.indices, b.indices)
                assert_array_equal(a.data, b.data)


@pytest.mark.parametrize("name", NAMES)
def test_selected_nodes_get_the_score_of_their_path(name):
    layers, X = model(), queries(30)
    chunks = [c for c, *_ in layers]
    every = slow(X, layers, [300] * 3, name)
    rng = np.random.default_rng(0)
    score = {
        (i, n): s
        for i, (nodes, scores) in enumerate(every)
        for n, s in zip(nodes, scores)
    }
    ids = [rng.permutation(300)[: rng.integers(0, 20)] for _ in range(30)]
    ids[3] = ids[3][:0]
    # stored zeros, unsorted
    wanted = sp.csr_matrix(
        (
            np.zeros(sum(map(len, ids))),
            np.concatenate(ids),
            np.cumsum([0, *map(len, ids)]),
        ),
        shape=(30, 300),
    )
    for Z in (X, X.toarray()):
        S = score_selected(Z, chunks, wanted, name)
        assert_array_equal(S.indices, wanted.indices)
        assert_array_equal(S.indptr, wanted.indptr)
        assert_allclose(
            S.data,
            [score[i, n] for i, row in enumerate(ids) for n in row],
            atol=2e-5,
            rtol=2e-5,
        )


@pytest.mark.parametrize("name", ["l3-hinge", "sigmoid", "log-l1-hinge", "noop"])
def test_single_queries_equal_the_batch(name):
    layers, X = [c for c, *_ in model()], queries(200)
    for beam, k in ((3, 5), ([2, 40, 0], 100)):
        P, ask = beam_search(X, layers, beam, k, name), Query(layers, beam, k, name)
        for i in range(200):
            nodes, scores = ask(X[i].indices, X[i].data)
            assert_array_equal(nodes, P[i].indices)
            assert_array_equal(scores, P[i].data)


def test_a_query_of_many_features():
    "More questions than the list of open ones holds."
    rng = np.random.default_rng(0)
    W = rng.normal(size=(3001, 20)).astype(np.float32) / 50
    c = Chunks.from_csc(sp.csc_matrix(W), sp.csc_matrix(np.ones((20, 1))))
    x = rng.normal(size=3000).astype(np.float32)
    nodes, scores = Query([c], k=20, post="noop")(np.arange(3000), x)
    v = np.append(x, 1) @ W
    assert_allclose(scores, np.sort(v)[::-1], atol=1e-4)
    assert_array_equal(nodes, np.argsort(-v))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda X, c: beam_search(X, []), "there are no layers"),
        (
            lambda X, c: beam_search(X, c[::-1]),
            "do not follow the one above them: 1, 2",
        ),
        (lambda X, c: beam_search(X[:, :9], c), "9 features, 50 are expected"),
        (lambda X, c: beam_search(X, c, beam=[1, 2]), "2 beam widths for 3 layers"),
        (lambda X, c: beam_search(X, c, beam=0), "at least 1, got 0"),
        (lambda X, c: beam_search(X, c, k=0), "at least 1, got 0"),
        (
            lambda X, c: beam_search(X, c, post="l5-hinge"),
            "unknown post-processor: l5-hinge",
        ),
        (lambda X, c: beam_search(X, c, post=3), "unknown post-processor: 3"),
        (lambda X, c: beam_search(X, c[1:]), "6 clusters and no root"),
        (
            lambda X, c: beam_search(X, c[1:], start=sp.csr_matrix((3, 6))),
            "start has shape",
        ),
        (
            lambda X, c: beam_search(
                X, c[1:], start=sp.csr_matrix(-np.ones((X.shape[0], 6)))
            ),
            "negative scores, which cannot be multiplied: -1.0",
        ),
        (lambda X, c: beam_search(X * np.nan, c), "NaN"),
        (lambda X, c: score_selected(X, c, sp.csr_matrix((2, 2))), "wanted has shape"),
        (
            lambda X, c: layer_scores(X, c[1], sp.csr_matrix((2, 2))),
            "parents have shape",
        ),
        (lambda X, c: Query(c)([1, 50, -1], [1.0, 1, 1]), "does not have: 50, -1"),
        (lambda X, c: Query(c)([1, 2], [1.0]), "do not fit values"),
        (lambda X, c: Query(c[1:]), "no root"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call(queries(5), [c for c, *_ in model()])


def test_layers_stay_readable_while_a_query_lives(tmp_path):
    "The table of a Query holds addresses; the arrays behind them must not go."
    for t, (c, *_) in enumerate(model()):
        c.save(tmp_path / str(t))
    ask = Query([Chunks.load(tmp_path / str(t)) for t in range(3)])
    P = beam_search(queries(40), [c for c, *_ in model()])
    shutil.rmtree(tmp_path)
    X = queries(40)
    for i in range(40):
        assert_array_equal(ask(X[i].indices, X[i].data)[0], P[i].indices)


def test_bibtex_features_and_a_tree(mirror):
    "Real sparsity: correlations as weights; beam search with a full beam is exact."
    folder = mirror / "ranking" / "bibtex"
    X, Y = (
        sp.load_npz(folder / f"{n}.npz").tocsr().astype(np.float32)
        for n in ("X_trn", "Y_trn")
    )
    W = (X.T @ Y).tocsc()
    W.data = np.log1p(W.data) / 9
    parent = np.arange(Y.shape[1]) % 10
    C = [
        sp.csc_matrix(np.ones((10, 1))),
        sp.csc_matrix((np.ones(len(parent)), (np.arange(len(parent)), parent))),
    ]
    layers = [Chunks.from_csc(W @ C[1] / 8, C[0], 0), Chunks.from_csc(W, C[1], 0)]
    Xt = X[:500]
    v = [(Xt @ m).toarray().astype(float) for m in (W @ C[1] / 8, W)]
    exact = (
        np.exp(-(np.maximum(0, 1 - v[1]) ** 3))
        * np.exp(-(np.maximum(0, 1 - v[0]) ** 3))[:, parent]
    )
    P = beam_search(Xt, layers, 10, 10)
    assert_allclose(P.data.reshape(500, 10), -np.sort(-exact, 1)[:, :10], atol=1e-6)
