"""A reader's memory grows with the number of shards by little, and more shards than open files are no matter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lookonce.cache.read.reader import CacheReader

PROGRAM = """
import sys, numpy as np
from pathlib import Path
from lookonce.cache.read.reader import CacheReader
reader = CacheReader(Path(sys.argv[1]))
rows = np.arange(reader.manifest.samples)
for name in ("targets", "importance"):
    for start in range(0, len(rows), 64):
        chosen = rows[start : start + 64]
        reader.read(name, np.zeros(len(chosen), np.int64), chosen)
pages = int(Path("/proc/self/statm").read_text().split()[1])
print(pages * __import__("resource").getpagesize())
"""


def resident_bytes(root: Path) -> int:
    ended = subprocess.run([sys.executable, "-c", PROGRAM, root], capture_output=True, text=True, check=True)
    return int(ended.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_resident_memory_of_10_and_1000_shards(make_manifest, fill_cache, tmp_path: Path, container: str) -> None:
    sizes = {}
    for shards in (10, 1000):
        manifest = make_manifest(samples=2 * shards, shard_size=2, container=container, store_pixels=False)
        fill_cache(tmp_path / str(shards), manifest)
        sizes[shards] = resident_bytes(tmp_path / str(shards))
    assert sizes[1000] - sizes[10] < 20_000_000, sizes


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_more_shards_than_open_files(make_manifest, fill_cache, tmp_path: Path, container: str) -> None:
    manifest = make_manifest(samples=90, shard_size=1, container=container, store_pixels=False)
    written = fill_cache(tmp_path / "c", manifest)[0]
    program = (
        "import resource, sys, numpy as np\nresource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))\n"
        "from pathlib import Path\nfrom lookonce.cache.read.reader import CacheReader\n"
        "reader = CacheReader(Path(sys.argv[1]))\nrows = list(range(90)) * 2\n"
        "np.save(sys.argv[2], np.stack([reader.read(n, [0] * 180, rows).reshape(180, -1)[:, :8].astype('f4') "
        "for n in ('targets', 'importance', 'target_mean')]))"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "c", tmp_path / "got.npy"], check=True)
    got = np.load(tmp_path / "got.npy")
    for name, values in zip(("targets", "importance", "target_mean"), got, strict=True):
        np.testing.assert_array_equal(values, np.tile(written[name].reshape(90, -1)[:, :8], (2, 1)))
    assert len(CacheReader(tmp_path / "c").receipts(0)) == 90
