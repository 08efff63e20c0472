"""``feature-cache plan``: what a cache would take, and whether it pays, before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tyro

from lookonce.commands.cache_commands.subcommand import Subcommand
from lookonce.commands.command import CommonOptions
from lookonce.commands.early_checks import announce, check_extraction
from lookonce.extract.config import ExtractionConfig
from lookonce.shared.errors import UsageError
from lookonce.shared.freed_memory import keep_freed_memory

NO_FLAGS = frozenset({"reuse"})
"""Flags of extract-features that a plan does not take."""


@dataclass(frozen=True, kw_only=True)
class Options(ExtractionConfig, CommonOptions):
    """Flags of feature-cache plan: those of extract-features, and what the cache is wanted for."""

    reuse: tyro.conf.Suppress[Path | None] = None
    """No flag of plans: they are of an extraction from images alone, which takes the same bytes and no less time."""
    config: Path | None = None
    """TOML file of these flags, as for extract-features; flags that are typed go over it."""
    epochs: int = 200
    """Epochs of one experiment, at least 1."""
    experiments: int = 1
    """Experiments (training runs) that would share the cache, at least 1."""
    student_rate: float = 1000.0
    """Images a second that the student trains on, above 0: what the disk must keep up with."""
    probe_seconds: float = 5.0
    """About how long images and teacher are tried, above 0; loading the teacher comes on top."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        super().__post_init__()
        for flag in ("epochs", "experiments"):
            if getattr(self, flag) < 1:
                raise UsageError(f"--{flag} {getattr(self, flag)}: must be at least 1")
        for flag in ("student_rate", "probe_seconds"):
            if not 0 < getattr(self, flag) < float("inf"):
                raise UsageError(f"--{flag.replace('_', '-')} {getattr(self, flag)}: must be above 0")


def _run(options: Options) -> Mapping[str, Any]:
    check_extraction(options)
    announce(f"planning an extraction of {options.images} with teacher {options.teacher}; nothing is written")
    import psutil

    from lookonce.reports.plan.plan import Purpose, plan_extraction
    from lookonce.weights.device import resolve_device

    keep_freed_memory(resolve_device(options.device).type)  # as extract-features does
    config = ExtractionConfig(**{field.name: getattr(options, field.name) for field in fields(ExtractionConfig)})
    purpose = Purpose(epochs=options.epochs, experiments=options.experiments, student_rate=options.student_rate)
    started = psutil.Process().create_time()
    return plan_extraction(config, purpose, probe_seconds=options.probe_seconds, started=started)


def _summarise(plan: Mapping[str, Any]) -> str:
    from lookonce.reports.plan.text import plan_lines

    return "\n".join(plan_lines(plan))


PLAN = Subcommand(
    name="plan",
    description="Before anything is spent: bytes, time, read rate and free disk of an extraction, and after how many "
    "epochs or experiments the cache pays. Takes the arguments of extract-features except --reuse; nothing is written.",
    options=Options,
    run=_run,
    summarise=_summarise,
)
