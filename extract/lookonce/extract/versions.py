"""Versions of the libraries that decide a cache's bytes."""

from __future__ import annotations

from importlib.metadata import version

_LIBRARIES = {
    "timm": ("timm",),
    "open_clip": ("open_clip_torch", "timm"),
}  # image towers of open_clip may be models of timm


def content_versions(library: str) -> dict[str, str]:
    """Versions for a receipt: lookonce, torch, Pillow, numpy and the libraries of the teacher."""
    distributions = ("lookonce", "torch", "pillow", "numpy", *_LIBRARIES[library])
    return {name: version(name) for name in distributions}
