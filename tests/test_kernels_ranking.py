"""Beam search and batched SVMs: kernels against references, references against loops.

Triton runs through its interpreter on a CPU.
"""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from forecastlab.kernels import chunk_product as product, svm
from forecastlab.kernels.chunk_product import (
    POSTS,
    Queries,
    as_csr,
    beam_search_gpu,
    bench_chunk_product,
    chunk_product_ref,
    chunk_product_triton,
    count_work,
    device_chunks,
    device_layers,
    queries,
    search_bytes,
    topk_rows,
    topk_rows_ref,
    topk_rows_triton,
)
from forecastlab.kernels.runtime import device, native
from forecastlab.kernels.svm import bench_svm, newton, objective, stack
from forecastlab.kernels.svm import svm_ref, train_svms
from toys import check_benchmark, compiled

kernel = pytest.mark.kernel
PRODUCT = [
    pytest.param(chunk_product_ref, id="torch"),
    pytest.param(chunk_product_triton, id="triton", marks=kernel),
]
TOPK = [
    pytest.param(topk_rows_ref, id="torch"),
    pytest.param(topk_rows_triton, id="triton", marks=kernel),
]
KERNELS = [
    pytest.param(False, id="torch"),
    pytest.param(True, id="triton", marks=kernel),
]
WIDTHS = {
    "plain": [4] * 3,
    "prime": [7, 5, 13],
    "one child": [1],
    "empty chunk": [3, 0, 2],
    "no children": [0],
    "a word and one": [33],
    "wide": [3, 129],
    "very wide": [300],
}


class CSR:
    "Just enough of a sparse matrix."

    def __init__(self, x):
        row, self.indices = np.nonzero(x)
        self.indptr = np.r_[0, np.bincount(row, minlength=len(x)).cumsum()]
        self.data = x[row, self.indices].astype(np.float32)
        self.shape = x.shape


def arrays(dense, bias=1.0, order=None):
    """A layer as plain arrays, from one dense (features+1, width) matrix a cluster;
    `order` renumbers the children.
    """
    row, column, value, per, row_ptr = [], [], [], [], [0]
    for w in dense:
        for r in range(len(w)):
            some = np.flatnonzero(w[r])
            if len(some):
                row.append(r)
                per.append(len(some))
                column.extend(some)
                value.extend(w[r, some])
        row_ptr.append(len(row))
    width = [w.shape[1] for w in dense]
    return dict(
        child_ptr=np.r_[0, np.cumsum(width)],
        child=np.arange(sum(width)) if order is None else order,
        row_ptr=np.array(row_ptr),
        row=np.array(row, int),
        entry_ptr=np.r_[0, np.cumsum(per)].astype(int),
        column=np.array(column, int),
        value=np.array(value, np.float32),
        features=len(dense[0]) - 1,
        bias=bias,
    )


def weights(width, features, density=0.4, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            rng.normal(size=(features + 1, w))
            * (rng.random((features + 1, w)) < density)
        ).astype(np.float32)
        for w in width
    ]


def some_queries(n, features, density=0.5, seed=1):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, features)) * (rng.random((n, features)) < density)).astype(
        np.float32
    )
    if n > 2:
        x[1] = 0  # nothing in it
    return x


def transform(v, parent, post):
    "One score by the formulas of the table."
    if post == "noop":
        return v
    if post == "sigmoid":
        return parent / (1 + math.exp(-v)) if v > -700 else 0.0
    if post == "log-sigmoid":
        return parent + (-math.log1p(math.exp(-v)) if v > -30 else v)
    loss = max(0, 1 - v) ** int(post[-7])
    return parent - loss if post.startswith("log") else parent * math.exp(-loss)


def tensors(*x):
    return [torch.as_tensor(v).to(device()) for v in x]


# ---- chunk product


@pytest.mark.parametrize("path", PRODUCT)
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_products_equal_their_loops(path, width):
    rng = np.random.default_rng(2)
    dense, x = weights(width, 19), some_queries(5, 19)
    chunk = device_chunks(**arrays(dense))
    query = rng.integers(5, size=11)
    cluster = rng.integers(len(width), size=11)
    parent = rng.random(11).astype(np.float32)
    want = [
        transform(float(np.r_[x[q], 1.0] @ dense[c][:, w]), float(p), "l3-hinge")
        for q, c, p in zip(query, cluster, parent)
        for w in range(width[c])
    ]
    for X in (x, CSR(x)):
        assert_close(
            path(queries(X), chunk, *tensors(query, cluster, parent)).cpu(),
            torch.tensor(want),
            rtol=2e-5,
            atol=2e-6,
        )


@pytest.mark.parametrize("path", PRODUCT)
@pytest.mark.parametrize("post", POSTS)
def test_post_processors_equal_their_formulas(path, post):
    v = np.array([-50.0, -3.0, -0.5, -0.0, 0.0, 0.3, 1.0, 1.5, 12.0, 60.0], np.float32)
    chunk = device_chunks(**arrays([np.stack([v, 0 * v])], bias=0.0))
    got = path(
        queries(np.ones((2, 1), np.float32)),
        chunk,
        *tensors(np.array([0, 1]), np.array([0, 0]), np.array([0.4, -1.0], np.float32)),
        post,
    )
    want = [transform(float(u), p, post) for p in (np.float32(0.4), -1.0) for u in v]
    assert_close(
        got.cpu(), torch.tensor(want, dtype=torch.float32), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("path", PRODUCT)
def test_ugly_chunks_and_queries_agree_with_loops(path):
    """Chunks without rows, without bias, one row tall, with all rows; queries without
    features, or without any job.
    """
    for features in (1, 2, 31):
        full = np.ones((features + 1, 3), np.float32)
        dense = [
            0 * full,
            np.r_[full[:-1], 0 * full[:1]],
            np.r_[0 * full[:-1], full[:1]],
            full,
        ]
        chunk = device_chunks(**arrays(dense, bias=2.0))
        x = some_queries(4, features, 1.0)
        query, cluster = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
        want = np.concatenate(
            [np.r_[x[q], 2.0] @ dense[c] for q, c in zip(query, cluster)]
        )
        for X in (x, CSR(x)):
            assert_close(
                path(queries(X), chunk, *tensors(query, cluster, np.ones(12)), "noop")
                .cpu()
                .numpy(),
                want.astype(np.float32),
                rtol=1e-5,
                atol=1e-5,
            )
            assert path(
                queries(X), chunk, *tensors(query[:0], cluster[:0], np.ones(0)), "noop"
            ).shape == (0,)


@pytest.mark.parametrize("path", PRODUCT)
def test_repeated_and_unsorted_features_add_up(path):
    x = CSR(np.ones((1, 4), np.float32))
    x.indices = np.array([2, 0, 2, 1])
    x.data = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    dense = weights([5], 4, 1.0)
    got = path(
        queries(x),
        device_chunks(**arrays(dense)),
        *tensors(np.array([0]), np.array([0]), np.ones(1)),
        "noop",
    )
    assert_close(
        got.cpu().numpy(),
        np.array([2.0, 4, 4, 0, 1], np.float32) @ dense[0],
        rtol=1e-5,
        atol=1e-6,
    )


def test_bits_hold_every_weight():
    """Writing a chunk out gives the weights back, to the last bit, all 32 of a word
    included.
    """
    for width, density in (
        ([32, 64, 5, 0, 100], 0.5),
        ([32], 1.0),
        ([1] * 7, 0.3),
        ([70], 0.0),
    ):
        dense = weights(width, 23, density)
        chunk = device_chunks(**arrays(dense))
        for c, w in enumerate(dense):
            row, got = product.written_out(chunk, c)
            assert np.array_equal(row.cpu(), np.flatnonzero((w != 0).any(1)))
            assert np.array_equal(got.cpu(), w[(w != 0).any(1)])
    assert chunk.megabytes < 1e-3 and chunk.width == 70 and chunk.clusters == 1


@kernel
def test_products_repeat_to_the_last_bit():
    chunk, x = device_chunks(**arrays(weights([9] * 4, 50))), CSR(some_queries(6, 50))
    job = tensors(np.arange(6), np.arange(6) % 4, np.ones(6, np.float32))
    want = chunk_product_triton(queries(x), chunk, *job)
    order = torch.tensor([3, 1, 5, 0, 4, 2], device=device())
    got = chunk_product_triton(queries(x), chunk, *(v[order] for v in job))
    assert torch.equal(chunk_product_triton(queries(x), chunk, *job), want)
    assert torch.equal(got.view(6, 9), want.view(6, 9)[order])


# ---- selection


@pytest.mark.parametrize("path", TOPK)
@pytest.mark.parametrize("k", [1, 3, 16, 33])
def test_the_best_k_are_those_of_sorting(path, k):
    """Ties go to the earlier place; short, empty and long rows; minus zero ties with
    zero.
    """
    rng = np.random.default_rng(k)
    sizes = [0, 1, 5, 0, 40, 1100 if k == 3 else 64, 2]
    score = rng.choice(
        [-np.inf, -2.5, -1e-30, -0.0, 0.0, 1e-38, 0.5, 1.0, 3e38], sum(sizes)
    ).astype(np.float32)
    score[50:90] = rng.normal(size=40)
    ptr = np.r_[0, np.cumsum(sizes)]
    at, best = (t.cpu() for t in path(*tensors(score, ptr), k))
    for i, (lo, hi) in enumerate(zip(ptr, ptr[1:])):
        want = [
            lo + j
            for j in sorted(range(hi - lo), key=lambda j: (-score[lo + j], j))[:k]
        ]
        assert at[i].tolist() == want + [-1] * (k - len(want))
        assert best[i].tolist() == score[want].tolist() + [-math.inf] * (k - len(want))


@pytest.mark.parametrize("path", TOPK)
def test_the_best_of_nothing_are_none(path):
    for ptr, k in (
        (torch.tensor([0]), 3),
        (torch.tensor([0, 0, 0]), 2),
        (torch.tensor([0, 4]), 0),
    ):
        at, best = path(*tensors(torch.arange(4.0)[: int(ptr[-1])], ptr), k)
        assert at.shape == best.shape == (len(ptr) - 1, k)
        assert (at == -1).all()
        assert (best == -math.inf).all()


# ---- beam search


def tree(widths, features=13, density=0.5, seed=0, shuffle=False):
    """Layers of a random tree as plain arrays; `widths` lists the children of every
    cluster of every layer.
    """
    rng, layers, every = np.random.default_rng(seed), [], []
    for t, width in enumerate(widths):
        dense = weights(width, features, density, seed + t)
        order = rng.permutation(sum(width)) if shuffle else None
        layers.append(arrays(dense, order=order))
        every.append((dense, np.arange(sum(width)) if order is None else order))
    return layers, every


def slow_search(x, every, beam, k, post, start=None):
    "Beam search over dense matrices, in double precision."
    out = []
    for i, row in enumerate(x):
        features = np.r_[row, 1.0].astype(float)
        if start is None:
            kept = [(0, 0.0 if post.startswith("log") else 1.0)]
        else:
            kept = [(c, start[i, c]) for c in np.flatnonzero(start[i])]
        for t, (dense, order) in enumerate(every):
            first = np.r_[0, np.cumsum([w.shape[1] for w in dense])]
            new = []
            for c, p in kept:
                for j in range(dense[c].shape[1]):
                    v = float(features @ dense[c][:, j].astype(float))
                    new.append((int(order[first[c] + j]), transform(v, float(p), post)))
            most = k if t == len(every) - 1 else beam
            kept = sorted(new, key=lambda cs: -cs[1])[:most]
        out.append(kept)
    return out


TREES = {
    "plain": [[3], [4] * 3, [5] * 12],
    "prime, empty chunks": [
        [5],
        [3, 0, 7, 1, 2],
        [2, 0, 3, 11, 1, 5, 0, 2, 2, 4, 1, 3, 0],
    ],
    "one layer": [[17]],
    "wide": [[2], [129, 3]],
    "one leaf": [[1], [1], [1]],
}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("widths", TREES.values(), ids=TREES.keys())
def test_a_search_equals_its_loops(kernels, widths):
    layers, every = tree(widths, shuffle=True)
    x, model = some_queries(5, 13), device_layers(layers)
    for beam, k, post in ((2, 3, "l1-hinge"), (1000, 50, "log-sigmoid")):
        want = slow_search(x, every, beam, k, post)
        for X in (x, CSR(x)):
            leaves, scores = beam_search_gpu(X, model, beam, k, post, kernels=kernels)
            assert leaves.shape == scores.shape == (5, k)
            for i, kept in enumerate(want):
                assert leaves[i].tolist() == [c for c, _ in kept] + [-1] * (
                    k - len(kept)
                )
                assert_close(
                    scores[i, : len(kept)].cpu(),
                    torch.tensor([s for _, s in kept], dtype=torch.float32),
                    rtol=2e-5,
                    atol=2e-5,
                )
                assert (scores[i, len(kept) :] == -math.inf).all()


@pytest.mark.parametrize("kernels", KERNELS)
def test_search_of_a_part_and_in_batches(kernels):
    layers, every = tree([[4] * 3, [5] * 12], seed=3)
    x = some_queries(7, 13)
    start = np.zeros((7, 3), np.float32)
    model = device_layers(layers)
    start[0, 1] = 0.5
    start[1] = 0.2, 0.3, 0.4
    start[3, [0, 2]] = 0.9, 0.1
    start[5, 2] = 1.0
    want = slow_search(x, every, 3, 4, "l2-hinge", start)
    for most in (1 << 28, 40):
        leaves, scores = beam_search_gpu(
            CSR(x), model, [3, 3], 4, "l2-hinge", CSR(start), most=most, kernels=kernels
        )
        assert [row[row >= 0].tolist() for row in leaves] == [
            [c for c, _ in kept] for kept in want
        ]
    data, indices, indptr = as_csr(leaves, scores)
    assert indptr.tolist() == np.r_[0, np.cumsum([len(kept) for kept in want])].tolist()
    assert len(data) == len(indices) == indptr[-1]
    assert_close(
        data,
        np.array([s for kept in want for _, s in kept], np.float32),
        rtol=2e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("kernels", KERNELS)
def test_equal_scores_keep_the_order_of_expansion(kernels):
    layers = [
        arrays([np.ones((3, 3), np.float32)]),
        arrays([np.ones((3, 4), np.float32)] * 3),
    ]
    leaves, scores = beam_search_gpu(
        np.ones((2, 2), np.float32), device_layers(layers), 2, 6, kernels=kernels
    )
    assert leaves.tolist() == [[0, 1, 2, 3, 4, 5]] * 2 and (scores == 1).all()


def test_no_queries_find_nothing():
    leaves, scores = beam_search_gpu(
        np.zeros((0, 13), np.float32), device_layers(tree(TREES["plain"])[0]), 2, 3
    )
    assert leaves.shape == scores.shape == (0, 3)


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_cpu_gives_the_same_answers(kernels):
    "ranking.beam, from the same arrays."
    chunks = pytest.importorskip("forecastlab.ranking.chunks")
    beam = pytest.importorskip("forecastlab.ranking.beam")
    sp = pytest.importorskip("scipy.sparse")
    layers, every = tree([[4], [5] * 4, [9] * 20], features=40, density=0.3, seed=5)
    made = []
    for layer, (dense, _) in zip(layers, every):
        C = sp.csc_matrix(
            (np.ones(layer["child_ptr"][-1]), layer["child"], layer["child_ptr"]),
            shape=(layer["child_ptr"][-1], len(dense)),
        )
        made.append(chunks.Chunks.from_csc(sp.csc_matrix(np.hstack(dense)), C, 1.0))
    x = sp.csr_matrix(some_queries(4 if kernels else 40, 40, 0.2))
    for post in POSTS if not kernels else ("l3-hinge",):
        want = beam.beam_search(x, made, 4, 7, post)
        leaves, scores = beam_search_gpu(
            x, device_layers(made), 4, 7, post, kernels=kernels
        )
        data, indices, indptr = as_csr(leaves, scores)
        assert np.array_equal(indptr, want.indptr)
        assert np.array_equal(indices, want.indices)
        assert_close(data, want.data, rtol=2e-5, atol=1e-6)


def test_work_is_counted():
    dense = [
        np.array([[1.0, 0, 2], [0, 0, 0], [3, 4, 5]], np.float32),
        np.ones((3, 40), np.float32),
    ]
    X = queries(CSR(np.array([[1.0, 1.0], [0, 1.0]], np.float32)))
    chunk = device_chunks(**arrays(dense))
    jobs = tensors(np.array([0, 1, 0]), np.array([0, 0, 1]))
    assert count_work(X, chunk, *jobs) == dict(
        jobs=3,
        features=2 + 1 + 2,
        hits=2 + 1 + 2 * 3,
        weights=5 + 3 + 120,
        candidates=3 + 3 + 40,
    )
    layers = device_layers(tree([[3], [2] * 3], 2)[0])
    assert 0 < search_bytes(X, layers, 1, 2) < search_bytes(X, layers, 3, 2)


LAYER = arrays(weights([3, 4], 5, 1.0))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(value=LAYER["value"][:-1]), "differ in length"),
        (dict(row_ptr=LAYER["row_ptr"] + 1), "row_ptr"),
        (dict(child_ptr=np.array([0, 8, 7])), "child_ptr"),
        (dict(features=3), "rows outside"),
        (dict(column=LAYER["column"] + 1), "columns outside their chunk"),
        (dict(column=LAYER["column"][::-1].copy()), "columns"),
        (dict(row=LAYER["row"][::-1].copy()), "rows of a chunk must ascend"),
        (dict(value=LAYER["value"] * np.nan), "weights must be finite: nan"),
        (dict(entry_ptr=LAYER["entry_ptr"][:-1]), "entry_ptr"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        device_chunks(**LAYER | changes)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(X=np.zeros((2, 12))), "X has 12 features, the model 13"),
        (dict(X=np.full((2, 13), np.nan)), "queries must be finite: nan"),
        (dict(X=np.zeros(13)), "must be \\(n, features\\)"),
        (dict(post="l5-hinge"), "unknown post-processor: l5-hinge"),
        (dict(post=11), "unknown post-processor: 11"),
        (dict(beam=0), "at least 1"),
        (dict(k=0), "at least 1"),
        (dict(beam=[3]), "need as many beams"),
        (dict(start=CSR(np.ones((3, 1)))), "start must be"),
        (dict(layers=slice(1, None)), "3 clusters, not one root"),
        (dict(layers=slice(0, 0)), "0 layers"),
        (dict(layers=slice(None, None, -1)), "not one root"),
    ],
)
def test_a_search_that_cannot_be_is_refused(kwargs, message):
    model = device_layers(tree(TREES["plain"])[0])
    with pytest.raises(ValueError, match=message):
        beam_search_gpu(
            **dict(X=np.zeros((2, 13), np.float32), beam=2, k=2)
            | {k: v for k, v in kwargs.items() if k != "layers"},
            layers=model[kwargs.get("layers", slice(None))],
        )


def test_bad_jobs_and_queries_are_named():
    model, x = device_chunks(**LAYER), CSR(np.ones((2, 5), np.float32))
    for query, cluster, message in (
        ([2], [0], "query must lie between 0 and 1: 2"),
        ([0], [2], "cluster must lie between 0 and 1"),
        ([0], [0, 1], "of one length"),
    ):
        with pytest.raises(ValueError, match=message):
            product.chunk_product(
                queries(x), model, *tensors(query, cluster, [1.0] * len(query))
            )
    with pytest.raises(ValueError, match="queries have 4 features"):
        product.chunk_product(
            queries(np.ones((2, 4))), model, *tensors([0], [0], [1.0])
        )
    x.indices = x.indices + 1
    with pytest.raises(
        ValueError, match="feature numbers must lie between 0 and 4: 1, 5"
    ):
        queries(x)
    with pytest.raises(ValueError, match="layers with fewer clusters"):
        beam_search_gpu(
            np.ones((1, 13)), device_layers([tree([[4]])[0][0], tree([[2] * 3])[0][0]])
        )
    assert isinstance(queries(queries(CSR(np.ones((2, 5))))), Queries)


# ---- SVMs


def trained(*problems, **how):
    "What `train_svms` gives, as a list."
    return list(train_svms(*problems, **how))


def problem(n=20, features=9, labels=3, seed=0, density=0.5, share=0.3, C=1.0):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, features)) * (rng.random((n, features)) < density)).astype(
        np.float32
    )
    return x, np.where(rng.random((n, labels)) < share, C, -1.0).astype(np.float32)


def dual(x, cost, passes=3000):
    "The optimum of one label by dual coordinate descent in double precision."
    x = x.astype(float)
    y = np.sign(cost).astype(float)
    D = 1 / (2 * np.abs(cost).astype(float))
    w, alpha, Q = np.zeros(x.shape[1]), np.zeros(len(x)), (x * x).sum(1) + D
    for _ in range(passes):
        old = alpha.copy()
        for i in range(len(x)):
            new = max(0.0, alpha[i] - (y[i] * (w @ x[i]) - 1 + alpha[i] * D[i]) / Q[i])
            w += (new - alpha[i]) * y[i] * x[i]
            alpha[i] = new
        if abs(alpha - old).max() < 1e-9:
            break
    return w


def with_bias(x, bias=1.0):
    return np.c_[x, np.full(len(x), bias, np.float32)]


def lowest(x, cost):
    return objective(
        svm_ref(torch.tensor(x), torch.tensor(cost)),
        torch.tensor(x).double(),
        torch.tensor(cost).double(),
    )


def reached(w, x, cost):
    return objective(
        w.cpu().double(), torch.tensor(x).double(), torch.tensor(cost).double()
    )


SHAPES = {
    "plain": (32, 16, 4),
    "prime": (31, 7, 5),
    "one of all": (1, 1, 1),
    "more features": (6, 40, 3),
    "33 labels": (10, 5, 33),
    "one label": (50, 3, 1),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_svms_reach_the_dual_optimum(shape):
    x, cost = problem(*shape)
    (w,) = trained([(x, cost)], eps=1e-8, dtype=torch.float64, kernels=False)
    some = range(min(4, shape[2]))
    want = np.stack([dual(with_bias(x), cost[:, label]) for label in some], 1)
    assert w.shape == (shape[1] + 1, shape[2])
    assert_close(w[:, : len(some)].cpu().numpy(), want, rtol=0, atol=1e-6)
    assert_close(
        svm_ref(torch.tensor(with_bias(x)), torch.tensor(cost)),
        w.cpu(),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("kernels", KERNELS)
def test_clusters_of_every_size_train_together(kernels):
    """Sparse and dense, wide and narrow, an instance without features, a label without
    positives, one without negatives, a cluster without labels.
    """
    made = [
        problem(13, 7, 2, 1),
        problem(5, 3, 4, 2),
        problem(1, 1, 1, 3),
        problem(3, 2, 0, 4),
    ] + [problem(40, 11, 3, 5)] * (not kernels)
    made[0][0][2] = 0
    made[0][1][:, 0] = -1
    made[1][1][:, 1] = 1
    made[1][1][3] *= 4
    got = trained(
        [(CSR(x) if i % 2 else x, c) for i, (x, c) in enumerate(made)],
        eps=1e-2 if kernels else 1e-3,
        kernels=kernels,
    )
    assert [w.shape for w in got] == [(x.shape[1] + 1, c.shape[1]) for x, c in made]
    for w, (x, c) in zip(got, made):
        if c.shape[1]:
            assert_close(
                reached(w, with_bias(x), c),
                lowest(with_bias(x), c),
                rtol=2e-3 if kernels else 1e-4,
                atol=1e-6,
            )


def test_memory_limits_what_trains_together(monkeypatch):
    made, seen = [problem(12, 6, 3, s) for s in range(5)], []
    whole = trained(made, eps=1e-4, kernels=False)
    monkeypatch.setattr(
        svm, "stack", lambda p, *rest: (seen.append(len(p)), stack(p, *rest))[1]
    )
    parts = trained(
        made, eps=1e-4, kernels=False, megabytes=2 * svm.memory(12, 7, 3, 12 * 7) / 1e6
    )
    assert seen == [2, 2, 1] and sum(len(w) for w in parts) == 35
    for a, b in zip(whole, parts):
        assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_costs_biases_and_what_takes_no_part():
    x, cost = problem(25, 6, 2, 7)
    for bias in (0.0, 2.5):
        big = with_bias(x, bias) if bias else x
        (w,) = trained(
            [(x, 3 * cost)], bias=bias, eps=1e-7, dtype=torch.float64, kernels=False
        )
        assert_close(
            w.cpu(),
            svm_ref(torch.tensor(big), torch.tensor(3 * cost)),
            rtol=0,
            atol=1e-6,
        )
    half = cost.copy()
    half[10:] = 0
    assert_close(
        trained([(x, half)], eps=1e-7, dtype=torch.float64, kernels=False)[0],
        trained([(x[:10], cost[:10])], eps=1e-7, dtype=torch.float64, kernels=False)[0],
        rtol=0,
        atol=1e-6,
    )
    assert (trained([(x, 0 * cost)], kernels=False)[0] == 0).all()


def test_liblinear_finds_the_same():
    learn = pytest.importorskip("sklearn.svm")
    x, cost = problem(120, 15, 3, 8)
    (w,) = trained([(x, cost)], bias=0, eps=1e-5, kernels=False)
    for label in range(3):
        fit = learn.LinearSVC(
            C=1.0,
            loss="squared_hinge",
            dual=True,
            fit_intercept=False,
            tol=1e-8,
            max_iter=100_000,
            random_state=0,
        ).fit(x.astype(float), cost[:, label] > 0)
        assert_close(
            reached(w[:, [label]], x, cost[:, [label]]),
            reached(torch.tensor(fit.coef_.T), x, cost[:, [label]]),
            rtol=1e-6,
            atol=0,
        )


def twin(at):
    "The same, to be changed on its own."
    return svm.Descent(*(x.clone() for x in vars(at).values()))


@kernel
@pytest.mark.parametrize(
    "sizes", [[(4, 3, 2)], [(13, 7, 5), (1, 1, 1), (6, 0, 5)], [(3, 2, 70)]], ids=str
)
def test_steps_agree_with_their_twins(sizes):
    made = stack([problem(*s, seed=i) for i, s in enumerate(sizes)])
    g = torch.Generator().manual_seed(0)
    state = lambda rows: torch.randn(rows, made.cost.shape[1], generator=g).to(device())
    L = made.cost.shape[1]
    at = svm.Descent(
        *(state(made.features) for _ in range(5)),
        *(state(made.instances) for _ in range(4)),
        *torch.zeros(3, len(sizes), L, device=device()),
    )
    p, z, s = at.direction, at.margins, at.slopes
    at.curved = p + at.curved.abs() * p.sign()
    X = made.ptr, made.index, made.value
    out, bent, back, minus = (torch.empty_like(v) for v in (z, z, p, p))
    svm.gather_triton(X, p, 0, out, bent, cost=made.cost, z=z)
    assert_close(out, svm.gather_ref(X, p), rtol=1e-5, atol=1e-5)
    assert_close(bent, svm.bend_ref(made.cost, z, out))
    svm.gather_triton(made.turned, s, 1, back, base=p)
    assert_close(back, svm.gather_ref(made.turned, s, p), rtol=1e-5, atol=1e-5)
    svm.gather_triton(made.turned, s, 2, back, minus, base=p)
    assert_close(back, -svm.gather_ref(made.turned, s, p), rtol=1e-5, atol=1e-5)
    assert torch.equal(back, minus)
    # this label is done
    at.goal[0, 0] = 1e9
    at.start += 1
    for first in (True, False):
        a, b = twin(at), twin(at)
        svm.cg_ref(made, a, first)
        svm.cg_triton(made, b, first)
        assert_close(vars(b), vars(a), rtol=1e-4, atol=1e-5)
        done = slice(made.columns[1]), 0
        assert torch.equal(a.step[done], at.step[done])
    a, b = twin(at), twin(at)
    svm.search_ref(made, a)
    svm.search_triton(made, b)
    assert_close(vars(b), vars(a), rtol=1e-3, atol=1e-3)


def test_the_line_search_finds_the_lowest_point():
    x, cost = problem(40, 5, 6, 9)
    made = stack([(x, cost)], 0, dtype=torch.float64)
    g = torch.Generator().manual_seed(1)
    w, d = (
        torch.randn(5, 6, generator=g, dtype=torch.float64).to(device())
        for _ in range(2)
    )
    dense, cost = tensors(x.astype(float), cost.astype(float))
    slope = w.T @ d - 2 * (
        (cost * (1 - cost.sign() * (dense @ w)).clamp(min=0)).T @ (dense @ d)
    )
    d = d * -slope.diagonal().sign()  # downhill
    at = svm.Descent.zeros(made)
    at.weights, at.step = w.clone(), d
    at.margins, at.step_margins = dense @ w, dense @ d
    svm.search_ref(made, at, steps=30)
    t = ((at.weights - w) / d)[0]
    assert (t > 0).all()
    assert_close(at.margins, dense @ at.weights, rtol=1e-8, atol=1e-8)
    for by in (0.999, 1.001):
        assert (
            objective(w + by * t * d, dense, cost) >= objective(at.weights, dense, cost)
        ).all()


@pytest.mark.parametrize(
    "bad, message",
    [
        ((np.full((2, 2), np.nan), np.ones((2, 1))), "must be finite: problem 1"),
        (
            (np.ones((2, 2)), np.ones((3, 1))),
            "problem 1: cost must be \\(2, labels\\): \\(3, 1\\)",
        ),
        ((np.ones((2, 2)), np.ones(2)), "cost must be"),
        ((np.ones((2, 2)), np.full((2, 1), np.inf)), "must be finite"),
    ],
)
def test_a_problem_that_cannot_be_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        trained([problem(), bad])


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_cluster_of_nothing_has_weights_of_zero(kernels):
    """Without instance, feature or bias all weights are 0, and the neighbours do not
    notice.
    """
    none = (np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32))
    x = problem(6, 3, 2)
    got = trained(
        [none, x, (np.zeros((4, 0), np.float32), problem(4, 1, 2)[1])],
        bias=0,
        kernels=kernels,
    )
    assert [w.shape for w in got] == [(3, 2), (3, 2), (0, 2)] and (got[0] == 0).all()
    assert_close(got[1], trained([x], bias=0, kernels=False)[0], rtol=1e-3, atol=1e-3)


def test_models_without_triton_import_and_work():
    "The plain paths need no Triton; a kernel that is called says what is missing."
    code = (
        "import sys; sys.modules['triton'] = None; import torch\nfrom"
        " forecastlab.kernels.chunk_product import beam_search_gpu, device_chunks\nfrom"
        " forecastlab.kernels.svm import train_svms\nchunk = device_chunks([0, 2], [0,"
        " 1], [0, 1], [0], [0, 2], [0, 1], [1., 2.],"
        " features=1)\nprint(beam_search_gpu(torch.ones(1, 1), [chunk], k=2,"
        " post='noop')[0].tolist(), next(train_svms([(torch.ones(1, 1), torch.ones(1,"
        " 1))], bias=0)).item())\ntry: beam_search_gpu(torch.ones(1, 1), [chunk], k=2,"
        " kernels=True)\nexcept RuntimeError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("[[1, 0]] 0.66666") and "pip install triton" in second


def test_no_problems_have_no_answers():
    assert trained([]) == []


# ---- all kernels

COMPILE = """
import os
import re
import subprocess
import tempfile

from forecastlab.kernels import chunk_product, svm

LONG = "query_start query start chunk first_job last_job child_start row_start"
LONG += " word_start value_start at columns rows"
INT = "query_index row bits first"
SIZES = "features half k rows labels"
types = {f"{name}_ptr": "*i64" for name in LONG.split()}
types |= {f"{name}_ptr": "*i32" for name in INT.split()}
types |= {name: "i32" for name in SIZES.split()} | dict(bias="fp32", tol="fp32")
search, solve = chunk_product.KERNELS, svm.KERNELS
cubic = dict(POWER=3, MULTIPLIES=True)
logistic = dict(POWER=-1, MULTIPLIES=False)
todo = [
    (search["sparse"], cubic | dict(JOBS=2, FEATURES=8, COLUMNS=64)),
    (search["sparse"], logistic | dict(JOBS=2, FEATURES=4, COLUMNS=128)),
    (search["dense"], cubic | dict(JOBS=16, ROWS=32, COLUMNS=128)),
    (search["topk"], dict(KEPT=32, BLOCK=1024)),
    (search["topk"], dict(k=1, KEPT=1, BLOCK=1024)),
    (solve["gather"], dict(MODE=0, ROWS=4, ENTRIES=8, LABELS=64)),
    (solve["gather"], dict(MODE=2, labels=1, ROWS=64, ENTRIES=8, LABELS=4)),
    (solve["cg"], dict(FIRST=False, TILE=32, LABELS=32)),
    (solve["search"], dict(STEPS=8, TILE=32, LABELS=32)),
]
tool = os.path.join(
    os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump"
)


def resources(cubin):
    if not os.path.exists(tool):
        return "STACK:0 LOCAL:0"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        command = [tool, "-res-usage", f.name]
        return subprocess.run(command, capture_output=True, text=True).stdout


for kernel, fixed in todo:
    own = dict(types)
    if kernel is solve["gather"]:
        own |= dict(index_ptr="*i64")
    for made in compiled(kernel, fixed, lambda name: own.get(name, "*fp32")):
        cubin, ptx = made["cubin"], made["ptx"]
        print(
            len(cubin) > 0,
            ptx.count("ld.local"),
            "atom" in ptx,
            *re.findall("STACK:[0-9]+|LOCAL:[0-9]+", resources(cubin)),
            "popc" in ptx or "bits_ptr" not in kernel.arg_names,
        )
"""


@kernel
def test_ranking_kernels_compile_for_a_gpu_without_one():
    """Machine code for Ampere and Hopper.

    No spilled registers, no atomics, one instruction to count bits.
    """
    assert compiled(COMPILE) == ["True 0 False STACK:0 LOCAL:0 True"] * 18


def test_ranking_benchmarks_append_rows(tmp_path, monkeypatch):
    for bench, shape in (
        (bench_chunk_product, (3, 2, (2, 3), 4, 0.5)),
        (bench_svm, (2, 6, 5, 2, 2)),
    ):
        check_benchmark(bench, shape, tmp_path, monkeypatch)


@pytest.mark.gpu
def test_compiled_search_agrees_on_a_large_tree():
    assert native()
    layers = product.random_layers((16, 32, 100), 2000, 0.1, 4000, device())
    X = product.random_queries(5000, 20, 2000, 4000, device())
    for Q in (X, Queries(200, 4000, dense=X.rows(torch.arange(200, device=device())))):
        a, b = (
            beam_search_gpu(Q, layers, 10, 20, "l3-hinge", kernels=flag)
            for flag in (True, False)
        )
        assert_close(a[1], b[1], rtol=1e-4, atol=1e-6)
        assert (a[0] == b[0]).float().mean() > 0.999
    score = torch.rand(1_000_000, device=device())
    ptr = torch.tensor([0, 3, 3, 400_000, 1_000_000], device=device())
    for k in (1, 10, 1000):
        for x, y in zip(topk_rows(score, ptr, k), topk_rows_ref(score, ptr, k)):
            assert torch.equal(x, y)


@pytest.mark.gpu
def test_compiled_training_agrees_on_many_clusters():
    assert native()
    made = svm.random_stack(16, 500, 1000, 50, 16, device())
    (a, *_), (b, *_) = (newton(made, 1e-3, kernels=flag) for flag in (True, False))
    assert_close(a, b, rtol=0, atol=2e-2 * b.abs().max().item())
    again, *_ = newton(made, 1e-3, kernels=True)
    assert torch.equal(a, again)
