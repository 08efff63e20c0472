"""Views as JPEG: the recipe, the pixels, both containers, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
import zarr
from PIL import Image

from lookonce.cache.containers.zarr_objects import encode_shard_index
from lookonce.cache.read import whole_views
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.whole_views import JpegViews, stored_views
from lookonce.cache.verify.verification import verify_cache
from lookonce.extract.config import ExtractionConfig
from lookonce.shared.errors import CacheMismatchError, IntegrityError, UsageError
from lookonce.shared.images.jpeg_view import decode_view, encode_view
from lookonce.shared.patches import patchify
from lookonce.shared.view_recipe import ViewRecipe, view_sentence
from lookonce.storage_schemas.manifest import parse_manifest, validate_manifest
from lookonce.storage_schemas.problems import sealed
from lookonce.storage_schemas.tokens import TopTokens


@pytest.fixture(params=["zarr", "webdataset"])
def container(request) -> str:
    return request.param


@pytest.fixture
def cache(make_manifest, fill_cache, tmp_path: Path, container: str) -> tuple[Path, dict[int, dict[str, Any]]]:
    """Five samples, two seeds, row 1 is a hole; and the arrays that were written."""
    manifest = make_manifest(container=container, jpeg_quality=90)
    return tmp_path / "c", fill_cache(tmp_path / "c", manifest, seeds=(0, 3), holes=(1,))


def noise(side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("quality", [1, 75, 95, 100])
def test_a_view_decodes_to_what_pillow_decodes(quality: int) -> None:
    jpeg = encode_view(noise(), quality)
    image = Image.open(io.BytesIO(jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
    assert {layer[1:3] for layer in image.layer} == {(1, 1)}, "4:4:4"
    found = decode_view(jpeg, 32)
    assert np.array_equal(found, np.asarray(image))
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert encode_view(noise(), quality) == jpeg


def grey() -> bytes:
    content = io.BytesIO()
    Image.fromarray(noise()[..., 0]).save(content, "JPEG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a readable JPEG of 0 bytes"),
        (b"no JPEG at all", "not a readable JPEG of 14 bytes"),
        (encode_view(noise(), 90)[:300], "not a readable JPEG of 300 bytes"),
        (encode_view(noise(16), 90), "a JPEG of mode RGB, 16 x 16 pixels, expected mode RGB, 32 x 32"),
        (grey(), "a JPEG of mode L, 32 x 32 pixels, expected mode RGB"),
    ],
    ids=["empty", "text", "cut", "size", "grey"],
)
def test_what_is_no_view_is_told(content: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        decode_view(content, 32)


def test_the_recipe_changes_only_where_it_is_used(make_manifest) -> None:
    assert "jpeg" not in ViewRecipe().document()
    quality = ViewRecipe(jpeg_quality=95)
    assert quality.document() == {**ViewRecipe().document(), "jpeg": {"quality": 95, "subsampling": "4:4:4"}}
    assert view_sentence(quality.document()).endswith("50 % mirrored, as JPEG of quality 95")
    fingerprints = {make_manifest(jpeg_quality=one).recipe.fingerprint for one in (None, 90, 95)}
    assert len(fingerprints) == 3
    for wrong in (0, 101):
        with pytest.raises(UsageError, match=f"JPEG quality: expected 1 to 100, found {wrong}"):
            ViewRecipe(jpeg_quality=wrong)


def test_flags(tmp_path: Path) -> None:
    given: dict[str, Any] = {"teacher": "deit-tiny", "images": "x", "out": tmp_path}
    assert ExtractionConfig(**given, pixels="jpeg").view_recipe.jpeg_quality == 95
    assert ExtractionConfig(**given).view_recipe.jpeg_quality is None
    with pytest.raises(UsageError, match="--jpeg-quality 101: must be 1 to 100"):
        ExtractionConfig(**given, pixels="jpeg", jpeg_quality=101)
    with pytest.raises(UsageError, match=r"--jpeg-quality 90.*--pixels jpeg"):
        ExtractionConfig(**given, jpeg_quality=90)
    with pytest.raises(UsageError, match="a JPEG has at most 65500 pixels along a side"):
        ExtractionConfig(**given, pixels="jpeg", view_size=65536)


def test_a_manifest_says_so_in_version_2(make_manifest) -> None:
    manifest = make_manifest(jpeg_quality=90, tokens=TopTokens(share=0.5))
    document = json.loads(json.dumps(manifest.document()))
    assert validate_manifest(document) == []
    assert parse_manifest(document, "here").document() == manifest.document()
    assert (manifest.schema_version, manifest.pixels, manifest.stores_whole_views) == (2, "jpeg", True)
    (problem,) = validate_manifest(sealed({**document, "schema_version": 1}))
    assert problem.loc == ("arrays", 5, "dtype")
    arrays = [spec for spec in document["arrays"] if spec["name"] != "jpeg"]
    (problem,) = validate_manifest(sealed({**document, "schema_version": 1, "arrays": arrays}))
    assert (problem.loc, problem.kind) == (("schema_version",), "inconsistent")
    raw = make_manifest(tokens=TopTokens(share=0.5)).document()
    problems = validate_manifest(sealed({**document, "arrays": raw["arrays"]}))
    assert [problem.message[:16] for problem in problems] == ["'jpeg' is missin", "'pixels' is not "]
    for wrong in ({"quality": 95}, {"quality": 0, "subsampling": "4:4:4"}, {"quality": 95, "subsampling": "4:2:0"}):
        recipe = {**document["recipe"], "view": {**document["recipe"]["view"], "jpeg": wrong}}
        assert validate_manifest(sealed({**document, "recipe": recipe}))


def test_the_reader_gives_bytes_and_pixels(cache) -> None:
    root, written = cache
    reader = pickle.loads(pickle.dumps(CacheReader(root)))
    views = stored_views(reader)
    assert isinstance(views, JpegViews)
    rows = reader.rows(3)
    assert rows.tolist() == [0, 2, 3, 4]
    jpegs = reader.read("jpeg", [3] * 4, rows)
    assert jpegs.dtype == object
    assert jpegs.tolist() == written[3]["jpeg"][rows].tolist()
    for row, jpeg in zip(rows.tolist(), jpegs, strict=True):
        assert np.array_equal(views.patches(3, row), patchify(np.asarray(Image.open(io.BytesIO(jpeg))), 8))
    for name in ("targets", "importance", "pixel_digest"):
        assert np.array_equal(reader.read(name, [3] * 4, rows), written[3][name][rows])
    with pytest.raises(IntegrityError, match="row 1 of seed 3 is a hole"):
        reader.read("jpeg", [3], [1])
    reader.prefetch(["jpeg", "targets"], [0, 3], [4, 2])
    assert verify_cache(root, full=True).whole


def test_other_tools_read_the_jpegs(cache, container: str) -> None:
    root, written = cache
    if container == "zarr":
        array = zarr.open_group(root / "seed-0000", mode="r")["jpeg"]
        assert array[:].tolist() == [b"" if row == 1 else jpeg for row, jpeg in enumerate(written[0]["jpeg"])]
        return
    urls = [str(path) for path in sorted((root / "seed-0000").glob("*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves its last file open
        samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
        gc.collect()
    assert [sample["__key__"] for sample in samples] == ["00000000", "00000002", "00000003", "00000004"]
    for sample, row in zip(samples, (0, 2, 3, 4), strict=True):
        assert np.array_equal(sample["jpg"], decode_view(written[0]["jpeg"][row], 32))
        assert np.array_equal(sample["targets.npy"], written[0]["targets"][row])


def test_a_decoder_that_gives_other_pixels_is_named(cache, monkeypatch) -> None:
    """At the first use of a view. Nothing is damaged then, so nobody is told to delete anything."""
    root, _ = cache
    views = JpegViews(CacheReader(root))
    patches = views.patches(0, 0)
    true = whole_views.decode_view
    monkeypatch.setattr(whole_views, "decode_view", lambda content, side: true(content, side) ^ 1)
    assert not np.array_equal(views.patches(0, 0), patches), "compared already, so it is not compared again"
    with pytest.raises(CacheMismatchError, match=r"'c0/näme-002.jpg', seed 0, decodes to other pixels here") as caught:
        views.patches(0, 2)
    assert "Pillow of unknown version, which made the cache; install that version here" in str(caught.value)
    assert "delete" not in str(caught.value)
    report = verify_cache(root, full=True)
    assert len(report.findings) == 6
    assert report.exit_code == 3
    for finding in report.findings:
        assert finding.kind == "not readable"
        assert finding.array == "jpeg"
        assert "decode to other pixels here than the teacher saw, although every byte is as its" in finding.problem
        assert "delete" not in finding.advice
    assert verify_cache(root).whole, "the quick check decodes nothing"


def test_what_was_written_and_is_no_jpeg_is_damage(make_manifest, fill_cache, tmp_path: Path, container: str) -> None:
    def broken(manifest: Any, seed: int) -> dict[str, Any]:
        jpegs = np.empty(manifest.samples, dtype=object)
        jpegs[:] = [encode_view(noise(), 90)[: 200 + row] for row in range(manifest.samples)]
        return {"jpeg": jpegs}

    fill_cache(tmp_path / "c", make_manifest(container=container, jpeg_quality=90), make_arrays=broken)
    findings = verify_cache(tmp_path / "c", full=True).findings
    assert [finding.kind for finding in findings] == ["damaged"] * 3
    assert "2 views (the first: row 2) cannot be decoded, although every byte" in findings[1].problem
    with pytest.raises(IntegrityError, match="the view of row 2, seed 0: it is not a readable JPEG of 202 bytes"):
        JpegViews(CacheReader(tmp_path / "c")).patches(0, 2)


def jpeg_object(root: Path, container: str) -> Path:
    return root / ("seed-0000/jpeg/c/1" if container == "zarr" else "seed-0000/shard-00001.tar")


def test_the_quick_check_sees_headers_and_places(cache, container: str) -> None:
    root, written = cache
    path = jpeg_object(root, container)
    whole = path.read_bytes()
    first = whole.index(written[0]["jpeg"][2])
    places = {"zarr": [first - 8, first - 4, len(whole) - 30], "webdataset": [first - 512, first - 380, first - 300]}
    for place in places[container]:
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        (finding,) = verify_cache(root).findings
        assert finding.path == path.relative_to(root).as_posix()
        assert finding.kind == "damaged"
        path.write_bytes(whole)
    content = bytearray(whole)
    content[first + 100] ^= 1
    path.write_bytes(content)
    assert verify_cache(root).whole
    (finding,) = verify_cache(root, full=True).findings
    assert "the digest of its bytes is" in finding.problem
    with pytest.raises(IntegrityError, match="the digest of its bytes"):
        JpegViews(CacheReader(root)).patches(0, 2)


def test_an_index_cannot_point_outside_or_twice_at_the_same(cache, container: str) -> None:
    if container != "zarr":
        pytest.skip("tars have no index")
    root, _ = cache
    path = jpeg_object(root, container)
    whole = path.read_bytes()
    table = np.frombuffer(whole[-36:-4], "<u8").reshape(2, 2).copy()
    largest = 2**64 - 1
    for change, told in (
        ({(1, 0): table[0, 0]}, "two samples the same bytes"),
        ({(1, 0): len(whole)}, "expected more than 8 bytes within the first"),
        ({(1, 1): largest - 3}, "expected more than 8 bytes within the first"),
        ({(1, 0): largest - 3}, "expected more than 8 bytes within the first"),
        ({(1, 1): 8}, "expected more than 8 bytes within the first"),
        ({(1, 1): table[1, 1] - 1}, "no header of a value"),
    ):
        changed = table.copy()
        for place, value in change.items():
            changed[place] = value
        path.write_bytes(whole[:-36] + encode_shard_index(changed[:, 0], changed[:, 1]))
        (finding,) = verify_cache(root).findings
        assert re.search(told, finding.problem), finding
    path.write_bytes(whole)
    assert verify_cache(root, full=True).whole


def test_a_subset_of_tokens_keeps_whole_views(make_manifest, fill_cache, tmp_path: Path, container: str) -> None:
    manifest = make_manifest(container=container, jpeg_quality=90, tokens=TopTokens(share=0.5))
    written = fill_cache(tmp_path / "c", manifest)
    reader = CacheReader(tmp_path / "c")
    views = stored_views(reader)
    assert views is not None
    assert views.patches(0, 4).shape == (16, 192)
    assert reader.read("jpeg", [0], [4])[0] == written[0]["jpeg"][4]
    raw = dataclasses.replace(make_manifest(tokens=TopTokens(share=0.5)), container=container)
    fill_cache(tmp_path / "raw", raw)
    assert stored_views(CacheReader(tmp_path / "raw")) is None
