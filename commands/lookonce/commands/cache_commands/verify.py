"""``feature-cache verify``: is every byte there, and is it the byte that was written?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from lookonce.commands.cache_commands.subcommand import Subcommand
from lookonce.commands.command import EXIT_FAILURE, CommonOptions
from lookonce.shared.errors import UsageError

if TYPE_CHECKING:
    from lookonce.cache.verify.findings import VerifyReport

EXIT_NOT_READABLE = 3
_MOST_NOTES = 20


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache verify."""

    cache: tyro.conf.Positional[Path]
    """Cache folder."""
    full: bool = False
    """Also hash every object's bytes; without it only documents, sizes and indices are checked."""
    workers: int = min(8, os.cpu_count() or 1)
    """Threads, at least 1."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"--workers: expected at least 1, found {self.workers}")


def _run(options: Options) -> Mapping[str, Any]:
    from lookonce.cache.verify.verification import verify_cache

    with _progress_bar() as progress:
        report = verify_cache(options.cache, full=options.full, workers=options.workers, progress=progress)
    return {"cache": str(options.cache), **report.document(), "exit_code": _exit_code(report)}


def _exit_code(report: VerifyReport) -> int:
    """0 where all is well, 1 where something is damaged, 3 where nothing is but something cannot be read."""
    if report.whole:
        return 0
    return EXIT_FAILURE if report.count("damaged") else EXIT_NOT_READABLE


def _summarise(result: Mapping[str, Any]) -> str:
    from lookonce.cache.verify.findings import Finding, Note

    lines = [str(Finding.from_document(finding)) for finding in result["findings"]]
    notes = [f"note: {Note(**note)}" for note in result["notes"]]
    lines += notes[:_MOST_NOTES]
    if len(notes) > _MOST_NOTES:
        lines.append(f"note: {len(notes) - _MOST_NOTES} more files do not belong to the cache (--json names them)")
    looked = "every byte hashed" if result["digested"] else "documents, sizes and indices; --full also hashes the bytes"
    checked = f"{result['shards']} shards, {result['objects']} objects, {result['bytes'] / 1e6:.1f} MB ({looked})"
    bad, unread = result["damaged"], result["not_readable"]
    found = [f"{bad} problem{'s' * (bad > 1)}"] if bad else []
    found += [f"{unread} file{'s' * (unread > 1)} not readable, which may be sound"] if unread else []
    verdict = f"{result['cache']}: {'; '.join(found) or 'no problems'}; checked {checked}"
    return "\n".join([*lines, verdict])


@contextlib.contextmanager
def _progress_bar() -> Generator[Callable[[int, int], None], None, None]:
    """Bytes digested, on standard error when that is a terminal."""
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


VERIFY = Subcommand(
    name="verify",
    description="Check a cache and name every bad object, one a line; exits with 1 when there is one, with 3 when "
    "none is known to be bad but some cannot be read (permissions, network, disk).",
    options=Options,
    run=_run,
    summarise=_summarise,
)
