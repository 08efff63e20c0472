"""``extract-features``: run the frozen teacher once per augmentation seed and write what it saw."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from lookonce.commands.command import CommonOptions, finish, parse_arguments
from lookonce.commands.config_file import config_text, with_config
from lookonce.commands.early_checks import announce, check_extraction
from lookonce.extract.config import ExtractionConfig
from lookonce.shared.freed_memory import keep_freed_memory
from lookonce.shared.quantities import bytes_text, count_text

BUSY_MACHINE = 0.1
"""Share of the teacher's time without a CPU core above which it is mentioned."""

DESCRIPTION = """Run a frozen teacher once per augmentation seed over a set of images and write its normalised features,
importance maps and the views themselves to a cache that train-student streams. Run it again to resume."""


@dataclass(frozen=True, kw_only=True)
class Options(ExtractionConfig, CommonOptions):
    """Flags of extract-features."""

    config: Path | None = None
    """TOML file of these flags, such as teacher = "clip-b16" and seeds = "0-3"; flags that are typed go over it."""
    print_config: bool = False
    """Print all values in use as such a file, and do nothing else."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    options: Options = parse_arguments(
        Options,
        prog="extract-features",
        description=DESCRIPTION,
        arguments=arguments,
        expand=lambda given: with_config(given, Options, "extract-features"),
    )
    config = ExtractionConfig(**{field.name: getattr(options, field.name) for field in fields(ExtractionConfig)})

    if options.print_config:
        print(config_text(config))
        sys.exit(0)

    def work() -> Mapping[str, Any]:
        check_extraction(config)
        announce(_announcement(config))
        from lookonce.clusters.extraction.run import extract_features
        from lookonce.weights.device import resolve_device

        keep_freed_memory(resolve_device(config.device).type)
        return extract_features(config).document()

    finish(work, options, summarise_extraction)


def _announcement(config: ExtractionConfig) -> str:
    source = config.images if config.images is not None else f"the views of {config.reuse}"
    return (
        f"extracting features of {source} with teacher {config.teacher} (layers {config.layers}, seeds {config.seeds}, "
        f"{config.precision}) to {config.out}"
    )


def summarise_extraction(result: Mapping[str, Any]) -> str:
    """The document of an ``ExtractionSummary`` as lines for people."""
    copied = f" ({result['views_copied']} of them copied)" if result["views_copied"] else ""
    if not result["shards_written"]:
        first = f"nothing to do: all {result['shards']} shards are there"
    else:
        first = (
            f"{result['shards_written']} of {result['shards']} shards written, {result['views_written']} views"
            f"{copied} at {result['views_per_second']:.1f} views/s"
        )
    lines = [
        first,
        f"cache        {result['cache']}",
        f"fingerprint  {result['fingerprint']}",
        (
            f"content      {count_text(result['samples'], 'sample')} per seed ({_seeds(result['seeds'])}); "
            f"{count_text(result['holes'], 'hole')} (unreadable images)"
        ),
        f"size         {bytes_text(result['bytes'])}",
    ]
    if signals := result["signals"]:
        (least, most), (sharpest, flattest) = signals["feature_norm"], signals["importance_entropy"]
        lines.append(
            f"signals      per shard: feature norm {least:.4g} to {most:.4g}, entropy of importance {sharpest:.3g} to "
            f"{flattest:.3g} nats, at most {result['saturated_share']:.2%} of values saturated"
        )
    if result["time_share"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["time_share"].items())
        lines.append(f"time         {shares}{_teacher_time(result['teacher_share'])}")
    return "\n".join(lines)


def _seeds(seeds: Sequence[int]) -> str:
    shown = ", ".join(map(str, seeds[:12])) + (f", ... ({len(seeds)} in all)" if len(seeds) > 12 else "")
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {shown}"


def _teacher_time(shares: Mapping[str, float]) -> str:
    """What the teacher's part was spent on; where threads waited for cores, the machine had too little for this."""
    if not shares:
        return ""
    if shares["core_wait"] < BUSY_MACHINE:
        return f" ({shares['forward']:.0%} of the teacher's in its forward pass)"
    return (
        f" ({shares['forward']:.0%} of the teacher's in its forward pass, {shares['core_wait']:.0%} waiting for a CPU "
        "core: other threads or programs kept the cores busy)"
    )
