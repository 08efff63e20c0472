"""Extraction: images a second end to end against what its separately measured parts allow, and against peers.

    python benchmarks/extract.py [--quick] [--json FILE]

Real photographs (../shared/data, or LOOKONCE_DATA_DIR); DeiT-Tiny with its weights, and a ViT-B/16 with random ones.
The job: one view an image, last 5 blocks, int8, views stored, shards committed; loading and calibration do not count.

``efficiency`` is images a second over the rate that the parts allow: cores / (CPU-seconds an image of reading, decoding
and cutting + CPU-seconds an image of the bare forward). Each part is measured alone in the same round, in as many
threads as there are cores, by getrusage, the forward before the whole job and after it. On a machine with other work
the cores are those that this process had or could have had: its own CPU-seconds and the machine's idle ones in that
time, over the wall seconds; with nothing else running that is all of them. ``cpu_efficiency`` leaves out waiting: the
parts' CPU-seconds over those of the whole. Where others share the machine, ``extract_one_core.py`` says more.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from harness import arguments, report
from safetensors.torch import save_file

from lookonce.extract.config import ExtractionConfig
from lookonce.extract.image_views import image_views
from lookonce.extract.prepare import (
    Extraction,
    load_config_teacher,
    open_extraction,
    open_or_create,
    remaining_tasks,
)
from lookonce.extract.shard_extractor import ShardExtractor
from lookonce.extract.teachers import Teacher
from lookonce.storage_schemas.manifest import Manifest

DATA = Path(os.environ.get("LOOKONCE_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Spent:
    """What a job took."""

    images: int
    wall: float
    cpu: float
    """CPU-seconds of this process and of its children that have ended."""
    idle: float
    """CPU-seconds that the machine's cores stood idle meanwhile."""

    @property
    def cpu_per_image(self) -> float:
        return self.cpu / self.images

    @property
    def obtainable(self) -> float:
        """Images a CPU-second that was used or stood idle."""
        return self.images / (self.cpu + self.idle)


def measured(job: Callable[[], int]) -> Spent:
    started, cpu, idle = time.perf_counter(), _cpu_seconds(), _idle_seconds()
    images = job()
    return Spent(images, time.perf_counter() - started, _cpu_seconds() - cpu, max(0.0, _idle_seconds() - idle))


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _idle_seconds() -> float:
    """Idle time of all cores, waiting for disks included."""
    idle, waiting = Path("/proc/stat").read_text().split("\n", 1)[0].split()[4:6]
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")


class Bench:
    """One teacher over some photographs."""

    def __init__(
        self, teacher: str, weights: Path, images: Path, out: Path, *, batch: int, shard: int, threads: int = CORES
    ) -> None:
        self.config = ExtractionConfig(
            teacher=teacher, teacher_weights=weights, images=str(images), out=out, batch_size=batch, shard_size=shard,
            executor="inline", device="cpu", calibration_views=32,
        )  # fmt: skip
        self.extraction: Extraction = open_extraction(self.config)
        self.teacher: Teacher = load_config_teacher(self.config, torch.device("cpu"))
        self.manifest: Manifest = open_or_create(self.extraction, self.teacher)
        self.seed, self.threads = 0, threads

    def whole(self) -> int:
        """A new seed of the cache, as ``--executor inline`` and every Ray worker do it."""
        self.seed += 1
        tasks = remaining_tasks(self.config.out, self.manifest, [self.seed], self.extraction.listing)
        extractor = ShardExtractor(
            self.config.out, self.manifest, self.extraction.view, self.extraction.source, self.teacher,
            batch_size=self.config.batch_size, skip_bad_images=False, threads=self.threads,
        )  # fmt: skip
        for _ in extractor.extract(tasks):
            pass
        return self.manifest.samples

    def clean(self) -> None:
        """Remove what the last whole job wrote."""
        shutil.rmtree(self.config.out / f"seed-{self.seed:04d}", ignore_errors=True)

    def views(self) -> int:
        """Reading, decoding, drawing and cutting, nothing else."""
        source, recipe = self.extraction.source, self.extraction.view
        entries = list(self.extraction.listing.entries)
        with ThreadPoolExecutor(CORES) as threads:
            for _ in threads.map(lambda row: image_views(row, entries[row], source, recipe, [1]), range(len(entries))):
                pass
        return len(entries)

    def one_forward(self) -> int:
        """The bare forward of one batch, in this thread."""
        views = torch.randint(0, 256, (self.config.batch_size, 224, 224, 3), dtype=torch.uint8)
        with torch.inference_mode():
            self.teacher(views)
        return len(views)

    def forward(self) -> int:
        """The bare forward over as many views: blocks and importance, no normalisation of targets."""
        batch, samples = self.config.batch_size, self.manifest.samples
        views = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8)

        def look(count: int) -> None:
            with torch.inference_mode():
                self.teacher(views[:count])

        counts = [min(batch, samples - start) for start in range(0, samples, batch)]
        with ThreadPoolExecutor(CORES, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            for _ in threads.map(look, counts):
                pass
        return samples


def rounds_of(jobs: Mapping[str, Callable[[], int]], rounds: int, clean: Callable[[], None]) -> dict[str, list[Spent]]:
    """Every round runs every job; a first one, to warm up, is not counted. ``clean`` runs between jobs, untimed."""
    spent: dict[str, list[Spent]] = {name: [] for name in jobs}
    for counted in [False] + [True] * rounds:
        for name, job in jobs.items():
            one = measured(job)
            clean()
            if counted:
                spent[name].append(one)
    return spent


def by_round(spent: Mapping[str, Sequence[Spent]], name: str) -> tuple[list[float], list[float]]:
    """Efficiency and CPU efficiency of every round: its jobs follow one another, so that a slow moment hits all."""
    jobs = (spent[f"{name}: {job}"] for job in ("whole", "views alone", "forward alone", "forward again"))
    rounds = [
        (whole, views.cpu_per_image + (before.cpu_per_image + after.cpu_per_image) / 2)
        for whole, views, before, after in zip(*jobs, strict=True)
    ]
    return (
        [whole.obtainable * parts for whole, parts in rounds],
        [parts / whole.cpu_per_image for whole, parts in rounds],
    )


def efficiencies(spent: Mapping[str, Sequence[Spent]], name: str) -> dict[str, float]:
    of_all, of_cpu = (round(statistics.median(one), 3) for one in by_round(spent, name))
    return {f"efficiency_{name}": of_all, f"cpu_efficiency_{name}": of_cpu}


def faster(spent: Mapping[str, Sequence[Spent]], ours: str, theirs: str) -> float:
    """Median over rounds of how many times more images a second."""
    pairs = zip(spent[ours], spent[theirs], strict=True)
    return round(statistics.median((a.images / a.wall) / (b.images / b.wall) for a, b in pairs), 3)


def photographs(folder: Path, count: int) -> Path:
    """A folder of real photographs: those of ../shared/data/photos, then flowers."""
    folder.mkdir()
    found = [*sorted((DATA / "photos").glob("*.jpg")), *sorted((DATA / "flowers").rglob("*.jpg"))]
    for path in found[:count]:
        shutil.copy(path, folder / path.name)
    return folder


def random_vit_base(path: Path) -> Path:
    """Weights of a ViT-B/16 of the true architecture, drawn at random."""
    torch.manual_seed(0)
    save_file(timm.create_model("vit_base_patch16_224", num_classes=0).state_dict(), path)
    return path


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """Ray with as many CPUs as there are cores; its workers find ``extraction_peers``."""
    import ray
    import ray.data

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - its name; workers are nicer than this process otherwise
    folder = str(Path(__file__).resolve().parent)
    ray.init(num_cpus=CORES, include_dashboard=False, logging_level="ERROR", log_to_driver=False,
             runtime_env={"env_vars": {"PYTHONPATH": folder}})  # fmt: skip
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()


def run(options: argparse.Namespace, work: Path) -> dict[str, list[Spent]]:
    from extraction_peers import HookedTeacher, ray_data, script

    count, batch, base_count, base_batch = (64, 8, 16, 4) if options.quick else (512, 16, 48, 4)
    rounds, peer_rounds = (2, 2) if options.quick else (6, 3)
    weights = DATA / "deit_tiny_patch16_224.safetensors"
    images, few = photographs(work / "images", count), photographs(work / "few", base_count)
    tiny = Bench("deit-tiny", weights, images, work / "tiny", batch=batch, shard=count // 4)
    vit_base = random_vit_base(work / "base.safetensors")
    base = Bench("timm:vit_base_patch16_224", vit_base, few, work / "base", batch=base_batch, shard=base_count)
    written = work / "written"

    def clean() -> None:
        shutil.rmtree(written, ignore_errors=True)
        tiny.clean()
        base.clean()

    paths, hooked = sorted(images.iterdir()), HookedTeacher("deit_tiny_patch16_224", weights)
    spent = {}
    for name, bench in (("deit_tiny", tiny), ("vit_base", base)):
        jobs = {
            "views alone": bench.views, "forward alone": bench.forward, "whole": bench.whole,
            "forward again": bench.forward,
        }  # fmt: skip
        spent |= rounds_of({f"{name}: {job}": call for job, call in jobs.items()}, rounds, clean)
    architecture = "deit_tiny_patch16_224"
    with local_ray():
        peers = {
            "beside peers: whole": tiny.whole,
            "script": functools.partial(script, hooked, paths, batch, CORES, written),
            "ray_data": functools.partial(ray_data, architecture, weights, paths, batch, written),
        }
        return spent | rounds_of(peers, peer_rounds, clean)


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    if not DATA.is_dir():
        sys.exit(f"no photographs at {DATA}: set LOOKONCE_DATA_DIR")
    work = Path(tempfile.mkdtemp(prefix="lookonce-extract-", dir=os.environ.get("LOOKONCE_BENCH_DIR")))
    try:
        spent = run(options, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    ratios = {
        **efficiencies(spent, "deit_tiny"),
        **efficiencies(spent, "vit_base"),
        "over_script": faster(spent, "beside peers: whole", "script"),
        "over_ray_data": faster(spent, "beside peers: whole", "ray_data"),
    }
    raw: dict[str, Any] = {name: [one.images / one.wall for one in found] for name, found in spent.items()}
    milliseconds = {name: [1e3 * one.cpu_per_image for one in found] for name, found in spent.items() if ":" in name}
    raw |= {f"{name}, CPU ms/image": values for name, values in milliseconds.items()}
    raw |= {f"{name}, efficiency": by_round(spent, name)[0] for name in ("deit_tiny", "vit_base")}
    for name in ("deit_tiny", "vit_base"):
        raw[f"{name}: whole, idle share"] = [one.idle / one.wall / CORES for one in spent[f"{name}: whole"]]
    report("extract", options, ratios, raw, "images/s")


if __name__ == "__main__":
    main()
