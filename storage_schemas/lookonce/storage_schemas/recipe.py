"""Recipe: everything that decides which numbers a cache contains, and the fingerprint computed from it.

Paths, shard size, batch size, host, worker count, container and precision (see ``encoding``) are not part of it. Two
caches with the same fingerprint contain the same features, whichever machine wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, NotRequired, TypedDict, cast

from lookonce.shared.canonical import DIGEST_PREFIX, digest_document
from lookonce.storage_schemas.tokens import TokenSubset, TokenSubsetDocument, token_subset

TARGET_NORM = "layernorm-no-affine-eps-1e-05"
"""Targets are LayerNormed per token over channels without affine parameters, eps 1e-5 (released code, "whiten")."""

IMPORTANCE = "class-attention-last-block-head-mean"
"""Importance is the attention of the class query to the patch keys in the teacher's last block, head mean."""

POOL_IMPORTANCE = "attention-pool-head-mean"
"""Importance is the attention of the query of the teacher's attention pooling to the patch keys, head mean."""

FirstToken = Literal["class", "patch-mean"]
"""What token 0 of the targets is: the class token, or the mean of the block's patches if the teacher has none."""


class TeacherDocument(TypedDict):
    """``TeacherIdentity`` as JSON."""

    name: str
    weights_digest: str
    blocks: list[int]
    block_count: int
    width: int
    input_size: int
    mean: list[float]
    std: list[float]
    compute_precision: str
    first_token: NotRequired[FirstToken]


class DatasetDocument(TypedDict):
    """``DatasetIdentity`` as JSON."""

    samples: int
    digest: str


class RecipeDocument(TypedDict):
    """``Recipe`` as JSON."""

    teacher: TeacherDocument
    dataset: DatasetDocument
    view: Mapping[str, Any]
    patch_size: int
    tokens: TokenSubsetDocument
    target_norm: str
    importance: str


@dataclass(frozen=True, kw_only=True)
class TeacherIdentity:
    """The teacher that computed the features."""

    name: str
    """Canonical name, such as ``timm:deit_tiny_patch16_224``."""
    weights_digest: str
    """Digest of the vision trunk's parameters (see ``extract.teachers``)."""
    blocks: tuple[int, ...]
    """1-based numbers of the blocks whose outputs are stored, ascending."""
    block_count: int
    """Number of blocks of the teacher."""
    width: int
    """Channels of a block output."""
    input_size: int
    """Side of the teacher's input in pixels; views are resized bicubically if their size differs."""
    mean: tuple[float, float, float]
    """Pixel mean per channel, of pixels in 0..1."""
    std: tuple[float, float, float]
    """Pixel standard deviation per channel."""
    compute_precision: str
    """Precision of the forward pass: ``fp32``, ``bf16`` or ``fp16``."""
    first_token: FirstToken = "class"
    """What token 0 of the targets is; documents leave out ``class``."""


@dataclass(frozen=True, kw_only=True)
class DatasetIdentity:
    """The images, independent of their location."""

    samples: int
    """Number of listed images."""
    digest: str
    """Digest of the sorted (key, byte count) pairs."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the content of a cache."""

    teacher: TeacherIdentity
    dataset: DatasetIdentity
    view: Mapping[str, Any]
    """``ViewRecipe.document()``: name, version and constants of the augmentation."""
    patch_size: int
    """Side of a student's patch in pixels; a view has (view size / patch size)**2 patches."""
    tokens: TokenSubset
    """The patches that are stored beside token 0."""
    target_norm: str = TARGET_NORM
    importance: str = IMPORTANCE

    @property
    def view_size(self) -> int:
        """Side of a view in pixels."""
        return int(self.view["size"])

    @property
    def jpeg_quality(self) -> int | None:
        """Quality of the JPEG that views are encoded as before the teacher looks; None if they are not."""
        jpeg = self.view.get("jpeg")
        return None if jpeg is None else int(jpeg["quality"])

    @property
    def patches(self) -> int:
        """Number of patches of a view, N."""
        return (self.view_size // self.patch_size) ** 2

    @property
    def stored_patches(self) -> int:
        """Number of stored patches of a view, k, without token 0."""
        return self.tokens.stored_patches(self.patches)

    def document(self) -> RecipeDocument:
        """The recipe as a JSON-compatible document."""
        document = cast("RecipeDocument", _plain({**asdict(self), "tokens": self.tokens.document()}))
        if self.teacher.first_token == "class":  # keeps the fingerprint that these recipes had before the field
            document["teacher"].pop("first_token", None)
        return document

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of the document, full length."""
        return digest_document(self.document())

    @classmethod
    def from_document(cls, document: RecipeDocument) -> Recipe:
        """Read a validated document."""
        teacher: dict[str, Any] = dict(document["teacher"])
        for field in ("blocks", "mean", "std"):
            teacher[field] = tuple(teacher[field])
        return cls(
            teacher=TeacherIdentity(**teacher),
            dataset=DatasetIdentity(**document["dataset"]),
            view=document["view"],
            patch_size=document["patch_size"],
            tokens=token_subset(document["tokens"]),
            target_norm=document["target_norm"],
            importance=document["importance"],
        )


def document_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Fields that differ between two documents, as (dotted path, our value, their value).

    Readable values come first, digests last, both sorted by path. The value of a missing field is None.

    >>> document_differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    [('a.c', 2, 3)]
    >>> document_differences({"a": "sha256:1", "b": 1}, {"a": "sha256:2", "b": 2})
    [('b', 1, 2), ('a', 'sha256:1', 'sha256:2')]
    """
    left, right = dict(_leaves(ours)), dict(_leaves(theirs))
    values = [(path, left.get(path), right.get(path)) for path in left.keys() | right.keys()]
    differing = [difference for difference in values if difference[1] != difference[2]]
    return sorted(differing, key=lambda difference: (DIGEST_PREFIX in str(difference[1:]), difference[0]))


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
