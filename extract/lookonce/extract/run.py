"""Stage one as one call: prepare, extract the remaining shards, count, summarise."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from lookonce.cache.layout import CacheLayout
from lookonce.cache.write.create import exclusive_writer, existing_manifest, remove_temporary_files
from lookonce.catalogue.catalogue import enter_cache
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.pipeline.events import ProgressEvent
from lookonce.extract.pipeline.open_shard import ShardTask
from lookonce.extract.pipeline.shard_extractor import ShardExtractor
from lookonce.extract.pipeline.teacher_threads import idle_cores_note
from lookonce.extract.prepare import (
    Extraction,
    load_config_teacher,
    open_extraction,
    open_or_create,
    remaining_tasks,
    resolve_batch_size,
    resolve_view_processes,
)
from lookonce.extract.progress.display import ExtractionProgress, size_sentence, small_disk_note
from lookonce.extract.progress.worker_table import efficiency, teacher_shares
from lookonce.extract.summary import ExtractionSummary
from lookonce.extract.teachers import Teacher
from lookonce.shared.config_values import parse_seeds
from lookonce.shared.errors import SourceError
from lookonce.storage_schemas.manifest import Manifest
from lookonce.weights.device import resolve_device


class Executor(Protocol):
    """Extracts shards outside this process, for example in the workers of a cluster."""

    def check(self, config: ExtractionConfig) -> None:
        """Refuse a config that cannot run, before the teacher is loaded.

        Raises:
            UsageError: for example more workers than the machine has CPUs.
        """
        ...

    def run(self, extraction: Extraction, manifest: Manifest, tasks: Sequence[ShardTask]) -> Iterator[ProgressEvent]:
        """Extract shards; yields ``ViewsDone`` after each batch and one ``ShardCommitted`` per seed of a shard.

        Raises:
            LookonceError: see ``ShardExtractor.extract``, and the errors of the executor itself.
        """
        ...


def run_extraction(
    config: ExtractionConfig, *, executor: Executor | None = None, show_progress: bool = True
) -> ExtractionSummary:
    """Extract the shards that the cache at ``config.out`` lacks.

    Args:
        config: of the extraction; its ``executor`` is ignored here, see ``lookonce.api.extract_features``.
        executor: extracts the shards; None: this process.
        show_progress: whether progress is shown on standard error.

    Raises:
        SourceError: none of the images can be read.
        LookonceError: see ``prepare``, ``shard_extractor`` and the executor; committed shards stay valid.
    """
    started = time.perf_counter()
    config = _with_absolute_paths(config)
    existing_manifest(config.out)  # refuses another kind of folder before anything is written to it
    extraction = open_extraction(config)
    if executor is not None:
        executor.check(config)
    teacher = load_config_teacher(config, resolve_device(config.device))
    with exclusive_writer(config.out):
        manifest = open_or_create(extraction, teacher)
        own_teacher = teacher if executor is None else None
        del teacher  # workers load their own, and may need its memory
        torch.cuda.empty_cache()
        remove_temporary_files(config.out)  # of a killed run
        seeds = parse_seeds(config.seeds)
        tasks = remaining_tasks(config.out, manifest, seeds, extraction.listing, extraction.reuse)
        if tasks and show_progress:
            print(size_sentence(manifest, extraction.listing, seeds), file=sys.stderr, flush=True)
            if note := small_disk_note(tasks, manifest, config.out):
                print(f"note: {note}", file=sys.stderr, flush=True)
            if own_teacher is not None and (note := idle_cores_note(own_teacher.mean.device)):
                print(f"note: {note}", file=sys.stderr, flush=True)
        progress = ExtractionProgress(tasks, manifest, show=show_progress)
        try:
            with progress, contextlib.closing(_events(extraction, manifest, own_teacher, executor, tasks)) as events:
                for event in events:
                    progress.update(event)
        finally:
            remove_temporary_files(config.out)  # of killed workers
            enter_cache(config.out)
    summary = _summary(config, manifest, seeds, progress, time.perf_counter() - started)
    if summary.holes == summary.samples * len(seeds):
        reason = CacheLayout(config.out).load_receipt(seeds[0], 0).holes[0].reason
        raise SourceError(
            f"{config.images or config.reuse}: none of the {summary.samples} images can be read; the first: {reason}. "
            f"Delete {config.out}, which contains no features, and correct the images"
        )
    return summary


def _events(
    extraction: Extraction,
    manifest: Manifest,
    teacher: Teacher | None,
    executor: Executor | None,
    tasks: Sequence[ShardTask],
) -> Generator[ProgressEvent]:
    config = extraction.config
    if not tasks:
        return
    if executor is not None:
        yield from executor.run(extraction, manifest, tasks)
    elif teacher is not None:
        device, cores = teacher.mean.device, len(os.sched_getaffinity(0))
        extractor = ShardExtractor(
            config.out,
            manifest,
            extraction.view,
            extraction.source,
            teacher,
            batch_size=resolve_batch_size(config.batch_size, device),
            skip_bad_images=config.on_bad_image == "skip",
            view_processes=resolve_view_processes(config.view_processes, device, cores),
            reuse=extraction.reuse,
        )
        yield from extractor.extract(tasks)


def _with_absolute_paths(config: ExtractionConfig) -> ExtractionConfig:
    weights = config.teacher_weights and config.teacher_weights.expanduser().absolute()
    return replace(config, out=config.out.expanduser().absolute(), teacher_weights=weights)


def _summary(
    config: ExtractionConfig, manifest: Manifest, seeds: tuple[int, ...], progress: ExtractionProgress, seconds: float
) -> ExtractionSummary:
    layout, holes, content_bytes = CacheLayout(config.out), 0, 0
    signals = {name: [math.inf, -math.inf] for name in ("feature_norm", "importance_entropy", "saturated_share")}
    for seed in seeds:
        for shard in range(manifest.shard_count):  # one at a time: memory must not grow with the samples
            receipt = layout.load_receipt(seed, shard)
            holes += len(receipt.holes)
            content_bytes += receipt.content_bytes
            for name, (low, high) in signals.items():
                if len(receipt.holes) < receipt.samples and name in receipt.statistics:
                    value = receipt.statistics[name]
                    signals[name] = [min(low, value), max(high, value)]
    spent, saturated_share = progress.workers.spent, max(0.0, signals.pop("saturated_share")[1])
    return ExtractionSummary(
        cache=str(config.out),
        fingerprint=manifest.recipe.fingerprint,
        samples=manifest.samples,
        seeds=seeds,
        shards=len(seeds) * manifest.shard_count,
        shards_written=progress.shards_written,
        views_written=progress.views_written,
        views_copied=progress.copied,
        holes=holes,
        bytes=content_bytes,
        seconds=round(seconds, 3),
        views_per_second=round(progress.views / progress.seconds, 2) if progress.seconds else 0.0,
        time_share=spent.shares(),
        teacher_share=teacher_shares(spent),
        efficiency=efficiency(spent),
        saturated_share=saturated_share,
        signals={name: found for name, found in signals.items() if found[0] <= found[1]},
    )
