"""Caches of schema version 1, in git since it was made: read by every later lookonce, to the same values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.show.description import describe_cache
from lookonce.cache.verify.verification import verify_cache

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(params=["v1-zarr", "v1-webdataset"])
def root(request) -> Path:
    return FIXTURES / request.param


def test_content_is_what_was_written(root: Path) -> None:
    expected, reader = json.loads((root / "expected.json").read_text("utf-8")), CacheReader(root)
    seed, rows = expected["seed"], expected["rows"]
    assert reader.seeds == (seed,)
    assert reader.rows(seed).tolist() == rows
    assert reader.manifest.recipe.fingerprint == expected["fingerprint"]
    assert reader.manifest.encoding.digest == expected["encoding"]
    for name in ("key", "label", "view"):
        assert reader.column(name, seed).tolist() == expected[name]
    for name in ("targets", "target_mean", "target_std", "importance", "pixels", "pixel_digest"):
        np.testing.assert_array_equal(reader.read(name, [seed] * 2, rows), np.array(expected[name]))
    decoded = reader.decode(reader.read("targets", [seed] * 2, rows))
    np.testing.assert_array_equal(decoded, np.array(expected["decoded_targets"], np.float32))


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
