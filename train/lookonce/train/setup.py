"""Opening the cache and building what a run needs, refusing what does not fit before the first step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lookonce.cache.reader import CacheReader
from lookonce.shared.canonical import digest_bytes
from lookonce.shared.errors import CacheMismatchError, UsageError
from lookonce.shared.masking import MASK_VERSION
from lookonce.shared.seeds import parse_seeds
from lookonce.train.alignment import DynamicAlignment
from lookonce.train.alignment_step import AlignmentStep
from lookonce.train.cached_targets import CachedTargets, PixelSource, StoredPixels
from lookonce.train.config import TrainingConfig
from lookonce.train.decoding import TargetDecoder
from lookonce.train.masks import MaskChoice, choose_masks
from lookonce.train.replayed_pixels import ReplayedPixels
from lookonce.train.sample_order import ORDER_VERSION, SampleOrder
from lookonce.train.student import Student


@dataclass(frozen=True)
class TrainingSetup:
    """A run, ready to step."""

    reader: CacheReader
    order: SampleOrder
    targets: CachedTargets
    model: AlignmentStep
    device: torch.device
    precision: str
    """What ``auto`` came to: fp32 or bf16."""
    masks: MaskChoice
    """What the cache allows and the config wants."""

    def data_document(self) -> dict[str, Any]:
        """What decides the samples and masks of every step, beside the config; a continued run must have the same."""
        manifest, rows = self.reader.manifest, self.order.rows
        return {
            "cache_fingerprint": manifest.recipe.fingerprint,
            "cache_encoding": manifest.encoding.digest,
            "samples": len(rows),
            "rows_digest": digest_bytes(rows.astype("<i8").tobytes()),
            "order_version": ORDER_VERSION,
            "mask_version": MASK_VERSION,
        }


def resolve_device(device: str) -> torch.device:
    """``auto`` is the GPU when there is one.

    Raises:
        UsageError: CUDA was asked for and is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def open_cache(config: TrainingConfig) -> CacheReader:
    """The cache, with the wanted seeds whole.

    Raises:
        CacheError: see ``CacheReader``.
    """
    seeds = None if config.seeds is None else parse_seeds(config.seeds)
    return CacheReader(Path(config.shards[0]), seeds=seeds, check=config.check, readahead=config.readahead)


def set_up(config: TrainingConfig) -> TrainingSetup:
    """Open the cache, build student and alignment.

    Raises:
        CacheMismatchError: the student's patch size, or the wanted layers, do not fit the cache.
        CacheError, UsageError: as the parts say.
    """
    reader = open_cache(config)
    recipe = reader.manifest.recipe
    student = Student(config.student, img_size=recipe.view_size, drop_path_rate=config.drop_path, seed=config.seed)
    if student.patch_size != recipe.patch_size:
        raise CacheMismatchError(
            f"{reader.root}: this cache holds patches of {recipe.patch_size} px ({recipe.patches} a view), the student "
            f"{config.student} has patches of {student.patch_size} px; use a student with patch {recipe.patch_size}, "
            f"or extract with --patch-size {student.patch_size}"
        )
    masks = choose_masks(recipe, config.mask, config.mask_ratio, str(reader.root))
    if config.target_norm == "bn" and not recipe.tokens.whole:
        raise CacheMismatchError(
            f"{reader.root}: --target-norm bn needs mean and std of every token of a view, this cache holds "
            f"{recipe.stored_patches} of {recipe.patches} patches; use another --target-norm, or extract with "
            "--tokens all"
        )
    alignment = DynamicAlignment(
        config.alignment_config(),
        student_blocks=student.depth,
        student_dim=student.dim,
        teacher_levels=recipe.teacher.block_count,
        teacher_dim=recipe.teacher.width,
        seed=config.seed + 1,
    )
    layers = reader.layer_positions(alignment.teacher_blocks)
    decoder = TargetDecoder(reader.manifest.encoding, layers, recipe.teacher.width)
    device = resolve_device(config.device)
    automatic = "bf16" if device.type == "cuda" else "fp32"
    precision = automatic if config.precision == "auto" else config.precision
    model = AlignmentStep(
        student, alignment, decoder, layers=layers, channels=recipe.teacher.width,
        autocast=torch.bfloat16 if precision == "bf16" else None,
    ).to(device)  # fmt: skip
    rows = _rows_of_all_seeds(reader)
    order = SampleOrder(rows, reader.seeds, run_seed=config.seed, batch_size=config.batch_size, epochs=config.epochs)
    targets = CachedTargets(
        reader, _pixel_source(reader, config), mask=masks.kind, mask_ratio=masks.ratio,
        run_seed=config.seed, with_moments=config.target_norm != "whiten",
    )  # fmt: skip
    return TrainingSetup(reader, order, targets, model, device, precision, masks)


def trainable(model: AlignmentStep) -> nn.Module:
    """Student and alignment, whose parameters are optimised."""
    return nn.ModuleDict({"student": model.student, "alignment": model.alignment})


def _rows_of_all_seeds(reader: CacheReader) -> NDArray[np.int64]:
    rows = reader.rows(reader.seeds[0])
    for seed in reader.seeds[1:]:
        rows = np.intersect1d(rows, reader.rows(seed), assume_unique=True)
    return rows


def _pixel_source(reader: CacheReader, config: TrainingConfig) -> PixelSource:
    if reader.manifest.stores_pixels:
        return StoredPixels(reader)
    if config.images is None:
        raise CacheMismatchError(
            f"{reader.root}: this cache was made with --pixels none, so it does not hold the views; "
            "give the images it was made from with --images SOURCE"
        )
    return ReplayedPixels(reader, config.images)
