"""Pages of the site, small ones made here: how both renderers' output is evened out,
and that whatever a reader would stumble over is found. The whole site: test_site.py.
"""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / ".ci"))
spec = importlib.util.spec_from_file_location("site_builder", ROOT / ".ci" / "site.py")
builder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(builder)
from page_faults import RAW, Page  # noqa: E402

HOST = "https://forecastlab.github.io/forecastlab/"


def quarto(body="", head="", after=""):
    "A page as Quarto nests it."
    return f"""<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" lang="en" xml:lang="en"><head>
<meta charset="utf-8"><meta name="generator" content="quarto-1.7.33">
<title>Panel – forecastlab</title>
<script src="../site_libs/quarto-nav/quarto-nav.js"></script>
<link href="../site_libs/bootstrap/bootstrap.min.css" rel="stylesheet">
{head}
</head>
<body class="nav-sidebar docked"><div id="quarto-search-results"></div>
<header id="quarto-header"><nav class="navbar"><div class="navbar-container">
<a class="navbar-brand" href="../index.html">
<span class="navbar-title">forecastlab</span></a></div></nav></header>
<div id="quarto-content">
<nav id="quarto-sidebar"><a href="../core/panel.html">Panel</a></nav>
<div id="quarto-margin-sidebar"><nav id="TOC" role="doc-toc">
<h2 id="toc-title">On this page</h2></nav></div>
<main class="content" id="quarto-document-content">
<header id="title-block-header" class="quarto-title-block default">
<div class="quarto-title"><h1 class="title">Panel</h1></div>
<div class="quarto-title-meta"></div></header>
<section id="first" class="level2">
<h2 class="anchored" data-anchor-id="first">First</h2>
<p>Many series in one array.</p>
{body}
</section>
</main>
<nav class="page-navigation"><div class="nav-page"><a href="b.html">
<span class="nav-page-text">Next</span></a></div></nav>
</div>
{after}
<script id="quarto-html-after-body" type="application/javascript">
const toggle = () => {{ document.body.classList.add("quarto-light"); }};
</script>
</body></html>"""


def smalldocs(body="", head="", after=""):
    "A page as smalldocs nests it."
    return f"""<!doctype html><html lang="en"><head><title>Panel – forecastlab</title>
{head}</head><body class="docked">
<nav id="quarto-sidebar"><a href="../x.html">X</a></nav>
<main class="content"><h1>Panel</h1><p>Many series in one array.</p>
{body}</main>{after}</body></html>"""


def faults(page):
    return Page(page).faults


@pytest.mark.parametrize("page", [quarto, smalldocs])
def test_a_page_without_a_fault_has_none(page):
    body = r"""<h2>Code</h2>
<pre><code>a | b  # `x`, \alpha, [y](z), $$ and **kw</code></pre>
<h2>Words</h2><p>It costs $5, or $6. An array (of <em>two</em> axes) [sic].</p>
<p>A C\# note; 3 * 4 = 12; (a) * (b); look at <code>a | b</code>, <code>**kw</code>.</p>
<h2>Equation</h2><math display="inline"><mi>α</mi><annotation
 encoding="application/x-tex">\alpha</annotation></math>
<h2>Parent</h2><h3>Child</h3><p>Something.</p>
<h2>Picture</h2><p><img src="a.png" alt="A line that rises from 0 to 1."></p>
<h2>Table</h2><div class="table-scroll"><table><tr><td>1</td></tr></table></div>
<p><a href="b.html"><code>Panel</code></a> and
<a href="c.html"><img src="d.png" alt="A line that falls to 0."></a></p>"""
    script = "<script>const required = 1; window.define = undefined;</script>"
    assert faults(page(body, after=script)) == []


PLANTED = {
    # TeX
    r"<p>$$a^2 + b^2$$</p>": "raw TeX: $$a^2",
    r"<p>The level \alpha is given.</p>": r"raw TeX: The level \alpha",
    r"<p>So \(x\) grows.</p>": "raw TeX",
    r"<li>So $x_i$ grows.</li>": "raw TeX",
    r"<h3>About $q_\tau$</h3><p>Text.</p>": "raw TeX: About",
    r'<p><span class="math inline">x</span></p>': "an equation that is not MathML",
    r"<math><mtext>\Bigl(</mtext></math>": "raw TeX in an equation",
    # Markdown
    "<p>| a | b |\n|---|---|\n| 1 | 2 |</p>": "raw pipes of a table: | a",
    "<p>one | two</p>": "raw pipes",
    "<p>See [the panel](10_panel.ipynb).</p>": "a raw link: See [the panel](10_panel",
    "<p>See [<code>Panel</code>](10_panel.ipynb).</p>": "a raw link: See […](10_panel",
    "<td>`forecastlab look` on a file</td>": "a raw backtick",
    "<p>This is **loud, is it not.</p>": "raw emphasis: This is **loud",
    "<p>Grows like t on the right.*</p>": "raw emphasis",
    "<p>## Heading</p>": "a raw heading",
    "<p>::: {.callout-note}</p>": "a raw fence or attribute",
    '<p>Source {target="_blank"}</p>': "a raw fence or attribute",
    "<pre><code>def f(\n  x,  # by [`save`](a.html)\n)</code></pre>": "a link in code",
    '<pre><span class="bu">f</span>(<span>[</span>`g`](a.html)</pre>': "a link in code",
    '<p><a href="66_starts.html"></a></p>': "a link without words, to 66_starts.html",
    # sections
    "<h2>Alone</h2><h2>Next</h2><p>Text.</p>": "an empty section: Alone",
    "<h2>Last</h2>": "an empty section: Last",
    "<h2>Parent</h2><h3>Child</h3><h2>Next</h2><p>Text.</p>": "an empty section: Child",
    '<h3>Above</h3><p><a href="../x.html">source</a></p><h3>f</h3><p>F.</p>': (
        "an empty section: Above"
    ),
    # pictures and tables
    '<p><img src="a.png"></p>': "a picture without an alternative text: a.png",
    '<p><img src="data:image/png;base64,iVBORw0KGgo" alt=""></p>': "alternative text",
    '<p><img src="a.png" alt="figure"></p>': "an alternative text that says nothing",
    '<svg viewBox="0 0 1 1"><path d="M0 0"></path></svg>': "a drawing (svg) without",
    "<table><tr><td>1</td></tr></table>": "a table that may widen a phone's page",
    # other hosts
    '<script src="https://cdn.jsdelivr.net/npm/x.js"></script>': "loads https://cdn.",
    '<img src="//cdn.host/a.png" alt="A line that rises.">': "loads //cdn.host/a.png",
    '<img src="a.png" srcset="https://cdn.host/b.png 2x" alt="It does rise.">': "loads",
    '<p style="background: url(https://cdn.host/a.png)">Text.</p>': "loads https://cdn",
    "<style>@import 'https://fonts.host/f.css';</style>": "loads https://fonts.host",
    '<script type="module">import x from "https://cdn.host/x.js";</script>': "loads",
    '<iframe src="https://player.host/1"></iframe>': "loads https://player.host/1",
    "<script>define('jquery', [], () => window.jQuery)</script>": "needs require.js",
    "<script>require(['plotly'], draw)</script>": "needs require.js",
}


@pytest.mark.parametrize("page", [quarto, smalldocs])
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found(planted, page, tmp_path, monkeypatch):
    "By the check that `make docs` ends with; nothing else is complained about."
    monkeypatch.setattr(builder, "DOCS", tmp_path)
    clean = page().replace("../", "").replace('href="', 'href="https://a.b/')
    clean = re.sub(r"<(?:link|script)[^>]*(?:href|src)=[^>]*>", "", clean)
    (tmp_path / "page.html").write_text(clean)
    assert builder.check() == []
    text = clean.replace("</main>", f"{planted}</main>")
    (tmp_path / "page.html").write_text(text)
    builder.read.cache_clear()
    wrong = [w for w in builder.check() if "does not exist" not in w]
    assert wrong and all(w.startswith("page.html ") for w in wrong), wrong
    assert any(PLANTED[planted] in w for w in wrong), wrong


# What Quarto writes that smalldocs does not: a piece of a page, and the fault it makes.
REQUIRE = "https://cdnjs.cloudflare.com/ajax/libs/require.js/2.3.6/require.min.js"
JQUERY = "https://cdnjs.cloudflare.com/ajax/libs/jquery/3.5.1/jquery.min.js"
WIDGETS = (
    "https://cdn.jsdelivr.net/npm/@jupyter-widgets/html-manager@*/dist/embed-amd.js"
)
POLYFILL = "https://cdnjs.cloudflare.com/polyfill/v3/polyfill.min.js?features=es6"
MATHJAX = "https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-chtml-full.js"
OF_QUARTO = {
    "require.js": (
        f'<script src="{REQUIRE}" integrity="sha512-c3Nl8==" crossorigin="anonymous">'
        "</script>",
        "loads https://cdnjs",
    ),
    "jQuery": (
        f'<script src="{JQUERY}" integrity="sha512-bLT0==" crossorigin="anonymous"'
        ' data-relocate-top="true"></script>',
        "loads https://cdnjs",
    ),
    "both joined": (
        "<script type=\"application/javascript\">define('jquery', [],function() {return"
        " window.jQuery;})</script>",
        "require.js",
    ),
    "widgets": (
        f'<script src="{WIDGETS}" crossorigin="anonymous"></script>',
        "loads https://cdn.jsdelivr",
    ),
    "KaTeX": (
        '<script src="https://cdn.jsdelivr.net/npm/katex@0.16.9/dist/katex.min.js">'
        '</script><link rel="stylesheet" '
        'href="https://cdn.jsdelivr.net/npm/katex@0.16.9/dist/katex.min.css">',
        "loads https://cdn.jsdelivr",
    ),
    "MathJax": (
        f'<script src="{POLYFILL}"></script>'
        f'<script src="{MATHJAX}" type="text/javascript"></script>',
        "loads https://cdn",
    ),
    "displayed TeX": (
        r'<p><span class="math display">$$\Bigl(\frac{a}{2} &lt; T\Bigr)$$</span></p>',
        "an equation that is not MathML",
    ),
    "TeX in a sentence": (
        r'<p>So <span class="math inline">\(\tbinom{v}{1}\)</span> grows.</p>',
        "an equation that is not MathML",
    ),
    "TeX in dollars in a sentence": (
        r'<p>So <span class="math inline">$\tbinom{v}{1}$</span> grows.</p>',
        "an equation that is not MathML",
    ),
    "a table of pandas": (
        '<div class="cell-output cell-output-display" data-execution_count="5"><div>'
        '<table class="dataframe caption-top table table-sm table-striped small"'
        ' data-quarto-postprocess="true" data-border="1"><thead><tr class="header">'
        "<th data-quarto-table-cell-role=th>ds</th></tr></thead><tbody><tr><td>1</td>"
        "</tr></tbody></table></div></div>",
        "a table that may widen",
    ),
    "a table of Markdown": (
        '<table class="caption-top table"><colgroup><col style="width: 50%"><col'
        ' style="width: 50%"></colgroup><thead><tr class="header"><th>a</th><th>b</th>'
        "</tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>",
        "a table that may widen",
    ),
}


@pytest.mark.parametrize("what", OF_QUARTO)
def test_what_quarto_leaves_is_evened_out(what):
    piece, fault = OF_QUARTO[what]
    in_head = piece.startswith(("<script", "<link"))
    page = quarto(head=piece) if in_head else quarto(piece)
    found = Page(page)
    complaints = found.faults + [f"loads {u}" for u in found.loads if "//" in u]
    assert any(fault in complaint for complaint in complaints), complaints
    even = builder.read_offline(page, HOST, "../")
    found = Page(even)
    assert found.faults == [] and not [u for u in found.loads if "//" in u]
    # scripts of the site itself stay
    assert "site_libs/quarto-nav/quarto-nav.js" in even
    assert "quarto-html-after-body" in even
    assert even == builder.read_offline(even, HOST, "../") or "<table" in even


def test_a_script_that_nobody_knows_is_not_taken_away_in_silence():
    page = quarto(head='<script src="https://host.example/track.js"></script>')
    even = builder.read_offline(page, HOST, "../")
    assert Page(even).loads.count("https://host.example/track.js") == 1


def test_what_a_phone_cannot_show_whole_stands_in_a_box(tmp_path):
    import matplotlib.pyplot as plt

    for name, inches in (("wide", 9), ("narrow", 5)):
        figure = plt.figure(figsize=(inches, 1), dpi=50)
        figure.savefig(tmp_path / f"{name}.png")
        plt.close(figure)
    shown = r'<span class="math display">\[x^2\]</span><img alt="a" src="wide.png">'
    told = "<td>a sentence that has many long words</td><td>2011-12-04</td>"
    text = f'<main>{shown}<img alt="b" src="narrow.png"><table>{told}</table></main>'
    even = builder.read_offline(text, HOST, "", tmp_path)
    assert '<span class="equation"><math' in even
    assert '<span class="picture"><img style="--inches:9.0" alt="a"' in even
    assert '<img alt="b"' in even and even.count('class="words"') == 1
    assert builder.read_offline(even, HOST, "", tmp_path).count('"equation"') == 1


def test_a_table_within_a_table_and_many_beside_each_have_one_box():
    inner = "<table><tr><td><table><tr><td>1</td></tr></table></td></tr></table>"
    even = builder.read_offline(smalldocs(inner + "<p>And</p>" + inner), HOST, "")
    assert even.count('<div class="table-scroll"') == 2
    assert even.count("<div") == even.count("</div>")


def test_a_directive_of_several_lines_becomes_one():
    "nbdev drops what follows the first line."
    source = "#| echo: false\n#| fig-alt: A line\n#|   that rises.\nplot()\n#|   no\n"
    one = "#| echo: false\n#| fig-alt: A line that rises.\nplot()\n#|   no\n"
    assert builder.one_line_each(source) == one
    assert builder.one_line_each("plot()") == "plot()"


def test_a_name_that_is_linked_already_is_not_linked_again():
    link = lambda line: re.sub(r"`(\w+)`", r"[`\1`](api.html#\1)", line)
    line = "`f`, [`g`](a.ipynb), [the `h`](b.html) and [`x[1]`](c.html) of `k`"
    assert builder.link_names(link, line) == (
        "[`f`](api.html#f), [`g`](a.ipynb), [the `h`](b.html) and [`x[1]`](c.html) of"
        " [`k`](api.html#k)"
    )


def prose():
    "Notebook, cell and text of all Markdown, also of what cells print as Markdown."
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in notebook.parts:
            continue
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            where = f"{notebook.relative_to(ROOT / 'nbs')} {cell['id']}"
            if cell["cell_type"] == "markdown":
                yield where, "".join(cell["source"])
            for out in cell.get("outputs", []):
                words = out.get("data", {}).get("text/markdown")
                if words:
                    yield where, "".join(words)


def by_pandoc(texts):
    "Each text as HTML by the converter that Quarto carries, all in one run."
    pypandoc = pytest.importorskip(
        "pypandoc", reason="no pandoc: pip install pypandoc-binary"
    )
    divided = "\n\n".join(f"::: {{#part{i}}}\n{t}\n\n:::" for i, t in enumerate(texts))
    how = ["--mathml", "--wrap=none", "--no-highlight"]
    made = pypandoc.convert_text(divided, "html", "markdown", extra_args=how)
    return re.split(r'<div id="part\d+">', made)[1:]


def raw(html):
    "What stayed raw in a piece of a page."
    found = Page(builder.read_offline(f"<main>{html}</main>", HOST, "")).faults
    return [f for f in found if f.startswith((*RAW, "an equation", "a link in code"))]


def test_pandoc_understands_all_prose_with_equations_or_tables():
    "Quarto's renderer, where our own converter would not be asked."
    some = [(where, text) for where, text in prose() if re.search(r"[$|]", text)]
    pieces = by_pandoc([text for _, text in some])
    assert len(pieces) == len(some) > 100
    wrong = []
    for (where, text), made in zip(some, pieces):
        wrong += [f"{where}: {fault}" for fault in raw(made)]
        if '<span class="math' in made:
            wrong.append(f"{where}: pandoc does not know an equation of it")
        rules = re.findall(r"^\|[\s:|-]+\|\s*$", text, re.M)
        if made.count("<table") < len(rules):
            wrong.append(f"{where}: a table that pandoc does not see")
    assert not wrong, wrong


@pytest.mark.parametrize(
    "words",
    [
        "(*batch,) expectation, same unit as the target.",
        "A piece of a word in brackets, its blanks as _.",
        "Grows like t**2/2. See `f(*x)` and $q_a * 2$.",
    ],
)
def test_a_star_in_a_docstring_ends_no_italics(words):
    (made,) = by_pandoc([builder.emphasised(words)])
    assert raw(made) == [] and "</em></p>" in made
    assert builder.emphasised("One.\n\nTwo *x*.") == "*One.*\n\nTwo *x*."


def test_an_equation_that_pandoc_does_not_know_is_found():
    "And the site's own converter takes its place."
    (made,) = by_pandoc([r"So $$\tbinom{v}{1}$$ grows."])
    assert '<span class="math' in made
    assert raw(made) == []


def test_our_own_converter_understands_every_equation():
    displayed, inline = (
        r"\$\$(.+?)\$\$",
        r"(?<![\\$\w])\$(?![\s$])([^$\n]*?)(?<![\s\\])\$",
    )
    counted = 0
    for where, text in prose():
        text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
        found = re.findall(displayed, text, re.S)
        found += re.findall(inline, re.sub(displayed, "", text, flags=re.S))
        for tex in found:
            assert "<math" in builder.mathml(tex, False), where
        counted += len(found)
    assert counted > 500


def test_tex_that_our_converter_does_not_know_stops_the_build():
    with pytest.raises(SystemExit, match="not understood"):
        builder.mathml(r"\nosuchcommand{x}", False)
