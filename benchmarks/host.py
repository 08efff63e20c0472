"""The host's work for a GPU: CPU time of extraction and training if the device's work costs nothing.

    python benchmarks/host.py [--quick] [--json FILE]

Extraction: the real pipeline, from photographs (../shared/data, or LOOKONCE_DATA_DIR) to committed shards, with a
teacher and an encoder whose results lie ready in the shape of CLIP-B/16 (197 tokens, 5 of 12 blocks, 768 channels).
What is left is what the host has to do beside a GPU: decode, cut, digest, write, commit, and Python. It is compared
with the sum of its bare parts: decoding and cutting the views; SHA-256 of the bytes that are stored; writing these
bytes once, with one fsync a file, at the pace of the extraction.

Training: reading batches (masks, gather) out of a CLIP-B/16-shaped int8 cache in the page cache, against a bare
``np.take`` of the same records.

All ratios are of CPU-seconds (user and system, all threads), contestants alternating in one process. Those that end in
``_user`` leave out system time: on a virtual machine it is mostly page faults, whose cost depends on what the host has
done with the memory. ``sustained``
extrapolates: what 16 such cores would do if the device and the disk kept up, and which part takes how much of them;
``stream_limit`` is what the (seed, shard) streams that are digested side by side allow, one core each.
``memory_growth_mib`` is the process's resident memory after the last round less that after the first counted one.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psutil
import torch
from harness import arguments, report
from synthetic_cache import LAYERS, PATCHES, WIDTH, clip_manifest, write_cache
from torch import Tensor, nn

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.write.create import create_cache, prepare_seed
from lookonce.extract.pipeline.events import ViewsDone
from lookonce.extract.pipeline.open_shard import ShardTask
from lookonce.extract.pipeline.shard_extractor import GPU_STREAMS, ShardExtractor
from lookonce.extract.pipeline.target_encoder import EncodedTargets
from lookonce.extract.teachers import Teacher, TeacherOutput
from lookonce.extract.views.image_views import image_views
from lookonce.shared.freed_memory import keep_freed_memory
from lookonce.shared.masking import visible_count
from lookonce.shared.sources import Listing, open_source
from lookonce.shared.view_recipe import ViewRecipe
from lookonce.storage_schemas.manifest import Manifest
from lookonce.train.batch_config import BatchConfig
from lookonce.train.data.batch_reader import BatchReader, StoredPixels
from lookonce.train.data.caches.joined_caches import open_caches
from lookonce.train.data.sample_order import SampleOrder

DATA = Path(os.environ.get("LOOKONCE_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
CORES = len(os.sched_getaffinity(0))
MODELLED_CORES = 16
PARTS = ("decode", "sha256", "write")
USER = "{} user"
BATCH, SHARD, MASK_RATIO, TRAIN_BATCH = 64, 256, 0.7, 256


class ReadyTeacher(nn.Module):
    """Replaces a teacher on a GPU: takes views of the right shape, and returns prepared features."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.spec, self.width = SimpleNamespace(library="timm"), WIDTH
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        level = torch.zeros(batch, 1 + PATCHES, WIDTH)
        self._hidden = [level] * LAYERS
        self._importance = torch.rand(batch, PATCHES, generator=generator)

    def forward(self, views: Tensor) -> TeacherOutput:
        count = len(views)
        return TeacherOutput(hidden=[level[:count] for level in self._hidden], importance=self._importance[:count])


class ReadyEncoder:
    """Replaces the encoder on a GPU: random bytes of the stored shape, so that the cost of writing is real."""

    def __init__(self, manifest: Manifest, batch: int) -> None:
        super().__init__()
        spec, generator = manifest.array("targets"), np.random.default_rng(0)
        self._stored = torch.from_numpy(generator.integers(0, 256, (batch, *spec.sample_shape), dtype=np.uint8))
        self._moments = torch.rand(batch, 1 + PATCHES, LAYERS)

    def __call__(self, hidden: Sequence[Tensor], kept: Tensor | None) -> EncodedTargets:
        count = len(hidden[0])
        moments = self._moments[:count]
        return EncodedTargets(
            arrays={"targets": self._stored[:count]},
            mean=moments,
            std=moments,
            nonfinite=torch.zeros(count, dtype=torch.bool),
            saturated=torch.zeros((), dtype=torch.int64),
            judged=max(1, moments.numel()),
        )


class Extraction:
    """One extraction of some photographs, and its bare parts; every method does all views once."""

    def __init__(self, work: Path, images: Path, seeds: Sequence[int], precision: str) -> None:
        self._out, self._seeds = work / f"{len(seeds)}-{precision}", tuple(seeds)
        self._view, self._source = ViewRecipe(), open_source(str(images))
        self._listing: Listing = self._source.listing()
        self.samples = len(self._listing)
        self.views = self.samples * len(seeds)
        self._manifest = clip_manifest(self.samples, SHARD, precision=precision)
        self._stored_bytes = self.views * sum(spec.sample_bytes for spec in self._manifest.arrays)
        self._seconds = 0.0
        self._teacher, self._encoder = ReadyTeacher(BATCH), ReadyEncoder(self._manifest, BATCH)

    def whole(self) -> int:
        """The pipeline, up to the receipts."""
        started = time.monotonic()
        shutil.rmtree(self._out, ignore_errors=True)
        create_cache(self._out, self._manifest)
        for seed in self._seeds:
            prepare_seed(self._out, self._manifest, seed)
        extractor = ShardExtractor(
            self._out,
            self._manifest,
            self._view,
            self._source,
            cast("Teacher", self._teacher),
            batch_size=BATCH,
            skip_bad_images=False,
            encode_targets=self._encoder,
        )
        tasks = []
        for shard in range(self._manifest.shard_count):
            rows = self._manifest.shard_rows(shard)
            tasks.append(ShardTask(shard, self._seeds, rows, self._listing.entries[rows.start : rows.stop]))
        views = sum(done.views for done in extractor.extract(tasks) if isinstance(done, ViewsDone))
        self._seconds = time.monotonic() - started
        return views

    def decode_and_cut(self) -> int:
        """Views of every image, by as many threads as there are cores."""
        entries = list(enumerate(self._listing.entries))

        def cut(place: tuple[int, Any]) -> None:
            image_views(*place, self._source, self._view, self._seeds)

        with ThreadPoolExecutor(CORES) as threads:
            for _ in threads.map(cut, entries):
                pass
        return self.views

    def digest(self) -> int:
        """SHA-256 of the bytes that are stored."""
        for chunks in self._chunks():
            hasher = hashlib.sha256()
            for chunk in chunks:
                hasher.update(chunk)
            hasher.digest()
        return self.views

    def write(self) -> int:
        """One write of the stored bytes and one fsync per file, at the pace of the last ``whole``.

        A write to memory that was just freed costs less than one to memory that a virtual machine has returned to its
        host in the meantime: 240 and 1,030 CPU-microseconds a view on the machine of results/host.json, with the same
        calls. ``whole`` writes a view every few milliseconds, so the bare write has to wait between two batches too.
        Both start with the removal of their files of the round before.
        """
        folder = self._out.with_suffix(".bytes")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        started, written = time.monotonic(), 0
        for number, chunks in enumerate(self._chunks()):
            with (folder / str(number)).open("wb", buffering=0) as file:
                for chunk in chunks:
                    file.write(chunk)
                    written += len(chunk)
                    due = started + self._seconds * written / self._stored_bytes
                    time.sleep(max(0.0, due - time.monotonic()))
                os.fsync(file.fileno())
        return self.views

    def _chunks(self) -> Iterator[list[memoryview]]:
        """Content of a seed's shard, a list of batches: the arrays' bytes, one after the other."""
        size = sum(spec.sample_bytes for spec in self._manifest.arrays)
        content = np.random.default_rng(1).integers(0, 256, (BATCH, size), dtype=np.uint8)
        for shard in range(self._manifest.shard_count):
            rows = len(self._manifest.shard_rows(shard))
            for _ in self._seeds:
                yield [content[: min(BATCH, rows - start)].reshape(-1).data for start in range(0, rows, BATCH)]


class Training:
    """Batches of a run over one cache, and a bare gather of records of the same number and size."""

    def __init__(self, work: Path, samples: int) -> None:
        manifest = clip_manifest(samples, SHARD)
        root = work / "train"
        write_cache(root, manifest)
        caches = open_caches(BatchConfig(shards=(root,), readahead="none"))
        self._reader = BatchReader(
            caches,
            StoredPixels(caches.first),
            mask="attentive",
            mask_ratio=MASK_RATIO,
            run_seed=0,
        )
        self._order = SampleOrder(caches.rows, caches.seeds, run_seed=0, batch_size=TRAIN_BATCH, epochs=1)
        self._reader.batch(self._order.step(0))  # digests are checked at first use
        self._visible = visible_count(PATCHES, MASK_RATIO)
        self._sources = {name: _mapped(caches.first, name) for name in ("targets", "pixels")}

    def whole(self) -> int:
        """Masks and gather, as ``train-student`` reads them."""
        total = 0
        for step in range(self._order.total_steps):
            total += len(self._reader.batch(self._order.step(step)).visible_ids)
        return total

    def bare_gather(self) -> int:
        """``np.take`` of the visible records of each sample of the same batches."""
        generator, total = np.random.default_rng(0), 0
        ids = np.sort(generator.permuted(np.tile(np.arange(PATCHES), (TRAIN_BATCH, 1)), axis=1)[:, : self._visible])
        picked = {"targets": np.pad(ids + 1, ((0, 0), (1, 0))), "pixels": ids}
        for step in range(self._order.total_steps):
            rows = self._order.step(step).rows
            for name, records in self._sources.items():
                positions = picked[name]
                out = np.empty((len(rows), positions.shape[1], records.shape[2]), dtype=np.uint8)
                for place, row in enumerate(rows.tolist()):
                    records[row].take(positions[place], axis=0, out=out[place], mode="clip")
            total += len(rows)
        return total


def _mapped(reader: CacheReader, name: str) -> Any:
    """All records of an array as one list of memory maps: uint8 (tokens or patches, bytes) per sample."""
    spec, manifest = reader.manifest.array(name), reader.manifest
    records = spec.sample_shape[0]
    whole = np.empty((manifest.samples, records, spec.sample_bytes // records), dtype=np.uint8)
    path = reader.root / f"{name}.raw"
    stored = whole.view(spec.numpy_dtype).reshape(manifest.samples, *spec.sample_shape)
    reader.read(name, [0] * manifest.samples, range(manifest.samples), out=stored)
    whole.tofile(path)
    return np.memmap(path, np.uint8, "r", shape=whole.shape)


def cpu_seconds(contestants: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """CPU-microseconds per unit of each contestant in each round; one warm-up round is not counted.

    ``NAME user`` leaves out system time; ``memory`` is the resident memory after each round, MiB.
    """
    spent: dict[str, list[float]] = {name: [] for name in (*contestants, *map(USER.format, contestants), "memory")}
    for counted in [False] + [True] * rounds:
        for name, job in contestants.items():
            started = resource.getrusage(resource.RUSAGE_SELF)
            units = job()
            ended = resource.getrusage(resource.RUSAGE_SELF)
            if counted:
                user, system = ended.ru_utime - started.ru_utime, ended.ru_stime - started.ru_stime
                spent[name].append((user + system) / units * 1e6)
                spent[USER.format(name)].append(user / units * 1e6)
        if counted:
            spent["memory"].append(psutil.Process().memory_info().rss / 2**20)
    return spent


def over_parts(spent: Mapping[str, Sequence[float]], whole: str, parts: Sequence[str]) -> float:
    """Median over the rounds of the whole over the sum of its parts."""
    sums = [sum(each) for each in zip(*(spent[name] for name in parts), strict=True)]
    return round(statistics.median(a / b for a, b in zip(spent[whole], sums, strict=True)), 3)


def many_photos(target: Path, count: int) -> None:
    """``count`` names for the available photographs."""
    photos = sorted((DATA / "photos").glob("*"))
    target.mkdir()
    for number in range(count):
        photo = photos[number % len(photos)]
        shutil.copyfile(photo, target / f"{number:05d}{photo.suffix}")


def sustained(spent: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Views per second of 16 cores, and CPU-microseconds per view of each part."""
    parts = {name: round(middle(spent[name])) for name in PARTS}
    whole = middle(spent["whole"])
    return {
        "views_a_second": round(MODELLED_CORES * 1e6 / whole),
        "stream_limit": round(GPU_STREAMS * 1e6 / middle(spent["sha256"])),
        "cpu_us_a_view": {**parts, "everything else": round(whole - sum(parts.values()))},
        "memory_growth_mib": round(spent["memory"][-1] - spent["memory"][0], 1),
    }


def middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    if not (DATA / "photos").is_dir():
        sys.exit(f"{DATA / 'photos'}: no such folder; set LOOKONCE_DATA_DIR to a folder that contains photos/")
    images, rounds, samples = (128, 3, 512) if options.quick else (512, 7, 2048)
    keep_freed_memory("cpu")  # page-locked memory is kept too
    work = Path(tempfile.mkdtemp(prefix="lookonce-host-", dir=os.environ.get("LOOKONCE_BENCH_DIR")))
    raw: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    try:
        many_photos(work / "images", images)
        for count in (1, 4):
            for precision in ("int8", "int4"):
                job = Extraction(work, work / "images", range(count), precision)
                names = {"whole": job.whole, "decode": job.decode_and_cut, "sha256": job.digest, "write": job.write}
                spent = cpu_seconds(names, rounds)
                label = f"extraction_cpu_over_parts_{count}_seed{'s' * (count > 1)}"
                label += "" if precision == "int8" else f"_{precision}"
                ratios[label] = over_parts(spent, "whole", PARTS)
                ratios[f"{label}_user"] = over_parts(spent, USER.format("whole"), [USER.format(one) for one in PARTS])
                raw |= {f"{name} {count} seeds {precision}": spent[name] for name in spent if name != "memory"}
                raw[f"sustained {count} seeds {precision}"] = sustained(spent)
        training = Training(work, samples)
        spent = cpu_seconds({"training": training.whole, "bare gather": training.bare_gather}, rounds)
        ratios["training_cpu_over_gather"] = over_parts(spent, "training", ["bare gather"])
        raw |= {name: spent[name] for name in ("training", "bare gather")}
        raw["sustained training"] = {"samples_a_second": round(MODELLED_CORES * 1e6 / middle(spent["training"]))}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report("host", options, ratios, raw, "CPU us")
    for name, value in raw.items():
        if name.startswith("sustained"):
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
