"""Sound pixels are never lost to metadata; what holds the pixels is a hole, with a reason, when it is damaged."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.images.decode import decode_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)

CHUNKS = {
    b"tEXt": b"key\0text", b"zTXt": b"key\0\0" + zlib.compress(b"text"), b"iTXt": b"key\0\0\0\0\0text",
    b"iCCP": b"key\0\0" + zlib.compress(b"profile"), b"gAMA": struct.pack(">I", 45455), b"cHRM": bytes(32),
    b"sRGB": b"\0", b"bKGD": bytes(6), b"sBIT": b"\x08\x08\x08", b"hIST": bytes(4), b"tIME": bytes(7),
    b"pHYs": bytes(9), b"eXIf": b"MM\0*\0\0\0\x08\0\0", b"sPLT": b"key\0\x08",
    b"acTL": struct.pack(">II", 1, 0), b"fcTL": bytes(26), b"cICP": bytes(4), b"oFFs": bytes(9),
    b"vpAg": bytes(9), b"prIv": b"whose?",
}  # fmt: skip


def chunk(kind: bytes, body: bytes, *, crc: int | None = None, length: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body) if length is None else length) + kind + body + struct.pack(">I", crc)


def png(early: bytes = b"", before: bytes = b"", behind: bytes = b"", *, palette: bytes | None = None) -> bytes:
    """``PIXELS``, or 9 x 14 palette indices, with chunks behind IHDR, before IDAT and behind it."""
    rows = PIXELS[..., :1] % 7 if palette is not None else PIXELS
    header = struct.pack(">IIBBBBB", 14, 9, 8, 2 if palette is None else 3, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    colours = chunk(b"PLTE", palette) if palette else b""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + early
    return start + colours + before + data + behind + chunk(b"IEND", b"")


def pixels_of(data: bytes) -> np.ndarray:
    return np.array(decode_rgb(data, "here"))


@pytest.mark.parametrize("kind", CHUNKS)
def test_no_ancillary_chunk_of_a_png_costs_its_pixels(kind: bytes) -> None:
    body, bomb = CHUNKS[kind], b"key\0\0" + zlib.compress(bytes(20 << 20))
    damaged = [
        chunk(kind, body), chunk(kind, body[:-1]), chunk(kind, b""), chunk(kind, b"\xff" * len(body)),
        chunk(kind, body, crc=1), chunk(kind, body + bytes(2 << 20)), chunk(kind, bomb),
        chunk(kind, body, length=len(body) + 7), chunk(kind, body, length=len(body) - 1),
        chunk(kind, body, length=1 << 30),
    ]  # fmt: skip
    for number, found in enumerate(damaged):
        for place in ("early", "before", "behind"):
            np.testing.assert_array_equal(pixels_of(png(**{place: found})), PIXELS, f"{number} {place}")


def test_damaged_transparency_is_none_and_sound_is_kept() -> None:
    colour = struct.pack(">3H", *PIXELS[0, 0].tolist())
    shown = PIXELS.copy()
    shown[(PIXELS[0, 0] == PIXELS).all(-1)] = 255
    np.testing.assert_array_equal(pixels_of(png(before=chunk(b"tRNS", colour))), shown)
    bad_text = chunk(b"tEXt", b"a\0b", crc=1)
    np.testing.assert_array_equal(pixels_of(png(early=bad_text, before=chunk(b"tRNS", colour))), shown)
    for damaged in (chunk(b"tRNS", colour[:3]), chunk(b"tRNS", b""), chunk(b"tRNS", colour, crc=1)):
        np.testing.assert_array_equal(pixels_of(png(before=damaged)), PIXELS)


def test_the_orientation_outlives_damage_elsewhere() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    whole = chunk(b"eXIf", exif.tobytes()[6:])
    np.testing.assert_array_equal(pixels_of(png(early=whole)), PIXELS[::-1, ::-1])
    np.testing.assert_array_equal(pixels_of(png(early=whole + chunk(b"gAMA", b""))), PIXELS[::-1, ::-1])


def test_what_holds_the_pixels_of_a_png_is_judged() -> None:
    sound = png(palette=bytes(range(21)))
    palette, data = sound.index(b"PLTE"), sound.index(b"IDAT")
    for damaged, reason in (
        (sound[: palette + 4] + b"\xff" + sound[palette + 5 :], r"bad header checksum in b'PLTE'"),
        (sound[:palette] + b"PLtE" + sound[palette + 4 :], "its palette is missing"),
        (sound[: palette - 4] + sound[palette + 4 + 21 + 4 :], "its palette is missing"),
        (sound[:20] + b"\x09" + sound[21:], r"bad header checksum in b'IHDR'"),
        (sound[: data + 20] + b"\xff\xff\xff" + sound[data + 23 :], "broken data stream"),
        (sound[: data + 20], "truncated"),
        (sound[: data - 4] + sound[-12:], "cannot load"),
    ):
        with pytest.raises(UnreadableImageError, match=f"here: not a readable image .*{reason}"):
            decode_rgb(damaged, "here")


SEGMENTS = {
    "jfif": (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"), "xmp": (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
    "icc": (0xE2, b"ICC_PROFILE\0\1\1" + bytes(99)), "fpxr": (0xE2, b"FPXR\0\1"), "app3": (0xE3, b"Meta\0"),
    "photoshop": (0xED, b"Photoshop 3.0\08BIM\x03\xed\0\0\0\0\0\x10\0\x48\0\0\0\1\0\1\0\x48\0\0\0\1\0\1"),
    "comment": (0xFE, b"a comment"), "mpf": (0xE2, b"MPF\0MM\0*\0\0\0\x08\0\1\xb0\1\0\4\0\0\0\1\0\0\0\2\0\0\0\0"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_no_application_segment_of_a_jpeg_costs_its_pixels(name: str, mode: str) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).convert(mode).save(buffer, "JPEG", exif=exif)
    sound, (marker, body), dice = buffer.getvalue(), SEGMENTS[name], random.Random(0)
    expected = pixels_of(sound)
    assert expected.shape == (14, 9, 3)  # upright
    bodies = [body, body[:-1], body[: len(body) // 2], body[:6], b"", body + b"\xff" * 60000]
    for _ in range(30):
        bodies.append(bytes(dice.randrange(256) if dice.random() < 0.1 else byte for byte in body))
    for found in bodies:
        segment = bytes([0xFF, marker]) + struct.pack(">H", len(found) + 2) + found
        np.testing.assert_array_equal(pixels_of(sound[:2] + segment + sound[2:]), expected, f"{found[:40]!r}")


CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


@pytest.mark.parametrize("case", ["tiff16-white-is-zero", "tiff12-and-signed", "tiff-palette-8bit", "png-metadata"])
def test_the_cases_that_were_reported(case: str) -> None:
    folder = CASES / "images" / case
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    for file in sorted((folder / "images").iterdir()):
        with Image.open(folder / "expected" / f"{file.stem}.png") as image:
            expected = np.array(image.convert("RGB")).astype(int)
        found = np.array(decode_rgb(file.read_bytes(), file.name)).astype(int)
        assert np.abs(found - expected).mean() < 1, file.name
