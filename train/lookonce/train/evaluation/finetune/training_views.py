"""Training images augmented by timm's transforms in other processes; each is a function of seed, epoch and key."""

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
"""Incremented whenever the same seed, epoch and key would give timm's transforms other random numbers."""

POLL_SECONDS = 1.0
"""Time between two checks for failed processes and signals while a batch is awaited."""

Place = tuple[int, int]
"""Epoch and position in the listing of one image of a batch."""


class TrainingViews(Dataset[tuple[Tensor, int] | LookonceError]):
    """Random crop, flip, RandAugment, normalisation, random erasing: timm's ``create_transform``.

    Args:
        split: images with labels.
        view_size: side of a view, pixels.
        config: strength of the augmentation.
        normalisation: normalisation of the pixels.
    """

    def __init__(
        self, split: LabelledSplit, view_size: int, config: FinetuneConfig, normalisation: Normalisation = IMAGENET
    ) -> None:
        self.split, self.seed = split, config.seed
        self.labels: list[int] = split.labels.tolist()
        create: Any = create_transform  # timm's annotation lacks that color_jitter may be None
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
        """Normalised pixels, float32 (3, view, view), and class; or the error."""
        epoch, row = place
        key = self.split.listing.entries[row].key
        drawn = seeded_generators("finetune view", AUGMENTATION_VERSION, self.seed, epoch, key)
        try:
            with self.split.image(row) as image, drawn:
                return self.transform(image), self.labels[row]
        except LookonceError as error:  # raised in a worker process, torch would wrap it into a text of its own
            return error


def _posterize(image: Image.Image, bits_to_keep: int, **others: Any) -> Image.Image:
    """timm's ``posterize``. At full magnitude it keeps 0 bits, which gives black; Pillow 13 refuses 0 bits."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    posterized: Image.Image = auto_augment.posterize(image, bits_to_keep, **others)
    return posterized


def training_batches(
    views: TrainingViews, schedule: FitSchedule, first: int, *, even: bool, workers: int, device: torch.device
) -> Generator[tuple[Tensor, Tensor]]:
    """Pixels (B, 3, view, view) and labels int64 (B,) of all steps from ``first`` on, on the device.

    Args:
        views: the augmented images.
        schedule: the images of every step.
        first: 0-based first step.
        even: drop the last image of a batch of odd size (mixing needs pairs).
        workers: processes that prepare images; 0 for this one. The batches do not depend on it.
        device: device of the batches.

    Raises:
        SourceError: an image cannot be read.
        MachineError: a process that prepares images died or failed.
        Interrupted: a signal arrived, and no batch followed for some seconds.
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
            timeout=POLL_SECONDS if workers else 0.0,
        )
        batches = iter(loader)
    except OSError as error:
        if workers and error.errno == errno.ENOSPC:  # semaphores between processes need shared memory
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
    """The next batch, None after the last; checks regularly for failed processes and signals."""
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
    """Flags that a message about a failed process may recommend."""

    workers: None = None


class _Places:
    """Batches of (epoch, position in the listing), step by step."""

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
    """Set up a worker process: it ignores Ctrl-C, which only the parent handles, after its step.

    A thread of the worker passes the images on. When shared memory is full, it only prints the error, and the parent
    would wait for ever. So the error is put into ``failures`` instead.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def fail(error: Exception, _item: object) -> None:
        if failures is not None:
            failures.put(str(error))

    Queue._on_queue_feeder_error = staticmethod(fail)  # type: ignore[attr-defined]  # made to be replaced
