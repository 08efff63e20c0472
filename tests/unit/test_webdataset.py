"""WebDataset shards: read by everyone, checked to the byte, and the same to our reader as zarr's."""

from __future__ import annotations

import gc
import io
import json
import shutil
import subprocess
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import webdataset

from lookonce.cache.containers.webdataset_members import member_header, npy_header
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.verification import verify_cache
from lookonce.shared.canonical import digest_file
from lookonce.shared.errors import IntegrityError
from lookonce.shared.files.atomic import write_json
from lookonce.storage_schemas.arrays import VIEW_FIELDS, ArraySpec
from lookonce.storage_schemas.problems import sealed

LONG_KEY = "c0/" + "é" * 600 + ".jpg"
ARRAYS = ("targets", "target_mean", "target_std", "importance", "pixels", "pixel_digest")


@pytest.fixture
def manifest(make_manifest):
    return make_manifest(samples=7, shard_size=3, container="webdataset")


@pytest.fixture
def cache(manifest, fill_cache, tmp_path: Path) -> Path:
    fill_cache(tmp_path / "c", manifest, seeds=(0, 2), holes=(1, 6))
    return tmp_path / "c"


def shard(root: Path, number: int = 0) -> Path:
    return root / f"seed-0002/shard-{number:05d}.tar"


def reseal(root: Path, path: Path) -> None:
    """Make the receipt agree with a changed tar, as a writer with a fault would."""
    number = int(path.stem.removeprefix("shard-"))
    receipt = root / f"receipts/{path.parent.name}/shard-{number:05d}.json"
    document = json.loads(receipt.read_text())
    document["objects"][0].update(bytes=path.stat().st_size, digest=digest_file(path))
    write_json(receipt, sealed(document))


def problems(root: Path, *, full: bool = False) -> list[str]:
    findings = verify_cache(root, full=full, workers=1).findings
    assert all((finding.array, finding.seed) == ("shard", 2) for finding in findings)
    return [finding.problem for finding in findings]


def test_both_containers_read_the_same(make_manifest, fill_cache, tmp_path: Path) -> None:
    for precision in ("fp16", "bf16", "int8", "int4"):
        readers = []
        for container in ("zarr", "webdataset"):
            root = tmp_path / precision / container
            manifest = make_manifest(samples=7, shard_size=3, container=container, precision=precision)
            fill_cache(root, manifest, seeds=(0, 2), holes=(1, 6))
            readers.append(CacheReader(root))
            assert verify_cache(root, full=True, workers=2).whole
        rows, seeds = np.array([5, 0, 3, 4, 2, 0]), np.array([2, 0, 2, 0, 0, 2])
        tokens = np.random.default_rng(0).integers(0, 16, (6, 5))
        for name in ARRAYS:
            ours, theirs = (reader.read(name, seeds, rows) for reader in readers)
            np.testing.assert_array_equal(ours, theirs)
        ours, theirs = (reader.read("targets", seeds, rows, tokens) for reader in readers)
        np.testing.assert_array_equal(ours, theirs)
        for name in ("key", "label", "view"):
            for chosen in (None, range(7), range(2, 4), range(6, 7)):
                ours, theirs = (reader.column(name, 2, chosen) for reader in readers)
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(IntegrityError, match="row 6 of seed 2 is a hole"):
            readers[1].read("targets", [2], [6])


def test_the_stock_library_reads_it_with_its_default_decoders(manifest, fill_cache, tmp_path: Path) -> None:
    written = fill_cache(tmp_path / "c", manifest, seeds=(2,), holes=(1,))[2]
    urls = [str(shard(tmp_path / "c", number)) for number in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves its last file open
        samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
        gc.collect()
    assert [sample["__key__"] for sample in samples] == [f"{row:08d}" for row in (0, 2, 3, 4, 5, 6)]
    for sample in samples:
        row = sample["json"]["row"]
        assert sample["json"] == {"key": written["key"][row], "label": written["label"][row], "row": row, "seed": 2}
        assert [sample["view.json"][field] for field in VIEW_FIELDS] == written["view"][row].tolist()
        for name in ARRAYS:
            np.testing.assert_array_equal(sample[f"{name}.npy"], written[name][row])
            assert sample[f"{name}.npy"].dtype == written[name].dtype


def test_tar_programs_list_it(cache: Path, tmp_path: Path) -> None:
    with tarfile.open(shard(cache)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:3]] == ["00000000.json", "00000000.view.json", "00000000.targets.npy"]
    assert {(m.mode, m.uid, m.gid, m.mtime, m.uname, m.gname) for m in members} == {(0o644, 0, 0, 0, "", "")}
    program = shutil.which("tar")
    if program is None:
        pytest.skip("there is no tar program here")
    listed = subprocess.run([program, "-tf", shard(cache)], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [member.name for member in members]
    assert not listed.stderr


@pytest.mark.parametrize(("row", "size"), [(0, 0), (7, 12), (99_999_999, 8**11 - 1), (10**9, 700_000)])
def test_headers_are_those_of_pythons_tarfile(row: int, size: int) -> None:
    info = tarfile.TarInfo(f"{row:08d}.targets.npy")
    info.size = size
    assert member_header(row, ".targets.npy", size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_what_does_not_fit_a_header_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        member_header(0, "." + "x" * 100, 1)
    with pytest.raises(ValueError, match="does not fit"):
        member_header(0, ".npy", 8**11)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (197, 5, 768)])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "uint16"])
def test_values_are_npy_files_aligned_to_64_bytes(shape: tuple[int, ...], dtype: str) -> None:
    spec = ArraySpec(name="a", dtype=dtype, sample_shape=shape, dimensions=("d",) * len(shape), chunking="sample")
    header = npy_header(spec)
    assert len(header) % 64 == 0
    value = np.load(io.BytesIO(header + bytes(spec.sample_bytes)))
    assert (value.shape, value.dtype) == (shape, spec.numpy_dtype)


def test_offsets_are_aligned_and_keys_of_any_length_fit(make_manifest, tmp_path: Path) -> None:
    from lookonce.cache.write.create import create_cache
    from lookonce.cache.write.shard_writer import ShardWriter

    manifest = make_manifest(samples=3, shard_size=3, container="webdataset")
    create_cache(tmp_path, manifest)
    values = {
        spec.name: np.ones((1, *spec.sample_shape), spec.numpy_dtype)
        for spec in manifest.arrays
        if spec.name not in ("key", "label")
    }
    keys = ["a.jpg", LONG_KEY, "b.jpg"]
    with ShardWriter(tmp_path, manifest, seed=0, shard=0, keys=keys, labels=[0, 1, -1]) as writer:
        for row in range(3):
            writer.append([row], {name: value * (row + 1) for name, value in values.items()})
        writer.commit(statistics={}, versions={})
    reader = CacheReader(tmp_path)
    assert reader.column("key", 0).tolist() == keys
    assert reader.column("label", 0).tolist() == [0, 1, -1]
    for name in ARRAYS:
        offsets = reader._open("shard", 0, 0).places[name].starts
        assert (offsets % 64 == 0).all()
        assert reader.read(name, [0] * 3, [0, 1, 2]).reshape(3, -1)[:, 0].tolist() == [1, 2, 3]
    assert verify_cache(tmp_path, full=True, workers=1).whole


def test_the_batches_samples_come_in_do_not_change_the_bytes(make_manifest, fill_cache, tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        manifest = make_manifest(samples=4, shard_size=4, container="webdataset")
        fill_cache(tmp_path / name, manifest, holes=(2,))
        digests.add(digest_file(tmp_path / name / "seed-0000/shard-00000.tar"))
    assert len(digests) == 1


def member_starts(path: Path) -> list[int]:
    with tarfile.open(path) as tar:
        return [member.offset for member in tar.getmembers()]


def test_a_tar_cut_anywhere_is_seen_without_digests(cache: Path) -> None:
    path = shard(cache)
    content, starts = path.read_bytes(), member_starts(path)
    cuts = [starts[8], starts[-1], starts[3], starts[5] + 100, len(content) - 512, len(content) - 1024]
    for cut in cuts:
        path.write_bytes(content[:cut])
        (found,) = problems(cache)
        assert "its receipt lists" in found
    for cut in cuts:  # and even when the receipt was made of the cut file
        for tail in (b"", bytes(1024)):
            if cut == len(content) - 1024 and tail:
                continue
            path.write_bytes(content[:cut] + tail)
            reseal(cache, path)
            (found,) = problems(cache)
            assert "truncated, damaged" in found
            with pytest.raises(IntegrityError, match=r"seed-0002/shard-00000\.tar"):
                CacheReader(cache).read("targets", [2], [0])


def test_a_zeroed_tail_is_seen_without_digests(cache: Path) -> None:
    path = shard(cache)
    content, starts = path.read_bytes(), member_starts(path)
    for start in (starts[8], starts[10], starts[-1]):
        path.write_bytes(content[:start] + bytes(len(content) - start))
        (found,) = problems(cache)
        assert f"at byte {start}" in found or "JSON" in found


@pytest.mark.parametrize(
    "field", [(0, 1), (8, 20), (100, 101), (124, 135), (135, 136), (148, 155), (257, 262), (345, 346)]
)
def test_a_changed_header_is_seen_without_digests(cache: Path, field: tuple[int, int]) -> None:
    path = shard(cache)
    content = path.read_bytes()
    for start in member_starts(path):
        damaged = bytearray(content)
        for position in range(start + field[0], start + field[1]):
            damaged[position] ^= 1
        path.write_bytes(damaged)
        assert len(problems(cache)) == 1


def test_wrong_member_names_and_changed_json_are_seen_without_digests(cache: Path) -> None:
    path = shard(cache)
    content = path.read_bytes()
    for old, new in ((b".importance.npy", b".importence.npy"), (b"00000002.view", b"00000003.view")):
        assert old in content
        path.write_bytes(content.replace(old, new, 1))
        assert "no header" in problems(cache)[0] or "no 0000" in problems(cache)[0]
    for old, new in ((b'"label":0', b'"label":x'), (b'"seed":2', b'"seed":0'), (b'"flip":', b'"flap":')):
        assert old in content
        path.write_bytes(content.replace(old, new, 1))
        assert len(problems(cache)) == 1
        with pytest.raises(IntegrityError):
            CacheReader(cache, check="never").column("view" if b"fl" in old else "label", 2)


def test_a_shard_of_another_place_is_seen_without_digests(cache: Path) -> None:
    shutil.copy(cache / "seed-0000/shard-00001.tar", shard(cache, 1))
    reseal(cache, shard(cache, 1))
    assert "seed 2" in problems(cache)[0]


def test_holes_of_the_receipt_must_be_those_of_the_tar(cache: Path) -> None:
    path = cache / "receipts/seed-0002/shard-00000.json"
    document = json.loads(path.read_text())
    for holes in ([], [{**document["holes"][0], "sample": 2}]):
        write_json(path, sealed({**document, "holes": holes}))
        assert "truncated, damaged or of another shard" in problems(cache)[0]


def test_a_flipped_byte_of_a_value_is_seen_by_digests(cache: Path) -> None:
    path = shard(cache, 1)
    content = bytearray(path.read_bytes())
    content[member_starts(path)[2] + 512 + 128 + 5] ^= 4
    path.write_bytes(content)
    assert problems(cache) == []
    assert "digest" in problems(cache, full=True)[0]
    with pytest.raises(IntegrityError, match=r"shard-00001\.tar.*digest"):
        CacheReader(cache).read("importance", [2], [3])
