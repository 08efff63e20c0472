"""``--config FILE``: reads flags from a TOML file, and writes such a file with all values in use."""

from __future__ import annotations

import argparse
import json
import tomllib
import types
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from lookonce.shared.errors import UsageError
from lookonce.shared.names import close_names, did_you_mean, unknown_name

NOT_IN_FILES = frozenset({"config", "print_config", "version"})
"""Flags that a file cannot set."""


def with_config(arguments: Sequence[str], options: type[Any], prog: str) -> list[str]:
    """The arguments after the flags of the file of ``--config``, if they name one; later flags win.

    Args:
        arguments: as typed.
        options: dataclass of the flags.
        prog: the command, for messages.

    Raises:
        UsageError: the file cannot be read, or has an unknown flag or a wrong value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", nargs="?", type=Path)
    path = parser.parse_known_args(arguments)[0].config
    if path is None:
        return list(arguments)
    known = {name: hint for name, hint in _flag_types(options).items() if name not in NOT_IN_FILES}
    flags: list[str] = []
    for key, value in _read(path).items():
        name = key.replace("-", "_")
        if name not in known:
            raise UsageError(f"{path}: {key!r} is no option of {prog}{did_you_mean(close_names(name, known))}")
        flags += _flag(f"{path}: {key}", name, value, known[name])
    return flags + list(arguments)


def _flag_types(options: type[Any]) -> dict[str, Any]:
    """The types of all flags, those of nested dataclasses included, by field name."""
    found: dict[str, Any] = {}
    annotated = get_type_hints(options, include_extras=True)
    for name, hint in get_type_hints(options).items():
        if isinstance(hint, type) and is_dataclass(hint):
            found |= _flag_types(hint)
        elif tyro.conf.Suppress not in getattr(annotated[name], "__metadata__", ()):
            found[name] = hint
    return found


def config_text(config: Any) -> str:
    """All values of a config dataclass as the text of such a file; values that are None are left out.

    Args:
        config: its values are text, paths, numbers, truth values, tuples of these, or None.
    """
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return "\n".join(f"{name} = {_toml(value)}" for name, value in values.items() if value is not None)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check --config") from error
    except ValueError as error:
        raise UsageError(f'{path}: is not TOML ({error}); expected lines such as teacher = "clip-b16"') from error


def _flag(where: str, name: str, value: Any, hint: Any) -> list[str]:
    """A value as its flag on the command line."""
    kinds = [kind for kind in (get_args(hint) if _is_union(hint) else (hint,)) if kind is not type(None)]
    flag, kind = f"--{name.replace('_', '-')}", kinds[0]
    if kind is bool and isinstance(value, bool):
        return [flag] if value else []
    if get_origin(kind) is tuple and isinstance(value, list):
        return [flag, *(_text(where, one, get_args(kind)[0]) for one in value)]
    if kind is str and isinstance(value, list):
        return [flag, ",".join(_text(where, one, str) for one in value)]
    return [f"{flag}={_text(where, value, kind)}"]


def _text(where: str, value: Any, kind: Any) -> str:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{where}: {unknown_name('value', str(value), get_args(kind))}")
        return str(value)
    allowed, expected = _TYPES.get(kind, ((str,), "text"))
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise UsageError(f"{where}: expected {expected}, found {value!r}")
    return str(value)


_TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str, int, float), "text, or a list"),
    Path: ((str,), "a path"),
}


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value)  # inf too
    return json.dumps(value if isinstance(value, bool | int) else str(value), ensure_ascii=False)
