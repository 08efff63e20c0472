"""What a file or folder is that was given where a checkpoint was expected."""

from __future__ import annotations

from pathlib import Path

from lookonce.weights.kinds import foreign_kind, is_safetensors


def what_it_is(path: Path) -> str:
    """What an existing file or folder is, as far as it tells, behind ``it is``: ``a feature cache``.

    Raises:
        OSError: the operating system does not give it out.
    """
    if path.is_dir():
        return _folder(path)
    kind = foreign_kind(path)
    if kind is None:
        return _weights(path)
    named, _, _ = kind.partition(": ")  # what follows is what to do where weights are wanted
    return named.removeprefix("it is ") if named.startswith("it is ") else "a file of unknown kind"


def _folder(path: Path) -> str:
    if (path / "manifest.json").exists():
        return "a feature cache"
    found = sorted((path if path.name == "checkpoints" else path / "checkpoints").glob("step-*"))
    if found:
        return f"the folder of a run, whose newest checkpoint is {found[-1]}"
    return "a folder without checkpoints" if any(path.iterdir()) else "an empty folder"


def _weights(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(8)
        header = file.read(int.from_bytes(head, "little")) if is_safetensors(head + file.peek(1)[:1]) else None
    if header is None:
        return "a file of torch.save by another program, or weights alone"
    if b'"student"' in header:
        return "the student that a run has left, weights alone (to start another run from them is not resuming)"
    return "a safetensors file, weights alone"
