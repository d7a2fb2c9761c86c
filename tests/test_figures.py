"Figures: what is claimed can be measured, and the record is whole or untouched."

import csv
import errno
import threading

import pytest
import yaml

from forecastlab.core import basics, figures
from forecastlab.core.cli import main
from forecastlab.core.figures import COLUMNS, declared_figures, figures_csv, measure
from forecastlab.core.figures import met, overview, recorded, upsert
from toys import COUNT, notebook

CLAIMED = {
    "lab.windows": (">= 1e+06", 2e6),
    "lab.load.seconds": ("<= 90", 80),
    "lab.load.gb": ("<= 6", 5),
    "lab.import.seconds": ("<= 0.3", 0.2),
    "lab.loop.ms": ("<= 0.15", 0.1),
    "lab.eia.fast": ("<= 3", 3),
    "lab.eia.wql": ("<= 0.0385", 0.038),
    "lab.breakfast.wql": ("<= 0.34", 0.33),
    "lab.m5.wql": ("< 0.5", 0.499),
    "lab.default.ratio": ("<= 0.95", 0.9),
    "lab.demo.minutes": ("<= 6", 6),
    "lab.test.minutes": ("<= 20", 19),
    "quantile.crossing": ("<= 0", 0),
    "quantile.crps.error": ("<= 1e-06", 1e-8),
    "quantile.gluonts.error": ("<= 1e-05", 1e-6),
    "quantile.query.ms": ("<= 50", 40),
    "quantile.eia.wql": ("<= 0.0385", 0.037),
    "quantile.eia.energy": ("< 1", 0.98),
    "quantile.mqf2.time": ("<= 0.05", 0.04),
    "quantile.mqf2.memory": ("<= 0.05", 0.05),
    "quantile.mqf2.energy": ("<= 1.02", 1.01),
    "quantile.carparts.wql": ("<= 0.9045", 0.9),
    "quantile.hospital.wql": ("<= 0.0532", 0.05),
    "quantile.m4hourly.wql": ("<= 0.0254", 0.025),
    "quantile.etth.wql": ("<= 0.0706", 0.07),
    "ranking.conformance": (">= 1", 1),
    "ranking.libpecos.error": ("<= 1e-06", 1e-7),
    "ranking.p1.parity": (">= -0.5", 0),
    "ranking.p1.default": (">= 37.6", 38),
    "ranking.p1.transformer": (">= 4", 5),
    "ranking.batch": ("<= 0.4", 0.2),
    "ranking.single": ("<= 0.35", 0.2),
    "ranking.train": ("<= 0.8", 0.3),
    "ranking.index": ("<= 0.5", 0.4),
    "ranking.million.gb": ("<= 24", 8),
    "ranking.newlabels.p1": (">= -1", 0),
    "ranking.coldstart": ("> 0", 5),
}


@pytest.fixture
def claims(tmp_path, monkeypatch):
    "Two figures of a toy pipeline, declared in a folder of data of their own."
    toy = notebook(tmp_path / "10_toy.ipynb", COUNT)

    def claim(**more):
        base = dict(
            what="a toy",
            unit="x",
            direction="max",
            pipeline=str(toy),
            parameters={"steps": 2},
        )
        made = [
            dict(
                base, id="toy.wql", bar=0.5, metric="wql", peer="naive", peer_value=0.7
            ),
            dict(base, id="toy.steps", bar=1, metric="steps", divide=4, **more),
        ]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "figures.yaml").write_text(yaml.safe_dump(made))

    claim()
    monkeypatch.setattr(figures, "embedded_dir", lambda: tmp_path / "data")
    return claim


def test_every_claimed_figure_is_declared_with_its_bar(tmp_path):
    upsert(
        [dict(id=id, value=good) for id, (_, good) in CLAIMED.items()],
        tmp_path / "f.csv",
    )
    df = overview(tmp_path / "f.csv").set_index("id")
    for id, (bar, _) in CLAIMED.items():
        assert (df.bar[id], df.met[id]) == (bar, "yes")


@pytest.mark.parametrize(
    "direction, strict, value, good",
    [
        ("max", False, 5, True),
        ("max", True, 5, False),
        ("max", True, 4.9, True),
        ("min", False, 5, True),
        ("min", True, 5, False),
        ("min", False, 4, False),
    ],
)
def test_bars(direction, strict, value, good):
    assert met(dict(bar=5, direction=direction, strict=strict), value) is good


def test_the_record_in_this_checkout_reads_and_names_only_declared_figures():
    with open(figures_csv(), newline="") as f:
        assert tuple(csv.DictReader(f).fieldnames) == COLUMNS
    assert set(recorded()) <= set(declared_figures())


@pytest.mark.slow
def test_measure_runs_once_and_records(claims, tmp_path, capsys):
    pytest.importorskip("papermill", reason="papermill is in the `run` extra")
    file = tmp_path / "figures.csv"
    code = main(
        [
            "figures",
            "toy.wql",
            "toy.steps",
            "--run",
            "--csv",
            str(file),
            "--runs",
            str(tmp_path / "runs"),
        ]
    )
    out = capsys.readouterr().out
    assert code == 0 and len(list((tmp_path / "runs" / "toy").iterdir())) == 1, (
        "both figures share one run"
    )
    rows = {r["id"]: r for r in csv.DictReader(open(file))}
    assert (
        rows["toy.wql"]["value"],
        rows["toy.wql"]["peer"],
        rows["toy.wql"]["peer_value"],
    ) == ("0.2", "naive", "0.7")
    assert (rows["toy.steps"]["value"], rows["toy.steps"]["command"]) == (
        "0.5",
        "forecastlab figures toy.steps --run",
    )
    assert (
        rows["toy.wql"]["machine"]
        and len(rows["toy.wql"]["date"]) == 10
        and "yes" in out
    )


@pytest.mark.slow
def test_a_missed_bar_and_a_missing_metric(claims, tmp_path, capsys):
    pytest.importorskip("papermill", reason="papermill is in the `run` extra")
    words = [
        "figures",
        "toy.steps",
        "--run",
        "--csv",
        str(tmp_path / "f.csv"),
        "--runs",
        str(tmp_path / "runs"),
    ]
    claims(strict=True, note="0.5 < 0.5 is false")
    text = (tmp_path / "data" / "figures.yaml").read_text()
    (tmp_path / "data" / "figures.yaml").write_text(
        text.replace("bar: 1\n", "bar: 0.5\n")
    )
    assert main(words) == 1 and "NO" in capsys.readouterr().out
    (tmp_path / "data" / "figures.yaml").write_text(
        text.replace("metric: steps", "metric: stepz")
    )
    assert (
        main(words) == 2
        and "recorded no 'stepz'. did you mean 'steps'?" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "more, message",
    [
        (dict(bars=1), "unknown key bars"),
        (dict(direction="up"), "direction is max, min or equal"),
        (dict(id="toy.wql"), "id given twice"),
        (dict(metric=None), ""),
    ],
)
def test_a_bad_declaration_names_the_figure(claims, tmp_path, more, message):
    entries = yaml.safe_load((tmp_path / "data" / "figures.yaml").read_text())
    entries[1] |= more
    if more.get("metric", 0) is None:
        del entries[1]["metric"]
        message = "no metric"
    (tmp_path / "data" / "figures.yaml").write_text(yaml.safe_dump(entries))
    with pytest.raises(ValueError, match=message):
        declared_figures()


def test_unknown_figure_runs_nothing(tmp_path):
    with pytest.raises(
        ValueError, match="unknown figure: lab.window. did you mean 'lab.windows'"
    ):
        measure(["lab.import.seconds", "lab.window"], runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_leaves_the_old_record(tmp_path, monkeypatch):
    file = tmp_path / "f.csv"
    upsert([dict(id="lab.windows", value=1.0)], file)
    old = file.read_bytes()

    def full(*a):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(basics.os, "replace", full)
    with pytest.raises(OSError, match="could not write .*f.csv"):
        upsert([dict(id="lab.windows", value=2.0)], file)
    assert file.read_bytes() == old and not list(tmp_path.glob(".*.tmp"))


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    ids = list(CLAIMED)
    threads = [
        threading.Thread(
            target=upsert, args=([dict(id=id, value=i)], tmp_path / "f.csv")
        )
        for i, id in enumerate(ids)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert list(recorded(tmp_path / "f.csv")) == list(declared_figures())


@pytest.mark.parametrize("text", ["id,value\nlab.windows,fast\n", "id;value\n1;2\n"])
def test_a_damaged_record_is_one_error(tmp_path, text):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(ValueError, match="f.csv is damaged"):
        overview(tmp_path / "f.csv")


def test_an_installed_package_records_where_you_are(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "home", lambda: tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    upsert([dict(id="lab.windows", value=3.0)])
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == [
        "figures.csv"
    ]
    assert overview().set_index("id").value["lab.windows"] == 3
