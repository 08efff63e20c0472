"""A training step from the cache, against the bare arithmetic, an online teacher, and the authors' way to train.

    python benchmarks/step.py [--quick] [--json FILE]

Four ways to make a step of the same student, alignment, optimizer, batch and precision, in alternating rounds:

- bare: on one batch that lies on the device already, its targets decoded: what the student's own arithmetic costs;
- cached: what train-student does, by its own Trainer: masks, gathering and copying in threads, decoding;
- online: the teacher looks at the same views again; views and masks come from the cache, read ahead in a thread;
- released: JPEGs are decoded and cut in threads, the teacher looks, masks are drawn from what it sees.

``theory_online_over_cached`` is the ratio of counted operations (matrix products and attention) of online and cached.
Photographs from ../shared/data (or LOOKONCE_DATA_DIR); DeiT-Tiny with its weights, CLIP with random ones of its shape.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from extract import DATA, photographs
from harness import alternating_rounds, arguments, ratio, report
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lookonce.cache.layout import CacheLayout
from lookonce.clusters.extraction.run import extract_features
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.prepare import load_config_teacher, open_extraction
from lookonce.extract.views.image_views import image_views
from lookonce.reports.plan.planned_sizes import stand_in_encoding
from lookonce.shared.freed_memory import keep_freed_memory
from lookonce.shared.masking import draw_patches
from lookonce.shared.patches import patchify, unpatchify
from lookonce.storage_schemas.arrays import target_shape
from lookonce.storage_schemas.precision import get_precision
from lookonce.train.config import TrainingConfig
from lookonce.train.data.batch import Batch, StoredTargets
from lookonce.train.data.sample_order import SamplesOfStep
from lookonce.train.data.view_decoder import ViewDecoder
from lookonce.train.loop.interrupts import DeferredInterrupts
from lookonce.train.loop.trainer import Trainer
from lookonce.train.model.alignment_step import AlignmentStep, TeacherAlignment
from lookonce.train.setup import set_up

CORES = len(os.sched_getaffinity(0))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KLT = "klt0.5"
"""Whose decoding is measured."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A student, its teacher, and how much to measure."""

    label: str
    student: str
    teacher: str
    batch: int
    images: int
    steps: int
    """Steps of each way per round."""
    rounds: int
    precision: str = "int8"
    """Of the cache."""
    compile: bool = False
    """Whether the student is compiled; bare and cached are, each for itself, which takes most of a minute."""


def pairs(quick: bool) -> list[Pair]:
    if DEVICE.type == "cuda":
        sizes: dict[str, Any] = {"batch": 256, "images": 512, "steps": 4 if quick else 20, "rounds": 2 if quick else 7}
        base, large = "vit_base_patch16_224", "vit_large_patch16_224"
        eager = [
            Pair(label="b_from_clip_b16", student=base, teacher="clip-b16", **sizes),
            Pair(label="b_from_clip_l14", student=base, teacher="clip-l14", **sizes),
            Pair(label="l_from_clip_l14", student=large, teacher="clip-l14", **sizes),
        ]
        compiled = [replace(pair, label=f"{pair.label}_compiled", compile=True) for pair in eager]
        coded = replace(eager[0], label=f"{eager[0].label}_{KLT}", precision=KLT)
        return [eager[0], coded, compiled[0], *eager[1:], *compiled[1:]]
    tiny, base = (
        ("ti_from_deit_ti", "vit_tiny_patch16_224", "deit-tiny"),
        (
            "b_from_clip_b16",
            "vit_base_patch16_224",
            "clip-b16",
        ),
    )
    sizes_of: list[dict[str, Any]] = (
        [{"batch": 16, "images": 16, "steps": 1, "rounds": 2}, {"batch": 2, "images": 4, "steps": 1, "rounds": 1}]
        if quick
        else [
            {"batch": 64, "images": 128, "steps": 1, "rounds": 25},
            {"batch": 8, "images": 24, "steps": 1, "rounds": 15},
        ]
    )
    found = [
        Pair(label=label, student=student, teacher=teacher, **sizes)
        for (label, student, teacher), sizes in zip((tiny, base), sizes_of, strict=True)
    ]
    return [*found, replace(found[-1], label=f"{base[0]}_{KLT}", precision=KLT)]


class OnDevice(nn.Module):
    """Replaces the decoder: the targets are floats already."""

    def decode(self, stored: StoredTargets) -> Tensor:
        return stored.elements


class Ways:
    """The four ways of one pair, over one cache made on the spot."""

    def __init__(self, pair: Pair, weights: Path, images: Path, work: Path) -> None:
        extraction = ExtractionConfig(
            teacher=pair.teacher,
            teacher_weights=weights,
            images=str(images),
            out=work / "cache",
            precision=pair.precision,
            executor="inline",
            batch_size=min(16, pair.images),
            calibration_views=min(32, pair.images),
        )
        extract_features(extraction, show_progress=False)
        self.pair, self.views = pair, open_extraction(extraction)
        self.manifest = CacheLayout(work / "cache").load_manifest()
        self.teacher = load_config_teacher(extraction, DEVICE)
        config = TrainingConfig(
            shards=(work / "cache",),
            out=work / "run",
            student=pair.student,
            batch_size=pair.batch,
            epochs=100_000,
            log_steps=1_000_000,
            checkpoint_steps=1_000_000,
            compile=pair.compile,
            workers=8 if DEVICE.type == "cuda" else 2,
        )
        self.setup = set_up(config)
        self.trainer = Trainer(config, self.setup, {})
        self.waited, self.seconds = 0.0, 0.0
        model = self.setup.model
        alignment = model.alignments[0]
        floats = TeacherAlignment(alignment, OnDevice(), layers=range(len(alignment.teacher_blocks)))  # type: ignore[arg-type]
        self._model = AlignmentStep(model.student, [floats], autocast=model._autocast)  # pyright: ignore[reportPrivateUsage] - as the run has it
        self._forward: Any = torch.compile(self._model) if config.compile else self._model
        self._step = 0
        self._threads = ThreadPoolExecutor(CORES)
        self._ahead: dict[str, Future[Any]] = {}
        self._on_device = self._decoded(self.setup.input.batches.batch(self.setup.input.order.step(0)).to(DEVICE))

    def bare(self) -> int:
        return self._steps(lambda: self._on_device)

    def cached(self, run: Any, interrupts: DeferredInterrupts) -> int:
        waited, begun = run.clock.waited, _now()
        for _ in range(self.pair.steps):
            self.trainer.advance(run, interrupts)
        self.waited += run.clock.waited - waited
        self.seconds += _now() - begun
        return self.pair.steps * self.pair.batch

    def online(self) -> int:
        return self._steps(lambda: self._seen(self._next("online", self._stored_views)))

    def released(self) -> int:
        return self._steps(lambda: self._seen(self._next("released", self._cut_views)))

    def losses(self) -> tuple[float, float]:
        """Of one batch, cached and online: the same but for the precision of what is stored."""
        samples = self.setup.input.order.step(1)
        stored = self.setup.model(self.setup.input.batches.batch(samples).to(DEVICE)).loss
        return stored.item(), self._model(self._seen(self._stored_views(samples))).loss.item()

    def operations(self) -> tuple[int, int]:
        """Operations of a step, and of the teacher on as many views: matrix products and attention."""
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as step:
            self._model(self._on_device).loss.backward()
        views = torch.zeros(self.pair.batch, 224, 224, 3, dtype=torch.uint8, device=DEVICE)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as look:
            self.teacher.extract(views)
        return step.get_total_flops(), look.get_total_flops()

    def decoding_operations(self, precision: str = KLT) -> int:
        """Of decoding one batch of a KLT cache of the same shape: matrix products."""
        shape, visible = target_shape(self.manifest.recipe), self._on_device.visible_ids
        manifest = replace(self.manifest, encoding=stand_in_encoding(precision, shape))
        stored = {
            array.name: torch.zeros(len(visible), *array.shape, dtype=torch.uint8)
            for array in get_precision(precision).arrays(shape)
        }
        batch = StoredTargets(
            elements=stored["targets"][:, : visible.shape[1]],
            class_elements=stored["class_targets"],
            coarse=stored["coarse_targets"],
            positions=visible.cpu(),
        )
        decoder = ViewDecoder(manifest, range(shape.layers))
        with FlopCounterMode(display=False) as decoding:
            decoder(batch)
        return decoding.get_total_flops()

    def _steps(self, batch: Callable[[], Batch]) -> int:
        trainer = self.trainer
        for _ in range(self.pair.steps):
            trainer.state.optimizer.zero_grad(set_to_none=True)
            self._forward(batch()).loss.backward()
            trainer.state.optimizer.step()
        _now()
        return self.pair.steps * self.pair.batch

    def _decoded(self, batch: Batch) -> Batch:
        teacher: Any = self.setup.model.teachers[0]
        return replace(batch, targets=(StoredTargets(elements=teacher.targets(batch.targets[0])),))

    def _next(self, way: str, read: Callable[[SamplesOfStep], Any]) -> Any:
        """The next batch, and the one after it begun."""
        ready = self._ahead.get(way) or self._threads.submit(read, self.setup.input.order.step(self._step))
        self._step += 1
        self._ahead[way] = self._threads.submit(read, self.setup.input.order.step(self._step))
        return ready.result()

    def _stored_views(self, samples: SamplesOfStep) -> tuple[Any, ...]:
        patches = self.setup.input.caches.first.read("pixels", samples.seeds, samples.rows)
        return unpatchify(patches, 16), patches, self.setup.input.batches.visible(samples).ids, self._scales(samples)

    def _cut_views(self, samples: SamplesOfStep) -> tuple[Any, ...]:
        source, recipe, entries = self.views.source, self.views.view, self.views.listing.entries
        with ThreadPoolExecutor(CORES) as threads:  # in place of the authors' worker processes
            made = threads.map(lambda row: image_views(row, entries[row], source, recipe, [samples.step]), samples.rows)
            views = np.concatenate([one.pixels for one in made if one.pixels is not None])
        return views, patchify(views, 16), None, self._scales(samples)

    def _scales(self, samples: SamplesOfStep) -> Tensor | None:
        return self.setup.input.batches._branch_scales(samples, slice(None))  # pyright: ignore[reportPrivateUsage]

    def _seen(self, read: tuple[Any, ...]) -> Batch:
        views, patches, ids, scales = read
        features = self.teacher.extract(torch.from_numpy(views).to(DEVICE))
        if ids is None:
            noise = np.random.default_rng(0).random((len(views), patches.shape[1]))
            ids = draw_patches(
                "attentive", features.importance.cpu().numpy(), noise, self._on_device.visible_ids.shape[1]
            )
        samples_B1, ids = torch.arange(len(ids))[:, None], torch.from_numpy(np.ascontiguousarray(ids))
        visible = torch.from_numpy(patches)[samples_B1, ids].to(DEVICE)
        tokens = nn.functional.pad(ids + 1, (1, 0))
        targets = features.targets[samples_B1.to(DEVICE), tokens.to(DEVICE)]
        return Batch(
            visible_pixels=visible,
            visible_ids=ids.to(DEVICE),
            targets=(StoredTargets(elements=targets),),
            branch_scales=None if scales is None else scales.to(DEVICE),
        )


def _now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_mib(ways: Ways, job: Callable[[], int], *, teacher: bool) -> float:
    """Peak memory of a way: weights, moments, and the most that a step allocates in addition.

    Both ways are measured in one process, so what lies in memory before the step is counted, not measured.
    """
    held = [*ways.trainer.state.module.parameters(), *ways.trainer.state.module.buffers()]
    held += [value for state in ways.trainer.state.optimizer.state.values() for value in state.values()]
    held += list(ways.teacher.parameters()) if teacher else []
    ways.trainer.state.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    before = _reset_peak()
    job()
    return round((sum(tensor.nbytes for tensor in held) + _peak() - before) / 2**20, 1)


def _reset_peak() -> int:
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # memory that the allocator kept from earlier steps would hide this one's growth
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def weights_of(teacher: str, work: Path) -> Path:
    """DeiT-Tiny's own; for others, numbers drawn at random: for CLIP's image tower, or all of ``timm:NAME``."""
    if teacher == "deit-tiny":
        return DATA / "deit_tiny_patch16_224.safetensors"
    path = work / f"{teacher.replace(':', '-')}.safetensors"
    if path.is_file():
        return path
    torch.manual_seed(0)
    if teacher.startswith("timm:"):
        save_file(timm.create_model(teacher.removeprefix("timm:"), num_classes=0).state_dict(), path)
    else:
        import open_clip

        name = {"clip-b16": "ViT-B-16-quickgelu", "clip-l14": "ViT-L-14-quickgelu"}[teacher]
        visual: Any = open_clip.create_model(name, pretrained_text=False).visual
        save_file({key: value.contiguous() for key, value in visual.state_dict().items()}, path)
    return path


def measure(pair: Pair, work: Path, images: Path | None = None) -> Iterator[tuple[str, str, Any]]:
    """(kind, name, value) of a pair: ratios and raw numbers; a name comes again where more rounds are counted.

    Args:
        pair: what is measured.
        work: folder for weights, caches and runs.
        images: in place of photographs.
    """
    folder, label, began = work / pair.label, pair.label, time.perf_counter()
    folder.mkdir()
    ways = Ways(pair, weights_of(pair.teacher, work), images or photographs(folder / "images", pair.images), folder)
    yield "raw", f"{label}: seconds to make the cache and the models", round(time.perf_counter() - began, 1)
    (step, look), decoding = ways.operations(), ways.decoding_operations()
    yield "raw", f"{label}: operations", {"step": step, "teacher": look, f"decoding_{KLT}": decoding}
    with DeferredInterrupts() as interrupts, ways.trainer.opened(None, folder, show_progress=False) as run:
        cached = functools.partial(ways.cached, run, interrupts)
        jobs = {"bare": ways.bare, "cached": cached, "online": ways.online, "released": ways.released}
        rates: dict[str, list[float]] = {}
        for rates in alternating_rounds(jobs, pair.rounds):
            for way, values in rates.items():
                yield "raw", f"{label}: {way}", [round(value, 4) for value in values]
        share = ways.waited / ways.seconds
        peaks = {"cached": peak_mib(ways, cached, teacher=False), "online": peak_mib(ways, ways.online, teacher=True)}
    yield "ratio", f"{label}: cached_over_bare", ratio(rates, "bare", "cached")
    yield "ratio", f"{label}: online_over_cached", ratio(rates, "cached", "online")
    yield "ratio", f"{label}: theory_online_over_cached", round((step + look) / step, 3)
    yield "ratio", f"{label}: released_way_over_cached", ratio(rates, "cached", "released")
    yield "ratio", f"{label}: input_wait_share", round(share, 5)
    yield "raw", f"{label}: memory_peak_mib", peaks
    yield "raw", f"{label}: losses", dict(zip(("cached", "online"), ways.losses(), strict=True))
    yield (
        "raw",
        f"{label}: sizes",
        {"batch": pair.batch, "steps": pair.steps, "rounds": pair.rounds, "precision": ways.setup.precision},
    )


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    if not DATA.is_dir():
        sys.exit(f"no photographs at {DATA}: set LOOKONCE_DATA_DIR")
    keep_freed_memory(DEVICE.type)  # as train-student does
    work = Path(tempfile.mkdtemp(prefix="lookonce-step-", dir=os.environ.get("LOOKONCE_BENCH_DIR")))
    found: dict[str, dict[str, Any]] = {"ratio": {}, "raw": {}}
    try:
        for pair in pairs(options.quick):
            for kind, name, value in measure(pair, work):
                found[kind][name] = value
                print(name, value, file=sys.stderr)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report("step", options, found["ratio"], found["raw"], "images/s")


if __name__ == "__main__":
    main()
