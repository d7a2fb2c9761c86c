"""What every ranker keeps, looped over all of them: train, rank, save, load.

Rows of an answer run best first, and do not depend on their company; the same seed
gives the same answer; what does not fit is refused; a folder is never replaced
silently; what is loaded answers as what was saved.
"""

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip(
    "numba", reason="ranking needs numba: pip install 'forecastlab[ranking]'"
)

import forecastlab.ranking
from forecastlab.core.basics import LabError
from forecastlab.ranking.ensemble import Ensemble
from forecastlab.ranking.estimator import ExtremeClassifier
from forecastlab.ranking.xrlinear import XRLinear

WORDS = "sun moon star sea hill tree road bird".split()
LABELS = len(WORDS)


def world(rows=60, seed=0):
    "Texts that name their labels, their features, and the labels."
    rng = np.random.default_rng(seed)
    Y = sp.csr_matrix(rng.random((rows, LABELS)) < 0.25, dtype=np.float32)
    texts = [" ".join(WORDS[label] for label in row.indices) or "nothing" for row in Y]
    noise = sp.random(rows, 5, 0.3, "csr", np.float32, random_state=seed)
    return texts, sp.hstack([Y, noise], format="csr", dtype=np.float32), Y


TEXTS, X, Y = world()


@dataclass
class Ranker:
    "How one kind of ranker is trained and asked."

    kind: type
    train: Callable[..., Any]  # (texts, X, Y) -> model
    # (model, k, texts, X) -> (n, labels) scores
    ask: Callable[..., sp.csr_matrix]
    door: str = "predict"  # the method that gives labels by score


def train_tree(texts, X, Y, seed=0):
    how = dict(leaf=3, branches=2, threads=1, progress=False)
    return XRLinear.train(X, Y, seed=seed, **how)


def train_transformer(texts, X, Y):
    transformer = pytest.importorskip("forecastlab.ranking.xrtransformer")
    from forecastlab.ranking.encoder import tiny_encoder

    settings = transformer.FineTuning(
        steps=(3, 3), batch=16, branches=2, leaf=3, mix=1.0, progress=False
    )
    return transformer.XRTransformer.train(
        texts, X, Y, tiny_encoder(texts), settings, leaf=3, branches=2, threads=1
    )


def transformer_class():
    module = pytest.importorskip("forecastlab.ranking.xrtransformer")
    return module.XRTransformer


def train_classifier(texts, X, Y):
    return ExtremeClassifier(trees=2, leaf=3, branches=2, threads=1).fit(X, Y)


def ask_features(model, k, texts, X):
    return model.predict(X, k=k)


RANKERS = {
    "XRLinear": lambda: Ranker(XRLinear, train_tree, ask_features),
    "Ensemble": lambda: Ranker(
        Ensemble,
        lambda *data: Ensemble([train_tree(*data, seed) for seed in range(2)]),
        ask_features,
    ),
    "XRTransformer": lambda: Ranker(
        transformer_class(),
        train_transformer,
        lambda model, k, texts, X: model.predict(texts, X, k=k),
    ),
    "ExtremeClassifier": lambda: Ranker(
        ExtremeClassifier,
        train_classifier,
        lambda model, k, texts, X: model.rank(X, k=k),
        door="rank",
    ),
}
# what could be taken for a ranker, and why it is none
NO_RANKERS = {"Calibration": "it ranks with a ranker that it is given"}


@pytest.fixture(scope="module", params=RANKERS)
def ranker(request):
    return RANKERS[request.param]()


@pytest.fixture(scope="module")
def model(ranker):
    return ranker.train(TEXTS, X, Y)


@pytest.fixture(scope="module")
def ask(ranker, model):
    "The model, asked for k labels of some rows; all rows if not told."

    def asked(k, rows=slice(None), model=model, X=X):
        return ranker.ask(model, k, TEXTS[rows], X[rows])

    return asked


def rankers_of_the_package():
    "Every public class of ranking that is trained, asked, saved and loaded."
    folder = Path(forecastlab.ranking.__file__).parent
    for path in sorted(folder.glob("[!_]*.py")):
        module = import_module(f"forecastlab.ranking.{path.stem}")
        for name in module.__all__:
            kind = getattr(module, name)
            if not inspect.isclass(kind):
                continue
            trained = hasattr(kind, "train") or hasattr(kind, "fit")
            if trained and all(hasattr(kind, f) for f in ("predict", "save", "load")):
                yield name


def test_every_ranker_is_in_this_file():
    pytest.importorskip("transformers", reason="the encoders need transformers")
    found = set(rankers_of_the_package())
    assert found >= {"XRLinear", "XRTransformer", "ExtremeClassifier"}
    assert found - set(RANKERS) == set(NO_RANKERS)


def test_answers_are_sparse_and_rows_run_best_first(ask):
    P = ask(3)
    assert sp.issparse(P) and P.shape == Y.shape
    assert np.diff(P.indptr).max() <= 3 and np.isfinite(P.data).all()
    for lo, hi in zip(P.indptr, P.indptr[1:]):
        assert (np.diff(P.data[lo:hi]) <= 0).all()
        assert len(set(P.indices[lo:hi])) == hi - lo


def test_a_smaller_k_cuts_the_same_list(ask):
    many, one = ask(4), ask(1)
    assert (many.indices[many.indptr[:-1]] == one.indices).all()


def test_a_row_alone_is_answered_as_in_a_batch(ask):
    together = ask(3)
    for i in (0, 17, len(TEXTS) - 1):
        alone, same = ask(3, slice(i, i + 1)), together[i]
        assert alone.shape == (1, LABELS)
        np.testing.assert_allclose(alone.toarray(), same.toarray(), atol=1e-5)


def test_the_same_seed_gives_the_same_answer(ranker, ask):
    first, again = ask(3), ask(3, model=ranker.train(TEXTS, X, Y))
    assert (first.indices == again.indices).all()
    assert (first.data == again.data).all()


def test_training_refuses_rows_that_do_not_fit_each_other(ranker):
    with pytest.raises(ValueError, match="60.*59|59.*60"):
        ranker.train(TEXTS, X, Y[:-1])


def test_what_is_no_number_is_refused_in_training_and_in_an_answer(ranker, ask):
    broken = X.copy()
    broken.data[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        ranker.train(TEXTS, broken, Y)
    with pytest.raises(ValueError, match="NaN"):
        ask(3, X=broken)


def test_another_number_of_features_is_refused(ask):
    width = X.shape[1]
    with pytest.raises(ValueError, match=f"{width - 1} features, {width} are expected"):
        ask(3, X=X[:, :-1])


@pytest.mark.parametrize("k", [0, -1, 1.5])
def test_a_k_that_is_no_number_of_labels_is_refused(ask, k):
    with pytest.raises(LabError, match="k must be"):
        ask(k)


def test_the_door_takes_the_same_options_everywhere(ranker):
    takes = inspect.signature(getattr(ranker.kind, ranker.door)).parameters
    assert "k" in takes
    # an ensemble passes on what it does not know
    if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        assert {"beam", "post", "selected", "threads"} <= set(takes)


def test_what_is_loaded_answers_as_what_was_saved(ranker, model, ask, tmp_path):
    model.save(tmp_path / "model")
    again = ranker.kind.load(tmp_path / "model")
    assert type(again) is ranker.kind
    old, new = ask(3), ask(3, model=again)
    assert (old.indices == new.indices).all()
    np.testing.assert_allclose(new.data, old.data, atol=1e-6)


def test_nothing_is_replaced_silently(model, tmp_path):
    model.save(tmp_path / "model")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(tmp_path / "model")
    model.save(tmp_path / "model", overwrite=True)


def test_what_is_no_model_stays(model, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "diary.txt").write_text("mine")
    with contextlib.suppress(FileExistsError):
        model.save(tmp_path / "foreign", overwrite=True)
    assert (tmp_path / "foreign" / "diary.txt").read_text() == "mine"


def test_a_folder_that_is_missing_is_named(ranker, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ranker.kind.load(tmp_path / "nowhere")


def test_saving_and_loading_take_the_same_arguments_everywhere(ranker):
    save = list(inspect.signature(ranker.kind.save).parameters)
    load = list(inspect.signature(ranker.kind.load).parameters)
    assert save[:3] == ["self", "folder", "overwrite"] and load[0] == "folder"
    assert inspect.signature(ranker.kind.save).parameters["overwrite"].default is False


def test_a_classifier_ranks_by_rank_and_predicts_as_scikit_learn_means_it():
    model = train_classifier(TEXTS, X, Y)
    # labels by score: what `predict` is to the others, where there is a feature
    some = X[np.diff(X.indptr) > 0]
    np.testing.assert_array_equal(
        model.rank(some, k=3).toarray(), model.model_.predict(some, k=3).toarray()
    )
    # an answer in the form of y: ones, no scores, and no k
    P = model.predict(X)
    assert "k" not in inspect.signature(model.predict).parameters
    assert P.shape == Y.shape and set(P.data) == {1} and (np.diff(P.indptr) >= 1).all()
    likely = model.predict_proba(X)
    first = likely.indices[likely.indptr[:-1]]
    wanted = likely.toarray() >= model.threshold_
    wanted[np.arange(len(TEXTS)), first] = True
    np.testing.assert_array_equal(P.toarray() > 0, wanted)


def test_a_classifier_of_lists_predicts_lists():
    lists = [[WORDS[label] for label in row.indices] for row in Y]
    model = ExtremeClassifier(trees=1, leaf=3, branches=2, threads=1, calibrate=False)
    answer = model.fit(X, lists).predict(X)
    best = model.rank(X, k=1).indices
    assert answer == [[model.classes_[j]] for j in best]
