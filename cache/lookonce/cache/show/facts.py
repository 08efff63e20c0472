"""The facts of a cache, as a document and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookonce.cache.show.klt_facts import KltFacts
from lookonce.shared.printing import Result
from lookonce.shared.view_recipe import view_sentence

_PIXELS = {"store": "pixels stored", "jpeg": "stored as JPEG", "none": "pixels not stored"}
_MOMENTS = {
    "float32": "",
    "float16": "; mean and std of tokens in float16",
    "none": "; without mean and std of tokens",
}
_FIRST_TOKEN = {"class": "the class token", "patch-mean": "the mean of the patches"}


@dataclass(frozen=True, kw_only=True)
class SeedFacts:
    """Number of committed shards of one augmentation seed."""

    seed: int
    shards: int
    """Shards with a usable receipt."""
    of_shards: int
    """All shards."""
    complete: bool


@dataclass(frozen=True, kw_only=True)
class HoleFacts:
    """Samples that extraction could not read."""

    count: int
    first: list[dict[str, Any]]
    """The first holes, each with its seed and ``sample``, ``key``, ``label`` and ``reason`` of the receipt."""


@dataclass(frozen=True, kw_only=True)
class CacheFacts(Result):
    """Facts of a cache, from its manifest and receipts."""

    cache: str
    complete: bool
    """Whether there is a seed, and every seed is complete."""
    teacher: Mapping[str, Any]
    """The recipe's document of the teacher."""
    precision: str
    view: Mapping[str, Any]
    """The recipe's document of the views."""
    patch_size: int
    patches: int
    tokens: Mapping[str, Any]
    """The recipe's document of the token subset."""
    stored_patches: int
    importance: str
    first_token: str
    samples: int
    shard_size: int
    seeds: list[SeedFacts]
    views: int
    """Number of views of all seeds, without holes."""
    holes: HoleFacts
    unusable_receipts: int
    not_readable: list[str]
    """Receipts that cannot be accessed, with the reason."""
    classes: list[str]
    pixels: str
    """``store``, ``jpeg`` or ``none``."""
    moments: str
    """``float32``, ``float16`` or ``none``: how mean and standard deviation of tokens are stored."""
    bytes: int
    """All objects, that of a KLT encoding among them."""
    bytes_by_array: dict[str, int]
    bytes_a_view: dict[str, float]
    """Bytes per view, by array."""
    statistics: dict[str, float]
    """Mean over the receipts, by name."""
    fingerprint: str
    encoding: str
    """Digest of the encoding."""
    schema_version: int
    """Of the manifest."""
    klt: KltFacts | None
    """What the code of a KLT precision keeps; None for other precisions."""
    container: str
    created_with: dict[str, str]
    versions: dict[str, list[str]]
    """Versions in the receipts, by library."""
    picture: Path | None = None
    """File of the picture, if one was drawn."""
    picture_samples: int | None = None
    """Number of samples in the picture."""

    def document(self) -> dict[str, Any]:
        """The facts as a JSON-compatible document; the picture only if there is one."""
        facts = asdict(self)
        picture, samples = facts.pop("picture"), facts.pop("picture_samples")
        return facts if picture is None else {**facts, "picture": str(picture), "picture_samples": samples}

    def text(self) -> str:
        """The facts as lines of text."""
        lines: list[str] = []
        for name, value in self._table().items():
            lines.append(f"{name:<13}{value}")
            if name == "holes":
                lines += [f"{'':<13}seed {one['seed']}, row {one['sample']}, {_hole(one)}" for one in self.holes.first]
        if self.unusable_receipts:
            lines.append(f"{self.unusable_receipts} receipts cannot be used; feature-cache verify names them")
        if unread := self.not_readable:
            lines.append(
                f"{len(unread)} receipts cannot be read, so their shards are not counted; the first: {unread[0]}"
            )
        if self.picture is not None:
            lines.append(f"{'picture':<13}{self.picture}, {self.picture_samples} samples")
        return "\n".join(lines)

    def _table(self) -> dict[str, str]:
        teacher, view, holes, classes = self.teacher, self.view, self.holes.count, self.classes
        blocks = ", ".join(map(str, teacher["blocks"]))
        arrays = ", ".join(f"{name} {_size(size)}" for name, size in self.bytes_a_view.items() if size)
        return {
            "cache": f"{self.cache} ({'complete' if self.complete else 'INCOMPLETE'})",
            "teacher": f"{teacher['name']}, blocks {blocks} of {teacher['block_count']}, {teacher['width']} channels, "
            f"input {teacher['input_size']} px, computed in {teacher['compute_precision']}",
            "weights": teacher["weights_digest"],
            "precision": self.precision + _MOMENTS[self.moments],
            **({} if self.klt is None else {"code": self.klt.text()}),
            "view": f"{view['name']} version {view['version']}, {view['size']} px, {self.patches} patches of "
            f"{self.patch_size} px, {_PIXELS[self.pixels]}",
            "crops": view_sentence(view),
            "tokens": self._tokens(),
            "importance": self.importance,
            "samples": f"{self.samples} per seed, {self.views} views in all, {self.shard_size} per shard",
            "seeds": _seeds_line(self.seeds),
            "holes": f"{holes}" + (" (unreadable images)" if holes else ""),
            "classes": f"{len(classes)}: {_listed(classes, 8)}" if classes else "none",
            "size": f"{_size(self.bytes)}; {_size(sum(self.bytes_a_view.values()))} per view: {arrays}",
            "statistics": ", ".join(f"{name} {value:.4g}" for name, value in self.statistics.items()) or "none",
            "fingerprint": self.fingerprint,
            "encoding": self.encoding,
            "container": f"{self.container}, schema version {self.schema_version}",
            "versions": ", ".join(f"{name} {'|'.join(found)}" for name, found in self.versions.items()) or "none",
        }

    def _tokens(self) -> str:
        tokens, first = self.tokens, _FIRST_TOKEN[self.first_token]
        stored = f"{first} and {self.stored_patches} of {self.patches} patches"
        if tokens["kind"] == "visible":
            return f"visible: {stored}, of {tokens['mask']} masks at ratio {tokens['mask_ratio']}, fixed per seed"
        if tokens["kind"] == "top":
            return f"top:{tokens['share']}: {stored}, the most important; masks are drawn among them"
        return "all" if self.first_token == "class" else f"all; token 0 is {first}; the teacher has no class token"


def _seeds_line(seeds: Sequence[SeedFacts]) -> str:
    if not seeds:
        return "none yet: no shard has a receipt; run extract-features again to resume"
    whole = [str(one.seed) for one in seeds if one.complete]
    parts = [f"{_listed(whole, 12)} complete"] if whole else []
    broken = [one for one in seeds if not one.complete]
    parts += [f"{one.seed} has {one.shards} of {one.of_shards} shards" for one in broken[:12]]
    parts += [f"{len(broken) - 12} more are incomplete"] if len(broken) > 12 else []
    return "; ".join(parts)


def _listed(names: Sequence[str], most: int) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _size(count: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.3g} B"


def _hole(hole: Mapping[str, Any]) -> str:
    """Key and reason; most reasons already begin with the key."""
    return f"{hole['key']}: {str(hole['reason']).removeprefix(str(hole['key']) + ': ')}"
