"""The scores of quantile functions and of paths.

Kernels against references, references against integrals and loops. Triton runs through
its interpreter on a CPU.
"""

import math

import pytest
import torch
from torch.testing import assert_close

from forecastlab.core.distributions import QuantileGrid
from forecastlab.kernels import energy_score as energy, spline_crps as spline
from forecastlab.kernels.energy_score import energy_score, energy_score_ref
from forecastlab.kernels.energy_score import energy_score_torch, energy_score_triton
from forecastlab.kernels.runtime import device, native
from forecastlab.kernels.spline_crps import spline_crps, spline_crps_ref
from forecastlab.kernels.spline_crps import spline_crps_torch, spline_crps_triton
from toys import check_benchmark, compiled

kernel = pytest.mark.kernel
SPLINE = [
    pytest.param(spline_crps_torch, id="torch"),
    pytest.param(spline_crps_triton, id="triton", marks=kernel),
]
ENERGY = [
    pytest.param(energy_score_torch, id="torch"),
    pytest.param(energy_score_triton, id="triton", marks=kernel),
]
NAMES = ("levels", "values", "left", "right", "left_shape", "right_shape", "target")
TAILS = {
    "Pareto": (2, 2),
    "exponential": (1, 1),
    "flat": (0, 0),
    "left only": (2, 0),
    "mixed": (1, 2),
}
SHAPES = {
    "one": (1, 2),
    "one knot": (3, 1),
    "prime": (31, 7),
    "16 knots": (17, 16),
    "33 knots": (5, 33),
    "64 knots": (7, 64),
    "many tiles": (601, 5),
}


def case(
    n=13, knot=5, shared=False, tails=(2, 2), dtype=torch.float32, seed=0, **changes
):
    "Random knots and tails; targets inside, outside and on the knots."
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(shape, generator=g, dtype=torch.float64)
    made = dict(
        levels=0.01 + 0.98 * rand(*(() if shared else (n,)), knot).sort(-1).values,
        values=(4 * rand(n, knot) - 2).sort(-1).values,
        left=0.05 + rand(n),
        right=0.05 + rand(n),
        left_shape=0.95 * rand(n),
        right_shape=0.95 * rand(n),
        target=3 * torch.randn(n, generator=g, dtype=torch.float64),
    )
    made["target"][::5] = made["values"][::5, -1]
    for side, kind in zip(("left", "right"), tails):
        if kind < 2:
            made[f"{side}_shape"] = None
        if kind < 1:
            made[side] = None
    made |= changes
    return {k: v if v is None else v.to(device(), dtype) for k, v in made.items()}


def run(path, made, dtype=None):
    "Score and every gradient, under uneven upstreams."
    made = {
        k: v if v is None else v.to(dtype or v.dtype).detach().requires_grad_()
        for k, v in made.items()
    }
    given = {k: v for k, v in made.items() if v is not None}
    score = path(**made)
    up = (
        1
        + torch.arange(score.numel(), device=score.device, dtype=score.dtype).view(
            score.shape
        )
        % 3
    )
    grads = dict(zip(given, torch.autograd.grad(score, list(given.values()), up)))
    assert all(
        grads[k].shape == v.shape and grads[k].dtype == v.dtype
        for k, v in given.items()
    )
    return score.detach(), grads


def agree(path, made, tol=3e-6, own=0.0):
    """Like the reference in double precision, up to `tol` of the largest entry.

    `own` is the rounding of the gradient's own type.
    """
    score, grads = run(path, made)
    want, slopes = run(spline_crps_ref, made, torch.float64)
    assert_close(score.double(), want, rtol=tol, atol=1e-12)
    for k, v in grads.items():
        assert_close(
            v.double(),
            slopes[k],
            rtol=own,
            atol=10 * tol * max(1e-30, slopes[k].abs().max().item()),
            msg=lambda m: f"{k}: {m}",
        )
    return score, grads


def test_scores_are_the_published_values():
    def score(z, right=0.5, shape=None, levels=(0.1, 0.9), values=(0.0, 1.0), left=0.5):
        def full(x):
            return None if x is None else torch.full((len(z),), x, dtype=torch.float64)

        z = torch.tensor(z, dtype=torch.float64)
        return spline_crps(
            torch.tensor(levels).double(),
            torch.tensor(values).double().expand(len(z), -1),
            full(left),
            full(right),
            None,
            full(shape),
            z,
        )

    close = lambda a, b: assert_close(a, torch.tensor(b).double(), rtol=0, atol=6e-7)
    close(
        score([0.5, -3, 0.1, 1.2, 4]),
        [0.108333, 3.208581, 0.236333, 0.475365, 3.208581],
    )
    close(
        score([0.5, -3, 0.1, 1.2, 4], right=0.4, shape=0.3),
        [0.108186, 3.208434, 0.236186, 0.476383, 3.201205],
    )
    close(
        score([2.0], left=1.0, right=1.0, levels=(0.1, 0.5, 0.9), values=(0.0, 1, 2)),
        [0.025 + 0.005 + 44 / 75],
    )
    flat = dict(left=None, right=None)
    close(
        score([2.2], levels=(0, 0.3, 0.7, 1), values=(1, 1.6, 2.8, 3.1), **flat),
        [0.223],
    )
    close(score([1.5], levels=(0, 0.4, 1), values=(1, 1.4, 2), **flat), [0.083333])
    close(score([1.6], levels=(0, 0.4, 1), values=(1, 1.4, 2.6), **flat), [0.145333])
    close(
        score([2.0, -2], levels=(0, 0.5, 1), values=(-1, 0, 1), **flat), [5 / 3, 5 / 3]
    )
    close(
        score([0.0, 0.25, 0.5, 1, 2, -0.5], levels=(0, 1), values=(0, 1), **flat),
        [1 / 3, 0.145833, 1 / 12, 1 / 3, 4 / 3, 5 / 6],
    )
    close(
        score([0.0, 0.5, 1, 3, -1], levels=(0,), values=(0,), left=None, right=1.0),
        [0.5, 0.213061, 0.235759, 1.599574, 1.5],
    )
    close(
        score([0.0, 1, 3], levels=(0,), values=(0,), left=None, right=1.0, shape=0.2),
        [0.555556, 0.261188, 1.437025],
    )
    # Laplace
    exp = [
        score([z], left=1.0, right=1.0, levels=(0.5,), values=(0,)) for z in (0.0, 1, 2)
    ]
    close(torch.cat(exp), [0.25, 0.617879, 1.385335])


def gauss(f, a, b, n=40):
    "Integral of a smooth f over (..., a to b), by Gauss and Legendre."
    t = torch.arange(1, n, dtype=torch.float64)
    off = t / (4 * t * t - 1).sqrt()
    x, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    u = a[..., None] + (b - a)[..., None] * (x + 1) / 2
    return (f(u) * vectors[0] ** 2).sum(-1) * (b - a)


def integral(made):
    """The definition, piece by piece, split at F(z); tails in s = ln(level), forty
    pieces each.
    """
    a, v, z = made["levels"].expand_as(made["values"]), made["values"], made["target"]
    loss = lambda u, q, z: 2 * torch.where(z < q, (1 - u) * (q - z), u * (z - q))
    total = 0
    for k in range(v.shape[1] - 1):
        lo, hi, d = v[:, k], v[:, k + 1], a[:, k + 1] - a[:, k]
        r = a[:, k] + d * ((z - lo) / (hi - lo)).clamp(0, 1)

        def f(u):
            return loss(
                u,
                lo[:, None] + (hi - lo)[:, None] * ((u - a[:, k, None]) / d[:, None]),
                z[:, None],
            )

        total = total + gauss(f, a[:, k], r) + gauss(f, r, a[:, k + 1])
    for sign, mass, knot, s, xi in (
        (1, a[:, 0], v[:, 0], made["left"], made["left_shape"]),
        (-1, 1 - a[:, -1], v[:, -1], made["right"], made["right_shape"]),
    ):
        far = (sign * (knot - z)).clamp(min=0)
        at = torch.log1p(xi * far / s) / xi  # where the target lies, as ln(mass/level)

        def f(L):
            u = mass[:, None] * torch.exp(-L)
            q = knot[:, None] - sign * s[:, None] / xi[:, None] * torch.expm1(
                xi[:, None] * L
            )
            return loss(u, sign * q, sign * z[:, None]) * u

        steps = torch.cat(
            [
                at[:, None] * torch.linspace(0, 1, 21, dtype=torch.float64),
                at[:, None]
                + 40
                / (2 - xi[:, None])
                * torch.linspace(0, 1, 21, dtype=torch.float64)[1:],
            ],
            1,
        )
        total = total + sum(gauss(f, steps[:, i], steps[:, i + 1]) for i in range(40))
    return total


@pytest.mark.parametrize("shared", [False, True])
def test_closed_form_is_the_integral(shared):
    "Knots, gaps and both tails, from nearly exponential to nearly no mean."
    made = case(60, 6, shared, dtype=torch.float64, seed=3)
    made["left_shape"][:10] = 1e-3
    made["right_shape"][10:20] = 0.94
    made = {k: v.cpu() for k, v in made.items()}
    for path in (spline_crps_ref, spline_crps):
        assert_close(path(**made), integral(made), rtol=1e-8, atol=0)


def test_it_is_the_score_of_the_grid():
    g = torch.Generator().manual_seed(0)
    levels = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    values = torch.randn(40, 4, generator=g).double().sort(-1).values
    z = 3 * torch.randn(40, generator=g).double()
    grid = QuantileGrid(levels, values)
    left = (values[:, 1] - values[:, 0]) / math.log(3)
    right = (values[:, 3] - values[:, 2]) / math.log(5)
    z.requires_grad_()
    score = spline_crps(levels, values, left, right, target=z)
    assert_close(score, grid.crps(z.detach()), rtol=1e-10, atol=1e-12)
    assert_close(
        torch.autograd.grad(score.sum(), z)[0],
        2 * grid.cdf(z.detach()) - 1,
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("path", SPLINE)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_paths_agree_on_ugly_shapes(path, shape):
    for i, shared in enumerate((False, True)):
        agree(path, case(*shape, shared=shared, seed=i))


@pytest.mark.parametrize("path", SPLINE)
@pytest.mark.parametrize("tails", TAILS.values(), ids=TAILS.keys())
def test_any_tails_agree_with_the_reference(path, tails):
    for shared in (False, True):
        agree(path, case(tails=tails, shared=shared))


@pytest.mark.parametrize("path", SPLINE)
@pytest.mark.parametrize(
    "dtype, own", [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)], ids=str
)
def test_half_precision_is_read_but_never_added_up(path, dtype, own):
    for shared in (False, True):
        assert (
            agree(path, case(29, 9, shared, dtype=dtype), own=own, tol=2e-5)[0].dtype
            == torch.float32
        )


@pytest.mark.parametrize("path", SPLINE)
def test_strides_and_batch_shapes_do_not_matter(path):
    made = case(12, 6)
    want = agree(path, made)
    odd = made | dict(
        values=made["values"].t().contiguous().t(),
        levels=made["levels"].repeat(1, 2)[:, :6],
        target=torch.stack([made["target"]] * 2, 1)[:, 0],
    )
    assert not odd["values"].is_contiguous() and not odd["target"].is_contiguous()
    wide = {k: v.view(3, 4, *v.shape[1:]) for k, v in made.items()}
    for other in (odd, wide):
        score, grads = run(path, other)
        assert_close(score.flatten()[:1], want[0][:1], rtol=1e-6, atol=0)
        if other is odd:
            for k in NAMES:
                assert_close(grads[k], want[1][k])
        else:
            assert score.shape == (3, 4)
            assert all(grads[k].shape == wide[k].shape for k in NAMES)
    agree(
        path,
        made
        | dict(
            values=made["values"][:1].expand(12, -1), left=made["left"][:1].expand(12)
        ),
    )


def check(path, made):
    given = {k: v.cpu().requires_grad_() for k, v in made.items() if v is not None}
    return torch.autograd.gradcheck(
        lambda *xs: path(**{k: None for k in NAMES} | dict(zip(given, xs))),
        list(given.values()),
    )


@pytest.mark.parametrize(
    "path", [spline_crps_ref, spline_crps_torch], ids=["ref", "torch"]
)
@pytest.mark.parametrize("shared", [False, True])
def test_gradients_are_right_in_double_precision(path, shared):
    for i, tails in enumerate(TAILS.values()):
        # off the knots
        made = case(9, 4, shared, tails, torch.float64, seed=i)
        made["target"] += 0.01
        assert check(path, made)
    made = case(
        9, 4, shared, dtype=torch.float64, seed=7, target=torch.linspace(-9, 9, 9)
    )
    made["left_shape"][:4] = torch.tensor([1e-9, 1e-5, 1e-3, 0.02])
    made["right_shape"][-4:] = torch.tensor([0.95, 1e-2, 1e-4, 1e-7])
    assert check(path, made)


@pytest.mark.parametrize("path", [spline_crps_ref, *SPLINE])
def test_pareto_meets_exponential(path):
    made = case(20, 4, tails=(1, 1))
    zero = torch.zeros_like(made["target"])
    score, grads = run(path, made | dict(left_shape=zero, right_shape=zero))
    want, slopes = run(path, made)
    assert_close(score, want, rtol=1e-6, atol=1e-7)
    for k, v in slopes.items():
        assert_close(grads[k], v, rtol=2e-6, atol=1e-6)
    tiny, _ = run(path, made | dict(left_shape=zero + 1e-7, right_shape=zero + 1e-7))
    assert_close(tiny, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", SPLINE)
def test_scale_shift_mirror_and_extra_knots_change_nothing(path):
    made = case(20, 5)
    want = path(**made)
    scale = {k: made[k] * 8 for k in ("values", "left", "right", "target")}
    assert_close(path(**made | scale), 8 * want, rtol=1e-6, atol=0)
    assert_close(
        path(**made | dict(values=made["values"] + 4, target=made["target"] + 4)),
        want,
        rtol=1e-5,
        atol=1e-6,
    )
    mirror = dict(
        levels=1 - made["levels"].flip(-1),
        values=-made["values"].flip(-1),
        left=made["right"],
        right=made["left"],
        left_shape=made["right_shape"],
        right_shape=made["left_shape"],
        target=-made["target"],
    )
    assert_close(path(**mirror), want, rtol=1e-5, atol=1e-6)
    middle = lambda x: torch.cat([x[:, :2], (x[:, 1:2] + x[:, 2:3]) / 2, x[:, 2:]], 1)
    assert_close(
        path(
            **made | dict(values=middle(made["values"]), levels=middle(made["levels"]))
        ),
        want,
        rtol=1e-5,
        atol=1e-6,
    )
    assert (want >= 0).all()


@pytest.mark.parametrize("path", [spline_crps_ref, *SPLINE])
@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
# the interpreter's division, clipped right after
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_extremes_give_no_nan(path, unit):
    for scale in (0.0, 1e-8, 1.0, 1e8):
        for xi in (0.0, 1e-8, 0.3, 0.95):
            made = case(
                9,
                6,
                levels=torch.tensor([0.0, 0.2, 0.2, 0.5, 0.9, 1.0]),
                target=torch.linspace(-9, 9, 9),
            )
            made["values"][0::3] = 1.0
            made["values"][1::3, 2:] = made["values"][1::3, 2:3]
            made["target"][4] = made["values"][4, 3]
            full = torch.full_like(made["target"], xi)
            made |= dict(
                left=0 * full + scale,
                right=0 * full + scale,
                left_shape=full,
                right_shape=full,
                values=unit * made["values"],
                target=unit * made["target"],
            )
            for own in (False, True):
                if own:
                    made["levels"] = torch.tensor(
                        [0.05, 0.2, 0.2, 0.5, 0.9, 0.99], device=device()
                    ).expand(9, -1)
                score, grads = run(path, made)
                assert score.isfinite().all(), (scale, xi)
                assert (score >= 0).all(), (scale, xi)
                assert all(v.isfinite().all() for v in grads.values()), (scale, xi)
                assert_close(
                    score.double(),
                    run(spline_crps_ref, made, torch.float64)[0],
                    rtol=2e-5,
                    atol=0,
                )


@pytest.mark.parametrize("path", [spline_crps_ref, *SPLINE])
def test_the_cdf_is_continuous_from_the_right(path):
    """At a jump of F the slope is 2 F(z) - 1, the mass at z included; inside a gap F is
    flat.
    """
    z = torch.tensor([1.0, 2.0, 1.5, 0.99, 1.01], requires_grad=True, device=device())
    values = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0], device=device()).expand(5, 5)
    score = path(
        torch.tensor([0.0, 0.25, 0.5, 0.5, 1.0], device=device()), values, target=z
    )
    (slope,) = torch.autograd.grad(score.sum(), z)
    assert_close(
        slope,
        2 * torch.tensor([0.5, 1.0, 0.5, 0.2475, 0.5], device=device()) - 1,
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("path", [spline_crps_ref, *SPLINE])
def test_nan_stays_visible_in_its_row(path):
    for name in ("values", "target", "left", "right_shape"):
        made = case(7, 4)
        made[name][3] = float("nan")
        assert path(**made).isnan().tolist() == [i == 3 for i in range(7)], name


@pytest.mark.parametrize("path", SPLINE)
def test_spline_gradients_repeat_bit_for_bit(path):
    made = case(700, 5)
    want = run(path, made)
    for a, b in zip(run(path, made)[1].values(), want[1].values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("path", SPLINE)
def test_splines_are_scored_without_gradients_for_some_or_for_none(path):
    made = case(700, 5)
    want, _ = run(path, made)
    with torch.no_grad():
        score = path(**{k: v.requires_grad_() for k, v in made.items()})
    assert torch.equal(score, want)
    one = {k: v.detach().requires_grad_(k == "left") for k, v in made.items()}
    path(**one).sum().backward()


@pytest.mark.parametrize("path", SPLINE)
def test_no_splines_have_no_scores(path):
    made = case(700, 5)
    empty = path(**{k: v.detach()[:0].requires_grad_() for k, v in made.items()})
    empty.sum().backward()
    assert empty.shape == (0,)


@pytest.mark.parametrize("path", SPLINE)
def test_a_second_backward_pass_leaves_the_first_gradient_alone(path):
    made = case(700, 5)
    z = made["target"].detach().requires_grad_()
    score = path(**made | dict(target=z)).sum()
    (first,) = torch.autograd.grad(score, z, retain_graph=True)
    kept = first.clone()
    assert torch.equal(torch.autograd.grad(2 * score, z)[0], 2 * kept)
    assert torch.equal(first, kept)


def test_many_rows_go_in_chunks_and_build_no_cube():
    from torch.profiler import ProfilerActivity, profile

    made = {k: v.cpu() for k, v in case(40_011, 16, True).items()}
    agree(spline_crps_torch, made, tol=5e-6)
    made["values"].requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        spline_crps_torch(**made).mean().backward()
    assert seen.key_averages()
    assert (
        max(e.self_cpu_memory_usage for e in seen.events())
        <= 4 * made["values"].numel() * 1.01
    )


@pytest.mark.parametrize("path", [spline_crps_ref, *SPLINE])
@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(target=torch.zeros(4)), "values must be"),
        (dict(target=None), "no target"),
        (dict(levels=torch.zeros(4)), "levels must be shaped"),
        (dict(values=torch.zeros(13, 0)), "values must be"),
        (dict(left=None), "left_shape is given without a scale"),
        (dict(right=torch.zeros(13, 1)), "right tail must be shaped"),
        (dict(left_shape=torch.zeros(2)), "left tail must be shaped"),
    ],
)
def test_a_spline_that_cannot_be_is_refused(path, changes, message):
    with pytest.raises(ValueError, match=message):
        path(**case(**changes))


# ---- energy score


def paths(n=5, m=7, d=6, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, m, d, generator=g).to(device(), dtype), torch.randn(
        n, d, generator=g
    ).to(device(), dtype)


def both(path, w, z, dtype=None, **rest):
    w = w.to(dtype or w.dtype).detach().requires_grad_()
    score = path(w, z.to(dtype or z.dtype), **rest)
    score.backward(1 + torch.arange(len(score), device=w.device, dtype=score.dtype) % 3)
    assert w.grad.shape == w.shape and w.grad.dtype == w.dtype
    return score.detach(), w.grad


def same(path, w, z, tol=2e-6, own=0.0, **rest):
    score, grad = both(path, w, z, **rest)
    want, slope = both(energy_score_ref, w, z, torch.float64, **rest)
    assert_close(
        score.double(), want, rtol=10 * tol, atol=tol * w.double().abs().max().item()
    )
    assert_close(
        grad.double(),
        slope,
        rtol=own,
        atol=10 * tol * max(1e-30, slope.abs().max().item()),
    )
    return score, grad


def naive(w, z, beta):
    "Loops over Python numbers."
    m = len(w)
    length = lambda x: math.sqrt(sum(v * v for v in x)) ** beta
    far = sum(length([a - b for a, b in zip(row, z)]) for row in w) / m
    return far - sum(
        length([a - b for a, b in zip(w[i], w[j])])
        for i in range(m)
        for j in range(m)
        if i != j
    ) / (2 * m * (m - 1))


@pytest.mark.parametrize("path", [energy_score_ref, energy_score])
def test_the_energy_score_equals_its_loops(path):
    for beta in (0.5, 1.0, 1.7):
        w, z = paths(4, 5, 6, torch.float64)
        assert_close(
            path(w, z, beta=beta).cpu(),
            torch.tensor(
                [naive(a, b, beta) for a, b in zip(w.tolist(), z.tolist())],
                dtype=torch.float64,
            ),
            rtol=1e-10,
            atol=1e-12,
        )


def test_the_energy_score_of_the_normal_is_known():
    g = torch.Generator().manual_seed(0)
    for d, at_zero, self_score in (
        (1, 0.233695, 0.564190),
        (2, 0.367087, 0.886227),
        (3, 0.467390, 1.128379),
        (6, 0.688289, 1.661675),
        (24, 1.420013, 3.428215),
    ):
        w = torch.randn(20_000, 8, d, generator=g)
        z = torch.randn(20_000, d, generator=g)
        for score, exact in (
            (energy_score(w, 0 * z), at_zero),
            (energy_score(w, z), self_score),
        ):
            assert abs(score.mean() - exact) < 4 * score.std() / 20_000**0.5


@pytest.mark.parametrize("path", ENERGY)
@pytest.mark.parametrize(
    "shape",
    [(1, 2, 1), (3, 5, 3), (2, 17, 7), (5, 3, 31), (1, 65, 5), (2, 50, 12)],
    ids=str,
)
def test_energy_paths_agree_on_ugly_shapes(path, shape):
    for beta in (1.0, 0.6, 1.8):
        same(path, *paths(*shape), beta=beta)


@pytest.mark.parametrize("path", ENERGY)
def test_gaps_leave_both_norms(path):
    w, z = paths(6, 5, 7)
    observed = (
        torch.rand(6, 7, generator=torch.Generator().manual_seed(1)).to(device()) < 0.6
    )
    observed[2] = False
    observed[3] = True
    z = torch.where(observed, z, float("nan"))
    for mask in (observed, observed.float(), observed.long()):
        score, grad = same(path, w, z, observed=mask)
    assert score[2] == 0 and (grad[~observed[:, None].expand_as(grad)] == 0).all()
    keep = observed[0]
    assert_close(score[:1], path(w[:1, :, keep], z[:1, keep]), rtol=1e-5, atol=1e-6)
    assert_close(
        path(torch.where(observed[:, None], w, float("nan")), z, observed),
        score,
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("path", ENERGY)
# the kernel rounds its gradient once more when upstream comes
@pytest.mark.parametrize(
    "dtype, own", [(torch.bfloat16, 1.2e-2), (torch.float16, 1.5e-3)], ids=str
)
def test_half_precision_paths_are_scored_in_single(path, dtype, own):
    assert same(path, *paths(dtype=dtype), own=own, tol=1e-5)[0].dtype == torch.float32


@pytest.mark.parametrize("path", ENERGY)
def test_strides_of_paths_do_not_matter(path):
    w, z = paths(4, 6, 5)
    want = same(path, w, z)
    for order in ((1, 0, 2), (2, 1, 0), (0, 2, 1)):
        odd = w.permute(order).contiguous().permute(*[order.index(i) for i in range(3)])
        for a, b in zip(both(path, odd, z.t().contiguous().t()), want):
            assert_close(a, b, rtol=1e-6, atol=1e-7)
    same(path, w[:1].expand(4, -1, -1), z)
    same(path, w[:, ::2, 1::2], z[:, 1::2])


@pytest.mark.parametrize("path", [energy_score_ref, *ENERGY])
@pytest.mark.parametrize("d", [1, 3, 9])
def test_draws_in_one_place_have_no_slope(path, d):
    w, z = paths(4, 6, d)
    w[0] = w[0, :1]
    w[1] = z[1]
    w[2, 3] = w[2, 2]
    w[3] = 0
    score, grad = same(path, w, z)
    assert score.isfinite().all()
    assert grad.isfinite().all()
    assert score[1] == 0
    assert (grad[1] == 0).all()
    assert_close(score[0], (w[0, 0] - z[0]).norm(), rtol=1e-5, atol=1e-6)
    assert_close(grad[2, 2], grad[2, 3], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("path", ENERGY)
def test_close_draws_keep_their_digits(path):
    """Tight clusters far apart, draws along a line, near twins, far from zero, far from
    the target.
    """
    w, z = paths(6, 20, 12)
    line = w[:, :, :1] * w[:1, :1]
    clusters = 10 * (w[:, :, :1] > 0) + 1e-3 * w
    twins = w.clone()
    twins[:, 1::2] = twins[:, ::2] + 1e-4 * w[:, 1::2]
    for draws, tol in (
        (line, 5e-6),
        (clusters, 1e-5),
        (twins, 1e-5),
        (w + 1024, 2e-6),
        (1e-8 * w, 2e-6),
        (1e8 * w, 2e-6),
    ):
        same(path, draws, 1e-8 * z if draws.abs().max() < 1e-6 else z, tol=tol)
    score, grad = both(path, 1e-3 * w, z + 1e3)
    want, slope = both(energy_score_ref, 1e-3 * w, z + 1e3, torch.float64)
    assert_close(grad.double(), slope, rtol=0, atol=1e-5 * slope.abs().max().item())


def test_energy_gradient_in_double_precision():
    w, z = (x.cpu() for x in paths(3, 5, 6, torch.float64))
    observed = torch.tensor([[1, 1, 0, 1, 1, 1]] * 3)
    for path in (energy_score_ref, energy_score_torch):
        for beta in (1.0, 0.7, 1.6):
            assert torch.autograd.gradcheck(
                lambda w: path(w, z, observed, beta), w.requires_grad_()
            )
        assert torch.autograd.gradcheck(
            lambda w: path(w, z[:, :2]), w[..., :2].detach().requires_grad_()
        )


def test_it_is_the_fair_crps_in_one_dimension():
    w, z = paths(20, 30, 1, torch.float64)
    gaps = (w[:, :, None, 0] - w[:, None, :, 0]).abs().sum((1, 2)) / (2 * 30 * 29)
    assert_close(energy_score(w, z), (w[..., 0] - z).abs().mean(1) - gaps)
    assert_close(
        energy_score(torch.tensor([[[0.0], [1.0]]]), torch.tensor([[0.5]])),
        torch.zeros(1),
    )


@pytest.mark.parametrize("path", ENERGY)
def test_energy_scores_and_gradients_repeat_bit_for_bit(path):
    w, z = paths(9, 6, 5)
    for a, b in zip(both(path, w, z), both(path, w, z)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("path", ENERGY)
def test_paths_are_scored_without_gradients(path):
    w, z = paths(9, 6, 5)
    want, _ = both(path, w, z)
    with torch.no_grad():
        assert torch.equal(path(w.requires_grad_(), z), want)
    assert not path(w.detach(), z).requires_grad


@pytest.mark.parametrize("path", ENERGY)
def test_no_paths_have_no_scores(path):
    w, z = paths(9, 6, 5)
    empty = path(w[:0].requires_grad_(), z[:0])
    empty.sum().backward()
    assert empty.shape == (0,)


@pytest.mark.parametrize("path", ENERGY)
def test_a_missing_number_makes_its_own_energy_score_missing(path):
    w, z = paths(9, 6, 5)
    bad = w.clone()
    bad[2, 1, 0] = float("nan")
    assert path(bad, z).isnan().tolist() == [i == 2 for i in range(9)]
    bad = z.clone()
    bad[3, 0] = float("nan")
    for score in (path, energy_score_ref):
        assert score(w, bad).isnan().tolist() == [i == 3 for i in range(9)]


def test_energy_goes_in_chunks_without_a_table_of_differences():
    from torch.profiler import ProfilerActivity, profile

    w, z = (x.cpu() for x in paths(700, 20, 24))
    same(energy_score_torch, w, z)
    w.requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        energy_score_torch(w, z).mean().backward()
    assert (
        max(e.self_cpu_memory_usage for e in seen.events())
        <= 4 * w.numel() * 1.01
        < 4 * 700 * 20 * 20 * 24 / 10
    )


@pytest.mark.parametrize("path", [energy_score_ref, *ENERGY])
@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(target=torch.zeros(5, 5)), "paths must be"),
        (dict(paths=torch.zeros(5, 6)), "paths must be"),
        (dict(paths=torch.zeros(5, 1, 6)), "at least two draws are needed: 1"),
        (dict(observed=torch.zeros(5)), "observed must be shaped"),
        (dict(beta=0), "between 0 and 2: 0"),
        (dict(beta=2.0), "between 0 and 2: 2.0"),
        (dict(beta=float("nan")), "between 0 and 2: nan"),
        (
            dict(target=torch.zeros(5, 6, requires_grad=True)),
            "only paths get a gradient",
        ),
    ],
)
def test_paths_that_cannot_be_are_refused(path, changes, message):
    w, z = paths()
    with pytest.raises(ValueError, match=message):
        path(**dict(paths=w, target=z) | changes)


def test_double_precision_goes_through_torch():
    assert (
        spline_crps(**case(dtype=torch.float64)).dtype
        == torch.float64
        == energy_score(*paths(dtype=torch.float64)).dtype
    )
    with pytest.raises(ValueError, match="float64"):
        spline_crps_triton(**case(dtype=torch.float64))
    with pytest.raises(ValueError, match="float64"):
        energy_score_triton(*paths(dtype=torch.float64))


def test_autocast_changes_no_score():
    made, (w, z) = case(), paths()
    want = [run(spline_crps, made), both(energy_score, w, z)]
    with torch.autocast(device().type, dtype=torch.bfloat16):
        got = [run(spline_crps, made), both(energy_score, w, z)]
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    shared = case(shared=True)
    with torch.autocast(device().type, dtype=torch.bfloat16):
        got = run(spline_crps, shared)
    torch.testing.assert_close(got, run(spline_crps, shared), rtol=0, atol=0)


def test_quantile_bytes_are_counted():
    assert (
        spline.bytes_moved(100, 20, backward=False)
        < spline.bytes_moved(100, 20)
        < spline.bytes_moved(100, 20, own=True)
    )
    assert energy.bytes_moved(100, 50, 24) < 4.2 * 4 * 100 * 50 * 24
    assert energy.bytes_moved(100, 50, 24, size=2) < energy.bytes_moved(100, 50, 24)


COMPILE = """
from forecastlab.kernels import energy_score, spline_crps

HALF = ("values_ptr", "paths_ptr", "by_value_ptr", "grad_ptr")
OTHER = dict(below_ptr="*i32", observed_ptr="*u8", beta="fp32")


def type_of(name):
    if name in OTHER:
        return OTHER[name]
    if name in HALF:
        return "*bf16"
    return "*fp32" if name.endswith("_ptr") else "i32"


tails = dict(LEFT=2, RIGHT=2, BLOCK=64, KNOTS=32)
kernels = (
    (spline_crps.KERNELS["score"], dict(KEEP=2, **tails)),
    (spline_crps.KERNELS["gradient"], dict(VALUES=True, LEVELS=2, **tails)),
    (energy_score.KERNELS["score"], dict(KEEP=True, ONE=True, ROWS=64, DRAWS=64)),
)
for kernel, fixed in kernels:
    for made in compiled(kernel, fixed, type_of):
        text = made["ptx"]
        few = text.count("ex2.approx") <= 6
        print(len(made["cubin"]) > 0, text.count("ld.local"), "atom" in text, few)
"""


@kernel
def test_quantile_kernels_compile_for_a_gpu_without_one():
    """Machine code for Ampere and Hopper.

    No spilled registers, no atomics, each tail's exponentials taken once a thread.
    """
    assert compiled(COMPILE) == ["True 0 False True"] * 6


def test_quantile_benchmarks_append_rows(tmp_path, monkeypatch):
    for bench, shape in (
        (spline.bench_spline_crps, (5, 3, True)),
        (energy.bench_energy_score, (3, 4, 5)),
    ):
        check_benchmark(bench, shape, tmp_path, monkeypatch)


@pytest.mark.gpu
def test_compiled_quantile_kernels_agree_on_large_shapes():
    assert native()
    for shared in (False, True):
        agree(spline_crps_triton, case(100_003, 21, shared), tol=1e-5)
    same(energy_score_triton, *paths(2000, 50, 24), tol=1e-5)
