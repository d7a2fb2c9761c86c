"""Trees over labels: balanced two-means against a plain oracle.

Also libpecos' expected values, checks and files.
"""

import hashlib
import json
import math

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose
from sklearn.preprocessing import normalize

from forecastlab.core.basics import LabError
from forecastlab.ranking.chain import check_chain, from_clusters, from_leaf_codes
from forecastlab.ranking.chain import label_chain, load_chain, matching_chain, merged
from forecastlab.ranking.chain import parent_matrix, relevance_chain, save_chain
from forecastlab.ranking.index import INDEXERS, make_chain
from forecastlab.ranking.labels import pifa
from forecastlab.ranking.natural import unbalanced_kmeans
from forecastlab.ranking.taxonomy import from_taxonomy
from forecastlab.ranking.two_means import codes_of, halved, hierarchical_kmeans
from toys import unsealed

C0 = sp.csc_matrix(np.ones((2, 1), np.float32))
C1 = sp.csc_matrix(np.repeat(np.eye(2, dtype=np.float32), 2, 0))
C2 = sp.csc_matrix(np.repeat(np.eye(4, dtype=np.float32), 2, 0))
CHAIN = [C0, C1, C2]


def equal(a, b):
    return len(a) == len(b) and all(
        x.shape == y.shape and (x != y).nnz == 0 for x, y in zip(a, b)
    )


def groups(C):
    return [C.indices[a:b].tolist() for a, b in zip(C.indptr, C.indptr[1:])]


def vectors(seed, n, d, density=0.05, signed=False):
    rng = np.random.default_rng(seed)
    Z = sp.random(n, d, density, "csr", np.float32, rng)
    if signed:
        Z.data -= 0.5
    return normalize(Z)


def draws(seed, n):
    return np.random.RandomState(seed).randint(0, 2**32, n, dtype=np.uint32).tolist()


def below(bits, n):
    q = 0xFFFFFFFF // n
    while (v := bits.pop(0)) >= q * n:
        pass
    return v // q


def unit(v):
    """The vector brought to length 1.

    Squares are added up one after the other in float32, divided in double precision.
    """
    square = np.cumsum(v * v, dtype=np.float32)[-1]
    return (
        (v * (1 / np.sqrt(np.float64(square)))).astype(np.float32) if square > 0 else v
    )


def plain_tree(Z, depth, spherical, seed, most=20):
    """Steps 3 to 5 of the method, in plain NumPy: every centre added up in float32, all
    rows sorted.
    """
    Z = Z.toarray() if sp.issparse(Z) else Z
    seeds, nodes = draws(seed, 2 ** (depth + 1)), [np.arange(len(Z))]
    for level in range(depth):
        new = []
        for k, ids in enumerate(nodes):
            bits = draws(seeds[2**level + k], 64)
            n, h = len(ids), len(ids) // 2
            r = below(bits, n)
            other = (r + 1 + below(bits, n - 1)) % n
            c = Z[ids[r]] - Z[ids[other]]
            for it in range(most):
                if it:
                    if spherical:
                        centre = lambda a: unit(np.cumsum(Z[a], 0, np.float32)[-1])
                        c = centre(ids[h:]) - centre(ids[:h])
                    else:
                        right = np.float32(1 / (n - h)) * Z[ids[h:]]
                        left = np.float32(-1 / h) * Z[ids[:h]]
                        both = np.concatenate([right, left])
                        c = np.cumsum(both, 0, np.float32)[-1]
                s = np.cumsum(Z[np.sort(ids)] * c, 1, np.float32)[:, -1]
                ranked = np.sort(ids)[np.argsort(s, kind="stable")]
                before = ids[:h]
                ids = np.concatenate([np.sort(ranked[:h]), np.sort(ranked[h:])])
                if (before == ids[:h]).all():
                    break
            new += [ids[:h], ids[h:]]
        nodes = new
    return nodes


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize(
    "seed, n, d, depth, signed",
    [
        (0, 200, 50, 3, False),
        (1, 333, 900, 4, False),
        (2, 150, 40, 2, True),
        (3, 9, 5, 3, False),
        (4, 600, 30, 3, False),
    ],
)
def test_two_means_is_the_plain_method_label_for_label(
    seed, n, d, depth, signed, spherical
):
    Z = vectors(seed, n, d, 0.2, signed)
    # labels without instances
    Z = sp.diags((np.arange(n) % 7 > 0).astype(np.float32)).tocsr() @ Z
    Z.eliminate_zeros()
    ours = halved(Z, depth, spherical, seed, threads=1)
    assert [a.tolist() for a in ours] == [
        a.tolist() for a in plain_tree(Z, depth, spherical, seed)
    ]


def test_doubts_are_settled_by_adding_afresh():
    "Rows that nearly repeat lie closer together than rounding."
    rng = np.random.default_rng(0)
    Z = normalize(
        sp.csr_matrix(
            np.repeat(rng.random((30, 40)), 20, 0) + 1e-6 * rng.random((600, 40))
        ).astype(np.float32)
    )
    assert [a.tolist() for a in halved(Z, 3, seed=5, threads=1)] == [
        a.tolist() for a in plain_tree(Z, 3, True, 5)
    ]


def test_many_features_take_wide_indices():
    Z = vectors(3, 120, 70_000, 0.001)
    narrow = Z[:, np.unique(Z.indices)]
    assert narrow.shape[1] < 2**16
    assert equal(
        hierarchical_kmeans(Z, leaf=10, branches=4),
        hierarchical_kmeans(narrow, leaf=10, branches=4),
    )


def test_threads_and_density_change_nothing_but_seeds_do():
    Z = vectors(7, 500, 80)
    tree = hierarchical_kmeans(Z, leaf=20, threads=1)
    assert equal(tree, hierarchical_kmeans(Z, leaf=20, threads=3))
    assert equal(tree, hierarchical_kmeans(Z.toarray(), leaf=20))
    assert not equal(tree, hierarchical_kmeans(Z, leaf=20, seed=1))
    assert equal(
        hierarchical_kmeans(Z, leaf=20, sampling=True, threads=1),
        hierarchical_kmeans(Z, leaf=20, sampling=True, threads=2),
    )


@pytest.mark.parametrize(
    "n, leaf, branches, min_codes, shapes",
    [
        (3994, 100, 16, None, [(4, 1), (64, 4), (3994, 64)]),
        (20, 10, 16, None, [(2, 1), (20, 2)]),
        (20, 20, 16, None, [(20, 1)]),
        (1, 1, 2, None, [(1, 1)]),
        (
            64,
            1,
            2,
            None,
            [(2, 1), (4, 2), (8, 4), (16, 8), (32, 16), (64, 32), (64, 64)],
        ),
        (640, 10, 8, 64, [(64, 1), (640, 64)]),
    ],
)
def test_a_tree_has_the_shapes_asked_for(n, leaf, branches, min_codes, shapes):
    tree = hierarchical_kmeans(
        vectors(0, n, 30, 0.2), branches, leaf, min_codes=min_codes
    )
    assert [C.shape for C in tree] == shapes
    assert max(np.diff(tree[-1].indptr)) - min(np.diff(tree[-1].indptr)) <= max(
        1, math.log2(max(2, tree[-1].shape[1]))
    )


def test_two_means_part_as_libpecos_parts():
    """test_xmc::test_hierarchicalkmeans and _sampling;
    test_cluster_util::test_hierarchical_kmeans.
    """
    Z = normalize(
        sp.csr_matrix([[1, 0], [0.95, 0.05], [0.9, 0.1], [0, 1]], dtype=np.float32)
    )
    assert sorted(groups(hierarchical_kmeans(Z, leaf=3)[-1])) == [[0, 1], [2, 3]]
    two, four = hierarchical_kmeans(Z, 2, 1), hierarchical_kmeans(Z, 4, 1)
    assert (two[-1] != four[-1]).nnz == 0 and (two[1] @ two[0] != four[0]).nnz == 0
    Z = normalize(
        sp.csr_matrix([[1, 0], [0.99, 0.02], [0.01, 1.03], [0, 1]], dtype=np.float32)
    )
    assert sorted(
        groups(hierarchical_kmeans(Z, leaf=2, sampling=(0.75, 1, 1))[-1])
    ) == [[0, 1], [2, 3]]
    Z = sp.csr_matrix([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    assert [
        C.toarray().tolist() for C in hierarchical_kmeans(Z, leaf=2, threads=1)
    ] == [[[1], [1]], [[1, 0], [1, 0], [0, 1], [0, 1]]]


def test_a_chain_is_filed_as_libpecos_files_it(tmp_path):
    "test_cluster_util::test_cluster_chain."
    save_chain(tmp_path / "chain", CHAIN)
    head = json.loads((tmp_path / "chain" / "config.json").read_text())
    assert head == {"len": 3, "sealed": True}
    assert equal(load_chain(tmp_path / "chain"), CHAIN)
    assert equal(from_clusters(C2, 2), CHAIN)
    assert equal(load_chain(tmp_path / "chain" / "C2.npz", 2), CHAIN)
    Y = sp.csr_matrix(
        [[1, 0, 0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]], dtype=np.float32
    )
    M2 = sp.csr_matrix([[0, 1, 0, 0], [0, 0, 0, 1]], dtype=np.float32)
    for found, expected in zip(
        matching_chain({0: Y, 1: M2, 2: None}, CHAIN),
        [[[3], [2]], [[2, 1], [1, 1]], [[1, 1, 1, 0], [0, 1, 0, 1]]],
    ):
        assert_allclose(found.toarray(), expected)
    R = sp.csr_matrix(
        [[2, 0, 0, 0, 0, 0.5, 0, 0], [0, 0, 0.1, 0, 0, 0, 0, 0]], dtype=np.float32
    )
    last = [[0.8, 0, 0, 0, 0, 0.2, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]]
    expected = [[[0.5, 0.5], [1, 0]], [[0.8, 0, 0.2, 0], [0, 1, 0, 0]], last]
    for found, e in zip(
        relevance_chain(
            {0: R, 2: sp.csr_matrix([[0.2, 0.2], [10, 0]]), 3: None}, CHAIN, "l1"
        ),
        expected,
    ):
        assert_allclose(found.toarray(), e, rtol=1e-6)
    found = relevance_chain(R, CHAIN, "l1", induce=False)
    assert found[:2] == [None, None]
    assert_allclose(found[2].toarray(), last, rtol=1e-6)
    assert matching_chain(None, CHAIN, 2) == [None] * 3
    assert relevance_chain(R, CHAIN)[0].toarray().tolist() == [
        [2, 0.5],
        [np.float32(0.1), 0],
    ]


def test_layers_are_told_by_parents_and_merged_from_below():
    assert equal([parent_matrix(np.arange(8) // 2, 4)], [C2])
    assert codes_of([np.array([2, 0]), np.array([1])], 3).tolist() == [0, 1, 0]
    short = merged(list(CHAIN), 2)
    assert [C.shape for C in short] == [(4, 1), (8, 4)]
    assert equal(merged(list(CHAIN), 3), CHAIN)


def test_a_chain_is_not_replaced_unless_asked_for(tmp_path):
    save_chain(tmp_path, CHAIN)
    with pytest.raises(FileExistsError, match="already"):
        save_chain(tmp_path, CHAIN[:2])
    save_chain(tmp_path, CHAIN[:2], overwrite=True)
    assert equal(load_chain(tmp_path), CHAIN[:2])


def test_a_label_chain_counts_labels_below():
    Y = sp.csr_matrix(np.random.default_rng(0).random((9, 8)) < 0.4).astype(np.float32)
    for A, width in zip(label_chain(Y, CHAIN), (4, 2, 1)):
        assert A.format == "csc" and A.has_sorted_indices
        assert_allclose(A.toarray(), Y.toarray().reshape(9, -1, width).sum(-1))


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("leaf", [3, 40, 1000])
def test_unbalanced_kmeans_keeps_every_label_and_the_bound(leaf, spherical):
    Z = vectors(5, 300, 60)
    Z = sp.vstack([sp.csr_matrix((120, 60), dtype=np.float32), Z[120:]], "csr")
    tree = unbalanced_kmeans(Z, 8, leaf, spherical)
    check_chain(tree, 300)
    assert max(np.diff(tree[-1].indptr)) <= leaf and len(tree) <= 4
    assert equal(tree, unbalanced_kmeans(Z, 8, leaf, spherical, threads=2))
    assert len(unbalanced_kmeans(Z, 8, leaf, layers=2)) <= 2


def test_unbalanced_kmeans_finds_groups():
    sizes = [5, 15, 40, 80]
    Z = np.repeat(np.eye(4), sizes, 0) + 0.01 * np.random.default_rng(0).random(
        (140, 4)
    )
    found = groups(unbalanced_kmeans(Z, leaf=80)[-1])
    group = np.repeat(np.arange(4), sizes)
    assert all(len(set(group[ids])) == 1 for ids in found)


def test_the_taxonomy_of_wordnet_becomes_a_tree(mirror):
    lines = (
        (mirror / "ranking" / "wordnet-hypernyms" / "label_parents.tsv")
        .read_text()
        .splitlines()
    )
    parents = [
        [int(p) for p in line.split("\t")[1].replace(",", " ").split()]
        for line in lines
    ]
    tree = from_taxonomy(parents)
    check_chain(tree, len(parents))
    assert max(np.diff(tree[-1].indptr)) <= 100 and len(tree) <= 6
    cluster = tree[-1].tocsr().indices
    kept = np.mean(
        [cluster[i] in {cluster[p] for p in ps} for i, ps in enumerate(parents) if ps]
    )
    # most labels stay in a cluster with a parent
    assert kept > 0.9


def test_a_taxonomy_in_every_form_gives_the_same_tree():
    parents = [[], [0], [1, 4], [1], [0], [4], []]
    as_matrix = sp.csr_matrix(
        (np.ones(6), ([1, 2, 2, 3, 4, 5], [0, 1, 4, 1, 0, 4])), shape=(7, 7)
    )
    tree = from_taxonomy(parents, leaf=3)
    assert equal(tree, from_taxonomy(dict(enumerate(parents)), leaf=3))
    assert equal(tree, from_taxonomy(as_matrix, leaf=3))
    assert equal(
        from_taxonomy({1: [0], 2: [1]}, labels=4), from_taxonomy([[], [0], [1], []])
    )
    assert [1, 2, 3] in groups(tree[-1])
    Z = np.eye(7)
    Z[2] = Z[4] = Z[5]
    assert [2, 4, 5] in groups(from_taxonomy(parents, leaf=3, Z=Z)[-1])
    assert [C.shape for C in from_taxonomy([None] * 5, leaf=10)] == [(5, 1)]
    star = from_taxonomy([[]] + [[0]] * 999, leaf=50)
    assert max(np.diff(star[-1].indptr)) <= 50
    # one below the other
    line = from_taxonomy([[]] + [[i] for i in range(400)], leaf=50, layers=4)
    assert check_chain(line, 401)
    assert len(line) <= 4
    assert max(np.diff(line[-1].indptr)) <= 50


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: from_taxonomy([[1], [2], [0]]), "runs in a loop: 0, 1, 2, 0"),
        (lambda: from_taxonomy([[0]]), "runs in a loop: 0, 0"),
        (
            lambda: from_taxonomy([[], [5], [-1]]),
            "2 labels have parents that are no label: 1, 2",
        ),
        (lambda: from_taxonomy([[], [0]], labels=3), "2 labels, 3 are expected"),
        (
            lambda: from_clusters(sp.csc_matrix((3, 2))),
            "3 labels are in no cluster: 0, 1, 2",
        ),
        (lambda: from_clusters(np.ones((3, 2))), "3 labels are in two or more"),
        (
            lambda: from_clusters(np.array([[1, 0], [1, 0]])),
            "1 clusters of layer 0 are empty: 1",
        ),
        (lambda: from_clusters(C2, 1), "branches must be a whole number, at least 2"),
        (lambda: hierarchical_kmeans(np.eye(5), seed=-1), "seed must be a whole"),
        (lambda: make_chain(None, seed=0.5), "seed must be a whole"),
        (lambda: unbalanced_kmeans(np.eye(5), layers=1), "layers must be a whole"),
        (lambda: from_leaf_codes([0, -1]), "one whole number"),
        (lambda: from_leaf_codes([0.5, 1]), "one whole number"),
        (lambda: check_chain([C0, C2]), "layer 1 has 4 columns, the layer above has 2"),
        (lambda: check_chain(CHAIN, 7), "ends in 8 labels, Y has 7"),
        (lambda: check_chain([]), "list of matrices"),
        (lambda: check_chain("chain"), "list of matrices"),
        (
            lambda: check_chain([C0, sp.csc_matrix((4, 2)), C2]),
            "4 nodes of layer 1 are in no cluster",
        ),
        (lambda: hierarchical_kmeans(np.eye(5), leaf=0), "leaf must be a whole number"),
        (lambda: hierarchical_kmeans(np.eye(5) * np.nan), "NaN"),
        (
            lambda: hierarchical_kmeans(np.eye(9), leaf=2, sampling=(0, 1, 1)),
            "sampling must be",
        ),
        (
            lambda: hierarchical_kmeans(np.eye(3), leaf=1),
            "3 labels cannot fill 4 clusters",
        ),
        (
            lambda: matching_chain({1: np.ones((2, 3))}, CHAIN),
            r"shape \(2, 3\), expected \(2, 4\)",
        ),
        (lambda: matching_chain({4: np.ones((2, 1))}, CHAIN), "no such layer: 4"),
        (
            lambda: matching_chain({0: np.ones((2, 8)), 1: np.ones((3, 4))}, CHAIN),
            "expected",
        ),
        (lambda: relevance_chain(-np.ones((2, 8)), CHAIN), "below 0"),
        (lambda: relevance_chain(np.ones((2, 8)), CHAIN, "l3"), "unknown norm: l3"),
        (lambda: make_chain("tree", None, np.ones((2, 8))), "unknown index: tree"),
        (
            lambda: make_chain(None, Z=np.eye(3), Y=np.ones((2, 8))),
            "vectors for 3 labels, Y has 8",
        ),
        (lambda: make_chain(C1, Y=np.ones((2, 8))), "ends in 4 labels, Y has 8"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(LabError, match=message):
        call()


def test_a_broken_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        load_chain(tmp_path)
    save_chain(tmp_path, CHAIN)
    (tmp_path / "C1.npz").write_bytes((tmp_path / "C1.npz").read_bytes()[:60])
    with pytest.raises(OSError, match="the chain is damaged: .*C1.npz"):
        load_chain(tmp_path)
    # of an earlier version, or of libpecos
    unsealed(tmp_path)
    with pytest.raises(ValueError, match="C1.npz"):
        load_chain(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        load_chain(tmp_path)


def test_anything_may_be_an_index():
    rng = np.random.default_rng(0)
    X = sp.random(60, 30, 0.2, "csr", np.float32, rng)
    Y = sp.csr_matrix((rng.random((60, 16)) < 0.2).astype(np.float32))
    for index in (
        *INDEXERS,
        None,
        np.arange(16) // 4,
        lambda Z: np.arange(Z.shape[0]) % 5,
        lambda Z: from_leaf_codes(np.arange(16) // 2, branches=2),
        sp.csr_matrix(np.eye(4)[np.arange(16) % 4]),
    ):
        assert make_chain(index, X, Y, leaf=4, branches=4)[-1].shape[0] == 16
    assert (
        [C.shape for C in make_chain("ova", X, Y)]
        == [C.shape for C in make_chain([], X, Y)]
        == [(16, 1)]
    )
    assert [
        C.shape for C in make_chain(np.arange(16) // 4, X, Y, branches=2, shallow=True)
    ] == [(16, 4)]
    assert equal(
        make_chain(None, X, Y, leaf=4), hierarchical_kmeans(pifa(Y, X), leaf=4)
    )
    assert equal(
        make_chain("hierarchicalkmeans", X, Y, np.eye(16), leaf=4),
        hierarchical_kmeans(np.eye(16), leaf=4),
    )


# sha256 of the cluster numbers that libpecos 1.2.8 gives (PIFA, 16 branches, leaf 100,
# one thread), as "spherical seed"
PEER = {
    "bibtex": {
        "True 0": "580a5473224c637c",
        "True 7": "0960344d4fc30f33",
        "False 0": "e839452921bc2178",
        "False 7": "058ab1bdff4d284f",
        "True sample": "eb24726a5c371eba",
    },
    "finna-yso-4k": {
        "True 0": "e923f44a68671d67",
        "True 7": "56e1c8bd1b4ccfcc",
        "False 0": "0fc7253d926610b1",
        "False 7": "2a89756ac5714eff",
        "True sample": "97101efc973f9c92",
    },
}


@pytest.mark.parametrize("name", ["bibtex", "finna-yso-4k"])
def test_the_tree_is_libpecos_tree(mirror, name):
    X, Y = (sp.load_npz(mirror / "ranking" / name / f"{k}_trn.npz") for k in "XY")
    Z = pifa(Y, X)
    for key, digest in PEER[name].items():
        spherical, seed = key.split()
        tree = hierarchical_kmeans(
            Z,
            leaf=10 if name == "bibtex" else 100,
            spherical=spherical == "True",
            seed=int(seed) if seed != "sample" else 0,
            sampling=seed == "sample",
        )
        assert (
            hashlib.sha256(
                tree[-1].tocsr().indices.astype(np.int32).tobytes()
            ).hexdigest()[:16]
            == digest
        ), key


def test_the_callers_matrices_stay_as_they_are():
    weights = sp.csc_matrix(np.array([[0.5, 0], [0, 2], [3, 0]], np.float32))
    tree = from_clusters(weights)
    assert tree[-1].toarray().tolist() == [[1, 0], [0, 1], [1, 0]]
    assert weights.toarray().tolist() == [[0.5, 0], [0, 2], [3, 0]]
    assert check_chain([C2], 8)[0].data.tolist() == [1] * 8
