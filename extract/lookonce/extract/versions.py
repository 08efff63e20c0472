"""Versions of the libraries that decide a cache's bytes."""

from __future__ import annotations

from importlib.metadata import version

_LIBRARIES = {"timm": ("timm",), "open_clip": ("open_clip_torch", "timm")}  # whose towers may be timm's


def content_versions(library: str) -> dict[str, str]:
    """Versions for a receipt: ours, torch, Pillow, numpy and the teacher's libraries."""
    distributions = ("lookonce", "torch", "pillow", "numpy", *_LIBRARIES[library])
    return {name: version(name) for name in distributions}
