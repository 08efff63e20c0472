"""The time of a training step from the cache, against the same step with the teacher online, in one process."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lookonce.api import (
    AlignmentConfig,
    BatchConfig,
    CachedTargets,
    DynamicAlignment,
    Student,
    TargetBatch,
    load_teacher,
    open_cache,
    resolve_teacher,
    unpatchify,
)

ROUNDS = 7
STEPS_PER_ROUND = 4


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Medians over alternating rounds, and the loss of the first batch by either way."""

    cached_ms: float
    online_ms: float
    cached_loss: float
    online_loss: float


class TwoWays:
    """One student and one order of batches, with targets from the cache or from the teacher.

    The online way takes views and masks from the cache. It neither reads nor decodes images, nor draws crops and masks.
    The difference is the teacher's forward pass against reading its features.

    Args:
        cache: a complete cache of this teacher, with pixels.
        teacher: name of the teacher.
        teacher_weights: its weights file.
        student: timm name.
        batch_size: samples per step.
    """

    def __init__(self, cache: Path, *, teacher: str, teacher_weights: Path, student: str, batch_size: int) -> None:
        config = AlignmentConfig()
        self.reader = open_cache(cache)
        seed = self.reader.seeds[0]
        self.rows = {key: row for row, key in enumerate(self.reader.column("key", seed).tolist())}
        self.cached_batches = CachedTargets(
            BatchConfig(shards=(cache,), batch_size=batch_size, epochs=ROUNDS * STEPS_PER_ROUND + 1)
        )
        self.student = Student(student, img_size=self.cached_batches.view_size)
        identity = self.cached_batches.teachers[0]
        self.alignment = DynamicAlignment(
            config,
            student_blocks=self.student.depth,
            student_dim=self.student.dim,
            teacher_levels=identity.block_count,
            teacher_dim=identity.width,
        )
        # A learning rate of 0 keeps the weights, so that both ways see the same student throughout.
        self.optimizer = torch.optim.AdamW([*self.student.parameters(), *self.alignment.parameters()], lr=0.0)
        self.teacher = load_teacher(
            resolve_teacher(teacher),
            weights=teacher_weights,
            view_size=self.cached_batches.view_size,
            patch_size=self.cached_batches.patch_size,
            blocks=",".join(map(str, self.alignment.teacher_blocks)),
        )

    def cached(self, batch: TargetBatch) -> float:
        """A step with the batch's targets."""
        return self._step(batch, batch["targets"][0])

    def online(self, batch: TargetBatch) -> float:
        """The same step with targets from the teacher."""
        samples = self.cached_batches.keys(batch["step"])
        patches = self.reader.read("pixels", [seed for _, seed in samples], [self.rows[key] for key, _ in samples])
        views = torch.from_numpy(unpatchify(patches, self.cached_batches.patch_size))
        targets = self.teacher.extract(views).targets
        tokens = torch.nn.functional.pad(batch["visible_ids"] + 1, (1, 0))  # token 0 is the class token
        return self._step(batch, targets[torch.arange(len(tokens))[:, None], tokens])

    def _step(self, batch: TargetBatch, targets: Tensor) -> float:
        features = self.student(batch["visible_pixels"], batch["visible_ids"])
        loss: Tensor = self.alignment(features, targets).loss
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()


def measure_step_times(cache: Path, teacher: str, teacher_weights: Path, student: str, batch_size: int) -> StepTimes:
    """Time both ways in alternating rounds on the CPU; arguments as for ``TwoWays``."""
    ways = TwoWays(cache, teacher=teacher, teacher_weights=teacher_weights, student=student, batch_size=batch_size)
    batches = iter(ways.cached_batches)
    first = next(batches)
    losses = ways.cached(first), ways.online(first)  # also warms both up
    cached_seconds, online_seconds = [], []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        used = []
        for _ in range(STEPS_PER_ROUND):
            used.append(next(batches))
            ways.cached(used[-1])
        between = time.perf_counter()
        for batch in used:
            ways.online(batch)
        cached_seconds.append(between - begun)
        online_seconds.append(time.perf_counter() - between)
    return StepTimes(
        cached_ms=1e3 * statistics.median(cached_seconds) / STEPS_PER_ROUND,
        online_ms=1e3 * statistics.median(online_seconds) / STEPS_PER_ROUND,
        cached_loss=losses[0],
        online_loss=losses[1],
    )
