"""One batch of views of one seed: through the teacher, encoded, and back as the arrays that are written."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lookonce.cache.stored_patches import stored_patch_ids
from lookonce.extract.image_views import ImageViews
from lookonce.extract.lanes import Lanes
from lookonce.extract.sanity import find_unbounded, refuse_unbounded
from lookonce.extract.target_encoder import TargetEncoder
from lookonce.extract.teachers import Teacher, TeacherOutput
from lookonce.shared.patches import patchify
from lookonce.shared.views import pixel_digest
from lookonce.storage_schemas.manifest import Manifest


@dataclass
class LaneTime:
    """Where a lane's time went, seconds."""

    decode: float = 0.0
    """Waiting for views."""
    teacher: float = 0.0
    """In the teacher, encoding, and copying to and from the device."""
    write: float = 0.0
    """Waiting for batches before this one to be written."""
    forward: float = 0.0
    """What the bare forward took: CPU time of the lane on CPUs, time alone on the device on a GPU."""

    def __add__(self, other: LaneTime) -> LaneTime:
        return LaneTime(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def shares(self) -> dict[str, float]:
        """``decode``, ``teacher`` and ``write`` as shares of their sum, 0..1; empty when there is no time."""
        parts = {"decode": self.decode, "teacher": self.teacher, "write": self.write}
        total = sum(parts.values())
        return {name: round(spent / total, 4) for name, spent in parts.items()} if total else {}


@dataclass(frozen=True)
class EncodedBatch:
    """What is written of one batch and seed."""

    rows: list[int]
    """Of the views that there are, ascending."""
    values: dict[str, NDArray[Any]]
    """Arrays by name, length ``len(rows)``; empty when there is no view."""
    saturated_share: float
    problems: list[ImageViews]
    """Images that cannot be read."""
    time: LaneTime = field(default_factory=LaneTime)


class BatchEncoder:
    """Encodes batches in the lanes of one teacher; thread-safe.

    Args:
        manifest: what the cache is.
        teacher: loaded teacher, already on its device.
        lanes: its lanes.
        skip_bad_images: whether an unreadable image is reported as a problem; otherwise it is raised.
    """

    def __init__(self, manifest: Manifest, teacher: Teacher, lanes: Lanes, *, skip_bad_images: bool) -> None:
        self._manifest, self._teacher, self._lanes, self._skip = manifest, teacher, lanes, skip_bad_images
        self._encode = TargetEncoder(manifest.encoding).to(teacher.mean.device)
        self._lane = threading.local()

    def encode(
        self, batch: Sequence[Future[ImageViews]], keys: Sequence[str], position: int, seed: int
    ) -> EncodedBatch:
        """Wait for the views of a batch and make of them what is written; runs in a lane.

        Args:
            batch: the views being made, one image each.
            keys: their sample keys.
            position: which of the views of each image.
            seed: the augmentation seed there.

        Raises:
            SourceError: an image is gone or was replaced, or one is unreadable and bad images are not skipped.
            NumericalError: the teacher's features are not finite; names the sample.
        """
        spent, started = LaneTime(), time.perf_counter()
        spent.write = started - getattr(self._lane, "ended", started)
        try:
            return self._encode_batch(batch, keys, position, seed, spent)
        finally:
            self._lane.ended = time.perf_counter()

    def _encode_batch(
        self,
        batch: Sequence[Future[ImageViews]],
        keys: Sequence[str],
        position: int,
        seed: int,
        spent: LaneTime,
    ) -> EncodedBatch:
        started = time.perf_counter()
        images = [future.result() for future in batch]
        spent.decode = time.perf_counter() - started
        problems = [views for views in images if views.problem is not None]
        if problems and problems[0].problem is not None and not self._skip:
            raise problems[0].problem
        good = [(key, views) for key, views in zip(keys, images, strict=True) if views.problem is None]
        if not good:
            return EncodedBatch([], {}, 0.0, problems, spent)
        started = time.perf_counter()
        pixels = np.stack([views.pixels[position] for _, views in good if views.pixels is not None])
        chosen = [key for key, _ in good]
        with torch.inference_mode(), self._lanes.stream():
            output = self._look(pixels, spent)
            values, saturated_share = self._values(pixels, output, chosen, seed)
        values["view"] = np.stack([views.parameters[position] for _, views in good if views.parameters is not None])
        spent.teacher = time.perf_counter() - started
        return EncodedBatch([views.row for _, views in good], values, saturated_share, problems, spent)

    def _look(self, pixels: NDArray[np.uint8], spent: LaneTime) -> TeacherOutput:
        views = self._lanes.to_device(torch.from_numpy(pixels))
        clock = time.thread_time if views.is_cpu else time.perf_counter
        with self._lanes.turn():
            started = clock()
            output: TeacherOutput = self._teacher(views)
            self._lanes.wait()
            spent.forward = clock() - started
        return output

    def _values(
        self, pixels: NDArray[np.uint8], output: TeacherOutput, keys: Sequence[str], seed: int
    ) -> tuple[dict[str, NDArray[Any]], float]:
        recipe, lanes = self._manifest.recipe, self._lanes
        patches = patchify(pixels, recipe.patch_size)
        digests = np.stack([pixel_digest(one) for one in patches])
        importance, ids, kept = lanes.to_host(output.importance), None, None
        if not recipe.tokens.whole:
            lanes.wait()
            refuse_unbounded(find_unbounded(importance), keys, seed)
            ids = stored_patch_ids(recipe.tokens, importance.numpy(), keys, seed)
            kept = torch.from_numpy(np.pad(ids + 1, ((0, 0), (1, 0)))).to(output.importance.device)
            patches = np.take_along_axis(patches, ids[..., None], axis=1)
        encoded = self._encode(output.hidden, kept)
        arrays = {"targets": encoded.stored, "target_mean": encoded.mean, "target_std": encoded.std}
        on_host = {name: lanes.to_host(tensor) for name, tensor in arrays.items()}
        unbounded, saturated = lanes.to_host(encoded.unbounded), lanes.to_host(encoded.saturated)
        lanes.wait()
        refuse_unbounded(unbounded | find_unbounded(importance), keys, seed)
        values: dict[str, NDArray[Any]] = {name: tensor.numpy() for name, tensor in on_host.items()}
        values |= {"importance": importance.numpy(), "pixel_digest": digests}
        if ids is not None:
            values["patch_ids"] = ids.astype(np.uint16)
        if self._manifest.stores_pixels:
            values["pixels"] = patches
        stored_values = encoded.mean.numel() * self._teacher.width
        return values, int(saturated) / stored_values
