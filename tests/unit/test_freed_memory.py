"""What commands do with memory that they free."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from lookonce.shared.freed_memory import keep_freed_memory
print(keep_freed_memory(sys.argv[1]))
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(40 << 20, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def run(device: str, **environment: str) -> tuple[bool, int]:
    """Whether the setting was made, and page faults of 20 arrays of 40 MB (10,240 pages) after the first ones."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, device],
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    made, faults = ran.stdout.split()
    return made == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_a_process_that_computes_on_cpus_keeps_what_it_frees() -> None:
    made, faults = run("cpu")
    if not made:
        pytest.skip("the C library is not glibc")
    gave_back, other = run("cuda")
    assert not gave_back
    assert faults < 1000
    assert other > 10 * faults or other > 100_000


def test_the_environment_decides_first() -> None:
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"):
        made, _ = run("cpu", **{name: ""})
        assert not made
