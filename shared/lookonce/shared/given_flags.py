"""Flags as a user has given them: URLs where files are meant, and flags that have no effect beside the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from lookonce.shared.errors import UsageError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
"""A path of two letters and more before the colon; Path has already made one slash of two."""

_OTHER_PATHS = frozenset({"images", "resume"})
"""Fields that are texts because they may also hold something else."""


def flag_fields(options: Any) -> Iterator[tuple[Field[Any], Any]]:
    """The fields that are flags and their values; fields of dataclasses in ``options`` are flags, too."""
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            yield from flag_fields(value)
        else:
            yield field, value


def flag_values(options: Any) -> dict[str, Any]:
    """The values of all flags, by field name."""
    return {field.name: value for field, value in flag_fields(options)}


def refuse_urls(options: Any) -> None:
    """Refuse URLs wherever a path is taken: Path would make a folder of that name here.

    Args:
        options: a dataclass; its paths are checked, and texts that may be one.

    Raises:
        UsageError: names the flag, the URL and what to type.
    """
    for field, given in flag_fields(options):
        for one in given if isinstance(given, tuple) else (given,):
            if isinstance(one, Path) or (isinstance(one, str) and field.name in _OTHER_PATHS):
                positional = "Positional" in str(field.type)
                _refuse_url(field.name.upper() if positional else f"--{field.name.replace('_', '-')}", str(one))


def _refuse_url(flag: str, text: str) -> None:
    match = _URL.fullmatch(text)
    if match is None:
        return
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        raise UsageError(f"{flag} {text}: is a URL; give the path alone: /{rest.removeprefix('localhost/')}")
    if scheme == "hf":
        advice = "give a dataset of the hub as --images hf:NAME, or download the files and give their path"
    elif scheme in ("http", "https", "ftp"):
        advice = "download it, then give the path of the file or folder"
    else:
        advice = "mount it (s3: mount-s3 or s3fs; gs: gcsfuse) or copy it to a disk, then give the path there"
    raise UsageError(
        f"{flag} {scheme}://{rest}: is a URL, where only the path of a file or folder can be read; {advice}"
    )


def refuse_without_effect(options: Any, because: str, *names: str) -> None:
    """Refuse flags that were changed from their defaults and that the other flags leave without effect.

    Args:
        options: a dataclass with those fields.
        because: what they go with, such as ``--executor ray``.
        names: the fields.

    Raises:
        UsageError: names the flag, its value and what it goes with.
    """
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in names and value != field.default:
            given = f"--{field.name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise UsageError(f"{given} has no effect here: it goes with {because}; leave it out, or give {because}")
