"""The time of a training step from the cache against the same step with the teacher online, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lookonce.extract.teachers import Teacher, load_teacher, resolve_teacher
from lookonce.shared.patches import unpatchify
from lookonce.train.config import TrainingConfig
from lookonce.train.data.sample_order import SamplesOfStep
from lookonce.train.loop.optimization import adamw, set_learning_rate
from lookonce.train.setup import TrainingSetup, set_up, trainable

ROUNDS = 7
STEPS_A_ROUND = 4


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Medians of alternating rounds, and the loss of the first batch either way."""

    cached_ms: float
    online_ms: float
    cached_loss: float
    online_loss: float


class TwoWays:
    """One student and one order of samples; targets from the cache, or from the teacher looking at the same views.

    The online way is spared reading and decoding images, cropping and drawing masks: it takes the views and the masks
    from the cache. What is left to differ is the teacher's forward pass against reading its features.
    """

    def __init__(self, setup: TrainingSetup, teacher: Teacher) -> None:
        self.setup, self.teacher = setup, teacher
        self.module = trainable(setup.model).train()
        self.optimizer = adamw(self.module, weight_decay=0.05)
        set_learning_rate(self.optimizer, 0.0)  # the weights stay, so that both ways see the same student throughout

    def cached(self, samples: SamplesOfStep) -> float:
        """A step as train-student makes it."""
        return self._finish(self.setup.model(self.setup.input.batches.batch(samples)).loss)

    def online(self, samples: SamplesOfStep) -> float:
        """The same step, the teacher looking at the views again."""
        model, reader = self.setup.model, self.setup.input.caches.first
        ids = torch.from_numpy(self.setup.input.batches.visible(samples).ids)
        patches = reader.read("pixels", samples.seeds, samples.rows)
        views = torch.from_numpy(unpatchify(patches, model.student.patch_size))
        features = self.teacher.extract(views)
        samples_B1 = torch.arange(len(ids))[:, None]
        tokens = torch.nn.functional.pad(ids + 1, (1, 0))
        visible = torch.from_numpy(patches)[samples_B1, ids]
        return self._finish(model.alignments[0](model.student(visible, ids), features.targets[samples_B1, tokens]).loss)

    def _finish(self, loss: Tensor) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()


def measure_step_times(cache: Path, teacher: str, teacher_weights: Path, student: str, batch_size: int) -> StepTimes:
    """Time both ways in alternating rounds on the CPU.

    Args:
        cache: a complete cache made by this teacher, with pixels.
        teacher: its name.
        teacher_weights: its weights.
        student: timm name.
        batch_size: samples a step.
    """
    config = TrainingConfig(
        shards=(cache,), out=Path("unused"), student=student, batch_size=batch_size, drop_path=0.0, device="cpu"
    )
    setup = set_up(config)
    recipe = setup.input.caches.first.manifest.recipe
    blocks = ",".join(map(str, setup.model.alignments[0].teacher_blocks))
    loaded = load_teacher(
        resolve_teacher(teacher),
        weights=teacher_weights,
        view_size=recipe.view_size,
        patch_size=recipe.patch_size,
        blocks=blocks,
    )
    ways = TwoWays(setup, loaded)
    losses = ways.cached(setup.input.order.step(0)), ways.online(setup.input.order.step(0))  # also warms both up
    seconds: dict[str, list[float]] = {"cached": [], "online": []}
    for turn in range(ROUNDS):
        steps = [setup.input.order.step(turn * STEPS_A_ROUND + number) for number in range(STEPS_A_ROUND)]
        seconds["cached"].append(_seconds(ways.cached, steps))
        seconds["online"].append(_seconds(ways.online, steps))
    return StepTimes(
        cached_ms=1e3 * statistics.median(seconds["cached"]) / STEPS_A_ROUND,
        online_ms=1e3 * statistics.median(seconds["online"]) / STEPS_A_ROUND,
        cached_loss=losses[0],
        online_loss=losses[1],
    )


def _seconds(way: Callable[[SamplesOfStep], float], steps: list[SamplesOfStep]) -> float:
    begun = time.perf_counter()
    for samples in steps:
        way(samples)
    return time.perf_counter() - begun
