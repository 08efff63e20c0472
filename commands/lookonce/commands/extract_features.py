"""``extract-features``: run the frozen teacher once per augmentation seed and write its features to a cache."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from lookonce.commands.catalogue_commands.cache_names import cache_folder
from lookonce.commands.command import CommonOptions, finish, parse_arguments
from lookonce.commands.config_file import config_text, with_config
from lookonce.commands.early_checks import announce, check_extraction, check_writable
from lookonce.extract.config import ExtractionConfig
from lookonce.shared.freed_memory import keep_freed_memory
from lookonce.shared.printing import Result

DESCRIPTION = """Run a frozen teacher once per augmentation seed over a set of images and write its normalised features,
importance maps and the views themselves to a cache that train-student streams. Run it again to resume."""


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of extract-features."""

    extraction: ExtractionConfig
    config: Path | None = None
    """TOML file of these flags, such as teacher = "clip-b16" and seeds = "0-3"; the command line overrides it."""
    print_config: bool = False
    """Print all values in use as such a file and exit."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    options: Options = parse_arguments(
        Options,
        prog="extract-features",
        description=DESCRIPTION,
        arguments=arguments,
        expand=lambda given: with_config(given, Options, "extract-features"),
    )
    given = options.extraction
    if options.print_config:
        print(config_text(given))
        sys.exit(0)

    def work() -> Result:
        config = given if given.reuse is None else replace(given, reuse=cache_folder(given.reuse))
        check_extraction(config)
        check_writable(config.out)
        announce(_announcement(config))
        from lookonce.clusters.extraction.run import extract_features
        from lookonce.weights.device import resolve_device

        keep_freed_memory(resolve_device(config.device).type)
        return extract_features(config)

    finish(work, options)


def _announcement(config: ExtractionConfig) -> str:
    source = config.images if config.images is not None else f"the views of {config.reuse}"
    return (
        f"extracting features of {source} with teacher {config.teacher} (layers {config.layers}, seeds {config.seeds}, "
        f"{config.precision}) to {config.out}"
    )
