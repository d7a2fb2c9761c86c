"""What a reader of a page would stumble over, found in its HTML.

`Page` reads a page once. Its ids, links and what it loads serve the check of links;
`faults` is one line for each thing that only looks right in the notebook: TeX, tables
and links that stayed text, sections with nothing in them, pictures without words,
tables that widen a phone's page, scripts of other hosts.
"""

import re
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import urlsplit

VOID = frozenset(
    "area base br col embed hr img input link meta source track wbr".split()
)
SILENT = frozenset(("script", "style", "template", "annotation", "svg"))
CODE = frozenset(("pre", "code", "kbd", "samp", "textarea"))
# A new line of thought begins and ends with these.
BLOCK = frozenset(
    "p li td th dt dd div section figure figcaption caption blockquote pre table ul ol"
    " h1 h2 h3 h4 h5 h6 title main nav header footer body".split()
)
# What stands in a sentence in place of code or an equation.
ELSEWHERE = "\N{OBJECT REPLACEMENT CHARACTER}"

# Markdown that stayed text: what it is, and how it looks.
RAW = {
    "raw TeX": r"\$\$|\\[a-zA-Z]{2,}|\\[()\[\]]|\$[^$\s][^$]*[\\^_][^$]*\$",
    "raw pipes of a table": r"^\s*\||\|\s*$|\s\|\s|\|\s*:?-{2,}",
    # not a shape, as in array[object](996,)
    "a raw link": r"\]\s?\((?!\d+,)\S",
    "a raw backtick": r"`",
    "raw emphasis": r"(?<!\S)\*{1,2}(?=\w)|[\w.,!?)]\*{1,2}(?!\S)",
    "a raw heading": r"^\s*#{1,6}\s+\S",
    "a raw fence or attribute": r"^\s*:::|\{\s*(?:[.#][\w-]+|[\w-]+=\")",
}
# A link that was written into code, as into a signature: `[`Panel`](...)`.
LINKED_CODE = r"\[`[^`\n]+`\]\("
# An inline script that needs a loader, which no page has.
NEEDS_LOADER = r"(?<![\w.])(?:define|require(?:js)?)\s*\("
STYLED = r"(?:@import|url\()\s*[\"'(]*((?:https?:)?//[^\"')\s]+)"
# What only colours code: most of a page's tags, and nothing to be checked.
COLOUR = r"<span(?![^>]*(?:\bid=|math))[^>]*>|</span>"
SCRIPTED = r"(?:\bimport\b|\bsrc\s*=|\bfetch\()[^\n]*?[\"'`]((?:https?:)?//[^\"'`\s]+)"


def near(text, at, reach=40):
    "Where in a text something stands: a few words around it."
    words = text[max(0, at - reach // 2) : at + reach].split()
    return " ".join(words).replace(ELSEWHERE, "…")


def elsewhere(url):
    "Whether a URL leads to another host."
    return bool(urlsplit(url).netloc)


class Page(HTMLParser):
    "Every id of a page, what it links to, what it loads, and its faults."

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.faults = set(), [], [], []
        self._open = []  # (tag, attributes) of the elements around
        self._depth = Counter()  # how many of them have a tag
        self._words = []  # of the block that is being read
        self._code = []  # of the listing that is being read
        self._script = []
        self._link = None  # the words of the link that is being read
        self._heading = None
        self._sections = []  # (level, title) of headings that nothing followed yet
        self.feed(re.sub(COLOUR, "", text))
        self.close()
        self._block_ends()
        self._content_ends(0)

    # what is around
    def _inside(self, tags):
        return any(self._depth[tag] for tag in tags)

    def _in_main(self):
        return self._inside(("main",)) and not self._inside(("nav", "header"))

    # reading
    def handle_starttag(self, tag, attrs):
        a = {name: value or "" for name, value in attrs}
        self.ids |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag in BLOCK:
            self._block_ends()
        self._loads(tag, a)
        if tag == "a" and "href" in a:
            self.links.append(a["href"])
            self._link = [a.get("aria-label") or a.get("title") or ""]
        elif re.fullmatch("h[1-6]", tag) and self._in_main():
            self._content_ends(int(tag[1]))
            self._heading = [int(tag[1]), ""]
        elif tag == "img":
            self._picture(a)
        elif tag == "table":
            self._table()
        elif tag == "span" and "math" in a.get("class", "").split():
            self.faults.append("an equation that is not MathML")
        if tag in ("math", "svg", "table", "img", "iframe", "video", "input"):
            self._content()
        if tag == "svg" and self._in_main() and "aria-hidden" not in a:
            if not a.get("aria-label"):
                self.faults.append("a drawing (svg) without aria-label")
        if tag not in VOID:
            self._open.append((tag, a))
            self._depth[tag] += 1

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag in BLOCK:
            self._block_ends()
        if tag == "pre":
            self._listing_ends()
        elif tag == "script":
            self._script_ends()
        elif tag == "a":
            self._link_ends()
        elif self._heading and tag == f"h{self._heading[0]}":
            self._sections.append(tuple(self._heading))
            self._heading = None
        elif tag == "main":
            self._content_ends(0)
        while self._depth[tag]:
            ended, _ = self._open.pop()
            self._depth[ended] -= 1
            if ended == tag:
                break

    def handle_data(self, data):
        if self._inside(("script",)):
            self._script.append(data)
        if self._inside(("style",)):
            self._styles(data)
        if self._inside(SILENT):
            return
        if self._link is not None:
            self._link.append(data)
        if self._heading:
            self._heading[1] += data
        if self._inside(("math",)):
            if re.search(RAW["raw TeX"], data):
                self.faults.append(f"raw TeX in an equation: {near(data, 0)}")
            self._words.append(ELSEWHERE)
        elif self._inside(CODE):
            self._code.append(data)
            self._words.append(ELSEWHERE)
            self._content()
        else:
            self._words.append(data)

    # what a page loads
    def _loads(self, tag, a):
        rels = set(a.get("rel", "").split())
        if tag == "link" and rels & {"stylesheet", "icon", "preload", "modulepreload"}:
            self.loads.append(a.get("href", ""))
        elif tag == "object" and a.get("data"):
            self.loads.append(a["data"])
        elif a.get("src"):
            self.loads.append(a["src"])
        several = [part.split()[0] for part in a.get("srcset", "").split(",") if part]
        self.loads += several + ([a["poster"]] if a.get("poster") else [])
        self._styles(a.get("style", ""))

    def _styles(self, css):
        for url in re.findall(STYLED, css):
            self.faults.append(f"loads {url}")

    def _script_ends(self):
        script, self._script = "".join(self._script), []
        kind = dict(self._open[-1][1]).get("type", "") if self._open else ""
        if kind and not re.search("javascript|module", kind):
            return  # data, not code
        for url in re.findall(SCRIPTED, script):
            self.faults.append(f"loads {url}")
        found = re.search(NEEDS_LOADER, script)
        if found:
            words = near(script, found.start())
            self.faults.append(f"a script that needs require.js: {words}")

    # what a reader reads
    def _block_ends(self):
        text, self._words = "".join(self._words), []
        if not text.strip():
            return
        if not self._heading and text.strip() != "source":
            self._content()
        for what, pattern in RAW.items():
            found = re.search(pattern, text)
            if found:
                self.faults.append(f"{what}: {near(text, found.start())}")

    def _listing_ends(self):
        text, self._code = "".join(self._code), []
        found = re.search(LINKED_CODE, text)
        if found:
            self.faults.append(f"a link in code: {near(text, found.start())}")

    def _link_ends(self):
        if self._link is None:
            return
        words, self._link = "".join(self._link).strip(), None
        attributes = next((a for tag, a in reversed(self._open) if tag == "a"), {})
        hidden = attributes.get("aria-hidden") == "true" or self._inside(("pre",))
        if not words and not hidden:
            self.faults.append(f"a link without words, to {attributes.get('href')}")

    def _picture(self, a):
        alt = a.get("alt", "").strip()
        name = a.get("src", "")
        name = f"{name[:20]}…" if name.startswith("data:") else name
        if not alt:
            self.faults.append(f"a picture without an alternative text: {name}")
        elif len(alt.split()) < 3 and self._in_main():
            self.faults.append(f"an alternative text that says nothing: {alt}")
        if self._link is not None:
            self._link.append(alt)

    def _table(self):
        boxed = any("table-scroll" in a.get("class", "").split() for _, a in self._open)
        if self._in_main() and not boxed and not self._inside(("table",)):
            self.faults.append("a table that may widen a phone's page")

    # sections
    def _content(self):
        if self._in_main() and not self._heading:
            self._sections.clear()

    def _content_ends(self, level):
        "A heading of this level ends the sections of its own level and of lower ones."
        for other, title in self._sections:
            if other >= level:
                self.faults.append(f"an empty section: {title.strip()}")
        self._sections = [s for s in self._sections if s[0] < level]
