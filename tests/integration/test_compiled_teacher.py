"""``extract-features --compile``: chosen once, remembered by the cache, told by every receipt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from lookonce.cache.read.reader import CacheReader
from lookonce.extract.teachers import Teacher
from lookonce.extract.teachers.compiled import COMPILED, FORWARD, MIN_VIEWS_TO_MEASURE, choose_forward


def test_on_a_cpu_only_always_compiles() -> None:
    teacher = cast("Teacher", SimpleNamespace(mean=torch.zeros(1)))
    chosen = {
        mode: choose_forward(teacher, cast("Any", mode), batch_size=2, views=MIN_VIEWS_TO_MEASURE)
        for mode in ("auto", "never", "always")
    }
    assert chosen == {"auto": {}, "never": {}, "always": {FORWARD: COMPILED}}


@pytest.mark.slow
def test_a_cache_stays_with_the_forward_that_it_began_with(
    tmp_path: Path, extract_tiny: Callable[..., Any], whole_cache: Path
) -> None:
    root = tmp_path / "compiled"
    assert extract_tiny(root, compile="always", precision="fp16").code == 0
    (removed := root / "receipts" / "seed-0001" / "shard-00003.json").unlink()
    assert extract_tiny(root, precision="fp16").code == 0  # resumed without saying so again
    assert json.loads(removed.read_text())["versions"][FORWARD] == COMPILED
    eager = CacheReader(whole_cache)
    assert FORWARD not in eager.manifest.created_with
    compiled = CacheReader(root)
    features = [
        reader.decode(reader.read("targets", [1] * 24, range(24))).astype(np.float64) for reader in (compiled, eager)
    ]
    error = np.linalg.norm(features[0] - features[1]) / np.linalg.norm(features[1])
    assert error < 0.02  # int8's own error is 0.01
