"""The step as ``--compile`` sees it: one graph, compiled again for the last, smaller batch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from lookonce.train.config import TrainingConfig
from lookonce.train.setup import set_up

pytestmark = pytest.mark.filterwarnings("default")  # torch's compiler warns of its own deprecations


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="default"),
        pytest.param(
            {"target_norm": "bn", "adapter": "mlp2", "mix_order": "mix-then-adapt", "precision": "bf16"},
            id="bn-bf16",
            marks=pytest.mark.slow,
        ),
        pytest.param({"activation_checkpointing": True, "drop_path": 0.0}, id="checkpointing", marks=pytest.mark.slow),
    ],
)
def test_the_step_is_one_graph(training_cache: Callable[..., Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = {
        "student": "test_vit",
        "layer_weights": "top2",
        "batch_size": 4,
        "epochs": 2,
        "device": "cpu",
        **changes,
    }
    setup = set_up(TrainingConfig(shards=(training_cache(),), out=tmp_path, **settings))
    assert len(setup.input.order.step(setup.input.order.total_steps - 1).rows) == 2  # 22 samples, 4 a step
    counter = CompileCounter()  # compiles nothing: counts the graphs that the compiler would be given
    step = torch.compile(setup.model.train(), fullgraph=True, backend=counter)
    for number in range(setup.input.order.total_steps):
        batch = setup.input.batches.batch(setup.input.order.step(number))
        found = step(batch).loss
        found.backward()
        assert torch.equal(found, setup.model(batch).loss)
    assert counter.frame_count == 2
