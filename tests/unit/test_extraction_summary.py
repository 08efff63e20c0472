"""The text of an extraction's result, and the note about a shell that keeps torch from the cores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lookonce.extract.pipeline.events import ThreadTimes
from lookonce.extract.pipeline.teacher_threads import idle_cores_note
from lookonce.extract.progress.worker_table import efficiency, teacher_shares
from lookonce.extract.summary import ExtractionSummary

RESULT: dict[str, Any] = {
    "cache": "c",
    "fingerprint": "sha256:0",
    "samples": 24,
    "seeds": (0, 1),
    "shards": 4,
    "shards_written": 4,
    "views_written": 48,
    "views_copied": 0,
    "holes": 1,
    "bytes": 1_200_000,
    "seconds": 9.0,
    "views_per_second": 5.5,
    "efficiency": None,
    "saturated_share": 0.0,
    "signals": {},
}


def summary(time: ThreadTimes, **changes: Any) -> list[str]:
    result = {**RESULT, "time_share": time.shares(), "teacher_share": teacher_shares(time), **changes}
    return ExtractionSummary(**result).text().splitlines()


def test_where_the_time_went_agrees_with_itself_on_a_loaded_machine() -> None:
    loaded = ThreadTimes(decode=2.0, teacher=97.0, write=1.0, forward=26.0, core_wait=68.0)
    assert summary(loaded)[-1] == (
        "time         decode 2%, teacher 97%, write 1% (27% of the teacher's in its forward pass, 70% waiting for a "
        "CPU core: other threads or programs kept the cores busy)"
    )
    alone = ThreadTimes(decode=1.0, teacher=98.0, write=1.0, forward=95.0, core_wait=1.0)
    assert summary(alone)[-1] == (
        "time         decode 1%, teacher 98%, write 1% (97% of the teacher's in its forward pass)"
    )
    assert efficiency(loaded) == 0.26


def test_seeds_and_sizes_do_not_run_into_each_other() -> None:
    lines = summary(ThreadTimes())
    assert "content      24 samples per seed (seeds 0, 1); 1 hole (unreadable images)" in lines
    assert "size         1.2 MB" in lines
    many = summary(ThreadTimes(), seeds=tuple(range(20)))
    assert any("(seeds 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... (20 in all))" in line for line in many)


@pytest.mark.parametrize(
    ("copied", "words"),
    [
        (0, "48 views at 5.5 views/s"),
        (40, "48 views (40 of them copied, the others at 5.5 views/s)"),
        (48, "48 views, all copied"),
    ],
)
def test_copied_views_have_no_rate(copied: int, words: str) -> None:
    assert summary(ThreadTimes(), views_copied=copied)[0] == f"4 of 4 shards written, {words}"


def test_a_shell_that_keeps_torch_from_the_cores_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    note = "the teacher uses 1 of 2 CPU cores because OMP_NUM_THREADS=1 is set in the environment; unset it to use all"
    assert idle_cores_note(torch.device("cpu")) == note
    assert idle_cores_note(torch.device("cuda")) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert idle_cores_note(torch.device("cpu")) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert idle_cores_note(torch.device("cpu")) is None  # torch chose so itself
