"Learned quantile functions on every backbone of the multi-horizon forecaster."

import dataclasses

import numpy as np
import pytest
import torch

from forecastlab.core.distributions import Counts
from forecastlab.core.features import Recipe
from forecastlab.core.forecaster import load_model
from forecastlab.core.neural import WindowTask
from forecastlab.core.windows import Windows, forked
from forecastlab.demand.mq import BY_ENCODER, MQNetwork, MQSettings, mq_loss
from forecastlab.quantile.heads import HEADS
from forecastlab.quantile.spline import SplineQuantile
from toys import QUIET, several

torch.set_num_threads(1)
SMALL = dict(
    context=16,
    forks=6,
    steps=12,
    batch=8,
    channels=8,
    dilations=(1, 2),
    mixing=8,
    agnostic=8,
    local=8,
    recent=(4,),
    pieces=3,
)
FINE = torch.linspace(1e-4, 1 - 1e-4, 10_001, dtype=torch.float64)


def sales(low=0, n=6, steps=60, seed=0):
    y = np.random.default_rng(seed).poisson(4, (n, steps)) + low
    return several(y.astype(float))


def model(head, encoder="cnn", **options):
    settings = SMALL | dict(training=QUIET) | options
    return BY_ENCODER[encoder](4, head=head, **settings)


@pytest.mark.parametrize("encoder", ["cnn", "rnn", "lags"])
@pytest.mark.parametrize(
    "head, tails",
    [
        ("sqf", "exponential"),
        ("iqf", "exponential"),
        ("isqf", "exponential"),
        ("isqf", "pareto"),
    ],
)
def test_every_head_runs_on_every_backbone(head, tails, encoder, tmp_path):
    """Trained, in order at ten thousand levels, and bit-equal after a round trip
    through a file.
    """
    for low in (0, -5):
        support = "nonnegative" if low == 0 else "auto"
        m = model(head, encoder=encoder, tails=tails, support=support).fit(sales(low))
        f = m.predict()
        assert isinstance(f.distribution, SplineQuantile)
        assert f.distribution.domain == ("nonnegative" if low == 0 else "real")
        q = f.quantile(FINE)
        assert torch.isfinite(q).all()
        assert (q.diff(dim=-1) >= 0).all()
        assert low < 0 or (q >= 0).all()
        m.save(tmp_path / "m", overwrite=True)
        again = load_model(tmp_path / "m")
        assert torch.equal(again.predict(4, sales(low)).quantile(FINE), q)
        assert again.settings == m.settings
    assert torch.equal(m.predict(2).quantile([0.1, 0.9]), f.quantile([0.1, 0.9])[:, :2])


@pytest.mark.parametrize("head", list(HEADS))
def test_the_loss_is_the_weighted_crps_of_what_was_observed(head):
    s = MQSettings(
        horizon=4,
        head=head,
        **{k: v for k, v in SMALL.items() if k not in ("steps", "batch")},
        least=3,
        weight=0.5,
        link="log",
    )
    panel = sales()
    y = np.array(panel.y)
    y[30:34] = np.nan
    panel = dataclasses.replace(panel, y=y)
    w = Windows(Recipe.learn(panel, s).apply(panel), s.context, s.horizon, cycles=())
    b = w.read(torch.tensor([0, 1, 2]), torch.tensor([32, 40, 50]))
    torch.manual_seed(0)
    net = MQNetwork(s, Recipe.learn(panel, s).sizes())
    total, mass = mq_loss(net, b, s, typical=2.0)
    p, loc, scale = net(b)
    weight = (scale / 2) ** 0.5 * (
        b.observed[:, : s.context].cumsum(1)[:, -s.forks :] >= 3
    )
    weight = weight[..., None] * forked(b.observed, 4, s.forks)
    curve = net.local_decoder.head.distribution(
        p, loc[..., None], scale[..., None], "nonnegative"
    )
    crps = curve.crps(forked(b.y, 4, s.forks)) / scale[..., None]
    torch.testing.assert_close(total, (weight * crps).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mass, weight.sum())
    assert 0 < float((weight == 0).sum()) < weight.numel()
    total.backward()
    assert all(
        x.grad is not None and torch.isfinite(x.grad).all() for x in net.parameters()
    )


@pytest.mark.parametrize("head", list(HEADS))
def test_members_are_averaged_level_by_level(head):
    # a curve is cut off at 0 after the average
    smooth = dict(support="real")
    two = model(head, members=2, **smooth).fit(sales())
    ones = [
        model(head, training=QUIET | dict(seed=k), **smooth).fit(sales())
        for k in (0, 1000)
    ]
    levels = [0.005, 0.01, 0.1, 0.25, 0.5, 0.77, 0.9, 0.99, 0.995]
    expected = sum(m.predict().quantile(levels) for m in ones) / 2
    torch.testing.assert_close(
        two.predict().quantile(levels), expected, rtol=2e-3, atol=1e-3
    )
    assert (two.predict().quantile(FINE).diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("head", ["grid", *HEADS])
def test_counts_are_whole_and_never_negative(head):
    f = model(head, support="count", members=2).fit(sales()).predict()
    q = f.quantile(FINE[::100])
    assert isinstance(f.distribution, Counts)
    assert torch.equal(q, q.round())
    assert (q >= 0).all()
    assert (q.diff(dim=-1) >= 0).all()
    draws = f.sample(50)
    assert torch.equal(draws, draws.round()) and (draws >= 0).all()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(head="spline"), "unknown head: spline. Choose grid, sqf, iqf, isqf"),
        (dict(tails="fat"), "unknown tails: fat"),
        (dict(pieces=-1), "pieces must be a whole number, at least 0"),
        (dict(support="positive"), "unknown support: positive"),
        (dict(levels=(0.5, 0.1)), "levels must increase"),
        (dict(levels=(0.0, 0.5)), "strictly between 0 and 1"),
    ],
)
def test_impossible_heads_are_refused_in_words(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        model(**dict(head="isqf") | options)


@pytest.mark.parametrize("head, knots", [("sqf", 21), ("iqf", 9), ("isqf", 33)])
def test_without_pieces_each_head_has_its_own(head, knots):
    "A spline of 20 pieces; 4 pieces between any two of nine levels; anchors alone."
    assert MQSettings().pieces == 0
    assert (
        model(head, pieces=0, support="real")
        .fit(sales())
        .predict()
        .distribution.values.shape[-1]
        == knots
    )


def test_a_target_outside_the_declared_support_is_named():
    with pytest.raises(
        ValueError,
        match="declared nonnegative, but 6 series have negative targets: s0, s1",
    ):
        model("isqf", support="nonnegative").fit(sales(-5))
    y = np.array(sales().y)
    y[70] = 0.5
    with pytest.raises(
        ValueError,
        match=(
            "declared count, but 1 series have targets that are not whole numbers: s1"
        ),
    ):
        model("isqf", support="count").fit(dataclasses.replace(sales(), y=y))
    assert (
        model("isqf", support="real").fit(sales()).predict().distribution.domain
        == "real"
    )


def test_a_killed_training_goes_on_to_the_same_curve(tmp_path, monkeypatch):
    def make(place):
        return model(
            "isqf",
            steps=12,
            dropout=0.2,
            checkpoint=place,
            training=QUIET | dict(checkpoint_every=4),
        )

    whole = make(tmp_path / "whole").fit(sales()).predict().quantile(FINE)
    draw, count = WindowTask.draw, []

    def dying(task, generator):
        count.append(1)
        if len(count) == 8:
            raise KeyboardInterrupt
        return draw(task, generator)

    monkeypatch.setattr(WindowTask, "draw", dying)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "killed").fit(sales())
    monkeypatch.setattr(WindowTask, "draw", draw)
    assert torch.equal(
        make(tmp_path / "killed").fit(sales()).predict().quantile(FINE), whole
    )
