"""ViT-B/16 <- DINO-B/16: MaskAlign's recipe for ViT-B with a teacher trained without text.

    extract-features --teacher dino-b16 --images imagenet/train --out caches/dino-b16 --seeds 0-3
    train-student --recipe maskalign-b-dino-b16 --shards caches/dino-b16 --out runs/maskalign-b-dino-b16

Expected time: not measured. The student's own arithmetic is 7.8e18 floating-point operations (6 x 86 M parameters x 59
tokens x 1.28 M views x 200 epochs).
Expected score: unknown: the released code supports this teacher, but its model card lists no student; not measured.
"""

from __future__ import annotations

from pathlib import Path

from lookonce.train.config import TrainingConfig
from lookonce.train.recipes.released import released_config


def config(shards: tuple[Path, ...], out: Path) -> TrainingConfig:
    """The run."""
    return released_config(shards, out, student="vit_base_patch16_224", drop_path=0.1)
