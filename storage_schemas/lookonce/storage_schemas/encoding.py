"""Encoding: how target values become bytes. It has its own digest, apart from the recipe's fingerprint.

Its parameters (the calibration) are computed once, from the first few hundred views, before any shard is written.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.canonical import digest_document

Float32 = NDArray[np.float32]


class ParameterDocument(TypedDict):
    """One calibrated array as JSON."""

    dtype: Literal["<f4"]
    shape: list[int]
    base64: str


class EncodingDocument(TypedDict):
    """``Encoding`` as JSON."""

    precision: str
    parameters: Mapping[str, ParameterDocument]
    digest: str


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Precision and calibration of a cache's targets."""

    precision: str
    """Name in the table of ``storage_schemas.precision``."""
    parameters: Mapping[str, Float32]
    """Calibrated arrays of the precision, such as ``scale`` and ``offset``, float32, shape (layer, channel)."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of precision and calibration."""
        return digest_document({"precision": self.precision, "parameters": self._arrays()})

    def _arrays(self) -> dict[str, ParameterDocument]:
        return {name: _array_document(values) for name, values in self.parameters.items()}

    def document(self) -> EncodingDocument:
        """The encoding as a JSON-compatible document."""
        return {"precision": self.precision, "parameters": self._arrays(), "digest": self.digest}

    @classmethod
    def from_document(cls, document: EncodingDocument) -> Encoding:
        """Read a validated document."""
        arrays = {name: _array_from(values) for name, values in document["parameters"].items()}
        return cls(precision=document["precision"], parameters=arrays)

    @staticmethod
    def digest_problem(document: EncodingDocument) -> str | None:
        """The problem with the digest or the arrays of a document, or None."""
        try:
            computed = Encoding.from_document(document).digest
        except ValueError as error:
            return f"the parameters cannot be read: {error}"
        if computed != document["digest"]:
            return f"expected {computed}, the digest of the parameters, found {document['digest']}"
        return None


def _array_document(values: Float32) -> ParameterDocument:
    little = np.ascontiguousarray(values, dtype="<f4")
    return {
        "dtype": "<f4",
        "shape": list(values.shape),
        "base64": base64.b64encode(little.tobytes()).decode("ascii"),
    }


def _array_from(document: ParameterDocument) -> Float32:
    raw = base64.b64decode(document["base64"], validate=True)
    return np.frombuffer(raw, dtype="<f4").reshape(document["shape"]).astype(np.float32)
