"""The cost of a million listed images for a driver: time to list, memory, and the fixed work per shard.

    python benchmarks/listing.py [--quick] [--json FILE]

Images of 68 bytes lie in a thousand class folders (LOOKONCE_BENCH_IMAGES names a folder that already has them) and, a
tenth as many, in ten tars. Each row is a separate process: it lists, and then, as a driver, makes the tasks, counts
them and pickles each as Ray would. Finally, almost empty shards of 1,024 samples are opened and committed, which gives
the fixed cost of a shard. A shard's work is 1,024 views through DeiT-Tiny, 18 ms each on a core.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import arguments, report
from synthetic_cache import clip_manifest

from lookonce.cache.write.create import create_cache, prepare_seed
from lookonce.cache.write.shard_writer import ShardWriter
from lookonce.shared.sources import open_source
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.arrays import cache_arrays
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import Manifest

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f6"
    "45400000000049454e44ae426082"
)
SHARD = 1024
SECONDS_A_VIEW = 0.018
LONG_AGO = 1_500_000_000


def make_folder(folder: Path, images: int) -> str:
    for group in range(1000):
        place = folder / f"n{group:08d}"
        place.mkdir(parents=True)
        for number in range(images // 1000):
            (place / f"n{group:08d}_{number}.png").write_bytes(PNG)
        os.utime(place, (LONG_AGO, LONG_AGO))
    os.utime(folder, (LONG_AGO, LONG_AGO))
    return str(folder)


def make_tars(folder: Path, images: int) -> str:
    folder.mkdir()
    for part in range(10):
        with tarfile.open(folder / f"{part}.tar", "w") as tar:
            for number in range(images // 10):
                for name, data in ((f"{part}{number:08d}.png", PNG), (f"{part}{number:08d}.cls", b"7")):
                    header = tarfile.TarInfo(name)
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
        os.utime(folder / f"{part}.tar", (LONG_AGO, LONG_AGO))
    return f"{folder}/{{0..9}}.tar"


def tiny_manifest(samples: int) -> Manifest:
    """Next to no bytes a sample: one patch, one layer of eight channels, no pixels."""
    manifest = clip_manifest(samples, SHARD)
    teacher = replace(manifest.recipe.teacher, width=8, blocks=(12,), input_size=16)
    recipe = replace(manifest.recipe, teacher=teacher, view=ViewRecipe(size=16).document())
    encoding = Encoding(precision="fp16", parameters={})
    return replace(
        manifest, recipe=recipe, encoding=encoding, arrays=cache_arrays(recipe, precision="fp16", store_pixels=False)
    )


def one_process(images: str, limit: int, *, drives: bool) -> None:
    """One row of the benchmark, printed."""
    started, cpu = time.perf_counter(), time.process_time()
    listing = open_source(images).listing()
    stored = listing.stored_at is not None
    listing = listing.head(limit)
    listed, listed_cpu = time.perf_counter() - started, time.process_time() - cpu
    measured = {
        "samples": len(listing),
        "reused": stored,
        "list_seconds": listed,
        "list_cpu_seconds": listed_cpu,
    }
    if drives:
        from lookonce.extract.prepare import remaining_tasks
        from lookonce.extract.progress.display import ExtractionProgress

        started, cpu = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory() as work:
            tasks = remaining_tasks(Path(work), tiny_manifest(len(listing)), (0,), listing)
            ExtractionProgress(tasks, tiny_manifest(len(listing)), show=False)
            pickled = sum(len(pickle.dumps(task)) for task in tasks)
        measured |= {
            "shards": len(tasks),
            "tasks_seconds": time.perf_counter() - started,
            "tasks_cpu_seconds": time.process_time() - cpu,
            "pickled_bytes": pickled,
        }
    measured["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(measured))


def row(images: str, limit: int, listings: Path, *, drives: bool = False) -> dict[str, Any]:
    command = [sys.executable, __file__, "--row", images, str(limit), *(["drives"] if drives else [])]
    environment = {**os.environ, "XDG_CACHE_HOME": str(listings)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def shard_costs(work: Path, shards: int) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds that opening and committing each of some shards took."""
    manifest = tiny_manifest(shards * SHARD)
    create_cache(work, manifest)
    prepare_seed(work, manifest, 0)
    specs = [spec for spec in manifest.arrays if spec.name not in ("key", "label")]
    values = {spec.name: np.zeros((SHARD, *spec.sample_shape), spec.numpy_dtype) for spec in specs}
    keys = [f"n00000000/n00000000_{number}.png" for number in range(SHARD)]
    wall, cpu = [], []
    for shard in range(shards):
        started, started_cpu = time.perf_counter(), time.process_time()
        with ShardWriter(work, manifest, seed=0, shard=shard, keys=keys, labels=[0] * SHARD) as writer:
            writer.append(list(manifest.shard_rows(shard)), values)
            writer.commit(statistics={}, versions={})
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
    return wall, cpu


def main() -> None:
    if sys.argv[1:2] == ["--row"]:
        one_process(sys.argv[2], int(sys.argv[3]), drives=sys.argv[4:] == ["drives"])
        return
    options = arguments(str(__doc__).splitlines()[0])
    images = 20_000 if options.quick else 1_000_000
    work = Path(tempfile.mkdtemp(prefix="lookonce-listing-", dir=os.environ.get("LOOKONCE_BENCH_DIR")))
    try:
        folder = os.environ.get("LOOKONCE_BENCH_IMAGES") or make_folder(work / "images", images)
        tars = make_tars(work / "tars", images // 10)
        rows = {
            "folder, first": row(folder, images, work / "xdg"),
            "folder, again, 1,000 of them": row(folder, 1000, work / "xdg"),
            "driver, again": row(folder, images, work / "xdg", drives=True),
            "driver, again, 1,000 of them": row(folder, 1000, work / "xdg", drives=True),
            "tars, first": row(tars, images, work / "xdg"),
            "tars, again": row(tars, images, work / "xdg"),
        }
        wall, cpu = shard_costs(work / "cache", 8 if options.quick else 64)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"\n{'':<30}{'samples':>10}{'list s':>9}{'cpu s':>8}{'tasks s':>9}{'cpu s':>8}{'peak MiB':>10}")
    for name, one in rows.items():
        tasks_cells = f"{one.get('tasks_seconds', 0):>9.2f}{one.get('tasks_cpu_seconds', 0):>8.2f}"
        print(
            f"{name:<30}{one['samples']:>10,}{one['list_seconds']:>9.2f}{one['list_cpu_seconds']:>8.2f}"
            f"{tasks_cells}{one['peak_mib']:>10.1f}"
        )
    first, first_few, again, few = (rows[name] for name in list(rows)[:4])
    work_of_shard, tasks = SHARD * SECONDS_A_VIEW, again["tasks_seconds"] / again["shards"]
    ratios = {
        "shard_overhead_share": (statistics.median(wall) + tasks) / work_of_shard,
        "shard_overhead_share_cpu": (statistics.median(cpu) + again["tasks_cpu_seconds"] / again["shards"])
        / work_of_shard,
        "listing_share_cpu": first["list_cpu_seconds"] / (first["samples"] * SECONDS_A_VIEW),
        "again_over_first": again["list_seconds"] / first["list_seconds"],
        "mib_above_1000_samples_listing": first["peak_mib"] - first_few["peak_mib"],
        "mib_above_1000_samples_driver": again["peak_mib"] - few["peak_mib"],
    }
    raw = {"shard_ms": [1e3 * one for one in wall], "shard_cpu_ms": [1e3 * one for one in cpu], "drivers": rows}
    report("listing", options, {name: round(value, 5) for name, value in ratios.items()}, raw, "ms a shard")


if __name__ == "__main__":
    main()
