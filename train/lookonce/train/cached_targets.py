"""Caches as an iterable of training batches, for your own trainer: plain PyTorch, Lightning, Accelerate.

The batches are those of ``train-student`` with the same seed, masks and batch size. One iteration is the whole run:
batches are cut from the concatenated epochs, and a batch may cross the border of two epochs.
"""

# Shapes: B samples of this process, k visible patches, n = 1 + k tokens (class token first), L aligned levels of a
#         teacher, C its channels.

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lookonce.shared.errors import CheckpointError, UsageError
from lookonce.storage_schemas.recipe import TeacherIdentity, document_differences
from lookonce.train.batch_config import BatchConfig
from lookonce.train.checkpoints.resuming import LATER_RECORDED
from lookonce.train.data.batch import Batch
from lookonce.train.data.caches.joined_caches import open_caches
from lookonce.train.data.device_copies import DeviceCopies
from lookonce.train.data.prefetch import prefetched_batches
from lookonce.train.data.sample_order import batch_parts
from lookonce.train.data.target_decoder import decode_targets, make_decoder
from lookonce.train.data.training_input import TrainingInput
from lookonce.train.model.alignment_config import AlignmentConfig
from lookonce.train.model.layer_weights import aligned_blocks
from lookonce.train.names import TargetNorm

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
        config: which caches, and which samples and patches each step gets; a ``TrainingConfig`` gives the batches of
            that run.
        alignment: its ``layer_weights`` select the teacher blocks, its ``target_norm`` the norm of the targets; None
            for that of a ``TrainingConfig``, or the defaults.
        rank: number of this process.
        world_size: number of processes; each gets its part of every global batch.
        device: device of the batches.

    Raises:
        CacheMismatchError: a cache lacks a wanted block or the patches that such masks show, or caches differ in views.
        UsageError: a number is out of range.
        CacheError: a cache cannot be read.
    """

    def __init__(
        self,
        config: BatchConfig,
        *,
        alignment: AlignmentConfig | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0 <= rank < world_size:
            raise UsageError(f"CachedTargets: rank must be 0 to {world_size - 1}, found {rank}")
        if alignment is None:
            alignment = config if isinstance(config, AlignmentConfig) else AlignmentConfig()
        self._norm: TargetNorm = alignment.target_norm
        self._device, self._threads = torch.device(device), config.workers
        self._rank, self._world_size = rank, world_size
        caches = open_caches(config)
        readers, recipe = caches.readers, caches.first.manifest.recipe
        self.view_size, self.patch_size = recipe.view_size, recipe.patch_size
        """Side of a view and of a patch in pixels, which the student must have as well."""
        self.teachers: tuple[TeacherIdentity, ...] = tuple(reader.manifest.recipe.teacher for reader in readers)
        """The teacher of each cache; ``DynamicAlignment`` needs its ``block_count`` and ``width``."""
        self.teacher_blocks = tuple(
            aligned_blocks(alignment.layer_weights, teacher.block_count) for teacher in self.teachers
        )
        """1-based numbers of each teacher's blocks in ``targets``, equal to ``DynamicAlignment.teacher_blocks``."""
        self._input = TrainingInput.of(caches, config, target_norm=self._norm, page_locked=self._device.type == "cuda")
        self._layers = [
            reader.layer_positions(blocks) for reader, blocks in zip(readers, self.teacher_blocks, strict=True)
        ]
        self._decoders = [
            make_decoder(reader.manifest, layers).to(self._device)
            for reader, layers in zip(readers, self._layers, strict=True)
        ]
        self._identity = {
            **self._input.document(),
            "batch_size": config.batch_size,
            "epochs": config.epochs,
            "mask": self._input.masks.kind,
            "mask_ratio": self._input.masks.ratio,
            "seed": config.seed,
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
                step = self.step
                self.step += 1  # before the batch is used: a state that is saved in the step is after it
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
        differences = document_differences({"block_order": None, **implied, **state["data"]}, self._identity)
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
