"""ViT-B/16 <- CLIP-B/16, MaskAlign's released recipe.

    extract-features --teacher clip-b16 --images imagenet/train --out caches/clip-b16 --seeds 0-3
    train-student --recipe maskalign-b-clip-b16 --shards caches/clip-b16 --out runs/maskalign-b-clip-b16

Expected time: not measured. The student's own arithmetic is 7.8e18 floating-point operations (6 x 86 M parameters x 59
tokens x 1.28 M views x 200 epochs).
Expected score: 85.4 % of ImageNet-1k after fine-tuning, as the paper reports it (fresh views every epoch);
not measured with cached ones.
"""

from __future__ import annotations

from pathlib import Path

from lookonce.train.config import TrainingConfig
from lookonce.train.recipes.released import released_config


def config(shards: tuple[Path, ...], out: Path) -> TrainingConfig:
    """The run."""
    return released_config(shards, out, student="vit_base_patch16_224", drop_path=0.1)
