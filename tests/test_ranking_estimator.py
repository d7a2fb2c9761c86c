"""The estimator.

Refits, labels of every kind, scikit-learn, settings, threads, probabilities, relevance,
explanations and reports.
"""

import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

matplotlib.use("Agg")
pytest.importorskip(
    "numba", reason="ranking needs numba: pip install 'forecastlab[ranking]'"
)

from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

from forecastlab.core.basics import LabError
from forecastlab.core.forecaster import load_model
from forecastlab.ranking.calibration import ece, pairs_of
from forecastlab.ranking.ensemble import Ensemble
from forecastlab.ranking.estimator import ExtremeClassifier, add, held_out_parts
from forecastlab.ranking.estimator import label_matrix
from forecastlab.ranking.metrics import precision
from forecastlab.ranking.report import report
from forecastlab.ranking.text import Vectorizer
from forecastlab.ranking.xrlinear import XRLinear
from toys import grouped, unsealed


QUICK = dict(trees=1, leaf=4, branches=2, threads=1)
WORDS = "red blue green small large round flat soft".split()
GOODS = "cup plate spoon lamp chair scarf".split()


@pytest.fixture(scope="module")
def data():
    return *grouped(noise=2), *grouped(120, seed=1, noise=2)


@pytest.fixture(scope="module")
def model(data):
    return ExtremeClassifier(**QUICK | dict(trees=2)).fit(data[0], data[1])


@pytest.fixture(scope="module")
def shop():
    rng = np.random.default_rng(0)
    T = [
        f"{rng.choice(WORDS)} {rng.choice(WORDS)} {g}" for g in GOODS for _ in range(20)
    ]
    return T, [[g] for g in GOODS for _ in range(20)]


# --- refits


def test_a_refit_forgets_the_old_trees(data):
    X, Y, Xt, _ = data
    turned = Y[:, ::-1]
    m = ExtremeClassifier(**QUICK).fit(X, Y)
    m.predict_proba(Xt)
    again, fresh = m.fit(X, turned), ExtremeClassifier(**QUICK).fit(X, turned)
    assert_array_equal(
        again.predict_proba(Xt).toarray(), fresh.predict_proba(Xt).toarray()
    )
    assert_array_equal(again.predict(Xt).toarray(), fresh.predict(Xt).toarray())
    plain = m.set_params(calibrate=False).fit(X, Y)
    with pytest.raises(ValueError, match="calibrate=False"):
        plain.predict_proba(Xt)


@pytest.mark.parametrize("breaks", ["settings", "rows", "trees"])
def test_a_refit_that_fails_leaves_the_old_model_whole(breaks, data, shop, monkeypatch):
    X, Y, Xt, _ = data
    m = ExtremeClassifier(**QUICK).fit(X, Y)
    before = m.predict_proba(Xt).toarray()
    state = {n: id(v) for n, v in vars(m).items() if n.endswith("_")}
    if breaks == "trees":
        from forecastlab.ranking import estimator

        calls = []
        real = estimator.train_trees

        def failing(*matrices, **settings):
            calls.append(1)
            # after the calibration
            return real(*matrices, **settings) if len(calls) < 6 else 1 / 0

        monkeypatch.setattr(estimator, "train_trees", failing)
    with pytest.raises((ValueError, ZeroDivisionError)):
        m.set_params(C=-1 if breaks == "settings" else 0.5).fit(
            shop[0], shop[1][:-1] if breaks == "rows" else shop[1]
        )
    m.set_params(C=0.5)
    assert state == {n: id(v) for n, v in vars(m).items() if n.endswith("_")}
    assert_array_equal(m.predict_proba(Xt).toarray(), before)


# --- labels


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.float32, np.str_, int, str])
def test_labels_of_numpy_are_saved_and_come_back(kind, data, tmp_path):
    X, Y, Xt, _ = data
    lists = [[kind(j) for j in r] for r in np.split(Y.indices, Y.indptr[1:-1])]
    m = ExtremeClassifier(**QUICK, calibrate=False).fit(X, lists)
    assert all(type(c) in (int, float, str) for c in m.classes_)
    m.save(tmp_path / "m")
    again = ExtremeClassifier.load(tmp_path / "m")
    assert list(again.classes_) == list(m.classes_)
    assert again.predict(Xt) == m.predict(Xt)
    assert m.score(X, lists) == again.score(X, lists)
    assert m.explain(X[0], lists[0][0]).path.node.iloc[-1] == list(m.classes_).index(
        lists[0][0]
    )


@pytest.mark.parametrize(
    "y, message",
    [
        ([["a"], [b"b"]], r"b'b'.* rows: 1"),
        ([["a"], b"bc"], r"b'bc'.* rows: 1"),
        ([["a"], [float("nan")], ["b"], [None]], "rows: 1, 3"),
        ([["a"], None], "None.* rows: 1"),
        ([np.bool_(True), np.bool_(False)], "True"),
        ([["a"], [np.bool_(True)]], "rows: 1"),
        ([["a"], [("b", 1)]], r"\('b', 1\).* rows: 1"),
        ([["a"], {"b": 1}], "rows: 1"),
        ([[0, 1], [1, 0]], r"np.array\(y\)"),
        ([[1, 0, 0], [0, 1, 0]], r"np.array\(y\)"),
        ("ab", "y is one str"),
        ([["a"], [np.inf]], "rows: 1"),
        ([["a"], [np.datetime64("2020-01-01")]], "rows: 1"),
    ],
)
def test_labels_that_are_none_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        label_matrix(y)


def test_lists_in_every_form_are_the_same():
    want, names = label_matrix([["b", "a"], [], ["c"]])
    for y in (
        [("b", "a"), (), "c"],
        [{"a", "b"}, set(), {"c"}],
        [np.array(["b", "a"]), np.array([]), np.array("c")],
        pd.Series([["a", "b"], [], ["c"]]),
        [["a", "b", "b"], [], ["c"]],
    ):
        Y, classes = label_matrix(y)
        assert_array_equal(Y.toarray(), want.toarray())
        assert list(classes) == list(names)
    Y, classes = label_matrix([[3, "x"], [1.5]])
    assert list(classes) == [1.5, 3, "x"]
    assert Y.toarray().tolist() == [[0, 1, 1], [1, 0, 0]]
    assert list(label_matrix([["a"], ["q"]], names, "drop")[0].toarray().sum(1)) == [
        1,
        0,
    ]


def test_a_table_of_labels_names_them(data):
    X, Y, Xt, Yt = data
    names = [f"l{j:02d}" for j in range(24)]
    y = pd.DataFrame(Y.toarray().astype(int), columns=names)
    m = ExtremeClassifier(**QUICK, calibrate=False).fit(X, y)
    assert list(m.classes_) == names and m.predict(Xt[:1])[0][0] in names
    turned = pd.DataFrame(Yt.toarray(), columns=names)[names[::-1]]
    assert (
        m.score(Xt, turned)
        == m.score(
            Xt, [[names[j] for j in r] for r in np.split(Yt.indices, Yt.indptr[1:-1])]
        )
        > 0.5
    )
    with pytest.raises(ValueError, match="zeros and ones.*tags"):
        m.fit(X, pd.DataFrame({"tags": [["a"]] * 300}))
    with pytest.raises(ValueError, match="twice: a"):
        m.fit(X, pd.DataFrame(np.eye(300)[:, :2], columns=["a", "a"]))


def test_labels_that_are_numbers_can_be_added(data):
    X, Y, Xt, _ = data
    m = ExtremeClassifier(**QUICK, calibrate=False).fit(
        X, [int(r[0]) for r in np.split(Y.indices, Y.indptr[1:-1])]
    )
    first = [int(r[0]) for r in np.split(Y.indices, Y.indptr[1:-1])]
    new = add(m, sparse.vstack([X, X[:3]], format="csr"), first + [np.int64(99)] * 3)
    assert list(new.classes_) == [*m.classes_, 99]
    assert type(new.classes_[-1]) is int
    assert 99 not in m.classes_


def test_what_cannot_be_added_is_refused(shop, tmp_path):
    texts, labels = list(shop[0]), [list(own) for own in shop[1]]
    m = ExtremeClassifier(**QUICK, calibrate=False).fit(texts, labels)
    m.save(tmp_path / "m")
    for one in (m, ExtremeClassifier.load(tmp_path / "m")):
        with pytest.raises(ValueError, match="model knows: tool"):
            add(one, [*texts, *["zyx qwv"] * 6], [*labels, *[["tool"]] * 6])
        with pytest.raises(ValueError, match="X has 6 rows, the model was trained on"):
            add(one, ["red cup"] * 6, [["tool"]] * 6)
        rows = len(texts) + 6
        with pytest.warns(UserWarning, match="labels that the model knows have no row"):
            add(one, ["red cup"] * rows, [["tool"]] * rows)


def test_a_folder_names_its_own_reader(shop, tmp_path):
    m = tmp_path / "m"
    ExtremeClassifier(**QUICK, calibrate=False).fit(*shop).save(m)
    for load in (XRLinear.load, Ensemble.load, Vectorizer.load, load_model):
        with pytest.raises(
            ValueError, match="ranking.estimator.ExtremeClassifier.load"
        ):
            load(m)
    with pytest.raises(ValueError, match="ranking.ensemble.Ensemble.load"):
        ExtremeClassifier.load(m / "trees")
    for load in (ExtremeClassifier.load, XRLinear.load, Ensemble.load, Vectorizer.load):
        with pytest.raises(TypeError, match="expected a path, got 3"):
            load(3)


# --- what is given as X


def test_one_text_an_empty_list_and_a_missing_text_are_refused(shop):
    m = ExtremeClassifier(**QUICK, calibrate=False).fit(*shop)
    for f in (m.rank, m.predict, m.top, lambda X: m.fit(X, shop[1])):
        with pytest.raises(ValueError, match=r"\[text\]"):
            f("red cup")
        with pytest.raises(ValueError, match="X is empty"):
            f([])
        with pytest.raises(ValueError, match="no texts: 1"):
            f(["red cup", None])
    with pytest.raises(ValueError, match="no texts: 0, 1"):
        m.rank([None, None])
    assert m.predict(pd.Series(["red cup"], index=[7])) == [["cup"]]


def test_columns_are_checked(data):
    X, Y, Xt, _ = data
    names = [f"f{i}" for i in range(X.shape[1])]
    F = pd.DataFrame(X.toarray(), columns=names)
    m = ExtremeClassifier(**QUICK, calibrate=False).fit(F, Y)
    assert list(m.feature_names_in_) == names
    assert_array_equal(m.rank(F).toarray(), m.rank(X).toarray())
    with pytest.raises(ValueError, match="another order"):
        m.rank(F[names[::-1]])
    with pytest.raises(ValueError, match="differ.*f0, g0"):
        m.rank(F.rename(columns={"f0": "g0"}))
    assert not hasattr(m.fit(X, Y), "feature_names_in_")


# --- scikit-learn


def test_scikit_learn_splits_scores_and_searches(data, shop):
    X, Y, Xt, Yt = data
    m = ExtremeClassifier(**QUICK, calibrate=False)
    tags = get_tags(m)
    assert tags.classifier_tags.multi_label
    assert tags.input_tags.sparse
    assert tags.input_tags.string
    assert tags.estimator_type == "classifier"
    for y in (Y.toarray(), Y.toarray().astype(int)):
        found = cross_val_score(m, X, y, cv=3)
        assert np.isfinite(found).all() and found.min() > 0.5
    f1 = cross_val_score(m, X, Y.toarray().astype(int), cv=3, scoring="f1_micro")
    assert f1.min() > 0.4
    search = GridSearchCV(m, {"C": [1e-4, 0.5]}, cv=2).fit(X, Y)
    assert search.best_params_ == {"C": 0.5}
    assert (
        search.score(Xt, Yt) == precision(Yt, search.best_estimator_.rank(Xt, 1), 1)[0]
    )
    pipe = make_pipeline(TfidfVectorizer(), clone(m)).fit(*shop)
    assert pipe.predict(["red cup"]) == [["cup"]]
    scores = cross_val_score(
        pipe, np.array(shop[0], object), label_matrix(shop[1])[0].toarray(), cv=3
    )
    assert np.isfinite(scores).all()


def test_a_rare_label_cannot_be_hit_but_is_scored(shop):
    T = shop[0] + ["violet hat"]
    y = np.array([ls[0] for ls in shop[1]] + ["hat"], object)
    m = ExtremeClassifier(**QUICK, calibrate=False)
    with pytest.warns(UserWarning, match="least populated"):
        found = cross_val_score(m, np.array(T, object), y, cv=3)
    assert np.isfinite(found).all() and found.min() > 0.9
    m.fit(*shop)
    assert m.score(["red cup", "red cup"], [["cup"], ["never seen"]]) == 0.5
    assert m.score(["red cup"], [["never seen", "cup"]]) == 1


def test_rows_are_weighted_or_refused(shop):
    m = ExtremeClassifier(**QUICK, calibrate=False).fit(*shop)
    X, y = ["red cup", "red cup"], [["cup"], ["lamp"]]
    assert m.score(X, y, [3, 1]) == 0.75
    for w in ([1], [0, 0], [-1, 2], [np.nan, 1]):
        with pytest.raises(ValueError, match="sample_weight"):
            m.score(X, y, w)
    with pytest.raises(TypeError):
        m.fit(*shop, sample_weight=np.ones(120))


# --- settings


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(post="l9-hinge"), "unknown post"),
        (dict(post=3), "unknown post"),
        (dict(beam=0), "beam"),
        (dict(beam=2.5), "beam"),
        (dict(k=0), "k must"),
        (dict(trees=0), "trees"),
        (dict(trees=True), "trees"),
        (dict(C=0), "C must"),
        (dict(threshold=2), r"threshold must lie in \[0, 1\]"),
        (dict(C=-1.0), "C must"),
        (dict(C=float("nan")), "C must"),
        (dict(C="1"), "C must"),
        (dict(branches=1), "branches"),
        (dict(leaf=0), "leaf"),
        (dict(how="vote"), "unknown how"),
        (dict(negatives="all"), "unknown negatives"),
        (dict(solver="svm"), "unknown solver"),
        (dict(threshold=-1), "threshold"),
        (dict(threads=0), "threads"),
        (dict(threads=-2), "threads"),
        (dict(seed=-1), "seed"),
    ],
)
def test_settings_are_refused_before_any_work(bad, message):
    with pytest.raises(LabError, match=message):
        ExtremeClassifier(**bad).fit(object(), None)


def answers(settings, data, **fitted):
    m = ExtremeClassifier(
        **dict(trees=2, leaf=4, branches=2, threads=1, calibrate=False) | settings
    ).fit(data[0], data[1], **fitted)
    return m.rank(data[2]).toarray()


@pytest.mark.parametrize(
    "change",
    [
        dict(trees=1),
        dict(trees=3),
        dict(seed=5),
        dict(C=0.05),
        dict(threshold=0.4),
        dict(beam=1),
        dict(k=2),
        dict(post="sigmoid"),
        dict(how="round_robin"),
        dict(negatives="tfn+man"),
        dict(leaf=12),
        dict(branches=4),
        dict(solver="logistic"),
    ],
    ids=str,
)
def test_every_setting_counts(change, data):
    assert not np.array_equal(answers({}, data), answers(change, data))
    assert np.array_equal(answers(change, data), answers(change, data))


def test_label_features_and_the_best_k_count(data):
    odd = np.random.default_rng(9).normal(size=(24, 5)).astype(np.float32)
    assert not np.array_equal(answers({}, data), answers({}, data, label_features=odd))
    with pytest.raises(ValueError, match="label_features has 5"):
        answers({}, data, label_features=odd[:5])


def test_numbers_of_numpy_as_settings_are_saved(data, tmp_path):
    m = ExtremeClassifier(
        trees=np.int64(1),
        leaf=np.int32(4),
        branches=2,
        C=np.float32(0.5),
        calibrate=False,
    ).fit(data[0], data[1])
    m.save(tmp_path / "m")
    assert ExtremeClassifier.load(tmp_path / "m").trees == 1


def test_k_is_checked_and_selected_is_not_cut(model, data):
    X = data[2]
    for k in (0, -1, 1.5, True, "3"):
        for f in (model.rank, model.predict_proba, model.top):
            with pytest.raises(LabError, match="k must be"):
                f(X, k)
    S = sparse.csr_matrix(np.ones((120, 24), np.float32))
    m = ExtremeClassifier(**QUICK, k=3, calibrate=False).fit(data[0], data[1])
    assert (np.diff(m.rank(X, selected=S).indptr) == 24).all()
    assert (np.diff(m.rank(X, 5, selected=S).indptr) == 5).all()
    assert (np.diff(m.rank(X).indptr) == 3).all()


def test_threads_of_a_call_win_and_are_not_saved(model, data, tmp_path, monkeypatch):
    from forecastlab.ranking.xrlinear import XRLinear

    seen = []
    real = XRLinear.predict
    monkeypatch.setattr(
        XRLinear,
        "predict",
        lambda self, X, **o: seen.append(o["threads"]) or real(self, X, **o),
    )
    X = data[2]
    for given, want in ((None, 1), (2, 2), (-1, None)):
        for f in (model.rank, model.predict_proba):
            seen.clear()
            f(X, threads=given)
            assert seen == [want] * 2
    with pytest.raises(ValueError, match="threads"):
        model.rank(X, threads=0)
    model.save(tmp_path / "m")
    assert (
        "threads"
        not in json.loads((tmp_path / "m" / "estimator.json").read_text())["settings"]
    )
    assert ExtremeClassifier.load(tmp_path / "m").threads is None
    seen.clear()
    ExtremeClassifier(**QUICK | dict(threads=-1), calibrate=False).fit(
        data[0], data[1]
    ).rank(X)
    assert seen == [None]


# --- probabilities


def test_few_rows_are_cross_fitted_and_many_are_not():
    X, Y = grouped(600, seed=3, noise=2)
    small = ExtremeClassifier(**QUICK).fit(X[:100], Y[:100])
    assert small.calibration_.facts == dict(rows=100, folds=5)
    for rows, folds in ((7000, 4), (25_000, 1), (10**6, 1)):
        parts = held_out_parts(rows, 0)
        assert len(parts) == folds and sum(map(len, parts)) == 5000
        assert len(np.unique(np.concatenate(parts))) == 5000
    Xt, Yt = grouped(600, seed=4, noise=2)
    p, right, _ = pairs_of(Yt, small.predict_proba(Xt, 5))
    assert ece(p, right) < 0.1
    with pytest.raises(ValueError, match="too few to calibrate"):
        ExtremeClassifier(**QUICK).fit(X[:15], Y[:15])


def test_what_ece_says_of_honest_and_of_boastful_probabilities():
    rng = np.random.default_rng(0)
    p = rng.random(20000)
    y = rng.random(20000) < p
    assert ece(p, y) < 0.015
    assert ece(1 - p, y) > 0.4
    assert ece(np.full(20000, 0.99), y) > 0.45


def test_probabilities_rank_as_scores_do_and_never_tie(model, data):
    for k in (1, 5, 30):
        ranked, P = model.rank(data[2], k), model.predict_proba(data[2], k)
        assert_array_equal(ranked.indices, P.indices)
        assert_array_equal(ranked.indptr, P.indptr)
        inner = np.diff(P.data)[np.diff(np.repeat(range(120), np.diff(P.indptr))) == 0]
        assert (inner < 0).all() and 0 < P.data.min() and P.data.max() < 1


def test_a_single_row_is_answered_as_among_others(model, data):
    X = data[2]
    for k, beam in ((None, None), (1, 3), (50, [2, 2, 4])):
        whole = model.rank(X[:20], k, beam=beam)
        for i in range(20):
            alone = model.rank(X[i], k, beam=beam)
            assert_array_equal(alone.indices, whole[i].indices)
            assert_array_equal(alone.data, whole[i].data)
    # what is not clean takes the long way, and is refused as ever
    bad = X[0].copy()
    bad.data[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.rank(bad)


def test_the_first_answer_keeps_its_promise():
    X, Y = grouped(3000, seed=5, noise=20)
    Xt, Yt = grouped(4000, seed=6, noise=20)
    P = ExtremeClassifier(**QUICK).fit(X, Y).predict_proba(Xt)
    first = P.indptr[:-1]
    _, right, _ = pairs_of(Yt, P)
    assert 0.1 < right[first].mean() < 0.95
    assert abs(P.data[first].mean() - right[first].mean()) < 0.02
    assert ece(P.data[first], right[first]) < 0.035


def test_a_model_of_an_earlier_version_is_refused(model, tmp_path):
    model.save(tmp_path / "m")
    # it kept no checksums
    unsealed(tmp_path / "m")
    file = tmp_path / "m" / "estimator.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(format=1)))
    with pytest.warns(UserWarning, match="no checksums"):
        with pytest.raises(ValueError, match="earlier version"):
            ExtremeClassifier.load(tmp_path / "m")


def test_a_model_that_lost_its_checksums_is_refused(model, tmp_path):
    model.save(tmp_path / "m")
    (tmp_path / "m" / "checksums.json").unlink()
    with pytest.raises(FileNotFoundError, match="its checksums are missing"):
        ExtremeClassifier.load(tmp_path / "m")


def test_a_beam_keeps_probabilities_and_changes_them(model, data):
    wide, narrow = (model.predict_proba(data[2], beam=b).toarray() for b in (None, 1))
    assert not np.array_equal(wide, narrow) and narrow.max() <= 1
    assert not np.array_equal(narrow, model.rank(data[2], beam=1).toarray())


def test_relevance_counts_and_is_checked(data):
    X, Y, Xt, _ = data
    R = Y.copy()
    R.data[:] = np.where(R.indices % 2, 5, 0.2)
    assert_array_equal(answers({}, data), answers({}, data, R=None))
    assert not np.array_equal(answers({}, data), answers({}, data, R=R))
    odd = np.arange(24) % 2 == 1
    lift = answers({}, data, R=R) - answers({}, data)
    assert lift[:, odd].sum() > lift[:, ~odd].sum()
    with pytest.raises(ValueError, match="R has shape"):
        answers({}, data, R=R[:, :5])
    with pytest.raises(ValueError):
        answers({}, data, R=R[:5])
    odds = lambda R: ExtremeClassifier(**QUICK).fit(X, Y, R=R).calibration_.as_json()
    assert odds(None) != odds(R)


# --- explanations and reports


def test_an_explanation_names_the_label_and_the_tree(shop):
    m = ExtremeClassifier(**QUICK | dict(trees=2), calibrate=False).fit(*shop)
    a, b = (m.explain("red cup", "cup", tree=t) for t in (0, 1))
    assert a.verdict.startswith("Tree 0 of 2 (counted from 0): 'cup' is answer 1")
    assert b.verdict.startswith("Tree 1 of 2")
    assert_allclose(a.words.groupby("layer").share.sum(), a.path.margin, atol=1e-3)
    assert "cup" in set(a.words.word)
    mug = m.explain("red cup", "cup", tree=0, name="the mug")
    assert mug.verdict.endswith(a.verdict.split("'cup'")[1])
    assert "the mug" in m.explain("red cup", "cup", name="the mug").verdict
    for t in (2, -1, "x"):
        with pytest.raises(ValueError, match="no tree .*0..1"):
            m.explain("red cup", "cup", tree=t)
    with pytest.raises(ValueError, match="no label 'boat'"):
        m.explain("red cup", "boat")


def test_a_report_on_held_out_rows_is_what_is_measured(model, data):
    X, Y, Xt, Yt = data
    r = report(model, X, Y, Xt, Yt, threads=1)
    yours = [n for n in r.trees.index if "yours" in n]
    assert len(yours) == 1 and "one-vs-rest" in r.trees.index
    first = model.model_.models[0].predict(Xt, k=1)
    assert_allclose(r.trees.loc[yours[0], "P@1"], 100 * precision(Yt, first, 1)[0])
    assert_allclose(r.sizes.loc[1.0, "P@1"], r.trees.loc[yours[0], "P@1"])
    p, right, _ = pairs_of(Yt, model.predict_proba(Xt))
    assert_allclose(r.ece, ece(p, right))
    assert r.ece < 0.12
    assert 50 < model.score(Xt, Yt) * 100 < 100
    assert r.beams.looked_at.iloc[-1] == 1
    assert (r.beams.looked_at.diff()[1:] > 0).all()
    assert "CPU milliseconds" in str(r)
    exact, sure = r.trees.loc["one-vs-rest", "P@1"], r.beams.loc["exact", "P@1"]
    assert abs(exact - sure) < 15


def test_files_with_relevance_and_predictions_with_their_kind(tmp_path):
    pytest.importorskip("papermill", reason="papermill is in the `run` extra")
    from toys import walk

    rng = np.random.default_rng(0)
    goods = rng.integers(0, 6, 120)

    def lines(w):
        return "".join(
            f"{g}::{w if g % 2 else 1}\t{rng.choice(WORDS)} {GOODS[g]}\n" for g in goods
        )

    (tmp_path / "a.tsv").write_text(lines(0.1))
    names, _ = walk(
        "xmr_train",
        data=str(tmp_path / "a.tsv"),
        **QUICK,
        report=False,
        out=str(tmp_path / "run"),
    )
    R = names["R"]
    assert R.shape == names["Y"].shape
    assert set(np.round(R.data, 3)) == {np.float32(0.1), np.float32(1)}
    (tmp_path / "ask.txt").write_text("red lamp\nblue cup\n")
    asked, _ = walk(
        "xmr_predict",
        model=str(tmp_path / "run" / "artifacts" / "model"),
        data=str(tmp_path / "ask.txt"),
        k=2,
        beam=1,
        threads=2,
        explain_rows=0,
        out=str(tmp_path / "asked"),
    )
    t = pd.read_parquet(tmp_path / "asked" / "artifacts" / "predictions.parquet")
    assert list(t) == ["row", "id", "place", "label", "score", "kind", "text"]
    assert set(t.kind) == {"probability"}
    assert asked["kind"] == "probability"


@pytest.mark.parametrize("dies", [7, 11])
def test_a_killed_training_goes_on_with_the_parts_that_are_left(
    data, model, tmp_path, monkeypatch, dies
):
    "Killed in a held-out part, and in the trees that deliver."
    X, Y, X_test, _ = data
    train, trained = XRLinear.train.__func__, []

    def counted(cls, *what, **how):
        if len(trained) == dies:
            raise KeyboardInterrupt
        trained.append(1)
        return train(cls, *what, **how)

    settings = QUICK | dict(trees=2, checkpoint=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(XRLinear, "train", classmethod(counted))
        with pytest.raises(KeyboardInterrupt):
            ExtremeClassifier(**settings).fit(X, Y)
        killed_at, dies = len(trained), None
        resumed = ExtremeClassifier(**settings).fit(X, Y)
    parts = len(held_out_parts(X.shape[0], 0))
    finished = min(killed_at // 2, parts)
    assert len(trained) - killed_at <= 2 * (parts + 1 - finished)
    for other in (resumed, ExtremeClassifier(**settings).fit(X, Y)):
        P, Q = other.predict_proba(X_test), model.predict_proba(X_test)
        assert_array_equal(P.data, Q.data)
        assert_array_equal(P.indices, Q.indices)
    resumed.save(tmp_path / "model")
    assert ExtremeClassifier.load(tmp_path / "model").checkpoint is None
    # damage is noticed
    for file in tmp_path.rglob("answers-*.npz"):
        file.write_bytes(b"half a file")
    with pytest.warns(UserWarning, match="is damaged, asked again"):
        ExtremeClassifier(**settings).fit(X, Y)
