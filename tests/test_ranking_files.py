"Files of texts and labels against slow readers, and all that can be wrong in them."

import gzip

import numpy as np
import pytest

from forecastlab.core.sparse import binary
from forecastlab.ranking.files import read_xc, write_xc
from toys import some_matrix as some


# Files of text


def xc(tmp_path, text, name="a.txt", **k):
    (tmp_path / name).write_bytes(text.encode())
    return read_xc(tmp_path / name, **k)


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_text_is_read_as_python_reads_it(block, tmp_path):
    rng = np.random.default_rng(0)
    X, Y = some(60, 40, 0.1), binary(some(60, 20, 0.1, seed=1))
    X.data = (rng.normal(size=X.nnz) * 10.0 ** rng.integers(-30, 30, X.nnz)).astype(
        np.float32
    )
    write_xc(tmp_path / "a.txt", X, Y)
    A, B = read_xc(tmp_path / "a.txt", block=block)
    # every bit of every float32
    np.testing.assert_array_equal(A.toarray(), X.toarray())
    np.testing.assert_array_equal(B.toarray(), Y.toarray())
    write_xc(tmp_path / "a.txt.gz", X, Y)
    assert gzip.open(tmp_path / "a.txt.gz").read() == (tmp_path / "a.txt").read_bytes()
    np.testing.assert_array_equal(
        read_xc(tmp_path / "a.txt.gz", block=block)[0].toarray(), X.toarray()
    )


@pytest.mark.parametrize(
    "number",
    [
        "1",
        "-1",
        "+1.5",
        ".5",
        "5.",
        "1e3",
        "1E-3",
        "-1.25e+2",
        "0.1",
        "3.4028235e38",
        "1e-45",
        "123456789012345678901234567890",
        "0.000000000000000000000000001234567",
        "00012.500",
        "1e-400",
    ],
)
def test_numbers_in_every_form_are_read(number, tmp_path):
    assert xc(tmp_path, f"1 1 1\n0 0:{number}\n")[0][0, 0] == np.float32(float(number))


def test_lines_in_every_form_are_read(tmp_path):
    X, Y = xc(
        tmp_path,
        "\ufeff7 4 3\r\n0,2 1:1\t 3:2 \r\n 0:1\r\n0:1\r\n2\r\n\r\n1,1,1 2:1 2:3"
        " 0:1\r\n0 3:1",
    )
    assert Y.toarray().tolist() == [
        [1, 0, 1],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 1],
        [0, 0, 0],
        [0, 1, 0],
        [1, 0, 0],
    ]
    assert X.toarray().tolist() == [
        [0, 1, 0, 2],
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 0, 4, 0],
        [0, 0, 0, 1],
    ]
    X, Y = xc(tmp_path, "2 4 3\n\n1 0:1\n\n\n")
    assert X.shape == (2, 4) and Y.toarray().tolist() == [[0, 0, 0], [0, 1, 0]]
    assert [A.shape for A in xc(tmp_path, "0 4 3\n")] == [(0, 4), (0, 3)]


@pytest.mark.parametrize(
    "line, fault",
    [
        ("0 1=1", "lacks a colon"),
        ("0 1", "lacks a colon"),
        ("3 1:1", "names a label"),
        ("0 4:1", "names a feature"),
        ("a 1:1", "expects a label"),
        ("0, 1:1", "expects a label"),
        ("0,,1 1:1", "expects a label"),
        ("0,1:1", "expects a label"),
        ("-1 1:1", "expects a label"),
        ("0 1:x", "no finite number"),
        ("0 1:", "no finite number"),
        ("0 1:nan", "no finite number"),
        ("0 1:inf", "no finite number"),
        ("0 1:1e39", "no finite number"),
        ("0 1:1e", "no finite number"),
        ("0 1:1:2", "no finite number"),
        ("0 1:1,2:1", "no finite number"),
        ("0 1:1 2", "lacks a colon"),
        ("0 1 :1", "lacks a colon"),
        ("0.5 1:1", "expects a label"),
    ],
)
@pytest.mark.parametrize("block", [5, 1 << 20])
def test_malformed_lines_are_named(line, fault, block, tmp_path):
    with pytest.raises(ValueError) as e:
        xc(tmp_path, f"4 4 3\n0 1:1\n\n{line}\n1 2:3\n", block=block)
    assert "line 4 of " in str(e.value)
    assert fault in str(e.value)
    assert line in str(e.value)


@pytest.mark.parametrize(
    "text, fault",
    [
        ("", "line 1"),
        ("1 2\n", "line 1"),
        ("1 2 x\n", "line 1"),
        ("0 1:1\n", "line 1"),
        ("-1 2 3\n", "line 1"),
        ("3 4 3\n0 1:1\n1 1:1\n", "promises 3 instances, 2 follow"),
        ("1 4 3\n0 1:1\n1 1:1\n", "promises 1 instances, 2 follow"),
    ],
)
def test_first_lines_that_cannot_be(text, fault, tmp_path):
    with pytest.raises(ValueError, match=fault):
        xc(tmp_path, text)
    with pytest.raises(FileNotFoundError):
        read_xc(tmp_path / "none.txt")


def test_random_bytes_never_crash_the_reader(tmp_path):
    rng = np.random.default_rng(0)
    letters = list("0123456789,: .-e\n\t")
    for _ in range(300):
        text = "".join(rng.choice(letters, 40))
        try:
            X, Y = xc(tmp_path, "9 9 9\n" + text)
        except ValueError as e:
            assert "line " in str(e)
        else:
            assert X.has_canonical_format
            assert Y.has_canonical_format
            assert X.shape == Y.shape == (9, 9)


# Tables
