"""The runs that pages of jobs show are runs of the jobs as they stand."""

import base64
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import yaml

from forecastlab.core.figures import recorded
from toys import notebook

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("executed", ROOT / ".ci" / "executed.py")
executed = importlib.util.module_from_spec(spec)
spec.loader.exec_module(executed)
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    "A job of two cells, and a folder for what is kept of its run."
    monkeypatch.setattr(executed, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(executed, "PICTURES", tmp_path / "pictures")
    return notebook(tmp_path / "10_toy.ipynb", "print(1)", "draw()")


def ran(toy, folder, *outputs):
    "A finished run of it with these outputs of its last cell."
    nb = json.loads(toy.read_text())
    [cell for cell in nb["cells"] if cell["cell_type"] == "code"][-1]["outputs"] = [
        *outputs
    ]
    (folder / "artifacts").mkdir(parents=True)
    (folder / "notebook.ipynb").write_text(json.dumps(nb))
    status = dict(name="toy", status="done", started="2026-11-30T10:00:00", seconds=3)
    (folder / "status.json").write_text(json.dumps(status))
    numbers = dict(wql=0.54261, cpu_seconds=12.0, seconds=99.0)
    (folder / "metrics.json").write_text(json.dumps(numbers))
    return folder


def test_the_run_on_every_page_of_a_job_is_one_of_its_code():
    jobs = executed.jobs()
    wrong = [fault for name in jobs for fault in executed.faults(name, jobs[name])]
    assert not wrong, f"{wrong}; mend, some minutes a job: python .ci/executed.py"
    kept = {path.stem for path in executed.KEPT.glob("*.json")}
    assert kept == set(jobs), "a run is kept of a job that is gone"


def test_runs_that_are_kept_are_small_and_say_nothing_of_a_machine():
    from test_house import OF_A_MACHINE, re

    for path in executed.KEPT.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert len(text) < 300_000, f"{path.name} is large"
        assert not (found := re.search(OF_A_MACHINE, text)), f"{path.name}: {found[0]}"


@pytest.mark.parametrize(
    "name, number, figure",
    [
        ("demand_forecast", "ratio", "lab.default.ratio"),
        ("toy_paths", "energy_ratio", "quantile.mqf2.energy"),
    ],
)
def test_a_run_that_is_kept_has_the_number_that_is_claimed(name, number, figure):
    "A job that has come to other numbers is found when its figure is measured."
    said = executed.kept(name)["numbers"][number]
    claimed = recorded()[figure]["value"]
    assert said == pytest.approx(claimed, rel=0.02), f"mend: .ci/executed.py {name}"


def test_a_change_of_a_cell_is_found(toy, tmp_path):
    assert executed.faults("toy", toy) == ["no run of toy is kept"]
    executed.keep(ran(toy, tmp_path / "run"), toy)
    assert executed.faults("toy", toy) == []
    toy.write_text(toy.read_text().replace("draw()", "draw(2)"))
    [fault] = executed.faults("toy", toy)
    assert fault.endswith("has changed since its run")


def test_a_page_gets_what_the_run_showed_and_no_noise(toy, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    bar = dict(output_type="stream", name="stderr", text="50%|#####     |")
    said = f"1/9\r9/9\nwritten to {folder}/artifacts\n"
    table = "<div><style scoped>td {}</style>\n<table><tr><td>1</td></tr></table></div>"
    outputs = [
        bar,
        dict(output_type="stream", name="stdout", text=said),
        dict(output_type="display_data", data={"image/png": PNG}, metadata={}),
        dict(
            output_type="execute_result",
            data={"text/html": table, "text/plain": "1"},
            metadata={},
            execution_count=1,
        ),
    ]
    executed.keep(ran(toy, folder, *outputs), toy)
    place = tmp_path / "proc" / "pipelines"
    place.mkdir(parents=True)
    shutil.copy(toy, place)
    monkeypatch.setattr(executed, "jobs", lambda: {"toy": toy})
    assert executed.fill(tmp_path / "proc") == []
    nb = json.loads((place / toy.name).read_text())
    first = next(i for i, c in enumerate(nb["cells"]) if c["cell_type"] == "code")
    told = nb["cells"][first - 1]["source"]
    assert "`forecastlab run toy`, on 30 November 2026" in told
    assert "`wql` 0.5426 · `cpu_seconds` 12" in told and "99" not in told
    stream, picture, page = nb["cells"][-1]["outputs"]
    assert stream["text"] == "9/9\nwritten to runs/toy/RUN/artifacts\n"
    assert picture["data"]["image/png"]
    assert page["data"] == {
        "text/html": table.replace("<style scoped>td {}</style>\n", "")
    }
    code = nb["cells"][-1]["source"]
    assert code.startswith("#| code-fold: true\n#| fig-alt: ")


def test_a_page_without_a_run_is_told(toy, tmp_path, monkeypatch):
    place = tmp_path / "proc" / "pipelines"
    place.mkdir(parents=True)
    shutil.copy(toy, place)
    monkeypatch.setattr(executed, "jobs", lambda: {"toy": toy})
    assert executed.fill(tmp_path / "proc") == ["no run of toy is kept"]


def test_the_answer_of_a_run_opens_its_page(toy, tmp_path, monkeypatch):
    nb = json.loads(toy.read_text())
    nb["cells"][-1]["metadata"]["tags"] = ["answer"]
    toy.write_text(json.dumps(nb))
    said = dict(output_type="stream", name="stdout", text="Order 12.")
    folder = ran(toy, tmp_path / "run", said)
    (folder / "artifacts" / "fan.png").write_bytes(base64.b64decode(PNG))
    answer = dict(
        headline="Order 12 boxes.",
        points={"How sure": "19 of 20 weeks.", "Where": f"In {folder}."},
        tables={"By item": [["item", "boxes"], ["a|b", 12]]},
        pictures={"fan.png": "What may come", "gone.png": "Nothing"},
        files={},
    )
    (folder / "answer.json").write_text(json.dumps(answer))
    executed.keep(folder, toy)
    place = tmp_path / "proc" / "pipelines"
    place.mkdir(parents=True)
    shutil.copy(toy, place)
    monkeypatch.setattr(executed, "jobs", lambda: {"toy": toy})
    assert executed.fill(tmp_path / "proc") == []
    cells = json.loads((place / toy.name).read_text())["cells"]
    told = next(c["source"] for c in cells if c["id"] == "one-run")
    assert "**Order 12 boxes.**\n\n*How sure.* 19 of 20 weeks.\n\n" in told
    assert "*Where.* In runs/toy/RUN." in told
    assert "![What may come](toy-fan.png)" in told and "gone.png" not in told
    assert r"| a\|b | 12 |" in told
    assert (place / "toy-fan.png").exists() and not cells[-1]["outputs"]


def test_the_sidebar_names_every_job_and_folds_the_measurements(root):
    site = yaml.safe_load((root / "_quarto.yml").read_text())["website"]["sidebar"]
    sections = {c["section"]: c for c in site["contents"] if isinstance(c, dict)}
    *named, folded = sections["Pipelines"]["contents"]
    files = [str(p.relative_to(root / "nbs")) for p in executed.jobs().values()]
    assert sorted(named) == sorted(files)
    assert folded["section"] == "Measurements"
    # a section inside a section is folded from this level on
    assert site["collapse-level"] == 2
    pattern = folded["contents"]
    every = {
        str(p.relative_to(root / "nbs")) for p in root.glob("nbs/pipelines/*.ipynb")
    }
    assert {str(p.relative_to(root / "nbs")) for p in root.glob(f"nbs/{pattern}")} == (
        every - set(files)
    )
