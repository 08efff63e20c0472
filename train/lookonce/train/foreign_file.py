"""What a file or folder is that was given where a checkpoint was expected."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

_HEAD_BYTES = 1 << 16

_STARTS = (
    (b"version https://git-lfs", "the pointer of a git-lfs file that was not downloaded (git lfs pull)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x1f\x8b", "a file compressed by gzip"),
    (b"\x80", "a pickle of an old torch.save or of another program"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
)
"""First bytes, and what begins so."""


def what_it_is(path: Path) -> str:
    """What an existing file or folder is, as far as it tells, with an article: ``an empty file``.

    Raises:
        OSError: the operating system does not give it out.
    """
    if path.is_dir():
        return _folder(path)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return "an empty file"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _safetensors(head)
    if zipfile.is_zipfile(path):
        return _archive(path)
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"PK\x03\x04":
        return "a file of torch.save, or another zip archive, that is cut short"
    return _text(head)


def _folder(path: Path) -> str:
    if (path / "manifest.json").exists():
        return "a feature cache"
    found = sorted((path if path.name == "checkpoints" else path / "checkpoints").glob("step-*"))
    if found:
        return f"the folder of a run, whose newest checkpoint is {found[-1]}"
    return "a folder without checkpoints" if any(path.iterdir()) else "an empty folder"


def _safetensors(head: bytes) -> str:
    if b'"student"' in head[: 8 + int.from_bytes(head[:8], "little")]:
        return "the student that a run has left, weights alone (to start another run from them is not resuming)"
    return "a safetensors file, weights alone"


def _archive(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/data.pkl") for name in names):
        return "a file of torch.save by another program, or weights alone"
    return "a numpy archive" if names and all(name.endswith(".npy") for name in names) else "a zip archive"


def _text(head: bytes) -> str:
    try:
        text = head.decode("utf-8", "strict" if len(head) < _HEAD_BYTES else "ignore").lstrip()
    except UnicodeDecodeError:
        return "a file of unknown kind"
    if text.lower().startswith(("<!doctype html", "<html")):
        return "a web page, as a download without access gives"
    if text.startswith(("{", "[")):
        try:
            json.loads(text)
        except ValueError:
            return "a text file"
        return "a JSON document"
    return "a text file"
