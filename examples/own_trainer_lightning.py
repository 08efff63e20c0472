"""Cached targets in Lightning: ``pip install lightning``; one Lightning epoch is the whole run.

python examples/own_trainer_lightning.py caches/clip-b16 --student vit_base_patch16_224 --batch-size 256 --epochs 10
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer  # pyright: ignore[reportMissingImports] - extra `trainers`
from torch import Tensor

from lookonce.api import AlignmentConfig, BatchConfig, CachedTargets, DynamicAlignment, Student, TargetBatch


class CachedAlignment(LightningModule):  # pyright: ignore[reportUntypedBaseClass] - where Lightning is absent
    """Student and alignment."""

    def __init__(self, batches: CachedTargets, config: AlignmentConfig, student_name: str) -> None:
        super().__init__()
        self.batches, teacher = batches, batches.teachers[0]
        self.student = Student(student_name, img_size=batches.view_size)
        self.alignment = DynamicAlignment(
            config,
            student_blocks=self.student.depth,
            student_dim=self.student.dim,
            teacher_levels=teacher.block_count,
            teacher_dim=teacher.width,
        )
        self.losses: list[float] = []

    def training_step(self, batch: TargetBatch, _number: int) -> Tensor:
        features = self.student(batch["visible_pixels"], batch["visible_ids"])
        loss = self.alignment(features, batch["targets"][0]).loss
        self.losses.append(loss.item())
        return loss * (batch["share"] * self.trainer.world_size)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-3)


def train(cache: Path, *, student_name: str, layer_weights: str, batch_size: int, epochs: int, **flags: Any) -> Any:
    """Train; returns the module, which has the losses."""
    config = AlignmentConfig(layer_weights=layer_weights)
    # with several processes, also give rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"])
    batches = CachedTargets(BatchConfig(shards=(cache,), batch_size=batch_size, epochs=epochs), alignment=config)
    module = CachedAlignment(batches, config, student_name)
    trainer = Trainer(max_epochs=1, logger=False, use_distributed_sampler=False, **flags)
    trainer.fit(module, batches)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--student", default="vit_base_patch16_224")
    parser.add_argument("--layer-weights", default="top5")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    losses = train(
        given.cache,
        student_name=given.student,
        layer_weights=given.layer_weights,
        batch_size=given.batch_size,
        epochs=given.epochs,
    ).losses
    print(f"{len(losses)} steps, loss {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
