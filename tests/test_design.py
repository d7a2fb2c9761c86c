"""The design matrix: no column sees past its origin, and each says what it is."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastlab.core.backtest import plant
from forecastlab.core.basics import LabError
from forecastlab.core.panel import Panel
from forecastlab.demand.design import Design, Samples, design_rows, drawn_samples
from forecastlab.demand.design import latest_samples


def shops(freq="W-SUN", rows=60, n=4, seed=0, fill=None, **columns):
    "Some series of counts with plans known ahead, a past price, a kind and a text."
    rng = np.random.default_rng(seed)
    ds = pd.date_range("2021-01-03", periods=rows, freq=freq) if freq != 1 else None
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(n)], rows),
            "ds": np.tile(np.arange(rows) if ds is None else ds, n),
            "y": rng.poisson(4, n * rows).astype(float),
            "plan": rng.integers(0, 2, n * rows),
            "offer": rng.uniform(1, 2, n * rows),
            "event": rng.choice(["none", "fair"], n * rows),
            "price": rng.uniform(1, 2, n * rows),
            "kind": np.repeat([["mug", "tin"][i % 2] for i in range(n)], rows),
            "text": np.repeat([["red mug", "red tin"][i % 2] for i in range(n)], rows),
        }
        | columns
    )
    return Panel.from_frame(
        frame,
        freq,
        known=["plan", "offer", "event"],
        past="price",
        static=["kind", "text"],
        fill=fill,
    )


@given(
    freq=st.sampled_from(["W-SUN", "D", "h", "MS", "QS", 1]),
    season=st.sampled_from([None, 1, 4, 7, 12, 24]),
    origin=st.integers(0, 50),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_no_column_changes_when_the_future_does(freq, season, origin, seed):
    panel = shops(freq, seed=seed)
    design = Design(season=season, text="text").fit(panel)
    samples = Samples(np.arange(4), np.full(4, origin), np.array([1, 2, 5, 9]))
    absurd = plant(panel, int(panel.start[0]) + origin - 1)
    told, again = (design.rows(p, samples) for p in (panel, absurd))
    assert np.array_equal(told.X.toarray(), again.X.toarray(), equal_nan=True)
    assert np.array_equal(told.level, again.level)


def test_a_row_depends_on_its_own_series_only():
    panel = shops()
    design = Design(text="text").fit(panel)
    among = design.rows(panel, latest_samples(panel, 3)).X.toarray()[6:9]
    alone = panel.take([2])
    alone = design.rows(alone, latest_samples(alone, 3)).X.toarray()
    assert np.array_equal(alone, among, equal_nan=True)


def test_chunks_change_nothing_and_zeros_are_not_stored():
    panel = shops()
    samples = drawn_samples(panel, 4, 8, 200, 0)
    whole = design_rows(panel, samples)
    parts = Design(chunk=17).fit(panel).rows(panel, samples)
    assert np.array_equal(whole.X.toarray(), parts.X.toarray(), equal_nan=True)
    assert (whole.X.data != 0).all() and np.isnan(whole.X.data).any()
    assert whole.X.dtype == np.float32 and whole.X.has_sorted_indices
    assert len(whole.names) == len(whole.groups) == whole.X.shape[1]
    assert len(set(whole.names)) == len(whole.names)
    assert [whole.names[i] for i in whole.codes] == [
        "known event",
        "static kind",
        "static text",
    ]


def test_lines_have_their_groups_and_new_lines_the_common_ones():
    panel = shops()
    few = ["horizon", "lags"]
    design = Design(line="kind", lines={"tin": few}).fit(panel)
    samples = Samples(np.array([0, 1]), np.array([40, 40]), np.array([1, 1]))
    matrix = design.rows(panel, samples)
    stored = [{matrix.groups[i] for i in row.indices} for row in matrix.X]
    assert stored[1] <= set(few) < stored[0]
    # a kind that nobody named
    other = shops(kind=np.repeat("pan", 240))
    assert {matrix.groups[i] for i in design.rows(other, samples).X[1].indices} > {*few}


def test_a_column_that_is_missing_throughout_is_nan():
    panel = shops()
    panel = replace(panel, past={"price": np.full_like(panel.past["price"], np.nan)})
    matrix = design_rows(panel, drawn_samples(panel, 4, 8, 50, 0))
    assert np.isnan(matrix.columns("past")["past price"]).all()


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(groups=["lag"]), "unknown groups of columns: lag"),
        (dict(groups="lags"), "list of names"),
        (dict(groups=[]), "list of names"),
        (dict(lines=["a"]), "name the groups of each line"),
        (dict(lines={"a": ["lags"]}), "Pass line="),
        (dict(line="kind", lines={"a": ["lag"]}), "of line a: lag"),
        (dict(words=0), "words"),
    ],
)
def test_wrong_settings_are_refused(wrong, words):
    with pytest.raises(LabError, match=words):
        Design(**wrong)


def test_columns_that_are_not_there_are_refused():
    with pytest.raises(LabError, match="no static column of text. There are: kind"):
        Design(text="words").fit(shops())
    with pytest.raises(LabError, match="has not been fitted"):
        Design().rows(shops(), latest_samples(shops(), 2))
