"Known laws: exact answers, and a future that is as the law says."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecastlab.core.distributions import Counts, QuantileGrid
from forecastlab.demand.decision import newsvendor, saving
from forecastlab.demand.laws import (
    LAWS,
    Known,
    coverage_of,
    expected_pinball,
    saving_ratio,
    simulate,
)

REAL = [name for name, law in LAWS.items() if not law.whole]
WHOLE = [name for name, law in LAWS.items() if law.whole]
ASKED = [0.01, 0.05, 0.5, 0.9, 0.95, 0.99]


@pytest.mark.parametrize("name", LAWS)
def test_quantile_and_distribution_function_undo_each_other(name):
    law = simulate(name, 4, 10, 3).truth
    u = torch.rand(50, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    q = law.icdf(u)
    if law.whole:
        assert (law.cdf(q) >= u - 1e-12).all() and (law.cdf(q - 1) < u).all()
    else:
        np.testing.assert_allclose(law.cdf(q), u, atol=1e-9)
        assert law.slope([0.5, 0.9]).shape == (4, 3, 2)


@pytest.mark.parametrize("name", LAWS)
def test_what_comes_is_uniform_under_the_law(name):
    "The probability integral transform, randomised for counts, over three seeds."
    chance, found = np.random.default_rng(7), []
    for seed in range(3):
        world = simulate(name, 100, 30, 4, seed)
        y = torch.tensor(world.later)
        upto, below = world.truth.cdf(y), world.truth.cdf(y)
        if world.law.whole:
            below = world.truth.cdf(y - 1)
        pit = below + torch.tensor(chance.random(y.shape)) * (upto - below)
        # the last step alone: steps of the law that remembers hang together
        found.append(pit[:, -1])
    assert stats.kstest(torch.cat(found).numpy(), "uniform").pvalue > 1e-3


def test_a_law_that_remembers_forgets_towards_one_that_does_not():
    world = simulate("gaussian", 50, 30, 40)
    spread = world.truth.parameters["scale"] / world.level[:, None]
    np.testing.assert_allclose(spread[:, 0], 0.1)
    np.testing.assert_allclose(spread[:, -1], 0.1 / 0.6, rtol=1e-3)
    gap = np.abs(world.truth.mean.numpy() / world.level[:, None] - 1)
    assert (gap[:, -1] < 0.002).all() and gap[:, 0].max() > 0.1


def test_worlds_are_the_same_by_seed_and_differ_between_seeds():
    a, b, c = (simulate("gamma", 3, 8, 2, seed) for seed in (0, 0, 1))
    assert (a.later == b.later).all() and not (a.later == c.later).any()
    np.testing.assert_array_equal(a.panel.y, b.panel.y)
    some = a.forecast.select([1])
    np.testing.assert_allclose(some.quantile([0.9])[0], a.forecast.quantile([0.9])[1])


@pytest.mark.parametrize("name", LAWS)
def test_the_truth_covers_what_it_says_and_cannot_be_beaten(name):
    world = simulate(name, 6, 20, 2)
    f = world.forecast
    shares = coverage_of(world.truth, world.truth, ASKED)
    np.testing.assert_allclose(shares, np.broadcast_to(ASKED, shares.shape), atol=1e-6)
    best = world.truth.quantile(ASKED)
    least = expected_pinball(best, world.truth, ASKED)
    for factor in (0.97, 1.03):
        worse = expected_pinball(best * factor, world.truth, ASKED)
        assert (worse >= least * (1 - 1e-9)).all()
    cost = 100 * least[..., -1].mean(1)
    np.testing.assert_allclose(newsvendor(f, 99, 1).cost, cost, rtol=1e-6)
    if not world.law.whole:
        assert saving_ratio(world.truth, world.truth) == 1
        wide = QuantileGrid(ASKED, 2 * best)
        ratio = saving_ratio(wide, world.truth)
        own, told = (
            saving(x).units_saved.sum() for x in (f, f.__class__(f.panel, wide))
        )
        assert told / own == pytest.approx(ratio, rel=1e-5)


@given(
    mean=st.floats(0.1, 30),
    middle=st.lists(st.integers(0, 160), min_size=3, max_size=3),
    counted=st.booleans(),
    level=st.sampled_from(ASKED),
)
@settings(max_examples=40, deadline=None)
def test_coverage_of_counts_is_the_randomised_transform(mean, middle, counted, level):
    "Against its definition, summed over all counts that can come."
    truth = Known("poisson", mu=np.full((1,), mean))
    values = torch.tensor(sorted(middle)).double()[None] / 4
    if counted:
        values = values.round()
    f = QuantileGrid([0.1, 0.5, 0.9], values, support="nonnegative")
    f = Counts(f) if counted else f
    k = torch.arange(400.0).double()[:, None]
    upto, below = f.cdf(k), f.cdf(k - 1e-9)
    step = upto - below
    inside = ((level - below) / step.clamp(min=1e-9)).clamp(0, 1)
    inside = torch.where(step > 1e-6, inside, (upto <= level).double())
    want = (truth.log_prob(k).exp() * inside).sum()
    got = coverage_of(f, truth, [level])
    assert float(got) == pytest.approx(float(want), abs=1e-4)


def test_what_laws_cannot_answer_is_refused():
    with pytest.raises(ValueError, match="unknown law: gauss"):
        simulate("gauss")
    truth = simulate("poisson", 2, 5, 2).truth
    for ask in (
        lambda: truth.slope([0.9]),
        lambda: saving_ratio(truth, truth),
    ):
        with pytest.raises(ValueError, match="of whole numbers|rise in steps"):
            ask()
