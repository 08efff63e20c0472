"""What a conversion makes of a manifest: container, precision with its calibration, shard size."""

from __future__ import annotations

import dataclasses

import numpy as np

from lookonce.cache.reader import CacheReader
from lookonce.shared.errors import IncompleteCacheError, UsageError
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import Container, Manifest
from lookonce.storage_schemas.precision import get_precision

CALIBRATION_SAMPLES = 256
"""Stored samples that fix the scales of a calibrated precision, evenly spread over the rows of the first seed."""

CALIBRATION_TOKENS = 1 << 15
"""Tokens kept for it, the class token of every sample among them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionRequest:
    """What to change; None leaves a thing as it is."""

    container: Container | None = None
    precision: str | None = None
    shard_size: int | None = None
    """Samples a shard, at least 1."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: an unknown precision, or a shard size below 1.
        """
        if self.precision is not None:
            get_precision(self.precision)
        if self.shard_size is not None and self.shard_size < 1:
            raise UsageError(f"shard size {self.shard_size}: must be at least 1")


def converted_manifest(reader: CacheReader, request: ConversionRequest) -> Manifest:
    """The manifest of the converted cache; the same source and request always give the same.

    Raises:
        UsageError: the precision is another one of no fewer bits.
        IncompleteCacheError: every sample is a hole, so there is nothing to calibrate from.
        IntegrityError: an object is damaged.
    """
    manifest = reader.manifest
    changes: dict[str, object] = {
        "container": request.container or manifest.container,
        "shard_size": request.shard_size or manifest.shard_size,
    }
    if request.precision is not None and request.precision != manifest.encoding.precision:
        changes["encoding"] = _encoding(reader, request.precision)
        codec, width = get_precision(request.precision), manifest.recipe.teacher.width
        targets = manifest.array("targets")
        shape = (*targets.sample_shape[:-1], codec.stored_channels(width))
        narrowed = dataclasses.replace(targets, dtype=codec.dtype, sample_shape=shape)
        changes["arrays"] = tuple(narrowed if spec.name == "targets" else spec for spec in manifest.arrays)
    return dataclasses.replace(manifest, **changes)  # type: ignore[arg-type]  # the fields' own types


def _encoding(reader: CacheReader, precision: str) -> Encoding:
    found, codec = get_precision(reader.manifest.encoding.precision), get_precision(precision)
    if codec.bits >= found.bits:
        raise UsageError(
            f"--precision {precision} ({codec.bits} bits): {reader.root} holds {found.name} ({found.bits} bits), and a "
            "conversion can only take bits away; extract again for more"
        )
    if not codec.calibrated:
        return Encoding(precision=precision, parameters={})
    seed = reader.seeds[0]
    present = reader.rows(seed)
    if not len(present):
        raise IncompleteCacheError(f"{reader.root}: every sample of seed {seed} is a hole: nothing to calibrate from")
    chosen = present[
        np.unique(np.linspace(0, len(present) - 1, min(CALIBRATION_SAMPLES, len(present))).round().astype(int))
    ]
    tokens = reader.manifest.array("targets").sample_shape[0]
    kept = np.unique(
        np.linspace(0, tokens - 1, min(tokens, max(2, CALIBRATION_TOKENS // len(chosen)))).round().astype(int)
    )
    positions = np.broadcast_to(kept, (len(chosen), len(kept)))
    values = reader.decode(reader.read("targets", [seed] * len(chosen), chosen, positions))
    return Encoding(precision=precision, parameters=codec.calibrate(values.reshape(-1, *values.shape[2:])))
