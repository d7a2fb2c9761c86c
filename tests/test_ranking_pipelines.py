"""Training and asking a ranker over many labels, run as its users run it.

Files in every form, what a run leaves behind, and what is refused.
"""

import gzip
import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import sparse

matplotlib.use("Agg")
pytest.importorskip("papermill", reason="papermill is in the `run` extra")
pytest.importorskip(
    "numba", reason="ranking needs numba: pip install 'forecastlab[ranking]'"
)

from forecastlab.core.runs import load_json
from forecastlab.core.sparse import save_matrix
from forecastlab.ranking.corpus import load_corpus, read_corpus, search_corpus
from forecastlab.ranking.files import read_text2text, write_xc
from forecastlab.ranking.xrlinear import XRLinear
from toys import walk

WORDS = "red blue green small large round flat soft hard warm".split()
GOODS = "cup plate spoon lamp chair scarf bowl glass towel candle".split()
QUICK = dict(trees=1, leaf=3, branches=2, threads=1, report=False)


def lines(n=120, seed=0):
    "Texts that name a thing, and the thing."
    rng = np.random.default_rng(seed)
    goods = rng.integers(0, len(GOODS), n)
    return [f"{rng.choice(WORDS)} {rng.choice(WORDS)} {GOODS[g]}" for g in goods], goods


def features(texts):
    index = {w: i for i, w in enumerate(WORDS + GOODS)}
    X = sparse.lil_matrix((len(texts), len(index)), dtype=np.float32)
    for i, t in enumerate(texts):
        for w in t.split():
            X[i, index[w]] = 0.5
    return X.tocsr()


def one_hot(goods):
    return sparse.csr_matrix(
        (np.ones(len(goods), np.float32), goods, np.arange(len(goods) + 1)),
        shape=(len(goods), len(GOODS)),
    )


def written(form, folder):
    "The same things to learn, in every form."
    (texts, goods), (texts_t, goods_t) = lines(), lines(40, seed=1)
    if form == "parquet":
        for n, t, g in (("train", texts, goods), ("test", texts_t, goods_t)):
            pd.DataFrame({"title": t, "kind": [[GOODS[i]] for i in g]}).to_parquet(
                folder / f"{n}.parquet"
            )
        return dict(
            data=str(folder / "train.parquet"),
            test=str(folder / "test.parquet"),
            text_column="title",
            labels_column="kind",
        )
    if form == "tsv":
        for n, t, g in (("train", texts, goods), ("test", texts_t, goods_t)):
            (folder / f"{n}.tsv").write_text(
                "".join(f"{i}\t{x}\n" for i, x in zip(g, t))
            )
        return dict(data=str(folder / "train.tsv"), test=str(folder / "test.tsv"))
    if form == "xc":
        write_xc(folder / "train.txt", features(texts), one_hot(goods))
        write_xc(folder / "test.txt", features(texts_t), one_hot(goods_t))
        return dict(data=str(folder / "train.txt"), test=str(folder / "test.txt"))
    dot = "." if form == "pecos" else "_"
    for n, t, g in (("trn", texts, goods), ("tst", texts_t, goods_t)):
        save_matrix(folder / f"X{dot}{n}.npz", features(t))
        save_matrix(folder / f"Y{dot}{n}.npz", one_hot(g))
    if form == "pecos":
        (folder / "output-items.txt").write_text("\n".join(GOODS) + "\n")
    else:
        with gzip.open(folder / "text_trn.txt.gz", "wt") as f:
            f.write("\n".join(texts) + "\n")
    return dict(data=str(folder))


@pytest.mark.parametrize("form", ["parquet", "tsv", "xc", "pecos", "ours"])
def test_every_form_trains_and_answers(form, tmp_path):
    names, said = walk(
        "xmr_train",
        **QUICK,
        **written(form, tmp_path),
        calibrate=form in ("parquet", "ours"),
        out=str(tmp_path / "run"),
    )
    m = load_json(tmp_path / "run" / "metrics.json")
    assert m["p1"] > 90
    assert m["labels"] == 10
    assert {"train_cpu_seconds", "model_mb", "predict_ms"} <= set(m)
    answers = pd.read_parquet(tmp_path / "run" / "artifacts" / "predictions.parquet")
    assert list(answers)[:5] == ["row", "id", "place", "label", "score"]
    assert ("probability" in answers) == (form in ("parquet", "ours"))
    assert answers.place.max() == 5
    if form in ("parquet", "pecos"):
        assert set(answers.label) <= set(GOODS)
    if form in ("parquet", "tsv"):
        data = tmp_path / "ask.txt"
        data.write_text("small warm lamp\nflat plate\n")
    else:
        data = tmp_path / "ask.npz"
        save_matrix(data, features(["small warm lamp", "flat flat plate"]))
    asked, said = walk(
        "xmr_predict",
        model=str(tmp_path / "run" / "artifacts" / "model"),
        data=str(data),
        k=2,
        threads=1,
        out=str(tmp_path / "asked"),
    )
    first = asked["answers"].query("place == 1").label.tolist()
    if form in ("parquet", "pecos"):
        expected = ["lamp", "plate"]
    elif form == "xc" and isinstance(first[0], str):
        expected = ["3", "1"]
    else:
        expected = [3, 1]
    assert first == expected
    assert asked["kind"] == ("probability" if form in ("parquet", "ours") else "score")


def test_a_run_with_its_report(tmp_path):
    names, said = walk(
        "xmr_train",
        **QUICK | dict(report=True, compare=True),
        **written("parquet", tmp_path),
        out=str(tmp_path / "run"),
    )
    found = {p.name for p in (tmp_path / "run" / "artifacts").iterdir()}
    assert {
        "model",
        "report.png",
        "metrics.csv",
        "beams.csv",
        "sizes.csv",
        "tail.csv",
        "trees.csv",
        "reliability.csv",
        "predictions.parquet",
    } <= found
    assert "expected calibration error" in said


def test_a_part_is_held_out_where_there_is_no_test(tmp_path):
    names, _ = walk(
        "xmr_train",
        **QUICK,
        data=written("parquet", tmp_path)["data"],
        text_column="title",
        labels_column="kind",
        calibrate=False,
        holdout=0.25,
        out=str(tmp_path / "run"),
    )
    assert len(names["X_test"]) == 30 and len(names["X"]) == 90


def test_a_bare_xr_linear_folder_answers(tmp_path):
    texts, goods = lines()
    XRLinear.train(
        features(texts), one_hot(goods), leaf=3, branches=2, progress=False
    ).save(tmp_path / "m")
    save_matrix(tmp_path / "a.npz", features(["warm lamp"]))
    names, _ = walk(
        "xmr_predict",
        model=str(tmp_path / "m"),
        data=str(tmp_path / "a.npz"),
        k=1,
        out=str(tmp_path / "run"),
    )
    assert names["answers"].label.tolist() == [3]
    (tmp_path / "a.txt").write_text("warm lamp\n")
    with pytest.raises(ValueError, match="knows no texts"):
        walk(
            "xmr_predict",
            model=str(tmp_path / "m"),
            data=str(tmp_path / "a.txt"),
            out=str(tmp_path / "run2"),
        )


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(data="no-such-set"), "no file, folder or set"),
        (dict(data="nowhere/at.parquet"), "does not exist"),
        (dict(holdout=1.0), "holdout"),
        (dict(text_column="name"), "no column"),
        (dict(negatives="all"), "unknown negatives"),
        (dict(solver="svm"), "unknown solver"),
        (dict(trees=0), "trees must be"),
        (dict(leaf=0), "leaf"),
    ],
)
def test_training_refuses_what_cannot_be_trained_on(change, message, tmp_path):
    with pytest.raises((ValueError, OSError), match=message):
        walk(
            "xmr_train",
            **QUICK | dict(calibrate=False) | written("parquet", tmp_path) | change,
            out=str(tmp_path / "run"),
        )


@pytest.mark.parametrize(
    "line, message",
    [
        ("x\tsaw", "line 2 .*x"),
        ("1 saw", "line 2 .*no tab"),
        ("1::-2\tsaw", "line 2 .*negative"),
        ("-1\tsaw", "line 2 .*negative"),
    ],
)
def test_a_malformed_line_is_numbered(line, message, tmp_path):
    (tmp_path / "a.tsv").write_text(f"1\tboots\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_text2text(tmp_path / "a.tsv")


@pytest.mark.parametrize(
    "text, message",
    [
        ("2 3 4\n0 0:1\n0 9:1\n", "line 3"),
        ("2 3 4\n7 0:1\n0 1:1\n", "line 2"),
        ("2 3\n", "line 1"),
        ("3 3 4\n0 0:1\n", "promises 3"),
        ("2 3 4\n0 0:1\n0 a:1\n", "line 3"),
    ],
)
def test_a_malformed_xc_line_is_numbered(text, message, tmp_path):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_corpus(tmp_path / "train.txt")


def test_a_set_of_the_mirror_is_read_and_a_damaged_one_is_refused(
    mirror, tmp_path, monkeypatch
):
    if not (mirror / "ranking" / "bibtex").is_dir():
        pytest.skip("the mirror has no ranking sets")
    c = load_corpus("bibtex")
    assert c.X.shape == (4880, 1836) and c.Y.shape[1] == 159 and len(c.names) == 159
    copy = tmp_path / "ranking" / "bibtex"
    copy.mkdir(parents=True)
    for f in (mirror / "ranking" / "bibtex").iterdir():
        (copy / f.name).write_bytes(f.read_bytes())
    (copy / "X_trn.npz").write_bytes(b"PK")
    monkeypatch.setenv("FORECASTLAB_DATA", str(tmp_path))
    with pytest.raises(OSError, match="damaged files: .*X_trn.npz"):
        load_corpus("bibtex")
    monkeypatch.delenv("FORECASTLAB_DATA")
    with pytest.raises(FileNotFoundError, match="FORECASTLAB_DATA"):
        load_corpus("bibtex")


def test_the_search_box_is_the_same_every_time():
    a, b = search_corpus(each=2, test=1, seed=3), search_corpus(each=2, test=1, seed=3)
    assert a.texts == b.texts
    assert a.texts_test == b.texts_test
    assert len(a.texts) == 2 * len(a.names)
    assert_allclose(a.Y.indices, b.Y.indices)
    assert json.dumps(a.names)
