"""One executed run of every pipeline that is a job, for its page of the site.

A pipeline's notebook holds no outputs; its runs do. What one run printed and drew is
kept in data/results/runs, cell by cell, each with the fingerprint of the code that made
it. `make docs` shows it below that code, so that nothing is run for the site.

    python .ci/executed.py                    keep anew what no longer fits its notebook
    python .ci/executed.py toy_paths ...      these
    python .ci/executed.py runs/toy_paths/ID  from a finished run

Each takes as long as the job does. The pictures of the README and the home page come
from the same runs.
"""

import base64
import hashlib
import io
import json
import re
import sys
import textwrap
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "data" / "results" / "runs"
PICTURES = ROOT / "nbs" / "pictures"
# Pictures of a run that no cell draws, in words
LEAD = {
    "demand_forecast": "A year of weekly sales of a shopping bag ends in a fan: the"
    " median forecast, bands that hold 40 and 80 of 100 outcomes, and above them the"
    " stock that is enough in 95 of 100 weeks"
}
COLUMNS = 80  # of what is printed, on a page
# what is run with something else than its defaults
PARAMETERS = {"quantile_forecast": {"series": 200}}
# ... and with a parameter file
FILES = {"nbody": "nbody_budget.yaml"}
# Seconds on a clock tell how busy a machine was, not what a job costs.
CLOCKS = re.compile(r"(?<!cpu_)seconds$")


def jobs():
    "Name -> notebook of every pipeline but the measurements."
    found = sorted((ROOT / "nbs" / "pipelines").glob("[0-9]*.ipynb"))
    return {p.stem[3:]: p for p in found if "bench" not in p.stem}


def fingerprint(source):
    "Of a cell's code, which may stand as a list of lines."
    return hashlib.sha256("".join(source).strip().encode()).hexdigest()[:16]


def code(notebook):
    "Cell id -> fingerprint, for the cells of a notebook that do something."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    made = [c for c in cells if c["cell_type"] == "code"]
    return {c["id"]: fingerprint(c["source"]) for c in made if "".join(c["source"])}


def kept(name):
    "The run that is kept of a pipeline, or None."
    place = KEPT / f"{name}.json"
    return json.loads(place.read_text(encoding="utf-8")) if place.exists() else None


def faults(name, notebook):
    "Where a kept run is not one of the notebook as it stands."
    run = kept(name)
    if run is None:
        return [f"no run of {name} is kept"]
    now = code(notebook)
    then = {id: cell["code"] for id, cell in run["cells"].items()}
    changed = [id for id in now if then.get(id) != now[id]]
    gone = [id for id in then if id not in now]
    return [f"{name}: cell {id} has changed since its run" for id in changed + gone]


def small(png):
    "The same picture in a palette, which is a third of the size."
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(paper, picture).convert("RGB")
    made = io.BytesIO()
    drawn = flat.quantize(128, dither=Image.Dither.NONE)
    # a page asks how wide it was drawn
    dpi = picture.info.get("dpi", (80, 80))
    drawn.save(made, "PNG", optimize=True, dpi=dpi)
    return base64.b64encode(made.getvalue()).decode()


def wrapped(line):
    "A printed sentence no wider than a page; what stands in columns stays as it is."
    if len(line) <= COLUMNS or re.search(r"\S {2,}\S", line):
        return line
    return textwrap.fill(line, COLUMNS, break_long_words=False, break_on_hyphens=False)


def shown(outputs, records):
    """The outputs of a cell that a page shows.

    No progress and no warnings, and of a result its richest form. What a cell hands to
    the record stands above, as the run's numbers.
    """
    for out in outputs:
        data = out.get("data", {})
        plain = {"output_type": "display_data", "metadata": {}}
        if out.get("name") == "stdout":
            lines = "".join(out["text"]).split("\n")
            said = [wrapped(line.rsplit("\r", 1)[-1]) for line in lines]
            text = "\n".join(said)
            yield {"output_type": "stream", "name": "stdout", "text": text}
        elif "image/png" in data:
            yield plain | {"data": {"image/png": small("".join(data["image/png"]))}}
        elif "text/html" in data:
            words = "".join(data["text/html"])
            words = re.sub(r"<style scoped>.*?</style>\s*", "", words, flags=re.S)
            yield plain | {"data": {"text/html": words}}
        elif "text/markdown" in data:
            yield plain | {"data": {"text/markdown": "".join(data["text/markdown"])}}
        elif "text/plain" in data and not records:
            yield plain | {"data": {"text/plain": "".join(data["text/plain"])}}


def answered(folder):
    "The answer that a run left, its pictures with it; None where it left none."
    place = folder / "answer.json"
    if not place.exists():
        return None
    answer = json.loads(place.read_text(encoding="utf-8"))
    drawn = {}
    for file, words in answer.get("pictures", {}).items():
        png = folder / "artifacts" / file
        if png.suffix == ".png" and png.exists():
            made = small(base64.b64encode(png.read_bytes()))
            drawn[file] = {"words": words, "png": made}
    return answer | {"pictures": drawn}


def placeless(what, folder, name):
    "The same, with no word of the machine's folders."
    words = json.dumps(what)
    words = words.replace(str(Path(folder).resolve()), f"runs/{name}/RUN")
    return json.loads(words)


def keep(folder, notebook):
    "Keep what a finished run shows."
    from forecastlab.core.basics import machine
    from forecastlab.core.runs import read

    run = read(folder)
    if run["status"] != "done":
        sys.exit(f"{folder} is {run['status']}: {run.get('error', '')}")
    name, now = notebook.stem[3:], code(notebook)
    cells = {id: {"code": print_, "outputs": []} for id, print_ in now.items()}
    executed = json.loads((Path(folder) / "notebook.ipynb").read_text())["cells"]
    answer = placeless(answered(Path(folder)), folder, name)
    for cell in executed:
        id, source = cell.get("id"), "".join(cell["source"])
        if now.get(id) != fingerprint(source):
            continue
        outputs = placeless(cell["outputs"], folder, name)
        outputs = shown(outputs, "runs.record(" in source)
        cells[id]["outputs"] = [*outputs]
        if "answer" in cell["metadata"].get("tags", []) and answer:
            # it opens the page
            cells[id]["outputs"] = []
    asked = PARAMETERS.get(name, {})
    said = [f" -p {key} {json.dumps(value)}" for key, value in asked.items()]
    numbers = {k: v for k, v in run["metrics"].items() if not CLOCKS.search(k)}
    record = dict(
        command=f"forecastlab run {name}" + "".join(said),
        date=run["started"][:10],
        machine=machine(),
        numbers=numbers,
        answer=answer,
        cells=cells,
    )
    KEPT.mkdir(parents=True, exist_ok=True)
    words = json.dumps(record, indent=1, ensure_ascii=False)
    (KEPT / f"{name}.json").write_text(words + "\n", encoding="utf-8")


def table(caption, rows):
    "A table of an answer as Markdown."
    cells = [[str(cell).replace("|", r"\|") for cell in row] for row in rows]
    head, *below = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([f"{caption}:\n", head, "|---" * len(rows[0]) + "|", *below])


def introduction(name, run):
    "What a page says of the run that it shows: the answer, or else its numbers."
    from forecastlab.core.basics import readable

    day = date.fromisoformat(run["date"])
    parts = [
        f"**One run of it:** `{run['command']}`, on {day.day} {day:%B %Y} with"
        f" {run['machine']}. What it printed and drew stands below the code that made"
        f" it."
    ]
    if answer := run["answer"]:
        parts.append(f"**{answer['headline']}**")
        parts += [f"*{what}.* {words}" for what, words in answer["points"].items()]
        pictures = answer["pictures"].items()
        parts += [f"![{p['words']}]({name}-{file})" for file, p in pictures]
        parts += [table(*captioned) for captioned in answer["tables"].items()]
    if name in LEAD:
        parts.append(f"![{LEAD[name]}](../pictures/{name}.png)")
    told = [
        f"`{key}` {value if isinstance(value, str | bool) else readable(value, 4)}"
        for key, value in run["numbers"].items()
    ]
    parts.append(f"What it recorded: {' · '.join(told)}")
    return "\n\n".join(parts)


def prose(markdown):
    "Words of a cell without marks, for those who do not see the picture below it."
    lines = [
        x for x in markdown.splitlines() if x and not x.startswith(("|", "#", "$"))
    ]
    heading = re.findall(r"^#+ (.*)$", markdown, re.M)
    words = " ".join(lines or heading)
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", words)
    return re.sub(r"\s+", " ", re.sub(r"[*_`$\\]", "", words))


def as_shown(cell, run, above):
    "A code cell with its outputs of a run, its code folded but for the parameters."
    source = "".join(cell["source"])
    cell["outputs"] = run["cells"][cell["id"]]["outputs"]
    if any("image/png" in out.get("data", {}) for out in cell["outputs"]):
        if "fig-alt:" not in source:
            source = f"#| fig-alt: {json.dumps(above, ensure_ascii=False)}\n{source}"
    if "parameters" not in cell["metadata"].get("tags", []):
        source = f"#| code-fold: true\n{source}"
    return cell | {"source": source}


def with_run(name, nb, run, valid):
    "A processed notebook with the outputs of a run in it, where the code is the same."
    above, cells = "What this step of the run drew", []
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            above = prose("".join(cell["source"])) or above
        elif cell.get("id") in valid:
            cell = as_shown(cell, run, above)
        cells.append(cell)
    first = next(i for i, c in enumerate(cells) if c["cell_type"] == "code")
    told = dict(cell_type="markdown", id="one-run", metadata={})
    cells.insert(first, told | {"source": introduction(name, run)})
    return nb | {"cells": cells}


def fill(proc):
    """Put the kept runs into the processed notebooks of a site.

    Gives what is wrong with them: runs that are missing, cells that changed since.
    """
    wrong = []
    for name, notebook in jobs().items():
        place, run = proc / "pipelines" / notebook.name, kept(name)
        if not place.exists():
            continue
        wrong += faults(name, notebook)
        if run is None:
            continue
        now = code(notebook)
        valid = {id for id, c in run["cells"].items() if now.get(id) == c["code"]}
        nb = json.loads(place.read_text(encoding="utf-8"))
        nb = with_run(name, nb, run, valid)
        place.write_text(json.dumps(nb, indent=1), encoding="utf-8")
        for file, picture in (run["answer"] or {"pictures": {}})["pictures"].items():
            png = base64.b64decode(picture["png"])
            (place.parent / f"{name}-{file}").write_bytes(png)
    return wrong


def at_a_glance(folder, item="85099B"):
    "One item of the main job: what it sold, what may come, what 95 of 100 weeks need."
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd
    from forecastlab import load
    from forecastlab.core.plots import PALETTE, fan, style

    panel = load("online_retail").panel()
    s = int(panel.index([item])[0])
    weeks, sold = panel.dates(s)[-56:], panel.history(s)[-56:]
    ahead = pd.read_parquet(Path(folder) / "artifacts" / "forecasts.parquet")
    ahead = ahead[ahead.unique_id == item]
    ends = {float(c.split("_ql")[1]): ahead[c] for c in ahead if "_ql" in c}
    levels = {level: ends[level] for level in (0.1, 0.3, 0.5, 0.7, 0.9)}
    with plt.rc_context(style()):
        fig, ax = plt.subplots(figsize=(5.8, 3.3), dpi=140)
    about = dict(ylabel="units a week", title="A shopping bag, week by week")
    fan(ax, weeks, sold, ahead.ds, levels, bands=(40, 80), legend=False, **about)
    ax.plot(ahead.ds, ends[0.95], color=PALETTE["notice"], lw=2.2)
    last = ahead.ds.iloc[-1] + pd.Timedelta(days=6)
    said = dict(va="center", annotation_clip=False, fontsize=11)
    for level, words, colour in (
        (0.95, "stock that is enough\nin 95 of 100 weeks", "notice"),
        (0.8, "80 and 40 of\n100 outcomes", "forecast"),
        (0.5, "median", "forecast"),
    ):
        place = (last, ends[level].iloc[-1])
        ax.annotate(words, place, color=PALETTE[colour], **said)
    ax.tick_params(labelsize=11)
    ax.grid(visible=False)
    ax.yaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    made = io.BytesIO()
    fig.savefig(made, dpi=140)
    return base64.b64encode(made.getvalue())


def draw(name, folder):
    "The pictures of the README and of the home page that show this run."
    made = Path(folder) / "artifacts"
    PICTURES.mkdir(exist_ok=True)
    if name == "demand_forecast":
        png = at_a_glance(folder)
    elif (made / f"{name}.png").exists():
        png = base64.b64encode((made / f"{name}.png").read_bytes())
    else:
        return
    (PICTURES / f"{name}.png").write_bytes(base64.b64decode(small(png)))


def main(asked):
    "Keep runs of these, or of all that are stale."
    from forecastlab.core.parameters import from_file
    from forecastlab.core.runs import run

    known = jobs()
    for word in asked or [name for name in known if faults(name, known[name])]:
        folder = Path(word)
        name = folder.parent.name if folder.is_dir() else word
        if name not in known:
            sys.exit(f"{word} is no job; choose among {', '.join(known)}")
        if not folder.is_dir():
            given = PARAMETERS.get(name, {})
            if name in FILES:
                given = from_file(FILES[name], known[name])
            folder = run(name, given)
        keep(folder, known[name])
        draw(name, folder)
        print(f"kept: {KEPT / name}.json")


if __name__ == "__main__":
    main(sys.argv[1:])
