"""Scale: matrices in files, groups that add up to the layer, killed runs, Ray, memory.

Groups of clusters give the same bits as the whole layer.
"""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip(
    "numba", reason="ranking needs numba: pip install 'forecastlab[ranking]'"
)

from forecastlab.core.basics import LabError
from forecastlab.core.runs import load_json
from forecastlab.ranking.chunks import Chunks
from forecastlab.ranking.linear import train_layer
from forecastlab.ranking.solvers import LinearSettings
from forecastlab.ranking.metrics import precision
from forecastlab.ranking.scale import Peak, Trainer, cut_work, join_groups, load_mapped
from forecastlab.ranking.scale import save_group, save_mapped, synthetic, synthetic_rows
from forecastlab.ranking.scale import train_group
from forecastlab.ranking.xrlinear import XRLinear
from toys import unsealed, walk


def equal(a, b):
    "Are two layers the same, number for number?"
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Chunks)
    )


def layer(seed, n=300, d=60, nodes=40, clusters=9):
    """X, Y, C, M, R of a random layer; some clusters have one node, some instances
    nothing.
    """
    rng = np.random.default_rng(seed)
    X = sp.random(n, d, 0.15, "csr", np.float32, random_state=seed)
    X.sort_indices()
    parent = np.r_[
        np.arange(clusters),
        rng.integers(0, clusters, nodes - clusters) ** 2 // clusters,
    ]
    rng.shuffle(parent)
    C = sp.csc_matrix(
        (np.ones(nodes, np.float32), (np.arange(nodes), parent)),
        shape=(nodes, clusters),
    )
    Y = sp.random(n, nodes, 0.06, "csc", np.float32, random_state=seed + 1)
    Y.data[:] = 1
    Y.sort_indices()
    R = Y.copy()
    R.data = rng.random(Y.nnz).astype(np.float32) + 0.5
    M = (
        Y @ C + sp.random(n, clusters, 0.1, "csc", np.float32, random_state=seed + 2)
    ).tocsc()
    M.sort_indices()
    return X, Y, C, M, R


@pytest.fixture(scope="module")
def small():
    X, Y = synthetic_rows(600, 1500, part=1)
    return X, Y, XRLinear.train(X, Y, branches=4, leaf=20, progress=False, threads=1)


# ---------------------------------------------------------------- matrices in files
@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (37, 11)])
def test_a_matrix_comes_back(tmp_path, kind, shape):
    A = sp.random(*shape, 0.3, "csr", np.float32, random_state=0)
    A = A.toarray() if kind == "dense" else A.asformat(kind)
    save_mapped(tmp_path / "A", A)
    B = load_mapped(tmp_path / "A")
    plain = lambda M: M.toarray() if sp.issparse(M) else M
    assert B.shape == shape
    assert B.dtype == np.float32
    assert np.array_equal(plain(A), plain(B))
    assert kind == "dense" or B.format == kind
    save_mapped(tmp_path / "A", A * 2)
    assert np.array_equal(plain(load_mapped(tmp_path / "A")), 2 * plain(A))


def test_blocks_are_appended_and_duplicates_summed(tmp_path):
    A = sp.random(50, 20, 0.3, "csr", np.float32, random_state=0)
    twice = sp.csr_matrix(
        (
            np.r_[A.data, A.data],
            np.r_[A.indices, A.indices].astype(np.int32),
            0 * A.indptr,
        ),
        shape=A.shape,
    )
    save_mapped(tmp_path, (A[i : i + 9] for i in range(0, 50, 9)))
    B = load_mapped(tmp_path)
    assert np.array_equal(A.indices, B.indices)
    assert np.array_equal(A.data, B.data)
    assert B.indptr.dtype == np.int32
    one = sp.csr_matrix(
        (np.array([1, 2, 4], np.float32), np.array([3, 0, 3]), np.array([0, 3])),
        shape=(1, 5),
    )
    save_mapped(tmp_path, [one, one])
    assert load_mapped(tmp_path).toarray().tolist() == [[2, 0, 0, 5, 0]] * 2
    assert one.nnz == 3
    assert twice.nnz == 0


def test_a_change_never_reaches_the_files(tmp_path):
    save_mapped(tmp_path, sp.eye(4, format="csr", dtype=np.float32))
    A = load_mapped(tmp_path)
    A.data[:] = 7
    assert A.sum() == 28 and load_mapped(tmp_path).sum() == 4


def test_damaged_matrices_are_refused(tmp_path):
    A = sp.random(30, 20, 0.5, "csr", np.float32, random_state=0)

    def broken(name, damage):
        save_mapped(tmp_path / "A", A)
        damaged = lambda: load_mapped(tmp_path / "A")
        whole = (tmp_path / "A" / name).read_bytes()
        damage(tmp_path / "A" / name)
        refused = pytest.raises(LabError, damaged)
        assert "is damaged" in str(refused.value) or "no whole" in str(refused.value)
        (tmp_path / "A" / name).write_bytes(whole)
        # one of an earlier version has no checksums
        unsealed(tmp_path / "A")
        damage(tmp_path / "A" / name)
        with pytest.raises((ValueError, FileNotFoundError)) as e:
            load_mapped(tmp_path / "A")
        return str(e.value)

    assert "indices.npy is missing" in broken("indices.npy", Path.unlink)
    assert "matrix.json is missing" in broken("matrix.json", Path.unlink)
    assert "no sound matrix" in broken(
        "data.npy", lambda p: p.write_bytes(p.read_bytes()[:-8])
    )
    assert "no sound matrix" in broken("matrix.json", lambda p: p.write_text("{"))
    assert "two matrices are mixed" in broken(
        "indptr.npy", lambda p: np.save(p, np.zeros(31, np.int32))
    )
    assert "no sound matrix" in broken(
        "data.npy", lambda p: np.save(p, np.array([print], object), allow_pickle=True)
    )
    assert "two matrices are mixed" in broken(
        "indices.npy", lambda p: np.save(p, A.indices + 9)
    )
    for what, message in (
        ([A, A[:, :5]], "has 5 columns, those before it 20"),
        ([], "no blocks"),
        (A.tocoo(), "coo matrices have no mapped form"),
    ):
        with pytest.raises(ValueError, match=message):
            save_mapped(tmp_path / "B", what)


# ---------------------------------------------------------------- groups
@pytest.mark.parametrize("seed", range(6))
def test_groups_are_runs_of_about_equal_work(seed):
    X, Y, C, M, R = layer(seed, clusters=15)
    for active in (M, None):
        work = ((300 if active is None else np.diff(M.indptr)) + 1.0) * -(
            -np.diff(C.indptr) // 16
        )
        for most in (1, 2, 7, 15, 100):
            groups = cut_work(C, active, 300, most, least=1)
            sizes = [work[lo:hi].sum() for lo, hi in groups]
            assert groups[0][0] == 0
            assert groups[-1][1] == 15
            assert all(a[1] == b[0] for a, b in zip(groups, groups[1:]))
            assert all(lo < hi for lo, hi in groups)
            assert len(groups) <= most
            assert max(sizes) <= work.sum() / min(most, 15) + work.max()
    assert cut_work(C, M, 300, 100, least=1e9) == [(0, 15)]
    assert len(cut_work(C, None, 300, 100, least=work.sum() / 3 - 1)) <= 3


@pytest.mark.parametrize(
    "settings",
    [
        LinearSettings(),
        LinearSettings(order="libpecos", bias=-1.0),
        LinearSettings("logistic", threshold=0, max_nonzeros=9),
    ],
)
def test_groups_add_up_to_the_layer(settings, tmp_path):
    X, Y, C, M, R = layer(3)
    for A, active, costs in ((X, M, R), (X, None, None), (X.toarray(), M, None)):
        whole = train_layer(A, Y, C, active, costs, settings, threads=1)
        groups = cut_work(C, active, X.shape[0], 4, least=1)
        for lo, hi in groups:
            save_group(
                tmp_path / f"{lo}.npz",
                train_group(A, Y, C, active, costs, lo, hi, settings),
            )
        join_groups(tmp_path / "whole", [tmp_path / f"{lo}.npz" for lo, _ in groups])
        assert len(groups) > 1
        assert equal(Chunks.load(tmp_path / "whole"), whole)


@pytest.mark.parametrize(
    "how",
    [
        dict(),
        dict(negatives="tfn+man"),
        dict(chain="ova"),
        dict(R=True, rel_mode="induce", rel_norm="l1"),
    ],
)
def test_a_trainer_gives_the_same_model(small, how, tmp_path):
    X, Y, _ = small
    how = {**how, "R": 2 * Y} if "R" in how else how
    settings = dict(branches=4, leaf=40, progress=False, threads=1, **how)
    for A in (X, X[:, :50].toarray()):
        a = XRLinear.train(A, Y, **settings)
        b = XRLinear.train(
            A, Y, trainer=Trainer(tmp_path, groups=3, least=1), **settings
        )
        assert all(map(equal, a.layers, b.layers)) and len(a.layers) == len(b.layers)


def test_what_is_finished_is_not_trained_again(small, tmp_path):
    X, Y, model = small
    first = Trainer(tmp_path, groups=4, least=1)
    again = Trainer(tmp_path, groups=3, least=1)

    def train(t, **s):
        return XRLinear.train(X, Y, model.chain, trainer=t, progress=False, **s)

    a, b = train(first), train(again)
    assert first.trained > len(model.layers)
    assert again.trained == 0
    assert all(map(equal, a.layers, b.layers))
    # other settings: another folder
    train(again, solver=LinearSettings(Cp=2))
    assert again.trained > 0
    other = Trainer(tmp_path)
    XRLinear.train(2 * X, Y, model.chain, trainer=other, progress=False)
    assert other.trained > 0
    assert not list(tmp_path.rglob("*.tmp"))
    assert not [
        p for p in tmp_path.glob("layer-*/*") if p.suffix not in (".npy", ".json")
    ]


DYING = """
import os
import sys

from forecastlab.ranking import scale
from forecastlab.ranking.xrlinear import XRLinear

folder = sys.argv[1]
inner, calls = scale.train_group, []


def dying(*words):
    calls.append(1)
    if len(calls) == 6:
        os._exit(9)
    return inner(*words)


scale.train_group = dying
X = scale.load_mapped(folder + "/X")
Y = scale.load_mapped(folder + "/Y")
trainer = scale.Trainer(folder + "/run", groups=4, least=1)
XRLinear.train(
    X, Y, branches=4, leaf=20, trainer=trainer, progress=False, threads=1
)
"""


def test_a_killed_run_goes_on(small, tmp_path):
    X, Y, model = small
    save_mapped(tmp_path / "X", X)
    save_mapped(tmp_path / "Y", Y)
    killed = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)])
    assert killed.returncode == 9
    # a group that did not reach the disk
    next((tmp_path / "run").glob("layer-*/*.npz")).unlink()
    full = Trainer(tmp_path / "full", groups=4, least=1)
    rest = Trainer(tmp_path / "run", groups=4, least=1)
    XRLinear.train(X, Y, model.chain, trainer=full, progress=False)
    resumed = XRLinear.train(X, Y, model.chain, trainer=rest, progress=False)
    assert rest.trained == full.trained - 5 + 1
    assert all(map(equal, resumed.layers, model.layers))


def test_progress_counts_clusters(small, tmp_path, capfd):
    X, Y, model = small
    XRLinear.train(
        X, Y, model.chain, trainer=Trainer(tmp_path, groups=4), progress=False
    )
    assert capfd.readouterr() == ("", "")
    XRLinear.train(X, Y, model.chain, trainer=Trainer(tmp_path / "b", groups=4))
    assert "layer 1 of" in capfd.readouterr().err


def test_what_a_trainer_cannot_train_is_refused(small, tmp_path):
    X, Y, model = small
    C = model.chain[-1]
    t = Trainer(tmp_path)
    save_mapped(tmp_path / "other", 2 * X)
    bad = X.copy()
    bad.data[bad.indptr[7]] = np.nan
    M = (Y @ C).tocsc()
    for message, f in {
        "groups must be a whole number": lambda: Trainer(tmp_path, groups=0),
        "workers=None trains": lambda: Trainer(tmp_path, workers=0),
        "holds other features": lambda: Trainer(tmp_path, X=tmp_path / "other")(
            X, Y, C, M
        ),
        "Y .* does not fit": lambda: t(X[:9], Y, C),
        "M .* does not fit": lambda: t(X, Y, C, M[:, :3]),
        "R .* does not fit": lambda: t(X, Y, C, M, Y[:4]),
        "infinite in rows: 7": lambda: t(bad, Y, C, M),
    }.items():
        with pytest.raises(ValueError, match=message):
            f()


# ---------------------------------------------------------------- Ray
@pytest.mark.slow
def test_ray_tasks_give_the_same_bits(small, tmp_path):
    pytest.importorskip("ray", reason="ray is in the `sweep` extra")
    X, Y, model = small
    bad = X.copy()
    bad.data[bad.indptr[7]] = np.nan
    one = np.ones((600, 1), np.float32)
    with Trainer(tmp_path / "files", workers=2, groups=3, least=1) as t:
        by_files = XRLinear.train(X, Y, model.chain, trainer=t, progress=False)
        assert t.trained > 3 and t.seconds > 0
        store = Trainer(tmp_path / "store", workers=2, groups=3, least=1, shared=False)
        by_store = XRLinear.train(X, Y, model.chain, trainer=store, progress=False)
        dense = Trainer(tmp_path / "dense", workers=2, shared=False)(
            X.toarray(), Y.tocsc(), one
        )
        with pytest.raises(ValueError, match="infinite in rows: 7"):
            t(bad, Y, one)
    assert t.ray is None
    assert not store.ours
    assert list((tmp_path / "files").glob("X-*"))
    assert not list((tmp_path / "store").glob("X-*"))
    assert all(map(equal, model.layers, by_files.layers))
    assert all(map(equal, model.layers, by_store.layers))
    assert equal(dense, train_layer(X.toarray(), Y.tocsc(), one))


# ---------------------------------------------------------------- the world, and memory
def test_the_world_is_what_it_says(tmp_path):
    X, Y = synthetic(tmp_path, 3000, 5000, 7000, block=2000)
    A, B = synthetic_rows(3000, 2000, 7000, [0, 2000])
    assert X.shape == (5000, 7000)
    assert Y.shape == (5000, 3000)
    assert (X[2000:4000] != A).nnz == 0
    assert (Y[2000:4000] != B).nnz == 0
    assert X.has_canonical_format
    assert np.allclose(np.sqrt(X.multiply(X).sum(1)), 1, atol=1e-5)
    assert 11 < X.nnz / 5000 < 15
    assert 2.4 < Y.nnz / 5000 < 3.1
    assert (Y.data == 1).all()
    assert np.diff(Y.indptr).min() >= 1
    assert np.diff(Y.indptr).max() <= 5
    assert (
        synthetic_rows(3000, 9, part=[1, 0])[0]
        != synthetic_rows(3000, 9, part=[2, 0])[0]
    ).nnz > 0
    seen = np.bincount(Y.indices, minlength=3000)
    assert (seen > 0).mean() > 0.7 and seen.max() > 10 * np.median(seen)
    for labels in (2, 17, 256):
        assert synthetic_rows(labels, 50)[1].shape == (50, labels)


def test_its_tree_can_be_found():
    X, Y = synthetic_rows(1500, 4000, part=0)
    Xt, Yt = synthetic_rows(1500, 400, part=1)
    assert (
        precision(
            Yt, XRLinear.train(X, Y, leaf=50, progress=False, threads=1).predict(Xt), 1
        )[0]
        > 0.5
    )


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(),
    reason="proportional sizes are Linux's",
)
def test_memory_of_children_counts_and_shared_pages_count_once(tmp_path):
    # 200 MB
    np.save(tmp_path / "a.npy", np.ones(25_000_000))
    code = (
        f"import numpy as np, time; a = np.load({str(tmp_path / 'a.npy')!r},"
        " mmap_mode='r'); a.sum(); b = np.ones(12_500_000); print(1, flush=True);"
        " input()"
    )
    with Peak(every=9) as peak:
        start = peak.look()
        many = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(3)
        ]
        for p in many:
            p.stdout.readline()
        more = peak.look() - start
        for p in many:
            p.communicate(b"\n")
    # 200 MB of file and 3 x 100 MB, not 3 x 300 MB
    assert 0.45 < more < 0.75


def test_the_benchmark_runs_small(tmp_path):
    names, said = walk(
        "bench_million",
        out=str(tmp_path),
        sizes=[300, 600],
        queries=100,
        singles=20,
        workers=0,
        threads=1,
    )
    got = load_json(tmp_path / "metrics.json")
    assert {"peak_gb", "p1", "single_ms", "train_cpu_seconds", "single_growth"} <= set(
        got
    )
    assert got["labels"] == 600
    assert 0 < got["peak_gb"] < 4
    assert list(names["table"].labels) == [300, 600]
    assert "600 labels" in said
    assert (tmp_path / "artifacts" / "ranking_scale.csv").is_file()
    with pytest.raises(ValueError, match="no size is given"):
        walk("bench_million", out=str(tmp_path), sizes=[])
