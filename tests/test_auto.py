"""Choosing by rolling origins: never past the history, never past the budget."""

import numpy as np
import pandas as pd
import pytest
import torch

from forecastlab.core.auto import Choice, Chooser, greedy_weights, lead_of
from forecastlab.core.auto import usable_origins
from forecastlab.core.backtest import plant
from forecastlab.core.basics import refuse
from forecastlab.core.distributions import DECILES, QuantileGrid
from forecastlab.core.forecast import Forecast
from forecastlab.core.forecaster import Forecaster
from forecastlab.core.panel import Panel
from forecastlab.core.frequency import season_found
from forecastlab.core.neural import WindowTask
from forecastlab.demand.auto import AutoForecaster, simple_methods
from forecastlab.demand.linear import PooledLinear
from forecastlab.demand.mq import MQCNN
from toys import QUIET

HORIZON = 4


class Level(Forecaster):
    "Always the same quantiles, a shift away from 10; remembers what it was shown."

    name = "Level"

    def __init__(self, shift=0.0, refuses=False):
        self.horizon, self.shift, self.refuses = HORIZON, shift, refuses
        self.seen = []

    def __repr__(self):
        return f"{type(self).__name__}({self.shift})"

    def fit(self, panel):
        if self.refuses:
            refuse("this level refuses everything")
        self.panel = panel
        self.seen.append(int(panel.last.max()))
        return self

    def _predict(self, panel, h, seed):
        q = torch.linspace(-1, 1, 9).expand(len(panel), h, 9) + 10 + self.shift
        return Forecast(panel, QuantileGrid(DECILES, q), self.name)

    def _state(self):
        return dict(shift=self.shift), {}

    @classmethod
    def _restore(cls, note, tensors):
        return cls(**note)


def steady(n=20, rows=60, mean=10.0):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i:02d}" for i in range(n)], rows),
            "ds": np.tile(np.arange(rows), n),
            "y": rng.normal(mean, 0.5, n * rows),
        }
    )
    return Panel.from_frame(frame, freq=1)


def chosen(panel, candidates, **how):
    return Chooser(candidates, HORIZON, progress=False, **how).fit(panel)


def test_the_better_candidate_delivers_and_the_table_says_so():
    chooser = chosen(steady(), dict(far=Level(5), near=Level()), simple=("far",))
    assert chooser.choice.weights == {"near": 1.0}
    assert chooser.choice.table.index.tolist() == ["near", "far"]
    assert chooser.choice.sure and "more than noise" in chooser.choice.sentence()
    assert chooser.predict().choice is chooser.choice


def test_candidates_are_trained_before_the_first_origin_and_at_the_end():
    near = Level()
    panel = steady()
    chosen(panel, dict(near=near), origins=3)
    end = int(panel.last.max())
    assert near.seen == [end - 3 * HORIZON, end]


def test_the_choice_does_not_read_beyond_the_history():
    panel = steady()
    end = int(panel.last.max()) - HORIZON
    told = [
        chosen(p.cut(end), dict(a=Level(0.3), b=Level(-0.4))).choice.weights
        for p in (panel, plant(panel, end))
    ]
    assert told[0] == told[1]


def test_a_candidate_that_refuses_is_told_and_left_out():
    candidates = dict(near=Level(), no=Level(refuses=True))
    table = chosen(steady(), candidates).choice.table
    assert "refuses everything" in table.note["no"]
    assert table.weight["no"] == 0


def test_when_the_budget_is_spent_the_rest_is_left_out():
    candidates = dict(near=Level(), late=Level())
    chooser = chosen(steady(), candidates, budget=1e-9)
    assert "no candidate" not in chooser.choice.sentence()
    assert "budget" in chooser.choice.table.note["late"]


def test_when_every_candidate_refuses_the_reasons_are_told():
    with pytest.raises(ValueError, match="refuses everything"):
        chosen(steady(), dict(no=Level(refuses=True)))


def test_a_board_that_zero_beats_is_said_in_words():
    chooser = chosen(steady(mean=0.1), dict(near=Level()))
    assert "forecast of 0 for everything has a loss of 1" in chooser.choice.sentence()


@pytest.mark.parametrize("rows, origins", [(7, 0), (8, 1), (16, 2), (40, 3)])
def test_half_of_the_history_stays_to_learn_from(rows, origins):
    assert usable_origins(steady(rows=rows), HORIZON, 3) == origins


def test_a_short_history_takes_the_simple_methods_unchecked():
    candidates = dict(a=Level(), b=Level(1), c=Level(9))
    chooser = chosen(steady(rows=6), candidates, simple=("a", "b"))
    assert chooser.choice.weights == dict(a=0.5, b=0.5)
    assert "too short" in chooser.choice.sentence()


def test_weights_add_up_and_a_useless_candidate_gets_none():
    rng = np.random.default_rng(1)
    y = rng.normal(0, 1, (50, 2, 3))
    spread = np.linspace(-1.3, 1.3, 9)
    made = {k: np.broadcast_to(spread + s, (50, 2, 3, 9)) for k, s in enumerate((0, 9))}
    assert greedy_weights(y, made, np.asarray(DECILES)) == {0: 1.0}


def test_a_lead_of_nothing_is_not_sure():
    rng = np.random.default_rng(2)
    loss = rng.gamma(2, 1, 300)
    _, low, high = lead_of(loss, rng.permutation(loss))
    assert low < 0 < high


@pytest.mark.parametrize("season", [4, 7, 24])
def test_a_season_of_counted_steps_is_found(season):
    rng = np.random.default_rng(3)
    t = np.arange(240)
    y = 3 * np.sin(2 * np.pi * t / season) + rng.normal(0, 1, (20, 240))
    frame = steady(rows=240).to_frame().assign(y=y.ravel())
    assert season_found(Panel.from_frame(frame, freq=1)) == season


def test_the_board_suits_the_data():
    assert "CrostonSBA" not in simple_methods(steady(), HORIZON)
    frame = steady().to_frame()
    sold = frame.assign(y=(frame.index % 4 == 0) * 2.0)
    board = simple_methods(Panel.from_frame(sold, freq=1), HORIZON, season=1)
    assert "CrostonSBA" in board
    # the last value is a season of one
    assert "Naive" not in board
    assert "Naive" in simple_methods(steady(), HORIZON, season=7)


def test_members_are_loaded_as_themselves_whatever_their_names(tmp_path):
    "Their tensors have equal shapes; names come in no alphabetical order."
    close, far = (PooledLinear(HORIZON, start=start) for start in ("mean", "last"))
    chooser = chosen(steady(), dict(z=close, a=far), calibrate=False)
    chooser.choice.weights = dict(z=0.9, a=0.1)
    chooser.members = {n: m.fit(steady()) for n, m in dict(z=close, a=far).items()}
    chooser.save(tmp_path / "chooser")
    again = Chooser.load(tmp_path / "chooser")
    assert list(again.members) == ["z", "a"]
    q = lambda model: model.predict(HORIZON, steady()).quantile([0.1, 0.5, 0.9])
    assert torch.equal(q(again), q(chooser))


def test_the_labs_forecaster_delivers_from_its_board():
    auto = AutoForecaster(HORIZON, models=(), progress=False).fit(steady(rows=40))
    assert auto.choice.weights.keys() <= set(simple_methods(steady(rows=40), HORIZON))
    assert auto.predict().quantile([0.5]).shape == (20, HORIZON, 1)
    assert auto.choice.plot().axes


# --- panels that nobody tuned for


def frame_of(values, freq="W-SUN"):
    "A panel from (series, time) values."
    n, rows = values.shape
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i:02d}" for i in range(n)], rows),
            "ds": np.tile(pd.date_range("2019-01-06", periods=rows, freq=freq), n),
            "y": values.ravel().astype(float),
        }
    )
    return Panel.from_frame(frame, freq, fill="missing")


def auto(panel, horizon=HORIZON, **how):
    return AutoForecaster(horizon, models=(), progress=False, **how).fit(panel)


@pytest.mark.parametrize("value", [0.0, 5.0, 5.1])
def test_a_constant_panel_is_continued_and_called_exact(value):
    model = auto(frame_of(np.full((4, 40), value)))
    q = model.predict().quantile([0.1, 0.9]).numpy()
    np.testing.assert_allclose(q, value, rtol=1e-4, atol=1e-4)
    said = model.choice.sentence()
    assert ("are 0" if value == 0 else "exact") in said and "%" not in said[-20:]


@pytest.mark.parametrize("rows", range(5, 14))
def test_every_length_of_history_is_forecast(rows):
    y = np.random.default_rng(rows).gamma(3, 3, (8, rows))
    model = auto(frame_of(y, "MS"))
    assert np.isfinite(model.predict().quantile([0.1, 0.9]).numpy()).all()
    assert "failed" not in " ".join(model.choice.table.note)


def test_what_was_not_observed_lately_is_no_reason_to_refuse():
    y = np.random.default_rng(0).gamma(3, 3, (8, 60))
    y[:, -8:] = np.nan
    model = auto(frame_of(y))
    assert len(model.choice.origins) == 1
    assert np.isfinite(model.predict().quantile([0.5]).numpy()).all()


def test_ended_series_beside_new_ones():
    rng = np.random.default_rng(0)
    dates = pd.date_range("2019-01-06", periods=80, freq="W-SUN")
    old = [
        pd.DataFrame(dict(unique_id=f"old {i}", ds=dates[:60], y=rng.gamma(3, 3, 60)))
        for i in range(8)
    ]
    new = [
        pd.DataFrame(dict(unique_id=f"new {i}", ds=dates[-3:], y=rng.gamma(3, 3, 3)))
        for i in range(3)
    ]
    panel = Panel.from_frame(pd.concat(old + new), "W-SUN")
    model = auto(panel)
    assert np.isfinite(model.predict().quantile([0.5]).numpy()).all()


def test_an_average_that_is_surely_worse_than_a_simple_method_does_not_deliver():
    "Equal shares go first, then all shares but those of the best."
    y = np.random.default_rng(0).poisson(1, (60, 60))
    y[:, -14:] = 0
    model = AutoForecaster(4, models=("PooledLinear",), progress=False)
    choice = model.fit(frame_of(y)).choice
    assert not choice.high < 0 or set(choice.weights) == {choice.simple}


def test_an_interval_points_where_the_sentence_does():
    table = pd.DataFrame(dict(wql=[0.5]), index=["b"])
    choice = Choice(table, {"a": 1.0}, "b", ["2020"], 0.6, -0.12, -0.24, -0.01)
    said = choice.sentence()
    assert "12 % above" in said and "interval 1 % to 24 %, more than noise" in said
    said = choice.briefly()
    assert (
        "12 % above" in said and "more than noise" in said and "b" not in said.split()
    )
    one = Choice(table, {"a": 1.0}, "b", ["2020"], 0.6, 0.1, np.nan, np.nan)
    assert "too few series" in one.sentence() and not one.sure
    alone = Choice(table, {"a": 1.0}, "", ["2020"], 0.6, *[np.nan] * 3)
    assert "nan" not in alone.sentence()


def test_a_trial_of_other_roles_or_a_damaged_one_is_not_taken(tmp_path):
    y = np.random.default_rng(0).gamma(3, 3, (8, 60))
    panel = frame_of(y)
    auto(panel, checkpoint=tmp_path)
    files = sorted(tmp_path.glob("trial-*"))
    # the same numbers on other days
    auto(frame_of(y, "D"), checkpoint=tmp_path)
    assert len(list(tmp_path.glob("trial-*"))) > len(files)
    for file in tmp_path.glob("fit-*"):
        file.unlink()
    for file in tmp_path.glob("trial-*"):
        file.write_bytes(file.read_bytes()[:200])
    with pytest.warns(UserWarning, match="is tried again"):
        again = auto(panel, checkpoint=tmp_path)
    assert again.choice.table.note.eq("").all()


def test_a_failed_fit_leaves_nothing_behind():
    panel = steady()
    chooser = chosen(panel, dict(near=Level()))
    with pytest.raises(TypeError):
        chooser.fit("no panel")
    with pytest.raises(RuntimeError, match="has not been fitted"):
        chooser.predict()


@pytest.mark.parametrize("dies", [12, 33, 52])
def test_a_killed_choice_goes_on_to_the_same_forecast(tmp_path, monkeypatch, dies):
    """Killed in a trial, in the training of what delivers, and in one on more data.

    What was finished is not trained again, and what was not goes on from its last
    checkpoint.
    """
    panel, draw, count = steady(6), WindowTask.draw, []
    less, alive = panel.cut(55), []

    def drawn(task, generator):
        if alive and len(count) == dies:
            raise KeyboardInterrupt
        count.append(1)
        return draw(task, generator)

    monkeypatch.setattr(WindowTask, "draw", drawn)

    def forecast(place):
        "Of a choice on less data, trained again on all of it; steps that it took."
        count.clear()
        small = dict(context=8, forks=2, channels=4, dilations=(1, 2), mixing=8)
        often = QUIET | dict(checkpoint_every=5)
        network = MQCNN(HORIZON, steps=20, batch=4, training=often, **small)
        models = dict(level=Level(1), network=network)
        chooser = Chooser(models, HORIZON, progress=False, origins=2, checkpoint=place)
        chooser.fit(less).fit_again(panel)
        assert network.checkpoint is None
        assert chooser.members["network"].checkpoint is None
        return chooser.predict().quantile([0.1, 0.5, 0.9]).numpy(), len(count)

    whole, steps = forecast(None)
    assert steps == 60
    alive.append(True)
    with pytest.raises(KeyboardInterrupt):
        forecast(tmp_path)
    alive.clear()
    resumed, rest = forecast(tmp_path)
    assert rest == steps - dies // 5 * 5
    assert np.array_equal(resumed, whole)
    again, none = forecast(tmp_path)
    assert none == 0 and np.array_equal(again, whole)
    # a damaged fit is fitted anew, from trials and checkpoints that are whole
    for file in tmp_path.glob("fit-*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="fitted again"):
        again, none = forecast(tmp_path)
    assert none == 0 and np.array_equal(again, whole)


def test_what_a_kept_trial_cost_counts_as_spent(tmp_path, monkeypatch):
    "A run that goes on leaves out what the whole run would have left out."

    class Dear(Level):
        def fit(self, panel):
            spent.append(1)
            return super().fit(panel)

    spent = []
    monkeypatch.setattr("time.process_time", lambda: 10.0 * len(spent))
    panel, models = steady(6), dict(first=Dear(), second=Dear(), third=Dear())

    def notes():
        chooser = Chooser(
            models, HORIZON, progress=False, budget=15, checkpoint=tmp_path
        )
        return chooser.fit(panel).choice.table.note.to_dict()

    whole = notes()
    assert "the budget was spent" in whole["third"]
    assert len(spent) == 2
    for file in tmp_path.glob("fit-*"):
        file.unlink()
    monkeypatch.setattr("time.process_time", lambda: 0.0)
    assert notes() == whole and len(spent) == 2
