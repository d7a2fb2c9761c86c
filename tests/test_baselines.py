"""Rivals of Earthformer: one interface, published sizes, equal sizes on demand."""

import pytest
import torch
from torch.testing import assert_close

from forecastlab.core.basics import LabError
from forecastlab.earth.baselines import Persistence, UNet, UNetSettings, unet_of
from forecastlab.earth.baselines import unet_size
from forecastlab.earth.presets import parameter_count, preset


def test_persistence_repeats_the_last_frame():
    x = torch.randn(2, 3, 4, 5, 2)
    y = Persistence(4)(x)
    assert y.shape == (2, 4, 4, 5, 2)
    assert_close(y, x[:, 2:3].expand(2, 4, 4, 5, 2))
    with pytest.raises(LabError, match="frames"):
        Persistence(0)


@pytest.mark.parametrize(
    "past, future, grid, widths, parameters",
    [
        (13, 12, (384, 384), (32, 64, 128, 256), 16_556_044),
        (10, 10, (64, 64), (32, 64, 128, 256), 16_555_114),
        (12, 14, (24, 48), (32, 64, 128), 12_062_254),
    ],
)
def test_published_unets_have_the_published_sizes(
    past, future, grid, widths, parameters
):
    settings = UNetSettings((past, *grid, 1), (future, *grid, 1), widths)
    assert unet_size(settings) == parameters


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("grid", [(16, 16), (9, 14), (3, 5)])
def test_a_unet_takes_any_grid_and_channels(grid, channels):
    shapes = (3, *grid, channels), (2, *grid, channels)
    model = UNet(UNetSettings(*shapes, widths=(2, 4), centre=8))
    y = model(torch.randn(2, *shapes[0]))
    assert y.shape == (2, *shapes[1])
    y.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_frames_and_channels_of_a_unet_keep_their_order():
    model = UNet(UNetSettings((3, 8, 8, 2), (3, 8, 8, 2), (4,), 4)).eval()
    torch.nn.init.zeros_(model.last.weight)
    model.last.bias.data = torch.arange(6.0)
    y = model(torch.randn(1, 3, 8, 8, 2))
    # frame 1, channel 0 is the third number
    assert y[0, 1, :, :, 0].unique().item() == 2


@pytest.mark.parametrize("name", ["nbody", "enso"])
def test_a_unet_of_equal_size_is_equal_within_a_percent(name):
    settings = preset(name, width=16, encoder_depth=(1, 1), decoder_depth=(1, 1))
    wanted = parameter_count(settings)
    shapes = settings.input_shape, settings.target_shape
    found = unet_of(wanted, *shapes, levels=3)
    assert abs(unet_size(found) / wanted - 1) < 0.01
    # the largest widths that leave the middle at least as wide as published
    assert found.centre >= 4 * found.widths[-1]


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: UNetSettings((4, 8, 8)), "four numbers"),
        (lambda: UNetSettings((4, 8, 8, 1), (4, 8, 9, 1)), "same rows"),
        (lambda: unet_of(50, (4, 8, 8, 1), (4, 8, 8, 1)), "fewer levels"),
        (
            lambda: UNet(UNetSettings((4, 8, 8, 1), (4, 8, 8, 1), (2,), 2))(
                torch.zeros(1, 4, 8, 9, 1)
            ),
            r"\(any, 4, 8, 8, 1\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(LabError, match=says):
        make()
