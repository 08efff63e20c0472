"""Estimates what an extraction costs and whether its cache saves time; nothing is written."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookonce.cache.committed import remaining_shards
from lookonce.cache.layout import CacheLayout
from lookonce.clusters.extraction.resources import WorkerResources, expected_workers
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.prepare import (
    Extraction,
    build_recipe,
    load_config_teacher,
    manifest_to_complete,
    open_extraction,
    same_recipe_note,
)
from lookonce.extract.versions import content_versions
from lookonce.reports.plan.break_even import BreakEven
from lookonce.reports.plan.planned_sizes import PlannedSize, planned_manifest, planned_sizes, read_bytes
from lookonce.reports.plan.probe import Probe, probe
from lookonce.reports.plan.report import DiskSpace, Plan, ReadRate
from lookonce.shared.config_values import parse_seeds
from lookonce.shared.masking import visible_count
from lookonce.storage_schemas.arrays import target_shape
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import KltPrecision, TargetShape, calibration_view_count, get_precision
from lookonce.weights.device import resolve_device


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """What the cache will be used for."""

    epochs: int
    """Epochs of one experiment."""
    experiments: int
    """Runs that share the cache."""
    student_rate: float
    """Images per second that the student trains on."""


def plan_extraction(
    config: ExtractionConfig, purpose: Purpose, *, probe_seconds: float, started: float | None = None
) -> Plan:
    """Sizes, time, read rate, disk and break-even of an extraction.

    Args:
        config: the extraction.
        purpose: what the cache will be used for.
        probe_seconds: how long teacher and images are timed.
        started: start of the process in seconds since the epoch, to count imports, too; None for this call.

    Raises:
        SourceError: the images are missing, or none of those that were tried can be read.
        TeacherError: the teacher's weights cannot be had or do not fit.
        CacheError: ``config.out`` is not a cache, or is one that this extraction cannot complete.
        UsageError: unknown names, or more workers than the machine has room for.
    """
    started = time.time() if started is None else started
    config = dataclasses.replace(config, out=config.out.expanduser().absolute())
    extraction = open_extraction(config)
    workers = expected_workers(config)
    teacher = load_config_teacher(config, resolve_device(config.device))
    start_up_seconds = time.time() - started
    recipe, versions = build_recipe(extraction, teacher), content_versions(teacher.spec.library)
    joined = manifest_to_complete(config, recipe, extraction.listing)
    if joined is not None:
        config = dataclasses.replace(config, shard_size=joined.shard_size)
        extraction = dataclasses.replace(extraction, config=config)
    manifest = joined or planned_manifest(extraction, recipe, config.precision, versions)
    measured = probe(extraction, teacher, workers, seconds=probe_seconds)
    sizes = planned_sizes(extraction, recipe, versions, measured.jpegs)
    committed = _committed_amount(config.out, joined, parse_seeds(config.seeds))
    cost = _break_even(
        extraction, purpose, sizes, measured, workers, committed, shape=target_shape(recipe), new=joined is None
    )
    chosen = next(size for size in sizes if size.chosen)
    return Plan(
        config=dataclasses.replace(config, shard_size=manifest.shard_size),
        recipe=recipe,
        device=teacher.mean.device.type,
        images=len(extraction.listing),
        sizes=tuple(sizes),
        start_up_seconds=start_up_seconds,
        probe=measured,
        workers=workers,
        cost=cost,
        reading=_reading(purpose, config, manifest, chosen, measured),
        disk=DiskSpace(out=str(config.out), committed=committed.bytes, left=cost.bytes_left, free=cost.bytes_free),
        catalogued=same_recipe_note(recipe, config.out) if joined is None else None,
    )


@dataclass(frozen=True)
class _CommittedAmount:
    """What earlier runs have committed of the requested seeds."""

    views: int
    bytes: int
    """Of the shards' objects."""


def _committed_amount(root: Path, manifest: Manifest | None, seeds: Sequence[int]) -> _CommittedAmount:
    if manifest is None:
        return _CommittedAmount(0, 0)
    layout, views, size = CacheLayout(root), 0, 0
    remaining = set(remaining_shards(layout, manifest, seeds, remove_invalid_receipts=False))
    for seed in seeds:
        for shard in range(manifest.shard_count):
            if (seed, shard) not in remaining:
                views += len(manifest.shard_rows(shard))
                size += layout.load_receipt(seed, shard).content_bytes
    return _CommittedAmount(views, size)


def _break_even(
    extraction: Extraction,
    purpose: Purpose,
    sizes: Sequence[PlannedSize],
    measured: Probe,
    workers: WorkerResources,
    committed: _CommittedAmount,
    *,
    shape: TargetShape,
    new: bool,
) -> BreakEven:
    config, images = extraction.config, len(extraction.listing)
    chosen = next(size for size in sizes if size.chosen).bytes
    left = chosen.views - committed.views
    alone = WorkerResources(1, workers.cpus, workers.gpus)
    calibrated = min(_calibration_views(config, shape), images) if new else 0
    return BreakEven(
        images=images,
        epochs=purpose.epochs,
        experiments=purpose.experiments,
        views_left=left,
        extraction_seconds=left * measured.extraction_seconds(workers)
        + calibrated * measured.online_seconds(alone, with_views=True),
        online_seconds=images * measured.online_seconds(workers, with_views=config.pixels != "none"),
        bytes_left=round(chosen.total * left / chosen.views),
        bytes_free=_free_bytes(config.out),
    )


def _calibration_views(config: ExtractionConfig, shape: TargetShape) -> int:
    """Views that calibration takes if there are as many images; 0 if the precision has no calibration."""
    precision = get_precision(config.precision)
    if isinstance(precision, KltPrecision):
        return calibration_view_count(shape, config.calibration_views)
    return config.calibration_views if precision.calibrated else 0


def _free_bytes(path: Path) -> int:
    """Free bytes of the disk that a folder is, or will be, on."""
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def _reading(
    purpose: Purpose, config: ExtractionConfig, manifest: Manifest, chosen: PlannedSize, measured: Probe
) -> ReadRate:
    visible = min(visible_count(manifest.recipe.patches, config.mask_ratio), chosen.stored_patches)
    return ReadRate(
        student_rate=purpose.student_rate,
        visible_patches=visible,
        visible_bytes_per_second=purpose.student_rate
        * read_bytes(manifest.arrays, chosen.stored_patches, visible, measured.jpeg_bytes),
        whole_bytes_per_second=purpose.student_rate * chosen.bytes.per_view,
    )
