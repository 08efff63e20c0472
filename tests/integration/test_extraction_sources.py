"""The same images out of a folder and out of tars: the same cache, to the last byte."""

from __future__ import annotations

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
