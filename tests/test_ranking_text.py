"""Vectorizers against libpecos' examples and fixtures, against counting in Python,
against scikit-learn, and everything that can be wrong.
"""

import copy
import json
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from forecastlab.ranking import ngrams
from forecastlab.core.sparse import load_matrix, vstack
from forecastlab.ranking.ngrams import NGrams, Numbers
from forecastlab.ranking.text import Vectorizer
from toys import CORPUS, OF_BOTH, OF_PAIRS, OF_WORDS, unsealed


def tfidf(*parts, norm=2):
    return {
        "type": "tfidf",
        "kwargs": (
            {"norm_p": norm, "base_vect_configs": list(parts)}
            if len(parts) > 1
            else parts[0]
        ),
    }


def some_texts(n=300, seed=0):
    """Texts of a few words in several scripts, some empty, with doubled blanks and one
    of several spaces.
    """
    rng = np.random.default_rng(seed)
    letters = "abcdeéß中文字\U0001f600"
    words = ["".join(rng.choice(list(letters), rng.integers(1, 6))) for _ in range(60)]
    return [
        "  ".join(rng.choice(words, rng.integers(0, 9))) + " " * int(rng.integers(0, 2))
        for _ in range(n)
    ] + ["", " ", "a"]


# libpecos' examples


def one(idf):
    return {"use_idf": idf, "smooth_idf": False, "norm": "l2"}


@pytest.mark.parametrize("idf", [False, True])
def test_examples_of_libpecos_have_their_vectors(idf):
    words, pairs = one(idf), one(idf) | {"ngram_range": [2, 2], "analyzer": "word"}
    both = {
        "type": "tfidf",
        "kwargs": {
            "norm_p": 2,
            "threads": 4,
            "base_vect_configs": [
                words | {"ngram_range": [1, 1]},
                pairs | {"sublinear_tf": False},
            ],
        },
    }
    for config, expected in (
        ({"type": "tfidf", "kwargs": words}, OF_WORDS),
        (
            {
                "type": "tfidf",
                "kwargs": {"norm_p": 2, "threads": 4, "base_vect_configs": [pairs]},
            },
            OF_PAIRS,
        ),
        (both, OF_BOTH),
    ):
        np.testing.assert_allclose(
            Vectorizer(config).fit_transform(CORPUS).toarray(), expected[idf], atol=1e-6
        )
    v = Vectorizer(both).fit(CORPUS)
    np.testing.assert_allclose(
        vstack([v.transform([t]) for t in CORPUS]).toarray(), OF_BOTH[idf], atol=1e-6
    )


@pytest.mark.parametrize(
    "name, config",
    [("tfidf", "tfidf"), ("sklearn_tfidf", "sklearn_tfidf"), ("hashing", "hashing")],
)
def test_fixtures_of_libpecos_are_reproduced(name, config, mirror, tmp_path):
    folder = mirror / "ranking" / "pecos-tst-data" / "utils" / "data"
    if not folder.exists():
        pytest.skip("no pecos-tst-data in the mirror")
    texts = [
        line.split("\t")[1] for line in (folder / "train.src").read_text().splitlines()
    ]
    assert texts == (folder / "train_text.src").read_text().splitlines()
    expected = load_matrix(folder / f"train.{name}.tgt.npz")
    v = Vectorizer(folder / f"{config}_vectorizer_config.json").fit(iter(texts))
    v.save(tmp_path / "v")
    for w in (v, Vectorizer.load(tmp_path / "v")):
        X = w.transform(texts)
        assert isinstance(X, sp.csr_matrix)
        assert X.shape == expected.shape
        assert w.features == X.shape[1]
        np.testing.assert_allclose(X.toarray(), expected.toarray(), atol=1e-6)


# Against counting in Python


def grams(text, s, fitting):
    "n-grams of a text, by slicing."
    words = [w for w in text.split(" ") if w]
    most = s.truncate_length
    low, high = s.ngram_range
    if s.analyzer == "word":
        pieces, glue = [words[:most] if most > 0 else words], " "
    elif s.analyzer == "char" or not (fitting or s.consistent):
        pieces, glue = [list(text[:most] if most > 0 else text)], ""
    else:
        pieces, glue = [], ""
        for w in words:
            w = w[:most] if most > 0 else w
            most -= len(w)
            pieces.append(list(f" {w} "))
    for p in pieces:
        if s.analyzer == "char_wb" and (fitting or s.consistent) and len(p) < low:
            yield tuple(p)
        for n in range(low, high + 1):
            for i in range(len(p) - n + 1):
                yield tuple(p[i : i + n])
    assert glue in (" ", "")


def slow(texts, queries, s):
    "(names, rows) of one part as libpecos defines it."
    df = Counter(g for t in texts for g in set(grams(t, s, True)))
    n = len(texts)
    least = max(s.min_df_cnt, int(s.min_df_ratio * n + 0.5))
    most = int(s.max_df_ratio * n + 0.5)
    most = min(most, s.max_df_cnt) if s.max_df_cnt > 0 else most
    order = sorted((d, len(g), g) for g, d in df.items() if least <= d <= most)
    if s.max_feature:
        order = (
            order[-s.max_feature :]
            if s.keep_frequent_feature
            else order[: s.max_feature]
        )
    column = {g: j for j, (_, _, g) in enumerate(order)}
    idf = [
        max(math.log(n / (d + s.smooth_idf)), 0) + s.add_one_idf for d, _, _ in order
    ]
    rows = np.zeros((len(queries), len(order)))
    for i, t in enumerate(queries):
        for g, c in Counter(grams(t, s, False)).items():
            if g in column:
                j = column[g]
                tf = 1 if s.binary else c
                rows[i, j] = (1 + math.log(tf) if s.sublinear_tf else tf) * (
                    idf[j] if s.use_idf else 1
                )
        size = abs(rows[i]).sum() if s.norm == "l1" else (rows[i] ** 2).sum() ** 0.5
        rows[i] /= size or 1
    return [(" " if s.analyzer == "word" else "").join(g) for _, _, g in order], rows


SETTINGS = [
    dict(),
    dict(ngram_range=(1, 2), smooth_idf=False),
    dict(ngram_range=(2, 3), sublinear_tf=True, add_one_idf=True, max_feature=100),
    dict(
        ngram_range=(1, 3),
        max_feature=50,
        keep_frequent_feature=False,
        max_df_ratio=0.05,
        min_df_ratio=0.007,
    ),
    dict(norm="l1", binary=True, truncate_length=3, ngram_range=(1, 2)),
    dict(use_idf=False, min_df_cnt=9, max_df_cnt=30),
    dict(analyzer="char", ngram_range=(1, 4)),
    dict(analyzer="char", ngram_range=(3, 3), truncate_length=9),
    dict(analyzer="char_wb", ngram_range=(1, 3)),
    dict(analyzer="char_wb", ngram_range=(4, 6)),
    dict(analyzer="char_wb", ngram_range=(4, 6), consistent=True),
    dict(analyzer="char_wb", ngram_range=(2, 4), truncate_length=6, min_df_cnt=2),
]


@pytest.mark.parametrize(
    "settings",
    SETTINGS,
    ids=lambda s: ", ".join(f"{k}={v}" for k, v in s.items()) or "defaults",
)
@pytest.mark.parametrize("batch", [200, 2_000_000])
def test_vectors_equal_counting_in_python(settings, batch, monkeypatch):
    monkeypatch.setattr(ngrams, "BATCH", batch)
    texts, queries = some_texts(), some_texts(40, seed=1) + ["never seen", "a ab a"]
    s = NGrams(**settings)
    names, rows = slow(texts, queries, s)
    v = Vectorizer({"type": "tfidf", "kwargs": settings}).fit(texts)
    assert v.names == names and v.features == len(names)
    X = v.transform(queries)
    np.testing.assert_allclose(X.toarray(), rows, atol=1e-6)
    assert X.dtype == np.float32 and X.has_canonical_format and (X.data != 0).all()


def test_parts_stand_side_by_side():
    texts = some_texts()
    parts = [SETTINGS[1] | {"norm": "l1"}, SETTINGS[8], SETTINGS[7]]
    for norm in (1, 2):
        X = (
            Vectorizer(tfidf(*copy.deepcopy(parts), norm=norm))
            .fit_transform(texts)
            .toarray()
        )
        rows = np.hstack([slow(texts, texts, NGrams(**p))[1] for p in parts])
        size = np.linalg.norm(rows, norm, axis=1, keepdims=True)
        np.testing.assert_allclose(X, rows / np.where(size > 0, size, 1), atol=1e-6)
    # a list of one part is normalised again, a part alone is not
    single = {
        "type": "tfidf",
        "kwargs": {
            "norm_p": 2,
            "base_vect_configs": [{"norm": "l1", "use_idf": False}],
        },
    }
    flat = {"type": "tfidf", "kwargs": {"norm": "l1", "use_idf": False}}
    np.testing.assert_allclose(
        np.linalg.norm(Vectorizer(single).fit_transform(CORPUS).toarray(), 2, axis=1),
        1,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        Vectorizer(flat).fit_transform(["a b", "c b"]).toarray().sum(1), 1, atol=1e-6
    )


# Against scikit-learn


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (
            dict(ngram_range=(1, 2), pattern=r"(?u)\b\w\w+\b", lowercase=True),
            dict(ngram_range=(1, 2)),
        ),
        (
            dict(
                analyzer="char_wb",
                ngram_range=(3, 5),
                pattern=r"\S+",
                lowercase=True,
                consistent=True,
            ),
            dict(analyzer="char_wb", ngram_range=(3, 5)),
        ),
        (
            dict(
                pattern=r"(?u)\b\w\w+\b",
                lowercase=True,
                strip_accents=True,
                sublinear_tf=True,
                min_df_cnt=5,
                norm="l1",
            ),
            dict(strip_accents="unicode", sublinear_tf=True, min_df=5, norm="l1"),
        ),
    ],
)
def test_vectors_equal_those_of_scikit_learn(ours, theirs):
    texts = [t.title() + ", café; über\tx" for t in some_texts()]
    v = Vectorizer(
        {"type": "tfidf", "kwargs": {"smooth_idf": False, "add_one_idf": True, **ours}}
    ).fit(texts)
    w = TfidfVectorizer(smooth_idf=False, dtype=np.float32, **theirs).fit(texts)
    assert sorted(v.names) == sorted(w.vocabulary_)
    order = [w.vocabulary_[n] for n in v.names]
    np.testing.assert_allclose(
        v.transform(texts).toarray(), w.transform(texts).toarray()[:, order], atol=1e-6
    )


# Numbers


def test_numbers_are_those_of_a_dictionary():
    rng = np.random.default_rng(0)
    numbers, known = Numbers(), {}
    for size in (1, 10, 5000, 3, 20_000):
        keys = rng.integers(0, 3000, size) << rng.integers(0, 40)
        expected = [known.setdefault(k, len(known)) for k in keys.tolist()]
        assert numbers(keys, grow=True).tolist() == expected
        assert numbers.count == len(known)
    assert numbers.keys.tolist() == list(known)
    assert numbers(np.array([-5, 2**62])).tolist() == [-1, -1]
    assert Numbers()(np.array([1, 2])).tolist() == [-1, -1]
    assert numbers(np.empty(0, np.int64)).size == 0


# Files


@pytest.mark.parametrize(
    "config",
    [
        None,
        tfidf(SETTINGS[1], SETTINGS[9]),
        {"type": "sklearntfidf", "kwargs": {"ngram_range": [1, 2], "min_df": 2}},
        {"type": "sklearntfidf", "kwargs": {"use_idf": False}},
        {"type": "sklearnhashing", "kwargs": {"n_features": 64}},
        {"type": "hashing"},
    ],
    ids=[
        "default",
        "stacked",
        "sklearntfidf",
        "no idf",
        "hashing",
        "hashing by its other name",
    ],
)
def test_a_vectorizer_comes_back(config, tmp_path):
    texts = some_texts() + ["one two one two", "one two line\nbreak\u2028\ttab"] * 3
    v = Vectorizer(config).fit(texts)
    v.save(tmp_path / "v")
    w = Vectorizer.load(tmp_path / "v")
    queries = texts + ["other words"]
    assert all(p.suffix in (".json", ".npy") for p in (tmp_path / "v").iterdir())
    assert w.features == v.features
    assert w.config == v.config
    assert (w.transform(queries) != v.transform(queries)).nnz == 0
    if v.kind != "sklearnhashing":
        assert w.names == v.names and len(v.names) == v.features
    w.save(tmp_path / "w")
    assert {p.name: p.read_bytes() for p in (tmp_path / "w").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "v").iterdir()
    }


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    v = Vectorizer(tfidf(SETTINGS[1], SETTINGS[8])).fit(some_texts())
    v.save(tmp_path / "v")
    names = sorted(p.name for p in (tmp_path / "v").iterdir())
    assert len(names) == 10
    names.remove("checksums.json")
    for name in names:
        file = tmp_path / "v" / name
        whole = file.read_bytes()
        for broken in (whole[: len(whole) // 2], None, pickle.dumps({})):
            file.unlink() if broken is None else file.write_bytes(broken)
            with pytest.raises(
                OSError,
                match="vectorizer is damaged|no whole vectorizer|no vectorizer in this",
            ):
                Vectorizer.load(tmp_path / "v")
        file.write_bytes(whole)
    (tmp_path / "v" / "checksums.json").write_text("{}")
    with pytest.raises(OSError, match="vectorizer is damaged: .*checksums.json"):
        Vectorizer.load(tmp_path / "v")
    # one of an earlier version has no checksums
    np.save(unsealed(tmp_path / "v") / "keys0.npy", np.zeros(3, np.int64))
    pytest.raises(ValueError, Vectorizer.load, tmp_path / "v").match(
        "does not fit together"
    )
    with pytest.raises(FileNotFoundError, match="no vectorizer"):
        Vectorizer.load(tmp_path / "none")


def libpecos_folder(folder, part, s, config):
    "Write a fitted part as libpecos does."
    tokens = sorted({t for n in part for t in n})
    number = {t: i for i, t in enumerate(tokens)}
    base = folder / "0.base"
    for d in (base / "tokenizer", base / "vectorizer"):
        d.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "meta.json").write_text(
        json.dumps({"type": "tfidf", "kwargs": {"num_base_vect": 1, "norm_p": 2}})
    )
    (base / "tokenizer" / "vocab.txt").write_text(
        f"{len(tokens)}\n" + "".join(f"{i}\t{t}\n" for t, i in reversed(number.items()))
    )
    (base / "vectorizer" / "tfidf-model.txt").write_text(
        f"{len(part)}\n"
        + "".join(
            f"{j}\t{idf:f}\t{len(n)}\t{' '.join(str(number[t]) for t in n)}\n"
            for n, (j, idf) in reversed(part.items())
        )
    )


@pytest.mark.parametrize(
    "settings", [dict(ngram_range=[1, 2]), dict(analyzer="char", ngram_range=[2, 3])]
)
def test_a_folder_of_libpecos_is_read(settings, tmp_path):
    texts = some_texts()
    s = NGrams(**settings)
    v = Vectorizer({"type": "tfidf", "kwargs": settings}).fit(texts)
    idf = v.parts[0].idf
    part = {
        tuple(n.split(" ")) if s.analyzer == "word" else tuple(n): (j, idf[j])
        for j, n in enumerate(v.names)
    }
    libpecos_folder(
        tmp_path / "v",
        part,
        s,
        {
            "type": "tfidf",
            "kwargs": {
                "norm_p": 2,
                "base_vect_configs": [
                    settings
                    | {
                        "min_ngram": 1,
                        "max_ngram": 2,
                        "max_length": -1,
                        "norm_p": 2,
                        "tok_type": 10,
                    }
                ],
            },
        },
    )
    w = Vectorizer.load(tmp_path / "v")
    # libpecos writes six digits
    assert w.names == v.names
    np.testing.assert_allclose(
        w.transform(texts).toarray(), v.transform(texts).toarray(), atol=2e-6
    )
    w.save(tmp_path / "w")
    assert (
        Vectorizer.load(tmp_path / "w").transform(texts) != w.transform(texts)
    ).nnz == 0
    file = tmp_path / "v" / "0.base" / "vectorizer" / "tfidf-model.txt"
    file.write_text(file.read_text()[:-30] + "\n3\tx")
    pytest.raises(ValueError, Vectorizer.load, tmp_path / "v").match(
        "no vectorizer of libpecos"
    )
    (tmp_path / "v" / "config.json").write_text(
        '{"type": "sklearntfidf", "kwargs": {}}'
    )
    pytest.raises(ValueError, Vectorizer.load, tmp_path / "v").match("holds a pickle")


# What cannot be


@pytest.mark.parametrize(
    "config, fault",
    [
        ({"type": "bert"}, "unknown type"),
        ({"kwargs": {}}, "a type and kwargs"),
        ({"type": "tfidf", "more": 1}, "a type and kwargs"),
        ("{broken", "no JSON"),
        ("[1]", "No such file|cannot be read|no such"),
        ({"type": "tfidf", "kwargs": {"min_df": 2}}, "unknown settings: min_df"),
        (tfidf({}, {"stop": 1}), "unknown settings: stop"),
        (
            {"type": "tfidf", "kwargs": {"analyzer": "syllable"}},
            "unknown analyzer: syllable",
        ),
        ({"type": "tfidf", "kwargs": {"ngram_range": [2, 1]}}, "ngram_range"),
        (
            {"type": "tfidf", "kwargs": {"min_df_ratio": 0.5, "max_df_ratio": 0.5}},
            "min_df_ratio",
        ),
        ({"type": "tfidf", "kwargs": {"norm": "l3"}}, "unknown norm"),
        ({"type": "tfidf", "kwargs": {"pattern": "("}}, "regular expression"),
        (tfidf({}, {}, norm=3), "norm_p"),
        (
            {"type": "sklearntfidf", "kwargs": {"ngrams": 2}},
            "unknown settings of TfidfVectorizer: ngrams",
        ),
        (
            {"type": "sklearnhashing", "kwargs": {"tokenizer": str.split}},
            "must be plain values",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(config, fault):
    with pytest.raises((ValueError, FileNotFoundError), match=fault):
        Vectorizer(config)


def test_texts_that_cannot_be_are_refused():
    v = Vectorizer({"type": "tfidf", "kwargs": {}})
    with pytest.raises(ValueError, match="Call fit first"):
        v.transform(["a"])
    with pytest.raises(ValueError, match="Call fit before save"):
        v.save("nowhere")
    with pytest.raises(ValueError, match="one string is no list"):
        v.fit("a b")
    with pytest.raises(ValueError, match="2 of 3 texts are no strings, in rows: 1, 2"):
        v.fit(["a", None, float("nan")])
    for texts in ([], ["", " "]):
        with pytest.raises(ValueError, match="no term is left of 0"):
            v.fit(texts)
    with pytest.raises(ValueError, match="no terms"):
        Vectorizer({"type": "sklearntfidf"}).fit(["", " "])
    with pytest.raises(ValueError, match="keeps no names"):
        _ = Vectorizer({"type": "hashing"}).fit(["a"]).names
    v.fit(["a b"])
    assert v.transform([]).shape == (0, 2) and v.transform(["", "zzz"]).nnz == 0


def test_a_vectorizer_is_not_replaced_unless_asked_for(tmp_path):
    v = Vectorizer(tfidf(SETTINGS[0])).fit(["one two", "two"])
    with pytest.raises(ValueError, match="not seen any text"):
        Vectorizer().save(tmp_path / "v")
    v.save(tmp_path / "v")
    with pytest.raises(FileExistsError, match="already"):
        v.save(tmp_path / "v")
    v.save(tmp_path / "v", overwrite=True)
    assert Vectorizer.load(tmp_path / "v").names == v.names
