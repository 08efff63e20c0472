"""Reads a sweep file: the names of the runs, and the flags that each one changes."""

from __future__ import annotations

import json
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lookonce.shared.config_values import flag_of, marked_fields
from lookonce.shared.errors import UsageError
from lookonce.train.batch_config import SAME_IN_SWEEP
from lookonce.train.config import TrainingConfig

SHARED = marked_fields(TrainingConfig, SAME_IN_SWEEP)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def read_sweep(path: Path, config: TrainingConfig) -> dict[str, TrainingConfig]:
    """The runs of a sweep, by name, each in a folder of that name below ``--out``.

    The file is TOML with a table ``[[run]]`` for each, or JSON with a list of objects: ``name``, and fields of
    ``TrainingConfig`` as the flags are called (``base_lr`` or ``base-lr``).

    Args:
        path: the file; JSON if its name ends in ``.json``, otherwise TOML.
        config: the settings that runs do not change.

    Raises:
        UsageError: the file cannot be read, or a run is not valid; names the run, the field, the value and what is
            allowed.
    """
    runs: dict[str, TrainingConfig] = {}
    for number, entry in enumerate(_entries(path), start=1):
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(
                f"{path}: run {number} needs a name of letters, digits, '.', '_' and '-', which becomes its folder, "
                f"found {name!r}"
            )
        if name in runs:
            raise UsageError(f"{path}: two runs are named {name!r}")
        where = f"{path}: run {name!r}"
        changes = {key.replace("-", "_"): value for key, value in entry.items() if key != "name"}
        changes = {field: _checked(where, field, value) for field, value in changes.items()}
        try:
            runs[name] = replace(config, **changes, out=config.out / name)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
    if not runs:
        raise UsageError(f"{path}: has no run; give at least one [[run]] with a name")
    return runs


def _entries(path: Path) -> list[Any]:
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text("utf-8")
        content = json.loads(text) if is_json else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check --sweep") from error
    except ValueError as error:
        kind = "JSON" if is_json else "TOML"
        other = "" if is_json else "; a sweep in JSON needs a name that ends in .json"
        raise UsageError(f"{path}: is not {kind} ({error}){other}") from error
    found = content if is_json else content.get("run", [])
    unknown = set() if is_json else set(content) - {"run"}
    if not isinstance(found, list) or unknown:
        if path.suffix == ".toml":
            expected, what = 'a [[run]] for each run, and under it name = "..." and what it changes', _tables(content)
        else:
            expected, what = 'a list of runs, such as [{"name": "wide", "adapter": "mlp"}]', f"{content!r:.60}"
        raise UsageError(f"{path}: is not a sweep: expected {expected}; found {what}")
    return found


def _tables(content: Mapping[str, Any]) -> str:
    """The tables and keys at the top level of a TOML file, as they are written there."""
    kinds = {True: "[[{}]]", False: "[{}]"}
    return ", ".join(
        kinds[isinstance(value, list)].format(name) if isinstance(value, list | Mapping) else f"{name} = {value!r:.30}"
        for name, value in content.items()
    )


def _checked(where: str, field: str, value: Any) -> Any:
    names = {known.name for known in fields(TrainingConfig)}
    if field in SHARED:
        raise UsageError(
            f"{where} sets {field}, which all runs of a sweep share, as they see the same samples at the same step; "
            f"give it once as {flag_of(field)}, or train that run by itself"
        )
    if field not in names:
        raise UsageError(
            f"{where} sets {field!r}, which is no field of a run; known: {', '.join(sorted(names - SHARED))}"
        )
    hint = get_type_hints(TrainingConfig)[field]
    if not _fits(value, hint):
        expected = str(getattr(hint, "__name__", None) or hint).replace("typing.", "")
        raise UsageError(f"{where}: {field} must be {expected}, found {value!r}")
    return tuple(value) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if hint is Path:
        return isinstance(value, str)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
