"""``--reuse``: what an earlier cache of the same views holds is not made anew, and the result is like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.nn.modules.module import register_module_forward_pre_hook

from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.verification import verify_cache
from lookonce.clusters.extraction.run import extract_features
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.summary import ExtractionSummary
from lookonce.extract.teachers import Teacher

NEW_IMAGES = ("class0/000.png", "class0/007.png", "class1/012.png", "class1/023.png")
"""At both ends and in the middle: every row moves when they come."""


class Looks:
    """How many views the teacher has looked at."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: Any, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, Teacher):
            self.count += len(arguments[0])


@pytest.fixture
def looks() -> Iterator[Looks]:
    looks = Looks()
    handle = register_module_forward_pre_hook(looks)
    yield looks
    handle.remove()


@pytest.fixture
def extract(tiny_weights: Path, tiny_images: Path) -> Callable[..., ExtractionSummary]:
    """A tiny extraction in this process."""

    def run(out: Path, **changes: Any) -> ExtractionSummary:
        arguments = {
            "teacher": "timm:vit_tiny_patch16_224",
            "teacher_weights": tiny_weights,
            "images": str(tiny_images),
            "out": out,
            "view_size": 32,
            "patch_size": 8,
            "shard_size": 4,
            "batch_size": 2,
            "executor": "inline",
            "seeds": "0-1",
        }
        return extract_features(ExtractionConfig(**{**arguments, **changes}), show_progress=False)

    return run


@pytest.fixture
def images(tiny_images: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_images, tmp_path / "images")


@pytest.fixture
def earlier(extract, images: Path, tmp_path: Path) -> Path:
    """A cache of 20 of the 24 images."""
    return extract_fewer(extract, images, tmp_path)


def extract_fewer(extract, images: Path, tmp_path: Path, **flags: Any) -> Path:
    fewer = shutil.copytree(images, tmp_path / "fewer")
    for key in NEW_IMAGES:
        (fewer / key).unlink()
    extract(tmp_path / "earlier", images=str(fewer), shard_size=3, seeds="0-1", **flags)
    return tmp_path / "earlier"


def contents(root: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Everything that a cache holds, by key and seed."""
    reader, found = CacheReader(root), {}
    for seed in reader.seeds:
        rows, keys, views = reader.rows(seed), reader.column("key", seed), reader.column("view", seed)
        labels = reader.column("label", seed)
        streamed = [spec.name for spec in reader.manifest.arrays if spec.chunking == "sample"]
        arrays = {name: reader.read(name, [seed] * len(rows), rows) for name in streamed}
        for place, row in enumerate(rows):
            values = {name: array[place] for name, array in arrays.items()}
            found[str(keys[row]), seed] = {**values, "view": views[row], "label": labels[row]}
    return found


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_a_grown_folder_costs_the_new_images_alone(
    extract, images: Path, whole: tuple[dict[str, Any], Path], looks: Looks, tmp_path: Path, container: str
) -> None:
    flags, whole_cache = whole
    earlier = extract_fewer(extract, images, tmp_path, **flags)
    looks.count = 0
    for path in images.rglob("*.png"):  # images of the earlier cache are not even decoded
        if path.relative_to(images).as_posix() not in NEW_IMAGES:
            path.write_bytes(bytes(path.stat().st_size))
    result = extract(tmp_path / "new", images=str(images), reuse=earlier, format=container, **flags)
    assert looks.count == 2 * len(NEW_IMAGES)
    assert (result.views_written, result.views_copied, result.shards_written, result.holes) == (48, 40, 12, 0)
    assert verify_cache(tmp_path / "new", full=True, workers=2).whole
    found, held, fresh = contents(tmp_path / "new"), contents(earlier), contents(whole_cache)
    assert found.keys() == fresh.keys()
    for place, values in held.items():
        assert_same(values, found[place])
    for place, values in fresh.items():
        for name in ("jpeg" if "jpeg" in values else "pixels", "pixel_digest", "view", "label"):
            np.testing.assert_array_equal(values[name], found[place][name])
        np.testing.assert_allclose(values["importance"], found[place]["importance"], rtol=1e-4)
    manifests = {
        name: CacheLayout(path).load_manifest()
        for name, path in (("new", tmp_path / "new"), ("earlier", earlier), ("fresh", whole_cache))
    }
    assert manifests["new"].recipe == manifests["fresh"].recipe
    assert manifests["new"].encoding.digest == manifests["earlier"].encoding.digest
    for seed, shard in ((0, 0), (1, 5)):
        ours, theirs = (CacheLayout(path).load_receipt(seed, shard) for path in (tmp_path / "new", whole_cache))
        for name in ("feature_norm", "importance_entropy"):
            assert ours.statistics[name] == pytest.approx(theirs.statistics[name], abs=2e-6)
    extract(tmp_path / "new", images=str(images), format=container, **flags)  # without --reuse: all is there
    assert looks.count == 2 * len(NEW_IMAGES)


def test_without_calibration_it_is_a_fresh_cache(extract, images: Path, tmp_path: Path, files) -> None:
    """fp16 has no calibration; with new images at the end, the teacher sees the batches that a fresh run shows it."""
    extract(tmp_path / "earlier", images=str(images), precision="fp16", limit=16)
    extract(tmp_path / "new", images=str(images), precision="fp16", reuse=tmp_path / "earlier")
    extract(tmp_path / "fresh", images=str(images), precision="fp16")
    assert files(tmp_path / "new") == files(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"layers": "all"}, "images"),
        ({"tokens": "top:0.5"}, "no images"),
        ({"format": "webdataset", "layers": "top2", "seeds": "1"}, "no images"),
        ({"precision": "klt1", "layers": "top2"}, "no images"),
        # the other pairs add no code path: with an empty image, reading it would fail in each
        pytest.param({"precision": "fp16"}, "images", marks=pytest.mark.slow),
        pytest.param({"pixels": "none", "layers": "12"}, "no images", marks=pytest.mark.slow),
        pytest.param({"layers": "all"}, "no images", marks=pytest.mark.slow),
        pytest.param({"tokens": "top:0.5"}, "images", marks=pytest.mark.slow),
    ],
)
def test_another_encoding_looks_at_the_stored_pixels(
    extract, images: Path, whole_cache: Path, tmp_path: Path, files, given: str, changes: dict[str, Any], capsys
) -> None:
    extract(tmp_path / "fresh", **changes)
    assert "--view-processes" not in capsys.readouterr().err
    for path in images.rglob("*.png"):
        path.write_bytes(bytes(path.stat().st_size))  # no image any more, of the same size
    source = str(images) if given == "images" else None
    result = extract(tmp_path / "new", images=source, reuse=whole_cache, view_processes=3, **changes)
    assert f"--view-processes 3 changes nothing: threads read the views of {whole_cache}" in capsys.readouterr().err
    assert result.views_copied == 0
    assert files(tmp_path / "new") == files(tmp_path / "fresh")


def test_another_teacher_in_a_grown_folder_decodes_the_new_images_alone(
    extract, earlier: Path, images: Path, tmp_path: Path, files
) -> None:
    changes = {"layers": "top2", "seeds": "0-2", "images": str(images)}
    extract(tmp_path / "fresh", **{**changes, "seeds": "0-1"})
    extract(tmp_path / "fresh", **changes)
    extract(tmp_path / "new", **{**changes, "seeds": "0-1"}, reuse=earlier)
    extract(tmp_path / "new", **changes, reuse=earlier)
    assert files(tmp_path / "new") == files(tmp_path / "fresh")
    garbled = shutil.copytree(images, tmp_path / "garbled")
    (garbled / NEW_IMAGES[0]).write_bytes(bytes((garbled / NEW_IMAGES[0]).stat().st_size))
    result = extract(tmp_path / "holes", **{**changes, "images": str(garbled), "seeds": "0"}, reuse=earlier)
    assert result.holes == 1


def test_seeds_that_are_not_there_are_computed(
    extract, images: Path, whole_cache: Path, looks, tmp_path, files
) -> None:
    extract(tmp_path / "one", seeds="1")
    looks.count = 0
    result = extract(tmp_path / "new", seeds="0-1", reuse=tmp_path / "one")
    assert (result.views_copied, looks.count) == (24, 24)
    held, found = contents(tmp_path / "one"), contents(tmp_path / "new")
    for place, values in held.items():
        assert_same(values, found[place])
    assert len(found) == 48


def test_a_replaced_image_is_looked_at_again(extract, images: Path, whole_cache: Path, looks, tmp_path, files) -> None:
    """One has another size, so that nothing is known by sizes; another has the same size and other pixels."""
    fresh = contents(whole_cache)
    same_size = (images / "class1/015.png").stat().st_size
    shutil.copy(images / "class1/020.png", images / "class0/003.png")
    shutil.copy(images / "class0/001.png", images / "class1/015.png")
    assert (images / "class1/015.png").stat().st_size == same_size
    with (images / "class0/003.png").open("ab") as file:
        file.write(b"\0")
    (images / "class1/022.png").unlink()
    result = extract(tmp_path / "new", images=str(images), reuse=whole_cache)
    assert (result.views_copied, looks.count) == (2 * 21, 2 * 2)
    found = contents(tmp_path / "new")
    assert verify_cache(tmp_path / "new", full=True, workers=2).whole
    for place, values in found.items():
        if place[0] in ("class0/003.png", "class1/015.png"):
            assert not np.array_equal(values["pixels"], fresh[place]["pixels"])
        else:
            assert_same(values, fresh[place])


def test_holes_are_tried_again(extract, images: Path, looks, tmp_path: Path, files) -> None:
    whole = (images / "class0/005.png").read_bytes()
    (images / "class0/005.png").write_bytes(bytes(len(whole)))
    assert extract(tmp_path / "earlier", images=str(images)).holes == 2
    changes = {"layers": "top2", "images": None}
    extract(tmp_path / "fresh", **{**changes, "images": str(images)})
    extract(
        tmp_path / "other", **changes, reuse=tmp_path / "earlier"
    )  # without images a hole stays one, reason and all
    assert files(tmp_path / "other") == files(tmp_path / "fresh")
    (images / "class0/005.png").write_bytes(whole)
    looks.count = 0
    result = extract(tmp_path / "new", images=str(images), reuse=tmp_path / "earlier")
    assert (result.holes, result.views_copied, looks.count) == (0, 46, 2)


def test_part_of_the_images_still_counts_as_the_same(extract, whole_cache: Path, looks, tmp_path: Path) -> None:
    result = extract(tmp_path / "new", limit=5, reuse=whole_cache)
    assert (result.views_copied, looks.count) == (10, 0)
    extract(tmp_path / "other", limit=5, reuse=whole_cache, layers="top2")  # not refused


def test_what_was_copied_was_made_by_other_versions(extract, earlier: Path, images: Path, tmp_path: Path) -> None:
    from lookonce.shared.files.atomic import write_json
    from lookonce.storage_schemas.problems import sealed

    path = CacheLayout(earlier).receipt_file(0, 0)
    document = json.loads(path.read_text())
    write_json(path, sealed({**document, "versions": {**document["versions"], "torch": "1.13"}}))
    extract(tmp_path / "new", images=str(images), reuse=earlier)
    ours = [CacheLayout(tmp_path / "new").load_receipt(seed, 0).versions for seed in (0, 1)]
    assert ours[0]["copied-torch"] == "1.13"
    assert ours[0]["torch"] == ours[1]["torch"] == document["versions"]["torch"]
    assert not [name for name in ours[1] if name.startswith("copied")]


@pytest.mark.parametrize("changes", [{"layers": "top2"}, pytest.param({}, marks=pytest.mark.slow)])
def test_killed_and_resumed(
    forks, tiny_arguments, extract_tiny, extract, earlier, images, tmp_path, files, receipts, changes
) -> None:
    extract(tmp_path / "undisturbed", images=str(images), reuse=earlier, **changes)
    root, changes = tmp_path / "new", {"images": images, "reuse": earlier, **changes}
    running = forks.start(tiny_arguments(root, **changes))
    running.until(lambda: root.is_dir() and len(receipts(root)) >= 4)
    running.kill_tree()
    assert len(receipts(root)) < 12
    ended = extract_tiny(root, **changes)
    assert ended.code == 0, ended.err
    assert f"--reuse {earlier}" in ended.err
    assert files(root) == files(tmp_path / "undisturbed")


@pytest.mark.slow
def test_ray_workers_write_the_bytes_of_inline(extract_tiny, extract, earlier, images, tmp_path, files) -> None:
    extract(tmp_path / "inline", images=str(images), reuse=earlier)
    ended = extract_tiny(tmp_path / "ray", images=images, reuse=earlier, executor="ray", workers=2)
    assert ended.code == 0, ended.err
    assert "48 views (40 of them copied, the others at " in ended.out
    assert files(tmp_path / "ray") == files(tmp_path / "inline")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"reuse": "/nowhere/cache"}, 1, ["/nowhere/cache: no manifest.json here", "does not exist"]),
        ({"images": None, "reuse": None}, 2, ["--images: a folder of images is needed by extract-features"]),
        ({"images": None, "limit": 3}, 2, ["--images: a folder of images is needed by --limit"]),
        ({"images": None, "seeds": "1-2"}, 2, ["it has no views of seeds 2", "give --images"]),
        ({"view_size": 48}, 1, ["it has other views", "view.size: cache has 32, this run has 48"]),
        ({"patch_size": 16}, 1, ["it has other views", "patch_size: cache has 8, this run has 16"]),
        ({"seeds": "2-3"}, 1, ["it has seeds 0, 1, this run asks for 2, 3: nothing can be reused"]),
    ],
)
def test_what_is_asked_for_cannot_be(extract_tiny, whole_cache, tmp_path, changes, code, words) -> None:
    ended = extract_tiny(tmp_path / "new", **{"reuse": whole_cache, **changes})
    assert ended.code == code
    for word in words:
        assert word in ended.sentence
    assert not (tmp_path / "new").exists()


def test_the_folder_of_the_earlier_cache_is_refused(extract_tiny, whole_cache, times) -> None:
    before = times(whole_cache)
    ended = extract_tiny(whole_cache, reuse=whole_cache)
    assert ended.code == 2
    assert "is the folder of --out" in ended.sentence
    assert times(whole_cache) == before


def test_no_whole_pixels_to_look_at(extract, extract_tiny, images, tmp_path) -> None:
    extract(tmp_path / "bare", pixels="none")
    extract(tmp_path / "some", tokens="top:0.5")
    ended = extract_tiny(tmp_path / "new", reuse=tmp_path / "bare", layers="top2", pixels="none")
    assert "teacher.blocks: cache has [8, 9, 10, 11, 12], this run has [11, 12]" in ended.sentence
    assert "it stores no pixels" in ended.sentence
    assert "pixels: cache has none" in extract_tiny(tmp_path / "new", reuse=tmp_path / "bare").sentence
    assert "pixels of some patches only" in extract_tiny(tmp_path / "new", reuse=tmp_path / "some").sentence
    (images / "class0/003.png").unlink()
    extract(tmp_path / "whole", limit=8)
    ended = extract_tiny(tmp_path / "new", reuse=tmp_path / "whole", layers="top2", images=images)
    assert "1 of its 8 images are not in" in ended.sentence
    shutil.copytree(images / "class1", tmp_path / "others/class2")
    ended = extract_tiny(tmp_path / "new", reuse=tmp_path / "whole", images=tmp_path / "others")
    assert "none of its 8 images is in" in ended.sentence
    assert not CacheLayout(tmp_path / "new").manifest_file.exists()
    copied = extract(tmp_path / "new", reuse=tmp_path / "bare", pixels="none")
    assert copied.views_copied == 48


@pytest.mark.parametrize(("array", "changes"), [("importance", {}), ("pixels", {"layers": "top2"})])
def test_damage_is_named_and_not_copied(extract_tiny, earlier, images, tmp_path, receipts, array, changes) -> None:
    path = next(path for path in (earlier / f"seed-0000/{array}/c/2").rglob("0") if path.is_file())
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    ended = extract_tiny(tmp_path / "new", reuse=earlier, images=images, precision="int8", **changes)
    assert ended.code == 1
    assert f"{path} (array {array!r}): the digest of its bytes" in ended.sentence
    written = [json.loads(receipt.read_text()) for receipt in receipts(tmp_path / "new")]
    # later shards may be there: the teacher threads run in parallel, and committed shards are complete
    assert all((receipt["seed"], receipt["shard"]) != (0, 2) for receipt in written)
    CacheLayout(earlier).receipt_file(0, 2).unlink()
    ended = extract_tiny(tmp_path / "new", reuse=earlier, images=images, **changes)
    assert "seed 0 has no receipt for 1 of 7 shards (2)" in ended.sentence


def test_a_cache_in_the_way_says_how_it_can_be_used(extract_tiny, earlier, images, times) -> None:
    before = times(earlier)
    ended = extract_tiny(earlier, images=images, shard_size=3)
    assert ended.code == 1
    assert "dataset.samples: cache has 20, this run has 24" in ended.sentence
    assert f"choose another --out (with --reuse {earlier}," in ended.sentence
    assert "--reuse" not in extract_tiny(earlier, images=images, view_size=48).sentence
    assert times(earlier) == before
