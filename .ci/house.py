"""How readable the house is: what is documented where a reader looks, and how wide
code is.

`python .ci/house.py` prints both shares as JSON; `-v` also lists what falls short, and
file names after it (modules of `forecastlab/`) limit that list.
"""

import ast
import io
import json
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 88  # what a page shows without scrolling
TOLD = ("type: ignore", "noqa", "fmt: ")
# Public things that need no words of their own, by "module:name"; each with a reason.
EXCUSED: dict[str, str] = {}


def comments_of(source):
    "Line number -> text of its comment, and the lines that hold nothing else."
    texts, alone = {}, set()
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string.strip("# ")
        # what is said to a tool says nothing to a reader
        if token.type == tokenize.COMMENT and text and not text.startswith(TOLD):
            texts[token.start[0]] = token.string.lstrip("# ")
            if not lines[token.start[0] - 1][: token.start[1]].strip():
                alone.add(token.start[0])
    return texts, alone


def commented(line, texts, alone):
    "Has this line a comment that nbdev reads: its own, or the one right above?"
    return line in texts or (line - 1) in alone


def read_by_nbdev(function, texts):
    """Parameter -> the comment that nbdev shows for it; "return" for the result.

    Its own line's comment, else the lines of comment right above it.
    """
    a = function.args
    several = [x for x in (a.vararg, a.kwarg) if x is not None]
    places = {p.lineno: p.arg for p in [*a.args, *a.kwonlyargs, *several]}
    if function.returns is not None:
        places[function.returns.lineno] = "return"
    read = {}
    for line, name in places.items():
        above = line - 1
        if line in texts:
            read[name] = {line: texts[line]}
            continue
        while above in texts and above not in places and above > function.lineno:
            read.setdefault(name, {})[above] = texts[above]
            above -= 1
    return read


def unread_comments(function, texts):
    "Comments of a signature that nbdev would not show."
    end = function.body[0].lineno
    if function.returns is not None:
        end = function.returns.end_lineno + 1
    elif function.args.args or function.args.kwonlyargs:
        last = [*function.args.args, *function.args.kwonlyargs][-1]
        end = min(end, last.end_lineno + 1)
    read = {i for found in read_by_nbdev(function, texts).values() for i in found}
    return [
        texts[i]
        for i in range(function.lineno, min(end, function.body[0].lineno))
        if i in texts and i not in read
    ]


def parameters_of(function):
    "Parameters that a reader must know: all but self, cls and what begins with _."
    a = function.args
    several = [x for x in (a.vararg, a.kwarg) if x is not None]
    return [
        p
        for p in [*a.posonlyargs, *a.args, *a.kwonlyargs]
        if p.arg not in ("self", "cls") and not p.arg.startswith("_")
    ], several


def decorators_of(node):
    return {ast.unparse(d).split("(")[0].split(".")[-1] for d in node.decorator_list}


def faults_of_function(function, texts, alone, doc=True):
    "What a reader misses at one function."
    faults = []
    if doc and not ast.get_docstring(function):
        faults.append("no docstring")
    named, several = parameters_of(function)
    # a function of one line has room for one comment, which is the result's
    for p in named:
        if not commented(p.lineno, texts, alone) or p.lineno == function.lineno:
            faults.append(f"no comment on {p.arg}")
    bare = [p.arg for p in [*named, *several] if p.annotation is None]
    if bare:
        faults.append(f"no type on {', '.join(bare)}")
    if function.returns is None and function.name != "__init__":
        faults.append("no type of the result")
    return faults


def public_names(tree):
    "`__all__` of a module."
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def documented(path):
    "Public class, function or method of a module -> its faults, empty where none."
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    texts, alone = comments_of(source)
    public = public_names(tree)
    module = ".".join(path.relative_to(ROOT / "forecastlab").with_suffix("").parts)
    found = {}
    for node in tree.body:
        if getattr(node, "name", None) not in public:
            continue
        if isinstance(node, ast.FunctionDef):
            found[f"{module}:{node.name}"] = faults_of_function(node, texts, alone)
        elif isinstance(node, ast.ClassDef):
            found |= documented_class(node, module, texts, alone)
    return {k: v for k, v in found.items() if k not in EXCUSED}


def documented_class(node, module, texts, alone):
    "The class itself, its fields, and its public methods."
    faults = [] if ast.get_docstring(node) else ["no docstring"]
    fields = [b for b in node.body if isinstance(b, ast.AnnAssign)]
    if "dataclass" in decorators_of(node) or "NamedTuple" in map(
        ast.unparse, node.bases
    ):
        faults += [
            f"no comment on {f.target.id}"
            for f in fields
            if not f.target.id.startswith("_") and not commented(f.lineno, texts, alone)
        ]
    found = {f"{module}:{node.name}": faults}
    for b in node.body:
        if not isinstance(b, ast.FunctionDef):
            continue
        if b.name.startswith("_") and b.name not in ("__init__", "__call__"):
            continue
        if decorators_of(b) & {"setter", "overload"}:
            continue
        own = faults_of_function(b, texts, alone, doc=b.name != "__init__")
        if b.name == "__init__":
            found[f"{module}:{node.name}"] += own
        else:
            found[f"{module}:{node.name}.{b.name}"] = own
    return found


def modules():
    "Exported modules."
    return sorted(
        p
        for p in (ROOT / "forecastlab").rglob("*.py")
        if p.name not in ("__init__.py", "_modidx.py")
    )


def code_lines():
    "(where, line) of all code that people read: notebooks, tests, tools."
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                for line in "".join(cell["source"]).splitlines():
                    yield path, line
    for path in [*sorted((ROOT / "tests").rglob("*.py")), *ROOT.glob(".ci/*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            yield path, line


def measured():
    "Both shares, and what they count."
    found = {k: v for p in modules() for k, v in documented(p).items()}
    lines = [(p, s) for p, s in code_lines() if s.strip()]
    wide = [(p, s) for p, s in lines if len(s) > COLUMNS]
    return dict(
        documented=sum(not v for v in found.values()) / len(found),
        public=len(found),
        wide_share=len(wide) / len(lines),
        wide=len(wide),
        lines=len(lines),
    )


def main(words):
    if words[:1] == ["-v"]:
        chosen = [Path(w).resolve() for w in words[1:]] or modules()
        for path in chosen:
            for name, faults in documented(path).items():
                if faults:
                    print(f"{name}: {'; '.join(faults)}")
    print(json.dumps(measured()))


if __name__ == "__main__":
    main(sys.argv[1:])
