"""Torch checkpoints, loaded weights-only: objects that hold no weights are skipped, and nothing in a file runs."""

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
"""Pickles before the storages of a file of torch before 1.6: magic number, protocol, system, content."""

CODE = frozenset(
    f"builtins.{name}" for name in ("eval", "exec", "open", "compile", "__import__", "input", "breakpoint")
)
CODE_MODULES = frozenset({
    "os", "posix", "nt", "sys", "io", "_io", "subprocess", "shutil", "socket", "runpy", "importlib", "ctypes", "pty",
    "webbrowser", "code", "pickle", "_pickle", "marshal", "pip", "multiprocessing", "asyncio", "requests", "urllib",
})  # fmt: skip
"""What only a file that wants to run something refers to."""

_STATEFUL = frozenset({"numpy", "functools", "datetime", "random", "torch"})
"""Packages whose objects are given their state as something else than a dictionary."""


_LISTS = frozenset({"collections.deque"})


class HoldsCodeError(Exception):
    """A checkpoint refers to functions that would run something."""


class _Skipped:
    """Stands for an object that holds no weights, whatever it is made from."""

    def __new__(cls, *_args: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Keep a module's attributes, which hold its parameters; drop any other state."""
        if isinstance(state, dict):
            self.__dict__.update(state)


class _SkippedMapping:
    """The same for objects that may be dictionaries: what is made is a plain ``Counter`` with their content."""

    def __new__(cls, *_args: object) -> Any:
        return collections.Counter()


class _SkippedList:
    """The same for those that are filled like lists."""

    def __new__(cls, *_args: object) -> Any:
        return []


class UnskippableError(Exception):
    """A checkpoint holds objects that no stand-in can replace."""


def load_checkpoint_content(path: Path) -> Any:
    """What ``torch.save`` wrote: tensors, containers, numbers and text as they are, all other objects skipped.

    ``torch.load`` is called weights-only. Each class or function that it does not know itself is replaced by a stand-in
    that does nothing, so a configuration, a NumPy scalar or a path in a checkpoint is no reason to refuse its weights.
    A pickled module becomes a mapping whose attributes hold its parameters (see ``selection``).

    Raises:
        HoldsCodeError: it refers to functions that run things, such as ``os.system``.
        UnskippableError: it holds objects that no stand-in can replace; their classes are named.
        Exception: whatever ``torch.load`` raises for what it cannot read.
    """
    names = sorted(_globals(path))
    code = [name for name in names if name in CODE or name.partition(".")[0] in CODE_MODULES]
    if code:
        raise HoldsCodeError(", ".join(code))
    unknown = [name for name in names if name.partition(".")[0] not in ("torch", "collections", "_codecs")]
    first: Exception | None = None
    for stateful in (_STATEFUL, frozenset(name.partition(".")[0] for name in names)):
        stand_ins: list[Any] = [(_stand_in(name, stateful), name) for name in names]
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except (OSError, MemoryError):
                raise
            except Exception as error:  # a stand-in of the other kind may take it
                first = first or error
    if unknown and "Unsupported operand" not in str(first) and not isinstance(first, RuntimeError):
        raise UnskippableError(", ".join(unknown)) from first
    raise first or RuntimeError("nothing was read")


def _stand_in(name: str, stateful: AbstractSet[str]) -> type:
    if name in _LISTS:
        return _SkippedList
    return _Skipped if name.partition(".")[0] in stateful else _SkippedMapping


def _globals(path: Path) -> set[str]:
    """Dotted names of all classes and functions that a checkpoint refers to; nothing is loaded."""
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
    """``module name`` as Python 2 or 3 wrote it -> ``module.name`` as ``torch.load`` looks it up."""
    from torch._utils import IMPORT_MAPPING, NAME_MAPPING

    module, _, name = argument.partition(" ")
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[(module, name)]
    else:
        module = IMPORT_MAPPING.get(module, module)
    return f"{module}.{name}"
