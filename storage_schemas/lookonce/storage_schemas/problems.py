"""What is wrong with a document: every problem at once, each with its place and a kind from a closed list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from jsonschema import Draft202012Validator, validators

from lookonce.shared.canonical import digest_document
from lookonce.shared.errors import SchemaError

Kind = Literal["missing", "unexpected", "type", "value", "version", "inconsistent"]

_KIND_OF_KEYWORD: Mapping[str, Kind] = {
    "required": "missing",
    "additionalProperties": "unexpected",
    "type": "type",
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a document."""

    loc: tuple[str | int, ...]
    """Path of keys and indices from the document's root."""
    message: str
    """What was found and what was expected."""
    kind: Kind

    def __str__(self) -> str:
        place = ".".join(str(part) for part in self.loc) or "document"
        return f"{place}: {self.message}"


def _is_integer(_checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # JSON Schema alone would take 2.0 for an integer


_StrictValidator = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
)


@cache
def _validator(schema_name: str) -> Draft202012Validator:
    import json

    text = resources.files("lookonce.storage_schemas").joinpath("schema", schema_name).read_text("utf-8")
    validator: Draft202012Validator = _StrictValidator(json.loads(text))
    return validator


def schema_problems(document: Any, schema_name: str) -> list[Problem]:
    """All problems that the JSON Schema ``schema_name`` (a file of ``schema/``) finds in ``document``."""
    errors = sorted(
        _validator(schema_name).iter_errors(document), key=lambda error: list(map(str, error.absolute_path))
    )
    return [
        Problem(
            loc=tuple(error.absolute_path),
            message=error.message if len(error.message) < 300 else error.message[:297] + "...",
            kind=_KIND_OF_KEYWORD.get(str(error.validator), "value"),
        )
        for error in errors
    ]


def version_problems(document: Any, schema: str, version: int) -> list[Problem]:
    """Problems with the two fields that name a document's schema; a newer version is refused by its number."""
    if not isinstance(document, Mapping):
        return [Problem(loc=(), message=f"expected a JSON object, found {type(document).__name__}", kind="type")]
    if document.get("schema") != schema:
        found = document.get("schema")
        return [Problem(loc=("schema",), message=f"expected {schema!r}, found {found!r}", kind="value")]
    if document.get("schema_version") != version:
        message = (
            f"schema version {document.get('schema_version')!r} is not known to this lookonce, which reads version "
            f"{version}; install the lookonce that wrote it, or a newer one"
        )
        return [Problem(loc=("schema_version",), message=message, kind="version")]
    return []


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with ``digest``, the SHA-256 of its canonical JSON without that field."""
    content = {name: value for name, value in document.items() if name != "digest"}
    return {**content, "digest": digest_document(content)}


def seal_problems(document: Mapping[str, Any]) -> list[Problem]:
    """A problem when a sealed document's ``digest`` does not belong to the rest of it."""
    try:
        computed = sealed(document)["digest"]
    except ValueError as error:  # NaN, infinity or lone surrogates, which are not JSON
        return [Problem(loc=(), message=f"is not canonical JSON: {error}", kind="value")]
    if computed == document["digest"]:
        return []
    message = f"{document['digest']} does not belong to this document, whose digest is {computed}: it was changed"
    return [Problem(loc=("digest",), message=message, kind="inconsistent")]


def document_problems(document: Any, schema: str, version: int, schema_name: str) -> tuple[list[Problem], bool]:
    """Problems of version, structure and seal, and whether the document is whole enough to look at its content.

    Args:
        document: decoded JSON.
        schema: wanted value of its field ``schema``.
        version: wanted value of ``schema_version``.
        schema_name: file of ``schema/`` that says its structure.
    """
    problems = version_problems(document, schema, version) or schema_problems(document, schema_name)
    if problems:
        return problems, False
    problems = seal_problems(document)
    return problems, all(problem.loc for problem in problems)  # a problem of the whole: not JSON, nothing to digest


def raise_problems(problems: Iterable[Problem], where: str) -> None:
    """Raise one SchemaError that lists all problems of the document found at ``where``; nothing if there are none.

    Raises:
        SchemaError: there is at least one problem.
    """
    found = list(problems)
    if found:
        listed = "; ".join(str(problem) for problem in found[:8])
        more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
        raise SchemaError(f"{where}: {listed}{more}")
