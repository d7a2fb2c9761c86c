"""The toy of the learned quantile functions, run small.

What it records, its picture, and what it refuses.
"""

import math

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

matplotlib.use("Agg")
pytest.importorskip("papermill", reason="papermill is in the `run` extra")

from forecastlab.core.runs import load_json, read, run
from toys import walk

torch.set_num_threads(1)
SMALL = dict(samples=4000, steps=250, batch=200)
NAMES = ("crps", "ratio", "wasserstein", "variation", "cpu_seconds")


def self_score(weights, means, scales):
    """CRPS of a mixture of normals under itself.

    Half the mean distance of two draws, in closed form.
    """
    total = 0.0
    for w, m, s in zip(weights, means, scales):
        for v, n, t in zip(weights, means, scales):
            d, r = m - n, math.hypot(s, t)
            total += (
                w
                * v
                * (
                    r * math.sqrt(2 / math.pi) * math.exp(-d * d / r / r / 2)
                    + d * math.erf(d / r / math.sqrt(2))
                )
            )
    return total / 2


def colours(path):
    """The picture as bytes a pixel, and the share of its pixels that are the palette's
    blue.
    """
    pixels = (matplotlib.image.imread(path)[..., :3] * 255).round().astype(int)
    return pixels, (np.abs(pixels - [0, 0x72, 0xB2]).max(-1) < 12).mean()


def test_twenty_knots_tell_three_peaks_better_than_five(tmp_path):
    """Through papermill, in a run folder.

    Each distance is recorded for both, and smaller for twenty.
    """
    folder = run("toy_density", SMALL, out=tmp_path / "run", terminal=None)
    assert read(folder)["status"] == "done" and (folder / "notebook.html").exists()
    m = load_json(folder / "metrics.json")
    assert {f"{n}_{k}" for n in NAMES for k in (5, 20)} <= set(m)
    assert all(np.isfinite(v) for v in m.values())
    assert 1 <= m["ratio_20"] < m["ratio_5"] < 1.03
    assert m["wasserstein_20"] < 0.6 * m["wasserstein_5"]
    assert m["variation_20"] < 0.6 * m["variation_5"]
    assert m["best_knots"] == 20
    assert m["ratio_20"] < 1.003
    assert m["variation_20"] < 0.15
    assert m["own_crps"] == pytest.approx(
        self_score([0.35, 0.4, 0.25], [-3, 0, 2.5], [0.45, 0.6, 0.3]), rel=1e-5
    )
    knots = pd.read_csv(folder / "artifacts" / "knots.csv").groupby("knots")
    assert knots.size().to_dict() == {5: 5, 20: 20}
    assert all(
        (g[["level", "quantity"]].diff().dropna() >= 0).all(axis=None) for _, g in knots
    )
    pixels, blue = colours(folder / "artifacts" / "toy_density.png")
    assert min(pixels.shape[:2]) > 400 and 0.004 < blue < 0.1
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("head", ["iqf", "isqf"])
def test_the_other_heads_learn_it_too(tmp_path, head):
    names, _ = walk("toy_density", **SMALL, head=head, out=str(tmp_path))
    m = load_json(tmp_path / "metrics.json")
    assert 1 <= m["ratio_20"] < m["ratio_5"]
    assert m["variation_20"] < m["variation_5"]
    assert list(names["curves"]) == [5, 20]
    assert all(
        len(c.values) == k and c.left is not None and c.right is not None
        for k, c in names["curves"].items()
    )


def test_it_takes_other_peaks(tmp_path):
    """One peak, one number of knots, shares that do not sum to one; the same seed gives
    the same curve.
    """
    one, two = (
        walk(
            "toy_density",
            samples=500,
            steps=60,
            batch=64,
            knots=[8],
            weights=[3],
            means=[10],
            scales=[2.0],
            seed=seed,
            out=str(tmp_path / f"{i}"),
        )[0]["curves"][8]
        for i, seed in enumerate((5, 5))
    )
    assert torch.equal(one.values, two.values) and abs(one.mean.item() - 10) < 0.5
    assert load_json(tmp_path / "0" / "metrics.json")["own_crps"] == pytest.approx(
        self_score([1], [10], [2]), rel=1e-5
    )


def test_a_killed_toy_goes_on_from_its_checkpoint(tmp_path):
    "The clock of the training is in the checkpoint: the second run adds nothing to it."
    few = dict(samples=200, steps=20, batch=16, knots=[5], out=str(tmp_path))
    first, second = (walk("toy_density", **few)[0] for _ in range(2))
    assert list(tmp_path.glob("artifacts/checkpoints/*"))
    assert second["seconds"] == first["seconds"]
    assert torch.equal(second["curves"][5].values, first["curves"][5].values)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(weights=[0.5, 0.5]),
            "weights, means and scales need one number a peak: 2, 3, 3",
        ),
        (dict(scales=[1, 0, 1]), "scales must be a number above 0, got 0"),
        (
            dict(means=[0.0, float("nan"), 1.0]),
            r"means=\[0.0, nan, 1.0\] is not list\[float\]",
        ),
        (dict(knots=[5, 5]), "knots must be different whole numbers, at least 3: 5, 5"),
        (dict(knots=[2]), "at least 3: 2"),
        (dict(knots=[]), "knots must be different"),
        (dict(head="mqf"), "unknown head: mqf. Choose sqf, iqf, isqf"),
        (dict(samples=1), "samples must be a whole number, at least 2, got 1"),
        (dict(steps=0), "steps must be a whole number, at least 1, got 0"),
    ],
)
def test_bad_parameters_are_one_clear_error(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        walk("toy_density", **change, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
