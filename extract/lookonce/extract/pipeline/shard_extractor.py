"""Shards from start to end: decode, crop, teacher, encode, write. The same code runs in a Ray worker and inline."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from lookonce.cache.write.shard_writer import ShardWriter
from lookonce.extract.pipeline.batch_encoder import BatchEncoder, EncodeTargets
from lookonce.extract.pipeline.events import ShardEvent, ViewsDone
from lookonce.extract.pipeline.open_shard import OpenShard, ShardTask
from lookonce.extract.pipeline.pipeline import Pipeline
from lookonce.extract.pipeline.teacher_threads import TeacherThreads
from lookonce.extract.reuse.copied_samples import CopiedSamples, MergingWriter
from lookonce.extract.reuse.earlier_cache import Reuse
from lookonce.extract.teachers import Teacher
from lookonce.extract.teachers.compiled import COMPILED, FORWARD, is_compiled
from lookonce.extract.versions import content_versions
from lookonce.extract.views.image_views import CroppedViews, ViewProducer
from lookonce.extract.views.view_arrays import ViewMaker, ViewsInThread
from lookonce.extract.views.view_batch import ViewBatch, Window, split_windows, view_batches
from lookonce.extract.views.view_processes import ViewProcesses
from lookonce.shared.sources import ImageSource
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.manifest import Manifest

GPU_STREAMS = 8
"""(shard, seed) pairs that are written in parallel with a GPU: one is digested at about 1.8 GB/s, and a CLIP-B/16 on an
H100 gives int8 features several times faster."""

CPU_STREAMS = 1
"""The same with a teacher on CPUs, which is far slower than one stream."""


class ShardExtractor:
    """Extracts shards with one teacher.

    A pool of threads makes views, on a GPU with a process for each thread. The teacher threads compute and encode
    batches, and one thread per (shard, seed) appends them in order and commits. All of them run at the same time, also
    across the border of two shards.

    Args:
        root: the cache folder.
        manifest: of the cache.
        view: view recipe of the manifest, with its constants.
        source: reads images.
        teacher: on its device.
        batch_size: views per forward pass.
        skip_bad_images: whether an unreadable image becomes a hole; otherwise it ends the extraction.
        threads: CPU cores to use; None: all cores of this process, and torch's setting for the teacher.
        view_processes: processes that make views, each for one thread; 0: the threads make them. Views of an earlier
            cache are read by threads.
        reuse: an earlier cache to take samples or views from.
        encode_targets: replaces the encoder of the manifest's precision, in benchmarks.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        view: ViewRecipe,
        source: ImageSource,
        teacher: Teacher,
        *,
        batch_size: int,
        skip_bad_images: bool,
        threads: int | None = None,
        view_processes: int = 0,
        reuse: Reuse | None = None,
        encode_targets: EncodeTargets | None = None,
    ) -> None:
        self._root, self._manifest, self._batch_size = root, manifest, batch_size
        self._producer: ViewProducer = CroppedViews(source, view)
        self._samples: CopiedSamples | None = None
        if reuse is not None:
            self._producer, self._samples = reuse.open(manifest, self._producer)
        self._view_processes = view_processes if isinstance(self._producer, CroppedViews) else 0
        self._view_threads = self._view_processes or threads or len(os.sched_getaffinity(0))
        self._teacher_threads = TeacherThreads(teacher.mean.device, threads or torch.get_num_threads())
        self._streams = GPU_STREAMS if self._teacher_threads.on_gpu else CPU_STREAMS
        self._encoder = BatchEncoder(
            manifest, teacher, self._teacher_threads, skip_bad_images=skip_bad_images, encode=encode_targets
        )
        self._width, self._versions = teacher.width, content_versions(teacher.spec.library)
        if is_compiled(manifest.created_with):
            teacher.compile_forward()
            self._versions[FORWARD] = COMPILED

    def extract(self, tasks: Iterable[ShardTask | None]) -> Iterator[ShardEvent]:
        """Extract shards; yields ``ViewsDone`` after each batch and one ``ShardCommitted`` per seed of a shard.

        Args:
            tasks: shards, in order; None: no task at the moment, submitted work continues.

        Raises:
            SourceError: an image is gone or was replaced, or one is unreadable and bad images are not skipped.
            NumericalError: the teacher's features are not finite; names the sample.
            StorageError: the file system refuses an operation.
        """
        view_threads = ThreadPoolExecutor(self._view_threads, thread_name_prefix="lookonce-view")
        with self._view_maker() as maker, Pipeline(self._teacher_threads, view_threads, self._streams) as pipeline:
            for group in self._groups(tasks):
                if group:
                    yield from self._feed(pipeline, group, view_threads, maker)
                else:
                    yield from pipeline.advance()
            yield from pipeline.drain()

    def _groups(self, tasks: Iterable[ShardTask | None]) -> Iterator[list[ShardTask]]:
        """Shards that are extracted together, enough to fill the streams; an empty group when there is no task now."""
        group: list[ShardTask] = []
        for task in tasks:
            if task is not None:
                group.append(task)
            if task is None or sum(len(one.seeds) for one in group) >= self._streams:
                yield group
                group = []
        if group:
            yield group

    def _feed(
        self, pipeline: Pipeline, tasks: Sequence[ShardTask], view_threads: ThreadPoolExecutor, maker: ViewMaker
    ) -> Iterator[ShardEvent]:
        """Submit the batches of some shards, one batch of each shard in turn."""
        windows: list[list[tuple[OpenShard, Window]]] = []
        for task in tasks:
            copied = self._samples.find(task.rows, task.entries, task.seeds, view_threads) if self._samples else {}
            if copied:
                yield ViewsDone(shard=task.shard, seed=task.seeds[0], copied=len(copied) * len(task.seeds))
            shard = pipeline.open(
                OpenShard(
                    task.shard,
                    functools.partial(self._writer, task, copied),
                    task.seeds,
                    width=self._width,
                    versions=self._versions,
                )
            )
            computed = [index for index, row in enumerate(task.rows) if row not in copied]
            rows, entries = [task.rows[index] for index in computed], [task.entries[index] for index in computed]
            windows.append([(shard, one) for one in split_windows(rows, entries, task.seeds, self._batch_size)])
            if not rows:
                pipeline.complete(shard)
        order = [one for turn in itertools.zip_longest(*windows) for one in turn if one is not None]
        last = {id(shard): number for number, (shard, _) in enumerate(order)}
        make_views = functools.partial(self._make_views, view_threads, maker)
        batches = view_batches([window for _, window in order], make_views)
        for number, ((shard, window), batch) in enumerate(zip(order, batches, strict=True)):
            for position, seed in enumerate(window.seeds):
                pipeline.submit(shard, seed, functools.partial(self._encoder.encode, batch, position))
                yield from pipeline.settle()
            if last[id(shard)] == number:
                pipeline.complete(shard)

    def _view_maker(self) -> contextlib.AbstractContextManager[ViewMaker]:
        patch_size = self._manifest.recipe.patch_size
        if self._view_processes:
            return ViewProcesses(self._producer, patch_size, self._view_processes)
        return contextlib.nullcontext(ViewsInThread(self._producer, patch_size))

    def _make_views(self, view_threads: ThreadPoolExecutor, maker: ViewMaker, window: Window) -> ViewBatch:
        recipe = self._manifest.recipe
        return ViewBatch(
            window,
            maker,
            patch_size=recipe.patch_size,
            patches=recipe.patches,
            threads=view_threads,
            allocate=self._teacher_threads.allocate,
        )

    def _writer(self, task: ShardTask, copied: dict[int, int], seed: int) -> ShardWriter:
        root, manifest, shard = self._root, self._manifest, task.shard
        keys, labels = [entry.key for entry in task.entries], [entry.label for entry in task.entries]
        if self._samples is None or not copied:
            return ShardWriter(root, manifest, seed=seed, shard=shard, keys=keys, labels=labels)
        return MergingWriter(
            root, manifest, seed=seed, shard=shard, keys=keys, labels=labels, samples=self._samples, copied=copied
        )
