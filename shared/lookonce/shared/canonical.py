"""Canonical JSON and SHA-256 digests: the same content always gives the same bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

DIGEST_PREFIX = "sha256:"


def canonical_json(document: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no white space; NaN and infinity are refused.

    Args:
        document: JSON-compatible value (dict with string keys, list, str, int, float, bool, None).

    Raises:
        ValueError: a float is NaN or infinite.

    >>> canonical_json({"b": 1, "a": [1.5, "x"]})
    b'{"a":[1.5,"x"],"b":1}'
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """``sha256:<64 hex digits>`` of the bytes."""
    return DIGEST_PREFIX + hashlib.sha256(data).hexdigest()


def digest_document(document: Any) -> str:
    """Digest of the canonical JSON of a document.

    >>> digest_document({"a": 1}) == digest_document({"a": 1})
    True
    """
    return digest_bytes(canonical_json(document))


def digest_file(path: Path, chunk_bytes: int = 1 << 22) -> str:
    """Digest of a file's content, read in chunks of ``chunk_bytes``."""
    hasher = hashlib.sha256()
    with path.open("rb", buffering=0) as handle:
        while block := handle.read(chunk_bytes):
            hasher.update(block)
    return DIGEST_PREFIX + hasher.hexdigest()
