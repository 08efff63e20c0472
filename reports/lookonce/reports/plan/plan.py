"""What an extraction will cost and whether it pays, before anything is spent; nothing is written."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
)
from lookonce.extract.versions import content_versions
from lookonce.reports.plan.break_even import BreakEven
from lookonce.reports.plan.planned_sizes import PlannedSize, planned_manifest, planned_sizes, read_bytes
from lookonce.reports.plan.probe import Probe, probe
from lookonce.shared.config_values import parse_seeds
from lookonce.shared.masking import visible_count
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import get_precision
from lookonce.weights.device import resolve_device


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """What the cache is wanted for."""

    epochs: int
    """Epochs of one experiment."""
    experiments: int
    """Runs that would share the cache."""
    student_rate: float
    """Images a second that the student trains on."""


def plan_extraction(
    config: ExtractionConfig, purpose: Purpose, *, probe_seconds: float, started: float | None = None
) -> dict[str, Any]:
    """Sizes, time, read rate, disk and break-even of an extraction, as a JSON-compatible document.

    Args:
        config: what extract-features would be given.
        purpose: what the cache is wanted for.
        probe_seconds: how long teacher and images are tried.
        started: when the start-up began, seconds since the epoch, to count imports too; None for this call.

    Raises:
        SourceError: the images are missing, or those that were tried cannot be read.
        TeacherError: the teacher's weights cannot be had or do not fit.
        CacheError: ``config.out`` is something else, or a cache that this extraction may not complete.
        UsageError: unknown names, or more workers than there is place for.
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
    sizes = planned_sizes(extraction, recipe, versions)
    measured = probe(extraction, teacher, workers, seconds=probe_seconds)
    committed = _committed_amount(config.out, joined, parse_seeds(config.seeds))
    cost = _break_even(extraction, purpose, sizes, measured, workers, committed, new=joined is None)
    identity = recipe.document()["teacher"]
    return {
        "teacher": {**identity, "device": teacher.mean.device.type},
        "images": len(extraction.listing),
        "seeds": list(parse_seeds(config.seeds)),
        "patches": recipe.patches,
        "container": config.format,
        "pixels": config.pixels,
        "shard_size": manifest.shard_size,
        "sizes": [_size_document(size) for size in sizes],
        "start_up_seconds": start_up_seconds,
        "probe": asdict(measured),
        "workers": {**asdict(workers), "executor": config.executor},
        "extraction": _extraction_document(cost, measured, workers),
        "reading": _reading_document(config, purpose, manifest, sizes),
        "disk": {"out": str(config.out), "there": committed.bytes, "left": cost.bytes_left, "free": cost.bytes_free},
        "break_even": _break_even_document(cost, decoding=config.pixels == "store"),
        "advice": "do not cache" if cost.reasons_against else "cache",
        "reasons": cost.reasons_against,
    }


@dataclass(frozen=True)
class _CommittedAmount:
    """What an earlier run has committed of the asked seeds."""

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
    new: bool,
) -> BreakEven:
    config, images = extraction.config, len(extraction.listing)
    chosen = _chosen(sizes).bytes
    left = chosen.views - committed.views
    alone = WorkerResources(1, workers.cpus, workers.gpus)
    calibrated = min(config.calibration_views, images) if new and get_precision(config.precision).calibrated else 0
    return BreakEven(
        images=images,
        epochs=purpose.epochs,
        experiments=purpose.experiments,
        views_left=left,
        extraction_seconds=left * measured.extraction_seconds(workers)
        + calibrated * measured.online_seconds(alone, with_views=True),
        online_seconds=images * measured.online_seconds(workers, with_views=config.pixels == "store"),
        bytes_left=round(chosen.total * left / chosen.views),
        bytes_free=_free_bytes(config.out),
    )


def _free_bytes(path: Path) -> int:
    """Of the disk that a folder lies on, or will lie on."""
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def _chosen(sizes: Sequence[PlannedSize]) -> PlannedSize:
    return next(size for size in sizes if size.chosen)


def _size_document(size: PlannedSize) -> dict[str, Any]:
    return {
        "precision": size.precision,
        "tokens": size.tokens.document(),
        "stored_patches": size.stored_patches,
        "bytes_a_view": size.bytes.a_view,
        "bytes": size.bytes.total,
        "chosen": size.chosen,
    }


def _extraction_document(cost: BreakEven, measured: Probe, workers: WorkerResources) -> dict[str, Any]:
    a_view = measured.extraction_seconds(workers)
    return {
        "views_left": cost.views_left,
        "views_per_second": 1 / a_view,
        "hours": cost.extraction_seconds / 3600,
        "write_bytes_per_second": cost.bytes_left / max(cost.views_left, 1) / a_view,
    }


def _reading_document(
    config: ExtractionConfig, purpose: Purpose, manifest: Manifest, sizes: Sequence[PlannedSize]
) -> Mapping[str, Any]:
    recipe, chosen = manifest.recipe, _chosen(sizes)
    visible = min(visible_count(recipe.patches, config.mask_ratio), chosen.stored_patches)
    needed = read_bytes(manifest.arrays, chosen.stored_patches, visible)
    return {
        "student_rate": purpose.student_rate,
        "visible_patches": visible,
        "visible_bytes_per_second": purpose.student_rate * needed,
        "whole_bytes_per_second": purpose.student_rate * chosen.bytes.a_view,
    }


def _break_even_document(cost: BreakEven, *, decoding: bool) -> dict[str, Any]:
    return {
        "epochs": cost.epochs,
        "experiments": cost.experiments,
        "cached_hours": cost.extraction_seconds / 3600,
        "online_hours": cost.online_seconds * cost.epochs_in_all / 3600,
        "decoding_counted": decoding,
        "after_epochs": cost.break_even_epochs,
        "after_experiments": cost.break_even_experiments,
        "looks_online_over_cached": cost.forward_ratio if cost.views_left else None,
    }
