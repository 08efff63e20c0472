"""ViT-Ti/16 <- DeiT-Tiny on 600 photographs of flowers: a whole run on two CPU cores.

    extract-features --teacher deit-tiny --images flowers/train --out caches/flowers --seeds 0-7 --executor inline
    train-student --recipe flowers-tiny-deit-tiny --shards caches/flowers --out runs/flowers

Expected time: 14 minutes of training on two cores of an AMD EPYC (72 images/s), and one and a half to extract.
Expected score: loss 0.228; k-NN 71.5 % of 200 test images (k = 10, mean of patches; 82.0 % for the teacher, 41.5 % for
an untrained student): docs/results.md.
"""

from __future__ import annotations

from pathlib import Path

from lookonce.train.config import TrainingConfig


def config(shards: tuple[Path, ...], out: Path) -> TrainingConfig:
    """The run: small batches for few images, and no stochastic depth for a small student."""
    return TrainingConfig(
        shards=shards,
        out=out,
        student="vit_tiny_patch16_224",
        drop_path=0.0,
        epochs=100,
        warmup_epochs=10,
        batch_size=64,
        base_lr=4e-3,
        workers=1,
    )
