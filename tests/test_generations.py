"The generations side by side: outcomes, slices, gains, and the job that runs them."

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from forecastlab.core.backtest import origins_of
from forecastlab.core.basics import LabError
from forecastlab.core.panel import Panel
from forecastlab.core.runs import load_json, refuse_early
from forecastlab.core.parameters import declared, find
from forecastlab.demand import generations
from forecastlab.demand.generations import GENERATIONS, Generation, Outcome
from forecastlab.demand.generations import chosen_generations, gain_of, gain_table
from forecastlab.demand.generations import generation_table, plot_generations
from forecastlab.demand.generations import plot_slices, promoted_rows, read_outcome
from forecastlab.demand.generations import run_generation, slice_table, slices_of
from forecastlab.demand.generations import spoken_gain, verdict
from forecastlab.demand.textbook import EmpiricalQuantiles, SeasonalNaive
from toys import walk


def shop(n=12, rows=60, seed=0, **columns):
    "Weekly sales that promotions double; the last product is two weeks old."
    rng = np.random.default_rng(seed)
    promo = (rng.random((n, rows)) < 0.2).astype(int)
    y = rng.poisson(rng.gamma(3, 3, (n, 1)) * (1 + promo)).astype(float)
    df = pd.DataFrame(
        {
            "unique_id": np.repeat([f"p{i:02d}" for i in range(n)], rows),
            "ds": np.tile(pd.date_range("2023-01-01", periods=rows, freq="W-SUN"), n),
            "y": y.ravel(),
            "promo": promo.ravel(),
            "price": np.where(promo, 1.5, 2.0).ravel(),
        }
    ).assign(**columns)
    week = np.tile(np.arange(rows), n)
    return df[(df.unique_id != f"p{n - 1:02d}") | (week >= rows - 8)]


def panel(**change):
    return Panel.from_frame(shop(**change), freq="W-SUN", known=["promo", "price"])


def outcomes(p, **how):
    models = dict(SeasonalNaive=SeasonalNaive(4, season=1))
    models["Last"] = EmpiricalQuantiles(4, last=13)
    how = dict(origins=2, step=2) | how
    return [run_generation(name, m, p, 4, **how) for name, m in models.items()]


# --- the registry


def test_generations_come_in_the_order_of_the_line():
    names = [g.name for g in chosen_generations(["SQRF", "Router", "SeasonalNaive"])]
    assert names == ["SeasonalNaive", "Router", "SQRF"]
    assert [g.name for g in chosen_generations(["forest"])][-1] == "SQRF"
    assert chosen_generations(["all"]) == list(GENERATIONS.values())


@pytest.mark.parametrize("names", [["SQFR"], ["Router", "sqrf"]])
def test_names_that_are_no_generation_are_refused_with_those_that_are(names):
    with pytest.raises(LabError, match="unknown generations: .*Choose among Seasonal"):
        chosen_generations(names)
    with pytest.raises(LabError, match="no generation is named"):
        chosen_generations([])


def test_a_new_generation_is_a_name_and_a_maker(monkeypatch):
    one = Generation("Mean13", "now", "a test", lambda h, *_: EmpiricalQuantiles(h))
    monkeypatch.setitem(GENERATIONS, one.name, one)
    assert chosen_generations(["Mean13", "SeasonalNaive"])[-1].maker(4, 1, None, 0)


# --- outcomes


def test_a_finished_generation_is_found_and_not_made_again(tmp_path, monkeypatch):
    p = panel()
    first = outcomes(p, folder=tmp_path)
    monkeypatch.setattr(generations, "backtest", None)
    again = outcomes(p, folder=tmp_path)
    for a, b in zip(first, again):
        assert vars(a).keys() == vars(b).keys() and a.fit_seconds == b.fit_seconds
        np.testing.assert_array_equal(a.quantiles, b.quantiles)
        np.testing.assert_array_equal(a.pit().low, b.pit().low)


def test_other_data_origins_or_settings_are_other_outcomes(tmp_path):
    outcomes(panel(), folder=tmp_path)
    outcomes(panel(seed=1), folder=tmp_path)
    outcomes(panel(), folder=tmp_path, origins=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


def test_a_damaged_outcome_is_told_and_made_again(tmp_path):
    first = outcomes(panel(), folder=tmp_path)[0]
    file = next(tmp_path.glob("SeasonalNaive-*"))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="is made again"):
        assert read_outcome(file) is None
    with pytest.warns(UserWarning, match="is made again"):
        again = outcomes(panel(), folder=tmp_path)[0]
    np.testing.assert_array_equal(first.quantiles, again.quantiles)


def test_who_refuses_the_data_says_why_and_the_table_goes_on():
    class Unwilling(EmpiricalQuantiles):
        def fit(self, panel):
            raise LabError("too little history")

    p = panel()
    refused = run_generation("Unwilling", Unwilling(4), p, 4, 2, 2)
    table = generation_table([*outcomes(p), refused])
    assert table.note["Unwilling"] == "too little history"
    assert np.isnan(table.wql["Unwilling"]) and table.wql.notna().sum() == 2
    assert set(slice_table([refused], {}).generation) == set()
    assert list(gain_table([refused, *outcomes(p)]).over) == ["SeasonalNaive"]
    assert verdict([refused]) == "Every generation refused these data."


# --- slices


def test_a_promotion_or_a_reduced_price_makes_a_promoted_week():
    p = panel()
    on = promoted_rows(p)
    np.testing.assert_array_equal(on, np.asarray(p.known["promo"]) > 0)
    bare = Panel.from_frame(shop()[["unique_id", "ds", "y"]], freq="W-SUN")
    assert promoted_rows(bare) is None
    flat = panel(price=2.0)
    assert not promoted_rows(flat, promotions=None).any()


def test_slices_are_known_at_the_origin_and_absent_ones_are_told():
    p = panel()
    at = origins_of(p, 4, 1)
    masks, absent = slices_of(p, 4, at, 1)
    assert masks["new"][-1].all() and not masks["new"][:-1].any()
    steps = p.actual(np.full(len(p), at[0]), 4) * 0 == 0
    promo = np.asarray(p.known["promo"]) > 0
    last = p.indptr[1:, None] - 4 + np.arange(4)
    np.testing.assert_array_equal(masks["promoted"][:, 0], promo[last] & steps)
    assert absent["seasonal"] == "nothing of it was sold in the weeks that are scored"
    bare = Panel.from_frame(shop()[["unique_id", "ds", "y"]], freq="W-SUN")
    _, absent = slices_of(bare, 4, at, 1)
    assert absent["promoted"] == "no column tells prices or promotions"


def test_columns_that_are_not_there_are_refused():
    with pytest.raises(LabError, match="leaflet"):
        promoted_rows(panel(), promotions=["leaflet"])


# --- tables


def made(name, off, y, levels=(0.1, 0.5, 0.9)):
    "An outcome whose quantiles all lie a little above what happened."
    q = np.repeat((y + off)[..., None], len(levels), -1).astype(np.float32)
    low = np.where(np.isfinite(y), 0.3, np.nan)
    return Outcome(name, y, q, low, low + 0.2, levels, y.shape[2])


def test_losses_are_those_of_the_definition_and_so_is_the_gain():
    y = np.random.default_rng(0).poisson(5, (20, 2, 3)) + 1.0
    y[0, 0, 0] = np.nan
    a, b = made("SeasonalNaive", 2.0, y), made("Router", 1.0, y)
    table = generation_table([a, b])
    # above by 1: twice 1 - level each
    size = np.nansum(y)
    cells = np.isfinite(y).sum()
    assert table.wql["Router"] == pytest.approx(2 * 0.5 * cells / size, rel=1e-5)
    assert table["wql_0.9"]["Router"] == pytest.approx(0.2 * cells / size, rel=1e-5)
    gain, low, high = gain_of(b, a)
    assert gain == low == high == pytest.approx(0.5)
    assert gain_table([a, b]).sure.tolist() == [True]
    assert table.coverage80["Router"] == 1 and np.isnan(table.volatility["Router"])
    half = np.zeros(y.shape, bool)
    half[:10] = True
    rows = slice_table([a, b], dict(half=half)).set_index(["slice", "generation"])
    assert rows.series["half", "Router"] == 10
    expected = 2 * 0.5 * np.isfinite(y[:10]).sum() / np.nansum(y[:10])
    assert rows.wql["half", "Router"] == pytest.approx(expected, rel=1e-5)


def test_too_few_series_cannot_be_told_from_noise():
    y = np.ones((5, 1, 2))
    gain, low, high = gain_of(made("Router", 1.0, y), made("SeasonalNaive", 2.0, y))
    assert gain == pytest.approx(0.5) and np.isnan(low) and np.isnan(high)
    assert "too few series" in spoken_gain(gain, low, high, "Router")


def test_a_loss_is_told_in_the_direction_of_its_words():
    said = spoken_gain(-0.05, -0.098, -0.02, "Last8")
    assert said.startswith("5 % above that of Last8 (2 to 9.8 % in 90 of 100")
    assert said.endswith("not noise)")
    assert spoken_gain(0.01, -0.01, 0.03, "X").endswith("it may be noise)")


def test_pictures_are_drawn_of_what_was_scored():
    p = panel()
    found = outcomes(p)
    masks, _ = slices_of(p, 4, origins_of(p, 4, 2, 2), 1)
    table, gains = generation_table(found), gain_table(found, masks)
    figure = plot_generations(table, gains, 0.5)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "SeasonalNaive, always",
        "Last",
    ]
    plot_slices(slice_table(found, masks))
    matplotlib.pyplot.close("all")


# --- the job


def test_the_job_runs_on_ones_own_file_and_goes_on_where_it_was(tmp_path):
    shop().to_csv(tmp_path / "mine.csv", index=False)
    how = dict(
        data=str(tmp_path / "mine.csv"),
        known=["promo", "price"],
        freq="W-SUN",
        horizon=4,
        season=1,
        origins=2,
        step=2,
        generations=["SeasonalNaive", "Router", "PriceElasticity"],
        out=str(tmp_path / "run"),
    )
    names, said = walk("demand_generations", **how)
    artifacts = tmp_path / "run" / "artifacts"
    board = pd.read_csv(artifacts / "leaderboard.csv")
    assert list(board.generation) == how["generations"]
    assert np.isfinite(board[["wql", "wql_0.5", "wql_0.9", "coverage80"]]).all().all()
    gains = pd.read_parquet(artifacts / "gains.parquet")
    assert list(gains[gains.slice == "all"].over) == ["SeasonalNaive", "Router"]
    assert "promoted" in set(pd.read_csv(artifacts / "slices.csv").slice)
    metrics = load_json(tmp_path / "run" / "metrics.json")
    assert metrics["series"] == 12
    assert metrics["Router_wql"] == pytest.approx(board.wql[1])
    assert (
        "wins: its loss is" in load_json(tmp_path / "run" / "answer.json")["headline"]
    )
    assert " wins: its loss is" in said
    # the files of finished generations are all that a second run needs
    seconds = board.fit_seconds.tolist()
    walk("demand_generations", **how)
    again = pd.read_csv(artifacts / "leaderboard.csv")
    assert again.fit_seconds.tolist() == seconds


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(generations=["SQFR"]), "unknown generations: SQFR"),
        (dict(generations=[]), "no generation is named"),
        (dict(levels=[0.1, 0.9]), "Add 0.5 and 0.9"),
        (dict(levels=[0.9, 0.5]), "increase without repeats"),
        (dict(levels=[0.5, 1.0]), "strictly between 0 and 1"),
        (dict(origins=0), "origins must be a whole number"),
        (dict(most=-1), "most must be a whole number"),
        (dict(fill="nothing"), "unknown fill: nothing"),
    ],
)
def test_settings_that_cannot_be_are_refused_early(wrong, words):
    path = find("demand_generations")
    values = {name: p.default for name, p in declared(path).items()} | wrong
    with pytest.raises(LabError) as e:
        refuse_early(path, values)
    assert words in str(e.value)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(data="mine.csv"), "a set of the registry"),
        (dict(rows=[1000]), "at least two numbers of rows"),
        (dict(rows=[2000, 1000]), "increasing"),
        (dict(rows=[10, 20]), "rows must be a whole number"),
        (dict(series=0), "series must be a whole number"),
    ],
)
def test_settings_of_the_scale_that_cannot_be_are_refused_early(wrong, words):
    path = find("demand_scale")
    values = {name: p.default for name, p in declared(path).items()} | wrong
    with pytest.raises(LabError) as e:
        refuse_early(path, values)
    assert words in str(e.value)
