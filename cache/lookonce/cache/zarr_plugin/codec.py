"""The precisions as a zarr v3 codec, by which stock zarr decodes ``targets`` to floats.

Metadata on disk never name the codec, so any zarr v3 reader opens them without lookonce. ``decoded_group`` adds it in
memory. zarr finds it by the entry point ``zarr.codecs`` of ``pyproject.toml``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from zarr.abc.codec import ArrayArrayCodec
from zarr.dtype import Float32, data_type_registry

from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import PRECISIONS, TargetShape, get_element_precision

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import NDBuffer
    from zarr.core.common import JSON

NAME = "lookonce.targets"


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetsCodec(ArrayArrayCodec):
    """Encodes float32 (..., layer, channel) as elements of a precision, (..., layer, stored channel).

    Raises:
        ValueError: the parameters do not fit the precision.
    """

    is_fixed_size = True

    encoding: Encoding
    """Precision and calibration. With them the metadata of an array suffice for decoding."""
    layers: int
    """Length of the layer axis."""
    channels: int
    """Length of the channel axis of the values; packed precisions store fewer elements."""

    def __post_init__(self) -> None:
        shape = TargetShape(patches=1, layers=self.layers, channels=self.channels, all_patches=False)
        problem = get_element_precision(self.encoding.precision).parameter_problem(self.encoding.parameters, shape)
        if problem is not None:
            raise ValueError(f"codec {NAME}: {problem}")

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """Read the codec's metadata.

        Raises:
            ValueError: fields are missing, the precision is unknown, or the digest does not match the parameters.
        """
        configuration = cast("dict[str, Any]", data.get("configuration") or {})
        if missing := {"encoding", "layers", "channels"} - set(configuration):
            raise ValueError(f"codec {NAME}: its configuration lacks {', '.join(sorted(missing))}")
        document = configuration["encoding"]
        if document.get("precision") not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ValueError(f"codec {NAME}: precision {document.get('precision')!r} is not known here ({known})")
        if (problem := Encoding.digest_problem(document)) is not None:
            raise ValueError(f"codec {NAME}: {problem}")
        sizes = {name: int(configuration[name]) for name in ("layers", "channels")}
        return cls(encoding=Encoding.from_document(document), **sizes)

    def to_dict(self) -> dict[str, JSON]:
        """The codec's metadata; ``encoding`` is that of the manifest."""
        content = {"encoding": self.encoding.document(), "layers": self.layers, "channels": self.channels}
        return {"name": NAME, "configuration": cast("JSON", content)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TargetsCodec) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[str, int, int]:
        return self.encoding.digest, self.layers, self.channels

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """Refuse arrays of another shape or dtype.

        Raises:
            ValueError: the array is not float32 (..., layer, channel).
        """
        if not isinstance(array_spec.dtype, Float32) or array_spec.shape[-2:] != (self.layers, self.channels):
            raise ValueError(
                f"codec {NAME}: expected float32 with last axes {(self.layers, self.channels)}, found "
                f"{array_spec.dtype.to_native_dtype()} with {array_spec.shape[-2:]}"
            )
        return self

    def resolve_metadata(self, chunk_spec: ArraySpec) -> ArraySpec:
        """The array below the codec: another dtype, fewer elements on the last axis."""
        precision = get_element_precision(self.encoding.precision)
        stored = data_type_registry.match_dtype(np.dtype(precision.dtype))
        shape = (*chunk_spec.shape[:-1], precision.stored_channels(self.channels))
        return replace(chunk_spec, shape=shape, dtype=stored, fill_value=stored.default_scalar())

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Bytes of a chunk as stored."""
        below = self.resolve_metadata(chunk_spec)
        return math.prod(below.shape) * below.dtype.to_native_dtype().itemsize

    async def _decode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer:
        stored, encoding = chunk_data.as_numpy_array(), self.encoding
        values = get_element_precision(encoding.precision).decode(stored, encoding.parameters, channels=self.channels)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer:
        values, encoding = np.asarray(chunk_data.as_numpy_array(), dtype=np.float32), self.encoding
        if not np.isfinite(values).all():
            raise ValueError(f"codec {NAME}: NaN and infinity have no code in precision {encoding.precision}")
        stored = get_element_precision(encoding.precision).encode(values, encoding.parameters)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(stored)
