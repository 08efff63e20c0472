"""Which images an extraction is about, and what the user should know of them before anything is spent."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from lookonce.cache.layout import CacheLayout
from lookonce.extract.config import ExtractionConfig
from lookonce.shared.sources import NO_LABEL, Listing
from lookonce.storage_schemas.manifest import Manifest


def asked_images(config: ExtractionConfig, everything: Listing) -> Listing:
    """The images of a listing that are asked for; says which, and how many have a label.

    With ``--limit N``, N evenly over the classes. A cache of the first N, as earlier versions took them, goes on with
    those, and one of the same images without labels goes on without.

    Args:
        config: what is asked for.
        everything: the listing of ``config.images``.
    """
    if everything.stored_at is not None:
        listed = time.strftime("%Y-%m-%d %H:%M", time.localtime(everything.stored_at))
        _say(f"{len(everything)} images, as listed on {listed} (--relist looks again)")
    for note in everything.notes:
        _say(f"{config.images}: {note}")
    listing = everything if config.limit is None else everything.spread(config.limit)
    found = _manifest_at(config.out)
    if found is not None:
        listing = _as_found(config, found, everything, listing)
    _say(labels_sentence(listing))
    return listing


def labels_sentence(listing: Listing) -> str:
    """How many images have a label, and of how many classes they are.

    >>> labels_sentence(Listing((), ()))
    'labels: 0 of 0 images, 0 classes'
    """
    labels = listing.labels
    labels = labels[labels != NO_LABEL]
    classes = len(np.unique(labels))
    return f"labels: {len(labels)} of {len(listing)} images, {classes} class{'es' * (classes != 1)}"


def _as_found(config: ExtractionConfig, found: Manifest, everything: Listing, listing: Listing) -> Listing:
    digest = found.recipe.dataset.digest
    if config.limit is not None and listing.digest != digest:
        first = everything.head(config.limit)
        if first.digest == digest:
            _say(
                f"{config.out} holds the first {config.limit} images by name, as --limit took them before it took "
                "evenly over the classes; it goes on with these (another --out gets an even choice)"
            )
            listing = first
    if listing.classes and not found.classes and listing.digest == digest:
        _say(f"{config.out} was made without labels; it goes on without (another --out gets them)")
        listing = listing.without_labels()
    return listing


def _manifest_at(out: Path) -> Manifest | None:
    layout = CacheLayout(out.expanduser())
    return layout.load_manifest() if layout.manifest_file.is_file() else None


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
