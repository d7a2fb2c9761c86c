"""What `help()` says: the comments beside parameters and fields, by nbdev's rule."""

import importlib
import importlib.util
import inspect
import pickle
import pydoc
import subprocess
import sys
import textwrap
import time
import zipfile
from importlib import resources
from pathlib import Path

import pytest

from forecastlab.core import help as lab_help

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("house", ROOT / ".ci" / "house.py")
house = importlib.util.module_from_spec(spec)
spec.loader.exec_module(house)


def squeezed(text):
    return " ".join(text.split())


def read_by_nbdev(thing):
    "Parameter -> comment, as nbdev's reader finds it in the source."
    docments = pytest.importorskip("fastcore.docments").docments
    function = lab_help.innermost(thing) or thing
    return {k: squeezed(v) for k, v in docments(function).items() if v}


def unsaid(thing, doc):
    "Comments that nbdev reads and the docstring does not hold under their names."
    doc = squeezed(doc or "")
    lost = {}
    for name, comment in read_by_nbdev(thing).items():
        entry = doc if name == "return" else doc.partition(f" {name} : ")[2]
        if comment not in entry:
            lost[name] = comment
    return lost


def public(path):
    "Public names of a module with what they stand for; a class brings its `__init__`."
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(parts))
    for name in house.documented(path):
        thing = module
        for part in name.partition(":")[2].split("."):
            thing = inspect.getattr_static(thing, part)
        yield name, thing
        begin = vars(thing).get("__init__") if isinstance(thing, type) else None
        # a dataclass makes its own, which has no source
        if begin and begin.__code__.co_filename == module.__file__:
            yield f"{name}.__init__", begin


@pytest.mark.parametrize("family", ["core", "kernels", "quantile", "demand", "ranking"])
def test_help_says_what_stands_beside_each_parameter(family):
    for package in {"ranking": ["numba", "scipy"], "demand": ["scipy"]}.get(family, []):
        pytest.importorskip(package)
    lost, read = {}, 0
    for path in house.modules():
        if path.parent.name != family:
            continue
        for name, thing in public(path):
            holder = getattr(thing, "__func__", thing)
            if isinstance(thing, type) and not hasattr(thing, "__dataclass_fields__"):
                continue  # its fields are no parameters for nbdev
            read += len(read_by_nbdev(thing))
            if found := unsaid(thing, inspect.getdoc(holder)):
                lost[name] = found
    assert not lost, dict(list(lost.items())[:10])
    assert read > 100
