"""One batch of views of one seed: run through the teacher, encoded, and returned as the arrays to write."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce.cache.write.stored_moments import with_stored_moments
from lookonce.cache.write.stored_patches import stored_patch_ids
from lookonce.extract.pipeline.events import ThreadTimes
from lookonce.extract.pipeline.target_encoder import EncodedTargets, TargetEncoder
from lookonce.extract.pipeline.teacher_threads import ForwardTime, TeacherThreads
from lookonce.extract.sanity import find_nonfinite, refuse_nonfinite
from lookonce.extract.teachers import Teacher, TeacherOutput
from lookonce.extract.views.view_batch import SeedViews, UnreadableImage, ViewBatch
from lookonce.storage_schemas.arrays import JPEG
from lookonce.storage_schemas.manifest import Manifest

EncodeTargets = Callable[[Sequence[Tensor], Tensor | None], EncodedTargets]
"""See ``TargetEncoder.forward``."""


@dataclass(frozen=True)
class EncodedBatch:
    """The arrays to write of one batch and seed."""

    rows: list[int]
    """Rows of the readable images, ascending."""
    values: dict[str, NDArray[Any]]
    """Arrays by name, of length ``len(rows)``; empty without readable images. Mean and standard deviation of tokens are
    among them even if the cache does not store them, for its statistics."""
    saturated_share: float
    unreadable: list[UnreadableImage]
    time: ThreadTimes = field(default_factory=ThreadTimes)


class BatchEncoder:
    """Encodes batches in the threads of one teacher; thread-safe.

    Args:
        manifest: of the cache.
        teacher: on its device.
        teacher_threads: of the teacher.
        skip_bad_images: whether an unreadable image is left out and reported; otherwise its error is raised.
        encode: replaces the encoder of the manifest's precision, for benchmarks.
    """

    def __init__(
        self,
        manifest: Manifest,
        teacher: Teacher,
        teacher_threads: TeacherThreads,
        *,
        skip_bad_images: bool,
        encode: EncodeTargets | None = None,
    ) -> None:
        self._manifest, self._teacher, self._teacher_threads = manifest, teacher, teacher_threads
        self._skip_bad_images = skip_bad_images
        self._encode = encode or TargetEncoder(manifest.encoding).to(teacher.mean.device)
        self._thread_state = threading.local()

    def encode(self, batch: ViewBatch, position: int) -> EncodedBatch:
        """Wait for the views of a batch, run the teacher and encode; called in a teacher thread.

        Args:
            batch: the views.
            position: index of the seed in the batch.

        Raises:
            SourceError: an image is gone or was replaced, or one is unreadable and bad images are not skipped.
            NumericalError: the teacher's features are not finite; names the sample.
        """
        spent, started = ThreadTimes(), time.perf_counter()
        spent.write = started - getattr(self._thread_state, "ended", started)
        try:
            return self._encode_batch(batch, position, spent)
        finally:
            self._thread_state.ended = time.perf_counter()

    def _encode_batch(self, batch: ViewBatch, position: int, spent: ThreadTimes) -> EncodedBatch:
        started = time.perf_counter()
        views = batch.seed_views(position)
        spent.decode = time.perf_counter() - started
        if views.unreadable and not self._skip_bad_images:
            raise views.unreadable[0].problem
        if not views.rows:
            return EncodedBatch([], {}, 0.0, views.unreadable, spent)
        started, started_running = time.perf_counter(), time.thread_time()
        with torch.inference_mode(), self._teacher_threads.stream():
            output, forward = self._run_teacher(views)
            values, saturated_share = self._values(views, output, batch.window.seeds[position])
            spent.forward = forward.seconds() * (self._teacher_threads.count if self._teacher_threads.on_gpu else 1)
        spent.teacher = time.perf_counter() - started
        if not self._teacher_threads.on_gpu:
            spent.core_wait = max(0.0, spent.teacher - (time.thread_time() - started_running))
        return EncodedBatch(views.rows, values, saturated_share, views.unreadable, spent)

    def _run_teacher(self, views: SeedViews) -> tuple[TeacherOutput, ForwardTime]:
        patches = self._teacher_threads.to_device(torch.from_numpy(views.patches))
        pixels = join_patches(patches, self._manifest.recipe.patch_size)
        with self._teacher_threads.forward() as spent:
            output: TeacherOutput = self._teacher(pixels)
        return output, spent

    def _values(self, views: SeedViews, output: TeacherOutput, seed: int) -> tuple[dict[str, NDArray[Any]], float]:
        recipe, teacher_threads, patches = self._manifest.recipe, self._teacher_threads, views.patches
        importance, ids, kept = teacher_threads.to_host(output.importance), None, None
        if not recipe.tokens.keeps_all:
            teacher_threads.wait()
            refuse_nonfinite(find_nonfinite(importance), views.keys, seed)
            ids = stored_patch_ids(recipe.tokens, importance.numpy(), views.keys, seed)
            kept = torch.from_numpy(np.pad(ids + 1, ((0, 0), (1, 0)))).to(output.importance.device)
            patches = np.take_along_axis(patches, ids[..., None], axis=1)
        encoded = self._encode(output.hidden, kept)
        arrays = {**encoded.arrays, "target_mean": encoded.mean, "target_std": encoded.std}
        on_host = {name: teacher_threads.to_host(tensor) for name, tensor in arrays.items()}
        nonfinite, saturated = teacher_threads.to_host(encoded.nonfinite), teacher_threads.to_host(encoded.saturated)
        teacher_threads.wait()
        refuse_nonfinite(nonfinite | find_nonfinite(importance), views.keys, seed)
        values: dict[str, NDArray[Any]] = {name: tensor.numpy() for name, tensor in on_host.items()}
        values |= {"importance": importance.numpy(), "pixel_digest": views.digests, "view": views.parameters}
        if ids is not None:
            values["patch_ids"] = ids.astype(np.uint16)
        if self._manifest.pixels == "store":
            values["pixels"] = patches
        elif self._manifest.pixels == "jpeg":
            values[JPEG] = views.jpegs
        return with_stored_moments(values, self._manifest, views.keys, seed), int(saturated) / encoded.judged


def join_patches(patches: Tensor, patch_size: int) -> Tensor:
    """Images from their patches, on the device of the patches; see ``lookonce.shared.patches.unpatchify``.

    Args:
        patches: uint8 (B, N, patch_size * patch_size * 3), N a square number.
        patch_size: side of a patch, pixels.

    Returns:
        uint8 (B, side, side, 3).
    """
    count, grid = len(patches), math.isqrt(patches.shape[1])
    rows = patches.view(count, grid, grid, patch_size, patch_size * 3).transpose(2, 3)
    return rows.reshape(count, grid * patch_size, grid * patch_size, 3)
