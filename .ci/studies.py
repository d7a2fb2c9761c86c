"""Studies, run anew: is what they show still so, and how fast do their sliders answer?

    python .ci/studies.py                 every study
    python .ci/studies.py 40 50           those whose names begin so
    python .ci/studies.py 40 --store      and store what it shows, widgets apart

Each runs from the top in a kernel of its own. What its cells show is compared with what
is stored in the notebook; then every widget of every moving picture is moved, by the
messages that JupyterLab sends. A line of JSON for each study says

    cpu     CPU seconds of all cells
    stale   what is stored and is no longer so; [] where all of it holds
    moves   widget -> CPU ms of each move that changed the picture: from the message's
            arrival to the new picture, drawn, coded as PNG and sent, with the reading
            of the clock
    idle    widgets that never changed the picture
    said    what stood below a picture because a value could not be drawn
"""

import argparse
import base64
import io
import json
import os
import platform
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "nbs" / "studies"
TOLERANCE = 0.05  # of a number: networks learn a little differently on other processors
PICTURE = 6.0  # of 255: root mean square, on a picture of a quarter of the size
MOVES = 12  # of one widget
# Sums in one order on every x86-64 processor of the last ten years: a network that is
# trained with wider vectors ends elsewhere, and what it ranks first may change.
ANY_PROCESSOR = dict(
    ATEN_CPU_CAPABILITY="avx2",
    MKL_CBWR="COMPATIBLE",
    NPY_DISABLE_CPU_FEATURES="X86_V4",
    NUMBA_CPU_NAME="haswell",
    NUMBA_CPU_FEATURES="",
    ONEDNN_MAX_CPU_ISA="AVX2",
    OPENBLAS_CORETYPE="Haswell",
)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


# ---- in the study's kernel


def values_of(control):
    "What to move a widget through, as (trait, value): both ends and some between."
    if hasattr(control, "index"):
        return [("index", i) for i in spread(range(len(control.options)))]
    if isinstance(control.value, str):
        return [("value", v) for v in ("red", "blue bird", "zzz", "", "lunch bag")]
    n = round((control.max - control.min) / control.step)
    kind = type(control.value)
    steps = spread(range(n + 1))
    return [("value", kind(control.min + i * control.step)) for i in steps]


def spread(places):
    "At most so many places, ends included; every second one first, so that all move."
    most = min(len(places), MOVES)
    apart = (len(places) - 1) / max(most - 1, 1)
    picked = [places[round(i * apart)] for i in range(most)]
    return picked[1::2] + picked[::2]


def offers(names):
    "Moving pictures of a study -> their widgets: comm, and what to move them through."
    from forecastlab.core.sliders import MovingPicture

    return {
        place: {
            name: dict(comm=control.comm.comm_id, values=values_of(control))
            for name, control in picture.controls.items()
        }
        for place, picture in names.items()
        if isinstance(picture, MovingPicture) and picture.controls
    }


def now(picture):
    "The CPU clock, the picture's sum, and what stands below it."
    import time
    import zlib

    clock = time.process_time()
    return clock, zlib.crc32(picture.image.value), picture.note.value


# ---- in front of it


class Study:
    "A study in a kernel of its own."

    def __init__(self, path):
        import nbformat

        self.path = path
        self.notebook = nbformat.read(path, 4)

    def __enter__(self):
        here = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": self.path_for()}
        if platform.machine() in ("x86_64", "AMD64"):
            here |= ANY_PROCESSOR
        for left in (2, 1, 0):
            self.client = self.fresh_client()
            self._kernel = self.client.setup_kernel(env=here)
            try:
                self._kernel.__enter__()
            except RuntimeError:
                # another program took its port before the kernel had it
                if not left:
                    raise
            else:
                break
        return self

    def fresh_client(self):
        "What runs the notebook, in its folder."
        from nbclient import NotebookClient

        return NotebookClient(
            self.notebook,
            timeout=1800,
            startup_timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": str(self.path.parent)}},
        )

    def path_for(self):
        "Where the kernel finds the package of this checkout, and this file."
        more = os.environ.get("PYTHONPATH", "")
        return os.pathsep.join([str(ROOT), str(ROOT / ".ci"), *filter(None, [more])])

    def __exit__(self, *why):
        return self._kernel.__exit__(*why)

    def run(self):
        "Run all cells."
        for i, cell in enumerate(self.notebook.cells):
            if cell.cell_type == "code":
                self.client.execute_cell(cell, i)

    def ask(self, expression):
        "The value of an expression in the kernel, through JSON."
        import nbformat

        lines = ["import json as _j", "import studies as _s"]
        code = "\n".join([*lines, f"print(_j.dumps({expression}))"])
        cell = nbformat.v4.new_code_cell(code)
        self.notebook.cells.append(cell)
        try:
            self.client.execute_cell(cell, len(self.notebook.cells) - 1)
        finally:
            self.notebook.cells.pop()
        return json.loads(cell.outputs[0]["text"])

    def send(self, comm, trait, value):
        "Move a widget as JupyterLab does."
        state = dict(method="update", state={trait: value}, buffer_paths=[])
        content = dict(comm_id=comm, data=state)
        message = self.client.kc.session.msg("comm_msg", content)
        self.client.kc.shell_channel.send(message)

    def moves(self):
        "Move every widget: its CPU ms, those that changed nothing, what was said."
        spent, idle, said = {}, [], []
        for picture, controls in self.ask("_s.offers(globals())").items():
            for name, control in controls.items():
                times, sums = [], set()
                for trait, value in control["values"]:
                    start, before, _ = self.ask(f"_s.now({picture})")
                    self.send(control["comm"], trait, value)
                    end, after, words = self.ask(f"_s.now({picture})")
                    sums |= {before, after}
                    if before != after:
                        times.append(round(1000 * (end - start), 1))
                    said += [words] if words else []
                spent[name] = times
                if len(sums) == 1:
                    idle.append(name)
        return dict(moves=spent, idle=idle, said=said)


def shown(cell):
    "What a cell shows, widgets apart: (kind, words or PNG); streams are joined."
    found = []
    for out in cell.get("outputs", []):
        data = out.get("data", {})
        if out["output_type"] == "stream":
            words = "".join(out["text"])
            if found and found[-1][0] == out["name"]:
                words = found.pop()[1] + words
            found.append((out["name"], words))
        elif "image/png" in data:
            found.append(("picture", "".join(data["image/png"])))
        elif not any("widget" in kind for kind in data):
            found.append(("words", "".join(data.get("text/plain", ""))))
    return found


def numbers_differ(old, new):
    "The first number that moved by more than the tolerance and a last digit, or None."
    for a, b in zip(NUMBER.findall(old), NUMBER.findall(new)):
        x, y = float(a.replace(",", "")), float(b.replace(",", ""))
        last = 10.0 ** -len(a.partition(".")[2])
        if abs(x - y) > TOLERANCE * max(abs(x), abs(y)) + 1.001 * last:
            return f"{a} is now {b}"
    return None


def words_differ(old, new):
    "What is no longer so in words with numbers, or None."
    plain = [" ".join(NUMBER.sub("#", words).split()) for words in (old, new)]
    if plain[0] != plain[1]:
        return f"{' '.join(old.split())[:200]!r} is now {' '.join(new.split())[:200]!r}"
    return numbers_differ(old, new)


def pictures_differ(old, new):
    "Whether two pictures (PNG in base 64) are not alike, in words, or None."
    import numpy as np
    from PIL import Image

    coded = [io.BytesIO(base64.b64decode(png)) for png in (old, new)]
    a, b = (Image.open(png).convert("RGB") for png in coded)
    if any(abs(m - n) > 0.03 * max(m, n) for m, n in zip(a.size, b.size)):
        return f"a picture of {a.size} dots is now one of {b.size}"
    size = [n // 4 for n in a.size]
    a, b = (np.asarray(x.resize(size, Image.Resampling.BOX), float) for x in (a, b))
    away = float(((a - b) ** 2).mean() ** 0.5)
    return f"a picture is {away:.1f} of 255 away" if away > PICTURE else None


def stale(old, new):
    "What of the stored cells is no longer so, cell by cell."
    fresh = {cell["id"]: cell for cell in new if cell["cell_type"] == "code"}
    wrong = []
    for cell in old:
        if cell["cell_type"] != "code":
            continue
        before, after = shown(cell), shown(fresh[cell["id"]])
        kinds = [[kind for kind, _ in outs] for outs in (before, after)]
        if kinds[0] != kinds[1]:
            wrong.append(f"{cell['id']}: shows {kinds[1]}, stored is {kinds[0]}")
            continue
        for (kind, a), (_, b) in zip(before, after):
            differ = pictures_differ if kind == "picture" else words_differ
            if why := differ(a, b):
                wrong.append(f"{cell['id']}: {why}")
    return wrong


def store(study):
    "Write what a study shows into its notebook: no widgets, no counts, clean."
    import nbformat
    from nbdev.clean import nbdev_clean

    for cell in study.notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.metadata.pop("execution", None)
            cell.outputs = [
                out
                for out in cell.outputs
                if not any("widget" in kind for kind in out.get("data", {}))
            ]
    study.notebook.metadata.pop("widgets", None)
    nbformat.write(study.notebook, study.path)
    nbdev_clean(str(study.path))


def study_of(path, keep=False):
    "Run a study, compare, move its widgets; with `keep`, store what it shows."
    old = json.loads(path.read_text(encoding="utf-8"))["cells"]
    with Study(path) as study:
        study.run()
        cpu = study.ask("__import__('time').process_time()")
        told = dict(study=path.stem, cpu=round(cpu, 1))
        told["stale"] = stale(old, study.notebook.cells)
        told |= study.moves()
    if keep:
        store(study)
    return told


def main(words):
    "Every study that was asked for, a line of JSON each."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="how their names begin")
    parser.add_argument("--store", action="store_true", help="store what they show")
    asked = parser.parse_args(words)
    for path in sorted(STUDIES.glob("*.ipynb")):
        if not asked.names or path.name.startswith(tuple(asked.names)):
            print(json.dumps(study_of(path, asked.store)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
