"""Cached targets in a training loop of your own, plain PyTorch, resumed exactly.

python examples/own_trainer_pytorch.py caches/clip-b16 --student vit_base_patch16_224 --batch-size 256 --epochs 10

The state is kept in own_trainer.pt (--state-file): the same command resumes from it, a new run needs another file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lookonce.api import AlignmentConfig, BatchConfig, CachedTargets, DynamicAlignment, Student


def train(
    cache: Path,
    *,
    student_name: str,
    layer_weights: str,
    batch_size: int,
    epochs: int,
    state_file: Path,
    stop_after: int | None = None,
) -> list[float]:
    """Train to the end, or up to a number of steps; returns the losses of these steps."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = AlignmentConfig(layer_weights=layer_weights)
    wanted = BatchConfig(shards=(cache,), batch_size=batch_size, epochs=epochs)
    batches = CachedTargets(wanted, alignment=config, device=device)
    student = Student(student_name, img_size=batches.view_size).to(device)
    teacher = batches.teachers[0]
    alignment = DynamicAlignment(
        config,
        student_blocks=student.depth,
        student_dim=student.dim,
        teacher_levels=teacher.block_count,
        teacher_dim=teacher.width,
    ).to(device)
    optimizer = torch.optim.AdamW([*student.parameters(), *alignment.parameters()], lr=1e-3)
    parts = {"batches": batches, "student": student, "alignment": alignment, "optimizer": optimizer}
    if state_file.is_file():
        for name, state in torch.load(state_file, weights_only=True).items():
            parts[name].load_state_dict(state)
    losses = []
    for batch in batches:
        loss = alignment(student(batch["visible_pixels"], batch["visible_ids"]), batch["targets"][0]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if batches.step == stop_after:
            break
    torch.save({name: part.state_dict() for name, part in parts.items()}, state_file)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--student", default="vit_base_patch16_224")
    parser.add_argument("--layer-weights", default="top5")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--state-file", type=Path, default=Path("own_trainer.pt"))
    given = parser.parse_args()
    losses = train(
        given.cache,
        student_name=given.student,
        layer_weights=given.layer_weights,
        batch_size=given.batch_size,
        epochs=given.epochs,
        state_file=given.state_file,
    )
    print(f"{len(losses)} steps, loss {losses[0]:.4f} -> {losses[-1]:.4f}" if losses else "nothing left to do")


if __name__ == "__main__":
    main()
