"""Products that are alike:

labels against slow oracles, eves that know no later, scores of launched products only.
"""

import numpy as np
import pandas as pd
import pytest

from forecastlab.core.panel import Panel
from forecastlab.demand.alike import Shop, as_launched, bought_with, load_shop
from forecastlab.demand.alike import price_words, rank_texts, reads_alike, same_rank
from forecastlab.demand.alike import sells_alike, sold_alike


@pytest.fixture(scope="module")
def shop():
    "Mugs sell a lot and lamps a little; colours say nothing. One product a week."
    rng = np.random.default_rng(0)
    frames, texts, lines = [], [], []
    for i in range(60):
        noun = ("mug", "lamp")[i % 2]
        t = np.arange(max(0, i - 10), 80)
        y = rng.poisson(50 if noun == "mug" else 5, len(t)) + 1.0
        frames.append(pd.DataFrame({"unique_id": f"p{i:02d}", "ds": t, "y": y}))
        texts.append(
            f"{rng.choice(['red', 'blue', 'green'])} {noun}"
            f" {rng.choice(['small', 'large'])}"
        )
        lines += [
            dict(
                product=i,
                step=s,
                text=texts[-1] + " new" if s % 3 else texts[-1],
                basket=f"{s}-{i // 4}",
            )
            for s in t[::4]
        ]
    return Shop(
        Panel.from_frame(pd.concat(frames), freq=1),
        np.array(texts),
        np.full(60, 2.0),
        pd.DataFrame(lines),
    )


def test_partners_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    basket, product = rng.integers(0, 30, 200), rng.integers(0, 8, 200)
    P = bought_with(basket, product, 9, 2)
    sets = [set(product[basket == b]) for b in range(30)]
    weight = {p: sum(1 / len(s) for s in sets if p in s) for p in range(8)}
    for a in range(8):
        score = {
            b: (
                sum(1 / len(s) ** 2 for s in sets if a in s and b in s)
                / weight[b] ** 0.5
            )
            for b in range(8)
            if b != a
        }
        assert (
            P.indices[P.indptr[a] : P.indptr[a + 1]].tolist()
            == sorted((b for b in score if score[b] > 0), key=lambda b: -score[b])[:2]
        )
    assert P[8].nnz == 0 and bought_with([], [], 3).shape == (3, 3)


def test_labels_are_the_nearest_levels():
    level, launched = (
        np.random.default_rng(2).normal(size=20),
        np.random.default_rng(3).normal(size=50),
    )
    Y = sold_alike(level, launched, 7)
    for i in range(20):
        assert set(Y.indices[Y.indptr[i] : Y.indptr[i + 1]]) == set(
            np.argsort(np.abs(level[i] - launched))[:7]
        )
    assert sold_alike(level, launched[:3], 7).getnnz(1).tolist() == [3] * 20
    moved = same_rank(np.exp(level), launched)
    np.testing.assert_array_equal(np.argsort(moved), np.argsort(level))
    assert len(same_rank([], launched)) == 0


def test_an_eve_knows_no_later(shop):
    eve = shop.eve(40)
    assert (
        (shop.panel.start[eve.launched] + 8 <= 40).all()
        and (eve.lines.step < 40).all()
        and set(eve.launched) | set(eve.others)
        == set(np.flatnonzero(shop.panel.start <= 32))
    )
    new = np.flatnonzero(shop.panel.start >= 40)
    later = (
        np.repeat(shop.panel.start - shop.panel.indptr[:-1], np.diff(shop.panel.indptr))
        + np.arange(shop.panel.rows)
        >= 40
    )
    wild = Shop(
        Panel.from_frame(
            shop.panel.to_frame().assign(y=np.where(later, 9e5, shop.panel.y)), freq=1
        ),
        shop.text,
        shop.price,
        shop.lines.assign(
            text=shop.lines.text.where(shop.lines.step < 40, "nonsense"),
            basket=shop.lines.basket.where(shop.lines.step < 40, "one"),
        ),
    )
    for make in (reads_alike, sells_alike):
        a, b = make(eve, new), make(wild.eve(40), new)
        np.testing.assert_allclose(a.toarray(), b.toarray(), atol=1e-7)
        assert a.shape == (len(new), 60) and set(a.indices) <= set(eve.launched)
        np.testing.assert_allclose(a.sum(1), 1, atol=1e-5)
        assert (a.data >= 0).all()


def test_the_selling_ranker_learns_the_word_that_counts(shop):
    new = np.flatnonzero(shop.panel.start >= 40)
    S = sells_alike(shop.eve(40), new, most=5).toarray()
    mug = np.array(["mug" in t for t in shop.text])
    right = (S[:, mug].sum(1) > S[:, ~mug].sum(1)) == mug[new]
    assert right.mean() > 0.9
    R = reads_alike(shop.eve(40), new, C=1.0).toarray()
    assert (
        np.mean([("mug" in shop.text[j]) == mug[i] for i, j in zip(new, R.argmax(1))])
        > 0.9
    )


def test_cohorts_are_their_eves(shop):
    S = as_launched(shop, sells_alike, first=30, width=10)
    new = np.flatnonzero((shop.panel.start >= 40) & (shop.panel.start < 50))
    np.testing.assert_allclose(
        S[new].toarray(), sells_alike(shop.eve(40), new).toarray(), atol=1e-7
    )
    assert S.getnnz(1)[shop.panel.start < 30].sum() == 0 and S.shape == (60, 60)


def test_refusals(shop):
    for make, words in (
        (lambda: price_words([1.0, np.nan, -1]), "at: 1, 2"),
        (lambda: shop.eve(6), "fewer than two launches"),
        (lambda: load_shop("corner"), "unknown shop: corner"),
        (
            lambda: as_launched(shop, sells_alike, first=75),
            "nothing was launched from step 75",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    assert rank_texts(
        ["a b", "a c", "d e", "d f"],
        sold_alike([0, 0, 1, 1], [0, 1], 1),
        ["a", "unknown"],
    ).shape == (2, 2)


def test_the_embedded_shop():
    small = load_shop("online_retail")
    assert (
        len(small.panel) == 1000
        and small.lines is None
        and (small.price > 0).all()
        and (small.panel.start >= 4).sum() == 201
    )


@pytest.mark.slow
def test_the_whole_shop(mirror):
    whole = load_shop("online_retail_ii")
    first = whole.lines.groupby("product").step.min()
    assert (
        len(whole.panel) == 4676
        and (first.to_numpy() == whole.panel.start).all()
        and "MEDIUM CERAMIC TOP STORAGE JAR" in whole.text[whole.panel.index(["23166"])]
    )
