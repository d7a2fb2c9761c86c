"""What every ranker keeps, looped over all of them: train, predict, save, load.

Rows of a prediction run best first; a folder is never replaced silently; what is loaded
answers as what was saved.
"""

import contextlib
import inspect
from dataclasses import dataclass
from typing import Any
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip(
    "numba", reason="ranking needs numba: pip install 'forecastlab[ranking]'"
)

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
    "How one kind of ranker is trained, asked and loaded."

    kind: type
    train: Callable[[], Any]
    ask: Callable[[Any, int], sp.csr_matrix]  # (model, k) -> (n, labels) scores


def train_transformer():
    transformer = pytest.importorskip("forecastlab.ranking.xrtransformer")
    from forecastlab.ranking.encoder import tiny_encoder

    settings = transformer.FineTuning(
        steps=(3, 3), batch=16, branches=2, leaf=3, mix=1.0, progress=False
    )
    return transformer.XRTransformer.train(
        TEXTS, X, Y, tiny_encoder(TEXTS), settings, leaf=3, branches=2, threads=1
    )


def transformer_class():
    module = pytest.importorskip("forecastlab.ranking.xrtransformer")
    return module.XRTransformer


RANKERS = {
    "XRLinear": lambda: Ranker(
        XRLinear,
        lambda: XRLinear.train(X, Y, leaf=3, branches=2, threads=1, progress=False),
        lambda model, k: model.predict(X, k=k),
    ),
    "XRTransformer": lambda: Ranker(
        transformer_class(),
        train_transformer,
        lambda model, k: model.predict(TEXTS, X, k=k),
    ),
    "ExtremeClassifier": lambda: Ranker(
        ExtremeClassifier,
        lambda: ExtremeClassifier(trees=2, leaf=3, branches=2, threads=1).fit(X, Y),
        lambda model, k: model.rank(X, k=k),
    ),
}


@pytest.fixture(scope="module", params=RANKERS)
def ranker(request):
    return RANKERS[request.param]()


@pytest.fixture(scope="module")
def model(ranker):
    return ranker.train()


def test_answers_are_sparse_and_rows_run_best_first(ranker, model):
    P = ranker.ask(model, 3)
    assert sp.issparse(P) and P.shape == Y.shape
    assert np.diff(P.indptr).max() <= 3 and np.isfinite(P.data).all()
    for lo, hi in zip(P.indptr, P.indptr[1:]):
        assert (np.diff(P.data[lo:hi]) <= 0).all()
        assert len(set(P.indices[lo:hi])) == hi - lo


def test_a_smaller_k_cuts_the_same_list(ranker, model):
    many, one = ranker.ask(model, 4), ranker.ask(model, 1)
    assert (many.indices[many.indptr[:-1]] == one.indices).all()


def test_what_is_loaded_answers_as_what_was_saved(ranker, model, tmp_path):
    model.save(tmp_path / "model")
    again = ranker.kind.load(tmp_path / "model")
    assert type(again) is ranker.kind
    old, new = ranker.ask(model, 3), ranker.ask(again, 3)
    assert (old.indices == new.indices).all()
    np.testing.assert_allclose(new.data, old.data, atol=1e-6)


def test_nothing_is_replaced_silently(ranker, model, tmp_path):
    model.save(tmp_path / "model")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(tmp_path / "model")
    model.save(tmp_path / "model", overwrite=True)


def test_what_is_no_model_stays(ranker, model, tmp_path):
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
