"""``feature-cache show``: the facts of a cache and, with ``--picture``, some of its samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lookonce.cache.show.picture_file import picture_format
from lookonce.commands.command import CommonOptions
from lookonce.commands.subcommand import Subcommand
from lookonce.shared.config_values import Count, validate
from lookonce.shared.errors import UsageError
from lookonce.shared.given_flags import refuse_without_effect
from lookonce.stores.transport.urls import is_url, parse_url

if TYPE_CHECKING:
    from lookonce.cache.show.facts import CacheFacts


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache show."""

    cache: tyro.conf.Positional[str]
    """Cache: folder, name in the catalogue, or URL of a cache (s3://, gs://, az://, https://, hf://datasets/OWNER/NAME)."""
    picture: Path | None = None
    """Picture to write (.png, .jpg, .webp, .svg or .pdf): views, importance, visible patches of one draw, principal
    components of the targets."""
    samples: Count = 6
    """Samples in the picture, at least 1."""

    def __post_init__(self) -> None:
        validate(self)
        if is_url(self.cache):
            parse_url(self.cache, "CACHE")
            if self.picture is not None:
                raise UsageError(
                    f"--picture cannot draw from a URL: feature-cache pull {self.cache} FOLDER, then draw FOLDER"
                )
        if self.picture is None:
            refuse_without_effect(self, "--picture", "samples")
        else:
            picture_format(self.picture, "--picture")


def _run(options: Options) -> CacheFacts:
    if is_url(options.cache):
        from lookonce.stores.describe_url import describe_url

        return describe_url(options.cache)
    from lookonce.cache.show.description import describe_cache

    root = Path(options.cache)
    facts = describe_cache(root)
    if options.picture is None:
        return facts
    from lookonce.cache.show.picture import draw_cache

    shown = draw_cache(root, options.picture, samples=options.samples)
    return replace(facts, picture=options.picture, picture_samples=shown)


SHOW = Subcommand(
    name="show",
    description="Print the facts of a cache, complete or not; with --picture FILE also draw some of its samples.",
    options=Options,
    run=_run,
)
