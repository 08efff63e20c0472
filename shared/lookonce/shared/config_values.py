"""What the fields of a config may be: ranges and names in their types, one check and one wording for all configs.

A field says in its type what it accepts: ``epochs: Count``, ``drop_path: Fraction``, ``mask: Literal["random", ...]``.
``validate`` reads that. Facts of another kind, such as "may differ in a resumed run", are markers in the type, which
``marked_fields`` lists. pydantic would check ranges, too, but its messages would have to be written again as sentences
with the flag, and its import takes longer than ``--help``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from lookonce.shared.errors import UsageError
from lookonce.shared.names import unknown_name

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Finite numbers between bounds; part of a field's type.

    >>> str(Range(at_least=0, below=1)), Range(at_least=0, below=1).allows(1.0)
    ('at least 0 and below 1', False)
    """

    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None

    def allows(self, value: float) -> bool:
        """Whether a number lies in the range; infinity and NaN never do."""
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        """The bounds that there are: ``at least 0 and below 1``."""
        bounds = {field.name.replace("_", " "): getattr(self, field.name) for field in fields(self)}
        return " and ".join(f"{name} {bound}" for name, bound in bounds.items() if bound is not None)


Count = Annotated[int, Range(at_least=1)]
"""1 or more."""
NonNegativeInt = Annotated[int, Range(at_least=0)]
NonNegative = Annotated[float, Range(at_least=0)]
Positive = Annotated[float, Range(above=0)]
Fraction = Annotated[float, Range(at_least=0, below=1)]
"""0 up to 1, without 1."""


@dataclass(frozen=True)
class Marker:
    """A fact about a field that is no range; part of its type."""

    meaning: str


def validate(config: object) -> None:
    """Check the fields of a dataclass against the ranges and names in their types; None passes.

    Raises:
        UsageError: with the flag, the value and what is allowed.
    """
    kind: type = type(config)
    for name, (names, ranges) in _constraints(kind).items():
        value = getattr(config, name)
        if value is None:
            continue
        if names and value not in names:
            raise UsageError(unknown_name(flag_of(name), str(value), names))
        for allowed in ranges:
            if not isinstance(value, int | float):
                raise UsageError(f"{flag_of(name)} {value!r}: must be a number, {allowed}")
            if not allowed.allows(value):
                finite = "" if math.isfinite(value) else " and finite"
                raise UsageError(f"{flag_of(name)} {value}: must be {allowed}{finite}")


def marked_fields(config: type, marker: Marker) -> frozenset[str]:
    """Names of the fields whose type has a marker."""
    return frozenset(name for name, parts in _parts(config).items() if marker in parts)


def subset(kind: type[Config], options: Any) -> Config:
    """The fields of one dataclass taken from a larger one, such as a config out of a command's options."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def flag_of(field: str) -> str:
    """A field as it is typed on the command line.

    >>> flag_of("batch_size")
    '--batch-size'
    """
    return f"--{field.replace('_', '-')}"


@cache
def _constraints(config: type) -> dict[str, tuple[tuple[str, ...], tuple[Range, ...]]]:
    """Names and ranges in the type of each field that has some."""
    found = {}
    for name, parts in _parts(config).items():
        names = tuple(one for part in parts if get_origin(part) is Literal for one in get_args(part))
        ranges = tuple(part for part in parts if isinstance(part, Range))
        if names or ranges:
            found[name] = (names, ranges)
    return found


@cache
def _parts(config: type) -> dict[str, tuple[Any, ...]]:
    """What the type of each field is made of, with unions and annotations taken apart."""
    hints = get_type_hints(config, include_extras=True)
    return {field.name: tuple(_taken_apart(hints[field.name])) for field in fields(config)}


def _taken_apart(hint: Any) -> list[Any]:
    if get_origin(hint) is Annotated:
        first, *extras = get_args(hint)
        return [*_taken_apart(first), *extras]
    if type(None) in get_args(hint):
        return [part for one in get_args(hint) for part in _taken_apart(one)]
    return [hint]


def convert_fields(config: Any, kind: Callable[[Any], Any], *names: str) -> None:
    """Convert some fields of a frozen dataclass, from its ``__post_init__``; None stays None.

    Args:
        config: the dataclass.
        kind: what makes the value, such as ``Path`` or ``str``.
        names: the fields.
    """
    for name in names:
        given = getattr(config, name)
        if given is not None:
            object.__setattr__(config, name, kind(given))


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15} | {
    f"{prefix}IB": 2 ** (10 * power) for power, prefix in enumerate("KMGTP", start=1)
}


def parse_bytes(text: str, flag: str) -> int:
    """Bytes from ``200GB``, ``1.5 TB``, ``64GiB`` or a plain number.

    Args:
        text: as typed.
        flag: for the message.

    Raises:
        UsageError: it is not of that form, or 0.

    >>> parse_bytes("200GB", "--cache-limit"), parse_bytes("1.5 gib", "--cache-limit")
    (200000000000, 1610612736)
    """
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]*)\s*", text)
    count = int(float(match[1]) * _UNITS.get(match[2].upper(), 0)) if match else 0
    if count < 1:
        raise UsageError(f"{flag} {text}: expected a number of bytes above 0, such as 500MB, 200GB, 1.5TB or 64GiB")
    return count


MOST_SEEDS = 100_000
"""Seeds of one command; more are a slip of the keyboard, and a set of them may not fit into memory."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from ``0-3`` or ``0,2,5-7``: ascending, without repeats.

    Raises:
        UsageError: the text is not of that form, a range runs backwards, or there are more than ``MOST_SEEDS``.

    >>> parse_seeds("0-2,7")
    (0, 1, 2, 7)
    """
    seeds: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if not match:
            raise UsageError(f"--seeds {text!r}: expected numbers or ranges such as 0-3 or 0,2,5")
        if int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"--seeds {text!r}: the range {part.strip()} runs backwards; write {match[2]}-{match[1]}")
        asked = range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(seeds) + len(asked) > MOST_SEEDS:
            raise UsageError(f"--seeds {text!r}: expected at most {MOST_SEEDS:,} seeds")
        seeds.update(asked)
    return tuple(sorted(seeds))
