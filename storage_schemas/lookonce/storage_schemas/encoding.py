"""Encoding: how target values become bytes; a second digest, apart from the recipe's fingerprint.

The parameters (calibration) are computed once, from the first few hundred views, before any shard is written.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.canonical import digest_document

Float32 = NDArray[np.float32]


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
        return digest_document(self._content())

    def _content(self) -> dict[str, Any]:
        arrays = {name: _array_document(values) for name, values in self.parameters.items()}
        return {"precision": self.precision, "parameters": arrays}

    def document(self) -> dict[str, Any]:
        """The encoding as it stands in the manifest."""
        return {**self._content(), "digest": self.digest}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Encoding:
        """Read a validated document."""
        arrays = {name: _array_from(values) for name, values in document["parameters"].items()}
        return cls(precision=document["precision"], parameters=arrays)

    @staticmethod
    def digest_problem(document: Mapping[str, Any]) -> str | None:
        """What is wrong with the digest or the arrays of a document, or None."""
        try:
            computed = Encoding.from_document(document).digest
        except ValueError as error:
            return f"the parameters cannot be read: {error}"
        if computed != document["digest"]:
            return f"{document['digest']} does not belong to the parameters beside it, whose digest is {computed}"
        return None


def _array_document(values: Float32) -> dict[str, Any]:
    little = np.ascontiguousarray(values, dtype="<f4")
    return {
        "dtype": "<f4",
        "shape": list(values.shape),
        "base64": base64.b64encode(little.tobytes()).decode("ascii"),
    }


def _array_from(document: Mapping[str, Any]) -> Float32:
    raw = base64.b64decode(document["base64"], validate=True)
    return np.frombuffer(raw, dtype="<f4").reshape(document["shape"]).astype(np.float32)
