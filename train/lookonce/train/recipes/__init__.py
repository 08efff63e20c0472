"""Recipes: whole training runs by name. One file each, headed by its commands, expected time and expected score.

Open ``released.py`` first: what the recipes of MaskAlign's release have in common.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lookonce.train.config import TrainingConfig
from lookonce.train.names import require_known
from lookonce.train.recipes import (
    flowers_tiny_deit_tiny,
    maskalign_b_clip_b16,
    maskalign_b_dino_b16,
    maskalign_l_clip_b16,
    maskalign_l_clip_l14,
)

Recipe = Callable[[tuple[Path, ...], Path], TrainingConfig]
"""From the caches and the run's folder to the run; everything else may be changed by ``dataclasses.replace``."""

RECIPES: dict[str, Recipe] = {
    "maskalign-b-clip-b16": maskalign_b_clip_b16.config,
    "maskalign-l-clip-b16": maskalign_l_clip_b16.config,
    "maskalign-l-clip-l14": maskalign_l_clip_l14.config,
    "maskalign-b-dino-b16": maskalign_b_dino_b16.config,
    "flowers-tiny-deit-tiny": flowers_tiny_deit_tiny.config,
}
"""Every recipe there is, by the name that ``train-student --recipe`` takes."""


def recipe_config(name: str, shards: tuple[Path, ...], out: Path) -> TrainingConfig:
    """The run that a recipe describes.

    Args:
        name: of the recipe.
        shards: cache folders.
        out: folder of the run.

    Raises:
        UsageError: there is no such recipe; the message lists those that there are.

    >>> recipe_config("maskalign-b-clip-b16", (Path("cache"),), Path("run")).epochs
    200
    """
    name = name.replace("_", "-")  # the files' names
    require_known("recipe", name, RECIPES)
    return RECIPES[name](shards, out)
