"""Training: resumed runs equal unbroken ones, processes and batches add up.

A checkpoint is whole or absent.
"""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import toys
from forecastlab.core.basics import LabError
from forecastlab.core.fit import Training, fit, rate
from tiny_task import draw, loss, net

TASK = f"""
import os
import sys
import time

import numpy as np
import torch

sys.path.insert(0, {str(Path(__file__).parent)!r})
from tiny_task import draw, loss, net
from forecastlab.core.fit import Training, fit
"""
QUIET = toys.QUIET | dict(lr=1e-2)


def script(tmp_path, body):
    path = tmp_path / "train.py"
    path.write_text(TASK + body)
    return path


@pytest.mark.parametrize("when", [0, 1, 2])
def test_a_run_killed_with_sigkill_resumes_to_the_same_losses_bit_for_bit(
    tmp_path, when
):
    """The process is killed for real at a random moment, more than once, and started
    again each time.
    """
    plan = dict(steps=300, average=0.9, checkpoint_every=7, validate_every=50, **QUIET)
    body = f"""
def slow(generator):
    time.sleep(0.004)
    return draw(generator)


def score(model):
    return float(model[0].weight.detach().square().sum())


fit(net(0.3), slow, loss, Training(**{plan!r}), sys.argv[1], validate=score)
"""
    path, point = script(tmp_path, body), tmp_path / "point.safetensors"
    dice = random.Random(when)
    for _ in range(2):
        child = subprocess.Popen([sys.executable, path, point], start_new_session=True)
        started = time.time()
        while (
            not point.exists() and child.poll() is None and time.time() - started < 60
        ):
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.5))
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.returncode == -signal.SIGKILL, (
            "the child ended before it could be killed"
        )
    assert load_file(point)["losses"].numel() < 300, "nothing was left to resume"
    score = lambda m: float(m[0].weight.detach().square().sum())
    settings = Training(**plan)
    resumed = fit(a := net(0.3), draw, loss, settings, point, validate=score)
    whole = fit(b := net(0.3), draw, loss, settings, validate=score)
    assert len(whole.losses) == 300
    assert np.array_equal(resumed.losses, whole.losses)
    assert resumed.scores == whole.scores
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


@pytest.mark.parametrize("launch", ["torchrun", "spawn"])
def test_two_processes_equal_one(tmp_path, launch):
    "The network is larger than what fits into a pipe between processes."
    plan = dict(steps=40, devices=2 if launch == "spawn" else 1, **QUIET)
    body = f"""
if __name__ == "__main__":
    fitted = fit(net(0.0, 4096), draw, loss, Training(**{plan!r}))
    if os.environ.get("RANK", "0") == "0":
        np.save(sys.argv[1], fitted.losses)
"""
    path, out = script(tmp_path, body), tmp_path / "losses.npy"
    command = (
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
        ]
        if launch == "torchrun"
        else [sys.executable]
    ) + [str(path), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    one = fit(net(0.0, 4096), draw, loss, Training(steps=40, **QUIET)).losses
    np.testing.assert_allclose(np.load(out), one, rtol=2e-5)


def test_weights_in_another_order_in_memory_resume_bit_for_bit(tmp_path):
    "The fused optimiser reads weights and moments side by side."

    def images(generator):
        return torch.randn(4, 3, 6, 6, generator=generator)

    def flat(model, x):
        return (model(x) - x.mean()).square().sum(), x.numel()

    def made():
        torch.manual_seed(0)
        return nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)

    settings = Training(steps=6, average=0.9, checkpoint_every=3, **QUIET)
    turns = iter(range(10))

    def frail(generator):
        if next(turns) == 4:
            raise KeyboardInterrupt
        return images(generator)

    with pytest.raises(KeyboardInterrupt):
        fit(made(), frail, flat, settings, tmp_path / "point")
    resumed = fit(a := made(), images, flat, settings, tmp_path / "point")
    whole = fit(b := made(), images, flat, settings)
    assert np.array_equal(resumed.losses, whole.losses)
    assert torch.equal(a.weight, b.weight)


def test_two_processes_equal_one_although_their_masks_differ():
    "A mean of the two means would not: the weights of the two halves are not equal."
    b = draw(torch.Generator().manual_seed(0))
    model = net(0.0)
    halves = [loss(model, b.part(slice(r, None, 2))) for r in (0, 1)]
    s, w = loss(model, b)
    assert halves[0][1] != halves[1][1]
    torch.testing.assert_close(
        sum(h[0] for h in halves) / sum(h[1] for h in halves), s / w
    )


def test_a_full_disk_during_a_checkpoint_leaves_the_old_checkpoint(
    tmp_path, monkeypatch
):
    point = tmp_path / "point.safetensors"
    settings = Training(steps=20, checkpoint_every=10, **QUIET)
    before = {}

    def full(self, data, write=Path.write_bytes):
        if self.name.endswith(".tmp") and before:
            with open(self, "wb") as f:
                f.write(data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        n = write(self, data)
        before[self] = data
        return n

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        OSError,
        match=(
            "could not write .*point.safetensors: No space left on device. Free some"
            " space"
        ),
    ):
        fit(net(0.0), draw, loss, settings, point)
    assert os.listdir(tmp_path) == ["point.safetensors"]
    assert len(load_file(point)["losses"]) == 10
    monkeypatch.undo()
    assert np.array_equal(
        fit(net(0.0), draw, loss, settings, point).losses,
        fit(net(0.0), draw, loss, settings).losses,
    )


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: d[:50], "not a readable checkpoint"),
        (lambda d: b"", "not a readable checkpoint"),
        (lambda d: d[:-40], "not a readable checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path, damage, message):
    point = tmp_path / "point.safetensors"
    settings = Training(steps=10, **QUIET)
    fit(net(0.0), draw, loss, settings, point)
    point.write_bytes(damage(point.read_bytes()))
    with pytest.raises(OSError, match=message):
        fit(net(0.0), draw, loss, settings, point)


def test_another_network_or_other_settings_are_refused(tmp_path):
    point = tmp_path / "point.safetensors"
    fit(net(0.0), draw, loss, Training(steps=10, **QUIET), point)
    with pytest.raises(ValueError, match=r"another training: lr=0.01 \(now 0.5\)"):
        fit(net(0.0), draw, loss, Training(steps=10, **QUIET | {"lr": 0.5}), point)
    with pytest.raises(ValueError, match="another network"):
        fit(
            nn.Sequential(nn.Linear(5, 1)),
            draw,
            loss,
            Training(steps=10, **QUIET),
            point,
        )


def test_a_checkpoint_holds_numbers_and_one_line_of_json_only(tmp_path):
    "Opening it executes nothing: it is read here without torch.load or pickle."
    import json

    point = tmp_path / "point.safetensors"
    fit(net(0.0), draw, loss, Training(steps=10, **QUIET), point)
    data = point.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["forecastlab"])["step"] == 10
    assert all(
        v["dtype"] in {"F32", "F64", "U8", "I64"}
        for k, v in header.items()
        if k != "__metadata__"
    )


def test_mixed_precision_clipping_and_averaging_learn():
    plain = fit(net(0.0), draw, loss, Training(steps=300, **QUIET)).losses[-50:].mean()
    mixed = (
        fit(
            net(0.0),
            draw,
            loss,
            Training(steps=300, precision="bf16-mixed", clip=0.5, average=0.9, **QUIET),
        )
        .losses[-50:]
        .mean()
    )
    assert mixed < 2 * plain


@pytest.mark.long
@pytest.mark.slow
def test_a_compiled_model_learns_the_same():
    plain = fit(net(0.0), draw, loss, Training(steps=20, **QUIET)).losses
    np.testing.assert_allclose(
        fit(net(0.0), draw, loss, Training(steps=20, compile=True, **QUIET)).losses,
        plain,
        rtol=1e-4,
    )


def test_the_seed_decides_the_losses():
    a, b, c = (
        fit(net(0.2), draw, loss, Training(steps=20, seed=s, **QUIET)).losses
        for s in (1, 1, 2)
    )
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(steps=-1),
        dict(steps=1.5),
        dict(lr="1e-3"),
        dict(lr=10**400),
        dict(clip=None),
        dict(rates=None),
        dict(rates={1: 0.1}),
        dict(seed=2**70),
        dict(accelerator="quantum"),
        dict(checkpoint_every=-1),
        dict(lr=0.0),
        dict(average=2.0),
        dict(clip=-1.0),
        dict(patience=-1),
    ],
)
def test_settings_that_cannot_train_are_refused(wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        Training(**wrong)


def test_a_peak_without_end_is_refused_by_its_name():
    with pytest.raises(LabError, match="rate of 'encoder' must be a number above 0"):
        Training(rates={"encoder": float("inf")})


def test_a_machine_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(LabError, match='cannot train so.*accelerator="cpu" always'):
        fit(net(0.0), draw, loss, Training(steps=1, progress=False, accelerator="cuda"))


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_a_model_comes_back_in_its_own_kind_of_number(precision):
    kinds = []

    def score(model):
        kinds.append(next(model.parameters()).dtype)
        return 1.0

    model = net(0.0)
    training = Training(steps=2, validate_every=1, precision=precision, **QUIET)
    fit(model, draw, loss, training, validate=score)
    assert {p.dtype for p in model.parameters()} == {*kinds} == {torch.float32}


def test_early_stopping_without_a_score_is_refused():
    with pytest.raises(ValueError, match="need validate"):
        fit(
            net(0.0),
            draw,
            loss,
            Training(steps=5, validate_every=2, patience=1, **QUIET),
        )


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_with_dropout_resume_bit_for_bit(tmp_path):
    """Each process draws masks of its own, seeded by step and rank, so a killed run
    gets the same ones again.
    """
    plan = dict(steps=20, checkpoint_every=5, **QUIET)
    body = f"""
out, point, stop = sys.argv[1], sys.argv[2], int(sys.argv[3])
count = []


def dying(generator):
    count.append(1)
    if len(count) == stop:
        os._exit(9)
    return draw(generator)


if __name__ == "__main__":
    settings = Training(**{plan!r})
    fitted = fit(net(0.3), dying, loss, settings, None if point == "-" else point)
    if os.environ["RANK"] == "0":
        np.save(out, fitted.losses)
"""
    path = script(tmp_path, body)
    point = tmp_path / "point.safetensors"

    def run(out, point, stop):
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node=2",
                str(path),
                str(tmp_path / out),
                str(point),
                str(stop),
            ],
            capture_output=True,
            text=True,
            timeout=240,
        )

    assert run("whole.npy", "-", 0).returncode == 0
    assert run("never.npy", point, 14).returncode != 0 and point.exists()
    done = run("resumed.npy", point, 0)
    assert done.returncode == 0, done.stderr[-3000:]
    assert np.array_equal(
        np.load(tmp_path / "whole.npy"), np.load(tmp_path / "resumed.npy")
    )


def test_batches_drawn_ahead_change_no_number_and_resume_bit_for_bit(tmp_path):
    "The checkpoint must not know of the batch that was drawn too early."
    settings = dict(steps=30, average=0.9, checkpoint_every=7, **QUIET)
    count = []

    def dying(generator):
        count.append(1)
        if len(count) == 19:
            raise KeyboardInterrupt
        return draw(generator)

    plain = fit(a := net(0.3), draw, loss, Training(**settings))
    ahead = Training(prefetch=True, **settings)
    point = tmp_path / "point.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(net(0.3), dying, loss, ahead, point)
    resumed = fit(b := net(0.3), draw, loss, ahead, point)
    assert np.array_equal(resumed.losses, plain.losses)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    # one that draws in time takes over from one that draws ahead
    taken = fit(net(0.3), draw, loss, Training(**settings), point)
    assert np.array_equal(taken.losses, plain.losses)


def test_several_batches_a_step_equal_one_large_batch():
    "Although their masks differ: sums and weights add up."
    once = [draw(torch.Generator().manual_seed(i)) for i in range(3)]
    large = tuple(torch.cat(parts) for parts in zip(*once))
    turns = iter(once * 25)
    whole = fit(a := net(0.0), lambda g: large, loss, Training(steps=25, **QUIET))
    settings = Training(steps=25, accumulate=3, **QUIET)
    parts = fit(b := net(0.0), lambda g: next(turns), loss, settings)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-4)
    for p, q in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_groups_learn_at_rates_of_their_own_and_norms_do_not_decay():
    still = net(0.0)
    before = [p.detach().clone() for p in still.parameters()]
    rates = {"0.": 1e-12, "0.bias": 1e-2}
    fit(still, draw, loss, Training(steps=5, rates=rates, **QUIET))
    moved = [
        float((p - q).detach().abs().max()) for p, q in zip(still.parameters(), before)
    ]
    assert moved[0] < 1e-9 and min(moved[1:]) > 1e-3

    nothing = lambda model, batch: (0.0 * model(batch[0]).sum(), batch[2].sum())
    spared = net(0.0)
    settings = Training(steps=5, weight_decay=0.5, decay="matrices", **QUIET)
    fit(spared, draw, nothing, settings)
    kept = [torch.equal(p, q) for p, q in zip(spared.parameters(), before)]
    assert kept == [False, True, False, True]
    with pytest.raises(ValueError, match="no parameter's name begins so: head"):
        fit(net(0.0), draw, loss, Training(steps=5, rates={"head": 1.0}, **QUIET))


@pytest.mark.parametrize(
    "schedule, end", [("cosine", 0.01), ("linear", 0.01), ("constant", 1.0)]
)
def test_a_rate_rises_and_then_follows_its_schedule(schedule, end):
    settings = Training(steps=10_000, lr=2.0, schedule=schedule)
    rates = [rate(i, settings) for i in range(10_000)]
    assert rates[0] < 0.01 and max(rates) == rates[999] == 2.0
    assert rates[-1] == pytest.approx(2 * end, rel=0.02)
    assert (np.diff(rates[1000:]) <= 0).all()
    with pytest.raises(ValueError, match="unknown schedule: step. Choose cosine"):
        Training(schedule="step")


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    point = tmp_path / "point.safetensors"
    settings = Training(steps=10, **QUIET)
    fit(net(0.0), draw, loss, settings, point)
    data = bytearray(point.read_bytes())
    data[-5] ^= 4
    point.write_bytes(data)
    with pytest.raises(OSError, match="damaged.*Remove it to start anew"):
        fit(net(0.0), draw, loss, settings, point)
