"""Every matrix that a user passes is looked at once, and its parts never.

A look at every index of a matrix is SciPy's `check_format`, which `core.sparse` calls
for what it has not vouched for; these tests count the calls, by what is looked at.
"""

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip(
    "numba", reason="ranking needs numba: pip install 'forecastlab[ranking]'"
)

from forecastlab.core import sparse as S
from forecastlab.ranking import growth
from forecastlab.ranking.ensemble import Ensemble
from forecastlab.ranking.estimator import ExtremeClassifier, add
from forecastlab.ranking.xrlinear import XRLinear

ROWS, FEATURES, LABELS = 60, 13, 8
QUICK = dict(leaf=3, branches=2, threads=1)


def matrices(seed=0):
    "Instances and labels; every instance has a label, every label an instance."
    rng = np.random.default_rng(seed)
    Y = rng.random((ROWS, LABELS)) < 0.25
    Y[np.arange(ROWS), np.arange(ROWS) % LABELS] = True
    noise = rng.random((ROWS, FEATURES - LABELS))
    X = np.hstack([Y, noise]).astype(np.float32)
    return sp.csr_matrix(X), sp.csr_matrix(Y, dtype=np.float32)


class Looks:
    "Which matrices were looked at, in full."

    def __init__(self):
        self.seen = []

    def of(self, A):
        "How often the entries of A were looked at, in whatever object they came."
        return sum(np.shares_memory(A.data, B.data) for B in self.seen)

    def at_parts(self):
        "Shapes of looked-at matrices that have some of the rows only."
        widths = (FEATURES, LABELS)
        shapes = [B.shape for B in self.seen]
        return [s for s in shapes if s[0] < ROWS and s[1] in widths and s[0] > LABELS]


@pytest.fixture
def looks(monkeypatch):
    found = Looks()
    look = sp.csr_matrix.check_format

    def counted(self, full_check=True):
        if full_check:
            found.seen.append(self)
        return look(self, full_check=full_check)

    monkeypatch.setattr(sp.csr_matrix, "check_format", counted)
    return found


def test_the_count_sees_a_second_look(looks):
    X, _ = matrices()
    S.as_features(X)
    S.as_features(X)
    S.as_features(X[:20])
    assert looks.of(X) == 2 and looks.at_parts() == [(20, FEATURES)]
    S.as_features(S.as_features(X))
    assert looks.of(X) == 3


def test_rows_of_a_checked_matrix_are_checked(looks):
    X, Y = matrices()
    known = S.as_features(X), S.as_labels(Y)
    looks.seen.clear()
    x, y = S.take_rows(known, [3, 1])
    assert S.as_features(x) is x and S.as_labels(y) is y and not looks.seen
    assert not S.is_checked(x, labels=True)
    (own,) = S.take_rows([X], [3, 1])
    assert not S.is_checked(own)


@pytest.mark.parametrize("calibrate", [True, False])
def test_a_fitted_classifier_has_looked_once(looks, calibrate):
    X, Y = matrices()
    R = Y * 2
    Z = sp.csr_matrix(np.eye(LABELS, dtype=np.float32))
    model = ExtremeClassifier(trees=2, calibrate=calibrate, **QUICK)
    model.fit(X, Y, label_features=Z, R=R)
    assert [looks.of(A) for A in (X, Y, R, Z)] == [1, 1, 1, 1]
    assert looks.at_parts() == []


def test_every_answer_of_a_classifier_looks_once(looks):
    X, Y = matrices()
    model = ExtremeClassifier(trees=2, **QUICK).fit(X, Y)
    for ask in (model.predict, model.predict_proba, model.rank, model.top):
        looks.seen.clear()
        ask(X)
        assert looks.of(X) == 1 and len(looks.seen) == 1, ask
    looks.seen.clear()
    model.score(X, Y)
    assert (looks.of(X), looks.of(Y), len(looks.seen)) == (1, 1, 2)


def test_an_ensemble_looks_once_for_all_its_members(looks):
    X, Y = matrices()
    trees = [
        XRLinear.train(X, Y, seed=seed, progress=False, **QUICK) for seed in range(3)
    ]
    for models in (trees, [Ensemble(trees[:2]), trees[2]]):
        looks.seen.clear()
        Ensemble(models).predict(X)
        assert looks.of(X) == 1 and len(looks.seen) == 1


def test_a_transformer_in_training_looks_once(looks):
    transformer = pytest.importorskip("forecastlab.ranking.xrtransformer")
    from forecastlab.ranking.encoder import tiny_encoder

    X, Y = matrices()
    texts = [" ".join(f"w{j}" for j in row.indices) for row in Y]
    settings = transformer.FineTuning(
        steps=(2, 2), batch=16, branches=2, leaf=3, mix=1.0, progress=False
    )
    encoder = tiny_encoder(texts)
    model = transformer.XRTransformer.train(texts, X, Y, encoder, settings, **QUICK)
    assert (looks.of(X), looks.of(Y)) == (1, 1)
    assert looks.at_parts() == []
    looks.seen.clear()
    model.predict(texts, X)
    assert looks.of(X) == 1 and len(looks.seen) == 1


def test_growth_looks_once(looks):
    X, Y = matrices()
    old, new = Y[:, :6], Y[:, 6:]
    model = XRLinear.train(X, old, progress=False, **QUICK)
    looks.seen.clear()
    grown = growth.add_labels(model, X, old, new, threads=1).model
    assert [looks.of(A) for A in (X, old, new)] == [1, 1, 1]
    assert looks.at_parts() == []
    looks.seen.clear()
    growth.health(grown, X, Y, since=6, threads=1)
    assert looks.of(X) == 1 and looks.at_parts() == []


def test_a_classifier_that_learns_labels_looks_once_for_all_its_trees(looks):
    X, Y = matrices()
    lists = [[f"label {j}" for j in row.indices] for row in Y]
    old = [[name for name in names if name != "label 7"] for names in lists]
    model = ExtremeClassifier(trees=2, calibrate=False, **QUICK).fit(X, old)
    looks.seen.clear()
    add(model, X, lists)
    assert looks.of(X) == 1 and looks.at_parts() == []
