"""Encoding: how target values become bytes. It has its own digest, apart from the recipe's fingerprint.

Its parameters (the calibration) are computed once, from the first few hundred views, before any shard is written. Small
ones lie in the manifest. Those of the KLT precisions are megabytes and lie in an object beside it, a safetensors file
named by the encoding's digest; the manifest contains the SHA-256 of each array.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from lookonce.shared.canonical import DIGEST_PREFIX, digest_document
from lookonce.storage_schemas.precision import PRECISIONS, ElementPrecision

Parameters = Mapping[str, NDArray[Any]]

OBJECT_FOLDER = "encoding"
"""Folder of the object that contains large parameters, in the cache."""


class ParameterDocument(TypedDict):
    """One calibrated array as JSON: its bytes, or their digest if they lie in an object."""

    dtype: str
    shape: list[int]
    base64: NotRequired[str]
    sha256: NotRequired[str]


class EncodingDocument(TypedDict):
    """``Encoding`` as JSON."""

    precision: str
    parameters: Mapping[str, ParameterDocument]
    digest: str
    object: NotRequired[str]
    object_sha256: NotRequired[str]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Precision and calibration of a cache's targets."""

    precision: str
    """Name in the table of ``storage_schemas.precision``."""
    parameters: Parameters
    """Calibrated arrays of the precision, such as ``scale`` and ``offset``, float32, shape (layer, channel)."""

    @property
    def apart(self) -> bool:
        """Whether the parameters lie in an object of their own."""
        return PRECISIONS[self.precision].parameters_apart

    @property
    def codes_views(self) -> bool:
        """Whether the precision codes a view as a whole (KLT), not value by value."""
        return not isinstance(PRECISIONS[self.precision], ElementPrecision)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of precision and calibration."""
        return digest_document({"precision": self.precision, "parameters": self._arrays})

    @property
    def object_path(self) -> str:
        """POSIX path of the object of the parameters, relative to the cache."""
        return object_path(self.digest)

    def object_content(self) -> bytes:
        """The object of the parameters, a safetensors file."""
        return save({name: np.ascontiguousarray(values) for name, values in self.parameters.items()})

    @cached_property
    def _arrays(self) -> dict[str, ParameterDocument]:
        describe = _array_digest if self.apart else _array_document
        return {name: describe(values) for name, values in self.parameters.items()}

    def document(self) -> EncodingDocument:
        """The encoding as a JSON-compatible document."""
        document: EncodingDocument = {
            "precision": self.precision,
            "parameters": self._arrays,
            "digest": self.digest,
        }
        if not self.apart:
            return document
        return {**document, "object": self.object_path, "object_sha256": object_sha256(self.object_content())}

    @classmethod
    def from_document(
        cls, document: EncodingDocument, load_object: Callable[[str], Parameters] | None = None
    ) -> Encoding:
        """Read a validated document.

        Args:
            document: as ``document`` returns it.
            load_object: from the path of an object, relative to the cache, to its arrays; needed for parameters that
                lie in an object.

        Raises:
            ValueError: the object's arrays are not those of the document; the message names the first such array.
        """
        if "object" not in document:
            arrays: Parameters = {name: _array_from(values) for name, values in document["parameters"].items()}
            return cls(precision=document["precision"], parameters=arrays)
        if load_object is None:
            raise ValueError(f"the parameters lie in {document['object']}")
        arrays = load_object(document["object"])
        for name, expected in document["parameters"].items():
            if name not in arrays:
                raise ValueError(f"it has no array {name!r}")
            if (found := _array_digest(arrays[name])) != expected:
                raise ValueError(f"array {name!r} is {found}, expected {expected}")
        return cls(precision=document["precision"], parameters={name: arrays[name] for name in document["parameters"]})

    @staticmethod
    def digest_problem(document: EncodingDocument) -> str | None:
        """The problem with the digest or the arrays of a document, or None."""
        try:
            if "object" in document:
                content = {"precision": document["precision"], "parameters": document["parameters"]}
                computed = digest_document(content)
            else:
                computed = Encoding.from_document(document).digest
        except ValueError as error:
            return f"the parameters cannot be read: {error}"
        if computed != document["digest"]:
            return f"expected {computed}, the digest of the parameters, found {document['digest']}"
        if document.get("object", object_path(computed)) != object_path(computed):
            return f"expected the object {object_path(computed)}, found {document.get('object')}"
        return None


def object_sha256(content: bytes) -> str:
    """SHA-256 of an object's file, hexadecimal.

    It covers the header too, which another version of safetensors may write in another way for the same arrays.
    """
    return hashlib.sha256(content).hexdigest()


def object_path(digest: str) -> str:
    """Path of the object of parameters with this digest, relative to the cache."""
    return f"{OBJECT_FOLDER}/{digest.removeprefix(DIGEST_PREFIX)[:16]}.safetensors"


def _array_document(values: NDArray[Any]) -> ParameterDocument:
    little = np.ascontiguousarray(values, dtype="<f4")
    return {
        "dtype": "<f4",
        "shape": list(values.shape),
        "base64": base64.b64encode(little.tobytes()).decode("ascii"),
    }


def _array_digest(values: NDArray[Any]) -> ParameterDocument:
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return {
        "dtype": little.dtype.str,
        "shape": list(values.shape),
        "sha256": hashlib.sha256(little.data).hexdigest(),
    }


def _array_from(document: ParameterDocument) -> NDArray[np.float32]:
    raw = base64.b64decode(document.get("base64", ""), validate=True)
    return np.frombuffer(raw, dtype="<f4").reshape(document["shape"]).astype(np.float32)
