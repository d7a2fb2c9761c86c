"""README's table of figures, written anew from data/figures.yaml and
data/results/figures.csv.
"""

import re
from pathlib import Path

from forecastlab.core.figures import measured_table

README = Path(__file__).resolve().parent.parent / "README.md"
TABLE = r"\| figure \|.*?(?=\n\n)"


def with_figures(
    text,  # of the README
):
    "The same text with the table of figures as it stands today."
    found = re.findall(TABLE, text, re.S)
    if len(found) != 1:
        raise SystemExit(f"README.md has {len(found)} tables of figures, not one")
    return text.replace(found[0], measured_table())


if __name__ == "__main__":
    README.write_text(with_figures(README.read_text(encoding="utf-8")), "utf-8")
