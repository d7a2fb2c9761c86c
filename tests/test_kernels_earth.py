"""Earthformer's kernels against their references.

Ugly grids and boxes, dropout, half precision, whole layers, and what the kernels
compile to. Triton runs through its interpreter on a CPU.
"""

import json

import pytest
import torch
from torch.testing import assert_close

from forecastlab.core.basics import LabError
from forecastlab.earth.attention import CrossAttention, SelfAttention, choose_backend
from forecastlab.earth.attention import cross_attention_ref, grid_of
from forecastlab.earth.attention import self_attention_ref
from forecastlab.earth.cuboid import CrossCuboid, Cuboid, decompose
from forecastlab.earth.earthformer import Earthformer
from forecastlab.earth.parity import parity, parity_cases
from forecastlab.earth.presets import preset
from forecastlab.kernels import conv_chain as chain
from forecastlab.kernels import cuboid_attention as cuboid_kernels
from forecastlab.kernels import group_norm
from forecastlab.kernels.cuboid_attention import CuboidGrid, CuboidPlan
from forecastlab.kernels.cuboid_attention import cuboid_attention
from forecastlab.kernels.cuboid_attention import cuboid_attention_ref
from forecastlab.kernels.cuboid_attention import cuboid_attention_triton, standing
from forecastlab.kernels.cuboid_attention import tiles
from forecastlab.kernels.global_attention import global_attention
from forecastlab.kernels.global_attention import global_attention_ref
from forecastlab.kernels.global_attention import global_attention_triton
from forecastlab.kernels.global_attention import hidden_places, shared_attention_ref
from forecastlab.kernels.global_attention import shared_attention_triton
from forecastlab.kernels.group_norm import ACTIVATIONS, group_norm_act
from forecastlab.kernels.group_norm import group_norm_act_ref, group_norm_act_triton
from forecastlab.kernels.runtime import device, native
from toys import compiled

kernel = pytest.mark.kernel


def random_cuboid(generator, shape):
    "A cuboid of any size, letters and shift; often larger than the grid."
    size = [int(torch.randint(1, n + 3, (), generator=generator)) for n in shape]
    letters = "".join("ld"[int(i)] for i in torch.randint(2, (3,), generator=generator))
    shift = [int(torch.randint(0, n + 2, (), generator=generator)) for n in size]
    return Cuboid(tuple(size), letters, tuple(shift))


def test_a_kernels_grid_is_the_decomposition_in_a_few_numbers():
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        shape = tuple(torch.randint(1, 8, (3,), generator=generator).tolist())
        cuboid = random_cuboid(generator, shape)
        front = bool(torch.randint(2, (), generator=generator))
        parts = int(torch.randint(1, 4, (), generator=generator))
        cut = decompose(shape, cuboid, "zeros", front, parts)
        grid = grid_of((2, *shape, 4), cuboid, front, parts)
        token, region = standing(grid)
        assert torch.equal(token, cut.tokens)
        same = region[:, :, None] == region[:, None, :]
        assert torch.equal(same, cut.region[:, :, None] == cut.region[:, None, :])
        assert grid.empty == cut.empty
        if not front:
            assert torch.equal(~hidden_places(grid), cut.filled)


def some(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed + len(shape) + shape[-1])
    made = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return made.to(device(), dtype).requires_grad_()


def agree(routes, leaves, *arguments, tolerance=1e-11):
    "Values and slopes of a reference and of kernels."
    results = []
    for route in routes:
        out = route(*arguments)
        out = out if isinstance(out, tuple) else (out,)
        total = sum((x.double() * torch.cos(x.detach().double())).sum() for x in out)
        slopes = torch.autograd.grad(total, leaves)
        results.append([*out, *slopes])
    for expected, found in zip(*results, strict=True):
        gap = (found.double() - expected.double()).abs()
        assert (gap / expected.double().abs().clamp(min=1)).max() <= tolerance


CUBOID = cuboid_attention_ref, cuboid_attention_triton
UGLY = {
    "one token": ((1, 1, 1), Cuboid((1, 1, 1)), False),
    "one place a box": ((2, 3, 1), Cuboid((1, 1, 1)), False),
    "prime sides": ((3, 7, 5), Cuboid((2, 4, 3), "lll", (1, 2, 1)), True),
    "padded zeros": ((3, 5, 7), Cuboid((2, 3, 4), "lll", (1, 1, 3)), False),
    "dilated": ((5, 3, 7), Cuboid((2, 2, 4), "dld", (0, 1, 0)), True),
    "box larger than the grid": ((2, 3, 4), Cuboid((9, 2, 9), "ldl"), False),
    "several tiles": ((2, 5, 7), Cuboid((2, 5, 7)), False),
}


@kernel
@pytest.mark.parametrize("name", UGLY)
def test_cuboid_kernels_agree_on_ugly_grids_in_double_precision(name):
    shape, cuboid, ignore = UGLY[name]
    grid = grid_of((1, *shape, 6), cuboid)
    plan = CuboidPlan(grid, grid, 2, cuboid.size, ignore)
    tokens, table = some(1, *shape, 18), some(plan.offsets, 2)
    extra = None, some(1, 3, 2, 3), some(1, 3, 2, 3, seed=1)
    leaves = [tokens, table, *extra[1:]]
    agree(CUBOID, leaves, tokens, plan, None, table, extra)


@kernel
def test_half_precision_is_added_up_in_single():
    grid = grid_of((1, 3, 2, 5, 8), Cuboid((3, 1, 1)))
    plan = CuboidPlan(grid, grid, 1, (3, 1, 1))
    full = some(1, 3, 2, 5, 24)
    expected = cuboid_attention_ref(full, plan)
    for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 3e-3)):
        half = full.detach().to(dtype).requires_grad_()
        found = cuboid_attention_triton(half, plan)
        assert found.dtype == dtype
        assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
        assert_close(
            torch.autograd.grad(found.sum(), half)[0].double(),
            torch.autograd.grad(expected.sum(), full, retain_graph=True)[0],
            rtol=5 * tolerance,
            atol=5 * tolerance,
        )


@kernel
def test_a_view_with_a_stride_of_its_own_is_read_where_it_lies():
    grid = grid_of((2, 3, 2, 5, 8), Cuboid((1, 1, 5)))
    plan = CuboidPlan(grid, grid, 2, (1, 1, 5))
    wide = some(2, 3, 2, 5, 40)
    agree(CUBOID, [wide], wide[..., 8:32], plan)
    turned = some(2, 2, 3, 5, 24)
    agree(CUBOID, [turned], turned.transpose(1, 2), plan)


@kernel
def test_dropped_weights_are_the_same_on_the_way_back():
    "Slopes of a fixed draw, against differences."
    grid = grid_of((1, 2, 1, 3, 4), Cuboid((2, 1, 3)))
    plan = CuboidPlan(grid, grid, 1, (2, 1, 3), dropout=0.3)
    tokens, table = some(1, 2, 1, 3, 6), some(plan.offsets, 1)
    vectors = [some(1, 2, 1, 2, seed=i) for i in range(3)]

    def drawn(tokens, table, *vectors):
        torch.manual_seed(0)
        out = shared_attention_triton(tokens, plan, vectors, table, True)
        return torch.cat([x.flatten() for x in out])

    leaves = tokens, table, *vectors
    weight = torch.cos(torch.arange(drawn(*leaves).numel(), dtype=torch.float64))
    slopes = torch.autograd.grad((drawn(*leaves) * weight).sum(), leaves)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for x, slope in zip(leaves, slopes, strict=True):
            way = torch.randn(x.shape, dtype=x.dtype, generator=generator)
            ends = []
            for sign in (1, -1):
                moved = [y + sign * 1e-5 * way if y is x else y for y in leaves]
                ends.append((drawn(*moved) * weight).sum())
            assert_close(
                (ends[0] - ends[1]) / 2e-5, (slope * way).sum(), rtol=1e-6, atol=1e-8
            )


@kernel
def test_many_programs_share_the_tokens(monkeypatch):
    "Small tiles, as on a GPU: many parts, many shares of slopes."
    from forecastlab.kernels import global_attention as global_kernels

    monkeypatch.setattr(cuboid_kernels, "INTERPRETED_TILE", 16)
    monkeypatch.setattr(cuboid_kernels, "PROGRAMS", 3)
    monkeypatch.setattr(global_kernels, "INTERPRETED_PLACES", 16)
    monkeypatch.setattr(global_kernels, "FEWEST_TILES", 1)
    shape, cuboid = (3, 5, 4), Cuboid((2, 2, 3), "lll", (1, 0, 1))
    grid = grid_of((1, *shape, 4), cuboid)
    plan = CuboidPlan(grid, grid, 1, cuboid.size, True)
    assert tiles(plan).pack == 1
    tokens, table = some(1, *shape, 12), some(plan.offsets, 1)
    vectors = tuple(some(1, 2, 1, 4, seed=i) for i in range(3))
    routes = shared_attention_ref, shared_attention_triton
    leaves = [tokens, table, *vectors]
    agree(routes, leaves, tokens, plan, vectors, table, True)


@kernel
def test_wider_vectors_listen_to_maps_of_their_own():
    grid = grid_of((1, 3, 2, 3, 4), Cuboid((2, 1, 2), "lll", (1, 0, 0)))
    q, keys, values = some(1, 17, 2, 3), some(1, 3, 2, 3, 6), some(1, 3, 2, 3, 12)
    among = tuple(some(1, 17, 2, 6, seed=i) for i in range(3))
    routes = global_attention_ref, global_attention_triton
    for ignore in (False, True):
        leaves = [q, keys, values, *among]
        agree(routes, leaves, q, keys, values, grid, ignore, among)


@kernel
@pytest.mark.parametrize("vectors", ["none", "shared", "separate"])
def test_layers_attend_by_kernels(vectors):
    wide = dict(among_vectors=True) if vectors != "none" else {}
    layer = SelfAttention(
        6, 2, Cuboid((2, 3, 2), "ldl", (1, 0, 0)), "ignore", vectors=vectors, **wide
    )
    box = CrossCuboid((2, 2), (1, 0), parts=2)
    cross = CrossAttention(6, 2, box, 7, "ignore", vectors=vectors, last=2)
    x, memory = some(2, 3, 4, 3, 6), some(2, 3, 4, 3, 6, seed=1)
    told = (some(2, 3, 6),) if vectors != "none" else ()
    cases = (
        (layer, self_attention_ref, (x, *told)),
        (cross, cross_attention_ref, (x, memory, *told)),
    )
    for module, reference, inputs in cases:
        module.double().to(device())
        choose_backend(module, "triton")
        leaves = [*inputs, *module.parameters()]
        agree((lambda *a: reference(module, *a), module), leaves, *inputs)


@kernel
@pytest.mark.parametrize("vectors", ["none", "shared"])
def test_layers_add_to_their_input_whoever_attends(vectors):
    layer = SelfAttention(4, 1, Cuboid((2, 1, 2)), vectors=vectors)
    cross = CrossAttention(4, 1, CrossCuboid((1, 2), (0, 0)), 5, vectors=vectors)
    x, memory = some(1, 2, 2, 3, 4), some(1, 2, 2, 3, 4, seed=1)
    told = (some(1, 2, 4),) if vectors != "none" else ()
    for module, inputs in ((layer, (x, *told)), (cross, (x, memory, *told))):
        module.double().to(device()).eval()
        for backend in ("torch", "triton"):
            choose_backend(module, backend)
            heard, added = module(*inputs), module(*inputs, add=True)
            if isinstance(heard, tuple):
                assert_close(added[1], heard[1])
                heard, added = heard[0], added[0]
            assert_close(added, x + heard)


@kernel
@pytest.mark.parametrize("vectors", [0, 2])
def test_a_whole_model_says_the_same_by_kernels(vectors):
    settings = preset(
        "enso",
        input_shape=(2, 4, 4, 1),
        target_shape=(1, 4, 4, 1),
        width=4,
        heads=1,
        encoder_depth=(1, 1),
        decoder_depth=(1, 1),
        vectors=vectors,
    )
    torch.manual_seed(0)
    model = Earthformer(settings).double().to(device()).eval()
    x = some(1, 2, 4, 4, 1)
    found = {}
    for backend in ("torch", "triton"):
        choose_backend(model, backend)
        with torch.no_grad():
            found[backend] = model(x)
    assert_close(found["triton"], found["torch"], rtol=1e-9, atol=1e-9)


@kernel
def test_dropout_by_kernels_is_unbiased():
    layer = SelfAttention(4, 1, Cuboid((8, 1, 1)), attention_dropout=0.3).double()
    layer.to(device())
    x = some(1, 8, 1, 1, 4).detach().expand(-1, -1, 8, 8, -1)
    with torch.no_grad():
        expected = layer.eval()(x[:, :, :1, :1])
        choose_backend(layer, "triton")
        torch.manual_seed(0)
        found = layer.train()(x).flatten(2, 3)
    assert not torch.equal(found[:, :, 0], found[:, :, 1])
    error = found.std(2) / 8
    gap = (found.mean(2) - expected.flatten(2, 3)[:, :, 0]).abs()
    assert (gap <= 4.5 * error + 1e-12).all()


CASES = {path.stem: path for path in parity_cases()}
QUICK = (
    "layer_self_global_shift_ignore",
    "layer_cross_2x2_nt2_shift",
    "layer_self_trunc",
)


@kernel
@pytest.mark.skipif(
    not CASES, reason="FORECASTLAB_DATA has no earth/parity: the reference's numbers"
)
@pytest.mark.parametrize("name", QUICK)
def test_a_case_of_the_reference_is_met_by_kernels(name):
    found = parity(CASES[name], torch.float32, backend="triton")
    assert max(found.values()) <= 1e-4, found


def test_without_a_gpu_the_public_functions_are_written_out():
    grid = CuboidGrid((2, 1, 1), (2, 1, 1), (1, 1, 1))
    plan = CuboidPlan(grid, grid, 1)
    tokens, q = some(1, 2, 1, 1, 6), some(1, 1, 1, 2)
    expected = cuboid_attention_ref(tokens, plan)
    assert torch.equal(cuboid_attention(tokens, plan), expected)
    parts = tokens.chunk(3, -1)
    expected = global_attention_ref(q, *parts[1:], grid)
    assert torch.equal(global_attention(q, *parts[1:], grid), expected)


def test_what_does_not_fit_is_named():
    grid = CuboidGrid((2, 1, 1), (2, 1, 1), (1, 1, 1))
    plan = CuboidPlan(grid, grid, 2)
    for change, words in (
        (dict(tokens=torch.zeros(1, 3, 1, 1, 6)), "the plan's grid"),
        (dict(tokens=torch.zeros(1, 2, 1, 1, 8)), "do not divide: 8"),
        (dict(table=torch.zeros(3, 2)), "the table must have 1 offsets"),
    ):
        arguments = dict(tokens=torch.zeros(1, 2, 1, 1, 6), plan=plan) | change
        with pytest.raises(LabError, match=words):
            cuboid_attention(**arguments)
    with pytest.raises(LabError, match="unknown backend"):
        choose_backend(torch.nn.Linear(1, 1), "cuda")


GROUP_NORM = group_norm_act_ref, group_norm_act_triton
IMAGES = {  # shape and channels a group
    "one pixel": ((1, 4, 1, 1), 2),
    "one channel a group": ((2, 3, 2, 5), 1),
    "prime sides": ((1, 7, 11, 5), 7),
    "one channel": ((3, 1, 5, 1), 1),
    "wider than a tile": ((2, 10, 3, 7), 5),
    "no image": ((0, 4, 2, 2), 2),
}


def normalised_images(name, dtype=torch.float64):
    "Images, scale and shift, then the rest."
    shape, each = IMAGES[name]
    images = some(*shape, dtype=dtype)
    return [images, some(shape[1]), some(shape[1], seed=9)], each


@kernel
@pytest.mark.parametrize("size", [32, 65536])
@pytest.mark.parametrize("name", [name for name in IMAGES if name != "no image"])
def test_group_norm_kernels_agree_on_ugly_images(name, size, monkeypatch):
    monkeypatch.setattr(group_norm, "INTERPRETED_TILE", size)
    if size == 32:
        monkeypatch.setattr(group_norm, "MOST_WIDTH", 4)
        monkeypatch.setattr(group_norm, "FEWEST_TILES", 1)
    leaves, each = normalised_images(name)
    several = name == "prime sides" and size != 32
    for activation in ACTIVATIONS if several else ["gelu"]:
        agree(GROUP_NORM, leaves, *leaves, each, activation, tolerance=1e-10)


@kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_group_norm_kernels_keep_the_kind_and_count_in_float32(dtype):
    "Scale and shift may be of another kind, as under autocast."
    full, each = normalised_images("prime sides")
    x, weight, bias = full
    half = [x.detach().to(dtype), weight.detach().float(), bias.detach().float()]
    half = [leaf.requires_grad_() for leaf in half]
    exact = [leaf.detach().double().requires_grad_() for leaf in half]
    expected = group_norm_act_ref(*exact, each, "silu")
    found = group_norm_act_triton(*half, each, "silu")
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    slope = torch.cos(expected.detach()).to(dtype)
    slopes = torch.autograd.grad(found, half, slope)
    assert [s.dtype for s in slopes] == [dtype, torch.float32, torch.float32]
    wanted = torch.autograd.grad(expected, exact, slope.double())
    # only what is written is rounded to bfloat16, the sums are not
    rounded = 1e-2 if dtype == torch.bfloat16 else 1e-4
    for own, other, tolerance in zip(
        (found, *slopes), (expected, *wanted), (rounded, rounded, 1e-4, 1e-4)
    ):
        assert_close(own.double(), other, rtol=tolerance, atol=tolerance)


@kernel
def test_what_is_far_from_zero_is_normalised_as_well():
    x = (some(1, 4, 17, 19, dtype=torch.float32) + 1000).detach()
    one, zero = torch.ones(4, device=x.device), torch.zeros(4, device=x.device)
    # one pixel that is nothing like the others
    x[:, :, 0, 0] = 0
    expected = group_norm_act_ref(x.double(), one.double(), zero.double(), 2)
    found = group_norm_act_triton(x, one, zero, 2)
    assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_without_a_gpu_group_norm_is_written_out():
    for name in ("prime sides", "no image"):
        leaves, each = normalised_images(name)
        if native() and name != "no image":
            continue
        expected = group_norm_act_ref(*leaves, each)
        assert torch.equal(group_norm_act(*leaves, each), expected)
    x, one = torch.zeros(1, 4, 2, 2), torch.ones(4)
    for change, words in (
        (dict(each=3), "groups must divide 4 channels: 3"),
        (dict(weight=torch.ones(2)), "for each of 4 channels"),
        (dict(x=x[0]), "images must be"),
        (dict(activation="tanh"), "unknown activation"),
    ):
        with pytest.raises(LabError, match=words):
            group_norm_act(**dict(x=x, weight=one, bias=one, each=2) | change)


@kernel
def test_a_chain_normalises_by_the_kernels_where_they_fit(monkeypatch):
    taken = []

    def fits(x):
        taken.append(x)
        return True

    for module in (chain, group_norm):
        monkeypatch.setattr(module, "group_norm_fits", fits)
    links = []
    for kind in ("conv", "norm", "conv", "norm"):
        shape = (6, 6, 3, 3) if kind == "conv" else (6,)
        links.append((kind, some(*shape), some(6, seed=5)))
    x = some(2, 6, 5, 4)
    leaves = [x, *(t for link in links for t in link[1:])]
    routes = chain.chain_ref, chain.conv_chain
    agree(routes, leaves, x, links, 3, tolerance=1e-10)
    assert len(taken) == 3


COMPILE = """
import json
from forecastlab.kernels.global_attention import compile_cases
from forecastlab.kernels.group_norm import group_norm_cases
from forecastlab.kernels.runtime import machine_code

calls = compile_cases()["level 0, rows, bfloat16"]
cases = group_norm_cases()
calls += cases["group norm, 16 channels, bfloat16"]
calls += cases["group norm, one pixel, float32"]
for call in calls:
    found = machine_code(call, 90)
    print(json.dumps(dict(kernel=call.kernel.__name__) | found))
"""


@kernel
def test_earths_kernels_compile_for_a_gpu_without_one():
    "Forward nothing is spilled; backward a few registers of 255."
    found = [json.loads(line) for line in compiled(COMPILE)]
    assert len(found) == 15
    for row in found:
        assert row["code"] > 0
        assert row["shared"] <= 48 * 1024
        most = 64 if row["kernel"] == "_cuboid_backward_kernel" else 0
        assert row["spilled"] <= most, row


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_group_norm_agrees_on_large_images(dtype):
    assert native()
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for shape, each in (((13, 16, 384, 384), 16), ((2, 130, 37, 31), 13)):
        x = some(*shape, dtype=dtype)
        leaves = [x, some(shape[1], dtype=dtype), some(shape[1], dtype=dtype, seed=9)]
        for activation in ACTIVATIONS:
            full = [leaf.detach().double().requires_grad_() for leaf in leaves]
            expected = group_norm_act_ref(*full, each, activation)
            found = group_norm_act(*leaves, each, activation)
            assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
            slope = torch.cos(expected.detach()).to(dtype)
            slopes = torch.autograd.grad(found, leaves, slope)
            wanted = torch.autograd.grad(expected, full, slope.double())
            for own, other in zip(slopes, wanted, strict=True):
                gap = (own.double() - other).abs().max()
                assert gap <= tolerance * other.abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_cuboid_kernels_agree_on_a_large_grid(dtype):
    assert native()
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for cuboid in (Cuboid((13, 1, 1)), Cuboid((2, 8, 8), shift=(1, 4, 4))):
        grid = grid_of((2, 13, 32, 32, 128), cuboid)
        plan = CuboidPlan(grid, grid, 4, cuboid.size)
        tokens = some(2, 13, 32, 32, 384, dtype=dtype)
        table = some(plan.offsets, 4, dtype=torch.float32)
        vectors = tuple(some(2, 8, 4, 32, dtype=dtype, seed=i) for i in range(3))
        routes = shared_attention_ref, shared_attention_triton
        leaves = [tokens, *vectors]
        given = tokens, plan, vectors, table, True
        agree(routes, leaves, *given, tolerance=tolerance)
