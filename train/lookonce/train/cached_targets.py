"""Caches as an iterable of training batches, for your own trainer: plain PyTorch, Lightning, Accelerate.

The batches are those of ``train-student`` with the same seed, masks and batch size. One iteration is the whole run:
batches are cut from the concatenated epochs, and a batch may cross the border of two epochs.
"""

# Shapes: B samples of this process, k visible patches, n = 1 + k tokens (class token first), L aligned levels of a
#         teacher, C its channels.

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lookonce.shared.errors import CheckpointError, UsageError
from lookonce.storage_schemas.recipe import TeacherIdentity, document_differences
from lookonce.train.checkpoints.resuming import LATER_RECORDED
from lookonce.train.data.batch import Batch
from lookonce.train.data.device_copies import DeviceCopies
from lookonce.train.data.joined_caches import open_caches
from lookonce.train.data.prefetch import prefetched_batches
from lookonce.train.data.sample_order import batch_parts
from lookonce.train.data.target_decoder import decode_targets, make_decoder
from lookonce.train.data.training_input import TrainingInput
from lookonce.train.model.alignment_config import AlignmentConfig
from lookonce.train.model.layer_weights import aligned_blocks
from lookonce.train.names import CheckName, MaskName, ReadaheadName, TargetNorm

STATE_VERSION = 1


class TargetBatch(TypedDict):
    """One process's part of a global batch, on the device; a plain dict, which every trainer can move."""

    visible_pixels: Tensor
    """uint8 (B, k, patch size squared * 3), the input of ``Student``."""
    visible_ids: Tensor
    """int64 (B, k), ascending patch numbers."""
    targets: list[Tensor]
    """Per cache, float32 (B, n, L, C): its ``teacher_blocks`` in the wanted norm."""
    share: float
    """Share of the global batch in this part, 1 with one process. If gradients are averaged over processes,
    ``loss * share * world_size`` is exact: parts of an uneven batch differ by one sample."""
    step: int
    """0-based number of the global batch."""
    epoch: int
    """0-based epoch of its first sample."""


class CachedTargets(IterableDataset[TargetBatch]):
    """The input of students and alignments, batch by batch, from one cache or several over the same views.

    Args:
        shards: cache folders.
        batch_size: samples per step, over all processes.
        epochs: times every sample is seen; augmentation seeds rotate over epochs.
        alignment: its ``layer_weights`` select the teacher blocks, its ``target_norm`` the norm of the targets.
        mask: ``attentive``, ``random`` or ``hide-attentive``; None for the cache's, or attentive.
        mask_ratio: share of hidden patches; None for the cache's, or 0.7.
        seeds: augmentation seeds to use; None for those that are complete in every cache.
        seed: seed of order and masks.
        images: image source, for caches made with ``--pixels none``.
        rank: number of this process.
        world_size: number of processes; each gets its part of every global batch.
        device: device of the batches.
        threads: threads that read batches ahead.
        check: when a shard's bytes are checked against their digest.
        readahead: announcement of batches to the kernel, see ``CacheReader``.

    Raises:
        CacheMismatchError: a cache lacks a wanted block or the patches that such masks show, or caches differ in views.
        UsageError: a number is out of range.
        CacheError: a cache cannot be read.
    """

    def __init__(
        self,
        shards: Sequence[Path | str],
        *,
        batch_size: int,
        epochs: int,
        alignment: AlignmentConfig | None = None,
        mask: MaskName | None = None,
        mask_ratio: float | None = None,
        seeds: Sequence[int] | None = None,
        seed: int = 0,
        images: str | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        threads: int = 2,
        check: CheckName = "first-use",
        readahead: ReadaheadName = "auto",
    ) -> None:
        _require_counts(shards, batch_size=batch_size, epochs=epochs, threads=threads, world_size=world_size, rank=rank)
        alignment = alignment or AlignmentConfig()
        self._norm: TargetNorm = alignment.target_norm
        self._device, self._threads = torch.device(device), threads
        self._rank, self._world_size = rank, world_size
        caches = open_caches([Path(root) for root in shards], seeds=seeds, check=check, readahead=readahead)
        readers, recipe = caches.readers, caches.first.manifest.recipe
        self.view_size, self.patch_size = recipe.view_size, recipe.patch_size
        """Side of a view and of a patch in pixels, which the student must have as well."""
        self.teachers: tuple[TeacherIdentity, ...] = tuple(reader.manifest.recipe.teacher for reader in readers)
        """The teacher of each cache; ``DynamicAlignment`` needs its ``block_count`` and ``width``."""
        self.teacher_blocks = tuple(
            aligned_blocks(alignment.layer_weights, teacher.block_count) for teacher in self.teachers
        )
        """1-based numbers of each teacher's blocks in ``targets``, equal to ``DynamicAlignment.teacher_blocks``."""
        self._input = TrainingInput.of(
            caches,
            run_seed=seed,
            batch_size=batch_size,
            epochs=epochs,
            mask=mask,
            mask_ratio=mask_ratio,
            target_norm=self._norm,
            images=images,
            page_locked=self._device.type == "cuda",
        )
        self._layers = [
            reader.layer_positions(blocks) for reader, blocks in zip(readers, self.teacher_blocks, strict=True)
        ]
        self._decoders = [
            make_decoder(reader.manifest, layers).to(self._device)
            for reader, layers in zip(readers, self._layers, strict=True)
        ]
        self._identity = {
            **self._input.document(),
            "batch_size": batch_size,
            "epochs": epochs,
            "mask": self._input.masks.kind,
            "mask_ratio": self._input.masks.ratio,
            "seed": seed,
            "seeds": list(caches.seeds),
        }
        self.step = 0
        """Global batches yielded so far, and number of the next one."""

    def __len__(self) -> int:
        """Global batches of the whole run, including those already yielded."""
        return self._input.order.total_steps

    def __iter__(self) -> Iterator[TargetBatch]:
        """Batches from ``step`` to the end of the run.

        Raises:
            CacheError: a cache is damaged; the message names the object.
            UsageError: called in a worker process of a ``DataLoader``, where ``step`` would not be updated, and every
                worker would yield every batch.
        """
        worker = get_worker_info()
        if worker is not None:
            raise UsageError(
                "CachedTargets reads ahead with its own threads and counts its batches for state_dict(); found a "
                f"DataLoader with {worker.num_workers} worker(s); "
                "iterate over it directly, or use DataLoader(..., batch_size=None, num_workers=0)"
            )
        batches = prefetched_batches(
            self._input.batches,
            self._input.order,
            first=self.step,
            last=len(self),
            threads=self._threads,
            parts=self._world_size,
            mine=(self._rank,),
        )
        copies = DeviceCopies(self._device)
        with contextlib.closing(batches):
            for batch in batches:
                step, self.step = (
                    self.step,
                    self.step + 1,
                )  # first: a state saved in the step is after it
                yield self._decoded(copies.take(batch), step)

    def keys(self, step: int) -> list[tuple[str, int]]:
        """(key, augmentation seed) of this process's samples of a step, in the order of its batch."""
        samples = self._input.order.step(step)
        part = samples.part(batch_parts(len(samples.rows), self._world_size)[self._rank])
        names = self._input.batches.keys(part)
        return list(zip(names, part.seeds.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Position in the run: equal on every process, and valid for any number of processes."""
        return {"version": STATE_VERSION, "step": self.step, "data": self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly from a saved position.

        Raises:
            CheckpointError: the state is of another version or of other samples; the message names both values.
        """
        if state.get("version") != STATE_VERSION:
            raise CheckpointError(
                f"state of CachedTargets: version {state.get('version')!r}, this lookonce reads version {STATE_VERSION}"
            )
        implied = {name: self._identity[name] for name in LATER_RECORDED}
        differences = document_differences({**implied, **state["data"]}, self._identity)
        if differences:
            listed = "; ".join(f"{name}: the state has {old!r}, now {new!r}" for name, old, new in differences)
            raise CheckpointError(
                f"state of CachedTargets: it belongs to other batches ({listed}); give the arguments of that run"
            )
        self.step = int(state["step"])

    def _decoded(self, batch: Batch, step: int) -> TargetBatch:
        targets = [
            decode_targets(decoder, layers, self._norm, stored)
            for decoder, layers, stored in zip(self._decoders, self._layers, batch.targets, strict=True)
        ]
        return TargetBatch(
            visible_pixels=batch.visible_pixels,
            visible_ids=batch.visible_ids,
            targets=targets,
            share=batch.share,
            step=step,
            epoch=int(self._input.order.step(step).epochs[0]),
        )


def _require_counts(shards: Sequence[Path | str], *, rank: int, **counts: int) -> None:
    if isinstance(shards, str | Path) or not shards:
        raise UsageError(f"CachedTargets: shards must be a list of at least one cache folder, found {shards!r}")
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"CachedTargets: {name} must be at least 1, found {value}")
    if not 0 <= rank < counts["world_size"]:
        raise UsageError(f"CachedTargets: rank must be 0 to {counts['world_size'] - 1}, found {rank}")
