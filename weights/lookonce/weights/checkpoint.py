"""Loads torch checkpoints weights-only: skips objects without weights, and runs no code from the file."""

from __future__ import annotations

import collections
import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Self

import torch

LEGACY_PICKLES = 4
"""Number of pickles before the storages in a file of torch before 1.6: magic number, protocol, system, content."""

CODE = frozenset(
    f"builtins.{name}" for name in ("eval", "exec", "open", "compile", "__import__", "input", "breakpoint")
)
CODE_MODULES = frozenset({
    "os", "posix", "nt", "sys", "io", "_io", "subprocess", "shutil", "socket", "runpy", "importlib", "ctypes", "pty",
    "webbrowser", "code", "pickle", "_pickle", "marshal", "pip", "multiprocessing", "asyncio", "requests", "urllib",
})  # fmt: skip
"""Modules that only a file with harmful code refers to."""

_STATEFUL = frozenset({"numpy", "functools", "datetime", "random", "torch"})
"""Packages whose objects are restored from another state than a dictionary."""


_LISTS = frozenset({"collections.deque"})


class ContainsCodeError(Exception):
    """A checkpoint refers to functions that run code."""


class _Skipped:
    """Placeholder for an object without weights; it accepts any arguments."""

    def __new__(cls, *_args: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Keep a module's attributes, which contain its parameters; drop any other state."""
        if isinstance(state, dict):
            self.__dict__.update(state)


class _SkippedMapping:
    """Placeholder for an object that may be a dictionary: becomes a ``Counter`` with its content."""

    def __new__(cls, *_args: object) -> Any:
        return collections.Counter()


class _SkippedList:
    """Placeholder for an object that is filled like a list."""

    def __new__(cls, *_args: object) -> Any:
        return []


class UnskippableError(Exception):
    """A checkpoint contains objects that no placeholder can replace."""


def load_checkpoint_content(path: Path) -> Any:
    """Read a file of ``torch.save``: tensors, containers, numbers and text; all other objects are skipped.

    ``torch.load`` is called weights-only. A placeholder that does nothing replaces each class or function that it does
    not accept, so a configuration, a NumPy scalar or a path in a checkpoint does not prevent loading its weights. A
    pickled module becomes a mapping whose attributes contain its parameters (see ``selection``).

    Raises:
        ContainsCodeError: the file refers to functions that run code, such as ``os.system``.
        UnskippableError: the file contains objects that no placeholder can replace; the message names their classes.
        Exception: ``torch.load`` cannot read the file.
    """
    names = sorted(_globals(path))
    code = [name for name in names if name in CODE or name.partition(".")[0] in CODE_MODULES]
    if code:
        raise ContainsCodeError(", ".join(code))
    unknown = [name for name in names if name.partition(".")[0] not in ("torch", "collections", "_codecs")]
    first: Exception | None = None
    for stateful in (_STATEFUL, frozenset(name.partition(".")[0] for name in names)):
        placeholders: list[Any] = [(_placeholder(name, stateful), name) for name in names]
        with warnings.catch_warnings(), torch.serialization.safe_globals(placeholders):
            warnings.simplefilter("ignore")
            try:
                if path.suffix.lower() != ".safetensors":
                    return torch.load(path, map_location="cpu", weights_only=True)
                with path.open("rb") as file:  # by a path of this name, torch reads safetensors
                    return torch.load(file, map_location="cpu", weights_only=True)
            except (OSError, MemoryError):
                raise
            except Exception as error:  # a placeholder of the other kind may work
                first = first or error
    if unknown and "Unsupported operand" not in str(first) and not isinstance(first, RuntimeError):
        raise UnskippableError(", ".join(unknown)) from first
    raise first or RuntimeError("nothing was read")


def _placeholder(name: str, stateful: AbstractSet[str]) -> type:
    if name in _LISTS:
        return _SkippedList
    return _Skipped if name.partition(".")[0] in stateful else _SkippedMapping


def _globals(path: Path) -> set[str]:
    """Dotted names of all classes and functions that a checkpoint refers to, without loading it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = min((name for name in archive.namelist() if name.endswith("data.pkl")), key=len)
            return set(_named_globals(archive.read(name)))
    found: set[str] = set()
    with path.open("rb") as handle:
        for _ in range(LEGACY_PICKLES):
            for opcode, argument, _ in pickletools.genops(handle):
                if opcode.name == "GLOBAL":
                    found.add(_dotted(str(argument)))
    return found


def _named_globals(data: bytes) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL":
            yield _dotted(str(argument))


def _dotted(argument: str) -> str:
    """``module name`` as Python 2 or 3 writes it -> ``module.name`` as ``torch.load`` resolves it."""
    from torch._utils import IMPORT_MAPPING, NAME_MAPPING

    module, _, name = argument.partition(" ")
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[(module, name)]
    else:
        module = IMPORT_MAPPING.get(module, module)
    return f"{module}.{name}"
