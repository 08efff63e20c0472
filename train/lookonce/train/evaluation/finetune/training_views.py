"""Augmented training images by timm's own transforms, prepared in other processes, each a function of seed and key."""

from __future__ import annotations

import errno
import multiprocessing
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.queues import Queue, SimpleQueue
from typing import Any

import torch
from PIL import Image
from timm.data import auto_augment
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lookonce.shared.errors import LookonceError
from lookonce.shared.faults.machine_errors import machine_error, shared_memory_error
from lookonce.shared.normalisation import IMAGENET, Normalisation
from lookonce.shared.stopping import raise_if_stopped
from lookonce.train.evaluation.finetune.finetune_config import FinetuneConfig
from lookonce.train.evaluation.finetune.seeded import seeded_generators
from lookonce.train.evaluation.fit_schedule import FitSchedule
from lookonce.train.evaluation.labelled_images import LabelledSplit

AUGMENTATION_VERSION = 1
"""Raised whenever the same seed, epoch and key would give timm's transforms other random numbers."""

LOOK = 1.0
"""Seconds of waiting for a batch between two looks at what may have gone wrong."""

Place = tuple[int, int]
"""Epoch and place in the listing of one image of a batch."""


class TrainingViews(Dataset[tuple[Tensor, int] | LookonceError]):
    """Random crop, flip, RandAugment, normalisation, random erasing: timm's ``create_transform``.

    Args:
        split: images with labels.
        view_size: side of a view, pixels.
        config: how much is augmented.
        normalisation: of the pixels.
    """

    def __init__(
        self, split: LabelledSplit, view_size: int, config: FinetuneConfig, normalisation: Normalisation = IMAGENET
    ) -> None:
        self.split, self.seed = split, config.seed
        self.labels: list[int] = split.labels.tolist()
        create: Any = create_transform  # timm's own annotation lacks that color_jitter may be None
        self.transform = create(
            input_size=view_size,
            is_training=True,
            interpolation="bicubic",
            color_jitter=None,
            auto_augment=None if config.rand_augment == "none" else config.rand_augment,
            re_prob=config.random_erasing,
            re_mode="pixel",
            re_count=1,
            mean=normalisation.mean,
            std=normalisation.std,
        )
        for step in self.transform.transforms:
            for operation in getattr(step, "ops", ()):
                if operation.aug_fn is auto_augment.posterize:
                    operation.aug_fn = _posterize

    def __getitem__(self, place: Place) -> tuple[Tensor, int] | LookonceError:
        """Normalised pixels, float32 (3, view, view), and class; or why there are none."""
        epoch, row = place
        key = self.split.listing.entries[row].key
        drawn = seeded_generators("finetune view", AUGMENTATION_VERSION, self.seed, epoch, key)
        try:
            with self.split.image(row) as image, drawn:
                return self.transform(image), self.labels[row]
        except LookonceError as error:  # torch would wrap one that is raised in another process into its own text
            return error


def _posterize(image: Image.Image, bits_to_keep: int, **others: Any) -> Image.Image:
    """timm's, which at full magnitude keeps 0 bits: black, as it always was, where Pillow 13 refuses."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    posterized: Image.Image = auto_augment.posterize(image, bits_to_keep, **others)
    return posterized


def training_batches(
    views: TrainingViews, schedule: FitSchedule, first: int, *, even: bool, workers: int, device: torch.device
) -> Generator[tuple[Tensor, Tensor]]:
    """Pixels (B, 3, view, view) and labels int64 (B,) of all steps from ``first`` on, on the device.

    Args:
        views: makes an image's view.
        schedule: which images a step has.
        first: 0-based step.
        even: of an odd number of images, leave the last one out (mixing is of pairs).
        workers: processes that prepare images; 0 prepares them in this one. The batches are the same.
        device: where the batches go.

    Raises:
        SourceError: an image cannot be read.
        MachineError: a process that prepares images died or failed.
        Interrupted: a signal came, and no batch for some seconds behind it.
    """
    try:
        failures: SimpleQueue[str] | None = multiprocessing.SimpleQueue() if workers else None
        loader: DataLoader[Any] = DataLoader(
            views,
            batch_sampler=_Places(schedule, first, even=even),
            collate_fn=_collate,
            num_workers=workers,
            worker_init_fn=partial(_begin_worker, failures),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),
            timeout=LOOK if workers else 0.0,
        )
        batches = iter(loader)
    except OSError as error:
        if workers and error.errno == errno.ENOSPC:  # semaphores between processes lie in shared memory
            raise shared_memory_error(error, _Flags()) from error
        raise
    while True:
        batch = _next(batches, failures)
        if batch is None:
            return
        if isinstance(batch, LookonceError):
            raise batch
        pixels, labels = batch
        yield pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _next(batches: Iterator[Any], failures: SimpleQueue[str] | None) -> Any:
    """The next batch, None behind the last; looks now and then whether a process failed, and for a signal."""
    began = time.monotonic()
    while True:
        try:
            return next(batches, None)
        except RuntimeError as error:
            failed = None if failures is None or failures.empty() else RuntimeError(failures.get())
            if failed is None and "timed out" in str(error):
                raise_if_stopped(began)
                continue
            raise machine_error(failed or error, _Flags()) or failed or error from error


@dataclass(frozen=True)
class _Flags:
    """Flags that help where such a process fails."""

    workers: None = None


class _Places:
    """Batches of (epoch, place in the listing), step by step."""

    def __init__(self, schedule: FitSchedule, first: int, *, even: bool) -> None:
        self.schedule, self.first, self.even = schedule, first, even

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.first, self.schedule.total_steps):
            rows = self.schedule.rows(step).tolist()
            if self.even and len(rows) % 2:
                rows.pop()
            yield [(self.schedule.epoch(step), row) for row in rows]

    def __len__(self) -> int:
        return self.schedule.total_steps - self.first


def _collate(items: Sequence[tuple[Tensor, int] | LookonceError]) -> tuple[Tensor, Tensor] | LookonceError:
    made: list[tuple[Tensor, int]] = []
    for item in items:
        if isinstance(item, LookonceError):
            return item
        made.append(item)
    return torch.stack([pixels for pixels, _ in made]), torch.tensor([label for _, label in made])


def _begin_worker(failures: SimpleQueue[str] | None, _worker: int) -> None:
    """A terminal's Ctrl-C reaches every process; only the parent stops on it, once its step is whole.

    What a worker makes is handed over by a thread of it, which only prints what goes wrong, as where shared memory is
    full; the parent would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def fail(error: Exception, _item: object) -> None:
        if failures is not None:
            failures.put(str(error))

    Queue._on_queue_feeder_error = staticmethod(fail)  # type: ignore[attr-defined]  # made to be replaced
