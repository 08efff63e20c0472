"""Reading visible tokens: our reader against a bare memmap gather of the same bytes, and against other libraries.

    python benchmarks/read.py [--quick] [--json FILE]

The job: batches of 64 shuffled samples of CLIP-B/16 shape; of each, the class token and 58 of 196 patches, 5 layers of
768 channels, gathered into one array. Warm page cache unless said otherwise. Ratios are of samples a second.
"""

from __future__ import annotations

import functools
import gc
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import alternate, arguments, ratio, report
from numpy.typing import NDArray
from synthetic_cache import LAYERS, PATCHES, WIDTH, clip_manifest, write_cache

from lookonce.cache.read.reader import CacheReader

BATCH, VISIBLE = 64, 58
TOKENS = PATCHES + 1


class Job:
    """The samples and tokens to read, in order."""

    def __init__(self, samples: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.order = generator.permutation(samples)
        patches = np.sort(np.argsort(generator.random((samples, PATCHES)), axis=1)[:, :VISIBLE], axis=1)
        self.tokens = np.concatenate([np.zeros((samples, 1), np.int64), patches + 1], axis=1)

    def batches(self) -> list[NDArray[np.int64]]:
        return [self.order[start : start + BATCH] for start in range(0, len(self.order) - BATCH + 1, BATCH)]

    @property
    def units(self) -> int:
        return len(self.batches()) * BATCH


def ours(reader: CacheReader, job: Job, *, full: bool = False, announce: bool = False) -> int:
    spec = reader.manifest.array("targets")
    tokens = TOKENS if full else VISIBLE + 1
    out = np.empty((BATCH, tokens, *spec.sample_shape[1:]), spec.numpy_dtype)
    zeros, batches = np.zeros(BATCH, np.int64), job.batches()
    if announce:
        reader.prefetch(["targets"], zeros, batches[0])
    for position, rows in enumerate(batches):
        if announce and position + 1 < len(batches):
            reader.prefetch(["targets"], zeros, batches[position + 1])
        reader.read("targets", zeros, rows, None if full else job.tokens[rows], out=out)
    return job.units


def ours_klt(reader: CacheReader, job: Job) -> int:
    """Records of the visible patches, coarse parts and class tokens, as the trainer reads them; nothing is decoded."""
    zeros, batches = np.zeros(BATCH, np.int64), job.batches()
    for rows in batches:
        reader.read("targets", zeros, rows, job.tokens[rows][:, 1:] - 1)
        reader.read("coarse_targets", zeros, rows)
        reader.read("class_targets", zeros, rows)
    return job.units


def memmap(raw: NDArray[Any], job: Job, *, full: bool = False) -> int:
    """The ceiling: the same gather from one flat memory-mapped array, (sample, token, record bytes)."""
    tokens = TOKENS if full else VISIBLE + 1
    out = np.empty((BATCH, tokens, raw.shape[2]), raw.dtype)
    for rows in job.batches():
        for position, row in enumerate(rows):
            if full:
                out[position] = raw[row]
            else:
                np.take(raw[row], job.tokens[row], axis=0, out=out[position], mode="clip")
    return job.units


def zarr_python(root: Path, job: Job, limit: int) -> int:
    import zarr

    array: Any = zarr.open_group(root / "seed-0000", mode="r")["targets"]
    batches = job.batches()[:limit]
    for rows in batches:
        np.stack([np.asarray(array[int(row)])[job.tokens[row]] for row in rows])
    return len(batches) * BATCH


def tensorstore(root: Path, job: Job, limit: int) -> int:
    import tensorstore as ts  # pyright: ignore[reportMissingImports] - extra `benchmarks`

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(root / "seed-0000" / "targets") + "/"}}
    array = ts.open(spec, read=True).result()
    batches = job.batches()[:limit]
    for rows in batches:
        reads = [array[int(row)][job.tokens[row]].read() for row in rows]
        np.stack([read.result() for read in reads])
    return len(batches) * BATCH


def stock_webdataset(tar: Path, job: Job, limit: int) -> int:
    """Has no random access: streams and shuffles in a buffer, as its users do."""
    from webdataset.compat import WebDataset

    dataset: Any = WebDataset(str(tar), shardshuffle=False).shuffle(64).decode()
    stream = iter(dataset)
    done = 0
    while done < min(limit * BATCH, job.units):
        samples = [next(stream) for _ in range(BATCH)]
        np.stack([sample["targets.npy"][job.tokens[int(sample["__key__"])]] for sample in samples])
        done += BATCH
    return done


def by_index(dataset: Any, job: Job, limit: int, get: Callable[[Any], NDArray[Any]]) -> int:
    batches = job.batches()[:limit]
    for rows in batches:
        np.stack([get(dataset[int(row)])[job.tokens[row]] for row in rows])
    return len(batches) * BATCH


def write_plain_tar(path: Path, raw: NDArray[np.uint8]) -> None:
    from webdataset.writer import TarWriter

    with TarWriter(str(path), encoder=True) as sink:
        for row in range(len(raw)):
            sink.write({"__key__": f"{row:06d}", "targets.npy": raw[row].reshape(TOKENS, LAYERS, WIDTH)})


def _sample_for_litdata(raw_path: str, row: int) -> dict[str, Any]:
    import torch

    raw = np.load(raw_path, mmap_mode="r")
    return {"targets": torch.from_numpy(np.array(raw[row]))}


def litdata_dataset(folder: Path, raw_path: Path, samples: int) -> Any:
    import litdata  # pyright: ignore[reportMissingImports] - extra `benchmarks`

    litdata.optimize(
        fn=functools.partial(_sample_for_litdata, str(raw_path)),
        inputs=list(range(samples)),
        output_dir=str(folder),
        chunk_bytes="256MB",
        num_workers=1,
    )
    return litdata.StreamingDataset(str(folder))


def streaming_dataset(folder: Path, raw: NDArray[np.uint8]) -> Any:
    from streaming import MDSWriter, StreamingDataset  # pyright: ignore[reportMissingImports] - extra `benchmarks`

    with MDSWriter(out=str(folder), columns={"targets": f"ndarray:uint8:{TOKENS},{LAYERS * WIDTH}"}) as sink:
        for row in range(len(raw)):
            sink.write({"targets": np.ascontiguousarray(raw[row])})
    return StreamingDataset(local=str(folder), shuffle=False, batch_size=1)


def peers(work: Path, zarr_root: Path, raw: NDArray[np.uint8], raw_path: Path, job: Job, limit: int) -> dict[str, Any]:
    """Contestants that do the same job with other libraries; one that cannot be set up is reported and left out."""

    def plain_tar() -> Callable[[], int]:
        write_plain_tar(work / "plain.tar", raw)
        return functools.partial(stock_webdataset, work / "plain.tar", job, limit)

    def litdata() -> Callable[[], int]:
        dataset = litdata_dataset(work / "litdata", raw_path, len(raw))
        return functools.partial(by_index, dataset, job, limit, lambda sample: sample["targets"].numpy())

    def streaming() -> Callable[[], int]:
        dataset = streaming_dataset(work / "mds", raw)
        return functools.partial(by_index, dataset, job, limit, lambda sample: sample["targets"])

    def open_tensorstore() -> Callable[[], int]:
        importlib.import_module("tensorstore")
        return functools.partial(tensorstore, zarr_root, job, limit)

    set_ups = {
        "stock_webdataset": plain_tar,
        "zarr_python": lambda: functools.partial(zarr_python, zarr_root, job, limit),
        "tensorstore": open_tensorstore,
        "litdata": litdata,
        "streaming": streaming,
    }
    ready = {}
    for name, set_up in set_ups.items():
        try:
            ready[name] = set_up()
        except Exception as error:
            print(f"{name}: left out ({type(error).__name__}: {error})", file=sys.stderr)
    return ready


def _read_in_process(root: str, samples: int, seed: int, barrier: Any, results: Any, repeats: int) -> None:
    reader = CacheReader(Path(root), check="never")
    job = Job(samples, seed)
    ours(reader, job)
    barrier.wait()
    started = time.perf_counter()
    for _ in range(repeats):
        ours(reader, job)
    results.put(job.units * repeats / (time.perf_counter() - started))


def processes_rate(root: Path, samples: int, processes: int, repeats: int) -> float:
    """Samples per second of this many processes together, each reading the whole cache in its own order."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=_read_in_process, args=(str(root), samples, seed, barrier, results, repeats))
        for seed in range(processes)
    ]
    for worker in workers:
        worker.start()
    rates = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    return float(sum(rates))


def drop_from_page_cache(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def raw_copy(path: Path, reader: CacheReader) -> NDArray[np.uint8]:
    """The targets of a cache as one flat file, (sample, token, record bytes) uint8."""
    record = reader.manifest.array("targets").sample_bytes // TOKENS
    shape = (reader.manifest.samples, TOKENS, record)
    raw = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for row in range(shape[0]):
        raw[row] = reader.read("targets", [0], [row])[0].reshape(TOKENS, -1).view(np.uint8)
    raw.flush()
    return np.load(path, mmap_mode="r")


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    samples, rounds, limit = (256, 3, 1) if options.quick else (1024, 7, 4)
    work = Path(tempfile.mkdtemp(prefix="lookonce-read-", dir=os.environ.get("LOOKONCE_BENCH_DIR")))
    try:
        _run(options, work, samples, rounds, limit)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _warm(
    options: Any, work: Path, roots: dict[str, Path], job: Job, rounds: int, limit: int
) -> tuple[dict[str, list[float]], list[str]]:
    """Rates of everything that runs on a warm page cache, and the names of the peers; no map outlives it."""
    samples = len(job.order)
    readers = {}
    for label, precision, container in (
        ("zarr", "int8", "zarr"),
        ("webdataset", "int8", "webdataset"),
        ("zarr_fp16", "fp16", "zarr"),
        ("zarr_klt0.5", "klt0.5", "zarr"),
    ):
        roots[label] = work / label
        write_cache(roots[label], clip_manifest(samples, 128, precision=precision, container=container))
        readers[label] = CacheReader(roots[label], check="never")
    raw = raw_copy(work / "raw.npy", readers["zarr"])
    raw_fp16 = raw_copy(work / "raw16.npy", readers["zarr_fp16"])
    contestants: dict[str, Callable[[], int]] = {
        "memmap_visible": functools.partial(memmap, raw, job),
        "zarr_visible": functools.partial(ours, readers["zarr"], job),
        "webdataset_visible": functools.partial(ours, readers["webdataset"], job),
        "memmap_full": functools.partial(memmap, raw, job, full=True),
        "zarr_full": functools.partial(ours, readers["zarr"], job, full=True),
        "memmap_visible_fp16": functools.partial(memmap, raw_fp16, job),
        "zarr_visible_klt0.5": functools.partial(ours_klt, readers["zarr_klt0.5"], job),
        "zarr_visible_fp16": functools.partial(ours, readers["zarr_fp16"], job),
    }
    rates = alternate(contestants, rounds)
    others = peers(work, roots["zarr"], raw, work / "raw.npy", job, limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beside = alternate({**others, "zarr_beside_peers": contestants["zarr_visible"]}, rounds)
    rates.update({f"peer_{name}": values for name, values in beside.items()})
    repeats = 2 if options.quick else 8
    pairs = [(processes_rate(roots["zarr"], samples, n, repeats)) for _ in range(2) for n in (1, 2)]
    rates["one_process"], rates["two_processes"] = pairs[0::2], pairs[1::2]
    return rates, list(others)


def _cold(work: Path, roots: dict[str, Path], job: Job, rounds: int) -> dict[str, list[float]]:
    """Rates from disk, of a quarter of the samples: the kernel reads on into others, which a real run needs much later.

    The kernel keeps pages that are mapped, so each contestant is opened anew. Opening, once per run, is not timed.
    """
    job.order = job.order[: len(job.order) // 4]

    def opened(label: str, readahead: Any = "none") -> CacheReader:
        return CacheReader(roots[label], check="never", readahead=readahead)

    contestants: dict[str, Callable[[], Callable[[], int]]] = {
        "cold_zarr": lambda: functools.partial(ours, opened("zarr"), job),
        "cold_zarr_klt0.5": lambda: functools.partial(ours_klt, opened("zarr_klt0.5"), job),
        "cold_zarr_prefetch": lambda: functools.partial(ours, opened("zarr", "auto"), job, announce=True),
        "cold_zarr_advice": lambda: functools.partial(ours, opened("zarr", "advice"), job, announce=True),
        "cold_memmap": lambda: functools.partial(memmap, np.load(work / "raw.npy", mmap_mode="r"), job),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, open_contestant in contestants.items():
            contestant = open_contestant()
            drop_from_page_cache(work)
            rates[name].append(_timed(contestant))
            del contestant
    return rates


def _run(options: Any, work: Path, samples: int, rounds: int, limit: int) -> None:
    job, roots = Job(samples), dict[str, Path]()
    rates, others = _warm(options, work, roots, job, rounds, limit)
    gc.collect()
    rates.update(_cold(work, roots, Job(samples), 2 if options.quick else 3))
    ratios = {
        "zarr_visible_over_memmap": ratio(rates, "zarr_visible", "memmap_visible"),
        "webdataset_visible_over_memmap": ratio(rates, "webdataset_visible", "memmap_visible"),
        "full_over_memmap": ratio(rates, "zarr_full", "memmap_full"),
        "fp16_visible_over_memmap": ratio(rates, "zarr_visible_fp16", "memmap_visible_fp16"),
        "klt0.5_over_int8": ratio(rates, "zarr_visible_klt0.5", "zarr_visible"),
        "cold_klt0.5_over_int8": ratio(rates, "cold_zarr_klt0.5", "cold_zarr"),
        **{f"over_{name}": ratio(rates, "peer_zarr_beside_peers", f"peer_{name}") for name in others},
        "two_processes_over_one": ratio(rates, "two_processes", "one_process"),
        "cold_over_cold_memmap": ratio(rates, "cold_zarr_prefetch", "cold_memmap"),
        "cold_prefetch_over_none": ratio(rates, "cold_zarr_prefetch", "cold_zarr"),
        "cold_advice_over_none": ratio(rates, "cold_zarr_advice", "cold_zarr"),
    }
    report("read", options, ratios, rates, "samples/s")


def _timed(job: Callable[[], int]) -> float:
    started = time.perf_counter()
    return job() / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
