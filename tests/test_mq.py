"""MQ networks: nothing after the origin is read, quantiles keep their order.

Hard series are forecast or refused by name, a killed training goes on.
"""

from dataclasses import replace
import dataclasses
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from forecastlab.core.basics import read_tensors, write_tensors
from forecastlab.core.backtest import as_known, plant
from forecastlab.core.metrics import mean_wql, same_target, volatility
from forecastlab.core.panel import Panel
from forecastlab.core.windows import Windows, forked
from forecastlab.core.encoders import ENCODERS, classical, running_scale
from forecastlab.core.features import Recipe, Sizes
from forecastlab.core.forecaster import load_model
from forecastlab.core.neural import HeldOut, WindowTask, held_back
from forecastlab.demand.mq import BY_ENCODER, MQCNN, MQDense, MQNetwork, MQRNN
from forecastlab.demand.mq import MQSettings, mq_loss
from forecastlab.demand.textbook import SeasonalNaive
from toys import DEGENERATE, QUIET, ROLES, check_gradients, check_units, frame, full
from toys import plain, planted, shortened, sold_out

torch.set_num_threads(1)
ENCODERS = list(ENCODERS)
SMALL = dict(
    context=16,
    forks=6,
    batch=8,
    channels=8,
    dilations=(1, 2),
    mixing=8,
    agnostic=8,
    local=8,
    recent=(4, 8),
    training=QUIET,
)
LEVELS = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]


def model(encoder="cnn", horizon=3, steps=4, **more):
    return BY_ENCODER[encoder](horizon, steps=steps, **SMALL | more)


def q(forecast, levels=LEVELS):
    return forecast.quantile(levels).numpy()


def values_of(out):
    return (out[0]["values"], *out[1:])


def network(encoder, seed=0, **settings):
    "An untrained network and a batch from the panel with every kind of covariate."
    s = MQSettings(
        encoder=encoder,
        horizon=3,
        **{k: v for k, v in SMALL.items() if k not in ("batch", "training")} | settings,
    )
    panel = full()
    recipe = Recipe.learn(panel, s)
    w = Windows(recipe.apply(panel), s.context, s.horizon, cycles=recipe.cycles)
    torch.manual_seed(seed)
    net = MQNetwork(s, recipe.sizes())
    return s, net, w.read(torch.tensor([0, 1, 5, 3]), torch.tensor([20, 37, 5, 1]))


@pytest.fixture(scope="module")
def trained():
    "Encoder -> a model trained for a moment on the panel as known at step 36."
    return {e: model(e, identity=True).fit(full().cut(36)) for e in ENCODERS}


# --- causality


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_origin_sees_nothing_that_comes_later(encoder, centre):
    s, net, b = network(encoder, centre=centre)
    net.eval()
    c = s.context
    before = values_of(net(b))
    for fork in range(s.forks):
        later = slice(c - s.forks + fork + 1, None)
        changed = {
            n: getattr(b, n).clone() for n in ("y", "observed", "past", "past_codes")
        }
        changed["y"][:, later] += 1e3
        changed["observed"][:, later] = 1 - changed["observed"][:, later]
        changed["past"][:, later] -= 7
        changed["past_codes"][:, later] = 1
        after = values_of(net(dataclasses.replace(b, **changed)))
        for x, z in zip(before, after):
            assert torch.equal(x[:, : fork + 1], z[:, : fork + 1])
        assert fork == s.forks - 1 or not torch.equal(
            before[0][:, fork + 1], after[0][:, fork + 1]
        )


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_planted_future_and_other_series_change_nothing(trained, encoder):
    m, panel = trained[encoder], full()
    seen, _ = as_known(panel, 36, 3)
    planted, _ = as_known(plant(panel, 36), 36, 3)
    f = q(m.predict(3, seen))
    assert np.array_equal(f, q(m.predict(3, planted)))
    other = dataclasses.replace(
        seen, y=np.where(np.arange(seen.rows) < seen.indptr[1], seen.y, seen.y * 100)
    )
    assert np.array_equal(f[0], q(m.predict(3, other))[0])
    np.testing.assert_allclose(
        q(m.predict(3, seen.select(["s4", "s1"]))), f[[4, 1]], rtol=1e-5
    )


@pytest.mark.parametrize("encoder", ENCODERS)
def test_training_on_a_planted_panel_gives_the_same_forecast(encoder):
    panel = full()
    seen, planted = (as_known(p, 36, 3)[0] for p in (panel, plant(panel, 36, -1e9)))
    assert np.array_equal(
        q(model(encoder).fit(seen).predict()), q(model(encoder).fit(planted).predict())
    )


@pytest.mark.parametrize("role", ["known", "past", "static"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_covariate_is_read(encoder, role):
    s, net, b = network(encoder)
    net.eval()
    before = net(b)[0]["values"]
    for n in (role, f"{role}_codes"):
        x = getattr(b, n)
        changed = (x == 0).to(x.dtype) if n.endswith("codes") else x + 1
        assert not torch.equal(
            before, net(dataclasses.replace(b, **{n: changed}))[0]["values"]
        ), n


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_gradient_reaches_every_parameter(encoder):
    s, net, b = network(encoder)
    total, mass = mq_loss(net, b, s)
    (total / mass).backward()
    check_gradients(net)


# --- quantiles and loss


@pytest.mark.parametrize("link", ["log", "identity"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_quantiles_never_cross_whatever_comes_in(encoder, link):
    for seed, size in enumerate((0, 1e-6, 1, 1e4, 1e12)):
        s, net, b = network(encoder, seed, link=link, centre=link == "identity")
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1 + 5 * seed * torch.rand(p.shape, generator=g))
            wild = dataclasses.replace(
                b,
                y=b.observed * torch.randn(b.y.shape, generator=g) * size,
                known=torch.randn(b.known.shape, generator=g) * 8,
                past=torch.randn(b.past.shape, generator=g) * 8,
            )
            f = net.eval()(wild)[0]["values"]
        # up to rounding; the grid sorts
        assert torch.isfinite(f).all()
        assert (f.diff(dim=-1) >= -1e-5 * f.abs().amax(-1, keepdim=True)).all()
        if link == "log":
            assert (f >= 0).all()


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_loss_over_forks_equals_plain_python(weight):
    s, net, b = network("cnn", weight=weight, least=5)
    net.eval()
    total, mass = (v.detach() for v in mq_loss(net, b, s, typical=3.0))
    f, loc, scale = (x.detach().double() for x in values_of(net(b)))
    y, o = forked(b.y, 3, s.forks).double(), forked(b.observed, 3, s.forks).double()
    want = weights = 0.0
    for i in range(len(b)):
        for j in range(s.forks):
            # too little history to train on
            if b.observed[i, : s.context - s.forks + 1 + j].sum() < 5:
                continue
            w = float(scale[i, j] / 3) ** weight
            for k in range(3):
                if not o[i, j, k]:
                    continue
                for a, v in zip(s.levels, f[i, j, k]):
                    u = (y[i, j, k] - loc[i, j]) / scale[i, j] - v
                    want += w * float(max(a * u, (a - 1) * u))
                    weights += w
    assert 0 < weights < len(b) * s.forks * 3 * 9 * 10
    assert float(total) == pytest.approx(want, rel=1e-5)
    assert float(mass) == pytest.approx(weights, rel=1e-5)


@pytest.mark.parametrize(
    "levels",
    [
        (0.5,),
        (0.95,),
        (0.1, 0.9),
        (0.2, 0.4, 0.6, 0.8),
        (0.001, 0.5, 0.999),
        tuple((i + 0.5) / 40 for i in range(40)),
    ],
)
def test_any_levels_are_forecast_in_order(levels):
    f = model(levels=levels).fit(full().cut(36)).predict(3, full().cut(36))
    x = q(f)
    s = f.sample(3).numpy()
    assert x.shape == (6, 3, 7)
    assert np.isfinite(x).all()
    assert (np.diff(x) >= 0).all()
    assert (x >= 0).all()
    assert np.isfinite(s).all()
    assert np.isfinite(f.mean().numpy()).all()
    assert list(f.to_frame(quantiles=levels))[3] == f"MQCNN_ql{levels[0]:g}"


# --- repeating, keeping


@pytest.mark.parametrize("encoder", ENCODERS)
def test_same_seed_same_forecast(encoder):
    seen = full().cut(36)
    a, b, c = (
        q(
            model(encoder, training=QUIET | dict(seed=s), dropout=0.1)
            .fit(seen)
            .predict()
        )
        for s in (1, 1, 2)
    )
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_saved_model_forecasts_the_same_bits(trained, encoder, tmp_path):
    m, seen = trained[encoder], full().cut(36)
    m.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert np.array_equal(q(m.predict(3, seen)), q(again.predict(3, seen)))
    assert again.name == m.name
    assert again.settings == m.settings
    assert again.recipe == m.recipe
    # and can be trained anew
    assert again.fit(seen).predict().horizon == 3
    with pytest.raises(ValueError, match="no panel to forecast from. Pass predict"):
        load_model(tmp_path / "m.safetensors").predict(3)


def test_a_loaded_model_trains_anew_as_the_first_would(tmp_path):
    seen = full().cut(36)
    other = full(y=np.random.default_rng(1).normal(0, 1e-3, 240)).cut(36)
    m = model().fit(seen)
    m.save(tmp_path / "m")
    again = MQCNN.load(tmp_path / "m").fit(other)
    fresh = model().fit(other)
    assert again.settings == fresh.settings
    assert again.settings.support == "real"
    assert np.array_equal(q(again.predict()), q(fresh.predict()))


def test_a_file_of_another_version_is_named(trained, tmp_path):
    trained["cnn"].save(tmp_path / "m")
    tensors, note = read_tensors(tmp_path / "m")
    note["state"]["recipe"]["old"] = True
    write_tensors(tmp_path / "old", tensors, note)
    with pytest.raises(
        OSError,
        match=(
            "old was saved by another version of forecastlab. Train and save it again"
            " .*'old'"
        ),
    ):
        MQCNN.load(tmp_path / "old")


def test_numbers_may_come_from_numpy(tmp_path):
    seen = full().cut(36)
    m = model(
        horizon=np.int64(3),
        levels=np.array([0.1, 0.5, 0.9]),
        agnostic=np.int32(8),
        context=np.int64(16),
    ).fit(seen)
    m.save(tmp_path / "m")
    assert np.array_equal(
        q(MQCNN.load(tmp_path / "m").predict(3, seen)),
        q(model(levels=(0.1, 0.5, 0.9)).fit(seen).predict()),
    )


def test_members_are_averaged_and_saved(tmp_path):
    seen, smooth = full().cut(36), dict(support="real")
    two = model(members=2, **smooth).fit(seen)
    two.save(tmp_path / "two")
    each = [model(training=QUIET | dict(seed=s), **smooth) for s in (0, 1000)]
    ones = [q(m.fit(seen).predict(), two.settings.levels) for m in each]
    np.testing.assert_allclose(
        q(two.predict(), two.settings.levels), np.mean(ones, 0), rtol=1e-5
    )
    assert np.array_equal(
        q(two.predict()), q(MQCNN.load(tmp_path / "two").predict(3, seen))
    )
    assert two.cpu > 0


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:60], lambda d: d[:-30]])
def test_a_damaged_model_file_is_named(trained, tmp_path, damage):
    trained["cnn"].save(tmp_path / "m")
    (tmp_path / "m").write_bytes(damage((tmp_path / "m").read_bytes()))
    with pytest.raises(OSError, match="not a readable model file: .*m. Save it again"):
        MQCNN.load(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="no such model file"):
        MQCNN.load(tmp_path / "none")
    with pytest.raises(RuntimeError, match="nothing to save"):
        model().save(tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("encoder, dies", [("cnn", 7), ("rnn", 13), ("lags", 23)])
def test_a_killed_training_goes_on_to_the_same_forecast(
    tmp_path, monkeypatch, encoder, dies
):
    "Dropout, hidden categories, two members: what is random is in the checkpoint."
    seen = full().cut(36)

    def make():
        return model(
            encoder,
            steps=16,
            members=2,
            dropout=0.2,
            checkpoint=tmp_path,
            training=QUIET | dict(checkpoint_every=5),
        )

    draw, count = WindowTask.draw, []

    def dying(task, generator):
        count.append(1)
        if len(count) == dies:
            raise KeyboardInterrupt
        return draw(task, generator)

    with monkeypatch.context() as patch:
        patch.setattr(WindowTask, "draw", dying)
        with pytest.raises(KeyboardInterrupt):
            make().fit(seen)
    count.clear()
    monkeypatch.setattr(
        WindowTask, "draw", lambda task, g: count.append(1) or draw(task, g)
    )
    resumed = make().fit(seen)
    assert len(count) == 32 - (dies - 1) // 16 * 16 - (dies - 1) % 16 // 5 * 5
    whole = model(encoder, steps=16, members=2, dropout=0.2, training=QUIET).fit(seen)
    assert np.array_equal(q(resumed.predict()), q(whole.predict()))
    assert all(
        np.array_equal(a.losses, b.losses) for a, b in zip(resumed.fitted, whole.fitted)
    )


def test_a_checkpoint_is_never_taken_for_other_data_or_settings(tmp_path):
    seen = full().cut(36)
    levels = (0.1, 0.5, 0.9)

    def fit(panel=seen, **k):
        return q(model(levels=k.pop("levels", levels), **k).fit(panel).predict(3, seen))

    fit(checkpoint=tmp_path)
    more = dataclasses.replace(seen, y=seen.y * 2)
    assert np.array_equal(fit(checkpoint=tmp_path), fit())
    for change in (
        dict(levels=(0.2, 0.5, 0.8)),
        dict(weight=1.0),
        dict(batch=9),
        dict(panel=more),
    ):
        assert np.array_equal(fit(checkpoint=tmp_path, **change), fit(**change)), change


def test_a_panel_on_disk_gives_the_same_forecast(tmp_path):
    seen = full().cut(36)
    full().save(tmp_path / "p")
    mapped = Panel.load(tmp_path / "p").cut(36)
    assert isinstance(mapped.y, np.memmap)
    a, b = (model(steps=6).fit(p) for p in (seen, mapped))
    assert np.array_equal(a.fitted[0].losses, b.fitted[0].losses)
    assert np.array_equal(q(a.predict()), q(b.predict()))


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    code = """
import sys

import numpy as np
import pandas as pd

from forecastlab.core.panel import Panel
from forecastlab.demand.mq import MQCNN

if __name__ == "__main__":
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([*"abcdef"], 40),
            "ds": np.tile(np.arange(40), 6),
            "y": np.random.default_rng(0).poisson(5, 240),
        }
    )
    panel = Panel.from_frame(frame, freq=1)
    training = dict(progress=False, accelerator="cpu", devices=int(sys.argv[1]))
    small = dict(context=12, forks=4, steps=12, batch=8, channels=8)
    m = MQCNN(3, training=training, **small).fit(panel)
    q = m.predict().quantile([0.1, 0.5, 0.9]).numpy()
    np.savez(sys.argv[2], losses=m.fitted[0].losses, q=q)
"""
    (tmp_path / "train.py").write_text(code)
    for n in "12":
        done = subprocess.run(
            [sys.executable, tmp_path / "train.py", n, tmp_path / f"{n}.npz"],
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (np.load(tmp_path / f"{n}.npz") for n in "12")
    for n in ("losses", "q"):
        np.testing.assert_allclose(two[n], one[n], rtol=1e-4)


# --- categories and series never seen


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_unseen_category_is_named_and_forecast(trained, encoder):
    m = trained[encoder]
    new = full(kind=np.repeat(["mug", "jar", "tin", "mug", "mug", "tin"], 40)).cut(36)
    with pytest.warns(
        UserWarning,
        match=(
            "categories of 'kind' that training never saw are treated as <unknown>: jar"
        ),
    ):
        f = m.predict(3, new)
    assert np.isfinite(q(f)).all()
    flash = full(promo="flash").cut(36)
    with pytest.warns(
        UserWarning,
        match=(
            "categories of 'promo' that training never saw are treated as <unknown>:"
            " flash"
        ),
    ):
        assert np.isfinite(q(m.predict(3, flash))).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m.predict(3, full().cut(36))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_series_never_seen_is_forecast_without_an_embedding_of_its_own(
    trained, encoder
):
    df = frame()
    df["unique_id"] = df.unique_id.replace("s2", "new")
    p, seen = Panel.from_frame(df, freq="W-SUN", **ROLES).cut(36), full().cut(36)
    f = q(trained[encoder].predict(3, p))
    old = q(trained[encoder].predict(3, seen))
    rest = [0, 1, 3, 4, 5]
    assert np.isfinite(f).all()
    assert np.array_equal(f[rest], old[rest])
    # rounded to counts the two may agree
    smooth = [trained[encoder].predict(3, x).distribution.base for x in (p, seen)]
    assert not torch.equal(*(d.quantile([0.3, 0.9])[2] for d in smooth))


# --- short, empty and odd series


@pytest.mark.parametrize("encoder", ENCODERS)
def test_short_series_train_and_are_forecast(encoder):
    seen = shortened()
    f = q(model(encoder).fit(seen).predict())
    assert f.shape == (6, 3, 7) and np.isfinite(f).all()
    alone = seen.select(["s0"])
    assert np.isfinite(q(model(encoder).fit(seen).predict(3, alone))).all()
    short = Panel.from_frame(frame(rows=2), freq="W-SUN").cut(1)
    assert np.isfinite(
        q(
            model(encoder, context=None, forks=1, recent=())
            .fit(Panel.from_frame(frame(rows=9), freq="W-SUN"))
            .predict(3, short)
        )
    ).all()


def test_a_panel_too_short_to_train_on_is_refused():
    with pytest.raises(
        ValueError,
        match=(
            "no series has enough observed targets: an origin needs 1 before and 1"
            " after it, the most is 1. Pass longer series"
        ),
    ):
        model().fit(plain([5.0]))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("centre", [False, True])
def test_stock_outs_are_not_zero_demand(encoder, centre):
    a, b = (sold_out(recorded) for recorded in (0.0, 1e6))
    fa, fb = (q(model(encoder, centre=centre).fit(p).predict()) for p in (a, b))
    # what was recorded while sold out is never read
    assert np.isfinite(fa).all() and np.array_equal(fa, fb)


def test_no_observed_target_is_refused():
    with pytest.raises(
        ValueError,
        match=(
            "no series has enough observed targets: .*, the most is 0. Pass longer"
            " series, or check the availability column"
        ),
    ):
        model().fit(Panel.from_frame(frame(stock=0), freq="W-SUN", available="stock"))


@pytest.mark.parametrize("y", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_degenerate_series_stay_finite(encoder, y):
    for centre in (False, True):
        assert np.isfinite(
            q(model(encoder, centre=centre, steps=20).fit(plain(y)).predict())
        ).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_negative_targets_use_the_whole_line(encoder):
    y = np.random.default_rng(0).normal(-5, 2, 60)
    m = model(encoder, steps=60).fit(plain(y))
    f = q(m.predict())
    assert m.settings.link == "identity" and f[..., 3].max() < 0 and f.min() < -5


@pytest.mark.parametrize("freq", [1, "MS", "ME", "h", "B", "W-WED", "QS", "15min"])
def test_each_frequency_is_forecast(freq):
    p = full(freq=freq)
    m = model(context=None).fit(p.cut(36))
    f = m.predict()
    assert np.isfinite(q(f)).all()
    assert f.dates[0, 0] == (37 if freq == 1 else p.calendar.to_numpy()[37])
    assert m.settings.context >= 12


# --- what is refused


def test_known_covariates_that_end_before_the_horizon_are_named(trained):
    future = (
        frame()
        .groupby("unique_id")
        .tail(3)
        .assign(ds=lambda d: d.ds + pd.Timedelta(weeks=3))
    )
    seen = Panel.from_frame(
        frame(), freq="W-SUN", future=future[future.unique_id != "s4"], **ROLES
    )
    m = trained["cnn"]
    with pytest.raises(
        ValueError,
        match=(
            r"known covariates \(price, promo\) end before the horizon of 3 steps for 1"
            r" series: s4. Pass the future rows"
        ),
    ):
        m.predict(3, seen)
    assert np.isfinite(q(m.predict(3, seen.select([0, 1, 2, 3])))).all()
    short = Panel.from_frame(
        frame(), freq="W-SUN", future=future.groupby("unique_id").head(2), **ROLES
    )
    # the global decoder reads the whole trained horizon
    with pytest.raises(ValueError, match="for 6 series"):
        m.predict(2, short)
    with pytest.raises(ValueError, match="for 6 series: s0, s1, s2, s3, s4 and 1 more"):
        m.predict(3, short)


def test_what_does_not_fit_the_training_is_refused(trained):
    m, seen = trained["cnn"], full().cut(36)
    with pytest.raises(
        ValueError,
        match="forecasts 1 to 3 steps, asked for 4. Train one with that horizon",
    ):
        m.predict(4, seen)
    with pytest.raises(ValueError, match="forecasts 1 to 3 steps, asked for 0"):
        m.predict(0, seen)
    with pytest.raises(
        ValueError, match="trained on frequency 'W-SUN', the panel has 'D'"
    ):
        m.predict(3, full(freq="D").cut(36))
    roles = ROLES | dict(known=["price"], past=["promo", "warm", "sky"])
    with pytest.raises(
        ValueError,
        match=(
            "known covariates that the model was trained with are missing: promo."
            " Declare them"
        ),
    ):
        m.predict(3, Panel.from_frame(frame(), freq="W-SUN", **roles).cut(36))
    with pytest.raises(ValueError, match="past covariates .* are missing: warm, sky"):
        m.predict(
            3, Panel.from_frame(frame(), freq="W-SUN", **ROLES | dict(past=[])).cut(36)
        )
    with pytest.raises(
        ValueError, match="static covariates .* are missing: size, kind"
    ):
        m.predict(
            3,
            Panel.from_frame(frame(), freq="W-SUN", **ROLES | dict(static=[])).cut(36),
        )
    with pytest.raises(
        ValueError, match="columns were text in training and are numbers now: promo"
    ):
        m.predict(3, full(promo=1.0).cut(36))
    with pytest.raises(RuntimeError, match="MQRNN has not been fitted. Call fit"):
        MQRNN(3).predict(3, seen)
    with pytest.raises(ValueError, match="unknown encoder: rnn. Choose cnn"):
        MQCNN(3, encoder="rnn")
    with pytest.raises(ValueError, match="the panel holds no series"):
        model().fit(seen.select(np.zeros(6, bool)))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(horizon=0), "horizon must be a whole number, at least 1, got 0"),
        (dict(horizon=2.5), "horizon must be a whole number"),
        (dict(context=0), "context must be a whole number, at least 1, got 0"),
        (dict(forks=0), "forks must be a whole number"),
        (dict(forks=17), "forks must not exceed the context of 16 rows, got 17"),
        (dict(least=17), "least must not exceed the context of 16 rows, got 17"),
        (dict(least=0), "least must be a whole"),
        (dict(batch=0), "batch must be a whole number, at least 1, got 0"),
        (dict(members=0), "members must be a whole number, at least 1, got 0"),
        (dict(steps=0), "steps must be a whole number, at least 1, got 0"),
        (dict(head="spline"), "unknown head: spline. Choose grid, sqf, iqf, isqf"),
        (dict(link="exp"), "unknown link: exp. Choose auto, log, identity"),
        (dict(levels=()), "no levels given"),
        (dict(levels=(0.9, 0.1)), "levels must increase"),
        (dict(levels=(0.5, 95)), "For 95 % write 0.95"),
        (dict(dropout=1.0), r"dropout must lie in \[0, 1\), got 1.0"),
        (
            dict(recent=(8, 0)),
            (
                r"recent must be whole numbers of at least 1, such as \(4, 8\), got"
                r" \(8, 0\)"
            ),
        ),
        (dict(layers=0), "layers must be"),
        (dict(floor=-1.0), "floor must not be negative, got -1.0"),
        (dict(centre=True, link="log"), "a centred target has no sign to keep"),
        (
            dict(chanels=3, depth=2),
            (
                "unknown settings: chanels, depth. Known: agnostic, batch|unknown"
                " settings: chanels, depth. Known: agnostic, average_origins, centre"
            ),
        ),
    ],
)
def test_impossible_settings_are_refused_in_words(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        model(**wrong).fit(full().cut(36))


def test_the_context_holds_a_season_the_horizon_and_the_origins():
    "Unless the history is shorter: then what it has, and the season is no start."
    half_hours = plain(np.arange(400.0) % 48 + 1, "h")

    def fitted(panel=half_hours, **settings):
        "The settings after a fit to a season of 48."
        model = MQCNN(steps=2, training=QUIET, **dict(season=48) | settings)
        return model.fit(panel).settings

    s = fitted(horizon=48)
    # a week of hours is longer than the season
    assert (s.context, s.forks) == (168 + 48 + 26, 26)
    s = fitted(horizon=4, season=200)
    assert s.context == 200 + 4 + 26
    s = fitted(plain(np.arange(70.0) % 48 + 1, "h"), horizon=4)
    assert s.context == 66 and s.start != "season"


def test_only_a_season_that_is_asked_for_must_fit_the_context():
    half_hours = plain(np.arange(400.0) % 48 + 1, "h")

    def fitted(**settings):
        "A model fitted to a season of 48."
        return MQCNN(4, steps=2, training=QUIET, season=48, **settings).fit(half_hours)

    begun = fitted(context=60, forks=4, start="season").settings
    assert (begun.start, begun.season, begun.cycle) == ("season", 48, 48)
    # 26 of them are forks
    assert fitted(context=60).settings.cycle < 48
    for start in ("season", "classical"):
        with pytest.raises(
            ValueError,
            match=r"season must be at most 35 rows \(context less forks\), got 48",
        ):
            fitted(context=60, start=start)
        # hopeless whatever the panel
        with pytest.raises(ValueError, match="season must be at most 20 rows"):
            MQCNN(4, context=20, season=48, start=start)


# --- units


@pytest.mark.parametrize("unit", [1e-4, 2.0**-13, 1e4])
@pytest.mark.parametrize(
    "head, low, centre, weight",
    [
        ("grid", 0, False, 0.0),
        ("grid", 1, True, 0.5),
        ("isqf", 0, False, 0.5),
        ("isqf", 1, True, 0.0),
        ("isqf", 1, False, 0.0),
    ],
)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_unit_of_the_target_does_not_matter(
    encoder, head, low, centre, weight, unit
):
    recipe = dict(head=head, centre=centre, weight=weight, steps=20)
    fit = lambda panel: model(encoder, **recipe).fit(panel)
    # a grid begins at quantiles that are values of the panel: there the loss has a
    # corner, and rounding decides on its side
    corner = 5e-3 if head == "grid" else 2e-5
    check_units(fit, unit, low, centre, LEVELS, corner)


def test_the_smallest_scale_is_learned_unless_given():
    seen = full().cut(36)
    settings = lambda panel=seen, **k: model(**k).fit(panel).settings
    s = settings(start="none")
    assert s.floor == 0.5
    assert s.unit == pytest.approx(seen.y[np.isfinite(seen.y)].mean(), rel=0.02)
    assert settings(start="none", floor=3.0).floor == 3
    # around a mean a series may vary little: a thousandth of what is usual
    spreads = [seen.history(k).std() for k in range(len(seen))]
    assert settings(centre=True).floor == pytest.approx(1e-3 * np.mean(spreads))
    assert settings(start="mean").floor == settings(centre=True).floor
    assert settings(centre=True, floor=0.2).floor == 0.2
    assert settings(plain(np.zeros(40)), start="none").floor == 1e-3


def test_the_link_suits_the_target():
    seen = full().cut(36)
    below = plain(np.random.default_rng(0).normal(0, 2, 60))

    def settled(panel=seen, **k):
        "Link and start after a fit."
        s = model(**k).fit(panel).settings
        return s.link, s.start

    for options in ({}, dict(centre=True), dict(support="real"), dict(season=4)):
        assert settled(**options)[0] == "identity"
    assert settled(below)[0] == "identity"
    assert settled(link="log") == ("log", "none")
    with pytest.raises(ValueError, match="link='log' begins at nothing, but start is"):
        model(link="log", start="last")
    with pytest.raises(
        ValueError,
        match=(
            "link='log' keeps quantiles positive, but the support is real. Pass"
            " link='identity'"
        ),
    ):
        model(link="log").fit(below)


# --- a classical start

CLASSIC = dict(
    encoder="lags", start="classical", season=4, centre=True, squash=False, recent=()
)


def wave(rows=40, hide=()):
    "Two series that repeat every four rows; `hide` is not observed."
    y = np.stack(
        [np.resize([3.0, 1, 4, 1.5], rows), np.resize([90.0, 70, 20, 65], rows)]
    )
    stock = np.ones((2, rows))
    stock[:, list(hide)] = 0
    return (
        Panel.from_frame(
            pd.DataFrame(
                {
                    "unique_id": np.repeat(["a", "b"], rows),
                    "ds": np.tile(np.arange(rows), 2),
                    "y": np.where(stock, y, -99).reshape(-1),
                    "stock": stock.reshape(-1),
                }
            ),
            freq=1,
            available="stock",
        ),
        y,
    )


@pytest.mark.parametrize("hide", [(), (25, 30, 38), (36, 37, 38, 39)])
@pytest.mark.parametrize("head", ["grid", "isqf", "sqf"])
def test_a_classical_start_is_exact_on_a_seasonal_series(head, hide):
    "Before it has learned anything, and whatever was not observed."
    panel, y = wave(hide=hide)
    m = model(
        horizon=6,
        head=head,
        support="nonnegative",
        steps=1,
        training=QUIET | dict(lr=1e-12),
        **CLASSIC,
    ).fit(panel)
    middle = q(m.predict(), [0.5])[..., 0]
    np.testing.assert_allclose(middle, y[:, :6], rtol=2e-3)
    assert (
        float(m.networks[0].local_decoder.head.out.weight.detach().abs().max()) < 1e-9
    )


def test_the_classical_start_is_that_of_the_textbook_and_reads_nothing_later():
    rng = np.random.default_rng(0)
    y = torch.tensor(rng.gamma(3.0, 2.0, (3, 25)), dtype=torch.float32)
    o = torch.ones_like(y)
    found = classical(y, o, 5, 6, 4)
    for fork, t in enumerate(range(21, 26)):
        n = min(6, t // 4)
        years = y[:, t - 4 * n : t].view(3, n, 4)
        want = years[:, -1].mean(1)[:, None] + (
            years - years.mean(-1, keepdim=True)
        ).mean(1)
        if t % 4 < 3:
            torch.testing.assert_close(found[:, fork], want[:, [0, 1, 2, 3, 0, 1]])
        later = y.clone()
        later[:, t:] = 1e6
        torch.testing.assert_close(
            classical(later, o, 5, 6, 4)[:, : fork + 1],
            found[:, : fork + 1],
            rtol=0,
            atol=0,
        )
    hidden = o.clone()
    hidden[:, 12] = 0
    other = y.clone()
    other[:, 12] = -1e6
    torch.testing.assert_close(
        classical(y, hidden, 5, 6, 4), classical(other, hidden, 5, 6, 4), rtol=0, atol=0
    )
    loc, scale = running_scale(y, o, 5, 1e-3, True, 1.0, 4)
    torch.testing.assert_close(scale[:, -1], 2 * (y[:, 4:] - y[:, :-4]).abs().mean(1))
    assert torch.isfinite(classical(y, torch.zeros_like(o), 5, 6, 4)).all()


def test_a_classical_start_learns_and_forecasts_below_zero_too():
    panel, _ = wave()
    below = replace(panel, y=panel.y - 50)
    m = model(steps=40, **CLASSIC).fit(below)
    f = q(m.predict())
    assert np.isfinite(f).all()
    assert (np.diff(f) >= 0).all()
    # no map of its own: the decomposition stands in its place
    assert m.networks[0].start is None
    assert f.min() < 0
    for bad, message in (
        (dict(start="naive"), "unknown start: naive. Choose auto, none, mean, last"),
        (dict(season=12), "season must be at most 11 rows"),
        (dict(centre=False), "start='classical' is a season around a level"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**CLASSIC | bad).fit(below)


# --- it learns


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_learns_eight_series_by_heart(encoder):
    rng = np.random.default_rng(0)
    y = np.tile(rng.integers(1, 30, (8, 5)), 8)
    p = Panel.from_frame(
        pd.DataFrame(
            {
                "unique_id": np.repeat([*"abcdefgh"], 40),
                "ds": np.tile(np.arange(40), 8),
                "y": y.reshape(-1),
            }
        ),
        freq=1,
    )
    m = BY_ENCODER[encoder](
        2,
        context=12,
        forks=2,
        channels=32,
        dilations=(1, 2, 4),
        recent=(),
        levels=(0.1, 0.5, 0.9),
        steps=700 if encoder == "rnn" else 300,
        batch=16,
        start="none",
        identity=True,
        unknown=0.0,
        training=QUIET | dict(lr=1e-2),
    ).fit(p)
    error = np.abs(q(m.predict(), [0.5])[..., 0] - y[:, :2])
    losses = m.fitted[0].losses
    assert losses[-20:].mean() < 0.25 * losses[:5].mean()
    assert error.mean() < 0.15 * y.mean(), error


@pytest.mark.parametrize("encoder", ["cnn", "rnn"])
def test_it_beats_the_seasonal_naive_where_season_and_promotion_were_planted(encoder):
    p = planted()
    seen = p.cut(len(p.calendar) - 16)
    actual = p.actual(seen.last, 14)
    tenths = [0.1, 0.3, 0.5, 0.7, 0.9]
    m = BY_ENCODER[encoder](
        14,
        context=28,
        forks=14,
        channels=16,
        dilations=(1, 2, 4),
        steps=150,
        batch=32,
        training=QUIET | dict(lr=1e-2),
    ).fit(seen)
    mine, naive = (
        mean_wql(actual, q(f, tenths), tenths)
        for f in (m.predict(), SeasonalNaive().fit(seen).predict(14))
    )
    assert mine < 0.75 * naive, (mine, naive)
    covered = (
        (actual >= q(m.predict(), [0.1])[..., 0])
        & (actual <= q(m.predict(), [0.9])[..., 0])
    ).mean()
    assert 0.65 < covered < 0.92


def test_models_are_named_as_in_the_two_papers():
    assert (MQCNN(2).name, MQRNN(2).name, MQDense(2).name) == (
        "MQCNN",
        "MQRNN",
        "MQDense",
    )
    assert Sizes() == Sizes(known=0)
    assert (
        MQNetwork(
            MQSettings(context=8, forks=2, horizon=2), Sizes()
        ).encoder.encoder.field
        == 31
    )


def test_a_category_that_only_the_future_holds_is_unknown_and_named():
    """`cut` keeps the names of later categories; the recipe must not, or the network
    would read an embedding that nothing trained.
    """
    df = frame()
    df.loc[df.groupby("unique_id").cumcount() >= 36, "promo"] = "flash"
    seen = Panel.from_frame(df, freq="W-SUN", **ROLES).cut(35)
    with pytest.warns(UserWarning, match="never saw are treated as <unknown>: flash"):
        m = model("cnn").fit(seen)
    assert "flash" not in m.recipe.categories["promo"]


def test_other_data_of_the_same_size_and_mean_do_not_take_over_a_checkpoint(tmp_path):
    a = full().cut(36)
    b = replace(a, y=a.y.copy())
    for s in range(len(b)):
        b.y[b.indptr[s] : b.indptr[s] + b.length[s]] = b.history(s)[::-1]
    honest = q(model("cnn").fit(b).predict())
    model("cnn", checkpoint=tmp_path).fit(a)
    assert np.array_equal(q(model("cnn", checkpoint=tmp_path).fit(b).predict()), honest)


# --- early stopping


def swapped(panel, rows):
    "The last rows of every series in reverse order: other values, equal statistics."
    other = replace(panel, y=np.array(panel.y))
    for s in range(len(other)):
        end = other.indptr[s] + other.length[s]
        other.y[end - rows : end] = other.y[end - rows : end][::-1]
    return other


@pytest.mark.parametrize("head", ["grid", "isqf"])
def test_rows_held_out_are_scored_and_never_trained_on(head):
    panel = full()
    training = QUIET | dict(validate_every=4)
    one, other = (
        model(head=head, steps=12, training=training).fit(p).fitted[0]
        for p in (panel, swapped(panel, 3))
    )
    assert np.array_equal(one.losses, other.losses)
    steps, scores = zip(*one.scores)
    assert steps == (4, 8, 12) and scores != list(zip(*other.scores))[1]
    assert min(scores) > 0 and not one.stopped


def test_settings_are_settled_by_the_rows_that_are_trained_on():
    "Unit, floor, support and start of a panel whose hidden rows are like no others."
    panel = full()
    other, hidden = replace(panel, y=np.array(panel.y)), model().horizon
    for s in range(len(other)):
        end = other.indptr[s] + other.length[s]
        other.y[end - hidden : end] = 1e3 * (s - other.y[end - hidden : end]) + 0.5
    fit = lambda p: model(steps=3, training=QUIET | dict(validate_every=3)).fit(p)
    one, strange = fit(panel), fit(other)
    assert one.settings == strange.settings and one.settings.support == "count"
    assert one.explain() == strange.explain()
    assert np.array_equal(one.fitted[0].losses, strange.fitted[0].losses)
    # without them everything is read
    assert model(steps=3).fit(other).settings.support == "real"


def test_the_score_is_the_loss_of_the_rows_held_out_alone():
    "Checked against the loss of one origin, whose horizon is what was held out."
    panel = full()
    m = model(forks=1, steps=2, training=QUIET | dict(validate_every=1)).fit(panel)
    kept = held_back(panel, 3, m.settings.least)
    assert (panel.length - kept.length == 3).all()
    task = WindowTask(type(m), kept, m.settings, m.recipe, 8, torch.device("cpu"))
    score = HeldOut(task, panel, kept).score(m.networks[0])
    w = Windows(m.recipe.apply(panel), 16, 3, cycles=m.recipe.cycles)
    batch = w.read(torch.arange(6), torch.as_tensor(kept.length))
    total, mass = m.loss(m.networks[0], batch, m.settings, m.recipe)
    assert score == pytest.approx(float((total / mass).detach()), rel=1e-5)
    # several origins a window: the others are taken off again
    m = model(steps=2, training=QUIET).fit(kept)
    task = WindowTask(type(m), kept, m.settings, m.recipe, 8, torch.device("cpu"))
    score = HeldOut(task, panel, kept).score(m.networks[0].eval())
    assert np.isfinite(score) and score > 0


def test_patience_ends_training_and_keeps_the_best_weights():
    panel, seen = full(), full().cut(36)
    steady = QUIET | dict(lr=0.3, average=0.0, warmup=0.0, schedule="constant")
    patient = steady | dict(validate_every=3, patience=2)
    early = model(steps=300, training=patient).fit(panel)
    fitted = early.fitted[0]
    steps, scores = zip(*fitted.scores)
    best = int(np.argmin(scores))
    assert fitted.stopped and fitted.step == steps[best + 2] < 300
    # the weights are those of the best step, as if training had ended there
    steady |= dict(validate_every=steps[best])
    there = model(steps=steps[best], training=steady).fit(panel)
    assert np.array_equal(q(early.predict(3, seen)), q(there.predict(3, seen)))


def test_a_killed_training_with_validation_goes_on_to_the_same_end(
    tmp_path, monkeypatch
):
    training = QUIET | dict(validate_every=4, checkpoint_every=5, prefetch=True)
    make = lambda place: model(steps=16, dropout=0.2, training=training, **place)
    whole = make({}).fit(full())
    draw, count = WindowTask.draw, []

    def dying(task, generator):
        count.append(1)
        if len(count) == 12:
            raise KeyboardInterrupt
        return draw(task, generator)

    with monkeypatch.context() as patch:
        patch.setattr(WindowTask, "draw", dying)
        with pytest.raises(KeyboardInterrupt):
            make(dict(checkpoint=tmp_path)).fit(full())
    resumed = make(dict(checkpoint=tmp_path)).fit(full())
    seen = full().cut(36)
    assert resumed.fitted[0].scores == whole.fitted[0].scores
    assert np.array_equal(q(resumed.predict(3, seen)), q(whole.predict(3, seen)))


def test_what_cannot_be_held_out_is_refused():
    with pytest.raises(ValueError, match="patience needs validate_every"):
        model(training=dict(patience=3))
    training = QUIET | dict(validate_every=2)
    with pytest.raises(ValueError, match="long enough to hold out 3 rows.*has 4"):
        model(training=training).fit(plain(np.arange(4.0)))


# --- earlier origins averaged in


@pytest.mark.parametrize(
    "encoder, head", [("cnn", "grid"), ("cnn", "isqf"), ("rnn", "grid")]
)
def test_earlier_origins_are_averaged_as_by_hand(encoder, head):
    seen, levels = full().cut(36), [0.1, 0.3, 0.5, 0.9]
    m = model(encoder, head=head, levels=(0.1, 0.3, 0.5, 0.7, 0.9), support="real").fit(
        seen
    )
    alone = q(m.predict(3, seen), levels)
    s, recipe = m.settings, m.recipe
    w = Windows(recipe.apply(seen), s.context, s.horizon, cycles=recipe.cycles)
    with torch.no_grad():
        found, loc, scale = m.networks[0](w.read(*w.latest()))
    each = []
    for back in range(3):
        row = s.forks - 1 - back
        own = {
            n: x[:, row] if x is not None and x.dim() > 2 else x
            for n, x in found.items()
        }
        at, size = loc[:, row, None], scale[:, row, None]
        if head == "grid":
            x = own["values"][..., [0, 1, 2, 4]] * size[..., None] + at[..., None]
        else:
            distribution = m.networks[0].local_decoder.head.distribution
            x = distribution(own, at, size).quantile(levels)
        each.append(x.numpy())
    np.testing.assert_allclose(each[0], alone, rtol=1e-3, atol=1e-3)
    want = np.stack(
        [
            (each[0][:, 0] + each[1][:, 1] + each[2][:, 2]) / 3,
            (each[0][:, 1] + each[1][:, 2]) / 2,
            each[0][:, 2],
        ],
        1,
    )
    m.settings.average_origins = 3
    np.testing.assert_allclose(
        q(m.predict(3, seen), levels), want, rtol=2e-3, atol=2e-3
    )
    # a shorter horizon is the first steps of the longer one
    assert np.array_equal(q(m.predict(2, seen)), q(m.predict(3, seen))[:, :2])


def test_averaged_origins_are_calmer_and_read_nothing_later(tmp_path):
    def said(m):
        return np.stack([q(m.predict(3, full().cut(t)), [0.5]) for t in range(30, 37)])

    seen = full().cut(36)
    m = model(support="real", steps=20).fit(seen)
    one = volatility(same_target(said(m)[..., 0].transpose(1, 0, 2)))
    m.settings.average_origins = 1
    assert np.array_equal(
        q(m.predict()), q(model(support="real", steps=20).fit(seen).predict())
    )
    m.settings.average_origins = 3
    assert volatility(same_target(said(m)[..., 0].transpose(1, 0, 2))) < 0.8 * one
    m.save(tmp_path / "m")
    assert np.array_equal(
        q(MQCNN.load(tmp_path / "m").predict(3, seen)), q(m.predict())
    )
    planted, _ = as_known(plant(full(), 36), 36, 3)
    assert np.array_equal(
        q(m.predict(3, planted)), q(m.predict(3, as_known(full(), 36, 3)[0]))
    )


def test_more_origins_than_a_window_has_are_refused():
    with pytest.raises(ValueError, match="must not exceed the 6 origins of a window"):
        model(average_origins=7).fit(full().cut(36))
    with pytest.raises(ValueError, match="average_origins must be a whole number"):
        model(average_origins=-1)
