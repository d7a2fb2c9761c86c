"""Doors: every kind of file that the lab writes and reads, and what damage does there.

A new kind is one line of `DOORS`: its name, how to write it, how to read it, and the
answer that it gives. `python tests/doors.py` damages each a thousand times, in a
process of its own; `test_doors.py` does so a few times. Whatever is done to a file, the
answer must be the old one, or a refusal in words.
"""

import argparse
import contextlib
import faulthandler
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from forecastlab.core.basics import LabError, read_note, write_note

GOOD = ("equal", "refused")


@dataclass(frozen=True)
class Door:
    "One kind of file or folder."

    write: Callable[[Path], Any]  # to a path that does not exist yet
    answer: Callable[[Path], Any]  # reads it, and asks what it holds
    # it has no checksum: of an earlier version, or of libpecos. Then another answer
    # cannot be told, and what counts is that there is one, or a refusal
    bare: bool = False


# --- damage


def flip(data, rng):
    "One bit is another."
    bit = int(rng.integers(8 * len(data)))
    data[bit // 8] ^= 1 << bit % 8


def noise(data, rng):
    "Some bytes are others."
    for at in rng.integers(len(data), size=int(rng.integers(1, 17))):
        data[at] = int(rng.integers(256))


def cut(data, rng):
    "The end is missing."
    del data[int(rng.integers(len(data))) :]


def zeros(data, rng):
    "A block was never written."
    size = int(rng.integers(1, min(len(data), 4096) + 1))
    at = int(rng.integers(len(data) - size + 1))
    data[at : at + size] = bytes(size)


def swap(data, rng):
    "Two blocks changed places."
    size = int(rng.integers(1, max(2, min(len(data) // 2, 4096))))
    a, b = sorted(rng.integers(len(data) - size + 1, size=2).tolist())
    first, second = data[a : a + size], data[b : b + size]
    data[b : b + size] = first
    data[a : a + size] = second


def more(data, rng):
    "Bytes too many, at the end or inside."
    extra = rng.integers(256, size=int(rng.integers(1, 65)), dtype=np.uint8).tobytes()
    at = len(data) if rng.random() < 0.5 else int(rng.integers(len(data)))
    data[at:at] = extra


DAMAGES = (flip, noise, cut, zeros, swap, more)


def damage(path, rng, how):
    "Damage a file, or one file of a folder; how to undo it, and which it was."
    files = [path]
    if path.is_dir():
        files = [f for f in sorted(path.rglob("*")) if f.is_file() and f.stat().st_size]
    # every second time by size: a random byte of the whole
    size = np.array([f.stat().st_size for f in files], float)
    share = size / size.sum() if rng.random() < 0.5 else np.full(len(files), 1.0)
    file = files[int(rng.choice(len(files), p=share / share.sum()))]
    whole = file.read_bytes()
    data = bytearray(whole)
    how(data, rng)
    put(file, data)
    return lambda: put(file, whole), file


def put(file, data):
    "A new file of that name: what was mapped before stays as it was."
    beside = file.with_name(f"{file.name}.new")
    beside.write_bytes(data)
    os.replace(beside, file)


def same(a, b):
    "Are two answers the same bits?"
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if sp.issparse(a):
        return a.shape == b.shape and same(entries(a), entries(b))
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return (
        x.tobytes() == y.tobytes() if x.dtype.kind in "fiub" else bool((x == y).all())
    )


def entries(A):
    return [A.indptr, A.indices, A.data]


def outcome(door, path, expected):
    "What reading comes to: equal, refused, other, or the name of a raw error."
    try:
        found = door.answer(path)
    except LabError:
        return "refused"
    except Exception as e:
        return (
            f"raw {type(e).__name__}: {str(e).splitlines()[0][:80] if str(e) else ''}"
        )
    return "equal" if door.bare or same(found, expected) else "other"


def damaged(name, folder, first, last, seed=0):
    "Yield (number, damage, file, outcome) of some damages of a door; None before each."
    door, path = DOORS[name], Path(folder) / "door"
    door.write(path)
    expected = door.answer(path)
    assert door.bare or same(door.answer(path), expected), "it answers differently"
    for i in range(first, last):
        rng, how = np.random.default_rng([seed, i]), DAMAGES[i % len(DAMAGES)]
        undo, file = damage(path, rng, how)
        yield i, how.__name__, file.name, None
        yield i, how.__name__, file.name, outcome(door, path, expected)
        undo()
    assert door.bare or same(door.answer(path), expected), "damage was not undone"


# --- the doors


def panel():
    import toys
    from forecastlab.core.panel import Panel

    return Panel.from_frame(toys.frame(4, 20), freq="W-SUN", **toys.ROLES)


def load(path):
    from forecastlab.core.panel import Panel

    return Panel.load(path)


def panel_answer(found):
    parts = [found.y, found.start, found.indptr, found.length, found.ids.tolist()]
    columns = found.known | found.past | found.static
    return [*parts, columns, found.categories, str(found.calendar[0]), found.freq]


def cached_panel(path):
    "A panel packed from parquet into a cache."
    import toys
    from forecastlab.core.panel import Panel

    source = path.with_name("source.parquet")
    if not source.exists():
        toys.frame(4, 20).to_parquet(source)
    return Panel.from_parquet(source, freq="W-SUN", cache=path, **toys.ROLES)


def forecaster(name):
    "The door of a family of forecasters, by its name in the contract's tests."
    import test_contract as contract

    def answer(path):
        model = contract.load_model(path)
        found = contract.ask(name, model, contract.HORIZON, contract.sales())
        return contract.q(found)

    return Door(lambda path: contract.fitted(name).save(path), answer)


def trained(path, broken=False):
    "Losses and weights of a training, resumed where there is a checkpoint."
    import torch

    from forecastlab.core.fit import Training, fit
    from tiny_task import draw, loss, net

    def breaks(generator):
        if broken and next(left) == 0:
            raise InterruptedError("enough")
        return draw(generator)

    left = iter(range(8, -1, -1))
    torch.manual_seed(0)
    model = net(0.1)
    how = dict(progress=False, accelerator="cpu", average=0.9, prefetch=False)
    settings = Training(steps=12, checkpoint_every=6, **how)
    before = None if broken else path.read_bytes()
    try:
        done = fit(model, breaks, loss, settings, path)
    finally:
        if before is not None:
            put(path, before)
    return [done.losses, *(v.numpy() for v in model.state_dict().values())]


def checkpoint(path):
    "What a training that broke off leaves."
    with contextlib.suppress(InterruptedError):
        trained(path, broken=True)


def trial(path):
    from forecastlab.core.auto import Trial, write_trial
    from forecastlab.demand.textbook import EmpiricalQuantiles

    import test_contract as contract

    model = EmpiricalQuantiles(4).fit(contract.sales())
    quantiles = np.arange(8 * 2 * 4 * 3, dtype=np.float32).reshape(8, 2, 4, 3)
    write_trial(path, Trial("recent", quantiles, 1.0, 0.5, model))


def trial_answer(path):
    from forecastlab.core.auto import read_trial

    found = read_trial(path, "recent", (8, 2, 4), (0.1, 0.5, 0.9))
    # made again: as good as refused
    if found is None:
        raise LabError("no trial")
    return [found.quantiles, found.cpu, found.predict_cpu, repr(found.model)]


@functools.cache
def ranker(name="XRLinear"):
    "A small ranker of a kind, trained once."
    import test_ranker_contract as contract

    kind = contract.RANKERS[name]()
    return kind.train(contract.TEXTS, contract.X, contract.Y)


def asked(model):
    import test_ranker_contract as contract

    return entries(model.predict(contract.X, threads=1))


def xrlinear(mmap=False, check=None):
    "How an XR-Linear folder is read and asked, also one query at a time."
    from forecastlab.ranking.xrlinear import XRLinear

    def answer(path):
        import test_ranker_contract as contract

        model = XRLinear.load(path, mmap=mmap, check=check)
        row = contract.X[0]
        single = XRLinear.load(path, mmap=mmap, check=check).query()
        return [*single(row.indices, row.data), *asked(model), model.features]

    return answer


def unsealed(write):
    "As an earlier version wrote it: without checksums."

    import toys

    def bare(path):
        write(path)
        toys.unsealed(path)

    return bare


def libpecos(path):
    "The folder that libpecos wrote."
    shutil.copytree(Path(__file__).parent / "pecos_folder", path)


def pecos_answer(path):
    from forecastlab.core.sparse import load_matrix
    from forecastlab.ranking.xrlinear import XRLinear

    X = load_matrix(path / "X.npz")
    return entries(XRLinear.load(path).predict(X, threads=1))


def classifier(path):
    import test_ranker_contract as contract
    from forecastlab.ranking.estimator import ExtremeClassifier

    how = dict(trees=2, leaf=3, branches=2, threads=1)
    made = ExtremeClassifier(**how).fit(
        contract.TEXTS, [t.split() for t in contract.TEXTS]
    )
    made.save(path)


def classifier_answer(path):
    import test_ranker_contract as contract
    from forecastlab.ranking.estimator import ExtremeClassifier

    model = ExtremeClassifier.load(path)
    found = model.predict_proba(contract.TEXTS[:5])
    label = model.rank(contract.TEXTS[:1], k=1)
    return [found, str(label), str(model.explain(contract.TEXTS[0], "sun"))]


def loaded(door, ask):
    "How something of the ranking room is read: `module:class`, and asked."
    from importlib import import_module

    module, _, name = door.partition(":")

    def answer(path):
        kind = getattr(import_module(f"forecastlab.ranking.{module}"), name)
        return ask(kind.load(path))

    return answer


def vectorizer(kind, **settings):
    "A fitted vectorizer's door."
    from forecastlab.ranking.text import Vectorizer

    import test_ranker_contract as contract

    def write(path):
        config = dict(type=kind, kwargs=settings)
        Vectorizer(config).fit(contract.TEXTS).save(path)

    def asked(v):
        names = v.names if kind != "sklearnhashing" else None
        return [*entries(v.transform(contract.TEXTS[:9])), names]

    return Door(write, loaded("text:Vectorizer", asked))


def statistics(path):
    import test_ranker_contract as contract
    from forecastlab.ranking.growth import Statistics

    Statistics.of(ranker(), contract.X, contract.Y).save(path)


def statistics_answer(s):
    arrays = [s.size, s.rows, s.start, s.sample, *entries(s.instances)]
    return [*arrays, *(x for h in s.curvature for x in entries(h))]


def calibration(path):
    import test_ranker_contract as contract
    from forecastlab.ranking.calibration import Calibration

    Calibration.fit(ranker(), contract.X, contract.Y).save(path)


def calibrated(c):
    import test_ranker_contract as contract

    return entries(c.predict(ranker(), contract.X))


def matrix(A, mmap=False):
    "A matrix in one file."
    from forecastlab.core.sparse import load_matrix, save_matrix

    def answer(path):
        found = load_matrix(path, mmap)
        return entries(found) if sp.issparse(found) else found

    return Door(lambda path: save_matrix(path, A), answer)


def mapped(A):
    "A matrix in raw files."
    from forecastlab.ranking.scale import load_mapped, save_mapped

    def answer(path):
        found = load_mapped(path)
        return entries(found) if sp.issparse(found) else found

    return lambda path: save_mapped(path, A), answer


def chain(path):
    from forecastlab.ranking.chain import save_chain

    save_chain(path, [layer.C for layer in ranker().layers])


def chain_answer(path):
    from forecastlab.ranking.chain import load_chain

    return [x for C in load_chain(path) for x in entries(C)]


def groups(path):
    "A layer that is trained in groups, each in a file."
    from forecastlab.ranking.scale import save_group

    save_group(path, ranker().layers[-1])


def groups_answer(path):
    from forecastlab.ranking.chunks import LAYER_ARRAYS, Chunks
    from forecastlab.ranking.scale import join_groups

    with tempfile.TemporaryDirectory() as d:
        join_groups(d, [path])
        layer = Chunks.load(d, mmap=False)
    return [getattr(layer, name) for name in LAYER_ARRAYS]


def embeddings(path):
    "The cache of embeddings, a folder with one file."
    import test_ranker_contract as contract
    from forecastlab.ranking.encoder import embed

    return np.array(embed(contract.TEXTS[:8], encoder(), cache=path, device="cpu"))


@functools.cache
def encoder():
    import test_ranker_contract as contract
    from forecastlab.ranking.encoder import tiny_encoder

    return tiny_encoder(contract.TEXTS)


def encoded(e):
    import test_ranker_contract as contract
    from forecastlab.ranking.encoder import embed

    return np.array(embed(contract.TEXTS[:4], e, device="cpu"))


def transformer_asked(model):
    import test_ranker_contract as contract

    return entries(model.predict(contract.TEXTS[:6], contract.X[:6], threads=1))


def text2text(path):
    import test_ranker_contract as contract
    from forecastlab.ranking.text import Vectorizer
    from forecastlab.ranking.text2text import Text2Text
    from forecastlab.ranking.xrlinear import XRLinear

    v = Vectorizer(dict(type="tfidf", kwargs={})).fit(contract.TEXTS)
    X = v.transform(contract.TEXTS)
    how = dict(leaf=3, branches=2, threads=1, progress=False)
    Text2Text(v, [XRLinear.train(X, contract.Y, **how)], contract.WORDS).save(path)


def text2text_asked(model):
    import test_ranker_contract as contract

    return [*entries(model.predict(contract.TEXTS[:6])), model.items]


S = sp.random(30, 40, 0.2, "csr", np.float32, np.random.default_rng(0))
D = np.random.default_rng(1).random((20, 7), dtype=np.float32)
NOTE = dict(scores=[0.25, 1e-9, None], names=["a", "ü"], settings=dict(k=3, on=True))


DOORS = {
    "note": Door(lambda path: write_note(path, NOTE), read_note),
    "panel": Door(
        lambda path: panel().save(path), lambda path: panel_answer(load(path))
    ),
    "panel cache": Door(cached_panel, lambda path: panel_answer(cached_panel(path))),
    "checkpoint": Door(checkpoint, trained),
    "trial": Door(trial, trial_answer),
    "sparse rows": matrix(S),
    "sparse columns, mapped": matrix(S.tocsc(), mmap=True),
    "dense matrix": matrix(D),
    "dense matrix, mapped": matrix(D, mmap=True),
    "raw files, sparse": Door(*mapped(S)),
    "raw files, dense": Door(*mapped(D)),
    "chain": Door(chain, chain_answer),
    "XRLinear": Door(lambda path: ranker().save(path), xrlinear()),
    "XRLinear, mapped": Door(
        lambda path: ranker().save(path, mmap=True), xrlinear(mmap=True)
    ),
    "XRLinear, larger than memory": Door(
        lambda path: ranker().save(path, mmap=True), xrlinear(mmap=True, check=False)
    ),
    "group of clusters": Door(groups, groups_answer),
    "Ensemble": Door(
        lambda path: ranker("Ensemble").save(path), loaded("ensemble:Ensemble", asked)
    ),
    "ExtremeClassifier": Door(classifier, classifier_answer),
    "Calibration": Door(calibration, loaded("calibration:Calibration", calibrated)),
    "Statistics": Door(statistics, loaded("growth:Statistics", statistics_answer)),
    "vectorizer": vectorizer("tfidf", ngram_range=(1, 2), analyzer="word"),
    "vectorizer of characters": vectorizer(
        "tfidf", ngram_range=(2, 3), analyzer="char_wb"
    ),
    "vectorizer of scikit-learn": vectorizer("sklearntfidf"),
    "hashing vectorizer": vectorizer("sklearnhashing", n_features=64),
    "Text2Text": Door(text2text, loaded("text2text:Text2Text", text2text_asked)),
    "TextEncoder": Door(
        lambda path: encoder().save(path), loaded("encoder:TextEncoder", encoded)
    ),
    "embeddings": Door(embeddings, embeddings),
    "XRTransformer": Door(
        lambda path: ranker("XRTransformer").save(path),
        loaded("xrtransformer:XRTransformer", transformer_asked),
    ),
    # of earlier versions, and of libpecos
    "panel, bare": Door(
        unsealed(lambda path: panel().save(path)),
        lambda path: panel_answer(load(path)),
        bare=True,
    ),
    "XRLinear, bare": Door(
        unsealed(lambda path: ranker().save(path)), xrlinear(), bare=True
    ),
    "XRLinear, bare, larger than memory": Door(
        unsealed(lambda path: ranker().save(path, mmap=True)),
        xrlinear(mmap=True, check=False),
        bare=True,
    ),
    "raw files, bare": Door(unsealed(mapped(S)[0]), mapped(S)[1], bare=True),
    "ExtremeClassifier, bare": Door(unsealed(classifier), classifier_answer, bare=True),
    "libpecos": Door(libpecos, pecos_answer, bare=True),
}


def every_forecaster():
    "A door for each family of forecasters: `forecaster MQCNN`."
    import test_contract as contract

    return {f"forecaster {name}": forecaster(name) for name in contract.MAKERS}


DOORS |= every_forecaster()


# --- the long way


def in_processes(names, count, seed=0):
    "Yield (door, number, damage, file, outcome); a crash ends a process, not the list."
    names, first = list(names), 0
    while names:
        words = ["--child", "--count", str(count), "--first", str(first)]
        command = [sys.executable, __file__, *names, *words, "--seed", str(seed)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        row = None
        for line in child.stdout:
            row = json.loads(line)
            if row[-1] is not None:
                yield row
        if child.wait() == 0:
            return
        assert row is not None, f"the door {names[0]} does not work at all"
        if row[-1] is None:
            yield [*row[:-1], f"crash {child.returncode}"]
        else:
            # it died between two damages: that is a crash of the next
            yield [row[0], row[1] + 1, "", "", f"crash {child.returncode}"]
            row[1] += 1
        names, first = names[names.index(row[0]) :], row[1] + 1
        if first >= count:
            names, first = names[1:], 0


def child(names, first, count, seed):
    "Damage some doors, and tell the parent line by line."
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    # what libraries print is none of the parent's business
    os.dup2(2, 1)
    for name in names:
        with tempfile.TemporaryDirectory() as d:
            for row in damaged(name, d, first, count, seed):
                faulthandler.dump_traceback_later(120, exit=True)
                print(json.dumps([name, *row]), file=out, flush=True)
            faulthandler.cancel_dump_traceback_later()
        first = 0


def main():
    about = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    about.add_argument("doors", nargs="*", help="names; none: all")
    about.add_argument("--count", type=int, default=1000, help="damages a door")
    about.add_argument("--seed", type=int, default=0)
    about.add_argument("--out", help="JSON file for the outcomes")
    about.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    about.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    asked = about.parse_args()
    names = asked.doors or list(DOORS)
    if asked.child:
        return child(names, asked.first, asked.count, asked.seed)
    table = {name: Counter() for name in names}
    faults = []
    for name, *where, what in in_processes(names, asked.count, asked.seed):
        word = what.split()[0]
        table[name][word] += 1
        if what not in GOOD:
            faults.append([name, *where, what])
            print(*faults[-1], flush=True)
        if table[name].total() == asked.count:
            print(f"{name:36}", dict(table[name]), flush=True)
    doors = {n: dict(found) | dict(bare=DOORS[n].bare) for n, found in table.items()}
    if asked.out:
        Path(asked.out).write_text(json.dumps(dict(doors=doors, faults=faults)))


if __name__ == "__main__":
    main()
