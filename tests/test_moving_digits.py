"""Moving digits: the law holds, the same seed gives the same frames, splits share no
digit, and whoever has no digits is told where they come from.
"""

from dataclasses import replace

import numpy as np
import pytest

from forecastlab.core.basics import LabError
from forecastlab.earth.moving_digits import LAWS, SPLITS, NBody, cropped, digits
from forecastlab.earth.moving_digits import drawn_digits, energy, is_here, moving_mnist
from forecastlab.earth.moving_digits import (
    nbody_mnist,
    nbody_paths,
    orbits,
    pull,
    stamp,
)

SMALL = NBody(frames=6, size=32)
FREE = NBody(clip=0, integrator="leapfrog")


def start(count=20, speed=1.0):
    "Places and velocities far from the border."
    rng = np.random.default_rng(1)
    return rng.uniform(40, 80, (count, 3, 2)), rng.uniform(-speed, speed, (count, 3, 2))


@pytest.mark.parametrize("law", LAWS)
def test_the_pull_is_the_slope_of_the_energy_and_adds_up_to_nothing(law):
    rules = NBody(law=law)
    x, v = start()
    np.testing.assert_allclose(pull(x, rules).sum(1), 0, atol=1e-14)
    step = 1e-5
    up, down = x.copy(), x.copy()
    up[:, 1, 0] += step
    down[:, 1, 0] -= step
    slope = (energy(up, v, rules) - energy(down, v, rules)) / (2 * step)
    np.testing.assert_allclose(-slope, pull(x, rules)[:, 1, 0], atol=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_bodies_left_alone_keep_momentum_and_energy(law):
    rules = replace(FREE, law=law)
    places, speeds = orbits(*start(), rules, walls=False)
    assert places.shape == speeds.shape == (20, 100, 3, 2)
    momentum = speeds.sum(2)
    np.testing.assert_allclose(momentum, momentum[:, :1].repeat(100, 1), atol=1e-12)
    held = energy(places, speeds, rules)
    size = np.abs(held[:, :1]) + 0.1
    assert (np.abs(held - held[:, :1]) / size).max() < 5e-3


def test_smaller_steps_of_euler_come_closer_to_the_law():
    x, v = start(speed=0.2)
    drift = []
    for parts in (1, 4):
        # the same time in more steps: slower bodies, a weaker pull a step
        rules = NBody(
            clip=0, gravity=0.05 / parts**2, frames=20 * parts, every=5, speed=0.0
        )
        places, speeds = orbits(x, v / parts, rules, walls=False)
        held = energy(places, speeds, rules)
        drift.append(np.median(np.abs(held[:, -1] / held[:, 0] - 1)))
    assert drift[1] < 0.5 * drift[0]


def test_published_paths_stay_inside_and_below_the_speed_limit():
    places, speeds = nbody_paths(50)
    assert places.shape == (50, 100, 3, 2)
    assert places.min() >= 10 and places.max() <= 118
    assert np.abs(speeds).max() <= 2
    assert np.linalg.norm(speeds[:, 0], axis=-1).max() <= 2
    # without a pull a body flies straight on until it meets the border
    straight, speeds = nbody_paths(50, rules=NBody(gravity=0.0))
    np.testing.assert_allclose(np.abs(speeds), np.abs(speeds[:, :1]).repeat(100, 1))


def test_a_body_at_the_border_turns_round():
    x, v = np.array([[[11.0, 64.0]]]), np.array([[[-2.0, 1.0]]])
    rules = NBody(bodies=1, frames=2, every=5)
    places, speeds = orbits(x, v, rules)
    assert places[0, :, 0, 0].min() == 10
    assert speeds[0, -1, 0].tolist() == [2, 1]


@pytest.mark.parametrize("make", [moving_mnist, nbody_mnist])
def test_frames_are_named_in_range_and_the_same_for_the_same_seed(make):
    more = dict(rules=SMALL) if make is nbody_mnist else dict(frames=6, size=32)
    da = make(4, source="drawn", **more)
    assert da.dims == ("sequence", "time", "y", "x")
    assert da.shape == (4, 6, 32, 32) and da.dtype == np.uint8
    assert da.max() > 100 and da.min() == 0
    assert da.identical(make(4, source="drawn", **more))
    assert (da[:2] == make(2, source="drawn", **more)).all()
    for other in (dict(seed=1), dict(split="test")):
        assert (da != make(4, source="drawn", **more | other)).any()
    light = make(4, source="drawn", dtype="float32", **more)
    assert light.dtype == np.float32 and 0 <= light.min() and light.max() <= 1
    np.testing.assert_allclose(255 * light.values, da.values, atol=1e-4)
    bodies = 3 if make is nbody_mnist else 2
    assert all(len(shown) == bodies for shown in da.digits.values)


def test_ink_moves_as_its_centre_does():
    one = NBody(bodies=1, gravity=0.0, frames=5, every=2)
    da = nbody_mnist(3, rules=one, source="drawn").values.astype(float)
    places = nbody_paths(3, rules=one)[0][:, ::2, 0] / 2
    at = np.arange(64) + 0.5
    total = da.sum((2, 3))
    y = (da * at[:, None]).sum((2, 3)) / total
    x = (da * at).sum((2, 3)) / total
    moved = np.stack([y, x], -1) - places
    # a digit's ink is not in the middle of its box, but stays where it is in it
    assert np.ptp(moved, axis=1).max() < 0.6 and np.abs(moved).max() < 6


def test_moving_digits_of_mnist_fly_straight_and_fold_at_the_edges():
    fast = moving_mnist(20, bodies=1, frames=40, speed=20.0, source="drawn")
    total = fast.astype(float).sum(("y", "x")).values
    # nothing is cut off at an edge, however far a digit flew
    np.testing.assert_allclose(total, total[:, :1].repeat(40, 1))


@pytest.mark.parametrize("source", ["drawn", "mnist5k"])
def test_splits_share_no_digit(source):
    if source == "mnist5k" and not is_here():
        pytest.skip("earth/mnist5k is not in FORECASTLAB_DATA")
    seen = {}
    for split in SPLITS:
        pictures, shown = digits(split, source)
        assert pictures.shape[1:] == (28, 28) and pictures.dtype == np.uint8
        assert sorted(set(shown)) == list(range(10))
        seen[split] = {p.tobytes() for p in pictures}
        assert len(seen[split]) == len(pictures)
    assert not seen["train"] & seen["validation"]
    assert not (seen["train"] | seen["validation"]) & seen["test"]


def test_stamps_overlap_by_the_darker_ink_and_average_squares():
    pictures = np.zeros((1, 2, 28, 28), np.uint8)
    pictures[0, 0, 12:16, 12:16] = 100
    pictures[0, 1, 12:16, 12:16] = 200
    here = np.full((1, 1, 2, 2), 20.0)
    assert np.unique(stamp(pictures, here, 40, 40)).tolist() == [0, 200]
    apart = here + np.array([[0, 0], [1, 0]])
    whole = stamp(pictures, apart, 40, 40)[0, 0]
    assert (whole == 100).sum() == 4 and (whole == 200).sum() == 16
    half = stamp(pictures, apart, 40, 20)[0, 0].astype(float)
    assert half.sum() * 4 == whole.sum()
    with pytest.raises(LabError, match="beyond the canvas"):
        stamp(pictures, here + 60, 40, 40)


def test_cropping_centres_the_ink_and_drops_the_paper():
    pictures = np.full((1, 28, 28), 5, np.uint8)
    pictures[0, 1:4, 20:27] = 90
    found = cropped(pictures)[0]
    assert found.sum() == 90 * 21
    assert abs(np.argwhere(found).mean(0) - 13.5).max() <= 0.5


def test_drawn_digits_differ_by_kind():
    pictures, shown = drawn_digits(5)
    mean = np.stack([pictures[shown == d].mean(0) for d in range(10)])
    apart = np.abs(mean[:, None] - mean).mean((2, 3)) + 99 * np.eye(10)
    assert apart.min() > 2


def test_without_digits_one_error_says_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setenv("FORECASTLAB_DATA", str(tmp_path))
    monkeypatch.setenv("FORECASTLAB_CACHE", str(tmp_path / "cache"))
    assert not is_here()
    with pytest.raises(LabError, match="earth/mnist5k") as e:
        nbody_mnist(2)
    assert "missing" in str(e.value) and "FORECASTLAB_DATA" in str(e.value)
    assert nbody_mnist(2, rules=SMALL, source="auto").shape == (2, 6, 32, 32)
    folder = tmp_path / "earth" / "mnist5k"
    folder.mkdir(parents=True)
    (folder / "mnist_5k.csv.gz").write_bytes(b"half a file")
    with pytest.raises(LabError, match="truncated"):
        nbody_mnist(2)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(law="r3"), "r0, r1"),
        (dict(size=60), "128 / 60"),
        (dict(integrator="rk4"), "leapfrog"),
        (dict(bodies=0), "bodies"),
        (dict(softening=0.0), "softening"),
        (dict(border=64.0), "border"),
        (dict(gravity=float("nan")), "gravity"),
    ],
)
def test_rules_that_cannot_be_are_refused(wrong, says):
    with pytest.raises(LabError, match=says):
        NBody(**wrong)


def test_sequences_are_fields_that_a_nowcaster_takes():
    from forecastlab.earth.fields import Fields

    da = nbody_mnist(3, rules=SMALL, source="drawn", dtype="float32")
    windows = Fields(da, past=4, future=2)
    assert len(windows) == 3
    found = windows.batch([1])
    assert found.x.shape == (1, 4, 32, 32, 1) and found.y.shape == (1, 2, 32, 32, 1)
    np.testing.assert_allclose(found.x[0, ..., 0], da[1, :4])
