"""The house's rules.

No torch; each failure names the culprits and the command that mends them. A rule is a
function that returns complaints: its test holds the house to it, and the test below
plants a fault that the same function must find.
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
import yaml

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


def where(path):
    "Below the project's root; what was planted elsewhere goes by its name."
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def notebooks(folder="."):
    return sorted(
        p
        for p in (NBS / folder).rglob("*.ipynb")
        if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts)
    )


def code(nb):
    return [c for c in text(nb)["cells"] if c["cell_type"] == "code"]


def declares(cell):
    return "parameters" in cell["metadata"].get("tags", [])


def cell(source, kind="code", tags=(), **other):
    "A cell to plant."
    made = {"cell_type": kind, "metadata": {"tags": [*tags]}, "source": [source]}
    made |= {"outputs": [], "execution_count": None} if kind == "code" else {}
    return made | {"id": "planted"} | other


def plant(path, *cells, **metadata):
    "A notebook of these cells."
    made = dict(cells=cells, metadata=metadata, nbformat=4, nbformat_minor=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made))
    return path


def exports(nb):
    "The modules that a notebook says it is: none or one, where all is well."
    lines = [
        re.search(r"^#\|\s*default_exp\s+(\S+)", source(c), re.M) for c in code(nb)
    ]
    return [m[1] for m in lines if m]


def unmatched(
    made,  # notebook, by its path below nbs -> its `default_exp`s
    modules,  # dotted names of the modules that are there
):
    "Notebooks and modules that do not belong together."
    wrong, known = [], []
    for nb, names in made.items():
        parts = [*nb.parent.parts, re.sub(r"^\d+[a-z]?_", "", nb.stem)]
        own = ".".join(parts)
        wrong += [f"{nb}: default_exp {n} should be {own}" for n in names if n != own]
        if len(names) > 1:
            wrong.append(f"{nb} has {len(names)} default_exp lines")
        known += names
    wrong += [f"{n} is used twice" for n in set(known) if known.count(n) > 1]
    wrong += [f"{m} has no notebook: delete it" for m in sorted(modules - {*known})]
    return wrong + [f"run nbdev_export: no {m}" for m in sorted({*known} - modules)]


def test_each_module_comes_from_one_notebook_of_its_name():
    made = {nb.relative_to(NBS): exports(nb) for nb in notebooks()}
    modules = {
        ".".join(p.relative_to(LIB).with_suffix("").parts)
        for p in LIB.rglob("*.py")
        if p.name not in ("__init__.py", "_modidx.py")
    }
    assert len(modules) > 50
    assert not (wrong := unmatched(made, modules)), wrong


@pytest.mark.parametrize(
    "change, modules, fault",
    [
        ({}, ["core.panel"], None),
        ({"core/10_panel.ipynb": ["core.pannel"]}, ["core.pannel"], "should be"),
        ({"core/10_panel.ipynb": ["core.panel"] * 2}, ["core.panel"], "lines"),
        ({"core/11_panel.ipynb": ["core.panel"]}, ["core.panel"], "used twice"),
        ({}, ["core.panel", "core.gone"], "core.gone has no notebook"),
        ({"core/12_new.ipynb": ["core.new"]}, ["core.panel"], "no core.new"),
    ],
)
def test_a_planted_module_of_no_or_another_notebook_is_found(change, modules, fault):
    made = {"core/10_panel.ipynb": ["core.panel"], "index.ipynb": []} | change
    wrong = unmatched({Path(nb): names for nb, names in made.items()}, set(modules))
    assert fault in str(wrong) if fault else not wrong


def test_a_planted_second_module_of_a_notebook_is_read(tmp_path):
    cells = [cell(f"#| default_exp core.{name}\n") for name in ("one", "two")]
    assert exports(plant(tmp_path / "10_one.ipynb", *cells)) == ["core.one", "core.two"]


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


def notebook_tools(source):
    "What a module imports of the tools that only its notebook needs."
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (n for n in names if n.split(".")[0] in TOOLS)


TOOLS = {"fastcore", "nbdev", "execnb"}


def test_exported_code_needs_no_notebook_tools():
    wrong = [
        f"{where(path)} imports {name}"
        for path in LIB.rglob("*.py")
        if path.name != "_modidx.py"
        for name in notebook_tools(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, wrong


@pytest.mark.parametrize(
    "line",
    ["import nbdev", "from fastcore.all import L", "def f():\n    import execnb"],
)
def test_a_planted_notebook_tool_is_found(line):
    assert list(notebook_tools(line))


def unlike_a_pipeline(nb):
    """A pipeline has one cell of parameters, which the formatter leaves alone.

    The next thing it does is to check their types, however it is run.
    """
    wrong, tagged = [], [c for c in code(nb) if declares(c)]
    after = [source(c) for c in code(nb)][
        1 + [*map(declares, code(nb)), True].index(True) :
    ]
    # what is checked early brings its own imports
    work = re.sub(r"(?m)^(?:from|import) .*\n|^\n", "", after[0]) if after else ""
    if not work.startswith("as_declared(globals())\n"):
        wrong.append(f"{where(nb)}: call as_declared(globals()) below the parameters")
    if len(tagged) != 1:
        wrong.append(f"{where(nb)}: {len(tagged)} cells tagged `parameters`, not one")
    if not all(source(c).startswith("# fmt: off\n") for c in tagged):
        wrong.append(f"{where(nb)}: begin the parameters with `# fmt: off`")
    if exports(nb):
        wrong.append(f"{where(nb)} is a pipeline and must not export")
    return wrong


def test_each_pipeline_has_one_parameters_cell_and_defines_no_module():
    wrong = [x for nb in notebooks("pipelines") for x in unlike_a_pipeline(nb)]
    assert not wrong, wrong


DECLARED = "# fmt: off\nseed: int = 0  # Of all draws\nout: str = ''  # Run folder"
CHECKED = cell("as_declared(globals())\nseed += 1")


@pytest.mark.parametrize(
    "cells, fault",
    [
        ([cell(DECLARED, tags=["parameters"]), CHECKED], None),
        ([cell(DECLARED, tags=["parameters"])], "as_declared"),
        ([cell(DECLARED)], "0 cells"),
        ([cell(DECLARED, tags=["parameters"])] * 2, "2 cells"),
        ([cell("seed: int = 0  # Of draws", tags=["parameters"])], "fmt: off"),
        (
            [cell("#| default_exp core.x"), cell(DECLARED, tags=["parameters"])],
            "export",
        ),
    ],
)
def test_a_planted_pipeline_of_another_form_is_found(cells, fault, tmp_path):
    wrong = unlike_a_pipeline(plant(tmp_path / "planted.ipynb", *cells))
    assert fault in str(wrong) if fault else not wrong


def off_the_map(
    page,  # its text
    made,  # stems of the notebooks that it must name
    there,  # stems of all notebooks
):
    "Notebooks that a page does not name, and those it names that are not there."
    named = set(re.findall(r"\b(\d\d_\w+?)(?:\.ipynb|`)", page))
    return [f"does not name {x}" for x in sorted(made - named)] + [
        f"names {x}, which is gone" for x in sorted(named - there)
    ]


@pytest.mark.parametrize("page", ["README.md", "nbs/index.ipynb"])
def test_the_map_names_every_notebook(page):
    "And no notebook that is gone."
    there = {p.stem for p in notebooks()}
    made = {x for x in there if re.match(r"\d", x)}
    if page.startswith("nbs"):
        made -= {p.stem for p in notebooks("pipelines") if "bench" in p.stem}
    wrong = off_the_map((ROOT / page).read_text(encoding="utf-8"), made, there)
    assert made and not wrong, f"{page} {wrong}"


@pytest.mark.parametrize("page", ["README.md", "nbs/index.ipynb"])
def test_a_planted_hole_in_the_map_is_found(page):
    there = {p.stem for p in notebooks()}
    words = (ROOT / page).read_text(encoding="utf-8")
    holed = words.replace("10_panel", "panel")
    assert off_the_map(holed, {"10_panel"}, there) == ["does not name 10_panel"]
    for invented in ("`11_magic`", "[magic](core/11_magic.ipynb)"):
        wrong = off_the_map(words + invented, {"10_panel"}, there)
        assert wrong == ["names 11_magic, which is gone"]


def title_faults(nb):
    "What stands in the title cell beside title, subtitle and front matter."
    first = next(c for c in text(nb)["cells"] if c["cell_type"] == "markdown")
    lines = [ln for ln in source(first).splitlines() if ln.strip()]
    if not (lines and lines[0].startswith("# ")):
        return [f"{where(nb)}: the first Markdown cell must be the title"]
    dropped = [ln for ln in lines if not re.match(r"# |> |- \S+:", ln)]
    return [f"{where(nb)}: nbdev drops {ln!r} of the title cell" for ln in dropped]


def test_title_cell_holds_title_subtitle_and_front_matter_only():
    wrong = [x for nb in notebooks() for x in title_faults(nb)]
    assert not wrong, wrong


@pytest.mark.parametrize(
    "title, fault",
    [
        ("# Panels\n> Many series\n- order: 1", None),
        ("# Panels\n> Many series\n\nThey are packed.", "They are packed."),
        ("## Panels", "must be the title"),
        ("", "must be the title"),
    ],
)
def test_a_planted_fault_of_the_title_is_found(title, fault, tmp_path):
    wrong = title_faults(plant(tmp_path / "planted.ipynb", cell(title, "markdown")))
    assert fault in str(wrong) if fault else not wrong


def mixed_imports(nb):
    "Cells that hold imports and more; the last one, which exports, may."
    for c in code(nb):
        if "nbdev_export()" in source(c):
            continue
        # a line for the shell is no Python
        body = ast.parse(re.sub(r"^[%!]\S.*$", "pass", source(c), flags=re.M)).body
        top = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in body]
        if any(top) and not all(top):
            yield f"{where(nb)}: {source(c).splitlines()[0]}"


def test_cells_with_imports_hold_nothing_else():
    """The site runs such cells whole, so anything beside the imports would run there
    too.
    """
    shown = [nb for nb in notebooks() if "pipelines" not in nb.parts]
    wrong = [x for nb in shown for x in mixed_imports(nb)]
    assert not wrong, f"imports mixed with other code: {wrong}"


@pytest.mark.parametrize(
    "planted", ["import os\nx = 1", "x = 1\nfrom os import path", "import os\n%time 1"]
)
def test_a_planted_import_among_other_code_is_found(planted, tmp_path):
    assert list(mixed_imports(plant(tmp_path / "planted.ipynb", cell(planted))))


HEAVIEST = 300_000  # bytes of a notebook
# where somebody's machine or a library's complaint shows
OF_A_MACHINE = r"(?:/home|/root|/tmp|/Users|/work)/\S*|site-packages\S*|\b\w*Warning:"


def words_of(out):
    "What an output says: its text, but no picture."
    data = {k: v for k, v in out.get("data", {}).items() if not k.startswith("image/")}
    return json.dumps([out.get("text", ""), data])


def output_faults(out):
    "What must not be stored of an output."
    if any("widget" in kind for kind in out.get("data", {})):
        yield "a widget's output: clear it"
    if out["output_type"] == "error":
        yield f"a traceback: {out.get('ename')}"
    if out.get("name") == "stderr":
        yield "a warning, and so a machine's path: run it without one, or clear it"
    elif found := re.search(OF_A_MACHINE, words_of(out)):
        yield f"a warning or a machine's path: {found[0]}"


def ballast(nb):
    "What a notebook should not carry."
    held = [why for c in code(nb) for out in c["outputs"] for why in output_faults(out)]
    if (size := nb.stat().st_size) > HEAVIEST:
        held.append(f"{size / 1000:.0f} kB; {HEAVIEST // 1000} at most")
    if "widgets" in text(nb)["metadata"]:
        held.append("widget state: clear its output")
    if "pipelines" in nb.parts and any(c["outputs"] for c in code(nb)):
        held.append("outputs, which belong in runs/: clear them")
    return [f"{where(nb)} holds {why}" for why in held]


def test_notebooks_are_small_and_free_of_widget_output_warnings_and_errors():
    wrong = [x for nb in notebooks() for x in ballast(nb)]
    assert not wrong, wrong


def said(words, name="stdout"):
    return dict(output_type="stream", name=name, text=[words])


def shown(**data):
    data = {kind.replace("_", "/", 1): value for kind, value in data.items()}
    return dict(output_type="display_data", data=data, metadata={})


@pytest.mark.parametrize(
    "out, fault",
    [
        (said("0.93"), None),
        (shown(image_png="x/tmp/x"), None),
        (said("x.py:3: slow", "stderr"), "a warning"),
        (said("x.py:3: UserWarning: slow"), "UserWarning:"),
        (said("written to /tmp/abc/out.csv"), "/tmp/abc/out.csv"),
        (shown(text_html="<pre>/home/ada/lab/panel.py</pre>"), "/home/ada"),
        (said("lib/python3.12/site-packages/torch/nn.py"), "site-packages/torch"),
        (shown(**{"application_vnd.jupyter.widget-view+json": {}}), "a widget's"),
        (dict(output_type="error", ename="KeyError"), "traceback: KeyError"),
        (said("x" * HEAVIEST), "300 at most"),
    ],
)
def test_a_planted_output_that_should_not_be_stored_is_found(out, fault, tmp_path):
    wrong = ballast(plant(tmp_path / "planted.ipynb", cell("f()", outputs=[out])))
    assert fault in str(wrong) if fault else not wrong


def test_planted_widget_state_and_outputs_of_a_pipeline_are_found(tmp_path):
    state = plant(tmp_path / "planted.ipynb", cell("1"), widgets={})
    assert "widget state" in str(ballast(state))
    run = plant(tmp_path / "pipelines" / "x.ipynb", cell("1", outputs=[said("1")]))
    assert "belong in runs/" in str(ballast(run))


# words that nbdev would obey where an alternative text goes on in a new line
ORDERS = set(
    "default_exp eval exec_doc export exporti exports filter_stream gpu hide hide_line"
    " include skip_exec skip_showdoc slow".split()
)


def unspoken(nb):
    "Pictures that a reader who cannot see them would not hear of."
    for c in code(nb):
        drawn = [
            kind
            for out in c["outputs"]
            for kind in out.get("data", {})
            if kind.startswith("image/")
        ]
        if not drawn:
            continue
        head = re.match(r"(?:#\|.*\n?)*", source(c))[0].splitlines()
        options = [line[2:].removeprefix(" ") for line in head]
        told = [line for line in options if line.startswith((" ", "fig-alt:"))]
        alt = (yaml.safe_load("\n".join(told)) or {}).get("fig-alt")
        orders = {line.split()[0] for line in told[1:]} & ORDERS
        here = f"{where(nb)}, cell {c.get('id')}"
        if len(drawn) > 1:
            yield f"{here} draws {len(drawn)} pictures: one cell each, with its words"
        elif not isinstance(alt, str):
            yield f"{here} has a picture without words: begin it with #| fig-alt: ..."
        elif len(alt.split()) < 6 or not alt.endswith("."):
            yield f"{here}: {alt!r} is no sentence that says what the picture shows"
        elif orders:
            yield f"{here}: nbdev obeys {orders} at a line's beginning: wrap elsewhere"


def test_every_stored_picture_says_what_it_shows():
    wrong = [x for nb in notebooks() for x in unspoken(nb)]
    assert not wrong, wrong


@pytest.mark.parametrize(
    "head, fault",
    [
        ("#| fig-alt: A line that rises from zero to one.\n", None),
        ("#| echo: false\n#| fig-alt: A line that\n#|   rises to one.\n", None),
        ("", "without words"),
        ("#| echo: false\n", "without words"),
        ("#| fig-cap: A line that rises from zero to one.\n", "without words"),
        ("f(1)\n#| fig-alt: A line that rises from zero to one.\n", "without words"),
        ("#| fig-alt: [A line that rises to one., Another.]\n", "without words"),
        ("#| fig-alt: A line.\n", "no sentence"),
        ("#| fig-alt: A line that rises from zero\n", "no sentence"),
        ("#| fig-alt: A line that is\n#|   slow to rise to one.\n", "obeys {'slow'}"),
    ],
)
def test_a_planted_picture_without_words_is_found(head, fault, tmp_path):
    drawn = cell(f"{head}plot()", outputs=[shown(image_png="x")])
    wrong = list(unspoken(plant(tmp_path / "planted.ipynb", drawn, cell("g()"))))
    assert fault in str(wrong) if fault else not wrong


def test_planted_pictures_of_one_cell_are_found(tmp_path):
    head = "#| fig-alt: A line that rises from zero to one.\n"
    drawn = cell(f"{head}plot()", outputs=[shown(image_png="x")] * 2)
    wrong = list(unspoken(plant(tmp_path / "planted.ipynb", drawn)))
    assert "draws 2 pictures" in str(wrong)


def remade(root, copy):
    "Copy a project's notebooks and package; clean and export them once more there."
    pytest.importorskip("nbdev", reason="nbdev is in the `dev` extra")
    for name in ("nbs", "forecastlab"):
        shutil.copytree(
            root / name,
            copy / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(root / name, copy)
    script = """
from nbdev.clean import nbdev_clean
from nbdev.doclinks import nbdev_export
nbdev_clean()
nbdev_export()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return copy


def differing(root, copy, pattern):
    "Files that are not the same in both, or only in one."
    both = {
        p.relative_to(base)
        for base in (root, copy)
        for p in base.glob(pattern)
        if not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts)
    }
    return sorted(
        str(p)
        for p in both
        if not (
            (root / p).exists()
            and (copy / p).exists()
            and (root / p).read_bytes() == (copy / p).read_bytes()
        )
    )


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    "The house, copied, cleaned and exported once more."
    return remade(ROOT, tmp_path_factory.mktemp("house"))


def test_notebooks_are_clean(again):
    odd = differing(ROOT, again, "nbs/**/*.ipynb")
    assert not odd, f"run nbdev_clean: {odd}"


def test_modules_are_exported(again):
    odd = differing(ROOT, again, "forecastlab/**/*.py")
    assert not odd, f"notebooks and modules differ; run nbdev_export: {odd}"


def test_planted_differences_of_notebook_and_module_are_found(tmp_path):
    "A cell changed after its export, a module edited by hand, a cell that was counted."
    root, copy = tmp_path / "root", tmp_path / "copy"
    names = "05_frequency", "15_sparse", "87_parameters", "93_sweep"
    kept = {NBS / "core" / f"{name}.ipynb" for name in names}
    kept |= {LIB / "core" / f"{name[3:]}.py" for name in names}
    kept |= {LIB / "__init__.py", LIB / "core" / "__init__.py"}
    kept |= {ROOT / "settings.ini", ROOT / "pyproject.toml"}
    for path in kept:
        (root / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.relative_to(ROOT))
    cells = root / "nbs" / "core"
    changed = text(cells / "05_frequency.ipynb")
    some = next(c for c in changed["cells"] if "#| export" in source(c))
    some["source"].append("\nplanted = 1")
    (cells / "05_frequency.ipynb").write_text(json.dumps(changed, indent=1) + "\n")
    with (root / "forecastlab" / "core" / "sparse.py").open("a") as f:
        f.write("planted = 1\n")
    counted = text(cells / "87_parameters.ipynb")
    next(c for c in counted["cells"] if c["cell_type"] == "code")["execution_count"] = 7
    (cells / "87_parameters.ipynb").write_text(
        json.dumps(counted, indent=1, ensure_ascii=False) + "\n"
    )
    copy.mkdir()
    remade(root, copy)
    found = differing(root, copy, "nbs/**/*.ipynb")
    assert "nbs/core/87_parameters.ipynb" in found
    assert not {"nbs/core/15_sparse.ipynb", "nbs/core/93_sweep.ipynb"} & {*found}
    found = differing(root, copy, "forecastlab/core/*.py")
    assert found == [f"forecastlab/core/{x}.py" for x in ("frequency", "sparse")]


HEAVY = (
    "torch pandas matplotlib pyarrow numpy scipy narwhals statsforecast ray papermill"
    " IPython".split()
)


def heavy_after(statement):
    "Heavy libraries that a statement loads in a fresh Python."
    script = f"import sys\n{statement}\nprint(*({set(HEAVY)} & set(sys.modules)))"
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.split()


def test_package_starts_light():
    "`import forecastlab` loads no heavy library: those load where they are used."
    assert not (found := heavy_after("import forecastlab")), (
        f"import forecastlab also imports {found}"
    )


def test_a_planted_heavy_import_is_found():
    assert heavy_after("import forecastlab, numpy") == ["numpy"]


def leads_nowhere(known):
    "Lazy names of the package that are not in their module's `__all__`."
    for name, home in known.items():
        path = (LIB / Path(*home.split("."))).with_suffix(".py")
        there = path.exists() and house.public_names(ast.parse(path.read_text()))
        if not there or name not in there:
            yield f"forecastlab.{name} is said to be in {home}, which has no such name"


def test_public_names_lead_somewhere():
    "Each lazy name of the package is in its module's `__all__`."
    assert not (wrong := list(leads_nowhere(homes()))), wrong


@pytest.mark.parametrize("name, home", [("Pannel", "core.panel"), ("Panel", "core.x")])
def test_a_planted_name_that_leads_nowhere_is_found(name, home):
    assert not list(leads_nowhere({"Panel": "core.panel"}))
    assert list(leads_nowhere({"Panel": "core.panel", name: home}))


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


def too_wide(path):
    "Lines that a page cuts; a parameter of a pipeline must be one line, however long."
    if path.suffix == ".ipynb":
        free = [
            c for c in code(path) if not ("pipelines" in path.parts and declares(c))
        ]
        lines = [line for c in free for line in source(c).splitlines()]
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
    return [f"{where(path)}: {x[:60]}..." for x in lines if len(x) > house.COLUMNS]


def test_code_is_as_wide_as_a_page():
    read = [*notebooks(), *(ROOT / "tests").rglob("*.py"), *ROOT.glob(".ci/*.py")]
    assert not (wide := [x for path in read for x in too_wide(path)]), wide[:20]
    # parameters too are seldom wider
    assert house.measured()["wide_share"] <= 0.002


WIDE = {
    "code": f"x = [{'1, ' * 30}1]",
    "comment": f"x = 1  # {'word ' * 20}",
    "string": f"x = '{'word ' * 20}'",
    "one word": f"# {'x' * 87}",
}


@pytest.mark.parametrize("line", WIDE.values(), ids=WIDE)
def test_a_planted_wide_line_is_found(line, tmp_path):
    module = tmp_path / "test_planted.py"
    module.write_text(f"{line}\n")
    assert too_wide(module) and too_wide(plant(tmp_path / "x.ipynb", cell(line)))
    pipeline = tmp_path / "pipelines" / "x.ipynb"
    assert too_wide(plant(pipeline, cell(line)))
    assert not too_wide(plant(pipeline, cell(line, tags=["parameters"])))
    module.write_text("x" * house.COLUMNS)
    assert not too_wide(module)


def unread(path):
    "Comments of a module's signatures that nbdev does not show."
    tree = ast.parse(source := path.read_text(encoding="utf-8"))
    texts, _ = house.comments_of(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.body[0].lineno != node.lineno:
            for comment in house.unread_comments(node, texts):
                yield f"{path.stem}.{node.name}: {comment}"


def test_nbdev_reads_every_comment_of_a_signature():
    "A comment that moved to a bracket's line would be lost to help() and to the site."
    lost = [x for path in house.modules() for x in unread(path)]
    assert not lost, lost[:20]


def test_a_planted_comment_that_nbdev_loses_is_found(tmp_path):
    path = tmp_path / "planted.py"
    path.write_text(
        "def f(\n    x: int = (\n        1  # lost\n    ),\n) -> int:\n    pass"
    )
    assert list(unread(path)) == ["planted.f: lost"]


def unlike_nbdev(module, source):
    "Functions of whose parameters nbdev's reader tells something else than we do."
    docments = pytest.importorskip("fastcore.docments").docments
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
            for name, comment in docments(getattr(module, node.name)).items()
            if comment
        }
        if theirs != ours:
            yield node.name


def test_the_rule_is_nbdevs_own():
    "The same comments as nbdev's reader, on a module that imports nothing heavy."
    from forecastlab.core import basics

    own = Path(basics.__file__).read_text(encoding="utf-8")
    assert not (wrong := list(unlike_nbdev(basics, own))), wrong
    lost = own.replace(
        "def whole(\n    name: str,  #", "def whole(\n    name: str,  # x"
    )
    assert lost != own and list(unlike_nbdev(basics, lost)) == ["whole"]


def untold(nb):
    "Parameters of a pipeline of which `papermill --help-notebook` does not tell all."
    papermill = pytest.importorskip("papermill")
    cells = "\n".join(source(c) for c in code(nb) if declares(c))
    names = [
        node.target.id if isinstance(node, ast.AnnAssign) else node.targets[0].id
        for node in ast.parse(cells).body
    ]
    known = papermill.inspect_notebook(str(nb))
    for name in names:
        p = known.get(name) or dict(help="", inferred_type_name="", default="")
        if not (p["help"] and p["inferred_type_name"] and p["default"]):
            yield f"{where(nb)}: papermill's help says too little of {name}"
    # a line that is no parameter of its own: one was wrapped
    if len([x for x in cells.splitlines() if not x.startswith("#")]) > len(names):
        yield f"{where(nb)}: a parameter is one line, its comment behind it"


def test_papermill_reads_every_parameter():
    "Its help names each with type, default and meaning."
    wrong = [x for nb in notebooks("pipelines") for x in untold(nb)]
    assert not wrong, wrong


@pytest.mark.parametrize(
    "line, fault",
    [
        ("rate: float = 0.1  # Peak learning rate", None),
        ("rate: float = 0.1  # lr=0.1 is the peak", "of rate"),
        ("rate: float = (\n    0.1  # Peak learning rate\n)", "one line"),
        ("rate: list = [\n    0.1,\n    0.2,\n]  # Learning rates", "one line"),
        ("# Peak learning rate\nrate: float = 0.1", "of rate"),
        ("rate: float = 0.1", "of rate"),
    ],
)
def test_a_planted_parameter_that_papermill_loses_is_found(line, fault, tmp_path):
    lines = f"# fmt: off\nseed: int = 0  # Of all draws\n{line}"
    nb = plant(
        tmp_path / "planted.ipynb",
        cell(lines, tags=["parameters"]),
        kernelspec=dict(name="python3", language="python", display_name="python3"),
    )
    wrong = list(untold(nb))
    assert fault in str(wrong) if fault else not wrong


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


# underscores of other libraries, which are no secrets of ours
THEIRS = {"_actions", "_exit", "_asdict", "_fields", "_replace"}


def private(name):
    return name.startswith("_") and not name.startswith("__") and name not in THEIRS


def private_uses(source):
    """Private names of the package that a test imports, reads or replaces.

    Scripts that a test holds as text are tests too.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            if (node.module or "").startswith("forecastlab"):
                yield from (a.name for a in node.names if private(a.name))
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if private(node.attr) and not own:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            # setattr(module, "_name", ...) and its like
            if ast.unparse(node.func).endswith(("setattr", "getattr", "delattr")):
                words = [a.value for a in node.args if isinstance(a, ast.Constant)]
                names = [w.split(".")[-1] for w in words if isinstance(w, str)]
                yield from (n for n in names if private(n))
        elif isinstance(node, ast.Constant) and "forecastlab" in str(node.value):
            yield from private_uses_of_script(node.value)


def private_uses_of_script(words):
    "The same of a text, if it is Python."
    try:
        return list(private_uses(words)) if "\n" in words else []
    except SyntaxError:
        return []


def test_tests_use_what_is_public():
    wrong = [
        f"{where(path)}: {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if not path.name.startswith("test_house")
        for name in private_uses(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, wrong


@pytest.mark.parametrize(
    "line",
    [
        "from forecastlab.core.panel import _check",
        "from forecastlab.core import panel\npanel._check(1)",
        "import forecastlab.core.panel\nforecastlab.core.panel._check(1)",
        "assert model.fit(panel)._weights",
        'monkeypatch.setattr(panel, "_ROOM", 1)',
        'monkeypatch.setattr("forecastlab.core.panel._ROOM", 1)',
        'SCRIPT = """\nfrom forecastlab.core.panel import _check\n"""',
        'SCRIPT = """\nfrom forecastlab.core import panel\npanel._check(1)\n"""',
    ],
)
def test_a_planted_private_use_is_found(line):
    assert list(private_uses(line))


def test_what_is_public_may_be_used():
    public = "import os\nfrom forecastlab.core.panel import Panel\nos._exit(9)\n"
    own = "class A:\n    def f(self):\n        return self._x, A.__name__\n"
    assert not list(private_uses(public + own))


def ruff(job, root):
    "What ruff says of notebooks, tests and tools below a folder."
    program = shutil.which("ruff") or shutil.which(
        "ruff", path=str(Path(sys.executable).parent)
    )
    if program is None:
        pytest.skip("ruff is in the `dev` extra")
    places = ["nbs", "tests", ".ci"]
    by_hand = "forecastlab/__init__.py"  # the only module that is
    if "format" in job and (root / by_hand).exists():
        places.append(by_hand)
    done = subprocess.run(
        [program, *job, "--no-cache", *places],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    return "" if done.returncode == 0 else done.stdout or f"{job} failed"


CHECK, FORMAT = ["check", "-q", "--output-format=concise"], ["format", "--check"]


@pytest.mark.parametrize("job", [CHECK, FORMAT], ids=["check", "format"])
def test_code_is_formatted_and_free_of_lint(job):
    "Notebooks, tests and tools, in the ways that pyproject.toml names."
    mend = "ruff format, or ruff check --fix, on nbs tests .ci"
    assert not (found := ruff(job, ROOT)), f"{mend}\n{found[-3000:]}"


@pytest.mark.parametrize(
    "line, fault",
    [
        ("x = 1", ""),
        ("import os", "F401"),
        ("x = 1; y = 2", "E702"),
        ("def f(x: int = None): pass", "RUF013"),
        (WIDE["code"], "E501"),
        (WIDE["comment"], "E501"),
        (WIDE["string"], "E501"),
        ("x = 1  # noqa: E501", "RUF100"),
    ],
)
def test_planted_lint_is_found(line, fault, tmp_path):
    "In a notebook, a test and a tool."
    places = plant_everywhere(tmp_path, f"{line}\n")
    found = ruff(CHECK, tmp_path)
    assert found.count(fault) >= len(places) if fault else not found
    for name in places:
        assert (name in found) == bool(fault)


@pytest.mark.parametrize("line", ["x = 'one'", "x=1", "f(\n    1)", WIDE["code"]])
def test_planted_lack_of_format_is_found(line, tmp_path):
    places = plant_everywhere(tmp_path, f"{line}\n")
    found = ruff(FORMAT, tmp_path)
    assert all(name in found for name in places)


def plant_everywhere(root, source):
    "A line as a notebook, a test and a tool of a project; their names."
    shutil.copy(ROOT / "pyproject.toml", root)
    python = root / "tests" / "test_planted.py", root / ".ci" / "planted.py"
    for path in python:
        path.parent.mkdir()
        path.write_text(source)
    nb = plant(root / "nbs" / "core" / "10_planted.ipynb", cell(source.strip()))
    return [path.name for path in (*python, nb)]
