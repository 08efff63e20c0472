"""Recognises files without usable weights by their first bytes, and gives advice."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

HEAD_BYTES = 512
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of files of torch before 1.6."""

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights",
     "run 'git lfs pull' where it was cloned, or download the file itself"),
    (b"/annex/objects/", "a git-annex pointer, not the weights", "run 'git annex get' where it was cloned"),
    (b"GGUF", "a GGUF file (llama.cpp), whose tensors are quantised",
     "take the model's safetensors or PyTorch weights instead"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or TensorFlow)",
     "take the model's PyTorch weights, or convert it with the script of the library that it is from"),
    (b"\x93NUMPY", "a single NumPy array (.npy)",
     "save all parameters by name with safetensors.torch.save_file"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first (gunzip, or tar -xzf)"),
    (b"BZh", "compressed with bzip2", "unpack it first (bunzip2, or tar -xjf)"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it first (unxz, or tar -xJf)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first (unzstd)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x89PNG", "a PNG image", "give the file of weights"),
    (b"\xff\xd8\xff", "a JPEG image", "give the file of weights"),
    (b"%PDF", "a PDF document", "give the file of weights"),
    (b"ftrt", "a TensorRT engine", "take the PyTorch weights that it was built from"),
    (b"model_checkpoint_path:", "the index of a TensorFlow checkpoint",
     "take the model's PyTorch weights, or convert it with the script of the library that it is from"),
)  # fmt: skip
"""First bytes, kind of the file, and advice."""

_BY_SUFFIX: dict[str, tuple[str, str]] = {
    ".onnx": ("an ONNX model", "take the PyTorch weights that it was exported from"),
    ".pb": ("a TensorFlow graph", "take the model's PyTorch weights"),
    ".index": ("a part of a TensorFlow checkpoint", "take the model's PyTorch weights, or convert it"),
    ".msgpack": ("a Flax file (msgpack)", "take the model's PyTorch weights, or convert it with transformers"),
    ".tflite": ("a TensorFlow Lite model", "take the PyTorch weights that it was exported from"),
}
"""Formats without characteristic first bytes, by suffix."""


@dataclass(frozen=True)
class ForeignFile:
    """A file that contains no usable weights."""

    kind: str
    """Kind of the file, such as ``a Git LFS pointer, not the weights``."""
    advice: str
    """Advice for getting weights."""

    def __str__(self) -> str:
        """Both as part of a sentence."""
        return f"it is {self.kind}: {self.advice}"


def foreign_kind(path: Path) -> ForeignFile | None:
    """The kind of a file that neither safetensors nor ``torch.load`` can read; None for any other file.

    Args:
        path: an existing file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as handle:
        head = handle.read(HEAD_BYTES)
    if not head:
        return ForeignFile("empty (0 bytes)", "the download or copy did not finish; fetch it again")
    for magic, kind, advice in _MAGIC:
        if head.startswith(magic):
            return ForeignFile(kind, advice)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<error", b"<head", b"<!--")):
        return ForeignFile(
            "a web page (HTML or XML), not weights",
            "a server answered the download with a page; open it to see why (a login, or a wrong address), and "
            "download the file again",
        )
    if head[4:8] == b"TFL3":
        return ForeignFile(*_BY_SUFFIX[".tflite"])
    if head[257:262] == b"ustar":
        return ForeignFile("a tar archive", "unpack it first (tar -xf) and give the file of weights inside")
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if is_safetensors(head) or head.startswith(_LEGACY):
        return None
    if path.suffix.lower() in _BY_SUFFIX:
        return ForeignFile(*_BY_SUFFIX[path.suffix.lower()])
    if _is_onnx(head):
        return ForeignFile(*_BY_SUFFIX[".onnx"])
    if head.startswith(b"\x80"):
        return ForeignFile(
            "a Python pickle that torch.save did not write (detectron2 and NumPy models come so)",
            "it could run code on loading; if you trust it, load it and save its arrays by name with safetensors",
        )
    if not head.strip(b"\x00"):
        return ForeignFile(
            "a file that begins with nothing but zeros", "the download or copy did not finish; fetch it again"
        )
    if text.startswith((b"{", b"[")):
        return _json_kind(path)
    if b"\x00" not in head and all(byte >= 32 or byte in b"\t\r\n" for byte in head[:64]):
        start = head[:40].decode("utf-8", "replace").splitlines()[0]
        return ForeignFile(f"a text file (it begins with {start!r})", "give the file of weights")
    return ForeignFile(
        f"neither safetensors nor a torch checkpoint (it begins with the bytes {head[:8].hex(' ')})",
        "the file is damaged or of another kind; fetch it again",
    )


def is_safetensors(head: bytes) -> bool:
    """Whether a file starts like safetensors: eight bytes of length, then JSON."""
    return head[8:9] == b"{"


def safetensors_shortfall(path: Path) -> str | None:
    """Why a file that starts like safetensors is incomplete; None if it is complete.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if length > size - 8:
            return f"its header should take {length} bytes, and the file has {size}"
        try:
            header = json.loads(handle.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError):
            return "its header is damaged"
    expected = 8 + length + max(ends, default=0)
    return None if size == expected else f"its header asks for {expected} bytes, and the file has {size}"


def _zip_kind(path: Path) -> ForeignFile | None:
    """The kind of a zip archive; None for a torch checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, EOFError, ValueError):
        return ForeignFile(
            "a zip archive, as torch checkpoints are, whose end is missing",
            "the download or copy was cut off; fetch it again",
        )
    inner = {name.partition("/")[2] or name for name in names}
    if any(name.startswith("code/") for name in inner) or "constants.pkl" in inner:
        return ForeignFile(
            "a TorchScript archive (torch.jit.save), which contains code",
            "if you trust it, save its weights with "
            "torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'weights.pth')",
        )
    if any(name.endswith("data.pkl") for name in names):
        return None
    if any(name.startswith(("models/", "archive_format", "archive_version")) for name in inner):
        return ForeignFile(
            "a torch.export archive (.pt2)", "save the state_dict of the model that it was exported from"
        )
    if any(name.endswith(".npy") for name in names):
        return ForeignFile(
            "a NumPy archive (.npz; JAX and Flax models come so)",
            "take the model's PyTorch weights, or let timm convert it: model.load_pretrained(FILE), then "
            "torch.save(model.state_dict(), 'weights.pth')",
        )
    if any(name.endswith((".h5", "saved_model.pb", "keras_metadata.pb")) for name in names):
        return ForeignFile("a Keras or TensorFlow archive", "take the model's PyTorch weights")
    listed = ", ".join(sorted(names)[:3]) or "nothing"
    return ForeignFile(f"a zip archive of other things ({listed})", "unpack it and give the file of weights inside")


def _json_kind(path: Path) -> ForeignFile:
    try:
        document = json.loads(path.read_bytes()[:50_000_000])
    except ValueError:
        document = None
    if isinstance(document, dict) and "weight_map" in document:
        parts = sorted({str(part) for part in document["weight_map"].values()})
        return ForeignFile(
            f"the index of weights in several parts ({parts[0]} ...)",
            "join them into one file with safetensors.torch.save_file",
        )
    return ForeignFile("JSON text, not weights", "give the file of weights beside it")


def _is_onnx(head: bytes) -> bool:
    """Whether a file is a protobuf message with an IR version as first field, then a name or the like."""
    return head[:1] == b"\x08" and 0 < head[1] < 32 and head[2:3] in (b"\x12", b"\x1a", b"\x3a", b"\x42")
