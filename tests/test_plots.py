"""Every picture of the house renders to a PNG that holds ink.

At 80 dots per inch, on a new figure and on given axes.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from forecastlab.core import plots
from forecastlab.demand import stock_plots

WEEKS = pd.date_range("2025-01-05", periods=40, freq="W-SUN")
LEVELS = np.arange(1, 10) / 10


@pytest.fixture(autouse=True)
def tidy():
    yield
    plt.close("all")


def fan(ax):
    rng = np.random.default_rng(0)
    y = rng.poisson(20, 40).astype(float)
    y[5:8] = np.nan
    q = {
        a: 20 + 12 * (a - 0.5) * np.ones(8)
        for a in (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
    }
    return plots.fan(
        ax,
        WEEKS[:32],
        y[:32],
        WEEKS[32:],
        q,
        actual=y[32:],
        marks=WEEKS[[10, 35]],
        title="Item 7",
        ylabel="units",
    )


PICTURES = {
    "fan": fan,
    "fan_integer_time": lambda ax: plots.fan(
        ax,
        range(10),
        np.arange(10.0),
        range(10, 90),
        {0.5: np.ones(80)},
        actual=np.zeros(80),
        legend=False,
    ),
    "fan_one_step": lambda ax: plots.fan(
        ax, [], [], [3], {0.5: [1.0], 0.1: [0.0], 0.9: [4.0]}
    ),
    "calibration": lambda ax: plots.calibration(
        ax, LEVELS, {"a": LEVELS**1.2, "b": LEVELS**0.8}, n=500, title="Calibration"
    ),
    "calibration_plain": lambda ax: plots.calibration(ax, LEVELS, LEVELS),
    "pit": lambda ax: plots.pit(ax, np.ones(10), n=500, title="PIT"),
    "stock_curve": lambda ax: stock_plots.stock_curve(
        ax,
        np.linspace(0.8, 0.99, 20),
        100 / (1 - np.linspace(0.8, 0.99, 20)),
        value=3.2,
    ),
    "leaderboard": lambda ax: plots.leaderboard(
        ax,
        {"MQ-CNN": 0.32, "seasonal naive": 0.45, "broken": np.nan},
        reference=0.34,
        xlabel="wQL",
    ),
    "leaderboard_negative": lambda ax: plots.leaderboard(
        ax, pd.Series({"a": -1.0, "b": 2.0}), best="high"
    ),
    "folds": lambda ax: plots.folds(
        ax, [20, 24, 28, 32], 8, trained=[20, 20, 28, 28], calendar=WEEKS
    ),
    "folds_plain": lambda ax: plots.folds(ax, [20], 8),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("given", [False, True])
def test_every_picture_renders(name, given, tmp_path):
    ax = plt.subplots()[1] if given else None
    out = PICTURES[name](ax)
    assert out is ax or not given
    path = tmp_path / f"{name}.png"
    out.figure.savefig(path, dpi=80)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert 2_000 < path.stat().st_size < 60_000
    pixels = plt.imread(path)[..., :3]
    colours = np.unique(pixels.reshape(-1, 3), axis=0)
    assert (pixels.min(-1) < 0.9).mean() > 0.01, "hardly any ink"
    assert len(colours) > 20


def shown_texts(figure):
    found = figure.findobj(matplotlib.text.Text)
    return [t for t in found if t.get_text().strip() and t.get_visible()]


def of_ticks(ax):
    "Labels of all ticks, also of those outside the axes."
    ticks = [*ax.xaxis.get_major_ticks(), *ax.yaxis.get_major_ticks()]
    return {label for tick in ticks for label in (tick.label1, tick.label2)}


@pytest.mark.parametrize("name", PICTURES)
def test_text_is_readable_and_inside_the_figure(name):
    ax = PICTURES[name](None)
    figure = ax.figure
    figure.canvas.draw()
    page, texts, ticks = figure.bbox, shown_texts(figure), of_ticks(ax)
    assert not [t.get_text() for t in texts if t.get_fontsize() < 8]
    ends = {t.get_text(): t.get_window_extent().x1 for t in texts if t not in ticks}
    assert not [text for text, x in ends.items() if not page.padded(1).containsx(x)]
    labels = [t.get_window_extent() for t in ax.get_xticklabels() if t.get_text()]
    labels = [box for box in labels if page.x0 <= box.x0 <= page.x1]
    for a, b in zip(labels, labels[1:]):
        assert a.x1 < b.x0, "tick labels run into each other"


def test_new_figures_follow_the_style_without_touching_global_settings():
    before = dict(plt.rcParams)
    ax = PICTURES["leaderboard"](None)
    assert dict(plt.rcParams) == before
    assert ax.figure.dpi == 80 and not ax.spines["top"].get_visible()


def test_stock_curve_says_what_the_step_saves():
    ax = stock_plots.stock_curve(
        None,
        [0.9, 0.94, 0.95, 0.99],
        [100, 150, 200, 400],
        value=2,
        currency="$",
        unit="boxes",
    )
    assert [" ".join(t.get_text().split()) for t in ax.texts] == [
        "95 % to 94 % saves 50 boxes (25.0 %), $100"
    ]


@pytest.mark.parametrize(
    "call, says",
    [
        (
            lambda: plots.fan(None, [1], [1.0], [2], {0.3: [1.0]}),
            "neither a median nor a central band",
        ),
        (
            lambda: plots.fan(None, [1, 2], [1.0], [2], {0.5: [1.0]}),
            "lengths differ: ds_history 2, y 1",
        ),
        (
            lambda: plots.calibration(None, LEVELS, {"a": [0.1]}),
            "lengths differ: levels 9, shares a 1",
        ),
        (
            lambda: stock_plots.stock_curve(None, [0.9, 0.8], [1, 2]),
            "increasing levels",
        ),
        (
            lambda: stock_plots.stock_curve(
                None, [0.8, 0.9], [1, 2], marks=(0.85, 0.95)
            ),
            "Levels run from 0.8 to 0.9",
        ),
        (lambda: plots.leaderboard(None, {"a": np.inf}), "no finite score to draw: a"),
        (
            lambda: plots.leaderboard(None, {"a": 1.0}, best="least"),
            "unknown best: least. Choose low, high",
        ),
        (
            lambda: plots.folds(None, [5, 9], 4, trained=[5, 10]),
            "fitted after its origin, origins: 9",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
