"""Random input at every place where it comes in: an answer, or a refusal in words.

A few cases a place; `forecastlab figures doors.fuzz --run` does ten thousand in all.
"""

import numpy as np
import pytest

pytest.importorskip(
    "numba", reason="ranking needs numba: pip install 'forecastlab[ranking]'"
)

import fuzz
from forecastlab.core.basics import LabError

# of what takes longer, fewer
CASES = {"models": 6, "classifiers": 8, "answers": 12, "xr commands": 8}


@pytest.mark.parametrize("place", fuzz.PLACES)
def test_whatever_comes_in_ends_in_an_answer_or_in_words(place):
    for i, found, told in fuzz.cases(place, 0, CASES.get(place, 40), seed=7):
        assert found in (None, *fuzz.GOOD), (i, found, told)


@pytest.mark.parametrize("place", ["frames", "reader", "settings"])
def test_some_cases_end_either_way(place):
    "The harness itself: neither only answers, nor only refusals."
    ends = {found for _, found, _ in fuzz.cases(place, 0, 40, seed=3)} - {None}
    assert ends == set(fuzz.GOOD)


def test_a_raw_error_is_found(monkeypatch):
    def raw(rng):
        yield "nothing", None
        raise KeyError("lost")

    def refused(rng):
        yield "nothing", None
        raise LabError("no")

    monkeypatch.setitem(fuzz.PLACES, "raw", raw)
    monkeypatch.setitem(fuzz.PLACES, "refused", refused)
    rng = np.random.default_rng(0)
    assert fuzz.outcome("raw", rng)[0].startswith("raw KeyError at test_fuzz.py")
    assert fuzz.outcome("refused", rng)[0] == "refused"


def test_a_crash_is_counted_and_the_rest_goes_on():
    "A process that dies takes one case with it."
    ends, faults = fuzz.run("crash", 3)
    assert ends == {"answer": 2, "crash": 1}
    assert faults[0][:3] == ["crash", 1, "crash"]
