"""``--pixels jpeg`` from extraction to training: teacher and student see the pixels that the JPEGs decode to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lookonce.api import open_decoded
from lookonce.cache.convert.conversion import convert_cache
from lookonce.cache.convert.request import ConversionRequest
from lookonce.cache.read import whole_views
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.replayed_views import ReplayedViews
from lookonce.cache.read.whole_views import JpegViews
from lookonce.cache.show.description import describe_cache
from lookonce.cache.show.picture_samples import shown_samples
from lookonce.cache.verify.verification import verify_cache
from lookonce.reports.drift.check import DriftRequest, check_drift
from lookonce.reports.fidelity.measure import measure_fidelity
from lookonce.reports.fidelity.reference import cache_reference
from lookonce.shared.errors import CacheMismatchError
from lookonce.shared.patches import unpatchify
from lookonce.storage_schemas.tokens import TopTokens
from lookonce.testing import check_same, student_run
from lookonce.train.batch_config import BatchConfig
from lookonce.train.cached_targets import CachedTargets
from lookonce.train.config import TrainingConfig
from lookonce.train.model.alignment_config import AlignmentConfig
from lookonce.train.run import train_student

TOP2 = AlignmentConfig(layer_weights="top2")


def all_views(reader: CacheReader, seed: int) -> np.ndarray:
    views = JpegViews(reader)
    return unpatchify(np.stack([views.patches(seed, row) for row in reader.rows(seed).tolist()]), 8)


def test_features_are_those_of_the_decoded_pixels(extract_tiny, tmp_path) -> None:
    """The views are written as PNG and extracted whole: the teacher gives the same bits."""
    assert extract_tiny(tmp_path / "jpeg", pixels="jpeg", precision="fp16", seeds="0").code == 0
    jpeg = CacheReader(tmp_path / "jpeg")
    views = all_views(jpeg, 0)
    for row, view in enumerate(views):
        path = tmp_path / "views" / f"class{row // 12}" / f"{row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(view).save(path)
    flags = {"images": tmp_path / "views", "crop_scale": "1,1", "crop_ratio": "1,1", "flip": 0, "seeds": "0"}
    ended = extract_tiny(tmp_path / "whole", precision="fp16", **flags)
    assert ended.code == 0, ended.err
    whole, rows = CacheReader(tmp_path / "whole"), jpeg.rows(0)
    for name in ("targets", "target_mean", "target_std", "importance", "pixel_digest"):
        assert np.array_equal(jpeg.read(name, [0] * 24, rows), whole.read(name, [0] * 24, rows)), name
    assert np.array_equal(unpatchify(whole.read("pixels", [0] * 24, rows), 8), views)


def test_it_is_the_view_but_for_the_jpeg(whole_cache, whole_jpeg_cache) -> None:
    raw, jpeg = CacheReader(whole_cache), CacheReader(whole_jpeg_cache)
    rows = raw.rows(1)
    assert np.array_equal(raw.column("view", 1), jpeg.column("view", 1))
    exact = unpatchify(raw.read("pixels", [1] * len(rows), rows), 8).astype(int)
    difference = np.abs(all_views(jpeg, 1) - exact)
    assert 0 < difference.mean() < 10, "noise at quality 90"
    assert raw.manifest.recipe.fingerprint != jpeg.manifest.recipe.fingerprint
    facts = describe_cache(whole_jpeg_cache)
    assert (facts.pixels, facts.moments, facts.schema_version) == ("jpeg", "float16", 2)
    assert "stored as JPEG" in facts.text()
    assert "as JPEG of quality 90" in facts.text()


@pytest.mark.parametrize("tokens", ["visible", "top:0.5"])
@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_every_container_and_token_subset(extract_tiny, whole_jpeg_cache, tmp_path, container, tokens) -> None:
    flags = {"pixels": "jpeg", "jpeg_quality": 90, "tokens": tokens, "format": container, "seeds": "0"}
    ended = extract_tiny(tmp_path / "c", **flags)
    assert ended.code == 0, ended.err
    reader = CacheReader(tmp_path / "c")
    assert np.array_equal(all_views(reader, 0), all_views(CacheReader(whole_jpeg_cache), 0)), "whole views"
    report = verify_cache(tmp_path / "c", full=True)
    assert report.whole
    assert not report.notes
    shown = shown_samples(reader, 2, 0.7)
    assert shown.views is not None
    assert shown.views.shape == (2, 32, 32, 3)


def test_a_bad_image_is_a_hole(extract_tiny, tiny_images, tmp_path) -> None:
    images = shutil.copytree(tiny_images, tmp_path / "images")
    (images / "class0" / "003.png").write_bytes(b"no image")
    for container in ("zarr", "webdataset"):
        ended = extract_tiny(tmp_path / container, images=images, pixels="jpeg", format=container, seeds="0")
        assert ended.code == 0, ended.err
        assert 3 not in CacheReader(tmp_path / container).rows(0)
        assert verify_cache(tmp_path / container, full=True).whole


def test_other_views_are_refused_with_both_values(extract_tiny, whole_cache, whole_jpeg_cache, tmp_path) -> None:
    ended = extract_tiny(whole_jpeg_cache, moments="float16")
    assert ended.code == 1
    assert "view.jpeg.quality: cache has 90, this run has None" in ended.err
    ended = extract_tiny(whole_cache, pixels="jpeg")
    assert "view.jpeg.quality: cache has None, this run has 95" in ended.err
    ended = extract_tiny(tmp_path / "c", pixels="jpeg", reuse=whole_cache)
    assert ended.code == 1
    assert "it has other views (view.jpeg.quality: cache has None, this run has 95" in ended.err
    with pytest.raises(
        CacheMismatchError,
        match=r"contain different views \(view.jpeg.quality: None and 90;.*only caches of one view recipe",
    ):
        CachedTargets(BatchConfig(shards=(whole_cache, whole_jpeg_cache), batch_size=4, epochs=1))


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_another_teacher_looks_at_the_decoded_pixels(extract_tiny, whole_jpeg_cache, tmp_path, container) -> None:
    """Without images; the JPEGs are copied, not encoded again."""
    flags = {"pixels": "jpeg", "jpeg_quality": 90, "layers": "top1", "format": container}
    ended = extract_tiny(tmp_path / "reused", reuse=whole_jpeg_cache, images=None, **flags)
    assert ended.code == 0, ended.err
    assert "the teacher runs on the stored pixels" in ended.err
    assert extract_tiny(tmp_path / "fresh", **flags).code == 0
    found, wanted = CacheReader(tmp_path / "reused"), CacheReader(tmp_path / "fresh")
    rows = wanted.rows(1)
    for spec in wanted.manifest.arrays:
        if spec.chunking == "sample":
            ours, theirs = (one.read(spec.name, [1] * len(rows), rows) for one in (found, wanted))
            assert np.array_equal(ours, theirs), spec.name


def test_a_conversion_keeps_the_jpegs(whole_jpeg_cache, tmp_path, files) -> None:
    convert_cache(whole_jpeg_cache, tmp_path / "tars", ConversionRequest(container="webdataset", shard_size=5))
    convert_cache(tmp_path / "tars", tmp_path / "back", ConversionRequest(container="zarr", shard_size=4))
    ours, theirs = files(tmp_path / "back"), files(whole_jpeg_cache)
    assert {n: d for n, d in ours.items() if "receipts" not in n} == {
        n: d for n, d in theirs.items() if "receipts" not in n
    }
    convert_cache(whole_jpeg_cache, tmp_path / "top", ConversionRequest(precision="int4", tokens=TopTokens(share=0.5)))
    assert np.array_equal(all_views(CacheReader(tmp_path / "top"), 0), all_views(CacheReader(whole_jpeg_cache), 0))
    assert verify_cache(tmp_path / "top", full=True).whole


def raw_twin(training_cache: Any, **changes: Any) -> tuple[Path, Path]:
    """A cache with JPEGs, and one that stores the pixels that they decode to."""
    jpeg = training_cache("jpeg", jpeg_quality=90, **changes)
    reader = CacheReader(jpeg)

    def decoded(manifest: Any, seed: int) -> dict[str, Any]:
        views = JpegViews(reader)
        whole = np.stack([views.patches(seed, row) for row in range(manifest.samples)])
        if not manifest.recipe.tokens.keeps_all:
            ids = reader.read("patch_ids", [seed] * len(whole), range(len(whole))).astype(np.int64)
            whole = np.take_along_axis(whole, ids[..., None], axis=1)
        names = [spec.name for spec in manifest.arrays if spec.chunking == "sample" and spec.name != "pixels"]
        stored = {name: reader.read(name, [seed] * len(whole), range(len(whole))) for name in names}
        return {**stored, "pixels": whole}

    return jpeg, training_cache("raw", make_arrays=decoded, **changes)


@pytest.mark.parametrize("tokens", [None, TopTokens(share=0.5)], ids=["all", "top"])
@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_a_student_sees_what_the_decoded_pixels_show(training_cache, container, tokens) -> None:
    jpeg, raw = raw_twin(training_cache, container=container, tokens=tokens)
    configs = (BatchConfig(shards=(one,), batch_size=4, epochs=2, mask_ratio=0.7) for one in (jpeg, raw))
    ours, theirs = (CachedTargets(config, alignment=TOP2) for config in configs)
    for mine, yours in zip(ours, theirs, strict=True):
        for name in ("visible_pixels", "visible_ids"):
            assert torch.equal(mine[name], yours[name])
        assert torch.equal(mine["targets"][0], yours["targets"][0])


def test_a_stopped_run_is_resumed_exactly(training_cache, tmp_path) -> None:
    def train(run: Path, **changes: Any) -> Path:
        recipe: dict[str, Any] = {"student": "test_vit", "layer_weights": "top2", "epochs": 2, "batch_size": 4}
        recipe |= {"base_lr": 0.05, "log_steps": 1, "workers": 1, "device": "cpu", **changes}
        train_student(TrainingConfig(shards=(cache,), out=run, **recipe), show_progress=False)
        return run

    cache, raw = raw_twin(training_cache)
    whole = train(tmp_path / "whole")
    train(tmp_path / "run", max_steps=3)
    train(tmp_path / "run")
    check_same(student_run(whole), student_run(tmp_path / "run"))
    cache = raw
    losses = [
        [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
        for run in (whole, train(tmp_path / "exact"))
    ]
    ours, theirs = ([json.loads(line)["loss"] for line in lines] for lines in losses)
    assert ours == theirs


def test_another_decoder_ends_a_run_before_its_first_step(training_cache, monkeypatch) -> None:
    cache = training_cache(jpeg_quality=90)
    true = whole_views.decode_view
    monkeypatch.setattr(whole_views, "decode_view", lambda content, side: true(content, side) ^ 1)
    with pytest.raises(CacheMismatchError, match="decodes to other pixels here than the teacher saw"):
        CachedTargets(BatchConfig(shards=(cache,), batch_size=4, epochs=1), alignment=TOP2)


def test_views_can_be_replayed_through_the_jpeg(whole_jpeg_cache, tiny_images) -> None:
    reader = CacheReader(whole_jpeg_cache)
    replayed = ReplayedViews(reader, str(tiny_images))
    assert np.array_equal(replayed.patches(1, 5), JpegViews(reader).patches(1, 5))


def test_stock_zarr_reads_jpegs_and_floats(whole_jpeg_cache) -> None:
    group = open_decoded(whole_jpeg_cache, 0)
    reader = CacheReader(whole_jpeg_cache)
    assert group["targets"].dtype == np.float32  # type: ignore[union-attr]
    jpegs = group["jpeg"][:]  # type: ignore[index]
    assert jpegs.tolist() == reader.read("jpeg", [0] * 24, range(24)).tolist()


def test_drift_looks_at_the_decoded_views(extract_tiny, whole_jpeg_cache, tiny_weights, tmp_path) -> None:
    """Whole views are there for a token subset, too: no images are needed."""
    flags = {"pixels": "jpeg", "tokens": "visible", "format": "webdataset", "seeds": "0"}
    assert extract_tiny(tmp_path / "c", **flags).code == 0
    for cache in (whole_jpeg_cache, tmp_path / "c"):
        report = check_drift(DriftRequest(cache=cache, teacher_weights=tiny_weights, views=4, device="cpu"))
        assert not report.drifted
        assert max(one.mean for one in report.deviations) < 1e-5


def test_fidelity_counts_the_jpegs(whole_jpeg_cache) -> None:
    reference = cache_reference(whole_jpeg_cache, seeds=None, views=16, calibration_views=16)
    measured = measure_fidelity(reference, student_error=0.5).precisions["int4"]
    reader = CacheReader(whole_jpeg_cache)
    mean = np.mean([len(jpeg) for jpeg in reader.read("jpeg", [0] * 24, range(24))])
    rest = sum(spec.sample_bytes for spec in reader.manifest.arrays if spec.name != "targets")
    assert measured.all_bytes == pytest.approx(measured.target_bytes + rest + mean, rel=0.02)
