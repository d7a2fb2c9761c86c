"""Gradients of convolutions tile by tile, alone and where layers use them."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from forecastlab.kernels import winograd
from forecastlab.kernels.conv_chain import chain_ref, conv_chain
from forecastlab.kernels.upsample import upsample_conv, upsample_conv_ref


def drawn(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, dtype=dtype)
    return x.requires_grad_()


def slopes(function, leaves):
    "Gradients by the leaves, of a sum with unequal weights."
    y = function(*leaves)
    slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return torch.autograd.grad(y, leaves, slope)


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (8, 131), (137, 8), (30, 70)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_tiles_give_the_gradients_of_a_convolution(size, layout):
    x, weight = drawn(2, 3, *size), drawn(5, 3, 3, 3)

    def convolved(x, weight):
        return F.conv2d(x, weight, padding=1)

    y = convolved(x, weight)
    slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    expected = torch.autograd.grad(y, (x, weight), slope)
    inner = slope.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
    with torch.no_grad():
        found = winograd.winograd_slopes(*inner, weight)
        alone = winograd.winograd_slopes(*inner, weight, False)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=0, atol=1e-10)
    assert alone[0] is None
    assert torch.equal(alone[1], found[1])


def test_single_precision_keeps_its_digits():
    x, weight = drawn(1, 64, 32, 32), drawn(64, 64, 3, 3)
    slope = drawn(1, 64, 32, 33)[..., :32]
    with torch.no_grad():
        exact = winograd.winograd_slopes(slope, x, weight)
        single = winograd.winograd_slopes(slope.float(), x.float(), weight.float())
    for a, b in zip(single, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_only_wide_convolutions_of_three_taps_go_by_tiles(monkeypatch):
    seen = []
    tiles = winograd.winograd_slopes

    def noted(*inputs):
        seen.append(tuple(inputs[2].shape))
        return tiles(*inputs)

    monkeypatch.setattr(winograd, "winograd_slopes", noted)
    for channels, taps, side in ((32, 3, 8), (31, 3, 8), (32, 1, 8), (32, 3, 7)):
        weight, x = drawn(32, channels, taps, taps), drawn(1, channels, side, side)
        slope, padding = drawn(1, 32, side, side), (taps // 2, taps // 2)
        with torch.no_grad():
            found = winograd.conv_slopes(slope, x, weight, padding)
        bias = torch.zeros(32, dtype=x.dtype, requires_grad=True)
        y = F.conv2d(x, weight, bias, padding=padding)
        expected = torch.autograd.grad(y, (x, weight, bias), slope)
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b, rtol=0, atol=1e-10)
    assert seen == [(32, 32, 3, 3)]


def test_a_chain_with_wide_convolutions_has_the_gradients_of_its_links():
    leaves = [drawn(3, 32, 9, 12), drawn(36, 32, 3, 3), drawn(36)]
    leaves += [drawn(36), drawn(36), drawn(40, 36, 3, 3), drawn(40)]

    def through(chain):
        def function(x, *tensors):
            kinds = "conv", "norm", "conv"
            links = zip(kinds, tensors[::2], tensors[1::2], strict=True)
            return chain(x, list(links), 4)

        return function

    found, expected = (slopes(through(c), leaves) for c in (conv_chain, chain_ref))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [(3, 3), (2, 2), (2, 3), (5, 2)])
def test_all_phases_of_a_growing_grid_go_by_tiles_together(scale):
    leaves = [drawn(2, 32, 8, 11), drawn(16, 32, 5, 5), drawn(16)]
    size = 8 * scale[0], 11 * scale[1]
    found, expected = (
        slopes(lambda *given, f=f: f(*given, size), leaves)
        for f in (upsample_conv, upsample_conv_ref)
    )
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=0, atol=1e-9)
