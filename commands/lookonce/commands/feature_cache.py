"""``feature-cache``: plan, show, check and convert caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, Union

import tyro

from lookonce.commands.cache_commands import SUBCOMMANDS, Subcommand
from lookonce.commands.cache_commands.plan import PLAN
from lookonce.commands.command import finish, parse_arguments
from lookonce.commands.config_file import with_config

DESCRIPTION = "Plan, show, check and convert caches of teacher features."


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    options = parse_arguments(
        _any_options(), prog="feature-cache", description=DESCRIPTION, arguments=arguments, expand=_expanded
    )
    chosen = next(subcommand for subcommand in SUBCOMMANDS.values() if type(options) is subcommand.options)
    finish(lambda: chosen.run(options), options)


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
