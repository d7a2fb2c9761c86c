"""The recurrent forecaster.

No step reads what comes later, paths are joint and repeatable, hard series are forecast
or refused by name, a killed training goes on.
"""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from forecastlab.core.backtest import as_known, backtest, plant
from forecastlab.core.basics import LabError
from forecastlab.core.distributions import Counts, Paths
from forecastlab.core.features import Recipe
from forecastlab.core.metrics import mean_wql
from forecastlab.core.neural import WindowTask
from forecastlab.core.panel import Panel
from forecastlab.core.streams import Streams
from forecastlab.core.windows import Windows
from forecastlab.quantile.recurrent import LAWS, Law, RecurrentForecaster
from forecastlab.quantile.recurrent import RecurrentNetwork, RNNSettings
from forecastlab.quantile.recurrent import gamma, lags_of, rnn_loss, sample_paths
from toys import DEGENERATE, QUIET, ROLES, check_gradients, check_units, frame, full
from toys import plain, planted, shortened, sold_out

torch.set_num_threads(1)
MODELS = {  # the name of the model with each head
    "sqf": "RecurrentSQF",
    "iqf": "RecurrentIQF",
    "isqf": "RecurrentISQF",
    "normal": "RecurrentNormal",
    "student": "RecurrentStudent",
}
HEADS = list(MODELS)
LEVELS = [0.1, 0.5, 0.9]
SMALL = dict(context=10, hidden=8, batch=8, draws=30, lags=(1, 2, 7), training=QUIET)


def model(head="sqf", horizon=3, steps=4, **more):
    return RecurrentForecaster(horizon, head=head, steps=steps, **SMALL | more)


def paths(forecast):  # (draw, series, step)
    d = forecast.distribution
    return (d.base if isinstance(d, Counts) else d).draws.numpy()


def network(head="sqf", **settings):
    """An untrained network, its settings, and a batch with long, short and unobserved
    history.
    """
    s = RNNSettings(
        **dict(head=head, context=10, horizon=3, hidden=8, lags=(1, 2, 7), least=2)
        | settings
    )
    panel = full()
    panel.y[panel.indptr[1] + 20 : panel.indptr[1] + 25] = np.nan
    recipe = Recipe.learn(panel, s)
    w = Windows(recipe.apply(panel), s.rows, s.horizon, cycles=recipe.cycles)
    torch.manual_seed(0)
    net = RecurrentNetwork(s, recipe.sizes()).eval()
    return s, net, w.read(torch.tensor([0, 1, 5, 3]), torch.tensor([20, 30, 5, 1]))


@pytest.fixture(scope="module")
def trained():
    "Head -> a model trained for a moment on the panel as known at step 36."
    return {h: model(h, identity=True).fit(full().cut(36)) for h in HEADS}


# --- causality and the loss


@pytest.mark.parametrize("centre", [False, True])
def test_no_step_reads_its_own_row_or_a_later_one(centre):
    s, net, b = network(centre=centre)
    x, loc, scale = net.inputs(b)
    first = s.rows - s.context
    params = net.head(net.rnn(x)[0])["values"]
    for step in range(s.context + s.horizon):
        y, o = b.y.clone(), b.observed.clone()
        o[:, first + step :] = 1 - o[:, first + step :]
        y[:, first + step :] += 1e3
        x2, loc2, scale2 = net.inputs(
            dataclasses.replace(b, y=y, observed=o, past=b.past - 7)
        )
        for old, new in (
            (x, x2),
            (loc, loc2),
            (scale, scale2),
            (params, net.head(net.rnn(x2)[0])["values"]),
        ):
            assert torch.equal(old[:, : step + 1], new[:, : step + 1])
        assert step == s.context + s.horizon - 1 or not torch.equal(
            x[:, step + 1], x2[:, step + 1]
        )


@pytest.mark.parametrize("head", HEADS)
def test_a_planted_future_changes_nothing(trained, head):
    m, panel = trained[head], full()
    seen, _ = as_known(panel, 36, 3)
    planted, _ = as_known(plant(panel, 36), 36, 3)
    assert np.array_equal(paths(m.predict(3, seen)), paths(m.predict(3, planted)))
    assert np.array_equal(
        paths(model(head).fit(planted).predict(3, seen)),
        paths(model(head).fit(seen).predict(3, seen)),
    )


@pytest.mark.parametrize("role", ["known", "static"])
def test_every_covariate_is_read(role):
    s, net, b = network()
    before = net(b)[0]
    for n in (role, f"{role}_codes"):
        x = getattr(b, n)
        changed = (x == 0).to(x.dtype) if n.endswith("codes") else x + 1
        assert not torch.equal(
            before, net(dataclasses.replace(b, **{n: changed}))[0]
        ), n


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_counts_observed_steps_only_and_reaches_every_parameter(head):
    s, net, b = network(head, weight=0.5)
    score, w = (x.detach() for x in net(b))
    total, mass = rnn_loss(net, b, 4.0, 0.5)
    first = s.rows - s.context
    want = weights = 0.0
    for i in range(len(b)):
        for t in range(s.context + s.horizon):
            row = first + t
            if (
                b.observed[i, row]
                and b.observed[i, : min(row, s.rows)].sum() >= s.least
            ):
                scale = float(net.inputs(b)[2][i, t])
                want += float(score[i, t]) * (scale / 4) ** 0.5
                weights += (scale / 4) ** 0.5
    assert 0 < weights
    assert total.item() == pytest.approx(want, rel=1e-5, abs=1e-5)
    assert mass.item() == pytest.approx(weights, rel=1e-5)
    (total / mass).backward()
    check_gradients(net)


def test_the_likelihoods_are_torchs():
    g = torch.Generator().manual_seed(0)
    u, z = torch.randn(50, 4, generator=g), torch.randn(50, generator=g)
    for kind in LAWS:
        head = Law(4, kind)
        p = head(u)
        law = torch.distributions.Normal(p["loc"], p["scale"])
        if kind == "student":
            assert (p["df"] > 2).all()
            law = torch.distributions.StudentT(p["df"], p["loc"], p["scale"])
        assert torch.allclose(head.loss(p, z), -law.log_prob(z))


@pytest.mark.parametrize("df", [None, 2.1, 30.0])
def test_draws_of_a_law_follow_it(df):
    p = dict(loc=torch.zeros(20_000), scale=torch.ones(20_000))
    exact = torch.distributions.Normal(0.0, 1.0)
    if df:
        p["df"] = torch.full((20_000,), df)
        exact = torch.distributions.StudentT(df)
    z = Law.draw(p, Streams.of(["a"], 0, 20_000), 0)
    torch.manual_seed(0)
    want = exact.sample((200_000,))
    for level in (0.05, 0.3, 0.5, 0.7, 0.95):
        assert abs(z.quantile(level) - want.quantile(level)) < 0.08


def test_gamma_variables_have_their_moments():
    for shape in (1.0, 3.0, 50.0):
        x = gamma(torch.full((100_000,), shape), Streams.of(["a"], 0, 100_000), 2)
        assert abs(x.mean() / shape - 1) < 0.02 and abs(x.var() / shape - 1) < 0.05


# --- paths


@pytest.mark.parametrize("head", HEADS)
def test_forecasts_are_joint_paths(trained, head):
    m, seen = trained[head], full().cut(36)
    f = m.predict(3, seen)
    d = paths(f)
    assert d.shape == (30, 6, 3)
    assert np.isfinite(d).all()
    assert (d >= 0).all()
    # the toy's history holds whole numbers
    assert isinstance(f.distribution.base, Paths)
    assert f.distribution.event_shape == (3,)
    assert f.model == MODELS[head]
    q = f.quantile([0.01, 0.1, 0.5, 0.9, 0.99]).numpy()
    assert q.shape == (6, 3, 5) and (np.diff(q) >= 0).all()
    assert m.predict(1, seen).horizon == 1
    # a shorter forecast is the beginning of the longer one
    assert np.array_equal(paths(m.predict(2, seen)), d[..., :2])


@pytest.mark.parametrize("head", ["sqf", "student"])
def test_the_seed_decides(trained, head):
    m, seen = trained[head], full().cut(36)
    a, b, c = (paths(m.predict(3, seen, seed=s)) for s in (5, 5, 6))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    one, two, other = (
        paths(
            model(head, training=QUIET | dict(seed=s), dropout=0.2).fit(seen).predict()
        )
        for s in (1, 1, 2)
    )
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_draws_are_stratified():
    streams = Streams.of("abcd", 0, 100)
    u = streams.stratified(3)
    assert u.shape == (4, 100) and (u > 0).all() and (u < 1).all()
    assert ((u * 100).floor().sort(1).values == torch.arange(100)).all()
    assert torch.equal(u, streams.stratified(3))
    assert not torch.equal(u, streams.stratified(4))
    assert not torch.equal(u[0], u[1])


def test_numbers_depend_on_seed_series_draw_step_and_use_only():
    u = Streams.of("abcd", 5, 40).uniforms(3, 2)
    assert torch.equal(Streams.of("ca", 5, 40).uniforms(3, 2), u[[2, 0]])
    assert torch.equal(Streams.of("abcd", 5, 7).uniforms(3, 2), u[:, :7])
    later = Streams.of("abcd", 5, 10)
    later.first = 30
    assert torch.equal(later.uniforms(3, 2), u[:, 30:])
    others = (
        Streams.of("abcd", 6, 40).uniforms(3, 2),
        Streams.of("abcd", 5, 40).uniforms(4, 2),
        Streams.of("abcd", 5, 40).uniforms(3, 1),
    )
    assert all((u != other).all() for other in others)
    assert len(u.unique()) == u.numel()


@pytest.mark.parametrize("head", HEADS)
def test_a_series_draws_the_same_bits_alone_and_among_others(trained, head):
    m, seen = trained[head], full().cut(36)
    among = paths(m.predict(3, seen, seed=4))
    for which in ([0], [5], [4, 1, 0], [5, 4, 3, 2, 1, 0]):
        asked = m.predict(3, seen.select(np.array(which)), seed=4)
        assert np.array_equal(paths(asked), among[:, which])


def test_past_covariates_are_ignored_and_not_demanded(trained):
    m, seen = trained["sqf"], full().cut(36)
    with pytest.warns(UserWarning, match="up to the origin: warm, sky will be ignored"):
        fitted = model().fit(seen)
    assert fitted.ignored == ROLES["past"] and m.recipe.roles["past"] == []
    bare = {k: v for k, v in ROLES.items() if k != "past"}
    without = Panel.from_frame(
        frame().drop(columns=ROLES["past"]), freq="W-SUN", **bare
    ).cut(36)
    assert np.array_equal(paths(fitted.predict(3, without)), paths(fitted.predict()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model().fit(without).ignored == []


@pytest.mark.parametrize("size", [1e-3, 1e4])
def test_without_the_size_among_inputs_units_do_not_matter(size):
    s, net, b = network(size=False, floor=1e-9)
    streams = Streams.of("abcd", 0, 20)
    small = sample_paths(net, b, 3, streams)
    large = sample_paths(net, dataclasses.replace(b, y=b.y * size), 3, streams)
    assert torch.allclose(large, small * size, rtol=1e-3)


def test_counts_are_whole_and_supports_are_kept():
    m = model(support="count").fit(full().cut(36))
    f = m.predict()
    d = paths(f)
    assert isinstance(f.distribution, Counts)
    assert (d == np.round(d)).all()
    assert (d >= 0).all()
    assert (f.quantile([0.1, 0.55]).numpy() % 1 == 0).all()
    with pytest.raises(
        ValueError,
        match="declared count, but 1 series have targets that are not whole numbers: a",
    ):
        model(support="count").fit(plain(np.arange(40) + 0.5))
    below = np.random.default_rng(0).normal(-5, 2, 60)
    m = model(steps=60, training=QUIET | dict(lr=1e-2)).fit(plain(below))
    d = paths(m.predict())
    assert m.settings.link == "identity"
    assert m.settings.support == "real"
    assert d.mean() < 0
    assert d.min() < -5
    with pytest.raises(
        ValueError, match="link='log' keeps quantiles positive, but the support is real"
    ):
        model(link="log").fit(plain(below))


def test_paths_keep_the_memory_of_the_process():
    rng = np.random.default_rng(0)
    y = np.zeros((30, 150))
    for t in range(1, 150):
        y[:, t] = 0.9 * y[:, t - 1] + rng.normal(size=30)
    p = Panel.from_frame(
        pd.DataFrame(
            {
                "unique_id": np.repeat([f"s{i}" for i in range(30)], 150),
                "ds": np.tile(np.arange(150), 30),
                "y": y.reshape(-1),
            }
        ),
        freq=1,
    )
    m = RecurrentForecaster(
        8,
        context=16,
        hidden=16,
        steps=200,
        batch=32,
        centre=True,
        squash=False,
        draws=100,
        training=QUIET | dict(lr=1e-2),
    ).fit(p)
    d = paths(m.predict())
    d = d - d.mean(0)
    near = (d[..., 1:] * d[..., :-1]).mean() / np.sqrt(
        (d[..., 1:] ** 2).mean() * (d[..., :-1] ** 2).mean()
    )
    # truth .84 and 2.1
    assert 0.65 < near < 0.95
    assert 0.8 < d[..., 0].std() < 1.3
    assert 1.3 < d[..., 7].std() / d[..., 0].std() < 3


# --- repeating, keeping


@pytest.mark.parametrize("head", HEADS)
def test_a_saved_model_draws_the_same_bits(trained, head, tmp_path):
    m, seen = trained[head], full().cut(36)
    m.save(tmp_path / "m.safetensors")
    again = RecurrentForecaster.load(tmp_path / "m.safetensors")
    assert np.array_equal(paths(m.predict(3, seen)), paths(again.predict(3, seen)))
    assert again.name == m.name
    assert again.settings == m.settings
    assert again.recipe == m.recipe
    # and can be trained anew
    if head == "sqf":
        assert again.fit(seen).predict().horizon == 3


def test_members_share_the_draws(tmp_path):
    seen = full().cut(36)
    two = model(members=2, draws=31).fit(seen)
    two.save(tmp_path / "two")
    d = paths(two.predict())
    assert d.shape == (31, 6, 3)
    assert np.array_equal(
        d, paths(RecurrentForecaster.load(tmp_path / "two").predict(3, seen))
    )
    d = paths(model(members=3, draws=2).fit(seen).predict())
    assert d.shape == (2, 6, 3) and not np.array_equal(d[0], d[1])


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:60], lambda d: d[:-30]])
def test_a_damaged_model_file_is_named(trained, tmp_path, damage):
    trained["sqf"].save(tmp_path / "m")
    (tmp_path / "m").write_bytes(damage((tmp_path / "m").read_bytes()))
    with pytest.raises(OSError, match="not a readable model file: .*m. Save it again"):
        RecurrentForecaster.load(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="no such model file"):
        RecurrentForecaster.load(tmp_path / "none")


@pytest.mark.parametrize("head, dies", [("sqf", 7), ("student", 23)])
def test_a_killed_training_goes_on_to_the_same_paths(tmp_path, monkeypatch, head, dies):
    """Dropout, hidden categories and two members.

    Whatever is random must be in the checkpoint.
    """
    seen = full().cut(36)
    often = dict(steps=16, training=QUIET | dict(checkpoint_every=5))
    draw, count = WindowTask.draw, []

    def make(**more):
        return model(head, members=2, dropout=0.2, **often | more)

    def counted(task, generator):
        count.append(1)
        return draw(task, generator)

    def dying(task, generator):
        if len(count) == dies - 1:
            raise KeyboardInterrupt
        return counted(task, generator)

    monkeypatch.setattr(WindowTask, "draw", dying)
    with pytest.raises(KeyboardInterrupt):
        make(checkpoint=tmp_path).fit(seen)
    count.clear()
    monkeypatch.setattr(WindowTask, "draw", counted)
    resumed = make(checkpoint=tmp_path).fit(seen)
    done = (dies - 1) // 16 * 16 + (dies - 1) % 16 // 5 * 5
    assert len(count) == 32 - done
    whole = make().fit(seen)
    assert np.array_equal(paths(resumed.predict()), paths(whole.predict()))
    for a, b in zip(resumed.fitted, whole.fitted):
        assert np.array_equal(a.losses, b.losses)


# --- short, empty and odd series


def test_short_series_train_and_are_forecast():
    seen = shortened()
    m = model().fit(seen)
    d = paths(m.predict())
    assert d.shape == (30, 6, 3) and np.isfinite(d).all()
    assert np.isfinite(paths(m.predict(3, seen.select(["s0"])))).all()
    few = model(context=None, lags=()).fit(plain(np.arange(1.0, 8)))
    assert few.settings.lags == (1, 2, 3) and np.isfinite(paths(few.predict())).all()
    with pytest.raises(
        ValueError,
        match=(
            "no series has enough observed targets: an origin needs 1 before and 1"
            " after it, the most is 1"
        ),
    ):
        model().fit(plain([5.0]))


@pytest.mark.parametrize("centre", [False, True])
def test_what_was_recorded_while_sold_out_is_never_read(centre):
    a, b = (sold_out(recorded) for recorded in (0.0, 1e6))
    fa, fb = (paths(model(centre=centre).fit(p).predict()) for p in (a, b))
    assert np.isfinite(fa).all() and np.array_equal(fa, fb)


@pytest.mark.parametrize("y", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("head", ["sqf", "isqf", "student"])
def test_degenerate_series_stay_finite(head, y):
    for centre in (False, True):
        assert np.isfinite(
            paths(
                model(head, centre=centre, steps=10, horizon=12).fit(plain(y)).predict()
            )
        ).all()


@pytest.mark.parametrize("freq", [1, "MS", "h", "B", "W-WED", "QS", "15min"])
def test_each_frequency_is_forecast(freq):
    p = full(freq=freq)
    m = model(context=None, lags=()).fit(p.cut(36))
    f = m.predict()
    assert np.isfinite(paths(f)).all()
    assert f.dates[0, 0] == (37 if freq == 1 else p.calendar.to_numpy()[37])
    assert m.settings.lags[0] == 1
    assert m.settings.lags[-1] <= 18


def test_lags_follow_the_calendar():
    assert lags_of("15min") == (1, 2, 3, 4, 5, 8, 95, 96, 97, 671, 672, 673)
    assert lags_of("min")[:8] == (1, 2, 3, 59, 60, 61, 120, 1439)
    assert lags_of("B") == (1, 2, 3, 4, 5, 6, 10, *lags_of("B")[-3:])
    assert 259 <= lags_of("B")[-2] <= 262
    assert lags_of("QS") == lags_of("QE") == (1, 2, 3, 4, 5, 8)
    assert lags_of("ME") == lags_of("MS")
    assert lags_of(7) == (1, 2, 3)
    assert lags_of("h", 1) == (1,)


def test_a_backtest_runs_it():
    b = backtest({"rnn": model()}, full(), 3, origins=2, progress=False)
    assert np.isfinite(b.leaderboard.loc["rnn", "wql"])


# --- what is refused


def test_what_does_not_fit_the_training_is_refused(trained):
    m, seen = trained["sqf"], full().cut(36)
    with pytest.raises(
        ValueError,
        match="forecasts 1 to 3 steps, asked for 4. Train one with that horizon",
    ):
        m.predict(4, seen)
    with pytest.raises(
        ValueError, match="trained on frequency 'W-SUN', the panel has 'D'"
    ):
        m.predict(3, full(freq="D").cut(36))
    with pytest.raises(
        ValueError,
        match="known covariates that the model was trained with are missing: promo",
    ):
        m.predict(
            3,
            Panel.from_frame(
                frame(),
                freq="W-SUN",
                **ROLES | dict(known=["price"], past=["promo", *ROLES["past"]]),
            ).cut(36),
        )
    with pytest.raises(
        ValueError,
        match=(
            r"known covariates \(price, promo\) end before the horizon of 3 steps for 6"
            r" series"
        ),
    ):
        m.predict(3, full())
    with pytest.raises(
        RuntimeError, match="RecurrentSQF has not been fitted. Call fit"
    ):
        model().predict(3, seen)
    for bad in (1, True, 2.5):
        with pytest.raises(LabError, match="draws must be a whole number, at least"):
            model(draws=bad)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(horizon=0), "horizon must be a whole number, at least 1, got 0"),
        (dict(context=0), "context must be a whole number, at least 1, got 0"),
        (dict(draws=1), "draws must be a whole number, at least 2, got 1"),
        (dict(head="gru"), "unknown head: gru. Choose sqf, iqf, isqf, normal, student"),
        (dict(link="exp"), "unknown link: exp"),
        (
            dict(lags=(0, 1)),
            r"lags must be increasing whole numbers of at least 1, got \(0, 1\)",
        ),
        (dict(lags=(2, 1)), "lags must be increasing"),
        (dict(lags=7), "lags must be increasing whole numbers of at least 1, got 7"),
        (dict(floor="a"), "floor must be a (finite )?number"),
        (dict(levels=(0.9, 0.1)), "levels must increase"),
        (dict(levels=(0.5, 95)), "For 95 % write 0.95"),
        (dict(dropout=1.0), r"dropout must lie in \[0, 1\), got 1.0"),
        (dict(floor=-1.0), "floor must not be negative"),
        (dict(tails="fat"), "unknown tails: fat. Choose exponential, pareto"),
        (dict(pieces=1), "an SQF needs at least 2 pieces, got 1"),
        (dict(centre=True, link="log"), "a centred target has no sign to keep"),
        (dict(support="integers"), "unknown support: integers"),
        (dict(hiden=3), "unknown settings: hiden. Known: "),
    ],
)
def test_impossible_settings_are_refused_in_words(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        model(**wrong).fit(full().cut(36))


# --- units


@pytest.mark.parametrize("unit", [1e-4, 2.0**-13, 1e4])
@pytest.mark.parametrize(
    "head, low, centre",
    [
        ("sqf", 0, False),
        ("sqf", 1, True),
        ("isqf", 0, False),
        ("isqf", 1, False),
        ("student", 1, True),
    ],
)
def test_the_unit_of_the_target_does_not_matter(head, low, centre, unit):
    fit = lambda panel: model(head, centre=centre, steps=20).fit(panel)
    check_units(fit, unit, low, centre)


def test_pareto_tails_have_shapes_of_their_own():
    thin, fat = (
        model("isqf", tails=t, steps=2).fit(full().cut(36))
        for t in ("exponential", "pareto")
    )
    assert fat.settings.tails == "pareto"
    assert fat.networks[0].head.sizes["shapes"] == 2
    assert thin.networks[0].head.sizes["shapes"] == 0
    assert np.isfinite(paths(fat.predict())).all()


# --- it learns


def test_it_beats_the_mean_where_season_and_promotion_were_planted():
    p = planted()
    seen = p.cut(len(p.calendar) - 16)
    actual = p.actual(seen.last, 14)
    tenths = [0.1, 0.3, 0.5, 0.7, 0.9]
    m = RecurrentForecaster(
        14, hidden=24, steps=200, batch=32, training=QUIET | dict(lr=1e-2)
    ).fit(seen)
    q = m.predict().quantile(tenths).numpy()
    history = np.stack([seen.history(i) for i in range(len(seen))])
    flat = np.broadcast_to(np.quantile(history, tenths, axis=1).T[:, None], q.shape)
    assert mean_wql(actual, q, tenths) < 0.7 * mean_wql(actual, flat, tenths)
    assert 0.65 < ((actual >= q[..., 0]) & (actual <= q[..., -1])).mean() < 0.95
