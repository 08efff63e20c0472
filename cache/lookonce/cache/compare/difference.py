"""The differences of two caches as a result that prints itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookonce.cache.compare.values import ValueDifference, compare_values
from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.shared.printing import Result, count_text
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.recipe import document_differences


@dataclass(frozen=True, kw_only=True)
class CacheDifference(Result):
    """What differs between two caches."""

    first: str
    second: str
    recipe: dict[str, tuple[Any, Any]]
    """Fields of the recipe with both values; teacher, images, views, tokens."""
    storage: dict[str, tuple[Any, Any]]
    """The same for precision, calibration, container, shard size and arrays."""
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    """Complete augmentation seeds that only one of them has."""
    values: ValueDifference | None
    """Differences on views that both have; None if none can be compared."""
    not_compared: str | None
    """Why values were not compared; None if they were."""

    @property
    def same(self) -> bool:
        """Whether the caches have one recipe, the same complete seeds, and equal values on the compared views."""
        return not self.recipe and not any(self.seeds) and self.values is not None and self.values.equal

    @property
    def exit_code(self) -> int:
        """0 if they are the same, as of ``diff``."""
        return int(not self.same)

    def document(self) -> dict[str, Any]:
        """The differences as a JSON-compatible document."""
        return {"same": self.same, **asdict(self)}

    def text(self) -> str:
        """A line per difference."""
        lines = [f"{self.first}  against  {self.second}"]
        for group in (self.recipe, self.storage):
            lines += [f"{name}: {_short(ours)}  against  {_short(theirs)}" for name, (ours, theirs) in group.items()]
        for root, only in ((self.first, self.seeds[0]), (self.second, self.seeds[1])):
            if only:
                lines.append(f"complete in {root} alone: seeds {', '.join(map(str, only))}")
        if self.values is None:
            return "\n".join([*lines, f"values not compared: {self.not_compared}"])
        found = self.values
        views = count_text(found.views, "view")
        if found.equal:
            return "\n".join([*lines, f"values: equal in {views}"])
        errors = ", ".join(f"{block}: {error:.2g}" for block, error in found.relative_error.items())
        pixels = "not in both" if found.same_pixels is None else f"equal in {found.same_pixels:.0%} of the views"
        lines.append(f"values of {views}: relative difference by block {errors}; largest {found.largest:.3g}")
        lines.append(f"pixels {pixels}; importance differs by {found.importance:.2g} at most")
        return "\n".join(lines)


def compare_caches(first: Path, second: Path, *, views: int = 32) -> CacheDifference:
    """Compare two caches.

    Args:
        first: a cache folder.
        second: another one.
        views: most views whose values are compared.

    Raises:
        CacheError: there is no cache, or a document of it is invalid.
        IntegrityError: an object is damaged.
    """
    layouts = CacheLayout(first), CacheLayout(second)
    ours, theirs = (layout.load_manifest() for layout in layouts)
    complete = [layout.complete_seeds(one.shard_count) for layout, one in zip(layouts, (ours, theirs), strict=True)]
    differences = document_differences(ours.recipe.document(), theirs.recipe.document())
    reason = _obstacle(ours, theirs, *complete)
    values = None
    if reason is None:
        readers = [CacheReader(layout.root, seeds=seeds) for layout, seeds in zip(layouts, complete, strict=True)]
        values = compare_values(readers[0], readers[1], views)
        reason = "they have no view and block in common" if values is None else None
    return CacheDifference(
        first=str(first),
        second=str(second),
        recipe={path: (one, other) for path, one, other in differences},
        storage={name: pair for name, pair in _storage(ours, theirs).items() if pair[0] != pair[1]},
        seeds=(
            tuple(seed for seed in complete[0] if seed not in complete[1]),
            tuple(seed for seed in complete[1] if seed not in complete[0]),
        ),
        values=values,
        not_compared=reason,
    )


def _storage(ours: Manifest, theirs: Manifest) -> dict[str, tuple[Any, Any]]:
    return {
        "precision": (ours.encoding.precision, theirs.encoding.precision),
        "calibration": (ours.encoding.digest, theirs.encoding.digest),
        "container": (ours.container, theirs.container),
        "shard size": (ours.shard_size, theirs.shard_size),
        "arrays": tuple(", ".join(spec.name for spec in one.arrays) for one in (ours, theirs)),  # type: ignore[dict-item]
        "samples": (ours.samples, theirs.samples),
        "classes": (len(ours.classes), len(theirs.classes)),
    }


def _obstacle(ours: Manifest, theirs: Manifest, *complete: tuple[int, ...]) -> str | None:
    """Why values cannot be compared, or None."""
    if not set(complete[0]) & set(complete[1]):
        return "they have no complete seed in common"
    if ours.recipe.teacher.width != theirs.recipe.teacher.width:
        return "their teachers have different numbers of channels"
    if ours.recipe.tokens != theirs.recipe.tokens or ours.recipe.patches != theirs.recipe.patches:
        return "they store different patches"
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
