"""Selects the images of an extraction, and informs the user before any work starts."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from lookonce.cache.layout import CacheLayout
from lookonce.extract.config import ExtractionConfig
from lookonce.shared.sources import NO_LABEL, Listing
from lookonce.storage_schemas.manifest import Manifest


def select_images(config: ExtractionConfig, everything: Listing) -> Listing:
    """The requested images of a listing; prints notes about them, and how many have a label.

    ``--limit N`` takes N images, evenly over the classes. An existing cache of the first N images, which earlier
    versions took, is completed with the same images. An existing cache of the same images without labels is completed
    without labels.

    Args:
        config: of the extraction.
        everything: the listing of ``config.images``.
    """
    if everything.stored_at is not None:
        listed = time.strftime("%Y-%m-%d %H:%M", time.localtime(everything.stored_at))
        _print(f"{len(everything)} images, as listed on {listed} (--relist lists them again)")
    for note in everything.notes:
        _print(f"{config.images}: {note}")
    listing = everything if config.limit is None else everything.spread(config.limit)
    found = _manifest_at(config.out)
    if found is not None:
        listing = _match_existing_cache(config, found, everything, listing)
    _print(labels_sentence(listing))
    return listing


def labels_sentence(listing: Listing) -> str:
    """A sentence with the numbers of images, labels and classes.

    >>> labels_sentence(Listing((), ()))
    'labels: 0 of 0 images, 0 classes'
    """
    labels = listing.labels
    labels = labels[labels != NO_LABEL]
    classes = len(np.unique(labels))
    return f"labels: {len(labels)} of {len(listing)} images, {classes} class{'es' * (classes != 1)}"


def _match_existing_cache(config: ExtractionConfig, found: Manifest, everything: Listing, listing: Listing) -> Listing:
    digest = found.recipe.dataset.digest
    if config.limit is not None and listing.digest != digest:
        first = everything.head(config.limit)
        if first.digest == digest:
            _print(
                f"{config.out} contains the first {config.limit} images by name, as --limit took them before; "
                "this run continues with them (choose another --out for an even choice over the classes)"
            )
            listing = first
    if listing.classes and not found.classes and listing.digest == digest:
        _print(
            f"{config.out} was made without labels; this run continues without them (choose another --out for labels)"
        )
        listing = listing.without_labels()
    return listing


def _manifest_at(out: Path) -> Manifest | None:
    layout = CacheLayout(out.expanduser())
    return layout.load_manifest() if layout.manifest_file.is_file() else None


def _print(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
