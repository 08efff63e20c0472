"""push and pull against bare concurrent requests for the same objects, at moto's S3 server on 127.0.0.1.

    python benchmarks/stores.py [--quick] [--json FILE]

The job: a cache of CLIP-B/16 shape at int8. The bare upload sends the files with obstore from as many threads, in parts
of the same size, and hashes nothing. The bare download reads them and hashes what comes; "written" also writes it to
files, without syncing them. Ratios are of bytes a second. The server takes most of the machine in all of them, so the
table also has what a CPU-second of the client moves.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from harness import alternate, arguments, end_with_parent, ratio, report
from obstore.store import S3Store
from synthetic_cache import clip_manifest, random_batches, write_cache

from lookonce.api import PullConfig, PushConfig, pull_cache, push_cache

WORKERS = 8
PART = 8 << 20
BUCKET = "bucket"


@contextlib.contextmanager
def server(work: Path) -> Generator[str, None, None]:
    """Address of an S3 server with an empty bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", address.rpartition(":")[2]]
    with (work / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=end_with_parent)  # noqa: PLW1509 - no thread yet
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=10).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


class Bench:
    """The contestants: each moves the whole cache once and returns its bytes."""

    def __init__(self, work: Path, cache: Path, address: str) -> None:
        self.work, self.cache, self.places = work, cache, count()
        self.files = [path for path in sorted(cache.rglob("*")) if path.is_file() and path.name != ".lock"]
        self.bytes = sum(path.stat().st_size for path in self.files)
        day = datetime.timedelta(days=1)
        self.store = S3Store(BUCKET, endpoint=address, client_options={"allow_http": True, "timeout": day})
        self.cpu: dict[str, list[float]] = {}

    def named(self, name: str, job: Callable[[], None]) -> Callable[[], int]:
        """The job, with the CPU time of this process noted."""

        def run() -> int:
            began = time.process_time()
            job()
            self.cpu.setdefault(name, []).append(self.bytes / (time.process_time() - began))
            return self.bytes

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
        shutil.rmtree(self.work / "out")

    def download(self, *, written: bool) -> None:
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
            list(threads.map(read, self.files))
        shutil.rmtree(self.work / "bare", ignore_errors=True)

    def forget(self, place: str) -> None:
        """Delete what was uploaded; moto keeps objects in memory."""
        self.store.delete([entry["path"] for page in self.store.list(prefix=place) for entry in page])


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    samples, rounds = (192, 3) if options.quick else (512, 5)
    work = Path(tempfile.mkdtemp(prefix="lookonce-stores-", dir=os.environ.get("LOOKONCE_BENCH_DIR")))
    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_REGION="us-east-1")
    try:
        manifest = clip_manifest(samples, 64)
        write_cache(work / "cache", manifest, list(random_batches(manifest, 32)))
        with server(work) as address:
            os.environ["AWS_ENDPOINT_URL"] = address
            bench = Bench(work, work / "cache", address)
            push_cache(PushConfig(cache=work / "cache", url=f"s3://{BUCKET}/whole"))
            jobs: dict[str, Callable[[], None]] = {
                "push": bench.push,
                "upload": bench.upload,
                "pull": bench.pull,
                "download": functools.partial(bench.download, written=False),
                "download_written": functools.partial(bench.download, written=True),
            }
            rates = alternate({name: bench.named(name, job) for name, job in jobs.items()}, rounds)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    ratios = {
        "push_over_upload": ratio(rates, "push", "upload"),
        "pull_over_download": ratio(rates, "pull", "download"),
        "pull_over_download_written": ratio(rates, "pull", "download_written"),
    }
    cpu = {f"{name}, a CPU-second": values[1:] for name, values in bench.cpu.items()}
    report("stores", options, ratios, {**rates, **cpu}, "bytes/s")


if __name__ == "__main__":
    main()
