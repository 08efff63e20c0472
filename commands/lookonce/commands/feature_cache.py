"""``feature-cache``: everything about caches beside extraction and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, Union

import tyro

from lookonce.commands.cache_commands.convert import CONVERT
from lookonce.commands.cache_commands.diff import DIFF
from lookonce.commands.cache_commands.drift import DRIFT
from lookonce.commands.cache_commands.fidelity import FIDELITY
from lookonce.commands.cache_commands.merge import MERGE
from lookonce.commands.cache_commands.plan import PLAN
from lookonce.commands.cache_commands.pull import PULL
from lookonce.commands.cache_commands.push import PUSH
from lookonce.commands.cache_commands.show import SHOW
from lookonce.commands.cache_commands.verify import VERIFY
from lookonce.commands.catalogue_commands.cache_names import cache_folder
from lookonce.commands.catalogue_commands.list_caches import FIND, LIST
from lookonce.commands.catalogue_commands.pin import PIN, UNPIN
from lookonce.commands.catalogue_commands.remove import CLEAN_UP, REMOVE
from lookonce.commands.command import finish, parse_arguments
from lookonce.commands.config_file import with_config
from lookonce.commands.subcommand import Subcommand
from lookonce.stores.transport.urls import is_url

DESCRIPTION = "Plan, show, check, convert, copy, find and delete caches of teacher features."

CACHES = (PLAN, SHOW, VERIFY, CONVERT, MERGE, DIFF, FIDELITY, DRIFT, PUSH, PULL)
CATALOGUE = (LIST, FIND, PIN, UNPIN, REMOVE, CLEAN_UP)
SUBCOMMANDS: Mapping[str, Subcommand] = {one.name: one for one in (*CACHES, *CATALOGUE)}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    options = parse_arguments(
        _any_options(), prog="feature-cache", description=DESCRIPTION, arguments=arguments, expand=_expanded
    )
    chosen = next(subcommand for subcommand in SUBCOMMANDS.values() if type(options) is subcommand.options)
    finish(lambda: chosen.run(_with_folder(options)), options)


def _with_folder(options: Any) -> Any:
    """The options with the folder of a cache that is given by its name or fingerprint."""
    given = getattr(options, "cache", None)
    if isinstance(given, str) and not is_url(given):
        return replace(options, cache=str(cache_folder(Path(given))))
    return replace(options, cache=cache_folder(given)) if isinstance(given, Path) else options


def _expanded(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments, for a plan with those of its ``--config`` file."""
    if arguments[:1] != [PLAN.name]:
        return arguments
    return [PLAN.name, *with_config(arguments[1:], PLAN.options, "feature-cache plan")]


def _any_options() -> Any:
    """The union of all subcommands' options, each under its name."""
    return Union[tuple(_named(subcommand) for subcommand in SUBCOMMANDS.values())]  # noqa: UP007 - made at run time


def _named(subcommand: Subcommand) -> Any:
    named = tyro.conf.subcommand(name=subcommand.name, description=subcommand.description)
    return Annotated[subcommand.options, named]
