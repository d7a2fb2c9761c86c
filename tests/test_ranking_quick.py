"The search without compiled code: the compiled one's answers, or none."

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

from forecastlab.core.sparse import save_matrix
from forecastlab.ranking.quick import quick_answer
from forecastlab.ranking.xrlinear import XRLinear


def made(seed, rows=200, d=60, labels=70, whole_numbers=False):
    X = sparse.random(rows, d, 0.15, "csr", dtype=np.float32, random_state=seed)
    if whole_numbers:
        # equal margins, so that places decide
        X.data[:] = 1
    Y = sparse.random(rows, labels, 0.05, "csr", random_state=seed + 50)
    return X, Y


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("quick") / "m"
    XRLinear.train(*made(0), leaf=8, branches=4, progress=False).save(place)
    return place


@pytest.mark.parametrize("seed", range(6))
def test_answers_are_those_of_the_compiled_search_to_the_bit(seed, tmp_path):
    X, Y = made(seed, whole_numbers=seed % 2 == 1)
    chain = "ova" if seed == 4 else None
    model = XRLinear.train(X, Y, chain, leaf=9, branches=2 + seed, progress=False)
    model.save(tmp_path / "m")
    posts = (None, "noop", "l1-hinge", "log-l4-hinge", "l2-hinge")
    for k, beam, post in zip((None, 1, 3, 40, 500), (None, 1, 7, 100, 2), posts):
        mine = quick_answer(tmp_path / "m", X, k, beam, post)
        theirs = model.predict(X, k, beam, post)
        for name in ("indptr", "indices", "data"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name)), name
        assert mine.shape == theirs.shape


def test_queries_that_are_rare_are_left_to_the_compiled_search(folder):
    X, _ = made(0)
    assert quick_answer(folder, X) is not None
    assert quick_answer(folder, X[:0]).shape == (0, 70)
    broken = X.copy()
    broken.data[3] = np.inf
    unsorted = X.copy()
    unsorted.indices = unsorted.indices[::-1].copy()
    unsorted.has_sorted_indices = False
    for other in (broken, X.toarray(), X.astype(np.float64), X[:, :9], X.tocsc()):
        assert quick_answer(folder, other) is None
    for asks in (dict(post="sigmoid"), dict(post="odd"), dict(k=0), dict(beam=[1, 2])):
        assert quick_answer(folder, X, **asks) is None


def damages(folder):
    "Changes of a folder that the compiled search refuses."
    layer = folder / "ranker" / "0.model"
    about = json.loads((layer / "param.json").read_text())
    odd = sparse.csc_matrix((3, 2), dtype=np.float32)
    yield lambda: (folder / "param.json").unlink()
    yield lambda: (layer / "W.npz").write_bytes(b"PK")
    yield lambda: save_matrix(layer / "C.npz", odd)
    for change in (dict(bias="x"), dict(nr_labels=3), dict(pred_kwargs=[1])):
        text = json.dumps(about | change)
        yield lambda text=text: (layer / "param.json").write_text(text)


@pytest.mark.parametrize("which", range(6))
def test_damaged_folders_are_left_to_the_compiled_search(which, tmp_path):
    X, Y = made(0)
    XRLinear.train(X, Y, leaf=8, branches=4, progress=False).save(tmp_path / "m")
    list(damages(tmp_path / "m"))[which]()
    assert quick_answer(tmp_path / "m", X) is None
    with pytest.raises((ValueError, OSError)):
        XRLinear.load(tmp_path / "m")


def test_a_large_question_is_left_to_the_compiled_search(folder, monkeypatch):
    X, _ = made(0)
    monkeypatch.setattr("forecastlab.ranking.quick.MOST_PLACES", 1000)
    assert quick_answer(folder, X) is None


def test_predict_imports_nothing_that_compiles(folder, tmp_path):
    X, _ = made(0)
    save_matrix(tmp_path / "X.npz", X)
    words = ["predict", "-x", "X.npz", "-m", str(folder), "-o", "P.npz"]
    heavy = ("numba", "pandas", "sklearn", "torch", "scipy.stats", "matplotlib")
    code = (
        "import sys; from forecastlab.ranking.commands import main;"
        f"assert main({words!r}) == 0;"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert (tmp_path / "P.npz").exists()
