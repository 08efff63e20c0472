"""The manifest of a converted cache: container, precision with its calibration, token subset, shard size."""

from __future__ import annotations

import dataclasses
import sys

from lookonce.cache.read.calibration_features import calibration_values, calibration_views
from lookonce.cache.read.reader import CacheReader
from lookonce.shared.errors import IncompleteCacheError, UsageError
from lookonce.storage_schemas.arrays import Moments, cache_arrays, fits_moments, target_shape
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import Container, Manifest
from lookonce.storage_schemas.precision import (
    KltPrecision,
    automatic_percent,
    calibration_view_count,
    choose_precision,
    gathered_statistics,
    get_element_precision,
    get_precision,
    require_precision,
)
from lookonce.storage_schemas.recipe import Recipe
from lookonce.storage_schemas.tokens import TokenSubset


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionRequest:
    """Properties to change; None keeps a property."""

    container: Container | None = None
    precision: str | None = None
    shard_size: int | None = None
    """Samples per shard, at least 1."""
    tokens: TokenSubset | None = None
    """Patches to keep; the source must contain all of them."""
    moments: Moments | None = None
    """How mean and standard deviation of tokens are stored; of no more bits than in the source."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: the precision is unknown, or the shard size is below 1.
        """
        if self.precision is not None:
            require_precision(self.precision)
        if self.shard_size is not None and self.shard_size < 1:
            raise UsageError(f"shard size {self.shard_size}: must be at least 1")


def converted_manifest(reader: CacheReader, request: ConversionRequest) -> Manifest:
    """The manifest of the converted cache; the same source and request always give the same manifest.

    Raises:
        UsageError: another precision has no fewer bits, or the source lacks the requested tokens.
        IncompleteCacheError: every sample is a hole, so there is nothing to calibrate from.
        IntegrityError: an object is damaged.
    """
    manifest = reader.manifest
    recipe, encoding = _recipe(reader, request.tokens), manifest.encoding
    if request.precision is not None and request.precision != encoding.precision:
        encoding = _encoding(reader, request.precision, recipe)
    elif recipe.tokens != manifest.recipe.tokens and encoding.codes_views:
        raise UsageError(
            f"{reader.root}: it holds {encoding.precision}, whose tokens share a coarse part, so no subset of them can "
            "be cut out; convert a cache of another precision, or extract again"
        )
    return dataclasses.replace(
        manifest,
        recipe=recipe,
        encoding=encoding,
        container=request.container or manifest.container,
        shard_size=request.shard_size or manifest.shard_size,
        arrays=cache_arrays(
            recipe,
            precision=encoding.precision,
            store_pixels=manifest.stores_pixels,
            moments=_moments(reader, request.moments),
        ),
    )


def _moments(reader: CacheReader, asked: Moments | None) -> Moments:
    found = reader.manifest.moments
    if asked is not None and not fits_moments(found, asked):
        raise UsageError(
            f"--moments {asked}: {reader.root} has --moments {found}, and a conversion can only take bits away; "
            "extract again for more"
        )
    return asked or found


def _recipe(reader: CacheReader, tokens: TokenSubset | None) -> Recipe:
    found = reader.manifest.recipe
    if tokens is None or tokens == found.tokens:
        return found
    if not found.tokens.keeps_all:
        raise UsageError(
            f"{reader.root}: this cache contains only the token subset {found.tokens.document()}; "
            "convert a cache of all tokens, or extract again"
        )
    return dataclasses.replace(found, tokens=tokens)


def _encoding(reader: CacheReader, precision: str, recipe: Recipe) -> Encoding:
    found = get_precision(reader.manifest.encoding.precision)
    codec = None if automatic_percent(precision) is not None else get_precision(precision)
    if codec is not None and codec.bits_per_value >= found.bits_per_value:
        raise UsageError(
            f"--precision {precision} ({codec.bits_per_value:g} bits): {reader.root} has {found.name} "
            f"({found.bits_per_value:g} bits), and a conversion can only take bits away; extract again for more"
        )
    if codec is not None and not codec.calibrated:
        return Encoding(precision=precision, parameters={})
    seed = reader.seeds[0]
    present = reader.rows(seed)
    if not len(present):
        raise IncompleteCacheError(
            f"{reader.root}: every sample of seed {seed} is a hole, so nothing can calibrate the precision"
        )
    if codec is None or isinstance(codec, KltPrecision):
        shape = target_shape(recipe)
        views = calibration_views(reader, seed, present, recipe.tokens, samples=calibration_view_count(shape))
        if codec is not None:
            return Encoding(precision=precision, parameters=codec.calibrate_views(views, shape, _warn))
        statistics = gathered_statistics(views, shape, _warn)
        choice = choose_precision(statistics, precision, below_bits=found.bits_per_value)
        print(choice.text(precision), file=sys.stderr, flush=True)
        return Encoding(precision=choice.precision.name, parameters=choice.code.parameters())
    values = calibration_values(reader, seed, present)
    return Encoding(precision=precision, parameters=get_element_precision(precision).calibrate(values))


def _warn(shortage: str) -> None:
    print(f"note: {shortage}; convert a cache of more images, or take int8 or int4", file=sys.stderr, flush=True)
