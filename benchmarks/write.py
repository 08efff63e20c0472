"""Writing shards: our writer against a plain loop that appends and digests the same bytes, and against zarr-python.

    python benchmarks/write.py [--quick] [--json FILE]

The job: one shard of CLIP-B/16 shape at int8, in batches of 32 samples. Ratios are of bytes a second.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import alternate, arguments, ratio, report
from synthetic_cache import clip_manifest, random_batches, write_cache

from lookonce.storage_schemas.manifest import Manifest

BATCH = 32


def shard_bytes(manifest: Manifest) -> int:
    return sum(spec.sample_bytes for spec in manifest.arrays) * manifest.samples


def ours(work: Path, manifest: Manifest, batches: list[Any]) -> int:
    shutil.rmtree(work / "ours", ignore_errors=True)
    write_cache(work / "ours", manifest, batches)
    return shard_bytes(manifest)


def append_and_digest(work: Path, manifest: Manifest, batches: list[Any]) -> int:
    """The plain loop: one file per array, the same bytes appended, SHA-256 as they go, one fsync each at the end."""
    shutil.rmtree(work / "plain", ignore_errors=True)
    (work / "plain").mkdir()
    names = [spec.name for spec in manifest.arrays if spec.name not in ("key", "label")]
    files = {name: (work / "plain" / name).open("wb", buffering=0) for name in names}
    digests = {name: hashlib.sha256() for name in names}
    for _, values in batches:
        for name in names:
            data = memoryview(values[name]).cast("B")
            files[name].write(data)
            digests[name].update(data)
    for name in names:
        os.fsync(files[name].fileno())
        files[name].close()
        digests[name].hexdigest()
    return shard_bytes(manifest)


def zarr_python(work: Path, manifest: Manifest, batches: list[Any]) -> int:
    """Assigning whole batches to sharded arrays; a shard is only written once all its samples are there."""
    import zarr

    shutil.rmtree(work / "zarr", ignore_errors=True)
    group = zarr.open_group(work / "zarr", mode="w")
    for spec in manifest.arrays:
        if spec.name in ("key", "label"):
            continue
        shape = (manifest.samples, *spec.sample_shape)
        array = group.create_array(
            spec.name,
            shape=shape,
            dtype=spec.dtype,
            chunks=(1, *spec.sample_shape),
            compressors=None,
            shards=(manifest.shard_size, *spec.sample_shape),
        )
        for shard in range(manifest.shard_count):
            rows = manifest.shard_rows(shard)
            parts = [values[spec.name] for chosen, values in batches if chosen[0] in rows]
            array[rows.start : rows.stop] = np.concatenate(parts)
    return shard_bytes(manifest)


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    samples, rounds = (128, 3) if options.quick else (512, 5)
    manifest = clip_manifest(samples, min(samples, 256))
    batches = list(random_batches(manifest, BATCH))
    work = Path(tempfile.mkdtemp(prefix="lookonce-write-", dir=os.environ.get("LOOKONCE_BENCH_DIR")))
    try:
        rates = alternate(
            {
                "ours": functools.partial(ours, work, manifest, batches),
                "append_and_digest": functools.partial(append_and_digest, work, manifest, batches),
                "zarr_python": functools.partial(zarr_python, work, manifest, batches),
            },
            rounds,
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    ratios = {
        "write_over_append": ratio(rates, "ours", "append_and_digest"),
        "over_zarr_python": ratio(rates, "ours", "zarr_python"),
    }
    report("write", options, ratios, rates, "bytes/s")


if __name__ == "__main__":
    main()
