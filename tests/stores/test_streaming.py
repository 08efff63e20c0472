"""Training from a URL: the losses of the local cache to the last bit, each object fetched once, room, bad weather."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import machine_error_of_child
from s3_server import Fault, Proxy
from web_servers import web_server

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.remote_caches import RemoteOptions
from lookonce.shared.errors import (
    CacheError,
    IncompleteCacheError,
    IntegrityError,
    Interrupted,
    StorageError,
    StoreError,
    UsageError,
)
from lookonce.storage_schemas.manifest import Manifest
from lookonce.stores.push import PushConfig, push_cache
from lookonce.stores.streaming import object_folder
from lookonce.stores.streaming.object_folder import ObjectFolder
from lookonce.stores.streaming.remote_caches import StreamedCaches
from lookonce.stores.transport.open_store import open_store
from lookonce.stores.transport.urls import parse_url
from lookonce.train.batch_config import BatchConfig
from lookonce.train.cached_targets import CachedTargets
from lookonce.train.config import TrainingConfig
from lookonce.train.data.prefetch import prefetched_batches
from lookonce.train.model.alignment_config import AlignmentConfig
from lookonce.train.run import train_student
from lookonce.train.setup import set_up

PATIENCE = 6.0
SHORT = 1.5
"""Seconds of patience where it is known to run out."""
RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 4,
    "batch_size": 4,
    "base_lr": 0.05,
    "log_steps": 1,
    "device": "cpu",
    "drop_path": 0.0,
}


def pushed(cache: Path, url: str) -> Path:
    push_cache(PushConfig(cache=cache, url=url, patience=PATIENCE))
    return cache


def config(shards: Any, run: Path, **changes: Any) -> TrainingConfig:
    given = shards if isinstance(shards, tuple) else (shards,)
    remote = {"patience": PATIENCE} if any("://" in str(one) for one in given) else {}
    return TrainingConfig(shards=given, out=run, **{**RECIPE, **remote, **changes})


def train(shards: Any, run: Path, **changes: Any) -> list[float]:
    train_student(config(shards, run, **changes), show_progress=False)
    return losses(run)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def fetched(proxy: Proxy) -> Counter[str]:
    """How often each object of a seed was asked for."""
    paths = [path.partition("/cache/")[2] for method, path in proxy.requests if method == "GET"]
    return Counter(path for path in paths if path.startswith("seed-"))


KINDS: dict[str, dict[str, Any]] = {
    "zarr": {"holes": (2, 5)},
    "webdataset": {"container": "webdataset"},
    "klt": {"precision": "klt2"},
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_are_those_of_the_folder(
    training_cache: Callable[..., Path], url: str, proxy: Proxy, tmp_path: Path, kind: str, workers: int
) -> None:
    cache = pushed(training_cache(**KINDS[kind]), url)
    expected = train(cache, tmp_path / "local", workers=workers)
    proxy.requests.clear()
    assert train(url, tmp_path / "run", workers=workers, cache_dir=tmp_path / "objects") == expected
    assert set(fetched(proxy).values()) == {1}, "each object once, for both epochs that read it"
    assert not list((tmp_path / "objects" / "leases").iterdir())
    proxy.requests.clear()
    assert train(url, tmp_path / "again", workers=workers, cache_dir=tmp_path / "objects") == expected
    assert not fetched(proxy)


def views(manifest: Manifest, seed: int) -> dict[str, Any]:
    """The same in caches of all teachers."""
    generator, recipe = np.random.default_rng(seed), manifest.recipe
    shape = (manifest.samples, recipe.patches, recipe.patch_size**2 * 3)
    return {
        "pixels": generator.integers(0, 256, shape, dtype=np.uint8),
        "pixel_digest": generator.integers(0, 256, (manifest.samples, 16), dtype=np.uint8),
    }


def test_caches_of_several_teachers_at_urls_and_in_folders(
    training_cache: Callable[..., Path], url: str, proxy: Proxy, tmp_path: Path
) -> None:
    one = pushed(training_cache("one", make_arrays=views), f"{url}-one/cache")
    two = pushed(training_cache("two", make_arrays=views, width=10, layers=3, shard_size=3), f"{url}-two/cache")
    expected = train((one, two), tmp_path / "local")
    for number, shards in enumerate([(f"{url}-one/cache", f"{url}-two/cache"), (one, f"{url}-two/cache")]):
        proxy.requests.clear()
        folder = tmp_path / f"objects-{number}"
        assert train(shards, tmp_path / f"run-{number}", cache_dir=folder) == expected
        content = list(folder.glob("objects/*/*"))
        assert sum("/cache/seed-" in path for method, path in proxy.requests if method == "GET") == len(content)


def test_a_small_folder_serves_a_block_shuffle(
    training_cache: Callable[..., Path], url: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects come and go, no more of them lie there than the limit allows, and the losses are the same."""
    cache = pushed(training_cache(samples=40, shard_size=4), url)
    whole = sum(stored.bytes for receipt in receipts(cache) for stored in receipt.objects)
    block: dict[str, Any] = {"shuffle": "block", "shuffle_shards": 2, "epochs": 3, "workers": 1}
    expected = train(cache, tmp_path / "local", **block)
    folder, limit = tmp_path / "objects", whole // 2
    sizes = list[int]()
    share = ObjectFolder.share

    def shared(self: ObjectFolder, digest: str) -> None:
        share(self, digest)
        sizes.append(sum(path.stat().st_size for path in folder.glob("objects/*/*")))

    monkeypatch.setattr(ObjectFolder, "share", shared)
    proxy.requests.clear()
    assert train(url, tmp_path / "run", cache_dir=folder, cache_limit=str(limit), **block) == expected
    assert limit // 2 < max(sizes) <= limit
    again = fetched(proxy)
    assert max(again.values()) == 2, "what epoch three reads was evicted in epoch two"
    assert not list((folder / "leases").iterdir())


def receipts(cache: Path) -> list[Any]:
    reader = CacheReader(cache)
    return [receipt for seed in reader.seeds for receipt in reader.receipts(seed)]


def test_what_does_not_fit_is_refused_before_the_first_step(
    training_cache: Callable[..., Path], url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    pushed(training_cache(samples=40, shard_size=4), url)
    folder = tmp_path / "objects"
    with pytest.raises(UsageError, match=r"--shuffle global reads .* --cache-limit is 300 kB: give --shuffle block"):
        train(url, tmp_path / "run", cache_dir=folder, cache_limit="300kB")
    said = capsys.readouterr().err
    assert f"{url}: this run reads " in said
    assert f", of which {folder} has 0 B; --cache-limit is 300 kB" in said
    block: dict[str, Any] = {"shuffle": "block", "shuffle_shards": 2, "cache_dir": folder}
    with pytest.raises(UsageError, match=r"--shuffle-shards 2 needs .* at the same time, and --cache-limit is 50 kB"):
        train(url, tmp_path / "run", cache_limit="50 kB", **block)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(object_folder.shutil, "disk_usage", lambda path: usage._replace(free=20_000))
    with pytest.raises(StorageError, match=r"--shuffle-shards 2 needs .*, and the disk of .* has room for .* kB: give"):
        train(url, tmp_path / "run", **block)
    assert not list(folder.glob("objects/*/*seed*"))


def test_batches_for_your_own_trainer(training_cache: Callable[..., Path], url: str, tmp_path: Path) -> None:
    cache = pushed(training_cache(), url)

    def batches(shards: Any, **more: Any) -> CachedTargets:
        batch_config = BatchConfig(shards=shards, batch_size=4, epochs=4, **more)
        return CachedTargets(batch_config, alignment=AlignmentConfig(layer_weights="top2"))

    local = list(batches(cache))
    remote: dict[str, Any] = {"cache_dir": tmp_path / "objects", "patience": PATIENCE}
    streamed = batches(url, **remote)
    assert streamed.keys(2) == batches(cache).keys(2)
    for mine, theirs in zip(streamed, local, strict=True):
        assert torch.equal(mine["visible_pixels"], theirs["visible_pixels"])
        assert torch.equal(mine["targets"][0], theirs["targets"][0])
    later = batches(Path(url), **remote)
    later.load_state_dict({**streamed.state_dict(), "step": 7})
    assert torch.equal(next(iter(later))["targets"][0], local[7]["targets"][0])
    reader = streamed._input.caches.first
    assert torch.equal(*(torch.from_numpy(one.read("targets", [0], [1])) for one in (reader, pickled(reader))))


def pickled(reader: CacheReader) -> CacheReader:
    copy: CacheReader = pickle.loads(pickle.dumps(reader))
    return copy


def test_a_run_may_go_on_from_elsewhere(training_cache: Callable[..., Path], url: str, tmp_path: Path) -> None:
    cache = pushed(training_cache(), url)
    expected = train(cache, tmp_path / "local")
    remote = {"cache_dir": tmp_path / "objects"}
    for step, shards in enumerate([url, cache, url, url], start=1):
        found = train(shards, tmp_path / "run", **(remote if shards == url else {}), max_steps=3 * step)
    assert found == expected


def test_a_web_server_serves_training(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = training_cache("served/cache")
    expected = train(cache, tmp_path / "local", seeds="0")
    with web_server(cache.parent) as address:
        url, folder = f"{address}/cache", tmp_path / "objects"
        assert train(url, tmp_path / "run", cache_dir=folder, seeds="0") == expected
        (cache / "receipts/seed-0000/shard-00001.json").unlink()
        with pytest.raises(IncompleteCacheError, match=f"^{url}: seed 0 is not complete there"):
            train(url, tmp_path / "again", cache_dir=folder, seeds="0")
        with pytest.raises(CacheError, match=f"^{url}x: no manifest.json here"):
            train(f"{url}x", tmp_path / "again", cache_dir=folder)
    with pytest.raises(StoreError, match=r"no connection to the server; nothing has moved for 2 s"):
        train(url, tmp_path / "again", cache_dir=folder, patience=SHORT)


PROGRAM = """
import sys
from lookonce.api import AlignmentConfig, BatchConfig, CachedTargets
config = BatchConfig(shards=sys.argv[1], cache_dir=sys.argv[2], batch_size=4, epochs=9, patience=100.0)
batches = iter(CachedTargets(config, alignment=AlignmentConfig(layer_weights="top2")))
print(next(batches)["step"])
if sys.argv[3] == "raise":
    raise SystemExit(3)
"""


@pytest.mark.parametrize(("end", "code"), [("return", 0), ("raise", 3)])
def test_a_program_that_ends_in_the_middle_ends(
    training_cache: Callable[..., Path], url: str, proxy: Proxy, tmp_path: Path, end: str, code: int
) -> None:
    """Its own trainer stops after one batch, while what later epochs need is being fetched."""
    pushed(training_cache(), url)
    proxy.faults = [Fault(kind="status", status=503, path="seed-0001/targets")]
    began = time.monotonic()
    command = [sys.executable, "-c", PROGRAM, url, str(tmp_path / "objects"), end]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (ended.returncode, ended.stdout) == (code, "0\n"), ended.stderr
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - began < 60, "it has not waited for as long as the store's patience"
    assert not list((tmp_path / "objects" / "leases").iterdir())


def started(shards: object, run: Path, processes: int = 1, **options: Any) -> subprocess.Popen[str]:
    flags = {**RECIPE, "patience": PATIENCE, **options}
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--rdzv-backend=c10d"]
    return subprocess.Popen(
        [
            sys.executable,
            *([*launcher, "--rdzv-endpoint=localhost:0"] if processes > 1 else []),
            str(Path(sys.executable).with_name("train-student")),
            f"--shards={shards}",
            f"--out={run}",
            *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items()),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_processes_of_a_run_share_what_they_fetch(
    training_cache: Callable[..., Path], url: str, proxy: Proxy, tmp_path: Path
) -> None:
    cache = pushed(training_cache(), url)
    expected = train(cache, tmp_path / "local")
    proxy.requests.clear()
    run = started(url, tmp_path / "run", processes=2, cache_dir=tmp_path / "objects")
    said = run.communicate(timeout=240)[1]
    assert run.returncode == 0, said
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=2e-5)
    assert set(fetched(proxy).values()) == {1}
    assert said.count("this run reads") == 1


def test_a_killed_run_goes_on_and_leaves_nothing_behind(
    training_cache: Callable[..., Path], url: str, proxy: Proxy, tmp_path: Path
) -> None:
    """The links of the dead process go when another one needs room; what it was fetching never appears."""
    cache = pushed(training_cache(seeds=(0,)), url)
    expected, folder = train(cache, tmp_path / "local"), tmp_path / "objects"
    proxy.faults = [Fault(kind="half", path="targets/c/1/")]
    run = started(url, tmp_path / "run", cache_dir=folder, patience=100)
    until(lambda: list(folder.glob("leases/*/*.tmp-*")) or run.poll() is not None)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    (dead,) = (folder / "leases").iterdir()
    assert list(dead.iterdir())
    proxy.faults = []
    assert train(url, tmp_path / "run", cache_dir=folder) == expected
    assert not dead.exists()
    assert not list((folder / "leases").iterdir())
    assert all(path.name in digests(cache) for path in folder.glob("objects/*/*"))


def until(condition: Callable[[], Any], patience: float = 120) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def digests(cache: Path) -> set[str]:
    return {stored.digest.rpartition(":")[2] for receipt in receipts(cache) for stored in receipt.objects}


def test_what_a_living_process_needs_is_not_evicted(tmp_path: Path) -> None:
    """Of objects that nobody holds, the one that was not used for the longest time goes first."""
    mine, yours = (ObjectFolder(tmp_path, 1000) for _ in range(2))
    for number in range(10):
        digest = f"sha256:{number:064x}"
        assert mine.make_room(100, must=False)
        mine.path(digest).write_bytes(bytes(100))
        mine.share(digest)
        mine.end_reservation(100)
        os.utime(mine.path(digest), (1000 + number, 1000 + number))
    assert not yours.make_room(1, must=False), "all are held"
    assert yours.take(f"sha256:{3:064x}", 100)
    for number in (2, 3, 5, 8):
        (mine.path(f"sha256:{number:064x}")).unlink()
    assert yours.make_room(100, must=False)
    left = {int(path.name, 16) for path in tmp_path.glob("objects/*/*")}
    assert left == {0, 1, 3, 4, 5, 6, 7, 8, 9}, "2 is the oldest that nobody holds"
    assert not mine.make_room(300, must=False), "5 and 8 are no longer held, and 100 bytes are reserved"
    assert len(list(tmp_path.glob("objects/*/*"))) == 9, "nothing is evicted in vain"
    yours.end_reservation(100)
    mine.close()
    assert yours.make_room(900, must=False)
    assert {int(path.name, 16) for path in tmp_path.glob("objects/*/*")} == {3}
    yours.close()


def test_a_damaged_object_in_the_folder_is_fetched_again(
    training_cache: Callable[..., Path], url: str, proxy: Proxy, tmp_path: Path
) -> None:
    cache, folder = pushed(training_cache(seeds=(0,)), url), tmp_path / "objects"
    expected = train(url, tmp_path / "run", cache_dir=folder)
    largest = sorted(folder.glob("objects/*/*"), key=lambda path: path.stat().st_size)[-2:]
    content = bytearray(largest[0].read_bytes())
    content[7] ^= 1
    largest[0].write_bytes(content)
    os.truncate(largest[1], 100)
    proxy.requests.clear()
    assert train(url, tmp_path / "again", cache_dir=folder) == expected == train(cache, tmp_path / "local")
    assert sum(fetched(proxy).values()) == 2
    assert {path.name for path in largest} <= digests(cache)


LASTING = {
    "denied": (Fault(kind="status", status=403), StoreError, r"targets/c/1/.*: access is denied \(403\)"),
    "expired": (
        Fault(kind="status", status=400, body="<Error><Code>ExpiredToken</Code></Error>"),
        StoreError,
        r"targets/c/1/.*: the credentials have expired .* goes on where it stopped",
    ),
    "down": (
        Fault(kind="status", status=503),
        StoreError,
        r"targets/c/1/.*: the server answers 503; nothing has moved for 2 s: .* \(--patience waits longer\)",
    ),
    "silent": (Fault(kind="stall"), StoreError, r"targets/c/1/.*: the server does not answer in time; nothing"),
    "other bytes": (Fault(kind="flip"), IntegrityError, r"targets/c/1/.*: the digest of its bytes is .* replaced or"),
    "gone": (Fault(kind="status", status=404), IntegrityError, r"targets/c/1/.*: there is no such object"),
}


@pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.slow)])  # quick: the same with threads
@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_ends_the_run_with_a_sentence_that_names_the_object(
    training_cache: Callable[..., Path], url: str, proxy: Proxy, tmp_path: Path, name: str, workers: int
) -> None:
    """In the middle of an epoch; a checkpoint is written, and the run goes on when the fault is over."""
    cache = pushed(training_cache(samples=24, seeds=(0,)), url)
    block: dict[str, Any] = {"shuffle": "block", "shuffle_shards": 1, "workers": workers, "epochs": 2}
    expected = train(cache, tmp_path / "local", **block)
    fault, kind, sentence = LASTING[name]
    proxy.faults = [Fault(**{**vars(fault), "seen": 0, "path": "targets/c/1/"})]
    began, remote = time.monotonic(), {"cache_dir": tmp_path / "objects"}
    with pytest.raises(kind, match=f"^{url}/seed-0000/{sentence}"):
        train(url, tmp_path / "run", **block, **remote, patience=SHORT)
    assert time.monotonic() - began < 40 * SHORT
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lookonce-ahead")]
    proxy.faults = []
    assert train(url, tmp_path / "run", **block, **remote) == expected


def test_what_passes_is_repeated(training_cache: Callable[..., Path], url: str, proxy: Proxy, tmp_path: Path) -> None:
    cache = pushed(training_cache(), url)
    proxy.faults = [
        Fault(kind="status", status=503, path="/seed-", times=5),
        Fault(kind="cut", path="/seed-", times=4, after=2),
        Fault(kind="flip", path="pixels/c/1", times=1),
        Fault(kind="half", path="targets/c/0", times=1),
    ]
    assert train(url, tmp_path / "run", cache_dir=tmp_path / "objects") == train(cache, tmp_path / "local")
    assert all(fault.seen for fault in proxy.faults)


def test_an_object_that_is_replaced_while_it_is_read(
    training_cache: Callable[..., Path], url: str, proxy: Proxy, tmp_path: Path
) -> None:
    pushed(training_cache(seeds=(0,), container="webdataset"), url)
    path, store = "seed-0000/shard-00001.tar", open_store(parse_url(url), PATIENCE)
    found = store.head(path)
    assert found is not None
    other = bytes(found.bytes)
    proxy.faults = [Fault(kind="replace", path=path, times=1, action=lambda: store.write(path, other, "sha256:0"))]
    with pytest.raises(IntegrityError, match=r"00001\.tar: the digest of its bytes is .* it was replaced or damaged"):
        train(url, tmp_path / "run", cache_dir=tmp_path / "objects")


def test_a_disk_that_fills_up_is_said(
    training_cache: Callable[..., Path], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = pushed(training_cache(samples=24, seeds=(0,)), url)
    block: dict[str, Any] = {"shuffle": "block", "shuffle_shards": 1, "cache_dir": tmp_path / "objects", "epochs": 1}
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(object_folder.shutil, "disk_usage", lambda path: usage._replace(free=100))
        patched.setattr(ObjectFolder, "room", 10**9)  # as it was when the run began
        with pytest.raises(StorageError, match=r"there is no room for fetched objects: .* needed next, and the disk"):
            train(url, tmp_path / "run", **block)
    local = {name: value for name, value in block.items() if name != "cache_dir"}
    assert train(url, tmp_path / "run", **block) == train(cache, tmp_path / "local", **local)


def test_a_run_that_ends_early_waits_for_nothing(
    training_cache: Callable[..., Path], url: str, proxy: Proxy, tmp_path: Path
) -> None:
    pushed(training_cache(seeds=(0,)), url)
    setup = set_up(config(url, tmp_path / "run", cache_dir=tmp_path / "objects", patience=100))
    proxy.faults = [Fault(kind="stall", path="targets/")]
    batches = prefetched_batches(setup.input.batches, setup.input.order, first=0, last=5, threads=2)
    ended = list[bool]()

    def read() -> None:
        with pytest.raises(Interrupted):
            next(batches)
        ended.append(True)

    waiting = threading.Thread(target=read)
    waiting.start()
    until(lambda: any("targets/" in path for _, path in proxy.requests))
    began = time.monotonic()
    setup.input.caches.close()
    waiting.join()
    assert ended
    batches.close()
    assert time.monotonic() - began < 10


def test_a_forked_process_says_so(training_cache: Callable[..., Path], url: str, tmp_path: Path) -> None:
    pushed(training_cache(seeds=(0,)), url)
    caches = StreamedCaches(RemoteOptions(cache_dir=tmp_path / "objects", patience=PATIENCE))
    reader = CacheReader(caches.files(url))
    said = machine_error_of_child(lambda: reader.read("targets", [0], [1]))
    assert "objects are fetched by another process" in said
    assert list((tmp_path / "objects" / "leases").iterdir()), "the child has not taken away its parent's"
    caches.close()
    with pytest.raises(UsageError, match="is read from a URL, and a folder is needed; pull it first"):
        _ = reader.root
