"""Checks of flags that a user gave: URLs instead of paths, and flags without effect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from lookonce.shared.errors import UsageError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
"""A scheme of two letters or more, a colon and a slash; Path has already merged two slashes."""

_OTHER_PATHS = frozenset({"images", "resume"})
"""Text fields that may be a path or something else."""


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
    """Refuse URLs in options that are paths: Path would create a folder of that name.

    Args:
        options: a dataclass; its paths are checked, and texts that may be one.

    Raises:
        UsageError: an option is a URL; the message says what to type instead.
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
    if scheme in ("s3", "gs", "az", "hf") and flag in ("CACHE", "--reuse"):
        advice = f"copy the cache first: feature-cache pull {scheme}://{rest} FOLDER"
    elif scheme in ("s3", "gs", "az") and flag in ("OUT", "--out"):
        advice = f"write to a folder; a cache then goes there by feature-cache push FOLDER {scheme}://{rest}"
    elif scheme == "hf":
        advice = "give a dataset of the hub as --images hf:NAME, or download the files and give their path"
    elif scheme in ("http", "https", "ftp"):
        advice = "download it, then give the path of the file or folder"
    else:
        advice = "mount it (s3: mount-s3 or s3fs; gs: gcsfuse) or copy it to a disk, then give the path there"
    raise UsageError(
        f"{flag} {scheme}://{rest}: is a URL, where only the path of a file or folder can be read; {advice}"
    )


def refuse_without_effect(options: Any, because: str, *names: str) -> None:
    """Refuse flags that differ from their defaults but have no effect beside the other flags.

    Args:
        options: a dataclass with those fields.
        because: the flag that they need, such as ``--executor ray``.
        names: names of the fields.

    Raises:
        UsageError: a flag has no effect; the message names it and the flag that it needs.
    """
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in names and value != field.default:
            given = f"--{field.name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise UsageError(f"{given} has no effect here: it goes with {because}; leave it out, or give {because}")
