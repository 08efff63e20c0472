"""Images in WebDataset tars on a local or mounted disk."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass

from braceexpand import braceexpand

from lookonce.shared.canonical import digest_document
from lookonce.shared.errors import SourceError, UsageError
from lookonce.shared.sources.entry_table import ListingEntry
from lookonce.shared.sources.image_names import IMAGES
from lookonce.shared.sources.kept_listing import Watch, kept_listing, stamp
from lookonce.shared.sources.listing import Listing
from lookonce.shared.sources.listing_builder import ListingBuilder, SortedImages
from lookonce.shared.sources.listing_notes import by_kind
from lookonce.shared.sources.tar_samples import tar_samples


@dataclass(frozen=True)
class TarShards:
    """Every image of some tars. Keys are the names of images in the tars; all tars together must not repeat a key.

    If no sample has a label and most images lie in folders of their tars, the first part of a key is its class. Headers
    are read once; any process and thread can then read an image by its offset.
    """

    pattern: str
    """The given pattern, absolute."""
    paths: tuple[str, ...]
    """The tars, sorted."""
    stamps: tuple[tuple[int, int] | None, ...]
    """Size and modification time (ns) of each tar at opening; None for a missing tar."""

    @classmethod
    def matching(cls, pattern: str) -> TarShards:
        """The tars that match a pattern.

        Args:
            pattern: one tar, or a pattern with braces (``{000..099}``, ``{a,b}``) or wildcards (``*``, ``?``, ``[]``).

        Raises:
            UsageError: the braces do not match.
        """
        pattern = os.path.abspath(os.path.expanduser(pattern))
        paths = tuple(sorted(set(_expanded(pattern))))
        return cls(pattern, paths, tuple(_stamp(path) for path in paths))

    def listing(self, *, refresh: bool = False) -> Listing:
        """The images of all tars, sorted by key; a stored listing is used if no tar has changed since.

        Raises:
            SourceError: a tar is missing, damaged, truncated or compressed, a key occurs twice, or there is no image.
        """
        missing = [path for path in self.paths if _stamp(path) is None]
        if missing or not self.paths:
            found = f"{len(missing)} of {len(self.paths)} missing (first: {missing[0]})" if missing else "no such file"
            raise SourceError(f"{self.pattern}: expected tars, found {found}; check the path")
        return kept_listing(f"tars {self.pattern}", digest_document(self.paths), self._scan, refresh=refresh)

    def _scan(self, images: SortedImages, watch: Watch) -> ListingBuilder:
        builder = ListingBuilder(images, parts=self.paths)
        for part, path in enumerate(self.paths):
            watch(path)
            for sample in tar_samples(path, builder.left_out, builder.folders):
                builder.add(sample.key, sample.image.size, label=sample.label, part=part, offset=sample.image.offset)
            self._require_unchanged(part, _stamp(path), self.pattern)
        if not len(builder):
            found = f", but {by_kind(builder.left_out)}" if builder.left_out else ""
            raise SourceError(
                f"{self.pattern}: expected images ({' '.join(IMAGES)} ...), found none in {len(self.paths)} "
                f"tars{found}; give tars that contain image files"
            )
        return builder

    def read(self, entry: ListingEntry) -> bytes:
        """The bytes of one member.

        Raises:
            SourceError: the tar is missing, or has changed since the source was opened.
        """
        path = self.paths[entry.part]
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                status = os.fstat(descriptor)
                self._require_unchanged(entry.part, (status.st_size, status.st_mtime_ns), entry.key)
                data = os.pread(descriptor, entry.byte_count, entry.offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SourceError(
                f"{entry.key}: expected {entry.byte_count} bytes in {path}, found no readable file "
                f"({error.strerror or error}); it was there when the tars were listed: restore it"
            ) from error
        if len(data) != entry.byte_count:
            raise SourceError(
                f"{entry.key}: expected {entry.byte_count} bytes at byte {entry.offset} of {path}, found {len(data)}; "
                "the tar has changed since it was listed: run again"
            )
        return data

    def _require_unchanged(self, part: int, found: tuple[int, int] | None, where: str) -> None:
        if found != self.stamps[part]:
            raise SourceError(
                f"{where}: expected {self.paths[part]} as it was listed (bytes, time of change in ns: "
                f"{self.stamps[part]}), found {found}; restore it or run again (between machines, copy tars with their "
                "times)"
            )


def _expanded(pattern: str) -> list[str]:
    if os.path.isfile(pattern):
        return [pattern]
    try:
        texts = list(braceexpand(pattern))
    except ValueError as error:
        raise UsageError(f"{pattern}: expected a pattern such as 'shards/{{000..099}}.tar', found {error}") from error
    return [path for text in texts for path in (sorted(glob.glob(text)) if glob.has_magic(text) else [text])]


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        return stamp(path)
    except OSError:
        return None
