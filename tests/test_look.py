"""How the site looks and works.

Its parts on small pages; the built site in a browser that prefers light or dark, is as
narrow as a phone, or has no mouse.
"""

import html
import re
from pathlib import Path
from types import SimpleNamespace

import browse
import look
import mathfont
import pytest
from test_site import ROOT, site, wait  # noqa: F401  site is a fixture

CONFIG = SimpleNamespace(
    user="someone",
    repo="lab",
    branch="main",
    title="lab",
    description="Forecasts.",
    doc_host="https://someone.github.io",
    doc_baseurl="/lab",
    nbs_path=Path("nbs"),
)


# --- parts


def test_a_page_opens_its_very_notebook_of_the_public_repository():
    row = look.row_of_links(CONFIG, "nbs/core/10_panel.ipynb", Path("core/panel.html"))
    colab = "https://colab.research.google.com/github"
    for address in (
        "https://mybinder.org/v2/gh/someone/lab/main"
        "?urlpath=lab/tree/nbs/core/10_panel.ipynb",
        f"{colab}/someone/lab/blob/main/nbs/core/10_panel.ipynb",
        "panel.html.md",
    ):
        assert f'href="{address}"' in row


def cell(source, kind="code", **outputs):
    return dict(cell_type=kind, source=source, outputs=[outputs] if outputs else [])


def test_markdown_holds_prose_code_and_what_it_printed():
    signature = '---\n\n[source](a.py){target="_blank"}\n\n### f\n\n```python\nf()\n```'
    cells = [
        cell("Prose.", "markdown"),
        cell(
            "#| echo: false\n#| output: asis\nshow_doc(f)",
            data={"text/markdown": signature},
        ),
        cell(
            "#| eval: false\n1 + 1",
            output_type="execute_result",
            data={"text/plain": "2"},
        ),
        cell("print('```')", output_type="stream", text=["```\n"]),
        cell("plot()", data={"image/png": "AAAA", "text/plain": "<Figure>"}),
    ]
    text = look.as_markdown(cells)
    assert text.startswith("Prose.\n\n[source](a.py)\n\n### f")
    assert "```python\n1 + 1\n```\n\n```\n2\n```" in text
    assert "````\n```\n````" in text, "a fence within a fence"
    assert "show_doc" not in text and "AAAA" not in text and "picture" in text


def test_markdown_reads_a_table_that_is_shown_as_html():
    table = (
        "<style>td {}</style><table><thead><tr><th>id</th><th>bar</th></tr></thead>"
        "<tr><td>a|b</td><td>1</td></tr></table><ul><li><code>x</code>: y</li></ul>"
    )
    shown = {"text/html": table, "text/plain": "<IPython.core.display.HTML object>"}
    assert look.output_as_markdown(dict(data=shown)).splitlines() == [
        "| id | bar |",
        "|---|---|",
        r"| a\|b | 1 |",
        "- x: y",
    ]


def built(folder, **pages):
    "A small site with its processed notebooks, as `Look` takes it."
    import json

    docs, proc, renamed = folder / "_docs", folder / "_proc", {}
    for name, words in pages.items():
        page = Path(name if name == "index" else f"core/{name}").with_suffix(".html")
        old = page if name == "index" else page.with_name(f"10_{page.name}")
        renamed[old] = page
        first = f"---\ndescription: About {name}.\ntitle: The {name}\n---"
        notebook = dict(cells=[cell(first, "raw"), cell(words, "markdown")])
        for file, text in (
            (
                docs / page,
                f"<head><title>x</title></head><body><main>{words}</main></body>",
            ),
            (proc / old.with_suffix(".ipynb"), json.dumps(notebook)),
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return look.Look(docs, proc, renamed, CONFIG)


def test_llms_txt_lists_every_page_and_copies_lead_to_copies(tmp_path):
    host = "https://someone.github.io/lab"
    made = built(
        tmp_path,
        index="[a panel](core/10_panel.ipynb#rows), [elsewhere](https://x.org/y.ipynb)",
        panel=f"[home](../index.ipynb), [itself]({host}/core/panel.html#a)",
    )
    made.markdown()
    assert (made.docs / "llms.txt").read_text() == (
        "# lab\n\n> Forecasts.\n\n"
        f"## Start\n\n- [The index]({host}/index.html.md): About index.\n\n"
        f"## Core\n\n- [The panel]({host}/core/panel.html.md): About panel.\n"
    )
    copy = (made.docs / "index.html.md").read_text()
    assert copy.startswith("# The index\n\n> About index.\n\n")
    assert f"[a panel]({host}/core/panel.html.md#rows)" in copy
    assert "[elsewhere](https://x.org/y.ipynb)" in copy
    copy = (made.docs / "core/panel.html.md").read_text()
    assert f"[home]({host}/index.html.md)" in copy
    assert f"[itself]({host}/core/panel.html.md#a)" in copy


def test_the_page_for_what_is_not_there_counts_its_links_from_the_root(tmp_path):
    made = built(tmp_path, index="Home.")
    made.not_found()
    text = (made.docs / "404.html").read_text()
    assert "Home." not in text and 'href="index.html"' in text
    assert '"/lab/"' in text.split("<title>")[0], "before anything is loaded"
    assert 'href="#' not in text, "would lead to the root"


def test_a_sidebar_folds_by_button_and_its_arrow_is_no_second_stop():
    tag = '<a class="{}" data-bs-toggle="collapse" role="navigation">'
    page = f"<body>{tag.format('sidebar-item-text')}{tag.format('sidebar-item-toggle')}"
    made = look.Look(Path(), Path(), {}, CONFIG)
    words, arrow = re.findall(r"<a .*?>", made.dress(page, Path("x.html"), ""))[-2:]
    assert 'role="button" tabindex="0"' in words
    assert 'role="button" tabindex="-1"' in arrow


@pytest.mark.parametrize(
    "css, left",
    [
        (".used{a:b}.unused{c:d}", ".used{a:b}"),
        (".unused,.used:hover{a:b}", ".used:hover{a:b}"),
        ("a:not(.unused){a:b}", "a:not(.unused){a:b}"),
        ("@media (x){.unused{a:b}h1{c:d}}", "@media (x){h1{c:d}}"),
        ('a[href$=".pdf"]{a:url("x{}.svg")}', 'a[href$=".pdf"]{a:url("x{}.svg")}'),
        ("/* .used */.unused .used{a:b}:root{--a:b}", ":root{--a:b}"),
        ('@charset "utf-8";.unused{a:b}.used{a:b}', '@charset "utf-8";.used{a:b}'),
        (".quarto-made-of-parts{a:b}", ".quarto-made-of-parts{a:b}"),
    ],
)
def test_a_rule_that_no_page_can_match_goes(css, left):
    assert look.without_unused(css, {"used"}) == left


def test_dark_is_bootstrap_once_and_its_dark_colours():
    sheet = ":root{--a:1}[data-bs-theme=dark]{--a:2}.navbar[data-bs-theme=dark]{--b:3}"
    assert look.dark_rules(sheet) == ":root{--a:2}"
    link = '<link href="up/themes/d.min.css" class="quarto-color-scheme{}">'
    head = look.one_dark_sheet(link.format("") + link.format(" quarto-color-alternate"))
    assert re.findall('href="(.*?)"', head) == [
        "up/themes/d.min.css",
        "data:text/css,",
        "up/themes/dark.css",
    ]


def test_a_source_page_has_language_viewport_numbers_and_a_way_back():
    page = look.source_page(
        Path("forecastlab/__init__.py"), Path("core/x.html"), "../../"
    )
    assert '<html lang="en">' in page and 'name="viewport"' in page
    assert 'href="../../index.html"' in page and 'href="../../core/x.html"' in page
    lines = (ROOT / "forecastlab/__init__.py").read_text().rstrip().split("\n")
    assert page.count('class="line"') == len(lines)
    shown = re.findall(r'id="L-\d+">(.*?)\n</span>', page, re.S)
    plain = [html.unescape(re.sub(r"<[^>]*>", "", line)) for line in shown]
    assert plain == lines


# --- the built site

AT = "return getComputedStyle(document.body).backgroundColor"
DARK = re.compile(r"rgb\((\d{1,2}), ")


def is_dark(chrome):
    return bool(DARK.match(chrome.execute_script(AT)))


def read(chrome, address):
    chrome.get(address)
    wait(chrome, "document.readyState == 'complete'")


@pytest.fixture(scope="module")
def docs(site):  # noqa: F811
    "The address of the built site, with its page for what is not there."
    with browse.served(ROOT / "_docs") as address:
        yield address


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    "One browser for this file: a start costs more than a page."
    driver = browse.chrome(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.mark.browser
@pytest.mark.slow
def test_light_and_dark_follow_the_reader(docs, chrome):
    toggle = "document.querySelector('.quarto-color-scheme-toggle').click()"
    source = f"{docs}/source/forecastlab/core/panel.html"
    for scheme in browse.SCHEMES:
        browse.screen(chrome, 1280, 900, scheme)
        for page in (f"{docs}/index.html", source):
            read(chrome, page)
            assert is_dark(chrome) == (scheme == "dark"), f"{page} at {scheme}"
    read(chrome, f"{docs}/index.html")
    chrome.execute_script(toggle)
    wait(
        chrome,
        "getComputedStyle(document.body).backgroundColor == 'rgb(255, 255, 255)'",
    )
    for page in (f"{docs}/install.html", source):
        read(chrome, page)
        assert not is_dark(chrome), f"{page} forgot what was chosen"
    chrome.execute_script("localStorage.clear()")


@pytest.mark.browser
@pytest.mark.slow
def test_nothing_serious_stands_in_a_readers_way(docs, chrome):
    "The figure house.axe asks ten pages; three are enough to see a fault of the bars."
    if why := browse.lacking():
        pytest.skip(why)
    for scheme in browse.SCHEMES:
        browse.screen(chrome, 1280, 900, scheme)
        for page in ("install.html", "kernels/quantile_loss.html", browse.PAGES[-1]):
            said = browse.findings(chrome, f"{docs}/{page}")
            assert not said, f"{page}, {scheme}: {said[:5]}"


def active(chrome):
    return chrome.execute_script(
        "return document.activeElement.outerHTML.slice(0, 200)"
    )


@pytest.mark.browser
@pytest.mark.slow
def test_a_reader_without_a_mouse_gets_past_the_sidebar_and_folds_it(docs, chrome):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def press(key):
        chrome.switch_to.active_element.send_keys(key)

    browse.screen(chrome, 1280, 900)
    read(chrome, f"{docs}/core/panel.html")
    press(Keys.TAB)
    assert "Skip to the text" in active(chrome)
    press(Keys.ENTER)
    assert active(chrome).startswith("<main")
    fold = chrome.find_element(By.CSS_SELECTOR, "#quarto-sidebar [role=button]")
    fold.send_keys(Keys.ENTER)
    wait(chrome, "!document.querySelector('#quarto-sidebar-section-1.show')")


INSIDE = """
const box = document.querySelector("#quarto-sidebar").getBoundingClientRect();
const entry = document.querySelector(arguments[0]).getBoundingClientRect();
const there = document.elementFromPoint(entry.left + 5, entry.top + 5);
return entry.top >= box.top && entry.bottom <= Math.min(box.bottom, innerHeight)
    && there !== null && there.closest("#quarto-sidebar") !== null;
"""
HERE = "#quarto-sidebar .sidebar-link.active"


@pytest.mark.browser
@pytest.mark.slow
def test_the_sidebar_shows_where_we_are(docs, chrome):
    browse.screen(chrome, 1280, 900)
    for page in ("index.html", "core/cli.html", "studies/five_knots_or_twenty.html"):
        read(chrome, f"{docs}/{page}")
        assert chrome.execute_script(INSIDE, HERE), page


@pytest.mark.browser
@pytest.mark.slow
def test_a_phones_drawer_begins_at_its_first_entry(docs, chrome):
    from selenium.webdriver.common.keys import Keys

    browse.screen(chrome, 390, 844)
    read(chrome, f"{docs}/index.html")
    shown = "getComputedStyle(document.querySelector('#quarto-sidebar a')).visibility"
    assert chrome.execute_script(f"return {shown}") == "hidden", "a stop out of sight"
    chrome.execute_script("document.querySelector('.quarto-btn-toggle').click()")
    wait(chrome, "document.activeElement.closest('#quarto-sidebar')")
    wait(
        chrome,
        "document.querySelector('#quarto-sidebar').getBoundingClientRect().left == 0",
    )
    assert chrome.execute_script(INSIDE, "#quarto-sidebar a")
    chrome.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert "quarto-btn-toggle" in active(chrome)
    wait(chrome, f"{shown} == 'hidden'")


@pytest.mark.browser
@pytest.mark.slow
def test_a_lost_reader_finds_the_way_from_any_depth(docs, chrome):
    from selenium.webdriver.common.by import By

    read(chrome, f"{docs}/core/no/such/page.html")
    assert "Nothing lies" in chrome.find_element(By.TAG_NAME, "h1").text
    assert chrome.execute_script("return document.fonts.check('16px bootstrap-icons')")
    chrome.find_element(By.LINK_TEXT, "first page").click()
    assert chrome.current_url == f"{docs}/index.html"


@pytest.mark.browser
@pytest.mark.slow
def test_the_font_for_mathematics_has_every_character_of_the_site(docs):
    shown = set()
    for page in (ROOT / "_docs").rglob("*.html"):
        for formula in re.findall(r"<math.*?</math>", page.read_text(), re.S):
            written = re.sub(
                r"<annotation.*?</annotation>|<[^>]*>", "", formula, flags=re.S
            )
            shown |= set(map(ord, html.unescape(written)))
    missing = shown - mathfont.characters() - {ord("\n"), 0x3000}
    assert not missing, [hex(c) for c in sorted(missing)]


@pytest.mark.browser
@pytest.mark.slow
def test_no_page_weighs_a_megabyte(docs):
    page, kilobytes = browse.heaviest()
    assert kilobytes <= 1000, f"{page}: {kilobytes:.0f} kB"
