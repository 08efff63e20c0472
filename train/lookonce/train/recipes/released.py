"""The common part of MaskAlign's released recipes (arXiv 2211.08887, and the command in its repository's README)."""

from __future__ import annotations

from pathlib import Path

from lookonce.train.config import TrainingConfig


def released_config(shards: tuple[Path, ...], out: Path, *, student: str, drop_path: float) -> TrainingConfig:
    """200 epochs of 1024 samples a step, attentive masks at 0.7, the last five blocks, linear adapters.

    Blocks are mixed before the adapter and the loss counts twice, as in the released code.

    Args:
        shards: cache folders.
        out: folder of the run.
        student: timm name.
        drop_path: stochastic depth, 0.1 for ViT-B and 0.2 for ViT-L.
    """
    return TrainingConfig(
        shards=shards,
        out=out,
        student=student,
        drop_path=drop_path,
        mask="attentive",
        mask_ratio=0.7,
        alignment="dynamic",
        mix_order="mix-then-adapt",
        adapter="linear",
        layer_weights="top5",
        loss="smooth-l1",
        loss_scale=2.0,
        target_norm="whiten",
        epochs=200,
        warmup_epochs=20,
        batch_size=1024,
        base_lr=1.5e-4,
        min_lr=1e-5,
        weight_decay=0.05,
    )
