"""What commands print: results that print themselves, and quantities with three digits and a unit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

_BYTE_UNITS = (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
_TIME_UNITS = (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3))
_LEAST_OF_UNIT = {"days": 2.0, "h": 1.5, "min": 1.5}
"""Below this number of a unit, the next smaller unit is easier to read."""


class Result(Protocol):
    """The result of a command."""

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0, unless the work is done and found something wrong."""
        return 0

    @abstractmethod
    def document(self) -> Mapping[str, Any]:
        """The result as a JSON-compatible document: what ``--json`` prints."""

    @abstractmethod
    def text(self) -> str:
        """The result as lines for people."""


def bytes_text(count: float) -> str:
    """Bytes with a decimal unit.

    >>> [bytes_text(count) for count in (0, 999, 999.7, 1234567, 999.9e6, 2e15, 2e18)]
    ['0 B', '999 B', '1 kB', '1.23 MB', '1 GB', '2 PB', '2,000 PB']
    """
    rounded = _three_digits(count)
    return _text(rounded, next((unit for unit in _BYTE_UNITS if rounded >= unit[1]), _BYTE_UNITS[-1]))


def duration_text(seconds: float) -> str:
    """Seconds in a suitable unit.

    >>> [duration_text(seconds) for seconds in (0, 0.0123, 0.9998, 42, 100, 5000, 100000, 1e6)]
    ['0 ms', '12.3 ms', '1 s', '42 s', '1.67 min', '83.3 min', '27.8 h', '11.6 days']
    """
    rounded = _three_digits(seconds)
    wanted = (unit for unit in _TIME_UNITS if rounded >= unit[1] * _LEAST_OF_UNIT.get(unit[0], 1.0))
    return _text(rounded, next(wanted, _TIME_UNITS[-1]))


def count_text(number: int, thing: str, plural: str = "s") -> str:
    """A number with its noun.

    >>> count_text(1, "patch", "es"), count_text(1200, "patch", "es")
    ('1 patch', '1,200 patches')
    """
    return f"{number:,} {thing}{plural * (number != 1)}"


def _three_digits(value: float) -> float:
    """Rounded before the unit is chosen: 999.9 MB are 1 GB, not 1e+03 MB."""
    return float(f"{value:.3g}")


def _text(value: float, unit: tuple[str, float]) -> str:
    name, factor = unit
    number = _three_digits(value / factor)
    return f"{number:,.0f} {name}" if number >= 1000 else f"{number:g} {name}"
