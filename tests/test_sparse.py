"""Matrices and their files against slow ways of doing the same, libpecos' own examples,
and everything that can be wrong.
"""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp

from forecastlab.core import sparse as S
from forecastlab.ranking.xrlinear import XRLinear
from toys import some_matrix as some


# What may come in


@pytest.mark.parametrize(
    "make",
    [
        sp.csr_matrix,
        sp.csc_matrix,
        sp.coo_matrix,
        sp.csr_array,
        sp.coo_array,
        sp.dok_matrix,
        sp.lil_matrix,
        np.asarray,
        lambda A: A.tolist(),
        np.asfortranarray,
        lambda A: A.astype(int),
        lambda A: A.astype(np.float64),
        lambda A: A > 0,
    ],
    ids=lambda f: getattr(f, "__name__", "?"),
)
def test_features_of_any_kind_are_read_alike(make):
    A = np.round(some(7, 5).toarray() * 9)
    given = make(A)
    X = S.as_features(given)
    assert X.dtype == np.float32
    assert (
        isinstance(X, sp.csr_matrix) and X.has_canonical_format or X.flags.c_contiguous
    )
    yes_or_no = not sp.issparse(given) and np.asarray(given).dtype == bool
    want = np.asarray(A > 0 if yes_or_no else A, np.float32)
    np.testing.assert_array_equal(X.toarray() if sp.issparse(X) else X, want)


def test_untidy_rows_are_put_in_order_and_the_argument_is_left_alone():
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.integers(0, 6, 9)
        start = np.concatenate([[0], counts.cumsum()])
        index = rng.integers(0, 7, start[-1])
        data = rng.normal(size=start[-1])
        A = sp.csr_matrix((data.copy(), index.copy(), start), shape=(9, 7))
        X = S.as_features(A)
        slow = np.zeros((9, 7))
        for i in range(9):
            for p in range(start[i], start[i + 1]):
                slow[i, index[p]] += data[p]
        np.testing.assert_allclose(X.toarray(), slow, atol=1e-6)
        np.testing.assert_array_equal(A.indices, index)
        np.testing.assert_array_equal(A.data, data)
    same = S.as_features(some(4, 4))
    assert S.as_features(same) is same
    long = some(5, 6).copy()
    long.indices = long.indices.astype(np.int64)
    long.indptr = long.indptr.astype(np.int64)
    assert S.as_features(long).indices.dtype == np.int32
    start, index, value = S.arrays(S.as_features(long))
    assert (start.dtype, index.dtype, value.dtype) == (np.int64, np.int32, np.float32)


def test_features_that_cannot_be_are_refused():
    A = some(6, 4, 0.9).tolil()
    A[2, 1], A[5, 0] = np.nan, -np.inf
    with pytest.raises(
        ValueError,
        match="2 values that are NaN, infinite or too large for float32, in rows: 2, 5",
    ):
        S.as_features(A.tocsr())
    with pytest.raises(ValueError, match="in rows: 1"):
        S.as_features(np.array([[1, 2], [1e300, 0]]))
    with pytest.raises(ValueError, match="7 features, 4 are expected"):
        S.as_features(np.zeros((2, 7)), features=4)
    for bad in (
        np.zeros(3),
        np.zeros((1, 2, 3)),
        5.0,
        np.array([["a"]]),
        np.array([[None]]),
        np.zeros((2, 2), complex),
        [[1], [1, 2]],
        some(2, 2).astype(complex),
    ):
        with pytest.raises(ValueError):
            S.as_features(bad)
    for where, value in (("indices", -1), ("indices", 9), ("indptr", 99)):
        B = some(5, 6, 0.9).copy()
        getattr(B, where)[2] = value
        with pytest.raises(ValueError, match="no sound sparse matrix"):
            S.as_features(B)


def labels():
    "Labels of four rows, two of them without any; a stored zero is no label."
    return sp.csr_matrix(([1.0, 0, 2], ([0, 1, 2], [1, 1, 0])), shape=(4, 3))


def test_labels_are_what_is_not_zero():
    Y = S.as_labels(labels())
    assert Y.nnz == 2 and Y.shape == (4, 3) and Y.data.tolist() == [1, 2]
    assert S.as_labels(np.array([[True, False]])).toarray().tolist() == [[1, 0]]
    assert S.as_labels(np.zeros((0, 5))).shape == (0, 5)


def test_labels_that_cannot_be_are_refused():
    Y = S.as_labels(labels())
    with pytest.raises(ValueError, match="-1"):
        S.as_labels([[1, -1]])
    with pytest.raises(ValueError, match="4 rows, the features have 3"):
        S.as_labels(Y, rows=3)
    with pytest.raises(ValueError, match="2 rows of Y have no label: 1, 3"):
        S.as_labels(Y, allow_empty=False)


# Rows and columns


def test_rows_are_brought_to_length_1():
    A = some(50, 30, 0.1)
    A = S.vstack([A, sp.csr_matrix((3, 30), dtype=np.float32), A])
    for B in (A, A.toarray()):
        L = S.l2_rows(B)
        L = L.toarray() if sp.issparse(L) else L
        norm = np.linalg.norm(A.toarray(), axis=1, keepdims=True)
        np.testing.assert_allclose(
            L, A.toarray() / np.where(norm > 0, norm, 1), atol=1e-7
        )
        assert L.dtype == np.float32
    assert S.l2_rows(sp.csr_matrix((3, 3), dtype=np.float32)).nnz == 0
    # no overflow of squares
    assert abs(S.l2_rows(A * np.float32(1e25)) - S.l2_rows(A)).max() < 1e-6


# libpecos' example, whole numbers in
def test_softmax_of_rows_has_libpecos_values():
    A = sp.csr_matrix(
        (
            np.array([1, 2, 3, 4, 5, 6]),
            np.array([0, 2, 2, 0, 1, 2]),
            np.array([0, 2, 3, 6]),
        ),
        shape=(3, 3),
    )
    np.testing.assert_allclose(
        S.softmax_rows(A).toarray(),
        [
            [0.2689414214, 0, 0.7310585786],
            [0, 0, 1],
            [0.0900305732, 0.2447284711, 0.6652409558],
        ],
        atol=1e-6,
    )
    assert S.softmax_rows(A * 1000).toarray()[0].tolist() == [0, 0, 1]
    assert S.softmax_rows(sp.csr_matrix((2, 2))).nnz == 0


def test_rows_and_columns_are_multiplied_by_factors():
    A = np.array([[-5.0, 1, 0, 10], [0, 2, 0, 1], [-10, 11, 2, 0]])
    v, w = np.array([3.0, 4, 5]), np.array([3.0, 4, 5, 6])
    R, C = S.scale_rows(sp.csr_matrix(A), v), S.scale_columns(sp.csc_matrix(A), w)
    assert isinstance(R, sp.csr_matrix) and isinstance(C, sp.csc_matrix)
    np.testing.assert_array_equal(R.toarray(), A * v[:, None])
    np.testing.assert_array_equal(C.toarray(), A * w)
    np.testing.assert_array_equal(S.scale_columns(A, w), A * w)
    np.testing.assert_array_equal(
        S.scale_rows(sp.csc_matrix(A), v).toarray(), A * v[:, None]
    )
    with pytest.raises(ValueError, match="factors"):
        S.scale_columns(sp.csc_matrix(A), v)


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_stacks_are_those_of_numpy(make):
    A = np.array([[-5.0, 1, 0, 10], [0, 2, 0, 1], [-10, 11, 2, 0]])
    X = make(A)
    for ours, numpy in ((S.hstack, np.hstack), (S.vstack, np.vstack)):
        B = ours([X, X])
        assert type(B) is type(X) and B.dtype == X.dtype
        np.testing.assert_array_equal(
            B.toarray() if sp.issparse(B) else B, numpy([A, A])
        )
    B = S.block_diag([X, X])
    assert B.format == ("csc" if make is sp.csc_matrix else "csr")
    np.testing.assert_array_equal(B.toarray(), np.block([[A, 0 * A], [0 * A, A]]))
    assert B.dtype == X.dtype
    with pytest.raises(ValueError, match="nothing"):
        S.hstack([])
    with pytest.raises(ValueError, match="number of columns"):
        S.vstack([X, X[:, :2]])


def test_stacks_keep_the_order_within_a_row():
    P, Q = S.ordered(some(6, 9, 0.6)), S.ordered(some(6, 9, 0.6, seed=1))
    np.testing.assert_array_equal(
        S.vstack([P, Q]).indices, np.concatenate([P.indices, Q.indices])
    )
    np.testing.assert_array_equal(
        S.block_diag([P, Q]).indices, np.concatenate([P.indices, Q.indices + 9])
    )
    H = S.hstack([P, Q])
    for i in range(6):
        left, right, both = (
            A.indices[A.indptr[i] : A.indptr[i + 1]] for A in (P, Q, H)
        )
        np.testing.assert_array_equal(both, np.concatenate([left, right + 9]))


def test_rows_are_taken_in_the_order_asked_for():
    A = np.array([[-5.0, 1], [0, 2], [2, 0], [1.2, 0]])
    dense, sparse = S.take_rows([A, sp.csr_matrix(A)], [0, 2, 1])
    assert type(dense) is np.ndarray and type(sparse) is sp.csr_matrix
    np.testing.assert_array_equal(dense, A[[0, 2, 1]])
    np.testing.assert_array_equal(sparse.toarray(), A[[0, 2, 1]])
    for bad in ([4], [-1]):
        with pytest.raises(ValueError, match="rows 0 to 3 only"):
            S.take_rows([A], bad)


def test_rows_and_columns_that_are_not_chosen_become_zero():
    B = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 0]])
    for kind in ("coo", "csr", "csc"):
        kept = S.only(sp.coo_matrix(B).asformat(kind), [1, 2], [0, 2])
        assert kept.format == kind
        np.testing.assert_array_equal(
            kept.toarray(),
            B * np.isin(range(4), [1, 2])[:, None] * np.isin(range(4), [0, 2]),
        )


# Best first


@pytest.mark.parametrize("k", [None, 1, 3, 60, 2000])
@pytest.mark.parametrize("columns", [8, 1500])
def test_rows_are_ordered_as_python_sorts_them(k, columns):
    # many equal scores
    rng = np.random.default_rng(columns)
    P = some(12, columns, 0.9, seed=3)
    P.data = rng.integers(0, 9, P.nnz).astype(np.float32) / 4
    P = S.vstack([P, sp.csr_matrix((1, columns), dtype=np.float32)])
    shuffled = P.copy()
    for i in range(13):
        at = slice(P.indptr[i], P.indptr[i + 1])
        p = rng.permutation(at.stop - at.start)
        shuffled.indices[at], shuffled.data[at] = P.indices[at][p], P.data[at][p]
    best, columnwise = S.ordered(shuffled, k), S.ordered(shuffled.T, k)
    assert isinstance(best, sp.csr_matrix)
    assert isinstance(columnwise, sp.csc_matrix)
    np.testing.assert_array_equal(best.indices, columnwise.indices)
    for i in range(13):
        given = slice(P.indptr[i], P.indptr[i + 1])
        kept = slice(best.indptr[i], best.indptr[i + 1])
        row = sorted(zip(-P.data[given], P.indices[given]))[:k]
        assert best.indices[kept].tolist() == [j for _, j in row]
        assert best.data[kept].tolist() == [-s for s, _ in row]


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix])
def test_the_example_of_libpecos_is_ordered_the_same(make):
    A = make(
        (
            np.array([1, 2, 3, 4, 5, 6]),
            np.array([0, 2, 2, 0, 1, 2]),
            np.array([0, 2, 3, 6]),
        ),
        shape=(3, 3),
    )
    B = S.ordered(A)
    assert isinstance(B, make)
    assert B.data.tolist() == [2, 1, 3, 6, 5, 4]
    assert B.indices.tolist() == [2, 0, 2, 2, 1, 0]
    np.testing.assert_array_equal(A.toarray(), B.toarray())
    with pytest.raises(ValueError, match="1 scores are NaN"):
        S.ordered(make(np.array([[1, np.nan]])))


def test_the_strongest_entries_stay():
    X = np.array([[-5.0, 1, 2, 10], [-4, 2, 0, 1], [-10, 11, 2, 1]])
    np.testing.assert_array_equal(
        S.strongest(X, 2, batch=2).toarray(),
        [[-5, 0, 0, 10], [-4, 2, 0, 0], [-10, 11, 0, 0]],
    )
    np.testing.assert_array_equal(S.strongest(X, 1000, batch=1000).toarray(), X)
    np.testing.assert_array_equal(S.strongest(X).toarray(), X)
    X = np.random.default_rng(0).normal(size=(40, 17))
    cut = -np.sort(-abs(X), axis=1)[:, 4:5]
    np.testing.assert_array_equal(
        S.strongest(X, 5, batch=7).toarray(), X * (abs(X) >= cut)
    )


# libpecos' example to 1e-9, then a random one
def test_inner_products_have_libpecos_values():
    X = sp.csr_matrix(np.array([[1, 0], [0.5, 0.5], [0, 1]], np.float32))
    Y = sp.csr_matrix(np.array([[0.5, 0], [0, 1], [1, 0], [0, 0.5]], np.float32))
    for x in (X, X.toarray()):
        for y in (Y.T, Y.toarray().T):
            np.testing.assert_allclose(
                S.inner_products(
                    x, y, np.array([0, 1, 2], np.uint32), np.array([1, 2, 3], np.uint32)
                ),
                [0, 0.5, 0.5],
                atol=1e-9,
            )
    A, B = some(30, 20), some(20, 40, kind="csc")
    rng = np.random.default_rng(0)
    r, c = rng.integers(0, 30, 500), rng.integers(0, 40, 500)
    np.testing.assert_allclose(
        S.inner_products(A, B, r, c, batch=64), (A @ B).toarray()[r, c], atol=1e-6
    )
    with pytest.raises(ValueError, match="do not fit"):
        S.inner_products(A, B.T, r, c)


# libpecos' example to 1e-9, then random ones
def test_products_have_libpecos_values():
    X = sp.csr_matrix(np.array([[1, 0], [0.5, 0.5], [0, 1]], np.float32))
    Y = sp.csr_matrix(np.array([[0.5, 0], [0, 1], [1, 0], [0, 0.5]], np.float32))
    np.testing.assert_allclose(
        S.product(X, Y.T, threads=2).toarray(),
        [[0.5, 0, 1, 0], [0.25, 0.5, 0.5, 0.25], [0, 1, 0, 0.5]],
        atol=1e-9,
    )
    for seed, (n, m, d, density) in enumerate(
        [
            (1, 1, 1, 1),
            (50, 40, 30, 0.2),
            (7, 300, 900, 0.05),
            (300, 9, 4, 0.01),
            (0, 3, 4, 0.5),
            (3, 0, 4, 0.5),
            (3, 4, 0, 0.5),
        ]
    ):
        A, B = some(n, m, density, seed), some(m, d, density, seed + 1)
        exact = A.toarray().astype(np.float64) @ B.toarray()
        for threads in (1, 3):
            P = S.product(A, B, threads)
            assert P.has_sorted_indices and P.dtype == np.float32 and P.shape == (n, d)
            np.testing.assert_allclose(P.toarray(), exact, atol=1e-6)
            assert P.nnz == (abs(A) @ abs(B)).nnz
    with pytest.raises(ValueError, match="do not fit"):
        S.product(X, Y)


# Files of matrices


@pytest.mark.parametrize(
    "A",
    [
        some(30, 20),
        some(30, 20, kind="csc"),
        sp.csr_matrix((3, 4), dtype=np.float32),
        some(9, 9, dtype=np.float64),
        some(9, 9).toarray(),
        np.zeros((0, 3), np.float32),
    ],
    ids=["csr", "csc", "empty", "float64", "dense", "no rows"],
)
def test_a_matrix_comes_back(A, tmp_path):
    file = tmp_path / "A.some.name"
    S.save_matrix(file, A)
    assert [p.name for p in tmp_path.iterdir()] == ["A.some.name"]
    for mmap in (False, True):
        B = S.load_matrix(file, mmap=mmap)
        assert type(B) is type(A) or isinstance(B, np.memmap)
        assert B.dtype == A.dtype
        np.testing.assert_array_equal(
            B.toarray() if sp.issparse(B) else B, A.toarray() if sp.issparse(A) else A
        )
    if sp.issparse(A):
        assert sp.load_npz(file).format == A.format


def test_files_of_scipy_are_read(tmp_path):
    for A in (
        some(9, 7),
        some(9, 7, kind="csc"),
        some(9, 7, kind="coo"),
        sp.csr_array(some(9, 7)),
    ):
        for compressed in (False, True):
            sp.save_npz(tmp_path / "A.npz", A, compressed=compressed)
            for mmap in (False, True) if A.format != "coo" else (False,):
                B = S.load_matrix(tmp_path / "A.npz", mmap=mmap)
                assert isinstance(B, (sp.csr_matrix, sp.csc_matrix))
                assert B.has_sorted_indices
                np.testing.assert_array_equal(B.toarray(), A.toarray())


def test_mapped_matrices_are_aligned_and_the_file_stays(tmp_path):
    A = some(300, 200)
    S.save_matrix(tmp_path / "A.npz", A)
    B = S.load_matrix(tmp_path / "A.npz", mmap=True)
    B.data[:] = 0
    assert B.data.ctypes.data % 64 == 0
    assert B.indices.ctypes.data % 64 == 0
    assert type(B.data) is np.ndarray
    np.testing.assert_array_equal(
        S.load_matrix(tmp_path / "A.npz").toarray(), A.toarray()
    )


class Trap:
    "A pickle that would tell on the reader."

    def __reduce__(self):
        return (pytest.fail, ("code in a matrix file was executed",))


def test_files_that_cannot_be_are_refused(tmp_path):
    S.save_matrix(tmp_path / "A.npz", some(300, 200))
    whole = (tmp_path / "A.npz").read_bytes()
    np.save(tmp_path / "trap.npy", np.array([Trap()], object), allow_pickle=True)
    np.savez(
        tmp_path / "trap.npz", data=np.array([Trap()], object), format=np.array(b"csr")
    )
    B = some(5, 5, 0.9).copy()
    B.indices[0] = 77
    S.save_matrix(tmp_path / "outside.npz", B)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "nothing.npz").write_bytes(b"")
    for size in (10, 500, len(whole) // 2, len(whole) - 30):
        (tmp_path / f"cut{size}.npz").write_bytes(whole[:size])
    for file in tmp_path.iterdir():
        if file.name == "A.npz":
            continue
        with pytest.raises(ValueError, match="holds no sound matrix"):
            S.load_matrix(file)
        if file.name != "outside.npz":
            with pytest.raises(ValueError, match="holds no sound matrix"):
                S.load_matrix(file, mmap=True)
    with pytest.raises(FileNotFoundError, match="no such matrix file"):
        S.load_matrix(tmp_path / "none.npz")


def test_fixtures_of_libpecos_are_read(mirror):
    folder = mirror / "ranking" / "pecos-tst-data"
    if not folder.exists():
        pytest.skip("no pecos-tst-data in the mirror")
    found = [S.load_matrix(p) for p in sorted(folder.rglob("*.npz"))]
    assert len(found) > 10
    assert all(isinstance(A, (sp.csr_matrix, sp.csc_matrix)) for A in found)


# Looked at once


def looks(monkeypatch):
    "How often SciPy looks at every index of a matrix, by the place of its values."
    found = {}
    look = sp.csr_matrix.check_format

    def counted(self, full_check=True):
        if full_check:
            place = self.data.ctypes.data
            found[place] = found.get(place, 0) + 1
        return look(self, full_check=full_check)

    monkeypatch.setattr(sp.csr_matrix, "check_format", counted)
    return found


def test_a_matrix_is_looked_at_once_in_a_training_and_once_in_a_prediction(monkeypatch):
    X, Y = some(300, 50), S.binary(some(300, 40, 0.1, seed=1))
    found = looks(monkeypatch)
    model = XRLinear.train(X, Y, leaf=5, branches=4, progress=False)
    assert found[X.data.ctypes.data] == found[Y.data.ctypes.data] == 1
    assert set(found.values()) == {1}
    found.clear()
    model.predict(X)
    assert found == {X.data.ctypes.data: 1}


@pytest.mark.parametrize("make", [sp.csr_matrix, np.ascontiguousarray])
def test_what_was_checked_is_known_and_the_callers_own_matrix_is_not(make):
    A = make(some(6, 4, 0.9).toarray())
    X = S.as_features(A)
    assert S.is_checked(X) and not S.is_checked(A)
    assert S.as_features(X) is X
    assert np.shares_memory(X.data, A.data)
    # what a user changes between two calls is seen
    (A.data if sp.issparse(A) else A)[...] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        S.as_features(A)


def test_a_change_loses_the_note():
    X = S.as_features(some(6, 4, 0.9))
    for other in (X.copy(), X[:3], 2 * X, X.T, pickle.loads(pickle.dumps(X))):
        assert not S.is_checked(other)
    X.data = X.data * np.nan
    with pytest.raises(ValueError, match="NaN"):
        S.as_features(X)
    assert not S.is_checked(None) and not S.is_checked("X")


def test_checked_labels_are_features_too_and_not_the_other_way_round():
    Y = S.as_labels(some(6, 4, 0.9))
    assert S.as_labels(Y) is Y and S.as_features(Y) is Y
    X = S.as_features(sp.csr_matrix([[1.0, -1]]))
    with pytest.raises(ValueError, match="values below 0"):
        S.as_labels(X)
    with pytest.raises(ValueError, match="6 rows, the features have 3"):
        S.as_labels(Y, rows=3)
    with pytest.raises(ValueError, match="4 features, 5 are expected"):
        S.as_features(Y, features=5)


def test_rows_of_a_checked_matrix_can_be_vouched_for(monkeypatch):
    X = S.as_features(some(6, 4, 0.9))
    found = looks(monkeypatch)
    part = S.checked(X[:3])
    assert S.as_features(part) is part and not found
    assert not S.is_checked(part, labels=True)


def test_notes_go_with_their_matrices():
    for _ in range(50):
        S.as_features(some(6, 4, 0.9))
    # whatever takes their places next is unknown
    fresh = [some(6, 4, 0.9) for _ in range(50)]
    assert not any(S.is_checked(A) for A in fresh)


# Where blocks meet


def test_blocks_of_rows_become_one_matrix():
    A = some(9, 7)
    blocks = [S.arrays(A[i : i + 4]) for i in (0, 4, 8)]
    np.testing.assert_array_equal(
        S.csr_of_blocks(blocks, (9, 7)).toarray(), A.toarray()
    )
    assert S.csr_of_blocks(blocks, (12, 7))[9:].nnz == 0
    assert S.csr_of_blocks([], (3, 2)).shape == (3, 2)
