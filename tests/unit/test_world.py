"""What processes exchange, seen from one of them; whole runs of several are in ``test_distributed``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

from lookonce.shared.errors import UsageError
from lookonce.train.distributed.world import World, joined_world
from lookonce.train.loop.diagnosis import FirstBadLoss


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_sum_lies_where_its_parts_do(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """A logged step's losses are sums, those of steps between are not: both are looked at for the first bad one."""
    met: list[str] = []

    def all_reduce(values: Tensor, group: object = None) -> None:
        met.append(values.device.type)
        values.mul_(2)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    with FakeTensorMode():  # refuses to mix devices as torch does, on any machine
        parts = torch.ones(3, device=device)
        whole = World(size=2).sum(parts)
        bad = FirstBadLoss()
        bad.record(0, whole.sum(), whole)
        bad.record(1, parts.sum(), parts)
    assert met == ["cpu"]
    assert whole.device == parts.device


def test_a_sum_leaves_its_parts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "all_reduce", lambda values, group: values.mul_(2))
    parts = torch.ones(3)
    assert World(size=2).sum(parts).tolist() == [2, 2, 2]
    assert parts.tolist() == [1, 1, 1]


def test_a_launcher_that_says_half_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
        with pytest.raises(UsageError, match="start them with torchrun"), joined_world(cuda=False):
            pass
        monkeypatch.setenv(name, "0")


@pytest.mark.parametrize(
    ("size", "said"), [("x", "WORLD_SIZE=x in the environment: expected an integer"), ("0", "at least 1")]
)
def test_a_world_of_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, size: str, said: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UsageError, match=said), joined_world(cuda=False):
        pass


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    said = r"process 2 .* no GPU of its own, torch finds 2.*nproc-per-node=2"
    with pytest.raises(UsageError, match=said), joined_world(cuda=True):
        pass
