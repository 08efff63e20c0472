"""ShardWriter: what it refuses, and that nothing counts or stays behind unless it was committed."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.cache.layout import CacheLayout, load_json
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.verification import verify_cache
from lookonce.cache.write.create import create_cache, prepare_seed, remove_temporary_files, seed_metadata
from lookonce.cache.write.shard_writer import ShardWriter
from lookonce.shared.errors import StorageError
from lookonce.shared.files.atomic import TEMPORARY_MARK
from lookonce.storage_schemas.manifest import Manifest


@pytest.fixture
def manifest(make_manifest) -> Manifest:
    return make_manifest(samples=4, shard_size=4)


@pytest.fixture
def root(manifest: Manifest, tmp_path: Path) -> Path:
    create_cache(tmp_path / "c", manifest)
    prepare_seed(tmp_path / "c", manifest, 0)
    return tmp_path / "c"


def open_writer(root: Path, manifest: Manifest, shard: int = 0) -> ShardWriter:
    rows = len(manifest.shard_rows(shard))
    keys = [f"{row}.jpg" for row in range(rows)]
    return ShardWriter(root, manifest, seed=0, shard=shard, keys=keys, labels=[-1] * rows)


def values(manifest: Manifest, rows: int, fill: int = 1) -> dict[str, np.ndarray]:
    named = [spec for spec in manifest.arrays if spec.name not in ("key", "label")]
    return {spec.name: np.full((rows, *spec.sample_shape), fill, spec.numpy_dtype) for spec in named}


def commit(writer: ShardWriter) -> Any:
    return writer.commit(statistics={}, versions={})


def objects_and_receipts(root: Path) -> list[str]:
    found = (path for path in root.rglob("*") if path.is_file() and path.name not in ("zarr.json", "manifest.json"))
    return sorted(path.relative_to(root).as_posix() for path in found)


@pytest.mark.parametrize("rows", [[], [1, 0], [1, 1], [4], [3, 4], [-1]])
def test_rows_out_of_order_or_of_another_shard_are_refused(root: Path, manifest: Manifest, rows: list[int]) -> None:
    with open_writer(root, manifest) as writer, pytest.raises(ValueError, match="do not continue shard 0 at row 0"):
        writer.append(rows, values(manifest, len(rows)))


def test_rows_before_those_appended_are_refused(root: Path, manifest: Manifest) -> None:
    with open_writer(root, manifest) as writer:
        writer.append([0, 2], values(manifest, 2))
        for rows in ([2], [1], [0, 3]):
            with pytest.raises(ValueError, match="at row 3"):
                writer.append(rows, values(manifest, len(rows)))


@pytest.mark.parametrize("name", ["targets", "importance", "pixels"])
def test_other_shapes_and_dtypes_are_refused(root: Path, manifest: Manifest, name: str) -> None:
    good = values(manifest, 2)
    for wrong in (good[name][:1], good[name][..., :-1], good[name].astype(np.float64), good[name][0]):
        with open_writer(root, manifest) as writer, pytest.raises(ValueError, match=f"array '{name}': got"):
            writer.append([0, 1], {**good, name: wrong})
    assert objects_and_receipts(root) == []


def test_keys_and_labels_must_cover_the_shard(root: Path, manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="shard 0 has 4 rows; got 3 keys and 4 labels"):
        ShardWriter(root, manifest, seed=0, shard=0, keys=["a"] * 3, labels=[0] * 4)


def test_leaving_without_commit_leaves_nothing(root: Path, manifest: Manifest) -> None:
    with open_writer(root, manifest) as writer:
        writer.append([0, 1, 2], values(manifest, 3))
        assert objects_and_receipts(root)
    assert objects_and_receipts(root) == []


def test_an_interrupt_leaves_nothing(root: Path, manifest: Manifest) -> None:
    def interrupted() -> None:
        with open_writer(root, manifest) as writer:
            writer.append([0], values(manifest, 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert objects_and_receipts(root) == []


def test_a_discarded_shard_leaves_the_committed_one_as_it_was(root: Path, manifest: Manifest) -> None:
    with open_writer(root, manifest) as writer:
        writer.append(range(4), values(manifest, 4))
        receipt = commit(writer)
    with open_writer(root, manifest) as writer:
        writer.append([0], values(manifest, 1, fill=7))
    assert CacheLayout(root).load_receipt(0, 0) == receipt
    assert verify_cache(root, full=True, workers=1).whole


def test_the_batches_samples_come_in_do_not_change_the_bytes(root: Path, manifest: Manifest) -> None:
    receipts = []
    for batches in ([[0, 1, 2, 3]], [[0], [1, 2], [3]]):
        with open_writer(root, manifest) as writer:
            for rows in batches:
                writer.append(rows, values(manifest, len(rows)))
            receipts.append(commit(writer))
    assert receipts[0] == receipts[1]


def test_holes_are_recorded_in_order_and_left_out(root: Path, manifest: Manifest) -> None:
    with open_writer(root, manifest) as writer:
        writer.leave_out(3, "truncated")
        writer.append([1, 2], values(manifest, 2))
        writer.leave_out(0, "no image")
        receipt = commit(writer)
    assert [(hole.sample, hole.key, hole.reason) for hole in receipt.holes] == [
        (0, "0.jpg", "no image"),
        (3, "3.jpg", "truncated"),
    ]
    assert CacheReader(root).rows(0).tolist() == [1, 2]
    assert verify_cache(root, full=True, workers=1).whole


class FullDisk:
    """A file on a disk that takes ``left`` more bytes."""

    def __init__(self, handle: Any, left: int) -> None:
        self._handle, self._left = handle, left

    def write(self, data: Any) -> int:
        if not self._left:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = data[: self._left]  # as the kernel does: what fits is taken, without an error
        self._left -= len(taken)
        return int(self._handle.write(taken))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


def write_shard(writer: ShardWriter, manifest: Manifest) -> None:
    for row in range(4):
        writer.append([row], values(manifest, 1))
    commit(writer)


@pytest.mark.parametrize("left", [0, 300, 4 * 204 + 1])
def test_a_full_disk_commits_nothing(root: Path, manifest: Manifest, left: int) -> None:
    with open_writer(root, manifest) as writer:
        file = writer._sink.files["targets"]
        file._handle = FullDisk(file._handle, left)
        with pytest.raises(StorageError, match="the disk is full; what was committed"):
            write_shard(writer, manifest)
    assert objects_and_receipts(root) == []
    with open_writer(root, manifest) as writer:
        write_shard(writer, manifest)
    assert verify_cache(root, full=True, workers=1).whole


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [100, 700, 4 * 204 + 1, 4 * 204 + 67])
def test_a_refusal_of_the_kernel_commits_nothing(make_manifest, tmp_path: Path, size: int) -> None:
    """``targets`` takes 4 x 204 bytes and an index of 68: at the last two sizes only the index does not fit."""
    manifest = make_manifest(samples=4, shard_size=4, store_pixels=False)
    refused = pytest.raises(StorageError, match="writing failed: File too large")
    with open_writer(tmp_path, manifest) as writer, largest_file(size), refused:
        write_shard(writer, manifest)
    assert objects_and_receipts(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(root: Path, manifest: Manifest) -> None:
    (root / "seed-0000/importance/c").write_text("a file where a folder must be")
    with pytest.raises(StorageError, match="writing failed"):
        open_writer(root, manifest)
    assert objects_and_receipts(root) == ["seed-0000/importance/c"]


def test_temporary_files_of_killed_writers_are_removed(root: Path, manifest: Manifest) -> None:
    killed = open_writer(root, manifest)
    killed.append([0], values(manifest, 1))
    left = len(objects_and_receipts(root))
    assert left == len(manifest.arrays)
    assert all(TEMPORARY_MARK in name for name in objects_and_receipts(root))
    assert remove_temporary_files(root) == left
    assert objects_and_receipts(root) == []
    killed.discard()


@pytest.mark.parametrize("content", [b"", b"{", b'{"shape": [1]}', b"\xff"])
def test_damaged_zarr_metadata_is_written_anew(root: Path, manifest: Manifest, content: bytes) -> None:
    for path, document in seed_metadata(root, manifest, 0).items():
        path.write_bytes(content)
        prepare_seed(root, manifest, 0)
        assert load_json(path) == document


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_every_object_is_on_disk_before_its_receipt(
    make_manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str
) -> None:
    """After a power cut a receipt must not name bytes that were never written."""
    manifest, synced = make_manifest(samples=4, shard_size=4, container=container), []
    create_cache(tmp_path, manifest)
    prepare_seed(tmp_path, manifest, 0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with open_writer(tmp_path, manifest) as writer:
        writer.append([0, 1, 2, 3], values(manifest, 4))
        receipt = commit(writer)
    layout = CacheLayout(tmp_path)
    receipt_file = layout.receipt_file(0, 0)
    at = synced.index(receipt_file.stat().st_ino)
    objects = [tmp_path / stored.path for stored in receipt.objects]
    assert objects
    for file in objects:
        assert {file.stat().st_ino, file.parent.stat().st_ino} <= set(synced[:at])
    assert receipt_file.parent.stat().st_ino in synced[at:]
