"""Convex maps and MQF2.

Gradients are what they claim, maps are monotone and invertible, gaps do not count,
saved is saved, a killed training goes on.
"""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.distributions import MultivariateNormal

from forecastlab.core.distributions import Counts
from forecastlab.core.encoders import ENCODERS
from forecastlab.core.features import Recipe
from forecastlab.core.panel import Panel
from forecastlab.core.windows import Windows
from forecastlab.quantile.convex import ConvexMap, Potential, cosines, energy_loss
from forecastlab.quantile.convex import marginal_crps, path_score
from forecastlab.quantile.mqf2 import MapPaths, MQF2Forecaster, MQF2Network
from forecastlab.quantile.mqf2 import MQF2Settings, even_noise, mapped, mqf2_loss
from toys import QUIET, check_units

torch.set_num_threads(1)
SMALL = dict(
    context=16,
    forks=6,
    batch=8,
    channels=8,
    dilations=(1, 2),
    agnostic=8,
    local=8,
    units=(5, 4),
    recent=(4, 8),
    draws=4,
    paths=64,
)


def potential(
    windows=3, horizon=5, units=(7, 5), size=1.0, seed=0, dtype=torch.float64
):
    "Random convex functions; `size` multiplies everything that may be large."
    g = torch.Generator().manual_seed(seed)
    first, second = units

    def normal(*shape):
        return size * torch.randn(*shape, generator=g, dtype=dtype)

    return Potential(
        shift=normal(windows, horizon),
        stiffness=normal(windows, horizon) ** 2 + 1e-3,
        stretch=normal(windows, horizon).abs() + 0.1,
        mass=normal(windows, horizon) ** 2,
        first_offset=normal(windows, first),
        second_offset=normal(windows, second),
        height=normal(windows, second) ** 2,
        directions=normal(horizon + first + second, horizon) / horizon**0.5,
        mixing=normal(second, first) ** 2 / first,
    )


def quadratic(shift, stiffness, modes):
    "A potential without hidden units."
    none, one = shift.new_zeros(1, 0), torch.ones_like(shift)
    return Potential(
        shift=shift,
        stiffness=stiffness * one,
        stretch=one,
        mass=one,
        first_offset=none,
        second_offset=none,
        height=none,
        directions=modes,
        mixing=shift.new_zeros(0, 0),
    )


def frame(n=6, rows=40, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(n)], rows),
            "ds": np.tile(pd.date_range("2022-01-01", periods=rows, freq="W-SUN"), n),
            "y": rng.poisson(6, n * rows).astype(float),
            "price": np.exp(rng.normal(0, 0.2, n * rows)),
            "promo": rng.choice(["no", "yes"], n * rows),
            "kind": np.repeat(rng.choice(["mug", "tin"], n), rows),
        }
    )


def full(df=None):
    return Panel.from_frame(
        frame() if df is None else df,
        freq="W-SUN",
        known=["price", "promo"],
        static=["kind"],
    )


def plain(seed=0, **change):
    return Panel.from_frame(
        frame(seed=seed)[["unique_id", "ds", "y"]].assign(**change),
        freq="W-SUN",
        fill="missing",
    )


def model(encoder="cnn", horizon=3, steps=4, training=None, **more):
    return MQF2Forecaster(
        horizon,
        encoder=encoder,
        steps=steps,
        training=QUIET | (training or {}),
        **SMALL | more,
    )


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    horizon=st.integers(1, 9),
    first=st.integers(1, 6),
    second=st.integers(1, 6),
    size=st.sampled_from([0.01, 1.0, 3.0]),
    seed=st.integers(0, 99),
)
def test_the_map_is_the_gradient_of_a_convex_function(
    horizon, first, second, size, seed
):
    p = potential(2, horizon, (first, second), size, seed)
    g = torch.Generator().manual_seed(seed)
    normal = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)
    x = normal(2, 4, horizon).requires_grad_()
    v = normal(2, 4, horizon)
    apart = normal(2, 4, horizon) * 10 ** (
        4 * torch.rand(2, 4, 1, generator=g, dtype=torch.float64) - 3
    )
    torch.testing.assert_close(
        torch.autograd.grad(p.value(x).sum(), x)[0], p.gradient(x)
    )
    torch.testing.assert_close(
        torch.autograd.grad((p.gradient(x) * v).sum(), x)[0], p.product(x, v)
    )
    torch.testing.assert_close((p.hessian(x) @ v[..., None])[..., 0], p.product(x, v))
    moved = p.gradient(x + apart) - p.gradient(x)
    assert (
        (moved * apart).sum(-1) >= -1e-9 * (1 + moved.norm(dim=-1) * apart.norm(dim=-1))
    ).all()
    assert (
        p.value(x) + p.value(x + apart)
        >= 2 * p.value(x + apart / 2) - 1e-9 * (1 + p.value(x).abs())
    ).all()


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    horizon=st.integers(1, 12),
    size=st.sampled_from([0.1, 1.0, 2.0]),
    far=st.sampled_from([0.1, 3.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_the_inverse_leads_back(horizon, size, far, seed):
    p = potential(3, horizon, size=size, seed=seed)
    z = far * torch.randn(
        3,
        2,
        horizon,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    x = p.inverse(z)
    assert (p.gradient(x) - z).norm(dim=-1).max() < 1e-5
    # found in double precision
    torch.testing.assert_close(p.inverse(z.float()), p.inverse(z.float().double()))
    levels, whole = p.rank(z)
    assert ((levels >= 0) & (levels <= 1)).all() and ((whole >= 0) & (whole <= 1)).all()


def test_map_of_a_quadratic_potential_is_gaussian():
    g = torch.Generator().manual_seed(0)
    L = torch.randn(4, 4, dtype=torch.float64, generator=g)
    b = torch.arange(4.0)[None].double()
    p = quadratic(b, 0.3, L)
    A = 0.3 * torch.eye(4) + L.T @ L
    x = torch.randn(1, 50, 4, dtype=torch.float64)
    torch.testing.assert_close(p.gradient(x), x @ A + b)
    torch.testing.assert_close(p.log_det(x), torch.logdet(A).expand(1, 50))
    torch.testing.assert_close(
        p.log_prob(x), MultivariateNormal(b[0], A @ A).log_prob(x)
    )
    one_step = quadratic(b[:, :1], 0.3, L[:1, :1])
    high = one_step.quantile(torch.tensor([[0.975]], dtype=torch.float64))
    want = b[:, :1] + (0.3 + L[0, 0] ** 2) * 1.959964
    torch.testing.assert_close(high, want, rtol=1e-6, atol=0)


def test_estimated_log_determinants_are_unbiased_and_exact_with_all_directions():
    p = potential(2, 12, seed=4)
    x = torch.randn(2, 3, 12, dtype=torch.float64)
    exact = p.log_det(x)
    torch.manual_seed(0)
    torch.testing.assert_close(p.log_det(x, 12), exact, rtol=1e-6, atol=1e-6)
    found = torch.stack([p.log_det(x, 2) for _ in range(144)])
    assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / 12 + 1e-3).all()
    with pytest.raises(ValueError, match="more probes \\(13\\) than steps"):
        p.log_det(x, 13)


def test_likelihood_reaches_every_weight():
    p = potential(2, 3, (3, 2), seed=1)
    names = [f.name for f in fields(p)]
    leaves = [getattr(p, n).clone().requires_grad_() for n in names]
    z = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z, *v: Potential(*v).log_prob(z), [z, *leaves], atol=1e-5
    )


def test_solved_windows_cost_the_inverse_nothing(monkeypatch):
    p, calls, gradient = potential(40), [], Potential.gradient
    x = torch.linspace(1e-3, 3, 40).double()[:, None] * torch.ones(5)
    z = p.gradient(x)

    def counted(potential, x):
        calls.append(1)
        return gradient(potential, x)

    monkeypatch.setattr(Potential, "gradient", counted)
    torch.testing.assert_close(p.inverse(z), x, rtol=1e-6, atol=1e-6)
    assert len(calls) < 40


def test_extreme_potentials_stay_finite():
    for scale in (1e-8, 1e8):
        p = potential(2, 6, dtype=torch.float32)
        sized = ("shift", "stiffness", "mass", "height")
        p = replace(p, **{name: getattr(p, name) * scale for name in sized})
        leaves = p.map(lambda t: t.clone().requires_grad_())
        for z in (torch.zeros(2, 6), scale * torch.randn(2, 6)):
            torch.manual_seed(0)
            energy_loss(leaves, z, draws=5, marginal=0.2).backward()
            for f in fields(p):
                assert torch.isfinite(getattr(leaves, f.name).grad).all()


def test_paths_that_do_not_fit_a_map_are_refused():
    p = potential()
    for call, words in (
        (lambda: p.gradient(torch.zeros(3, 4)), "trained for a horizon of 5 steps"),
        (lambda: p.gradient(torch.zeros(2, 5)), "expected paths shaped"),
        (lambda: p.inverse(torch.full((3, 5), torch.nan)), "1|3 paths hold NaN"),
        (
            lambda: p.quantile(torch.tensor([[0.0, 0.5, 0.5, 0.5, 1.0]] * 3)),
            "strictly between 0 and 1: 0.0, 1.0",
        ),
        (lambda: energy_loss(p, torch.zeros(3, 5), draws=1), "at least 2 draws"),
        (lambda: energy_loss(p, torch.zeros(3, 6)), "trained for a horizon of 5"),
        (lambda: ConvexMap(3, 4, start=0.0), "start must be a number above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(
        ArithmeticError, match="did not converge in 1 steps.*windows: 0, 1, 2"
    ):
        p.inverse(torch.full((3, 5), 50.0).double(), most=1)


def test_pieces_equal_one_pass_and_masked_steps_do_not_count():
    torch.manual_seed(0)
    net = ConvexMap(4, 8, (3, 3))
    h, z, seen = torch.randn(30, 4), torch.randn(30, 8), torch.rand(30, 8) < 0.6
    seen[4] = False

    def run(rows, z=z):
        # 32 numbers a window: torch draws 16 at a time
        torch.manual_seed(1)
        net.zero_grad()
        loss = energy_loss(net(h), z, seen, torch.linspace(0, 1, 30), 4, 0.4, rows)
        loss.backward()
        return torch.cat(
            [loss.detach()[None], *(q.grad.flatten() for q in net.parameters())]
        )

    torch.testing.assert_close(run(20), run(10**5), rtol=1e-4, atol=1e-4)
    assert torch.equal(run(20), run(20, torch.where(seen, z, 1e9)))
    torch.manual_seed(1)
    whole = (
        path_score(net(h).sample(4), torch.where(seen, z, 0.0), seen.float(), 0.4)
        * torch.linspace(0, 1, 30)
    ).sum()
    torch.testing.assert_close(whole.detach(), run(10**5)[0], rtol=1e-5, atol=1e-5)


def test_marginal_crps_is_the_energy_score_of_single_steps():
    w, z = torch.randn(7, 9, 4), torch.randn(7, 4)
    each = sum(
        path_score(w[..., k : k + 1], z[:, k : k + 1], torch.ones(7, 1))
        for k in range(4)
    )
    torch.testing.assert_close(marginal_crps(w, z, torch.ones(7, 4)), each / 2)


def test_a_new_map_is_nearly_the_identity_whatever_the_state():
    torch.manual_seed(0)
    net = ConvexMap(3, 8, start=0.5)
    x = torch.randn(5, 8)
    first, other = (
        net(h).gradient(x) for h in (torch.zeros(5, 3), 100 * torch.randn(5, 3))
    )
    assert torch.equal(first, other)
    assert (first - 0.5 * x - (first - 0.5 * x).mean(0)).abs().max() < 0.1
    torch.testing.assert_close(
        cosines(8) @ cosines(8).T, torch.eye(8), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("loss", ["energy", "likelihood"])
def test_correlation_is_recovered(loss):
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    torch.manual_seed(0)
    net = ConvexMap(1, 2, (4, 4))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for i in range(250):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - i / 250)
        p, z = net(torch.ones(256, 1)), torch.randn(256, 2) @ root.T
        optimizer.zero_grad()
        (
            energy_loss(p, z, draws=16) / 256
            if loss == "energy"
            else -p.log_prob(z).mean()
        ).backward()
        optimizer.step()
    with torch.no_grad():
        rho = float(torch.corrcoef(net(torch.ones(1, 1)).sample(20_000)[0].T)[0, 1])
    assert abs(rho - 0.8) < 0.05
    if loss == "likelihood":
        fresh = (torch.randn(5000, 2) @ root.T)[None]
        likelihood = net(torch.ones(1, 1)).log_prob(fresh).mean().detach()
        assert float(-likelihood) < 2.327 + 0.05


@pytest.mark.parametrize("encoder", ENCODERS)
def test_nothing_after_the_origin_is_read(encoder):
    s = MQF2Settings(
        encoder=encoder,
        horizon=3,
        **{k: v for k, v in SMALL.items() if k != "batch"},
        season=4,
    )
    panel = full()
    recipe = Recipe.learn(panel, s)
    w = Windows(recipe.apply(panel), s.context, s.horizon, cycles=recipe.cycles)
    torch.manual_seed(0)
    net = MQF2Network(s, recipe.sizes()).eval()
    batch = w.read(torch.tensor([0, 3]), torch.tensor([20, 37]))
    for fork in range(s.forks):
        later = slice(s.context - s.forks + fork + 1, None)
        changed = replace(batch, y=batch.y.clone(), observed=batch.observed.clone())
        changed.y[:, later] = 1e4
        before, after = net(batch)[0].own(), net(changed)[0].own()
        for name in before:
            a, b = (v[name].view(2, s.forks, -1) for v in (before, after))
            assert torch.equal(a[:, : fork + 1], b[:, : fork + 1])


def test_forecasts_are_joint_ordered_and_within_the_support():
    smooth = model("lags", season=4, support="nonnegative")
    forecast = smooth.fit(full().cut(36)).predict()
    paths = forecast.distribution
    assert paths.event_shape == (3,)
    assert forecast.sample(5, seed=1).shape == (5, 6, 3)
    assert torch.equal(forecast.sample(5, seed=1), forecast.sample(5, seed=1))
    assert not torch.equal(forecast.sample(5, seed=1), forecast.sample(5, seed=2))
    assert (forecast.quantile(torch.linspace(0.001, 0.999, 99)).diff(dim=-1) >= 0).all()
    assert forecast.sample(500).min() >= 0
    assert forecast.quantile([0.001]).min() >= 0
    levels, whole = paths.rank(torch.ones(6, 3))
    assert levels.shape == (6, 3)
    assert whole.shape == (6,)
    assert torch.isfinite(paths.log_prob(torch.ones(6, 3))).all()
    with pytest.raises(ValueError, match="expected paths shaped"):
        paths.rank(torch.ones(6, 2))
    torch.testing.assert_close(
        forecast.sample(4000).mean(0), forecast.mean(), atol=0.5, rtol=0.1
    )
    assert torch.equal(
        forecast.select(["s2"]).quantile([0.3]), forecast.quantile([0.3])[2:3]
    )
    assert torch.equal(paths[:, 1].quantile([0.3]), paths.quantile([0.3])[:, 1])


def test_counts_are_whole_numbers_and_members_are_mixed():
    forecast = model(support="count", members=2).fit(plain()).predict()
    assert isinstance(forecast.distribution, Counts)
    assert forecast.distribution.event_shape == (3,)
    assert (forecast.sample(50) % 1 == 0).all()
    assert len(forecast.distribution.base.maps) == 2
    one = MapPaths(
        forecast.distribution.base.maps[:1] * 2,
        forecast.distribution.base.loc,
        forecast.distribution.base.scale,
    )
    two = MapPaths(one.maps[:1], one.loc, one.scale)
    torch.testing.assert_close(
        one.log_prob(torch.ones(6, 3)), two.log_prob(torch.ones(6, 3))
    )


def test_one_series_of_paths_and_every_member_in_their_draws():
    smooth = model(members=4, paths=6, support="nonnegative")
    d = smooth.fit(full().cut(36)).predict().distribution
    for which in (2, np.int64(2), torch.tensor(2)):
        assert d[which].event_shape == (3,)
        assert torch.equal(d[which].draws, d.draws[:, 2])
    shares = even_noise(6, 3)[:, None].expand(-1, 6, -1).split([2, 2, 1, 1])
    each = [mapped(p, x, d.loc, d.scale, 0.0) for p, x in zip(d.maps, shares)]
    assert torch.equal(d.draws, torch.cat(each))
    assert MapPaths(d.maps, d.loc, d.scale, draws=2).draws.shape == (2, 6, 3)


@pytest.mark.parametrize("support", ["nonnegative", "count"])
def test_a_shorter_forecast_is_the_beginning_of_the_longer_one(support):
    fitted = model(support=support, members=2).fit(plain())
    long, short = fitted.predict(), fitted.predict(2)
    assert short.distribution.event_shape == (2,)
    assert torch.equal(short.quantile([0.2, 0.9]), long.quantile([0.2, 0.9])[:, :2])
    assert torch.equal(short.sample(9), long.sample(9)[..., :2])
    assert torch.equal(short.select(["s2"]).mean(), short.mean()[2:3])
    if support == "nonnegative":
        with pytest.raises(ValueError, match="paths of 3 steps, this forecast has the"):
            short.distribution.log_prob(torch.ones(6, 2))


def test_short_contexts_need_no_forks():
    short = MQF2Forecaster(3, context=8, steps=2, training=QUIET).fit(plain())
    assert short.settings.forks == 4 and torch.isfinite(short.predict().mean()).all()
    with pytest.raises(ValueError, match="season must not exceed 5 rows"):
        MQF2Forecaster(3, context=8, season=6, steps=2, training=QUIET).fit(plain())


def test_even_noise_is_normal():
    x = even_noise(1024, 30)
    assert x.shape == (1024, 30)
    assert (x.mean(0).abs() < 0.01).all()
    assert ((x.std(0) - 1).abs() < 0.02).all()
    assert torch.isfinite(x).all()


def test_likelihood_leaves_out_windows_with_gaps():
    y = frame().y.to_numpy(copy=True)
    y[[5, 77, 130]] = np.nan
    fitted = model(loss="likelihood", steps=3).fit(plain(y=y))
    assert np.isfinite(fitted.fitted[0].losses).all()
    energy = model(steps=3).fit(plain(y=y))
    assert np.isfinite(energy.fitted[0].losses).all()
    assert torch.isfinite(energy.predict().quantile([0.5])).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_saved_model_forecasts_the_same_bits(encoder, tmp_path):
    first = model(encoder, members=2, season=4).fit(full().cut(36))
    first.save(tmp_path / "m.safetensors")
    again = MQF2Forecaster.load(tmp_path / "m.safetensors")
    for panel in (full().cut(36), full().cut(30)):
        assert torch.equal(
            first.predict(panel=panel).sample(9), again.predict(panel=panel).sample(9)
        )
    assert again.settings == first.settings


def test_longer_horizons_are_refused_and_so_are_impossible_settings():
    fitted = model().fit(plain())
    with pytest.raises(ValueError, match="forecasts 1 to 3 steps, asked for 4"):
        fitted.predict(4)
    for wrong, words in (
        (dict(units=(3,)), "units must be two"),
        (dict(loss="crps"), "unknown loss: crps"),
        (dict(draws=1), "draws must be a whole number, at least 2"),
        (dict(marginal=1.0), r"marginal must lie in \[0, 1\)"),
        (dict(season=12), "season must not exceed 11"),
        (dict(start=-1.0), r"start must lie in \(0, 100\]"),
        (dict(start="a"), "start must lie in"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            model(**wrong)
    with pytest.raises(ValueError, match="declared count, but 6 series"):
        model(support="count").fit(plain(y=frame().price))


DYING = """
import os
import sys

sys.path.insert(0, sys.argv[2])
import test_mqf2 as toys
from forecastlab.core.neural import WindowTask

draw, count = WindowTask.draw, []


def dying(task, generator):
    count.append(1)
    if len(count) == 10:
        os._exit(9)
    return draw(task, generator)


WindowTask.draw = dying
often = dict(checkpoint_every=4)
toys.model(steps=12, checkpoint=sys.argv[1], training=often).fit(toys.plain())
"""


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    here = str(Path(__file__).parent)
    words = [sys.executable, "-c", DYING, str(tmp_path), here]
    assert subprocess.run(words, capture_output=True).returncode == 9
    often = dict(steps=12, training=dict(checkpoint_every=4))
    resumed = model(checkpoint=tmp_path, **often).fit(plain())
    whole = model(**often).fit(plain())
    assert np.array_equal(resumed.fitted[0].losses, whole.fitted[0].losses)
    assert torch.equal(resumed.predict().sample(5), whole.predict().sample(5))


def test_the_loss_of_a_batch_is_the_sum_over_its_rows():
    s = MQF2Settings(
        horizon=3, loss="likelihood", **{k: v for k, v in SMALL.items() if k != "batch"}
    )
    panel = plain()
    recipe = Recipe.learn(panel, s)
    w = Windows(recipe.apply(panel), s.context, s.horizon, cycles=recipe.cycles)
    torch.manual_seed(0)
    net = MQF2Network(s, recipe.sizes())
    batch = w.read(torch.tensor([0, 2, 5]), torch.tensor([20, 30, 37]))
    whole = mqf2_loss(net, batch, s)
    parts = [mqf2_loss(net, batch.part(slice(i, i + 1)), s) for i in range(3)]
    for k in (0, 1):
        torch.testing.assert_close(whole[k], sum(p[k] for p in parts))


# --- units


@pytest.mark.parametrize("unit", [1e-4, 2.0**-13, 1e4])
@pytest.mark.parametrize("low, centre", [(0, False), (1, False), (1, True)])
def test_the_unit_of_the_target_does_not_matter(low, centre, unit):
    fit = lambda panel: model(centre=centre, steps=20).fit(panel)
    check_units(fit, unit, low, centre)
