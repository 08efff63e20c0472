"""The subcommands of ``feature-cache``: one file each, and a table of them by name.

Open ``subcommand.py`` first: what each one declares.
"""

from __future__ import annotations

from collections.abc import Mapping

from lookonce.commands.cache_commands.convert import CONVERT
from lookonce.commands.cache_commands.drift import DRIFT
from lookonce.commands.cache_commands.fidelity import FIDELITY
from lookonce.commands.cache_commands.plan import PLAN
from lookonce.commands.cache_commands.show import SHOW
from lookonce.commands.cache_commands.subcommand import Subcommand
from lookonce.commands.cache_commands.verify import VERIFY

SUBCOMMANDS: Mapping[str, Subcommand] = {
    subcommand.name: subcommand for subcommand in (PLAN, SHOW, VERIFY, CONVERT, FIDELITY, DRIFT)
}

__all__ = ["SUBCOMMANDS", "Subcommand"]
