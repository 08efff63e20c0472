"""push, pull and training from a URL against bare concurrent requests, at moto's S3 server on 127.0.0.1.

    python benchmarks/remote.py [--quick] [--json FILE]

The job: a cache of CLIP-B/16 shape at int8. The bare upload sends the files with obstore from as many threads, in parts
of the same size, and hashes nothing. The bare download reads them and hashes what comes; "written" also writes it to
files, without syncing them. "stream" reads all batches of an epoch from the URL, into an empty --cache-dir;
"download_read" is the bare download of the objects that this needs. "second epoch" reads later epochs, whose objects
are there, and "local" those of the cache's folder. Ratios are of bytes a second. The server takes most of the machine
in the transfers, so the table also has what a CPU-second of the client moves.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from harness import alternate, arguments, ratio, report
from obstore.store import S3Store
from synthetic_cache import clip_manifest, random_batches, write_cache

from lookonce.api import BatchConfig, CacheReader, PullConfig, PushConfig, pull_cache, push_cache
from lookonce.train.data.batch import Batch
from lookonce.train.data.caches.joined_caches import open_caches
from lookonce.train.data.prefetch import prefetched_batches
from lookonce.train.data.training_input import TrainingInput

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from s3_server import BUCKET, CREDENTIALS, s3_server

WORKERS = 8
PART = 8 << 20
BATCH = 64
LATER_EPOCHS = 20
"""Epochs of a round that are read from objects that are there; one is short."""
LATER_ROUNDS = 5


class Bench:
    """The contestants: each moves the whole cache once and returns its bytes."""

    def __init__(self, work: Path, cache: Path, samples: int, address: str) -> None:
        self.work, self.cache, self.samples, self.places = work, cache, samples, count()
        self.files = [path for path in sorted(cache.rglob("*")) if path.is_file() and path.name != ".lock"]
        self.bytes = sum(path.stat().st_size for path in self.files)
        day = datetime.timedelta(days=1)
        self.store = S3Store(BUCKET, endpoint=address, client_options={"allow_http": True, "timeout": day})
        self.cpu: dict[str, list[float]] = {}
        reader = CacheReader(cache)
        arrays = ("targets", "importance", "pixels", "key")
        shards = range(reader.manifest.shard_count)
        self.read = [cache / stored.path for shard in shards for stored in reader.objects(arrays, 0, shard)]
        """The files whose objects a run reads."""
        self.read_bytes = sum(path.stat().st_size for path in self.read)

    def named(self, name: str, job: Callable[[], None], count: int) -> Callable[[], int]:
        """The job, which moves so many bytes, with the CPU time of this process noted."""

        def run() -> int:
            began = time.process_time()
            job()
            self.cpu.setdefault(name, []).append(count / (time.process_time() - began))
            return count

        return run

    def push(self) -> None:
        place = f"push-{next(self.places)}"
        push_cache(PushConfig(cache=self.cache, url=f"s3://{BUCKET}/{place}", workers=WORKERS))
        self.forget(place)

    def upload(self) -> None:
        place = f"upload-{next(self.places)}"

        def send(path: Path) -> None:
            self.store.put(f"{place}/{path.relative_to(self.cache)}", path, chunk_size=PART, max_concurrency=3)

        with ThreadPoolExecutor(WORKERS) as threads:
            list(threads.map(send, self.files))
        self.forget(place)

    def pull(self) -> None:
        pull_cache(PullConfig(url=f"s3://{BUCKET}/whole", out=self.work / "out", workers=WORKERS))

    def download(self, files: list[Path], *, written: bool = False) -> None:
        def read(path: Path) -> None:
            hasher, out = hashlib.sha256(), self.work / "bare" / path.relative_to(self.cache)
            with contextlib.ExitStack() as files:
                out.parent.mkdir(parents=True, exist_ok=True)
                handle = files.enter_context(out.open("wb")) if written else None
                for chunk in self.store.get(f"whole/{path.relative_to(self.cache)}").stream(min_chunk_size=4 << 20):
                    hasher.update(chunk)
                    if handle is not None:
                        handle.write(chunk)

        with ThreadPoolExecutor(WORKERS) as threads:
            list(threads.map(read, files))

    def stream(self) -> None:
        for _ in self.batches(f"s3://{BUCKET}/whole", 1, cache_dir=self.work / "cold"):
            pass

    def batches(self, shards: str | Path, epochs: int, **remote: Any) -> Iterator[Batch]:
        """What train-student reads, without the student."""
        config = BatchConfig(shards=(shards,), epochs=epochs, batch_size=BATCH, **remote)
        caches = open_caches(config)
        with contextlib.closing(caches):
            read = TrainingInput.of(caches, config, target_norm="whiten")
            last = read.order.total_steps
            yield from prefetched_batches(read.batches, read.order, first=0, last=last, threads=config.workers)

    def later_epochs(self, shards: str | Path, **remote: Any) -> Callable[[], None]:
        """A job that reads the next epochs of a run; the first time, the first ones are among them."""
        batches = self.batches(shards, LATER_EPOCHS * (LATER_ROUNDS + 1), **remote)
        steps = LATER_EPOCHS * self.samples // BATCH

        def read() -> None:
            for _ in itertools.islice(batches, steps):
                pass

        return read

    def delete(self) -> None:
        """Delete what was fetched."""
        for name in ("out", "bare", "cold"):
            shutil.rmtree(self.work / name, ignore_errors=True)

    def forget(self, place: str) -> None:
        """Delete what was uploaded; moto keeps objects in memory."""
        self.store.delete([entry["path"] for page in self.store.list(prefix=place) for entry in page])


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    samples, rounds = (256, 3) if options.quick else (1024, 5)
    work = Path(tempfile.mkdtemp(prefix="lookonce-stores-", dir=os.environ.get("LOOKONCE_BENCH_DIR")))
    os.environ.update(CREDENTIALS)
    try:
        manifest = clip_manifest(samples, 64)
        write_cache(work / "cache", manifest, list(random_batches(manifest, 32, distinct=samples // 32)))
        with s3_server(work / "server.log") as address:
            os.environ["AWS_ENDPOINT_URL"] = address
            bench = Bench(work, work / "cache", samples, address)
            push_cache(PushConfig(cache=work / "cache", url=f"s3://{BUCKET}/whole"))
            jobs: dict[str, Callable[[], None]] = {
                "push": bench.push,
                "upload": bench.upload,
                "pull": bench.pull,
                "download": functools.partial(bench.download, bench.files),
                "download_written": functools.partial(bench.download, bench.files, written=True),
                "download_read": functools.partial(bench.download, bench.read),
                "stream": bench.stream,
            }
            counts = {"download_read": bench.read_bytes, "stream": bench.read_bytes}
            named = {name: bench.named(name, job, counts.get(name, bench.bytes)) for name, job in jobs.items()}
            rates = alternate(named, rounds, between=bench.delete)
            later: dict[str, Callable[[], None]] = {
                "second_epoch": bench.later_epochs(f"s3://{BUCKET}/whole", cache_dir=work / "objects"),
                "local": bench.later_epochs(work / "cache"),
            }
            count = LATER_EPOCHS * bench.read_bytes
            rates |= alternate({name: bench.named(name, job, count) for name, job in later.items()}, LATER_ROUNDS)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    ratios = {
        "stream_over_download": ratio(rates, "stream", "download_read"),
        "stream_over_download_written": ratio(rates, "stream", "download_written"),
        "second_epoch_over_local": ratio(rates, "second_epoch", "local"),
        "push_over_upload": ratio(rates, "push", "upload"),
        "pull_over_download": ratio(rates, "pull", "download"),
        "pull_over_download_written": ratio(rates, "pull", "download_written"),
    }
    cpu = {f"{name}, a CPU-second": values[1:] for name, values in bench.cpu.items()}
    report("remote", options, ratios, {**rates, **cpu}, "bytes/s")


if __name__ == "__main__":
    main()
