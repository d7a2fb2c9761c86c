"Small notebooks and small waits for the tests of runs, sweeps and figures."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

DECLARED = 'out: str = ""      # Run folder\nseed: int = 0      # Seed\nsteps: int = 3     # Steps\nwait: float = 0.0  # Seconds a step'
COUNT = """from pathlib import Path
import time
from forecastlab.core.runs import record
here = Path(out)/"artifacts"/"checkpoint"
begin = int(here.read_text()) if here.exists() else 0
for i in range(begin, steps):
    time.sleep(wait); here.write_text(str(i + 1)); print("step", i + 1)
record(out, steps=steps, begin=begin, wql=steps/(10 + seed))"""
COMMAND = [sys.executable, "-c", "from forecastlab.core.cli import main; raise SystemExit(main())"]


def notebook(path, *code, declared=DECLARED, tagged=1):
    "A notebook with a parameters cell and working cells under one heading."
    cells = [("code", declared, ["parameters"])]*tagged + [("markdown", "## Train", [])] + [("code", c, []) for c in code]
    made = [{"cell_type": kind, "source": source, "metadata": {"tags": tags}, "id": f"cell-{i}"} | ({"outputs": [], "execution_count": None} if kind == "code" else {})
            for i, (kind, source, tags) in enumerate(cells)]
    Path(path).write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return Path(path)


def start(*words, **settings):
    "The command in a process of its own."
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)       # a shell's background jobs ignore Ctrl-C
    return subprocess.Popen([*COMMAND, *map(str, words)], preexec_fn=heard, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


def until(condition, seconds=120):
    "Wait for a condition; its value."
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(.05)
    return value


def alive(pid):
    "Does a process run? (A zombie does not.)"
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    try: return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError: return not Path("/proc").exists()
