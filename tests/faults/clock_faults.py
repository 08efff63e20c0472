"""A wall clock that jumps, for the processes of one run: the machine's own is left alone."""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from scene import PATIENCE, CannotPlayError, Ended, Outcome, Scene, receipts_of, told

JUMPS = {"a day forward": 86_400, "a year back": -365 * 86_400}


@functools.cache
def _shim(folder: Path) -> Path:
    """``clock_jump.c`` as a library."""
    compiler, library = shutil.which("cc"), folder / "clock_jump.so"
    if compiler is None or not sys.platform.startswith("linux"):
        raise CannotPlayError("shifting a clock needs Linux and a C compiler")
    source = Path(__file__).with_name("clock_jump.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def _shift(file: Path, seconds: int) -> None:
    """Write in place: a process that reads a mapped file while it is cut short gets SIGBUS."""
    with file.open("r+b" if file.exists() else "wb") as mapped:
        mapped.write(seconds.to_bytes(8, "little", signed=True))


def _with_a_jump(scene: Scene, chance: random.Random, **changes: object) -> Outcome:
    root, shift = scene.new_root(), scene.folder / "shift"
    _shift(shift, 0)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "LD_PRELOAD": str(_shim(scene.folder)),
        "CLOCK_JUMP": str(shift),
    }
    code = "from lookonce.commands.extract_features import main; main()"
    out, err = scene.folder / "jump.out", scene.folder / "jump.err"
    with out.open("w") as out_file, err.open("w") as err_file:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *scene.arguments(root, **changes)],
            env=environment,
            stdout=out_file,
            stderr=err_file,
        )
        seen = []
        for name, seconds in JUMPS.items():
            wanted = chance.randrange(1, scene.shards // 4) + (0 if seconds > 0 else scene.shards // 3)
            while process.poll() is None and (not root.is_dir() or len(receipts_of(root)) < wanted):
                time.sleep(0.01)
            _shift(shift, seconds)
            seen.append(f"{name} after {len(receipts_of(root))} of {scene.shards} shards")
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            seen.append("HUNG, killed")
    return scene.outcome(root, *seen, told(Ended(process.wait(), out.read_text(), err.read_text())))


def clock_jump(scene: Scene, chance: random.Random) -> Outcome:
    """inline: the wall clock of the run's processes jumps a day forward, later to a year back (LD_PRELOAD over
    clock_gettime, gettimeofday and time; the monotonic clock goes on)"""
    return _with_a_jump(scene, chance)


def clock_jump_ray(scene: Scene, chance: random.Random) -> Outcome:
    """Ray, 2 local workers: the same for the driver, the head and the workers"""
    return _with_a_jump(scene, chance, executor="ray", workers=2)
