"""Facts and pictures of caches, whole or not."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.show.description import describe_cache
from lookonce.cache.show.picture import draw_cache
from lookonce.cache.show.picture_samples import principal_components, shown_samples
from lookonce.cache.write.create import create_cache
from lookonce.shared.errors import CacheError, IncompleteCacheError, StorageError, UsageError
from lookonce.shared.patches import unpatchify
from lookonce.storage_schemas.tokens import TopTokens


@pytest.fixture
def cache(make_manifest, fill_cache, tmp_path: Path) -> Path:
    fill_cache(tmp_path / "c", make_manifest(), seeds=(0, 2), holes=(1, 4))
    return tmp_path / "c"


def lines_of(root: Path) -> dict[str, str]:
    return {line[:13].strip(): line[13:] for line in describe_cache(root).text().splitlines()}


def test_facts_of_a_whole_cache(cache: Path) -> None:
    facts = describe_cache(cache)
    json.dumps(facts.document(), allow_nan=False)
    assert facts.complete
    assert facts.document()["seeds"] == [
        {"seed": seed, "shards": 3, "of_shards": 3, "complete": True} for seed in (0, 2)
    ]
    assert (facts.samples, facts.views, facts.holes.count) == (5, 6, 4)
    assert facts.holes.first[0] == {
        "seed": 0,
        "sample": 1,
        "key": "c1/näme-001.jpg",
        "label": 1,
        "reason": "unreadable",
    }
    on_disk = {
        name: sum(path.stat().st_size for path in cache.glob(f"seed-*/{name}/c/**/*") if path.is_file())
        for name in facts.bytes_by_array
    }
    assert facts.bytes_by_array == on_disk
    assert facts.bytes == sum(on_disk.values())
    assert facts.bytes_a_view["targets"] == on_disk["targets"] / 6
    assert facts.statistics == {"feature_norm": 1.0}
    assert facts.versions == {"lookonce": ["test"]}
    assert lines_of(cache)["seeds"] == "0, 2 complete"


def test_what_the_tokens_are_is_told(make_manifest, tmp_path: Path) -> None:
    recipe = make_manifest(tokens=TopTokens(share=0.25)).recipe
    pooled = dataclasses.replace(recipe, teacher=dataclasses.replace(recipe.teacher, first_token="patch-mean"))
    create_cache(tmp_path / "c", dataclasses.replace(make_manifest(tokens=recipe.tokens), recipe=pooled))
    lines = lines_of(tmp_path / "c")
    assert "top:0.25: the mean of the patches and 4 of 16 patches" in lines["tokens"]
    assert lines["importance"] == recipe.importance
    whole = dataclasses.replace(pooled, tokens=make_manifest().recipe.tokens)
    create_cache(tmp_path / "d", dataclasses.replace(make_manifest(), recipe=whole))
    assert lines_of(tmp_path / "d")["tokens"].startswith("all; token 0 is the mean of the patches")


def test_the_code_of_a_klt_cache_is_told(make_manifest, fill_cache, tmp_path: Path) -> None:
    manifest = make_manifest(precision="klt1", width=24)
    fill_cache(tmp_path / "c", manifest)
    facts, lines, code = describe_cache(tmp_path / "c"), lines_of(tmp_path / "c"), manifest.encoding.parameters
    assert facts.klt is not None
    assert (facts.klt.values, facts.klt.components) == (48, code["basis"].shape[1])
    assert (facts.klt.token_bits, facts.klt.coarse_bits) == (code["token_bits"].sum(), code["coarse_bits"].sum())
    assert facts.klt.token_bits <= 8 * facts.klt.token_bytes == 8 * manifest.array("targets").sample_shape[1]
    assert facts.klt.coarse_bytes == manifest.array("coarse_targets").sample_bytes
    assert facts.klt.object_bytes == (tmp_path / "c" / facts.klt.object).stat().st_size
    assert facts.bytes == sum(facts.bytes_by_array.values()) + facts.klt.object_bytes
    assert 0.8 < facts.klt.bits_per_value <= 1
    assert lines["code"].startswith(f"tokens keep {facts.klt.components} of 48 components, ")
    assert "coarse part of a view (mean over patches) keeps" in lines["code"]  # noise has no low frequencies
    assert "(3 x 3 cosines) keeps" in dataclasses.replace(facts.klt, coarse_functions=9).text()
    assert lines["container"] == "zarr, schema version 2"
    assert json.loads(json.dumps(facts.document()))["klt"]["coarse_functions"] == 1


def test_other_precisions_have_no_code_to_tell(cache: Path) -> None:
    assert describe_cache(cache).document()["klt"] is None
    assert "code" not in lines_of(cache)
    assert lines_of(cache)["container"] == "zarr, schema version 1"


@pytest.mark.parametrize("precision", ["klt2", "klt0.25"])
def test_a_klt_cache_is_drawn(make_manifest, fill_cache, tmp_path: Path, precision: str) -> None:
    fill_cache(tmp_path / "c", make_manifest(precision=precision))
    draw_cache(tmp_path / "c", tmp_path / "p.png", samples=2)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_incomplete_caches_say_what_is_missing(cache: Path) -> None:
    (cache / "receipts/seed-0002/shard-00001.json").unlink()
    (cache / "receipts/seed-0002/shard-00002.json").write_text('{"fingerprint": 3}')
    facts = describe_cache(cache)
    assert not facts.complete
    assert facts.unusable_receipts == 1
    assert facts.views == 3 + 1
    assert "INCOMPLETE" in lines_of(cache)["cache"]
    assert lines_of(cache)["seeds"] == "0 complete; 2 has 1 of 3 shards"
    shutil.rmtree(cache / "receipts")
    assert describe_cache(cache).bytes == 0
    assert lines_of(cache)["seeds"].startswith("none yet")
    shutil.rmtree(cache)
    with pytest.raises(CacheError, match="does not exist"):
        describe_cache(cache)


@pytest.mark.parametrize("content", ["", "[]", "3", '{"fingerprint": 1, "encoding": 2}'])
def test_broken_receipts_count_as_unusable(cache: Path, content: str) -> None:
    (cache / "receipts/seed-0000/shard-00000.json").write_text(content)
    assert describe_cache(cache).unusable_receipts == 1


def test_receipts_of_shards_of_another_size_are_unusable(make_manifest, fill_cache, tmp_path: Path) -> None:
    for name, shard_size, seed in (("one", 3, 0), ("other", 2, 1)):
        fill_cache(tmp_path / name, make_manifest(precision="fp16", shard_size=shard_size), seeds=(seed,))
    shutil.copytree(tmp_path / "other/receipts/seed-0001", tmp_path / "one/receipts/seed-0001")
    facts = describe_cache(tmp_path / "one")
    assert (facts.unusable_receipts, facts.views) == (3, 5)


def test_thousands_of_receipts_take_little_time(make_manifest, fill_cache, tmp_path: Path) -> None:
    fill_cache(tmp_path, make_manifest(samples=1, shard_size=1))
    receipt = (tmp_path / "receipts/seed-0000/shard-00000.json").read_bytes()
    for seed in range(1, 2000):
        folder = tmp_path / f"receipts/seed-{seed:04d}"
        folder.mkdir()
        (folder / "shard-00000.json").write_bytes(receipt)
    started = time.process_time()
    assert len(describe_cache(tmp_path).seeds) == 2000
    assert time.process_time() - started < 2


def test_the_picture_is_a_png_with_a_row_a_sample(cache: Path, tmp_path: Path) -> None:
    sizes = []
    for samples in (1, 3):
        assert draw_cache(cache, tmp_path / "new/p.png", samples=samples) == samples
        with Image.open(tmp_path / "new/p.png") as image:
            image.load()
            assert image.format == "PNG"
            sizes.append(image.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] < sizes[1][1]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.png"]


def test_the_picture_is_the_same_every_time(cache: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_cache(cache, tmp_path / name, samples=2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("options", [{"store_pixels": False}, {"precision": "fp16", "width": 2, "layers": 1}])
def test_caches_without_views_and_with_few_channels_are_drawn(make_manifest, fill_cache, tmp_path, options) -> None:
    fill_cache(tmp_path / "c", make_manifest(**options))
    assert draw_cache(tmp_path / "c", tmp_path / "p.png", samples=2) == 2


def test_keys_of_any_script_are_drawn(make_manifest, fill_cache, tmp_path: Path, monkeypatch) -> None:
    fill_cache(tmp_path / "c", make_manifest())
    strange = ["写真\n$x$.jpg", "a" * 300 + ".jpg", "$\\frac{$", "\u202e", ""]
    column = CacheReader.column
    monkeypatch.setattr(
        CacheReader, "column", lambda self, name, seed: strange if name == "key" else column(self, name, seed)
    )
    assert draw_cache(tmp_path / "c", tmp_path / "p.png", samples=5) == 5


def test_only_complete_seeds_are_drawn(cache: Path, tmp_path: Path) -> None:
    (cache / "receipts/seed-0000/shard-00001.json").unlink()
    assert draw_cache(cache, tmp_path / "p.png", samples=2) == 2
    (cache / "receipts/seed-0002/shard-00000.json").unlink()
    with pytest.raises(IncompleteCacheError, match="no seed has all of its 3 shards"):
        draw_cache(cache, tmp_path / "q.png")
    assert not (tmp_path / "q.png").exists()


def test_pictures_that_cannot_be_made_are_refused(cache: Path, tmp_path: Path, make_manifest, fill_cache) -> None:
    with pytest.raises(UsageError, match="at least 1, found 0"):
        draw_cache(cache, tmp_path / "p.png", samples=0)
    with pytest.raises(StorageError, match="writing failed"):
        draw_cache(cache, cache / "manifest.json" / "p.png", samples=1)
    fill_cache(tmp_path / "holes", make_manifest(samples=2), holes=(0, 1))
    with pytest.raises(IncompleteCacheError, match="every sample is a hole"):
        draw_cache(tmp_path / "holes", tmp_path / "p.png")


def test_shown_samples_are_those_of_the_cache(make_manifest, fill_cache, tmp_path: Path) -> None:
    written = fill_cache(tmp_path, make_manifest(samples=8), seeds=(0, 3), holes=(0,))
    shown = shown_samples(CacheReader(tmp_path), 3, 0.75)
    at = [(0, 2), (3, 4), (0, 6)]  # rows 1 to 7 remain; the middles of three thirds
    assert [title.split("  ·  ") for title in shown.titles] == [
        [f"c0/näme-{row:03d}.jpg", f"seed {seed}", "a"] for seed, row in at
    ]
    assert shown.views is not None
    for position, (seed, row) in enumerate(at):
        np.testing.assert_array_equal(shown.views[position], unpatchify(written[seed]["pixels"][row], 8))
        importance = written[seed]["importance"][row].reshape(4, 4)
        np.testing.assert_allclose(shown.importance[position], importance / importance.mean(), rtol=1e-5)
    assert shown.visible.sum(axis=(1, 2)).tolist() == [4, 4, 4]


def test_principal_components_have_a_fixed_sign_and_range() -> None:
    generator = np.random.default_rng(0)
    directions = np.zeros((3, 12))
    directions[[0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5]] = 0.8, 0.6, -0.8, 0.6, 0.6, -0.8
    latent = generator.normal(size=(2, 50, 3)) * [9, 4, 2]
    features = (latent @ directions + 5).astype(np.float32)
    components = principal_components(features)
    assert components.shape == (2, 50, 3)
    assert components.min() == 0
    assert components.max() == 1
    for axis in range(3):
        sign = np.sign(directions[axis][np.abs(directions[axis]).argmax()])
        correlation = np.corrcoef(components[..., axis].ravel(), latent[..., axis].ravel())[0, 1]
        assert correlation * sign > 0.95
    np.testing.assert_allclose(principal_components(features[:, ::-1])[:, ::-1], components, atol=1e-4)
    assert (principal_components(np.ones((1, 4, 6), np.float32)) == 0.5).all()
