"""``feature-cache verify``: whether every byte of a cache is the one that was written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lookonce.commands.cache_commands.byte_bar import byte_bar
from lookonce.commands.command import CommonOptions
from lookonce.commands.subcommand import Subcommand
from lookonce.shared.config_values import Count, validate
from lookonce.stores.transport.urls import is_url, parse_url

if TYPE_CHECKING:
    from lookonce.cache.verify.findings import VerifyReport


DEFAULT_WORKERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache verify."""

    cache: tyro.conf.Positional[str]
    """Cache: folder, name in the catalogue, or URL of a cache (s3://, gs://, az://, https://, hf://datasets/OWNER/NAME)."""
    full: bool = False
    """Also hash the bytes of every object; without it only documents, sizes and, on a disk, indices are
    checked. At a URL this reads all objects."""
    workers: Count = DEFAULT_WORKERS
    """Threads, at least 1."""

    def __post_init__(self) -> None:
        validate(self)
        if is_url(self.cache):
            parse_url(self.cache, "CACHE")


def _run(options: Options) -> VerifyReport:
    from lookonce.cache.verify.verification import verify_cache

    with byte_bar() as progress:
        if is_url(options.cache):
            from lookonce.stores.verify_url import verify_url

            return verify_url(options.cache, full=options.full, workers=options.workers, progress=progress)
        return verify_cache(Path(options.cache), full=options.full, workers=options.workers, progress=progress)


VERIFY = Subcommand(
    name="verify",
    description="Check a cache and name every bad object, one per line; exits with 1 if there is one, with 3 if none "
    "is known to be bad but some cannot be read (permissions, network, disk).",
    options=Options,
    run=_run,
)
