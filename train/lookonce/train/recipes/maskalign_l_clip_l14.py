"""ViT-L/16 <- CLIP-L/14, MaskAlign's released recipe; the teacher's input has 196 px for the student's 14 x 14 grid.

    extract-features --teacher clip-l14 --images imagenet/train --out caches/clip-l14 --seeds 0-3
    train-student --recipe maskalign-l-clip-l14 --shards caches/clip-l14 --out runs/maskalign-l-clip-l14

Expected time: not measured. The student's own arithmetic is 2.7e19 floating-point operations (6 x 303 M parameters x 59
tokens x 1.28 M views x 200 epochs).
Expected score: 87.4 % of ImageNet-1k after fine-tuning, as the paper reports it (fresh views every epoch);
not measured with cached ones.
"""

from __future__ import annotations

from pathlib import Path

from lookonce.train.config import TrainingConfig
from lookonce.train.recipes.released import released_config


def config(shards: tuple[Path, ...], out: Path) -> TrainingConfig:
    """The run."""
    return released_config(shards, out, student="vit_large_patch16_224", drop_path=0.2)
