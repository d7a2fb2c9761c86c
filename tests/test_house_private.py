"""What begins with an underscore stays in its module: no other imports or reaches it.

A name that two modules share is public, with words of its own. No torch.
"""

import ast
from pathlib import Path

import pytest

LIB = Path(__file__).resolve().parent.parent / "forecastlab"
# modules of the package itself, not `__init__` and what nbdev generates
MODULES = [p for p in sorted(LIB.glob("*/*.py")) if not p.name.startswith("_")]


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def is_ours(node):
    "Does this `from ... import` name a module of the package?"
    return node.level > 0 or (node.module or "").split(".")[0] == "forecastlab"


def borrowed(source):
    "(line, name) of underscore names that a module takes from another of ours."
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom) and is_ours(n)]
    names = [(n.lineno, a) for n in imports for a in n.names]
    found = [(line, a.name) for line, a in names if is_private(a.name)]
    # `from . import chunks` or `import forecastlab.x as x`, then `chunks._margins`
    called = {a.asname or a.name for _, a in names}
    for n in nodes:
        if isinstance(n, ast.Import):
            ours = [a for a in n.names if a.name.split(".")[0] == "forecastlab"]
            called |= {(a.asname or a.name).split(".")[0] for a in ours}
    for n in nodes:
        if isinstance(n, ast.Attribute) and is_private(n.attr):
            root = n.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in called:
                found.append((n.lineno, f"{root.id}.{n.attr}"))
    return found


def test_no_module_borrows_a_private_name():
    assert len(MODULES) > 50
    found = [
        f"{p.relative_to(LIB)}:{line} takes {name}"
        for p in MODULES
        for line, name in borrowed(p.read_text(encoding="utf-8"))
    ]
    assert not found, "Make the name public, or move it: " + "; ".join(found)


@pytest.mark.parametrize(
    "line, name",
    [
        ("from .chunks import Chunks, _margins", "_margins"),
        ("from ..core.sparse import _row_sums as row_sums", "_row_sums"),
        ("def f():\n    from forecastlab.core.basics import _digest", "_digest"),
        ("from . import chunks\nchunks._margins(1)", "chunks._margins"),
        ("import forecastlab.core.sparse as S\nS._best", "S._best"),
        (
            "import forecastlab.core.sparse\nforecastlab.core.sparse._best",
            "forecastlab._best",
        ),
    ],
)
def test_a_planted_private_import_is_found(line, name):
    assert [found for _, found in borrowed(line)] == [name]


@pytest.mark.parametrize(
    "line",
    [
        "from .chunks import Chunks\nChunks.load('x')",
        "from os import _exit",
        "from . import __version__",
        "self._own",
        "import numpy as np\nnp._x",
    ],
)
def test_what_is_no_private_name_of_ours_is_let_pass(line):
    assert borrowed(line) == []
