"The patchwork: classes that hold, routes that are told, what is refused."

import numpy as np
import pandas as pd
import pytest
import torch

from forecastlab.core.basics import LabError
from forecastlab.core.conformal import Calibrated
from forecastlab.core.forecaster import load_model
from forecastlab.core.frequency import season_of
from forecastlab.core.panel import Panel
from forecastlab.demand import router as patchwork
from forecastlab.demand.router import CLASSES, MODELS, ROUTES, Router
from forecastlab.demand.router import demand_classes, season_test
from forecastlab.demand.router import steps_since_first_sale, textbook_model
from forecastlab.demand.textbook import TSB, CrostonSBA, EmpiricalQuantiles
from forecastlab.demand.textbook import tsb_rates

pytest.importorskip(
    "statsforecast",
    reason="the textbook methods need statsforecast: pip install 'forecastlab[demand]'",
)
LEVELS = [0.1, 0.5, 0.9]


def panel_of(freq="W-SUN", **histories):
    "Series that end together."
    longest = max(len(y) for y in histories.values())
    grid = (
        np.arange(0, longest * freq, freq)
        if isinstance(freq, int)
        else pd.date_range("2020-01-05", periods=longest, freq=freq)
    )
    frames = [
        pd.DataFrame({"unique_id": name, "ds": grid[longest - len(y) :], "y": y})
        for name, y in histories.items()
    ]
    return Panel.from_frame(pd.concat(frames), freq=freq, fill="missing")


def kinds(seed=0, rows=130):
    "One series of each of the four classes, and one that never sold."
    rng = np.random.default_rng(seed)
    sold = np.arange(rows) % 4 == 0
    return dict(
        smooth=rng.poisson(30, rows).astype(float),
        erratic=rng.gamma(0.5, 30, rows).round() + 1,
        intermittent=3.0 * sold,
        lumpy=sold * (1 + rng.gamma(0.3, 30, rows).round()),
        unsold=np.zeros(rows),
    )


def quick(**settings):
    return Router(4, n_jobs=1, origins=0, **settings)


# --- classes


@pytest.mark.parametrize("freq", [1, 7, "D", "W-SUN", "MS", "QS", "h"])
def test_the_four_classes_and_the_unsold_are_told_apart(freq):
    table = demand_classes(panel_of(freq, **kinds()), season=1)
    assert table["class"].tolist() == table["unique_id"].tolist()
    assert table["adi"][2] == pytest.approx(4, rel=0.02) and table["cv2"][2] == 0
    assert np.isnan(table["adi"][4]) and table["age"].tolist() == [130] * 4 + [0]


def test_the_lines_are_those_of_the_paper():
    "ADI 1.32 and CV² 0.49, and what lies on a line is not below it."
    rows = 132
    often = (np.arange(rows) % 4 != 3).astype(float)  # ADI 4/3, above 1.32
    alike = np.tile([1.0, 3.0], rows // 2)  # CV² 0.25
    apart = np.tile([1.0, 1.0, 1.0, 9.0], rows // 4)  # CV² 1.33
    table = demand_classes(panel_of(a=often, b=alike, c=apart), season=1)
    assert table["class"].tolist() == ["intermittent", "smooth", "erratic"]
    assert table["cv2"].tolist() == pytest.approx([0, 0.25, 12 / 9])
    assert table["adi"].tolist() == pytest.approx([131 / 99, 1, 1], rel=0.01)


def test_zeros_before_the_first_sale_are_no_history():
    panel = panel_of(old=np.ones(60), late=np.r_[np.zeros(50), np.ones(10)])
    assert steps_since_first_sale(panel).tolist() == [60, 10]
    assert demand_classes(panel)["class"].tolist() == ["smooth", "new"]
    assert demand_classes(panel, young=10)["class"].tolist() == ["smooth", "smooth"]
    assert demand_classes(panel)["why"][1] == "10 weeks since the first sale"


def test_what_is_missing_is_neither_a_sale_nor_a_gap():
    y = np.tile([2.0, np.nan, 0.0, 2.0], 30)
    table = demand_classes(panel_of(a=y), season=1)
    assert table["adi"][0] == pytest.approx(90 / 60) and table["cv2"][0] == 0


@pytest.mark.parametrize("season, rows", [(7, 140), (12, 60), (52, 156)])
def test_a_season_is_found_where_there_is_one_and_seldom_elsewhere(season, rows):
    rng = np.random.default_rng(season)
    wave = 12 * np.sin(np.arange(rows) * 2 * np.pi / season)
    some = {f"w{i}": 40 + wave + rng.normal(0, 6, rows) for i in range(20)}
    noise = {f"n{i}": 40 + rng.normal(0, 6, rows) for i in range(100)}
    walk = {f"r{i}": 200 + rng.normal(0, 1, rows).cumsum() for i in range(100)}
    panel = panel_of(1, **some, **noise, **walk)
    found = demand_classes(panel, season)["seasonal"].to_numpy()
    assert found[:20].mean() > 0.9
    assert found[20:120].mean() <= 0.04 and found[120:].mean() <= 0.1


def test_the_season_does_not_depend_on_level_unit_or_missing_rows():
    rng = np.random.default_rng(1)
    y = 50 + 20 * np.sin(np.arange(156) * 2 * np.pi / 52) + rng.normal(0, 5, 156)
    holes = y.copy()
    holes[::11] = np.nan
    panel = panel_of(y=y, far=1e4 * y, up=y + 1000, holes=holes, short=y[:100])
    F, chance = season_test(panel, 52, steps_since_first_sale(panel))
    assert F[1] == pytest.approx(F[0], rel=1e-3)
    assert F[2] == pytest.approx(F[0], rel=1e-3)
    assert F[3] > 10 and chance[3] < 1e-9
    assert (F[4], chance[4]) == (0, 1)


def test_series_are_judged_alone():
    panel = panel_of(**kinds())
    table = demand_classes(panel)
    for i in range(len(panel)):
        one = demand_classes(panel.take([i]))
        pd.testing.assert_frame_equal(one, table.iloc[[i]].reset_index(drop=True))


def test_a_planner_reads_why():
    why = demand_classes(panel_of(**kinds()), season=1)["why"]
    assert why[0].startswith("sold in nearly every week, sizes alike (CV²")
    assert why[2] == "sold in 1 of 4 weeks, sizes alike (CV² 0)"
    assert why[4] == "nothing sold in 130 weeks"


# --- routes


def test_every_series_has_a_line_in_the_order_of_the_panel():
    panel = panel_of(**kinds()).select(["lumpy", "unsold", "smooth", "erratic"])
    forecast = quick().fit(panel).predict()
    routes = forecast.routes
    assert list(routes.columns) == ["unique_id", "class", "model", "why"]
    assert routes["unique_id"].tolist() == panel.ids.tolist()
    assert routes["model"].tolist() == [ROUTES[k][0] for k in routes["class"]]
    assert (forecast.quantile(LEVELS)[1] == 0).all()
    some = forecast.select(["smooth", "lumpy"])
    assert some.routes["unique_id"].tolist() == ["smooth", "lumpy"]


def test_each_part_is_what_its_method_says():
    panel = panel_of(**kinds())
    table = dict(intermittent="CrostonSBA", lumpy="TSB", erratic="EmpiricalQuantiles")
    forecast = quick(models=table, season=1).fit(panel).predict()
    parts = dict(
        intermittent=CrostonSBA(4), lumpy=TSB(4), erratic=EmpiricalQuantiles(4)
    )
    for name, model in parts.items():
        alone = model.fit(panel.select([name])).predict().quantile(LEVELS)
        assert torch.equal(forecast.select([name]).quantile(LEVELS), alone)


def test_the_past_of_a_class_chooses_its_model():
    "What goes on rising is not the recent past; the usual method is left for it."
    noise = np.random.default_rng(0).normal(size=(3, 80))
    rising = {f"s{i}": 99 + (2 + i) * np.arange(80) + noise[i] for i in range(3)}
    names = ("EmpiricalQuantiles", "AutoETS")
    router = Router(4, 1, {"smooth": names}, n_jobs=1).fit(panel_of(**rising))
    assert router.chosen["smooth"] == "AutoETS"
    tried = router.tried.set_index("model")
    assert tried["chosen"].tolist() == [False, True]
    assert tried["wql"]["AutoETS"] < 0.2 * tried["wql"]["EmpiricalQuantiles"]
    said = router.predict().routes["why"][0]
    assert said.endswith("AutoETS, the best on earlier dates")
    stubborn = Router(4, 1, {"smooth": names}, gain=0.999, n_jobs=1)
    stubborn.fit(panel_of(**rising))
    assert stubborn.chosen["smooth"] == "EmpiricalQuantiles"
    said = stubborn.predict().routes["why"][0]
    assert said.endswith("EmpiricalQuantiles, not clearly beaten on earlier dates")


def test_two_that_err_apart_are_averaged(tmp_path):
    "Their quantiles, level by level."
    rng = np.random.default_rng(3)
    some = {f"s{i}": rng.poisson(5, 100).astype(float) for i in range(12)}
    panel = panel_of(**some)
    names = ("SeasonalNaive", "EmpiricalQuantiles")
    router = Router(4, 4, {"smooth": names, "erratic": names}, pairs=True, n_jobs=1)
    router.fit(panel)
    both = router.tried.set_index("model")["wql"]
    router.chosen = dict.fromkeys(CLASSES, "EmpiricalQuantiles + SeasonalNaive")
    assert len(both) >= 3 and both.index[2] == "EmpiricalQuantiles + SeasonalNaive"
    forecast = router.predict()
    parts = [router.model(n).fit(panel).predict().quantile(LEVELS) for n in names]
    mean = sum(parts) / 2
    torch.testing.assert_close(forecast.quantile(LEVELS), mean, atol=0.02, rtol=0.02)
    router.save(tmp_path / "two")
    again = load_model(tmp_path / "two").predict(4, panel)
    assert torch.equal(again.quantile(LEVELS), forecast.quantile(LEVELS))
    assert "together the best" in forecast.routes["why"][0]


def test_more_history_keeps_the_choice(monkeypatch):
    panel = panel_of(**kinds())
    router = Router(4, n_jobs=1).fit(panel.cut(110))
    before = dict(router.chosen)

    def never(*args):
        raise AssertionError("nothing is tried again")

    monkeypatch.setattr(patchwork, "chosen_models", never)
    router.fit_again(panel)
    assert router.chosen == before
    assert router.predict().last.tolist() == panel.last.tolist()


def test_a_file_brings_choice_season_and_trials_back(tmp_path):
    rng = np.random.default_rng(5)
    wave = 10 * np.sin(np.arange(120) * np.pi / 6)
    panel = panel_of(1, **{f"s{i}": 30 + wave + rng.normal(size=120) for i in range(4)})
    router = Router(4, models={"smooth": "TSB"}, n_jobs=1).fit(panel)
    assert router.found_season == 12
    router.save(tmp_path / "router")
    again = load_model(tmp_path / "router")
    assert (again.found_season, again.chosen) == (12, router.chosen)
    assert again.table == router.table
    pd.testing.assert_frame_equal(again.tried, router.tried)
    one = again.predict(4, panel.take([2]))
    assert torch.equal(one.quantile(LEVELS)[0], router.predict().quantile(LEVELS)[2])


def test_the_routes_of_a_calibrated_forecast_are_those_of_the_router():
    panel = panel_of(**kinds())
    model = Calibrated(quick(), origins=2).fit(panel)
    forecast = model.predict()
    assert forecast.routes["class"].tolist() == panel.ids.tolist()


# --- hard series


@pytest.mark.parametrize("freq", [1, 7, "D", "W-SUN", "MS", "QS", "h"])
def test_every_frequency_and_length_is_answered(freq):
    rng = np.random.default_rng(0)
    lengths = (1, 2, 5, 14, 40, 90)
    some = {f"s{n}": rng.negative_binomial(1, 0.3, n).astype(float) for n in lengths}
    some["s1"] += 1
    forecast = Router(5, n_jobs=1).fit(panel_of(freq, **some)).predict()
    found = forecast.quantile(LEVELS)
    assert torch.isfinite(found).all() and (found.diff(dim=-1) >= 0).all()
    assert (found >= 0).all() and len(forecast.routes) == 6
    assert forecast.routes["class"].tolist()[:3] in (
        ["new", "new", "new"],
        ["new", "unsold", "new"],
    )


def test_a_series_of_zeros_has_a_way_of_its_own_and_says_so():
    forecast = quick().fit(panel_of(a=np.zeros(30), b=np.ones(30))).predict()
    assert forecast.routes["class"].tolist() == ["unsold", "smooth"]
    assert forecast.routes["why"][0].startswith("nothing sold in 30 weeks")
    assert (forecast.quantile([0.9])[0] == 0).all()


@pytest.mark.parametrize("name", ["CrostonSBA", "TSB"])
def test_what_falls_below_zero_goes_another_way_and_says_so(name):
    returned = 2.0 * (np.arange(60) % 4 == 0)
    returned[41] = -3
    panel = panel_of(back=returned, plain=2.0 * (np.arange(60) % 4 == 0))
    router = quick(models={"intermittent": name, "lumpy": name}).fit(panel)
    forecast = router.predict()
    assert forecast.routes["model"].tolist() == ["EmpiricalQuantiles", name]
    words = f"EmpiricalQuantiles, as it falls below 0, which {name} cannot forecast"
    assert forecast.routes["why"][0].endswith(words)
    recent = EmpiricalQuantiles(4).fit(panel).predict().quantile(LEVELS)
    assert torch.equal(forecast.quantile(LEVELS)[0], recent[0])
    # trials leave it out, instead of failing on it
    tried = Router(4, 1, {"intermittent": (name, "AutoETS")}, n_jobs=1).fit(panel)
    assert set(tried.tried["series"]) <= {1}


def test_a_series_never_observed_is_refused_by_name():
    panel = panel_of(a=np.ones(30), b=np.full(30, np.nan))
    for ask in (demand_classes, Router(4).fit):
        with pytest.raises(LabError, match="1 series have no observed value: b"):
            ask(panel)


def test_what_a_method_notes_of_a_series_joins_its_line():
    y = np.r_[np.zeros(20), 3.0, 2.0, 4.0]
    forecast = quick(models={"new": "AutoETS"}).fit(panel_of(a=y[-3:])).predict()
    said = forecast.routes["why"][0]
    assert said.startswith("3 weeks since the first sale: AutoETS")
    assert said.endswith("failed or too short: recent quantiles")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Router(models={"fast": "TSB"}), "no such class of demand: fast"),
        (lambda: Router(models={"lumpy": "Prophet"}), "model for lumpy: Prophet"),
        (lambda: Router(models={"lumpy": ["TSB", "X"]}), "no such model for lumpy: X"),
        (lambda: Router(models={"lumpy": []}), "a class without a model: lumpy"),
        (lambda: Router(models={"lumpy": 3}), "names of models for lumpy"),
        (lambda: Router(models=["TSB"]), "models must be a table of class -> model"),
        (lambda: Router(season=0), "season must be a whole number"),
        (lambda: Router(0), "horizon must be a whole number"),
        (lambda: Router(young=0), "young must be a whole number"),
        (lambda: Router(origins=-1), "origins must be a whole number"),
        (lambda: Router(pairs=1), "pairs must be True or False"),
        (lambda: Router(gain=1.0), "gain must"),
        (lambda: textbook_model("Prophet"), "no such textbook model: Prophet"),
        (lambda: demand_classes([1]), "expected a Panel"),
        (lambda: Router().predict(), "has not been fitted"),
    ],
)
def test_what_cannot_be_is_refused_in_words(make, words):
    with pytest.raises(LabError, match=words):
        make()


def test_the_table_names_what_there_is():
    assert set(ROUTES) == set(CLASSES)
    assert {name for names in ROUTES.values() for name in names} <= set(MODELS)
    for name in MODELS:
        assert textbook_model(name, 3, 7).horizon == 3


# --- TSB


def test_the_rate_of_tsb_is_that_of_statsforecast():
    from statsforecast.models import TSB as Peer

    rng = np.random.default_rng(0)
    some = [rng.poisson(0.5, n) * rng.uniform(1, 5, n) for n in (3, 20, 80)]
    some.append(np.r_[0.0, 0.0, 2.0])
    for y in some:
        want = Peer(0.2, 0.05).forecast(y, 1)["mean"]
        np.testing.assert_allclose(tsb_rates([y], (0.2,), (0.05,)), want, rtol=1e-5)
    together = tsb_rates(some)
    np.testing.assert_allclose(together, [tsb_rates([y])[0] for y in some])
    assert tsb_rates([np.zeros(5)]) == 0


def test_the_usual_season_is_that_of_the_frequency():
    router = quick().fit(panel_of("MS", **kinds()))
    assert router.found_season == season_of("MS") == 12


def test_kept_ways_are_those_of_the_whole_history_as_far_as_they_can_be_gone():
    rng = np.random.default_rng(0)
    y = rng.poisson(3, (6, 80)).astype(float)
    rows_of = lambda y: panel_of(**{f"s{i}": row for i, row in enumerate(y)})
    router = Router(4).fit(rows_of(y))
    held = router.keep_routes()
    late = router.predict().routes["model"].tolist()
    short = rows_of(y[:, :9])
    assert held.predict(4, short).routes["model"].tolist() == late
    assert router.predict(4, short).routes["model"].tolist() != late
    y[0, 5] = -2
    # methods that start from 0 cannot forecast the first
    ways = held.predict(4, rows_of(y[:, :30])).routes["model"].tolist()
    assert ways[1:] == late[1:] and ways[0] not in ("TSB", "CrostonSBA")
