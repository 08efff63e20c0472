"""The interface of a container: the objects of a shard, how they are written, and where a sample starts."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.containers.unmapped import FileBytes
from lookonce.storage_schemas.arrays import ArraySpec
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt, StoredObject


@dataclass(frozen=True)
class Places:
    """Where the values of an array lie in an object, by row of the shard."""

    starts: NDArray[np.int64]
    """First byte, int64 (rows,); -1 for a hole."""
    lengths: NDArray[np.int64]
    """Bytes, int64 (rows,); of a hole any number."""


@dataclass(frozen=True, kw_only=True)
class ObjectContent:
    """The bytes of one object, with its entry in the receipt, the receipt and the manifest."""

    data: NDArray[np.uint8] | FileBytes
    stored: StoredObject
    receipt: Receipt
    manifest: Manifest

    @property
    def where(self) -> str:
        """The object's path, for messages."""
        return self.stored.path

    @property
    def rows(self) -> range:
        """Rows of the shard, holes included."""
        return range(self.receipt.first_sample, self.receipt.first_sample + self.receipt.samples)


class ShardSink(abc.ABC):
    """Writes the objects of one shard under temporary names, as samples arrive."""

    @abc.abstractmethod
    def append(self, rows: Sequence[int], values: Mapping[str, NDArray[Any]]) -> None:
        """Append samples in ascending order of rows; shapes and dtypes are already checked.

        Raises:
            OSError: the operating system refused the write.
        """

    @abc.abstractmethod
    def finish(self) -> list[StoredObject]:
        """Complete all objects, sync them and rename them into place.

        Raises:
            OSError: the operating system refused the write.
        """

    @abc.abstractmethod
    def discard(self) -> None:
        """Remove temporary files. It does nothing after ``finish``."""


class Container(abc.ABC):
    """One layout of shards on disk. It has no state."""

    name: ClassVar[str]

    @abc.abstractmethod
    def seed_documents(self, manifest: Manifest, seed: int) -> dict[str, dict[str, Any]]:
        """JSON files of a seed beside its shards: path relative to the cache, and content."""

    @abc.abstractmethod
    def object_paths(self, manifest: Manifest, seed: int, shard: int) -> dict[str, str]:
        """The objects of a shard in the order of its receipt: name, and POSIX path relative to the cache."""

    @abc.abstractmethod
    def object_of(self, array: str) -> str:
        """Name of the object that contains an array."""

    @abc.abstractmethod
    def open_sink(
        self, root: Path, manifest: Manifest, seed: int, shard: int, keys: Sequence[str], labels: Sequence[int]
    ) -> ShardSink:
        """Start writing a shard; ``keys`` and ``labels`` are those of all its rows.

        Raises:
            OSError: the operating system refused to create the files.
        """

    @abc.abstractmethod
    def sample_bytes(self, manifest: Manifest) -> int:
        """Bytes of a sample in a shard's objects, without ``key_bytes`` and ``variable_bytes``."""

    @abc.abstractmethod
    def variable_bytes(self, length: int) -> int:
        """Bytes that a value of ``length`` bytes adds to ``sample_bytes``, in an array of dtype ``bytes``."""

    @abc.abstractmethod
    def shard_bytes(self, manifest: Manifest) -> int:
        """Bytes of a shard's objects apart from its samples: indices, columns, end marks."""

    @abc.abstractmethod
    def key_bytes(self, row: int, key: str, label: int, seed: int) -> int:
        """Bytes of the key and label of a sample."""

    @abc.abstractmethod
    def places(self, content: ObjectContent) -> dict[str, Places]:
        """Places of the samples of each ``chunking="sample"`` array in an object; reads headers and indices only.

        Raises:
            IntegrityError: the object is damaged.
        """

    @abc.abstractmethod
    def column(self, content: ObjectContent, spec: ArraySpec) -> NDArray[Any]:
        """The rows of a ``chunking="shard"`` array (``key``, ``label`` or ``view``), shape (rows, ...).

        Raises:
            IntegrityError: the object is damaged.
        """

    @abc.abstractmethod
    def check(self, content: ObjectContent) -> None:
        """Check an object as far as possible without computing its digest.

        Raises:
            IntegrityError: the object is damaged, or contradicts its receipt.
        """


def seed_folder(seed: int) -> str:
    """A seed's folder, ``seed-0000``."""
    return f"seed-{seed:04d}"
