"""Every quantile function of the lab at once.

Monotone, invertible, scored exactly, differentiable, without NaN; and GluonTS's with
the same parameters.
"""

import importlib
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from forecastlab.core.distributions import QuantileGrid
from forecastlab.quantile.heads import HEADS, ISQFHead
from forecastlab.quantile.spline import SplineQuantile

torch.set_num_threads(1)
GRID = torch.linspace(0, 1, 10_003, dtype=torch.float64)[1:-1]  # 10,001 levels
FAMILIES = (
    "grid",
    "grid flat",
    "sqf",
    "sqf shared",
    "iqf",
    "isqf",
    "isqf pareto",
    "isqf one pareto",
    "nonnegative",
    "nonnegative sqf",
)
OPTIONS = [
    ("sqf", {}),
    ("sqf", dict(link="log", base="lowest")),
    ("iqf", {}),
    ("iqf", dict(link="log")),
    ("isqf", {}),
    ("isqf", dict(pieces=1)),
    ("isqf", dict(tails="pareto", pieces=3)),
    ("isqf", dict(tails="pareto", link="log")),
]
CASES = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from(FAMILIES),
    st.sampled_from([1e-8, 1.0, 1e8]),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
)
EVERY = settings(max_examples=50, deadline=None, derandomize=True)


def family(
    seed, name, scale=1.0, ties=False, dtype=torch.float64, batch=(4,), heavy=0.95
):
    """Random parameters of one family; `ties` repeats values, and levels where they are
    free.
    """
    g = np.random.default_rng(seed)
    k = int(g.integers(2, 9))
    n = lambda *s: torch.tensor(g.random((*batch, *s)))
    v = (n(k) - 0.3).cumsum(-1).sort(-1).values * 4 - 1
    if ties:
        v = v.round()
    v = (v * scale).to(dtype)
    tails, shapes = ((n() * 0.98 + 0.02) * scale).to(dtype), (n() * heavy).to(dtype)
    inner = torch.tensor(np.sort(g.choice(np.arange(1, 100), k, replace=False)) / 100)
    if name.startswith("grid"):
        return QuantileGrid(inner, v, "flat" if "flat" in name else "exponential")
    shared = name in ("sqf shared", "iqf")
    a = inner if shared else n(k).sort(-1).values * 0.9 + 0.05
    if ties and k > 3 and not shared:
        a[..., 2] = a[..., 1]
    if "sqf" in name and "isqf" not in name:
        if shared:
            a = torch.cat([torch.zeros(1), inner[1:-1], torch.ones(1)])
        else:
            a[..., 0], a[..., -1] = 0, 1
        return SplineQuantile(
            a.to(dtype), v, support="nonnegative" if "non" in name else "real"
        )
    side = {
        "isqf pareto": dict(
            left=tails,
            right=tails.flip(0),
            left_shape=shapes,
            right_shape=shapes.flip(0),
        ),
        "isqf one pareto": dict(left=tails, right=tails, right_shape=shapes),
        "nonnegative": dict(right=tails, right_shape=shapes, support="nonnegative"),
    }.get(name, dict(left=tails, right=tails))
    return SplineQuantile(a.to(dtype), v, **side)


def leaves(d):
    "The same distribution with parameters that gradients reach, and those parameters."
    names = [
        n
        for n in ("levels", "values", "left", "right", "left_shape", "right_shape")
        if getattr(d, n, None) is not None
    ]
    if isinstance(d, QuantileGrid):
        v = d.values.detach().requires_grad_()
        return QuantileGrid(d.levels, v, d.tails, d.domain), [v]
    p = {n: getattr(d, n).detach().clone().requires_grad_() for n in names}
    return SplineQuantile(**p, support=d.domain), list(p.values())


def headed(seed, name, options, size=1.0, rows=8):
    "A head, raw inputs of a given size, and what it makes of them."
    torch.manual_seed(seed)
    head = HEADS[name](5, **options)
    return head, (size * torch.randn(rows, 5)).requires_grad_()


def targets(d, seed):
    "Around the middle, in the knots, far out on both sides."
    v = d.values
    g = torch.Generator().manual_seed(seed)
    span = (
        (v[..., -1] - v[..., 0]).abs()
        + v.abs().amax(-1) * 1e-3
        + torch.finfo(d.dtype).tiny
    )
    z = [
        v[..., 0],
        v[..., -1],
        v.mean(-1),
        v[..., 0] - 3 * span,
        v[..., -1] + 30 * span,
        v[..., -1] + span * torch.rand(v.shape[:-1], generator=g),
    ]
    return torch.stack(z).clamp(min=0 if d.domain == "nonnegative" else -torch.inf)


# --- order and inverse


@EVERY
@given(CASES)
def test_quantiles_never_decrease_at_10001_levels(case):
    d = family(*case)
    for q in (d.quantile(GRID), d.icdf(GRID[:, None].expand(-1, 4).to(d.dtype)).T):
        assert not q.isnan().any() and (q.diff(dim=-1) >= 0).all()
    if d.domain == "nonnegative":
        assert (q >= 0).all()


@pytest.mark.parametrize("name, options", OPTIONS)
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_no_head_ever_crosses(name, options, size):
    for seed in range(3):
        head, u = headed(seed, name, options, size, rows=40)
        with torch.no_grad():
            d = head.distribution(
                head(u), torch.linspace(-2, 2, 40), torch.logspace(-8, 8, 40)
            )
        q = d.quantile(GRID)
        assert torch.isfinite(q).all() and (q.diff(dim=-1) >= 0).all()


@EVERY
@given(CASES)
def test_cdf_inverts_icdf(case):
    """F(q(u)) = u away from flat pieces; at them F is the highest level; q(F(q(u))) =
    q(u) always.
    """
    d = family(*case)
    u = (
        torch.rand(
            50, 4, generator=torch.Generator().manual_seed(case[0]), dtype=torch.float64
        )
        .clamp(1e-5, 1 - 1e-5)
        .to(d.dtype)
    )
    q = d.icdf(u)
    F = d.cdf(q)
    exact = d.dtype == torch.float64
    assert (F >= u - (1e-6 if exact else 2e-3)).all() and (F <= 1).all()
    if exact:
        assert_close(
            d.icdf(F.clamp(1e-12, 1 - 1e-12)), q, rtol=1e-6, atol=1e-6 * case[2]
        )
        if not case[3] and case[1] not in (
            "grid flat",
            "nonnegative",
            "nonnegative sqf",
        ):
            assert_close(F, u, atol=1e-6, rtol=0)


@EVERY
@given(CASES)
def test_cdf_never_decreases_and_ends_at_0_and_1(case):
    d = family(*case)
    y = torch.linspace(-30, 60, 4001).to(d.dtype)[:, None].expand(-1, 4) * case[2]
    F = d.cdf(y)
    assert (F.diff(dim=0) >= 0).all() and (F >= 0).all() and (F <= 1).all()
    assert_close(
        d.cdf(torch.full((4,), -1e30).to(d.dtype)),
        torch.zeros(4).to(d.dtype),
        atol=1e-6,
        rtol=0,
    )
    assert_close(
        d.cdf(torch.full((4,), 1e30).to(d.dtype)),
        torch.ones(4).to(d.dtype),
        atol=1e-6,
        rtol=0,
    )


# --- score, mean, density


def legendre(ends, n=24):
    """(batch, node) nodes and weights of Gauss-Legendre on every piece; `ends` (batch,
    end).
    """
    x, w = (torch.tensor(t) for t in np.polynomial.legendre.leggauss(n))
    a, b = ends[..., :-1, None], ends[..., 1:, None]
    return (a + (b - a) * (x + 1) / 2).flatten(-2), ((b - a) / 2 * w).flatten(-2)


def quadrature(d, z=None):
    """Mean, or CRPS of z (batch,), of a distribution with batch (4,).

    Levels as exp(-t) in the tails, where a Pareto of .9 needs t up to 400.
    """
    a = d.levels.expand(*d.batch_shape, -1).double()
    p = [d.cdf(z).double()[:, None]] if z is not None else []
    ends = torch.cat([a, *p], -1).sort(-1).values.clamp(a[:, :1], a[:, -1:])
    u, w = legendre(ends)

    def loss(u, q):
        return (
            q
            if z is None
            else 2 * torch.maximum(u * (z[:, None] - q), (u - 1) * (z[:, None] - q))
        )

    total = (loss(u, d.icdf(u.T).T) * w).sum(-1)
    # substitute: mass = p0 exp(-t); q = edge -+ s (exp(xi t) - 1)/xi written once more
    # here
    for side in ("left", "right"):
        p0, edge = (
            (a[:, 0], d.values[:, 0])
            if side == "left"
            else (1 - a[:, -1], d.values[:, -1])
        )
        s, xi = tail_of(d, side)
        sign = -1 if side == "left" else 1
        cut = (
            torch.zeros(len(a), 1).double()
            if z is None
            else (
                lambda y: torch.where(
                    xi > 1e-9, torch.log1p(xi * y) / xi.clamp(min=1e-9), y
                )
            )(((z - edge) * sign).clamp(min=0) / s.clamp(min=1e-300))[:, None].clamp(
                max=700
            )
        )
        t, w = legendre(
            torch.cat(
                [
                    torch.cat(
                        [
                            torch.linspace(0, 30, 13),
                            torch.logspace(np.log10(40), np.log10(700), 24),
                        ]
                    )
                    .double()
                    .expand(len(a), -1),
                    cut,
                ],
                -1,
            )
            .sort(-1)
            .values,
            16,
        )
        mass = p0[:, None] * torch.exp(-t)
        far = s[:, None] * torch.where(
            xi[:, None] > 1e-9,
            torch.expm1(xi[:, None] * t) / xi[:, None].clamp(min=1e-9),
            t,
        )
        if z is None:
            f = edge[:, None] + sign * far
        # rarer than the target: under-forecast
        else:
            e = sign * (z - edge)[:, None] - far
            f = 2 * torch.where(e > 0, (1 - mass) * e, -mass * e)
        total = total + (mass * f * w).sum(-1)
    return total


def tail_of(d, side):
    """Scale and shape of a tail; a side without one has scale 0, and then its mass is 0
    or its quantity constant.
    """
    zero = torch.zeros(d.batch_shape, dtype=torch.float64)
    if isinstance(d, QuantileGrid):
        if d.tails == "flat":
            return zero, zero
        a, v = d.levels, d.values
        return (
            (v[:, 1] - v[:, 0]) / torch.log(a[1] / a[0])
            if side == "left"
            else (v[:, -1] - v[:, -2]) / torch.log((1 - a[-2]) / (1 - a[-1]))
        ), zero
    return getattr(d, side) if getattr(d, side) is not None else zero, (
        getattr(d, f"{side}_shape") if getattr(d, f"{side}_shape") is not None else zero
    )


@EVERY
@given(CASES)
def test_crps_and_mean_equal_quadrature(case):
    seed, name, scale, ties, _ = case
    d = family(seed, name, scale, ties, heavy=0.9)
    assert_close(d.mean, quadrature(d), rtol=1e-6, atol=1e-7 * scale)
    for z in targets(d, seed):
        assert_close(d.crps(z), quadrature(d, z), rtol=1e-6, atol=1e-12 * scale)


@pytest.mark.parametrize("name, options", OPTIONS)
def test_crps_of_heads_equals_quadrature(name, options):
    head, u = headed(0, name, options, 3.0, rows=4)
    head.double()
    with torch.no_grad():
        d = head.distribution(head(u.double()), torch.tensor(2.0), torch.tensor(7.0))
    for z in targets(d, 0):
        assert_close(d.crps(z), quadrature(d, z), rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        params = head(u.double())
    assert_close(
        7 * head.loss(params, (targets(d, 1)[2] - 2) / 7), d.crps(targets(d, 1)[2])
    )


@EVERY
@given(CASES)
def test_density_is_the_slope_of_the_cdf(case):
    d = family(*case[:4])
    step = 1e-6 * case[2]
    y = (
        d.icdf(
            torch.rand(
                40,
                4,
                generator=torch.Generator().manual_seed(case[0]),
                dtype=torch.float64,
            )
            * 0.98
            + 0.01
        )
        + 1e-3 * case[2]
    )
    numeric = (d.cdf(y + step) - d.cdf(y - step)) / (2 * step)
    kink = ((y[..., None] - d.values).abs() < 3 * step).any(-1)
    assert_close(
        torch.where(kink, 0, d.log_prob(y).exp()),
        torch.where(kink, 0, numeric),
        rtol=1e-3,
        atol=1e-6 / case[2],
    )


@settings(EVERY, max_examples=25)
@given(CASES)
def test_scores_are_differentiable_in_every_parameter(case):
    "gradcheck by finite differences, and 2F(z) - 1 in the target."
    seed, name, _, _, _ = case
    d, parameters = leaves(family(seed, name, batch=(1,), heavy=0.8))
    z = (targets(d, seed)[[2, 5]] + 0.0123).detach().requires_grad_()

    def score(z, *p):
        if isinstance(d, QuantileGrid):
            return QuantileGrid(d.levels, p[0], d.tails, d.domain).crps(z)
        names = [
            n
            for n in ("levels", "values", "left", "right", "left_shape", "right_shape")
            if getattr(d, n) is not None
        ]
        # the knots at 0 are there already
        return SplineQuantile(**dict(zip(names, p)), check=False).crps(z)

    assert torch.autograd.gradcheck(
        score, (z, *parameters), eps=1e-7, atol=2e-5, rtol=1e-4
    )
    (slope,) = torch.autograd.grad(d.crps(z).sum(), z)
    assert_close(slope, 2 * d.cdf(z.detach()) - 1)


def test_mean_and_draws_agree():
    d = family(5, "isqf pareto", heavy=0.3)
    draws = d.rsample((200_000,), torch.Generator().manual_seed(0))
    assert_close(draws.mean(0), d.mean, atol=0.05, rtol=0.02)
    v = d.values.detach().requires_grad_()
    SplineQuantile(d.levels, v, d.left, d.right).rsample((3,)).sum().backward()
    assert_close(v.grad.sum(-1), torch.full((4,), 3.0).double())


# --- extremes


@EVERY
@given(CASES)
def test_extreme_parameters_give_no_nan_forward_or_backward(case):
    d, parameters = leaves(family(*case))
    s = case[2]
    z = (
        torch.cat(
            [
                targets(d, case[0]),
                torch.tensor([0.0, 1e-30, s, 1e12 * s, 1e20])
                .to(d.dtype)[:, None]
                .expand(-1, 4),
            ]
        )
        .detach()
        .requires_grad_()
    )
    u = torch.tensor([1e-30, 1e-7, 0.05, 0.5, 0.95, 1 - 1e-7]).to(d.dtype)
    outs = dict(
        crps=d.crps(z),
        cdf=d.cdf(z),
        log_prob=d.log_prob(z),
        icdf=d.icdf(u[:, None].expand(-1, 4)),
        quantile=d.quantile(u[:-1]),
        mean=d.mean,
    )
    if isinstance(d, SplineQuantile):
        outs |= dict(slope=d.slope(u[:-1]))
    for n, out in outs.items():
        assert not out.isnan().any(), n
        found = torch.autograd.grad(
            torch.where(torch.isfinite(out), out, 0).sum(),
            [*parameters, z],
            allow_unused=True,
            retain_graph=True,
        )
        assert not any(g.isnan().any() for g in found if g is not None), (
            f"gradient of {n}"
        )


@pytest.mark.parametrize("name, options", OPTIONS)
def test_heads_take_any_number(name, options):
    for size in (1e-30, 1.0, 1e4, 1e8):
        head, u = headed(1, name, options, size)
        params = head(u)
        for z in (torch.zeros(8), torch.full((8,), 1e-8), torch.full((8,), 1e8)):
            loss = head.loss(params, z)
            assert torch.isfinite(loss).all() and (loss >= 0).all()
            found = torch.autograd.grad(
                loss.sum(), [u, *head.parameters()], retain_graph=True
            )
            assert all(torch.isfinite(g).all() for g in found)


def test_scores_shift_and_scale_with_the_target():
    for name in FAMILIES[2:]:
        d = family(3, name)
        z = targets(d, 3)
        if d.domain == "real":
            moved = d.affine(-5.0, 3.0)
            assert_close(moved.crps(3 * z - 5), 3 * d.crps(z))
            assert_close(moved.mean, 3 * d.mean - 5)
            assert_close(moved.cdf(3 * z - 5), d.cdf(z))
        # a knot on a line changes nothing
        a, v = d.levels.expand(d.values.shape), d.values

        def half(x):
            return torch.cat([x, (x[..., :1] + x[..., 1:2]) / 2], -1).sort(-1).values

        assert_close(
            SplineQuantile(
                half(a), half(v), d.left, d.right, d.left_shape, d.right_shape, d.domain
            ).crps(z),
            d.crps(z),
        )
        again = d.at(torch.linspace(0.001, 0.999, 999).double())
        assert_close(
            again.quantile([0.0005, 0.3, 0.9995]),
            d.quantile([0.0005, 0.3, 0.9995]),
            rtol=0.05,
            atol=0.05,
        )
        assert_close(again.mean, d.mean, rtol=1e-2, atol=1e-2)
        assert_close(d[1:3].quantile([0.2, 0.8]), d.quantile([0.2, 0.8])[1:3])
        assert_close(d[2].mean, d.mean[2])
    x = torch.zeros(2, 3, 4) + torch.arange(4.0)
    deep = SplineQuantile([0, 0.3, 0.6, 1], x)
    assert deep[..., 0].batch_shape == (2,) and deep[0, 1].batch_shape == ()
    with pytest.raises(IndexError):
        deep[0, 0, 0]
    assert deep[:0].quantile([0.1, 0.9]).shape == (0, 3, 2)
    assert deep[:0].mean.shape == (0, 3)
    # in blocks as at once
    many = family(9, "isqf pareto", batch=(700, 24))
    levels = torch.arange(1, 100) / 100
    every = many.quantile(levels)
    assert_close(every[650:], many[650:].quantile(levels))
    assert_close(every[..., 40], many.icdf(levels[40].expand(700, 24)))


def test_pareto_tails_tend_to_exponential_ones():
    d = family(4, "isqf")
    z = targets(d, 4)
    for xi in (0.0, 1e-12, 1e-6):
        p = SplineQuantile(
            d.levels, d.values, d.left, d.right, torch.tensor(xi), torch.tensor(xi)
        )
        assert_close(p.quantile(GRID), d.quantile(GRID), rtol=1e-4, atol=1e-4)
        assert_close(p.crps(z), d.crps(z), rtol=1e-4, atol=0)
        assert_close(p.cdf(z), d.cdf(z), rtol=1e-3, atol=1e-9)
        assert_close(p.mean, d.mean, rtol=1e-4, atol=0)


# --- published and derived numbers


def sqf(gamma, slopes, spacings):
    slopes, spacings = torch.tensor([slopes, spacings], dtype=torch.float64)
    a, v = (
        torch.cat([torch.zeros(1), x.cumsum(-1)]) for x in (spacings, slopes * spacings)
    )
    return SplineQuantile(a.clamp(max=1), gamma + v)


def test_scores_and_means_have_their_reference_values():
    def close(x, y):
        return assert_close(
            x,
            torch.as_tensor(y, dtype=torch.float64).expand(x.shape),
            atol=2e-6,
            rtol=0,
        )

    A = SplineQuantile([0.1, 0.9], torch.tensor([0.0, 1]).double(), 0.5, 0.5)
    close(A.quantile([0.05, 0.3, 0.7, 0.99]), [-0.346574, 0.25, 0.75, 2.151293])
    close(A.crps(0.5), 0.108333)
    close(A.crps([-3, 0.1, 1.2, 4]), [3.208581, 0.236333, 0.475365, 3.208581])
    close(
        SplineQuantile([0.1, 0.9], A.values, 0.5, 0.4, right_shape=0.3).crps(
            [-3, 0.1, 1.2, 4, 0.5]
        ),
        [3.208434, 0.236186, 0.476383, 3.201205, 0.108186],
    )
    B = SplineQuantile(
        [0.1, 0.3, 0.5, 0.7, 0.9], torch.tensor([0, 0.5, 1, 1.5, 2]).double(), 1.0, 1.0
    )
    close(
        B.quantile([0.01, 0.45, 0.75, 0.95]), [np.log(0.1), 0.875, 1.625, 2 + np.log(2)]
    )
    close(B.crps(2.0), 0.025 + 0.005 + 0.586667)
    close(sqf(1.0, [2.0, 3, 1], [0.3, 0.4, 0.3]).cdf(2.2), 0.5)
    close(sqf(1.0, [2.0, 3, 1], [0.3, 0.4, 0.3]).crps(2.2), 0.223)
    close(sqf(1.0, [1.0, 1], [0.4, 0.6]).crps(1.5), 0.083333)
    close(sqf(1.0, [1.0, 2], [0.4, 0.6]).crps(1.6), 0.145333)
    close(sqf(-1.0, [2.0, 2], [0.5, 0.5]).crps([2, -2]), 5 / 3)
    U = sqf(0.0, [1.0, 1], [0.5, 0.5])
    close(
        U.crps([0, 0.25, 0.5, 1, 2, -0.5]),
        [1 / 3, 0.145833, 1 / 12, 1 / 3, 4 / 3, 5 / 6],
    )
    # Exp(1) is one tail
    E = SplineQuantile([0, 1e-12], torch.tensor([0, 1e-12]).double(), right=1.0)
    close(
        E.crps([0, 0.5, np.log(2), 1, 3]), [0.5, 0.213061, 0.193147, 0.235759, 1.599574]
    )
    # GPD
    close(
        SplineQuantile(
            [0, 1e-12], torch.tensor([0, 1e-12]).double(), right=1.0, right_shape=0.2
        ).crps([0, 1, 3]),
        [0.555556, 0.261188, 1.437025],
    )
    # Laplace
    close(
        SplineQuantile(
            [0.5, 0.5 + 1e-12], torch.tensor([0, 1e-12]).double(), 1.0, 1.0
        ).crps([0, 1, 2]),
        [0.25, 0.617879, 1.385335],
    )
    u = torch.linspace(1e-4, 1 - 1e-4, 4001).double()
    q = torch.distributions.Normal(torch.tensor(0.0).double(), 1.0).icdf(u)
    s = float((1 - u[-1]) / torch.exp(-(q[-1] ** 2) / 2) * (2 * np.pi) ** 0.5)
    assert_close(
        SplineQuantile(u, q, s * 1e-4 / 1e-4 * 0.25, 0.25).crps([0, 1, 2]),
        torch.tensor([0.233695, 0.602441, 1.452792]).double(),
        atol=1e-5,
        rtol=0,
    )


# --- refusals


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: SplineQuantile([0.1, 0.9], torch.tensor([0.0, np.inf]), 1.0, 1.0),
            "1 of 2 values are NaN or infinite",
        ),
        (
            lambda: SplineQuantile([0.1, 0.9], torch.tensor([0.0, 1]), 1.0, np.nan),
            "1 of 1 right are NaN or infinite",
        ),
        (
            lambda: SplineQuantile([0.1, 0.9], torch.tensor([0.0, 1]), -1.0, 1.0),
            "left must be 0 or more: -1.0",
        ),
        (
            lambda: SplineQuantile(
                [0.1, 0.9], torch.tensor([0.0, 1]), 1.0, 1.0, right_shape=1.2
            ),
            r"right_shape must be in \[0, 1\)",
        ),
        (
            lambda: SplineQuantile([0.9, 0.1], torch.tensor([0.0, 1]), 1.0, 1.0),
            "levels decrease",
        ),
        (
            lambda: SplineQuantile([0.1, 1.9], torch.tensor([0.0, 1]), 1.0),
            r"levels of knots must lie in \[0, 1\]: 1.89",
        ),
        (
            lambda: SplineQuantile(
                [0.1, 0.9], torch.tensor([[0.0, 1], [1, 0]]), 1.0, 1.0
            ),
            r"values decrease in 1 of 2 elements: \(1,\)",
        ),
        (
            lambda: SplineQuantile([0.1, 0.5, 0.9], torch.tensor([0.0, 1]), 1.0, 1.0),
            "do not fit values",
        ),
        (
            lambda: SplineQuantile([0.1, 0.9], torch.zeros(3, 2), torch.ones(2), 1.0),
            r"left of shape \(2,\) does not fit a batch of shape \(3,\)",
        ),
        (
            lambda: SplineQuantile([0.1, 0.9], torch.tensor([0.0, 1]), None, 1.0),
            "no left tail",
        ),
        (lambda: SplineQuantile([0, 0.9], torch.tensor([0.0, 1])), "no right tail"),
        (
            lambda: SplineQuantile([0, 1], torch.tensor([0.0, 1]), right_shape=0.5),
            "right_shape is given without",
        ),
        (
            lambda: SplineQuantile([0, 1], torch.tensor([0.0, 1]), support="counts"),
            "unknown support: counts",
        ),
        (
            lambda: sqf(0.0, [1.0, 1], [0.5, 0.5]).quantile([0.2, 1.0]),
            "strictly between 0 and 1: 1.0",
        ),
        (lambda: sqf(0.0, [1.0, 1], [0.5, 0.5]).at([0.9, 0.2]), "levels must increase"),
        (
            lambda: sqf(0.0, [1.0, 1], [0.5, 0.5]).affine(0.0, -1.0),
            "scales must be above 0: -1.0",
        ),
        (
            lambda: SplineQuantile(
                [0, 1], torch.tensor([0.0, 1]), support="nonnegative"
            ).crps([1.0, -3.0]),
            "1 targets are negative, but the support is nonnegative: -3.0",
        ),
        (
            lambda: SplineQuantile([0, 1], torch.zeros(3, 2)).crps(torch.zeros(2)),
            r"shape \(2,\) does not fit a batch of shape \(3,\)",
        ),
    ],
)
def test_bad_input_is_refused_with_the_name_of_the_culprit(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# --- GluonTS


@contextmanager
def gluonts_parts():
    """GluonTS's two distribution files, without its torch package, which needs
    Lightning; nothing of it stays imported.
    """
    gluonts = pytest.importorskip("gluonts", reason="gluonts is in the `dev` extra")
    root = Path(gluonts.__file__).parent / "torch"
    before = set(sys.modules)
    package = sys.modules.get("gluonts.torch")
    try:
        for name, path in (
            ("gluonts.torch", root),
            ("gluonts.torch.distributions", root / "distributions"),
        ):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(path)]
        sys.modules[
            "gluonts.torch.distributions"
        ].AffineTransformed = importlib.import_module(
            "gluonts.torch.distributions.affine_transformed"
        ).AffineTransformed
        yield tuple(
            importlib.import_module(f"gluonts.torch.distributions.{m}")
            for m in ("isqf", "piecewise_linear")
        )
    finally:
        for name in set(sys.modules) - before:
            if name.startswith("gluonts.torch"):
                del sys.modules[name]
        if package is not None:
            sys.modules["gluonts.torch"] = package


@pytest.fixture(scope="module")
def gluonts():
    with gluonts_parts() as parts:
        yield parts


def both_isqf(gluonts, seed, pieces, batch=(50,), levels=(0.1, 0.3, 0.5, 0.9)):
    "The same parameters as GluonTS's ISQF and as ours."
    g = torch.Generator().manual_seed(seed)
    n = lambda *s: torch.randn(*batch, *s, generator=g, dtype=torch.float64)
    theirs = gluonts[0].ISQFOutput(pieces, list(levels))
    k = len(levels)
    raw = theirs.domain_map(
        n((k - 1) * pieces), n((k - 1) * pieces), n(1) + 3, n(1) + 3, n(k)
    )
    d = theirs.distribution(raw)
    last = lambda x: x[..., -1:]
    a = torch.cat([d.sk_x.flatten(-2), last(d.qk_x_plus)], -1)
    v = torch.cat([d.sk_y.flatten(-2), last(d.qk_y_plus)], -1)
    return d, SplineQuantile(a, v, 1 / d.beta_l, 1 / d.beta_r)


@pytest.mark.parametrize("pieces", [1, 3])
def test_isqf_equals_gluonts(gluonts, pieces):
    theirs, ours = both_isqf(gluonts, 0, pieces)
    g = torch.Generator().manual_seed(1)
    u = torch.rand(200, 50, generator=g, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    q = ours.icdf(u)
    assert_close(q, theirs.quantile(u), rtol=1e-5, atol=1e-5)
    for z in (*q[:20], q[0] - 50, q[0] + 50):
        assert_close(ours.crps(z), theirs.crps(z), rtol=1e-5, atol=1e-5)
        assert_close(ours.cdf(z), theirs.cdf(z), rtol=1e-5, atol=1e-5)


def test_isqf_answers_where_gluonts_does_not(gluonts):
    """GluonTS has no log_prob, mean or icdf here; level 0, which its own sampler can
    draw, is minus infinity; float32 cancels far from the knots.
    """
    theirs, ours = both_isqf(gluonts, 0, 3)
    with pytest.raises(NotImplementedError):
        theirs.log_prob(torch.zeros(50))
    with pytest.raises(NotImplementedError):
        _ = theirs.mean
    with pytest.raises(NotImplementedError):
        theirs.icdf(torch.full((50,), 0.5))
    assert theirs.quantile(torch.zeros(1, 50).double()).isinf().all()
    assert torch.isfinite(ours.rsample((1000,))).all()
    # ours is the slope of their cdf
    z = ours.quantile([0.3])[:, 0] + 0.01
    e = 1e-6
    assert_close(
        ours.log_prob(z).exp(),
        (theirs.cdf(z + e) - theirs.cdf(z - e)) / (2 * e),
        rtol=1e-4,
        atol=1e-6,
    )
    # a curve 1e8 away from zero: their sum of large terms loses it
    tight = torch.tensor([-1.0]), torch.tensor([1.0])
    assert torch.isfinite(
        SplineQuantile(
            [0.1, 0.9], 1e8 + torch.stack(tight, -1) * 8, torch.ones(1), torch.ones(1)
        ).crps(torch.tensor([1e8]))
    ).all()


def test_piecewise_linear_equals_gluonts(gluonts):
    g = torch.Generator().manual_seed(2)
    n = lambda *s: torch.randn(50, *s, generator=g, dtype=torch.float64)
    theirs = (out := gluonts[1].PiecewiseLinearOutput(8)).distribution(
        out.domain_map(n(1), n(8), n(8))
    )
    a, v = (
        torch.cat([torch.zeros(50, 1), x.cumsum(-1)], -1)
        for x in (theirs.knot_spacings, theirs.slopes * theirs.knot_spacings)
    )
    ours = SplineQuantile(
        torch.cat([a[:, :-1], torch.ones(50, 1)], -1), theirs.gamma[:, None] + v
    )
    u = torch.rand(200, 50, generator=g, dtype=torch.float64)
    q = ours.icdf(u)
    assert_close(q, theirs.quantile(u), rtol=1e-5, atol=1e-5)
    for z in (*q[:20], q[0] + 9):
        assert_close(ours.cdf(z), theirs.cdf(z), rtol=1e-5, atol=1e-5)
        assert_close(ours.crps(z), theirs.crps(z), rtol=1e-5, atol=1e-5)
    z = ours.values[:, 0] - 3
    assert (ours.cdf(z) == 0).all() and (theirs.cdf(z) == 0).all()
    assert_close(ours.crps(z), theirs.crps(z), rtol=1e-5, atol=1e-5)
    # why it cannot train by likelihood
    with pytest.raises(NotImplementedError):
        theirs.log_prob(q[0])
    with pytest.raises(NotImplementedError):
        _ = theirs.mean
    e = 1e-7
    inner = ours.quantile([0.37])[:, 0]
    assert_close(
        ours.log_prob(inner).exp(),
        (theirs.cdf(inner + e) - theirs.cdf(inner - e)) / (2 * e),
        rtol=1e-3,
        atol=1e-4,
    )


def test_flat_pieces_where_gluonts_differs(gluonts):
    """P(Y <= 1) with a jump at 1.

    Their sum of slopes is 0 there or divides by what is left; F must be the highest
    level at which the quantile is 1.
    """
    gamma = torch.tensor([0.0])
    slopes = torch.tensor([[2.0, 0.0, 2.0]])
    spacings = torch.tensor([[0.5, 0.2, 0.3]])
    theirs = gluonts[1].PiecewiseLinear(gamma, slopes, spacings)
    ours = SplineQuantile([0, 0.5, 0.7, 1], torch.tensor([[0.0, 1, 1, 1.6]]))
    # theirs is P(Y < 1)
    assert_close(ours.cdf(torch.tensor([1.0])), torch.tensor([0.7]))
    assert_close(theirs.cdf(torch.tensor([1.0])), torch.tensor([0.5]))
    # the score does not mind
    assert_close(ours.crps(torch.tensor([1.0])), theirs.crps(torch.tensor([1.0])))


def test_affine_transforms_where_gluonts_differs(gluonts):
    "A Pareto shape survives scaling, and a location without a scale is no error."
    d = ISQFHead(3, tails="pareto")
    moved = d.distribution(d(torch.zeros(2, 3)), 5.0, 2.0)
    assert_close(moved.right_shape, d(torch.zeros(2, 3))["right_shape"])
    assert_close(
        d.distribution(d(torch.zeros(2, 3)), 5.0).values,
        d.distribution(d(torch.zeros(2, 3))).values + 5,
    )
