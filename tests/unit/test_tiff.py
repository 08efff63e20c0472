"""TIFFs of every depth, sign and layout give the levels that their tags say, whatever values occur."""

from __future__ import annotations

import io
import itertools
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.images.decode import decode_rgb

from .tiff_writer import RATIONAL, write_tiff

HEIGHT, WIDTH = 9, 21
SHADES = np.random.default_rng(0).random((HEIGHT, WIDTH, 4))


def pixels_of(data: bytes) -> np.ndarray:
    return np.array(decode_rgb(data, "here"))


def samples(kind: str, bits: int, channels: int) -> np.ndarray:
    """Values that use nearly the whole range of their type; floats from -1 to 2."""
    shades = SHADES[..., :channels]
    if kind == "f":
        return (shades * 3 - 1).astype(f"f{bits // 8}")
    size = next(size for size in (1, 2, 4, 8) if bits <= 8 * size)
    low, high = (0, 2.0**bits - 1) if kind == "u" else (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    return np.floor(low + shades * 0.999 * (high - low)).astype(f"{kind}{size}")


def expected_levels(values: np.ndarray, kind: str, bits: int) -> np.ndarray:
    """What the documentation of ``levels`` says, in float."""
    wide = values.astype(np.longdouble)
    if kind == "u" or (kind == "i" and bits <= 8):
        return np.rint((wide + (2 ** (bits - 1) if kind == "i" else 0)) * 255 / (2**bits - 1))
    return np.rint((wide - wide.min()) * 255 / (wide.max() - wide.min()))


def expected_rgb(values: np.ndarray, kind: str, bits: int, photometric: int, extra: tuple[int, ...]) -> np.ndarray:
    colours = 3 if photometric == 2 else 1
    found = expected_levels(values[..., :colours], kind, bits)
    if photometric == 0:
        found = 255 - found
    if extra in ((1,), (2,)):
        opaque = expected_levels(values[..., colours : colours + 1], kind, bits)
        found = found * opaque / 255 + 255 - opaque if extra == (2,) else np.minimum(found + 255 - opaque, 255)
    return np.broadcast_to(found, (HEIGHT, WIDTH, 3)).astype(int)


DEPTHS = [("u", bits) for bits in (*range(1, 33), 64)] + [("i", bits) for bits in (4, 8, 12, 16, 24, 32, 64)]
DEPTHS += [("f", bits) for bits in (16, 32, 64)]


@pytest.mark.parametrize(("kind", "bits"), DEPTHS)
def test_every_depth_and_sign(kind: str, bits: int) -> None:
    for photometric, extra, planar, order in itertools.product((0, 1, 2), ((), (0,), (1,), (2,)), (False, True), "<>"):
        values = samples(kind, bits, (3 if photometric == 2 else 1) + len(extra))
        options: Any = {"photometric": photometric, "extra": extra, "planar": planar, "order": order}
        found = pixels_of(write_tiff(values, bits=bits, kind=kind, **options)).astype(int)
        rounding = 3 if bits == 16 and photometric == 2 else 1  # Pillow leaves the low byte of RGB out
        difference = np.abs(found - expected_rgb(values, kind, bits, photometric, extra)).max()
        assert difference <= rounding, options


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
@pytest.mark.parametrize("layout", [{}, {"rows_per_strip": 4}, {"tile": (16, 16)}])
@pytest.mark.parametrize("predictor", [1, 2, 3])
def test_every_layout(compression: int, layout: dict[str, Any], predictor: int) -> None:
    depths = [("u", 8), ("u", 12), ("u", 16), ("u", 32), ("i", 16), ("f", 32), ("f", 16)]
    for (kind, bits), order, fill_order, planar in itertools.product(depths, "<>", (1, 2), (False, True)):
        if predictor != 1 and (compression in (1, 32773) or (predictor == 3) != (kind == "f") or bits == 12):
            continue
        values = samples(kind, bits, 2)
        options: Any = {
            "compression": compression,
            "order": order,
            "fill_order": fill_order,
            "planar": planar,
            **layout,
        }
        data = write_tiff(values, bits=bits, kind=kind, extra=(0,), predictor=predictor, **options)
        np.testing.assert_array_equal(pixels_of(data), expected_rgb(values, kind, bits, 1, (0,)), f"{kind} {options}")


@pytest.mark.parametrize(
    ("kind", "bits", "values", "expected"),
    [
        ("u", 12, [0, 100, 255], [0, 6, 16]),  # dark, and stays so
        ("u", 32, [0, 65535, 1 << 31], [0, 0, 128]),
        ("u", 16, [0, 128, 129], [0, 0, 1]),
        ("i", 8, [-128, 0, 127], [0, 128, 255]),
        ("i", 8, [0, 1, 2], [128, 129, 130]),
        ("i", 16, [16, 2048, 4080], [0, 128, 255]),  # a CT without air
        ("i", 16, [-1008, 1024, 3056], [0, 128, 255]),
        ("i", 16, [0, 257, 65535 // 2], [0, 2, 255]),
        ("i", 32, [0, 257, 65535], [0, 1, 255]),
    ],
)
def test_what_a_value_means_does_not_follow_from_the_values(
    kind: str, bits: int, values: list[int], expected: list[int]
) -> None:
    grey = np.array(values).reshape(1, 3, 1)
    for photometric, levels in ((1, expected), (0, [255 - level for level in expected])):
        data = write_tiff(grey, bits=bits, kind=kind, photometric=photometric)  # type: ignore[arg-type]
        np.testing.assert_array_equal(pixels_of(data)[0, :, 0], levels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("scale", [1, 257])
def test_colour_maps_of_eight_and_of_sixteen_bits(bits: int, scale: int) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (3, 1 << bits)) | (np.arange(1 << bits) == 1) * 128
    content = (colours * scale).astype("<u2").tobytes()
    values = samples("u", bits, 1)
    for planar in (False, True):
        data = write_tiff(values, bits=bits, photometric=3, planar=planar, tags={320: (3, content)})
        np.testing.assert_array_equal(pixels_of(data), colours.T[values[..., 0]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_samples_are_put_upright_as_others_are(orientation: int) -> None:
    values = samples("u", 8, 1)
    tag = {274: (3, struct.pack("<H", orientation))}
    shallow = pixels_of(write_tiff(values, bits=8, tags=tag))
    np.testing.assert_array_equal(pixels_of(write_tiff(values.astype(np.uint16) * 257, bits=16, tags=tag)), shallow)
    np.testing.assert_array_equal(pixels_of(write_tiff(values ^ 0x80, bits=8, kind="i", tags=tag)), shallow)


def test_a_cut_strip_is_refused() -> None:
    data = write_tiff(samples("u", 12, 1), bits=12, rows_per_strip=3)
    shorter = data.replace(struct.pack("<I", 8 + 2 * 96), struct.pack("<I", len(data) - 10))
    assert shorter != data
    with pytest.raises(UnreadableImageError, match=r"strip or tile 2 is cut off: 10 of 96 bytes"):
        decode_rgb(shorter, "here")
    broken = bytearray(write_tiff(samples("u", 16, 1), bits=16, compression=8))
    broken[12:20] = b"\xff" * 8
    with pytest.raises(UnreadableImageError):
        decode_rgb(bytes(broken), "here")


@pytest.mark.parametrize(
    ("bits", "kind", "predictor", "problem"),
    [(33, "u", 1, "33 bits"), (24, "f", 1, r"24 bits \(float\)"), (16, "u", 7, "predictor 7")],
)
def test_what_is_not_supported_says_so(bits: int, kind: Any, predictor: int, problem: str) -> None:
    data = write_tiff(np.zeros((4, 8, 1), np.uint16), bits=16, compression=8)
    for tag, value in ((258, bits), (339, {"u": 1, "f": 3}[kind]), (317, predictor)):
        at = data.index(struct.pack("<HHI", tag, 3, 1))
        data = data[: at + 8] + struct.pack("<H", value) + data[at + 10 :]
    with pytest.raises(UnreadableImageError, match=problem):
        decode_rgb(data, "here")


METADATA = {
    270: (2, b"what it shows\0"), 282: (5, RATIONAL), 305: (2, b"the writer\0"), 700: (7, b"<x:xmpmeta/>"),
    34377: (7, b"8BIM" * 5), 34665: (4, struct.pack("<I", 8)), 34675: (7, bytes(99)),
}  # fmt: skip


@pytest.mark.parametrize("tag", METADATA)
@pytest.mark.parametrize(("kind", "bits", "photometric"), [("u", 8, 2), ("u", 8, 1), ("i", 16, 1), ("u", 8, 3)])
def test_damaged_metadata_cost_no_pixels(tag: int, kind: Any, bits: int, photometric: int) -> None:
    values = samples(kind, bits, 3 if photometric == 2 else 1)
    colours = {320: (3, np.arange(768, dtype="<u2")[::-1].tobytes())} if photometric == 3 else {}
    sound = write_tiff(values, bits=bits, kind=kind, photometric=photometric, tags=METADATA | colours)
    expected = pixels_of(sound)
    type_, content = METADATA[tag]
    at = sound.index(struct.pack("<HH", tag, type_))
    count, place = len(content) // {2: 1, 4: 4, 5: 8, 7: 1}[type_], sound[at + 8 : at + 12]
    far = struct.pack("<I", len(sound) - 3)
    entries = [
        (99, count, place), (0, count, place), (12, count, place), (5, count, place), (type_, 0, place),
        (type_, 1 << 30, place), (type_, (1 << 32) - 1, place), (type_, 99, far), (type_, count, b"\xff" * 4),
    ]  # fmt: skip
    for new_type, new_count, new_place in entries:
        damaged = sound[: at + 2] + struct.pack("<HI", new_type, new_count) + new_place + sound[at + 12 :]
        np.testing.assert_array_equal(pixels_of(damaged), expected, f"{new_type} {new_count} {new_place!r}")


@pytest.mark.parametrize("tag", [256, 258, 262, 273, 277, 279, 339])
def test_damaged_tags_of_the_pixels_are_named(tag: int) -> None:
    data = write_tiff(samples("u", 16, 1), bits=16, rows_per_strip=3)
    at = next(at for at in range(len(data) - 12) if data[at : at + 2] == struct.pack("<H", tag)
              and data[at + 2 : at + 4] in (b"\3\0", b"\4\0"))  # fmt: skip
    damaged = data[: at + 4] + struct.pack("<II", 1 << 20, 1 << 30) + data[at + 12 :]
    with pytest.raises(UnreadableImageError, match=rf"tag {tag}, which describes .* pixels .*, is damaged"):
        decode_rgb(damaged, "here")


def test_big_tiffs() -> None:
    values = np.array([[0, 2048, 4095]], np.uint16)
    entries = [(256, 4, 3), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 16, 16),
               (277, 3, 1), (278, 4, 1), (279, 16, 5)]  # fmt: skip
    directory = struct.pack("<Q", len(entries)) + b"".join(struct.pack("<HHQQ", tag, type_, 1, value)
                                                           for tag, type_, value in entries)  # fmt: skip
    pixels = bytes.fromhex("000800fff0")
    data = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 24) + pixels + bytes(3) + directory + bytes(8)
    np.testing.assert_array_equal(pixels_of(data)[..., 0], np.rint(values / 4095 * 255))


def test_grey_multiplied_by_its_alpha() -> None:
    data = write_tiff(np.array([[[40, 255], [0, 0], [20, 128]]], np.uint8), bits=8, extra=(1,))
    assert Image.open(io.BytesIO(data)).mode == "La"
    np.testing.assert_allclose(pixels_of(data)[0, :, 0], [40, 255, 147], atol=1)
