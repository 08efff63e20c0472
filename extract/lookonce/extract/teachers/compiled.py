"""Whether a cache's teacher runs compiled: measured once where it may pay, and remembered by the cache's manifest.

A compiled forward rounds differently, so all shards of a cache are made the same way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Literal

import torch

from lookonce.extract.teachers.teacher import Teacher

CompileMode = Literal["auto", "always", "never"]

FORWARD = "teacher_forward"
"""Key of the choice among a manifest's and a receipt's versions; absent for an eager forward."""

COMPILED = "torch.compile"

WORTH_MEASURING = 50_000
"""Views below which ``auto`` does not measure: compiling takes about a minute."""

LEAST_GAIN = 1.05
"""Eager over compiled time from which ``auto`` takes the compiled forward."""

TIMED_FORWARDS = 10


def compiled_by(versions: Mapping[str, str]) -> bool:
    """Whether a manifest's ``created_with`` asks for the compiled forward."""
    return versions.get(FORWARD) == COMPILED


def choose_forward(teacher: Teacher, mode: CompileMode, *, batch_size: int, views: int) -> dict[str, str]:
    """Decide for a new cache.

    Args:
        teacher: on its device; left as it is.
        mode: ``auto`` measures on a GPU where there are many views, and is eager on CPUs.
        batch_size: views per forward pass.
        views: how many the cache will hold.

    Returns:
        What to add to the manifest's ``created_with``: nothing for an eager forward.
    """
    chosen = {FORWARD: COMPILED}
    if mode == "always":
        return chosen
    if mode == "never" or teacher.mean.device.type != "cuda" or views < WORTH_MEASURING:
        return {}
    print("measuring whether a compiled teacher is faster (skip this by --compile never)", file=sys.stderr, flush=True)
    eager = _seconds(teacher, batch_size)
    try:
        teacher.compile_forward()
        compiled = _seconds(teacher, batch_size)
    except Exception as error:  # no C compiler, an operator that the compiler lacks: the eager forward serves
        print(f"the teacher cannot be compiled here and runs eagerly: {error!s:.200}", file=sys.stderr, flush=True)
        return {}
    finally:
        teacher.run_eagerly()
    gain = eager / compiled
    taken = gain >= LEAST_GAIN
    print(
        f"the compiled teacher runs at {gain:.2f} times the eager one's rate; this cache is made with the "
        f"{'compiled' if taken else 'eager'} one",
        file=sys.stderr,
        flush=True,
    )
    return chosen if taken else {}


@torch.inference_mode()
def _seconds(teacher: Teacher, batch_size: int) -> float:
    """Of one forward pass, compilation not counted."""
    size, device = teacher.view_size, teacher.mean.device
    views = torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8, device=device)
    for _ in range(2):
        teacher(views)
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(TIMED_FORWARDS):
        teacher(views)
    torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / TIMED_FORWARDS
