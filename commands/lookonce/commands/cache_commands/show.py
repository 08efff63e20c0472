"""``feature-cache show``: the facts of a cache, and on demand a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from lookonce.cache.show.picture_file import picture_format
from lookonce.commands.cache_commands.subcommand import Subcommand
from lookonce.commands.command import CommonOptions
from lookonce.shared.errors import UsageError
from lookonce.shared.given_flags import refuse_without_effect


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache show."""

    cache: tyro.conf.Positional[Path]
    """Cache folder."""
    picture: Path | None = None
    """Picture to write (.png, .jpg, .webp, .svg or .pdf): views, importance, visible patches of one draw, principal
    components of the targets."""
    samples: int = 6
    """Samples in the picture, at least 1."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError(f"--samples: expected at least 1, found {self.samples}")
        if self.picture is None:
            refuse_without_effect(self, "--picture", "samples")
        else:
            picture_format(self.picture, "--picture")


def _run(options: Options) -> Mapping[str, Any]:
    from lookonce.cache.show.description import describe_cache

    facts = describe_cache(options.cache)
    if options.picture is None:
        return facts
    from lookonce.cache.show.picture import draw_cache

    shown = draw_cache(options.cache, options.picture, samples=options.samples)
    return {**facts, "picture": str(options.picture), "picture_samples": shown}


def _summarise(facts: Mapping[str, Any]) -> str:
    from lookonce.cache.show.description_text import describe_lines

    lines = describe_lines(facts)
    if "picture" in facts:
        lines.append(f"{'picture':<13}{facts['picture']}, {facts['picture_samples']} samples")
    return "\n".join(lines)


SHOW = Subcommand(
    name="show",
    description="Print the facts of a cache, whole or not; with --picture FILE also draw some of its samples.",
    options=Options,
    run=_run,
    summarise=_summarise,
)
