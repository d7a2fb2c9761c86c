"""What `help()` says: the comments beside parameters and fields, by nbdev's rule."""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import pickle
import pydoc
import re
import subprocess
import sys
import textwrap
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


def sources(path):
    """Qualified name -> source of each class, and of each function up to its body.

    The rest of a function would only cost time.
    """
    text = path.read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}
    tree = ast.parse(text)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for scope in [tree, *classes]:
        within = f"{scope.name}." if scope in classes else ""
        for node in scope.body:
            if isinstance(node, ast.FunctionDef):
                head = lines[node.lineno - 1 : node.body[0].lineno - 1]
                found[within + node.name] = "\n".join([*head, "        pass"])
            elif isinstance(node, ast.ClassDef):
                found[within + node.name] = ast.get_source_segment(text, node)
    return found


@pytest.fixture
def read_by_nbdev(monkeypatch):
    "Parameter -> comment, as nbdev's own reader finds it in the source."
    reader = pytest.importorskip("fastcore.docments")
    known = {}

    def read(thing):
        function = lab_help.innermost(thing) or thing
        path = inspect.getfile(function)
        if path not in known:
            known[path] = sources(Path(path))
        source = known[path][function.__qualname__]
        monkeypatch.setattr(reader, "getsource", lambda _: source)
        found = reader.docments(function, args_kwargs=True)
        return {k: squeezed(v) for k, v in found.items() if v}

    return read


def unsaid(comments, doc):
    "Comments that a docstring does not hold under their names."
    given, _, result = squeezed(doc or "").partition(" Returns ------- ")
    lost = {}
    for name, comment in comments.items():
        entry = re.compile(rf"(^|\W){name} : .*?{re.escape(comment)}")
        held = comment in result if name == "return" else entry.search(given)
        if not held:
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


def shown_by_nbdev(thing):
    "Has it parameters for nbdev? Fields count in a dataclass only."
    return not isinstance(thing, type) or hasattr(thing, "__dataclass_fields__")


@pytest.mark.parametrize("family", ["core", "kernels", "quantile", "demand", "ranking"])
def test_help_says_what_stands_beside_each_parameter(family, read_by_nbdev):
    for package in {"ranking": ["numba", "scipy"], "demand": ["scipy"]}.get(family, []):
        pytest.importorskip(package)
    lost, read = {}, 0
    for path in house.modules():
        if path.parent.name != family:
            continue
        names = dict(public(path))
        # at an import a fault of describing is passed over, here it is seen
        parts = path.relative_to(ROOT).with_suffix("").parts
        lab_help.describe_module(sys.modules[".".join(parts)])
        for name, thing in names.items():
            if shown_by_nbdev(thing):
                comments = read_by_nbdev(thing)
                doc = inspect.getdoc(getattr(thing, "__func__", thing))
                read += len(comments)
                lost[name] = unsaid(comments, doc)
    lost = {name: comments for name, comments in lost.items() if comments}
    assert not lost, dict(list(lost.items())[:10])
    assert read > 100


PLANTED = """
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

@dataclass
class Shop:
    'A shop.'

    stock: int = 8  # units on the shelf
    # of what is sold,
    # by name
    names: list = field(
        default_factory=list
    )
    silent: bool = False

    @classmethod
    def of(
        cls,
        text: str,  # a line "name: stock"
    ) -> 'Shop':  # filled
        '''Read a shop.

        It is small.
        '''

    @staticmethod
    def closed(
        day: int = 6,  # of the week, from 0
    ) -> bool: ...

    @cached_property
    def worth(self) -> float:  # in money
        'What it is worth.'
        return 1.0

class Large(Shop):
    'A larger shop.'

@lru_cache
def sold(
    shop: Shop,  # where
    # how long; "#" and ", " are no signs here
    days: dict[str, tuple[int, ...]] | str = "#, (",
    *more: int,  # further shops
    silent: bool = False,
    **rest: int,  # by name
) -> tuple[dict[str, int], float]:  # by name; in all
    'What was sold.'

@contextmanager
def opened(
    shop: Shop,  # to be opened
):
    'Open.'
    yield

def short(shop: Shop, days: int) -> float:  # one comment, of the result
    return 0.0

def _private(
    x: int,  # unseen
): ...
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    "A package of one module, which is loaded as ours are."
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "data.txt").write_text("beside")
    (folder / "shops.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    lab_help.install("planted")
    lab_help.install("planted")
    yield importlib.import_module("planted.shops")
    for name in ("planted.shops", "planted"):
        del sys.modules[name]


def test_a_class_shows_its_fields(planted):
    assert inspect.getdoc(planted.Shop) == textwrap.dedent("""\
        A shop.

        Parameters
        ----------
        stock : int, default 8
            units on the shelf
        names : list, default list()
            of what is sold,
            by name""")
    assert "stock : int, default 8" in planted.Large.__doc__


def test_wrapped_functions_show_their_parameters(planted):
    assert inspect.getdoc(planted.sold) == textwrap.dedent("""\
        What was sold.

        Parameters
        ----------
        shop : Shop
            where
        days : dict[str, tuple[int, ...]] | str, default "#, ("
            how long; "#" and ", " are no signs here
        *more : int
            further shops
        **rest : int
            by name

        Returns
        -------
        tuple[dict[str, int], float]
            by name; in all""")
    assert "to be opened" in pydoc.render_doc(planted.opened)


def test_methods_of_every_kind_show_their_parameters(planted):
    shown = pydoc.render_doc(planted.Shop, renderer=pydoc.plaintext)
    for words in ("a line", "It is small.", "filled", "of the week", "in money"):
        assert words in shown
    assert planted.Shop().worth == 1.0
    assert "one comment" in planted.short.__doc__.partition("Returns")[2]


def test_what_has_no_comment_is_left_alone(planted):
    assert "silent" not in planted.sold.__doc__ + planted.Shop.__doc__
    assert vars(planted)["_private"].__doc__ is None


def test_a_comment_that_help_does_not_say_is_found(planted, read_by_nbdev):
    comments = read_by_nbdev(planted.sold)
    assert set(comments) == {"shop", "days", "more", "rest", "return"}
    assert not unsaid(comments, planted.sold.__doc__)
    assert set(unsaid(comments, "What was sold.")) == set(comments)
    assert unsaid({"silent": "no word"}, planted.sold.__doc__)


def test_described_modules_are_ordinary_ones(planted):
    once = planted.sold.__doc__
    lab_help.describe_module(planted)
    assert planted.sold.__doc__ == once
    assert importlib.reload(planted).sold.__doc__ == once
    assert "shop: Shop,  # where" in inspect.getsource(planted.sold.__wrapped__)
    assert resources.files("planted").joinpath("data.txt").read_text() == "beside"
    assert pickle.loads(pickle.dumps(planted.Shop(3))).stock == 3
    assert pickle.loads(pickle.dumps(planted.__spec__)).name == "planted.shops"
    assert planted.__spec__.origin == planted.__file__
    assert sum(hasattr(f, "package") for f in sys.meta_path) == 2  # and our own


def test_an_archive_or_a_lost_source_is_left_alone(planted, tmp_path, monkeypatch):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("zipped/__init__.py", "")
        z.writestr("zipped/shops.py", PLANTED)
    monkeypatch.syspath_prepend(archive)
    lab_help.install("zipped")
    assert importlib.import_module("zipped.shops").short.__doc__ is None
    Path(planted.__file__).unlink()
    lab_help.describe_module(planted)


SMALL = """
import sys
from forecastlab.core.basics import named
print(named.__doc__, "multiprocessing" in sys.modules)
"""


@pytest.mark.parametrize("flags, said", [([], "Parameters"), (["-OO"], "None False")])
def test_a_fresh_python_says_it_too(flags, said):
    done = subprocess.run(
        [sys.executable, *flags, "-c", SMALL],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert said in done.stdout


def test_a_network_lists_the_settings_it_takes_by_name():
    from forecastlab.demand.mq import MQCNN, MQSettings

    said = inspect.getdoc(MQCNN).partition("Settings\n--------\n")[2]
    for field in dataclasses.fields(MQSettings):
        assert f"\n{field.name} : " in f"\n{said}", field.name
    assert "ClassVar" not in inspect.getdoc(MQCNN)
