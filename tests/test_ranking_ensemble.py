"Combined rankings: the values PECOS gives, slow oracles, bad input, round trips."

import json

import numpy as np
import pytest
from scipy import sparse

from forecastlab.ranking import ensemble as E
from forecastlab.ranking.ensemble import COMBINE, Ensemble
from toys import unsealed


def random_predictions(
    rng, models=3, n=40, L=30, most=8, dtype=np.float32, round_to=None
):
    "Lists of 0 to `most` labels, best first, some of them empty."
    out = []
    for _ in range(models):
        data, indices, indptr = [], [], [0]
        for _ in range(n):
            k = rng.integers(0, most + 1)
            score = rng.normal(size=k)
            if round_to is not None:
                score = score.round(round_to)
            data += sorted(score, reverse=True)
            indices += list(rng.choice(L, k, replace=False))
            indptr.append(len(data))
        out.append(sparse.csr_matrix((np.array(data, dtype), indices, indptr), (n, L)))
    return out


def slow(P, how):
    "Row by row with dictionaries."
    m, width = len(P), max(np.diff(p.indptr).max() for p in P)
    rows = []
    for i in range(P[0].shape[0]):
        got = {}
        for t, p in enumerate(P):
            s = p.data[p.indptr[i] : p.indptr[i + 1]].astype(float)
            labels = p.indices[p.indptr[i] : p.indptr[i + 1]]
            place = np.empty(len(s))
            place[np.argsort(-s, kind="stable")] = width - np.arange(len(s))
            new = dict(
                average=s,
                rank_average=place,
                sigmoid_average=1 / (1 + np.exp(-s)),
                softmax_average=np.exp(s) / np.exp(s).sum() if len(s) else s,
                round_robin=place + (m - t) / (m + 1),
            )[how]
            for label, v in zip(labels.tolist(), new):
                got[label] = (
                    max(got.get(label, -np.inf), v)
                    if how == "round_robin"
                    else got.get(label, 0) + v
                )
        rows.append({label: v / m for label, v in got.items()})
    return rows


@pytest.mark.parametrize("how", COMBINE)
@pytest.mark.parametrize("round_to", [None, 0])
def test_rules_equal_a_slow_oracle_on_random_lists(how, round_to):
    P = random_predictions(
        np.random.default_rng(len(how)), dtype=np.float64, round_to=round_to
    )
    before = [p.copy() for p in P]
    got, want = COMBINE[how](P), slow(P, how)
    for i, row in enumerate(want):
        labels = got.indices[got.indptr[i] : got.indptr[i + 1]]
        scores = got.data[got.indptr[i] : got.indptr[i + 1]]
        assert dict(zip(labels.tolist(), scores)) == pytest.approx(
            row, abs=1e-6 if how == "softmax_average" else 1e-12
        )
        order = list(zip(-scores, labels))
        # best first, ties by label
        assert order == sorted(order)
    for p, b in zip(P, before):
        for x in ("data", "indices", "indptr"):
            assert np.array_equal(getattr(p, x), getattr(b, x))


def test_combined_scores_are_those_of_pecos():
    first = sparse.csr_matrix([[0.5, 0, 0, 1.0], [0, 0.2, 0, 0.5]])
    second = sparse.csr_matrix([[1.0, 0, 0, 0.2], [0, 0, 0.2, 0]])
    # PECOS' test reuses what its sigmoid has overwritten
    sigmoid = [E.sigmoid_average([p]) for p in (first, second)]
    for got, want in [
        (E.average([first, second]), [[0.75, 0, 0, 0.6], [0, 0.1, 0.1, 0.25]]),
        (E.rank_average([first, second]), [[1.5, 0, 0, 1.5], [0, 0.5, 1, 1]]),
        (
            E.sigmoid_average([first, second]),
            [[0.67675895, 0, 0, 0.64044629], [0, 0.274917, 0.274917, 0.31122967]],
        ),
        (
            E.softmax_average(sigmoid),
            [[0.5090297, 0, 0, 0.4909703], [0, 0.24092582, 0.5, 0.25907418]],
        ),
        (
            E.round_robin([first, second]),
            [[1.16666667, 0, 0, 1.33333333], [0, 0.83333333, 1.16666667, 1.33333333]],
        ),
    ]:
        assert got.toarray() == pytest.approx(np.array(want), rel=1e-6)


@pytest.mark.parametrize("how", COMBINE)
def test_empty_lists_and_stored_zeros(how):
    nothing = sparse.csr_matrix((3, 5), dtype=np.float32)
    assert COMBINE[how]([nothing, nothing]).nnz == 0
    zero = sparse.csr_matrix((np.zeros(2, np.float32), [1, 4], [0, 2, 2, 2]), (3, 5))
    got = COMBINE[how]([zero, nothing])
    # a stored 0 is a prediction
    assert got.indices.tolist() == [1, 4] and got.dtype == np.float32


def test_many_labels_do_not_overflow_the_keys():
    L = 3_000_000
    P = sparse.csr_matrix(
        (np.ones(2000, np.float32), np.full(2000, L - 1), np.arange(2001)), (2000, L)
    )
    assert (E.average([P, P]) != P).nnz == 0


class Table:
    "A member that answers from a matrix."

    def __init__(self, P):
        self.P, self.labels = P, P.shape[1]

    def predict(self, X, k=None, selected=None):
        return self.P if k is None else E.average([self.P])

    def save(self, folder):
        folder.mkdir()


def members(m=3):
    return [Table(p) for p in random_predictions(np.random.default_rng(0), m)]


def test_fewer_labels_are_the_head_of_more():
    e = Ensemble(members(), k=8)
    whole = e.predict(None)
    for k in (1, 3, 8):
        part = e.predict(None, k=k)
        for i in range(whole.shape[0]):
            assert (
                part.indices[part.indptr[i] : part.indptr[i + 1]].tolist()
                == whole.indices[whole.indptr[i] : whole.indptr[i + 1]][:k].tolist()
            )


def test_selected_labels_are_not_cut():
    e = Ensemble(members(), k=1)
    assert (
        e.predict(None, selected=object()).nnz == E.average([m.P for m in e.models]).nnz
    )
    assert np.diff(e.predict(None, selected=object(), k=2).indptr).max() == 2


@pytest.fixture(scope="module")
def trained():
    "Instances, and three trees over the same twelve labels."
    from forecastlab.ranking.xrlinear import XRLinear

    rng = np.random.default_rng(0)
    X = sparse.random(200, 30, 0.3, format="csr", dtype=np.float32, random_state=0)
    Y = sparse.csr_matrix(rng.random((200, 12)) < 0.2, dtype=np.float32)
    how = dict(branches=2, leaf=4, progress=False, threads=1)
    return X, Y, [XRLinear.train(X, Y, seed=seed, **how) for seed in range(3)]


def test_a_nested_ensemble_comes_back_and_replaces_nothing_silently(trained, tmp_path):
    X, _, trees = trained
    inner = Ensemble(trees[1:], "round_robin", k=5)
    e = Ensemble([*trees[:2], inner], "rank_average", k=7)
    e.save(tmp_path / "e")
    again = Ensemble.load(tmp_path / "e")
    assert (again.how, again.k, again.models[2].how) == (
        "rank_average",
        7,
        "round_robin",
    )
    assert (again.predict(X) != e.predict(X)).nnz == 0
    with pytest.raises(FileExistsError, match="overwrite=True"):
        e.save(tmp_path / "e")
    Ensemble(trees[:1]).save(tmp_path / "e", overwrite=True)
    there = sorted(p.name for p in (tmp_path / "e").iterdir())
    assert there == ["0", "checksums.json", "ensemble.json"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(
        FileExistsError, match="only a folder with ensemble.json is replaced"
    ):
        e.save(tmp_path / "mine", overwrite=True)
    (tmp_path / "empty").mkdir()
    e.save(tmp_path / "empty")
    assert len(Ensemble.load(tmp_path / "empty")) == 3


def test_trees_come_back_as_trees(trained, tmp_path):
    X, Y, trees = trained
    e = Ensemble(trees[:2], k=5)
    e.save(tmp_path / "e")
    again = Ensemble.load(tmp_path / "e")
    assert (again.labels, again.features) == (12, 30)
    assert abs(again.predict(X) - e.predict(X)).max() < 1e-6
    assert np.diff(e.predict(X, beam=3, threads=1).indptr).max() == 5
    assert e.predict(X, selected=Y).nnz == Y.nnz


def test_a_member_is_looked_up_in_this_package_and_nowhere_else(trained, tmp_path):
    Ensemble(trained[2][:1]).save(tmp_path / "e")
    about = unsealed(tmp_path / "e") / "ensemble.json"
    note = json.loads(about.read_text())
    assert note["members"] == ["xrlinear:XRLinear"]
    # as earlier versions wrote it
    about.write_text(json.dumps(note | dict(members=["XRLinear"])))
    assert len(Ensemble.load(tmp_path / "e")) == 1
    for name in ("os:system", "..core.runs:Run", "xrlinear:Path", "text:Vectorizer", 3):
        about.write_text(json.dumps(note | dict(members=[name])))
        with pytest.raises(ValueError, match="members of an unknown class"):
            Ensemble.load(tmp_path / "e")


def test_a_class_of_somebody_else_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="members cannot be saved: Table"):
        Ensemble(members(2)).save(tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_a_failed_save_leaves_what_was_there(trained, tmp_path, monkeypatch):
    good, bad = Ensemble(trained[2][:1]), Ensemble(trained[2][1:])
    good.save(tmp_path / "e")

    def broken(folder):
        raise OSError("disk full")

    monkeypatch.setattr(bad.models[1], "save", broken, raising=False)
    with pytest.raises(OSError, match="disk full"):
        bad.save(tmp_path / "e", overwrite=True)
    assert len(Ensemble.load(tmp_path / "e")) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


def test_a_folder_that_is_no_ensemble_is_refused(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="ensemble.json is missing"):
        Ensemble.load(tmp_path)
    e = Ensemble(trained[2][:2])
    e.save(tmp_path / "e")
    about = unsealed(tmp_path / "e") / "ensemble.json"
    text = about.read_text()
    for broken in (text[:20], "[]", json.dumps(dict(how="average"))):
        about.write_text(broken)
        with pytest.raises(ValueError, match="cannot be read"):
            Ensemble.load(tmp_path / "e")
    about.write_text(text.replace("average", "os.system"))
    with pytest.raises(ValueError, match="unknown way to combine: os.system"):
        Ensemble.load(tmp_path / "e")


def test_what_cannot_be_combined_is_refused():
    a, b = (t.P for t in members(2))
    for wrong, words in [
        (lambda: E.average([]), "nothing to combine"),
        (lambda: E.average([a, b[:, :4]]), "differ in shape"),
        (lambda: Ensemble([]), "at least one model"),
        (lambda: Ensemble([1]), "cannot predict: int"),
        (lambda: Ensemble(members(), "mode"), "unknown way to combine: mode"),
        (
            lambda: Ensemble([*members(1), Table(b[:, :4])]),
            "differ in their number of labels: 4, 30",
        ),
        (lambda: Ensemble(members()).predict(None, k=0), "k must be a whole number"),
        (
            lambda: Ensemble(members(), E.average).save("e"),
            "a function cannot be saved",
        ),
    ]:
        with pytest.raises(ValueError, match=words):
            wrong()
    b.data[3] = np.inf
    with pytest.raises(ValueError, match="prediction 1 has NaN or infinite"):
        E.average([a, b])
