"""nbs/assets/mathematics.woff2, made once:

    python .ci/mathfont.py texgyrepagella-math.otf

TeX Gyre Pagella Math (Debian: fonts-texgyre-math) with the characters that a page of
mathematics uses, under another name, as its licence asks. Needs fonttools and brotli.
"""

import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

MADE = Path(__file__).resolve().parent.parent / "nbs/assets/mathematics.woff2"
RANGES = [
    (0x20, 0x7E),
    (0x300, 0x304),
    (0x391, 0x3A9),
    (0x3B1, 0x3C9),
    (0x2190, 0x2195),
    (0x1D400, 0x1D467),  # letters: bold, italic
    (0x1D49C, 0x1D4B5),  # script capitals
    (0x1D538, 0x1D551),  # capitals with a double stroke
    (0x1D6E2, 0x1D71B),  # Greek, italic
]
SINGLE = (
    "\xa0§¬¯°±·×÷ıȷ̸̧̲̆̇̈̊̌⃗ϑϕϖϰϱϵ–—‖‘’“”†•…′″"
    "\u2061\u2062\u2063\u2064ℂℋℍℎℏℐℑℒℓℕ℘ℙℚℛℜℝℤℬℰℱℳ"
    "↦⇐⇒⇔∀∂∃∄∅∆∇∈∉∋∏∐∑−∓∕∖∗∘∙√∝∞∠∣∤∥∦∧∨∩∪∫∬∮∴∵∼≁≃≅≈≉≍≐≔≕≜≝≟≠≡≢≤≥≦≧≪≫≲≳≺≻⊂⊃⊄⊆⊇⊈"
    "⊊⊎⊓⊔⊕⊖⊗⊘⊙⊢⊣⊤⊥⊨⋀⋁⋂⋃⋄⋅⋆⋮⋯⋱⌈⌉⌊⌋⏞⏟⟨⟩⨀⨁⨂⩽⩾■□▪△▽◦𝟙"
)


def characters():
    "The characters that the font has."
    return {c for a, b in RANGES for c in range(a, b + 1)} | set(map(ord, SINGLE))


def make(source):
    "The subset, with the table that sets scripts and stretches brackets."
    font = TTFont(source)
    options = subset.Options(
        layout_features=[], hinting=False, glyph_names=False, name_IDs=[0, 13, 14]
    )
    options.drop_tables += ["FFTM"]
    cut = subset.Subsetter(options)
    cut.populate(unicodes=characters())
    cut.subset(font)
    for number, words in ((1, "Lab Math"), (2, "Regular"), (4, "Lab Math")):
        font["name"].setName(words, number, 3, 1, 0x409)
    names = font["CFF "].cff
    names.fontNames = ["LabMath"]
    names.topDictIndex[0].FullName = names.topDictIndex[0].FamilyName = "Lab Math"
    font.flavor = "woff2"
    font.save(MADE)
    print(f"{MADE}: {MADE.stat().st_size:,} bytes, {len(font.getGlyphOrder())} glyphs")


if __name__ == "__main__":
    make(sys.argv[1])
