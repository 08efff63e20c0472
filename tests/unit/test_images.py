"""Every kind of image file gives upright RGB, or an error that names the file."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from lookonce.shared.errors import SourceError, UnreadableImageError
from lookonce.shared.images.decode import MAXIMUM_PIXELS, decode_rgb


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    image = decode_rgb(data, "here")
    assert image.mode == "RGB"
    return np.array(image)


def photo_like(height: int = 37, width: int = 53) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    channels = [127 + 120 * np.sin(rows / 5 + columns / (7 + c)) for c in range(3)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for what Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = b"".join(chunk(*pair) for pair in chunks)
    body = chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF", "WEBP", "DIB", "JPEG2000", "QOI", "SGI", "PCX"])
def test_lossless_rgb_keeps_every_pixel(format: str) -> None:
    image = photo_like()
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(pixels_of(encode(image, format, **options)), np.array(image))


def test_jpeg_is_what_pillow_decodes() -> None:
    data = encode(photo_like(), "JPEG", quality=90)
    np.testing.assert_array_equal(pixels_of(data), np.array(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once(orientation: int, format: str) -> None:
    # What EXIF says the stored row 0 and column 0 are on the upright picture.
    stored = np.array(photo_like(16, 32).resize((64, 32), Image.Resampling.NEAREST))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }[orientation]
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    found = pixels_of(encode(Image.fromarray(stored), format, exif=exif, **options))
    expected = upright(stored)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (6 if format == "JPEG" else 0)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", b"Exif\0\0II*\0"])
def test_damaged_exif_neither_warns_nor_loses_the_image(exif: bytes) -> None:
    image = photo_like()
    np.testing.assert_array_equal(pixels_of(encode(image, "PNG", exif=exif)), np.array(image))
    assert pixels_of(encode(image, "JPEG", exif=exif)).shape == (37, 53, 3)


def test_orientation_of_an_unknown_number_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert pixels_of(encode(photo_like(), "PNG", exif=exif)).shape == (37, 53, 3)


def test_alpha_is_laid_over_white() -> None:
    rgba = Image.fromarray(np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], np.uint8), "RGBA")
    np.testing.assert_array_equal(pixels_of(encode(rgba, "PNG")), [[[200, 0, 0], [255, 255, 255], [244, 204, 204]]])
    grey = Image.fromarray(np.array([[[40, 255], [40, 0]]], np.uint8), "LA")
    np.testing.assert_array_equal(pixels_of(encode(grey, "PNG")), [[[40] * 3, [255] * 3]])


def test_palettes_with_and_without_transparency() -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    colours = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    np.testing.assert_array_equal(pixels_of(encode(palette, "PNG")), [colours])
    for transparency in (1, bytes([255, 0, 255])):
        found = pixels_of(encode(palette, "PNG", transparency=transparency))
        np.testing.assert_array_equal(found, [[colours[0], [255, 255, 255], colours[2]]])
    np.testing.assert_array_equal(
        pixels_of(encode(palette, "GIF", transparency=1)), [[colours[0], [255, 255, 255], colours[2]]]
    )


def test_a_transparent_colour_is_white() -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    np.testing.assert_array_equal(pixels_of(encode(rgb, "PNG", transparency=(1, 2, 3))), [[[255] * 3, [4, 5, 6]]])
    grey = Image.fromarray(np.array([[7, 8]], np.uint8))
    np.testing.assert_array_equal(pixels_of(encode(grey, "PNG", transparency=7)), [[[255] * 3, [8] * 3]])
    four_bits = png(2, 1, 4, 0, b"\0\x79", (b"tRNS", struct.pack(">H", 7)))
    np.testing.assert_array_equal(pixels_of(four_bits), [[[255] * 3, [153] * 3]])
    deep_rgb = png(
        2,
        1,
        16,
        2,
        b"\0" + struct.pack(">6H", 300, 20000, 40000, 1, 2, 3),
        (b"tRNS", struct.pack(">3H", 300, 20000, 40000)),
    )
    np.testing.assert_array_equal(pixels_of(deep_rgb), [[[255] * 3, [0] * 3]])
    deep = png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 1000, 65535 - 257), (b"tRNS", struct.pack(">H", 1000)))
    np.testing.assert_array_equal(pixels_of(deep), [[[255] * 3, [254] * 3]])


def test_grey_and_one_bit() -> None:
    grey = np.array([[0, 100, 255]], np.uint8)
    np.testing.assert_array_equal(pixels_of(encode(Image.fromarray(grey), "PNG"))[..., 0], grey)
    one_bit = Image.fromarray(grey > 50)
    assert one_bit.mode == "1"
    np.testing.assert_array_equal(pixels_of(encode(one_bit, "PNG"))[0], [[0] * 3, [255] * 3, [255] * 3])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_never_clipped(format: str) -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    found = pixels_of(encode(Image.fromarray(values), format))
    np.testing.assert_array_equal(found[0, :, 0], [0, 0, 1, 1, 128, 255])
    np.testing.assert_array_equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 2.0, 255.0], [0, 2, 255]), ([-1.0, 0.0, 1.0], [0, 128, 255])],
)
def test_float_grey(values: list[float], expected: list[int]) -> None:
    data = encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    np.testing.assert_array_equal(pixels_of(data)[0, :, 0], expected)


def test_float_grey_of_one_value_beyond_255_is_black_and_nan_is_refused() -> None:
    constant = encode(Image.fromarray(np.full((2, 2), 300, np.float32)), "TIFF")
    assert pixels_of(constant).max() == 0
    with pytest.raises(UnreadableImageError, match="NaN"):
        decode_rgb(encode(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "here")


def test_cmyk_as_adobe_writes_it() -> None:
    cmyk = photo_like().convert("CMYK")
    data = encode(cmyk, "JPEG", quality=100)  # Pillow writes the Adobe marker and inverted inks
    assert b"Adobe" in data
    found = pixels_of(data).astype(int)
    assert np.abs(found - np.array(cmyk.convert("RGB"))).mean() < 4
    assert pixels_of(encode(cmyk, "TIFF")).shape == (37, 53, 3)


def test_one_pixel_wide() -> None:
    for size in [(1, 1), (1, 500), (500, 1)]:
        assert decode_rgb(encode(Image.new("RGB", size, "red"), "JPEG"), "here").size == size


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    np.testing.assert_array_equal(pixels_of(data)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("data", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_is_named(data: bytes) -> None:
    with pytest.raises(UnreadableImageError, match=r"cats/1\.jpg: not a readable image") as caught:
        decode_rgb(data, "cats/1.jpg")
    assert isinstance(caught.value, SourceError)
    assert "0x" not in str(caught.value)  # receipts must not hold memory addresses
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PNG_OF_NO_WIDTH = b"IHDR" + bytes(4) + b"\0\0\0\x08\x08\x02\0\0\0"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer: run 'git lfs pull'"),
        (b"\n<HTML><body>404", "it is a web page"),
        (PNG_START[:10], "it is cut off within its header"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "it is cut off within its header"),
        (
            PNG_START[:12]
            + PNG_OF_NO_WIDTH
            + zlib.crc32(PNG_OF_NO_WIDTH).to_bytes(4, "big")
            + encode(Image.new("RGB", (8, 8)), "PNG")[33:],
            "its header is damaged",
        ),
        (
            encode(Image.new("RGB", (8, 8)), "JPEG").replace(b"\x08\0\x08\0\x08", b"\x08\xff\xff\xff\xff"),
            r"its header claims more than the \d+ pixels that are accepted",
        ),
    ],
)
def test_the_reason_is_in_plain_words(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=rf"1\.jpg: not a readable image of \d+ bytes: {reason}"):
        decode_rgb(data, "1.jpg")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF"])
@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused_unless_nothing_is_lost(format: str, share: float) -> None:
    image = photo_like()
    data = encode(image, format, **({"quality": 80} if format in ("JPEG", "WEBP") else {}))
    try:
        found = pixels_of(data[: int(share * len(data))])
    except UnreadableImageError:
        return
    np.testing.assert_array_equal(found, pixels_of(data))


@settings(max_examples=150, deadline=None)
@given(
    position=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    format=st.sampled_from(["JPEG", "PNG", "GIF"]),
)
def test_a_damaged_byte_gives_an_image_or_our_error(position: float, value: int, format: str) -> None:
    damaged = bytearray(encode(photo_like(9, 11), format))
    at = int(position * len(damaged))
    damaged[at] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            image = decode_rgb(bytes(damaged), "here")
        except (UnreadableImageError, MemoryError):
            return
    assert image.mode == "RGB"


def test_too_many_pixels_are_refused_before_anything_is_decoded() -> None:
    for width, height in [(1 << 15, (1 << 15) + 1), (1 << 29, 1), (1 << 20, 1 << 20)]:
        with pytest.raises(UnreadableImageError, match=r"here: .*(more than|exceeds)"):
            decode_rgb(png(width, height, 8, 2, b""), "here")
    assert MAXIMUM_PIXELS == 1 << 30


def test_large_images_pass_where_pillow_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encode(photo_like(), "PNG")
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))
    filters = list(warnings.filters)
    assert decode_rgb(data, "here").size == (53, 37)
    with pytest.raises(UnreadableImageError):
        decode_rgb(data[: len(data) // 2], "here")  # whatever others allow, we accept no half image
    assert Image.MAX_IMAGE_PIXELS == 10
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert list(warnings.filters) == filters


def test_lab_is_converted() -> None:
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])  # L* = 100: white
    assert pixels_of(encode(lab, "TIFF")).min() >= 253


def test_lack_of_memory_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    data = encode(photo_like(), "JPEG")
    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(MemoryError, match=r"cats/1\.jpg: not enough memory"):
        decode_rgb(data, "cats/1.jpg")


@pytest.mark.slow
def test_an_image_beyond_pillows_own_limit() -> None:
    side = 14_000  # 196 million pixels; Pillow refuses more than 179 million
    raw = (b"\0" + b"\xff" * (side // 8)) * side
    image = decode_rgb(png(side, side, 1, 0, raw), "here")
    assert image.size == (side, side)
    assert image.getpixel((side - 1, side - 1)) == (255, 255, 255)


def test_threads_share_the_settings_and_put_them_back() -> None:
    damaged = encode(photo_like(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    expected = pixels_of(damaged)
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: pixels_of(damaged), range(400)):
            np.testing.assert_array_equal(found, expected)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters


def test_every_photograph_decodes_as_pillow_does(data_dir: Path) -> None:
    files = sorted((data_dir / "photos").glob("*.jpg"))
    assert len(files) >= 60
    for file in files:
        with Image.open(file) as image:
            expected = np.array(image.convert("RGB"))
        np.testing.assert_array_equal(pixels_of(file.read_bytes()), expected)
