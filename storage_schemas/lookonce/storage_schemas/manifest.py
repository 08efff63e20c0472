"""Manifest: what a cache is; written once, by rename, before any shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lookonce.storage_schemas.arrays import ArraySpec, cache_arrays
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
    if document["encoding"]["precision"] in PRECISIONS:
        problems += _array_problems(document, recipe)
    return problems


def _array_problems(document: Mapping[str, Any], recipe: Recipe) -> Iterator[Problem]:
    """Whether the arrays are those that recipe and precision make, with pixels if they are there."""
    found = [spec["name"] for spec in document["arrays"]]
    wanted = {
        spec.name: spec.document()
        for spec in cache_arrays(recipe, precision=document["encoding"]["precision"], store_pixels="pixels" in found)
    }
    messages = [f"{name!r} is there twice" for name in sorted({name for name in found if found.count(name) > 1})]
    messages += [f"{name!r} is missing, with tokens {recipe.tokens.kind!r}" for name in wanted if name not in found]
    for spec in document["arrays"]:
        name = spec["name"]
        if name not in wanted:
            messages.append(
                f"{name!r} is no array of schema version {SCHEMA_VERSION} with tokens {recipe.tokens.kind!r}"
            )
        for field, expected in wanted.get(name, {}).items():
            if spec[field] != expected:
                messages.append(f"{name!r} has the {field} {spec[field]!r}, the recipe makes it {expected!r}")
    yield from (Problem(loc=("arrays",), message=message, kind="inconsistent") for message in messages)


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
