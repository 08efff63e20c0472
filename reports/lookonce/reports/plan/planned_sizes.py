"""Bytes of the requested cache, and of the same cache in every precision and with other token subsets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lookonce.cache.write.sizes import CacheBytes, cache_bytes, key_bytes
from lookonce.extract.prepare import Extraction, new_manifest
from lookonce.extract.sanity import ShardStatistics
from lookonce.shared.config_values import parse_seeds
from lookonce.storage_schemas.arrays import ArraySpec, target_shape
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import (
    PRECISIONS,
    KltPrecision,
    TargetShape,
    get_element_precision,
    get_precision,
)
from lookonce.storage_schemas.recipe import Recipe
from lookonce.storage_schemas.tokens import AllTokens, TokenSubset, TopTokens, VisibleTokens


@dataclass(frozen=True, kw_only=True)
class PlannedSize:
    """One precision with one token subset."""

    precision: str
    tokens: TokenSubset
    stored_patches: int
    """Patches of a view that are stored."""
    bytes: CacheBytes
    encoding_bytes: int
    """Bytes of the object of the encoding, about, which are among ``bytes``; 0 if there is none."""
    chosen: bool
    """Whether this is the requested one."""

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        return {
            "precision": self.precision,
            "tokens": self.tokens.document(),
            "stored_patches": self.stored_patches,
            "bytes_a_view": self.bytes.per_view,
            "bytes": self.bytes.total,
            "bytes_of_encoding": self.encoding_bytes,
            "chosen": self.chosen,
        }


def planned_sizes(
    extraction: Extraction, recipe: Recipe, versions: dict[str, str], jpegs: Sequence[int]
) -> list[PlannedSize]:
    """The size of each choice with all other settings as requested; by precision, then token subset.

    Args:
        extraction: as requested.
        recipe: of it.
        versions: of the libraries.
        jpegs: bytes of the JPEGs of some views, if the cache stores them.
    """
    config, asked = extraction.config, extraction.config.token_subset
    seeds = parse_seeds(config.seeds)
    subsets = [AllTokens(), VisibleTokens(mask=config.mask, mask_ratio=config.mask_ratio), TopTokens(share=0.5)]
    subsets = [asked if type(asked) is type(subset) else subset for subset in subsets]
    keys: int | None = None
    sizes = []
    for precision in PRECISIONS:
        for tokens in subsets:
            manifest = planned_manifest(extraction, dataclasses.replace(recipe, tokens=tokens), precision, versions)
            keys = key_bytes(manifest, seeds, extraction.listing.entries) if keys is None else keys
            sizes.append(
                PlannedSize(
                    precision=precision,
                    tokens=tokens,
                    stored_patches=manifest.recipe.stored_patches,
                    bytes=cache_bytes(
                        manifest, seeds, keys=keys, statistics=tuple(ShardStatistics().document()), jpegs=jpegs
                    ),
                    encoding_bytes=len(manifest.encoding.object_content()) if manifest.encoding.apart else 0,
                    chosen=precision == config.precision and tokens == asked,
                )
            )
    return sizes


def planned_manifest(extraction: Extraction, recipe: Recipe, precision: str, versions: dict[str, str]) -> Manifest:
    """A manifest of the right size before calibration: its parameters have the right shapes and arbitrary values."""
    return new_manifest(extraction, recipe, stand_in_encoding(precision, target_shape(recipe)), versions)


@functools.cache
def stand_in_encoding(precision: str, shape: TargetShape) -> Encoding:
    """An encoding before calibration: its parameters have the right shapes, for KLT about so, and arbitrary values."""
    codec = get_precision(precision)
    if isinstance(codec, KltPrecision):
        return Encoding(precision=precision, parameters=codec.stand_in(shape))
    values = np.zeros((2, shape.layers, shape.channels), dtype=np.float32)
    return Encoding(precision=precision, parameters=get_element_precision(precision).calibrate(values))


def read_bytes(arrays: Sequence[ArraySpec], stored_patches: int, visible: int, jpeg: float = 0.0) -> float:
    """Bytes that a training step needs of one view: visible tokens and pixels, and importance to draw the mask.

    Args:
        arrays: of the cache.
        stored_patches: patches of a view that are stored.
        visible: how many of them the student sees.
        jpeg: bytes of a view's JPEG, if it is stored.
    """
    shares = {"targets": (visible + 1, stored_patches + 1), "pixels": (visible, stored_patches)}
    whole = dict.fromkeys(("importance", "patch_ids", "coarse_targets", "class_targets"), (1, 1))
    if any(spec.name == "class_targets" for spec in arrays):
        shares["targets"] = (visible, stored_patches)
    read = {**shares, **whole}
    return jpeg + sum(spec.sample_bytes * part // of for spec in arrays for part, of in [read.get(spec.name, (0, 1))])
