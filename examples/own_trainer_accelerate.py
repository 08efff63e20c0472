"""Cached targets in Hugging Face Accelerate: ``pip install accelerate``; any number of processes.

accelerate launch examples/own_trainer_accelerate.py caches/clip-b16 --batch-size 256 --epochs 10
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # pyright: ignore[reportMissingImports] - extra `trainers`
from torch import Tensor, nn

from lookonce.api import AlignmentConfig, BatchConfig, CachedTargets, DynamicAlignment, Student, TargetBatch


class AlignedStudent(nn.Module):
    """One module, so that Accelerate wraps student and alignment together."""

    def __init__(self, student: Student, alignment: DynamicAlignment) -> None:
        super().__init__()
        self.student, self.alignment = student, alignment

    def forward(self, batch: TargetBatch) -> Tensor:
        features = self.student(batch["visible_pixels"], batch["visible_ids"])
        loss: Tensor = self.alignment(features, batch["targets"][0]).loss
        return loss


def train(
    cache: Path, *, student_name: str, layer_weights: str, batch_size: int, epochs: int, **flags: Any
) -> list[float]:
    """Train; returns this process's losses."""
    accelerator = Accelerator(**flags)
    config = AlignmentConfig(layer_weights=layer_weights)
    batches = CachedTargets(
        BatchConfig(shards=(cache,), batch_size=batch_size, epochs=epochs),
        alignment=config,
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    student, teacher = Student(student_name, img_size=batches.view_size), batches.teachers[0]
    alignment = DynamicAlignment(
        config,
        student_blocks=student.depth,
        student_dim=student.dim,
        teacher_levels=teacher.block_count,
        teacher_dim=teacher.width,
    )
    model = AlignedStudent(student, alignment)
    # the batches stay out of prepare(): each process has its own part already
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    losses = []
    for batch in batches:
        loss = model(batch)
        optimizer.zero_grad()
        accelerator.backward(loss * (batch["share"] * accelerator.num_processes))
        optimizer.step()
        losses.append(loss.item())
    return losses


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
    )
    print(f"{len(losses)} steps, loss {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
