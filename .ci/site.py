"""`make docs`: notebooks -> _proc (nbdev) -> HTML (Quarto where it is installed, else
smalldocs) -> _docs, made to read offline, every link checked.

Both renderers read the same _quarto.yml. What they leave different or online is evened
out here: page names lose their number, links to our own host become relative, TeX
becomes MathML (no script, no font to fetch), scripts for widgets go, every table
scrolls in a box of its own, and "source" leads to a page of the site. Then every page
is read as a reader would, and what stayed raw is a fault: see page_faults.py.
"""

import ast
import html
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

sys.path.append(str(Path(__file__).resolve().parent))
from look import Look
from page_faults import STYLED, Page, elsewhere

ROOT = Path(__file__).resolve().parent.parent
PROC, DOCS = ROOT / "_proc", ROOT / "_docs"
COLUMNS = 88  # of a page
# A link in Markdown, whose words may hold brackets in code.
LINK = r"(!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\([^)]*\))"
NEXT_LINE = dict(
    subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False
)


def methods_of(source):
    "Class -> its public methods and properties, in the order in which they stand."
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            names = [b.name for b in node.body if isinstance(b, ast.FunctionDef)]
            # a property and its setter share a name
            found[node.name] = [n for n in dict.fromkeys(names) if n[0] != "_"]
    return found


def classes_of(source):
    "Class -> its source."
    nodes = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]
    return {n.name: ast.get_source_segment(source, n) for n in nodes}


def fields_of(cls, sources):
    """A dataclass as source: its fields and those of its bases, with their comments.

    A class of the notebook has its source in `sources`, for Python knows no file of it.
    """
    fields = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        here = base.__module__ == "__main__"
        source = sources.get(base.__name__, "") if here else inspect.getsource(base)
        lines = source.splitlines()
        for node in ast.parse(source).body[0].body if source else ():
            if isinstance(node, ast.AnnAssign):
                first = node.lineno - 1
                while lines[first - 1].lstrip().startswith("#"):
                    first -= 1
                fields[node.target.id] = lines[first : node.end_lineno]
    body = [line for field in fields.values() for line in field]
    return "\n".join([f"class {cls.__name__}:", *body, "    pass"])


def type_name(annotation):
    "A type as its readers call it: no modules, but what a list is of."
    if isinstance(annotation, str):
        return annotation
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", inspect.formatannotation(annotation))


def signature(name, params, ends, maxline=COLUMNS, prefix="def"):
    "A signature, one parameter a line; a comment that is too long stands above."
    ends = ends.replace(")->", ") -> ", 1).replace(": # ", ":  # ", 1)
    if len(ends) > COLUMNS:
        result, _, comment = ends.partition("  # ")
        below = textwrap.wrap(comment, COLUMNS - 6)
        ends = "\n".join([result, *(f"    # {part}" for part in below)])
    if not params:
        return f"{prefix} {name}({ends}"
    lines = []
    for written, comment in params:
        spaced = re.sub(r"^(\**\w+):", r"\1: ", f"{written},")
        line = textwrap.fill(spaced, COLUMNS, initial_indent=" " * 4, **NEXT_LINE)
        words = f"# {' '.join(comment.split())}" if comment else ""
        if words and len(line) + len(words) + 2 > COLUMNS:
            above = textwrap.wrap(words[2:], COLUMNS - 6)
            lines += [f"    # {part}" for part in above]
            words = ""
        lines.append(f"{line}  {words}".rstrip())
    return "\n".join([f"{prefix} {name}(", *lines, ends])


def one_line_each(source):
    """Directives, each on one line: nbdev loses those of a second, `#|   more words`,
    which Quarto's YAML allows and a long alternative text needs.
    """
    head = re.match(r"(?:#\|.*\n?)*", source)[0]
    return re.sub(r"\s*\n#\|[ \t]{2,}", " ", head) + source[len(head) :]


def emphasised(words):
    "A docstring with its first line in italics, where a star of its own ends nothing."
    first, *more = words.split("\n", 1)
    parts = re.split(r"(`[^`]*`|\$[^$]*\$)", first)
    parts[::2] = [re.sub(r"(?<!\\)[*_]", r"\\\g<0>", part) for part in parts[::2]]
    return "\n".join([f"*{''.join(parts)}*", *more])


def link_names(link_line, line):
    "A line with its names as links, but for those within a link that is there already."
    parts = re.split(LINK, line)
    parts[::2] = map(link_line, parts[::2])
    return "".join(parts)


def document_methods():
    """Let nbdev's pages show every public method below its class, in place of classes
    alone, fields of dataclasses with their comments, code without links in it, and no
    link within a link. Directives may have several lines.
    """
    from fastcore import docments
    from nbdev import process, processors, showdoc
    from nbdev.doclinks import NbdevLookup

    class Lookup(NbdevLookup):
        "Names become links, but not those that are (part of) a link already."

        def link_line(self, line):
            return link_names(super().link_line, line)

    extract_directives = process.extract_directives

    def extract_long_directives(cell, **how):
        if cell.cell_type == "code":
            cell.source = one_line_each(cell.source)
        return extract_directives(cell, **how)

    process.extract_directives = extract_long_directives

    sources = {}
    docments.get_dataclass_source = lambda cls: fields_of(cls, sources)
    docments._maybe_nm, docments._fmt_sig = type_name, signature
    docments._ital_first = emphasised

    class Shown(showdoc.BasicMarkdownRenderer):
        "A property is called without brackets, and says so."

        def __init__(self, sym, **how):
            super().__init__(sym, **how)
            if isinstance(sym, property):
                self.dm = f"@property\n{self.dm}"

    showdoc.BasicMarkdownRenderer = Shown

    def add_links(cell):
        "As nbdev's, but code that is shown in an output stays as it is."
        lookup = Lookup()
        if cell.cell_type == "markdown":
            cell.source = lookup.linkify(cell.source)
        for out in cell.get("outputs", []):
            words = out.get("data", {}).get("text/markdown")
            if words:
                linked = lookup.linkify("".join(words))
                out["data"]["text/markdown"] = linked.splitlines(keepends=True)

    processors.add_links = add_links

    class WithMethods(processors.add_show_docs):
        def begin(self):
            super().begin()
            cells, methods = self.nb.cells, {}
            sources.clear()
            for cell in cells:
                if cell.cell_type == "code" and "export" in cell.directives_:
                    methods |= methods_of(cell.source)
                    sources.update(classes_of(cell.source))
            for at in reversed(range(len(cells))):
                shown = re.fullmatch(r"show_doc\((\w+)\)", cells[at].source.strip())
                for name in reversed(methods.get(shown[1], []) if shown else []):
                    words = f"show_doc({shown[1]}.{name}, title_level=4)"
                    new = processors.mk_cell(words)
                    new.has_sd = True
                    cells.insert(at + 1, new)

    processors.add_show_docs = WithMethods


def process():
    """Notebooks through nbdev's processors.

    Import cells and exported cells run, `show_doc` is added for every public name and
    method, hidden cells go.
    """
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    document_methods()
    for old in (PROC, DOCS):
        shutil.rmtree(old, ignore_errors=True)
    refresh_quarto_yml()
    proc_nbs(n_workers=0)


def render():
    "HTML of `_proc`, by whichever renderer there is, moved to `_docs`."
    small = ROOT / ".venv-docs" / "bin" / "smalldocs"
    if shutil.which("quarto"):
        command = ["quarto", "render", str(PROC), "--no-cache"]
    elif small.exists():
        command = [str(small), "render", str(PROC), "--quiet"]
    else:
        sys.exit(
            "Neither Quarto nor smalldocs is installed: run `make docs`, which sets up"
            " smalldocs in .venv-docs."
        )
    done = subprocess.run(command, text=True, capture_output=True)
    # links: see `check`
    notes = [
        n
        for n in (done.stdout + done.stderr).splitlines()
        if not re.search(r"output-file|is ignored|broken link|compiles no Sass", n)
    ]
    if notes:
        print("\n".join(notes))
    if done.returncode:
        sys.exit(f"{command[0]} failed with exit code {done.returncode}")
    shutil.move(PROC / "_docs", DOCS)


def names():
    """Page as rendered -> page as published, the name that nbdev's own links use.

    `core/10_panel.html` becomes `core/panel.html`.
    """
    found = {}
    for notebook in sorted(PROC.rglob("*.ipynb")):
        first = "".join(json.loads(notebook.read_text())["cells"][0]["source"])
        name = re.search(r"^output-file: (\S+)", first, re.M)
        page = notebook.relative_to(PROC).with_suffix(".html")
        found[page] = page.with_name(name[1]) if name else page
    twice = sorted(
        {str(p) for p in found.values() if list(found.values()).count(p) > 1}
    )
    if twice:
        sys.exit(f"two notebooks become one page: {', '.join(twice[:5])}")
    return found


def mathml(tex, display):
    """One equation as MathML; TeX that is not understood stops the build, for a reader
    would see raw backslashes.
    """
    from latex2mathml.converter import convert

    made = convert(html.unescape(tex), display="block" if display else "inline")
    if "\\" in re.sub(r"<annotation.*?</annotation>", "", made):
        sys.exit(f"equation not understood: {html.unescape(tex)}")
    return made


def pages_by_their_names(text, short):
    "Links to `10_panel.html` become links to `panel.html`."
    if not short:
        return text
    numbered = "|".join(map(re.escape, short))
    pattern = rf"(?<![\w-])({numbered})(?=[\"'#?<\s])"
    return re.sub(pattern, lambda m: short[m[1]], text)


def sources_on_the_site(text, blob, up):
    "Links to a module's source lead to a page of the site; the modules linked to."

    def link(m):
        line = f"#L-{m[2]}" if m[2] else ""
        return f'href="{up}source/{m[1]}.html{line}"'

    pattern = rf'href="{re.escape(blob)}(forecastlab/[\w/]+)\.py(?:#L(\d+))?"'
    modules = {Path(f"{m[0]}.py") for m in re.findall(pattern, text)}
    return re.sub(pattern, link, text), modules


def equations(text):
    r"""TeX becomes MathML.

    smalldocs leaves all of it, in `\(...\)` and `\[...\]`; Quarto what its pandoc does
    not know, in dollars.
    """

    def equation(m):
        tex = re.sub(
            r"^\s*(\\[(\[]|\$\$?)(.*?)(\\[)\]]|\$\$?)\s*$", r"\2", m[2], flags=re.S
        )
        return mathml(tex, m[1] == "display")

    spans = r'<span class="math (inline|display)">(.*?)</span>'
    return re.sub(spans, equation, text, flags=re.S)


# What renderers add for widgets and for mathematics in scripts: no page has either.
NEEDLESS = "require|jquery|embed-amd|html-manager|katex|mathjax|tex-mml|polyfill"


def without_needless_scripts(text):
    """No script, style or data for widgets and TeX.

    Quarto adds require.js, jQuery and a line that joins them to every notebook with an
    HTML output, which is every one with a table.
    """
    far = rf'(?:src|href)="(?:https?:)?//[^"]*(?:{NEEDLESS})[^"]*"'
    text = re.sub(rf"<script\b[^>]*{far}[^>]*>\s*</script>\s*", "", text, flags=re.I)
    text = re.sub(rf"<link\b[^>]*{far}[^>]*>\s*", "", text, flags=re.I)
    joins = r"<script\b[^>]*>\s*define\(\s*['\"]jquery['\"].*?</script>\s*"
    data = r"<script\b[^>]*application/vnd\.jupyter[^>]*>.*?</script>\s*"
    return re.sub(f"{joins}|{data}", "", text, flags=re.S)


def wide_tables(text):
    """Every table in a box that scrolls by itself: on a phone a table is wider than the
    page, which must not grow with it.
    """
    depth = 0

    def box(m):
        nonlocal depth
        if m[0].startswith("</"):
            depth -= 1
            return m[0] if depth else f"{m[0]}</div>"
        depth += 1
        return m[0] if depth > 1 else f'<div class="table-scroll">{m[0]}'

    begin, main, end = re.split(r"(<main\b.*</main>)", text, maxsplit=1, flags=re.S)
    return begin + re.sub(r"<table\b[^>]*>|</table>", box, main) + end


def sentences(text):
    """Cells of tables that hold a sentence, marked: on a phone they wrap.

    A number or a date does not.
    """

    def mark(m):
        words = re.sub(r"<[^>]*>", "", m[3]).split()
        told = len(words) > 3 and sum(map(len, words)) > 24
        return f'<{m[1]}{m[2]} class="words">{m[3]}' if told else m[0]

    attributes = r'((?:\s(?!class=)[\w-]+(?:="[^"]*")?)*)'
    inside = r"((?:(?!</?(?:td|th|table)\b).)*)"
    return re.sub(rf"<(td|th){attributes}>{inside}(?=</\1>)", mark, text, flags=re.S)


def narrow(text, folder):
    """A page as a phone can show it: tables, displayed equations and pictures that were
    drawn for a desk, each in a box that scrolls.

    `folder` is the page's, which its pictures are relative to.
    """
    from forecastlab.core.page import embedded, wide_pictures

    def beginning(address):
        if address.startswith("data:"):
            return embedded(address)
        file = folder / unquote(urlsplit(address).path)
        if re.match(r"\w+:", address) or not file.is_file():
            return b""
        with file.open("rb") as png:
            return png.read(1200)

    shown = r'(?<!class="equation">)<math\b[^>]*\bdisplay="block".*?</math>'
    boxed = r'<span class="equation">\g<0></span>'
    text = re.sub(shown, boxed, wide_tables(sentences(text)), flags=re.S)
    return wide_pictures(text, beginning).replace('picture" tabindex="0"', 'picture"')


def read_offline(text, host, up, folder=DOCS):
    """Links to our own host become relative, and nothing is left to fetch or to widen.

    `folder` is the page's.
    """
    text = re.sub(rf'(<a [^>]*href="){re.escape(host)}', rf"\g<1>{up}", text)
    text = equations(without_needless_scripts(text))
    return narrow(text, folder) if "<main" in text else text


def finish():
    "Even the pages out: names, own links, equations, source links."
    from nbdev.config import get_config

    config, renamed = get_config(), names()
    host = f"{config.doc_host}{config.doc_baseurl}/"
    blob = f"{config.git_url}/blob/{config.branch}/"
    for old, new in renamed.items():
        if old != new and (DOCS / old).exists():
            (DOCS / old).rename(DOCS / new)
    short = {old.name: new.name for old, new in renamed.items() if old.name != new.name}
    modules, look = set(), Look(DOCS, PROC, renamed, config)
    for file in DOCS.rglob("*"):
        if file.suffix not in (".html", ".json", ".xml") or "site_libs" in file.parts:
            continue
        text = pages_by_their_names(file.read_text(), short)
        if file.suffix == ".html":
            up = "../" * (len(file.relative_to(DOCS).parts) - 1)
            text, linked = sources_on_the_site(text, blob, up)
            modules |= linked
            text = read_offline(text, host, up, file.parent)
            text = look.dress(text, file.relative_to(DOCS), up)
        file.write_text(text)
    for module in modules:
        look.source(module)
    look.finish()
    anchors()


@lru_cache(None)
def read(page):
    "A page of the site, read once."
    return Page(page.read_text())


def target(page, url):
    "The file and the fragment of a link, or None where it leaves the site."
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    return (file / "index.html" if file.is_dir() else file), unquote(parts.fragment)


def anchors():
    """A link to a name without a heading of its own (`panel.html#panel.save`, `_value`)
    leads to its class, or to the top.
    """
    for page in DOCS.rglob("*.html"):
        text = page.read_text()
        for url in set(read(page).links):
            file, fragment = target(page, url) or (None, "")
            if not re.search(r"\.|^_", fragment) or not file.exists():
                continue
            ids = read(file).ids
            if fragment in ids:
                continue
            headings = fragment.rsplit(".", 1)[-1], fragment.split(".")[0]
            near = next((f"#{f}" for f in headings if f in ids), "")
            old, new = html.escape(url), url.split("#")[0] + near
            text = text.replace(f'href="{old}"', f'href="{new}"')
        page.write_text(text)
    read.cache_clear()


def check():
    """Broken links and anchors, anything that is loaded from another host, and what a
    reader would stumble over.
    """
    wrong = []
    for page in sorted(DOCS.rglob("*.html")):
        where, found = page.relative_to(DOCS), read(page)
        wrong += [f"{where} loads {u}" for u in found.loads if elsewhere(u)]
        wrong += [f"{where} has {fault}" for fault in found.faults]
        files = [u for u in found.loads if not u.startswith("data:")]
        for url in dict.fromkeys(found.links + files):
            file, fragment = target(page, url) or (None, "")
            if file is None:
                continue
            if not file.exists():
                wrong.append(f"{where} links to {url}, which does not exist")
            elif fragment and file.suffix == ".html" and fragment not in read(file).ids:
                wrong.append(f"{where} links to {url}, which has no such anchor")
    for style in DOCS.rglob("*.css"):
        urls = re.findall(STYLED, style.read_text())
        wrong += [f"{style.relative_to(DOCS)} loads {u}" for u in urls]
    return wrong


if __name__ == "__main__":
    from executed import fill

    os.chdir(ROOT)
    process()
    lost = fill(PROC)
    render()
    finish()
    wrong = lost + check()
    for line in wrong:
        print("broken:", line)
    print(
        f"{len(list(DOCS.rglob('*.html')))} pages in _docs; read them with: python -m"
        " http.server -d _docs"
    )
    sys.exit(bool(wrong))
