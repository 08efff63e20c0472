"""Errors, grouped by what the caller would do about them.

Every message says where, what was expected, what was found and what to do. Codes are stable: they are appended, never
renumbered or reused. All errors pickle, so they cross process borders (Ray actors, loader workers) unchanged.
"""

from __future__ import annotations


class LookonceError(Exception):
    """Base of everything lookonce raises on purpose; a command prints it as one sentence and exits with 1."""

    code: str = "L000"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class UsageError(LookonceError):
    """The request itself is wrong (unknown name, value out of range): change the arguments. Exit code 2."""

    code = "L100"


class TeacherError(LookonceError):
    """The teacher or its weights cannot be had or do not fit: give other weights or another name."""

    code = "L200"


class SourceError(LookonceError):
    """The image source is missing, empty, changed or unreadable: fix the source."""

    code = "L300"


class CacheError(LookonceError):
    """A cache cannot be used for this request as it stands."""

    code = "L400"


class RecipeMismatchError(CacheError):
    """The cache on disk was made by another recipe: use another folder, or the old arguments."""

    code = "L401"


class SchemaError(CacheError):
    """A document (manifest, receipt, zarr metadata) is not what the schema says, or of an unknown version."""

    code = "L402"


class IntegrityError(CacheError):
    """An object is missing, truncated or has other bytes than its receipt says: delete the receipt, extract again."""

    code = "L403"


class IncompleteCacheError(CacheError):
    """Shards without receipts: resume the extraction."""

    code = "L404"


class CacheMismatchError(CacheError):
    """The cache does not hold what is asked of it (blocks, patch size, view size, seeds)."""

    code = "L405"


class NumericalError(LookonceError):
    """NaN or infinity in teacher features or in a loss; nothing bad was kept."""

    code = "L500"


class StorageError(LookonceError):
    """The file system said no (full, read-only, gone): what was committed stays valid; make room and run again."""

    code = "L600"


class AccessError(StorageError):
    """The operating system does not give a file out, which may be sound: mend permissions, mount or network."""

    code = "L601"


class MachineError(LookonceError):
    """The machine lacks something: memory, shared memory, threads, a compiler, a free port. Neither side's bug."""

    code = "L602"


class Interrupted(LookonceError):  # noqa: N818 - not an error: a clean stop that was asked for
    """Ctrl-C or SIGTERM: stopped cleanly, run the same command again to resume."""

    code = "L700"


class UnreadableImageError(SourceError):
    """One image is not an image, is truncated or too large: replace or remove it, or let bad images be skipped."""

    code = "L301"


class CheckpointError(LookonceError):
    """A checkpoint cannot be read or belongs to another run: give another one, or start a new run."""

    code = "L900"


class WeightsError(TeacherError, CheckpointError):
    """A file of weights cannot be read or does not fit, a teacher's or a student's: give another file."""

    code = "L201"


class BusyError(LookonceError):
    """Another process is writing to the same place: wait for it, or choose another place."""

    code = "L701"


class DistributedError(LookonceError):
    """Another process of the run failed or is gone: look for its own error, then start the run again."""

    code = "L901"


class EndedElsewhereError(DistributedError):
    """Another process of the run has said, in its own words, why the run ends: look there.

    Args:
        message: names the process and what it said.
        cause: what it raised.
    """

    code = "L902"

    def __init__(self, message: str, cause: LookonceError | None = None) -> None:
        super().__init__(message)
        self.cause = cause

    def __reduce__(self) -> tuple[type, tuple[str, LookonceError | None]]:
        return type(self), (self.message, self.cause)


class WorkerLostError(LookonceError):
    """Workers died again and again on the same shard: look for memory or driver trouble on the nodes."""

    code = "L800"


class RayStartError(LookonceError):
    """Ray does not start here: run again when the machine is less busy, or without Ray."""

    code = "L802"


class HeadLostError(LookonceError):
    """The Ray head died or cannot be reached: start the cluster again, then run again."""

    code = "L801"
