"""A loss curve of 50 steps, committed: it stays as it is until a change says otherwise.

Losses are compared to 1e-5 relative, not to the last bit: matrix products add up in another order on other processors
and in other versions of the linear algebra library, and 50 steps carry such rounding (about 1e-7 a step) along.
Bit-exactness on one machine is what test_training_resume.py shows.

Write the file anew: LOOKONCE_WRITE_GOLDEN=1 pytest tests/golden/test_loss_curve_golden.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_curve import CACHE, CURVE, fixed_numbers, golden_config, golden_losses, losses_of


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_fifty_steps_of_loss(training_cache: Callable[..., Path], tmp_path: Path, one_thread: None) -> None:
    cache = training_cache(**CACHE, make_arrays=fixed_numbers)
    found = losses_of(golden_config(cache, tmp_path / "run"))
    if os.environ.get("LOOKONCE_WRITE_GOLDEN"):
        CURVE.write_text(json.dumps({"loss": found}, indent=1) + "\n")
    expected = golden_losses()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected[-1] < 0.7 * expected[0]
