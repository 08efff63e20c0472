"""Hugging Face datasets: splits, columns, labels and keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lookonce.shared.errors import SourceError, UsageError
from lookonce.shared.sources import NO_LABEL, HuggingFaceImages, hugging_face, open_source

pytestmark = pytest.mark.filterwarnings("ignore:Cannot (locate|pickle)")  # dill's, while datasets writes


@pytest.fixture
def datasets() -> Any:
    library = pytest.importorskip("datasets", reason="needs the optional library datasets")
    library.disable_progress_bars()
    hugging_face._opened.cache_clear()
    return library


def images(library: Any, count: int, **columns: tuple[Any, list[Any]]) -> Any:
    """A dataset with images of 1, 2, 3 ... bytes and more columns (feature, values)."""
    features = {"image": library.Image(), **{name: feature for name, (feature, _) in columns.items()}}
    rows = {name: values for name, (_, values) in columns.items()}
    data = {"image": [{"bytes": bytes(row + 1), "path": None} for row in range(count)], **rows}
    return library.Dataset.from_dict(data, features=library.Features(features))


def entries(text: str) -> list[tuple[str, int, int]]:
    return [(entry.key, entry.label, entry.byte_count) for entry in open_source(text).listing().entries]


def test_splits(datasets: Any, tmp_path: Path) -> None:
    whole = images(datasets, 3)
    datasets.DatasetDict(train=whole, test=whole.select(range(1, 3))).save_to_disk(tmp_path / "x")
    assert entries(f"hf:{tmp_path}/x:test") == [("test/000000000", NO_LABEL, 2), ("test/000000001", NO_LABEL, 3)]
    assert len(entries(f"hf:{tmp_path}/x:train")) == 3
    for text in (f"hf:{tmp_path}/x", f"hf:{tmp_path}/x:dev"):
        with pytest.raises(SourceError, match=r"expected one of the splits train, test, as hf:.*:SPLIT"):
            entries(text)
    datasets.DatasetDict(only=whole).save_to_disk(tmp_path / "y")
    assert entries(f"hf:{tmp_path}/y")[0][0] == "only/000000000"
    whole.save_to_disk(tmp_path / "z")
    assert entries(f"hf:{tmp_path}/z")[0][0] == "000000000"
    with pytest.raises(SourceError, match="found one without; leave :train out"):
        entries(f"hf:{tmp_path}/z:train")


def test_labels(datasets: Any, tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["cat", "ant", "none such"])
    images(datasets, 3, label=(names, [1, 0, None])).save_to_disk(tmp_path / "x")
    listing = open_source(f"hf:{tmp_path}/x").listing()
    assert listing.classes == ("cat", "ant", "none such")
    assert [entry.label for entry in listing.entries] == [1, 0, NO_LABEL]
    images(datasets, 2, fine=(names, [1, 2])).save_to_disk(tmp_path / "only")
    assert [entry[1] for entry in entries(f"hf:{tmp_path}/only")] == [1, 2]
    images(datasets, 2, fine=(names, [1, 2]), coarse=(names, [0, 0])).save_to_disk(tmp_path / "two")
    assert open_source(f"hf:{tmp_path}/two").listing().classes == ()
    images(datasets, 2, label=(datasets.Value("int64"), [3, 1])).save_to_disk(tmp_path / "numbers")
    assert [entry[1] for entry in entries(f"hf:{tmp_path}/numbers")] == [3, 1]
    images(datasets, 2, label=(datasets.Value("string"), ["b", "a"])).save_to_disk(tmp_path / "names")
    assert open_source(f"hf:{tmp_path}/names").listing().classes == ("a", "b")


def test_rows_that_were_added_keep_the_keys(datasets: Any, tmp_path: Path) -> None:
    images(datasets, 2).save_to_disk(tmp_path / "x")
    images(datasets, 5).save_to_disk(tmp_path / "y", num_shards=3)
    assert entries(f"hf:{tmp_path}/x") == entries(f"hf:{tmp_path}/y")[:2]


def test_the_image_column(datasets: Any, tmp_path: Path) -> None:
    column = [{"bytes": b"22", "path": None}]
    images(datasets, 1, other=(datasets.Image(), column)).save_to_disk(tmp_path / "x")
    assert entries(f"hf:{tmp_path}/x")[0][2] == 1
    renamed = images(datasets, 1, other=(datasets.Image(), column)).rename_column("image", "left")
    renamed.save_to_disk(tmp_path / "y")
    with pytest.raises(SourceError, match="expected one image column or one called 'image', found left, other"):
        entries(f"hf:{tmp_path}/y")


def test_rows_without_an_image(datasets: Any, tmp_path: Path) -> None:
    data = {"image": [{"bytes": b"1", "path": None}, None]}
    datasets.Dataset.from_dict(data, features=datasets.Features({"image": datasets.Image()})).save_to_disk(tmp_path)
    with pytest.raises(SourceError, match="row 1: expected an image, found nothing"):
        entries(f"hf:{tmp_path}")


def test_a_folder_that_is_no_dataset(datasets: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"hf:{tmp_path}: expected a folder written by save_to_disk"):
        entries(f"hf:{tmp_path}")


def test_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    assert HuggingFaceImages.named("a:b") == HuggingFaceImages(f"{tmp_path}/a:b", None)
    assert HuggingFaceImages.named("a:b:train") == HuggingFaceImages(f"{tmp_path}/a:b", "train")
    assert HuggingFaceImages.named("owner/name:train") == HuggingFaceImages("owner/name", "train")
    assert HuggingFaceImages.named("owner/name") == HuggingFaceImages("owner/name", None)
    assert HuggingFaceImages.named("./missing:train") == HuggingFaceImages(f"{tmp_path}/missing", "train")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    hugging_face._opened.cache_clear()
    with pytest.raises(UsageError, match=r"which is not installed here .*pip install 'lookonce\[hf\]'"):
        open_source("hf:owner/name").listing()
