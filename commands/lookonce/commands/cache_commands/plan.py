"""``feature-cache plan``: the bytes and time that a cache would take, and whether it saves time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lookonce.commands.command import CommonOptions
from lookonce.commands.early_checks import announce, check_extraction
from lookonce.commands.subcommand import Subcommand
from lookonce.extract.config import ExtractionConfig
from lookonce.shared.config_values import Count, Positive, validate
from lookonce.shared.errors import UsageError
from lookonce.shared.freed_memory import keep_freed_memory
from lookonce.storage_schemas.precision import automatic_percent

if TYPE_CHECKING:
    from lookonce.reports.plan.report import Plan


@dataclass(frozen=True, kw_only=True)
class PlannedExtraction(ExtractionConfig):
    """An extraction from images; one with ``--reuse`` takes the same bytes and no more time."""

    reuse: tyro.conf.Suppress[Path | None] = None
    """Not a flag of plans."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if automatic_percent(self.precision) is not None:
            raise UsageError(
                f"--precision {self.precision}: the calibration of the extraction decides about the precision, and a "
                "plan has none; leave it out: the table of the plan has every precision"
            )


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache plan: those of extract-features, and the purpose of the cache."""

    extraction: PlannedExtraction
    config: Path | None = None
    """TOML file of these flags, as for extract-features; the command line overrides it."""
    epochs: Count = 200
    """Epochs of one experiment, at least 1."""
    experiments: Count = 1
    """Training runs that will share the cache, at least 1."""
    student_rate: Positive = 1000.0
    """Images per second that the student trains on, above 0; the disk has to deliver as many."""
    probe_seconds: Positive = 5.0
    """Seconds that images and teacher are timed for, above 0; loading the teacher takes more."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        validate(self)


def _run(options: Options) -> Plan:
    config = options.extraction
    check_extraction(config)
    announce(f"planning an extraction of {config.images} with teacher {config.teacher}; nothing is written")
    import psutil

    from lookonce.reports.plan.plan import Purpose, plan_extraction
    from lookonce.weights.device import resolve_device

    keep_freed_memory(resolve_device(config.device).type)  # as extract-features does
    purpose = Purpose(epochs=options.epochs, experiments=options.experiments, student_rate=options.student_rate)
    started = psutil.Process().create_time()
    return plan_extraction(config, purpose, probe_seconds=options.probe_seconds, started=started)


PLAN = Subcommand(
    name="plan",
    description="Estimate bytes, time, read rate and free disk of an extraction, and after how many epochs or "
    "experiments the cache saves time. Takes the arguments of extract-features except --reuse; nothing is written.",
    options=Options,
    run=_run,
)
