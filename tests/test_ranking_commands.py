"""The command line: libpecos' options and files, and what is refused and how.

Folders hold no pickles; there is a workspace; questions come from standard input too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from forecastlab.ranking import commands, labels, two_means
from forecastlab.ranking.chain import load_chain
from forecastlab.ranking.commands import COMMANDS
from forecastlab.core.sparse import load_matrix, save_matrix
from forecastlab.ranking.options import ELSEWHERE, read_params, skeleton
from forecastlab.ranking.text import Vectorizer
from forecastlab.ranking.text2text import Text2Text
from forecastlab.ranking.xrlinear import XRLinear
from toys import unsealed

THINGS = "red apple,green apple,yellow banana,fast car,slow car,blue böat".split(",")


@pytest.fixture
def files(tmp_path):
    "Texts and matrices."
    rng = np.random.default_rng(0)
    which = np.tile(np.arange(6), 12)
    texts = [
        " ".join(
            rng.permutation(
                [
                    *THINGS[i].split(),
                    *rng.choice(["a", "nice", "old", "für", "sale"], 2),
                ]
            )
        )
        for i in which
    ]
    (tmp_path / "items.txt").write_text("\n".join(THINGS) + "\n", encoding="utf-8")
    (tmp_path / "train.tsv").write_text(
        "".join(f"{i}\t{t}\n" for i, t in zip(which, texts)), encoding="utf-8"
    )
    save_matrix(
        tmp_path / "Y.npz",
        sp.csr_matrix((np.ones(72, np.float32), which, np.arange(73))),
    )
    save_matrix(tmp_path / "X.npz", Vectorizer({"type": "tfidf"}).fit_transform(texts))
    return tmp_path


def training(d, *more, to="model"):
    "Words that train a model on the matrices in a folder."
    line = f"train -x {d}/X.npz -y {d}/Y.npz -m {d}/{to} -n 1 --verbose-level 0"
    return [*line.split(), *more]


def texts(d, *more, to="t2t"):
    "Words that train a model on the texts in a folder."
    files = f"-i {d}/train.tsv -q {d}/items.txt -m {d}/{to}"
    return [*f"text2text-train {files} -n 1 --verbose-level 0".split(), *more]


# ---- matrices


def test_a_model_is_trained_asked_and_evaluated(files, xr):
    assert xr(*training(files, "--max-leaf-size", 2, "--nr-splits", 2)) == (0, "", "")
    model = XRLinear.load(files / "model")
    assert model.depth == 3
    code, out, _ = xr(
        f"predict -x {files}/X.npz -m {files}/model -y {files}/Y.npz"
        f" -o {files}/P.npz -k 3 -b 2 -pp sigmoid -n 1"
    )
    expected = model.predict(
        load_matrix(files / "X.npz"), k=3, beam=2, post="sigmoid", threads=1
    )
    assert code == 0 and out.startswith("==== evaluation results ====\nprec   = 100.00")
    np.testing.assert_allclose(
        load_matrix(files / "P.npz").toarray(), expected.toarray()
    )
    assert xr("evaluate", "-y", files / "Y.npz", "-p", files / "P.npz", "-k", 2) == (
        0,
        "==== evaluation results ====\nprec   = 100.00 50.00\nrecall = 100.00 100.00\n",
        "",
    )


def test_parts_give_the_same_predictions_in_the_same_order(files, xr):
    xr(*training(files))
    one = ["predict", "-x", files / "X.npz", "-m", files / "model", "-n", 1]
    for name, more in dict(whole=[], parts=["-B", 5]).items():
        assert xr(*one, "-o", files / f"{name}.npz", *more)[0] == 0
    with np.load(files / "whole.npz") as A, np.load(files / "parts.npz") as B:
        for key in ("indptr", "indices", "data"):
            np.testing.assert_allclose(A[key], B[key], rtol=1e-6)


def test_every_training_option_reaches_the_model(files, xr):
    base = (
        XRLinear.train(
            load_matrix(files / "X.npz"),
            load_matrix(files / "Y.npz"),
            progress=False,
            threads=1,
        )
        .weights[-1]
        .toarray()
    )
    for more in (
        ["-s", "L2R_LR_DUAL"],
        ["-s", "L2R_L1LOSS_SVC_DUAL"],
        ["--Cp", 3],
        ["--Cn", 3],
        ["--bias", 0],
        ["-t", 0.3],
        ["-z", 2],
        ["--eps", 1e-4],
        ["--max-leaf-size", 3],
    ):
        assert xr(*training(files, *more))[0] == 0
        assert not np.array_equal(
            XRLinear.load(files / "model").weights[-1].toarray(), base
        ), more
    xr(*training(files, "-k", 4, "-b", 3, "-pp", "log-sigmoid", "--max-leaf-size", 3))
    m = XRLinear.load(files / "model")
    assert (m.k, m.beam, m.post) == (4, [3], "log-sigmoid")
    xr(*training(files, "--max-leaf-size", 3, "--seed", 3))
    a = XRLinear.load(files / "model").chain[-1]
    xr(*training(files, "--max-leaf-size", 3, "--seed", 3))
    assert (a != XRLinear.load(files / "model").chain[-1]).nnz == 0


def test_dense_features_and_label_features(files, xr):
    np.save(files / "X.npy", load_matrix(files / "X.npz").toarray())
    np.save(files / "Z.npy", np.eye(6, 3, dtype=np.float32) + 0.1)
    code, _, _ = xr(
        f"train -x {files}/X.npy -y {files}/Y.npz -m {files}/m -f {files}/Z.npy"
        " --max-leaf-size 3 -n 1"
    )
    assert code == 0
    _, out, _ = xr(f"predict -x {files}/X.npy -m {files}/m -y {files}/Y.npz")
    assert out.startswith("==== evaluation results ====\nprec   = 100.00")


@pytest.mark.parametrize(
    "words, expected",
    [
        (
            ["-x", "X.npz", "-y", "X.npz", "-m", "m", "--min-n-sub-tree", "4"],
            "unknown option --min-n-sub-tree: there is no MPI",
        ),
        (
            ["-x", "X.npz", "-y", "Y.npz", "-m", "m", "--treshold", ".1"],
            "did you mean --threshold",
        ),
        (["-x", "X.npz", "-y", "Y.npz"], "-m/--model-folder"),
        (["-x", "no.npz", "-y", "Y.npz", "-m", "m"], "no such matrix file: .*no.npz"),
        (
            ["-x", "items.txt", "-y", "Y.npz", "-m", "m"],
            "items.txt is a table or a text, no matrix",
        ),
        (["-x", "X.npz", "-y", "short.npz", "-m", "m"], "72 rows, .*short.npz has 10"),
        (
            ["-x", "X.npz", "-y", "Y.npz", "-m", "."],
            "only a folder with ranker/param.json is replaced",
        ),
        (["-x", "X.npz", "-y", "Y.npz", "-m", "X.npz"], "this has none: X.npz"),
        (
            ["-x", "X.npz", "-y", "Y.npz", "-m", "m", "-s", "SVM"],
            "-s/--solver-type.*invalid choice",
        ),
        (
            ["-x", "X.npz", "-y", "Y.npz", "-m", "m", "-r", "Y.npz"],
            "--rel-mode is disable",
        ),
        (["-x", "X.npz", "-y", "Y.npz", "-m", "m", "-c", "Y.npz"], "labels"),
        (["-x", "X.npz", "-y", "Y.npz", "-m", "m", "--Cp", "-1"], "Cp must be"),
        (
            ["-x", "X.npz", "-y", "Y.npz", "-m", "m", "--spherical", "maybe"],
            "neither true nor false",
        ),
        (["-x", "X.npz", "-y", "Y.npz", "-m", "m", "-ns", "xyz"], "invalid choice"),
    ],
)
def test_bad_training_is_one_line(words, expected, files, xr, monkeypatch):
    monkeypatch.chdir(files)
    save_matrix("short.npz", load_matrix("Y.npz")[:10])
    before = sorted(files.rglob("*"))
    code, out, err = xr("train", *words)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert __import__("re").search(expected, err), err
    # nothing written, nothing lost
    assert sorted(files.rglob("*")) == before


def test_bad_prediction_is_one_line(files, xr):
    xr(*training(files))
    save_matrix(files / "other.npz", sp.csr_matrix((3, 4), dtype=np.float32))
    (files / "m2").mkdir()
    for words, expected in (
        (["-x", files / "other.npz", "-m", files / "model"], "features"),
        (["-x", files / "X.npz", "-m", files / "m2"], "missing"),
        (
            ["-x", files / "X.npz", "-m", files / "model", "-so", files / "other.npz"],
            "rows",
        ),
        (["-x", files / "X.npz", "-m", files / "model", "-k", 0], "at least 1"),
        (["-x", files / "X.npz", "-m", files / "model", "-B", 0], "at least 1"),
    ):
        code, out, err = xr("predict", *words)
        assert code == 2 and out == "" and err.count("\n") == 1 and expected in err, err


def test_negatives_without_usn_are_noticed(files, xr):
    code, _, err = xr(
        f"train -x {files}/X.npz -y {files}/Y.npz -m {files}/m -uy {files}/Y.npz -n 1"
    )
    assert code == 0 and "add usn" in err and "XRLinear" in err


def test_a_model_is_replaced_and_a_failed_training_leaves_it(files, xr):
    xr(*training(files))
    old = (files / "model" / "ranker" / "0.model" / "W.npz").read_bytes()
    assert xr(*training(files, "-t", 0.3))[0] == 0
    new = (files / "model" / "ranker" / "0.model" / "W.npz").read_bytes()
    assert new != old
    assert xr(*training(files, "--max-leaf-size", 0))[0] == 2
    assert (files / "model" / "ranker" / "0.model" / "W.npz").read_bytes() == new


# ---- parameter files


def test_a_skeleton_of_settings_trains_what_it_says(files, xr):
    code, out, _ = xr("train", "--generate-params-skeleton")
    assert code == 0
    assert set(json.loads(out)) == {"train_params", "pred_params", "indexer_params"}
    given = json.loads(out)
    given["indexer_params"]["max_leaf_size"] = 3
    given["train_params"]["hlm_args"]["model_chain"]["threshold"] = 0.3
    (files / "p.json").write_text(json.dumps(given))
    assert xr(*training(files, "--params-path", files / "p.json"))[0] == 0
    a = XRLinear.load(files / "model")
    assert a.depth == 2 and abs(a.weights[-1].data).min() >= 0.3
    # the command line wins
    assert xr(*training(files, f"--params-path={files / 'p.json'}", "-t", 0))[0] == 0
    assert abs(XRLinear.load(files / "model").weights[-1].data).min() < 0.1
    assert xr("text2text-train", "--generate-params-skeleton")[0] == 0


def test_layers_of_libpecos_in_a_parameter_file_are_read(tmp_path):
    layer = dict(
        threshold=0.2,
        solver_type="L2R_LR_DUAL",
        Cp=1.0,
        verbose=0,
        threads=-1,
        newton_eps=0.01,
        __meta__={"class_fullname": "x"},
    )
    path = tmp_path / "p.json"
    train = dict(
        mode="full-model",
        ranker_level=1,
        shallow=False,
        min_codes=None,
        nr_splits=16,
        hlm_args=dict(neg_mining_chain=["tfn", "tfn+man"], model_chain=[layer, layer]),
    )
    pred = dict(
        hlm_args=dict(
            model_chain=[
                dict(only_topk=5, post_processor="l3-hinge"),
                dict(only_topk=20, post_processor="l3-hinge"),
            ]
        )
    )
    path.write_text(
        json.dumps(
            dict(
                train_params=train,
                pred_params=pred,
                indexer_params=dict(nr_splits=8, do_sample=False, warmup_ratio=0.4),
            )
        )
    )
    assert read_params(path) == dict(
        nr_splits=8,
        neg_mining_chain=["tfn", "tfn+man"],
        threshold=0.2,
        solver_type="L2R_LR_DUAL",
        Cp=1.0,
        beam_size=[5],
        only_topk=20,
        post_processor="l3-hinge",
    )


def test_a_parameter_file_that_cannot_be_is_refused(tmp_path):
    path = tmp_path / "p.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="no parameter file"):
        read_params(path)
    unequal = dict(model_chain=[dict(Cp=1), dict(Cp=2)])
    for bad, message in (
        (dict(train_params=dict(mode="ranker")), "mode = 'ranker' is not supported"),
        (dict(indexer_params=dict(do_sample=True)), "do_sample"),
        (dict(x=dict(colour=1)), "colour"),
        (dict(t=unequal), "differs from layer to layer"),
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=message):
            read_params(path)


def test_layers_of_a_parameter_file_reach_the_model(files, xr):
    chain = dict(neg_mining_chain=["tfn", "tfn+man"])
    pred = [
        dict(only_topk=2, post_processor="l3-hinge"),
        dict(only_topk=4, post_processor="l3-hinge"),
    ]
    (files / "p.json").write_text(
        json.dumps(
            dict(
                train_params=dict(hlm_args=chain),
                pred_params=dict(hlm_args=dict(model_chain=pred)),
                indexer_params=dict(max_leaf_size=3),
            )
        )
    )
    assert xr(*training(files, "--params-path", files / "p.json"))[0] == 0
    m = XRLinear.load(files / "model")
    assert (m.depth, m.beam, m.k) == (2, [2], 4)


# ---- texts


def test_texts_go_in_and_names_come_out(files, xr, monkeypatch):
    assert xr(*texts(files, "--max-leaf-size", 3)) == (0, "", "")
    (files / "ask.txt").write_text("7\tböat\nan apple so red\n\n", encoding="utf-8")
    ask = ["text2text-predict", "-m", files / "t2t"]
    code, out, err = xr(*ask, "-i", files / "ask.txt", "-k", 2)
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and err == ""
    assert [a["data"][0][0] for a in answers[:2]] == ["blue böat", "red apple"]
    assert all(
        a["schema"] == ["output_item", "score"] and len(a["data"]) == 2 for a in answers
    )
    assert len(answers) == 3
    assert out.isascii()
    assert all(f"{s:.5g}" == f"{s:.7g}" for a in answers for _, s in a["data"])
    assert xr(*ask, "-i", files / "ask.txt", "-k", 2, "-B", 1)[1] == out
    assert xr(*ask, "-i", files / "ask.txt", "-k", 2, "-o", files / "out.txt")[1] == ""
    assert (files / "out.txt").read_text() == out
    monkeypatch.setattr(
        "sys.stdin",
        iter((files / "ask.txt").read_text(encoding="utf-8").splitlines(True)),
    )
    assert xr(*ask, "-k", 2)[1] == out


def test_only_a_line_feed_ends_a_line(files, xr):
    names = [n.replace(" ", "\u2028", 1) for n in THINGS]
    (files / "items.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    assert xr(*texts(files))[0] == 0
    assert Text2Text.load(files / "t2t").items == names
    (files / "ask.txt").write_text("")
    assert xr("text2text-predict", "-m", files / "t2t", "-i", files / "ask.txt") == (
        0,
        "",
        "",
    )


def test_standard_input_is_answered_line_by_line(files, xr, monkeypatch, capsys):
    xr(*texts(files))
    seen = []

    def lines():
        # the answer is out before the next line is read
        for text in ("red apple", "slow car"):
            yield text + "\n"
            seen.append(json.loads(capsys.readouterr().out)["data"][0][0])

    monkeypatch.setattr("sys.stdin", lines())
    assert commands.main(["text2text-predict", "-m", str(files / "t2t")]) == 0
    assert seen == ["red apple", "slow car"]


def test_threshold_notes_and_chosen_names(files, xr):
    xr(*texts(files))
    (files / "ask.txt").write_text("red apple\nslow car\n")
    (files / "keep.txt").write_text("slow car\nred apple\nno such thing\n")
    (files / "notes.txt").write_text("first\nsecond\n")
    ask = ["text2text-predict", "-m", files / "t2t", "-i", files / "ask.txt"]
    out = [
        json.loads(x)
        for x in xr(*ask, "-T", 0.2, "--meta-info-path", files / "notes.txt")[
            1
        ].splitlines()
    ]
    assert [x["meta_info"] for x in out] == ["first", "second"]
    assert all(s > 0.2 for x in out for _, s in x["data"])
    assert [len(x["data"]) for x in out] == [1, 1]
    code, answers, err = xr(*ask, "--output-to-keep-path", files / "keep.txt")
    assert code == 0
    assert {n for x in answers.splitlines() for n, _ in json.loads(x)["data"]} == {
        "red apple",
        "slow car",
    }
    assert "no such thing" in err
    (files / "keep.txt").write_text("nothing\n")
    code, _, err = xr(*ask, "--output-to-keep-path", files / "keep.txt")
    assert code == 2 and "no label was left" in err
    (files / "notes.txt").write_text("first\n")
    code, _, err = xr(*ask, "--meta-info-path", files / "notes.txt")
    assert code == 2 and "1 lines" in err
    code, _, err = xr(
        "text2text-predict",
        "-m",
        files / "t2t",
        "--meta-info-path",
        files / "notes.txt",
    )
    assert code == 2 and "-i" in err


def test_folder_is_plain_and_whole(files, xr):
    xr(*texts(files))
    names = {p.suffix for p in (files / "t2t").rglob("*") if p.is_file()}
    assert names <= {".json", ".npz", ".npy"}
    for p in (files / "t2t").rglob("*.np[yz]"):
        for A in [np.load(p, allow_pickle=False)]:
            [A[n] for n in A.files] if hasattr(A, "files") else A
    model = Text2Text.load(files / "t2t")
    assert model.items == THINGS and "Text2Text" in repr(model)
    for name in (
        "output_items.json",
        "xlinear_ensemble/config.json",
        "preprocessor/vectorizer.json",
    ):
        content = (files / "t2t" / name).read_bytes()
        (files / "t2t" / name).write_bytes(content[: len(content) // 2])
        with pytest.raises((ValueError, OSError)):
            Text2Text.load(files / "t2t")
        (files / "t2t" / name).unlink()
        with pytest.raises((ValueError, OSError)):
            Text2Text.load(files / "t2t")
        (files / "t2t" / name).write_bytes(content)
    (unsealed(files / "t2t") / "output_items.json").write_text('["one"]')
    with pytest.raises(ValueError, match="1 names"):
        Text2Text.load(files / "t2t")


def test_several_models_are_averaged(files, xr):
    xr(*texts(files))
    m = Text2Text.load(files / "t2t")
    other = XRLinear.train(
        m.vectorizer.transform(THINGS),
        sp.identity(6, np.float32, "csr"),
        progress=False,
        threads=1,
    )
    both = Text2Text(m.vectorizer, [m.models[0], other], THINGS)
    both.save(files / "both")
    P = Text2Text.load(files / "both").predict(["red apple"], k=6)
    np.testing.assert_allclose(
        P.toarray(),
        (
            m.predict(["red apple"]).toarray()
            + other.predict(m.vectorizer.transform(["red apple"])).toarray()
        )
        / 2,
        rtol=1e-5,
    )


def test_workspace_is_used_again_and_notices_changes(files, xr, monkeypatch):
    train = texts(files, "--workspace-folder", files / "ws", "--max-leaf-size", 3)
    assert xr(*train)[0] == 0
    first = sorted(p.relative_to(files) for p in (files / "ws").rglob("*"))
    before = (
        files / "t2t" / "xlinear_ensemble" / "0" / "ranker" / "1.model" / "W.npz"
    ).read_bytes()
    with monkeypatch.context() as m:
        for module, name in (
            (two_means, "hierarchical_kmeans"),
            (labels, "label_embedding"),
        ):
            m.setattr(module, name, lambda *a, **k: pytest.fail("made again"))
        m.setattr(Vectorizer, "fit", lambda *a: pytest.fail("fitted again"))
        assert xr(*train)[0] == 0
        assert xr(*train, "--Cp", 2)[0] == 0
        assert xr(*train)[0] == 0
    assert sorted(p.relative_to(files) for p in (files / "ws").rglob("*")) == first
    assert (
        files / "t2t" / "xlinear_ensemble" / "0" / "ranker" / "1.model" / "W.npz"
    ).read_bytes() == before
    assert xr(*train, "--seed", 1)[0] == 0
    assert len(list((files / "ws" / "C").iterdir())) == 2
    assert len(list((files / "ws" / "X").iterdir())) == 1
    with open(files / "train.tsv", "a") as f:
        f.write("0\tpurple apple\n")
    assert xr(*train)[0] == 0
    assert len(list((files / "ws" / "X").iterdir())) == 2
    assert "purple" in Text2Text.load(files / "t2t").vectorizer.names
    assert not list((files / "ws").rglob(".*"))
    load_chain(next((files / "ws" / "C").iterdir()))


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--label-embed-type", "pifa_lf_concat"], "label features"),
        (["--label-embed-type", "spam"], "unknown label representation"),
        (["--label-embed-type", "pifa::Y=x"], "unknown settings in --label-embed-type"),
        (
            ["--label-embed-type", "pifa_lf_convex_combine::Z=X.npz::alpha=x"],
            "alpha in --label-embed-type",
        ),
        (["--vectorizer-config-json", "{"], "no JSON"),
        (["--vectorizer-config-json", '{"type": "spam"}'], "unknown type"),
        (["--vectorizer-config-path", "none.json"], "none.json"),
        (["-i", "bad.tsv"], "line 2 of"),
        (["-i", "many.tsv"], "names label 9, there are 6"),
        (["-m", "."], "only a folder with output_items.json is replaced"),
    ],
)
def test_bad_text_training_is_one_line(words, expected, files, xr, monkeypatch):
    monkeypatch.chdir(files)
    Path("bad.tsv").write_text("1\tfine\nno tab here\n")
    Path("many.tsv").write_text("9\tfine\n")
    save_matrix("X.npz", sp.identity(6, np.float32, "csr"))
    code, out, err = xr(
        "text2text-train", "-i", "train.tsv", "-q", "items.txt", "-m", "t2t", *words
    )
    assert code == 2 and out == "" and err.count("\n") == 1 and expected in err, err


def test_predicted_names_are_evaluated(tmp_path, xr):
    def line(*names):
        scored = [[n, 1.0] for n in names]
        return json.dumps(dict(schema=["output_item", "score"], data=scored)) + "\n"

    predicted = f"text2text-evaluate -p {tmp_path}/p"
    by_number = f"{predicted} -y {tmp_path}/y2 -q {tmp_path}/q"
    (tmp_path / "p").write_text(line("a", "b") + line("c") + line())
    (tmp_path / "y").write_text("a\nb\tc\na\n")
    (tmp_path / "q").write_text("a\nb\nc\n")
    (tmp_path / "y2").write_text("0\tx\n1,2\ty\n0\tz\n")
    expected = (
        "==== evaluation results ====\nprec   = 66.67 33.33\nrecall = 50.00 50.00\n"
    )
    assert xr(f"{predicted} -y {tmp_path}/y -k 2") == (0, expected, "")
    assert xr(f"{by_number} -k 2") == (0, expected, "")
    (tmp_path / "y").write_text("a\n")
    assert "has 1 lines" in xr(f"{predicted} -y {tmp_path}/y")[2]
    (tmp_path / "y2").write_text("0\tx\n7\ty\n0\tz\n")
    assert "names item 7" in xr(by_number)[2]
    (tmp_path / "p").write_text("nonsense\n" * 3)
    code, _, err = xr(by_number)
    assert code == 2 and "cannot be read" in err


# ---- the command itself


def test_help_lists_every_command(xr):
    code, out, _ = xr("--help")
    assert code == 0 and all(name in out for name in COMMANDS)
    for name in COMMANDS:
        code, out, _ = xr(name, "--help")
        assert code == 0 and "--debug" in out
    code, _, err = xr("trian")
    assert code == 2 and "invalid choice" in err
    assert xr()[0] == 2
    own = {
        o
        for name in COMMANDS
        for a in commands.parsers()[1][name]._actions
        for o in a.option_strings
    }
    assert not set(ELSEWHERE) & own


def test_debug_shows_the_traceback(files):
    with pytest.raises(FileNotFoundError):
        commands.main(
            [str(w) for w in training(files, "-f", files / "none.npz", "--debug")]
        )


def test_the_commands_run_as_a_module(files):
    line = f"evaluate -y {files}/Y.npz -p {files}/Y.npz -k 1"
    words = [sys.executable, "-m", "forecastlab.ranking.commands", *line.split()]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (
        0,
        "==== evaluation results ====\nprec   = 100.00\nrecall = 100.00\n",
    ), done.stderr


DUMP = """
import argparse
import json
import runpy
import sys


def dump(self, *words):
    options = [a for a in self._actions if a.option_strings]
    print(json.dumps([[a.option_strings, a.default, a.required] for a in options]))
    sys.exit()


argparse.ArgumentParser.parse_args = dump
sys.argv = ["x"]
runpy.run_module({module!r}, run_name="__main__")
"""


@pytest.mark.parametrize(
    "name, module",
    [
        ("train", "pecos.xmc.xlinear.train"),
        ("predict", "pecos.xmc.xlinear.predict"),
        ("evaluate", "pecos.xmc.xlinear.evaluate"),
        ("text2text-train", "pecos.apps.text2text.train"),
        ("text2text-predict", "pecos.apps.text2text.predict"),
        ("text2text-evaluate", "pecos.apps.text2text.evaluate"),
    ],
)
def test_every_option_of_libpecos_is_here_with_its_default(name, module, peer):
    done = subprocess.run(
        [peer, "-c", DUMP.format(module=module)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    ours = {
        o: a for a in commands.parsers()[1][name]._actions for o in a.option_strings
    }
    for words, default, required in json.loads(done.stdout.splitlines()[-1]):
        for word in words:
            assert word in ours, f"{word} is missing"
            assert word in ("-h", "--help", "--vectorizer-config-json") or (
                ours[word].default == default and ours[word].required == required
            ), f"{word}: {ours[word].default} is not {default}"


def test_a_text2text_folder_of_libpecos_answers_the_same(files, xr, peer):
    def theirs(what, options):
        subprocess.run(
            [peer, "-m", f"pecos.apps.text2text.{what}", *options.split()],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": ""},
        )

    learned = f"-i {files}/train.tsv -q {files}/items.txt -m {files}/theirs"
    asked = f"-m {files}/theirs -i {files}/train.tsv"
    theirs("train", f"{learned} --max-leaf-size 3 -n 1")
    theirs("predict", f"{asked} -o {files}/out.txt")
    code, out, _ = xr(f"text2text-predict {asked}")
    assert code == 0
    for a, b in zip(
        out.splitlines(), (files / "out.txt").read_text().splitlines(), strict=True
    ):
        a, b = (dict(json.loads(x)["data"]) for x in (a, b))
        assert a.keys() == b.keys()
        assert all(abs(a[n] - b[n]) < 2e-5 * max(b[n], 0.01) for n in a)


def test_the_skeleton_holds_the_defaults():
    assert skeleton(
        commands.parsers()[0].parse_args(["train", "-x", "a", "-y", "b", "-m", "c"])
    )["indexer_params"] == dict(
        nr_splits=16, max_leaf_size=100, spherical=True, seed=0, kmeans_max_iter=20
    )
