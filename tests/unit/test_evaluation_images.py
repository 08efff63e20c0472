from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookonce.commands.evaluation_commands.knn import KnnOptions
from lookonce.commands.evaluation_commands.options import open_images
from lookonce.shared.errors import SourceError, UnreadableImageError, UsageError
from lookonce.shared.views import center_view
from lookonce.train.evaluation.labelled_images import open_labelled_images


def write(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, key in enumerate(["train/b/2.png", "train/a/1.png", "train/b/1.png", "test/a/9.png", "test/b/8.png"]):
        write(tmp_path / key, number)
    return tmp_path


def test_both_splits_in_key_order_with_one_numbering_of_classes(folder: Path) -> None:
    images = open_labelled_images(folder)
    assert images.classes == ("a", "b")
    assert [entry.key for entry in images.train.listing.entries] == ["a/1.png", "b/1.png", "b/2.png"]
    assert images.train.labels.tolist() == [0, 1, 1]
    assert images.test.labels.tolist() == [0, 1]
    assert (len(images.train), len(images.test)) == (3, 2)


def test_batches_are_centre_views_of_all_images_in_order(folder: Path) -> None:
    images = open_labelled_images(folder)
    batches = list(images.train.batches(view_size=16, batch_size=2))
    assert [batch.shape for batch in batches] == [(2, 16, 16, 3), (1, 16, 16, 3)]
    for view, key in zip(np.concatenate(batches), ["a/1.png", "b/1.png", "b/2.png"], strict=True):
        np.testing.assert_array_equal(view, center_view(Image.open(folder / "train" / key), 16))


def test_an_unreadable_image_is_named_not_left_out(folder: Path) -> None:
    (folder / "test/b/7.png").write_bytes(b"no image")
    batches = open_labelled_images(folder).test.batches(view_size=16, batch_size=8)
    with pytest.raises(UnreadableImageError, match=r"test/b/7\.png"):
        list(batches)


def test_classes_that_differ_are_named(folder: Path) -> None:
    write(folder / "train/only-train/1.png")
    write(folder / "test/only-test/1.png")
    with pytest.raises(SourceError, match=r"only-train only in train/ and only-test only in test/"):
        open_labelled_images(folder)


def test_many_differing_classes_are_counted(folder: Path) -> None:
    for number in range(8):
        write(folder / f"train/more-{number}/1.png")
    with pytest.raises(SourceError, match=r"more-0, .*more-4 and 3 more only in train/ and nothing only in test/"):
        open_labelled_images(folder)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_split_is_named_with_what_is_there(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(SourceError, match=rf"found no {missing}/ \(elsewhere, "):
        open_labelled_images(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere: .*no such folder"):
        open_labelled_images(tmp_path / "nowhere")


def test_a_url_is_refused() -> None:
    with pytest.raises(UsageError, match="--images s3:/bucket/flowers: s3: URLs are not supported"):
        open_labelled_images(Path("s3://bucket/flowers"))


def test_images_outside_of_class_folders_are_named(folder: Path) -> None:
    write(folder / "train/loose.png")
    with pytest.raises(SourceError, match=r"found loose\.png outside"):
        open_labelled_images(folder)


def test_files_left_out_are_in_the_notes_and_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert open_labelled_images(folder).notes == []
    (folder / "train/a/notes.txt").write_text("x")
    note = f"{folder / 'train'}: left out: 1 file (1 .txt)"
    assert open_labelled_images(folder).notes == [note]
    options = KnnOptions(images=folder, untrained=True, student="vit_tiny_patch16_224")
    open_images(options, "k-NN")
    assert note in capsys.readouterr().err.splitlines()
