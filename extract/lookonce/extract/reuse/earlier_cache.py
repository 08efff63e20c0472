"""What a new cache takes from an earlier one of the same views (``--reuse``), instead of computing it again.

Where the earlier cache holds a sample exactly as the new one would, its stored values are copied. Where another
teacher, other blocks or another encoding are asked for, the teacher looks at its stored pixels: no image is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.extract.reuse.cached_images import listed_samples, open_for_keys
from lookonce.extract.reuse.copied_samples import CopiedSamples
from lookonce.extract.views.image_views import ViewProducer
from lookonce.extract.views.stored_views import StoredViews
from lookonce.shared.errors import CacheMismatchError
from lookonce.shared.sources import Listing
from lookonce.shared.sources.entry_table import ListingDigest
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.recipe import document_differences


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """An earlier cache and what is known of it; small, travels to workers."""

    root: Path
    """Its folder, absolute."""
    seeds: tuple[int, ...]
    """The wanted seeds that it holds."""
    samples: int
    """How many of its images are among those wanted; at least 1."""
    unchanged: bool
    """Whether those images are known to be the same (every key with its size); else each is looked at again."""

    def open(self, manifest: Manifest, cut: ViewProducer) -> tuple[ViewProducer, CopiedSamples | None]:
        """What makes the views of a new cache, and what copies samples into it, if any can be.

        Args:
            manifest: of the new cache.
            cut: makes views from images.

        Raises:
            CacheError: the earlier cache is gone or incomplete.
        """
        reader = CacheReader(self.root, seeds=self.seeds)
        if copy_obstacles(reader.manifest, manifest):
            return StoredViews(reader, cut), None
        return cut, CopiedSamples(reader, manifest, None if self.unchanged else cut)


def open_earlier(root: Path, seeds: Sequence[int], view: ViewRecipe, patch_size: int) -> CacheReader:
    """Open an earlier cache of the same views.

    Args:
        root: its folder.
        seeds: the wanted ones, of which it must hold at least one.
        view: view recipe that is asked for.
        patch_size: side of the student's patches that is asked for, pixels.

    Raises:
        CacheError: no cache at ``root``.
        IncompleteCacheError: a wanted seed has shards without receipts.
        CacheMismatchError: its views are others; the message lists each field with both values.
    """
    manifest = CacheLayout(root).load_manifest()
    held = CacheLayout(root).seeds()
    differences = document_differences(
        {"view": manifest.recipe.view, "patch_size": manifest.recipe.patch_size},
        {"view": view.document(), "patch_size": patch_size},
    )
    if differences:
        listed = "; ".join(_difference(*one) for one in differences)
        raise CacheMismatchError(
            f"--reuse {root}: it holds other views ({listed}); give the options it was made with, or leave out --reuse"
        )
    if not set(seeds) & set(held):
        raise CacheMismatchError(
            f"--reuse {root}: it holds seeds {_listed(held)}, this run asks for {_listed(seeds)}: there is nothing to "
            "take; leave out --reuse"
        )
    return open_for_keys(root, [seed for seed in seeds if seed in held])


def compare_images(reader: CacheReader, listing: Listing, images: str) -> Reuse:
    """Which images of an earlier cache are still there, and whether they are known to be the same.

    The cache has no sizes of single images, but a digest over all its keys and sizes: where the listing's entries of
    its keys have that digest, none of them was removed or replaced.

    Args:
        reader: the earlier cache.
        listing: of all images, whatever part of them is asked for.
        images: what they are called, for messages.

    Raises:
        CacheMismatchError: none of its images is there.
    """
    manifest, digest, count = reader.manifest, ListingDigest(), 0
    held = (key for key, _ in listed_samples(reader))
    first = next(held)
    key: str | None = first
    for entry in listing.entries:  # both ascend
        while key is not None and key < entry.key:
            key = next(held, None)
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
    """Why stored values of one cache cannot be copied to another, of the same views; empty when they can."""

    def document(manifest: Manifest) -> dict[str, object]:
        recipe = {name: value for name, value in manifest.recipe.document().items() if name != "dataset"}
        return {**recipe, "precision": manifest.encoding.precision}

    found = [_difference(*one) for one in document_differences(document(earlier), document(new))]
    if not found and earlier.encoding.digest != new.encoding.digest:
        found.append("calibration: the two caches have their own")
    if new.stores_pixels and not earlier.stores_pixels:
        found.append("pixels: cache has none, this run stores them")
    return found


def describe_reuse(reuse: Reuse, earlier: Manifest, new: Manifest, images: str | None) -> str:
    """Say what is taken from an earlier cache.

    Args:
        reuse: what is known of it.
        earlier: its manifest.
        new: manifest of the new cache.
        images: what the images are called; None when the earlier cache stands in for them.

    Returns:
        One line for the user.

    Raises:
        CacheMismatchError: nothing can be taken; says why, and what to do.
    """
    reasons = "; ".join(copy_obstacles(earlier, new))
    taken = f"{reuse.samples} images, seeds {_listed(reuse.seeds)}"
    if not reasons:
        how = "" if reuse.unchanged else ", as far as the images, which are decoded and compared, are the same"
        return f"--reuse {reuse.root}: stored values of {taken}, are copied{how}"
    start = f"--reuse {reuse.root}: its stored values cannot be copied ({reasons})"
    if not earlier.stores_pixels:
        raise CacheMismatchError(f"{start}, and it holds no pixels to show to the teacher; leave out --reuse")
    if not earlier.recipe.tokens.keeps_all:
        raise CacheMismatchError(
            f"{start}, and it holds pixels of some patches only (--tokens {earlier.recipe.tokens.kind}), where the "
            "teacher needs whole views; leave out --reuse"
        )
    if not reuse.unchanged:
        gone = earlier.samples - reuse.samples
        what = f"{gone} of its {earlier.samples} images are not" if gone else "at least one of its images is no longer"
        raise CacheMismatchError(
            f"{start}, and its pixels cannot stand in for the images: {what} in {images} with the size it had, and "
            "only decoding tells which of the others are the same, which saves nothing; leave out --reuse, or "
            "leave out --images to have exactly the views that it holds"
        )
    return f"--reuse {reuse.root}: the teacher looks at the stored pixels of {taken} ({reasons})"


def _difference(path: str, ours: object, theirs: object) -> str:
    return f"{path}: cache has {ours!r}, this run has {theirs!r}"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"
