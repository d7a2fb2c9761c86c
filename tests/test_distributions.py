"""Quantile grids: closed forms against quadrature, inverse against inverse.

Also extreme numbers, gradients, and GluonTS where the definitions agree.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from torch.testing import assert_close

from forecastlab.core.distributions import (
    DECILES,
    HALVINGS,
    LEVELS,
    Counts,
    Draws,
    Paths,
)
from forecastlab.core.distributions import QuantileFunction, QuantileGrid
from forecastlab.core.distributions import check_levels, line_crps, tail_crps
from forecastlab.quantile.spline import SplineQuantile

KINDS = [(t, s) for t in ("exponential", "flat") for s in ("real", "nonnegative")]
SCALES = [1e-8, 1.0, 1e8]


def grid(
    seed, tails, support, k=5, batch=(), scale=1.0, ties=False, dtype=torch.float64
):
    g = np.random.default_rng(seed)
    v = g.normal(size=(*batch, k)).cumsum(-1) + 1
    if ties:
        v = np.round(v)
    levels = np.sort(g.choice(np.arange(1, 100), k, replace=False)) / 100
    return QuantileGrid(levels, torch.tensor(v * scale, dtype=dtype), tails, support)


def edges(d):
    """Levels where the quantile function has a kink or a pole, and points towards the
    poles.
    """
    # knots of a left tail that stops at 0
    halves = []
    if d.domain == "nonnegative":
        halves = float(d.levels[0]) / 2 ** np.arange(HALVINGS, 0, -1)
    return np.r_[
        0,
        np.unique(np.r_[np.geomspace(1e-13, float(d.levels[0]), 12), halves]),
        d.levels.numpy()[1:-1],
        1 - np.geomspace(1e-13, 1 - float(d.levels[-1]), 12)[::-1],
        1,
    ]


def quadrature(f, ends):
    "Gauss-Legendre of high order on every smooth piece; `f` takes an array."
    return sum(
        integrate.fixed_quad(f, a, b, n=24)[0] for a, b in zip(ends, ends[1:]) if b > a
    )


def possible(z, support):
    return abs(z) if support == "nonnegative" else z


def at(f):
    "A function of tensors as one of arrays."
    return lambda x: f(torch.as_tensor(x, dtype=torch.float64)).numpy()


@pytest.mark.parametrize("tails, support", KINDS)
@pytest.mark.parametrize("ties", [False, True])
def test_mean_and_crps_equal_scipy_quadrature(tails, support, ties):
    for seed in range(3):
        d = grid(seed, tails, support, ties=ties)
        q = at(d.icdf)
        assert float(d.mean) == pytest.approx(
            quadrature(q, edges(d)), rel=1e-8, abs=1e-8
        )
        for z in {
            possible(z, support)
            for z in (-40.0, -1.0, 0.0, float(d.values[1]), 1.3, 77.0)
        }:
            e = np.unique(np.r_[edges(d), at(d.cdf)(z)])
            exact = quadrature(
                lambda u: 2 * np.maximum(u * (z - q(u)), (u - 1) * (z - q(u))), e
            )
            assert float(at(d.crps)(z)) == pytest.approx(exact, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("tails, support", KINDS)
def test_crps_is_the_integral_of_squared_errors(tails, support):
    "The other definition: CRPS = integral of (F(x) - [x >= z])^2."
    d = grid(3, tails, support)
    F = at(d.cdf)
    for z in {possible(z, support) for z in (-2.0, 0.5, 4.0)}:
        exact = quadrature(
            lambda x: (F(x) - (x >= z)) ** 2,
            np.unique(
                np.r_[
                    np.linspace(-120, 160, 561),
                    d.values.numpy(),
                    at(d.icdf)(edges(d)[1:-1]),
                    z,
                ]
            ),
        )
        assert float(at(d.crps)(z)) == pytest.approx(exact, rel=1e-8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
    st.sampled_from(SCALES),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_cdf_and_icdf_are_inverse(seed, kind, scale, ties, dtype):
    d = grid(seed, *kind, batch=(4,), scale=scale, ties=ties, dtype=dtype)
    eps = torch.finfo(dtype).eps
    u = torch.linspace(0.001, 0.999, 333, dtype=dtype)[:, None].expand(-1, 4)
    x, F = d.icdf(u), d.cdf(d.icdf(u))
    tol = 1e3 * eps
    assert (x.diff(dim=0) >= 0).all() and torch.isfinite(x).all()
    # F(q(u)) >= u, up to the rounding of q
    assert (
        F
        >= u
        - tol
        - d.values.abs().amax(-1) * eps * 8 * (d.log_prob(x).exp()).nan_to_num(0, 0, 0)
    ).all()
    if not ties:
        inside = torch.isfinite(d.log_prob(x))
        slack = tol + d.values.abs().amax(-1) * eps * 16 * d.log_prob(x).exp()
        if kind[1] == "nonnegative":
            inside &= x > 0
        if kind[0] == "flat":
            inside &= (x > d.values[..., 0]) & (x < d.values[..., -1])
        assert ((F - u).abs() <= slack)[inside].all()
    # shared levels: another way to the same numbers
    assert_close(
        d.quantile(u[:, 0]).movedim(-1, 0),
        x,
        rtol=0,
        atol=16 * eps * float(x.abs().max()),
    )
    y = torch.linspace(-30, 30, 301, dtype=dtype)[:, None] * scale
    F = d.cdf(y.expand(-1, 4))
    assert (F.diff(dim=0) >= -1e-6).all() and ((F >= 0) & (F <= 1)).all()


def test_cdf_jumps_to_the_highest_level():
    d = lambda v, **k: QuantileGrid([0.2, 0.4, 0.6, 0.8], torch.tensor(v), **k)
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    F = lambda g: [round(float(g.cdf(t)), 6) for t in x]
    assert (
        F(d([0.0, 0, 0, 0]))
        == F(d([0.0, 0, 0, 0], tails="flat"))
        == F(d([0.0, 0, 0, 0], support="nonnegative"))
        == [0, 1, 1, 1]
    )
    assert F(d([0.0, 0, 1, 1])) == [0, 0.4, 1, 1]
    assert F(d([0.0, 0, 1, 1], tails="flat", support="nonnegative")) == [0, 0.4, 1, 1]
    assert F(d([-5.0, -2, 0, 2], support="nonnegative"))[:2] == [0, 0.6]


@pytest.mark.parametrize("tails, support", KINDS)
def test_density_is_the_derivative_of_the_cdf(tails, support):
    d = grid(4, tails, support)
    y = torch.linspace(-6, 9, 997, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(d.cdf(y).sum(), y)
    assert_close(d.log_prob(y).exp(), slope)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
    st.sampled_from(SCALES),
    st.booleans(),
    st.sampled_from(SCALES),
)
def test_crps_in_single_precision_stays_finite_and_close(seed, kind, scale, ties, far):
    """Finite, never negative, close to double precision, and with finite gradients,
    whatever the numbers.
    """
    d = grid(seed, *kind, k=9, scale=scale, ties=ties)
    v = d.values.float().clone().requires_grad_()
    z = torch.tensor(
        possible(np.random.default_rng(seed).normal() * far, kind[1])
    ).float()
    e = lambda: QuantileGrid(d.levels.float(), v, *kind)
    loss = e().crps(z)
    loss.backward()
    loss = loss.detach()
    exact = float(QuantileGrid(d.levels, v.detach().double(), *kind).crps(z.double()))
    size = max(scale * float((d.values / scale).abs().max()), abs(float(z)))
    assert torch.isfinite(v.grad).all()
    assert float(loss) >= -1e-6 * size
    assert abs(float(loss) - exact) <= 3e-6 * size
    for out in (
        e().mean,
        e().icdf(torch.tensor(0.003)),
        e().icdf(torch.tensor(0.9999)),
        e().quantile([0.01, 0.5, 0.99]).sum(),
    ):
        (g,) = torch.autograd.grad(out, v)
        assert torch.isfinite(g).all()


@pytest.mark.parametrize("tails, support", KINDS)
def test_gradients_equal_finite_differences(tails, support):
    levels = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)
    v = torch.tensor(
        [[0.3, 1.1, 2.5, 3.4], [0.2, 0.9, 1.7, 8.0]],
        dtype=torch.float64,
        requires_grad=True,
    )
    z = torch.tensor(
        [[possible(-4.0, support), 1.7], [2.2, 30.0], [0.25, 1.0]],
        dtype=torch.float64,
        requires_grad=True,
    )
    for f in (
        lambda v, z: QuantileGrid(levels, v, tails, support).crps(z),
        lambda v, z: QuantileGrid(levels, v, tails, support).mean,
        lambda v, z: QuantileGrid(levels, v, tails, support).icdf(torch.sigmoid(z / 9)),
        lambda v, z: QuantileGrid(levels, v, tails, support).quantile(
            [0.01, 0.4, 0.97]
        ),
    ):
        assert torch.autograd.gradcheck(f, (v, z))


def test_many_fine_levels_stay_in_order_in_single_precision():
    u = torch.linspace(1e-4, 1 - 1e-4, 4001).double()
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    for z, exact in ((0.0, 0.2336950), (1.0, 0.6024414), (-3.0, 2.4365729)):
        assert float(
            QuantileGrid(u, normal.icdf(u).float()).crps(torch.tensor(z))
        ) == pytest.approx(exact, abs=3e-5)


def test_each_piece_of_the_crps_equals_quadrature():
    "`line_crps` and `tail_crps` on their own, for observations on every side."
    for z in (-3.0, -0.2, 0.4, 2.0):
        a, b, c, m = 0.3, 0.45, -0.4, 6.0
        t = lambda x: torch.tensor(x, dtype=torch.float64)
        r = min(max(a + (z - c) / m, a), b)
        rho = lambda u, q: 2 * np.maximum(u * (z - q), (u - 1) * (z - q))
        assert float(line_crps(t(z), t(a), t(b), t(c), t(m), t(r))) == pytest.approx(
            quadrature(lambda u: rho(u, c + m * (u - a)), [a, r, b]), rel=1e-9
        )
        y, s = 0.1, 0.7
        q = lambda u: y + s * np.log(u / a)
        r = min(a, a * np.exp((z - y) / s))
        ends = np.unique(np.r_[0, np.geomspace(1e-15, a, 30), r])
        assert float(tail_crps(t(z), t(a), t(y), t(s))) == pytest.approx(
            quadrature(lambda u: rho(u, q(u)), ends), rel=1e-8
        )


@pytest.mark.parametrize("tails, support", KINDS)
def test_closed_forms_equal_the_general_fallback(tails, support):
    """What every family inherits agrees with the grid's own formulas, within the
    coarseness of its rule at kinks.
    """
    d = grid(7, tails, support, batch=(6,))
    z = torch.linspace(possible(-5, support), 9, 6, dtype=torch.float64)
    assert_close(QuantileFunction.mean.fget(d), d.mean, rtol=1e-2, atol=1e-2)
    assert_close(QuantileFunction.crps(d, z), d.crps(z), rtol=1e-2, atol=5e-3)
    assert_close(
        QuantileFunction.quantile(d, [0.01, 0.5, 0.99]), d.quantile([0.01, 0.5, 0.99])
    )


def test_a_left_tail_that_stops_at_zero_keeps_its_shape_far_from_it():
    "Far above 0 it is the exponential tail; near 0 nothing goes below."
    a = [0.1, 0.5, 0.9]
    v = torch.tensor([[1000.0, 1100, 1200], [0.5, 2, 4]], dtype=torch.float64)
    u = [0.005, 0.02, 0.06]
    free, stopped = QuantileGrid(a, v), QuantileGrid(a, v, support="nonnegative")
    assert_close(stopped.quantile(u)[0], free.quantile(u)[0], rtol=5e-3, atol=0)
    assert (free.quantile(u)[1] < 0).any()
    assert (stopped.quantile(np.linspace(1e-6, 0.1, 50)) >= 0).all()
    assert float(stopped.icdf(torch.zeros(2)).max()) == 0


def test_what_cannot_have_happened_is_refused_and_what_is_missing_stays_missing():
    grid = QuantileGrid(
        [0.1, 0.5, 0.9], torch.tensor([[0.0, 1, 3]] * 3).double(), support="nonnegative"
    )
    for d in (grid, Counts(grid), Paths(torch.rand(9, 3).double(), "nonnegative")):
        with pytest.raises(
            ValueError,
            match="1 targets are negative, but the support is nonnegative: -2.0",
        ):
            d.crps(torch.tensor([1.0, -2, 3]))
        assert d.crps(torch.tensor([1.0, torch.nan, 2])).isnan().tolist() == [
            False,
            True,
            False,
        ]
    with pytest.raises(ValueError, match="whole numbers"):
        Counts(grid).crps(torch.tensor([1.0, 0.5, 3]))
    for u in (-0.1, 1.5, 95.0):
        with pytest.raises(ValueError, match="levels must lie between 0 and 1"):
            grid.icdf(torch.tensor(u))
    assert torch.isfinite(
        QuantileGrid([0.1, 0.9], torch.tensor([0.0, 1])).quantile([1e-9, 1 - 1e-9])
    ).all()


@pytest.mark.parametrize("shape", [0.0, 0.5, 0.8])
def test_counts_with_heavy_tails_are_scored_as_counts(shape):
    """Against the sums written out, far into the tail; a heavy tail alone does not make
    a count large.
    """
    d = Counts(
        SplineQuantile(
            [0.0, 0.5, 0.8],
            torch.tensor([0.0, 0.4, 1.2]).double(),
            right=torch.tensor(1.0).double(),
            right_shape=torch.tensor(shape).double(),
        )
    )
    k = torch.arange(200_000, dtype=torch.float64)
    F = d.base.cdf(k + 0.5)
    rest = 1 - F[-1]
    for z in (0, 2, 30):
        exact = float(((F - (k >= z).double()) ** 2).sum())
        assert float(d.crps(torch.tensor(float(z)))) == pytest.approx(
            exact, rel=2e-3 if shape > 0.6 else 1e-5
        )
    assert float(d.mean) == pytest.approx(
        float((1 - F).sum() + rest * 2e5 * shape / (1 - shape)),
        rel=2e-2 if shape > 0.6 else 1e-4,
    )


def test_indexing_never_mixes_levels_with_batch():
    v = (
        torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(0))
        .double()
        .cumsum(-1)
    )
    d = QuantileGrid(np.arange(1, 10) / 10, v)
    for which in (
        0,
        (..., 0),
        (slice(None), 2),
        (slice(1, 3), ...),
        torch.tensor([2, 0]),
        (slice(None), torch.tensor([1, 4])),
    ):
        assert torch.equal(
            d[which].values,
            torch.stack([v[..., k][which] for k in range(9)], -1).sort(-1).values,
        )
    paths = Paths(v.movedim(-1, 0))
    for which, batch, event in (
        ((..., np.int64(2)), (3,), ()),
        ((..., 2), (3,), ()),
        ((1, np.int64(2)), (), ()),
        ((1, 2), (), ()),
        ((..., slice(2)), (3,), (2,)),
        ([0, 2], (2,), (9,)),
    ):
        some = paths[which]
        assert some.batch_shape == batch and some.event_shape == event


@pytest.mark.parametrize(
    "wrap",
    [
        lambda v: QuantileGrid([0.1, 0.5, 0.9], v),
        lambda v: QuantileGrid([0.1, 0.5, 0.9], v, "flat"),
        lambda v: Counts(QuantileGrid([0.1, 0.5, 0.9], v)),
        lambda v: Draws(v.T),
        lambda v: SplineQuantile([0.1, 0.5, 0.9], v, 1.0, 1.0),
    ],
)
def test_a_missing_target_stays_visible(wrap):
    d = wrap(torch.tensor([[1.0, 2.0, 4.0]] * 3))
    y = torch.tensor([2.0, torch.nan, 3.0])
    hidden = torch.tensor([False, True, False])
    for f in (d.cdf, d.log_prob, d.crps):
        assert torch.equal(f(y).isnan(), hidden)


def test_paths_of_whole_numbers_are_paths():
    whole = Paths(torch.arange(12).view(4, 3))
    part = Paths(torch.arange(12.0).view(4, 3))
    y = torch.tensor([1.0, 4.0, 9.0])
    for f in (
        lambda d: d.mean,
        lambda d: d.crps(y),
        lambda d: d.quantile([0.3]),
        lambda d: d.rsample((2,), torch.Generator().manual_seed(0)),
    ):
        assert torch.equal(f(whole), f(part))
    with pytest.raises(
        ValueError, match="unknown support: positive. Choose real, nonnegative"
    ):
        Paths(part.draws, "positive")


def test_lines_and_exponential_tails_are_gluonts():
    """Lines between levels and exponential tails beyond them are GluonTS's definitions
    as well.
    """
    from gluonts.model.forecast import QuantileForecast
    import pandas as pd

    levels = [0.1, 0.3, 0.5, 0.8, 0.9]
    v = np.random.default_rng(0).normal(size=(12, 5)).cumsum(-1).round(3)
    v.sort(-1)
    theirs = QuantileForecast(
        v.T, pd.Period("2024-01-01", "D"), [str(u) for u in levels]
    )
    ours = QuantileGrid(levels, torch.tensor(v))
    for u in (0.02, 0.1, 0.2, 0.45, 0.5, 0.7, 0.85, 0.9, 0.97):
        np.testing.assert_allclose(
            ours.quantile([u])[:, 0].numpy(), theirs.quantile(u), rtol=1e-6, atol=1e-6
        )


def test_batches_broadcast_like_torch_distributions():
    d = grid(1, "exponential", "real", batch=(3, 2))
    z = torch.randn(
        5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    for f in (d.cdf, d.log_prob, d.crps, lambda z: d.icdf(torch.sigmoid(z))):
        out = f(z)
        assert out.shape == (5, 3, 2)
        assert_close(f(z[0, 0, 0]), f(z[:1, :1, :1].expand(1, 3, 2))[0])
    one = d[1, 0]
    assert one.batch_shape == () and one.event_shape == ()
    assert_close(d.crps(z)[:, 1, 0], torch.stack([one.crps(t) for t in z[:, 1, 0]]))
    assert d.quantile([0.9, 0.1]).shape == (3, 2, 2)
    assert d.rsample((4,)).shape == (4, 3, 2)
    assert d.sample().shape == (3, 2)
    assert not d.sample().requires_grad


@pytest.mark.parametrize("tails, support", KINDS)
def test_samples_follow_the_distribution(tails, support):
    from scipy.stats import kstest

    d = grid(2, tails, support)
    x = d.rsample((4000,), torch.Generator().manual_seed(0))
    if support == "nonnegative":
        assert (x >= 0).all()
    if tails == "exponential" and (d.values > 0).all():
        assert (
            kstest(x.numpy(), lambda t: d.cdf(torch.as_tensor(t)).numpy()).pvalue
            > 0.001
        )
    assert torch.equal(x, d.rsample((4000,), torch.Generator().manual_seed(0)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_rearrangement_never_costs(seed):
    """Sorting crossed quantiles never raises the summed pinball loss (Chernozhukov et
    al. 2010).
    """
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(20, 7, generator=g)
    y = torch.randn(20, 1, generator=g)
    u = torch.arange(1, 8) / 8
    pinball = lambda q: torch.maximum(u * (y - q), (u - 1) * (y - q)).sum(-1)
    d = QuantileGrid(u, v)
    assert (pinball(d.quantile(u)) <= pinball(v) + 1e-5).all()
    assert (d.values.diff(dim=-1) >= 0).all()


def test_an_unobserved_target_has_no_score():
    d = grid(0, "exponential", "nonnegative", batch=(2,))
    assert torch.isnan(d.crps(torch.tensor([float("nan"), 1.0]))).tolist() == [
        True,
        False,
    ]


def test_a_family_needs_only_icdf_and_cdf():
    class Exponential(QuantileFunction):
        dtype, device = torch.float64, "cpu"

        def icdf(self, u):
            return -torch.log1p(-u)

    d = Exponential((3,), validate_args=False)
    assert_close(d.mean, torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)
    assert d.rsample((2,)).shape == (2, 3)
    z = torch.tensor([0.1, 1.0, 4.0], dtype=torch.float64)
    assert_close(d.crps(z), z + 2 * torch.exp(-z) - 1.5, atol=1e-3, rtol=1e-3)
    with pytest.raises(TypeError, match="Exponential defines no cdf"):
        d.cdf(1.0)


BAD = [
    (dict(levels=[0.5]), "expected values for 1 levels \\(at least 2\\)"),
    (dict(levels=[0.1, 0.2, 0.3]), "got shape \\(3, 2\\)"),
    (dict(levels=[0.9, 0.1]), "levels must increase"),
    (dict(levels=[0.1, 0.1]), "levels must increase"),
    (dict(levels=[0.1, 95]), "95.0. For 95 % write 0.95"),
    (dict(levels=[0.0, 0.5]), "strictly between 0 and 1: 0.0"),
    (dict(levels=[float("nan"), 0.5]), "strictly"),
    (dict(levels=[]), "no levels given"),
    (dict(tails="gauss"), "unknown tails: gauss. Choose exponential, flat"),
    (dict(support="counts"), "unknown support: counts"),
    (dict(values=torch.tensor([[0.0, np.inf]])), "1 quantiles are NaN or infinite"),
]


@pytest.mark.parametrize("change, message", BAD)
def test_a_grid_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        QuantileGrid(**(dict(levels=[0.1, 0.9], values=torch.zeros(3, 2)) | change))


def test_levels_keep_their_precision():
    assert check_levels([0.1, 0.95]).tolist() == [0.1, 0.95]
    assert QuantileGrid(
        [0.1, 0.9], torch.zeros(2, dtype=torch.float64)
    ).levels.tolist() == [0.1, 0.9]
    assert QuantileGrid(
        [0.1, 0.9], torch.tensor([1.0, 2.0], dtype=torch.float64)
    ).quantile([0.1, 0.9]).tolist() == [1, 2]
    for u in (torch.tensor(0.5), np.float32(0.5), 0.5, (0.5,), np.array([0.5])):
        assert QuantileGrid([0.1, 0.9], torch.tensor([1.0, 2.0])).quantile(
            u
        ).tolist() == [1.5]


def joint(n=200):
    g = torch.Generator().manual_seed(0)
    return 5 + torch.randn(n, 3, 4, generator=g, dtype=torch.float64).cumsum(-1)


@pytest.mark.parametrize("wrap", [Paths, lambda x: Counts(Paths(x))])
def test_paths_have_an_event_and_answer_for_single_steps_in_the_full_shape(wrap):
    d = wrap(joint())
    assert d.batch_shape == (3,) and d.event_shape == (4,) and d.shape == (3, 4)
    y = torch.full((3, 4), 2.0, dtype=torch.float64)
    for answer in (d.icdf(y / 9), d.cdf(y), d.crps(y), d.excess(y), d.mean):
        assert answer.shape == (3, 4)
    for answer in (d.quantile([0.2, 0.9]), d.slope([0.2, 0.9])):
        assert answer.shape == (3, 4, 2)
    assert d.sample((7,)).shape == (7, 3, 4)
    with pytest.raises(TypeError, match="no density of whole paths.*marginal.log_prob"):
        d.log_prob(y)
    apart = d.marginal
    assert apart.batch_shape == (3, 4) and apart.event_shape == ()
    assert apart.log_prob(y).shape == (3, 4)
    assert torch.equal(apart.quantile([0.3]), d.quantile([0.3]))
    assert apart.marginal.shape == (3, 4)


def test_draws_are_sorted_only_when_a_quantile_is_asked_for():
    d = Paths(joint())
    d.mean, d[1:].draws, d.sample((2,))
    assert "sorted" not in d.marginal.__dict__
    assert torch.equal(d.quantile([0.5]), d.marginal.quantile([0.5]))
    assert "sorted" in d.marginal.__dict__


def test_draws_of_single_numbers_forget_each_other():
    x = joint(4000)
    kept, lost = (
        abs(np.corrcoef(s[:, 0, 2], s[:, 0, 3])[0, 1])
        for s in (Paths(x).sample((4000,)), Draws(x).sample((4000,)))
    )
    assert kept > 0.8 and lost < 0.1


def test_a_known_mean_is_kept():
    x, mean = joint(), torch.zeros(3, 4, dtype=torch.float64)
    for d in (Draws(x, mean=mean), Paths(x, mean=mean), Counts(Draws(x), mean)):
        assert torch.equal(d.mean, mean) and torch.equal(d[1].mean, mean[1])
        assert torch.equal(d.marginal.mean, mean)


def test_the_two_grids_of_levels_are_the_textbooks():
    assert DECILES == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert LEVELS[:3] == (0.01, 0.025, 0.05) and LEVELS[-3:] == (0.95, 0.975, 0.99)
    assert len(LEVELS) == 23 and set(DECILES) < set(LEVELS)
