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


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_labels_of_every_integer_type(datasets: Any, tmp_path: Path, kind: str) -> None:
    images(datasets, 3, label=(datasets.Value(kind), [3, 1, None])).save_to_disk(tmp_path / "x")
    assert [entry[1] for entry in entries(f"hf:{tmp_path}/x")] == [3, 1, NO_LABEL]


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_labels_of_every_text_type(datasets: Any, tmp_path: Path, kind: str) -> None:
    images(datasets, 3, label=(datasets.Value(kind), ["b", "a", None])).save_to_disk(tmp_path / "x")
    listing = open_source(f"hf:{tmp_path}/x").listing()
    assert (listing.classes, listing.labels.tolist()) == (("a", "b"), [1, 0, NO_LABEL])


def test_truth_values_are_names(datasets: Any, tmp_path: Path) -> None:
    images(datasets, 2, label=(datasets.Value("bool"), [True, False])).save_to_disk(tmp_path / "x")
    listing = open_source(f"hf:{tmp_path}/x").listing()
    assert (listing.classes, listing.labels.tolist()) == (("False", "True"), [1, 0])


def test_a_column_that_cannot_be_labels_is_refused_by_name(datasets: Any, tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["cat", "ant"])
    for number, (feature, values) in enumerate(
        [
            (datasets.Value("float32"), [0.5, 1.0]),
            (datasets.Value("binary"), [b"a", b"b"]),
            (datasets.List(names), [[0], [1]]),
            ({"a": datasets.Value("int64")}, [{"a": 1}, {"a": 2}]),
        ]
    ):
        images(datasets, 2, label=(feature, values)).save_to_disk(tmp_path / str(number))
        with pytest.raises(SourceError, match=rf"hf:{tmp_path}/{number}: the column label contains .*remove_columns"):
            entries(f"hf:{tmp_path}/{number}")


def test_several_columns_of_labels_are_never_chosen_from_silently(datasets: Any, tmp_path: Path) -> None:
    names, number = datasets.ClassLabel(names=["cat", "ant", "x"]), datasets.Value("int64")

    def listed(name: str, **columns: Any) -> tuple[list[int], tuple[str, ...]]:
        images(datasets, 2, **columns).save_to_disk(tmp_path / name)
        listing = open_source(f"hf:{tmp_path}/{name}").listing()
        return listing.labels.tolist(), listing.notes

    fine, coarse = (names, [1, 2]), (names, [0, 0])
    labels, (note,) = listed("two", fine=fine, coarse=coarse)
    assert labels == [NO_LABEL] * 2
    assert note.startswith(
        "no labels are used, because there are several columns of classes; rename one of fine, coarse"
    )
    assert listed("named", label=fine, coarse=coarse) == (
        [1, 2],
        ("labels are those of the column label, not of coarse",),
    )
    labels, (note,) = listed("other", target=(number, [1, 2]))
    assert labels == [NO_LABEL] * 2
    assert "no column called label; rename one of target to label (rename_column)" in note
    assert listed("one", fine=fine, size=(number, [1, 2])) == ([1, 2], ())


def test_the_cases_that_were_reported(datasets: Any) -> None:
    for name in ("uint8", "large_string", "control_int64"):
        folder = Path(__file__).resolve().parents[3] / "shared" / "cases" / "labels" / name
        if not folder.is_dir():
            pytest.skip(f"needs {folder}")
        assert (open_source(f"hf:{folder}").listing().labels >= 0).all()


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
