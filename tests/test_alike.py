"""Products that are alike: labels against slow oracles, eves that know no later,
scores of launched products only.
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
        colour = rng.choice(["red", "blue", "green"])
        text = f"{colour} {noun} {rng.choice(['small', 'large'])}"
        texts.append(text)
        for step in t[::4]:
            written = f"{text} new" if step % 3 else text
            basket = f"{step}-{i // 4}"
            lines.append(dict(product=i, step=step, text=written, basket=basket))
    panel = Panel.from_frame(pd.concat(frames), freq=1)
    return Shop(panel, np.array(texts), np.full(60, 2.0), pd.DataFrame(lines))


def row_of(matrix, i):
    "The columns of a row, as they are stored."
    return matrix.indices[matrix.indptr[i] : matrix.indptr[i + 1]].tolist()


def test_partners_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    basket, product = rng.integers(0, 30, 200), rng.integers(0, 8, 200)
    partners = bought_with(basket, product, 9, 2)
    sets = [set(product[basket == b]) for b in range(30)]
    weight = [sum(1 / len(s) for s in sets if p in s) for p in range(8)]
    for a in range(8):
        score = {}
        for b in set(range(8)) - {a}:
            together = sum(1 / len(s) ** 2 for s in sets if a in s and b in s)
            if together:
                score[b] = together / weight[b] ** 0.5
        assert row_of(partners, a) == sorted(score, key=lambda b: -score[b])[:2]
    assert partners[8].nnz == 0


def test_an_empty_till_pairs_nobody():
    assert bought_with([], [], 3).shape == (3, 3)


def test_labels_are_the_nearest_levels():
    level = np.random.default_rng(2).normal(size=20)
    launched = np.random.default_rng(3).normal(size=50)
    positives = sold_alike(level, launched, 7)
    for i in range(20):
        nearest = np.argsort(np.abs(level[i] - launched))[:7]
        assert set(row_of(positives, i)) == set(nearest)
    assert sold_alike(level, launched[:3], 7).getnnz(1).tolist() == [3] * 20
    moved = same_rank(np.exp(level), launched)
    np.testing.assert_array_equal(np.argsort(moved), np.argsort(level))
    assert len(same_rank([], launched)) == 0


def test_an_eve_knows_no_later(shop):
    eve = shop.eve(40)
    assert (shop.panel.start[eve.launched] + 8 <= 40).all()
    assert (eve.lines.step < 40).all()
    over = set(np.flatnonzero(shop.panel.start <= 32))
    assert set(eve.launched) | set(eve.others) == over


@pytest.mark.parametrize("make", [reads_alike, sells_alike])
def test_scores_know_no_later(shop, make):
    new = np.flatnonzero(shop.panel.start >= 40)
    first = shop.panel.start - shop.panel.indptr[:-1]
    step = np.repeat(first, np.diff(shop.panel.indptr)) + np.arange(shop.panel.rows)
    sold = shop.panel.to_frame().assign(y=np.where(step >= 40, 9e5, shop.panel.y))
    known = shop.lines.step < 40
    lines = shop.lines.assign(
        text=shop.lines.text.where(known, "nonsense"),
        basket=shop.lines.basket.where(known, "one"),
    )
    wild = Shop(Panel.from_frame(sold, freq=1), shop.text, shop.price, lines)
    a, b = make(shop.eve(40), new), make(wild.eve(40), new)
    np.testing.assert_allclose(a.toarray(), b.toarray(), atol=1e-7)
    assert a.shape == (len(new), 60)
    assert set(a.indices) <= set(shop.eve(40).launched)
    np.testing.assert_allclose(a.sum(1), 1, atol=1e-5)
    assert (a.data >= 0).all()


def test_the_rankers_learn_the_word_that_counts(shop):
    new = np.flatnonzero(shop.panel.start >= 40)
    mug = np.array(["mug" in t for t in shop.text])
    sold = sells_alike(shop.eve(40), new, most=5).toarray()
    of_mugs, of_lamps = sold[:, mug].sum(1), sold[:, ~mug].sum(1)
    assert ((of_mugs > of_lamps) == mug[new]).mean() > 0.9
    read = reads_alike(shop.eve(40), new, C=1.0).toarray()
    assert (mug[read.argmax(1)] == mug[new]).mean() > 0.9


def test_a_cohort_is_as_alike_as_on_its_eve(shop):
    S = as_launched(shop, sells_alike, first=30, width=10)
    new = np.flatnonzero((shop.panel.start >= 40) & (shop.panel.start < 50))
    np.testing.assert_allclose(
        S[new].toarray(), sells_alike(shop.eve(40), new).toarray(), atol=1e-7
    )
    assert S.getnnz(1)[shop.panel.start < 30].sum() == 0 and S.shape == (60, 60)


def test_what_cannot_be_asked_is_refused_in_words(shop):
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


def test_an_unknown_text_is_ranked_too():
    positives = sold_alike([0, 0, 1, 1], [0, 1], 1)
    scores = rank_texts(["a b", "a c", "d e", "d f"], positives, ["a", "unknown"])
    assert scores.shape == (2, 2)


def test_the_embedded_shop_is_the_small_one():
    small = load_shop("online_retail")
    assert len(small.panel) == 1000
    assert small.lines is None
    assert (small.price > 0).all()
    assert (small.panel.start >= 4).sum() == 201


@pytest.mark.slow
def test_the_whole_shop_has_every_product_and_line(mirror):
    whole = load_shop("online_retail_ii")
    first = whole.lines.groupby("product").step.min()
    assert len(whole.panel) == 4676
    assert (first.to_numpy() == whole.panel.start).all()
    jar = whole.text[whole.panel.index(["23166"])]
    assert "MEDIUM CERAMIC TOP STORAGE JAR" in jar
