"""Manifest: the description of a whole cache, written once, by rename, before any shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, cast

from numpy.typing import NDArray

from lookonce.shared.errors import SchemaError, SchemaProblem
from lookonce.storage_schemas.arrays import (
    JPEG,
    MOMENT_ARRAYS,
    ArraySpec,
    ArraySpecDocument,
    Moments,
    cache_arrays,
    target_shape,
)
from lookonce.storage_schemas.encoding import Encoding, EncodingDocument
from lookonce.storage_schemas.precision import PRECISIONS
from lookonce.storage_schemas.problems import document_problems, raise_problems, sealed
from lookonce.storage_schemas.recipe import Recipe, RecipeDocument
from lookonce.storage_schemas.tokens import token_subset_problem

SCHEMA = "lookonce-cache"
SCHEMA_VERSIONS: Mapping[int, str] = {1: "manifest-v1.json", 2: "manifest-v2.json"}
"""JSON Schema of each schema version. Version 2 is that of caches that version 1 cannot describe."""

FILE_NAME = "manifest.json"

Container = Literal["zarr", "webdataset"]

Pixels = Literal["store", "jpeg", "none"]
"""Pixels of the stored patches, whole views as JPEG, or none."""


class ManifestDocument(TypedDict):
    """``Manifest`` as JSON."""

    schema: str
    schema_version: int
    recipe: RecipeDocument
    fingerprint: str
    encoding: EncodingDocument
    container: Container
    shard_size: int
    arrays: list[ArraySpecDocument]
    classes: list[str]
    created_with: Mapping[str, str]
    digest: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of a whole cache."""

    recipe: Recipe
    encoding: Encoding
    container: Container
    shard_size: int
    """Samples per shard; the last shard may have fewer."""
    arrays: tuple[ArraySpec, ...]
    classes: tuple[str, ...]
    """Class names by label; empty if the source has no labels."""
    created_with: Mapping[str, str]
    """Versions of the libraries that wrote the manifest."""

    @property
    def schema_version(self) -> int:
        """2 if the encoding has an object of its own, tokens' moments are not float32, or views are JPEGs, else 1."""
        return _schema_version(self.recipe, self.moments, apart=self.encoding.apart)

    @property
    def samples(self) -> int:
        """Number of listed samples."""
        return self.recipe.dataset.samples

    @property
    def shard_count(self) -> int:
        """Shards per seed."""
        return -(-self.samples // self.shard_size)

    def shard_rows(self, shard: int) -> range:
        """The rows of a shard.

        Raises:
            IndexError: the cache has no such shard.
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
        """Whether the cache contains pixels of the views."""
        return self.pixels != "none"

    @property
    def pixels(self) -> Pixels:
        """How the cache contains the pixels of the views."""
        names = {spec.name for spec in self.arrays}
        return "store" if "pixels" in names else "jpeg" if JPEG in names else "none"

    @property
    def stores_whole_views(self) -> bool:
        """Whether all pixels of every view are stored: a JPEG is always whole."""
        return self.pixels == "jpeg" or (self.pixels == "store" and self.recipe.tokens.keeps_all)

    @property
    def moments(self) -> Moments:
        """How the mean and standard deviation of tokens are stored."""
        return _moments({spec.name: spec.dtype for spec in self.arrays})

    def document(self) -> ManifestDocument:
        """The manifest as a JSON-compatible document."""
        content = {
            "schema": SCHEMA,
            "schema_version": self.schema_version,
            "recipe": self.recipe.document(),
            "fingerprint": self.recipe.fingerprint,
            "encoding": self.encoding.document(),
            "container": self.container,
            "shard_size": self.shard_size,
            "arrays": [spec.document() for spec in self.arrays],
            "classes": list(self.classes),
            "created_with": dict(self.created_with),
        }
        return cast("ManifestDocument", sealed(content))


def _moments(dtypes: Mapping[str, str]) -> Moments:
    """How the arrays of these names and dtypes store the moments of tokens."""
    if not any(name in dtypes for name in MOMENT_ARRAYS):
        return "none"
    return "float16" if dtypes.get(MOMENT_ARRAYS[0]) == "float16" else "float32"


def validate_manifest(document: Any) -> list[SchemaProblem]:
    """All problems of a decoded manifest; empty if it is valid."""
    problems, readable = document_problems(document, SCHEMA, SCHEMA_VERSIONS)
    if not readable:
        return problems
    if (tokens_problem := token_subset_problem(document["recipe"]["tokens"])) is not None:
        return [*problems, SchemaProblem(loc=("recipe", "tokens"), message=tokens_problem, kind="value")]
    recipe = Recipe.from_document(document["recipe"])
    if document["schema_version"] == 1 and "jpeg" in recipe.view:
        message = "views that are JPEGs belong to schema version 2, found 1"
        return [*problems, SchemaProblem(loc=("schema_version",), message=message, kind="inconsistent")]
    computed = recipe.fingerprint
    if computed != document["fingerprint"]:
        message = f"expected {computed}, the fingerprint of the recipe, found {document['fingerprint']}"
        problems.append(SchemaProblem(loc=("fingerprint",), message=message, kind="inconsistent"))
    problems += _encoding_problems(document)
    view_size, patch_size = document["recipe"]["view"]["size"], document["recipe"]["patch_size"]
    if view_size % patch_size:
        message = f"expected a divisor of the view size {view_size}, found {patch_size}"
        problems.append(SchemaProblem(loc=("recipe", "patch_size"), message=message, kind="inconsistent"))
        return problems
    if document["encoding"]["precision"] in PRECISIONS:
        problems += _array_problems(document, recipe)
    if not problems:
        problems += _version_problems(document, recipe)
    return problems


def _schema_version(recipe: Recipe, moments: Moments, *, apart: bool) -> int:
    return 2 if apart or moments != "float32" or recipe.jpeg_quality is not None else 1


def _version_problems(document: ManifestDocument, recipe: Recipe) -> Iterator[SchemaProblem]:
    """A problem if another schema version says the same: a cache has the lowest one that describes it."""
    moments = _moments({spec["name"]: spec["dtype"] for spec in document["arrays"]})
    expected = _schema_version(recipe, moments, apart="object" in document["encoding"])
    if document["schema_version"] != expected:
        message = f"expected {expected} for these arrays and this encoding, found {document['schema_version']}"
        yield SchemaProblem(loc=("schema_version",), message=message, kind="inconsistent")


def _array_problems(document: ManifestDocument, recipe: Recipe) -> Iterator[SchemaProblem]:
    """Differences from the arrays that recipe and precision determine. Pixels and moments are optional."""
    found = [spec["name"] for spec in document["arrays"]]
    specs = cache_arrays(
        recipe,
        precision=document["encoding"]["precision"],
        store_pixels="pixels" in found or JPEG in found,
        moments="float32"
        if document["schema_version"] == 1
        else _moments({a["name"]: a["dtype"] for a in document["arrays"]}),
    )
    wanted = {spec.name: spec.document() for spec in specs}
    messages = [f"{name!r} is listed twice" for name in sorted({name for name in found if found.count(name) > 1})]
    messages += [f"{name!r} is missing; tokens {recipe.tokens.kind!r} need it" for name in wanted if name not in found]
    for spec in document["arrays"]:
        name, stored = spec["name"], cast("Mapping[str, Any]", spec)
        if name not in wanted:
            messages.append(
                f"{name!r} is not an array of schema version {document['schema_version']} "
                f"with tokens {recipe.tokens.kind!r}"
            )
        for field, expected in wanted.get(name, {}).items():
            if stored[field] != expected:
                messages.append(f"{name!r}: {field} is {stored[field]!r}, the recipe needs {expected!r}")
    yield from (SchemaProblem(loc=("arrays",), message=message, kind="inconsistent") for message in messages)


def _encoding_problems(document: ManifestDocument) -> list[SchemaProblem]:
    """Problems of the encoding: unknown precision, wrong digest, or parameters that do not fit the precision."""
    found, name = document["encoding"], document["encoding"]["precision"]
    if name not in PRECISIONS:
        message = f"precision {name!r} is not known to this lookonce ({', '.join(PRECISIONS)}); install a newer one"
        return [SchemaProblem(loc=("encoding", "precision"), message=message, kind="value")]
    problem = Encoding.digest_problem(found)
    if problem is not None:
        return [SchemaProblem(loc=("encoding", "digest"), message=problem, kind="inconsistent")]
    if PRECISIONS[name].parameters_apart != ("object" in found):
        wanted = "in an object" if PRECISIONS[name].parameters_apart else "in the manifest"
        message = f"expected the parameters of precision {name!r} {wanted}"
        return [SchemaProblem(loc=("encoding", "parameters"), message=message, kind="inconsistent")]
    if "object" in found:
        return []  # checked when the object is read
    shape = target_shape(Recipe.from_document(document["recipe"]))
    problem = PRECISIONS[name].parameter_problem(Encoding.from_document(found).parameters, shape)
    if problem is not None:
        return [SchemaProblem(loc=("encoding", "parameters"), message=problem, kind="inconsistent")]
    return []


def parse_manifest(
    document: Any, where: str, load_object: Callable[[str], Mapping[str, NDArray[Any]]] | None = None
) -> Manifest:
    """Read a manifest.

    Args:
        document: decoded JSON.
        where: name of the file, for messages.
        load_object: reads the parameters of an encoding that lie in an object; see ``Encoding.from_document``.

    Raises:
        SchemaError: the document is not a valid manifest; ``problems`` of the error are all problems.
    """
    raise_problems(validate_manifest(document), where)
    recipe = Recipe.from_document(document["recipe"])
    return Manifest(
        recipe=recipe,
        encoding=_encoding(document["encoding"], recipe, where, load_object),
        container=document["container"],
        shard_size=document["shard_size"],
        arrays=tuple(ArraySpec.from_document(spec) for spec in document["arrays"]),
        classes=tuple(document["classes"]),
        created_with=document["created_with"],
    )


def _encoding(
    document: EncodingDocument,
    recipe: Recipe,
    where: str,
    load_object: Callable[[str], Mapping[str, NDArray[Any]]] | None,
) -> Encoding:
    """Read the encoding, and the object of its parameters if there is one."""
    if "object" not in document:
        return Encoding.from_document(document)
    try:
        encoding = Encoding.from_document(document, load_object)
    except ValueError as error:
        raise _object_error(document, where, str(error)) from error
    problem = PRECISIONS[encoding.precision].parameter_problem(encoding.parameters, target_shape(recipe))
    if problem is not None:
        raise _object_error(document, where, problem)
    return encoding


def _object_error(document: EncodingDocument, where: str, problem: str) -> SchemaError:
    return SchemaError(
        f"{where}: the object {document.get('object')} of its encoding cannot be used: {problem}; "
        "restore it from a copy"
    )
