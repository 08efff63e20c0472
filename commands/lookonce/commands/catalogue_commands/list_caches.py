"""``feature-cache list`` and ``find``: the caches of the catalogue that fit some conditions."""

from __future__ import annotations

from dataclasses import dataclass

from lookonce.catalogue.catalogue import require_catalogue
from lookonce.catalogue.listing import CacheListing, FoundCaches, find_caches, list_caches
from lookonce.commands.catalogue_commands.query_options import QueryOptions
from lookonce.commands.subcommand import Subcommand


@dataclass(frozen=True, kw_only=True)
class ListOptions(QueryOptions):
    """Flags of feature-cache list."""


@dataclass(frozen=True, kw_only=True)
class FindOptions(QueryOptions):
    """Flags of feature-cache find."""


def _list(options: ListOptions) -> CacheListing:
    return list_caches(require_catalogue(), options.query())


def _find(options: FindOptions) -> FoundCaches:
    return find_caches(require_catalogue(), options.query())


LIST = Subcommand(
    name="list",
    description="List the caches that extractions, conversions and training runs have entered in the catalogue "
    "(LOOKONCE_CATALOGUE, or a folder of the user).",
    options=ListOptions,
    run=_list,
)
FIND = Subcommand(
    name="find",
    description="Print the paths of such caches alone, one per line, most seeds first; exits with 1 if there is none.",
    options=FindOptions,
    run=_find,
)
