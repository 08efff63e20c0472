"""Writes one shard of one seed: samples are appended as they arrive, the receipt is written last."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from lookonce.cache.containers import container_of
from lookonce.cache.layout import CacheLayout
from lookonce.shared.faults.os_errors import storage_error
from lookonce.shared.files.atomic import write_json
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Hole, Receipt


class ShardWriter:
    """Writes all arrays of one (seed, shard) and then its receipt, in the manifest's container.

    The shard counts only after ``commit`` returns. Rows may be left out (holes); all others are appended in ascending
    order, so that the same samples always give the same bytes. It is a context manager: leaving it without ``commit``
    removes the written files.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        *,
        seed: int,
        shard: int,
        keys: Sequence[str],
        labels: Sequence[int],
    ) -> None:
        self._layout = CacheLayout(root)
        self._manifest = manifest
        self._seed, self._shard = seed, shard
        self._rows = manifest.shard_rows(shard)
        if not len(keys) == len(labels) == len(self._rows):
            raise ValueError(f"shard {shard} has {len(self._rows)} rows; got {len(keys)} keys and {len(labels)} labels")
        self._keys, self._labels = list(keys), [int(label) for label in labels]
        self._streamed = [spec for spec in manifest.arrays if spec.name not in ("key", "label")]
        self._next_row = self._rows.start
        self._holes: list[Hole] = []
        try:
            self._sink = container_of(manifest).open_sink(root, manifest, seed, shard, self._keys, self._labels)
        except OSError as error:
            raise storage_error(error, root, "writing") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def append(self, rows: Sequence[int], values: Mapping[str, NDArray[Any]]) -> None:
        """Append samples.

        Args:
            rows: rows of the samples, ascending, after all rows appended before.
            values: every array except ``key`` and ``label``: shape (len(rows), *sample_shape), stored dtype.

        Raises:
            ValueError: rows are out of order or outside the shard, or a value has the wrong shape or dtype.
            StorageError: the operating system refused the write.
        """
        ordered = all(left < right for left, right in itertools.pairwise(rows))
        if not rows or rows[0] < self._next_row or rows[-1] >= self._rows.stop or not ordered:
            raise ValueError(f"rows {list(rows)} do not continue shard {self._shard} at row {self._next_row}")
        for spec in self._streamed:
            found, expected = values[spec.name], (len(rows), *spec.sample_shape)
            if found.shape != expected or found.dtype != spec.numpy_dtype:
                raise ValueError(
                    f"array {spec.name!r}: got {found.dtype} {found.shape}, expected {spec.dtype} {expected}"
                )
        try:
            self._sink.append(rows, values)
        except OSError as error:
            raise self._storage_error(error) from error
        self._next_row = rows[-1] + 1

    def leave_out(self, row: int, reason: str) -> None:
        """Record a row as a hole, with the reason."""
        position = row - self._rows.start
        self._holes.append(Hole(sample=row, key=self._keys[position], label=self._labels[position], reason=reason))

    def commit(self, *, statistics: Mapping[str, float], versions: Mapping[str, str]) -> Receipt:
        """Finish all objects, then write the receipt by rename. From then on the shard counts.

        Raises:
            StorageError: the operating system refused the write; the shard does not count and can be written again.
        """
        try:
            objects = self._sink.finish()
        except OSError as error:
            raise self._storage_error(error) from error
        receipt = Receipt(
            fingerprint=self._manifest.recipe.fingerprint,
            encoding=self._manifest.encoding.digest,
            seed=self._seed,
            shard=self._shard,
            first_sample=self._rows.start,
            samples=len(self._rows),
            holes=tuple(sorted(self._holes, key=lambda hole: hole.sample)),
            objects=tuple(objects),
            statistics=dict(statistics),
            versions=dict(versions),
        )
        write_json(self._layout.receipt_file(self._seed, self._shard), receipt.document())
        return receipt

    def discard(self) -> None:
        """Remove temporary files. It does nothing after ``commit``."""
        self._sink.discard()

    def _storage_error(self, error: OSError) -> Exception:
        return storage_error(error, self._layout.seed_folder(self._seed) / f"shard {self._shard}", "writing")
