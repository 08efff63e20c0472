"""The stage ``extract`` of gpu.py: forward passes as a share of the card's matrix rate, parts alone, and the whole.

All rates are views a second. Weights are random; views are 224 px in patches of 16, so that CLIP-L/14 is fed 196 px.
A part alone is what the card, the bus, all cores or the disk sustain when nothing else runs; the whole is what
``extract-features --executor inline`` writes. ``whole_over_slowest_part`` names how far it is from its limit, where
decoding and digests count together, as they share the cores.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from extract import CORES, DEVICE, ON_GPU, Job, photographs
from gpu_stage import Stage, generated_images, stage
from step import weights_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lookonce.extract.pipeline.target_encoder import TargetEncoder
from lookonce.extract.teachers import Teacher, load_teacher, resolve_teacher
from lookonce.extract.teachers.teacher import HALF, Precision
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import get_element_precision

VIEW = 224
GPU_MODELS = {"clip_b16": ("clip-b16", 256), "clip_l14_196": ("clip-l14", 256)}
DRY_MODELS = {"tiny": ("timm:test_vit", 4)}
IMAGES, SHARD = 2048, 512
MEMORY = Path("/dev/shm")
ROOM = 24 << 30
"""Bytes; twice what the shards of four seeds take."""


def synchronize() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Clock:
    """How long a rate is measured."""

    seconds: float
    blocks: int = 5

    def rates(self, work: Callable[[], Any], units: float) -> list[float]:
        """Units per second of some work, one number per block of repetitions, after a warm-up."""
        for _ in range(2):
            work()
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        repeats = max(1, int(self.seconds / self.blocks / max(time.perf_counter() - started, 1e-6)))
        found = []
        for _ in range(self.blocks):
            started = time.perf_counter()
            for _ in range(repeats):
                work()
            synchronize()
            found.append(units * repeats / (time.perf_counter() - started))
        return [round(rate, 2) for rate in found]


class Card:
    """The ceilings: matrix products of each half precision, and copies."""

    def __init__(self, told: Stage, clock: Clock) -> None:
        size = 8192 if ON_GPU else 128
        self.matrix_rate: dict[str, float] = {}
        for name, dtype in HALF.items():
            one, other = (torch.randn(size, size, dtype=dtype, device=DEVICE) for _ in range(2))
            rates = clock.rates(lambda one=one, other=other: one @ other, 2 * size**3)
            self.matrix_rate[name] = statistics.median(rates)
            told.result.raw(f"matrix product {name}, TFLOP/s", [round(rate / 1e12, 4) for rate in rates])
        count = (1 << 30) if ON_GPU else (1 << 20)
        held, twin = (torch.randint(0, 256, (count,), dtype=torch.uint8, device=DEVICE) for _ in range(2))
        host = torch.empty(count, dtype=torch.uint8, pin_memory=ON_GPU)
        copies = {
            "on the card, read and written": (lambda: twin.copy_(held), 2 * count),
            "to the card": (lambda: held.copy_(host, non_blocking=True), count),
            "from the card": (lambda: host.copy_(held, non_blocking=True), count),
        }
        for name, (copy, moved) in copies.items():
            told.result.raw(f"copy {name}, GB/s", [round(rate / 1e9, 2) for rate in clock.rates(copy, moved)])


class Model:
    """One teacher on the device: its forward pass in every way, and the later steps."""

    def __init__(self, told: Stage, label: str, card: Card, clock: Clock) -> None:
        self.told, self.label, self.card, self.clock = told, label, card, clock
        self.teacher_name, self.batch = (DRY_MODELS if told.dry else GPU_MODELS)[label]
        self.weights = weights_of(self.teacher_name, told.work)
        self.views = torch.randint(0, 256, (self.batch, VIEW, VIEW, 3), dtype=torch.uint8, device=DEVICE)
        self.parts: dict[str, float] = {}
        self._teacher: Teacher | None = None
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.inference_mode():
            self.teacher("fp16")(self.views[:2])
        self.operations = counter.get_total_flops() / 2
        told.result.raw(f"{label}: operations of a view", self.operations)

    def teacher(self, precision: Precision) -> Teacher:
        """The teacher that was loaded last, if it has this precision."""
        if self._teacher is None or self._teacher.precision != precision:
            self._teacher = load_teacher(
                resolve_teacher(self.teacher_name),
                weights=self.weights,
                view_size=VIEW,
                patch_size=16,
                blocks="top5",
                device=DEVICE,
                precision=precision,
            )
        return self._teacher

    def forward(self, precision: Precision, way: str, batch: int | None = None) -> None:
        """Views per second, and the share of the card's matrix rate."""
        layout = torch.channels_last if way == "channels_last" else torch.contiguous_format
        teacher = self.teacher(precision).to(memory_format=layout)
        if way == "compiled":
            torch.compiler.reset()
            teacher.compile_forward()
        views = self.views if batch is None else self.views[:1].expand(batch, -1, -1, -1).contiguous()
        try:
            with torch.inference_mode():
                rates = self.clock.rates(lambda: teacher(views), len(views))
        finally:
            teacher.run_eagerly()
        name = f"{self.label}: forward {precision} {way}" + (f" batch {batch}" if batch else "")
        self.told.result.raw(name, rates)
        share = statistics.median(rates) * self.operations / self.card.matrix_rate[precision]
        self.told.result.ratio(f"{name}, share of matrix rate", share)
        if precision == "fp16" and batch is None:  # what extract-features runs on a GPU
            self.parts[f"forward {way}"] = statistics.median(rates)

    @torch.inference_mode()
    def after(self, precision: str) -> None:
        """Normalise and encode, copy in and out, digest, write: each alone; the whole is compared with int8."""
        output = self.teacher("fp16" if ON_GPU else "fp32")(self.views)  # as extract-features chooses
        sample = torch.stack([level[:2].float() for level in output.hidden], dim=2)
        sample = torch.nn.functional.layer_norm(sample, sample.shape[-1:]).flatten(0, 1).cpu()
        parameters = get_element_precision(precision).calibrate(sample.numpy())
        encoder = TargetEncoder(Encoding(precision=precision, parameters=parameters)).to(DEVICE)
        encoded = encoder(output.hidden)
        leaving = [encoded.stored, encoded.mean, encoded.std, output.importance]
        host = [torch.empty(one.shape, dtype=one.dtype, pin_memory=ON_GPU) for one in leaving]
        arriving = torch.empty(self.views.shape, dtype=torch.uint8, pin_memory=ON_GPU)
        self._part(precision, "copy in", lambda: self.views.copy_(arriving, non_blocking=True))
        self._part(precision, "normalise and encode", lambda: encoder(output.hidden))
        self._part(
            precision, "copy out", lambda: [a.copy_(b, non_blocking=True) for a, b in zip(host, leaving, strict=True)]
        )
        written = [*host, arriving]
        stored = b"".join(one.contiguous().view(torch.uint8).numpy().tobytes() for one in written)
        self.told.result.raw(f"{self.label}: {precision}, bytes of a view", len(stored) / self.batch)
        with ThreadPoolExecutor(CORES) as threads:
            self._part(precision, "digest, one core", lambda: hashlib.sha256(stored).digest())
            everywhere = self._rates(
                lambda: list(threads.map(lambda _: hashlib.sha256(stored).digest(), range(CORES))), self.batch * CORES
            )
        self._tell(precision, "digest, all cores", everywhere)
        file = self.told.disk / "written"
        self._part(precision, "write", lambda: _write(file, stored))
        file.unlink()

    def _part(self, precision: str, part: str, work: Callable[[], Any]) -> None:
        self._tell(precision, part, self._rates(work, self.batch))

    def _rates(self, work: Callable[[], Any], units: int) -> list[float]:
        return Clock(self.clock.seconds / 2, self.clock.blocks).rates(work, units)

    def _tell(self, precision: str, part: str, rates: Sequence[float]) -> None:
        self.told.result.raw(f"{self.label}: {precision}, {part}", rates)
        if precision == "int8":
            self.parts[part] = statistics.median(rates)

    def decode(self, images: Path, together: int) -> None:
        """Reading, decoding and cropping on all cores, with this many seeds per image at a time."""
        job = self._job(images, self.told.work, together)
        for way, one in {"threads": replace(job, view_processes="0"), "processes": job}.items():
            rates = _rate(one.views(), self.clock)
            self.told.result.raw(f"{self.label}: decode and cut, {together} seed(s) together, {way}", rates)
            self.parts[f"decode {together}"] = statistics.median(rates)  # the last way is that of the whole

    def whole(self, images: Path, together: int, where: Path, kind: str, way: str = "eager") -> None:
        """The pipeline, from files to committed shards, and which measured part limits it."""
        job = replace(self._job(images, where, together), compile="always" if way == "compiled" else "auto")
        try:
            rates = _rate(job.opened_whole()(itertools.count(1)), Clock(self.clock.seconds * 3, self.clock.blocks))
        finally:
            shutil.rmtree(job.out, ignore_errors=True)
        name = f"{self.label}: whole {way}, {together} seed(s), to {kind}"
        self.told.result.raw(name, rates)
        parts = self._limits(together, way, to_disk=kind == "disk")
        limit = min(parts, key=parts.__getitem__)
        self.told.result.raw(f"{name}: limits", {part: round(rate, 1) for part, rate in parts.items()})
        self.told.result.ratio(f"{name}, over slowest part ({limit})", statistics.median(rates) / parts[limit])

    def _limits(self, together: int, way: str, *, to_disk: bool) -> dict[str, float]:
        """Views per second that each concurrent part allows: the card, the bus, the cores, the disk."""
        parts = self.parts
        found = {
            "card": 1 / (1 / parts[f"forward {way}"] + 1 / parts["normalise and encode"]),
            "copy in": parts["copy in"],
            "copy out": parts["copy out"],
            "cores": 1 / (1 / parts[f"decode {together}"] + 1 / parts["digest, all cores"]),
        }
        return {**found, "write": parts["write"]} if to_disk else found

    def _job(self, images: Path, where: Path, together: int) -> Job:
        out = where / f"lookonce-gpu-{os.getpid()}-{self.label}-{together}"
        shard = 4 if self.told.dry else SHARD
        processes = "1" if self.told.dry else str(CORES)
        return Job(self.teacher_name, self.weights, images, out, self.batch, shard, together, view_processes=processes)


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def _rate(units: Any, clock: Clock) -> list[float]:
    """Units per second of endless work, one number per block of time; the first block is not counted."""
    found: list[float] = []
    try:
        for block in range(clock.blocks + 1):
            done, started = next(units), time.perf_counter()
            done = 0
            while time.perf_counter() - started < clock.seconds / clock.blocks or not done:
                done += next(units)
            if block:
                found.append(round(done / (time.perf_counter() - started), 2))
    finally:
        units.close()
    return found


def basics(told: Stage, model: Model, images: Path) -> None:
    """What extract-features does for many views, which compiles the teacher, and everything it is compared with."""
    model.forward("fp16", "eager")
    told.attempt(f"{model.label}: fp16 compiled", 0 if told.dry else 15, _forward(model, "fp16", "compiled"))
    way = "compiled" if "forward compiled" in model.parts else "eager"
    model.after("int8")
    for kind, where in {"memory": MEMORY, "disk": told.disk}.items():
        for together in (2,) if told.dry else (4, 1):
            if f"decode {together}" not in model.parts:
                model.decode(images, together)
            if told.dry or shutil.disk_usage(where).free > ROOM:
                measure = _whole(model, images, together, where, kind, way)
                told.attempt(f"{model.label}: whole, {together}, {kind}", 0 if told.dry else 25, measure)
            else:
                told.result.raw(f"left out: {model.label}: whole, {kind}", f"less than {ROOM >> 30} GiB free")


def choices(told: Stage, model: Model, images: Path) -> None:
    """Alternatives: another memory layout, eager, other batches, fewer bits."""
    told.attempt(f"{model.label}: channels_last", 0 if told.dry else 15, _forward(model, "fp16", "channels_last"))
    measure = _whole(model, images, 2 if told.dry else 4, MEMORY, "memory")
    told.attempt(f"{model.label}: whole eager", 0 if told.dry else 20, measure)
    for batch in (2,) if told.dry else (32, 64, 128, 512):
        told.attempt(f"{model.label}: batch {batch}", 0, _forward(model, "fp16", "eager", batch))
    told.attempt(f"{model.label}: int4", 0, lambda: model.after("int4"))


def main() -> None:
    with stage("extract") as told:
        if told.dry:  # the compiler's graphs are run as they are: building them takes a minute on a CPU
            torch.compile = functools.partial(torch.compile, backend="eager")
        clock = Clock(0.02, 1) if told.dry else Clock(1.5)
        images = generated_images(told.work / "images", 8) if told.dry else photographs(told.work / "images", IMAGES)
        card, models = Card(told, clock), list[Model]()
        for label in DRY_MODELS if told.dry else GPU_MODELS:  # in the order of worth: a cut-off takes what comes last
            told.attempt(label, 0, lambda label=label: models.append(Model(told, label, card, clock)))
        for model in models:
            told.attempt(f"{model.label}: basics", 0, lambda model=model: basics(told, model, images))
        for model in models:
            choices(told, model, images)
        for model in models:
            for way in ("eager", "compiled", "channels_last"):
                told.attempt(f"{model.label}: bf16 {way}", 0 if told.dry else 15, _forward(model, "bf16", way))


def _forward(model: Model, precision: Precision, way: str, batch: int | None = None) -> Callable[[], None]:
    return lambda: model.forward(precision, way, batch)


def _whole(model: Model, images: Path, together: int, where: Path, kind: str, way: str = "eager") -> Callable[[], None]:
    return lambda: model.whole(images, together, where, kind, way)


if __name__ == "__main__":
    main()
