"""The house's rules.

No torch; each failure names the culprits and the command that mends them.
"""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS, LIB = ROOT / "nbs", ROOT / "forecastlab"


def tool(name):
    "A module of .ci, which is no package."
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


house = tool("house")
# who may import whom: one way only
FAMILIES = {
    "core": [],
    "kernels": ["core"],
    "quantile": ["kernels", "core"],
    "ranking": ["kernels", "core"],
    "earth": ["kernels", "core"],
    "demand": ["quantile", "ranking", "kernels", "core"],
}


def source(cell):
    return "".join(cell["source"])


def text(nb):
    return json.loads(nb.read_text(encoding="utf-8"))


def where(nb):
    return str(nb.relative_to(ROOT))


def notebooks(folder="."):
    return sorted(
        p
        for p in (NBS / folder).rglob("*.ipynb")
        if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts)
    )


def code(nb):
    return [c for c in text(nb)["cells"] if c["cell_type"] == "code"]


def exports():
    "Notebook -> its `default_exp`, for those that have one."
    found = {}
    for nb in notebooks():
        names = [
            m[1]
            for c in code(nb)
            if (m := re.search(r"^#\|\s*default_exp\s+(\S+)", source(c), re.M))
        ]
        assert len(names) <= 1, f"{where(nb)} has {len(names)} default_exp lines"
        if names:
            found[nb] = names[0]
    return found


def test_each_module_comes_from_one_notebook_of_its_name():
    made = exports()
    for nb, name in made.items():
        own = ".".join(
            [*nb.relative_to(NBS).parent.parts, re.sub(r"^\d+[a-z]?_", "", nb.stem)]
        )
        assert name == own, f"{where(nb)}: default_exp {name} should be {own}"
    assert len(set(made.values())) == len(made), (
        f"a default_exp is used twice: {sorted(made.values())}"
    )
    modules = {
        ".".join(p.relative_to(LIB).with_suffix("").parts)
        for p in LIB.rglob("*.py")
        if p.name not in ("__init__.py", "_modidx.py")
    }
    assert modules == set(made.values()), (
        "modules without a notebook, or not exported yet:"
        f" {sorted(modules ^ set(made.values()))}; delete them or run nbdev_export"
    )


def homes():
    "Lazy names of the package -> the modules that they come from."
    tree = ast.parse((LIB / "__init__.py").read_text())
    return next(
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and n.targets[0].id == "_home"
    )


def imported(source, package):
    """Dotted modules of forecastlab that a module of `package` imports, wherever in the
    file; a lazy name of the package counts as its home.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
            yield from (n for n in names if n.startswith("forecastlab."))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            if base == "forecastlab":
                known = homes()
                for a in node.names:
                    yield f"forecastlab.{known.get(a.name, a.name)}"
            elif base.startswith("forecastlab."):
                yield base


def against_the_order(source, path):
    "What a module imports although its family may not."
    parts = path.relative_to(LIB).parts
    own, wrong = parts[0], []
    for module in imported(source, ["forecastlab", *parts[:-1]]):
        other = module.split(".")[1]
        foreign = other != own and other in FAMILIES and other not in FAMILIES[own]
        if foreign or other in ("pipelines", "studies"):
            wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    return wrong


def test_imports_go_one_way():
    wrong = []
    for path in LIB.rglob("*.py"):
        own = path.relative_to(LIB).parts[0]
        if own in ("__init__.py", "_modidx.py"):
            continue
        assert own in FAMILIES, (
            f"{own} has no place in the order of imports: add it to FAMILIES"
        )
        wrong += against_the_order(path.read_text(encoding="utf-8"), path)
    assert not wrong, wrong


@pytest.mark.parametrize(
    "line",
    [
        "from forecastlab.demand.mq import MQCNN",
        "from ..demand import mq",
        "from forecastlab import MQCNN",
        "def f():\n    import forecastlab.ranking.beam",
    ],
)
def test_a_planted_import_against_the_order_is_found(line):
    assert against_the_order(line, LIB / "core" / "panel.py")


def test_exported_code_needs_no_notebook_tools():
    tools = {"fastcore", "nbdev", "execnb"}
    wrong = []
    for path in LIB.rglob("*.py"):
        if path.name == "_modidx.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            wrong += [
                f"{path.relative_to(ROOT)}:{node.lineno} imports {n}"
                for n in names
                if n.split(".")[0] in tools
            ]
    assert not wrong, wrong


def test_each_pipeline_has_one_parameters_cell_and_defines_no_module():
    for nb in notebooks("pipelines"):
        tagged = [c for c in code(nb) if "parameters" in c["metadata"].get("tags", [])]
        assert len(tagged) == 1, (
            f"{where(nb)} has {len(tagged)} cells tagged `parameters`, not one"
        )
        assert nb not in exports(), f"{where(nb)} is a pipeline and must not export"


@pytest.mark.parametrize("page", ["README.md", "nbs/index.ipynb"])
def test_the_map_names_every_notebook(page):
    "And no notebook that is gone."
    text_of_page = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"\b(\d\d_\w+?)(?:\.ipynb|`)", text_of_page))
    made = {p.stem for p in notebooks() if re.match(r"\d", p.stem)}
    if page.startswith("nbs"):
        made -= {p.stem for p in notebooks("pipelines") if "bench" in p.stem}
    assert not (lost := sorted(made - named)), f"{page} does not name {lost}"
    assert not (gone := sorted(named - {p.stem for p in notebooks()})), (
        f"{page} names {gone}, which are gone"
    )


def test_title_cell_holds_title_subtitle_and_front_matter_only():
    for nb in notebooks():
        cell = next(c for c in text(nb)["cells"] if c["cell_type"] == "markdown")
        lines = [ln for ln in source(cell).splitlines() if ln.strip()]
        assert lines and lines[0].startswith("# "), (
            f"{where(nb)}: the first Markdown cell must be the title"
        )
        assert all(re.match(r"# |> |- \S+:", ln) for ln in lines), (
            f"{where(nb)}: nbdev drops what else stands in the title cell: {lines}"
        )


def test_cells_with_imports_hold_nothing_else():
    """The site runs such cells whole, so anything beside the imports would run there
    too.
    """
    wrong = []
    for nb in notebooks():
        if "pipelines" in nb.parts:
            continue
        for cell in code(nb):
            if "nbdev_export()" in source(cell):
                continue
            body = ast.parse(
                re.sub(r"^[%!]\S.*$", "pass", source(cell), flags=re.M)
            ).body
            top = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in body]
            if any(top) and not all(top):
                wrong.append(f"{where(nb)}: {source(cell).splitlines()[0]}")
    assert not wrong, f"imports mixed with other code: {wrong}"


def test_notebooks_are_small_and_free_of_widget_output_and_errors():
    for nb in notebooks():
        assert nb.stat().st_size <= 300_000, (
            f"{where(nb)} has {nb.stat().st_size / 1000:.0f} kB; 300 at most"
        )
        assert "widgets" not in text(nb)["metadata"], (
            f"{where(nb)} holds widget state: clear its output"
        )
        for cell in code(nb):
            for out in cell["outputs"]:
                assert not any("widget" in k for k in out.get("data", {})), (
                    f"{where(nb)} holds a widget's output: clear it"
                )
                assert out.get("name") != "stderr", (
                    f"{where(nb)} holds a warning, and so a machine's path: run it"
                    " without one, or clear that output"
                )
                assert out["output_type"] != "error", (
                    f"{where(nb)} holds a traceback: {out.get('ename')}"
                )
            assert not ("pipelines" in nb.parts and cell["outputs"]), (
                f"{where(nb)}: a pipeline's outputs belong in runs/; clear them"
            )


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    "The notebooks and the package, copied, cleaned and exported once more."
    pytest.importorskip("nbdev", reason="nbdev is in the `dev` extra")
    copy = tmp_path_factory.mktemp("house")
    for name in ("nbs", "forecastlab"):
        shutil.copytree(
            ROOT / name,
            copy / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            (
                "from nbdev.clean import nbdev_clean; from nbdev.doclinks import"
                " nbdev_export; nbdev_clean(); nbdev_export()"
            ),
        ],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return copy


def differing(copy, pattern):
    both = {
        p.relative_to(base)
        for base in (ROOT, copy)
        for p in base.glob(pattern)
        if not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts)
    }
    return sorted(
        str(p)
        for p in both
        if not (
            (ROOT / p).exists()
            and (copy / p).exists()
            and (ROOT / p).read_bytes() == (copy / p).read_bytes()
        )
    )


def test_notebooks_are_clean(again):
    assert not (odd := differing(again, "nbs/**/*.ipynb")), f"run nbdev_clean: {odd}"


def test_modules_are_exported(again):
    assert not (odd := differing(again, "forecastlab/**/*.py")), (
        f"notebooks and modules differ; run nbdev_export: {odd}"
    )


def test_package_starts_light():
    "`import forecastlab` loads no heavy library: those load where they are used."
    heavy = (
        "torch pandas matplotlib pyarrow numpy scipy narwhals statsforecast ray"
        " papermill IPython".split()
    )
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, forecastlab; print(*(set({heavy}) & set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert not found.stdout.split(), (
        f"import forecastlab also imports {found.stdout.split()}"
    )


def test_public_names_lead_somewhere():
    "Each lazy name of the package is in its module's `__all__`."
    for name, home in homes().items():
        path = (LIB / Path(*home.split("."))).with_suffix(".py")
        assert name in house.public_names(ast.parse(path.read_text())), (
            f"forecastlab.{name} is said to be in {home}, which has no such name"
        )


def test_what_is_public_is_documented_where_a_reader_looks():
    "A docstring, a comment and a type for each parameter, a type of the result."
    faults = {
        name: found
        for path in house.modules()
        for name, found in house.documented(path).items()
        if found
    }
    assert not faults, (
        f"{len(faults)} public names lack words, for example"
        f" {dict(list(faults.items())[:5])}; python .ci/house.py -v lists them"
    )
    assert len(house.EXCUSED) <= 10


@pytest.mark.parametrize(
    "planted, fault",
    [
        ("def f(x: int) -> int:\n    'Doc.'", "no comment on x"),
        ("def f(\n    x,  # a number\n) -> int:\n    'Doc.'", "no type on x"),
        ("def f(\n    x: int,  # a number\n):\n    'Doc.'", "no type of the result"),
        ("def f() -> int:\n    pass", "no docstring"),
        ("class f:\n    'Doc.'\n    def g(self) -> int:\n        pass", "docstring"),
        ("@dataclass\nclass f:\n    'Doc.'\n    x: int = 1", "no comment on x"),
    ],
)
def test_a_planted_lack_of_words_is_found(planted, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(house, "ROOT", tmp_path)
    path = tmp_path / "forecastlab" / "core" / "planted.py"
    path.parent.mkdir(parents=True)
    path.write_text(f'__all__ = ["f"]\n{planted}\n')
    assert fault in str(house.documented(path))


def test_code_is_as_wide_as_a_page():
    wide = [
        f"{path.relative_to(ROOT)}: {line[:60]}"
        for path, line in house.code_lines()
        if len(line) > house.COLUMNS
    ]
    lines = sum(1 for _ in house.code_lines())
    assert len(wide) <= 0.002 * lines, wide[:20]


def test_nbdev_reads_every_comment_of_a_signature():
    "A comment that moved to a bracket's line would be lost to help() and to the site."
    lost = []
    for path in house.modules():
        tree = ast.parse(source := path.read_text(encoding="utf-8"))
        texts, _ = house.comments_of(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.body[0].lineno != node.lineno:
                unread = house.unread_comments(node, texts)
                lost += [f"{path.stem}.{node.name}: {c}" for c in unread]
    assert not lost, lost[:20]


def test_a_planted_comment_that_nbdev_loses_is_found():
    source = "def f(\n    x: int = (\n        1  # lost\n    ),\n) -> int:\n    pass"
    texts, _ = house.comments_of(source)
    assert house.unread_comments(ast.parse(source).body[0], texts) == ["lost"]


def test_the_rule_is_nbdevs_own():
    "The same comments as nbdev's reader, on a module that imports nothing heavy."
    docments = pytest.importorskip("fastcore.docments").docments
    from forecastlab.core import basics

    source = Path(basics.__file__).read_text(encoding="utf-8")
    texts, _ = house.comments_of(source)
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef) or node.decorator_list:
            continue
        ours = {
            name: " ".join(found[i] for i in sorted(found))
            for name, found in house.read_by_nbdev(node, texts).items()
        }
        theirs = {
            name: " ".join(comment.split())
            for name, comment in docments(getattr(basics, node.name)).items()
            if comment
        }
        assert theirs == ours, node.name


def test_papermill_reads_every_parameter():
    "Its help names each with type, default and meaning; a wrapped line would empty it."
    papermill = pytest.importorskip("papermill")
    for nb in notebooks("pipelines"):
        tagged = next(
            source(c) for c in code(nb) if "parameters" in c["metadata"].get("tags", [])
        )
        lines = [x for x in tagged.splitlines() if not x.startswith("#")]
        known = papermill.inspect_notebook(str(nb))
        assert len(known) == len(lines), f"{where(nb)}: {sorted(known)}"
        poor = [
            n for n, p in known.items() if not (p["help"] and p["inferred_type_name"])
        ]
        assert not poor, f"{where(nb)}: papermill's help says nothing of {poor}"


def only_call(method):
    "The call that is all a method does, whether or not it names the answer first."
    body = [
        x for x in method.body if not isinstance(getattr(x, "value", 0), ast.Constant)
    ]
    if len(body) == 2 and isinstance(body[0], ast.Assign):
        named, last = body[0].targets[0], getattr(body[1], "value", None)
        if isinstance(last, ast.Name) and ast.unparse(named) == last.id:
            body = body[:1]
    call = getattr(body[0], "value", None) if len(body) == 1 else None
    return call if isinstance(call, ast.Call) else None


def hands_itself_on(call, free):
    """Does a call give `self` to a private function, a private method of its own, or a
    free function of the module?
    """
    values = [*call.args, *(k.value for k in call.keywords)]
    itself = bool({"self", "cls"} & {ast.unparse(a) for a in values})
    if isinstance(call.func, ast.Name):
        return itself and (call.func.id.startswith("_") or call.func.id in free)
    if not isinstance(call.func, ast.Attribute) or not call.func.attr.startswith("_"):
        return False
    # `self._sum(self.parts)` does something, `self._sum(x)` only has another name
    plain = all(isinstance(a, ast.Name) for a in values)
    return itself or (plain and ast.unparse(call.func.value) in ("self", "cls"))


def delegations(source):
    "Methods whose work is done by a function that gets the whole object."
    tree = ast.parse(source)
    free = {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for b in node.body:
            if isinstance(b, ast.FunctionDef) and not b.name.startswith("_"):
                call = only_call(b)
                if call is not None and hands_itself_on(call, free):
                    yield f"{node.name}.{b.name}"


def test_methods_do_their_work_where_they_are_documented():
    "No `def f(self, x): return _f(self, x)`: the reader would have to look twice."
    wrong = [
        f"{path.stem}.{name}"
        for path in house.modules()
        for name in delegations(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, wrong


@pytest.mark.parametrize(
    "body",
    [
        "return _f(self, x)",
        "return _f(x, self)",
        "return _f(x, whole=self)",
        "y = _f(self); return y",
        "return self._f(x)",
        "return f_of(self)",
        "return module._f(self)",
        "_f(self)",
    ],
)
def test_a_planted_delegation_is_found(body):
    method = f"class A:\n    def f(self, x): {body}"
    assert list(delegations(f"def f_of(a): pass\n{method}"))


@pytest.mark.parametrize("body", ["return g(self.x)", "return self.f(x)", "return x"])
def test_a_method_that_says_what_it_hands_on_is_none(body):
    method = f"class A:\n    def f(self, x): {body}"
    assert not list(delegations(f"def f_of(a): pass\n{method}"))


def test_only_one_place_asks_for_a_gpu():
    asking = [
        str(path.relative_to(LIB))
        for path in LIB.rglob("*.py")
        if "cuda.is_available" in path.read_text(encoding="utf-8")
    ]
    assert asking == ["core/basics.py"], "ask core.basics.has_gpu()"


def test_tests_use_what_is_public():
    wrong = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                if (node.module or "").startswith("forecastlab"):
                    names = [a.name for a in node.names]
                    private = [n for n in names if n[0] == "_" and n[:2] != "__"]
                    wrong += [f"{path.name}: {node.module}.{n}" for n in private]
    assert not wrong, wrong


@pytest.mark.parametrize("job", [["check", "-q"], ["format", "--check", "-q"]])
def test_code_is_formatted_and_free_of_lint(job):
    "Notebooks, tests and tools, in the ways that pyproject.toml names."
    ruff = shutil.which("ruff") or shutil.which(
        "ruff", path=str(Path(sys.executable).parent)
    )
    if ruff is None:
        pytest.skip("ruff is in the `dev` extra")
    done = subprocess.run(
        [ruff, *job, "nbs", "tests", ".ci"], cwd=ROOT, capture_output=True, text=True
    )
    mend = "ruff format, or ruff check --fix, on nbs tests .ci"
    assert done.returncode == 0, f"{mend}\n{done.stdout[-3000:]}"
