"""Parameters: what may come by command line, file and notebook, and what is refused.

Whatever the text, the end is a value of the declared type or the lab's own error.
"""

import random
import warnings

import pytest

from forecastlab.core.basics import LabError
from forecastlab.core.parameters import convert, declared, from_file
from toys import notebook


@pytest.mark.parametrize(
    "text, hint, value",
    [
        ("[1e-1, .5]", "list[float]", [0.1, 0.5]),
        ("[1e-1, .5]", "list", [0.1, 0.5]),
        ("[on, no]", "list[str]", ["on", "no"]),
        ("[on, no]", "list", ["on", "no"]),
        ("[a, None]", "list", ["a", None]),
        ("1, none", "list[int | None]", [1, None]),
        ("[007, 1:30, 2024-01-01]", "list", ["007", "1:30", "2024-01-01"]),
        ("", "list[str]", []),
        ("lr: 1e-3, name: '1'", "dict", {"lr": 0.001, "name": "1"}),
        ("'a, b', c", "list[str]", ["a, b", "c"]),
    ],
)
def test_a_list_on_the_command_line_keeps_the_type_of_its_items(text, hint, value):
    found = convert(text, hint)
    assert found == value
    assert str(found) == str(value)


@pytest.mark.parametrize(
    "value, hint",
    [
        ("None", "list[str]"),
        ("[a, None]", "list[str]"),
        ("few", "list[float]"),
        ("inf", "float"),
        ("[.1, nan]", "list[float]"),
        (float("nan"), "list | float"),
        (10**400, "float"),
        (2.5, "int"),
        ("[" * 10**5, "list"),
        (object(), "Any"),
        ("\udcff", "str"),
    ],
)
def test_what_is_no_value_of_the_type_is_refused(value, hint):
    with pytest.raises(ValueError, match="is not"):
        convert(value, hint)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: !!python/object/apply:os.system [ls]", "Tags are not read: !!python/obj"),
        ("a: !secret 1", "Tags are not read: !secret"),
        ("a: " + "[" * 10**5, "nested too deeply"),
        ("a: &x [*x]", "nested too deeply"),
        ("a: 1\nb: {c: 1, c: 2}", "c is given twice"),
        ("? [a]\n: 1", "A name must be a word"),
        ("a: \x00", "not YAML"),
        ("1/0", "`name: value` lines"),
    ],
)
def test_a_parameter_file_holds_plain_values(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(LabError, match=message):
        from_file(tmp_path / "p.yaml")


def test_a_parameter_file_may_come_from_any_editor(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "p.yaml").write_bytes("fläche: 1e-3".encode(encoding))
        assert from_file(tmp_path / "p.yaml") == {"fläche": 0.001}


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "/"])
def test_no_disk_holds_a_file_of_that_name(name):
    with pytest.raises(LabError, match="no such parameter file"):
        from_file(name)


@pytest.mark.parametrize(
    "default", ["1/0", "9**9**9", "'x'*10**10", "[0]*10**10", "1e999", "(" * 999, "{1}"]
)
def test_a_default_is_a_literal_that_a_run_can_keep(tmp_path, default):
    nb = notebook(tmp_path / "toy.ipynb", "1", declared=f"a = {default}")
    with pytest.raises(LabError, match="parameters cell of toy.ipynb"):
        declared(nb)


WORDS = (
    "[ ] { } : , 1 1e-1 .5 on None ~ &a *a !!int ! ' \" - | > % @ ? # 1/0 010 <<: =="
)
HINTS = [
    "int",
    "float",
    "bool",
    "list",
    "list[float]",
    "dict",
    "str | None",
    "a b",
    "[",
]


def test_random_words_end_in_a_value_or_in_an_error_of_the_lab(tmp_path):
    draw, file = random.Random(0), tmp_path / "p.yaml"
    warnings.simplefilter("ignore", SyntaxWarning)
    for _ in range(300):
        text = "".join(draw.choices([*WORDS.split(), " ", "\n", "\t"], k=6))
        file.write_text(text)
        nb = notebook(tmp_path / "toy.ipynb", "1", declared=f"a = {text}")
        for door in (lambda: from_file(file), lambda: declared(nb)):
            try:
                door()
            except LabError:
                pass
        try:
            convert(text, draw.choice(HINTS))
        except ValueError as e:
            assert "is not" in str(e)
