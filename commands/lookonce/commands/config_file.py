"""``--config FILE``: flags out of a TOML file, which stand before the user's own; and a file of all values in use."""

from __future__ import annotations

import argparse
import json
import tomllib
import types
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lookonce.shared.errors import UsageError
from lookonce.shared.names import close_names, did_you_mean, unknown_name

NOT_IN_FILES = frozenset({"config", "print_config", "version"})
"""Flags that mean nothing in a file."""


def with_config(
    arguments: Sequence[str], options: type[Any], prog: str, *, without: frozenset[str] = frozenset()
) -> list[str]:
    """The arguments, headed by what the file of a ``--config`` among them says; flags that come later win.

    Args:
        arguments: as typed.
        options: dataclass of the flags.
        prog: the command, for messages.
        without: fields of ``options`` that are no flags.

    Raises:
        UsageError: the file cannot be read, or names a flag or a value that there is not.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", nargs="?", type=Path)
    path = parser.parse_known_args(arguments)[0].config
    if path is None:
        return list(arguments)
    hints = get_type_hints(options)
    known = {one.name: hints[one.name] for one in fields(options) if one.name not in NOT_IN_FILES | without}
    flags = []
    for key, value in _read(path).items():
        name = key.replace("-", "_")
        if name not in known:
            raise UsageError(f"{path}: {key!r} is no option of {prog}{did_you_mean(close_names(name, known))}")
        flags += _flag(f"{path}: {key}", name, value, known[name])
    return flags + list(arguments)


def config_text(config: Any) -> str:
    """All values of a config dataclass as the text of such a file; what is None is left out.

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
