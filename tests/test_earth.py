"Earthformer: equal to the reference, equal to its own plain version, clear when wrong."

import json

import pytest
import torch
from torch.testing import assert_close

from forecastlab.core.basics import LabError, data_dir
from forecastlab.earth.attention import CrossAttention, SelfAttention
from forecastlab.earth.attention import cross_attention_ref, self_attention_ref
from forecastlab.earth.checkpoints import load_published, published_settings
from forecastlab.earth.checkpoints import resized, tiled
from forecastlab.earth.cuboid import PADDINGS, CrossCuboid, Cuboid, cross_pattern
from forecastlab.earth.cuboid import decompose, self_pattern
from forecastlab.earth.earthformer import ConvStem, Earthformer
from forecastlab.earth.parity import parity, parity_cases
from forecastlab.earth.presets import gflops, parameter_count, preset

CASES = parity_cases()
PARITY = (data_dir() / "earth" / "parity") if data_dir() else None
absent = pytest.mark.skipif(
    not CASES, reason="FORECASTLAB_DATA has no earth/parity: the reference's numbers"
)
TINY = preset(
    "enso",
    input_shape=(4, 8, 16, 1),
    target_shape=(3, 8, 16, 1),
    width=16,
    encoder_depth=(1, 1),
    decoder_depth=(1, 1),
    vectors=2,
)


@absent
@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_a_case_of_the_reference_is_met_in_double_precision(path):
    found = parity(path)
    assert max(found.values()) <= 1e-10, found


@absent
@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_a_case_of_the_reference_is_met_in_single_precision(path):
    found = parity(path, torch.float32)
    assert max(found["outputs"], found["fused"]) <= 2e-5, found
    # the reference itself, in single precision, is up to 5e-5 from these gradients
    assert max(found.values()) <= 6e-5, found


@absent
def test_patterns_are_those_of_the_reference():
    for name, grids in json.loads((PARITY / "patterns.json").read_text()).items():
        for shape, expected in grids.items():
            grid = tuple(json.loads(shape.replace("(", "[").replace(")", "]")))[:3]
            if name.startswith("x:"):
                found = cross_pattern(name[2:], grid)
                rows = [[[*c.hw], [*c.shift], c.strategy, c.parts] for c in found]
            else:
                found = self_pattern(name, grid)
                rows = [[[*c.size], c.strategy, [*c.shift]] for c in found]
            assert [list(column) for column in zip(*rows, strict=True)] == expected


@absent
def test_parameters_have_the_published_names_and_shapes():
    index = json.loads((PARITY / "index_earthformer.json").read_text())
    shapes = {entry["name"]: entry["state_dict"] for entry in index}
    import numpy as np

    for path in CASES:
        if path.stem.startswith("model"):
            with np.load(path) as case:
                settings = published_settings(json.loads(str(case["cfg"])))
            own = Earthformer(settings).state_dict()
            published = {
                name: tuple(shape)
                for name, shape in shapes[path.stem].items()
                if not name.endswith("relative_position_index")
            }
            assert {k: tuple(v.shape) for k, v in own.items()} == published


@pytest.mark.parametrize(
    "name, changes, parameters, operations",
    [
        ("sevir", {}, 15_082_069, 257.405),
        ("sevir", {"vectors": 0}, 13_075_029, 256.912),
        ("sevir", {"released": True}, 8_659_677, 224.667),
        ("sevir", {"released": True, "vectors": 0}, 6_164_573, 220.934),
        ("sevir_lr", {}, 1_505_069, 14.065),
        ("enso", {}, 7_600_077, 23.862),
        ("enso", {"vectors": 0}, 6_601_293, 23.603),
        ("enso", {"released": True}, 1_394_325, 6.768),
        ("nbody", {}, 7_610_781, 34.033),
        ("nbody", {"released": True}, 6_702_109, 33.653),
        ("moving_mnist", {}, 6_611_997, 33.653),
    ],
)
def test_counts_are_the_published_ones(name, changes, parameters, operations):
    settings = preset(name, **changes)
    assert parameter_count(settings) == parameters
    assert round(gflops(settings), 3) == operations


def close(layer, reference, *inputs):
    "Values with and without gradients, gradients of inputs and parameters."
    layer = layer.double().eval()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.4)
    inputs = [x.double().requires_grad_() for x in inputs]
    leaves = [*inputs, *layer.parameters()]
    results = []
    for f in (lambda *x: reference(layer, *x), layer):
        out = f(*inputs)
        out = out if isinstance(out, tuple) else (out,)
        total = sum((o * (o.detach() + 1)).sum() for o in out)
        slopes = torch.autograd.grad(total, leaves, allow_unused=True)
        results.append([*out, *slopes])
    with torch.no_grad():
        fused = layer(*inputs)
    fused = fused if isinstance(fused, tuple) else (fused,)
    for expected, found in zip(*results, strict=True):
        assert_close(found, expected, rtol=1e-11, atol=1e-11)
    for expected, found in zip(results[0], fused, strict=False):
        assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    "vectors, among, ratio",
    [("none", False, 1), ("shared", True, 1), ("separate", True, 2)],
)
def test_fast_self_attention_equals_the_written_one(padding, vectors, among, ratio):
    generator = torch.Generator().manual_seed(len(padding) + ratio)
    sizes = torch.randint(1, 6, (3, 3), generator=generator).tolist()
    for size, strategy in zip(sizes, ("lll", "dld", "ddl"), strict=True):
        shift = tuple(s // 2 for s in size)
        cuboid = Cuboid(tuple(size), strategy, shift)
        more = dict(vectors=vectors, among_vectors=among, ratio=ratio)
        layer = SelfAttention(8, 2, cuboid, padding, **more)
        x = torch.randn(2, 3, 5, 4, 8, generator=generator)
        g = torch.randn(2, 3, 8 * ratio, generator=generator)
        inputs = (x,) if vectors == "none" else (x, g)
        close(layer, self_attention_ref, *inputs)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("vectors", ["none", "shared", "separate"])
def test_fast_cross_attention_equals_the_written_one(padding, vectors):
    torch.manual_seed(7)
    x, memory = torch.randn(2, 3, 5, 4, 8), torch.randn(2, 1, 5, 4, 8)
    g = (torch.randn(2, 3, 8),)
    # two parts of one frame: in the first there is nobody to attend to
    for box in (
        CrossCuboid((2, 3), (1, 1), parts=2),
        CrossCuboid((2, 2), (0, 0), "ddd"),
    ):
        layer = CrossAttention(8, 2, box, 8, padding, vectors=vectors)
        inputs = (x, memory) if vectors == "none" else (x, memory, *g)
        close(layer, cross_attention_ref, *inputs)


def test_every_token_is_found_again():
    x = torch.randn(2, 5, 6, 7, 3)
    for padding in ("zeros", "ignore"):
        for cuboid in (
            Cuboid((2, 4, 4), shift=(1, 2, 2)),
            Cuboid((9, 9, 9), shift=(1, 1, 1)),
            Cuboid((5, 3, 7), "dld"),
        ):
            cut = decompose((5, 6, 7), cuboid, padding)
            assert torch.equal(cut.scatter(cut.gather(x)), x)


def test_a_model_takes_any_frames_rows_columns_and_channels():
    shapes = dict(input_shape=(3, 10, 14, 2), target_shape=(5, 10, 14, 3))
    for start in ("zeros", "nearest", "last", "mean"):
        made = preset("nbody", width=16, vectors=2, start=start, **shapes)
        made = Earthformer(made).eval()
        assert made(torch.randn(2, 3, 10, 14, 2)).shape == (2, 5, 10, 14, 3)


def test_frames_through_the_stem_one_by_one_give_the_same_forecast():
    model = Earthformer(TINY).eval()
    x = torch.randn(1, 4, 8, 16, 1)
    tokens = torch.cat([model.initial_encoder(x[:, i : i + 1]) for i in range(4)], 1)
    with torch.no_grad():
        assert_close(model.from_tokens(tokens), model(x))


def test_a_checkpoint_of_another_configuration_is_refused_with_its_differences():
    weights = Earthformer(TINY).state_dict()
    other = preset("enso", released=True)
    with pytest.raises(LabError, match="another configuration, .* differences"):
        load_published(weights, other)


def test_weights_survive_the_way_through_a_file(tmp_path):
    model = Earthformer(TINY).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pt")
    x = torch.randn(1, 4, 8, 16, 1)
    again = load_published(tmp_path / "model.pt", TINY)
    assert torch.equal(again(x), model(x))


def test_a_larger_map_is_forecast_in_tiles_without_seams():
    model = Earthformer(TINY).eval()
    large = torch.ones(1, 4, 20, 40, 1)
    with torch.no_grad():
        found, one = tiled(model, large, overlap=4), model(large[:, :, :8, :16])
        assert found.shape == (1, 3, 20, 40, 1)
        assert one.min() - 1e-5 <= found.min() <= found.max() <= one.max() + 1e-5
        wide = resized(model, (4, 20, 40, 1))
        assert wide(large).shape == (1, 3, 20, 40, 1)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: self_pattern("axail", (4, 8, 8)), "axial_space_dilate_K"),
        (lambda: cross_pattern("axial", (4, 8, 8)), "cross_KxK"),
        (lambda: self_pattern([], (4, 8, 8)), "at least one cuboid"),
        (lambda: Cuboid((2, 0, 2)), "at least 1"),
        (lambda: preset("era5"), "moving_mnist"),
        (lambda: preset("enso", start="warm"), "nearest"),
        (
            lambda: preset("enso", heads=3) and Earthformer(preset("enso", heads=3)),
            "heads",
        ),
        (lambda: preset("enso", stem="conv"), "ConvStem"),
        (lambda: ConvStem((2, 1, 1)), "Write 1 for frames"),
        (lambda: published_settings({"base_unit": 64}), "base_unit"),
        (lambda: Earthformer(TINY)(torch.zeros(1, 4, 16, 8, 1)), "tiled"),
        (lambda: tiled(Earthformer(TINY), torch.zeros(1, 4, 4, 4, 1)), "fewer rows"),
    ],
)
def test_what_cannot_be_is_refused_with_a_mend(wrong, words):
    with pytest.raises(LabError, match=words):
        wrong()
