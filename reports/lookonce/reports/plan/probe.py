"""Times a few seconds of the real work, to estimate the whole; writes nothing."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lookonce.clusters.extraction.resources import WorkerResources
from lookonce.extract.pipeline.target_encoder import TargetEncoder
from lookonce.extract.prepare import Extraction, resolve_batch_size
from lookonce.extract.teachers import Teacher, TeacherFeatures
from lookonce.extract.views.image_views import ImageViews, image_views
from lookonce.reports.plan.planned_sizes import stand_in_encoding
from lookonce.shared.config_values import parse_seeds
from lookonce.shared.errors import SourceError
from lookonce.shared.patches import patchify
from lookonce.shared.randomness import random_uniform
from lookonce.shared.views import pixel_digest
from lookonce.storage_schemas.precision import TargetShape

MOST_IMAGES = 512
LEAST_IMAGES, LEAST_JPEGS = 2, 64
"""Images that are decoded however long it takes; more for the mean size of JPEGs."""

SEEDS_PROBED = 16
"""As many as a task extracts together: the image is decoded once for them."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Measured cost per view."""

    images: int
    """Images that were decoded."""
    unreadable: int
    """Images that could not be."""
    forwards: int
    """Forward passes that were timed."""
    batch: int
    """Views of each."""
    threads: int
    """CPU threads of a worker's forward; 0 when it runs on a GPU."""
    view_seconds: float
    """Seconds of one core to read and decode an image and crop a view; the seeds share the decoding."""
    teacher_seconds: float
    """Seconds of a worker in the teacher, its outputs normalised."""
    core_wait: float
    """Share of them spent waiting for a CPU core, 0 to 1, which is large while other programs run; 0 on a GPU."""
    encode_seconds: float
    """Seconds of a worker to encode the teacher's output."""
    write_seconds: float
    """Seconds of one core to cut the view in patches and to digest all that is written."""
    jpegs: tuple[int, ...] = ()
    """Bytes of the JPEGs of the views that were made; empty if views are no JPEGs."""

    @property
    def jpeg_bytes(self) -> float:
        """Mean bytes of a view's JPEG; 0 if views are no JPEGs."""
        return statistics.fmean(self.jpegs) if self.jpegs else 0.0

    @property
    def jpeg_error(self) -> float:
        """Standard error of ``jpeg_bytes``."""
        return statistics.pstdev(self.jpegs) / max(1, len(self.jpegs) - 1) ** 0.5 if self.jpegs else 0.0

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        facts = {name: value for name, value in asdict(self).items() if name != "jpegs"}
        return {
            **facts,
            "jpeg_views": len(self.jpegs),
            "jpeg_bytes": self.jpeg_bytes,
            "jpeg_bytes_standard_error": self.jpeg_error,
        }

    def extraction_seconds(self, workers: WorkerResources) -> float:
        """Seconds per view of all workers together, if everything overlaps."""
        device = self.teacher_seconds + self.encode_seconds
        return self._together(workers, device, self.view_seconds + self.write_seconds)

    def online_seconds(self, workers: WorkerResources, *, with_views: bool) -> float:
        """Seconds per view and epoch of an online teacher on the same workers.

        Args:
            workers: as for the extraction.
            with_views: whether decoding and cropping count, which a cache with pixels also saves.
        """
        return self._together(workers, self.teacher_seconds, self.view_seconds if with_views else 0.0)

    def _together(self, workers: WorkerResources, device: float, cores: float) -> float:
        """The slower of the workers' devices and of their cores; a forward pass on the CPU also takes cores."""
        return max(device / workers.workers, (device * self.threads + cores) / workers.cores)


def probe(extraction: Extraction, teacher: Teacher, workers: WorkerResources, *, seconds: float) -> Probe:
    """Time decoding, teacher, encoding and digesting on images drawn from the whole listing.

    Args:
        extraction: the extraction to estimate.
        teacher: on its device.
        workers: what each has; the forward runs in as many threads.
        seconds: about how long, all together; at least two rounds of everything are run however long they take.

    Raises:
        SourceError: an image is gone, or none of those that were tried can be read.
    """
    device = teacher.mean.device
    before = torch.get_num_threads()
    if extraction.config.executor == "ray" and device.type == "cpu":
        torch.set_num_threads(workers.cpus)  # as a worker does
    try:
        pixels, images, unreadable, view_seconds, jpegs = _time_views(extraction, seconds * 0.4)
        batch, teacher_times, core_wait, features = _time_teacher(extraction, teacher, pixels, seconds * 0.4)
        threads = 0 if device.type == "cuda" else torch.get_num_threads()
        torch.set_num_threads(1)  # a teacher thread encodes on one core while others run
        encode_seconds, write_seconds = _time_writing(extraction, features, pixels, seconds * 0.2)
    finally:
        torch.set_num_threads(before)
    return Probe(
        images=images,
        unreadable=unreadable,
        forwards=len(teacher_times),
        batch=batch,
        threads=threads,
        view_seconds=view_seconds,
        teacher_seconds=statistics.median(teacher_times) / batch,
        core_wait=core_wait,
        encode_seconds=encode_seconds / max(1, threads),
        write_seconds=write_seconds,
        jpegs=jpegs,
    )


def _time_views(extraction: Extraction, seconds: float) -> tuple[NDArray[np.uint8], int, int, float, tuple[int, ...]]:
    """Views (one per readable image), images tried and unreadable, seconds of a core per view, and bytes of JPEGs."""
    entries, seeds = extraction.listing.entries, parse_seeds(extraction.config.seeds)[:SEEDS_PROBED]
    drawn = (random_uniform(MOST_IMAGES, "plan") * len(entries)).astype(int).tolist()
    rows = list(dict.fromkeys(drawn))

    def crop(row: int) -> ImageViews:
        return image_views(row, entries[row], extraction.source, extraction.view, seeds)

    least = LEAST_IMAGES if extraction.view.jpeg_quality is None else LEAST_JPEGS
    crop(rows[0])  # warm: imports, file handles
    found: list[ImageViews] = []
    started, deadline = time.thread_time(), time.perf_counter() + seconds
    for row in rows:
        found.append(crop(row))
        if time.perf_counter() > deadline and len(found) >= least:
            break
    spent = time.thread_time() - started
    good = [views.pixels[0] for views in found if views.pixels is not None]
    if not good:
        reason = next(views.problem for views in found if views.problem is not None)
        raise SourceError(f"none of the {len(found)} images that were tried can be read; the first: {reason}")
    jpegs = tuple(len(jpeg) for views in found for jpeg in views.jpegs or ())
    return np.stack(good), len(found), len(found) - len(good), spent / (len(found) * len(seeds)), jpegs


def _time_teacher(
    extraction: Extraction, teacher: Teacher, pixels: NDArray[np.uint8], seconds: float
) -> tuple[int, list[float], float, TeacherFeatures]:
    """Views per forward pass, seconds of each pass, share of them without a core, and the features of the last one."""
    device = teacher.mean.device

    def forward(count: int) -> tuple[float, TeacherFeatures]:
        views = torch.from_numpy(np.resize(pixels, (count, *pixels.shape[1:])))
        return _timed(lambda: teacher.extract(views.to(device)), device)

    forward(1)  # warm
    most = min(resolve_batch_size(extraction.config.batch_size, device), len(extraction.listing))
    batch, (spent, features) = 1, forward(1)
    while batch < most and spent * 2 <= seconds:  # a slow teacher gets fewer views, rather than minutes of probing
        batch = min(2 * batch, most)  # a pass of few views may cost as much as one of many, above all on busy cores
        spent, features = forward(batch)
    times: list[float] = []
    deadline, started_running = time.perf_counter() + seconds, time.thread_time()
    while len(times) < 2 or time.perf_counter() < deadline:
        spent, features = forward(batch)
        times.append(spent)
    running = time.thread_time() - started_running
    return batch, times, 0.0 if device.type == "cuda" else max(0.0, 1 - running / sum(times)), features


def _time_writing(
    extraction: Extraction, features: TeacherFeatures, pixels: NDArray[np.uint8], seconds: float
) -> tuple[float, float]:
    """Seconds per view of the device, or of a core, to encode, and of a core to cut patches and digest."""
    config, device = extraction.config, features.targets.device
    patches = (config.view_size // config.patch_size) ** 2
    kept = 1 + config.token_subset.stored_patches(patches)
    targets = features.targets[:, :kept].contiguous()
    shape = TargetShape(
        patches=kept - 1,
        layers=targets.shape[2],
        channels=targets.shape[3],
        all_patches=config.token_subset.keeps_all,
    )
    encode = TargetEncoder(stand_in_encoding(config.precision, shape)).to(device)
    views = np.resize(pixels, (len(targets), *pixels.shape[1:]))
    encode_times: list[float] = []
    write_times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(write_times) < 2 or time.perf_counter() < deadline:
        spent, stored = _timed(
            lambda: [array.cpu().numpy() for array in encode.encode_targets(targets).values()], device
        )
        encode_times.append(spent)
        started = time.thread_time()
        cut = patchify(views, config.patch_size)
        digests = [pixel_digest(one) for one in cut]
        written = [*stored, *digests, *([cut[:, : kept - 1]] if config.pixels == "store" else [])]
        for values in written:
            hashlib.sha256(np.ascontiguousarray(values).view(np.uint8).data).digest()
        write_times.append(time.thread_time() - started)
    return statistics.median(encode_times) / len(targets), statistics.median(write_times) / len(targets)


def _timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Wall seconds of some work on a device, and its result."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result
