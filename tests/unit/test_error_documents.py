"""Errors for programs: a kind for every class, and one JSON object on standard output with ``--json``."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest

from lookonce.commands.command import CommonOptions, finish, parse_arguments
from lookonce.shared.errors import (
    EndedElsewhereError,
    IntegrityError,
    LookonceError,
    SchemaError,
    SchemaProblem,
    UsageError,
)

KINDS = {
    "access",
    "busy",
    "cache",
    "cache-mismatch",
    "checkpoint",
    "distributed",
    "ended-elsewhere",
    "head-lost",
    "incomplete-cache",
    "integrity",
    "interrupted",
    "machine",
    "numerical",
    "ray-start",
    "recipe-mismatch",
    "schema",
    "source",
    "storage",
    "store",
    "teacher",
    "unreadable-image",
    "usage",
    "weights",
    "worker-lost",
}


def classes(root: type[LookonceError]) -> list[type[LookonceError]]:
    return [found for child in root.__subclasses__() for found in (child, *classes(child))]


def test_kinds_are_a_contract() -> None:
    public = {kind("text").kind for kind in classes(LookonceError) if kind.__module__ == LookonceError.__module__}
    assert public == KINDS


@pytest.mark.parametrize(
    ("error", "code", "document"),
    [
        (IntegrityError("a/b: wrong digest"), 1, {"kind": "integrity", "message": "a/b: wrong digest"}),
        (UsageError("--seeds: none"), 2, {"kind": "usage", "message": "--seeds: none"}),
        (EndedElsewhereError("process 1: full", IntegrityError("full")), 1, {"kind": "integrity", "message": "full"}),
        (KeyError("x"), 1, {"kind": "unexpected", "message": "KeyError: 'x'"}),
    ],
)
def test_json_asks_for_the_error_too(
    error: Exception, code: int, document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> NoReturn:
        raise error

    for asked in (True, False):
        with pytest.raises(SystemExit) as ended:
            finish(fail, CommonOptions(json=asked))
        assert ended.value.code == code
        printed = capsys.readouterr().out
        assert (json.loads(printed) == {"error": document}) if asked else (printed == "")


def test_the_problems_of_a_document_are_listed() -> None:
    problem = SchemaProblem(loc=("arrays", 0, "dtype"), message="unknown dtype 'x'", kind="value")
    error = pickle.loads(pickle.dumps(SchemaError("m.json: 1 problem", [problem])))
    assert error.document()["problems"] == [
        {"loc": ("arrays", 0, "dtype"), "message": "unknown dtype 'x'", "kind": "value"}
    ]


@dataclass(frozen=True, kw_only=True)
class _Refusing(CommonOptions):
    """Flags of a command that refuses all of them."""

    def __post_init__(self) -> None:
        raise UsageError("--json: refused")


def test_a_flag_that_is_refused_is_told_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(_Refusing, prog="command", description="text", arguments=["--json"])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"error": {"kind": "usage", "message": "--json: refused"}}
    assert printed.err == "error: --json: refused\n"
