"""Backtests: a planted future must change nothing, the schedule is kept, every number
can be computed by hand.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from forecastlab.core.backtest import Backtest, as_known, backtest, origins_of, plant
from forecastlab.core.distributions import QuantileGrid
from forecastlab.core.forecast import Forecast
from forecastlab.core.panel import Panel
from forecastlab.demand.mq import BY_ENCODER
from forecastlab.demand.textbook import AutoETS, CrostonSBA, EmpiricalQuantiles
from forecastlab.demand.textbook import SeasonalNaive

torch.set_num_threads(1)
LEVELS = (0.1, 0.5, 0.9)
TINY = dict(
    context=12,
    forks=4,
    batch=8,
    channels=4,
    dilations=(1, 2),
    mixing=0,
    agnostic=4,
    local=4,
    recent=(4,),
    steps=3,
    training=dict(progress=False, accelerator="cpu"),
)
LAB = {
    "SeasonalNaive": SeasonalNaive(season=4),
    "EmpiricalQuantiles": EmpiricalQuantiles(),
    "CrostonSBA": CrostonSBA(),
    "AutoETS": AutoETS(progress=False, n_jobs=1),
    **{e: BY_ENCODER[e](5, **TINY) for e in ("cnn", "rnn", "lags")},
}


def sales(n=4, rows=40, seed=0, first=(), last=()):
    "Weekly counts with every kind of covariate; series i has rows first[i]..last[i]."
    rng = np.random.default_rng(seed)
    weeks = pd.date_range("2023-01-01", periods=rows, freq="W-SUN")
    df = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(n)], rows),
            "ds": np.tile(weeks, n),
            "y": rng.poisson(4, n * rows),
            "price": rng.uniform(1, 2, n * rows),
            "promo": rng.choice(["no", "yes"], n * rows),
            "visits": rng.poisson(30, n * rows),
            "kind": np.repeat(rng.choice(["mug", "tin"], n), rows),
        }
    )
    row = df.groupby("unique_id").cumcount()
    keep = pd.Series(True, df.index)
    for i, a in enumerate(first):
        keep &= (df.unique_id != f"s{i}") | (row >= a)
    for i, b in enumerate(last):
        keep &= (df.unique_id != f"s{i}") | (row <= b)
    return df[keep]


def panel(**more):
    return Panel.from_frame(
        sales(**more),
        freq="W-SUN",
        known=["price", "promo"],
        past=["visits"],
        static=["kind"],
    )


class Constant:
    "The same quantiles everywhere; remembers what it was shown."

    def __init__(self, values=(1.0, 2.0, 4.0)):
        self.values, self.shown = values, []

    def fit(self, panel):
        self.shown.append(("fit", int(panel.last.max()), len(panel)))
        return self

    def predict(self, h, panel):
        self.shown.append(("predict", int(panel.last.max()), len(panel)))
        values = torch.tensor(self.values).expand(len(panel), h, 3)
        return Forecast(panel, QuantileGrid(LEVELS, values, "flat"), "constant")


class Cheat(Constant):
    "Looks for targets, or past covariates, after the end of the history."

    def __init__(self, where):
        super().__init__()
        self.where = where

    def predict(self, h, panel):
        column = np.asarray(panel.y if self.where == "y" else panel.past[self.where])
        ahead = panel.indptr[:-1, None] + panel.length[:, None] + np.arange(h)
        seen = torch.from_numpy(column[np.minimum(ahead, panel.rows - 1)])
        grid = QuantileGrid(LEVELS, seen[..., None].expand(-1, -1, 3))
        return Forecast(panel, grid, "cheat")


# --- nothing leaks


@pytest.mark.parametrize("value", [1e6, -1e6])
@pytest.mark.parametrize("name", LAB)
def test_a_planted_future_changes_no_forecast(name, value):
    "Model by model: fitted and asked at an origin after which everything is absurd."
    p = panel()
    origin = int(origins_of(p, 5, 1)[0])
    wrong = plant(p, origin, value)
    assert (np.abs(wrong.y) >= 1e5).sum() == 4 * 5
    assert not np.array_equal(wrong.past["visits"], p.past["visits"])
    run = lambda x: backtest({name: LAB[name]}, x, 5, 1, progress=False).folds[0]
    a, b = run(p), run(wrong)
    assert np.array_equal(a.quantiles, b.quantiles)
    assert not np.array_equal(a.actual, b.actual)


def test_a_planted_future_changes_no_earlier_origin():
    p = panel()
    at = origins_of(p, 5, 3, 4)
    wrong = plant(p, int(at[1]))
    models = {"cnn": LAB["cnn"], "naive": LAB["SeasonalNaive"]}
    run = lambda x: backtest(models, x, 5, 3, 4, refit=True, progress=False)
    right, planted = run(p), run(wrong)
    for name in models:
        folds = zip(right.of(name), planted.of(name))
        same = [np.array_equal(a.quantiles, b.quantiles) for a, b in folds]
        # the third origin has seen the planted rows
        assert same == [True, True, False]


@pytest.mark.parametrize("where", ["y", "visits"])
def test_a_cheat_finds_nothing_and_is_refused(where):
    with pytest.raises(ValueError, match="quantiles are NaN or infinite"):
        backtest({"cheat": Cheat(where)}, panel(), 5, 1, progress=False)


def test_a_model_sees_cut_copies_only_and_the_panel_is_untouched():
    p = panel()
    before = p.y.copy()
    shown = []

    class Spoiler(Constant):
        def fit(self, x):
            shown.append(x)
            return super().fit(x)

        def predict(self, h, panel):
            panel.y[:] = -1
            panel.past["visits"][:] = -1
            return super().predict(h, panel)

    backtest({"a": Spoiler()}, p, 5, 2, progress=False)
    assert np.array_equal(p.y, before)
    assert p.past["visits"].min() >= 0
    assert all(not np.shares_memory(x.y, p.y) for x in shown)


# --- the schedule


@pytest.mark.parametrize(
    "refit, fitted",
    [
        (False, [19] * 4),
        (True, [19, 24, 29, 34]),
        (2, [19, 19, 29, 29]),
        (3, [19, 19, 19, 34]),
        (9, [19] * 4),
    ],
)
def test_models_are_refitted_when_the_schedule_says_so(refit, fitted):
    r = backtest({"a": Constant()}, panel(), 5, 4, refit=refit, progress=False)
    assert [f.origin for f in r.folds] == [19, 24, 29, 34]
    assert [f.fitted_at for f in r.folds] == fitted
    first, *later = r.models["a"].shown
    assert first == ("fit", fitted[-1], 4)
    assert all(last <= 34 for _, last, _ in later)
    anew = [a != b for a, b in zip(fitted, [None, *fitted])]
    assert [f.fit_seconds > 0 for f in r.folds] == anew


def test_a_refit_goes_on_from_what_the_last_fit_settled():
    "Of a model that can be fitted again; any other begins as it was given."

    class Settled(Constant):
        def fit_again(self, panel):
            self.shown.append(("again", int(panel.last.max()), len(panel)))
            return self

    r = backtest({"a": Settled()}, panel(), 5, 4, refit=2, progress=False)
    fits = [said for said in r.models["a"].shown if said[0] != "predict"]
    assert fits == [("fit", 19, 4), ("again", 29, 4)]


def test_the_models_given_stay_unfitted():
    m = Constant()
    backtest({"a": m}, panel(), 5, 2, refit=True, progress=False)
    assert m.shown == []


def test_a_fit_of_the_first_origin_serves_later_ones():
    "Series that were not there when the network was trained are forecast all the same."
    r = backtest({"cnn": LAB["cnn"]}, panel(first=[0, 0, 0, 30]), 5, 3, progress=False)
    assert [len(f.forecast.ids) for f in r.folds] == [3, 3, 4]
    assert all(np.isfinite(f.quantiles).all() for f in r.folds)


@pytest.mark.parametrize(
    "ask, at",
    [
        (dict(origins=1), [34]),
        (dict(origins=3), [24, 29, 34]),
        (dict(origins=3, step=1), [32, 33, 34]),
        (dict(origins=2, step=11), [23, 34]),
    ],
)
def test_the_last_origin_leaves_one_horizon(ask, at):
    assert origins_of(panel(), 5, **ask).tolist() == at


@pytest.mark.parametrize(
    "ask, message",
    [
        (dict(horizon=0), "horizon must be a whole number, at least 1, got 0"),
        (dict(origins=0), "origins must be a whole number, at least 1, got 0"),
        (dict(step=0), "step must be a whole number, at least 1, got 0"),
        (dict(horizon=40), "lies before every series begins. Use fewer origins"),
        (dict(origins=9), "the first of 9 origins lies before"),
        (dict(levels=(0.5, 0.1)), "levels must increase"),
        (dict(refit=-1), "refit must be False, True or a number of origins, got -1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        backtest({"a": Constant()}, panel(), **dict(horizon=5, progress=False) | ask)


def test_a_table_is_no_panel():
    with pytest.raises(TypeError, match="Build one with Panel.from_frame"):
        backtest({"a": Constant()}, sales(), 5)


# --- ragged panels


def test_ragged_series_take_part_where_they_can():
    p = Panel.from_frame(
        sales(first=[0, 22, 38, 0], last=[39, 39, 39, 26]), freq="W-SUN"
    )
    r = backtest({"a": Constant()}, p, 5, 4, progress=False)
    assert [list(f.forecast.ids) for f in r.folds] == [
        ["s0", "s3"],
        ["s0", "s1", "s3"],
        ["s0", "s1"],
        ["s0", "s1"],
    ]
    # s3 ends within the horizon
    assert np.isfinite(r.folds[1].actual).sum() == 5 + 5 + 2
    y, q = r.stack("a")
    assert y.shape == (4, 4, 5)
    assert np.isnan(y[2]).all()
    assert np.isnan(q[2]).all()
    assert np.isnan(q[1, 0]).all()
    assert np.isfinite(q[1, 1]).all()
    assert r.leaderboard.wql["a"] > 0
    assert len(r.frame) == 5 * (2 + 3 + 2 + 2)


@pytest.mark.parametrize("name", LAB)
def test_every_model_lives_with_ragged_series_and_stock_outs(name):
    df = sales(n=6, first=[0, 20, 33, 0, 0, 0], last=[39, 39, 39, 30, 39, 39]).assign(
        stock=1
    )
    row = (df.ds - df.ds.min()).dt.days // 7
    # sold out until row 26; from row 25 on
    df.loc[
        (df.unique_id == "s4") & (row < 26)
        | (df.unique_id == "s5") & row.between(25, 39),
        "stock",
    ] = 0
    p = Panel.from_frame(
        df, freq="W-SUN", known=["price", "promo"], past=["visits"], available="stock"
    )
    r = backtest({name: LAB[name]}, p, 5, 3, refit=True, progress=False)
    ids = [list(f.forecast.ids) for f in r.folds]
    assert "s4" not in ids[0]
    assert "s4" in ids[1]
    assert all("s5" not in i for i in ids)
    assert all(np.isfinite(f.quantiles).all() for f in r.folds)
    assert np.isfinite(r.leaderboard.wql[name])


@pytest.mark.parametrize("name", ["SeasonalNaive", "cnn"])
def test_an_item_discontinued_within_the_horizon_is_left_out(name):
    "Its known covariates end there."
    p = panel(last=[39, 39, 39, 26])
    r = backtest({name: LAB[name]}, p, 5, 4, progress=False)
    assert list(r.folds[1].forecast.ids) == ["s0", "s1", "s2"]


def test_an_origin_without_series_is_refused():
    with pytest.raises(
        ValueError, match="no series has both history and targets around 2023-06-"
    ):
        as_known(panel(n=2, first=[0, 30], last=[20, 39]), 25, 5)


def test_a_model_must_answer_for_the_series_it_was_given():
    class Other(Constant):
        def predict(self, h, panel):
            return super().predict(h, panel.select(np.arange(len(panel))[::-1]))

    with pytest.raises(
        ValueError, match="other returned other series than it was given"
    ):
        backtest({"other": Other()}, panel(), 5, 1, progress=False)


# --- numbers by hand


def test_a_number_of_the_leaderboard_is_computed_by_hand():
    "Two items, two origins, horizon 2; q = 1, 2, 4 at levels 0.1, 0.5, 0.9."
    y = {"a": [0.0, 9, 3, 1, 2, 4], "b": [5.0, 5, 0, 2, 8, 1]}
    p = Panel.from_frame(
        pd.DataFrame(
            {
                "unique_id": np.repeat(["a", "b"], 6),
                "ds": [*range(6)] * 2,
                "y": y["a"] + y["b"],
            }
        ),
        freq=1,
    )
    r = backtest({"m": Constant()}, p, 2, 2, levels=LEVELS, progress=False)
    assert [f.origin for f in r.folds] == [1, 3]
    loss = lambda y, q, a: 2 * max(a * (y - q), (a - 1) * (y - q))
    scored = y["a"][2:] + y["b"][2:]
    wql = [
        sum(loss(v, q, a) for v in scored) / sum(scored)
        for q, a in zip((1, 2, 4), LEVELS)
    ]
    assert sum(scored) == 21
    assert wql[1] == pytest.approx((1 + 1 + 0 + 2 + 2 + 0 + 6 + 1) / 21)
    row = r.leaderboard.loc["m"]
    assert row["wql"] == pytest.approx(np.mean(wql))
    assert row["wql_0.9"] == pytest.approx(wql[2])
    # 3, 2 and 2 lie inside; a 1 fills levels 0 to 0.3 and a 4 levels 0.8 to 1
    assert row["coverage80"] == pytest.approx((3 + 2 * 2 / 3 + 1 / 2) / 8)


def test_a_perfect_forecast_loses_nothing_and_comes_first():
    p = panel()
    future = {o: as_known(p, int(o), 5)[1] for o in origins_of(p, 5, 2)}

    class Oracle(Constant):
        def predict(self, h, panel):
            y = torch.from_numpy(future[int(panel.last.max())])
            grid = QuantileGrid(LEVELS, y[..., None].expand(-1, -1, 3), "flat")
            return Forecast(panel, grid, "oracle")

    models = {"constant": Constant(), "oracle": Oracle()}
    board = backtest(models, p, 5, 2, levels=LEVELS, progress=False).leaderboard
    assert list(board.index) == ["oracle", "constant"]
    assert board.wql["oracle"] == 0


def test_the_frame_holds_every_number():
    models = {"a": Constant(), "b": Constant((0.0, 3.0, 5.0))}
    r = backtest(models, panel(), 5, 2, levels=LEVELS, refit=True, progress=False)
    f = r.frame
    columns = "unique_id ds model cutoff fitted_at y ql0.1 ql0.5 ql0.9"
    assert list(f) == columns.split()
    assert len(f) == 2 * 2 * 4 * 5
    assert ((f.ds - f.cutoff).dt.days // 7).between(1, 5).all()
    assert (f.cutoff == f.fitted_at).all()
    assert f.cutoff.nunique() == 2
    truth = sales().set_index(["unique_id", "ds"]).y
    told = f.set_index(["unique_id", "ds"]).y
    assert (told == truth.reindex(told.index)).all()
    assert f[f.model == "b"]["ql0.5"].eq(3).all()
    assert repr(r) == "Backtest of a, b: 2 origins x 5 steps"


@pytest.mark.parametrize("step, overlap", [(2, True), (5, False)])
def test_volatility_needs_origins_that_overlap(step, overlap):
    r = backtest({"m": Constant()}, panel(), 5, 3, step, levels=LEVELS, progress=False)
    assert ("volatility" in r.leaderboard) == overlap
    if overlap:
        assert r.leaderboard.volatility["m"] == 0


def test_an_unknown_model_is_named_beside_the_known():
    r = backtest({"a": Constant()}, panel(), 5, 1, progress=False)
    assert isinstance(r, Backtest)
    with pytest.raises(
        KeyError, match="no such model in this backtest: b. There are: a"
    ):
        r.stack("b")


@pytest.mark.parametrize("freq", [1, "MS"])
def test_integer_time_and_months_are_backtested_too(freq):
    time = np.arange(30)
    if freq == "MS":
        time = pd.date_range("2020-01-01", periods=30, freq="MS")
    frame = pd.DataFrame({"unique_id": "a", "ds": time, "y": np.arange(30.0)})
    p = Panel.from_frame(frame, freq=freq)
    f = backtest({"a": Constant()}, p, 3, 2, levels=LEVELS, progress=False).frame
    assert f.ds.tolist() == list(time[24:30])
    assert f.cutoff.unique().tolist() == list(pd.Series(time[[23, 26]]))
    assert f.y.tolist() == [24.0, 25, 26, 27, 28, 29]


def test_plant_leaves_known_covariates_and_history_alone():
    p = panel(first=[0, 38])
    w = plant(p, 20, 5e5)
    s = np.repeat(np.arange(len(p)), np.diff(p.indptr))
    step = p.start[s] + np.arange(p.rows) - p.indptr[s]
    assert np.array_equal(w.y == 5e5, step > 20)
    assert np.array_equal(w.y[step <= 20], p.y[step <= 20])
    assert w.known is p.known
    assert dataclasses.asdict(w)["freq"] == "W-SUN"
