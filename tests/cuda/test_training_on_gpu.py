"""Training on a GPU: the committed loss curve, exactness across stops, memory, one compiled graph, and clean ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuda_dry import DRY
from golden_curve import CACHE, STEPS, fixed_numbers, golden_config, golden_losses, losses_of
from torch._dynamo.utils import counters

from lookonce.commands.train_student import main
from lookonce.shared.errors import NumericalError
from lookonce.train.checkpoints.checkpoint_file import checkpoints_in
from lookonce.train.config import TrainingConfig
from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder, load_student
from lookonce.train.evaluation.knn import knn_predict
from lookonce.train.loop.interrupts import DeferredInterrupts
from lookonce.train.model.alignment_step import AlignmentStep
from lookonce.train.run import prepare_run, train_student
from lookonce.train.setup import set_up

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("default")]

ROUNDING = 1e-4
"""Relative, of a loss after 50 steps in fp32. Gradients off by 1e-5 at every step change the last loss by 1e-6, first
weights off by 1e-5 by 7e-5 (measured on a CPU)."""

COUNT = 12 if DRY else STEPS
"""Steps that are compared."""

HALF = 3e-2
"""Relative, of a loss with student and alignment in bf16; a CPU's is off by 0.8 % at most."""


@pytest.fixture(scope="module")
def cache(write_training_cache: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the committed curve; not to be changed."""
    return write_training_cache(tmp_path_factory.mktemp("golden") / "cache", **CACHE, make_arrays=fixed_numbers)


@pytest.fixture
def run(cache: Path, tmp_path: Path, device: torch.device) -> Callable[..., list[float]]:
    """Losses of the golden run on the device, with some changes, in a folder of that name."""

    def losses(name: str, **changes: Any) -> list[float]:
        config = golden_config(cache, tmp_path / name, device=device.type, **{"max_steps": COUNT, **changes})
        return losses_of(config)

    return losses


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        pytest.param({}, ROUNDING, id="fp32"),
        pytest.param({"accumulate": 2, "workers": 0}, ROUNDING, id="in two parts"),
        pytest.param({"activation_checkpointing": True}, ROUNDING, id="activation checkpointing"),
        pytest.param({"precision": "bf16"}, HALF, id="bf16"),
    ],
)
def test_the_loss_curve_is_the_committed_one(
    run: Callable[..., list[float]], changes: dict[str, Any], tolerance: float
) -> None:
    np.testing.assert_allclose(run("run", **changes), golden_losses()[:COUNT], rtol=tolerance)


def test_a_killed_run_goes_on_from_its_checkpoint(
    run: Callable[..., list[float]], cache: Path, tmp_path: Path, device: torch.device
) -> None:
    changes: dict[str, Any] = {"epochs": 200, "ema": 0.9}
    if DRY:  # killed runs on a CPU have tests of their own, and a process takes seconds to begin
        run("killed", **changes, max_steps=4)
    else:
        kill_after_a_checkpoint(
            golden_config(cache, tmp_path / "killed", device=device.type, checkpoint_steps=4, max_steps=None, **changes)
        )
    kept = checkpoints_in(tmp_path / "killed" / "checkpoints")[-1]
    stop = int(kept.stem.removeprefix("step-")) + COUNT
    expected, found = (run(name, **changes, max_steps=stop) for name in ("whole", "killed"))
    assert len(found) == len(expected) == stop
    np.testing.assert_allclose(found, expected, rtol=ROUNDING)


def kill_after_a_checkpoint(config: TrainingConfig) -> None:
    """Train in a process of its own, and kill it when there is a checkpoint, long before it ends."""
    plain = TrainingConfig(shards=config.shards, out=config.out)
    changed = {name: value for name, value in vars(config).items() if value != getattr(plain, name)}
    given = {"shards": config.shards[0], "out": config.out, **changed}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    victim = subprocess.Popen(
        [sys.executable, "-c", "from lookonce.commands.train_student import main; main()", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 240
    while not checkpoints_in(config.out / "checkpoints"):
        assert victim.poll() is None, victim.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    victim.kill()
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL


def test_the_student_that_is_left_sees_on_the_cpu_what_it_sees_on_the_gpu(
    run: Callable[..., list[float]], tmp_path: Path, device: torch.device
) -> None:
    run("run", max_steps=None, epochs=2)
    views = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    there, here = (
        StudentEncoder(load_student(tmp_path / "run" / "student.safetensors"), pool="cls+mean", device=where)(views)
        for where in (device, "cpu")
    )
    assert there.device.type == device.type
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-4)
    labels = torch.arange(9) % 3
    classes = [
        knn_predict(features, labels.to(features.device), features, k=3, classes=3).tolist()
        for features in (there, here)
    ]
    assert classes[0] == classes[1]


@pytest.mark.parametrize("precision", ["bf16"] if DRY else ["fp32", "bf16"])
def test_a_compiled_step_is_one_graph_and_is_not_compiled_again(
    run: Callable[..., list[float]], compiler: None, precision: str
) -> None:
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = run("run", compile=True, precision=precision)
    assert (counters["stats"]["unique_graphs"], dict(counters["graph_break"])) == (1, {})
    np.testing.assert_allclose(found, golden_losses()[:COUNT], rtol=HALF if precision == "bf16" else ROUNDING)


def test_activation_checkpointing_takes_less_memory(
    write_training_cache: Callable[..., Path], tmp_path: Path, device: torch.device
) -> None:
    if device.type == "cpu":
        pytest.skip("memory is counted on a GPU alone; the loss curve with checkpointing was compared above")
    cache = write_training_cache(tmp_path / "cache", samples=256, shard_size=64, view_size=224)
    peaks = []
    for given in (False, True):
        config = TrainingConfig(
            shards=(cache,),
            out=tmp_path / str(given),
            student="vit_small_patch16_224",
            batch_size=256,
            epochs=2,
            layer_weights="top2",
            mask_ratio=0.0,
            activation_checkpointing=given,
        )
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        train_student(config, show_progress=False)
        peaks.append(torch.cuda.max_memory_allocated(device))
    assert peaks[1] < 0.6 * peaks[0], peaks


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_nothing_of_it(
    run: Callable[..., list[float]], tmp_path: Path
) -> None:
    with pytest.raises(NumericalError, match="the loss of step 1 is"):
        run("run", base_lr=1e30, warmup_epochs=0.0, checkpoint_steps=1)
    assert not checkpoints_in(tmp_path / "run" / "checkpoints")


def test_a_loss_that_is_no_number_is_found_at_the_next_logged_step(run: Callable[..., list[float]]) -> None:
    """Between logged steps nothing waits for a GPU; the sentence names the step at which it began all the same."""
    with pytest.raises(NumericalError, match="the loss of step 1 is"):
        run("run", base_lr=1e30, warmup_epochs=0.0, log_steps=20)


def test_running_out_of_memory_ends_in_a_sentence(
    cache: Path,
    tmp_path: Path,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--shards", str(cache), "--out", str(tmp_path), "--student=test_vit", "--layer-weights=top2"]
    if device.type == "cuda":
        torch.cuda.empty_cache()
        room = torch.cuda.memory_reserved(device) + (96 << 20)
        torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info(device)[1], device)
        flags += ["--batch-size=65536", "--epochs=4000"]
    else:

        def refuse(*_: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        monkeypatch.setattr(AlignmentStep, "forward", refuse)
    try:
        with pytest.raises(SystemExit) as ended:
            main([*flags, f"--device={device.type}"])
    finally:
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    said = capsys.readouterr().err.replace("\r", "\n")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 1
    assert len(errors) == 1, said
    assert "memory" in errors[0]
    assert "--batch-size" in errors[0]
    assert "bug" not in errors[0]


@pytest.mark.parametrize("precision", ["int8", "klt1"])
def test_a_step_waits_for_nothing_of_the_gpu(
    write_training_cache: Callable[..., Path], tmp_path: Path, device: torch.device, precision: str
) -> None:
    """Between logs, the host is ahead of the GPU: no number is asked for, nothing is copied back."""
    cache = write_training_cache(tmp_path / "cache", **{**CACHE, "precision": precision})
    config = golden_config(cache, tmp_path, device=device.type, log_steps=1000, checkpoint_steps=1000)
    trainer = prepare_run(config, set_up(config))
    with DeferredInterrupts() as interrupts, trainer.opened(None, tmp_path / "none", show_progress=False) as opened:
        for _ in range(4):  # the first is logged; lazy initialisation is over
            trainer.advance(opened, interrupts)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(2):
                trainer.advance(opened, interrupts)
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    assert trainer.step == 6
