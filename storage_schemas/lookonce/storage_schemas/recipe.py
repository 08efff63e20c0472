"""Recipe: everything that decides which numbers are in a cache, and the fingerprint made of it.

Not in it: paths, shard size, batch size, host, worker count, container, precision (see ``encoding``). Two caches with
the same fingerprint hold the same features, whatever machine wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from lookonce.shared.canonical import DIGEST_PREFIX, digest_document
from lookonce.storage_schemas.tokens import TokenSubset, token_subset

TARGET_NORM = "layernorm-no-affine-eps-1e-05"
"""Targets are LayerNormed per token over channels without affine parameters, eps 1e-5 (released code, "whiten")."""

IMPORTANCE = "class-attention-last-block-head-mean"
"""Importance is the attention of the class query to the patch keys in the teacher's last block, head mean."""

POOL_IMPORTANCE = "attention-pool-head-mean"
"""Importance is the attention of the query of the teacher's attention pooling to the patch keys, head mean."""

FirstToken = Literal["class", "patch-mean"]
"""What token 0 of the targets is: the class token, or, where the teacher has none, the mean of the block's patches."""


@dataclass(frozen=True, kw_only=True)
class TeacherIdentity:
    """Which teacher looked."""

    name: str
    """Canonical name, such as ``timm:deit_tiny_patch16_224``."""
    weights_digest: str
    """Digest of the vision trunk's parameters (see ``extract.teachers``)."""
    blocks: tuple[int, ...]
    """1-based numbers of the blocks whose outputs are stored, ascending."""
    block_count: int
    """How many blocks the teacher has."""
    width: int
    """Channels of a block output."""
    input_size: int
    """Side in pixels of what the teacher is fed; views are resized bicubically when it differs from the view size."""
    mean: tuple[float, float, float]
    """Pixel mean per channel, of pixels in 0..1."""
    std: tuple[float, float, float]
    """Pixel standard deviation per channel."""
    compute_precision: str
    """``fp32``, ``bf16`` or ``fp16``: what the forward ran in."""
    first_token: FirstToken = "class"
    """What token 0 of the targets is; ``class`` is not written in documents."""


@dataclass(frozen=True, kw_only=True)
class DatasetIdentity:
    """Which images: independent of where they lie."""

    samples: int
    """How many images are listed."""
    digest: str
    """Digest of the sorted (key, byte count) pairs."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the content of a cache."""

    teacher: TeacherIdentity
    dataset: DatasetIdentity
    view: Mapping[str, Any]
    """``ViewRecipe.document()``: name, version and constants of the augmentation."""
    patch_size: int
    """Side of a student's patch in pixels; the view holds (view size / patch size)**2 patches."""
    tokens: TokenSubset
    """Which patches are stored beside the class token."""
    target_norm: str = TARGET_NORM
    importance: str = IMPORTANCE

    @property
    def view_size(self) -> int:
        """Side of a view in pixels."""
        return int(self.view["size"])

    @property
    def patches(self) -> int:
        """Patches of a view, N."""
        return (self.view_size // self.patch_size) ** 2

    @property
    def stored_patches(self) -> int:
        """Patches of a view that are stored, k; the class token comes on top."""
        return self.tokens.stored_patches(self.patches)

    def document(self) -> dict[str, Any]:
        """The recipe as a JSON-compatible document."""
        document: dict[str, Any] = _plain(asdict(self))
        if self.teacher.first_token == "class":  # so that its fingerprint is what it was before there were others
            del document["teacher"]["first_token"]
        return {**document, "tokens": self.tokens.document()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of the document, full length."""
        return digest_document(self.document())

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Recipe:
        """Read a validated document."""
        teacher = dict(document["teacher"])
        for field in ("blocks", "mean", "std"):
            teacher[field] = tuple(teacher[field])
        rest = {key: value for key, value in document.items() if key not in ("teacher", "dataset", "tokens")}
        return cls(
            teacher=TeacherIdentity(**teacher),
            dataset=DatasetIdentity(**document["dataset"]),
            tokens=token_subset(document["tokens"]),
            **rest,
        )


def document_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Fields that differ between two documents, as (dotted path, our value, their value).

    They are sorted by path, those with digests behind all others: what a person can read comes first. A field that one
    side lacks has the value None there.

    >>> document_differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    [('a.c', 2, 3)]
    >>> document_differences({"a": "sha256:1", "b": 1}, {"a": "sha256:2", "b": 2})
    [('b', 1, 2), ('a', 'sha256:1', 'sha256:2')]
    """
    left, right = dict(_leaves(ours)), dict(_leaves(theirs))
    values = [(path, left.get(path), right.get(path)) for path in left.keys() | right.keys()]
    differing = [one for one in values if one[1] != one[2]]
    return sorted(differing, key=lambda one: (DIGEST_PREFIX in str(one[1:]), one[0]))


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
