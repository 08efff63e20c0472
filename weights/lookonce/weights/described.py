"""Reads timm's description of a model from a file of weights or the ``config.json`` beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookonce.shared.normalisation import Normalisation

PRETRAINED_CFG = "pretrained_cfg"
"""Key of timm's ``pretrained_cfg`` in safetensors metadata and in ``config.json``."""
CONFIG = "config.json"


def described(path: Path, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """timm's ``pretrained_cfg`` from the metadata of a file, or from ``config.json`` of a hub folder; else empty.

    Args:
        path: the file of weights.
        metadata: metadata of its safetensors header.
    """
    texts = [metadata.get(PRETRAINED_CFG)]
    beside = path.parent / CONFIG
    if beside.is_file() and path.stem in ("model", "pytorch_model"):
        texts.append(_read(beside))
    for text in texts:
        document = _document(text)
        if PRETRAINED_CFG in document:
            inner = document[PRETRAINED_CFG]
            document = {"architecture": document.get("architecture"), **inner} if isinstance(inner, Mapping) else {}
        if "mean" in document or "architecture" in document:
            return document
    return {}


def described_normalisation(path: Path, metadata: Mapping[str, str]) -> Normalisation | None:
    """The pixel mean and std that a file declares; None if it declares none."""
    return Normalisation.from_document(described(path, metadata))


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return None


def _document(text: str | None) -> Mapping[str, Any]:
    try:
        document = json.loads(text) if text else {}
    except ValueError:
        return {}
    return document if isinstance(document, Mapping) else {}
