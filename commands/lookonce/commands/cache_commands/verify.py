"""``feature-cache verify``: whether every byte of a cache is the one that was written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lookonce.commands.command import CommonOptions
from lookonce.commands.subcommand import Subcommand
from lookonce.shared.config_values import Count, validate

if TYPE_CHECKING:
    from lookonce.cache.verify.findings import VerifyReport


DEFAULT_WORKERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache verify."""

    cache: tyro.conf.Positional[Path]
    """Cache folder."""
    full: bool = False
    """Also hash the bytes of every object; without it only documents, sizes and indices are checked."""
    workers: Count = DEFAULT_WORKERS
    """Threads, at least 1."""

    def __post_init__(self) -> None:
        validate(self)


def _run(options: Options) -> VerifyReport:
    from lookonce.cache.verify.verification import verify_cache

    with _progress_bar() as progress:
        return verify_cache(options.cache, full=options.full, workers=options.workers, progress=progress)


@contextlib.contextmanager
def _progress_bar() -> Generator[Callable[[int, int], None], None, None]:
    """Shows bytes hashed, on standard error if that is a terminal."""
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


VERIFY = Subcommand(
    name="verify",
    description="Check a cache and name every bad object, one per line; exits with 1 if there is one, with 3 if none "
    "is known to be bad but some cannot be read (permissions, network, disk).",
    options=Options,
    run=_run,
)
