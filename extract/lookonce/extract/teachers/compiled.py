"""Whether the teacher of a cache runs compiled: measured once if it may pay, and stored in the manifest.

A compiled forward pass rounds differently, so all shards of a cache use the same choice.
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
"""Key of the choice among the versions of a manifest or receipt; absent for an eager forward pass."""

COMPILED = "torch.compile"

MIN_VIEWS_TO_MEASURE = 50_000
"""Fewest views for which ``auto`` measures; compiling takes about a minute."""

MIN_SPEEDUP = 1.05
"""Smallest ratio of eager to compiled time for which ``auto`` compiles."""

TIMED_FORWARDS = 10


def is_compiled(versions: Mapping[str, str]) -> bool:
    """Whether the ``created_with`` of a manifest names the compiled forward pass."""
    return versions.get(FORWARD) == COMPILED


def choose_forward(teacher: Teacher, mode: CompileMode, *, batch_size: int, views: int) -> dict[str, str]:
    """Choose the compiled or the eager forward pass for a new cache.

    Args:
        teacher: on its device; not changed.
        mode: ``auto`` measures on a GPU if there are many views, and chooses eager on CPUs.
        batch_size: views per forward pass.
        views: number of views of the cache.

    Returns:
        Entries for the manifest's ``created_with``; empty for the eager forward pass.
    """
    chosen = {FORWARD: COMPILED}
    if mode == "always":
        return chosen
    if mode == "never" or teacher.mean.device.type != "cuda" or views < MIN_VIEWS_TO_MEASURE:
        return {}
    print("measuring whether a compiled teacher is faster (skip this by --compile never)", file=sys.stderr, flush=True)
    eager = _seconds(teacher, batch_size)
    try:
        teacher.compile_forward()
        compiled = _seconds(teacher, batch_size)
    except Exception as error:  # for example no C compiler, or an unsupported operator
        print(f"the teacher cannot be compiled here and runs eagerly: {error!s:.200}", file=sys.stderr, flush=True)
        return {}
    finally:
        teacher.run_eagerly()
    gain = eager / compiled
    compile_pays = gain >= MIN_SPEEDUP
    print(
        f"the compiled teacher runs at {gain:.2f} times the rate of the eager one; this cache uses the "
        f"{'compiled' if compile_pays else 'eager'} one",
        file=sys.stderr,
        flush=True,
    )
    return chosen if compile_pays else {}


@torch.inference_mode()
def _seconds(teacher: Teacher, batch_size: int) -> float:
    """Seconds of one forward pass, without compilation."""
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
