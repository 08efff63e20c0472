"""Members of a WebDataset shard as bytes: ustar headers, npy headers, and the order of members in a sample.

Every byte that is not a value is decided by row, manifest and size, so a reader needs one header a sample (the first:
it alone has a size that varies), and a checker can compare them all.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from lookonce.storage_schemas.arrays import ArraySpec
from lookonce.storage_schemas.manifest import Manifest

BLOCK = 512
END_MARK = bytes(2 * BLOCK)
FACTS, VIEW = ".json", ".view.json"
"""Suffixes of the first two members of a sample."""

_DIGITS = 8
_SIZE_FIELD, _SUM_FIELD = slice(124, 135), slice(148, 156)


def padded(size: int) -> int:
    """Size rounded up to whole tar blocks."""
    return -(-size // BLOCK) * BLOCK


def member_name(row: int, suffix: str) -> str:
    """``00000012.targets.npy``."""
    return f"{row:0{_DIGITS}d}{suffix}"


def member_header(row: int, suffix: str, size: int) -> bytes:
    """A regular file's ustar header with mode 0644 and everything else zero or empty.

    Raises:
        ValueError: the name or the size does not fit the header (rows below 10**60, members below 8 GiB do).
    """
    digits = f"{row:0{_DIGITS}d}".encode("ascii")
    rest, base = _template(suffix, size, len(digits))
    total = b"%06o\0 " % (base + sum(digits))
    return b"".join((digits, rest[: _SUM_FIELD.start - len(digits)], total, rest[_SUM_FIELD.stop - len(digits) :]))


@functools.lru_cache(maxsize=1024)
def _template(suffix: str, size: int, digits: int) -> tuple[bytes, int]:
    """A header behind the digits of its name, and the sum of its bytes with a checksum field of spaces."""
    name = suffix.encode("ascii").ljust(100 - digits, b"\0")
    fields = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"0" * 11 + b"\0" + b" " * 8 + b"0"
    rest = (name + fields + bytes(100) + b"ustar\00000").ljust(BLOCK - digits, b"\0")
    if len(name) > 100 - digits or size >= 8**11:
        raise ValueError(f"member {suffix!r} of {size} bytes does not fit a ustar header")
    return rest, sum(rest)


def member_size(header: bytes) -> int:
    """The size that a header names; -1 when it names none."""
    try:
        return int(header[_SIZE_FIELD], 8)
    except ValueError:
        return -1


def npy_header(spec: ArraySpec) -> bytes:
    """Header of one sample's npy file, format 1.0, padded to a multiple of 64 bytes so that values are aligned."""
    fields = f"{{'descr': '{spec.numpy_dtype.str}', 'fortran_order': False, 'shape': {spec.sample_shape!r}, }}"
    text = fields.encode("ascii")
    length = -(-(10 + len(text) + 1) // 64) * 64
    return b"\x93NUMPY\x01\x00" + (length - 10).to_bytes(2, "little") + text.ljust(length - 11) + b"\n"


@dataclass(frozen=True)
class ArrayMember:
    """The member that holds one array's value of a sample."""

    spec: ArraySpec
    suffix: str
    npy: bytes
    start: int
    """Of its header, in bytes behind the sample's first member and its padding."""

    @property
    def size(self) -> int:
        """Of the member, without header and padding."""
        return len(self.npy) + self.spec.sample_bytes

    @property
    def value(self) -> int:
        """Where the value starts, in bytes behind the sample's first member and its padding."""
        return self.start + BLOCK + len(self.npy)


class SampleLayout:
    """Order and places of the members of a sample: ``.json``, ``.view.json``, then the arrays as in the manifest."""

    def __init__(self, manifest: Manifest) -> None:
        start = 2 * BLOCK  # behind the view, which fits one block
        self.arrays: list[ArrayMember] = []
        for spec in manifest.arrays:
            if spec.chunking == "sample":
                member = ArrayMember(spec, f".{spec.name}.npy", npy_header(spec), start)
                self.arrays.append(member)
                start += BLOCK + padded(member.size)
        self.rest = start
        """Bytes of a sample behind its first member and its padding."""
