"""How a page of the site looks and works, where neither renderer does it alone.

`site.py` calls `Look.dress` for every page and `Look.finish` once. What is static lies
in nbs/styles.css and nbs/assets: colours, a script, the favicon, a font for formulas.
"""

import html
import json
import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent

# Before anything is painted: the scheme that the reader chose on a page of the site, or
# else the one that the browser prefers.
SCHEME = """(() => {
  let chosen = null;
  for (const name of ["smalldocs-scheme", "quarto-color-scheme"])
    try {
      chosen = chosen || localStorage.getItem(name);
    } catch {
      // a private window keeps nothing
    }
  const preferred = matchMedia("(prefers-color-scheme: dark)").matches;
  const dark = chosen ? chosen === "alternate" : preferred;
  document.documentElement.dataset.scheme = dark ? "alternate" : "default";
})();"""
SWITCH = """document.querySelector("button").onclick = () => {
  const page = document.documentElement.dataset;
  page.scheme = page.scheme === "alternate" ? "default" : "alternate";
  for (const name of ["smalldocs-scheme", "quarto-color-scheme"])
    try {
      localStorage.setItem(name, page.scheme);
    } catch {
      // a private window keeps nothing
    }
};"""

# A page that is not found is served at an address of any depth. Its links count from
# the site's first folder: the one in settings.ini, or the root of a local server.
BASE = """{
  const home = location.pathname.startsWith("%s/") ? "%s/" : "/";
  document.write('<base href="' + home + '">');
}"""
LOST = """<main class="content" id="quarto-document-content">
<header id="title-block-header" class="quarto-title-block default">
<div class="quarto-title"><h1 class="title">Nothing lies at this address</h1></div>
</header>
<p>The page may have moved: a notebook is renamed now and then.</p>
<ul>
<li>Search for a word of it: the field is in the bar at the top, on a phone behind its
button.</li>
<li>Look into the list of all pages; on a phone the small button below the bar opens
it.</li>
<li>Or begin at the <a href="index.html">first page</a>, with
<a href="pipelines/demand_forecast.html">a forecast of demand</a>, with
<a href="pipelines/xmr_train.html">a ranker of labels</a>, or with
<a href="studies/what_does_94_percent_save.html">a study</a>.</li>
</ul>
</main>"""


# --- launching and Markdown


def launches(config, notebook):
    "Where a notebook of the public repository is run in a browser: name -> address."
    repository = f"{config.user}/{config.repo}"
    return {
        "Binder": f"https://mybinder.org/v2/gh/{repository}/{config.branch}"
        f"?urlpath=lab/tree/{notebook}",
        "Colab": f"https://colab.research.google.com/github/{repository}/blob/"
        f"{config.branch}/{notebook}",
    }


def row_of_links(config, notebook, page):
    "Below a page's title: run its notebook, and read its Markdown."
    links = [
        f'<a href="{html.escape(address)}">Run in {name}</a>'
        for name, address in launches(config, notebook).items()
    ]
    links.append(f'<a href="{page.name}.md">Markdown</a>')
    return f'<div class="page-links">{"".join(links)}</div>'


def fenced(words, language=""):
    "Code in a fence that is longer than any fence in it."
    longest = max((len(m) for m in re.findall(r"`{3,}", words)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{words.rstrip()}\n{fence}"


def output_as_markdown(out):
    "What a cell printed or showed, without pictures' bytes."
    data = out.get("data", {})
    if out.get("output_type") == "stream":
        return fenced("".join(out["text"]))
    if "text/markdown" in data:
        # a renderer's attributes, as in [source](...){target="_blank"}, are no Markdown
        words = "".join(data["text/markdown"])
        return re.sub(r"(?<=\))\{[^}\n]*\}", "", words).removeprefix("---\n").strip()
    if "image/png" in data:
        return "*(a picture: see the page)*"
    plain = "".join(data.get("text/plain", ""))
    if "text/html" in data and plain.startswith("<IPython"):
        return "\n".join(Told("".join(data["text/html"])).lines)
    if plain:
        return fenced(plain)
    return ""


class Told(HTMLParser):
    "What a table or a list of an HTML output says, as Markdown."

    def __init__(self, words):
        super().__init__()
        self.lines, self.row, self.word = [], [], ""
        self.feed(words)
        self.close()
        self.end_line()

    def end_line(self):
        words = " ".join(self.word.split())
        if words and not self.row:
            self.lines.append(words)
        self.word = ""

    def handle_starttag(self, tag, attrs):
        if tag in ("tr", "table", "p", "h1", "h2", "h3", "h4"):
            self.end_line()
        elif tag == "li":
            self.end_line()
            self.word = "- "
        elif tag in ("style", "script"):
            self.end_line()

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.row.append(" ".join(self.word.split()).replace("|", r"\|"))
            self.word = ""
        elif tag == "tr":
            self.lines.append(f"| {' | '.join(self.row)} |")
            self.row = []
        elif tag == "thead":
            columns = self.lines[-1].replace(r"\|", "").count("|") - 1
            self.lines.append("|" + "---|" * columns)
        elif tag in ("style", "script"):
            self.word = ""

    def handle_data(self, data):
        self.word += data


def as_markdown(cells):
    """A processed notebook's cells -> its Markdown.

    Prose as it stands, code in fences, what it printed; hidden cells are gone already.
    """
    parts = []
    for cell in cells:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append("" if source.startswith("<!--") else source)
        elif cell["cell_type"] == "code":
            told = dict(re.findall(r"^#\| *([\w-]+): *(\S+)", source, re.M))
            code = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip()
            if code and told.get("echo") != "false":
                parts.append(fenced(code, "python"))
            parts += [output_as_markdown(out) for out in cell.get("outputs", [])]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(cells):
    "Title, description and the other fields of a processed notebook's first cell."
    import yaml

    first = "".join(cells[0]["source"]) if cells else ""
    fields = re.match(r"---\n(.*?)\n---", first, re.S)
    return yaml.safe_load(fields[1]) if fields else {}


# --- a page's head and sidebar


def one_dark_sheet(text):
    """smalldocs loads Bootstrap twice, once a scheme; Bootstrap holds its dark colours
    already, so the second sheet is those alone (see `Look.finish`).
    """

    def sheets(m):
        light, dark = m[1], m[2]
        address = re.search(r'href="([^"]*)"', light)[1]
        folder = address.rpartition("/")[0]
        base = f'<link rel="stylesheet" href="{address}">'
        light = light.replace(address, "data:text/css,")
        return base + light + re.sub(r'href="[^"]*"', f'href="{folder}/dark.css"', dark)

    tag = r"<link(?=[^>]*quarto-color-scheme)[^>]*themes/[^>]*>"
    return re.sub(rf"({tag})\s*({tag})", sheets, text, count=1)


def foldable(m):
    "An entry of the sidebar that folds is a button, and the keyboard stops at it."
    tag = m[0].replace('role="navigation"', 'role="button" tabindex="0"')
    if "sidebar-item-toggle" in tag:
        # its section's name beside it does the same: one stop for both
        return tag.replace('tabindex="0"', 'tabindex="-1"')
    return tag


def words_on_a_page(text):
    "Words that can name a class: in the page's attributes and in its scripts."
    found = " ".join(re.findall(r'class="([^"]*)"', text))
    found += " ".join(re.findall(r"<script[^>]*>(.*?)</script>", text, re.S))
    return set(re.findall(r"[\w-]+", found))


# Names that the renderers' scripts put together from parts.
MADE_AT_RUN_TIME = ("quarto", "aa-", "sd-", "smalldocs", "search-", "callout")


def without_unused(css, words):
    """A style sheet without the rules that no page can match.

    A rule goes where each of its selectors asks for a class that is in no page and in
    no script.
    """

    def used(selector):
        plain = re.sub(r"\[[^\]]*\]|\"[^\"]*\"|'[^']*'", "", selector)
        while "(" in plain:
            inside = re.sub(r"\([^()]*\)", "", plain)
            if inside == plain:
                return True
            plain = inside
        names = re.findall(r"\.((?:[\w-]|\\.)+)", plain)
        return all(
            "\\" in n or n in words or n.startswith(MADE_AT_RUN_TIME) for n in names
        )

    def rule(m):
        selectors = re.split(r",(?![^(]*\))", m[1])
        kept = [s for s in selectors if used(s)]
        return f"{','.join(kept)}{{{m[2]}}}" if kept else ""

    css = re.sub(r"/\*.*?\*/", "", css, flags=re.S)
    held = r"((?:[^{}\"']|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')*)"
    return re.sub(rf"([^{{}};]*)\{{{held}\}}", rule, css)


def dark_rules(css):
    "Bootstrap's colours of the dark mode, as the colours of the whole page."
    held = r"\{[^{}]*\}"
    found = re.findall(rf"(?:^|(?<=[{{}},]))\[data-bs-theme=dark\][^{{}}]*{held}", css)
    return "".join(found).replace("[data-bs-theme=dark]", ":root")


def smaller_icons(folder, words):
    "The icon font with the icons that the site shows: some twenty of two thousand."
    from fontTools import subset
    from fontTools.ttLib import TTFont

    logging.getLogger("fontTools").setLevel(logging.ERROR)
    for css in folder.rglob("bootstrap-icons*.css"):
        text = css.read_text()
        drawn = {"".join(m) for m in re.findall(r"\.(bi-[\w-]+)", text)} & words
        glyphs = dict(re.findall(r'\.(bi-[\w-]+)::before\{content:"\\(\w+)"', text))
        glyphs |= dict(
            re.findall(r'\.(bi-[\w-]+)::before *\{ *content: *"\\(\w+)"', text)
        )
        sheets = " ".join(p.read_text() for p in folder.rglob("*.css") if p != css)
        points = {int(code, 16) for name, code in glyphs.items() if name in drawn}
        points |= {int(c, 16) for c in re.findall(r'content: *"\\(f\w{3})"', sheets)}
        fonts = [p for p in css.parent.rglob("bootstrap-icons.woff")]
        if not points or not fonts:
            continue
        font = TTFont(fonts[0])
        chosen = subset.Subsetter(
            subset.Options(layout_features=[], notdef_outline=True)
        )
        chosen.populate(unicodes=points)
        chosen.subset(font)
        font.flavor = "woff"
        font.save(fonts[0])
        for larger in css.parent.rglob("bootstrap-icons.woff2"):
            larger.unlink()
        face = r'url\("?[^)]*\.woff2[^)]*\) *format\("woff2"\) *,'
        css.write_text(re.sub(face, "", text))


# --- source pages


@lru_cache
def source_style():
    "The style sheet of the source pages, for both schemes."
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default").get_style_defs(".code")
    dark = HtmlFormatter(style="github-dark").get_style_defs(
        'html[data-scheme="alternate"] .code'
    )
    colours = [
        line
        for line in f"{light}\n{dark}".splitlines()
        if re.search(r"\.code \.\w+ \{", line)
    ]
    return (ROOT / "nbs/assets/source.css").read_text() + "\n".join(colours) + "\n"


def source_page(module, page, up):
    """A module as a page with numbered lines, which `source` links lead to.

    `page` is the site's page of its notebook, None where it has none.
    """
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    look = HtmlFormatter(nowrap=True)
    lines = highlight((ROOT / module).read_text(), PythonLexer(stripnl=False), look)
    code = "".join(
        f'<span class="line" id="L-{n}">{line}\n</span>'
        for n, line in enumerate(lines.rstrip("\n").split("\n"), 1)
    )
    name = html.escape(str(module))
    back = f'<a href="{up}{page}">The notebook it is written in</a>' if page else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n"
        f'<link rel="icon" href="{up}assets/favicon.svg">\n'
        f"<script>{SCHEME}</script>\n"
        f'<link rel="stylesheet" href="{up}source/source.css">\n</head>\n<body>\n'
        f'<header><nav aria-label="Back"><a href="{up}index.html">forecastlab</a>'
        f' {back}</nav><button type="button">Light or dark</button></header>\n'
        f"<main>\n<h1>{name}</h1>\n"
        f'<pre class="code" tabindex="0"><code>{code}</code></pre>\n</main>\n'
        f"<script>{SWITCH}</script>\n</body>\n</html>\n"
    )


# --- the whole site


@dataclass
class Look:
    "What is done to the pages of one build of the site."

    docs: Path  # the site
    proc: Path  # the processed notebooks
    renamed: dict  # page as rendered -> page as published, both below `docs`
    config: object  # nbdev's, of settings.ini

    @property
    def notebooks(self):
        "Page as published -> its notebook, below the processed ones."
        return {new: old.with_suffix(".ipynb") for old, new in self.renamed.items()}

    def dress(self, text, page, up):
        """One page with what the renderers leave out.

        The script, the way past the sidebar, buttons that fold, links to run the
        notebook and to its Markdown.
        """
        text = one_dark_sheet(text)
        script = f'<script src="{up}assets/look.js" defer></script>'
        if page in self.notebooks:
            script += (
                '<link rel="alternate" type="text/markdown" title="Markdown"'
                f' href="{page.name}.md">'
            )
            notebook = f"{self.config.nbs_path.name}/{self.notebooks[page]}"
            row = row_of_links(self.config, notebook, page)
            title = r'(<header id="title-block-header".*?</header>)'
            text = re.sub(title, lambda m: m[0] + row, text, count=1, flags=re.S)
        text = text.replace("</head>", f"{script}</head>", 1)
        skip = '<a class="skip" href="#quarto-document-content">Skip to the text</a>'
        text = re.sub(r"<body[^>]*>", lambda m: m[0] + skip, text, count=1)
        text = re.sub(
            r'(<main\b(?![^>]*tabindex)[^>]*id="quarto-document-content")',
            r'\1 tabindex="-1"',
            text,
            count=1,
        )
        folds = (
            r'<a\b(?=[^>]*data-bs-toggle="collapse")(?=[^>]*role="navigation")[^>]*>'
        )
        text = re.sub(folds, foldable, text)
        # a full stop stays with its formula
        stop = r"(<math(?![^>]*display=\"block\")(?:(?!</math>).)*</math>)([.,;:!?)]+)"
        return re.sub(stop, r'<span class="with-stop">\1\2</span>', text, flags=re.S)

    def source(self, module):
        "One module's page, with the way back to its notebook's."
        stem = PurePosixPath(module).with_suffix("").relative_to("forecastlab")
        page = next(
            (p for p in self.notebooks if p.with_suffix("") == Path(stem)), None
        )
        target = self.docs / "source" / module.with_suffix(".html")
        target.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (len(target.relative_to(self.docs).parts) - 1)
        target.write_text(source_page(module, page, up))
        sheet = self.docs / "source" / "source.css"
        if not sheet.exists():
            sheet.write_text(source_style())

    def finish(self):
        "What the site has once: a page for what is not there, Markdown, small files."
        self.search()
        self.not_found()
        self.markdown()
        self.slim()

    def search(self):
        "The index of the search, each page with the line below its title."
        place = self.docs / "search.json"
        if not place.exists():
            return
        entries = json.loads(place.read_text())
        below = {}
        for page, notebook in self.notebooks.items():
            cells = json.loads((self.proc / notebook).read_text())["cells"]
            below[str(page)] = front_matter(cells).get("description") or ""
        for entry in entries:
            words = below.get(entry["href"], "")
            if words and not entry["text"].startswith(words):
                entry["text"] = f"{words} {entry['text']}"
        place.write_text(json.dumps(entries, ensure_ascii=False))

    def not_found(self):
        "404.html: the first page's bars around a few words."
        text = (self.docs / "index.html").read_text()
        text = re.sub(r"<main\b.*?</main>", lambda m: LOST, text, flags=re.S)
        text = re.sub(
            r"<title>.*?</title>", "<title>Not found</title>", text, flags=re.S
        )
        text = re.sub(r'<nav id="TOC".*?</nav>', "", text, flags=re.S)
        text = re.sub(r'href="#', 'href="404.html#', text)
        text = re.sub(r'<link rel="alternate"[^>]*>', "", text)
        root = self.config.doc_baseurl.rstrip("/")
        base = f"<script>{BASE % (root, root)}</script>"
        text = re.sub(r"<head[^>]*>", lambda m: m[0] + base, text, count=1)
        (self.docs / "404.html").write_text(text)

    def markdown(self):
        """A Markdown copy beside every page (`panel.html.md`), and `llms.txt`.

        That lists them in the form of https://llmstxt.org.
        """
        config = self.config
        host = f"{config.doc_host}{config.doc_baseurl}"
        rooms = {"Start": []}
        for page, notebook in self.notebooks.items():
            cells = json.loads((self.proc / notebook).read_text())["cells"]
            fields = front_matter(cells)
            title, words = fields.get("title", page.stem), fields.get("description", "")
            text = f"# {title}\n\n" + (f"> {words}\n\n" if words else "")
            text += self.linked(as_markdown(cells[1:]), notebook, host)
            (self.docs / page).with_name(f"{page.name}.md").write_text(text)
            entry = f"- [{title}]({host}/{page}.md)" + (f": {words}" if words else "")
            rooms.setdefault(str(page.parent).replace(".", "Start"), []).append(entry)
        lists = [f"## {room.title()}\n\n" + "\n".join(of) for room, of in rooms.items()]
        first = f"# {config.title}\n\n> {config.description}\n\n"
        (self.docs / "llms.txt").write_text(first + "\n\n".join(lists) + "\n")

    def linked(self, text, notebook, host):
        "Links to notebooks and pages of the site lead to their Markdown copies."
        pages = {str(old): str(new) for new, old in self.notebooks.items()}

        def link(m):
            address, rest = m[1], m[2] or ""
            if address.startswith(host):
                return f"]({address}.md{rest})" if address.endswith(".html") else m[0]
            if "://" in address or not address.endswith(".ipynb"):
                return m[0]
            parts = []
            for part in (notebook.parent / address).parts:
                parts = parts[:-1] if part == ".." else [*parts, part]
            page = pages.get("/".join(parts))
            return f"]({host}/{page}.md{rest})" if page else m[0]

        return re.sub(r"\]\(([^)\s#]+)(#[^)\s]*)?\)", link, text)

    def slim(self):
        "Style sheets without rules for what no page has, and an icon font alike."
        libraries = self.docs / "site_libs"
        words = set()
        for page in self.docs.rglob("*.html"):
            words |= words_on_a_page(page.read_text())
        for script in [*self.docs.glob("assets/*.js"), *libraries.rglob("*.js")]:
            words |= set(re.findall(r"[\w-]+", script.read_text()))
        for sheet in libraries.glob("themes/*.min.css"):
            sheet.with_name("dark.css").write_text(dark_rules(sheet.read_text()))
        smaller_icons(libraries, words)
        for sheet in libraries.rglob("*.css"):
            sheet.write_text(without_unused(sheet.read_text(), words))
