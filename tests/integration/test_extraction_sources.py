"""The same images out of a folder and out of tars: the same cache, to the last byte."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Files = Callable[[Path], dict[str, str]]


@pytest.fixture
def tars(tiny_images: Path, tmp_path: Path) -> str:
    """The images of the folder in three tars, in an order that is not that of the keys."""
    names = sorted(str(path.relative_to(tiny_images)) for path in tiny_images.rglob("*.png"))
    for part in range(3):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            for name in reversed(names[part::3]):
                tar.add(tiny_images / name, arcname=name)
    return f"{tmp_path}/{{0..2}}.tar"


def test_tars_give_the_cache_that_their_folder_gives(
    extract_tiny: Callable[..., Any], whole_cache: Path, tars: str, files: Files, tmp_path: Path
) -> None:
    """A view is drawn from its key, and a key is the name in folder or tar: pixels, targets and fingerprint agree."""
    ended = extract_tiny(tmp_path / "cache", images=tars)
    assert ended.code == 0, ended.err
    assert files(tmp_path / "cache") == files(whole_cache)


def test_a_tar_that_is_cut_off_is_named(extract_tiny: Callable[..., Any], tars: str, tmp_path: Path) -> None:
    with (tmp_path / "1.tar").open("r+b") as tar:
        tar.truncate(5000)
    ended = extract_tiny(tmp_path / "cache", images=tars)
    assert ended.code == 1
    assert f"{tmp_path}/1.tar: expected a whole tar" in ended.err
    assert not (tmp_path / "cache").exists()


def test_other_classes_are_not_added_to_a_cache(
    extract_tiny: Callable[..., Any], tiny_images: Path, files: Files, tmp_path: Path
) -> None:
    """Labels lie in the tar, not in the keys: the recipe is the same, and label 0 would be a cat and an ant."""
    root, names = tmp_path / "cache", sorted(tiny_images.rglob("*.png"))[:4]
    for words in (["cat", "dog"], ["dog", "ant"]):
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for number, path in enumerate(names):
                tar.add(path, arcname=f"{number}.png")
                label = tarfile.TarInfo(f"{number}.cls")
                label.size = 3
                tar.addfile(label, io.BytesIO(words[number % 2].encode()))
        if words[0] == "cat":
            assert extract_tiny(root, images=tmp_path / "x.tar", seeds="0").code == 0
            before = files(root)
    ended = extract_tiny(root, images=tmp_path / "x.tar", seeds="0-1")
    assert ended.code == 1
    assert "label 0 is 'cat' in this cache and 'ant' in the images" in ended.sentence
    assert files(root) == before


@pytest.mark.filterwarnings("ignore:Cannot (locate|pickle)")  # dill's, while datasets writes
def test_a_dataset_gives_the_views_of_its_own_keys(
    extract_tiny: Callable[..., Any], tiny_images: Path, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the optional library datasets")
    datasets.disable_progress_bars()
    rows = [{"bytes": path.read_bytes(), "path": None} for path in sorted(tiny_images.rglob("*.png"))]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": rows}, features=features).save_to_disk(tmp_path / "x")
    ended = extract_tiny(tmp_path / "cache", images=f"hf:{tmp_path}/x")
    assert ended.code == 0, ended.err
    assert "24 samples" in ended.out
    assert "0 holes" in ended.out
