"Label vectors against slow oracles, libpecos' expected values, and bad input."

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose
from sklearn.preprocessing import normalize

from forecastlab.ranking.labels import LABEL_VECTORS, label_embedding, pifa, pifa_lf
from forecastlab.ranking.labels import pii, spectrum

X = sp.csr_matrix(np.eye(3, dtype=np.float32))
Y = sp.csr_matrix(
    np.array([[1, 1, 1, 1, 0], [1, 1, 0, 1, 1], [0, 1, 1, 1, 1]], np.float32)
)
KNOWN = np.array(
    [
        [0.70710678, 0.70710678, 0],
        [0.57735027] * 3,
        [0.70710678, 0, 0.70710678],
        [0.57735027] * 3,
        [0, 0.70710678, 0.70710678],
    ]
)


def dense(A):
    return A.toarray() if sp.issparse(A) else np.asarray(A)


@pytest.mark.parametrize("features", [X, X.toarray()], ids=["sparse", "dense"])
@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray], ids=["sparse", "dense"])
def test_label_embedding_has_libpecos_values(features, kind):
    "test_xmc::test_label_embedding."
    V = label_embedding("pifa", Y, features)
    assert_allclose(dense(V), KNOWN, atol=1e-6)
    assert sp.issparse(V) == sp.issparse(features)
    half = kind(KNOWN * 0.5)
    joined = label_embedding("pifa_lf_concat", Y, features, Z=half)
    assert_allclose(dense(joined), np.hstack([KNOWN, KNOWN * 0.5]), atol=1e-6)
    assert sp.issparse(joined) == (sp.issparse(features) or kind is sp.csr_matrix)
    for alpha in (0.3, np.array([0.1, 0.2, 0.3, 0.4, 0.5])):
        mixed = label_embedding(
            "pifa_lf_convex_combine", Y, features, Z=half, alpha=alpha
        )
        a = np.broadcast_to(alpha, 5)[:, None]
        assert_allclose(dense(mixed), a * KNOWN + (1 - a) * KNOWN * 0.5, atol=1e-6)
        assert sp.issparse(mixed) == (sp.issparse(features) and kind is sp.csr_matrix)


def test_pii_is_the_normalized_transpose():
    assert_allclose(pii(Y).toarray(), normalize(Y.T.tocsr()).toarray(), atol=1e-6)
    assert label_embedding("pii", Y).shape == (5, 3)


def test_spectrum_has_libpecos_values():
    "test_smat_util::test_get_cocluster_spectral_embeddings, signs included."
    A = np.array([[0, 1, 0, 1], [3, 0, 3, 0], [1, 0, 0, 1], [3, 0, 3, 0]])
    for graph in (sp.csr_matrix(A), sp.csc_matrix(A), A):
        rows, columns = spectrum(graph, 1)
        assert_allclose(
            rows.ravel(), [0.60162737, -0.13128586, 0.18608776, -0.13128586], atol=1e-6
        )
        assert_allclose(
            columns.ravel(),
            [-0.09449112, 0.66143783, -0.14433757, 0.4330127],
            atol=1e-6,
        )


@pytest.mark.parametrize(
    "seed, n, d, L",
    [
        (0, 30, 40, 50),
        (1, 200, 4097, 30),
        (2, 50, 64, 70),
        (3, 1, 1, 1),
        (4, 400, 9000, 11),
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_pifa_is_its_formula_to_the_last_bit(seed, n, d, L, threads):
    rng = np.random.default_rng(seed)
    A = sp.random(n, d, 0.05, "csr", np.float32, rng)
    B = sp.random(n, L, 0.1, "csr", np.float32, rng)
    Bt = normalize(B).T.tocsr()
    V = np.zeros((L, d), np.float32)
    # float32 sums, instance after instance
    for label in range(L):
        for k in range(Bt.indptr[label], Bt.indptr[label + 1]):
            V[label] += Bt.data[k] * A[[Bt.indices[k]]].toarray()[0]
    V, ours = normalize(sp.csr_matrix(V)), pifa(B, A, threads=threads)
    assert ours.has_sorted_indices
    assert (
        np.diff(ours.indices)[
            np.diff(np.repeat(np.arange(L), np.diff(ours.indptr))) == 0
        ]
        > 0
    ).all()
    np.testing.assert_array_equal(ours.toarray(), V.toarray())
    assert_allclose(
        pifa(B, A, normalize=False).toarray(),
        normalize((B.T @ A).tocsr()).toarray(),
        atol=1e-6,
    )


def test_empty_rows_empty_labels_and_duplicates_have_label_vectors():
    B = sp.csr_matrix((np.ones(3), [2, 0, 2], [0, 1, 1, 3, 3]), shape=(4, 4))
    # unsorted, 5 twice, an empty row
    A = sp.csr_matrix((np.ones(4), [5, 1, 5, 0], [0, 3, 3, 4, 4]), shape=(4, 6))
    V = pifa(B, A)
    assert np.diff(V.indptr).tolist() == [1, 0, 3, 0]
    assert_allclose(V.toarray()[0], [1, 0, 0, 0, 0, 0])
    assert V.shape == (4, 6) and pifa(sp.csr_matrix((4, 4)), A).nnz == 0
    assert pifa(sp.csr_matrix((4, 0)), A).shape == (0, 6)


def test_signed_features_may_add_up_to_zero():
    A = sp.csr_matrix(np.array([[1, -2], [-1, 2.0]]))
    V = pifa(np.array([[1, 1], [1, 0.0]]), A, normalize=False)
    assert_allclose(V.toarray(), [[0, 0], [1 / 5**0.5, -2 / 5**0.5]], atol=1e-6)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: label_embedding("pifaa", Y, X), "Choose pii, pifa"),
        (lambda: label_embedding("pifa", Y), "Pass X"),
        (lambda: label_embedding("pifa_lf_concat", Y, X), "Pass Z="),
        (lambda: pifa(Y, X[:2]), "3 rows"),
        (lambda: pifa(-Y, X), "below 0"),
        (lambda: pifa(Y, X * np.nan), "NaN"),
        (lambda: pifa_lf(Y, X, KNOWN[:4]), "4 rows for 5 labels"),
        (lambda: pifa_lf(Y, X, KNOWN, "sum"), "Choose concat, convex"),
        (lambda: pifa_lf(Y, X, np.ones((5, 4)), "convex"), "4 columns, X has 3"),
        (lambda: pifa_lf(Y, X, KNOWN, "convex", -0.1), "alpha must be"),
        (lambda: pifa_lf(Y, X, KNOWN, "convex", [0.1, 0.2]), "alpha must be"),
        (lambda: spectrum(-Y), "below 0"),
        (lambda: spectrum(Y, 3), "Choose 1 to 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_settings_that_do_not_exist():
    with pytest.raises(TypeError, match="does not take these settings"):
        label_embedding("pii", Y, alpha=0.5)
    assert set(LABEL_VECTORS) >= {
        "pii",
        "pifa",
        "pifa_lf_concat",
        "pifa_lf_convex_combine",
    }


def test_the_fixtures_of_libpecos_are_reproduced(mirror):
    folder = mirror / "ranking" / "pecos-tst-data" / "xmc" / "xlinear"
    A, B, V = (sp.load_npz(folder / f"{name}.npz") for name in ("X", "Y", "L.pifa"))
    assert_allclose(pifa(B, A).toarray(), V.toarray(), atol=1e-6)
