"Pipelines: the main job on one's own files, its bad input, what each declares."

import os
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

matplotlib.use("Agg")
pytest.importorskip("papermill", reason="papermill is in the `run` extra")
pytest.importorskip(
    "statsforecast",
    reason="the main job needs statsforecast: pip install 'forecastlab[demand]'",
)

from forecastlab.core.forecaster import load_model
from forecastlab.core.panel import Panel
from forecastlab.core.parameters import declared, find, pipelines, resolve
from forecastlab.core.runs import load_json, read, run
from forecastlab.demand.mq import MQCNN
from toys import walk

torch.set_num_threads(1)
TINY = dict(
    horizon=4,
    origins=2,
    step=4,
    refit=0,
    model="cnn",
    simple=["SeasonalNaive", "AllHistory"],
    steps=20,
    batch=8,
    levels=[0.1, 0.5, 0.9, 0.95],
    network=dict(context=12, forks=4, channels=4, dilations=[1, 2], mixing=8),
)
OWN = dict(
    id="sku code",
    time_column="week of",
    target="units.sold",
    known=["on sale", "list price"],
    price="list price",
    freq="W-SUN",
)
FILES = {
    "backtest.parquet",
    "fan.png",
    "forecasts.parquet",
    "leaderboard.csv",
    "saving.parquet",
    "service.csv",
    "stock.parquet",
    "stock_curve.png",
}
KEYS = {
    "wql",
    "simple_wql",
    "ratio",
    "wql_90",
    "coverage80",
    "delivered",
    "ask",
    "train_cpu_seconds",
    "stock",
    "units_saved",
    "series",
    "seconds",
}


def sales(n=6, rows=50, ahead=0, seed=0):
    """Odd column names, a price, a promotion known ahead; the last `ahead` weeks are
    still to come.
    """
    rng = np.random.default_rng(seed)
    weeks = pd.date_range("2023-01-01", periods=rows + ahead, freq="W-SUN")
    T = rows + ahead
    promo = (rng.random((n, T)) < 0.2).astype(int)
    df = pd.DataFrame(
        {
            "sku code": np.repeat([f"10-{i:03d}" for i in range(n)], T),
            "week of": np.tile(weeks, n),
            "units.sold": (
                rng.poisson(np.exp(rng.normal(1.5, 0.6, (n, 1))) * (1 + promo)).reshape(
                    -1
                )
            ),
            "on sale": promo.reshape(-1),
            "list price": np.repeat(rng.uniform(1, 9, n).round(2), T),
            "colour": np.repeat(rng.choice(["red", "blue"], n), T),
            "note": "x",
        }
    )
    last = df["week of"] <= weeks[rows - 1]
    return df[last], df[~last]


def check(
    folder, series, horizon=4, model="MQCNN", quantiles=(0.1, 0.5, 0.9, 0.94, 0.95)
):
    "What every finished run of the main job leaves behind."
    found = {p.name for p in (folder / "artifacts").iterdir()}
    assert FILES <= found, FILES - found
    assert ("trials" if model == "AutoForecaster" else "checkpoints") in found
    metrics = load_json(folder / "metrics.json")
    assert KEYS <= set(metrics)
    assert all(np.isfinite(v) for v in metrics.values())
    assert metrics["series"] == series
    f = pd.read_parquet(folder / "artifacts" / "forecasts.parquet")
    assert list(f) == [
        "unique_id",
        "ds",
        model,
        *[f"{model}_ql{a:g}" for a in quantiles],
    ]
    assert len(f) == series * horizon
    q = f.filter(like="_ql").to_numpy()
    assert np.isfinite(q).all()
    assert (np.diff(q) >= 0).all()
    assert np.array_equal(f[model], f[f"{model}_ql0.5"])
    stock = pd.read_parquet(folder / "artifacts" / "stock.parquet")
    assert len(stock) == 20 * series
    assert (stock.groupby("unique_id").units.diff().dropna() >= 0).all()
    saved = pd.read_parquet(folder / "artifacts" / "saving.parquet")
    assert saved.units_saved.sum() == pytest.approx(metrics["units_saved"], rel=1e-5)
    return metrics, f


# --- the main job


def test_the_main_job_runs_on_ones_own_csv(tmp_path):
    """Through papermill, in a run folder, with columns of other names, a price and a
    promotion known ahead.
    """
    past, future = sales(ahead=4)
    past.to_csv(tmp_path / "my sales.csv", index=False)
    future.drop(columns="units.sold").to_csv(tmp_path / "plan.csv", index=False)
    folder = run(
        "demand_forecast",
        TINY
        | OWN
        | dict(
            data=str(tmp_path / "my sales.csv"),
            future=str(tmp_path / "plan.csv"),
            static=["colour"],
        ),
        out=tmp_path / "run",
        terminal=None,
    )
    assert read(folder)["status"] == "done" and (folder / "notebook.html").exists()
    metrics, f = check(folder, 6)
    assert metrics["ratio"] > 0
    assert metrics["simple_wql"] > 0
    assert metrics["money_saved"] > 0
    # beyond the end of the data
    assert f.ds.min() == past["week of"].max() + pd.Timedelta(weeks=1)
    board = pd.read_csv(folder / "artifacts" / "leaderboard.csv", index_col=0)
    assert sorted(board.index) == ["AllHistory", "MQCNN", "SeasonalNaive"]
    assert (board.wql.diff().dropna() >= 0).all()
    assert board.wql["MQCNN"] == pytest.approx(metrics["wql"])
    assert (
        len(pd.read_parquet(folder / "artifacts" / "backtest.parquet")) == 3 * 2 * 6 * 4
    )
    panel = Panel.from_frame(
        past,
        freq="W-SUN",
        id="sku code",
        time="week of",
        target="units.sold",
        known=OWN["known"],
        static=["colour"],
        future=future,
    )
    again = MQCNN.load(folder / "artifacts" / "model.safetensors").predict(4, panel)
    np.testing.assert_allclose(
        again.quantile([0.9]).numpy().ravel(), f["MQCNN_ql0.9"], rtol=1e-5
    )
    assert not list(folder.rglob("*.tmp"))


def test_the_main_job_runs_on_ones_own_parquet_without_the_plan(tmp_path):
    "Nobody knows the coming promotions: the last backtest origin is shown."
    past, _ = sales()
    past.to_parquet(tmp_path / "sales.parquet")
    names, said = walk(
        **TINY
        | OWN
        | dict(
            data=str(tmp_path / "sales.parquet"),
            out=str(tmp_path / "run"),
            model="rnn",
        )
    )
    _, f = check(tmp_path / "run", 6, model="MQRNN")
    assert f.ds.max() == past["week of"].max()
    assert "known covariates end with the history" in said
    assert not (tmp_path / "run" / "artifacts" / "model.safetensors").exists()


def test_the_main_job_bears_stock_outs_short_and_empty_series(tmp_path):
    """One item always sold out, one new, one discontinued, holes that mean nothing was
    sold.
    """
    df, _ = sales(n=7)
    week = (df["week of"] - df["week of"].min()).dt.days // 7
    item = df["sku code"].str[-1].astype(int)
    df = df.assign(stock=(item != 0).astype(int))
    df = df[
        ~(
            (item == 1) & (week < 44)
            | (item == 2) & (week > 40)
            | (item == 3) & week.isin([5, 20])
        )
    ]
    df.to_csv(tmp_path / "a.csv", index=False)
    names, said = walk(
        **TINY
        | OWN
        | dict(
            data=str(tmp_path / "a.csv"),
            known=[],
            past=["list price"],
            available="stock",
            fill="missing",
            out=str(tmp_path / "run"),
            simple=["AllHistory"],
        )
    )
    metrics, f = check(tmp_path / "run", 6)
    assert "Never observed, so left out: 10-000" in said
    assert f.unique_id.nunique() == 6 and "10-000" not in set(f.unique_id)
    assert list(names["board"].index.sort_values()) == ["AllHistory", "MQCNN"]
    first, last = (set(names["result"].of("MQCNN")[i].forecast.ids) for i in (0, 1))
    rest = {f"10-{i:03d}" for i in (3, 4, 5, 6)}
    # the new item joins later; never the one not seen, nor the discontinued one
    assert first == rest and last == rest | {"10-001"}


def test_the_main_job_runs_on_one_series_counted_in_integers_below_zero(tmp_path):
    pd.DataFrame(
        {
            "unique_id": "a",
            "ds": np.arange(40),
            "y": np.random.default_rng(0).normal(-3, 1, 40),
        }
    ).to_csv(tmp_path / "a.csv", index=False)
    names, said = walk(
        **TINY
        | dict(
            data=str(tmp_path / "a.csv"),
            freq="1",
            out=str(tmp_path / "run"),
            model="lags",
            simple=[],
            network=dict(context=10, forks=2, channels=4),
        )
    )
    check(tmp_path / "run", 1, model="MQDense")
    assert "CrostonSBA" not in names["board"].index
    assert "money_saved" not in load_json(tmp_path / "run" / "metrics.json")


def test_the_main_job_takes_the_usual_horizon_of_a_registered_data_set(tmp_path):
    few = dict(horizon=0, origins=1, steps=2, simple=["AllHistory"], final=False)
    names, said = walk(**TINY | few | dict(out=str(tmp_path / "run")))
    check(tmp_path / "run", 1000, horizon=8)
    assert names["data"] == "online_retail" and names["horizon"] == 8


def test_by_default_the_main_job_delivers_the_winner_of_a_competition(tmp_path):
    "Cheap models only, as the budget is small; it says who won, and keeps the trials."
    past, future = sales(ahead=4)
    past.to_csv(tmp_path / "a.csv", index=False)
    future.drop(columns="units.sold").to_csv(tmp_path / "plan.csv", index=False)
    files = dict(data=str(tmp_path / "a.csv"), future=str(tmp_path / "plan.csv"))
    small = {name: TINY[name] for name in ("horizon", "origins", "step", "levels")}
    names, said = walk(
        **small | OWN | files | dict(budget=3.0, out=str(tmp_path / "run"))
    )
    assert resolve(find("demand_forecast"), {})["model"] == "auto"
    check(tmp_path / "run", 6, model="AutoForecaster")
    choice = names["forecast"].choice
    assert choice.sentence() in said
    assert sum(choice.weights.values()) == pytest.approx(1)
    table = pd.read_csv(tmp_path / "run" / "artifacts" / "choice.csv", index_col=0)
    assert set(choice.weights) <= set(table.index)
    assert {"AllHistory", "SeasonalNaive", "MQCNN"} <= set(table.index)
    again = load_model(tmp_path / "run" / "artifacts" / "model.safetensors")
    assert again.choice.weights == choice.weights


# --- its bad input


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(target="units sold"),
            "unknown column: units sold. The data has: sku code, week of, units.sold",
        ),
        (dict(id="sku"), "unknown column: sku. The data has"),
        (
            dict(time_column="week"),
            "unknown column: week. The data has: sku code, week of",
        ),
        (dict(known=["on sale", "prise"]), "unknown column: prise"),
        (
            dict(horizon=-1),
            "the horizon must be at least 1 step, or 0 for the usual one, got -1",
        ),
        (dict(horizon=60), "lies before every series begins. Use fewer origins"),
        (
            dict(simple=["SeasonalNaive", "Prophet", "ARIMA"]),
            (
                "unknown simple methods: Prophet, ARIMA. Choose among: SeasonalNaive,"
                " Naive"
            ),
        ),
        (
            dict(model="transformer"),
            "unknown model: transformer. Choose auto, cnn, rnn, lags",
        ),
        (dict(network=dict(chanels=3)), "unknown settings: chanels. Known: "),
        (dict(fill="nothing"), "unknown fill: nothing. Choose zero, missing"),
        (dict(lower=0.96), "expected 0.8 <= lower < service <= 0.99, got lower=0.96"),
        (dict(levels=[0.9, 0.1]), "levels must increase"),
        (dict(levels=[0.5, 95]), "For 95 % write 0.95"),
        (dict(origins=0), "origins must be a whole number, at least 1, got 0"),
        (dict(step=-1), "step must be a whole number, at least 0, got -1"),
        (dict(refit=-1), "refit must be a whole number, at least 0, got -1"),
        (dict(steps=-1), "steps must be a whole number, at least 0, got -1"),
        (dict(model="auto", budget=0.0), "budget must"),
        (dict(freq="D"), "1,764 rows are missing .* `-p freq W-SUN`"),
        (dict(freq="fortnight"), "unknown freq 'fortnight'"),
        (dict(freq="1"), "are no whole numbers: 2023-01-01"),
        (
            dict(data="online_retial"),
            (
                "neither a file nor a data set: 'online_retial'. Did you mean"
                " online_retail"
            ),
        ),
        (dict(data="breakfast"), "Did you mean breakfast_at_the_frat"),
        (dict(data="nowhere/sales.csv"), "no such file: nowhere/sales.csv"),
        (dict(data="nowhere/*.parquet"), "no parquet file found"),
        (dict(future="none.csv"), "no such file: none.csv"),
    ],
)
def test_bad_parameters_of_the_main_job_are_one_clear_error(tmp_path, change, message):
    sales()[0].to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises((ValueError, TypeError, OSError), match=message) as e:
        walk(
            **TINY
            | OWN
            | dict(
                data=str(tmp_path / "a.csv"),
                out=str(tmp_path / "run"),
                simple=["AllHistory"],
            )
            | change
        )
    assert len(str(e.value)) < 900
    assert not list(tmp_path.rglob("*.parquet"))
    assert not list(tmp_path.rglob("*.tmp"))


def damage(df, what):
    df = df.reset_index(drop=True)
    if what == "duplicate":
        return pd.concat([df, df[7:9]])
    if what == "infinite":
        return df.assign(
            **{
                "units.sold": (
                    df["units.sold"].astype(float).where(df.index != 3, np.inf)
                )
            }
        )
    if what == "empty":
        return df.assign(
            **{"units.sold": df["units.sold"].astype(float).where(df.index != 3)}
        )
    if what == "irregular":
        return df.assign(
            **{
                "week of": (
                    df["week of"].where(
                        df.index != 3, df["week of"] + pd.Timedelta("1D")
                    )
                )
            }
        )
    if what == "text":
        return df.assign(**{"units.sold": "many"})
    if what == "dates":
        return df.assign(**{"week of": "soon"})


@pytest.mark.parametrize(
    "what, message",
    [
        (
            "duplicate",
            (
                r"2 rows repeat a series and date: 10-000 at 2023-02-19, 10-000 at"
                r" 2023-02-26. Say what they are: `-p repeated sum`"
            ),
        ),
        ("infinite", "1 values of 'units.sold' are infinite: row 4"),
        ("empty", "1 values of 'units.sold' are empty: 10-000 at 2023-01-22. Say"),
        ("irregular", "1 dates are not on the calendar 'W-SUN': 2023-01-23. Add"),
        ("text", "1 different cells of 'units.sold' are no numbers: many"),
        ("dates", "1 cells of the time column 'week of' are no dates: soon"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_bad_data_are_one_clear_error(tmp_path, what, message, kind):
    df = damage(sales()[0], what)
    path = tmp_path / f"a.{kind}"
    df.to_csv(path, index=False) if kind == "csv" else df.to_parquet(path)
    with pytest.raises((ValueError, TypeError), match=message):
        walk(**TINY | OWN | dict(data=str(path)))


def test_a_truncated_file_is_named(tmp_path):
    sales()[0].to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:2000])
    with pytest.raises(OSError, match="not a readable parquet file .*a.parquet"):
        walk(**TINY | OWN | dict(data=str(tmp_path / "a.parquet")))


# --- every pipeline


@pytest.mark.parametrize("name", pipelines())
def test_every_pipeline_declares_what_it_takes(name):
    found = declared(find(name))
    assert {"out"} <= set(found) and found["out"].default == ""
    for p in found.values():
        assert p.help, f"{name}: {p.name} has no comment"
    assert set(found) - {"out"} <= set(resolve(find(name), {}))
    with pytest.raises(ValueError, match="did you mean 'out'"):
        resolve(find(name), {"oute": 1})


@pytest.mark.parametrize(
    "name, parameters, keys",
    [
        ("bench_import", dict(repeats=1), {"import_seconds", "loaded"}),
        (
            "bench_windows",
            dict(series=3, steps=250, batch=64, seconds=0.002, repeats=1),
            {"windows_per_cpu_second", "best"},
        ),
        (
            "bench_load",
            dict(series=10, days=20, shuffled=False),
            {"load_seconds", "peak_gb", "by_day_seconds"},
        ),
        pytest.param(
            "bench_loop", dict(steps=10, turns=1), set(), marks=pytest.mark.slow
        ),
        (
            "bench_quantiles",
            dict(trained=6, steps=2, rows=2, series=10, repeats=1),
            {"crossing", "crps_error", "query_ms"},
        ),
        (
            "bench_cold_start",
            dict(data="online_retail", today=20, first=12, width=4, holdout=0.5),
            {"gain", "low", "high", "wql", "baseline_wql"},
        ),
        (
            "bench_heads",
            dict(batch=2, context=4, horizon=2, seconds=0.05),
            {"isqf_time_ratio", "isqf_memory_ratio"},
        ),
        (
            "bench_tail",
            dict(
                models=["MQCNN"],
                settings=dict(MQCNN=dict(steps=2)),
                laws=["gaussian", "poisson"],
                seeds=1,
                series=5,
                length=40,
                horizon=2,
            ),
            {"coverage", "saving", "newsvendor", "MQCNN_cpu"},
        ),
        (
            "bench_board",
            dict(sets=["simulated"], models=["BoostedTrees"], peer=False, most=6),
            {"sets", "trees_mean", "trees_worst", "simple_cpu_seconds"},
        ),
        (
            "bench_public",
            dict(tasks=["online_retail"], models=["SeasonalNaive"], most=6),
            {"tasks", "naive", "naive_cpu_seconds"},
        ),
        (
            "bench_kills",
            dict(kills=3, trained=False),
            {"kills", "told", "tried", "never_began"},
        ),
        (
            "bench_tests",
            dict(command=f"{sys.executable} -c 'print(\"3 passed\")'", setup=""),
            {"minutes", "exit_code", "passed"},
        ),
        ("bench_doors", dict(damages=6, doors=["note"]), {"damage", "crashes"}),
        ("bench_fuzz", dict(cases=6, places=["parameters"]), {"fuzz", "crashes"}),
        pytest.param(
            "bench_earth_gpu",
            dict(batches=[1], batch=1, repeat=1),
            {"gpu", "rows", "step_ratio"},
            marks=pytest.mark.long,
        ),
    ],
)
def test_every_benchmark_runs_small(name, parameters, keys, tmp_path, root):
    assert name in pipelines(), f"there is no pipeline {name}"
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        walk(name, **parameters, out=str(tmp_path))
    finally:
        cores and os.sched_setaffinity(0, cores)
    assert keys <= set(load_json(tmp_path / "metrics.json"))
    assert not list(tmp_path.rglob("*.tmp"))
