"Labels come and go: random checks of the grown layers, bad input, statistics on disk."

import numpy as np
import pytest
from scipy import sparse

from forecastlab.ranking.chunks import Chunks
from forecastlab.ranking.growth import Statistics, add_labels, drop_labels, health
from forecastlab.ranking.growth import place, rename_labels, widened
from forecastlab.ranking.linear import train_layer
from forecastlab.ranking.solvers import LinearSettings
from forecastlab.ranking.xrlinear import XRLinear
from toys import unsealed

ARRAYS = ("child_ptr", "child", "row_ptr", "row", "entry_ptr", "column", "value")


def world(n=600, d=90, labels=60, seed=0):
    "Instances whose first words tell their labels."
    rng = np.random.default_rng(seed)
    Y = sparse.lil_matrix((n, labels), dtype=np.float32)
    X = np.zeros((n, d), np.float32)
    for i in range(n):
        mine = rng.choice(labels, rng.integers(1, 4), replace=False)
        Y[i, mine] = 1
        X[i, mine % d] = 1
        X[i, rng.integers(0, d, 3)] += 0.5
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return sparse.csr_matrix(X), Y.tocsr()


@pytest.fixture(scope="module")
def grown():
    X, Y = world()
    old, new = Y[:, :50].tocsr(), Y[:, 50:].tocsr()
    fresh = np.diff(new.indptr) > 0
    model = XRLinear.train(X[~fresh], old[~fresh], leaf=8, branches=3, progress=False)
    statistics = Statistics.of(model, X[~fresh], old[~fresh])
    return model, statistics, X, old, new, fresh


def same(a, b):
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ARRAYS)


@pytest.mark.parametrize("seed", range(5))
def test_widened_chunks_are_those_of_the_whole_matrix(seed):
    rng = np.random.default_rng(seed)
    d, nodes = rng.integers(3, 40), rng.integers(2, 30)
    clusters, n = rng.integers(1, 6), rng.integers(0, 9)
    bias = float(seed % 2)
    parent, leaf = rng.integers(0, clusters, nodes), rng.integers(0, clusters, n)

    def tree(p):
        return sparse.csc_matrix(
            (np.ones(len(p), np.float32), (np.arange(len(p)), p)),
            shape=(len(p), clusters),
        )

    def W(k, s):
        return sparse.random(
            d + int(bias), k, 0.3, random_state=s, format="csc", dtype=np.float32
        )

    layer, added = Chunks.from_csc(W(nodes, seed), tree(parent), bias), W(n, seed + 100)
    wide = widened(layer, added, leaf)
    whole = Chunks.from_csc(
        sparse.hstack([layer.to_csc(), added], format="csc"),
        tree(np.append(parent, leaf)),
        bias,
    )
    assert same(wide, whole)
    assert (wide.nodes, wide.features, wide.bias) == (
        whole.nodes,
        whole.features,
        whole.bias,
    )


def test_without_a_nudge_old_scores_keep_every_bit(grown):
    model, statistics, X, old, new, fresh = grown
    g = add_labels(model, X[fresh], old[fresh], new[fresh], statistics, hold=None)
    assert all(a is b for a, b in zip(g.model.layers[:-1], model.layers[:-1]))
    assert g.nudged == []
    wide = [1000] * (model.depth - 1)
    before = model.predict(X, k=50, beam=wide).toarray()
    after = g.model.predict(X, k=60, beam=wide).toarray()
    assert np.array_equal(after[:, :50], before)
    assert np.array_equal(g.labels, np.arange(50, 60))


def test_a_nudge_changes_only_the_ancestors_it_names(grown):
    model, statistics, X, old, new, fresh = grown
    copy = [{n: getattr(c, n).copy() for n in ARRAYS} for c in model.layers]
    given = model, X[fresh], old[fresh], new[fresh], statistics
    g = add_labels(*given, neighbours=False)
    assert not len(g.nudged[-1])
    for was, now, nudged in zip(model.layers[:-1], g.model.layers, g.nudged):
        moved = np.flatnonzero(np.diff((was.to_csc() != now.to_csc()).tocsc().indptr))
        assert len(nudged) and set(moved) <= set(nudged)
        rebuilt = Chunks.from_csc(now.to_csc(), now.C, now.bias)
        assert same(now, rebuilt)
    assert (g.model.layers[-1].to_csc()[:, :50] != model.layers[-1].to_csc()).nnz == 0
    # the old model is untouched
    assert all(
        np.array_equal(getattr(c, n), a[n])
        for c, a in zip(model.layers, copy)
        for n in ARRAYS
    )
    far = add_labels(
        model, X[fresh], old[fresh], new[fresh], statistics, hold=1e9
    ).model
    # only words that nobody used may move far, a missing weight by less than they do
    for was, now in zip(model.layers[:-1], far.layers[:-1]):
        assert abs(was.to_csc() - now.to_csc()).max() < 0.3


def test_ancestors_that_remember_everything_are_those_of_training():
    X, Y = world(400, seed=4)
    tight = LinearSettings(eps=1e-5, max_iter=2000, threshold=0)
    old, new = Y[:, :50].tocsr(), Y[:, 50:].tocsr()
    model = XRLinear.train(X, old, leaf=10, branches=8, solver=tight, progress=False)
    g = add_labels(model, X, old, new, solver=tight, hold=0.0, company=None).model
    chain = [layer.C for layer in g.layers]
    again = XRLinear.train(X, Y, chain, solver=tight, progress=False)
    assert model.depth == 2
    assert abs(g.layers[0].to_csc() - again.layers[0].to_csc()).max() < 5e-3
    alone = add_labels(model, X, old, new, solver=tight, hold=None).model
    assert abs(alone.layers[0].to_csc() - again.layers[0].to_csc()).max() > 0.1
    # the new rankers, too: every row of the leaf is a negative, whatever it carries
    theirs = again.layers[1].to_csc()[:, 50:]
    assert abs(g.layers[1].to_csc()[:, 50:] - theirs).max() < 5e-3


def test_neighbours_that_answer_new_instances_learn_that_they_are_not_theirs(grown):
    model, _, X, old, new, fresh = grown
    all_rows = Statistics.of(model, X[~fresh], old[~fresh])
    given = model, X[fresh], old[fresh], new[fresh], all_rows
    g = add_labels(*given)
    before, after = model.layers[-1].to_csc(), g.model.layers[-1].to_csc()[:, :50]
    moved = np.flatnonzero(np.diff((before != after).tocsc().indptr))
    assert len(moved) and set(moved) <= set(g.nudged[-1])


def test_where_nothing_is_new_nothing_changes(grown):
    model, _, X, old, new, fresh = grown
    nothing = sparse.csr_matrix((X[~fresh].shape[0], 2), dtype=np.float32)
    g = add_labels(model, X[~fresh], old[~fresh], nothing).model
    for was, now in zip(model.layers[:-1], g.layers[:-1]):
        assert same(was, now)
    assert (g.layers[-1].to_csc()[:, :50] != model.layers[-1].to_csc()).nnz == 0


def test_statistics_of_an_earlier_version_are_refused(grown, tmp_path):
    grown[1].save(tmp_path / "s")
    # an earlier version kept no checksums
    unsealed(tmp_path / "s")
    (tmp_path / "s" / "statistics.json").write_text('{"format": 1, "layers": 2}')
    with pytest.raises(ValueError, match="earlier version"):
        Statistics.load(tmp_path / "s")


def test_with_everything_given_statistics_are_made_on_the_way(grown):
    model, _, X, old, new, fresh = grown
    a = add_labels(model, X, old, new)
    b = add_labels(
        model,
        X[fresh],
        old[fresh],
        new[fresh],
        Statistics.of(model, X, old),
        np.flatnonzero(fresh),
    )
    assert np.array_equal(a.leaf, b.leaf)
    assert all(same(x, y) for x, y in zip(a.model.layers, b.model.layers))


def test_a_whole_leaf_gives_the_rankers_of_training():
    "One leaf, no sampling, no threshold: the new columns are those of train_layer."
    X, Y = world(300, seed=3)
    tight = LinearSettings(eps=1e-5, max_iter=2000, threshold=0)
    new = Y[:, 50:].tocsr()
    old = Y[:, :50].tocsr()
    carries = np.diff(new.indptr) > 0
    model = XRLinear.train(X, old, "ova", solver=tight, progress=False)
    g = add_labels(
        model,
        X[carries],
        old[carries],
        new[carries],
        Statistics.of(model, X, old, most=10**6),
        np.flatnonzero(carries),
        solver=tight,
    ).model
    whole = train_layer(
        X,
        sparse.csc_matrix(Y),
        sparse.csc_matrix(np.ones((60, 1), np.float32)),
        settings=tight,
    ).to_csc()
    assert abs(g.layers[-1].to_csc() - whole).max() < 2e-3


@pytest.mark.parametrize("solver", ["l1-svm", "logistic", "l2-svm-primal"])
def test_other_solvers_train_the_new_rankers(grown, solver):
    model, statistics, X, old, new, fresh = grown
    g = add_labels(
        model,
        X[fresh],
        old[fresh],
        new[fresh],
        statistics,
        solver=LinearSettings(solver, threshold=0.01, max_nonzeros=7),
    ).model
    per = np.diff(g.layers[-1].to_csc()[:, 50:].indptr)
    assert (per > 0).all() and per.max() <= 7


def test_new_labels_are_found(grown):
    model, statistics, X, old, new, fresh = grown
    g = add_labels(model, X[fresh], old[fresh], new[fresh], statistics).model
    P = g.predict(X[fresh], k=5)
    truth = new[fresh]
    found = sum(
        truth[i, j - 50] > 0
        for i in range(P.shape[0])
        for j in P.indices[P.indptr[i] : P.indptr[i + 1]]
        if j >= 50
    )
    assert found > 0.8 * truth.nnz


def test_a_text_stands_in_for_instances(grown):
    model, statistics, X, *_ = grown
    none = lambda n: sparse.csr_matrix((0, n), dtype=np.float32)
    texts = sparse.csr_matrix(np.eye(2, X.shape[1], 60, dtype=np.float32))
    g = add_labels(model, none(X.shape[1]), None, none(2), statistics, texts=texts)
    P = g.model.predict(texts, k=3)
    assert [50 + i in P.indices[P.indptr[i] : P.indptr[i + 1]] for i in range(2)] == [
        True,
        True,
    ]
    bare = add_labels(model, none(X.shape[1]), None, none(2), statistics)
    assert bare.model.labels == 52 and len(set(bare.leaf)) == 1
    assert np.array_equal(place(model, none(X.shape[1]), none(2)), bare.leaf)


def test_dropped_labels_leave_the_others_alone(grown):
    model, _, X, *_ = grown
    wide = [1000] * (model.depth - 1)
    before = model.predict(X, k=50, beam=wide).toarray()
    small = drop_labels(model, [0, 7, 49])
    assert small.labels == 50
    assert not np.isin([0, 7, 49], small.predict(X, k=50).indices).any()
    compact, kept = drop_labels(model, [0, 7, 49], compact=True)
    after = compact.predict(X, k=47, beam=wide).toarray()
    assert compact.labels == 47
    assert np.array_equal(kept, np.setdiff1d(range(50), [0, 7, 49]))
    assert np.allclose(after, before[:, kept], atol=1e-6)
    assert drop_labels(model, []).labels == 50


def test_statistics_survive_the_disk_and_damage_is_named(grown, tmp_path):
    model, statistics, X, old, new, fresh = grown
    statistics.save(tmp_path / "s")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        statistics.save(tmp_path / "s")
    statistics.save(tmp_path / "s", overwrite=True)
    again = Statistics.load(tmp_path / "s")
    a = add_labels(model, X[fresh], old[fresh], new[fresh], statistics).model
    b = add_labels(model, X[fresh], old[fresh], new[fresh], again).model
    assert all(same(x, y) for x, y in zip(a.layers, b.layers))
    file = tmp_path / "s" / "sample.npy"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(OSError, match="the statistics is damaged: .*sample.npy"):
        Statistics.load(tmp_path / "s")
    unsealed(tmp_path / "s")
    with pytest.raises(ValueError, match="holds no statistics"):
        Statistics.load(tmp_path / "s")
    np.save(file, statistics.sample + 10**6)
    with pytest.raises(ValueError, match="holds no statistics: sample"):
        Statistics.load(tmp_path / "s")
    file.unlink()
    with pytest.raises(FileNotFoundError, match="sample.npy is missing"):
        Statistics.load(tmp_path / "s")


def test_samples_are_members_and_overlap(grown):
    model, _, X, old, new, fresh = grown
    Xo, Yo = X[~fresh], old[~fresh]
    s = Statistics.of(model, Xo, Yo, most=5)
    M = (Yo @ model.layers[-1].C).toarray() > 0
    for c in range(len(s.size)):
        rows = s.rows[s.sample[s.start[c] : s.start[c + 1]]]
        assert M[rows, c].all() and len(rows) == min(5, M[:, c].sum()) == len(set(rows))
    assert np.array_equal(s.size, M.sum(0))
    assert (s.instances != Xo[s.rows]).nnz == 0
    assert len(s.rows) < len(s.sample)


@pytest.mark.parametrize(
    "change, error",
    [
        (dict(Y=sparse.csr_matrix((600, 49))), "Y has 49 labels, the model 50"),
        (dict(Y=sparse.csr_matrix((5, 50))), "5 rows"),
        (dict(new=sparse.csr_matrix((7, 10))), "7 rows"),
        (dict(X=np.full((600, 90), np.nan)), "NaN"),
        (dict(X=np.ones((600, 3))), "3 features"),
        (dict(hold=-1), "hold must be"),
        (dict(hold=np.nan), "hold must be"),
        (dict(leaf=[0]), "1 leaves for 10"),
        (dict(leaf=[10**6] * 10), "leaves"),
        (dict(leaf=[-1] * 10), "leaves"),
        (dict(texts=np.ones((2, 90))), "2 texts for 10"),
    ],
)
def test_bad_input_is_refused(grown, change, error):
    model, _, X, old, new, _ = grown
    with pytest.raises(ValueError, match=error):
        add_labels(**{**dict(model=model, X=X, Y=old, new=new), **change})


def test_other_mistakes_are_refused(grown):
    model, statistics, X, old, new, fresh = grown
    other = XRLinear.train(X, old, leaf=30, branches=2, progress=False)
    with pytest.raises(ValueError, match="another model"):
        add_labels(other, X[fresh], None, new[fresh], statistics)
    with pytest.raises(ValueError, match="rows has 3 numbers"):
        add_labels(model, X[fresh], None, new[fresh], statistics, rows=[1, 2, 3])
    with pytest.raises(ValueError, match="outside 0..49: 50"):
        drop_labels(model, [50])
    with pytest.raises(ValueError, match="no labels of these names: z"):
        rename_labels(["a"], {"z": "b"})
    with pytest.raises(ValueError, match="two labels: b"):
        rename_labels(["a", "b"], {"a": "b"})


def test_health_counts_what_is_new(grown):
    model, statistics, X, old, new, fresh = grown
    g = add_labels(model, X[fresh], old[fresh], new[fresh], statistics)
    table = health(g.model, X, sparse.hstack([old, new], format="csr"), since=50)
    assert table.new.sum() == 10
    assert table.labels.sum() == 60
    assert table.reach.between(0, 1).all()
