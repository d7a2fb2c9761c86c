"The development board: no test window, scores that are kept, files for a peer."

import json

import numpy as np
import pandas as pd
import pytest

from forecastlab.core.basics import LabError
from forecastlab.core.datasets import registry
from forecastlab.core.distributions import DECILES
from forecastlab.core.forecast import Forecast
from forecastlab.core.metrics import mean_wql
from forecastlab.demand.board import COUNTED, Score, board_sets, board_table
from forecastlab.demand.board import board_task, geometric_mean, hand_over
from forecastlab.demand.board import public_task, read_answer, read_score
from forecastlab.demand.board import read_trials, run_model, score_of
from forecastlab.demand.board import simulated_set, trial_table, write_score
from forecastlab.demand.textbook import EmpiricalQuantiles, SeasonalNaive


@pytest.fixture(scope="module")
def task():
    return board_task("simulated", most=5)


class Spy(SeasonalNaive):
    "Writes down what it is shown."

    def fit(self, panel):
        self.fitted = [*getattr(self, "fitted", []), panel]
        return super().fit(panel)

    def predict(self, h=None, panel=None, *, seed=0) -> Forecast:
        self.asked = [*getattr(self, "asked", []), panel]
        return super().predict(h, panel, seed=seed)


def test_the_board_has_every_set_with_a_hundred_series():
    sets = board_sets()
    assert all(registry()[name]["series"] >= 100 for name in sets)
    assert {"online_retail", "carparts", "m1_yearly", "spare_parts/auto"} <= set(sets)
    assert "ett" not in sets


def test_every_set_of_counted_steps_on_the_board_has_dates():
    counted = {name for name in board_sets() if registry()[name]["freq"] == 1}
    assert counted <= set(COUNTED) <= set(registry())


def test_nobody_sees_the_test_window(task):
    full, horizon, _ = simulated_set(5)
    end = int(full.last.max())
    assert int(task.panel.last.max()) == end - horizon
    spy = Spy(horizon, season=12)
    run_model(task, "spy", spy)
    assert [int(p.last.max()) for p in spy.fitted] == [int(task.at[0])]
    assert [int(p.last.max()) for p in spy.asked] == task.at.tolist()
    assert int(task.at[-1]) + horizon == end - horizon
    hidden = spy.asked[0]
    assert len(hidden) == 5 and np.isnan(hidden.y[hidden.length[0] :][:horizon]).all()


def test_a_sample_is_the_same_each_time_and_keeps_the_order():
    ids = [board_task("online_retail", most=20).panel.ids.tolist() for _ in range(2)]
    every = public_task("online_retail").panel.ids.tolist()
    assert ids[0] == ids[1] == sorted(ids[0], key=every.index)
    assert len(ids[0]) == 20 and ids[0] != every[:20]


def test_a_public_task_is_the_last_horizon():
    task = public_task("online_retail", most=3)
    assert task.shape == (3, 1, 8)
    np.testing.assert_array_equal(task.y[1, 0], task.panel.history(1)[-8:])


def test_scores_are_those_of_the_metrics(task):
    levels = (*DECILES, 0.95, 0.99)
    rng = np.random.default_rng(0)
    q = np.sort(rng.gamma(2, 5, (*task.shape, len(levels))))
    score = score_of(task, "random", q, levels, cpu=3)
    expected = mean_wql(task.y, q[..., :9], DECILES)
    assert score.wql == pytest.approx(float(expected))
    assert len(score.losses) == 5 and score.cpu == 3
    assert 0 < score.coverage80 < 1 and score.wql_95 > score.wql_99
    # a peer that was asked for the deciles only has no tail
    nine = score_of(task, "peer", q[..., :9], DECILES, cpu=3)
    assert nine.wql == score.wql and np.isnan(nine.wql_99)


def test_a_score_is_kept_with_its_gaps(tmp_path):
    score = Score("a", "b", 1, 2.0, wql=0.5, losses=[1.0, 2.0])
    write_score(tmp_path / "deep" / "a.json", score)
    again = read_score(tmp_path / "deep" / "a.json")
    assert np.isnan(again.wql_99) and again.losses == score.losses
    (tmp_path / "half.json").write_text('{"set": "a", "sett')
    assert read_score(tmp_path / "half.json") is None


def test_a_finished_score_is_found_unless_a_setting_or_the_data_changed(task, tmp_path):
    def runs(task, last):
        spy = Counted(6, last=last)
        run_model(task, "quantiles", spy, tmp_path)
        return spy.fits

    assert runs(task, 8) == 1 and runs(task, 8) == 0
    assert runs(task, 12) == 1
    assert runs(board_task("simulated", most=4), 8) == 1


class Counted(EmpiricalQuantiles):
    fits = 0

    def fit(self, panel):
        self.fits += 1
        return super().fit(panel)


def test_a_table_compares_with_the_best_simple_method():
    losses = np.ones(30)
    made = lambda name, size, simple: Score(
        "toy", name, 2, 1.0, wql=size, simple=simple, losses=(size * losses).tolist()
    )
    scores = [made("A", 0.5, True), made("B", 0.4, True), made("M", 0.3, False)]
    scores.append(Score("toy", "R", 2, 0.0, note="refused"))
    row = board_table({"toy": scores}, ["M", "R"]).loc["toy"]
    assert row.simple == "B" and row.M == pytest.approx(0.75)
    assert row.M_low == pytest.approx(0.75) == pytest.approx(row.M_high)
    # who refuses a set has no mean over the board
    assert np.isnan(row.R) and np.isnan(geometric_mean([row.M, row.R]))
    with pytest.raises(LabError, match="no simple method was scored: M"):
        board_table({"toy": scores[2:3]}, ["M"])


def test_a_peer_gets_what_our_models_get_and_no_more(task, tmp_path):
    hand_over(task, tmp_path, levels=[0.5], seed=7)
    told = json.loads((tmp_path / "task.json").read_text())
    assert (told["freq"], told["horizon"], told["origins"]) == ("MS", 6, 3)
    assert (told["known"], told["past"], told["seed"]) == (
        ["promotion"],
        ["temperature"],
        7,
    )
    for k, (known, _, _) in enumerate(task.folds):
        history = pd.read_parquet(tmp_path / f"history-{k}.parquet")
        future = pd.read_parquet(tmp_path / f"future-{k}.parquet")
        static = pd.read_parquet(tmp_path / f"static-{k}.parquet")
        assert history.ds.max() == known.calendar[int(task.at[k])]
        assert future.groupby("unique_id").size().eq(6).all()
        assert future.ds.min() > history.ds.max()
        assert "temperature" not in future and set(static) >= {"group", "size"}
    q = {f"q-{k}": np.ones((5, 6, 1)) for k in range(3)}
    ids = {f"ids-{k}": np.array(task.panel.ids, dtype=str) for k in range(3)}
    np.savez(tmp_path / "answer.npz", **q, **ids)
    assert (read_answer(task, tmp_path / "answer.npz", 1) == 1).all()


def test_the_record_of_trials_is_whole(tmp_path):
    table = trial_table(read_trials())
    assert (table["mean"] > 0).all() and table.sets.max() <= len(registry())
    (tmp_path / "t.csv").write_text("set,cfg\na,b\n")
    with pytest.raises(LabError, match="other columns"):
        read_trials(tmp_path / "t.csv")
