"""MQTransformer: attention as its equations read, and nothing after an origin is seen.

Forks equal windows encoded alone, in values and in gradients.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from forecastlab.core.features import Recipe, Sizes
from forecastlab.core.forecaster import load_model
from forecastlab.core.panel import Panel
from forecastlab.core.windows import Windows, forked
from forecastlab.demand.mq import mq_loss
from forecastlab.demand.mqtransformer import MQTransformer, MQTransformerNetwork
from forecastlab.demand.mqtransformer import MQTransformerSettings, hear, hear_plainly
from forecastlab.demand.mqtransformer import look_back, look_back_plainly
from toys import QUIET, check_gradients, draw, frame, full

torch.set_num_threads(1)
SMALL = dict(
    context=16,
    forks=6,
    channels=8,
    dilations=(1, 2),
    mixing=8,
    agnostic=8,
    local=8,
    recent=(4, 8),
    attention=4,
    positions=3,
)
TRAINED = dict(steps=4, batch=8, training=QUIET)


def model(horizon=3, **more):
    return MQTransformer(horizon, **SMALL | TRAINED | more)


def q(forecast, levels=(0.1, 0.5, 0.9)):
    return forecast.quantile(list(levels)).numpy()


def network(panel=None, **settings):
    "An untrained network and windows of a panel with every kind of covariate."
    s = MQTransformerSettings(**SMALL | dict(horizon=3) | settings)
    panel = full() if panel is None else panel
    recipe = Recipe.learn(panel, s)
    w = Windows(recipe.apply(panel), s.context, s.horizon, cycles=recipe.cycles)
    torch.manual_seed(0)
    net = MQTransformerNetwork(s, recipe.sizes())
    return s, net, w.read(torch.tensor([0, 1, 5, 3]), torch.tensor([20, 36, 5, 1]))


def in_double(batch):
    "The same windows in double precision."
    rows = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    number = {n: x for n, x in rows.items() if x is not None and x.is_floating_point()}
    return dataclasses.replace(batch, **{n: x.double() for n, x in number.items()})


# --- the two attentions


@pytest.mark.parametrize("forks, rows, horizon", [(1, 1, 1), (5, 5, 2), (3, 20, 7)])
def test_looking_back_is_its_equation(forks, rows, horizon):
    query, key, value = draw(2, forks, horizon, 5), draw(2, rows, 5), draw(2, rows, 3)
    begun = torch.arange(rows) >= torch.tensor([[rows // 2], [rows]])
    given = [x.requires_grad_() for x in (query, key, value)]
    fast, plain = (f(*given, begun) for f in (look_back, look_back_plainly))
    torch.testing.assert_close(fast, plain)
    weight = draw(*fast.shape, seed=1)
    ours, theirs = (
        torch.autograd.grad((x * weight).sum(), given) for x in (fast, plain)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "forks, horizon, compared", [(1, 1, 1), (2, 5, 4), (7, 3, 3), (3, 2, 9)]
)
def test_hearing_earlier_forecasts_is_its_equation(forks, horizon, compared):
    given = [draw(2, forks, horizon, 5, seed=k).requires_grad_() for k in range(3)]
    given += [draw(2, forks, compared, seed=3), draw(5, seed=4).requires_grad_()]
    fast, plain = (f(*given) for f in (hear, hear_plainly))
    torch.testing.assert_close(fast, plain)
    weight, given = draw(*fast.shape, seed=1), [x for x in given if x.requires_grad]
    ours, theirs = (
        torch.autograd.grad((x * weight).sum(), given, allow_unused=True)
        for x in (fast, plain)
    )
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


# --- causality and forks


@pytest.mark.parametrize("more", [{}, dict(start="last", centre=True), dict(around=3)])
def test_an_origin_sees_nothing_that_comes_later(more):
    s, net, b = network(**more)
    net.eval()
    before = net(b)[0]["values"]
    for fork in range(s.forks):
        rows = s.context - s.forks + fork + 1
        changed = {
            n: getattr(b, n).clone()
            for n in ("y", "observed", "past", "past_codes", "known", "known_codes")
        }
        changed["y"][:, rows:] += 1e3
        changed["observed"][:, rows:] = 1 - changed["observed"][:, rows:]
        changed["past"][:, rows:] -= 7
        changed["past_codes"][:, rows:] = 1
        # known ahead up to the horizon of this origin alone
        changed["known"][:, rows + s.horizon :] += 3
        changed["known_codes"][:, rows + s.horizon :] = 0
        after = net(dataclasses.replace(b, **changed))[0]["values"]
        assert torch.equal(before[:, : fork + 1], after[:, : fork + 1])
        assert fork == s.forks - 1 or not torch.equal(
            before[:, fork + 1], after[:, fork + 1]
        )


def even_sized(rows=22):
    "Three series of -1 and 1, so that every row has the same scale; a known price."
    rng = np.random.default_rng(2)
    return Panel.from_frame(
        pd.DataFrame(
            {
                "unique_id": np.repeat(["a", "b", "c"], rows),
                "ds": np.tile(np.arange(rows), 3),
                "y": rng.choice([-1.0, 1.0], 3 * rows),
                "price": rng.normal(0, 1, 3 * rows),
            }
        ),
        freq=1,
        known=["price"],
    )


@pytest.mark.parametrize("feedback", [0, 2, 3])
def test_forks_are_windows_encoded_alone_in_values_and_gradients(feedback):
    """Exact where all rows are scaled alike and a window holds all of the history.

    The window of a fork alone has as many origins as came before it in the other one,
    and the same reach: the rows and the forecasts that are attended to are the same.
    """
    common = dict(context=24, horizon=3, forks=5, reach=9, recent=(4,), least=1)
    panel, known = even_sized(), 19
    s = MQTransformerSettings(**SMALL | common | dict(feedback=feedback))
    windows = Windows(panel, s.context, s.horizon)
    series = torch.arange(3)

    def built(forks):
        torch.manual_seed(0)
        own = dataclasses.replace(s, forks=forks)
        return MQTransformerNetwork(own, Sizes(known=1)).double()

    def losses(net, batch, forks):
        "(batch, fork) of every origin."
        found, loc, scale = net(batch)
        y = (forked(batch.y, 3, forks) - loc[..., None]) / scale[..., None]
        u, a = y[..., None] - found["values"], torch.tensor(s.levels).double()
        return torch.maximum(a * u, (a - 1) * u).sum((2, 3))

    joint = built(s.forks)
    batch = in_double(windows.read(series, torch.full((3,), known)))
    together = losses(joint, batch, s.forks)
    total, mass = mq_loss(joint, batch, s)
    torch.testing.assert_close(total, together.sum(), rtol=1e-6, atol=1e-6)
    wanted = torch.autograd.grad(together.mean(), joint.parameters())
    alone, gradients = [], [torch.zeros_like(g) for g in wanted]
    for fork in range(s.forks):
        net = built(fork + 1)
        at = torch.full((3,), known - s.forks + 1 + fork)
        loss = losses(net, in_double(windows.read(series, at)), fork + 1)[:, -1]
        alone.append(loss.detach())
        own = torch.autograd.grad(loss.mean() / s.forks, net.parameters())
        gradients = [a + b for a, b in zip(gradients, own)]
    torch.testing.assert_close(together.detach(), torch.stack(alone, 1))
    for (name, _), a, b in zip(joint.named_parameters(), gradients, wanted):
        torch.testing.assert_close(a, b, msg=name, rtol=1e-9, atol=1e-12)


def test_the_gradient_reaches_every_parameter():
    s, net, b = network()
    total, mass = mq_loss(net, b, s)
    (total / mass).backward()
    check_gradients(net)


def test_what_was_said_before_and_its_errors_are_heard():
    s, net, b = network(reach=1)
    net.eval()
    silent = network(reach=1, feedback=0)[1]
    names = dict(net.named_parameters())
    assert any(n.startswith("hear.") for n in names)
    assert not any(n.startswith("hear.") for n, _ in silent.named_parameters())
    before = net(b)[0]["values"]
    with torch.no_grad():
        net.hear.error += 5
    assert not torch.equal(net(b)[0]["values"], before)


def test_a_position_reads_what_surrounds_it_and_no_further():
    s, net, b = network(around=1)
    past, ahead = net.position(net.encoder.read(b).known, 9)
    assert past.shape == (4, 9, 3) and ahead.shape == (4, 6, 3, 3)
    # the first row ahead of an origin is the one after its own
    torch.testing.assert_close(ahead[:, :-1, 0], past[:, -5:], rtol=1e-5, atol=1e-6)


# --- the forecaster


@pytest.mark.parametrize("head", ["grid", "isqf", "iqf", "sqf"])
def test_every_head_forecasts_in_order_and_comes_back_from_a_file(head, tmp_path):
    seen = full().cut(36)
    m = model(head=head, average_origins=2).fit(seen)
    x = q(m.predict(3, seen), (0.05, 0.3, 0.5, 0.77, 0.99))
    assert np.isfinite(x).all() and (np.diff(x) >= 0).all()
    m.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert np.array_equal(q(again.predict(3, seen)), q(m.predict()))
    assert again.settings == m.settings


def test_an_event_that_never_comes_changes_nothing_but_does_no_harm():
    weeks = frame().assign(feast=0.0)
    seen = Panel.from_frame(weeks, freq="W-SUN", known=["feast"]).cut(36)
    x = q(model().fit(seen).predict(3))
    assert np.isfinite(x).all() and (np.diff(x) >= 0).all()


def test_without_anything_known_ahead_all_horizons_ask_alike():
    y = np.random.default_rng(0).poisson(5, 60).astype(float)
    panel = Panel.from_frame(
        pd.DataFrame({"unique_id": "a", "ds": np.arange(60), "y": y}), freq=1
    )
    m = model().fit(panel)
    assert m.networks[0].position is None
    assert np.isfinite(q(m.predict())).all()


def test_what_cannot_be_forecast_is_refused_in_words():
    seen = full().cut(36)
    m = model().fit(seen)
    with pytest.raises(
        ValueError, match="this model forecasts 1 to 3 steps, asked for 4. Train one"
    ):
        m.predict(4)
    with pytest.raises(ValueError, match="known covariates .* end before the horizon"):
        m.predict(3, full())
    with pytest.raises(ValueError, match="no series has enough observed|long enough"):
        model().fit(full().cut(0))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(positions=0), "positions must be a whole number"),
        (dict(attention=1.5), "attention must be a whole number"),
        (dict(around=-1), "around must be a whole number, at least 0"),
        (dict(reach=-2), "reach must be a whole number, at least 0"),
        (dict(feedback=True), "feedback must be a whole number"),
        (dict(heads=4), "unknown settings: heads"),
        (dict(encoder="rnn"), "unknown encoder: rnn. Choose cnn"),
    ],
)
def test_impossible_sizes_are_refused_in_words(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        model(**wrong)


def test_a_reach_or_a_feedback_that_does_not_fit_is_cut():
    s = MQTransformerSettings(context=16, horizon=3, forks=6, reach=40, feedback=9)
    assert (s.looks, s.compared) == (11, 3)
    assert np.array_equal(
        q(model(reach=40).fit(full().cut(36)).predict()),
        q(model().fit(full().cut(36)).predict()),
    )
