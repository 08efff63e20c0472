"""Decides what a new cache takes from an earlier one of the same views (``--reuse``).

If both caches have the same teacher, blocks and encoding, stored values are copied. Otherwise the teacher runs on the
stored pixels, and no image is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.extract.reuse.cached_images import iterate_samples, open_key_reader
from lookonce.extract.reuse.copied_samples import CopiedSamples
from lookonce.extract.views.image_views import ViewProducer
from lookonce.extract.views.stored_views import StoredViews
from lookonce.shared.errors import CacheMismatchError
from lookonce.shared.sources import Listing
from lookonce.shared.sources.entry_table import ListingDigest
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.arrays import fits_moments
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.recipe import document_differences


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """An earlier cache and how it compares to the new one; small, sent to workers."""

    root: Path
    """Absolute path of the earlier cache."""
    seeds: tuple[int, ...]
    """Requested seeds that the earlier cache contains."""
    samples: int
    """Number of its images among the listed images; at least 1."""
    unchanged: bool
    """Whether these images are known to be unchanged (key and size); otherwise each is decoded and compared."""

    def open(self, manifest: Manifest, cropper: ViewProducer) -> tuple[ViewProducer, CopiedSamples | None]:
        """The view producer of a new cache, and the samples to copy into it; None if none can be copied.

        Args:
            manifest: of the new cache.
            cropper: makes views from images.

        Raises:
            CacheError: the earlier cache is gone or incomplete.
        """
        reader = CacheReader(self.root, seeds=self.seeds)
        if copy_obstacles(reader.manifest, manifest):
            return StoredViews(reader, cropper), None
        return cropper, CopiedSamples(reader, manifest, None if self.unchanged else cropper)


def open_earlier(root: Path, seeds: Sequence[int], view: ViewRecipe, patch_size: int) -> CacheReader:
    """Open an earlier cache of the same views.

    Args:
        root: its folder.
        seeds: requested seeds; the cache must contain at least one of them.
        view: requested view recipe.
        patch_size: requested side of the student's patches, pixels.

    Raises:
        CacheError: no cache at ``root``.
        IncompleteCacheError: a requested seed has shards without receipts.
        CacheMismatchError: the cache has other views; the message lists each field with both values.
    """
    manifest = CacheLayout(root).load_manifest()
    cached_seeds = CacheLayout(root).seeds()
    differences = document_differences(
        {"view": manifest.recipe.view, "patch_size": manifest.recipe.patch_size},
        {"view": view.document(), "patch_size": patch_size},
    )
    if differences:
        listed = "; ".join(_difference(*one) for one in differences)
        raise CacheMismatchError(
            f"--reuse {root}: it has other views ({listed}); give the options it was made with, or leave out --reuse"
        )
    if not set(seeds) & set(cached_seeds):
        raise CacheMismatchError(
            f"--reuse {root}: it has seeds {_listed(cached_seeds)}, this run asks for {_listed(seeds)}: nothing can be "
            "reused; leave out --reuse"
        )
    return open_key_reader(root, [seed for seed in seeds if seed in cached_seeds])


def compare_images(reader: CacheReader, listing: Listing, images: str) -> Reuse:
    """Compare the images of an earlier cache with those listed now.

    The cache stores no sizes of single images, but a digest over all keys and sizes. If the listed entries with its
    keys have the same digest, none of its images was removed or replaced.

    Args:
        reader: the earlier cache.
        listing: of all images, including those that ``--limit`` leaves out.
        images: value of ``--images``, for messages.

    Raises:
        CacheMismatchError: none of the images of the cache is listed.
    """
    manifest, digest, count = reader.manifest, ListingDigest(), 0
    keys = (key for key, _ in iterate_samples(reader))
    first = next(keys)
    key: str | None = first
    for entry in listing.entries:  # both are sorted
        while key is not None and key < entry.key:
            key = next(keys, None)
        if key == entry.key:
            digest.add([(entry.key, entry.byte_count)])
            count += 1
    if not count:
        raise CacheMismatchError(
            f"--reuse {reader.root}: none of its {manifest.samples} images is in {images}, whose first key is "
            f"{listing.entries[0].key!r} where the cache has {first!r}; give the folder that it was made from, or "
            "leave out --reuse"
        )
    unchanged = count == manifest.samples and digest.text() == manifest.recipe.dataset.digest
    return Reuse(root=reader.root, seeds=reader.seeds, samples=count, unchanged=unchanged)


def copy_obstacles(earlier: Manifest, new: Manifest) -> list[str]:
    """Why stored values cannot be copied between two caches of the same views; empty if they can."""

    def document(manifest: Manifest) -> dict[str, object]:
        recipe = {name: value for name, value in manifest.recipe.document().items() if name != "dataset"}
        return {**recipe, "precision": manifest.encoding.precision}

    found = [_difference(*one) for one in document_differences(document(earlier), document(new))]
    if not found and earlier.encoding.digest != new.encoding.digest:
        found.append("calibration: the caches have different scales")
    if not fits_moments(earlier.moments, new.moments):
        found.append(f"moments: cache has {earlier.moments}, this run stores {new.moments}")
    if new.stores_pixels and not earlier.stores_pixels:
        found.append("pixels: cache has none, this run stores them")
    return found


def describe_reuse(reuse: Reuse, earlier: Manifest, new: Manifest, images: str | None) -> str:
    """Describe what is taken from an earlier cache.

    Args:
        reuse: the earlier cache.
        earlier: manifest of the earlier cache.
        new: manifest of the new cache.
        images: value of ``--images``; None if the earlier cache replaces the images.

    Returns:
        One line for the user.

    Raises:
        CacheMismatchError: nothing can be taken; the message gives the reasons and advice.
    """
    reasons = "; ".join(copy_obstacles(earlier, new))
    taken = f"{reuse.samples} images, seeds {_listed(reuse.seeds)}"
    if not reasons:
        how = "" if reuse.unchanged else "; each image is decoded and compared first"
        return f"--reuse {reuse.root}: copies the stored values of {taken}{how}"
    start = f"--reuse {reuse.root}: its stored values cannot be copied ({reasons})"
    if not earlier.stores_pixels:
        raise CacheMismatchError(f"{start}, and it stores no pixels for the teacher; leave out --reuse")
    if not earlier.stores_whole_views:
        raise CacheMismatchError(
            f"{start}, and it stores pixels of some patches only (--tokens {earlier.recipe.tokens.kind}), while the "
            "teacher needs complete views; leave out --reuse"
        )
    if not reuse.unchanged:
        gone = earlier.samples - reuse.samples
        what = f"{gone} of its {earlier.samples} images are not" if gone else "at least one of its images is no longer"
        raise CacheMismatchError(
            f"{start}, and its pixels cannot replace the images: {what} in {images} with the same size, and finding "
            "the unchanged ones would mean decoding all of them. Leave out --reuse, or leave out --images to use "
            "exactly the views in this cache"
        )
    return f"--reuse {reuse.root}: the teacher runs on the stored pixels of {taken} ({reasons})"


def _difference(path: str, ours: object, theirs: object) -> str:
    return f"{path}: cache has {ours!r}, this run has {theirs!r}"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"
