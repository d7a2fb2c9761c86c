"The first networks of the line: a feed-forward one on columns, and a recurrent point."

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from forecastlab.core.basics import LabError, read_tensors, write_tensors
from forecastlab.core.forecaster import load_model
from forecastlab.core.panel import Panel
from forecastlab.demand.design import Design, latest_samples
from forecastlab.demand.feed_forward import FeedForward, held_out_rows
from forecastlab.demand.feed_forward import learned_inputs, weighted_quantiles
from forecastlab.demand.generations import GENERATIONS
from forecastlab.demand.recurrent import Point, RecurrentPoint, quantiles_by_step
from test_design import shops
from toys import QUIET

torch.set_num_threads(1)
EVERY = QUIET | dict(validate_every=10)


def network(h=4, **more):
    return FeedForward(
        h, **dict(width=8, steps=20, rows=2000, batch=64, training=EVERY) | more
    )


def point(h=4, **more):
    return RecurrentPoint(
        h, **dict(context=8, hidden=8, batch=8, steps=4, training=QUIET) | more
    )


both = pytest.mark.parametrize("make", [network, point])


def known(panel=None):
    return (shops() if panel is None else panel).cut(50)


def fitted(model, panel):
    "The model on the panel; that past covariates are not read is no news here."
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will be ignored")
        return model.fit(panel)


def asked(model, panel, h=4, levels=(0.1, 0.5, 0.9)):
    "(series, step, level) quantiles of a model trained on the panel."
    return fitted(model, panel).predict(h, panel).quantile(levels).numpy()


def with_y(y):
    return known(shops(y=y))


# --- what both must bear


@both
def test_a_panel_of_zeros_is_forecast_as_zero(make):
    assert (asked(make(), with_y(np.zeros(240))) == 0).all()


@both
def test_series_that_never_move_are_forecast_where_they_are(make):
    y = np.repeat([7.0, 7.0, 300.0, 300.0], 60)
    q = asked(make(), with_y(y))
    np.testing.assert_allclose(q[..., 1], y.reshape(4, 60)[:, :4], rtol=0.02)


@both
def test_columns_without_a_value_are_borne(make):
    panel = known()
    never = {n: np.full_like(panel.past[n], np.nan) for n in panel.past}
    q = asked(make(), replace(panel, past=never))
    assert np.isfinite(q).all()


def without_kinds():
    frame = shops().to_frame()
    return Panel.from_frame(frame, "W-SUN", known=["plan", "offer", "event"])


@both
def test_covariates_that_a_panel_lacks_are_named(make):
    full = fitted(make(), known())
    with pytest.raises(LabError, match="kind"):
        full.predict(4, known(without_kinds()))


def test_covariates_that_training_has_not_seen_are_named():
    model = fitted(network(), known(without_kinds()))
    with pytest.raises(LabError, match="not seen these columns: past price"):
        model.predict(4, known())


@both
def test_a_longer_horizon_than_trained_is_refused(make):
    with pytest.raises(LabError, match="1 to 4 steps, asked for 5"):
        fitted(make(), known()).predict(5)


@both
def test_a_panel_with_too_few_rows_is_refused(make):
    frame = pd.DataFrame(dict(unique_id=[*"ab"], ds=[0, 0], y=[1.0, 2.0]))
    with pytest.raises(LabError, match="no series"):
        make(2).fit(Panel.from_frame(frame, 1))


@both
def test_a_short_panel_is_borne(make):
    rng = np.random.default_rng(0)
    short = shops(rows=16, n=3, y=rng.poisson(5, 48).astype(float)).cut(11)
    assert np.isfinite(asked(make(), short)).all()


@both
def test_large_series_do_not_drown_small_ones(make):
    "Trained on ratios: a product a thousand times smaller is as far off as the large."
    rng = np.random.default_rng(1)
    y = rng.uniform(0.9, 1.1, (4, 60)) * np.array([[1e4], [1e4], [10.0], [10.0]])
    q = asked(make(steps=60), with_y(y.ravel().round(2)))
    ratio = q[..., 1] / np.array([[1e4], [1e4], [10.0], [10.0]])
    assert np.abs(ratio - 1).max() < 0.2


# --- the feed-forward network


def inputs_of(panel):
    matrix = Design().fit(panel).rows(panel, latest_samples(panel.cut(40), 4))
    return matrix, learned_inputs(matrix, panel.categories, 52)


def test_what_was_never_known_or_never_moved_is_not_read():
    panel = known()
    never = {n: np.full_like(panel.past[n], np.nan) for n in panel.past}
    matrix, inputs = inputs_of(replace(panel, past=never))
    read = {matrix.names[i] for i in inputs.numbers}
    assert "past price" not in read and "lag 1" in read
    told = {matrix.names[i] for i in inputs.unknown}
    assert "past price" not in told


def test_absurd_values_stay_within_reach():
    matrix, inputs = inputs_of(known())
    wild = replace(matrix, X=matrix.X * 1e12)
    numbers, codes = inputs.read(wild)
    assert torch.isfinite(numbers).all() and numbers.abs().max() <= 5
    assert ((codes >= 0) & (codes < torch.tensor(inputs.counts))).all()


def test_any_levels_can_be_asked_for():
    for levels in ((0.5,), (0.2, 0.9)):
        q = asked(network(levels=levels), known())
        assert np.isfinite(q).all() and (np.diff(q) >= 0).all()


def test_the_last_rows_say_when_to_stop_where_there_are_enough():
    when = np.repeat(np.arange(100), 5)
    assert set(when[held_out_rows(when, 8)]) == set(range(92, 100))
    # every target in one step: the last quarter of the rows
    alike = held_out_rows(np.zeros(100), 8)
    assert alike.sum() == 25 and alike[-25:].all()
    assert not held_out_rows(np.arange(30), 8).any()


def test_weighted_quantiles_are_those_of_repeated_rows():
    x = torch.tensor([3.0, 1.0, 2.0])
    found = weighted_quantiles(x, torch.tensor([1.0, 1.0, 8.0]), torch.tensor([0.5]))
    assert found.tolist() == [2.0]


def test_a_network_that_helps_nobody_does_not_begin():
    "Pure noise: the steps that were best are told, and may be none."
    model = fitted(network(steps=0), known())
    assert "0 of at most 0 steps" in model.explain()
    assert np.isfinite(model.predict(4).quantile([0.5]).numpy()).all()


def test_members_are_averaged_and_kept(tmp_path):
    amounts = with_y(np.random.default_rng(0).gamma(3, 2, 240))
    model = fitted(network(members=2), amounts)
    alone = fitted(network(), amounts)
    q = model.predict(4).quantile([0.1, 0.9])
    assert not torch.equal(q, alone.predict(4).quantile([0.1, 0.9]))
    model.save(tmp_path / "two")
    again = load_model(tmp_path / "two")
    assert torch.equal(again.predict(4, amounts).quantile([0.1, 0.9]), q)
    assert again.explain() == model.explain()


def test_lost_weights_are_refused(tmp_path):
    fitted(network(), known()).save(tmp_path / "m")
    tensors, note = read_tensors(tmp_path / "m")
    name = "known/0/out.weight"
    broken = tensors | {name: torch.full_like(tensors[name], torch.nan)}
    write_tensors(tmp_path / "m", broken, note, overwrite=True)
    with pytest.raises(OSError, match=f"NaN or infinite: {name}"):
        load_model(tmp_path / "m")


def test_a_product_that_was_never_observed_is_forecast_by_its_kind():
    rng = np.random.default_rng(0)
    rate = np.repeat([50, 5] * 2, 60)
    panel = known(shops(y=rng.poisson(rate).astype(float)))
    model = fitted(network(width=16, steps=200), panel)
    unseen = known(shops(y=np.full(240, np.nan), fill="missing"))
    q = model.predict(4, unseen).quantile([0.5])[..., 0].mean(1).numpy()
    assert q[0] > 2 * q[1]


def test_a_category_unseen_in_training_is_forecast_with_a_warning():
    model = fitted(network(), known())
    other = known(shops(kind=np.repeat("pan", 240)))
    with pytest.warns(UserWarning, match="pan"):
        q = model.predict(4, other).quantile([0.5])
    assert np.isfinite(q.numpy()).all()


@pytest.mark.parametrize(
    "wrong",
    [
        dict(width=0),
        dict(layers=0),
        dict(dropout=1.0),
        dict(members=0),
        dict(steps=-1),
        dict(levels=[0.9, 0.1]),
        dict(training=dict(seed=1)),
        dict(training=dict(lr=0.0)),
        dict(training=3),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(LabError):
        network(**wrong)


# --- the recurrent point


def test_quantiles_of_errors_are_a_step_s_own_where_there_are_enough():
    errors = np.full((300, 2), np.nan)
    errors[:, 0] = np.linspace(0, 1, 300)
    errors[:10, 1] = 5.0
    own, rest = quantiles_by_step(errors, (0.5,))
    assert own[0] == pytest.approx(0.5)
    assert rest[0] == pytest.approx(np.median([*errors[:, 0], *[5.0] * 10]))
    assert (quantiles_by_step(errors * np.nan, (0.1, 0.9)) == 0).all()


def test_the_spread_is_that_of_hidden_rows_and_alike_for_all():
    model = fitted(point(), known())
    assert model.errors.shape == (4, 15) and (np.diff(model.errors) >= 0).all()
    assert model.errors[:, 0].max() < 0 < model.errors[:, -1].min()


def test_settings_of_a_head_are_refused():
    for idle in (dict(head="sqf"), dict(draws=9), dict(pieces=3)):
        with pytest.raises(LabError, match="a point has none"):
            point(**idle)
    with pytest.raises(LabError, match="unknown error"):
        point(error="cubic")


def test_squared_errors_aim_at_the_mean_and_absolute_ones_at_the_median():
    z = torch.tensor([0.0, 0.0, 0.0, 1.0, 9.0])
    said = torch.linspace(0, 4, 41)
    for error, aim in (("absolute", 0.0), ("squared", 2.0)):
        loss = Point.loss({error: said[:, None]}, z).mean(1)
        assert said[loss.argmin()].item() == pytest.approx(aim)


def test_it_begins_at_the_running_mean():
    y = np.repeat([7.0, 30.0, 300.0, 5000.0], 60)
    still = QUIET | dict(steps=0)
    q = asked(point(steps=None, levels=(0.5,), training=still), with_y(y))
    np.testing.assert_allclose(q[..., 1], y.reshape(4, 60)[:, :4], rtol=1e-3)


# --- the line


def test_networks_stand_between_the_forest_and_mq():
    names = list(GENERATIONS)
    line = ["SQRF", "FeedForward", "RecurrentPoint", "RecurrentDistribution", "MQRNN"]
    begin = names.index("SQRF")
    assert names[begin : begin + len(line)] == line
    for name in line[1:]:
        model = GENERATIONS[name].maker(4, 1, None, 3)
        assert model.horizon == 4
