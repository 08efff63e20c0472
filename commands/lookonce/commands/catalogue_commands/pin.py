"""``feature-cache pin`` and ``unpin``: keep a cache from being deleted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from lookonce.catalogue.catalogue import enter_cache
from lookonce.catalogue.pins import held_pins, pin_cache, unpin_cache
from lookonce.commands.command import CommonOptions
from lookonce.commands.subcommand import Subcommand
from lookonce.shared.printing import Result


@dataclass(frozen=True, kw_only=True)
class PinOptions(CommonOptions):
    """Flags of feature-cache pin."""

    cache: tyro.conf.Positional[Path]
    """Cache folder, or its name or fingerprint in the catalogue."""
    by: str
    """Who needs it: letters, digits, dots, hyphens, underscores."""
    until: str | None = None
    """Last day of the pin, YYYY-MM-DD (UTC); default: until feature-cache unpin."""


@dataclass(frozen=True, kw_only=True)
class UnpinOptions(CommonOptions):
    """Flags of feature-cache unpin."""

    cache: tyro.conf.Positional[Path]
    """Cache folder, or its name or fingerprint in the catalogue."""
    by: str
    """Name that the pin was given."""


@dataclass(frozen=True, kw_only=True)
class Pins(Result):
    """The pins of a cache after the command."""

    cache: str
    pins: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The pins as a JSON-compatible document."""
        return {**asdict(self), "pins": list(self.pins)}

    def text(self) -> str:
        """One line for people."""
        return f"{self.cache}: " + (f"pinned by {', '.join(self.pins)}" if self.pins else "not pinned")


def _pin(options: PinOptions) -> Pins:
    root = options.cache
    pin_cache(root, options.by, options.until)
    enter_cache(root, changed=False)
    return _pins(root)


def _unpin(options: UnpinOptions) -> Pins:
    root = options.cache
    unpin_cache(root, options.by)
    return _pins(root)


def _pins(root: Path) -> Pins:
    return Pins(cache=str(root), pins=tuple(map(str, held_pins(root))))


PIN = Subcommand(
    name="pin",
    description="Keep a cache from being deleted by feature-cache rm and gc; training runs do so while they live.",
    options=PinOptions,
    run=_pin,
)
UNPIN = Subcommand(name="unpin", description="Take away a pin of feature-cache pin.", options=UnpinOptions, run=_unpin)
