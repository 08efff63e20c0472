"""The loop: interrupted anywhere and gone on with, it gives the same numbers to the last bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lookonce.shared.errors import CheckpointError, Interrupted, NumericalError, UnreadableImageError
from lookonce.train.checkpoints.checkpoint_file import checkpoints_in
from lookonce.train.evaluation.evaluation_folder import EvaluationFolder
from lookonce.train.evaluation.fit import RATE_SCALE, fit
from lookonce.train.evaluation.fit_schedule import FitSchedule

SCHEDULE = FitSchedule(images=10, batch_size=4, epochs=3, warmup_epochs=1, base_lr=3.0)
STEPS = 9


class Killed(BaseException):
    """Like kill -9: nothing of ours catches it."""


class Points:
    """Points of three classes, learned by a batch norm and a linear layer with momentum; a hook runs before a batch."""

    def __init__(self, before: Callable[[int], None] = lambda step: None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.points, self.labels = torch.randn(10, 4, generator=generator), torch.arange(10) % 3
        self.module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
        with torch.no_grad():
            self.module[1].weight.copy_(torch.randn(3, 4, generator=generator))
            self.module[1].bias.zero_()
        groups = [{"params": self.module[0].parameters(), RATE_SCALE: 0.5}, {"params": self.module[1].parameters()}]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9)
        self.before, self.poison = before, 1.0
        self.rates: list[list[float]] = []

    def batches(self, schedule: FitSchedule, first: int) -> Generator[tuple[Tensor, Tensor]]:
        for step in range(first, schedule.total_steps):
            self.before(step)
            rows = torch.from_numpy(schedule.rows(step))
            yield self.points[rows], self.labels[rows]

    def forward(self, step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float, int]:
        self.rates.append([group["lr"] for group in self.optimizer.param_groups])
        scores = self.module(batch[0] * self.poison)
        right = int((scores.argmax(1) == batch[1]).sum())
        return functional.cross_entropy(scores, batch[1]), right, len(batch[1])

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        return {"extra": epoch * 10.0}


def folder_of(root: Path) -> EvaluationFolder:
    return EvaluationFolder(root, {"evaluation": "points"})


def run(root: Path, learner: Points, seconds: float = 0.0) -> dict[str, Any]:
    folder = folder_of(root)
    with folder.exclusive():
        return fit(learner, SCHEDULE, folder, checkpoint_seconds=seconds)


def lines(root: Path) -> list[dict[str, Any]]:
    """Lines of metrics without what a clock says."""
    logged = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in ("time", "elapsed_seconds")} for line in logged]


def stop_at(step: int, error: BaseException) -> Callable[[int], None]:
    def stop(now: int) -> None:
        if now == step:
            raise error

    return stop


def assert_same(one: Points, other: Points) -> None:
    for name, value in one.module.state_dict().items():
        assert torch.equal(value, other.module.state_dict()[name]), name


@pytest.mark.parametrize("step", range(1, STEPS))
def test_killed_before_any_step_and_gone_on_with(tmp_path: Path, step: int) -> None:
    whole, killed, resumed = Points(), Points(stop_at(step, Killed())), Points()
    last = run(tmp_path / "whole", whole)
    with pytest.raises(Killed):
        run(tmp_path / "killed", killed)
    assert run(tmp_path / "killed", resumed) == last
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    assert len(resumed.rates) == STEPS - step
    assert_same(whole, resumed)


def test_killed_long_after_a_checkpoint_repeats_the_steps_since(tmp_path: Path) -> None:
    whole = Points()
    last = run(tmp_path / "whole", whole)
    with pytest.raises(Killed):
        run(tmp_path / "killed", Points(stop_at(2, Killed())))
    with pytest.raises(Killed):  # two epochs' lines are written, no checkpoint is
        run(tmp_path / "killed", Points(stop_at(7, Killed())), seconds=1e9)
    assert len(lines(tmp_path / "killed")) == 2
    resumed = Points()
    assert run(tmp_path / "killed", resumed) == last
    assert len(resumed.rates) == STEPS - 2
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    assert_same(whole, resumed)


def test_an_epochs_line_is_of_its_images_and_rates_are_scaled_by_group(tmp_path: Path) -> None:
    learner = Points()
    last = run(tmp_path, learner)
    written = lines(tmp_path)
    assert [(line["step"], line["epoch"], line["extra"]) for line in written] == [(2, 1, 0), (5, 2, 10), (8, 3, 20)]
    assert written[-1] == last
    assert {round(line["train_accuracy"] * 10, 9) % 1 for line in written} == {0.0}
    assert learner.rates == [
        [SCHEDULE.steps.learning_rate(step) / 2, SCHEDULE.steps.learning_rate(step)] for step in range(STEPS)
    ]


def test_nothing_is_kept_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fit(Points(), SCHEDULE, None)["epoch"] == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [Interrupted("stopped"), UnreadableImageError("train/a: not an image")])
def test_a_stop_comes_after_a_checkpoint(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        run(tmp_path, Points(stop_at(5, error)), seconds=1e9)
    assert [path.name for path in checkpoints_in(tmp_path / "checkpoints")] == ["step-000000005.pt"]


@pytest.mark.parametrize("epoch", range(3))
def test_a_test_image_that_cannot_be_read_comes_after_a_checkpoint(tmp_path: Path, epoch: int) -> None:
    class Unreadable(Points):
        def after_epoch(self, now: int) -> Mapping[str, float]:
            if now == epoch:
                raise UnreadableImageError("test/a: not an image")
            return super().after_epoch(now)

    whole, resumed = Points(), Points()
    last = run(tmp_path / "whole", whole)
    for _ in range(2):  # still not mended the second time
        with pytest.raises(UnreadableImageError):
            run(tmp_path / "run", Unreadable(), seconds=1e9)
    assert checkpoints_in(tmp_path / "run/checkpoints")[-1].name == f"step-{3 * (epoch + 1):09d}.pt"
    if epoch < 2:
        with pytest.raises(Killed):  # behind the epoch's line, before another checkpoint
            run(tmp_path / "run", Points(stop_at(3 * (epoch + 1) + 1, Killed())), seconds=1e9)
    assert run(tmp_path / "run", resumed, seconds=1e9) == last
    assert len(resumed.rates) == STEPS - 3 * (epoch + 1)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert_same(whole, resumed)
    assert run(tmp_path / "run", Points()) == last


def test_sigterm_is_held_back_until_the_step_is_whole(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, Points(lambda step: signal.raise_signal(signal.SIGTERM) if step == 3 else None), seconds=1e9)
    assert [path.name for path in checkpoints_in(tmp_path / "checkpoints")] == ["step-000000004.pt"]


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    learner = Points(lambda step: setattr(learner, "poison", float("nan") if step == 4 else 1.0))
    with pytest.raises(NumericalError, match=r"the loss of step 4 is nan; .*--base-lr"):
        run(tmp_path, learner)
    assert checkpoints_in(tmp_path / "checkpoints")[-1].name == "step-000000004.pt"


def test_parameters_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    class Exploding(Points):
        def forward(self, step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float, int]:
            loss, right, seen = super().forward(step, batch)
            return (loss * float("inf") - loss.detach() * float("inf") if step == 4 else loss), right, seen

    class Infinite(Points):
        def forward(self, step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float, int]:
            loss, right, seen = super().forward(step, batch)
            weight = self.module[1].weight
            return loss + (torch.sqrt(weight - weight.detach()).sum() if step == 4 else 0.0), right, seen

    with pytest.raises(NumericalError, match=r"the loss of step 4 is nan"):
        run(tmp_path / "loss", Exploding())
    with pytest.raises(NumericalError, match=r"parameter 1\.weight is not finite after step 4"):
        run(tmp_path / "gradient", Infinite())
    assert checkpoints_in(tmp_path / "gradient/checkpoints")[-1].name == "step-000000004.pt"


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Points(stop_at(4, Killed())))
    newest = checkpoints_in(tmp_path / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"step-000000004\.pt: cannot be read as a checkpoint"):
        run(tmp_path, Points())
    newest.unlink()
    resumed, whole = Points(), Points()
    assert run(tmp_path, resumed) == run(tmp_path / "whole", whole)
    assert_same(resumed, whole)
