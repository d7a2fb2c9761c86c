"""Kernels against their references.

Ugly shapes, types and strides, gaps, gradients, determinism. Triton runs through its
interpreter on a CPU.
"""

import ast

import pytest
import torch
from torch.testing import assert_close

from forecastlab.kernels.quantile_loss import bench_quantile_loss, bytes_moved
from forecastlab.kernels.quantile_loss import quantile_loss, quantile_loss_ref
from forecastlab.kernels.quantile_loss import quantile_loss_torch, quantile_loss_triton
from forecastlab.kernels.runtime import device, has_gpu, interpreting, native
from toys import check_benchmark, compiled, output

kernel = pytest.mark.kernel
PATHS = [
    pytest.param(quantile_loss_torch, id="torch"),
    pytest.param(quantile_loss_triton, id="triton", marks=kernel),
]
SHAPES = {
    "plain": (4, 6, 8, 9),
    "one": (1, 1, 1, 1),
    "prime": (3, 7, 5, 13),
    "horizon 1": (5, 4, 1, 3),
    "level 1": (2, 9, 7, 1),
    "one origin": (7, 1, 11, 5),
    "one series": (1, 31, 2, 9),
    "33 levels": (2, 3, 2, 33),
    "many tiles": (3, 29, 17, 4),
    "65 levels": (1, 2, 3, 65),
}
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def case(batch=3, origin=5, horizon=4, level=3, dtype=torch.float32, seed=0, **changes):
    "Random forecasts; targets with NaN gaps, scales and weights."
    g = torch.Generator().manual_seed(seed)
    y = 5 + 3 * torch.randn(batch, origin + horizon + 2, generator=g)
    y[torch.rand(y.shape, generator=g) < 0.2] = float("nan")
    made = (
        dict(
            q=torch.randn(batch, origin, horizon, level, generator=g).to(dtype),
            y=y,
            origins=torch.arange(origin) + 1,
            levels=tuple((i + 1) / (level + 1) for i in range(level)),
            loc=5 * torch.rand(batch, origin, generator=g),
            scale=0.2 + torch.rand(batch, origin, generator=g),
            weight=torch.rand(batch, origin, generator=g),
        )
        | changes
    )
    send = lambda v: v.to(device()) if isinstance(v, torch.Tensor) else v
    return {k: send(v) for k, v in made.items()}


def run(path, made, upstream=1.7):
    "Loss, weight, gradient."
    q = made["q"].detach().requires_grad_()
    loss, mass = path(**made | dict(q=q))
    (loss * upstream).backward()
    assert q.grad.shape == q.shape and q.grad.dtype == q.dtype
    return loss.detach(), mass, q.grad


def agree(path, made, rtol=2e-6, **kwargs):
    loss, mass, grad = run(path, made, **kwargs)
    loss_ref, mass_ref, grad_ref = run(quantile_loss_ref, made, **kwargs)
    assert_close(loss, loss_ref.to(loss.dtype), rtol=2e-6, atol=1e-6)
    assert_close(mass, mass_ref, rtol=1e-6, atol=0)
    assert_close(grad, grad_ref, rtol=rtol, atol=1e-7)
    return loss, mass, grad


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_paths_agree_on_ugly_shapes(path, shape):
    agree(path, case(*shape))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_half_precision_is_read_but_never_added_up(path, dtype):
    loss, mass, grad = agree(path, case(4, 5, 6, 9, dtype=dtype), rtol=TOLERANCE[dtype])
    assert loss.dtype == mass.dtype == torch.float32


def test_float64_goes_through_torch():
    made = case(dtype=torch.float64)
    assert run(quantile_loss, made)[0].dtype == torch.float64
    agree(quantile_loss_torch, made)
    with pytest.raises(ValueError, match="float64"):
        quantile_loss_triton(**made)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("order", [(3, 0, 1, 2), (1, 3, 0, 2), (0, 2, 1, 3)], ids=str)
def test_strides_do_not_matter(path, order):
    made = case(4, 3, 5, 7)
    back = [order.index(i) for i in range(4)]
    q = made["q"].permute(order).contiguous().permute(back)
    assert not q.is_contiguous()
    for a, b in zip(agree(path, made | dict(q=q)), agree(path, made)):
        assert_close(a, b, rtol=1e-6, atol=1e-7)
    agree(path, made | dict(q=made["q"][:, :, ::2, 1:6:2], levels=(0.1, 0.2, 0.3)))
    agree(path, made | dict(q=made["q"][:1].expand(4, -1, -1, -1)))
    turned = {k: made[k].t().contiguous().t() for k in ("y", "scale")}
    agree(path, made | turned)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "origins",
    [
        [2, 3, 4, 5, 6],
        [0, 2, 4, 6, 8],
        [7, 1, 1, 4, 0],
        [-1, 0, 1, 2, 3],
        [-3, -2, -1, 0, 1],
        [8, 9, 10, 11, 12],
        [-9, -8, -7, -6, -5],
        [30, 31, 32, 33, 34],
        [5, 4, 3, 2, 1],
        [0, 1, 2, 3, 500],
    ],
    ids=str,
)
def test_any_origins_and_nothing_is_seen_outside_the_series(path, origins):
    made = case(origins=torch.tensor(origins))
    agree(path, made)
    agree(path, made | dict(origins=made["origins"].int()))
    agree(path, made | dict(origins=made["origins"].expand(3, -1)))
    each = made["origins"][None] + torch.arange(3, device=device())[:, None]
    agree(path, made | dict(origins=each))
    not_contiguous = torch.stack([made["origins"]] * 2, 1)[:, 0]
    agree(path, made | dict(origins=not_contiguous))


@pytest.mark.parametrize("path", PATHS)
def test_masked_all_is_zero_whatever_it_holds(path):
    nan = torch.full((3, 5), float("nan"), device=device())
    for made in (
        case(observed=torch.zeros(3, 11)),
        case(y=torch.full((3, 11), float("nan"))),
        case(weight=0.0),
        case(weight=0.0, loc=nan, scale=nan),
        case(
            observed=torch.zeros(3, 11, dtype=torch.bool),
            loc=nan,
            scale=nan,
            y=torch.full((3, 11), float("inf")),
        ),
    ):
        loss, mass, grad = run(path, made)
        assert loss == 0 and mass == 0 and (grad == 0).all()


@pytest.mark.parametrize("path", PATHS)
def test_values_under_the_mask_change_nothing(path):
    made = case()
    observed = ~made["y"].isnan()
    want = run(path, made)
    for junk in (float("nan"), float("inf"), -float("inf"), 3e38):
        y = torch.where(observed, made["y"], junk)
        for mask in (observed, observed.float(), observed.long()):
            for a, b in zip(run(path, made | dict(y=y, observed=mask)), want):
                assert torch.equal(a, b)
    # origins 3, 4 and 5 see nothing: their scale may be anything
    seen = torch.ones_like(observed)
    seen[:, 3:] = False
    bad = made["scale"].clone()
    bad[:, 2:] = float("nan")
    bad[:, 3] = 0
    loss, mass, grad = run(
        path, made | dict(y=torch.ones_like(y), observed=seen, scale=bad, loc=bad)
    )
    assert loss.isfinite() and grad.isfinite().all()
    assert (grad[:, 2:] == 0).all()
    assert (grad[:, 0, 0] != 0).all()


@pytest.mark.parametrize("path", [quantile_loss_ref, *PATHS])
def test_a_nan_forecast_stays_visible(path):
    made = case()
    made["y"] = made["y"].nan_to_num(0)
    made["q"][1, 2, 3, 0] = float("nan")
    assert path(**made)[0].isnan()


@pytest.mark.parametrize("path", PATHS)
def test_ties_fall_on_the_same_side(path):
    made = case(
        y=torch.randint(0, 4, (3, 11)).float(),
        loc=torch.randint(0, 3, (3, 5)).float(),
        scale=torch.tensor([3.0]),
        weight=1.0,
    )
    t = made["origins"][:, None] + 1 + torch.arange(4, device=device())
    z = (made["y"][:, t] - made["loc"][..., None]) / made["scale"]
    loss, mass, grad = agree(
        path, made | dict(q=z[..., None].expand(-1, -1, -1, 3).contiguous())
    )
    assert loss == 0 and mass == z.numel() * 3
    # a tie is no over-forecast
    levels = torch.tensor(made["levels"], device=device())
    assert_close(grad, -1.7 * levels.expand_as(grad))


SMALL = dict(loc=2.0, scale=3.0, weight=0.5)


@pytest.mark.parametrize("path", PATHS)
def test_small_inputs_broadcast(path):
    made = case()
    full = {k: torch.full((3, 5), x) for k, x in SMALL.items()}
    want = run(path, case(**full))
    small = dict(
        loc=SMALL["loc"],
        scale=torch.tensor(SMALL["scale"], device=device()),
        weight=torch.full((3, 1), SMALL["weight"], device=device()),
    )
    for a, b in zip(run(path, made | small), want):
        assert torch.equal(a, b)
    plain = {k: v for k, v in made.items() if k not in SMALL}
    written_out = made | dict(loc=0.0, scale=1.0, weight=1.0)
    for a, b in zip(run(path, plain), run(path, written_out)):
        assert torch.equal(a, b)


def test_the_weight_counts_every_term():
    made = case(2, 3, 4, 5, y=torch.ones(2, 9), weight=1.0)
    for path in (quantile_loss_ref, quantile_loss):
        assert path(**made)[1] == 2 * 3 * 4 * 5
    loss, mass = quantile_loss(**made)

    def one(i):
        shared = ("origins", "levels", "weight")
        return {k: v if k in shared else v[i : i + 1] for k, v in made.items()}

    halves = [quantile_loss(**one(i)) for i in range(2)]
    assert_close(loss, sum(h[0] for h in halves))
    assert_close(mass, sum(h[1] for h in halves))


@pytest.mark.parametrize(
    "path", [quantile_loss_ref, quantile_loss_torch], ids=["ref", "torch"]
)
def test_gradient_in_double_precision(path):
    for seed, origins in enumerate(([1, 2, 3, 4, 5], [4, 0, 0, 7, 30])):
        made = case(seed=seed, origins=torch.tensor(origins))
        for k in ("q", "y", "loc", "scale", "weight"):
            made[k] = made[k].double()
        q = made.pop("q").requires_grad_()
        assert torch.autograd.gradcheck(lambda q: path(q, **made)[0], q)
        mean = lambda q: torch.div(*path(q, **made))
        assert torch.autograd.gradcheck(mean, q)


@kernel
def test_kernel_gradient_is_the_slope():
    made = case(2, 3, 3, 3)
    _, _, grad = run(quantile_loss_triton, made, upstream=1.0)
    loss_at = lambda q: quantile_loss_ref(**made | dict(q=q.double()))[0]
    step = torch.zeros_like(made["q"])
    for at in ((0, 0, 0, 0), (1, 2, 1, 2), (0, 1, 2, 1), (1, 0, 0, 2)):
        step.zero_()
        step[at] = 1e-3
        slope = (loss_at(made["q"] + step) - loss_at(made["q"])) / 1e-3
        assert_close(grad[at].double(), slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("path", PATHS)
def test_backward_twice_scales_both_times(path):
    made = case()
    q = made["q"].requires_grad_()
    loss, mass = path(**made)
    mean = loss / mass
    (first,) = torch.autograd.grad(mean, q, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(3 * loss, q, retain_graph=True)
    mean.backward()
    assert torch.equal(first, kept) and torch.equal(q.grad, kept)
    assert_close(second, 3 * mass * kept, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("path", PATHS)
def test_the_same_run_gives_the_same_bits(path):
    made = case(5, 37, 11, 9)
    want = run(path, made)
    for _ in range(3):
        fresh = {k: v if k == "levels" else v.clone() for k, v in made.items()}
        for a, b in zip(run(path, fresh), want):
            assert torch.equal(a, b)


def test_chunks_cover_everything():
    made = case(97, 41, 12, 9)  # 429,000 forecasts: more than one chunk
    agree(quantile_loss_torch, made)
    agree(quantile_loss_torch, made | dict(q=made["q"].bfloat16()), rtol=8e-3)
    made = case(1, 4001, 9, 9)  # one series larger than a chunk
    agree(quantile_loss_torch, made)


@pytest.mark.parametrize("path", PATHS)
def test_no_gradient_is_kept_for_evaluation(path):
    made = case()
    want = run(path, made)[0]
    with torch.no_grad():
        assert torch.equal(path(**made | dict(q=made["q"].requires_grad_()))[0], want)
    with torch.inference_mode():
        assert torch.equal(path(**made)[0], want)
    assert not path(**made | dict(q=made["q"].detach()))[0].requires_grad
    # after inference mode
    loss, _ = path(**made | dict(q=made["q"].detach().requires_grad_()))
    loss.backward()


def test_autocast_changes_nothing():
    made = case()
    want = run(quantile_loss, made)
    with torch.autocast(device().type, dtype=torch.bfloat16):
        for a, b in zip(run(quantile_loss, made), want):
            assert torch.equal(a, b)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(0, 3, 2, 3), (2, 0, 2, 3), (2, 3, 0, 3)], ids=str)
def test_nothing_costs_nothing(path, shape):
    made = case(*shape)
    q = made["q"].requires_grad_()
    loss, mass = path(**made)
    loss.backward()
    assert loss == 0 and mass == 0 and q.grad.shape == q.shape


@pytest.mark.parametrize("path", [quantile_loss_ref, *PATHS])
@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(levels=(0.0, 0.5, 0.9)), "strictly between 0 and 1: 0.0"),
        (dict(levels=(0.1, 0.5, 1.0)), "strictly between 0 and 1: 1.0"),
        (dict(levels=(0.1, float("nan"), 0.9)), "strictly between 0 and 1: nan"),
        (dict(levels=torch.tensor([0.1, 0.5, 2.0])), "strictly between 0 and 1: 2.0"),
        (dict(levels=()), "no levels given"),
        (dict(levels=(0.1, 0.9)), "q has 3 levels but 2 are named"),
        (dict(y=torch.ones(3, 11, 1)), "y \\(batch, time\\)"),
        (dict(y=torch.ones(2, 11)), "y \\(batch, time\\)"),
        (dict(origins=torch.arange(4)), "origins must be whole numbers"),
        (dict(origins=torch.arange(5.0)), "origins must be whole numbers"),
        (dict(observed=torch.ones(3, 10)), "observed must be shaped like y"),
        (dict(scale=torch.ones(3, 5, requires_grad=True)), "only q gets a gradient"),
        (dict(loc=torch.ones(4, 2)), "expand|size"),
    ],
)
def test_bad_input_is_named(path, changes, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        path(**case(**changes))


def test_levels_may_be_a_list_a_tuple_or_a_tensor():
    made = case()
    want = quantile_loss(**made | dict(levels=(0.25, 0.5, 0.75)))[0]
    for levels in ([0.25, 0.5, 0.75], torch.tensor([0.25, 0.5, 0.75])):
        assert torch.equal(quantile_loss(**made | dict(levels=levels))[0], want)


def test_no_target_tensor_is_built():
    "Besides one chunk of scratch, the torch path allocates little but the gradient."
    from torch.profiler import ProfilerActivity, profile

    made = case(64, 60, 24, 9, y=torch.ones(64, 86))
    q = made["q"].cpu().requires_grad_()
    made = {k: v if k == "levels" else v.cpu() for k, v in made.items()} | dict(q=q)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        loss, mass = quantile_loss_torch(**made)
        (loss / mass).backward()
    made_bytes = sum(max(0, e.self_cpu_memory_usage) for e in seen.events())
    assert 4 * q.numel() < made_bytes < 4 * q.numel() * 1.6


def test_bytes_are_counted():
    shape = (64, 52, 24, 9)
    both = bytes_moved(*shape)
    assert bytes_moved(*shape, backward=False) < both < 84 * 64 * 52 * 24
    assert bytes_moved(*shape, size=2) < both


ONE = """
import torch
one = (torch.zeros(1, 1, 1, 1), torch.ones(1, 2), torch.tensor([0]), [0.25])
"""
WITHOUT = """
import sys
sys.modules["triton"] = None
from forecastlab.kernels.quantile_loss import quantile_loss, quantile_loss_triton
from forecastlab.kernels.runtime import interpreting, native
{ONE}
print(float(quantile_loss(*one)[0]))
print(interpreting(), native())
try:
    quantile_loss_triton(*one)
except RuntimeError as e:
    print(e)
"""


def test_everything_imports_and_works_without_triton():
    lines = output(WITHOUT.replace("{ONE}", ONE))
    assert lines[:2] == ["0.25", "False False"] and "pip install triton" in lines[2]


SWITCHED_ON = """
from forecastlab.kernels.runtime import interpreting, native, device
print(interpreting(), native(), device())
"""
TOO_LATE = """
import triton.language
from forecastlab.kernels.quantile_loss import quantile_loss
from forecastlab.kernels.runtime import interpreting
{ONE}
print(float(quantile_loss(*one)[0]), interpreting())
"""


@pytest.mark.skipif(
    has_gpu() or not interpreting(),
    reason="asks how the interpreter is switched on where there is no GPU",
)
def test_the_runtime_switches_the_interpreter_on():
    assert output(SWITCHED_ON) == ["True False cpu"]
    assert output(TOO_LATE.replace("{ONE}", ONE)) == ["0.25 False"]


COMPILE = """
from forecastlab.kernels.quantile_loss import KERNELS

types = dict(
    forecast_ptr="*bf16",
    observed_ptr="*u8",
    origin_ptr="*i64",
    sign_ptr="*i32",
)


def type_of(name):
    return types.get(name, "*fp32" if name.endswith("_ptr") else "i32")


tile = dict(TARGETS=128, LEVELS=16)
for kernel, fixed in (
    (KERNELS["score"], tile | dict(KEEP_SIGN=True)),
    (KERNELS["gradient"], tile),
):
    for made in compiled(kernel, fixed, type_of):
        text = made["ptx"]
        print(len(made["cubin"]) > 0, text.count("ld.local"), "atom" in text)
"""


@kernel
def test_kernels_compile_for_a_gpu_without_one():
    """Triton's compiler needs no GPU.

    Machine code for Ampere and Hopper, no spilled registers, no atomics.
    """
    assert compiled(COMPILE) == ["True 0 False"] * 4


def imported(path):
    "Names of the packages that a module imports, wherever it does."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def test_only_the_runtime_imports_triton(root):
    users = [p for p in (root / "forecastlab").rglob("*.py") if "triton" in imported(p)]
    assert [p.name for p in users] == ["runtime.py"]


def test_benchmarks_append_rows(tmp_path, monkeypatch):
    check_benchmark(bench_quantile_loss, (2, 3, 4, 3), tmp_path, monkeypatch)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_compiled_kernel_agrees_on_a_large_shape(dtype):
    assert native()
    agree(
        quantile_loss_triton, case(256, 64, 24, 9, dtype=dtype), rtol=TOLERANCE[dtype]
    )
