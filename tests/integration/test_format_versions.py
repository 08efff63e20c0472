"""Caches of each schema version, in git since they were made: read by every later lookonce, to the same values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.whole_views import JpegViews
from lookonce.cache.show.description import describe_cache
from lookonce.cache.verify.verification import verify_cache
from lookonce.shared.views import pixel_digest
from lookonce.train.data.batch import StoredTargets
from lookonce.train.data.target_decoder import make_decoder

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
VERSIONS = {
    "v1-zarr": 1,
    "v1-webdataset": 1,
    "v2-zarr": 2,
    "v2-webdataset": 2,
    "v2-jpeg-zarr": 2,
    "v2-jpeg-webdataset": 2,
}
ROWS = 2


@pytest.fixture(params=list(VERSIONS))
def root(request, tmp_path) -> Path:
    """The cache as it was written. Git has the object of an encoding as text."""
    if VERSIONS[request.param] == 1 or "jpeg" in request.param:
        return FIXTURES / request.param
    root: Path = shutil.copytree(FIXTURES / request.param, tmp_path / request.param)
    path = root / json.loads((root / "manifest.json").read_text("utf-8"))["encoding"]["object"]
    document = json.loads((FIXTURES / "v2-encoding.json").read_text("utf-8"))
    header = document["header"].encode()
    arrays = [np.array(array["values"], array["dtype"]).tobytes() for array in document["arrays"]]
    path.parent.mkdir()
    path.write_bytes(b"".join([len(header).to_bytes(8, "little"), header, *arrays]))
    return root


def expected_of(root: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((root / "expected.json").read_text("utf-8"))
    return expected


def test_content_is_what_was_written(root: Path) -> None:
    expected, reader = expected_of(root), CacheReader(root)
    seed, rows = expected["seed"], expected["rows"]
    assert json.loads((root / "manifest.json").read_text("utf-8"))["schema_version"] == VERSIONS[root.name]
    assert reader.seeds == (seed,)
    assert reader.rows(seed).tolist() == rows
    assert reader.manifest.recipe.fingerprint == expected["fingerprint"]
    assert reader.manifest.encoding.digest == expected["encoding"]
    for name in ("key", "label", "view"):
        assert reader.column(name, seed).tolist() == expected[name]
    for spec in reader.manifest.arrays:
        if spec.name == "jpeg":
            assert [jpeg.hex() for jpeg in reader.read("jpeg", [seed] * ROWS, rows)] == expected["jpeg"]
            for row, digest in zip(rows, expected["pixel_digest"], strict=True):
                assert pixel_digest(JpegViews(reader).patches(seed, row)).tolist() == digest
        elif spec.chunking == "sample":
            np.testing.assert_array_equal(reader.read(spec.name, [seed] * ROWS, rows), np.array(expected[spec.name]))
    decoded = np.array(expected["decoded_targets"], np.float32)
    np.testing.assert_array_equal(reader.read_targets([seed] * ROWS, rows), decoded)
    tokens = np.array([[0, 3, 1], [0, 4, 2]])
    np.testing.assert_array_equal(
        reader.read_targets([seed] * ROWS, rows, tokens), np.take_along_axis(decoded, tokens[..., None, None], axis=1)
    )


def test_a_student_gets_these_values(root: Path) -> None:
    expected, reader = expected_of(root), CacheReader(root)
    stored = {
        name: torch.tensor(expected[name], dtype=torch.uint8)
        for name in expected
        if name.endswith("targets") and name != "decoded_targets"
    }
    batch = StoredTargets(
        elements=stored["targets"],
        class_elements=stored.get("class_targets"),
        coarse=stored.get("coarse_targets"),
        positions=torch.arange(4).expand(ROWS, 4),
    )
    wanted = np.array(expected["decoded_targets"], np.float32)
    for layers in ([0, 1], [1]):
        found = make_decoder(reader.manifest, layers).decode(batch)
        np.testing.assert_allclose(found.numpy(), wanted[:, :, layers], rtol=1e-6, atol=1e-6)


def test_documents_are_written_as_they_were(root: Path) -> None:
    layout = CacheLayout(root)
    manifest = layout.load_manifest()
    ours, theirs = manifest.document(), json.loads((root / "manifest.json").read_text("utf-8"))
    for document in (ours, theirs):  # it covers the header, which another version of safetensors may write differently
        document["encoding"].pop("object_sha256", None)
        document.pop("digest")
    assert ours == theirs
    assert [path.relative_to(root).as_posix() for path in root.glob("encoding/*")] == [
        manifest.encoding.object_path
    ] * manifest.encoding.apart


def test_receipts_and_holes_are_read(root: Path) -> None:
    first, second = CacheReader(root).receipts(4)
    assert [(h.sample, h.key, h.label, h.reason) for h in first.holes] == [
        (1, "a/broken.jpg", 0, "a/broken.jpg: image file is truncated")
    ]
    assert not second.holes
    assert (second.statistics, second.versions) == ({"feature_norm": 2.5}, {"lookonce": "0.1.0"})


def test_they_are_whole_and_small(root: Path) -> None:
    report = verify_cache(root, full=True, workers=1)
    assert report.whole, [str(finding) for finding in report.findings]
    assert [note.path for note in report.notes] == ["expected.json"]
    assert describe_cache(root).complete
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 60_000
