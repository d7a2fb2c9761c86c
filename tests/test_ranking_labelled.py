"""Tables of texts and labels, as people export them, and what xmr_train makes of them.

Every kind of file that was tried by hand, and small sets on which little can be learnt.
"""

import contextlib
import gzip

import matplotlib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

matplotlib.use("Agg")
pytest.importorskip(
    "numba", reason="ranking needs numba: pip install 'forecastlab[ranking]'"
)

from forecastlab.core.basics import LabError
from forecastlab.core.runs import load_json
from forecastlab.ranking.corpus import hold_out, read_corpus
from forecastlab.ranking.estimator import ExtremeClassifier
from forecastlab.ranking.files import read_text2text, read_xc, text_lines
from forecastlab.ranking.labelled import read_labelled
from forecastlab.ranking.text import fit_vectorizer
from toys import walk

WORDS = "red blue green small large round flat soft hard warm".split()
GOODS = "cup plate spoon lamp chair scarf bowl glass".split()
QUICK = dict(trees=1, threads=1)


def goods(n, seed=0):
    "Texts that name a thing, and the thing."
    rng = np.random.default_rng(seed)
    named = rng.integers(0, len(GOODS), n)
    texts = [f"{rng.choice(WORDS)} {rng.choice(WORDS)} {GOODS[i]}" for i in named]
    return texts, [GOODS[i] for i in named]


def written(path, texts, labels, **more):
    pd.DataFrame(dict(text=texts, labels=labels, **more)).to_csv(path, index=False)
    return str(path)


# --- reading


@pytest.mark.parametrize(
    "content, labels",
    [
        (b"text,labels\nred boots,shoes\nsaw,\n", [["shoes"], []]),
        ("text;labels\nGrün;a|b\nx;c\n".encode("latin-1"), [["a", "b"], ["c"]]),
        ("text\tlabels\nред\tобувь\n".encode("utf-16"), [["обувь"]]),
        (b"\xef\xbb\xbftext,labels\nx,a\n", [["a"]]),
        (b"text,labels\nx,007\ny,7\n", [["007"], ["7"]]),
        (b"text,labels\nx,\"['a', 'b c']\"\ny,[]\n", [["a", "b c"], []]),
        (b"text,labels\nx,\"['a' 'b c']\"\n", [["a", "b c"]]),
        (b'text\tlabels\nx\t["a", "b, c"]\ny\t[3]\n', [["a", "b, c"], ["3"]]),
        (
            b'text,labels\nx,"a,b"\ny,"b,a"\nz,a\nq,b\n',
            [["a", "b"], ["b", "a"], ["a"], ["b"]],
        ),
        (b'text,labels\nx,"Paris, France"\ny,"Oslo, Norway"\n', None),
        (b'text,labels\n"a ""b"",\nc",x\n5" pipe,y\n', [["x"], ["y"]]),
        (b"text,labels\nNA,NA\nnull,None\n", [["NA"], ["None"]]),
    ],
)
def test_labels_are_read_from_any_way_of_writing(content, labels, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    found = read_labelled(tmp_path / "a.csv").labels
    assert found == (labels or [["Paris, France"], ["Oslo, Norway"]])


def test_a_separator_overrules_what_was_noticed(tmp_path):
    (tmp_path / "a.csv").write_text('text,labels\nx,"a;b"\ny,"c,d"\n')
    read = lambda s: read_labelled(tmp_path / "a.csv", separator=s)
    assert read("auto").labels == [["a", "b"], ["c,d"]]
    assert "parted by ';'" in read("auto").notes[0]
    assert read(",").labels == [["a;b"], ["c", "d"]]
    assert read("none").labels == [["a;b"], ["c,d"]]


@pytest.mark.parametrize(
    "labels, expected",
    [
        (pa.array([[1, 2], [], [0]], pa.list_(pa.int64())), [[1, 2], [], [0]]),
        (pa.array([[1], [2], [0]], pa.large_list(pa.int32())), [[1], [2], [0]]),
        (pa.array([["x", "x"], None, ["z"]]), [["x"], [], ["z"]]),
        (pa.array(["x", None, "y"]).dictionary_encode(), [["x"], [], ["y"]]),
        (pa.array([3, None, 5]), [[3], [], [5]]),
        (pa.array([3.0, None, 5.0]), [[3], [], [5]]),
        (pa.array([True, False, None]), [["True"], ["False"], []]),
    ],
)
def test_typed_labels_keep_their_type(labels, expected, tmp_path):
    table = pa.table({"text": ["a", None, "c"], "labels": labels})
    pq.write_table(table, tmp_path / "a.parquet")
    found = read_labelled(tmp_path / "a.parquet")
    assert (found.texts, found.labels) == (["a", "", "c"], expected)
    (tmp_path / "many").mkdir()
    pq.write_table(table, tmp_path / "many" / "0.parquet")
    assert read_labelled(tmp_path / "many").labels == expected


@pytest.mark.parametrize(
    "text, labels, fault",
    [
        ([1, 2], [[1], [2]], "must hold strings"),
        (["a", "b"], [[0.5], [1.0]], "must hold lists"),
        (["a", "b"], [0.5, 1.0], "not measured numbers"),
        (["a", "b"], [[1], [None]], "empty label in rows: 1"),
    ],
)
def test_a_table_that_cannot_be_is_refused(text, labels, fault, tmp_path):
    pq.write_table(pa.table({"text": text, "labels": labels}), tmp_path / "a.parquet")
    with pytest.raises(LabError, match=fault):
        read_labelled(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "name, content, fault",
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"text,labels\n", "no rows"),
        ("a.csv", b"text\nx\ny\n", "one column"),
        ("a.parquet", b"no", "parquet"),
        (
            "a.csv.gz",
            gzip.compress(b"text,labels\nx,a\n", mtime=0)[:-9],
            "truncated or corrupt",
        ),
        ("a.json", b"{}", "cannot tell the form"),
    ],
)
def test_files_that_are_none_are_refused_in_words(name, content, fault, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabError, match=fault):
        read_corpus(tmp_path / name)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_the_only_column_is_proposed(name, tmp_path):
    content = b"body\nred or blue\nsmall cup\n"
    packed = name.endswith(".gz")
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(LabError, match="It has: body. Say `-p text_column body`"):
        read_labelled(tmp_path / name, "text", None, door="command")
    found = read_labelled(tmp_path / name, "body", None)
    assert found.texts == ["red or blue", "small cup"]


def test_a_missing_column_is_refused_and_the_likeliest_proposed(tmp_path):
    texts, labels = goods(30)
    table = pd.DataFrame(dict(nr=range(30), title=texts, shop_topic=labels))
    for name in ("a.csv", "a.parquet"):
        path = tmp_path / name
        write = table.to_csv if name == "a.csv" else table.to_parquet
        write(path, index=False)
        with pytest.raises(LabError, match="text='title', labels='shop_topic'"):
            read_labelled(path)
        with pytest.raises(LabError) as refused:
            read_labelled(path, door="command")
        mend = "`-p text_column title` `-p labels_column shop_topic`"
        assert mend in str(refused.value)


def test_texts_alone_may_hold_every_mark(tmp_path):
    (tmp_path / "a.csv").write_text('text\nred, blue\n"a ""b"""\nplain; too\n')
    found = read_labelled(tmp_path / "a.csv", labels=None)
    assert found.texts == ["red, blue", 'a "b"', "plain; too"]


def test_lines_of_text_come_in_any_encoding(tmp_path):
    path = tmp_path / "a.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "latin-1"):
        path.write_bytes("Füße\r\nGrün\r\n".encode(encoding))
        assert text_lines(path) == ["Füße", "Grün"], encoding
    path.write_bytes("\ufeff4\those\n".encode())
    assert read_text2text(path)[0].indices.tolist() == [4]


def test_a_packed_file_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"2 3 4\n0 0:1\n1 1:1\n", mtime=0)[:-9])
    for read in (read_xc, text_lines):
        with pytest.raises(LabError, match="cut off"):
            read(path)


def test_integer_labels_stay_numbers_and_meet_words_of_digits(tmp_path):
    frame = pd.DataFrame(dict(text=["a", "b"], labels=[90_000_000, 7]))
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("text,labels\nx,7\ny,boat\n")
    c = read_corpus(tmp_path / "a.parquet", tmp_path / "b.csv")
    assert (c.names, c.unseen) == ([7, 90_000_000], ["boat"])
    assert c.Y_test.toarray().tolist() == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("form", ["table", "text2text", "xc"])
def test_labels_that_only_testing_has_count_are_dropped_or_refused(form, tmp_path):
    a, b = {
        "table": ("text,labels\nx,0\ny,1\n", "text,labels\nx,0|2\ny,2\nz,\n"),
        "text2text": ("0\tx\n1\ty\n", "0,2\tx\n2\ty\n\tz\n"),
        "xc": ("2 2 2\n0 0:1\n1 1:1\n", "3 2 3\n0,2 0:1\n2 1:1\n 1:2\n"),
    }[form]
    suffix = dict(table="csv", text2text="tsv", xc="txt")[form]
    paths = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    for path, content in zip(paths, (a, b)):
        path.write_text(content)
    more = dict(separator="|") if form == "table" else {}
    counted = read_corpus(*paths, **more)
    assert counted.Y_test.toarray().tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    dropped = read_corpus(*paths, unseen="drop", **more)
    assert dropped.Y_test.toarray().tolist() == [[1, 0], [0, 0]]
    with pytest.raises(LabError, match="no training row has: 2"):
        read_corpus(*paths, unseen="refuse", **more)


def test_rows_are_held_out_with_labels_where_there_are_any(tmp_path):
    texts, labels = goods(60)
    rare = [label if i < 2 else "" for i, label in enumerate(labels)]
    corpus = read_corpus(written(tmp_path / "a.csv", texts, rare))
    for seed in range(5):
        part = hold_out(corpus, 0.1, seed)
        assert part.Y.nnz and part.Y_test.nnz
        assert sorted(part.ids + part.ids_test) == list(range(60))
        assert [texts[i] for i in part.ids_test] == part.texts_test
    lone = read_corpus(written(tmp_path / "b.csv", texts, ["a"] + [""] * 59))
    with pytest.raises(LabError, match="nothing to train on"):
        hold_out(lone)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_table_is_read_or_refused_in_words(seed, tmp_path):
    rng = np.random.default_rng(seed)
    files = {
        "a.csv": b'text,labels\n"red, boots",shoes\nsaw,"[\'a\', 3]"\n',
        "b.tsv": b"3,17\tred boots\n2::0.5\tsaw\n",
        "c.txt": b"2 3 4\n0,3 0:0.5 2:1\n1 1:1\n",
        "d.csv": "text;labels\nGrün;a|b\nx;c\n".encode("utf-16"),
        "e.csv.gz": gzip.compress(b"text,labels\nx,a\ny,b\n", mtime=0),
    }
    for _ in range(15):
        for name, content in files.items():
            data = bytearray(content)
            for at in rng.integers(len(data), size=rng.integers(1, 4)):
                data[at] = int(rng.integers(256))
            (tmp_path / name).write_bytes(bytes(data[: rng.integers(1, 2 * len(data))]))
            with contextlib.suppress(LabError):
                hold_out(read_corpus(tmp_path / name), 0.5)


# --- texts that are hard to learn from


def test_few_texts_and_texts_without_blanks_have_terms():
    few = fit_vectorizer([f"title{i} thing{i}" for i in range(30)])
    assert few.transform(["thing7"]).nnz
    tokyo = fit_vectorizer(["東京の天気", "大阪の地図", "東京の地図"])
    assert {"東京", "地図"} <= set(tokyo.names)
    with pytest.raises(LabError, match="has a word"):
        fit_vectorizer(["", "!!!", "🙂"])


def test_a_text_without_known_words_is_answered_by_what_is_common(tmp_path):
    texts, _ = goods(100)
    labels = ["often"] * 70 + ["seldom"] * 30
    m = ExtremeClassifier(**QUICK).fit(texts, labels)
    m.save(tmp_path / "m")
    for model in (m, ExtremeClassifier.load(tmp_path / "m")):
        for answers in (model.predict_proba(["", "qqq"]), model.rank(["", "qqq"])):
            assert np.allclose(answers.toarray(), [[0.7, 0.3]] * 2)
            assert answers.indices.tolist() == [0, 1] * 2
    both = m.rank(["red cup", "", "warm lamp"], 1)
    alone = m.rank(["red cup", "warm lamp"], 1)
    assert np.allclose(both.toarray()[[0, 2]], alone.toarray())


def test_an_explanation_is_of_all_trees_together():
    texts, labels = goods(120)
    m = ExtremeClassifier(trees=3, leaf=3, branches=2, threads=1).fit(texts, labels)
    why = m.explain("red cup", "cup", most=999)
    assert why.verdict.startswith("'cup' is answer 1 of 3 trees together")
    assert why.reached and len(why.trees) == 3
    margins = [e.path.margin.sum() for e in why.trees]
    assert np.isclose(why.words.share.sum(), np.mean(margins), atol=1e-4)
    kinds = dict(zip(why.words.word, why.words.kind))
    assert kinds["cup"] == "word" and kinds["(bias)"] == "bias"
    assert "piece" in kinds.values()
    left = why.without.set_index("word")
    assert left.loc["cup", "change"] < left.loc["red", "change"]
    score = m.rank(["red cup"], 8)[0, list(m.classes_).index("cup")]
    assert np.allclose(left.score - left.change, score, atol=1e-5)
    assert "[" in str(why) and "_" in str(why)
    lost = m.explain("red cup", "lamp", k=1)
    assert not lost.reached and "not among the answers" in lost.verdict
    assert len(why.plot()) == 2


# --- runs

RUSSIAN = "красная чашка|синяя лампа|зелёный стул".split("|")
TEXTS, LABELS = goods(60)
SETS = {
    "thirty rows": (TEXTS[:30], LABELS[:30]),
    "each label once": (
        [f"word{i} thing" for i in range(30)],
        list(map(str, range(30))),
    ),
    "empty texts": (["" if i % 4 else t for i, t in enumerate(TEXTS)], LABELS),
    "texts of another alphabet": (
        [RUSSIAN[i % 3] for i in range(40)],
        [f"ж{i % 3}" for i in range(40)],
    ),
    "one label": (TEXTS, ["cup"] * 60),
    "labels with a mark between them": (TEXTS, [f"{x};kitchen" for x in LABELS]),
    "equal texts": (["red cup"] * 40, ["cup", "mug"] * 20),
    "texts without words": (
        [t if i % 2 else "!!!" for i, t in enumerate(TEXTS)],
        LABELS,
    ),
    "two rows": (["red cup", "blue cup"], ["cup", "cup"]),
    "few labels": (TEXTS, ["cup" if i < 3 else "" for i in range(60)]),
}


@pytest.mark.parametrize("name", SETS)
def test_a_hard_set_ends_with_a_report_and_predictions(name, tmp_path):
    data = written(tmp_path / "a.csv", *SETS[name])
    names, said = walk("xmr_train", **QUICK, data=data, out=str(tmp_path / "run"))
    at = tmp_path / "run" / "artifacts"
    told = pd.read_csv(at / "predictions.csv", keep_default_na=False)
    assert list(told)[:5] == ["row", "id", "place", "label", "score"]
    assert list(told)[-3:] == ["right", "truth", "text"]
    texts = SETS[name][0]
    assert all(texts[i] == text for i, text in zip(told.id, told.text))
    for table in ("baselines", "thresholds", "labels", "errors", "tail", "beams"):
        assert (at / f"{table}.csv").stat().st_size > 20
    for ax in names["figure"].axes:
        assert ax.lines or ax.patches or ax.collections or ax.containers
    for table in (names["found"].beams, names["found"].sizes, names["found"].baselines):
        assert (table.low <= table["P@1"] + 1e-9).all()
        assert (table["P@1"] <= table.high + 1e-9).all()
    m = load_json(tmp_path / "run" / "metrics.json")
    assert m["p1_low"] <= m["p1"] <= m["p1_high"]


def test_a_set_without_any_hit_is_a_result(tmp_path):
    rng = np.random.default_rng(0)
    letters = "alpha beta gamma delta epsilon zeta eta theta".split()
    texts = [" ".join(rng.choice(letters, 4)) for _ in range(100)]
    data = written(
        tmp_path / "a.csv", texts, [f"L{i}" for i in rng.integers(0, 80, 100)]
    )
    names, said = walk("xmr_train", **QUICK, data=data, out=str(tmp_path / "run"))
    assert names["p"][0] == 0 or names["p"][0] < 20
    errors = names["found"].errors
    assert len(errors) and set(errors.text) <= set(texts)
    assert errors.promised.is_monotonic_decreasing


@pytest.mark.parametrize(
    "test_rows, unseen, message",
    [
        ([], "count", "no rows"),
        ([("x", "")], "count", "no test row has a label"),
        ([("x", "boat")], "drop", "no test row has a label"),
        ([("x", "boat")], "refuse", "no training row has: boat"),
    ],
)
def test_a_test_that_cannot_be_is_refused_before_training(
    test_rows, unseen, message, tmp_path
):
    data = written(tmp_path / "a.csv", *goods(40))
    test = tmp_path / "b.csv"
    test.write_text("text,labels\n" + "".join(f"{t},{n}\n" for t, n in test_rows))
    with pytest.raises(LabError, match=message):
        walk("xmr_train", data=data, test=str(test), unseen=unseen)


def test_csv_in_and_out_with_names_of_rows(tmp_path):
    texts, labels = goods(80)
    data = written(
        tmp_path / "a.csv", texts, labels, sku=[f"{i:04}" for i in range(80)]
    )
    run = tmp_path / "run"
    walk("xmr_train", **QUICK, report=False, data=data, id_column="sku", out=str(run))
    told = pd.read_csv(run / "artifacts" / "predictions.csv", dtype=dict(id=str))
    assert all(texts[int(i)] == text for i, text in zip(told.id, told.text))
    assert told.probability.between(0, 1).all()
    new = tmp_path / "new.csv"
    new.write_bytes("sku;text\n0007;warm grün cup\n0008;\n".encode("latin-1"))
    _, said = walk(
        "xmr_predict",
        model=str(run / "artifacts" / "model"),
        data=str(new),
        id_column="sku",
        explain_rows=2,
        k=1,
        threads=1,
        out=str(tmp_path / "asked"),
    )
    asked = pd.read_csv(
        tmp_path / "asked/artifacts/predictions.csv", dtype=dict(id=str)
    )
    assert list(asked) == ["row", "id", "place", "label", "score", "kind", "text"]
    assert asked.id.tolist() == ["0007", "0008"]
    assert asked.label[0] == "cup" and asked.text[0] == "warm grün cup"
    assert "no word of it is known" in said
    assert "1 of 2 rows have no known word" in said
