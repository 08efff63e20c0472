"""Lists the members of a tar by their headers alone; refuses an incomplete tar."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from lookonce.shared.errors import SourceError
from lookonce.shared.files.stand_ins import HEAD_BYTES, stand_in

BLOCK = 512

LONGEST_TAIL = 1 << 20
"""Most bytes after the last member: the end mark and padding of the last record, at most ``tar -b 2048``."""

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A plain file of a tar, or a link."""

    name: str
    offset: int
    """First byte of its content."""
    size: int
    link: str = ""
    """Target of a link; empty for a file."""


def tar_members(path: str) -> Iterator[Member]:
    """The plain files and links of a tar in their order; memory does not grow with their number.

    Args:
        path: an uncompressed tar: ustar, GNU or pax.

    Raises:
        SourceError: the tar is missing, compressed, damaged or truncated; the message names the byte.
    """
    try:
        with open(path, "rb") as file:
            _refuse_other_kinds(path, file.read(HEAD_BYTES))
            file.seek(0)
            with tarfile.open(path, "r:", fileobj=file) as tar:
                headers: Any = tar
                while (member := tar.next()) is not None:
                    headers.members.clear()  # otherwise tarfile keeps every header
                    if member.issparse():
                        raise SourceError(f"{path}: {member.name!r} is a sparse file; pack the images without --sparse")
                    if member.isreg():
                        yield Member(member.name, member.offset_data, member.size)
                    elif member.islnk() or member.issym():
                        yield Member(member.name, member.offset_data, 0, member.linkname)
            _require_end(path, file.fileno(), tar.offset)
    except tarfile.TarError as error:
        size = os.path.getsize(path)
        raise SourceError(
            f"{path}: expected a whole tar, found one that is cut off or damaged at byte {size} or before ({error}); "
            "make or copy it again"
        ) from error
    except OSError as error:
        raise SourceError(
            f"{path}: expected a tar, found nothing readable ({error.strerror}); check the path"
        ) from error


def _refuse_other_kinds(path: str, start: bytes) -> None:
    if (kind := stand_in(start)) is not None:
        raise SourceError(f"{path}: expected a tar, found {kind}")
    if start.startswith(b"PK\x03\x04"):
        raise SourceError(f"{path}: expected a tar, found a zip archive; unpack it, and give the folder")
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise SourceError(
                f"{path}: expected an uncompressed tar, found {name}; decompress it: images are read by their place in "
                "the tar, and are compressed already"
            )


def _require_end(path: str, descriptor: int, end: int) -> None:
    """Refuse a tar whose last member is not followed by empty blocks alone."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, min(size - end, LONGEST_TAIL), end)
    if len(tail) < BLOCK:
        problem = f"it is cut off at byte {size}: the empty blocks that close a tar are not there"
    elif any(tail[:BLOCK]):
        problem = f"the header at byte {end} is damaged"
    elif size - end > LONGEST_TAIL:
        problem = f"from byte {end} on there are {size - end} bytes that belong to no file, as in an unfinished copy"
    elif tail.count(0) != len(tail):
        problem = f"more follows after its end at byte {end}, as when tars are joined"
    else:
        return
    raise SourceError(f"{path}: expected a whole tar, but {problem}; make or copy it again")
