"""Damage: a file that is not as it was written gives the old answer, or a clear error.

A few damages a door; `forecastlab figures doors.damage --run` does a thousand.
"""

import pytest

pytest.importorskip(
    "numba", reason="ranking needs numba: pip install 'forecastlab[ranking]'"
)

from forecastlab.core.basics import LabError
import doors

# they train a model first
LONG = [
    name
    for name in doors.DOORS
    if name.startswith(("forecaster", "TextEncoder", "XRTransformer", "embeddings"))
    and name not in ("forecaster MQCNN", "forecaster Calibrated")
]
SHORT = [name for name in doors.DOORS if name not in LONG]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [*SHORT, *(pytest.param(n, marks=pytest.mark.slow) for n in LONG)]
)
def test_a_damaged_file_answers_as_before_or_is_refused(name, tmp_path):
    for row in doors.damaged(name, tmp_path, 0, 2 * len(doors.DAMAGES)):
        assert row[-1] in (None, *doors.GOOD), row


@pytest.mark.parametrize("how", doors.DAMAGES)
def test_every_kind_of_damage_changes_a_file(how, tmp_path):
    rng = doors.np.random.default_rng(0)
    file = tmp_path / "file"
    file.write_bytes(bytes(range(1, 256)))
    undo, found = doors.damage(file, rng, how)
    assert found == file and file.read_bytes() != bytes(range(1, 256))
    undo()
    assert file.read_bytes() == bytes(range(1, 256))


def test_a_door_that_answers_otherwise_is_found(tmp_path):
    "The harness itself: a file without a checksum, a raw error, and a refusal."
    plain = doors.Door(
        lambda path: path.write_text("7" * 50), lambda path: path.read_bytes()
    )
    plain.write(tmp_path / "f")
    expected = plain.answer(tmp_path / "f")
    assert doors.outcome(plain, tmp_path / "f", expected) == "equal"
    (tmp_path / "f").write_text("8")
    assert doors.outcome(plain, tmp_path / "f", expected) == "other"
    (tmp_path / "f").unlink()
    assert doors.outcome(plain, tmp_path / "f", expected).startswith("raw FileNot")

    def refuse(path):
        raise LabError("no")

    assert doors.outcome(doors.Door(None, refuse), None, None) == "refused"
