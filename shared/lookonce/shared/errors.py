"""The errors that lookonce raises on purpose, grouped by what the caller can do about them.

Every message says where, what was expected, what was found and what to do. All errors can be pickled, so they cross
process borders (Ray actors, loader workers) unchanged. A command prints the message and exits with 1, or with 2 for a
``UsageError``; with ``--json`` it also prints ``document()``, so that a program can tell errors by their ``kind``.

```text
LookonceError
├── UsageError
├── TeacherError
│   └── WeightsError
├── SourceError
│   └── UnreadableImageError
├── CacheError
│   ├── RecipeMismatchError
│   ├── SchemaError
│   ├── IntegrityError
│   ├── IncompleteCacheError
│   └── CacheMismatchError
├── CheckpointError
│   └── WeightsError
├── NumericalError
├── StorageError
│   └── AccessError
│       └── StoreError
├── MachineError
├── BusyError
├── Interrupted
├── DistributedError
│   └── EndedElsewhereError
├── WorkerLostError
├── RayStartError
└── HeadLostError
```
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

ProblemKind = Literal["missing", "unexpected", "type", "value", "version", "inconsistent"]


class LookonceError(Exception):
    """Base of all errors that lookonce raises on purpose. A command prints the message and exits with 1."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    @property
    def kind(self) -> str:
        """Name of the error for programs, such as ``recipe-mismatch``; part of the contract, as the classes are."""
        name = type(self).__name__.removesuffix("Error")
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()

    def document(self) -> dict[str, Any]:
        """The error as JSON."""
        return {"kind": self.kind, "message": self.message}


class UsageError(LookonceError):
    """The request is wrong, such as an unknown name or a value out of range: change the arguments. Exit code 2."""


class TeacherError(LookonceError):
    """The teacher or its weights cannot be loaded, or do not fit: give other weights or another name."""


class SourceError(LookonceError):
    """The image source is missing, empty, changed or unreadable: fix the source."""


class UnreadableImageError(SourceError):
    """One file is not an image, is truncated or is too large: replace it, remove it, or let bad images be skipped."""


class CacheError(LookonceError):
    """A cache cannot serve this request."""


class RecipeMismatchError(CacheError):
    """Another recipe made the cache on disk: use another folder, or the old arguments."""


@dataclass(frozen=True, kw_only=True)
class SchemaProblem:
    """One thing that is wrong with a document."""

    loc: tuple[str | int, ...]
    """Path of keys and indices from the document's root; empty for the document as a whole."""
    message: str
    """What was found and what was expected."""
    kind: ProblemKind

    def __str__(self) -> str:
        place = ".".join(str(part) for part in self.loc) or "document"
        return f"{place}: {self.message}"


class SchemaError(CacheError):
    """A document (manifest, receipt, zarr metadata) does not follow its schema, or has an unknown version.

    Args:
        message: names the document and its first problems.
        problems: all problems of the document; empty if it cannot be read as JSON at all.
    """

    def __init__(self, message: str, problems: Sequence[SchemaProblem] = ()) -> None:
        super().__init__(message)
        self.problems: tuple[SchemaProblem, ...] = tuple(problems)

    def __reduce__(self) -> tuple[type, tuple[str, tuple[SchemaProblem, ...]]]:
        return type(self), (self.message, self.problems)

    def document(self) -> dict[str, Any]:
        """The error as JSON, with all problems of the document."""
        return {**super().document(), "problems": [asdict(problem) for problem in self.problems]}


class IntegrityError(CacheError):
    """An object is missing, truncated, or differs from its receipt: delete the receipt and extract again."""


class IncompleteCacheError(CacheError):
    """Some shards have no receipt: resume the extraction."""


class CacheMismatchError(CacheError):
    """The cache does not contain what the request needs (blocks, patch size, view size, seeds)."""


class CheckpointError(LookonceError):
    """A checkpoint cannot be read or belongs to another run: give another one, or start a new run."""


class WeightsError(TeacherError, CheckpointError):
    """A weights file of a teacher or student cannot be read or does not fit: give another file."""


class NumericalError(LookonceError):
    """Teacher features or a loss contain NaN or infinity. Nothing of them was stored."""


class StorageError(LookonceError):
    """The file system refused to write (full, read-only, gone). Committed data stays valid: make room and run again."""


class AccessError(StorageError):
    """The operating system refused to read a file, which may be sound: fix permissions, mount or network."""


class StoreError(AccessError):
    """An object store, the hub or a web server refuses a request or does not answer; what lies there may be sound.

    Correct the credentials, the bucket or the network, then run again.

    Args:
        message: names the object.
        may_pass: whether the same request may succeed later (overload, network).
        unsupported: whether the server does not know this kind of request.
    """

    def __init__(self, message: str, may_pass: bool = False, unsupported: bool = False) -> None:
        super().__init__(message)
        self.may_pass, self.unsupported = may_pass, unsupported

    def __reduce__(self) -> tuple[type, tuple[str, bool, bool]]:
        return type(self), (self.message, self.may_pass, self.unsupported)


class MachineError(LookonceError):
    """The machine lacks memory, shared memory, threads, a compiler or a free port."""


class BusyError(LookonceError):
    """Another process writes to this place, or needs what is there: wait for it, or choose another place."""


class Interrupted(LookonceError):  # noqa: N818 - not an error: the user asked for a clean stop
    """Ctrl-C or SIGTERM stopped the run cleanly: run the same command again to resume."""


class DistributedError(LookonceError):
    """Another process of the run failed or disappeared: read its error, then start the run again."""


class EndedElsewhereError(DistributedError):
    """Another process of the run reported why the run ends: read its message.

    Args:
        message: names the process and repeats its message.
        cause: the error that it raised.
    """

    def __init__(self, message: str, cause: LookonceError | None = None) -> None:
        super().__init__(message)
        self.cause = cause

    def __reduce__(self) -> tuple[type, tuple[str, LookonceError | None]]:
        return type(self), (self.message, self.cause)


class WorkerLostError(LookonceError):
    """Workers died repeatedly on the same shard: check memory and drivers of the nodes."""


class RayStartError(LookonceError):
    """Ray does not start on this machine: run again when the machine is less busy, or run without Ray."""


class HeadLostError(LookonceError):
    """The Ray head died or cannot be reached: start the cluster again, then run again."""
