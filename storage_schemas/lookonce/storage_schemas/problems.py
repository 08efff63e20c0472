"""Validation of documents: all problems at once, each with its place and a kind from a closed list."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator, validators

from lookonce.shared.canonical import digest_document
from lookonce.shared.errors import ProblemKind, SchemaError, SchemaProblem

_KIND_OF_KEYWORD: Mapping[str, ProblemKind] = {
    "required": "missing",
    "additionalProperties": "unexpected",
    "type": "type",
}


def _is_integer(_checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # JSON Schema alone accepts 2.0 as an integer


_StrictValidator = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
)


@cache
def _validator(schema_name: str) -> Draft202012Validator:
    import json

    text = resources.files("lookonce.storage_schemas").joinpath("schema", schema_name).read_text("utf-8")
    validator: Draft202012Validator = _StrictValidator(json.loads(text))
    return validator


def schema_problems(document: Any, schema_name: str) -> list[SchemaProblem]:
    """All problems that the JSON Schema ``schema_name`` (a file of ``schema/``) finds in ``document``."""
    errors = sorted(
        _validator(schema_name).iter_errors(document), key=lambda error: list(map(str, error.absolute_path))
    )
    return [
        SchemaProblem(
            loc=tuple(error.absolute_path),
            message=error.message if len(error.message) < 300 else error.message[:297] + "...",
            kind=_KIND_OF_KEYWORD.get(str(error.validator), "value"),
        )
        for error in errors
    ]


def version_problems(document: Any, schema: str, versions: Collection[int]) -> list[SchemaProblem]:
    """Problems with the two fields that name a document's schema; a newer version is refused by its number."""
    if not isinstance(document, Mapping):
        return [SchemaProblem(loc=(), message=f"expected a JSON object, found {type(document).__name__}", kind="type")]
    if document.get("schema") != schema:
        found = document.get("schema")
        return [SchemaProblem(loc=("schema",), message=f"expected {schema!r}, found {found!r}", kind="value")]
    found = document.get("schema_version")
    if isinstance(found, bool) or not isinstance(found, int) or found not in versions:
        known = f"version{'s' * (len(versions) > 1)} {' and '.join(map(str, versions))}"
        message = (
            f"schema version {found!r} is not known to this lookonce, which reads {known}; "
            "install the lookonce that wrote it, or a newer one"
        )
        return [SchemaProblem(loc=("schema_version",), message=message, kind="version")]
    return []


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with ``digest``, the SHA-256 of its canonical JSON without that field."""
    content = {name: value for name, value in document.items() if name != "digest"}
    return {**content, "digest": digest_document(content)}


def seal_problems(document: Mapping[str, Any]) -> list[SchemaProblem]:
    """A problem if the ``digest`` of a sealed document does not match the rest of it."""
    try:
        computed = sealed(document)["digest"]
    except ValueError as error:  # NaN, infinity and lone surrogates are not JSON
        return [SchemaProblem(loc=(), message=f"is not canonical JSON: {error}", kind="value")]
    if computed == document["digest"]:
        return []
    message = f"expected {computed}, the digest of this document, found {document['digest']}: it was changed"
    return [SchemaProblem(loc=("digest",), message=message, kind="inconsistent")]


def document_problems(document: Any, schema: str, schema_names: Mapping[int, str]) -> tuple[list[SchemaProblem], bool]:
    """Problems of version, structure and seal, and whether the content can be checked further.

    Args:
        document: decoded JSON.
        schema: expected value of its field ``schema``.
        schema_names: for each known ``schema_version`` the file of ``schema/`` with the JSON Schema of its structure.
    """
    problems = version_problems(document, schema, schema_names.keys())
    problems = problems or schema_problems(document, schema_names[document["schema_version"]])
    if problems:
        return problems, False
    problems = seal_problems(document)
    return problems, all(problem.loc for problem in problems)  # an empty place: the document is not canonical JSON


def raise_problems(problems: Iterable[SchemaProblem], where: str) -> None:
    """Raise one SchemaError with all problems of the document ``where``; do nothing if there are none.

    Raises:
        SchemaError: there is at least one problem. Its message lists the first eight, its ``problems`` are all.
    """
    found = tuple(problems)
    if found:
        listed = "; ".join(str(problem) for problem in found[:8])
        more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
        raise SchemaError(f"{where}: {listed}{more}", found)
