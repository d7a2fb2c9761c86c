"""Ranking under rough handling: single rows, copies, damaged folders, wrong settings.

Also masks, relevance with zeros and unusual indices.
"""

import copy
import json
import os
import pickle
import resource

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip(
    "numba", reason="ranking needs numba: pip install 'forecastlab[ranking]'"
)

from forecastlab.core.basics import LabError
from forecastlab.core import sparse
from forecastlab.core.sparse import cores, save_matrix
from forecastlab.ranking.beam import beam_search
from forecastlab.ranking.chunks import Chunks
from forecastlab.ranking.index import make_chain
from forecastlab.ranking.linear import train_layer
from forecastlab.ranking.metrics import judge, table
from forecastlab.ranking.natural import unbalanced_kmeans
from forecastlab.ranking.two_means import hierarchical_kmeans
from forecastlab.ranking.xrlinear import XRLinear
from toys import unsealed

rng = np.random.default_rng(0)
labels, words = 24, 60
Y = sp.csr_matrix(
    (np.ones(300, np.float32), np.arange(300) % labels, np.arange(301)),
    shape=(300, labels),
)
X = sp.csr_matrix(
    Y @ sp.random(labels, words, 0.2, "csr", np.float32, np.random.default_rng(1))
    + sp.random(300, words, 0.05, "csr", np.float32, np.random.default_rng(2)),
    dtype=np.float32,
)
X.sort_indices()
easy = dict(leaf=3, branches=2, beam=3, k=5, progress=False, threads=1)


@pytest.fixture(scope="module")
def model():
    return XRLinear.train(X, Y, **easy)


def same(P, Q):
    np.testing.assert_array_equal(P.indices, Q.indices)
    np.testing.assert_allclose(P.data, Q.data, atol=1e-6)
    assert P.shape == Q.shape and list(P.indptr) == list(Q.indptr)


# ---- one row


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"k": 2},
        {"beam": 1},
        {"beam": [1, 2, 2]},
        {"beam": np.array([2, 1, 3])},
        {"post": "log-sigmoid"},
        {"k": 30, "beam": 50, "post": "noop"},
    ],
)
def test_one_row_is_answered_as_in_a_batch(model, how):
    batch = model.predict(X[:20], **how)
    for i in range(20):
        for row in (
            X[i],
            X[i].toarray(),
            X[i].astype(float),
            X[i].tocsc(),
            X[i].toarray().astype(float),
        ):
            same(model.predict(row, **how), batch[i])
    same(
        model.predict(sp.csr_matrix((1, words), dtype=np.float32), **how),
        beam_search(
            sp.csr_matrix((1, words), dtype=np.float32),
            model.layers,
            *(
                [
                    [
                        *(
                            how.get("beam")
                            if np.ndim(how.get("beam", 3))
                            else [how.get("beam", 3)] * 3
                        ),
                        9,
                    ]
                ]
            ),
            how.get("k", 5),
            how.get("post", "l3-hinge"),
        ),
    )


def test_answers_of_single_rows_are_independent(model):
    a, b = model.predict(X[0]), model.predict(X[1])
    before = a.data.copy()
    a.data[:] = 7
    assert not np.shares_memory(a.data, b.data)
    np.testing.assert_array_equal(model.predict(X[0]).data, before)
    a.sort_indices()


def test_untidy_single_rows_take_the_long_way(model):
    row = X[3]
    half = sp.csr_matrix(
        (
            np.r_[row.data, row.data] / 2,
            np.r_[row.indices, row.indices][::1],
            [0, 2 * row.nnz],
        ),
        shape=row.shape,
    )
    same(model.predict(half.astype(np.float32)), model.predict(row))
    for wrong in (np.nan, np.inf):
        bad = row.copy()
        bad.data[0] = wrong
        with pytest.raises(ValueError, match="NaN, infinite"):
            model.predict(bad)
        with pytest.raises(ValueError, match="NaN, infinite"):
            model.predict(bad.toarray())
    with pytest.raises(ValueError, match="60 are expected"):
        model.predict(row[:, :59])


def test_kept_queries_follow_the_layers_and_stay_at_home(model):
    mine = copy.copy(model)
    assert "_queries" not in mine.__dict__
    before = mine.predict(X[0])
    assert "_queries" in mine.__dict__
    for other in (
        copy.copy(mine),
        copy.deepcopy(mine),
        pickle.loads(pickle.dumps(mine)),
    ):
        assert "_queries" not in other.__dict__
        same(other.predict(X[0]), before)
    mine.layers = [*mine.layers[:-1], copy.copy(mine.layers[-1])]
    mine.layers[-1].value = 2 * mine.layers[-1].value
    after = mine.predict(X[0])
    same(after, mine.predict(X[:2])[0])
    assert abs(after.data - before.data).max() > 1e-4
    same(model.predict(X[0]), before)


def test_an_upload_belongs_to_its_layers(model):
    mine = copy.copy(model)
    # a device that is named in full is one of the kernels'
    how = dict(k=5, beam=3, device="cpu:0")
    first = mine.predict(X[:4], **how)
    assert "_uploaded" in mine.__dict__
    for other in (copy.copy(mine), pickle.loads(pickle.dumps(mine))):
        assert "_uploaded" not in other.__dict__
    mine.layers = [Chunks.from_csc(2 * c.to_csc(), c.C, c.bias) for c in mine.layers]
    np.testing.assert_allclose(
        mine.predict(X[:4], **how).toarray(),
        mine.predict(X[:4], k=5, beam=3).toarray(),
        atol=1e-5,
    )
    assert abs(first - mine.predict(X[:4], k=5, beam=3)).max() > 1e-3


def test_a_query_refuses_nan_and_adds_what_comes_twice(model):
    q = model.query()
    i, v = X[0].indices, X[0].data
    bad = v.copy()
    bad[1] = np.nan
    with pytest.raises(ValueError, match=f"NaN or infinite, of the features: {i[1]}"):
        q(i, bad)
    np.testing.assert_allclose(
        q(np.r_[i, i], np.r_[v, v] / 2)[1], q(i, v)[1], atol=1e-6
    )


@pytest.mark.parametrize(
    "how",
    [
        {"k": 0},
        {"k": -1},
        {"k": 1.5},
        {"beam": 0},
        {"beam": 2.5},
        {"beam": [1, 2, 0]},
        {"k": "5"},
        {"k": True},
    ],
)
def test_k_and_beam_are_whole_numbers(model, how):
    for ask in (
        lambda: model.query(**how),
        lambda: model.predict(X[0], **how),
        lambda: model.predict(X[:3], **how),
    ):
        with pytest.raises(LabError, match="at least 1"):
            ask()


# ---- folders

DAMAGE = {
    "child": lambda a: a + 5,
    "row": lambda a: a[::-1].copy(),
    "column": lambda a: a + 9,
    "child_ptr": lambda a: a[::-1].copy(),
    "row_ptr": lambda a: np.r_[5, a[1:]],
    "entry_ptr": lambda a: np.r_[0, 10**6 + a[1:-1], a[-1]],
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("how", [{}, dict(mmap=False), dict(check=False)], ids=str)
def test_a_damaged_layer_is_refused(model, tmp_path, name, how):
    c = model.layers[-1]
    (tmp_path / "c").mkdir()
    c.save(tmp_path / "c")
    np.save(tmp_path / "c" / f"{name}.npy", DAMAGE[name](getattr(c, name)))
    with pytest.raises(OSError, match=f"the layer is damaged: .*{name}.npy"):
        Chunks.load(tmp_path / "c", **how).touch()
    # one of an earlier version has no checksums
    unsealed(tmp_path / "c")
    with pytest.raises(ValueError, match="do not fit together|another length"):
        Chunks.load(tmp_path / "c", **how).touch()


def test_a_weight_that_is_no_number_is_refused(model, tmp_path):
    c = model.layers[-1]
    c.save(tmp_path / "c")
    np.save(unsealed(tmp_path / "c") / "value.npy", np.full_like(c.value, np.nan))
    with pytest.raises(ValueError, match="do not fit together: value"):
        Chunks.load(tmp_path / "c")


@pytest.mark.parametrize("sealed", [True, False])
def test_what_was_not_looked_at_is_when_it_is_asked_for(model, tmp_path, sealed):
    "Damage in one cluster: the others answer, and whoever meets it gets one error."
    model.save(tmp_path / "m", mmap=True)
    last = model.layers[-1]
    file = tmp_path / "m" / "ranker" / f"{model.depth - 1}.model" / "chunks" / "row.npy"
    row = last.row.copy()
    row[-1] = 10**6
    np.save(file, row)
    if not sealed:
        unsealed(tmp_path / "m")
    late = XRLinear.load(tmp_path / "m", mmap=True, check=False)
    wide = dict(k=labels, beam=labels)
    x = X[0].indices, X[0].data
    whole = late.layers[-1].clusters - 1
    for ask in (
        lambda: late.predict(X, **wide),
        lambda: late.query(**wide)(*x),
        lambda: late.predict(X[0], **wide),
        lambda: late.predict(X, selected=Y),
        lambda: late.weights,
        lambda: late.save(tmp_path / "again"),
    ):
        with pytest.raises(LabError, match="damaged"):
            ask()
    if not sealed:
        start = sp.csr_matrix(np.eye(1, whole + 1, dtype=np.float32))
        found = beam_search(X[:1], late.layers[-1:], k=3, start=start)
        same(found, beam_search(X[:1], [last], k=3, start=start))


def test_a_negative_row_and_a_feature_too_many_are_refused(model):
    c = copy.copy(model.layers[-1])
    c.row = c.row.copy()
    for wrong in (-1, c.features + 1):
        c.row[0 if wrong < 0 else c.row_ptr[1] - 1] = wrong
        with pytest.raises(ValueError, match="do not fit together: row"):
            c.check()


def test_check_can_be_left_out(model, tmp_path):
    model.save(tmp_path / "m", mmap=True)
    for check in (True, False):
        np.testing.assert_array_equal(
            XRLinear.load(tmp_path / "m", mmap=True, check=check).predict(X).data,
            model.predict(X).data,
        )


@pytest.mark.parametrize(
    "where, change, text",
    [
        ("ranker/param.json", {"depth": None}, "depth is None"),
        ("ranker/param.json", {"depth": "four"}, "depth is 'four'"),
        ("ranker/param.json", {"depth": 3}, "there is a 3.model"),
        ("ranker/param.json", {"nr_labels": 9}, "nr_labels is 9"),
        ("ranker/param.json", {"nr_features": 9}, "nr_features is 9"),
        ("ranker/1.model/param.json", {"bias": None}, "bias is None"),
        ("ranker/1.model/param.json", {"nr_labels": 9}, "nr_labels is 9"),
        ("ranker/1.model/param.json", {"pred_kwargs": [1]}, "pred_kwargs is"),
        (
            "ranker/1.model/param.json",
            {"pred_kwargs": {"post_processor": "l9-hinge"}},
            "l9-hinge",
        ),
        (
            "ranker/1.model/param.json",
            {"pred_kwargs": {"only_topk": -3}},
            "only_topk is -3",
        ),
        (
            "ranker/1.model/param.json",
            {"pred_kwargs": {"only_topk": "x"}},
            "only_topk is 'x'",
        ),
        ("ranker/1.model/param.json", 7, "no JSON object"),
        ("ranker/param.json", [], "no JSON object"),
        ("param.json", [], "no JSON object"),
    ],
)
def test_malformed_json_is_one_error_that_names_the_file(
    model, tmp_path, where, change, text
):
    model.save(tmp_path / "m")
    path = unsealed(tmp_path / "m") / where
    path.write_text(
        json.dumps(
            json.loads(path.read_text()) | change
            if isinstance(change, dict)
            else change
        )
    )
    with pytest.raises(ValueError, match=text) as e:
        XRLinear.load(tmp_path / "m")
    assert "param.json" in str(e.value)


def test_layers_of_two_models_are_refused(model, tmp_path):
    other = [
        *model.layers[:-1],
        Chunks.from_csc(
            sp.vstack([model.layers[-1].to_csc()[:50], model.layers[-1].to_csc()[-1:]]),
            model.layers[-1].C,
            1.0,
        ),
    ]
    broken = copy.copy(model)
    broken.layers = other
    broken.save(tmp_path / "m")
    with pytest.raises(ValueError, match="has 50 features, the layer above 60"):
        XRLinear.load(tmp_path / "m")


# ---- parts


def test_a_mask_says_which_labels_stay(model):
    mask = np.zeros(labels, bool)
    mask[[3, 7]] = True
    same(model.constrained(mask).predict(X), model.constrained([3, 7]).predict(X))
    same(model.constrained(list(mask)).predict(X), model.constrained({3, 7}).predict(X))
    for wrong in (mask[:5], [1.5], ["3"], [None]):
        with pytest.raises(ValueError, match="mask has shape|whole numbers"):
            model.constrained(wrong)


def test_posts_by_layer_are_cut_and_joined(model):
    posts = ["sigmoid", "l3-hinge", "sigmoid", "l2-hinge"]
    mixed = XRLinear(model.layers, 24, 24, posts)
    top, parts = mixed.cut(2)
    assert top.post == posts[:2] and all(s.post == posts[2:] for s, _ in parts)
    joined = XRLinear.join(top, [s for s, _ in parts], [labels for _, labels in parts])
    assert joined.post == posts
    joined.beam = mixed.beam
    np.testing.assert_allclose(
        joined.predict(X[:9]).toarray(), mixed.predict(X[:9]).toarray(), atol=1e-6
    )
    for wrong in (posts[:2], ["sigmoid"] * 5, ["sigmoid", "l9", "noop", "noop"]):
        with pytest.raises(ValueError, match="post-processor"):
            XRLinear(model.layers, 3, 3, wrong)


# ---- training


@pytest.mark.parametrize(
    "how, text",
    [
        ({"post": "l9-hinge"}, "post-processor"),
        ({"k": 0}, "k must be"),
        ({"beam": 0}, "beam must be"),
        ({"beam": [3, -1, 2]}, "beam must be"),
        ({"beam": (3, 3)}, "2 beams"),
        ({"post": ["sigmoid"] * 2}, "2 post-processors"),
        ({"negatives": "usn"}, "no user_negatives"),
        ({"user_negatives": {0: Y}}, "does not ask"),
        ({"seed": -1}, "seed"),
        ({"label_features": np.ones((9, 3))}, "label_features has 9 rows"),
    ],
)
def test_wrong_settings_are_refused_before_training(how, text):
    def never(*a, **b):
        raise AssertionError("training began")

    with pytest.raises(ValueError, match=text):
        XRLinear.train(X, Y, **{**easy, "trainer": never, **how})


@pytest.mark.parametrize("beam", [[4, 3, 2], (4, 3, 2), np.array([4, 3, 2])])
def test_beams_by_layer_come_in_any_container(beam):
    assert XRLinear.train(
        X, Y, **{**easy, "beam": beam, "negatives": "TFN+man"}
    ).beam == [4, 3, 2]


def test_relevance_may_be_zero():
    R = Y.copy()
    R.data[::3] = 0
    one = XRLinear.train(
        X, Y, "ova", R=R, rel_mode="ranker-only", progress=False
    ).weights[0]
    bare = R.copy()
    bare.eliminate_zeros()
    two = XRLinear.train(
        X, Y, "ova", R=bare, rel_mode="ranker-only", progress=False
    ).weights[0]
    assert abs(one - two).max() == 0
    assert (
        abs(one - XRLinear.train(X, Y, "ova", progress=False).weights[0]).max() > 1e-3
    )
    XRLinear.train(X, Y, R=R, rel_mode="induce", **easy)
    more = R.tolil()
    more[0, 1] = 2.0
    with pytest.raises(
        ValueError, match="R has a cost for 1 places where Y has no positive"
    ):
        XRLinear.train(
            X, Y, "ova", R=more.tocsr(), rel_mode="ranker-only", progress=False
        )
    with pytest.raises(ValueError, match="below 0"):
        XRLinear.train(X, Y, "ova", R=-Y, rel_mode="ranker-only", progress=False)


def test_an_index_may_be_a_list_of_codes():
    for index in (
        lambda Z: [3 * (i % 4) for i in range(labels)],
        [3 * (i % 4) for i in range(labels)],
        np.arange(labels) % 4 * 3,
    ):
        assert make_chain(index, X, Y)[-1].shape == (labels, 4)
    with pytest.raises(ValueError, match="codes must be"):
        make_chain([0.5] * labels, X, Y)
    for build in (hierarchical_kmeans, unbalanced_kmeans):
        with pytest.raises(ValueError, match="seed must be a whole number"):
            build(X, seed=-1)


def test_all_cores_are_minus_one():
    every = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    assert cores() == cores(-1) == every and cores(3) == 3 and sparse.cores is cores
    for wrong in (-2, 1.5, "2"):
        with pytest.raises(ValueError, match="threads must be"):
            cores(wrong)
    C = np.ones((labels, 1), np.float32)
    assert (
        abs(
            train_layer(X, Y, C, threads=-1).to_csc()
            - train_layer(X, Y, C, threads=1).to_csc()
        ).max()
        == 0
    )


def test_threads_change_no_prediction(model):
    same(model.predict(X, threads=-1), model.predict(X, threads=1))
    same(
        model.predict(X, selected=Y, threads=-1),
        model.predict(X, selected=Y, threads=1),
    )
    assert hierarchical_kmeans(X, leaf=50, threads=-1)


# ---- metrics and commands


def test_a_label_named_twice_is_refused():
    P = sp.csr_matrix(
        (
            np.array([0.9, 0.8, 0.7], np.float32),
            np.array([2, 2, 1]),
            np.array([0, 2, 3]),
        ),
        shape=(2, 3),
    )
    T = np.eye(3)[:2]
    with pytest.raises(ValueError, match="name 1 labels twice, in rows: 0"):
        judge(T, P, 2)
    judge(T, sp.csr_matrix((P.data, np.array([2, 1, 1]), P.indptr), shape=P.shape), 2)
    for wrong in ([0, 1], [], [1.5], 0):
        with pytest.raises(ValueError, match="k must be whole numbers"):
            table(T, T, k=wrong)


@pytest.mark.parametrize("options", ["-b 0", "-k -4", "-k 0"])
def test_commands_refuse_before_anything_is_overwritten(model, tmp_path, options, xr):
    save_matrix(tmp_path / "X.npz", X)
    save_matrix(tmp_path / "Y.npz", Y)
    model.save(tmp_path / "m")
    before = (tmp_path / "m/ranker/param.json").stat().st_mtime_ns
    files = f"-x {tmp_path}/X.npz -m {tmp_path}/m"
    code, _, err = xr(f"train {files} -y {tmp_path}/Y.npz {options}")
    assert code
    assert "must be at least 1" in err
    assert (tmp_path / "m/ranker/param.json").stat().st_mtime_ns == before
    code, *_ = xr(f"predict {files} {options}")
    assert code


def test_two_thousand_million_columns_take_little_memory():
    rng = np.random.default_rng(0)
    X = sp.random(40, 30, 0.2, "csr", np.float32, rng)
    Y = sp.random(40, 12, 0.2, "csr", np.float32, rng)
    places = X.indices.astype(np.int64) * 70_000_000
    wide = sp.csr_matrix((X.data, places, X.indptr), shape=(40, 2**31 - 1))
    how = dict(leaf=3, branches=2, threads=1, progress=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = XRLinear.train(wide, Y, **how)
    found, same = model.predict(wide), XRLinear.train(X, Y, **how).predict(X)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert np.array_equal(found.indices, same.indices)
    assert np.array_equal(found.data, same.data)
    assert after - before < 1e6  # kilobytes
    with pytest.raises(LabError, match="at most .* of them have an instance"):
        XRLinear.train(X, sp.csr_matrix((Y.data, Y.indices, Y.indptr), (40, 2**30)))
