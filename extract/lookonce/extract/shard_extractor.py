"""One shard, start to end: decode, view, teacher, encode, write; the same code in a Ray worker and inline."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lookonce.cache.stored_patches import stored_patch_ids
from lookonce.cache.writer import ShardWriter
from lookonce.extract.image_views import CutViews, ImageViews, ViewProducer, batches_of_views
from lookonce.extract.sanity import ShardStatistics, check_finite
from lookonce.extract.target_encoder import TargetEncoder
from lookonce.extract.teachers import Teacher, TeacherFeatures
from lookonce.extract.versions import content_versions
from lookonce.shared.patches import patchify
from lookonce.shared.sources import ImageSource, ListingEntry
from lookonce.shared.views import ViewRecipe, pixel_digest
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt


@dataclass(frozen=True)
class ShardTask:
    """The rows of one shard, for all seeds that still lack it."""

    shard: int
    seeds: tuple[int, ...]
    rows: range
    entries: tuple[ListingEntry, ...]


@dataclass
class BatchProgress:
    """What one batch took; travels from workers to the driver, a few bytes."""

    views: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "teacher": 0.0, "write": 0.0})
    """Wall seconds the worker spent waiting for decoded views, in the teacher, and encoding and writing."""


class ShardExtractor:
    """Extracts shards with one teacher.

    Args:
        root: the cache folder.
        manifest: what the cache is.
        view: the view recipe of the manifest, with its constants.
        source: where images are read.
        teacher: loaded teacher, already on its device.
        batch_size: views a forward.
        skip_bad_images: whether an unreadable image becomes a hole; otherwise it ends the extraction.
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
    ) -> None:
        self._root, self._manifest, self._teacher = root, manifest, teacher
        self._producer: ViewProducer = CutViews(source, view)
        self._batch_size, self._skip = batch_size, skip_bad_images
        self._encode = TargetEncoder(manifest.encoding).to(teacher.mean.device)
        self._threads = max(1, min(8, len(os.sched_getaffinity(0))))

    def extract(self, task: ShardTask) -> Iterator[BatchProgress | Receipt]:
        """Extract one shard for all its seeds; yields progress after each batch and, last, a receipt a seed.

        Raises:
            SourceError: an image is gone or was replaced, or one is unreadable and bad images are not skipped.
            NumericalError: the teacher's features are not finite; names the sample.
            StorageError: the file system refused.
        """
        keys, labels = [e.key for e in task.entries], [e.label for e in task.entries]
        statistics = {seed: ShardStatistics() for seed in task.seeds}
        with ExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(self._threads))
            stack.callback(threads.shutdown, cancel_futures=True)  # when stopped, decode nothing more
            writers = {
                seed: stack.enter_context(
                    ShardWriter(self._root, self._manifest, seed=seed, shard=task.shard, keys=keys, labels=labels)
                )
                for seed in task.seeds
            }
            batches = batches_of_views(task.rows, task.entries, self._producer, task.seeds, self._batch_size, threads)
            clock = time.perf_counter()
            for batch in batches:
                progress = BatchProgress()
                clock = _lap(progress, "decode", clock)
                good = self._without_problems(batch, writers)
                for position, seed in enumerate(task.seeds):
                    if good:
                        pixels = np.stack([views.pixels[position] for views in good if views.pixels is not None])
                        features = self._teacher.look(torch.from_numpy(pixels).to(self._device))
                        clock = _lap(progress, "teacher", clock)
                        rows = [views.row for views in good]
                        chosen = [keys[row - task.rows.start] for row in rows]
                        check_finite(features, chosen, seed)
                        parameters = np.stack([v.parameters[position] for v in good if v.parameters is not None])
                        self._append(writers[seed], rows, chosen, seed, pixels, parameters, features, statistics[seed])
                        clock = _lap(progress, "write", clock)
                progress.views = len(batch) * len(task.seeds)
                yield progress
            versions = content_versions(self._teacher.spec.library)
            for seed, writer in writers.items():
                yield writer.commit(statistics=statistics[seed].document(), versions=versions)

    @property
    def _device(self) -> torch.device:
        return self._teacher.mean.device

    def _without_problems(self, batch: Sequence[ImageViews], writers: dict[int, ShardWriter]) -> list[ImageViews]:
        for views in batch:
            if views.problem is not None:
                if not self._skip:
                    raise views.problem
                for writer in writers.values():
                    writer.leave_out(views.row, str(views.problem))
        return [views for views in batch if views.problem is None]

    def _append(
        self,
        writer: ShardWriter,
        rows: list[int],
        keys: list[str],
        seed: int,
        pixels: NDArray[np.uint8],
        parameters: NDArray[np.int32],
        features: TeacherFeatures,
        statistics: ShardStatistics,
    ) -> None:
        recipe, importance = self._manifest.recipe, features.importance.cpu().numpy()
        patches = patchify(pixels, recipe.patch_size)
        targets, mean, std = features.targets, features.mean, features.std
        values: dict[str, NDArray[Any]] = {
            "importance": importance,
            "pixel_digest": np.stack([pixel_digest(one) for one in patches]),
            "view": parameters,
        }
        if not recipe.tokens.whole:
            ids = stored_patch_ids(recipe.tokens, importance, keys, seed)
            kept = torch.from_numpy(np.pad(ids + 1, ((0, 0), (1, 0)))).to(targets.device)
            samples = torch.arange(len(kept), device=targets.device)[:, None]
            targets, mean, std = targets[samples, kept], mean[samples, kept], std[samples, kept]
            patches = np.take_along_axis(patches, ids[..., None], axis=1)
            values["patch_ids"] = ids.astype(np.uint16)
        stored, saturated_share = self._encode(targets)
        values["targets"] = stored.cpu().numpy()
        values["target_mean"], values["target_std"] = mean.cpu().numpy(), std.cpu().numpy()
        if self._manifest.stores_pixels:
            values["pixels"] = patches
        statistics.add(values, saturated_share, self._teacher.width)
        writer.append(rows, values)


def _lap(progress: BatchProgress, name: str, since: float) -> float:
    now = time.perf_counter()
    progress.seconds[name] += now - since
    return now
