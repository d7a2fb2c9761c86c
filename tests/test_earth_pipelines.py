"Jobs on gridded data, run small: what they record, and what they say."

import pytest

pytest.importorskip("xarray", reason="xarray is in the `earth` extra")

from forecastlab.core.runs import load_json
from toys import walk

TINY = dict(size=8, past=2, future=2, train=8, validation=4, test=4, width=4)
TINY |= dict(steps=2, batch=2, trial=1, rates=[0.001, 0.01], repeats=2)


def test_nbody_compares_four_at_an_equal_budget_and_names_its_digits(tmp_path):
    names, said = walk("nbody", **TINY, source="drawn", out=str(tmp_path))
    table = names["table"]
    rivals = ["Earthformer", "without vectors", "U-Net", "last frame"]
    assert list(table.index[:4]) == rivals
    metrics = load_json(tmp_path / "metrics.json")
    ratio = table.MSE["Earthformer"] / table.MSE["U-Net"]
    assert metrics["mse_ratio"] == pytest.approx(ratio)
    off = metrics["parameters_unet"] / metrics["parameters"] - 1
    assert abs(off) < 0.02
    assert len(names["trials"]) == 6 and len(names["scores"]) == 9
    answer = load_json(tmp_path / "answer.json")
    assert "drawn ones" in answer["points"]["The digits"]
    for file in ("sequences.png", "lead.png", "scores.csv"):
        assert (tmp_path / "artifacts" / file).stat().st_size > 100
    assert "2 steps" in said


@pytest.mark.slow
def test_every_published_row_is_equal(tmp_path):
    names, _ = walk("earth_table", out=str(tmp_path))
    metrics = load_json(tmp_path / "metrics.json")
    assert metrics["equal"] == metrics["rows"] == 13
    assert metrics["largest_difference_parameters"] == 0
    assert (tmp_path / "artifacts" / "earth_table.csv").exists()
