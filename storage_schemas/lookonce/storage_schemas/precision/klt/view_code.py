"""The code of a view's targets, and the numpy reference of encoding and decoding.

A patch token x contains the LayerNormed outputs of all stored blocks, N = layers x channels values.

1. Coarse part: the lowest spatial frequencies of a view's patch tokens, ``c = S^T (x - mean)`` (see ``spatial``), are
   transformed by an orthonormal basis of their own and quantised once per view.
2. Token: the rest, ``x - mean - S c`` with c as decoded, is transformed by the tokens' orthonormal basis and quantised.
3. Class token: one byte per value with an affine map per (layer, channel), as precision int8 does. It does not follow
   the statistics of patch tokens.

Every index belongs to a scalar quantiser of as many bits as the component is worth (see ``allocation``); components
without bits are dropped from the bases. Records have a fixed length, so that one token is one byte range of a file.
"""

# Shapes: V views, k stored patches, L layers, C channels, N = L * C values of a token, F spatial functions,
# m components of a token, p components of the coarse part.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.klt.bit_records import BitRecord
from lookonce.storage_schemas.precision.klt.quantisers import MAX_BITS, table_start
from lookonce.storage_schemas.precision.klt.spatial import spatial_basis

Float32 = NDArray[np.float32]

OUTSIDE = 8.0
"""Standard deviations beyond which a component counts as outside of what the calibration saw."""

TOKEN_BITS = 8
"""Most bits of a token's component."""


@dataclass(frozen=True, kw_only=True)
class ViewCode:
    """Calibrated parameters of a KLT precision.

    Attributes:
        mean: mean patch token, float32 (N,), blocks outermost.
        basis: orthonormal columns by descending variance, float16 (N, m).
        token_bits: bits of each component of a token, uint8 (m,).
        token_scale: standard deviation of each component of a token, float32 (m,).
        coarse_basis: orthonormal columns, float16 (N, p).
        coarse_bits: bits of each component at each spatial function, uint8 (F, p).
        coarse_scale: standard deviation of these, float32 (F, p).
        levels: tables of levels for 1, 2, ... bits in units of the standard deviation, one after the other, float32.
        class_scale: step of the class token's bytes, float32 (L, C).
        class_offset: value of byte 0, float32 (L, C).
        record_bytes: lengths of a token's record and of a coarse record, int32 (2,).
    """

    mean: Float32
    basis: NDArray[np.float16]
    token_bits: NDArray[np.uint8]
    token_scale: Float32
    coarse_basis: NDArray[np.float16]
    coarse_bits: NDArray[np.uint8]
    coarse_scale: Float32
    levels: Float32
    class_scale: Float32
    class_offset: Float32
    record_bytes: NDArray[np.int32]

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, NDArray[Any]]) -> ViewCode:
        """The code of a cache's calibrated parameters.

        Raises:
            KeyError: a parameter is missing.
            ValueError: parameters contradict each other; the message names them.
        """
        # contiguous, as they are read from a file: BLAS adds up a transposed matrix in another order, and a calibrating
        # process would then write other bytes than the one that resumes
        code = cls(**{name: np.ascontiguousarray(parameters[name]) for name in cls.__dataclass_fields__})
        code._check()
        return code

    def parameters(self) -> dict[str, NDArray[Any]]:
        """What ``from_parameters`` reads."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def layers(self) -> int:
        """Stored blocks L."""
        return len(self.class_scale)

    @property
    def channels(self) -> int:
        """Channels C of a block output."""
        return int(self.class_scale.shape[1])

    @property
    def functions(self) -> int:
        """Spatial functions F of the coarse part."""
        return len(self.coarse_bits)

    @cached_property
    def token_record(self) -> BitRecord:
        """Layout of a token's record."""
        return BitRecord(self.token_bits.astype(np.int64), int(self.record_bytes[0]))

    @cached_property
    def coarse_record(self) -> BitRecord:
        """Layout of a view's coarse record: all components of the first spatial function, then of the second, ..."""
        return BitRecord(self.coarse_bits.reshape(-1).astype(np.int64), int(self.record_bytes[1]))

    def encode(self, values: Float32) -> dict[str, NDArray[np.uint8]]:
        """Encode views.

        Args:
            values: LayerNormed targets, float32 (V, 1 + k, L, C), the class token first.

        Returns:
            ``targets`` (V, k, token record bytes), ``coarse_targets`` (V, coarse record bytes), and ``class_targets``
            (V, L, C), all uint8.
        """
        coarse_records, normalised = self._transformed(values)
        indices = self._nearest(normalised, self.token_bits)
        class_indices = np.clip(np.rint((values[:, 0] - self.class_offset) / self.class_scale), 0, 255)
        return {
            "targets": self.token_record.pack(indices),
            "coarse_targets": coarse_records,
            "class_targets": class_indices.astype(np.uint8),
        }

    def decode_patches(
        self,
        targets: NDArray[np.uint8],
        coarse_targets: NDArray[np.uint8],
        positions: NDArray[np.int64],
        stored_patches: int,
    ) -> Float32:
        """Decode some patch tokens of views.

        Args:
            targets: records of the tokens, uint8 (V, n, token record bytes).
            coarse_targets: records of the views, uint8 (V, coarse record bytes).
            positions: which of the stored patches the tokens are, int64 (V, n), 0 to k - 1.
            stored_patches: stored patches of a view, k.

        Returns:
            float32 (V, n, L, C).
        """
        components = self._look_up(self.token_record.unpack(targets), self.token_bits) * self.token_scale
        functions = spatial_basis(stored_patches, self.functions)[positions]
        values: NDArray[Any] = components @ self.basis.astype(np.float32).T + functions @ self._coarse(coarse_targets)
        return (values + self.mean).reshape(*targets.shape[:2], self.layers, self.channels)

    def decode_class(self, class_targets: NDArray[np.uint8]) -> Float32:
        """Class tokens uint8 (V, L, C) to float32 (V, L, C)."""
        return class_targets.astype(np.float32) * self.class_scale + self.class_offset

    def outside_share(self, values: Float32) -> float:
        """Share (0..1) of tokens' components further from 0 than ``OUTSIDE`` standard deviations.

        Args:
            values: LayerNormed targets, float32 (V, 1 + k, L, C), the class token first.
        """
        return float((np.abs(self._transformed(values)[1]) > OUTSIDE).mean())

    def _transformed(self, values: Float32) -> tuple[NDArray[np.uint8], Float32]:
        """Coarse records, and components of tokens beside them in standard deviations, float32 (V, k, m)."""
        patches = values[:, 1:].reshape(len(values), values.shape[1] - 1, -1) - self.mean
        functions = spatial_basis(patches.shape[1], self.functions)
        coarse: NDArray[Any] = (functions.T @ patches @ self.coarse_basis.astype(np.float32)) / self.coarse_scale
        records = self.coarse_record.pack(self._nearest(coarse.reshape(len(values), -1), self.coarse_bits))
        components = (patches - functions @ self._coarse(records)) @ self.basis.astype(np.float32)
        normalised: NDArray[Any] = components / self.token_scale
        return records, normalised

    def _coarse(self, records: NDArray[np.uint8]) -> Float32:
        """Decoded coarse parts, float32 (V, F, N)."""
        components = self._look_up(self.coarse_record.unpack(records), self.coarse_bits.reshape(-1))
        scaled: NDArray[Any] = components.reshape(len(records), *self.coarse_scale.shape) * self.coarse_scale
        values: Float32 = scaled @ self.coarse_basis.astype(np.float32).T
        return values

    def table(self, bits: int) -> Float32:
        """Levels of the quantiser of so many bits, float32 (2**bits,)."""
        start = 2**bits - 2
        return self.levels[start : start + 2**bits]

    def _nearest(self, normalised: Float32, bits: NDArray[np.uint8]) -> NDArray[np.int64]:
        indices, bits = np.zeros(normalised.shape, dtype=np.int64), bits.reshape(-1)
        for width in np.unique(bits[bits > 0]).tolist():
            table, columns = self.table(width), np.flatnonzero(bits == width)
            borders = (table[1:] + table[:-1]) * np.float32(0.5)
            indices[..., columns] = np.searchsorted(borders, normalised[..., columns])
        return indices

    def _look_up(self, indices: NDArray[np.int64], bits: NDArray[np.uint8]) -> Float32:
        wide = bits.astype(np.int64)
        found: Float32 = np.where(wide > 0, self.levels[table_start(wide) + indices], np.float32(0))
        return found

    def check_values(self) -> None:
        """Check what is not checked whenever a code is made, because it takes milliseconds.

        Raises:
            ValueError: values are not finite, or a step is not positive; the message names the parameter.
        """
        for name in _DTYPES:
            values = getattr(self, name)
            if not np.isfinite(values).all():
                raise ValueError(f"{name!r} contains NaN or infinity")
            if name.endswith("_scale") and not (values > 0).all():
                raise ValueError(f"{name!r} contains {values.min():g}, expected positive values")

    def _check(self) -> None:
        for name, dtype in _DTYPES.items():
            if (found := getattr(self, name).dtype) != dtype:
                raise ValueError(f"{name!r} is {found}, expected {dtype}")
        layers, channels = _shape(self.class_scale, 2)
        kept, functions, coarse = _shape(self.basis, 2)[1], *_shape(self.coarse_bits, 2)
        wanted: dict[str, tuple[int, ...]] = {
            "mean": (layers * channels,),
            "basis": (layers * channels, kept),
            "token_bits": (kept,),
            "token_scale": (kept,),
            "coarse_basis": (layers * channels, coarse),
            "coarse_scale": (functions, coarse),
            "class_offset": (layers, channels),
            "record_bytes": (2,),
        }
        for name, shape in wanted.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"{name!r} has shape {list(found)}, expected {list(shape)}")
        checked = (("token_bits", self.token_bits, TOKEN_BITS), ("coarse_bits", self.coarse_bits, MAX_BITS))
        for (name, bits, most), length in zip(checked, self.record_bytes.tolist(), strict=True):
            if bits.max(initial=0) > most:
                raise ValueError(f"{name!r} goes up to {bits.max()}, expected at most {most}")
            if int(bits.sum(dtype=np.int64)) > 8 * length:
                raise ValueError(f"{name!r} add up to {bits.sum(dtype=np.int64)} bits, a record has {8 * length}")
            if len(self.levels) < (needed := 2 ** (int(bits.max(initial=0)) + 1) - 2):
                raise ValueError(f"'levels' has {len(self.levels)} values, expected at least {needed}")


_DTYPES = {
    "mean": "float32",
    "basis": "float16",
    "token_bits": "uint8",
    "token_scale": "float32",
    "coarse_basis": "float16",
    "coarse_bits": "uint8",
    "coarse_scale": "float32",
    "levels": "float32",
    "class_scale": "float32",
    "class_offset": "float32",
    "record_bytes": "int32",
}


def _shape(values: NDArray[Any], dimensions: int) -> tuple[int, ...]:
    return values.shape if values.ndim == dimensions else (-1,) * dimensions
