"""One entry of the catalogue: what a cache is, where it is, and who used it last."""

from __future__ import annotations

import getpass
import hashlib
import platform
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, cast

from lookonce.cache.layout import CacheLayout
from lookonce.shared.errors import SchemaError
from lookonce.storage_schemas.manifest import Manifest

VERSION = 1

State = Literal["present", "gone", "replaced", "unreadable"]
"""``replaced``: a cache of another recipe is there now. ``unreadable``: the operating system denies access to it."""


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """A cache as it was when a command last wrote or read it."""

    place: str
    """Absolute path of the cache."""
    name: str
    """Name of its folder."""
    fingerprint: str
    """Of the recipe, ``sha256:`` and 64 hexadecimal digits."""
    teacher: str
    """``LIBRARY:NAME``."""
    blocks: tuple[int, ...]
    """1-based numbers of the stored blocks."""
    view_size: int
    patch_size: int
    tokens: str
    """``all``, ``visible`` or ``top``."""
    precision: str
    container: str
    pixels: bool
    """Whether views are stored."""
    samples: int
    """Images per seed."""
    shards: int
    """Shards per seed."""
    seeds: dict[int, int]
    """Augmentation seeds with the number of their committed shards."""
    bytes: int
    """Size of all committed objects."""
    user: str
    host: str
    made_at: str
    """When the cache was entered first; ISO 8601, UTC, whole seconds, as the other times."""
    changed_at: str
    """When shards were last written."""
    used_at: str
    """When it was last written, read by a training run, or evaluated."""

    @property
    def key(self) -> str:
        """Name of the entry's file: equal for the same recipe at the same place."""
        return hashlib.sha256(f"{self.place}\n{self.fingerprint}".encode()).hexdigest()[:24]

    def begins_with(self, digits: str) -> bool:
        """Whether these are the first digits of the fingerprint, with or without ``sha256:``."""
        return self.fingerprint.removeprefix("sha256:").startswith(digits.lower().removeprefix("sha256:"))

    @property
    def complete_seeds(self) -> tuple[int, ...]:
        """Seeds whose shards are all committed, ascending."""
        return tuple(sorted(seed for seed, shards in self.seeds.items() if shards == self.shards))

    @property
    def complete(self) -> bool:
        """Whether there is a seed, and every seed is complete."""
        return bool(self.seeds) and len(self.complete_seeds) == len(self.seeds)

    def state(self) -> State:
        """What is at its place now."""
        layout = CacheLayout(Path(self.place))
        try:
            if not layout.manifest_file.exists():
                return "gone"
            # a manifest has its fingerprint as text, so that 10,000 of them need not be parsed
            return "present" if self.fingerprint.encode() in layout.manifest_file.read_bytes() else "replaced"
        except OSError:
            return "unreadable"

    def document(self) -> dict[str, Any]:
        """The entry as JSON."""
        seeds = {str(seed): shards for seed, shards in sorted(self.seeds.items())}
        return {"version": VERSION, **asdict(self), "blocks": list(self.blocks), "seeds": seeds}

    @classmethod
    def from_document(cls, document: Any, place: str) -> Self:
        """Read an entry.

        Args:
            document: decoded JSON.
            place: the file, for messages.

        Raises:
            SchemaError: it is no entry, or of a later version.
        """
        if not isinstance(document, dict) or cast("dict[str, Any]", document).get("version") != VERSION:
            raise SchemaError(f"{place}: expected an entry of a catalogue, version {VERSION}; it is left as it is")
        found = cast("dict[str, Any]", document)
        try:
            values: dict[str, Any] = {field.name: found[field.name] for field in fields(cls)}
            values["blocks"] = tuple(int(block) for block in values["blocks"])
            values["seeds"] = {int(seed): int(shards) for seed, shards in values["seeds"].items()}
            for field in fields(cls):
                kind = _PLAIN.get(str(field.type))
                if kind is not None and type(values[field.name]) is not kind:
                    raise TypeError(f"{field.name} is {values[field.name]!r}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SchemaError(f"{place}: is no entry of a catalogue ({error!r}); it is left as it is") from error
        return cls(**values)


_PLAIN = {"str": str, "int": int, "bool": bool}
"""Types by their names in annotations."""


def entry_of(root: Path, earlier: CatalogueEntry | None = None, *, changed: bool = True) -> CatalogueEntry:
    """The entry of a cache as it is now.

    Args:
        root: absolute path of the cache.
        earlier: its present entry, whose first date is kept.
        changed: whether shards were written just now.

    Raises:
        CacheError: there is no cache, or its manifest is not valid.
    """
    layout = CacheLayout(root)
    manifest = layout.load_manifest()
    recipe, now = manifest.recipe, time_now()
    seeds, size = _committed(layout, manifest)
    entry = CatalogueEntry(
        place=str(root),
        name=root.name,
        fingerprint=recipe.fingerprint,
        teacher=recipe.teacher.name,
        blocks=recipe.teacher.blocks,
        view_size=recipe.view_size,
        patch_size=recipe.patch_size,
        tokens=recipe.tokens.kind,
        precision=manifest.encoding.precision,
        container=manifest.container,
        pixels=manifest.stores_pixels,
        samples=manifest.samples,
        shards=manifest.shard_count,
        seeds=seeds,
        bytes=size,
        user=_user(),
        host=platform.node(),
        made_at=now,
        changed_at=now,
        used_at=now,
    )
    if earlier is None or earlier.fingerprint != entry.fingerprint:
        return entry
    return replace(entry, made_at=earlier.made_at, user=earlier.user, changed_at=now if changed else earlier.changed_at)


def _committed(layout: CacheLayout, manifest: Manifest) -> tuple[dict[int, int], int]:
    """Shards with a receipt of each seed, and the bytes of their objects."""
    seeds: dict[int, int] = {}
    size = 0
    for seed in layout.seeds():
        for shard in layout.receipted_shards(seed):
            if shard < manifest.shard_count:
                try:
                    size += layout.load_receipt(seed, shard).content_bytes
                except SchemaError:  # it does not count; verify names it
                    continue
                seeds[seed] = seeds.get(seed, 0) + 1
    return seeds, size


def time_now() -> str:
    """The time as entries have it.

    >>> len(time_now())
    20
    """
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number, in a container
        return "unknown"
