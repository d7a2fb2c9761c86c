"""The house's rules.

No torch; each failure names the culprits and the command that mends them.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS, LIB = ROOT / "nbs", ROOT / "forecastlab"
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


def imported(path):
    "Dotted modules of forecastlab that a module imports, wherever in the file."
    package = ["forecastlab", *path.relative_to(LIB).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("forecastlab."))
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(
                    [
                        *package[: len(package) - node.level + 1],
                        *([node.module] if node.module else []),
                    ]
                )
                if node.level
                else node.module
            )
            if base == "forecastlab":
                yield from (f"forecastlab.{a.name}" for a in node.names)
            elif base.startswith("forecastlab."):
                yield base


def test_imports_go_one_way():
    wrong = []
    for path in LIB.rglob("*.py"):
        own = path.relative_to(LIB).parts[0]
        if own in ("__init__.py", "_modidx.py"):
            continue
        assert own in FAMILIES, (
            f"{own} has no place in the order of imports: add it to FAMILIES"
        )
        for module in imported(path):
            other = module.split(".")[1]
            if other != own and other in FAMILIES and other not in FAMILIES[own]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
            if other in ("pipelines", "studies"):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, wrong


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
                re.sub(r"^(\s*)[%!].*$", r"\1pass", source(cell), flags=re.M)
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
    tree = ast.parse((LIB / "__init__.py").read_text())
    homes = next(
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and n.targets[0].id == "_home"
    )
    for name, home in homes.items():
        module = ast.parse(
            (LIB / Path(*home.split(".")).with_suffix(".py")).read_text()
        )
        public = next(
            ast.literal_eval(n.value)
            for n in module.body
            if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"
        )
        assert name in public, (
            f"forecastlab.{name} is said to be in {home}, which has no such name"
        )


def test_code_is_free_of_lint():
    ruff = shutil.which("ruff") or shutil.which(
        "ruff", path=str(Path(sys.executable).parent)
    )
    if ruff is None:
        pytest.skip("ruff is in the `dev` extra")
    done = subprocess.run(
        [ruff, "check", "-q", "forecastlab", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
