"""Members of a WebDataset shard as bytes: ustar headers, npy headers, and the order of members in a sample.

Row, manifest and size determine every byte that is not a value. A reader therefore needs one header per sample, that of
the first member, whose size varies. A checker can compare all headers.
"""

from __future__ import annotations

import functools
import tarfile
from dataclasses import dataclass

from lookonce.storage_schemas.arrays import JPEG, ArraySpec
from lookonce.storage_schemas.manifest import Manifest

BLOCK = 512
END_MARK = bytes(2 * BLOCK)
FACTS, VIEW, PICTURE = ".json", ".view.json", ".jpg"
"""Suffixes of the first two members of a sample, and of its JPEG."""

_DIGITS = 8
_SIZE_FIELD, _SUM_FIELD = slice(124, 135), slice(148, 156)


def padded(size: int) -> int:
    """Size rounded up to whole tar blocks."""
    return -(-size // BLOCK) * BLOCK


def member_name(row: int, suffix: str) -> str:
    """``00000012.targets.npy``."""
    return f"{row:0{_DIGITS}d}{suffix}"


def member_header(row: int, suffix: str, size: int) -> bytes:
    """The ustar header of a regular file with mode 0644 and all other fields zero or empty.

    Raises:
        ValueError: the name or the size does not fit the header (rows below 10**60 and members below 8 GiB fit).
    """
    digits = f"{row:0{_DIGITS}d}".encode("ascii")
    rest, base = _template(suffix, size, len(digits))
    total = b"%06o\0 " % (base + sum(digits))
    return b"".join((digits, rest[: _SUM_FIELD.start - len(digits)], total, rest[_SUM_FIELD.stop - len(digits) :]))


@functools.lru_cache(maxsize=1024)
def _template(suffix: str, size: int, digits: int) -> tuple[bytes, int]:
    """The header after the digits of its name, and the sum of its bytes with spaces as checksum."""
    info = tarfile.TarInfo("0" * digits + suffix)
    info.size = size
    try:
        rest = info.tobuf(tarfile.USTAR_FORMAT)[digits:]
    except ValueError as error:
        raise ValueError(f"member {suffix!r} of {size} bytes does not fit a ustar header: {error}") from error
    start, stop = _SUM_FIELD.start - digits, _SUM_FIELD.stop - digits
    return rest, sum(rest) - sum(rest[start:stop]) + 8 * ord(" ")


def member_size(header: bytes) -> int:
    """The member size in a header; -1 if the field is not a number."""
    try:
        return int(header[_SIZE_FIELD], 8)
    except ValueError:
        return -1


def npy_header(spec: ArraySpec) -> bytes:
    """Header of one sample's npy file, format 1.0, padded to a multiple of 64 bytes, which aligns the values."""
    fields = f"{{'descr': '{spec.numpy_dtype.str}', 'fortran_order': False, 'shape': {spec.sample_shape!r}, }}"
    text = fields.encode("ascii")
    length = -(-(10 + len(text) + 1) // 64) * 64
    return b"\x93NUMPY\x01\x00" + (length - 10).to_bytes(2, "little") + text.ljust(length - 11) + b"\n"


@dataclass(frozen=True)
class ArrayMember:
    """The member with one array's value of a sample."""

    spec: ArraySpec
    suffix: str
    npy: bytes
    start: int
    """Start of its header, in bytes after the sample's first member and its padding."""

    @property
    def size(self) -> int:
        """Bytes of the member, without tar header and padding."""
        return len(self.npy) + self.spec.sample_bytes

    @property
    def value(self) -> int:
        """Start of the value, in bytes after the sample's first member and its padding."""
        return self.start + BLOCK + len(self.npy)


class SampleLayout:
    """Order and offsets of the members of a sample: ``.json``, ``.view.json``, then the arrays as in the manifest.

    A JPEG comes last, so that the place of everything else follows from the first member's size.
    """

    def __init__(self, manifest: Manifest) -> None:
        start = 2 * BLOCK  # after the view, which fits into one block
        self.arrays: list[ArrayMember] = []
        self.jpeg = any(spec.name == JPEG for spec in manifest.arrays)
        """Whether a sample ends with a JPEG."""
        for spec in manifest.arrays:
            if spec.chunking == "sample" and not spec.variable:
                member = ArrayMember(spec, f".{spec.name}.npy", npy_header(spec), start)
                self.arrays.append(member)
                start += BLOCK + padded(member.size)
        self.rest = start
        """Bytes of a sample after its first member and its padding, without its JPEG."""
