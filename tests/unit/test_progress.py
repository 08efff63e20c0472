"""The progress line moves while a unit is under way, and tells losses between logged steps."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lookonce.shared import progress_bar as progress
from lookonce.train.config import TrainingConfig
from lookonce.train.loop import trainer
from lookonce.train.run import train_student


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in a test itself, as pytest puts its own stderr there behind the fixtures."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def ticking() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lookonce-progress"]


def test_a_slow_unit_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.02)
    bar = progress.progress_bar(total=3, unit="view")
    deadline = time.monotonic() + 60
    while terminal.getvalue().count("0/3") < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    bar.close()
    assert ticking() == []


def test_nothing_ticks_in_a_log_file_or_where_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress.progress_bar(total=3, unit="view").close()
    on_terminal(monkeypatch)
    with progress.progress_bar(total=3, unit="view", show=False), progress.progress_bar(total=0, unit="view"):
        assert ticking() == []


@pytest.mark.parametrize(("seconds", "told"), [(0.0, True), (1e9, False)])
def test_losses_are_told_between_logged_steps(
    training_cache: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    told: bool,
) -> None:
    """The first and the last step are logged, with the share of waiting; those between are told without it."""
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(trainer, "SHOW_SECONDS", seconds)
    monkeypatch.setattr("tqdm.std.tqdm.update", lambda bar, n=1: bar.refresh())
    config = TrainingConfig(
        shards=(training_cache(),),
        out=tmp_path / "run",
        student="test_vit",
        layer_weights="top2",
        epochs=1,
        batch_size=2,
        log_steps=1000,
        device="cpu",
    )
    train_student(config)
    lines = [line for line in terminal.getvalue().replace("\r", "\n").splitlines() if "loss " in line and "/s" in line]
    assert any("input wait" not in line and " images/s" in line for line in lines) == told, lines
