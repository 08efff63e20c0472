"""The arrays of one augmentation seed, and their zarr v3 metadata documents.

The axis order is (sample, token, layer, channel): the layers of one token are contiguous, so visible tokens are read in
page-sized ranges. Large arrays are sharded with one sample per inner chunk and ``bytes`` as their only codec, so each
sample is one plain byte range. Small arrays (``view``, ``key``, ``label``) have one uncompressed chunk per shard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np

from lookonce.storage_schemas.precision import TargetShape, get_precision
from lookonce.storage_schemas.recipe import Recipe

VIEW_FIELDS = ("top", "left", "height", "width", "flip", "source_height", "source_width")
PIXEL_DIGEST_BYTES = 16
EMPTY_CHUNK = 2**64 - 1
"""Offset and length of a missing chunk in a zarr shard index."""

Chunking = Literal["sample", "shard"]

Moments = Literal["float32", "float16", "none"]
"""How the mean and standard deviation of tokens are stored: their dtype, or not at all."""

MOMENTS: tuple[Moments, ...] = ("none", "float16", "float32")
"""All of them, by ascending bits."""

JPEG, PIXEL_DIGEST = "jpeg", "pixel_digest"
"""Names of the arrays of views as JPEG, and of the digests of their pixels."""

MOMENT_ARRAYS = ("target_mean", "target_std")


def fits_moments(found: Moments, wanted: Moments) -> bool:
    """Whether stored moments can become the wanted ones: bits can only be taken away."""
    return MOMENTS.index(found) >= MOMENTS.index(wanted)


class ArraySpecDocument(TypedDict):
    """``ArraySpec`` as JSON."""

    name: str
    dtype: str
    sample_shape: list[int]
    dimensions: list[str]
    chunking: Chunking


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One array of a seed."""

    name: str
    dtype: str
    """Numpy dtype name (``uint8``, ``float16``, ``float32``, ``int32``, ``int64``), ``string``, or ``bytes`` for
    values of any length."""
    sample_shape: tuple[int, ...]
    """Shape of one sample's value; () for a scalar."""
    dimensions: tuple[str, ...]
    """Names of the dimensions after ``sample``."""
    chunking: Chunking
    """``sample``: sharded, one inner chunk per sample; ``shard``: one plain chunk per shard."""

    @property
    def variable(self) -> bool:
        """Whether values are bytes of any number."""
        return self.dtype == "bytes"

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample's value; 0 for strings and bytes, whose length varies."""
        if self.dtype in _ZARR_VARIABLE:
            return 0
        return math.prod(self.sample_shape) * np.dtype(self.dtype).itemsize

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Little-endian numpy dtype of the stored values; object for bytes."""
        return np.dtype(object) if self.variable else np.dtype(self.dtype).newbyteorder("<")

    def chunk_path(self, shard: int) -> str:
        """Path of a shard's object inside the seed's folder, by zarr's default chunk keys."""
        return "/".join([self.name, "c", str(shard)] + ["0"] * len(self.sample_shape))

    def zarr_metadata(self, samples: int, shard_size: int) -> dict[str, Any]:
        """The array's ``zarr.json`` (zarr v3 core, sharding codec 1.0)."""
        bytes_codec = _bytes_codec(self.dtype)
        codecs: list[dict[str, Any]] = [bytes_codec]
        if self.chunking == "sample":
            index_codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
            sharding = {
                "chunk_shape": [1, *self.sample_shape],
                "codecs": [bytes_codec],
                "index_codecs": index_codecs,
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [samples, *self.sample_shape],
            "data_type": _ZARR_VARIABLE.get(self.dtype, (self.dtype,))[0],
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [shard_size, *self.sample_shape]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "" if self.dtype in _ZARR_VARIABLE else 0,
            "codecs": codecs,
            "attributes": {},
            "dimension_names": ["sample", *self.dimensions],
            "storage_transformers": [],
        }

    def document(self) -> ArraySpecDocument:
        """The spec as a JSON-compatible document."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "sample_shape": list(self.sample_shape),
            "dimensions": list(self.dimensions),
            "chunking": self.chunking,
        }

    @classmethod
    def from_document(cls, document: ArraySpecDocument) -> ArraySpec:
        """Read a validated document."""
        return cls(
            name=document["name"],
            dtype=document["dtype"],
            sample_shape=tuple(document["sample_shape"]),
            dimensions=tuple(document["dimensions"]),
            chunking=document["chunking"],
        )


_ZARR_VARIABLE = {"string": ("string", "vlen-utf8"), "bytes": ("variable_length_bytes", "vlen-bytes")}
"""zarr's data type and codec of the dtypes of any length."""


def _bytes_codec(dtype: str) -> dict[str, Any]:
    if dtype in _ZARR_VARIABLE:
        return {"name": _ZARR_VARIABLE[dtype][1], "configuration": {}}
    if np.dtype(dtype).itemsize == 1:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "little"}}


def cache_arrays(
    recipe: Recipe, *, precision: str, store_pixels: bool, moments: Moments = "float32"
) -> tuple[ArraySpec, ...]:
    """The arrays of a cache; the KLT precisions have three for the targets.

    Args:
        recipe: recipe of the cache.
        precision: name of the precision of its targets.
        store_pixels: whether pixels are stored too: those of the stored patches, or the whole view in a recipe whose
            views are JPEGs.
        moments: how mean and standard deviation of tokens are stored.

    Raises:
        UsageError: unknown precision.
    """
    codec = get_precision(precision)
    layers, stored = len(recipe.teacher.blocks), recipe.stored_patches
    patch_bytes = recipe.patch_size**2 * 3
    all_patches, token_layer = recipe.tokens.keeps_all, ("token", "layer")
    specs: list[ArraySpec] = []

    def add(name: str, dtype: str, shape: tuple[int, ...], dimensions: tuple[str, ...]) -> None:
        small = name in ("view", "key", "label")
        chunking: Chunking = "shard" if small else "sample"
        specs.append(ArraySpec(name=name, dtype=dtype, sample_shape=shape, dimensions=dimensions, chunking=chunking))

    for array in codec.arrays(target_shape(recipe)):
        add(array.name, array.dtype, array.shape, array.dimensions)
    for name in MOMENT_ARRAYS if moments != "none" else ():
        add(name, moments, (stored + 1, layers), token_layer)
    add("importance", "float32", (recipe.patches,), ("patch",))
    if not all_patches:
        add("patch_ids", "uint16", (stored,), ("stored_patch",))
    if store_pixels and recipe.jpeg_quality is not None:
        add(JPEG, "bytes", (), ())
    elif store_pixels:
        add("pixels", "uint8", (stored, patch_bytes), ("patch" if all_patches else "stored_patch", "pixel"))
    add(PIXEL_DIGEST, "uint8", (PIXEL_DIGEST_BYTES,), ("byte",))
    add("view", "int32", (len(VIEW_FIELDS),), ("field",))
    add("key", "string", (), ())
    add("label", "int64", (), ())
    return tuple(specs)


def target_shape(recipe: Recipe) -> TargetShape:
    """Shape of the targets of one view of a cache."""
    return TargetShape(
        patches=recipe.stored_patches,
        layers=len(recipe.teacher.blocks),
        channels=recipe.teacher.width,
        all_patches=recipe.tokens.keeps_all,
    )


def zarr_group_metadata(attributes: dict[str, Any]) -> dict[str, Any]:
    """The ``zarr.json`` of a seed's folder."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}
