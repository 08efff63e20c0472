"""The catalogue: a folder with one file per cache, which many processes and people may write at the same time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lookonce.catalogue.entry import CatalogueEntry, entry_of, time_now
from lookonce.catalogue.location import VARIABLE, catalogue_folder
from lookonce.shared.errors import AccessError, LookonceError, SchemaError, UsageError
from lookonce.shared.faults.os_errors import access_error
from lookonce.shared.files.atomic import write_json

FEWEST_DIGITS = 6
"""Digits of a fingerprint that may stand for a cache."""


@dataclass(frozen=True)
class Catalogue:
    """A catalogue. Files are replaced by rename, so that readers need no lock, and the last writer of an entry wins."""

    folder: Path

    def entries(self) -> Iterator[CatalogueEntry]:
        """All entries in no particular order. Files that are no entries are reported on standard error.

        Raises:
            AccessError: the folder cannot be listed.
        """
        try:
            files = [path for path in (self.folder / "entries").iterdir() if path.suffix == ".json"]
        except FileNotFoundError:
            return
        except OSError as error:
            raise access_error(error, self.folder) from error
        for path in files:
            try:
                yield CatalogueEntry.from_document(json.loads(path.read_bytes()), str(path))
            except FileNotFoundError:  # forgotten in the meantime
                continue
            except (SchemaError, OSError, ValueError) as error:
                print(f"note: {path}: not read as an entry of the catalogue: {error}", file=sys.stderr, flush=True)

    def enter(self, root: Path, *, changed: bool = True) -> CatalogueEntry:
        """Enter a cache, or bring its entry up to date.

        Args:
            root: the cache folder.
            changed: whether shards were written just now; otherwise the cache was used.

        Raises:
            CacheError: there is no cache.
            StorageError: the entry cannot be written.
        """
        root = root.expanduser().absolute()
        entry = entry_of(root, changed=changed)
        earlier = self._load(self._file(entry))
        if earlier is not None:
            entry = entry_of(root, earlier, changed=changed)
        write_json(self._file(entry), entry.document())
        return entry

    def mark_used(self, root: Path) -> None:
        """Set the date of last use of a cache; a cache that has no entry is entered.

        Raises:
            CacheError: there is no cache.
            StorageError: the entry cannot be written.
        """
        root = root.expanduser().absolute()
        for entry in self.entries():
            if entry.place == str(root) and entry.state() == "present":
                write_json(self._file(entry), replace(entry, used_at=time_now()).document())
                return
        self.enter(root, changed=False)

    def forget(self, entry: CatalogueEntry) -> None:
        """Delete an entry; its cache is not touched.

        Raises:
            AccessError: the operating system refused.
        """
        try:
            self._file(entry).unlink(missing_ok=True)
        except OSError as error:
            raise access_error(error, self._file(entry)) from error

    def resolve(self, text: str) -> CatalogueEntry:
        """The cache of that name or with that beginning of a fingerprint, among those that are there.

        Raises:
            UsageError: there is none, or several; the message lists candidates.
        """
        entries = [entry for entry in self.entries() if _is_called(entry, text)]
        present = [entry for entry in entries if entry.state() == "present"]
        if len(present) == 1:
            return present[0]
        if present:
            listed = ", ".join(
                f"{one.place} ({one.fingerprint[:19]}, {one.precision})"
                for one in sorted(present, key=lambda one: one.place)[:6]
            )
            raise UsageError(f"{text}: {len(present)} caches of the catalogue are called so: {listed}; give the path")
        if entries:
            raise UsageError(
                f"{text}: the catalogue {self.folder} has it at {entries[0].place}, where it is {entries[0].state()}; "
                "give the path of the cache"
            )
        raise UsageError(
            f"{text}: neither a cache folder nor a name or fingerprint in the catalogue {self.folder}; check the path, "
            "or list what there is with feature-cache list"
        )

    def _file(self, entry: CatalogueEntry) -> Path:
        return self.folder / "entries" / f"{entry.key}.json"

    def _load(self, file: Path) -> CatalogueEntry | None:
        try:
            return CatalogueEntry.from_document(json.loads(file.read_bytes()), str(file))
        except (FileNotFoundError, SchemaError, ValueError):
            return None
        except OSError as error:
            raise access_error(error, file) from error


def _is_called(entry: CatalogueEntry, text: str) -> bool:
    return entry.name == text or (len(text) >= FEWEST_DIGITS and entry.begins_with(text))


def open_catalogue() -> Catalogue | None:
    """The user's catalogue; None if it is turned off.

    Raises:
        UsageError: LOOKONCE_CATALOGUE is not the path of a folder.
    """
    folder = catalogue_folder()
    return None if folder is None else Catalogue(folder)


def require_catalogue() -> Catalogue:
    """The user's catalogue.

    Raises:
        UsageError: it is turned off, or LOOKONCE_CATALOGUE is not the path of a folder.
    """
    catalogue = open_catalogue()
    if catalogue is None:
        raise UsageError(f"there is no catalogue: {VARIABLE} is none; set it to a folder, or unset it")
    return catalogue


def enter_cache(root: Path, *, changed: bool = True) -> None:
    """Enter a cache in the user's catalogue; trouble with the catalogue is reported and stops nothing.

    Args:
        root: the cache folder.
        changed: whether shards were written just now; otherwise the cache was used.
    """
    try:
        catalogue = open_catalogue()
        if catalogue is not None and changed:
            catalogue.enter(root)
        elif catalogue is not None:
            catalogue.mark_used(root)
    except LookonceError as error:
        remedy = "" if isinstance(error, UsageError) else f"; set {VARIABLE} to a folder you can write, or to none"
        print(f"note: {root} is not entered in the catalogue: {error}{remedy}", file=sys.stderr, flush=True)


def same_recipe(fingerprint: str, *, other_than: Path) -> list[CatalogueEntry]:
    """Caches of a recipe that are there, most seeds first; empty if there is trouble with the catalogue."""
    try:
        catalogue = open_catalogue()
        found = [] if catalogue is None else [one for one in catalogue.entries() if one.fingerprint == fingerprint]
    except (UsageError, AccessError):
        return []
    place = str(other_than.expanduser().absolute())
    present = [one for one in found if one.place != place and one.seeds and one.state() == "present"]
    return sorted(present, key=lambda one: (-len(one.complete_seeds), one.place))
