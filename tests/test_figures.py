"Figures: what is claimed can be measured, and the record is whole or untouched."

import csv
import errno
import threading

import pytest
import yaml

from forecastlab.core import basics, figures
from forecastlab.core.cli import main
from forecastlab.core.figures import COLUMNS, declared_figures, figures_csv, measure
from forecastlab.core.figures import measured_table, met, overview, recorded, upsert
from toys import COUNT, notebook

CLAIMED = {
    "lab.windows": (">= 1e+06", 2e6),
    "lab.load.seconds": ("<= 90", 80),
    "lab.load.gb": ("<= 6", 5),
    "lab.import.seconds": ("<= 0.3", 0.2),
    "lab.loop.ms": ("<= 0.15", 0.1),
    "lab.eia.fast": ("<= 3", 3),
    "lab.eia.wql": ("<= 0.0385", 0.038),
    "lab.breakfast.wql": ("<= 0.3", 0.29),
    "lab.m5.wql": ("< 0.5", 0.499),
    "lab.default.ratio": ("<= 0.95", 0.9),
    "lab.demo.minutes": ("<= 6", 6),
    "lab.test.minutes": ("<= 20", 19),
    "house.documented": (">= 0.99", 1),
    "house.columns": ("<= 0.002", 0.001),
    "house.contract": ("= 1", 1),
    "house.axe": ("<= 0", 0),
    "house.page.kb": ("<= 1000", 700),
    "house.slider.ms": ("<= 200", 90),
    "doors.files": (">= 1", 1),
    "doors.look.seconds": ("<= 5", 3),
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
    "tail.coverage": ("<= 0.01", 0.01),
    "tail.saving": ("<= 0.1", 0.05),
    "tail.newsvendor": ("<= 1.03", 1.02),
    "auto.board.worst": ("<= 1.02", 1.0),
    "auto.board.mean": ("<= 0.93", 0.92),
    "auto.autogluon": ("<= 0.97", 0.96),
    "mq.board.worst": ("<= 1.05", 1.05),
    "auto.public": ("<= 0.68", 0.67),
    "mq.public": ("<= 0.74", 0.73),
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
    "doors.kills": (">= 1", 1),
    "doors.damage": (">= 1", 1),
    "doors.fuzz": (">= 1", 1),
    "ranking.grow.p1": (">= -0.5", 0),
    "ranking.top1.ece": ("<= 0.02", 0.02),
    "ranking.rank.single": ("<= 1.3", 1.3),
    "ranking.start": ("<= 1", 1),
    "ranking.transformer.cost": ("<= 150", 150),
    "earth.parity.float64": ("<= 1e-10", 1e-13),
    "earth.parity.kernels": ("<= 0.0001", 5e-5),
    "earth.params.sevir": ("= 15082069", 15082069),
    "earth.params.enso": ("= 7600077", 7600077),
    "earth.gflops.sevir": ("= 257.405", 257.405),
    "earth.stream": ("<= 1e-05", 1e-6),
    "earth.nbody.mse": ("< 1", 0.9),
    "earth.forward": ("<= 0.6", 0.5),
    "earth.step": ("<= 0.55", 0.5),
    "earth.step.memory": ("<= 0.5", 0.3),
    "earth.enso.gb": ("<= 3.7", 2),
    "forest.fit": ("<= 0.25", 0.2),
    "forest.predict": ("<= 0.2", 0.1),
    "forest.memory": ("<= 0.33", 0.3),
    "forest.pinball": ("<= 1.01", 1.0),
    "forest.exact": ("<= 1e-09", 1e-15),
    "forest.rows": (">= 5e+06", 5e6),
    "forest.seconds": ("<= 60", 30.0),
    "forest.breakfast.wql": ("<= 0.34", 0.33),
    "forest.coverage": ("<= 0.03", 0.02),
    "forest.coldstart": ("<= 0.88", 0.87),
}


@pytest.fixture
def claims(tmp_path, monkeypatch):
    "Two figures of a toy pipeline, declared in a folder of data of their own."
    toy = notebook(tmp_path / "10_toy.ipynb", COUNT)

    base = dict(what="a toy", unit="x", direction="max", pipeline=str(toy))
    base["parameters"] = {"steps": 2}

    def claim(**more):
        wql = dict(id="toy.wql", bar=0.5, metric="wql", peer="naive", peer_value=0.7)
        steps = dict(id="toy.steps", bar=1, metric="steps", divide=4)
        made = [base | wql, base | steps | more]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "figures.yaml").write_text(yaml.safe_dump(made))

    claim()
    monkeypatch.setattr(figures, "embedded_dir", lambda: tmp_path / "data")
    return claim


def test_every_claimed_figure_is_declared_with_its_bar(tmp_path):
    good = [dict(id=id, value=value) for id, (_, value) in CLAIMED.items()]
    upsert(good, tmp_path / "f.csv")
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
        ("equal", False, 5, True),
        ("equal", False, 5.001, False),
    ],
)
def test_bars(direction, strict, value, good):
    assert met(dict(bar=5, direction=direction, strict=strict), value) is good


def test_the_record_in_this_checkout_reads_and_names_only_declared_figures():
    with open(figures_csv(), newline="") as f:
        assert tuple(csv.DictReader(f).fieldnames) == COLUMNS
    assert set(recorded()) <= set(declared_figures())


def test_the_readme_shows_the_record_of_this_checkout(root):
    shown = (root / "README.md").read_text(encoding="utf-8")
    assert measured_table() in shown, "mend: python .ci/readme.py"


def test_a_table_of_figures_names_what_is_missed_and_not_measured(claims, tmp_path):
    file = tmp_path / "f.csv"
    claims(unit="ratio", what="either | or", direction="min")
    upsert([dict(id="toy.steps", value=0.123456)], file)
    lines = measured_table(file).splitlines()
    assert lines[2:] == [
        "| `toy.wql` | a toy | - | ≤ 0.5 | naive: 0.7 |",
        r"| `toy.steps` | either \| or | 0.123 **missed** | ≥ 1 | |",
    ]


@pytest.mark.slow
def test_measure_runs_once_and_records(claims, tmp_path, capsys):
    pytest.importorskip("papermill", reason="papermill is in the `run` extra")
    file, base = tmp_path / "figures.csv", tmp_path / "runs"
    words = ["figures", "toy.wql", "toy.steps", "--run", "--csv", file, "--runs", base]
    assert main([str(word) for word in words]) == 0
    assert "yes" in capsys.readouterr().out
    assert len(list((base / "toy").iterdir())) == 1, "both figures share one run"
    rows = {r["id"]: r for r in csv.DictReader(open(file))}
    wql, steps = rows["toy.wql"], rows["toy.steps"]
    assert (wql["value"], wql["peer"], wql["peer_value"]) == ("0.2", "naive", "0.7")
    assert wql["machine"] and len(wql["date"]) == 10
    assert steps["value"] == "0.5"
    assert steps["command"] == "forecastlab figures toy.steps --run"


@pytest.mark.slow
def test_a_missed_bar_and_a_missing_metric(claims, tmp_path, capsys):
    pytest.importorskip("papermill", reason="papermill is in the `run` extra")
    file, base = tmp_path / "f.csv", tmp_path / "runs"
    words = ["figures", "toy.steps", "--run", "--csv", str(file), "--runs", str(base)]
    claims(strict=True, note="0.5 < 0.5 is false")
    declaration = tmp_path / "data" / "figures.yaml"
    text = declaration.read_text()
    declaration.write_text(text.replace("bar: 1\n", "bar: 0.5\n"))
    assert main(words) == 1 and "NO" in capsys.readouterr().out
    declaration.write_text(text.replace("metric: steps", "metric: stepz"))
    assert main(words) == 2
    assert "recorded no 'stepz'. did you mean 'steps'?" in capsys.readouterr().err


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
    hint = "unknown figure: lab.window. did you mean 'lab.windows'"
    with pytest.raises(ValueError, match=hint):
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
    rows = [dict(id=id, value=i) for i, id in enumerate(CLAIMED)]
    write = lambda row: upsert([row], tmp_path / "f.csv")
    threads = [threading.Thread(target=write, args=[row]) for row in rows]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert list(recorded(tmp_path / "f.csv")) == list(declared_figures())


def test_whole_numbers_are_recorded_whole(tmp_path):
    values = {"lab.windows": 1290450.0, "lab.m5.wql": 0.49512345, "house.contract": 1}
    upsert([dict(id=i, value=v) for i, v in values.items()], tmp_path / "f.csv")
    lines = (tmp_path / "f.csv").read_text().splitlines()[1:]
    assert sorted(line.split(",")[1] for line in lines) == ["0.495123", "1", "1290450"]


@pytest.mark.parametrize("text", ["id,value\nlab.windows,fast\n", "id;value\n1;2\n"])
def test_a_damaged_record_is_one_error(tmp_path, text):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(ValueError, match="f.csv is damaged"):
        overview(tmp_path / "f.csv")


def test_an_installed_package_records_where_you_are(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "home", lambda: tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    upsert([dict(id="lab.windows", value=3.0)])
    made = [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")]
    assert made == ["figures.csv"]
    assert overview().set_index("id").value["lab.windows"] == 3
