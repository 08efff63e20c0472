from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lookonce.shared.errors import NumericalError, SourceError, UnreadableImageError, UsageError
from lookonce.shared.normalisation import IMAGENET
from lookonce.train.evaluation.segmentation import scores as scores_module
from lookonce.train.evaluation.segmentation.class_mask import read_class_mask
from lookonce.train.evaluation.segmentation.heads import KnnHead
from lookonce.train.evaluation.segmentation.masked_images import MaskedImage, open_masked_images, window_corners
from lookonce.train.evaluation.segmentation.scores import ConfusionMatrix, patch_classes, pixel_classes
from lookonce.train.evaluation.segmentation.segment import SegmentResult, evaluate_segmentation
from lookonce.train.evaluation.segmentation.segment_config import SegmentConfig

COLOURS = np.array([(20, 30, 200), (20, 180, 40), (210, 30, 20), (240, 240, 240)], dtype=np.uint8)
VIEW, PATCH = 32, 8


class ColourEncoder:
    """Features of a patch: its mean colour; counts the windows that it has seen."""

    view_size, block, block_count = VIEW, 2, 3
    device, normalisation = torch.device("cpu"), IMAGENET

    def __init__(self) -> None:
        self.most = 0

    def __call__(self, views: NDArray[np.uint8]) -> Tensor:
        self.most = max(self.most, len(views))
        pixels = torch.from_numpy(views).permute(0, 3, 1, 2).float() / 255 - 0.5
        return functional.avg_pool2d(pixels, PATCH).flatten(2).transpose(1, 2)

    def document(self) -> Mapping[str, Any]:
        return {"kind": "student", "name": "colours", "weights": None, "view_size": VIEW, "pool": "patches"}


def png(pixels: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def save_pair(folder: Path, name: str, mask: NDArray[np.uint8], image: NDArray[np.uint8] | None = None) -> None:
    """A mask, and an image whose pixels have the colours of their classes."""
    for kind, pixels in (("images", COLOURS[mask % len(COLOURS)] if image is None else image), ("masks", mask)):
        path = folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pixels))


def blocks(height: int, width: int, seed: int, classes: int = 3, block: int = 8) -> NDArray[np.uint8]:
    """A mask of squares of random classes."""
    numbers = np.random.default_rng(seed).integers(0, classes, (height // block, width // block), dtype=np.uint8)
    return numbers.repeat(block, 0).repeat(block, 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split, count in (("train", 4), ("test", 2)):
        for number in range(count):
            save_pair(tmp_path / split, f"{number}", blocks(32, 48, seed=number + count))
    return tmp_path


def evaluate(data: Path, batch_size: int = 64, encoder: Any = None, **settings: Any) -> SegmentResult:
    train, test = (
        open_masked_images(name, data / name / "images", data / name / "masks") for name in ("train", "test")
    )
    config = SegmentConfig(**{"k": 1, **settings} if settings.get("head") != "linear" else settings)
    return evaluate_segmentation(encoder or ColourEncoder(), train, test, config, batch_size=batch_size)


@pytest.mark.parametrize("kind", ["L", "P", "I;16", "L;4", "L;1"])
def test_masks_of_every_kind_give_their_indices(kind: str) -> None:
    indices = np.arange(12).reshape(3, 4) % (2 if kind == "L;1" else 12)
    if kind == "I;16":
        data, indices = png(indices.astype(np.uint16) * 1000), indices * 1000
    elif kind == "L;1":
        data = png(indices.astype(bool))
    elif kind == "L;4":  # Pillow writes no grey of 4 bits: a palette of 4 bits, with the header of grey
        packed = b"".join(b"\0" + bytes([row[0] << 4 | row[1], row[2] << 4 | row[3]]) for row in indices.tolist())
        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", 4, 3, 4, 0, 0, 0, 0)),
            (b"IDAT", zlib.compress(packed)),
            (b"IEND", b""),
        ]
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
    elif kind == "P":
        image = Image.fromarray(indices.astype(np.uint8), "P")
        image.putpalette([value for number in range(256) for value in (255 - number, number, 7)])
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        data = buffer.getvalue()
    else:
        data = png(indices.astype(np.uint8))
    found = read_class_mask(data, "m.png")
    assert found.dtype == np.uint16
    assert np.array_equal(found, indices)


def test_masks_that_hold_no_indices_are_refused() -> None:
    colours = np.zeros((4, 4, 3), dtype=np.uint8)
    with pytest.raises(SourceError, match=r"m\.png: expected a mask of one channel .* found colours \(mode RGB\)"):
        read_class_mask(png(colours), "m.png")
    buffer = io.BytesIO()
    Image.fromarray(colours[..., 0]).save(buffer, "JPEG")
    with pytest.raises(SourceError, match="expected a mask as PNG, found another format"):
        read_class_mask(buffer.getvalue(), "m.png")
    noise = np.random.default_rng(0).integers(0, 9, (64, 64), dtype=np.uint8)
    with pytest.raises(SourceError, match=r"m\.png: not a readable mask of 500 bytes"):
        read_class_mask(png(noise)[:500], "m.png")


def test_a_patch_has_its_most_frequent_class() -> None:
    labels = np.array([[0, 1, 2, 2], [1, 1, -1, -1], [2, 0, -1, -1], [0, 2, -1, -1]])
    assert patch_classes(labels, 2, 3).tolist() == [1, 2, 0, -1]  # of two equally frequent ones the first
    assert patch_classes(np.array([[1]]), 2, 3).tolist() == [1] * 4
    assert patch_classes(np.array([[0, 1, 1], [2, 2, 2], [2, 2, 2]]), 4, 3).tolist()[:4] == [0, 0, 1, 1]


@pytest.mark.parametrize("strip", [1, 400, 1 << 24])
@pytest.mark.parametrize("side", [1, 3, 10])
def test_pixels_get_the_class_of_the_bilinearly_upsampled_scores(
    monkeypatch: pytest.MonkeyPatch, strip: int, side: int
) -> None:
    monkeypatch.setattr(scores_module, "STRIP_VALUES", strip)
    width = side * 2 - side // 3
    corners = [(0, 0), (0, width - side)]
    mask = np.zeros((side, width), dtype=np.uint16)
    image = MaskedImage(row=0, mask=mask, corners=corners, side=side, views=np.empty((2, 1, 1, 3), dtype=np.uint8))
    scores = torch.rand(2, 16, 5, generator=torch.Generator().manual_seed(side))
    total = torch.zeros(5, side, width)
    maps = scores.view(2, 4, 4, 5).permute(0, 3, 1, 2)
    for (_, left), upsampled in zip(corners, functional.interpolate(maps, size=side, mode="bilinear"), strict=True):
        total[:, :, left : left + side] += upsampled
    found = list(pixel_classes(scores, image))
    assert [rows.start for rows, _ in found] == [0, *(rows.stop for rows, _ in found[:-1])]
    assert torch.equal(torch.cat([predicted for _, predicted in found]), total.argmax(dim=0))


def test_windows_cover_the_image_and_overlap() -> None:
    for height, width in ((1, 1), (7, 100), (384, 288), (101, 100)):
        side, longer = min(height, width), max(height, width)
        starts = [max(corner) for corner in window_corners(height, width, "slide")]
        assert (starts[0], starts[-1]) == (0, longer - side)
        assert all(after - before <= max(1, side) for before, after in pairwise(starts))
    assert len(window_corners(288, 384, "slide")) == 2
    assert window_corners(384, 288, "crop") == [(48, 0)]


def test_iou_of_a_small_example() -> None:
    confusion = ConfusionMatrix(4)
    confusion.add(np.array([[0, 0, 1], [1, 1, -1]]), np.array([[0, 1, 1], [1, 2, 3]]))
    assert confusion.iou == [1 / 2, 2 / 4, 0.0, None]  # class 2 is predicted alone, class 3 only where nothing counts
    assert confusion.mean_iou == pytest.approx(1 / 3)
    assert confusion.pixel_accuracy == 3 / 5


@pytest.mark.parametrize("head", ["knn", "linear"])
@pytest.mark.parametrize("windows", ["slide", "crop"])
def test_features_that_show_the_class_give_nearly_every_pixel(data: Path, head: str, windows: str) -> None:
    more = {"epochs": 300, "base_lr": 0.5} if head == "linear" else {}
    result = evaluate(data, head=head, windows=windows, **more)
    assert result.confusion.pixel_accuracy > 0.8
    assert all(one is not None and one > 0.6 for one in result.confusion.iou)
    assert result.confusion.counts.sum() == 2 * 32 * (48 if windows == "slide" else 32)
    assert result.train_patches == 4 * 16 * (2 if windows == "slide" else 1)
    document = result.document()
    assert (document["view_size"], document["grid"], document["windows"]) == (VIEW, 4, windows)
    assert (document["block"], document["blocks"]) == (2, 3)
    assert document["largest_mask"] == [48 if windows == "slide" else 32, 32]
    assert f"block {document['block']} of 3" in result.text()
    again = evaluate(data, head=head, windows=windows, batch_size=3, **more)
    assert again.document() == document


def test_scores_do_not_depend_on_how_many_patches_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(count, 4, generator=generator) for count in (20, 9))
    head = KnnHead(train, torch.arange(20) % 3, k=5, classes=3)
    whole = head(test)
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(9))
    monkeypatch.setattr("lookonce.train.evaluation.segmentation.heads.COSINES", 40)
    torch.testing.assert_close(head(test), whole)


def test_memory_is_bounded_by_the_patches_and_the_batch(data: Path) -> None:
    encoder = ColourEncoder()
    result = evaluate(data, encoder=encoder, train_patches=10, batch_size=2)
    assert result.train_patches == 8  # two of each image
    assert encoder.most == 2
    assert evaluate(data, train_patches=10).document() == result.document()
    seeds = {evaluate(data, train_patches=10, seed=seed).confusion.counts.tobytes() for seed in range(4)}
    assert len(seeds) > 1
    assert evaluate(data, train_patches=3).train_patches == 3  # of three images


def test_ignored_pixels_count_nowhere(data: Path) -> None:
    for split in ("train", "test"):
        for path in sorted((data / split / "masks").iterdir()):
            mask = np.asarray(Image.open(path)).copy()
            mask[:, :8] = 255
            path.write_bytes(png(mask))
    result = evaluate(data)
    assert result.confusion.classes == 3
    assert result.confusion.counts.sum() == 2 * 32 * 40
    assert result.document()["ignored"] == [255]
    two = evaluate(data, ignore="0,255")
    assert two.confusion.counts[0].sum() == two.confusion.counts[:, 0].sum() == two.train_pixels[0] == 0
    assert two.confusion.iou[0] is None
    assert evaluate(data, ignore="none").confusion.classes == 256


def test_classes_that_training_lacks_are_named(data: Path) -> None:
    save_pair(data / "test", "other", np.full((16, 16), 3, dtype=np.uint8))
    result = evaluate(data)
    assert result.document()["classes_without_training"] == [3]
    assert result.confusion.iou[3] == 0
    assert result.text().splitlines()[-1] == "note      the training masks lack classes of the test masks: 3"


def test_an_index_above_the_classes_is_refused(data: Path) -> None:
    assert evaluate(data, classes=3).confusion.classes == 3
    assert evaluate(data, classes=7).confusion.classes == 7
    save_pair(data / "train", "other", np.full((16, 16), 9, dtype=np.uint8))
    message = r"train/masks/other\.png: expected class indices from 0 to 2 \(--classes 3\), found 9; correct --classes"
    with pytest.raises(SourceError, match=message):
        evaluate(data, classes=3)
    assert evaluate(data, classes=3, ignore="9").confusion.classes == 3


def test_one_class_or_none_is_refused(data: Path) -> None:
    with pytest.raises(UsageError, match=r"at least 2 classes in the training masks, found 1 \(2\)"):
        evaluate(data, ignore="0,1")
    with pytest.raises(UsageError, match=r"found 0 \(all pixels are ignored\)"):
        evaluate(data, ignore="0,1,2")
    for path in (data / "test" / "masks").iterdir():
        path.write_bytes(png(np.full((32, 48), 255, dtype=np.uint8)))
    with pytest.raises(UsageError, match=r"expected pixels that count, .* ignored class \(255\); check --ignore"):
        evaluate(data)


def test_an_image_of_one_pixel_and_one_without_a_class_take_part(data: Path) -> None:
    for split in ("train", "test"):
        save_pair(data / split, "dot", np.array([[2]], dtype=np.uint8))
        save_pair(data / split, "void", np.full((9, 9), 255, dtype=np.uint8), np.zeros((9, 9, 3), dtype=np.uint8))
    result = evaluate(data)
    assert result.confusion.counts.sum() == 2 * 32 * 48 + 1
    assert result.mask_sizes == ((1, 1), (48, 32))


def unpaired_image(data: Path) -> None:
    (data / "train" / "masks" / "1.png").unlink()


def unpaired_mask(data: Path) -> None:
    (data / "test" / "images" / "0.png").unlink()


def another_size(data: Path) -> None:
    (data / "test" / "masks" / "1.png").write_bytes(png(blocks(16, 24, seed=1)))


def coloured_mask(data: Path) -> None:
    (data / "train" / "masks" / "2.png").write_bytes(png(np.zeros((32, 48, 3), dtype=np.uint8)))


def same_name(data: Path) -> None:
    Image.new("RGB", (48, 32)).save(data / "train" / "images" / "2.jpg")


def long_strip(data: Path) -> None:
    save_pair(data / "train", "strip", np.zeros((1, 17), dtype=np.uint8))


def damaged_image(data: Path) -> None:
    path = data / "train" / "images" / "3.png"
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (
            unpaired_image,
            SourceError,
            r"train/images/1\.png: expected a mask .* found none \(1 of 4 images have no mask",
        ),
        (
            unpaired_mask,
            SourceError,
            r"test/masks/0\.png: expected an image .* found none \(1 of 2 masks have no image",
        ),
        (another_size, SourceError, r"masks/1\.png: .*images/1\.png, 48 x 32 pixels .*, found 24 x 16; make the mask"),
        (coloured_mask, SourceError, r"train/masks/2\.png: expected a mask of one channel .* found colours"),
        (same_name, SourceError, r"train/images: expected one file of each name, found 2\.jpg and 2\.png"),
        (long_strip, SourceError, r"strip\.png: 17 x 1 pixels .* longer than 16 windows; .* --windows crop"),
        (damaged_image, UnreadableImageError, r"train/images/3\.png: not a readable image"),
    ],
)
def test_bad_data_is_named(data: Path, damage: Callable[[Path], None], kind: type[Exception], message: str) -> None:
    damage(data)
    with pytest.raises(kind, match=message):
        evaluate(data)


def test_features_that_are_not_finite_name_the_image(data: Path) -> None:
    class Broken(ColourEncoder):
        def __call__(self, views: NDArray[np.uint8]) -> Tensor:
            return super().__call__(views) * torch.nan

    with pytest.raises(NumericalError, match=r"train: the features of 0\.png are NaN or infinite"):
        evaluate(data, encoder=Broken())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ignore": "-1"}, "--ignore '-1': expected class indices such as 255 or 0,255, or none"),
        ({"ignore": ""}, "--ignore '': expected"),
        ({"ignore": "70000"}, "--ignore '70000': expected"),
        ({"classes": 1}, "--classes 1: must be at least 2"),
        ({"train_patches": 1}, "--train-patches 1: must be"),
        ({"epochs": 5}, "--epochs 5 has no effect here: it goes with --head linear"),
        ({"head": "linear", "k": 3}, "--k 3 has no effect here: it goes with --head knn"),
        ({"head": "mlp"}, "--head"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SegmentConfig(**settings)
