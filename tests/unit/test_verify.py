"""Every kind of damage is found and named; a whole cache gives no finding."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from lookonce.cache.containers import container_of
from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.findings import Finding, VerifyReport
from lookonce.cache.verify.verification import verify_cache
from lookonce.shared.errors import SchemaError, UsageError
from lookonce.shared.files.atomic import write_json
from lookonce.storage_schemas.problems import sealed

ARRAYS = ("targets", "target_mean", "target_std", "importance", "pixels", "pixel_digest", "view", "key", "label")


@pytest.fixture
def cache(make_manifest, fill_cache, tmp_path: Path) -> Path:
    """Seeds 0 and 2, three shards of 2, 2 and 1 samples, row 1 a hole."""
    fill_cache(tmp_path / "c", make_manifest(), seeds=(0, 2), holes=(1,))
    return tmp_path / "c"


def verify(root: Path, *, full: bool = False, **options: object) -> VerifyReport:
    report = verify_cache(root, full=full, workers=2, **options)  # type: ignore[arg-type]
    json.dumps(report.document())
    return report


def only(report: VerifyReport) -> Finding:
    assert len(report.findings) == 1, [str(finding) for finding in report.findings]
    return report.findings[0]


def objects(root: Path) -> Iterator[tuple[str, int, int, Path]]:
    layout = CacheLayout(root)
    manifest = layout.load_manifest()
    for shard in range(manifest.shard_count):
        for name, path in container_of(manifest).object_paths(manifest, 2, shard).items():
            yield name, 2, shard, root / path


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    """Change a document as a program would that knows the format: sealed again where it was."""
    document = json.loads(path.read_text())
    change(document)
    write_json(path, sealed(document) if "digest" in document else document)


@pytest.mark.parametrize("full", [False, True])
def test_a_whole_cache_gives_no_finding(cache: Path, full: bool) -> None:
    report = verify(cache, full=full)
    assert report.whole
    assert not report.notes
    assert (report.seeds, report.shards, report.objects) == ((0, 2), 6, 54)
    size = sum(path.stat().st_size for path in cache.glob("seed-*/*/c/**/*") if path.is_file())
    assert report.bytes == size
    assert report.digested == full


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {"store_pixels": False}, {"samples": 6, "shard_size": 3}])
def test_other_whole_caches_give_no_finding(make_manifest, fill_cache, tmp_path: Path, options: dict) -> None:
    fill_cache(tmp_path / "c", make_manifest(**options), holes=(0, 2))
    assert verify(tmp_path / "c", full=True).whole


def test_every_flipped_byte_is_named(cache: Path) -> None:
    for array, seed, shard, path in objects(cache):
        content = path.read_bytes()
        step = max(1, len(content) // 4)
        for position in {*range(0, len(content), step), len(content) - 1}:
            damaged = bytearray(content)
            damaged[position] ^= 0x41
            path.write_bytes(damaged)
            found = only(verify(cache, full=True, seeds=[2]))
            assert (found.array, found.seed, found.shard) == (array, seed, shard), position
            assert cache / found.path == path
            assert found.rows == (2 * shard, min(2 * shard + 1, 4))
        verify(cache)  # a damaged object never makes the quick checks raise
        path.write_bytes(content)
    assert verify(cache, full=True).whole


def test_a_flipped_byte_of_any_index_is_seen_without_digests(cache: Path) -> None:
    for array, seed, shard, path in objects(cache):
        if array in ("view", "key", "label"):
            continue
        content = path.read_bytes()
        index_start = len(content) - (2 * 16 + 4)
        for position in range(index_start, len(content), 9):
            damaged = bytearray(content)
            damaged[position] ^= 0x10
            path.write_bytes(damaged)
            found = only(verify(cache))
            assert (found.array, found.seed, found.shard) == (array, seed, shard)
            assert "index" in found.problem
        path.write_bytes(content)


@pytest.mark.parametrize("damage", ["truncate", "lengthen", "empty", "delete", "folder"])
def test_wrong_sizes_and_missing_files_are_seen_without_digests(cache: Path, damage: str) -> None:
    for array, seed, shard, path in objects(cache):
        content = path.read_bytes()
        if damage == "folder":
            path.unlink()
            path.mkdir()
        elif damage == "delete":
            path.unlink()
        else:
            path.write_bytes({"truncate": content[:-1], "lengthen": content + b"\0", "empty": b""}[damage])
        found = only(verify(cache, full=True))
        assert (found.array, found.seed, found.shard) == (array, seed, shard)
        assert verify(cache).findings == (found,)
        if damage == "folder":
            path.rmdir()
        path.write_bytes(content)


def test_an_object_that_became_empty_with_its_receipt_is_named(cache: Path) -> None:
    (cache / "seed-0000/targets/c/0/0/0/0").write_bytes(b"")
    edit_json(cache / "receipts/seed-0000/shard-00000.json", lambda document: document["objects"][0].update(bytes=0))
    assert "empty" in only(verify(cache)).problem


def test_a_zeroed_tail_is_seen_without_digests_where_there_is_an_index(cache: Path) -> None:
    for array, seed, shard, path in objects(cache):
        content = path.read_bytes()
        half = len(content) // 2
        zeroed = content[:half] + bytes(len(content) - half)
        if zeroed == content:  # labels of class 0, padding of the last shard
            continue
        path.write_bytes(zeroed)
        found = only(verify(cache, full=array in ("view", "key", "label")))
        assert (found.array, found.seed, found.shard) == (array, seed, shard)
        path.write_bytes(content)


def test_swapped_objects_are_both_named(cache: Path) -> None:
    for array in ARRAYS:
        paths = [path for name, _, shard, path in objects(cache) if name == array and shard in (1, 2)]
        other = cache / paths[0].relative_to(cache).as_posix().replace("seed-0002", "seed-0000")
        swap(other, paths[0])
        findings = verify(cache, full=True).findings
        if array in ("key", "label"):  # the same in both seeds
            assert not findings
        else:
            assert [(finding.array, finding.seed, finding.shard) for finding in findings] == [
                (array, 0, 1),
                (array, 2, 1),
            ]
        swap(other, paths[0])
        swap(*paths)
        findings = verify(cache, full=True).findings
        assert [(finding.array, finding.shard) for finding in findings] == [(array, 1), (array, 2)]
        swap(*paths)


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def test_missing_receipts_make_a_seed_incomplete_and_leave_strays(cache: Path) -> None:
    receipt = cache / "receipts/seed-0002/shard-00001.json"
    receipt.unlink()
    report = verify(cache)
    found = only(report)
    assert (found.path, found.seed, found.shard, found.rows) == ("receipts/seed-0002/shard-00001.json", 2, 1, (2, 3))
    assert [note.path for note in report.notes] == sorted(
        path.relative_to(cache).as_posix() for _, _, shard, path in objects(cache) if shard == 1
    )
    assert all("without a receipt" in note.remark for note in report.notes)
    assert verify(cache, seeds=[0]).whole
    shutil.rmtree(cache / "receipts/seed-0002")
    assert [finding.shard for finding in verify(cache).findings] == [0, 1, 2]


def test_a_seed_that_is_not_there_is_incomplete(cache: Path) -> None:
    findings = verify(cache, seeds=[7]).findings
    assert {finding.path for finding in findings} >= {"seed-0007/zarr.json", "receipts/seed-0007/shard-00002.json"}
    assert {finding.seed for finding in findings} == {7}


def test_temporary_and_foreign_files_are_notes(cache: Path) -> None:
    for name in ("seed-0000/targets/c/0/0/0/0.tmp-12", "receipts/seed-0000/notes.txt", "README", ".lock"):
        (cache / name).write_text("x")
    report = verify(cache, full=True)
    assert report.whole
    assert {note.path: note.remark for note in report.notes} == {
        "README": "not part of the cache",
        "receipts/seed-0000/notes.txt": "not part of the cache",
        "seed-0000/targets/c/0/0/0/0.tmp-12": "a temporary file of a writer that is running or was killed",
    }


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"a": ', "\udcff", '"\\ud800"', "[" * 100_000, "1" * 5000, "NaN", "1e999"]
)
@pytest.mark.parametrize(
    "name",
    ["manifest.json", "seed-0002/zarr.json", "seed-0002/importance/zarr.json", "receipts/seed-0002/shard-00001.json"],
)
def test_broken_documents_are_named(cache: Path, name: str, content: str | None) -> None:
    path = cache / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    findings = verify(cache, full=True).findings
    assert findings
    assert {finding.path for finding in findings} == {name}
    assert {finding.array for finding in findings} == {"importance" if "importance" in name else None}


@pytest.mark.parametrize("name", ["manifest.json", "seed-0002/zarr.json", "receipts/seed-0002/shard-00001.json"])
def test_every_byte_of_a_document_counts(cache: Path, name: str) -> None:
    path = cache / name
    content = path.read_bytes()
    space, end = content.index(b" "), len(content)
    changes = [(space, space, b" "), (space, space + 1, b"\t"), (end - 1, end, b""), (end, end, b"\n"), (0, 0, b"\n")]
    changes += [(place, place + 1, bytes([content[place] ^ 1])) for place in range(0, end, max(1, end // 40))]
    for start, stop, replacement in changes:
        path.write_bytes(content[:start] + replacement + content[stop:])
        findings = verify(cache).findings
        assert {finding.path for finding in findings} == {name}, (start, replacement)
    path.write_bytes(content)
    assert verify(cache).whole


def test_a_manifest_names_all_its_problems(cache: Path) -> None:
    edit_json(cache / "manifest.json", lambda document: document.update(shard_size=0, container="rar"))
    assert len(verify(cache).findings) == 2


def test_other_zarr_metadata_is_told_apart_by_field(cache: Path) -> None:
    edit_json(cache / "seed-0000/targets/zarr.json", lambda document: document.update(shape=[9, 17, 2, 6]))
    found = only(verify(cache))
    assert (found.array, found.seed, found.shard) == ("targets", 0, None)
    assert "shape is [9, 17, 2, 6], expected [5, 17, 2, 6]" in found.problem


@pytest.mark.parametrize("field", ["fingerprint", "encoding"])
def test_the_receipt_of_another_cache_is_named(cache: Path, field: str) -> None:
    edit_json(
        cache / "receipts/seed-0000/shard-00002.json", lambda document: document.update({field: "sha256:" + "f" * 64})
    )
    found = only(verify(cache, full=True))
    assert (found.seed, found.shard, found.rows) == (0, 2, (4, 4))
    assert field in found.problem


def test_moved_receipts_are_named(cache: Path) -> None:
    first, second = (cache / f"receipts/seed-0000/shard-0000{shard}.json" for shard in (0, 1))
    swap(first, second)
    assert {(finding.seed, finding.shard) for finding in verify(cache).findings} == {(0, 0), (0, 1)}


def test_a_receipt_of_a_shard_beyond_the_last_is_named(cache: Path) -> None:
    receipts = cache / "receipts/seed-0000"
    shutil.copy(receipts / "shard-00002.json", receipts / "shard-00003.json")
    found = only(verify(cache))
    assert (found.shard, found.rows) == (3, None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: found["objects"].pop(3), "0 objects"),
        (lambda found: found["objects"].append(dict(found["objects"][3])), "2 objects"),
        (lambda found: found["objects"][3].update(path="seed-0000/importance/c/1/0"), "expected seed-0002"),
    ],
)
def test_receipts_name_every_array_once_where_it_lies(cache: Path, change: Callable, told: str) -> None:
    edit_json(cache / "receipts/seed-0002/shard-00001.json", change)
    found = only(verify(cache))
    assert (found.array, found.shard) == ("importance", 1)
    assert told in found.problem


def test_a_receipt_with_an_unknown_array_is_named(cache: Path) -> None:
    extra = {"array": "sound", "path": "seed-0002/sound/c/1", "bytes": 1, "digest": "sha256:" + "0" * 64}
    edit_json(cache / "receipts/seed-0002/shard-00001.json", lambda document: document["objects"].append(extra))
    assert "'sound'" in only(verify(cache)).problem


def test_holes_of_receipt_and_index_must_agree(cache: Path) -> None:
    edit_json(cache / "receipts/seed-0002/shard-00000.json", lambda document: document.update(holes=[]))
    findings = verify(cache).findings
    assert {finding.array for finding in findings} == set(ARRAYS) - {"view", "key", "label"}
    assert all("no sample for row 1" in finding.problem for finding in findings)


def test_full_verification_reports_bytes_as_it_goes(cache: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = verify(cache, full=True, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == report.objects
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (report.bytes, report.bytes)


@pytest.fixture
def klt_cache(make_manifest, fill_cache, tmp_path: Path) -> Path:
    fill_cache(tmp_path / "k", make_manifest(precision="klt1"))
    return tmp_path / "k"


def without_last_bytes(content: bytes) -> bytes:
    return content[:-20]


def with_dtype_unknown_to_numpy(_content: bytes) -> bytes:
    return save({"mean": torch.zeros(4, dtype=torch.bfloat16)})


def with_one_more_array(content: bytes) -> bytes:
    return save({**load(content), "more": torch.zeros(1)})


def without_one_array(content: bytes) -> bytes:
    return save({name: values for name, values in load(content).items() if name != "levels"})


@pytest.mark.parametrize(
    ("damage", "told", "read"),
    [
        (without_last_bytes, "it is no safetensors file", False),
        (with_dtype_unknown_to_numpy, "it contains an array of dtype BF16", False),
        (without_one_array, "it has no array 'levels'", False),
        (with_one_more_array, "its header was changed", True),
        (lambda _: b"", "it is no safetensors file", False),
        (None, "it cannot be read: No such file", False),
    ],
)
def test_damage_to_the_object_of_an_encoding_is_named(klt_cache: Path, damage, told: str, read: bool) -> None:
    (path,) = klt_cache.glob("encoding/*")
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    finding = only(verify(klt_cache))
    assert (finding.path, finding.kind) == (path.relative_to(klt_cache).as_posix(), "damaged")
    assert told in finding.problem
    assert "restore it from a copy" in finding.advice
    assert "delete" not in finding.advice
    if read:
        CacheReader(klt_cache)
        return
    with pytest.raises(
        SchemaError, match=f"the object {finding.path} of its encoding cannot be used: {told}"
    ) as caught:
        CacheReader(klt_cache)
    assert "restore it from a copy" in str(caught.value)


def test_the_object_of_another_encoding_is_named(klt_cache: Path, make_manifest) -> None:
    (path,) = klt_cache.glob("encoding/*")
    path.write_bytes(make_manifest(precision="klt0.5").encoding.object_content())
    assert "expected {" in only(verify(klt_cache)).problem
    with pytest.raises(SchemaError, match=r"array '\w+' is .*restore it from a copy"):
        CacheReader(klt_cache)


def test_white_space_in_the_header_of_an_object_is_seen(klt_cache: Path) -> None:
    (path,) = klt_cache.glob("encoding/*")
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    path.write_bytes((length + 8).to_bytes(8, "little") + content[8 : 8 + length] + b" " * 8 + content[8 + length :])
    assert "its header was changed" in only(verify(klt_cache)).problem


def test_an_object_of_no_encoding_is_a_note(klt_cache: Path) -> None:
    (klt_cache / "encoding/other.safetensors").write_bytes(b"x")
    report = verify(klt_cache)
    assert report.whole
    assert [(note.path, note.remark) for note in report.notes] == [
        ("encoding/other.safetensors", "not part of the cache")
    ]


def test_paths_that_are_no_cache_are_findings(cache: Path, tmp_path: Path) -> None:
    for root in (tmp_path / "absent", tmp_path, cache / "manifest.json"):
        assert only(verify(root)).path == "manifest.json"


def test_a_cache_without_seeds_is_not_whole(cache: Path) -> None:
    for folder in ("receipts", "seed-0000", "seed-0002"):
        shutil.rmtree(cache / folder)
    assert "no seed" in only(verify(cache)).problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_object_is_named(cache: Path) -> None:
    path = cache / "seed-0000/targets/c/0/0/0/0"
    path.chmod(0)
    assert only(verify(cache, full=True)).array == "targets"


def test_workers_below_one_are_refused(cache: Path) -> None:
    with pytest.raises(UsageError, match="at least 1, found 0"):
        verify_cache(cache, full=False, workers=0)
