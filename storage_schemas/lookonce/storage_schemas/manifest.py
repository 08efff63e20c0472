"""Manifest: what a cache is; written once, by rename, before any shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lookonce.storage_schemas.arrays import ArraySpec
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import PRECISIONS
from lookonce.storage_schemas.problems import Problem, document_problems, raise_problems, sealed
from lookonce.storage_schemas.recipe import Recipe
from lookonce.storage_schemas.tokens import token_subset_problem

SCHEMA = "lookonce-cache"
SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"

Container = Literal["zarr", "webdataset"]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a cache is."""

    recipe: Recipe
    encoding: Encoding
    container: Container
    shard_size: int
    """Samples a shard; the last one may hold fewer."""
    arrays: tuple[ArraySpec, ...]
    classes: tuple[str, ...]
    """Class names by label; empty when the source has no labels."""
    created_with: Mapping[str, str]
    """Versions of the libraries that wrote the manifest."""

    @property
    def samples(self) -> int:
        """Listed samples."""
        return self.recipe.dataset.samples

    @property
    def shard_count(self) -> int:
        """Shards a seed."""
        return -(-self.samples // self.shard_size)

    def shard_rows(self, shard: int) -> range:
        """Rows of a shard.

        Raises:
            IndexError: there is no such shard.
        """
        if not 0 <= shard < self.shard_count:
            raise IndexError(f"shard {shard} of {self.shard_count}")
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.samples))

    def array(self, name: str) -> ArraySpec:
        """The spec of an array.

        Raises:
            KeyError: the cache has no such array.
        """
        return {spec.name: spec for spec in self.arrays}[name]

    @property
    def stores_pixels(self) -> bool:
        """Whether the views themselves are in the cache."""
        return any(spec.name == "pixels" for spec in self.arrays)

    def document(self) -> dict[str, Any]:
        """The manifest as a JSON-compatible document."""
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "recipe": self.recipe.document(),
            "fingerprint": self.recipe.fingerprint,
            "encoding": self.encoding.document(),
            "container": self.container,
            "shard_size": self.shard_size,
            "arrays": [spec.document() for spec in self.arrays],
            "classes": list(self.classes),
            "created_with": dict(self.created_with),
        }
        return sealed(content)


def validate_manifest(document: Any) -> list[Problem]:
    """All problems of a manifest document; an empty list when it is valid."""
    problems, readable = document_problems(document, SCHEMA, SCHEMA_VERSION, "manifest-v1.json")
    if not readable:
        return problems
    broken = token_subset_problem(document["recipe"]["tokens"])
    if broken:
        return [*problems, Problem(loc=("recipe", "tokens"), message=broken, kind="value")]
    recipe = Recipe.from_document(document["recipe"])
    computed = recipe.fingerprint
    if computed != document["fingerprint"]:
        message = f"{document['fingerprint']} does not belong to the recipe beside it, whose fingerprint is {computed}"
        problems.append(Problem(loc=("fingerprint",), message=message, kind="inconsistent"))
    problems += _encoding_problems(document)
    view_size, patch_size = document["recipe"]["view"]["size"], document["recipe"]["patch_size"]
    if view_size % patch_size:
        message = f"view size {view_size} is not a multiple of the patch size"
        problems.append(Problem(loc=("recipe", "patch_size"), message=message, kind="inconsistent"))
        return problems
    specs = {spec["name"]: spec for spec in document["arrays"]}
    for name, axis in _stored_axes(recipe).items():
        if name in specs and specs[name]["sample_shape"][:1] != [axis]:
            message = f"{name} has the shape {specs[name]['sample_shape']} a sample, the recipe stores {axis}"
            problems.append(Problem(loc=("arrays",), message=message, kind="inconsistent"))
    if recipe.tokens.whole == ("patch_ids" in specs):
        message = f"patch_ids is {'there' if recipe.tokens.whole else 'missing'}, tokens are {recipe.tokens.kind!r}"
        problems.append(Problem(loc=("arrays",), message=message, kind="inconsistent"))
    names = [spec["name"] for spec in document["arrays"]]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem(loc=("arrays",), message=f"{name!r} is there twice", kind="inconsistent"))
    return problems


def _stored_axes(recipe: Recipe) -> dict[str, int]:
    """Length of the first axis of a sample, by array."""
    stored = recipe.stored_patches
    tokens = dict.fromkeys(("targets", "target_mean", "target_std"), stored + 1)
    return {**tokens, "importance": recipe.patches, "pixels": stored, "patch_ids": stored}


def _encoding_problems(document: Mapping[str, Any]) -> list[Problem]:
    """Whether the precision is known, its digest binds, and its parameters are those it needs."""
    found, name = document["encoding"], document["encoding"]["precision"]
    if name not in PRECISIONS:
        message = f"precision {name!r} is not known to this lookonce ({', '.join(PRECISIONS)}); install a newer one"
        return [Problem(loc=("encoding", "precision"), message=message, kind="value")]
    broken = Encoding.digest_problem(found)
    if broken:
        return [Problem(loc=("encoding", "digest"), message=broken, kind="inconsistent")]
    teacher = document["recipe"]["teacher"]
    shape = (len(teacher["blocks"]), teacher["width"])
    misfit = PRECISIONS[name].misfit(Encoding.from_document(found).parameters, shape)
    return [Problem(loc=("encoding", "parameters"), message=misfit, kind="inconsistent")] if misfit else []


def parse_manifest(document: Any, where: str) -> Manifest:
    """Read a manifest.

    Args:
        document: decoded JSON.
        where: the file, for messages.

    Raises:
        SchemaError: the document is not a valid manifest; the message lists all problems.
    """
    raise_problems(validate_manifest(document), where)
    return Manifest(
        recipe=Recipe.from_document(document["recipe"]),
        encoding=Encoding.from_document(document["encoding"]),
        container=document["container"],
        shard_size=document["shard_size"],
        arrays=tuple(ArraySpec.from_document(spec) for spec in document["arrays"]),
        classes=tuple(document["classes"]),
        created_with=document["created_with"],
    )
